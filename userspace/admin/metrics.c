// SPDX-License-Identifier: Apache-2.0
#include "admin/metrics.h"

#include "admin/endpoints.h"
#include "net/serve.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1.h"
#include "net/bypass.h"
#include "net/relay.h"
#include "run/stats.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 64, IDLE_MS = 10000, FIELDS_MAX = 64 };

struct metrics_server {
	struct serve *serve;
	struct admin_backend backend;
};

// --- text -------------------------------------------------------------------------------------------------
static void add_family(struct strbuf *out, const char *name, const char *type, const char *help)
{
	strbuf_printf(out, "# HELP weir_%s %s\n# TYPE weir_%s %s\n", name, help, name, type);
}

static void add_counters(struct strbuf *out)
{
	for (size_t i = 0; i < STAT_COUNT; i++) {
		const struct stat_row *row = &stat_rows[i];
		// Rows of one family stand together in the table.
		if (i == 0 || strcmp(row->name, stat_rows[i - 1].name) != 0)
			add_family(out, row->name, row->kind == STAT_GAUGE ? "gauge" : "counter", row->help);
		strbuf_printf(out, "weir_%s", row->name);
		if (*row->labels)
			strbuf_printf(out, "{%s}", row->labels);
		uint64_t value = stats_read((enum counter)i);
		if (row->kind == STAT_GAUGE)
			strbuf_printf(out, " %lld\n", (long long)value);
		else
			strbuf_printf(out, " %llu\n", (unsigned long long)value);
	}
}

static void add_process(const struct admin_backend *backend, const struct model *model, struct strbuf *out)
{
	uint64_t uptime = clock_mono_ns() - backend->started_ns;
	add_family(out, "build_info", "gauge", "The version that runs");
	strbuf_printf(out, "weir_build_info{version=\"%s\"} 1\n", WEIR_VERSION);
	add_family(out, "start_time_seconds", "gauge", "When the proxy started, seconds since 1970");
	strbuf_printf(out, "weir_start_time_seconds %llu\n",
		      (unsigned long long)((clock_real_ns() - uptime) / NS_PER_S));
	add_family(out, "workers", "gauge", "Worker threads");
	strbuf_printf(out, "weir_workers %u\n", backend->workers ? workers_count(backend->workers) : 0);
	add_family(out, "config_generation", "gauge", "Number of the configuration in use; 0: none yet");
	strbuf_printf(out, "weir_config_generation %llu\n",
		      model ? (unsigned long long)model->generation : 0);
}

// A label's value: backslash, quote and line feed are escaped (text format 0.0.4); bytes that are no ASCII
// are left out, since the format wants UTF-8 and a cluster's name may be anything.
static void add_label_value(struct strbuf *out, struct str value)
{
	for (size_t i = 0; i < value.len; i++) {
		char c = value.p[i];
		if (c == '\\' || c == '"')
			strbuf_add_char(out, '\\');
		if (c == '\n')
			strbuf_add_text(out, "\\n");
		else if ((unsigned char)c < 0x80)
			strbuf_add_char(out, c);
	}
}

static void add_endpoint(struct strbuf *out, const char *name, const struct endpoint_view *view,
			 uint64_t value)
{
	char address[ADDR_TEXT_MAX];
	strbuf_printf(out, "weir_%s{cluster=\"", name);
	add_label_value(out, view->cluster->name);
	strbuf_printf(out, "\",endpoint=\"%s\"} %llu\n", addr_format(&view->endpoint->addr, address),
		      (unsigned long long)value);
}

static void add_endpoints(const struct admin_backend *backend, const struct model *model, struct strbuf *out)
{
	struct endpoint_view *views;
	size_t count;
	if (!model || admin_endpoints_gather(backend, model, &views, &count))
		return;
	add_family(out, "endpoint_up", "gauge", "1 unless every worker avoids the endpoint");
	for (size_t i = 0; i < count; i++)
		add_endpoint(out, "endpoint_up", &views[i], !endpoint_view_down(backend, &views[i]));
	add_family(out, "endpoint_active", "gauge", "Requests (HTTP) or connections (TCP) under way");
	for (size_t i = 0; i < count; i++)
		add_endpoint(out, "endpoint_active", &views[i], views[i].active);
	mem_free(views);
}

void metrics_render(const struct admin_backend *backend, struct strbuf *out)
{
	struct model *model = backend->model ? backend->model(backend->data) : NULL;
	add_process(backend, model, out);
	bypass_publish_counts();
	relay_publish_counts();
	add_counters(out);
	add_endpoints(backend, model, out);
}

// --- HTTP -------------------------------------------------------------------------------------------------
static void add_response(struct strbuf *out, const char *status, const char *type, struct str body,
			 bool head_only)
{
	strbuf_printf(out,
		      "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
		      "%sConnection: close\r\n\r\n",
		      status, type, body.len,
		      str_starts(str_from(status), STR("405")) ? "Allow: GET, HEAD\r\n" : "");
	if (!head_only)
		strbuf_add_str(out, body);
}

static void add_message(struct strbuf *out, const char *status, bool head_only)
{
	autostrbuf struct strbuf body = {0};
	strbuf_printf(&body, "%s\n", status);
	add_response(out, status, "text/plain", strbuf_str(&body), head_only);
}

static void add_metrics(const struct admin_backend *backend, struct strbuf *out, bool head_only)
{
	autostrbuf struct strbuf body = {0};
	metrics_render(backend, &body);
	if (body.failed)
		add_message(out, "503 Service Unavailable", head_only);
	else
		add_response(out, "200 OK", "text/plain; version=0.0.4; charset=utf-8", strbuf_str(&body),
			     head_only);
}

static void respond(const struct admin_backend *backend, const struct head *head, struct strbuf *out)
{
	struct str rest = head->path, path = str_split(&rest, '?');
	bool head_only = str_eq(head->method, STR("HEAD"));
	bool known = true, metrics = str_eq(path, STR("/metrics"));
	const char *status = "200 OK";
	if (str_eq(path, STR("/readyz")))
		status = backend->ready && backend->ready(backend->data) ? status : "503 Service Unavailable";
	else
		known = metrics || str_eq(path, STR("/healthz"));
	if (!known)
		add_message(out, "404 Not Found", head_only);
	else if (!head_only && !str_eq(head->method, STR("GET")))
		add_message(out, "405 Method Not Allowed", false);
	else if (metrics)
		add_metrics(backend, out, head_only);
	else
		add_message(out, status, head_only);
}

int metrics_answer(const struct admin_backend *backend, struct str bytes, struct strbuf *ret_answer)
{
	struct field fields[FIELDS_MAX];
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	int taken = http1_request_parse(bytes, LIMIT_METRICS_REQUEST, FIELDS_MAX, &head, &fault);
	if (taken == ERR_NEED_MORE)
		return taken;
	if (taken < 0)
		add_message(ret_answer, "400 Bad Request", false);
	else
		respond(backend, &head.head, ret_answer);
	return 0;
}

// --- the server -------------------------------------------------------------------------------------------
int metrics_listen(const struct addr *addr, int *ret_fd, struct strbuf *ret_error)
{
	struct sockaddr_storage where;
	char text[ADDR_TEXT_MAX];
	int one = 1, err = 0;
	socklen_t size = addr_to_sockaddr(addr, &where);
	int fd = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    (where.ss_family == AF_INET6 &&
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0) ||
	    bind(fd, (struct sockaddr *)&where, size) < 0 || listen(fd, BACKLOG) < 0)
		err = -errno;
	if (err) {
		strbuf_printf(ret_error, "metrics address %s: %s", addr_format(addr, text), err_text(err));
		if (fd >= 0)
			close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

static int answer(void *arg, char *bytes, size_t len, struct strbuf *ret_answer)
{
	const struct metrics_server *server = arg;
	return metrics_answer(&server->backend, (struct str){bytes, len}, ret_answer);
}

int metrics_server_new(struct loop *loop, int fd, const struct admin_backend *backend,
		       struct metrics_server **ret_server)
{
	struct metrics_server *server = mem_zalloc(sizeof *server);
	if (!server)
		return -ENOMEM;
	server->backend = *backend;
	const struct serve_ops ops = {.answer = answer,
				      .arg = server,
				      .clients_max = LIMIT_METRICS_CLIENTS,
				      .request_max = LIMIT_METRICS_REQUEST,
				      .idle_ms = IDLE_MS};
	int err = serve_new(loop, fd, &ops, &server->serve);
	if (err) {
		mem_free(server);
		return err;
	}
	*ret_server = server;
	return 0;
}

void metrics_server_free(struct metrics_server *server)
{
	if (!server)
		return;
	serve_free(server->serve);
	mem_free(server);
}
