// SPDX-License-Identifier: Apache-2.0
// One request and its response, from the first byte of one to the last of the other. Here it is decided where
// the request goes, whether it is tried again, and what is answered when it cannot be. What the bytes look
// like is the business of two tables of operations: `server` towards the client (http1_server.c,
// http2_server.c) and `client` towards the endpoint (http1_client.c, http2_client.c).
//
// Between HTTP/1 and HTTP/1 an exchange is `raw`: bytes pass as they came, and the two sides know each other.
// Otherwise heads pass as messages (codecs/message.h), bodies as payload, trailers as fields.
//
// An exchange lives in its own arena, holds the snapshot that it started with, and belongs to its connection,
// which has one of HTTP/1 and many of HTTP/2.
#pragma once

#include "base/pool.h"
#include "codecs/http1.h"
#include "codecs/message.h"
#include "exchange/connection.h"
#include "exchange/http2_stream.h"
#include "exchange/upstream.h"

// Why the proxy itself ended an exchange: the letters that Envoy's access log uses.
enum exchange_flag {
	EXCHANGE_OK,		      // "-"
	EXCHANGE_NO_ROUTE,	      // "NR"
	EXCHANGE_NO_ENDPOINT,	      // "UH"
	EXCHANGE_CONNECT_FAILED,      // "UF"
	EXCHANGE_UPSTREAM_TERMINATED, // "UC"
	EXCHANGE_UPSTREAM_REFUSED,    // "UR": the endpoint did not begin with it (REFUSED_STREAM, GOAWAY)
	EXCHANGE_UPSTREAM_PROTOCOL,   // "UPE"
	EXCHANGE_TIMEOUT,	      // "UT"
	EXCHANGE_DOWNSTREAM_GONE,     // "DC"
	EXCHANGE_DOWNSTREAM_PROTOCOL, // "DPE"
	EXCHANGE_OVERLOADED,	      // "UO"
};
const char *exchange_flag_name(enum exchange_flag flag);

// How an attempt ends: the response is complete; the endpoint failed; or it is cut short.
enum release { RELEASE_WHOLE, RELEASE_FAILED, RELEASE_CUT };

// Towards the client.
struct exchange_server {
	// What the exchange has of a response, in this order; not called for a raw one. 0, or a negative
	// error: it cannot be said in this protocol. `bytes` is moved.
	int (*interim)(struct exchange *exchange, const struct message *message);
	int (*head)(struct exchange *exchange, const struct message *message);
	int (*body)(struct exchange *exchange, struct bufq *bytes);
	int (*trailers)(struct exchange *exchange, const struct field *fields, size_t count);
	// The endpoint's half of a tunnel is over; the client's goes on.
	void (*half_close)(struct exchange *exchange);
	// The response is complete, the upstream side let go: finishes the exchange, now or when all is sent.
	void (*complete)(struct exchange *exchange);
	// A whole answer of the proxy's own; then `complete` follows. 0 or -ENOMEM.
	int (*reply)(struct exchange *exchange, unsigned status, const char *text);
	// The response cannot go on: cuts it and finishes the exchange.
	void (*reset)(struct exchange *exchange);
	// Upstream takes more of the body.
	void (*resume)(struct exchange *exchange);
	// The client takes no more of the response now; client->resume will be called.
	bool (*congested)(struct exchange *exchange);
	// The exchange is about to be freed.
	void (*detach)(struct exchange *exchange);
};

// Towards the endpoint.
struct exchange_client {
	// Makes what goes first from exchange->message (not called for a raw exchange). 0 or a negative
	// error.
	int (*prepare)(struct exchange *exchange);
	// Begins an attempt: on a connection there is, or a new one. 0 or a negative error.
	int (*start)(struct exchange *exchange, const struct upstream_target *target);
	// The same on a connection that was dialled early (now its own).
	void (*adopt)(struct exchange *exchange, struct upstream *upstream);
	// Whether there is a connection that takes bytes.
	bool (*ready)(const struct exchange *exchange);
	bool (*congested)(struct exchange *exchange);
	// Sends (moves) request bytes; request_done says that they are the last. Only when ready. Where the
	// response is done already (of a tunnel), exchange_complete follows when all is sent.
	void (*send)(struct exchange *exchange, struct bufq *bytes);
	// The client takes more of the response.
	void (*resume)(struct exchange *exchange);
	// Nothing of the request was dealt with by the endpoint, as far as one can know.
	bool (*untouched)(const struct exchange *exchange);
	// The attempt is over. Safe when none began.
	void (*release)(struct exchange *exchange, enum release how);
	// TLS of the connection, if there is one.
	const struct tls_conn *(*tls)(const struct exchange *exchange);
};

struct exchange {
	struct arena arena;
	struct connection *connection;
	const struct exchange_server *server;
	const struct exchange_client *client; // NULL: not routed
	struct snapshot *snapshot;
	const struct virtual_host *host; // NULL: passed on to the original destination
	const struct route *route;
	const struct cluster *cluster;
	struct endpoint_state *endpoint; // of the current attempt; a reference, counted active
	struct upstream *upstream;	 // HTTP/1; NULL: none yet, or no more
	struct http2_client *shared;	 // HTTP/2: the connection that carries it, or will
	struct http2_stream down, up;	 // HTTP/2: towards the client, towards the endpoint
	const struct framed_codec *codec; // of the call that rides in a stream between two sidecars
	struct call *call;		  // near end: that one
	struct framed_server *framed;	  // far end: what deals with it
	struct loop_timer timer;	 // the route's timeout, or the caller's deadline
	struct str method, path, authority;
	struct message message; // the request's head (not raw)
	struct field *request_trailers;
	struct str websocket;	 // what Sec-WebSocket-Accept is or has to be
	struct bufq request;	 // what goes upstream, until there is a connection
	struct str replay_first; // what went upstream, while it may be needed again: first a little, copied
	struct bufq replay;	 // and then the rest
	struct bufq response_in; // a response head, trailers, or a call's answer, that are not whole yet
	struct bufq request_in;	 // sent before its tunnel was granted; trailers that are not whole yet
	struct http1_body request_body, response_body;
	uint64_t started_ns, request_bytes, response_bytes;
	uint64_t upstream_sent; // stream.sent of the upstream connection when this request began on it
	uint32_t reset_code;	// of HTTP/2, to be carried to the other side; 0: nobody reset it
	uint16_t status;
	uint16_t request_trailer_count;
	int16_t grpc_status; // -1: none seen
	uint8_t attempts, interim;
	uint8_t flag;	    // enum exchange_flag
	uint8_t inner;	    // enum protocol: what rides in a stream between two sidecars; 0: none does
	bool raw : 1;	    // HTTP/1 on both sides
	bool transport : 1; // towards the endpoint it does
	bool silent : 1;    // not logged: nobody came to want it, or its call is
	bool grpc : 1; // the caller speaks gRPC: known with its head
	bool client_http10 : 1;
	bool client_persistent : 1; // the client would send another request on this connection
	bool awaits_continue : 1;   // it asked whether to send the body (Expect), and was not told to
	bool idempotent : 1;
	bool kept : 1;	     // all that was sent upstream is in `replay_first` and `replay`
	bool fresh_only : 1; // no pooled connection for the next attempt
	bool wants_upgrade : 1;
	bool wants_tunnel : 1; // CONNECT or an upgrade, not raw
	bool tunnel : 1;       // and it was granted
	bool denied : 1;       // and it was not: what the client sends into it is for nobody
	bool request_done : 1;
	bool response_started : 1; // its head was passed on
	bool response_done : 1;	   // of a tunnel: the endpoint's half is over
	bool upstream_persistent : 1;
	bool decode_chunks : 1;	 // raw: for a client that knows no chunks
	bool chunk_request : 1;	 // towards HTTP/1: payload of no known length
	bool chunk_response : 1; // likewise
	bool refused : 1;	 // answered by the proxy
	bool trailers_sent : 1;
	bool sent_whole : 1; // HTTP/2: nothing will be added to what is queued for the client
};

// --- the request --------------------------------------------------------------------------------------------
// Makes one for the connection, in its own arena. NULL when out of memory.
struct exchange *exchange_new(struct connection *connection, const struct exchange_server *server);
// Finds out where the request goes and what is spoken there. `spoken`: what the client speaks. False: it was
// answered, and may be gone.
bool exchange_route(struct exchange *exchange, const struct head *head, enum protocol spoken);
// Something that is no HTTP and was routed already, to be carried to the cluster in a stream between sidecars:
// what exchange_route is for requests.
void exchange_carry(struct exchange *exchange, const struct virtual_host *host, const struct route *route,
		    const struct cluster *cluster, enum protocol protocol, struct str method);
// Begins the first attempt. exchange->message is set, or (raw) exchange->request. It may have ended when this
// returns.
void exchange_start(struct exchange *exchange);
// Body bytes for upstream (moved): of a raw exchange as they came, else payload. The last ones are sent after
// request_done was set. It may have ended when this returns.
void exchange_send(struct exchange *exchange, struct bufq *bytes);
// The same for bytes that are as the endpoint wants them already: what waited for a connection.
void exchange_send_ready(struct exchange *exchange, struct bufq *bytes);
// What went upstream is not needed again.
void exchange_forget_sent(struct exchange *exchange);
// Whether upstream takes more request bytes now.
bool exchange_takes_body(struct exchange *exchange);

// --- the response, by the client side of a protocol -----------------------------------------------------------
// Each passes something on. 0, or ERR_CLOSED: the exchange went on otherwise (a retry, a failure) or is over.
int exchange_interim(struct exchange *exchange, struct message *message);
int exchange_head(struct exchange *exchange, struct message *message);
int exchange_body(struct exchange *exchange, struct bufq *bytes);
int exchange_trailers(struct exchange *exchange, const struct field *fields, size_t count);
// The response is complete.
void exchange_complete(struct exchange *exchange);

// --- failures and the end -----------------------------------------------------------------------------------
// The upstream connection was lost or could not be made. Tries again where that is safe, else answers or
// resets.
void exchange_upstream_failed(struct exchange *exchange, enum exchange_flag flag, int err);
// Answers by the proxy itself: a status and a sentence. Resets the client if a response is on its way
// already.
void exchange_reply(struct exchange *exchange, unsigned status, const char *text, enum exchange_flag flag);
// A call of gRPC is cut by RST_STREAM with that code: it counts as what its caller takes that for.
void exchange_note_reset(struct exchange *exchange, uint32_t code);
// Ends without an answer (the client is gone): drops upstream, logs, frees.
void exchange_abort(struct exchange *exchange, enum exchange_flag flag);
// Logs, counts and frees; upstream must have been let go. For those who took the connection over (tunnels).
void exchange_finish(struct exchange *exchange);
// Fills in what it knows (for `weir conn show`).
void exchange_describe(const struct exchange *exchange, struct conn_info *info);
void exchange_describe_stream(const struct exchange *exchange, struct stream_info *ret_info);
