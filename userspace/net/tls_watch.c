// SPDX-License-Identifier: Apache-2.0
#include "net/tls_watch.h"

#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

// A file that does not hold still is looked at so often; then it is taken as it is.
enum { SETTLE_ROUNDS = 25 };
#define WATCHED_EVENTS                                                                                       \
	(IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF | \
	 IN_MOVE_SELF)

// What tells one state of a file from another; all zero when it cannot be reached.
struct signature {
	dev_t device;
	ino_t inode;
	off_t size;
	struct timespec modified, changed;
};

struct tls_watch {
	struct loop *loop;
	struct loop_io io; // the inotify descriptor; fd -1: none
	struct loop_timer quiet, poll;
	struct loop_task free_task;
	tls_watch_fn fn;
	void *arg;
	unsigned rounds;
	size_t count;
	char *files[TLS_WATCH_FILES];
	struct signature known[TLS_WATCH_FILES]; // what the owner has been told of
	struct signature seen[TLS_WATCH_FILES];	 // at the last look
};

static void look(const struct tls_watch *watch, struct signature signatures[TLS_WATCH_FILES])
{
	memset(signatures, 0, TLS_WATCH_FILES * sizeof *signatures);
	for (size_t i = 0; i < watch->count; i++) {
		struct stat st;
		if (stat(watch->files[i], &st))
			continue;
		signatures[i].device = st.st_dev;
		signatures[i].inode = st.st_ino;
		signatures[i].size = st.st_size;
		signatures[i].modified = st.st_mtim;
		signatures[i].changed = st.st_ctim;
	}
}

static bool same(const struct signature *a, const struct signature *b)
{
	return memcmp(a, b, TLS_WATCH_FILES * sizeof *a) == 0;
}

// Has the directories of the files watched; those that already are stay so (the kernel knows them again).
static void watch_directories(struct tls_watch *watch)
{
	for (size_t i = 0; i < watch->count && watch->io.fd >= 0; i++) {
		const char *slash = strrchr(watch->files[i], '/');
		size_t len = slash ? (size_t)(slash - watch->files[i]) : 0;
		autofree char *directory =
		    len ? mem_strndup(watch->files[i], len) : mem_strdup(slash ? "/" : ".");
		if (directory)
			inotify_add_watch(watch->io.fd, directory, WATCHED_EVENTS | IN_ONLYDIR);
	}
}

static void on_quiet(struct loop_timer *timer)
{
	struct tls_watch *watch = container_of(timer, struct tls_watch, quiet);
	struct signature now[TLS_WATCH_FILES];
	look(watch, now);
	bool moving = !same(now, watch->seen);
	memcpy(watch->seen, now, sizeof now);
	if (moving && ++watch->rounds < SETTLE_ROUNDS) {
		loop_timer_start(watch->loop, timer, TLS_WATCH_QUIET_MS);
		return;
	}
	watch->rounds = 0;
	if (same(now, watch->known))
		return;
	memcpy(watch->known, now, sizeof now);
	watch->fn(watch->arg);
}

static void start_settling(struct tls_watch *watch)
{
	if (!loop_timer_running(&watch->quiet))
		loop_timer_start(watch->loop, &watch->quiet, TLS_WATCH_QUIET_MS);
}

static void on_poll(struct loop_timer *timer)
{
	struct tls_watch *watch = container_of(timer, struct tls_watch, poll);
	struct signature now[TLS_WATCH_FILES];
	look(watch, now);
	if (!same(now, watch->known))
		start_settling(watch);
	watch_directories(watch);
	loop_timer_start(watch->loop, timer, TLS_WATCH_POLL_MS);
}

static void on_events(struct loop_io *io, uint32_t events)
{
	struct tls_watch *watch = container_of(io, struct tls_watch, io);
	_Alignas(struct inotify_event) char bytes[4096];
	(void)events;
	while (read(io->fd, bytes, sizeof bytes) > 0)
		;
	start_settling(watch);
}

// Without inotify (its instances are limited per user) the poll has to do.
static void watch_begin(struct tls_watch *watch)
{
	watch->io.fd = -1;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd >= 0 && loop_io_add(watch->loop, &watch->io, fd, EPOLLIN, on_events)) {
		close(fd);
		watch->io.fd = -1;
	}
	watch_directories(watch);
	look(watch, watch->known);
	memcpy(watch->seen, watch->known, sizeof watch->seen);
	loop_timer_init(&watch->quiet, on_quiet);
	loop_timer_init(&watch->poll, on_poll);
	loop_timer_start(watch->loop, &watch->poll, TLS_WATCH_POLL_MS);
}

static void watch_release(struct tls_watch *watch)
{
	for (size_t i = 0; i < watch->count; i++)
		mem_free(watch->files[i]);
	mem_free(watch);
}

int tls_watch_new(struct loop *loop, const struct str *files, size_t count, tls_watch_fn fn, void *arg,
		  struct tls_watch **ret_watch)
{
	if (count > TLS_WATCH_FILES)
		return -EINVAL;
	struct tls_watch *watch = mem_zalloc(sizeof *watch);
	if (!watch)
		return -ENOMEM;
	watch->loop = loop;
	watch->fn = fn;
	watch->arg = arg;
	for (; watch->count < count; watch->count++) {
		watch->files[watch->count] = mem_strndup(files[watch->count].p, files[watch->count].len);
		if (!watch->files[watch->count]) {
			watch_release(watch);
			return -ENOMEM;
		}
	}
	watch_begin(watch);
	*ret_watch = watch;
	return 0;
}

static void on_free(struct loop_task *task)
{
	watch_release(container_of(task, struct tls_watch, free_task));
}

void tls_watch_free(struct tls_watch *watch)
{
	if (!watch)
		return;
	loop_timer_stop(&watch->quiet);
	loop_timer_stop(&watch->poll);
	int fd = watch->io.fd;
	if (fd >= 0) {
		loop_io_del(watch->loop, &watch->io);
		close(fd);
	}
	loop_defer(watch->loop, &watch->free_task, on_free);
}
