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
#include "mesh/regex.h"
#include "net/tls.h"

#include <ares.h>
#include <errno.h>

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

static int start_dns(struct plane *plane, struct loop *loop)
{
	struct plane_settings *settings = plane->settings;
	struct dns_server_options options = {.forward = {.servers = settings->dns_servers,
							 .server_count = settings->dns_server_count,
							 .own = settings->dns_listen,
							 .own_count = settings->dns_listen_count,
							 .prepare = mark_socket,
							 .arg = settings}};
	if (!settings->dns_listen_count)
		return 0;
	int err =
	    dns_server_new(loop, settings->dns_listen, settings->dns_listen_count, &options, &plane->dns);
	if (!err)
		dns_server_set_names(plane->dns, settings->model->names);
	return err;
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
		err = start_dns(plane, worker->loop);
	if (err)
		plane_done(worker, arg);
	return err;
}

static struct plane *plane_of(struct worker *worker)
{
	return worker->data;
}

void plane_publish_model(struct worker *worker, void *model)
{
	struct plane *plane = plane_of(worker);
	if (dataplane_publish(plane->dataplane, model))
		log_error("out of memory: a worker keeps the old configuration",
			  LOG_UINT("worker", worker->index));
	else if (plane->dns)
		dns_server_set_names(plane->dns, ((struct model *)model)->names);
}

void plane_publish_tls(struct worker *worker, void *tls)
{
	dataplane_set_tls(plane_of(worker)->dataplane, tls);
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
