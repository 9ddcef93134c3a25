// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_client.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "codecs/http2.h"
#include "codecs/http2_codes.h"
#include "exchange/http2_session.h"
#include "exchange/transport.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

// One connection. It is in its endpoint's list while it takes new streams.
struct http2_client {
	struct http2_session session;
	struct upstream *upstream; // NULL: closed
	struct list node;	   // endpoint->shared
	struct list all;	   // dataplane->http2_clients
	struct list waiting;	   // exchanges (their up.node) that have no stream yet
	unsigned waiting_count;
	struct loop_timer timer; // without streams: to stay idle; with: to ask whether the peer is there
	struct loop_task free_task;
	uint64_t asked_ns; // when the last PING was sent
	uint8_t asks;	   // how many were, since the endpoint last responded
	bool ready : 1;	   // connected, and the session exists
	bool asked : 1;	   // a PING is under way
	bool closing : 1;
	bool served : 1; // a response has come
	bool transport : 1;
};

static const struct upstream_ops upstream_ops;
static const struct http2_session_ops session_ops;

static struct http2_client *of_session(struct http2_session *session)
{
	return container_of(session, struct http2_client, session);
}

static struct exchange *of_stream(struct http2_stream *stream)
{
	return container_of(stream, struct exchange, up);
}

static struct dataplane *dataplane_of(const struct http2_client *client)
{
	return client->upstream->dataplane;
}

// --- the end of a connection --------------------------------------------------------------------------------
static void client_free(struct loop_task *task)
{
	struct http2_client *client = container_of(task, struct http2_client, free_task);
	struct dataplane *dataplane = dataplane_of(client);
	http2_session_done(&client->session);
	pool_put(&dataplane->http2_client_pool, client);
}

static void leave_list(struct http2_client *client)
{
	if (list_empty(&client->node))
		return;
	list_del(&client->node);
	client->upstream->endpoint->shared_count--;
}

// Nobody uses it any more (or never will).
static void client_close(struct http2_client *client)
{
	if (client->closing)
		return;
	client->closing = true;
	client->session.over = true;
	leave_list(client);
	list_del(&client->all);
	loop_timer_stop(&client->timer);
	// In front of upstream's own deferred task, which frees what dataplane_of looks at.
	loop_defer(dataplane_of(client)->loop, &client->free_task, client_free);
	upstream_close(client->upstream);
}

static bool is_unused(const struct http2_client *client)
{
	return list_empty(&client->session.streams) && list_empty(&client->waiting);
}

static void stop_waiting(struct exchange *exchange)
{
	list_del(&exchange->up.node);
	exchange->shared->waiting_count--;
	exchange->shared->upstream->endpoint->shared_waiting--;
}

static void fail_stream(struct exchange *exchange, enum exchange_flag flag, int err)
{
	exchange->shared = NULL;
	exchange_upstream_failed(exchange, flag, err);
}

// The connection is lost, or could not be made: everything on it fails, each on its own terms. Taken out of
// the list first, so that nothing is tried on it again.
static void client_lost(struct http2_client *client, enum exchange_flag flag, int err)
{
	leave_list(client);
	while (!list_empty(&client->session.streams)) {
		struct http2_stream *stream =
		    container_of(client->session.streams.next, struct http2_stream, node);
		http2_stream_detach(stream);
		fail_stream(of_stream(stream), EXCHANGE_UPSTREAM_TERMINATED, err);
	}
	while (!list_empty(&client->waiting)) {
		struct http2_stream *stream = container_of(client->waiting.next, struct http2_stream, node);
		stop_waiting(of_stream(stream));
		fail_stream(of_stream(stream),
			    flag == EXCHANGE_CONNECT_FAILED ? flag : EXCHANGE_UPSTREAM_REFUSED, err);
	}
	client_close(client);
}

static bool is_outdated(const struct http2_client *client)
{
	const struct tls_conn *tls = client->upstream->stream.tls;
	return client->upstream->endpoint->retired ||
	       (tls && tls_conn_context(tls) != dataplane_of(client)->tls);
}

// --- timers -------------------------------------------------------------------------------------------------
static void on_timer(struct loop_timer *timer);

static void watch(struct http2_client *client)
{
	uint32_t pool_ms = dataplane_model(dataplane_of(client))->timeouts.pool_idle_ms;
	bool idle = is_unused(client) && client->session.received;
	loop_timer_start(dataplane_of(client)->loop, &client->timer, idle ? pool_ms : LIMIT_HTTP2_PING_MS);
}

// The first stream after a while without: how long nothing came before it says nothing.
static void watch_anew(struct http2_client *client)
{
	if (!client->session.received)
		return; // it was silent while it was used: there is doubt already
	client->session.received = false;
	client->asked = false;
	watch(client);
}

// Servers of gRPC count PINGs less than five minutes apart, with no response of theirs between them, and end
// the connection at the third.
static bool may_ask(struct http2_client *client)
{
	uint64_t now = loop_now(dataplane_of(client)->loop);
	if (client->session.responded)
		client->asks = 0;
	return client->asks < LIMIT_HTTP2_PINGS_EARLY ||
	       now - client->asked_ns >= LIMIT_HTTP2_PING_AGAIN_MS * NS_PER_MS;
}

static void ask(struct http2_client *client)
{
	client->asked = may_ask(client);
	if (!client->asked)
		return;
	client->asked_ns = loop_now(dataplane_of(client)->loop);
	client->asks = MIN(client->asks + 1, LIMIT_HTTP2_PINGS_EARLY);
	client->session.responded = false;
	http2_session_ping(&client->session);
}

// Streams may come and go (cancelled, or out of time) without a word from the endpoint: it is asked then,
// too.
static void watch_unused(struct http2_client *client)
{
	if (!client->session.received && client->asked)
		return;
	client->asked = false;
	if (!client->session.received)
		ask(client);
	watch(client);
}

static void on_timer(struct loop_timer *timer)
{
	struct http2_client *client = container_of(timer, struct http2_client, timer);
	bool heard = client->session.received;
	if (!heard && client->asked) {
		stats_inc(STAT_HTTP2_PING_TIMEOUTS);
		client_lost(client, EXCHANGE_UPSTREAM_TERMINATED, -ETIMEDOUT);
		return;
	}
	if (heard && is_unused(client)) {
		http2_session_terminate(&client->session, HTTP2_NO_ERROR);
		leave_list(client);
		return;
	}
	client->asked = false;
	if (!heard)
		ask(client);
	client->session.received = false;
	watch(client);
}

// --- streams ------------------------------------------------------------------------------------------------
static bool has_room(const struct http2_client *client)
{
	uint32_t max =
	    client->ready ? http2_session_max_streams(&client->session) : LIMIT_HTTP2_STREAMS_ASSUMED;
	unsigned used = client->waiting_count + (client->ready ? client->session.open_count : 0);
	return used < max;
}

enum { REQUEST_FIELDS = LIMIT_HTTP_HEADERS + HTTP2_PSEUDO_MAX + TRANSPORT_FIELDS };

// What the transport says itself, nobody else does.
static size_t drop_own(struct field *fields, size_t count)
{
	size_t kept = 0;
	for (size_t i = 0; i < count; i++)
		if (!transport_owns(&fields[i]))
			fields[kept++] = fields[i];
	return kept;
}

static size_t request_fields(const struct exchange *exchange, struct field *fields)
{
	size_t n = http2_request_pseudo(&exchange->message, fields);
	if (exchange->transport)
		fields[n++] = transport_field(exchange);
	size_t count = http2_message_fields(&exchange->message, fields + n, REQUEST_FIELDS - n);
	return n + (exchange->transport ? drop_own(fields + n, count) : count);
}

// Sends the request's head, and what waits behind it. 0 or a negative error.
static int begin(struct http2_client *client, struct exchange *exchange)
{
	struct field fields[REQUEST_FIELDS];
	struct bufq bytes = exchange->request;
	bool idle = list_empty(&client->session.streams);
	bool end = exchange->request_done && !exchange->wants_tunnel && bufq_empty(&bytes) &&
		   !exchange->request_trailer_count;
	int err = exchange->transport ? transport_address(exchange) : 0;
	if (err)
		return err;
	size_t n = request_fields(exchange, fields);
	err = http2_stream_open(&client->session, &exchange->up, fields, n, end);
	if (err)
		return err;
	if (idle)
		watch_anew(client);
	if (exchange->endpoint && client->served)
		stats_inc(STAT_UPSTREAM_REUSED);
	exchange->request = (struct bufq){0};
	exchange->kept = true;
	if (exchange->wants_tunnel)
		return 0;
	if (bytes.bytes || exchange->request_done)
		exchange_send(exchange, &bytes);
	if (!exchange->request_done)
		exchange->server->resume(exchange);
	return 0;
}

// Before the endpoint has said how many streams it takes, one goes ahead; but not one that asks for a change
// of protocols, which the endpoint has to allow (RFC 8441 3). An endpoint that does not read gets no more
// heads.
static bool may_begin(const struct http2_client *client, const struct exchange *exchange)
{
	const struct http2_session *session = &client->session;
	if (!client->ready || session->open_count >= http2_session_max_streams(session) ||
	    http2_session_congested(session))
		return false;
	return session->has_settings || (session->open_count == 0 && !exchange->message.upgrade.len);
}

static void begin_or_fail(struct http2_client *client, struct exchange *exchange)
{
	if (exchange->message.upgrade.len && !http2_session_takes_connect(&client->session)) {
		exchange->shared = NULL;
		exchange_reply(exchange, 501, "the upstream takes no change of protocols",
			       EXCHANGE_UPSTREAM_PROTOCOL);
	} else if (begin(client, exchange)) {
		fail_stream(exchange, EXCHANGE_UPSTREAM_REFUSED, ERR_CLOSED);
	}
}

static void wait_for_room(struct http2_client *client, struct exchange *exchange)
{
	exchange->shared = client;
	exchange->kept = true; // nothing was sent
	list_append(&client->waiting, &exchange->up.node);
	client->waiting_count++;
	client->upstream->endpoint->shared_waiting++;
}

static void serve_waiting(struct http2_client *client)
{
	while (!list_empty(&client->waiting) && !client->closing) {
		struct http2_stream *stream = container_of(client->waiting.next, struct http2_stream, node);
		struct exchange *exchange = of_stream(stream);
		if (!http2_session_usable(&client->session)) {
			stop_waiting(exchange);
			fail_stream(exchange, EXCHANGE_UPSTREAM_REFUSED, ERR_CLOSED);
			continue;
		}
		if (!may_begin(client, exchange))
			return;
		stop_waiting(exchange);
		begin_or_fail(client, exchange);
	}
}

// --- connections --------------------------------------------------------------------------------------------
static struct http2_client *client_new(struct dataplane *dataplane)
{
	struct http2_client *client = pool_zget(&dataplane->http2_client_pool);
	if (!client)
		return NULL;
	list_init(&client->node);
	list_init(&client->all);
	list_init(&client->waiting);
	list_init(&client->session.streams);
	list_init(&client->session.drained);
	loop_timer_init(&client->timer, on_timer);
	return client;
}

// From here on the connection is found by others.
static void enlist(struct http2_client *client)
{
	struct endpoint_state *endpoint = client->upstream->endpoint;
	list_prepend(&endpoint->shared, &client->node);
	endpoint->shared_count++;
	list_append(&dataplane_of(client)->http2_clients, &client->all);
}

static int client_connect(struct dataplane *dataplane, const struct upstream_target *target,
			  struct http2_client **ret_client)
{
	struct http2_client *client = client_new(dataplane);
	if (!client)
		return -ENOMEM;
	int err = upstream_connect(dataplane, target, &upstream_ops, client, &client->upstream);
	if (err) {
		pool_put(&dataplane->http2_client_pool, client);
		return err;
	}
	client->transport = target->transport;
	enlist(client);
	*ret_client = client;
	return 0;
}

static bool fits(const struct http2_client *client, const struct upstream_target *target)
{
	const struct upstream *upstream = client->upstream;
	return (upstream->stream.tls != NULL) == target->tls && client->transport == target->transport &&
	       upstream_side_eq(&upstream->side, &target->side) && !is_outdated(client) &&
	       (!client->ready || http2_session_usable(&client->session));
}

// One with room, or else (*ret_full) the one with the fewest that wait. NULL: none.
static struct http2_client *find(const struct upstream_target *target, struct http2_client **ret_full)
{
	struct http2_client *full = NULL;
	list_for_each (node, &target->endpoint->shared) {
		struct http2_client *client = container_of(node, struct http2_client, node);
		if (!fits(client, target))
			continue;
		if (has_room(client))
			return client;
		if (!full || client->waiting_count < full->waiting_count)
			full = client;
	}
	*ret_full = full;
	return NULL;
}

static int client_start(struct exchange *exchange, const struct upstream_target *target)
{
	struct http2_client *full = NULL, *client = find(target, &full);
	if (!client && full && target->endpoint->shared_count >= LIMIT_HTTP2_CONNECTIONS) {
		if (target->endpoint->shared_waiting >= LIMIT_HTTP2_WAITING)
			return ERR_LIMIT;
		client = full;
	}
	if (!client) {
		int err = client_connect(exchange->connection->dataplane, target, &client);
		if (err)
			return err;
	}
	if (!may_begin(client, exchange)) {
		wait_for_room(client, exchange);
		return 0;
	}
	exchange->shared = client;
	begin_or_fail(client, exchange);
	return 0;
}

static void read_frames(struct http2_client *client)
{
	int n = http2_session_read(&client->session);
	if (n < 0 && n != ERR_NEED_MORE && n != ERR_MALFORMED && !client->closing)
		client_lost(client, EXCHANGE_UPSTREAM_TERMINATED, n);
}

// The endpoint takes fewer at once than wait here: some go to other connections. Each is taken off once at
// most, so that this ends.
static void spread(struct http2_client *client)
{
	unsigned waiting = client->waiting_count;
	while (waiting-- && !client->closing && !has_room(client) &&
	       client->upstream->endpoint->shared_count < LIMIT_HTTP2_CONNECTIONS) {
		struct exchange *exchange =
		    of_stream(container_of(client->waiting.prev, struct http2_stream, node));
		struct upstream_target target = {client->upstream->endpoint, exchange->cluster,
						 client->upstream->side, client->upstream->stream.tls != NULL,
						 client->transport};
		stop_waiting(exchange);
		exchange->shared = NULL;
		int err = client_start(exchange, &target);
		if (err)
			exchange_upstream_failed(exchange, EXCHANGE_CONNECT_FAILED, err);
	}
}

// Nothing else is tried: what would ride there is not meant for a peer that takes it for something else.
static bool is_refused(const struct http2_client *client)
{
	const struct upstream *upstream = client->upstream;
	if (!client->transport || str_eq(tls_conn_alpn(upstream->stream.tls), STR(TLS_ALPN_TRANSPORT)))
		return false;
	stats_inc(STAT_TRANSPORT_REFUSED);
	log_warn("the peer does not take \"transport: h2\"", LOG_ADDR("endpoint", &upstream->endpoint->addr),
		 LOG_STR("cluster", upstream->endpoint->cluster_name),
		 LOG_STR("tls_peer", tls_conn_peer_id(upstream->stream.tls)));
	return true;
}

static void session_begin(struct http2_client *client)
{
	if (is_refused(client)) {
		client_lost(client, EXCHANGE_CONNECT_FAILED, ERR_UNSUPPORTED);
		return;
	}
	if (http2_session_init(&client->session, &client->upstream->stream, false, &session_ops)) {
		client_lost(client, EXCHANGE_CONNECT_FAILED, -ENOMEM);
		return;
	}
	client->ready = true;
	http2_session_wake(&client->session);
	watch(client);
	serve_waiting(client);
	if (!client->closing)
		read_frames(client); // the endpoint's settings may be here already
}

static void use_another(struct exchange *exchange, const struct upstream_target *target,
			struct upstream *unused)
{
	if (unused->ready)
		upstream_release(unused, NULL);
	else
		upstream_close(unused);
	if (client_start(exchange, target))
		exchange_reply(exchange, 503, "too many requests wait for the upstream", EXCHANGE_OVERLOADED);
}

// The connection that was dialled early becomes one that is shared, unless there is one already, or as many
// as may be.
static void client_adopt(struct exchange *exchange, struct upstream *upstream)
{
	struct dataplane *dataplane = exchange->connection->dataplane;
	struct upstream_target target = {upstream->endpoint, exchange->cluster, upstream->side,
					 upstream->stream.tls != NULL, false};
	struct http2_client *full = NULL, *client = find(&target, &full);
	if (client || (full && target.endpoint->shared_count >= LIMIT_HTTP2_CONNECTIONS)) {
		use_another(exchange, &target, upstream);
		return;
	}
	client = client_new(dataplane);
	if (!client) {
		upstream_close(upstream);
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
		return;
	}
	client->upstream = upstream;
	upstream_adopt(upstream, &upstream_ops, client);
	enlist(client);
	wait_for_room(client, exchange);
	if (upstream->ready)
		session_begin(client);
}

// --- what comes back ----------------------------------------------------------------------------------------
static struct arena *arena_of(struct http2_stream *stream)
{
	return &of_stream(stream)->arena;
}

static void protocol_failure(struct exchange *exchange)
{
	http2_stream_reset(&exchange->up, HTTP2_PROTOCOL_ERROR);
	fail_stream(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
}

static int keep_fields(struct exchange *exchange, struct message *message)
{
	size_t size = message->head.field_count * sizeof(struct field);
	struct field *fields = arena_alloc(&exchange->arena, size + 1);
	if (!fields)
		return -ENOMEM;
	memcpy(fields, message->head.fields, size);
	message->head.fields = fields;
	return 0;
}

// RFC 9113 8.1.1. False: what was announced does not come.
static bool expect_content(struct exchange *exchange, struct message *message, bool end)
{
	unsigned status = message->head.status;
	bool tunnel = exchange->wants_tunnel && (status == 101 || status / 100 == 2);
	bool none = status == 204 || status == 304 || str_eq(exchange->method, STR("HEAD"));
	if (tunnel) {
		http2_length_drop(message); // RFC 9110 9.3.6
		return true;
	}
	if (!none && !message->has_length)
		return true;
	http2_stream_expect(&exchange->up, none ? 0 : message->length);
	return !end || none || message->length == 0;
}

static void take_head(struct exchange *exchange, struct field *fields, size_t count, bool end)
{
	struct message message;
	if (http2_response_read(fields, count, exchange->message.upgrade.len > 0, &message) ||
	    message.head.field_count > LIMIT_HTTP_HEADERS || keep_fields(exchange, &message)) {
		protocol_failure(exchange);
		return;
	}
	message.end = end;
	if (message.head.status < 200 && message.head.status != 101) {
		if (end)
			protocol_failure(exchange);
		else
			exchange_interim(exchange, &message);
		return;
	}
	if (!expect_content(exchange, &message, end)) {
		protocol_failure(exchange);
		return;
	}
	exchange->shared->served = true;
	if (exchange_head(exchange, &message) == 0 && end)
		exchange_complete(exchange);
}

static void take_trailers(struct exchange *exchange, struct field *fields, size_t count, bool end)
{
	struct field *kept = arena_alloc(&exchange->arena, count * sizeof *kept + 1);
	if (!end || !kept || count > LIMIT_HTTP_HEADERS || http2_trailers_check(fields, count)) {
		protocol_failure(exchange);
		return;
	}
	memcpy(kept, fields, count * sizeof *kept);
	if (exchange_trailers(exchange, kept, count) == 0)
		exchange_complete(exchange);
}

static void on_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	struct exchange *exchange = of_stream(stream);
	if (exchange->response_started)
		take_trailers(exchange, fields, count, end);
	else
		take_head(exchange, fields, count, end);
}

static void on_too_large(struct http2_stream *stream, bool grpc, bool end)
{
	(void)grpc;
	(void)end;
	protocol_failure(of_stream(stream));
}

static void on_end(struct http2_stream *stream)
{
	struct exchange *exchange = of_stream(stream);
	if (!exchange->response_started) {
		protocol_failure(exchange);
	} else if (exchange->tunnel && exchange->request_done && !stream->end_sent &&
		   !exchange->response_done) {
		exchange->response_done =
		    true; // what the client sent is still on its way: then comes on_closed
		exchange->server->half_close(exchange);
	} else {
		exchange_complete(exchange);
	}
}

static void on_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct exchange *exchange = of_stream(stream);
	struct bufq out = {0};
	if (!exchange->response_started) {
		protocol_failure(exchange);
		return;
	}
	if (bufq_add_slice(&out, bytes)) {
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, -ENOMEM);
		return;
	}
	if (exchange_body(exchange, &out))
		return;
	if (end && stream->session)
		on_end(stream);
	else if (!exchange->server->congested(exchange))
		http2_stream_consume(stream);
}

// Of a call that is carried: what waits behind it may be read.
static void on_end_sent(struct http2_stream *stream)
{
	struct exchange *exchange = of_stream(stream);
	if (exchange->call)
		exchange->server->resume(exchange);
}

static void on_closed(struct http2_stream *stream, uint32_t code)
{
	struct exchange *exchange = of_stream(stream);
	if (exchange->response_done && code == HTTP2_NO_ERROR) {
		exchange->shared = NULL;
		exchange_complete(exchange); // both halves of a tunnel are over, or nobody wants the client's
		return;
	}
	exchange->reset_code = code ? code : HTTP2_INTERNAL_ERROR;
	fail_stream(exchange,
		    code == HTTP2_REFUSED_STREAM ? EXCHANGE_UPSTREAM_REFUSED : EXCHANGE_UPSTREAM_TERMINATED,
		    -ECONNRESET);
}

static void on_stream_drained(struct http2_stream *stream)
{
	struct exchange *exchange = of_stream(stream);
	exchange->server->resume(exchange);
}

static void on_pong(struct http2_session *session)
{
	of_session(session)->asked = false;
}

static void on_settled(struct http2_session *session)
{
	struct http2_client *client = of_session(session);
	if (client->closing)
		return;
	serve_waiting(client);
	if (session->has_settings && client->waiting_count)
		spread(client);
	if (client->closing || !is_unused(client))
		return;
	bool unwanted = is_outdated(client) || dataplane_of(client)->draining;
	if (unwanted && client->session.open_count == 0)
		http2_session_terminate(session, HTTP2_NO_ERROR);
	else
		watch_unused(client);
}

static void on_over(struct http2_session *session)
{
	struct http2_client *client = of_session(session);
	client_lost(client, EXCHANGE_UPSTREAM_TERMINATED, ERR_CLOSED);
}

static const struct http2_session_ops session_ops = {
    .arena = arena_of,
    .fields = on_fields,
    .too_large = on_too_large,
    .data = on_data,
    .end = on_end,
    .end_sent = on_end_sent,
    .closed = on_closed,
    .drained = on_stream_drained,
    .pong = on_pong,
    .settled = on_settled,
    .over = on_over,
};

// --- towards the exchange -----------------------------------------------------------------------------------
static int client_prepare(struct exchange *exchange)
{
	(void)exchange;
	return 0;
}

static bool client_ready(const struct exchange *exchange)
{
	return exchange->up.session != NULL;
}

static bool client_congested(struct exchange *exchange)
{
	return http2_stream_congested(&exchange->up);
}

static void client_send(struct exchange *exchange, struct bufq *bytes)
{
	if (exchange->request_done)
		http2_stream_finish(&exchange->up, bytes, exchange->request_trailers,
				    exchange->request_trailer_count);
	else if (!bufq_empty(bytes))
		http2_stream_write(&exchange->up, bytes);
}

static void client_resume(struct exchange *exchange)
{
	http2_stream_consume(&exchange->up);
}

static bool client_untouched(const struct exchange *exchange)
{
	(void)exchange;
	return false; // what was not begun comes as EXCHANGE_UPSTREAM_REFUSED
}

// A stream that is over on both sides needs no reset; one whose request goes on after its response does.
static void client_release(struct exchange *exchange, enum release how)
{
	struct http2_client *client = exchange->shared;
	struct http2_stream *stream = &exchange->up;
	exchange->shared = NULL;
	if (!client)
		return;
	if (!stream->session) {
		list_del(&stream->node);
		client->waiting_count--;
		client->upstream->endpoint->shared_waiting--;
		return;
	}
	if (stream->end_received && stream->end_sent) {
		http2_stream_consume(stream);
		http2_stream_detach(stream);
	} else {
		http2_stream_reset(stream, how == RELEASE_WHOLE ? HTTP2_NO_ERROR : HTTP2_CANCEL);
	}
	http2_session_wake(&client->session);
}

static const struct tls_conn *client_tls(const struct exchange *exchange)
{
	return exchange->shared && !exchange->shared->closing ? exchange->shared->upstream->stream.tls : NULL;
}

const struct exchange_client http2_client = {
    .prepare = client_prepare,
    .start = client_start,
    .adopt = client_adopt,
    .ready = client_ready,
    .congested = client_congested,
    .send = client_send,
    .resume = client_resume,
    .untouched = client_untouched,
    .release = client_release,
    .tls = client_tls,
};

// --- events of the connection -------------------------------------------------------------------------------
static void on_ready(struct upstream *upstream, int err)
{
	struct http2_client *client = upstream->owner;
	if (err)
		client_lost(client, EXCHANGE_CONNECT_FAILED, err);
	else
		session_begin(client);
}

static void on_readable(struct upstream *upstream)
{
	struct http2_client *client = upstream->owner;
	if (client->ready && !client->closing)
		read_frames(client);
}

static void on_drained(struct upstream *upstream)
{
	struct http2_client *client = upstream->owner;
	if (!client->ready || client->closing)
		return;
	http2_session_wake(&client->session);
	on_readable(upstream);
}

// What it sent before may still be there: GOAWAY, or answers.
static void on_write_error(struct upstream *upstream, int err)
{
	struct http2_client *client = upstream->owner;
	on_readable(upstream);
	if (!client->closing)
		client_lost(client, EXCHANGE_UPSTREAM_TERMINATED, err);
}

static const struct upstream_ops upstream_ops = {on_ready, on_readable, on_drained, on_write_error};

// --- for the data plane -------------------------------------------------------------------------------------
void http2_client_retire(struct endpoint_state *endpoint)
{
	list_for_each_safe (node, &endpoint->shared) {
		struct http2_client *client = container_of(node, struct http2_client, node);
		if (is_unused(client))
			client_close(client);
	}
}

void http2_client_drain(struct dataplane *dataplane)
{
	list_for_each_safe (node, &dataplane->http2_clients) {
		struct http2_client *client = container_of(node, struct http2_client, all);
		if (is_unused(client))
			client_close(client);
	}
}

struct pool http2_client_pool_init(void)
{
	return POOL_INIT(struct http2_client, 16);
}
