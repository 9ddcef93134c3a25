// SPDX-License-Identifier: Apache-2.0
#include "cli/attend_commands.h"

#include "base/error.h"
#include "base/log.h"
#include "intercept/attend.h"
#include "intercept/backend.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

enum { SCAN_MS = 250, WAIT_MS = 50, WAIT_S = 60 };

// --- attend -----------------------------------------------------------------------------------------------
static void on_pod(void *arg, int pid, uint64_t netns, bool changed, struct str why)
{
	(void)arg;
	if (why.len)
		log_error("a pod could not be captured", LOG_UINT("pid", (uint64_t)pid),
			  LOG_UINT("netns", netns), LOG_STR("reason", why));
	else
		log_info(changed ? "a pod was captured" : "a pod was captured already",
			 LOG_UINT("pid", (uint64_t)pid), LOG_UINT("netns", netns));
}

// True: a signal asks to end.
static bool pause_for(const sigset_t *signals, long ms)
{
	const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
	return sigtimedwait(signals, NULL, &time) > 0;
}

// On a node that does not allow it, no pod could be captured: better said at once.
static int check_node(struct cli *cli, struct str name)
{
	const struct backend *backend;
	struct capture_plan plan;
	autostrbuf struct strbuf why = {0};
	capture_plan_init(&plan);
	return backend_find(name, &plan, &backend, &why)
		   ? cli_fail(cli, "pods cannot be captured on this node: %.*s", STR_ARG(strbuf_str(&why)))
		   : CLI_DONE;
}

int intercept_attend(struct cli *cli)
{
	struct attend *attend;
	const char *option = cli_get(cli, "backend");
	struct str backend = str_from(option ? option : "auto");
	sigset_t signals;
	if (check_node(cli, backend) != CLI_DONE)
		return CLI_FAILED;
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	int err = attend_new("/proc", backend, on_pod, NULL, &attend);
	if (err)
		return cli_fail(cli, "%s", err_text(err));
	log_info("looking for proxies on this node");
	do
		err = attend_scan(attend);
	while (!err && !pause_for(&signals, SCAN_MS));
	attend_free(attend);
	return err ? cli_fail(cli, "%s", err_text(err)) : CLI_DONE;
}

const struct command_param attend_params[1] = {
    {PARAM_OPTION, "backend", BACKEND_WORDS, "how it gets into the kernel (auto: what this host allows)",
     false, false},
};

// --- wait -------------------------------------------------------------------------------------------------
const struct command_param wait_params[1] = {
    {PARAM_OPTION, "timeout", "SECONDS", "how long (60)", false, false},
};

int intercept_wait(struct cli *cli)
{
	uint64_t seconds = WAIT_S;
	const char *text = cli_get(cli, "timeout");
	const struct timespec pause = {0, WAIT_MS * 1000000};
	if (text && (str_to_u64(str_from(text), &seconds) || seconds > 3600))
		return cli_usage(cli, "timeout: '%s' is no number up to 3600", text);
	for (uint64_t i = 0; i <= seconds * 1000 / WAIT_MS; i++) {
		if (attend_is_captured(ATTEND_FILE)) {
			emit_text(cli->emit, "interception", "installed");
			return CLI_DONE;
		}
		nanosleep(&pause, NULL);
	}
	return cli_fail(
	    cli, "nobody captured this pod within %llu seconds: does weir's node agent run on this node?",
	    (unsigned long long)seconds);
}
