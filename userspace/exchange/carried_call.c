// SPDX-License-Identifier: Apache-2.0
#include "exchange/carried_call.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/log.h"
#include "exchange/framed_server.h"
#include "exchange/transport.h"
#include "run/stats.h"

#include <errno.h>

// --- the answer ---------------------------------------------------------------------------------------------
static int measure_answer(struct call *call, struct frame *ret_frame)
{
	struct exchange *exchange = call->carrier;
	struct bufq *in = &exchange->response_in;
	uint64_t limit = call->snapshot->model->max_frame_bytes;
	int err = frames_measure(exchange->codec, in, limit, ret_frame);
	if (!err && (ret_frame->kind != FRAME_RESPONSE || ret_frame->id != call->frame.id ||
		     in->bytes > ret_frame->length))
		err = ERR_MALFORMED;
	return err;
}

static int pass_piece(struct call *call, struct bufq *bytes)
{
	struct framed_server *server = call->server;
	if (bytes->bytes > call->answer_left)
		return ERR_MALFORMED;
	call->answer_left -= bytes->bytes;
	framed_server_send(server, call, bytes);
	if (!call->answer_left)
		framed_server_answered(server);
	return 0;
}

// From here on nobody else's answer goes to the client until this one is through.
static void begin_pieces(struct call *call, const struct frame *frame)
{
	call_note_answer(call, frame);
	call->answered = true;
	call->answer_left = frame->length;
	call->server->answering = call;
	loop_timer_stop(&call->timer);
	pass_piece(call, &call->carrier->response_in);
}

// Looks at what is there of an answer. 0, or a negative error: it is none.
static int look(struct call *call)
{
	struct frame frame;
	int err = measure_answer(call, &frame);
	if (err)
		return err == ERR_NEED_MORE ? 0 : err;
	call->lengthy = !frame_is_whole(&frame);
	if (call->lengthy && !call->server->answering)
		begin_pieces(call, &frame);
	return 0;
}

static void log_refusal(const struct call *call, int err)
{
	const struct exchange *exchange = call->carrier;
	stats_inc(STAT_RPC_REFUSED);
	log_warn("a sidecar sent an answer that cannot be read",
		 LOG_ADDR("endpoint", &exchange->endpoint->addr),
		 LOG_STR("cluster", exchange->cluster->name), LOG_TEXT("protocol", exchange->codec->name),
		 LOG_ERR(err));
}

// The stream has ended: all that there is of the answer is here.
static void deliver(struct call *call)
{
	struct bufq *in = &call->carrier->response_in;
	struct frame frame;
	int err = measure_answer(call, &frame);
	bool whole = !err && in->bytes == frame.length;
	if (whole)
		err = frames_check(&frame, in);
	if (err || !whole) {
		log_refusal(call, err ? err : ERR_NEED_MORE);
		call_fail(call, whole ? RPC_MALFORMED : RPC_LOST, EXCHANGE_UPSTREAM_PROTOCOL);
		return;
	}
	call_note_answer(call, &frame);
	framed_server_send(call->server, call, in);
	call_complete(call);
}

// --- failures -----------------------------------------------------------------------------------------------
// What the far end says instead of an answer.
static enum rpc_failure failure_of_status(unsigned status)
{
	switch (status) {
	case 503:
		return RPC_UNAVAILABLE;
	case 504:
		return RPC_TIMEOUT;
	case 403:
		return RPC_NO_ROUTE;
	default:
		return status / 100 == 4 ? RPC_MALFORMED : RPC_LOST;
	}
}

static enum rpc_failure failure_of(const struct exchange *exchange)
{
	switch (exchange->flag) {
	case EXCHANGE_OK:
		return failure_of_status(exchange->status);
	case EXCHANGE_NO_ENDPOINT:
	case EXCHANGE_CONNECT_FAILED:
	case EXCHANGE_UPSTREAM_REFUSED:
		return RPC_UNAVAILABLE;
	case EXCHANGE_OVERLOADED:
		return RPC_OVERLOADED;
	default:
		return RPC_LOST;
	}
}

// What comes behind an answer changes nothing for its caller.
static void fail(struct call *call)
{
	const struct exchange *exchange = call->carrier;
	enum exchange_flag flag = exchange->flag ? exchange->flag : EXCHANGE_UPSTREAM_REFUSED;
	if (call->answered && !call->answer_left)
		call_complete(call);
	else
		call_fail(call, failure_of(exchange), flag);
}

// --- towards the exchange -----------------------------------------------------------------------------------
static int server_interim(struct exchange *exchange, const struct message *message)
{
	(void)exchange, (void)message;
	return 0;
}

static int server_head(struct exchange *exchange, const struct message *message)
{
	(void)exchange, (void)message;
	return 0;
}

// A refusal in words means nothing to this client.
static int server_body(struct exchange *exchange, struct bufq *bytes)
{
	struct call *call = exchange->call;
	if (exchange->status != 200) {
		bufq_clear(bytes);
		return 0;
	}
	int err = 0;
	if (call->answered)
		err = pass_piece(call, bytes);
	else if (!call_awaits_answer(call))
		err = ERR_MALFORMED;
	else
		err = frames_keep_all(&exchange->response_in, bytes);
	if (!err && !call->answered)
		err = look(call);
	if (err)
		log_refusal(call, err);
	return err;
}

static int server_trailers(struct exchange *exchange, const struct field *fields, size_t count)
{
	(void)exchange, (void)fields, (void)count;
	return 0;
}

static void server_half_close(struct exchange *exchange)
{
	(void)exchange;
}

static void server_complete(struct exchange *exchange)
{
	struct call *call = exchange->call;
	bool answers = exchange->status == 200 && call_awaits_answer(call);
	bool ends = exchange->status == 204 && !call_awaits_answer(call);
	if (exchange->flag || !(answers || ends))
		fail(call);
	else if (ends)
		call_finish(call);
	else if (!call->answered)
		deliver(call);
	else if (call->answer_left)
		call_fail(call, RPC_LOST, EXCHANGE_UPSTREAM_TERMINATED);
	else
		call_complete(call);
}

static int server_reply(struct exchange *exchange, unsigned status, const char *text)
{
	(void)exchange, (void)status, (void)text;
	return 0; // by its flag, when it is complete
}

static void server_reset(struct exchange *exchange)
{
	fail(exchange->call);
}

static void leave_queue(struct call *call)
{
	struct framed_server *server = call->server;
	if (!call->queued)
		return;
	call->queued = false;
	bool full = server->waiting_bytes >= LIMIT_RPC_WAITING_BYTES;
	server->waiting_bytes -= (size_t)call->frame.length;
	if (full)
		framed_server_resume(server);
}

// There is a stream, it takes more, or (of a whole frame) everything was sent.
static void server_resume(struct exchange *exchange)
{
	struct call *call = exchange->call;
	if (exchange->up.end_sent)
		leave_queue(call);
	else if (!frame_is_whole(&call->frame))
		framed_server_resume(call->server);
}

static bool server_congested(struct exchange *exchange)
{
	const struct call *call = exchange->call;
	return call->answered ? framed_server_congested(call->server) : call->lengthy;
}

static void server_detach(struct exchange *exchange)
{
	(void)exchange;
}

static const struct exchange_server carried_server = {
    .interim = server_interim,
    .head = server_head,
    .body = server_body,
    .trailers = server_trailers,
    .half_close = server_half_close,
    .complete = server_complete,
    .reply = server_reply,
    .reset = server_reset,
    .resume = server_resume,
    .congested = server_congested,
    .detach = server_detach,
};

// --- for calls ----------------------------------------------------------------------------------------------
static int make_carrier(struct call *call, const struct head *head)
{
	struct framed_server *server = call->server;
	struct exchange *exchange = exchange_new(server->connection, &carried_server);
	if (!exchange)
		return -ENOMEM;
	call->carrier = exchange;
	server->carried_count++;
	exchange->call = call;
	exchange->codec = server->codec;
	exchange->silent = true;
	exchange_carry(exchange, call->host, call->route, call->cluster, server->codec->protocol,
		       STR("POST"));
	return transport_describe_call(exchange, call, head);
}

void carried_call_start(struct call *call, const struct head *head)
{
	struct framed_server *server = call->server;
	if (make_carrier(call, head)) {
		call_fail(call, RPC_OVERLOADED, EXCHANGE_OVERLOADED);
		return;
	}
	struct exchange *exchange = call->carrier;
	exchange->request = call->request;
	call->request = (struct bufq){0};
	exchange->request_done = call->queued = frame_is_whole(&call->frame);
	if (call->queued) {
		server->waiting_bytes += (size_t)call->frame.length;
	} else {
		server->expected = NULL;
		server->carrying = call;
	}
	exchange_start(exchange);
}

void carried_call_send_rest(struct call *call, struct bufq *bytes)
{
	struct framed_server *server = call->server;
	if (!server->rest.bytes) {
		server->carrying = NULL;
		call->carrier->request_done = true;
		framed_server_resume(server);
	}
	exchange_send(call->carrier, bytes);
}

static struct call *next_lengthy(struct framed_server *server)
{
	list_for_each (node, &server->calls) {
		struct call *call = container_of(node, struct call, node);
		if (call->carrier && call->lengthy && !call->answered)
			return call;
	}
	return NULL;
}

void carried_call_resume(struct framed_server *server)
{
	struct call *call = server->answering ? server->answering : next_lengthy(server);
	struct frame frame;
	if (!call || !call->carrier || framed_server_congested(server))
		return;
	if (!call->answered && measure_answer(call, &frame) == 0)
		begin_pieces(call, &frame);
	call->carrier->client->resume(call->carrier);
}

void carried_call_forget(struct call *call)
{
	struct exchange *exchange = call->carrier;
	if (!exchange)
		return;
	leave_queue(call);
	call->carrier = NULL;
	if (call->server->carried_count-- == LIMIT_RPC_CARRIED)
		framed_server_resume(call->server);
	exchange_abort(exchange, EXCHANGE_DOWNSTREAM_GONE);
}
