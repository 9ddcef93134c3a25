// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the program of the local bypass (bypass.bpf.c) and its loader (userspace/net/bypass.c) have in common, in types
// of fixed width.
#pragma once

#include <linux/types.h>

enum weir_bypass_limits {
	BYPASS_SOCKETS_MAX = 65536, // both ends of each connection; further connections go by TCP
	BYPASS_MEETINGS_MAX = 4096, // connections between SYN and the opener's first message
	BYPASS_QUEUE_MAX = 262144,  // bytes that wait for a reader, above which TCP takes over
	BYPASS_LEAVING_MAX = 1024,  // connections that leave, until the proxy has read of them; others stay
	BYPASS_OUTLETS_MAX = 32768, // directions that are joined; further ones the proxy passes on itself
};

enum { BYPASS_DEAD_END = 0 }; // key of a socket that can send nothing; no cookie is 0

enum weir_bypass_port { BYPASS_OUTBOUND, BYPASS_INBOUND, BYPASS_TEST, BYPASS_PORTS };

enum weir_end_state { WEIR_MEETING, WEIR_BYPASSING, WEIR_BY_TCP };

// What the kernel keeps with a socket: one end of a bypassed connection, or an outlet of the proxy, which has no peer.
struct weir_end {
	__u64 peer;	   // where its struct tcp_sock is
	__u64 peer_cookie;
	__u64 self;	   // the same of this socket, if it may be an outlet; else 0
	__u32 state;	   // enum weir_end_state, of what this end sends
	__u32 to_proxy;	   // the other end is the proxy's
	__u32 dials;	   // the proxy opens, to a listener of this namespace that does not block
	__u32 first;	   // sequence number of the first byte that it sends
	__u32 bypassed;	   // bytes that it sent past TCP, modulo 2^32
	__u32 proven;	   // there were any: the other end is the right one
};

// One direction that is joined: what an application sends goes out of the proxy's other socket, the outlet. Its key is
// the cookie of the proxy's socket towards the application.
struct weir_join {
	__u64 outlet; // weir_end.self of it
	__u64 outlet_cookie;
	__u64 messages, bytes; // that went out so
	__u32 offset;	       // modulo 2^32: see nothing_under_way() in bypass.bpf.c
	__u32 zero;
};

// Counted on each CPU.
struct weir_bypass_counts {
	__u64 connections, messages, bytes;
	__u64 fallbacks; // directions that went over to TCP
	__u64 joined_messages, joined_bytes;
};

_Static_assert(sizeof(struct weir_end) == 48 && sizeof(struct weir_join) == 40 && sizeof(struct weir_bypass_counts) == 48,
	       "the loader reads them as they are");
