// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_client.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "exchange/http1_server.h"
#include "exchange/tunnel.h"

#include <errno.h>

// --- request ------------------------------------------------------------------------------------------------
void http1_client_start(struct exchange *exchange)
{
	struct bufq bytes = exchange->request;
	exchange->request = (struct bufq){0};
	exchange->upstream_sent = exchange->upstream->stream.sent;
	exchange->kept = exchange->idempotent || exchange->upstream->reused;
	exchange_send(exchange, &bytes);
	if (!exchange->request_done)
		http1_server_resume(exchange->connection);
}

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
	if (exchange->decode_chunks || head->framing == HTTP1_BODY_EOF ||
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
	if (!exchange->client_http10 && forward_head(exchange, head, raw, HTTP1_CONNECTION_IMPLIED))
		return ERR_CLOSED;
	return take_bytes(exchange, rest);
}

static int take_final(struct exchange *exchange, const struct http1_head *head, struct slice raw,
		      struct slice rest)
{
	bool tunnel = head->framing == HTTP1_BODY_TUNNEL;
	exchange->status = head->head.status;
	if (tunnel && head->head.status == 101 && !exchange->wants_upgrade) {
		protocol_failure(exchange);
		return ERR_CLOSED;
	}
	bufq_clear(&exchange->replay);
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

// Chunked for a client that knows no chunks: the payload alone, ended by closing.
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
		if (bufq_add_slice(out, (struct slice){bytes.chunk, (const uint8_t *)payload.p, payload.len}))
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
	if (exchange->decode_chunks)
		return decode_body(exchange, bytes, out, ret_done);
	ptrdiff_t n = http1_body_walk(&exchange->response_body, text, ret_done, &fault);
	if (n > 0) {
		struct slice part = {bytes.chunk, bytes.p, (size_t)n};
		if (bufq_add_slice(out, part))
			return -ENOMEM;
	}
	return n;
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
	exchange->response_bytes += out.bytes;
	stream_write(&exchange->connection->stream, &out);
	if (!done)
		return 0;
	if ((size_t)n < bytes.len) // nobody asked for these: not a connection to trust with another request
		exchange->upstream_persistent = false;
	exchange_complete(exchange);
	return ERR_CLOSED;
}

static int take_bytes(struct exchange *exchange, struct slice bytes)
{
	return exchange->response_started ? take_body(exchange, bytes) : collect_head(exchange, bytes);
}

static void upstream_ended(struct exchange *exchange, int err)
{
	if (err == ERR_EOF && exchange->response_started && exchange->response_body.framing == HTTP1_BODY_EOF)
		exchange_complete(exchange);
	else
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, err);
}

void http1_client_resume(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	int err = 0;
	while (!err && exchange->upstream && exchange->upstream->ready &&
	       !stream_congested(&connection->stream)) {
		struct slice slice;
		int n = stream_read(&exchange->upstream->stream, &slice);
		if (n == ERR_NEED_MORE) {
			if (!exchange->request_done)
				connection_idle(connection); // the response goes on while the request does
			return;
		}
		if (n < 0) {
			upstream_ended(exchange, n);
			return;
		}
		err = take_bytes(exchange, slice);
	}
	if (!err)
		connection_idle(connection); // the client must read on, or it is cut
}

// --- events -------------------------------------------------------------------------------------------------
static void on_ready(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->owner;
	if (err)
		exchange_upstream_failed(exchange, EXCHANGE_CONNECT_FAILED, err);
	else
		http1_client_start(exchange);
}

static void on_readable(struct upstream *upstream)
{
	struct exchange *exchange = upstream->owner;
	if (exchange_is_untouched(exchange))
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, ERR_MALFORMED);
	else
		http1_client_resume(exchange);
}

static void on_drained(struct upstream *upstream)
{
	struct exchange *exchange = upstream->owner;
	http1_server_resume(exchange->connection);
}

// The endpoint takes no more of the request; it may have answered before it closed (413, say).
static void on_write_error(struct upstream *upstream, int err)
{
	struct exchange *exchange = upstream->owner;
	struct connection *connection = exchange->connection;
	http1_client_resume(exchange);
	if (connection->exchange == exchange && exchange->upstream == upstream && !exchange->response_started)
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_TERMINATED, err);
}

const struct upstream_ops http1_client_ops = {on_ready, on_readable, on_drained, on_write_error};
