// SPDX-License-Identifier: Apache-2.0
#include "net/serve.h"

#include "base/error.h"
#include "base/list.h"
#include "base/mem.h"
#include "net/wire.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_ROOM = 8192, LINGER_MS = 1000, LINGER_READS = 16, ACCEPT_RETRY_MS = 200 };

struct serve {
	struct loop *loop;
	struct loop_io io;
	struct loop_timer retry; // accepting, after it failed for want of descriptors or memory
	struct loop_task resume; // accepting, after a client made room
	struct serve_ops ops;
	struct list clients;
	unsigned client_count;
	size_t held; // bytes of all clients' requests
};

enum client_state { CLIENT_READS, CLIENT_WAITS, CLIENT_WRITES, CLIENT_LINGERS };

struct serve_client {
	struct serve *serve;
	struct list node;
	struct loop_io io;
	struct loop_timer timer;
	struct loop_task freeing;
	enum client_state state;
	struct strbuf answer;
	size_t sent;
	struct wire wire;
	void *data; // of who answers
	char *request;
	size_t len, cap;
};

static void on_resume(struct loop_task *task);

// --- one client -------------------------------------------------------------------------------------------
static void client_free(struct loop_task *task)
{
	struct serve_client *client = container_of(task, struct serve_client, freeing);
	strbuf_done(&client->answer);
	wire_done(&client->wire);
	mem_free(client->request);
	mem_free(client);
}

static void client_unlink(struct serve_client *client)
{
	const struct serve_ops *ops = &client->serve->ops;
	int fd = client->io.fd;
	if (client->state == CLIENT_WAITS)
		ops->cancel(ops->arg, client);
	loop_timer_stop(&client->timer);
	loop_io_del(client->serve->loop, &client->io);
	close(fd);
	list_del(&client->node);
	client->serve->client_count--;
	client->serve->held -= client->cap;
}

static void client_close(struct serve_client *client)
{
	struct serve *serve = client->serve;
	bool was_full = serve->client_count >= serve->ops.clients_max;
	client_unlink(client);
	loop_defer(serve->loop, &client->freeing, client_free);
	if (was_full)
		loop_defer(serve->loop, &serve->resume, on_resume);
}

static void on_idle(struct loop_timer *timer)
{
	client_close(container_of(timer, struct serve_client, timer));
}

// Reads and forgets what the peer still sends: closing with bytes unread would reset the connection, and the
// peer might lose the answer.
static void client_linger(struct serve_client *client)
{
	char scrap[4096];
	for (int i = 0; i < LINGER_READS; i++) {
		ssize_t n = read(client->io.fd, scrap, sizeof scrap);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n == 0 || (n < 0 && errno != EINTR))
			break;
	}
	client_close(client);
}

static void client_write(struct serve_client *client)
{
	while (client->sent < client->answer.len) {
		int n = wire_write(&client->wire, client->answer.p + client->sent,
				   client->answer.len - client->sent);
		if (n == ERR_NEED_MORE)
			return;
		if (n < 0) {
			client_close(client);
			return;
		}
		client->sent += (size_t)n;
		loop_timer_start(client->serve->loop, &client->timer, client->serve->ops.idle_ms);
	}
	wire_shutdown(&client->wire);
	client->state = CLIENT_LINGERS;
	loop_timer_start(client->serve->loop, &client->timer, LINGER_MS);
	client_linger(client);
}

static void client_respond(struct serve_client *client)
{
	if (client->answer.failed) {
		client_close(client);
		return;
	}
	client->state = CLIENT_WRITES;
	client_write(client);
}

void serve_answer(struct serve_client *client, struct strbuf *answer)
{
	client->answer = *answer;
	*answer = (struct strbuf){0};
	client_respond(client);
}

// 0: it is answered, or will be.
static int client_ask(struct serve_client *client)
{
	const struct serve_ops *ops = &client->serve->ops;
	if (ops->start) {
		client->state = CLIENT_WAITS; // it may answer at once
		int err = ops->start(ops->arg, client, client->request, client->len);
		if (err)
			client->state = CLIENT_READS;
		else
			loop_timer_stop(&client->timer);
		return err;
	}
	int err = ops->answer(ops->arg, client->request, client->len, &client->answer);
	if (err == 0)
		client_respond(client);
	return err;
}

// One client less that is still sending, of those that hold memory the one that has been there longest, but
// not `spared`.
static bool drop_sender(struct serve *serve, const struct serve_client *spared)
{
	list_for_each (node, &serve->clients) {
		struct serve_client *client = container_of(node, struct serve_client, node);
		if (client->state != CLIENT_READS || client->cap == 0 || client == spared)
			continue;
		client_close(client);
		return true;
	}
	return false;
}

static bool may_hold(struct serve_client *client, size_t cap)
{
	struct serve *serve = client->serve;
	size_t max = serve->ops.requests_max;
	while (max && serve->held - client->cap + cap > max)
		if (!drop_sender(serve, client))
			return false;
	return true;
}

// Room for more of the request: it grows with what comes.
static int client_make_room(struct serve_client *client)
{
	size_t max = client->serve->ops.request_max;
	if (client->len < client->cap)
		return 0;
	size_t cap = MIN(client->cap ? client->cap * 2 : REQUEST_ROOM, max);
	char *more = may_hold(client, cap) ? mem_realloc(client->request, cap) : NULL;
	if (!more)
		return -ENOMEM;
	client->serve->held += cap - client->cap;
	client->request = more;
	client->cap = cap;
	return 0;
}

// Takes what has come. 0: the request is as long as it may be; ERR_NEED_MORE: there may be more; another
// error: there will be none.
static int client_collect(struct serve_client *client)
{
	while (client->len < client->serve->ops.request_max) {
		int err = client_make_room(client);
		int n =
		    err ? err
			: wire_read(&client->wire, client->request + client->len, client->cap - client->len);
		if (n < 0)
			return n;
		client->len += (size_t)n;
	}
	return 0;
}

// Hands the request on if it has grown.
static void client_read(struct serve_client *client)
{
	size_t before = client->len;
	int more = client_collect(client);
	int err = client->len > before ? client_ask(client) : ERR_NEED_MORE;
	if (err && (err != ERR_NEED_MORE || more != ERR_NEED_MORE))
		client_close(client);
}

static void on_client(struct loop_io *io, uint32_t events)
{
	struct serve_client *client = container_of(io, struct serve_client, io);
	if (client->state == CLIENT_READS)
		client_read(client);
	else if (client->state == CLIENT_WAITS && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		client_close(client);
	else if (client->state == CLIENT_WAITS)
		return;
	else if (client->state == CLIENT_WRITES)
		client_write(client);
	else
		client_linger(client);
}

static int client_new(struct serve *serve, int fd)
{
	struct serve_client *client = mem_zalloc(sizeof *client);
	if (!client)
		return -ENOMEM;
	client->serve = serve;
	loop_timer_init(&client->timer, on_idle);
	int err = wire_init(&client->wire, fd, serve->ops.tls, true);
	if (!err)
		err = loop_io_add(serve->loop, &client->io, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, on_client);
	if (err) {
		wire_done(&client->wire);
		mem_free(client);
		return err;
	}
	list_append(&serve->clients, &client->node);
	serve->client_count++;
	loop_timer_start(serve->loop, &client->timer, serve->ops.idle_ms);
	if (serve->ops.admit && !serve->ops.admit(serve->ops.arg, fd, &client->answer))
		client_respond(client);
	return 0;
}

// --- the listener -----------------------------------------------------------------------------------------
// The client that has been there longest without having asked goes, if there is one.
static bool evict(struct serve *serve)
{
	list_for_each (node, &serve->clients) {
		struct serve_client *client = container_of(node, struct serve_client, node);
		if (client->state == CLIENT_READS || client->state == CLIENT_LINGERS) {
			client_unlink(client);
			loop_defer(serve->loop, &client->freeing, client_free);
			return true;
		}
	}
	return false;
}

static bool has_room(const struct serve *serve)
{
	return serve->client_count < serve->ops.clients_max;
}

// Accepts until nobody waits or the limit is reached; then the client that ends calls it again.
static void serve_accept(struct serve *serve)
{
	while (has_room(serve) || serve->ops.evict) {
		int fd = accept4(serve->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			if (errno != EAGAIN)
				loop_timer_start(serve->loop, &serve->retry, ACCEPT_RETRY_MS);
			return;
		}
		if ((!has_room(serve) && !evict(serve)) || client_new(serve, fd))
			close(fd);
	}
}

static void on_resume(struct loop_task *task)
{
	serve_accept(container_of(task, struct serve, resume));
}

static void on_retry(struct loop_timer *timer)
{
	serve_accept(container_of(timer, struct serve, retry));
}

static void on_listener(struct loop_io *io, uint32_t events)
{
	(void)events;
	serve_accept(container_of(io, struct serve, io));
}

int serve_new(struct loop *loop, int fd, const struct serve_ops *ops, struct serve **ret_serve)
{
	struct serve *serve = mem_zalloc(sizeof *serve);
	if (!serve)
		return -ENOMEM;
	*serve = (struct serve){.loop = loop, .ops = *ops};
	list_init(&serve->clients);
	loop_timer_init(&serve->retry, on_retry);
	int err = loop_io_add(loop, &serve->io, fd, EPOLLIN, on_listener);
	if (err) {
		mem_free(serve);
		return err;
	}
	*ret_serve = serve;
	return 0;
}

void serve_free(struct serve *serve)
{
	if (!serve)
		return;
	while (!list_empty(&serve->clients)) {
		struct serve_client *client = container_of(serve->clients.next, struct serve_client, node);
		client_unlink(client);
		client_free(&client->freeing);
	}
	loop_timer_stop(&serve->retry);
	int fd = serve->io.fd;
	loop_io_del(serve->loop, &serve->io);
	close(fd);
	mem_free(serve);
}

void serve_set_tls(struct serve *serve, struct ssl_ctx_st *tls)
{
	serve->ops.tls = tls;
}

int serve_client_fd(const struct serve_client *client)
{
	return client->io.fd;
}

void serve_client_set(struct serve_client *client, void *data)
{
	client->data = data;
}

void *serve_client_get(const struct serve_client *client)
{
	return client->data;
}
