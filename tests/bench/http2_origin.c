// SPDX-License-Identifier: Apache-2.0
// The origin over HTTP/2 without TLS: a request that ends with its head is answered as a file server would,
// by 1 KiB; one with content as a gRPC call, by a message of 1 KiB and the status 0, with the fields that
// gRPC asks for and no others. One thread; it looks for nothing in a request but its end.
#include "http2.h"
#include "server.h"

#include <string.h>

enum { ANSWER = 1024, MESSAGE_HEAD = 5, STREAMS = 100, REFUSED_STREAM = 7 };

struct stream {
	uint32_t id;
	bool is_call, is_asked; // has content; has ended
	int64_t sent, credit;	// of the answer; of the stream's window beyond what each has at the start
};

struct connection {
	struct http2 http2;
	size_t open;
	struct stream streams[STREAMS]; // the open ones, in no order
};

static uint8_t file[ANSWER], message[ANSWER];

static const struct http2_field file_head[] = {
    {.whole = 8}, // :status: 200
    {.name_index = 54, .number = 1, .value = "origin"},
    {.name_index = 24, .number = 2, .value = "max-age=3600"},
    {.name_index = 33, .number = 3, .value = "Sun, 06 Nov 1994 08:49:37 GMT"},
    {.name_index = 28, .value = "1024"},
    {.name_index = 44, .number = 4, .value = "Sun, 06 Nov 1994 08:49:37 GMT"},
};
static const struct http2_field call_head[] = {
    {.whole = 8},
    {.name_index = 31, .number = 5, .value = "application/grpc"},
};
static const struct http2_field call_trailers[] = {{.name = "grpc-status", .number = 6, .value = "0"}};

static void answers_build(void)
{
	const size_t len = ANSWER - MESSAGE_HEAD;
	memset(file, 'x', sizeof file);
	memset(message, 'x', sizeof message);
	memcpy(message, (const uint8_t[]){0, 0, 0, len >> 8, len & 0xff}, MESSAGE_HEAD);
}

// As much of the answer as the client's windows let through. True: that was its end.
static bool answer(struct http2 *http2, struct stream *stream)
{
	int64_t len = ANSWER - stream->sent, window = http2->stream_window + stream->credit - stream->sent;
	window = window < http2->window ? window : http2->window;
	len = len < window ? len : window;
	if (len <= 0)
		return false;
	if (stream->sent == 0 && stream->is_call)
		http2_put_fields(http2, stream->id, 0, call_head, 2);
	else if (stream->sent == 0)
		http2_put_fields(http2, stream->id, 0, file_head, 6);
	bool whole = stream->sent + len == ANSWER;
	http2_put_data(http2, stream->id, whole && !stream->is_call ? HTTP2_END_STREAM : 0,
		       (stream->is_call ? message : file) + stream->sent, (size_t)len);
	stream->sent += len;
	if (whole && stream->is_call)
		http2_put_fields(http2, stream->id, HTTP2_END_STREAM, call_trailers, 1);
	return whole;
}

static void stream_close(struct connection *connection, struct stream *stream)
{
	*stream = connection->streams[--connection->open];
}

static void answers_continue(struct connection *connection)
{
	for (size_t i = connection->open; i-- > 0;) {
		struct stream *stream = &connection->streams[i];
		if (stream->is_asked && answer(&connection->http2, stream))
			stream_close(connection, stream);
	}
}

// The open stream of a frame, mostly the newest; NULL: none is open, or it is that of a request refused.
static struct stream *stream_find(struct connection *connection, uint32_t id)
{
	for (size_t i = connection->open; i-- > 0;)
		if (connection->streams[i].id == id)
			return &connection->streams[i];
	return NULL;
}

static struct stream *stream_open(struct connection *connection, const struct http2_frame *frame)
{
	if (connection->open == STREAMS) {
		http2_put_short(&connection->http2, HTTP2_RST_STREAM, frame->stream, REFUSED_STREAM);
		return NULL;
	}
	struct stream *stream = &connection->streams[connection->open++];
	*stream = (struct stream){.id = frame->stream, .is_call = !(frame->flags & HTTP2_END_STREAM)};
	return stream;
}

static void stream_end(struct connection *connection, struct stream *stream)
{
	stream->is_asked = true;
	if (answer(&connection->http2, stream))
		stream_close(connection, stream);
}

static void frame_take(void *arg, const struct http2_frame *frame)
{
	struct connection *connection = arg;
	struct stream *stream = frame->stream ? stream_find(connection, frame->stream) : NULL;
	switch (frame->type) {
	case HTTP2_HEADERS:
		stream = stream ? stream : stream_open(connection, frame);
		/* fallthrough */
	case HTTP2_DATA:
		if (stream && frame->flags & HTTP2_END_STREAM)
			stream_end(connection, stream);
		break;
	case HTTP2_RST_STREAM:
		if (stream)
			stream_close(connection, stream);
		break;
	case HTTP2_WINDOW_UPDATE:
		if (stream)
			stream->credit += http2_number(frame->payload);
		/* fallthrough */
	case HTTP2_SETTINGS:
		answers_continue(connection);
	}
}

static bool connection_serve(void *arg)
{
	struct connection *connection = arg;
	return http2_receive(&connection->http2, frame_take, connection) && http2_send(&connection->http2);
}

static void *connection_open(int fd)
{
	struct connection *connection = calloc(1, sizeof *connection);
	if (!connection)
		err(1, "connection");
	http2_begin(&connection->http2, fd, true, HTTP2_MAX_STREAMS, STREAMS);
	return connection;
}

static void connection_close(void *arg)
{
	struct connection *connection = arg;
	close(connection->http2.fd);
	free(connection);
}

int main(int argc, char **argv)
{
	static const struct server server = {connection_open, connection_serve, connection_close};
	if (argc != 2)
		errx(2, "usage: http2_origin PORT");
	answers_build();
	server_run(&server, argv[1]);
}
