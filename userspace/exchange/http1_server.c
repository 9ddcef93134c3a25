// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_server.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "exchange/exchange.h"
#include "exchange/http1_client.h"
#include "run/stats.h"

#include <errno.h>

// After so many answers of the proxy's own the other connections get their turn.
enum { REFUSALS_IN_A_ROW = 32, REFUSAL_PAUSE_MS = 1 };

static void server_read(struct connection *connection);

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

static void begin_exchange(struct connection *connection, struct exchange *exchange,
			   const struct http1_head *head, struct slice bytes, size_t used)
{
	struct chunk *chunk = chunk_ref(bytes.chunk); // the head's views point into it
	loop_timer_stop(&connection->timer);
	if (consume(connection, bytes, used))
		connection_reset(connection);
	else
		exchange_start(exchange, head, bytes);
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

// Reads and parses one head. False when there is nothing (more) to do now: the next request waits, too, while
// the client does not read the answers.
static bool read_head(struct connection *connection)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	const size_t limit = dataplane_model(connection->dataplane)->max_head_bytes;
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	struct slice bytes = {0};
	int n = ERR_NEED_MORE;
	if (stream_congested(&connection->stream))
		return false;
	for (bool more = false; n == ERR_NEED_MORE; more = true) {
		int got = next_bytes(connection, more, &bytes);
		if (got == ERR_NEED_MORE)
			break;
		if (got <= 0) {
			end_of_requests(connection, got);
			return false;
		}
		n = http1_request_parse((struct str){(const char *)bytes.p, bytes.len}, limit,
					LIMIT_HTTP_HEADERS, &head, &fault);
		if (n == ERR_NEED_MORE && bufq_empty(&connection->in) && connection_keep(connection, bytes)) {
			connection_reset(connection);
			return false;
		}
	}
	if (n == ERR_NEED_MORE) {
		if (bufq_empty(&connection->in))
			return false;
		start_head_timer(connection);
		if (bufq_compact(&connection->in))
			connection_reset(connection);
		return false;
	}
	struct exchange *exchange = exchange_new(connection);
	if (!exchange)
		connection_reset(connection);
	else if (n < 0)
		refuse(exchange, fault);
	else
		begin_exchange(connection, exchange, &head, bytes, (size_t)n);
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

// One piece of the body under way. False when there is nothing (more) to do now.
static bool read_body(struct connection *connection)
{
	struct exchange *exchange = connection->exchange;
	struct slice bytes;
	struct bufq out = {0};
	enum http1_fault fault;
	bool done = false;
	if (exchange->request_done || !exchange_takes_body(exchange))
		return false;
	int n = next_bytes(connection, false, &bytes);
	if (n == ERR_NEED_MORE) {
		connection_idle(connection);
		return false;
	}
	if (n <= 0) {
		connection_reset(connection);
		return false;
	}
	struct str text = {(const char *)bytes.p, bytes.len};
	ptrdiff_t used = http1_body_walk(&exchange->request_body, text, &done, &fault);
	if (used < 0) {
		body_failed(connection, exchange, fault);
		return false;
	}
	int err = bufq_add_slice(&out, (struct slice){bytes.chunk, bytes.p, (size_t)used});
	if (!err)
		err = consume(connection, bytes, (size_t)used);
	exchange->request_done = done;
	exchange->request_bytes += (uint64_t)used;
	if (err) {
		bufq_clear(&out);
		connection_reset(connection);
		return false;
	}
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
	http1_client_resume(connection->exchange);
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

void http1_server_next(struct connection *connection)
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

void http1_server_resume(struct connection *connection)
{
	if (connection->exchange)
		server_read(connection);
}

void http1_server_abort(struct connection *connection)
{
	if (connection->exchange)
		exchange_abort(connection->exchange, EXCHANGE_DOWNSTREAM_GONE);
}

void http1_server_describe(const struct connection *connection, struct conn_info *info)
{
	const struct exchange *exchange = connection->exchange;
	if (exchange->host)
		info->virtual_host = exchange->host->name;
	if (exchange->cluster)
		info->cluster = exchange->cluster->name;
	if (exchange->endpoint)
		info->endpoint = exchange->endpoint->addr;
	if (exchange->upstream)
		connection_describe_tls(exchange->upstream->stream.tls, &info->upstream_tls_version,
					&info->upstream_tls_peer);
}
