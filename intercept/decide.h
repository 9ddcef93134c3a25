// SPDX-License-Identifier: Apache-2.0
// What rules do with a connection, found without a kernel: the first packet goes through a chain as the
// kernel would send it. With it `check` knows what to expect, and can say which rule it is that leaves a
// connection alone. Pure.
#pragma once

#include "intercept/rules.h"

// The first packet of a connection. Names of interfaces that it does not pass are NULL.
struct flow {
	uint8_t protocol; // IPPROTO_*
	struct addr source, dest;
	uint32_t mark, user, group;
	const char *in_interface, *out_interface;
	bool dest_is_local;
};

// The rule that decides: the first whose matches all hold and that does not lead to another chain. NULL: none
// does, and the connection is left alone.
const struct rule *ruleset_decide(const struct ruleset *ruleset, enum rule_chain chain,
				  const struct flow *flow);
