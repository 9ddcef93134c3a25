// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>

static void comparisons(void **state)
{
	(void)state;
	assert_true(str_eq(STR("abc"), STR("abc")));
	assert_false(str_eq(STR("abc"), STR("abd")));
	assert_false(str_eq(STR("abc"), STR("ab")));
	assert_true(str_eq_nocase(STR("Host"), STR("hOST")));
	assert_false(str_eq_nocase(STR("Host"), STR("Hosts")));
	assert_false(str_eq_nocase(STR("@"), STR("`"))); // not letters: a bit apart all the same
	assert_true(str_starts(STR("prefix"), STR("pre")));
	assert_false(str_starts(STR("pre"), STR("prefix")));
	assert_true(str_ends(STR("a.mesh"), STR(".mesh")));
	assert_true(str_cmp(STR("a"), STR("ab")) < 0);
	assert_true(str_cmp(STR("b"), STR("ab")) > 0);
	assert_int_equal(str_cmp(STR("ab"), STR("ab")), 0);
	assert_int_equal(str_hash_nocase(STR("Reviews.Mesh")), str_hash_nocase(STR("reviews.mesh")));
	assert_str(str_trim(STR(" \t x y \t")), "x y");
	assert_str(str_trim(STR(" \t ")), "");
}

static void splitting(void **state)
{
	(void)state;
	struct str rest = STR("a,,b");
	assert_str(str_split(&rest, ','), "a");
	assert_str(str_split(&rest, ','), "");
	assert_str(str_split(&rest, ','), "b");
	assert_null(rest.p);
}

static void numbers(void **state)
{
	(void)state;
	uint64_t value = 7;
	assert_int_equal(str_to_u64(STR("18446744073709551615"), &value), 0);
	assert_true(value == UINT64_MAX);
	assert_int_equal(str_to_u64(STR("18446744073709551616"), &value), -ERANGE);
	assert_int_equal(str_to_u64(STR(""), &value), ERR_MALFORMED);
	assert_int_equal(str_to_u64(STR("+1"), &value), ERR_MALFORMED);
	assert_int_equal(str_to_u64(STR("1 "), &value), ERR_MALFORMED);
	assert_true(value == UINT64_MAX); // untouched on failure
}

static void durations(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int err;
		uint64_t ms;
	} rows[] = {
	    {"0s", 0, 0},
	    {"250ms", 0, 250},
	    {"5s", 0, 5000},
	    {"2m", 0, 120000},
	    {"1h", 0, 3600000},
	    {"1d", 0, 86400000},
	    {"", ERR_MALFORMED, 7},
	    {"5", ERR_MALFORMED, 7},
	    {"ms", ERR_MALFORMED, 7},
	    {"-1s", ERR_MALFORMED, 7},
	    {"1 s", ERR_MALFORMED, 7},
	    {"1sm", ERR_MALFORMED, 7},
	    {"213503982335d", -ERANGE, 7},
	    {"18446744073709551616ms", -ERANGE, 7},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t ms = 7;
		assert_int_equal(str_to_ms(str_from(rows[i].text), &ms), rows[i].err);
		assert_true(ms == rows[i].ms);
	}
}

static void distances(void **state)
{
	(void)state;
	assert_int_equal(str_distance(STR("protcol"), STR("protocol"), 3), 1);
	assert_int_equal(str_distance(STR("show"), STR("sohw"), 3), 1);
	assert_int_equal(str_distance(STR("wbe"), STR("web"), 1), 1);
	assert_int_equal(str_distance(STR("ab"), STR("bxa"), 3), 3);
	assert_int_equal(str_distance(STR(""), STR("abc"), 3), 3);
	assert_int_equal(str_distance(STR("kitten"), STR("sitting"), 5), 3);
	assert_int_equal(str_distance(STR("same"), STR("SAME"), 3), 0);
	assert_int_equal(str_distance(STR("abc"), STR("xyz"), 2), 3);
	assert_int_equal(str_distance(STR("a"), STR("abcdefgh"), 2), 3);
}

static void growing(void **state)
{
	(void)state;
	autostrbuf struct strbuf sb = {0};
	assert_str(strbuf_str(&sb), "");
	strbuf_printf(&sb, "%d-%s", 5, "x");
	strbuf_add_char(&sb, '!');
	assert_str(strbuf_str(&sb), "5-x!");
	assert_int_equal(sb.p[sb.len], 0);
	char *text = strbuf_take(&sb);
	assert_string_equal(text, "5-x!");
	assert_null(sb.p);
	mem_free(text);
}

static void growing_without_memory(void **state)
{
	(void)state;
	autostrbuf struct strbuf sb = {0};
	strbuf_add_text(&sb, "kept");
	mem_fail_set(0);
	for (int i = 0; i < 100; i++)
		strbuf_add_text(&sb, "0123456789");
	mem_fail_set(-1);
	assert_true(sb.failed);
	assert_true(str_starts(strbuf_str(&sb), STR("kept")));
	assert_null(strbuf_take(&sb));
}

static void control_characters_are_made_visible(void **state)
{
	static const struct {
		struct str text;
		const char *shown;
	} rows[] = {
	    {STR(""), ""},
	    {STR("a\xc3\xa9 \xe2\x82\xac\xf0\x9f\x98\x80~"), "a\xc3\xa9 \xe2\x82\xac\xf0\x9f\x98\x80~"},
	    {STR("a\nb\r\t\0c"), "a\\nb\\x0d\\x09\\x00c"},
	    {STR("\x1b[2J\x7f"), "\\x1b[2J\\x7f"},
	    {STR("\xc2\x9b\xc2\xa0"), "\\x9b\xc2\xa0"},
	    {STR("\xff\xc2"), "\\xff\\xc2"},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		autostrbuf struct strbuf out = {0};
		strbuf_add_text(&out, "");
		strbuf_add_visible(&out, rows[i].text);
		assert_true(str_eq(strbuf_str(&out), str_from(rows[i].shown)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(control_characters_are_made_visible),
	    cmocka_unit_test(comparisons),
	    cmocka_unit_test(splitting),
	    cmocka_unit_test(numbers),
	    cmocka_unit_test(durations),
	    cmocka_unit_test(distances),
	    cmocka_unit_test(growing),
	    cmocka_unit_test(growing_without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
