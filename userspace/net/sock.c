// SPDX-License-Identifier: Apache-2.0
#include "net/sock.h"

#include "base/error.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { KEEPALIVE_IDLE_S = 60, KEEPALIVE_INTERVAL_S = 15, KEEPALIVE_PROBES = 4 };
enum { WRITTEN_TRIES = 8 };

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

int sock_set_mark(int fd, uint32_t mark)
{
	return mark ? set_int(fd, SOL_SOCKET, SO_MARK, (int)mark) : 0;
}

int sock_set_transparent(int fd, int family, bool on)
{
	return family == AF_INET6 ? set_int(fd, SOL_IPV6, IPV6_TRANSPARENT, on)
				  : set_int(fd, SOL_IP, IP_TRANSPARENT, on);
}

void sock_set_stream_options(int fd)
{
	set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

int sock_listen(const struct addr *addr, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	int fd = socket(addr->ip.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int err = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!err)
		err = set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (!err && addr->ip.family == AF_INET6)
		err = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (!err && (bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, SOCK_BACKLOG) < 0))
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

static int bind_source(int fd, const struct ip *source)
{
	struct sockaddr_storage sa;
	struct addr addr = {.ip = *source};
	if (!source->family)
		return 0;
	// The port is chosen at connect, when the whole 4-tuple is known: bind does not use one up.
	int err = set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	socklen_t len = addr_to_sockaddr(&addr, &sa);
	if (!err && bind(fd, (struct sockaddr *)&sa, len) < 0)
		err = -errno;
	return err;
}

int sock_connect(const struct addr *addr, const struct sock_options *options, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	if (!len)
		return ERR_UNSUPPORTED;
	int fd = socket(addr->ip.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int err = sock_set_mark(fd, options->mark);
	if (!err && options->transparent)
		err = sock_set_transparent(fd, addr->ip.family, true);
	if (!err && options->source.family == addr->ip.family)
		err = bind_source(fd, &options->source);
	sock_set_stream_options(fd);
	if (!err && connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

int sock_error(int fd)
{
	int value = 0;
	socklen_t len = sizeof value;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len) < 0)
		return -errno;
	return -value;
}

bool sock_awaits_ack(int fd, struct sock_silence *ret_silence)
{
	struct tcp_info info;
	socklen_t len = sizeof info;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || !info.tcpi_unacked)
		return false;
	*ret_silence = (struct sock_silence){info.tcpi_last_ack_recv, info.tcpi_backoff};
	return true;
}

// More of it than <netinet/tcp.h> has; <linux/tcp.h>, which does, cannot be included beside it.
struct longer_tcp_info {
	struct tcp_info info;
	uint64_t pacing_rate, max_pacing_rate, bytes_acked;
};

static bool acknowledged(int fd, uint64_t *ret_bytes)
{
	struct longer_tcp_info info = {0};
	socklen_t len = sizeof info;
	bool known = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && len == sizeof info;
	*ret_bytes = info.bytes_acked;
	return known;
}

// What is acknowledged between the two questions would be in neither answer.
bool sock_written(int fd, uint64_t *ret_bytes)
{
	uint64_t before, after;
	int queued = 0;
	bool known = acknowledged(fd, &after);
	for (int tries = 0; known && tries < WRITTEN_TRIES; tries++) {
		before = after;
		known = ioctl(fd, SIOCOUTQ, &queued) == 0 && acknowledged(fd, &after);
		*ret_bytes = after + (uint64_t)queued;
		if (before == after)
			return known;
	}
	return false;
}

void sock_set_reset(int fd, bool reset)
{
	struct linger linger = {.l_onoff = reset, .l_linger = 0};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

bool sock_is_quiet(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

bool sock_can_bind(const struct addr *addr)
{
	struct sockaddr_storage sa;
	struct addr any_port = *addr;
	any_port.port = 0;
	socklen_t len = addr_to_sockaddr(&any_port, &sa);
	int fd = socket(addr->ip.family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool can = fd >= 0 && bind(fd, (struct sockaddr *)&sa, len) == 0;
	if (fd >= 0)
		close(fd);
	return can;
}

int sock_local_addr(int fd, struct addr *ret_addr)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	return addr_from_sockaddr(&sa, ret_addr);
}
