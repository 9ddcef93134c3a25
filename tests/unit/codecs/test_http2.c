// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP/2: what becomes a message, and what is refused because the next one could read it
// differently.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/http2.h"

#define F(n, v)                                                                                              \
	{                                                                                                    \
		.name = STR(n), .value = STR(v)                                                              \
	}
#define GET F(":method", "GET"), F(":scheme", "http"), F(":path", "/a?b"), F(":authority", "web.mesh")

enum { MAX_FIELDS = 12 };

static size_t count_of(const struct field *fields)
{
	size_t n = 0;
	while (n < MAX_FIELDS && fields[n].name.p)
		n++;
	return n;
}

static int read_request(const struct field *fields, struct message *ret)
{
	static struct field copy[MAX_FIELDS];
	memcpy(copy, fields, MAX_FIELDS * sizeof *copy);
	return http2_request_read(copy, count_of(copy), ret);
}

static void test_preface(void **state)
{
	(void)state;
	static const char text[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	for (size_t i = 0; i < HTTP2_PREFACE_BYTES; i++)
		assert_int_equal(http2_preface((struct str){text, i}), ERR_NEED_MORE);
	assert_int_equal(http2_preface(STR("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore")), 1);
	assert_int_equal(http2_preface(STR("PUT")), 0);
	assert_int_equal(http2_preface(STR("PRI * HTTP/1.1\r\n")), 0);
}

static void test_server_preface(void **state)
{
	(void)state;
	static const char settings[] = {0, 0, 18, 4, 0, 0, 0, 0, 0};
	for (size_t i = 1; i <= sizeof settings; i++)
		assert_true(http2_is_server_preface((struct str){settings, i}));
	assert_false(http2_is_server_preface((struct str){settings, 0}));
	assert_false(http2_is_server_preface((struct str){"\0\0\7\4\0\0\0\0\0", 9})); // no multiple of six
	assert_false(http2_is_server_preface((struct str){"\0\0\0\4\1\0\0\0\0", 9})); // an acknowledgement
	assert_false(http2_is_server_preface((struct str){"J\0\0\0\12"
							  "8.0",
							  8})); // MySQL
	assert_false(http2_is_server_preface(STR("220 mail")));
}

static void test_request(void **state)
{
	(void)state;
	static const struct field fields[MAX_FIELDS] = {GET,
							F("cookie", "a=1"),
							F("host", "WEB.mesh"),
							F("cookie", "b=2"),
							F("content-length", "12"),
							F("te", "trailers")};
	struct message message;
	assert_int_equal(read_request(fields, &message), 0);
	assert_str(message.head.method, "GET");
	assert_str(message.head.path, "/a?b");
	assert_str(message.head.authority, "web.mesh");
	assert_str(message.scheme, "http");
	assert_int_equal(message.head.field_count, 4); // Host is in the authority
	assert_str(message.head.fields[1].value, "b=2");
	assert_true(message.has_length && message.length == 12 && message.has_cookies);
	assert_int_equal(message.upgrade.len, 0);
}

static void test_request_forms(void **state)
{
	(void)state;
	static const struct field connect[MAX_FIELDS] = {F(":method", "CONNECT"), F(":authority", "a:443"),
							 F("content-length", "5"), F("b", "c")};
	static const struct field extended[MAX_FIELDS] = {F(":method", "CONNECT"),
							  F(":protocol", "websocket"), F(":scheme", "https"),
							  F(":path", "/chat"), F(":authority", "a")};
	static const struct field asterisk[MAX_FIELDS] = {F(":method", "OPTIONS"), F(":scheme", "http"),
							  F(":path", "*"), F(":authority", "a")};
	static const struct field host_only[MAX_FIELDS] = {F(":method", "GET"), F(":scheme", "http"),
							   F(":path", "/"), F("host", "a")};
	struct message message;
	assert_int_equal(read_request(connect, &message), 0);
	assert_str(message.head.authority, "a:443");
	assert_true(!message.has_length && message.head.field_count == 1); // it has no content
	assert_str(message.head.fields[0].name, "b");
	assert_int_equal(read_request(extended, &message), 0);
	assert_str(message.head.method, "GET");
	assert_str(message.upgrade, "websocket");
	assert_int_equal(read_request(asterisk, &message), 0);
	assert_int_equal(read_request(host_only, &message), 0);
	assert_str(message.head.authority, "a");
}

static void test_refused_requests(void **state)
{
	(void)state;
	static const struct field rows[][MAX_FIELDS] = {
	    {F(":method", "GET"), F(":scheme", "http")},		   // no path
	    {F(":method", "GET"), F(":path", "/"), F(":authority", "a")},  // no scheme
	    {F(":scheme", "http"), F(":path", "/"), F(":authority", "a")}, // no method
	    {GET, F(":path", "/")},					   // twice
	    {GET, F(":status", "200")},					   // of a response
	    {GET, F(":other", "x")},					   // unknown
	    {GET, F("a", "b"), F(":protocol", "x")},			   // behind a field
	    {GET, F(":protocol", "websocket")},				   // not CONNECT
	    {F(":method", "G T"), F(":scheme", "http"), F(":path", "/"), F(":authority", "a")}, // no token
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "a"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "/ HTTP/1.1"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "/\r\nx: y"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "/#a"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "*"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "h t"), F(":path", "/"), F(":authority", "a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "/"), F(":authority", "u@a")},
	    {F(":method", "GET"), F(":scheme", "http"), F(":path", "/"), F(":authority", "a b")},
	    {F(":method", "CONNECT"), F(":authority", "a:1"), F(":path", "/")},
	    {F(":method", "CONNECT"), F(":authority", "a")}, // no port
	    {F(":method", "CONNECT"), F(":protocol", "websocket"), F(":authority", "a")},
	    {GET, F("host", "other")},
	    {GET, F("host", "web.mesh"), F("host", "web.mesh")},
	    {GET, F("Name", "x")},
	    {GET, F("", "x")},
	    {GET, F("a b", "x")},
	    {GET, F("a:b", "x")},
	    {GET, F("a", "x\ny")},
	    {GET, F("a", "x\ry")},
	    {GET, F("a", "x\0y")},
	    {GET, F("a", " x")},
	    {GET, F("a", "x\t")},
	    {GET, F("connection", "close")},
	    {GET, F("keep-alive", "5")},
	    {GET, F("proxy-connection", "x")},
	    {GET, F("transfer-encoding", "chunked")},
	    {GET, F("upgrade", "h2c")},
	    {GET, F("http2-settings", "AA")},
	    {GET, F("te", "gzip")},
	    {GET, F("content-length", "1"), F("content-length", "1")},
	    {GET, F("content-length", "1, 1")},
	    {GET, F("content-length", "-1")},
	    {GET, F("content-length", "18446744073709551615")},
	    {GET, F("content-length", "")},
	};
	struct message message;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (read_request(rows[i], &message) != ERR_MALFORMED)
			fail_msg("row %zu was accepted", i);
}

// RFC 9110 8.6: no length where there can be no content; 0 with 204 says nothing and is left out.
static void test_lengths_of_responses(void **state)
{
	(void)state;
	static const struct {
		struct str status, length;
		int err;
		bool kept;
	} cases[] = {
	    {STR("200"), STR("5"), 0, true},
	    {STR("304"), STR("5"), 0, true},
	    {STR("204"), STR("0"), 0, false},
	    {STR("204"), STR("5"), ERR_MALFORMED, false},
	    {STR("103"), STR("0"), ERR_MALFORMED, false},
	    {STR("200"), STR("x"), ERR_MALFORMED, false},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct message message;
		struct field fields[] = {F(":status", ""), F("a", "b"), F("content-length", ""), F("c", "d")};
		fields[0].value = cases[i].status;
		fields[2].value = cases[i].length;
		assert_int_equal(http2_response_read(fields, 4, false, &message), cases[i].err);
		if (cases[i].err)
			continue;
		assert_int_equal(message.has_length, cases[i].kept);
		assert_int_equal(message.head.field_count, cases[i].kept ? 3 : 2);
		assert_true(str_eq(message.head.fields[message.head.field_count - 1].name, STR("c")));
		http2_length_drop(&message);
		assert_false(message.has_length);
		assert_int_equal(message.head.field_count, 2);
	}
}

static void test_response(void **state)
{
	(void)state;
	struct message message;
	struct field ok[] = {F(":status", "204"), F("a", "b")}, two[] = {F(":status", "200")},
		     switching[] = {F(":status", "101")}, odd[] = {F(":status", "99")},
		     path[] = {F(":status", "200"), F(":path", "/")}, none[] = {F("a", "b")};
	assert_int_equal(http2_response_read(ok, 2, false, &message), 0);
	assert_int_equal(message.head.status, 204);
	assert_int_equal(message.head.field_count, 1);
	assert_int_equal(http2_response_read(two, 1, true, &message), 0);
	assert_int_equal(message.head.status, 101); // of an upgrade: it is granted
	assert_int_equal(http2_response_read(switching, 1, false, &message), ERR_MALFORMED);
	assert_int_equal(http2_response_read(odd, 1, false, &message), ERR_MALFORMED);
	assert_int_equal(http2_response_read(path, 2, false, &message), ERR_MALFORMED);
	assert_int_equal(http2_response_read(none, 1, false, &message), ERR_MALFORMED);
}

static void test_trailers(void **state)
{
	(void)state;
	const struct field good[] = {F("grpc-status", "0")}, pseudo[] = {F(":status", "200")},
			   length[] = {F("content-length", "1")}, upper[] = {F("A", "b")};
	assert_int_equal(http2_trailers_check(good, 1), 0);
	assert_int_equal(http2_trailers_check(good, 0), 0);
	assert_int_equal(http2_trailers_check(pseudo, 1), ERR_MALFORMED);
	assert_int_equal(http2_trailers_check(length, 1), ERR_MALFORMED);
	assert_int_equal(http2_trailers_check(upper, 1), ERR_MALFORMED);
}

static void test_pseudo_fields(void **state)
{
	(void)state;
	struct field fields[HTTP2_PSEUDO_MAX];
	char status[3];
	struct message message = {.head = {.method = STR("GET"), .path = STR("/x"), .authority = STR("a")}};
	assert_int_equal(http2_request_pseudo(&message, fields), 4);
	assert_str(fields[1].value, "http");
	message.upgrade = STR("websocket");
	assert_int_equal(http2_request_pseudo(&message, fields), 5);
	assert_str(fields[0].value, "CONNECT");
	message = (struct message){.head = {.method = STR("CONNECT"), .authority = STR("a:1")}};
	assert_int_equal(http2_request_pseudo(&message, fields), 2);
	message = (struct message){.head.status = 101};
	assert_int_equal(http2_response_pseudo(&message, status, fields), 1);
	assert_str(fields[0].value, "200");
	struct field sent[] = {F("sec-websocket-accept", "x"), F("x", "y")};
	message.head.fields = sent;
	message.head.field_count = 2;
	assert_int_equal(http2_message_fields(&message, fields, 2), 1);
	assert_str(fields[0].name, "x");
	message.head.status = 200;
	assert_int_equal(http2_message_fields(&message, fields, 2), 2);
	assert_str(fields[0].name, "sec-websocket-accept");
	assert_int_equal(http2_message_fields(&message, fields, 1), 1);
}

static void test_settings(void **state)
{
	(void)state;
	uint8_t bytes[18];
	assert_int_equal(http2_settings_decode(STR("AAMAAABkAAQAoAAAAAIAAAAA"), bytes, sizeof bytes), 18);
	assert_memory_equal(bytes, "\0\3\0\0\0\x64\0\4\0\xa0\0\0\0\2\0\0\0\0", 18);
	assert_int_equal(http2_settings_decode(STR(""), bytes, sizeof bytes), 0);
	assert_int_equal(http2_settings_decode(STR("AAMAAABk"), bytes, 5), ERR_MALFORMED); // no room
	assert_int_equal(http2_settings_decode(STR("AAMAAAB"), bytes, sizeof bytes), ERR_MALFORMED);
	assert_int_equal(http2_settings_decode(STR("AAMA/ABk"), bytes, sizeof bytes), ERR_MALFORMED);
	assert_int_equal(http2_settings_decode(STR("AAMAAABkA"), bytes, sizeof bytes), ERR_MALFORMED);
}

// Every byte at every place of values of every length up to a few vectors, in memory that ends with them.
static void test_bytes_of_values(void **state)
{
	(void)state;
	for (size_t len = 1; len <= 40; len++) {
		char *text = mem_alloc(len);
		struct field field = {.name = STR("x"), .value = {text, len}};
		assert_non_null(text);
		memset(text, 'v', len);
		for (size_t at = 0; at < len; at++) {
			for (int c = 0; c < 256; c++) {
				bool edge = at == 0 || at == len - 1, blank = c == ' ' || c == '\t';
				bool valid = blank ? !edge : c >= 0x20 && c != 0x7f;
				text[at] = (char)c;
				assert_int_equal(http2_trailers_check(&field, 1), valid ? 0 : ERR_MALFORMED);
			}
			text[at] = 'v';
		}
		mem_free(text);
	}
}

// The names of HPACK's static table are known to be right, but pseudo-fields are among them.
static void test_constant_names(void **state)
{
	(void)state;
	const struct field late[MAX_FIELDS] = {
	    F(":method", "GET"),
	    F(":scheme", "http"),
	    F("accept", "a"),
	    {.name = STR(":path"), .value = STR("/"), .known = FIELD_PATH, .checked = true}};
	const struct field right[MAX_FIELDS] = {
	    GET, {.name = STR("accept"), .value = STR("a"), .known = FIELD_ACCEPT, .checked = true}};
	struct message message;
	assert_int_equal(read_request(late, &message), ERR_MALFORMED);
	assert_int_equal(http2_trailers_check(&late[3], 1), ERR_MALFORMED);
	assert_int_equal(read_request(right, &message), 0);
	assert_int_equal(message.head.field_count, 1);
}

// Of a request it is noted whether it is gRPC's, and its deadline as it is said.
static void test_calls_of_grpc(void **state)
{
	static const struct {
		struct field fields[MAX_FIELDS];
		bool grpc;
		const char *timeout;
	} rows[] = {
	    {{GET, F("content-type", "application/grpc"), F("grpc-timeout", "1S")}, true, "1S"},
	    {{GET, F("grpc-timeout", "20m"), F("host", "web.mesh"),
	      F("content-type", "application/grpc+proto")},
	     true,
	     "20m"},
	    {{GET, F("content-type", "Application/GRPC; x=y")}, true, ""},
	    {{GET, F("grpc-timeout", "1S"), F("grpc-timeout", "1H")}, false, "1S"}, // the first counts
	    {{GET, F("content-type", "application/grpc-web"), F("grpc-timeout", "1S")}, false, "1S"},
	    {{GET, F("x-content-type", "application/grpc"), F("x-grpc-timeout", "1S")}, false, ""},
	    {{GET}, false, ""},
	};
	struct field answer[] = {F(":status", "200"), F("content-type", "application/grpc"),
				 F("grpc-timeout", "1S")};
	struct message message;
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(read_request(rows[i].fields, &message), 0);
		assert_int_equal(message.grpc, rows[i].grpc);
		assert_str(message.grpc_timeout, rows[i].timeout);
	}
	assert_int_equal(http2_response_read(answer, ARRAY_SIZE(answer), false, &message), 0);
	assert_false(message.grpc);
	assert_int_equal(message.grpc_timeout.len, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_preface),	     cmocka_unit_test(test_server_preface),
	    cmocka_unit_test(test_request),	     cmocka_unit_test(test_request_forms),
	    cmocka_unit_test(test_refused_requests), cmocka_unit_test(test_response),
	    cmocka_unit_test(test_trailers),	     cmocka_unit_test(test_pseudo_fields),
	    cmocka_unit_test(test_settings),	     cmocka_unit_test(test_bytes_of_values),
	    cmocka_unit_test(test_constant_names),   cmocka_unit_test(test_lengths_of_responses),
	    cmocka_unit_test(test_calls_of_grpc),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
