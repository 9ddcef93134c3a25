// SPDX-License-Identifier: Apache-2.0
// Memory that is used again at once: `struct pool` keeps a bounded stack of free objects of one size; `struct
// arena` hands out pieces that are all freed together. Both belong to one thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

// --- objects of one size ------------------------------------------------------------------------------------
struct pool {
	size_t size;	 // of an object, at least that of a pointer
	unsigned keep;	 // free objects kept at most; the others go back to the allocator
	unsigned _count; // on the free stack
	void *_free;
};

#define POOL_INIT(type, keep_) ((struct pool){.size = sizeof(type), .keep = (keep_)})

// Contents are whatever they were; NULL when out of memory.
void *pool_get(struct pool *pool);
void *pool_zget(struct pool *pool);
void pool_put(struct pool *pool, void *object);
// Frees what the free stack holds.
void pool_trim(struct pool *pool);

// --- pieces freed together ----------------------------------------------------------------------------------
enum { ARENA_BLOCK = 4096 };

struct chunk;
struct arena_held;

struct arena_block {
	struct arena_block *_next;
	uint32_t _size;
};

// Zero-initialise. Blocks come from a per-thread pool, so an arena that fits one costs a pop and a push.
struct arena {
	struct arena_block *_blocks;
	struct arena_held *_held;
	char *_at, *_end;
};

// Aligned to 8; uninitialised. NULL when out of memory.
void *arena_alloc(struct arena *arena, size_t size);
char *arena_strdup(struct arena *arena, const char *bytes, size_t len); // terminated
// What is left in the current block, for an array whose length is not known yet: claim with arena_alloc (the
// same address) before anything else is allocated. At least `min` bytes, or NULL.
void *arena_peek(struct arena *arena, size_t min, size_t *ret_size);
// A reference to a chunk of buf.h (not NULL) that is given up with the arena: for views into it. 0 or
// -ENOMEM.
int arena_hold(struct arena *arena, struct chunk *chunk);
void arena_done(struct arena *arena);
// Frees the calling thread's spare blocks.
void arena_thread_done(void);
