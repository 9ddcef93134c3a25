// SPDX-License-Identifier: Apache-2.0
// The fields of HTTP/1 that the codec itself understands: framing, persistence, Host, hop-by-hop. Internal to
// codecs/. Pure.
#pragma once

#include "codecs/http1.h"

// Takes note of a field that was just read: flags, framing (none, length, chunked), length, authority,
// upgrade. Returns why the message is to be refused, or HTTP1_OK. The first line has been read before.
enum http1_fault http1_field_note(struct http1_head *head, const struct field *field, bool response);

// Once all fields are noted and the framing is final: settles upgrade and expectation, sets head->persistent.
void http1_fields_finish(struct http1_head *head);
