// SPDX-License-Identifier: Apache-2.0
// Whether relaying works on this kernel: TCP connections over loopback go through the very program and flows
// (exchange/flow.h) that the proxy's will, and what a stream has to be is tried on them: big transfers both
// ways at once with every byte compared, a receiver that does not read, bytes of which a part was read
// before, half-close, the order of the last bytes and the end, resets, and what is left when all is closed.
// Blocking, for RELAYING_CHECK_MS at most.
#pragma once

#include "base/str.h"

enum { RELAYING_CHECK_MS = 10000 };

// Relays are set (net/relay.h). 0, or a negative error and a sentence that names the step that failed.
int relaying_check(struct strbuf *ret_why);
