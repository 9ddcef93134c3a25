// SPDX-License-Identifier: Apache-2.0
#include "dns/upstreams.h"

#include "base/error.h"
#include "base/mem.h"
#include "dns/forward.h"

#include <ares.h>
#include <unistd.h>

// What systemd-resolved listens on, and the list of the servers that it asks itself.
static const uint8_t STUBS[][4] = {{127, 0, 0, 53}, {127, 0, 0, 54}};
#define RESOLVED_CONF "/run/systemd/resolve/resolv.conf"
#define RESOLV_CONF   "/etc/resolv.conf"

struct found {
	struct addr servers[DNS_UPSTREAMS_MAX];
	size_t count;
};

static const char *resolv_conf(const struct dns_forward_options *options)
{
	return options->resolv_conf ? options->resolv_conf : RESOLV_CONF;
}

static const char *resolved_conf(const struct dns_forward_options *options)
{
	return options->resolved_conf ? options->resolved_conf : RESOLVED_CONF;
}

static bool is_own(const struct dns_forward_options *options, const struct addr *addr)
{
	for (size_t i = 0; i < options->own_count; i++)
		if (addr_eq(addr, &options->own[i]))
			return true;
	return false;
}

static void found_add(struct found *found, const struct dns_forward_options *options, const struct addr *addr)
{
	if (found->count < DNS_UPSTREAMS_MAX && !is_own(options, addr))
		found->servers[found->count++] = *addr;
}

static void found_add_nodes(struct found *found, const struct dns_forward_options *options,
			    const struct ares_addr_port_node *node)
{
	uint16_t port = options->conf_port ? options->conf_port : 53;
	for (; node; node = node->next) {
		struct addr addr = {.ip.family = (uint8_t)node->family,
				    .port = (uint16_t)(node->udp_port ? node->udp_port : port)};
		memcpy(addr.ip.bytes, &node->addr, node->family == AF_INET6 ? 16 : 4);
		found_add(found, options, &addr);
	}
}

// What c-ares makes of a file in the manner of resolv.conf.
static int read_conf(struct found *found, const struct dns_forward_options *options, const char *path)
{
	struct ares_options ares = {.flags = ARES_FLAG_NOSEARCH, .resolvconf_path = (char *)path};
	struct ares_addr_port_node *nodes = NULL;
	ares_channel channel;
	if (ares_init_options(&channel, &ares, ARES_OPT_FLAGS | ARES_OPT_RESOLVCONF) != ARES_SUCCESS)
		return ERR_DNS;
	int status = ares_get_servers_ports(channel, &nodes);
	found->count = 0;
	if (status == ARES_SUCCESS)
		found_add_nodes(found, options, nodes);
	ares_free_data(nodes);
	ares_destroy(channel);
	return status == ARES_SUCCESS ? 0 : ERR_DNS;
}

static bool is_stub(const struct addr *addr)
{
	for (size_t i = 0; i < ARRAY_SIZE(STUBS); i++)
		if (addr->ip.family == AF_INET && memcmp(addr->ip.bytes, STUBS[i], 4) == 0)
			return true;
	return false;
}

// systemd-resolved must not be asked where its own queries are captured: they would come back to us.
static int pass_by_stub(struct found *found, const struct dns_forward_options *options)
{
	const char *path = resolved_conf(options);
	bool stub = false;
	for (size_t i = 0; i < found->count; i++)
		stub |= is_stub(&found->servers[i]);
	return stub && access(path, R_OK) == 0 ? read_conf(found, options, path) : 0;
}

int dns_upstreams_find(const struct dns_forward_options *options, struct addr ret_servers[DNS_UPSTREAMS_MAX],
		       size_t *ret_count)
{
	struct found found = {.count = 0};
	int err = 0;
	for (size_t i = 0; i < options->server_count; i++)
		found_add(&found, options, &options->servers[i]);
	if (!options->server_count)
		err = read_conf(&found, options, resolv_conf(options));
	if (!err && !options->server_count)
		err = pass_by_stub(&found, options);
	if (err)
		return err;
	memcpy(ret_servers, found.servers, found.count * sizeof ret_servers[0]);
	*ret_count = found.count;
	return 0;
}

bool dns_upstreams_changed(const struct dns_forward_options *options, struct dns_upstreams_seen *seen)
{
	const char *const paths[] = {resolv_conf(options), resolved_conf(options)};
	struct dns_upstreams_seen now = {0};
	for (size_t i = 0; i < ARRAY_SIZE(paths) && !options->server_count; i++) {
		struct stat st = {0};
		bool there = stat(paths[i], &st) == 0 && st.st_size;
		if (!there && i == 0)
			return false;
		now.files[i].dev = st.st_dev;
		now.files[i].ino = st.st_ino;
		now.files[i].changed = st.st_ctim;
	}
	bool changed = memcmp(&now, seen, sizeof now) != 0;
	*seen = now;
	return changed;
}
