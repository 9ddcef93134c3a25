// SPDX-License-Identifier: Apache-2.0
// Giving up privileges: the proxy starts as root, opens what needs root, then becomes an unprivileged user
// who keeps one or two capabilities. Capabilities belong to threads: call this before any thread starts.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// What is there after privileges_drop; whoever logs says what will not work.
struct privileges {
	bool dropped; // was root, and is the user now
	bool mark; // sockets can be marked (SO_MARK): capture can spare the proxy's own connections by mark
	bool low_ports; // ports below 1024 can be bound
	uid_t uid;
	gid_t gid;
};

// Finds a user. 0, or ERR_NOT_FOUND with a sentence appended to ret_error.
int privileges_user(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct strbuf *ret_error);

// As root: becomes `user` with that user's groups, keeps CAP_NET_RAW (for SO_MARK; CAP_NET_ADMIN before
// Linux 5.17) and, if `low_ports`, CAP_NET_BIND_SERVICE, as far as they are there; all others are gone for
// good, and that is verified. `user` NULL or empty: stays root, with those capabilities only. As anybody
// else: stays that user, and keeps of the capabilities that it was started with only those. In all cases no
// program executed later can gain privileges. 0, or a negative error with a sentence in ret_error; then the
// process must end.
int privileges_drop(const char *user, bool low_ports, struct privileges *ret_privileges,
		    struct strbuf *ret_error);

// Raises the number of open files to the hard limit; the limit that holds now.
uint64_t privileges_raise_files(void);
