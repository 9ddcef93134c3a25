// SPDX-License-Identifier: Apache-2.0
// One request and its response, from the first byte of one to the last of the other. Here it is decided where
// the request goes, whether it is tried again, and what is answered when it cannot be. What the bytes look
// like is the business of http1_server.c (towards the client) and http1_client.c (towards the endpoint).
//
// An exchange lives in its own arena, holds the snapshot that it started with, and belongs to its connection.
#pragma once

#include "base/pool.h"
#include "exchange/connection.h"
#include "exchange/http1_message.h"
#include "exchange/upstream.h"

// Why the proxy itself ended an exchange: the letters that Envoy's access log uses.
enum exchange_flag {
	EXCHANGE_OK,		      // "-"
	EXCHANGE_NO_ROUTE,	      // "NR"
	EXCHANGE_NO_ENDPOINT,	      // "UH"
	EXCHANGE_CONNECT_FAILED,      // "UF"
	EXCHANGE_UPSTREAM_TERMINATED, // "UC"
	EXCHANGE_UPSTREAM_PROTOCOL,   // "UPE"
	EXCHANGE_TIMEOUT,	      // "UT"
	EXCHANGE_DOWNSTREAM_GONE,     // "DC"
	EXCHANGE_DOWNSTREAM_PROTOCOL, // "DPE"
	EXCHANGE_OVERLOADED,	      // "UO"
};
const char *exchange_flag_name(enum exchange_flag flag);

struct exchange {
	struct arena arena;
	struct connection *connection;
	struct snapshot *snapshot;
	const struct virtual_host *host; // NULL: passed on to the original destination
	const struct route *route;
	const struct cluster *cluster;
	struct endpoint_state *endpoint; // of the current attempt; a reference, counted active
	struct upstream *upstream;	 // NULL: none yet, or no more
	struct loop_timer timer;	 // the route's timeout
	struct str method, path, authority;
	struct bufq request;	 // what goes upstream, until there is a connection
	struct bufq replay;	 // what went upstream, while it may be needed again
	struct bufq response_in; // a response head that is not whole yet
	struct http1_body request_body, response_body;
	uint64_t started_ns, request_bytes, response_bytes;
	uint64_t upstream_sent; // stream.sent of the upstream connection when this request began on it
	uint16_t status;
	uint8_t attempts, interim;
	uint8_t flag; // enum exchange_flag
	bool client_http10 : 1;
	bool client_persistent : 1; // the client would send another request on this connection
	bool idempotent : 1;
	bool kept : 1;	     // all that was sent upstream is in `replay`
	bool fresh_only : 1; // no pooled connection for the next attempt
	bool wants_upgrade : 1;
	bool request_done : 1;
	bool response_started : 1; // its head was passed on
	bool upstream_persistent : 1;
	bool decode_chunks : 1; // for a client that knows no chunks
	bool refused : 1;	// answered by the proxy
};

// Makes one for the connection, in its own arena. NULL when out of memory.
struct exchange *exchange_new(struct connection *connection);
// Routes the request whose head was parsed and begins the first attempt. `raw` is the slice the head lies in.
// The exchange may have ended when this returns.
void exchange_start(struct exchange *exchange, const struct http1_head *head, struct slice raw);
// Body bytes for upstream (moved).
void exchange_send(struct exchange *exchange, struct bufq *bytes);
// Whether upstream takes more request bytes now.
bool exchange_takes_body(struct exchange *exchange);

// A pooled connection on which not a byte of the request was sent yet: what comes from it is no answer to the
// request.
bool exchange_is_untouched(const struct exchange *exchange);
// The upstream connection was lost or could not be made. `answerable`: no byte of a response has come. Tries
// again where that is safe, else answers or resets.
void exchange_upstream_failed(struct exchange *exchange, enum exchange_flag flag, int err);
// Answers by the proxy itself: a status and a sentence. Resets the client if a response is on its way
// already.
void exchange_reply(struct exchange *exchange, unsigned status, const char *text, enum exchange_flag flag);
// The response is complete.
void exchange_complete(struct exchange *exchange);
// Ends without an answer (the client is gone): drops upstream, logs, frees.
void exchange_abort(struct exchange *exchange, enum exchange_flag flag);
// Logs, counts and frees; upstream must have been let go. For those who took the connection over (tunnels).
void exchange_finish(struct exchange *exchange);
