// SPDX-License-Identifier: Apache-2.0
// What this kernel and these privileges allow, found by trying: rules are handed to the kernel in
// transactions that are taken back, iptables' programs run in a network namespace of their own, BPF programs
// are loaded and let go. Nothing is left behind. Blocking; for the command line.
#pragma once

#include "intercept/backend.h"

enum { PROBE_ROWS_MAX = 48, PROBE_DETAIL_MAX = 240 };

struct probe_row {
	const char *subject; // "nft", "BPF"
	const char *feature;
	bool works;
	char detail[PROBE_DETAIL_MAX]; // why not, or what was found
};

// Returns how many rows there are.
size_t intercept_probe(struct probe_row ret_rows[PROBE_ROWS_MAX]);
