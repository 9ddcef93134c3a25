// SPDX-License-Identifier: Apache-2.0
#include "exchange/framed_upstream.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/call_slots.h"
#include "exchange/framed_server.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

enum {
	SPARE_UPSTREAMS = 16,
	QUIET_NS = 1000000000, // unused for so long, it is looked at before it is used
};

struct framed_upstream {
	struct upstream *upstream; // owned
	struct dataplane *dataplane;
	const struct framed_codec *codec;
	struct list node;     // endpoint_state.framed
	struct list all_node; // dataplane.framed_upstreams
	struct call_slots slots;
	struct list waiting; // calls, until the connection is there
	unsigned waiting_count;
	struct list blocked; // of framed_server: wait for room
	struct list paused;  // the node in framed_server.paused
	struct bufq in;
	struct bufq held;	      // the proxy's own frames, until the frame in pieces is through
	struct framed_server *source; // sends a frame in pieces on it
	struct frame_rest rest;	      // of an answer in pieces
	struct call *answered;	      // whose; NULL: it is skipped
	struct loop_timer timer;
	struct loop_task read_task, free_task;
	uint64_t heard_ns, used_ns, asked_ns;
	uint16_t variant; // of the last request: heartbeats are like it
	struct upstream_side side;
	bool tls;
	bool reserved; // for a frame in pieces
	bool closing;  // no further calls
	bool closed;
	bool asked; // a heartbeat is not answered yet
};

static const struct upstream_ops framed_ops;
static void read_answers(struct framed_upstream *upstream);

struct pool framed_upstream_pool_init(void)
{
	return POOL_INIT(struct framed_upstream, SPARE_UPSTREAMS);
}

static uint64_t now_of(const struct framed_upstream *upstream)
{
	return loop_now(upstream->dataplane->loop);
}

static struct stream *stream_of(const struct framed_upstream *upstream)
{
	return &upstream->upstream->stream;
}

static bool is_unused(const struct framed_upstream *upstream)
{
	return !upstream->slots.count && !upstream->waiting_count && !upstream->reserved &&
	       !upstream->rest.bytes;
}

// --- the end ------------------------------------------------------------------------------------------------
static void upstream_memory_free(struct loop_task *task)
{
	struct framed_upstream *upstream = container_of(task, struct framed_upstream, free_task);
	pool_put(&upstream->dataplane->framed_upstream_pool, upstream);
}

static void resume_blocked(struct framed_upstream *upstream)
{
	while (!list_empty(&upstream->blocked)) {
		struct list *node = upstream->blocked.next;
		list_del(node);
		framed_server_resume(container_of(node, struct framed_server, blocked));
	}
}

// The frame in pieces cannot be completed: the rest of it is skipped.
static void leave_source(struct framed_upstream *upstream)
{
	struct framed_server *source = upstream->source;
	upstream->source = NULL;
	upstream->reserved = false;
	if (!source)
		return;
	source->rest_to = NULL;
	framed_server_resume(source);
}

// Each call gets its one answer, or goes elsewhere.
static void fail_calls(struct framed_upstream *upstream, enum exchange_flag flag)
{
	struct call *call;
	size_t at = 0;
	if (upstream->answered)
		call_fail(upstream->answered, RPC_LOST, flag);
	while ((call = call_slots_each(&upstream->slots, &at)))
		call_fail(call, RPC_LOST, flag);
	while (!list_empty(&upstream->waiting)) {
		call = container_of(upstream->waiting.next, struct call, waiting);
		framed_upstream_forget(call);
		call_unsent(call);
	}
}

static void upstream_lost(struct framed_upstream *upstream, enum exchange_flag flag)
{
	if (upstream->closed)
		return;
	upstream->closed = upstream->closing = true;
	list_del(&upstream->node);
	list_del(&upstream->all_node);
	list_del(&upstream->paused);
	loop_timer_stop(&upstream->timer);
	if (upstream->source)
		upstream_reset(upstream->upstream);
	else
		upstream_close(upstream->upstream);
	leave_source(upstream);
	fail_calls(upstream, flag);
	resume_blocked(upstream);
	bufq_clear(&upstream->in);
	bufq_clear(&upstream->held);
	call_slots_done(&upstream->slots);
	loop_defer(upstream->dataplane->loop, &upstream->free_task, upstream_memory_free);
}

static void close_if_unused(struct framed_upstream *upstream)
{
	if (upstream->closing && !upstream->closed && is_unused(upstream))
		upstream_lost(upstream, EXCHANGE_OK);
}

void framed_upstream_abort(struct framed_upstream *upstream)
{
	if (upstream)
		upstream_lost(upstream, EXCHANGE_DOWNSTREAM_GONE);
}

void framed_upstream_retire(struct endpoint_state *endpoint)
{
	list_for_each_safe (node, &endpoint->framed) {
		struct framed_upstream *upstream = container_of(node, struct framed_upstream, node);
		upstream->closing = true;
		close_if_unused(upstream);
	}
}

void framed_upstream_close_all(struct dataplane *dataplane)
{
	while (!list_empty(&dataplane->framed_upstreams))
		upstream_lost(
		    container_of(dataplane->framed_upstreams.next, struct framed_upstream, all_node),
		    EXCHANGE_OK);
}

// --- heartbeats and idleness --------------------------------------------------------------------------------
// The proxy's own frames keep out of a frame in pieces.
static void send_own(struct framed_upstream *upstream, const void *bytes, size_t len)
{
	struct bufq out = {0};
	if (bufq_add_copy(&out, bytes, len))
		return; // as if the network had lost it: silence is noticed
	if (upstream->source)
		bufq_move(&upstream->held, &out, out.bytes);
	else
		stream_write(stream_of(upstream), &out);
}

static void send_heartbeat(struct framed_upstream *upstream)
{
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	upstream->codec->write_heartbeat(upstream->codec, upstream->variant,
					 call_slots_spare(&upstream->slots), &w);
	upstream->asked = true;
	upstream->asked_ns = now_of(upstream);
	stats_inc(STAT_RPC_HEARTBEATS_OUT);
	send_own(upstream, bytes, w.len);
}

// What the silence of a connection calls for; returns when to look again, or 0: it is closed. A connection
// that is not read now cannot be heard.
static uint64_t look_at(struct framed_upstream *upstream)
{
	const struct timeouts *timeouts = &dataplane_model(upstream->dataplane)->timeouts;
	uint64_t now = now_of(upstream), patience = timeouts->heartbeat_ms * NS_PER_MS;
	uint64_t idle_end = upstream->used_ns + timeouts->pool_idle_ms * NS_PER_MS;
	if (is_unused(upstream) && now >= idle_end) {
		upstream_lost(upstream, EXCHANGE_OK);
		return 0;
	}
	if (upstream_is_silent(upstream->upstream)) {
		upstream_lost(upstream, EXCHANGE_UPSTREAM_TERMINATED);
		return 0;
	}
	bool audible = upstream->codec->write_heartbeat && list_empty(&upstream->paused) && !upstream->source;
	if (audible && upstream->asked && now >= upstream->asked_ns + patience) {
		upstream_lost(upstream, EXCHANGE_TIMEOUT);
		return 0;
	}
	if (audible && !upstream->asked && now >= upstream->heard_ns + patience)
		send_heartbeat(upstream);
	uint64_t next = now + patience;
	if (audible)
		next = (upstream->asked ? upstream->asked_ns : upstream->heard_ns) + patience;
	return is_unused(upstream) ? MIN(next, idle_end) : next;
}

static void on_timer(struct loop_timer *timer)
{
	struct framed_upstream *upstream = container_of(timer, struct framed_upstream, timer);
	uint64_t now = now_of(upstream), next = look_at(upstream);
	if (next)
		loop_timer_start(upstream->dataplane->loop, timer, next > now ? (next - now) / NS_PER_MS : 0);
}

static void start_timer(struct framed_upstream *upstream)
{
	upstream->heard_ns = upstream->used_ns = now_of(upstream);
	loop_timer_start(upstream->dataplane->loop, &upstream->timer, 1);
}

// --- sending ------------------------------------------------------------------------------------------------
static void block_if_congested(struct framed_upstream *upstream, struct framed_server *server)
{
	if (stream_congested(stream_of(upstream)) && list_empty(&server->blocked))
		list_append(&upstream->blocked, &server->blocked);
}

static void begin_pieces(struct framed_upstream *upstream, struct framed_server *server)
{
	server->expected = NULL;
	server->rest_to = upstream;
	upstream->source = server;
	framed_server_resume(server);
}

static void end_pieces(struct framed_upstream *upstream)
{
	upstream->source->rest_to = NULL;
	upstream->source = NULL;
	upstream->reserved = false;
	stream_write(stream_of(upstream), &upstream->held);
}

void framed_upstream_send_rest(struct framed_server *server, struct bufq *bytes)
{
	struct framed_upstream *upstream = server->rest_to;
	stream_write(stream_of(upstream), bytes);
	block_if_congested(upstream, server);
	if (server->rest.bytes)
		return;
	end_pieces(upstream);
	close_if_unused(upstream);
	framed_server_resume(server);
}

// Gives the request its id and queues it. What nobody answers is over then.
static void send_call(struct framed_upstream *upstream, struct call *call)
{
	struct framed_server *server = call->server;
	bool whole = frame_is_whole(&call->frame), answer = call_awaits_answer(call);
	uint64_t id = 0;
	int err = answer ? call_slots_add(&upstream->slots, call, &id) : 0;
	if (!answer)
		id = call_slots_spare(&upstream->slots);
	if (!err && answer) {
		call->upstream_id = id;
		call->numbered = true;
	}
	if (!err)
		err = frames_set_id(upstream->codec, &call->frame, &call->request, id, &server->rest);
	if (err) {
		upstream->reserved = false;
		call_fail(call, err == ERR_LIMIT ? RPC_OVERLOADED : RPC_UNAVAILABLE, EXCHANGE_OVERLOADED);
		return;
	}
	upstream->used_ns = now_of(upstream);
	upstream->variant = call->frame.variant;
	stream_write(stream_of(upstream), &call->request);
	if (!whole)
		begin_pieces(upstream, server);
	block_if_congested(upstream, server);
	if (!answer)
		call_finish(call);
}

static void wait_for(struct framed_upstream *upstream, struct call *call)
{
	list_append(&upstream->waiting, &call->waiting);
	upstream->waiting_count++;
	call->server->waiting_bytes += call->request.bytes;
}

static void stop_waiting(struct framed_upstream *upstream, struct call *call)
{
	struct framed_server *server = call->server;
	bool full = server->waiting_bytes >= LIMIT_RPC_WAITING_BYTES;
	list_del(&call->waiting);
	upstream->waiting_count--;
	server->waiting_bytes -= call->request.bytes;
	if (full)
		framed_server_resume(server);
}

void framed_upstream_forget(struct call *call)
{
	struct framed_upstream *upstream = call->upstream;
	if (!upstream)
		return;
	if (!list_empty(&call->waiting)) {
		stop_waiting(upstream, call);
		if (!frame_is_whole(&call->frame))
			upstream->reserved = false;
	}
	if (call->numbered)
		call_slots_remove(&upstream->slots, call->upstream_id);
	if (upstream->answered == call)
		upstream->answered = NULL;
	// An answer that comes too early, or a failure: the rest of the request has nobody to go to.
	bool broken = upstream->source == call->server && !frame_is_whole(&call->frame) && call->flag;
	call->upstream = NULL;
	upstream->used_ns = now_of(upstream);
	if (broken)
		framed_upstream_abort(upstream);
	else
		close_if_unused(upstream);
}

// --- choosing a connection ----------------------------------------------------------------------------------
struct choice {
	const struct framed_codec *codec;
	const struct upstream_target *target;
	bool alone; // for a frame in pieces
};

static bool fits(const struct framed_upstream *upstream, const struct choice *choice)
{
	return upstream->codec == choice->codec && upstream_side_eq(&upstream->side, &choice->target->side) &&
	       upstream->tls == choice->target->tls && !upstream->closing && !upstream->reserved;
}

// Made with a certificate that was replaced since: what follows is for the new one.
static bool is_outdated(const struct framed_upstream *upstream)
{
	const struct tls_conn *tls = stream_of(upstream)->tls;
	return tls && tls_conn_context(tls) != upstream->dataplane->tls;
}

// What the other side has closed while nobody looked must not be used for a call.
static bool is_stale(const struct framed_upstream *upstream)
{
	return upstream->upstream->ready && is_unused(upstream) &&
	       now_of(upstream) - upstream->used_ns > QUIET_NS &&
	       !sock_is_quiet(stream_fd(stream_of(upstream)));
}

static bool has_room(const struct framed_upstream *upstream, const struct choice *choice)
{
	if (choice->alone)
		return upstream->upstream->ready && is_unused(upstream);
	return upstream->slots.count + upstream->waiting_count < LIMIT_RPC_SLOTS;
}

// A long answer, or one whose client is slow: what is asked now would wait behind it.
static bool is_held_up(const struct framed_upstream *upstream)
{
	return upstream->rest.bytes || !list_empty(&upstream->paused);
}

// A connection that is there. A new one is better than one that is held up, as long as there are few of them.
// 0, ERR_NOT_FOUND (one may be made) or ERR_LIMIT.
static int choose(const struct choice *choice, struct framed_upstream **ret_upstream)
{
	struct framed_upstream *held_up = NULL;
	unsigned count = 0;
	list_for_each_safe (node, &choice->target->endpoint->framed) {
		struct framed_upstream *upstream = container_of(node, struct framed_upstream, node);
		if (!fits(upstream, choice))
			continue;
		if (is_outdated(upstream) || is_stale(upstream)) {
			upstream->closing = true;
			close_if_unused(upstream);
			continue;
		}
		count++;
		if (!has_room(upstream, choice))
			continue;
		if (!is_held_up(upstream)) {
			*ret_upstream = upstream;
			return 0;
		}
		held_up = upstream;
	}
	if (choice->alone || count < LIMIT_RPC_CONNECTIONS)
		return ERR_NOT_FOUND;
	*ret_upstream = held_up;
	return held_up ? 0 : ERR_LIMIT;
}

// A connection that was made for something else, on which nothing was said yet.
static struct upstream *reuse(struct dataplane *dataplane, const struct choice *choice,
			      struct framed_upstream *owner)
{
	struct upstream *base;
	while ((base = upstream_reuse(dataplane, choice->target, choice->codec, &framed_ops, owner)) &&
	       !sock_is_quiet(stream_fd(&base->stream)))
		upstream_close(base);
	return base;
}

// A new one, if no other will do.
static int make(struct dataplane *dataplane, const struct choice *choice,
		struct framed_upstream **ret_upstream)
{
	const struct upstream_target *target = choice->target;
	struct framed_upstream *upstream = pool_zget(&dataplane->framed_upstream_pool);
	int err = upstream ? 0 : -ENOMEM;
	if (err)
		return err;
	upstream->upstream = reuse(dataplane, choice, upstream);
	if (!upstream->upstream)
		err = upstream_connect(dataplane, target, &framed_ops, upstream, &upstream->upstream);
	if (err) {
		pool_put(&dataplane->framed_upstream_pool, upstream);
		return err;
	}
	upstream->dataplane = dataplane;
	upstream->codec = choice->codec;
	upstream->side = target->side;
	upstream->tls = target->tls;
	upstream->reserved = choice->alone;
	list_append(&target->endpoint->framed, &upstream->node);
	list_append(&dataplane->framed_upstreams, &upstream->all_node);
	call_slots_init(&upstream->slots, choice->codec->first_id, choice->codec->last_id);
	list_init(&upstream->waiting);
	list_init(&upstream->blocked);
	list_init(&upstream->paused);
	loop_timer_init(&upstream->timer, on_timer);
	if (upstream->upstream->ready)
		start_timer(upstream);
	*ret_upstream = upstream;
	return 0;
}

int framed_upstream_call(struct call *call, const struct upstream_target *target)
{
	struct choice choice = {call->server->codec, target, !frame_is_whole(&call->frame)};
	struct framed_upstream *upstream;
	int err = choose(&choice, &upstream);
	if (err == ERR_NOT_FOUND)
		err = make(call->server->connection->dataplane, &choice, &upstream);
	if (err)
		return err;
	upstream->reserved = choice.alone;
	call->upstream = upstream;
	connection_set_endpoint(call->server->connection, target->endpoint);
	if (upstream->upstream->ready)
		send_call(upstream, call);
	else
		wait_for(upstream, call);
	return 0;
}

// --- answers ------------------------------------------------------------------------------------------------
// Not read until this client takes more: what is next is for it.
static void pause_for(struct framed_upstream *upstream, struct framed_server *server)
{
	if (list_empty(&upstream->paused))
		list_append(&server->paused, &upstream->paused);
	framed_server_watch(server);
}

// The answer is that frame, whose first bytes (all, if it is whole) these are.
static int pass_answer(struct framed_upstream *upstream, struct call *call, const struct frame *frame,
		       struct bufq *bytes)
{
	struct framed_server *server = call->server;
	struct frame_rest rest = {0};
	int err = frames_set_id(upstream->codec, frame, bytes, call->frame.id, &rest);
	if (err)
		return err;
	call_slots_remove(&upstream->slots, call->upstream_id);
	call->numbered = false;
	call_note_answer(call, frame);
	if (rest.bytes) {
		upstream->rest = rest;
		upstream->answered = call;
		call->answered = true;
		loop_timer_stop(&call->timer);
		server->answering = call;
	}
	framed_server_send(server, call, bytes);
	if (!rest.bytes)
		call_complete(call);
	return 0;
}

static void drop_frame(struct framed_upstream *upstream, const struct frame *frame)
{
	upstream->rest = (struct frame_rest){.bytes = frame->length};
	frame_rest_skip(&upstream->rest, &upstream->in);
}

static int take_answer(struct framed_upstream *upstream, const struct frame *frame)
{
	struct call *call = call_slots_find(&upstream->slots, frame->id);
	struct bufq bytes = {0};
	if (!call) {
		stats_inc(STAT_RPC_LATE);
		drop_frame(upstream, frame);
		return 0;
	}
	struct framed_server *server = call->server;
	bool busy = server->answering && !frame_is_whole(frame);
	if (busy || framed_server_is_slow(server)) {
		pause_for(upstream, server);
		return ERR_NEED_MORE;
	}
	int err = bufq_move(&bytes, &upstream->in, (size_t)frame_wanted(frame));
	if (!err && frame_is_whole(frame))
		err = frames_check(frame, &bytes);
	if (err == ERR_MALFORMED)
		call_fail(call, RPC_MALFORMED, EXCHANGE_UPSTREAM_PROTOCOL);
	if (!err)
		err = pass_answer(upstream, call, frame, &bytes);
	bufq_clear(&bytes);
	return err;
}

// Calls that a server makes have nobody to go to: its connection is that of many clients.
static void refuse_call(struct framed_upstream *upstream, const struct frame *frame)
{
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	writer_init(&w, bytes, sizeof bytes);
	upstream->codec->write_failure(upstream->codec, frame, RPC_NO_ROUTE,
				       STR("the caller cannot be called"), &w);
	send_own(upstream, bytes, w.len);
}

static void answer_heartbeat(struct framed_upstream *upstream, const struct frame *frame)
{
	uint8_t bytes[CODEC_WRITE_ROOM];
	struct writer w;
	stats_inc(STAT_RPC_HEARTBEATS_IN);
	if (!upstream->codec->write_heartbeat_ack)
		return;
	writer_init(&w, bytes, sizeof bytes);
	upstream->codec->write_heartbeat_ack(upstream->codec, frame, &w);
	send_own(upstream, bytes, w.len);
}

static void take_other(struct framed_upstream *upstream, const struct frame *frame)
{
	if (frame->kind == FRAME_HEARTBEAT)
		answer_heartbeat(upstream, frame);
	else if (frame->kind == FRAME_REQUEST)
		refuse_call(upstream, frame);
	else if (frame->kind == FRAME_GOAWAY)
		upstream->closing = true;
	drop_frame(upstream, frame);
	close_if_unused(upstream);
}

static int take_frame(struct framed_upstream *upstream)
{
	uint64_t limit = dataplane_model(upstream->dataplane)->max_frame_bytes;
	struct frame frame;
	int err = frames_measure(upstream->codec, &upstream->in, limit, &frame);
	if (err)
		return err;
	if (frame.kind != FRAME_RESPONSE) {
		take_other(upstream, &frame);
		return 0;
	}
	return upstream->in.bytes < frame_wanted(&frame) ? ERR_NEED_MORE : take_answer(upstream, &frame);
}

// More of an answer that comes in pieces.
static int take_rest(struct framed_upstream *upstream)
{
	struct call *call = upstream->answered;
	struct bufq out = {0};
	size_t before = upstream->in.bytes;
	if (!before)
		return ERR_NEED_MORE;
	if (!call) {
		frame_rest_skip(&upstream->rest, &upstream->in);
		close_if_unused(upstream);
		return 0;
	}
	struct framed_server *server = call->server;
	if (framed_server_congested(server)) {
		pause_for(upstream, server);
		return ERR_NEED_MORE;
	}
	int err = frame_rest_move(&upstream->rest, &out, &upstream->in);
	if (err) {
		bufq_clear(&out);
		return err;
	}
	framed_server_send(server, call, &out);
	if (upstream->rest.bytes)
		return upstream->in.bytes == before ? ERR_NEED_MORE : 0;
	framed_server_answered(server);
	call_complete(call);
	return 0;
}

// --- reading ------------------------------------------------------------------------------------------------
static int read_more(struct framed_upstream *upstream)
{
	struct slice slice;
	int n = stream_read(stream_of(upstream), &slice);
	if (n < 0)
		return n;
	upstream->heard_ns = now_of(upstream);
	upstream->asked = false;
	return frames_keep(&upstream->in, slice);
}

static void read_answers(struct framed_upstream *upstream)
{
	int err = 0;
	while (!err && !upstream->closed && list_empty(&upstream->paused)) {
		err = upstream->rest.bytes ? take_rest(upstream) : take_frame(upstream);
		if (err == ERR_NEED_MORE && list_empty(&upstream->paused))
			err = read_more(upstream);
	}
	if (upstream->closed)
		return;
	if (err == ERR_NEED_MORE && list_empty(&upstream->paused))
		err = bufq_compact(&upstream->in);
	if (!err || err == ERR_NEED_MORE)
		return;
	if (err == ERR_MALFORMED || err == ERR_LIMIT) {
		stats_inc(STAT_RPC_REFUSED);
		log_warn("an endpoint sent a frame that cannot be read",
			 LOG_ADDR("endpoint", &upstream->upstream->endpoint->addr),
			 LOG_STR("cluster", upstream->upstream->endpoint->cluster_name),
			 LOG_TEXT("protocol", upstream->codec->name), LOG_ERR(err));
		upstream_lost(upstream, EXCHANGE_UPSTREAM_PROTOCOL);
	} else {
		upstream_lost(upstream, EXCHANGE_UPSTREAM_TERMINATED);
	}
}

static void resume(struct loop_task *task)
{
	struct framed_upstream *upstream = container_of(task, struct framed_upstream, read_task);
	if (!upstream->closed)
		read_answers(upstream);
}

void framed_upstream_resume_all(struct list *paused)
{
	while (!list_empty(paused)) {
		struct framed_upstream *upstream = container_of(paused->next, struct framed_upstream, paused);
		list_del(&upstream->paused);
		upstream->heard_ns = now_of(upstream); // the silence was ours
		upstream->asked = false;
		loop_defer(upstream->dataplane->loop, &upstream->read_task, resume);
	}
}

// --- events -------------------------------------------------------------------------------------------------
static void on_ready(struct upstream *base, int err)
{
	struct framed_upstream *upstream = base->owner;
	if (err) {
		upstream_lost(upstream, EXCHANGE_CONNECT_FAILED);
		return;
	}
	start_timer(upstream);
	while (!upstream->closed && !list_empty(&upstream->waiting)) {
		struct call *call = container_of(upstream->waiting.next, struct call, waiting);
		stop_waiting(upstream, call);
		send_call(upstream, call);
	}
}

static void on_readable(struct upstream *base)
{
	read_answers(base->owner);
}

static void on_drained(struct upstream *base)
{
	resume_blocked(base->owner);
}

// What the endpoint said before may still be there to be read.
static void on_write_error(struct upstream *base, int err)
{
	struct framed_upstream *upstream = base->owner;
	(void)err;
	upstream->closing = true;
	read_answers(upstream);
	if (!upstream->closed && list_empty(&upstream->paused))
		upstream_lost(upstream, EXCHANGE_UPSTREAM_TERMINATED);
}

static const struct upstream_ops framed_ops = {on_ready, on_readable, on_drained, on_write_error};

bool framed_upstream_others_wait(const struct list *paused, const struct framed_server *server)
{
	list_for_each (node, paused) {
		const struct framed_upstream *upstream = container_of(node, struct framed_upstream, paused);
		const struct call *call;
		size_t at = 0;
		while ((call = call_slots_each(&upstream->slots, &at)))
			if (call->server != server)
				return true;
	}
	return false;
}

void framed_upstream_describe(const struct framed_upstream *upstream, struct conn_info *info)
{
	if (upstream)
		connection_describe_tls(upstream->upstream->stream.tls, &info->upstream_tls_version,
					&info->upstream_tls_peer);
}
