// SPDX-License-Identifier: Apache-2.0
#include "proxy/plane.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/pool.h"
#include "control/config.h"
#include "exchange/connection.h"
#include "mesh/regex.h"
#include "net/tls.h"

#include <errno.h>

struct plane {
	struct plane_settings *settings;
	struct dataplane *dataplane;
};

int plane_settings_dns(struct plane_settings *settings, const struct config *config)
{
	(void)settings;
	(void)config;
	return 0;
}

void plane_done(struct worker *worker, void *arg)
{
	struct plane *plane = worker->data;
	(void)arg;
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
	int err = dataplane_new(worker->loop, worker->index, &settings->dataplane, settings->model, settings->tls,
				&plane->dataplane);
	if (!err)
		err = dataplane_listen(plane->dataplane);
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
	if (dataplane_publish(plane_of(worker)->dataplane, model))
		log_error("out of memory: a worker keeps the old configuration", LOG_UINT("worker", worker->index));
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
	(void)worker;
	return 0;
}
