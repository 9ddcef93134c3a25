// SPDX-License-Identifier: Apache-2.0
// The admin's listening socket and its name in the file system, as admin/server.c sees it.
#pragma once

#include "admin/server.h"

#include <sys/un.h>

struct admin_socket {
	int fd;	      // -1 once the server owns it
	gid_t gid;    // whose members may talk
	dev_t device; // of the name
	ino_t inode;
	struct sockaddr_un address;
};
