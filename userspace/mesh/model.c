// SPDX-License-Identifier: Apache-2.0
#include "mesh/model.h"

#include "base/limits.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/table.h"
#include "codecs/registry.h"
#include "dns/names.h"
#include "mesh/regex.h"

#include <errno.h>

// Virtual hosts by address and by name, services by name, clusters by name. Wildcard services are found by
// the suffix that follows their '*'.
struct model_index {
	struct table services, clusters, addresses;
	const struct service *catch_all; // "*"
	struct inbound_port inbound_default;
};

// --- life ---------------------------------------------------------------------------------------------------
struct model *model_new(void)
{
	struct model *model = mem_zalloc(sizeof *model);
	struct arena *arena = mem_zalloc(sizeof *arena);
	struct model_index *index = mem_zalloc(sizeof *index);
	if (!model || !arena || !index) {
		mem_free(model);
		mem_free(arena);
		mem_free(index);
		return NULL;
	}
	atomic_init(&model->_refs, 1);
	model->detect = detect_default;
	model->codecs = codecs_builtin;
	model->codec_count = codecs_builtin_count;
	model->_arena = arena;
	model->_index = index;
	return model;
}

void *model_alloc(struct model *model, size_t size)
{
	void *memory = arena_alloc(model->_arena, size);
	return memory ? memset(memory, 0, size) : NULL;
}

struct model *model_ref(struct model *model)
{
	atomic_fetch_add_explicit(&model->_refs, 1, memory_order_relaxed);
	return model;
}

static void free_regexes(struct model *model)
{
	for (size_t s = 0; s < model->service_count; s++) {
		struct service *service = &model->services[s];
		for (size_t h = 0; h < service->host_count; h++) {
			for (size_t r = 0; r < service->hosts[h].route_count; r++) {
				struct route *route = &service->hosts[h].routes[r];
				regex_free(route->path.regex);
				for (size_t i = 0; i < route->header_count; i++)
					regex_free(route->headers[i].value.regex);
			}
		}
	}
}

void model_unref(struct model *model)
{
	if (!model || atomic_fetch_sub_explicit(&model->_refs, 1, memory_order_acq_rel) != 1)
		return;
	free_regexes(model);
	dns_names_unref(model->names);
	table_done(&model->_index->services);
	table_done(&model->_index->clusters);
	table_done(&model->_index->addresses);
	mem_free(model->_index);
	arena_done(model->_arena);
	mem_free(model->_arena);
	mem_free(model);
}

// --- building -----------------------------------------------------------------------------------------------
static struct str service_key(const struct service *service)
{
	bool wildcard = service->name.len && service->name.p[0] == '*';
	return wildcard ? (struct str){service->name.p + 1, service->name.len - 1} : service->name;
}

static int index_address(struct model_index *index, struct service *service, const struct ip *ip)
{
	return ip->family ? table_add(&index->addresses, ip_hash(ip), service) : 0;
}

static int index_service(struct model_index *index, struct service *service)
{
	int err = 0;
	if (str_eq(service->name, STR("*")))
		index->catch_all = service;
	else
		err = table_add(&index->services, str_hash(service_key(service)), service);
	if (!err)
		err = index_address(index, service, &service->vip4);
	if (!err)
		err = index_address(index, service, &service->vip6);
	for (size_t i = 0; i < service->address_count && !err; i++)
		err = index_address(index, service, &service->addresses[i]);
	return err;
}

int model_index(struct model *model)
{
	struct model_index *index = model->_index;
	int err = 0;
	for (size_t i = 0; i < model->service_count && !err; i++)
		err = index_service(index, &model->services[i]);
	for (size_t i = 0; i < model->cluster_count && !err; i++)
		err = table_add(&index->clusters, str_hash(model->clusters[i].name), &model->clusters[i]);
	index->inbound_default = (struct inbound_port){.rule = {.among = model->detect, .text = STR("auto")},
						       .tls = model->tls.mode};
	return err;
}

// --- by address ---------------------------------------------------------------------------------------------
static bool has_address(const struct service *service, const struct ip *ip)
{
	if (ip_eq(&service->vip4, ip) || ip_eq(&service->vip6, ip))
		return true;
	for (size_t i = 0; i < service->address_count; i++)
		if (ip_eq(&service->addresses[i], ip))
			return true;
	return false;
}

static const struct service *service_by_address(const struct model *model, const struct ip *ip)
{
	const struct service *service;
	size_t cursor = 0;
	uint64_t hash = ip_hash(ip);
	while ((service = table_find(&model->_index->addresses, hash, &cursor)))
		if (has_address(service, ip))
			return service;
	return NULL;
}

// The host of exactly that port, else the one for every port.
static const struct virtual_host *host_on_port(const struct service *service, uint16_t port)
{
	const struct virtual_host *any = NULL;
	for (size_t i = 0; i < service->host_count; i++) {
		if (service->hosts[i].port == port)
			return &service->hosts[i];
		if (service->hosts[i].port == 0)
			any = &service->hosts[i];
	}
	return any;
}

// Of services that share an address the one with exactly that port, else the first one for every port.
static const struct virtual_host *host_at(const struct model *model, const struct ip *ip, uint16_t port)
{
	const struct virtual_host *any = NULL;
	const struct service *service;
	size_t cursor = 0;
	uint64_t hash = ip_hash(ip);
	while ((service = table_find(&model->_index->addresses, hash, &cursor))) {
		const struct virtual_host *host =
		    has_address(service, ip) ? host_on_port(service, port) : NULL;
		if (host && host->port)
			return host;
		any = any ? any : host;
	}
	return any;
}

const struct virtual_host *model_host_by_address(const struct model *model, const struct addr *destination)
{
	return host_at(model, &destination->ip, destination->port);
}

bool model_is_virtual(const struct model *model, const struct ip *ip)
{
	for (size_t i = 0; i < model->vip_count; i++)
		if (cidr_contains(&model->vips[i], ip))
			return true;
	return false;
}

// --- by name ------------------------------------------------------------------------------------------------
static const struct service *find_service(const struct model *model, struct str key, bool wildcard)
{
	const struct service *service;
	size_t cursor = 0;
	uint64_t hash = str_hash(key);
	while ((service = table_find(&model->_index->services, hash, &cursor)))
		if ((service->name.p[0] == '*') == wildcard && str_eq(service_key(service), key))
			return service;
	return NULL;
}

// Exact, then the longest wildcard whose suffix is a proper one.
static const struct service *service_by_name(const struct model *model, struct str name)
{
	const struct service *service = find_service(model, name, false);
	for (size_t i = 1; i < name.len && !service; i++)
		if (name.p[i] == '.')
			service = find_service(model, (struct str){name.p + i, name.len - i}, true);
	return service ? service : model->_index->catch_all;
}

// Splits "host:port", "host", "[v6]:port"; false if the port is no number. Without a port *port stays.
static bool split_authority(struct str authority, struct str *ret_host, uint16_t *port)
{
	uint64_t number;
	ptrdiff_t close = str_find(authority, ']');
	size_t from = close < 0 ? 0 : (size_t)close;
	ptrdiff_t colon = str_find((struct str){authority.p + from, authority.len - from}, ':');
	*ret_host = authority;
	if (colon < 0)
		return true;
	size_t at = from + (size_t)colon;
	ret_host->len = at;
	if (str_to_u64((struct str){authority.p + at + 1, authority.len - at - 1}, &number) || number > 65535)
		return false;
	*port = (uint16_t)number;
	return true;
}

// Whether the host is written as an address that services have.
static bool is_address_of_ours(const struct model *model, struct str host, struct ip *ret_ip)
{
	if (host.len >= 2 && host.p[0] == '[')
		host = (struct str){host.p + 1, host.len - 2};
	return ip_parse(host, ret_ip) == 0 && service_by_address(model, ret_ip);
}

static struct str to_lower(struct str text, char ret_lower[LIMIT_DNS_NAME])
{
	for (size_t i = 0; i < text.len; i++)
		ret_lower[i] = ascii_lower(text.p[i]);
	return (struct str){ret_lower, text.len};
}

const struct virtual_host *model_host_by_service(const struct model *model, struct str name, uint16_t port)
{
	char lower[LIMIT_DNS_NAME];
	ptrdiff_t colon = str_find(name, ':');
	const struct service *service = NULL;
	if (name.len == 0)
		return NULL;
	if (colon > 0 && name.len <= LIMIT_DNS_NAME)
		service = find_service(model, to_lower(name, lower), false);
	if (colon > 0)
		name.len = (size_t)colon;
	if (!service && name.len <= LIMIT_DNS_NAME)
		service = service_by_name(model, to_lower(name, lower));
	return service ? host_on_port(service, port) : NULL;
}

const struct virtual_host *model_host_by_name(const struct model *model, struct str authority, uint16_t port)
{
	char lower[LIMIT_DNS_NAME];
	struct str host;
	if (!split_authority(authority, &host, &port) || host.len == 0 || host.len > LIMIT_DNS_NAME)
		return NULL;
	struct str name = to_lower(host, lower);
	if (name.p[name.len - 1] == '.')
		name.len--;
	struct ip ip;
	if (is_address_of_ours(model, name, &ip))
		return host_at(model, &ip, port);
	const struct service *service = name.len ? service_by_name(model, name) : NULL;
	return service ? host_on_port(service, port) : NULL;
}

const struct service *model_service(const struct model *model, struct str name)
{
	bool wildcard = name.len && name.p[0] == '*';
	if (str_eq(name, STR("*")))
		return model->_index->catch_all;
	return find_service(model, wildcard ? (struct str){name.p + 1, name.len - 1} : name, wildcard);
}

const struct cluster *model_cluster(const struct model *model, struct str name)
{
	const struct cluster *cluster;
	size_t cursor = 0;
	uint64_t hash = str_hash(name);
	while ((cluster = table_find(&model->_index->clusters, hash, &cursor)))
		if (str_eq(cluster->name, name))
			return cluster;
	return NULL;
}

const struct inbound_port *model_inbound(const struct model *model, uint16_t port)
{
	const struct inbound_port *any = &model->_index->inbound_default;
	for (size_t i = 0; i < model->inbound_count; i++) {
		if (model->inbound[i].port == port)
			return &model->inbound[i];
		if (model->inbound[i].port == 0)
			any = &model->inbound[i];
	}
	return any;
}
