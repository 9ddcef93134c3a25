// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What programs are told of their sockets' addresses, by cgroup hooks on recvfrom(), getpeername() and
// getsockname(). Of what is captured (outbound.bpf.c) they hear what they would hear if it was not: the peer is the one
// that they asked for, and their own address is the one from which the kernel would have gone there. The proxy calls
// applications in clients' names, of whom they hear.
#include "bpf/plan.bpf.h"
#include "bpf/servers.bpf.h"
#include "bpf/sock_addr.bpf.h"
#include "bpf/source.bpf.h"

// The server for which an address stands among those of the socket, or 0.
static __always_inline const struct weir_address *server_of(struct bpf_sock_addr *ctx,
							    const struct weir_address *stands)
{
	struct bpf_sock *sk = ctx->sk;
	struct weir_servers *servers = sk ? bpf_sk_storage_get(&weir_servers, sk, 0, 0) : 0;
	void *plan = servers ? plan_of(ctx) : 0;
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	if (!header || stands->port != bpf_htons(header->header.ports[WEIR_ROLE_DNS]))
		return 0;
	__u32 number = weir_server_at(servers, stands);
	return number < WEIR_SERVERS_MAX ? &servers->servers[number] : 0;
}

static __always_inline struct weir_socket *socket_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	return sk ? bpf_sk_storage_get(&weir_sockets, sk, 0, 0) : 0;
}

// Keeps the port: only the address is another one.
static __always_inline void set_ip(struct bpf_sock_addr *ctx, int v6, const struct weir_address *ip)
{
	struct weir_address address = *ip;
	if (!address.family)
		return;
	address.port = (__u16)ctx->user_port;
	set_address(ctx, v6, &address);
}

// --- the peer ------------------------------------------------------------------------------------------------
static __always_inline int restore_server(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_address from = address_of(ctx, v6);
	const struct weir_address *server = server_of(ctx, &from);
	if (server)
		set_address(ctx, v6, server);
	return ALLOW;
}

// A server's own socket is asked from the port to which queries go.
static __always_inline void note_asker(struct bpf_sock_addr *ctx, const struct weir_address *asker)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk || sk->src_port != WEIR_DNS_PORT || asker->port != bpf_htons(WEIR_DNS_PORT) || !plan_of(ctx))
		return;
	struct weir_servers *servers = bpf_sk_storage_get(&weir_servers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (servers && !weir_has_asker(servers, asker))
		servers->askers[servers->next_asker++ % WEIR_ASKERS_MAX] = *asker;
}

static __always_inline int on_receive(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_address from = address_of(ctx, v6);
	const struct weir_address *server = server_of(ctx, &from);
	if (server)
		set_address(ctx, v6, server);
	else
		note_asker(ctx, &from);
	return ALLOW;
}

static __always_inline int on_peer_name(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_socket *socket = socket_of(ctx);
	if (!socket)
		return restore_server(ctx, v6);
	if (socket->side == WEIR_SIDE_ACCEPTED)
		set_ip(ctx, v6, &socket->source);
	else
		set_address(ctx, v6, &socket->original);
	return ALLOW;
}

// --- its own -------------------------------------------------------------------------------------------------
// Where the socket is connected to.
static __always_inline struct weir_address connected_to(struct bpf_sock_addr *ctx, int v6)
{
	const struct sock *sk = BPF_CORE_READ(kernels_own(ctx), sk);
	struct weir_address peer = {.family = WEIR_AF_INET};
	peer.port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (!v6) {
		peer.ip[0] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		return peer;
	}
	BPF_CORE_READ_INTO(&peer.ip, sk, __sk_common.skc_v6_daddr);
	if (!weir_unmap(peer.ip))
		peer.family = WEIR_AF_INET6;
	return peer;
}

// Of a socket that asks a DNS server.
static __always_inline void set_source_of_queries(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_address peer = connected_to(ctx, v6), to, source = {0};
	const struct weir_address *server = server_of(ctx, &peer);
	if (!server)
		return;
	to = *server;
	struct weir_sender sender = sender_of(ctx, to.family, 0);
	weir_source(net_of(ctx), &to, &sender, &source);
	set_ip(ctx, v6, &source);
}

// If the program has given it none, the kernel has taken the loopback address, since the proxy is there.
static __always_inline int on_own_name(struct bpf_sock_addr *ctx, int v6)
{
	struct weir_address own = address_of(ctx, v6);
	struct weir_socket *socket = socket_of(ctx);
	if (!weir_address_is_loopback(&own) || has_address(ctx))
		return ALLOW;
	if (!socket)
		set_source_of_queries(ctx, v6);
	else if (socket->side == WEIR_SIDE_CLIENT)
		set_ip(ctx, v6, &socket->source);
	return ALLOW;
}

// --- hooks ---------------------------------------------------------------------------------------------------
SEC("cgroup/recvmsg4")
int weir_recvmsg4(struct bpf_sock_addr *ctx)
{
	return on_receive(ctx, 0);
}

SEC("cgroup/recvmsg6")
int weir_recvmsg6(struct bpf_sock_addr *ctx)
{
	return on_receive(ctx, 1);
}

SEC("cgroup/getpeername4")
int weir_getpeername4(struct bpf_sock_addr *ctx)
{
	return on_peer_name(ctx, 0);
}

SEC("cgroup/getpeername6")
int weir_getpeername6(struct bpf_sock_addr *ctx)
{
	return on_peer_name(ctx, 1);
}

SEC("cgroup/getsockname4")
int weir_getsockname4(struct bpf_sock_addr *ctx)
{
	return on_own_name(ctx, 0);
}

SEC("cgroup/getsockname6")
int weir_getsockname6(struct bpf_sock_addr *ctx)
{
	return on_own_name(ctx, 1);
}

char _license[] SEC("license") = "Dual BSD/GPL";
