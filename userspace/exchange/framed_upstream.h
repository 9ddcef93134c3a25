// SPDX-License-Identifier: Apache-2.0
// The endpoint's side of a framed RPC protocol: connections that carry the calls of many clients at a time. A
// worker has few of them to an endpoint (endpoint_state.shared), for each protocol, direction and choice of
// TLS. Every call gets an id of the proxy's own; the answer gets its client's id back.
//
// A frame begins on a connection only when all of it is there; one that is too long for that gets a
// connection of its own until it is through, which is reset if its client goes away meanwhile. When a
// connection is lost, every call that was sent on it is answered by a failure, and those not sent yet are
// taken elsewhere. A connection that is silent is sent heartbeats; it is closed when one is not answered, or
// when it has not been used for long.
#pragma once

#include "exchange/call.h"
#include "exchange/upstream.h"

// Sends the call's request to the target, at once or when there is a connection; with a frame in pieces, the
// head of it. 0: the call is on its way, and may have ended already; ERR_LIMIT: too many calls are under way
// there; or another negative error.
int framed_upstream_call(struct call *call, const struct upstream_target *target);
// The call ended: what answers it is dropped.
void framed_upstream_forget(struct call *call);
// Sends more of the frame that comes in pieces (framed_server.rest_to); moved.
void framed_upstream_send_rest(struct framed_server *server, struct bufq *bytes);
// The frame that comes in pieces will not be complete. NULL is fine.
void framed_upstream_abort(struct framed_upstream *upstream);
// Those of a list (framed_server.paused) are read again, from the end of the turn on.
void framed_upstream_resume_all(struct list *paused);
// Whether calls of other clients than this one are under way on those of a list.
bool framed_upstream_others_wait(const struct list *paused, const struct framed_server *server);
// Fills in what it knows; NULL is fine.
void framed_upstream_describe(const struct framed_upstream *upstream, struct conn_info *info);

// The endpoint gets no further calls: its connections are closed when no call is under way on them.
void framed_upstream_retire(struct endpoint_state *endpoint);
// Closes all of a worker at once.
void framed_upstream_close_all(struct dataplane *dataplane);
// The pool that those of a worker come from.
struct pool framed_upstream_pool_init(void);
