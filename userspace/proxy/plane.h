// SPDX-License-Identifier: Apache-2.0
// What one worker runs: a data plane and a DNS responder. The functions that take a struct worker run on its
// thread (workers_call).
#pragma once

#include "exchange/conn_info.h"
#include "exchange/dataplane.h"
#include "run/workers.h"

struct config;
struct model;
struct tls_context;

struct plane_settings {
	struct dataplane_settings dataplane;
	struct model *model; // to start with
	struct tls_context *tls;
	struct loop *control; // of the control thread
	void *owner;
	void (*on_idle)(void *owner); // on the control thread, for each worker that has drained
	struct addr dns_listen[2];
	size_t dns_listen_count;
	struct addr dns_servers[8]; // upstream; none: those of resolv.conf
	size_t dns_server_count;
};

// Takes over what the configuration says of DNS. 0 or a negative error.
int plane_settings_dns(struct plane_settings *settings, const struct config *config);

// Whether the ports of all listeners can be had: they are shared among the workers (SO_REUSEPORT), so that a
// second proxy of the same user would otherwise take a part of the first one's connections. 0, or a negative
// error with a sentence that names the port appended to ret_error.
int plane_check_ports(const struct plane_settings *settings, struct strbuf *ret_error);

// For workers_start; arg is the settings, which outlive the workers.
int plane_init(struct worker *worker, void *arg);
void plane_done(struct worker *worker, void *arg);

struct plane_snapshot {
	struct model *model;
	struct tls_context *tls; // NULL: none
};
void plane_publish(struct worker *worker, void *snapshot);
void plane_drain(struct worker *worker, void *unused);
void plane_retire(struct worker *worker, void *unused);
struct balancer *plane_balancer(struct worker *worker);

// Calls fn for every connection of the worker.
void plane_each_connection(struct worker *worker, conn_info_fn fn, void *arg);
// 0, or ERR_NOT_FOUND: not one of this worker's.
int plane_kill_connection(struct worker *worker, uint64_t id);
// Empties the DNS cache; how many entries went.
uint64_t plane_flush_dns(struct worker *worker);
