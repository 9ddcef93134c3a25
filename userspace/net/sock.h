// SPDX-License-Identifier: Apache-2.0
// Sockets: listening and connecting with the options that interception needs. All descriptors are
// non-blocking and close-on-exec, and belong to the caller.
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stdint.h>

enum { SOCK_BACKLOG = 4096 }; // connections that the kernel makes ahead, for one listener

// What a socket of the proxy is made with.
struct sock_options {
	uint32_t mark;	  // SO_MARK, so that interception leaves it alone; 0: none
	struct ip source; // bound without a port (IP_BIND_ADDRESS_NO_PORT); family 0: the kernel's choice
	bool transparent; // the source is another host's
};

// A TCP listener with SO_REUSEPORT (one a worker) and, for [::], IPv6 only. 0 or a negative error.
int sock_listen(const struct addr *addr, int *ret_fd);
// Starts connecting. *ret_fd is set on 0 (connected or in progress). Otherwise a negative error.
int sock_connect(const struct addr *addr, const struct sock_options *options, int *ret_fd);
// Sets SO_MARK if the mark is not 0. 0 or a negative error (-EPERM: neither CAP_NET_RAW nor CAP_NET_ADMIN).
int sock_set_mark(int fd, uint32_t mark);
// Lets a listener take connections to other addresses that are handed to it (tproxy), and a socket be bound
// to another host's address. 0 or a negative error (-EPERM, as with marks; switching it off needs nothing).
int sock_set_transparent(int fd, int family, bool on);
// What every proxied connection gets: no delay, keep-alive probes, urgent data in its place among the other
// bytes.
void sock_set_stream_options(int fd);
// The error of a finished connect (SO_ERROR): 0 or a negative error.
int sock_error(int fd);
// How long a peer has acknowledged nothing, and how often the kernel has repeated since what it sent, after
// twice the time each time.
struct sock_silence {
	uint32_t ms;
	unsigned repeats;
};
// Whether something that was sent is not acknowledged yet. (Where the peer's window is closed nothing is
// sent.)
bool sock_awaits_ack(int fd, struct sock_silence *ret_silence);
// How many bytes are written to it since it began, whether they are sent or acknowledged or not; up to a
// constant, the same for the life of the socket. False: that could not be told, as acknowledgements keep
// coming; ask again.
bool sock_written(int fd, uint64_t *ret_bytes);
// Whether the next close, also that of a process that is killed, sends RST and drops what is unsent.
void sock_set_reset(int fd, bool reset);
// Whether an idle connection is still open with nothing to read: false if the peer closed it or sent
// something.
bool sock_is_quiet(int fd);
// Whether the host has the address and a UDP socket can be bound to it: IPv6 may be turned off.
bool sock_can_bind(const struct addr *addr);
int sock_local_addr(int fd, struct addr *ret_addr);
