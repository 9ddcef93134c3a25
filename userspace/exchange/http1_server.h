// SPDX-License-Identifier: Apache-2.0
// The client's side of HTTP/1: reads requests off a downstream connection, one after the other, and starts an
// exchange for each. A connection without a request under way holds no buffer.
#pragma once

#include "exchange/connection.h"

// The connection speaks HTTP/1 from here on; connection->in are its first bytes. It may turn out to be HTTP/2
// (a preface, or Upgrade: h2c), and is handed to exchange/http2_server.h then.
void http1_server_start(struct connection *connection);
// Ends the exchange under way, if there is one: the client is gone.
void http1_server_abort(struct connection *connection);
