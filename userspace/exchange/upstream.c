// SPDX-License-Identifier: Apache-2.0
#include "exchange/upstream.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

static const uint32_t DEFAULT_CONNECT_TIMEOUT_MS = 5000;
enum { REPEATS = 5, LOOK_AGAIN_MS = 1000 }; // the first five take six seconds at least

static struct upstream *from_stream(struct stream *stream)
{
	return container_of(stream, struct upstream, stream);
}

// --- an owned connection: events go to the owner -------------------------------------------------------------
static void on_connected(struct stream *stream, int err)
{
	struct upstream *upstream = from_stream(stream);
	loop_timer_stop(&upstream->timer);
	if (err) {
		stats_inc(STAT_UPSTREAM_FAILED);
		endpoint_mark_failure(upstream->endpoint, loop_now(stream->loop));
	} else {
		upstream->ready = true;
		endpoint_mark_success(upstream->endpoint);
		if (stream->tls)
			stats_inc(STAT_TLS_CLIENT_HANDSHAKES);
		if (stream->tls && tls_conn_resumed(stream->tls))
			stats_inc(STAT_TLS_RESUMED);
	}
	upstream->ops->on_ready(upstream, err);
}

static void on_readable(struct stream *stream)
{
	struct upstream *upstream = from_stream(stream);
	if (upstream->ready)
		upstream->ops->on_readable(upstream);
}

static void on_drained(struct stream *stream)
{
	struct upstream *upstream = from_stream(stream);
	upstream->ops->on_drained(upstream);
}

static void on_write_error(struct stream *stream, int err)
{
	struct upstream *upstream = from_stream(stream);
	upstream->ops->on_write_error(upstream, err);
}

static const struct stream_ops owned_ops = {on_connected, on_readable, on_drained, on_write_error};

static void on_connect_timeout(struct loop_timer *timer)
{
	struct upstream *upstream = container_of(timer, struct upstream, timer);
	on_connected(&upstream->stream, -ETIMEDOUT);
}

// --- a pooled connection: whatever happens, it is of no more use ---------------------------------------------
static void on_idle_event(struct stream *stream)
{
	struct slice slice;
	int n = stream_read(stream, &slice);
	if (n != ERR_NEED_MORE) // the end, an error, or bytes that nobody asked for
		upstream_close(from_stream(stream));
}

static void on_idle_drained(struct stream *stream)
{
	(void)stream;
}

static void on_idle_write_error(struct stream *stream, int err)
{
	(void)err;
	upstream_close(from_stream(stream));
}

static void on_idle_timeout(struct loop_timer *timer)
{
	upstream_close(container_of(timer, struct upstream, timer));
}

static const struct stream_ops idle_ops = {
    .on_readable = on_idle_event, .on_drained = on_idle_drained, .on_write_error = on_idle_write_error};

static void leave_pool(struct upstream *upstream)
{
	if (list_empty(&upstream->node))
		return;
	list_del(&upstream->node);
	upstream->endpoint->idle_count--;
}

void upstream_release(struct upstream *upstream, const void *speech)
{
	struct endpoint_state *endpoint = upstream->endpoint;
	struct dataplane *dataplane = upstream->dataplane;
	uint32_t idle_ms = dataplane_model(dataplane)->timeouts.pool_idle_ms;
	// Made with a certificate that was replaced since: what follows is for the new one.
	struct tls_conn *tls = upstream->stream.tls;
	bool outdated = tls && tls_conn_context(tls) != dataplane->tls;
	if (endpoint->retired || outdated || dataplane->draining || endpoint->idle_count >= LIMIT_POOL_IDLE ||
	    !stream_is_idle(&upstream->stream)) {
		upstream_close(upstream);
		return;
	}
	upstream->owner = NULL;
	upstream->speech = speech;
	upstream->reused = true;
	upstream->stream.ops = &idle_ops;
	list_prepend(&endpoint->idle, &upstream->node);
	endpoint->idle_count++;
	upstream->timer.fn = on_idle_timeout;
	loop_timer_start(dataplane->loop, &upstream->timer, idle_ms);
}

void upstream_pool_clear(struct endpoint_state *endpoint)
{
	list_for_each_safe (node, &endpoint->idle)
		upstream_close(container_of(node, struct upstream, node));
}

void upstream_pool_clear_tls(struct endpoint_state *endpoint)
{
	list_for_each_safe (node, &endpoint->idle) {
		struct upstream *upstream = container_of(node, struct upstream, node);
		if (upstream->stream.tls)
			upstream_close(upstream);
	}
}

// --- a host that has vanished -------------------------------------------------------------------------------
bool upstream_is_silent(struct upstream *upstream)
{
	struct sock_silence silence;
	if (!sock_awaits_ack(stream_fd(&upstream->stream), &silence) ||
	    silence.ms < LIMIT_UPSTREAM_SILENT_MS || silence.repeats < REPEATS)
		return false;
	stats_inc(STAT_UPSTREAM_SILENT);
	endpoint_mark_failure(upstream->endpoint, loop_now(upstream->dataplane->loop));
	upstream_pool_clear(upstream->endpoint);
	return true;
}

// While a connection was in the pool. Once what was sent has arrived, keep-alive finds out.
static void on_silence_due(struct loop_timer *timer)
{
	struct upstream *upstream = container_of(timer, struct upstream, timer);
	struct sock_silence silence;
	if (!sock_awaits_ack(stream_fd(&upstream->stream), &silence))
		return;
	if (upstream_is_silent(upstream))
		upstream->ops->on_write_error(upstream, -ETIMEDOUT);
	else
		loop_timer_start(upstream->dataplane->loop, timer, LOOK_AGAIN_MS);
}

// --- getting one --------------------------------------------------------------------------------------------
bool upstream_draw_tls(const struct cluster *cluster)
{
	return cluster && cluster->tls == TLS_ORIGINATE_MESH &&
	       (cluster->tls_percent >= 100 || random_below(100) < cluster->tls_percent);
}

bool upstream_side_eq(const struct upstream_side *a, const struct upstream_side *b)
{
	return a->inbound == b->inbound && ip_eq(&a->client, &b->client);
}

struct upstream_target upstream_target(struct endpoint_state *endpoint, const struct cluster *cluster,
				       struct upstream_side side)
{
	bool tls = upstream_draw_tls(cluster);
	return (struct upstream_target){endpoint, cluster, side, tls,
					tls && cluster->transport == TRANSPORT_H2};
}

static uint32_t connect_timeout(const struct upstream_target *target)
{
	uint32_t configured = target->cluster ? target->cluster->connect_timeout_ms : 0;
	return configured ? configured : DEFAULT_CONNECT_TIMEOUT_MS;
}

void upstream_adopt(struct upstream *upstream, const struct upstream_ops *ops, void *owner)
{
	upstream->ops = ops;
	upstream->owner = owner;
	upstream->stream.ops = &owned_ops;
}

static bool may_serve(const struct upstream *upstream, const struct upstream_target *target,
		      const void *speech)
{
	return (upstream->stream.tls != NULL) == target->tls &&
	       upstream_side_eq(&upstream->side, &target->side) &&
	       (!upstream->speech || upstream->speech == speech);
}

struct upstream *upstream_reuse(struct dataplane *dataplane, const struct upstream_target *target,
				const void *speech, const struct upstream_ops *ops, void *owner)
{
	list_for_each (node, &target->endpoint->idle) {
		struct upstream *upstream = container_of(node, struct upstream, node);
		if (!may_serve(upstream, target, speech))
			continue;
		leave_pool(upstream);
		upstream->timer.fn = on_silence_due;
		loop_timer_start(dataplane->loop, &upstream->timer, LIMIT_UPSTREAM_SILENT_MS);
		upstream_adopt(upstream, ops, owner);
		stats_inc(STAT_UPSTREAM_REUSED);
		return upstream;
	}
	return NULL;
}

// A cluster that asks for TLS while there is no certificate is an error, not plaintext.
static int make_tls(struct dataplane *dataplane, const struct upstream_target *target,
		    struct tls_conn **ret_tls)
{
	const struct cluster *cluster = target->cluster;
	if (!target->tls)
		return 0;
	if (!dataplane->tls)
		return ERR_TLS;
	struct tls_peer_rules rules = {
	    .allow = cluster->tls_allow,
	    .allow_count = cluster->tls_allow_count,
	    .endpoint = target->endpoint->addr,
	    .alpn = target->transport			 ? STR(TLS_ALPN_TRANSPORT)
		    : cluster->protocol == CLUSTER_HTTP2 ? STR("h2")
		    : cluster->protocol == CLUSTER_HTTP1 ? STR("http/1.1")
							 : STR(""),
	};
	return tls_conn_new(dataplane->tls, TLS_CLIENT, &rules, ret_tls);
}

// What is lacking here says nothing about the endpoint.
static bool is_own_fault(int err)
{
	return err == -ENOMEM || err == -ENOBUFS || err == -EMFILE || err == -ENFILE || err == ERR_TLS;
}

int upstream_connect(struct dataplane *dataplane, const struct upstream_target *target,
		     const struct upstream_ops *ops, void *owner, struct upstream **ret_upstream)
{
	struct sock_options options = {.mark = dataplane->settings.outbound_mark};
	struct tls_conn *tls = NULL;
	struct upstream *upstream = pool_zget(&dataplane->upstream_pool);
	if (!upstream)
		return -ENOMEM;
	stream_init(&upstream->stream, dataplane->loop, &owned_ops);
	list_init(&upstream->node);
	loop_timer_init(&upstream->timer, on_connect_timeout);
	upstream->dataplane = dataplane;
	upstream->ops = ops;
	upstream->owner = owner;
	upstream->side = target->side;
	upstream->endpoint = endpoint_state_ref(target->endpoint);
	if (target->side.inbound) {
		bool as_client = target->side.client.family != 0;
		options.mark = as_client ? dataplane->settings.client_mark : dataplane->settings.inbound_mark;
		options.source = as_client ? target->side.client : dataplane->settings.inbound_source;
		options.transparent = as_client;
	}
	int err = make_tls(dataplane, target, &tls);
	if (!err)
		err = stream_connect(&upstream->stream, &target->endpoint->addr, &options, tls);
	if (err) {
		tls_conn_free(tls);
		endpoint_state_unref(upstream->endpoint);
		pool_put(&dataplane->upstream_pool, upstream);
		stats_inc(STAT_UPSTREAM_FAILED);
		if (!is_own_fault(err))
			endpoint_mark_failure(target->endpoint, loop_now(dataplane->loop));
		return err;
	}
	loop_timer_start(dataplane->loop, &upstream->timer, connect_timeout(target));
	stats_inc(STAT_UPSTREAM_CONNECTIONS);
	stats_inc(STAT_UPSTREAM_ACTIVE);
	*ret_upstream = upstream;
	return 0;
}

static void upstream_free(struct loop_task *task)
{
	struct upstream *upstream = container_of(task, struct upstream, task);
	endpoint_state_unref(upstream->endpoint);
	pool_put(&upstream->dataplane->upstream_pool, upstream);
}

// Why TLS failed is told once, whoever used the connection: during the handshake, or later (under TLS 1.3 the
// peer's refusal of our certificate comes when we are done).
static void report_tls_failure(const struct upstream *upstream)
{
	const struct endpoint_state *endpoint = upstream->endpoint;
	const char *reason = upstream->stream.tls ? tls_conn_error(upstream->stream.tls) : "";
	if (!reason[0])
		return;
	stats_inc(upstream->ready ? STAT_TLS_BROKEN : STAT_TLS_FAILED);
	log_warn(upstream->ready ? "TLS connection to an endpoint failed"
				 : "TLS handshake with an endpoint failed",
		 LOG_ADDR("endpoint", &endpoint->addr), LOG_STR("cluster", endpoint->cluster_name),
		 LOG_TEXT("reason", reason));
}

void upstream_close(struct upstream *upstream)
{
	if (!upstream || upstream->task._queued)
		return;
	report_tls_failure(upstream);
	leave_pool(upstream);
	loop_timer_stop(&upstream->timer);
	stream_close(&upstream->stream);
	stats_dec(STAT_UPSTREAM_ACTIVE);
	loop_defer(upstream->dataplane->loop, &upstream->task, upstream_free);
}

void upstream_reset(struct upstream *upstream)
{
	if (upstream)
		stream_set_reset(&upstream->stream);
	upstream_close(upstream);
}
