// SPDX-License-Identifier: Apache-2.0
#include "exchange/listener.h"

#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/connection.h"
#include "net/sock.h"
#include "run/stats.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ACCEPTS_PER_TURN = 64, REST_MS = 50 };

struct listener {
	struct loop_io io;
	struct list node;
	struct loop_timer rest;
	struct loop_task task;
	struct dataplane *dataplane;
	bool inbound;
};

static void listener_accept(struct listener *listener, int count);

static void on_rested(struct loop_timer *timer)
{
	listener_accept(container_of(timer, struct listener, rest), ACCEPTS_PER_TURN);
}

static void accept_error(struct listener *listener, int err)
{
	if (err == -EAGAIN)
		return;
	stats_inc(STAT_ACCEPT_FAILED);
	if (err == -EMFILE || err == -ENFILE || err == -ENOBUFS || err == -ENOMEM)
		log_warn("connections cannot be accepted", LOG_ERR(err));
	// Edge-triggered: nobody will call again for what is in the queue already.
	loop_timer_start(listener->dataplane->loop, &listener->rest, REST_MS);
}

static void listener_accept(struct listener *listener, int count)
{
	struct sockaddr_storage sa;
	struct addr peer;
	for (int i = 0; i < count; i++) {
		socklen_t len = sizeof sa;
		int fd = accept4(listener->io.fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			accept_error(listener, -errno);
			return;
		}
		if (addr_from_sockaddr(&sa, &peer))
			close(fd);
		else
			connection_accept(listener->dataplane, fd, &peer, listener->inbound);
	}
	loop_timer_start(listener->dataplane->loop, &listener->rest, 1); // others get their turn first
}

static void on_event(struct loop_io *io, uint32_t events)
{
	(void)events;
	listener_accept(container_of(io, struct listener, io), ACCEPTS_PER_TURN);
}

static int listener_open(struct dataplane *dataplane, const char *ip, uint16_t port, bool inbound)
{
	struct addr addr = {.port = port};
	int fd;
	int err = ip_parse(str_from(ip), &addr.ip);
	if (!err)
		err = sock_listen(&addr, &fd);
	if (err)
		return err;
	struct listener *listener = mem_zalloc(sizeof *listener);
	sock_set_stream_options(fd); // accepted sockets inherit them
	if (inbound)
		sock_set_transparent(fd, addr.ip.family, true); // without the privilege only redirection gets here
	err = listener ? loop_io_add(dataplane->loop, &listener->io, fd, EPOLLIN, on_event) : -ENOMEM;
	if (err) {
		close(fd);
		mem_free(listener);
		return err;
	}
	listener->dataplane = dataplane;
	listener->inbound = inbound;
	loop_timer_init(&listener->rest, on_rested);
	list_append(&dataplane->listeners, &listener->node);
	return 0;
}

static bool no_ipv6(int err)
{
	return err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL;
}

int listeners_open(struct dataplane *dataplane)
{
	const struct {
		const char *ip;
		uint16_t port;
		bool inbound, optional;
	} rows[] = {
	    {"127.0.0.1", dataplane->settings.outbound_port, false, false},
	    {"::1", dataplane->settings.outbound_port, false, true},
	    {"0.0.0.0", dataplane->settings.inbound_port, true, false},
	    {"::", dataplane->settings.inbound_port, true, true},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int err =
		    rows[i].port ? listener_open(dataplane, rows[i].ip, rows[i].port, rows[i].inbound) : 0;
		if (err && !(rows[i].optional && no_ipv6(err))) {
			listeners_close(dataplane);
			return err;
		}
	}
	return 0;
}

static void listener_free(struct loop_task *task)
{
	mem_free(container_of(task, struct listener, task));
}

void listeners_drain(struct dataplane *dataplane)
{
	list_for_each (node, &dataplane->listeners)
		listener_accept(container_of(node, struct listener, node), SOCK_BACKLOG);
}

void listeners_close(struct dataplane *dataplane)
{
	list_for_each_safe (node, &dataplane->listeners) {
		struct listener *listener = container_of(node, struct listener, node);
		int fd = listener->io.fd;
		list_del(node);
		loop_timer_stop(&listener->rest);
		loop_io_del(dataplane->loop, &listener->io);
		close(fd);
		loop_defer(dataplane->loop, &listener->task, listener_free);
	}
}
