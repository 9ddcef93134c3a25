// SPDX-License-Identifier: Apache-2.0
#include "dns/upstreams.h"

#include "base/mem.h"
#include "dns/forward.h"
#include "dns/zoned.h"

#include <fcntl.h>
#include <unistd.h>

// What systemd-resolved listens on, and the list of the servers that it asks itself.
static const uint8_t STUBS[][4] = {{127, 0, 0, 53}, {127, 0, 0, 54}};
#define RESOLVED_CONF "/run/systemd/resolve/resolv.conf"
#define RESOLV_CONF   "/etc/resolv.conf"

// What is read of a file: more servers than are taken fit in.
enum { CONF_BYTES_MAX = 16 * 1024 };

struct found {
	const struct dns_forward_options *options;
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	size_t count;
	bool named; // any, if not to be used
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

static void complain(const struct found *found, struct str server, const char *why)
{
	if (found->options->unusable)
		found->options->unusable(server, why, found->options->arg);
}

static bool is_link_local(const struct addr *addr)
{
	static const struct cidr link_local = {{AF_INET6, {0xfe, 0x80}}, 10};
	return cidr_contains(&link_local, &addr->ip);
}

// `text`: what it is called. An interface that is not there may come.
static void found_add(struct found *found, const struct addr *addr, struct str zone, struct str text)
{
	struct dns_upstream server = {.addr = *addr};
	if (found->count == DNS_UPSTREAMS_MAX || is_own(found->options, addr))
		return;
	if (is_link_local(addr)) {
		if (!zone.len || zone.len >= sizeof server.zone) {
			complain(found, text, "a link-local address without its interface (fe80::1%eth0)");
			return;
		}
		memcpy(server.zone, zone.p, zone.len);
		if (!dns_zone_index(server.zone))
			complain(found, text, "there is no such interface now");
	}
	found->servers[found->count++] = server;
}

// "192.0.2.1", "fe80::1%eth0".
static void add_named(struct found *found, struct str name)
{
	uint16_t port = found->options->conf_port ? found->options->conf_port : 53;
	struct addr addr = {.port = port};
	struct str zone = name, ip = str_split(&zone, '%');
	found->named = true;
	if (ip_parse(ip, &addr.ip))
		complain(found, name, "not an IP address");
	else
		found_add(found, &addr, zone, name);
}

// The rest of a line that names a server, or several of them.
static void add_names(struct found *found, struct str names)
{
	while (names.len && *names.p != '#' && *names.p != ';') {
		size_t len = strcspn(names.p, " \t,\r\n#;");
		if (len)
			add_named(found, (struct str){names.p, len});
		else
			len = 1;
		names = (struct str){names.p + len, names.len - len};
	}
}

// As a text. One that cannot be read is empty.
static void read_file(const char *path, char ret_text[CONF_BYTES_MAX + 1])
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = fd < 0 ? 0 : 1;
	while (n > 0) {
		n = read(fd, ret_text + len, CONF_BYTES_MAX - len);
		len += n > 0 ? (size_t)n : 0;
	}
	ret_text[len] = 0;
}

// What resolv.conf(5) says; without any, the server is on this host.
static void read_conf(struct found *found, const char *path)
{
	static const struct str keyword = {"nameserver", sizeof "nameserver" - 1};
	char text[CONF_BYTES_MAX + 1];
	read_file(path, text);
	struct str rest = str_from(text);
	*found = (struct found){.options = found->options};
	while (rest.p) {
		struct str line = str_split(&rest, '\n');
		if (str_starts(line, keyword) && line.len > keyword.len && strchr(" \t", line.p[keyword.len]))
			add_names(found, (struct str){line.p + keyword.len, line.len - keyword.len});
	}
	if (!found->named)
		add_named(found, STR("127.0.0.1"));
}

static bool is_stub(const struct addr *addr)
{
	for (size_t i = 0; i < ARRAY_SIZE(STUBS); i++)
		if (addr->ip.family == AF_INET && memcmp(addr->ip.bytes, STUBS[i], 4) == 0)
			return true;
	return false;
}

// systemd-resolved must not be asked where its own queries are captured: they would come back to us.
static void pass_by_stub(struct found *found)
{
	const char *path = resolved_conf(found->options);
	bool stub = false;
	for (size_t i = 0; i < found->count; i++)
		stub |= is_stub(&found->servers[i].addr);
	if (stub && access(path, R_OK) == 0)
		read_conf(found, path);
}

void dns_upstreams_find(const struct dns_forward_options *options,
			struct dns_upstream ret_servers[DNS_UPSTREAMS_MAX], size_t *ret_count)
{
	struct found found = {.options = options};
	char text[ADDR_TEXT_MAX];
	for (size_t i = 0; i < options->server_count; i++)
		found_add(&found, &options->servers[i], (struct str){0},
			  str_from(ip_format(&options->servers[i].ip, text)));
	if (!options->server_count) {
		read_conf(&found, resolv_conf(options));
		pass_by_stub(&found);
	}
	memcpy(ret_servers, found.servers, sizeof found.servers);
	*ret_count = found.count;
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
