// SPDX-License-Identifier: Apache-2.0
// HTTP/1 to and from the message that both versions share (codecs/message.h): heads, chunks, trailers. Bytes
// are appended to queues. Names and values are looked at once more before they become lines of HTTP/1: none
// with a control byte in it gets there, wherever it came from. No I/O.
#pragma once

#include "base/buf.h"
#include "base/pool.h"
#include "codecs/http1.h"
#include "codecs/message.h"

// The message of a parsed head, with copies in the arena: hop-by-hop fields, Host, Transfer-Encoding and
// HTTP2-Settings left out, names in lower case. 0 or -ENOMEM.
int http1_to_message(struct arena *arena, const struct http1_head *head, struct message *ret_message);
// The same for trailers. Those that belong into a head (RFC 9110 6.5.1) are left out.
int http1_to_trailers(struct arena *arena, const struct field *fields, size_t count,
		      struct field **ret_fields, size_t *ret_count);

// How a head is written.
struct http1_style {
	struct str connection; // a whole line ("Connection: close\r\n"), or empty
	bool chunked;	       // say so: the body will be
	// Where a request upgrades, and in the answer 101: the protocol, and Sec-WebSocket-Key or -Accept.
	struct str upgrade, websocket;
};

// The phrase that goes with a status; never NULL.
const char *http1_reason(unsigned status);

// 0, -ENOMEM, or ERR_MALFORMED: something in it cannot be said in HTTP/1.
int http1_write_request(struct bufq *out, const struct message *message, const struct http1_style *style);
int http1_write_response(struct bufq *out, const struct message *message, const struct http1_style *style);
// Frames what is in `bytes` as one chunk; nothing if it is empty. 0 or -ENOMEM.
int http1_write_chunk(struct bufq *bytes);
// The last chunk and the trailers. 0, -ENOMEM or ERR_MALFORMED.
int http1_write_end(struct bufq *out, const struct field *trailers, size_t count);
