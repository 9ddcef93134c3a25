// SPDX-License-Identifier: Apache-2.0
// A relay that parses nothing: what comes on one side of a connection goes to the other. It makes just the
// system calls that a proxy cannot do without, and so shows what the kernel leaves to win. No back-pressure:
// it serves messages that socket buffers hold.
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_FILES = 65536, EVENTS = 128 };

static int epoll, listener, other[MOST_FILES];
static struct sockaddr_in origin;

static void watch(int fd, int peer)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	other[fd] = peer;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		err(1, "epoll_ctl");
}

static void join(int downstream)
{
	int upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (upstream < 0 || upstream >= MOST_FILES ||
	    connect(upstream, (struct sockaddr *)&origin, sizeof origin) < 0)
		err(1, "origin");
	watch(downstream, upstream);
	watch(upstream, downstream);
}

static void pass_on(int fd)
{
	static char bytes[64 * 1024];
	ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
	if (n > 0 && send(other[fd], bytes, (size_t)n, MSG_NOSIGNAL) == n)
		return;
	if (n != 0 || shutdown(other[fd], SHUT_WR) < 0) {
		close(fd);
		close(other[fd]);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: relay PORT ORIGIN-PORT");
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
	origin = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
	origin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (bind(listener, (struct sockaddr *)&own, sizeof own) < 0 || listen(listener, 4096) < 0)
		err(1, "port %s", argv[1]);
	watch(listener, -1);
	for (;;) {
		struct epoll_event events[EVENTS];
		int count = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd, accepted;
			if (fd != listener)
				pass_on(fd);
			else
				while ((accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
					join(accepted);
		}
	}
}
