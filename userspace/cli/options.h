// SPDX-License-Identifier: Apache-2.0
// What the parts of the command line share among themselves.
#pragma once

#include "cli/cli.h"

#include <sys/types.h>

#define CLI_SOCKET_DEFAULT "/run/weir/admin.sock"

struct cli_global_option {
	char letter; // 0: none
	const char *name;
	const char *value; // NULL: a flag
	const char *help;
};
extern const struct cli_global_option cli_global_options[]; // ended by a NULL name

// Parses the options in front of the next word. Returns how many words they took, or -1 with a message in
// ret_error.
int cli_parse_globals(struct cli *cli, int argc, char **argv, struct strbuf *ret_error);
// The handler of all commands that the proxy answers: asks it and prints what it says.
int cli_remote(struct cli *cli);
// Asks the proxy. Appends what it answers, or for CLI_FAILED and CLI_USAGE a sentence that says why.
int cli_ask(const struct cli *cli, const char *object, const char *verb, enum emit_format format,
	    const struct command_value *values, size_t count, struct strbuf *ret_text);
// The process that listens at the admin socket; 0 if there is none, or it cannot be told.
pid_t cli_proxy_pid(const struct cli *cli);
