// SPDX-License-Identifier: Apache-2.0
// Whether joined directions (net/bypass.h) work on this kernel: an application's bytes go out of a socket of
// the proxy past it, or by way of it when there is no room, and what a stream has to be is tried on that:
// order and bytes at each change from the one way to the other, big transfers both ways, half-close, resets
// of both ends, a receiver that does not read, and what is left when all is closed.
#pragma once

#include "proxy/acceleration_peers.h"

// The bypass is set and works. 0, or a negative error and the step that failed.
int acceleration_join_check(struct peers *peers, const char **ret_step);
