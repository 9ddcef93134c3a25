// SPDX-License-Identifier: Apache-2.0
// TCP pass-through: two streams joined, bytes unchanged both ways, with half-close and RST carried over.
#pragma once

#include "exchange/connection.h"
#include "exchange/upstream.h"

// Joins the connection with the default route of `host`, or with its original destination if that is NULL.
// Uses connection->early if there is one, and sends what connection->in holds first. The connection belongs
// to the tunnel from now on.
void tunnel_start(struct connection *connection, const struct virtual_host *host);
// Resets the connection, of a client that said nothing: it has waited for an endpoint in vain.
void tunnel_refuse(struct connection *connection, const struct virtual_host *host);
// Joins two streams that have already spoken (HTTP Upgrade, CONNECT): `upstream` is ready, `leftover` (moved)
// are its bytes behind the response head.
void tunnel_join(struct connection *connection, struct upstream *upstream, struct bufq *leftover);
// Takes into the counts of both streams what the kernel has passed on by itself since. Whether that was
// anything.
bool tunnel_count(struct tunnel *tunnel);
// Lets go of the upstream side, and logs the connection; connection_close calls it.
void tunnel_free(struct connection *connection);
// Fills in what it knows (for `weir conn show`).
void tunnel_describe(const struct tunnel *tunnel, struct conn_info *info);
// The pool that tunnels of a worker come from.
struct pool tunnel_pool_init(void);
