// SPDX-License-Identifier: Apache-2.0
// HTTP/1 to the message of both versions and back, and what must never become a line of HTTP/1.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1_convert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define F(n, v)                                                                                              \
	{                                                                                                    \
		.name = STR(n), .value = STR(v)                                                              \
	}

static struct arena arena;
static struct field room[LIMIT_HTTP_HEADERS];

static void done(void)
{
	arena_done(&arena);
	arena_thread_done();
	buf_thread_done();
}

static void parse_request(const char *text, struct http1_head *head)
{
	enum http1_fault fault;
	head->head.fields = room;
	assert_true(http1_request_parse(str_from(text), LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS, head, &fault) >
		    0);
}

static void assert_queue(struct bufq *q, const char *text)
{
	char *bytes = malloc(q->bytes + 1);
	bytes[bufq_peek(q, 0, bytes, q->bytes)] = 0;
	assert_string_equal(bytes, text);
	free(bytes);
	bufq_clear(q);
}

static void test_from_request(void **state)
{
	(void)state;
	struct http1_head head;
	struct message message;
	parse_request(
	    "POST /a?b HTTP/1.1\r\nHost: Web.mesh\r\nX-One: A b\r\nConnection: x-hop, keep-alive\r\n"
	    "X-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: other\r\nHTTP2-Settings: AA\r\n"
	    "Transfer-Encoding: chunked\r\n\r\n",
	    &head);
	assert_int_equal(http1_to_message(&arena, &head, &message), 0);
	assert_str(message.head.method, "POST");
	assert_str(message.head.path, "/a?b");
	assert_str(message.head.authority, "Web.mesh");
	assert_int_equal(message.head.field_count, 2);
	assert_str(message.head.fields[0].name, "x-one");
	assert_str(message.head.fields[0].value, "A b");
	assert_str(message.head.fields[1].name, "te");
	assert_false(message.has_length || message.end);
	assert_int_equal(message.upgrade.len, 0);
	done();
}

static void test_from_upgrade(void **state)
{
	(void)state;
	struct http1_head head;
	struct message message;
	parse_request("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
		      &head);
	assert_int_equal(http1_to_message(&arena, &head, &message), 0);
	assert_str(message.upgrade, "websocket");
	assert_true(message.end);
	parse_request("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", &head);
	assert_int_equal(http1_to_message(&arena, &head, &message), 0);
	assert_int_equal(message.upgrade.len, 0);
	done();
}

// RFC 9110 8.6, 9.3.6.
static void test_lengths_of_responses(void **state)
{
	(void)state;
	static const struct {
		const char *status, *method;
		bool stays;
	} rows[] = {{"100", "PUT", false}, {"103", "GET", false},     {"204", "GET", false},
		    {"304", "GET", true},  {"200", "CONNECT", false}, {"403", "CONNECT", true},
		    {"200", "HEAD", true}, {"205", "GET", true}};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[80];
		struct http1_head head = {.head.fields = room};
		struct message message;
		enum http1_fault fault;
		snprintf(text, sizeof text, "HTTP/1.1 %s X\r\nA: b\r\nContent-Length: 5\r\n\r\n",
			 rows[i].status);
		assert_true(http1_response_parse(str_from(text), LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS,
						 str_from(rows[i].method), &head, &fault) > 0);
		assert_int_equal(http1_to_message(&arena, &head, &message), 0);
		assert_int_equal(message.has_length, rows[i].stays);
		assert_int_equal(message.head.field_count, 1 + rows[i].stays);
	}
	done();
}

static void test_trailers(void **state)
{
	(void)state;
	const struct field fields[] = {F("X-Sum", "1"), F("Content-Length", "5"), F("Host", "b"),
				       F("Transfer-Encoding", "chunked"), F("Grpc-Status", "0")};
	struct field *kept;
	size_t count;
	assert_int_equal(http1_to_trailers(&arena, fields, ARRAY_SIZE(fields), &kept, &count), 0);
	assert_int_equal(count, 2);
	assert_str(kept[0].name, "x-sum");
	assert_str(kept[1].name, "grpc-status");
	done();
}

static void test_write_request(void **state)
{
	(void)state;
	struct field fields[] = {F("cookie", "a=1"), F("x", "y"), F("cookie", "b=2")};
	struct message message = {.head = {.method = STR("PUT"),
					   .path = STR("/p"),
					   .authority = STR("h:1"),
					   .fields = fields,
					   .field_count = 3},
				  .has_cookies = true};
	struct http1_style style = {.chunked = true};
	struct bufq out = {0};
	assert_int_equal(http1_write_request(&out, &message, &style), 0);
	assert_queue(&out, "PUT /p HTTP/1.1\r\nhost: h:1\r\ncookie: a=1; b=2\r\nx: y\r\n"
			   "transfer-encoding: chunked\r\n\r\n");
	style = (struct http1_style){0};
	message.end = true;
	assert_int_equal(http1_write_request(&out, &message, &style), 0);
	assert_queue(&out,
		     "PUT /p HTTP/1.1\r\nhost: h:1\r\ncookie: a=1; b=2\r\nx: y\r\ncontent-length: 0\r\n\r\n");
	message = (struct message){.head = {.method = STR("CONNECT"), .authority = STR("h:1")}};
	assert_int_equal(http1_write_request(&out, &message, &style), 0);
	assert_queue(&out, "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n");
	done();
}

static void test_write_upgrade(void **state)
{
	(void)state;
	struct field fields[] = {F("sec-websocket-key", "theirs"), F("sec-websocket-version", "13")};
	struct message message = {.head = {.method = STR("GET"),
					   .path = STR("/"),
					   .authority = STR("h"),
					   .fields = fields,
					   .field_count = 2}};
	const struct http1_style style = {.upgrade = STR("websocket"), .websocket = STR("ours")};
	struct bufq out = {0};
	assert_int_equal(http1_write_request(&out, &message, &style), 0);
	assert_queue(&out, "GET / HTTP/1.1\r\nhost: h\r\nsec-websocket-version: 13\r\nConnection: Upgrade\r\n"
			   "Upgrade: websocket\r\nSec-WebSocket-Key: ours\r\n\r\n");
	message = (struct message){.head.status = 101};
	assert_int_equal(http1_write_response(&out, &message, &style), 0);
	assert_queue(&out, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
			   "Sec-WebSocket-Accept: ours\r\n\r\n");
	done();
}

// Whatever a decoder let through: it does not become a second line, a second head, or other framing.
static void test_nothing_is_injected(void **state)
{
	(void)state;
	static const struct field bad[] = {F("a", "b\r\nx: y"),
					   F("a", "b\nc"),
					   F("a", "b\0c"),
					   F("a\r\nb", "c"),
					   F("a b", "c"),
					   F("", "c"),
					   F("a:", "c"),
					   F("transfer-encoding", "chunked"),
					   F("connection", "close"),
					   F("upgrade", "x")};
	const struct http1_style style = {0};
	struct bufq out = {0};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct field field = bad[i];
		struct message message = {.head = {.method = STR("GET"),
						   .path = STR("/"),
						   .authority = STR("a"),
						   .fields = &field,
						   .field_count = 1}};
		assert_int_equal(http1_write_request(&out, &message, &style), ERR_MALFORMED);
		message.head.status = 200;
		assert_int_equal(http1_write_response(&out, &message, &style), ERR_MALFORMED);
		assert_true(bufq_empty(&out));
	}
	static const struct str targets[] = {STR(""), STR("/a b"), STR("/\r\n"), STR("/#")};
	for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
		struct message message = {
		    .head = {.method = STR("GET"), .path = targets[i], .authority = STR("a")}};
		assert_int_equal(http1_write_request(&out, &message, &style), ERR_MALFORMED);
	}
	const struct field injected = F("x", "y\r\n\r\nGET / HTTP/1.1");
	assert_int_equal(http1_write_end(&out, &injected, 1), ERR_MALFORMED);
	assert_true(bufq_empty(&out));
	done();
}

static void test_chunks(void **state)
{
	(void)state;
	const struct field trailer = F("x-sum", "1");
	struct bufq out = {0};
	assert_int_equal(http1_write_chunk(&out), 0);
	assert_true(bufq_empty(&out)); // an empty chunk would be the end
	bufq_add_static(&out, STR("hello hello hello"));
	assert_int_equal(http1_write_chunk(&out), 0);
	assert_queue(&out, "11\r\nhello hello hello\r\n");
	assert_int_equal(http1_write_end(&out, NULL, 0), 0);
	assert_queue(&out, "0\r\n\r\n");
	assert_int_equal(http1_write_end(&out, &trailer, 1), 0);
	assert_queue(&out, "0\r\nx-sum: 1\r\n\r\n");
	done();
}

static int all_steps(void)
{
	struct http1_head head;
	struct message message;
	struct bufq out = {0};
	const struct http1_style style = {.chunked = true};
	const struct field trailer = F("X-Sum", "1");
	struct field *kept = NULL;
	size_t count = 0;
	parse_request("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 5\r\n\r\n", &head);
	int err = http1_to_message(&arena, &head, &message);
	if (!err)
		err = http1_write_request(&out, &message, &style);
	if (!err)
		err = http1_write_chunk(&out);
	if (!err)
		err = http1_to_trailers(&arena, &trailer, 1, &kept, &count);
	if (!err)
		err = http1_write_end(&out, kept, count);
	bufq_clear(&out);
	done();
	return err;
}

static void test_failing_allocations(void **state)
{
	(void)state;
	int err = -ENOMEM;
	for (long n = 0; err; n++) {
		mem_fail_set(n);
		err = all_steps();
		mem_fail_set(-1);
		assert_true(err == 0 || err == -ENOMEM);
		assert_true(n < 100);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_from_request),	 cmocka_unit_test(test_from_upgrade),
	    cmocka_unit_test(test_lengths_of_responses), cmocka_unit_test(test_trailers),
	    cmocka_unit_test(test_write_request),	 cmocka_unit_test(test_write_upgrade),
	    cmocka_unit_test(test_nothing_is_injected),	 cmocka_unit_test(test_chunks),
	    cmocka_unit_test(test_failing_allocations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
