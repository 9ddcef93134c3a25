// SPDX-License-Identifier: Apache-2.0
#include "intercept/attend.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "intercept/install.h"
#include "intercept/options.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NUMBER_TEXT = 32, SCANS_A_SWEEP = 8, SMALL_FILE_MAX = 64 * 1024 };

// A proxy that was seen. Process numbers are used again: the start time tells apart.
struct seen {
	int pid;
	uint64_t started;
	bool present; // in this scan
	bool done;    // its pod is captured
	bool told;    // of a failure
};

struct attend {
	DIR *proc;
	int own;			  // our network namespace
	uint64_t own_number, host_number; // of namespaces that are left alone: ours, and that of process 1
	struct str backend;
	attend_fn fn;
	void *arg;
	struct seen *seen;
	size_t count, cap;
	uint64_t scans;
};

// --- processes --------------------------------------------------------------------------------------------
static int read_at(int folder, const char *name, struct strbuf *ret_text)
{
	autoclose int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		char *room = strbuf_reserve(ret_text, 4096);
		ssize_t n = room ? read(fd, room, 4096) : -1;
		if (n < 0)
			return room ? -errno : -ENOMEM;
		if (n == 0)
			return 0;
		ret_text->len += (size_t)n;
		ret_text->p[ret_text->len] = 0;
		if (ret_text->len > SMALL_FILE_MAX)
			return ERR_LIMIT;
	}
}

static bool is_proxy(int folder)
{
	char path[PATH_MAX];
	ssize_t len = readlinkat(folder, "exe", path, sizeof path - 1);
	return len > 0 && str_ends((struct str){path, (size_t)len}, STR("/" ATTEND_PROGRAM));
}

static uint64_t namespace_number(int folder)
{
	struct stat status;
	return fstatat(folder, "ns/net", &status, 0) == 0 ? status.st_ino : 0;
}

static uint64_t namespace_number_of(DIR *proc, const char *pid)
{
	autoclose int folder = openat(dirfd(proc), pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder < 0 ? 0 : namespace_number(folder);
}

// The 22nd field of stat; the name, which may hold anything, ends with the last parenthesis.
static uint64_t start_time(int folder)
{
	autostrbuf struct strbuf text = {0};
	uint64_t started = 0;
	if (read_at(folder, "stat", &text))
		return 0;
	const char *end = strrchr(text.p, ')');
	struct str rest = str_from(end ? end + 2 : "");
	for (int i = 3; i < 22 && rest.p; i++)
		str_split(&rest, ' ');
	if (rest.p)
		str_to_u64(str_split(&rest, ' '), &started);
	return started;
}

// --- the variable -----------------------------------------------------------------------------------------
// An environment may be long, with those of all services of a namespace in it; all that is kept is our
// variable's value.
struct search {
	struct strbuf *value;
	size_t matched; // bytes of the name and its "="; more: it is another variable
	bool found;
};

enum { VARIABLE_LEN = sizeof ATTEND_VARIABLE "=" - 1 };

static void search_byte(struct search *search, char byte)
{
	if (search->matched == VARIABLE_LEN) {
		search->found = byte == 0;
		if (byte)
			strbuf_add_char(search->value, byte);
	} else if (byte == 0) {
		search->matched = 0;
	} else if (search->matched > VARIABLE_LEN || byte != (ATTEND_VARIABLE "=")[search->matched]) {
		search->matched = VARIABLE_LEN + 1;
	} else {
		search->matched++;
	}
}

// 1 with the value; 0: there is no such variable; -EAGAIN: there is nothing, it has just begun, or is gone;
// or another error.
static int read_variable(int folder, struct strbuf *ret_value)
{
	struct search search = {.value = ret_value};
	char bytes[4096];
	ssize_t n = 1;
	bool empty = true;
	autoclose int fd = openat(folder, "environ", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (!search.found && n > 0) {
		n = read(fd, bytes, sizeof bytes);
		for (ssize_t i = 0; i < n && !search.found; i++)
			search_byte(&search, bytes[i]);
		empty = empty && n <= 0;
		if (ret_value->failed)
			return -ENOMEM;
		if (ret_value->len > LIMIT_CAPTURE_OPTIONS)
			return ERR_LIMIT;
	}
	return n < 0 ? -errno : search.found ? 1 : empty ? -EAGAIN : 0;
}

// --- capture ----------------------------------------------------------------------------------------------
static int read_option(struct plan_builder *builder, struct str word, struct strbuf *error)
{
	struct str value = word, name = str_split(&value, '=');
	if (!str_starts(name, STR("--"))) {
		strbuf_printf(error, "'%.*s' is no option", (int)MIN(word.len, (size_t)64), word.p);
		return ERR_CONFIG;
	}
	autofree char *key = mem_strndup(name.p + 2, name.len - 2);
	if (!key)
		return -ENOMEM;
	int err = plan_builder_set(builder, key, value.p ? value : STR(""), error);
	if (err == ERR_NOT_FOUND)
		strbuf_printf(error, "there is no option --%.64s", key);
	return err;
}

static int read_plan(struct plan_builder *builder, struct str words, struct strbuf *error)
{
	int err = 0;
	while (words.p && !err) {
		struct str word = str_split(&words, ' ');
		err = word.len ? read_option(builder, word, error) : 0;
	}
	return err ? err : capture_plan_validate(&builder->plan, error);
}

// What the root of a pod holds is the pod's: no link leads out of it, and nothing but a file is written to.
static int tell_pod(int folder, uint64_t netns)
{
	const struct open_how how = {
	    .flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
	    .mode = 0644,
	    .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH};
	struct stat status;
	char text[NUMBER_TEXT];
	autoclose int root = openat(folder, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	autoclose int fd = (int)syscall(SYS_openat2, root, &ATTEND_FILE[1], &how, sizeof how);
	if (fd < 0 || fstat(fd, &status) < 0)
		return -errno;
	int len = snprintf(text, sizeof text, "%llu\n", (unsigned long long)netns);
	return !S_ISREG(status.st_mode) ? -EINVAL : write(fd, text, (size_t)len) == len ? 0 : -EIO;
}

// Within the pod's network namespace, and back again.
static int apply_there(struct attend *attend, int folder, const struct capture_plan *plan, bool *ret_changed,
		       struct strbuf *error)
{
	autoclose int there = openat(folder, "ns/net", O_RDONLY | O_CLOEXEC);
	if (there < 0 || setns(there, CLONE_NEWNET) < 0) {
		strbuf_printf(error, "the pod's network cannot be entered: %s", err_text(-errno));
		return ERR_NOT_FOUND;
	}
	const struct backend *backend = NULL;
	int err = backend_find(attend->backend, plan, &backend, error);
	if (!err)
		err = intercept_apply(backend, plan, ret_changed, error);
	return setns(attend->own, CLONE_NEWNET) < 0 ? ERR_CLOSED : err;
}

static int capture(struct attend *attend, int folder, uint64_t netns, struct str words, bool *ret_changed,
		   struct strbuf *error)
{
	struct plan_builder builder;
	plan_builder_init(&builder);
	int err = read_plan(&builder, words, error);
	if (!err)
		err = apply_there(attend, folder, &builder.plan, ret_changed, error);
	plan_builder_done(&builder);
	if (err)
		return err;
	err = tell_pod(folder, netns);
	if (err)
		strbuf_printf(error, "the pod is captured, but its " ATTEND_FILE " cannot be written: %s",
			      err_text(err));
	return err;
}

// --- the scan ---------------------------------------------------------------------------------------------
static struct seen *remember(struct attend *attend, int pid, uint64_t started)
{
	for (size_t i = 0; i < attend->count; i++)
		if (attend->seen[i].pid == pid && attend->seen[i].started == started)
			return &attend->seen[i];
	if (mem_grow((void **)&attend->seen, &attend->cap, attend->count + 1, sizeof *attend->seen))
		return NULL;
	attend->seen[attend->count] = (struct seen){.pid = pid, .started = started};
	return &attend->seen[attend->count++];
}

static void forget_absent(struct attend *attend)
{
	size_t kept = 0;
	for (size_t i = 0; i < attend->count; i++)
		if (attend->seen[i].present)
			attend->seen[kept++] = attend->seen[i];
	attend->count = kept;
	for (size_t i = 0; i < kept; i++)
		attend->seen[i].present = false;
}

static int attend_pod(struct attend *attend, int folder, struct seen *seen, uint64_t netns)
{
	autostrbuf struct strbuf words = {0}, why = {0};
	bool changed = false;
	int found = read_variable(folder, &words), err = MIN(found, 0);
	if (found == 0 || found == -EAGAIN || found == -ENOENT || found == -ESRCH) {
		seen->done = found == 0; // none of ours
		return 0;
	}
	if (err)
		strbuf_printf(&why, ATTEND_VARIABLE " in its environment cannot be read: %s", err_text(err));
	else
		err = capture(attend, folder, netns, strbuf_str(&words), &changed, &why);
	seen->done = err == 0;
	if (err == ERR_CLOSED)
		return err;
	if (!err || !seen->told)
		attend->fn(attend->arg, seen->pid, netns, changed,
			   !err	     ? STR("")
			   : why.len ? strbuf_str(&why)
				     : str_from(err_text(err)));
	seen->told = err != 0;
	return 0;
}

static int look_at(struct attend *attend, int pid, const char *name)
{
	autoclose int folder = openat(dirfd(attend->proc), name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || !is_proxy(folder))
		return 0;
	uint64_t netns = namespace_number(folder);
	if (!netns || netns == attend->own_number || netns == attend->host_number)
		return 0;
	struct seen *seen = remember(attend, pid, start_time(folder));
	if (!seen)
		return -ENOMEM;
	seen->present = true;
	return seen->done ? 0 : attend_pod(attend, folder, seen, netns);
}

// What pods leave that are gone, also while nobody attended.
static void sweep_gone(void)
{
	for (size_t i = 0; backends[i]; i++)
		if (backends[i]->sweep)
			backends[i]->sweep();
}

int attend_scan(struct attend *attend)
{
	int err = 0;
	struct dirent *entry;
	rewinddir(attend->proc);
	while (!err && (entry = readdir(attend->proc))) {
		uint64_t pid;
		if (str_to_u64(str_from(entry->d_name), &pid) == 0 && pid <= INT32_MAX)
			err = look_at(attend, (int)pid, entry->d_name);
	}
	forget_absent(attend);
	if (!err && attend->scans++ % SCANS_A_SWEEP == 0)
		sweep_gone();
	return err;
}

// --- life -------------------------------------------------------------------------------------------------
int attend_new(const char *proc, struct str backend, attend_fn fn, void *arg, struct attend **ret_attend)
{
	struct stat status;
	struct attend *attend = mem_zalloc(sizeof *attend);
	if (!attend)
		return -ENOMEM;
	*attend = (struct attend){.backend = backend, .fn = fn, .arg = arg, .proc = opendir(proc), .own = -1};
	if (attend->proc)
		attend->own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (attend->own < 0 || fstat(attend->own, &status) < 0) {
		int err = -errno;
		attend_free(attend);
		return err;
	}
	attend->own_number = status.st_ino;
	attend->host_number = namespace_number_of(attend->proc, "1");
	*ret_attend = attend;
	return 0;
}

void attend_free(struct attend *attend)
{
	if (!attend)
		return;
	if (attend->proc)
		closedir(attend->proc);
	if (attend->own >= 0)
		close(attend->own);
	mem_free(attend->seen);
	mem_free(attend);
}

bool attend_is_captured(const char *file)
{
	struct stat status;
	uint64_t number = 0;
	autostrbuf struct strbuf text = {0};
	if (stat("/proc/self/ns/net", &status) < 0 || read_at(AT_FDCWD, file, &text))
		return false;
	struct str rest = strbuf_str(&text);
	return str_to_u64(str_split(&rest, '\n'), &number) == 0 && number == status.st_ino;
}
