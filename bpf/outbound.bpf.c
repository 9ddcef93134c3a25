// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Connections that programs open, by cgroup hooks on connect(), sendto() and bind(). A captured connection is
// sent to an address of its own that stands for it (WEIR_REDIRECT4): the program at the other end of the way,
// stream.bpf.c, learns from it where the connection was going. A DNS query goes to an address that stands for
// the server, so that the answer's source tells which server it is from. What the proxy binds to a client's
// address comes from an address that stands for the client, of whom the application's socket tells
// (stream.bpf.c). What programs are told of all these addresses is in names.bpf.c.
#include "bpf/local.bpf.h"
#include "bpf/pending.bpf.h"
#include "bpf/plan.bpf.h"
#include "bpf/routes.bpf.h"
#include "bpf/servers.bpf.h"
#include "bpf/sock_addr.bpf.h"
#include "bpf/source.bpf.h"

#include <asm-generic/errno.h>

// --- addresses -----------------------------------------------------------------------------------------------
// The unspecified address means the loopback one.
static __always_inline struct weir_number number_of(const struct weir_address *address)
{
	struct weir_number number = weir_number_of(address);
	if (!number.high && !number.low)
		number.low = address->family == WEIR_AF_INET ? WEIR_LOOPBACK4 : 1;
	return number;
}

// To nobody in particular: the kernel refuses such connections.
static __always_inline int is_of_many(const struct weir_address *address)
{
	__u32 first = bpf_ntohl(address->ip[0]);
	return address->family == WEIR_AF_INET ? first >> 28 == 14 || first == 0xffffffff : first >> 24 == 0xff;
}

// --- routes --------------------------------------------------------------------------------------------------
// The kind of route to where a connection goes: RTN_LOCAL to this host itself.
static __always_inline __u32 route_to(struct bpf_sock_addr *ctx, const struct weir_flow *flow,
				      const struct weir_address *address)
{
	if (weir_is_loopback(flow->family, &flow->dest))
		return RTN_LOCAL;
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	if (!tcp)
		return WEIR_ROUTE_UNKNOWN;
	__u64 net = (__u64)weir_net_of(tcp), ignored = 0;
	struct weir_sender sender = {.policy = policy_of(ctx, flow->family, 0)};
	__u32 route = weir_route(net, flow->family, &flow->dest, &sender, &ignored);
	if (route == WEIR_ROUTE_UNKNOWN && weir_is_own(net, 0, address))
		route = RTN_LOCAL;
	return route;
}

// The error with which the kernel would refuse the connection if it was not captured; 0: it would not.
static __always_inline int refusal(__u32 route)
{
	switch (route) {
	case WEIR_ROUTE_NONE:
	case RTN_BROADCAST:
		return -ENETUNREACH;
	case RTN_UNREACHABLE:
		return -EHOSTUNREACH;
	case RTN_PROHIBIT:
		return -EACCES;
	case RTN_BLACKHOLE:
		return -EINVAL;
	default:
		return 0;
	}
}

// --- deciding ------------------------------------------------------------------------------------------------
static __always_inline __u64 current_cgroup(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	return (__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp);
}

// Whose socket it is: of who made it, as the rules of packet filters have it, and not of who uses it now.
static __always_inline void set_owner(struct bpf_sock *sk, struct weir_flow *flow)
{
	__u64 ids = bpf_get_current_uid_gid();
	struct sock *kernels = sk ? (struct sock *)bpf_skc_to_tcp_sock(sk) : 0;
	flow->user = (__u32)ids;
	flow->group = (__u32)(ids >> 32);
	if (!kernels && sk)
		kernels = (struct sock *)bpf_skc_to_udp6_sock(sk); // there is no such thing for UDP over IPv4
	flow->cgroup = kernels ? (__u64)BPF_CORE_READ(kernels, sk_cgrp_data.cgroup) : current_cgroup();
	struct file *file = kernels ? BPF_CORE_READ(kernels, sk_socket, file) : 0;
	if (!file)
		return;
	flow->user = BPF_CORE_READ(file, f_cred, fsuid.val);
	flow->group = BPF_CORE_READ(file, f_cred, fsgid.val);
}

// The port to which the connection is to be captured, or 0; and the kind of route that it has.
static __always_inline __u16 decide(struct bpf_sock_addr *ctx, const struct weir_address *address,
				    __u32 *ret_route)
{
	struct bpf_sock *sk = ctx->sk;
	struct weir_flow flow = {
	    .family = address->family,
	    .protocol = (__u8)ctx->protocol,
	    .dest_port = bpf_ntohs(address->port),
	    .dest = number_of(address),
	};
	flow.mark = sk ? sk->mark : 0;
	set_owner(sk, &flow);
	*ret_route = flow.protocol == WEIR_TCP ? route_to(ctx, &flow, address) : WEIR_ROUTE_UNKNOWN;
	flow.dest_is_local = *ret_route == RTN_LOCAL;
	return weir_decide(bpf_get_netns_cookie(ctx), WEIR_CHAIN_OUTPUT, &flow);
}

// Whether somebody listens on the port of the loopback address, as the proxy does.
static __always_inline int is_served(struct bpf_sock_addr *ctx, __u8 family, __u16 port)
{
	struct bpf_sock_tuple tuple = {0};
	__u32 len = sizeof tuple.ipv4;
	struct bpf_sock *sk;
	if (family == WEIR_AF_INET) {
		tuple.ipv4.saddr = tuple.ipv4.daddr = bpf_htonl(WEIR_LOOPBACK4);
		tuple.ipv4.dport = bpf_htons(port);
	} else {
		tuple.ipv6.saddr[3] = tuple.ipv6.daddr[3] = bpf_htonl(1);
		tuple.ipv6.dport = bpf_htons(port);
		len = sizeof tuple.ipv6;
	}
	sk = ctx->protocol == WEIR_TCP ? bpf_sk_lookup_tcp(ctx, &tuple, len, BPF_F_CURRENT_NETNS, 0)
				       : bpf_sk_lookup_udp(ctx, &tuple, len, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

// Whether the proxy's absence lets the connection through.
static __always_inline int fails_open(struct bpf_sock_addr *ctx, void *plan, __u8 family, __u16 port)
{
	union weir_cell *header = weir_cell_at(plan, WEIR_CELL_HEADER);
	if (!header || header->header.fail != WEIR_FAIL_OPEN || is_served(ctx, family, port))
		return 0;
	weir_count(plan, WEIR_COUNT_OPEN);
	return 1;
}

// --- TCP -----------------------------------------------------------------------------------------------------
// An address that no other connection on its way has. 0, or a negative error.
static __always_inline long reserve(const struct weir_pending *pending, struct weir_pending_key *key)
{
	long err = -EEXIST;
	for (int i = 0; i < WEIR_TRIES && err == -EEXIST; i++) {
		weir_redirect(pending->original.family, bpf_get_prandom_u32(), key->ip);
		err = weir_pending_add(key, pending);
	}
	return err;
}

// A connection of MPTCP is opened by a socket of TCP below the program's own, which is asked for the peer's
// address. (The helper came with Linux 5.19, and kernels without MPTCP refuse programs that call it.)
static __always_inline struct mptcp_sock *owner_of(struct bpf_sock *sk)
{
	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock) ||
	    !bpf_core_type_exists(struct mptcp_sock))
		return 0;
	return bpf_skc_to_mptcp_sock(sk);
}

static __always_inline void tell_owner(struct bpf_sock *sk, const struct weir_socket *socket)
{
	struct mptcp_sock *owner = owner_of(sk);
	struct weir_socket *copy =
	    owner ? bpf_sk_storage_get(&weir_sockets, owner, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (copy)
		*copy = *socket;
}

// There is no place for one more on its way: it goes directly, or not at all.
static __always_inline int give_up(void *plan)
{
	union weir_cell *header = weir_cell_at(plan, WEIR_CELL_HEADER);
	weir_count(plan, WEIR_COUNT_PENDING_FULL);
	if (header && header->header.fail == WEIR_FAIL_OPEN)
		return ALLOW;
	bpf_set_retval(-EAGAIN);
	return REFUSE;
}

static __always_inline int redirect_tcp(struct bpf_sock_addr *ctx, int v6, void *plan,
					struct weir_address *address, __u16 port)
{
	struct weir_pending_key key = {.netns = bpf_get_netns_cookie(ctx)};
	struct weir_pending pending = {.original = *address, .client = bpf_get_socket_cookie(ctx)};
	struct bpf_sock *sk = ctx->sk;
	struct weir_socket *socket =
	    sk ? bpf_sk_storage_get(&weir_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!has_address(ctx)) {
		struct weir_sender sender = sender_of(ctx, address->family, 0);
		weir_source(net_of(ctx), address, &sender, &pending.source);
	}
	if (!socket || reserve(&pending, &key))
		return give_up(plan);
	socket->original = pending.original;
	socket->source = pending.source;
	socket->side = WEIR_SIDE_CLIENT;
	socket->client = pending.client;
	socket->netns = key.netns;
	socket->since = bpf_ktime_get_ns();
	__builtin_memcpy(socket->redirect, key.ip, sizeof key.ip);
	tell_owner(sk, socket);
	__builtin_memcpy(address->ip, key.ip, sizeof key.ip);
	address->port = bpf_htons(port);
	set_address(ctx, v6, address);
	return ALLOW;
}

// --- sockets that are tied to an interface ---------------------------------------------------------------------
// What is sent by an interface that a program has chosen does not come to the loopback address. It does come
// to an address that this host has on that interface, and so does the answer; what leads there is in the
// kernel's own structures (no helper tells it, of UDP over IPv4 not even where the socket is).
enum moment { CONNECTING, SENDING };

// What says how the datagram is to be sent, which the program may have done with it (IP_PKTINFO).
static __always_inline __u32 tie_of_datagram(struct bpf_sock_addr *ctx, __u8 family)
{
	void *source = BPF_CORE_READ(kernels_own(ctx), t_ctx);
	if (family == WEIR_AF_INET)
		return (__u32)BPF_CORE_READ(container_of(source, struct ipcm_cookie, addr), oif);
	return (__u32)BPF_CORE_READ(container_of(source, struct flowi6, saddr), __fl_common.flowic_oif);
}

// The interface by which the kernel would send it whatever the routes say; 0: that is for them.
static __always_inline __u32 tie_of(struct bpf_sock_addr *ctx, enum moment moment, __u8 family)
{
	struct bpf_sock *sk = ctx->sk;
	struct inet_sock *socket = (struct inet_sock *)BPF_CORE_READ(kernels_own(ctx), sk);
	__u32 interface = sk ? sk->bound_dev_if : 0;
	if (moment == SENDING)
		interface = tie_of_datagram(ctx, family);
	if (family == WEIR_AF_INET)
		return interface ? interface : (__u32)BPF_CORE_READ(socket, uc_index);
	if (!interface)
		interface = (__u32)BPF_CORE_READ(socket, pinet6, sticky_pktinfo.ipi6_ifindex);
	return interface ? interface : (__u32)BPF_CORE_READ(socket, pinet6, ucast_oif);
}

// The address of this host from which it comes. 0: the kernel is to choose it.
static __always_inline int source_of(struct bpf_sock_addr *ctx, enum moment moment,
				     struct weir_address *ret_source)
{
	struct bpf_sock *sk = ctx->sk;
	void *source = moment == SENDING ? BPF_CORE_READ(kernels_own(ctx), t_ctx) : 0;
	if (source)
		bpf_probe_read_kernel(ret_source->ip, ret_source->family == WEIR_AF_INET ? 4 : 16, source);
	else if (sk && ret_source->family == WEIR_AF_INET)
		ret_source->ip[0] = sk->src_ip4;
	else if (sk)
		for (int i = 0; i < 4; i++)
			ret_source->ip[i] = sk->src_ip6[i];
	return ret_source->ip[0] || ret_source->ip[1] || ret_source->ip[2] || ret_source->ip[3];
}

// Whether the kernel brings what goes to that address of this host only if it is one of the interface's. Of
// IPv6 it insists if the socket is bound to it (SO_BINDTODEVICE), or the address means something on one link
// alone.
static __always_inline int is_strict(struct bpf_sock_addr *ctx, const struct weir_address *address)
{
	struct bpf_sock *sk = ctx->sk;
	struct weir_number ip = number_of(address);
	return address->family == WEIR_AF_INET || (sk && sk->bound_dev_if) || ip.high >> 54 == 0xfe80 >> 6 ||
	       weir_is_loopback(WEIR_AF_INET6, &ip);
}

// The address to ask instead, which is the source's own so that the proxy knows whose it is. 0: none that
// would not leave this host.
static __always_inline int own_address(struct bpf_sock_addr *ctx, enum moment moment,
				       const struct weir_address *server, __u32 interface,
				       struct weir_address *ret_address)
{
	__u64 net = net_of(ctx);
	ret_address->family = server->family;
	if (source_of(ctx, moment, ret_address))
		return weir_is_own(net, is_strict(ctx, ret_address) ? interface : 0, ret_address);
	struct weir_sender sender = sender_of(ctx, server->family, 1);
	if (weir_source(net, server, &sender, ret_address) && weir_is_own(net, interface, ret_address))
		return 1;
	return weir_source_on(net, interface, server, sender.preferences, ret_address);
}

// --- DNS -----------------------------------------------------------------------------------------------------
// The number of the server among those of the socket.
static __always_inline __u32 server_number(struct weir_servers *servers, const struct weir_address *server)
{
	for (__u32 i = 0; i < WEIR_SERVERS_MAX; i++) {
		if (weir_same_address(&servers->servers[i], server))
			return i;
		if (!servers->servers[i].family) {
			servers->servers[i] = *server;
			return i;
		}
	}
	__u32 place = servers->next++ % WEIR_SERVERS_MAX;
	servers->servers[place] = *server;
	servers->since[place] = 0;
	return place;
}

static __always_inline int redirect_udp(struct bpf_sock_addr *ctx, int v6, enum moment moment,
					const struct weir_address *address, __u16 port)
{
	struct weir_address instead = {0};
	struct bpf_sock *sk = ctx->sk;
	struct weir_servers *servers =
	    sk ? bpf_sk_storage_get(&weir_servers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!servers) {
		bpf_set_retval(-ENOMEM);
		return REFUSE;
	}
	__u32 number = server_number(servers, address), interface = tie_of(ctx, moment, address->family);
	if (!interface || interface == LOOPBACK_INDEX) {
		instead = weir_stand_in(address->family, number, port);
	} else if (own_address(ctx, moment, address, interface, &instead)) {
		instead.port = bpf_htons(port);
		servers->tied = number;
		servers->own = instead;
	} else {
		bpf_set_retval(-ENETUNREACH);
		return REFUSE;
	}
	set_address(ctx, v6, &instead);
	return ALLOW;
}

// --- in a client's name --------------------------------------------------------------------------------------
// The address that stands for a client: always the same, so that the kernel gives each of its connections
// another port. (If it stands for another client as well, they share the ports.)
static __always_inline struct weir_address name_of(const struct weir_address *client)
{
	struct weir_address name = {.port = client->port, .family = client->family};
	__u32 hash = 0;
	for (int i = 0; i < 4; i++)
		hash = (hash ^ client->ip[i]) * 0x9e3779b1u;
	hash ^= hash >> 15;
	weir_redirect(client->family, hash, name.ip);
	return name;
}

// Whether the socket is the proxy's and marked for that.
static __always_inline int is_call(struct bpf_sock *sk, void *plan)
{
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	return header && sk && header->header.client_mark &&
	       (sk->mark & header->header.mark_mask) == header->header.client_mark;
}

static __always_inline int on_bind(struct bpf_sock_addr *ctx, int v6)
{
	struct bpf_sock *sk = ctx->sk;
	void *plan = ctx->protocol == WEIR_TCP ? plan_of(ctx) : 0;
	if (!sk || !is_call(sk, plan))
		return ALLOW;
	struct weir_caller *caller = bpf_sk_storage_get(&weir_callers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!caller) {
		bpf_set_retval(-ENOMEM);
		return REFUSE;
	}
	caller->client = address_of(ctx, v6);
	struct weir_address name = name_of(&caller->client);
	set_address(ctx, v6, &name);
	return ALLOW;
}

// --- hooks ---------------------------------------------------------------------------------------------------
// By the interface that a program has chosen (SO_BINDTODEVICE), the proxy cannot be reached: its answers come
// by another one. It is better to say so than to send what nobody answers.
static __always_inline int is_bound_elsewhere(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	return sk && sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_INDEX;
}

// A socket that connects anew has no past.
static __always_inline void forget(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct weir_socket *socket = sk ? bpf_sk_storage_get(&weir_sockets, sk, 0, 0) : 0;
	struct mptcp_sock *owner = sk ? owner_of(sk) : 0;
	if (owner)
		bpf_sk_storage_delete(&weir_sockets, owner);
	if (!socket)
		return;
	weir_pending_withdraw(bpf_get_netns_cookie(ctx), socket);
	bpf_sk_storage_delete(&weir_sockets, sk);
}

// Whether it is an answer, of the proxy or another server, which goes to port 53 if the question came from there.
static __always_inline int is_answer(struct bpf_sock_addr *ctx, void *plan, const struct weir_address *address)
{
	struct bpf_sock *sk = ctx->sk;
	union weir_cell *header = weir_cell_at(plan, WEIR_CELL_HEADER);
	if (!sk || !header)
		return 0;
	if (sk->src_port == header->header.ports[WEIR_ROLE_DNS])
		return 1;
	if (sk->src_port != WEIR_DNS_PORT)
		return 0;
	struct weir_servers *servers = bpf_sk_storage_get(&weir_servers, sk, 0, 0);
	return servers && weir_has_asker(servers, address);
}

static __always_inline int on_open(struct bpf_sock_addr *ctx, int v6, enum moment moment)
{
	int tcp = ctx->protocol == WEIR_TCP;
	if (!tcp && (ctx->protocol != WEIR_UDP || ctx->user_port != bpf_htons(WEIR_DNS_PORT)))
		return ALLOW;
	if (tcp)
		forget(ctx);
	void *plan = plan_of(ctx);
	if (!plan)
		return ALLOW;
	struct weir_address address = address_of(ctx, v6);
	if (is_of_many(&address) || (!tcp && is_answer(ctx, plan, &address)))
		return ALLOW;
	__u32 route;
	__u16 port = decide(ctx, &address, &route);
	if (!port || fails_open(ctx, plan, address.family, port))
		return ALLOW;
	if (!tcp)
		return redirect_udp(ctx, v6, moment, &address, port);
	int err = is_bound_elsewhere(ctx) ? -ENETUNREACH : refusal(route);
	if (err) {
		bpf_set_retval(err);
		return REFUSE;
	}
	return redirect_tcp(ctx, v6, plan, &address, port);
}

SEC("cgroup/connect4")
int weir_connect4(struct bpf_sock_addr *ctx)
{
	return on_open(ctx, 0, CONNECTING);
}

SEC("cgroup/connect6")
int weir_connect6(struct bpf_sock_addr *ctx)
{
	return on_open(ctx, 1, CONNECTING);
}

SEC("cgroup/sendmsg4")
int weir_sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_open(ctx, 0, SENDING);
}

SEC("cgroup/sendmsg6")
int weir_sendmsg6(struct bpf_sock_addr *ctx)
{
	return on_open(ctx, 1, SENDING);
}

SEC("cgroup/bind4")
int weir_bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx, 0);
}

SEC("cgroup/bind6")
int weir_bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx, 1);
}

char _license[] SEC("license") = "Dual BSD/GPL";
