// SPDX-License-Identifier: Apache-2.0
#include "base/pool.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>

enum { ARENA_SPARE_BLOCKS = 64 };

void *pool_get(struct pool *pool)
{
	void *object = pool->_free;
	if (!object)
		return mem_alloc(pool->size);
	pool->_free = *(void **)object;
	pool->_count--;
	return object;
}

void *pool_zget(struct pool *pool)
{
	void *object = pool_get(pool);
	return object ? memset(object, 0, pool->size) : NULL;
}

void pool_put(struct pool *pool, void *object)
{
	if (!object)
		return;
	if (pool->_count >= pool->keep) {
		mem_free(object);
		return;
	}
	*(void **)object = pool->_free;
	pool->_free = object;
	pool->_count++;
}

void pool_trim(struct pool *pool)
{
	while (pool->_free)
		mem_free(pool_get(pool));
}

static __thread struct pool spare_blocks = {.size = ARENA_BLOCK, .keep = ARENA_SPARE_BLOCKS};

struct arena_held {
	struct arena_held *next;
	struct chunk *chunk;
};

static int arena_grow(struct arena *arena, size_t size)
{
	size_t whole = size + sizeof(struct arena_block);
	struct arena_block *block;
	if (whole > UINT32_MAX)
		return -1;
	whole = MAX(whole, (size_t)ARENA_BLOCK);
	block = whole == ARENA_BLOCK ? pool_get(&spare_blocks) : mem_alloc(whole);
	if (!block)
		return -1;
	*block = (struct arena_block){arena->_blocks, (uint32_t)whole};
	arena->_blocks = block;
	arena->_at = (char *)(block + 1);
	arena->_end = (char *)block + whole;
	return 0;
}

void *arena_peek(struct arena *arena, size_t min, size_t *ret_size)
{
	min = (min + 7) & ~(size_t)7;
	if ((size_t)(arena->_end - arena->_at) < min && arena_grow(arena, min) != 0)
		return NULL;
	*ret_size = (size_t)(arena->_end - arena->_at);
	return arena->_at;
}

void *arena_alloc(struct arena *arena, size_t size)
{
	size_t room;
	void *at = arena_peek(arena, size, &room);
	if (at)
		arena->_at += (size + 7) & ~(size_t)7;
	return at;
}

char *arena_strdup(struct arena *arena, const char *bytes, size_t len)
{
	char *copy = arena_alloc(arena, len + 1);
	if (!copy)
		return NULL;
	if (len)
		memcpy(copy, bytes, len);
	copy[len] = 0;
	return copy;
}

int arena_hold(struct arena *arena, struct chunk *chunk)
{
	if (arena->_held && arena->_held->chunk == chunk)
		return 0;
	struct arena_held *held = arena_alloc(arena, sizeof *held);
	if (!held)
		return -ENOMEM;
	*held = (struct arena_held){arena->_held, chunk_ref(chunk)};
	arena->_held = held;
	return 0;
}

void arena_done(struct arena *arena)
{
	for (struct arena_held *held = arena->_held; held; held = held->next)
		chunk_unref(held->chunk);
	for (struct arena_block *block = arena->_blocks, *next; block; block = next) {
		next = block->_next;
		if (block->_size == ARENA_BLOCK)
			pool_put(&spare_blocks, block);
		else
			mem_free(block);
	}
	*arena = (struct arena){0};
}

void arena_thread_done(void)
{
	pool_trim(&spare_blocks);
}
