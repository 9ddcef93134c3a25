// SPDX-License-Identifier: Apache-2.0
// The fast origin: HTTP/1.1 with keep-alive on one port, every request answered by the same 1 KiB; on another
// port, an endless stream of bytes; on a third the same as on the first, with a listener that blocks, so that
// to others it is one of the programs whose sockets do. One thread; it looks for nothing in a request but its
// end.
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BODY = 1024, STREAM = 1 << 18, RECEIVE = 1 << 16, GATHER = 32 };

struct connection {
	int fd;
	bool listens, streams;
	unsigned matched; // bytes of the empty line that ends a request
	size_t owed;	  // bytes of responses still to be sent
};

static char response[BODY + 256], stream[STREAM], received[RECEIVE];
static size_t response_len;
static int epoll;

static void response_build(void)
{
	int head =
	    snprintf(response, sizeof response,
		     "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", BODY);
	memset(response + head, 'x', BODY);
	response_len = (size_t)head + BODY;
	memset(stream, 's', sizeof stream);
}

static void connection_add(int fd, bool listens, bool streams)
{
	struct connection *connection = calloc(1, sizeof *connection);
	if (!connection)
		err(1, "connection");
	*connection = (struct connection){.fd = fd, .listens = listens, .streams = streams};
	struct epoll_event event = {.events = listens ? EPOLLIN : EPOLLIN | EPOLLOUT | EPOLLET,
				    .data.ptr = connection};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "epoll_ctl");
}

static void listener_open(const char *port, bool streams, int flags)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
		err(1, "port %s", port);
	connection_add(fd, true, streams);
}

// One at a time: the next is another event.
static void listener_accept(const struct connection *listener)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	connection_add(fd, false, listener->streams);
}

static size_t requests_count(struct connection *connection, const char *bytes, size_t len)
{
	static const char end[] = "\r\n\r\n";
	size_t count = 0;
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] == end[connection->matched])
			connection->matched++;
		else
			connection->matched = bytes[i] == '\r';
		if (connection->matched == 4) {
			connection->matched = 0;
			count++;
		}
	}
	return count;
}

// Sends what is owed: the response over and over. False when the connection has ended.
static bool responses_send(struct connection *connection)
{
	while (connection->owed > 0) {
		struct iovec pieces[GATHER];
		size_t rest = connection->owed, count = 0;
		size_t first = rest % response_len ? rest % response_len : response_len;
		while (rest > 0 && count < GATHER) {
			size_t len = count == 0 ? first : response_len;
			pieces[count++] = (struct iovec){response + response_len - len, len};
			rest -= len;
		}
		ssize_t n = writev(connection->fd, pieces, (int)count);
		if (n < 0)
			return errno == EAGAIN;
		connection->owed -= (size_t)n;
	}
	return true;
}

static bool stream_send(const struct connection *connection)
{
	ssize_t n;
	do
		n = write(connection->fd, stream, sizeof stream);
	while (n > 0);
	return n < 0 && errno == EAGAIN;
}

static bool connection_serve(struct connection *connection)
{
	ssize_t n;
	do {
		n = read(connection->fd, received, sizeof received);
		if (n > 0 && !connection->streams)
			connection->owed += response_len * requests_count(connection, received, (size_t)n);
	} while (n == sizeof received);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		return false;
	return connection->streams ? stream_send(connection) : responses_send(connection);
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: origin HTTP-PORT STREAM-PORT HTTP-PORT-THAT-BLOCKS");
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	signal(SIGPIPE, SIG_IGN);
	response_build();
	epoll = epoll_create1(EPOLL_CLOEXEC);
	listener_open(argv[1], false, SOCK_NONBLOCK);
	listener_open(argv[2], true, SOCK_NONBLOCK);
	listener_open(argv[3], false, 0);
	for (;;) {
		struct epoll_event events[128];
		int count = epoll_wait(epoll, events, 128, -1);
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;
			if (connection->listens) {
				listener_accept(connection);
			} else if (!connection_serve(connection)) {
				close(connection->fd);
				free(connection);
			}
		}
	}
}
