// SPDX-License-Identifier: Apache-2.0
// Any bytes as field blocks of two connections, each behind two bytes that say how long it is, whose it is,
// and in which of a few places its fields stay: until so many more have come there, or all decoders have
// gone. Till then they must not change. What a block says is written again, at once or in the end, and must
// be read as the same; or those two bytes are how much the table of who reads that may hold from then on.
#include "check.h"

#include "base/cursor.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"

enum { FIELDS = 256, KEEP = 16 * 1024, MOST = 64 * 1024 };
enum { CONNECTIONS = 2, PLACES = 4, BLOCKS = 2 }; // of each place at a time
enum { LENGTH = 0x0fff, LATE = 0x1000, CONNECTION = 0x4000, LIMIT = 0x8000 };

struct place {
	struct arena arena;
	struct hpack_list lists[BLOCKS];
	struct field fields[BLOCKS][FIELDS];
	uint64_t sums[BLOCKS];
	unsigned count;
	bool late; // is written again in the end
};

static struct place places[PLACES];
static struct field again[FIELDS];
static uint64_t entries;

// What is written again, and who reads it.
static struct hpack_encoder *encoder;
static struct hpack_decoder *reader;

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
		bool known = field->known > FIELD_OTHER;
		CHECK(field->known == field_name_find(field->name));
		CHECK(field->clean_name == (known || http2_name_is_clean(field->name)));
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

static void write_again(const struct hpack_list *list)
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

static uint64_t add_up(uint64_t sum, struct str text)
{
	for (size_t i = 0; i < text.len; i++)
		sum = (sum ^ (uint8_t)text.p[i]) * 0x100000001b3;
	return sum * 31 + text.len;
}

static uint64_t sum_of(const struct hpack_list *list)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < list->count; i++)
		sum = add_up(add_up(sum, list->fields[i].name), list->fields[i].value);
	return sum;
}

// Its fields are no longer wanted.
static void leave(struct place *place)
{
	for (unsigned i = 0; i < place->count; i++) {
		CHECK(sum_of(&place->lists[i]) == place->sums[i]);
		if (place->late)
			write_again(&place->lists[i]);
	}
	arena_done(&place->arena);
	place->count = 0;
}

static int take(struct hpack_decoder *decoder, struct str block, struct place *place)
{
	if (place->count == BLOCKS)
		leave(place);
	struct hpack_list *list = &place->lists[place->count];
	int err = decode(decoder, block, &place->arena, place->fields[place->count], list);
	CHECK(!err || err == ERR_MALFORMED || err == ERR_LIMIT);
	if (err)
		return err;
	check_fields(list);
	place->sums[place->count++] = sum_of(list);
	if (!place->late)
		write_again(list);
	return 0;
}

static void talk(struct hpack_decoder **decoders, struct reader r)
{
	int err = 0;
	while (reader_remaining(&r) >= 2 && !err) {
		uint16_t says = reader_u16(&r);
		if (says & LIMIT) {
			hpack_encoder_limit(encoder, says & ~LIMIT);
			continue;
		}
		size_t len = MIN((size_t)(says & LENGTH), reader_remaining(&r));
		err = take(decoders[says & CONNECTION ? 1 : 0], reader_bytes(&r, len),
			   &places[says / LATE % PLACES]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hpack_decoder *decoders[CONNECTIONS];
	struct reader r;
	encoder = hpack_encoder_new();
	reader = hpack_decoder_new(&entries);
	CHECK(encoder && reader);
	for (int i = 0; i < CONNECTIONS; i++)
		CHECK((decoders[i] = hpack_decoder_new(&entries)));
	for (int i = 0; i < PLACES; i++)
		places[i].late = i & 1;
	reader_init(&r, data, size);
	talk(decoders, r);
	for (int i = 0; i < CONNECTIONS; i++)
		hpack_decoder_free(decoders[i]);
	for (int i = 0; i < PLACES; i++)
		leave(&places[i]);
	hpack_decoder_free(reader);
	hpack_encoder_free(encoder);
	return 0;
}
