// SPDX-License-Identifier: Apache-2.0
// Bodies: walked whole, byte by byte and in two pieces at every split; all ways agree on the length, the
// payload, the trailers and the fault.
#include "codecs/http1_check.h"

#include "base/str.h"

struct walked {
	size_t used;
	bool done;
	enum http1_fault fault;
	struct strbuf payload, trailer;
};

static struct http1_head head_of(enum http1_framing framing, uint64_t length)
{
	return (struct http1_head){.framing = (uint8_t)framing, .length = length};
}

// Decodes one piece to its end, from memory of exactly its size.
static void decode_piece(struct http1_body *body, struct str piece, struct walked *to)
{
	char *copy = malloc(piece.len ? piece.len : 1);
	memcpy(copy, piece.p, piece.len);
	size_t at = 0;
	while (at < piece.len && !to->done && !to->fault) {
		struct str payload, trailer;
		ptrdiff_t n = http1_body_decode(body, (struct str){copy + at, piece.len - at}, &payload,
						&trailer, &to->done, &to->fault);
		if (n <= 0)
			break;
		strbuf_add_str(&to->payload, payload);
		strbuf_add_str(&to->trailer, trailer);
		at += (size_t)n;
	}
	to->used += at;
	free(copy);
}

static void walk_piece(struct http1_body *body, struct str piece, struct walked *to)
{
	char *copy = malloc(piece.len ? piece.len : 1);
	memcpy(copy, piece.p, piece.len);
	ptrdiff_t n = http1_body_walk(body, (struct str){copy, piece.len}, &to->done, &to->fault);
	to->used += n > 0 ? (size_t)n : 0;
	free(copy);
}

typedef void (*piece_fn)(struct http1_body *body, struct str piece, struct walked *to);

// In pieces of `first` bytes, then `step` bytes each.
static struct walked in_pieces(const struct http1_head *head, struct str bytes, size_t first, size_t step,
			       piece_fn fn)
{
	struct walked to = {0};
	struct http1_body body;
	http1_body_init(&body, head);
	to.done = http1_body_done(&body);
	for (size_t at = 0, len = first; at < bytes.len && !to.done && !to.fault; at += len, len = step) {
		len = MIN(len, bytes.len - at);
		struct http1_body moved = body; // plain data: it can go elsewhere between any two pieces
		fn(&moved, (struct str){bytes.p + at, len}, &to);
		body = moved;
	}
	assert_true(to.fault || to.done == http1_body_done(&body));
	return to;
}

static void assert_same(struct walked got, const struct walked *expected, bool decoded)
{
	assert_int_equal(got.fault, expected->fault);
	assert_int_equal(got.done, expected->done);
	if (!got.fault)
		assert_int_equal(got.used, expected->used);
	if (decoded && !got.fault) {
		assert_true(str_eq(strbuf_str(&got.payload), strbuf_str(&expected->payload)));
		assert_true(str_eq(strbuf_str(&got.trailer), strbuf_str(&expected->trailer)));
	}
	strbuf_done(&got.payload);
	strbuf_done(&got.trailer);
}

static struct walked every_way(enum http1_framing framing, uint64_t length, struct str bytes)
{
	struct http1_head head = head_of(framing, length);
	struct walked whole = in_pieces(&head, bytes, bytes.len, bytes.len, decode_piece);
	assert_same(in_pieces(&head, bytes, bytes.len, bytes.len, walk_piece), &whole, false);
	for (size_t split = 1; split < bytes.len; split++) {
		assert_same(in_pieces(&head, bytes, split, bytes.len, decode_piece), &whole, true);
		assert_same(in_pieces(&head, bytes, split, bytes.len, walk_piece), &whole, false);
	}
	for (size_t step = 1; step <= 3; step++) {
		assert_same(in_pieces(&head, bytes, step, step, decode_piece), &whole, true);
		assert_same(in_pieces(&head, bytes, step, step, walk_piece), &whole, false);
	}
	return whole;
}

static void check(struct walked got, size_t used, bool done, const char *payload, const char *trailer)
{
	assert_int_equal(got.fault, HTTP1_OK);
	assert_int_equal(got.used, used);
	assert_int_equal(got.done, done);
	assert_true(str_eq(strbuf_str(&got.payload), str_from(payload)));
	assert_true(str_eq(strbuf_str(&got.trailer), str_from(trailer)));
	strbuf_done(&got.payload);
	strbuf_done(&got.trailer);
}

static void refused(struct str bytes, enum http1_fault fault)
{
	struct walked got = every_way(HTTP1_BODY_CHUNKED, 0, bytes);
	if (got.fault != fault)
		print_error("fault %d for %.*s\n", got.fault, STR_ARG(bytes));
	assert_int_equal(got.fault, fault);
	strbuf_done(&got.payload);
	strbuf_done(&got.trailer);
}

static void test_length(void **state)
{
	(void)state;
	check(every_way(HTTP1_BODY_LENGTH, 5, STR("helloGET /")), 5, true, "hello", "");
	check(every_way(HTTP1_BODY_LENGTH, 6, STR("hello")), 5, false, "hello", "");
	check(every_way(HTTP1_BODY_LENGTH, 0, STR("GET /")), 0, true, "", "");
	check(every_way(HTTP1_BODY_NONE, 0, STR("GET /")), 0, true, "", "");
	check(every_way(HTTP1_BODY_EOF, 0, STR("hello")), 5, false, "hello", "");
	check(every_way(HTTP1_BODY_TUNNEL, 0, STR("hello")), 5, false, "hello", "");
}

static void test_chunked(void **state)
{
	(void)state;
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("5\r\nhello\r\n0\r\n\r\nGET /")), 15, true, "hello",
	      "\r\n");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("0\r\n\r\n")), 5, true, "", "\r\n");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("000\r\n\r\n")), 7, true, "", "\r\n");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("3\r\nabc\r\n002\r\nde\r\n0\r\n\r\n")), 22, true, "abcde",
	      "\r\n");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("A\r\n0123456789\r\na\r\n0123456789\r\n")), 30, false,
	      "01234567890123456789", "");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("1;name=\"va;l\xc3\xa9ue\"\r\nx\r\n0 \t;last\r\n\r\n")),
	      34, true, "x", "\r\n");
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("1\r\n\r\r\n0\r\n\r\n")), 11, true, "\r",
	      "\r\n"); // payload is payload
}

static void test_trailers(void **state)
{
	(void)state;
	static const char trailers[] = "X-Sum: 1\r\nY:\r\n\r\n";
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("1\r\nx\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nnext")), 25, true,
	      "x", trailers);
	struct field fields[2];
	enum http1_fault fault;
	assert_int_equal(http1_trailers_parse(STR("X-Sum: 1\r\nY:\r\n\r\n"), 2, fields, &fault), 2);
	assert_str(fields[0].name, "X-Sum");
	assert_str(fields[0].value, "1");
	assert_str(fields[1].name, "Y");
	assert_int_equal(fields[1].value.len, 0);
	assert_int_equal(http1_trailers_parse(STR("\r\n"), 2, fields, &fault), 0);
	assert_int_equal(http1_trailers_parse(STR("X-Sum: 1\r\nY:\r\n\r\n"), 1, fields, &fault),
			 ERR_MALFORMED);
	assert_int_equal(fault, HTTP1_FAULT_HEAD_LARGE);
	assert_int_equal(http1_trailers_parse(STR("X-Sum : 1\r\n\r\n"), 2, fields, &fault), ERR_MALFORMED);
	for (size_t len = 0; len < sizeof trailers - 1; len++)
		assert_int_equal(http1_trailers_parse((struct str){trailers, len}, 2, fields, &fault),
				 ERR_NEED_MORE);
}

static void test_refused(void **state)
{
	(void)state;
	static const struct str rows[] = {
	    STR("\r\n"),
	    STR("g\r\n"),
	    STR("-1\r\nx"),
	    STR("+1\r\nx"),
	    STR("0x1\r\nx"),
	    STR(" 1\r\nx"),
	    STR("1\nx"),
	    STR("1\r\rx"),
	    STR("1 \r\nx"),
	    STR("1 2\r\nx"),
	    STR("1,1\r\nx"),
	    STR("\"1\"\r\nx"),
	    STR("1;a\nx"),
	    STR("1;a\rb\r\nx"),
	    STR("1;a\0\r\nx"),
	    STR("1;\x7f\r\nx"),
	    STR("1\r\nxy\r\n"),
	    STR("1\r\nx\n0\r\n\r\n"),
	    STR("1\r\nx\r0\r\n\r\n"),
	    STR("1\r\nx0\r\n\r\n"),
	    STR("0\n\n"),
	    STR("0\r\n\n"),
	    STR("0\r\nX\r\n\r\n"),
	    STR("0\r\nX : y\r\n\r\n"),
	    STR("0\r\n: y\r\n\r\n"),
	    STR("0\r\n folded\r\n\r\n"),
	    STR("0\r\nX: y\n\r\n"),
	    STR("0\r\nX: y\r\r\n"),
	    STR("0\r\nX: \0\r\n\r\n"),
	    STR("0\r\nX: y\r\n\rz"),
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		refused(rows[i], HTTP1_FAULT_CHUNK);
	refused(STR("8000000000000000\r\n"), HTTP1_FAULT_CONTENT_LARGE);
	refused(STR("10000000000000001\r\nx"), HTTP1_FAULT_CONTENT_LARGE);
	refused(STR("0000000000000000ffffffffffffffff1\r\n"), HTTP1_FAULT_CONTENT_LARGE);
	check(every_way(HTTP1_BODY_CHUNKED, 0, STR("7fffffffffffffff\r\nx")), 19, false, "x", "");
}

// Both the line of a chunk and the trailers have a cap.
static void test_limits(void **state)
{
	(void)state;
	static char bytes[LIMIT_HTTP_HEAD + 64];
	struct walked got;
	struct http1_head head = head_of(HTTP1_BODY_CHUNKED, 0);
	memset(bytes, '0', sizeof bytes);
	memcpy(bytes + LIMIT_HTTP_CHUNK_LINE - 2, "\r\n", 2);
	got = in_pieces(&head, (struct str){bytes, LIMIT_HTTP_CHUNK_LINE}, sizeof bytes, 1, walk_piece);
	assert_int_equal(got.fault, HTTP1_OK);
	memset(bytes, '0', sizeof bytes);
	got = in_pieces(&head, (struct str){bytes, LIMIT_HTTP_CHUNK_LINE + 1}, 1, 7, walk_piece);
	assert_int_equal(got.fault, HTTP1_FAULT_CHUNK);
	memcpy(bytes, "0\r\nX:", 5);
	got = in_pieces(&head, (struct str){bytes, LIMIT_HTTP_HEAD + 3}, sizeof bytes, 1, walk_piece);
	assert_int_equal(got.fault, HTTP1_OK);
	got = in_pieces(&head, (struct str){bytes, LIMIT_HTTP_HEAD + 4}, 1000, 1000, walk_piece);
	assert_int_equal(got.fault, HTTP1_FAULT_HEAD_LARGE);
}

// A fault leaves the state where it was.
static void test_a_fault_changes_nothing(void **state)
{
	(void)state;
	struct http1_head head = head_of(HTTP1_BODY_CHUNKED, 0);
	struct http1_body body, before;
	enum http1_fault fault;
	bool done;
	http1_body_init(&body, &head);
	assert_int_equal(http1_body_walk(&body, STR("5\r\nhel"), &done, &fault), 6);
	before = body;
	assert_int_equal(http1_body_walk(&body, STR("lo!!"), &done, &fault), ERR_MALFORMED);
	assert_memory_equal(&body, &before, sizeof body);
	assert_int_equal(http1_body_walk(&body, STR("lo\r\n0\r\n\r\n"), &done, &fault), 9);
	assert_true(done);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_length),   cmocka_unit_test(test_chunked),
	    cmocka_unit_test(test_trailers), cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_limits),   cmocka_unit_test(test_a_fault_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
