// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Whether rules of routing (ip rule) leave a connection to the usual tables, local and then main: where all others
// are for others. What they choose is not followed.
#pragma once

#include "bpf/kernel.h"
#include "bpf/shared.h"

#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

enum weir_policy_verdict {
	WEIR_POLICY_DECIDES,
	WEIR_POLICY_USUAL,	     // the usual tables have its routes
	WEIR_POLICY_USUAL_UNBOUND, // as long as it has no address of this host
};

// Who connects.
struct weir_sender {
	enum weir_policy_verdict policy;
	__u32 preferences; // PREFER_* and others (source.bpf.h)
};

struct weir_policy {
	struct list_head *head, *node;
	__u32 family;
	__u32 mark, chosen; // of who sends
	__u32 next;	    // table that is to come; 0: another one came
	__u32 by_source;    // rules for addresses of this host were passed over
};

enum { WEIR_RULES_MAX = 256 };

// What else it wants to be so: the lengths of networks, to be in a VRF, and all that is not looked at here.
struct weir_rule_words {
	__u32 src_len, dst_len, l3mdev, other;
};

static __always_inline struct weir_rule_words weir_rule_words(struct fib_rule *common, __u32 family)
{
	struct weir_rule_words words = {
	    .l3mdev = BPF_CORE_READ(common, l3mdev),
	    .other = BPF_CORE_READ(common, ip_proto) | BPF_CORE_READ(common, sport_range.end) |
		     BPF_CORE_READ(common, dport_range.end) | (BPF_CORE_READ(common, tun_id) != 0)};
	if (family == WEIR_AF_INET) {
		struct fib4_rule *rule = (void *)common;
		words.src_len = BPF_CORE_READ(rule, src_len);
		words.dst_len = BPF_CORE_READ(rule, dst_len);
		words.other |= BPF_CORE_READ(rule, dscp);
		if (bpf_core_field_exists(rule->dscp_mask))
			words.other |= BPF_CORE_READ(rule, dscp_mask);
		if (bpf_core_field_exists(rule->dscp_full))
			words.other |= BPF_CORE_READ_BITFIELD_PROBED(rule, dscp_full);
		return words;
	}
	struct fib6_rule *rule = (void *)common;
	words.src_len = (__u32)BPF_CORE_READ(rule, src.plen);
	words.dst_len = (__u32)BPF_CORE_READ(rule, dst.plen);
	words.other |= BPF_CORE_READ(rule, dscp);
	if (bpf_core_field_exists(rule->dscp_mask))
		words.other |= BPF_CORE_READ(rule, dscp_mask);
	if (bpf_core_field_exists(rule->dscp_full))
		words.other |= BPF_CORE_READ_BITFIELD_PROBED(rule, dscp_full);
	if (bpf_core_field_exists(rule->flowlabel_mask))
		words.other |= BPF_CORE_READ(rule, flowlabel_mask);
	return words;
}

// Whether the rule cannot be for this sender. (An interface by which packets come is, for what this host sends, the
// loopback interface.)
static __always_inline int weir_is_for_others(const struct weir_policy *policy, struct fib_rule *rule,
					      const struct weir_rule_words *words)
{
	enum { LOOPBACK = 1 };
	int in = BPF_CORE_READ(rule, iifindex);
	if (BPF_CORE_READ(rule, flags) & (FIB_RULE_INVERT | FIB_RULE_FIND_SADDR))
		return 0;
	return ((policy->mark ^ BPF_CORE_READ(rule, mark)) & BPF_CORE_READ(rule, mark_mask)) ||
	       (in && in != LOOPBACK) ||
	       (!policy->chosen && (words->src_len || words->l3mdev || BPF_CORE_READ(rule, oifindex)));
}

static __always_inline int weir_is_for_all(struct fib_rule *rule, const struct weir_rule_words *words)
{
	return !(BPF_CORE_READ(rule, flags) & FIB_RULE_INVERT) && !BPF_CORE_READ(rule, mark_mask) &&
	       !BPF_CORE_READ(rule, iifindex) && !BPF_CORE_READ(rule, oifindex) && !words->src_len &&
	       !words->dst_len && !words->l3mdev && !words->other && BPF_CORE_READ(rule, suppress_ifgroup) == -1 &&
	       BPF_CORE_READ(rule, suppress_prefixlen) == -1 && !BPF_CORE_READ(rule, uid_range.start.val) &&
	       BPF_CORE_READ(rule, uid_range.end.val) == ~0U;
}

static long weir_policy_step(__u32 index, void *arg)
{
	struct weir_policy *policy = arg;
	struct list_head *node = policy->node;
	(void)index;
	if (!node || node == policy->head)
		return 1;
	struct fib_rule *rule = container_of(node, struct fib_rule, list);
	struct weir_rule_words words = weir_rule_words(rule, policy->family);
	policy->node = BPF_CORE_READ(node, next);
	if (weir_is_for_others(policy, rule, &words)) {
		policy->by_source |= words.src_len;
		return 0;
	}
	__u32 table = BPF_CORE_READ(rule, table);
	__u32 last = policy->family == WEIR_AF_INET ? RT_TABLE_DEFAULT : RT_TABLE_MAIN;
	int looks = BPF_CORE_READ(rule, action) == FR_ACT_TO_TBL && weir_is_for_all(rule, &words);
	if (!looks || table > RT_TABLE_LOCAL || table < last || table < policy->next) {
		policy->next = 0;
		return 1;
	}
	policy->next -= table == policy->next;
	return 0;
}

// Whether there are others than the usual ones, or have been.
static __always_inline int weir_has_policy(struct net *net, __u32 family)
{
	if (!bpf_core_field_exists(net->ipv4.rules_ops) || !bpf_core_field_exists(net->ipv6.fib6_rules_ops))
		return 1; // this kernel has none, of one family or both; then nothing is said of routes
	return family == WEIR_AF_INET ? BPF_CORE_READ(net, ipv4.fib_has_custom_rules)
				      : BPF_CORE_READ(net, ipv6.fib6_has_custom_rules);
}

// What they say of who sends with such a mark; `chosen`: and with an address of this host, or by an interface, of its
// choice. Goes through the rules as the kernel does, under the same protection against their being changed.
__attribute__((noinline, used)) __u32 weir_policy_verdict(__u64 net, __u32 family, __u32 mark, __u32 chosen)
{
	struct net *in = (void *)net;
	struct fib_rules_ops *rules;
	if (!bpf_core_field_exists(in->ipv4.rules_ops) || !bpf_core_field_exists(in->ipv6.fib6_rules_ops))
		return WEIR_POLICY_DECIDES;
	rules = family == WEIR_AF_INET ? BPF_CORE_READ(in, ipv4.rules_ops) : BPF_CORE_READ(in, ipv6.fib6_rules_ops);
	struct list_head *head = (void *)rules + bpf_core_field_offset(struct fib_rules_ops, rules_list);
	struct weir_policy policy = {.head = head,
				     .node = BPF_CORE_READ(head, next),
				     .family = family,
				     .mark = mark,
				     .chosen = chosen,
				     .next = RT_TABLE_LOCAL};
	if (!rules || bpf_loop(WEIR_RULES_MAX, weir_policy_step, &policy, 0) == WEIR_RULES_MAX ||
	    !policy.next || policy.next >= RT_TABLE_MAIN)
		return WEIR_POLICY_DECIDES;
	return policy.by_source ? WEIR_POLICY_USUAL_UNBOUND : WEIR_POLICY_USUAL;
}
