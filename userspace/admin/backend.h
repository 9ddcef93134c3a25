// SPDX-License-Identifier: Apache-2.0
// What the admin server may ask of the rest of the proxy; proxy/main fills it in. A function that is NULL
// makes the commands that need it answer "not available".
#pragma once

#include "base/emit.h"
#include "exchange/conn_info.h"
#include "mesh/balance.h"
#include "mesh/model.h"
#include "run/workers.h"

struct tls_context;

struct admin_backend {
	const char *config_path;
	uint64_t started_ns;	       // CLOCK_MONOTONIC
	struct workers *workers;       // NULL: none (tests)
	const struct addr *dns_listen; // where the responder listens
	size_t dns_listen_count;

	// --- called on the control thread, with `data` ---
	void *data;
	// The current snapshot; borrowed until control returns to the loop. NULL: no configuration yet.
	struct model *(*model)(void *data);
	// Whether the proxy serves: /readyz.
	bool (*ready)(void *data);
	// The context in use, borrowed likewise; NULL: no mesh TLS.
	const struct tls_context *(*tls)(void *data);
	// Loads the configuration again. 0, or a negative error with what is wrong appended to ret_error.
	int (*reload)(void *data, struct strbuf *ret_error);
	// Asks inbound clients to go elsewhere; not ready any more. 0 or a negative error.
	int (*retire)(void *data);
	// Describes the configuration in force.
	void (*show_config)(void *data, struct emit *emit);
	// Virtual IPs taken and available, of AF_INET or AF_INET6.
	void (*vip_usage)(void *data, int family, uint64_t *ret_used, uint64_t *ret_size);

	// --- called on the worker's own thread ---
	struct balancer *(*balancer)(struct worker *worker);
	// Calls fn for every downstream connection of the worker.
	void (*connections)(struct worker *worker, conn_info_fn fn, void *arg);
	// Resets a connection. 0, or ERR_NOT_FOUND: not one of this worker's.
	int (*kill)(struct worker *worker, uint64_t id);
	// Empties the forwarder's cache; returns how many entries went.
	uint64_t (*dns_flush)(struct worker *worker);
};
