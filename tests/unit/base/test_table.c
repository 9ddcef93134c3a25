// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/table.h"

#include <errno.h>
#include <stdlib.h>

static void all_are_found_and_nothing_else(void **state)
{
	(void)state;
	enum { COUNT = 5000 };
	struct table table = {0};
	static int values[COUNT];
	size_t cursor = 0;
	assert_null(table_find(&table, 1, &cursor));
	random_seed(3);
	for (uint64_t i = 0; i < COUNT; i++)
		assert_int_equal(table_add(&table, i * 0x9e3779b97f4a7c15ULL, &values[i]), 0);
	assert_int_equal(table.count, COUNT);
	for (uint64_t i = 0; i < COUNT; i++) {
		cursor = 0;
		assert_ptr_equal(table_find(&table, i * 0x9e3779b97f4a7c15ULL, &cursor), &values[i]);
		assert_null(table_find(&table, i * 0x9e3779b97f4a7c15ULL, &cursor));
		cursor = 0;
		assert_null(table_find(&table, i * 0x9e3779b97f4a7c15ULL + 1, &cursor));
	}
	table_done(&table);
}

// Equal hashes, and hashes that meet in one slot, across many growths, in the order of adding.
static void equal_hashes_keep_their_order(void **state)
{
	(void)state;
	enum { COUNT = 300 };
	struct table table = {0};
	static int values[2 * COUNT];
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(table_add(&table, UINT64_MAX, &values[2 * i]), 0);
		assert_int_equal(table_add(&table, UINT64_MAX - (1ULL << 40), &values[2 * i + 1]), 0);
	}
	for (size_t which = 0; which < 2; which++) {
		size_t cursor = 0;
		for (size_t i = 0; i < COUNT; i++)
			assert_ptr_equal(table_find(&table, UINT64_MAX - which * (1ULL << 40), &cursor),
					 &values[2 * i + which]);
		assert_null(table_find(&table, UINT64_MAX - which * (1ULL << 40), &cursor));
	}
	table_done(&table);
}

static void without_memory(void **state)
{
	(void)state;
	struct table table = {0};
	int value = 0;
	mem_fail_set(0);
	assert_int_equal(table_add(&table, 1, &value), -ENOMEM);
	mem_fail_set(-1);
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(table_add(&table, i, &value), 0);
	mem_fail_set(0);
	assert_int_equal(table_add(&table, 8, &value), -ENOMEM);
	mem_fail_set(-1);
	assert_int_equal(table.count, 8);
	size_t cursor = 0;
	assert_ptr_equal(table_find(&table, 7, &cursor), &value);
	assert_int_equal(table_add(&table, 8, &value), 0);
	table_done(&table);
}

// --- lists ------------------------------------------------------------------------------------------------
struct node {
	struct list list;
	int number;
};

static void expect(struct list *head, const char *numbers)
{
	char text[32] = "";
	size_t len = 0;
	list_for_each (at, head)
		text[len++] = (char)('0' + container_of(at, struct node, list)->number);
	assert_string_equal(text, numbers);
}

static void lists(void **state)
{
	(void)state;
	struct list one, other;
	struct node nodes[6];
	list_init(&one);
	list_init(&other);
	assert_true(list_empty(&one));
	for (int i = 0; i < 6; i++) {
		nodes[i].number = i;
		list_init(&nodes[i].list);
		list_del(&nodes[i].list); // of no list: safe
	}
	list_append(&one, &nodes[1].list);
	list_append(&one, &nodes[2].list);
	list_prepend(&one, &nodes[0].list);
	expect(&one, "012");
	list_splice(&one, &other);
	expect(&one, "012");
	for (int i = 3; i < 6; i++)
		list_append(&other, &nodes[i].list);
	list_splice(&one, &other);
	expect(&one, "012345");
	expect(&other, "");
	list_for_each_safe (at, &one)
		if (container_of(at, struct node, list)->number % 2)
			list_del(at);
	expect(&one, "024");
	list_del(&nodes[2].list);
	list_del(&nodes[2].list);
	expect(&one, "04");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_are_found_and_nothing_else),
	    cmocka_unit_test(equal_hashes_keep_their_order),
	    cmocka_unit_test(without_memory),
	    cmocka_unit_test(lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
