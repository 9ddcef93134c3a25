// SPDX-License-Identifier: Apache-2.0
#include "proxy/plane.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/pool.h"
#include "control/config.h"
#include "dns/server.h"
#include "exchange/connection.h"
#include "intercept/redirect.h"
#include "mesh/regex.h"
#include "net/tls.h"

#include <ares.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

struct plane {
	struct plane_settings *settings;
	struct dataplane *dataplane;
	struct dns_server *dns; // NULL: turned off
};

// --- DNS ----------------------------------------------------------------------------------------------------
// Loopback only: captured queries get there, and nobody else's.
int plane_settings_dns(struct plane_settings *settings, const struct config *config)
{
	const char *const addresses[] = {"127.0.0.1", "::1"};
	if (!config->intercept.dns)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
		struct addr addr = {.port = (uint16_t)config->intercept.dns};
		int err = ip_parse(str_from(addresses[i]), &addr.ip);
		if (err)
			return err;
		if (addr.ip.family == AF_INET || sock_can_bind(&addr))
			settings->dns_listen[settings->dns_listen_count++] = addr;
	}
	settings->dns_server_count = MIN(config->dns.upstream.count, ARRAY_SIZE(settings->dns_servers));
	if (settings->dns_server_count)
		memcpy(settings->dns_servers, config->dns.upstream.items,
		       settings->dns_server_count * sizeof settings->dns_servers[0]);
	// Not safe to be done by several threads.
	return ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS ? 0 : ERR_DNS;
}

static int mark_socket(int fd, void *arg)
{
	const struct plane_settings *settings = arg;
	return sock_set_mark(fd, settings->dataplane.inbound_mark);
}

static void on_unusable_server(struct str server, const char *why, void *arg)
{
	(void)arg;
	log_warn("a DNS server upstream cannot be used", LOG_STR("server", server), LOG_TEXT("why", why));
}

// All workers read the same servers: one of them tells what is wrong with these.
static int start_dns(struct plane *plane, const struct worker *worker)
{
	struct plane_settings *settings = plane->settings;
	struct addr redirected[REDIRECT_DNS_MAX];
	struct dns_server_options options = {
	    .udp_also = redirected,
	    .forward = {.servers = settings->dns_servers,
			.server_count = settings->dns_server_count,
			.own = settings->dns_listen,
			.own_count = settings->dns_listen_count,
			.prepare = mark_socket,
			.unusable = worker->index == 0 ? on_unusable_server : NULL,
			.arg = settings}};
	if (!settings->dns_listen_count)
		return 0;
	options.udp_also_count = redirect_dns_addresses(settings->dns_listen[0].port, redirected);
	int err = dns_server_new(worker->loop, settings->dns_listen, settings->dns_listen_count, &options,
				 &plane->dns);
	if (!err)
		dns_server_set_names(plane->dns, settings->model->names);
	return err;
}

// --- ports --------------------------------------------------------------------------------------------------
static int try_bind(const struct addr *addr, int type)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	int one = 1, err = 0;
	int fd = socket(addr->ip.family, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno == EAFNOSUPPORT ? 0 : -errno;
	// Without SO_REUSEPORT: whoever listens is in the way. Connections that are ending (TIME_WAIT) are
	// not.
	if ((type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0) ||
	    (addr->ip.family == AF_INET6 &&
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0) ||
	    bind(fd, (struct sockaddr *)&sa, len) < 0)
		err = -errno;
	close(fd);
	return err == -EADDRNOTAVAIL ? 0 : err; // no IPv6 here
}

int plane_check_ports(const struct plane_settings *settings, struct strbuf *ret_error)
{
	const struct dataplane_settings *dataplane = &settings->dataplane;
	uint16_t dns = settings->dns_listen_count ? settings->dns_listen[0].port : 0;
	const struct {
		const char *ip, *key;
		uint16_t port;
		int type;
	} rows[] = {
	    {"127.0.0.1", "outbound", dataplane->outbound_port, SOCK_STREAM},
	    {"::1", "outbound", dataplane->outbound_port, SOCK_STREAM},
	    {"0.0.0.0", "inbound", dataplane->inbound_port, SOCK_STREAM},
	    {"::", "inbound", dataplane->inbound_port, SOCK_STREAM},
	    {"127.0.0.1", "dns", dns, SOCK_STREAM},
	    {"::1", "dns", dns, SOCK_STREAM},
	    {"127.0.0.1", "dns", dns, SOCK_DGRAM},
	    {"::1", "dns", dns, SOCK_DGRAM},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[ADDR_TEXT_MAX];
		struct addr addr = {.port = rows[i].port};
		int err = ip_parse(str_from(rows[i].ip), &addr.ip);
		if (!err && rows[i].port)
			err = try_bind(&addr, rows[i].type);
		if (!err)
			continue;
		strbuf_printf(ret_error, "cannot listen on %s (%s, intercept.%s): %s%s",
			      addr_format(&addr, text), rows[i].type == SOCK_STREAM ? "TCP" : "UDP",
			      rows[i].key, err_text(err),
			      err == -EACCES ? "; ports below 1024 need CAP_NET_BIND_SERVICE" : "");
		return err;
	}
	return 0;
}

// --- life ---------------------------------------------------------------------------------------------------

void plane_done(struct worker *worker, void *arg)
{
	struct plane *plane = worker->data;
	(void)arg;
	dns_server_free(plane->dns);
	dataplane_free(plane->dataplane);
	mem_free(plane);
	worker->data = NULL;
	regex_thread_done();
	tls_thread_done();
	buf_thread_done();
	arena_thread_done();
}

int plane_init(struct worker *worker, void *arg)
{
	struct plane_settings *settings = arg;
	struct plane *plane = mem_zalloc(sizeof *plane);
	if (!plane)
		return -ENOMEM;
	plane->settings = settings;
	worker->data = plane;
	int err = dataplane_new(worker->loop, worker->index, &settings->dataplane, settings->model,
				settings->tls, &plane->dataplane);
	if (!err)
		err = dataplane_listen(plane->dataplane);
	if (!err)
		err = start_dns(plane, worker);
	if (err)
		plane_done(worker, arg);
	return err;
}

static struct plane *plane_of(struct worker *worker)
{
	return worker->data;
}

void plane_publish(struct worker *worker, void *arg)
{
	struct plane *plane = plane_of(worker);
	const struct plane_snapshot *snapshot = arg;
	if (dataplane_publish(plane->dataplane, snapshot->model)) {
		log_error("out of memory: a worker keeps the old configuration",
			  LOG_UINT("worker", worker->index));
		return;
	}
	dataplane_set_tls(plane->dataplane, snapshot->tls);
	if (plane->dns)
		dns_server_set_names(plane->dns, snapshot->model->names);
}

static void on_drained(struct dataplane *dataplane, void *arg)
{
	struct plane *plane = arg;
	(void)dataplane;
	loop_post(plane->settings->control, plane->settings->on_idle, plane->settings->owner);
}

void plane_drain(struct worker *worker, void *unused)
{
	struct plane *plane = plane_of(worker);
	(void)unused;
	dataplane_drain(plane->dataplane, on_drained, plane);
}

void plane_retire(struct worker *worker, void *unused)
{
	(void)unused;
	dataplane_retire(plane_of(worker)->dataplane);
}

struct balancer *plane_balancer(struct worker *worker)
{
	return plane_of(worker)->dataplane->balancer;
}

void plane_each_connection(struct worker *worker, conn_info_fn fn, void *arg)
{
	connection_each(plane_of(worker)->dataplane, fn, arg);
}

int plane_kill_connection(struct worker *worker, uint64_t id)
{
	return connection_kill(plane_of(worker)->dataplane, id);
}

uint64_t plane_flush_dns(struct worker *worker)
{
	struct plane *plane = plane_of(worker);
	return plane->dns ? dns_server_flush(plane->dns) : 0;
}
