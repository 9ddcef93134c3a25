// SPDX-License-Identifier: Apache-2.0
// Heads that two implementations could read differently: all of them are refused, and the refusal comes at
// the first byte that is wrong, whatever follows.
#include "codecs/http1_check.h"

static void post_refused(const char *fields, size_t len, enum http1_fault fault)
{
	char text[512];
	int n = snprintf(text, sizeof text, "POST / HTTP/1.1\r\nHost: a\r\n");
	memcpy(text + n, fields, len);
	memcpy(text + n + len, "\r\n\r\n", 4);
	request_refused((struct str){text, (size_t)n + len + 4}, fault);
	n = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n");
	memcpy(text + n, fields, len);
	memcpy(text + n + len, "\r\n\r\n", 4);
	response_refused((struct str){text, (size_t)n + len + 4}, fault);
}

// Of a request and of a response.
#define REFUSED(fields, fault) post_refused(fields, sizeof(fields) - 1, fault)

static void test_content_length(void **state)
{
	(void)state;
	static const char *const values[] = {
	    "",	     "+5",  "-5", "5 ,5", "5,5", "5, 5", "0x5",	 "5a", "5 5",
	    "\"5\"", "5.0", "5;", "5-6",  "1e1", "\xb9", "5\t6", ",5", "5,",
	};
	char text[128];
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		int len = snprintf(text, sizeof text, "Content-Length: %s", values[i]);
		post_refused(text, (size_t)len, HTTP1_FAULT_LENGTH);
	}
	REFUSED("Content-Length: 9223372036854775808", HTTP1_FAULT_CONTENT_LARGE);
	REFUSED("Content-Length: 18446744073709551616", HTTP1_FAULT_CONTENT_LARGE);
	REFUSED("Content-Length: 99999999999999999999999", HTTP1_FAULT_CONTENT_LARGE);
	REFUSED("Content-Length: 5\r\nContent-Length: 5", HTTP1_FAULT_LENGTH);
	REFUSED("Content-Length: 5\r\nCONTENT-LENGTH: 6", HTTP1_FAULT_LENGTH);
	REFUSED("Content-Length: 0\r\nX: y\r\ncontent-length: 0", HTTP1_FAULT_LENGTH);
}

static void test_length_beside_coding(void **state)
{
	(void)state;
	REFUSED("Content-Length: 5\r\nTransfer-Encoding: chunked", HTTP1_FAULT_LENGTH_CODING);
	REFUSED("Transfer-Encoding: chunked\r\nContent-Length: 5", HTTP1_FAULT_LENGTH_CODING);
	REFUSED("Content-Length: 0\r\ntransfer-encoding: identity", HTTP1_FAULT_LENGTH_CODING);
}

static void test_codings(void **state)
{
	(void)state;
	static const char *const values[] = {
	    "",
	    "identity",
	    "gzip",
	    "gzip, chunked",
	    "chunked, gzip",
	    "chunked,",
	    ",chunked",
	    "chunked, chunked",
	    "chunked;q=1",
	    "\"chunked\"",
	    "xchunked",
	    "chunkedx",
	    "chunke",
	    "chunked chunked",
	    "x chunked",
	    "chunked\x80",
	    "chunked\xa0",
	    "\xef\xbb\277chunked",
	};
	char text[128];
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		int len = snprintf(text, sizeof text, "Transfer-Encoding: %s", values[i]);
		post_refused(text, (size_t)len, HTTP1_FAULT_CODING);
	}
	REFUSED("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", HTTP1_FAULT_CODING);
	REFUSED("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", HTTP1_FAULT_CODING);
	REFUSED("Transfer-Encoding: \x0b"
		"chunked",
		HTTP1_FAULT_SYNTAX);
	REFUSED("Transfer-Encoding: chunked\x0c", HTTP1_FAULT_SYNTAX);
	request_refused(STR("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
			HTTP1_FAULT_CODING_VERSION);
	response_refused(STR("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
			 HTTP1_FAULT_CODING_VERSION);
}

static void test_field_lines(void **state)
{
	(void)state;
	REFUSED("Content-Length : 5", HTTP1_FAULT_SYNTAX);
	REFUSED("Transfer-Encoding\t: chunked", HTTP1_FAULT_SYNTAX);
	REFUSED(" Transfer-Encoding: chunked", HTTP1_FAULT_SYNTAX); // a fold of the line above
	REFUSED("X: a\r\n b", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\r\n\tContent-Length: 5", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\r\n \r\nY: b", HTTP1_FAULT_SYNTAX);
	REFUSED(": x", HTTP1_FAULT_SYNTAX);
	REFUSED("no colon", HTTP1_FAULT_SYNTAX);
	REFUSED("X", HTTP1_FAULT_SYNTAX);
	REFUSED("Tr\xc3\xa4nsfer: x", HTTP1_FAULT_SYNTAX);
	REFUSED("(X): y", HTTP1_FAULT_SYNTAX);
	REFUSED("X\"Y: z", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\nContent-Length: 5", HTTP1_FAULT_SYNTAX); // a bare LF
	REFUSED("X: a\rContent-Length: 5", HTTP1_FAULT_SYNTAX); // a bare CR
	REFUSED("X: a\r\r\nY: b", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\0b", HTTP1_FAULT_SYNTAX);
	REFUSED("X\0: a", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\x7f", HTTP1_FAULT_SYNTAX);
	REFUSED("X: a\x1b", HTTP1_FAULT_SYNTAX);
	REFUSED("Connection: close x", HTTP1_FAULT_SYNTAX);
}

static void test_ends_of_heads(void **state)
{
	(void)state;
	request_refused(STR("GET / HTTP/1.1\nHost: a\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.1\r\nHost: a\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.1\r\nHost: a\r\n\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.1\r\nHost: a\r\n\rX"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.1\rHost: a\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"), HTTP1_FAULT_SYNTAX);
}

static void test_request_lines(void **state)
{
	(void)state;
	static const struct str lines[] = {
	    STR(" GET / HTTP/1.1"),  STR("GET  / HTTP/1.1"),	STR("GET /  HTTP/1.1"),
	    STR("GET / HTTP/1.1 "),  STR("GET\t/ HTTP/1.1"),	STR("GET /\tHTTP/1.1"),
	    STR("GET / x HTTP/1.1"), STR("GET HTTP/1.1"),	STR("GET"),
	    STR("/ HTTP/1.1"),	     STR("G@T / HTTP/1.1"),	STR("G\0T / HTTP/1.1"),
	    STR("GET /\0 HTTP/1.1"), STR("GET /\x0b HTTP/1.1"), STR("GET / HTTP/1.1\0"),
	    STR("GET:/ HTTP/1.1"),   STR("GET / HTTP/ 1.1"),	STR("GET / HTTP/1,1"),
	    STR("GET / HTTP/+1.1"),  STR("GET / HTTP/1.1x"),
	};
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		char text[128];
		memcpy(text, lines[i].p, lines[i].len);
		memcpy(text + lines[i].len, "\r\nHost: a\r\n\r\n", 13);
		request_refused((struct str){text, lines[i].len + 13}, HTTP1_FAULT_SYNTAX);
	}
}

static void test_refused_before_the_end(void **state)
{
	(void)state;
	// No end of the head in sight, and none is waited for.
	request_refused(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n"),
			HTTP1_FAULT_LENGTH);
	request_refused(STR("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n"), HTTP1_FAULT_HOST);
	request_refused(STR("GET / HTTP/1.1\r\n "), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/3.0"), HTTP1_FAULT_VERSION);
}

// What looks odd and is not ambiguous passes.
static void test_accepted(void **state)
{
	(void)state;
	request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tCHUNKED\t \r\n\r\n"));
	request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:5\r\n\r\n"));
	request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nX-Content-Length: 1,2\r\nContent-Length-X: y\r\n\r\n"));
	request_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nConnection: , close ,\r\n\r\n"));
	request_ok(STR("GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~: :x:\r\n\r\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_content_length),
	    cmocka_unit_test(test_length_beside_coding),
	    cmocka_unit_test(test_codings),
	    cmocka_unit_test(test_field_lines),
	    cmocka_unit_test(test_ends_of_heads),
	    cmocka_unit_test(test_request_lines),
	    cmocka_unit_test(test_refused_before_the_end),
	    cmocka_unit_test(test_accepted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
