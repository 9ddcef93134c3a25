// SPDX-License-Identifier: Apache-2.0
// A hash table of objects that embed a `struct dns_link`: chains, growing, never shrinking. It owns its
// buckets, not the objects. The caller compares keys: walk from dns_table_first with dns_table_next. One
// thread, or many that only read.
#pragma once

#include "base/mem.h"

#include <stdint.h>

struct dns_link {
	struct dns_link *_next;
	uint64_t hash;
};

// Zero-initialise.
struct dns_table {
	struct dns_link **_buckets;
	size_t _mask, count;
};

static inline struct dns_link *_dns_link_match(struct dns_link *link, uint64_t hash)
{
	while (link && link->hash != hash)
		link = link->_next;
	return link;
}

// The objects with that hash, one after the other; NULL at the end.
static inline struct dns_link *dns_table_first(const struct dns_table *table, uint64_t hash)
{
	return table->_buckets ? _dns_link_match(table->_buckets[hash & table->_mask], hash) : NULL;
}
static inline struct dns_link *dns_table_next(const struct dns_link *link)
{
	return _dns_link_match(link->_next, link->hash);
}

// 0 or -ENOMEM: only the first insertion can fail; later, chains grow longer instead.
int dns_table_insert(struct dns_table *table, struct dns_link *link, uint64_t hash);
void dns_table_remove(struct dns_table *table, struct dns_link *link);
// Calls fn for every object, in no order. fn may not insert or remove.
void dns_table_each(const struct dns_table *table, void (*fn)(struct dns_link *link, void *arg), void *arg);
// Takes every object out, calling fn for each, which may free it.
void dns_table_clear(struct dns_table *table, void (*fn)(struct dns_link *link, void *arg), void *arg);
// The objects are forgotten.
void dns_table_done(struct dns_table *table);
