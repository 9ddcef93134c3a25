// SPDX-License-Identifier: Apache-2.0
#include "cli/process.h"

#include "base/error.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LEN = 64, LINE_LEN = LIMIT_CGROUP_PATH + 8 };

// --- its status -------------------------------------------------------------------------------------------
// Sockets get the user and the group of the file system: the fourth of each line.
static void take_status_line(struct process *process, const char *line)
{
	unsigned id;
	if (sscanf(line, "Name: %31[^\n]", process->name) == 1)
		return;
	if (sscanf(line, "Uid: %*u %*u %*u %u", &id) == 1)
		process->user = id;
	else if (sscanf(line, "Gid: %*u %*u %*u %u", &id) == 1)
		process->group = id;
}

static int read_status(struct process *process)
{
	char path[PATH_LEN], line[LINE_LEN];
	snprintf(path, sizeof path, "/proc/%d/status", process->pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? -ESRCH : -errno;
	while (fgets(line, sizeof line, file))
		take_status_line(process, line);
	fclose(file);
	return 0;
}

static void read_cgroup(struct process *process)
{
	char path[PATH_LEN], line[LINE_LEN];
	snprintf(path, sizeof path, "/proc/%d/cgroup", process->pid);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, "0::", 3) == 0)
			snprintf(process->cgroup, sizeof process->cgroup, "%.*s",
				 (int)strcspn(line + 3, "\n"), line + 3);
	if (file)
		fclose(file);
}

// --- its sockets ------------------------------------------------------------------------------------------
// The inode of the socket that a descriptor is; 0: it is none.
static uint32_t socket_inode(int folder, const char *name)
{
	char target[64];
	unsigned inode;
	ssize_t n = readlinkat(folder, name, target, sizeof target - 1);
	if (n <= 0)
		return 0;
	target[n] = 0;
	return sscanf(target, "socket:[%u]", &inode) == 1 ? inode : 0;
}

static DIR *open_descriptors(pid_t pid)
{
	char path[PATH_LEN];
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	return opendir(path);
}

static int read_sockets(struct process *process)
{
	struct dirent *entry;
	int err = 0;
	DIR *folder = open_descriptors(process->pid);
	process->sockets_visible = folder != NULL;
	while (folder && !err && (entry = readdir(folder))) {
		uint32_t inode = socket_inode(dirfd(folder), entry->d_name);
		if (inode)
			err = mem_grow((void **)&process->inodes, &process->_inode_cap,
				       process->inode_count + 1, sizeof *process->inodes);
		if (inode && !err)
			process->inodes[process->inode_count++] = inode;
	}
	if (folder)
		closedir(folder);
	return err;
}

int process_read(pid_t pid, struct process *ret_process)
{
	struct process process = {.pid = pid};
	int err = read_status(&process);
	if (err)
		return err;
	read_cgroup(&process);
	err = read_sockets(&process);
	if (err)
		process_done(&process);
	else
		*ret_process = process;
	return err;
}

void process_done(struct process *process)
{
	mem_free(process->inodes);
	*process = (struct process){0};
}

bool process_has_socket(const struct process *process, uint32_t inode)
{
	for (size_t i = 0; i < process->inode_count; i++)
		if (process->inodes[i] == inode)
			return true;
	return false;
}

// --- the other way round ----------------------------------------------------------------------------------
static bool has_socket(pid_t pid, uint32_t inode)
{
	struct dirent *entry;
	bool found = false;
	DIR *folder = open_descriptors(pid);
	while (folder && !found && (entry = readdir(folder)))
		found = socket_inode(dirfd(folder), entry->d_name) == inode;
	if (folder)
		closedir(folder);
	return found;
}

pid_t process_of_socket(uint32_t inode)
{
	struct dirent *entry;
	pid_t found = 0;
	DIR *folder = inode ? opendir("/proc") : NULL;
	while (folder && !found && (entry = readdir(folder))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid > 0 && has_socket(pid, inode))
			found = pid;
	}
	if (folder)
		closedir(folder);
	return found;
}

// --- its network ------------------------------------------------------------------------------------------
static int open_network(pid_t pid)
{
	char path[PATH_LEN];
	snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int is_own_network(int fd)
{
	struct stat own, other;
	if (fstat(fd, &other) < 0 || stat("/proc/self/ns/net", &own) < 0)
		return -errno;
	return own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

int process_shares_network(pid_t pid)
{
	autoclose int fd = open_network(pid);
	return fd < 0 ? fd : is_own_network(fd);
}

int process_enter_network(pid_t pid)
{
	autoclose int fd = open_network(pid);
	int own = fd < 0 ? fd : is_own_network(fd);
	if (own)
		return own;
	return setns(fd, CLONE_NEWNET) < 0 ? -errno : 0;
}
