// SPDX-License-Identifier: Apache-2.0
#include "control/build.h"

#include "base/command.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/table.h"
#include "codecs/registry.h"
#include "control/plugins.h"
#include "dns/message.h"
#include "dns/names.h"
#include "dns/vip.h"
#include "mesh/regex.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct builder {
	const struct config *config;
	struct vip_pool *vips;
	struct model *model;
	struct table clusters; // of the model, by name: its own tables are not built yet
	struct strbuf *errors;
	const struct framed_codec **codecs; // built in, then of plug-ins
	size_t codec_count;
	unsigned error_count;
	bool no_memory;
};

#define FOR_ITEMS(type, item, list)                                                                          \
	for (const type *item = (list).items, *_end = item ? item + (list).count : NULL; item < _end; item++)

__attribute__((format(printf, 3, 4))) static void build_error(struct builder *builder, struct config_at at,
							      const char *format, ...)
{
	autostrbuf struct strbuf text = {0};
	va_list args;
	if (++builder->error_count > CONFIG_ERRORS_MAX)
		return;
	va_start(args, format);
	strbuf_vprintf(&text, format, args);
	va_end(args);
	config_error(builder->config, at, builder->errors, "%s", text.p ? text.p : "");
}

static void *build_alloc(struct builder *builder, size_t count, size_t size)
{
	void *memory = model_alloc(builder->model, count * size + 1);
	builder->no_memory |= !memory;
	return memory;
}

static struct str build_text(struct builder *builder, struct str text, bool lower)
{
	char *copy = build_alloc(builder, text.len, 1);
	for (size_t i = 0; copy && i < text.len; i++)
		copy[i] = lower ? ascii_lower(text.p[i]) : text.p[i];
	return copy ? (struct str){copy, text.len} : STR("");
}

static struct str *build_texts(struct builder *builder, struct config_list list)
{
	struct str *texts = build_alloc(builder, list.count, sizeof *texts);
	const struct config_text *from = list.items;
	for (size_t i = 0; texts && i < list.count; i++)
		texts[i] = build_text(builder, from[i].text, false);
	return texts;
}

// --- clusters -----------------------------------------------------------------------------------------------
static void check_spiffe(struct builder *builder, struct config_list patterns)
{
	FOR_ITEMS(struct config_text, pattern, patterns)
	{
		ptrdiff_t star = str_find(pattern->text, '*');
		if (!str_starts(pattern->text, STR("spiffe://")) ||
		    (star >= 0 && (size_t)star + 1 != pattern->text.len))
			build_error(builder, pattern->at,
				    "\"%.*s\" is no SPIFFE id: it begins with spiffe://, and a * may stand "
				    "only at its end",
				    STR_ARG(pattern->text));
	}
}

// What no connection can be made to.
static void check_endpoint(struct builder *builder, const struct config_endpoint *endpoint)
{
	char text[ADDR_TEXT_MAX];
	const struct ip *ip = &endpoint->address.ip;
	const char *why = !endpoint->address.port   ? "its port is 0"
			  : ip_is_any(ip)	    ? "it is the unspecified address"
			  : ip_is_multicast(ip)	    ? "it is the address of a group"
			  : ip_is_link_local_v6(ip) ? "a link-local address needs an interface, which cannot "
						      "be told here"
						    : NULL;
	if (why)
		build_error(builder, endpoint->at, "%s cannot be an endpoint: %s",
			    addr_format(&endpoint->address, text), why);
}

static void build_cluster(struct builder *builder, const struct config_cluster *from, struct cluster *cluster)
{
	*cluster = (struct cluster){
	    .name = build_text(builder, from->name.text, false),
	    .index = (uint32_t)(cluster - builder->model->clusters),
	    .balance = (enum balance_policy)from->balance,
	    .protocol = (enum cluster_protocol)from->protocol,
	    .tls = (enum tls_origination)from->tls,
	    .transport = (enum cluster_transport)from->transport,
	    .tls_percent = from->tls_percent,
	    .tls_allow = build_texts(builder, from->tls_allow),
	    .tls_allow_count = from->tls_allow.count,
	    .connect_timeout_ms = from->connect_timeout_ms,
	    .endpoints = build_alloc(builder, from->endpoints.count, sizeof(struct endpoint)),
	};
	check_spiffe(builder, from->tls_allow);
	if (from->tls == TLS_ORIGINATE_MESH && from->tls_percent &&
	    !builder->config->tls.certificate.text.len)
		build_error(builder, from->at,
			    "cluster \"%.*s\" asks for mesh TLS, but tls.certificate is not set",
			    STR_ARG(cluster->name));
	if (from->transport == TRANSPORT_H2 && from->tls != TLS_ORIGINATE_MESH)
		build_error(builder, from->at, "cluster \"%.*s\": \"transport: h2\" requires \"tls: mesh\"",
			    STR_ARG(cluster->name));
	FOR_ITEMS(struct config_endpoint, endpoint, from->endpoints)
	{
		check_endpoint(builder, endpoint);
		for (uint32_t i = 0; cluster->endpoints && i < cluster->endpoint_count; i++)
			if (cluster->endpoint_count < 64 &&
			    addr_eq(&cluster->endpoints[i].addr, &endpoint->address))
				build_error(builder, endpoint->at,
					    "this endpoint is in cluster \"%.*s\" twice",
					    STR_ARG(cluster->name));
		if (cluster->endpoints)
			cluster->endpoints[cluster->endpoint_count++] =
			    (struct endpoint){endpoint->address, endpoint->weight};
	}
}

// NULL: there is none so far.
static struct cluster *find_cluster(const struct builder *builder, struct str name)
{
	struct cluster *cluster;
	size_t cursor = 0;
	uint64_t hash = str_hash(name);
	while ((cluster = table_find(&builder->clusters, hash, &cursor)))
		if (str_eq(cluster->name, name))
			break;
	return cluster;
}

static void build_clusters(struct builder *builder)
{
	struct model *model = builder->model;
	struct config_list list = builder->config->clusters;
	model->clusters = build_alloc(builder, list.count, sizeof *model->clusters);
	if (!model->clusters)
		return;
	FOR_ITEMS(struct config_cluster, from, list)
	{
		struct cluster *cluster = &model->clusters[model->cluster_count++];
		const struct cluster *other = find_cluster(builder, from->name.text);
		if (other)
			build_error(builder, from->name.at,
				    "cluster \"%.*s\" is defined twice, first in line %u",
				    STR_ARG(from->name.text),
				    ((const struct config_cluster *)list.items)[other->index].name.at.line);
		build_cluster(builder, from, cluster);
		builder->no_memory |= table_add(&builder->clusters, str_hash(cluster->name), cluster) != 0;
	}
}

// Comparing a name with those of all clusters takes its time: not for what nobody will read.
static void no_cluster(struct builder *builder, const struct config_text *name)
{
	struct suggestion suggestion = suggest_for(name->text);
	for (size_t i = 0; i < builder->model->cluster_count && builder->error_count < CONFIG_ERRORS_MAX; i++)
		suggest_consider(&suggestion, builder->model->clusters[i].name.p);
	if (suggestion.best)
		build_error(builder, name->at, "there is no cluster \"%.*s\"; did you mean \"%s\"?",
			    STR_ARG(name->text), suggestion.best);
	else
		build_error(builder, name->at, "there is no cluster \"%.*s\"", STR_ARG(name->text));
}

// --- routes -------------------------------------------------------------------------------------------------
static void build_regex(struct builder *builder, const struct config_text *from, struct text_match *match)
{
	autostrbuf struct strbuf why = {0};
	match->kind = MATCH_REGEX;
	match->text = build_text(builder, from->text, false);
	if (regex_compile(from->text, &match->regex, &why))
		build_error(builder, from->at, "the regular expression is not valid: %s",
			    why.p ? why.p : "out of memory");
}

// Exactly one of the three kinds may be given.
static void build_text_match(struct builder *builder, const struct config_text *exact,
			     const struct config_text *prefix, const struct config_text *regex,
			     enum match_kind otherwise, struct text_match *match)
{
	int given = (exact->text.len > 0) + (prefix->text.len > 0) + (regex->text.len > 0);
	if (given > 1)
		build_error(builder, exact->at.line ? exact->at : prefix->at,
			    "only one of exact, prefix and regular expression can be matched at a time");
	if (regex->text.len) {
		build_regex(builder, regex, match);
		return;
	}
	match->kind = exact->text.len ? MATCH_EXACT : prefix->text.len ? MATCH_PREFIX : otherwise;
	match->text = build_text(builder, exact->text.len ? exact->text : prefix->text, false);
}

static void check_path(struct builder *builder, const struct config_text *path)
{
	if (path->text.len && path->text.p[0] != '/')
		build_error(builder, path->at, "\"%.*s\": a path begins with /", STR_ARG(path->text));
}

static void build_match(struct builder *builder, const struct config_match *from, struct route *route)
{
	check_path(builder, &from->path);
	check_path(builder, &from->path_prefix);
	build_text_match(builder, &from->path, &from->path_prefix, &from->path_regex, MATCH_ANY,
			 &route->path);
	route->method = build_text(builder, from->method.text, false);
	route->headers = build_alloc(builder, from->headers.count, sizeof *route->headers);
	FOR_ITEMS(struct config_header_match, header, from->headers)
	{
		if (!route->headers)
			return;
		struct header_match *match = &route->headers[route->header_count++];
		match->name = build_text(builder, header->name.text, true);
		match->invert = header->invert;
		build_text_match(builder, &header->exact, &header->prefix, &header->regex, MATCH_PRESENT,
				 &match->value);
	}
}

static void build_targets(struct builder *builder, const struct config_route *from, struct route *route)
{
	route->to = build_alloc(builder, from->to.count, sizeof *route->to);
	FOR_ITEMS(struct config_target, target, from->to)
	{
		const struct cluster *cluster = find_cluster(builder, target->cluster.text);
		if (!cluster)
			no_cluster(builder, &target->cluster);
		if (!route->to || !cluster || !target->weight)
			continue;
		route->to[route->to_count++] = (struct weighted_cluster){cluster, target->weight};
		route->total_weight += target->weight;
	}
	if (!route->total_weight && !builder->error_count)
		build_error(builder, from->at, "the route has no cluster with a weight above 0");
}

static bool matches_all(const struct route *route)
{
	return route->path.kind == MATCH_ANY && !route->method.len && !route->header_count;
}

static void build_route(struct builder *builder, const struct config_route *from, struct virtual_host *host)
{
	char name[LIMIT_DNS_NAME + 64];
	struct route *route = &host->routes[host->route_count];
	snprintf(name, sizeof name, "%.*s/%zu", STR_ARG(host->name), host->route_count);
	route->name = build_text(builder, from->name.text.len ? from->name.text : str_from(name), false);
	route->timeout_ms = from->timeout_ms;
	route->retries = from->retries;
	build_match(builder, &from->match, route);
	build_targets(builder, from, route);
	host->route_count++;
	if (!host->default_route && matches_all(route))
		host->default_route = route;
}

// `cluster: x` is short for one route.
static void build_routes(struct builder *builder, const struct config_service *from,
			 struct virtual_host *host)
{
	struct config_target target = {.at = from->cluster.at, .cluster = from->cluster, .weight = 1};
	struct config_route whole = {.at = from->cluster.at, .to = {&target, 1}};
	size_t count = from->routes.count + (from->cluster.text.len > 0);
	host->routes = build_alloc(builder, count, sizeof *host->routes);
	if (!host->routes)
		return;
	FOR_ITEMS(struct config_route, route, from->routes)
	build_route(builder, route, host);
	if (from->cluster.text.len)
		build_route(builder, &whole, host);
}

// --- protocols ----------------------------------------------------------------------------------------------
static const struct framed_codec *find_codec(const struct builder *builder, struct str name)
{
	return codec_find(builder->codecs, builder->codec_count, name);
}

// Words that stand for something else, in configuration or in what is shown.
static bool is_reserved(struct str name)
{
	for (int protocol = PROTOCOL_UNKNOWN; protocol <= PROTOCOL_PLUGIN; protocol++)
		if (str_eq(name, str_from(protocol_name(protocol))))
			return true;
	return str_eq(name, STR("auto")) || str_eq(name, STR("http"));
}

static void build_plugin(struct builder *builder, const struct config_text *path)
{
	autostrbuf struct strbuf why = {0};
	const struct framed_codec *codec = plugin_load(path->text, &why);
	if (!codec) {
		build_error(builder, path->at, "plug-in \"%.*s\": %s", STR_ARG(path->text),
			    why.p ? why.p : "");
		return;
	}
	struct str name = str_from(codec->name);
	if (is_reserved(name) || find_codec(builder, name))
		build_error(builder, path->at, "plug-in \"%.*s\": a protocol \"%s\" is there already",
			    STR_ARG(path->text), codec->name);
	else
		builder->codecs[builder->codec_count++] = codec;
}

// All codecs that there are, and what is looked for by default.
static void build_codecs(struct builder *builder)
{
	struct model *model = builder->model;
	size_t most = codecs_builtin_count + builder->config->plugins.count;
	const struct framed_codec **told = build_alloc(builder, most, sizeof *told);
	builder->codecs = build_alloc(builder, most, sizeof *builder->codecs);
	if (!told || !builder->codecs)
		return;
	for (size_t i = 0; i < codecs_builtin_count; i++)
		builder->codecs[builder->codec_count++] = codecs_builtin[i];
	FOR_ITEMS(struct config_plugin, plugin, builder->config->plugins)
	build_plugin(builder, &plugin->path);
	model->codecs = builder->codecs;
	model->codec_count = builder->codec_count;
	model->detect = (struct detect_set){told, 0, true};
	for (size_t i = 0; i < builder->codec_count; i++)
		if (!builder->codecs[i]->weak_signature)
			told[model->detect.codec_count++] = builder->codecs[i];
}

static void unknown_protocol(struct builder *builder, const struct config_text *word)
{
	struct suggestion suggestion = suggest_for(word->text);
	autostrbuf struct strbuf text = {0};
	static const char *const words[] = {"auto", "tcp", "http", "http2"};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		suggest_consider(&suggestion, words[i]);
	for (size_t i = 0; i < builder->codec_count; i++)
		suggest_consider(&suggestion, builder->codecs[i]->name);
	suggest_write(&suggestion, &text);
	strbuf_add_text(&text, "; there are auto, tcp, http, http2");
	for (size_t i = 0; i < builder->codec_count; i++)
		strbuf_printf(&text, ", %s", builder->codecs[i]->name);
	build_error(builder, word->at, "no protocol is called \"%.*s\"%s", STR_ARG(word->text),
		    text.p ? text.p : "");
}

// One word is taken at its word.
static struct port_rule single_rule(struct builder *builder, const struct config_text *word)
{
	struct port_rule rule = {.among = builder->model->detect};
	if (str_eq(word->text, STR("tcp")))
		rule.protocol = PORT_TCP;
	else if (str_eq(word->text, STR("http")))
		rule.protocol = PORT_HTTP;
	else if (str_eq(word->text, STR("http2")))
		rule.protocol = PORT_HTTP2;
	else if (!str_eq(word->text, STR("auto")))
		rule.codec = find_codec(builder, word->text);
	else
		return rule;
	if (rule.codec)
		rule.protocol = PORT_RPC;
	else if (rule.protocol == PORT_AUTO)
		unknown_protocol(builder, word);
	return rule;
}

// Several words narrow detection; what is none of them passes through as TCP, so that word is there for the
// reader of the file.
static struct port_rule listed_rule(struct builder *builder, struct config_list words)
{
	struct port_rule rule = {.protocol = PORT_AUTO};
	const struct framed_codec **codecs = build_alloc(builder, words.count, sizeof(struct framed_codec *));
	FOR_ITEMS(struct config_text, word, words)
	{
		const struct framed_codec *codec = find_codec(builder, word->text);
		if (codec && codecs)
			codecs[rule.among.codec_count++] = codec;
		else if (str_eq(word->text, STR("http")) || str_eq(word->text, STR("http2")))
			rule.among.http = true;
		else if (str_eq(word->text, STR("auto")))
			build_error(builder, word->at, "\"auto\" stands for all protocols: it stands alone");
		else if (!codec && !str_eq(word->text, STR("tcp")))
			unknown_protocol(builder, word);
	}
	rule.among.codecs = codecs;
	return rule;
}

static struct port_rule build_rule(struct builder *builder, struct config_at at, struct config_list words)
{
	if (!words.count)
		build_error(builder, at, "no protocol is given; \"auto\" stands for all");
	struct port_rule rule =
	    words.count == 1 ? single_rule(builder, words.items) : listed_rule(builder, words);
	autostrbuf struct strbuf text = {0};
	FOR_ITEMS(struct config_text, word, words)
	strbuf_printf(&text, "%s%.*s", text.len ? "," : "", STR_ARG(word->text));
	rule.text = build_text(builder, strbuf_str(&text), false);
	return rule;
}

// --- services -----------------------------------------------------------------------------------------------
static void build_host(struct builder *builder, const struct config_service *from, struct service *service,
		       uint16_t port, const struct port_rule *rule)
{
	char name[LIMIT_DNS_NAME + 16];
	struct virtual_host *host = &service->hosts[service->host_count];
	for (size_t i = 0; i < service->host_count; i++)
		if (service->hosts[i].port == port)
			build_error(builder, from->at, "service \"%.*s\" has port %u twice",
				    STR_ARG(service->name), port);
	service->host_count++;
	snprintf(name, sizeof name, "%.*s:%u", STR_ARG(service->name), port);
	host->name = build_text(builder, port ? str_from(name) : service->name, false);
	host->service = service;
	host->port = port;
	host->rule = *rule;
	build_routes(builder, from, host);
}

static void build_hosts(struct builder *builder, const struct config_service *from, struct service *service)
{
	service->hosts = build_alloc(builder, MAX(from->ports.count, (size_t)1), sizeof *service->hosts);
	if (!service->hosts)
		return;
	FOR_ITEMS(struct config_port, port, from->ports)
	{
		struct port_rule rule = build_rule(builder, port->at, port->protocols);
		build_host(builder, from, service, (uint16_t)port->port, &rule);
	}
	if (!from->ports.count)
		build_host(builder, from, service, 0,
			   &(struct port_rule){.among = builder->model->detect, .text = STR("auto")});
}

// "interface:version" names an RPC service; DNS knows no such names.
static bool is_rpc_name(struct str name)
{
	return str_find(name, ':') >= 0;
}

static void check_name(struct builder *builder, const struct config_text *name)
{
	struct str rest = name->text;
	if (str_eq(rest, STR("*")))
		return;
	if (str_starts(rest, STR("*.")))
		rest = (struct str){rest.p + 2, rest.len - 2};
	bool valid = rest.len > 0;
	for (size_t i = 0; i < rest.len; i++)
		valid &= (rest.p[i] >= '0' && rest.p[i] <= '9') ||
			 (ascii_lower(rest.p[i]) >= 'a' && ascii_lower(rest.p[i]) <= 'z') ||
			 rest.p[i] == '-' || rest.p[i] == '.' || rest.p[i] == '_' || rest.p[i] == ':';
	while (rest.p && valid) {
		struct str label = str_split(&rest, '.');
		valid &= label.len > 0 && label.len <= LIMIT_DNS_LABEL;
	}
	if (!valid)
		build_error(builder, name->at, "\"%.*s\" is no host name", STR_ARG(name->text));
}

static void assign_vips(struct builder *builder, const struct config_service *from, struct service *service)
{
	bool wildcard = service->name.len && service->name.p[0] == '*';
	if (wildcard || is_rpc_name(service->name) || !builder->vips)
		return;
	int err = vip_pool_assign(builder->vips, service->name, &service->vip4, &service->vip6);
	if (err == ERR_EXHAUSTED)
		build_error(builder, from->name.at,
			    "no virtual IP is left for \"%.*s\": make the ranges in dns.vips larger",
			    STR_ARG(service->name));
	else
		builder->no_memory |= err != 0;
}

static void build_service(struct builder *builder, const struct config_service *from, struct service *service)
{
	check_name(builder, &from->name);
	service->name = build_text(builder, from->name.text, true);
	service->addresses = build_alloc(builder, from->addresses.count, sizeof *service->addresses);
	service->address_count = service->addresses ? from->addresses.count : 0;
	if (service->address_count)
		memcpy(service->addresses, from->addresses.items,
		       service->address_count * sizeof *service->addresses);
	if (!from->routes.count && !from->cluster.text.len)
		build_error(builder, from->at, "service \"%.*s\" has neither routes nor a cluster",
			    STR_ARG(service->name));
	assign_vips(builder, from, service);
	build_hosts(builder, from, service);
}

static void build_services(struct builder *builder)
{
	struct model *model = builder->model;
	struct config_list list = builder->config->services;
	struct table names = {0};
	model->services = build_alloc(builder, list.count, sizeof *model->services);
	if (!model->services)
		return;
	FOR_ITEMS(struct config_service, from, list)
	{
		size_t cursor = 0;
		const struct config_service *other;
		uint64_t hash = str_hash_nocase(from->name.text);
		while ((other = table_find(&names, hash, &cursor)))
			if (str_eq_nocase(other->name.text, from->name.text))
				build_error(builder, from->name.at,
					    "service \"%.*s\" is defined twice, first in line %u",
					    STR_ARG(from->name.text), other->name.at.line);
		builder->no_memory |= table_add(&names, hash, (void *)from) != 0;
		build_service(builder, from, &model->services[model->service_count++]);
	}
	table_done(&names);
}

// --- the rest -----------------------------------------------------------------------------------------------
static void add_name(struct builder *builder, const struct service *service)
{
	struct dns_port ports[64];
	struct dns_entry entry = {
	    .name = service->name, .v4 = service->vip4, .v6 = service->vip6, .ports = ports};
	if (service->name.p[0] == '*' || is_rpc_name(service->name))
		return;
	for (size_t i = 0; i < service->host_count && i < ARRAY_SIZE(ports); i++) {
		const struct virtual_host *host = &service->hosts[i];
		if (host->port)
			ports[entry.port_count++] = (struct dns_port){
			    host->port,
			    host->rule.protocol == PORT_HTTP || host->rule.protocol == PORT_HTTP2
				? STR("_http")
				: STR(""),
			    STR("_tcp")};
	}
	builder->no_memory |= dns_names_add(builder->model->names, &entry) == -ENOMEM;
}

static void build_names(struct builder *builder)
{
	const struct config *config = builder->config;
	const struct model *model = builder->model;
	if (dns_names_new(config->dns.zone.text, config->dns.ttl, model->vips, model->vip_count,
			  &builder->model->names)) {
		builder->no_memory = true;
		return;
	}
	for (size_t i = 0; i < builder->model->service_count; i++)
		add_name(builder, &builder->model->services[i]);
}

static int by_port(const void *a, const void *b)
{
	return (int)((const struct inbound_port *)a)->port - (int)((const struct inbound_port *)b)->port;
}

static void build_inbound(struct builder *builder)
{
	struct model *model = builder->model;
	struct config_list list = builder->config->inbound;
	model->inbound = build_alloc(builder, list.count, sizeof *model->inbound);
	FOR_ITEMS(struct config_inbound, from, list)
	{
		enum tls_mode tls =
		    from->tls == CONFIG_TLS_INHERIT ? model->tls.mode : (enum tls_mode)from->tls;
		for (size_t i = 0; i < model->inbound_count; i++)
			if (model->inbound[i].port == from->port)
				build_error(builder, from->at, "inbound port %u is given twice", from->port);
		if (tls == TLS_MODE_STRICT && !model->tls.certificate.len)
			build_error(builder, from->at,
				    "inbound port %u is strict, but tls.certificate is not set", from->port);
		if (model->inbound)
			model->inbound[model->inbound_count++] = (struct inbound_port){
			    (uint16_t)from->port, build_rule(builder, from->at, from->protocols), tls,
			    (enum cluster_protocol)from->application};
	}
	if (model->inbound_count)
		qsort(model->inbound, model->inbound_count, sizeof *model->inbound, by_port);
}

// The place of the first of the three files that is given.
static struct config_at tls_files_at(const struct config *config)
{
	const struct config_text *files[] = {&config->tls.certificate, &config->tls.private_key,
					     &config->tls.trust};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (files[i]->text.len)
			return files[i]->at;
	return (struct config_at){0};
}

// Whoever put a key itself where the name of its file belongs does not want to read it in the log.
static void check_readable(struct builder *builder, const struct config_text *path, const char *key)
{
	if (!path->text.len)
		build_error(builder, tls_files_at(builder->config),
			    "tls.%s is missing: certificate, private_key and trust belong together", key);
	else if (str_find(path->text, '\n') >= 0 || strstr(path->text.p, "-----BEGIN"))
		build_error(builder, path->at, "tls.%s wants the name of a file, not what stands in it", key);
	else if (access(path->text.p, R_OK) < 0)
		build_error(builder, path->at, "tls.%s: %s cannot be read: %s", key, path->text.p,
			    err_text(-errno));
}

static void build_tls(struct builder *builder)
{
	const struct config *config = builder->config;
	struct tls_settings *tls = &builder->model->tls;
	tls->mode = (enum tls_mode)config->tls.mode;
	tls->certificate = build_text(builder, config->tls.certificate.text, false);
	tls->private_key = build_text(builder, config->tls.private_key.text, false);
	tls->trust = build_text(builder, config->tls.trust.text, false);
	tls->allow = build_texts(builder, config->tls.allow);
	tls->allow_count = config->tls.allow.count;
	check_spiffe(builder, config->tls.allow);
	if (tls->certificate.len || tls->private_key.len || tls->trust.len) {
		check_readable(builder, &config->tls.certificate, "certificate");
		check_readable(builder, &config->tls.private_key, "private_key");
		check_readable(builder, &config->tls.trust, "trust");
	} else if (tls->mode == TLS_MODE_STRICT) {
		build_error(builder, config_where(config, &config->tls.mode),
			    "tls.mode is strict, but tls.certificate is not set");
	}
}

// One of the two may be a default: the place is that of the other.
static void check_ports_differ(struct builder *builder, const uint32_t *one, const uint32_t *other)
{
	struct config_at at = config_where(builder->config, one);
	build_error(builder, at.line ? at : config_where(builder->config, other),
		    "intercept.outbound, inbound and dns must be different ports");
}

// What vip_pool_open refuses, said with its place.
static void check_vips(struct builder *builder)
{
	const struct config_list *list = &builder->config->dns.vips;
	const struct cidr *ranges = list->items;
	for (size_t i = 0; i < list->count; i++) {
		bool v6 = ranges[i].ip.family == AF_INET6,
		     twice = i && ranges[i].ip.family == ranges[0].ip.family;
		if (twice || ranges[i].bits > (v6 ? 126 : 30))
			build_error(builder, config_where(builder->config, list),
				    twice ? "dns.vips: only one range is possible for a family"
					  : "dns.vips: a range has no address besides its first and last");
	}
}

// The ranges that the services' addresses are from, which are those of the start.
static void build_vips(struct builder *builder)
{
	const struct config_list *list = &builder->config->dns.vips;
	struct model *model = builder->model;
	struct cidr in_use[VIP_RANGES_MAX];
	check_vips(builder);
	const struct cidr *ranges = builder->vips ? in_use : list->items;
	size_t count = builder->vips ? vip_pool_ranges(builder->vips, in_use) : list->count;
	model->vips = build_alloc(builder, count, sizeof *model->vips);
	if (!model->vips)
		return;
	if (count)
		memcpy(model->vips, ranges, count * sizeof *model->vips);
	model->vip_count = count;
}

static void check_zone(struct builder *builder)
{
	const struct config_text *zone = &builder->config->dns.zone;
	struct dns_name name;
	if (zone->text.len && dns_name_from_text(zone->text, &name))
		build_error(builder, zone->at, "dns.zone: \"%.*s\" is no domain name", STR_ARG(zone->text));
}

static void build_settings(struct builder *builder)
{
	const struct config *config = builder->config;
	struct model *model = builder->model;
	model->timeouts =
	    (struct timeouts){config->timeouts.idle_ms, config->timeouts.head_ms, config->timeouts.drain_ms,
			      config->timeouts.pool_idle_ms, config->timeouts.heartbeat_ms};
	model->lost_destination = (enum lost_destination)config->intercept.lost_destination;
	model->access_log = config->log.access;
	model->max_head_bytes = config->limits.head_bytes;
	model->max_frame_bytes = config->limits.frame_bytes;
	if (config->intercept.inbound_source.family == AF_INET6)
		build_error(builder, config_where(config, &config->intercept.inbound_source),
			    "intercept.inbound_source must be an IPv4 address");
	const uint32_t *ports[] = {&config->intercept.outbound, &config->intercept.inbound,
				   &config->intercept.dns};
	for (size_t i = 1; i < ARRAY_SIZE(ports); i++)
		for (size_t j = 0; j < i; j++)
			if (*ports[i] == *ports[j])
				check_ports_differ(builder, ports[i], ports[j]);
}

int model_build(const struct config *config, struct vip_pool *vips, struct model **ret_model,
		struct strbuf *ret_errors)
{
	struct builder builder = {.config = config, .vips = vips, .errors = ret_errors, .model = model_new()};
	if (!builder.model)
		return -ENOMEM;
	build_settings(&builder);
	check_zone(&builder);
	build_vips(&builder);
	build_codecs(&builder);
	build_tls(&builder);
	build_inbound(&builder);
	build_clusters(&builder);
	build_services(&builder);
	table_done(&builder.clusters);
	if (!builder.error_count && !builder.no_memory)
		build_names(&builder);
	if (!builder.error_count && !builder.no_memory)
		builder.no_memory = model_index(builder.model) != 0;
	if (builder.error_count > CONFIG_ERRORS_MAX)
		strbuf_printf(ret_errors, "%s: and %u errors more\n", config->name,
			      builder.error_count - CONFIG_ERRORS_MAX);
	if (builder.error_count || builder.no_memory) {
		model_unref(builder.model);
		return builder.error_count ? ERR_CONFIG : -ENOMEM;
	}
	*ret_model = builder.model;
	return 0;
}
