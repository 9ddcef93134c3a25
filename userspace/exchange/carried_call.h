// SPDX-License-Identifier: Apache-2.0
// The near end of a framed RPC call that rides in a stream between two sidecars (exchange/transport.h): the
// call becomes an exchange of its own, which picks the endpoint, tries again and opens the stream like every
// other one, and what comes back becomes the call's answer or its failure. The frame keeps its caller's id,
// which the answer has to repeat.
//
// The exchange belongs to its call and ends with it: a caller that is gone resets the stream. An answer that
// can be held is passed on when the stream has ended; a longer one in pieces, one at a time to a client.
#pragma once

#include "exchange/call.h"

// Begins; `head` is what was read from the request. The call may have ended when this returns.
void carried_call_start(struct call *call, const struct head *head);
// Sends more of a request that comes in pieces; moved. The call may have ended when this returns.
void carried_call_send_rest(struct call *call, struct bufq *bytes);
// The client takes more, or an answer in pieces is through: goes on with one that waits for that.
void carried_call_resume(struct framed_server *server);
// The call ended, and with it the exchange, if there is one.
void carried_call_forget(struct call *call);
