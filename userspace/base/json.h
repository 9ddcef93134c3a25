// SPDX-License-Identifier: Apache-2.0
// A streaming JSON writer (RFC 8259) into a strbuf. It keeps track of commas and nesting; the caller opens
// and closes. Keys are given inside objects and NULL inside arrays. Bytes that are no UTF-8 come out as
// U+FFFD.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 32 };

struct json {
	struct strbuf *out;
	bool pretty;
	uint8_t _depth;
	uint32_t _filled; // a bit a level: something was written there
};

void json_init(struct json *json, struct strbuf *out, bool pretty);
void json_open_object(struct json *json, const char *key);
void json_close_object(struct json *json);
void json_open_array(struct json *json, const char *key);
void json_close_array(struct json *json);
void json_str(struct json *json, const char *key, struct str value);
void json_text(struct json *json, const char *key, const char *value); // NULL becomes null
void json_uint(struct json *json, const char *key, uint64_t value);
void json_int(struct json *json, const char *key, int64_t value);
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

// The value alone, with its quotes.
void json_escape(struct strbuf *out, struct str value);
