// SPDX-License-Identifier: Apache-2.0
// Hessian 2.0 Serialization Protocol, section 4 (grammar) and 7.1 (the table of first bytes). Values within
// values are walked with a stack of our own; each level says how many values are still to come, or that they
// end with 'Z'.
#include "codecs/hessian.h"

#include "base/mem.h"

enum shape {
	UNUSED, // no value begins with it
	PLAIN,	// followed by so many bytes
	STRING,
	BINARY,
	CLASS, // a definition; the value itself comes behind it
	OBJECT,
	REFERENCE,
	MAP,
	TYPED_MAP,
	LIST,	      // its length, values
	TYPED_LIST,   // its type, its length, values
	OPEN_LIST,    // values, 'Z'
	TYPED_OPEN,   // its type, values, 'Z'
	SHORT_LIST,   // length in the first byte
	TYPED_SHORT,  // the same with a type
	DIRECT_OBJECT // class in the first byte
};

static const struct {
	uint8_t shape, bytes;
} FIRST[256] = {
    [0x00 ... 0x1f] = {STRING, 0},
    [0x20 ... 0x2f] = {BINARY, 0},
    [0x30 ... 0x33] = {STRING, 0},
    [0x34 ... 0x37] = {BINARY, 0},
    [0x38 ... 0x3f] = {PLAIN, 2},
    ['A'] = {BINARY, 0},
    ['B'] = {BINARY, 0},
    ['C'] = {CLASS, 0},
    ['D'] = {PLAIN, 8},
    ['F'] = {PLAIN, 0},
    ['H'] = {MAP, 0},
    ['I'] = {PLAIN, 4},
    ['J'] = {PLAIN, 8},
    ['K'] = {PLAIN, 4},
    ['L'] = {PLAIN, 8},
    ['M'] = {TYPED_MAP, 0},
    ['N'] = {PLAIN, 0},
    ['O'] = {OBJECT, 0},
    ['Q'] = {REFERENCE, 0},
    ['R'] = {STRING, 0},
    ['S'] = {STRING, 0},
    ['T'] = {PLAIN, 0},
    ['U'] = {TYPED_OPEN, 0},
    ['V'] = {TYPED_LIST, 0},
    ['W'] = {OPEN_LIST, 0},
    ['X'] = {LIST, 0},
    ['Y'] = {PLAIN, 4},
    [0x5b ... 0x5c] = {PLAIN, 0},
    [0x5d] = {PLAIN, 1},
    [0x5e] = {PLAIN, 2},
    [0x5f] = {PLAIN, 4},
    [0x60 ... 0x6f] = {DIRECT_OBJECT, 0},
    [0x70 ... 0x77] = {TYPED_SHORT, 0},
    [0x78 ... 0x7f] = {SHORT_LIST, 0},
    [0x80 ... 0xbf] = {PLAIN, 0},
    [0xc0 ... 0xcf] = {PLAIN, 1},
    [0xd0 ... 0xd7] = {PLAIN, 2},
    [0xd8 ... 0xef] = {PLAIN, 0},
    [0xf0 ... 0xff] = {PLAIN, 1},
};

// What a level waits for.
struct level {
	uint32_t count; // COUNTED: values to come; else: values seen
	enum { COUNTED, OPEN, PAIRS } until;
};

struct walk {
	struct hessian *h;
	unsigned depth;
	struct level levels[LIMIT_HESSIAN_DEPTH];
};

void hessian_init(struct hessian *h, struct str bytes)
{
	reader_init(&h->in, bytes.p, bytes.len);
	h->_steps = 0;
	h->_class_count = 0;
}

static void count_step(struct hessian *h)
{
	if (++h->_steps > LIMIT_HESSIAN_STEPS)
		reader_fail(&h->in, ERR_LIMIT);
}

// --- strings --------------------------------------------------------------------------------
// Bytes of the character at the start: as UTF-8, or one half of a surrogate pair in three bytes. 0: none.
static size_t character_len(uint8_t first)
{
	if (first < 0x80)
		return 1;
	if (first < 0xc0)
		return 0;
	return first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf8 ? 4 : 0;
}

static void skip_character(struct reader *r, size_t *units)
{
	size_t len = character_len(reader_u8(r));
	if (!r->err && (len == 0 || (len == 4 && *units < 2)))
		reader_fail(r, ERR_MALFORMED);
	for (size_t i = 1; i < len && !r->err; i++)
		if ((reader_u8(r) & 0xc0) != 0x80)
			reader_fail(r, ERR_MALFORMED);
	*units -= len == 4 ? MIN(*units, 2) : 1;
}

// `units` of UTF-16, which is how Hessian counts.
static struct str take_units(struct reader *r, size_t units)
{
	struct reader start = *r;
	size_t from = reader_tell(r);
	while (units && !r->err)
		skip_character(r, &units);
	return r->err ? (struct str){0} : reader_bytes(&start, reader_tell(r) - from);
}

static size_t string_units(struct reader *r, uint8_t tag)
{
	if (tag < 0x20)
		return tag;
	if (tag >= 0x30 && tag <= 0x33)
		return (size_t)(tag - 0x30) << 8 | reader_u8(r);
	if (tag != 'R' && tag != 'S')
		reader_fail(r, ERR_MALFORMED);
	return reader_u16(r);
}

static void skip_string(struct hessian *h, uint8_t tag)
{
	take_units(&h->in, string_units(&h->in, tag));
	while (tag == 'R' && !h->in.err) {
		count_step(h);
		tag = reader_u8(&h->in);
		take_units(&h->in, string_units(&h->in, tag));
	}
}

static size_t binary_len(struct reader *r, uint8_t tag)
{
	if (tag >= 0x20 && tag <= 0x2f)
		return tag - 0x20;
	if (tag >= 0x34 && tag <= 0x37)
		return (size_t)(tag - 0x34) << 8 | reader_u8(r);
	if (tag != 'A' && tag != 'B')
		reader_fail(r, ERR_MALFORMED);
	return reader_u16(r);
}

static void skip_binary(struct hessian *h, uint8_t tag)
{
	reader_skip(&h->in, binary_len(&h->in, tag));
	while (tag == 'A' && !h->in.err) {
		count_step(h);
		tag = reader_u8(&h->in);
		reader_skip(&h->in, binary_len(&h->in, tag));
	}
}

// --- what stands in front of values ---------------------------------------------------------
static bool is_int(uint8_t tag)
{
	return tag == 'I' || (tag >= 0x80 && tag <= 0xd7);
}

static int32_t read_int(struct reader *r)
{
	uint8_t tag = reader_u8(r);
	if (tag == 'I')
		return (int32_t)reader_u32(r);
	if (tag >= 0x80 && tag <= 0xbf)
		return tag - 0x90;
	if (tag >= 0xc0 && tag <= 0xcf)
		return (tag - 0xc8) * 256 + reader_u8(r);
	if (tag >= 0xd0 && tag <= 0xd7)
		return (tag - 0xd4) * 65536 + reader_u16(r);
	reader_fail(r, ERR_MALFORMED);
	return 0;
}

static uint32_t read_count(struct reader *r)
{
	int32_t count = read_int(r);
	if (count < 0)
		reader_fail(r, ERR_MALFORMED);
	return r->err ? 0 : (uint32_t)count;
}

// The name of a type, or the number of one that was named before.
static void skip_type(struct hessian *h)
{
	if (is_int(reader_peek_u8(&h->in)))
		read_count(&h->in);
	else
		skip_string(h, reader_u8(&h->in));
}

// The name of the class, how many fields it has, their names.
static void define_class(struct hessian *h)
{
	skip_string(h, reader_u8(&h->in));
	uint32_t count = read_count(&h->in);
	if (count > UINT16_MAX || h->_class_count == LIMIT_HESSIAN_CLASSES)
		reader_fail(&h->in, ERR_LIMIT);
	for (uint32_t i = 0; i < count && !h->in.err; i++) {
		count_step(h);
		skip_string(h, reader_u8(&h->in));
	}
	if (!h->in.err)
		h->_field_counts[h->_class_count++] = (uint16_t)count;
}

static uint8_t first_byte(struct hessian *h)
{
	count_step(h);
	uint8_t tag = reader_u8(&h->in);
	while (tag == 'C' && !h->in.err) {
		define_class(h);
		count_step(h);
		tag = reader_u8(&h->in);
	}
	return tag;
}

// --- walking --------------------------------------------------------------------------------
static void enter(struct walk *w, uint32_t count, int until)
{
	if (w->depth == LIMIT_HESSIAN_DEPTH)
		reader_fail(&w->h->in, ERR_LIMIT);
	if (!w->h->in.err)
		w->levels[w->depth++] = (struct level){count, until};
}

static void enter_object(struct walk *w, uint32_t number)
{
	if (number >= w->h->_class_count)
		reader_fail(&w->h->in, ERR_MALFORMED);
	if (!w->h->in.err)
		enter(w, w->h->_field_counts[number], COUNTED);
}

static void enter_list(struct walk *w, uint8_t tag)
{
	switch (FIRST[tag].shape) {
	case TYPED_OPEN:
	case TYPED_LIST:
	case TYPED_SHORT:
	case TYPED_MAP:
		skip_type(w->h);
	}
	switch (FIRST[tag].shape) {
	case MAP:
	case TYPED_MAP:
		enter(w, 0, PAIRS);
		break;
	case OPEN_LIST:
	case TYPED_OPEN:
		enter(w, 0, OPEN);
		break;
	case LIST:
	case TYPED_LIST:
		enter(w, read_count(&w->h->in), COUNTED);
		break;
	default:
		enter(w, tag & 7, COUNTED);
	}
}

// The start of a value: all of it, or a level is entered for what it contains.
static void step(struct walk *w)
{
	struct hessian *h = w->h;
	uint8_t tag = first_byte(h);
	switch (FIRST[tag].shape) {
	case UNUSED:
		reader_fail(&h->in, ERR_MALFORMED);
		break;
	case PLAIN:
		reader_skip(&h->in, FIRST[tag].bytes);
		break;
	case STRING:
		skip_string(h, tag);
		break;
	case BINARY:
		skip_binary(h, tag);
		break;
	case REFERENCE:
		read_count(&h->in);
		break;
	case OBJECT:
		enter_object(w, read_count(&h->in));
		break;
	case DIRECT_OBJECT:
		enter_object(w, tag & 15);
		break;
	default:
		enter_list(w, tag);
	}
}

static bool level_ends(struct hessian *h, struct level *level)
{
	if (level->until == COUNTED)
		return level->count == 0 || (level->count--, false);
	if (reader_peek_u8(&h->in) != 'Z')
		return level->count++, false;
	reader_skip(&h->in, 1);
	if (level->until == PAIRS && level->count % 2)
		reader_fail(&h->in, ERR_MALFORMED);
	return true;
}

void hessian_skip(struct hessian *h)
{
	struct walk w;
	w.h = h;
	w.depth = 0;
	step(&w);
	while (w.depth && !h->in.err) {
		if (level_ends(h, &w.levels[w.depth - 1]))
			w.depth--;
		else
			step(&w);
	}
}

bool hessian_text(struct hessian *h, struct str *ret_text)
{
	uint8_t tag = reader_peek_u8(&h->in);
	if (h->in.err || FIRST[tag].shape != STRING || tag == 'R') {
		hessian_skip(h);
		return false;
	}
	count_step(h);
	reader_skip(&h->in, 1);
	struct str text = take_units(&h->in, string_units(&h->in, tag));
	if (h->in.err)
		return false;
	*ret_text = text;
	return true;
}

static bool take_byte(struct hessian *h, uint8_t byte)
{
	if (reader_peek_u8(&h->in) != byte || h->in.err)
		return false;
	reader_skip(&h->in, 1);
	return true;
}

bool hessian_null(struct hessian *h)
{
	return take_byte(h, 'N');
}

bool hessian_int(struct hessian *h, int32_t *ret_value)
{
	if (!is_int(reader_peek_u8(&h->in)))
		return false;
	int32_t value = read_int(&h->in);
	if (h->in.err)
		return false;
	*ret_value = value;
	return true;
}

bool hessian_map_begins(struct hessian *h)
{
	if (take_byte(h, 'H'))
		return true;
	if (!take_byte(h, 'M'))
		return false;
	skip_type(h);
	return !h->in.err;
}

bool hessian_map_ends(struct hessian *h)
{
	return take_byte(h, 'Z');
}

// --- writing --------------------------------------------------------------------------------
// The next character as it is written; advances *rest.
static struct str next_character(struct str *rest)
{
	size_t len = str_utf8_len(*rest);
	struct str character = len == 0 || len == 4 ? STR("?") : (struct str){rest->p, len};
	len = MAX(len, 1);
	rest->p += len;
	rest->len -= len;
	return character;
}

void hessian_write_string(struct str text, struct writer *out)
{
	enum { UNITS_MAX = 1023 };
	unsigned units = 0;
	for (struct str rest = text; rest.len && units < UNITS_MAX; units++)
		next_character(&rest);
	if (units < 0x20) {
		writer_u8(out, (uint8_t)units);
	} else {
		writer_u8(out, (uint8_t)(0x30 + (units >> 8)));
		writer_u8(out, (uint8_t)units);
	}
	while (units-- > 0) {
		struct str character = next_character(&text);
		writer_bytes(out, character.p, character.len);
	}
}
