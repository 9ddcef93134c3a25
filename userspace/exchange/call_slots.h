// SPDX-License-Identifier: Apache-2.0
// The calls under way on one upstream connection, by the id that the proxy gave each. Ids ascend from the
// first to the last that the protocol allows, then begin again, leaving out those still in use. An answer
// finds its call by looking in one place. One thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct call;

struct call_slots {
	struct call_slot {
		struct call *call; // NULL: free
		uint64_t id;
	} * _slots;
	size_t _size; // a power of two; 0 at first
	size_t count;
	uint64_t _first, _last, _next;
};

// Ids from `first` to `last`, both included, of which there must be more than LIMIT_RPC_SLOTS.
void call_slots_init(struct call_slots *slots, uint64_t first, uint64_t last);
void call_slots_done(struct call_slots *slots);
// An id that no call has: for what nobody answers, or is not a call.
uint64_t call_slots_spare(struct call_slots *slots);
// Gives the call an id. 0, ERR_LIMIT (LIMIT_RPC_SLOTS are under way) or -ENOMEM.
int call_slots_add(struct call_slots *slots, struct call *call, uint64_t *ret_id);
// The call with that id; NULL: there is none (any more).
struct call *call_slots_find(const struct call_slots *slots, uint64_t id);
// Frees the id's slot, if it is in use.
void call_slots_remove(struct call_slots *slots, uint64_t id);
// The next call from *at on (0 at first), which moves behind it; NULL: there is none. Calls may be removed
// meanwhile.
struct call *call_slots_each(const struct call_slots *slots, size_t *at);
