// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_server.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1_convert.h"
#include "codecs/http2.h"
#include "exchange/exchange.h"
#include "exchange/http1_client.h"
#include "exchange/http1_message.h"
#include "exchange/http2_server.h"
#include "exchange/websocket.h"
#include "run/stats.h"

#include <errno.h>

// After so many answers of the proxy's own the other connections get their turn.
enum { REFUSALS_IN_A_ROW = 32, REFUSAL_PAUSE_MS = 1 };

static void server_read(struct connection *connection);
static const struct exchange_server http1_server;

static struct connection *from_stream(struct stream *stream)
{
	return container_of(stream, struct connection, stream);
}

// --- timers -------------------------------------------------------------------------------------------------
// A head that does not come to its end: answered if the client is still there to read it.
static void on_head_timeout(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	struct bufq out = {0};
	stats_inc(STAT_HTTP_REFUSED);
	if (http1_reply(&out, 408, "the request head did not arrive in time", false,
			HTTP1_CONNECTION_CLOSE) == 0)
		stream_write(&connection->stream, &out);
	connection_linger(connection);
}

// Counted from the first byte of a head: more bytes do not prolong it.
static void start_head_timer(struct connection *connection)
{
	if (connection->timer.fn == on_head_timeout && loop_timer_running(&connection->timer))
		return;
	connection->timer.fn = on_head_timeout;
	loop_timer_start(connection->dataplane->loop, &connection->timer,
			 dataplane_model(connection->dataplane)->timeouts.head_ms);
}

// --- heads --------------------------------------------------------------------------------------------------
// The next bytes: what is kept first, then what the socket has, joined with it if a parser wants more than is
// kept.
static int next_bytes(struct connection *connection, bool more, struct slice *ret_slice)
{
	bool kept = !bufq_empty(&connection->in);
	if (kept && !more) {
		*ret_slice = bufq_first(&connection->in);
		return (int)ret_slice->len;
	}
	int n = stream_read(&connection->stream, ret_slice);
	if (n <= 0 || !kept)
		return n;
	if (connection_keep(connection, *ret_slice))
		return -ENOMEM;
	*ret_slice = bufq_first(&connection->in);
	return (int)ret_slice->len;
}

// `used` of the bytes that next_bytes returned are dealt with; the rest is kept for later.
static int consume(struct connection *connection, struct slice bytes, size_t used)
{
	if (!bufq_empty(&connection->in)) {
		bufq_drop(&connection->in, used);
		return 0;
	}
	return bufq_add_slice(&connection->in, (struct slice){bytes.chunk, bytes.p + used, bytes.len - used});
}

static void refuse(struct exchange *exchange, enum http1_fault fault)
{
	const struct http1_fault_row *row = http1_fault_describe(fault);
	stats_inc(STAT_HTTP_REFUSED);
	exchange->client_persistent = false;
	exchange_reply(exchange, row->status, row->text, EXCHANGE_DOWNSTREAM_PROTOCOL);
}

static void remember(struct exchange *exchange, const struct http1_head *head)
{
	exchange->client_http10 = head->minor == 0;
	exchange->client_persistent = head->persistent && !connection_is_draining(exchange->connection);
	exchange->wants_upgrade = head->flags & HTTP1_CONN_UPGRADE;
	http1_body_init(&exchange->request_body, head);
	exchange->request_done = http1_body_done(&exchange->request_body);
	exchange->awaits_continue = !exchange->request_done && (head->flags & HTTP1_EXPECT_CONTINUE);
}

// RFC 6455 4.1: a GET, which has no body to be taken for what is said afterwards, with a key to be answered.
static bool is_handshake(struct exchange *exchange, const struct http1_head *head)
{
	const struct field *key = head_find(&head->head, STR("sec-websocket-key"));
	return str_eq(head->head.method, STR("GET")) && exchange->message.end &&
	       websocket_accept(&exchange->arena, key ? key->value : STR(""), &exchange->websocket) == 0;
}

// What goes upstream: the head as it came, where that speaks HTTP/1, too, or a message.
static int take_head(struct exchange *exchange, const struct http1_head *head, struct slice raw)
{
	exchange->raw = exchange->client == &http1_client;
	if (exchange->raw)
		return http1_forward_request(&exchange->request, head, raw);
	int err = http1_to_message(&exchange->arena, head, &exchange->message);
	if (!err && exchange->message.upgrade.len && !is_handshake(exchange, head))
		exchange->message.upgrade = STR(""); // it goes on as the request it is (RFC 9110 7.8)
	exchange->wants_tunnel =
	    exchange->message.upgrade.len > 0 || str_eq(head->head.method, STR("CONNECT"));
	return err;
}

static void start_exchange(struct exchange *exchange, const struct http1_head *head, struct slice raw)
{
	remember(exchange, head);
	if (!exchange_route(exchange, &head->head, PROTOCOL_HTTP1))
		return;
	if (take_head(exchange, head, raw))
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
	else
		exchange_start(exchange);
}

static void begin_exchange(struct connection *connection, const struct http1_head *head, struct slice bytes,
			   size_t used)
{
	struct chunk *chunk = chunk_ref(bytes.chunk); // the head's views point into it
	loop_timer_stop(&connection->timer);
	if (consume(connection, bytes, used))
		connection_reset(connection);
	else if (!http2_server_upgrade(connection, head))
		start_exchange(connection->exchange, head, bytes);
	chunk_unref(chunk);
}

// The client sends nothing more. The last answer may be in the queue still.
static void end_of_requests(struct connection *connection, int err)
{
	if (err == ERR_EOF && !stream_is_flushed(&connection->stream))
		connection_linger(connection);
	else
		connection_close(connection);
}

// The next head as far as it is there: what http1_request_parse returns, or 0 when the connection is over or
// belongs to HTTP/2.
static int parse_head(struct connection *connection, struct http1_head *head, struct slice *ret_bytes,
		      enum http1_fault *ret_fault)
{
	const size_t limit = dataplane_model(connection->dataplane)->max_head_bytes;
	int n = ERR_NEED_MORE;
	for (bool more = false; n == ERR_NEED_MORE; more = true) {
		int got = next_bytes(connection, more, ret_bytes);
		if (got == ERR_NEED_MORE)
			break;
		if (got <= 0) {
			end_of_requests(connection, got);
			return 0;
		}
		struct str text = {(const char *)ret_bytes->p, ret_bytes->len};
		int preface = connection->requests ? 0 : http2_preface(text);
		if (preface == 0)
			n = http1_request_parse(text, limit, LIMIT_HTTP_HEADERS, head, ret_fault);
		if (n == ERR_NEED_MORE && bufq_empty(&connection->in) &&
		    connection_keep(connection, *ret_bytes)) {
			connection_reset(connection);
			return 0;
		}
		if (preface == 1) {
			http2_server_start(connection);
			return 0;
		}
	}
	return n;
}

static struct exchange *make_exchange(struct connection *connection)
{
	connection->exchange = exchange_new(connection, &http1_server);
	if (!connection->exchange)
		connection_reset(connection);
	return connection->exchange;
}

// Reads and parses one head. False when there is nothing (more) to do now: the next request waits, too, while
// the client does not read the answers.
static bool read_head(struct connection *connection)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	struct slice bytes = {0};
	if (stream_congested(&connection->stream))
		return false;
	int n = parse_head(connection, &head, &bytes, &fault);
	if (n == 0)
		return false;
	if (n == ERR_NEED_MORE) {
		if (bufq_empty(&connection->in))
			return false;
		start_head_timer(connection);
		if (bufq_compact(&connection->in))
			connection_reset(connection);
		return false;
	}
	struct exchange *exchange = make_exchange(connection);
	if (!exchange)
		return false;
	if (n < 0)
		refuse(exchange, fault);
	else
		begin_exchange(connection, &head, bytes, (size_t)n);
	return connection->exchange != NULL;
}

// --- bodies -------------------------------------------------------------------------------------------------
static void body_failed(struct connection *connection, struct exchange *exchange, enum http1_fault fault)
{
	if (exchange->response_started)
		connection_reset(connection);
	else
		refuse(exchange, fault);
}

// The payload alone; trailers are collected in front of their end.
static ptrdiff_t decode_body(struct exchange *exchange, struct slice bytes, struct bufq *out, bool *ret_done,
			     enum http1_fault *ret_fault)
{
	size_t used = 0;
	while (used < bytes.len && !*ret_done) {
		struct str payload = {0}, trailer = {0};
		struct str rest = {(const char *)bytes.p + used, bytes.len - used};
		ptrdiff_t n =
		    http1_body_decode(&exchange->request_body, rest, &payload, &trailer, ret_done, ret_fault);
		if (n < 0)
			return n;
		struct slice part = {bytes.chunk, (const uint8_t *)payload.p, payload.len};
		struct slice line = {bytes.chunk, (const uint8_t *)trailer.p, trailer.len};
		if (bufq_add_slice(out, part) || bufq_append_flat(&exchange->request_in, line))
			return -ENOMEM;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ptrdiff_t)used;
}

static int take_trailers(struct exchange *exchange, enum http1_fault *ret_fault)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	struct slice lines = bufq_first(&exchange->request_in);
	size_t count = 0;
	int n = lines.len ? http1_trailers_parse((struct str){(const char *)lines.p, lines.len},
						 LIMIT_HTTP_HEADERS, fields, ret_fault)
			  : 0;
	if (n > 0 &&
	    http1_to_trailers(&exchange->arena, fields, (size_t)n, &exchange->request_trailers, &count))
		return -ENOMEM;
	exchange->request_trailer_count = (uint16_t)count;
	bufq_clear(&exchange->request_in);
	return n < 0 ? n : 0;
}

static ptrdiff_t walk_body(struct exchange *exchange, struct slice bytes, struct bufq *out, bool *ret_done,
			   enum http1_fault *ret_fault)
{
	if (!exchange->raw) {
		ptrdiff_t n = decode_body(exchange, bytes, out, ret_done, ret_fault);
		int err = n >= 0 && *ret_done ? take_trailers(exchange, ret_fault) : 0;
		return err ? err : n;
	}
	struct str text = {(const char *)bytes.p, bytes.len};
	ptrdiff_t n = http1_body_walk(&exchange->request_body, text, ret_done, ret_fault);
	if (n < 0)
		return n;
	int err = bufq_add_slice(out, (struct slice){bytes.chunk, bytes.p, (size_t)n});
	return err ? err : n;
}

// No more comes. That is the client's half of a tunnel, and else the end.
static bool body_ended(struct connection *connection, struct exchange *exchange, int err)
{
	struct bufq none = {0};
	if (err == ERR_NEED_MORE) {
		connection_idle(connection);
		return false;
	}
	if (err != ERR_EOF || !exchange->tunnel) {
		connection_reset(connection);
		return false;
	}
	exchange->request_done = true;
	exchange_send(exchange, &none);
	return false;
}

// One piece of the body under way. False when there is nothing (more) to do now.
static bool read_body(struct connection *connection)
{
	struct exchange *exchange = connection->exchange;
	struct slice bytes;
	struct bufq out = {0};
	enum http1_fault fault = HTTP1_OK;
	bool done = false;
	if (exchange->request_done || !exchange_takes_body(exchange))
		return false;
	int n = next_bytes(connection, false, &bytes);
	if (n <= 0)
		return body_ended(connection, exchange, n);
	ptrdiff_t used = walk_body(exchange, bytes, &out, &done, &fault);
	if (used == ERR_MALFORMED) {
		bufq_clear(&out);
		body_failed(connection, exchange, fault);
		return false;
	}
	int err = used < 0 ? (int)used : consume(connection, bytes, (size_t)used);
	if (err) {
		bufq_clear(&out);
		connection_reset(connection);
		return false;
	}
	exchange->request_done = done;
	exchange->awaits_continue &= !done;
	exchange->request_bytes += (uint64_t)used;
	if (done)
		loop_timer_stop(&connection->timer);
	exchange_send(exchange, &out);
	return !done;
}

static void server_read(struct connection *connection)
{
	while (!connection->closed && !connection->closing && connection->protocol == PROTOCOL_HTTP1 &&
	       !connection->tunnel)
		if (!(connection->exchange ? read_body(connection) : read_head(connection)))
			return;
}

// --- events -------------------------------------------------------------------------------------------------
static void on_readable(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	// While a response is awaited nothing is read: what comes is the next request, or the client's end,
	// after which it may still want the answer. A reset is another matter.
	if (stream_has_failed(stream))
		connection_close(connection);
	else
		server_read(connection);
}

static void on_drained(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	if (!connection->exchange) {
		server_read(connection);
		return;
	}
	loop_timer_stop(&connection->timer);
	if (connection->exchange->client)
		connection->exchange->client->resume(connection->exchange);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)err;
	connection_close(from_stream(stream));
}

static const struct stream_ops server_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

static void next_request(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, task);
	if (!connection->closed && connection->stream.ops == &server_ops)
		server_read(connection);
}

void http1_server_start(struct connection *connection)
{
	connection->stream.ops = &server_ops;
	connection_idle(connection);
	server_read(connection);
}

static void after_pause(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	connection_idle(connection);
	server_read(connection);
}

static void next(struct connection *connection)
{
	if (connection->refusals >= REFUSALS_IN_A_ROW) {
		connection->refusals = 0;
		connection->timer.fn = after_pause;
		loop_timer_start(connection->dataplane->loop, &connection->timer, REFUSAL_PAUSE_MS);
		return;
	}
	connection_idle(connection);
	// Not from here: this may be deep inside the reading of the last request.
	loop_defer(connection->dataplane->loop, &connection->task, next_request);
}

void http1_server_abort(struct connection *connection)
{
	if (connection->exchange)
		exchange_abort(connection->exchange, EXCHANGE_DOWNSTREAM_GONE);
}

// --- the response -------------------------------------------------------------------------------------------
static enum http1_connection tell_connection(const struct exchange *exchange)
{
	if (!exchange->client_persistent)
		return HTTP1_CONNECTION_CLOSE;
	return exchange->client_http10 ? HTTP1_CONNECTION_KEEP_ALIVE : HTTP1_CONNECTION_IMPLIED;
}

static int write_head(struct exchange *exchange, const struct message *message,
		      const struct http1_style *style)
{
	struct bufq out = {0};
	int err = http1_write_response(&out, message, style);
	if (err) {
		bufq_clear(&out);
		return err;
	}
	exchange->response_bytes += out.bytes;
	stream_write(&exchange->connection->stream, &out);
	return 0;
}

static int server_interim(struct exchange *exchange, const struct message *message)
{
	const struct http1_style plain = {0};
	return write_head(exchange, message, &plain);
}

// The body, if one follows.
static bool has_body(const struct exchange *exchange, const struct message *message)
{
	unsigned status = message->head.status;
	return status != 204 && status != 304 && !str_eq(exchange->method, STR("HEAD"));
}

static int tunnel_head(struct exchange *exchange, const struct message *message)
{
	struct http1_style style = {0};
	struct connection *connection = exchange->connection;
	if (message->head.status == 101)
		style = (struct http1_style){.upgrade = exchange->message.upgrade,
					     .websocket = exchange->websocket};
	exchange->request_body = (struct http1_body){.framing = HTTP1_BODY_TUNNEL};
	exchange->request_done = false;
	exchange->client_persistent = false;
	loop_defer(connection->dataplane->loop, &connection->task, next_request);
	return write_head(exchange, message, &style);
}

static int server_head(struct exchange *exchange, const struct message *message)
{
	struct http1_style style = {0};
	if (exchange->tunnel)
		return tunnel_head(exchange, message);
	bool framed = !has_body(exchange, message) || message->has_length;
	exchange->chunk_response = !framed && !exchange->client_http10;
	if ((!framed && exchange->client_http10) || exchange->awaits_continue ||
	    connection_is_draining(exchange->connection))
		exchange->client_persistent = false; // such a body ends with the connection
	style.chunked = exchange->chunk_response;
	enum http1_connection tell = tell_connection(exchange);
	style.connection = tell == HTTP1_CONNECTION_CLOSE	 ? STR("Connection: close\r\n")
			   : tell == HTTP1_CONNECTION_KEEP_ALIVE ? STR("Connection: keep-alive\r\n")
								 : STR("");
	return write_head(exchange, message, &style);
}

static int server_body(struct exchange *exchange, struct bufq *bytes)
{
	int err = exchange->chunk_response ? http1_write_chunk(bytes) : 0;
	stream_write(&exchange->connection->stream, bytes);
	return err;
}

static int write_end(struct exchange *exchange, const struct field *fields, size_t count)
{
	struct bufq out = {0};
	int err = exchange->chunk_response ? http1_write_end(&out, fields, count) : 0;
	stream_write(&exchange->connection->stream, &out);
	exchange->chunk_response = false;
	return err;
}

// Where there are no chunks there is no place for them.
static int server_trailers(struct exchange *exchange, const struct field *fields, size_t count)
{
	exchange->trailers_sent = true;
	return write_end(exchange, fields, count);
}

static void server_half_close(struct exchange *exchange)
{
	stream_shutdown(&exchange->connection->stream);
}

static void server_reset(struct exchange *exchange)
{
	connection_reset(exchange->connection);
}

static void server_complete(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	if (write_end(exchange, NULL, 0)) {
		connection_reset(connection);
		return;
	}
	bool persistent =
	    exchange->client_persistent && exchange->request_done && !connection_is_draining(connection);
	exchange_finish(exchange);
	if (persistent)
		next(connection);
	else
		connection_linger(connection);
}

static int server_reply(struct exchange *exchange, unsigned status, const char *text)
{
	struct bufq out = {0};
	exchange->connection->refusals++;
	int err =
	    http1_reply(&out, status, text, str_eq(exchange->method, STR("HEAD")), tell_connection(exchange));
	exchange->response_bytes += out.bytes;
	stream_write(&exchange->connection->stream, &out);
	return err;
}

static void server_resume(struct exchange *exchange)
{
	server_read(exchange->connection);
}

static bool server_congested(struct exchange *exchange)
{
	if (!stream_congested(&exchange->connection->stream))
		return false;
	connection_idle(exchange->connection); // the client must read on, or it is cut
	return true;
}

static void server_detach(struct exchange *exchange)
{
	exchange->connection->exchange = NULL;
}

static const struct exchange_server http1_server = {
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
