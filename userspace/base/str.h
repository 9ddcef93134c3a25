// SPDX-License-Identifier: Apache-2.0
// Strings. `struct str` is a view (pointer and length, not terminated, never owned); `struct strbuf` is a
// growing text that owns its memory. Pure functions; any thread. Case folding is ASCII's, as the protocols
// ask.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
	const char *p;
	size_t len;
};

#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})
// For printf's "%.*s".
#define STR_ARG(s) (int)(s).len, (s).p

static inline struct str str_from(const char *text)
{
	return (struct str){text, text ? strlen(text) : 0};
}

static inline bool str_eq(struct str a, struct str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

bool str_eq_nocase(struct str a, struct str b);
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
// Orders bytewise, shorter first on a tie: <0, 0, >0.
int str_cmp(struct str a, struct str b);
// Strips blanks (SP, HTAB) at both ends.
struct str str_trim(struct str s);
// Index of the byte, or -1.
ptrdiff_t str_find(struct str s, char byte);
// Cuts *rest at the separator: returns what precedes it and advances *rest behind it. The last piece leaves
// rest->p NULL; call while rest->p is set.
struct str str_split(struct str *rest, char separator);
// Decimal digits only, no sign, no blanks. 0, -ERANGE or ERR_MALFORMED.
int str_to_u64(struct str s, uint64_t *ret_value);
// A duration, "250ms", "5s", "2m", "1h" or "1d", in milliseconds. 0, -ERANGE or ERR_MALFORMED.
int str_to_ms(struct str s, uint64_t *ret_ms);
// How many letters have to be put in, left out, replaced, or swapped with their neighbour, for "did you
// mean"; at most `limit` is exact, above it limit + 1 is returned.
unsigned str_distance(struct str a, struct str b, unsigned limit);
// Length of the well-formed UTF-8 sequence (RFC 3629) at the start of a text that is not empty; 0: there is
// none.
size_t str_utf8_len(struct str s);
// 64-bit XXH3 of the bytes; `str_hash_nocase` folds ASCII letters first.
uint64_t str_hash(struct str s);
uint64_t str_hash_nocase(struct str s);

static inline char ascii_lower(char c)
{
	return (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
}

// --- growing text -------------------------------------------------------------------------------------------
// Errors are sticky: after a failed allocation `failed` is set, appending does nothing, and the text that was
// there stays. Always terminated by NUL when p is not NULL. Zero-initialise; strbuf_done frees.
struct strbuf {
	char *p;
	size_t len, _cap;
	bool failed;
};

void strbuf_done(struct strbuf *sb);
void strbuf_clear(struct strbuf *sb);
void strbuf_add(struct strbuf *sb, const void *bytes, size_t len);
void strbuf_add_str(struct strbuf *sb, struct str s);
void strbuf_add_text(struct strbuf *sb, const char *text);
void strbuf_add_char(struct strbuf *sb, char c);
void strbuf_printf(struct strbuf *sb, const char *format, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vprintf(struct strbuf *sb, const char *format, va_list args);
// Control characters as "\n" or "\x1b", so that a text of somebody else's stays on its line and does nothing
// to a terminal; C1 likewise, and bytes that are no UTF-8.
void strbuf_add_visible(struct strbuf *sb, struct str s);
// Makes room for `len` more bytes and returns where they go (then add to sb->len), or NULL.
char *strbuf_reserve(struct strbuf *sb, size_t len);
// The text as a view; empty, never NULL.
struct str strbuf_str(const struct strbuf *sb);
// Gives the text away (the caller frees with mem_free) and clears; NULL if something failed.
char *strbuf_take(struct strbuf *sb);
#define autostrbuf __attribute__((cleanup(strbuf_done)))
