// SPDX-License-Identifier: Apache-2.0
// Protocols in which requests and answers follow each other in order (codecs/streamed.h): takes requests off
// a downstream connection one by one, has each routed, sends it on a connection of the endpoint that nobody
// else uses meanwhile, and passes the answer back. Neither is held: pieces pass as they come, and a side that
// does not read stops the other.
//
// A request is sent once: what fails before anything of it was sent is taken to another endpoint, all else is
// answered by the codec's failure. An upstream connection is put back into the pool when both messages are
// through and nothing follows. One thread; belongs to its connection.
#pragma once

#include "codecs/streamed.h"
#include "exchange/call.h"

struct streamed_server {
	struct connection *connection;
	const struct framed_codec *codec;
	struct snapshot *snapshot;	 // of the request under way
	const struct virtual_host *host; // NULL: passed on to the original destination
	const struct route *route;
	const struct cluster *cluster;
	struct endpoint_state *endpoint; // of the current attempt; a reference, counted active
	struct upstream *upstream;	 // NULL: none
	struct bufq request;		 // what waits for it
	struct bufq answer;		 // read and not passed on yet
	struct loop_timer timer;	 // the request's deadline
	struct loop_task task;
	struct stream_state request_state, answer_state;
	uint64_t started_ns, request_bytes, answer_bytes;
	uint32_t tag;
	uint16_t status, http_status;
	uint8_t attempts;
	uint8_t flag; // enum exchange_flag
	uint8_t service_len, method_len;
	bool active : 1;   // a request is under way
	bool partial : 1;  // a request is not read whole yet; if it is not active its rest is dropped
	bool oneway : 1;   // nobody answers it
	bool answered : 1; // a part of the answer was passed on
	bool ended : 1;	   // nothing more is read from the client
	char names[CALL_NAMES];
};

// The connection speaks this protocol from here on; connection->in are its first bytes.
void streamed_server_start(struct connection *connection, const struct framed_codec *codec);
// The connection is closed: ends what is under way, and afterwards gives back the memory.
void streamed_server_stop(struct connection *connection);
void streamed_server_free(struct connection *connection);
// No request is under way, and no part of one is there.
bool streamed_server_is_idle(const struct connection *connection);
const char *streamed_server_state(const struct connection *connection);
// Fills in what it knows (for `weir conn show`).
void streamed_server_describe(const struct connection *connection, struct conn_info *info);
// The pool that those of a worker come from.
struct pool streamed_server_pool_init(void);
