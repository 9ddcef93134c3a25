// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What hooks on addresses (cgroup/connect4 and the like) are about.
#pragma once

#include "bpf/address.bpf.h"
#include "bpf/kernel.h"
#include "bpf/maps.h"
#include "bpf/policy.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

enum { REFUSE, ALLOW }; // what the hooks return

// The address that the hook is about; IPv4 also when it is in the form ::ffff:a.b.c.d.
static __always_inline struct weir_address address_of(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_address address = {.port = (__u16)ctx->user_port, .family = WEIR_AF_INET};
	if (!v6) {
		address.ip[0] = ctx->user_ip4;
		return address;
	}
	address.ip[0] = ctx->user_ip6[0];
	address.ip[1] = ctx->user_ip6[1];
	address.ip[2] = ctx->user_ip6[2];
	address.ip[3] = ctx->user_ip6[3];
	if (!weir_unmap(address.ip))
		address.family = WEIR_AF_INET6;
	return address;
}

static __always_inline void set_address(struct bpf_sock_addr *ctx, int v6, const struct weir_address *address)
{
	ctx->user_port = address->port;
	if (!v6) {
		ctx->user_ip4 = address->ip[0];
	} else if (address->family == WEIR_AF_INET) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = bpf_htonl(0xffff);
		ctx->user_ip6[3] = address->ip[0];
	} else {
		ctx->user_ip6[0] = address->ip[0];
		ctx->user_ip6[1] = address->ip[1];
		ctx->user_ip6[2] = address->ip[2];
		ctx->user_ip6[3] = address->ip[3];
	}
}

static __always_inline struct bpf_sock_addr_kern *kernels_own(struct bpf_sock_addr *ctx)
{
	return (struct bpf_sock_addr_kern *)ctx;
}

// Whether the program has given the socket an address of its own.
static __always_inline int has_address(struct bpf_sock_addr *ctx)
{
	enum { BOUND = 4 }; // SOCK_BINDADDR_LOCK
	const struct sock *sk = BPF_CORE_READ(kernels_own(ctx), sk);
	return (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & BOUND) != 0;
}

// What it has said of addresses to prefer (IPV6_ADDR_PREFERENCES).
static __always_inline __u32 preferences_of(struct bpf_sock_addr *ctx, __u8 family)
{
	struct inet_sock *socket = (struct inet_sock *)BPF_CORE_READ(kernels_own(ctx), sk);
	struct ipv6_pinfo *v6 = family == WEIR_AF_INET6 ? BPF_CORE_READ(socket, pinet6) : 0;
	return v6 ? (__u32)BPF_CORE_READ_BITFIELD_PROBED(v6, srcprefs) : 0;
}

static __always_inline __u64 net_of(struct bpf_sock_addr *ctx)
{
	return (__u64)BPF_CORE_READ(kernels_own(ctx), sk, __sk_common.skc_net.net);
}

// What rules of routing say of it; hardly any host has some. `tied`: it goes by an interface that it has chosen.
static __always_inline enum weir_policy_verdict policy_of(struct bpf_sock_addr *ctx, __u8 family, int tied)
{
	const struct sock *sk = BPF_CORE_READ(kernels_own(ctx), sk);
	__u64 net = net_of(ctx);
	if (!weir_has_policy((void *)net, family))
		return WEIR_POLICY_USUAL;
	__u32 chosen = tied || has_address(ctx) || BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
	return weir_policy_verdict(net, family, BPF_CORE_READ(sk, sk_mark), chosen);
}

// Who connects or asks, to an address of that family.
static __always_inline struct weir_sender sender_of(struct bpf_sock_addr *ctx, __u8 family, int tied)
{
	return (struct weir_sender){.policy = policy_of(ctx, family, tied), .preferences = preferences_of(ctx, family)};
}

static __always_inline void *plan_of(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	return bpf_map_lookup_elem(&weir_plans, &netns);
}
