// SPDX-License-Identifier: Apache-2.0
// From the bytes of a request to the bytes of the response; no I/O.
#pragma once

#include "admin/backend.h"
#include "base/str.h"

// Answers the request at the start of `bytes` (which it changes). 0 with the whole response appended to
// ret_answer (a malformed request gets one, too), or ERR_NEED_MORE.
int admin_answer(const struct admin_backend *backend, char *bytes, size_t len, struct strbuf *ret_answer);
