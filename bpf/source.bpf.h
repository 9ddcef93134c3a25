// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The address of this host from which the kernel goes to another one if the program has chosen none: no helper tells
// that to programs on getsockname(). It is the one that the route names, or one of the interface by which it leads,
// selected as the kernel does (for IPv6 by the rules of RFC 6724).
#pragma once

#include "bpf/address.bpf.h"
#include "bpf/local.bpf.h"
#include "bpf/routes.bpf.h"

#include <linux/if_addr.h>

// What a program may prefer with IPv6, see weir_source.
enum { PREFER_TEMPORARY = 1, PREFER_PUBLIC = 2 }; // IPV6_PREFER_SRC_*

// Where a route leads: to what it has itself or, if it has one, to a next hop that several share. (Of several ways,
// the first.)
static __always_inline struct fib_nh_common *weir_hop(struct nexthop *shared, void *own)
{
	if (!shared)
		return own;
	if (BPF_CORE_READ(shared, is_group))
		shared = BPF_CORE_READ(shared, nh_grp, nh_entries[0].nh);
	void *info = BPF_CORE_READ(shared, nh_info);
	return info ? info + bpf_core_field_offset(struct nh_info, fib_nhc) : 0;
}

// --- IPv4 ----------------------------------------------------------------------------------------------------
struct weir_selecting4 {
	struct list_head *head, *device; // of all interfaces; 0: only the route's
	struct in_ifaddr *address;
	__be32 gateway, found;
	__u32 scope;
};

// One of the gateway's network, else the first. Of other interfaces than the route's, none that is for one link alone.
static long weir_selecting4_step(__u32 index, void *arg)
{
	struct weir_selecting4 *selecting = arg;
	struct in_ifaddr *address = selecting->address;
	(void)index;
	if (!address)
		return 1;
	selecting->address = BPF_CORE_READ(address, ifa_next);
	__u32 scope = BPF_CORE_READ(address, ifa_scope);
	if (BPF_CORE_READ(address, ifa_flags) & IFA_F_SECONDARY || scope > selecting->scope ||
	    (selecting->device && scope == RT_SCOPE_LINK))
		return 0;
	__be32 differing = BPF_CORE_READ(address, ifa_address) ^ selecting->gateway;
	int is_near = !selecting->gateway || !(differing & BPF_CORE_READ(address, ifa_mask));
	if (is_near || !selecting->found)
		selecting->found = BPF_CORE_READ(address, ifa_local);
	return is_near;
}

static __always_inline void weir_select4(struct weir_selecting4 *selecting, struct net_device *device)
{
	selecting->address = BPF_CORE_READ(device, ip_ptr, ifa_list);
	bpf_loop(WEIR_ADDRESSES_MAX, weir_selecting4_step, selecting, 0);
}

static long weir_selecting4_next(__u32 index, void *arg)
{
	struct weir_selecting4 *selecting = arg;
	struct list_head *node = selecting->device;
	(void)index;
	node = BPF_CORE_READ(node, next);
	if (!node || node == selecting->head)
		return 1;
	selecting->device = node;
	weir_select4(selecting, container_of(node, struct net_device, dev_list));
	return selecting->found != 0;
}

// 0: it is not known.
__attribute__((noinline, used)) __u32 weir_source4(__u64 in, __u32 to, const struct weir_sender *sender)
{
	struct net *net = (void *)in;
	struct weir_number number = {.low = bpf_ntohl(to)};
	__u64 found = 0;
	__u32 type = weir_route(in, WEIR_AF_INET, &number, sender, &found);
	if (type != RTN_UNICAST && type != RTN_LOCAL)
		return 0;
	struct hlist_node *node = (void *)found;
	struct fib_alias *route = container_of(node, struct fib_alias, fa_list);
	struct fib_info *info = BPF_CORE_READ(route, fa_info);
	__be32 preferred = BPF_CORE_READ(info, fib_prefsrc);
	if (preferred || type == RTN_LOCAL)
		return preferred ? preferred : to;
	struct fib_nh_common *hop =
	    weir_hop(BPF_CORE_READ(info, nh), (void *)info + bpf_core_field_offset(struct fib_info, fib_nh));
	struct weir_selecting4 selecting = {.scope = BPF_CORE_READ(info, fib_scope)};
	if (BPF_CORE_READ(hop, nhc_gw_family) == WEIR_AF_INET)
		selecting.gateway = BPF_CORE_READ(hop, nhc_gw.ipv4);
	weir_select4(&selecting, BPF_CORE_READ(hop, nhc_dev));
	if (selecting.found)
		return selecting.found;
	selecting.gateway = 0;
	selecting.head = selecting.device = (void *)net + bpf_core_field_offset(struct net, dev_base_head);
	bpf_loop(WEIR_ADDRESSES_MAX, weir_selecting4_next, &selecting, 0);
	return selecting.found;
}

// --- IPv6 ----------------------------------------------------------------------------------------------------
struct weir_selecting6 {
	struct list_head *devices, *device; // all interfaces
	struct list_head *head, *node;	    // addresses of one
	struct weir_number to;
	__u32 preferences;	 // of the program, see weir_source
	__u32 prefers_temporary; // by them, or those of the interface
	__u32 outgoing, rank;
	struct in6_addr found;
};

// How many of the highest bits are zero, of a number that is not.
static __always_inline __u32 weir_leading_zeros(__u64 number)
{
	__u32 count = 0;
	for (__u32 step = 32; step; step /= 2) {
		__u32 more = number >> (64 - step) ? 0 : step;
		number <<= more;
		count += more;
	}
	return count;
}

static __always_inline __u32 weir_common_bits(const struct weir_number *a, const struct weir_number *b)
{
	__u64 high = a->high ^ b->high, low = a->low ^ b->low;
	if (high)
		return weir_leading_zeros(high);
	return low ? 64 + weir_leading_zeros(low) : 128;
}

// Of networks that are not for the Internet (RFC 4193).
static __always_inline int weir_is_unique_local(const struct weir_number *ip)
{
	return ip->high >> 57 == 0xfc >> 1;
}

// Above the number of bits that it has in common with where it goes.
enum weir_rank {
	RANK_USABLE = 1 << 8,
	RANK_SAME_PRIVACY = 1 << 9,
	RANK_SAME_LABEL = 1 << 10,
	RANK_OUTGOING = 1 << 11, // of the interface by which the route leads
	RANK_PREFERRED = 1 << 12,
};

// The greatest is taken; 0: it cannot be used, or (rule 2 of RFC 6724) not so far from here. Then rules 3, 5, 6, 7 and 8.
static __always_inline __u32 weir_rank_of(const struct weir_selecting6 *selecting, struct inet6_ifaddr *address,
				       const struct in6_addr *ip)
{
	struct weir_address as_address = {.family = WEIR_AF_INET6};
	__builtin_memcpy(as_address.ip, ip, sizeof as_address.ip);
	struct weir_number number = weir_number_of(&as_address);
	if (!weir_is_usable(address) || number.high >> 54 == 0xfe80 >> 6 || weir_address_is_loopback(&as_address))
		return 0;
	__u32 flags = BPF_CORE_READ(address, flags), len = BPF_CORE_READ(address, prefix_len);
	__u32 common = weir_common_bits(&number, &selecting->to);
	return RANK_USABLE | selecting->outgoing | (flags & (IFA_F_DEPRECATED | IFA_F_OPTIMISTIC) ? 0 : RANK_PREFERRED) |
	       (weir_is_unique_local(&number) == weir_is_unique_local(&selecting->to) ? RANK_SAME_LABEL : 0) |
	       (!(flags & IFA_F_TEMPORARY) == !selecting->prefers_temporary ? RANK_SAME_PRIVACY : 0) |
	       (common < len ? common : len);
}

static long weir_selecting6_step(__u32 index, void *arg)
{
	struct weir_selecting6 *selecting = arg;
	struct list_head *node = selecting->node;
	struct in6_addr ip;
	(void)index;
	if (!node || node == selecting->head)
		return 1;
	struct inet6_ifaddr *address = container_of(node, struct inet6_ifaddr, if_list);
	selecting->node = BPF_CORE_READ(node, next);
	BPF_CORE_READ_INTO(&ip, address, addr);
	__u32 rank = weir_rank_of(selecting, address, &ip);
	if (rank > selecting->rank) {
		selecting->rank = rank;
		selecting->found = ip;
	}
	return 0;
}

static __always_inline void weir_select6(struct weir_selecting6 *selecting, struct net_device *device)
{
	struct inet6_dev *v6 = BPF_CORE_READ(device, ip6_ptr);
	if (!v6)
		return;
	struct list_head *head = (void *)v6 + bpf_core_field_offset(struct inet6_dev, addr_list);
	selecting->prefers_temporary = selecting->preferences & (PREFER_TEMPORARY | PREFER_PUBLIC)
					   ? selecting->preferences & PREFER_TEMPORARY
					   : BPF_CORE_READ(v6, cnf.use_tempaddr) >= 2;
	selecting->head = head;
	selecting->node = BPF_CORE_READ(head, next);
	bpf_loop(WEIR_ADDRESSES_MAX, weir_selecting6_step, selecting, 0);
}

static long weir_selecting6_next(__u32 index, void *arg)
{
	struct weir_selecting6 *selecting = arg;
	struct list_head *node = selecting->device;
	(void)index;
	node = BPF_CORE_READ(node, next);
	if (!node || node == selecting->devices)
		return 1;
	selecting->device = node;
	weir_select6(selecting, container_of(node, struct net_device, dev_list));
	return 0;
}

// Sets the address alone. 0: it is not known.
__attribute__((noinline, used)) int weir_source6(__u64 in, const struct weir_address *to,
						 const struct weir_sender *sender,
						 struct weir_address *ret_source)
{
	struct net *net = (void *)in;
	__u64 found = 0;
	if (!to || !sender || !ret_source)
		return 0;
	struct weir_selecting6 selecting = {
	    .to = weir_number_of(to), .preferences = sender->preferences, .outgoing = RANK_OUTGOING};
	__u32 type = weir_route(in, WEIR_AF_INET6, &selecting.to, sender, &found);
	if (!found || (type != RTN_UNICAST && type != RTN_LOCAL))
		return 0;
	struct fib6_info *route = (void *)found;
	BPF_CORE_READ_INTO(&ret_source->ip, route, fib6_prefsrc.addr);
	if (BPF_CORE_READ(route, fib6_prefsrc.plen))
		return 1;
	__builtin_memcpy(ret_source->ip, to->ip, sizeof to->ip);
	if (type == RTN_LOCAL && weir_is_own(in, 0, to))
		return 1;
	struct fib_nh_common *hop =
	    weir_hop(BPF_CORE_READ(route, nh), (void *)route + bpf_core_field_offset(struct fib6_info, fib6_nh));
	weir_select6(&selecting, BPF_CORE_READ(hop, nhc_dev));
	if (!(selecting.rank & RANK_PREFERRED)) {
		selecting.outgoing = 0;
		selecting.devices = selecting.device = (void *)net + bpf_core_field_offset(struct net, dev_base_head);
		bpf_loop(WEIR_ADDRESSES_MAX, weir_selecting6_next, &selecting, 0);
	}
	__builtin_memcpy(ret_source->ip, &selecting.found, sizeof ret_source->ip);
	return selecting.rank != 0;
}

// --- both ----------------------------------------------------------------------------------------------------
// Without a port, and without a family if it is not known.
static __always_inline int weir_source(__u64 net, const struct weir_address *to, const struct weir_sender *sender,
				       struct weir_address *ret_source)
{
	int found = to->family == WEIR_AF_INET ? (ret_source->ip[0] = weir_source4(net, to->ip[0], sender)) != 0
					       : weir_source6(net, to, sender, ret_source);
	ret_source->family = found ? to->family : 0;
	return found;
}

// The same of what goes by the interface of that number whatever the routes say. 0: it has no address.
__attribute__((noinline, used)) int weir_source_on(__u64 net, __u32 ifindex, const struct weir_address *to,
						   __u32 preferences, struct weir_address *ret_source)
{
	if (!to || !ret_source)
		return 0;
	struct net_device *device = weir_device((void *)net, ifindex);
	ret_source->family = to->family;
	if (to->family == WEIR_AF_INET) {
		struct weir_selecting4 selecting = {.gateway = to->ip[0], .scope = RT_SCOPE_HOST};
		weir_select4(&selecting, device);
		ret_source->ip[0] = selecting.found;
		return selecting.found != 0;
	}
	struct weir_selecting6 selecting = {.to = weir_number_of(to), .preferences = preferences};
	weir_select6(&selecting, device);
	__builtin_memcpy(ret_source->ip, &selecting.found, sizeof ret_source->ip);
	return selecting.rank != 0;
}
