// SPDX-License-Identifier: Apache-2.0
#include "intercept/program.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MS = 30000, CHUNK = 4096 };

// --- finding -----------------------------------------------------------------------------------------------
static bool is_program(struct str folder, const char *name, char ret_path[PATH_MAX])
{
	char path[PATH_MAX];
	int len = snprintf(path, sizeof path, "%.*s/%s", STR_ARG(folder), name);
	if (folder.len == 0 || folder.p[0] != '/' || len >= (int)sizeof path || access(path, X_OK) != 0)
		return false;
	memcpy(ret_path, path, (size_t)len + 1);
	return true;
}

int program_find(const char *name, char ret_path[PATH_MAX])
{
	const char *lists[] = {getenv("PATH"),
			       "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"};
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct str rest = str_from(lists[i]);
		while (rest.p && rest.len)
			if (is_program(str_split(&rest, ':'), name, ret_path))
				return 0;
	}
	return ERR_NOT_FOUND;
}

// --- running -----------------------------------------------------------------------------------------------
// Our ends of its standard streams; closed ones are -1.
struct talk {
	int input, output, errors;
	struct str left; // to be written
	struct program_result *result;
};

static int make_pipes(int pipes[3][2])
{
	for (int i = 0; i < 3; i++)
		if (pipe2(pipes[i], O_CLOEXEC) < 0) {
			int err = -errno;
			while (i-- > 0) {
				close(pipes[i][0]);
				close(pipes[i][1]);
			}
			return err;
		}
	return 0;
}

static int spawn(const char *path, const char *const *arguments, int pipes[3][2], pid_t *ret_pid)
{
	extern char **environ;
	posix_spawn_file_actions_t actions;
	int error = posix_spawn_file_actions_init(&actions);
	if (error)
		return -error;
	for (int i = 0; i < 3 && !error; i++)
		error = posix_spawn_file_actions_adddup2(&actions, pipes[i][i == 0 ? 0 : 1], i);
	// posix_spawn does not write to the arguments; its prototype is older than const.
	if (!error)
		error =
		    posix_spawn(ret_pid, path, &actions, NULL, (char *const *)(uintptr_t)arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -error;
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void feed(struct talk *talk)
{
	ssize_t n = talk->left.len ? write(talk->input, talk->left.p, talk->left.len) : 0;
	if (n > 0) {
		talk->left.p += n;
		talk->left.len -= (size_t)n;
	}
	// A program that has stopped reading says why on its own.
	if (talk->left.len == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		shut(&talk->input);
}

static void hear(int *fd, struct strbuf *text)
{
	char chunk[CHUNK];
	ssize_t n = read(*fd, chunk, sizeof chunk);
	if (n > 0)
		strbuf_add(text, chunk, MIN((size_t)n, LIMIT_PROGRAM_OUTPUT - text->len));
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		shut(fd);
}

// Until it has closed its ends. 0 or -ETIMEDOUT.
static int converse(struct talk *talk)
{
	uint64_t deadline = clock_mono_ns() / 1000000 + PATIENCE_MS;
	while (talk->output >= 0 || talk->errors >= 0) {
		struct pollfd fds[] = {
		    {talk->input, POLLOUT, 0}, {talk->output, POLLIN, 0}, {talk->errors, POLLIN, 0}};
		uint64_t now = clock_mono_ns() / 1000000;
		if (now >= deadline)
			return -ETIMEDOUT;
		if (poll(fds, ARRAY_SIZE(fds), (int)(deadline - now)) < 0)
			continue;
		if (fds[0].revents)
			feed(talk);
		if (fds[1].revents)
			hear(&talk->output, &talk->result->output);
		if (fds[2].revents)
			hear(&talk->errors, &talk->result->errors);
	}
	return 0;
}

static int reap(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int attend(pid_t pid, struct talk *talk)
{
	// It may end before it has read everything.
	void (*before)(int) = signal(SIGPIPE, SIG_IGN);
	fcntl(talk->input, F_SETFL, O_NONBLOCK);
	int err = converse(talk);
	shut(&talk->input);
	shut(&talk->output);
	shut(&talk->errors);
	if (err)
		kill(pid, SIGKILL);
	talk->result->status = reap(pid);
	signal(SIGPIPE, before);
	return err;
}

int program_run(const char *path, const char *const *arguments, struct str input,
		struct program_result *ret_result)
{
	int pipes[3][2];
	pid_t pid = 0;
	*ret_result = (struct program_result){0};
	int err = make_pipes(pipes);
	if (err)
		return err;
	err = spawn(path, arguments, pipes, &pid);
	close(pipes[0][0]);
	close(pipes[1][1]);
	close(pipes[2][1]);
	struct talk talk = {pipes[0][1], pipes[1][0], pipes[2][0], input, ret_result};
	if (err == 0)
		return attend(pid, &talk);
	shut(&talk.input);
	shut(&talk.output);
	shut(&talk.errors);
	return err;
}

void program_result_done(struct program_result *result)
{
	strbuf_done(&result->output);
	strbuf_done(&result->errors);
}
