// SPDX-License-Identifier: Apache-2.0
// A hash table from 64-bit hashes to pointers: open addressing, built once or growing, no deletion. The
// caller compares keys: equal hashes may belong to different ones. One thread while it changes.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct table_slot {
	uint64_t hash;
	void *value; // NULL: free
};

// Zero-initialise.
struct table {
	struct table_slot *_slots;
	size_t _capacity, count;
};

// `value` is not NULL. Entries with equal hashes may be added; they are found in the order of adding. 0 or
// -ENOMEM.
int table_add(struct table *table, uint64_t hash, void *value);
// The first entry with that hash; the next one if *cursor is what the last call left there. Start with
// *cursor 0. NULL: none (any more).
void *table_find(const struct table *table, uint64_t hash, size_t *cursor);
void table_done(struct table *table);
