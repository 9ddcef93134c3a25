// SPDX-License-Identifier: Apache-2.0
// Between http2_session.c, which knows the connection and its streams, and its two halves: http2_receive.c
// takes frames apart, http2_send.c makes them. For nobody else.
#pragma once

#include "base/cursor.h"
#include "codecs/http2_codes.h"
#include "exchange/http2_session.h"

enum {
	HTTP2_FRAME_MAX = 16384,    // payload that is taken, and sent in one piece
	HTTP2_FIRST_WINDOW = 65535, // RFC 9113 6.9.2
};

// --- http2_session.c ----------------------------------------------------------------------------------------
// A connection error: nothing more is taken in.
void http2_fail(struct http2_session *session, uint32_t code);
// Counts one of what has a limit. False: it was one too many, and the connection fails.
bool http2_spend(struct http2_session *session, enum http2_flood kind);
// A stream that the peer opened begins.
void http2_stream_begin(struct http2_session *session, struct http2_stream *stream, int32_t id);
// It has something to send, perhaps.
void http2_stream_queue(struct http2_stream *stream);
// Both halves are over, or the peer reset it: detaches it and calls `closed`.
void http2_stream_close(struct http2_stream *stream, uint32_t code);
// A stream error: RST_STREAM, then the same.
void http2_stream_fail(struct http2_stream *stream, uint32_t code);
// Tells the peer what it may send again, once that is worth a frame.
void http2_credit_connection(struct http2_session *session, uint32_t bytes);
void http2_credit_stream(struct http2_stream *stream, uint32_t bytes);

// --- http2_receive.c ----------------------------------------------------------------------------------------
void http2_receive_init(struct http2_session *session);
void http2_receive_done(struct http2_session *session);
// Takes in all, or stops at the first connection error (session->fault).
void http2_receive(struct http2_session *session, struct slice bytes);
// The payload of SETTINGS.
void http2_receive_settings(struct http2_session *session, struct reader payload);

// --- http2_send.c -------------------------------------------------------------------------------------------
// These append to session->wire; without memory the session is dead.
void http2_send_start(struct http2_session *session);
void http2_send_settings_ack(struct http2_session *session);
void http2_send_ping(struct http2_session *session, uint64_t payload, bool ack);
void http2_send_goaway(struct http2_session *session, int32_t last, uint32_t code);
void http2_send_window_update(struct http2_session *session, int32_t id, uint32_t bytes);
void http2_send_reset(struct http2_session *session, int32_t id, uint32_t code);
// 0, or -ENOMEM: it was not sent (and perhaps the session is dead).
int http2_send_fields(struct http2_session *session, int32_t id, const struct field *fields, size_t count,
		      bool end);
// Payload, trailers and ends, as the windows and what waits already allow.
void http2_send_content(struct http2_session *session);
