// SPDX-License-Identifier: Apache-2.0
// The DNS responder of one worker: UDP (in batches) and TCP (RFC 7766) on its loop. Own names are answered at
// once, the rest is forwarded; before there are names everything is. Counters: STAT_DNS_*.
#pragma once

#include "dns/forward.h"

struct dns_names;
struct dns_server;

struct dns_server_options {
	struct dns_forward_options forward;
	// UDP alone is served there, too, as far as these are to be had; at the unspecified address for
	// queries that this host sends to itself.
	const struct addr *udp_also;
	size_t udp_also_count;
};

// Listens on the addresses, UDP and TCP, with SO_REUSEPORT. 0 or a negative error, with nothing open.
int dns_server_new(struct loop *loop, const struct addr *listen, size_t listen_count,
		   const struct dns_server_options *options, struct dns_server **ret_server);
// Own names from now on; takes a reference. NULL: none, everything is forwarded.
void dns_server_set_names(struct dns_server *server, struct dns_names *names);
// Empties the cache; how many entries went.
size_t dns_server_flush(struct dns_server *server);
// Closes all. NULL is fine. Not from within a callback of the loop.
void dns_server_free(struct dns_server *server);
