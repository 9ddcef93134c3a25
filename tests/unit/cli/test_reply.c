// SPDX-License-Identifier: Apache-2.0
// What a proxy answered, described again: the JSON that comes out is the JSON that went in.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "cli/reply.h"

static void emitted(const char *text, enum emit_format format, const char *expected)
{
	autostrbuf struct strbuf out = {0};
	struct reply *reply;
	struct emit emit;
	assert_int_equal(reply_parse(str_from(text), &reply), 0);
	emit_init(&emit, &out, format);
	reply_emit(reply_root(reply), &emit);
	emit_done(&emit);
	reply_free(reply);
	assert_string_equal(out.p, expected);
}

static void json_stays_what_it_is(void **state)
{
	static const char text[] =
	    "{\"connection\":{\"id\":513,\"age_ms\":1500,\"received\":2048,\"tls\":{\"version\":null,"
	    "\"peer\":"
	    "\"a\\\"b\"},\"below\":-5,\"open\":true},\"clusters\":[{\"name\":\"x\",\"allow\":[\"p\",\"q\"],"
	    "\"to\":[{\"n\":1}]},{\"name\":\"y\"}],\"none\":[],\"numbers\":[1,2]}\n";
	(void)state;
	emitted(text, EMIT_JSON, text);
}

static void people_get_units(void **state)
{
	(void)state;
	emitted("{\"age_ms\":1500,\"received\":2048,\"virtual_host\":null,\"up\":false,"
		"\"rows\":[{\"down_for_ms\":250,\"n\":7}]}",
		EMIT_PLAIN,
		"age:          1.5s\n"
		"received:     2.0 KiB\n"
		"virtual host: -\n"
		"up:           no\n"
		"\n"
		"rows:\n"
		"DOWN FOR  N\n"
		"   250ms  7\n");
}

static void values_are_taken(void **state)
{
	struct reply *reply;
	struct addr addr = {0};
	struct ip ip = {0};
	char text[ADDR_TEXT_MAX];
	(void)state;
	assert_int_equal(
	    reply_parse(STR("{\"n\":17,\"a\":\"[fd00::1]:80\",\"i\":\"10.0.0.1\",\"x\":null,\"t\":true}"),
			&reply),
	    0);
	const struct json_value *root = reply_root(reply);
	assert_str(reply_text(root, "n"), "17");
	assert_null(reply_text(root, "x").p);
	assert_null(reply_text(root, "t").p);
	assert_null(reply_text(root, "missing").p);
	assert_null(reply_text(NULL, "n").p);
	assert_true(reply_addr(root, "a", &addr));
	assert_string_equal(addr_format(&addr, text), "[fd00::1]:80");
	assert_false(reply_addr(root, "i", &addr));
	assert_true(reply_ip(root, "i", &ip));
	assert_false(reply_ip(root, "x", &ip));
	reply_free(reply);
	reply_free(NULL);
	assert_int_equal(reply_parse(STR("[1]"), &reply), ERR_MALFORMED);
	assert_int_equal(reply_parse(STR("{"), &reply), ERR_MALFORMED);
}

// What nests deeper than the emitter can is left out, and no key is too long for it.
static void depth_and_keys_have_limits(void **state)
{
	autostrbuf struct strbuf text = {0}, out = {0};
	struct reply *reply;
	struct emit emit;
	(void)state;
	for (int i = 0; i < 30; i++)
		strbuf_add_text(&text, "{\"k\":");
	strbuf_add_text(&text, "1");
	for (int i = 0; i < 30; i++)
		strbuf_add_text(&text, "}");
	assert_int_equal(reply_parse(strbuf_str(&text), &reply), 0);
	emit_init(&emit, &out, EMIT_PLAIN);
	reply_emit(reply_root(reply), &emit);
	emit_done(&emit);
	reply_free(reply);
	emitted("{\"0123456789012345678901234567890123456789012345678901234567890123\":1,\"k\":2}", EMIT_JSON,
		"{\"k\":2}\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(json_stays_what_it_is),
	    cmocka_unit_test(people_get_units),
	    cmocka_unit_test(values_are_taken),
	    cmocka_unit_test(depth_and_keys_have_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
