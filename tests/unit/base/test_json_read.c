// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "base/json.h"
#include "base/json_read.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>

// Parses a copy that ends where its memory does.
static int parse(struct str text, char **ret_copy, struct json_value **ret_values)
{
	char *copy = mem_alloc(text.len + 1);
	assert_non_null(copy);
	memcpy(copy, text.p, text.len);
	int err = json_read(copy, text.len, ret_values);
	if (err)
		mem_free(copy);
	else
		*ret_copy = copy;
	return err;
}

static void documents_are_walked(void **state)
{
	char *copy;
	struct json_value *root;
	(void)state;
	assert_int_equal(parse(STR(" { \"a\" : [ 1, {\"x\":[]}, \"two\" ] ,\"b\":{\"c\":null,\"d\":true},"
				   "\"e\":-0.5e+10}\r\n"),
			       &copy, &root),
			 0);
	const struct json_value *array = json_member(root, "a"), *at;
	assert_int_equal(array->type, JSON_ARRAY);
	at = json_next(array, NULL);
	assert_str(json_str_of(at), "1");
	at = json_next(array, at);
	assert_int_equal(at->type, JSON_OBJECT);
	assert_int_equal(json_member(at, "x")->size, 1);
	at = json_next(array, at);
	assert_str(json_str_of(at), "two");
	assert_null(json_next(array, at));
	assert_int_equal(json_member(json_member(root, "b"), "c")->type, JSON_NULL);
	assert_str(json_str_of(json_member(json_member(root, "b"), "d")), "true");
	assert_str(json_str_of(json_member(root, "e")), "-0.5e+10");
	// Keys only, and those of this object.
	assert_null(json_member(root, "c"));
	assert_null(json_member(root, "two"));
	assert_null(json_member(NULL, "a"));
	assert_null(json_member(array, "a"));
	assert_null(json_next(json_member(root, "e"), NULL));
	at = NULL;
	char keys[8] = "";
	while ((at = json_next(root, at)))
		strncat(keys, at->p, at->len);
	assert_string_equal(keys, "abe");
	mem_free(root);
	mem_free(copy);
}

static void strings_are_unescaped(void **state)
{
	static const struct {
		struct str text;
		const char *expected;
	} rows[] = {
	    {STR("\"\""), ""},
	    {STR("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), "\"\\/\b\f\n\r\t"},
	    {STR("\"\\u0041\\u00e4\\u20AC\""), "A\xc3\xa4\xe2\x82\xac"},
	    {STR("\"\\ud83d\\ude00!\""), "\xf0\x9f\x98\x80!"},
	    {STR("\"\\ud83dx\""), "\xef\xbf\xbdx"},
	    {STR("\"\\ude00\\ud83d\""), "\xef\xbf\xbd\xef\xbf\xbd"},
	    {STR("\"\\ud83d\\u0041\""), "\xef\xbf\xbd"
					"A"},
	    {STR("\"a\\u0000b\""), "a\xef\xbf\xbd"
				   "b"},
	    {STR("\"\xc3\xa4\""), "\xc3\xa4"},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char *copy;
		struct json_value *root;
		assert_int_equal(parse(rows[i].text, &copy, &root), 0);
		assert_int_equal(root->type, JSON_STRING);
		assert_str(json_str_of(root), rows[i].expected);
		mem_free(root);
		mem_free(copy);
	}
}

static void what_is_no_json_is_refused(void **state)
{
	static const char *const texts[] = {
	    "",	       " ",	      "{",	     "}",	    "[1,]",	 "[,1]", "[1 2]",
	    "{\"a\"}", "{\"a\":}",    "{\"a\":1,}",  "{a:1}",	    "{1:1}",	 "'a'",	 "\"a",
	    "\"\\x\"", "\"\\u12g4\"", "\"\n\"",	     "01",	    "-",	 "1.",	 ".5",
	    "1e",      "+1",	      "nul",	     "truex",	    "1 1",	 "NaN",	 "[\"\\",
	    "// x\n1", "[1]x",	      "{\"\":\"\\u", "\"\\ud83d\\", "\"\\u00\"",
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		char *copy;
		struct json_value *root;
		if (parse(str_from(texts[i]), &copy, &root) != ERR_MALFORMED)
			fail_msg("accepted: %s", texts[i]);
	}
}

// A text cut anywhere is refused; whole it is taken.
static void texts_may_be_cut_anywhere(void **state)
{
	static const char text[] = "{\"a\":[1,-2.5e1,\"\\u00e4\\n\"],\"b\":{\"c\":[true,false,null,{}]}}";
	(void)state;
	for (size_t len = 0; len < sizeof text; len++) {
		char *copy;
		struct json_value *root;
		int err = parse((struct str){text, len}, &copy, &root);
		assert_int_equal(err, len == sizeof text - 1 ? 0 : ERR_MALFORMED);
		if (err)
			continue;
		assert_int_equal(root->size, 14);
		mem_free(root);
		mem_free(copy);
	}
}

static void depth_has_a_limit(void **state)
{
	char text[2 * (JSON_DEPTH_MAX + 1)], *copy;
	struct json_value *root;
	(void)state;
	for (size_t depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		int err = parse((struct str){text, 2 * depth}, &copy, &root);
		assert_int_equal(err, depth > JSON_DEPTH_MAX ? ERR_LIMIT : 0);
		if (!err) {
			mem_free(root);
			mem_free(copy);
		}
	}
}

static void strangers_have_a_limit(void **state)
{
	(void)state;
	for (size_t max = 0; max < 8; max++) {
		char text[] = "[1,{\"a\":[]},2]"; // six values, the key counted
		struct json_value *root = NULL;
		assert_int_equal(json_read_at_most(text, strlen(text), max, &root), max < 6 ? ERR_LIMIT : 0);
		mem_free(root);
	}
}

static void memory_may_run_out(void **state)
{
	static const struct str text = STR("[1,[2,{\"a\":\"b\"},3,4,5,6,7,8,9],{}]");
	(void)state;
	for (long n = 0;; n++) {
		char copy[64];
		struct json_value *root = NULL;
		memcpy(copy, text.p, text.len);
		mem_fail_set(n);
		int err = json_read(copy, text.len, &root);
		mem_fail_set(-1);
		mem_free(root);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
}

// What the writer writes the reader reads.
static void the_writer_is_understood(void **state)
{
	autostrbuf struct strbuf text = {0};
	struct json json;
	(void)state;
	json_init(&json, &text, true);
	json_open_object(&json, NULL);
	json_str(&json, "k\"\n", STR("v\x01\\/\xe2\x82\xac"));
	json_int(&json, "n", INT64_MIN);
	json_close_object(&json);
	char *copy;
	struct json_value *root;
	assert_int_equal(parse(strbuf_str(&text), &copy, &root), 0);
	assert_str(json_str_of(json_member(root, "k\"\n")), "v\x01\\/\xe2\x82\xac");
	assert_str(json_str_of(json_member(root, "n")), "-9223372036854775808");
	mem_free(root);
	mem_free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(documents_are_walked),	  cmocka_unit_test(strings_are_unescaped),
	    cmocka_unit_test(what_is_no_json_is_refused), cmocka_unit_test(texts_may_be_cut_anywhere),
	    cmocka_unit_test(depth_has_a_limit),	  cmocka_unit_test(strangers_have_a_limit),
	    cmocka_unit_test(memory_may_run_out),	  cmocka_unit_test(the_writer_is_understood),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
