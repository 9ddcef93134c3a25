// SPDX-License-Identifier: Apache-2.0
#include "exchange/streamed_server.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/framed_upstream.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

enum { CONNECT_ATTEMPTS = 3, SPARE_SERVERS = 64 };

static const struct stream_ops server_ops;
static void server_read(struct streamed_server *server);
static void dispatch(struct streamed_server *server);

static struct streamed_server *from_stream(struct stream *stream)
{
	return container_of(stream, struct connection, stream)->streamed;
}

static struct dataplane *dataplane_of(const struct streamed_server *server)
{
	return server->connection->dataplane;
}

struct pool streamed_server_pool_init(void)
{
	return POOL_INIT(struct streamed_server, SPARE_SERVERS);
}

static struct str service_of(const struct streamed_server *server)
{
	return (struct str){server->names, server->service_len};
}

static struct str method_of(const struct streamed_server *server)
{
	return (struct str){server->names + server->service_len, server->method_len};
}

// --- the end of a request -----------------------------------------------------------------------------------
static void set_endpoint(struct streamed_server *server, struct endpoint_state *endpoint)
{
	if (server->endpoint) {
		server->endpoint->active--;
		endpoint_state_unref(server->endpoint);
	}
	if (endpoint)
		endpoint->active++;
	server->endpoint = endpoint;
}

static void access_log(const struct streamed_server *server)
{
	const struct connection *connection = server->connection;
	static const struct addr none;
	const char *tls_version = "-";
	struct str tls_peer = STR("-");
	connection_describe_tls(connection->stream.tls, &tls_version, &tls_peer);
	log_info("call", LOG_UINT("connection", connection->id),
		 LOG_TEXT("direction", connection->inbound ? "inbound" : "outbound"),
		 LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
		 LOG_TEXT("protocol", server->codec->name), LOG_STR("service", service_of(server)),
		 LOG_STR("method", method_of(server)),
		 LOG_TEXT("kind", server->oneway ? "oneway" : "request"), LOG_UINT("status", server->status),
		 LOG_UINT("http_status", server->http_status),
		 LOG_TEXT("flag", exchange_flag_name(server->flag)),
		 LOG_STR("virtual_host", server->host ? server->host->name : STR("-")),
		 LOG_STR("route", server->route ? server->route->name : STR("-")),
		 LOG_STR("cluster", server->cluster ? server->cluster->name : STR("-")),
		 LOG_ADDR("endpoint", server->endpoint ? &server->endpoint->addr : &none),
		 LOG_UINT("attempts", server->attempts), LOG_UINT("request_bytes", server->request_bytes),
		 LOG_UINT("response_bytes", server->answer_bytes),
		 LOG_UINT("duration_us", (loop_now(connection->dataplane->loop) - server->started_ns) / 1000),
		 LOG_TEXT("tls", tls_version), LOG_STR("tls_peer", tls_peer));
}

// A connection that carried both messages to their ends, and nothing more, serves others.
static void leave_upstream(struct streamed_server *server, bool clean)
{
	struct upstream *upstream = server->upstream;
	server->upstream = NULL;
	if (!upstream)
		return;
	if (clean)
		upstream_release(upstream, server->codec);
	else
		upstream_reset(upstream);
}

static void finish(struct streamed_server *server, bool clean)
{
	leave_upstream(server, clean && !server->partial && bufq_empty(&server->answer));
	if (server->snapshot->model->access_log)
		access_log(server);
	loop_timer_stop(&server->timer);
	set_endpoint(server, NULL);
	bufq_clear(&server->request);
	bufq_clear(&server->answer);
	snapshot_unref(server->snapshot);
	server->snapshot = NULL;
	server->active = false;
	if (connection_is_draining(server->connection) && bufq_empty(&server->connection->in))
		server->ended = true; // this was the last one
}

static void on_next(struct loop_task *task)
{
	struct streamed_server *server = container_of(task, struct streamed_server, task);
	struct connection *connection = server->connection;
	if (!connection->closed && connection->stream.ops == &server_ops)
		server_read(server);
}

// The next request, from the end of the turn on.
static void next(struct streamed_server *server)
{
	if (!server->connection->closed)
		loop_defer(dataplane_of(server)->loop, &server->task, on_next);
}

static void complete(struct streamed_server *server)
{
	stats_inc(server->http_status >= 400 ? STAT_RPC_ERROR : STAT_RPC_OK);
	finish(server, true);
	next(server);
}

// The answer by the proxy itself; where half of one was passed on, or the codec has none, the connection's
// end says it.
static void fail(struct streamed_server *server, enum rpc_failure failure, enum exchange_flag flag)
{
	static const char *const texts[] = {
	    [RPC_NO_ROUTE] = "no route matches this request",
	    [RPC_UNAVAILABLE] = "no endpoint could be reached",
	    [RPC_LOST] = "the connection to the endpoint was lost",
	    [RPC_TIMEOUT] = "the endpoint did not answer in time",
	    [RPC_OVERLOADED] = "too many requests are under way",
	    [RPC_MALFORMED] = "the answer cannot be read",
	};
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	struct bufq out = {0};
	server->flag = (uint8_t)flag;
	stats_inc(STAT_RPC_FAILED);
	writer_init(&w, bytes, sizeof bytes);
	if (!server->oneway && !server->answered)
		server->codec->streamed->write_failure(server->codec, server->tag, failure,
						       str_from(texts[failure]), &w);
	if ((!server->oneway && !w.len) || bufq_add_copy(&out, bytes, w.len)) {
		connection_reset(server->connection);
		return;
	}
	server->answer_bytes = w.len;
	stream_write(&server->connection->stream, &out);
	server->ended |= !codec_is_usable(server->codec);
	finish(server, false);
	next(server);
}

static void on_deadline(struct loop_timer *timer)
{
	struct streamed_server *server = container_of(timer, struct streamed_server, timer);
	stats_inc(STAT_RPC_TIMEOUTS);
	fail(server, RPC_TIMEOUT, EXCHANGE_TIMEOUT);
}

// --- answers ------------------------------------------------------------------------------------------------
static void start_answer(struct streamed_server *server, const struct stream_piece *piece)
{
	server->answered = true;
	server->status = piece->status;
	server->http_status = server->codec->http_status(server->codec, piece->status);
}

// Passes on one piece. 0, ERR_CLOSED (that was the last one), or an error.
static int pass_piece(struct streamed_server *server)
{
	struct bufq out = {0};
	struct stream_piece piece;
	struct slice bytes;
	int err = bufq_flatten(&server->answer, &bytes);
	if (!err)
		err = server->codec->streamed->read_response(
		    server->codec, &server->answer_state, server->tag,
		    (struct str){(const char *)bytes.p, bytes.len}, &piece);
	if (!err && !(piece.flags & PIECE_START) == !server->answered)
		err = ERR_MALFORMED;
	if (!err && !server->answered)
		start_answer(server, &piece);
	if (!err)
		err = bufq_move(&out, &server->answer, piece.length);
	if (err)
		return err;
	server->answer_bytes += out.bytes;
	stream_write(&server->connection->stream, &out);
	return piece.flags & PIECE_END ? ERR_CLOSED : 0;
}

static int read_answer(struct streamed_server *server)
{
	struct slice slice;
	int n = stream_read(&server->upstream->stream, &slice);
	return n < 0 ? n : bufq_append_flat(&server->answer, slice);
}

static void pass_answer(struct streamed_server *server)
{
	struct connection *connection = server->connection;
	while (server->active && server->upstream && server->upstream->ready &&
	       !stream_congested(&connection->stream)) {
		int err = bufq_empty(&server->answer) ? ERR_NEED_MORE : pass_piece(server);
		if (err == ERR_CLOSED) {
			complete(server);
			return;
		}
		if (err && err != ERR_NEED_MORE) {
			fail(server, RPC_MALFORMED, EXCHANGE_UPSTREAM_PROTOCOL);
			return;
		}
		int n = err ? read_answer(server) : 0;
		if (n == ERR_NEED_MORE) {
			connection_idle(connection);
			return;
		}
		if (n < 0) {
			fail(server, RPC_LOST, EXCHANGE_UPSTREAM_TERMINATED);
			return;
		}
	}
	if (server->active)
		connection_idle(connection); // the client must read on, or it is cut
}

// --- the endpoint's side ------------------------------------------------------------------------------------
// What nobody answers is over when it is sent.
static void send_request(struct streamed_server *server)
{
	stream_write(&server->upstream->stream, &server->request);
	if (server->oneway)
		stream_want_drained(&server->upstream->stream);
}

static void on_upstream_ready(struct upstream *upstream, int err)
{
	struct streamed_server *server = upstream->owner;
	if (!err) {
		send_request(server);
		next(server); // more of the request
		return;
	}
	upstream_close(upstream);
	server->upstream = NULL;
	dispatch(server);
}

static void on_upstream_readable(struct upstream *upstream)
{
	pass_answer(upstream->owner);
}

static void on_upstream_drained(struct upstream *upstream)
{
	struct streamed_server *server = upstream->owner;
	if (server->oneway && !server->partial && stream_is_flushed(&upstream->stream))
		finish(server, true);
	next(server);
}

// It may have answered before it closed.
static void on_upstream_error(struct upstream *upstream, int err)
{
	struct streamed_server *server = upstream->owner;
	(void)err;
	pass_answer(server);
	if (server->upstream == upstream && !server->answered)
		fail(server, RPC_LOST, EXCHANGE_UPSTREAM_TERMINATED);
}

static const struct upstream_ops streamed_upstream_ops = {on_upstream_ready, on_upstream_readable,
							  on_upstream_drained, on_upstream_error};

// A reference to the endpoint to try, other than the last one where there is a choice. NULL: none.
static struct endpoint_state *pick(struct streamed_server *server)
{
	struct dataplane *dataplane = dataplane_of(server);
	if (!server->cluster)
		return balancer_address(dataplane->balancer, &server->connection->destination);
	struct endpoint_state *endpoint =
	    balancer_pick(dataplane->balancer, server->cluster, server->endpoint, loop_now(dataplane->loop));
	return endpoint ? endpoint_state_ref(endpoint) : NULL;
}

// A pooled connection only if it is open at this moment: requests are not repeated.
static bool take_pooled(struct streamed_server *server, const struct upstream_target *target)
{
	struct upstream *upstream;
	while ((upstream = upstream_reuse(dataplane_of(server), target, server->codec, &streamed_upstream_ops,
					  server))) {
		if (sock_is_quiet(stream_fd(&upstream->stream))) {
			server->upstream = upstream;
			return true;
		}
		upstream_close(upstream);
	}
	return false;
}

static unsigned connect_attempts(const struct streamed_server *server)
{
	unsigned retries = server->route ? server->route->retries : 0;
	return server->cluster ? MAX((unsigned)CONNECT_ATTEMPTS, retries + 1) : 1;
}

static void dispatch(struct streamed_server *server)
{
	while (server->attempts < connect_attempts(server)) {
		struct endpoint_state *endpoint = pick(server);
		server->attempts++;
		set_endpoint(server, endpoint);
		if (!endpoint)
			break;
		connection_set_endpoint(server->connection, endpoint);
		struct upstream_target target =
		    upstream_target(endpoint, server->cluster, connection_side(server->connection));
		target.transport = false;
		if (take_pooled(server, &target)) {
			send_request(server); // what waits, after another endpoint could not be reached
			return;
		}
		if (upstream_connect(dataplane_of(server), &target, &streamed_upstream_ops, server,
				     &server->upstream) == 0)
			return;
	}
	fail(server, RPC_UNAVAILABLE, server->endpoint ? EXCHANGE_CONNECT_FAILED : EXCHANGE_NO_ENDPOINT);
}

// --- requests -----------------------------------------------------------------------------------------------
static uint8_t keep_name(char *to, size_t room, struct str name)
{
	size_t len = MIN(name.len, room);
	if (len)
		memcpy(to, name.p, len);
	return (uint8_t)len;
}

// Cluster and route; false: no route matches.
static bool find_route(struct streamed_server *server, struct head *head)
{
	struct connection *connection = server->connection;
	const struct model *model = server->snapshot->model;
	if (connection->inbound)
		return true;
	server->host = connection_host(connection, model);
	if (!server->host)
		server->host = model_host_by_service(model, head->authority, connection->destination.port);
	if (!server->host)
		return !model_is_virtual(model, &connection->destination.ip);
	server->route = route_match(server->host, head);
	if (server->route)
		server->cluster = route_pick(server->route, server->route->to_count > 1 ? random_u64() : 0);
	return server->route != NULL;
}

static void start_deadline(struct streamed_server *server, uint32_t request_ms)
{
	uint32_t route_ms = server->route ? server->route->timeout_ms : 0;
	uint32_t ms = request_ms && route_ms ? MIN(request_ms, route_ms) : MAX(request_ms, route_ms);
	if (ms)
		loop_timer_start(dataplane_of(server)->loop, &server->timer, ms);
}

// Forgets the request before this one.
static void begin(struct streamed_server *server, const struct stream_piece *piece)
{
	struct dataplane *dataplane = dataplane_of(server);
	server->snapshot = snapshot_ref(dataplane->snapshot);
	server->host = NULL;
	server->route = NULL;
	server->cluster = NULL;
	server->answer_state = (struct stream_state){0};
	server->started_ns = loop_now(dataplane->loop);
	server->request_bytes = server->answer_bytes = 0;
	server->tag = piece->tag;
	server->status = server->http_status = 0;
	server->attempts = server->flag = 0;
	server->active = true;
	server->oneway = piece->oneway;
	server->answered = false;
	server->connection->requests++;
	stats_inc(STAT_RPC_REQUESTS);
}

static void start_request(struct streamed_server *server, const struct stream_piece *piece, struct head *head)
{
	static __thread char path[LIMIT_RPC_NAME * 2 + 2];
	enum { METHOD_ROOM = 48 };
	begin(server, piece);
	server->service_len = keep_name(server->names, CALL_NAMES - METHOD_ROOM, head->authority);
	server->method_len =
	    keep_name(server->names + server->service_len, CALL_NAMES - server->service_len, head->method);
	head->path = head_rpc_path(head, path);
	if (!find_route(server, head)) {
		fail(server, RPC_NO_ROUTE, EXCHANGE_NO_ROUTE);
		return;
	}
	start_deadline(server, piece->timeout_ms);
	dispatch(server);
}

// A piece goes upstream, or waits for the connection, or (the request was answered already) nowhere.
static int send_piece(struct streamed_server *server, size_t len)
{
	struct bufq *in = &server->connection->in;
	if (!server->active) {
		bufq_drop(in, len);
		return 0;
	}
	int err = bufq_move(&server->request, in, len);
	if (err)
		return err;
	server->request_bytes += len;
	if (server->upstream && server->upstream->ready)
		send_request(server);
	return 0;
}

// Takes one piece of a request. 0 or an error; ERR_CLOSED: the connection is closed.
static int take_piece(struct streamed_server *server)
{
	static __thread struct field fields[LIMIT_PLUGIN_FIELDS];
	struct head head = {.fields = fields, .authority = STR(""), .method = STR("")};
	struct connection *connection = server->connection;
	struct stream_piece piece;
	struct slice bytes = bufq_first(&connection->in);
	bool first = !server->partial;
	if (first)
		server->request_state = (struct stream_state){0};
	int err = server->codec->streamed->read_request(server->codec, &server->request_state,
							(struct str){(const char *)bytes.p, bytes.len},
							LIMIT_PLUGIN_FIELDS, &head, &piece);
	if (!err && !(piece.flags & PIECE_START) == first)
		err = ERR_MALFORMED;
	if (!err && (head.authority.len > LIMIT_RPC_NAME || head.method.len > LIMIT_RPC_NAME))
		err = ERR_LIMIT;
	if (err)
		return err;
	server->partial = true;
	if (first)
		start_request(server, &piece, &head);
	if (connection->closed)
		return ERR_CLOSED;
	server->partial = !(piece.flags & PIECE_END);
	err = send_piece(server, piece.length);
	return connection->closed ? ERR_CLOSED : err;
}

// --- reading ------------------------------------------------------------------------------------------------
// One request at a time; of its body no more than the endpoint takes.
static bool may_read(struct streamed_server *server)
{
	struct connection *connection = server->connection;
	if (connection->closed || server->ended || stream_congested(&connection->stream))
		return false;
	if (!server->active)
		return true;
	if (!server->partial)
		return false;
	if (server->upstream && server->upstream->ready)
		return !stream_congested(&server->upstream->stream);
	return server->request.bytes < LIMIT_RPC_WAITING_BYTES;
}

static void end_of_reading(struct streamed_server *server)
{
	struct connection *connection = server->connection;
	server->ended = true;
	if (server->active && server->partial)
		connection_close(connection); // what is not whole is not answered
	else if (!server->active)
		connection_linger(connection);
}

static void refuse(struct streamed_server *server, int err)
{
	const struct connection *connection = server->connection;
	stats_inc(STAT_RPC_REFUSED);
	log_info("a request was refused", LOG_UINT("connection", connection->id),
		 LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
		 LOG_TEXT("protocol", server->codec->name), LOG_ERR(err));
	end_of_reading(server);
}

static int read_more(struct streamed_server *server)
{
	struct slice slice;
	int n = stream_read(&server->connection->stream, &slice);
	return n < 0 ? n : bufq_append_flat(&server->connection->in, slice);
}

static void on_partial(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	refuse(connection->streamed, -ETIMEDOUT);
}

// The start of a request must be whole in time; between requests, and within a body, a client has the time of
// an idle connection.
static void wait_for_more(struct streamed_server *server)
{
	struct connection *connection = server->connection;
	if (server->partial || bufq_empty(&connection->in)) {
		connection_idle(connection);
	} else if (connection->timer.fn != on_partial || !loop_timer_running(&connection->timer)) {
		connection->timer.fn = on_partial;
		loop_timer_start(connection->dataplane->loop, &connection->timer,
				 dataplane_model(connection->dataplane)->timeouts.head_ms);
	}
}

static void stopped_reading(struct streamed_server *server, int err)
{
	struct connection *connection = server->connection;
	if (err == ERR_NEED_MORE)
		wait_for_more(server);
	else if (err == ERR_EOF)
		end_of_reading(server);
	else if (err == ERR_MALFORMED || err == ERR_LIMIT)
		refuse(server, err);
	else if (err && err != ERR_CLOSED)
		connection_close(connection);
	else if (!err && !connection->closed && server->active)
		connection_idle(connection); // now it is the endpoint that is waited for
}

static void server_read(struct streamed_server *server)
{
	struct connection *connection = server->connection;
	int err = 0;
	if (server->ended && !server->active) {
		connection_linger(connection);
		return;
	}
	while (!err && may_read(server)) {
		err = bufq_empty(&connection->in) ? ERR_NEED_MORE : take_piece(server);
		if (err == ERR_NEED_MORE)
			err = read_more(server);
	}
	stopped_reading(server, err);
}

// --- events -------------------------------------------------------------------------------------------------
static void on_readable(struct stream *stream)
{
	struct streamed_server *server = from_stream(stream);
	// While nothing may be read the client's end can wait, but not a reset.
	if (stream_has_failed(stream))
		connection_close(server->connection);
	else
		server_read(server);
}

static void on_drained(struct stream *stream)
{
	struct streamed_server *server = from_stream(stream);
	pass_answer(server);
	next(server);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)err;
	connection_close(from_stream(stream)->connection);
}

static const struct stream_ops server_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

// --- for connections ----------------------------------------------------------------------------------------
void streamed_server_start(struct connection *connection, const struct framed_codec *codec)
{
	struct streamed_server *server = pool_zget(&connection->dataplane->streamed_server_pool);
	if (!server) {
		connection_reset(connection);
		return;
	}
	server->connection = connection;
	server->codec = codec;
	loop_timer_init(&server->timer, on_deadline);
	connection->streamed = server;
	connection->protocol = (uint8_t)codec->protocol;
	connection->stream.ops = &server_ops;
	server_read(server);
}

void streamed_server_stop(struct connection *connection)
{
	struct streamed_server *server = connection->streamed;
	if (!server || !server->active)
		return;
	if (!server->flag)
		server->flag = EXCHANGE_DOWNSTREAM_GONE;
	finish(server, false);
}

void streamed_server_free(struct connection *connection)
{
	pool_put(&connection->dataplane->streamed_server_pool, connection->streamed);
	connection->streamed = NULL;
}

bool streamed_server_is_idle(const struct connection *connection)
{
	const struct streamed_server *server = connection->streamed;
	return !server->active && !server->partial && bufq_empty(&connection->in);
}

const char *streamed_server_state(const struct connection *connection)
{
	const struct streamed_server *server = connection->streamed;
	return server->active ? "request" : server->ended || connection->closing ? "closing" : "idle";
}

void streamed_server_describe(const struct connection *connection, struct conn_info *info)
{
	const struct streamed_server *server = connection->streamed;
	info->protocol = server->codec->name;
	info->service = service_of(server);
	info->method = method_of(server);
	if (!server->active)
		return;
	info->calls = 1;
	if (server->host)
		info->virtual_host = server->host->name;
	if (server->cluster)
		info->cluster = server->cluster->name;
	if (server->endpoint)
		info->endpoint = server->endpoint->addr;
	if (server->upstream)
		connection_describe_tls(server->upstream->stream.tls, &info->upstream_tls_version,
					&info->upstream_tls_peer);
}
