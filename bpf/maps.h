// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The maps, shared by all programs: the first object that is loaded creates and pins them, the others find
// them there.
#pragma once

#include "bpf/shared.h"

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct weir_plan_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP); // so that each plan has its own size
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(union weir_cell));
};

// The plan of each captured namespace, by its cookie.
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, WEIR_NAMESPACES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__array(values, struct weir_plan_map);
} weir_plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_PENDING_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct weir_pending_key);
	__type(value, struct weir_pending);
} weir_pending SEC(".maps");

// What each captured namespace has of them, by its cookie.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WEIR_NAMESPACES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct weir_share);
} weir_shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weir_socket);
} weir_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weir_servers);
} weir_servers SEC(".maps");

// Which programs are attached, by their checksum; 0: they are being replaced. For who installs them.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WEIR_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} weir_versions SEC(".maps");

// In whose name the proxy's connections are, until the application's sockets are there; and, with its own.
// (Of one that the application never takes nobody tells: the oldest make room.)
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WEIR_CALLS_MAX);
	__type(key, struct weir_call_key);
	__type(value, struct weir_call);
} weir_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct weir_caller);
} weir_callers SEC(".maps");

// The proxy's TCP listeners, some of each group. The kernel takes a socket out when it is closed.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, WEIR_LISTENERS_MAX);
	__type(key, struct weir_listener_key);
	__type(value, __u64);
} weir_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WEIR_HELD_MAX);
	__type(key, struct weir_held_key);
	__type(value, struct weir_held);
} weir_held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_unheard);
} weir_unheard SEC(".maps");
