// SPDX-License-Identifier: Apache-2.0
// Whether the local bypass works on this kernel: a few TCP connections over loopback go through the very
// programs that the proxy's will, and what a stream has to be is tried on them: big transfers both ways at
// once with every byte compared, half-close, the order of the last bytes and the end, reset, a reader that
// does not read, peeking, and what is left when all is closed; and then joined directions
// (acceleration_join_check.h). Blocking, for ACCELERATION_CHECK_MS at most.
#pragma once

#include "base/str.h"

#include <stdint.h>

enum { ACCELERATION_CHECK_MS = 3000 };

// The bypass is set (net/bypass.h); *port is where the programs look for the port whose connections they
// bypass. 0, or a negative error and a sentence that names the step that failed.
int acceleration_check(uint16_t *port, struct strbuf *ret_why);
