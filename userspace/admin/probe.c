// SPDX-License-Identifier: Apache-2.0
#include "admin/probe.h"

#include "admin/probe_ask.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "net/serve.h"
#include "net/sock.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <unistd.h>

enum { IDLE_MS = 5000, FIELDS_MAX = 64, LISTENERS = 2 };

#define PROBE_PATH "/weir/probe/"

struct probe_server {
	struct loop *loop;
	struct serve *serves[LISTENERS]; // IPv4, IPv6
	struct probe_options options;
	struct admin_backend backend;
	SSL_CTX *tls; // to ask by HTTPS; made when there is such a probe
};

// --- the table --------------------------------------------------------------------------------------------
static bool is_target(struct str text)
{
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.p[i] <= ' ' || (unsigned char)text.p[i] == 0x7f)
			return false;
	return text.len <= LIMIT_HTTP_TARGET;
}

int probe_parse(const char *text, struct probe *ret_probe, struct strbuf *ret_error)
{
	static const char *const kinds[] = {
	    [PROBE_HTTP] = "http", [PROBE_HTTPS] = "https", [PROBE_TCP] = "tcp", [PROBE_GRPC] = "grpc"};
	struct str rest = str_from(text), name = str_split(&rest, '=');
	struct str kind = rest.p ? str_split(&rest, ':') : STR("");
	struct str port = rest.p ? str_split(&rest, '/') : STR("");
	uint64_t number = 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!str_eq(kind, str_from(kinds[i])) || !name.len || !is_target(name) ||
		    str_to_u64(port, &number) || number < 1 || number > UINT16_MAX)
			continue;
		*ret_probe =
		    (struct probe){.kind = (enum probe_kind)i, .name = name, .port = (uint16_t)number};
		bool path = i == PROBE_HTTP || i == PROBE_HTTPS;
		if (rest.p)
			ret_probe->target = (struct str){rest.p - path, rest.len + path};
		if (path != (rest.p != NULL) && i != PROBE_GRPC)
			break;
		if (is_target(ret_probe->target))
			return 0;
	}
	strbuf_printf(
	    ret_error,
	    "probe '%s': NAME=http:PORT/PATH, https:PORT/PATH, tcp:PORT or grpc:PORT/SERVICE is expected",
	    text);
	return ERR_CONFIG;
}

static const struct probe *find_probe(const struct probe_server *server, struct str path)
{
	if (!str_starts(path, STR(PROBE_PATH)))
		return NULL;
	path.p += strlen(PROBE_PATH);
	path.len -= strlen(PROBE_PATH);
	for (size_t i = 0; i < server->options.count; i++)
		if (str_eq(server->options.probes[i].name, path))
			return &server->options.probes[i];
	return NULL;
}

// --- answers ----------------------------------------------------------------------------------------------
static void respond(struct serve_client *client, uint16_t status, const char *why)
{
	autostrbuf struct strbuf answer = {0};
	strbuf_printf(&answer,
		      "HTTP/1.1 %u %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
		      "Cache-Control: no-store\r\nConnection: close\r\n\r\n%s\n",
		      status, status < 400 ? "OK" : "Failed", strlen(why) + 1, why);
	serve_answer(client, &answer);
}

static void on_done(void *arg, uint16_t status, const char *why)
{
	struct serve_client *client = arg;
	serve_client_set(client, NULL);
	respond(client, status, why);
}

static int ask(struct probe_server *server, struct serve_client *client, const struct probe *probe,
	       const struct head *head)
{
	struct probe_ask *asking;
	struct probe_question question = {.probe = probe,
					  .own_port = server->options.port,
					  .head = head,
					  .mark = server->options.mark,
					  .tls = server->tls,
					  .done = on_done,
					  .arg = client};
	int err = sock_local_addr(serve_client_fd(client), &question.where);
	question.where.port = probe->port;
	if (!err)
		err = probe_ask_new(server->loop, &question, &asking);
	if (err)
		respond(client, 503, err_text(err));
	else
		serve_client_set(client, asking);
	return 0;
}

static void answer_head(struct probe_server *server, struct serve_client *client, const struct head *head)
{
	const struct admin_backend *backend = &server->backend;
	const struct probe *probe = find_probe(server, head->path);
	bool own = str_eq(head->path, STR("/healthz")), ready = str_eq(head->path, STR("/readyz"));
	if (!probe && !own && !ready)
		respond(client, 404, "there is no such probe");
	else if (!str_eq(head->method, STR("GET")))
		respond(client, 405, "only GET");
	else if (probe)
		ask(server, client, probe, head);
	else if (own || (backend->ready && backend->ready(backend->data)))
		respond(client, 200, "ok");
	else
		respond(client, 503, "not ready");
}

static int start(void *arg, struct serve_client *client, char *bytes, size_t len)
{
	struct field fields[FIELDS_MAX];
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	int taken =
	    http1_request_parse((struct str){bytes, len}, LIMIT_PROBE_REQUEST, FIELDS_MAX, &head, &fault);
	if (taken == ERR_NEED_MORE)
		return taken;
	if (taken < 0)
		respond(client, 400, "this request is not valid");
	else
		answer_head(arg, client, &head.head);
	return 0;
}

static void cancel(void *arg, struct serve_client *client)
{
	(void)arg;
	probe_ask_cancel(serve_client_get(client));
}

// --- the server -------------------------------------------------------------------------------------------
static int listen_on(struct probe_server *server, size_t number, int family, struct strbuf *ret_error)
{
	struct addr addr = {.ip.family = (uint8_t)family, .port = server->options.port};
	char text[ADDR_TEXT_MAX];
	int fd = -1;
	const struct serve_ops ops = {.start = start,
				      .cancel = cancel,
				      .arg = server,
				      .clients_max = LIMIT_PROBE_CLIENTS,
				      .request_max = LIMIT_PROBE_REQUEST,
				      .idle_ms = IDLE_MS,
				      .evict = true};
	int err = sock_listen(&addr, &fd);
	if (err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL)
		return 0;
	if (!err)
		err = serve_new(server->loop, fd, &ops, &server->serves[number]);
	if (err) {
		strbuf_printf(ret_error, "cannot listen for probes on %s: %s", addr_format(&addr, text),
			      err_text(err));
		if (fd >= 0)
			close(fd);
	}
	return err;
}

static int make_tls(struct probe_server *server)
{
	bool wanted = false;
	for (size_t i = 0; i < server->options.count; i++)
		wanted |= server->options.probes[i].kind == PROBE_HTTPS;
	server->tls = wanted ? SSL_CTX_new(TLS_client_method()) : NULL;
	return wanted && !server->tls ? -ENOMEM : 0;
}

int probe_server_new(struct loop *loop, const struct probe_options *options,
		     const struct admin_backend *backend, struct probe_server **ret_server,
		     struct strbuf *ret_error)
{
	struct probe_server *server = mem_zalloc(sizeof *server);
	if (!server)
		return -ENOMEM;
	*server = (struct probe_server){.loop = loop, .options = *options, .backend = *backend};
	int err = make_tls(server);
	if (!err)
		err = listen_on(server, 0, AF_INET, ret_error);
	if (!err)
		err = listen_on(server, 1, AF_INET6, ret_error);
	if (err) {
		probe_server_free(server);
		return err;
	}
	*ret_server = server;
	return 0;
}

void probe_server_free(struct probe_server *server)
{
	if (!server)
		return;
	for (size_t i = 0; i < LISTENERS; i++)
		serve_free(server->serves[i]);
	SSL_CTX_free(server->tls);
	mem_free(server);
}
