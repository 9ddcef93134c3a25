// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the program that relays (relay.bpf.c) and its loader (userspace/net/relay.c) have in common, in types of fixed
// width.
#pragma once

#include <linux/types.h>

enum weir_relay_limits {
	RELAY_FLOWS_MAX = 32768,  // directions that are relayed; further ones the proxy passes on itself
	RELAY_QUEUE_MAX = 262144, // bytes that wait to be sent on, above which the proxy takes over
	RELAY_BUFFERS_MAX = 64,	  // the same in buffers, which take memory however little is in them
	RELAY_LATE_MAX = 256,	  // buffers that wait for the kernel's thread, sent or not, above which nothing more comes in
	RELAY_OVERLAP_MAX = 65536, // bytes that one buffer may bring again: more than a packet has
};

enum weir_relay_known { RELAY_NEXT = 1, RELAY_WRITTEN = 2 };

// One direction. Its key is the cookie of the proxy's socket from which the bytes come.
struct weir_relay {
	__u64 to; // cookie of the one out of which they go
	__u64 messages, bytes; // that went so
	__u64 passed; // bytes that were left to the proxy
	__u64 done;   // of those, what it said it had written
	__u32 next;    // sequence number of the next byte to come
	__u32 written; // what the other socket's write_seq is once all that went so is in its queue
	__u32 known;   // enum weir_relay_known
	__u32 broken;  // bytes could not be kept in order: what follows is left to the proxy, which is not to pass it on
};

// Counted on each CPU.
struct weir_relay_counts {
	__u64 messages, bytes;
	__u64 fallbacks; // directions that went over to the proxy
	__u64 overlaps;	 // buffers that brought bytes again
	__u64 refused;	 // packets for which there was no room, which TCP did not see
};

_Static_assert(sizeof(struct weir_relay) == 56 && sizeof(struct weir_relay_counts) == 40,
	       "the loader reads them as they are");
