// SPDX-License-Identifier: Apache-2.0
#include "run/signals.h"

#include <signal.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static int seen[3], seen_count;

static void note(int number, void *arg)
{
	(void)arg;
	seen[seen_count++] = number;
}

static void signals_are_events(void **state)
{
	static const int numbers[] = {SIGTERM, SIGHUP};
	struct loop *loop;
	struct signals *signals;
	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(signals_new(loop, numbers, 2, note, NULL, &signals), 0);
	kill(getpid(), SIGTERM);
	kill(getpid(), SIGHUP);
	assert_int_equal(loop_turn(loop, 1000), 0);
	assert_int_equal(seen_count, 2);
	assert_int_equal(seen[0] + seen[1], SIGTERM + SIGHUP);
	kill(getpid(), SIGHUP);
	assert_int_equal(loop_turn(loop, 1000), 0);
	assert_int_equal(seen[2], SIGHUP);
	signals_free(signals);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(signals_are_events)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
