// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>

static int done(void **state)
{
	(void)state;
	buf_thread_done();
	return 0;
}

static void assert_queue(const struct bufq *q, const char *text)
{
	char bytes[4096];
	assert_int_equal(q->bytes, strlen(text));
	assert_int_equal(bufq_peek(q, 0, bytes, sizeof bytes), strlen(text));
	assert_memory_equal(bytes, text, strlen(text));
}

static void appending_and_dropping(void **state)
{
	(void)state;
	struct bufq q = {0};
	assert_int_equal(bufq_add_static(&q, STR("head ")), 0);
	assert_int_equal(bufq_add_copy(&q, "body", 4), 0);
	assert_int_equal(bufq_add_copy(&q, " more", 5), 0);
	assert_queue(&q, "head body more");
	struct iovec iov[8];
	assert_int_equal(bufq_iov(&q, iov, 8), 2); // copies adjoin
	bufq_drop(&q, 7);
	assert_queue(&q, "dy more");
	bufq_drop(&q, 100);
	assert_true(bufq_empty(&q));
	assert_null(bufq_first(&q).p);
}

static void slices_share_a_chunk(void **state)
{
	(void)state;
	struct bufq a = {0}, b = {0};
	struct chunk *chunk = chunk_new(16);
	memcpy(chunk->data, "0123456789", 10);
	chunk->used = 10;
	assert_int_equal(bufq_add_slice(&a, (struct slice){chunk, chunk->data, 4}), 0);
	assert_int_equal(bufq_add_slice(&a, (struct slice){chunk, chunk->data + 4, 3}), 0);
	assert_int_equal(chunk->refs, 2); // joined with the one before
	assert_int_equal(bufq_clone(&b, &a), 0);
	assert_int_equal(chunk->refs, 3);
	chunk_unref(chunk);
	bufq_clear(&a);
	assert_queue(&b, "0123456");
	bufq_clear(&b);
}

static void moving_parts(void **state)
{
	(void)state;
	struct bufq from = {0}, to = {0};
	bufq_add_static(&from, STR("abc"));
	bufq_add_static(&from, STR("def"));
	assert_int_equal(bufq_move(&to, &from, 4), 0);
	assert_queue(&to, "abcd");
	assert_queue(&from, "ef");
	assert_int_equal(bufq_move(&to, &from, 100), 0);
	assert_queue(&to, "abcdef");
	assert_true(bufq_empty(&from));
	bufq_clear(&to);
}

// Into an empty queue all goes as it is, and the other one is as new.
static void moving_all(void **state)
{
	(void)state;
	enum { FIRST = 300, SECOND = 400 }; // so long that nothing is gathered
	struct bufq from = {0}, to = {0};
	struct iovec iov[4];
	struct chunk *chunk = chunk_new(FIRST + 1 + SECOND);
	chunk->used = FIRST + 1 + SECOND;
	bufq_add_slice(&from, (struct slice){chunk, chunk->data, FIRST});
	bufq_add_slice(&from, (struct slice){chunk, chunk->data + FIRST + 1, SECOND});
	assert_int_equal(bufq_move(&to, &from, FIRST + SECOND), 0);
	assert_int_equal(to.bytes, FIRST + SECOND);
	assert_int_equal(bufq_iov(&to, iov, 4), 2);
	assert_ptr_equal(iov[0].iov_base, chunk->data);
	assert_ptr_equal(iov[1].iov_base, chunk->data + FIRST + 1);
	assert_int_equal(chunk->refs, 3);
	assert_queue(&from, "");
	bufq_add_static(&from, STR("new"));
	assert_queue(&from, "new");
	bufq_clear(&from);
	bufq_clear(&to);
	assert_int_equal(chunk->refs, 1);
	chunk_unref(chunk);
}

enum { CRUMBS = 5000 };

// Every second byte of it is a crumb.
static struct chunk *crumbled(void)
{
	struct chunk *chunk = chunk_new(CRUMBS * 2);
	chunk->used = CRUMBS * 2;
	for (int i = 0; i < CRUMBS; i++)
		chunk->data[2 * i] = (uint8_t)i;
	return chunk;
}

static struct slice crumb(struct chunk *chunk, int i)
{
	return (struct slice){chunk, chunk->data + 2 * i, 1};
}

// `refs`: to the chunk, its owner's included.
static void assert_gathered(struct bufq *q, struct chunk *chunk, unsigned refs)
{
	struct iovec iov[CRUMBS];
	assert_int_equal(q->bytes, CRUMBS);
	assert_in_range(bufq_iov(q, iov, CRUMBS), 1, CRUMBS / 1024 + 2);
	assert_int_equal(chunk->refs, refs);
	for (int i = 0; i < CRUMBS; i++) {
		uint8_t byte;
		assert_int_equal(bufq_peek(q, (size_t)i, &byte, 1), 1);
		assert_int_equal(byte, (uint8_t)i);
	}
	bufq_clear(q);
	chunk_unref(chunk);
}

static void moving_many_crumbs_at_once(void **state)
{
	(void)state;
	struct bufq from = {0}, to = {0};
	struct chunk *chunk = crumbled();
	for (int i = 0; i < CRUMBS; i++)
		bufq_add_slice(&from, crumb(chunk, i));
	assert_int_equal(bufq_move(&to, &from, CRUMBS), 0);
	assert_true(bufq_empty(&from));
	assert_gathered(&to, chunk, 2); // of the first byte
}

static void cloning_few_bytes_often(void **state)
{
	(void)state;
	struct bufq one = {0}, to = {0};
	struct chunk *chunk = crumbled();
	for (int i = 0; i < CRUMBS; i++) {
		bufq_add_slice(&one, crumb(chunk, i));
		assert_int_equal(bufq_clone(&to, &one), 0);
		assert_int_equal(one.bytes, 1);
		bufq_clear(&one);
	}
	assert_int_equal(bufq_clone(&to, &one), 0); // of nothing
	assert_gathered(&to, chunk, 2);
}

static void cloning_many_crumbs_at_once(void **state)
{
	(void)state;
	struct bufq from = {0}, to = {0};
	struct chunk *chunk = crumbled();
	for (int i = 0; i < CRUMBS; i++)
		bufq_add_slice(&from, crumb(chunk, i));
	assert_int_equal(bufq_clone(&to, &from), 0);
	assert_int_equal(from.bytes, CRUMBS);
	bufq_clear(&from);
	assert_gathered(&to, chunk, 2);
}

static void taking(void **state)
{
	(void)state;
	struct bufq q = {0};
	char bytes[8] = "........";
	struct chunk *chunk = chunk_new(0);
	memcpy(chunk->data, "abcdef", chunk->used = 6);
	bufq_add_slice(&q, (struct slice){chunk, chunk->data, 2});
	bufq_add_slice(&q, (struct slice){chunk, chunk->data + 3, 3});
	bufq_take(&q, bytes, 0);
	assert_queue(&q, "abdef");
	bufq_take(&q, bytes, 1);
	assert_memory_equal(bytes, "a.......", 8);
	bufq_take(&q, bytes, 3);
	assert_memory_equal(bytes, "bde.....", 8);
	assert_queue(&q, "f");
	assert_int_equal(chunk->refs, 2);
	bufq_take(&q, bytes + 4, 100);
	assert_memory_equal(bytes, "bde.f...", 8);
	assert_queue(&q, "");
	assert_int_equal(chunk->refs, 1);
	bufq_add_static(&q, STR("new"));
	assert_queue(&q, "new");
	bufq_clear(&q);
	chunk_unref(chunk);
}

// A head and its body, read together and queued apart, leave as one piece.
static void moving_what_adjoins(void **state)
{
	(void)state;
	struct bufq head = {0}, body = {0}, out = {0};
	struct iovec iov[4];
	struct chunk *chunk = chunk_new(0);
	memcpy(chunk->data, "headbody", chunk->used = 8);
	bufq_add_slice(&head, (struct slice){chunk, chunk->data, 4});
	bufq_add_slice(&body, (struct slice){chunk, chunk->data + 4, 4});
	assert_int_equal(bufq_move(&out, &head, 4), 0);
	assert_int_equal(bufq_move(&out, &body, 4), 0);
	assert_int_equal(bufq_iov(&out, iov, 4), 1);
	assert_int_equal(chunk->refs, 2);
	assert_queue(&out, "headbody");
	bufq_clear(&out);
	assert_int_equal(chunk->refs, 1);
	chunk_unref(chunk);
}

// A peer that sends byte by byte does not make a queue hold all that was received around the bytes.
static void moving_few_bytes_often(void **state)
{
	(void)state;
	struct bufq out = {0};
	struct chunk *chunk = crumbled();
	for (int i = 0; i < CRUMBS; i++) {
		struct bufq one = {0};
		bufq_add_slice(&one, crumb(chunk, i));
		assert_int_equal(bufq_move(&out, &one, 1), 0);
	}
	assert_gathered(&out, chunk, 2); // of the first byte
}

static void flattening(void **state)
{
	(void)state;
	struct bufq q = {0};
	struct slice slice;
	bufq_add_static(&q, STR("ab"));
	bufq_add_static(&q, STR("cd"));
	assert_int_equal(bufq_flatten(&q, &slice), 0);
	assert_int_equal(slice.len, 4);
	assert_memory_equal(slice.p, "abcd", 4);
	bufq_clear(&q);
	// Byte by byte, and always one piece.
	for (int i = 0; i < 3000; i++) {
		uint8_t byte = (uint8_t)i;
		assert_int_equal(bufq_append_flat(&q, (struct slice){NULL, &byte, 1}), 0);
		assert_int_equal(bufq_first(&q).len, i + 1);
	}
	for (int i = 0; i < 3000; i++)
		assert_int_equal(bufq_first(&q).p[i], (uint8_t)i);
	bufq_clear(&q);
}

// The first bytes become one piece, the others stay where they are.
static void pulling(void **state)
{
	(void)state;
	struct bufq q = {0};
	bufq_add_static(&q, STR("ab"));
	bufq_add_static(&q, STR("cd"));
	bufq_add_static(&q, STR("ef"));
	assert_ptr_equal(bufq_pull(&q, 2), bufq_first(&q).p);
	assert_int_equal(bufq_first(&q).len, 2);
	uint8_t *front = bufq_pull(&q, 3);
	assert_memory_equal(front, "abc", 3);
	assert_queue(&q, "abcdef");
	front[0] = 'A';
	assert_queue(&q, "Abcdef");
	assert_memory_equal(bufq_pull(&q, 6), "Abcdef", 6);
	bufq_drop(&q, 6);
	assert_true(bufq_empty(&q));
	bufq_add_static(&q, STR("xy"));
	bufq_add_static(&q, STR("z"));
	assert_memory_equal(bufq_pull(&q, 3), "xyz", 3); // all of it: the end moves, too
	bufq_add_static(&q, STR("!"));
	assert_queue(&q, "xyz!");
	bufq_clear(&q);
}

static void a_few_bytes_do_not_hold_a_chunk(void **state)
{
	(void)state;
	struct bufq q = {0};
	struct chunk *rx = buf_rx(CHUNK_SIZE);
	memcpy(rx->data, "GET ", 4);
	rx->used = 4;
	assert_int_equal(bufq_add_slice(&q, (struct slice){rx, rx->data, 4}), 0);
	assert_int_equal(bufq_compact(&q), 0);
	assert_int_equal(rx->refs, 1);
	assert_queue(&q, "GET ");
	bufq_clear(&q);
}

static void the_receive_chunk_starts_over(void **state)
{
	(void)state;
	struct chunk *rx = buf_rx(100);
	rx->used = 500;
	assert_ptr_equal(buf_rx(100), rx);
	assert_int_equal(rx->used, 0); // nobody referred to it
	rx->used = CHUNK_SIZE - 50;
	chunk_ref(rx);
	assert_ptr_not_equal(buf_rx(100), rx);
	chunk_unref(rx);
}

static void without_memory(void **state)
{
	(void)state;
	struct bufq q = {0};
	buf_thread_done();
	bufq_add_static(&q, STR("kept"));
	buf_thread_done();
	for (long n = 0; n < 2; n++) {
		mem_fail_set(n);
		int err = bufq_add_copy(&q, "more", 4);
		mem_fail_set(-1);
		assert_int_equal(err, -ENOMEM);
		assert_queue(&q, "kept");
		buf_thread_done();
	}
	bufq_clear(&q);
}

static void random_operations_keep_the_bytes(void **state)
{
	(void)state;
	struct bufq q = {0};
	char model[1 << 16];
	size_t start = 0, end = 0;
	random_seed(1);
	for (int i = 0; i < 4000 && end + 64 < sizeof model; i++) {
		char piece[64];
		size_t len = random_below(sizeof piece);
		for (size_t j = 0; j < len; j++)
			piece[j] = (char)random_u64();
		if (random_below(3)) {
			assert_int_equal(bufq_add_copy(&q, piece, len), 0);
			memcpy(model + end, piece, len);
			end += len;
		} else {
			len = len < end - start ? len : end - start;
			bufq_drop(&q, len);
			start += len;
		}
		char now[1 << 16];
		assert_int_equal(bufq_peek(&q, 0, now, sizeof now), end - start);
		assert_memory_equal(now, model + start, end - start);
	}
	bufq_clear(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(appending_and_dropping, done),
	    cmocka_unit_test_teardown(slices_share_a_chunk, done),
	    cmocka_unit_test_teardown(moving_parts, done),
	    cmocka_unit_test_teardown(moving_all, done),
	    cmocka_unit_test_teardown(taking, done),
	    cmocka_unit_test_teardown(moving_what_adjoins, done),
	    cmocka_unit_test_teardown(moving_few_bytes_often, done),
	    cmocka_unit_test_teardown(moving_many_crumbs_at_once, done),
	    cmocka_unit_test_teardown(cloning_few_bytes_often, done),
	    cmocka_unit_test_teardown(cloning_many_crumbs_at_once, done),
	    cmocka_unit_test_teardown(flattening, done),
	    cmocka_unit_test_teardown(pulling, done),
	    cmocka_unit_test_teardown(a_few_bytes_do_not_hold_a_chunk, done),
	    cmocka_unit_test_teardown(the_receive_chunk_starts_over, done),
	    cmocka_unit_test_teardown(without_memory, done),
	    cmocka_unit_test_teardown(random_operations_keep_the_bytes, done),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
