// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Relays what comes on one TCP socket of the proxy out of another one, without the proxy. Both are in maps of sockets;
// the kernel takes a socket out when it is closed.
//
// What the program redirects is taken out of the receive queue at once, so that its sender's window stays open, and a
// thread of the kernel sends it on. So the program keeps the bound: it redirects only what the other socket has room
// for, and leaves what follows to the proxy, which reads it as ever, writes it with its ordinary back pressure, and says
// when all is written; then the kernel relays again. Nothing may overtake: the proxy looks whether the kernel has sent
// all of its own before it writes (exchange/flow.c).
//
// A socket may be source and sink. Then what is left to the proxy lies behind what the socket has to send, in a queue that
// closes no window, until the thread gets there; another program bounds that (weir_guard).
//
// The kernel shows the program whole buffers, also those that begin with bytes that came before (a retransmission in
// other pieces, or a buffer of which the proxy has read a part). These are cut off here: else they would come twice.
#include "bpf/relay.h"
#include "bpf/tcp.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff {
	char cb[48]; // of TCP: a struct tcp_skb_cb
};

struct tcp_skb_cb {
	__u32 seq;
};

struct sk_buff_head {
	__u32 qlen;
};

struct sk_psock {
	struct sk_buff_head ingress_skb;
};

#pragma clang attribute pop

enum { PSOCK_FLAGS = 7 }; // below the pointer
enum { CUT_MAX = 4095 };  // what the helper takes off at a time
enum { PASS_NOTHING = 0, PASS_ALL = 0x7fffffff };
enum { DATA_OFFSET = 12 }; // of TCP's header (RFC 9293 3.1): where data begins, in words, in the upper half

// --- maps ----------------------------------------------------------------------------------------------------
// By their cookies: those from which bytes come, with the program, and those out of which they go, without.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, RELAY_FLOWS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} weir_sources SEC(".maps"), weir_sinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, RELAY_FLOWS_MAX);
	__type(key, __u64);
	__type(value, struct weir_relay);
} weir_relays SEC(".maps");

// How many of the bytes that were left to it the proxy has written. It alone says so.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, RELAY_FLOWS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} weir_done SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_relay_counts);
} weir_relayed SEC(".maps");

// --- which way -----------------------------------------------------------------------------------------------
// How many buffers wait for the kernel's thread.
static __always_inline __u32 buffers_of(struct tcp_sock *sink)
{
	__u64 psock = (__u64)sink->inet_conn.icsk_inet.sk.sk_user_data & ~(__u64)PSOCK_FLAGS;
	return BPF_CORE_READ((struct sk_psock *)psock, ingress_skb.qlen);
}

// There must be room for the buffers, too, however little is in each: what has none stays in the queue until the sink's peer
// reads. If that sends all that it has before it reads, and some of it waits in the same queue, it never does.
static __always_inline int takes(struct tcp_sock *sink, const struct weir_relay *relay, __u32 size)
{
	struct sock *socket = &sink->inet_conn.icsk_inet.sk;
	__u32 buffers = buffers_of(sink), waiting = relay->written - sink->write_seq + size;
	return is_open(sink) && buffers < RELAY_BUFFERS_MAX && waiting <= RELAY_QUEUE_MAX &&
	       has_room(sink, waiting) &&
	       (__u32)socket->sk_wmem_queued + waiting + (buffers + 2) * BUFFER_OVERHEAD <= (__u32)socket->sk_sndbuf;
}

// Looks how far the proxy is with what was left to it, and from where on the sink is the kernel's thread's then.
static __always_inline void look_at_proxy(__u64 source, struct weir_relay *relay, struct tcp_sock *sink)
{
	__u64 *done = relay->passed != relay->done ? bpf_map_lookup_elem(&weir_done, &source) : 0;
	if (done) {
		relay->done = *done;
		relay->known &= ~RELAY_WRITTEN;
	}
	if (!(relay->known & RELAY_WRITTEN))
		relay->written = sink->write_seq;
	relay->known |= RELAY_WRITTEN;
}

// Whether bytes that came on the sink wait for the proxy: what is sent by it now would have others wait behind it.
static __always_inline int is_left(__u64 sink)
{
	struct weir_relay *back = bpf_map_lookup_elem(&weir_relays, &sink);
	if (!back || back->passed == back->done)
		return 0;
	__u64 *done = bpf_map_lookup_elem(&weir_done, &sink);
	return !done || *done != back->passed;
}

// Whether the bytes can go out of the other socket now.
static __always_inline int can_relay(__u64 source, struct weir_relay *relay, __u32 size)
{
	__u64 key = relay->to;
	struct bpf_sock *sk = bpf_map_lookup_elem(&weir_sinks, &key);
	if (!sk)
		return 0;
	struct tcp_sock *sink = bpf_skc_to_tcp_sock(sk);
	if (sink)
		look_at_proxy(source, relay, sink);
	int can = sink && relay->passed == relay->done && !is_left(key) && takes(sink, relay, size);
	bpf_sk_release(sk);
	return can;
}

// --- what comes ----------------------------------------------------------------------------------------------
static __always_inline __u32 sequence_of(struct __sk_buff *skb)
{
	char *cb = ((struct sk_buff *)skb)->cb;
	return BPF_CORE_READ((struct tcp_skb_cb *)cb, seq);
}

// Cuts off what came before. 0, or a negative error.
static __always_inline int cut(struct __sk_buff *skb, __u32 overlap)
{
	if (overlap > RELAY_OVERLAP_MAX || overlap > skb->len)
		return -1;
	for (__u32 i = 0; i <= RELAY_OVERLAP_MAX / CUT_MAX && overlap; i++) {
		__u32 part = overlap < CUT_MAX ? overlap : CUT_MAX;
		if (bpf_skb_adjust_room(skb, -(__s32)part, 0, 0))
			return -1;
		overlap -= part;
	}
	return 0;
}

// 0: only bytes that have not come before are left.
static __always_inline int put_in_order(struct __sk_buff *skb, struct weir_relay *relay,
					struct weir_relay_counts *count)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *source = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	if (!source)
		return -1;
	if (!(relay->known & RELAY_NEXT))
		relay->next = source->copied_seq;
	relay->known |= RELAY_NEXT;
	__u32 overlap = relay->next - sequence_of(skb);
	if (overlap)
		count->overlaps++;
	if (overlap && cut(skb, overlap))
		return -1;
	relay->next += skb->len;
	return 0;
}

SEC("sk_skb/stream_verdict")
int weir_relay(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 source = bpf_get_socket_cookie(skb);
	struct weir_relay *relay = bpf_map_lookup_elem(&weir_relays, &source);
	struct weir_relay_counts *count = bpf_map_lookup_elem(&weir_relayed, &zero);
	if (!relay || !count)
		return SK_PASS;
	relay->broken |= put_in_order(skb, relay, count) != 0;
	__u32 size = skb->len;
	__u64 sink = relay->to;
	if (!size) // an end, of which the kernel tells otherwise
		return SK_DROP;
	if (!relay->broken && can_relay(source, relay, size) &&
	    bpf_sk_redirect_hash(skb, &weir_sinks, &sink, 0) == SK_PASS) {
		relay->written += size;
		relay->messages++;
		relay->bytes += size;
		count->messages++;
		count->bytes += size;
		return SK_PASS;
	}
	count->fallbacks += relay->passed == relay->done;
	relay->passed += size;
	return SK_PASS;
}

// --- before it comes -----------------------------------------------------------------------------------------
// Whether as much waits as the receive buffer could hold, and the queue of the kernel's thread, which nobody accounts, is
// part of it.
static __always_inline int is_late(struct tcp_sock *source)
{
	__u32 buffers = buffers_of(source);
	__s32 unread = (__s32)(source->rcv_nxt - source->copied_seq);
	return buffers > RELAY_LATE_MAX || (buffers && unread > source->inet_conn.icsk_inet.sk.sk_rcvbuf);
}

// Takes or refuses each packet that comes to a source, before TCP does. What is refused was never acknowledged, and is
// sent again: later than after a closed window, of which its sender would be told. Acknowledgements alone always pass.
SEC("socket")
int weir_guard(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u8 offset = 0;
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *source = sk ? bpf_skc_to_tcp_sock(sk) : 0;
	if (!source || !is_late(source) || bpf_skb_load_bytes(skb, DATA_OFFSET, &offset, sizeof offset) ||
	    skb->len <= (__u32)(offset >> 4) * 4)
		return PASS_ALL;
	struct weir_relay_counts *count = bpf_map_lookup_elem(&weir_relayed, &zero);
	if (count)
		count->refused++;
	return PASS_NOTHING;
}

char _license[] SEC("license") = "Dual BSD/GPL";
