// SPDX-License-Identifier: Apache-2.0
// Requests of a plug-in's protocol through a data plane, with each allocation failing once: a client gets its
// answers in order, or the end of its connection; nothing leaks, and what follows is served.
#include "small_proxy.h"

#include "base/mem.h"

enum { TURNS = 10000, BODY = 40000 };

static struct {
	int listener, peers[8];
	size_t peer_count, held[8];
	char bytes[8][BODY + 256];
} server;

// Answers each request that is whole: "GET key" by a value, "PUT key length" by OK.
static void serve_peer(size_t i)
{
	char *at = server.bytes[i], *line;
	ssize_t n = recv(server.peers[i], at + server.held[i], sizeof server.bytes[i] - server.held[i], 0);
	server.held[i] += n > 0 ? (size_t)n : 0;
	while ((line = memmem(at, server.held[i], "\r\n", 2))) {
		bool put = at[0] == 'P';
		size_t len = (size_t)(line - at) + 2 + (put ? BODY + 2 : 0);
		if (server.held[i] < len)
			return;
		send_all(server.peers[i], put ? "OK\r\n" : "VALUE 3\r\nabc\r\n", put ? 4 : 14);
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

// "GET", "PUT" with a body, "GET". Whether all was answered; else the connection has ended.
static bool converse(const struct proxy *proxy)
{
	static const char GET[] = "GET a.b\r\n", PUT[] = "PUT a.c 40000\r\n",
			  EXPECTED[] = "VALUE 3\r\nabc\r\nOK\r\nVALUE 3\r\nabc\r\n", FAILED[] = "ERROR ";
	static char body[BODY + 2];
	struct got got = {0};
	int client = connect_client(proxy);
	memset(body, 'x', BODY);
	memcpy(body + BODY, "\r\n", 2);
	send_all(client, GET, sizeof GET - 1);
	send_all(client, PUT, sizeof PUT - 1);
	send_all(client, body, sizeof body);
	send_all(client, GET, sizeof GET - 1);
	bool whole = false, failed = false;
	for (int turn = 0; turn < TURNS && !got.ended && !whole && !failed; turn++) {
		loop_turn(proxy->loop, 1);
		serve();
		receive(client, &got);
		whole = strcmp(got.bytes, EXPECTED) == 0;
		failed = strstr(got.bytes, FAILED) != NULL; // an answer by the proxy
	}
	assert_true(got.ended || whole || failed);
	assert_true(failed || strncmp(got.bytes, EXPECTED, got.len) == 0);
	close(client);
	loop_turn(proxy->loop, 0);
	return whole;
}

static void open_lines(struct proxy *proxy)
{
	uint16_t port;
	char rest[512];
	server.listener = listening(&port);
	snprintf(rest, sizeof rest,
		 "plugins: [{path: \"%s\"}]\n"
		 "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 WEIR_LINE_EXAMPLE, port);
	proxy_open(proxy, "line-example", rest, NULL);
}

static void close_lines(struct proxy *proxy)
{
	proxy_close(proxy);
	serve_no_more();
	close(server.listener);
}

// Until the allocation that is to fail is one that there is not.
static void test_failing_allocations(void **state)
{
	struct proxy proxy;
	long n = 0;
	(void)state;
	for (bool failed = true; failed; n++) {
		open_lines(&proxy);
		buf_thread_done(); // what is kept would be there without an allocation
		mem_fail_set(n);
		bool whole = converse(&proxy);
		failed = mem_fail_count() > n;
		mem_fail_set(-1);
		assert_true(failed || whole);
		assert_true(converse(&proxy));
		close_lines(&proxy);
	}
	assert_true(n > 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_failing_allocations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
