// SPDX-License-Identifier: Apache-2.0
// Shared connections to endpoints, in virtual time: an endpoint that says nothing is asked whether it is
// there.
#include "small_proxy.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "run/stats.h"

#include <limits.h>
#include <netinet/tcp.h>

enum { TURNS = 200, FRAME_HEADER = 9 };
enum { PIECES = 5 }; // of a body
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, WINDOW_UPDATE = 8, ACK = 1 };

static const uint64_t START = 1000 * NS_PER_S;
static uint64_t now_ms;
static struct proxy proxy;

// The endpoint: one connection, whose frames are counted.
static struct {
	int listener, peer; // peer -1: none
	uint8_t bytes[32 * 1024];
	size_t len;
	int requests, pings, strikes;
	bool responded; // since the last PING
	uint64_t last_ping_ms;
	uint32_t last_stream;
	uint8_t body[2 * LIMIT_HTTP_RETRY_BYTES]; // of the last request
	size_t body_len;
	uint8_t last_ping[8];
	bool ended;
} endpoint;

static void send_frame(uint8_t type, uint8_t flags, uint32_t stream, const void *payload, uint8_t len)
{
	uint8_t frame[FRAME_HEADER + 8] = {0, 0, len, type, flags, 0, 0, 0, (uint8_t)stream};
	assert_in_range(len, 0, 8);
	memcpy(frame + FRAME_HEADER, payload, len);
	endpoint.responded |= type == HEADERS || type == DATA;
	send_all(endpoint.peer, frame, FRAME_HEADER + (size_t)len);
}

// The bytes may come again, on the stream and on the connection.
static void grant(uint32_t stream, size_t len)
{
	uint8_t increment[] = {0, 0, (uint8_t)(len >> 8), (uint8_t)len};
	if (!len)
		return;
	send_frame(WINDOW_UPDATE, 0, stream, increment, sizeof increment);
	send_frame(WINDOW_UPDATE, 0, 0, increment, sizeof increment);
}

// As servers of gRPC count them (its proposal A8): they bear two.
static void take_ping(const uint8_t *payload)
{
	if (endpoint.responded)
		endpoint.strikes = 0;
	else if (endpoint.pings && now_ms - endpoint.last_ping_ms < 5 * 60 * 1000)
		endpoint.strikes++;
	assert_in_range(endpoint.strikes, 0, 2);
	endpoint.responded = false;
	endpoint.last_ping_ms = now_ms;
	endpoint.pings++;
	memcpy(endpoint.last_ping, payload, 8);
}

static void take_frame(const uint8_t *frame, size_t len)
{
	if (frame[3] == HEADERS) {
		endpoint.requests++;
		endpoint.last_stream = frame[8];
		endpoint.body_len = 0;
	} else if (frame[3] == DATA) {
		assert_in_range(endpoint.body_len + len, 0, sizeof endpoint.body);
		memcpy(endpoint.body + endpoint.body_len, frame + FRAME_HEADER, len);
		endpoint.body_len += len;
		grant(frame[8], len);
	} else if (frame[3] == PING && !(frame[4] & ACK)) {
		take_ping(frame + FRAME_HEADER);
	}
}

static void take_frames(void)
{
	static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	size_t at = 0;
	if (endpoint.len >= sizeof PREFACE - 1 && memcmp(endpoint.bytes, "PRI", 3) == 0)
		at = sizeof PREFACE - 1;
	while (endpoint.len - at >= FRAME_HEADER) {
		const uint8_t *frame = endpoint.bytes + at;
		size_t whole = FRAME_HEADER + ((size_t)frame[1] << 8 | frame[2]);
		if (endpoint.len - at < whole)
			break;
		take_frame(frame, whole - FRAME_HEADER);
		at += whole;
	}
	endpoint.len -= at;
	memmove(endpoint.bytes, endpoint.bytes + at, endpoint.len);
}

static void serve(void)
{
	static const int on = 1;
	if (endpoint.peer < 0) {
		endpoint.peer = accept4(endpoint.listener, NULL, NULL, SOCK_NONBLOCK);
		if (endpoint.peer < 0)
			return;
		setsockopt(endpoint.peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		send_frame(SETTINGS, 0, 0, "", 0);
	}
	ssize_t n =
	    recv(endpoint.peer, endpoint.bytes + endpoint.len, sizeof endpoint.bytes - endpoint.len, 0);
	endpoint.ended |= n == 0 || (n < 0 && errno != EAGAIN);
	endpoint.len += n > 0 ? (size_t)n : 0;
	take_frames();
}

// Turns until all that is under way on this machine has arrived.
static void settle(void)
{
	for (int turn = 0; turn < TURNS; turn++) {
		loop_turn(proxy.loop, 0);
		serve();
	}
}

static void advance(uint64_t ms)
{
	now_ms += ms;
	clock_fake_set(START + now_ms * NS_PER_MS);
	settle();
}

static int setup(void **state)
{
	char rest[256];
	uint16_t port;
	(void)state;
	now_ms = 0;
	clock_fake_set(START);
	memset(&endpoint, 0, sizeof endpoint);
	endpoint.peer = -1;
	endpoint.listener = listening(&port);
	snprintf(rest, sizeof rest,
		 "timeouts: {pool_idle: 1h}\n"
		 "clusters: [{name: a, protocol: http2, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 port);
	proxy_open(&proxy, "http", rest, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	proxy_close(&proxy);
	close(endpoint.peer);
	close(endpoint.listener);
	clock_fake_set(0);
	return 0;
}

static int ask(void)
{
	static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: a.mesh\r\n\r\n";
	int client = connect_client(&proxy);
	send_all(client, REQUEST, sizeof REQUEST - 1);
	settle();
	return client;
}

static void assert_status(int client, const char *line)
{
	struct got got = {0};
	receive(client, &got);
	if (strncmp(got.bytes, line, strlen(line)) != 0)
		fail_msg("not \"%s\": \"%s\"", line, got.bytes);
}

static void assert_nothing(int client)
{
	struct got got = {0};
	receive(client, &got);
	assert_false(got.ended);
	assert_int_equal(got.len, 0);
}

static void test_an_endpoint_that_swallows_pings(void **state)
{
	(void)state;
	uint64_t before = stats_read(STAT_HTTP2_PING_TIMEOUTS);
	int first = ask(), second = ask();
	assert_int_equal(endpoint.requests, 2);
	advance(LIMIT_HTTP2_PING_MS - 1);
	assert_int_equal(endpoint.pings, 0);
	advance(1); // its settings have come meanwhile
	assert_int_equal(endpoint.pings, 0);
	advance(LIMIT_HTTP2_PING_MS);
	assert_int_equal(endpoint.pings, 1);
	assert_nothing(first);
	assert_false(endpoint.ended);
	advance(LIMIT_HTTP2_PING_MS);
	assert_true(endpoint.ended);
	assert_status(first, "HTTP/1.1 502 ");
	assert_status(second, "HTTP/1.1 502 ");
	assert_int_equal(stats_read(STAT_HTTP2_PING_TIMEOUTS), before + 1);
	close(first);
	close(second);
}

static void pass_minutes(int minutes)
{
	for (int turn = 0; turn < 2 * minutes; turn++) {
		int pings = endpoint.pings;
		advance(LIMIT_HTTP2_PING_MS);
		if (endpoint.pings > pings)
			send_frame(PING, ACK, 0, endpoint.last_ping, 8);
		settle();
		assert_false(endpoint.ended);
	}
}

// As long as it answers the requests may take. It is not asked more often than it bears, and soon after it
// has responded.
static void test_an_endpoint_that_is_slow(void **state)
{
	static const struct {
		uint8_t type, flags;
		const char *payload;
	} responses[] = {{HEADERS, 4, "\x88"}, {DATA, 0, "a"}, {DATA, 1, "b"}}; // :status 200
	(void)state;
	uint64_t before = stats_read(STAT_HTTP2_PING_TIMEOUTS);
	int client = ask();
	for (size_t response = 0; response < ARRAY_SIZE(responses); response++) {
		int pings = endpoint.pings;
		pass_minutes(3);
		assert_int_equal(endpoint.pings, pings + 2);
		pass_minutes(37);
		assert_in_range(endpoint.pings, pings + 6, pings + 9);
		send_frame(responses[response].type, responses[response].flags, endpoint.last_stream,
			   responses[response].payload, 1);
		settle();
	}
	assert_status(client, "HTTP/1.1 200 ");
	assert_int_equal(stats_read(STAT_HTTP2_PING_TIMEOUTS), before);
	close(client);
}

// A connection that was idle, however long it may stay so, is watched from its next request on.
static void test_an_idle_connection_whose_endpoint_went_away(void **state)
{
	(void)state;
	int client = ask();
	send_frame(HEADERS, 5, endpoint.last_stream, "\x88", 1);
	settle();
	assert_status(client, "HTTP/1.1 200 ");
	advance(10 * 60 * 1000);
	assert_int_equal(endpoint.pings, 0);
	int later = ask();
	assert_int_equal(endpoint.requests, 2);
	advance(LIMIT_HTTP2_PING_MS);
	assert_int_equal(endpoint.pings, 1);
	advance(LIMIT_HTTP2_PING_MS);
	assert_true(endpoint.ended);
	assert_status(later, "HTTP/1.1 502 ");
	close(client);
	close(later);
}

static void abandon(int client)
{
	const struct linger reset = {.l_onoff = 1};
	setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(client);
}

// Callers that lose patience, one after the other, do not keep a dead connection in use.
static void test_streams_that_end_without_a_word(void **state)
{
	(void)state;
	int client = ask();
	send_frame(HEADERS, 5, endpoint.last_stream, "\x88", 1);
	settle();
	close(client);
	for (int turn = 0; turn < 5 && !endpoint.ended; turn++) {
		client = ask();
		advance(LIMIT_HTTP2_PING_MS / 3);
		abandon(client);
		settle();
	}
	assert_int_equal(endpoint.pings, 1);
	assert_true(endpoint.ended);
}

// A request with a body in that many pieces.
static int post(size_t len, size_t pieces)
{
	char head[128], body[4096];
	int client = connect_client(&proxy);
	int n = snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: a.mesh\r\nContent-Length: %zu\r\n\r\n",
			 len * pieces);
	send_all(client, head, (size_t)n);
	for (size_t piece = 0; piece < pieces; piece++) {
		memset(body, (int)('a' + piece), len);
		settle();
		send_all(client, body, len);
	}
	settle();
	return client;
}

static void assert_body(size_t len, size_t pieces)
{
	assert_int_equal(endpoint.body_len, len * pieces);
	for (size_t i = 0; i < endpoint.body_len; i++)
		assert_int_equal(endpoint.body[i], (uint8_t)('a' + i / len));
}

static void refuse(void)
{
	send_frame(RST_STREAM, 0, endpoint.last_stream, "\0\0\0\7", 4); // REFUSED_STREAM
}

// What was sent goes again, be it copied or referred to.
static void test_a_refused_request(void **state)
{
	static const struct {
		size_t len, pieces;
	} bodies[] = {{1, 1}, {512, 1}, {513, 1}, {4000, 1}, {3, 2}, {512, 3}, {1000, 4}};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		int before = endpoint.requests, client = post(bodies[i].len, bodies[i].pieces);
		assert_body(bodies[i].len, bodies[i].pieces);
		refuse();
		settle();
		assert_int_equal(endpoint.requests, before + 2);
		assert_body(bodies[i].len, bodies[i].pieces);
		refuse();
		settle();
		assert_int_equal(endpoint.requests, before + 3);
		assert_body(bodies[i].len, bodies[i].pieces);
		send_frame(HEADERS, 5, endpoint.last_stream, "\x88", 1);
		settle();
		assert_status(client, "HTTP/1.1 200 ");
		close(client);
	}
}

// What was sent is kept up to a limit, of which the first piece that is copied is a part.
static void test_a_refused_request_that_is_long(void **state)
{
	enum { LEN = 512, MOST = LIMIT_HTTP_RETRY_BYTES / LEN };
	(void)state;
	int client = post(LEN, MOST);
	assert_body(LEN, MOST);
	refuse();
	settle();
	settle();
	assert_int_equal(endpoint.requests, 2);
	assert_body(LEN, MOST);
	send_frame(HEADERS, 5, endpoint.last_stream, "\x88", 1);
	settle();
	assert_status(client, "HTTP/1.1 200 ");
	close(client);
	client = post(LEN, MOST + 1);
	assert_body(LEN, MOST + 1);
	refuse();
	settle();
	settle();
	assert_int_equal(endpoint.requests, 3);
	assert_status(client, "HTTP/1.1 503 ");
	close(client);
}

// The endpoint takes another connection, if that one was lost.
static void take_another(void)
{
	if (!endpoint.ended)
		return;
	close(endpoint.peer);
	endpoint.peer = -1;
	endpoint.len = 0;
	endpoint.ended = false;
}

// Whether the request that is refused comes again: then all of it does.
static bool comes_again(int client, struct got *got)
{
	int before = endpoint.requests;
	refuse();
	settle();
	receive(client, got);
	if (endpoint.requests == before || got->len || got->ended)
		return false;
	assert_body(100, PIECES);
	return true;
}

// How often a request came again, whatever allocation fails: while it is sent first, or while it is to be
// sent again.
static int refuse_without_memory(bool first, int *ret_refused)
{
	int again = 0;
	for (long n = 0, count = 0; n <= count; n++) {
		struct got got = {0};
		int before = endpoint.requests;
		buf_thread_done(); // so that there is something to allocate
		mem_fail_set(first ? n : LONG_MAX);
		int client = post(100, PIECES);
		if (!first)
			mem_fail_set(n);
		if (endpoint.requests > before && comes_again(client, &got))
			again += 1 + comes_again(client, &got);
		count = mem_fail_count();
		mem_fail_set(-1);
		settle();
		receive(client, &got);
		*ret_refused += strncmp(got.bytes, "HTTP/1.1 503 ", 13) == 0;
		close(client);
		settle();
		take_another();
	}
	return again;
}

static void test_a_refused_request_without_memory(void **state)
{
	int refused = 0;
	(void)state;
	assert_true(refuse_without_memory(false, &refused) > 0);
	assert_true(refused > 0);
	assert_true(refuse_without_memory(true, &refused) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_an_endpoint_that_swallows_pings, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_an_endpoint_that_is_slow, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_an_idle_connection_whose_endpoint_went_away, setup,
					    teardown),
	    cmocka_unit_test_setup_teardown(test_streams_that_end_without_a_word, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_refused_request, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_refused_request_that_is_long, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_refused_request_without_memory, setup, teardown),
	};
	if (stats_init(1))
		return 1;
	stats_use_slot(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
