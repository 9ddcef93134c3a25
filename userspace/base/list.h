// SPDX-License-Identifier: Apache-2.0
// An intrusive, circular, doubly linked list. The head and every node are `struct list`; a node that is in no
// list points to itself after list_init, so that list_del is always safe. No ownership, no locking.
#pragma once

#include <stdbool.h>

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *list)
{
	list->next = list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
	return list->next == list;
}

static inline void _list_insert(struct list *before, struct list *node, struct list *after)
{
	node->prev = before;
	node->next = after;
	before->next = after->prev = node;
}

// Behind the last node (`head` is the list's head), or in front of the first.
static inline void list_append(struct list *head, struct list *node)
{
	_list_insert(head->prev, node, head);
}

static inline void list_prepend(struct list *head, struct list *node)
{
	_list_insert(head, node, head->next);
}

// Takes the node out and leaves it pointing to itself.
static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

// Moves all of `from` to the end of `to`; `from` is empty then.
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_for_each(node, head) for (struct list *node = (head)->next; node != (head); node = node->next)
// The loop body may take out `node` (and no other).
#define list_for_each_safe(node, head)                                                                       \
	for (struct list *node = (head)->next, *_next = node->next; node != (head);                          \
	     node = _next, _next = node->next)
