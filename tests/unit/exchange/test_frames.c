// SPDX-License-Identifier: Apache-2.0
// Frames in queues: measured, given other ids and passed on in pieces, however the bytes are cut, and with
// each allocation failing once.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/bolt.h"
#include "exchange/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

enum { MAX_BYTES = 1 << 20 };

static void add_u32(struct strbuf *out, uint32_t value)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		strbuf_add_char(out, (char)(value >> shift));
}

// A request of version 2 with so much content, and with a CRC or without.
static struct strbuf make_frame(uint32_t id, size_t content, bool crc)
{
	struct strbuf out = {0};
	strbuf_add(&out, "\2\2\1\0\1\1", 6);
	add_u32(&out, id);
	strbuf_add(&out, crc ? "\1\1" : "\1\0", 2);
	add_u32(&out, 0);
	strbuf_add(&out, "\0\1\0\0", 4);
	add_u32(&out, (uint32_t)content);
	strbuf_add_char(&out, 'c');
	for (size_t i = 0; i < content; i++)
		strbuf_add_char(&out, (char)(i * 7));
	if (crc)
		add_u32(&out, (uint32_t)crc32_z(0, (const uint8_t *)out.p, out.len));
	assert_false(out.failed);
	return out;
}

// Each `step` bytes in a chunk of their own.
static int add_in_steps(struct bufq *q, struct str bytes, size_t step)
{
	int err = 0;
	for (size_t at = 0; at < bytes.len && !err; at += step) {
		size_t len = MIN(step, bytes.len - at);
		struct chunk *chunk = chunk_new(len);
		if (!chunk)
			return -ENOMEM;
		memcpy(chunk->data, bytes.p + at, len);
		chunk->used = (uint32_t)len;
		err = bufq_add_slice(q, (struct slice){chunk, chunk->data, len});
		chunk_unref(chunk);
	}
	return err;
}

static void assert_queue(const struct bufq *q, const struct strbuf *expected)
{
	char *copy = malloc(q->bytes + 1);
	assert_int_equal(q->bytes, expected->len);
	bufq_peek(q, 0, copy, q->bytes);
	assert_memory_equal(copy, expected->p, q->bytes);
	free(copy);
}

static int measure(struct bufq *in, struct frame *ret_frame)
{
	return frames_measure(&bolt_codec, in, MAX_BYTES, ret_frame);
}

static void test_measure_in_steps(void **state)
{
	struct strbuf bytes = make_frame(7, 100, false);
	(void)state;
	for (size_t step = 1; step <= bytes.len; step++) {
		struct bufq in = {0};
		struct frame frame;
		assert_int_equal(measure(&in, &frame), ERR_NEED_MORE);
		assert_int_equal(add_in_steps(&in, strbuf_str(&bytes), step), 0);
		assert_int_equal(measure(&in, &frame), 0);
		assert_int_equal(frame.length, bytes.len);
		assert_int_equal(frame.id, 7);
		assert_queue(&in, &bytes); // only put together, never changed
		bufq_clear(&in);
	}
	strbuf_done(&bytes);
}

static void test_limits(void **state)
{
	struct strbuf bytes = make_frame(7, 100, false);
	struct bufq in = {0};
	struct frame frame = {0};
	(void)state;
	assert_int_equal(add_in_steps(&in, strbuf_str(&bytes), 1000), 0);
	assert_int_equal(frames_measure(&bolt_codec, &in, bytes.len, &frame), 0);
	frame = (struct frame){0};
	assert_int_equal(frames_measure(&bolt_codec, &in, bytes.len - 1, &frame), ERR_LIMIT);
	assert_int_equal(frame.id, 7); // for the answer
	bufq_clear(&in);
	strbuf_done(&bytes);
}

// A whole frame with another id is what its sender would have made with that id.
static int change_id(const struct strbuf *bytes, size_t step, const struct strbuf *expected, uint32_t id)
{
	struct bufq in = {0};
	struct frame frame;
	int err = add_in_steps(&in, strbuf_str(bytes), step);
	if (!err)
		err = measure(&in, &frame);
	if (!err)
		err = frames_check(&frame, &in);
	if (!err)
		err = frames_set_id(&bolt_codec, &frame, &in, id, NULL);
	if (!err)
		assert_queue(&in, expected);
	bufq_clear(&in);
	return err;
}

static void test_set_id(void **state)
{
	(void)state;
	for (int crc = 0; crc < 2; crc++) {
		struct strbuf bytes = make_frame(7, 100, crc), expected = make_frame(0x80000001, 100, crc);
		for (size_t step = 1; step <= bytes.len; step++)
			assert_int_equal(change_id(&bytes, step, &expected, 0x80000001), 0);
		bytes.p[60] ^= 1;
		if (crc)
			assert_int_equal(change_id(&bytes, 10, &expected, 1), ERR_MALFORMED);
		strbuf_done(&bytes);
		strbuf_done(&expected);
	}
}

// A long frame: its head, then the rest as it comes, `step` bytes at a time.
static int pass_in_pieces(const struct strbuf *bytes, size_t step, const struct strbuf *expected)
{
	struct bufq in = {0}, out = {0};
	struct frame frame;
	struct frame_rest rest = {0};
	size_t at = 30;
	int err = add_in_steps(&in, (struct str){bytes->p, at}, step);
	if (!err)
		err = measure(&in, &frame);
	if (!err)
		err = bufq_move(&out, &in, frame.head);
	if (!err)
		err = frames_set_id(&bolt_codec, &frame, &out, 9, &rest);
	for (bool first = true; !err && (first || rest.bytes); first = false) {
		size_t len = MIN(step, bytes->len - at);
		err = add_in_steps(&in, (struct str){bytes->p + at, len}, step);
		at += len;
		if (!err)
			err = frame_rest_move(&rest, &out, &in);
	}
	if (!err) {
		assert_int_equal(in.bytes, 0);
		assert_queue(&out, expected);
	}
	bufq_clear(&in);
	bufq_clear(&out);
	return err;
}

static void test_pieces(void **state)
{
	(void)state;
	for (int crc = 0; crc < 2; crc++) {
		struct strbuf bytes = make_frame(7, 1000, crc), expected = make_frame(9, 1000, crc);
		for (size_t step = 1; step <= 1100; step += step < 20 ? 1 : 97)
			assert_int_equal(pass_in_pieces(&bytes, step, &expected), 0);
		strbuf_done(&bytes);
		strbuf_done(&expected);
	}
}

static void test_skip(void **state)
{
	struct bufq in = {0};
	struct frame_rest rest = {.bytes = 150};
	struct strbuf bytes = make_frame(7, 200 - 29, true);
	(void)state;
	assert_int_equal(add_in_steps(&in, (struct str){bytes.p, 100}, 10), 0);
	frame_rest_skip(&rest, &in);
	assert_int_equal(rest.bytes, 50);
	assert_int_equal(add_in_steps(&in, (struct str){bytes.p, 100}, 10), 0);
	frame_rest_skip(&rest, &in);
	assert_int_equal(rest.bytes, 0);
	assert_int_equal(in.bytes, 50);
	bufq_clear(&in);
	strbuf_done(&bytes);
}

static void test_failing_allocations(void **state)
{
	struct strbuf bytes = make_frame(7, 1000, true), expected = make_frame(9, 1000, true);
	int err = -ENOMEM;
	(void)state;
	for (long n = 0; err; n++) {
		buf_thread_done(); // spare chunks need no allocation
		mem_fail_set(n);
		err = n % 2 ? pass_in_pieces(&bytes, 100, &expected) : change_id(&bytes, 100, &expected, 9);
		mem_fail_set(-1);
		assert_true(err == 0 || err == -ENOMEM);
		if (n % 2 == 0 && !err)
			err = -ENOMEM; // the other one may have more of them
	}
	buf_thread_done();
	strbuf_done(&bytes);
	strbuf_done(&expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_measure_in_steps),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_set_id),
	    cmocka_unit_test(test_pieces),
	    cmocka_unit_test(test_skip),
	    cmocka_unit_test(test_failing_allocations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
