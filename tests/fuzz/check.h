// SPDX-License-Identifier: Apache-2.0
// For fuzz targets. assert would be compiled out of the release build, which replays the seeds, too.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// A copy that ends where its memory does, so that the sanitizer sees a byte read too far. To be freed.
static inline char *exact_copy(const void *bytes, size_t len)
{
	char *copy = malloc(len ? len : 1);
	CHECK(copy);
	if (len)
		memcpy(copy, bytes, len);
	return copy;
}
