// SPDX-License-Identifier: Apache-2.0
// The TCP sockets of a network namespace, as the kernel lists them (sock_diag). A captured connection has its
// original destination as the remote address where packets are rewritten, the proxy's where connect() is (see
// ebpf_sockets.h). For the namespace of the calling thread. Blocking; for the command line.
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct socket_info {
	struct addr local, remote;
	uint8_t state;	// TCP_* of <netinet/tcp.h>
	uint32_t inode; // 0: no process has it any more
	uint32_t user;
	uint64_t cookie; // its own, on the whole host
	uint32_t mark; // 0 also if the caller may not see it: that takes CAP_NET_ADMIN
	bool marks_visible;
};

struct socket_list {
	struct socket_info *sockets;
	size_t count, _cap;
	int err;
};

// Lists the sockets in these states (a mask of 1u << TCP_*), of both families. The caller calls
// socket_list_done. 0, or a negative error with a sentence in ret_error.
int socket_list_read(uint32_t states, struct socket_list *ret_list, struct strbuf *ret_error);
void socket_list_done(struct socket_list *list);
// Whether the socket's connection is the one from `local` to `remote`.
bool socket_is_between(const struct socket_info *info, const struct addr *local, const struct addr *remote);
// The client's socket of such a connection; else the only one that may be; or NULL.
const struct socket_info *socket_list_find(const struct socket_list *list, const struct addr *local,
					   const struct addr *remote);
// The listening socket that a connection to this port of the host reaches; NULL if there is none.
const struct socket_info *socket_list_listener(const struct socket_list *list, uint8_t family, uint16_t port);
// "ESTABLISHED", "LISTEN", ...
const char *socket_state_name(uint8_t state);
