// SPDX-License-Identifier: Apache-2.0
// What /proc tells of a process, as far as interception asks: whose sockets they are, and which they are.
#pragma once

#include "base/limits.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process {
	pid_t pid;
	char name[32];
	char cgroup[LIMIT_CGROUP_PATH]; // of the unified hierarchy: "/system.slice/nginx.service"; empty:
					// unknown
	uint32_t user, group;		// that its new sockets have
	uint32_t *inodes;		// of its sockets; those of all kinds
	size_t inode_count, _inode_cap;
	bool sockets_visible; // false: its descriptors may not be seen
};

// 0; -ESRCH: there is no such process; or a negative error. On 0 the caller calls process_done.
int process_read(pid_t pid, struct process *ret_process);
void process_done(struct process *process);
bool process_has_socket(const struct process *process, uint32_t inode);
// The process that has the socket, as far as the caller may see; 0: none found.
pid_t process_of_socket(uint32_t inode);
// Whether it is in the calling thread's network namespace: 1, 0, or a negative error.
int process_shares_network(pid_t pid);
// Moves the calling thread into the network namespace of the process. 1: it was there already; 0; or a
// negative error.
int process_enter_network(pid_t pid);
