// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the rules say of a connection: one step of going through the cells of a plan (shared.h), a rule or one
// of its matches a step. Compiles for the kernel and for the host; who includes it says where cells come
// from:
//     static union weir_cell *weir_cell_at(void *plan, __u32 index);     NULL: there is none
// and what a control group is in:
//     static int weir_in_cgroup(__u64 cgroup, __u64 id);     it, or one that it is in, has the number
// The verdict is the same as ruleset_decide()'s (intercept/decide.h).
#pragma once

#include "bpf/shared.h"

enum weir_verdict {
	WEIR_UNDECIDED,
	WEIR_LEAVE,   // a rule leaves it alone, or none captures it
	WEIR_CAPTURE, // to the port weir_walk.value
	WEIR_HOLD,    // for weir_walk.value milliseconds; 0: without an end
};

// The first packet of a connection. Numbers are in host order.
struct weir_flow {
	__u8 family, protocol, dest_is_local;
	__u8 listens;	// a socket is there to take it
	__u8 uncounted; // it is only asked what would become of it
	__u16 source_port, dest_port;
	__u32 mark, user, group;
	__u64 cgroup; // its owner's, as weir_in_cgroup takes it; 0: none
	struct weir_number source, dest;
	char interface[16]; // by which it comes; "": by none
};

struct weir_walk {
	void *plan;
	const struct weir_flow *flow;
	__u32 rule;  // its cell
	__u32 match; // number of the match that is next
	__u32 verdict;
	__u32 value;
};

static inline int weir_is_loopback(__u8 family, const struct weir_number *ip)
{
	return family == WEIR_AF_INET ? ip->low >> 24 == 127 : !ip->high && ip->low == 1;
}

static inline int weir_less(const struct weir_number *a, const struct weir_number *b)
{
	return a->high < b->high || (a->high == b->high && a->low < b->low);
}

// The last range that begins at or below the key is found by halving steps: one path through the loop,
// whatever the key, spares the verifier from following all of them.
static inline int weir_in_set(void *plan, __u32 first, __u32 count, const struct weir_number *key)
{
	union weir_cell *cell;
	__u32 base = 0;
	for (__u32 step = WEIR_SET_STEP; step; step >>= 1) {
		cell = base + step < count ? weir_cell_at(plan, first + base + step) : 0;
		if (cell && !weir_less(key, &cell->range.first))
			base += step;
	}
	cell = weir_cell_at(plan, first + base);
	return cell && !weir_less(key, &cell->range.first) && !weir_less(&cell->range.last, key);
}

// "eth0", or with a star at its end whatever begins so.
static inline int weir_name_is(const char *name, const char *wanted)
{
	for (int i = 0; i < 16; i++) {
		if (wanted[i] == '*')
			return 1;
		if (wanted[i] != name[i])
			return 0;
		if (!name[i])
			return 1;
	}
	return 1;
}

// The field of the flow as a number. 0: it has none, and nothing can match.
static inline int weir_field_number(const struct weir_flow *flow, __u8 field, struct weir_number *ret_number)
{
	struct weir_number number = {0, 0};
	int present = 1;
	switch (field) {
	case WEIR_FAMILY:
		number.low = flow->family;
		break;
	case WEIR_PROTOCOL:
		number.low = flow->protocol;
		break;
	case WEIR_MARK:
		number.low = flow->mark;
		break;
	case WEIR_USER:
		number.low = flow->user;
		break;
	case WEIR_GROUP:
		number.low = flow->group;
		break;
	case WEIR_SOURCE4:
	case WEIR_SOURCE6:
		number = flow->source;
		present = flow->family == (field == WEIR_SOURCE4 ? WEIR_AF_INET : WEIR_AF_INET6);
		break;
	case WEIR_DEST4:
	case WEIR_DEST6:
		number = flow->dest;
		present = flow->family == (field == WEIR_DEST4 ? WEIR_AF_INET : WEIR_AF_INET6);
		break;
	case WEIR_TCP_DEST_PORT:
	case WEIR_UDP_DEST_PORT:
		number.low = flow->dest_port;
		present = flow->protocol == (field == WEIR_TCP_DEST_PORT ? WEIR_TCP : WEIR_UDP);
		break;
	case WEIR_UDP_SOURCE_PORT:
		number.low = flow->source_port;
		present = flow->protocol == WEIR_UDP;
		break;
	case WEIR_DEST_TYPE:
		number.low = flow->dest_is_local ? 2 : 1; // RTN_LOCAL, RTN_UNICAST
		break;
	case WEIR_NEW:
		break;
	case WEIR_LISTENS:
		present = flow->listens;
		break;
	default:
		present = 0;
	}
	*ret_number = number;
	return present;
}

static inline int weir_match_holds(void *plan, const struct weir_match *match, const struct weir_flow *flow)
{
	char out[16] = {flow->dest_is_local ? 'l' : 0, 'o'}; // what is known of it before routing
	struct weir_number number;
	int equal;
	if (match->field == WEIR_IN_INTERFACE) {
		equal = weir_name_is(flow->interface, match->name);
	} else if (match->field == WEIR_OUT_INTERFACE) {
		equal = weir_name_is(out, match->name);
	} else if (match->field == WEIR_CGROUP) {
		equal = weir_in_cgroup(flow->cgroup, match->value);
	} else {
		if (!weir_field_number(flow, match->field, &number))
			return 0;
		equal = match->is_set ? weir_in_set(plan, match->first, match->count, &number)
				      : (number.low & match->mask) == match->value;
	}
	return !equal == !!match->negated;
}

static inline void weir_act(struct weir_walk *walk, struct weir_rule *rule)
{
	if (!walk->flow->uncounted)
		__sync_fetch_and_add(&rule->packets, 1);
	if (rule->action == WEIR_GOTO) {
		walk->rule = rule->value & WEIR_CELLS_MASK;
		walk->match = rule->zero;
		return;
	}
	walk->verdict = rule->action == WEIR_REDIRECT ? WEIR_CAPTURE
			: rule->action == WEIR_DROP   ? WEIR_HOLD
						      : WEIR_LEAVE;
	walk->value = rule->value;
}

// Since when a query is asked in vain (*since, as now in ns; 0: never): from the first time, and anew a while
// after its time was over.
static inline void weir_query_begins(__u64 *since, __u64 now, __u64 limit)
{
	if (!*since || now - *since >= limit + WEIR_QUERY_STALE * 1000000000ull)
		*since = now;
}

// Whether it is not to wait any longer.
static inline int weir_query_is_over(__u64 since, __u64 now, __u64 limit)
{
	__u64 waited = now - since;
	return since && waited >= limit && waited < limit + WEIR_QUERY_STALE * 1000000000ull;
}

// (That zeros come from the map, and sums are masked, is for the verifier:
// it has no bounds to follow from step to step then, and all steps look alike.)
// One step; not 0 when the verdict is known.
static inline int weir_step(struct weir_walk *walk)
{
	union weir_cell *cell = weir_cell_at(walk->plan, walk->rule);
	if (!cell) {
		walk->verdict = WEIR_LEAVE;
		return 1;
	}
	struct weir_rule *rule = &cell->rule;
	if (walk->match >= rule->match_count) {
		weir_act(walk, rule);
		return walk->verdict != WEIR_UNDECIDED;
	}
	union weir_cell *match = weir_cell_at(walk->plan, walk->rule + 1 + walk->match);
	if (match && weir_match_holds(walk->plan, &match->match, walk->flow)) {
		walk->match = (walk->match + 1) & WEIR_MATCHES_MASK;
		return 0;
	}
	if (rule->last) {
		walk->verdict = WEIR_LEAVE;
		return 1;
	}
	walk->rule = (walk->rule + 1 + rule->match_count) & WEIR_CELLS_MASK;
	walk->match = rule->zero;
	return 0;
}
