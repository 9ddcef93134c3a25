// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Addresses, as programs keep them.
#pragma once

#include "bpf/shared.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// An address of IPv4 in the form ::ffff:a.b.c.d becomes one of IPv4. 0: it is none.
static __always_inline int weir_unmap(__u32 ip[4])
{
	if (ip[0] || ip[1] || ip[2] != bpf_htonl(0xffff))
		return 0;
	ip[0] = ip[3];
	ip[2] = ip[3] = 0;
	return 1;
}

static __always_inline int weir_same_address(const struct weir_address *a, const struct weir_address *b)
{
	return a->family == b->family && a->port == b->port && a->ip[0] == b->ip[0] && a->ip[1] == b->ip[1] &&
	       a->ip[2] == b->ip[2] && a->ip[3] == b->ip[3];
}

static __always_inline int weir_address_is_loopback(const struct weir_address *address)
{
	if (address->family == WEIR_AF_INET)
		return bpf_ntohl(address->ip[0]) >> 24 == 127;
	return !address->ip[0] && !address->ip[1] && !address->ip[2] && address->ip[3] == bpf_htonl(1);
}

// As it is compared. The unspecified address is not taken for another one.
static __always_inline struct weir_number weir_number_of(const struct weir_address *address)
{
	struct weir_number number = {.low = bpf_ntohl(address->ip[0])};
	if (address->family == WEIR_AF_INET)
		return number;
	number.high = (__u64)bpf_ntohl(address->ip[0]) << 32 | bpf_ntohl(address->ip[1]);
	number.low = (__u64)bpf_ntohl(address->ip[2]) << 32 | bpf_ntohl(address->ip[3]);
	return number;
}

// The address of a number, in the range to which connections are redirected. (ip: zeros.)
static __always_inline void weir_redirect(__u8 family, __u32 number, __u32 ip[4])
{
	if (family == WEIR_AF_INET) {
		ip[0] = bpf_htonl(WEIR_REDIRECT4 + number % WEIR_REDIRECT4_COUNT);
	} else {
		ip[0] = bpf_htonl(WEIR_REDIRECT6_0);
		ip[1] = bpf_htonl(WEIR_REDIRECT6_1);
		ip[3] = number;
	}
}
