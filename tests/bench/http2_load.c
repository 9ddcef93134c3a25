// SPDX-License-Identifier: Apache-2.0
// HTTP/2 without TLS, so many requests at a time on each of some connections, for a time; prints how many
// were answered. A request is a GET, or a unary call of gRPC with a message of 64 bytes. Every answer has to
// have the status 200 and 1 KiB, that to a call also trailers, on a stream that waits for one; at the end all
// have come.
#include "client.h"
#include "http2.h"

#include <fcntl.h>
#include <sys/epoll.h>

enum {
	ANSWER = 1024,
	MESSAGE_HEAD = 5,
	MESSAGE = 64,
	CONNECTIONS = 256,
	IN_FLIGHT = 256,
	LATEST = 4096, // an answer that so many younger ones have overtaken does not come
	PATIENCE_MS = 5000,
};

// What differs between a GET and a call.
struct request_kind {
	bool is_call;
	size_t field_count;
	struct http2_field fields[8];
};

struct stream {
	uint32_t id; // 0: none
	uint32_t received;
	bool has_head;
};

struct connection {
	struct http2 http2;
	uint32_t next_id, under_way;
	struct stream streams[LATEST]; // each in the place of its id
};

static struct request_kind kinds[] = {
    {
	.field_count = 5,
	.fields =
	    {
		{.whole = 2}, // :method: GET
		{.whole = 6}, // :scheme: http
		{.whole = 4}, // :path: /
		{.name_index = 1, .number = 1},
		{.name_index = 58, .number = 2, .value = "http2_load"},
	    },
    },
    {
	.is_call = true,
	.field_count = 7,
	.fields =
	    {
		{.whole = 3}, // :method: POST
		{.whole = 6},
		{.name_index = 4, .number = 3, .value = "/bench.Echo/Unary"},
		{.name_index = 1, .number = 1},
		{.name_index = 58, .number = 2, .value = "http2_load"},
		{.name = "te", .number = 4, .value = "trailers"},
		{.name_index = 31, .number = 5, .value = "application/grpc"},
	    },
    },
};
enum { AUTHORITY = 3 };

static uint8_t message[MESSAGE_HEAD + MESSAGE] = {[MESSAGE_HEAD - 1] = MESSAGE};
static const struct request_kind *kind;
static uint32_t streams_wanted, under_way;
static uint64_t now_ns, end_ns, count;

static struct stream *stream_of(struct connection *connection, uint32_t id)
{
	return &connection->streams[id / 2 % LATEST];
}

static void request_put(struct connection *connection)
{
	uint32_t id = connection->next_id;
	struct stream *stream = stream_of(connection, id);
	if (stream->id)
		errx(1, "the request on stream %u is not answered", stream->id);
	*stream = (struct stream){.id = id};
	connection->next_id += 2;
	http2_put_fields(&connection->http2, id, kind->is_call ? 0 : HTTP2_END_STREAM, kind->fields,
			 kind->field_count);
	if (kind->is_call)
		http2_put_data(&connection->http2, id, HTTP2_END_STREAM, message, sizeof message);
	connection->under_way++;
	under_way++;
}

// As many as are wanted and as the server allows, each whole.
static void requests_put(struct connection *connection)
{
	const struct http2 *http2 = &connection->http2;
	int64_t need = kind->is_call ? sizeof message : 0;
	while (now_ns < end_ns && connection->under_way < streams_wanted &&
	       connection->under_way < http2->max_streams && http2->window >= need &&
	       http2->stream_window >= need)
		request_put(connection);
}

// Fields begin with the status, perhaps after a new size of HPACK's table.
static void head_check(const struct http2_frame *frame)
{
	enum { STATUS_200 = 0x80 | 8, SIZE = 0x20, SIZE_MASK = 0xe0 };
	size_t at = (frame->flags & HTTP2_PADDED ? 1 : 0) + (frame->flags & HTTP2_PRIORITY ? 5 : 0);
	while (at < frame->len && (frame->payload[at] & SIZE_MASK) == SIZE)
		at++;
	if (at >= frame->len || frame->payload[at] != STATUS_200)
		errx(1, "stream %u: another status than 200", frame->stream);
}

static void answer_end(struct connection *connection, struct stream *stream, bool is_trailer)
{
	if (stream->received != ANSWER)
		errx(1, "stream %u: %u bytes instead of %d", stream->id, stream->received, ANSWER);
	if (kind->is_call && !is_trailer)
		errx(1, "stream %u: an answer to a call without trailers", stream->id);
	stream->id = 0;
	connection->under_way--;
	under_way--;
	count++;
}

static void frame_take(void *arg, const struct http2_frame *frame)
{
	struct connection *connection = arg;
	bool has_fields = frame->type == HTTP2_HEADERS;
	if (frame->type == HTTP2_RST_STREAM || frame->type == HTTP2_GOAWAY)
		errx(1, "stream %u: a frame of type %u", frame->stream, frame->type);
	if (frame->type != HTTP2_DATA && !has_fields)
		return;
	struct stream *stream = stream_of(connection, frame->stream);
	if (stream->id != frame->stream || (!has_fields && !stream->has_head))
		errx(1, "stream %u: an answer to nothing", frame->stream);
	if (has_fields && !stream->has_head)
		head_check(frame);
	stream->has_head = true;
	if (!has_fields)
		stream->received += frame->len - (frame->flags & HTTP2_PADDED ? 1u + frame->payload[0] : 0);
	if (frame->flags & HTTP2_END_STREAM)
		answer_end(connection, stream, has_fields);
}

static void connection_serve(struct connection *connection)
{
	bool is_open = http2_receive(&connection->http2, frame_take, connection);
	requests_put(connection);
	if (!is_open || !http2_send(&connection->http2))
		errx(1, "the connection ended");
}

static struct connection *connection_open(int epoll, const struct sockaddr_in *address)
{
	struct connection *connection = calloc(1, sizeof *connection);
	if (!connection)
		err(1, "connection");
	int fd = client_connect(address);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	http2_begin(&connection->http2, fd, false, HTTP2_ENABLE_PUSH, 0);
	connection->next_id = 1;
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "epoll_ctl");
	return connection;
}

static void connection_close(struct connection *connection)
{
	close(connection->http2.fd);
	free(connection);
}

static void turn(int epoll)
{
	struct epoll_event events[CONNECTIONS];
	int ready = epoll_wait(epoll, events, CONNECTIONS, PATIENCE_MS);
	if (ready == 0)
		errx(1, "%u requests are not answered", under_way);
	now_ns = client_now_ns();
	for (int i = 0; i < ready; i++)
		connection_serve(events[i].data.ptr);
}

int main(int argc, char **argv)
{
	if (argc != 8 || (strcmp(argv[7], "get") != 0 && strcmp(argv[7], "call") != 0))
		errx(2, "usage: http2_load ADDRESS PORT HOST CONNECTIONS IN-FLIGHT SECONDS get|call");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct connection *connections[CONNECTIONS];
	uint32_t connection_count = client_number(argv[4], CONNECTIONS);
	streams_wanted = client_number(argv[5], IN_FLIGHT);
	kinds[0].fields[AUTHORITY].value = kinds[1].fields[AUTHORITY].value = argv[3];
	kind = &kinds[strcmp(argv[7], "call") == 0];
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	now_ns = client_now_ns();
	end_ns = now_ns + (uint64_t)(atof(argv[6]) * 1e9);
	for (uint32_t number = 0; number < connection_count; number++)
		connections[number] = connection_open(epoll, &address);
	while (now_ns < end_ns || under_way > 0)
		turn(epoll);
	printf("%lu\n", count);
	for (uint32_t number = 0; number < connection_count; number++)
		connection_close(connections[number]);
	close(epoll);
	return 0;
}
