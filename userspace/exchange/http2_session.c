// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_session.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http2.h"
#include "exchange/http2_memory.h"
#include "exchange/transport.h"
#include "run/stats.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>

enum {
	COPY_MAX = 2048, // payload is copied between frame headers up to this, and referred to above
	STREAM_LOW = LIMIT_HTTP2_STREAM_OUT / 4,
	FIELD_OVERHEAD = 32, // RFC 9113 6.5.2
	PSEUDO_AND_FIELDS = LIMIT_HTTP_HEADERS + HTTP2_PSEUDO_MAX + TRANSPORT_FIELDS,
	SPARE_BLOCKS = 8,
};

static __thread struct pool blocks = {.size = PSEUDO_AND_FIELDS * sizeof(struct field), .keep = SPARE_BLOCKS};

static struct http2_stream *stream_of(nghttp2_session *ng, int32_t id)
{
	return nghttp2_session_get_stream_user_data(ng, id);
}

void http2_session_wake(struct http2_session *session);

// --- limits -------------------------------------------------------------------------------------------------
static const struct {
	uint32_t burst, rate;
	enum counter counter;
} FLOODS[HTTP2_FLOOD_COUNT] = {
    [HTTP2_FLOOD_RESET] = {LIMIT_HTTP2_RESETS, LIMIT_HTTP2_RESETS_PER_S, STAT_HTTP2_RESET_FLOOD},
    [HTTP2_FLOOD_SETTINGS] = {LIMIT_HTTP2_SETTINGS, LIMIT_HTTP2_SETTINGS_PER_S, STAT_HTTP2_SETTINGS_FLOOD},
    [HTTP2_FLOOD_PING] = {LIMIT_HTTP2_PINGS, LIMIT_HTTP2_PINGS_PER_S, STAT_HTTP2_PING_FLOOD},
    [HTTP2_FLOOD_EMPTY] = {LIMIT_HTTP2_EMPTY, LIMIT_HTTP2_EMPTY_PER_S, STAT_HTTP2_EMPTY_FLOOD},
    [HTTP2_FLOOD_OTHER] = {LIMIT_HTTP2_OTHER, LIMIT_HTTP2_OTHER_PER_S, STAT_HTTP2_OTHER_FLOOD},
};

static void buckets_fill(struct http2_session *session)
{
	uint32_t now_ms = (uint32_t)(loop_now(session->stream->loop) / NS_PER_MS);
	for (int i = 0; i < HTTP2_FLOOD_COUNT; i++)
		session->buckets[i] = (struct http2_bucket){FLOODS[i].burst, now_ms};
}

// A connection error: nothing more is taken in.
static int fail(struct http2_session *session, uint32_t code)
{
	session->fault = code;
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int spend(struct http2_session *session, enum http2_flood kind)
{
	struct http2_bucket *bucket = &session->buckets[kind];
	if (likely(bucket->tokens)) {
		bucket->tokens--;
		return 0;
	}
	uint32_t now_ms = (uint32_t)(loop_now(session->stream->loop) / NS_PER_MS);
	uint64_t earned = (uint64_t)(now_ms - bucket->at_ms) * FLOODS[kind].rate / 1000;
	bucket->tokens = (uint32_t)MIN(earned, (uint64_t)FLOODS[kind].burst);
	if (bucket->tokens) {
		bucket->at_ms = now_ms;
		bucket->tokens--;
		return 0;
	}
	stats_inc(FLOODS[kind].counter);
	return fail(session, NGHTTP2_ENHANCE_YOUR_CALM);
}

// A sidecar resets streams for many clients of its own: as many are borne as of frames that cost little.
static int spend_reset(struct http2_session *session)
{
	if (!session->server)
		return 0;
	return spend(session, session->trusted ? HTTP2_FLOOD_OTHER : HTTP2_FLOOD_RESET);
}

// --- ids: RFC 9113 5.1.1 ------------------------------------------------------------------------------------
// An id that was passed over counts as closed; to open it afterwards is an error of the connection, which
// the library lets pass.
static int note_id(struct http2_session *session, int32_t id)
{
	if (id % 2 == 0)
		return 0; // the library's business
	if (id > session->last_id) {
		int32_t next = session->last_id ? session->last_id + 2 : 1;
		if (id > next) {
			session->gaps[session->gap_count % HTTP2_GAPS].from = next;
			session->gaps[session->gap_count % HTTP2_GAPS].to = id - 2;
			session->gap_count++;
		}
		session->last_id = id;
		return 0;
	}
	for (unsigned i = 0; i < MIN(session->gap_count, (unsigned)HTTP2_GAPS); i++)
		if (id >= session->gaps[i].from && id <= session->gaps[i].to)
			return fail(session, NGHTTP2_PROTOCOL_ERROR);
	return 0;
}

// --- what comes in ------------------------------------------------------------------------------------------
static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *arg)
{
	struct http2_session *session = arg;
	(void)ng;
	switch (hd->type) {
	case NGHTTP2_HEADERS:
		return session->server ? note_id(session, hd->stream_id) : 0;
	case NGHTTP2_DATA:
		return hd->length == 0 && !(hd->flags & NGHTTP2_FLAG_END_STREAM)
			   ? spend(session, HTTP2_FLOOD_EMPTY)
			   : 0;
	case NGHTTP2_SETTINGS:
		return spend(session, HTTP2_FLOOD_SETTINGS);
	case NGHTTP2_PING:
		return spend(session, HTTP2_FLOOD_PING);
	case NGHTTP2_CONTINUATION:
		return hd->length == 0 ? spend(session, HTTP2_FLOOD_EMPTY) : 0;
	case NGHTTP2_RST_STREAM:
		return spend_reset(session);
	case NGHTTP2_PUSH_PROMISE:
		return fail(session, NGHTTP2_PROTOCOL_ERROR); // we asked for none
	case NGHTTP2_PRIORITY: // of no use to us, so the library does not look at it (RFC 9113 6.3)
		return hd->stream_id == 0 ? fail(session, NGHTTP2_PROTOCOL_ERROR)
					  : spend(session, HTTP2_FLOOD_OTHER);
	default:
		return spend(session, HTTP2_FLOOD_OTHER);
	}
}

static void block_free(struct http2_session *session)
{
	pool_put(&blocks, session->fields);
	session->fields = NULL;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct http2_session *session = arg;
	int32_t id = frame->hd.stream_id;
	block_free(session);
	session->field_count = session->field_bytes = 0;
	session->fields = pool_get(&blocks);
	if (!session->fields)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (!session->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
		session->fields_for = stream_of(ng, id);
		return 0;
	}
	session->fields_for = NULL;
	struct http2_stream *stream = session->ops->open(session, id);
	session->open_count++;
	if (!stream)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	*stream = (struct http2_stream){.session = session, .id = id};
	list_append(&session->streams, &stream->node);
	list_init(&stream->ready_node);
	session->fields_for = stream;
	return nghttp2_session_set_stream_user_data(ng, id, stream) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static struct str text_of(nghttp2_rcbuf *text)
{
	nghttp2_vec vec = nghttp2_rcbuf_get_buf(text);
	return (struct str){(const char *)vec.base, vec.len};
}

// The static table's texts stay for ever; others are copied.
static int keep_text(struct arena *arena, struct str *text, bool is_static)
{
	if (!is_static)
		text->p = arena_strdup(arena, text->p, text->len);
	return text->p ? 0 : -ENOMEM;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, nghttp2_rcbuf *name,
		     nghttp2_rcbuf *value, uint8_t flags, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream = session->fields_for;
	struct field field = {text_of(name), text_of(value), flags & NGHTTP2_NV_FLAG_NO_INDEX,
			      nghttp2_rcbuf_is_static(name)};
	(void)ng, (void)frame;
	session->field_bytes += field.name.len + field.value.len + FIELD_OVERHEAD;
	if (session->field_bytes > LIMIT_HTTP2_BLOCK) {
		stats_inc(STAT_HTTP2_HEADER_FLOOD);
		return fail(session, NGHTTP2_ENHANCE_YOUR_CALM);
	}
	if (!stream || session->field_bytes > LIMIT_HTTP_HEAD || session->field_count == PSEUDO_AND_FIELDS) {
		session->field_bytes = MAX(session->field_bytes, (size_t)LIMIT_HTTP_HEAD + 1);
		return 0;
	}
	struct arena *arena = session->ops->arena(stream);
	if (keep_text(arena, &field.name, field.constant_name) ||
	    keep_text(arena, &field.value, nghttp2_rcbuf_is_static(value)))
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	session->fields[session->field_count++] = field;
	return 0;
}

// What the library would leave out is an error here (RFC 9113 8.1.1).
static int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *frame, nghttp2_rcbuf *name,
			     nghttp2_rcbuf *value, uint8_t flags, void *arg)
{
	(void)ng, (void)frame, (void)name, (void)value, (void)flags, (void)arg;
	return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream = stream_of(ng, id);
	if (nghttp2_session_consume_connection(ng, len))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (!stream)
		return nghttp2_session_consume_stream(ng, id, len) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
	if (!(flags & NGHTTP2_FLAG_END_STREAM)) // behind the last frame nobody needs credit
		stream->unconsumed += (uint32_t)len;
	session->ops->data(stream, (struct slice){session->input.chunk, data, len});
	return 0;
}

static void take_block(struct http2_session *session, const nghttp2_frame *frame)
{
	struct http2_stream *stream = session->fields_for;
	struct field *fields = session->fields;
	bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	session->fields = NULL;
	if (stream && fields) {
		bool over = session->field_bytes > LIMIT_HTTP_HEAD;
		stream->end_received |= end;
		session->ops->fields(stream, over ? NULL : fields, session->field_count, end);
	}
	pool_put(&blocks, fields);
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		take_block(session, frame);
		break;
	case NGHTTP2_DATA:
		stream =
		    frame->hd.flags & NGHTTP2_FLAG_END_STREAM ? stream_of(ng, frame->hd.stream_id) : NULL;
		if (!stream)
			break;
		stream->end_received = true;
		session->ops->end(stream);
		break;
	case NGHTTP2_PING:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			session->ops->pong(session);
		break;
	case NGHTTP2_SETTINGS:
		session->has_settings |= !(frame->hd.flags & NGHTTP2_FLAG_ACK);
		break;
	default:
		break;
	}
	return 0;
}

static int on_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream = stream_of(ng, id);
	session->open_count--;
	if (stream) {
		http2_stream_detach(stream);
		session->ops->closed(stream, code);
	}
	return 0;
}

// --- what goes out ------------------------------------------------------------------------------------------
static bool is_provoked(uint32_t code)
{
	return code == NGHTTP2_PROTOCOL_ERROR || code == NGHTTP2_REFUSED_STREAM;
}

static int on_frame_sent(nghttp2_session *ng, const nghttp2_frame *frame, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
		stream =
		    frame->hd.flags & NGHTTP2_FLAG_END_STREAM ? stream_of(ng, frame->hd.stream_id) : NULL;
		if (!stream)
			break;
		stream->end_sent = true;
		session->ops->end_sent(stream);
		break;
	case NGHTTP2_RST_STREAM:
		if (frame->rst_stream.error_code == NGHTTP2_REFUSED_STREAM)
			stats_inc(STAT_HTTP2_STREAMS_REFUSED);
		// Resets that a peer provokes cost as much as those it sends.
		if (session->server && is_provoked(frame->rst_stream.error_code) &&
		    spend(session, HTTP2_FLOOD_RESET))
			nghttp2_session_terminate_session(ng, NGHTTP2_ENHANCE_YOUR_CALM);
		break;
	default:
		break;
	}
	return 0;
}

// A request that could not be sent any more was not begun by the peer.
static int on_frame_not_sent(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream =
	    frame->hd.type == NGHTTP2_HEADERS ? stream_of(ng, frame->hd.stream_id) : NULL;
	(void)error;
	if (stream && !session->server) {
		http2_stream_detach(stream);
		session->ops->closed(stream, NGHTTP2_REFUSED_STREAM);
	}
	return 0;
}

// Values lie in arenas that may be gone before the frame is sent, so the library copies them.
static size_t fill(nghttp2_nv *nva, const struct field *fields, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		unsigned flags = (fields[i].never_indexed ? NGHTTP2_NV_FLAG_NO_INDEX : 0u) |
				 (fields[i].constant_name ? NGHTTP2_NV_FLAG_NO_COPY_NAME : 0u);
		nva[i] = (nghttp2_nv){(uint8_t *)fields[i].name.p, (uint8_t *)fields[i].value.p,
				      fields[i].name.len, fields[i].value.len, (uint8_t)flags};
	}
	return count;
}

static int add_trailers(struct http2_session *session, struct http2_stream *stream)
{
	nghttp2_nv nva[LIMIT_HTTP_HEADERS];
	size_t count = MIN(stream->trailer_count, (size_t)LIMIT_HTTP_HEADERS);
	return nghttp2_submit_trailer(session->ng, stream->id, nva, fill(nva, stream->trailers, count));
}

static ssize_t on_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
		       nghttp2_data_source *source, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream = stream_of(ng, id);
	(void)buf, (void)source;
	if (!stream)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (bufq_empty(&stream->out) && !stream->ended) {
		stream->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	size_t n = MIN(len, stream->out.bytes);
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (!stream->ended || n < stream->out.bytes)
		return (ssize_t)n;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (stream->trailer_count) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		if (add_trailers(session, stream))
			return NGHTTP2_ERR_CALLBACK_FAILURE;
	}
	return (ssize_t)n;
}

// Little payload is copied, so that one write takes it without a piece for each frame.
static int move_payload(struct bufq *wire, struct bufq *from, size_t len)
{
	if (len > COPY_MAX)
		return bufq_move(wire, from, len);
	while (len) {
		struct slice slice = bufq_first(from);
		size_t n = MIN(len, slice.len);
		if (bufq_add_packed(wire, slice.p, n))
			return -ENOMEM;
		bufq_drop(from, n);
		len -= n;
	}
	return 0;
}

static int on_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *framehd, size_t len,
			nghttp2_data_source *source, void *arg)
{
	struct http2_session *session = arg;
	struct http2_stream *stream = stream_of(ng, frame->hd.stream_id);
	(void)source;
	if (!stream)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (bufq_add_packed(&session->wire, framehd, 9) || move_payload(&session->wire, &stream->out, len))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	stream->moved += len;
	if (stream->broken && bufq_empty(&stream->out) &&
	    nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, stream->id, stream->code))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (stream->congested && stream->out.bytes <= STREAM_LOW && list_empty(&stream->ready_node))
		list_append(&session->drained, &stream->ready_node);
	return 0;
}

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
	const uint8_t *bytes;
	while (stream_queued(session->stream) + session->wire.bytes <= LIMIT_OUT_HIGH) {
		ssize_t n = nghttp2_session_mem_send(session->ng, &bytes);
		session->dead = n < 0 || (n > 0 && bufq_add_packed(&session->wire, bytes, (size_t)n));
		if (n <= 0 || session->dead)
			break;
	}
	if (session->wire.bytes)
		stream_write(session->stream, &session->wire);
	stream_congested(session->stream); // then on_drained wakes us
}

static bool is_over(const struct http2_session *session)
{
	if (session->dead)
		return true;
	return !nghttp2_session_want_write(session->ng) &&
	       (session->fault || !nghttp2_session_want_read(session->ng));
}

static void flush(struct loop_task *task)
{
	struct http2_session *session = container_of(task, struct http2_session, task);
	if (!session->ng || session->over)
		return;
	if (!session->dead)
		send_frames(session);
	call_drained(session);
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

// --- life ---------------------------------------------------------------------------------------------------
static nghttp2_session_callbacks *make_callbacks(void)
{
	nghttp2_session_callbacks *callbacks;
	if (nghttp2_session_callbacks_new(&callbacks))
		return NULL;
	nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(callbacks, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback2(callbacks, on_invalid_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
	nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
	return callbacks;
}

static nghttp2_option *make_options(void)
{
	nghttp2_option *option;
	if (nghttp2_option_new(&option))
		return NULL;
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_no_closed_streams(option, 1);
	nghttp2_option_set_peer_max_concurrent_streams(option, LIMIT_HTTP2_STREAMS_ASSUMED);
	nghttp2_option_set_max_continuations(option, LIMIT_HTTP2_CONTINUATIONS);
	nghttp2_option_set_stream_reset_rate_limit(option, UINT32_MAX, UINT32_MAX); // ours counts
	return option;
}

static int submit_settings(struct http2_session *session)
{
	const nghttp2_settings_entry server[] = {
	    {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, LIMIT_HTTP2_STREAMS},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LIMIT_HTTP2_STREAM_WINDOW},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_HTTP_HEAD},
	    {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
	    {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};
	const nghttp2_settings_entry client[] = {
	    {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LIMIT_HTTP2_STREAM_WINDOW},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_HTTP_HEAD},
	    {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};
	int err = session->server ? nghttp2_submit_settings(session->ng, 0, server, ARRAY_SIZE(server))
				  : nghttp2_submit_settings(session->ng, 0, client, ARRAY_SIZE(client));
	if (!err)
		err = nghttp2_session_set_local_window_size(session->ng, 0, 0, LIMIT_HTTP2_WINDOW);
	return err ? -ENOMEM : 0;
}

int http2_session_init(struct http2_session *session, struct stream *stream, bool server,
		       const struct http2_session_ops *ops)
{
	*session = (struct http2_session){.stream = stream, .ops = ops, .server = server};
	list_init(&session->streams);
	list_init(&session->drained);
	buckets_fill(session);
	nghttp2_session_callbacks *callbacks = make_callbacks();
	nghttp2_option *options = make_options();
	nghttp2_mem memory = http2_memory();
	int err = !callbacks || !options ? -ENOMEM
		  : server ? nghttp2_session_server_new3(&session->ng, callbacks, session, options, &memory)
			   : nghttp2_session_client_new3(&session->ng, callbacks, session, options, &memory);
	nghttp2_session_callbacks_del(callbacks);
	nghttp2_option_del(options);
	if (!err)
		err = submit_settings(session);
	if (err) {
		http2_session_done(session);
		return -ENOMEM;
	}
	return 0;
}

void http2_session_done(struct http2_session *session)
{
	nghttp2_session *ng = session->ng;
	session->ng = NULL;
	nghttp2_session_del(ng);
	bufq_clear(&session->wire);
	block_free(session);
}

void http2_thread_done(void)
{
	pool_trim(&blocks);
	http2_memory_thread_done();
}

int http2_session_upgrade(struct http2_session *session, const uint8_t *settings, size_t len,
			  bool head_request, struct http2_stream *stream)
{
	int err = nghttp2_session_upgrade2(session->ng, settings, len, head_request, NULL);
	if (err)
		return err == NGHTTP2_ERR_NOMEM ? -ENOMEM : ERR_MALFORMED;
	session->open_count++;
	session->last_id = 1;
	*stream = (struct http2_stream){.session = session, .id = 1, .end_received = true};
	list_append(&session->streams, &stream->node);
	list_init(&stream->ready_node);
	nghttp2_session_set_stream_user_data(session->ng, 1, stream);
	return 0;
}

// The error code to end with, of an error that the library does not get over.
static uint32_t code_of(struct http2_session *session, ssize_t error)
{
	switch (error) {
	case NGHTTP2_ERR_TOO_MANY_CONTINUATIONS:
		stats_inc(STAT_HTTP2_CONTINUATION_FLOOD);
		return NGHTTP2_ENHANCE_YOUR_CALM;
	case NGHTTP2_ERR_FLOODED:
		stats_inc(STAT_HTTP2_PING_FLOOD);
		return NGHTTP2_ENHANCE_YOUR_CALM;
	case NGHTTP2_ERR_BAD_CLIENT_MAGIC:
		return NGHTTP2_PROTOCOL_ERROR;
	default:
		session->dead = !session->fault;
		return session->fault ? session->fault : NGHTTP2_INTERNAL_ERROR;
	}
}

static int feed_failed(struct http2_session *session, ssize_t error)
{
	http2_session_terminate(session, code_of(session, error));
	return ERR_MALFORMED;
}

int http2_session_feed(struct http2_session *session, struct slice bytes)
{
	if (session->fault || session->over || session->dead)
		return ERR_CLOSED;
	// An operation may read from another stream, which must not overwrite what is being fed.
	struct chunk *chunk = chunk_ref(bytes.chunk);
	session->input = bytes;
	session->received = true;
	ssize_t n = nghttp2_session_mem_recv(session->ng, bytes.p, bytes.len);
	session->input = (struct slice){0};
	chunk_unref(chunk);
	http2_session_wake(session);
	return n < 0 ? feed_failed(session, n) : 0;
}

int http2_session_read(struct http2_session *session)
{
	struct slice slice;
	while (!stream_congested(session->stream)) {
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
	if (!session->dead)
		nghttp2_submit_ping(session->ng, NGHTTP2_FLAG_NONE, NULL);
	http2_session_wake(session);
}

void http2_session_warn(struct http2_session *session)
{
	if (!session->dead)
		nghttp2_submit_shutdown_notice(session->ng);
	http2_session_ping(session);
}

void http2_session_goaway(struct http2_session *session)
{
	if (session->dead)
		return;
	int32_t last = session->server ? nghttp2_session_get_last_proc_stream_id(session->ng) : 0;
	nghttp2_submit_goaway(session->ng, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0);
	http2_session_wake(session);
}

void http2_session_terminate(struct http2_session *session, uint32_t code)
{
	if (!session->fault)
		session->fault = code;
	if (!session->dead)
		nghttp2_session_terminate_session(session->ng, code);
	http2_session_wake(session);
}

uint32_t http2_session_max_streams(const struct http2_session *session)
{
	uint32_t limit =
	    session->has_settings
		? nghttp2_session_get_remote_settings(session->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
		: LIMIT_HTTP2_STREAMS_ASSUMED;
	return MIN(limit, (uint32_t)LIMIT_HTTP2_STREAMS_UPSTREAM);
}

bool http2_session_takes_connect(const struct http2_session *session)
{
	return nghttp2_session_get_remote_settings(session->ng, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) ==
	       1;
}

bool http2_session_usable(const struct http2_session *session)
{
	return session->ng && !session->fault && !session->over && !session->dead &&
	       nghttp2_session_check_request_allowed(session->ng);
}

// --- streams ------------------------------------------------------------------------------------------------
static bool is_attached(const struct http2_stream *stream)
{
	return stream->session && !stream->session->dead;
}

static const nghttp2_data_provider PROVIDER = {.read_callback = on_read};

int http2_stream_open(struct http2_session *session, struct http2_stream *stream, const struct field *fields,
		      size_t count, bool end)
{
	nghttp2_nv nva[PSEUDO_AND_FIELDS];
	if (session->dead)
		return -ENOMEM;
	int32_t id = nghttp2_submit_request(session->ng, NULL, nva, fill(nva, fields, count),
					    end ? NULL : &PROVIDER, stream);
	if (id < 0)
		return id == NGHTTP2_ERR_NOMEM ? -ENOMEM : ERR_CLOSED;
	*stream = (struct http2_stream){.session = session, .id = id, .ended = end};
	list_append(&session->streams, &stream->node);
	list_init(&stream->ready_node);
	session->open_count++;
	http2_session_wake(session);
	return 0;
}

int http2_stream_inform(struct http2_stream *stream, const struct field *fields, size_t count)
{
	nghttp2_nv nva[PSEUDO_AND_FIELDS];
	if (!is_attached(stream))
		return 0;
	int err = nghttp2_submit_headers(stream->session->ng, NGHTTP2_FLAG_NONE, stream->id, NULL, nva,
					 fill(nva, fields, count), NULL);
	http2_session_wake(stream->session);
	return err ? -ENOMEM : 0;
}

int http2_stream_respond(struct http2_stream *stream, const struct field *fields, size_t count, bool end)
{
	nghttp2_nv nva[PSEUDO_AND_FIELDS];
	if (!is_attached(stream))
		return 0;
	stream->ended = end;
	int err = nghttp2_submit_response(stream->session->ng, stream->id, nva, fill(nva, fields, count),
					  end ? NULL : &PROVIDER);
	http2_session_wake(stream->session);
	return err ? -ENOMEM : 0;
}

static void resume(struct http2_stream *stream)
{
	if (stream->deferred) {
		stream->deferred = false;
		nghttp2_session_resume_data(stream->session->ng, stream->id);
	}
	http2_session_wake(stream->session);
}

void http2_stream_write(struct http2_stream *stream, struct bufq *bytes)
{
	if (!is_attached(stream) || stream->ended) {
		bufq_clear(bytes);
		return;
	}
	bufq_move(&stream->out, bytes, bytes->bytes); // moving all needs no memory
	resume(stream);
}

void http2_stream_end(struct http2_stream *stream, const struct field *trailers, size_t count)
{
	if (!is_attached(stream) || stream->ended)
		return;
	stream->ended = true;
	stream->trailers = trailers;
	stream->trailer_count = (uint16_t)count;
	resume(stream);
}

bool http2_stream_congested(struct http2_stream *stream)
{
	if (stream->session && stream->out.bytes > LIMIT_HTTP2_STREAM_OUT)
		stream->congested = true;
	return stream->congested;
}

void http2_stream_consume(struct http2_stream *stream)
{
	if (!is_attached(stream) || !stream->unconsumed)
		return;
	nghttp2_session_consume_stream(stream->session->ng, stream->id, stream->unconsumed);
	stream->unconsumed = 0;
	http2_session_wake(stream->session);
}

bool http2_stream_break(struct http2_stream *stream, uint32_t code)
{
	if (!is_attached(stream) || stream->ended || bufq_empty(&stream->out))
		return false;
	stream->broken = true;
	stream->code = code;
	resume(stream);
	return true;
}

void http2_stream_reset(struct http2_stream *stream, uint32_t code)
{
	struct http2_session *session = stream->session;
	if (!session)
		return;
	if (!session->dead)
		nghttp2_submit_rst_stream(session->ng, NGHTTP2_FLAG_NONE, stream->id, code);
	http2_session_wake(session);
	http2_stream_detach(stream);
}

void http2_stream_detach(struct http2_stream *stream)
{
	if (!stream->session)
		return;
	nghttp2_session_set_stream_user_data(stream->session->ng, stream->id, NULL);
	list_del(&stream->node);
	list_del(&stream->ready_node);
	bufq_clear(&stream->out);
	if (stream->session->fields_for == stream)
		stream->session->fields_for = NULL;
	stream->congested = false;
	stream->session = NULL;
}
