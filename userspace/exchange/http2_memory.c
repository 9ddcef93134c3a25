// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_memory.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// What precedes the caller's bytes, which are aligned as malloc's are.
struct block {
	_Alignas(16) size_t room; // bytes behind
	union {
		size_t sort;	    // in use: which of `sorts` it belongs to; beyond them: to none
		struct block *next; // spare
	};
	uint8_t bytes[];
};

// Sizes include the head.
static __thread struct {
	const size_t size;
	const unsigned keep;
	unsigned count;
	struct block *spare;
} sorts[] = {{.size = 64, .keep = 256},
	     {.size = 128, .keep = 128},
	     {.size = 256, .keep = 128},
	     {.size = 512, .keep = 64},
	     {.size = 1024, .keep = 32}};

// The smallest whose blocks are large enough; ARRAY_SIZE(sorts) or more: none is.
static size_t sort_of(size_t whole)
{
	enum { SMALLEST = 6 }; // 2^6 bytes; each is twice the one before
	size_t bits = 64 - (size_t)__builtin_clzll(whole - 1);
	return bits <= SMALLEST ? 0 : bits - SMALLEST;
}

static struct block *block_of(void *bytes)
{
	return container_of(bytes, struct block, bytes);
}

static struct block *spare_pop(size_t sort)
{
	struct block *block = sorts[sort].spare;
	sorts[sort].spare = block->next;
	sorts[sort].count--;
	return block;
}

static void *take(size_t size, void *arg)
{
	size_t whole;
	(void)arg;
	if (__builtin_add_overflow(size, sizeof(struct block), &whole))
		return NULL;
	size_t sort = sort_of(whole);
	bool sorted = sort < ARRAY_SIZE(sorts);
	size_t real = sorted ? sorts[sort].size : whole;
	struct block *block = sorted && sorts[sort].spare ? spare_pop(sort) : mem_alloc(real);
	if (!block)
		return NULL;
	block->room = real - sizeof *block;
	block->sort = sort;
	return block->bytes;
}

static void give(void *bytes, void *arg)
{
	(void)arg;
	if (!bytes)
		return;
	struct block *block = block_of(bytes);
	size_t sort = block->sort;
	if (sort >= ARRAY_SIZE(sorts) || sorts[sort].count >= sorts[sort].keep) {
		mem_free(block);
		return;
	}
	block->next = sorts[sort].spare;
	sorts[sort].spare = block;
	sorts[sort].count++;
}

static void *take_zeroed(size_t count, size_t size, void *arg)
{
	size_t total;
	void *bytes = __builtin_mul_overflow(count, size, &total) ? NULL : take(total, arg);
	return bytes ? memset(bytes, 0, total) : NULL;
}

static void *resize(void *bytes, size_t size, void *arg)
{
	if (bytes && size <= block_of(bytes)->room)
		return bytes;
	void *bigger = take(size, arg);
	if (bigger && bytes) {
		memcpy(bigger, bytes, block_of(bytes)->room);
		give(bytes, arg);
	}
	return bigger;
}

nghttp2_mem *http2_memory(void)
{
	static nghttp2_mem memory = {NULL, take, give, take_zeroed, resize};
	return &memory;
}

void http2_memory_thread_done(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(sorts); i++)
		while (sorts[i].spare)
			mem_free(spare_pop(i));
}
