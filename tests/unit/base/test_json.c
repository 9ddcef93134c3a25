// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/json.h"
#include "base/mem.h"

static void structure(struct json *json)
{
	json_open_object(json, NULL);
	json_text(json, "a", "b");
	json_open_array(json, "list");
	json_uint(json, NULL, 18446744073709551615ULL);
	json_int(json, NULL, -9223372036854775807LL - 1);
	json_bool(json, NULL, true);
	json_null(json, NULL);
	json_open_object(json, NULL);
	json_close_object(json);
	json_open_array(json, NULL);
	json_close_array(json);
	json_close_array(json);
	json_text(json, "none", NULL);
	json_close_object(json);
}

static void both_forms(void **state)
{
	(void)state;
	struct json json;
	autostrbuf struct strbuf line = {0}, pretty = {0};
	json_init(&json, &line, false);
	structure(&json);
	assert_string_equal(
	    line.p, "{\"a\":\"b\",\"list\":[18446744073709551615,-9223372036854775808,true,null,{},[]],"
		    "\"none\":null}");
	json_init(&json, &pretty, true);
	structure(&json);
	assert_string_equal(pretty.p,
			    "{\n    \"a\": \"b\",\n    \"list\": [\n        18446744073709551615,\n"
			    "        -9223372036854775808,\n        true,\n        null,\n        {},\n"
			    "        []\n    ],\n    \"none\": null\n}");
}

static void escapes(void **state)
{
	(void)state;
	static const struct {
		struct str in;
		const char *out;
	} rows[] = {
	    {{"", 0}, "\"\""},
	    {{"\"\\\b\f\n\r\t", 7}, "\"\\\"\\\\\\b\\f\\n\\r\\t\""},
	    {{"\0\1\x1f\x7f", 4}, "\"\\u0000\\u0001\\u001f\\u007f\""},
	    {{"\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82", 9}, "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\""},
	    // No UTF-8: alone, overlong, surrogates, beyond the last, cut short.
	    {{"a\x80z", 3}, "\"a\\ufffdz\""},
	    {{"\xc0\xaf", 2}, "\"\\ufffd\\ufffd\""},
	    {{"\xe0\x9f\xbf", 3}, "\"\\ufffd\\ufffd\\ufffd\""},
	    {{"\xed\xa0\x80", 3}, "\"\\ufffd\\ufffd\\ufffd\""},
	    {{"\xf4\x90\x80\x80", 4}, "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
	    {{"\xf0\x9f\x99", 3}, "\"\\ufffd\\ufffd\\ufffd\""},
	    {{"\xc3", 1}, "\"\\ufffd\""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		autostrbuf struct strbuf out = {0};
		json_escape(&out, rows[i].in);
		assert_string_equal(out.p, rows[i].out);
	}
}

// Every code point that UTF-8 can write, and every pair of bytes in front.
static void utf8(void **state)
{
	(void)state;
	for (uint32_t point = 0; point < 0x110000; point++) {
		char bytes[4];
		size_t len = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
		static const uint8_t mark[] = {0, 0, 0xc0, 0xe0, 0xf0};
		for (size_t i = len; i-- > 1;)
			bytes[i] = (char)(0x80 | (point >> (6 * (len - 1 - i)) & 0x3f));
		bytes[0] = (char)(mark[len] | point >> (6 * (len - 1)));
		bool surrogate = point >= 0xd800 && point < 0xe000;
		assert_int_equal(str_utf8_len((struct str){bytes, len}), surrogate ? 0 : len);
		if (len > 1)
			assert_int_equal(str_utf8_len((struct str){bytes, len - 1}), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(both_forms),
	    cmocka_unit_test(escapes),
	    cmocka_unit_test(utf8),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
