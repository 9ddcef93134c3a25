// SPDX-License-Identifier: Apache-2.0
// Declared commands: object, verb, parameters with their help. The command line, its help, its completion,
// its manual page and the admin server's checks all read such tables. Data and pure functions only.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>

enum param_kind {
	PARAM_ARGUMENT, // VALUE, by position
	PARAM_FILTER,	// name=VALUE
	PARAM_OPTION,	// --name VALUE or --name=VALUE
	PARAM_FLAG,	// --name
};

struct command_param {
	enum param_kind kind;
	const char *name; // lower case, words joined by '-' (options, flags) or '_' (filters); an option of
			  // one letter is written with one dash
	const char *
	    value; // what to give: "ADDRESS", or the words to choose from: "inbound|outbound"; NULL for flags
	const char *help; // one line, no full stop
	bool required;	  // arguments and options
	bool many;	  // may be given several times; the last argument only
};

struct command {
	const char *object, *verb;
	const char *summary; // one line, no full stop
	const char *detail;  // sentences for help and manual; may be NULL
	const struct command_param *params;
	size_t param_count;
};

// A parameter as given. The value of a flag is empty.
struct command_value {
	const struct command_param *param;
	struct str value;
};

// The parameter of that name, or NULL.
const struct command_param *command_param_find(const struct command *command, struct str name);
// Whether the value is one of the words to choose from; true if anything may be given.
bool command_param_accepts(const struct command_param *param, struct str value);
// The first value given for the name, from *at on (which moves behind it; NULL: from the first). p is NULL if
// none is.
struct str command_value_find(const struct command_value *values, size_t count, const char *name, size_t *at);
// The first required parameter that is not among the values, or NULL.
const struct command_param *command_missing(const struct command *command, const struct command_value *values,
					    size_t count);
// "--", or "-" for a name of one letter.
const char *command_option_dashes(const struct command_param *param);
// "[direction=inbound|outbound]", "--header NAME:VALUE...", as usage lines have it.
void command_param_usage(struct strbuf *out, const struct command_param *param);

// --- did you mean -----------------------------------------------------------------------------------------
struct suggestion {
	struct str word;
	const char *best; // NULL: nothing comes close
	unsigned distance;
};

struct suggestion suggest_for(struct str word);
void suggest_consider(struct suggestion *suggestion, const char *candidate);
// Appends ", did you mean 'best'?" if there is one.
void suggest_write(const struct suggestion *suggestion, struct strbuf *out);
