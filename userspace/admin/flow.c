// SPDX-License-Identifier: Apache-2.0
// `explain flow`: all that the proxy knows of a connection, open or only asked about. What the kernel does
// before, `weir` reads for itself.
#include "admin/connections.h"
#include "admin/endpoints.h"
#include "admin/explain.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "net/tls.h"

#include <stdio.h>

// What is asked about.
struct flow_question {
	struct explain_question request;
	bool open, inbound;
	struct conn_found found; // if open
	char text[ADDR_TEXT_MAX];
	struct str destination; // a name or an address
};

static const char *const tls_mode_names[] = {
    [TLS_MODE_OFF] = "off", [TLS_MODE_PERMISSIVE] = "permissive", [TLS_MODE_STRICT] = "strict"};
static const char *const application_names[] = {
    [CLUSTER_AUTO] = "auto", [CLUSTER_HTTP1] = "http1", [CLUSTER_HTTP2] = "http2"};

// --- the question -----------------------------------------------------------------------------------------
static int read_key(struct admin_call *call, struct conn_key *ret_key)
{
	struct str id = admin_value(call, "id"), client = admin_value(call, "client"),
		   destination = admin_value(call, "destination");
	if (id.p) {
		ret_key->has_id = true;
		return str_to_u64(id, &ret_key->id) ? admin_call_usage(call, "'id' must be a number") : 0;
	}
	if (addr_parse(client, &ret_key->peer) || addr_parse(destination, &ret_key->destination))
		return admin_call_usage(call, "'client' and 'destination' must be addresses with ports");
	return 0;
}

static int find_open(struct admin_call *call, struct flow_question *question)
{
	struct conn_key key = {0};
	int err = read_key(call, &key);
	if (!err)
		err = admin_connection_find(call, &key, &question->found);
	if (err == ERR_NOT_FOUND && !call->error->len)
		return admin_call_fail(call, "there is no such connection");
	if (err)
		return err;
	question->open = true;
	question->inbound = question->found.info.inbound;
	question->destination = str_from(addr_format(&question->found.info.destination, question->text));
	return 0;
}

static int read_question(struct admin_call *call, struct flow_question *question)
{
	question->inbound = admin_value(call, "inbound").p != NULL;
	question->destination = admin_value(call, "destination");
	int err = explain_question_read(call, &question->request);
	if (err)
		return err;
	if (admin_value(call, "id").p || admin_value(call, "client").p)
		return find_open(call, question);
	return question->destination.p ? 0 : admin_call_usage(call, "'destination' is missing");
}

// --- the connection ---------------------------------------------------------------------------------------
static void emit_open(struct emit *emit, const struct conn_info *info)
{
	emit_record_begin(emit, "connection");
	admin_emit_connection(emit, info, clock_mono_ns());
	emit_record_end(emit);
	emit_record_begin(emit, "detection");
	emit_text(emit, "protocol", info->protocol);
	emit_text(emit, "decided_by", info->decided_by);
	if (info->decided_by)
		emit_uint(emit, "decided_after_us", info->decided_us);
	emit_record_end(emit);
}

// --- outbound ---------------------------------------------------------------------------------------------
static void emit_host(struct emit *emit, const struct virtual_host *host, const char *how)
{
	const struct service *service = host->service;
	emit_record_begin(emit, "virtual_host");
	emit_str(emit, "name", host->name);
	emit_text(emit, "named_by", how);
	emit_str(emit, "service", service->name);
	emit_uint(emit, "port", host->port);
	emit_str(emit, "protocol", host->rule.text.len ? host->rule.text : STR("auto"));
	emit_ip(emit, "vip4", &service->vip4);
	emit_ip(emit, "vip6", &service->vip6);
	emit_list_begin(emit, "addresses");
	for (size_t i = 0; i < service->address_count; i++)
		emit_ip(emit, NULL, &service->addresses[i]);
	emit_list_end(emit);
	emit_list_begin(emit, "ports");
	for (size_t i = 0; i < service->host_count; i++)
		emit_uint(emit, NULL, service->hosts[i].port);
	emit_list_end(emit);
	emit_record_end(emit);
}

static bool has_address(const struct service *service, const struct ip *ip)
{
	for (size_t i = 0; i < service->address_count; i++)
		if (ip_eq(&service->addresses[i], ip))
			return true;
	return ip_eq(&service->vip4, ip) || ip_eq(&service->vip6, ip);
}

static const struct service *service_at(const struct model *model, const struct ip *ip)
{
	for (size_t i = 0; i < model->service_count; i++)
		if (has_address(&model->services[i], ip))
			return &model->services[i];
	return NULL;
}

// Why nothing is found for a destination, and what becomes of it then.
static void add_absence(const struct model *model, struct str destination, struct strbuf *out)
{
	struct addr addr;
	struct str rest = destination, name = str_split(&rest, ':');
	bool is_address = addr_parse(destination, &addr) == 0;
	const struct service *service = is_address ? service_at(model, &addr.ip) : model_service(model, name);
	if (service && is_address && !model_is_virtual(model, &addr.ip))
		strbuf_printf(out, "%.*s has no such port: passed through to the original destination",
			      STR_ARG(service->name));
	else if (service)
		strbuf_printf(out, "%.*s has no such port: a connection to its virtual IP is refused",
			      STR_ARG(service->name));
	else if (!is_address)
		strbuf_add_text(out, "no name of the mesh: DNS servers outside are asked for it, and its "
				     "connections pass through to their original destination");
	else if (model_is_virtual(model, &addr.ip))
		strbuf_add_text(out, "a virtual IP that no service has: the connection is refused");
	else
		strbuf_add_text(out, "no service has this address: Host, :authority or SNI may still name "
				     "one, else the connection passes through to its original destination");
}

// The service's first port, where none is given and the usual one is not served.
static const struct virtual_host *first_host(const struct model *model, struct str destination)
{
	const struct service *service = model_service(model, destination);
	return service && service->host_count ? &service->hosts[0] : NULL;
}

// Of a connection that is open, the call under way is the one meant.
static void ask_about_call(struct flow_question *question)
{
	struct explain_question *request = &question->request;
	if (request->service.p || request->head.authority.p || !question->open ||
	    !question->found.info.service.len)
		return;
	request->service = question->found.info.service;
	if (!request->head.method.p)
		request->head.method = question->found.info.method;
}

static const struct virtual_host *find_host(const struct model *model, struct flow_question *question,
					    const char **ret_how)
{
	ask_about_call(question);
	const struct virtual_host *host =
	    explain_host(model, question->destination, &question->request, ret_how);
	if (!host && question->open && question->found.info.virtual_host.len) {
		*ret_how = "Host, :authority, SNI or service";
		host = model_host_by_name(model, question->found.info.virtual_host, EXPLAIN_DEFAULT_PORT);
	}
	return host ? host : first_host(model, question->destination);
}

static bool leads_to(const struct route *route, const struct cluster *cluster)
{
	for (size_t i = 0; i < route->to_count; i++)
		if (str_eq(route->to[i].cluster->name, cluster->name))
			return true;
	return false;
}

static void emit_clusters(struct emit *emit, const struct route *route)
{
	emit_table_begin(emit, "clusters");
	for (size_t i = 0; i < route->to_count; i++) {
		char share[32];
		snprintf(share, sizeof share, "%.2f%%",
			 100.0 * route->to[i].weight / (double)route->total_weight);
		emit_row_begin(emit);
		emit_text(emit, "share", share);
		admin_emit_cluster(emit, route->to[i].cluster);
		emit_row_end(emit);
	}
	emit_table_end(emit);
}

static int emit_endpoints(struct admin_call *call, const struct model *model, const struct route *route)
{
	struct endpoint_view *views;
	size_t count;
	int err = admin_endpoints_gather(call->backend, model, &views, &count);
	if (err)
		return err;
	emit_table_begin(call->emit, "endpoints");
	for (size_t i = 0; i < count; i++)
		if (leads_to(route, views[i].cluster))
			admin_emit_endpoint(call, &views[i]);
	emit_table_end(call->emit);
	mem_free(views);
	return 0;
}

static int explain_outbound(struct admin_call *call, const struct model *model,
			    struct flow_question *question)
{
	const char *how;
	const struct virtual_host *host = find_host(model, question, &how);
	if (!host) {
		autostrbuf struct strbuf text = {0};
		add_absence(model, question->destination, &text);
		emit_str(call->emit, "virtual_host", (struct str){NULL, 0});
		emit_str(call->emit, "result", strbuf_str(&text));
		return 0;
	}
	int err = explain_question_complete(call, &question->request, host);
	if (err)
		return err;
	emit_host(call->emit, host, how);
	const struct route *route = explain_route_choice(call->emit, host, &question->request);
	if (!route)
		return 0;
	emit_clusters(call->emit, route);
	return emit_endpoints(call, model, route);
}

// --- inbound ----------------------------------------------------------------------------------------------
static int explain_inbound(struct admin_call *call, const struct model *model,
			   const struct flow_question *question)
{
	struct addr addr;
	struct emit *emit = call->emit;
	if (addr_parse(question->destination, &addr))
		return admin_call_usage(call, "'destination' must be an address with a port");
	const struct inbound_port *port = model_inbound(model, addr.port);
	emit_record_begin(emit, "inbound");
	emit_text(emit, "policy", port->port ? "of this port" : "of all ports without one of their own");
	emit_str(emit, "protocol", port->rule.text.len ? port->rule.text : STR("auto"));
	emit_text(emit, "tls", tls_mode_names[port->tls]);
	emit_text(emit, "application_protocol", application_names[port->application]);
	emit_list_begin(emit, "allow");
	for (size_t i = 0; i < model->tls.allow_count; i++)
		emit_str(emit, NULL, model->tls.allow[i]);
	emit_list_end(emit);
	emit_text(emit, "result",
		  port->tls == TLS_MODE_STRICT
		      ? "mutual TLS is insisted on; then on to the application at the original destination"
		      : "on to the application at the original destination");
	emit_record_end(emit);
	return 0;
}

// --- who we are -------------------------------------------------------------------------------------------
static void emit_identity(struct admin_call *call, const struct model *model)
{
	const struct admin_backend *backend = call->backend;
	const struct tls_context *context = backend->tls ? backend->tls(backend->data) : NULL;
	const struct tls_cert_info *info = context ? tls_context_describe(context) : NULL;
	emit_record_begin(call->emit, "identity");
	emit_text(call->emit, "own", info ? info->id : NULL);
	if (info)
		emit_time(call->emit, "not_after", info->not_after);
	emit_text(call->emit, "inbound_tls", tls_mode_names[model->tls.mode]);
	emit_uint(call->emit, "generation", model->generation);
	emit_record_end(call->emit);
}

static int explain(struct admin_call *call, const struct model *model, struct flow_question *question)
{
	if (question->open)
		emit_open(call->emit, &question->found.info);
	int err = question->inbound ? explain_inbound(call, model, question)
				    : explain_outbound(call, model, question);
	if (!err)
		emit_identity(call, model);
	return err;
}

int admin_flow_explain(struct admin_call *call)
{
	struct flow_question question = {0};
	struct model *model = admin_model(call);
	int err = model ? read_question(call, &question) : ERR_NOT_FOUND;
	if (!err)
		err = explain(call, model, &question);
	conn_found_done(&question.found);
	return err;
}
