// SPDX-License-Identifier: Apache-2.0
// `conn show`, `conn kill` and `conn drain`: every worker copies what it knows of its connections, on its own
// thread.
#include "admin/connections.h"

#include "admin/call.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>

enum { TEXTS = 6, STREAM_TEXTS = 6 };

// A copy; its texts follow one another in the report's `texts` from `at` on.
struct copy {
	struct conn_info info;
	size_t at;
};

// The same of what is under way on a connection.
struct stream_copy {
	struct stream_info info;
	uint64_t connection;
	size_t at;
};

// Filled by one worker on its thread, read by the control thread afterwards.
struct report {
	struct copy *copies;
	size_t count, capacity;
	struct stream_copy *streams;
	size_t stream_count, stream_capacity;
	size_t left_out; // streams above the limit
	struct strbuf texts;
	int err;
};

struct gather {
	struct admin_call *call;
	struct report *reports;	    // one a worker
	struct ip peer;		    // family 0: all
	uint64_t id;		    // to be killed
	const struct conn_key *key; // NULL: all
	uint64_t now;
	bool streams; // are listed, too
};

static bool is_meant(const struct conn_key *key, const struct conn_info *info)
{
	if (key->has_id)
		return info->id == key->id;
	return addr_eq(&key->peer, &info->peer) && addr_eq(&key->destination, &info->destination);
}

static bool is_selected(const struct gather *gather, const struct conn_info *info)
{
	const struct admin_call *call = gather->call;
	return admin_selects(call, "direction", info->inbound ? STR("inbound") : STR("outbound")) &&
	       admin_selects(call, "protocol", info->protocol ? str_from(info->protocol) : STR("-")) &&
	       admin_selects(call, "virtual_host", info->virtual_host) &&
	       admin_selects(call, "cluster", info->cluster) &&
	       (!gather->peer.family || ip_eq(&gather->peer, &info->peer.ip)) &&
	       (!gather->key || is_meant(gather->key, info));
}

// --- on the worker's thread -------------------------------------------------------------------------------
struct visit {
	const struct gather *gather;
	struct report *report;
	uint64_t connection; // whose streams are visited
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

static void stream_texts_of(struct stream_info *info, struct str *ret_texts[STREAM_TEXTS])
{
	ret_texts[0] = &info->authority;
	ret_texts[1] = &info->service;
	ret_texts[2] = &info->method;
	ret_texts[3] = &info->path;
	ret_texts[4] = &info->virtual_host;
	ret_texts[5] = &info->cluster;
}

static void keep_texts(struct report *report, struct str **texts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		strbuf_add_str(&report->texts, *texts[i]);
	if (report->texts.failed)
		report->err = -ENOMEM;
}

static void note_stream(const struct stream_info *info, void *arg)
{
	const struct visit *visit = arg;
	struct report *report = visit->report;
	void **array = (void **)&report->streams;
	struct str *texts[STREAM_TEXTS];
	if (report->stream_count == LIMIT_ADMIN_STREAMS) {
		report->left_out++;
		return;
	}
	if (!report->err)
		report->err = mem_grow(array, &report->stream_capacity, report->stream_count + 1,
				       sizeof *report->streams);
	if (report->err)
		return;
	struct stream_copy *copy = &report->streams[report->stream_count++];
	*copy = (struct stream_copy){*info, visit->connection, report->texts.len};
	stream_texts_of(&copy->info, texts);
	for (int i = 0; i < STREAM_TEXTS; i++)
		texts[i]->len = MIN(texts[i]->len, (size_t)LIMIT_ADMIN_STREAM_TEXT);
	keep_texts(report, texts, STREAM_TEXTS);
}

static void note(const struct conn_info *info, void *arg)
{
	struct visit *visit = arg;
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
	keep_texts(report, texts, TEXTS);
	visit->connection = info->id;
	if (visit->gather->streams && info->each_stream)
		info->each_stream(info->connection, note_stream, visit);
}

static void report_connections(struct worker *worker, void *arg)
{
	struct gather *gather = arg;
	struct visit visit = {.gather = gather, .report = &gather->reports[worker->index]};
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

void admin_emit_connection(struct emit *emit, const struct conn_info *info, uint64_t now)
{
	struct str none = {NULL, 0};
	emit_uint(emit, "id", info->id);
	emit_text(emit, "direction", info->inbound ? "inbound" : "outbound");
	emit_text(emit, "state", info->state);
	emit_addr(emit, "peer", &info->peer);
	emit_addr(emit, "destination", &info->destination);
	emit_addr(emit, "local", &info->local);
	emit_str(emit, "virtual_host", info->virtual_host.len ? info->virtual_host : none);
	emit_str(emit, "cluster", info->cluster.len ? info->cluster : none);
	emit_addr(emit, "endpoint", &info->endpoint);
	emit_text(emit, "protocol", info->protocol);
	emit_str(emit, "service", info->service.len ? info->service : none);
	emit_str(emit, "method", info->method.len ? info->method : none);
	emit_uint(emit, "calls", info->calls);
	emit_uint(emit, "streams", info->streams);
	emit_text(emit, "transport", info->transport);
	emit_tls_side(emit, "tls", info->tls_version, info->tls_peer);
	emit_tls_side(emit, "upstream_tls", info->upstream_tls_version, info->upstream_tls_peer);
	emit_bool(emit, "accelerated", info->accelerated);
	emit_uint(emit, "requests", info->requests);
	emit_bytes(emit, "received", info->bytes_received);
	emit_bytes(emit, "sent", info->bytes_sent);
	emit_duration(emit, "age", now > info->opened_ns ? now - info->opened_ns : 0);
}

static struct str or_none(struct str text)
{
	return text.len ? text : (struct str){NULL, 0};
}

static void emit_number(struct emit *emit, const char *key, bool known, unsigned value)
{
	if (known)
		emit_uint(emit, key, value);
	else
		emit_text(emit, key, NULL);
}

static void emit_stream(struct emit *emit, const struct stream_copy *copy, uint64_t now)
{
	const struct stream_info *info = &copy->info;
	emit_row_begin(emit);
	emit_uint(emit, "connection", copy->connection);
	emit_uint(emit, "id", info->id);
	emit_text(emit, "protocol", info->protocol);
	emit_str(emit, "authority", or_none(info->authority));
	emit_str(emit, "service", or_none(info->service));
	emit_str(emit, "method", or_none(info->method));
	emit_str(emit, "path", or_none(info->path));
	emit_number(emit, "status", info->answered, info->status);
	emit_number(emit, "grpc_status", info->grpc_status >= 0, (unsigned)info->grpc_status);
	emit_str(emit, "virtual_host", or_none(info->virtual_host));
	emit_str(emit, "cluster", or_none(info->cluster));
	emit_addr(emit, "endpoint", &info->endpoint);
	emit_duration(emit, "age", now > info->started_ns ? now - info->started_ns : 0);
	emit_row_end(emit);
}

// Points a copy's texts at the copied bytes.
static void settle(const struct report *report, struct str **texts, size_t count, size_t at)
{
	for (size_t i = 0; i < count; i++) {
		texts[i]->p = strbuf_str(&report->texts).p + at;
		at += texts[i]->len;
	}
}

static void settle_texts(struct report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		struct str *texts[TEXTS];
		texts_of(&report->copies[i].info, texts);
		settle(report, texts, TEXTS, report->copies[i].at);
	}
	for (size_t i = 0; i < report->stream_count; i++) {
		struct str *texts[STREAM_TEXTS];
		stream_texts_of(&report->streams[i].info, texts);
		settle(report, texts, STREAM_TEXTS, report->streams[i].at);
	}
}

// By connection; of one the oldest was copied first.
static int by_connection(const void *a, const void *b)
{
	const struct stream_copy *left = *(struct stream_copy *const *)a,
				 *right = *(struct stream_copy *const *)b;
	if (left->connection != right->connection)
		return left->connection < right->connection ? -1 : 1;
	return left->at < right->at ? -1 : left->at > right->at;
}

static int emit_streams(const struct gather *gather, unsigned workers)
{
	struct emit *emit = gather->call->emit;
	size_t count = 0, at = 0, left_out = 0;
	for (unsigned i = 0; i < workers; i++) {
		count += gather->reports[i].stream_count;
		left_out += gather->reports[i].left_out;
	}
	const struct stream_copy **copies = mem_array(count + 1, sizeof *copies);
	if (!copies)
		return -ENOMEM;
	for (unsigned i = 0; i < workers; i++)
		for (size_t j = 0; j < gather->reports[i].stream_count; j++)
			copies[at++] = &gather->reports[i].streams[j];
	qsort(copies, count, sizeof *copies, by_connection);
	emit_table_begin(emit, "streams");
	for (size_t i = 0; i < count; i++)
		emit_stream(emit, copies[i], gather->now);
	emit_table_end(emit);
	emit_uint(emit, "streams_left_out", left_out);
	mem_free(copies);
	return 0;
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
	for (size_t i = 0; i < count; i++) {
		emit_row_begin(gather->call->emit);
		admin_emit_connection(gather->call->emit, infos[i], gather->now);
		emit_row_end(gather->call->emit);
	}
	emit_table_end(gather->call->emit);
	mem_free(infos);
	return gather->streams ? emit_streams(gather, workers) : 0;
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
		mem_free(gather->reports[i].streams);
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
	gather.streams = admin_value(call, "streams").p != NULL;
	if (peer.p && ip_parse(peer, &gather.peer))
		err = admin_call_usage(call, "'peer' must be an IP address");
	if (!err)
		err = workers_call(call->backend->workers, report_connections, &gather);
	if (!err)
		err = emit_reports(&gather, workers_count(call->backend->workers));
	gather_close(&gather);
	return err;
}

// The first report that has a copy gives it away.
static int take_first(struct gather *gather, struct conn_found *ret_found)
{
	for (unsigned i = 0; i < workers_count(gather->call->backend->workers); i++) {
		struct report *report = &gather->reports[i];
		if (report->err)
			return report->err;
		if (report->count == 0)
			continue;
		settle_texts(report);
		*ret_found = (struct conn_found){report->copies[0].info, report->texts};
		report->texts = (struct strbuf){0};
		return 0;
	}
	return ERR_NOT_FOUND;
}

int admin_connection_find(struct admin_call *call, const struct conn_key *key, struct conn_found *ret_found)
{
	struct gather gather;
	int err = gather_open(&gather, call);
	if (err)
		return err;
	gather.key = key;
	err = workers_call(call->backend->workers, report_connections, &gather);
	if (!err)
		err = take_first(&gather, ret_found);
	gather_close(&gather);
	return err;
}

void conn_found_done(struct conn_found *found)
{
	strbuf_done(&found->_texts);
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

int admin_conn_drain(struct admin_call *call)
{
	const struct admin_backend *backend = call->backend;
	if (!backend->retire)
		return admin_call_fail(call, "not available in this proxy");
	int err = backend->retire(backend->data);
	if (err)
		return admin_call_fail(call, "%s", err_text(err));
	emit_bool(call->emit, "draining", true);
	return 0;
}
