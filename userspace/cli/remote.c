// SPDX-License-Identifier: Apache-2.0
// The client side of the admin socket.
#include "cli/options.h"

#include "admin/protocol.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_TIMEOUT_S = 10 };

static int say(struct strbuf *text, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int say(struct strbuf *text, int status, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(text, format, args);
	va_end(args);
	return status;
}

static int say_connect(const struct cli *cli, int error, struct strbuf *text)
{
	if (error == ENOENT || error == ECONNREFUSED)
		return say(text, CLI_FAILED, "no proxy listens at %s (another path: --socket, or WEIR_ADMIN)",
			   cli->socket);
	return say(text, CLI_FAILED, "cannot connect to %s: %s", cli->socket, err_text(-error));
}

static int ask_connect(const struct cli *cli, struct strbuf *text, int *ret_fd)
{
	struct sockaddr_un where = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = ANSWER_TIMEOUT_S};
	if (strlen(cli->socket) >= sizeof where.sun_path)
		return say(text, CLI_FAILED, "the socket's path is too long: %s", cli->socket);
	strcpy(where.sun_path, cli->socket);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return say(text, CLI_FAILED, "%s", err_text(-errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (connect(fd, (struct sockaddr *)&where, sizeof where) < 0) {
		int error = errno;
		close(fd);
		return say_connect(cli, error, text);
	}
	*ret_fd = fd;
	return CLI_DONE;
}

// The proxy may refuse and close before it has read all: what it says counts, not the failed write.
static void send_all(int fd, struct str bytes)
{
	while (bytes.len) {
		ssize_t n = send(fd, bytes.p, bytes.len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		bytes.p += n;
		bytes.len -= (size_t)n;
	}
}

static int receive_all(int fd, struct strbuf *answer)
{
	for (;;) {
		char *room = strbuf_reserve(answer, 65536);
		if (!room)
			return -ENOMEM;
		ssize_t n = read(fd, room, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		// A reset behind a whole answer does no harm; a cut one is noticed by its length.
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return 0;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		answer->len += (size_t)n;
		answer->p[answer->len] = 0;
	}
}

static int take_answer(const struct cli *cli, struct str answer, struct strbuf *ret_text)
{
	static const int exits[] = {
	    [ADMIN_OK] = CLI_DONE, [ADMIN_FAILED] = CLI_FAILED, [ADMIN_USAGE] = CLI_USAGE};
	enum admin_status status;
	uint64_t length;
	int head = admin_response_parse(answer, &status, &length);
	if (head < 0 || answer.len - (size_t)head != length)
		return say(ret_text, CLI_FAILED, "the answer of the proxy at %s is incomplete", cli->socket);
	strbuf_add(ret_text, answer.p + head, (size_t)length);
	return exits[status];
}

int cli_ask(const struct cli *cli, const char *object, const char *verb, enum emit_format format,
	    const struct command_value *values, size_t count, struct strbuf *ret_text)
{
	autostrbuf struct strbuf request = {0}, answer = {0};
	autoclose int fd = -1;
	admin_request_begin(&request, object, verb, format);
	for (size_t i = 0; i < count; i++)
		admin_request_add(&request, values[i].param->name, values[i].value);
	admin_request_end(&request);
	if (request.failed)
		return say(ret_text, CLI_FAILED, "%s", err_text(-ENOMEM));
	if (request.len > LIMIT_ADMIN_REQUEST)
		return say(ret_text, CLI_USAGE, "the request is too long");
	int status = ask_connect(cli, ret_text, &fd);
	if (status)
		return status;
	send_all(fd, strbuf_str(&request));
	int err = receive_all(fd, &answer);
	if (err)
		return say(ret_text, CLI_FAILED, "the proxy at %s does not answer: %s", cli->socket,
			   err_text(err));
	return take_answer(cli, strbuf_str(&answer), ret_text);
}

pid_t cli_proxy_pid(const struct cli *cli)
{
	autostrbuf struct strbuf ignored = {0};
	struct ucred peer = {0};
	socklen_t len = sizeof peer;
	int fd;
	if (ask_connect(cli, &ignored, &fd))
		return 0;
	int err = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	close(fd);
	return err < 0 ? 0 : peer.pid;
}

int cli_remote(struct cli *cli)
{
	const struct command *command = cli->command;
	autostrbuf struct strbuf text = {0};
	int status =
	    cli_ask(cli, command->object, command->verb, cli->format, cli->values, cli->value_count, &text);
	struct str said = strbuf_str(&text);
	if (status != CLI_DONE)
		said.len -= str_ends(said, STR("\n"));
	if (status == CLI_USAGE)
		return cli_usage(cli, "%.*s", STR_ARG(said));
	if (status == CLI_FAILED)
		return cli_fail(cli, "%.*s", STR_ARG(said));
	return fwrite(said.p, 1, said.len, stdout) == said.len ? CLI_DONE : CLI_FAILED;
}
