// SPDX-License-Identifier: Apache-2.0
// The listening sockets of one worker: outbound on the loopback addresses (only redirected connections and
// the host's own processes get there), inbound on all. When the process runs out of descriptors a listener
// rests a moment instead of spinning.
#pragma once

#include "exchange/dataplane.h"

// Listens for both directions, IPv4 and (where the host has it) IPv6. 0, or a negative error with nothing
// open.
int listeners_open(struct dataplane *dataplane);
// Accepts what the kernel has connected already.
void listeners_drain(struct dataplane *dataplane);
void listeners_close(struct dataplane *dataplane);
