// SPDX-License-Identifier: Apache-2.0
#include "admin/commands.h"
#include "base/mem.h"
#include "cli/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { WORDS_MAX = 16 };

// Parses words (ended by NULL) for a command of the admin table. Returns the message in *ret_error (freed by
// caller).
static int parse(struct cli *cli, enum admin_command number, const char *const *words,
		 struct strbuf *ret_error)
{
	char *argv[WORDS_MAX];
	int argc = 0;
	for (; words[argc]; argc++)
		argv[argc] = (char *)words[argc];
	*cli = (struct cli){.program = "weir", .command = &admin_commands[number]};
	return cli_parse(cli, argc, argv, ret_error);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void accepted(void **state)
{
	autostrbuf struct strbuf error = {0};
	struct cli cli;
	(void)state;
	assert_int_equal(
	    parse(&cli, ADMIN_CONN_SHOW, WORDS("direction=inbound", "-j", "cluster=a=b"), &error), 0);
	assert_string_equal(cli_get(&cli, "direction"), "inbound");
	assert_string_equal(cli_get(&cli, "cluster"), "a=b");
	assert_null(cli_get(&cli, "peer"));
	assert_int_equal(cli.format, EMIT_JSON);

	size_t at = 0;
	assert_int_equal(
	    parse(&cli, ADMIN_ROUTE_EXPLAIN,
		  WORDS("--header", "a:1", "x.mesh", "--header=b:2", "--path", "-j", "-p", "--socket=/s"),
		  &error),
	    0);
	assert_string_equal(cli_next(&cli, "header", &at), "a:1");
	assert_string_equal(cli_next(&cli, "header", &at), "b:2");
	assert_null(cli_next(&cli, "header", &at));
	assert_string_equal(cli_get(&cli, "path"), "-j");
	assert_string_equal(cli_get(&cli, "destination"), "x.mesh");
	assert_string_equal(cli.socket, "/s");
	assert_int_equal(cli.format, EMIT_JSON_PRETTY);

	assert_int_equal(parse(&cli, ADMIN_CONN_KILL, WORDS("--", "-7"), &error), 0);
	assert_string_equal(cli_get(&cli, "id"), "-7");
	assert_int_equal(error.len, 0);
}

static void refuse(enum admin_command number, const char *const *words, const char *expected)
{
	autostrbuf struct strbuf error = {0};
	struct cli cli;
	assert_int_equal(parse(&cli, number, words, &error), CLI_USAGE);
	assert_string_equal(error.p, expected);
}

static void refused(void **state)
{
	(void)state;
	refuse(ADMIN_CONN_SHOW, WORDS("directoin=inbound"),
	       "unknown filter 'directoin', did you mean 'direction'?");
	refuse(ADMIN_CONN_SHOW, WORDS("zebra=1"), "unknown filter 'zebra'");
	refuse(ADMIN_CONN_SHOW, WORDS("word"), "'word' is no filter: NAME=VALUE");
	refuse(ADMIN_CONN_SHOW, WORDS("direction=up"), "'up' is no direction: one of inbound|outbound");
	refuse(ADMIN_CONN_SHOW, WORDS("peer=a", "peer=b"), "'peer' is given twice");
	refuse(ADMIN_CONN_KILL, WORDS("1", "2"), "'2' is one word too many");
	refuse(ADMIN_CONN_KILL, WORDS("-j"), "missing: ID");
	refuse(ADMIN_CERT_SHOW, WORDS("x"), "'x' is one word too many");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--pth", "/"),
	       "unknown option '--pth', did you mean '--path'?");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--prety"),
	       "unknown option '--prety', did you mean '--pretty'?");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--path"), "option '--path' wants a value");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--json=1"), "option '--json' takes no value");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "-x"), "unknown option '-x'");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--j"), "unknown option '--j'");
	refuse(ADMIN_ROUTE_EXPLAIN, WORDS("d", "--jso"), "unknown option '--jso', did you mean '--json'?");
}

static void help_spares_what_is_missing(void **state)
{
	autostrbuf struct strbuf error = {0};
	struct cli cli;
	(void)state;
	assert_int_equal(parse(&cli, ADMIN_CONN_KILL, WORDS("--help"), &error), 0);
	assert_true(cli.help);
}

// Every command of the admin table belongs to an object, no object has a verb twice, and all is described.
static void tables_are_whole(void **state)
{
	size_t remote = 0;
	(void)state;
	for (const struct cli_object *object = cli_objects; object->name; object++) {
		int (*run)(struct cli *), (*other)(struct cli *);
		const struct command *command, *before;
		for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++) {
			assert_string_equal(command->object, object->name);
			assert_non_null(command->summary);
			assert_non_null(run);
			for (size_t j = 0; j < i; j++) {
				before = cli_object_command(object, j, &other);
				assert_string_not_equal(before->verb, command->verb);
			}
		}
		assert_non_null(cli_object_command(object, 0, &run));
		assert_ptr_equal(cli_object_find(str_from(object->name)), object);
	}
	for (size_t i = 0; i < ADMIN_COMMAND_COUNT; i++)
		remote += cli_object_find(str_from(admin_commands[i].object)) != NULL;
	assert_int_equal(remote, ADMIN_COMMAND_COUNT);
}

static void expect_contains(const struct strbuf *text, const char *what)
{
	assert_false(text->failed);
	if (!strstr(text->p, what))
		fail_msg("'%s' is not in:\n%s", what, text->p);
}

static void help_names_every_command(void **state)
{
	autostrbuf struct strbuf overview = {0}, manual = {0}, completion = {0};
	(void)state;
	cli_help_overview(&overview);
	cli_help_manual(&manual);
	cli_help_completion_bash(&completion);
	for (const struct cli_object *object = cli_objects; object->name; object++) {
		int (*run)(struct cli *);
		const struct command *command;
		autostrbuf struct strbuf help = {0};
		cli_help_object(&help, object);
		expect_contains(&overview, object->name);
		for (size_t i = 0; (command = cli_object_command(object, i, &run)); i++) {
			autostrbuf struct strbuf spelled = {0}, pattern = {0}, own = {0};
			strbuf_printf(&spelled, "weir %s %s", object->name, command->verb);
			strbuf_printf(&pattern, "%s:%s)", object->name, command->verb);
			cli_help_command(&own, command);
			expect_contains(&help, spelled.p);
			expect_contains(&own, spelled.p);
			expect_contains(&manual, spelled.p);
			expect_contains(&completion, pattern.p);
			for (size_t p = 0; p < command->param_count; p++)
				expect_contains(&own, command->params[p].value ? command->params[p].value
									       : command->params[p].name);
		}
	}
}

static void exit_statuses(void **state)
{
	(void)state;
	assert_int_equal(cli_main(3, (char *[]){"weir", "help", "conn", NULL}), CLI_DONE);
	assert_int_equal(cli_main(3, (char *[]){"weir", "conn", "help", NULL}), CLI_DONE);
	assert_int_equal(cli_main(2, (char *[]){"weir", "--help", NULL}), CLI_DONE);
	assert_int_equal(cli_main(4, (char *[]){"weir", "conn", "show", "--help", NULL}), CLI_DONE);
	assert_int_equal(cli_main(1, (char *[]){"weir", NULL}), CLI_USAGE);
	assert_int_equal(cli_main(2, (char *[]){"weir", "conn", NULL}), CLI_USAGE);
	assert_int_equal(cli_main(3, (char *[]){"weir", "con", "show", NULL}), CLI_USAGE);
	assert_int_equal(cli_main(3, (char *[]){"weir", "conn", "sho", NULL}), CLI_USAGE);
	assert_int_equal(cli_main(2, (char *[]){"weir", "--bogus", NULL}), CLI_USAGE);
	assert_int_equal(cli_main(5, (char *[]){"weir", "--socket", "/nonexistent", "conn", "show", NULL}),
			 CLI_FAILED);
	assert_int_equal(cli_main(4, (char *[]){"weir", "--socket", "/nonexistent", "version", NULL}),
			 CLI_DONE);
	assert_int_equal(cli_main(4, (char *[]){"weir", "help", "conn", "sow", NULL}), CLI_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(accepted),
	    cmocka_unit_test(refused),
	    cmocka_unit_test(help_spares_what_is_missing),
	    cmocka_unit_test(tables_are_whole),
	    cmocka_unit_test(help_names_every_command),
	    cmocka_unit_test(exit_statuses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
