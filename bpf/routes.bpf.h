// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What kind of route a network namespace has to an address, before the kernel looks for it: no helper tells
// that to programs on connect(). Goes through the kernel's own tables as the kernel does, under the same
// protection against their being changed. Where more than addresses decides (rules of routing that are for this
// connection, routes by source), nothing is said.
#pragma once

#include "bpf/kernel.h"
#include "bpf/plan.bpf.h"
#include "bpf/policy.bpf.h"

#include <linux/rtnetlink.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

enum {
	WEIR_ROUTE_UNKNOWN = RTN_UNSPEC, // all others are RTN_*
	WEIR_ROUTE_NONE = 255,
};

// --- IPv4 ----------------------------------------------------------------------------------------------------
// A tree whose leaves are addresses of networks, each with its routes by length. The network that an address
// is in has that address without some of its lowest ones: they are taken away one by one, the longest first.
struct weir_seek4 {
	struct key_vector *root, *node;
	struct hlist_node *route; // at a leaf, in the end the one that was found
	__u32 ip, key;		  // what is sought, and the network's address
	__u32 type;
};

static __always_inline long weir_seek_shorter(struct weir_seek4 *seek)
{
	if (!seek->key)
		return 1;
	seek->key &= seek->key - 1;
	seek->node = seek->root;
	return 0;
}

static __always_inline long weir_try_route(struct weir_seek4 *seek)
{
	struct hlist_node *node = seek->route;
	struct fib_alias *route = container_of(node, struct fib_alias, fa_list);
	__u32 varying = BPF_CORE_READ(route, fa_slen); // bits
	if (varying >= 32 || (seek->ip ^ seek->key) >> varying == 0) {
		// One for a kind of service is for some sockets only: nothing is said then.
		int for_some = bpf_core_field_exists(route->fa_dscp) && BPF_CORE_READ(route, fa_dscp);
		seek->type = for_some ? WEIR_ROUTE_UNKNOWN : BPF_CORE_READ(route, fa_type);
		return 1;
	}
	seek->route = BPF_CORE_READ(node, next);
	return seek->route ? 0 : weir_seek_shorter(seek);
}

static long weir_seek4_step(__u32 index, void *arg)
{
	struct weir_seek4 *seek = arg;
	struct key_vector *node = seek->node;
	(void)index;
	if (seek->route)
		return weir_try_route(seek);
	if (!node)
		return weir_seek_shorter(seek);
	__u32 bits = BPF_CORE_READ(node, bits);
	__u32 differing = (seek->key ^ BPF_CORE_READ(node, key)) >> (BPF_CORE_READ(node, pos) & 31);
	void **children = (void *)node + bpf_core_field_offset(struct key_vector, leaf);
	seek->node = 0;
	if (bits > 31 || differing >> bits)
		return weir_seek_shorter(seek);
	if (bits)
		bpf_probe_read_kernel(&seek->node, sizeof seek->node, children + differing);
	else
		bpf_probe_read_kernel(&seek->route, sizeof seek->route, children);
	return 0;
}

static __always_inline void weir_seek4_in(struct fib_table *table, __u32 ip, struct weir_seek4 *seek)
{
	*seek = (struct weir_seek4){.ip = ip, .key = ip, .type = WEIR_ROUTE_NONE};
	// What the table has is a node with one child, the root.
	struct key_vector *top = (void *)BPF_CORE_READ(table, tb_data);
	void *root = (void *)top + bpf_core_field_offset(struct key_vector, leaf);
	if (top)
		bpf_probe_read_kernel(&seek->root, sizeof seek->root, root);
	seek->node = seek->root;
	if (seek->root && bpf_loop(WEIR_STEPS_MAX, weir_seek4_step, seek, 0) == WEIR_STEPS_MAX)
		seek->type = WEIR_ROUTE_UNKNOWN;
	else if (seek->type == RTN_THROW)
		seek->type = WEIR_ROUTE_NONE;
}

// Without rules of routing it is part of the main table. 0: it is not found, behind many others.
static __always_inline struct fib_table *weir_local_table(struct net *net)
{
	enum { OTHERS_MAX = 4 }; // whose numbers have the same last byte
	struct hlist_head *heads = BPF_CORE_READ(net, ipv4.fib_table_hash);
	struct hlist_node *node = BPF_CORE_READ(&heads[RT_TABLE_LOCAL], first);
	for (int i = 0; i < OTHERS_MAX && node; i++) {
		struct fib_table *table = container_of(node, struct fib_table, tb_hlist);
		if (BPF_CORE_READ(table, tb_id) == RT_TABLE_LOCAL)
			return table;
		node = BPF_CORE_READ(node, next);
	}
	return 0;
}

static __always_inline __u32 weir_route4(struct net *net, __u32 ip, __u64 *ret_route)
{
	struct weir_seek4 seek = {.type = WEIR_ROUTE_NONE};
	if (!bpf_core_field_exists(net->ipv4.fib_main) || !bpf_core_type_exists(struct key_vector))
		return WEIR_ROUTE_UNKNOWN;
	if (weir_has_policy(net, WEIR_AF_INET)) {
		struct fib_table *local = weir_local_table(net);
		if (!local)
			return WEIR_ROUTE_UNKNOWN;
		weir_seek4_in(local, ip, &seek);
	}
	if (seek.type == WEIR_ROUTE_NONE)
		weir_seek4_in(BPF_CORE_READ(net, ipv4.fib_main), ip, &seek);
	if (seek.type == WEIR_ROUTE_UNKNOWN)
		return WEIR_ROUTE_UNKNOWN;
	int leads = seek.type == RTN_UNICAST || seek.type == RTN_LOCAL || seek.type == RTN_BROADCAST;
	if (!leads && BPF_CORE_READ(net, ipv4.fib_default))
		return WEIR_ROUTE_UNKNOWN; // one table more
	*ret_route = (__u64)seek.route;
	return seek.type;
}

// --- IPv6 ----------------------------------------------------------------------------------------------------
// A tree that branches by one bit a node. The last route on the way down that fits is the longest.
struct weir_seek6 {
	struct fib6_node *node;
	struct fib6_info *route;
	struct fib6_info *none; // what a table without a default route has for one
	struct weir_number ip;
	__u32 type;
};

static __always_inline int weir_has_prefix(const struct weir_number *ip, const struct in6_addr *network, __u32 len)
{
	__u64 high = (__u64)bpf_ntohl(network->in6_u.u6_addr32[0]) << 32 | bpf_ntohl(network->in6_u.u6_addr32[1]);
	__u64 low = (__u64)bpf_ntohl(network->in6_u.u6_addr32[2]) << 32 | bpf_ntohl(network->in6_u.u6_addr32[3]);
	if (len < 64)
		return !len || (ip->high ^ high) >> (64 - len) == 0;
	return ip->high == high && (len == 64 || (ip->low ^ low) >> ((128 - len) & 63) == 0);
}

static __always_inline void weir_try_leaf(struct weir_seek6 *seek, struct fib6_info *route)
{
	struct in6_addr network;
	BPF_CORE_READ_INTO(&network, route, fib6_dst.addr);
	if (route == seek->none || !weir_has_prefix(&seek->ip, &network, (__u32)BPF_CORE_READ(route, fib6_dst.plen)))
		return;
	__u32 type = BPF_CORE_READ(route, fib6_type);
	seek->type = type ? type : RTN_UNICAST;
	seek->route = route;
}

static long weir_seek6_step(__u32 index, void *arg)
{
	enum { HAS_ROUTE = 4 };
	struct weir_seek6 *seek = arg;
	struct fib6_node *node = seek->node;
	(void)index;
	if (BPF_CORE_READ(node, fn_flags) & HAS_ROUTE)
		weir_try_leaf(seek, BPF_CORE_READ(node, leaf));
	__u32 bit = BPF_CORE_READ(node, fn_bit) & 127;
	__u64 half = bit < 64 ? seek->ip.high : seek->ip.low;
	seek->node = half >> (63 - (bit & 63)) & 1 ? BPF_CORE_READ(node, right) : BPF_CORE_READ(node, left);
	return seek->node ? 0 : 1;
}

static __always_inline __u32 weir_route6_in(struct net *net, struct fib6_table *table,
					    const struct weir_number *ip, __u64 *ret_route)
{
	struct weir_seek6 seek = {.ip = *ip, .type = WEIR_ROUTE_NONE};
	if (!table)
		return WEIR_ROUTE_NONE;
	seek.none = BPF_CORE_READ(net, ipv6.fib6_null_entry);
	seek.node = (void *)table + bpf_core_field_offset(struct fib6_table, tb6_root);
	bpf_loop(WEIR_STEPS_MAX, weir_seek6_step, &seek, 0);
	*ret_route = (__u64)seek.route;
	return seek.type == RTN_THROW ? WEIR_ROUTE_NONE : seek.type;
}

static __always_inline __u32 weir_route6(struct net *net, const struct weir_number *ip, __u64 *ret_route)
{
	if (!bpf_core_field_exists(net->ipv6.fib6_local_tbl) ||
	    (bpf_core_field_exists(net->ipv6.fib6_routes_require_src) &&
	     BPF_CORE_READ(net, ipv6.fib6_routes_require_src)))
		return WEIR_ROUTE_UNKNOWN;
	__u32 type = weir_route6_in(net, BPF_CORE_READ(net, ipv6.fib6_local_tbl), ip, ret_route);
	if (type == WEIR_ROUTE_NONE)
		type = weir_route6_in(net, BPF_CORE_READ(net, ipv6.fib6_main_tbl), ip, ret_route);
	return type;
}

// The kind of the route to an address: RTN_*, or one of the above. Where the kernel has it, if it leads anywhere: the
// fa_list of a struct fib_alias, or a struct fib6_info.
__attribute__((noinline, used)) __u32 weir_route(__u64 net, __u32 family, const struct weir_number *to,
						 const struct weir_sender *sender, __u64 *ret_route)
{
	if (!to || !sender || !ret_route || sender->policy == WEIR_POLICY_DECIDES)
		return WEIR_ROUTE_UNKNOWN;
	if (family == WEIR_AF_INET)
		return weir_route4((void *)net, (__u32)to->low, ret_route);
	__u32 type = weir_route6((void *)net, to, ret_route);
	int leads = type == RTN_UNICAST || type == RTN_LOCAL;
	// If none leads there, the kernel chooses an address, and looks again with that.
	return leads || sender->policy != WEIR_POLICY_USUAL_UNBOUND ? type : WEIR_ROUTE_UNKNOWN;
}
