// SPDX-License-Identifier: Apache-2.0
// Who else is where connections pass in this network namespace: chains of nftables on the hooks that weir
// uses, rules in the kernel's old iptables tables, BPF programs on this process's control group and on the
// namespace. With their order, and what that means. Blocking; for the command line.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct foreign_hook {
	char kind[20];	// "nft", "iptables-legacy", "BPF"
	char where[80]; // "ip nat OUTPUT", "connect4 (program 17)"
	char owner[20]; // "kube-proxy", as far as names tell; else empty
	char hook[16];	// "output"; empty for BPF
	int priority;	// of BPF: its place in the order of the hook's programs, from 1
	size_t rules;
	const char *meaning; // of its place beside weir's
};

struct foreign_list {
	struct foreign_hook *hooks;
	size_t count, _cap;
};

// 0 or a negative error with a sentence. On 0 the caller calls foreign_done. What this process may not see is
// not in the list.
int foreign_find(struct foreign_list *ret_list, struct strbuf *ret_error);
void foreign_done(struct foreign_list *list);
