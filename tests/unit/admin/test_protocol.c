// SPDX-License-Identifier: Apache-2.0
#include "admin/commands.h"
#include "admin/protocol.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

// Parsing decodes in place, so every attempt gets a copy of exactly `len` bytes.
static int parse(const char *text, size_t len, struct admin_request *ret_request, char **ret_copy)
{
	*ret_copy = mem_alloc(len ? len : 1);
	memcpy(*ret_copy, text, len);
	return admin_request_parse(*ret_copy, len, ret_request);
}

static int outcome(const char *text, size_t len)
{
	struct admin_request request;
	char *copy;
	int result = parse(text, len, &request, &copy);
	mem_free(copy);
	return result;
}

static int outcome_text(const char *text)
{
	return outcome(text, strlen(text));
}

static void expect_str(struct str got, const char *expected)
{
	assert_true(str_eq(got, str_from(expected)));
}

static void requests(void **state)
{
	static const char text[] = "conn show json direction=inbound path=/a%20b%25%0ac empty=\nrest";
	struct admin_request request;
	char *copy;
	(void)state;
	assert_int_equal(parse(text, sizeof text - 1, &request, &copy), sizeof text - 1 - 4);
	expect_str(request.object, "conn");
	expect_str(request.verb, "show");
	assert_int_equal(request.format, EMIT_JSON);
	assert_int_equal(request.param_count, 3);
	expect_str(request.params[0].name, "direction");
	expect_str(request.params[0].value, "inbound");
	expect_str(request.params[1].value, "/a b%\nc");
	expect_str(request.params[2].name, "empty");
	assert_int_equal(request.params[2].value.len, 0);
	mem_free(copy);
}

// At every split the first part asks for more and changes nothing; whole, the result is the same.
static void every_split(void **state)
{
	static const char text[] = "route explain pretty destination=a.mesh%3a80 header=x%3ay\n";
	(void)state;
	for (size_t split = 0; split < sizeof text - 1; split++) {
		struct admin_request request;
		char *copy = mem_alloc(sizeof text);
		memcpy(copy, text, sizeof text);
		assert_int_equal(admin_request_parse(copy, split, &request), ERR_NEED_MORE);
		assert_memory_equal(copy, text, sizeof text);
		assert_int_equal(admin_request_parse(copy, sizeof text - 1, &request), sizeof text - 1);
		expect_str(request.params[0].value, "a.mesh:80");
		expect_str(request.params[1].value, "x:y");
		mem_free(copy);
	}
}

static void malformed(void **state)
{
	static const char *const texts[] = {"\n",
					    "conn\n",
					    "conn show\n",
					    "conn show xml\n",
					    " conn show json\n",
					    "conn  show json\n",
					    "conn show json \n",
					    "conn show json word\n",
					    "conn show json =x\n",
					    "conn show json a=%\n",
					    "conn show json a=%4\n",
					    "conn show json a=%4g\n",
					    "conn show json a=\x1b\n",
					    "conn\tshow json\n",
					    "conn show json\r\n",
					    "conn show json a=\xc3\xa4\n"};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_int_equal(outcome_text(texts[i]), ERR_MALFORMED);
	assert_int_equal(outcome("conn show json a=\0\n", 19), ERR_MALFORMED);
}

static void limits(void **state)
{
	autostrbuf struct strbuf text = {0};
	(void)state;
	while (text.len < LIMIT_ADMIN_REQUEST - 1)
		strbuf_add_char(&text, 'a');
	assert_int_equal(outcome(text.p, text.len), ERR_NEED_MORE);
	strbuf_add_char(&text, 'a');
	assert_int_equal(outcome(text.p, text.len), ERR_LIMIT);
	strbuf_add_char(&text, '\n');
	assert_int_equal(outcome(text.p, text.len), ERR_LIMIT);

	strbuf_clear(&text);
	admin_request_begin(&text, "conn", "show", EMIT_PLAIN);
	for (int i = 0; i < ADMIN_PARAMS_MAX; i++)
		admin_request_add(&text, "a", STR("b"));
	size_t before = text.len;
	admin_request_end(&text);
	assert_int_equal(outcome(text.p, text.len), text.len);
	text.len = before;
	admin_request_add(&text, "a", STR("b"));
	admin_request_end(&text);
	assert_int_equal(outcome(text.p, text.len), ERR_LIMIT);
}

static void what_is_written_is_read(void **state)
{
	struct str value = STR("\0 \xff%=\n\"x");
	autostrbuf struct strbuf text = {0};
	struct admin_request request;
	(void)state;
	admin_request_begin(&text, "dns", "show", EMIT_JSON_PRETTY);
	admin_request_add(&text, "name", value);
	admin_request_end(&text);
	assert_int_equal(admin_request_parse(text.p, text.len, &request), text.len);
	assert_int_equal(request.format, EMIT_JSON_PRETTY);
	assert_true(str_eq(request.params[0].value, value));
}

static void responses(void **state)
{
	autostrbuf struct strbuf text = {0};
	enum admin_status status;
	uint64_t length;
	(void)state;
	admin_response_write(&text, ADMIN_FAILED, STR("no such\nthing"));
	assert_string_equal(text.p, "failed 13\nno such\nthing");
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(admin_response_parse((struct str){text.p, i}, &status, &length),
				 ERR_NEED_MORE);
	assert_int_equal(admin_response_parse(strbuf_str(&text), &status, &length), 10);
	assert_int_equal(status, ADMIN_FAILED);
	assert_int_equal(length, 13);
	assert_int_equal(admin_response_parse(STR("good 1\n"), &status, &length), ERR_MALFORMED);
	assert_int_equal(admin_response_parse(STR("ok\n"), &status, &length), ERR_MALFORMED);
	assert_int_equal(admin_response_parse(STR("ok -1\n"), &status, &length), ERR_MALFORMED);
	assert_int_equal(
	    admin_response_parse(STR("0123456789012345678901234567890123456789"), &status, &length),
	    ERR_MALFORMED);
}

static void commands(void **state)
{
	(void)state;
	for (size_t i = 0; i < ADMIN_COMMAND_COUNT; i++) {
		const struct command *command = &admin_commands[i];
		assert_non_null(command->object);
		assert_non_null(command->summary);
		assert_ptr_equal(admin_command_find(str_from(command->object), str_from(command->verb)),
				 command);
	}
	assert_null(admin_command_find(STR("conn"), STR("sho")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(requests),
	    cmocka_unit_test(every_split),
	    cmocka_unit_test(malformed),
	    cmocka_unit_test(limits),
	    cmocka_unit_test(what_is_written_is_read),
	    cmocka_unit_test(responses),
	    cmocka_unit_test(commands),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
