// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_wire.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/http2.h"
#include "exchange/transport.h"
#include "run/stats.h"

enum {
	FIELD_OVERHEAD = 32, // RFC 9113 6.5.2
	FIELDS_MAX = LIMIT_HTTP_HEADERS + HTTP2_PSEUDO_MAX + TRANSPORT_FIELDS,
	SPARE_BLOCKS = 8,
	PRIORITY_BYTES = 5,
	STATIC_ENTRIES = 61, // RFC 7541 A
	TYPES = NGHTTP2_CONTINUATION + 1,
};

static __thread struct pool blocks = {.size = FIELDS_MAX * sizeof(struct field), .keep = SPARE_BLOCKS};

static size_t receive_head(struct http2_session *session, const uint8_t *bytes, size_t len);
static size_t receive_payload(struct http2_session *session, const uint8_t *bytes, size_t len);
static size_t receive_pad_length(struct http2_session *session, const uint8_t *bytes, size_t len);
static size_t receive_data(struct http2_session *session, const uint8_t *bytes, size_t len);
static size_t receive_nothing(struct http2_session *session, const uint8_t *bytes, size_t len);

// --- field blocks -------------------------------------------------------------------------------------------
static void block_free(struct http2_session *session)
{
	pool_put(&blocks, session->fields);
	session->fields = NULL;
}

// Where the library keeps the texts of HPACK's static table: they stay for ever, others are copied.
static __thread uintptr_t static_from, static_to;

static void static_note(const uint8_t *text, size_t len)
{
	static_from = MIN(static_from, (uintptr_t)text);
	static_to = MAX(static_to, (uintptr_t)text + len + 1);
}

static void static_find(struct http2_session *session)
{
	if (static_to)
		return;
	static_from = UINTPTR_MAX;
	for (size_t i = 1; i <= STATIC_ENTRIES; i++) {
		const nghttp2_nv *entry = nghttp2_hd_inflate_get_table_entry(session->inflater, i);
		static_note(entry->name, entry->namelen);
		static_note(entry->value, entry->valuelen);
	}
}

static bool is_static(const uint8_t *text)
{
	return (uintptr_t)text >= static_from && (uintptr_t)text < static_to;
}

static bool keep_text(struct arena *arena, struct str *text, bool stays)
{
	if (!stays)
		text->p = arena_strdup(arena, text->p, text->len);
	return text->p;
}

static void take_field(struct http2_session *session, const nghttp2_nv *nv)
{
	struct http2_stream *stream = session->fields_for;
	struct field field = {{(const char *)nv->name, nv->namelen},
			      {(const char *)nv->value, nv->valuelen},
			      nv->flags & NGHTTP2_NV_FLAG_NO_INDEX,
			      is_static(nv->name)};
	session->field_bytes += nv->namelen + nv->valuelen + FIELD_OVERHEAD;
	if (session->field_bytes > LIMIT_HTTP2_BLOCK) {
		stats_inc(STAT_HTTP2_HEADER_FLOOD);
		http2_fail(session, NGHTTP2_ENHANCE_YOUR_CALM);
		return;
	}
	if (!stream || session->field_bytes > LIMIT_HTTP_HEAD || session->field_count == FIELDS_MAX) {
		session->field_bytes = MAX(session->field_bytes, (size_t)LIMIT_HTTP_HEAD + 1);
		return;
	}
	struct arena *arena = session->ops->arena(stream);
	if (keep_text(arena, &field.name, field.constant_name) &&
	    keep_text(arena, &field.value, is_static(nv->value)))
		session->fields[session->field_count++] = field;
	else
		http2_stream_fail(stream, NGHTTP2_INTERNAL_ERROR);
}

// An id that was passed over counts as closed: to open it afterwards is an error of the connection (RFC 9113
// 5.1.1).
static void note_gap(struct http2_session *session, int32_t id)
{
	int32_t next = session->last_id ? session->last_id + 2 : 1;
	if (id > next) {
		session->gaps[session->gap_count % HTTP2_GAPS].from = next;
		session->gaps[session->gap_count % HTTP2_GAPS].to = id - 2;
		session->gap_count++;
	}
	session->last_id = id;
}

static bool was_passed_over(const struct http2_session *session, int32_t id)
{
	for (unsigned i = 0; i < MIN(session->gap_count, (unsigned)HTTP2_GAPS); i++)
		if (id >= session->gaps[i].from && id <= session->gaps[i].to)
			return true;
	return false;
}

// A request begins. NULL: nobody wants it, but its fields count for the table.
static struct http2_stream *open_stream(struct http2_session *session, int32_t id)
{
	note_gap(session, id);
	if (session->goaway_sent)
		return NULL;
	session->taken_id = id;
	if (session->open_count >= LIMIT_HTTP2_STREAMS) {
		http2_send_reset(session, id, NGHTTP2_REFUSED_STREAM);
		return NULL;
	}
	struct http2_stream *stream = session->ops->open(session, id);
	if (stream)
		http2_stream_begin(session, stream, id);
	else
		http2_send_reset(session, id, NGHTTP2_INTERNAL_ERROR);
	return stream;
}

static bool is_new(const struct http2_session *session, int32_t id)
{
	return session->server && id > session->last_id;
}

// Whose block it is; NULL: nobody's.
static struct http2_stream *block_stream(struct http2_session *session, int32_t id)
{
	if (is_new(session, id))
		return open_stream(session, id);
	struct http2_stream *stream = http2_session_find(session, id);
	if (stream && stream->end_received)
		http2_fail(session, NGHTTP2_STREAM_CLOSED);
	else if (!stream && was_passed_over(session, id))
		http2_fail(session, NGHTTP2_PROTOCOL_ERROR);
	return stream;
}

static void block_begin(struct http2_session *session)
{
	int32_t id = session->frame.id;
	block_free(session);
	session->field_count = session->field_bytes = 0;
	session->block_id = id;
	session->block_flags = session->frame.flags;
	session->continuations = 0;
	session->fields = pool_get(&blocks);
	if (session->fields)
		session->fields_for = block_stream(session, id);
	else
		session->dead = true;
}

// What both halves being over leads to.
static void settle(struct http2_session *session, int32_t id)
{
	struct http2_stream *stream = http2_session_find(session, id);
	if (stream && stream->end_received && stream->end_sent)
		http2_stream_close(stream, NGHTTP2_NO_ERROR);
}

// False: the content was not as long as it said, and the stream has failed.
static bool take_end(struct http2_stream *stream)
{
	stream->end_received = true;
	if (!stream->has_length || !stream->content_left)
		return true;
	http2_stream_fail(stream, NGHTTP2_PROTOCOL_ERROR);
	return false;
}

static void block_end(struct http2_session *session)
{
	int32_t id = session->block_id;
	struct http2_stream *stream = session->fields_for;
	struct field *fields = session->fields;
	bool end = session->block_flags & NGHTTP2_FLAG_END_STREAM;
	bool over = session->field_bytes > LIMIT_HTTP_HEAD;
	session->block_id = 0;
	session->fields = NULL;
	session->fields_for = NULL;
	if (stream && (!end || take_end(stream))) {
		session->ops->fields(stream, over ? NULL : fields, session->field_count, end);
		settle(session, id);
	}
	pool_put(&blocks, fields);
}

static void block_take(struct http2_session *session, struct reader *r)
{
	bool last = session->frame.flags & NGHTTP2_FLAG_END_HEADERS;
	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		struct reader rest = *r;
		size_t len = reader_remaining(r);
		ssize_t n = nghttp2_hd_inflate_hd2(session->inflater, &nv, &flags, reader_take(&rest, len),
						   len, last);
		if (n < 0) {
			session->dead = session->dead || n == NGHTTP2_ERR_NOMEM;
			http2_fail(session, NGHTTP2_COMPRESSION_ERROR);
			return;
		}
		reader_skip(r, (size_t)n);
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			take_field(session, &nv);
		if (session->fault || flags & NGHTTP2_HD_INFLATE_FINAL)
			break;
		if (!(flags & NGHTTP2_HD_INFLATE_EMIT) && !reader_remaining(r))
			return; // the rest is in the next frame
	}
	if (session->fault)
		return;
	nghttp2_hd_inflate_end_headers(session->inflater);
	block_end(session);
}

static void take_headers(struct http2_session *session, struct reader r)
{
	uint8_t padding = session->frame.flags & NGHTTP2_FLAG_PADDED ? reader_u8(&r) : 0;
	if (session->frame.flags & NGHTTP2_FLAG_PRIORITY)
		reader_skip(&r, PRIORITY_BYTES);
	if (r.err || padding > reader_remaining(&r)) {
		http2_fail(session, r.err ? NGHTTP2_FRAME_SIZE_ERROR : NGHTTP2_PROTOCOL_ERROR);
		return;
	}
	struct reader block = reader_sub(&r, reader_remaining(&r) - padding);
	block_begin(session);
	if (!session->fault && !session->dead)
		block_take(session, &block);
}

static void take_continuation(struct http2_session *session, struct reader r)
{
	if (++session->continuations > LIMIT_HTTP2_CONTINUATIONS) {
		stats_inc(STAT_HTTP2_CONTINUATION_FLOOD);
		http2_fail(session, NGHTTP2_ENHANCE_YOUR_CALM);
		return;
	}
	block_take(session, &r);
}

// --- SETTINGS -----------------------------------------------------------------------------------------------
// The new window of each stream counts for those that are open as well (RFC 9113 6.9.2).
static void set_windows(struct http2_session *session, int32_t window)
{
	int64_t change = (int64_t)window - session->peer.window;
	session->peer.window = window;
	list_for_each (node, &session->streams) {
		struct http2_stream *stream = container_of(node, struct http2_stream, node);
		int64_t now = stream->send_window + change;
		if (now > INT32_MAX) {
			http2_fail(session, NGHTTP2_FLOW_CONTROL_ERROR);
			return;
		}
		stream->send_window = (int32_t)now;
		http2_stream_queue(stream);
	}
}

static uint32_t set_connect(struct http2_session *session, uint32_t value)
{
	if (value > 1 || (session->peer.connect && !value)) // RFC 8441 3
		return NGHTTP2_PROTOCOL_ERROR;
	session->peer.connect = value;
	return NGHTTP2_NO_ERROR;
}

static uint32_t set_table(struct http2_session *session, uint32_t value)
{
	if (nghttp2_hd_deflate_change_table_size(session->deflater, value))
		session->dead = true;
	return NGHTTP2_NO_ERROR;
}

// Takes one setting; an error code, or 0. The window is only noted.
static uint32_t set(struct http2_session *session, uint16_t setting, uint32_t value, int32_t *window)
{
	switch (setting) {
	case NGHTTP2_SETTINGS_HEADER_TABLE_SIZE:
		return set_table(session, value);
	case NGHTTP2_SETTINGS_ENABLE_PUSH:
		return value > (session->server ? 1u : 0u) ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_NO_ERROR;
	case NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS:
		session->peer.max_streams = value;
		return NGHTTP2_NO_ERROR;
	case NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE:
		*window = (int32_t)MIN(value, (uint32_t)INT32_MAX);
		return value > INT32_MAX ? NGHTTP2_FLOW_CONTROL_ERROR : NGHTTP2_NO_ERROR;
	case NGHTTP2_SETTINGS_MAX_FRAME_SIZE:
		// What is sent is never longer than the least that it may be.
		return value < HTTP2_FRAME_MAX || value >= 1 << 24 ? NGHTTP2_PROTOCOL_ERROR
								   : NGHTTP2_NO_ERROR;
	case NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL:
		return set_connect(session, value);
	case NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES:
		return value > 1 ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_NO_ERROR;
	default:
		return NGHTTP2_NO_ERROR;
	}
}

void http2_receive_settings(struct http2_session *session, struct reader r)
{
	int32_t window = session->peer.window;
	if (reader_remaining(&r) > LIMIT_HTTP2_SETTINGS_ENTRIES * 6) {
		http2_fail(session, NGHTTP2_ENHANCE_YOUR_CALM);
		return;
	}
	while (reader_remaining(&r)) {
		uint16_t setting = reader_u16(&r);
		uint32_t value = reader_u32(&r);
		uint32_t fault = r.err ? NGHTTP2_FRAME_SIZE_ERROR : set(session, setting, value, &window);
		if (fault) {
			http2_fail(session, fault);
			return;
		}
	}
	if (window != session->peer.window)
		set_windows(session, window);
}

static void take_settings(struct http2_session *session, struct reader r)
{
	if (session->frame.flags & NGHTTP2_FLAG_ACK) {
		if (session->frame.len)
			http2_fail(session, NGHTTP2_FRAME_SIZE_ERROR);
		return;
	}
	http2_receive_settings(session, r);
	if (session->fault)
		return;
	session->has_settings = true;
	http2_send_settings_ack(session);
}

// --- streams that are over ----------------------------------------------------------------------------------
// What was under way when a stream ended means nothing any more; it may not go on without end. Endpoints and
// sidecars speak of streams of many clients.
static void note_closed(struct http2_session *session)
{
	http2_spend(session, session->server && !session->trusted ? HTTP2_FLOOD_CLOSED : HTTP2_FLOOD_OTHER);
}

// Priorities (RFC 9113 5.3.2) mean nothing here on any stream.
static void take_priority(struct http2_session *session, struct reader r)
{
	(void)r;
	if (!http2_session_find(session, session->frame.id))
		note_closed(session);
}

// --- other frames -------------------------------------------------------------------------------------------
static void take_reset(struct http2_session *session, struct reader r)
{
	struct http2_stream *stream = http2_session_find(session, session->frame.id);
	if (stream)
		http2_stream_close(stream, reader_u32(&r));
	else
		note_closed(session);
}

static void take_ping(struct http2_session *session, struct reader r)
{
	if (session->frame.flags & NGHTTP2_FLAG_ACK)
		session->ops->pong(session);
	else
		http2_send_ping(session, reader_u64(&r), true);
}

static struct http2_stream *find_behind(const struct http2_session *session, int32_t last)
{
	list_for_each (node, &session->streams) {
		struct http2_stream *stream = container_of(node, struct http2_stream, node);
		if (stream->id > last)
			return stream;
	}
	return NULL;
}

static void take_goaway(struct http2_session *session, struct reader r)
{
	int32_t last = (int32_t)(reader_u32(&r) & INT32_MAX);
	if (last > session->goaway_id) {
		http2_fail(session, NGHTTP2_PROTOCOL_ERROR);
		return;
	}
	session->goaway_received = true;
	session->goaway_id = last;
	struct http2_stream *stream;
	while (!session->server && (stream = find_behind(session, last)))
		http2_stream_close(stream, NGHTTP2_REFUSED_STREAM);
}

// What waited for the connection's window may go on.
static void queue_all(struct http2_session *session)
{
	list_for_each (node, &session->streams) {
		struct http2_stream *stream = container_of(node, struct http2_stream, node);
		if (stream->out.bytes)
			http2_stream_queue(stream);
	}
}

static uint32_t widen(int32_t *window, uint32_t increment)
{
	if (!increment)
		return NGHTTP2_PROTOCOL_ERROR;
	if ((int64_t)*window + increment > INT32_MAX)
		return NGHTTP2_FLOW_CONTROL_ERROR;
	*window += (int32_t)increment;
	return NGHTTP2_NO_ERROR;
}

static void take_window_update(struct http2_session *session, struct reader r)
{
	uint32_t increment = reader_u32(&r) & INT32_MAX;
	if (!session->frame.id) {
		bool waited = session->send_window <= 0;
		uint32_t fault = widen(&session->send_window, increment);
		if (fault)
			http2_fail(session, fault);
		else if (waited)
			queue_all(session);
		return;
	}
	struct http2_stream *stream = http2_session_find(session, session->frame.id);
	if (!stream) {
		note_closed(session);
		return;
	}
	uint32_t fault = widen(&stream->send_window, increment);
	if (fault)
		http2_stream_fail(stream, fault);
	else
		http2_stream_queue(stream);
}

// --- which frames there are ---------------------------------------------------------------------------------
enum place { CONNECTION = 1, STREAM = 2, OPENED = 4 }; // OPENED: on a stream that is or was open

static const struct rule {
	uint8_t place;	  // where it may come
	uint8_t exact;	  // length of its payload, if it has but one
	uint8_t least;	  // or that it has at least
	uint8_t multiple; // or that it is a multiple of
	uint8_t flood;	  // what it counts for
	void (*take)(struct http2_session *session, struct reader payload);
} RULES[TYPES] = {
    [NGHTTP2_DATA] = {.place = STREAM | OPENED, .flood = HTTP2_FLOOD_COUNT},
    [NGHTTP2_HEADERS] = {.place = STREAM, .flood = HTTP2_FLOOD_COUNT, .take = take_headers},
    [NGHTTP2_PRIORITY] = {.place = STREAM,
			  .exact = PRIORITY_BYTES,
			  .flood = HTTP2_FLOOD_OTHER,
			  .take = take_priority},
    [NGHTTP2_RST_STREAM] = {.place = STREAM | OPENED,
			    .exact = 4,
			    .flood = HTTP2_FLOOD_RESET,
			    .take = take_reset},
    [NGHTTP2_SETTINGS] = {.place = CONNECTION,
			  .multiple = 6,
			  .flood = HTTP2_FLOOD_SETTINGS,
			  .take = take_settings},
    [NGHTTP2_PUSH_PROMISE] = {.place = 0}, // we asked for none
    [NGHTTP2_PING] = {.place = CONNECTION, .exact = 8, .flood = HTTP2_FLOOD_PING, .take = take_ping},
    [NGHTTP2_GOAWAY] = {.place = CONNECTION, .least = 8, .flood = HTTP2_FLOOD_OTHER, .take = take_goaway},
    [NGHTTP2_WINDOW_UPDATE] = {.place = CONNECTION | STREAM | OPENED,
			       .exact = 4,
			       .flood = HTTP2_FLOOD_OTHER,
			       .take = take_window_update},
    [NGHTTP2_CONTINUATION] = {.place = STREAM, .flood = HTTP2_FLOOD_COUNT, .take = take_continuation},
};
static const struct rule UNKNOWN = {.place = CONNECTION | STREAM, .flood = HTTP2_FLOOD_OTHER};

static const struct rule *rule_of(const struct http2_frame *frame)
{
	return frame->type < TYPES ? &RULES[frame->type] : &UNKNOWN;
}

// RFC 9113 5.1: nothing but HEADERS and PRIORITY comes on a stream that was never opened.
static bool is_idle(const struct http2_session *session, int32_t id)
{
	if (session->server)
		return id % 2 == 0 || id > session->last_id;
	return id % 2 == 0 || (session->next_id && id >= session->next_id);
}

static bool is_in_place(const struct http2_session *session, const struct rule *rule)
{
	const struct http2_frame *frame = &session->frame;
	bool block = frame->type == NGHTTP2_CONTINUATION;
	if (!session->has_settings && (frame->type != NGHTTP2_SETTINGS || frame->flags & NGHTTP2_FLAG_ACK))
		return false; // 3.4
	if (session->block_id ? !block || frame->id != session->block_id : block)
		return false; // 6.10
	if (frame->type == NGHTTP2_HEADERS &&
	    (session->server ? frame->id % 2 == 0 : is_idle(session, frame->id)))
		return false; // 5.1.1
	if (!(rule->place & (frame->id ? STREAM : CONNECTION)))
		return false;
	return !(frame->id && rule->place & OPENED && is_idle(session, frame->id));
}

static bool has_size(const struct http2_frame *frame, const struct rule *rule)
{
	if (frame->len > HTTP2_FRAME_MAX || (rule->exact && frame->len != rule->exact))
		return false;
	return frame->len >= rule->least && (!rule->multiple || frame->len % rule->multiple == 0);
}

// What it counts for; HTTP2_FLOOD_COUNT: nothing.
static enum http2_flood flood_of(const struct http2_session *session, const struct rule *rule)
{
	const struct http2_frame *frame = &session->frame;
	bool says_nothing =
	    frame->len == 0 && (frame->type == NGHTTP2_CONTINUATION ||
				(frame->type == NGHTTP2_DATA && !(frame->flags & NGHTTP2_FLAG_END_STREAM)));
	if (says_nothing)
		return HTTP2_FLOOD_EMPTY;
	if (rule->flood != HTTP2_FLOOD_RESET)
		return rule->flood;
	// A sidecar resets streams for many clients of its own: as many are borne as of frames that cost
	// little.
	return !session->server	  ? HTTP2_FLOOD_COUNT
	       : session->trusted ? HTTP2_FLOOD_OTHER
				  : HTTP2_FLOOD_RESET;
}

// False: the connection fails.
static bool admit(struct http2_session *session, const struct rule *rule)
{
	if (!has_size(&session->frame, rule)) {
		http2_fail(session, NGHTTP2_FRAME_SIZE_ERROR);
		return false;
	}
	if (!is_in_place(session, rule)) {
		http2_fail(session, NGHTTP2_PROTOCOL_ERROR);
		return false;
	}
	enum http2_flood flood = flood_of(session, rule);
	return flood == HTTP2_FLOOD_COUNT || http2_spend(session, flood);
}

// --- DATA ---------------------------------------------------------------------------------------------------
static void data_end(struct http2_session *session)
{
	struct http2_stream *stream = session->data_for;
	session->data_for = NULL;
	session->receive = receive_head;
	if (!stream || !(session->frame.flags & NGHTTP2_FLAG_END_STREAM) || !take_end(stream))
		return;
	session->ops->end(stream);
	settle(session, session->frame.id);
}

// Padding counts as read at once.
static void data_begin(struct http2_session *session)
{
	struct http2_frame *frame = &session->frame;
	struct http2_stream *stream = http2_session_find(session, frame->id);
	if ((int64_t)frame->len > session->receive_window) {
		http2_fail(session, NGHTTP2_FLOW_CONTROL_ERROR);
		return;
	}
	session->receive_window -= (int32_t)frame->len;
	http2_credit_connection(session, frame->len);
	session->data_for = stream;
	if (stream && stream->end_received)
		http2_stream_fail(stream, NGHTTP2_STREAM_CLOSED);
	else if (stream && (int64_t)frame->len > stream->receive_window)
		http2_stream_fail(stream, NGHTTP2_FLOW_CONTROL_ERROR);
	else if (stream)
		stream->receive_window -= (int32_t)frame->len;
	else
		note_closed(session);
	frame->left = frame->len;
	frame->padding = 0;
	if (frame->flags & NGHTTP2_FLAG_PADDED && frame->len)
		session->receive = receive_pad_length;
	else if (frame->flags & NGHTTP2_FLAG_PADDED)
		http2_fail(session, NGHTTP2_FRAME_SIZE_ERROR);
	else if (frame->len)
		session->receive = receive_data;
	else
		data_end(session);
}

static size_t receive_pad_length(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	(void)len;
	frame->left--;
	frame->padding = *bytes;
	if (frame->padding > frame->left) {
		http2_fail(session, NGHTTP2_PROTOCOL_ERROR);
		return 1;
	}
	if (session->data_for)
		http2_credit_stream(session->data_for, frame->padding + 1);
	session->receive = frame->left > frame->padding ? receive_data : receive_nothing;
	if (!frame->left)
		data_end(session);
	return 1;
}

static void take_data(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_stream *stream = session->data_for;
	if (!stream)
		return;
	if (stream->has_length && len > stream->content_left) {
		http2_stream_fail(stream, NGHTTP2_PROTOCOL_ERROR);
		return;
	}
	stream->content_left -= stream->has_length ? len : 0;
	if (!(session->frame.flags & NGHTTP2_FLAG_END_STREAM)) // behind the last frame nobody needs credit
		stream->unconsumed += (uint32_t)len;
	session->ops->data(stream, (struct slice){session->input.chunk, bytes, len});
}

static size_t receive_data(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, (size_t)(frame->left - frame->padding));
	frame->left -= (uint32_t)n;
	take_data(session, bytes, n);
	if (frame->left == frame->padding)
		session->receive = receive_nothing;
	if (!frame->left)
		data_end(session);
	return n;
}

// The padding, or all of a frame that means nothing here.
static size_t receive_nothing(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, (size_t)frame->left);
	(void)bytes;
	frame->left -= (uint32_t)n;
	if (!frame->left)
		data_end(session);
	return n;
}

// --- steps --------------------------------------------------------------------------------------------------
static size_t receive_preface(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	static const char preface[] = NGHTTP2_CLIENT_MAGIC;
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, sizeof preface - 1 - frame->have);
	if (memcmp(bytes, preface + frame->have, n) != 0) {
		http2_fail(session, NGHTTP2_PROTOCOL_ERROR);
		return n;
	}
	frame->have += (uint32_t)n;
	if (frame->have < sizeof preface - 1)
		return n;
	frame->have = 0;
	session->receive = receive_head;
	return n;
}

static void read_head(struct http2_frame *frame, const uint8_t bytes[HTTP2_FRAME_HEAD])
{
	frame->len = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 8 | bytes[2];
	frame->type = bytes[3];
	frame->flags = bytes[4];
	frame->id = (int32_t)((uint32_t)(bytes[5] & 0x7f) << 24 | (uint32_t)bytes[6] << 16 |
			      (uint32_t)bytes[7] << 8 | bytes[8]);
	frame->have = 0;
}

static void take_payload(struct http2_session *session, const uint8_t *bytes)
{
	struct reader r;
	reader_init(&r, bytes, session->frame.len);
	session->receive = receive_head;
	session->frame.have = 0;
	rule_of(&session->frame)->take(session, r);
}

static void frame_begin(struct http2_session *session)
{
	struct http2_frame *frame = &session->frame;
	const struct rule *rule = rule_of(frame);
	if (!admit(session, rule))
		return;
	if (frame->type == NGHTTP2_DATA) {
		data_begin(session);
	} else if (rule->take && frame->len) {
		session->receive = receive_payload;
	} else if (rule->take) {
		take_payload(session, frame->head);
	} else if (frame->len) {
		frame->left = frame->len;
		frame->flags = NGHTTP2_FLAG_NONE;
		session->receive = receive_nothing;
	}
}

static size_t receive_head(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	if (!frame->have && len >= HTTP2_FRAME_HEAD) {
		read_head(frame, bytes);
		frame_begin(session);
		return HTTP2_FRAME_HEAD;
	}
	size_t n = MIN(len, (size_t)(HTTP2_FRAME_HEAD - frame->have));
	memcpy(frame->head + frame->have, bytes, n);
	frame->have += (uint32_t)n;
	if (frame->have == HTTP2_FRAME_HEAD) {
		read_head(frame, frame->head);
		frame_begin(session);
	}
	return n;
}

static void payload_free(struct http2_session *session)
{
	mem_free(session->payload);
	session->payload = NULL;
}

// A payload in pieces is collected.
static size_t receive_payload(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	if (!frame->have && len >= frame->len) {
		take_payload(session, bytes);
		return frame->len;
	}
	if (!session->payload)
		session->payload = mem_alloc(frame->len);
	if (!session->payload) {
		session->dead = true;
		return len;
	}
	size_t n = MIN(len, (size_t)(frame->len - frame->have));
	memcpy(session->payload + frame->have, bytes, n);
	frame->have += (uint32_t)n;
	if (frame->have == frame->len) {
		take_payload(session, session->payload);
		payload_free(session);
	}
	return n;
}

void http2_receive_init(struct http2_session *session)
{
	static_find(session);
	session->receive = session->server ? receive_preface : receive_head;
}

void http2_receive_done(struct http2_session *session)
{
	payload_free(session);
	block_free(session);
}

void http2_receive_thread_done(void)
{
	pool_trim(&blocks);
}

bool http2_session_in_block(const struct http2_session *session)
{
	const struct http2_frame *frame = &session->frame;
	return session->block_id || (session->receive == receive_payload && frame->type == NGHTTP2_HEADERS);
}

void http2_receive(struct http2_session *session, struct slice bytes)
{
	struct reader r;
	reader_init(&r, bytes.p, bytes.len);
	while (reader_remaining(&r) && !session->fault && !session->dead && !session->terminated &&
	       !session->over) {
		struct reader rest = r;
		size_t len = reader_remaining(&r);
		reader_skip(&r, session->receive(session, reader_take(&rest, len), len));
	}
}
