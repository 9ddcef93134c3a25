// SPDX-License-Identifier: Apache-2.0
#include "inject/webhook.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/http1.h"
#include "inject/review.h"
#include "net/serve.h"
#include "net/sock.h"
#include "net/tls_watch.h"
#include "run/signals.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_MS = 10000, FIELDS_MAX = 64, LISTENERS = 2, REQUEST_MAX = LIMIT_REVIEW_BYTES + LIMIT_HTTP_HEAD };

struct webhook {
	struct loop *loop;
	struct signals *signals;
	struct serve *serves[LISTENERS]; // IPv4, IPv6
	struct tls_watch *watch;
	SSL_CTX *tls;
	const struct webhook_options *options;
};

// --- HTTP -------------------------------------------------------------------------------------------------
static void respond(struct strbuf *out, const char *status, const char *type, struct str body)
{
	strbuf_printf(out,
		      "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
		      status, type, body.len);
	strbuf_add_str(out, body);
}

static void refuse(struct strbuf *out, const char *status, const char *why)
{
	autostrbuf struct strbuf body = {0};
	strbuf_printf(&body, "%s\n", why);
	respond(out, status, "text/plain", strbuf_str(&body));
}

static void answer_review(const struct webhook *webhook, struct str body, struct strbuf *out)
{
	autostrbuf struct strbuf review = {0}, why = {0};
	int err = review_answer(body, webhook->options->settings, &review, &why);
	if (err == 0)
		respond(out, "200 OK", "application/json", strbuf_str(&review));
	else if (err == -ENOMEM)
		refuse(out, "503 Service Unavailable", err_text(err));
	else
		refuse(out, "400 Bad Request", why.p ? why.p : err_text(err));
	if (err)
		log_warn("a review could not be answered",
			 LOG_STR("reason", why.len ? strbuf_str(&why) : str_from(err_text(err))));
}

static int answer_post(const struct webhook *webhook, const struct http1_head *head, struct str bytes,
		       struct strbuf *out)
{
	const struct field *type = head_find(&head->head, STR("content-type"));
	struct str rest = type ? type->value : STR("");
	if (!str_eq_nocase(str_trim(str_split(&rest, ';')), STR("application/json")))
		refuse(out, "415 Unsupported Media Type", "application/json is expected");
	else if (head->framing != HTTP1_BODY_LENGTH)
		refuse(out, "411 Length Required", "a Content-Length is expected");
	else if (head->length > LIMIT_REVIEW_BYTES)
		refuse(out, "413 Content Too Large", "the review is too long");
	else if (bytes.len < head->length)
		return ERR_NEED_MORE;
	else
		answer_review(webhook, (struct str){bytes.p, (size_t)head->length}, out);
	return 0;
}

static int route(const struct webhook *webhook, const struct http1_head *head, struct str bytes,
		 struct strbuf *out)
{
	struct str rest = head->head.path, path = str_split(&rest, '?'); // the API server adds ?timeout=10s
	bool inject = str_eq(path, STR("/inject"));
	bool health = str_eq(path, STR("/healthz")) || str_eq(path, STR("/readyz"));
	if (inject && str_eq(head->head.method, STR("POST")))
		return answer_post(webhook, head, bytes, out);
	if (health && str_eq(head->head.method, STR("GET")))
		respond(out, "200 OK", "text/plain", STR("ok\n"));
	else if (inject || health)
		refuse(out, "405 Method Not Allowed", "POST /inject, or GET /healthz");
	else
		refuse(out, "404 Not Found", "POST /inject is all there is");
	return 0;
}

static int answer(void *arg, char *bytes, size_t len, struct strbuf *ret_answer)
{
	struct field fields[FIELDS_MAX];
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault = HTTP1_OK;
	int taken = http1_request_parse((struct str){bytes, len}, LIMIT_HTTP_HEAD, FIELDS_MAX, &head, &fault);
	if (taken == ERR_NEED_MORE)
		return taken;
	if (taken < 0) {
		refuse(ret_answer, "400 Bad Request", "this request is not valid");
		return 0;
	}
	return route(arg, &head, (struct str){bytes + taken, len - (size_t)taken}, ret_answer);
}

// --- TLS --------------------------------------------------------------------------------------------------
static int load_file(SSL_CTX *tls, bool is_key, struct str path, struct strbuf *ret_error)
{
	autofree char *name = mem_strndup(path.p, path.len);
	if (!name)
		return -ENOMEM;
	int done = is_key ? SSL_CTX_use_PrivateKey_file(tls, name, SSL_FILETYPE_PEM)
			  : SSL_CTX_use_certificate_chain_file(tls, name);
	if (done == 1)
		return 0;
	const char *why = ERR_reason_error_string(ERR_peek_last_error());
	strbuf_printf(ret_error, "%s: %s", name, why ? why : "it cannot be read");
	ERR_clear_error();
	return ERR_TLS;
}

static int load_tls(const struct webhook_options *options, SSL_CTX **ret_tls, struct strbuf *ret_error)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	if (!tls || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1) {
		SSL_CTX_free(tls);
		return -ENOMEM;
	}
	int err = load_file(tls, false, options->certificate, ret_error);
	if (!err)
		err = load_file(tls, true, options->private_key, ret_error);
	if (err)
		SSL_CTX_free(tls);
	else
		*ret_tls = tls;
	return err;
}

static void on_files(void *arg)
{
	struct webhook *webhook = arg;
	SSL_CTX *tls;
	autostrbuf struct strbuf why = {0};
	int err = load_tls(webhook->options, &tls, &why);
	if (err) {
		log_error("the certificate changed, but the new one cannot be used; the old one stays",
			  LOG_STR("reason", why.len ? strbuf_str(&why) : str_from(err_text(err))));
		return;
	}
	for (size_t i = 0; i < LISTENERS; i++)
		if (webhook->serves[i])
			serve_set_tls(webhook->serves[i], tls);
	SSL_CTX_free(webhook->tls);
	webhook->tls = tls;
	log_info("the certificate was read again");
}

// --- the server -------------------------------------------------------------------------------------------
static int listen_on(struct webhook *webhook, size_t number, int family, struct strbuf *ret_error)
{
	struct addr addr = {.ip.family = (uint8_t)family, .port = webhook->options->port};
	char text[ADDR_TEXT_MAX];
	int fd = -1;
	const struct serve_ops ops = {.answer = answer,
				      .arg = webhook,
				      .clients_max = LIMIT_INJECTOR_CLIENTS,
				      .request_max = REQUEST_MAX,
				      .requests_max = LIMIT_REVIEWS_BYTES,
				      .idle_ms = IDLE_MS,
				      .evict = true,
				      .tls = webhook->tls};
	int err = sock_listen(&addr, &fd);
	if (err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL)
		return 0;
	if (!err)
		err = serve_new(webhook->loop, fd, &ops, &webhook->serves[number]);
	if (err) {
		strbuf_printf(ret_error, "cannot listen on %s: %s", addr_format(&addr, text), err_text(err));
		if (fd >= 0)
			close(fd);
	}
	return err;
}

static void on_signal(int number, void *arg)
{
	struct webhook *webhook = arg;
	(void)number;
	loop_stop(webhook->loop);
}

static int start(struct webhook *webhook, struct strbuf *ret_error)
{
	static const int numbers[] = {SIGTERM, SIGINT};
	const struct str files[] = {webhook->options->certificate, webhook->options->private_key};
	int err = loop_new(&webhook->loop);
	if (!err)
		err = signals_new(webhook->loop, numbers, ARRAY_SIZE(numbers), on_signal, webhook,
				  &webhook->signals);
	if (!err)
		err = load_tls(webhook->options, &webhook->tls, ret_error);
	if (!err)
		err = tls_watch_new(webhook->loop, files, ARRAY_SIZE(files), on_files, webhook,
				    &webhook->watch);
	if (!err)
		err = listen_on(webhook, 0, AF_INET, ret_error);
	return err ? err : listen_on(webhook, 1, AF_INET6, ret_error);
}

static void stop(struct webhook *webhook)
{
	for (size_t i = 0; i < LISTENERS; i++)
		serve_free(webhook->serves[i]);
	tls_watch_free(webhook->watch);
	signals_free(webhook->signals);
	SSL_CTX_free(webhook->tls);
	loop_free(webhook->loop);
	arena_thread_done();
}

int webhook_run(const struct webhook_options *options, struct strbuf *ret_error)
{
	struct webhook webhook = {.options = options};
	signal(SIGPIPE, SIG_IGN);
	int err = start(&webhook, ret_error);
	if (!err) {
		log_info("serving", LOG_TEXT("version", WEIR_VERSION), LOG_UINT("port", options->port));
		loop_run(webhook.loop);
		log_info("ended");
	}
	stop(&webhook);
	return err;
}
