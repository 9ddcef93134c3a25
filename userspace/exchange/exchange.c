// SPDX-License-Identifier: Apache-2.0
#include "exchange/exchange.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "codecs/codec.h"
#include "codecs/grpc.h"
#include "codecs/http1_convert.h"
#include "codecs/http2_codes.h"
#include "exchange/framed_server.h"
#include "exchange/http1_client.h"
#include "exchange/http1_server.h"
#include "exchange/http2_client.h"
#include "exchange/tcp_client.h"
#include "exchange/transport.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>
#include <stdio.h>

enum {
	CONNECT_ATTEMPTS = 3,
	REPLAY_COPY_MAX = 512, // bytes
};

static void dispatch(struct exchange *exchange);

const char *exchange_flag_name(enum exchange_flag flag)
{
	static const char *const names[] = {
	    [EXCHANGE_OK] = "-",
	    [EXCHANGE_NO_ROUTE] = "NR",
	    [EXCHANGE_NO_ENDPOINT] = "UH",
	    [EXCHANGE_CONNECT_FAILED] = "UF",
	    [EXCHANGE_UPSTREAM_TERMINATED] = "UC",
	    [EXCHANGE_UPSTREAM_REFUSED] = "UR",
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

struct exchange *exchange_new(struct connection *connection, const struct exchange_server *server)
{
	struct arena arena = {0};
	struct exchange *exchange = arena_alloc(&arena, sizeof *exchange);
	if (!exchange)
		return NULL;
	*exchange = (struct exchange){.arena = arena,
				      .connection = connection,
				      .server = server,
				      .grpc_status = -1,
				      .snapshot = snapshot_ref(connection->dataplane->snapshot),
				      .started_ns = loop_now(connection->dataplane->loop)};
	loop_timer_init(&exchange->timer, on_request_timeout);
	return exchange;
}

// What is the exchange's own message lies in its arena already.
static struct str keep(struct exchange *exchange, const struct head *head, struct str text)
{
	if (head == &exchange->message.head)
		return text;
	const char *copy = arena_strdup(&exchange->arena, text.p, text.len);
	return copy ? (struct str){copy, text.len} : STR("");
}

// RFC 9110 9.2.2.
static bool is_idempotent(struct str method)
{
	return str_eq(method, STR("GET")) || str_eq(method, STR("HEAD")) || str_eq(method, STR("OPTIONS")) ||
	       str_eq(method, STR("PUT")) || str_eq(method, STR("DELETE")) || str_eq(method, STR("TRACE"));
}

static void remember(struct exchange *exchange, const struct head *head)
{
	exchange->method = keep(exchange, head, head->method);
	exchange->path = keep(exchange, head, head->path);
	exchange->authority = keep(exchange, head, head->authority);
	exchange->idempotent = is_idempotent(head->method);
	exchange->connection->requests++;
}

// The earlier one of the route's timeout and the caller's deadline.
static void start_timer(struct exchange *exchange)
{
	uint64_t limit_ms = exchange->route ? exchange->route->timeout_ms : 0, deadline_ms;
	struct str timeout = exchange->grpc ? exchange->message.grpc_timeout : STR("");
	if (timeout.len && grpc_timeout_parse(timeout, &deadline_ms) == 0 && deadline_ms < UINT32_MAX &&
	    (!limit_ms || deadline_ms < limit_ms))
		limit_ms = MAX(deadline_ms, (uint64_t)1);
	if (limit_ms)
		loop_timer_start(exchange->connection->dataplane->loop, &exchange->timer, limit_ms);
}

// As the client speaks, unless the cluster, or the rule for the inbound port, says otherwise.
static enum protocol protocol_wanted(const struct exchange *exchange, enum protocol spoken)
{
	const struct connection *connection = exchange->connection;
	enum cluster_protocol wanted = CLUSTER_AUTO;
	if (exchange->cluster)
		wanted = exchange->cluster->protocol;
	else if (connection->inbound)
		wanted = model_inbound(exchange->snapshot->model, connection->destination.port)->application;
	if (wanted == CLUSTER_AUTO || !transport_is_http(spoken))
		return spoken;
	return wanted == CLUSTER_HTTP2 ? PROTOCOL_HTTP2 : PROTOCOL_HTTP1;
}

static void choose_client(struct exchange *exchange, enum protocol spoken)
{
	enum protocol wanted = protocol_wanted(exchange, spoken);
	exchange->transport = exchange->cluster && exchange->cluster->transport == TRANSPORT_H2 &&
			      upstream_draw_tls(exchange->cluster);
	if (exchange->transport)
		exchange->inner = (uint8_t)wanted;
	if (exchange->transport || wanted == PROTOCOL_HTTP2)
		exchange->client = &http2_client;
	else
		exchange->client = wanted == PROTOCOL_HTTP1 ? &http1_client : &tcp_client;
}

// A cluster by virtual host and route, or (cluster NULL) the original destination. False: there is no route.
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
	if (!exchange->route)
		return false;
	exchange->cluster = route_pick(exchange->route, exchange->route->to_count > 1 ? random_u64() : 0);
	return true;
}

bool exchange_route(struct exchange *exchange, const struct head *head, enum protocol spoken)
{
	remember(exchange, head);
	if (transport_is_http(spoken))
		stats_inc(STAT_HTTP_REQUESTS);
	if (!find_route(exchange, head)) {
		stats_inc(STAT_HTTP_NO_ROUTE);
		exchange_reply(exchange, 404, "no route matches this request", EXCHANGE_NO_ROUTE);
		return false;
	}
	start_timer(exchange);
	choose_client(exchange, spoken);
	return true;
}

void exchange_carry(struct exchange *exchange, const struct virtual_host *host, const struct route *route,
		    const struct cluster *cluster, enum protocol protocol, struct str method)
{
	exchange->host = host;
	exchange->route = route;
	exchange->cluster = cluster;
	exchange->client = &http2_client;
	exchange->transport = true;
	exchange->inner = (uint8_t)protocol;
	exchange->method = exchange->message.head.method = method;
}

void exchange_start(struct exchange *exchange)
{
	int err = exchange->raw ? 0 : exchange->client->prepare(exchange);
	if (err == ERR_UNSUPPORTED)
		exchange_reply(exchange, 501, "this change of protocols cannot be passed on",
			       EXCHANGE_DOWNSTREAM_PROTOCOL);
	else if (err == ERR_MALFORMED)
		exchange_reply(exchange, 400, "the request cannot be passed on",
			       EXCHANGE_DOWNSTREAM_PROTOCOL);
	else if (err)
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
	else
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

// The connection that was dialled while the protocol was not known yet serves the first request, if it leads
// there.
static bool try_early(struct exchange *exchange)
{
	struct connection *connection = exchange->connection;
	struct upstream *early = connection_take_early(connection, exchange->cluster);
	connection_drop_early(connection);
	if (early && exchange->transport) {
		upstream_close(early); // made by a share of plaintext
		early = NULL;
	}
	if (!early)
		return false;
	exchange->attempts++;
	set_endpoint(exchange, endpoint_state_ref(early->endpoint));
	connection_set_endpoint(connection, early->endpoint);
	exchange->client->adopt(exchange, early);
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
		    upstream_target(endpoint, exchange->cluster, connection_side(connection));
		if (exchange->cluster && exchange->cluster->transport == TRANSPORT_H2)
			target.tls = target.transport = exchange->transport; // drawn once
		connection_set_endpoint(connection, endpoint);
		err = exchange->client->start(exchange, &target);
		if (!err)
			return;
	}
	if (err == ERR_NO_ENDPOINT)
		exchange_reply(exchange, 503, "no endpoint is available", EXCHANGE_NO_ENDPOINT);
	else if (err == ERR_LIMIT)
		exchange_reply(exchange, 503, "too many requests wait for the upstream", EXCHANGE_OVERLOADED);
	else
		exchange_reply(exchange, 503, "the upstream could not be reached", EXCHANGE_CONNECT_FAILED);
}

static bool is_ready(const struct exchange *exchange)
{
	return exchange->client && exchange->client->ready(exchange);
}

bool exchange_takes_body(struct exchange *exchange)
{
	if (exchange->wants_tunnel && !exchange->tunnel)
		return false;
	return is_ready(exchange) ? !exchange->client->congested(exchange)
				  : exchange->request.bytes < LIMIT_HTTP_RETRY_BYTES;
}

void exchange_forget_sent(struct exchange *exchange)
{
	exchange->replay_first.len = 0;
	bufq_clear(&exchange->replay);
}

// To refer to a few bytes would keep the chunk that they were received in from being used again.
static int copy_first(struct exchange *exchange, struct slice slice)
{
	const char *copy = arena_strdup(&exchange->arena, (const char *)slice.p, slice.len);
	if (!copy)
		return -ENOMEM;
	exchange->replay_first = (struct str){copy, slice.len};
	return 0;
}

static int keep_sent(struct exchange *exchange, const struct bufq *bytes)
{
	size_t before = exchange->replay_first.len + exchange->replay.bytes;
	struct slice first = bufq_first(bytes);
	if (before + bytes->bytes > LIMIT_HTTP_RETRY_BYTES)
		return ERR_LIMIT;
	if (before || first.len < bytes->bytes || first.len > REPLAY_COPY_MAX)
		return bufq_clone(&exchange->replay, bytes);
	return copy_first(exchange, first);
}

static void remember_for_replay(struct exchange *exchange, const struct bufq *bytes)
{
	if (!exchange->kept || exchange->response_started || bufq_empty(bytes))
		return;
	if (keep_sent(exchange, bytes)) {
		exchange->kept = false;
		exchange_forget_sent(exchange);
	}
}

// Payload of no known length becomes chunks for an endpoint of HTTP/1.
static int frame_request(struct exchange *exchange, struct bufq *bytes)
{
	int err = http1_write_chunk(bytes);
	if (!err && exchange->request_done)
		err = http1_write_end(bytes, exchange->request_trailers, exchange->request_trailer_count);
	return err;
}

void exchange_send(struct exchange *exchange, struct bufq *bytes)
{
	if (exchange->wants_tunnel && !exchange->tunnel) {
		bufq_move_all(&exchange->request_in, bytes);
		return;
	}
	if (exchange->denied)
		bufq_clear(bytes); // to an endpoint of HTTP/1 it would be the next request
	if (exchange->chunk_request && frame_request(exchange, bytes)) {
		bufq_clear(bytes);
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
		return;
	}
	if (!is_ready(exchange)) {
		bufq_move_all(&exchange->request, bytes);
		return;
	}
	exchange_send_ready(exchange, bytes);
}

void exchange_send_ready(struct exchange *exchange, struct bufq *bytes)
{
	remember_for_replay(exchange, bytes);
	exchange->client->send(exchange, bytes);
}

// --- the response -------------------------------------------------------------------------------------------
int exchange_interim(struct exchange *exchange, struct message *message)
{
	if (++exchange->interim > LIMIT_HTTP_INTERIM || exchange->response_started) {
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
		return ERR_CLOSED;
	}
	if (message->head.status == 100)
		exchange->awaits_continue = false;
	if (exchange->client_http10 || exchange->server->interim(exchange, message) == 0)
		return 0; // a client of HTTP/1.0 knows none (RFC 9110 15.2)
	exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
	return ERR_CLOSED;
}

static void note_grpc_status(struct exchange *exchange, const struct field *fields, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (field_known(&fields[i]) != FIELD_GRPC_STATUS)
			continue;
		exchange->grpc_status = (int16_t)grpc_status_parse(fields[i].value);
		return; // the first counts
	}
}

static void retry(struct exchange *exchange);
static int rewind_request(struct exchange *exchange);

// An answer that says nothing but "not available": the caller may as well hear another endpoint's.
static bool try_elsewhere(struct exchange *exchange, const struct message *message)
{
	if (!exchange->grpc || !message->end)
		return false;
	note_grpc_status(exchange, message->head.fields, message->head.field_count);
	if (exchange->grpc_status != GRPC_UNAVAILABLE || !exchange->route ||
	    exchange->attempts > exchange->route->retries || !exchange->kept)
		return false;
	exchange->client->release(exchange, RELEASE_WHOLE);
	if (rewind_request(exchange)) {
		exchange_reply(exchange, 503, "out of memory", EXCHANGE_NO_ENDPOINT);
		return true;
	}
	exchange->grpc_status = -1;
	retry(exchange);
	return true;
}

// From here on both sides are just bytes: what the client sent ahead goes first.
static void open_tunnel(struct exchange *exchange)
{
	struct bufq bytes = exchange->request_in;
	exchange->request_in = (struct bufq){0};
	exchange->chunk_request = false;
	if (bytes.bytes || exchange->request_done)
		exchange_send(exchange, &bytes);
}

int exchange_head(struct exchange *exchange, struct message *message)
{
	unsigned status = message->head.status;
	bool granted =
	    exchange->wants_tunnel && (exchange->message.upgrade.len ? status == 101 : status / 100 == 2);
	if (exchange->response_started || (status == 101 && !granted)) {
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
		return ERR_CLOSED;
	}
	if (try_elsewhere(exchange, message))
		return ERR_CLOSED;
	exchange->status = (uint16_t)status;
	exchange->tunnel = granted;
	exchange->denied = exchange->wants_tunnel && !granted;
	exchange->wants_tunnel = granted;
	exchange_forget_sent(exchange);
	if (exchange->server->head(exchange, message)) {
		exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
		return ERR_CLOSED;
	}
	exchange->response_started = true;
	if (granted)
		open_tunnel(exchange);
	return 0;
}

int exchange_body(struct exchange *exchange, struct bufq *bytes)
{
	if (bufq_empty(bytes))
		return 0;
	exchange->response_bytes += bytes->bytes;
	int err = exchange->server->body(exchange, bytes);
	if (!err)
		return 0;
	bufq_clear(bytes);
	exchange_upstream_failed(
	    exchange, err == -ENOMEM ? EXCHANGE_UPSTREAM_TERMINATED : EXCHANGE_UPSTREAM_PROTOCOL, err);
	return ERR_CLOSED;
}

int exchange_trailers(struct exchange *exchange, const struct field *fields, size_t count)
{
	if (exchange->grpc)
		note_grpc_status(exchange, fields, count);
	if (exchange->server->trailers(exchange, fields, count) == 0)
		return 0;
	exchange_upstream_failed(exchange, EXCHANGE_UPSTREAM_PROTOCOL, ERR_MALFORMED);
	return ERR_CLOSED;
}

// --- failures -----------------------------------------------------------------------------------------------
static bool was_reused(const struct exchange *exchange)
{
	return exchange->upstream && exchange->upstream->reused;
}

// Whether what was sent may be sent again: nothing of a response came, all of it is still here, and repeating
// is harmless (RFC 9110 9.2.2), or the endpoint did not begin with it. A pooled connection that turned out
// dead does not count as an attempt of the user's.
static bool may_repeat(const struct exchange *exchange, enum exchange_flag flag)
{
	if (exchange->response_started || exchange->response_in.bytes || exchange->refused)
		return false;
	if (flag == EXCHANGE_CONNECT_FAILED)
		return exchange->attempts < connect_attempts(exchange);
	if (flag == EXCHANGE_UPSTREAM_REFUSED)
		return exchange->kept && exchange->attempts < MAX(connect_attempts(exchange), 2u);
	if (flag != EXCHANGE_UPSTREAM_TERMINATED || !exchange->kept)
		return false;
	if (exchange->client->untouched(exchange))
		return true;
	return exchange->idempotent &&
	       (was_reused(exchange) || (exchange->route && exchange->attempts <= exchange->route->retries));
}

static int rewind_request(struct exchange *exchange)
{
	struct bufq whole = {0};
	if (bufq_add_copy(&whole, exchange->replay_first.p, exchange->replay_first.len))
		return -ENOMEM;
	exchange->replay_first.len = 0;
	bufq_move_all(&whole, &exchange->replay);
	bufq_move_all(&whole, &exchange->request);
	exchange->request = whole;
	return 0;
}

static void retry(struct exchange *exchange)
{
	stats_inc(STAT_HTTP_RETRIES);
	exchange->reset_code = HTTP2_NO_ERROR; // of the attempt that is over
	dispatch(exchange);
}

void exchange_upstream_failed(struct exchange *exchange, enum exchange_flag flag, int err)
{
	bool reused = was_reused(exchange);
	bool repeat = may_repeat(exchange, flag);
	exchange->client->release(exchange, RELEASE_FAILED);
	if (repeat && rewind_request(exchange) == 0) {
		exchange->fresh_only = reused;
		if (reused)
			exchange->attempts--;
		retry(exchange);
		return;
	}
	if (flag == EXCHANGE_CONNECT_FAILED)
		exchange_reply(exchange, 503,
			       err == -ETIMEDOUT ? "connecting to the upstream took too long"
						 : "the upstream could not be reached",
			       flag);
	else if (flag == EXCHANGE_UPSTREAM_REFUSED)
		exchange_reply(exchange, 503, "the upstream refused the request", flag);
	else if (flag == EXCHANGE_UPSTREAM_PROTOCOL)
		exchange_reply(exchange, 502, "the upstream's response is not valid HTTP", flag);
	else if (exchange->grpc && exchange->reset_code)
		exchange_reply(exchange, 502, "the upstream reset the call", flag);
	else
		exchange_reply(exchange, 502,
			       "the upstream closed the connection before its response was complete", flag);
}

static void release(struct exchange *exchange, enum release how)
{
	if (exchange->client)
		exchange->client->release(exchange, how);
}

// Too late for an answer. A caller of gRPC may still be told in trailers that its deadline is over.
static void end_late(struct exchange *exchange)
{
	static const struct field over[] = {
	    {.name = STR("grpc-status"), .value = STR("4")},
	    {.name = STR("grpc-message"), .value = STR("the deadline is over")}};
	if (exchange->grpc && exchange->flag == EXCHANGE_TIMEOUT && !exchange->trailers_sent &&
	    exchange->server->trailers(exchange, over, ARRAY_SIZE(over)) == 0) {
		exchange->grpc_status = GRPC_DEADLINE_EXCEEDED;
		exchange_complete(exchange);
	} else {
		exchange->server->reset(exchange);
	}
}

void exchange_reply(struct exchange *exchange, unsigned status, const char *text, enum exchange_flag flag)
{
	exchange->flag = (uint8_t)flag;
	release(exchange, RELEASE_CUT);
	if (exchange->response_started) {
		end_late(exchange);
		return;
	}
	if (!exchange->request_done)
		exchange->client_persistent = false;
	exchange->refused = true;
	exchange->response_started = true;
	exchange->wants_tunnel = false;
	exchange->status = (uint16_t)status;
	if (exchange->server->reply(exchange, status, text))
		exchange->server->reset(exchange);
	else
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

static void count_grpc_status(int status)
{
	stats_inc(status == GRPC_OK		     ? STAT_GRPC_OK
		  : status == GRPC_CANCELLED	     ? STAT_GRPC_CANCELLED
		  : status == GRPC_DEADLINE_EXCEEDED ? STAT_GRPC_DEADLINE
		  : status == GRPC_UNAVAILABLE	     ? STAT_GRPC_UNAVAILABLE
		  : status < 0			     ? STAT_GRPC_NONE
						     : STAT_GRPC_ERROR);
}

static const char *protocol_of(const struct exchange *exchange)
{
	if (exchange->grpc)
		return "grpc";
	if (exchange->codec)
		return exchange->codec->name;
	if (exchange->inner)
		return protocol_name(exchange->inner);
	return protocol_name(exchange->connection->protocol);
}

// As the client counts: streams of HTTP/2 have ids, requests of HTTP/1 come one after another.
static uint64_t request_id(const struct exchange *exchange)
{
	return exchange->down.id ? (uint64_t)exchange->down.id : exchange->connection->requests;
}

// Of gRPC, "/service/method" says more than POST does. The service is empty if there is none.
static void name_call(const struct exchange *exchange, struct str *ret_service, struct str *ret_method)
{
	struct str path = exchange->path;
	*ret_service = STR("");
	*ret_method = exchange->method;
	if (!exchange->grpc || !path.len || path.p[0] != '/')
		return;
	path = (struct str){path.p + 1, path.len - 1};
	ptrdiff_t slash = str_find(path, '/');
	if (slash <= 0)
		return;
	*ret_service = (struct str){path.p, (size_t)slash};
	*ret_method = (struct str){path.p + slash + 1, path.len - (size_t)slash - 1};
}

static void access_log(const struct exchange *exchange)
{
	char grpc_status[8] = "-";
	struct str service, method;
	const struct connection *connection = exchange->connection;
	static const struct addr none;
	const char *tls_version = "-";
	struct str tls_peer = STR("-");
	connection_describe_tls(connection->stream.tls, &tls_version, &tls_peer);
	name_call(exchange, &service, &method);
	if (exchange->grpc_status >= 0)
		snprintf(grpc_status, sizeof grpc_status, "%d", exchange->grpc_status);
	log_info(
	    "request", LOG_UINT("connection", connection->id),
	    LOG_TEXT("direction", connection->inbound ? "inbound" : "outbound"),
	    LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
	    LOG_TEXT("protocol", protocol_of(exchange)), LOG_STR("service", service.len ? service : STR("-")),
	    LOG_STR("method", method), LOG_UINT("request_id", request_id(exchange)),
	    LOG_STR("authority", exchange->authority), LOG_STR("path", exchange->path),
	    LOG_UINT("status", exchange->status), LOG_TEXT("flag", exchange_flag_name(exchange->flag)),
	    LOG_STR("virtual_host", exchange->host ? exchange->host->name : STR("-")),
	    LOG_STR("route", exchange->route ? exchange->route->name : STR("-")),
	    LOG_STR("cluster", exchange->cluster ? exchange->cluster->name : STR("-")),
	    LOG_ADDR("endpoint", exchange->endpoint ? &exchange->endpoint->addr : &none),
	    LOG_UINT("attempts", exchange->attempts), LOG_UINT("request_bytes", exchange->request_bytes),
	    LOG_UINT("response_bytes", exchange->response_bytes),
	    LOG_UINT("duration_us", (loop_now(connection->dataplane->loop) - exchange->started_ns) / 1000),
	    LOG_TEXT("transport", exchange->transport || connection->transport ? "h2" : "-"),
	    LOG_TEXT("tls", tls_version), LOG_STR("tls_peer", tls_peer),
	    LOG_TEXT("grpc_status", grpc_status));
}

void exchange_finish(struct exchange *exchange)
{
	bool http = !exchange->inner || transport_is_http(exchange->inner);
	if (exchange->status && http)
		count_status(exchange->status);
	if (exchange->grpc)
		count_grpc_status(exchange->grpc_status);
	if (exchange->snapshot->model->access_log && !exchange->silent)
		access_log(exchange);
	loop_timer_stop(&exchange->timer);
	set_endpoint(exchange, NULL);
	bufq_clear(&exchange->request);
	bufq_clear(&exchange->replay);
	bufq_clear(&exchange->response_in);
	bufq_clear(&exchange->request_in);
	snapshot_unref(exchange->snapshot);
	exchange->server->detach(exchange);
	struct arena arena = exchange->arena;
	arena_done(&arena);
}

void exchange_note_reset(struct exchange *exchange, uint32_t code)
{
	if (exchange->grpc && exchange->grpc_status < 0)
		exchange->grpc_status = (int16_t)grpc_status_of_reset(code);
}

void exchange_abort(struct exchange *exchange, enum exchange_flag flag)
{
	exchange_note_reset(exchange, flag == EXCHANGE_DOWNSTREAM_GONE ? HTTP2_CANCEL : HTTP2_PROTOCOL_ERROR);
	if (!exchange->flag)
		exchange->flag = (uint8_t)flag;
	release(exchange, RELEASE_CUT);
	exchange_finish(exchange);
}

void exchange_complete(struct exchange *exchange)
{
	if (exchange->tunnel && !exchange->request_done && !exchange->response_done && !exchange->flag) {
		exchange->response_done = true;
		exchange->server->half_close(exchange);
		return;
	}
	release(exchange, RELEASE_WHOLE);
	loop_timer_stop(&exchange->timer);
	exchange->server->complete(exchange);
}

void exchange_describe(const struct exchange *exchange, struct conn_info *info)
{
	if (exchange->host)
		info->virtual_host = exchange->host->name;
	if (exchange->cluster)
		info->cluster = exchange->cluster->name;
	if (exchange->transport)
		info->transport = "h2";
	if (exchange->endpoint)
		info->endpoint = exchange->endpoint->addr;
	if (exchange->framed)
		framed_server_describe(exchange->framed, info);
	if (exchange->client)
		connection_describe_tls(exchange->client->tls(exchange), &info->upstream_tls_version,
					&info->upstream_tls_peer);
}

void exchange_describe_stream(const struct exchange *exchange, struct stream_info *ret_info)
{
	static const struct addr none;
	*ret_info = (struct stream_info){
	    .id = request_id(exchange),
	    .protocol = protocol_of(exchange),
	    .authority = exchange->authority,
	    .path = exchange->path,
	    .answered = exchange->status != 0,
	    .status = exchange->status,
	    .grpc_status = exchange->grpc_status,
	    .virtual_host = exchange->host ? exchange->host->name : STR(""),
	    .cluster = exchange->cluster ? exchange->cluster->name : STR(""),
	    .endpoint = exchange->endpoint ? exchange->endpoint->addr : none,
	    .started_ns = exchange->started_ns,
	};
	name_call(exchange, &ret_info->service, &ret_info->method);
}
