// SPDX-License-Identifier: Apache-2.0
// One call of a framed RPC protocol, from its request frame to its answer. Here it is decided where the call
// goes, whether it is taken to another endpoint, and what is answered when it cannot be. What the client's
// connection carries is the business of framed_server.c, that of the endpoint's framed_upstream.c.
//
// A call belongs to its client's connection, holds the snapshot that it started with, and ends exactly once:
// answered, failed, or dropped. An answer that comes afterwards finds no call.
#pragma once

#include "exchange/exchange.h"
#include "exchange/frames.h"

struct framed_server;
struct framed_upstream;

enum { CALL_NAMES = 160 }; // service and method, as far as logs want them

struct call {
	struct list node;    // framed_server.calls, oldest first
	struct list waiting; // framed_upstream.waiting, until the connection is there
	struct framed_server *server;
	struct framed_upstream *upstream; // NULL: none yet
	struct exchange *carrier;	  // the stream that it rides in (carried_call.h); NULL: none
	struct snapshot *snapshot;
	const struct virtual_host *host; // NULL: passed on to the original destination
	const struct route *route;
	const struct cluster *cluster;
	struct endpoint_state *endpoint; // of the current attempt; a reference, counted active
	struct loop_timer timer;
	struct bufq request;  // the frame, or the head of one that comes in pieces; empty once sent
	struct frame frame;   // the request's
	uint64_t upstream_id; // while it waits for its answer
	uint64_t started_ns, response_bytes;
	uint64_t answer_left; // of an answer that comes in pieces by a stream
	uint32_t timeout_ms;  // for the whole of it; 0: no limit
	uint16_t status, http_status;
	uint8_t attempts;
	uint8_t flag; // enum exchange_flag
	uint8_t service_len, method_len;
	bool numbered; // has a slot of the upstream connection's
	bool answered; // the answer is on its way to the client
	bool queued;   // counts among framed_server.waiting_bytes until it is sent in its stream
	bool lengthy;  // its answer comes in pieces by a stream
	char names[CALL_NAMES];
};

// Begins a call with the request frame at the front of `in`, of which frame_wanted() bytes are taken. 0, or a
// negative error: then nothing was begun. The call may have ended when this returns.
int call_start(struct framed_server *server, const struct frame *frame, struct bufq *in);
// It was never sent and its connection could not be made: takes it elsewhere, or answers.
void call_unsent(struct call *call);
// What is known of the answer by its first bytes.
void call_note_answer(struct call *call, const struct frame *answer);
// The answer was passed on: ends it.
void call_complete(struct call *call);
// Answers by the proxy itself, if the caller awaits an answer, and ends it.
void call_fail(struct call *call, enum rpc_failure failure, enum exchange_flag flag);
// Logs, counts, frees. Its upstream lets go of it, and its client's connection.
void call_finish(struct call *call);
// The client is gone.
void call_drop(struct call *call);

static inline bool call_awaits_answer(const struct call *call)
{
	return call->frame.kind == FRAME_REQUEST;
}
static inline struct str call_service(const struct call *call)
{
	return (struct str){call->names, call->service_len};
}
static inline struct str call_method(const struct call *call)
{
	return (struct str){call->names + call->service_len, call->method_len};
}
// The pool that calls of a worker come from.
struct pool call_pool_init(void);
