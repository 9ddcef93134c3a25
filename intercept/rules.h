// SPDX-License-Identifier: Apache-2.0
// Rules: what a capture plan means, before any back end. A ruleset is a few sets and an ordered list of rules
// in chains; the order is the design. Back ends translate it one rule at a time, and read back from the
// kernel what is there in the same form, so that both can be compared and printed by the same code. Pure
// data; no I/O.
#pragma once

#include "base/addr.h"
#include "base/str.h"
#include "intercept/plan.h"

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rule_chain {
	CHAIN_OUTPUT_RAW, // before connection tracking
	CHAIN_DNS_ZONE,	  // reached from there
	CHAIN_DNS_CHOSEN, // reached from there
	CHAIN_OUTPUT,	  // connections that leave
	CHAIN_CHOSEN,	  // reached from there: those of included programs
	CHAIN_PREROUTING, // connections that arrive
	CHAIN_INBOUND,	  // reached from both
	CHAIN_ARRIVING,	  // connections that arrive, to be handed over as they are
	CHAIN_HANDED,	  // reached from there
	CHAIN_HOLD,	  // connections on their way into the proxy's ports
	CHAIN_COUNT,
};

struct rule_chain_info {
	const char *name;
	const char *type; // "nat", "filter"; NULL: reached from other chains only
	const char *hook;
	int hook_number; // enum nf_inet_hooks
	int priority;
};
extern const struct rule_chain_info rule_chains[CHAIN_COUNT];

enum rule_set_type {
	SET_IPV4,
	SET_IPV6,
	SET_PORT,
	SET_USER,
	SET_GROUP,
	SET_SEQUENCE, // this one and the next are filled by rules alone
	SET_QUERY4,
	SET_QUERY6,
	SET_TYPE_COUNT
};

// Inclusive; the first bytes, in network order, as many as the type has.
struct rule_range {
	uint8_t first[16], last[16];
};

struct rule_set {
	char name[32];
	enum rule_set_type type;
	struct rule_range *ranges; // sorted; neither overlapping nor adjoining
	size_t count, _cap;
	uint32_t timeout_ms; // not 0: the rules fill it (RULE_REMEMBER), and an entry stays for so long
};

// What a match looks at. Ports imply their protocol, addresses their family.
enum rule_field {
	RULE_FAMILY,   // value: AF_INET or AF_INET6
	RULE_PROTOCOL, // value: IPPROTO_*
	RULE_MARK,     // value and mask
	RULE_USER,
	RULE_GROUP,
	RULE_CGROUP,	   // cgroup and, in value, its level
	RULE_IN_INTERFACE, // name
	RULE_OUT_INTERFACE,
	RULE_SOURCE4,
	RULE_SOURCE6,
	RULE_DEST4,
	RULE_DEST6,
	RULE_TCP_DEST_PORT,
	RULE_UDP_DEST_PORT,
	RULE_UDP_SOURCE_PORT,
	RULE_DEST_TYPE, // value: RTN_LOCAL
	RULE_NEW,	// a connection's first packets
	RULE_LISTENS,	// a socket is there to take it
	RULE_SEQUENCE,	// of TCP; beside a port of TCP
	RULE_SYN,	// the first packet of TCP's handshake; value and mask: of its flags
	// Of a datagram: address and port that it came from, and the server that it was for, before any
	// translation; beside a port of UDP.
	RULE_QUERY4,
	RULE_QUERY6,
};

// Of FIN, SYN, RST and ACK, SYN alone.
enum { RULE_SYN_VALUE = 0x02, RULE_SYN_MASK = 0x17 };

// A field against a set of the ruleset, or else against a value.
struct rule_match {
	enum rule_field field;
	bool negated;
	int set; // index; negative: none
	uint32_t value, mask;
	char name[IFNAMSIZ]; // of an interface; "eth*": all that begin so
	uint64_t cgroup;     // number of a control group: it, or any that it is in
	const char
	    *path; // its path, in the ruleset's keeping; before it was looked up: its name; NULL: unknown
};

enum rule_action {
	RULE_RETURN,	    // leave alone
	RULE_REDIRECT,	    // value: port, on this host
	RULE_ZONE,	    // value: track the connection in this zone
	RULE_GOTO,	    // value: enum rule_chain
	RULE_TPROXY,	    // value: port; hands it to the socket that listens there, as it is; none: goes on
	RULE_DROP,	    // value: for so many milliseconds since its first packet; 0: ever
	RULE_REMEMBER,	    // value: a set that rules fill; a query's: beside a match on that; goes on
	RULE_REJECT,	    // answers TCP with a reset
	RULE_ZONE_ORIGINAL, // as RULE_ZONE; what comes back belongs to the usual zone
};

enum { RULE_MATCHES_MAX = 40, RULE_COMMENT_MAX = 80 };

struct rule {
	enum rule_chain chain;
	struct rule_match matches[RULE_MATCHES_MAX];
	size_t match_count;
	enum rule_action action;
	uint32_t value;
	char comment[RULE_COMMENT_MAX];
	uint64_t packets, bytes; // counted by the kernel
	bool foreign;		 // read back, but not of a kind that weir makes
};

// What programs have to know besides the rules, if the back end has any; else all 0.
struct rule_programs {
	uint32_t fail;		// enum capture_fail, which they see to by themselves
	uint16_t outbound_port; // of the proxy's listeners; 0: not captured
	uint16_t inbound_port, dns_port;
	// Of the proxy's sockets that call in a client's name. Not 0: applications are told of their clients,
	// without a way back for their answers (routes.h).
	uint32_t client_mark, mark_mask;
};

struct ruleset {
	struct rule_set *sets;
	size_t set_count, _set_cap;
	struct rule *rules; // of each chain in their order
	size_t rule_count, _rule_cap;
	// What paths of control groups begin with in nft's text, which are from /sys/fs/cgroup on; NULL:
	// nothing.
	const char *nft_cgroups;
	char **_texts;
	size_t _text_count, _text_cap;
	struct rule_programs programs;
	bool held;    // read back: its process takes it along
	bool altered; // read back, and there are chains or sets that weir does not make
};

// Compiles a valid plan. 0 or -ENOMEM.
int ruleset_compile(const struct capture_plan *plan, struct ruleset *ret_ruleset);
void ruleset_done(struct ruleset *ruleset);
// Whether both do the same: counters do not matter.
bool ruleset_equal(const struct ruleset *a, const struct ruleset *b);
// Whether the chain has rules (else it does not exist).
bool ruleset_has_chain(const struct ruleset *ruleset, enum rule_chain chain);
// Whether the rules leave alone whatever is of that family (AF_INET or AF_INET6).
bool ruleset_spares_family(const struct ruleset *ruleset, uint8_t family);

// The text that nft lists for the whole table (with numeric priorities: nft -y), and that it takes.
void ruleset_print(const struct ruleset *ruleset, struct strbuf *out);
// One rule's matches and action, without its counter and comment.
void rule_print(const struct ruleset *ruleset, const struct rule *rule, struct strbuf *out);
// One match: "tcp dport 53".
void rule_match_print(const struct ruleset *ruleset, const struct rule_match *match, struct strbuf *out);
// A set's elements, separated by commas.
void rule_set_print(const struct rule_set *set, struct strbuf *out);

// --- for back ends -----------------------------------------------------------------------------------------
// Bytes of a set's
// keys.
size_t rule_set_key_len(enum rule_set_type type);
// What is in a set that rules fill.
enum rule_field rule_set_field(enum rule_set_type type);
// A new empty set; its index or -ENOMEM.
int ruleset_add_set(struct ruleset *ruleset, const char *name, enum rule_set_type type);
int rule_set_add(struct rule_set *set, const struct rule_range *range);
// A copy of the text that lives as long as the ruleset; NULL when out of memory.
const char *ruleset_keep_text(struct ruleset *ruleset, struct str text);
// Sorts and joins what was added.
void rule_set_normalise(struct rule_set *set);
// Adds what the plan has for programs.
void ruleset_add_programs(struct ruleset *ruleset, const struct capture_plan *plan);
// Without the rules and sets that limit how long connections and queries are held: the value of the rules
// that drop them is the limit instead.
void ruleset_simplify_hold(struct ruleset *ruleset, uint32_t limit_ms);
// Without the rules for what is no connection's first packet, for those that ask only at a connection's
// beginning.
void ruleset_drop_open(struct ruleset *ruleset, enum rule_chain chain);
// Without the rule that has connections in a client's name tracked in a zone of their own, for those that
// give them an address which no client has.
void ruleset_drop_client_zone(struct ruleset *ruleset);
// Without the rules of a chain.
void ruleset_drop_chain(struct ruleset *ruleset, enum rule_chain chain);
// The index of a set by its name, or -1.
int ruleset_find_set(const struct ruleset *ruleset, const char *name);
// A new rule at the end, zeroed but for its chain; NULL when out of memory. Valid until the next call.
struct rule *ruleset_add_rule(struct ruleset *ruleset, enum rule_chain chain);
