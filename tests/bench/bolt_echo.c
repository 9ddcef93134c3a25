// SPDX-License-Identifier: Apache-2.0
// A Bolt server: answers every request with its own content, in the order of arrival, and heartbeats; one-way
// requests get no answer. One thread. A connection whose client does not read is not read from.
#include "bolt.h"
#include "server.h"

#include <errno.h>

enum { BUFFER = 256 << 10, GROWTH = BOLT_RESPONSE_HEAD + sizeof(BOLT_RESPONSE_CLASS) - 1 };

struct bytes {
	size_t start, end;
	char data[BUFFER];
};

struct connection {
	int fd;
	struct bytes in, out;
};

static void bytes_compact(struct bytes *bytes)
{
	memmove(bytes->data, bytes->data + bytes->start, bytes->end - bytes->start);
	bytes->end -= bytes->start;
	bytes->start = 0;
}

static void append(struct bytes *out, const void *data, size_t len)
{
	memcpy(out->data + out->end, data, len);
	out->end += len;
}

static void answer(struct bytes *out, const struct bolt_request *request, const char *content)
{
	bool rpc = be16toh(request->command) == BOLT_RPC_REQUEST;
	struct bolt_response response = {
	    .version = BOLT_VERSION,
	    .type = BOLT_RESPONSE,
	    .command = htobe16(rpc ? BOLT_RPC_RESPONSE : BOLT_HEARTBEAT),
	    .command_version = 1,
	    .id = request->id,
	    .serializer = BOLT_HESSIAN,
	    .class_len = htobe16(rpc ? sizeof(BOLT_RESPONSE_CLASS) - 1 : 0),
	    .content_len = rpc ? request->content_len : 0,
	};
	append(out, &response, sizeof response);
	append(out, BOLT_RESPONSE_CLASS, be16toh(response.class_len));
	append(out, content, be32toh(response.content_len));
}

// Takes a whole request from what has come. False: there is none, or no room for its answer.
static bool request_take(struct connection *connection)
{
	struct bytes *in = &connection->in, *out = &connection->out;
	struct bolt_request head;
	size_t have = in->end - in->start;
	if (have < sizeof head)
		return false;
	memcpy(&head, in->data + in->start, sizeof head);
	size_t len = bolt_request_len(&head);
	if (head.version != BOLT_VERSION || len > BUFFER / 2)
		errx(1, "no request that this server understands");
	if (have < len || len + GROWTH > BUFFER - out->end)
		return false;
	if (head.type == BOLT_REQUEST)
		answer(out, &head, in->data + in->start + len - be32toh(head.content_len));
	in->start += len;
	return true;
}

// Writes what waits. False when the connection has ended.
static bool answers_send(struct connection *connection)
{
	struct bytes *out = &connection->out;
	while (out->start < out->end) {
		ssize_t n = send(connection->fd, out->data + out->start, out->end - out->start, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN;
		out->start += (size_t)n;
	}
	return true;
}

// Reads and answers until the client has nothing more or takes nothing more. False when the connection has
// ended.
static bool connection_serve(void *arg)
{
	struct connection *connection = arg;
	for (;;) {
		while (request_take(connection))
			continue;
		if (!answers_send(connection))
			return false;
		bool blocked = connection->out.start < connection->out.end;
		bytes_compact(&connection->in);
		bytes_compact(&connection->out);
		if (blocked)
			return true;
		if (connection->in.end == BUFFER)
			continue; // requests for whose answers there was no room
		ssize_t n = read(connection->fd, connection->in.data + connection->in.end,
				 BUFFER - connection->in.end);
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		connection->in.end += (size_t)n;
	}
}

static void *connection_open(int fd)
{
	struct connection *connection = malloc(sizeof *connection);
	if (!connection)
		err(1, "connection");
	connection->fd = fd;
	connection->in.start = connection->in.end = connection->out.start = connection->out.end = 0;
	return connection;
}

static void connection_close(void *arg)
{
	struct connection *connection = arg;
	close(connection->fd);
	free(connection);
}

int main(int argc, char **argv)
{
	static const struct server server = {connection_open, connection_serve, connection_close};
	if (argc != 2)
		errx(2, "usage: bolt_echo PORT");
	server_run(&server, argv[1]);
}
