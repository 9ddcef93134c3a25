// SPDX-License-Identifier: Apache-2.0
#include "codecs/hpack.h"

#include "base/mem.h"
#include "codecs/hpack_table.h"

enum {
	INTEGER_MAX = 6, // bytes of an integer
	CHAINS = 256,
	NAMES = 64,
	ORIGINS = 128,
	LOOKED_AT = 8, // entries of a chain: a peer may well make it long
	COOKIE_SHORT = 20,
};

// Which of our entries has what an entry of a decoder's has.
struct twin {
	uint64_t origin, number;
};

struct hpack_encoder {
	struct hpack_table table;
	uint32_t smallest; // limit since the last block
	bool resized;	   // since then
	// Entries by their number (hpack_table.added when they came). What has gone since does not count.
	uint64_t chains[CHAINS];       // the last one with that hash of name and value
	uint64_t older[HPACK_ENTRIES]; // the one before it with the same
	uint64_t names[NAMES];	       // the last one with that hash of its name
	struct twin twins[ORIGINS];    // by origin
};

struct hpack_encoder *hpack_encoder_new(void)
{
	struct hpack_encoder *encoder = mem_alloc(sizeof *encoder);
	if (!encoder)
		return NULL;
	if (hpack_table_init(&encoder->table)) {
		mem_free(encoder);
		return NULL;
	}
	memset(encoder->chains, 0, sizeof encoder->chains);
	memset(encoder->older, 0, sizeof encoder->older);
	memset(encoder->names, 0, sizeof encoder->names);
	memset(encoder->twins, 0, sizeof encoder->twins);
	encoder->smallest = HPACK_TABLE_MAX;
	encoder->resized = false;
	return encoder;
}

void hpack_encoder_free(struct hpack_encoder *encoder)
{
	if (encoder)
		hpack_table_done(&encoder->table);
	mem_free(encoder);
}

void hpack_encoder_limit(struct hpack_encoder *encoder, uint32_t size)
{
	size = MIN(size, (uint32_t)HPACK_TABLE_MAX);
	if (size == encoder->table.limit)
		return;
	encoder->smallest = encoder->resized ? MIN(encoder->smallest, size) : size;
	encoder->resized = true;
	hpack_table_limit(&encoder->table, size);
}

// --- finding ------------------------------------------------------------------------------------------------
// The end of a text and its length, mixed.
static uint64_t sum_up(struct str text)
{
	uint64_t word = 0;
	uint32_t first, last;
	if (text.len >= sizeof word) {
		memcpy(&word, text.p + text.len - sizeof word, sizeof word);
	} else if (text.len >= sizeof first) {
		memcpy(&first, text.p, sizeof first);
		memcpy(&last, text.p + text.len - sizeof last, sizeof last);
		word = (uint64_t)first << 32 | last;
	} else if (text.len) {
		word = (uint64_t)(uint8_t)text.p[0] << 16 | (uint64_t)(uint8_t)text.p[text.len / 2] << 8 |
		       (uint8_t)text.p[text.len - 1];
	}
	return (word ^ text.len) * 0x9e3779b97f4a7c15;
}

struct key {
	const struct field *field;
	enum field_name known;
	uint32_t name, whole; // hashes
};

static struct key key_of(const struct field *field, enum field_name known)
{
	uint64_t name = known > FIELD_OTHER ? known * 0xff51afd7ed558ccd : sum_up(field->name);
	return (struct key){field, known, (uint32_t)(name >> 32),
			    (uint32_t)((name ^ sum_up(field->value)) * 0xc4ceb9fe1a85ec53 >> 32)};
}

static uint32_t static_find(const struct field *field, enum field_name known)
{
	const struct field *entry = &hpack_static[hpack_static_names[known]];
	for (; entry->value.len && entry->known == known; entry++)
		if (str_eq(entry->value, field->value))
			return (uint32_t)entry->origin;
	return 0;
}

static bool has_name(const struct field *entry, const struct key *key)
{
	return entry->known == key->known &&
	       (key->known > FIELD_OTHER || str_eq(entry->name, key->field->name));
}

// The age of the entry of that number; 0: it has gone.
static uint32_t age_of(const struct hpack_table *table, uint64_t number)
{
	uint64_t age = table->added - number;
	return age <= table->count ? (uint32_t)age : 0;
}

static uint32_t dynamic_find(const struct hpack_encoder *encoder, const struct key *key)
{
	const struct hpack_table *table = &encoder->table;
	uint64_t number = encoder->chains[key->whole % CHAINS];
	for (unsigned i = 0; i < LOOKED_AT; i++, number = encoder->older[number % HPACK_ENTRIES]) {
		uint32_t age = age_of(table, number);
		if (!age)
			return 0;
		const struct field *entry = hpack_table_get(table, age);
		if (has_name(entry, key) && str_eq(entry->value, key->field->value))
			return HPACK_STATIC + age;
	}
	return 0;
}

// Where the name alone stands.
static uint32_t name_find(const struct hpack_encoder *encoder, const struct key *key)
{
	const struct hpack_table *table = &encoder->table;
	if (key->known > FIELD_OTHER && hpack_static_names[key->known])
		return hpack_static_names[key->known];
	uint32_t age = age_of(table, encoder->names[key->name % NAMES]);
	return age && has_name(hpack_table_get(table, age), key) ? HPACK_STATIC + age : 0;
}

static void remember(struct hpack_encoder *encoder, const struct field *field, uint32_t index)
{
	if (field->origin && index > HPACK_STATIC)
		encoder->twins[field->origin % ORIGINS] =
		    (struct twin){field->origin, encoder->table.added - (index - HPACK_STATIC)};
}

// Where a field stands that stood there before; 0: it is not known to.
static uint32_t recall(const struct hpack_encoder *encoder, const struct field *field)
{
	const struct twin *twin = &encoder->twins[field->origin % ORIGINS];
	if (field->origin <= HPACK_STATIC)
		return (uint32_t)field->origin;
	uint32_t age = twin->origin == field->origin ? age_of(&encoder->table, twin->number) : 0;
	return age ? HPACK_STATIC + age : 0;
}

static void insert(struct hpack_encoder *encoder, const struct key *key)
{
	struct field field = *key->field;
	uint64_t number = encoder->table.added;
	field.known = (uint8_t)key->known;
	if (hpack_table_add(&encoder->table, &field))
		return;
	encoder->older[number % HPACK_ENTRIES] = encoder->chains[key->whole % CHAINS];
	encoder->chains[key->whole % CHAINS] = number;
	encoder->names[key->name % NAMES] = number;
	remember(encoder, key->field, HPACK_STATIC + 1);
}

// --- writing ------------------------------------------------------------------------------------------------
// What of an integer its prefix does not hold.
static void write_rest(struct writer *w, size_t value)
{
	for (; value > 0x7f; value >>= 7)
		writer_u8(w, (uint8_t)(value | 0x80));
	writer_u8(w, (uint8_t)value);
}

// RFC 7541 5.1; `most` are the bits of the prefix, behind the pattern.
static inline void write_integer(struct writer *w, uint8_t pattern, uint8_t most, size_t value)
{
	writer_u8(w, (uint8_t)(pattern | MIN(value, most)));
	if (value >= most)
		write_rest(w, value - most);
}

static void write_text(struct writer *w, struct str text)
{
	write_integer(w, 0, HPACK_TEXT_MAX, text.len);
	writer_bytes(w, text.p, text.len);
}

static void write_literal(struct writer *w, uint8_t pattern, uint8_t most, uint32_t name,
			  const struct field *field)
{
	write_integer(w, pattern, most, name);
	if (!name)
		write_text(w, field->name);
	write_text(w, field->value);
}

// Secrets, which could be guessed from how well they are compressed (RFC 7541 7.1.3).
static bool is_secret(const struct field *field, enum field_name known)
{
	switch (known) {
	case FIELD_AUTHORIZATION:
	case FIELD_PROXY_AUTHORIZATION:
		return true;
	case FIELD_COOKIE:
		return field->never_indexed || field->value.len < COOKIE_SHORT;
	default:
		return field->never_indexed;
	}
}

// What differs with each message would only push others out of the table.
static bool is_unsteady(const struct hpack_encoder *encoder, const struct field *field, enum field_name known)
{
	static const bool UNSTEADY[FIELD_NAME_COUNT] = {
	    [FIELD_PATH] = true,
	    [FIELD_AGE] = true,
	    [FIELD_CONTENT_LENGTH] = true,
	    [FIELD_ETAG] = true,
	    [FIELD_IF_MODIFIED_SINCE] = true,
	    [FIELD_IF_NONE_MATCH] = true,
	    [FIELD_LOCATION] = true,
	    [FIELD_SET_COOKIE] = true,
	};
	return UNSTEADY[known] ||
	       field->name.len + field->value.len + HPACK_OVERHEAD > encoder->table.limit / 4 * 3;
}

// In no table, and it is not put there.
static void write_unindexed(struct hpack_encoder *encoder, const struct field *field, enum field_name known,
			    uint8_t pattern, struct writer *w)
{
	uint32_t name = hpack_static_names[known];
	if (!name) {
		struct key key = key_of(field, known);
		name = name_find(encoder, &key);
	}
	write_literal(w, pattern, HPACK_LITERAL_MAX, name, field);
}

static void write_steady(struct hpack_encoder *encoder, const struct field *field, enum field_name known,
			 struct writer *w)
{
	struct key key = key_of(field, known);
	uint32_t index = dynamic_find(encoder, &key);
	if (index) {
		write_integer(w, HPACK_INDEXED, HPACK_INDEXED_MAX, index);
		remember(encoder, field, index);
	} else {
		write_literal(w, HPACK_INSERTED, HPACK_INSERTED_MAX, name_find(encoder, &key), field);
		insert(encoder, &key);
	}
}

static void write_unknown(struct hpack_encoder *encoder, const struct field *field, struct writer *w)
{
	enum field_name known = field_known(field);
	uint32_t index;
	if (is_secret(field, known))
		write_unindexed(encoder, field, known, HPACK_NEVER, w);
	else if ((index = static_find(field, known)))
		write_integer(w, HPACK_INDEXED, HPACK_INDEXED_MAX, index);
	else if (is_unsteady(encoder, field, known))
		write_unindexed(encoder, field, known, 0, w);
	else
		write_steady(encoder, field, known, w);
}

static void write_field(struct hpack_encoder *encoder, const struct field *field, struct writer *w)
{
	uint32_t index = field->never_indexed ? 0 : recall(encoder, field);
	if (index)
		write_integer(w, HPACK_INDEXED, HPACK_INDEXED_MAX, index);
	else
		write_unknown(encoder, field, w);
}

// RFC 7541 4.2: the smallest limit that there was, and the one that there is.
static void write_resizes(struct hpack_encoder *encoder, struct writer *w)
{
	if (!encoder->resized)
		return;
	if (encoder->smallest < encoder->table.limit)
		write_integer(w, HPACK_RESIZED, HPACK_RESIZED_MAX, encoder->smallest);
	write_integer(w, HPACK_RESIZED, HPACK_RESIZED_MAX, encoder->table.limit);
	encoder->resized = false;
}

size_t hpack_encode_bound(const struct field *fields, size_t count)
{
	size_t bound = 2 * INTEGER_MAX;
	for (size_t i = 0; i < count; i++)
		bound += 3 * INTEGER_MAX + fields[i].name.len + fields[i].value.len;
	return bound;
}

void hpack_encode(struct hpack_encoder *encoder, const struct field *fields, size_t count, struct writer *w)
{
	write_resizes(encoder, w);
	for (size_t i = 0; i < count; i++)
		write_field(encoder, &fields[i], w);
}
