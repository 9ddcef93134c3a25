// SPDX-License-Identifier: Apache-2.0
// Calls in streams between two sidecars, both on one data plane of the test's own, with each allocation
// failing once: a client gets its answers, or the end of its connection; nothing leaks, and what follows is
// served. And the fields that describe a call.
#include "../control/build_model.h"
#include "../net/tls_certs.h"

#include "base/error.h"
#include "base/mem.h"
#include "exchange/call.h"
#include "exchange/http2_session.h"
#include "exchange/transport.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum { CALLS = 3, TURNS = 10000, PEERS = 8, LONG = 300 * 1024 };
enum { ANSWER_LEN = 20, REQUEST_HEAD = 22 };

static char dir[] = "/tmp/weir-call-stream-XXXXXX";

// --- the application, and the way to it ---------------------------------------------------------------------
struct site {
	struct loop *loop;
	struct dataplane *dataplane;
	int near, far; // listening: for the client; for the other sidecar and, from 127.0.0.6, the application
	uint16_t near_port, far_port;
	int peers[PEERS];
	size_t peer_count, held[PEERS];
};

static char bytes_of[PEERS][REQUEST_HEAD + LONG];

// Small pieces are sent at once, on connections that are accepted, too.
static int unbuffered(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static int listening(uint16_t *ret_port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*ret_port = ntohs(at.sin_port);
	return unbuffered(fd);
}

// Answers requests without a header map by a frame of the same kind without content.
static void serve_peer(struct site *site, size_t i)
{
	char *at = bytes_of[i];
	ssize_t n = recv(site->peers[i], at + site->held[i], sizeof bytes_of[i] - site->held[i], 0);
	site->held[i] += n > 0 ? (size_t)n : 0;
	while (site->held[i] >= REQUEST_HEAD) {
		char answer[ANSWER_LEN] = "\1\0\0\2\1\0\0\0\0\1";
		size_t content =
		    (size_t)(uint8_t)at[19] << 16 | (size_t)(uint8_t)at[20] << 8 | (uint8_t)at[21];
		if (site->held[i] < REQUEST_HEAD + content)
			return;
		memcpy(answer + 5, at + 5, 4);
		if (send(site->peers[i], answer, ANSWER_LEN, MSG_NOSIGNAL) < 0)
			return;
		site->held[i] -= REQUEST_HEAD + content;
		memmove(at, at + REQUEST_HEAD + content, site->held[i]);
	}
}

static void serve(struct site *site)
{
	struct sockaddr_in from;
	socklen_t len = sizeof from;
	struct addr peer = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}, .port = 1};
	int fd;
	while ((fd = accept4(site->far, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (from.sin_addr.s_addr == htonl(0x7f000001))
			connection_accept(site->dataplane, fd, &peer, true);
		else if (site->peer_count < PEERS)
			site->peers[site->peer_count++] = fd;
		else
			close(fd);
	}
	for (size_t i = 0; i < site->peer_count; i++)
		serve_peer(site, i);
}

static struct tls_context *make_context(void)
{
	char cert[64], key[64], trust[64], *error = NULL;
	struct tls_context *context;
	snprintf(cert, sizeof cert, "%s/leaf.pem", dir);
	snprintf(key, sizeof key, "%s/leaf.key", dir);
	snprintf(trust, sizeof trust, "%s/ca.pem", dir);
	struct tls_options options = {str_from(cert), str_from(key), str_from(trust), NULL, 0};
	if (tls_context_new(&options, &context, &error))
		fail_msg("%s", error ? error : "out of memory");
	return context;
}

static void site_open(struct site *site)
{
	static const struct dataplane_settings settings = {
	    .outbound_port = 1,
	    .inbound_port = 2,
	    .inbound_source = {.family = AF_INET, .bytes = {127, 0, 0, 6}}};
	char config[1024];
	*site = (struct site){0};
	site->near = listening(&site->near_port);
	site->far = listening(&site->far_port);
	snprintf(config, sizeof config,
		 "intercept: {lost_destination: local}\n"
		 "tls: {mode: strict, certificate: %s/leaf.pem, private_key: %s/leaf.key, trust: %s/ca.pem}\n"
		 "services: [{name: a.mesh, cluster: a, addresses: [127.0.0.1], ports: [{port: %u, protocol: "
		 "bolt}]}]\n"
		 "clusters: [{name: a, tls: mesh, transport: h2, endpoints: [{address: "
		 "\"127.0.0.1:%u\"}]}]\n",
		 dir, dir, dir, site->near_port, site->far_port);
	struct model *model = build_model(config);
	struct tls_context *context = make_context();
	assert_int_equal(loop_new(&site->loop), 0);
	assert_int_equal(dataplane_new(site->loop, 0, &settings, model, context, &site->dataplane), 0);
	tls_context_unref(context);
	model_unref(model);
}

static void site_close(struct site *site)
{
	dataplane_free(site->dataplane);
	loop_free(site->loop);
	for (size_t i = 0; i < site->peer_count; i++)
		close(site->peers[i]);
	close(site->near);
	close(site->far);
	buf_thread_done();
	arena_thread_done();
}

// --- the client ---------------------------------------------------------------------------------------------
static int connect_client(const struct site *site)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_port = htons(site->near_port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct addr peer = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}, .port = 1};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4 << 20, accepted;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while ((accepted = accept4(site->near, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
		;
	connection_accept(site->dataplane, accepted, &peer, false);
	return unbuffered(fd);
}

static void send_requests(int fd, size_t content)
{
	static char request[REQUEST_HEAD + LONG] = "\1\1\0\1\1\0\0\0\0\1\0\0\x75\x30";
	for (int i = 0; i < CALLS; i++) {
		size_t len = i == CALLS - 1 ? content : 0;
		request[8] = (char)i;
		request[19] = (char)(len >> 16);
		request[20] = (char)(len >> 8);
		request[21] = (char)len;
		send(fd, request, REQUEST_HEAD + len, MSG_NOSIGNAL);
	}
}

// How many answers came before the end of the connection; and whether all are answers of the application.
static int converse(struct site *site, size_t content, bool *ret_good)
{
	char bytes[CALLS * ANSWER_LEN];
	size_t got = 0;
	int client = connect_client(site);
	send_requests(client, content);
	bool ended = false;
	for (int turn = 0; turn < TURNS && !ended && got < sizeof bytes; turn++) {
		loop_turn(site->loop, 1);
		serve(site);
		ssize_t n = recv(client, bytes + got, sizeof bytes - got, 0);
		ended = n == 0 || (n < 0 && errno != EAGAIN);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_true(ended || got == sizeof bytes);
	*ret_good = got == sizeof bytes;
	for (size_t i = 0; i + ANSWER_LEN <= got; i += ANSWER_LEN)
		*ret_good = *ret_good && bytes[i + 11] == 0;
	close(client);
	loop_turn(site->loop, 0);
	return (int)(got / ANSWER_LEN);
}

// At first none fails; then each of those that there were.
static void run_failing(size_t content)
{
	struct site site;
	long count = 0;
	bool good;
	for (long n = -1; n < count; n++) {
		site_open(&site);
		buf_thread_done(); // what is kept would be there without an allocation
		mem_fail_set(n < 0 ? LONG_MAX : n);
		int answers = converse(&site, content, &good);
		if (n < 0)
			count = mem_fail_count();
		mem_fail_set(-1);
		assert_in_range(answers, 0, CALLS);
		assert_true(n >= 0 || good);
		assert_int_equal(converse(&site, content, &good), CALLS);
		assert_true(good);
		site_close(&site);
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

// --- fields -------------------------------------------------------------------------------------------------
static const struct field *find(const struct exchange *exchange, const char *name)
{
	return head_find(&exchange->message.head, str_from(name));
}

#define PAIR(name_, value_) {.name = STR(name_), .value = STR(value_)}

static void test_a_call_as_fields(void **state)
{
	static char large[LIMIT_TRANSPORT_CALL_BYTES];
	struct call call = {.frame.kind = FRAME_REQUEST, .timeout_ms = 1500};
	struct field pairs[] = {PAIR("Trace-Id", "a b"), PAIR("", "x"), PAIR("two words", "x"),
				PAIR("control", "a\r\nb"), PAIR("te", "gzip"), PAIR("Weir-Kind", "oneway"),
				PAIR("host", "other"), PAIR("large", ""), PAIR("last", "")};
	struct head head = {.authority = STR("svc:1.0"), .method = STR("not\nlegal"), .fields = pairs,
			    .field_count = ARRAY_SIZE(pairs)};
	(void)state;
	memset(large, 'x', sizeof large);
	pairs[7].value = (struct str){large, sizeof large};
	for (long n = -1, count = 0; n < count; n++) {
		struct exchange exchange = {0};
		arena_thread_done();
		mem_fail_set(n < 0 ? LONG_MAX : n);
		int err = transport_describe_call(&exchange, &call, &head);
		if (n < 0)
			count = mem_fail_count();
		mem_fail_set(-1);
		assert_int_equal(err, n < 0 ? 0 : -ENOMEM);
		if (!err) {
			assert_int_equal(exchange.message.head.field_count, 5);
			assert_true(str_eq(find(&exchange, "weir-kind")->value, STR("request")));
			assert_true(str_eq(find(&exchange, "weir-timeout")->value, STR("1500")));
			assert_true(str_eq(find(&exchange, "weir-service")->value, STR("svc:1.0")));
			assert_true(str_eq(find(&exchange, "trace-id")->value, STR("a b")));
			assert_non_null(find(&exchange, "last"));
		}
		arena_done(&exchange.arena);
	}
	arena_thread_done();
}

static void test_as_many_pairs_as_the_limit(void **state)
{
	static struct field pairs[LIMIT_RPC_FIELDS];
	struct call call = {.frame.kind = FRAME_ONEWAY};
	struct exchange exchange = {0};
	(void)state;
	for (size_t i = 0; i < LIMIT_RPC_FIELDS; i++)
		pairs[i] = (struct field)PAIR("name", "value");
	struct head head = {
	    .authority = STR(""), .method = STR(""), .fields = pairs, .field_count = LIMIT_RPC_FIELDS};
	assert_int_equal(transport_describe_call(&exchange, &call, &head), 0);
	assert_int_equal(exchange.message.head.field_count, 1 + LIMIT_TRANSPORT_CALL_FIELDS);
	assert_true(str_eq(find(&exchange, "weir-kind")->value, STR("oneway")));
	arena_done(&exchange.arena);
	arena_thread_done();
}

static void test_reading_what_a_head_says(void **state)
{
	static const struct {
		const char *kind, *timeout;
		int err;
		uint32_t ms;
	} rows[] = {
	    {"request", NULL, 0, 0},
	    {"request", "0", 0, 0},
	    {"oneway", "4294967295", 0, 4294967295u},
	    {"oneway", "4294967296", ERR_MALFORMED, 0},
	    {"request", "1s", ERR_MALFORMED, 0},
	    {"request", "", ERR_MALFORMED, 0},
	    {"response", NULL, ERR_MALFORMED, 0},
	    {NULL, "5", ERR_MALFORMED, 0},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct field fields[2];
		struct head head = {.fields = fields};
		uint8_t kind = 77;
		uint32_t ms = 77;
		if (rows[i].kind)
			fields[head.field_count++] =
			    (struct field){.name = STR("weir-kind"), .value = str_from(rows[i].kind)};
		if (rows[i].timeout)
			fields[head.field_count++] =
			    (struct field){.name = STR("weir-timeout"), .value = str_from(rows[i].timeout)};
		assert_int_equal(transport_read_call(&head, &kind, &ms), rows[i].err);
		assert_int_equal(ms, rows[i].err ? 77 : rows[i].ms);
		assert_int_equal(kind, rows[i].err			       ? 77
				       : str_eq(str_from(rows[i].kind), STR("oneway")) ? FRAME_ONEWAY
									       : FRAME_REQUEST);
	}
	char room[8];
	assert_true(str_eq(transport_status(65535, room).value, STR("65535")));
}

static int make_certificates(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	struct test_cert ca = test_cert_make("ca", &(struct test_cert_options){.ca = 1});
	struct test_cert leaf = test_cert_make(
	    "leaf", &(struct test_cert_options){.names = "URI:spiffe://mesh/leaf", .issuer = &ca});
	test_cert_write(&ca, dir, "ca", NULL);
	test_cert_write(&leaf, dir, "leaf", NULL);
	test_cert_free(&leaf);
	test_cert_free(&ca);
	return 0;
}

static int remove_certificates(void **state)
{
	static const char *const names[] = {"ca.pem", "ca.key", "leaf.pem", "leaf.key"};
	char path[64];
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_short_frames),
	    cmocka_unit_test(test_a_frame_in_pieces),
	    cmocka_unit_test(test_a_call_as_fields),
	    cmocka_unit_test(test_as_many_pairs_as_the_limit),
	    cmocka_unit_test(test_reading_what_a_head_says),
	};
	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
