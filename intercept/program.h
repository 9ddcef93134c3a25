// SPDX-License-Identifier: Apache-2.0
// Running another program to its end: with a text for its standard input, and what it prints. For iptables,
// which has no library. Blocking; for the command line, not for the loop.
#pragma once

#include "base/str.h"

#include <limits.h>

struct program_result {
	struct strbuf output, errors; // at most LIMIT_PROGRAM_OUTPUT bytes each; what is beyond is lost
	int status;		      // of its exit; 128 + n: ended by signal n
};

// The path of a program, looked for in the absolute folders of PATH and then in those where administrators'
// programs are. 0 or ERR_NOT_FOUND.
int program_find(const char *name, char ret_path[PATH_MAX]);
// Runs it, with `arguments` (the first is its own name, the last NULL). One that does not end within 30
// seconds is killed. 0 whatever its exit status is, or a negative error: it could not be run, -ETIMEDOUT. In
// any case the caller calls program_result_done.
int program_run(const char *path, const char *const *arguments, struct str input,
		struct program_result *ret_result);
void program_result_done(struct program_result *result);
