// SPDX-License-Identifier: Apache-2.0
// The tables of HPACK (RFC 7541 2.3). The static one is constant. The dynamic one is a queue: the reader of a
// connection and its writer have one each. Texts lie in one ring, so that an entry costs no allocation, and
// an index is found by counting. Who refers to the ring (chunk_ref) keeps the texts that are in it then: from
// there on the table writes to fresh bytes only, and takes another ring when there are none. Internal to
// codecs/. One thread a table.
#pragma once

#include "base/buf.h"
#include "codecs/head.h"

enum {
	HPACK_TABLE_MAX = 4096, // bytes as RFC 7541 4.1 counts them: what HTTP/2 begins with
	HPACK_OVERHEAD = 32,	// of each entry
	HPACK_ENTRIES = HPACK_TABLE_MAX / HPACK_OVERHEAD,
	HPACK_STATIC = 61,
};

// How a field, or a change of the table's size, begins (RFC 7541 6): above the bits of an integer.
enum {
	HPACK_INDEXED = 0x80,	  // an index of seven bits
	HPACK_INSERTED = 0x40,	  // of six, then a literal
	HPACK_RESIZED = 0x20,	  // a size of five
	HPACK_NEVER = 0x10,	  // an index of four, then a literal, as without this bit
	HPACK_INDEXED_MAX = 0x7f, // those bits
	HPACK_INSERTED_MAX = 0x3f,
	HPACK_RESIZED_MAX = 0x1f,
	HPACK_LITERAL_MAX = 0x0f,
	HPACK_TEXT_MAX = 0x7f, // of a text's length, below the bit that says it is in Huffman's code
	HPACK_HUFFMAN = 0x80,
};

// --- static -------------------------------------------------------------------------------------------------
// From 1 to HPACK_STATIC; behind them is a field without a name.
extern const struct field hpack_static[HPACK_STATIC + 2];
// Where a name stands first; 0: nowhere. The entries behind it with the same name follow.
extern const uint8_t hpack_static_names[FIELD_NAME_COUNT];

// --- dynamic ------------------------------------------------------------------------------------------------
struct hpack_table {
	uint64_t added; // entries ever; the n-th of them, from 0, is entries[n % HPACK_ENTRIES]
	uint32_t count, size, limit;
	uint32_t end;	     // of the text that was added last
	struct chunk *texts; // in which the bytes behind `used` are fresh
	struct field entries[HPACK_ENTRIES];
};

// 0 or -ENOMEM.
int hpack_table_init(struct hpack_table *table);
void hpack_table_done(struct hpack_table *table);
// Entries go until the others fit. `limit` is HPACK_TABLE_MAX at most.
void hpack_table_limit(struct hpack_table *table, uint32_t limit);
// Texts may lie in the table itself only where somebody else refers to its ring. 0; ERR_LIMIT: it is larger
// than the table, which is empty now; or -ENOMEM.
int hpack_table_add(struct hpack_table *table, const struct field *field);

// The one that was added `age` entries ago, from 1 to table->count. Its texts lie in table->texts, but a name
// that is known.
static inline const struct field *hpack_table_get(const struct hpack_table *table, uint32_t age)
{
	return &table->entries[(table->added - age) % HPACK_ENTRIES];
}
