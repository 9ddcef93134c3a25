// SPDX-License-Identifier: Apache-2.0
// The client's side of a framed RPC protocol: takes as many frames off a downstream connection as are there,
// answers heartbeats, begins a call for each request, and sends what answers them.
//
// Nothing is read while the client does not take its answers, while its calls wait for upstream connections
// or for room on them, or while too many are under way. A request that is too long to be held passes through
// in pieces; until it is over nothing else is read. So does an answer; meanwhile other answers wait.
//
// A call that came in a stream between two sidecars has a server of its own (exchange/call_stream.h): the
// link says where frames come from and go to.
#pragma once

#include "exchange/call.h"

// The client of a server, as calls and upstream connections see it.
struct framed_link {
	void (*write)(struct framed_server *server, struct bufq *bytes); // moved
	// It takes no more now; framed_server_drained is to come.
	bool (*congested)(struct framed_server *server);
	size_t (*queued)(const struct framed_server *server); // bytes
	uint64_t (*sent)(const struct framed_server *server); // bytes, since ever
	// May go on reading. Never reads at once.
	void (*resume)(struct framed_server *server);
	// An answer cannot be completed.
	void (*reset)(struct framed_server *server);
	// The call has ended; the server may, too, at the end of the turn.
	void (*call_over)(struct framed_server *server, const struct call *call);
};

struct framed_server {
	struct connection *connection;
	struct exchange
	    *exchange; // the stream that it serves; NULL: a whole connection, or the stream is over
	const struct framed_link *link;
	const struct framed_codec *codec;
	struct bufq in;			 // read and not used yet
	struct snapshot *snapshot;	 // for which `host` was looked up
	const struct virtual_host *host; // that the original destination names; NULL: none
	struct endpoint_state *direct;	 // the original destination as an endpoint; NULL: not needed yet
	struct list calls;
	unsigned call_count;
	uint16_t variant;		  // of the last frame
	unsigned carried_count;		  // of the calls, in streams between sidecars
	size_t waiting_bytes;		  // of calls that wait for a connection
	struct frame_rest rest;		  // of a request that passes in pieces
	struct call *expected;		  // whose rest it is, while its connection is awaited
	struct framed_upstream *rest_to;  // where it goes
	struct call *carrying;		  // or whose stream takes it; none of the three: it is skipped
	struct call *answering;		  // whose answer comes in pieces
	struct bufq held;		  // answers that wait for its end
	struct list paused;		  // upstream connections that are not read until the client reads
	struct list blocked;		  // the node in framed_upstream.blocked: that one takes no more now
	struct loop_timer stall;	  // how long a client may keep others waiting
	struct loop_task task, free_task; // of a stream: goes on; frees
	uint64_t stall_sent;
	uint32_t timeout_ms; // of a stream: what is left to the caller; 0: no limit
	uint8_t kind;	     // of a stream: enum frame_kind of its frame, as its head says
	bool begun;	     // of a stream: its call
	bool broken;	     // of a stream: it cannot be answered
	bool ended;	     // nothing more is read: the client's end, or nothing that can be read
	bool draining;	     // closes when no call is under way
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
void framed_server_describe(const struct framed_server *server, struct conn_info *info);
// Calls fn for each call under way, oldest first.
void framed_server_each_call(const struct framed_server *server, stream_info_fn fn, void *arg);
// The pool that those of a worker come from.
struct pool framed_server_pool_init(void);

// --- for links ----------------------------------------------------------------------------------------------
// A server that reads nothing by itself; zeroed memory before.
void framed_server_init(struct framed_server *server, struct connection *connection,
			const struct framed_codec *codec, const struct framed_link *link);
// Drops the calls under way and lets go of everything but the memory.
void framed_server_done(struct framed_server *server);
// Passes on more of a request that comes in pieces. 0, ERR_NEED_MORE or -ENOMEM.
int framed_server_take_rest(struct framed_server *server);
// The client takes more again.
void framed_server_drained(struct framed_server *server);
// Counts and logs a frame that is refused.
void framed_server_refused(const struct framed_server *server, int err);

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
// Sends a whole answer, or (of framed_server.answering) a piece of one; moved.
void framed_server_send(struct framed_server *server, const struct call *call, struct bufq *bytes);
// The answer in pieces is complete.
void framed_server_answered(struct framed_server *server);
// Whether the client takes no more now; then what is paused is resumed later.
bool framed_server_congested(struct framed_server *server);
// So much waits to be sent that answers should not be read.
bool framed_server_is_slow(struct framed_server *server);
// Counts how long it is so; the client is reset when it takes nothing for too long.
void framed_server_watch(struct framed_server *server);
void framed_server_reset(struct framed_server *server);
// May go on reading. Never reads at once.
void framed_server_resume(struct framed_server *server);
