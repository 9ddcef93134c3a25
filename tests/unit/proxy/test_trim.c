// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "proxy/trim.h"

#include <sys/mman.h>

enum { MIB = 1024 * 1024 };

static void after_a_burst_once(void **state)
{
	(void)state;
	struct trim_memory memory = {0};
	assert_false(trim_is_due(&memory, 0, 8 * MIB));
	assert_false(trim_is_due(&memory, 3000, 8 * MIB));
	assert_false(trim_is_due(&memory, 1501, 8 * MIB));
	assert_true(trim_is_due(&memory, 1500, 8 * MIB));
	assert_false(trim_is_due(&memory, 1500, 8 * MIB));
	assert_false(trim_is_due(&memory, 751, 8 * MIB));
	assert_true(trim_is_due(&memory, 700, 8 * MIB));
	assert_true(trim_is_due(&memory, 0, 8 * MIB));
	assert_false(trim_is_due(&memory, 0, 8 * MIB));
}

static void a_few_connections_are_not_worth_it(void **state)
{
	(void)state;
	struct trim_memory memory = {0};
	for (int i = 0; i < 10; i++) {
		assert_false(trim_is_due(&memory, 200, 8 * MIB));
		assert_false(trim_is_due(&memory, 0, 9 * MIB));
	}
}

// A burst that nobody saw has left its memory behind; what stays although it was trimmed is not trimmed
// again.
static void growth_that_came_between_two_looks(void **state)
{
	(void)state;
	struct trim_memory memory = {0};
	assert_false(trim_is_due(&memory, 0, 8 * MIB));
	assert_true(trim_is_due(&memory, 0, 30 * MIB));
	assert_false(trim_is_due(&memory, 0, 20 * MIB));
	assert_false(trim_is_due(&memory, 0, 24 * MIB));
	assert_true(trim_is_due(&memory, 0, 25 * MIB));
	assert_false(trim_is_due(&memory, 0, 25 * MIB));
	assert_false(trim_is_due(&memory, 0, 25 * MIB));
}

static void what_the_process_has(void **state)
{
	enum { SIZE = 32 * MIB };
	(void)state;
	uint64_t before = trim_resident();
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_in_range(trim_resident(), before / 2, before + SIZE / 2); // nothing is in it yet
	memset(memory, 1, SIZE);
	assert_in_range(trim_resident(), before + SIZE / 2, before + 2 * SIZE); // kernels count roughly
	assert_int_equal(munmap(memory, SIZE), 0);
	assert_in_range(trim_resident(), before / 2, before + SIZE / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_a_burst_once),
	    cmocka_unit_test(a_few_connections_are_not_worth_it),
	    cmocka_unit_test(growth_that_came_between_two_looks),
	    cmocka_unit_test(what_the_process_has),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
