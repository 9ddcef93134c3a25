// SPDX-License-Identifier: Apache-2.0
#include "cli/inject_commands.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "inject/edit.h"
#include "inject/webhook.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

// --- files ------------------------------------------------------------------------------------------------
static int read_all(int fd, struct strbuf *ret_text)
{
	for (;;) {
		char *at = strbuf_reserve(ret_text, 65536);
		ssize_t n = at ? read(fd, at, 65536) : -1;
		if (n < 0 && at && errno == EINTR)
			continue;
		if (n < 0)
			return at ? -errno : -ENOMEM;
		if (n == 0)
			return 0;
		ret_text->len += (size_t)n;
		ret_text->p[ret_text->len] = 0;
		if (ret_text->len > LIMIT_MANIFEST_BYTES)
			return -EFBIG;
	}
}

static int read_manifest(const char *path, struct strbuf *ret_text)
{
	if (strcmp(path, "-") == 0)
		return read_all(STDIN_FILENO, ret_text);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : read_all(fd, ret_text);
}

static int write_all(int fd, struct str text)
{
	while (text.len) {
		ssize_t n = write(fd, text.p, text.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text.p += n;
		text.len -= (size_t)n;
	}
	return 0;
}

static int write_new(const char *path, struct str text)
{
	autoclose int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	return fd < 0 ? -errno : write_all(fd, text);
}

// With owner and mode of the other file.
static int write_beside(const char *path, const struct stat *status, struct str text)
{
	autostrbuf struct strbuf temporary = {0};
	strbuf_printf(&temporary, "%s.XXXXXX", path);
	if (temporary.failed)
		return -ENOMEM;
	int fd = mkostemp(temporary.p, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int err = fchown(fd, status->st_uid, status->st_gid) < 0 ? -errno : 0;
	if (!err && fchmod(fd, status->st_mode & 07777) < 0)
		err = -errno;
	if (!err)
		err = write_all(fd, text);
	if (close(fd) < 0 && !err)
		err = -errno;
	if (!err && rename(temporary.p, path) < 0)
		err = -errno;
	if (err)
		unlink(temporary.p);
	return err;
}

static int rewrite(int fd, struct str text)
{
	int err = lseek(fd, 0, SEEK_SET) < 0 ? -errno : write_all(fd, text);
	return !err && ftruncate(fd, (off_t)text.len) < 0 ? -errno : err;
}

// Where there is no room, that is known before anything has changed; otherwise what was there is put back.
static int write_through(const char *path, struct str text)
{
	autostrbuf struct strbuf before = {0};
	autoclose int fd = open(path, O_RDWR | O_CLOEXEC);
	int err = fd < 0 ? -errno : read_all(fd, &before);
	if (!err && text.len && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)text.len) < 0 &&
	    errno != EOPNOTSUPP && errno != ENOSYS)
		err = -errno;
	if (err)
		return err;
	err = rewrite(fd, text);
	if (err)
		(void)rewrite(fd, strbuf_str(&before));
	return err;
}

// A file that is there is replaced whole or not at all, since it may be the one that was read; it is written
// to only where it has other names, or an owner whose it could not stay. A link keeps leading to it. Pipes
// and the like are written to.
static int write_file(const char *path, struct str text)
{
	struct stat status;
	if (stat(path, &status) < 0 || !S_ISREG(status.st_mode))
		return write_new(path, text);
	char real[PATH_MAX];
	if (!realpath(path, real))
		return -errno;
	int err = status.st_nlink == 1 ? write_beside(real, &status, text) : -EPERM;
	return err == -EPERM || err == -EACCES ? write_through(real, text) : err;
}

static int put_result(const struct cli *cli, const struct strbuf *text)
{
	const char *path = cli_get(cli, "o");
	if (text->failed)
		return cli_fail(cli, "out of memory");
	int err = path ? write_file(path, strbuf_str(text)) : write_all(STDOUT_FILENO, strbuf_str(text));
	return err ? cli_fail(cli, "%s: cannot be written: %s", path ? path : "the result", err_text(err))
		   : CLI_DONE;
}

// --- the command ------------------------------------------------------------------------------------------
// Lines "LINE:COLUMN: ..." as the place in a file.
static void say(const char *path, struct str lines)
{
	while (lines.p && lines.len) {
		autostrbuf struct strbuf line = {0};
		strbuf_add_visible(&line, str_split(&lines, '\n'));
		fprintf(stderr, "%s:%.*s\n", strcmp(path, "-") ? path : "standard input",
			STR_ARG(strbuf_str(&line)));
	}
}

static int read_settings(const struct cli *cli, struct settings *ret_settings)
{
	autostrbuf struct strbuf why = {0};
	settings_init(ret_settings);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const char *value = cli_get(cli, setting_rows[i].name);
		if (value &&
		    settings_set(ret_settings, str_from(setting_rows[i].name), str_from(value), &why))
			return cli_usage(cli, "%s", why.p ? why.p : err_text(-ENOMEM));
	}
	if (settings_check(ret_settings, &why))
		return cli_usage(cli, "%s", why.p ? why.p : err_text(-ENOMEM));
	return CLI_DONE;
}

static int print_annotations(void)
{
	autostrbuf struct strbuf text = {0};
	settings_reference(&text);
	return text.failed || write_all(STDOUT_FILENO, strbuf_str(&text)) ? CLI_FAILED : CLI_DONE;
}

static int inject(struct cli *cli)
{
	const char *path = cli_get(cli, "f");
	struct settings settings;
	struct edit_result result = {0};
	autostrbuf struct strbuf text = {0}, changed = {0}, why = {0};
	if (cli_has(cli, "annotations"))
		return print_annotations();
	if (!path)
		return cli_usage(cli, "missing: -f FILE");
	int status = read_settings(cli, &settings);
	if (status)
		return status;
	int err = read_manifest(path, &text);
	if (err)
		return cli_fail(cli, "%s: cannot be read: %s", path, err_text(err));
	if (cli_has(cli, "uninject"))
		err = edit_uninject(strbuf_str(&text), &changed, &why);
	else
		err = edit_inject(strbuf_str(&text), &settings, &changed, &result, &why);
	say(path, strbuf_str(&result.notes));
	strbuf_done(&result.notes);
	if (err == 0)
		return put_result(cli, &changed);
	if (!why.len)
		return cli_fail(cli, "%s", err_text(err));
	say(path, strbuf_str(&why));
	return CLI_FAILED;
}

static int serve_reviews(struct cli *cli)
{
	uint64_t port = 8443;
	struct settings settings;
	autostrbuf struct strbuf why = {0};
	int status = read_settings(cli, &settings);
	if (status)
		return status;
	if (cli_has(cli, "port") &&
	    (str_to_u64(str_from(cli_get(cli, "port")), &port) || port < 1 || port > UINT16_MAX))
		return cli_usage(cli, "port: '%s' is no port", cli_get(cli, "port"));
	const struct webhook_options options = {.port = (uint16_t)port,
						.certificate = str_from(cli_get(cli, "certificate")),
						.private_key = str_from(cli_get(cli, "private-key")),
						.settings = &settings};
	int err = webhook_run(&options, &why);
	return err ? cli_fail(cli, "%s", why.len ? why.p : err_text(err)) : CLI_DONE;
}

// --- the table --------------------------------------------------------------------------------------------
// The options that stand for annotations; whether a pod gets weir is the pod's own affair.
#define SETTING_PARAM(id, name, kind, initial, value, help) {PARAM_OPTION, name, value, help, false, false},

static const struct command_param inject_params[] = {
    {PARAM_OPTION, "f", "FILE", "the manifest; - for standard input", false, false},
    {PARAM_OPTION, "o", "FILE", "where the result goes; standard output by default", false, false},
    {PARAM_FLAG, "uninject", NULL, "take out what was put in: the bytes are again as they were", false,
     false},
    {PARAM_FLAG, "annotations", NULL, "print the table of annotations (Markdown), and do nothing", false,
     false},
    INJECT_DEFAULTS(SETTING_PARAM)};

static const struct command_param injector_params[] = {
    {PARAM_OPTION, "certificate", "FILE", "its certificate with the chain (PEM)", true, false},
    {PARAM_OPTION, "private-key", "FILE", "its key (PEM)", true, false},
    {PARAM_OPTION, "port", "PORT", "where it listens (8443)", false, false},
    INJECT_DEFAULTS(SETTING_PARAM)};

const struct cli_command injector_commands[] = {
    {{"injector", "", "Serve the mutating admission webhook that puts weir into pods",
      "HTTPS: POST /inject takes reviews of admission.k8s.io/v1, GET /healthz and /readyz answer probes. A "
      "certificate "
      "that is replaced is used from then on. The options are the defaults of annotations, as for weir "
      "inject.",
      injector_params, ARRAY_SIZE(injector_params)},
     serve_reviews},
    {{0}, NULL},
};

const struct cli_command inject_commands[] = {
    {{"inject", "", "Put weir into the pods of a Kubernetes manifest (YAML)",
      "Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, Pods and Lists of them get the "
      "proxy "
      "as a sidecar and the interception as an init container. Lines go in between marks; everything else "
      "stays as it is, comments included. Doing it again changes nothing, or brings the lines up to date. "
      "Annotations of a pod (weir.io/NAME) come before the options by the same names.",
      inject_params, ARRAY_SIZE(inject_params)},
     inject},
    {{0}, NULL},
};
