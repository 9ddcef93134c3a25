// SPDX-License-Identifier: Apache-2.0
// The redirected connections that the kernel's connection tracking knows, in the network namespace of the
// calling thread. Blocking; for the command line. Takes CAP_NET_ADMIN.
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The client end and the end that its packets were redirected to, as they are on the wire; and where the
// client had meant them to go.
struct redirected {
	uint8_t protocol; // IPPROTO_TCP or IPPROTO_UDP
	struct addr client, proxy, original;
};

struct redirected_list {
	struct redirected *entries;
	size_t count, _cap;
	int err;
};

// 0 (the caller calls redirected_list_done), or a negative error with a sentence in ret_error.
int redirected_list_read(struct redirected_list *ret_list, struct strbuf *ret_error);
void redirected_list_done(struct redirected_list *list);
