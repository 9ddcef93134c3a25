// SPDX-License-Identifier: Apache-2.0
// The command line `weir OBJECT VERB ...`. Objects and commands are tables (commands.c); parsing, help,
// completion and the manual page come from them. Words are never abbreviated by prefix.
//
// To add commands: a file with `const struct cli_command NAME_commands[]` ended by an entry without a verb,
// and a line in cli_objects. A handler describes its result to cli->emit (plain or JSON as the user asked;
// printed when the handler returns, whatever it returns) and answers CLI_DONE, or what cli_fail or cli_usage
// return.
#pragma once

#include "base/command.h"
#include "base/emit.h"

enum cli_status { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli;

struct cli_command {
	struct command spec;
	int (*run)(struct cli *cli);
};

struct cli_object {
	const char *name;
	const char *summary;
	const struct cli_command
	    *commands; // ended by one whose verb is NULL; NULL: the admin server's (admin/commands.h)
	const char *default_verb; // may be left out, even before its arguments; NULL: a verb must be given;
				  // "": the object is its only command, and has no verbs
};
extern const struct cli_object cli_objects[]; // ended by a NULL name

enum { CLI_VALUES_MAX = 64 };

// One invocation.
struct cli {
	const char *program;
	const char *socket; // of the proxy
	enum emit_format format;
	bool help, version; // asked for
	struct emit *emit;
	const struct command *command;
	struct command_value values[CLI_VALUES_MAX];
	size_t value_count;
};

// Runs `weir` with these arguments; returns the exit status. Writes to stdout and stderr.
int cli_main(int argc, char **argv);

// --- for handlers -----------------------------------------------------------------------------------------
// The value of a parameter, terminated; NULL if it was not given.
const char *cli_get(const struct cli *cli, const char *name);
// One value after the other of a parameter that may be given several times; *at starts at 0.
const char *cli_next(const struct cli *cli, const char *name, size_t *at);
bool cli_has(const struct cli *cli, const char *name);
// Prints "weir: ..." to stderr; returns CLI_FAILED.
int cli_fail(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The same with a hint at the command's help; returns CLI_USAGE.
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

// --- parts, for tests -------------------------------------------------------------------------------------
const struct cli_object *cli_object_find(struct str name);
// Command number i of an object: its own or the admin server's; NULL behind the last. *ret_run is the
// handler.
const struct command *cli_object_command(const struct cli_object *object, size_t i,
					 int (**ret_run)(struct cli *));
// Parses the words behind the verb into cli->values. 0, or CLI_USAGE with a message in ret_error.
int cli_parse(struct cli *cli, int argc, char **argv, struct strbuf *ret_error);
// Help texts, from the tables.
void cli_help_overview(struct strbuf *out);
void cli_help_object(struct strbuf *out, const struct cli_object *object);
void cli_help_command(struct strbuf *out, const struct command *command);
void cli_help_manual(struct strbuf *out);	   // reStructuredText
void cli_help_completion_bash(struct strbuf *out); // a script
