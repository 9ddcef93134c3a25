// SPDX-License-Identifier: Apache-2.0
#include "exchange/call_stream.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http2_codes.h"
#include "exchange/framed_server.h"
#include "exchange/framed_upstream.h"
#include "exchange/transport.h"

#include <errno.h>

static const struct exchange_client stream_client;

static struct loop *loop_of(const struct framed_server *server)
{
	return server->connection->dataplane->loop;
}

// --- the frame ----------------------------------------------------------------------------------------------
static unsigned status_of(int err)
{
	switch (err) {
	case ERR_LIMIT:
		return 413;
	case -ETIMEDOUT:
		return 408;
	case -ENOMEM:
		return 503;
	default:
		return 400;
	}
}

// The server is over with this, but for its memory.
static void refuse(struct framed_server *server, int err)
{
	framed_server_refused(server, err);
	exchange_reply(server->exchange, status_of(err), "this is not one request frame",
		       EXCHANGE_DOWNSTREAM_PROTOCOL);
}

static void wait_for_piece(struct framed_server *server)
{
	const struct timeouts *timeouts = &dataplane_model(server->connection->dataplane)->timeouts;
	loop_timer_start(loop_of(server), &server->exchange->timer,
			 server->begun ? timeouts->idle_ms : timeouts->head_ms);
}

// A frame that is held begins when the stream has ended: then it is known that there is no other.
static int begin(struct framed_server *server)
{
	struct exchange *exchange = server->exchange;
	uint64_t limit = exchange->snapshot->model->max_frame_bytes;
	struct frame frame;
	int err = frames_measure(server->codec, &server->in, limit, &frame);
	if (!err && (frame.kind != server->kind || server->in.bytes > frame.length))
		err = ERR_MALFORMED;
	if (!err && (server->in.bytes < frame_wanted(&frame) ||
		     (frame_is_whole(&frame) && !exchange->request_done)))
		err = ERR_NEED_MORE;
	if (err)
		return err == ERR_NEED_MORE && exchange->request_done ? ERR_MALFORMED : err;
	server->begun = exchange->silent = true; // its call is logged
	if (frame_is_whole(&frame))
		loop_timer_stop(&exchange->timer);
	else
		wait_for_piece(server);
	err = call_start(server, &frame, &server->in);
	return server->exchange ? err : 0;
}

static void end_oneway(struct framed_server *server);

// All of the request was passed on. A call that nobody answers may have ended before that.
static void taken(struct framed_server *server)
{
	loop_timer_stop(&server->exchange->timer);
	if (!server->call_count)
		end_oneway(server);
}

static int go_on(struct framed_server *server)
{
	bool ended = server->exchange->request_done;
	if (!server->rest.bytes && !bufq_empty(&server->in))
		return ERR_MALFORMED;
	if (!server->rest.bytes) {
		if (ended)
			taken(server);
		return ERR_NEED_MORE;
	}
	int err = framed_server_take_rest(server);
	return err == ERR_NEED_MORE && ended ? ERR_MALFORMED : err;
}

static bool may_go_on(const struct framed_server *server)
{
	return server->exchange && !server->expected && list_empty(&server->blocked);
}

static void pump(struct framed_server *server)
{
	int err = 0;
	while (!err && may_go_on(server))
		err = server->begun ? go_on(server) : begin(server);
	if (server->exchange && err && err != ERR_NEED_MORE)
		refuse(server, err);
}

static void on_late(struct loop_timer *timer)
{
	struct framed_server *server = container_of(timer, struct exchange, timer)->framed;
	if (may_go_on(server))
		refuse(server, -ETIMEDOUT);
	else
		wait_for_piece(server); // the application keeps it waiting
}

// --- the link -----------------------------------------------------------------------------------------------
static void link_resume(struct framed_server *server);

static int send_head(struct framed_server *server, unsigned status, bool end)
{
	char digits[8];
	struct exchange *exchange = server->exchange;
	const struct call *call = list_empty(&server->calls)
				      ? NULL
				      : container_of(server->calls.next, struct call, node);
	struct field field = transport_status(call ? call->status : 0, digits);
	struct message message = {
	    .head = {.status = (uint16_t)status, .fields = &field, .field_count = call != NULL}, .end = end};
	exchange->status = (uint16_t)status;
	exchange->response_started = true;
	return exchange->server->head(exchange, &message);
}

static void link_write(struct framed_server *server, struct bufq *bytes)
{
	struct exchange *exchange = server->exchange;
	if (!exchange || bufq_empty(bytes)) {
		bufq_clear(bytes);
		return;
	}
	if (!exchange->response_started && send_head(server, 200, false)) {
		server->broken = true;
		link_resume(server);
	}
	exchange->response_bytes += bytes->bytes;
	exchange->server->body(exchange, bytes);
}

static bool link_congested(struct framed_server *server)
{
	return server->exchange && server->exchange->server->congested(server->exchange);
}

static size_t link_queued(const struct framed_server *server)
{
	return server->exchange ? server->exchange->down.out.bytes : 0;
}

static uint64_t link_sent(const struct framed_server *server)
{
	return server->exchange ? server->exchange->down.moved : 0;
}

static void link_reset(struct framed_server *server)
{
	struct exchange *exchange = server->exchange;
	if (!exchange)
		return;
	exchange->reset_code = HTTP2_INTERNAL_ERROR;
	exchange_reply(exchange, 502, "the answer cannot be completed", EXCHANGE_UPSTREAM_TERMINATED);
}

static void resume(struct loop_task *task)
{
	struct framed_server *server = container_of(task, struct framed_server, task);
	if (server->exchange && server->broken)
		link_reset(server);
	if (!server->exchange)
		return;
	pump(server);
	if (server->exchange)
		server->exchange->server->resume(server->exchange);
}

static void link_resume(struct framed_server *server)
{
	if (server->exchange)
		loop_defer(loop_of(server), &server->task, resume);
}

static void end_oneway(struct framed_server *server)
{
	if (send_head(server, 204, true))
		link_reset(server);
	else
		exchange_complete(server->exchange);
}

static unsigned status_of_flag(uint8_t flag)
{
	switch (flag) {
	case EXCHANGE_NO_ENDPOINT:
	case EXCHANGE_CONNECT_FAILED:
	case EXCHANGE_OVERLOADED:
		return 503;
	case EXCHANGE_TIMEOUT:
		return 504;
	case EXCHANGE_DOWNSTREAM_PROTOCOL:
		return 400;
	default:
		return 502;
	}
}

static void link_call_over(struct framed_server *server, const struct call *call)
{
	struct exchange *exchange = server->exchange;
	if (!exchange)
		return;
	if (exchange->response_started && !server->broken)
		exchange_complete(exchange);
	else if (call_awaits_answer(call) || call->flag || server->broken)
		exchange_reply(exchange, status_of_flag(call->flag), "there is no answer to this call",
			       call->flag ? call->flag : EXCHANGE_UPSTREAM_TERMINATED);
	else if (!server->rest.bytes)
		end_oneway(server);
}

static const struct framed_link stream_link = {.write = link_write,
					       .congested = link_congested,
					       .queued = link_queued,
					       .sent = link_sent,
					       .resume = link_resume,
					       .reset = link_reset,
					       .call_over = link_call_over};

// --- towards the exchange -----------------------------------------------------------------------------------
static bool client_ready(const struct exchange *exchange)
{
	(void)exchange;
	return true;
}

static bool client_congested(struct exchange *exchange)
{
	return exchange->framed && !may_go_on(exchange->framed);
}

static void client_send(struct exchange *exchange, struct bufq *bytes)
{
	struct framed_server *server = exchange->framed;
	if (!server) {
		bufq_clear(bytes); // answered already
		return;
	}
	if (server->begun && server->rest.bytes)
		wait_for_piece(server);
	if (frames_keep_all(&server->in, bytes))
		refuse(server, -ENOMEM);
	else
		pump(server);
}

static void client_resume(struct exchange *exchange)
{
	if (exchange->framed)
		framed_server_drained(exchange->framed);
}

static void server_free(struct loop_task *task)
{
	struct framed_server *server = container_of(task, struct framed_server, free_task);
	pool_put(&server->connection->dataplane->framed_server_pool, server);
}

static void client_release(struct exchange *exchange, enum release how)
{
	struct framed_server *server = exchange->framed;
	(void)how;
	if (!server)
		return;
	exchange->framed = NULL;
	server->exchange = NULL;
	if (!list_empty(&server->calls))
		container_of(server->calls.next, struct call, node)->flag = exchange->flag;
	framed_server_done(server);
	loop_defer(loop_of(server), &server->free_task, server_free);
}

static const struct tls_conn *client_tls(const struct exchange *exchange)
{
	(void)exchange;
	return NULL;
}

// No attempts are made here: endpoints are its call's business.
static const struct exchange_client stream_client = {
    .ready = client_ready,
    .congested = client_congested,
    .send = client_send,
    .resume = client_resume,
    .release = client_release,
    .tls = client_tls,
};

// --- beginning ----------------------------------------------------------------------------------------------
void call_stream_start(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	struct framed_server *server = pool_zget(&connection->dataplane->framed_server_pool);
	exchange->method = exchange->message.head.method;
	exchange->authority = exchange->message.head.authority;
	exchange->path = exchange->message.head.path;
	if (!server) {
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_OVERLOADED);
		return;
	}
	framed_server_init(server, connection, exchange->codec, &stream_link);
	server->exchange = exchange;
	exchange->framed = server;
	exchange->client = &stream_client;
	exchange->timer.fn = on_late;
	int err = transport_read_call(&exchange->message.head, &server->kind, &server->timeout_ms);
	if (!err && exchange->request_done)
		err = ERR_MALFORMED; // no body
	if (err)
		refuse(server, err);
	else
		wait_for_piece(server);
}
