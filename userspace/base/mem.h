// SPDX-License-Identifier: Apache-2.0
// Allocation. All of weir allocates through these, so that a test can make the n-th allocation of a scenario
// fail and run it again for n = 1, 2, ... Results are NULL on failure; the caller answers for it (-ENOMEM).
// Thread-safe except for the failure hook, which is for single-threaded tests.
#pragma once

#include <stddef.h>

void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *old, size_t size);
// count * size bytes, zeroed; NULL when the product overflows.
void *mem_array(size_t count, size_t size);
// Grows an array to at least `need` elements, doubling; 0 or -ENOMEM (array and capacity untouched).
int mem_grow(void **array, size_t *capacity, size_t need, size_t size);
char *mem_strdup(const char *text);
char *mem_strndup(const char *text, size_t len);
void mem_free(void *block);

// For tests: the allocation after the next `after` ones fails, once; a negative number turns it off. The
// count of allocations since is what mem_fail_count returns.
void mem_fail_set(long after);
long mem_fail_count(void);

// Local variables that free themselves: `autofree char *path = ...;`
static inline void mem_autofree(void *pointer)
{
	mem_free(*(void **)pointer);
}
#define autofree __attribute__((cleanup(mem_autofree)))

void mem_autoclose(const int *fd);
#define autoclose __attribute__((cleanup(mem_autoclose)))

#define ARRAY_SIZE(array)		    (sizeof(array) / sizeof((array)[0]))
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#define likely(x)			    __builtin_expect(!!(x), 1)
#define unlikely(x)			    __builtin_expect(!!(x), 0)
#define MIN(a, b)			    ((a) < (b) ? (a) : (b))
#define MAX(a, b)			    ((a) > (b) ? (a) : (b))
