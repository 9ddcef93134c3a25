// SPDX-License-Identifier: Apache-2.0
// The entries of weir's maps (ebpf_list.h), whatever their kind: hashes, arrays, and what is kept with
// sockets, which is read by a program of its own (bpf/storage.bpf.c). Maps that programs change meanwhile may
// show an entry twice, or not. Blocking; for the command line.
#pragma once

#include "intercept/ebpf_list.h"

struct btf;

struct ebpf_entry {
	const void *key; // of what is kept with sockets: struct weir_stored
	const void *value;
	size_t key_len;
	size_t value_len; // of a value for each CPU: of all of them, in multiples of 8 bytes each
};

// How many there are. 0 or a negative error; ERR_UNSUPPORTED: of what is kept with sockets.
int ebpf_entries_count(const struct ebpf_map *map, uint64_t *ret_count);
// Calls fn for each. Stops at the first result that is not 0, and returns it; or a negative error.
int ebpf_entries_each(const struct ebpf_map *map,
		      int (*fn)(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg),
		      void *arg);
// The types that describe a map (BTF), or NULL. The caller frees them with ebpf_types_free; NULL is fine.
struct btf *ebpf_types_load(const struct ebpf_map *map);
void ebpf_types_free(struct btf *types);
// The key and the value in the words of these types. Of variables (a map of one object's data), the value is
// that of number `variable`, and the key its name. 0; ERR_NOT_FOUND: there is no such variable; or another
// negative error.
int ebpf_entry_print(const struct ebpf_map *map, const struct btf *types, const struct ebpf_entry *entry,
		     size_t variable, struct strbuf *ret_key, struct strbuf *ret_value);
