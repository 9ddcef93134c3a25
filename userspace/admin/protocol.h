// SPDX-License-Identifier: Apache-2.0
// The language of the admin socket: one request and one response a connection. Pure functions over bytes.
//
//     request  = object SP verb SP format *( SP name "=" value ) LF
//     format   = "plain" / "json" / "pretty"
//     response = status SP length LF body          ; length: decimal count of the body's bytes
//     status   = "ok" / "failed" / "usage"         ; body: the result, or one sentence on what went wrong
//
// Words are printable ASCII without blanks; in a value every other byte, and '%', is written %XX. An example:
//
//     conn show json direction=inbound LF
#pragma once

#include "base/emit.h"
#include "base/str.h"

enum { ADMIN_PARAMS_MAX = 64 };

struct admin_param {
	struct str name, value;
};

struct admin_request {
	struct str object, verb;
	enum emit_format format;
	struct admin_param params[ADMIN_PARAMS_MAX];
	size_t param_count;
};

// Parses the request at the start of `bytes`, decoding values in place once the whole line is there; the
// views lie in `bytes`. Returns the length of the line (> 0), ERR_NEED_MORE, ERR_LIMIT (line or parameters),
// ERR_MALFORMED.
int admin_request_parse(char *bytes, size_t len, struct admin_request *ret_request);
// Writes a request: begin, any number of add, end.
void admin_request_begin(struct strbuf *out, const char *object, const char *verb, enum emit_format format);
void admin_request_add(struct strbuf *out, const char *name, struct str value);
void admin_request_end(struct strbuf *out);

enum admin_status { ADMIN_OK, ADMIN_FAILED, ADMIN_USAGE };

void admin_response_write(struct strbuf *out, enum admin_status status, struct str body);
// Parses the status line. Returns its length (> 0), ERR_NEED_MORE or ERR_MALFORMED.
int admin_response_parse(struct str bytes, enum admin_status *ret_status, uint64_t *ret_length);
