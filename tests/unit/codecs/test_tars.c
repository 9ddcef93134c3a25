// SPDX-License-Identifier: Apache-2.0
// Tars packets, made by the letter of JCE: whole, at every split, with ids of every width, and wrong ones.
#include "test.h"

#include "codecs/tars.h"
#include "tests/fuzz/framed.h"

static struct frame frame;
static struct head head;
static struct field fields[FRAMED_FIELDS];

static int measure(struct str bytes)
{
	framed_check(&tars_codec, bytes);
	return framed_measure(&tars_codec, bytes, &frame);
}

static struct strbuf make_packet(struct str body)
{
	struct strbuf bytes = {0};
	size_t size = body.len + 4;
	const char len[] = {(char)(size >> 24), (char)(size >> 16), (char)(size >> 8), (char)size};
	strbuf_add(&bytes, len, sizeof len);
	strbuf_add_str(&bytes, body);
	return bytes;
}

static int measure_body(struct str body)
{
	struct strbuf bytes = make_packet(body);
	int err = measure(strbuf_str(&bytes));
	strbuf_done(&bytes);
	return err;
}

// The head's views point into the bytes.
static struct strbuf packet;

static int decode_body(struct str body)
{
	strbuf_done(&packet);
	packet = make_packet(body);
	assert_int_equal(measure(strbuf_str(&packet)), 0);
	head = (struct head){0};
	return framed_decode(&tars_codec, &frame, packet.p, fields, &head);
}

static void assert_field(const char *name, const char *value)
{
	const struct field *field = head_find(&head, str_from(name));
	assert_non_null(field);
	assert_str(field->value, value);
}

#define START "\x10\x01\x2c\x3c" // version 1, a call, of no special kind
#define NAMES                                                                                                \
	"\x56\x05"                                                                                           \
	"A.B.C"                                                                                              \
	"\x66\x05hello" // fields 5 and 6
#define ARGUMENTS                                                                                            \
	"\x7d\x00\x00\x04"                                                                                   \
	"args"
#define TIMEOUT "\x81\x0b\xb8"
#define MAPS                                                                                                 \
	"\x98\x00\x01\x06\x03"                                                                               \
	"key\x16\x05value"                                                                                   \
	"\xa8\x0c"
#define REST NAMES ARGUMENTS TIMEOUT MAPS

static void test_request(void **state)
{
	(void)state;
	assert_int_equal(decode_body(STR(START "\x42\x00\x01\x00\x05" REST)), 0);
	assert_int_equal(frame.kind, FRAME_REQUEST);
	assert_int_equal(frame.id, 0x10005);
	assert_int_equal(frame.length, packet.len);
	assert_int_equal(frame.head, packet.len);
	assert_int_equal(frame.id_at, 4 + 5);
	assert_int_equal(frame.id_size, 4);
	assert_int_equal(frame.variant, 1);
	assert_int_equal(frame.timeout_ms, 3000);
	assert_str(head.authority, "A.B.C");
	assert_str(head.method, "hello");
	assert_int_equal(head.field_count, 1);
	assert_field("key", "value");
	assert_int_equal(decode_body(STR("\x10\x01\x20\x01\x3c\x42\x00\x01\x00\x05" REST)), 0);
	assert_int_equal(frame.kind, FRAME_ONEWAY);
}

// Both maps, long strings, and what may be left out.
static void test_fields(void **state)
{
	(void)state;
	assert_int_equal(
	    decode_body(STR(START "\x42\x00\x01\x00\x05" NAMES ARGUMENTS TIMEOUT "\x98\x00\x02\x06\x01"
				  "a\x16\x01"
				  "b\x07\x00\x00\x00\x01"
				  "c\x16\x00"
				  "\xa8\x00\x01\x06\x01"
				  "d\x17\x00\x00\x00\x01"
				  "e")),
	    0);
	assert_int_equal(head.field_count, 3);
	assert_field("a", "b");
	assert_field("c", "");
	assert_field("d", "e");
	assert_int_equal(decode_body(STR(START "\x42\x00\x01\x00\x05" NAMES)), 0);
	assert_int_equal(head.field_count, 0);
	assert_int_equal(frame.timeout_ms, 0);
	assert_int_equal(
	    decode_body(STR(START "\x42\x00\x01\x00\x05" NAMES "\x7d\x00\x0c\x8c\x98\x0c\xf6\x20\x01"
				  "x")),
	    0);
	assert_int_equal(frame.timeout_ms, 0);
	assert_int_equal(decode_body(STR(START "\x42\x00\x01\x00\x05" NAMES "\x82\xff\xff\xff\xff")), 0);
	assert_int_equal(frame.timeout_ms, 0); // negative
	assert_int_equal(decode_body(STR(START "\x42\x00\x01\x00\x05"
					       "\x57\x00\x00\x00\x05"
					       "A.B.C\x67\x00\x00\x00\x05hello")),
			 0);
	assert_str(head.authority, "A.B.C");
}

// A packet with this id field, and what it is with another id.
static void check_id(struct str field, uint64_t id)
{
	uint8_t text[256];
	struct writer out;
	struct strbuf body = {0};
	strbuf_add_str(&body, STR(START));
	strbuf_add_str(&body, field);
	strbuf_add_str(&body, STR(REST));
	assert_int_equal(decode_body(strbuf_str(&body)), 0);
	assert_int_equal(frame.id, id);
	assert_int_equal(frame.id_size, field.len == 5 ? 4 : 0);
	struct strbuf expected = make_packet(STR(START "\x42\x00\x01\x00\x07" REST));
	writer_init(&out, text, sizeof text);
	tars_codec.renumber(&tars_codec, &frame, strbuf_str(&packet), 0x10007, &out);
	assert_int_equal(out.err, 0);
	assert_int_equal(out.len, expected.len);
	assert_memory_equal(text, expected.p, expected.len);
	strbuf_done(&expected);
	strbuf_done(&body);
}

static void test_ids(void **state)
{
	(void)state;
	check_id(STR("\x4c"), 0);
	check_id(STR("\x40\x07"), 7);
	check_id(STR("\x40\xff"), UINT32_MAX); // -1
	check_id(STR("\x41\x01\x00"), 256);
	check_id(STR("\x41\x80\x00"), 0xffff8000);
	check_id(STR("\x42\x7f\xff\xff\xff"), INT32_MAX);
	check_id(STR("\x42\xff\xff\xff\xfe"), 0xfffffffe);
}

static void test_renumber_long_packet(void **state)
{
	(void)state;
	struct strbuf body = {0};
	strbuf_add_str(&body, STR(START "\x40\x07" NAMES "\x7d\x00\x02\x00\x03\x00\x00"));
	memset(strbuf_reserve(&body, 0x30000), 'z', 0x30000);
	body.len += 0x30000;
	strbuf_add_str(&body, STR(TIMEOUT MAPS));
	assert_int_equal(decode_body(strbuf_str(&body)), 0);
	assert_int_equal(frame.head, LIMIT_FRAME_HEAD);
	assert_int_equal(frame.length, packet.len);
	assert_str(head.authority, "A.B.C"); // what stands behind the arguments is not seen
	assert_int_equal(head.field_count, 0);
	assert_int_equal(frame.timeout_ms, 0);
	struct strbuf other = {0};
	struct writer out;
	writer_init(&out, strbuf_reserve(&other, LIMIT_FRAME_HEAD + 3), LIMIT_FRAME_HEAD + 3);
	tars_codec.renumber(&tars_codec, &frame, strbuf_str(&packet), 0x10007, &out);
	assert_int_equal(out.err, 0);
	assert_int_equal(out.len, LIMIT_FRAME_HEAD + 3);
	writer_init(&out, other.p, LIMIT_FRAME_HEAD);
	tars_codec.renumber(&tars_codec, &frame, strbuf_str(&packet), 0x10007, &out);
	assert_int_equal(out.err, ERR_LIMIT);
	strbuf_done(&other);
	strbuf_done(&body);
}

static void test_response(void **state)
{
	(void)state;
	// version 1, packet type 0, id, message type 0, return code 0, no result, no status
	assert_int_equal(measure_body(STR("\x10\x01\x2c\x32\x00\x01\x00\x05\x4c\x5c\x6d\x00\x0c\x78\x0c")),
			 0);
	assert_int_equal(frame.kind, FRAME_RESPONSE);
	assert_int_equal(frame.id, 0x10005);
	assert_int_equal(frame.id_at, 4 + 4);
	assert_int_equal(frame.id_size, 4);
	assert_int_equal(frame.status, 0);
	assert_int_equal(frame.length, 4 + 15);
	assert_int_equal(frame.head, 4 + 10);
	assert_int_equal(
	    measure_body(STR("\x10\x01\x2c\x32\x00\x01\x00\x05\x4c\x50\xf9\x6d\x00\x0c\x78\x0c")), 0);
	assert_int_equal(frame.status, 7);
	assert_int_equal(measure_body(STR("\x10\x01\x2c\x30\x05\x4c\x51\x01\x2c")), 0);
	assert_int_equal(frame.status, 300);
	assert_int_equal(frame.id, 5);
	assert_int_equal(frame.id_size, 0);
	assert_int_equal(measure_body(STR("\x10\x01\x2c\x30\x05\x4c\x52\x80\x00\x00\x00")), 0);
	assert_int_equal(frame.status, UINT16_MAX);
}

// TUP, whose answers nothing tells from requests; another version is as good as the first.
static void test_versions(void **state)
{
	(void)state;
	assert_int_equal(measure_body(STR("\x10\x01\x2c\x3c\x42\x00\x01\x00\x05" NAMES)), 0);
	assert_int_equal(measure_body(STR("\x10\x02\x2c\x3c\x42\x00\x01\x00\x05" NAMES)), ERR_MALFORMED);
	assert_int_equal(measure_body(STR("\x10\x03\x2c\x3c\x42\x00\x01\x00\x05" NAMES)), ERR_MALFORMED);
	assert_int_equal(measure_body(STR("\x10\x05\x2c\x3c\x42\x00\x01\x00\x05" NAMES)), 0);
	assert_int_equal(frame.variant, 5);
}

static void test_malformed(void **state)
{
	(void)state;
	assert_int_equal(measure(STR("")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\x00\x00\x00\x03")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\x00\x00\x00\x04")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\x00\xa0\x00\x01")), ERR_LIMIT);
	assert_int_equal(measure(STR("\xff\xff\xff\xff")), ERR_LIMIT);
	assert_int_equal(measure(STR("\x00\xa0\x00\x00\x10\x01\x2c\x3c\x42\x00\x01\x00\x05\x56")), 0);
	assert_int_equal(measure(STR("\x00\xa0\x00\x00\x10\x01\x2c\x3c\x40\x01\x56")),
			 ERR_LIMIT); // with a wider id
	assert_int_equal(measure(STR("\x00\x9f\xff\xfd\x10\x01\x2c\x3c\x40\x01\x56")), 0);
	assert_int_equal(measure_body(STR(START "\x40\x01")), ERR_MALFORMED); // ends early
	assert_int_equal(measure_body(STR("\x20\x01\x2c\x3c\x40\x01\x56")), ERR_MALFORMED);
	assert_int_equal(measure_body(STR("\x10\x01\x3c\x40\x01\x56")), ERR_MALFORMED); // no field 2
	assert_int_equal(measure_body(STR(START "\x43\x00\x00\x00\x00\x00\x00\x00\x01\x56")),
			 ERR_MALFORMED); // a long
	assert_int_equal(measure_body(STR(START "\x46\x01"
						"1\x56")),
			 ERR_MALFORMED);
	assert_int_equal(measure_body(STR(START "\x40\x01\x5d")), ERR_MALFORMED);
	assert_int_equal(measure_body(STR(START "\x40\x01\x66")), ERR_MALFORMED);
	assert_int_equal(measure_body(STR(START "\x40\x01\xf6\x05")),
			 ERR_MALFORMED); // the long form of tag 5
	assert_int_equal(measure_body(STR(START "\x40\x01\xf6\x0f")), ERR_MALFORMED);
}

static void test_malformed_requests(void **state)
{
	(void)state;
#define CALL START "\x40\x01"
	assert_int_equal(decode_body(STR(CALL "\x56\x05"
					      "A.B")),
			 ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL "\x56\x05"
					      "A.B.C")),
			 ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL "\x56\x05"
					      "A.B.C\x6c")),
			 ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x79\x0c")), ERR_MALFORMED); // a list for the arguments
	assert_int_equal(decode_body(STR(CALL NAMES "\x7d\x01\x0c")), ERR_MALFORMED);	  // of no bytes
	assert_int_equal(decode_body(STR(CALL NAMES "\x7d\x00\x00\xff")), ERR_MALFORMED); // of -1 bytes
	assert_int_equal(decode_body(STR(CALL NAMES "\x7d\x00\x00\x05"
						    "args")),
			 ERR_MALFORMED); // of too many
	assert_int_equal(decode_body(STR(CALL NAMES "\x86\x01"
						    "1")),
			 ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x98\x00\x01\x06\x01k")), ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x98\x00\x01\x06\x01k\x0c")), ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x98\x00\x01\x0c\x16\x01v")), ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x98\x00\xff")), ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\xf6")), ERR_MALFORMED);
	assert_int_equal(decode_body(STR(CALL NAMES "\x9c")), 0); // no map: it ends here
#undef CALL
}

static void test_too_many_fields(void **state)
{
	(void)state;
	for (char more = 0; more < 2; more++) {
		struct strbuf body = {0};
		strbuf_add_str(&body, STR(START "\x40\x01" NAMES "\x98\x00"));
		strbuf_add_char(&body, (char)(FRAMED_FIELDS + more));
		for (int i = 0; i < FRAMED_FIELDS + more; i++)
			strbuf_add_str(&body, STR("\x06\x01k\x16\x01v"));
		assert_int_equal(decode_body(strbuf_str(&body)), more ? ERR_LIMIT : 0);
		strbuf_done(&body);
	}
}

static void check_failure(enum rpc_failure failure, int8_t code, uint16_t http_status)
{
	uint8_t made[128];
	struct writer out;
	struct frame request = {.id = 7, .kind = FRAME_REQUEST, .variant = 1};
	static const char expected[] = "\x00\x00\x00\x25\x10\x01\x2c\x32\x00\x00\x00\x07\x4c\x50\x00"
				       "\x6d\x00\x0c\x78\x0c\x87\x00\x00\x00\x0dno such thing";
	writer_init(&out, made, sizeof made);
	writer_u8(&out, 'x'); // what is in front stays
	tars_codec.write_failure(&tars_codec, &request, failure, STR("no such thing"), &out);
	assert_int_equal(out.err, 0);
	assert_int_equal((int8_t)made[15], code);
	made[15] = 0;
	made[4] = made[4] == out.len - 1 ? '\x25' : 0;
	assert_int_equal(out.len, 1 + sizeof expected - 1);
	assert_memory_equal(made + 1, expected, sizeof expected - 1);
	assert_int_equal(tars_codec.http_status(&tars_codec, (uint16_t)-code), http_status);
}

static void test_failures(void **state)
{
	(void)state;
	check_failure(RPC_NO_ROUTE, -4, 404);
	check_failure(RPC_UNAVAILABLE, -8, 502);
	check_failure(RPC_LOST, -8, 502);
	check_failure(RPC_TIMEOUT, -7, 504);
	check_failure(RPC_OVERLOADED, -9, 503);
	check_failure(RPC_MALFORMED, -1, 400);
	assert_int_equal(tars_codec.http_status(&tars_codec, 0), 200);
	assert_int_equal(tars_codec.http_status(&tars_codec, 3), 404);
	assert_int_equal(tars_codec.http_status(&tars_codec, 6), 504);
	assert_int_equal(tars_codec.http_status(&tars_codec, 10), 502);
	assert_int_equal(tars_codec.http_status(&tars_codec, 99), 500);
}

static void test_detect(void **state)
{
	(void)state;
	const struct framed_codec *codec = &tars_codec;
	assert_int_equal(codec->detect(codec, STR("")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x10\x01")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x10\x01\x2c")), DETECT_YES);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x10\x01\x20")), DETECT_YES);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x10\x01\x26")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x10\x03")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("\x00\x00\x00\x30\x1c")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("\x00\xa1")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("\x01")), DETECT_NO);
	assert_string_equal(codec->name, protocol_name(codec->protocol));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_request),
	    cmocka_unit_test(test_fields),
	    cmocka_unit_test(test_ids),
	    cmocka_unit_test(test_renumber_long_packet),
	    cmocka_unit_test(test_response),
	    cmocka_unit_test(test_versions),
	    cmocka_unit_test(test_malformed),
	    cmocka_unit_test(test_malformed_requests),
	    cmocka_unit_test(test_too_many_fields),
	    cmocka_unit_test(test_failures),
	    cmocka_unit_test(test_detect),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	strbuf_done(&packet);
	return failed;
}
