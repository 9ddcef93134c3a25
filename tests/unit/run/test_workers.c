// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "run/stats.h"
#include "run/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { WORKERS = 4 };

struct shared {
	int values[WORKERS]; // each written by one worker, read after the call
	pthread_t ids[WORKERS];
	atomic_int done, posts;
	unsigned fail_at;
};

static int init(struct worker *worker, void *arg)
{
	struct shared *shared = arg;
	if (worker->index == shared->fail_at)
		return -EMFILE;
	shared->ids[worker->index] = pthread_self();
	worker->data = &shared->values[worker->index];
	stats_inc(STAT_PASSTHROUGH);
	return 0;
}

static void done(struct worker *worker, void *arg)
{
	struct shared *shared = arg;
	(void)worker;
	atomic_fetch_add(&shared->done, 1);
}

static void add_index(struct worker *worker, void *arg)
{
	struct shared *shared = arg;
	int *value = worker->data;
	assert_true(pthread_equal(shared->ids[worker->index], pthread_self()));
	*value += (int)worker->index + 1;
}

static void calls_run_on_every_worker(void **state)
{
	struct shared shared = {.fail_at = WORKERS};
	struct workers *workers;
	(void)state;
	assert_int_equal(workers_start(WORKERS, &(struct worker_ops){init, done, &shared}, &workers), 0);
	assert_int_equal(workers_count(workers), WORKERS);
	for (int round = 1; round <= 200; round++) {
		assert_int_equal(workers_call(workers, add_index, &shared), 0);
		for (int i = 0; i < WORKERS; i++)
			assert_int_equal(shared.values[i], round * (i + 1));
	}
	workers_stop(workers);
	assert_int_equal(atomic_load(&shared.done), WORKERS);
}

static void count_post(struct worker *worker, void *arg)
{
	struct shared *shared = arg;
	(void)worker;
	atomic_fetch_add(&shared->posts, 1);
}

static void posts_arrive_in_order(void **state)
{
	struct shared shared = {.fail_at = WORKERS};
	struct workers *workers;
	(void)state;
	assert_int_equal(workers_start(WORKERS, &(struct worker_ops){init, done, &shared}, &workers), 0);
	for (int i = 0; i < 50; i++)
		assert_int_equal(workers_post(workers, count_post, &shared), 0);
	// A call that comes later is answered after what was posted before.
	assert_int_equal(workers_call(workers, add_index, &shared), 0);
	assert_int_equal(atomic_load(&shared.posts), 50 * WORKERS);
	assert_int_equal(workers_post(workers, count_post, &shared), 0);
	workers_stop(workers);
}

static void a_failing_init_ends_all(void **state)
{
	struct shared shared = {.fail_at = 2};
	struct workers *workers = NULL;
	(void)state;
	assert_int_equal(workers_start(WORKERS, &(struct worker_ops){init, done, &shared}, &workers),
			 -EMFILE);
	assert_null(workers);
	assert_int_equal(atomic_load(&shared.done), WORKERS - 1);
}

static void failing_allocations(void **state)
{
	struct shared shared = {.fail_at = WORKERS};
	struct workers *workers = NULL;
	(void)state;
	mem_fail_set(0);
	assert_int_equal(workers_start(1, &(struct worker_ops){init, done, &shared}, &workers), -ENOMEM);
	mem_fail_set(1);
	assert_int_equal(workers_start(1, &(struct worker_ops){init, done, &shared}, &workers), -ENOMEM);
	mem_fail_set(-1);
	assert_int_equal(workers_start(1, &(struct worker_ops){init, done, &shared}, &workers), 0);
	mem_fail_set(0);
	assert_int_equal(workers_call(workers, add_index, &shared), -ENOMEM);
	mem_fail_set(-1);
	assert_int_equal(workers_call(workers, add_index, &shared), 0);
	workers_stop(workers);
}

static void name_thread(struct worker *worker, void *arg)
{
	char name[16], expected[16] = "weir-worker-0";
	(void)arg;
	expected[12] = (char)('0' + worker->index);
	assert_int_equal(pthread_getname_np(pthread_self(), name, sizeof name), 0);
	assert_string_equal(name, expected);
}

static void names_and_slots(void **state)
{
	struct shared shared = {.fail_at = WORKERS};
	struct workers *workers;
	(void)state;
	uint64_t before = stats_read(STAT_PASSTHROUGH);
	assert_int_equal(workers_start(WORKERS, &(struct worker_ops){init, NULL, &shared}, &workers), 0);
	assert_int_equal(workers_call(workers, name_thread, NULL), 0);
	assert_int_equal(stats_read(STAT_PASSTHROUGH) - before, WORKERS);
	workers_stop(workers);
}

static int make_slots(void **state)
{
	(void)state;
	return stats_init(WORKERS + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(calls_run_on_every_worker), cmocka_unit_test(posts_arrive_in_order),
	    cmocka_unit_test(a_failing_init_ends_all),	 cmocka_unit_test(failing_allocations),
	    cmocka_unit_test(names_and_slots),
	};
	return cmocka_run_group_tests(tests, make_slots, NULL);
}
