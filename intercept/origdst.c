// SPDX-License-Identifier: Apache-2.0
#include "intercept/origdst.h"

#include <errno.h>
#include <sys/socket.h>

// As in linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h, which do not go with netinet/in.h.
enum { ORIGINAL_DST = 80 };

int original_destination_family(int fd, int family, struct addr *ret_addr)
{
	// IPv4's option answers for IPv6 sockets, too, and looks for a connection of 127.0.0.6 then, which
	// may exist: so it is asked for connections of IPv4 only.
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	if (getsockopt(fd, family == AF_INET6 ? SOL_IPV6 : SOL_IP, ORIGINAL_DST, &sa, &len) < 0)
		return -errno;
	return addr_from_sockaddr(&sa, ret_addr);
}

int original_destination(int fd, struct addr *ret_addr)
{
	struct sockaddr_storage sa;
	struct addr local;
	socklen_t len = sizeof sa;
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	int err = addr_from_sockaddr(&sa, &local);
	return err ? err : original_destination_family(fd, local.ip.family, ret_addr);
}
