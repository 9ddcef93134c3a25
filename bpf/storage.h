// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What storage.bpf.c writes and its reader (intercept/ebpf_entries.c) takes, in types of fixed width.
#pragma once

#include <linux/types.h>

// In front of each value.
struct weir_stored {
	__u64 socket; // its cookie
	__u64 netns;  // cookie of its network namespace
};

_Static_assert(sizeof(struct weir_stored) == 16, "the reader takes it as it is");
