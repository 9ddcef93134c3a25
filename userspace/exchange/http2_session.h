// SPDX-License-Identifier: Apache-2.0
// HTTP/2 (RFC 9113) on one stream of bytes, either side of it: connection, streams and flow control. Frames
// are taken apart in http2_receive.c and made in http2_send.c, HPACK is codecs/hpack.h. Heads go to the wire
// at once, payload once a turn of the loop, by reference where it is much. A peer gets credit for a stream
// when its payload has gone on, and credit for the connection at once, so that one slow stream stops itself
// only. What a peer can overdo is counted and has a limit (base/limits.h, STAT_HTTP2_*). What the fields of a
// message say is not looked at here (codecs/http2.h).
//
// Owned by http2_server.c or http2_client.c, which embed it. None of the functions calls back, except
// http2_session_feed and _read; the operations may call any of them but those two and _done.
#pragma once

#include "base/pool.h"
#include "exchange/http2_stream.h"
#include "net/stream.h"

struct hpack_decoder;
struct hpack_encoder;

struct http2_session_ops {
	// The peer opened a stream (server): where its state is, or NULL: refused.
	struct http2_stream *(*open)(struct http2_session *session, int32_t id);
	// Where the fields of a stream are kept.
	struct arena *(*arena)(struct http2_stream *stream);
	// A head or trailers, pseudo-fields included; `fields` is valid during the call, names and values as
	// long as the arena. `end`: nothing follows.
	void (*fields)(struct http2_stream *stream, struct field *fields, size_t count, bool end);
	// Instead, when there were more than the limit; `grpc`: Content-Type among them is gRPC's.
	void (*too_large)(struct http2_stream *stream, bool grpc, bool end);
	// Payload; `end`: nothing follows.
	void (*data)(struct http2_stream *stream, struct slice bytes, bool end);
	// Nothing follows, which was not known when the last payload came.
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
	HTTP2_FLOOD_CLOSED,
	HTTP2_FLOOD_OTHER,
	HTTP2_FLOOD_COUNT,
};

enum { HTTP2_RECENT = 1024, HTTP2_CHAINS = 64, HTTP2_FRAME_HEAD = 9 };

// The frame that is being received.
struct http2_frame {
	uint8_t head[HTTP2_FRAME_HEAD];
	uint8_t type, flags;
	int32_t id;
	uint32_t len;
	uint32_t have;	  // bytes of the head, or of a payload in pieces, so far
	uint32_t left;	  // bytes of DATA, or of what is ignored, to come; padding included
	uint32_t padding; // of those
};

// What of it comes next.
enum http2_step {
	HTTP2_STEP_PREFACE,
	HTTP2_STEP_HEAD,
	HTTP2_STEP_PAYLOAD, // of all but DATA: taken whole
	HTTP2_STEP_PAD_LENGTH,
	HTTP2_STEP_DATA,
	HTTP2_STEP_NOTHING, // the padding, or what means nothing here
};

// What the peer's SETTINGS say.
struct http2_settings {
	uint32_t max_streams;
	int32_t window; // of each stream
	bool connect;	// RFC 8441
};

struct http2_session {
	struct stream *stream;
	const struct http2_session_ops *ops;
	struct hpack_decoder *decoder; // NULL: there is no session
	struct hpack_encoder *encoder;
	struct loop_task task;
	struct list streams; // open ones
	struct list sending; // those that have something to send
	struct list blocked; // of these, those for which the connection's window is used up
	struct list drained; // those that have room again
	struct http2_stream *by_id[HTTP2_CHAINS]; // open ones
	struct http2_settings peer;
	int32_t receive_window, send_window;
	uint32_t credit; // received that the peer was not told it may send again

	enum http2_step step;
	struct http2_frame frame;
	uint8_t *payload;	       // of a frame in pieces; NULL: none
	struct slice input;	       // being fed
	struct http2_stream *data_for; // whose DATA it is; NULL: nobody's any more

	struct bufq block;		 // the field block under way, if it comes in more than one frame
	struct http2_stream *fields_for; // whose it is; NULL: nobody's any more
	int32_t block_id;		 // of its stream; 0: none is under way
	uint8_t block_flags;		 // of its first frame
	uint8_t continuations;

	int32_t next_id;   // the next that is opened here; 0: there was the last one
	int32_t last_id;   // the highest that the peer opened
	int32_t taken_id;  // the highest of those that is dealt with: none that came behind our GOAWAY is
	int32_t goaway_id; // the highest of ours that the peer deals with
	uint64_t opened[HTTP2_RECENT / 64]; // which of the newest ids the peer did open
	unsigned open_count;		    // streams that are not closed yet
	struct http2_bucket buckets[HTTP2_FLOOD_COUNT];
	struct bufq wire; // made, not handed to the stream yet
	uint32_t fault;	  // error code of a connection error found here
	bool server : 1;
	bool trusted : 1;    // a sidecar, which resets streams for many clients of its own
	bool over : 1;	     // ops->over was called
	bool dead : 1;	     // out of memory in the middle of something: nothing more is said
	bool terminated : 1; // the last GOAWAY is out
	bool goaway_sent : 1;
	bool goaway_received : 1;
	bool received : 1;     // anything since this was last cleared
	bool responded : 1;    // HEADERS or DATA, likewise
	bool moved : 1;	       // either was received or sent since the last PING came
	bool has_settings : 1; // the peer's have come
};

// Our SETTINGS go first, once http2_session_wake is called: until then it may be given up. 0 or -ENOMEM.
int http2_session_init(struct http2_session *session, struct stream *stream, bool server,
		       const struct http2_session_ops *ops);
// Streams must have been detached. Not from inside an operation.
void http2_session_done(struct http2_session *session);
// The server's side of Upgrade: h2c: stream 1 is open and half closed, the client's settings are `settings`.
// 0 or ERR_MALFORMED.
int http2_session_upgrade(struct http2_session *session, const uint8_t *settings, size_t len,
			  struct http2_stream *stream);

// Takes in bytes that were read. 0, or an error after which nothing more is taken in (what is queued still
// goes out, then ops->over comes).
int http2_session_feed(struct http2_session *session, struct slice bytes);
// Reads and feeds what is there, as long as the peer takes what it provokes: what stream_read returned in
// the end, 0 while it does not, or the error of feeding.
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
// More waits to be sent than should: ops->settled comes when there is room again.
bool http2_session_congested(const struct http2_session *session);
// The stream in the middle of whose field block the peer is; 0: none.
int32_t http2_session_block(const struct http2_session *session);
// The open stream of that id; NULL: there is none.
struct http2_stream *http2_session_find(const struct http2_session *session, int32_t id);

// --- streams ------------------------------------------------------------------------------------------------
// Opens a stream (client); `end`: no body. 0 or a negative error.
int http2_stream_open(struct http2_session *session, struct http2_stream *stream, const struct field *fields,
		      size_t count, bool end);
// Sends a head on a stream: an interim one, or the final one (`end`: no body). 0 or a negative error.
int http2_stream_inform(struct http2_stream *stream, const struct field *fields, size_t count);
int http2_stream_respond(struct http2_stream *stream, const struct field *fields, size_t count, bool end);
// Queues payload (moved).
void http2_stream_write(struct http2_stream *stream, struct bufq *bytes);
// The same, and nothing follows but trailers (may be none; valid until the stream is closed).
void http2_stream_finish(struct http2_stream *stream, struct bufq *bytes, const struct field *trailers,
			 size_t count);
void http2_stream_end(struct http2_stream *stream, const struct field *trailers, size_t count);
bool http2_stream_congested(struct http2_stream *stream);
// The peer's content is that long, or it breaks off with PROTOCOL_ERROR (RFC 9113 8.1.1).
void http2_stream_expect(struct http2_stream *stream, uint64_t length);
// The peer may send as much again as was received and not consumed so far.
void http2_stream_consume(struct http2_stream *stream);
// Behind our end, in ops->end_sent: the peer need not send the rest (RST_STREAM with NO_ERROR).
void http2_stream_decline(struct http2_stream *stream);
// RST_STREAM behind what is queued; then `closed` is called. False: nothing is queued, so nothing was done.
bool http2_stream_break(struct http2_stream *stream, uint32_t code);
// RST_STREAM, and detaches. Safe when detached.
void http2_stream_reset(struct http2_stream *stream, uint32_t code);
// Forgets about it: no operation is called for it any more. Safe when detached.
void http2_stream_detach(struct http2_stream *stream);
