// SPDX-License-Identifier: Apache-2.0
#include "admin/probe_ask.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "net/sock.h"
#include "net/wire.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { FIELDS_MAX = LIMIT_HTTP_HEADERS, READ_ROOM = 16384, REDIRECTS_MAX = 10 };

struct probe_ask {
	struct loop *loop;
	struct probe_question question;
	struct probe probe;
	struct loop_io io;
	struct loop_timer timer;
	struct loop_task task; // tells the answer, or begins anew, when no callback is under way; then frees
	struct wire wire;
	bool connected, over;
	struct strbuf authority, target, fields; // of an HTTP request
	struct strbuf out, in;
	size_t sent;
	unsigned redirects;
	struct grpc_check *grpc;
	uint16_t status;
	const char *why;
};

static int begin(struct probe_ask *ask);

// --- the end ----------------------------------------------------------------------------------------------
static void hang_up(struct probe_ask *ask)
{
	int fd = ask->wire.fd;
	wire_done(&ask->wire);
	if (fd < 0)
		return;
	loop_io_del(ask->loop, &ask->io);
	close(fd);
	ask->wire.fd = -1;
}

static void ask_free(struct loop_task *task)
{
	struct probe_ask *ask = container_of(task, struct probe_ask, task);
	grpc_check_free(ask->grpc);
	strbuf_done(&ask->authority);
	strbuf_done(&ask->target);
	strbuf_done(&ask->fields);
	strbuf_done(&ask->out);
	strbuf_done(&ask->in);
	mem_free(ask);
}

static void tell(struct loop_task *task)
{
	struct probe_ask *ask = container_of(task, struct probe_ask, task);
	if (!ask->over)
		ask->question.done(ask->question.arg, ask->status, ask->why);
	ask_free(task);
}

static void finish(struct probe_ask *ask, uint16_t status, const char *why)
{
	hang_up(ask);
	loop_timer_stop(&ask->timer);
	ask->status = status;
	ask->why = why;
	loop_defer(ask->loop, &ask->task, tell);
}

void probe_ask_cancel(struct probe_ask *ask)
{
	if (!ask)
		return;
	hang_up(ask);
	loop_timer_stop(&ask->timer);
	ask->over = true;
	loop_defer(ask->loop, &ask->task, tell);
}

static void on_timeout(struct loop_timer *timer)
{
	finish(container_of(timer, struct probe_ask, timer), 504, "the application did not answer in time");
}

// --- HTTP -------------------------------------------------------------------------------------------------
// What the kubelet said goes on, but for what concerns its own connection; Host, if it means this server.
static void keep_fields(struct probe_ask *ask, const struct probe_question *question)
{
	static const char *const dropped[] = {
	    "host",    "connection", "keep-alive",	  "proxy-connection",
	    "upgrade", "te",	     "transfer-encoding", "content-length"};
	char own[ADDR_TEXT_MAX], text[ADDR_TEXT_MAX];
	struct addr self = question->where;
	self.port = question->own_port;
	addr_format(&self, own);
	bool names_us = str_eq(question->head->authority, str_from(own)) || !question->head->authority.len;
	strbuf_add_str(&ask->authority,
		       names_us ? str_from(addr_format(&question->where, text)) : question->head->authority);
	for (uint16_t i = 0; i < question->head->field_count; i++) {
		const struct field *field = &question->head->fields[i];
		bool drop = false;
		for (size_t k = 0; k < ARRAY_SIZE(dropped); k++)
			drop |= str_eq_nocase(field->name, str_from(dropped[k]));
		if (!drop)
			strbuf_printf(&ask->fields, "%.*s: %.*s\r\n", STR_ARG(field->name),
				      STR_ARG(field->value));
	}
}

static void write_request(struct probe_ask *ask)
{
	strbuf_printf(&ask->out, "GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n", ask->target.p,
		      ask->authority.p, ask->fields.p ? ask->fields.p : "");
}

static void ask_again(struct loop_task *task)
{
	struct probe_ask *ask = container_of(task, struct probe_ask, task);
	if (ask->over || ask->status) { // its time ended, too, in the turn in which it was redirected
		tell(task);
		return;
	}
	int err = begin(ask);
	if (err)
		finish(ask, 503, err_text(err));
}

// The kubelet follows redirections to the same host, and is content with one that leads elsewhere.
static void follow(struct probe_ask *ask, const struct http1_head *head)
{
	const struct field *location = head_find(&head->head, STR("location"));
	struct str to = location ? location->value : STR("");
	struct str authority = strbuf_str(&ask->authority);
	const char *scheme = ask->probe.kind == PROBE_HTTPS ? "https://" : "http://";
	if (str_starts(to, str_from(scheme))) {
		struct str rest = {to.p + strlen(scheme), to.len - strlen(scheme)};
		if (str_starts(rest, authority) && rest.len > authority.len && rest.p[authority.len] == '/')
			to = (struct str){rest.p + authority.len, rest.len - authority.len};
	}
	if (!to.len || to.p[0] != '/' || str_starts(to, STR("//"))) {
		finish(ask, 200, "redirected elsewhere");
		return;
	}
	if (++ask->redirects > REDIRECTS_MAX) {
		finish(ask, 503, "too many redirections");
		return;
	}
	strbuf_clear(&ask->target);
	strbuf_add_str(&ask->target, to);
	hang_up(ask);
	loop_defer(ask->loop, &ask->task, ask_again);
}

static void take_response(struct probe_ask *ask, const struct http1_head *head)
{
	if (head->head.status >= 300 && head->head.status < 400)
		follow(ask, head);
	else
		finish(ask, head->head.status, "the application answered");
}

// 0: the response is there; ERR_NEED_MORE.
static int read_response(struct probe_ask *ask, bool ended)
{
	struct field fields[FIELDS_MAX];
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	struct str bytes = strbuf_str(&ask->in);
	int taken;
	do {
		taken = http1_response_parse(bytes, LIMIT_HTTP_HEAD, FIELDS_MAX, STR("GET"), &head, &fault);
		if (taken > 0) {
			bytes.p += taken;
			bytes.len -= (size_t)taken;
		}
	} while (taken > 0 && head.head.status < 200 && head.head.status != 101);
	if (taken == ERR_NEED_MORE && !ended)
		return taken;
	if (taken < 0) {
		finish(ask, 503, ended ? "the application closed the connection" : "this is not HTTP");
		return 0;
	}
	// Some of the body is taken, as the kubelet would: an application may take offence at a reset.
	struct http1_body body;
	bool done = false;
	http1_body_init(&body, &head);
	if (!http1_body_done(&body) && !ended && bytes.len < LIMIT_PROBE_BODY &&
	    http1_body_walk(&body, bytes, &done, &fault) >= 0 && !done)
		return ERR_NEED_MORE;
	take_response(ask, &head);
	return 0;
}

// --- gRPC -------------------------------------------------------------------------------------------------
static int read_grpc(struct probe_ask *ask, bool ended)
{
	uint16_t status = 503;
	const char *why = "the application closed the connection";
	int err = grpc_check_receive(ask->grpc, strbuf_str(&ask->in), &status, &why);
	strbuf_clear(&ask->in);
	if (err == ERR_NEED_MORE && !ended)
		return grpc_check_send(ask->grpc, &ask->out) ? -ENOMEM : err;
	if (err && err != ERR_NEED_MORE)
		finish(ask, 503, "this is not gRPC");
	else
		finish(ask, status, why);
	return 0;
}

// --- bytes ------------------------------------------------------------------------------------------------
static int send_out(struct probe_ask *ask)
{
	while (ask->sent < ask->out.len) {
		int n = wire_write(&ask->wire, ask->out.p + ask->sent, ask->out.len - ask->sent);
		if (n < 0)
			return n;
		ask->sent += (size_t)n;
	}
	return 0;
}

// 0: it is over; ERR_NEED_MORE; or another error.
static int receive_in(struct probe_ask *ask)
{
	for (;;) {
		char *room = strbuf_reserve(&ask->in, READ_ROOM);
		int n = room ? wire_read(&ask->wire, room, READ_ROOM) : -ENOMEM;
		if (n < 0 && n != ERR_EOF)
			return n;
		if (n > 0) {
			ask->in.len += (size_t)n;
			ask->in.p[ask->in.len] = 0;
		}
		int err = ask->grpc ? read_grpc(ask, n == ERR_EOF) : read_response(ask, n == ERR_EOF);
		if (err != ERR_NEED_MORE)
			return err;
		err = send_out(ask);
		if (err && err != ERR_NEED_MORE)
			return err;
	}
}

static void on_socket(struct loop_io *io, uint32_t events)
{
	struct probe_ask *ask = container_of(io, struct probe_ask, io);
	int err = ask->connected ? 0 : sock_error(ask->wire.fd);
	if (!err && !ask->connected && !(events & EPOLLOUT))
		return;
	if (!err && !ask->connected && ask->probe.kind == PROBE_TCP) {
		finish(ask, 200, "connected");
		return;
	}
	ask->connected = true;
	if (!err)
		err = send_out(ask);
	if (!err || err == ERR_NEED_MORE)
		err = receive_in(ask);
	if (err && err != ERR_NEED_MORE)
		finish(ask, 503, err_text(err));
}

// --- the beginning ----------------------------------------------------------------------------------------
static int begin(struct probe_ask *ask)
{
	const struct probe_question *question = &ask->question;
	const struct sock_options options = {.mark = question->mark};
	int fd;
	ask->connected = false;
	ask->sent = 0;
	strbuf_clear(&ask->out);
	strbuf_clear(&ask->in);
	if (ask->grpc && grpc_check_send(ask->grpc, &ask->out))
		return -ENOMEM;
	if (ask->probe.kind == PROBE_HTTP || ask->probe.kind == PROBE_HTTPS)
		write_request(ask);
	if (ask->out.failed || ask->authority.failed || ask->target.failed || ask->fields.failed)
		return -ENOMEM;
	int err = sock_connect(&question->where, &options, &fd);
	if (err)
		return err;
	err = wire_init(&ask->wire, fd, ask->probe.kind == PROBE_HTTPS ? question->tls : NULL, false);
	if (!err)
		err = loop_io_add(ask->loop, &ask->io, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, on_socket);
	if (err) {
		wire_done(&ask->wire);
		ask->wire.fd = -1;
		close(fd);
	}
	return err;
}

static int prepare(struct probe_ask *ask)
{
	char text[ADDR_TEXT_MAX];
	struct str authority = str_from(addr_format(&ask->question.where, text));
	if (ask->probe.kind == PROBE_GRPC)
		return grpc_check_new(authority, ask->probe.target, &ask->grpc);
	if (ask->probe.kind != PROBE_TCP)
		keep_fields(ask, &ask->question);
	strbuf_add_str(&ask->target, ask->probe.target);
	return 0;
}

int probe_ask_new(struct loop *loop, const struct probe_question *question, struct probe_ask **ret_ask)
{
	struct probe_ask *ask = mem_zalloc(sizeof *ask);
	if (!ask)
		return -ENOMEM;
	*ask =
	    (struct probe_ask){.loop = loop, .question = *question, .probe = *question->probe, .wire.fd = -1};
	loop_timer_init(&ask->timer, on_timeout);
	int err = prepare(ask);
	if (!err)
		err = begin(ask);
	ask->question.head = NULL;
	if (err) {
		ask_free(&ask->task);
		return err;
	}
	loop_timer_start(loop, &ask->timer, LIMIT_PROBE_MS);
	*ret_ask = ask;
	return 0;
}
