// SPDX-License-Identifier: Apache-2.0
// A strict JSON reader (RFC 8259): a text becomes an array of values in the order of the text, each with the
// number of values inside of it, so that walking is arithmetic and a value costs 24 bytes. Pure; any thread.
#pragma once

#include "base/str.h"

#include <stdint.h>

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

// Elements stand behind their array; in an object each key, a string, is followed by its value.
struct json_value {
	const char *p; // strings without quotes and escapes (NUL as U+FFFD), the others as they are written
	uint32_t len;
	uint32_t size : 29; // values, itself and all in it
	uint32_t type : 3;  // enum json_type
};

// Parses one value that is the whole text, which is changed in doing so and must stay. 0 (the caller frees
// with mem_free); ERR_MALFORMED; ERR_LIMIT: nested deeper than JSON_DEPTH_MAX, or longer than 512 MiB;
// -ENOMEM.
int json_read(char *text, size_t len, struct json_value **ret_values);
// The same of a stranger's text: ERR_LIMIT also if it has more values than that, keys counted.
int json_read_at_most(char *text, size_t len, size_t values_max, struct json_value **ret_values);
static inline struct str json_str_of(const struct json_value *value)
{
	return (struct str){value->p, value->len};
}
// The element behind `at` (NULL: the first) of an array, or the key of an object; NULL: no more, or no such
// thing.
const struct json_value *json_next(const struct json_value *container, const struct json_value *at);
// The value of a key; NULL if there is none, or `object` is none.
const struct json_value *json_member(const struct json_value *object, const char *key);
