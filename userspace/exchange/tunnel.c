// SPDX-License-Identifier: Apache-2.0
#include "exchange/tunnel.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "exchange/exchange.h"
#include "exchange/tcp_server.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>

enum { SPARE_TUNNELS = 64, ATTEMPTS = 3 };

struct tunnel {
	struct connection *connection;
	struct upstream *upstream;
	struct snapshot *snapshot;
	const struct virtual_host *host; // NULL: passed through to the original destination
	const struct cluster *cluster;
	struct endpoint_state *endpoint; // a reference, counted active
	struct flow up, down;
	uint8_t attempts;
	bool joined;
};

static void tunnel_try(struct tunnel *tunnel, const struct endpoint_state *except);

struct pool tunnel_pool_init(void)
{
	return POOL_INIT(struct tunnel, SPARE_TUNNELS);
}

// Whether something is still to be sent; then on_drained comes when it is.
static bool await_flush(struct stream *stream)
{
	if (!stream_is_open(stream) || stream_is_flushed(stream))
		return false;
	stream_want_drained(stream);
	return true;
}

// Both ends were passed on, or one side failed: an error on one side is a reset on the other.
static void tunnel_finish(struct tunnel *tunnel, int err)
{
	struct connection *connection = tunnel->connection;
	if (err != ERR_EOF) {
		flow_done(&tunnel->up);
		flow_done(&tunnel->down);
		upstream_reset(tunnel->upstream);
		tunnel->upstream = NULL;
		connection_reset(connection);
		return;
	}
	// What is queued leaves at the end of the turn, or when the peer reads on: on_drained comes back
	// here. A side that has sent all is not asked again: it would answer at once, and again, for as long
	// as the other one waits.
	bool downstream = await_flush(&connection->stream), upstream = await_flush(&tunnel->upstream->stream);
	if (!downstream && !upstream)
		connection_close(connection);
}

// Moves what can be moved; returns false when the tunnel is gone.
static bool tunnel_flow(struct tunnel *tunnel, struct flow *flow)
{
	if (flow->ended || !tunnel->joined)
		return true;
	int err = flow_pump(flow);
	if (!err || err == ERR_NEED_MORE) {
		connection_idle(tunnel->connection);
		return true;
	}
	if (err == ERR_EOF && (!tunnel->up.ended || !tunnel->down.ended))
		return true;
	tunnel_finish(tunnel, err);
	return false;
}

static void tunnel_pump(struct tunnel *tunnel)
{
	if (tunnel->up.ended && tunnel->down.ended)
		tunnel_finish(tunnel, ERR_EOF);
	else if (tunnel_flow(tunnel, &tunnel->up))
		tunnel_flow(tunnel, &tunnel->down);
}

// --- events -------------------------------------------------------------------------------------------------
static struct tunnel *of_connection(struct stream *stream)
{
	return container_of(stream, struct connection, stream)->tunnel;
}

static void on_downstream_event(struct stream *stream)
{
	struct tunnel *tunnel = of_connection(stream);
	if (tunnel->joined)
		tunnel_pump(tunnel);
}

// While nothing may be read its end can wait, but not a reset.
static void on_downstream_readable(struct stream *stream)
{
	if (stream_has_failed(stream))
		tunnel_finish(of_connection(stream), -ECONNRESET);
	else
		on_downstream_event(stream);
}

static void on_downstream_error(struct stream *stream, int err)
{
	tunnel_finish(of_connection(stream), err);
}

static const struct stream_ops downstream_ops = {.on_readable = on_downstream_readable,
						 .on_drained = on_downstream_event,
						 .on_write_error = on_downstream_error};

static void on_flow(struct flow *flow)
{
	tunnel_pump(flow->owner);
}

static void on_upstream_event(struct upstream *upstream)
{
	tunnel_pump(upstream->owner);
}

static void on_upstream_error(struct upstream *upstream, int err)
{
	tunnel_finish(upstream->owner, err);
}

static void tunnel_set_endpoint(struct tunnel *tunnel, struct endpoint_state *endpoint)
{
	if (tunnel->endpoint) {
		tunnel->endpoint->active--;
		endpoint_state_unref(tunnel->endpoint);
	}
	if (endpoint)
		endpoint_state_ref(endpoint)->active++;
	tunnel->endpoint = endpoint;
	if (endpoint)
		connection_set_endpoint(tunnel->connection, endpoint);
}

static void tunnel_established(struct tunnel *tunnel)
{
	struct connection *connection = tunnel->connection;
	tunnel->joined = true;
	struct flow_pipes *pipes = &connection->dataplane->pipes;
	struct stream *downstream = &connection->stream, *upstream = &tunnel->upstream->stream;
	flow_init(&tunnel->up, pipes, downstream, upstream, on_flow, tunnel);
	flow_init(&tunnel->down, pipes, upstream, downstream, on_flow, tunnel);
	flow_pair(&tunnel->up, &tunnel->down);
	if (connection->in.bytes)
		stream_write(&tunnel->upstream->stream, &connection->in);
	tunnel_pump(tunnel);
}

static void on_upstream_ready(struct upstream *upstream, int err)
{
	struct tunnel *tunnel = upstream->owner;
	if (!err) {
		tunnel_established(tunnel);
		return;
	}
	struct endpoint_state *failed = endpoint_state_ref(upstream->endpoint);
	upstream_close(upstream);
	tunnel->upstream = NULL;
	tunnel_try(tunnel, failed);
	endpoint_state_unref(failed);
}

static const struct upstream_ops tunnel_upstream_ops = {on_upstream_ready, on_upstream_event,
							on_upstream_event, on_upstream_error};

// --- starting -----------------------------------------------------------------------------------------------
static void tunnel_give_up(struct tunnel *tunnel, int err)
{
	struct connection *connection = tunnel->connection;
	log_warn("no upstream connection", LOG_UINT("connection", connection->id),
		 LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
		 LOG_STR("cluster", tunnel->cluster ? tunnel->cluster->name : STR("")), LOG_ERR(err));
	connection_reset(connection);
}

// The endpoint to try next; a reference. NULL: none.
static struct endpoint_state *tunnel_pick(struct tunnel *tunnel, const struct endpoint_state *except)
{
	struct dataplane *dataplane = tunnel->connection->dataplane;
	if (!tunnel->cluster)
		return balancer_address(dataplane->balancer, &tunnel->connection->destination);
	struct endpoint_state *endpoint =
	    balancer_pick(dataplane->balancer, tunnel->cluster, except, loop_now(dataplane->loop));
	return endpoint ? endpoint_state_ref(endpoint) : NULL;
}

// A connection that was never made can be tried again elsewhere without harm.
static void tunnel_try(struct tunnel *tunnel, const struct endpoint_state *except)
{
	struct connection *connection = tunnel->connection;
	int err = -ECONNREFUSED;
	while (tunnel->attempts < (tunnel->cluster ? ATTEMPTS : 1)) {
		struct endpoint_state *endpoint = tunnel_pick(tunnel, except);
		tunnel->attempts++;
		if (!endpoint) {
			err = ERR_NO_ENDPOINT;
			break;
		}
		struct upstream_target target =
		    upstream_target(endpoint, tunnel->cluster, connection_side(connection));
		if (target
			.transport) // by its share this one is not among those that use TLS, see tunnel_start
			target.tls = target.transport = false;
		err = upstream_connect(connection->dataplane, &target, &tunnel_upstream_ops, tunnel,
				       &tunnel->upstream);
		if (!err)
			tunnel_set_endpoint(tunnel, endpoint);
		endpoint_state_unref(endpoint);
		if (!err)
			return;
	}
	tunnel_give_up(tunnel, err);
}

static struct tunnel *tunnel_new(struct connection *connection)
{
	struct tunnel *tunnel = pool_zget(&connection->dataplane->tunnel_pool);
	if (!tunnel) {
		connection_reset(connection);
		return NULL;
	}
	tunnel->connection = connection;
	tunnel->snapshot = snapshot_ref(connection->dataplane->snapshot);
	connection->tunnel = tunnel;
	connection->stream.ops = &downstream_ops;
	connection_idle(connection);
	return tunnel;
}

// Whether it rides in a stream between sidecars; then that has begun.
static bool carried(struct connection *connection, const struct virtual_host *host,
		    const struct cluster *cluster)
{
	if (tcp_server_adopt(connection, host))
		return true;
	if (!cluster || connection->early || cluster->transport != TRANSPORT_H2 ||
	    !upstream_draw_tls(cluster))
		return false;
	tcp_server_start(connection, host, cluster);
	return true;
}

void tunnel_start(struct connection *connection, const struct virtual_host *host)
{
	const struct cluster *cluster =
	    host && host->default_route ? route_pick(host->default_route, random_u64()) : NULL;
	if (carried(connection, host, cluster))
		return;
	struct tunnel *tunnel = tunnel_new(connection);
	if (!tunnel)
		return;
	tunnel->host = host;
	tunnel->cluster = cluster;
	if (host && !host->default_route) {
		tunnel_give_up(tunnel, ERR_NOT_FOUND);
		return;
	}
	if (!host && !connection->inbound)
		stats_inc(STAT_PASSTHROUGH);
	if (connection->protocol == PROTOCOL_UNKNOWN)
		connection->protocol = PROTOCOL_TCP;
	// What was dialled towards the original destination does not lead to the virtual host that a name
	// chose since.
	if (connection->early && (connection->early->endpoint->cluster_name.len > 0) != (host != NULL))
		connection_drop_early(connection);
	if (!connection->early) {
		tunnel_try(tunnel, NULL);
		return;
	}
	tunnel->upstream = connection->early;
	connection->early = NULL;
	tunnel_set_endpoint(tunnel, tunnel->upstream->endpoint);
	if (tunnel->cluster) // dialling picked one already; another pick would name the wrong one
		tunnel->cluster =
		    model_cluster(tunnel->snapshot->model, tunnel->upstream->endpoint->cluster_name);
	upstream_adopt(tunnel->upstream, &tunnel_upstream_ops, tunnel);
	if (tunnel->upstream->ready)
		tunnel_established(tunnel);
}

void tunnel_refuse(struct connection *connection, const struct virtual_host *host)
{
	const struct route *route = host ? host->default_route : NULL;
	struct tunnel *tunnel = tunnel_new(connection);
	if (!tunnel)
		return;
	connection->protocol = PROTOCOL_TCP;
	tunnel->host = host;
	tunnel->cluster = route && route->to_count == 1 ? route_pick(route, 0) : NULL; // else any was tried
	tunnel_give_up(tunnel, -ECONNREFUSED);
}

void tunnel_join(struct connection *connection, struct upstream *upstream, struct bufq *leftover)
{
	struct tunnel *tunnel = tunnel_new(connection);
	if (!tunnel) {
		upstream_close(upstream);
		bufq_clear(leftover);
		return;
	}
	tunnel->upstream = upstream;
	tunnel_set_endpoint(tunnel, upstream->endpoint);
	upstream_adopt(upstream, &tunnel_upstream_ops, tunnel);
	stream_write(&connection->stream, leftover);
	tunnel_established(tunnel);
}

bool tunnel_count(struct tunnel *tunnel)
{
	bool up = flow_count(&tunnel->up);
	return flow_count(&tunnel->down) || up;
}

// Whether there was an endpoint to speak with, and else whose fault that is.
static enum exchange_flag flag_of(const struct tunnel *tunnel)
{
	if (tunnel->joined)
		return EXCHANGE_OK;
	return tunnel->upstream ? EXCHANGE_DOWNSTREAM_GONE : EXCHANGE_CONNECT_FAILED;
}

static void access_log(const struct tunnel *tunnel)
{
	const struct connection *connection = tunnel->connection;
	static const struct addr none;
	const char *tls_version = "-";
	struct str tls_peer = STR("-");
	connection_describe_tls(connection->stream.tls, &tls_version, &tls_peer);
	log_info(
	    "connection", LOG_UINT("connection", connection->id),
	    LOG_TEXT("direction", connection->inbound ? "inbound" : "outbound"),
	    LOG_ADDR("peer", &connection->peer), LOG_ADDR("destination", &connection->destination),
	    LOG_TEXT("protocol", protocol_name(connection->protocol)),
	    LOG_TEXT("flag", exchange_flag_name(flag_of(tunnel))),
	    LOG_STR("virtual_host", tunnel->host ? tunnel->host->name : STR("-")),
	    LOG_STR("cluster", tunnel->cluster ? tunnel->cluster->name : STR("-")),
	    LOG_ADDR("endpoint", tunnel->endpoint ? &tunnel->endpoint->addr : &none),
	    LOG_UINT("received", connection->stream.received), LOG_UINT("sent", connection->stream.sent),
	    LOG_UINT("duration_us", (loop_now(connection->dataplane->loop) - connection->opened_ns) / 1000),
	    LOG_TEXT("tls", tls_version), LOG_STR("tls_peer", tls_peer));
}

void tunnel_free(struct connection *connection)
{
	struct tunnel *tunnel = connection->tunnel;
	if (!tunnel)
		return;
	if (tunnel->snapshot->model->access_log)
		access_log(tunnel);
	flow_done(&tunnel->up);
	flow_done(&tunnel->down);
	upstream_close(tunnel->upstream);
	tunnel_set_endpoint(tunnel, NULL);
	snapshot_unref(tunnel->snapshot);
	pool_put(&connection->dataplane->tunnel_pool, tunnel);
	connection->tunnel = NULL;
}

void tunnel_describe(const struct tunnel *tunnel, struct conn_info *info)
{
	if (tunnel->host)
		info->virtual_host = tunnel->host->name;
	if (tunnel->cluster)
		info->cluster = tunnel->cluster->name;
	info->accelerated |= tunnel->up.relay || tunnel->down.relay;
	if (!tunnel->upstream)
		return;
	info->endpoint = tunnel->upstream->endpoint->addr;
	connection_describe_tls(tunnel->upstream->stream.tls, &info->upstream_tls_version,
				&info->upstream_tls_peer);
}
