// SPDX-License-Identifier: Apache-2.0
// The application's side of TCP that came in a stream between sidecars (exchange/transport.h): the exchange's
// tunnel is granted when the connection to the application is there, and from then on bytes, ends and resets
// are passed both ways. One connection each, never pooled.
#pragma once

#include "exchange/exchange.h"

extern const struct exchange_client tcp_client;
