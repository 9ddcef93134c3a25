// SPDX-License-Identifier: Apache-2.0
// Any bytes as what a client of HTTP/2 sends, in pieces of the size that the first byte says: into a session
// that turns each request into HTTP/1, which must then be a request of HTTP/1, one, and parse as it was
// meant. Content is echoed, or leads to something else if its first byte says so.
#include "http2_pieces.h"

#include "base/error.h"
#include "base/limits.h"
#include "codecs/http1_convert.h"
#include "codecs/http2.h"

struct half {
	struct half *next;
	struct http2_stream stream;
	struct arena arena;
};

static struct half *halves;

static struct half *of(struct http2_stream *stream)
{
	return container_of(stream, struct half, stream);
}

static struct http2_stream *on_open(struct http2_session *session, int32_t id)
{
	(void)session, (void)id;
	struct half *half = calloc(1, sizeof *half);
	CHECK(half);
	half->next = halves;
	halves = half;
	return &half->stream;
}

static struct arena *arena_of(struct http2_stream *stream)
{
	return &of(stream)->arena;
}

// What HTTP/1 reads out of it is what HTTP/2 said.
static void check_conversion(const struct message *message)
{
	static struct field fields[LIMIT_HTTP_HEADERS];
	const struct http1_style style = {.chunked = !message->has_length && !message->end};
	struct http1_head head = {.head.fields = fields};
	struct bufq out = {0};
	struct slice flat;
	enum http1_fault fault;
	int err = http1_write_request(&out, message, &style);
	if (err) {
		CHECK(err == ERR_MALFORMED && bufq_empty(&out));
		return;
	}
	CHECK(bufq_flatten(&out, &flat) == 0);
	struct str text = {(const char *)flat.p, flat.len};
	int n = http1_request_parse(text, LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS, &head, &fault);
	CHECK(n == ERR_MALFORMED || (size_t)n == flat.len);
	if (n > 0) {
		CHECK(str_eq(head.head.method, message->head.method));
		CHECK(str_eq_nocase(head.head.authority, message->head.authority));
		CHECK(str_eq(head.head.path, message->head.path));
		CHECK((head.framing == HTTP1_BODY_CHUNKED) == style.chunked);
	}
	bufq_clear(&out);
}

static void on_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	static const struct field head[] = {{.name = STR(":status"), .value = STR("200")}};
	struct message message;
	if (count > LIMIT_HTTP_HEADERS || http2_request_read(fields, count, &message)) {
		http2_stream_reset(stream, 1);
		return;
	}
	message.end = end;
	check_conversion(&message);
	if (http2_stream_respond(stream, head, 1, false) == 0 && end)
		http2_stream_end(stream, NULL, 0);
}

static void on_too_large(struct http2_stream *stream, bool grpc, bool end)
{
	(void)grpc, (void)end;
	http2_stream_reset(stream, 1);
}

static void on_end(struct http2_stream *stream)
{
	http2_stream_end(stream, NULL, 0);
}

static void on_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct bufq out = {0};
	if (bytes.p[0] == 'r') {
		http2_stream_reset(stream, 8);
		return;
	}
	if (bytes.p[0] == 'e')
		http2_stream_end(stream, NULL, 0);
	if (bytes.p[0] == 'g')
		http2_session_goaway(stream->session);
	CHECK(bufq_add_copy(&out, bytes.p, bytes.len) == 0);
	http2_stream_write(stream, &out);
	if (bytes.p[0] == 'b')
		http2_stream_break(stream, 8);
	if (end)
		on_end(stream);
	else if (bytes.p[0] != 'h') // held back
		http2_stream_consume(stream);
}

static void on_stream(struct http2_stream *stream)
{
	CHECK(stream->session);
}

static void on_end_sent(struct http2_stream *stream)
{
	CHECK(stream->session);
	if (!stream->end_received)
		http2_stream_decline(stream);
}

static void on_closed(struct http2_stream *stream, uint32_t code)
{
	(void)code;
	CHECK(!stream->session);
}

static void on_session(struct http2_session *session)
{
	(void)session;
}

static const struct http2_session_ops ops = {.open = on_open,
					     .arena = arena_of,
					     .fields = on_fields,
					     .too_large = on_too_large,
					     .data = on_data,
					     .end = on_end,
					     .end_sent = on_end_sent,
					     .closed = on_closed,
					     .drained = on_stream,
					     .pong = on_session,
					     .settled = on_session,
					     .over = on_session};

static void free_halves(void)
{
	while (halves) {
		struct half *half = halves;
		halves = half->next;
		http2_stream_detach(&half->stream);
		bufq_clear(&half->stream.out);
		arena_done(&half->arena);
		free(half);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream stream;
	struct http2_session session;
	begin_session(&session, &stream, true, &ops);
	feed_in_pieces(&session, data, size);
	free_halves();
	end_session(&session);
	return 0;
}
