// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The address of this host from which the kernel goes to another one if the program has chosen none: no helper tells
// that to programs on getsockname(). It is the one that the route names, or one of the interface by which it leads,
// selected as the kernel does (for IPv6 by the rules of RFC 6724).
#pragma once

#include "bpf/address.bpf.h"
#include "bpf/local.bpf.h"
#include "bpf/routes.bpf.h"

#include <linux/if_addr.h>

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
	struct list_head *head, *device; // of all interfaces
	struct in_ifaddr *address;
	__be32 gateway, found;
	__u32 scope;
};

// One of the gateway's network, else the first.
static long weir_selecting4_step(__u32 index, void *arg)
{
	struct weir_selecting4 *selecting = arg;
	struct in_ifaddr *address = selecting->address;
	(void)index;
	if (!address)
		return 1;
	selecting->address = BPF_CORE_READ(address, ifa_next);
	if (BPF_CORE_READ(address, ifa_flags) & IFA_F_SECONDARY || BPF_CORE_READ(address, ifa_scope) > selecting->scope)
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

static __always_inline __be32 weir_source4(struct net *net, __be32 to)
{
	struct weir_seek4 seek;
	__u32 type = weir_seek_route4(net, bpf_ntohl(to), &seek);
	if (type != RTN_UNICAST && type != RTN_LOCAL)
		return 0;
	struct hlist_node *node = seek.route;
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
	__u32 prefers_temporary, rank;
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
enum weir_rank { RANK_USABLE = 1 << 8, RANK_SAME_PRIVACY = 1 << 9, RANK_SAME_LABEL = 1 << 10, RANK_PREFERRED = 1 << 11 };

// The greatest is taken; 0: it cannot be used. In RFC 6724: rules 3, 6, 7 and 8.
static __always_inline __u32 weir_rank_of(const struct weir_selecting6 *selecting, struct inet6_ifaddr *address,
				       const struct in6_addr *ip)
{
	struct weir_address as_address = {.family = WEIR_AF_INET6};
	__builtin_memcpy(as_address.ip, ip, sizeof as_address.ip);
	struct weir_number number = weir_number_of(&as_address);
	if (!weir_is_usable(address) || number.high >> 54 == 0xfe80 >> 6)
		return 0;
	__u32 flags = BPF_CORE_READ(address, flags), len = BPF_CORE_READ(address, prefix_len);
	__u32 common = weir_common_bits(&number, &selecting->to);
	return RANK_USABLE | (flags & (IFA_F_DEPRECATED | IFA_F_OPTIMISTIC) ? 0 : RANK_PREFERRED) |
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
	selecting->prefers_temporary = BPF_CORE_READ(v6, cnf.use_tempaddr) >= 2;
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

static __always_inline int weir_source6(struct net *net, const struct weir_address *to, struct in6_addr *ret_source)
{
	struct weir_number number = weir_number_of(to);
	struct fib6_info *route = 0;
	__u32 type = weir_seek_route6(net, &number, &route);
	if (!route || (type != RTN_UNICAST && type != RTN_LOCAL))
		return 0;
	BPF_CORE_READ_INTO(ret_source, route, fib6_prefsrc.addr);
	if (BPF_CORE_READ(route, fib6_prefsrc.plen))
		return 1;
	__builtin_memcpy(ret_source, to->ip, sizeof *ret_source);
	if (type == RTN_LOCAL)
		return weir_is_own((__u64)net, 0, to);
	struct fib_nh_common *hop =
	    weir_hop(BPF_CORE_READ(route, nh), (void *)route + bpf_core_field_offset(struct fib6_info, fib6_nh));
	struct weir_selecting6 selecting = {.to = number};
	weir_select6(&selecting, BPF_CORE_READ(hop, nhc_dev));
	if (!(selecting.rank & RANK_PREFERRED)) {
		selecting.devices = selecting.device = (void *)net + bpf_core_field_offset(struct net, dev_base_head);
		bpf_loop(WEIR_ADDRESSES_MAX, weir_selecting6_next, &selecting, 0);
	}
	*ret_source = selecting.found;
	return selecting.rank != 0;
}

// Without a port, and without a family if it is not known.
__attribute__((noinline, used)) int weir_source(__u64 net, const struct weir_address *to,
						struct weir_address *ret_source)
{
	struct in6_addr source = {0};
	int found;
	if (!to || !ret_source)
		return 0;
	if (to->family == WEIR_AF_INET)
		found = (source.in6_u.u6_addr32[0] = weir_source4((void *)net, to->ip[0])) != 0;
	else
		found = weir_source6((void *)net, to, &source);
	__builtin_memcpy(ret_source->ip, &source, sizeof ret_source->ip);
	ret_source->family = found ? to->family : 0;
	return found != 0;
}
