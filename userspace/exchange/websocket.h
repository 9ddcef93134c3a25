// SPDX-License-Identifier: Apache-2.0
// The handshake of WebSocket over HTTP/1 (RFC 6455 4), which RFC 8441 leaves out over HTTP/2: where one is
// turned into the other, the proxy has the key made, or answers it. What follows are bytes.
#pragma once

#include "base/pool.h"
#include "base/str.h"

enum { WEBSOCKET_KEY_BYTES = 24, WEBSOCKET_ACCEPT_BYTES = 28 };

// A new key (not terminated) and, in the arena, the answer that it has to get. 0 or -ENOMEM.
int websocket_begin(struct arena *arena, char ret_key[WEBSOCKET_KEY_BYTES], struct str *ret_accept);
// The answer to a key, in the arena. 0, -ENOMEM or ERR_MALFORMED (no key has that length).
int websocket_accept(struct arena *arena, struct str key, struct str *ret_accept);
