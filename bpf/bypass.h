// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the program of the local bypass (bypass.bpf.c) and its loader (userspace/net/bypass.c) have in common, in types
// of fixed width.
#pragma once

#include <linux/types.h>

enum weir_bypass_limits {
	BYPASS_SOCKETS_MAX = 65536, // both ends of each connection; further connections go by TCP
	BYPASS_MEETINGS_MAX = 4096, // connections between SYN and the opener's first message
	BYPASS_QUEUE_MAX = 262144,  // bytes that wait for a reader, above which TCP takes over
};

enum { BYPASS_DEAD_END = 0 }; // key of a socket that can send nothing; no cookie is 0

enum weir_bypass_port { BYPASS_OUTBOUND, BYPASS_INBOUND, BYPASS_TEST, BYPASS_PORTS };

// Counted on each CPU.
struct weir_bypass_counts {
	__u64 connections, messages, bytes;
	__u64 fallbacks; // directions that went over to TCP
};

_Static_assert(sizeof(struct weir_bypass_counts) == 32, "the loader reads it as it is");
