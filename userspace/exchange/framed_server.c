// SPDX-License-Identifier: Apache-2.0
#include "exchange/framed_server.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/carried_call.h"
#include "exchange/framed_upstream.h"
#include "run/stats.h"

#include <errno.h>

enum { SPARE_SERVERS = 64 };

static void server_read(struct framed_server *server);
static void on_partial(struct loop_timer *timer);

static struct framed_server *from_stream(struct stream *stream)
{
	return container_of(stream, struct connection, stream)->framed;
}

struct pool framed_server_pool_init(void)
{
	return POOL_INIT(struct framed_server, SPARE_SERVERS);
}

// --- sending ------------------------------------------------------------------------------------------------
void framed_server_send(struct framed_server *server, const struct call *call, struct bufq *bytes)
{
	if (server->answering && server->answering != call)
		bufq_move_all(&server->held, bytes);
	else
		server->link->write(server, bytes);
}

bool framed_server_reply(struct framed_server *server, const void *bytes, size_t len)
{
	struct bufq out = {0};
	if (bufq_add_copy(&out, bytes, len)) {
		framed_server_reset(server);
		return false;
	}
	framed_server_send(server, NULL, &out);
	return true;
}

bool framed_server_congested(struct framed_server *server)
{
	return server->link->congested(server);
}

bool framed_server_is_slow(struct framed_server *server)
{
	framed_server_congested(server); // framed_server_drained is to come
	return server->link->queued(server) + server->held.bytes > LIMIT_RPC_CLIENT_OUT;
}

void framed_server_answered(struct framed_server *server)
{
	server->answering = NULL;
	server->link->write(server, &server->held);
	framed_upstream_resume_all(&server->paused);
	carried_call_resume(server);
	framed_server_resume(server);
}

// --- idleness -----------------------------------------------------------------------------------------------
static bool is_done(const struct framed_server *server);
static void idle(struct framed_server *server);

// A connection with calls under way is not idle; but a client must go on with what it has begun to send, and
// one that has sent its end may be gone.
static void on_idle(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	struct framed_server *server = connection->framed;
	if (is_done(server) || server->rest.bytes || server->ended)
		connection_close(connection);
	else
		idle(server);
}

static void idle(struct framed_server *server)
{
	struct connection *connection = server->connection;
	struct dataplane *dataplane = connection->dataplane;
	connection->timer.fn = on_idle;
	loop_timer_start(dataplane->loop, &connection->timer, dataplane_model(dataplane)->timeouts.idle_ms);
}

// --- the end ------------------------------------------------------------------------------------------------
// What was promised is delivered: then the connection may end.
static bool is_done(const struct framed_server *server)
{
	return !server->call_count && !server->answering && !server->rest_to;
}

static void end_if_done(struct framed_server *server)
{
	struct connection *connection = server->connection;
	if (connection->closed || !(server->ended || server->draining) || !is_done(server))
		return;
	if (!server->ended && !bufq_empty(&server->in))
		return; // the start of another request
	framed_upstream_resume_all(&server->paused);
	loop_timer_stop(&server->stall);
	connection_linger(connection);
}

// Nothing more can be read; what is under way is still answered.
static void stop_reading(struct framed_server *server)
{
	server->ended = true;
	bufq_clear(&server->in);
	idle(server);
	if (server->rest.bytes) {
		struct framed_upstream *to = server->rest_to;
		server->rest = (struct frame_rest){0};
		server->rest_to = NULL;
		if (server->expected)
			call_drop(server->expected);
		if (server->carrying)
			call_fail(server->carrying, RPC_LOST, EXCHANGE_DOWNSTREAM_GONE);
		framed_upstream_abort(to);
	}
	end_if_done(server);
}

void framed_server_refused(const struct framed_server *server, int err)
{
	const struct connection *connection = server->connection;
	stats_inc(STAT_RPC_REFUSED);
	log_info("a frame was refused", LOG_UINT("connection", connection->id),
		 LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
		 LOG_TEXT("protocol", server->codec->name),
		 LOG_TEXT("transport", connection->transport ? "h2" : "-"), LOG_ERR(err));
}

static void drop_calls(struct framed_server *server)
{
	while (!list_empty(&server->calls))
		call_drop(container_of(server->calls.next, struct call, node));
}

void framed_server_done(struct framed_server *server)
{
	drop_calls(server);
	framed_upstream_abort(server->rest_to);
	framed_upstream_resume_all(&server->paused);
	list_del(&server->blocked);
	loop_timer_stop(&server->stall);
	bufq_clear(&server->in);
	bufq_clear(&server->held);
	snapshot_unref(server->snapshot);
	server->snapshot = NULL;
	endpoint_state_unref(server->direct);
	server->direct = NULL;
}

void framed_server_stop(struct connection *connection)
{
	if (connection->framed)
		framed_server_done(connection->framed);
}

void framed_server_free(struct connection *connection)
{
	pool_put(&connection->dataplane->framed_server_pool, connection->framed);
	connection->framed = NULL;
}

// --- frames -------------------------------------------------------------------------------------------------
static void answer_heartbeat(struct framed_server *server, const struct frame *frame)
{
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	stats_inc(STAT_RPC_HEARTBEATS_IN);
	if (!server->codec->write_heartbeat_ack)
		return;
	writer_init(&w, bytes, sizeof bytes);
	server->codec->write_heartbeat_ack(server->codec, frame, &w);
	framed_server_reply(server, bytes, w.len);
}

// A frame that no call begins with: from a client only heartbeats mean something.
static int take_other(struct framed_server *server, const struct frame *frame)
{
	if (frame->kind == FRAME_HEARTBEAT)
		answer_heartbeat(server, frame);
	server->rest.bytes = frame->length;
	frame_rest_skip(&server->rest, &server->in);
	return 0;
}

// Too long a request is answered before nothing more is read.
static void refuse_long(struct framed_server *server, const struct frame *frame)
{
	struct writer w;
	uint8_t bytes[CODEC_WRITE_ROOM];
	if (frame->kind != FRAME_REQUEST)
		return;
	writer_init(&w, bytes, sizeof bytes);
	server->codec->write_failure(server->codec, frame, RPC_MALFORMED, STR("the frame is too long"), &w);
	framed_server_reply(server, bytes, w.len);
}

// The time for a frame counts from its first byte, and only while it is read.
static void end_frame_timer(struct framed_server *server)
{
	if (server->connection->timer.fn == on_partial)
		idle(server);
}

static int take_frame(struct framed_server *server)
{
	struct connection *connection = server->connection;
	uint64_t limit = dataplane_model(connection->dataplane)->max_frame_bytes;
	struct frame frame;
	int err = frames_measure(server->codec, &server->in, limit, &frame);
	if (err == ERR_LIMIT)
		refuse_long(server, &frame);
	if (err)
		return err;
	server->variant = frame.variant;
	bool call = frame.kind == FRAME_REQUEST || frame.kind == FRAME_ONEWAY;
	if (call && server->in.bytes < frame_wanted(&frame))
		return ERR_NEED_MORE;
	end_frame_timer(server);
	if (!call)
		return take_other(server, &frame);
	return call_start(server, &frame, &server->in);
}

int framed_server_take_rest(struct framed_server *server)
{
	struct bufq *in = &server->in, out = {0};
	if (bufq_empty(in))
		return ERR_NEED_MORE;
	if (!server->rest_to && !server->carrying) {
		frame_rest_skip(&server->rest, in);
		return 0;
	}
	size_t before = in->bytes;
	int err = frame_rest_move(&server->rest, &out, in);
	bool stuck = in->bytes == before; // a checksum that is not there as a whole
	if (err)
		bufq_clear(&out);
	else if (server->carrying)
		carried_call_send_rest(server->carrying, &out);
	else
		framed_upstream_send_rest(server, &out);
	return !err && stuck ? ERR_NEED_MORE : err;
}

// --- reading ------------------------------------------------------------------------------------------------
static bool may_read(struct framed_server *server)
{
	struct connection *connection = server->connection;
	return !connection->closed && !server->ended && !server->expected && list_empty(&server->blocked) &&
	       server->call_count < LIMIT_RPC_CALLS && server->carried_count < LIMIT_RPC_CARRIED &&
	       server->waiting_bytes < LIMIT_RPC_WAITING_BYTES &&
	       (!server->carrying || exchange_takes_body(server->carrying->carrier)) &&
	       server->held.bytes < LIMIT_RPC_CLIENT_OUT && !stream_congested(&connection->stream);
}

static int read_more(struct framed_server *server)
{
	struct slice slice;
	int n = stream_read(&server->connection->stream, &slice);
	return n < 0 ? n : frames_keep(&server->in, slice);
}

// A client that stays away in the middle of a frame.
static void on_partial(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	framed_server_refused(connection->framed, -ETIMEDOUT);
	stop_reading(connection->framed);
}

// Nothing is there now. The start of a frame must be followed by the rest of it in time; one that passes in
// pieces has the time of an idle connection for each.
static int wait_for_more(struct framed_server *server)
{
	struct connection *connection = server->connection;
	bool partial = !server->rest.bytes && !bufq_empty(&server->in);
	if (!partial) {
		idle(server);
		return 0;
	}
	if (connection->timer.fn != on_partial || !loop_timer_running(&connection->timer)) {
		connection->timer.fn = on_partial;
		loop_timer_start(connection->dataplane->loop, &connection->timer,
				 dataplane_model(connection->dataplane)->timeouts.head_ms);
	}
	return bufq_compact(&server->in);
}

static void reading_failed(struct framed_server *server, int err)
{
	struct connection *connection = server->connection;
	if (err == ERR_EOF) {
		stop_reading(server);
	} else if (err == ERR_MALFORMED || err == ERR_LIMIT) {
		framed_server_refused(server, err);
		stop_reading(server);
	} else {
		connection_reset(connection);
	}
}

static void server_read(struct framed_server *server)
{
	int err = 0;
	while (!err && may_read(server)) {
		err = server->rest.bytes ? framed_server_take_rest(server) : take_frame(server);
		if (err == ERR_NEED_MORE)
			err = read_more(server);
	}
	if (err == ERR_NEED_MORE)
		err = wait_for_more(server);
	else if (!err && !server->connection->closed)
		end_frame_timer(server);
	if (err)
		reading_failed(server, err);
}

// --- events -------------------------------------------------------------------------------------------------
static void on_readable(struct stream *stream)
{
	struct framed_server *server = from_stream(stream);
	// While nothing may be read the client's end can wait, but not a reset.
	if (stream_has_failed(stream))
		connection_close(server->connection);
	else
		server_read(server);
}

void framed_server_drained(struct framed_server *server)
{
	loop_timer_stop(&server->stall);
	framed_upstream_resume_all(&server->paused);
	carried_call_resume(server);
}

static void on_drained(struct stream *stream)
{
	struct framed_server *server = from_stream(stream);
	framed_server_drained(server);
	server_read(server);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)err;
	connection_close(from_stream(stream)->connection);
}

static const struct stream_ops server_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

static void resume(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, task);
	if (connection->closed || connection->stream.ops != &server_ops)
		return;
	server_read(connection->framed);
	if (!connection->closed && connection->stream.ops == &server_ops)
		end_if_done(connection->framed);
}

void framed_server_resume(struct framed_server *server)
{
	server->link->resume(server);
}

void framed_server_reset(struct framed_server *server)
{
	server->link->reset(server);
}

// A client that takes nothing while others wait for what is behind its answers.
static void on_stall(struct loop_timer *timer)
{
	struct framed_server *server = container_of(timer, struct framed_server, stall);
	struct connection *connection = server->connection;
	if (server->stall_sent != server->link->sent(server) ||
	    !framed_upstream_others_wait(&server->paused, server)) {
		framed_server_watch(server);
		return;
	}
	log_info("a client that does not read its answers was reset", LOG_UINT("connection", connection->id),
		 LOG_ADDR("peer", &connection->peer));
	framed_server_reset(server);
}

void framed_server_watch(struct framed_server *server)
{
	struct dataplane *dataplane = server->connection->dataplane;
	if (loop_timer_running(&server->stall))
		return;
	server->stall_sent = server->link->sent(server);
	loop_timer_start(dataplane->loop, &server->stall, dataplane_model(dataplane)->timeouts.heartbeat_ms);
}

// --- for calls ----------------------------------------------------------------------------------------------
const struct virtual_host *framed_server_host(struct framed_server *server)
{
	struct connection *connection = server->connection;
	if (server->snapshot != connection->dataplane->snapshot) {
		snapshot_unref(server->snapshot);
		server->snapshot = snapshot_ref(connection->dataplane->snapshot);
		server->host = connection_host(connection, server->snapshot->model);
	}
	return server->host;
}

struct endpoint_state *framed_server_direct(struct framed_server *server)
{
	struct connection *connection = server->connection;
	if (!server->direct)
		server->direct = balancer_address(connection->dataplane->balancer, &connection->destination);
	return server->direct ? endpoint_state_ref(server->direct) : NULL;
}

void framed_server_expect(struct call *call)
{
	struct framed_server *server = call->server;
	if (frame_is_whole(&call->frame))
		return;
	server->expected = call;
	server->rest = (struct frame_rest){.bytes = call->frame.length - call->request.bytes};
}

void framed_server_forget(struct framed_server *server, const struct call *call)
{
	if (server->expected == call)
		server->expected = NULL; // what is still to come is skipped
	if (server->carrying == call)
		server->carrying = NULL;
	if (server->answering == call)
		server->answering = NULL;
	server->call_count--;
	server->link->call_over(server, call);
}

// --- for connections ----------------------------------------------------------------------------------------
static struct stream *stream_of(const struct framed_server *server)
{
	return &server->connection->stream;
}

static void link_write(struct framed_server *server, struct bufq *bytes)
{
	stream_write(stream_of(server), bytes);
}

static bool link_congested(struct framed_server *server)
{
	return stream_congested(stream_of(server));
}

static size_t link_queued(const struct framed_server *server)
{
	return stream_queued(stream_of(server));
}

static uint64_t link_sent(const struct framed_server *server)
{
	return stream_of(server)->sent;
}

static void link_resume(struct framed_server *server)
{
	struct connection *connection = server->connection;
	if (!connection->closed)
		loop_defer(connection->dataplane->loop, &connection->task, resume);
}

static void link_reset(struct framed_server *server)
{
	connection_reset(server->connection);
}

static void link_call_over(struct framed_server *server, const struct call *call)
{
	if (list_empty(&server->calls)) {
		memcpy(server->last_names, call->names, (size_t)call->service_len + call->method_len);
		server->last_service_len = call->service_len;
		server->last_method_len = call->method_len;
	}
	if (server->ended || server->draining || server->rest.bytes ||
	    server->call_count == LIMIT_RPC_CALLS - 1)
		framed_server_resume(server);
}

static const struct framed_link connection_link = {.write = link_write,
						   .congested = link_congested,
						   .queued = link_queued,
						   .sent = link_sent,
						   .resume = link_resume,
						   .reset = link_reset,
						   .call_over = link_call_over};

void framed_server_init(struct framed_server *server, struct connection *connection,
			const struct framed_codec *codec, const struct framed_link *link)
{
	server->connection = connection;
	server->codec = codec;
	server->link = link;
	list_init(&server->calls);
	list_init(&server->paused);
	list_init(&server->blocked);
	loop_timer_init(&server->stall, on_stall);
}

void framed_server_start(struct connection *connection, const struct framed_codec *codec)
{
	struct framed_server *server = pool_zget(&connection->dataplane->framed_server_pool);
	if (!server) {
		connection_reset(connection);
		return;
	}
	framed_server_init(server, connection, codec, &connection_link);
	server->in = connection->in;
	connection->in = (struct bufq){0};
	connection->framed = server;
	connection->protocol = (uint8_t)codec->protocol;
	connection->stream.ops = &server_ops;
	idle(server);
	server_read(server);
}

bool framed_server_is_idle(const struct connection *connection)
{
	const struct framed_server *server = connection->framed;
	return is_done(server) && !server->rest.bytes && bufq_empty(&server->in);
}

void framed_server_drain(struct connection *connection)
{
	struct framed_server *server = connection->framed;
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	server->draining = true;
	if (!server->codec->write_goaway)
		return;
	writer_init(&w, bytes, sizeof bytes);
	server->codec->write_goaway(server->codec, server->variant, server->codec->first_id, &w);
	framed_server_reply(server, bytes, w.len);
}

const char *framed_server_state(const struct connection *connection)
{
	const struct framed_server *server = connection->framed;
	if (server->call_count)
		return "request";
	return server->ended || server->draining ? "closing" : "idle";
}

static void describe_call(const struct call *call, struct stream_info *ret_info)
{
	static const struct addr none;
	const struct endpoint_state *endpoint = call->carrier ? call->carrier->endpoint : call->endpoint;
	*ret_info = (struct stream_info){
	    .id = call->frame.id,
	    .protocol = call->server->codec->name,
	    .authority = STR(""),
	    .service = call_service(call),
	    .method = call_method(call),
	    .path = STR(""),
	    .answered = call->answered,
	    .status = call->status,
	    .grpc_status = -1,
	    .virtual_host = call->host ? call->host->name : STR(""),
	    .cluster = call->cluster ? call->cluster->name : STR(""),
	    .endpoint = endpoint ? endpoint->addr : none,
	    .started_ns = call->started_ns,
	};
}

void framed_server_each_call(const struct framed_server *server, stream_info_fn fn, void *arg)
{
	list_for_each (node, &server->calls) {
		struct stream_info info;
		describe_call(container_of(node, struct call, node), &info);
		fn(&info, arg);
	}
}

static void each_call(const struct connection *connection, stream_info_fn fn, void *arg)
{
	framed_server_each_call(connection->framed, fn, arg);
}

void framed_server_describe(const struct framed_server *server, struct conn_info *info)
{
	info->protocol = server->codec->name;
	if (!server->exchange)
		info->each_stream = each_call;
	info->service = (struct str){server->last_names, server->last_service_len};
	info->method = (struct str){server->last_names + server->last_service_len, server->last_method_len};
	if (list_empty(&server->calls))
		return;
	const struct call *call = container_of(server->calls.next, struct call, node);
	info->service = call_service(call);
	info->method = call_method(call);
	info->calls = server->call_count;
	if (call->host)
		info->virtual_host = call->host->name;
	if (call->cluster)
		info->cluster = call->cluster->name;
	if (call->endpoint)
		info->endpoint = call->endpoint->addr;
	framed_upstream_describe(call->upstream, info);
	if (call->carrier)
		exchange_describe(call->carrier, info);
}
