// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Reads a map that keeps its values with sockets, which no system call goes through: writes all of them, each
// with the socket that it belongs to. Loaded by who wants to read, for that moment.
#include "bpf/kernel.h"
#include "bpf/storage.h"

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 weir_value_size; // of the map

SEC("iter/bpf_sk_storage_map")
int weir_read_storage(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	void *value = ctx->value;
	struct seq_file *seq = ctx->meta->seq;
	if (!sk || !value)
		return 0;
	struct weir_stored stored = {.socket = bpf_get_socket_cookie(sk)};
	stored.netns = BPF_CORE_READ((struct sock_common *)sk, skc_net.net, net_cookie);
	bpf_seq_write(seq, &stored, sizeof stored);
	bpf_seq_write(seq, value, weir_value_size);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
