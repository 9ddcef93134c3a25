// SPDX-License-Identifier: Apache-2.0
#include "exchange/call.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/carried_call.h"
#include "exchange/framed_server.h"
#include "exchange/framed_upstream.h"
#include "run/stats.h"

#include <errno.h>

enum { CONNECT_ATTEMPTS = 3, SPARE_CALLS = 1024 };

struct pool call_pool_init(void)
{
	return POOL_INIT(struct call, SPARE_CALLS);
}

static struct connection *connection_of(const struct call *call)
{
	return call->server->connection;
}

static struct dataplane *dataplane_of(const struct call *call)
{
	return connection_of(call)->dataplane;
}

static const struct framed_codec *codec_of(const struct call *call)
{
	return call->server->codec;
}

// --- beginning ----------------------------------------------------------------------------------------------
static void on_deadline(struct loop_timer *timer)
{
	struct call *call = container_of(timer, struct call, timer);
	stats_inc(STAT_RPC_TIMEOUTS);
	call_fail(call, RPC_TIMEOUT, EXCHANGE_TIMEOUT);
}

static struct call *call_new(struct framed_server *server, const struct frame *frame)
{
	struct dataplane *dataplane = server->connection->dataplane;
	struct call *call = pool_get(&dataplane->call_pool);
	if (!call)
		return NULL;
	memset(call, 0, offsetof(struct call, names));
	list_init(&call->waiting);
	loop_timer_init(&call->timer, on_deadline);
	call->server = server;
	call->frame = *frame;
	call->snapshot = snapshot_ref(dataplane->snapshot);
	call->started_ns = loop_now(dataplane->loop);
	list_append(&server->calls, &call->node);
	server->call_count++;
	server->connection->requests++;
	stats_inc(STAT_RPC_REQUESTS);
	return call;
}

static uint8_t keep_name(char *to, size_t room, struct str name)
{
	size_t len = MIN(name.len, room);
	if (len)
		memcpy(to, name.p, len);
	return (uint8_t)len;
}

// A long service leaves some room for the method.
static void keep_names(struct call *call, const struct head *head)
{
	enum { METHOD_ROOM = 48 };
	size_t room = CALL_NAMES - MIN(head->method.len, (size_t)METHOD_ROOM);
	call->service_len = keep_name(call->names, room, head->authority);
	call->method_len =
	    keep_name(call->names + call->service_len, CALL_NAMES - call->service_len, head->method);
}

// --- routing ------------------------------------------------------------------------------------------------
// Of two limits, of which 0 is none.
static uint32_t shorter(uint32_t a_ms, uint32_t b_ms)
{
	return a_ms && b_ms ? MIN(a_ms, b_ms) : MAX(a_ms, b_ms);
}

static void start_deadline(struct call *call)
{
	uint32_t route_ms = call->route ? call->route->timeout_ms : 0;
	if (!call_awaits_answer(call))
		return;
	call->timeout_ms = shorter(shorter(call->frame.timeout_ms, route_ms), call->server->timeout_ms);
	if (call->timeout_ms)
		loop_timer_start(dataplane_of(call)->loop, &call->timer, call->timeout_ms);
}

// Finds where the call goes: a cluster by virtual host and route, or (cluster NULL) the original destination.
// 0 or ERR_NOT_FOUND: no route matches.
static int find_route(struct call *call, struct head *head)
{
	static __thread char path[LIMIT_RPC_NAME * 2 + 2];
	const struct connection *connection = connection_of(call);
	if (connection->inbound)
		return 0;
	call->host = framed_server_host(call->server);
	if (!call->host)
		call->host = model_host_by_service(call->snapshot->model, head->authority,
						   connection->destination.port);
	if (!call->host)
		return model_is_virtual(call->snapshot->model, &connection->destination.ip) ? ERR_NOT_FOUND
											    : 0;
	head->path = head_rpc_path(head, path);
	call->route = route_match(call->host, head);
	if (!call->route)
		return ERR_NOT_FOUND;
	call->cluster = route_pick(call->route, call->route->to_count > 1 ? random_u64() : 0);
	return 0;
}

// Reads what routing wants. 0, ERR_MALFORMED, ERR_LIMIT or -ENOMEM.
static int read_head(struct call *call, struct head *head)
{
	const struct framed_codec *codec = codec_of(call);
	int err = frame_is_whole(&call->frame) ? frames_check(&call->frame, &call->request) : 0;
	const uint8_t *bytes = err ? NULL : bufq_pull(&call->request, call->frame.head);
	if (!bytes)
		return err ? err : -ENOMEM;
	err = codec->decode(codec, &call->frame, (struct str){(const char *)bytes, call->frame.head},
			    LIMIT_RPC_FIELDS, head);
	if (!err && (head->authority.len > LIMIT_RPC_NAME || head->method.len > LIMIT_RPC_NAME))
		err = ERR_LIMIT;
	return err;
}

// --- an attempt ---------------------------------------------------------------------------------------------
static void set_endpoint(struct call *call, struct endpoint_state *endpoint)
{
	if (call->endpoint) {
		call->endpoint->active--;
		endpoint_state_unref(call->endpoint);
	}
	if (endpoint)
		endpoint->active++;
	call->endpoint = endpoint;
}

// A reference to the endpoint to try, other than the last one where there is a choice. NULL: none.
static struct endpoint_state *pick(struct call *call)
{
	struct dataplane *dataplane = dataplane_of(call);
	if (!call->cluster)
		return framed_server_direct(call->server);
	struct endpoint_state *endpoint =
	    balancer_pick(dataplane->balancer, call->cluster, call->endpoint, loop_now(dataplane->loop));
	return endpoint ? endpoint_state_ref(endpoint) : NULL;
}

// An original destination is one address: asking it again at once gives the same answer.
static unsigned connect_attempts(const struct call *call)
{
	unsigned retries = call->route ? call->route->retries : 0;
	return call->cluster ? MAX((unsigned)CONNECT_ATTEMPTS, retries + 1) : 1;
}

static void dispatch(struct call *call)
{
	int err = ERR_NO_ENDPOINT;
	while (call->attempts < connect_attempts(call)) {
		struct endpoint_state *endpoint = pick(call);
		call->attempts++;
		set_endpoint(call, endpoint);
		if (!endpoint)
			break;
		struct upstream_target target =
		    upstream_target(endpoint, call->cluster, connection_side(connection_of(call)));
		if (target.transport) // by its share this one is among those without TLS, see begin
			target.tls = target.transport = false;
		err = framed_upstream_call(call, &target);
		if (!err)
			return;
		if (err == ERR_LIMIT)
			break;
	}
	if (err == ERR_LIMIT)
		call_fail(call, RPC_OVERLOADED, EXCHANGE_OVERLOADED);
	else
		call_fail(call, RPC_UNAVAILABLE,
			  call->endpoint ? EXCHANGE_CONNECT_FAILED : EXCHANGE_NO_ENDPOINT);
}

void call_unsent(struct call *call)
{
	call->upstream = NULL;
	if (call->attempts < connect_attempts(call))
		stats_inc(STAT_RPC_RETRIES);
	dispatch(call);
}

// In a stream between sidecars, or on a connection that calls share.
static void begin(struct call *call, const struct head *head)
{
	const struct cluster *cluster = call->cluster;
	if (cluster && cluster->transport == TRANSPORT_H2 && upstream_draw_tls(cluster))
		carried_call_start(call, head);
	else
		dispatch(call);
}

int call_start(struct framed_server *server, const struct frame *frame, struct bufq *in)
{
	static __thread struct field fields[LIMIT_RPC_FIELDS];
	struct head head = {.fields = fields, .authority = STR(""), .method = STR("")};
	const struct framed_codec *codec = server->codec;
	struct call *call = call_new(server, frame);
	if (!call)
		return -ENOMEM;
	int err = bufq_move(&call->request, in, (size_t)frame_wanted(frame));
	if (err) {
		call_drop(call);
		return err;
	}
	framed_server_expect(call);
	err = read_head(call, &head);
	if (err) {
		stats_inc(STAT_RPC_REFUSED);
		call_fail(call, err == -ENOMEM ? RPC_OVERLOADED : RPC_MALFORMED,
			  EXCHANGE_DOWNSTREAM_PROTOCOL);
		bool ends = frame->checksum || !codec_is_usable(codec);
		return err == ERR_MALFORMED && ends ? err : 0;
	}
	keep_names(call, &head);
	if (find_route(call, &head)) {
		call_fail(call, RPC_NO_ROUTE, EXCHANGE_NO_ROUTE);
		return 0;
	}
	start_deadline(call);
	begin(call, &head);
	return 0;
}

// --- the end ------------------------------------------------------------------------------------------------
void call_note_answer(struct call *call, const struct frame *answer)
{
	call->status = answer->status;
	call->http_status = codec_of(call)->http_status(codec_of(call), answer->status);
	call->response_bytes = answer->length;
}

void call_complete(struct call *call)
{
	stats_inc(call->http_status < 400 ? STAT_RPC_OK : STAT_RPC_ERROR);
	call_finish(call);
}

void call_fail(struct call *call, enum rpc_failure failure, enum exchange_flag flag)
{
	static const char *const texts[] = {
	    [RPC_NO_ROUTE] = "no route matches this call",
	    [RPC_UNAVAILABLE] = "no endpoint could be reached",
	    [RPC_LOST] = "the connection to the endpoint was lost",
	    [RPC_TIMEOUT] = "the endpoint did not answer in time",
	    [RPC_OVERLOADED] = "too many calls are under way",
	    [RPC_MALFORMED] = "the frame cannot be read",
	};
	const struct framed_codec *codec = codec_of(call);
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	struct frame answer;
	call->flag = (uint8_t)flag;
	stats_inc(STAT_RPC_FAILED);
	if (call->answered) {
		framed_server_reset(call->server); // half of an answer is there already
		return;
	}
	if (call_awaits_answer(call)) {
		writer_init(&w, bytes, sizeof bytes);
		codec->write_failure(codec, &call->frame, failure, str_from(texts[failure]), &w);
		if (codec->measure(codec, (struct str){(const char *)bytes, w.len}, &answer) == 0)
			call_note_answer(call, &answer);
		call->response_bytes = w.len;
		if (!w.len)
			call->server->draining = true; // a plug-in that cannot say it: the end is the answer
		if (!framed_server_reply(call->server, bytes, w.len))
			return;
	}
	call_finish(call);
}

static void access_log(const struct call *call)
{
	const struct connection *connection = connection_of(call);
	static const struct addr none;
	const char *tls_version = "-";
	struct str tls_peer = STR("-");
	const struct exchange *carrier = call->carrier;
	const struct endpoint_state *endpoint = carrier ? carrier->endpoint : call->endpoint;
	connection_describe_tls(connection->stream.tls, &tls_version, &tls_peer);
	log_info("call", LOG_UINT("connection", connection->id),
		 LOG_TEXT("direction", connection->inbound ? "inbound" : "outbound"),
		 LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
		 LOG_TEXT("protocol", codec_of(call)->name), LOG_STR("service", call_service(call)),
		 LOG_STR("method", call_method(call)), LOG_UINT("request_id", call->frame.id),
		 LOG_TEXT("kind", call_awaits_answer(call) ? "request" : "oneway"),
		 LOG_UINT("status", call->status), LOG_UINT("http_status", call->http_status),
		 LOG_TEXT("flag", exchange_flag_name(call->flag)),
		 LOG_STR("virtual_host", call->host ? call->host->name : STR("-")),
		 LOG_STR("route", call->route ? call->route->name : STR("-")),
		 LOG_STR("cluster", call->cluster ? call->cluster->name : STR("-")),
		 LOG_ADDR("endpoint", endpoint ? &endpoint->addr : &none),
		 LOG_UINT("attempts", carrier ? carrier->attempts : call->attempts), LOG_UINT("request_bytes", call->frame.length),
		 LOG_UINT("response_bytes", call->response_bytes),
		 LOG_UINT("duration_us", (loop_now(connection->dataplane->loop) - call->started_ns) / 1000),
		 LOG_TEXT("transport", carrier || connection->transport ? "h2" : "-"),
		 LOG_TEXT("tls", tls_version), LOG_STR("tls_peer", tls_peer));
}

void call_finish(struct call *call)
{
	struct framed_server *server = call->server;
	struct dataplane *dataplane = dataplane_of(call);
	if (call->snapshot->model->access_log)
		access_log(call);
	framed_upstream_forget(call);
	carried_call_forget(call);
	loop_timer_stop(&call->timer);
	set_endpoint(call, NULL);
	bufq_clear(&call->request);
	snapshot_unref(call->snapshot);
	list_del(&call->node);
	framed_server_forget(server, call);
	pool_put(&dataplane->call_pool, call);
}

void call_drop(struct call *call)
{
	if (!call->flag)
		call->flag = EXCHANGE_DOWNSTREAM_GONE;
	call_finish(call);
}
