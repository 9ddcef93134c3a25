// SPDX-License-Identifier: Apache-2.0
// The kernel's part of `weir explain`: what the rules of this network namespace do with a connection, found
// by the evaluation that `intercept check` uses, too (intercept/decide.h), over what is really installed.
#pragma once

#include "base/emit.h"
#include "intercept/decide.h"
#include "intercept/install.h"
#include "intercept/sockets.h"

// What is installed and which sockets there are, or why that cannot be said.
struct kernel_view {
	struct installed installed; // empty unless rules_err is 0
	int rules_err;		    // ERR_NOT_FOUND: nothing is installed
	struct strbuf rules_error;
	struct socket_list sockets; // empty unless sockets_err is 0
	int sockets_err;
	struct strbuf sockets_error;
};

enum kernel_fate {
	FATE_UNKNOWN,  // the rules cannot be read
	FATE_DIRECT,   // left alone
	FATE_NO_ROUTE, // connect() fails before any rule is met
	FATE_OUTBOUND, // to the outbound proxy
	FATE_INBOUND,
	FATE_DNS, // to the responder
};

struct kernel_verdict {
	enum kernel_fate fate;
	const struct rule *rule; // that decides; NULL: none does
	size_t unknown;		 // rules before it that could not be judged for want of knowledge
};

void kernel_view_open(struct kernel_view *ret_view);
void kernel_view_close(struct kernel_view *view);

// A connection that leaves by the interface that the kernel would take, or by `interface` if that is not
// NULL; one that arrives. `name` must outlive the flow. Of a source without a family nothing is known.
struct flow kernel_flow_out(const struct addr *dest, const char *interface, char name[IFNAMSIZ]);
struct flow kernel_flow_in(const struct addr *source, const struct addr *dest, const char *interface,
			   char name[IFNAMSIZ]);

// It is the calling process's: its user, group and control group.
void kernel_flow_own(struct flow *flow);
// It is of a process in that control group, as /proc/PID/cgroup has it; "": nothing is known of that.
void kernel_flow_cgroup(struct flow *flow, const char *path);

struct kernel_verdict kernel_judge(const struct kernel_view *view, bool inbound, const struct flow *flow);
// "captured to port 15001 (outbound)", "left alone: excluded port".
void kernel_verdict_text(const struct kernel_view *view, const struct kernel_verdict *verdict,
			 struct strbuf *out);
// A record with the connection, the verdict, and a table of the rules on the way.
struct kernel_verdict kernel_emit(const struct kernel_view *view, const char *name, bool inbound,
				  const struct flow *flow, struct emit *emit);
