// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"
#include "cli/options.h"

#include "base/mem.h"

#include <stdio.h>

enum { WIDTH = 78 };

static const char intro[] = "weir makes connections between programs part of a mesh, without a change to the "
			    "programs. The command `weir` "
			    "installs the interception, asks the running proxy what it does, and changes it.";

// Breaks a text into lines of at most WIDTH columns, each indented.
static void add_wrapped(struct strbuf *out, size_t indent, const char *text)
{
	struct str rest = str_from(text);
	size_t column = 0;
	while (rest.p) {
		struct str word = str_split(&rest, ' ');
		if (column && column + 1 + word.len > WIDTH) {
			strbuf_add_char(out, '\n');
			column = 0;
		}
		strbuf_printf(out, "%*s", column ? 1 : (int)indent, "");
		column += (column ? 1 : indent) + word.len;
		strbuf_add_str(out, word);
	}
	strbuf_add_char(out, '\n');
}

// "    left    text", the text wrapped behind column `at`.
static void add_item(struct strbuf *out, const char *left, size_t at, const char *text)
{
	strbuf_printf(out, "    %s", left);
	if (strlen(left) + 6 > at)
		strbuf_add_char(out, '\n');
	else
		strbuf_printf(out, "%*s", (int)(at - 4 - strlen(left)), "");
	size_t start = out->len;
	add_wrapped(out, at, text);
	if (strlen(left) + 6 <= at && !out->failed) {
		// The first line's indentation is there already.
		memmove(out->p + start, out->p + start + at, out->len - start - at + 1);
		out->len -= at;
	}
}

static void global_spelling(struct strbuf *out, const struct cli_global_option *option)
{
	if (option->letter)
		strbuf_printf(out, "-%c, ", option->letter);
	strbuf_printf(out, "--%s", option->name);
	if (option->value)
		strbuf_printf(out, " %s", option->value);
}

static void add_globals(struct strbuf *out)
{
	strbuf_add_text(out, "\nOptions of every command:\n");
	for (const struct cli_global_option *option = cli_global_options; option->name; option++) {
		autostrbuf struct strbuf left = {0};
		global_spelling(&left, option);
		add_item(out, left.p ? left.p : "", 24, option->help);
	}
}

// "weir conn kill ID"
static void add_usage(struct strbuf *out, const struct command *command)
{
	strbuf_printf(out, "weir %s%s%s", command->object, command->verb[0] ? " " : "", command->verb);
	for (size_t i = 0; i < command->param_count; i++) {
		strbuf_add_char(out, ' ');
		command_param_usage(out, &command->params[i]);
	}
}

void cli_help_overview(struct strbuf *out)
{
	strbuf_add_text(out, "Usage: weir OBJECT VERB [...]\n       weir help [OBJECT [VERB]]\n\n");
	add_wrapped(out, 0, intro);
	strbuf_add_text(out, "\nObjects:\n");
	for (const struct cli_object *object = cli_objects; object->name; object++) {
		int (*run)(struct cli *);
		const struct command *command;
		autostrbuf struct strbuf text = {0};
		strbuf_add_text(&text, object->summary);
		for (size_t i = 0; (command = cli_object_command(object, i, &run)) && command->verb[0]; i++)
			strbuf_printf(&text, "%s%s", i ? ", " : " (", command->verb);
		strbuf_add_text(&text, command ? "" : ")");
		add_item(out, object->name, 18, text.p ? text.p : "");
	}
	add_globals(out);
}

void cli_help_object(struct strbuf *out, const struct cli_object *object)
{
	int (*run)(struct cli *);
	const struct command *command;
	strbuf_printf(out, "%s\n\nUsage:\n", object->summary);
	for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++) {
		strbuf_add_text(out, "    ");
		add_usage(out, command);
		strbuf_add_char(out, '\n');
		add_wrapped(out, 8, command->summary);
	}
	add_globals(out);
}

void cli_help_command(struct strbuf *out, const struct command *command)
{
	add_wrapped(out, 0, command->summary);
	strbuf_add_text(out, "\nUsage: ");
	add_usage(out, command);
	strbuf_add_char(out, '\n');
	if (command->detail) {
		strbuf_add_char(out, '\n');
		add_wrapped(out, 0, command->detail);
	}
	for (size_t i = 0; i < command->param_count; i++) {
		autostrbuf struct strbuf left = {0};
		struct command_param bare = command->params[i];
		bare.required = true; // without the brackets
		bare.many = false;
		command_param_usage(&left, &bare);
		if (i == 0)
			strbuf_add_char(out, '\n');
		add_item(out, left.p ? left.p : "", 28, bare.help);
	}
	add_globals(out);
}

// --- the manual page --------------------------------------------------------------------------------------
static void man_heading(struct strbuf *out, const char *text, char line)
{
	strbuf_printf(out, "\n%s\n", text);
	for (size_t i = 0; i < strlen(text); i++)
		strbuf_add_char(out, line);
	strbuf_add_text(out, "\n\n");
}

static void man_command(struct strbuf *out, const struct command *command)
{
	strbuf_add_text(out, "``");
	add_usage(out, command);
	strbuf_add_text(out, "``\n");
	autostrbuf struct strbuf text = {0};
	strbuf_printf(&text, "%s.%s%s", command->summary, command->detail ? " " : "",
		      command->detail ? command->detail : "");
	add_wrapped(out, 4, text.p ? text.p : "");
	strbuf_add_char(out, '\n');
	for (size_t i = 0; i < command->param_count; i++) {
		const struct command_param *param = &command->params[i];
		struct command_param bare = *param;
		bare.required = true;
		strbuf_add_text(out, "    ``");
		command_param_usage(out, &bare);
		strbuf_add_text(out, "``\n");
		add_wrapped(out, 8, param->help);
		strbuf_add_char(out, '\n');
	}
}

static void man_globals(struct strbuf *out)
{
	for (const struct cli_global_option *option = cli_global_options; option->name; option++) {
		strbuf_add_text(out, "``");
		global_spelling(out, option);
		strbuf_add_text(out, "``\n");
		add_wrapped(out, 4, option->help);
		strbuf_add_char(out, '\n');
	}
}

void cli_help_manual(struct strbuf *out)
{
	strbuf_add_text(out, "====\nweir\n====\n\n----------------------------------------\n"
			     "ask and change a weir proxy from a shell\n"
			     "----------------------------------------\n\n:Manual section: 8\n");
	man_heading(out, "SYNOPSIS", '=');
	strbuf_add_text(out, "``weir`` OBJECT VERB [...]\n\n``weir`` help [OBJECT [VERB]]\n");
	man_heading(out, "DESCRIPTION", '=');
	add_wrapped(out, 0, intro);
	man_heading(out, "OPTIONS", '=');
	man_globals(out);
	for (const struct cli_object *object = cli_objects; object->name; object++) {
		int (*run)(struct cli *);
		const struct command *command;
		autostrbuf struct strbuf title = {0};
		strbuf_printf(&title, "weir %s", object->name);
		man_heading(out, title.p ? title.p : "", '=');
		strbuf_printf(out, "%s.\n\n", object->summary);
		for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++)
			man_command(out, command);
	}
	man_heading(out, "EXIT STATUS", '=');
	strbuf_add_text(out, "0 done, 1 failed, 2 the command line was wrong.\n");
	man_heading(out, "ENVIRONMENT", '=');
	strbuf_add_text(out, "``WEIR_ADMIN``\n    The proxy's admin socket.\n");
}

// --- completion -------------------------------------------------------------------------------------------
static void completion_param(struct strbuf *out, const struct command_param *param)
{
	struct str choices = str_from(param->value);
	bool closed = choices.p && str_find(choices, '|') >= 0;
	if (param->kind >= PARAM_OPTION)
		strbuf_printf(out, " %s%s", command_option_dashes(param), param->name);
	else if (param->kind == PARAM_FILTER && !closed)
		strbuf_printf(out, " %s=", param->name);
	while (param->kind <= PARAM_FILTER && closed && choices.p) {
		struct str choice = str_split(&choices, '|');
		strbuf_printf(out, " %s%s%.*s", param->kind == PARAM_FILTER ? param->name : "",
			      param->kind == PARAM_FILTER ? "=" : "", STR_ARG(choice));
	}
}

static void completion_object(struct strbuf *out, const struct cli_object *object)
{
	int (*run)(struct cli *);
	const struct command *command;
	if (!object->default_verb || object->default_verb[0]) {
		strbuf_printf(out, "\t%s:) words='", object->name);
		for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++)
			strbuf_printf(out, "%s ", command->verb);
		strbuf_add_text(out, "help' ;;\n");
	}
	for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++) {
		strbuf_printf(out, "\t%s:%s) words='", object->name, command->verb);
		for (size_t p = 0; p < command->param_count; p++)
			completion_param(out, &command->params[p]);
		strbuf_add_text(out, "' ;;\n");
	}
}

void cli_help_completion_bash(struct strbuf *out)
{
	strbuf_add_text(out, "# bash completion for weir; made by `weir help --completion bash`\n"
			     "_weir()\n{\n"
			     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} before= object= verb= words= i\n"
			     "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
			     "\t\tcase ${COMP_WORDS[i]} in\n"
			     "\t\t--socket) ((i++)) ;;\n"
			     "\t\t-*) ;;\n"
			     "\t\t*) if [[ -z $object ]]; then object=${COMP_WORDS[i]}\n"
			     "\t\t   elif [[ -z $verb ]]; then verb=${COMP_WORDS[i]}; fi ;;\n"
			     "\t\tesac\n"
			     "\tdone\n"
			     "\t# bash cuts words at '=': join them again\n"
			     "\tif [[ $cur == = ]]; then\n"
			     "\t\tbefore=${COMP_WORDS[COMP_CWORD-1]}=; cur=\n"
			     "\telif [[ ${COMP_WORDS[COMP_CWORD-1]} == = ]]; then\n"
			     "\t\tbefore=${COMP_WORDS[COMP_CWORD-2]}=\n"
			     "\tfi\n"
			     "\tcase $object:$verb in\n\t:) words='");
	for (const struct cli_object *object = cli_objects; object->name; object++)
		strbuf_printf(out, "%s ", object->name);
	strbuf_add_text(out, "help' ;;\n");
	for (const struct cli_object *object = cli_objects; object->name; object++)
		completion_object(out, object);
	strbuf_add_text(out, "\tesac\n\t[[ $cur == -* ]] && words+='");
	for (const struct cli_global_option *option = cli_global_options; option->name; option++)
		strbuf_printf(out, " --%s", option->name);
	strbuf_add_text(out, "'\n\tCOMPREPLY=($(compgen -W \"$words\" -- \"$before$cur\"))\n"
			     "\tCOMPREPLY=(\"${COMPREPLY[@]#\"$before\"}\")\n"
			     "\t[[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
			     "}\ncomplete -F _weir weir\n");
}
