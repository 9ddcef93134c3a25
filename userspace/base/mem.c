// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long fail_after = -1;
static long fail_count;

static bool mem_must_fail(void)
{
	if (likely(fail_after < 0))
		return false;
	return fail_count++ == fail_after;
}

void mem_fail_set(long after)
{
	fail_after = after;
	fail_count = 0;
}

long mem_fail_count(void)
{
	return fail_count;
}

void *mem_alloc(size_t size)
{
	return mem_must_fail() ? NULL : malloc(size ? size : 1);
}

void *mem_zalloc(size_t size)
{
	return mem_must_fail() ? NULL : calloc(1, size ? size : 1);
}

void *mem_realloc(void *old, size_t size)
{
	return mem_must_fail() ? NULL : realloc(old, size ? size : 1);
}

void *mem_array(size_t count, size_t size)
{
	size_t total;
	return __builtin_mul_overflow(count, size, &total) ? NULL : mem_zalloc(total);
}

int mem_grow(void **array, size_t *capacity, size_t need, size_t size)
{
	if (need <= *capacity)
		return 0;
	size_t cap = *capacity ? *capacity : 8, total;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			return -ENOMEM;
	if (__builtin_mul_overflow(cap, size, &total))
		return -ENOMEM;
	void *bigger = mem_realloc(*array, total);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	*capacity = cap;
	return 0;
}

char *mem_strndup(const char *text, size_t len)
{
	char *copy = mem_alloc(len + 1);
	if (!copy)
		return NULL;
	memcpy(copy, text, len);
	copy[len] = 0;
	return copy;
}

char *mem_strdup(const char *text)
{
	return mem_strndup(text, strlen(text));
}

void mem_free(void *block)
{
	free(block);
}

void mem_autoclose(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
