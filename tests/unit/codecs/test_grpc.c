// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/grpc.h"

static void test_type(void **state)
{
	(void)state;
	assert_true(grpc_is_type(STR("application/grpc")));
	assert_true(grpc_is_type(STR("application/grpc+proto")));
	assert_true(grpc_is_type(STR("Application/gRPC; charset=utf-8")));
	assert_false(grpc_is_type(STR("application/grpc-web")));
	assert_false(grpc_is_type(STR("application/grp")));
	assert_false(grpc_is_type(STR("")));
}

static void test_timeout(void **state)
{
	(void)state;
	static const struct {
		struct str text;
		uint64_t ms;
	} rows[] = {{STR("1H"), 3600000}, {STR("2M"), 120000}, {STR("3S"), 3000},
		    {STR("100m"), 100},	  {STR("1u"), 1},      {STR("99999999u"), 100000},
		    {STR("1n"), 1},	  {STR("0m"), 0},      {STR("99999999H"), 99999999ull * 3600000}};
	uint64_t ms;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_int_equal(grpc_timeout_parse(rows[i].text, &ms), 0);
		assert_int_equal(ms, rows[i].ms);
	}
	assert_int_equal(grpc_timeout_parse(STR("1"), &ms), ERR_MALFORMED);
	assert_int_equal(grpc_timeout_parse(STR("S"), &ms), ERR_MALFORMED);
	assert_int_equal(grpc_timeout_parse(STR("1s"), &ms), ERR_MALFORMED);
	assert_int_equal(grpc_timeout_parse(STR("123456789S"), &ms), ERR_MALFORMED);
	assert_int_equal(grpc_timeout_parse(STR("-1S"), &ms), ERR_MALFORMED);
}

static void test_status(void **state)
{
	(void)state;
	assert_int_equal(grpc_status_parse(STR("0")), 0);
	assert_int_equal(grpc_status_parse(STR("16")), 16);
	assert_int_equal(grpc_status_parse(STR("x")), -1);
	assert_int_equal(grpc_status_parse(STR("")), -1);
	assert_int_equal(grpc_status_parse(STR("99999")), -1);
	assert_int_equal(grpc_status_of_http(404), GRPC_UNIMPLEMENTED);
	assert_int_equal(grpc_status_of_http(503), GRPC_UNAVAILABLE);
	assert_int_equal(grpc_status_of_http(502), GRPC_UNAVAILABLE);
	assert_int_equal(grpc_status_of_http(504), GRPC_DEADLINE_EXCEEDED);
	assert_int_equal(grpc_status_of_http(431), GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(grpc_status_of_http(418), GRPC_UNKNOWN);
}

static void test_status_of_reset(void **state)
{
	(void)state;
	static const enum grpc_status statuses[] = {
	    [0 ... 6] = GRPC_INTERNAL,	 [7] = GRPC_UNAVAILABLE,	 [8] = GRPC_CANCELLED,
	    [9 ... 10] = GRPC_INTERNAL,	 [11] = GRPC_RESOURCE_EXHAUSTED, [12] = GRPC_PERMISSION_DENIED,
	    [13 ... 14] = GRPC_INTERNAL, // HTTP_1_1_REQUIRED, and one that nobody knows
	};
	for (uint32_t code = 0; code < ARRAY_SIZE(statuses); code++)
		assert_int_equal(grpc_status_of_reset(code), statuses[code]);
	assert_int_equal(grpc_status_of_reset(UINT32_MAX), GRPC_INTERNAL);
}

static void test_message(void **state)
{
	(void)state;
	char bytes[32];
	size_t len = grpc_message_encode("50% of \xc3\xa4\n", bytes, sizeof bytes);
	assert_str(((struct str){bytes, len}), "50%25 of %C3%A4%0A");
	len = grpc_message_encode("ab%", bytes, 4); // what does not fit whole is left out
	assert_str(((struct str){bytes, len}), "ab");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_type),    cmocka_unit_test(test_timeout),
	    cmocka_unit_test(test_status),  cmocka_unit_test(test_status_of_reset),
	    cmocka_unit_test(test_message),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
