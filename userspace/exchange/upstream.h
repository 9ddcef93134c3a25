// SPDX-License-Identifier: Apache-2.0
// Upstream connections: made to one endpoint, used by one owner at a time, and kept for the next when they
// are clean. The pool is the endpoint state's idle list (mesh/balance.h), most recently used first. One
// worker each.
#pragma once

#include "exchange/dataplane.h"
#include "net/stream.h"

struct upstream;

struct upstream_ops {
	// The connection is ready (0) or could not be made; then it is the owner's to free.
	void (*on_ready)(struct upstream *upstream, int err);
	void (*on_readable)(struct upstream *upstream);
	void (*on_drained)(struct upstream *upstream);
	void (*on_write_error)(struct upstream *upstream, int err);
};

// Whom a connection serves: its source address and its mark depend on it.
struct upstream_side {
	bool inbound;	  // towards the application
	struct ip client; // whose address the application sees; family 0: the proxy's
};
bool upstream_side_eq(const struct upstream_side *a, const struct upstream_side *b);

struct upstream {
	struct stream stream;
	struct dataplane *dataplane;
	struct endpoint_state *endpoint; // one reference
	struct list node;		 // endpoint->idle while pooled
	struct loop_timer timer;	 // to connect, to stay idle, or to be heard when it serves again
	struct loop_task task;
	const struct upstream_ops *ops;
	void *owner;
	bool reused; // it has served before
	bool ready;
	struct upstream_side side;
	const void *speech; // while pooled: see upstream_release
};

// How to reach an endpoint.
struct upstream_target {
	struct endpoint_state *endpoint;
	const struct cluster *cluster; // for TLS and timeouts; NULL: an original destination, plaintext
	struct upstream_side side;
	bool tls;	// by the cluster's share; drawn once, so that the share is exact
	bool transport; // and in HTTP/2 streams between the proxies (exchange/transport.h)
};
// Whether the next connection to the cluster uses TLS, by its share.
bool upstream_draw_tls(const struct cluster *cluster);
struct upstream_target upstream_target(struct endpoint_state *endpoint, const struct cluster *cluster,
				       struct upstream_side side);

// A pooled connection to the target on which nothing else than `speech` was spoken, or NULL. Ready at once.
struct upstream *upstream_reuse(struct dataplane *dataplane, const struct upstream_target *target,
				const void *speech, const struct upstream_ops *ops, void *owner);
// A new one; on_ready will be called (never from inside this). 0 or a negative error.
int upstream_connect(struct dataplane *dataplane, const struct upstream_target *target,
		     const struct upstream_ops *ops, void *owner, struct upstream **ret_upstream);
// Whether its host may have vanished: nothing of what was sent is acknowledged for LIMIT_UPSTREAM_SILENT_MS,
// though the kernel, which would go on for a quarter of an hour, has repeated it. True counts as a failure of
// the endpoint and empties its pool; this connection is for the caller to close.
bool upstream_is_silent(struct upstream *upstream);
// Gives it to another owner.
void upstream_adopt(struct upstream *upstream, const struct upstream_ops *ops, void *owner);
// Puts a ready connection into the pool, or closes it: when the pool is full, when a request is not sent
// whole, or when there is something to read, be it the end. What is there before it was asked for must not
// answer the next request. `speech` stands for the protocol that was spoken, by the address of something that
// this protocol alone has; NULL: nothing was said. An endpoint that speaks several on one port has told by
// the first bytes which one it is, so no other may follow.
void upstream_release(struct upstream *upstream, const void *speech);
// Closes; memory goes at the end of the turn. NULL is fine.
void upstream_close(struct upstream *upstream);
void upstream_reset(struct upstream *upstream);
// Closes all that is idle on an endpoint; of these, those with TLS.
void upstream_pool_clear(struct endpoint_state *endpoint);
void upstream_pool_clear_tls(struct endpoint_state *endpoint);
