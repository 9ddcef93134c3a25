// SPDX-License-Identifier: Apache-2.0
// Calls through a data plane on a loop of the test's own, with each allocation failing once: a client gets
// its answers, or the end of its connection; nothing leaks, and what follows is served.
#include "small_proxy.h"

#include "base/error.h"
#include "base/mem.h"

enum { CALLS = 3, TURNS = 10000, LONG = 300 * 1024 };

#define MAP "\0\0\0\7service\0\0\0\1S"
static const char ANSWER[] = "\1\0\0\2\1\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0"; // with the id of the request at 5
enum { ANSWER_LEN = 20, REQUEST_HEAD = 22, MAP_LEN = sizeof MAP - 1 };

// The endpoint: answers requests without content, and one long one by its head alone.
struct origin {
	int listener, peers[8];
	size_t peer_count, held[8];
	char bytes[8][REQUEST_HEAD + MAP_LEN + LONG];
};
static struct origin server;

static void serve_peer(size_t i)
{
	ssize_t n = recv(server.peers[i], server.bytes[i] + server.held[i],
			 sizeof server.bytes[i] - server.held[i], 0);
	char *at = server.bytes[i];
	server.held[i] += n > 0 ? (size_t)n : 0;
	while (server.held[i] >= REQUEST_HEAD) {
		size_t content =
		    (size_t)(uint8_t)at[19] << 16 | (size_t)(uint8_t)at[20] << 8 | (uint8_t)at[21];
		size_t len = REQUEST_HEAD + MAP_LEN + content;
		char answer[ANSWER_LEN];
		if (server.held[i] < len)
			return;
		memcpy(answer, ANSWER, ANSWER_LEN);
		memcpy(answer + 5, at + 5, 4);
		if (send(server.peers[i], answer, ANSWER_LEN, MSG_NOSIGNAL) < 0)
			return;
		server.held[i] -= len;
		memmove(at, at + len, server.held[i]);
	}
}

static void serve(void)
{
	int fd;
	while (server.peer_count < 8 && (fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
		server.peers[server.peer_count++] = fd;
	for (size_t i = 0; i < server.peer_count; i++)
		serve_peer(i);
}

static void serve_no_more(void)
{
	for (size_t i = 0; i < server.peer_count; i++)
		close(server.peers[i]);
	server.peer_count = 0;
	memset(server.held, 0, sizeof server.held);
}

static void send_requests(int fd, size_t content)
{
	static char request[REQUEST_HEAD + MAP_LEN + LONG] = "\1\1\0\1\1\0\0\0\0\1\0\0\x75\x30\0\0\0\x10";
	memcpy(request + REQUEST_HEAD, MAP, MAP_LEN);
	for (int i = 0; i < CALLS; i++) {
		size_t len = i == CALLS - 1 ? content : 0;
		request[8] = (char)i;
		request[19] = (char)(len >> 16);
		request[20] = (char)(len >> 8);
		request[21] = (char)len;
		send_all(fd, request, REQUEST_HEAD + MAP_LEN + len);
	}
}

// One client's conversation: how many answers came before its end.
static int converse(const struct proxy *proxy, size_t content)
{
	char bytes[256];
	size_t got = 0;
	int client = connect_client(proxy);
	send_requests(client, content);
	bool ended = false;
	for (int turn = 0; turn < TURNS && !ended && got < CALLS * ANSWER_LEN; turn++) {
		loop_turn(proxy->loop, 1);
		serve();
		ssize_t n = recv(client, bytes, sizeof bytes, 0);
		ended = n == 0 || (n < 0 && errno != EAGAIN);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_true(ended || got == CALLS * ANSWER_LEN);
	close(client);
	loop_turn(proxy->loop, 0);
	return (int)(got / ANSWER_LEN);
}

static void bolt_open(struct proxy *proxy)
{
	uint16_t endpoint_port;
	char rest[128];
	server.listener = listening(&endpoint_port);
	snprintf(rest, sizeof rest, "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 endpoint_port);
	proxy_open(proxy, "bolt", rest, NULL);
}

static void bolt_close(struct proxy *proxy)
{
	proxy_close(proxy);
	serve_no_more();
	close(server.listener);
}

// Until the allocation that is to fail is one that there is not.
static void run_failing(size_t content)
{
	struct proxy proxy;
	bool failed = true;
	for (long n = 0; failed; n++) {
		bolt_open(&proxy);
		buf_thread_done(); // what is kept would be there without an allocation
		mem_fail_set(n);
		int answers = converse(&proxy, content);
		failed = mem_fail_count() > n;
		mem_fail_set(-1);
		assert_in_range(answers, 0, CALLS);
		assert_true(failed || answers == CALLS);
		assert_int_equal(converse(&proxy, content), CALLS);
		bolt_close(&proxy);
	}
}

static void test_short_frames(void **state)
{
	(void)state;
	run_failing(0);
}

static void test_a_frame_in_pieces(void **state)
{
	(void)state;
	run_failing(LONG - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_short_frames),
	    cmocka_unit_test(test_a_frame_in_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
