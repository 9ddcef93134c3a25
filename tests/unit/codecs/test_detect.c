// SPDX-License-Identifier: Apache-2.0
// Detection. Every input is asked for as each of its prefixes, from memory of exactly that size: the answer
// comes at the same byte however the bytes arrive, and never changes afterwards.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/registry.h"

#include <stdlib.h>

static int detect_prefix(struct str bytes, size_t len, enum protocol *ret_protocol)
{
	char *copy = malloc(len ? len : 1);
	memcpy(copy, bytes.p, len);
	const struct framed_codec *codec;
	int err = detect((struct str){copy, len}, &detect_default, ret_protocol, &codec);
	free(copy);
	return err;
}

// The length of the shortest prefix that decides; 0: none does. Longer ones all say the same.
static size_t decided_at(struct str bytes, enum protocol *ret_protocol)
{
	size_t at = 0;
	*ret_protocol = PROTOCOL_UNKNOWN;
	for (size_t len = 0; len <= bytes.len; len++) {
		enum protocol protocol = PROTOCOL_UNKNOWN;
		int err = detect_prefix(bytes, len, &protocol);
		assert_true(err == 0 || err == ERR_NEED_MORE);
		assert_true(err == 0 ? protocol != PROTOCOL_UNKNOWN : protocol == PROTOCOL_UNKNOWN);
		if (at)
			assert_int_equal(protocol, *ret_protocol);
		else if (err == 0) {
			at = len;
			*ret_protocol = protocol;
		}
	}
	return at;
}

#define CHECK(bytes, expected, length)                                                                       \
	do {                                                                                                 \
		enum protocol _got;                                                                          \
		size_t _at = decided_at(STR(bytes), &_got);                                                  \
		if (_got != (expected) || _at != (length))                                                   \
			print_error("%s: %s at byte %zu\n", #bytes, protocol_name(_got), _at);               \
		assert_int_equal(_got, expected);                                                            \
		assert_int_equal(_at, length);                                                               \
	} while (0)

static void test_http1(void **state)
{
	(void)state;
	CHECK("GET /index.html HTTP/1.1\r\n", PROTOCOL_HTTP1, 5);
	CHECK("DELETE /x", PROTOCOL_HTTP1, 8);
	CHECK("\r\n\r\nPOST /", PROTOCOL_HTTP1, 10);
	CHECK("GET /\xc3\xa9", PROTOCOL_HTTP1, 5);
	CHECK("OPTIONS * HTTP/1.1\r\n", PROTOCOL_HTTP1, 15);
	CHECK("CONNECT db.example:5432 HTTP/1.1", PROTOCOL_HTTP1, 29);
	CHECK("CONNECT [::1]:443 HTTP/1.1", PROTOCOL_HTTP1, 23);
	CHECK("GET http://a.example/ HTTP/1.1", PROTOCOL_HTTP1, 27);
	CHECK("M-SEARCH * HTTP/1.1\r\n", PROTOCOL_HTTP1, 16);
	CHECK("PROPFIND /dav/\xc3\xa9 HTTP/1.1\r\n", PROTOCOL_HTTP1, 22);
	CHECK("get / HTTP/1.1\r\n", PROTOCOL_HTTP1, 11);
	CHECK("GET / nonsense", PROTOCOL_HTTP1, 5); // for the parser to refuse
	CHECK("GET /\r\n", PROTOCOL_HTTP1, 5);
	CHECK("PRI * HTTP/2.0\r\n\r\nXX", PROTOCOL_HTTP1, 19);
}

static void test_http1_undecided(void **state)
{
	(void)state;
	static const char *const prefixes[] = {"",
					       "\r",
					       "\r\n",
					       "\r\n\r",
					       "G",
					       "GET",
					       "GET ",
					       "get /key",
					       "CONNECT a:1 H",
					       "PUT h",
					       "OPTIONS *",
					       "OPTIONS * HTTP",
					       "\r\n\r\n\r\n\r\n"};
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		enum protocol protocol;
		if (decided_at(str_from(prefixes[i]), &protocol) != 0)
			fail_msg("%s is decided", prefixes[i]);
	}
}

// Protocols of words, and what only looks like a request.
static void test_text_is_not_http1(void **state)
{
	(void)state;
	CHECK("get /key\r\n", PROTOCOL_TCP, 9);
	CHECK("set /key 0 0 5\r\nhello\r\n", PROTOCOL_TCP, 10);
	CHECK("RETR /pub/file\r\n", PROTOCOL_TCP, 15);
	CHECK("OPTIONS rtsp://a/b RTSP/1.0\r\n", PROTOCOL_TCP, 20);
	CHECK("INVITE sip:bob@example.com SIP/2.0\r\n", PROTOCOL_TCP, 28);
	CHECK("EHLO client.example\r\n", PROTOCOL_TCP, 20);
	CHECK("QUIT\r\n", PROTOCOL_TCP, 5);
	CHECK("*1\r\n$4\r\nPING\r\n", PROTOCOL_TCP, 1);
	CHECK("GET \r\n", PROTOCOL_TCP, 5);
	CHECK("GET  / HTTP/1.1", PROTOCOL_TCP, 5);
	CHECK(" GET / HTTP/1.1", PROTOCOL_TCP, 1);
	CHECK("\nGET / HTTP/1.1", PROTOCOL_TCP, 1);
	CHECK("\r\r\nGET / HTTP/1.1", PROTOCOL_TCP, 2);
	CHECK("\r\n\r\n\r\n\r\n\r\nGET /", PROTOCOL_TCP, 9);
	CHECK("GET\t/ HTTP/1.1", PROTOCOL_TCP, 4);
	CHECK("SSH-2.0-OpenSSH_9.2\r\n", PROTOCOL_TCP, 6);
	CHECK("\x00\x00\x00\x20\x00\x03\x00\x00", PROTOCOL_TCP, 5);
	CHECK("\xff", PROTOCOL_TCP, 1);
}

// No peer makes us look for ever.
static void test_bounds(void **state)
{
	(void)state;
	enum protocol protocol;
	const struct framed_codec *codec;
	struct strbuf text = {0};
	for (int i = 0; i < LIMIT_HTTP_METHOD; i++)
		strbuf_add_str(&text, STR("A"));
	assert_int_equal(detect(strbuf_str(&text), &detect_default, &protocol, &codec), ERR_NEED_MORE);
	strbuf_add_str(&text, STR("A"));
	assert_int_equal(detect(strbuf_str(&text), &detect_default, &protocol, &codec), 0);
	assert_int_equal(protocol, PROTOCOL_TCP);
	text.len = 0;
	strbuf_add_str(&text, STR("SEARCH "));
	for (int i = 0; i < LIMIT_HTTP_TARGET; i++)
		strbuf_add_str(&text, STR("a"));
	assert_int_equal(detect(strbuf_str(&text), &detect_default, &protocol, &codec), ERR_NEED_MORE);
	strbuf_add_str(&text, STR("a"));
	assert_int_equal(detect(strbuf_str(&text), &detect_default, &protocol, &codec), 0);
	assert_int_equal(protocol, PROTOCOL_TCP);
	strbuf_done(&text);
}

#define HELLO "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"

static void test_tls(void **state)
{
	(void)state;
	CHECK(HELLO "rest", PROTOCOL_TLS, 11);
	CHECK("\x16\x03\x03\x00\x2a\x01\x00\x00\x26\x03\x03", PROTOCOL_TLS, 11); // no longer than it must be
	CHECK("\x16\x03\x01\x00\x04\x01\x00\x02\x00\x03\x03", PROTOCOL_TLS, 11); // in several records
}

// Protocols that begin with the same byte: the shape of the record and of the hello tells.
static void test_0x16_is_not_tls(void **state)
{
	(void)state;
	CHECK("\x16", PROTOCOL_UNKNOWN, 0);
	CHECK("\x16\x00", PROTOCOL_TCP, 2);
	CHECK("\x16hello", PROTOCOL_TCP, 2);
	CHECK("\x16\x03hello", PROTOCOL_TCP, 3);
	CHECK("\x16\x03\x05\x02\x00", PROTOCOL_TCP, 3);
	CHECK("\x16\x03\x01\x41\x00", PROTOCOL_TCP, 4);			     // longer than a record can be
	CHECK("\x16\x03\x01\x02\x00\x02", PROTOCOL_TCP, 6);		     // a ServerHello
	CHECK("\x16\x03\x01\x02\x00\x01\x02", PROTOCOL_TCP, 7);		     // 128 KiB of hello
	CHECK("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x02", PROTOCOL_TCP, 10); // version 2 inside
	CHECK("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x05", PROTOCOL_TCP, 11);
	CHECK("\x16\x03\x01\x00\x03\x01\x00\x00\x26\x03\x03", PROTOCOL_TCP, 11); // a record too short
	CHECK("\x16\x03\x01\x40\x01\x01\x00\x00\x26\x03\x03", PROTOCOL_TCP, 11); // a record too long
	CHECK("\x16\x03\x01\x00\x29\x01\x00\x00\x25\x03\x03", PROTOCOL_TCP, 11); // a hello too short
	CHECK("\x15\x03\x01\x00\x02\x01\x00", PROTOCOL_TCP, 1);			 // an alert
}

static void test_http2(void **state)
{
	(void)state;
	CHECK("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PROTOCOL_HTTP2, 24);
	CHECK("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", PROTOCOL_UNKNOWN, 0);
}

static void test_bolt(void **state)
{
	(void)state;
	CHECK("\x01\x01\x00\x01\x01\x11\x22\x33\x44", PROTOCOL_BOLT, 5); // request
	CHECK("\x01\x00\x00\x02\x01", PROTOCOL_BOLT, 5);		 // response
	CHECK("\x01\x02\x00\x01\x01", PROTOCOL_BOLT, 5);		 // one-way
	CHECK("\x01\x01\x00\x00\x01", PROTOCOL_BOLT, 5);		 // heartbeat
	CHECK("\x01\x01\x00\x64\x01", PROTOCOL_BOLT, 5);		 // goaway
	CHECK("\x02\x01\x01\x00\x01\x01\x11", PROTOCOL_BOLT, 6);	 // version 2
	CHECK("\x02\x02\x01\x00\x01\x01\x11", PROTOCOL_BOLT, 6);	 // with a checksum
	CHECK("\x01\x03\x00\x01\x01", PROTOCOL_TCP, 2);
	CHECK("\x01\x01\x01", PROTOCOL_TCP, 3);
	CHECK("\x01\x01\x00\x03", PROTOCOL_TCP, 4);
	CHECK("\x01\x01\x00\x01\x02", PROTOCOL_TCP, 5);
	CHECK("\x02\x03", PROTOCOL_TCP, 2);
	CHECK("\x02\x01\x03", PROTOCOL_TCP, 3);
	CHECK("\x02\x01\x01\x00\x01\x00", PROTOCOL_TCP, 6);
	CHECK("\x03\x01\x00\x01\x01", PROTOCOL_TCP, 1);
}

static void test_dubbo(void **state)
{
	(void)state;
	CHECK("\xda\xbb\xc2\x00", PROTOCOL_DUBBO, 2);
	CHECK("\xda", PROTOCOL_UNKNOWN, 0);
	CHECK("\xda\xbc", PROTOCOL_TCP, 2);
	CHECK("\x00\x00\x00\x32\xda\xbc\x00\x00\x00\x32", PROTOCOL_DUBBO_THRIFT, 6);
	CHECK("\x00\x00\x00\x32\xda\xbb", PROTOCOL_TCP, 6);
	CHECK("\x00\x01", PROTOCOL_UNKNOWN, 0);
}

static void test_tars(void **state)
{
	(void)state;
	CHECK("\x00\x00\x00\x40\x10\x01\x2c\x3c", PROTOCOL_TARS, 7);
	CHECK("\x00\x00\x00\x40\x10\x01\x66", PROTOCOL_TCP, 7);
	CHECK("\x00\xff\x00\x40\x10", PROTOCOL_TCP, 5); // too long for a frame of Tars
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_http1),
	    cmocka_unit_test(test_http1_undecided),
	    cmocka_unit_test(test_text_is_not_http1),
	    cmocka_unit_test(test_bounds),
	    cmocka_unit_test(test_tls),
	    cmocka_unit_test(test_0x16_is_not_tls),
	    cmocka_unit_test(test_http2),
	    cmocka_unit_test(test_bolt),
	    cmocka_unit_test(test_dubbo),
	    cmocka_unit_test(test_tars),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
