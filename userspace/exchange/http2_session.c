// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_session.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/hpack.h"
#include "exchange/http2_wire.h"
#include "run/stats.h"

#include <errno.h>

// --- limits -------------------------------------------------------------------------------------------------
static const struct {
	uint32_t burst, rate;
	enum counter counter;
} FLOODS[HTTP2_FLOOD_COUNT] = {
    [HTTP2_FLOOD_RESET] = {LIMIT_HTTP2_RESETS, LIMIT_HTTP2_RESETS_PER_S, STAT_HTTP2_RESET_FLOOD},
    [HTTP2_FLOOD_SETTINGS] = {LIMIT_HTTP2_SETTINGS, LIMIT_HTTP2_SETTINGS_PER_S, STAT_HTTP2_SETTINGS_FLOOD},
    [HTTP2_FLOOD_PING] = {LIMIT_HTTP2_PINGS, LIMIT_HTTP2_PINGS_PER_S, STAT_HTTP2_PING_FLOOD},
    [HTTP2_FLOOD_EMPTY] = {LIMIT_HTTP2_EMPTY, LIMIT_HTTP2_EMPTY_PER_S, STAT_HTTP2_EMPTY_FLOOD},
    [HTTP2_FLOOD_CLOSED] = {LIMIT_HTTP2_CLOSED, LIMIT_HTTP2_CLOSED_PER_S, STAT_HTTP2_CLOSED_FLOOD},
    [HTTP2_FLOOD_OTHER] = {LIMIT_HTTP2_OTHER, LIMIT_HTTP2_OTHER_PER_S, STAT_HTTP2_OTHER_FLOOD},
};

static void buckets_fill(struct http2_session *session)
{
	uint32_t now_ms = (uint32_t)(loop_now(session->stream->loop) / NS_PER_MS);
	for (int i = 0; i < HTTP2_FLOOD_COUNT; i++)
		session->buckets[i] = (struct http2_bucket){FLOODS[i].burst, now_ms};
}

void http2_fail(struct http2_session *session, uint32_t code)
{
	if (!session->fault)
		session->fault = code;
}

bool http2_spend(struct http2_session *session, enum http2_flood kind)
{
	struct http2_bucket *bucket = &session->buckets[kind];
	if (likely(bucket->tokens)) {
		bucket->tokens--;
		return true;
	}
	uint32_t now_ms = (uint32_t)(loop_now(session->stream->loop) / NS_PER_MS);
	uint64_t earned = (uint64_t)(now_ms - bucket->at_ms) * FLOODS[kind].rate / 1000;
	bucket->tokens = (uint32_t)MIN(earned, (uint64_t)FLOODS[kind].burst);
	if (bucket->tokens) {
		bucket->at_ms = now_ms;
		bucket->tokens--;
		return true;
	}
	stats_inc(FLOODS[kind].counter);
	http2_fail(session, HTTP2_ENHANCE_YOUR_CALM);
	return false;
}

// --- which streams there are --------------------------------------------------------------------------------
static struct http2_stream **chain_of(struct http2_session *session, int32_t id)
{
	return &session->by_id[(uint32_t)id / 2 % HTTP2_CHAINS];
}

struct http2_stream *http2_session_find(const struct http2_session *session, int32_t id)
{
	struct http2_stream *stream = session->by_id[(uint32_t)id / 2 % HTTP2_CHAINS];
	while (stream && stream->id != id)
		stream = stream->next;
	return stream;
}

void http2_stream_begin(struct http2_session *session, struct http2_stream *stream, int32_t id)
{
	struct http2_stream **chain = chain_of(session, id);
	struct http2_bucket *closed = &session->buckets[HTTP2_FLOOD_CLOSED];
	closed->tokens = MIN(closed->tokens + LIMIT_HTTP2_CLOSED_PER_STREAM, (uint32_t)LIMIT_HTTP2_CLOSED);
	*stream = (struct http2_stream){.session = session,
					.next = *chain,
					.id = id,
					.receive_window = LIMIT_HTTP2_STREAM_WINDOW,
					.send_window = session->peer.window};
	*chain = stream;
	list_append(&session->streams, &stream->node);
	list_init(&stream->send_node);
	list_init(&stream->ready_node);
	session->open_count++;
}

static void leave_chain(struct http2_stream *stream)
{
	struct http2_stream **at = chain_of(stream->session, stream->id);
	while (*at != stream)
		at = &(*at)->next;
	*at = stream->next;
}

void http2_stream_detach(struct http2_stream *stream)
{
	struct http2_session *session = stream->session;
	if (!session)
		return;
	leave_chain(stream);
	list_del(&stream->node);
	list_del(&stream->send_node);
	list_del(&stream->ready_node);
	bufq_clear(&stream->out);
	session->open_count--;
	if (session->fields_for == stream)
		session->fields_for = NULL;
	if (session->data_for == stream)
		session->data_for = NULL;
	stream->congested = false;
	stream->session = NULL;
}

void http2_stream_close(struct http2_stream *stream, uint32_t code)
{
	struct http2_session *session = stream->session;
	http2_stream_detach(stream);
	session->ops->closed(stream, code);
}

void http2_stream_fail(struct http2_stream *stream, uint32_t code)
{
	http2_send_reset(stream->session, stream->id, code);
	stream->failed = true;
	http2_stream_close(stream, code);
}

// One that has sent everything goes first: for the peer its place is free.
void http2_stream_queue(struct http2_stream *stream)
{
	struct list *sending = &stream->session->sending;
	if (stream->head_ended && !stream->end_sent) {
		list_del(&stream->send_node);
		list_prepend(sending, &stream->send_node);
	} else if (!stream->end_sent && list_empty(&stream->send_node)) {
		list_append(sending, &stream->send_node);
	}
	http2_session_wake(stream->session);
}

// --- credit -------------------------------------------------------------------------------------------------
void http2_credit_connection(struct http2_session *session, uint32_t bytes)
{
	session->credit += bytes;
	if (session->credit < LIMIT_HTTP2_WINDOW / 2)
		return;
	http2_send_window_update(session, 0, session->credit);
	session->receive_window += (int32_t)session->credit;
	session->credit = 0;
}

void http2_credit_stream(struct http2_stream *stream, uint32_t bytes)
{
	stream->credit += bytes;
	if (stream->credit < LIMIT_HTTP2_STREAM_WINDOW / 2 || stream->end_received)
		return;
	http2_send_window_update(stream->session, stream->id, stream->credit);
	stream->receive_window += (int32_t)stream->credit;
	stream->credit = 0;
	http2_session_wake(stream->session);
}

// --- turns --------------------------------------------------------------------------------------------------
static void call_drained(struct http2_session *session)
{
	while (!list_empty(&session->drained)) {
		struct http2_stream *stream =
		    container_of(session->drained.next, struct http2_stream, ready_node);
		list_del(&stream->ready_node);
		stream->congested = false;
		session->ops->drained(stream);
	}
}

static void send_frames(struct http2_session *session)
{
	if (!session->terminated)
		http2_send_content(session);
	if (session->wire.bytes)
		stream_write(session->stream, &session->wire);
	stream_congested(session->stream); // then on_drained wakes us
}

static bool is_over(const struct http2_session *session)
{
	return session->dead || session->terminated ||
	       ((session->goaway_sent || session->goaway_received) && session->open_count == 0);
}

static void flush(struct loop_task *task)
{
	struct http2_session *session = container_of(task, struct http2_session, task);
	if (!session->decoder || session->over)
		return;
	if (!session->dead)
		send_frames(session);
	call_drained(session);
	if (session->over)
		return;
	if (is_over(session)) {
		session->over = true;
		session->ops->over(session);
	} else {
		session->ops->settled(session);
	}
}

void http2_session_wake(struct http2_session *session)
{
	if (!session->over)
		loop_defer(session->stream->loop, &session->task, flush);
}

// Of all sessions of the thread, between which fields pass.
static __thread uint64_t entries;

// --- life ---------------------------------------------------------------------------------------------------
int http2_session_init(struct http2_session *session, struct stream *stream, bool server,
		       const struct http2_session_ops *ops)
{
	*session = (struct http2_session){.stream = stream,
					  .ops = ops,
					  .server = server,
					  .peer = {.max_streams = UINT32_MAX, .window = HTTP2_FIRST_WINDOW},
					  .receive_window = LIMIT_HTTP2_WINDOW,
					  .send_window = HTTP2_FIRST_WINDOW,
					  .next_id = 1,
					  .goaway_id = INT32_MAX};
	list_init(&session->streams);
	list_init(&session->sending);
	list_init(&session->blocked);
	list_init(&session->drained);
	buckets_fill(session);
	session->decoder = hpack_decoder_new(&entries);
	session->encoder = hpack_encoder_new();
	if (!session->decoder || !session->encoder) {
		http2_session_done(session);
		return -ENOMEM;
	}
	http2_receive_init(session);
	http2_send_start(session);
	if (session->dead) {
		http2_session_done(session);
		return -ENOMEM;
	}
	return 0;
}

void http2_session_done(struct http2_session *session)
{
	hpack_decoder_free(session->decoder);
	hpack_encoder_free(session->encoder);
	session->decoder = NULL;
	session->encoder = NULL;
	bufq_clear(&session->wire);
	http2_receive_done(session);
}

int http2_session_upgrade(struct http2_session *session, const uint8_t *settings, size_t len,
			  struct http2_stream *stream)
{
	struct reader payload;
	reader_init(&payload, settings, len);
	http2_receive_settings(session, payload);
	if (session->fault)
		return ERR_MALFORMED;
	session->last_id = session->taken_id = 1;
	session->opened[0] = 1;
	http2_stream_begin(session, stream, 1);
	stream->end_received = true;
	return 0;
}

int http2_session_feed(struct http2_session *session, struct slice bytes)
{
	if (session->fault || session->over || session->dead)
		return ERR_CLOSED;
	// An operation may read from another stream, which must not overwrite what is being fed.
	struct chunk *chunk = chunk_ref(bytes.chunk);
	session->input = bytes;
	session->received = true;
	http2_receive(session, bytes);
	session->input = (struct slice){0};
	chunk_unref(chunk);
	http2_session_wake(session);
	if (!session->fault && !session->dead)
		return 0;
	http2_session_terminate(session, session->dead ? HTTP2_INTERNAL_ERROR : session->fault);
	return ERR_MALFORMED;
}

// More than content and its trailers alone can be (http2_send_content): what was provoked is not taken.
static bool is_stuffed(const struct http2_session *session)
{
	return stream_queued(session->stream) + session->wire.bytes > 2 * LIMIT_OUT_HIGH;
}

// Goes on while content waits: the peer may be one that reads no more, either, until its content is taken.
int http2_session_read(struct http2_session *session)
{
	struct slice slice;
	while (!is_stuffed(session)) {
		int n = stream_read(session->stream, &slice);
		if (n < 0)
			return n;
		n = http2_session_feed(session, slice);
		if (n)
			return n;
	}
	return 0;
}

void http2_session_ping(struct http2_session *session)
{
	http2_send_ping(session, 0, false);
	http2_session_wake(session);
}

void http2_session_warn(struct http2_session *session)
{
	if (session->terminated)
		return; // more has been said already
	http2_send_goaway(session, INT32_MAX, HTTP2_NO_ERROR);
	http2_session_ping(session);
}

void http2_session_goaway(struct http2_session *session)
{
	session->goaway_sent = true;
	http2_send_goaway(session, session->taken_id, HTTP2_NO_ERROR);
	http2_session_wake(session);
}

void http2_session_terminate(struct http2_session *session, uint32_t code)
{
	if (!session->fault)
		session->fault = code;
	if (!session->terminated)
		http2_send_goaway(session, session->taken_id, code);
	session->terminated = true;
	http2_session_wake(session);
}

uint32_t http2_session_max_streams(const struct http2_session *session)
{
	uint32_t limit =
	    session->has_settings ? session->peer.max_streams : (uint32_t)LIMIT_HTTP2_STREAMS_ASSUMED;
	return MIN(limit, (uint32_t)LIMIT_HTTP2_STREAMS_UPSTREAM);
}

bool http2_session_takes_connect(const struct http2_session *session)
{
	return session->peer.connect;
}

bool http2_session_congested(const struct http2_session *session)
{
	return stream_queued(session->stream) + session->wire.bytes > LIMIT_OUT_HIGH;
}

bool http2_session_usable(const struct http2_session *session)
{
	return session->decoder && !session->fault && !session->over && !session->dead &&
	       !session->terminated && !session->goaway_sent && !session->goaway_received &&
	       session->next_id > 0;
}

// --- streams ------------------------------------------------------------------------------------------------
static bool is_attached(const struct http2_stream *stream)
{
	return stream->session && !stream->session->dead;
}

int http2_stream_open(struct http2_session *session, struct http2_stream *stream, const struct field *fields,
		      size_t count, bool end)
{
	int32_t id = session->next_id;
	if (!http2_session_usable(session))
		return ERR_CLOSED;
	int err = http2_send_fields(session, id, fields, count, end);
	http2_session_wake(session);
	if (err)
		return err;
	session->next_id = id < INT32_MAX - 1 ? id + 2 : 0;
	http2_stream_begin(session, stream, id);
	stream->ended = stream->head_ended = end;
	if (end)
		http2_stream_queue(stream);
	return 0;
}

int http2_stream_inform(struct http2_stream *stream, const struct field *fields, size_t count)
{
	if (!is_attached(stream))
		return 0;
	http2_session_wake(stream->session);
	return http2_send_fields(stream->session, stream->id, fields, count, false);
}

int http2_stream_respond(struct http2_stream *stream, const struct field *fields, size_t count, bool end)
{
	if (!is_attached(stream))
		return 0;
	int err = http2_send_fields(stream->session, stream->id, fields, count, end);
	stream->ended = stream->head_ended = end && !err;
	http2_stream_queue(stream);
	return err;
}

void http2_stream_write(struct http2_stream *stream, struct bufq *bytes)
{
	if (!is_attached(stream) || stream->ended) {
		bufq_clear(bytes);
		return;
	}
	bufq_move_all(&stream->out, bytes);
	http2_stream_queue(stream);
}

void http2_stream_finish(struct http2_stream *stream, struct bufq *bytes, const struct field *trailers,
			 size_t count)
{
	if (!is_attached(stream) || stream->ended) {
		bufq_clear(bytes);
		return;
	}
	bufq_move_all(&stream->out, bytes);
	stream->ended = true;
	stream->trailers = trailers;
	stream->trailer_count = (uint16_t)count;
	http2_stream_queue(stream);
}

void http2_stream_end(struct http2_stream *stream, const struct field *trailers, size_t count)
{
	struct bufq none = {0};
	http2_stream_finish(stream, &none, trailers, count);
}

bool http2_stream_congested(struct http2_stream *stream)
{
	if (stream->session && stream->out.bytes > LIMIT_HTTP2_STREAM_OUT)
		stream->congested = true;
	return stream->congested;
}

void http2_stream_expect(struct http2_stream *stream, uint64_t length)
{
	stream->has_length = true;
	stream->content_left = length;
}

void http2_stream_consume(struct http2_stream *stream)
{
	if (!is_attached(stream) || !stream->unconsumed)
		return;
	uint32_t bytes = stream->unconsumed;
	stream->unconsumed = 0;
	http2_credit_stream(stream, bytes);
}

void http2_stream_decline(struct http2_stream *stream)
{
	stream->broken = true;
	stream->code = HTTP2_NO_ERROR;
}

bool http2_stream_break(struct http2_stream *stream, uint32_t code)
{
	if (!is_attached(stream) || stream->ended || bufq_empty(&stream->out))
		return false;
	stream->broken = true;
	stream->code = code;
	http2_stream_queue(stream);
	return true;
}

void http2_stream_reset(struct http2_stream *stream, uint32_t code)
{
	struct http2_session *session = stream->session;
	if (!session)
		return;
	http2_send_reset(session, stream->id, code);
	http2_session_wake(session);
	http2_stream_detach(stream);
}
