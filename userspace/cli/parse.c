// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"
#include "cli/options.h"

#include "admin/commands.h"
#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>

// --- objects and commands ---------------------------------------------------------------------------------
const struct cli_object *cli_object_find(struct str name)
{
	for (const struct cli_object *object = cli_objects; object->name; object++)
		if (str_eq(str_from(object->name), name))
			return object;
	return NULL;
}

static bool has_own(const struct cli_object *object, const char *verb)
{
	for (const struct cli_command *own = object->commands; own && own->spec.verb; own++)
		if (strcmp(own->spec.verb, verb) == 0)
			return true;
	return false;
}

const struct command *cli_object_command(const struct cli_object *object, size_t i,
					 int (**ret_run)(struct cli *))
{
	for (const struct cli_command *own = object->commands; own && own->spec.verb; own++)
		if (i-- == 0) {
			*ret_run = own->run;
			return &own->spec;
		}
	for (size_t at = 0; at < ADMIN_COMMAND_COUNT; at++) {
		const struct command *command = &admin_commands[at];
		if (strcmp(command->object, object->name) || has_own(object, command->verb))
			continue;
		if (i-- == 0) {
			*ret_run = cli_remote;
			return command;
		}
	}
	return NULL;
}

// --- global options ---------------------------------------------------------------------------------------
const struct cli_global_option cli_global_options[] = {
    {'j', "json", NULL, "Write JSON"},
    {'p', "pretty", NULL, "Write JSON, indented"},
    {0, "socket", "PATH", "The proxy's admin socket (default: $WEIR_ADMIN, or " CLI_SOCKET_DEFAULT ")"},
    {'h', "help", NULL, "Show help"},
    {'V', "version", NULL, "Show the version"},
    {0, NULL, NULL, NULL},
};

static const struct cli_global_option *global_find(struct str name)
{
	for (const struct cli_global_option *option = cli_global_options; option->name; option++)
		if (str_eq(str_from(option->name), name) ||
		    (name.len == 1 && option->letter && name.p[0] == option->letter))
			return option;
	return NULL;
}

static void global_apply(struct cli *cli, const struct cli_global_option *option, const char *value)
{
	switch (option->name[0]) {
	case 'j':
		cli->format = EMIT_JSON;
		break;
	case 'p':
		cli->format = EMIT_JSON_PRETTY;
		break;
	case 's':
		cli->socket = value;
		break;
	case 'h':
		cli->help = true;
		break;
	default:
		cli->version = true;
	}
}

// --- words ------------------------------------------------------------------------------------------------
struct words {
	struct cli *cli;
	int argc, at;
	char **argv;
	struct strbuf *error;
	size_t arguments; // positional ones met
};

static int value_add(struct words *words, const struct command_param *param, struct str value)
{
	struct cli *cli = words->cli;
	if (!param->many && command_value_find(cli->values, cli->value_count, param->name, NULL).p) {
		strbuf_printf(words->error, "'%s' is given twice", param->name);
		return CLI_USAGE;
	}
	if (!command_param_accepts(param, value)) {
		strbuf_printf(words->error, "'%.*s' is no %s: one of %s", STR_ARG(value), param->name,
			      param->value);
		return CLI_USAGE;
	}
	if (cli->value_count == CLI_VALUES_MAX) {
		strbuf_add_text(words->error, "too many words");
		return CLI_USAGE;
	}
	cli->values[cli->value_count++] = (struct command_value){param, value};
	return 0;
}

static int unknown_option(struct words *words, struct str word, struct str name)
{
	const struct command *command = words->cli->command;
	struct suggestion suggestion = suggest_for(name);
	for (size_t i = 0; command && i < command->param_count; i++)
		if (command->params[i].kind >= PARAM_OPTION)
			suggest_consider(&suggestion, command->params[i].name);
	for (const struct cli_global_option *option = cli_global_options; option->name; option++)
		suggest_consider(&suggestion, option->name);
	strbuf_printf(words->error, "unknown option '%.*s'", (int)(name.p - word.p + (ptrdiff_t)name.len),
		      word.p);
	if (suggestion.best)
		strbuf_printf(words->error, ", did you mean '--%s'?", suggestion.best);
	return CLI_USAGE;
}

// The value of an option: behind '=', or the next word.
static int option_value(struct words *words, struct str name, struct str rest, bool wants,
			struct str *ret_value)
{
	*ret_value = rest.p ? rest : STR("");
	if (wants && !rest.p && words->at < words->argc)
		*ret_value = str_from(words->argv[words->at++]);
	else if (wants != (rest.p != NULL)) {
		strbuf_printf(words->error, "option '--%.*s' %s", STR_ARG(name),
			      wants ? "wants a value" : "takes no value");
		return CLI_USAGE;
	}
	return 0;
}

static int parse_option(struct words *words, struct str word)
{
	bool is_long = str_starts(word, STR("--"));
	struct str rest = {word.p + (is_long ? 2 : 1), word.len - (is_long ? 2 : 1)};
	struct str name = is_long ? str_split(&rest, '=') : rest, value;
	const struct command *command = words->cli->command;
	if (!is_long)
		rest = (struct str){NULL, 0};
	const struct command_param *param =
	    command && is_long == (name.len > 1) ? command_param_find(command, name) : NULL;
	if (param && param->kind >= PARAM_OPTION) {
		int err = option_value(words, name, rest, param->kind == PARAM_OPTION, &value);
		return err ? err : value_add(words, param, value);
	}
	const struct cli_global_option *option = is_long == (name.len > 1) ? global_find(name) : NULL;
	if (!option)
		return unknown_option(words, word, name);
	int err = option_value(words, name, rest, option->value != NULL, &value);
	if (err == 0)
		global_apply(words->cli, option, value.p);
	return err;
}

static const struct command_param *argument_param(const struct command *command, size_t number)
{
	const struct command_param *last = NULL;
	for (size_t i = 0; i < command->param_count; i++) {
		if (command->params[i].kind != PARAM_ARGUMENT)
			continue;
		last = &command->params[i];
		if (number-- == 0)
			return last;
	}
	return last && last->many ? last : NULL;
}

static bool takes_filters(const struct command *command)
{
	for (size_t i = 0; i < command->param_count; i++)
		if (command->params[i].kind == PARAM_FILTER)
			return true;
	return false;
}

static int unknown_filter(struct words *words, struct str name)
{
	const struct command *command = words->cli->command;
	struct suggestion suggestion = suggest_for(name);
	for (size_t i = 0; i < command->param_count; i++)
		if (command->params[i].kind == PARAM_FILTER)
			suggest_consider(&suggestion, command->params[i].name);
	strbuf_printf(words->error, "unknown filter '%.*s'", STR_ARG(name));
	suggest_write(&suggestion, words->error);
	return CLI_USAGE;
}

static int parse_word(struct words *words, struct str word)
{
	const struct command *command = words->cli->command;
	struct str value = word, name = str_split(&value, '=');
	const struct command_param *filter = value.p ? command_param_find(command, name) : NULL;
	if (filter && filter->kind == PARAM_FILTER)
		return value_add(words, filter, value);
	const struct command_param *argument = argument_param(command, words->arguments);
	if (argument) {
		words->arguments++;
		return value_add(words, argument, word);
	}
	if (takes_filters(command))
		return value.p
			   ? unknown_filter(words, name)
			   : (strbuf_printf(words->error, "'%.*s' is no filter: NAME=VALUE", STR_ARG(word)),
			      CLI_USAGE);
	strbuf_printf(words->error, "'%.*s' is one word too many", STR_ARG(word));
	return CLI_USAGE;
}

static bool is_option(const char *word)
{
	return word[0] == '-' && word[1];
}

int cli_parse_globals(struct cli *cli, int argc, char **argv, struct strbuf *ret_error)
{
	struct words words = {cli, argc, 0, argv, ret_error, 0};
	while (words.at < argc && is_option(argv[words.at]))
		if (parse_option(&words, str_from(argv[words.at++])))
			return -1;
	return words.at;
}

int cli_parse(struct cli *cli, int argc, char **argv, struct strbuf *ret_error)
{
	struct words words = {cli, argc, 0, argv, ret_error, 0};
	bool options = true;
	while (words.at < argc) {
		const char *word = argv[words.at++];
		int err = 0;
		if (options && strcmp(word, "--") == 0)
			options = false;
		else if (options && is_option(word))
			err = parse_option(&words, str_from(word));
		else
			err = parse_word(&words, str_from(word));
		if (err)
			return err;
	}
	const struct command_param *missing = command_missing(cli->command, cli->values, cli->value_count);
	if (missing && !cli->help) {
		strbuf_add_text(ret_error, "missing: ");
		command_param_usage(ret_error, missing);
		return CLI_USAGE;
	}
	return 0;
}

// --- for handlers -----------------------------------------------------------------------------------------
const char *cli_next(const struct cli *cli, const char *name, size_t *at)
{
	// The words come from argv, and an option's value reaches to the end of its word: all are terminated.
	return command_value_find(cli->values, cli->value_count, name, at).p;
}

const char *cli_get(const struct cli *cli, const char *name)
{
	return cli_next(cli, name, NULL);
}

bool cli_has(const struct cli *cli, const char *name)
{
	return cli_get(cli, name) != NULL;
}
