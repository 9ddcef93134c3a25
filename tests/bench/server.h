// SPDX-License-Identifier: Apache-2.0
// What the origins share: a port, its connections, and one thread that waits for all of them. A connection is
// served when it has something to read, or can be written to again; each of the two is told once.
#pragma once

#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct server {
	void *(*open)(int fd);
	bool (*serve)(void *connection); // false: it has ended
	void (*close)(void *connection); // and its file
};

static inline void server_watch(int epoll, int fd, uint32_t events, void *connection)
{
	struct epoll_event event = {.events = events, .data.ptr = connection};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		err(1, "epoll_ctl");
}

static inline int server_listen(const char *port)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
	if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
		err(1, "port %s", port);
	return fd;
}

static inline void server_accept(const struct server *server, int epoll, int listener)
{
	int fd;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		server_watch(epoll, fd, EPOLLIN | EPOLLOUT | EPOLLET, server->open(fd));
	}
}

_Noreturn static inline void server_run(const struct server *server, const char *port)
{
	enum { EVENTS = 128 };
	int epoll = epoll_create1(EPOLL_CLOEXEC), listener = server_listen(port);
	server_watch(epoll, listener, EPOLLIN, NULL);
	for (;;) {
		struct epoll_event events[EVENTS];
		int count = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			void *connection = events[i].data.ptr;
			if (!connection)
				server_accept(server, epoll, listener);
			else if (!server->serve(connection))
				server->close(connection);
		}
	}
}
