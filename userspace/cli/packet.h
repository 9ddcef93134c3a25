// SPDX-License-Identifier: Apache-2.0
// Whose packet it is: from the captured bytes of a frame to the two ends of a TCP or UDP flow. Pure. Looks no
// further than the ports; checks no sums, since captures cut packets and cards fill sums in later.
#pragma once

#include "base/addr.h"

// Of the registry of link types (LINKTYPE_*).
enum link_type {
	LINK_NULL = 0, // BSD loopback: the family in the byte order of the host
	LINK_ETHERNET = 1,
	LINK_RAW_BSD = 12, // what some write for LINK_RAW
	LINK_RAW = 101,
	LINK_LOOP = 108, // the family in network order
	LINK_SLL = 113,	 // Linux "cooked" v1
	LINK_IPV4 = 228,
	LINK_IPV6 = 229,
	LINK_SLL2 = 276, // Linux "cooked" v2
};

struct packet_flow {
	uint8_t protocol; // IPPROTO_TCP or IPPROTO_UDP
	struct addr source, dest;
};

bool packet_link_known(uint32_t link);
// 0; ERR_UNSUPPORTED: something else than TCP or UDP over IP, or a fragment without ports; ERR_NEED_MORE:
// what was captured ends before the ports; ERR_MALFORMED.
int packet_flow(uint32_t link, struct str bytes, struct packet_flow *ret_flow);
