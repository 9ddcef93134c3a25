// SPDX-License-Identifier: Apache-2.0
// Requests of a plug-in's protocol through a data plane, with each allocation failing once: a client gets its
// answers in order, or the end of its connection; nothing leaks, and what follows is served.
#include "small_server.h"

#include "base/mem.h"

enum { TURNS = 10000, BODY = 40000 };

static struct small_server server;

// The endpoint answers "GET key" by a value, "PUT key length" by OK.
static size_t answer_line(int fd, const char *bytes, size_t len)
{
	const char *line = memmem(bytes, len, "\r\n", 2);
	bool put = len && bytes[0] == 'P';
	size_t whole = line ? (size_t)(line - bytes) + 2 + (put ? BODY + 2 : 0) : 0;
	if (!line || len < whole)
		return 0;
	send_all(fd, put ? "OK\r\n" : "VALUE 3\r\nabc\r\n", put ? 4 : 14);
	return whole;
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
		server_serve(&server);
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
	char rest[512];
	snprintf(rest, sizeof rest,
		 "plugins: [{path: \"%s\"}]\n"
		 "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 WEIR_LINE_EXAMPLE, server_open(&server, answer_line));
	proxy_open(proxy, "line-example", rest, NULL);
}

static void close_lines(struct proxy *proxy)
{
	proxy_close(proxy);
	server_close(&server);
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
