// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Connections that arrive in a network namespace: which socket takes them. Captured ones are given to the
// proxy's listener though they were addressed to somebody else, so the accepted socket's own address is the
// original destination, and its peer the real client. Redirected ones (outbound.bpf.c) find their listener
// here, too. Loaded once a namespace, since this hook does not tell which one it is in.
#include "bpf/local.bpf.h"
#include "bpf/plan.bpf.h"

enum { LISTEN = 10 };

const volatile __u64 weir_netns;	     // its cookie
const volatile __u16 weir_ports[WEIR_ROLES]; // where the proxy listens; 0: nowhere
__u64 weir_net;				     // the kernel's structure of the namespace

// --- listeners -----------------------------------------------------------------------------------------------
// Gives the connection to the proxy's listener. 0: there is none.
static __always_inline int assign(struct bpf_sk_lookup *ctx, __u16 port)
{
	struct weir_listener_key key = {.netns = weir_netns, .port = port, .family = (__u8)ctx->family};
	for (int slot = 0; slot < WEIR_LISTENERS; slot++) {
		key.slot = (__u8)slot;
		struct bpf_sock *sk = bpf_map_lookup_elem(&weir_listeners, &key);
		if (!sk)
			continue;
		long err = bpf_sk_assign(ctx, sk, 0);
		bpf_sk_release(sk);
		if (!err)
			return 1;
	}
	return 0;
}

// --- the flow ------------------------------------------------------------------------------------------------
static __always_inline struct weir_number number6(__u32 a, __u32 b, __u32 c, __u32 d)
{
	return (struct weir_number){(__u64)bpf_ntohl(a) << 32 | bpf_ntohl(b),
				    (__u64)bpf_ntohl(c) << 32 | bpf_ntohl(d)};
}

static __always_inline struct weir_flow flow_of(struct bpf_sk_lookup *ctx)
{
	struct weir_flow flow = {
	    .family = (__u8)ctx->family,
	    .protocol = (__u8)ctx->protocol,
	    .dest_is_local = 1,
	    .source_port = bpf_ntohs((__u16)ctx->remote_port),
	    .dest_port = (__u16)ctx->local_port,
	};
	if (flow.family == WEIR_AF_INET) {
		flow.source.low = bpf_ntohl(ctx->remote_ip4);
		flow.dest.low = bpf_ntohl(ctx->local_ip4);
	} else {
		flow.source =
		    number6(ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3]);
		flow.dest =
		    number6(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]);
	}
	return flow;
}

// Whether the address is of those that stand for others.
static __always_inline int is_redirect(__u8 family, const struct weir_number *ip)
{
	if (family == WEIR_AF_INET)
		return ((__u32)ip->low & WEIR_REDIRECT4_MASK) == WEIR_REDIRECT4;
	return ip->high == ((__u64)WEIR_REDIRECT6_0 << 32 | WEIR_REDIRECT6_1);
}

// What comes from one of the host's own addresses comes by the loopback interface, whatever the index says:
// that is of the interface which has the address.
static __always_inline int is_from_here(struct bpf_sk_lookup *ctx, const struct weir_flow *flow)
{
	struct weir_address source = {.family = flow->family};
	if (ctx->ingress_ifindex == LOOPBACK_INDEX || weir_is_loopback(flow->family, &flow->source) ||
	    is_redirect(flow->family, &flow->source))
		return 1;
	if (flow->family == WEIR_AF_INET) {
		source.ip[0] = ctx->remote_ip4;
	} else {
		source.ip[0] = ctx->remote_ip6[0];
		source.ip[1] = ctx->remote_ip6[1];
		source.ip[2] = ctx->remote_ip6[2];
		source.ip[3] = ctx->remote_ip6[3];
	}
	return weir_net ? weir_is_own(weir_net, 0, &source) : 0;
}

// The name of the interface by which it comes.
static __always_inline void name_interface(struct bpf_sk_lookup *ctx, struct weir_flow *flow, int from_here)
{
	char name[16] = {0};
	if (from_here) {
		flow->interface[0] = 'l';
		flow->interface[1] = 'o';
	} else if (weir_net) {
		struct net_device *device = weir_device((void *)weir_net, ctx->ingress_ifindex);
		if (device)
			BPF_CORE_READ_INTO(&name, device, name);
		__builtin_memcpy(flow->interface, name, sizeof name);
	}
}

// --- waiting -------------------------------------------------------------------------------------------------
static __always_inline struct weir_held_key held_key(struct bpf_sk_lookup *ctx)
{
	struct weir_held_key key = {.netns = weir_netns,
				    .source_port = bpf_ntohs((__u16)ctx->remote_port),
				    .dest_port = (__u16)ctx->local_port,
				    .family = (__u16)ctx->family};
	if (ctx->family == WEIR_AF_INET) {
		key.source[0] = ctx->remote_ip4;
	} else {
		key.source[0] = ctx->remote_ip6[0];
		key.source[1] = ctx->remote_ip6[1];
		key.source[2] = ctx->remote_ip6[2];
		key.source[3] = ctx->remote_ip6[3];
	}
	return key;
}

// Whether it has waited as long as it may.
static __always_inline int is_over(const struct weir_held_key *key)
{
	const struct weir_held *held = bpf_map_lookup_elem(&weir_held, key);
	__u64 now = held ? bpf_ktime_get_ns() : 0;
	return held && now >= held->until && now - held->until < WEIR_HELD_STALE * 1000000000ull;
}

// Says what nobody listens for, if it is to wait (hold.bpf.c). What this CPU had in hand before is done with.
// 0: it is not to wait.
static __always_inline int hold(struct bpf_sk_lookup *ctx, const struct weir_header *header, __u16 proxy_port)
{
	__u32 zero = 0;
	struct weir_unheard *unheard = bpf_map_lookup_elem(&weir_unheard, &zero);
	if (!unheard)
		return 0;
	unheard->protocol = 0;
	if (!proxy_port || !header->chains[WEIR_CHAIN_HOLD])
		return 0;
	struct weir_held_key key = held_key(ctx);
	if (ctx->protocol == WEIR_TCP && is_over(&key))
		return 0;
	unheard->key = key;
	unheard->net = weir_net;
	unheard->proxy_port = proxy_port;
	unheard->protocol = (__u16)ctx->protocol;
	return 1;
}

// Queries that were redirected: their answer may be that there is nobody.
static __always_inline void look_at_query(struct bpf_sk_lookup *ctx)
{
	__u64 netns = weir_netns;
	__u16 port = weir_ports[WEIR_ROLE_DNS];
	if (!port || ctx->local_port != port)
		return;
	void *plan = bpf_map_lookup_elem(&weir_plans, &netns);
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	if (header)
		hold(ctx, &header->header, port);
}

SEC("sk_lookup")
int weir_lookup(struct bpf_sk_lookup *ctx)
{
	__u64 netns = weir_netns;
	if (ctx->protocol != WEIR_TCP) {
		look_at_query(ctx);
		return SK_PASS;
	}
	struct weir_flow flow = flow_of(ctx);
	int from_here = is_from_here(ctx, &flow);
	if (is_redirect(flow.family, &flow.dest)) {
		if (!from_here && ctx->ingress_ifindex)
			return SK_DROP; // from elsewhere: it would pass the rules by
		// It arrives, whatever the plan says since: there may be none any more, or one with other ports.
		assign(ctx, flow.dest_port);
		return SK_PASS;
	}
	void *plan = bpf_map_lookup_elem(&weir_plans, &netns);
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	if (!header)
		return SK_PASS;
	if (!ctx->ingress_ifindex) // a program asks, there is no packet
		return SK_PASS;
	name_interface(ctx, &flow, from_here);
	__u16 port = weir_decide(netns, WEIR_CHAIN_PREROUTING, &flow);
	int taken = !port || assign(ctx, port);
	if (hold(ctx, &header->header, taken ? 0 : port) || taken)
		return SK_PASS; // who listens there does not get what waits
	if (header->header.fail == WEIR_FAIL_OPEN) {
		weir_count(plan, WEIR_COUNT_OPEN);
		return SK_PASS;
	}
	weir_count(plan, WEIR_COUNT_NO_LISTENER);
	return SK_DROP;
}

// Run when a plan is put in place: finds the listeners that are there already.
SEC("iter/tcp")
int weir_find_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct weir_listener_key key = {.netns = weir_netns};
	if (!sk)
		return 0;
	weir_net = (__u64)sk->skc_net.net;
	if (sk->skc_state != LISTEN)
		return 0;
	key.family = (__u8)sk->skc_family;
	key.slot = (__u8)(bpf_get_socket_cookie(sk) % WEIR_LISTENERS);
	key.port = sk->skc_num;
	for (int role = 0; role < WEIR_ROLES; role++)
		if (weir_ports[role] == key.port && key.port)
			bpf_map_update_elem(&weir_listeners, &key, sk, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
