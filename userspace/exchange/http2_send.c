// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_wire.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"
#include "run/stats.h"

#include <errno.h>

enum {
	CONTROL_MAX = 64, // payload of the frames that are no DATA and carry no fields
	COPY_MAX = 2048,  // payload is copied between frame headers up to this, and referred to above
	STREAM_LOW = LIMIT_HTTP2_STREAM_OUT / 4,
};

// --- frames -------------------------------------------------------------------------------------------------
static void write_head(uint8_t bytes[HTTP2_FRAME_HEAD], size_t len, uint8_t type, uint8_t flags, int32_t id)
{
	bytes[0] = (uint8_t)(len >> 16);
	bytes[1] = (uint8_t)(len >> 8);
	bytes[2] = (uint8_t)len;
	bytes[3] = type;
	bytes[4] = flags;
	bytes[5] = (uint8_t)((uint32_t)id >> 24);
	bytes[6] = (uint8_t)((uint32_t)id >> 16);
	bytes[7] = (uint8_t)((uint32_t)id >> 8);
	bytes[8] = (uint8_t)id;
}

// A frame that is made in place: its head, and what is behind it.
struct made {
	uint8_t head[HTTP2_FRAME_HEAD];
	uint8_t payload[];
};

static struct made *make(size_t room)
{
	return (struct made *)bufq_packed_room(sizeof(struct made) + room);
}

static void put_made(struct http2_session *session, struct made *made, size_t len, uint8_t type,
		     uint8_t flags, int32_t id)
{
	write_head(made->head, len, type, flags, id);
	if (bufq_packed_add(&session->wire, sizeof *made + len))
		session->dead = true;
}

static void put_frame(struct http2_session *session, uint8_t type, uint8_t flags, int32_t id,
		      const void *payload, size_t len)
{
	struct made *made = make(len);
	if (!made) {
		session->dead = true;
		return;
	}
	if (len)
		memcpy(made->payload, payload, len);
	put_made(session, made, len, type, flags, id);
}

// --- control ------------------------------------------------------------------------------------------------
struct setting {
	enum http2_setting id;
	uint32_t value;
};

static void write_settings(struct writer *w, const struct setting *entries, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		writer_u16(w, (uint16_t)entries[i].id);
		writer_u32(w, entries[i].value);
	}
}

void http2_send_start(struct http2_session *session)
{
	static const struct setting server[] = {
	    {HTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, LIMIT_HTTP2_STREAMS},
	    {HTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LIMIT_HTTP2_STREAM_WINDOW},
	    {HTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_HTTP_HEAD},
	    {HTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
	    {HTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};
	static const struct setting client[] = {
	    {HTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {HTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LIMIT_HTTP2_STREAM_WINDOW},
	    {HTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_HTTP_HEAD},
	    {HTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};
	uint8_t bytes[CONTROL_MAX];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	if (session->server) {
		write_settings(&w, server, ARRAY_SIZE(server));
	} else {
		if (bufq_add_packed(&session->wire, HTTP2_PREFACE, HTTP2_PREFACE_BYTES))
			session->dead = true;
		write_settings(&w, client, ARRAY_SIZE(client));
	}
	put_frame(session, HTTP2_SETTINGS, HTTP2_FLAG_NONE, 0, bytes, w.len);
	http2_send_window_update(session, 0, LIMIT_HTTP2_WINDOW - HTTP2_FIRST_WINDOW);
}

void http2_send_settings_ack(struct http2_session *session)
{
	put_frame(session, HTTP2_SETTINGS, HTTP2_FLAG_ACK, 0, NULL, 0);
}

void http2_send_ping(struct http2_session *session, uint64_t payload, bool ack)
{
	uint8_t bytes[sizeof payload];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	writer_u64(&w, payload);
	put_frame(session, HTTP2_PING, ack ? HTTP2_FLAG_ACK : HTTP2_FLAG_NONE, 0, bytes, w.len);
}

void http2_send_goaway(struct http2_session *session, int32_t last, uint32_t code)
{
	uint8_t bytes[8];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	writer_u32(&w, (uint32_t)last);
	writer_u32(&w, code);
	put_frame(session, HTTP2_GOAWAY, HTTP2_FLAG_NONE, 0, bytes, w.len);
}

static void put_number(struct http2_session *session, uint8_t type, int32_t id, uint32_t number)
{
	uint8_t bytes[sizeof number];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	writer_u32(&w, number);
	put_frame(session, type, HTTP2_FLAG_NONE, id, bytes, w.len);
}

void http2_send_window_update(struct http2_session *session, int32_t id, uint32_t bytes)
{
	put_number(session, HTTP2_WINDOW_UPDATE, id, bytes);
}

static bool is_provoked(uint32_t code)
{
	return code == HTTP2_PROTOCOL_ERROR || code == HTTP2_REFUSED_STREAM || code == HTTP2_STREAM_CLOSED ||
	       code == HTTP2_FLOW_CONTROL_ERROR;
}

// Resets that a peer provokes cost as much as those it sends.
void http2_send_reset(struct http2_session *session, int32_t id, uint32_t code)
{
	put_number(session, HTTP2_RST_STREAM, id, code);
	if (code == HTTP2_REFUSED_STREAM)
		stats_inc(STAT_HTTP2_STREAMS_REFUSED);
	if (session->server && is_provoked(code) && !http2_spend(session, HTTP2_FLOOD_RESET))
		http2_session_terminate(session, HTTP2_ENHANCE_YOUR_CALM);
}

// --- fields -------------------------------------------------------------------------------------------------
// A field block that takes more than one frame, perhaps.
static void put_block(struct http2_session *session, int32_t id, uint8_t flags, const uint8_t *block,
		      size_t len)
{
	uint8_t type = HTTP2_HEADERS;
	struct reader r;
	reader_init(&r, block, len);
	do {
		size_t n = MIN(reader_remaining(&r), (size_t)HTTP2_FRAME_MAX);
		if (n == reader_remaining(&r))
			flags |= HTTP2_FLAG_END_HEADERS;
		put_frame(session, type, flags, id, reader_take(&r, n), n);
		type = HTTP2_CONTINUATION;
		flags = HTTP2_FLAG_NONE;
	} while (reader_remaining(&r));
}

static size_t compress(struct http2_session *session, uint8_t *block, size_t room, const struct field *fields,
		       size_t count)
{
	struct writer w;
	writer_init(&w, block, room);
	hpack_encode(session->encoder, fields, count, &w);
	return w.len;
}

static int send_big_block(struct http2_session *session, int32_t id, uint8_t flags,
			  const struct field *fields, size_t count, size_t room)
{
	uint8_t *block = mem_alloc(room);
	if (!block)
		return -ENOMEM;
	put_block(session, id, flags, block, compress(session, block, room, fields, count));
	mem_free(block);
	return session->dead ? -ENOMEM : 0;
}

int http2_send_fields(struct http2_session *session, int32_t id, const struct field *fields, size_t count,
		      bool end)
{
	uint8_t flags = end ? HTTP2_FLAG_END_STREAM : HTTP2_FLAG_NONE;
	if (session->dead)
		return -ENOMEM;
	session->moved = true;
	size_t room = hpack_encode_bound(fields, count);
	if (room > HTTP2_FRAME_MAX)
		return send_big_block(session, id, flags, fields, count, room);
	struct made *made = make(room);
	if (!made)
		return -ENOMEM;
	size_t len = compress(session, made->payload, room, fields, count);
	put_made(session, made, len, HTTP2_HEADERS, flags | HTTP2_FLAG_END_HEADERS, id);
	return session->dead ? -ENOMEM : 0;
}

// --- content ------------------------------------------------------------------------------------------------
// How much may be sent in one frame, as far as this window goes.
static size_t allowance(const struct http2_stream *stream, int32_t window)
{
	size_t most = MIN(stream->out.bytes, (size_t)HTTP2_FRAME_MAX);
	return window > 0 ? MIN(most, (size_t)window) : 0;
}

static bool is_blocked(const struct http2_session *session, const struct http2_stream *stream)
{
	return stream->out.bytes && session->send_window <= 0;
}

// Little payload is copied, so that one write takes it without a piece for each frame.
static int put_payload(struct http2_session *session, struct http2_stream *stream, size_t len, uint8_t flags)
{
	bool copied = len <= COPY_MAX;
	struct made *made = make(copied ? len : 0);
	if (!made)
		return -ENOMEM;
	write_head(made->head, len, HTTP2_DATA, flags, stream->id);
	if (!copied)
		return bufq_packed_add(&session->wire, sizeof *made)
			   ? -ENOMEM
			   : bufq_move(&session->wire, &stream->out, len);
	bufq_take(&stream->out, made->payload, len);
	return bufq_packed_add(&session->wire, sizeof *made + len);
}

static void put_data(struct http2_session *session, struct http2_stream *stream, size_t len, bool end)
{
	if (put_payload(session, stream, len, end ? HTTP2_FLAG_END_STREAM : HTTP2_FLAG_NONE)) {
		session->dead = true;
		return;
	}
	session->moved = true;
	session->send_window -= (int32_t)len;
	stream->send_window -= (int32_t)len;
	stream->moved += len;
	stream->waited &= stream->out.bytes > 0;
	if (stream->congested && stream->out.bytes <= STREAM_LOW && list_empty(&stream->ready_node))
		list_append(&session->drained, &stream->ready_node);
}

static void end_of_ours(struct http2_session *session, struct http2_stream *stream)
{
	int32_t id = stream->id;
	stream->end_sent = true;
	session->ops->end_sent(stream);
	if (http2_session_find(session, id) != stream)
		return;
	if (stream->broken)
		http2_stream_fail(stream, stream->code);
	else if (stream->end_received)
		http2_stream_close(stream, HTTP2_NO_ERROR);
}

// What follows the payload.
static void send_end(struct http2_session *session, struct http2_stream *stream, bool ended)
{
	if (stream->broken) {
		http2_stream_fail(stream, stream->code);
		return;
	}
	if (stream->trailer_count) {
		if (http2_send_fields(session, stream->id, stream->trailers, stream->trailer_count, true))
			session->dead = true;
	} else if (!ended) {
		put_data(session, stream, 0, true);
	}
	if (!session->dead)
		end_of_ours(session, stream);
}

// One frame of payload, and the end if it is the last.
static void send_some(struct http2_session *session, struct http2_stream *stream)
{
	size_t len = allowance(stream, MIN(session->send_window, stream->send_window));
	bool last = len == stream->out.bytes && (stream->ended || stream->broken);
	bool ends = last && !stream->trailer_count && !stream->broken;
	if (len)
		put_data(session, stream, len, ends);
	if (session->dead)
		return;
	if (last)
		send_end(session, stream, stream->head_ended || (ends && len));
	else if (allowance(stream, stream->send_window))
		list_append(&session->sending, &stream->send_node); // behind the others
}

void http2_send_content(struct http2_session *session)
{
	while (!list_empty(&session->sending) && !session->dead && !session->over) {
		struct http2_stream *stream =
		    container_of(session->sending.next, struct http2_stream, send_node);
		if (!stream->head_ended && http2_session_congested(session))
			return;
		list_del(&stream->send_node);
		if (is_blocked(session, stream))
			list_append(&session->blocked, &stream->send_node);
		else
			send_some(session, stream);
	}
}
