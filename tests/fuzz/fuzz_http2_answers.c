// SPDX-License-Identifier: Apache-2.0
// Any bytes as what an endpoint of HTTP/2 answers with, in pieces of the size that the first byte says: to
// requests of several shapes, whose streams are read, left unread, reset, or broken off, as the bytes of
// their content say.
#include "http2_pieces.h"

#include "base/error.h"
#include "codecs/http2.h"

enum { STREAMS = 6 };

struct half {
	struct http2_stream stream;
	struct arena arena;
	unsigned heads, closed;
	bool ended;
};

static struct half halves[STREAMS];

static struct half *of(struct http2_stream *stream)
{
	return container_of(stream, struct half, stream);
}

static struct arena *arena_of(struct http2_stream *stream)
{
	return &of(stream)->arena;
}

static void on_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	struct half *half = of(stream);
	struct message message;
	CHECK(!half->closed && !half->ended);
	half->ended = end;
	if (half->heads++) {
		if (!end || http2_trailers_check(fields, count))
			http2_stream_reset(stream, 1);
	} else if (http2_response_read(fields, count, false, &message)) {
		http2_stream_reset(stream, 1);
	} else if (message.has_length) {
		http2_stream_expect(stream, message.length);
	}
}

static void on_too_large(struct http2_stream *stream, bool grpc, bool end)
{
	struct half *half = of(stream);
	(void)grpc;
	CHECK(!half->closed && !half->ended);
	half->ended = end;
	half->heads++;
	http2_stream_reset(stream, 1);
}

static void on_end(struct http2_stream *stream)
{
	struct half *half = of(stream);
	CHECK(!half->closed && !half->ended);
	half->ended = true;
}

static void on_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct half *half = of(stream);
	struct bufq out = {0};
	CHECK(!half->closed && !half->ended && bytes.len);
	switch (bytes.p[0]) {
	case 'r':
		http2_stream_reset(stream, 8);
		break;
	case 'b':
		http2_stream_break(stream, 8);
		break;
	case 'e':
		http2_stream_end(stream, NULL, 0);
		break;
	case 'w':
		CHECK(bufq_add_copy(&out, bytes.p, bytes.len) == 0);
		http2_stream_write(stream, &out);
		break;
	case 'h':
		break; // held back
	default:
		http2_stream_consume(stream);
	}
	if (end)
		on_end(stream);
}

static void on_stream(struct http2_stream *stream)
{
	CHECK(!of(stream)->closed);
}

static void on_closed(struct http2_stream *stream, uint32_t code)
{
	(void)code;
	CHECK(!stream->session && !of(stream)->closed++);
}

static void on_session(struct http2_session *session)
{
	(void)session;
}

static const struct http2_session_ops ops = {.arena = arena_of,
					     .fields = on_fields,
					     .too_large = on_too_large,
					     .data = on_data,
					     .end = on_end,
					     .end_sent = on_stream,
					     .closed = on_closed,
					     .drained = on_stream,
					     .pong = on_session,
					     .settled = on_session,
					     .over = on_session};

// The streams are 1, 3, ...: without content, with content that ends, with content that goes on.
static void open_streams(struct http2_session *session)
{
	static const char zeros[100000];
	static const struct field GET[] = {{.name = STR(":method"), .value = STR("GET")},
					   {.name = STR(":scheme"), .value = STR("http")},
					   {.name = STR(":path"), .value = STR("/path")},
					   {.name = STR(":authority"), .value = STR("a")}};
	for (int i = 0; i < STREAMS; i++) {
		struct http2_stream *stream = &halves[i].stream;
		struct bufq out = {0};
		CHECK(http2_stream_open(session, stream, GET, ARRAY_SIZE(GET), i % 3 == 0) == 0);
		if (i % 3 == 0)
			continue;
		CHECK(bufq_add_static(&out, (struct str){zeros, sizeof zeros}) == 0);
		http2_stream_write(stream, &out);
		if (i % 3 == 1)
			http2_stream_end(stream, GET, 0);
	}
}

static void free_halves(void)
{
	for (int i = 0; i < STREAMS; i++) {
		http2_stream_detach(&halves[i].stream);
		arena_done(&halves[i].arena);
		halves[i] = (struct half){0};
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream stream;
	struct http2_session session;
	begin_session(&session, &stream, false, &ops);
	open_streams(&session);
	feed_in_pieces(&session, data, size);
	free_halves();
	end_session(&session);
	return 0;
}
