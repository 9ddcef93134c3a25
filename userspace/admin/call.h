// SPDX-License-Identifier: Apache-2.0
// What the handlers of the admin's commands share. A handler describes its result to the emitter and returns
// 0, or what admin_call_fail and admin_call_usage return; then the result is thrown away.
#pragma once

#include "admin/backend.h"
#include "base/command.h"
#include "base/emit.h"

struct admin_call {
	const struct admin_backend *backend;
	const struct command_value *values;
	size_t value_count;
	struct emit *emit;
	struct strbuf *error; // one sentence
	bool usage;	      // the request was at fault
};

typedef int (*admin_handler)(struct admin_call *call);

// The value of a parameter; p is NULL if it was not given.
struct str admin_value(const struct admin_call *call, const char *name);
// Whether a filter lets the value through: it does if the filter was not given.
bool admin_selects(const struct admin_call *call, const char *filter, struct str value);
int admin_call_fail(struct admin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
int admin_call_usage(struct admin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The current snapshot, or NULL after admin_call_fail.
struct model *admin_model(struct admin_call *call);

int admin_vhost_show(struct admin_call *call);
int admin_route_show(struct admin_call *call);
int admin_route_explain(struct admin_call *call);
int admin_flow_explain(struct admin_call *call);
int admin_cluster_show(struct admin_call *call);
int admin_endpoint_show(struct admin_call *call);
int admin_conn_show(struct admin_call *call);
int admin_conn_kill(struct admin_call *call);
int admin_conn_drain(struct admin_call *call);
int admin_cert_show(struct admin_call *call);
int admin_dns_show(struct admin_call *call);
int admin_dns_flush(struct admin_call *call);
int admin_stats_show(struct admin_call *call);
int admin_config_show(struct admin_call *call);
int admin_config_reload(struct admin_call *call);
int admin_log_show(struct admin_call *call);
int admin_log_level(struct admin_call *call);
int admin_version_show(struct admin_call *call);

// "prefix:/beta"; NULL text for what matches anything. Route show and explain.
void admin_emit_match(struct emit *emit, const char *key, const struct text_match *match);
void admin_emit_headers(struct emit *emit, const struct route *route);
// The fields of a cluster, within a row.
void admin_emit_cluster(struct emit *emit, const struct cluster *cluster);
