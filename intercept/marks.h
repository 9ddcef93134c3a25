// SPDX-License-Identifier: Apache-2.0
// Socket marks (SO_MARK) by which the kernel's rules tell the proxy's own connections from the application's.
// The outbound proxy's connections to endpoints carry one mark, everything else that the proxy opens the
// other: to the application (inbound), to DNS servers, to the control plane, health checks. The two differ
// because a connection to an endpoint may lead back to this very host: then it belongs to the inbound proxy
// (which ends the TLS), whereas a connection to the application must never be captured again. A third one is
// on connections to the application that come from the client's address: their packets, both ways, are kept
// on this host by it. Only the masked bits count, so that the other bits are free for routing rules of
// others.
#pragma once

#include <stdint.h>

#define WEIR_MARK_OUTBOUND 0x00000771u
#define WEIR_MARK_INBOUND  0x00000772u
#define WEIR_MARK_CLIENT   0x00000773u
#define WEIR_MARK_MASK	   0x00000fffu
