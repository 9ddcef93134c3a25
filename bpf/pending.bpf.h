// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Connections on their way from connect() to the proxy, which asks where they were going, and how many of them
// each namespace has: none may have so many that others find no place.
#pragma once

#include "bpf/maps.h"

#include <linux/errno.h>

// 0, or a negative error: -EAGAIN: the namespace has as many as it may; -EEXIST: the key is taken.
static __always_inline long weir_pending_add(const struct weir_pending_key *key, const struct weir_pending *pending)
{
	struct weir_share *share = bpf_map_lookup_elem(&weir_shares, &key->netns);
	if (share && __sync_fetch_and_add(&share->pending, 1) >= WEIR_PENDING_SHARE) {
		__sync_fetch_and_add(&share->pending, -1);
		return -EAGAIN;
	}
	long err = bpf_map_update_elem(&weir_pending, key, pending, BPF_NOEXIST);
	if (err && share)
		__sync_fetch_and_add(&share->pending, -1);
	return err;
}

// (Shares that were made anew, with the plan, know nothing of those from before.)
static __always_inline void weir_pending_delete(const struct weir_pending_key *key)
{
	struct weir_share *share = bpf_map_lookup_elem(&weir_shares, &key->netns);
	if (!bpf_map_delete_elem(&weir_pending, key) && share && share->pending > 0)
		__sync_fetch_and_add(&share->pending, -1);
}

// The same, if it is still that of the client's socket.
static __always_inline void weir_pending_withdraw(__u64 netns, const struct weir_socket *socket)
{
	struct weir_pending_key key = {.netns = netns};
	__builtin_memcpy(key.ip, socket->redirect, sizeof key.ip);
	struct weir_pending *pending = bpf_map_lookup_elem(&weir_pending, &key);
	if (pending && pending->client == socket->client)
		weir_pending_delete(&key);
}
