// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_held.h"

#include "base/error.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

int ebpf_held_make(int *ret_fd, char ret_folder[EBPF_PATH_MAX], struct strbuf *ret_error)
{
	autoclose int fs = fsopen("bpf", FSOPEN_CLOEXEC);
	int fd = -1;
	if (fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0 &&
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd < 0) {
		int err = -errno;
		strbuf_printf(ret_error,
			      "a BPF file system for programs that go with this process cannot be made: %s; "
			      "it needs CAP_SYS_ADMIN and Linux 5.2",
			      err_text(err));
		return err;
	}
	snprintf(ret_folder, EBPF_PATH_MAX, "/proc/self/fd/%d", fd);
	*ret_fd = fd;
	return 0;
}

struct search {
	struct ebpf_place place;
	int (*fn)(const struct ebpf_place *place, const char *folder, void *arg);
	void *arg;
};

// What is mounted nowhere has no path but "/". Somebody without privileges may have been given a file system of
// the kind (for BPF tokens), which is not root's then. (Anybody can have a copy of the host's; in its root there
// is no plan.)
static bool is_held(int fds, const char *name, const char *path)
{
	char target[2];
	struct statfs fs;
	struct stat st;
	return readlinkat(fds, name, target, sizeof target) == 1 && target[0] == '/' &&
	       statfs(path, &fs) == 0 && (unsigned long)fs.f_type == BPF_FS_MAGIC && stat(path, &st) == 0 &&
	       st.st_uid == 0;
}

static int search_process(const struct search *search, const char *pid)
{
	char path[EBPF_PATH_MAX];
	const struct dirent *entry;
	int result = 0;
	snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
	DIR *dir = opendir(path);
	while (dir && result == 0 && (entry = readdir(dir))) {
		snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", pid, entry->d_name);
		if (entry->d_name[0] != '.' && is_held(dirfd(dir), entry->d_name, path))
			result = search->fn(&search->place, path, search->arg);
	}
	if (dir)
		closedir(dir);
	return result;
}

static bool is_here(const char *pid)
{
	char path[60];
	struct stat own, other;
	snprintf(path, sizeof path, "/proc/%.20s/ns/net", pid);
	return stat("/proc/thread-self/ns/net", &own) == 0 && stat(path, &other) == 0 &&
	       own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

int ebpf_held_each(bool here, int (*fn)(const struct ebpf_place *place, const char *folder, void *arg),
		   void *arg)
{
	struct search search = {.fn = fn, .arg = arg};
	autostrbuf struct strbuf ignored = {0};
	const struct dirent *entry;
	int result = 0;
	if (ebpf_place_netns(&search.place.netns, &ignored))
		return 0;
	DIR *dir = opendir("/proc");
	while (dir && result == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && (!here || is_here(entry->d_name)))
			result = search_process(&search, entry->d_name);
	if (dir)
		closedir(dir);
	return result;
}
