// SPDX-License-Identifier: Apache-2.0
// `conn show` and `conn kill`: every worker copies what it knows of its connections, on its own thread.
#include "admin/call.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>

enum { TEXTS = 6 };

// A copy; its texts follow one another in the report's `texts` from `at` on.
struct copy {
	struct conn_info info;
	size_t at;
};

// Filled by one worker on its thread, read by the control thread afterwards.
struct report {
	struct copy *copies;
	size_t count, capacity;
	struct strbuf texts;
	int err;
};

struct gather {
	struct admin_call *call;
	struct report *reports; // one a worker
	struct ip peer;		// family 0: all
	uint64_t id;		// to be killed
	uint64_t now;
};

static bool is_selected(const struct gather *gather, const struct conn_info *info)
{
	const struct admin_call *call = gather->call;
	return admin_selects(call, "direction", info->inbound ? STR("inbound") : STR("outbound")) &&
	       admin_selects(call, "protocol", info->protocol ? str_from(info->protocol) : STR("-")) &&
	       admin_selects(call, "virtual_host", info->virtual_host) &&
	       admin_selects(call, "cluster", info->cluster) &&
	       (!gather->peer.family || ip_eq(&gather->peer, &info->peer.ip));
}

// --- on the worker's thread -------------------------------------------------------------------------------
struct visit {
	const struct gather *gather;
	struct report *report;
};

static void texts_of(struct conn_info *info, struct str *ret_texts[TEXTS])
{
	ret_texts[0] = &info->virtual_host;
	ret_texts[1] = &info->cluster;
	ret_texts[2] = &info->tls_peer;
	ret_texts[3] = &info->upstream_tls_peer;
	ret_texts[4] = &info->service;
	ret_texts[5] = &info->method;
}

static void note(const struct conn_info *info, void *arg)
{
	const struct visit *visit = arg;
	struct report *report = visit->report;
	void **array = (void **)&report->copies;
	struct str *texts[TEXTS];
	if (report->err || !is_selected(visit->gather, info))
		return;
	report->err = mem_grow(array, &report->capacity, report->count + 1, sizeof *report->copies);
	if (report->err)
		return;
	struct copy *copy = &report->copies[report->count++];
	*copy = (struct copy){*info, report->texts.len};
	texts_of(&copy->info, texts);
	for (int i = 0; i < TEXTS; i++)
		strbuf_add_str(&report->texts, *texts[i]);
	if (report->texts.failed)
		report->err = -ENOMEM;
}

static void report_connections(struct worker *worker, void *arg)
{
	struct gather *gather = arg;
	struct visit visit = {gather, &gather->reports[worker->index]};
	gather->call->backend->connections(worker, note, &visit);
}

static void kill_connection(struct worker *worker, void *arg)
{
	struct gather *gather = arg;
	gather->reports[worker->index].count = gather->call->backend->kill(worker, gather->id) == 0;
}

// --- on the control thread --------------------------------------------------------------------------------
static void emit_tls_side(struct emit *emit, const char *side, const char *version, struct str peer)
{
	emit_record_begin(emit, side);
	emit_text(emit, "version", version);
	emit_str(emit, "peer", peer.len ? peer : (struct str){NULL, 0});
	emit_record_end(emit);
}

static void emit_connection(struct emit *emit, const struct conn_info *info, uint64_t now)
{
	struct str none = {NULL, 0};
	emit_row_begin(emit);
	emit_uint(emit, "id", info->id);
	emit_text(emit, "direction", info->inbound ? "inbound" : "outbound");
	emit_text(emit, "state", info->state);
	emit_addr(emit, "peer", &info->peer);
	emit_addr(emit, "destination", &info->destination);
	emit_str(emit, "virtual_host", info->virtual_host.len ? info->virtual_host : none);
	emit_str(emit, "cluster", info->cluster.len ? info->cluster : none);
	emit_addr(emit, "endpoint", &info->endpoint);
	emit_text(emit, "protocol", info->protocol);
	emit_str(emit, "service", info->service.len ? info->service : none);
	emit_str(emit, "method", info->method.len ? info->method : none);
	emit_uint(emit, "calls", info->calls);
	emit_text(emit, "transport", info->transport);
	emit_tls_side(emit, "tls", info->tls_version, info->tls_peer);
	emit_tls_side(emit, "upstream_tls", info->upstream_tls_version, info->upstream_tls_peer);
	emit_uint(emit, "requests", info->requests);
	emit_bytes(emit, "received", info->bytes_received);
	emit_bytes(emit, "sent", info->bytes_sent);
	emit_duration(emit, "age", now > info->opened_ns ? now - info->opened_ns : 0);
	emit_row_end(emit);
}

// Points the copies' texts at the copied bytes.
static void settle_texts(struct report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		struct str *texts[TEXTS];
		size_t at = report->copies[i].at;
		texts_of(&report->copies[i].info, texts);
		for (int t = 0; t < TEXTS; t++) {
			texts[t]->p = strbuf_str(&report->texts).p + at;
			at += texts[t]->len;
		}
	}
}

static int by_id(const void *a, const void *b)
{
	uint64_t left = (*(struct conn_info *const *)a)->id, right = (*(struct conn_info *const *)b)->id;
	return left < right ? -1 : left > right;
}

static int emit_reports(const struct gather *gather, unsigned workers)
{
	size_t count = 0, at = 0;
	for (unsigned i = 0; i < workers; i++) {
		if (gather->reports[i].err)
			return gather->reports[i].err;
		count += gather->reports[i].count;
	}
	const struct conn_info **infos = mem_array(count + 1, sizeof *infos);
	if (!infos)
		return -ENOMEM;
	for (unsigned i = 0; i < workers; i++) {
		settle_texts(&gather->reports[i]);
		for (size_t j = 0; j < gather->reports[i].count; j++)
			infos[at++] = &gather->reports[i].copies[j].info;
	}
	qsort(infos, count, sizeof *infos, by_id);
	emit_table_begin(gather->call->emit, "connections");
	for (size_t i = 0; i < count; i++)
		emit_connection(gather->call->emit, infos[i], gather->now);
	emit_table_end(gather->call->emit);
	mem_free(infos);
	return 0;
}

static int gather_open(struct gather *gather, struct admin_call *call)
{
	*gather = (struct gather){.call = call, .now = clock_mono_ns()};
	if (!call->backend->workers || !call->backend->connections || !call->backend->kill)
		return admin_call_fail(call, "not available in this proxy");
	gather->reports = mem_array(workers_count(call->backend->workers), sizeof *gather->reports);
	return gather->reports ? 0 : -ENOMEM;
}

static void gather_close(struct gather *gather)
{
	for (unsigned i = 0; i < workers_count(gather->call->backend->workers); i++) {
		mem_free(gather->reports[i].copies);
		strbuf_done(&gather->reports[i].texts);
	}
	mem_free(gather->reports);
}

int admin_conn_show(struct admin_call *call)
{
	struct gather gather;
	struct str peer = admin_value(call, "peer");
	int err = gather_open(&gather, call);
	if (err)
		return err;
	if (peer.p && ip_parse(peer, &gather.peer))
		err = admin_call_usage(call, "'peer' must be an IP address");
	if (!err)
		err = workers_call(call->backend->workers, report_connections, &gather);
	if (!err)
		err = emit_reports(&gather, workers_count(call->backend->workers));
	gather_close(&gather);
	return err;
}

int admin_conn_kill(struct admin_call *call)
{
	struct gather gather;
	bool killed = false;
	struct str text = admin_value(call, "id");
	int err = gather_open(&gather, call);
	if (err)
		return err;
	if (str_to_u64(text, &gather.id))
		err = admin_call_usage(call, "'id' must be a number");
	if (!err)
		err = workers_call(call->backend->workers, kill_connection, &gather);
	for (unsigned i = 0; i < workers_count(call->backend->workers); i++) {
		killed = killed || gather.reports[i].count;
		gather.reports[i].count = 0;
	}
	gather_close(&gather);
	if (!err && !killed)
		err = admin_call_fail(call, "there is no connection %.*s", STR_ARG(text));
	if (!err)
		emit_uint(call->emit, "killed", gather.id);
	return err;
}
