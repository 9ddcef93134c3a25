// SPDX-License-Identifier: Apache-2.0
#include "codecs/detect.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"
#include "codecs/codec.h"

static uint8_t at(struct str bytes, size_t i)
{
	return (uint8_t)bytes.p[i];
}

// RFC 8446 5.1, 4.1.2: handshake record, version 3.0 to 3.4, a length that a record can have; ClientHello
// with a length, legacy_version 3.x.
static enum detect_verdict is_tls(struct str bytes)
{
	static const struct byte_range SHAPE[] = {{0x16, 0x16}, {3, 3}, {0, 4}, {0, 0x40},
						  {0, 255},	{1, 1}, {0, 1}, {0, 255},
						  {0, 255},	{3, 3}, {0, 4}};
	enum detect_verdict verdict = shape_fits(bytes, SHAPE, ARRAY_SIZE(SHAPE));
	if (verdict != DETECT_YES)
		return verdict;
	unsigned record = (unsigned)at(bytes, 3) << 8 | at(bytes, 4);
	unsigned hello = (unsigned)at(bytes, 6) << 16 | (unsigned)at(bytes, 7) << 8 | at(bytes, 8);
	return record >= 4 && record <= 16384 && hello >= 38 ? DETECT_YES : DETECT_NO;
}

static enum detect_verdict is_preface(struct str bytes)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	size_t n = MIN(bytes.len, sizeof preface - 1);
	if (memcmp(bytes.p, preface, n) != 0)
		return DETECT_NO;
	return n == sizeof preface - 1 ? DETECT_YES : DETECT_MAYBE;
}

static bool is_alnum(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

// The methods of RFC 9110 9.3 and RFC 5789.
static bool is_registered(struct str method)
{
	static const struct str METHODS[] = {STR("GET"),     STR("HEAD"),    STR("POST"),
					     STR("PUT"),     STR("DELETE"),  STR("PATCH"),
					     STR("OPTIONS"), STR("CONNECT"), STR("TRACE")};
	for (size_t i = 0; i < ARRAY_SIZE(METHODS); i++)
		if (str_eq(method, METHODS[i]))
			return true;
	return false;
}

// What follows the method and a blank. "GET /" is enough, and the parser judges the rest; other words have to
// be followed by a version, because text protocols with commands such as "get /key" exist.
static enum detect_verdict is_target(struct str rest, bool registered)
{
	static const struct str VERSION = STR(" HTTP/");
	if (rest.len == 0)
		return DETECT_MAYBE;
	char first = rest.p[0];
	if (first == '/' && registered)
		return DETECT_YES;
	if (first != '/' && first != '*' && first != '[' && !is_alnum(first))
		return DETECT_NO;
	size_t len = (size_t)(chars_scan_target(rest.p, rest.p + rest.len) - rest.p);
	size_t n = MIN(rest.len - len, VERSION.len);
	if (len > LIMIT_HTTP_TARGET || memcmp(rest.p + len, VERSION.p, n) != 0)
		return DETECT_NO;
	return n == VERSION.len ? DETECT_YES : DETECT_MAYBE;
}

// A few empty lines (RFC 9112 2.2), then method SP target SP "HTTP/".
static enum detect_verdict is_http1(struct str bytes)
{
	size_t start = 0;
	while (start < bytes.len && start < 8 && bytes.p[start] == "\r\n"[start % 2])
		start++;
	size_t end = start;
	while (end < bytes.len && (is_alnum(bytes.p[end]) || bytes.p[end] == '-' || bytes.p[end] == '_'))
		end++;
	if (start % 2 ? start < bytes.len : end - start > LIMIT_HTTP_METHOD)
		return DETECT_NO;
	if (end == bytes.len)
		return DETECT_MAYBE;
	if (end == start || bytes.p[end] != ' ')
		return DETECT_NO;
	struct str method = {bytes.p + start, end - start};
	return is_target((struct str){bytes.p + end + 1, bytes.len - end - 1}, is_registered(method));
}

// Whether one of the set's codecs knows the bytes: the first that does.
static enum detect_verdict detect_framed(struct str bytes, const struct detect_set *set,
					 const struct framed_codec **ret_codec)
{
	for (size_t i = 0; i < set->codec_count; i++) {
		enum detect_verdict verdict = set->codecs[i]->detect(set->codecs[i], bytes);
		if (verdict == DETECT_YES)
			*ret_codec = set->codecs[i];
		if (verdict != DETECT_NO)
			return verdict;
	}
	return DETECT_NO;
}

int detect(struct str bytes, const struct detect_set *set, enum protocol *ret_protocol,
	   const struct framed_codec **ret_codec)
{
	static const struct {
		enum protocol protocol;
		bool http;
		enum detect_verdict (*is)(struct str bytes);
	} rows[] = {{PROTOCOL_TLS, false, is_tls},
		    {PROTOCOL_HTTP2, true, is_preface},
		    {PROTOCOL_HTTP1, true, is_http1}};
	const struct framed_codec *codec = NULL;
	if (bytes.len == 0)
		return ERR_NEED_MORE;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		enum detect_verdict verdict = rows[i].http && !set->http ? DETECT_NO : rows[i].is(bytes);
		if (verdict == DETECT_MAYBE)
			return ERR_NEED_MORE;
		if (verdict == DETECT_YES) {
			*ret_protocol = rows[i].protocol;
			*ret_codec = NULL;
			return 0;
		}
	}
	if (detect_framed(bytes, set, &codec) == DETECT_MAYBE)
		return ERR_NEED_MORE;
	*ret_protocol = codec ? codec->protocol : PROTOCOL_TCP;
	*ret_codec = codec;
	return 0;
}
