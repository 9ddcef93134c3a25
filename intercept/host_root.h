// SPDX-License-Identifier: Apache-2.0
// Where the host's files are seen from here. `ip netns exec` runs programs in a mount namespace of their own,
// whose /sys is another one: then they are seen by way of who called it, or of the first process. Pure.
#pragma once

#include <stdio.h>
#include <unistd.h>

enum host_root { ROOT_OWN, ROOT_PARENT, ROOT_INIT, HOST_ROOTS };

// What stands before a path in that root; "" for our own.
static inline void host_root_path(enum host_root root, char ret_path[40])
{
	ret_path[0] = '\0';
	if (root != ROOT_OWN)
		snprintf(ret_path, 40, "/proc/%d/root", root == ROOT_PARENT ? (int)getppid() : 1);
}
