// SPDX-License-Identifier: Apache-2.0
// Calls through a data plane on a loop of the test's own, with each allocation failing once: a client gets
// its answers, or the end of its connection; nothing leaks, and what follows is served.
#include "../control/build_model.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "exchange/connection.h"
#include "exchange/dataplane.h"
#include "run/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CALLS = 3, TURNS = 10000, LONG = 300 * 1024 };

#define MAP "\0\0\0\7service\0\0\0\1S"
static const char ANSWER[] = "\1\0\0\2\1\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0"; // with the id of the request at 5
enum { ANSWER_LEN = 20, REQUEST_HEAD = 22, MAP_LEN = sizeof MAP - 1 };

// A listening socket on the loopback address; its port.
static int listening(uint16_t *ret_port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*ret_port = ntohs(at.sin_port);
	return fd;
}

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

static void send_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
		if (n <= 0)
			return; // reset, or full: the proxy does not read
		bytes += n;
		len -= (size_t)n;
	}
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

struct proxy {
	struct loop *loop;
	struct dataplane *dataplane;
	int listener;
	uint16_t port;
};

static int connect_client(const struct proxy *proxy)
{
	struct sockaddr_in at = {
	    .sin_family = AF_INET, .sin_port = htons(proxy->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4 << 20;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

// One client's conversation: how many answers came before its end.
static int converse(const struct proxy *proxy, size_t content)
{
	char bytes[256];
	size_t got = 0;
	struct addr peer = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}, .port = 1};
	int client = connect_client(proxy), fd;
	while ((fd = accept4(proxy->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
		;
	connection_accept(proxy->dataplane, fd, &peer, false);
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

static void proxy_open(struct proxy *proxy)
{
	uint16_t endpoint_port;
	char text[512];
	static const struct dataplane_settings settings = {.outbound_port = 1, .inbound_port = 2};
	server.listener = listening(&endpoint_port);
	proxy->listener = listening(&proxy->port);
	snprintf(text, sizeof text,
		 "intercept: {lost_destination: local}\n"
		 "services: [{name: a.mesh, cluster: a, addresses: [127.0.0.1], ports: [{port: %u, protocol: "
		 "bolt}]}]\n"
		 "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
		 proxy->port, endpoint_port);
	struct model *model = build_model(text);
	assert_int_equal(loop_new(&proxy->loop), 0);
	assert_int_equal(dataplane_new(proxy->loop, 0, &settings, model, NULL, &proxy->dataplane), 0);
	model_unref(model);
}

static void proxy_close(struct proxy *proxy)
{
	dataplane_free(proxy->dataplane);
	loop_free(proxy->loop);
	serve_no_more();
	close(server.listener);
	close(proxy->listener);
	buf_thread_done();
	arena_thread_done();
}

// Until the allocation that is to fail is one that there is not.
static void run_failing(size_t content)
{
	struct proxy proxy;
	long count = 1;
	for (long n = 0; n < count; n++) {
		proxy_open(&proxy);
		buf_thread_done(); // what is kept would be there without an allocation
		mem_fail_set(n);
		int answers = converse(&proxy, content);
		count = mem_fail_count();
		mem_fail_set(-1);
		assert_in_range(answers, 0, CALLS);
		assert_true(n < count || answers == CALLS);
		assert_int_equal(converse(&proxy, content), CALLS);
		proxy_close(&proxy);
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
