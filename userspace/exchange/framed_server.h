// SPDX-License-Identifier: Apache-2.0
// The client's side of a framed RPC protocol: takes as many frames off a downstream connection as are there,
// answers heartbeats, begins a call for each request, and sends what answers them.
//
// Nothing is read while the client does not take its answers, while its calls wait for upstream connections
// or for room on them, or while too many are under way. A request that is too long to be held passes through
// in pieces; until it is over nothing else is read. So does an answer; meanwhile other answers wait.
#pragma once

#include "exchange/call.h"

struct framed_server {
	struct connection *connection;
	const struct framed_codec *codec;
	struct snapshot *snapshot;	 // for which `host` was looked up
	const struct virtual_host *host; // that the original destination names; NULL: none
	struct endpoint_state *direct;	 // the original destination as an endpoint; NULL: not needed yet
	struct list calls;
	unsigned call_count;
	uint16_t variant;		   // of the last frame
	size_t waiting_bytes;		   // of calls that wait for a connection
	struct frame_rest rest;		   // of a request that passes in pieces
	struct call *expected;		   // whose rest it is, while its connection is awaited
	struct framed_upstream *rest_to;   // where it goes; neither of the two: it is skipped
	struct framed_upstream *answering; // sends an answer in pieces
	struct bufq held;		   // answers that wait for its end
	struct list paused;		   // upstream connections that are not read until the client reads
	struct list blocked;		   // the node in framed_upstream.blocked: that one takes no more now
	struct loop_timer stall;	   // how long a client may keep others waiting
	uint64_t stall_sent;
	bool ended;    // nothing more is read: the client's end, or nothing that can be read
	bool draining; // closes when no call is under way
	char last_names[CALL_NAMES];
	uint8_t last_service_len, last_method_len;
};

// The connection speaks this protocol from here on; connection->in are its first bytes.
void framed_server_start(struct connection *connection, const struct framed_codec *codec);
// Drops the calls under way and lets go of everything, when the connection is closed; and frees it with that.
void framed_server_stop(struct connection *connection);
void framed_server_free(struct connection *connection);
// No call is under way, and no part of a frame is there.
bool framed_server_is_idle(const struct connection *connection);
// Says goaway where the protocol can, and closes when no call is under way.
void framed_server_drain(struct connection *connection);
// "request", "idle", "closing".
const char *framed_server_state(const struct connection *connection);
// Fills in what it knows (for `weir conn show`): of the oldest call under way, else of the last one.
void framed_server_describe(const struct connection *connection, struct conn_info *info);
// The pool that those of a worker come from.
struct pool framed_server_pool_init(void);

// --- for calls ----------------------------------------------------------------------------------------------
const struct virtual_host *framed_server_host(struct framed_server *server);
// A reference. NULL when out of memory.
struct endpoint_state *framed_server_direct(struct framed_server *server);
// The rest of this call's request is to come.
void framed_server_expect(struct call *call);
// Sends a frame of the proxy's own. False when out of memory: then the connection, and all its calls, are
// gone.
bool framed_server_reply(struct framed_server *server, const void *bytes, size_t len);
// The call is over.
void framed_server_forget(struct framed_server *server, const struct call *call);

// --- for upstream connections -------------------------------------------------------------------------------
// Sends a whole answer, or (being framed_server.answering) a piece of one; moved.
void framed_server_send(struct framed_server *server, struct framed_upstream *from, struct bufq *bytes);
// The answer in pieces is complete.
void framed_server_answered(struct framed_server *server);
// So much waits to be sent that answers should not be read.
bool framed_server_is_slow(struct framed_server *server);
// Counts how long it is so; the client is reset when it takes nothing for too long.
void framed_server_watch(struct framed_server *server);
// May go on reading. Never reads at once.
void framed_server_resume(struct framed_server *server);
