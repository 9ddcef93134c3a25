// SPDX-License-Identifier: Apache-2.0
// Feeding a session of HTTP/2 in pieces, and what holds of it after each.
#pragma once

#include "check.h"

#include "base/limits.h"
#include "base/mem.h"
#include "exchange/http2_session.h"

static struct loop *loop;

static inline void check_session(const struct http2_session *session)
{
	unsigned count = 0;
	list_for_each (node, &session->streams) {
		const struct http2_stream *stream = container_of(node, struct http2_stream, node);
		CHECK(http2_session_find(session, stream->id) == stream);
		CHECK(stream->receive_window + (int64_t)stream->credit + stream->unconsumed <=
		      LIMIT_HTTP2_STREAM_WINDOW);
		count++;
	}
	CHECK(count == session->open_count && count <= LIMIT_HTTP2_STREAMS);
	CHECK(session->receive_window + (int64_t)session->credit == LIMIT_HTTP2_WINDOW);
}

static inline void begin_session(struct http2_session *session, struct stream *stream, bool server,
				 const struct http2_session_ops *ops)
{
	CHECK(loop || loop_new(&loop) == 0);
	stream_init(stream, loop, NULL); // closed: what is written to it is dropped
	CHECK(http2_session_init(session, stream, server, ops) == 0);
	http2_session_wake(session);
}

// The first byte says how long the pieces are of what is behind it.
static inline void feed_in_pieces(struct http2_session *session, const uint8_t *data, size_t size)
{
	size_t step = size ? (size_t)data[0] + 1 : 1;
	int err = 0;
	for (size_t at = 1; at < size && !err; at += step) {
		size_t len = MIN(step, size - at);
		char *copy = exact_copy(data + at, len);
		err = http2_session_feed(session, (struct slice){NULL, (uint8_t *)copy, len});
		check_session(session);
		loop_turn(loop, 0);
		check_session(session);
		free(copy);
	}
}

// Streams are detached.
static inline void end_session(struct http2_session *session)
{
	session->over = true;
	loop_turn(loop, 0);
	http2_session_done(session);
}
