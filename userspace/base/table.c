// SPDX-License-Identifier: Apache-2.0
#include "base/table.h"

#include "base/mem.h"

#include <errno.h>

static void table_put(struct table *table, uint64_t hash, void *value)
{
	size_t mask = table->_capacity - 1, at = hash & mask;
	while (table->_slots[at].value)
		at = (at + 1) & mask;
	table->_slots[at] = (struct table_slot){hash, value};
}

// Always at least half empty. Growing keeps the order of entries with equal hashes: runs are walked from a
// free slot on.
static int table_grow(struct table *table)
{
	struct table bigger = {._capacity = table->_capacity ? table->_capacity * 2 : 16,
			       .count = table->count};
	bigger._slots = mem_array(bigger._capacity, sizeof *bigger._slots);
	if (!bigger._slots)
		return -ENOMEM;
	size_t start = 0;
	while (start < table->_capacity && table->_slots[start].value)
		start++;
	for (size_t i = 0; i < table->_capacity; i++) {
		struct table_slot *slot = &table->_slots[(start + i) & (table->_capacity - 1)];
		if (slot->value)
			table_put(&bigger, slot->hash, slot->value);
	}
	mem_free(table->_slots);
	*table = bigger;
	return 0;
}

int table_add(struct table *table, uint64_t hash, void *value)
{
	if (table->count * 2 >= table->_capacity && table_grow(table))
		return -ENOMEM;
	table_put(table, hash, value);
	table->count++;
	return 0;
}

void *table_find(const struct table *table, uint64_t hash, size_t *cursor)
{
	size_t mask = table->_capacity - 1;
	if (!table->_capacity)
		return NULL;
	for (; *cursor < table->_capacity; (*cursor)++) {
		const struct table_slot *slot = &table->_slots[(hash + *cursor) & mask];
		if (!slot->value)
			return NULL;
		if (slot->hash == hash) {
			(*cursor)++;
			return slot->value;
		}
	}
	return NULL;
}

void table_done(struct table *table)
{
	mem_free(table->_slots);
	*table = (struct table){0};
}
