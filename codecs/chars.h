// SPDX-License-Identifier: Apache-2.0
// Classes of bytes in HTTP/1 (RFC 9110 5.5, 5.6.2; RFC 3986), and scanning over them. The scans look at
// sixteen bytes at a time where SSE2 is there (every x86-64) and fall back to the table elsewhere; both stop
// at the same byte. Internal to codecs/. Pure.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	CHAR_TOKEN = 1 << 0,	   // tchar
	CHAR_TEXT = 1 << 1,	   // field value: HTAB, SP, VCHAR, obs-text
	CHAR_TARGET = 1 << 2,	   // request target: any VCHAR but '#', and obs-text
	CHAR_HOST = 1 << 3,	   // reg-name, without '%' and ',', which others decode or split at
	CHAR_LOWER_TOKEN = 1 << 4, // tchar, no letter in upper case
};

extern const uint8_t chars_class[256];

static inline bool chars_is(char c, uint8_t class)
{
	return chars_class[(uint8_t)c] & class;
}

// The value of a hexadecimal digit; -1 for another byte.
static inline int chars_hex(uint8_t c)
{
	uint8_t folded = c | 0x20;
	if (c >= '0' && c <= '9')
		return c - '0';
	return folded >= 'a' && folded <= 'f' ? folded - 'a' + 10 : -1;
}

static inline const char *chars_scan(const char *p, const char *end, uint8_t class)
{
	while (p < end && chars_is(*p, class))
		p++;
	return p;
}

#ifdef __SSE2__
// Bit i is set if byte i is at most `max`.
static inline __m128i chars_at_most(__m128i v, char max)
{
	return _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(max)), v);
}
#endif

#ifdef __SSE2__
// Bit i is set if byte i may not stand in a field value.
static inline unsigned chars_not_text(__m128i v)
{
	__m128i control = _mm_andnot_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\t')), chars_at_most(v, 0x1f));
	return (unsigned)_mm_movemask_epi8(_mm_or_si128(control, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f))));
}

// The same for eight bytes.
static inline unsigned chars_not_text_8(const char *p)
{
	return chars_not_text(_mm_loadl_epi64((const __m128i *)p)) & 0xff;
}
#endif

// The first byte that may not stand in a field value, or `end`.
static inline const char *chars_scan_text(const char *p, const char *end)
{
#ifdef __SSE2__
	const char *begin = p;
	unsigned stop;
	for (; end - p >= 16; p += 16) {
		stop = chars_not_text(_mm_loadu_si128((const __m128i *)p));
		if (stop)
			return p + __builtin_ctz(stop);
	}
	for (; end - begin >= 8 && p < end; p += 8) {
		p = end - p < 8 ? end - 8 : p; // the last eight, some of which are known to be right
		stop = chars_not_text_8(p);
		if (stop)
			return p + __builtin_ctz(stop);
	}
#endif
	return chars_scan(p, end, CHAR_TEXT);
}

// The first byte that may not stand in a request target, or `end`.
static inline const char *chars_scan_target(const char *p, const char *end)
{
#ifdef __SSE2__
	for (; end - p >= 16; p += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)p);
		__m128i other = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('#')),
					     _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
		int stop = _mm_movemask_epi8(_mm_or_si128(other, chars_at_most(v, 0x20)));
		if (stop)
			return p + __builtin_ctz((unsigned)stop);
	}
#endif
	return chars_scan(p, end, CHAR_TARGET);
}

// The first byte that may not stand in a token, or `end`. Sixteen at a time only over letters and '-', which
// is what nearly all field names consist of.
static inline const char *chars_scan_token(const char *p, const char *end)
{
#ifdef __SSE2__
	for (; end - p >= 16; p += 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)p);
		__m128i letter = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
		__m128i usual =
		    _mm_or_si128(chars_at_most(letter, 25), _mm_cmpeq_epi8(v, _mm_set1_epi8('-')));
		int stop = _mm_movemask_epi8(usual) ^ 0xffff;
		if (stop)
			return chars_scan(p + __builtin_ctz((unsigned)stop), end, CHAR_TOKEN);
	}
#endif
	return chars_scan(p, end, CHAR_TOKEN);
}
