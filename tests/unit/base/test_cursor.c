// SPDX-License-Identifier: Apache-2.0
#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const uint8_t NUMBERS[] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x10,
				  0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0};

static void test_integers(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, NUMBERS, sizeof NUMBERS);
	assert_int_equal(reader_u8(&r), 0x01);
	assert_int_equal(reader_u16(&r), 0x2345);
	assert_int_equal(reader_u24(&r), 0x6789ab);
	assert_int_equal(reader_u32(&r), 0xcdef1020);
	assert_true(reader_u64(&r) == 0x30405060708090a0ULL);
	assert_int_equal(reader_tell(&r), sizeof NUMBERS);
	assert_int_equal(reader_finish(&r), 0);
}

static void test_error_sticks(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, NUMBERS, 3);
	reader_u16(&r);
	assert_int_equal(reader_u16(&r), 0);
	assert_int_equal(r.err, ERR_NEED_MORE);
	assert_int_equal(reader_tell(&r), 2);
	assert_int_equal(reader_u8(&r), 0); // a byte is left, but the error sticks
	assert_null(reader_bytes(&r, 0).p);
	reader_fail(&r, ERR_MALFORMED); // the first error stays
	assert_int_equal(r.err, ERR_NEED_MORE);
	uint8_t copy[2] = {7, 7};
	reader_copy(&r, copy, 1);
	assert_int_equal(copy[0], 7);
}

static void test_bytes_skip_peek(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, "abcdef", 6);
	assert_true(str_eq(reader_bytes(&r, 2), STR("ab")));
	reader_skip(&r, 1);
	assert_int_equal(reader_peek_u8(&r), 'd');
	char copy[2];
	reader_copy(&r, copy, 2);
	assert_memory_equal(copy, "de", 2);
	assert_int_equal(reader_remaining(&r), 1);
	assert_int_equal(reader_finish(&r), ERR_MALFORMED);
	reader_init(&r, NULL, 0);
	assert_int_equal(reader_peek_u8(&r), 0);
	assert_int_equal(r.err, ERR_NEED_MORE);
}

static void test_length_near_overflow(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, "abcdef", 6);
	reader_skip(&r, 3);
	reader_skip(&r, SIZE_MAX);
	assert_int_equal(r.err, ERR_NEED_MORE);
	uint8_t bytes[8];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	writer_u32(&w, 1);
	assert_null(writer_reserve(&w, SIZE_MAX));
	assert_int_equal(w.err, ERR_LIMIT);
	writer_truncate(&w, 4);
	writer_patch_u16(&w, SIZE_MAX, 1);
	assert_int_equal(w.err, ERR_LIMIT);
}

static void test_seek_and_rollback(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, "abcdef", 6);
	reader_skip(&r, 4);
	struct reader_tag tag = reader_tag(&r);
	reader_seek(&r, 1);
	assert_int_equal(reader_u8(&r), 'b');
	reader_skip(&r, 100);
	assert_int_equal(r.err, ERR_NEED_MORE);
	reader_rollback(&r, tag);
	assert_int_equal(r.err, 0);
	assert_int_equal(reader_u8(&r), 'e');
	reader_seek(&r, 6);
	assert_int_equal(r.err, 0);
	reader_seek(&r, 7);
	assert_int_equal(r.err, ERR_MALFORMED);
	assert_int_equal(reader_tell(&r), 6);
}

static void test_sub(void **state)
{
	(void)state;
	struct reader r;
	reader_init(&r, "abcdef", 6);
	struct reader sub = reader_sub(&r, 2);
	reader_skip(&sub, 3);
	assert_int_equal(sub.err, ERR_NEED_MORE);
	assert_int_equal(r.err, 0);
	assert_int_equal(reader_u8(&r), 'c');
	sub = reader_sub(&r, 4);
	assert_int_equal(sub.err, ERR_NEED_MORE);
	assert_int_equal(reader_remaining(&sub), 0);
	assert_int_equal(r.err, ERR_NEED_MORE);
}

static void test_writer(void **state)
{
	(void)state;
	uint8_t bytes[20];
	struct writer w;
	writer_init(&w, bytes, sizeof NUMBERS);
	writer_u8(&w, 0x01);
	writer_u16(&w, 0xffff);
	writer_u24(&w, 0x6789ab);
	writer_u32(&w, 0);
	writer_u64(&w, 0x30405060708090a0ULL);
	writer_patch_u16(&w, 1, 0x2345);
	writer_patch_u32(&w, 6, 0xcdef1020);
	assert_int_equal(w.err, 0);
	assert_int_equal(w.len, sizeof NUMBERS);
	assert_memory_equal(bytes, NUMBERS, sizeof NUMBERS);
	writer_u8(&w, 1);
	assert_int_equal(w.err, ERR_LIMIT);
}

static void test_writer_truncate(void **state)
{
	(void)state;
	uint8_t bytes[4];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	writer_bytes(&w, "abc", 3);
	size_t kept = w.len;
	writer_u16(&w, 1); // does not fit: not even its first byte
	assert_int_equal(w.len, 3);
	assert_int_equal(w.err, ERR_LIMIT);
	writer_u8(&w, 1); // would fit, but the error sticks
	assert_int_equal(w.len, 3);
	writer_truncate(&w, kept - 1);
	writer_u16(&w, 0x4142);
	assert_int_equal(w.err, 0);
	assert_memory_equal(bytes, "abAB", 4);
	writer_patch_u16(&w, 3, 1); // half of it lies outside
	assert_int_equal(w.err, ERR_LIMIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_integers),
	    cmocka_unit_test(test_error_sticks),
	    cmocka_unit_test(test_bytes_skip_peek),
	    cmocka_unit_test(test_length_near_overflow),
	    cmocka_unit_test(test_seek_and_rollback),
	    cmocka_unit_test(test_sub),
	    cmocka_unit_test(test_writer),
	    cmocka_unit_test(test_writer_truncate),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
