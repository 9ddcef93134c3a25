// SPDX-License-Identifier: Apache-2.0
// The small server with a protocol of its own: a request is a line, the answer is the line many times over.
#include "net/serve.h"
#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { REQUEST_MAX = 64, CLIENTS_MAX = 2 };

struct fixture {
	struct loop *loop;
	struct serve *serve;
	struct sockaddr_un where;
	socklen_t size;
	size_t times;
	size_t request_max;
	unsigned asked;
	bool refuse;
};

static int answer(void *arg, char *bytes, size_t len, struct strbuf *ret_answer)
{
	struct fixture *fixture = arg;
	assert_true(len <= fixture->request_max);
	fixture->asked++;
	if (len && bytes[0] == '!')
		return ERR_MALFORMED;
	if (!memchr(bytes, '\n', len))
		return ERR_NEED_MORE;
	for (size_t i = 0; i < fixture->times; i++)
		strbuf_add(ret_answer, bytes, len);
	return 0;
}

static bool admit(void *arg, int fd, struct strbuf *ret_answer)
{
	const struct fixture *fixture = arg;
	assert_true(fd >= 0);
	if (fixture->refuse)
		strbuf_add_text(ret_answer, "no\n");
	return !fixture->refuse;
}

static void start_with(struct fixture *fixture, uint32_t idle_ms, size_t request_max, size_t requests_max)
{
	*fixture = (struct fixture){.times = 1, .request_max = request_max, .where.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	// An abstract name that the kernel chooses.
	assert_int_equal(bind(fd, (struct sockaddr *)&fixture->where, sizeof(sa_family_t)), 0);
	fixture->size = sizeof fixture->where;
	assert_int_equal(getsockname(fd, (struct sockaddr *)&fixture->where, &fixture->size), 0);
	assert_int_equal(listen(fd, 16), 0);
	const struct serve_ops ops = {.admit = admit,
				      .answer = answer,
				      .arg = fixture,
				      .clients_max = CLIENTS_MAX,
				      .request_max = request_max,
				      .requests_max = requests_max,
				      .idle_ms = idle_ms};
	assert_int_equal(loop_new(&fixture->loop), 0);
	assert_int_equal(serve_new(fixture->loop, fd, &ops, &fixture->serve), 0);
}

static void start(struct fixture *fixture, uint32_t idle_ms)
{
	start_with(fixture, idle_ms, REQUEST_MAX, 0);
}

static void stop(struct fixture *fixture)
{
	serve_free(fixture->serve);
	loop_free(fixture->loop);
}

static int dial(const struct fixture *fixture)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&fixture->where, fixture->size), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void turn(const struct fixture *fixture)
{
	for (int i = 0; i < 4; i++)
		assert_int_equal(loop_turn(fixture->loop, 0), 0);
}

// Receives until the end, turning the loop meanwhile; closes.
static void expect_answer(const struct fixture *fixture, int fd, struct strbuf *ret_text)
{
	for (;;) {
		char piece[4096];
		ssize_t n = read(fd, piece, sizeof piece);
		if (n == 0)
			break;
		if (n > 0)
			strbuf_add(ret_text, piece, (size_t)n);
		else
			assert_int_equal(errno, EAGAIN);
		turn(fixture);
	}
	close(fd);
}

static void expect_text(const struct fixture *fixture, int fd, const char *expected)
{
	autostrbuf struct strbuf text = {0};
	expect_answer(fixture, fd, &text);
	assert_string_equal(text.p ? text.p : "", expected);
}

static void whole_and_bytewise(void **state)
{
	struct fixture fixture;
	(void)state;
	start(&fixture, 10000);
	int fd = dial(&fixture);
	assert_int_equal(write(fd, "hello\n", 6), 6);
	expect_text(&fixture, fd, "hello\n");
	fd = dial(&fixture);
	for (const char *p = "hello\n"; *p; p++) {
		assert_int_equal(write(fd, p, 1), 1);
		turn(&fixture);
	}
	expect_text(&fixture, fd, "hello\n");
	stop(&fixture);
}

static void long_answers_and_slow_readers(void **state)
{
	struct fixture fixture;
	autostrbuf struct strbuf text = {0};
	(void)state;
	start(&fixture, 10000);
	fixture.times = 500000;
	int slow = dial(&fixture), quick = dial(&fixture);
	assert_int_equal(write(slow, "0123456789\n", 11), 11);
	turn(&fixture);
	fixture.times = 1;
	// The slow reader has read nothing yet; another is answered all the same.
	assert_int_equal(write(quick, "hello\n", 6), 6);
	expect_text(&fixture, quick, "hello\n");
	expect_answer(&fixture, slow, &text);
	assert_int_equal(text.len, 11 * 500000);
	stop(&fixture);
}

static void what_is_unread_does_not_hurt(void **state)
{
	struct fixture fixture;
	(void)state;
	start(&fixture, 10000);
	fixture.refuse = true;
	int fd = dial(&fixture);
	assert_int_equal(write(fd, "ignored\n", 8), 8);
	expect_text(&fixture, fd, "no\n");
	stop(&fixture);
}

static void hopeless_requests_are_dropped(void **state)
{
	struct fixture fixture;
	char blank[REQUEST_MAX + 1];
	(void)state;
	start(&fixture, 10000);
	memset(blank, ' ', sizeof blank);
	int fd = dial(&fixture);
	assert_int_equal(write(fd, "!", 1), 1);
	expect_text(&fixture, fd, "");
	fd = dial(&fixture);
	assert_int_equal(write(fd, blank, REQUEST_MAX), REQUEST_MAX);
	expect_text(&fixture, fd, "");
	fd = dial(&fixture);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	expect_text(&fixture, fd, "");
	stop(&fixture);
}

static void silent_clients_make_room(void **state)
{
	struct fixture fixture;
	(void)state;
	start(&fixture, 30);
	int silent[CLIENTS_MAX];
	for (int i = 0; i < CLIENTS_MAX; i++)
		silent[i] = dial(&fixture);
	int waiting = dial(&fixture);
	assert_int_equal(write(waiting, "hello\n", 6), 6);
	turn(&fixture);
	expect_text(&fixture, waiting, "hello\n");
	for (int i = 0; i < CLIENTS_MAX; i++)
		expect_text(&fixture, silent[i], "");
	stop(&fixture);
}

static void send_blanks(const struct fixture *fixture, int fd, size_t len)
{
	char *blanks = test_malloc(len);
	memset(blanks, ' ', len);
	assert_int_equal(write(fd, blanks, len), len);
	test_free(blanks);
	turn(fixture);
}

// What lies in the socket is looked at once, and not each time that the buffer was filled.
static void pieces_are_looked_at_together(void **state)
{
	struct fixture fixture;
	(void)state;
	start_with(&fixture, 10000, 65536, 0);
	int fd = dial(&fixture);
	send_blanks(&fixture, fd, 50000);
	assert_int_equal(fixture.asked, 1);
	fixture.times = 0;
	assert_int_equal(write(fd, "\n", 1), 1);
	expect_text(&fixture, fd, "");
	assert_int_equal(fixture.asked, 2);
	stop(&fixture);
}

// Requests that together are too long: the one that has been under way longest goes, the newest is served.
static void long_requests_make_room(void **state)
{
	struct fixture fixture;
	(void)state;
	start_with(&fixture, 10000, 65536, 65536);
	int slow = dial(&fixture);
	send_blanks(&fixture, slow, 40000);
	int quick = dial(&fixture);
	send_blanks(&fixture, quick, 40000);
	expect_text(&fixture, slow, "");
	fixture.times = 0;
	assert_int_equal(write(quick, "\n", 1), 1);
	expect_text(&fixture, quick, "");
	assert_int_equal(fixture.asked, 3);
	// What they held is free again.
	for (int i = 0; i < 3; i++) {
		int fd = dial(&fixture);
		send_blanks(&fixture, fd, 40000);
		assert_int_equal(write(fd, "\n", 1), 1);
		expect_text(&fixture, fd, "");
		assert_int_equal(fixture.asked, 5 + 2 * i);
	}
	stop(&fixture);
}

static void freed_with_clients(void **state)
{
	struct fixture fixture;
	(void)state;
	start(&fixture, 10000);
	int fd = dial(&fixture);
	turn(&fixture);
	stop(&fixture);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(whole_and_bytewise),
	    cmocka_unit_test(long_answers_and_slow_readers),
	    cmocka_unit_test(what_is_unread_does_not_hurt),
	    cmocka_unit_test(hopeless_requests_are_dropped),
	    cmocka_unit_test(silent_clients_make_room),
	    cmocka_unit_test(freed_with_clients),
	    cmocka_unit_test(pieces_are_looked_at_together),
	    cmocka_unit_test(long_requests_make_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
