// SPDX-License-Identifier: Apache-2.0
// The endpoint's side of HTTP/1: sends an exchange's request on an upstream connection of its own, reads the
// response, passes it on to the client: as it came where that speaks HTTP/1, too, else as a message.
#pragma once

#include "exchange/exchange.h"

extern const struct exchange_client http1_client;
