// SPDX-License-Identifier: Apache-2.0
#include "dns/tcp.h"

#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	BACKLOG = 256,
	IDLE_MS = 10000,
	REST_MS = 50,
	OUT_HIGH = 32 * 1024, // unsent bytes above which no more queries are taken
	READS_PER_TURN = 16,  // of one client, so that others have their turn
};

struct tcp_client {
	struct loop_io io;
	struct dns_tcp *tcp;
	struct list node;
	struct list waiters;
	struct loop_timer idle;
	struct loop_timer again; // there is more than one turn takes
	struct loop_task free_task;
	struct strbuf out; // framed answers that are not sent yet
	size_t sent;	   // of them
	size_t in_len;
	unsigned waiting;
	bool ended;	// the client sends no more
	bool looked_at; // once at least
	bool closed;
	uint8_t in[2 + LIMIT_DNS_TCP_QUERY];
};

struct tcp_waiter {
	struct dns_waiter waiter;
	struct list node;
	struct tcp_client *client;
	struct dns_query query; // its question points into the waiter
};

struct dns_tcp {
	struct loop_io io;
	struct loop *loop;
	struct dns_resolver *resolver;
	struct list clients; // who was heard of last is the last
	unsigned client_count;
	struct loop_timer rest; // after accept failed, or because there are too many
};

static void client_serve(struct tcp_client *client);

// --- life ---------------------------------------------------------------------------------------------------
static void waiter_free(struct tcp_waiter *waiter)
{
	dns_forward_cancel(&waiter->waiter);
	list_del(&waiter->node);
	waiter->client->waiting--;
	mem_free(waiter);
}

static void client_done(struct loop_task *task)
{
	struct tcp_client *client = container_of(task, struct tcp_client, free_task);
	strbuf_done(&client->out);
	mem_free(client);
}

static void client_detach(struct tcp_client *client)
{
	list_for_each_safe (node, &client->waiters)
		waiter_free(container_of(node, struct tcp_waiter, node));
	int fd = client->io.fd;
	loop_timer_stop(&client->idle);
	loop_timer_stop(&client->again);
	loop_io_del(client->tcp->loop, &client->io);
	close(fd);
	list_del(&client->node);
	client->tcp->client_count--;
	client->closed = true;
}

static void client_close(struct tcp_client *client)
{
	if (client->closed)
		return;
	client_detach(client);
	loop_defer(client->tcp->loop, &client->free_task, client_done);
}

static void on_idle(struct loop_timer *timer)
{
	client_close(container_of(timer, struct tcp_client, idle));
}

// --- answers ------------------------------------------------------------------------------------------------
static size_t unsent(const struct tcp_client *client)
{
	return client->out.len - client->sent;
}

static void client_flush(struct tcp_client *client)
{
	while (client->sent < client->out.len) {
		ssize_t n = send(client->io.fd, client->out.p + client->sent, client->out.len - client->sent,
				 MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			client_close(client);
			return;
		}
		client->sent += (size_t)n;
	}
	strbuf_done(&client->out);
	client->sent = 0;
	if (client->ended && !client->waiting)
		client_close(client);
}

static void client_answer(struct tcp_client *client, const uint8_t *answer, size_t len)
{
	strbuf_add(&client->out, (uint8_t[]){(uint8_t)(len >> 8), (uint8_t)len}, 2);
	strbuf_add(&client->out, answer, len);
	if (client->out.failed || unsent(client) > LIMIT_DNS_TCP_OUT) // it does not read
		client_close(client);
}

static void on_answered(struct dns_waiter *base, const uint8_t *answer, size_t len)
{
	struct tcp_waiter *waiter = container_of(base, struct tcp_waiter, waiter);
	struct tcp_client *client = waiter->client;
	uint8_t failed[LIMIT_DNS_UDP_PAYLOAD];
	if (!answer) {
		waiter->query.question = (struct str){(const char *)base->question, base->question_len};
		len = dns_resolve_failed(&waiter->query, failed);
		answer = failed;
	}
	client_answer(client, answer, len);
	if (client->closed)
		return;
	waiter_free(waiter);
	client_flush(client);
	if (!client->closed)
		client_serve(client); // it may have been held back
}

// --- queries ------------------------------------------------------------------------------------------------
static bool forward(struct tcp_client *client, const struct dns_query *query)
{
	struct tcp_waiter *waiter = mem_zalloc(sizeof *waiter);
	if (!waiter)
		return false;
	waiter->waiter.answered = on_answered;
	list_init(&waiter->waiter._node);
	waiter->client = client;
	waiter->query = *query;
	client->waiting++;
	list_append(&client->waiters, &waiter->node);
	if (dns_forward(client->tcp->resolver->forwarder, query, DNS_MESSAGE_MAX, &waiter->waiter) == 0)
		return true;
	waiter_free(waiter);
	return false;
}

static void client_query(struct tcp_client *client, const uint8_t *bytes, size_t len)
{
	static __thread uint8_t answer[DNS_MESSAGE_MAX];
	struct dns_query query;
	size_t answer_len;
	enum dns_verdict verdict =
	    dns_resolve(client->tcp->resolver, bytes, len, true, &query, answer, &answer_len);
	if (verdict == DNS_VERDICT_DROP) {
		client_close(client);
		return;
	}
	if (verdict == DNS_VERDICT_FORWARD) {
		if (forward(client, &query))
			return;
		answer_len = dns_resolve_failed(&query, answer);
	}
	client_answer(client, answer, answer_len);
}

static bool is_held_back(const struct tcp_client *client)
{
	return client->waiting >= LIMIT_DNS_TCP_PIPELINE || unsent(client) > OUT_HIGH;
}

// Takes the queries that are whole. False: not all of them, since the client is held back, or closed.
static bool client_queries(struct tcp_client *client)
{
	size_t at = 0;
	while (!client->closed && client->in_len - at >= 2 && !is_held_back(client)) {
		size_t len = (size_t)client->in[at] << 8 | client->in[at + 1];
		if (len > LIMIT_DNS_TCP_QUERY || len < DNS_HEADER_BYTES) {
			client_close(client);
			return false;
		}
		if (client->in_len - at < 2 + len)
			break;
		client_query(client, client->in + at + 2, len);
		at += 2 + len;
	}
	if (client->closed)
		return false;
	memmove(client->in, client->in + at, client->in_len - at);
	client->in_len -= at;
	return !is_held_back(client);
}

// Whether there may be more.
static bool client_receive(struct tcp_client *client)
{
	ssize_t n = recv(client->io.fd, client->in + client->in_len, sizeof client->in - client->in_len, 0);
	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno != EAGAIN)
		client_close(client);
	if (n < 0)
		return false;
	loop_timer_start(client->tcp->loop, &client->idle, IDLE_MS);
	list_del(&client->node);
	list_append(&client->tcp->clients, &client->node);
	client->ended = n == 0;
	client->in_len += (size_t)n;
	return true;
}

// Answers what has come, and takes more, until there is none or the client is held back. What holds it back
// calls again: an answer from upstream, or room to send.
static void client_serve(struct tcp_client *client)
{
	bool more = true;
	client->looked_at = true;
	for (int reads = 0; more && reads < READS_PER_TURN; reads++) {
		while (!client_queries(client)) {
			if (!client->closed)
				client_flush(client);
			if (client->closed || is_held_back(client))
				return;
		}
		more = !client->ended && client_receive(client);
	}
	if (client->closed)
		return;
	if (more)
		loop_timer_start(client->tcp->loop, &client->again, 1);
	client_flush(client);
}

static void on_again(struct loop_timer *timer)
{
	client_serve(container_of(timer, struct tcp_client, again));
}

static void on_client_event(struct loop_io *io, uint32_t events)
{
	struct tcp_client *client = container_of(io, struct tcp_client, io);
	if (events & EPOLLOUT)
		client_flush(client);
	if (!client->closed)
		client_serve(client);
}

// --- acceptance ---------------------------------------------------------------------------------------------
static int client_new(struct dns_tcp *tcp, int fd)
{
	int on = 1;
	struct tcp_client *client = mem_zalloc(sizeof *client);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	int err =
	    client ? loop_io_add(tcp->loop, &client->io, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, on_client_event)
		   : -ENOMEM;
	if (err) {
		mem_free(client);
		close(fd);
		return err;
	}
	client->tcp = tcp;
	list_init(&client->waiters);
	list_append(&tcp->clients, &client->node);
	tcp->client_count++;
	loop_timer_init(&client->idle, on_idle);
	loop_timer_init(&client->again, on_again);
	loop_timer_start(tcp->loop, &client->idle, IDLE_MS);
	return 0;
}

// An idle connection may be closed at any time, and clients take another (RFC 7766 6.2.3, 6.2.4). One that
// was accepted just now may have a query that nobody has looked at yet.
static bool is_idle(const struct tcp_client *client)
{
	return client->looked_at && !client->waiting && !unsent(client);
}

// NULL: all are busy.
static struct tcp_client *longest_idle(const struct dns_tcp *tcp)
{
	list_for_each (node, &tcp->clients) {
		struct tcp_client *client = container_of(node, struct tcp_client, node);
		if (is_idle(client))
			return client;
	}
	return NULL;
}

static void accept_clients(struct dns_tcp *tcp)
{
	struct tcp_client *leaves = NULL;
	while (tcp->client_count < LIMIT_DNS_TCP_CLIENTS || (leaves = longest_idle(tcp))) {
		int fd = accept4(tcp->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd >= 0 && leaves)
			client_close(leaves);
		if (fd < 0 || client_new(tcp, fd))
			break;
		leaves = NULL;
	}
	// Edge-triggered: nobody calls again for those who wait already.
	loop_timer_start(tcp->loop, &tcp->rest, REST_MS);
}

static void on_event(struct loop_io *io, uint32_t events)
{
	(void)events;
	accept_clients(container_of(io, struct dns_tcp, io));
}

static void on_rested(struct loop_timer *timer)
{
	accept_clients(container_of(timer, struct dns_tcp, rest));
}

static int open_listener(const struct addr *addr, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	int on = 1, fd = socket(addr->ip.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0 ||
	    (addr->ip.family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
	    bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, BACKLOG) < 0) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

int dns_tcp_new(struct loop *loop, const struct addr *addr, struct dns_resolver *resolver,
		struct dns_tcp **ret_tcp)
{
	int fd = -1, err = open_listener(addr, &fd);
	if (err)
		return err;
	struct dns_tcp *tcp = mem_zalloc(sizeof *tcp);
	err = tcp ? loop_io_add(loop, &tcp->io, fd, EPOLLIN, on_event) : -ENOMEM;
	if (err) {
		close(fd);
		mem_free(tcp);
		return err;
	}
	tcp->loop = loop;
	tcp->resolver = resolver;
	list_init(&tcp->clients);
	loop_timer_init(&tcp->rest, on_rested);
	*ret_tcp = tcp;
	return 0;
}

void dns_tcp_free(struct dns_tcp *tcp)
{
	if (!tcp)
		return;
	list_for_each_safe (node, &tcp->clients) {
		struct tcp_client *client = container_of(node, struct tcp_client, node);
		client_detach(client);
		client_done(&client->free_task);
	}
	int fd = tcp->io.fd;
	loop_timer_stop(&tcp->rest);
	loop_io_del(tcp->loop, &tcp->io);
	close(fd);
	mem_free(tcp);
}
