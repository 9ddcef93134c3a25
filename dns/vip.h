// SPDX-License-Identifier: Apache-2.0
// Virtual IPs: which address belongs to which name. An address is chosen by hashing the name, so that every
// proxy with the same services tends to the same answer; it is written to a state file and never given to
// another name. One thread (control).
#pragma once

#include "base/addr.h"

struct vip_pool;

// Opens the pool over at most one IPv4 and one IPv6 range and reads `state_path` (NULL: keep nothing; a
// missing file is an empty one). A damaged file is an error, never silently dropped. `ret_error` (may be
// NULL) receives a sentence that says where and what to do, or NULL when out of memory; the caller frees it
// (mem_free). 0 or a negative error (-ENOMEM, ERR_CONFIG: a range will not do, ERR_MALFORMED: the file is
// damaged, or an errno).
int vip_pool_open(const char *state_path, const struct cidr *ranges, size_t range_count,
		  struct vip_pool **ret_pool, char **ret_error);
void vip_pool_free(struct vip_pool *pool);
enum { VIP_RANGES_MAX = 2 };
// The ranges that it was opened over; how many.
size_t vip_pool_ranges(const struct vip_pool *pool, struct cidr ret_ranges[VIP_RANGES_MAX]);
// The VIPs of a name (lower case), allocating them if it has none. A family without a range yields family 0.
// 0, ERR_EXHAUSTED, -ENOMEM, ERR_MALFORMED (no name).
int vip_pool_assign(struct vip_pool *pool, struct str name, struct ip *ret_v4, struct ip *ret_v6);
// Writes what changed (to a temporary file, fsync, rename). 0 or a negative error. What was assigned stays so
// from now on, whether or not it could be written.
int vip_pool_save(struct vip_pool *pool);
// Takes back all that was assigned since the last save: it was for a configuration that came to nothing.
void vip_pool_revert(struct vip_pool *pool);
// How many are taken and how many there are, of a family (AF_INET, AF_INET6).
void vip_pool_usage(const struct vip_pool *pool, int family, uint64_t *ret_used, uint64_t *ret_size);
