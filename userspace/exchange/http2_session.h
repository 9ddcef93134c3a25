// SPDX-License-Identifier: Apache-2.0
// HTTP/2 on one stream of bytes, either side of it: nghttp2 does the frames and HPACK, and here is what a
// proxy adds. Whatever is received goes in by whole reads, whatever is to be sent goes out once a turn of the
// loop, payload by reference. Flow control is in our hands: a peer gets credit for a stream when its payload
// has gone on, and credit for the connection at once, so that one slow stream stops itself only. What a peer
// can overdo is counted and has a limit (base/limits.h, STAT_HTTP2_*).
//
// Owned by http2_server.c or http2_client.c, which embed it. None of the functions calls back, except
// http2_session_read; the operations may call any of them but http2_session_read and _done.
#pragma once

#include "base/pool.h"
#include "exchange/http2_stream.h"
#include "net/stream.h"

struct nghttp2_session;

struct http2_session_ops {
	// The peer opened a stream (server): where its state is, or NULL: refused.
	struct http2_stream *(*open)(struct http2_session *session, int32_t id);
	// Where the fields of a stream are kept.
	struct arena *(*arena)(struct http2_stream *stream);
	// A head or trailers, pseudo-fields included; `fields` is valid during the call, names and values as
	// long as the arena. `end`: nothing follows. `fields` NULL: there were more than the limit.
	void (*fields)(struct http2_stream *stream, struct field *fields, size_t count, bool end);
	void (*data)(struct http2_stream *stream, struct slice bytes);
	// END_STREAM behind data.
	void (*end)(struct http2_stream *stream);
	// END_STREAM of ours was sent.
	void (*end_sent)(struct http2_stream *stream);
	// The stream is no more (it is detached already); `code` of RST_STREAM, or 0.
	void (*closed)(struct http2_stream *stream, uint32_t code);
	// After http2_stream_congested was true, there is room again.
	void (*drained)(struct http2_stream *stream);
	// The peer confirmed our PING.
	void (*pong)(struct http2_session *session);
	// At the end of each turn in which something went in or out.
	void (*settled)(struct http2_session *session);
	// Nothing more can be said: close when what is queued is sent.
	void (*over)(struct http2_session *session);
};

// What somebody may do so often a second, and at once.
struct http2_bucket {
	uint32_t tokens;
	uint32_t at_ms;
};
enum http2_flood {
	HTTP2_FLOOD_RESET,
	HTTP2_FLOOD_SETTINGS,
	HTTP2_FLOOD_PING,
	HTTP2_FLOOD_EMPTY,
	HTTP2_FLOOD_OTHER,
	HTTP2_FLOOD_COUNT,
};

enum { HTTP2_GAPS = 16 };

struct http2_session {
	struct nghttp2_session *ng;
	struct stream *stream;
	const struct http2_session_ops *ops;
	struct loop_task task;
	struct list streams; // attached ones
	struct list drained;
	struct bufq wire;     // made in this turn, not handed to the stream yet
	struct slice input;   // being fed
	struct field *fields; // of the block under way; NULL: none
	size_t field_count, field_bytes;
	struct http2_stream *fields_for; // whose they are; NULL: nobody's any more
	int32_t last_id;		 // the highest that the peer opened
	struct {
		int32_t from, to;
	} gaps[HTTP2_GAPS]; // ids that were passed over: nobody may open them any more
	unsigned gap_count;
	unsigned open_count; // streams that are not closed yet
	struct http2_bucket buckets[HTTP2_FLOOD_COUNT];
	uint32_t fault; // error code of a connection error found here
	bool server : 1;
	bool trusted : 1;      // a sidecar, which resets streams for many clients of its own
	bool over : 1;	       // ops->over was called
	bool dead : 1;	       // out of memory in the middle of something: the library is not asked any more
	bool received : 1;     // anything since this was last cleared
	bool has_settings : 1; // the peer's have come
};

// Our SETTINGS go first, once http2_session_wake is called: until then it may be given up. 0 or -ENOMEM.
int http2_session_init(struct http2_session *session, struct stream *stream, bool server,
		       const struct http2_session_ops *ops);
// Streams must have been detached. Not from inside an operation.
void http2_session_done(struct http2_session *session);
// Frees what the calling thread keeps for further sessions.
void http2_thread_done(void);
// The server's side of Upgrade: h2c: stream 1 is open and half closed, the client's settings are `settings`.
// 0, -ENOMEM or ERR_MALFORMED.
int http2_session_upgrade(struct http2_session *session, const uint8_t *settings, size_t len,
			  bool head_request, struct http2_stream *stream);

// Takes in bytes that were read. 0, or an error after which nothing more is taken in (what is queued still
// goes out, then ops->over comes).
int http2_session_feed(struct http2_session *session, struct slice bytes);
// Reads and feeds what is there, as long as the peer takes what is sent: what stream_read returned in the
// end, 0 while congested, or the error of feeding.
int http2_session_read(struct http2_session *session);
// Something is to be sent: it will be, at the end of the turn.
void http2_session_wake(struct http2_session *session);
void http2_session_ping(struct http2_session *session);
// No new streams, in two steps (RFC 9113 6.8): a warning, and (later) the end.
void http2_session_warn(struct http2_session *session);
void http2_session_goaway(struct http2_session *session);
// A connection error: GOAWAY, then ops->over.
void http2_session_terminate(struct http2_session *session, uint32_t code);
// Streams the peer lets us have at once.
uint32_t http2_session_max_streams(const struct http2_session *session);
bool http2_session_takes_connect(const struct http2_session *session); // RFC 8441
// May open another stream: no GOAWAY so far, and ids are left.
bool http2_session_usable(const struct http2_session *session);

// --- streams ------------------------------------------------------------------------------------------------
// Opens a stream (client); `end`: no body. 0 or a negative error.
int http2_stream_open(struct http2_session *session, struct http2_stream *stream, const struct field *fields,
		      size_t count, bool end);
// Sends a head on a stream: an interim one, or the final one (`end`: no body). 0 or a negative error.
int http2_stream_inform(struct http2_stream *stream, const struct field *fields, size_t count);
int http2_stream_respond(struct http2_stream *stream, const struct field *fields, size_t count, bool end);
// Queues payload (moved).
void http2_stream_write(struct http2_stream *stream, struct bufq *bytes);
// Nothing follows but trailers (may be none; valid until the stream is closed).
void http2_stream_end(struct http2_stream *stream, const struct field *trailers, size_t count);
bool http2_stream_congested(struct http2_stream *stream);
// The peer may send as much again as was received and not consumed so far.
void http2_stream_consume(struct http2_stream *stream);
// RST_STREAM behind what is queued; then `closed` is called. False: nothing is queued, so nothing was done.
bool http2_stream_break(struct http2_stream *stream, uint32_t code);
// RST_STREAM, and detaches. Safe when detached.
void http2_stream_reset(struct http2_stream *stream, uint32_t code);
// Forgets about it: no operation is called for it any more. Safe when detached.
void http2_stream_detach(struct http2_stream *stream);
