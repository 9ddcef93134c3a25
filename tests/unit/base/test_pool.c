// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/pool.h"

#include <errno.h>
#include <stdbool.h>

struct thing {
	uint64_t a, b;
};

static void objects_come_back(void **state)
{
	(void)state;
	struct pool pool = POOL_INIT(struct thing, 2);
	void *objects[4];
	for (int i = 0; i < 4; i++)
		objects[i] = pool_get(&pool);
	for (int i = 0; i < 4; i++)
		pool_put(&pool, objects[i]);
	pool_put(&pool, NULL);
	// Two are kept, the last one in comes out first; the others went back to the allocator.
	assert_ptr_equal(pool_get(&pool), objects[1]);
	assert_ptr_equal(pool_get(&pool), objects[0]);
	struct thing *fresh = pool_zget(&pool);
	assert_true(fresh->a == 0 && fresh->b == 0);
	mem_free(objects[0]);
	mem_free(objects[1]);
	pool_put(&pool, fresh);
	pool_trim(&pool);
	assert_null(pool._free);
}

static void a_used_object_is_zeroed(void **state)
{
	(void)state;
	struct pool pool = POOL_INIT(struct thing, 1);
	struct thing *thing = pool_get(&pool);
	*thing = (struct thing){1, 2};
	pool_put(&pool, thing);
	struct thing *again = pool_zget(&pool);
	assert_ptr_equal(again, thing);
	assert_true(again->a == 0 && again->b == 0);
	pool_put(&pool, again);
	pool_trim(&pool);
}

static void an_arena_is_aligned_and_whole(void **state)
{
	(void)state;
	static const size_t sizes[] = {1, 7, 8, 9, 100, ARENA_BLOCK - 64, ARENA_BLOCK, 3 * ARENA_BLOCK, 1};
	struct arena arena = {0};
	char *pieces[ARRAY_SIZE(sizes)];
	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			pieces[i] = arena_alloc(&arena, sizes[i]);
			assert_int_equal((uintptr_t)pieces[i] % 8, 0);
			memset(pieces[i], (int)i + 1, sizes[i]);
		}
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
			for (size_t at = 0; at < sizes[i]; at++)
				assert_int_equal(pieces[i][at], (int)i + 1);
	}
	assert_string_equal(arena_strdup(&arena, "abcdef", 3), "abc");
	assert_string_equal(arena_strdup(&arena, NULL, 0), "");
	arena_done(&arena);
	assert_null(arena._blocks);
	arena_thread_done();
}

static void what_is_peeked_can_be_claimed(void **state)
{
	(void)state;
	struct arena arena = {0};
	for (int i = 0; i < 100; i++) {
		size_t room = 0;
		void *at = arena_peek(&arena, 200, &room);
		assert_true(room >= 200);
		assert_ptr_equal(arena_alloc(&arena, room / 2), at);
	}
	arena_done(&arena);
	arena_thread_done();
}

static void what_is_held_goes_with_the_arena(void **state)
{
	(void)state;
	struct arena arena = {0};
	struct chunk *one = chunk_new(64), *other = chunk_new(64);
	assert_true(one && other);
	assert_int_equal(arena_hold(&arena, one), 0);
	assert_int_equal(arena_hold(&arena, one), 0);
	assert_int_equal(arena_hold(&arena, other), 0);
	assert_int_equal(one->refs, 2); // once is enough
	assert_int_equal(other->refs, 2);
	arena_done(&arena);
	assert_int_equal(one->refs, 1);
	assert_int_equal(other->refs, 1);
	mem_fail_set(0);
	arena_thread_done();
	assert_int_equal(arena_hold(&arena, one), -ENOMEM);
	mem_fail_set(-1);
	assert_int_equal(one->refs, 1);
	chunk_unref(one);
	chunk_unref(other);
}

static void without_memory(void **state)
{
	(void)state;
	struct pool pool = POOL_INIT(struct thing, 1);
	struct arena arena = {0};
	size_t room = 7;
	mem_fail_set(0);
	assert_null(pool_get(&pool));
	mem_fail_set(0);
	assert_null(pool_zget(&pool));
	mem_fail_set(0);
	assert_null(arena_alloc(&arena, 8));
	mem_fail_set(0);
	assert_null(arena_peek(&arena, 8, &room));
	assert_int_equal(room, 7);
	mem_fail_set(0);
	assert_null(arena_strdup(&arena, "abc", 3));
	// What was there stays, and the next attempt works.
	char *first = arena_strdup(&arena, "abc", 3);
	mem_fail_set(0);
	assert_null(arena_alloc(&arena, 2 * ARENA_BLOCK));
	mem_fail_set(-1);
	assert_string_equal(first, "abc");
	assert_non_null(arena_alloc(&arena, 2 * ARENA_BLOCK));
	// More than a block can describe.
	assert_null(arena_alloc(&arena, (size_t)UINT32_MAX + 1));
	arena_done(&arena);
	arena_thread_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(objects_come_back),
	    cmocka_unit_test(a_used_object_is_zeroed),
	    cmocka_unit_test(an_arena_is_aligned_and_whole),
	    cmocka_unit_test(what_is_peeked_can_be_claimed),
	    cmocka_unit_test(what_is_held_goes_with_the_arena),
	    cmocka_unit_test(without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
