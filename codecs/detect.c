// SPDX-License-Identifier: Apache-2.0
#include "codecs/detect.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"

// What a protocol says of the bytes so far.
enum verdict { NO, MAYBE, YES };

static uint8_t at(struct str bytes, size_t i)
{
	return (uint8_t)bytes.p[i];
}

// RFC 8446 5.1, 4.1.2: handshake record, version 3.0 to 3.4, a length that a record can have; ClientHello with a length,
// legacy_version 3.x.
static enum verdict is_tls(struct str bytes)
{
	static const struct {
		uint8_t low, high;
	} shape[] = {{0x16, 0x16}, {3, 3}, {0, 4}, {0, 0x40}, {0, 255}, {1, 1}, {0, 1}, {0, 255}, {0, 255}, {3, 3}, {0, 4}};
	for (size_t i = 0; i < bytes.len && i < ARRAY_SIZE(shape); i++)
		if (at(bytes, i) < shape[i].low || at(bytes, i) > shape[i].high)
			return NO;
	if (bytes.len < ARRAY_SIZE(shape))
		return MAYBE;
	unsigned record = at(bytes, 3) << 8 | at(bytes, 4);
	unsigned hello = (unsigned)at(bytes, 6) << 16 | at(bytes, 7) << 8 | at(bytes, 8);
	return record >= 4 && record <= 16384 && hello >= 38 ? YES : NO;
}

static enum verdict is_preface(struct str bytes)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	size_t n = MIN(bytes.len, sizeof preface - 1);
	if (memcmp(bytes.p, preface, n) != 0)
		return NO;
	return n == sizeof preface - 1 ? YES : MAYBE;
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

// What follows the method and a blank. "GET /" is enough, and the parser judges the rest; other words have to be
// followed by a version, because text protocols with commands such as "get /key" exist.
static enum verdict is_target(struct str rest, bool registered)
{
	static const struct str VERSION = STR(" HTTP/");
	if (rest.len == 0)
		return MAYBE;
	char first = rest.p[0];
	if (first == '/' && registered)
		return YES;
	if (first != '/' && first != '*' && first != '[' && !is_alnum(first))
		return NO;
	size_t len = (size_t)(chars_scan_target(rest.p, rest.p + rest.len) - rest.p);
	size_t n = MIN(rest.len - len, VERSION.len);
	if (len > LIMIT_HTTP_TARGET || memcmp(rest.p + len, VERSION.p, n) != 0)
		return NO;
	return n == VERSION.len ? YES : MAYBE;
}

// A few empty lines (RFC 9112 2.2), then method SP target SP "HTTP/".
static enum verdict is_http1(struct str bytes)
{
	size_t start = 0;
	while (start < bytes.len && start < 8 && bytes.p[start] == "\r\n"[start % 2])
		start++;
	size_t end = start;
	while (end < bytes.len && (is_alnum(bytes.p[end]) || bytes.p[end] == '-' || bytes.p[end] == '_'))
		end++;
	if (start % 2 ? start < bytes.len : end - start > LIMIT_HTTP_METHOD)
		return NO;
	if (end == bytes.len)
		return MAYBE;
	if (end == start || bytes.p[end] != ' ')
		return NO;
	struct str method = {bytes.p + start, end - start};
	return is_target((struct str){bytes.p + end + 1, bytes.len - end - 1}, is_registered(method));
}

// Protocol 1 or 2, of 2 a version, type 0 to 2, command 0 to 2 or 100, command version 1 (SOFABolt).
static enum verdict is_bolt(struct str bytes)
{
	enum { VERSION = 1 };
	static const struct str allowed[] = {{"\1\2", 2}, {"\1\2", 2}, {"\0\1\2", 3}, {"\0", 1}, {"\0\1\2\x64", 4}, {"\1", 1}};
	size_t row = 0;
	for (size_t i = 0; row < ARRAY_SIZE(allowed) && i < bytes.len; row++) {
		if (row == VERSION && at(bytes, 0) == 1)
			continue;
		if (str_find(allowed[row], bytes.p[i++]) < 0)
			return NO;
	}
	return row == ARRAY_SIZE(allowed) ? YES : MAYBE;
}

static enum verdict is_dubbo(struct str bytes)
{
	if (at(bytes, 0) != 0xda || (bytes.len > 1 && at(bytes, 1) != 0xbb))
		return NO;
	return bytes.len > 1 ? YES : MAYBE;
}

int detect(struct str bytes, enum protocol *ret_protocol)
{
	static const struct {
		enum protocol protocol;
		enum verdict (*is)(struct str bytes);
	} rows[] = {
		{PROTOCOL_TLS, is_tls},	  {PROTOCOL_HTTP2, is_preface}, {PROTOCOL_HTTP1, is_http1},
		{PROTOCOL_BOLT, is_bolt}, {PROTOCOL_DUBBO, is_dubbo},
	};
	if (bytes.len == 0)
		return ERR_NEED_MORE;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		enum verdict verdict = rows[i].is(bytes);
		if (verdict == MAYBE)
			return ERR_NEED_MORE;
		if (verdict == YES) {
			*ret_protocol = rows[i].protocol;
			return 0;
		}
	}
	*ret_protocol = PROTOCOL_TCP;
	return 0;
}
