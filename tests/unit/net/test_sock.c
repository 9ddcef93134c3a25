// SPDX-License-Identifier: Apache-2.0
// What is asked of connected sockets, on real ones over loopback.
#include "test.h"

#include "net/sock.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 1000, UNREAD = 300000 };

static int ends[2] = {-1, -1}; // who has connected, who has accepted

static int connect_ends(void **state)
{
	struct addr address = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}};
	int listener;
	(void)state;
	assert_int_equal(sock_listen(&address, &listener), 0);
	assert_int_equal(sock_local_addr(listener, &address), 0);
	assert_int_equal(sock_connect(&address, &(struct sock_options){0}, &ends[0]), 0);
	while ((ends[1] = accept(listener, NULL, NULL)) < 0)
		;
	close(listener);
	return 0;
}

static int close_ends(void **state)
{
	(void)state;
	return close(ends[0]) | close(ends[1]);
}

static uint64_t written_to(int fd)
{
	uint64_t bytes;
	while (!sock_written(fd, &bytes))
		;
	return bytes;
}

// Whether the peer has acknowledged them or not: the first pieces are, of those that it has no room for many
// are not.
static void test_written_bytes_are_counted(void **state)
{
	static char bytes[UNREAD];
	(void)state;
	for (int i = 0; i < 2; i++) {
		uint64_t before = written_to(ends[i]), sent = 0;
		for (int piece = 0; piece < 5; piece++) {
			assert_int_equal(send(ends[i], bytes, PIECE, 0), PIECE);
			sent += PIECE;
			assert_int_equal(written_to(ends[i]) - before, sent);
		}
		for (ssize_t n; (n = send(ends[i], bytes, sizeof bytes, MSG_DONTWAIT)) > 0;)
			sent += (uint64_t)n;
		assert_int_equal(written_to(ends[i]) - before, sent);
	}
}

static void test_of_what_is_no_connection_nothing_is_told(void **state)
{
	uint64_t bytes;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	(void)state;
	assert_false(sock_written(fd, &bytes));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_written_bytes_are_counted, connect_ends, close_ends),
	    cmocka_unit_test(test_of_what_is_no_connection_nothing_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
