// SPDX-License-Identifier: Apache-2.0
// The client's side of HTTP/1: reads requests off a downstream connection, one after the other, and starts an
// exchange for each. A connection without a request under way holds no buffer.
#pragma once

#include "exchange/connection.h"

// The connection speaks HTTP/1 from here on; connection->in are its first bytes.
void http1_server_start(struct connection *connection);
// The response is sent and the connection stays: on to the next request.
void http1_server_next(struct connection *connection);
// Upstream takes more of the request's body.
void http1_server_resume(struct connection *connection);
// Ends the exchange under way, if there is one: the client is gone.
void http1_server_abort(struct connection *connection);
// Fills in what the exchange knows (for `weir conn show`).
void http1_server_describe(const struct connection *connection, struct conn_info *info);
