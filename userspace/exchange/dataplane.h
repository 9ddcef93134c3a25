// SPDX-License-Identifier: Apache-2.0
// What one worker's data plane consists of: the loop, the current snapshot of the model, the balancer's
// state, the TLS context, the connections. Everything here belongs to the worker's thread; the control thread
// changes it by posting dataplane_publish and the like to the loop.
#pragma once

#include "base/addr.h"
#include "base/list.h"
#include "base/pool.h"
#include "exchange/flow.h"
#include "mesh/balance.h"
#include "mesh/model.h"
#include "run/loop.h"

struct tls_context;

// A worker's handle on a snapshot: counted without atomics, so that every request can hold one.
struct snapshot {
	struct model *model; // one reference
	uint32_t refs;
};

// What does not change while the process runs.
struct dataplane_settings {
	uint16_t outbound_port, inbound_port;
	uint32_t outbound_mark, inbound_mark; // of upstream sockets, by the direction they serve
	uint32_t client_mark;		      // of those that come from a client's address; 0: none does
	struct ip inbound_source;	      // else connections to the application come from here (IPv4)
};

struct dataplane {
	struct loop *loop;
	struct dataplane_settings settings;
	struct snapshot *snapshot;
	struct balancer *balancer;
	struct tls_context *tls; // NULL: no mesh TLS
	struct list connections;
	struct list listeners;
	struct list http2_clients;    // shared upstream connections, see http2_client.c
	struct list framed_upstreams; // all, see framed_upstream.c
	struct flow_pipes pipes;
	uint64_t next_id;
	unsigned index; // of the worker
	unsigned connection_count;
	bool draining;
	bool retiring;		 // inbound clients are asked to go elsewhere, and served meanwhile
	struct loop_timer sweep; // closes what is idle when the drain has begun
	void (*on_idle)(struct dataplane *dataplane, void *arg); // owed: no connection is left while draining
	void *on_idle_arg;
	struct pool connection_pool, upstream_pool, tunnel_pool, http2_server_pool, http2_client_pool;
	struct pool call_pool, framed_server_pool, framed_upstream_pool, streamed_server_pool;
};

// Takes a reference on `model` and on `tls` (may be NULL). 0 or a negative error.
int dataplane_new(struct loop *loop, unsigned index, const struct dataplane_settings *settings,
		  struct model *model, struct tls_context *tls, struct dataplane **ret_dataplane);
// Closes whatever is open, at once. Run it on the loop's thread, the loop not running.
void dataplane_free(struct dataplane *dataplane);
// Takes over a new snapshot: requests under way keep theirs. 0 or -ENOMEM (then nothing changed).
int dataplane_publish(struct dataplane *dataplane, struct model *model);
// New connections use this context from now on (NULL: none); pooled ones that are idle are closed.
void dataplane_set_tls(struct dataplane *dataplane, struct tls_context *tls);
// Listens on both listeners' addresses: outbound on loopback, inbound on all. 0 or a negative error.
int dataplane_listen(struct dataplane *dataplane);
// Stops accepting (what the kernel has connected is taken still), closes what is idle, lets exchanges finish;
// on_idle is called once, when none is left.
void dataplane_drain(struct dataplane *dataplane, void (*on_idle)(struct dataplane *, void *), void *arg);
// Asks inbound clients to go elsewhere, now that others can take over: their connections end with the answer
// under way or the next one (Connection: close, GOAWAY). All are served still, new ones, too.
void dataplane_retire(struct dataplane *dataplane);
// To be called when a connection has gone: tells on_idle if it was the last.
void dataplane_connection_gone(struct dataplane *dataplane);

static inline struct model *dataplane_model(const struct dataplane *dataplane)
{
	return dataplane->snapshot->model;
}
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot *snapshot); // NULL is fine
