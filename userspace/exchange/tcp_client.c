// SPDX-License-Identifier: Apache-2.0
#include "exchange/tcp_client.h"

#include "base/error.h"
#include "codecs/http2_codes.h"

enum { TURN_BYTES = 1024 * 1024 }; // read in one go; then other connections get their turn

static struct exchange *of_upstream(struct upstream *upstream)
{
	return upstream->owner;
}

// --- from the application -----------------------------------------------------------------------------------
// RFC 9113 8.5: a TCP connection that broke is CONNECT_ERROR.
static void broken(struct exchange *exchange, enum exchange_flag flag, int err)
{
	exchange->reset_code = HTTP2_CONNECT_ERROR;
	exchange_upstream_failed(exchange, flag, err);
}

// The application's half is over; the other one may be over but for what is queued.
static void ended(struct exchange *exchange)
{
	struct stream *stream = &exchange->upstream->stream;
	if (!exchange->request_done || stream_is_flushed(stream)) {
		exchange_complete(exchange);
		return;
	}
	exchange->response_done = true;
	exchange->server->half_close(exchange);
	stream_want_drained(stream);
}

static void read_on(struct exchange *exchange)
{
	struct stream *stream = &exchange->upstream->stream;
	uint64_t limit = stream->received + TURN_BYTES;
	while (!exchange->response_done && !exchange->server->congested(exchange) &&
	       (stream->received < limit || !stream_yield(stream))) {
		struct slice slice;
		struct bufq bytes = {0};
		int n = stream_read(stream, &slice);
		if (n > 0)
			n = bufq_add_slice(&bytes, slice);
		if (n == ERR_NEED_MORE)
			return;
		if (n == ERR_EOF) {
			ended(exchange);
			return;
		}
		if (n < 0) {
			broken(exchange, EXCHANGE_UPSTREAM_TERMINATED, n);
			return;
		}
		if (exchange_body(exchange, &bytes))
			return;
	}
}

// --- events -------------------------------------------------------------------------------------------------
static void established(struct exchange *exchange)
{
	struct message granted = {.head.status = 200};
	if (exchange_head(exchange, &granted) == 0)
		read_on(exchange);
}

static void on_ready(struct upstream *upstream, int err)
{
	if (err)
		broken(of_upstream(upstream), EXCHANGE_CONNECT_FAILED, err);
	else
		established(of_upstream(upstream));
}

static void on_readable(struct upstream *upstream)
{
	read_on(of_upstream(upstream));
}

static void on_drained(struct upstream *upstream)
{
	struct exchange *exchange = of_upstream(upstream);
	if (!exchange->request_done)
		exchange->server->resume(exchange);
	else if (exchange->response_done && stream_is_flushed(&upstream->stream))
		exchange_complete(exchange);
}

static void on_write_error(struct upstream *upstream, int err)
{
	broken(of_upstream(upstream), EXCHANGE_UPSTREAM_TERMINATED, err);
}

static const struct upstream_ops upstream_ops = {on_ready, on_readable, on_drained, on_write_error};

// --- towards the exchange -----------------------------------------------------------------------------------
static int client_prepare(struct exchange *exchange)
{
	(void)exchange;
	return 0;
}

static int client_start(struct exchange *exchange, const struct upstream_target *target)
{
	return upstream_connect(exchange->connection->dataplane, target, &upstream_ops, exchange,
				&exchange->upstream);
}

static void client_adopt(struct exchange *exchange, struct upstream *upstream)
{
	exchange->upstream = upstream;
	upstream_adopt(upstream, &upstream_ops, exchange);
	if (upstream->ready)
		established(exchange);
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
	if (!bufq_empty(bytes))
		stream_write(stream, bytes);
	if (!exchange->request_done)
		return;
	stream_shutdown(stream);
	if (exchange->response_done)
		stream_want_drained(stream);
}

static void client_resume(struct exchange *exchange)
{
	if (client_ready(exchange))
		read_on(exchange);
}

static bool client_untouched(const struct exchange *exchange)
{
	(void)exchange;
	return false;
}

static void client_release(struct exchange *exchange, enum release how)
{
	struct upstream *upstream = exchange->upstream;
	exchange->upstream = NULL;
	// A probe of the other sidecar that nobody used: to the application it is a connection that ended.
	bool unused = upstream && !upstream->stream.sent && !exchange->request_bytes;
	if (how == RELEASE_WHOLE || unused)
		upstream_close(upstream);
	else
		upstream_reset(upstream);
}

static const struct tls_conn *client_tls(const struct exchange *exchange)
{
	(void)exchange;
	return NULL;
}

const struct exchange_client tcp_client = {
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
