// SPDX-License-Identifier: Apache-2.0
// Passing HTTP/1 heads on, and making those the proxy answers with. What needs no change goes as it was
// received, by reference; only what RFC 9110 7.6.1 asks for is taken out.
#pragma once

#include "base/buf.h"
#include "codecs/http1.h"

// Appends the request head as it goes upstream. `raw` is the slice that head->raw lies in. Hop-by-hop fields
// are left out, an absolute target becomes origin-form with its authority as Host (RFC 9112 3.2.2), and so
// does a Host that says other than the target of CONNECT. 0 or -ENOMEM.
int http1_forward_request(struct bufq *out, const struct http1_head *head, struct slice raw);

enum http1_connection { HTTP1_CONNECTION_IMPLIED, HTTP1_CONNECTION_CLOSE, HTTP1_CONNECTION_KEEP_ALIVE };

// The same for a response head; `connection` is what the client is told. `drop_coding` leaves out
// Transfer-Encoding, for a client that knows no chunks. 0 or -ENOMEM.
int http1_forward_response(struct bufq *out, const struct http1_head *head, struct slice raw,
			   enum http1_connection connection, bool drop_coding);

// A whole answer of the proxy's own: status line, text/plain body (none for HEAD). 0 or -ENOMEM.
int http1_reply(struct bufq *out, unsigned status, const char *text, bool head_only,
		enum http1_connection connection);
