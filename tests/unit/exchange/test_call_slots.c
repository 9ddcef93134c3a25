// SPDX-License-Identifier: Apache-2.0
// Ids of calls: they ascend, begin again behind the last, and never meet one that is still in use.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "exchange/call_slots.h"

#include <errno.h>

static struct call *call_of(uint64_t number)
{
	return (struct call *)(uintptr_t)(number + 1); // never looked into
}

static uint64_t add(struct call_slots *slots, uint64_t number)
{
	uint64_t id = UINT64_MAX;
	assert_int_equal(call_slots_add(slots, call_of(number), &id), 0);
	assert_ptr_equal(call_slots_find(slots, id), call_of(number));
	return id;
}

static void test_ids_ascend(void **state)
{
	struct call_slots slots;
	(void)state;
	call_slots_init(&slots, 1, UINT32_MAX);
	assert_null(call_slots_find(&slots, 1));
	for (uint64_t i = 1; i <= 1000; i++)
		assert_int_equal(add(&slots, i), i);
	assert_int_equal(slots.count, 1000);
	assert_int_equal(call_slots_spare(&slots), 1001);
	assert_int_equal(add(&slots, 0), 1002);
	assert_null(call_slots_find(&slots, 1001));
	for (unsigned bit = 10; bit < 64;
	     bit++) // of an id that is over, or was never given, whatever is in its slot
		assert_null(call_slots_find(&slots, 1 | UINT64_C(1) << bit));
	call_slots_remove(&slots, 500);
	call_slots_remove(&slots, 500);
	call_slots_remove(&slots, 1001);
	assert_int_equal(slots.count, 1000);
	assert_null(call_slots_find(&slots, 500));
	call_slots_done(&slots);
	assert_null(call_slots_find(&slots, 1));
}

// Some calls stay while ids go round and round: theirs are left out.
static void check_wrap(uint64_t first, uint64_t last)
{
	enum { STAYING = 100, ROUNDS = 5 };
	struct call_slots slots;
	uint64_t staying[STAYING], previous = 0;
	int wraps = 0;
	call_slots_init(&slots, first, last);
	slots._next = last - STAYING * 3; // as after so many calls
	for (int i = 0; i < STAYING; i++) {
		staying[i] = add(&slots, (uint64_t)i);
		call_slots_remove(&slots, add(&slots, 5000));
	}
	previous = slots._next;
	for (uint64_t i = 0; wraps < ROUNDS && i < 100000; i++) {
		uint64_t id = add(&slots, 7777);
		assert_true(id >= first && id <= last);
		wraps += id < previous;
		previous = id;
		call_slots_remove(&slots, id);
		if (last - first > 100000 && wraps)
			break;
	}
	assert_true(wraps);
	for (int i = 0; i < STAYING; i++)
		assert_ptr_equal(call_slots_find(&slots, staying[i]), call_of((uint64_t)i));
	assert_int_equal(slots.count, STAYING);
	call_slots_done(&slots);
}

static void test_wrap(void **state)
{
	(void)state;
	check_wrap(1, UINT32_MAX);
	check_wrap(0, UINT32_MAX);
	check_wrap(1, UINT64_MAX);
	check_wrap(1, 0x7fffffff);
	check_wrap(10, 10 + 9999);
}

static void test_limit(void **state)
{
	struct call_slots slots;
	uint64_t id = 5;
	(void)state;
	call_slots_init(&slots, 1, UINT32_MAX);
	for (uint64_t i = 0; i < LIMIT_RPC_SLOTS; i++)
		add(&slots, i);
	assert_int_equal(call_slots_add(&slots, call_of(0), &id), ERR_LIMIT);
	assert_int_equal(id, 5);
	call_slots_remove(&slots, 17);
	assert_int_equal(add(&slots, 1), LIMIT_RPC_SLOTS + 1);
	call_slots_done(&slots);
}

static void test_each(void **state)
{
	struct call_slots slots;
	size_t at = 0, count = 0;
	(void)state;
	call_slots_init(&slots, 1, UINT32_MAX);
	assert_null(call_slots_each(&slots, &at));
	for (uint64_t i = 1; i <= 100; i++)
		add(&slots, i);
	for (const struct call *call; (call = call_slots_each(&slots, &at)); count++)
		call_slots_remove(&slots, (uintptr_t)call - 1); // its id is its number
	assert_int_equal(count, 100);
	assert_int_equal(slots.count, 0);
	call_slots_done(&slots);
}

static void test_out_of_memory(void **state)
{
	struct call_slots slots;
	uint64_t id = 5;
	(void)state;
	call_slots_init(&slots, 1, UINT32_MAX);
	mem_fail_set(0);
	assert_int_equal(call_slots_add(&slots, call_of(0), &id), -ENOMEM);
	mem_fail_set(-1);
	assert_int_equal(slots.count, 0);
	assert_int_equal(add(&slots, 1), 1);
	call_slots_done(&slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ids_ascend),	  cmocka_unit_test(test_wrap),
	    cmocka_unit_test(test_limit),	  cmocka_unit_test(test_each),
	    cmocka_unit_test(test_out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
