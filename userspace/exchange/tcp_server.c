// SPDX-License-Identifier: Apache-2.0
#include "exchange/tcp_server.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/http2.h"
#include "exchange/exchange.h"

enum { TURN_BYTES = 1024 * 1024 }; // read in one go; then other connections get their turn

static const struct exchange_server tcp_server;
static const struct stream_ops server_ops;

static bool is_probe(const struct exchange *exchange)
{
	return exchange->connection->probe == exchange;
}

// --- from the client ----------------------------------------------------------------------------------------
// Sending may end the exchange; then connection->exchange is NULL.
static void read_on(struct connection *connection)
{
	struct stream *stream = &connection->stream;
	uint64_t limit = stream->received + TURN_BYTES;
	while (connection->exchange && !connection->exchange->request_done &&
	       exchange_takes_body(connection->exchange) &&
	       (stream->received < limit || !stream_yield(stream))) {
		struct exchange *exchange = connection->exchange;
		struct slice slice;
		struct bufq bytes = {0};
		int n = stream_read(stream, &slice);
		if (n > 0)
			n = bufq_add_slice(&bytes, slice);
		if (n == ERR_NEED_MORE)
			return;
		if (n < 0 && n != ERR_EOF) {
			connection_reset(connection);
			return;
		}
		exchange->request_done = n == ERR_EOF;
		exchange->request_bytes += bytes.bytes;
		connection_idle(connection);
		exchange_send(exchange, &bytes);
	}
}

// While nothing may be read the client's end can wait, but not a reset.
static void on_readable(struct stream *stream)
{
	struct connection *connection = container_of(stream, struct connection, stream);
	if (stream_has_failed(stream))
		connection_reset(connection);
	else
		read_on(connection);
}

static void on_drained(struct stream *stream)
{
	struct exchange *exchange = container_of(stream, struct connection, stream)->exchange;
	if (exchange)
		exchange->client->resume(exchange);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)err;
	connection_reset(container_of(stream, struct connection, stream));
}

static const struct stream_ops server_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

static void next_read(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, task);
	if (!connection->closed && connection->stream.ops == &server_ops)
		read_on(connection);
}

// Reading goes on from the loop: this may be deep inside of something else.
static void read_later(struct connection *connection)
{
	loop_defer(connection->dataplane->loop, &connection->task, next_read);
}

// --- towards the client -------------------------------------------------------------------------------------
static void take_over(struct connection *connection, struct exchange *exchange)
{
	struct bufq first = connection->in;
	connection->in = (struct bufq){0};
	connection->probe = NULL;
	connection->exchange = exchange;
	connection->stream.ops = &server_ops;
	if (connection->protocol == PROTOCOL_UNKNOWN)
		connection->protocol = PROTOCOL_TCP;
	if (connection->protocol == PROTOCOL_TLS)
		exchange->inner = PROTOCOL_TLS; // a probe knew less
	connection_idle(connection);
	stream_write(&connection->stream, &exchange->response_in);
	exchange->client->resume(exchange);
	exchange->request_bytes += first.bytes;
	if (first.bytes)
		exchange_send(exchange, &first);
	read_later(connection);
}

// The application spoke first, or ended.
static void take_over_greeted(struct exchange *exchange)
{
	if (!is_probe(exchange))
		return;
	connection_decided(exchange->connection, DECIDED_GREETING);
	take_over(exchange->connection, exchange);
}

static int server_interim(struct exchange *exchange, const struct message *message)
{
	(void)exchange, (void)message;
	return 0;
}

static int server_head(struct exchange *exchange, const struct message *message)
{
	(void)message;
	if (!is_probe(exchange))
		read_later(exchange->connection);
	return 0;
}

// Servers of HTTP/2 may speak first, but not to a client of another protocol: its preface is still to come.
static bool awaits_http2(const struct exchange *exchange)
{
	char bytes[9];
	size_t n = bufq_peek(&exchange->response_in, 0, bytes, sizeof bytes);
	return http2_is_server_preface((struct str){bytes, n});
}

// A refusal in words means nothing to this client.
static int server_body(struct exchange *exchange, struct bufq *bytes)
{
	struct connection *connection = exchange->connection;
	if (!exchange->tunnel) {
		bufq_clear(bytes);
		return 0;
	}
	if (is_probe(exchange)) {
		bufq_move_all(&exchange->response_in, bytes);
		if (!awaits_http2(exchange))
			take_over_greeted(exchange);
		return 0;
	}
	connection_idle(connection);
	stream_write(&connection->stream, bytes);
	return 0;
}

static int server_trailers(struct exchange *exchange, const struct field *fields, size_t count)
{
	(void)exchange, (void)fields, (void)count;
	return 0;
}

static void server_half_close(struct exchange *exchange)
{
	take_over_greeted(exchange);
	stream_shutdown(&exchange->connection->stream);
}

static void server_reset(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	bool probe = is_probe(exchange);
	exchange_finish(exchange);
	if (probe)
		connection_probe_failed(connection);
	else
		connection_reset(connection);
}

static void server_complete(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	if (exchange->flag || !exchange->tunnel) {
		server_reset(exchange);
		return;
	}
	exchange_finish(exchange);
	connection_linger(connection);
}

static int server_reply(struct exchange *exchange, unsigned status, const char *text)
{
	(void)exchange, (void)status, (void)text;
	return 0;
}

static void server_resume(struct exchange *exchange)
{
	if (!is_probe(exchange))
		read_on(exchange->connection);
}

static bool server_congested(struct exchange *exchange)
{
	if (is_probe(exchange))
		return exchange->response_in.bytes > 0;
	return stream_congested(&exchange->connection->stream);
}

static void server_detach(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	if (is_probe(exchange))
		connection->probe = NULL;
	else
		connection->exchange = NULL;
}

static const struct exchange_server tcp_server = {
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

// --- beginnings ---------------------------------------------------------------------------------------------
static struct exchange *new_carrier(struct connection *connection, const struct virtual_host *host,
				    const struct cluster *cluster)
{
	struct exchange *exchange = exchange_new(connection, &tcp_server);
	enum protocol protocol = connection->protocol == PROTOCOL_TLS ? PROTOCOL_TLS : PROTOCOL_TCP;
	if (!exchange)
		return NULL;
	exchange_carry(exchange, host, host->default_route, cluster, protocol, STR("CONNECT"));
	exchange->wants_tunnel = true;
	return exchange;
}

void tcp_server_start(struct connection *connection, const struct virtual_host *host,
		      const struct cluster *cluster)
{
	struct exchange *exchange = new_carrier(connection, host, cluster);
	if (!exchange) {
		connection_reset(connection);
		return;
	}
	take_over(connection, exchange);
	exchange_start(exchange);
}

void tcp_server_probe(struct connection *connection, const struct virtual_host *host,
		      const struct cluster *cluster)
{
	struct exchange *exchange = new_carrier(connection, host, cluster);
	if (!exchange) {
		connection_probe_failed(connection);
		return;
	}
	connection->probe = exchange;
	exchange_start(exchange);
}

bool tcp_server_adopt(struct connection *connection, const struct virtual_host *host)
{
	struct exchange *probe = connection->probe;
	if (!probe)
		return false;
	if (probe->host != host) {
		tcp_server_drop_probe(connection); // a name in the bytes leads elsewhere than the address
		return false;
	}
	take_over(connection, probe);
	return true;
}

void tcp_server_drop_probe(struct connection *connection)
{
	struct exchange *probe = connection->probe;
	if (!probe)
		return;
	probe->silent = true;
	exchange_abort(probe, EXCHANGE_DOWNSTREAM_GONE);
}
