// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What happens to connections after connect(): the proxy's listeners are remembered (so that lookup.bpf.c
// finds them), the original destination moves to the accepted socket, the proxy asks for it by getsockopt(),
// the client in whose name the proxy calls an application moves to that one's socket, and what a connection
// leaves that was never accepted is cleaned away.
#include "bpf/address.bpf.h"
#include "bpf/pending.bpf.h"
#include "bpf/plan.bpf.h"

#include <bpf/bpf_endian.h>

enum { SYN_SENT = 2, CLOSED = 7 };
enum { ALLOW = 1, ORIGINAL_DST = 80, SOL_IPV4 = 0, SOL_IPV6 = 41, OPTION_MAX = 4096 };

// --- listeners -----------------------------------------------------------------------------------------------
static __always_inline void remember_listener(struct bpf_sock_ops *ctx)
{
	struct weir_listener_key key = {
	    .netns = bpf_get_netns_cookie(ctx), .port = (__u16)ctx->local_port, .family = (__u8)ctx->family};
	void *plan = bpf_map_lookup_elem(&weir_plans, &key.netns);
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	if (!header)
		return;
	key.slot = bpf_get_socket_cookie(ctx) % WEIR_LISTENERS;
	for (int role = 0; role < WEIR_ROLES; role++) {
		if (header->header.ports[role] != key.port)
			continue;
		bpf_sock_hash_update(ctx, &weir_listeners, &key, BPF_ANY);
		return;
	}
}

// --- acceptance ----------------------------------------------------------------------------------------------
static __always_inline int redirect_key(struct bpf_sock_ops *ctx, struct weir_pending_key *key)
{
	if (ctx->family == WEIR_AF_INET) {
		key->ip[0] = ctx->local_ip4;
		return (bpf_ntohl(key->ip[0]) & WEIR_REDIRECT4_MASK) == WEIR_REDIRECT4;
	}
	key->ip[0] = ctx->local_ip6[0];
	key->ip[1] = ctx->local_ip6[1];
	key->ip[2] = ctx->local_ip6[2];
	key->ip[3] = ctx->local_ip6[3];
	return key->ip[0] == bpf_htonl(WEIR_REDIRECT6_0) && key->ip[1] == bpf_htonl(WEIR_REDIRECT6_1);
}

// It is on its way until the proxy has asked where it was going.
static __always_inline void take_original(struct bpf_sock_ops *ctx)
{
	struct weir_pending_key key = {0};
	struct bpf_sock *sk = ctx->sk;
	if (!redirect_key(ctx, &key))
		return;
	key.netns = bpf_get_netns_cookie(ctx);
	struct weir_pending *pending = bpf_map_lookup_elem(&weir_pending, &key);
	struct weir_socket *socket =
	    pending && sk ? bpf_sk_storage_get(&weir_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!socket)
		return;
	socket->original = pending->original;
	socket->source = pending->source;
	socket->side = WEIR_SIDE_ACCEPTED;
	socket->client = pending->client;
	__builtin_memcpy(socket->redirect, key.ip, sizeof key.ip);
}

// --- calls in a client's name --------------------------------------------------------------------------------
// The four ends of the socket's connection, its own address as that of the source.
static __always_inline struct weir_call_key ends_of(struct bpf_sock_ops *ctx)
{
	struct weir_call_key ends = {.netns = bpf_get_netns_cookie(ctx),
				     .source_port = (__u16)ctx->local_port,
				     .dest_port = (__u16)bpf_ntohl(ctx->remote_port),
				     .family = WEIR_AF_INET};
	if (ctx->family == WEIR_AF_INET) {
		ends.source[0] = ctx->local_ip4;
		ends.dest[0] = ctx->remote_ip4;
		return ends;
	}
	ends.source[0] = ctx->local_ip6[0];
	ends.source[1] = ctx->local_ip6[1];
	ends.source[2] = ctx->local_ip6[2];
	ends.source[3] = ctx->local_ip6[3];
	ends.dest[0] = ctx->remote_ip6[0];
	ends.dest[1] = ctx->remote_ip6[1];
	ends.dest[2] = ctx->remote_ip6[2];
	ends.dest[3] = ctx->remote_ip6[3];
	if (!weir_unmap(ends.dest) || !weir_unmap(ends.source))
		ends.family = WEIR_AF_INET6;
	return ends;
}

// The proxy connects: now the ends are known. A client on this very host, which has come by the outbound
// proxy, would have called from the address that it calls.
static __always_inline void announce(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct weir_caller *caller = sk ? bpf_sk_storage_get(&weir_callers, sk, 0, 0) : 0;
	if (!caller)
		return;
	caller->key = ends_of(ctx);
	if (weir_address_is_loopback(&caller->client))
		__builtin_memcpy(caller->client.ip, caller->key.dest, sizeof caller->key.dest);
	caller->client.port = bpf_htons(caller->key.source_port);
	struct weir_call call = {.client = caller->client, .caller = bpf_get_socket_cookie(ctx)};
	bpf_map_update_elem(&weir_calls, &caller->key, &call, BPF_ANY);
}

static __always_inline int is_name(const struct weir_call_key *ends)
{
	if (ends->family == WEIR_AF_INET)
		return (bpf_ntohl(ends->dest[0]) & WEIR_REDIRECT4_MASK) == WEIR_REDIRECT4;
	return ends->dest[0] == bpf_htonl(WEIR_REDIRECT6_0) && ends->dest[1] == bpf_htonl(WEIR_REDIRECT6_1);
}

// Whether the proxy of the namespace calls in clients' names.
static __always_inline int keeps_clients(__u64 netns)
{
	void *plan = bpf_map_lookup_elem(&weir_plans, &netns);
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	return header && header->header.client_mark;
}

// If it is not known any more, the application is told of nobody, rather than of its own host.
static __always_inline void take_client(struct bpf_sock_ops *ctx)
{
	struct weir_call_key ends = ends_of(ctx), key = ends;
	struct bpf_sock *sk = ctx->sk;
	if (!is_name(&ends) || !keeps_clients(ends.netns) || !sk)
		return;
	__builtin_memcpy(key.source, ends.dest, sizeof key.source);
	__builtin_memcpy(key.dest, ends.source, sizeof key.dest);
	key.source_port = ends.dest_port;
	key.dest_port = ends.source_port;
	struct weir_address nobody = {.family = (__u8)key.family, .port = bpf_htons(key.source_port)};
	struct weir_call *call = bpf_map_lookup_elem(&weir_calls, &key);
	struct weir_socket *socket = bpf_sk_storage_get(&weir_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		return;
	socket->original = call ? call->client : nobody;
	socket->side = WEIR_SIDE_SERVED;
	bpf_map_delete_elem(&weir_calls, &key);
}

// The proxy's socket is closed. One that was refused has given its port back before, and the next one with the same ends
// may have announced itself since.
static __always_inline void withdraw(struct bpf_sock *ctx)
{
	struct weir_caller *caller = bpf_sk_storage_get(&weir_callers, ctx, 0, 0);
	if (!caller || (ctx->state != SYN_SENT && ctx->state != CLOSED))
		return;
	struct weir_call *call = bpf_map_lookup_elem(&weir_calls, &caller->key);
	if (call && call->caller == bpf_get_socket_cookie(ctx))
		bpf_map_delete_elem(&weir_calls, &caller->key);
}

SEC("sockops")
int weir_stream(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
		remember_listener(ctx);
	} else if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		announce(ctx);
	} else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		take_original(ctx);
		take_client(ctx);
	}
	return 1;
}

// What was reserved for a connection that was not accepted, or of which the proxy has not asked.
SEC("cgroup/sock_release")
int weir_release(struct bpf_sock *ctx)
{
	struct weir_socket *socket = bpf_sk_storage_get(&weir_sockets, ctx, 0, 0);
	withdraw(ctx);
	if (socket && (socket->side == WEIR_SIDE_CLIENT || socket->side == WEIR_SIDE_ACCEPTED))
		weir_pending_withdraw(bpf_get_netns_cookie(ctx), socket);
	return ALLOW;
}

// --- the original destination --------------------------------------------------------------------------------
// Of a connection that came by lookup.bpf.c its own address is it.
static __always_inline int own_address(struct bpf_sockopt *ctx, struct weir_address *ret_address)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 netns = bpf_get_netns_cookie(ctx);
	void *plan = bpf_map_lookup_elem(&weir_plans, &netns);
	if (!plan || !sk || sk->protocol != WEIR_TCP)
		return 0;
	union weir_cell *header = weir_cell_at(plan, WEIR_CELL_HEADER);
	if (!header || !header->header.ports[WEIR_ROLE_INBOUND] ||
	    header->header.ports[WEIR_ROLE_INBOUND] == sk->src_port)
		return 0;
	ret_address->port = bpf_htons((__u16)sk->src_port);
	ret_address->family = (__u8)sk->family;
	if (sk->family == WEIR_AF_INET) {
		ret_address->ip[0] = sk->src_ip4;
		return 1;
	}
	ret_address->ip[0] = sk->src_ip6[0];
	ret_address->ip[1] = sk->src_ip6[1];
	ret_address->ip[2] = sk->src_ip6[2];
	ret_address->ip[3] = sk->src_ip6[3];
	return 1;
}

struct answer4 {
	__u16 family, port;
	__u32 ip;
	__u8 zero[8];
};

struct answer6 {
	__u16 family, port;
	__u32 flow, ip[4], scope;
};

// The kernel takes writes to its context one field at a time: they must not be joined.
static __always_inline void finish_answer(struct bpf_sockopt *ctx, __s32 len)
{
	ctx->optlen = len;
	barrier();
	ctx->retval = 0;
}

static __always_inline void answer(struct bpf_sockopt *ctx, const struct weir_address *address)
{
	struct answer4 *v4 = ctx->optval;
	struct answer6 *v6 = ctx->optval;
	if (address->family == WEIR_AF_INET && ctx->level == SOL_IPV4 &&
	    (void *)(v4 + 1) <= ctx->optval_end) {
		*v4 =
		    (struct answer4){.family = address->family, .port = address->port, .ip = address->ip[0]};
		finish_answer(ctx, sizeof *v4);
	}
	if (address->family == WEIR_AF_INET6 && ctx->level == SOL_IPV6 &&
	    (void *)(v6 + 1) <= ctx->optval_end) {
		*v6 = (struct answer6){.family = address->family, .port = address->port};
		__builtin_memcpy(v6->ip, address->ip, sizeof v6->ip);
		finish_answer(ctx, sizeof *v6);
	}
}

SEC("cgroup/getsockopt")
int weir_getsockopt(struct bpf_sockopt *ctx)
{
	struct weir_address own = {0};
	struct weir_socket *socket;
	struct bpf_sock *sk = ctx->sk;
	if (ctx->optlen > OPTION_MAX)
		ctx->optlen = 0; // what is longer than programs see passes unchanged
	if (ctx->optname != ORIGINAL_DST || (ctx->level != SOL_IPV4 && ctx->level != SOL_IPV6) || !sk)
		return ALLOW;
	socket = bpf_sk_storage_get(&weir_sockets, sk, 0, 0);
	if (socket && socket->side == WEIR_SIDE_ACCEPTED) {
		answer(ctx, &socket->original);
		weir_pending_withdraw(bpf_get_netns_cookie(ctx), socket);
	} else if (ctx->retval < 0 && own_address(ctx, &own)) {
		answer(ctx, &own);
	}
	return ALLOW;
}

char _license[] SEC("license") = "Dual BSD/GPL";
