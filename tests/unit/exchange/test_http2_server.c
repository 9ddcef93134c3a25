// SPDX-License-Identifier: Apache-2.0
// Clients of HTTP/2 that take their time.
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_streams_share_a_window, setup, teardown),
	};
	if (stats_init(1))
		return 1;
	stats_use_slot(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
