// SPDX-License-Identifier: Apache-2.0
// The loop in virtual time.
#include "test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "run/loop.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static struct loop *loop;
static const uint64_t START = 1000 * NS_PER_S;

static int setup(void **state)
{
	(void)state;
	clock_fake_set(START);
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	loop_free(loop);
	clock_fake_set(0);
	return 0;
}

static void advance_to(uint64_t ms)
{
	clock_fake_set(START + ms * NS_PER_MS);
	assert_int_equal(loop_turn(loop, 0), 0);
}

struct fired {
	struct loop_timer timer;
	unsigned count;
	uint64_t at_ms;
};

static void on_fire(struct loop_timer *timer)
{
	struct fired *fired = container_of(timer, struct fired, timer);
	fired->count++;
	fired->at_ms = (loop_now(loop) - START) / NS_PER_MS;
}

static void timers_fire_once_and_not_early(void **state)
{
	(void)state;
	static const uint64_t delays[] = {1, 63, 64, 65, 4095, 4096, 4097, 262144, 3600000, 86400000};
	for (size_t i = 0; i < ARRAY_SIZE(delays); i++) {
		struct fired fired = {0};
		uint64_t base = (loop_now(loop) - START) / NS_PER_MS;
		loop_timer_init(&fired.timer, on_fire);
		loop_timer_start(loop, &fired.timer, delays[i]);
		advance_to(base + delays[i] - 1);
		assert_int_equal(fired.count, 0);
		advance_to(base + delays[i]);
		assert_int_equal(fired.count, 1);
		advance_to(base + delays[i] * 2);
		assert_int_equal(fired.count, 1);
	}
}

static void many_timers_in_random_order(void **state)
{
	(void)state;
	enum { COUNT = 2000 };
	struct fired *fired = calloc(COUNT, sizeof *fired);
	uint64_t due[COUNT], now = 0;
	random_seed(7);
	for (int i = 0; i < COUNT; i++) {
		due[i] = 1 + random_below(300000);
		loop_timer_init(&fired[i].timer, on_fire);
		loop_timer_start(loop, &fired[i].timer, due[i]);
	}
	for (int i = 0; i < COUNT; i += 10)
		loop_timer_stop(&fired[i].timer);
	while (now < 310000) {
		uint64_t before = now;
		now += 1 + random_below(700);
		advance_to(now);
		for (int i = 0; i < COUNT; i++) {
			if (i % 10 && due[i] > before && due[i] <= now)
				assert_int_equal(fired[i].at_ms, now);
		}
	}
	for (int i = 0; i < COUNT; i++)
		assert_int_equal(fired[i].count, i % 10 ? 1 : 0);
	free(fired);
}

static void a_timer_may_be_restarted_and_stopped(void **state)
{
	(void)state;
	struct fired fired = {0};
	loop_timer_init(&fired.timer, on_fire);
	loop_timer_start(loop, &fired.timer, 10);
	loop_timer_start(loop, &fired.timer, 20);
	assert_true(loop_timer_running(&fired.timer));
	advance_to(15);
	assert_int_equal(fired.count, 0);
	loop_timer_stop(&fired.timer);
	loop_timer_stop(&fired.timer);
	assert_false(loop_timer_running(&fired.timer));
	advance_to(100);
	assert_int_equal(fired.count, 0);
}

static int order[8], order_count;
static struct loop_task tasks[3];

static void second_task(struct loop_task *task)
{
	(void)task;
	order[order_count++] = 2;
}

static void first_task(struct loop_task *task)
{
	(void)task;
	order[order_count++] = 1;
	loop_defer(loop, &tasks[1], second_task);
	loop_defer(loop, &tasks[1], second_task);
}

static void deferred_tasks_run_once_in_the_same_turn(void **state)
{
	(void)state;
	order_count = 0;
	loop_defer(loop, &tasks[0], first_task);
	assert_int_equal(order_count, 0); // never from inside the call
	loop_turn(loop, 0);
	assert_int_equal(order_count, 2);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
}

static struct loop_io ios[2];
static int io_calls;

static void close_the_other(struct loop_io *io, uint32_t events)
{
	(void)events;
	io_calls++;
	loop_io_del(loop, io == &ios[0] ? &ios[1] : &ios[0]);
}

static void an_event_of_a_removed_descriptor_is_dropped(void **state)
{
	(void)state;
	int a[2], b[2];
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	io_calls = 0;
	assert_int_equal(loop_io_add(loop, &ios[0], a[0], EPOLLIN, close_the_other), 0);
	assert_int_equal(loop_io_add(loop, &ios[1], b[0], EPOLLIN, close_the_other), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	loop_turn(loop, 0);
	assert_int_equal(io_calls, 1);
	loop_io_del(loop, &ios[0]);
	loop_io_del(loop, &ios[1]);
	close(a[0]), close(a[1]), close(b[0]), close(b[1]);
}

static int posted;

static void on_post(void *arg)
{
	posted += *(int *)arg;
	if (posted == 3)
		loop_stop(loop);
}

static void *poster(void *arg)
{
	for (int i = 0; i < 3; i++)
		loop_post(loop, on_post, arg);
	return NULL;
}

static void posts_come_from_other_threads(void **state)
{
	(void)state;
	int one = 1;
	pthread_t thread;
	posted = 0;
	pthread_create(&thread, NULL, poster, &one);
	loop_run(loop);
	pthread_join(thread, NULL);
	assert_int_equal(posted, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(timers_fire_once_and_not_early, setup, teardown),
	    cmocka_unit_test_setup_teardown(many_timers_in_random_order, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_timer_may_be_restarted_and_stopped, setup, teardown),
	    cmocka_unit_test_setup_teardown(deferred_tasks_run_once_in_the_same_turn, setup, teardown),
	    cmocka_unit_test_setup_teardown(an_event_of_a_removed_descriptor_is_dropped, setup, teardown),
	    cmocka_unit_test_setup_teardown(posts_come_from_other_threads, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
