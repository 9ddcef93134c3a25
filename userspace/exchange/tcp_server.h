// SPDX-License-Identifier: Apache-2.0
// The client's side of TCP that is carried in a stream between sidecars (exchange/transport.h): an exchange
// without a request, which asks for a tunnel to the cluster's endpoint. While the client is silent it may
// begin as a probe: if the application speaks first, the connection becomes this; if the client turns out to
// speak HTTP, the probe is dropped.
#pragma once

#include "exchange/connection.h"

// The connection is carried to the cluster, a choice of the host's default route; what connection->in holds
// goes first.
void tcp_server_start(struct connection *connection, const struct virtual_host *host,
		      const struct cluster *cluster);
// Begins a probe: connection->probe.
void tcp_server_probe(struct connection *connection, const struct virtual_host *host,
		      const struct cluster *cluster);
// The client's bytes are no HTTP: the probe becomes what carries it, if it leads to that host. False: there
// is none.
bool tcp_server_adopt(struct connection *connection, const struct virtual_host *host);
// There is no use for the probe. Safe without one.
void tcp_server_drop_probe(struct connection *connection);
