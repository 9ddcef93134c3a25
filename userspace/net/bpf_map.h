// SPDX-License-Identifier: Apache-2.0
// The maps of the programs that streams know of, by system calls: 0, or -1 and errno.
#pragma once

#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

// BPF_MAP_LOOKUP_ELEM, ..._UPDATE_ELEM, ..._DELETE_ELEM or ..._GET_NEXT_KEY.
int bpf_map_call(enum bpf_cmd command, int map, const void *key, void *value);
// How many keys of 64 bits it has, but for `except`, counted one by one, up to `max`.
size_t bpf_map_count(int map, uint64_t except, size_t max);
// What a map with one entry has counted on all CPUs together: values of so many numbers of 64 bits. Zeros if
// it cannot be read.
void bpf_map_sum(int map, uint64_t *ret_sums, size_t numbers);
// A number that no other socket ever has; 0: it has none.
uint64_t bpf_socket_cookie(int fd);
