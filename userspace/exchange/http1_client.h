// SPDX-License-Identifier: Apache-2.0
// The endpoint's side of HTTP/1: sends an exchange's request on its upstream connection, reads the response,
// passes it on to the client.
#pragma once

#include "exchange/exchange.h"

extern const struct upstream_ops http1_client_ops;

// exchange->upstream is ready: sends what waits in exchange->request.
void http1_client_start(struct exchange *exchange);
// The client takes more of the response.
void http1_client_resume(struct exchange *exchange);
