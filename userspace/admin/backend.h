// SPDX-License-Identifier: Apache-2.0
// What the admin server may ask of the rest of the proxy. proxy/main fills the functions in; every one is
// called on the control thread. A function that is NULL makes the commands that need it answer "not
// available".
#pragma once

#include "exchange/conn_info.h"
#include "mesh/balance.h"
#include "mesh/model.h"
#include "run/workers.h"

// A certificate in use, without its key.
struct cert_info {
	struct str role; // "workload", "trust"
	struct str path;
	struct str subject, issuer, identity; // identity: the SPIFFE id, or empty
	struct str serial;		      // hexadecimal
	struct str sha256;		      // fingerprint, hexadecimal
	int64_t not_before, not_after;	      // seconds since 1970
};
typedef void (*cert_info_fn)(const struct cert_info *info, void *arg);

struct admin_backend {
	void *data; // first argument of all functions
	const char *config_path;
	uint64_t started_ns; // CLOCK_MONOTONIC

	// The current snapshot; borrowed until control returns to the loop. NULL: no configuration yet.
	struct model *(*model)(void *data);
	// Whether the proxy serves: /readyz.
	bool (*ready)(void *data);

	struct workers *workers; // NULL: none (tests)
	// A worker's balancer; called on the worker's own thread.
	struct balancer *(*balancer)(struct worker *worker);

	// Calls fn for every downstream connection of every worker (gathered; no order).
	void (*connections)(void *data, conn_info_fn fn, void *arg);
	// Resets the connection. 0, or ERR_NOT_FOUND.
	int (*kill)(void *data, uint64_t id);

	void (*certificates)(void *data, cert_info_fn fn, void *arg);

	// Loads the configuration again. 0, or a negative error with what the log says appended to ret_text.
	int (*reload)(void *data, struct strbuf *ret_text);

	const struct addr *dns_listen; // where the responder listens
	size_t dns_listen_count;
	// Empties the forwarder's caches; returns how many entries went.
	uint64_t (*dns_flush)(void *data);
	// Virtual IPs taken and available, of AF_INET or AF_INET6.
	void (*vip_usage)(void *data, int family, uint64_t *ret_used, uint64_t *ret_size);
};
