// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The DNS servers that a UDP socket asks, each by an address that stands for it (outbound.bpf.c).
#pragma once

#include "bpf/address.bpf.h"
#include "bpf/decide.h"
#include "bpf/shared.h"

#include <bpf/bpf_endian.h>

// The address that stands for the server of a number.
static __always_inline struct weir_address weir_stand_in(__u8 family, __u32 number, __u16 port)
{
	struct weir_address address = {.family = family, .port = bpf_htons(port)};
	if (family == WEIR_AF_INET) {
		address.ip[0] = bpf_htonl(WEIR_LOOPBACK4 + number);
	} else if (number) {
		address.ip[0] = bpf_htonl(WEIR_REDIRECT6_0);
		address.ip[1] = bpf_htonl(WEIR_REDIRECT6_1);
		address.ip[3] = bpf_htonl(number);
	} else {
		address.ip[3] = bpf_htonl(1);
	}
	return address;
}

#define WEIR_DNS_PORT 53

// Whether the socket was asked from there.
static __always_inline int weir_has_asker(const struct weir_servers *servers, const struct weir_address *asker)
{
	for (__u32 i = 0; i < WEIR_ASKERS_MAX; i++)
		if (weir_same_address(&servers->askers[i], asker))
			return 1;
	return 0;
}

// The number of the server for which the address stands; WEIR_SERVERS_MAX: for none.
static __always_inline __u32 weir_server_at(const struct weir_servers *servers, const struct weir_address *at)
{
	if (weir_same_address(at, &servers->own))
		return servers->tied;
	for (__u32 i = 0; i < WEIR_SERVERS_MAX; i++) {
		struct weir_address stands = weir_stand_in(at->family, i, bpf_ntohs(at->port));
		if (weir_same_address(at, &stands) && servers->servers[i].family)
			return i;
	}
	return WEIR_SERVERS_MAX;
}
