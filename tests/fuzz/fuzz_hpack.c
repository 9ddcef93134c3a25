// SPDX-License-Identifier: Apache-2.0
// Any bytes as field blocks of one connection, each behind its length in two bytes. What a block says is
// written again and must be read as the same; a length above 32767 is what the peer's table may hold from
// then on instead.
#include "check.h"

#include "base/cursor.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"

enum { FIELDS = 256, KEEP = 16 * 1024, MOST = 64 * 1024 };

static struct field read[FIELDS], again[FIELDS];
static uint64_t entries;

static int decode(struct hpack_decoder *decoder, struct str block, struct arena *arena, struct field *fields,
		  struct hpack_list *ret_list)
{
	char *copy = exact_copy(block.p, block.len);
	*ret_list =
	    (struct hpack_list){.arena = arena, .fields = fields, .room = FIELDS, .keep = KEEP, .most = MOST};
	int err = hpack_decode(decoder, (struct str){copy, block.len}, ret_list);
	free(copy);
	return err;
}

static void check_fields(const struct hpack_list *list)
{
	CHECK(list->count <= FIELDS && list->bytes <= MOST);
	for (size_t i = 0; i < list->count; i++) {
		const struct field *field = &list->fields[i];
		CHECK(field->known == field_name_find(field->name));
		CHECK(field->checked == http2_field_is_clean(field));
	}
}

static void check_same(const struct hpack_list *a, const struct hpack_list *b)
{
	CHECK(a->count == b->count);
	for (size_t i = 0; i < a->count; i++) {
		CHECK(str_eq(a->fields[i].name, b->fields[i].name));
		CHECK(str_eq(a->fields[i].value, b->fields[i].value));
		CHECK(a->fields[i].checked == b->fields[i].checked);
		CHECK(!a->fields[i].never_indexed || b->fields[i].never_indexed);
	}
}

static void write_again(struct hpack_encoder *encoder, struct hpack_decoder *reader,
			const struct hpack_list *list)
{
	struct arena arena = {0};
	struct hpack_list second;
	struct writer w;
	size_t room = hpack_encode_bound(list->fields, list->count);
	char *block = malloc(room);
	CHECK(block);
	writer_init(&w, block, room);
	hpack_encode(encoder, list->fields, list->count, &w);
	CHECK(!w.err);
	CHECK(decode(reader, (struct str){block, w.len}, &arena, again, &second) == 0);
	CHECK(!second.overflow);
	check_same(list, &second);
	arena_done(&arena);
	free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hpack_decoder *decoder = hpack_decoder_new(&entries), *reader = hpack_decoder_new(&entries);
	struct hpack_encoder *encoder = hpack_encoder_new();
	struct reader r;
	int err = 0;
	CHECK(decoder && reader && encoder);
	reader_init(&r, data, size);
	while (reader_remaining(&r) >= 2 && !err) {
		struct arena arena = {0};
		struct hpack_list list;
		uint16_t len = reader_u16(&r);
		if (len & 0x8000) {
			hpack_encoder_limit(encoder, len & 0x7fff);
			continue;
		}
		struct str block = reader_bytes(&r, MIN((size_t)len, reader_remaining(&r)));
		err = decode(decoder, block, &arena, read, &list);
		CHECK(!err || err == ERR_MALFORMED || err == ERR_LIMIT);
		if (!err) {
			check_fields(&list);
			write_again(encoder, reader, &list);
		}
		arena_done(&arena);
	}
	hpack_decoder_free(decoder);
	hpack_decoder_free(reader);
	hpack_encoder_free(encoder);
	return 0;
}
