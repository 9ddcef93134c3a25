// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_wire.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/grpc.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"
#include "exchange/transport.h"
#include "run/stats.h"

#include <endian.h>
#include <errno.h>

enum {
	FIELDS_MAX = LIMIT_HTTP_HEADERS + HTTP2_PSEUDO_MAX + TRANSPORT_FIELDS,
	PRIORITY_BYTES = 5,
	UNKNOWN = HTTP2_CONTINUATION + 1, // all types above
};

static bool is_stopped(const struct http2_session *session)
{
	return session->fault || session->dead || session->terminated || session->over;
}

// --- field blocks -------------------------------------------------------------------------------------------
// An id that was passed over counts as closed: to open it afterwards is an error of the connection (RFC 9113
// 5.1.1), other than what was still under way when a stream ended. A bit for each of the newest ids tells
// them apart; what is older than those was over long ago, if it was ever open.
static void note_opened(struct http2_session *session, int32_t id)
{
	uint32_t place = (uint32_t)id / 2, next = ((uint32_t)session->last_id + 1) / 2;
	if (place - next >= HTTP2_RECENT)
		next = place - HTTP2_RECENT + 1;
	for (; next < place; next++)
		session->opened[next % HTTP2_RECENT / 64] &= ~(1ull << next % 64);
	session->opened[place % HTTP2_RECENT / 64] |= 1ull << place % 64;
	session->last_id = id;
}

static bool was_opened(const struct http2_session *session, int32_t id)
{
	uint32_t place = (uint32_t)id / 2;
	return (uint32_t)session->last_id / 2 - place < HTTP2_RECENT &&
	       session->opened[place % HTTP2_RECENT / 64] >> place % 64 & 1;
}

// What was under way when a stream ended, or behind our GOAWAY, means nothing any more; it may not go on
// without end. Endpoints and sidecars speak of streams of many clients.
static void note_closed(struct http2_session *session)
{
	http2_spend(session, session->server && !session->trusted ? HTTP2_FLOOD_CLOSED : HTTP2_FLOOD_OTHER);
}

// A request begins. NULL: nobody wants it, but its fields count for the table.
static struct http2_stream *open_stream(struct http2_session *session, int32_t id)
{
	note_opened(session, id);
	if (session->goaway_sent) {
		note_closed(session);
		return NULL;
	}
	session->taken_id = id;
	if (session->open_count >= LIMIT_HTTP2_STREAMS) {
		http2_send_reset(session, id, HTTP2_REFUSED_STREAM);
		return NULL;
	}
	struct http2_stream *stream = session->ops->open(session, id);
	if (stream)
		http2_stream_begin(session, stream, id);
	else
		http2_send_reset(session, id, HTTP2_INTERNAL_ERROR);
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
		http2_fail(session, HTTP2_STREAM_CLOSED);
	else if (!stream && session->server && !was_opened(session, id))
		http2_fail(session, HTTP2_PROTOCOL_ERROR);
	else if (!stream)
		note_closed(session);
	return stream;
}

static void block_begin(struct http2_session *session)
{
	int32_t id = session->frame.id;
	session->responded = session->moved = true;
	session->block_id = id;
	session->block_flags = session->frame.flags;
	session->continuations = 0;
	session->fields_for = block_stream(session, id);
}

// What both halves being over leads to.
static void settle(struct http2_session *session, int32_t id)
{
	struct http2_stream *stream = http2_session_find(session, id);
	if (stream && stream->end_received && stream->end_sent)
		http2_stream_close(stream, HTTP2_NO_ERROR);
}

// False: the content was not as long as it said, and the stream has failed.
static bool take_end(struct http2_stream *stream)
{
	stream->end_received = true;
	if (!stream->has_length || !stream->content_left)
		return true;
	http2_stream_fail(stream, HTTP2_PROTOCOL_ERROR);
	return false;
}

// The fields of a block, and what is to be known of those that are too many.
struct block_fields {
	struct hpack_list list;
	struct field fields[FIELDS_MAX];
	bool grpc;
};

static bool says_grpc(const struct field *field)
{
	return field->known == FIELD_CONTENT_TYPE && grpc_is_type(field->value);
}

static void on_dropped(struct hpack_list *list, const struct field *field)
{
	container_of(list, struct block_fields, list)->grpc |= says_grpc(field);
}

static void refuse_size(struct http2_session *session, struct http2_stream *stream,
			const struct block_fields *block, bool end)
{
	bool grpc = block->grpc;
	for (size_t i = 0; i < block->list.count; i++)
		grpc |= says_grpc(&block->fields[i]);
	session->ops->too_large(stream, grpc, end);
}

static void block_end(struct http2_session *session, struct block_fields *block)
{
	int32_t id = session->block_id;
	struct http2_stream *stream = session->fields_for;
	bool end = session->block_flags & HTTP2_FLAG_END_STREAM;
	session->block_id = 0;
	session->fields_for = NULL;
	if (!stream || (end && !take_end(stream)))
		return;
	if (unlikely(block->list.overflow))
		refuse_size(session, stream, block, end);
	else
		session->ops->fields(stream, block->fields, block->list.count, end);
	if (end)
		settle(session, id);
}

static void block_read(struct http2_session *session, struct str block)
{
	struct block_fields read;
	struct http2_stream *stream = session->fields_for;
	read.grpc = false;
	read.list = (struct hpack_list){.arena = stream ? session->ops->arena(stream) : NULL,
					.fields = read.fields,
					.room = FIELDS_MAX,
					.keep = LIMIT_HTTP_HEAD,
					.most = LIMIT_HTTP2_BLOCK,
					.dropped = on_dropped};
	int err = hpack_decode(session->decoder, block, &read.list);
	if (err == ERR_LIMIT) {
		stats_inc(STAT_HTTP2_HEADER_FLOOD);
		http2_fail(session, HTTP2_ENHANCE_YOUR_CALM);
	} else if (err == -ENOMEM) {
		session->dead = true;
	} else if (err) {
		http2_fail(session, HTTP2_COMPRESSION_ERROR);
	} else {
		block_end(session, &read);
	}
}

// What comes in more than one frame is collected.
static void block_collect(struct http2_session *session, struct reader *r)
{
	bool last = session->frame.flags & HTTP2_FLAG_END_HEADERS;
	struct str bytes = reader_bytes(r, reader_remaining(r));
	if (bufq_append_flat(&session->block, (struct slice){NULL, (const uint8_t *)bytes.p, bytes.len})) {
		session->dead = true;
		return;
	}
	if (!last)
		return;
	struct bufq block = session->block;
	session->block = (struct bufq){0};
	struct slice whole = bufq_first(&block);
	block_read(session, (struct str){(const char *)whole.p, whole.len});
	bufq_clear(&block);
}

// What stands in front of a block, and the padding behind it, are taken off.
static void strip(struct http2_session *session, struct reader *r)
{
	uint8_t padding = session->frame.flags & HTTP2_FLAG_PADDED ? reader_u8(r) : 0;
	if (session->frame.flags & HTTP2_FLAG_PRIORITY)
		reader_skip(r, PRIORITY_BYTES);
	if (r->err || padding > reader_remaining(r))
		http2_fail(session, r->err ? HTTP2_FRAME_SIZE_ERROR : HTTP2_PROTOCOL_ERROR);
	else
		*r = reader_sub(r, reader_remaining(r) - padding);
}

static void take_headers(struct http2_session *session, struct reader *r)
{
	if (session->frame.flags & (HTTP2_FLAG_PADDED | HTTP2_FLAG_PRIORITY))
		strip(session, r);
	if (session->fault)
		return;
	block_begin(session);
	if (session->fault || session->dead)
		return;
	if (likely(session->frame.flags & HTTP2_FLAG_END_HEADERS))
		block_read(session, reader_bytes(r, reader_remaining(r)));
	else
		block_collect(session, r);
}

static void take_continuation(struct http2_session *session, struct reader *r)
{
	if (++session->continuations > LIMIT_HTTP2_CONTINUATIONS) {
		stats_inc(STAT_HTTP2_CONTINUATION_FLOOD);
		http2_fail(session, HTTP2_ENHANCE_YOUR_CALM);
		return;
	}
	block_collect(session, r);
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
			http2_fail(session, HTTP2_FLOW_CONTROL_ERROR);
			return;
		}
		stream->send_window = (int32_t)now;
		http2_stream_queue(stream);
	}
}

static uint32_t set_connect(struct http2_session *session, uint32_t value)
{
	if (value > 1 || (session->peer.connect && !value)) // RFC 8441 3
		return HTTP2_PROTOCOL_ERROR;
	session->peer.connect = value;
	return HTTP2_NO_ERROR;
}

// Takes one setting; an error code, or 0. The window is only noted.
static uint32_t set(struct http2_session *session, uint16_t setting, uint32_t value, int32_t *window)
{
	switch (setting) {
	case HTTP2_SETTINGS_HEADER_TABLE_SIZE:
		hpack_encoder_limit(session->encoder, value);
		return HTTP2_NO_ERROR;
	case HTTP2_SETTINGS_ENABLE_PUSH:
		return value > (session->server ? 1u : 0u) ? HTTP2_PROTOCOL_ERROR : HTTP2_NO_ERROR;
	case HTTP2_SETTINGS_MAX_CONCURRENT_STREAMS:
		session->peer.max_streams = value;
		return HTTP2_NO_ERROR;
	case HTTP2_SETTINGS_INITIAL_WINDOW_SIZE:
		*window = (int32_t)MIN(value, (uint32_t)INT32_MAX);
		return value > INT32_MAX ? HTTP2_FLOW_CONTROL_ERROR : HTTP2_NO_ERROR;
	case HTTP2_SETTINGS_MAX_FRAME_SIZE:
		// What is sent is never longer than the least that it may be.
		return value < HTTP2_FRAME_MAX || value >= 1 << 24 ? HTTP2_PROTOCOL_ERROR : HTTP2_NO_ERROR;
	case HTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL:
		return set_connect(session, value);
	case HTTP2_SETTINGS_NO_RFC7540_PRIORITIES:
		return value > 1 ? HTTP2_PROTOCOL_ERROR : HTTP2_NO_ERROR;
	default:
		return HTTP2_NO_ERROR;
	}
}

void http2_receive_settings(struct http2_session *session, struct reader r)
{
	int32_t window = session->peer.window;
	if (reader_remaining(&r) > LIMIT_HTTP2_SETTINGS_ENTRIES * 6) {
		http2_fail(session, HTTP2_ENHANCE_YOUR_CALM);
		return;
	}
	while (reader_remaining(&r)) {
		uint16_t setting = reader_u16(&r);
		uint32_t value = reader_u32(&r);
		uint32_t fault = r.err ? HTTP2_FRAME_SIZE_ERROR : set(session, setting, value, &window);
		if (fault) {
			http2_fail(session, fault);
			return;
		}
	}
	if (window != session->peer.window)
		set_windows(session, window);
}

static void take_settings(struct http2_session *session, struct reader *r)
{
	if (session->frame.flags & HTTP2_FLAG_ACK) {
		if (session->frame.len)
			http2_fail(session, HTTP2_FRAME_SIZE_ERROR);
		return;
	}
	http2_receive_settings(session, *r);
	if (session->fault)
		return;
	session->has_settings = true;
	http2_send_settings_ack(session);
}

// --- other frames -------------------------------------------------------------------------------------------
// Priorities (RFC 9113 5.3.2) mean nothing here on any stream.
static void take_priority(struct http2_session *session, struct reader *r)
{
	(void)r;
	if (!http2_session_find(session, session->frame.id))
		note_closed(session);
}

static void take_reset(struct http2_session *session, struct reader *r)
{
	struct http2_stream *stream = http2_session_find(session, session->frame.id);
	if (stream)
		http2_stream_close(stream, reader_u32(r));
	else
		note_closed(session);
}

static void take_ping(struct http2_session *session, struct reader *r)
{
	if (session->frame.flags & HTTP2_FLAG_ACK) {
		session->ops->pong(session);
		return;
	}
	session->moved = false;
	http2_send_ping(session, reader_u64(r), true);
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

static void take_goaway(struct http2_session *session, struct reader *r)
{
	int32_t last = (int32_t)(reader_u32(r) & INT32_MAX);
	if (last > session->goaway_id) {
		http2_fail(session, HTTP2_PROTOCOL_ERROR);
		return;
	}
	session->goaway_received = true;
	session->goaway_id = last;
	struct http2_stream *stream;
	while (!session->server && (stream = find_behind(session, last)))
		http2_stream_close(stream, HTTP2_REFUSED_STREAM);
}

static uint32_t widen(int32_t *window, uint32_t increment)
{
	if (!increment)
		return HTTP2_PROTOCOL_ERROR;
	if ((int64_t)*window + increment > INT32_MAX)
		return HTTP2_FLOW_CONTROL_ERROR;
	*window += (int32_t)increment;
	return HTTP2_NO_ERROR;
}

static void take_window_update(struct http2_session *session, struct reader *r)
{
	uint32_t increment = reader_u32(r) & INT32_MAX;
	if (!session->frame.id) {
		uint32_t fault = widen(&session->send_window, increment);
		if (fault)
			http2_fail(session, fault);
		else
			list_splice(&session->sending, &session->blocked);
		return;
	}
	struct http2_stream *stream = http2_session_find(session, session->frame.id);
	if (!stream)
		return; // Go's clients give credit for what they read late, for each 4 KiB
	uint32_t fault = widen(&stream->send_window, increment);
	if (fault)
		http2_stream_fail(stream, fault);
	else
		http2_stream_queue(stream);
}

// --- which frames there are ---------------------------------------------------------------------------------
enum place { CONNECTION = 1, STREAM = 2, OPENED = 4 }; // OPENED: on a stream that is or was open

static const struct rule {
	uint8_t place;	      // where it may come
	uint8_t flood;	      // what it counts for
	uint8_t multiple;     // of what the length of its payload is one; 0: of nothing
	uint16_t least, most; // of that length
	void (*take)(struct http2_session *session, struct reader *payload);
} RULES[UNKNOWN + 1] = {
    [HTTP2_DATA] = {STREAM | OPENED, HTTP2_FLOOD_COUNT, 0, 0, HTTP2_FRAME_MAX, NULL},
    [HTTP2_HEADERS] = {STREAM, HTTP2_FLOOD_COUNT, 0, 0, HTTP2_FRAME_MAX, take_headers},
    [HTTP2_PRIORITY] = {STREAM, HTTP2_FLOOD_OTHER, 0, PRIORITY_BYTES, PRIORITY_BYTES, take_priority},
    [HTTP2_RST_STREAM] = {STREAM | OPENED, HTTP2_FLOOD_RESET, 0, 4, 4, take_reset},
    [HTTP2_SETTINGS] = {CONNECTION, HTTP2_FLOOD_SETTINGS, 6, 0, HTTP2_FRAME_MAX, take_settings},
    [HTTP2_PUSH_PROMISE] = {.most = HTTP2_FRAME_MAX}, // nowhere: we asked for none
    [HTTP2_PING] = {CONNECTION, HTTP2_FLOOD_PING, 0, 8, 8, take_ping},
    [HTTP2_GOAWAY] = {CONNECTION, HTTP2_FLOOD_OTHER, 0, 8, HTTP2_FRAME_MAX, take_goaway},
    [HTTP2_WINDOW_UPDATE] = {CONNECTION | STREAM | OPENED, HTTP2_FLOOD_OTHER, 0, 4, 4, take_window_update},
    [HTTP2_CONTINUATION] = {STREAM, HTTP2_FLOOD_COUNT, 0, 0, HTTP2_FRAME_MAX, take_continuation},
    [UNKNOWN] = {CONNECTION | STREAM, HTTP2_FLOOD_OTHER, 0, 0, HTTP2_FRAME_MAX, NULL},
};

static const struct rule *rule_of(const struct http2_frame *frame)
{
	return &RULES[MIN(frame->type, (uint8_t)UNKNOWN)];
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
	bool block = frame->type == HTTP2_CONTINUATION;
	if (!session->has_settings && (frame->type != HTTP2_SETTINGS || frame->flags & HTTP2_FLAG_ACK))
		return false; // 3.4
	if (session->block_id ? !block || frame->id != session->block_id : block)
		return false; // 6.10
	if (frame->type == HTTP2_HEADERS &&
	    (session->server ? frame->id % 2 == 0 : is_idle(session, frame->id)))
		return false; // 5.1.1
	if (!(rule->place & (frame->id ? STREAM : CONNECTION)))
		return false;
	return !(frame->id && rule->place & OPENED && is_idle(session, frame->id));
}

static bool has_size(const struct http2_frame *frame, const struct rule *rule)
{
	return frame->len >= rule->least && frame->len <= rule->most &&
	       (!rule->multiple || frame->len % rule->multiple == 0);
}

// What it counts for; HTTP2_FLOOD_COUNT: nothing.
static enum http2_flood flood_of(const struct http2_session *session, const struct rule *rule)
{
	const struct http2_frame *frame = &session->frame;
	bool says_nothing =
	    frame->len == 0 && (frame->type == HTTP2_CONTINUATION ||
				(frame->type == HTTP2_DATA && !(frame->flags & HTTP2_FLAG_END_STREAM)));
	if (says_nothing)
		return HTTP2_FLOOD_EMPTY;
	// Go's and Java's gRPC measure with one for each DATA that they receive while none is under way.
	if (frame->type == HTTP2_PING && !(frame->flags & HTTP2_FLAG_ACK) && session->moved)
		return HTTP2_FLOOD_COUNT;
	if (rule->flood != HTTP2_FLOOD_RESET)
		return rule->flood;
	// A sidecar resets streams for many clients of its own: as many are borne as of frames that cost
	// little.
	return !session->server	  ? HTTP2_FLOOD_COUNT
	       : session->trusted ? HTTP2_FLOOD_OTHER
				  : HTTP2_FLOOD_RESET;
}

// What nearly all frames are: fields or content of a stream that is open, while no field block is under way.
static bool is_usual(const struct http2_session *session)
{
	const struct http2_frame *frame = &session->frame;
	return frame->type <= HTTP2_HEADERS && frame->len - 1 < HTTP2_FRAME_MAX && session->has_settings &&
	       !session->block_id && http2_session_find(session, frame->id);
}

// False: the connection fails.
static bool admit(struct http2_session *session, const struct rule *rule)
{
	if (likely(is_usual(session)))
		return true;
	if (!has_size(&session->frame, rule)) {
		http2_fail(session, HTTP2_FRAME_SIZE_ERROR);
		return false;
	}
	if (!is_in_place(session, rule)) {
		http2_fail(session, HTTP2_PROTOCOL_ERROR);
		return false;
	}
	enum http2_flood flood = flood_of(session, rule);
	return flood == HTTP2_FLOOD_COUNT || http2_spend(session, flood);
}

// --- DATA ---------------------------------------------------------------------------------------------------
// The end may have been told with the payload.
static void data_end(struct http2_session *session)
{
	struct http2_stream *stream = session->data_for;
	session->data_for = NULL;
	session->step = HTTP2_STEP_HEAD;
	if (!stream || !(session->frame.flags & HTTP2_FLAG_END_STREAM))
		return;
	if (!stream->end_received) {
		if (!take_end(stream))
			return;
		session->ops->end(stream);
	}
	settle(session, session->frame.id);
}

// Padding counts as read at once.
static void data_begin(struct http2_session *session)
{
	struct http2_frame *frame = &session->frame;
	struct http2_stream *stream = http2_session_find(session, frame->id);
	if ((int64_t)frame->len > session->receive_window) {
		http2_fail(session, HTTP2_FLOW_CONTROL_ERROR);
		return;
	}
	session->responded = session->moved = true;
	session->receive_window -= (int32_t)frame->len;
	http2_credit_connection(session, frame->len);
	session->data_for = stream;
	if (stream && stream->end_received)
		http2_stream_fail(stream, HTTP2_STREAM_CLOSED);
	else if (stream && (int64_t)frame->len > stream->receive_window)
		http2_stream_fail(stream, HTTP2_FLOW_CONTROL_ERROR);
	else if (stream)
		stream->receive_window -= (int32_t)frame->len;
	else
		note_closed(session);
	frame->left = frame->len;
	frame->padding = 0;
	if (frame->flags & HTTP2_FLAG_PADDED && frame->len)
		session->step = HTTP2_STEP_PAD_LENGTH;
	else if (frame->flags & HTTP2_FLAG_PADDED)
		http2_fail(session, HTTP2_FRAME_SIZE_ERROR);
	else if (frame->len)
		session->step = HTTP2_STEP_DATA;
	else
		data_end(session);
}

static size_t receive_pad_length(struct http2_session *session, const uint8_t *bytes)
{
	struct http2_frame *frame = &session->frame;
	frame->left--;
	frame->padding = *bytes;
	if (frame->padding > frame->left) {
		http2_fail(session, HTTP2_PROTOCOL_ERROR);
		return 1;
	}
	if (session->data_for)
		http2_credit_stream(session->data_for, frame->padding + 1);
	session->step = frame->left > frame->padding ? HTTP2_STEP_DATA : HTTP2_STEP_NOTHING;
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
		http2_stream_fail(stream, HTTP2_PROTOCOL_ERROR);
		return;
	}
	stream->content_left -= stream->has_length ? len : 0;
	if (!(session->frame.flags & HTTP2_FLAG_END_STREAM)) // behind the last frame nobody needs credit
		stream->unconsumed += (uint32_t)len;
	else if (!session->frame.left && !(stream->has_length && stream->content_left))
		stream->end_received = true;
	session->ops->data(stream, (struct slice){session->input.chunk, bytes, len}, stream->end_received);
}

static size_t receive_data(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, (size_t)(frame->left - frame->padding));
	frame->left -= (uint32_t)n;
	take_data(session, bytes, n);
	if (frame->left == frame->padding)
		session->step = HTTP2_STEP_NOTHING;
	if (!frame->left)
		data_end(session);
	return n;
}

// The padding, or all of a frame that means nothing here.
static size_t receive_nothing(struct http2_session *session, size_t len)
{
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, (size_t)frame->left);
	frame->left -= (uint32_t)n;
	if (!frame->left)
		data_end(session);
	return n;
}

// --- steps --------------------------------------------------------------------------------------------------
static size_t receive_preface(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	size_t n = MIN(len, (size_t)(HTTP2_PREFACE_BYTES - frame->have));
	if (memcmp(bytes, &HTTP2_PREFACE[frame->have], n) != 0) {
		http2_fail(session, HTTP2_PROTOCOL_ERROR);
		return n;
	}
	frame->have += (uint32_t)n;
	if (frame->have < HTTP2_PREFACE_BYTES)
		return n;
	frame->have = 0;
	session->step = HTTP2_STEP_HEAD;
	return n;
}

static void read_head(struct http2_frame *frame, const uint8_t bytes[HTTP2_FRAME_HEAD])
{
	uint32_t first, id;
	memcpy(&first, bytes, sizeof first);
	memcpy(&id, bytes + 5, sizeof id);
	first = be32toh(first);
	frame->len = first >> 8;
	frame->type = (uint8_t)first;
	frame->flags = bytes[4];
	frame->id = (int32_t)(be32toh(id) & INT32_MAX);
	frame->have = 0;
}

static void take_payload(struct http2_session *session, const uint8_t *bytes)
{
	struct reader r;
	reader_init(&r, bytes, session->frame.len);
	session->step = HTTP2_STEP_HEAD;
	session->frame.have = 0;
	rule_of(&session->frame)->take(session, &r);
}

// The head has been read. Goes on with those of the bytes behind it that are the frame's: how many.
static size_t frame_begin(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	const struct rule *rule = rule_of(frame);
	if (!admit(session, rule))
		return 0;
	if (frame->type == HTTP2_DATA) {
		data_begin(session);
		return session->step == HTTP2_STEP_DATA && len && !is_stopped(session)
			   ? receive_data(session, bytes, len)
			   : 0;
	}
	if (rule->take && len >= frame->len) {
		take_payload(session, bytes);
		return frame->len;
	}
	if (rule->take) {
		session->step = HTTP2_STEP_PAYLOAD;
	} else if (frame->len) {
		frame->left = frame->len;
		frame->flags = HTTP2_FLAG_NONE;
		session->step = HTTP2_STEP_NOTHING;
	}
	return 0;
}

static size_t collect_head(struct http2_frame *frame, const uint8_t *bytes, size_t len)
{
	size_t n = MIN(len, (size_t)(HTTP2_FRAME_HEAD - frame->have));
	memcpy(frame->head + frame->have, bytes, n);
	frame->have += (uint32_t)n;
	return n;
}

static size_t receive_head(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	struct http2_frame *frame = &session->frame;
	const uint8_t *head = bytes;
	size_t n = HTTP2_FRAME_HEAD;
	if (unlikely(frame->have || len < HTTP2_FRAME_HEAD)) {
		n = collect_head(frame, bytes, len);
		head = frame->head;
		if (frame->have < HTTP2_FRAME_HEAD)
			return n;
	}
	read_head(frame, head);
	return n + frame_begin(session, bytes + n, len - n);
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
	session->step = session->server ? HTTP2_STEP_PREFACE : HTTP2_STEP_HEAD;
}

void http2_receive_done(struct http2_session *session)
{
	payload_free(session);
	bufq_clear(&session->block);
}

int32_t http2_session_block(const struct http2_session *session)
{
	const struct http2_frame *frame = &session->frame;
	bool begins = session->step == HTTP2_STEP_PAYLOAD && frame->type == HTTP2_HEADERS;
	return begins ? frame->id : session->block_id;
}

// Takes some of the bytes (more than none) and says how many.
static size_t receive_some(struct http2_session *session, const uint8_t *bytes, size_t len)
{
	switch (session->step) {
	case HTTP2_STEP_HEAD:
		return receive_head(session, bytes, len);
	case HTTP2_STEP_PAYLOAD:
		return receive_payload(session, bytes, len);
	case HTTP2_STEP_PAD_LENGTH:
		return receive_pad_length(session, bytes);
	case HTTP2_STEP_DATA:
		return receive_data(session, bytes, len);
	case HTTP2_STEP_PREFACE:
		return receive_preface(session, bytes, len);
	case HTTP2_STEP_NOTHING:
		break;
	}
	return receive_nothing(session, len);
}

void http2_receive(struct http2_session *session, struct slice bytes)
{
	while (bytes.len && !is_stopped(session)) {
		size_t n = receive_some(session, bytes.p, bytes.len);
		bytes.p += n;
		bytes.len -= n;
	}
}
