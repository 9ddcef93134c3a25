// SPDX-License-Identifier: Apache-2.0
// Dubbo's Thrift frames, made by the letter of the protocol: whole, at every split, in both of Thrift's
// binary forms, and wrong ones.
#include "test.h"

#include "codecs/dubbo_thrift.h"
#include "tests/fuzz/framed.h"

static struct frame frame;
static struct head head;

static int measure(struct str bytes)
{
	framed_check(&dubbo_thrift_codec, bytes);
	return framed_measure(&dubbo_thrift_codec, bytes, &frame);
}

// size, magic, size, header size, version, "a.b.Demo", id 0x1122334455667788
#define HEADER(size)                                                                                         \
	"\x00\x00\x00" size "\xda\xbc\x00\x00\x00" size "\x00\x1d\x01\x00\x00\x00\x08"                       \
	"a.b.Demo\x11\x22\x33\x44\x55\x66\x77\x88"
#define STRICT(type) "\x80\x01\x00" type "\x00\x00\x00\x05hello\x00\x00\x00\x09"

static void check_frame(struct str bytes, int kind, uint32_t args)
{
	struct field fields[FRAMED_FIELDS];
	assert_int_equal(measure(bytes), 0);
	assert_int_equal(frame.kind, kind);
	assert_true(frame.id == 0x1122334455667788);
	assert_int_equal(frame.length, bytes.len);
	assert_int_equal(frame.head, bytes.len - args);
	assert_int_equal(frame.id_at, 25);
	assert_int_equal(frame.id_size, 8);
	assert_int_equal(frame.variant, 1);
	assert_int_equal(frame.timeout_ms, 0);
	assert_int_equal(framed_decode(&dubbo_thrift_codec, &frame, bytes.p, fields, &head), 0);
	assert_str(head.authority, "a.b.Demo");
	assert_str(head.method, "hello");
	assert_int_equal(head.field_count, 0);
}

static void test_frames(void **state)
{
	(void)state;
	check_frame(STR(HEADER("\x32") STRICT("\x01") "args"), FRAME_REQUEST, 4);
	check_frame(STR(HEADER("\x2e") STRICT("\x01")), FRAME_REQUEST, 0);
	check_frame(STR(HEADER("\x32") STRICT("\x04") "args"), FRAME_ONEWAY, 4);
	check_frame(STR(HEADER("\x32") STRICT("\x02") "args"), FRAME_RESPONSE, 4);
	assert_int_equal(frame.status, 2);
	check_frame(STR(HEADER("\x32") STRICT("\x03") "args"), FRAME_RESPONSE, 4);
	assert_int_equal(frame.status, 3);
	// The older form.
	check_frame(STR(HEADER("\x2f") "\x00\x00\x00\x05hello\x01\x00\x00\x00\x09"
				       "args"),
		    FRAME_REQUEST, 4);
	check_frame(STR(HEADER("\x2b") "\x00\x00\x00\x05hello\x02\x00\x00\x00\x09"), FRAME_RESPONSE, 0);
}

static void test_more_behind_it(void **state)
{
	(void)state;
	struct str bytes = STR(HEADER("\x32") STRICT("\x01") "args"
							     "\x00\x00\x00\x32");
	assert_int_equal(measure(bytes), 0);
	assert_int_equal(frame.length, bytes.len - 4);
}

static void test_malformed(void **state)
{
	(void)state;
	assert_int_equal(measure(STR("")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\x00\x00\x00\x32\xda")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\x00\x00\x00\x32\xda\xbb")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\x00\x00\x00\x32\xda\xbc\x00\x00\x00\x33")), ERR_MALFORMED);
	// a size that ends within the names, or before the magic
	assert_int_equal(measure(STR(HEADER("\x2d") STRICT("\x01"))), ERR_MALFORMED);
	assert_int_equal(measure(STR(HEADER("\x14") STRICT("\x01"))), ERR_MALFORMED);
	assert_int_equal(measure(STR("\x00\x00\x00\x01\xda")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\x00\x00\x00\x00")), ERR_MALFORMED);
	// message types and versions that there are not
	assert_int_equal(measure(STR(HEADER("\x32") STRICT("\x00") "args")), ERR_MALFORMED);
	assert_int_equal(measure(STR(HEADER("\x32") STRICT("\x05") "args")), ERR_MALFORMED);
	assert_int_equal(measure(STR(HEADER("\x32") "\x80\x02\x00\x01\x00\x00\x00\x05hello\x00\x00\x00\x09"
						    "args")),
			 ERR_MALFORMED);
	// the header's size is not that of the header
	assert_int_equal(measure(STR("\x00\x00\x00\x32\xda\xbc\x00\x00\x00\x32\x00\x1e\x01\x00\x00\x00\x08"
				     "a.b.Demo\x11\x22\x33\x44\x55\x66\x77\x88" STRICT("\x01") "args")),
			 ERR_MALFORMED);
}

static void test_limits(void **state)
{
	(void)state;
	assert_int_equal(measure(STR("\x40\x00\x00\x00")), ERR_LIMIT);
	assert_int_equal(measure(STR("\xff\xff\xff\xff")), ERR_LIMIT);
	assert_int_equal(measure(STR("\x3f\xff\xff\xfc")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\x3f\xff\xff\xfd")), ERR_LIMIT);
	assert_int_equal(measure(STR("\x00\x01\x00\x00\xda\xbc\x00\x01\x00\x00\x00\x00\x01\x00\x00\x04\x01")),
			 ERR_LIMIT); // the service's name
	assert_int_equal(measure(STR("\x00\x01\x00\x00\xda\xbc\x00\x01\x00\x00\x00\x00\x01\x00\x00\x04\x00")),
			 ERR_NEED_MORE);
	assert_int_equal(measure(STR(HEADER("\x32") "\x80\x01\x00\x01\x00\x00\x04\x01")), ERR_LIMIT);
	assert_int_equal(measure(STR(HEADER("\x32") "\x7f\xff\xff\xff")), ERR_LIMIT);
}

static void check_failure(enum rpc_failure failure, uint8_t type)
{
	static const char expected[] = "\x00\x00\x00\x3d\xda\xbc\x00\x00\x00\x3d\x00\x15\x01\x00\x00\x00\x00"
				       "\x11\x22\x33\x44\x55\x66\x77\x88"
				       "\x80\x01\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00"
				       "\x0b\x00\x01\x00\x00\x00\x0dno such thing"
				       "\x08\x00\x02\x00\x00\x00";
	uint8_t made[128];
	struct writer out;
	struct frame request = {.id = 0x1122334455667788, .kind = FRAME_REQUEST, .variant = 1};
	writer_init(&out, made, sizeof made);
	writer_u8(&out, 'x'); // what is in front stays
	dubbo_thrift_codec.write_failure(&dubbo_thrift_codec, &request, failure, STR("no such thing"), &out);
	assert_int_equal(out.err, 0);
	assert_int_equal(out.len, 1 + sizeof expected - 1 + 2);
	assert_memory_equal(made + 1, expected, sizeof expected - 1);
	assert_int_equal(made[out.len - 2], type);
	assert_int_equal(made[out.len - 1], 0);
}

static void test_failures(void **state)
{
	(void)state;
	check_failure(RPC_NO_ROUTE, 1);
	check_failure(RPC_UNAVAILABLE, 6);
	check_failure(RPC_LOST, 6);
	check_failure(RPC_TIMEOUT, 6);
	check_failure(RPC_OVERLOADED, 6);
	check_failure(RPC_MALFORMED, 7);
	assert_int_equal(dubbo_thrift_codec.http_status(&dubbo_thrift_codec, 2), 200);
	assert_int_equal(dubbo_thrift_codec.http_status(&dubbo_thrift_codec, 3), 500);
	uint8_t small[40];
	struct writer out;
	struct frame request = {.id = 3, .variant = 1};
	writer_init(&out, small, sizeof small);
	dubbo_thrift_codec.write_failure(&dubbo_thrift_codec, &request, RPC_LOST, STR("no room"), &out);
	assert_int_equal(out.err, ERR_LIMIT);
}

static void test_detect(void **state)
{
	(void)state;
	const struct framed_codec *codec = &dubbo_thrift_codec;
	assert_int_equal(codec->detect(codec, STR("")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x32\xda")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x32\xda\xbc")), DETECT_YES);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x32\xda\xbb")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("\x01")), DETECT_NO);
	assert_string_equal(codec->name, protocol_name(codec->protocol));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_frames),    cmocka_unit_test(test_more_behind_it),
	    cmocka_unit_test(test_malformed), cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_failures),  cmocka_unit_test(test_detect),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
