// SPDX-License-Identifier: Apache-2.0
#include "exchange/call_slots.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>

enum { SLOTS_FIRST = 16 };

void call_slots_init(struct call_slots *slots, uint64_t first, uint64_t last)
{
	*slots = (struct call_slots){._first = first, ._last = last, ._next = first};
}

void call_slots_done(struct call_slots *slots)
{
	mem_free(slots->_slots);
	*slots = (struct call_slots){0};
}

static struct call_slot *slot_of(const struct call_slots *slots, uint64_t id)
{
	return &slots->_slots[id & (slots->_size - 1)];
}

// At most half of the slots are in use, so a free one is near.
uint64_t call_slots_spare(struct call_slots *slots)
{
	uint64_t id;
	do {
		id = slots->_next;
		slots->_next = id == slots->_last ? slots->_first : id + 1;
	} while (slots->_size && slot_of(slots, id)->call);
	return id;
}

// What had a slot of its own in the smaller table has one in the larger.
static int slots_grow(struct call_slots *slots)
{
	size_t size = slots->_size ? slots->_size * 2 : SLOTS_FIRST;
	struct call_slots larger = *slots;
	larger._slots = mem_array(size, sizeof *larger._slots);
	if (!larger._slots)
		return -ENOMEM;
	larger._size = size;
	for (size_t i = 0; i < slots->_size; i++)
		if (slots->_slots[i].call)
			*slot_of(&larger, slots->_slots[i].id) = slots->_slots[i];
	mem_free(slots->_slots);
	*slots = larger;
	return 0;
}

int call_slots_add(struct call_slots *slots, struct call *call, uint64_t *ret_id)
{
	int err = slots->count >= LIMIT_RPC_SLOTS ? ERR_LIMIT : 0;
	if (!err && slots->count * 2 >= slots->_size)
		err = slots_grow(slots);
	if (err)
		return err;
	uint64_t id = call_slots_spare(slots);
	*slot_of(slots, id) = (struct call_slot){call, id};
	slots->count++;
	*ret_id = id;
	return 0;
}

struct call *call_slots_find(const struct call_slots *slots, uint64_t id)
{
	const struct call_slot *slot = slots->_size ? slot_of(slots, id) : NULL;
	return slot && slot->id == id ? slot->call : NULL;
}

void call_slots_remove(struct call_slots *slots, uint64_t id)
{
	if (!call_slots_find(slots, id))
		return;
	*slot_of(slots, id) = (struct call_slot){0};
	slots->count--;
}

struct call *call_slots_each(const struct call_slots *slots, size_t *at)
{
	while (*at < slots->_size) {
		struct call *call = slots->_slots[(*at)++].call;
		if (call)
			return call;
	}
	return NULL;
}
