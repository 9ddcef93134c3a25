// SPDX-License-Identifier: Apache-2.0
#include "base/command.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static const struct command_param params[] = {
    {PARAM_ARGUMENT, "file", "FILE", "a file", true, true},
    {PARAM_FILTER, "direction", "inbound|outbound", "a direction", false, false},
    {PARAM_OPTION, "header", "NAME:VALUE", "a header", false, true},
    {PARAM_FLAG, "force", NULL, "by force", false, false},
};
static const struct command command = {"thing", "do", "Do it", NULL, params, ARRAY_SIZE(params)};

static void finding(void **state)
{
	(void)state;
	assert_ptr_equal(command_param_find(&command, STR("header")), &params[2]);
	assert_null(command_param_find(&command, STR("head")));
}

static void choices(void **state)
{
	(void)state;
	assert_true(command_param_accepts(&params[1], STR("outbound")));
	assert_false(command_param_accepts(&params[1], STR("out")));
	assert_false(command_param_accepts(&params[1], STR("")));
	assert_false(command_param_accepts(&params[1], STR("inbound|outbound")));
	assert_true(command_param_accepts(&params[0], STR("anything")));
	assert_true(command_param_accepts(&params[3], STR("")));
}

static void values(void **state)
{
	const struct command_value given[] = {
	    {&params[2], STR("a:1")}, {&params[3], STR("")}, {&params[2], STR("b:2")}};
	size_t at = 0;
	(void)state;
	assert_true(str_eq(command_value_find(given, 3, "header", &at), STR("a:1")));
	assert_true(str_eq(command_value_find(given, 3, "header", &at), STR("b:2")));
	assert_null(command_value_find(given, 3, "header", &at).p);
	assert_non_null(command_value_find(given, 3, "force", NULL).p);
	assert_null(command_value_find(given, 3, "file", NULL).p);
	assert_ptr_equal(command_missing(&command, given, 3), &params[0]);
	assert_null(command_missing(&command, &(struct command_value){&params[0], STR("x")}, 1));
}

static void usage(void **state)
{
	static const char *const expected[] = {"FILE...", "[direction=inbound|outbound]",
					       "[--header NAME:VALUE]...", "[--force]"};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(params); i++) {
		autostrbuf struct strbuf text = {0};
		command_param_usage(&text, &params[i]);
		assert_string_equal(text.p, expected[i]);
	}
}

static const char *suggest(const char *word)
{
	struct suggestion suggestion = suggest_for(str_from(word));
	suggest_consider(&suggestion, "show");
	suggest_consider(&suggestion, "reload");
	suggest_consider(&suggestion, "endpoint");
	return suggestion.best;
}

static void did_you_mean(void **state)
{
	(void)state;
	assert_string_equal(suggest("shwo"), "show");
	assert_string_equal(suggest("sho"), "show");
	assert_string_equal(suggest("endpiont"), "endpoint");
	assert_string_equal(suggest("reloda"), "reload");
	assert_null(suggest("zebra"));
	assert_null(suggest(""));
	autostrbuf struct strbuf text = {0};
	struct suggestion none = suggest_for(STR("zebra")), close = suggest_for(STR("shwo"));
	suggest_consider(&close, "show");
	suggest_write(&none, &text);
	suggest_write(&close, &text);
	assert_string_equal(text.p, ", did you mean 'show'?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(finding), cmocka_unit_test(choices),      cmocka_unit_test(values),
	    cmocka_unit_test(usage),   cmocka_unit_test(did_you_mean),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
