// SPDX-License-Identifier: Apache-2.0
// Regular expressions in routes (pcre2): compiled once, anchored at both ends, with a limit on the steps of a
// match. Patterns that can back-track without bound (an unbounded repetition within another) are refused. A
// compiled pattern may be used by all threads.
#pragma once

#include "base/str.h"

#include <stdbool.h>

struct pcre2_real_code_8;

// 0, ERR_LIMIT (longer than LIMIT_REGEX_BYTES), or ERR_MALFORMED; then a sentence is appended to ret_error.
int regex_compile(struct str pattern, struct pcre2_real_code_8 **ret_regex, struct strbuf *ret_error);
void regex_free(struct pcre2_real_code_8 *regex); // NULL is fine
// Whether the whole text matches. A match that exceeds LIMIT_REGEX_STEPS does not.
bool regex_matches(const struct pcre2_real_code_8 *regex, struct str text);
// Frees what the calling thread keeps for matching.
void regex_thread_done(void);
