// SPDX-License-Identifier: Apache-2.0
// Clients of HTTP/2 that take their time, in virtual time: what they may do, and for how long.
#include "small_server.h"

#include "base/clock.h"
#include "base/limits.h"
#include "run/stats.h"

#include <netinet/tcp.h>

enum { TURNS = 100, FRAME_HEADER = 9, IDLE_MS = 10000, HEAD_MS = 4000, BODY = 100000 };
enum { DATA, HEADERS, RST_STREAM = 3, SETTINGS, GOAWAY = 7, WINDOW_UPDATE };
enum { END_STREAM = 1, END_HEADERS = 4 };

static const uint64_t START = 1000 * NS_PER_S;
static uint64_t now_ms;
static struct proxy proxy;
static struct small_server server;
static size_t sent_at_once; // by the endpoint, of a body

// What the client has got so far, frame by frame.
static struct {
	int fd;
	uint8_t bytes[256 * 1024];
	size_t len;
	size_t data[16]; // bytes, by half of the stream's id
	bool reset[16], over;
} client;

static size_t answer(int fd, const char *bytes, size_t len)
{
	static char response[BODY + 64];
	const char *end = memmem(bytes, len, "\r\n\r\n", 4);
	if (!end)
		return 0;
	int head =
	    snprintf(response, sizeof response, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", (int)BODY);
	send_all(fd, response, (size_t)head + sent_at_once);
	return (size_t)(end + 4 - bytes);
}

static void take_frame(const uint8_t *frame, size_t len)
{
	unsigned stream = frame[8] / 2 % 16;
	if (frame[3] == DATA)
		client.data[stream] += len;
	client.reset[stream] |= frame[3] == RST_STREAM;
	client.over |= frame[3] == GOAWAY;
}

static void take_frames(void)
{
	ssize_t n = recv(client.fd, client.bytes + client.len, sizeof client.bytes - client.len, 0);
	size_t at = 0;
	client.len += n > 0 ? (size_t)n : 0;
	while (client.len - at >= FRAME_HEADER) {
		const uint8_t *frame = client.bytes + at;
		size_t whole = FRAME_HEADER + ((size_t)frame[1] << 8 | frame[2]);
		if (client.len - at < whole)
			break;
		take_frame(frame, whole - FRAME_HEADER);
		at += whole;
	}
	client.len -= at;
	memmove(client.bytes, client.bytes + at, client.len);
}

// Turns until all that is under way on this machine has arrived.
static void settle(void)
{
	for (int turn = 0; turn < TURNS; turn++) {
		loop_turn(proxy.loop, 0);
		server_serve(&server);
		take_frames();
	}
}

static void advance(uint64_t ms)
{
	now_ms += ms;
	clock_fake_set(START + now_ms * NS_PER_MS);
	settle();
}

// Sends a part of a frame; all of it: `from` 0, `to` SIZE_MAX.
static void send_part(uint8_t type, uint8_t flags, uint8_t stream, const char *payload, size_t len,
		      size_t from, size_t to)
{
	uint8_t frame[FRAME_HEADER + 64] = {0, 0, (uint8_t)len, type, flags, 0, 0, 0, stream};
	assert_in_range(len, 0, 64);
	memcpy(frame + FRAME_HEADER, payload, len);
	send_all(client.fd, frame + from, MIN(to, FRAME_HEADER + len) - from);
	settle();
}

static void send_frame(uint8_t type, uint8_t flags, uint8_t stream, const char *payload, size_t len)
{
	send_part(type, flags, stream, payload, len, 0, SIZE_MAX);
}

static const char REQUEST[] = "\x82\x86\x84\x01\x06"
			      "a.mesh"; // GET http / a.mesh
enum { REQUEST_LEN = sizeof REQUEST - 1 };

static void ask(uint8_t stream)
{
	send_frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST, REQUEST_LEN);
}

// The connection may be sent so many bytes more.
static void grant(uint16_t bytes)
{
	const char increment[] = {0, 0, (char)(bytes >> 8), (char)bytes};
	send_frame(WINDOW_UPDATE, 0, 0, increment, sizeof increment);
}

// `window`: of each stream, four bytes.
static void begin(const char *window)
{
	char payload[6] = {0, 4};
	memcpy(payload + 2, window, 4);
	send_all(client.fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	send_frame(SETTINGS, 0, 0, payload, sizeof payload);
}

static int setup(void **state)
{
	static const int on = 1;
	char rest[256];
	(void)state;
	now_ms = 0;
	sent_at_once = BODY;
	clock_fake_set(START);
	memset(&client, 0, sizeof client);
	snprintf(rest, sizeof rest,
		 "timeouts: {idle: %dms, head: %dms}\n"
		 "clusters: [{name: a, protocol: http1, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 (int)IDLE_MS, (int)HEAD_MS, server_open(&server, answer));
	proxy_open(&proxy, "http", rest, NULL);
	setsockopt(proxy.listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // which those accepted inherit
	client.fd = connect_client(&proxy);
	setsockopt(client.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(client.fd);
	server_close(&server);
	proxy_close(&proxy);
	clock_fake_set(0);
	return 0;
}

// Whatever else it does: requests whose heads come in pieces, here.
static void test_a_reader_that_takes_nothing(void **state)
{
	(void)state;
	uint64_t before = stats_read(STAT_HTTP2_STALLED);
	begin("\0\0\0\1");
	ask(1);
	assert_int_equal(client.data[0], 1);
	for (uint8_t stream = 3; now_ms < 2 * IDLE_MS; stream += 2) {
		assert_false(client.reset[0]);
		send_part(HEADERS, 5, stream, "\x82", 1, 0, FRAME_HEADER); // one that is malformed
		advance(IDLE_MS / 8);
		send_part(HEADERS, 5, stream, "\x82", 1, FRAME_HEADER, SIZE_MAX);
		advance(IDLE_MS / 8);
	}
	assert_true(client.reset[0]);
	assert_false(client.over);
	assert_int_equal(stats_read(STAT_HTTP2_STALLED), before + 1);
}

// Streams share the window of their connection, one after another.
static void test_streams_share_a_window(void **state)
{
	(void)state;
	begin("\x7f\xff\xff\xff");
	for (uint8_t stream = 1; stream < 7; stream += 2)
		ask(stream);
	assert_int_equal(client.data[0], 65535);
	for (size_t round = 1; round < 4; round++) {
		for (int i = 0; i < 3; i++)
			grant(4096);
		assert_int_equal(client.data[0], 65535 + 4096 * round);
		assert_int_equal(client.data[1], 4096 * round);
		assert_int_equal(client.data[2], 4096 * round);
	}
}

// One that has just begun waits for its turn.
static void test_a_reader_that_takes_its_time(void **state)
{
	(void)state;
	uint64_t before = stats_read(STAT_HTTP2_STALLED);
	begin("\x7f\xff\xff\xff");
	ask(1);
	assert_int_equal(client.data[0], 65535);
	advance(IDLE_MS - 1);
	ask(3);
	assert_int_equal(client.data[1], 0);
	advance(1);
	assert_false(client.reset[0] || client.reset[1]);
	for (int i = 0; i < 8; i++) {
		grant(4096);
		advance(IDLE_MS / 2);
		assert_false(client.reset[0] || client.reset[1]);
	}
	assert_int_equal(stats_read(STAT_HTTP2_STALLED), before);
	advance(2 * IDLE_MS);
	assert_true(client.reset[0] && client.reset[1]);
}

// One that took all there was in between has not stalled.
static void test_a_stream_that_waits_now_and_then(void **state)
{
	static const char MORE[400];
	(void)state;
	uint64_t before = stats_read(STAT_HTTP2_STALLED);
	begin("\x7f\xff\xff\xff");
	sent_at_once = 65535 + 500;
	ask(1);
	advance(IDLE_MS);
	grant(500);
	assert_int_equal(client.data[0], sent_at_once);
	send_all(server.peers[0], MORE, sizeof MORE);
	advance(IDLE_MS);
	assert_false(client.reset[0]);
	assert_int_equal(stats_read(STAT_HTTP2_STALLED), before);
	advance(IDLE_MS);
	assert_true(client.reset[0]);
}

// Of each head: that others follow at once is no delay.
static void test_time_for_a_head(void **state)
{
	char rest_and_next[REQUEST_LEN + FRAME_HEADER + 1];
	(void)state;
	begin("\x7f\xff\xff\xff");
	send_part(HEADERS, 5, 1, REQUEST, REQUEST_LEN, 0, FRAME_HEADER + 1);
	for (uint8_t stream = 3; stream < 11; stream += 2) {
		const char next[] = {0, 0, REQUEST_LEN, HEADERS, 5, 0, 0, 0, (char)stream, REQUEST[0]};
		memcpy(rest_and_next, REQUEST + 1, REQUEST_LEN - 1);
		memcpy(rest_and_next + REQUEST_LEN - 1, next, sizeof next);
		advance(HEAD_MS / 2);
		send_all(client.fd, rest_and_next, REQUEST_LEN - 1 + sizeof next);
		settle();
		assert_false(client.over);
	}
	advance(HEAD_MS - 1);
	assert_false(client.over);
	advance(1);
	assert_true(client.over);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_a_reader_that_takes_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_streams_share_a_window, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_reader_that_takes_its_time, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_stream_that_waits_now_and_then, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_time_for_a_head, setup, teardown),
	};
	if (stats_init(1))
		return 1;
	stats_use_slot(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
