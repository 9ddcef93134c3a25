// SPDX-License-Identifier: Apache-2.0
#include "admin/probe_ask.h"
#include "base/clock.h"
#include "base/limits.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { START_MS = 1000, EVENT_MS = 10000 };

static struct {
	struct loop *loop;
	int listener;
	struct addr where;
	unsigned answers;
	uint16_t status;
} world;

static int set_up(void **state)
{
	struct sockaddr_storage bound = {0};
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof any;
	(void)state;
	memset(&world, 0, sizeof world);
	clock_fake_set(START_MS * NS_PER_MS);
	world.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (bind(world.listener, (struct sockaddr *)&any, len) < 0 || listen(world.listener, 8) < 0 ||
	    getsockname(world.listener, (struct sockaddr *)&any, &len) < 0)
		return -1;
	memcpy(&bound, &any, sizeof any);
	return addr_from_sockaddr(&bound, &world.where) || loop_new(&world.loop);
}

static int tear_down(void **state)
{
	(void)state;
	loop_free(world.loop);
	close(world.listener);
	clock_fake_set(0);
	return 0;
}

static void note_answer(void *arg, uint16_t status, const char *why)
{
	(void)arg;
	(void)why;
	world.answers++;
	world.status = status;
}

// The application's side of a probe's connection, when it has been asked.
static int asked(void)
{
	const struct head head = {0};
	struct probe probe = {.kind = PROBE_HTTP, .name = STR("app/liveness"), .target = STR("/")};
	struct probe_question question = {
	    .probe = &probe, .where = world.where, .head = &head, .done = note_answer};
	struct probe_ask *ask;
	char request[1024];
	assert_int_equal(probe_ask_new(world.loop, &question, &ask), 0);
	assert_int_equal(loop_turn(world.loop, EVENT_MS), 0);
	int fd = accept(world.listener, NULL, NULL);
	assert_true(fd >= 0);
	assert_true(recv(fd, request, sizeof request, 0) > 0);
	return fd;
}

// Returns when it has arrived.
static void say(int fd, const char *text)
{
	int left = 1;
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	while (ioctl(fd, SIOCOUTQ, &left) == 0 && left)
		sched_yield();
}

static void its_time_ends_in_the_turn_in_which_it_is_redirected(void **state)
{
	(void)state;
	int fd = asked();
	say(fd, "HTTP/1.1 302 Found\r\nLocation: /more\r\nContent-Length: 0\r\n\r\n");
	clock_fake_set((START_MS + LIMIT_PROBE_MS + 1) * NS_PER_MS);
	assert_int_equal(loop_turn(world.loop, 0), 0);
	assert_int_equal(world.answers, 1);
	assert_int_equal(world.status, 504);
	assert_int_equal(accept(world.listener, NULL, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	close(fd);
}

// What the test above rests on.
static void a_redirection_is_followed(void **state)
{
	(void)state;
	int fd = asked();
	say(fd, "HTTP/1.1 302 Found\r\nLocation: /more\r\nContent-Length: 0\r\n\r\n");
	assert_int_equal(loop_turn(world.loop, EVENT_MS), 0);
	close(fd);
	assert_int_equal(loop_turn(world.loop, EVENT_MS), 0);
	fd = accept(world.listener, NULL, NULL);
	assert_true(fd >= 0);
	say(fd, "HTTP/1.1 204 No Content\r\n\r\n");
	while (!world.answers)
		assert_int_equal(loop_turn(world.loop, EVENT_MS), 0);
	assert_int_equal(world.status, 204);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(its_time_ends_in_the_turn_in_which_it_is_redirected, set_up,
					    tear_down),
	    cmocka_unit_test_setup_teardown(a_redirection_is_followed, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
