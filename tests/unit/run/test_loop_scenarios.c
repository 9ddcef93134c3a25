// SPDX-License-Identifier: Apache-2.0
// Longer stories of the loop, in virtual time: what idle timeouts, retries and drains are made of.
#include "test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "run/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct loop *loop;
static const uint64_t START = 1000 * NS_PER_S;
static uint64_t now_ms;

static int setup(void **state)
{
	(void)state;
	now_ms = 0;
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
	now_ms = ms;
	clock_fake_set(START + ms * NS_PER_MS);
	assert_int_equal(loop_turn(loop, 0), 0);
}

// --- against a model --------------------------------------------------------------------------------------
enum { TIMERS = 200 };

struct modelled {
	struct loop_timer timer;
	uint64_t due;	 // UINT64_MAX: not running
	unsigned firing; // expected in the turn under way
};
static struct modelled modelled[TIMERS];

static uint64_t any_delay(void)
{
	// Every magnitude of the wheel, from a millisecond to weeks.
	return 1 + random_below(1ULL << random_below(32));
}

static void start(struct modelled *one, uint64_t delay)
{
	loop_timer_start(loop, &one->timer, delay);
	one->due = now_ms + delay;
}

static void on_modelled(struct loop_timer *timer)
{
	struct modelled *one = container_of(timer, struct modelled, timer);
	assert_true(one->due <= now_ms);
	assert_int_equal(one->firing, 1);
	one->firing = 0;
	one->due = UINT64_MAX;
	if (random_below(3) == 0)
		start(one, any_delay());
	// Touch another one: it may be due in this very turn.
	struct modelled *other = &modelled[random_below(TIMERS)];
	if (other != one && random_below(2)) {
		loop_timer_stop(&other->timer);
		other->firing = 0;
		other->due = UINT64_MAX;
		if (random_below(2))
			start(other, any_delay());
	}
}

static void expect_due(void)
{
	for (int i = 0; i < TIMERS; i++)
		modelled[i].firing = modelled[i].due <= now_ms;
}

// Thousands of timers started, restarted, stopped, by callbacks of others too, while time goes in steps and
// leaps: each fires in the first turn at or after its moment, once.
static void timers_behave_like_their_model(void **state)
{
	(void)state;
	random_seed(11);
	for (int i = 0; i < TIMERS; i++) {
		loop_timer_init(&modelled[i].timer, on_modelled);
		start(&modelled[i], any_delay());
	}
	for (int turn = 0; turn < 20000; turn++) {
		for (unsigned i = 0; i < 3; i++)
			start(&modelled[random_below(TIMERS)], any_delay());
		now_ms += random_below(4) ? random_below(100) : random_below(1ULL << random_below(28));
		expect_due();
		advance_to(now_ms);
		for (int i = 0; i < TIMERS; i++) {
			assert_int_equal(modelled[i].firing, 0);
			assert_int_equal(loop_timer_running(&modelled[i].timer),
					 modelled[i].due != UINT64_MAX);
		}
	}
	for (int i = 0; i < TIMERS; i++)
		loop_timer_stop(&modelled[i].timer);
}

// Between two milliseconds: the moment is rounded up, and a delay of nothing is the next turn's.
static void no_timer_is_early(void **state)
{
	(void)state;
	struct modelled one = {.due = UINT64_MAX};
	loop_timer_init(&one.timer, on_modelled);
	clock_fake_set(START + NS_PER_MS / 2);
	loop_turn(loop, 0);
	loop_timer_start(loop, &one.timer, 10);
	clock_fake_set(START + 10 * NS_PER_MS + NS_PER_MS / 2 - 1);
	loop_turn(loop, 0);
	assert_true(loop_timer_running(&one.timer));
	loop_timer_stop(&one.timer);
}

static unsigned at_once_count;

static void at_once(struct loop_timer *timer)
{
	at_once_count++;
	loop_timer_start(loop, timer, 0);
}

static void a_timer_without_delay_lets_the_turn_end(void **state)
{
	(void)state;
	struct loop_timer timer;
	at_once_count = 0;
	loop_timer_init(&timer, at_once);
	loop_timer_start(loop, &timer, 0);
	for (uint64_t ms = 1; ms <= 5; ms++) {
		advance_to(ms);
		assert_int_equal(at_once_count, ms);
	}
	loop_timer_stop(&timer);
}

static void count_only(struct loop_timer *timer)
{
	(void)timer;
	at_once_count++;
}

// Longer than the wheel is round.
static void a_timer_of_years(void **state)
{
	(void)state;
	struct loop_timer timer;
	uint64_t years = 5ULL * 365 * 86400 * 1000;
	at_once_count = 0;
	loop_timer_init(&timer, count_only);
	loop_timer_start(loop, &timer, years);
	for (uint64_t ms = 0; ms < years; ms += 86400000ULL * 50)
		advance_to(ms);
	advance_to(years - 1);
	assert_int_equal(at_once_count, 0);
	advance_to(years);
	assert_int_equal(at_once_count, 1);
}

// The machine's clock passes the end of a round of the wheel while timers run.
static void timers_across_a_round(void **state)
{
	(void)state;
	static const uint64_t delays[] = {1, 4, 5, 6, 64, 5000, 86400000};
	struct loop_timer timers[ARRAY_SIZE(delays)];
	struct loop *late;
	uint64_t base = (1ULL << 36) - 5;
	clock_fake_set(base * NS_PER_MS);
	assert_int_equal(loop_new(&late), 0);
	at_once_count = 0;
	for (size_t i = 0; i < ARRAY_SIZE(delays); i++) {
		loop_timer_init(&timers[i], count_only);
		loop_timer_start(late, &timers[i], delays[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(delays); i++) {
		clock_fake_set((base + delays[i] - 1) * NS_PER_MS);
		loop_turn(late, 0);
		assert_int_equal(at_once_count, i);
		clock_fake_set((base + delays[i]) * NS_PER_MS);
		loop_turn(late, 0);
		assert_int_equal(at_once_count, i + 1);
	}
	loop_free(late);
}

// --- idle timeouts ----------------------------------------------------------------------------------------
struct session {
	struct loop_io io;
	struct loop_timer idle;
	struct loop_task freeing;
	unsigned reads;
	uint64_t closed_ms;
	bool freed;
};

enum { IDLE_MS = 30000 };

static void session_free(struct loop_task *task)
{
	container_of(task, struct session, freeing)->freed = true;
}

static void session_close(struct session *session)
{
	int fd = session->io.fd;
	loop_timer_stop(&session->idle);
	loop_io_del(loop, &session->io);
	close(fd);
	session->closed_ms = now_ms;
	loop_defer(loop, &session->freeing, session_free);
	assert_false(session->freed); // never from inside the call
}

static void on_idle(struct loop_timer *timer)
{
	session_close(container_of(timer, struct session, idle));
}

static void on_read(struct loop_io *io, uint32_t events)
{
	struct session *session = container_of(io, struct session, io);
	char byte;
	(void)events;
	ssize_t n = read(io->fd, &byte, 1);
	if (n == 1) {
		session->reads++;
		loop_timer_start(loop, &session->idle, IDLE_MS);
	} else {
		session_close(session);
	}
}

static void session_open(struct session *session, int *ret_peer)
{
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	*session = (struct session){0};
	loop_timer_init(&session->idle, on_idle);
	assert_int_equal(loop_io_add(loop, &session->io, pair[0], EPOLLIN | EPOLLRDHUP, on_read), 0);
	loop_timer_start(loop, &session->idle, IDLE_MS);
	*ret_peer = pair[1];
}

static void an_idle_session_is_closed_when_its_time_is_up(void **state)
{
	(void)state;
	struct session talks, silent, leaves;
	int peers[3];
	session_open(&talks, &peers[0]);
	session_open(&silent, &peers[1]);
	session_open(&leaves, &peers[2]);
	for (uint64_t ms = 0; ms <= 100000; ms += 20000) {
		assert_int_equal(write(peers[0], "x", 1), 1);
		if (ms == 20000)
			close(peers[2]);
		advance_to(ms);
	}
	assert_int_equal(talks.reads, 6);
	assert_int_equal(talks.closed_ms, 0);
	assert_int_equal(silent.closed_ms, 40000); // the first turn after its 30 s
	assert_true(silent.freed);
	assert_int_equal(leaves.closed_ms, 20000);
	advance_to(129999);
	assert_int_equal(talks.closed_ms, 0);
	advance_to(130000);
	assert_int_equal(talks.closed_ms, 130000);
	close(peers[0]);
	close(peers[1]);
}

// What is ready is dealt with before what is due: a byte that came in time counts, however late the turn is.
static void a_byte_in_time_counts_in_a_late_turn(void **state)
{
	(void)state;
	struct session session;
	int peer;
	session_open(&session, &peer);
	assert_int_equal(write(peer, "x", 1), 1);
	advance_to(3 * IDLE_MS);
	assert_int_equal(session.reads, 1);
	assert_int_equal(session.closed_ms, 0);
	advance_to(4 * IDLE_MS);
	assert_int_equal(session.closed_ms, 4 * IDLE_MS);
	close(peer);
}

// --- retries ----------------------------------------------------------------------------------------------
struct retry {
	struct loop_timer timer;
	uint64_t at[8];
	unsigned attempts;
};

static void on_retry(struct loop_timer *timer)
{
	struct retry *retry = container_of(timer, struct retry, timer);
	retry->at[retry->attempts++] = now_ms;
	if (retry->attempts < ARRAY_SIZE(retry->at))
		loop_timer_start(loop, timer, 100ULL << retry->attempts);
}

static void a_retry_backs_off(void **state)
{
	(void)state;
	struct retry retry = {0};
	static const uint64_t expected[] = {100, 300, 700, 1500, 3100, 6300, 12700, 25500};
	loop_timer_init(&retry.timer, on_retry);
	loop_timer_start(loop, &retry.timer, 100);
	for (uint64_t ms = 1; ms <= 30000; ms++)
		advance_to(ms);
	assert_int_equal(retry.attempts, ARRAY_SIZE(expected));
	assert_memory_equal(retry.at, expected, sizeof expected);
}

// --- the loop itself --------------------------------------------------------------------------------------
static void nothing(struct loop_io *io, uint32_t events)
{
	(void)io;
	(void)events;
}

static void errors_are_reported_and_leave_nothing(void **state)
{
	(void)state;
	struct loop_io io = {.fd = -1};
	int pair[2];
	assert_int_equal(pipe(pair), 0);
	close(pair[0]);
	assert_int_equal(loop_io_add(loop, &io, pair[0], EPOLLIN, nothing), -EBADF);
	loop_io_del(loop, &io); // of none: safe
	close(pair[1]);
	struct loop *none = NULL;
	mem_fail_set(0);
	assert_int_equal(loop_new(&none), -ENOMEM);
	assert_null(none);
	mem_fail_set(0);
	assert_int_equal(loop_post(loop, NULL, NULL), -ENOMEM);
	mem_fail_set(-1);
	advance_to(1); // nothing was posted
	loop_free(NULL);
}

static int posts[4], post_count;

static void on_post(void *arg)
{
	posts[post_count++] = (int)(intptr_t)arg;
	if (post_count == 1)
		loop_post(loop, on_post, (void *)7);
}

static void posts_keep_their_order_and_wait_for_a_turn(void **state)
{
	(void)state;
	post_count = 0;
	for (intptr_t i = 1; i <= 2; i++)
		assert_int_equal(loop_post(loop, on_post, (void *)i), 0);
	assert_int_equal(post_count, 0);
	advance_to(1);
	assert_int_equal(post_count, 2);
	advance_to(2);
	assert_int_equal(post_count, 3);
	assert_int_equal(posts[0], 1);
	assert_int_equal(posts[1], 2);
	assert_int_equal(posts[2], 7);
}

static void a_stop_before_the_start_is_kept(void **state)
{
	(void)state;
	loop_stop(loop);
	loop_run(loop); // returns
	loop_stop(loop);
	loop_run(loop);
}

// What waits in a loop when it is freed still runs: it may free something.
static void messages_are_not_lost_at_the_end(void **state)
{
	(void)state;
	struct loop *another;
	post_count = 1;
	assert_int_equal(loop_new(&another), 0);
	assert_int_equal(loop_post(another, on_post, (void *)3), 0);
	struct session session = {0};
	loop_defer(another, &session.freeing, session_free);
	loop_free(another);
	assert_int_equal(post_count, 2);
	assert_true(session.freed);
}

static void listening_events_can_be_changed(void **state)
{
	(void)state;
	struct session session;
	int peer;
	session_open(&session, &peer);
	assert_int_equal(loop_io_set(loop, &session.io, 0), 0);
	assert_int_equal(write(peer, "x", 1), 1);
	advance_to(1);
	assert_int_equal(session.reads, 0);
	// Setting them anew reports what is there, edge-triggered or not.
	assert_int_equal(loop_io_set(loop, &session.io, EPOLLIN), 0);
	advance_to(2);
	assert_int_equal(session.reads, 1);
	session_close(&session);
	advance_to(3);
	close(peer);
}

#define SCENARIO(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    SCENARIO(timers_behave_like_their_model),
	    SCENARIO(no_timer_is_early),
	    SCENARIO(a_timer_without_delay_lets_the_turn_end),
	    SCENARIO(a_timer_of_years),
	    SCENARIO(timers_across_a_round),
	    SCENARIO(an_idle_session_is_closed_when_its_time_is_up),
	    SCENARIO(a_byte_in_time_counts_in_a_late_turn),
	    SCENARIO(a_retry_backs_off),
	    SCENARIO(errors_are_reported_and_leave_nothing),
	    SCENARIO(posts_keep_their_order_and_wait_for_a_turn),
	    SCENARIO(a_stop_before_the_start_is_kept),
	    SCENARIO(messages_are_not_lost_at_the_end),
	    SCENARIO(listening_events_can_be_changed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
