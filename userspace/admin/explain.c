// SPDX-License-Identifier: Apache-2.0
// `route explain`: the proxy's own look-up, step by step, with the reason why each route was passed over.
#include "admin/explain.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <stdio.h>

// --- the request asked about ------------------------------------------------------------------------------
static int read_headers(struct admin_call *call, struct explain_question *question)
{
	size_t at = 0;
	for (;;) {
		struct str value = command_value_find(call->values, call->value_count, "header", &at);
		if (!value.p)
			return 0;
		if (question->head.field_count == LIMIT_HTTP_HEADERS)
			return admin_call_usage(call, "too many headers");
		struct str name = str_split(&value, ':');
		if (!value.p || name.len == 0)
			return admin_call_usage(call, "a header is NAME:VALUE");
		question->fields[question->head.field_count++] =
		    (struct field){.name = name, .value = str_trim(value)};
	}
}

int explain_question_read(struct admin_call *call, struct explain_question *question)
{
	question->head = (struct head){.method = admin_value(call, "method"),
				       .path = admin_value(call, "path"),
				       .authority = admin_value(call, "host"),
				       .fields = question->fields};
	question->service = admin_value(call, "service");
	if (question->service.p && question->head.authority.p)
		return admin_call_usage(call, "'--host' is for HTTP, '--service' for RPC: not both");
	return read_headers(call, question);
}

// A request of HTTP, unless it is clear that calls are meant: by a service that was named, or by the port.
int explain_question_complete(struct admin_call *call, struct explain_question *question,
			      const struct virtual_host *host)
{
	struct head *head = &question->head;
	if (!question->service.p && host->rule.protocol != PORT_RPC) {
		head->method = head->method.p ? head->method : STR("GET");
		head->path = head->path.p ? head->path : STR("/");
		return 0;
	}
	if (head->path.p)
		return admin_call_usage(call, "a call has no path of its own: routes see /service/method");
	question->service = question->service.p ? question->service : STR("");
	head->method = head->method.p ? head->method : STR("");
	if (question->service.len > LIMIT_RPC_NAME || head->method.len > LIMIT_RPC_NAME)
		return admin_call_usage(call, "the name of the service or of the method is too long");
	head->authority = question->service;
	head->path = head_rpc_path(head, question->rpc_path);
	return 0;
}

// --- the virtual host -------------------------------------------------------------------------------------
// Whatever the port: the first one of RPC, else the first that there is.
static const struct virtual_host *host_by_service(const struct model *model, struct str name)
{
	const struct virtual_host *found = NULL;
	for (size_t i = 0; i < model->service_count && !found; i++)
		for (size_t j = 0; j < model->services[i].host_count && !found; j++)
			found = model_host_by_service(model, name, model->services[i].hosts[j].port);
	for (size_t i = 0; found && i < found->service->host_count; i++)
		if (found->service->hosts[i].rule.protocol == PORT_RPC)
			return &found->service->hosts[i];
	return found;
}

// An original destination names a host at once; where it does not, Host or the call's service decides.
static const struct virtual_host *host_by_destination(const struct model *model, const struct addr *addr,
						      const struct explain_question *question,
						      const char **ret_how)
{
	const struct virtual_host *host = model_host_by_address(model, addr);
	*ret_how = "original destination";
	if (!host && question->head.authority.len) {
		*ret_how = "name";
		host = model_host_by_name(model, question->head.authority, addr->port);
	} else if (!host && question->service.len) {
		*ret_how = "service";
		host = model_host_by_service(model, question->service, addr->port);
	}
	return host;
}

// Of "interface:version" it is clear that no host is meant.
static bool is_service_name(struct str name)
{
	struct addr addr;
	uint64_t port;
	ptrdiff_t colon = str_find(name, ':');
	return colon > 0 && addr_parse(name, &addr) != 0 &&
	       str_to_u64((struct str){name.p + colon + 1, name.len - (size_t)colon - 1}, &port) != 0;
}

// Of a name it is tried in turn whether it is a host's, and an RPC service's: then calls are meant.
const struct virtual_host *explain_host(const struct model *model, struct str destination,
					struct explain_question *question, const char **ret_how)
{
	struct addr addr;
	if (addr_parse(destination, &addr) == 0)
		return host_by_destination(model, &addr, question, ret_how);
	const struct virtual_host *host = model_host_by_name(model, destination, EXPLAIN_DEFAULT_PORT);
	*ret_how = "name";
	if (host)
		return host;
	*ret_how = "service";
	host = host_by_service(model, destination);
	if (!host || (host->rule.protocol != PORT_RPC && !is_service_name(destination)))
		return NULL;
	if (!question->service.p)
		question->service = destination;
	return host;
}

static int explain_unknown(struct admin_call *call, struct str destination,
			   const struct explain_question *question)
{
	int front = (int)str_find(destination, ':');
	if (is_service_name(destination))
		return admin_call_fail(call, "no service is called \"%.*s\", nor \"%.*s\"",
				       STR_ARG(destination), front, destination.p);
	emit_text(call->emit, "result",
		  question->service.p
		      ? "neither the address nor the service names a virtual host: the call goes "
			"to where its connection was going"
		      : "nothing names a virtual host: the connection passes through to its "
			"original destination");
	return 0;
}

// --- the routes -------------------------------------------------------------------------------------------
// Whether the route would match if it asked for nothing but this.
static bool matches_alone(struct route alone, const struct head *head)
{
	const struct virtual_host host = {.routes = &alone, .route_count = 1};
	return route_match(&host, head) != NULL;
}

// Appends why the route does not match; nothing if it does.
static void explain_route(const struct route *route, const struct head *head, struct strbuf *out)
{
	if (!matches_alone((struct route){.path = route->path}, head))
		strbuf_add_text(out, "path differs");
	if (!matches_alone((struct route){.method = route->method}, head))
		strbuf_printf(out, "%smethod differs", out->len ? ", " : "");
	for (size_t i = 0; i < route->header_count; i++)
		if (!matches_alone((struct route){.headers = &route->headers[i], .header_count = 1}, head))
			strbuf_printf(out, "%sheader %.*s differs", out->len ? ", " : "",
				      STR_ARG(route->headers[i].name));
}

static void emit_considered(struct emit *emit, const struct virtual_host *host, const struct head *head,
			    const struct route *chosen)
{
	bool reached = true;
	emit_table_begin(emit, "considered");
	for (size_t i = 0; i < host->route_count; i++) {
		const struct route *route = &host->routes[i];
		autostrbuf struct strbuf why = {0};
		if (reached && route != chosen)
			explain_route(route, head, &why);
		emit_row_begin(emit);
		emit_str(emit, "route", route->name);
		admin_emit_match(emit, "path", &route->path);
		emit_str(emit, "method", route->method.len ? route->method : STR("any"));
		admin_emit_headers(emit, route);
		emit_str(emit, "result",
			 route == chosen ? STR("chosen")
			 : reached	 ? strbuf_str(&why)
					 : STR("not reached"));
		emit_row_end(emit);
		reached = reached && route != chosen;
	}
	emit_table_end(emit);
}

static void emit_clusters(struct emit *emit, const struct route *route)
{
	emit_table_begin(emit, "clusters");
	for (size_t i = 0; i < route->to_count; i++) {
		char share[32];
		const struct weighted_cluster *to = &route->to[i];
		snprintf(share, sizeof share, "%.2f%%", 100.0 * to->weight / (double)route->total_weight);
		emit_row_begin(emit);
		emit_str(emit, "cluster", to->cluster->name);
		emit_text(emit, "share", share);
		emit_uint(emit, "endpoints", to->cluster->endpoint_count);
		emit_row_end(emit);
	}
	emit_table_end(emit);
}

static const char *result_text(const struct virtual_host *host, const struct route *chosen, bool call)
{
	if (host->rule.protocol == PORT_TCP)
		return "the port is TCP: the first route that matches everything is taken";
	if (chosen)
		return "the first route that matches is taken";
	return call ? "no route matches: the call is answered by an error" : "no route matches: 404";
}

const struct route *explain_route_choice(struct emit *emit, const struct virtual_host *host,
					 const struct explain_question *question)
{
	struct str none = {NULL, 0};
	if (question->service.p) {
		emit_str(emit, "service", question->service.len ? question->service : none);
		emit_str(emit, "method", question->head.method.len ? question->head.method : none);
	}
	const struct route *chosen =
	    host->rule.protocol == PORT_TCP ? host->default_route : route_match(host, &question->head);
	emit_str(emit, "route", chosen ? chosen->name : none);
	emit_text(emit, "result", result_text(host, chosen, question->service.p != NULL));
	emit_considered(emit, host, &question->head, chosen);
	return chosen;
}

int admin_route_explain(struct admin_call *call)
{
	struct explain_question question = {0};
	struct model *model = admin_model(call);
	struct emit *emit = call->emit;
	struct str destination = admin_value(call, "destination"), none = {NULL, 0};
	const char *how;
	int err = model ? explain_question_read(call, &question) : ERR_NOT_FOUND;
	if (err)
		return err;
	const struct virtual_host *host = explain_host(model, destination, &question, &how);
	emit_str(emit, "destination", destination);
	emit_str(emit, "virtual_host", host ? host->name : none);
	if (!host)
		return explain_unknown(call, destination, &question);
	err = explain_question_complete(call, &question, host);
	if (err)
		return err;
	emit_text(emit, "named_by", how);
	const struct route *chosen = explain_route_choice(emit, host, &question);
	if (chosen)
		emit_clusters(emit, chosen);
	return 0;
}
