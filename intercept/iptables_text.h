// SPDX-License-Identifier: Apache-2.0
// Rules as iptables' text, of one family: as iptables-save prints them, as iptables-restore takes them.
// iptables has no sets: a rule that uses one becomes several. One that asks for what is *not* in a set sends
// what is in it on to a chain that goes on where the rule ends. Each rule's comment is "weir N @set purpose":
// it is rule N of its chain in the ruleset, by which those that belong together are found again. Where a
// control group is asked for, its number stands for the set: the rule itself has the path alone. One that
// lets connections wait for a limited time becomes two (IPTABLES_LAST_TRY_MS). Pure text; no program is run.
#pragma once

#include "intercept/rules.h"

#include <stdint.h>

struct iptables_line {
	struct str table; // "nat"
	struct str chain; // "WEIR_OUTPUT", or a built-in one that leads to one of ours
	struct str text;  // the rule, without its chain; absent: the chain itself
	uint64_t packets, bytes;
};

// What is weir's in a family's tables. The texts lie in _text.
struct iptables_state {
	struct iptables_line *lines;
	size_t count, _cap;
	char *_text;
};

// What iptables-save would print of the rules in that family; nothing if the family is not captured.
void iptables_print(const struct ruleset *ruleset, uint8_t family, struct strbuf *out);
// Finds what is weir's in what iptables-save printed. 0 or -ENOMEM; on 0 the caller calls
// iptables_state_done.
int iptables_parse(struct str text, struct iptables_state *ret_state);
void iptables_state_done(struct iptables_state *state);
// What iptables-restore --noflush needs to get from one state to another.
void iptables_transition(const struct iptables_state *from, const struct iptables_state *to,
			 struct strbuf *out);
// The ruleset that both families' states are. 0 or -ENOMEM; on 0 the caller calls ruleset_done.
int iptables_decode(const struct iptables_state *ipv4, const struct iptables_state *ipv6,
		    struct ruleset *ret_ruleset);

// --- shared by printing and decoding -----------------------------------------------------------------------
// How long a connection has waited is known by two counts a connection (hashlimit) of packets that try to
// open it. Of the one, a packet may pass every so many milliseconds, as long as the limit is: in between they
// are dropped. What passes is the first one, dropped by the other count, of which no second one passes for as
// long as that one may be tried again (so many milliseconds more); and the first one that comes behind the
// limit, which no rule holds any more. The limit is in the counts' names: of another limit they are others.
// Queries are counted apart.
enum { IPTABLES_LAST_TRY_MS = 200000, IPTABLES_LAST_QUERY_MS = 60000, IPTABLES_DAY_MS = 86400000 };
struct iptables_count {
	const char *held, *known; // what the two counts' names begin with
	uint32_t again_ms;	  // for so long after the limit it may be tried again
};
enum { IPTABLES_COUNT_CONNECTIONS, IPTABLES_COUNT_QUERIES, IPTABLES_COUNTS };
extern const struct iptables_count iptables_counts[IPTABLES_COUNTS];
#define IPTABLES_COUNT_ENDS "srcip,srcport,dstip,dstport"
// Packets that may pass a day, if one may every so many milliseconds.
static inline uint32_t iptables_daily(uint32_t every_ms)
{
	return (IPTABLES_DAY_MS + every_ms - 1) / every_ms;
}
struct iptables_place {
	const char *table, *builtin; // the chain that leads to it; NULL: only chains of ours do
};
extern const struct iptables_place iptables_places[CHAIN_COUNT];
enum { IPTABLES_NAME_MAX = 29 };
// "WEIR_OUTPUT"; its n-th continuation: "WEIR_OUTPUT_1".
void iptables_chain_name(enum rule_chain chain, unsigned part, char ret_name[IPTABLES_NAME_MAX]);
// The chain of that name and its part; CHAIN_COUNT: none.
enum rule_chain iptables_chain_find(struct str name, unsigned *ret_part);
