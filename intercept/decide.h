// SPDX-License-Identifier: Apache-2.0
// What rules do with a connection, found without a kernel: the first packet goes through a chain as the
// kernel would send it. With it `check` knows what to expect, and can say which rule it is that leaves a
// connection alone. Pure.
#pragma once

#include "intercept/cgroups.h"
#include "intercept/rules.h"

// The first packet of a connection. Names of interfaces that it does not pass are NULL.
struct flow {
	uint8_t protocol; // IPPROTO_*
	struct addr source, dest;
	uint32_t mark, user, group;
	struct cgroup_line cgroups; // that its socket is in
	const char *in_interface, *out_interface;
	bool dest_is_local;
	uint32_t unknown; // 1u << enum rule_field: of these nothing is known, and no match on them holds
};

// A rule that the packet came by.
struct rule_visit {
	const struct rule *rule;
	const struct rule_match *failed; // the first match that does not hold; NULL: all hold
	bool unknown;			 // it does not hold for want of knowledge
	bool decides;			 // what it says is done, and that is the end
};

typedef void (*rule_visit_fn)(const struct rule_visit *visit, void *arg);

// The rule that decides: the first whose matches all hold and that does not lead to another chain. NULL: none
// does, and the connection is left alone.
const struct rule *ruleset_decide(const struct ruleset *ruleset, enum rule_chain chain,
				  const struct flow *flow);
// The same, and tells of each rule on the way in the order in which the kernel looks at them: also of those
// that do not match, and why.
const struct rule *ruleset_trace(const struct ruleset *ruleset, enum rule_chain chain,
				 const struct flow *flow, rule_visit_fn visit, void *arg);
