// SPDX-License-Identifier: Apache-2.0
#include "exchange/exchange.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/http1_client.h"
#include "exchange/http1_server.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

enum { CONNECT_ATTEMPTS = 3 };

static void dispatch(struct exchange *exchange);

const char *exchange_flag_name(enum exchange_flag flag)
{
	static const char *const names[] = {
	    [EXCHANGE_OK] = "-",
	    [EXCHANGE_NO_ROUTE] = "NR",
	    [EXCHANGE_NO_ENDPOINT] = "UH",
	    [EXCHANGE_CONNECT_FAILED] = "UF",
	    [EXCHANGE_UPSTREAM_TERMINATED] = "UC",
	    [EXCHANGE_UPSTREAM_PROTOCOL] = "UPE",
	    [EXCHANGE_TIMEOUT] = "UT",
	    [EXCHANGE_DOWNSTREAM_GONE] = "DC",
	    [EXCHANGE_DOWNSTREAM_PROTOCOL] = "DPE",
	    [EXCHANGE_OVERLOADED] = "UO",
	};
	return names[flag];
}

// --- beginning ----------------------------------------------------------------------------------------------
static void on_request_timeout(struct loop_timer *timer)
{
	struct exchange *exchange = container_of(timer, struct exchange, timer);
	exchange_reply(exchange, 504, "the upstream did not answer in time", EXCHANGE_TIMEOUT);
}

struct exchange *exchange_new(struct connection *connection)
{
	struct arena arena = {0};
	struct exchange *exchange = arena_alloc(&arena, sizeof *exchange);
	if (!exchange)
		return NULL;
	*exchange = (struct exchange){.arena = arena, .connection = connection};
	exchange->snapshot = snapshot_ref(connection->dataplane->snapshot);
	exchange->started_ns = loop_now(connection->dataplane->loop);
	loop_timer_init(&exchange->timer, on_request_timeout);
	connection->exchange = exchange;
	return exchange;
}

static struct str keep(struct exchange *exchange, struct str text)
{
	const char *copy = arena_strdup(&exchange->arena, text.p, text.len);
	return copy ? (struct str){copy, text.len} : STR("");
}

// RFC 9110 9.2.2.
static bool is_idempotent(struct str method)
{
	return str_eq(method, STR("GET")) || str_eq(method, STR("HEAD")) || str_eq(method, STR("OPTIONS")) ||
	       str_eq(method, STR("PUT")) || str_eq(method, STR("DELETE")) || str_eq(method, STR("TRACE"));
}

static void remember(struct exchange *exchange, const struct http1_head *head)
{
	exchange->method = keep(exchange, head->head.method);
	exchange->path = keep(exchange, head->head.path);
	exchange->authority = keep(exchange, head->head.authority);
	exchange->client_http10 = head->minor == 0;
	exchange->client_persistent = head->persistent && !exchange->connection->dataplane->draining;
	exchange->wants_upgrade = head->flags & HTTP1_CONN_UPGRADE;
	exchange->idempotent = is_idempotent(head->head.method);
	http1_body_init(&exchange->request_body, head);
	exchange->request_done = http1_body_done(&exchange->request_body);
	exchange->connection->requests++;
	stats_inc(STAT_HTTP_REQUESTS);
}

// Finds where the request goes: a cluster by virtual host and route, or (cluster NULL) the original
// destination. False: it was answered.
static bool find_route(struct exchange *exchange, const struct head *head)
{
	struct connection *connection = exchange->connection;
	const struct model *model = exchange->snapshot->model;
	if (connection->inbound)
		return true;
	exchange->host = connection_host(connection, model);
	if (!exchange->host)
		exchange->host = model_host_by_name(model, head->authority, connection->destination.port);
	if (!exchange->host && !model_is_virtual(model, &connection->destination.ip))
		return true;
	exchange->route = exchange->host ? route_match(exchange->host, head) : NULL;
	if (!exchange->route) {
		stats_inc(STAT_HTTP_NO_ROUTE);
		exchange_reply(exchange, 404, "no route matches this request", EXCHANGE_NO_ROUTE);
		return false;
	}
	exchange->cluster = route_pick(exchange->route, exchange->route->to_count > 1 ? random_u64() : 0);
	if (exchange->route->timeout_ms)
		loop_timer_start(connection->dataplane->loop, &exchange->timer, exchange->route->timeout_ms);
	return true;
}

void exchange_start(struct exchange *exchange, const struct http1_head *head, struct slice raw)
{
	remember(exchange, head);
	if (!find_route(exchange, &head->head))
		return;
	if (http1_forward_request(&exchange->request, head, raw)) {
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
		return;
	}
	dispatch(exchange);
}

// --- an attempt ---------------------------------------------------------------------------------------------
static void set_endpoint(struct exchange *exchange, struct endpoint_state *endpoint)
{
	if (exchange->endpoint) {
		exchange->endpoint->active--;
		endpoint_state_unref(exchange->endpoint);
	}
	if (endpoint)
		endpoint->active++;
	exchange->endpoint = endpoint;
}

// A reference to the endpoint to try, other than the last one where there is a choice. NULL: none.
static struct endpoint_state *pick(struct exchange *exchange)
{
	struct dataplane *dataplane = exchange->connection->dataplane;
	if (!exchange->cluster)
		return balancer_address(dataplane->balancer, &exchange->connection->destination);
	struct endpoint_state *endpoint = balancer_pick(dataplane->balancer, exchange->cluster,
							exchange->endpoint, loop_now(dataplane->loop));
	return endpoint ? endpoint_state_ref(endpoint) : NULL;
}

// An original destination is one address: asking it again at once gives the same answer.
static unsigned connect_attempts(const struct exchange *exchange)
{
	unsigned retries = exchange->route ? exchange->route->retries : 0;
	return exchange->cluster ? MAX((unsigned)CONNECT_ATTEMPTS, retries + 1) : 1;
}

// A request that must not be sent twice goes on a pooled connection only if that is open at this moment.
static bool try_pooled(struct exchange *exchange, const struct upstream_target *target)
{
	struct dataplane *dataplane = exchange->connection->dataplane;
	struct upstream *upstream;
	if (exchange->fresh_only)
		return false;
	while ((upstream = upstream_reuse(dataplane, target, &http1_client_ops, exchange))) {
		if (exchange->idempotent || sock_is_quiet(stream_fd(&upstream->stream))) {
			exchange->upstream = upstream;
			return true;
		}
		upstream_close(upstream);
	}
	return false;
}

// The connection that was dialled while the protocol was not known yet serves the first request, if it leads
// there.
static bool try_early(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	struct upstream *early = connection_take_early(connection, exchange->cluster);
	connection_drop_early(connection);
	if (!early)
		return false;
	exchange->upstream = early;
	exchange->attempts++;
	set_endpoint(exchange, endpoint_state_ref(early->endpoint));
	connection_set_endpoint(connection, early->endpoint);
	upstream_adopt(early, &http1_client_ops, exchange);
	if (early->ready)
		http1_client_start(exchange);
	return true;
}

static void dispatch(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	int err = ERR_NO_ENDPOINT;
	if (connection->early && try_early(exchange))
		return;
	while (exchange->attempts < connect_attempts(exchange)) {
		struct endpoint_state *endpoint = pick(exchange);
		exchange->attempts++;
		set_endpoint(exchange, endpoint);
		if (!endpoint)
			break;
		struct upstream_target target =
		    upstream_target(endpoint, exchange->cluster, connection->inbound);
		if (try_pooled(exchange, &target)) {
			connection_set_endpoint(connection, endpoint);
			http1_client_start(exchange);
			return;
		}
		err = upstream_connect(connection->dataplane, &target, &http1_client_ops, exchange,
				       &exchange->upstream);
		if (!err) {
			connection_set_endpoint(connection, endpoint);
			return;
		}
	}
	if (err == ERR_NO_ENDPOINT)
		exchange_reply(exchange, 503, "no endpoint is available", EXCHANGE_NO_ENDPOINT);
	else
		exchange_reply(exchange, 503, "the upstream could not be reached", EXCHANGE_CONNECT_FAILED);
}

bool exchange_takes_body(struct exchange *exchange)
{
	if (exchange->upstream && exchange->upstream->ready)
		return !stream_congested(&exchange->upstream->stream);
	return exchange->request.bytes < LIMIT_HTTP_RETRY_BYTES;
}

static void remember_for_replay(struct exchange *exchange, const struct bufq *bytes)
{
	if (!exchange->kept || exchange->response_started)
		return;
	if (exchange->replay.bytes + bytes->bytes > LIMIT_HTTP_RETRY_BYTES ||
	    bufq_clone(&exchange->replay, bytes)) {
		exchange->kept = false;
		bufq_clear(&exchange->replay);
	}
}

void exchange_send(struct exchange *exchange, struct bufq *bytes)
{
	if (!exchange->upstream || !exchange->upstream->ready) {
		bufq_move(&exchange->request, bytes, bytes->bytes); // moving all needs no memory
		return;
	}
	remember_for_replay(exchange, bytes);
	stream_write(&exchange->upstream->stream, bytes);
}

// --- failures -----------------------------------------------------------------------------------------------
bool exchange_is_untouched(const struct exchange *exchange)
{
	const struct upstream *upstream = exchange->upstream;
	return upstream && upstream->reused && upstream->stream.sent == exchange->upstream_sent;
}

// Whether what was sent may be sent again: nothing of a response came, all of it is still here, and repeating
// is harmless (RFC 9110 9.2.2). A pooled connection that turned out dead does not count as an attempt of the
// user's.
static bool may_repeat(const struct exchange *exchange, enum exchange_flag flag)
{
	const struct upstream *upstream = exchange->upstream;
	if (exchange->response_started || exchange->response_in.bytes || exchange->refused)
		return false;
	if (flag == EXCHANGE_CONNECT_FAILED)
		return exchange->attempts < connect_attempts(exchange);
	if (flag != EXCHANGE_UPSTREAM_TERMINATED || !exchange->kept)
		return false;
	if (exchange_is_untouched(exchange))
		return true;
	return exchange->idempotent && ((upstream && upstream->reused) ||
					(exchange->route && exchange->attempts <= exchange->route->retries));
}

static int rewind_request(struct exchange *exchange)
{
	struct bufq whole = {0};
	int err = bufq_move(&whole, &exchange->replay, exchange->replay.bytes);
	if (!err)
		err = bufq_move(&whole, &exchange->request, exchange->request.bytes);
	exchange->request = whole;
	return err;
}

void exchange_upstream_failed(struct exchange *exchange, enum exchange_flag flag, int err)
{
	bool was_reused = exchange->upstream && exchange->upstream->reused;
	bool repeat = may_repeat(exchange, flag);
	upstream_close(exchange->upstream);
	exchange->upstream = NULL;
	if (repeat && rewind_request(exchange) == 0) {
		exchange->fresh_only = was_reused;
		if (was_reused)
			exchange->attempts--;
		stats_inc(STAT_HTTP_RETRIES);
		dispatch(exchange);
		return;
	}
	if (flag == EXCHANGE_CONNECT_FAILED)
		exchange_reply(exchange, 503,
			       err == -ETIMEDOUT ? "connecting to the upstream took too long"
						 : "the upstream could not be reached",
			       flag);
	else if (flag == EXCHANGE_UPSTREAM_PROTOCOL)
		exchange_reply(exchange, 502, "the upstream's response is not valid HTTP", flag);
	else
		exchange_reply(exchange, 502,
			       "the upstream closed the connection before its response was complete", flag);
}

void exchange_reply(struct exchange *exchange, unsigned status, const char *text, enum exchange_flag flag)
{
	struct connection *connection = exchange->connection;
	struct bufq out = {0};
	exchange->flag = (uint8_t)flag;
	upstream_reset(exchange->upstream);
	exchange->upstream = NULL;
	if (exchange->response_started) {
		connection_reset(connection);
		return;
	}
	if (!exchange->request_done)
		exchange->client_persistent = false;
	exchange->refused = true;
	connection->refusals++;
	exchange->response_started = true;
	exchange->status = (uint16_t)status;
	enum http1_connection tell = !exchange->client_persistent ? HTTP1_CONNECTION_CLOSE
				     : exchange->client_http10	  ? HTTP1_CONNECTION_KEEP_ALIVE
								  : HTTP1_CONNECTION_IMPLIED;
	if (http1_reply(&out, status, text, str_eq(exchange->method, STR("HEAD")), tell)) {
		connection_reset(connection);
		return;
	}
	exchange->response_bytes += out.bytes;
	stream_write(&connection->stream, &out);
	exchange_complete(exchange);
}

// --- the end ------------------------------------------------------------------------------------------------
static void count_status(unsigned status)
{
	if (status >= 500)
		stats_inc(STAT_HTTP_5XX);
	else if (status >= 400)
		stats_inc(STAT_HTTP_4XX);
	else if (status >= 300)
		stats_inc(STAT_HTTP_3XX);
	else if (status >= 200)
		stats_inc(STAT_HTTP_2XX);
}

static void access_log(const struct exchange *exchange)
{
	const struct connection *connection = exchange->connection;
	static const struct addr none;
	const char *tls_version = "-";
	struct str tls_peer = STR("-");
	connection_describe_tls(connection->stream.tls, &tls_version, &tls_peer);
	log_info(
	    "request", LOG_UINT("connection", connection->id),
	    LOG_TEXT("direction", connection->inbound ? "inbound" : "outbound"),
	    LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
	    LOG_TEXT("protocol", "http1"), LOG_STR("method", exchange->method),
	    LOG_STR("authority", exchange->authority), LOG_STR("path", exchange->path),
	    LOG_UINT("status", exchange->status), LOG_TEXT("flag", exchange_flag_name(exchange->flag)),
	    LOG_STR("virtual_host", exchange->host ? exchange->host->name : STR("-")),
	    LOG_STR("route", exchange->route ? exchange->route->name : STR("-")),
	    LOG_STR("cluster", exchange->cluster ? exchange->cluster->name : STR("-")),
	    LOG_ADDR("endpoint", exchange->endpoint ? &exchange->endpoint->addr : &none),
	    LOG_UINT("attempts", exchange->attempts), LOG_UINT("request_bytes", exchange->request_bytes),
	    LOG_UINT("response_bytes", exchange->response_bytes),
	    LOG_UINT("duration_us", (loop_now(connection->dataplane->loop) - exchange->started_ns) / 1000),
	    LOG_TEXT("tls", tls_version), LOG_STR("tls_peer", tls_peer));
}

void exchange_finish(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	if (exchange->status)
		count_status(exchange->status);
	if (exchange->snapshot->model->access_log)
		access_log(exchange);
	loop_timer_stop(&exchange->timer);
	set_endpoint(exchange, NULL);
	bufq_clear(&exchange->request);
	bufq_clear(&exchange->replay);
	bufq_clear(&exchange->response_in);
	snapshot_unref(exchange->snapshot);
	connection->exchange = NULL;
	struct arena arena = exchange->arena;
	arena_done(&arena);
}

void exchange_abort(struct exchange *exchange, enum exchange_flag flag)
{
	if (!exchange->flag)
		exchange->flag = (uint8_t)flag;
	upstream_reset(exchange->upstream);
	exchange->upstream = NULL;
	exchange_finish(exchange);
}

void exchange_complete(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	bool persistent =
	    exchange->client_persistent && exchange->request_done && !connection->dataplane->draining;
	if (exchange->upstream) {
		if (exchange->upstream_persistent && exchange->request_done)
			upstream_release(exchange->upstream);
		else
			upstream_close(exchange->upstream);
		exchange->upstream = NULL;
	}
	exchange_finish(exchange);
	if (persistent)
		http1_server_next(connection);
	else
		connection_linger(connection);
}
