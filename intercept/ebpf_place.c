// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_place.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/shared.h"
#include "intercept/cgroups.h"
#include "intercept/host_root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BPFFS "/sys/fs/bpf"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

void ebpf_path(char ret_path[EBPF_PATH_MAX], const char *folder, const char *name)
{
	snprintf(ret_path, EBPF_PATH_MAX, "%s/%s", folder, name);
}

void ebpf_place_namespace(const char *folder, uint64_t netns, char ret_path[EBPF_PATH_MAX])
{
	char name[40];
	snprintf(name, sizeof name, "netns-%llu", (unsigned long long)netns);
	ebpf_path(ret_path, folder, name);
}

int ebpf_place_netns(uint64_t *ret_cookie, struct strbuf *ret_error)
{
	autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof *ret_cookie;
	if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret_cookie, &len) == 0)
		return 0;
	int err = -errno;
	strbuf_printf(ret_error, "the kernel does not tell network namespaces apart: %s; it needs Linux 5.14",
		      err_text(err));
	return err;
}

static bool is_bpffs(const char *path)
{
	struct statfs fs;
	return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == BPF_FS_MAGIC;
}

bool ebpf_place_mounted(char ret_path[EBPF_PATH_MAX])
{
	for (enum host_root root = ROOT_OWN; root < HOST_ROOTS; root++) {
		char prefix[40];
		host_root_path(root, prefix);
		snprintf(ret_path, EBPF_PATH_MAX, "%s" BPFFS, prefix);
		if (is_bpffs(ret_path))
			return true;
	}
	snprintf(ret_path, EBPF_PATH_MAX, BPFFS);
	return false;
}

// Whether what is mounted here goes when this process ends: its mount namespace was made for it alone.
static bool is_mount_namespace_private(void)
{
	char parent[40];
	struct stat own, other;
	snprintf(parent, sizeof parent, "/proc/%d/ns/mnt", (int)getppid());
	return stat("/proc/self/ns/mnt", &own) == 0 && stat(parent, &other) == 0 &&
	       own.st_ino != other.st_ino;
}

static int check_mount(struct strbuf *error)
{
	if (!is_mount_namespace_private())
		return 0;
	strbuf_add_text(
	    error, "no BPF file system is mounted at " BPFFS
		   ", and what is mounted in this mount namespace would go with it; mount it on the "
		   "host: mount -t bpf bpf " BPFFS);
	return ERR_UNSUPPORTED;
}

static int mount_bpffs(struct strbuf *error)
{
	int err = check_mount(error);
	if (err)
		return err;
	if (mount("bpf", BPFFS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") == 0)
		return 0;
	err = -errno;
	strbuf_printf(error,
		      "the BPF file system cannot be mounted at " BPFFS ": %s; it needs CAP_SYS_ADMIN and "
		      "CONFIG_BPF_SYSCALL",
		      err_text(err));
	return err;
}

static int lock_folder(const char *bpffs, bool create, struct ebpf_place *place, struct strbuf *error)
{
	ebpf_path(place->root, bpffs, "weir");
	if (!create && access(place->root, F_OK) < 0 && errno == ENOENT)
		return ERR_NOT_FOUND;
	place->_lock = open(bpffs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (place->_lock >= 0 && flock(place->_lock, LOCK_EX) == 0 &&
	    (!create || mkdir(place->root, 0700) == 0 || errno == EEXIST))
		return 0;
	int err = -errno;
	if (place->_lock >= 0)
		close(place->_lock);
	strbuf_printf(error, "%s: %s; it needs root", place->root, err_text(err));
	return err;
}

int ebpf_place_open(bool create, struct ebpf_place *ret_place, struct strbuf *ret_error)
{
	struct ebpf_place place = {._lock = -1};
	char bpffs[EBPF_PATH_MAX];
	bool mounted = ebpf_place_mounted(bpffs);
	if (!mounted && !create)
		return ERR_NOT_FOUND;
	int err = mounted ? 0 : mount_bpffs(ret_error);
	if (err == 0)
		err = ebpf_place_netns(&place.netns, ret_error);
	if (err == 0)
		err = lock_folder(bpffs, create, &place, ret_error);
	if (err == 0)
		*ret_place = place;
	return err;
}

void ebpf_place_close(struct ebpf_place *place)
{
	rmdir(place->root); // if nothing is in it
	close(place->_lock);
}

// --- control groups ------------------------------------------------------------------------------------------
// Versions whose maps differ do not share them.
static const size_t layout_size = sizeof(union weir_cell) + sizeof(struct weir_pending) +
				  sizeof(struct weir_socket) + sizeof(struct weir_servers) +
				  sizeof(struct weir_listener_key) + sizeof(struct weir_unheard) +
				  sizeof(struct weir_call_key) + sizeof(struct weir_call) + sizeof(struct weir_caller);

static int find_cgroups(char ret_path[EBPF_PATH_MAX], struct strbuf *error)
{
	if (cgroup_folder(ret_path, EBPF_PATH_MAX))
		return 0;
	strbuf_add_text(error, "no control groups of version 2 are mounted here (mount -t cgroup2 none "
			       "/sys/fs/cgroup), to which programs could be attached");
	return ERR_UNSUPPORTED;
}

int ebpf_place_probe(struct strbuf *ret_why)
{
	char ignored[EBPF_PATH_MAX];
	int err = find_cgroups(ignored, ret_why);
	return err || ebpf_place_mounted(ignored) ? err : check_mount(ret_why);
}

int ebpf_place_cgroup(const struct ebpf_place *place, const char *path, int *ret_fd,
		      char ret_folder[EBPF_PATH_MAX], struct strbuf *ret_error)
{
	char found[EBPF_PATH_MAX], name[40];
	struct statfs fs;
	struct stat st;
	int err = path ? 0 : find_cgroups(found, ret_error);
	if (err)
		return err;
	path = path ? path : found;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool valid = fd >= 0 && fstatfs(fd, &fs) == 0 && fstat(fd, &st) == 0;
	err = valid ? 0 : -errno;
	if (valid && (unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC)
		err = -ENOTDIR;
	if (err) {
		strbuf_printf(ret_error, "%s: %s", path,
			      err == -ENOTDIR ? "is no control group (version 2)" : err_text(err));
		if (fd >= 0)
			close(fd);
		return err;
	}
	snprintf(name, sizeof name, "v%d-%zu-cgroup-%llu", WEIR_LAYOUT_VERSION, layout_size,
		 (unsigned long long)st.st_ino);
	ebpf_path(ret_folder, place->root, name);
	*ret_fd = fd;
	return 0;
}

int ebpf_place_each(const struct ebpf_place *place,
		    int (*fn)(const struct ebpf_place *place, const char *folder, void *arg), void *arg)
{
	DIR *dir = opendir(place->root);
	const struct dirent *entry;
	int err = 0;
	while (dir && err == 0 && (entry = readdir(dir))) {
		char folder[EBPF_PATH_MAX];
		if (entry->d_name[0] == '.')
			continue;
		ebpf_path(folder, place->root, entry->d_name);
		err = fn(place, folder, arg);
	}
	if (dir)
		closedir(dir);
	return err;
}
