// SPDX-License-Identifier: Apache-2.0
#include "codecs/hpack.h"

#include "base/mem.h"
#include "base/pool.h"
#include "codecs/hpack_table.h"
#include "codecs/http2.h"
#include "codecs/huffman.h"

#include <errno.h>

enum {
	INTEGER_BYTES = 4,
	SORT = HPACK_INDEXED | HPACK_INSERTED | HPACK_RESIZED,
	RESIZES = 2, // RFC 7541 4.2: the smallest and the last
	PATH_CODE = 64,
	PATH_TEXT = PATH_CODE * 8 / 5, // the shortest codes have five bits
};

// The last :path in Huffman's code. Many clients (curl, Node) keep paths out of the table, and so say the
// same one with every request.
struct last_path {
	uint8_t code_len, text_len;
	bool checked; // as in struct field
	char code[PATH_CODE], text[PATH_TEXT];
};

struct hpack_decoder {
	uint64_t *entries;
	struct last_path path;
	struct hpack_table table;
};

// A block under way.
struct decoding {
	struct hpack_table *table;
	struct last_path *path;
	uint64_t *entries;
	struct hpack_list *list;
	struct arena *arena; // where texts are put
	struct arena spare;  // that of fields which are not kept
	struct chunk *held;  // the ring of the table that texts may be left in; NULL: there is none
	struct field *at;    // where the next field is read to
	size_t keep;	     // as list->keep, until nothing is kept any more
	unsigned resizes;
	struct reader r;
	struct field nowhere;
};

struct hpack_decoder *hpack_decoder_new(uint64_t *entries)
{
	struct hpack_decoder *decoder = mem_alloc(sizeof *decoder);
	if (!decoder)
		return NULL;
	decoder->entries = entries;
	decoder->path.code_len = decoder->path.text_len = 0;
	decoder->path.checked = false;
	if (hpack_table_init(&decoder->table)) {
		mem_free(decoder);
		return NULL;
	}
	return decoder;
}

void hpack_decoder_free(struct hpack_decoder *decoder)
{
	if (decoder)
		hpack_table_done(&decoder->table);
	mem_free(decoder);
}

// --- parts --------------------------------------------------------------------------------------------------
// What of an integer its prefix does not hold.
static uint32_t read_rest(struct reader *r, uint32_t value)
{
	for (unsigned i = 0; i < INTEGER_BYTES; i++) {
		uint8_t next = reader_u8(r);
		value += (uint32_t)(next & 0x7f) << 7 * i;
		if (!(next & 0x80))
			return value;
	}
	reader_fail(r, ERR_MALFORMED);
	return 0;
}

// RFC 7541 5.1; `most` are the bits of the prefix that `first` has it in.
static inline uint32_t read_integer(struct reader *r, uint8_t first, uint8_t most)
{
	uint32_t value = first & most;
	return likely(value < most) ? value : read_rest(r, value);
}

static struct str copy(struct decoding *now, struct str text)
{
	const char *kept = arena_strdup(now->arena, text.p, text.len);
	if (!kept)
		reader_fail(&now->r, -ENOMEM);
	return (struct str){kept, kept ? text.len : 0};
}

static struct str unfold(struct decoding *now, struct str code)
{
	size_t room;
	char *text = arena_peek(now->arena, huffman_room(code.len) + 1, &room);
	if (!text) {
		reader_fail(&now->r, -ENOMEM);
		return STR("");
	}
	ptrdiff_t len = huffman_decode(code, text);
	if (len < 0) {
		reader_fail(&now->r, ERR_MALFORMED);
		return STR("");
	}
	text[len] = 0;
	arena_alloc(now->arena, (size_t)len + 1);
	return (struct str){text, (size_t)len};
}

static struct str read_bytes(struct decoding *now, bool *ret_folded)
{
	uint8_t first = reader_u8(&now->r);
	uint32_t len = read_integer(&now->r, first, HPACK_TEXT_MAX);
	*ret_folded = first & HPACK_HUFFMAN;
	return reader_bytes(&now->r, len);
}

static struct str read_text(struct decoding *now)
{
	bool folded;
	struct str text = read_bytes(now, &folded);
	if (now->r.err)
		return STR("");
	return folded ? unfold(now, text) : copy(now, text);
}

// --- fields -------------------------------------------------------------------------------------------------
static const struct field *find_entry(struct decoding *now, uint32_t index)
{
	if (index > HPACK_STATIC && index - HPACK_STATIC <= now->table->count)
		return hpack_table_get(now->table, index - HPACK_STATIC);
	reader_fail(&now->r, ERR_MALFORMED);
	return NULL;
}

// Whether the texts of entries stay as long as the block's fields, so that they need not be copied.
static inline bool is_held(const struct decoding *now)
{
	return likely(now->held == now->table->texts);
}

static void read_indexed(struct decoding *now, uint32_t index, struct field *ret_field)
{
	if (index && index <= HPACK_STATIC) {
		*ret_field = hpack_static[index];
		return;
	}
	const struct field *entry = find_entry(now, index);
	if (!entry)
		return;
	*ret_field = *entry;
	if (is_held(now))
		return;
	if (entry->known <= FIELD_OTHER)
		ret_field->name = copy(now, entry->name);
	ret_field->value = copy(now, entry->value);
}

static void read_new_name(struct decoding *now, struct field *field)
{
	field->name = read_text(now);
	field->known = (uint8_t)field_name_find(field->name);
	if (field->known > FIELD_OTHER)
		field->name = field_names[field->known];
	field->clean_name = field->known > FIELD_OTHER || http2_name_is_clean(field->name);
}

static void read_old_name(struct decoding *now, const struct field *entry, struct field *field)
{
	field->name = entry->known > FIELD_OTHER || is_held(now) ? entry->name : copy(now, entry->name);
	field->known = entry->known;
	field->clean_name = entry->clean_name;
}

static void read_name(struct decoding *now, uint32_t index, struct field *field)
{
	if (!index) {
		read_new_name(now, field);
	} else if (index <= HPACK_STATIC) {
		field->name = hpack_static[index].name;
		field->known = hpack_static[index].known;
		field->clean_name = true;
	} else {
		const struct field *entry = find_entry(now, index);
		if (entry)
			read_old_name(now, entry, field);
	}
}

// What comes with its text has no origin yet: the entry that is made of it has.
static void insert(struct decoding *now, const struct field *read)
{
	struct field field = *read;
	field.origin = HPACK_STATIC + ++*now->entries;
	if (hpack_table_add(now->table, &field) == -ENOMEM)
		reader_fail(&now->r, -ENOMEM);
}

static void remember(struct last_path *last, struct str code, const struct field *path)
{
	memcpy(last->code, code.p, code.len);
	memcpy(last->text, path->value.p, path->value.len);
	last->code_len = (uint8_t)code.len;
	last->text_len = (uint8_t)path->value.len;
	last->checked = path->checked;
}

static void read_path(struct decoding *now, struct field *field)
{
	struct last_path *last = now->path;
	bool folded;
	struct str text = read_bytes(now, &folded);
	if (now->r.err)
		return;
	bool remembers = folded && text.len && text.len <= PATH_CODE;
	if (remembers && str_eq(text, (struct str){last->code, last->code_len})) {
		field->value = copy(now, (struct str){last->text, last->text_len});
		field->checked = last->checked;
		return;
	}
	field->value = folded ? unfold(now, text) : copy(now, text);
	if (now->r.err)
		return;
	field->checked = http2_field_is_clean(field);
	if (remembers)
		remember(last, text, field);
}

static void read_value(struct decoding *now, struct field *field)
{
	field->value = read_text(now);
	if (!now->r.err)
		field->checked = field->clean_name && http2_value_is_clean(field->value);
}

static void read_literal(struct decoding *now, uint8_t first, struct field *ret_field)
{
	uint8_t prefix = first & HPACK_INSERTED ? HPACK_INSERTED_MAX : HPACK_LITERAL_MAX;
	uint32_t index = read_integer(&now->r, first, prefix);
	struct field field = {.never_indexed = !(first & HPACK_INSERTED) && first & HPACK_NEVER};
	read_name(now, index, &field);
	if (field.known == FIELD_PATH)
		read_path(now, &field);
	else
		read_value(now, &field);
	if (now->r.err)
		return;
	if (first & HPACK_INSERTED)
		insert(now, &field);
	*ret_field = field;
}

// --- blocks -------------------------------------------------------------------------------------------------
// RFC 7541 4.2, 6.3: in front of the fields only.
static void read_resize(struct decoding *now, uint8_t first)
{
	uint32_t size = read_integer(&now->r, first, HPACK_RESIZED_MAX);
	if (size > HPACK_TABLE_MAX || now->list->bytes || ++now->resizes > RESIZES)
		reader_fail(&now->r, ERR_MALFORMED);
	if (!now->r.err)
		hpack_table_limit(now->table, size);
}

// No field is kept any more; the next one shows that there was one too many.
static void stop_keeping(struct decoding *now)
{
	now->at = &now->nowhere;
	now->keep = 0;
}

static void drop_others(struct decoding *now)
{
	stop_keeping(now);
	now->list->overflow = true;
	now->arena = &now->spare;
}

static void drop(struct decoding *now)
{
	struct hpack_list *list = now->list;
	if (list->dropped)
		list->dropped(list, now->at);
	drop_others(now);
	if (list->bytes > list->most)
		reader_fail(&now->r, ERR_LIMIT);
}

static void take(struct decoding *now)
{
	struct hpack_list *list = now->list;
	list->bytes += now->at->name.len + now->at->value.len + HPACK_OVERHEAD;
	if (unlikely(list->bytes > now->keep)) {
		drop(now);
		return;
	}
	now->at++;
	if (unlikely(++list->count == list->room))
		stop_keeping(now);
}

static void read_block(struct decoding *now)
{
	while (reader_remaining(&now->r)) {
		uint8_t first = reader_u8(&now->r);
		if (first & HPACK_INDEXED)
			read_indexed(now, read_integer(&now->r, first, HPACK_INDEXED_MAX), now->at);
		else if ((first & SORT) == HPACK_RESIZED)
			read_resize(now, first);
		else
			read_literal(now, first, now->at);
		if (unlikely(now->r.err))
			return;
		if ((first & SORT) != HPACK_RESIZED)
			take(now);
	}
}

// One ring a block: if entries that come fill it, so that the table goes on in another, what is wanted of
// that is copied. Else a short block, whose fields are long by what they refer to, would hold many.
static void hold(struct decoding *now)
{
	now->held = now->table->count ? now->table->texts : NULL;
	if (now->held && arena_hold(now->arena, now->held))
		reader_fail(&now->r, -ENOMEM);
}

int hpack_decode(struct hpack_decoder *decoder, struct str block, struct hpack_list *list)
{
	struct decoding now;
	now.table = &decoder->table;
	now.path = &decoder->path;
	now.entries = decoder->entries;
	now.list = list;
	now.arena = list->arena;
	now.spare = (struct arena){0};
	now.at = list->fields;
	now.keep = list->keep;
	now.resizes = 0;
	reader_init(&now.r, block.p, block.len);
	if (!list->arena)
		drop_others(&now);
	hold(&now);
	read_block(&now);
	if (unlikely(list->overflow))
		arena_done(&now.spare);
	return now.r.err == ERR_NEED_MORE ? ERR_MALFORMED : now.r.err;
}
