// SPDX-License-Identifier: Apache-2.0
// Back ends: the ways in which rules get into the kernel. One table of operations each; all take the same
// ruleset and give it back as they find it installed, with its counters, so that what is above them
// (comparing, printing, checking) is written once. All act on the network namespace of the calling thread.
// Blocking; for start-up and the command line, not for the loop. Errors come with a sentence that says what
// is missing and what to do, appended to the strbuf.
#pragma once

#include "intercept/rules.h"

// Descriptors of rules that go when they are closed, at the latest with the process, however that ends. Negative:
// there is none.
struct held_rules {
	const struct backend *backend;
	int rules;	 // with it, nothing is captured any more
	int arrivals;	 // tells of what was captured and has not come to the proxy yet
	int translation; // with it, connections that were captured are cut off
};

#define HELD_RULES_NONE ((struct held_rules){NULL, -1, -1, -1})

// What a back end does with a captured connection at a hook. A "#" in names stands for 4 or 6, the family.
struct hook_step {
	const char *hook;    // "sk_lookup"
	const char *program; // "weir_lookup"
	const char *what;
	enum hook_step_when {
		STEP_ALWAYS,
		STEP_HOLDS,   // with the fail policy "hold"
		STEP_CLIENTS, // with ruleset.programs.client_mark
	} when;
};

struct backend {
	const char *name; // "nft"
	// Those that share the rules, ended by NULL; what is installed is theirs. NULL: it has them by
	// itself.
	const struct backend *const *parts;
	// A network that apply makes this host's own if the plan has its family; NULL: none.
	const struct cidr *local;
	// Whether it can do here what the plan asks for: 0, or a negative error and why not. Changes nothing.
	int (*probe)(const struct capture_plan *plan, struct strbuf *ret_why);
	// Takes out of a compiled ruleset what has no meaning for it, and adds what only it can do; NULL:
	// nothing.
	void (*adapt)(const struct capture_plan *plan, struct ruleset *ruleset);
	// What apply would install, as text.
	void (*print)(const struct ruleset *ruleset, struct strbuf *out);
	// Puts the rules in place of those that it has installed before, as a whole or not at all, and
	// without a moment in which connections pass that both would capture. 0 or a negative error.
	int (*apply)(const struct capture_plan *plan, const struct ruleset *ruleset,
		     struct strbuf *ret_error);
	// The same by rules that go with the process: for the fail policy "open". NULL: it cannot.
	int (*hold)(const struct capture_plan *plan, const struct ruleset *ruleset,
		    struct held_rules *ret_held, struct strbuf *ret_error);
	// What is to be done before held.rules is closed; NULL: nothing.
	void (*let_go)(const struct held_rules *held);
	// Whether the kernel would take the rules of the plan, for "open" those that go with the process: it
	// is asked, and nothing changes. 0, or a negative error and why not. NULL: only applying would tell.
	int (*try)(const struct capture_plan *plan, const struct ruleset *ruleset, struct strbuf *ret_error);
	// What is installed by it. 0; ERR_NOT_FOUND (no sentence) if nothing is; or a negative error. On 0
	// the caller calls ruleset_done.
	int (*read)(struct ruleset *ret_ruleset, struct strbuf *ret_error);
	// 0; ERR_NOT_FOUND (no sentence) if nothing is installed; or a negative error. NULL: its parts do.
	int (*remove)(struct strbuf *ret_error);
	// Like remove, but for what connections need that are open. NULL: they need rules.
	int (*leave_open)(struct strbuf *ret_error);
	// Removes what network namespaces have left that have ended. NULL: they leave nothing.
	void (*sweep)(void);
	// Where in the kernel the rules of a chain meet connections of that family and protocol:
	// "cgroup/connect4". NULL: at the chain's own hook (rules.h).
	const char *(*hook)(enum rule_chain chain, uint8_t family, uint8_t protocol);
	// All hooks of a connection that is captured, in their order, ended by one without a name; NULL, or
	// this is NULL: there are none but that of its chain.
	const struct hook_step *(*steps)(enum rule_chain chain, uint8_t protocol);
};

// From now on nothing is captured; what was goes on, and has come to the proxy if that accepts meanwhile (a second
// and a half at most).
void held_rules_let_go(struct held_rules *held);
// The same, and what is open may be cut off.
void held_rules_drop(struct held_rules *held);

// All of them, in the order in which `auto` prefers them, ended by NULL.
extern const struct backend *const backends[];
extern const struct backend backend_nft;
extern const struct backend backend_ebpf;
extern const struct backend backend_iptables;
// Of eBPF and nftables, where one of them alone cannot do what is asked of the former.
extern const struct backend backend_split;

#define BACKEND_WORDS "auto|nft|ebpf|iptables"

// The rules of a plan as the back end would install them, with the control groups that are there now. 0, or a
// negative error with a sentence. On 0 the caller calls ruleset_done.
int backend_compile(const struct backend *backend, const struct capture_plan *plan,
		    struct ruleset *ret_ruleset, struct strbuf *ret_error);

// The back end of that name that has such plans, or NULL. ("auto" is none.)
const struct backend *backend_named(struct str name, const struct capture_plan *plan);
// The same if it can be used for the plan; "auto" gives the first whose probe succeeds. 0; ERR_NOT_FOUND (no
// such name); or the probe's negative error with its sentence (of "auto": with those of all).
int backend_find(struct str name, const struct capture_plan *plan, const struct backend **ret_backend,
		 struct strbuf *ret_error);
// Where the rules of a chain that others do not lead to meet a connection. `backend` may be NULL.
const char *backend_hook(const struct backend *backend, enum rule_chain chain, uint8_t family,
			 uint8_t protocol);
