// SPDX-License-Identifier: Apache-2.0
// TCP in a stream between two data planes ("transport: h2"), with each allocation of either failing once: the
// client gets its echo, or the end of its connection; nothing leaks, and what follows is carried.
#include "small_proxy.h"

#include "../net/tls_certs.h"

#include "base/mem.h"
#include "net/tls.h"

enum { TURNS = 20000, SIZE = 60000, PEERS = 8 };

// The near proxy dials the far one at the address of the application, as it is where connections are
// captured: one socket listens for both, and the source address tells which of the two is meant.
static struct {
	struct proxy near;
	struct dataplane *far;
	struct tls_context *near_tls, *far_tls;
	int listener, peers[PEERS]; // of the application
	size_t peer_count;
} site;

static char dir[] = "/tmp/weir-transport-XXXXXX";

// --- the application ----------------------------------------------------------------------------------------
static void echo(int fd)
{
	static char bytes[SIZE];
	ssize_t n = recv(fd, bytes, sizeof bytes, 0);
	if (n > 0)
		send_all(fd, bytes, (size_t)n);
	else if (n == 0)
		shutdown(fd, SHUT_WR);
}

static void serve(void)
{
	struct sockaddr_in from;
	socklen_t len = sizeof from;
	int fd;
	while ((fd = accept4(site.listener, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC)) >=
	       0) {
		struct addr peer = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}, .port = 1};
		if (from.sin_addr.s_addr != htonl(0x7f000006))
			connection_accept(site.far, fd, &peer, true);
		else if (site.peer_count < PEERS)
			site.peers[site.peer_count++] = fd;
		else
			close(fd);
		len = sizeof from;
	}
	for (size_t i = 0; i < site.peer_count; i++)
		echo(site.peers[i]);
}

// --- both proxies -------------------------------------------------------------------------------------------
static struct tls_context *context(const char *name)
{
	char paths[3][128], *error = NULL;
	struct tls_context *made;
	snprintf(paths[0], sizeof paths[0], "%s/%s.pem", dir, name);
	snprintf(paths[1], sizeof paths[1], "%s/%s.key", dir, name);
	snprintf(paths[2], sizeof paths[2], "%s/ca.pem", dir);
	struct tls_options options = {str_from(paths[0]), str_from(paths[1]), str_from(paths[2]), NULL, 0};
	if (tls_context_new(&options, &made, &error))
		fail_msg("%s", error);
	return made;
}

static void far_open(void)
{
	static const struct dataplane_settings settings = {
	    .outbound_port = 1,
	    .inbound_port = 2,
	    .inbound_source = {.family = AF_INET, .bytes = {127, 0, 0, 6}}};
	char text[512];
	snprintf(text, sizeof text,
		 "intercept: {lost_destination: local}\n"
		 "tls: {mode: strict, certificate: %s/b.pem, private_key: %s/b.key, trust: %s/ca.pem}\n",
		 dir, dir, dir);
	struct model *model = build_model(text);
	assert_int_equal(dataplane_new(site.near.loop, 0, &settings, model, site.far_tls, &site.far), 0);
	model_unref(model);
}

static void site_open(void)
{
	uint16_t port;
	char rest[512];
	site.near_tls = context("a");
	site.far_tls = context("b");
	site.listener = listening(&port);
	snprintf(
	    rest, sizeof rest,
	    "tls: {mode: permissive, certificate: %s/a.pem, private_key: %s/a.key, trust: %s/ca.pem}\n"
	    "clusters: [{name: a, tls: mesh, transport: h2, endpoints: [{address: \"127.0.0.1:%u\"}]}]\n",
	    dir, dir, dir, port);
	proxy_open(&site.near, "tcp", rest, site.near_tls);
	far_open();
}

static void site_close(void)
{
	dataplane_free(site.far);
	proxy_close(&site.near);
	tls_context_unref(site.near_tls);
	tls_context_unref(site.far_tls);
	for (size_t i = 0; i < site.peer_count; i++)
		close(site.peers[i]);
	site.peer_count = 0;
	close(site.listener);
}

// --- conversations ------------------------------------------------------------------------------------------
// Sends, says that this was all, and reads to the end. Whether all came back; else the connection has ended.
static bool converse(void)
{
	static char sent[SIZE], got[SIZE + 1];
	size_t len = 0;
	int client = connect_client(&site.near);
	bool ended = false;
	for (size_t i = 0; i < SIZE; i++)
		sent[i] = (char)(i * 7);
	send_all(client, sent, SIZE);
	shutdown(client, SHUT_WR);
	for (int turn = 0; turn < TURNS && !ended; turn++) {
		loop_turn(site.near.loop, 1);
		serve();
		ssize_t n = recv(client, got + len, sizeof got - len, 0);
		ended = n == 0 || (n < 0 && errno != EAGAIN);
		len += n > 0 ? (size_t)n : 0;
	}
	assert_true(ended);
	assert_memory_equal(got, sent, len);
	close(client);
	for (int turn = 0; turn < 5; turn++)
		loop_turn(site.near.loop, 0);
	return len == SIZE;
}

// Until the allocation that is to fail is one that there is not.
static void test_failing_allocations(void **state)
{
	long n = 0;
	(void)state;
	for (bool failed = true; failed; n++) {
		site_open();
		buf_thread_done(); // what is kept would be there without an allocation
		mem_fail_set(n);
		bool whole = converse();
		failed = mem_fail_count() > n;
		mem_fail_set(-1);
		assert_true(failed || whole);
		assert_true(converse());
		site_close();
	}
	assert_true(n > 10);
}

// --- certificates -------------------------------------------------------------------------------------------
static struct test_cert ca;

static void issue(const char *name)
{
	char names[64];
	snprintf(names, sizeof names, "URI:spiffe://mesh/%s", name);
	struct test_cert made =
	    test_cert_make(name, &(struct test_cert_options){.issuer = &ca, .names = names});
	test_cert_write(&made, dir, name, NULL);
	test_cert_free(&made);
}

static int setup_all(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	ca = test_cert_make("ca", &(struct test_cert_options){.ca = 1});
	test_cert_write(&ca, dir, "ca", NULL);
	issue("a");
	issue("b");
	return 0;
}

static int teardown_all(void **state)
{
	(void)state;
	char command[64];
	test_cert_free(&ca);
	tls_thread_done();
	buf_thread_done();
	arena_thread_done();
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_failing_allocations),
	};
	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
