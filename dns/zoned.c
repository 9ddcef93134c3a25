// SPDX-License-Identifier: Apache-2.0
#include "dns/zoned.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/uio.h>
#include <unistd.h>

// What c-ares gives back to the functions for its sockets: the servers, up to one without an address.
static bool is_there(const struct dns_upstream *servers, size_t i)
{
	return i < DNS_UPSTREAMS_MAX && servers[i].addr.ip.family;
}

// The address that stands for a server.
static struct ip stand_in(size_t i)
{
	return (struct ip){AF_INET6, {1, [15] = (uint8_t)(i + 1)}};
}

unsigned dns_zone_index(const char *zone)
{
	char name[IFNAMSIZ];
	uint64_t number;
	unsigned index = if_nametoindex(zone);
	if (index || str_to_u64(str_from(zone), &number) || number > INT32_MAX)
		return index;
	return if_indextoname((unsigned)number, name) ? (unsigned)number : 0;
}

static int on_connect(ares_socket_t fd, const struct sockaddr *to, ares_socklen_t len, void *arg)
{
	struct dns_upstream *servers = arg;
	struct sockaddr_storage sa = {0};
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&sa;
	memcpy(&sa, to, MIN((size_t)len, sizeof sa));
	for (size_t i = 0; to->sa_family == AF_INET6 && is_there(servers, i); i++) {
		struct ip ip = stand_in(i);
		if (!servers[i].zone[0] || memcmp(&in6->sin6_addr, ip.bytes, sizeof ip.bytes) != 0)
			continue;
		servers[i]._scope = dns_zone_index(servers[i].zone);
		if (!servers[i]._scope)
			return -1; // with errno
		memcpy(&in6->sin6_addr, servers[i].addr.ip.bytes, sizeof in6->sin6_addr);
		in6->sin6_scope_id = servers[i]._scope;
		break;
	}
	return connect(fd, (struct sockaddr *)&sa, len);
}

// c-ares looks whether the answer is from whom it asked.
static ssize_t on_receive(ares_socket_t fd, void *buf, size_t size, int flags, struct sockaddr *from,
			  ares_socklen_t *from_len, void *arg)
{
	const struct dns_upstream *servers = arg;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)from;
	ssize_t n = recvfrom(fd, buf, size, flags, from, from_len);
	if (n < 0 || !from || from->sa_family != AF_INET6 || !IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
		return n;
	for (size_t i = 0; is_there(servers, i); i++) {
		struct ip ip = stand_in(i);
		if (!servers[i].zone[0] || servers[i]._scope != in6->sin6_scope_id ||
		    memcmp(&in6->sin6_addr, servers[i].addr.ip.bytes, sizeof in6->sin6_addr) != 0)
			continue;
		memcpy(&in6->sin6_addr, ip.bytes, sizeof ip.bytes);
		break;
	}
	return n;
}

// As c-ares itself does it.
static ares_socket_t on_open(int family, int type, int protocol, void *arg)
{
	int one = 1, fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	(void)arg;
	if (fd >= 0 && type == SOCK_STREAM)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int on_close(ares_socket_t fd, void *arg)
{
	(void)arg;
	return close(fd);
}

static ssize_t on_send(ares_socket_t fd, const struct iovec *parts, int count, void *arg)
{
	(void)arg;
	return writev(fd, parts, count);
}

int dns_zoned_set_servers(ares_channel ares, struct dns_upstream *servers, size_t count)
{
	static const struct ares_socket_functions functions = {on_open, on_close, on_connect, on_receive,
							       on_send};
	struct ares_addr_port_node nodes[DNS_UPSTREAMS_MAX];
	bool zoned = false;
	for (size_t i = 0; i < count; i++) {
		const struct addr *addr = &servers[i].addr;
		struct ip ip = servers[i].zone[0] ? stand_in(i) : addr->ip;
		nodes[i] = (struct ares_addr_port_node){.next = i + 1 < count ? &nodes[i + 1] : NULL,
							.family = ip.family,
							.udp_port = addr->port,
							.tcp_port = addr->port};
		memcpy(&nodes[i].addr, ip.bytes, ip.family == AF_INET6 ? 16 : 4);
		zoned |= servers[i].zone[0] != 0;
	}
	if (zoned)
		ares_set_socket_functions(ares, &functions, servers);
	return ares_set_servers_ports(ares, count ? nodes : NULL) == ARES_SUCCESS ? 0 : ERR_DNS;
}
