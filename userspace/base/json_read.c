// SPDX-License-Identifier: Apache-2.0
#include "base/json_read.h"

#include "base/cursor.h"
#include "base/json.h"
#include "base/mem.h"

#include <errno.h>

enum { TEXT_MAX = 512 * 1024 * 1024 - 1, REPLACEMENT = 0xfffd };

struct parser {
	char *text;
	struct reader r;
	struct json_value *values;
	size_t count, cap, max;
	unsigned depth;
	int err;
};

static int fail(struct parser *p, int err)
{
	p->err = p->err ? p->err : err;
	return p->err;
}

// The next byte, not taken; 0 at the end, which is no byte of JSON either.
static char peek(struct parser *p)
{
	return reader_remaining(&p->r) ? (char)reader_peek_u8(&p->r) : 0;
}

static bool take(struct parser *p, char c)
{
	if (peek(p) != c || reader_remaining(&p->r) == 0)
		return false;
	reader_skip(&p->r, 1);
	return true;
}

static void skip_blanks(struct parser *p)
{
	while (take(p, ' ') || take(p, '\n') || take(p, '\t') || take(p, '\r'))
		;
}

// A new value; its index, or a negative error.
static int64_t add(struct parser *p, enum json_type type)
{
	if (p->count == p->max)
		return fail(p, ERR_LIMIT);
	if (mem_grow((void **)&p->values, &p->cap, p->count + 1, sizeof *p->values))
		return fail(p, -ENOMEM);
	p->values[p->count] = (struct json_value){.p = p->text + reader_tell(&p->r), .type = type, .size = 1};
	return (int64_t)p->count++;
}

// --- strings ----------------------------------------------------------------------------------------------
static uint32_t read_hex(struct parser *p)
{
	uint32_t value = 0;
	for (int i = 0; i < 4; i++) {
		char c = (char)reader_u8(&p->r), lower = ascii_lower(c);
		if (c >= '0' && c <= '9')
			value = value << 4 | (uint32_t)(c - '0');
		else if (lower >= 'a' && lower <= 'f')
			value = value << 4 | (uint32_t)(lower - 'a' + 10);
		else
			fail(p, ERR_MALFORMED);
	}
	return value;
}

// Two halves make one character; a half alone is none.
static uint32_t read_character(struct parser *p)
{
	uint32_t high = read_hex(p), low;
	struct reader_tag tag = reader_tag(&p->r);
	if (high == 0 || (high >= 0xdc00 && high <= 0xdfff))
		return REPLACEMENT;
	if (high < 0xd800 || high > 0xdfff)
		return high;
	if (take(p, '\\') && take(p, 'u')) {
		low = read_hex(p);
		if (low >= 0xdc00 && low <= 0xdfff)
			return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
	}
	reader_rollback(&p->r, tag);
	return REPLACEMENT;
}

static char *put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = (char)c;
		return out;
	}
	if (c >= 0x10000) {
		*out++ = (char)(0xf0 | c >> 18);
		*out++ = (char)(0x80 | (c >> 12 & 0x3f));
	} else if (c >= 0x800) {
		*out++ = (char)(0xe0 | c >> 12);
	}
	*out++ = (char)(c >= 0x800 ? 0x80 | (c >> 6 & 0x3f) : 0xc0 | c >> 6);
	*out++ = (char)(0x80 | (c & 0x3f));
	return out;
}

// Never longer than what it stands for.
static char *read_escape(struct parser *p, char *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = (char)reader_u8(&p->r);
	const char *found = c ? strchr(from, c) : NULL;
	if (c == 'u') {
		uint32_t character = read_character(p);
		// Of a sequence that is cut there is not as much room as its character takes.
		return p->err || p->r.err ? out : put_utf8(out, character);
	}
	if (found)
		*out++ = to[found - from];
	else
		fail(p, ERR_MALFORMED);
	return out;
}

static void read_string(struct parser *p)
{
	reader_skip(&p->r, 1);
	int64_t at = add(p, JSON_STRING);
	char *start = p->text + reader_tell(&p->r), *out = start;
	while (!p->err && !p->r.err) {
		char c = (char)reader_u8(&p->r);
		if (c == '"')
			break;
		if (c == '\\')
			out = read_escape(p, out);
		else if ((unsigned char)c < 0x20)
			fail(p, ERR_MALFORMED);
		else
			*out++ = c;
	}
	if (at >= 0)
		p->values[at].len = (uint32_t)(out - start);
}

// --- numbers and words ------------------------------------------------------------------------------------
static size_t take_digits(struct parser *p)
{
	size_t count = 0;
	for (; peek(p) >= '0' && peek(p) <= '9'; count++)
		reader_skip(&p->r, 1);
	return count;
}

static void read_number(struct parser *p)
{
	int64_t at = add(p, JSON_NUMBER);
	size_t start = reader_tell(&p->r);
	take(p, '-');
	if (!take(p, '0') && take_digits(p) == 0)
		fail(p, ERR_MALFORMED);
	if (take(p, '.') && take_digits(p) == 0)
		fail(p, ERR_MALFORMED);
	if (take(p, 'e') || take(p, 'E')) {
		if (!take(p, '+'))
			take(p, '-');
		if (take_digits(p) == 0)
			fail(p, ERR_MALFORMED);
	}
	if (at >= 0)
		p->values[at].len = (uint32_t)(reader_tell(&p->r) - start);
}

static void read_word(struct parser *p, struct str word, enum json_type type)
{
	int64_t at = add(p, type);
	if (!str_eq(reader_bytes(&p->r, word.len), word))
		fail(p, ERR_MALFORMED);
	if (at >= 0)
		p->values[at].len = (uint32_t)word.len;
}

// --- values -----------------------------------------------------------------------------------------------
static void read_value(struct parser *p);

static void read_key(struct parser *p)
{
	skip_blanks(p);
	if (peek(p) != '"') {
		fail(p, ERR_MALFORMED);
		return;
	}
	read_string(p);
	skip_blanks(p);
	if (!take(p, ':'))
		fail(p, ERR_MALFORMED);
}

static void read_container(struct parser *p, enum json_type type)
{
	char end = type == JSON_OBJECT ? '}' : ']';
	int64_t at = add(p, type);
	if (++p->depth > JSON_DEPTH_MAX)
		fail(p, ERR_LIMIT);
	reader_skip(&p->r, 1);
	skip_blanks(p);
	for (bool first = true; !p->err && !p->r.err && !take(p, end); first = false) {
		if (!first && !take(p, ','))
			fail(p, ERR_MALFORMED);
		if (type == JSON_OBJECT)
			read_key(p);
		read_value(p);
	}
	p->depth--;
	if (at >= 0)
		p->values[at].size = (uint32_t)(p->count - (size_t)at);
}

static void read_value(struct parser *p)
{
	skip_blanks(p);
	if (p->err || p->r.err)
		return;
	switch (peek(p)) {
	case '{':
		read_container(p, JSON_OBJECT);
		break;
	case '[':
		read_container(p, JSON_ARRAY);
		break;
	case '"':
		read_string(p);
		break;
	case 't':
		read_word(p, STR("true"), JSON_BOOL);
		break;
	case 'f':
		read_word(p, STR("false"), JSON_BOOL);
		break;
	case 'n':
		read_word(p, STR("null"), JSON_NULL);
		break;
	default:
		read_number(p);
	}
	skip_blanks(p);
}

int json_read(char *text, size_t len, struct json_value **ret_values)
{
	return json_read_at_most(text, len, TEXT_MAX, ret_values);
}

int json_read_at_most(char *text, size_t len, size_t values_max, struct json_value **ret_values)
{
	struct parser p = {.text = text, .max = values_max};
	if (len > TEXT_MAX)
		return ERR_LIMIT;
	reader_init(&p.r, text, len);
	read_value(&p);
	if (!p.err && reader_finish(&p.r))
		p.err = ERR_MALFORMED;
	if (p.err) {
		mem_free(p.values);
		return p.err;
	}
	*ret_values = p.values;
	return 0;
}

// --- walking ----------------------------------------------------------------------------------------------
const struct json_value *json_next(const struct json_value *container, const struct json_value *at)
{
	if (!container || container->type < JSON_ARRAY)
		return NULL;
	const struct json_value *next = !at				? container + 1
					: container->type == JSON_ARRAY ? at + at->size
									: at + 1 + at[1].size;
	return next < container + container->size ? next : NULL;
}

const struct json_value *json_member(const struct json_value *object, const char *key)
{
	const struct json_value *at = NULL;
	if (!object || object->type != JSON_OBJECT)
		return NULL;
	while ((at = json_next(object, at)))
		if (str_eq(json_str_of(at), str_from(key)))
			return at + 1;
	return NULL;
}
