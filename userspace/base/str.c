// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <xxhash.h>

bool str_eq_nocase(struct str a, struct str b)
{
	if (a.len != b.len)
		return false;
	if (str_eq(a, b))
		return true;
	for (size_t i = 0; i < a.len; i++)
		if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
			return false;
	return true;
}

bool str_starts(struct str s, struct str prefix)
{
	return s.len >= prefix.len && (prefix.len == 0 || memcmp(s.p, prefix.p, prefix.len) == 0);
}

bool str_ends(struct str s, struct str suffix)
{
	return s.len >= suffix.len &&
	       (suffix.len == 0 || memcmp(s.p + s.len - suffix.len, suffix.p, suffix.len) == 0);
}

int str_cmp(struct str a, struct str b)
{
	size_t common = MIN(a.len, b.len);
	int order = common ? memcmp(a.p, b.p, common) : 0;
	return order ? order : (a.len > b.len) - (a.len < b.len);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

struct str str_trim(struct str s)
{
	while (s.len && is_blank(s.p[0]))
		s.p++, s.len--;
	while (s.len && is_blank(s.p[s.len - 1]))
		s.len--;
	return s;
}

ptrdiff_t str_find(struct str s, char byte)
{
	const char *at = s.len ? memchr(s.p, byte, s.len) : NULL;
	return at ? at - s.p : -1;
}

struct str str_split(struct str *rest, char separator)
{
	struct str piece = *rest;
	ptrdiff_t at = str_find(*rest, separator);
	if (at < 0) {
		*rest = (struct str){NULL, 0};
		return piece;
	}
	piece.len = (size_t)at;
	rest->p += at + 1;
	rest->len -= (size_t)at + 1;
	return piece;
}

int str_to_u64(struct str s, uint64_t *ret_value)
{
	uint64_t value = 0;
	if (s.len == 0)
		return ERR_MALFORMED;
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return ERR_MALFORMED;
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(s.p[i] - '0'), &value))
			return -ERANGE;
	}
	*ret_value = value;
	return 0;
}

int str_to_ms(struct str s, uint64_t *ret_ms)
{
	static const struct {
		const char *suffix;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		struct str suffix = str_from(units[i].suffix), digits = s;
		uint64_t number, ms;
		if (!str_ends(s, suffix))
			continue;
		digits.len -= suffix.len;
		int err = str_to_u64(digits, &number);
		if (err == ERR_MALFORMED)
			continue;
		if (err || __builtin_mul_overflow(number, units[i].ms, &ms))
			return -ERANGE;
		*ret_ms = ms;
		return 0;
	}
	return ERR_MALFORMED;
}

// The well-formed sequences of more than one byte (RFC 3629 4): ranges of the first two bytes; the others are
// continuation bytes.
static const struct {
	uint8_t first_low, first_high, second_low, second_high, len;
} utf8_rows[] = {
    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
    {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
    {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

static bool within(uint8_t byte, uint8_t low, uint8_t high)
{
	return byte >= low && byte <= high;
}

size_t str_utf8_len(struct str s)
{
	const uint8_t *b = (const uint8_t *)s.p;
	size_t row = 0;
	if (b[0] < 0x80)
		return 1;
	while (row < ARRAY_SIZE(utf8_rows) &&
	       !within(b[0], utf8_rows[row].first_low, utf8_rows[row].first_high))
		row++;
	if (row == ARRAY_SIZE(utf8_rows) || s.len < utf8_rows[row].len ||
	    !within(b[1], utf8_rows[row].second_low, utf8_rows[row].second_high))
		return 0;
	for (size_t i = 2; i < utf8_rows[row].len; i++)
		if (!within(b[i], 0x80, 0xbf))
			return 0;
	return utf8_rows[row].len;
}

static bool same_letter(char a, char b)
{
	return ascii_lower(a) == ascii_lower(b);
}

unsigned str_distance(struct str a, struct str b, unsigned limit)
{
	enum { LONGEST = 64 };
	// The last three rows of the table, used in turn.
	unsigned rows[3][LONGEST + 1];
	size_t gap = a.len > b.len ? a.len - b.len : b.len - a.len;
	if (a.len > LONGEST || b.len > LONGEST || gap > limit)
		return limit + 1;
	for (size_t j = 0; j <= b.len; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a.len; i++) {
		unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *second = rows[(i + 1) % 3];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b.len; j++) {
			row[j] = MIN(MIN(above[j], row[j - 1]) + 1,
				     above[j - 1] + !same_letter(a.p[i - 1], b.p[j - 1]));
			if (i > 1 && j > 1 && same_letter(a.p[i - 1], b.p[j - 2]) &&
			    same_letter(a.p[i - 2], b.p[j - 1]))
				row[j] = MIN(row[j], second[j - 2] + 1);
		}
	}
	unsigned last = rows[a.len % 3][b.len];
	return last > limit ? limit + 1 : last;
}

uint64_t str_hash(struct str s)
{
	return XXH3_64bits(s.p, s.len);
}

uint64_t str_hash_nocase(struct str s)
{
	char folded[256];
	uint64_t hash = s.len;
	while (s.len) {
		size_t n = MIN(s.len, sizeof folded);
		for (size_t i = 0; i < n; i++)
			folded[i] = ascii_lower(s.p[i]);
		hash = XXH3_64bits_withSeed(folded, n, hash);
		s.p += n;
		s.len -= n;
	}
	return hash;
}

void strbuf_done(struct strbuf *sb)
{
	mem_free(sb->p);
	*sb = (struct strbuf){0};
}

void strbuf_clear(struct strbuf *sb)
{
	sb->len = 0;
	sb->failed = false;
	if (sb->p)
		sb->p[0] = 0;
}

char *strbuf_reserve(struct strbuf *sb, size_t len)
{
	size_t need;
	if (sb->failed)
		return NULL;
	if (__builtin_add_overflow(sb->len, len + 1, &need) ||
	    mem_grow((void **)&sb->p, &sb->_cap, need, 1) != 0) {
		sb->failed = true;
		return NULL;
	}
	return sb->p + sb->len;
}

void strbuf_add(struct strbuf *sb, const void *bytes, size_t len)
{
	char *at = strbuf_reserve(sb, len);
	if (!at)
		return;
	if (len)
		memcpy(at, bytes, len);
	sb->len += len;
	sb->p[sb->len] = 0;
}

void strbuf_add_str(struct strbuf *sb, struct str s)
{
	strbuf_add(sb, s.p, s.len);
}

void strbuf_add_text(struct strbuf *sb, const char *text)
{
	strbuf_add(sb, text, strlen(text));
}

void strbuf_add_visible(struct strbuf *sb, struct str s)
{
	while (s.len) {
		unsigned char first = (unsigned char)s.p[0];
		size_t len = str_utf8_len(s);
		bool control = first < ' ' || first == 0x7f ||
			       (len == 2 && first == 0xc2 && (unsigned char)s.p[1] < 0xa0);
		if (first == '\n')
			strbuf_add_text(sb, "\\n");
		else if (!len || control)
			strbuf_printf(sb, "\\x%02x", len == 2 ? (unsigned char)s.p[1] : first);
		else
			strbuf_add(sb, s.p, len);
		s.p += len ? len : 1;
		s.len -= len ? len : 1;
	}
}

void strbuf_add_char(struct strbuf *sb, char c)
{
	strbuf_add(sb, &c, 1);
}

void strbuf_vprintf(struct strbuf *sb, const char *format, va_list args)
{
	va_list again;
	va_copy(again, args);
	int len = vsnprintf(NULL, 0, format, args);
	char *at = len >= 0 ? strbuf_reserve(sb, (size_t)len) : NULL;
	if (at) {
		vsnprintf(at, (size_t)len + 1, format, again);
		sb->len += (size_t)len;
	}
	va_end(again);
}

void strbuf_printf(struct strbuf *sb, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(sb, format, args);
	va_end(args);
}

struct str strbuf_str(const struct strbuf *sb)
{
	return sb->p ? (struct str){sb->p, sb->len} : STR("");
}

char *strbuf_take(struct strbuf *sb)
{
	char *text = NULL;
	if (!sb->failed && strbuf_reserve(sb, 0)) {
		text = sb->p;
		text[sb->len] = 0;
		sb->p = NULL;
	}
	strbuf_done(sb);
	return text;
}
