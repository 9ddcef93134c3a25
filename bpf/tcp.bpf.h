// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The kernel's TCP sockets, as far as programs look into them, and whether there is room in one for more to be sent.
#pragma once

#include "bpf/bypass.h"

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

enum state { ESTABLISHED = 1, CLOSE_WAIT = 8 }; // in which a socket can send
enum { MSS_MIN = 88, BUFFER_OVERHEAD = 2048 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct proto {
	unsigned long *memory_pressure;
};

struct netns_ipv4 {
	unsigned int sysctl_tcp_notsent_lowat;
};

struct net {
	struct netns_ipv4 ipv4;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	unsigned long skc_flags;
	volatile unsigned char skc_state;
	struct proto *skc_prot;
	possible_net_t skc_net;
};

struct file {
	unsigned int f_flags;
};

struct socket {
	struct file *file;
};

struct mem_cgroup {
	_Bool tcpmem_active;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	void *sk_user_data; // of one in a map of sockets: its struct sk_psock, and flags below
	struct mem_cgroup *sk_memcg;
	int sk_rcvlowat, sk_rcvbuf, sk_sndbuf, sk_wmem_queued, sk_err;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_ulp_ops *icsk_ulp_ops;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq, rcv_nxt, copied_seq, snd_una, snd_nxt, mss_cache, notsent_lowat;
	__u64 bytes_acked;
	__u16 gso_segs;
};

#pragma clang attribute pop

// --- room -----------------------------------------------------------------------------------------------------
static __always_inline int is_memory_short(struct tcp_sock *outlet)
{
	unsigned long since = 0;
	unsigned long *pressure = BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.__sk_common.skc_prot, memory_pressure);
	bpf_probe_read_kernel(&since, sizeof since, pressure);
	return since != 0;
}

// More than that may not wait to be sent, by option of the socket or of the namespace.
static __always_inline __u32 unsent_max(struct tcp_sock *outlet)
{
	__u32 own = BPF_CORE_READ(outlet, notsent_lowat);
	return own ? own
		   : BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.__sk_common.skc_net.net, ipv4.sysctl_tcp_notsent_lowat);
}

// What the kernel takes for the buffers of a message of this size at most, besides its bytes.
static __always_inline __u32 overhead(struct tcp_sock *outlet, __u32 size)
{
	__u32 segment = BPF_CORE_READ(outlet, mss_cache), segments = BPF_CORE_READ(outlet, gso_segs);
	__u32 buffer = (segment > MSS_MIN ? segment : MSS_MIN) * (segments ? segments : 1);
	return (size / buffer + 2) * BUFFER_OVERHEAD;
}

// Room for all of the message: nobody is to wait for a socket that is not his own, and be told of room in his.
static __always_inline int has_room(struct tcp_sock *outlet, __u32 size)
{
	__u32 filled = (__u32)BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.sk_wmem_queued) + size;
	__u32 unsent = BPF_CORE_READ(outlet, write_seq) - BPF_CORE_READ(outlet, snd_nxt) + size;
	return filled <= BYPASS_QUEUE_MAX && unsent <= unsent_max(outlet) &&
	       filled + overhead(outlet, size) <= (__u32)BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.sk_sndbuf) &&
	       !is_memory_short(outlet);
}

// What was reset tells so whoever sends by it first; that is to be the proxy.
static __always_inline int is_open(struct tcp_sock *outlet)
{
	__u8 state = BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.__sk_common.skc_state);
	return (state == ESTABLISHED || state == CLOSE_WAIT) && !BPF_CORE_READ(outlet, inet_conn.icsk_inet.sk.sk_err);
}
