// SPDX-License-Identifier: Apache-2.0
// `route explain`: the proxy's own look-up, step by step, with the reason why each route was passed over.
#include "admin/call.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <stdio.h>

enum { DEFAULT_PORT = 80 };

struct question {
	struct head head;
	struct field fields[LIMIT_HTTP_HEADERS];
};

// --- the request asked about ------------------------------------------------------------------------------
static int read_headers(struct admin_call *call, struct question *question)
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

static int read_question(struct admin_call *call, struct question *question)
{
	struct str method = admin_value(call, "method"), path = admin_value(call, "path");
	question->head = (struct head){.method = method.p ? method : STR("GET"),
				       .path = path.p ? path : STR("/"),
				       .authority = admin_value(call, "host"),
				       .fields = question->fields};
	return read_headers(call, question);
}

// --- the virtual host -------------------------------------------------------------------------------------
// An original destination names a host at once; where it does not, Host decides.
static const struct virtual_host *find_host(const struct model *model, struct str destination,
					    struct str host_name, const char **ret_how)
{
	struct addr addr;
	const struct virtual_host *host;
	if (addr_parse(destination, &addr)) {
		*ret_how = "name";
		return model_host_by_name(model, destination, DEFAULT_PORT);
	}
	*ret_how = "original destination";
	host = model_host_by_address(model, &addr);
	if (!host && host_name.len) {
		*ret_how = "name";
		host = model_host_by_name(model, host_name, addr.port);
	}
	return host;
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

int admin_route_explain(struct admin_call *call)
{
	struct question question;
	struct model *model = admin_model(call);
	struct emit *emit = call->emit;
	struct str destination = admin_value(call, "destination");
	const char *how;
	int err = model ? read_question(call, &question) : ERR_NOT_FOUND;
	if (err)
		return err;
	const struct virtual_host *host = find_host(model, destination, question.head.authority, &how);
	emit_str(emit, "destination", destination);
	emit_str(emit, "virtual_host", host ? host->name : (struct str){NULL, 0});
	if (!host) {
		emit_text(emit, "result",
			  "nothing names a virtual host: the connection passes through to its original "
			  "destination");
		return 0;
	}
	emit_text(emit, "named_by", how);
	bool opaque = host->rule.protocol == PORT_TCP;
	const struct route *chosen = opaque ? host->default_route : route_match(host, &question.head);
	emit_str(emit, "route", chosen ? chosen->name : (struct str){NULL, 0});
	if (opaque)
		emit_text(emit, "result",
			  "the port is TCP: the first route that matches everything is taken");
	else
		emit_text(emit, "result",
			  chosen ? "the first route that matches is taken" : "no route matches: 404");
	emit_considered(emit, host, &question.head, chosen);
	if (chosen)
		emit_clusters(emit, chosen);
	return 0;
}
