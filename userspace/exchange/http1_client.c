// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_client.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1_convert.h"
#include "exchange/http1_message.h"
#include "exchange/tunnel.h"
#include "exchange/websocket.h"

#include <errno.h>

static const struct upstream_ops upstream_ops;
static void client_resume(struct exchange *exchange);

// --- request ------------------------------------------------------------------------------------------------
// The head of a request that did not come over HTTP/1. A change of protocols can be asked for in one way
// only: that of WebSocket.
static int client_prepare(struct exchange *exchange)
{
	const struct message *message = &exchange->message;
	char key[WEBSOCKET_KEY_BYTES];
	struct http1_style style = {0};
	if (message->upgrade.len) {
		int err = str_eq_nocase(message->upgrade, STR("websocket"))
			      ? websocket_begin(&exchange->arena, key, &exchange->websocket)
			      : ERR_UNSUPPORTED;
		if (err)
			return err;
		style.upgrade = STR("websocket");
		style.websocket = (struct str){key, WEBSOCKET_KEY_BYTES};
	}
	exchange->chunk_request = !message->end && !message->has_length && !exchange->wants_tunnel;
	style.chunked = exchange->chunk_request;
	return http1_write_request(&exchange->request, message, &style);
}

static bool client_ready(const struct exchange *exchange)
{
	return exchange->upstream && exchange->upstream->ready;
}

static bool client_congested(struct exchange *exchange)
{
	return stream_congested(&exchange->upstream->stream);
}

static void client_send(struct exchange *exchange, struct bufq *bytes)
{
	struct stream *stream = &exchange->upstream->stream;
	stream_write(stream, bytes);
	if (!exchange->tunnel || !exchange->request_done)
		return;
	stream_shutdown(stream);
	if (exchange->response_done)
		stream_want_drained(stream);
}

// The connection is ready: sends what waits.
static void begin(struct exchange *exchange)
{
	struct bufq bytes = exchange->request;
	exchange->request = (struct bufq){0};
	exchange->upstream_sent = exchange->upstream->stream.sent;
	exchange->kept = exchange->idempotent || exchange->upstream->reused;
	exchange_send_ready(exchange, &bytes);
	if (!exchange->request_done)
		exchange->server->resume(exchange);
}

// A request that must not be sent twice goes on a pooled connection only if that is open at this moment.
static bool try_pooled(struct exchange *exchange, const struct upstream_target *target)
{
	struct dataplane *dataplane = exchange->connection->dataplane;
	struct upstream *upstream;
	if (exchange->fresh_only)
		return false;
	while ((upstream = upstream_reuse(dataplane, target, &upstream_ops, &upstream_ops, exchange))) {
		if (exchange->idempotent || sock_is_quiet(stream_fd(&upstream->stream))) {
			exchange->upstream = upstream;
			return true;
		}
		upstream_close(upstream);
	}
	return false;
}

static int client_start(struct exchange *exchange, const struct upstream_target *target)
{
	if (!try_pooled(exchange, target))
		return upstream_connect(exchange->connection->dataplane, target, &upstream_ops, exchange,
					&exchange->upstream);
	begin(exchange);
	return 0;
}

static void client_adopt(struct exchange *exchange, struct upstream *upstream)
{
	exchange->upstream = upstream;
	upstream_adopt(upstream, &upstream_ops, exchange);
	if (upstream->ready)
		begin(exchange);
}

// A pooled connection on which not a byte of the request was sent yet: what comes from it is no answer to the
// request.
static bool client_untouched(const struct exchange *exchange)
{
	const struct upstream *upstream = exchange->upstream;
	return upstream && upstream->reused && upstream->stream.sent == exchange->upstream_sent;
}

static void client_release(struct exchange *exchange, enum release how)
{
	struct upstream *upstream = exchange->upstream;
	exchange->upstream = NULL;
	if (!upstream)
		return;
	if (how == RELEASE_CUT)
		upstream_reset(upstream);
	else if (how == RELEASE_WHOLE && exchange->upstream_persistent && exchange->request_done &&
		 !exchange->tunnel)
		upstream_release(upstream, &upstream_ops);
	else
		upstream_close(upstream);
}

static const struct tls_conn *client_tls(const struct exchange *exchange)
{
	return exchange->upstream ? exchange->upstream->stream.tls : NULL;
}

const struct exchange_client http1_client = {
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

// --- response -----------------------------------------------------------------------------------------------
// What is done with one read: 0 to go on, ERR_CLOSED when the exchange is over.
static int take_bytes(struct exchange *exchange, struct slice bytes);

static void protocol_failure(struct exchange *exchange)
{
	exchange->upstream_persistent = false;
	exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
}

static struct slice cut(struct slice bytes, size_t from)
{
	return (struct slice){bytes.chunk, bytes.p + from, bytes.len - from};
}

// 101 or 2xx to CONNECT: from here on both sides are just bytes.
static int become_tunnel(struct exchange *exchange, struct slice rest)
{
	struct connection *connection = exchange->connection;
	struct upstream *upstream = exchange->upstream;
	struct bufq leftover = {0};
	exchange->upstream = NULL;
	int err = bufq_add_slice(&leftover, rest);
	exchange_finish(exchange);
	if (err) {
		upstream_reset(upstream);
		connection_reset(connection);
	} else {
		tunnel_join(connection, upstream, &leftover);
	}
	return ERR_CLOSED;
}

// What the client is told about the connection (RFC 9112 9.3). A body that ends with the connection ends the
// client's, too. Where HTTP/1.0 is spoken on either side the connection stays open only if that is said.
static enum http1_connection client_connection(struct exchange *exchange, const struct http1_head *head)
{
	if (exchange->decode_chunks || exchange->awaits_continue || head->framing == HTTP1_BODY_EOF ||
	    exchange->connection->dataplane->draining)
		exchange->client_persistent = false;
	if (!exchange->client_persistent)
		return HTTP1_CONNECTION_CLOSE;
	return exchange->client_http10 || head->minor == 0 ? HTTP1_CONNECTION_KEEP_ALIVE
							   : HTTP1_CONNECTION_IMPLIED;
}

static int forward_head(struct exchange *exchange, const struct http1_head *head, struct slice raw,
			enum http1_connection connection)
{
	struct bufq out = {0};
	int err = http1_forward_response(&out, head, raw, connection, exchange->decode_chunks);
	if (err) {
		bufq_clear(&out);
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	exchange->response_bytes += out.bytes;
	stream_write(&exchange->connection->stream, &out);
	return 0;
}

// 100, 103 and the like go in front of the final response; a client of HTTP/1.0 knows none (RFC 9110 15.2).
static int take_interim(struct exchange *exchange, const struct http1_head *head, struct slice raw,
			struct slice rest)
{
	if (++exchange->interim > LIMIT_HTTP_INTERIM) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	if (head->head.status == 100)
		exchange->awaits_continue = false;
	if (!exchange->client_http10 && forward_head(exchange, head, raw, HTTP1_CONNECTION_IMPLIED))
		return ERR_CLOSED;
	return take_bytes(exchange, rest);
}

static int take_final_raw(struct exchange *exchange, const struct http1_head *head, struct slice raw,
			  struct slice rest)
{
	bool tunnel = head->framing == HTTP1_BODY_TUNNEL;
	exchange->status = head->head.status;
	if (tunnel && head->head.status == 101 && !exchange->wants_upgrade) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	exchange_forget_sent(exchange);
	http1_body_init(&exchange->response_body, head);
	exchange->decode_chunks = exchange->client_http10 && head->framing == HTTP1_BODY_CHUNKED;
	exchange->upstream_persistent = head->persistent && head->framing != HTTP1_BODY_EOF;
	enum http1_connection tell = tunnel ? HTTP1_CONNECTION_IMPLIED : client_connection(exchange, head);
	if (forward_head(exchange, head, raw, tell))
		return ERR_CLOSED;
	exchange->response_started = true;
	if (tunnel)
		return become_tunnel(exchange, rest);
	if (!http1_body_done(&exchange->response_body))
		return rest.len ? take_bytes(exchange, rest) : 0;
	if (rest.len)
		exchange->upstream_persistent = false;
	exchange_complete(exchange);
	return ERR_CLOSED;
}

// --- for a client of another protocol -----------------------------------------------------------------------
static int convert(struct exchange *exchange, const struct http1_head *head, struct message *message)
{
	if (http1_to_message(&exchange->arena, head, message) == 0)
		return 0;
	exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, -ENOMEM);
	return ERR_CLOSED;
}

static int pass_interim(struct exchange *exchange, const struct http1_head *head, struct slice rest)
{
	struct message message;
	int err = convert(exchange, head, &message);
	if (!err)
		err = exchange_interim(exchange, &message);
	return err ? err : take_bytes(exchange, rest);
}

// RFC 6455 4.1: the endpoint has to show that it understood.
static bool is_accepted(const struct exchange *exchange, const struct http1_head *head)
{
	const struct field *accept = head_find(&head->head, STR("sec-websocket-accept"));
	return accept && str_eq(accept->value, exchange->websocket);
}

static int pass_final(struct exchange *exchange, const struct http1_head *head, struct slice rest)
{
	struct message message;
	if (head->head.status == 101 && (!exchange->message.upgrade.len || !is_accepted(exchange, head))) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	int err = convert(exchange, head, &message);
	http1_body_init(&exchange->response_body, head);
	exchange->upstream_persistent = head->persistent && head->framing != HTTP1_BODY_EOF;
	if (!err)
		err = exchange_head(exchange, &message);
	if (err)
		return err;
	if (!http1_body_done(&exchange->response_body))
		return rest.len ? take_bytes(exchange, rest) : 0;
	if (rest.len)
		exchange->upstream_persistent = false;
	exchange_complete(exchange);
	return ERR_CLOSED;
}

static int take_final(struct exchange *exchange, const struct http1_head *head, struct slice raw,
		      struct slice rest)
{
	return exchange->raw ? take_final_raw(exchange, head, raw, rest) : pass_final(exchange, head, rest);
}

static int take_head(struct exchange *exchange, struct slice bytes)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	struct http1_head head = {.head.fields = fields};
	struct str text = {(const char *)bytes.p, bytes.len};
	enum http1_fault fault;
	int n =
	    http1_response_parse(text, LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS, exchange->method, &head, &fault);
	if (n == ERR_NEED_MORE)
		return n;
	if (n < 0) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	struct slice raw = bytes;
	raw.len = (size_t)n;
	bool interim = head.head.status < 200 && head.head.status != 101;
	if (interim && !exchange->raw)
		return pass_interim(exchange, &head, cut(bytes, (size_t)n));
	return interim ? take_interim(exchange, &head, raw, cut(bytes, (size_t)n))
		       : take_final(exchange, &head, raw, cut(bytes, (size_t)n));
}

// A head in pieces is collected; the common one lies in a single read and is not copied.
static int collect_head(struct exchange *exchange, struct slice bytes)
{
	if (bytes.len == 0)
		return 0;
	if (bufq_empty(&exchange->response_in)) {
		int err = take_head(exchange, bytes);
		if (err != ERR_NEED_MORE)
			return err;
	}
	if (bufq_append_flat(&exchange->response_in, bytes)) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	struct bufq collected = exchange->response_in;
	exchange->response_in = (struct bufq){0};
	int err = take_head(exchange, bufq_first(&collected));
	if (err == ERR_NEED_MORE) {
		exchange->response_in = collected;
		return 0;
	}
	bufq_clear(&collected);
	return err;
}

// The payload alone, without its chunks; trailers are collected on the way.
static ptrdiff_t decode_body(struct exchange *exchange, struct slice bytes, struct bufq *out, bool *ret_done)
{
	size_t used = 0;
	*ret_done = false;
	while (used < bytes.len && !*ret_done) {
		struct str payload = {0}, trailer = {0};
		enum http1_fault fault;
		struct str rest = {(const char *)bytes.p + used, bytes.len - used};
		ptrdiff_t n =
		    http1_body_decode(&exchange->response_body, rest, &payload, &trailer, ret_done, &fault);
		if (n < 0)
			return n;
		struct slice part = {bytes.chunk, (const uint8_t *)payload.p, payload.len};
		struct slice line = {bytes.chunk, (const uint8_t *)trailer.p, trailer.len};
		if (bufq_add_slice(out, part) ||
		    (!exchange->raw && bufq_append_flat(&exchange->response_in, line)))
			return -ENOMEM;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ptrdiff_t)used;
}

static ptrdiff_t walk_body(struct exchange *exchange, struct slice bytes, struct bufq *out, bool *ret_done)
{
	enum http1_fault fault;
	struct str text = {(const char *)bytes.p, bytes.len};
	if (exchange->decode_chunks || !exchange->raw)
		return decode_body(exchange, bytes, out, ret_done);
	ptrdiff_t n = http1_body_walk(&exchange->response_body, text, ret_done, &fault);
	if (n > 0) {
		struct slice part = {bytes.chunk, bytes.p, (size_t)n};
		if (bufq_add_slice(out, part))
			return -ENOMEM;
	}
	return n;
}

static int pass_trailers(struct exchange *exchange)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	struct slice lines = bufq_first(&exchange->response_in);
	struct field *kept;
	size_t count = 0;
	enum http1_fault fault;
	int n = http1_trailers_parse((struct str){(const char *)lines.p, lines.len}, LIMIT_HTTP_HEADERS,
				     fields, &fault);
	if (n < 0) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	if (http1_to_trailers(&exchange->arena, fields, (size_t)n, &kept, &count)) {
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, -ENOMEM);
		return ERR_CLOSED;
	}
	bufq_clear(&exchange->response_in);
	return count ? exchange_trailers(exchange, kept, count) : 0;
}

static int pass_body(struct exchange *exchange, struct bufq *out, bool done)
{
	if (!exchange->raw) {
		int err = exchange_body(exchange, out);
		return !err && done && exchange->response_in.bytes ? pass_trailers(exchange) : err;
	}
	exchange->response_bytes += out->bytes;
	stream_write(&exchange->connection->stream, out);
	return 0;
}

static int take_body(struct exchange *exchange, struct slice bytes)
{
	struct bufq out = {0};
	bool done = false;
	ptrdiff_t n = walk_body(exchange, bytes, &out, &done);
	if (n < 0) {
		bufq_clear(&out);
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	int err = pass_body(exchange, &out, done);
	if (err || !done)
		return err;
	if ((size_t)n < bytes.len) // nobody asked for these: not a connection to trust with another request
		exchange->upstream_persistent = false;
	exchange_complete(exchange);
	return ERR_CLOSED;
}

static int take_bytes(struct exchange *exchange, struct slice bytes)
{
	return exchange->response_started ? take_body(exchange, bytes) : collect_head(exchange, bytes);
}

// What ends with the connection: a body, or one half of a tunnel.
static bool ends_with_connection(const struct exchange *exchange)
{
	return exchange->response_started && (exchange->response_body.framing == HTTP1_BODY_EOF ||
					      exchange->response_body.framing == HTTP1_BODY_TUNNEL);
}

// The client's half of a tunnel may be over but for what is queued.
static void response_ended(struct exchange *exchange)
{
	struct stream *stream = &exchange->upstream->stream;
	if (!exchange->tunnel || !exchange->request_done || stream_is_flushed(stream)) {
		exchange_complete(exchange);
		return;
	}
	exchange->response_done = true;
	exchange->server->half_close(exchange);
	stream_want_drained(stream);
}

static void upstream_ended(struct exchange *exchange, int err)
{
	if (err == ERR_EOF && ends_with_connection(exchange))
		response_ended(exchange);
	else
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, err);
}

static void client_resume(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	int err = 0;
	while (!err && exchange->upstream && exchange->upstream->ready && !exchange->response_done &&
	       !exchange->server->congested(exchange)) {
		struct slice slice;
		int n = stream_read(&exchange->upstream->stream, &slice);
		if (n == ERR_NEED_MORE) {
			if (!exchange->request_done && exchange->raw)
				connection_idle(connection); // the response goes on while the request does
			return;
		}
		if (n < 0) {
			upstream_ended(exchange, n);
			return;
		}
		err = take_bytes(exchange, slice);
	}
	if (!err && exchange->raw)
		connection_idle(connection); // the client must read on, or it is cut
}

// --- events -------------------------------------------------------------------------------------------------
static void on_ready(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->owner;
	if (err)
		exchange_upstream_failed(exchange, EXCHANGE_CONNECT_FAILED, err);
	else
		begin(exchange);
}

static void on_readable(struct upstream *upstream)
{
	struct exchange *exchange = upstream->owner;
	if (client_untouched(exchange))
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, ERR_MALFORMED);
	else
		client_resume(exchange);
}

static void on_drained(struct upstream *upstream)
{
	struct exchange *exchange = upstream->owner;
	if (!exchange->response_done || !exchange->request_done)
		exchange->server->resume(exchange);
	else if (stream_is_flushed(&upstream->stream))
		exchange_complete(exchange);
}

// The endpoint takes no more of the request; it may have answered before it closed (413, say). The exchange
// may end with that: then the upstream connection is nobody's any more. Where its half of a tunnel is over
// nothing is read, and nothing else would end it.
static void on_write_error(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->owner;
	client_resume(exchange);
	if (upstream->owner == exchange && !upstream->task._queued &&
	    (!exchange->response_started || exchange->response_done))
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, err);
}

static const struct upstream_ops upstream_ops = {on_ready, on_readable, on_drained, on_write_error};
