// SPDX-License-Identifier: Apache-2.0
#include "proxy/acceleration_peers.h"

#include "base/error.h"
#include "intercept/marks.h"
#include "net/bypass.h"
#include "net/sock.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

// --- connections ---------------------------------------------------------------------------------------------
static int open_listener(int *ret_fd)
{
	const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	*ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	return *ret_fd < 0 || bind(*ret_fd, (const struct sockaddr *)&address, sizeof address) < 0 ||
		       listen(*ret_fd, 1) < 0
		   ? -errno
		   : 0;
}

int peers_open(struct peers *peers, uint64_t wait_ms, uint16_t *port)
{
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	*peers = (struct peers){.listener = -1, .far_listener = -1, .deadline_ms = now_ms() + wait_ms};
	for (int peer = 0; peer < PEERS; peer++)
		peers->fds[peer] = -1;
	int err = open_listener(&peers->listener);
	if (!err)
		err = open_listener(&peers->far_listener);
	if (!err && getsockname(peers->listener, (struct sockaddr *)&address, &len) < 0)
		err = -errno;
	if (!err)
		*port = ntohs(address.sin_port);
	return err;
}

void peers_close(struct peers *peers, int peer)
{
	if (peers->fds[peer] >= 0)
		close(peers->fds[peer]);
	peers->fds[peer] = -1;
}

void peers_close_all(struct peers *peers)
{
	for (int peer = 0; peer < PEERS; peer++)
		peers_close(peers, peer);
}

void peers_done(struct peers *peers)
{
	peers_close_all(peers);
	if (peers->listener >= 0)
		close(peers->listener);
	if (peers->far_listener >= 0)
		close(peers->far_listener);
}

// The opener and the one behind it.
static int connect_two(struct peers *peers, int opener, int listener, uint32_t mark)
{
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	int size = PEERS_SEND_BUFFER, *fds = &peers->fds[opener];
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fds[0] < 0 || sock_set_mark(fds[0], mark) ||
	    getsockname(listener, (struct sockaddr *)&address, &len) < 0 ||
	    (connect(fds[0], (struct sockaddr *)&address, len) < 0 && errno != EINPROGRESS))
		return -errno;
	fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fds[1] < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		sock_set_stream_options(fds[i]);
		setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	}
	return 0;
}

int peers_connect(struct peers *peers)
{
	return connect_two(peers, PEER_APPLICATION, peers->listener, 0);
}

int peers_connect_far(struct peers *peers)
{
	return connect_two(peers, PEER_OUTLET, peers->far_listener, WEIR_MARK_OUTBOUND);
}

// --- bytes ---------------------------------------------------------------------------------------------------
static uint8_t byte_at(int from, size_t place)
{
	return (uint8_t)(place * 131 + (place >> 8) * 7 + (size_t)from * 17);
}

ssize_t peers_send(struct peers *peers, int from, size_t place, size_t len)
{
	for (size_t i = 0; i < len; i++)
		peers->buffer[i] = byte_at(from, place + i);
	uint32_t refusals = bypass_refusals();
	ssize_t n = send(peers->fds[from], peers->buffer, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || bypass_refusals() != refusals ? 0 : -errno;
	return n;
}

ssize_t peers_receive(struct peers *peers, int at, int from, size_t place, int flags)
{
	ssize_t n = recv(peers->fds[at], peers->buffer, sizeof peers->buffer, MSG_DONTWAIT | flags);
	if (n <= 0)
		return n == 0 ? ERR_EOF : errno == EAGAIN ? 0 : -errno;
	for (ssize_t i = 0; i < n; i++)
		if (peers->buffer[i] != byte_at(from, place + (size_t)i))
			return ERR_MALFORMED;
	return n;
}

int peers_pause(const struct peers *peers)
{
	if (now_ms() >= peers->deadline_ms)
		return -ETIMEDOUT;
	poll(NULL, 0, 1);
	return 0;
}

int peers_receive_all(struct peers *peers, int at, int from, size_t place, size_t len)
{
	for (size_t end = place + len; place < end;) {
		ssize_t n = peers_receive(peers, at, from, place, 0);
		int err = n < 0 ? (int)n : n == 0 ? peers_pause(peers) : 0;
		if (err)
			return err;
		place += (size_t)n;
	}
	return 0;
}

int peers_expect(struct peers *peers, int at, int from, int expected)
{
	ssize_t n;
	while ((n = peers_receive(peers, at, from, 0, 0)) == 0)
		if (peers_pause(peers))
			return -ETIMEDOUT;
	return n == expected ? 0 : ERR_MALFORMED;
}
