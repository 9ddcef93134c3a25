// SPDX-License-Identifier: Apache-2.0
// Single values of the configuration: from text into their place, and back.
#pragma once

#include "base/emit.h"
#include "base/pool.h"
#include "control/keys.h"

// "a number", "a duration such as 5s", ...
const char *value_kind(enum key_type type);
// Parses `text` by the key's type, range and choices into *ret_value. 0; or a negative error, usually with a
// sentence appended to ret_why that says what would be valid.
int value_parse(const struct key *key, struct str text, struct arena *arena, void *ret_value,
		struct strbuf *ret_why);
// The value as it could stand in the file. Absent ones (empty text, no address) are left out.
void value_show(const struct key *key, const void *value, struct emit *emit, const char *name);
