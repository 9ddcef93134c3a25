// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Connections that wait for the proxy, by cgroup hooks on packets. A program cannot make anybody wait, but
// TCP does: an attempt without an answer is repeated. So while nobody listens, what opens a redirected
// connection is not sent; what opens an inbound one is not taken by the application, to which lookup.bpf.c
// leaves it for this; and that nobody answers queries is not told, as long as they may wait: since when they
// do is kept with the socket that asks. Attached only while a plan asks for it, since these hooks see every
// packet: most go by after a few comparisons.
#include "bpf/kernel.h"
#include "bpf/plan.bpf.h"
#include "bpf/servers.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

enum { DROP, PASS };
enum { SYN_SENT = 2, LISTEN = 10 };
enum { ETHERTYPE_IPV4 = 0x0800, IPV4_MIN = 20, IPV6_SIZE = 40, IPV6_NEXT = 6, IPV4_PROTOCOL = 9 };
enum { IPV4_SOURCE = 12, IPV4_DEST = 16, IPV6_SOURCE = 8, IPV6_DEST = 24 };
enum { ICMP4 = 1, ICMP4_UNREACHABLE = 3, ICMP4_PORT = 3, ICMP6 = 58, ICMP6_UNREACHABLE = 1, ICMP6_PORT = 4 };
enum { ICMP_SIZE = 8, TCP_SEQUENCE = 4, TCP_FLAGS = 13, TCP_SYN = 2 };

static __always_inline struct weir_unheard *unheard_here(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&weir_unheard, &zero);
}

static __always_inline int is_ipv4(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETHERTYPE_IPV4);
}

// Where the header of IP that begins at `offset` ends, if the protocol follows it; else 0.
static __always_inline __u32 end_of_ip(struct __sk_buff *skb, __u32 offset, __u8 protocol4, __u8 protocol6)
{
	__u8 head[IPV4_PROTOCOL + 1];
	if (bpf_skb_load_bytes(skb, offset, head, sizeof head))
		return 0;
	if (!is_ipv4(skb))
		return head[IPV6_NEXT] == protocol6 ? offset + IPV6_SIZE : 0;
	return head[IPV4_PROTOCOL] == protocol4 ? offset + (head[0] & 15) * 4 : 0;
}

// --- outbound ------------------------------------------------------------------------------------------------
// Whether what goes to the address would find a listener (lookup.bpf.c knows).
static __always_inline int is_served(struct __sk_buff *skb, const struct weir_socket *socket, __u16 port)
{
	struct bpf_sock_tuple tuple = {0};
	__u32 len = sizeof tuple.ipv4;
	if (is_ipv4(skb)) {
		tuple.ipv4.saddr = bpf_htonl(WEIR_LOOPBACK4);
		tuple.ipv4.daddr = socket->redirect[0];
		tuple.ipv4.dport = bpf_htons(port);
	} else {
		tuple.ipv6.saddr[3] = bpf_htonl(1);
		__builtin_memcpy(tuple.ipv6.daddr, socket->redirect, sizeof tuple.ipv6.daddr);
		tuple.ipv6.dport = bpf_htons(port);
		len = sizeof tuple.ipv6;
	}
	struct bpf_sock *sk = bpf_sk_lookup_tcp(skb, &tuple, len, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

// The first packet of a connection, again or for the first time.
static __always_inline int on_attempt(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct weir_socket *socket = bpf_sk_storage_get(&weir_sockets, sk, 0, 0);
	if (!socket || socket->side != WEIR_SIDE_CLIENT)
		return PASS;
	struct weir_flow flow = {.protocol = WEIR_TCP, .dest_port = bpf_ntohs((__u16)sk->dst_port)};
	flow.listens = (__u8)is_served(skb, socket, flow.dest_port);
	__u64 verdict = weir_walk_chain(socket->netns, WEIR_CHAIN_HOLD, &flow);
	__u64 limit = (verdict >> 32) * 1000000;
	if ((__u32)verdict != WEIR_HOLD || (limit && bpf_ktime_get_ns() - socket->since >= limit))
		return PASS;
	return DROP;
}

// --- DNS -----------------------------------------------------------------------------------------------------
struct query {
	struct weir_address asker, server; // the latter's stand-in
};

// The query whose header of IP begins at `offset`. 0: there is none.
static __always_inline int read_query(struct __sk_buff *skb, __u32 offset, struct query *ret_query)
{
	__be16 ports[2];
	__u8 family = is_ipv4(skb) ? WEIR_AF_INET : WEIR_AF_INET6;
	__u32 udp = end_of_ip(skb, offset, WEIR_UDP, WEIR_UDP);
	struct weir_address asker = {.family = family}, server = {.family = family};
	if (!udp || bpf_skb_load_bytes(skb, udp, ports, sizeof ports) ||
	    bpf_skb_load_bytes(skb, offset + (is_ipv4(skb) ? IPV4_SOURCE : IPV6_SOURCE), asker.ip,
			       is_ipv4(skb) ? 4 : 16) ||
	    bpf_skb_load_bytes(skb, offset + (is_ipv4(skb) ? IPV4_DEST : IPV6_DEST), server.ip,
			       is_ipv4(skb) ? 4 : 16))
		return 0;
	asker.port = ports[0];
	server.port = ports[1];
	*ret_query = (struct query){asker, server};
	return 1;
}

// The socket that gets what comes from one address to the other; the caller releases it.
static __always_inline struct bpf_sock *receiver(struct __sk_buff *skb, const struct weir_address *from,
						 const struct weir_address *to)
{
	struct bpf_sock_tuple tuple = {0};
	__u32 len = sizeof tuple.ipv4;
	if (is_ipv4(skb)) {
		tuple.ipv4.saddr = from->ip[0];
		tuple.ipv4.sport = from->port;
		tuple.ipv4.daddr = to->ip[0];
		tuple.ipv4.dport = to->port;
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, from->ip, sizeof tuple.ipv6.saddr);
		tuple.ipv6.sport = from->port;
		__builtin_memcpy(tuple.ipv6.daddr, to->ip, sizeof tuple.ipv6.daddr);
		tuple.ipv6.dport = to->port;
		len = sizeof tuple.ipv6;
	}
	return bpf_sk_lookup_udp(skb, &tuple, len, BPF_F_CURRENT_NETNS, 0);
}

// Whether the packet says that nobody took in hand what this CPU has; and which query that is.
static __always_inline int is_its_refusal(struct __sk_buff *skb, const struct weir_unheard *unheard,
					  struct query *ret_query)
{
	__u8 kind[2];
	__u32 icmp = end_of_ip(skb, 0, ICMP4, ICMP6);
	if (!icmp || bpf_skb_load_bytes(skb, icmp, kind, sizeof kind))
		return 0;
	if (kind[0] != (is_ipv4(skb) ? ICMP4_UNREACHABLE : ICMP6_UNREACHABLE) ||
	    kind[1] != (is_ipv4(skb) ? ICMP4_PORT : ICMP6_PORT))
		return 0;
	return read_query(skb, icmp + ICMP_SIZE, ret_query) &&
	       ret_query->asker.port == bpf_htons(unheard->key.source_port) &&
	       ret_query->server.port == bpf_htons(unheard->key.dest_port);
}

// Whom the kernel tells. (If it is not who asked, on_query() sees to that one.)
static __always_inline int waits(struct __sk_buff *skb, const struct query *query, __u64 limit)
{
	struct bpf_sock *sk = receiver(skb, &query->server, &query->asker);
	if (!sk)
		return 1;
	struct weir_servers *servers = bpf_sk_storage_get(&weir_servers, sk, 0, 0);
	__u32 server = servers ? weir_server_at(servers, &query->server) : WEIR_SERVERS_MAX;
	int over = servers && server < WEIR_SERVERS_MAX &&
		   weir_query_is_over(servers->since[server], bpf_ktime_get_ns(), limit);
	bpf_sk_release(sk);
	return !over;
}

static __always_inline int on_refusal(struct __sk_buff *skb, struct weir_unheard *unheard)
{
	struct query query = {0};
	if (!is_its_refusal(skb, unheard, &query))
		return PASS;
	struct weir_flow flow = {.protocol = WEIR_UDP, .dest_port = unheard->proxy_port};
	unheard->protocol = 0;
	__u64 verdict = weir_walk_chain(unheard->key.netns, WEIR_CHAIN_HOLD, &flow);
	__u64 limit = (verdict >> 32) * 1000000;
	if ((__u32)verdict != WEIR_HOLD || (limit && !waits(skb, &query, limit)))
		return PASS;
	return DROP;
}

static __always_inline int is_heard(struct __sk_buff *skb, const struct query *query)
{
	struct bpf_sock *sk = receiver(skb, &query->asker, &query->server);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

// The kernel looks for whom a refusal concerns by the addresses in it and by the interface that it comes by,
// the loopback one. It does not find a socket that is bound to another, and of those that share a port always
// the same.
static __always_inline int is_told(struct __sk_buff *skb, const struct query *query, const struct bpf_sock *asker)
{
	struct bpf_sock *sk = receiver(skb, &query->server, &query->asker);
	int same = sk == asker;
	if (sk)
		bpf_sk_release(sk);
	return same;
}

// Notes since when it is asked in vain. What nobody would be told of is not sent any more when the time is
// over: send() says so (EPERM). (That a query waits is counted when it is refused.)
static __always_inline int on_query(struct __sk_buff *skb, struct bpf_sock *asker)
{
	struct query query = {0};
	struct weir_servers *servers = bpf_sk_storage_get(&weir_servers, asker, 0, 0);
	if (!servers || !read_query(skb, 0, &query))
		return PASS;
	__u32 server = weir_server_at(servers, &query.server);
	if (server >= WEIR_SERVERS_MAX)
		return PASS;
	__u64 netns = BPF_CORE_READ((struct sk_buff *)skb, sk, __sk_common.skc_net.net, net_cookie);
	struct weir_flow flow = {.protocol = WEIR_UDP,
				 .dest_port = bpf_ntohs(query.server.port),
				 .listens = (__u8)is_heard(skb, &query),
				 .uncounted = 1};
	__u64 verdict = weir_walk_chain(netns, WEIR_CHAIN_HOLD, &flow);
	__u64 limit = (verdict >> 32) * 1000000, now = bpf_ktime_get_ns();
	if ((__u32)verdict != WEIR_HOLD || !limit)
		return PASS;
	weir_query_begins(&servers->since[server], now, limit);
	return weir_query_is_over(servers->since[server], now, limit) && !is_told(skb, &query, asker) ? DROP
												       : PASS;
}

SEC("cgroup_skb/egress")
int weir_hold_out(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	if (sk && sk->state == SYN_SENT) {
		sk = bpf_sk_fullsock(sk);
		return sk ? on_attempt(skb, sk) : PASS;
	}
	struct weir_unheard *unheard = unheard_here();
	if (unheard && unheard->protocol == WEIR_UDP && on_refusal(skb, unheard) == DROP)
		return DROP;
	sk = sk ? bpf_sk_fullsock(sk) : 0;
	return sk && sk->protocol == WEIR_UDP ? on_query(skb, sk) : PASS;
}

// --- inbound -------------------------------------------------------------------------------------------------
static __always_inline int is_of_namespace(struct bpf_sock *sk, __u64 net)
{
	struct sock_common *common = (struct sock_common *)bpf_skc_to_tcp_sock(sk);
	return common && (__u64)BPF_CORE_READ(common, skc_net.net) == net;
}

// Notes when the attempt's time is over.
static __always_inline void note(const struct weir_held_key *key, __u32 sequence, __u64 limit)
{
	const struct weir_held *known = bpf_map_lookup_elem(&weir_held, key);
	struct weir_held held = {.until = bpf_ktime_get_ns() + limit, .sequence = sequence};
	if (!known || known->sequence != sequence)
		bpf_map_update_elem(&weir_held, key, &held, BPF_ANY);
}

// What lookup.bpf.c has just seen reaches an application that must not have it. What opens no connection may:
// it is refused there. If that cannot be told, it is kept from it, too.
static __always_inline int on_arrival(struct __sk_buff *skb, const struct weir_unheard *attempt)
{
	__u8 flags = TCP_SYN;
	__be32 sequence = 0;
	__u32 tcp = end_of_ip(skb, 0, WEIR_TCP, WEIR_TCP);
	if (tcp && (bpf_skb_load_bytes(skb, tcp + TCP_FLAGS, &flags, sizeof flags) ||
		    bpf_skb_load_bytes(skb, tcp + TCP_SEQUENCE, &sequence, sizeof sequence)))
		return DROP;
	if (!(flags & TCP_SYN))
		return PASS;
	struct weir_flow flow = {.protocol = WEIR_TCP, .dest_port = attempt->proxy_port};
	__u64 limit = (weir_walk_chain(attempt->key.netns, WEIR_CHAIN_HOLD, &flow) >> 32) * 1000000;
	struct weir_held_key key = attempt->key;
	if (limit)
		note(&key, sequence, limit);
	return DROP;
}

SEC("cgroup_skb/ingress")
int weir_hold_in(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	if (!sk || sk->state != LISTEN)
		return PASS;
	struct weir_unheard *attempt = unheard_here();
	if (!attempt || attempt->protocol != WEIR_TCP || attempt->key.dest_port != sk->src_port ||
	    !is_of_namespace(sk, attempt->net))
		return PASS;
	attempt->protocol = 0;
	return on_arrival(skb, attempt);
}

char _license[] SEC("license") = "Dual BSD/GPL";
