// SPDX-License-Identifier: Apache-2.0
// A ruleset as the cells that the programs in the kernel go through (bpf/shared.h), and back. Encoding and
// decoding are each other's inverse, but for the counters, which only the kernel changes. Pure.
#pragma once

#include "bpf/shared.h"
#include "intercept/rules.h"

// The caller frees *ret_cells with mem_free. Of the header what the rules say is set, the rest is the
// caller's. 0; -ENOMEM; ERR_LIMIT: more than the programs can take.
int ebpf_encode(const struct ruleset *ruleset, union weir_cell **ret_cells, uint32_t *ret_count);
// 0; ERR_MALFORMED (nothing that was encoded here); -ENOMEM. On 0 the caller calls ruleset_done.
int ebpf_decode(const union weir_cell *cells, uint32_t count, struct ruleset *ret_ruleset);
