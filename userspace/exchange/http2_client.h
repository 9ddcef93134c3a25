// SPDX-License-Identifier: Apache-2.0
// The endpoint's side of HTTP/2: upstream connections that exchanges of one worker share, as many streams on
// each as the endpoint takes. They are kept by the endpoint's state (mesh/balance.h) for as long as they are
// of use; what finds no place waits, within limits.
#pragma once

#include "exchange/exchange.h"

extern const struct exchange_client http2_client;

// Closes those on an endpoint that nobody uses; the others close when their last stream ends.
void http2_client_retire(struct endpoint_state *endpoint);
// The same for all of the worker.
void http2_client_drain(struct dataplane *dataplane);
// The pool that those of a worker come from.
struct pool http2_client_pool_init(void);
