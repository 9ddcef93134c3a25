// SPDX-License-Identifier: Apache-2.0
// Routes for virtual IPs. A connection is redirected only after the kernel found a route for it; in a
// namespace without a default route (or without one for a family) connect() to a virtual IP would fail
// before. There a route through the loopback interface is laid. Our routes carry a routing protocol number of
// their own: by that they are found and removed. Blocking; for the namespace of the calling thread.
#pragma once

#include "base/addr.h"

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>

enum { ROUTE_PROTOCOL_WEIR = 0x77 };

struct vip_route {
	struct cidr destination;
	struct ip source; // preferred; absent: the kernel chooses
};

// Which of the ranges have a route of ours after routes_apply: those that cannot be reached without, or had
// one before. Writes `count` flags. A family that this kernel or namespace does not have needs none. 0 or a
// negative error with a sentence in ret_error.
int routes_needed(const struct cidr *vips, size_t count, bool *ret_needed, struct strbuf *ret_error);
// Lays the routes that are needed for the ranges and removes those of ours that are for none of them. 0 or a
// negative error with a sentence in ret_error.
int routes_apply(const struct cidr *vips, size_t count, struct strbuf *ret_error);
// The routes of ours. The caller frees *ret_routes with mem_free. 0 or a negative error.
int routes_list(struct vip_route **ret_routes, size_t *ret_count, struct strbuf *ret_error);
// Removes them all. 0 or a negative error.
int routes_remove(struct strbuf *ret_error);
// Makes a network this host's own, or no longer: a route of the type `local`, which those above do not list.
// A family that this namespace does not have needs none. *ret_added: there was none before. 0; ERR_NOT_FOUND (no
// sentence) if there was none to remove; or a negative error with a sentence in ret_error.
int routes_local_add(const struct cidr *network, bool *ret_added, struct strbuf *ret_error);
int routes_local_remove(const struct cidr *network, struct strbuf *ret_error);
// Whether routes_local_add has nothing to do.
bool routes_local_is_there(const struct cidr *network);
// Appends the command of iproute2 that does what routes_local_add would do here, in a line of its own.
void routes_local_print(const struct cidr *network, struct strbuf *out);

// --- the way back of connections from a client's address ---------------------------------------------------
// The application answers to its client, who is elsewhere: packets with the mark stay on this host, by a rule
// and a table of ours (RETURN_TABLE) in each family. The application's sockets take the mark over from what
// they accept, and refusals from what they refuse, if net.ipv4.tcp_fwmark_accept and
// net.ipv[46].fwmark_reflect say so: they are set, and on removal set back if they were 0 before.
enum { RETURN_TABLE = 0x7771, RETURN_PRIORITY = 119 };
struct return_way {
	bool ipv4, ipv6;     // families; neither: no way
	uint32_t mark, mask; // of the packets
};
// Lays just this way, and removes what is ours of another. *ret_changed becomes true if anything was. 0 or a
// negative error with a sentence.
int returns_apply(const struct return_way *way, bool *ret_changed, struct strbuf *ret_error);
// The way that is laid. 0 or a negative error with a sentence.
int returns_read(struct return_way *ret_way, struct strbuf *ret_error);
// Appends the commands of sysctl and iproute2 that lay this way, each in a line of its own.
void returns_print(const struct return_way *way, struct strbuf *out);

// The name of the interface by which the kernel would reach the address. 0 or a negative error, -ENETUNREACH
// above all.
int routes_interface(const struct ip *ip, char ret_name[IFNAMSIZ]);
// Whether the address is one of this host's own. False as well if the kernel cannot be asked.
bool routes_is_local(const struct ip *ip);
