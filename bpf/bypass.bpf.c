// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The local bypass: what the two ends of a TCP connection within one host send each other is put straight into the
// other end's queue. Only connections of one network namespace of which the proxy has an end: those to its listeners,
// and its own (by their mark) to applications. Both ends are in a map of sockets; the kernel takes a socket out when
// it is closed.
//
// The kernel gives what was bypassed to a reader before what came by TCP. So a direction is bypassed from its first
// byte or never, and once it has gone over to TCP it stays there. That no byte has gone by TCP is checked on every
// message: then what the sender has written and what the receiver has read are the same sequence number, of 32 random
// bits, which proves the pair, too.
//
// Only sockets that do not block: of a socket in the map, the kernel's recv() answers a reader that it made wait with
// EAGAIN when there is a reset, a signal, or room to write. An application whose socket blocks when it sends its first
// message is told to the proxy, which takes both ends out again (bypass_leave() in net/bypass.c).
//
// Going over has a catch: a reader that gets less than it asked for takes the socket for empty, though more may have
// come by TCP meanwhile, with the same edge-triggered event. So towards an application the proxy goes over when all
// has been read; until then its message is refused (EPIPE), and it tries again (net/stream.c). An application cannot
// be made to wait: towards the proxy a count tells readers that this may have happened (net/bypass.h).
//
// Where the proxy only passes on what an application sends, it joins that direction: then messages go straight out of
// the proxy's other socket, the outlet, whenever nothing is under way through the proxy and there is room; else they
// come to it as ever.
#include "bpf/bypass.h"
#include "bpf/tcp.bpf.h"

#include <linux/in.h>

#include <bpf/bpf_endian.h>

enum { AF_INET4 = 2, AF_INET6 = 10, MARK_OUTBOUND = 0x771, MARK_INBOUND = 0x772, MARK_MASK = 0xfff };
enum { O_NONBLOCK = 04000 }; // as the kernel stores it

enum sock_flags { SOCK_ZEROCOPY = 1 }; // the value comes from the running kernel

// --- maps ----------------------------------------------------------------------------------------------------
const volatile __u64 weir_netns;	 // whose connections
__u16 weir_ports[BYPASS_PORTS]; // the proxy's listeners; 0: none
__u32 weir_turns;    // how often a direction towards the proxy has gone over to TCP
__u32 weir_refusals; // how often a message of the proxy was refused

struct meeting_key {
	__u32 ip[4]; // of the end that opens the connection; IPv4 in the first
	__u32 port;
};

enum proxy_end { OPENS = 1, ACCEPTS = 2 }; // what the proxy does, perhaps both

// The ends find each other here.
struct meeting {
	__u64 opener, acceptor; // where their struct tcp_sock is
	__u64 opener_cookie, acceptor_cookie;
	__u32 local; // the SYN has come to a listener of this namespace
	__u32 proxy; // enum proxy_end
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BYPASS_MEETINGS_MAX);
	__type(key, struct meeting_key);
	__type(value, struct meeting);
} weir_meetings SEC(".maps");

// By their cookies: a number that no other socket ever has.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, BYPASS_SOCKETS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} weir_bypassed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weir_end);
} weir_ends SEC(".maps");

// The proxy's ends, by cookie, of applications that block.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BYPASS_LEAVING_MAX);
	__type(key, __u64);
	__type(value, __u32);
} weir_leaving SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BYPASS_OUTLETS_MAX);
	__type(key, __u64);
	__type(value, struct weir_join);
} weir_joins SEC(".maps");

// By their cookies, too. No program is attached to it, so that a socket in it is read and written as any other.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, BYPASS_OUTLETS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} weir_outlets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_bypass_counts);
} weir_counts SEC(".maps");

static __always_inline struct weir_bypass_counts *counts(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&weir_counts, &zero);
}

// --- meeting -------------------------------------------------------------------------------------------------
static __always_inline struct meeting_key make_key(__u32 family, __u32 ip4, __u32 a, __u32 b, __u32 c, __u32 d,
						   __u32 port)
{
	struct meeting_key key = {.port = port};
	if (family == AF_INET4) {
		key.ip[0] = ip4;
	} else if (!a && !b && c == bpf_htonl(0xffff)) {
		key.ip[0] = d;
	} else {
		key.ip[0] = a;
		key.ip[1] = b;
		key.ip[2] = c;
		key.ip[3] = d;
	}
	return key;
}

static __always_inline struct meeting_key local_key(struct bpf_sock_ops *ctx)
{
	return make_key(ctx->family, ctx->local_ip4, ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
			ctx->local_ip6[3], ctx->local_port);
}

static __always_inline struct meeting_key remote_key(struct bpf_sock_ops *ctx)
{
	return make_key(ctx->family, ctx->remote_ip4, ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
			ctx->remote_ip6[3], bpf_ntohl(ctx->remote_port));
}

static __always_inline int is_proxy_port(__u32 port)
{
	return port && (port == weir_ports[BYPASS_OUTBOUND] || port == weir_ports[BYPASS_INBOUND] ||
			port == weir_ports[BYPASS_TEST]);
}

static __always_inline int is_proxy(const struct bpf_sock *sk)
{
	__u32 mark = sk->mark & MARK_MASK;
	return mark == MARK_OUTBOUND || mark == MARK_INBOUND;
}

// 0: it blocks, or is not an application's (nobody has accepted it; it is the kernel's own).
static __always_inline int is_nonblocking(struct tcp_sock *tcp)
{
	struct file *file = BPF_CORE_READ(tcp, inet_conn.icsk_inet.sk.sk_socket, file);
	return file && BPF_CORE_READ(file, f_flags) & O_NONBLOCK;
}

static __always_inline int is_blocking(struct tcp_sock *tcp)
{
	struct file *file = BPF_CORE_READ(tcp, inet_conn.icsk_inet.sk.sk_socket, file);
	return file && !(BPF_CORE_READ(file, f_flags) & O_NONBLOCK);
}

// A control group of version 1 has a limit to the memory of its TCP. Of a socket in the map the kernel asks for the memory
// of a whole message before anything of it is sent; TCP itself always goes on with a little.
static __always_inline int is_rationed(struct tcp_sock *tcp)
{
	return bpf_core_field_exists(struct sock, sk_memcg) && bpf_core_field_exists(struct mem_cgroup, tcpmem_active) &&
	       BPF_CORE_READ(tcp, inet_conn.icsk_inet.sk.sk_memcg, tcpmem_active);
}

// The proxy is about to connect to a place where a socket waits for it that does not block: then those that it accepts
// will hardly do, either.
static __always_inline int dial(struct bpf_sock_addr *ctx, struct bpf_sock_tuple *tuple, __u32 len)
{
	struct bpf_sock *sk = ctx->sk, *listener;
	if (!sk || ctx->protocol != IPPROTO_TCP || bpf_get_netns_cookie(ctx) != weir_netns || !is_proxy(sk))
		return 1;
	listener = bpf_sk_lookup_tcp(ctx, tuple, len, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return 1;
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(listener);
	int good = tcp && is_nonblocking(tcp) && !is_rationed(tcp);
	bpf_sk_release(listener);
	struct weir_end *end = good ? bpf_sk_storage_get(&weir_ends, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (end)
		end->dials = 1;
	return 1;
}

SEC("cgroup/connect4")
int weir_dial4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_tuple tuple = {0};
	tuple.ipv4.saddr = tuple.ipv4.daddr = ctx->user_ip4;
	tuple.ipv4.dport = (__u16)ctx->user_port;
	return dial(ctx, &tuple, sizeof tuple.ipv4);
}

SEC("cgroup/connect6")
int weir_dial6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_tuple tuple = {0};
	tuple.ipv6.saddr[0] = tuple.ipv6.daddr[0] = ctx->user_ip6[0];
	tuple.ipv6.saddr[1] = tuple.ipv6.daddr[1] = ctx->user_ip6[1];
	tuple.ipv6.saddr[2] = tuple.ipv6.daddr[2] = ctx->user_ip6[2];
	tuple.ipv6.saddr[3] = tuple.ipv6.daddr[3] = ctx->user_ip6[3];
	tuple.ipv6.dport = (__u16)ctx->user_port;
	return dial(ctx, &tuple, sizeof tuple.ipv6);
}

// The proxy has dialled.
static __always_inline void on_open(struct bpf_sock_ops *ctx)
{
	struct meeting meeting = {.proxy = OPENS};
	struct bpf_sock *sk = ctx->sk;
	struct weir_end *end = sk ? bpf_sk_storage_get(&weir_ends, sk, 0, 0) : 0;
	if (!end || !end->dials)
		return;
	struct meeting_key key = local_key(ctx);
	bpf_map_update_elem(&weir_meetings, &key, &meeting, BPF_ANY);
}

// A SYN has come, to the proxy or to somebody else.
static __always_inline void on_syn(struct bpf_sock_ops *ctx)
{
	struct meeting fresh = {.local = 1, .proxy = ACCEPTS};
	struct meeting_key key = remote_key(ctx);
	struct meeting *meeting = bpf_map_lookup_elem(&weir_meetings, &key);
	int to_proxy = is_proxy_port(ctx->local_port);
	if (meeting && !meeting->opener && meeting->proxy == OPENS) {
		meeting->local = 1;
		meeting->proxy = to_proxy ? OPENS | ACCEPTS : OPENS;
	} else if (to_proxy) {
		bpf_map_update_elem(&weir_meetings, &key, &fresh, BPF_ANY);
	}
}

// The sequence number of the first byte that a socket sends, of which nothing or something was acknowledged. (bytes_acked
// has the SYN of one that opened the connection, and nothing in the other, which cannot have sent anything yet.)
static __always_inline __u32 first_of(struct tcp_sock *tcp)
{
	return tcp->bytes_acked ? tcp->snd_una - (__u32)tcp->bytes_acked + 1 : tcp->write_seq;
}

// Puts this end into the map. Its struct tcp_sock, or NULL: not this one: it blocks, its memory is rationed, or there is a
// protocol above TCP in the kernel, such as MPTCP or kTLS, which would be passed by.
static __always_inline struct tcp_sock *join(struct bpf_sock_ops *ctx, __u64 *cookie, const struct weir_end *start)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	if (!tcp || tcp->inet_conn.icsk_ulp_ops || is_blocking(tcp) || is_rationed(tcp))
		return 0;
	struct weir_end *end = bpf_sk_storage_get(&weir_ends, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!end)
		return 0;
	*end = *start;
	end->first = first_of(tcp);
	return bpf_sock_hash_update(ctx, &weir_bypassed, cookie, BPF_NOEXIST) ? 0 : tcp;
}

// A socket of the proxy towards another host: what an application sends may once go out of it.
static __always_inline void note_outlet(struct bpf_sock *sk)
{
	struct weir_end start = {.state = WEIR_BY_TCP};
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct weir_end *end = tcp ? bpf_sk_storage_get(&weir_ends, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (!end)
		return;
	start.self = (__u64)tcp;
	start.first = first_of(tcp);
	*end = start;
}

static __always_inline void on_opened(struct bpf_sock_ops *ctx)
{
	struct weir_end start = {.state = WEIR_MEETING};
	struct meeting_key key = local_key(ctx);
	struct meeting *meeting = bpf_map_lookup_elem(&weir_meetings, &key);
	struct bpf_sock *sk = ctx->sk;
	if (!meeting || !meeting->local || meeting->opener) {
		if (sk && is_proxy(sk))
			note_outlet(sk);
		return;
	}
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct tcp_sock *tcp = join(ctx, &cookie, &start);
	if (!tcp)
		return;
	meeting->opener_cookie = cookie;
	meeting->opener = (__u64)tcp;
}

static __always_inline void on_accepted(struct bpf_sock_ops *ctx)
{
	struct meeting_key key = remote_key(ctx);
	struct meeting *meeting = bpf_map_lookup_elem(&weir_meetings, &key);
	struct bpf_sock *sk = ctx->sk;
	if (!meeting || !meeting->opener || meeting->acceptor) {
		if (sk && is_proxy_port(ctx->local_port))
			note_outlet(sk);
		return;
	}
	struct weir_end start = {.state = WEIR_BYPASSING,
			    .peer = meeting->opener,
			    .peer_cookie = meeting->opener_cookie,
			    .to_proxy = meeting->proxy & OPENS};
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct tcp_sock *tcp = join(ctx, &cookie, &start);
	if (!tcp)
		return;
	meeting->acceptor_cookie = cookie;
	meeting->acceptor = (__u64)tcp;
	struct weir_bypass_counts *count = counts();
	if (count)
		count->connections++;
}

SEC("sockops")
int weir_meet(struct bpf_sock_ops *ctx)
{
	if (bpf_get_netns_cookie(ctx) != weir_netns)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_open(ctx);
		break;
	case BPF_SOCK_OPS_TIMEOUT_INIT:
		if (!ctx->is_fullsock)
			on_syn(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_opened(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ctx);
		break;
	}
	return 1;
}

// --- messages ------------------------------------------------------------------------------------------------
// The opener's first message: who has accepted? 0: nobody who is known.
static __always_inline int find_acceptor(struct sk_msg_md *msg, __u64 own, struct weir_end *end)
{
	struct meeting_key key = make_key(msg->family, msg->local_ip4, msg->local_ip6[0], msg->local_ip6[1],
					  msg->local_ip6[2], msg->local_ip6[3], msg->local_port);
	struct meeting *meeting = bpf_map_lookup_elem(&weir_meetings, &key);
	end->state = WEIR_BY_TCP;
	if (!meeting || meeting->opener != own || !meeting->acceptor)
		return 0;
	end->peer = meeting->acceptor;
	end->peer_cookie = meeting->acceptor_cookie;
	end->to_proxy = meeting->proxy & ACCEPTS;
	end->state = WEIR_BYPASSING;
	bpf_map_delete_elem(&weir_meetings, &key);
	return 1;
}

// Whether this end can send and does nothing that only TCP can do.
static __always_inline int may_send(struct bpf_sock *sk, struct tcp_sock *own)
{
	if (sk->state != ESTABLISHED && sk->state != CLOSE_WAIT)
		return 0;
	if (own->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY) & 1)
		return 0;
	return !own->inet_conn.icsk_ulp_ops;
}

// Looks at the other end. It may be gone, and its memory be somebody else's: then we read nonsense, decide anything,
// and do not find it in the map.
static __always_inline __u32 waiting_of(struct tcp_sock *peer)
{
	return (__u32)BPF_CORE_READ(peer, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter);
}

static __always_inline int may_receive(struct tcp_sock *own, struct tcp_sock *peer, __u32 size, int to_proxy)
{
	if (BPF_CORE_READ(peer, copied_seq) != own->write_seq || BPF_CORE_READ(peer, inet_conn.icsk_ulp_ops))
		return 0;
	if (BPF_CORE_READ(peer, inet_conn.icsk_inet.sk.sk_rcvlowat) > 1)
		return 0;
	if (!to_proxy && is_blocking(peer))
		return 0;
	__u32 filled = waiting_of(peer) + size;
	return filled <= (__u32)BPF_CORE_READ(peer, inet_conn.icsk_inet.sk.sk_rcvbuf) / 2 && filled <= BYPASS_QUEUE_MAX;
}

// The first message of an application whose socket blocks: what it sends stays with TCP, and the proxy, which hears of the
// message, is to take both ends out. That its sequence number is the one which the proxy's end waits for proves the pair.
static __always_inline int leave(struct tcp_sock *own, struct weir_end *end)
{
	if (!end->to_proxy || end->proven || !is_blocking(own))
		return 0;
	struct tcp_sock *peer = (void *)end->peer;
	__u64 cookie = end->peer_cookie;
	__u32 one = 1;
	if (BPF_CORE_READ(peer, copied_seq) == own->write_seq)
		bpf_map_update_elem(&weir_leaving, &cookie, &one, BPF_ANY);
	return 1;
}

static __always_inline int redirect(struct sk_msg_md *msg, struct weir_end *end)
{
	return bpf_msg_redirect_hash(msg, &weir_bypassed, &end->peer_cookie, BPF_F_INGRESS) == SK_PASS;
}

static __always_inline int send_bypassed(struct sk_msg_md *msg, struct tcp_sock *own, struct weir_end *end,
					 struct weir_bypass_counts *count)
{
	__u32 size = msg->size;
	if (leave(own, end) || !may_receive(own, (void *)end->peer, size, end->to_proxy != 0) || !redirect(msg, end))
		return 0;
	end->bypassed += size;
	end->proven = 1;
	count->messages++;
	count->bytes += size;
	return 1;
}

// --- directions that are joined --------------------------------------------------------------------------------
// What this end has sent to the proxy, by TCP and past it, the proxy has written to the outlet to the last byte. Both
// are counted from the first byte of their connections; `offset` takes from them what each was when the proxy joined them
// (it had nothing under way then), and `bytes` what it has never seen. The second count can only follow the first, so
// they are the same when, and only when, nothing is under way: also not a message that another thread has sent, which
// is counted before it gets there.
static __always_inline int nothing_under_way(struct tcp_sock *own, struct tcp_sock *outlet, const struct weir_end *end,
					     const struct weir_join *join)
{
	__u32 sent = own->write_seq - end->first + end->bypassed + join->offset;
	return sent == BPF_CORE_READ(outlet, write_seq) - (__u32)join->bytes;
}

// The message goes straight out of the proxy's other socket, if it can. That a message was bypassed before has proved the
// pair. The outlet may be gone as a peer may: then it is not in its map.
static __always_inline int send_joined(struct sk_msg_md *msg, struct tcp_sock *own, const struct weir_end *end,
				       struct weir_bypass_counts *count)
{
	__u64 peer = end->peer_cookie;
	struct weir_join *join = end->to_proxy && end->proven ? bpf_map_lookup_elem(&weir_joins, &peer) : 0;
	if (!join)
		return 0;
	// First: should the join be parted now and its memory be another one's, the sums do not match, or the cookie is of
	// the outlet that they were of.
	__u64 cookie = *(volatile __u64 *)&join->outlet_cookie;
	struct tcp_sock *outlet = (void *)join->outlet;
	if (!nothing_under_way(own, outlet, end, join) || !is_open(outlet) || !has_room(outlet, msg->size))
		return 0;
	if (bpf_msg_redirect_hash(msg, &weir_outlets, &cookie, 0) != SK_PASS)
		return 0;
	join->messages++;
	join->bytes += msg->size;
	count->joined_messages++;
	count->joined_bytes += msg->size;
	return 1;
}

// The message goes to a socket that can send nothing, so that sending it fails. (SK_DROP would do, if the kernel did
// not drop all that follows, too.)
static __always_inline void refuse(struct sk_msg_md *msg)
{
	__u64 key = BYPASS_DEAD_END;
	__sync_fetch_and_add(&weir_refusals, 1);
	bpf_msg_redirect_hash(msg, &weir_bypassed, &key, 0);
}

// The direction goes over to TCP, or, if it cannot yet, the message is refused. Redirected first, to see that the other
// end is there at all. (What waits at an end that is not proven may be another connection's, for ever.)
static __always_inline void go_over(struct sk_msg_md *msg, struct weir_end *end, struct weir_bypass_counts *count)
{
	int waits = end->proven && waiting_of((void *)end->peer) != 0;
	if (waits && !end->to_proxy && redirect(msg, end)) {
		refuse(msg);
		return;
	}
	if (end->to_proxy)
		__sync_fetch_and_add(&weir_turns, 1);
	end->state = WEIR_BY_TCP;
	count->fallbacks++;
}

SEC("sk_msg")
int weir_bypass(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct weir_end *end = sk ? bpf_sk_storage_get(&weir_ends, sk, 0, 0) : 0;
	if (!end || (end->state == WEIR_BY_TCP && !end->to_proxy))
		return SK_PASS;
	struct tcp_sock *own = bpf_skc_to_tcp_sock(sk);
	struct weir_bypass_counts *count = counts();
	if (!own || !count)
		return SK_PASS;
	if (end->state == WEIR_MEETING && !find_acceptor(msg, (__u64)own, end))
		count->fallbacks++;
	int sends = may_send(sk, own);
	if (sends && send_joined(msg, own, end, count))
		return SK_PASS;
	if (end->state == WEIR_BY_TCP)
		return SK_PASS;
	if (sends && send_bypassed(msg, own, end, count))
		return SK_PASS;
	go_over(msg, end, count);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
