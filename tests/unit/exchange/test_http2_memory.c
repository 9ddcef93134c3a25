// SPDX-License-Identifier: Apache-2.0
// The allocator that nghttp2 is given: what it hands out, and that it uses blocks again.
#include "test.h"

#include "base/mem.h"
#include "exchange/http2_memory.h"

#include <stdbool.h>
#include <stdint.h>

static nghttp2_mem memory;

static int begin(void **state)
{
	(void)state;
	memory = *http2_memory();
	return 0;
}

static int end(void **state)
{
	(void)state;
	http2_memory_thread_done();
	return 0;
}

static void test_blocks(void **state)
{
	static uint8_t *blocks[2100];
	(void)state;
	for (size_t size = 0; size < ARRAY_SIZE(blocks); size++) {
		blocks[size] = memory.malloc(size, memory.mem_user_data);
		assert_non_null(blocks[size]);
		assert_int_equal((uintptr_t)blocks[size] % 16, 0);
		memset(blocks[size], (int)(size & 0xff), size);
	}
	for (size_t size = 0; size < ARRAY_SIZE(blocks); size++) {
		for (size_t i = 0; i < size; i++)
			assert_int_equal(blocks[size][i], size & 0xff);
		memory.free(blocks[size], memory.mem_user_data);
	}
	memory.free(NULL, memory.mem_user_data);
}

static void test_used_again(void **state)
{
	(void)state;
	char *first = memory.malloc(100, memory.mem_user_data);
	memset(first, 'x', 100);
	memory.free(first, memory.mem_user_data);
	char *second = memory.calloc(12, 8, memory.mem_user_data);
	assert_ptr_equal(first, second);
	for (size_t i = 0; i < 96; i++)
		assert_int_equal(second[i], 0);
	memory.free(second, memory.mem_user_data);
}

static void test_growing(void **state)
{
	(void)state;
	uint8_t *bytes = NULL;
	for (size_t size = 1; size < 3000; size++) {
		bytes = memory.realloc(bytes, size, memory.mem_user_data);
		assert_non_null(bytes);
		bytes[size - 1] = (uint8_t)size;
		for (size_t i = 0; i < size; i++)
			assert_int_equal(bytes[i], (uint8_t)(i + 1));
	}
	memory.free(bytes, memory.mem_user_data);
}

static void test_too_much(void **state)
{
	(void)state;
	assert_null(memory.malloc(SIZE_MAX, memory.mem_user_data));
	assert_null(memory.calloc(SIZE_MAX / 2, 3, memory.mem_user_data));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_blocks),
	    cmocka_unit_test(test_used_again),
	    cmocka_unit_test(test_growing),
	    cmocka_unit_test(test_too_much),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
