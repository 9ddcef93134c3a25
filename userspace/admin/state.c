// SPDX-License-Identifier: Apache-2.0
// Certificates, names, counters, log, version: what the proxy does now.
#include "admin/call.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "dns/names.h"
#include "net/bypass.h"
#include "net/relay.h"
#include "net/tls.h"
#include "run/stats.h"

#include <stdatomic.h>
#include <unistd.h>

static int unavailable(struct admin_call *call)
{
	return admin_call_fail(call, "not available in this proxy");
}

// --- cert -------------------------------------------------------------------------------------------------
static void emit_validity(struct emit *emit, int64_t not_before, int64_t not_after)
{
	int64_t left = not_after - (int64_t)(clock_real_ns() / NS_PER_S);
	emit_time(emit, "not_before", not_before);
	emit_time(emit, "not_after", not_after);
	emit_duration(emit, "left", left > 0 ? (uint64_t)left * NS_PER_S : 0);
}

static void workload_row(struct emit *emit, const struct tls_cert_info *info)
{
	emit_row_begin(emit);
	emit_text(emit, "role", "workload");
	emit_text(emit, "identity", info->id);
	emit_text(emit, "issuer", info->issuer);
	emit_text(emit, "key", info->key_type);
	emit_validity(emit, info->not_before, info->not_after);
	emit_text(emit, "serial", info->serial);
	emit_text(emit, "sha256", info->fingerprint);
	emit_text(emit, "file", info->certificate_file);
	emit_row_end(emit);
}

static void anchor_row(struct emit *emit, const struct tls_cert_info *info,
		       const struct tls_anchor_info *anchor)
{
	emit_row_begin(emit);
	emit_text(emit, "role", "trust");
	emit_text(emit, "identity", anchor->domain);
	emit_text(emit, "issuer", anchor->subject);
	emit_text(emit, "key", NULL);
	emit_validity(emit, anchor->not_before, anchor->not_after);
	emit_text(emit, "serial", NULL);
	emit_text(emit, "sha256", anchor->fingerprint);
	emit_text(emit, "file", info->trust_file);
	emit_row_end(emit);
}

int admin_cert_show(struct admin_call *call)
{
	const struct admin_backend *backend = call->backend;
	const struct tls_context *context = backend->tls ? backend->tls(backend->data) : NULL;
	const struct tls_cert_info *info = context ? tls_context_describe(context) : NULL;
	emit_table_begin(call->emit, "certificates");
	if (info)
		workload_row(call->emit, info);
	for (size_t i = 0; info && i < info->anchor_count; i++)
		anchor_row(call->emit, info, &info->anchors[i]);
	emit_table_end(call->emit);
	return 0;
}

// --- dns --------------------------------------------------------------------------------------------------
static void dns_row(const struct dns_entry *entry, void *arg)
{
	struct admin_call *call = arg;
	struct emit *emit = call->emit;
	if (!admin_selects(call, "name", entry->name))
		return;
	emit_row_begin(emit);
	emit_str(emit, "name", entry->name);
	emit_ip(emit, "v4", &entry->v4);
	emit_ip(emit, "v6", &entry->v6);
	emit_list_begin(emit, "ports");
	for (size_t i = 0; i < entry->port_count; i++)
		emit_uint(emit, NULL, entry->ports[i].port);
	emit_list_end(emit);
	emit_row_end(emit);
}

static void emit_vips(struct admin_call *call, const char *name, int family)
{
	uint64_t used, size;
	call->backend->vip_usage(call->backend->data, family, &used, &size);
	emit_record_begin(call->emit, name);
	emit_uint(call->emit, "used", used);
	emit_uint(call->emit, "available", size);
	emit_record_end(call->emit);
}

int admin_dns_show(struct admin_call *call)
{
	struct model *model = admin_model(call);
	if (!model)
		return ERR_NOT_FOUND;
	emit_list_begin(call->emit, "listen");
	for (size_t i = 0; i < call->backend->dns_listen_count; i++)
		emit_addr(call->emit, NULL, &call->backend->dns_listen[i]);
	emit_list_end(call->emit);
	if (call->backend->vip_usage) {
		emit_vips(call, "vips4", AF_INET);
		emit_vips(call, "vips6", AF_INET6);
	}
	emit_table_begin(call->emit, "names");
	if (model->names)
		dns_names_each(model->names, dns_row, call);
	emit_table_end(call->emit);
	return 0;
}

struct flush {
	const struct admin_backend *backend;
	atomic_ullong flushed;
};

static void flush_worker(struct worker *worker, void *arg)
{
	struct flush *flush = arg;
	atomic_fetch_add(&flush->flushed, flush->backend->dns_flush(worker));
}

int admin_dns_flush(struct admin_call *call)
{
	struct flush flush = {.backend = call->backend};
	if (!call->backend->dns_flush || !call->backend->workers)
		return unavailable(call);
	int err = workers_call(call->backend->workers, flush_worker, &flush);
	if (!err)
		emit_uint(call->emit, "flushed", atomic_load(&flush.flushed));
	return err;
}

// --- stats ------------------------------------------------------------------------------------------------
int admin_stats_show(struct admin_call *call)
{
	bypass_publish_counts();
	relay_publish_counts();
	emit_table_begin(call->emit, "counters");
	for (size_t i = 0; i < STAT_COUNT; i++) {
		const struct stat_row *row = &stat_rows[i];
		if (!admin_selects(call, "name", str_from(row->name)))
			continue;
		emit_row_begin(call->emit);
		emit_text(call->emit, "name", row->name);
		emit_text(call->emit, "labels", *row->labels ? row->labels : NULL);
		if (row->kind == STAT_GAUGE)
			emit_int(call->emit, "value", (int64_t)stats_read((enum counter)i));
		else
			emit_uint(call->emit, "value", stats_read((enum counter)i));
		emit_row_end(call->emit);
	}
	emit_table_end(call->emit);
	return 0;
}

// --- config reload ----------------------------------------------------------------------------------------
int admin_config_reload(struct admin_call *call)
{
	if (!call->backend->reload)
		return unavailable(call);
	int err = call->backend->reload(call->backend->data, call->error);
	if (err)
		return err;
	// What it said on success is no error.
	strbuf_clear(call->error);
	struct model *model = admin_model(call);
	emit_uint(call->emit, "generation", model ? model->generation : 0);
	return 0;
}

// --- log --------------------------------------------------------------------------------------------------
int admin_log_show(struct admin_call *call)
{
	emit_text(call->emit, "level", log_level_name(log_get_level()));
	return 0;
}

int admin_log_level(struct admin_call *call)
{
	enum log_level level;
	struct str wanted = admin_value(call, "level");
	if (wanted.p && log_level_parse(wanted, &level))
		return admin_call_usage(call, "'level' must be debug, info, warn or error");
	if (wanted.p)
		log_set_level(level);
	return admin_log_show(call);
}

// --- version ----------------------------------------------------------------------------------------------
int admin_version_show(struct admin_call *call)
{
	const struct admin_backend *backend = call->backend;
	struct model *model = backend->model ? backend->model(backend->data) : NULL;
	emit_text(call->emit, "version", WEIR_VERSION);
	emit_uint(call->emit, "pid", (uint64_t)getpid());
	emit_duration(call->emit, "uptime", clock_mono_ns() - backend->started_ns);
	emit_uint(call->emit, "workers", backend->workers ? workers_count(backend->workers) : 0);
	emit_text(call->emit, "acceleration", bypass_is_on() ? "on" : "off");
	emit_uint(call->emit, "generation", model ? model->generation : 0);
	return 0;
}
