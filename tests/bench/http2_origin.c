// SPDX-License-Identifier: Apache-2.0
// The origin over HTTP/2 without TLS: a request that ends with its head is answered as a file server would,
// by 1 KiB; one with content as a gRPC call, by a message of 1 KiB and the status 0, with the fields that
// gRPC asks for and no others. One thread; nghttp2 does the frames.
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER = 1024, MESSAGE_HEAD = 5, BUFFER = 256 << 10, EVENTS = 128 };

struct connection {
	int fd;
	nghttp2_session *session;
	size_t start, end; // of what waits in `out`
	uint8_t out[BUFFER];
};

static int epoll;
static uint8_t file[ANSWER], message[ANSWER];

#define NV(name, value)                                                                                      \
	{                                                                                                    \
		(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1,                  \
		    NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                             \
	}

static void answers_build(void)
{
	const size_t len = ANSWER - MESSAGE_HEAD;
	memset(file, 'x', sizeof file);
	memset(message, 'x', sizeof message);
	memcpy(message, (const uint8_t[]){0, 0, 0, len >> 8, len & 0xff}, MESSAGE_HEAD);
}

static void check(ssize_t error)
{
	if (error < 0)
		errx(1, "%s", nghttp2_strerror((int)error));
}

// A stream's user data is how much of the answer has gone: the peer's windows may cut it.
static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
		       nghttp2_data_source *source, void *arg)
{
	static const nghttp2_nv trailers[] = {NV("grpc-status", "0")};
	size_t sent = (size_t)(uintptr_t)nghttp2_session_get_stream_user_data(session, id);
	size_t rest = ANSWER - sent;
	(void)arg;
	len = len < rest ? len : rest;
	memcpy(buf, (const uint8_t *)source->ptr + sent, len);
	if (len < rest) {
		check(nghttp2_session_set_stream_user_data(session, id, (void *)(uintptr_t)(sent + len)));
		return (ssize_t)len;
	}
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (source->ptr == message) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		check(nghttp2_submit_trailer(session, id, trailers, 1));
	}
	return (ssize_t)len;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	static const nghttp2_nv file_head[] = {
	    NV(":status", "200"),
	    NV("server", "origin"),
	    NV("cache-control", "max-age=3600"),
	    NV("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
	    NV("content-length", "1024"),
	    NV("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
	};
	static const nghttp2_nv call_head[] = {NV(":status", "200"), NV("content-type", "application/grpc")};
	static const nghttp2_data_provider file_body = {.source.ptr = file, .read_callback = on_read};
	static const nghttp2_data_provider call_body = {.source.ptr = message, .read_callback = on_read};
	(void)arg;
	if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS)
		check(nghttp2_submit_response(session, frame->hd.stream_id, file_head, 6, &file_body));
	else if (frame->hd.type == NGHTTP2_DATA)
		check(nghttp2_submit_response(session, frame->hd.stream_id, call_head, 2, &call_body));
	return 0;
}

// Takes what fits; the rest stays with the library.
static ssize_t on_send(nghttp2_session *session, const uint8_t *bytes, size_t len, int flags, void *arg)
{
	struct connection *connection = arg;
	(void)session, (void)flags;
	if (len > BUFFER - connection->end)
		return NGHTTP2_ERR_WOULDBLOCK;
	memcpy(connection->out + connection->end, bytes, len);
	connection->end += len;
	return (ssize_t)len;
}

// Writes what there is to be sent. False when the connection has ended.
static bool frames_send(struct connection *connection)
{
	do {
		check(nghttp2_session_send(connection->session));
		while (connection->start < connection->end) {
			ssize_t n = send(connection->fd, connection->out + connection->start,
					 connection->end - connection->start, MSG_NOSIGNAL);
			if (n < 0)
				return errno == EAGAIN;
			connection->start += (size_t)n;
		}
		connection->start = connection->end = 0;
	} while (nghttp2_session_want_write(connection->session));
	return nghttp2_session_want_read(connection->session);
}

// False when the connection has ended.
static bool connection_serve(struct connection *connection)
{
	static uint8_t in[BUFFER];
	for (;;) {
		ssize_t n = read(connection->fd, in, sizeof in);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		if (n < 0)
			return frames_send(connection);
		if (nghttp2_session_mem_recv(connection->session, in, (size_t)n) < 0)
			return false;
	}
}

static void connection_free(struct connection *connection)
{
	close(connection->fd);
	nghttp2_session_del(connection->session);
	free(connection);
}

static void connection_new(int fd)
{
	static nghttp2_session_callbacks *callbacks;
	static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100}};
	struct connection *connection = malloc(sizeof *connection);
	if (!connection)
		err(1, "connection");
	if (!callbacks) {
		check(nghttp2_session_callbacks_new(&callbacks));
		nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
		nghttp2_session_callbacks_set_send_callback(callbacks, on_send);
	}
	connection->fd = fd;
	connection->start = connection->end = 0;
	check(nghttp2_session_server_new(&connection->session, callbacks, connection));
	check(nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, 1));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "epoll_ctl");
}

static int listener_open(const char *port)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
	struct epoll_event event = {.events = EPOLLIN};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "port %s", port);
	return fd;
}

static void listener_accept(int listener)
{
	int fd;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		connection_new(fd);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: http2_origin PORT");
	answers_build();
	epoll = epoll_create1(EPOLL_CLOEXEC);
	int listener = listener_open(argv[1]);
	for (;;) {
		struct epoll_event events[EVENTS];
		int count = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;
			if (!connection)
				listener_accept(listener);
			else if (!connection_serve(connection))
				connection_free(connection);
		}
	}
}
