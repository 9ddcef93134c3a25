// SPDX-License-Identifier: Apache-2.0
// A reader that walks over Hessian 2.0 values (the serialization of Dubbo and Bolt calls) to find the few
// strings that routing wants: it takes a string as a view, enters a map, and skips any other value without
// making anything of it. References are not followed. How deep values nest, how many there are and how many
// classes they define is capped (base/limits.h). Pure; any thread; memory is the caller's.
#pragma once

#include "base/cursor.h"
#include "base/limits.h"

// One sequence of values. `in.err` is sticky: ERR_NEED_MORE (the bytes end within a value), ERR_MALFORMED or
// ERR_LIMIT.
struct hessian {
	struct reader in;
	uint32_t _steps;
	uint16_t _class_count;
	uint16_t _field_counts[LIMIT_HESSIAN_CLASSES]; // of the classes defined so far
};

void hessian_init(struct hessian *h, struct str bytes);

// Takes the next value, whatever it is.
void hessian_skip(struct hessian *h);
// Takes the next value; true with its bytes (UTF-8, surrogates perhaps one by one) if it is a string in one
// piece. False for all else.
bool hessian_text(struct hessian *h, struct str *ret_text);
// Takes null if it comes next.
bool hessian_null(struct hessian *h);
// Takes the next value if it is a 32-bit integer; false, and takes nothing, if it is not one.
bool hessian_int(struct hessian *h, int32_t *ret_value);
// Takes the start of a map if one comes next: keys and values follow until hessian_map_ends says true.
bool hessian_map_begins(struct hessian *h);
bool hessian_map_ends(struct hessian *h);

// Writes text as a string of at most 1023 units; what is no UTF-8, or outside of the basic plane, as '?'.
void hessian_write_string(struct str text, struct writer *out);
