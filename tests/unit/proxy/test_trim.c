// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "proxy/trim.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_a_burst_once),
	    cmocka_unit_test(a_few_connections_are_not_worth_it),
	    cmocka_unit_test(growth_that_came_between_two_looks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
