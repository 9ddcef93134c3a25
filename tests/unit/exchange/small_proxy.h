// SPDX-License-Identifier: Apache-2.0
// A data plane on a loop of the test's own, with a listening socket that stands for a virtual IP; and what
// tests need around it: sockets, and turns of the loop.
#pragma once

#include "../control/build_model.h"

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

struct proxy {
	struct loop *loop;
	struct dataplane *dataplane;
	int listener;
	uint16_t port;
};

// A listening socket on the loopback address; its port.
static inline int listening(uint16_t *ret_port)
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

// `rest` is configuration behind the service a.mesh, which leads to the cluster a.
static inline void proxy_open(struct proxy *proxy, const char *protocol, const char *rest,
			      struct tls_context *tls)
{
	static const struct dataplane_settings settings = {.outbound_port = 1, .inbound_port = 2};
	char text[1024];
	proxy->listener = listening(&proxy->port);
	int len = snprintf(text, sizeof text,
			   "intercept: {lost_destination: local}\n"
			   "services: [{name: a.mesh, cluster: a, addresses: [127.0.0.1], ports: [{port: %u, "
			   "protocol: %s}]}]\n%s",
			   proxy->port, protocol, rest);
	assert_in_range(len, 1, sizeof text - 1);
	struct model *model = build_model(text);
	assert_int_equal(loop_new(&proxy->loop), 0);
	assert_int_equal(dataplane_new(proxy->loop, 0, &settings, model, tls, &proxy->dataplane), 0);
	model_unref(model);
}

static inline void proxy_close(struct proxy *proxy)
{
	dataplane_free(proxy->dataplane);
	loop_free(proxy->loop);
	close(proxy->listener);
	buf_thread_done();
	arena_thread_done();
}

// A client's connection, taken over by the proxy; with room for much that is not read at once.
static inline int connect_client(const struct proxy *proxy)
{
	struct sockaddr_in at = {
	    .sin_family = AF_INET, .sin_port = htons(proxy->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct addr peer = {.ip = {.family = AF_INET, .bytes = {127, 0, 0, 1}}, .port = 1};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4 << 20, taken;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while ((taken = accept4(proxy->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
		;
	connection_accept(proxy->dataplane, taken, &peer, false);
	return fd;
}

// Stops when the peer is gone, or takes no more: the proxy does not read.
static inline void send_all(int fd, const void *bytes, size_t len)
{
	const char *at = bytes;
	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
		if (n <= 0)
			return;
		at += n;
		len -= (size_t)n;
	}
}

// What a client has got so far.
struct got {
	char bytes[1024];
	size_t len;
	bool ended; // by whatever
};

static inline void receive(int fd, struct got *got)
{
	ssize_t n = recv(fd, got->bytes + got->len, sizeof got->bytes - 1 - got->len, 0);
	got->ended |= n == 0 || (n < 0 && errno != EAGAIN);
	got->len += n > 0 ? (size_t)n : 0;
	got->bytes[got->len] = 0;
}
