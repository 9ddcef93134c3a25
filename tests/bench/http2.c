// SPDX-License-Identifier: Apache-2.0
#include "http2.h"

#include <err.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum {
	PREFACE_LEN = sizeof PREFACE - 1,
	FRAME_HEAD = 9,
	FRAME_MOST = 16384,
	TABLE = 4096,		 // of HPACK, in bytes: all fields of a program fit in it
	WINDOW = 65535,		 // at the start
	WIDE_WINDOW = 16 << 20,	 // what the peer gets; a stream has no limit
	OUTPUT_MOST = 128 << 10, // what a frame may make a program send
};

uint32_t http2_number(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

// --- what is sent -------------------------------------------------------------------------------------------

static void put(struct http2 *http2, const void *data, size_t len)
{
	memcpy(http2->out + http2->out_end, data, len);
	http2->out_end += len;
}

static void put_number(struct http2 *http2, uint32_t number)
{
	put(http2, (const uint8_t[]){number >> 24, number >> 16 & 0xff, number >> 8 & 0xff, number & 0xff},
	    4);
}

static void put_head(struct http2 *http2, size_t len, enum http2_type type, uint8_t flags, uint32_t stream)
{
	put_number(http2, (uint32_t)len << 8 | type);
	put(http2, &flags, 1);
	put_number(http2, stream);
}

void http2_put_short(struct http2 *http2, enum http2_type type, uint32_t stream, uint32_t number)
{
	put_head(http2, 4, type, 0, stream);
	put_number(http2, number);
}

static void put_setting(struct http2 *http2, enum http2_setting name, uint32_t value)
{
	put(http2, (const uint8_t[]){0, name}, 2);
	put_number(http2, value);
}

// An integer of HPACK in the low `bits` of a byte, below 2^bits + 127.
static void put_integer(struct http2 *http2, uint8_t pattern, unsigned bits, unsigned value)
{
	unsigned most = (1u << bits) - 1;
	uint8_t bytes[] = {(uint8_t)(pattern | (value < most ? value : most)), (uint8_t)(value - most)};
	put(http2, bytes, value < most ? 1 : 2);
}

static void put_text(struct http2 *http2, const char *text)
{
	put_integer(http2, 0, 7, (unsigned)strlen(text));
	put(http2, text, strlen(text));
}

static void put_field(struct http2 *http2, const struct http2_field *field)
{
	enum { WHOLE = 0x80, KEPT = 0x40, STATIC = 61 };
	uint8_t place = http2->places[field->number];
	if (field->whole || place) {
		put_integer(http2, WHOLE, 7, field->whole ? field->whole : STATIC + 1u + http2->kept - place);
		return;
	}
	if (field->number)
		http2->places[field->number] = ++http2->kept;
	put_integer(http2, field->number ? KEPT : 0, field->number ? 6 : 4, field->name_index);
	if (!field->name_index)
		put_text(http2, field->name);
	put_text(http2, field->value);
}

void http2_put_fields(struct http2 *http2, uint32_t stream, uint8_t flags, const struct http2_field *fields,
		      size_t count)
{
	size_t head = http2->out_end, end;
	http2->out_end += FRAME_HEAD;
	for (size_t i = 0; i < count; i++)
		put_field(http2, &fields[i]);
	end = http2->out_end;
	http2->out_end = head;
	put_head(http2, end - head - FRAME_HEAD, HTTP2_HEADERS, flags | HTTP2_END_HEADERS, stream);
	http2->out_end = end;
}

void http2_put_data(struct http2 *http2, uint32_t stream, uint8_t flags, const uint8_t *data, size_t len)
{
	put_head(http2, len, HTTP2_DATA, flags, stream);
	put(http2, data, len);
	http2->window -= (int64_t)len;
}

void http2_begin(struct http2 *http2, int fd, bool server, enum http2_setting name, uint32_t value)
{
	http2->fd = fd;
	http2->expects_preface = server;
	http2->window = http2->stream_window = WINDOW;
	if (!server)
		put(http2, PREFACE, PREFACE_LEN);
	put_head(http2, 12, HTTP2_SETTINGS, 0, 0);
	put_setting(http2, name, value);
	put_setting(http2, HTTP2_INITIAL_WINDOW, INT32_MAX);
	http2_put_short(http2, HTTP2_WINDOW_UPDATE, 0, WIDE_WINDOW);
}

// Room for whatever one more frame may make a program send.
static bool room(const struct http2 *http2)
{
	return http2->out_end + OUTPUT_MOST <= HTTP2_BUFFER;
}

bool http2_send(struct http2 *http2)
{
	while (http2->out_start < http2->out_end) {
		ssize_t n = send(http2->fd, http2->out + http2->out_start, http2->out_end - http2->out_start,
				 MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			return false;
		if (n < 0)
			break;
		http2->out_start += (size_t)n;
	}
	http2->out_end -= http2->out_start;
	memmove(http2->out, http2->out + http2->out_start, http2->out_end);
	http2->out_start = 0;
	return true;
}

// --- what has come ------------------------------------------------------------------------------------------

static void take_setting(struct http2 *http2, unsigned name, uint32_t value)
{
	if (name == HTTP2_TABLE_SIZE && value < TABLE)
		errx(1, "a table of HPACK of %u bytes", value);
	if (name == HTTP2_MAX_STREAMS)
		http2->max_streams = value;
	if (name == HTTP2_INITIAL_WINDOW)
		http2->stream_window = value;
}

static void take_settings(struct http2 *http2, const struct http2_frame *frame)
{
	if (frame->flags & HTTP2_ACK)
		return;
	if (!http2->max_streams)
		http2->max_streams = UINT32_MAX;
	for (const uint8_t *at = frame->payload; at + 6 <= frame->payload + frame->len; at += 6)
		take_setting(http2, (unsigned)at[0] << 8 | at[1], http2_number(at + 2));
	put_head(http2, 0, HTTP2_SETTINGS, HTTP2_ACK, 0);
}

static void take_ping(struct http2 *http2, const struct http2_frame *frame)
{
	if (frame->flags & HTTP2_ACK)
		return;
	put_head(http2, frame->len, HTTP2_PING, HTTP2_ACK, 0);
	put(http2, frame->payload, frame->len);
}

static void take_data(struct http2 *http2, const struct http2_frame *frame)
{
	http2->received += frame->len;
	if (http2->received < WIDE_WINDOW / 2)
		return;
	http2_put_short(http2, HTTP2_WINDOW_UPDATE, 0, http2->received);
	http2->received = 0;
}

// What a frame is to the connection, rather than to one of its streams.
static void take_frame(struct http2 *http2, const struct http2_frame *frame)
{
	switch (frame->type) {
	case HTTP2_DATA:
		take_data(http2, frame);
		break;
	case HTTP2_SETTINGS:
		take_settings(http2, frame);
		break;
	case HTTP2_PING:
		take_ping(http2, frame);
		break;
	case HTTP2_WINDOW_UPDATE:
		http2->window += frame->stream ? 0 : http2_number(frame->payload);
		break;
	case HTTP2_PUSH_PROMISE:
	case HTTP2_CONTINUATION:
		errx(1, "a frame of type %u", frame->type);
	}
}

// The next frame, once it is there whole.
static bool next(struct http2 *http2, struct http2_frame *ret_frame)
{
	if (http2->expects_preface && http2->in_end >= PREFACE_LEN) {
		if (memcmp(http2->in, PREFACE, PREFACE_LEN) != 0)
			errx(1, "a client that does not speak HTTP/2");
		http2->expects_preface = false;
		http2->in_start = PREFACE_LEN;
	}
	const uint8_t *at = http2->in + http2->in_start;
	size_t have = http2->in_end - http2->in_start;
	if (http2->expects_preface || have < FRAME_HEAD)
		return false;
	struct http2_frame frame = {.len = http2_number(at) >> 8,
				    .type = at[3],
				    .flags = at[4],
				    .stream = http2_number(at + 5) & INT32_MAX,
				    .payload = at + FRAME_HEAD};
	if (frame.len > FRAME_MOST)
		errx(1, "a frame of %u bytes", frame.len);
	if (have < FRAME_HEAD + frame.len)
		return false;
	http2->in_start += FRAME_HEAD + frame.len;
	*ret_frame = frame;
	return true;
}

bool http2_receive(struct http2 *http2, void (*take)(void *, const struct http2_frame *), void *arg)
{
	for (;;) {
		struct http2_frame frame;
		while (room(http2) && next(http2, &frame)) {
			take_frame(http2, &frame);
			take(arg, &frame);
		}
		http2->in_end -= http2->in_start;
		memmove(http2->in, http2->in + http2->in_start, http2->in_end);
		http2->in_start = 0;
		if (!room(http2)) {
			if (!http2_send(http2))
				return false;
			if (!room(http2))
				return true;
			continue;
		}
		ssize_t n = read(http2->fd, http2->in + http2->in_end, HTTP2_BUFFER - http2->in_end);
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		http2->in_end += (size_t)n;
	}
}
