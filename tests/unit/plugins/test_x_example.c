// SPDX-License-Identifier: Apache-2.0
// The example of a framed plug-in: what holds for every codec holds for it, and it is never found at fault.
#include "test.h"

#define X_EXAMPLE_PART
#include "tests/plugins/x_example.c"

#include "base/mem.h"
#include "codecs/plugin.h"
#include "tests/fuzz/framed.h"

static struct plugin plugin;
static unsigned reports;

static void report(const struct plugin *of, const char *what)
{
	(void)of;
	print_message("%s\n", what);
	reports++;
}

static void test_frames(void **state)
{
	(void)state;
	static const struct str FRAMES[] = {
	    STR("x\x01\x00\x00\x00\x00\x07\x00\x00\x00\x0dshop/buy some"),
	    STR("x\x01\x00\xff\xff\xff\xff\x00\x00\x00\x00"),
	    STR("x\x01\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x02ok"),
	    STR("x\x01\x01\x00\x00\x00\x07\x00\x01\x00\x00\x00\x00"),
	    STR("x\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00"),
	    STR("x\x00\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00"),
	    STR("x\x02\x00\x00\x00\x00\x07\x00\x00\x00\x00"),
	    STR("x\x03"),
	    STR("y"),
	};
	for (size_t i = 0; i < ARRAY_SIZE(FRAMES); i++)
		framed_check(&plugin.codec, FRAMES[i]);
	assert_int_equal(reports, 0);
}

static void test_head(void **state)
{
	(void)state;
	static const struct str FRAME = STR("x\x01\x00\x00\x00\x00\x07\x00\x00\x00\x0dshop/buy some");
	struct frame frame;
	struct field fields[2];
	struct head head = {.fields = fields};
	assert_int_equal(plugin.codec.measure(&plugin.codec, FRAME, &frame), 0);
	assert_int_equal(frame.id, 7);
	assert_int_equal(plugin.codec.decode(&plugin.codec, &frame, FRAME, 2, &head), 0);
	assert_str(head.authority, "shop");
	assert_str(head.method, "buy");
	assert_str(fields[0].name, "path");
	assert_str(fields[0].value, "shop/buy");
}

int main(void)
{
	static const struct weir_plugin table = {
	    .abi = WEIR_PLUGIN_ABI, .size = sizeof table, .framed = &x_example};
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_frames),
	    cmocka_unit_test(test_head),
	};
	if (plugin_init(&table, report, &plugin))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
