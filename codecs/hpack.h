// SPDX-License-Identifier: Apache-2.0
// HPACK (RFC 7541): the field blocks of HTTP/2, read and written. A connection has one decoder and one
// encoder; both have all their memory from the beginning, so that nothing can fail half-way but a block that
// is wrong. What fields mean is not looked at here (codecs/http2.h), but each text is looked through once,
// when it comes: what comes again by its index is known to be right (field.checked), and names that are known
// here carry their number (field.known). A field that was read from an entry of a table has the number of
// that entry, which no other ever has (field.origin): with it an encoder finds its own entry without looking
// at texts. So nobody changes a field, but makes another one. One thread for those whose fields meet.
#pragma once

#include "base/cursor.h"
#include "codecs/head.h"

struct arena;
struct hpack_decoder;
struct hpack_encoder;

// --- reading ------------------------------------------------------------------------------------------------
// What a block is read into. Texts are copied to the arena, but for those that are constant and those of
// entries, whose memory it holds.
struct hpack_list {
	struct arena *arena; // NULL: nothing is kept
	struct field *fields;
	size_t room;   // fields that are kept at most, 1 at least
	size_t keep;   // bytes of fields, as RFC 9113 6.5.2 counts them, that are kept at most
	size_t most;   // and that are read at most
	size_t count;  // fields kept
	size_t bytes;  // read so far
	bool overflow; // there were more than are kept
	// Told of each field that is not kept, valid during the call; NULL: nobody asks.
	void (*dropped)(struct hpack_list *list, const struct field *field);
};

// `entries` counts the entries of all decoders whose fields may come to one encoder; it outlives them. NULL
// when out of memory.
struct hpack_decoder *hpack_decoder_new(uint64_t *entries);
void hpack_decoder_free(struct hpack_decoder *decoder); // NULL is fine
// Reads a block that is whole. The peer's table follows even where fields are not kept. 0; ERR_MALFORMED: it
// is wrong; ERR_LIMIT: more than list->most; or -ENOMEM. After an error the decoder is good for nothing more.
int hpack_decode(struct hpack_decoder *decoder, struct str block, struct hpack_list *list);

// --- writing ------------------------------------------------------------------------------------------------
struct hpack_encoder *hpack_encoder_new(void);
void hpack_encoder_free(struct hpack_encoder *encoder); // NULL is fine
// What the peer's SETTINGS_HEADER_TABLE_SIZE says; the next block tells it what is made of that (RFC
// 7541 4.2).
void hpack_encoder_limit(struct hpack_encoder *encoder, uint32_t size);
// Room that a block takes at most.
size_t hpack_encode_bound(const struct field *fields, size_t count);
// Writes a block; `w` has room for it. Fields that are never_indexed, and those that hold secrets whoever
// wrote them (Authorization, Proxy-Authorization, short Cookies), go into no table.
void hpack_encode(struct hpack_encoder *encoder, const struct field *fields, size_t count, struct writer *w);
