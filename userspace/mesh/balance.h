// SPDX-License-Identifier: Apache-2.0
// Balancing: one worker's state for the clusters of the current snapshot. States are kept across snapshots
// for endpoints that stay (same cluster name, address and TLS settings), so a new configuration neither
// forgets what is marked down nor cuts pooled connections. One thread; no locks.
#pragma once

#include "base/list.h"
#include "mesh/model.h"

// One endpoint as one worker sees it. Reference-counted: the balancer holds one, each upstream connection
// another.
struct endpoint_state {
	uint32_t refs;
	uint32_t weight;
	struct addr addr;
	struct str cluster_name; // owned
	int64_t _current;	 // smooth weighted round robin
	uint32_t active;	 // requests (HTTP) or connections (TCP) under way; kept by the exchange
	uint32_t failures;	 // in a row: refused, reset or timed out while connecting
	uint64_t down_until_ns;	 // CLOCK_MONOTONIC; not picked before, unless all are down
	bool retired;		 // no longer in the snapshot: connections are not pooled any more
	struct list idle;	 // net/upstream: pooled connections, most recently used first
	uint32_t idle_count;
	struct list shared;		       // exchange/http2_client: connections that take streams
	uint32_t shared_count, shared_waiting; // of them; requests that wait for a place
	struct list framed;		       // exchange/framed_upstream: connections that carry many calls
	struct list _node;		       // of those made by balancer_address
};

struct balancer;

// An empty balancer.
int balancer_new(struct balancer **ret_balancer);
void balancer_free(struct balancer *balancer);
// Takes over a snapshot (keeping a reference to it): states of endpoints that remain are kept, others
// retired. What retired endpoints hold in `idle` is for the caller: `on_retire` is called for each. 0 or
// -ENOMEM (all as before).
int balancer_update(struct balancer *balancer, struct model *model,
		    void (*on_retire)(struct endpoint_state *, void *), void *arg);
struct model *balancer_model(const struct balancer *balancer);
// An endpoint of the cluster by its policy, among those not marked down; if all are down, among all (a guess
// beats a certain failure). `except` (may be NULL) is avoided if there is another. NULL: the cluster has no
// endpoints. Borrowed: take a reference to keep it. `cluster` must belong to the current or an earlier
// snapshot (found by name).
struct endpoint_state *balancer_pick(struct balancer *balancer, const struct cluster *cluster,
				     const struct endpoint_state *except, uint64_t now_ns);
// The state of an address outside every cluster (an original destination): made on demand, freed with its
// last reference. NULL when out of memory. The reference is the caller's.
struct endpoint_state *balancer_address(struct balancer *balancer, const struct addr *addr);
struct endpoint_state *endpoint_state_ref(struct endpoint_state *state);
void endpoint_state_unref(struct endpoint_state *state);
// Passive marking: after a connect failure an endpoint is down for 1, 2, 4, ... 32 s (with jitter); a success
// clears it. Failures while it is down already are the same outage and count no further.
void endpoint_mark_failure(struct endpoint_state *state, uint64_t now_ns);
void endpoint_mark_success(struct endpoint_state *state);
// Calls fn for every endpoint of every cluster (admin).
void balancer_each(struct balancer *balancer,
		   void (*fn)(const struct cluster *, struct endpoint_state *, void *), void *arg);
// The states of original destinations, which belong to no cluster.
void balancer_each_address(struct balancer *balancer, void (*fn)(struct endpoint_state *, void *), void *arg);
