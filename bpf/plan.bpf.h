// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Deciding in the kernel: the plan of a namespace, and going through it.
#pragma once

#include "bpf/kernel.h"
#include "bpf/maps.h"

#include <bpf/bpf_core_read.h>

static union weir_cell *weir_cell_at(void *plan, __u32 index)
{
	return bpf_map_lookup_elem(plan, &index);
}

// From a control group upwards.
struct weir_climb {
	struct cgroup *at;
	__u64 id;
	__u32 found;
};

static long weir_climb_step(__u32 index, void *arg)
{
	struct weir_climb *climb = arg;
	struct cgroup *at = climb->at;
	(void)index;
	if (BPF_CORE_READ(at, kn, id) == climb->id) {
		climb->found = 1;
		return 1;
	}
	struct cgroup_subsys_state *parent = BPF_CORE_READ(at, self.parent);
	climb->at = container_of(parent, struct cgroup, self);
	return parent ? 0 : 1;
}

static int weir_in_cgroup(__u64 cgroup, __u64 id)
{
	struct weir_climb climb = {.at = (struct cgroup *)cgroup, .id = id};
	if (cgroup)
		bpf_loop(WEIR_CGROUPS_MAX, weir_climb_step, &climb, 0);
	return climb.found ? 1 : 0;
}

#include "bpf/decide.h"

static long weir_next_step(__u32 index, void *arg)
{
	(void)index;
	return weir_step(arg) ? 1 : 0;
}

// What one chain of a namespace's plan says: the verdict, and in the upper half its value. A function that is
// not static is verified once, for whatever flow, instead of for each way that leads to it.
__attribute__((noinline, used)) __u64 weir_walk_chain(__u64 netns, __u32 chain, const struct weir_flow *flow)
{
	void *plan = bpf_map_lookup_elem(&weir_plans, &netns);
	union weir_cell *header = plan ? weir_cell_at(plan, WEIR_CELL_HEADER) : 0;
	struct weir_walk walk = {.plan = plan, .flow = flow};
	if (!header || !flow || chain >= WEIR_CHAINS)
		return WEIR_LEAVE;
	walk.rule = header->header.chains[chain] & WEIR_CELLS_MASK;
	walk.match = header->header.zero;
	if (!walk.rule)
		return WEIR_LEAVE;
	bpf_loop(WEIR_STEPS_MAX, weir_next_step, &walk, 0);
	return (__u64)walk.value << 32 | walk.verdict;
}

// The port to which the connection is to be captured; 0: it is to be left alone.
static __always_inline __u16 weir_decide(__u64 netns, __u32 chain, const struct weir_flow *flow)
{
	__u64 verdict = weir_walk_chain(netns, chain, flow);
	return (__u32)verdict == WEIR_CAPTURE ? (__u16)(verdict >> 32) : 0;
}

static __always_inline void weir_count(void *plan, enum weir_counter counter)
{
	union weir_cell *cell = weir_cell_at(plan, WEIR_CELL_COUNTERS);
	if (cell)
		__sync_fetch_and_add(&cell->counters[counter], 1);
}
