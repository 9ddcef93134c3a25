// SPDX-License-Identifier: Apache-2.0
#include "exchange/http2_server.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/grpc.h"
#include "codecs/http1_convert.h"
#include "codecs/http2.h"
#include "codecs/http2_codes.h"
#include "exchange/call_stream.h"
#include "exchange/exchange.h"
#include "exchange/framed_server.h"
#include "exchange/http2_session.h"
#include "exchange/transport.h"
#include "run/stats.h"

#include <errno.h>
#include <stdio.h>

struct http2_server {
	struct http2_session session;
	struct connection *connection;
	struct list tails;		  // exchanges (their down.node) of tunnels whose streams are over
	struct loop_timer drain_timer;	  // the second GOAWAY
	struct loop_timer progress_timer; // runs while there are streams
	int32_t block;	   // the stream whose header block the connection's timer is for; 0: none
	bool upgraded : 1; // began as HTTP/1: that is what the endpoint is known to speak
	bool draining : 1;
	bool gone : 1;	 // GOAWAY was sent
	bool ending : 1; // with the last of the tails
};

static const struct exchange_server http2_server;
static const struct http2_session_ops session_ops;

static struct http2_server *of_session(struct http2_session *session)
{
	return container_of(session, struct http2_server, session);
}

static struct exchange *of_stream(struct http2_stream *stream)
{
	return container_of(stream, struct exchange, down);
}

// --- timers -------------------------------------------------------------------------------------------------
static void on_idle(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	http2_session_terminate(&connection->http2->session, HTTP2_NO_ERROR);
}

static void on_head_timeout(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	stats_inc(STAT_HTTP_REFUSED);
	http2_session_terminate(&connection->http2->session, HTTP2_ENHANCE_YOUR_CALM);
}

static void watch_progress(struct http2_server *server);

// Payload waits since the last time at least, and next to nothing of it was taken.
static bool has_stalled(struct http2_stream *stream)
{
	bool stalled = stream->waited && stream->moved - stream->checked < LIMIT_HTTP2_PROGRESS_BYTES;
	stream->checked = stream->moved;
	stream->waited = stream->out.bytes > 0;
	return stalled;
}

// Readers that take nothing, or a byte at a time, for as long as a silent connection may stay: they hold
// memory here and an endpoint's connection.
static void on_progress_due(struct loop_timer *timer)
{
	struct http2_server *server = container_of(timer, struct http2_server, progress_timer);
	list_for_each_safe (node, &server->session.streams) {
		struct http2_stream *stream = container_of(node, struct http2_stream, node);
		if (!has_stalled(stream))
			continue;
		stats_inc(STAT_HTTP2_STALLED);
		http2_stream_reset(stream, HTTP2_ENHANCE_YOUR_CALM);
		exchange_note_reset(of_stream(stream), HTTP2_ENHANCE_YOUR_CALM);
		exchange_abort(of_stream(stream), EXCHANGE_DOWNSTREAM_GONE);
	}
	watch_progress(server);
}

static const struct timeouts *timeouts_of(const struct http2_server *server)
{
	return &dataplane_model(server->connection->dataplane)->timeouts;
}

// A timer of its own: nothing that the client does meanwhile puts it off.
static void watch_progress(struct http2_server *server)
{
	if (list_empty(&server->session.streams))
		loop_timer_stop(&server->progress_timer);
	else if (!loop_timer_running(&server->progress_timer))
		loop_timer_start(server->connection->dataplane->loop, &server->progress_timer,
				 timeouts_of(server)->idle_ms);
}

static void watch_connection(struct http2_server *server, loop_timer_fn fn, uint32_t ms)
{
	server->connection->timer.fn = fn;
	loop_timer_start(server->connection->dataplane->loop, &server->connection->timer, ms);
}

static void watch(struct http2_server *server)
{
	int32_t block = http2_session_block(&server->session);
	watch_progress(server);
	if (block && block == server->block)
		return; // counted from its beginning
	server->block = block;
	if (block)
		watch_connection(server, on_head_timeout, timeouts_of(server)->head_ms);
	else if (list_empty(&server->session.streams))
		watch_connection(server, on_idle, timeouts_of(server)->idle_ms);
	else
		loop_timer_stop(&server->connection->timer);
}

// --- requests -----------------------------------------------------------------------------------------------
static struct http2_stream *on_open(struct http2_session *session, int32_t id)
{
	struct http2_server *server = of_session(session);
	struct exchange *exchange = exchange_new(server->connection, &http2_server);
	(void)id;
	return exchange ? &exchange->down : NULL;
}

static struct arena *arena_of(struct http2_stream *stream)
{
	return &of_stream(stream)->arena;
}

// RFC 9113 8.1.1.
static void refuse(struct exchange *exchange)
{
	stats_inc(STAT_HTTP_REFUSED);
	http2_stream_reset(&exchange->down, HTTP2_PROTOCOL_ERROR);
	exchange_abort(exchange, EXCHANGE_DOWNSTREAM_PROTOCOL);
}

static int keep_fields(struct exchange *exchange)
{
	struct head *head = &exchange->message.head;
	size_t size = head->field_count * sizeof(struct field);
	struct field *fields = arena_alloc(&exchange->arena, size);
	if (!fields)
		return -ENOMEM;
	memcpy(fields, head->fields, size);
	head->fields = fields;
	return 0;
}

static enum protocol spoken(const struct exchange *exchange)
{
	if (exchange->inner)
		return exchange->inner;
	return exchange->connection->http2->upgraded ? PROTOCOL_HTTP1 : PROTOCOL_HTTP2;
}

static void route_and_start(struct exchange *exchange)
{
	const struct message *message = &exchange->message;
	exchange->wants_tunnel = message->upgrade.len > 0 || str_eq(message->head.method, STR("CONNECT"));
	if (exchange_route(exchange, &message->head, spoken(exchange)))
		exchange_start(exchange);
}

static void refuse_size(struct exchange *exchange)
{
	stats_inc(STAT_HTTP_REFUSED);
	exchange_reply(exchange, 431, "the header section is too large", EXCHANGE_DOWNSTREAM_PROTOCOL);
}

// As many as in HTTP/1, where the authority is a field.
static bool has_too_many(const struct head *head)
{
	return head->field_count + (head->authority.len > 0) > LIMIT_HTTP_HEADERS;
}

// RFC 9113 8.1.1. False: what was announced does not come.
static bool expect_content(struct exchange *exchange, bool end)
{
	const struct message *message = &exchange->message;
	if (!message->has_length || message->upgrade.len || str_eq(message->head.method, STR("CONNECT")))
		return true;
	http2_stream_expect(&exchange->down, message->length);
	return !end || message->length == 0;
}

static void begin(struct exchange *exchange, bool end)
{
	exchange->grpc = exchange->message.grpc && spoken(exchange) == PROTOCOL_HTTP2;
	exchange->message.end = end;
	if (has_too_many(&exchange->message.head))
		refuse_size(exchange);
	else if (exchange->codec)
		call_stream_start(exchange);
	else
		route_and_start(exchange);
}

static void take_request(struct exchange *exchange, struct field *fields, size_t count, bool end)
{
	exchange->request_done = end;
	if (http2_request_read(fields, count, &exchange->message) || !expect_content(exchange, end)) {
		refuse(exchange);
	} else if (keep_fields(exchange)) {
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
	} else if (exchange->connection->transport && !transport_unwrap(exchange)) {
		exchange_reply(exchange, 403, "this stream is not for the application here",
			       EXCHANGE_DOWNSTREAM_PROTOCOL);
	} else {
		begin(exchange, end);
	}
}

static void request_ended(struct exchange *exchange)
{
	struct bufq none = {0};
	exchange->request_done = true;
	if (exchange->client)
		exchange_send(exchange, &none);
}

static void take_trailers(struct exchange *exchange, const struct field *fields, size_t count, bool end)
{
	struct field *kept = arena_alloc(&exchange->arena, count * sizeof *kept + 1);
	if (!end || !kept || count > LIMIT_HTTP_HEADERS || http2_trailers_check(fields, count)) {
		refuse(exchange);
		return;
	}
	memcpy(kept, fields, count * sizeof *kept);
	exchange->request_trailers = kept;
	exchange->request_trailer_count = (uint16_t)count;
	request_ended(exchange);
}

// A head came already: what comes now are trailers.
static bool has_begun(const struct exchange *exchange)
{
	return exchange->method.p || exchange->flag;
}

static void on_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	struct exchange *exchange = of_stream(stream);
	if (has_begun(exchange))
		take_trailers(exchange, fields, count, end);
	else
		take_request(exchange, fields, count, end);
}

static void on_too_large(struct http2_stream *stream, bool grpc, bool end)
{
	struct exchange *exchange = of_stream(stream);
	if (has_begun(exchange)) {
		refuse(exchange);
		return;
	}
	exchange->request_done = end;
	exchange->grpc = grpc;
	refuse_size(exchange);
}

static void on_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct exchange *exchange = of_stream(stream);
	struct http2_session *session = stream->session;
	struct bufq out = {0};
	int32_t id = stream->id;
	exchange->request_done |= end;
	if (!exchange->client || exchange->refused || exchange->sent_whole) {
		http2_stream_consume(stream); // answered already
		return;
	}
	exchange->request_bytes += bytes.len;
	if (bufq_add_slice(&out, bytes)) {
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
		return;
	}
	exchange_send(exchange, &out);
	if (!end && http2_session_find(session, id) == stream && exchange_takes_body(exchange))
		http2_stream_consume(stream);
}

static void on_end(struct http2_stream *stream)
{
	request_ended(of_stream(stream));
}

// --- the end of streams and connections ---------------------------------------------------------------------
// A response is complete and the request is not: nobody wants the rest (RFC 9113 8.1).
static void on_end_sent(struct http2_stream *stream)
{
	struct exchange *exchange = of_stream(stream);
	if (!stream->end_received && !exchange->tunnel)
		http2_stream_decline(stream);
}

// Both halves of a tunnel: it ends when the endpoint has all of the client's, within the time of an idle
// connection.
static void keep_tail(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	list_append(&connection->http2->tails, &exchange->down.node);
	loop_timer_start(connection->dataplane->loop, &exchange->timer,
			 dataplane_model(connection->dataplane)->timeouts.idle_ms);
}

static void on_closed(struct http2_stream *stream, uint32_t code)
{
	struct exchange *exchange = of_stream(stream);
	if (exchange->sent_whole && stream->end_sent) {
		exchange_finish(exchange);
	} else if (exchange->response_done && stream->end_received && stream->end_sent) {
		keep_tail(exchange);
	} else {
		exchange->reset_code = code ? code : HTTP2_CANCEL;
		if (stream->failed)
			exchange_note_reset(exchange, code);
		exchange_abort(exchange, EXCHANGE_DOWNSTREAM_GONE);
	}
}

static void on_stream_drained(struct http2_stream *stream)
{
	struct exchange *exchange = of_stream(stream);
	if (exchange->client)
		exchange->client->resume(exchange);
}

static void goaway(struct http2_server *server)
{
	if (server->gone)
		return;
	server->gone = true;
	loop_timer_stop(&server->drain_timer);
	http2_session_goaway(&server->session);
}

static void on_warned(struct loop_timer *timer)
{
	goaway(container_of(timer, struct http2_server, drain_timer));
}

static void on_pong(struct http2_session *session)
{
	struct http2_server *server = of_session(session);
	if (server->draining)
		goaway(server); // what was under way when the warning came is here now
}

static void on_settled(struct http2_session *session)
{
	struct http2_server *server = of_session(session);
	if (!server->connection->closed)
		watch(server);
}

static void abort_streams(struct http2_server *server, enum exchange_flag flag)
{
	while (!list_empty(&server->session.streams)) {
		struct http2_stream *stream =
		    container_of(server->session.streams.next, struct http2_stream, node);
		http2_stream_detach(stream);
		exchange_abort(of_stream(stream), flag);
	}
}

// Nothing more comes or goes but what endpoints are still to take.
static void end(struct http2_server *server)
{
	server->ending = true;
	loop_timer_stop(&server->progress_timer);
	if (list_empty(&server->tails))
		connection_linger(server->connection);
	else
		connection_idle(server->connection);
}

static void on_over(struct http2_session *session)
{
	struct http2_server *server = of_session(session);
	abort_streams(server, session->fault ? EXCHANGE_DOWNSTREAM_PROTOCOL : EXCHANGE_DOWNSTREAM_GONE);
	end(server);
}

static const struct http2_session_ops session_ops = {
    .open = on_open,
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

// --- responses ----------------------------------------------------------------------------------------------
enum { RESPONSE_FIELDS = LIMIT_HTTP_HEADERS + 1 };

static size_t response_fields(const struct message *message, char status[3], struct field *fields)
{
	size_t n = http2_response_pseudo(message, status, fields);
	return n + http2_message_fields(message, fields + n, RESPONSE_FIELDS - n);
}

static int server_interim(struct exchange *exchange, const struct message *message)
{
	struct field fields[RESPONSE_FIELDS];
	char status[3];
	return http2_stream_inform(&exchange->down, fields, response_fields(message, status, fields));
}

static int server_head(struct exchange *exchange, const struct message *message)
{
	struct field fields[RESPONSE_FIELDS];
	char status[3];
	if (exchange->tunnel)
		http2_stream_consume(&exchange->down); // what was sent ahead goes on now
	return http2_stream_respond(&exchange->down, fields, response_fields(message, status, fields),
				    message->end && !exchange->tunnel);
}

static int server_body(struct exchange *exchange, struct bufq *bytes)
{
	http2_stream_write(&exchange->down, bytes);
	return 0;
}

static int server_trailers(struct exchange *exchange, const struct field *fields, size_t count)
{
	exchange->trailers_sent = true;
	exchange->sent_whole = true;
	http2_stream_end(&exchange->down, fields, count);
	return 0;
}

static void server_half_close(struct exchange *exchange)
{
	http2_stream_end(&exchange->down, NULL, 0);
}

// What is queued is still to be sent; the exchange ends with its stream.
static void server_complete(struct exchange *exchange)
{
	exchange->sent_whole = true;
	if (!exchange->down.session) {
		exchange_finish(exchange);
		return;
	}
	http2_stream_end(&exchange->down, NULL, 0);
	http2_stream_consume(&exchange->down);
}

// For a caller of gRPC an error is HTTP 200 with a status in its only head (trailers-only).
static int reply_grpc(struct exchange *exchange, unsigned status, const char *text)
{
	char number[4], encoded[3 * 128];
	int grpc = (int)(exchange->reset_code ? grpc_status_of_reset(exchange->reset_code)
					      : grpc_status_of_http(status));
	size_t len = grpc_message_encode(text, encoded, sizeof encoded);
	int digits = snprintf(number, sizeof number, "%d", grpc);
	const struct field fields[] = {{.name = STR(":status"), .value = STR("200")},
				       {.name = STR("content-type"), .value = STR("application/grpc")},
				       {.name = STR("grpc-status"), .value = {number, (size_t)digits}},
				       {.name = STR("grpc-message"), .value = {encoded, len}}};
	exchange->grpc_status = (int16_t)grpc;
	exchange->status = 200;
	return http2_stream_respond(&exchange->down, fields, ARRAY_SIZE(fields), true);
}

static int server_reply(struct exchange *exchange, unsigned status, const char *text)
{
	char code[4], length[24];
	struct bufq body = {0};
	bool head_only = str_eq(exchange->method, STR("HEAD"));
	if (exchange->grpc)
		return reply_grpc(exchange, status, text);
	snprintf(code, sizeof code, "%u", status % 1000);
	int digits = snprintf(length, sizeof length, "%zu", strlen(text) + 1);
	const struct field fields[] = {
	    {.name = STR(":status"), .value = {code, 3}},
	    {.name = STR("server"), .value = STR("weir")},
	    {.name = STR("content-type"), .value = STR("text/plain; charset=utf-8")},
	    {.name = STR("content-length"), .value = {length, (size_t)digits}}};
	if (bufq_add_packed(&body, text, strlen(text)) || bufq_add_packed(&body, "\n", 1) ||
	    http2_stream_respond(&exchange->down, fields, ARRAY_SIZE(fields), head_only)) {
		bufq_clear(&body);
		return -ENOMEM;
	}
	exchange->response_bytes += body.bytes;
	http2_stream_write(&exchange->down, &body);
	return 0;
}

// What came before the response broke off is the client's: the exchange then ends with its stream.
static void server_reset(struct exchange *exchange)
{
	uint32_t code = exchange->reset_code ? exchange->reset_code : HTTP2_INTERNAL_ERROR;
	exchange_note_reset(exchange, code);
	if (http2_stream_break(&exchange->down, code)) {
		loop_timer_stop(&exchange->timer);
		exchange->sent_whole = true;
		return;
	}
	http2_stream_reset(&exchange->down, code);
	exchange_finish(exchange);
}

// Whether it takes more is asked only where something waits: who asks is told when there is room.
static void server_resume(struct exchange *exchange)
{
	if (exchange->down.unconsumed && exchange_takes_body(exchange))
		http2_stream_consume(&exchange->down);
}

static bool server_congested(struct exchange *exchange)
{
	return http2_stream_congested(&exchange->down);
}

static void server_detach(struct exchange *exchange)
{
	struct http2_server *server = exchange->connection->http2;
	http2_stream_detach(&exchange->down);
	list_del(&exchange->down.node);
	if (server->ending && list_empty(&server->tails))
		connection_linger(server->connection);
}

static const struct exchange_server http2_server = {
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

// --- events of the connection -------------------------------------------------------------------------------
static struct connection *from_stream(struct stream *stream)
{
	return container_of(stream, struct connection, stream);
}

static void on_readable(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	struct http2_session *session = &connection->http2->session;
	int n = http2_session_read(session);
	if (n == ERR_EOF && list_empty(&session->streams)) {
		session->over = true; // what is queued goes out; nothing is added to it
		end(connection->http2);
	} else if (n < 0 && n != ERR_NEED_MORE && n != ERR_MALFORMED && n != ERR_CLOSED) {
		connection_close(connection); // nothing can be sent to a client that does not read frames
	}
}

static void on_drained(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	http2_session_wake(&connection->http2->session);
	on_readable(stream);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)err;
	connection_close(from_stream(stream));
}

static const struct stream_ops server_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

static void next_read(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, task);
	if (!connection->closed && connection->stream.ops == &server_ops)
		on_readable(&connection->stream);
}

// What was read before the protocol was known.
static int feed_first(struct connection *connection)
{
	struct bufq first = connection->in;
	int err = 0;
	connection->in = (struct bufq){0};
	while (!err && !bufq_empty(&first)) {
		struct slice slice = bufq_first(&first);
		err = http2_session_feed(&connection->http2->session, slice);
		bufq_drop(&first, slice.len);
	}
	bufq_clear(&first);
	return err;
}

static struct http2_server *server_new(struct connection *connection)
{
	struct http2_server *server = pool_zget(&connection->dataplane->http2_server_pool);
	if (!server)
		return NULL;
	server->connection = connection;
	list_init(&server->tails);
	loop_timer_init(&server->drain_timer, on_warned);
	loop_timer_init(&server->progress_timer, on_progress_due);
	if (http2_session_init(&server->session, &connection->stream, true, &session_ops)) {
		pool_put(&connection->dataplane->http2_server_pool, server);
		return NULL;
	}
	server->session.trusted = connection->transport;
	return server;
}

static void take_over(struct connection *connection)
{
	stats_inc(STAT_HTTP2_CONNECTIONS);
	connection->protocol = PROTOCOL_HTTP2;
	connection->stream.ops = &server_ops;
	loop_timer_stop(&connection->timer);
	http2_session_wake(&connection->http2->session);
	// Reading goes on from the loop: this may be deep inside the reading of the first bytes.
	loop_defer(connection->dataplane->loop, &connection->task, next_read);
}

void http2_server_start(struct connection *connection)
{
	connection->http2 = server_new(connection);
	if (!connection->http2) {
		connection_reset(connection);
		return;
	}
	take_over(connection);
	feed_first(connection);
	if (connection_is_draining(connection))
		http2_server_drain(connection);
}

// A request with a body would have to be read whole before the first frame; it goes on in HTTP/1, which is
// ours to decide.
static bool offers_h2c(const struct http1_head *head, const struct field **ret_settings)
{
	unsigned count = 0;
	if (!(head->flags & HTTP1_CONN_UPGRADE) || !str_eq_nocase(head->upgrade, STR("h2c")) ||
	    head->framing != HTTP1_BODY_NONE || str_eq(head->head.method, STR("CONNECT")))
		return false;
	for (unsigned i = 0; i < head->head.field_count; i++) {
		if (!str_eq_nocase(head->head.fields[i].name, STR("http2-settings")))
			continue;
		*ret_settings = &head->head.fields[i];
		count++;
	}
	return count == 1;
}

bool http2_server_upgrade(struct connection *connection, const struct http1_head *head)
{
	static const struct str SWITCH =
	    STR("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
	struct exchange *exchange = connection->exchange;
	const struct field *settings;
	uint8_t bytes[256];
	if (connection->stream.tls || connection->requests || !offers_h2c(head, &settings))
		return false;
	int len = http2_settings_decode(settings->value, bytes, sizeof bytes);
	if (len < 0 || http1_to_message(&exchange->arena, head, &exchange->message))
		return false;
	struct http2_server *server = server_new(connection);
	if (!server)
		return false;
	struct bufq out = {0};
	if (bufq_add_static(&out, SWITCH) ||
	    http2_session_upgrade(&server->session, bytes, (size_t)len, &exchange->down)) {
		bufq_clear(&out);
		http2_session_done(&server->session);
		pool_put(&connection->dataplane->http2_server_pool, server);
		return false;
	}
	stream_write(&connection->stream, &out);
	server->upgraded = true;
	connection->http2 = server;
	connection->exchange = NULL;
	exchange->server = &http2_server;
	take_over(connection);
	exchange->request_done = true;
	route_and_start(exchange);
	feed_first(connection);
	if (connection_is_draining(connection))
		http2_server_drain(connection);
	return true;
}

void http2_server_drain(struct connection *connection)
{
	struct http2_server *server = connection->http2;
	if (server->draining)
		return;
	server->draining = true;
	http2_session_warn(&server->session);
	loop_timer_start(connection->dataplane->loop, &server->drain_timer, LIMIT_HTTP2_WARN_MS);
}

void http2_server_abort(struct connection *connection)
{
	struct http2_server *server = connection->http2;
	if (!server)
		return;
	server->session.over = true;
	loop_timer_stop(&server->drain_timer);
	loop_timer_stop(&server->progress_timer);
	abort_streams(server, EXCHANGE_DOWNSTREAM_GONE);
	while (!list_empty(&server->tails))
		exchange_abort(of_stream(container_of(server->tails.next, struct http2_stream, node)),
			       EXCHANGE_DOWNSTREAM_GONE);
}

void http2_server_free(struct connection *connection)
{
	struct http2_server *server = connection->http2;
	if (!server)
		return;
	http2_session_done(&server->session);
	pool_put(&connection->dataplane->http2_server_pool, server);
	connection->http2 = NULL;
}

unsigned http2_server_streams(const struct connection *connection)
{
	return connection->http2 ? connection->http2->session.open_count : 0;
}

static void each_stream(const struct connection *connection, stream_info_fn fn, void *arg)
{
	list_for_each (node, &connection->http2->session.streams) {
		struct stream_info info;
		struct http2_stream *stream = container_of(node, struct http2_stream, node);
		if (of_stream(stream)->framed) {
			framed_server_each_call(of_stream(stream)->framed, fn, arg); // by its own id
			continue;
		}
		exchange_describe_stream(of_stream(stream), &info);
		fn(&info, arg);
	}
}

void http2_server_describe(const struct connection *connection, struct conn_info *info)
{
	struct list *streams = &connection->http2->session.streams;
	info->streams = connection->http2->session.open_count;
	info->each_stream = each_stream;
	if (!list_empty(streams))
		exchange_describe(of_stream(container_of(streams->prev, struct http2_stream, node)), info);
}

struct pool http2_server_pool_init(void)
{
	return POOL_INIT(struct http2_server, 16);
}
