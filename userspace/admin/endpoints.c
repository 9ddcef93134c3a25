// SPDX-License-Identifier: Apache-2.0
#include "admin/endpoints.h"

#include "admin/call.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>

// One endpoint as one worker sees it; the names belong to the worker's snapshot.
struct sighting {
	struct str cluster;
	struct addr addr;
	uint32_t active;
	uint64_t down_until_ns;
};

// Filled by one worker on its thread, read by the control thread afterwards.
struct report {
	struct model *model; // a reference: keeps the names alive
	struct sighting *sightings;
	size_t count, capacity;
	int err;
};

struct gather {
	const struct admin_backend *backend;
	struct report *reports; // one a worker
};

static void note(const struct cluster *cluster, struct endpoint_state *state, void *arg)
{
	struct report *report = arg;
	void **array = (void **)&report->sightings;
	if (!report->err)
		report->err =
		    mem_grow(array, &report->capacity, report->count + 1, sizeof *report->sightings);
	if (report->err)
		return;
	report->sightings[report->count++] =
	    (struct sighting){cluster->name, state->addr, state->active, state->down_until_ns};
}

static void ask(struct worker *worker, void *arg)
{
	struct gather *gather = arg;
	struct report *report = &gather->reports[worker->index];
	struct balancer *balancer = gather->backend->balancer(worker);
	struct model *model = balancer ? balancer_model(balancer) : NULL;
	if (!model)
		return;
	report->model = model_ref(model);
	balancer_each(balancer, note, report);
}

// --- joining ----------------------------------------------------------------------------------------------
static int order(struct str cluster_a, const struct addr *a, struct str cluster_b, const struct addr *b)
{
	int by_name = str_cmp(cluster_a, cluster_b);
	return by_name ? by_name : memcmp(a, b, sizeof *a);
}

static int compare_views(const void *a, const void *b)
{
	const struct endpoint_view *left = *(struct endpoint_view *const *)a,
				   *right = *(struct endpoint_view *const *)b;
	return order(left->cluster->name, &left->endpoint->addr, right->cluster->name,
		     &right->endpoint->addr);
}

static int compare_sighting(const void *key, const void *element)
{
	const struct sighting *sighting = key;
	const struct endpoint_view *view = *(struct endpoint_view *const *)element;
	return order(sighting->cluster, &sighting->addr, view->cluster->name, &view->endpoint->addr);
}

static void join(const struct report *report, struct endpoint_view **sorted, size_t count, uint64_t now)
{
	for (size_t i = 0; i < report->count; i++) {
		const struct sighting *seen = &report->sightings[i];
		struct endpoint_view **found = bsearch(seen, sorted, count, sizeof *sorted, compare_sighting);
		if (!found)
			continue;
		(*found)->active += seen->active;
		if (seen->down_until_ns <= now)
			continue;
		(*found)->workers_down++;
		(*found)->down_until_ns = MAX((*found)->down_until_ns, seen->down_until_ns);
	}
}

static int ask_all(const struct admin_backend *backend, struct endpoint_view **sorted, size_t count)
{
	unsigned workers = workers_count(backend->workers);
	struct gather gather = {backend, mem_array(workers, sizeof(struct report))};
	uint64_t now = clock_mono_ns();
	if (!gather.reports)
		return -ENOMEM;
	int err = workers_call(backend->workers, ask, &gather);
	for (unsigned i = 0; i < workers; i++) {
		struct report *report = &gather.reports[i];
		if (!err)
			err = report->err;
		if (!err)
			join(report, sorted, count, now);
		if (report->model)
			model_unref(report->model);
		mem_free(report->sightings);
	}
	mem_free(gather.reports);
	return err;
}

static size_t list_views(const struct model *model, struct endpoint_view *views)
{
	size_t count = 0;
	for (size_t i = 0; i < model->cluster_count; i++)
		for (size_t j = 0; j < model->clusters[i].endpoint_count; j++, count++)
			if (views)
				views[count] =
				    (struct endpoint_view){.cluster = &model->clusters[i],
							   .endpoint = &model->clusters[i].endpoints[j]};
	return count;
}

int admin_endpoints_gather(const struct admin_backend *backend, const struct model *model,
			   struct endpoint_view **ret_views, size_t *ret_count)
{
	size_t count = list_views(model, NULL);
	struct endpoint_view *views = mem_array(count + 1, sizeof *views);
	struct endpoint_view **sorted = mem_array(count + 1, sizeof *sorted);
	int err = views && sorted ? 0 : -ENOMEM;
	if (err == 0) {
		list_views(model, views);
		for (size_t i = 0; i < count; i++)
			sorted[i] = &views[i];
		qsort(sorted, count, sizeof *sorted, compare_views);
		if (backend->workers && backend->balancer)
			err = ask_all(backend, sorted, count);
	}
	mem_free(sorted);
	if (err) {
		mem_free(views);
		return err;
	}
	*ret_views = views;
	*ret_count = count;
	return 0;
}

bool endpoint_view_down(const struct admin_backend *backend, const struct endpoint_view *view)
{
	return backend->workers && view->workers_down == workers_count(backend->workers);
}

// --- endpoint show ----------------------------------------------------------------------------------------
static struct str state_of(const struct admin_backend *backend, const struct endpoint_view *view)
{
	return endpoint_view_down(backend, view) ? STR("down") : STR("up");
}

void admin_emit_endpoint(struct admin_call *call, const struct endpoint_view *view)
{
	struct emit *emit = call->emit;
	uint64_t now = clock_mono_ns();
	emit_row_begin(emit);
	emit_str(emit, "cluster", view->cluster->name);
	emit_addr(emit, "address", &view->endpoint->addr);
	emit_uint(emit, "weight", view->endpoint->weight);
	emit_str(emit, "state", state_of(call->backend, view));
	emit_uint(emit, "active", view->active);
	emit_uint(emit, "workers_down", view->workers_down);
	emit_duration(emit, "down_for", view->down_until_ns > now ? view->down_until_ns - now : 0);
	emit_row_end(emit);
}

int admin_endpoint_show(struct admin_call *call)
{
	struct endpoint_view *views;
	size_t count;
	struct model *model = admin_model(call);
	int err = model ? admin_endpoints_gather(call->backend, model, &views, &count) : ERR_NOT_FOUND;
	if (err)
		return err;
	emit_table_begin(call->emit, "endpoints");
	for (size_t i = 0; i < count; i++)
		if (admin_selects(call, "cluster", views[i].cluster->name) &&
		    admin_selects(call, "state", state_of(call->backend, &views[i])))
			admin_emit_endpoint(call, &views[i]);
	emit_table_end(call->emit);
	mem_free(views);
	return 0;
}
