// SPDX-License-Identifier: Apache-2.0
// From the words of the command line to the handler, and to the exit status.
#include "cli/cli.h"
#include "cli/options.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

static void complain(const struct cli *cli, const char *format, va_list args)
{
	fprintf(stderr, "%s: ", cli->program);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

int cli_fail(const struct cli *cli, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	complain(cli, format, args);
	va_end(args);
	return CLI_FAILED;
}

int cli_usage(const struct cli *cli, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	complain(cli, format, args);
	va_end(args);
	if (cli->command)
		fprintf(stderr, "Try: weir %s %s%s--help\n", cli->command->object, cli->command->verb,
			cli->command->verb[0] ? " " : "");
	else
		fprintf(stderr, "Try: weir help\n");
	return CLI_USAGE;
}

static int print(const struct cli *cli, const struct strbuf *text)
{
	struct str out = strbuf_str(text);
	if (text->failed)
		return cli_fail(cli, "out of memory");
	if (fwrite(out.p, 1, out.len, stdout) != out.len || fflush(stdout))
		return cli_fail(cli, "cannot write the result");
	return CLI_DONE;
}

// --- help -------------------------------------------------------------------------------------------------
static int unknown_object(const struct cli *cli, const char *word)
{
	autostrbuf struct strbuf text = {0};
	struct suggestion suggestion = suggest_for(str_from(word));
	for (const struct cli_object *object = cli_objects; object->name; object++)
		suggest_consider(&suggestion, object->name);
	suggest_consider(&suggestion, "help");
	strbuf_printf(&text, "unknown object '%s'", word);
	suggest_write(&suggestion, &text);
	return cli_usage(cli, "%s", text.p ? text.p : word);
}

static int unknown_verb(const struct cli *cli, const struct cli_object *object, const char *word)
{
	int (*run)(struct cli *);
	const struct command *command;
	autostrbuf struct strbuf text = {0};
	struct suggestion suggestion = suggest_for(str_from(word));
	for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++)
		suggest_consider(&suggestion, command->verb);
	suggest_consider(&suggestion, "help");
	strbuf_printf(&text, "unknown verb '%s' of '%s'", word, object->name);
	suggest_write(&suggestion, &text);
	return cli_usage(cli, "%s", text.p ? text.p : word);
}

static const struct command *find_command(const struct cli_object *object, const char *verb,
					  int (**ret_run)(struct cli *))
{
	const struct command *command;
	for (size_t i = 0; (command = cli_object_command(object, i, ret_run)); i++)
		if (strcmp(command->verb, verb) == 0)
			return command;
	return NULL;
}

static bool has_verbs(const struct cli_object *object)
{
	return !object->default_verb || object->default_verb[0];
}

static int help_words(const struct cli *cli, int argc, char **argv, struct strbuf *out)
{
	if (argc == 0) {
		cli_help_overview(out);
		return CLI_DONE;
	}
	const struct cli_object *object = cli_object_find(str_from(argv[0]));
	if (!object)
		return unknown_object(cli, argv[0]);
	if (argc == 1 && has_verbs(object)) {
		cli_help_object(out, object);
		return CLI_DONE;
	}
	int (*run)(struct cli *);
	const struct command *command = find_command(object, argc > 1 ? argv[1] : "", &run);
	if (!command)
		return unknown_verb(cli, object, argv[1]);
	cli_help_command(out, command);
	return CLI_DONE;
}

// weir help [OBJECT [VERB]] | --man | --completion bash
static int run_help(const struct cli *cli, int argc, char **argv)
{
	autostrbuf struct strbuf out = {0};
	int status = CLI_DONE;
	if (argc == 1 && strcmp(argv[0], "--man") == 0)
		cli_help_manual(&out);
	else if (argc == 2 && strcmp(argv[0], "--completion") == 0 && strcmp(argv[1], "bash") == 0)
		cli_help_completion_bash(&out);
	else if (argc > 2 || (argc && argv[0][0] == '-'))
		status = cli_usage(cli, "help takes [OBJECT [VERB]], --man or --completion bash");
	else
		status = help_words(cli, argc, argv, &out);
	return status ? status : print(cli, &out);
}

// A word is missing: the help that says which there are, as an error.
static int show_usage(const struct cli_object *object)
{
	autostrbuf struct strbuf out = {0};
	if (object)
		cli_help_object(&out, object);
	else
		cli_help_overview(&out);
	fputs(out.p ? out.p : "", stderr);
	return CLI_USAGE;
}

// --- running ----------------------------------------------------------------------------------------------
static int run_command(struct cli *cli, int (*run)(struct cli *))
{
	autostrbuf struct strbuf out = {0};
	struct emit emit;
	emit_init(&emit, &out, cli->format);
	cli->emit = &emit;
	int status = run(cli);
	emit_done(&emit);
	int printed = print(cli, &out);
	return status ? status : printed;
}

static int run_verb(struct cli *cli, const struct cli_object *object, const char *verb, int argc, char **argv)
{
	int (*run)(struct cli *);
	autostrbuf struct strbuf error = {0};
	if (strcmp(verb, "help") == 0)
		return run_help(cli, argc + 1, (char *[]){(char *)object->name, argc ? argv[0] : NULL});
	cli->command = find_command(object, verb, &run);
	if (!cli->command)
		return unknown_verb(cli, object, verb);
	if (cli_parse(cli, argc, argv, &error))
		return cli_usage(cli, "%s", error.p ? error.p : "out of memory");
	if (cli->help)
		return run_help(cli, has_verbs(object) ? 2 : 1,
				(char *[]){(char *)object->name, (char *)verb});
	return run_command(cli, run);
}

// Whether the word is the first argument of the default verb.
static bool verb_is_left_out(const struct cli_object *object, const char *word)
{
	int (*run)(struct cli *);
	const struct command *command =
	    object->default_verb ? find_command(object, object->default_verb, &run) : NULL;
	bool takes_words = command && command->param_count && command->params[0].kind == PARAM_ARGUMENT;
	return takes_words && strcmp(word, "help") != 0 && !find_command(object, word, &run);
}

static int run_object(struct cli *cli, int argc, char **argv)
{
	const struct cli_object *object = cli_object_find(str_from(argv[0]));
	autostrbuf struct strbuf error = {0};
	if (!object)
		return unknown_object(cli, argv[0]);
	if (!has_verbs(object) && !(argc > 1 && strcmp(argv[1], "help") == 0))
		return run_verb(cli, object, "", argc - 1, argv + 1);
	int at = cli_parse_globals(cli, argc - 1, argv + 1, &error);
	if (at < 0)
		return cli_usage(cli, "%s", error.p ? error.p : "out of memory");
	argc -= at + 1;
	argv += at + 1;
	if (argc && !verb_is_left_out(object, argv[0]))
		return run_verb(cli, object, argv[0], argc - 1, argv + 1);
	if (argc)
		return run_verb(cli, object, object->default_verb, argc, argv);
	if (cli->help)
		return run_help(cli, 1, (char *[]){(char *)object->name});
	if (object->default_verb)
		return run_verb(cli, object, object->default_verb, 0, NULL);
	return show_usage(object);
}

int cli_main(int argc, char **argv)
{
	const char *socket = getenv("WEIR_ADMIN");
	struct cli cli = {.program = "weir", .socket = socket && *socket ? socket : CLI_SOCKET_DEFAULT};
	autostrbuf struct strbuf error = {0};
	int at = cli_parse_globals(&cli, argc - 1, argv + 1, &error);
	if (at < 0)
		return cli_usage(&cli, "%s", error.p ? error.p : "out of memory");
	argc -= at + 1;
	argv += at + 1;
	if (cli.version)
		return run_object(&cli, 1, (char *[]){"version"});
	if (argc == 0)
		return cli.help ? run_help(&cli, 0, NULL) : show_usage(NULL);
	if (strcmp(argv[0], "help") == 0)
		return run_help(&cli, argc - 1, argv + 1);
	return run_object(&cli, argc, argv);
}
