// SPDX-License-Identifier: Apache-2.0
// Gives memory back to the system after a burst of connections. The allocator keeps what was freed between
// pieces that are still in use; when most connections of a peak have gone, or the process has grown by much,
// it is told to let go. On the control thread.
#pragma once

#include "run/loop.h"

// What is known from earlier looks; all zero at first.
struct trim_memory {
	uint64_t peak;	// most connections since the last trim
	uint64_t floor; // least resident bytes since then
};

struct trim {
	struct loop *_loop;
	struct loop_timer _timer;
	struct trim_memory _memory;
};

// Looks every second from now on. The struct stays where it is until trim_done.
void trim_init(struct trim *trim, struct loop *loop);
// Safe on a struct that is all zero.
void trim_done(struct trim *trim);

// --- parts, for tests -------------------------------------------------------------------------------------
// Whether trimming is worth its time: few connections are left of many, or, for bursts that came and went
// between two looks, the process has grown. Then *memory starts over, for the caller to note the
// floor after trimming.
bool trim_is_due(struct trim_memory *memory, uint64_t connections, uint64_t resident);
// Resident bytes of this process; 0 if that cannot be known: then connections alone decide.
uint64_t trim_resident(void);
