// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Looking around in a network namespace: whether an address is one of its own, or of one interface (no helper
// answers that before routing), and what the interface of a number is called.
#pragma once

#include "bpf/kernel.h"
#include "bpf/shared.h"

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { LOOPBACK_INDEX = 1 };

// Goes through the interfaces, and for each through its addresses. All pointers are the kernel's.
struct weir_search {
	struct list_head *head, *device; // of the list of interfaces, and where we are in it; 0: only one
	struct in_ifaddr *address4;
	struct list_head *head6, *address6;
	__be32 ip[4];
	__u32 family, found;
};

static __always_inline int weir_look_at4(struct weir_search *search)
{
	struct in_ifaddr *address = search->address4;
	if (BPF_CORE_READ(address, ifa_local) == search->ip[0])
		search->found = 1;
	search->address4 = BPF_CORE_READ(address, ifa_next);
	return search->found;
}

// Whether the kernel takes it for this host's: not before it knows that nobody else on the link has it (unless
// it is told not to wait for that), and then only a moment later.
static __always_inline int weir_is_usable(struct inet6_ifaddr *address)
{
	return BPF_CORE_READ(address, rt, fib6_node) != 0;
}

static __always_inline int weir_look_at6(struct weir_search *search)
{
	struct in6_addr ip;
	struct list_head *node = search->address6;
	struct inet6_ifaddr *address = container_of(node, struct inet6_ifaddr, if_list);
	BPF_CORE_READ_INTO(&ip, address, addr);
	if (ip.in6_u.u6_addr32[0] == search->ip[0] && ip.in6_u.u6_addr32[1] == search->ip[1] &&
	    ip.in6_u.u6_addr32[2] == search->ip[2] && ip.in6_u.u6_addr32[3] == search->ip[3] &&
	    weir_is_usable(address))
		search->found = 1;
	node = BPF_CORE_READ(node, next);
	search->address6 = node == search->head6 ? 0 : node;
	return search->found;
}

static __always_inline void weir_enter_device(struct weir_search *search, struct net_device *device)
{
	if (search->family == WEIR_AF_INET) {
		search->address4 = BPF_CORE_READ(device, ip_ptr, ifa_list);
		return;
	}
	struct inet6_dev *v6 = BPF_CORE_READ(device, ip6_ptr);
	if (!v6)
		return;
	struct list_head *head = (void *)v6 + bpf_core_field_offset(struct inet6_dev, addr_list);
	struct list_head *node = BPF_CORE_READ(head, next);
	search->head6 = head;
	search->address6 = node == head ? 0 : node;
}

// The next interface: 1 behind the last.
static __always_inline int weir_next_device(struct weir_search *search)
{
	struct list_head *node = search->device;
	if (!node)
		return 1;
	node = BPF_CORE_READ(node, next);
	if (!node || node == search->head)
		return 1;
	search->device = node;
	weir_enter_device(search, container_of(node, struct net_device, dev_list));
	return 0;
}

static __attribute__((unused)) long weir_search_step(__u32 index, void *arg)
{
	struct weir_search *search = arg;
	(void)index;
	int done = search->address4   ? weir_look_at4(search)
		   : search->address6 ? weir_look_at6(search)
				      : weir_next_device(search);
	return done ? 1 : 0;
}

static __always_inline struct net *weir_net_of(void *sock)
{
	return BPF_CORE_READ((struct sock_common *)sock, skc_net.net);
}

struct weir_finding {
	struct hlist_node *node;
	struct net_device *device; // that was found
	int ifindex;
};

static __attribute__((unused)) long weir_finding_step(__u32 index, void *arg)
{
	struct weir_finding *finding = arg;
	(void)index;
	struct hlist_node *node = finding->node;
	if (!node)
		return 1;
	struct net_device *device = container_of(node, struct net_device, index_hlist);
	if (BPF_CORE_READ(device, ifindex) == finding->ifindex) {
		finding->device = device;
		return 1;
	}
	finding->node = BPF_CORE_READ(node, next);
	return 0;
}

// The interface of a number, or 0.
static __always_inline struct net_device *weir_device(struct net *net, __u32 ifindex)
{
	struct weir_finding finding = {.ifindex = (int)ifindex};
	struct hlist_head *head = BPF_CORE_READ(net, dev_index_head) + (ifindex & 0xff);
	finding.node = BPF_CORE_READ(head, first);
	bpf_loop(WEIR_ADDRESSES_MAX, weir_finding_step, &finding, 0);
	return finding.device;
}

// Whether the interface of a number has the address (network order); 0: whether any of the namespace has.
__attribute__((noinline, used)) int weir_is_own(__u64 net, __u32 ifindex, const struct weir_address *address)
{
	struct weir_search search = {0};
	if (!address)
		return 0;
	search.family = address->family;
	search.ip[0] = address->ip[0];
	search.ip[1] = address->ip[1];
	search.ip[2] = address->ip[2];
	search.ip[3] = address->ip[3];
	if (ifindex) {
		struct net_device *device = weir_device((void *)net, ifindex);
		if (!device)
			return 0;
		weir_enter_device(&search, device);
	} else {
		search.head = (void *)net + bpf_core_field_offset(struct net, dev_base_head);
		search.device = search.head;
	}
	bpf_loop(WEIR_ADDRESSES_MAX, weir_search_step, &search, 0);
	return search.found ? 1 : 0;
}
