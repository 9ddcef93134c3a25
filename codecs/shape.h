// SPDX-License-Identifier: Apache-2.0
// First bytes compared with the ranges that each of them may lie in: how binary protocols are told apart.
#pragma once

#include "base/str.h"

#include <stdint.h>

// What a protocol says of the first bytes of a connection.
enum detect_verdict { DETECT_NO, DETECT_MAYBE, DETECT_YES };

struct byte_range {
	uint8_t low, high;
};

// Whether each byte lies in the range of its place; DETECT_MAYBE while there are fewer.
enum detect_verdict shape_fits(struct str bytes, const struct byte_range *shape, size_t count);
