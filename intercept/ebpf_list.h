// SPDX-License-Identifier: Apache-2.0
// What weir has in the kernel, on the whole host: its programs with where they are attached, and its maps.
// Both those of the capture, which are pinned (ebpf_place.h), and those that a proxy holds for its local
// bypass (bpf/bypass.bpf.c). A program is weir's by its name, which begins with "weir_"; a map by the same,
// or because such a program uses it. Reads the kernel and changes nothing. Blocking; for the command line.
#pragma once

#include "base/str.h"
#include "intercept/ebpf_place.h"

enum { EBPF_NAME_MAX = 64, EBPF_USED_MAX = 16 };

// A program and one place to which it is attached; attached to several, there is one of these for each.
struct ebpf_program {
	uint32_t id;
	char name[EBPF_NAME_MAX];
	const char *type;	      // "cgroup_sock_addr"
	char tag[17];		      // digest of its code
	int64_t loaded_at;	      // seconds since 1970
	uint64_t runs, run_ns;	      // counted while kernel.bpf_stats_enabled is set
	uint32_t verified;	      // instructions that the verifier went through
	uint64_t memory;	      // bytes
	uint32_t maps[EBPF_USED_MAX]; // those that it uses
	uint32_t map_count;

	const char *hook;	   // "cgroup_inet4_connect"; NULL: it is attached nowhere
	char where[EBPF_PATH_MAX]; // "cgroup:/", "net:[4026531840]", "map:17"
	uint32_t link;		   // 0: none
	char pin[EBPF_PATH_MAX];   // "": none
};

struct ebpf_map {
	uint32_t id;
	char name[EBPF_NAME_MAX];
	uint32_t kind;	  // enum bpf_map_type
	const char *type; // "hash"
	uint32_t key_size, value_size, entries_max;
	bool countable;
	uint64_t entries; // that are in it, if that can be counted
	uint64_t memory;
	uint32_t types, key_type, value_type; // the BTF that describes it; 0: none does
	char pin[EBPF_PATH_MAX];
};

struct ebpf_list {
	struct ebpf_program *programs; // in the order of their ids
	struct ebpf_map *maps;	       // the same
	size_t program_count, map_count, _program_cap, _map_cap;
	bool counts_runs;
};

// 0, also when there is nothing; or a negative error with a sentence. On 0 the caller calls ebpf_list_done.
int ebpf_list_read(struct ebpf_list *ret_list, struct strbuf *ret_error);
void ebpf_list_done(struct ebpf_list *list);
// The number of the captured network namespace with that cookie, as in "net:[NUMBER]"; 0: none of the list.
uint32_t ebpf_list_namespace(const struct ebpf_list *list, uint64_t cookie);
