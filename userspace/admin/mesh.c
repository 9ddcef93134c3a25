// SPDX-License-Identifier: Apache-2.0
// Virtual hosts, routes, clusters, as the current snapshot has them.
#include "admin/call.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

static const char *const balance_names[] = {[BALANCE_ROUND_ROBIN] = "round_robin",
					    [BALANCE_RANDOM] = "random",
					    [BALANCE_LEAST_REQUEST] = "least_request"};
static const char *const cluster_protocol_names[] = {
    [CLUSTER_AUTO] = "auto", [CLUSTER_HTTP1] = "http1", [CLUSTER_HTTP2] = "http2"};

static void emit_port(struct emit *emit, uint16_t port)
{
	if (port)
		emit_uint(emit, "port", port);
	else
		emit_text(emit, "port", "any");
}

static void emit_strs(struct emit *emit, const char *name, const struct str *strs, size_t count)
{
	emit_list_begin(emit, name);
	for (size_t i = 0; i < count; i++)
		emit_str(emit, NULL, strs[i]);
	emit_list_end(emit);
}

// Calls fn for each virtual host of each service.
static void each_host(const struct model *model, struct admin_call *call,
		      void (*fn)(struct admin_call *, const struct virtual_host *))
{
	for (size_t i = 0; i < model->service_count; i++)
		for (size_t j = 0; j < model->services[i].host_count; j++)
			fn(call, &model->services[i].hosts[j]);
}

// --- vhost ------------------------------------------------------------------------------------------------
static bool port_selected(const struct admin_call *call, uint16_t port)
{
	uint64_t wanted;
	struct str text = admin_value(call, "port");
	return !text.p || (str_to_u64(text, &wanted) == 0 && wanted == port);
}

static void vhost_row(struct admin_call *call, const struct virtual_host *host)
{
	struct emit *emit = call->emit;
	const struct service *service = host->service;
	if (!admin_selects(call, "name", service->name) || !port_selected(call, host->port))
		return;
	emit_row_begin(emit);
	emit_str(emit, "name", service->name);
	emit_port(emit, host->port);
	emit_str(emit, "protocol", host->rule.text);
	emit_ip(emit, "vip4", &service->vip4);
	emit_ip(emit, "vip6", &service->vip6);
	emit_list_begin(emit, "addresses");
	for (size_t i = 0; i < service->address_count; i++)
		emit_ip(emit, NULL, &service->addresses[i]);
	emit_list_end(emit);
	emit_uint(emit, "routes", host->route_count);
	emit_row_end(emit);
}

int admin_vhost_show(struct admin_call *call)
{
	struct model *model = admin_model(call);
	if (!model)
		return ERR_NOT_FOUND;
	emit_table_begin(call->emit, "virtual_hosts");
	each_host(model, call, vhost_row);
	emit_table_end(call->emit);
	return 0;
}

// --- route ------------------------------------------------------------------------------------------------
static const char *const match_names[] = {[MATCH_ANY] = "any",
					  [MATCH_EXACT] = "exact",
					  [MATCH_PREFIX] = "prefix",
					  [MATCH_REGEX] = "regex",
					  [MATCH_PRESENT] = "present"};

static void add_match(struct strbuf *out, const struct text_match *match)
{
	strbuf_add_text(out, match_names[match->kind]);
	if (match->kind != MATCH_ANY && match->kind != MATCH_PRESENT)
		strbuf_printf(out, ":%.*s", STR_ARG(match->text));
}

void admin_emit_match(struct emit *emit, const char *key, const struct text_match *match)
{
	autostrbuf struct strbuf text = {0};
	add_match(&text, match);
	emit_str(emit, key, strbuf_str(&text));
}

void admin_emit_headers(struct emit *emit, const struct route *route)
{
	emit_list_begin(emit, "headers");
	for (size_t i = 0; i < route->header_count; i++) {
		const struct header_match *header = &route->headers[i];
		autostrbuf struct strbuf text = {0};
		strbuf_printf(&text, "%s%.*s ", header->invert ? "not " : "", STR_ARG(header->name));
		add_match(&text, &header->value);
		emit_str(emit, NULL, strbuf_str(&text));
	}
	emit_list_end(emit);
}

static bool leads_to(const struct admin_call *call, const struct route *route)
{
	for (size_t i = 0; i < route->to_count; i++)
		if (admin_selects(call, "cluster", route->to[i].cluster->name))
			return true;
	return false;
}

static void route_row(struct admin_call *call, const struct virtual_host *host, const struct route *route)
{
	struct emit *emit = call->emit;
	emit_row_begin(emit);
	emit_str(emit, "virtual_host", host->name);
	emit_str(emit, "route", route->name);
	admin_emit_match(emit, "path", &route->path);
	emit_str(emit, "method", route->method.len ? route->method : STR("any"));
	admin_emit_headers(emit, route);
	emit_table_begin(emit, "to");
	for (size_t i = 0; i < route->to_count; i++) {
		emit_row_begin(emit);
		emit_str(emit, "cluster", route->to[i].cluster->name);
		emit_uint(emit, "weight", route->to[i].weight);
		emit_row_end(emit);
	}
	emit_table_end(emit);
	emit_duration(emit, "timeout", route->timeout_ms * NS_PER_MS);
	emit_uint(emit, "retries", route->retries);
	emit_row_end(emit);
}

static void route_rows(struct admin_call *call, const struct virtual_host *host)
{
	if (!admin_selects(call, "service", host->service->name))
		return;
	for (size_t i = 0; i < host->route_count; i++)
		if (leads_to(call, &host->routes[i]))
			route_row(call, host, &host->routes[i]);
}

int admin_route_show(struct admin_call *call)
{
	struct model *model = admin_model(call);
	if (!model)
		return ERR_NOT_FOUND;
	emit_table_begin(call->emit, "routes");
	each_host(model, call, route_rows);
	emit_table_end(call->emit);
	return 0;
}

// --- cluster ----------------------------------------------------------------------------------------------
void admin_emit_cluster(struct emit *emit, const struct cluster *cluster)
{
	emit_str(emit, "name", cluster->name);
	emit_text(emit, "balance", balance_names[cluster->balance]);
	emit_text(emit, "protocol", cluster_protocol_names[cluster->protocol]);
	emit_text(emit, "tls", cluster->tls == TLS_ORIGINATE_MESH ? "mesh" : "off");
	emit_text(emit, "transport", cluster->transport == TRANSPORT_H2 ? "h2" : "direct");
	emit_uint(emit, "tls_percent", cluster->tls == TLS_ORIGINATE_MESH ? cluster->tls_percent : 0);
	emit_strs(emit, "allow", cluster->tls_allow, cluster->tls_allow_count);
	emit_duration(emit, "connect_timeout", cluster->connect_timeout_ms * NS_PER_MS);
	emit_uint(emit, "endpoints", cluster->endpoint_count);
}

static void cluster_row(struct emit *emit, const struct cluster *cluster)
{
	emit_row_begin(emit);
	admin_emit_cluster(emit, cluster);
	emit_row_end(emit);
}

int admin_cluster_show(struct admin_call *call)
{
	struct model *model = admin_model(call);
	if (!model)
		return ERR_NOT_FOUND;
	emit_table_begin(call->emit, "clusters");
	for (size_t i = 0; i < model->cluster_count; i++)
		if (admin_selects(call, "name", model->clusters[i].name))
			cluster_row(call->emit, &model->clusters[i]);
	emit_table_end(call->emit);
	return 0;
}

// --- config -----------------------------------------------------------------------------------------------
int admin_config_show(struct admin_call *call)
{
	const struct admin_backend *backend = call->backend;
	struct model *model = admin_model(call);
	if (!model)
		return ERR_NOT_FOUND;
	emit_text(call->emit, "file", backend->config_path);
	emit_uint(call->emit, "generation", model->generation);
	if (backend->show_config) {
		emit_record_begin(call->emit, "settings");
		backend->show_config(backend->data, call->emit);
		emit_record_end(call->emit);
	}
	return 0;
}
