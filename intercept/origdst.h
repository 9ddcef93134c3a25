// SPDX-License-Identifier: Apache-2.0
// Where a redirected connection was going: what the application gave to connect(). Any thread; no state.
#pragma once

#include "base/addr.h"

// The original destination of an accepted TCP connection. For one that was not redirected it is the address
// that it came in by. 0, or a negative error, above all -ENOENT: the kernel does not know the connection (no
// connection tracking here, or its entry was flushed); what then happens is the caller's policy.
int original_destination(int fd, struct addr *ret_addr);

// The same for a caller who knows the family of the local address already (AF_INET for v4-mapped ones): one
// system call instead of two.
int original_destination_family(int fd, int family, struct addr *ret_addr);
