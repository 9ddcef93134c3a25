// SPDX-License-Identifier: Apache-2.0
// Streams over real loopback sockets: one end is a stream, the other a plain socket of the test.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static struct loop *loop;
static struct stream stream;
static int peer = -1;
static int connected_calls, connected_err, readable_calls, drained_calls, write_errors;

static void on_connected(struct stream *s, int err)
{
	(void)s;
	connected_calls++;
	connected_err = err;
}

static void on_readable(struct stream *s)
{
	(void)s;
	readable_calls++;
}

static void on_drained(struct stream *s)
{
	(void)s;
	drained_calls++;
}

static void on_write_error(struct stream *s, int err)
{
	(void)s;
	(void)err;
	write_errors++;
}

enum { GREEDY_PIECE = LIMIT_OUT_HIGH + 1, GREEDY_TOTAL = 64 * 1024 * 1024 };
static size_t greedy_written, greedy_read;

// A peer that takes everything at once, and a producer that never runs dry.
static void greedy_drained(struct stream *s)
{
	static char bytes[GREEDY_PIECE];
	struct bufq queue = {0};
	ssize_t n;
	while ((n = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
		greedy_read += (size_t)n;
	if (greedy_written >= GREEDY_TOTAL)
		return;
	assert_int_equal(bufq_add_copy(&queue, bytes, sizeof bytes), 0);
	greedy_written += sizeof bytes;
	stream_write(s, &queue);
	assert_true(stream_congested(s));
}

static const struct stream_ops greedy_ops = {on_connected, on_readable, greedy_drained, on_write_error};
static const struct stream_ops ops = {on_connected, on_readable, on_drained, on_write_error};
static const struct sock_options no_options;

static int listen_any(struct addr *ret_addr)
{
	struct addr addr;
	int fd;
	assert_int_equal(addr_parse(STR("127.0.0.1:0"), &addr), 0);
	assert_int_equal(sock_listen(&addr, &fd), 0);
	assert_int_equal(sock_local_addr(fd, ret_addr), 0);
	return fd;
}

static int accept_one(int listener)
{
	struct pollfd poller = {listener, POLLIN, 0};
	assert_int_equal(poll(&poller, 1, 5000), 1);
	int fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	return fd;
}

static int setup(void **state)
{
	(void)state;
	struct addr addr;
	connected_calls = readable_calls = drained_calls = write_errors = 0;
	assert_int_equal(loop_new(&loop), 0);
	int listener = listen_any(&addr);
	stream_init(&stream, loop, &ops);
	assert_int_equal(stream_connect(&stream, &addr, &no_options, NULL), 0);
	peer = accept_one(listener);
	close(listener);
	for (int i = 0; i < 100 && !connected_calls; i++)
		loop_turn(loop, 50);
	assert_int_equal(connected_calls, 1);
	assert_int_equal(connected_err, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	stream_close(&stream);
	if (peer >= 0)
		close(peer);
	loop_turn(loop, 0);
	loop_free(loop);
	buf_thread_done();
	return 0;
}

static void turn_until(const int *counter, int value)
{
	for (int i = 0; i < 200 && *counter < value; i++)
		loop_turn(loop, 50);
	assert_true(*counter >= value);
}

static void write_text(const char *text)
{
	struct bufq bytes = {0};
	bufq_add_copy(&bytes, text, strlen(text));
	stream_write(&stream, &bytes);
	assert_true(bufq_empty(&bytes));
}

static void both_ways(void **state)
{
	(void)state;
	struct slice slice;
	char bytes[64];
	assert_int_equal(stream_read(&stream, &slice), ERR_NEED_MORE);
	assert_int_equal(write(peer, "hello", 5), 5);
	turn_until(&readable_calls, 1);
	assert_int_equal(stream_read(&stream, &slice), 5);
	assert_memory_equal(slice.p, "hello", 5);
	assert_int_equal(stream_read(&stream, &slice), ERR_NEED_MORE);
	write_text("an");
	write_text("swer");
	assert_int_equal(recv(peer, bytes, sizeof bytes, MSG_DONTWAIT), -1); // flushed at the end of the turn
	loop_turn(loop, 0);
	assert_int_equal(read(peer, bytes, sizeof bytes), 6);
	assert_int_equal(stream.received, 5);
	assert_int_equal(stream.sent, 6);
}

static void the_end_both_ways(void **state)
{
	(void)state;
	struct slice slice;
	char byte;
	assert_int_equal(write(peer, "x", 1), 1);
	shutdown(peer, SHUT_WR);
	turn_until(&readable_calls, 1);
	loop_turn(loop, 50);
	assert_int_equal(stream_read(&stream, &slice), 1);
	assert_int_equal(stream_read(&stream, &slice), ERR_EOF);
	assert_int_equal(stream_read(&stream, &slice), ERR_EOF);
	write_text("y"); // the other direction is open still
	stream_shutdown(&stream);
	write_text("dropped");
	loop_turn(loop, 0);
	assert_int_equal(read(peer, &byte, 1), 1);
	assert_int_equal(read(peer, &byte, 1), 0);
	assert_true(stream_is_flushed(&stream));
}

static void a_slow_reader_congests(void **state)
{
	(void)state;
	char *block = calloc(1, 1 << 20);
	struct bufq bytes = {0};
	size_t total = 0;
	assert_false(stream_congested(&stream));
	while (!stream_congested(&stream)) {
		bufq_add_copy(&bytes, block, 64 * 1024);
		stream_write(&stream, &bytes);
		total += 64 * 1024;
		loop_turn(loop, 0);
	}
	assert_int_equal(drained_calls, 0);
	size_t got = 0;
	fcntl(peer, F_SETFL, O_NONBLOCK);
	while (got < total) {
		ssize_t n = read(peer, block, 1 << 20);
		if (n > 0)
			got += (size_t)n;
		loop_turn(loop, 1);
	}
	assert_int_equal(drained_calls, 1);
	assert_false(stream_congested(&stream));
	free(block);
}

static void a_fast_pair_leaves_turns_for_others(void **state)
{
	(void)state;
	greedy_written = greedy_read = 0;
	stream.ops = &greedy_ops;
	stream_want_drained(&stream);
	loop_turn(loop, 0);
	assert_true(greedy_written > 0);
	assert_true(greedy_written < GREEDY_TOTAL / 8);
	for (int i = 0; i < 10000 && greedy_read < GREEDY_TOTAL; i++) {
		loop_turn(loop, 50);
		if (greedy_written >= GREEDY_TOTAL)
			greedy_drained(&stream);
	}
	assert_true(greedy_read >= GREEDY_TOTAL);
}

static void what_is_there_already_is_told_again(void **state)
{
	(void)state;
	struct slice slice;
	assert_int_equal(write(peer, "once", 4), 4);
	turn_until(&readable_calls, 1);
	assert_true(stream_yield(&stream));
	assert_true(stream_yield(&stream));
	loop_turn(loop, 0);
	assert_int_equal(readable_calls, 2);
	assert_int_equal(stream_read(&stream, &slice), 4);
}

static void a_reset_is_an_error_not_an_end(void **state)
{
	(void)state;
	struct slice slice;
	sock_set_reset(peer, true);
	close(peer);
	peer = -1;
	turn_until(&readable_calls, 1);
	assert_true(stream_has_failed(&stream));
	assert_int_equal(stream_read(&stream, &slice), -ECONNRESET);
}

static void writing_to_the_gone(void **state)
{
	(void)state;
	sock_set_reset(peer, true);
	close(peer);
	peer = -1;
	turn_until(&readable_calls, 1);
	write_text("x");
	turn_until(&write_errors, 1);
	write_text("y"); // dropped
	loop_turn(loop, 0);
	assert_int_equal(write_errors, 1);
	assert_int_equal(stream_queued(&stream), 0);
}

// The peer answers and is gone, between the loop's look at the sockets and the flush.
static void answer_and_vanish(struct loop_task *task)
{
	(void)task;
	struct pollfd poller = {stream_fd(&stream), POLLIN, 0};
	assert_int_equal(write(peer, "answer", 6), 6);
	close(peer); // with bytes unread: a reset
	peer = -1;
	while (!(poller.revents & POLLHUP))
		assert_int_equal(poll(&poller, 1, 5000), 1);
	write_text("more");
}

static void the_last_answer_of_the_gone(void **state)
{
	(void)state;
	struct slice slice;
	struct loop_task task = {0};
	struct pollfd poller = {peer, POLLIN, 0};
	write_text("question");
	loop_turn(loop, 0);
	assert_int_equal(poll(&poller, 1, 5000), 1);
	while (stream_read(&stream, &slice) > 0)
		;
	int calls = readable_calls;
	loop_defer(loop, &task, answer_and_vanish);
	loop_turn(loop, 0);
	assert_int_equal(write_errors, 1);
	assert_int_equal(readable_calls, calls); // the event is still to come
	assert_int_equal(stream_read(&stream, &slice), 6);
	assert_memory_equal(slice.p, "answer", 6);
	assert_true(stream_read(&stream, &slice) < 0);
}

static void our_reset_reaches_the_peer(void **state)
{
	(void)state;
	char byte;
	stream_reset(&stream);
	assert_false(stream_is_open(&stream));
	struct pollfd poller = {peer, POLLIN, 0};
	assert_int_equal(poll(&poller, 1, 5000), 1);
	assert_int_equal(read(peer, &byte, 1), -1);
	assert_int_equal(errno, ECONNRESET);
}

static void splicing(void **state)
{
	(void)state;
	int pipes[2];
	char bytes[8];
	assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
	assert_true(stream_can_splice(&stream));
	assert_int_equal(write(peer, "spliced", 7), 7);
	turn_until(&readable_calls, 1);
	assert_int_equal(stream_splice_in(&stream, pipes[1], 4096), 7);
	assert_int_equal(stream_splice_in(&stream, pipes[1], 4096), ERR_NEED_MORE);
	assert_int_equal(stream_splice_out(&stream, pipes[0], 7), 7);
	assert_int_equal(read(peer, bytes, 7), 7);
	assert_memory_equal(bytes, "spliced", 7);
	write_text("queued");
	assert_false(stream_can_splice(&stream)); // it would overtake
	close(pipes[0]);
	close(pipes[1]);
}

// Reads and splices stop in front of it, and no event follows for what is behind.
static void urgent_data_is_data(void **state)
{
	(void)state;
	struct slice slice;
	int on = 1;
	assert_int_equal(setsockopt(stream_fd(&stream), SOL_SOCKET, SO_OOBINLINE, &on, sizeof on), 0);
	assert_int_equal(write(peer, "before", 6), 6);
	assert_int_equal(send(peer, "!", 1, MSG_OOB), 1);
	assert_int_equal(write(peer, "behind", 6), 6);
	turn_until(&readable_calls, 1);
	loop_turn(loop, 0);
	assert_false(stream_can_splice(&stream));
	assert_int_equal(stream_read(&stream, &slice), 6);
	assert_memory_equal(slice.p, "before", 6);
	assert_int_equal(stream_read(&stream, &slice), 7);
	assert_memory_equal(slice.p, "!behind", 7);
	assert_int_equal(stream_read(&stream, &slice), ERR_NEED_MORE);
}

// It came while the owner was splicing, and the end with it: that is not what splice(2) has met.
static void urgent_data_is_not_the_end(void **state)
{
	(void)state;
	struct slice slice;
	int pipes[2], on = 1;
	assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
	assert_int_equal(setsockopt(stream_fd(&stream), SOL_SOCKET, SO_OOBINLINE, &on, sizeof on), 0);
	assert_int_equal(write(peer, "spliced", 7), 7);
	turn_until(&readable_calls, 1);
	assert_true(stream_can_splice(&stream));
	assert_int_equal(send(peer, "!", 1, MSG_OOB), 1);
	assert_int_equal(write(peer, "behind", 6), 6);
	assert_int_equal(shutdown(peer, SHUT_WR), 0);
	assert_int_equal(stream_splice_in(&stream, pipes[1], 4096), 7);
	assert_int_equal(stream_splice_in(&stream, pipes[1], 4096), 0);
	assert_int_equal(stream_read(&stream, &slice), 7);
	assert_memory_equal(slice.p, "!behind", 7);
	turn_until(&readable_calls, 2);
	assert_int_equal(stream_read(&stream, &slice), ERR_EOF);
	close(pipes[0]);
	close(pipes[1]);
}

static void a_refused_connection(void **state)
{
	(void)state;
	struct addr addr;
	struct stream other;
	int listener = listen_any(&addr);
	close(listener);
	connected_calls = 0;
	stream_init(&other, loop, &ops);
	assert_int_equal(stream_connect(&other, &addr, &no_options, NULL), 0);
	assert_int_equal(connected_calls, 0); // never from inside the call
	turn_until(&connected_calls, 1);
	assert_int_equal(connected_err, -ECONNREFUSED);
	stream_close(&other);
}

static void the_source_address_uses_no_port_up(void **state)
{
	(void)state;
	struct addr addr, local;
	struct sock_options options = {0};
	int fd, listener = listen_any(&addr);
	assert_int_equal(ip_parse(STR("127.0.0.6"), &options.source), 0);
	assert_int_equal(sock_connect(&addr, &options, &fd), 0);
	assert_int_equal(sock_local_addr(fd, &local), 0);
	int value = 0;
	socklen_t len = sizeof value;
	assert_int_equal(getsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &value, &len), 0);
	assert_int_equal(value, 1);
	assert_true(ip_eq(&local.ip, &options.source));
	close(fd);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(both_ways, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_end_both_ways, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_slow_reader_congests, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_fast_pair_leaves_turns_for_others, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_is_there_already_is_told_again, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_reset_is_an_error_not_an_end, setup, teardown),
	    cmocka_unit_test_setup_teardown(writing_to_the_gone, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_last_answer_of_the_gone, setup, teardown),
	    cmocka_unit_test_setup_teardown(our_reset_reaches_the_peer, setup, teardown),
	    cmocka_unit_test_setup_teardown(splicing, setup, teardown),
	    cmocka_unit_test_setup_teardown(urgent_data_is_data, setup, teardown),
	    cmocka_unit_test_setup_teardown(urgent_data_is_not_the_end, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_refused_connection, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_source_address_uses_no_port_up, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
