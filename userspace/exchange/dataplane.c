// SPDX-License-Identifier: Apache-2.0
#include "exchange/dataplane.h"

#include "base/mem.h"
#include "exchange/connection.h"
#include "exchange/framed_server.h"
#include "exchange/framed_upstream.h"
#include "exchange/http2_client.h"
#include "exchange/http2_server.h"
#include "exchange/listener.h"
#include "exchange/streamed_server.h"
#include "exchange/tunnel.h"
#include "exchange/upstream.h"
#include "net/tls.h"

#include <errno.h>

enum { SPARE_CONNECTIONS = 64, SWEEP_MS = 5 };

static void on_sweep(struct loop_timer *timer);

// --- snapshots ----------------------------------------------------------------------------------------------
static struct snapshot *snapshot_new(struct model *model)
{
	struct snapshot *snapshot = mem_alloc(sizeof *snapshot);
	if (snapshot)
		*snapshot = (struct snapshot){model_ref(model), 1};
	return snapshot;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
	snapshot->refs++;
	return snapshot;
}

void snapshot_unref(struct snapshot *snapshot)
{
	if (!snapshot || --snapshot->refs)
		return;
	model_unref(snapshot->model);
	mem_free(snapshot);
}

static void on_retire(struct endpoint_state *endpoint, void *arg)
{
	(void)arg;
	upstream_pool_clear(endpoint);
	http2_client_retire(endpoint);
	framed_upstream_retire(endpoint);
}

int dataplane_publish(struct dataplane *dataplane, struct model *model)
{
	struct snapshot *snapshot = snapshot_new(model);
	int err = snapshot ? balancer_update(dataplane->balancer, model, on_retire, NULL) : -ENOMEM;
	if (err) {
		snapshot_unref(snapshot);
		return err;
	}
	snapshot_unref(dataplane->snapshot);
	dataplane->snapshot = snapshot;
	return 0;
}

static void clear_tls(const struct cluster *cluster, struct endpoint_state *endpoint, void *arg)
{
	(void)cluster;
	(void)arg;
	upstream_pool_clear_tls(endpoint);
	http2_client_retire(endpoint);
}

void dataplane_set_tls(struct dataplane *dataplane, struct tls_context *tls)
{
	struct tls_context *old = dataplane->tls;
	if (tls == old)
		return;
	dataplane->tls = tls ? tls_context_ref(tls) : NULL;
	if (old) {
		// What is in use goes on; what nobody uses must not serve anybody whom the new files would
		// refuse.
		balancer_each(dataplane->balancer, clear_tls, NULL);
		tls_context_unref(old);
	}
}

// --- life ---------------------------------------------------------------------------------------------------
int dataplane_new(struct loop *loop, unsigned index, const struct dataplane_settings *settings,
		  struct model *model, struct tls_context *tls, struct dataplane **ret_dataplane)
{
	struct dataplane *dataplane = mem_zalloc(sizeof *dataplane);
	if (!dataplane)
		return -ENOMEM;
	dataplane->loop = loop;
	dataplane->index = index;
	dataplane->settings = *settings;
	dataplane->next_id = 1;
	list_init(&dataplane->connections);
	list_init(&dataplane->listeners);
	list_init(&dataplane->http2_clients);
	list_init(&dataplane->framed_upstreams);
	flow_pipes_init(&dataplane->pipes);
	loop_timer_init(&dataplane->sweep, on_sweep);
	dataplane->connection_pool = POOL_INIT(struct connection, SPARE_CONNECTIONS);
	dataplane->upstream_pool = POOL_INIT(struct upstream, SPARE_CONNECTIONS);
	dataplane->tunnel_pool = tunnel_pool_init();
	dataplane->http2_server_pool = http2_server_pool_init();
	dataplane->http2_client_pool = http2_client_pool_init();
	dataplane->call_pool = call_pool_init();
	dataplane->framed_server_pool = framed_server_pool_init();
	dataplane->framed_upstream_pool = framed_upstream_pool_init();
	dataplane->streamed_server_pool = streamed_server_pool_init();
	int err = balancer_new(&dataplane->balancer);
	if (!err)
		err = dataplane_publish(dataplane, model);
	if (err) {
		dataplane_free(dataplane);
		return err;
	}
	dataplane_set_tls(dataplane, tls);
	*ret_dataplane = dataplane;
	return 0;
}

int dataplane_listen(struct dataplane *dataplane)
{
	return listeners_open(dataplane);
}

static void clear_pool(const struct cluster *cluster, struct endpoint_state *endpoint, void *arg)
{
	(void)cluster;
	(void)arg;
	upstream_pool_clear(endpoint);
}

void dataplane_free(struct dataplane *dataplane)
{
	if (!dataplane)
		return;
	dataplane->on_idle = NULL;
	loop_timer_stop(&dataplane->sweep);
	listeners_close(dataplane);
	list_for_each_safe (node, &dataplane->connections)
		connection_close(container_of(node, struct connection, node));
	dataplane->draining = true; // connections on their way into a pool are closed instead
	framed_upstream_close_all(dataplane);
	if (dataplane->balancer) {
		balancer_each(dataplane->balancer, clear_pool, NULL);
		balancer_each_address(dataplane->balancer, on_retire, NULL);
	}
	http2_client_drain(dataplane);
	loop_turn(dataplane->loop, 0); // runs the deferred frees
	flow_pipes_done(&dataplane->pipes);
	balancer_free(dataplane->balancer);
	snapshot_unref(dataplane->snapshot);
	if (dataplane->tls)
		tls_context_unref(dataplane->tls);
	pool_trim(&dataplane->connection_pool);
	pool_trim(&dataplane->upstream_pool);
	pool_trim(&dataplane->tunnel_pool);
	pool_trim(&dataplane->http2_server_pool);
	pool_trim(&dataplane->http2_client_pool);
	pool_trim(&dataplane->call_pool);
	pool_trim(&dataplane->framed_server_pool);
	pool_trim(&dataplane->framed_upstream_pool);
	pool_trim(&dataplane->streamed_server_pool);
	mem_free(dataplane);
}

// --- drain --------------------------------------------------------------------------------------------------
static bool is_idle(const struct connection *connection)
{
	if (connection->closing)
		return false;
	if (connection->framed)
		return framed_server_is_idle(connection);
	if (connection->streamed)
		return streamed_server_is_idle(connection);
	return !connection->exchange && !connection->tunnel && !connection->http2 &&
	       bufq_empty(&connection->in) && !stream_is_connecting(&connection->stream);
}

static void tell_if_idle(struct dataplane *dataplane)
{
	void (*on_idle)(struct dataplane *, void *) = dataplane->on_idle;
	if (!on_idle || dataplane->connection_count)
		return;
	dataplane->on_idle = NULL;
	on_idle(dataplane, dataplane->on_idle_arg);
}

void dataplane_connection_gone(struct dataplane *dataplane)
{
	dataplane->connection_count--;
	tell_if_idle(dataplane);
}

// What has come, but was not read yet, may be a request, and an answer may not be sent yet: looked at again.
static void on_sweep(struct loop_timer *timer)
{
	struct dataplane *dataplane = container_of(timer, struct dataplane, sweep);
	bool again = false;
	list_for_each_safe (node, &dataplane->connections) {
		struct connection *connection = container_of(node, struct connection, node);
		if (!is_idle(connection))
			continue;
		if (stream_queued(&connection->stream) == 0 && sock_is_quiet(stream_fd(&connection->stream)))
			connection_close(connection);
		else
			again = true;
	}
	if (again)
		loop_timer_start(dataplane->loop, &dataplane->sweep, SWEEP_MS);
	tell_if_idle(dataplane);
}

static void drain_shared(struct connection *connection)
{
	if (connection->http2)
		http2_server_drain(connection);
	else if (connection->framed && !connection->closing)
		framed_server_drain(connection);
}

void dataplane_retire(struct dataplane *dataplane)
{
	if (dataplane->retiring)
		return;
	dataplane->retiring = true;
	list_for_each_safe (node, &dataplane->connections) {
		struct connection *connection = container_of(node, struct connection, node);
		if (connection->inbound)
			drain_shared(connection);
	}
}

// What is idle is closed a moment later: by then a request that is there already has been read.
void dataplane_drain(struct dataplane *dataplane, void (*on_idle)(struct dataplane *, void *), void *arg)
{
	dataplane->draining = true;
	dataplane->on_idle = on_idle;
	dataplane->on_idle_arg = arg;
	listeners_drain(dataplane);
	listeners_close(dataplane);
	list_for_each_safe (node, &dataplane->connections) {
		drain_shared(container_of(node, struct connection, node));
	}
	http2_client_drain(dataplane);
	loop_timer_start(dataplane->loop, &dataplane->sweep, SWEEP_MS);
}
