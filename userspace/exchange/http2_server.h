// SPDX-License-Identifier: Apache-2.0
// The client's side of HTTP/2: streams of a downstream connection, each an exchange of its own.
#pragma once

#include "exchange/connection.h"

struct http1_head;

// The connection speaks HTTP/2 from here on; connection->in are its first bytes, the preface in front.
void http2_server_start(struct connection *connection);
// If the request that was just read (connection->exchange, not routed yet) asks for h2c and can have it
// (RFC 7540 3.2), answers 101, and the exchange becomes stream 1. False: it goes on in HTTP/1.
bool http2_server_upgrade(struct connection *connection, const struct http1_head *head);
// No new streams; closes when the last one has ended.
void http2_server_drain(struct connection *connection);
// Ends all exchanges: the client is gone. connection_close calls it.
void http2_server_abort(struct connection *connection);
// Frees what is left, at the end of the turn. NULL is fine.
void http2_server_free(struct connection *connection);
// Streams that are open.
unsigned http2_server_streams(const struct connection *connection);
// The pool that those of a worker come from.
struct pool http2_server_pool_init(void);
// Fills in what the latest exchange knows (for `weir conn show`).
void http2_server_describe(const struct connection *connection, struct conn_info *info);
