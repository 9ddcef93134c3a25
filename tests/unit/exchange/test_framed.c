// SPDX-License-Identifier: Apache-2.0
// Calls through a data plane on a loop of the test's own, with each allocation failing once: a client gets
// its answers, or the end of its connection; nothing leaks, and what follows is served.
#include "small_server.h"

#include "base/error.h"
#include "base/mem.h"

enum { CALLS = 3, TURNS = 10000, LONG = 300 * 1024 };

#define MAP "\0\0\0\7service\0\0\0\1S"
static const char ANSWER[] = "\1\0\0\2\1\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0"; // with the id of the request at 5
enum { ANSWER_LEN = 20, REQUEST_HEAD = 22, MAP_LEN = sizeof MAP - 1 };

static struct small_server server;

// The endpoint answers requests without content, and one long one by its head alone.
static size_t answer_call(int fd, const char *bytes, size_t len)
{
	char answer[ANSWER_LEN];
	if (len < REQUEST_HEAD)
		return 0;
	size_t content = (size_t)(uint8_t)bytes[19] << 16 | (size_t)(uint8_t)bytes[20] << 8 | (uint8_t)bytes[21];
	size_t whole = REQUEST_HEAD + MAP_LEN + content;
	if (len < whole)
		return 0;
	memcpy(answer, ANSWER, ANSWER_LEN);
	memcpy(answer + 5, bytes + 5, 4);
	return send(fd, answer, ANSWER_LEN, MSG_NOSIGNAL) < 0 ? 0 : whole;
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
		server_serve(&server);
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
	char rest[128];
	snprintf(rest, sizeof rest, "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 server_open(&server, answer_call));
	proxy_open(proxy, "bolt", rest, NULL);
}

static void bolt_close(struct proxy *proxy)
{
	proxy_close(proxy);
	server_close(&server);
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
