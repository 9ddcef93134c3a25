// SPDX-License-Identifier: Apache-2.0
// Dubbo frames, made by the letter of the protocol: whole, at every split, with every flag, and wrong ones.
#include "test.h"

#include "codecs/dubbo.h"
#include "tests/fuzz/framed.h"

static struct frame frame;
static struct head head;
static struct field fields[FRAMED_FIELDS];

static int measure(struct str bytes)
{
	framed_check(&dubbo_codec, bytes);
	return framed_measure(&dubbo_codec, bytes, &frame);
}

// A frame with id 0x1122334455667788.
static struct strbuf make_frame(uint8_t flags, uint8_t status, struct str data)
{
	struct strbuf bytes = {0};
	const char header[] = {(char)0xda, (char)0xbb, (char)flags, (char)status};
	const char len[] = {(char)(data.len >> 24), (char)(data.len >> 16), (char)(data.len >> 8),
			    (char)data.len};
	strbuf_add(&bytes, header, sizeof header);
	strbuf_add_str(&bytes, STR("\x11\x22\x33\x44\x55\x66\x77\x88"));
	strbuf_add(&bytes, len, sizeof len);
	strbuf_add_str(&bytes, data);
	return bytes;
}

// Measures and decodes a two-way request; `bytes` has to outlive what is looked at in `head`.
static int decode(const struct strbuf *bytes)
{
	assert_int_equal(measure(strbuf_str(bytes)), 0);
	head = (struct head){0};
	return framed_decode(&dubbo_codec, &frame, bytes->p, fields, &head);
}

static void assert_field(const char *name, const char *value)
{
	const struct field *field = head_find(&head, str_from(name));
	assert_non_null(field);
	assert_str(field->value, value);
}

// --- requests -------------------------------------------------------------------------------
static void add_text(struct strbuf *data, const char *text)
{
	size_t len = strlen(text);
	if (len > 31)
		strbuf_add_char(data, (char)(0x30 + (len >> 8)));
	strbuf_add_char(data, (char)len);
	strbuf_add_text(data, text);
}

static void add_pair(struct strbuf *data, const char *name, const char *value)
{
	add_text(data, name);
	add_text(data, value);
}

// The strings at the start of a request.
static struct strbuf make_start(const char *types)
{
	struct strbuf data = {0};
	add_text(&data, "2.0.2");
	add_text(&data, "com.example.Demo");
	add_text(&data, "1.0.0");
	add_text(&data, "sayHello");
	add_text(&data, types);
	return data;
}

static struct strbuf make_request(uint8_t flags, struct strbuf *data)
{
	struct strbuf bytes = make_frame(flags, 0, strbuf_str(data));
	strbuf_done(data);
	return bytes;
}

static void test_vector(void **state)
{
	(void)state;
	static const char text[] = "\xda\xbb\xc2\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x25"
				   "\x05"
				   "2.0.2"
				   "\x08"
				   "a.b.Demo"
				   "N"
				   "\x05"
				   "hello"
				   "\x01"
				   "I"
				   "\x91"
				   "H\x05"
				   "group\x01"
				   "gZ";
	struct strbuf bytes = {0};
	strbuf_add(&bytes, text, sizeof text - 1);
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.kind, FRAME_REQUEST);
	assert_int_equal(frame.id, 7);
	assert_int_equal(frame.length, 16 + 0x25);
	assert_int_equal(frame.timeout_ms, 0);
	assert_str(head.authority, "a.b.Demo");
	assert_str(head.method, "hello");
	assert_int_equal(head.field_count, 3);
	assert_field("parameter_types", "I");
	assert_field("group", "g");
	assert_field("interface", "a.b.Demo");
	strbuf_done(&bytes);
}

static void test_request(void **state)
{
	(void)state;
	struct strbuf data = make_start("Ljava/lang/String;");
	add_text(&data, "world");
	strbuf_add_char(&data, 'H');
	add_pair(&data, "path", "com.example.Demo");
	add_pair(&data, "interface", "com.example.DemoFace");
	add_pair(&data, "group", "blue");
	add_pair(&data, "timeout", "3000");
	add_pair(&data, "version", "9.9.9");
	strbuf_add_char(&data, 'Z');
	struct strbuf bytes = make_request(0xc2, &data);
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.kind, FRAME_REQUEST);
	assert_true(frame.id == 0x1122334455667788);
	assert_int_equal(frame.length, bytes.len);
	assert_int_equal(frame.head, bytes.len);
	assert_int_equal(frame.id_at, 4);
	assert_int_equal(frame.id_size, 8);
	assert_int_equal(frame.variant, 2);
	assert_int_equal(frame.timeout_ms, 3000);
	assert_str(head.authority, "com.example.Demo");
	assert_str(head.method, "sayHello");
	assert_field("version", "1.0.0"); // the one that the server goes by
	assert_field("parameter_types", "Ljava/lang/String;");
	assert_field("interface", "com.example.DemoFace");
	assert_field("group", "blue");
	assert_field("path", "com.example.Demo");
	assert_field("timeout", "3000");
	strbuf_done(&bytes);
}

static void test_oneway(void **state)
{
	(void)state;
	struct strbuf data = make_start(""), bytes;
	strbuf_add_text(&data, "HZ");
	bytes = make_request(0x82, &data);
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.kind, FRAME_ONEWAY);
	assert_str(head.method, "sayHello");
	strbuf_done(&bytes);
}

// Arguments of these types with these values, then an attachment: whether it was found.
static bool finds_group(const char *types, struct str values)
{
	struct strbuf data = make_start(types);
	strbuf_add_str(&data, values);
	strbuf_add_char(&data, 'H');
	add_pair(&data, "group", "blue");
	strbuf_add_char(&data, 'Z');
	struct strbuf bytes = make_request(0xc2, &data);
	assert_int_equal(decode(&bytes), 0);
	assert_str(head.authority, "com.example.Demo");
	assert_field("interface", "com.example.Demo");
	const struct field *field = head_find(&head, STR("group"));
	bool found = field && str_eq(field->value, STR("blue"));
	assert_int_equal(found, field != NULL);
	strbuf_done(&bytes);
	return found;
}

static void test_arguments(void **state)
{
	(void)state;
	assert_true(finds_group("", STR("")));
	assert_true(finds_group("I", STR("\x91")));
	assert_true(finds_group("ZBCDFIJS", STR("T\x90\x01"
						"c\x5b\x5c\x90\xe0\x91")));
	assert_true(finds_group("[I", STR("\x72\x04[int\x90\x91")));
	assert_true(finds_group("[[Ljava/lang/String;J", STR("N\xe1")));
	assert_true(finds_group("Ljava/util/Map;Ljava/lang/String;", STR("H\x01"
									 "aHZZ\x02"
									 "\xc3\xa9!")));
	assert_true(finds_group("Lcom/example/A;Lcom/example/A;", STR("C\x01"
								      "a\x91\x01x\x60\x03"
								      "abc"
								      "\x60N")));
	// The call is routed by its start where the arguments cannot be walked over.
	assert_false(finds_group("Q", STR("\x91")));
	assert_false(finds_group("I[", STR("\x91\x91")));
	assert_false(finds_group("Ljava/lang/String", STR("\x00")));
	assert_false(finds_group("I", STR("\x40")));
	assert_false(finds_group("II", STR("\x91")));
	assert_false(finds_group("I", STR("\x91\x91")));
	char deep[LIMIT_HESSIAN_DEPTH + 2];
	memset(deep, 0x79, sizeof deep - 1);
	deep[sizeof deep - 1] = 'N';
	assert_false(finds_group("[I", (struct str){deep, sizeof deep}));
}

// Which attachments count: strings under strings.
static void test_attachments(void **state)
{
	(void)state;
	struct strbuf data = make_start("");
	strbuf_add_text(&data, "M");
	add_text(&data, "java.util.HashMap");
	strbuf_add_text(&data, "\x91\x92"); // a number under a number
	add_text(&data, "list");
	strbuf_add_text(&data, "\x79N");
	strbuf_add_text(&data, "N\x01v"); // a text under null
	add_text(&data, "timeout");
	strbuf_add_str(&data, STR("\xcb\xe8")); // 1000
	add_text(&data, "long");
	strbuf_add_str(&data, STR("R\x00\x01"
				  "a\x01"
				  "b"));
	add_pair(&data, "tag", "");
	strbuf_add_text(&data, "Z");
	struct strbuf bytes = make_request(0xc2, &data);
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.timeout_ms, 1000);
	assert_int_equal(head.field_count, 3);
	assert_field("version", "1.0.0");
	assert_field("tag", "");
	assert_field("interface", "com.example.Demo");
	strbuf_done(&bytes);
}

static uint32_t timeout_of(const char *text)
{
	struct strbuf data = make_start("");
	strbuf_add_char(&data, 'H');
	add_pair(&data, "timeout", text);
	strbuf_add_char(&data, 'Z');
	struct strbuf bytes = make_request(0xc2, &data);
	assert_int_equal(decode(&bytes), 0);
	strbuf_done(&bytes);
	return frame.timeout_ms;
}

static void test_timeout(void **state)
{
	(void)state;
	assert_int_equal(timeout_of("250"), 250);
	assert_int_equal(timeout_of("0"), 0);
	assert_int_equal(timeout_of("-1"), 0);
	assert_int_equal(timeout_of("soon"), 0);
	assert_int_equal(timeout_of("99999999999"), UINT32_MAX);
}

static int decode_data(struct strbuf *data)
{
	struct strbuf bytes = make_request(0xc2, data);
	int err = decode(&bytes);
	strbuf_done(&bytes);
	return err;
}

static void test_malformed_start(void **state)
{
	(void)state;
	struct strbuf data = {0};
	assert_int_equal(decode_data(&data), ERR_MALFORMED); // nothing
	add_text(&data, "2.0.2");
	add_text(&data, "com.example.Demo");
	assert_int_equal(decode_data(&data), ERR_MALFORMED); // ends early
	add_text(&data, "2.0.2");
	strbuf_add_text(&data, "\x91"); // a number for the path
	add_text(&data, "1.0.0");
	add_text(&data, "sayHello");
	add_text(&data, "");
	assert_int_equal(decode_data(&data), ERR_MALFORMED);
	add_text(&data, "2.0.2");
	strbuf_add_str(&data, STR("R\x00\x01"
				  "a\x01"
				  "b")); // in two pieces
	add_text(&data, "1.0.0");
	add_text(&data, "sayHello");
	add_text(&data, "");
	assert_int_equal(decode_data(&data), ERR_MALFORMED);
	strbuf_add_text(&data, "\x05"
			       "2.0.2\x02\xff\xff");
	assert_int_equal(decode_data(&data), ERR_MALFORMED);
}

static void test_too_many_fields(void **state)
{
	(void)state;
	struct strbuf data = make_start("");
	strbuf_add_char(&data, 'H');
	for (int i = 0; i < FRAMED_FIELDS; i++)
		add_pair(&data, "k", "v");
	strbuf_add_char(&data, 'Z');
	assert_int_equal(decode_data(&data), ERR_LIMIT);
	data = make_start("");
	strbuf_add_char(&data, 'H');
	for (int i = 0; i < FRAMED_FIELDS - 2; i++)
		add_pair(&data, "k", "v");
	strbuf_add_char(&data, 'Z');
	assert_int_equal(decode_data(&data), 0);
	assert_int_equal(head.field_count, FRAMED_FIELDS);
}

// Only the start of a long frame is looked into.
static void test_long_frame(void **state)
{
	(void)state;
	struct strbuf data = make_start("[B");
	for (int i = 0; i < 3; i++) {
		strbuf_add_str(&data, i < 2 ? STR("A\xff\xff") : STR("B\xff\xff"));
		memset(strbuf_reserve(&data, 65535), 'z', 65535);
		data.len += 65535;
	}
	strbuf_add_char(&data, 'H');
	add_pair(&data, "group", "blue");
	strbuf_add_char(&data, 'Z');
	struct strbuf bytes = make_request(0xc2, &data);
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.length, bytes.len);
	assert_int_equal(frame.head, LIMIT_FRAME_HEAD);
	assert_str(head.method, "sayHello");
	assert_null(head_find(&head, STR("group")));
	assert_field("interface", "com.example.Demo");
	strbuf_done(&bytes);
	add_text(&data, "2.0.2");
	for (int i = 0; i < 3; i++) {
		strbuf_add_str(&data, STR("S\xff\xff"));
		memset(strbuf_reserve(&data, 65535), 'z', 65535);
		data.len += 65535;
	}
	assert_int_equal(decode_data(&data), ERR_LIMIT);
}

// What is serialized in another way goes where its address says.
static void test_other_serialization(void **state)
{
	(void)state;
	struct strbuf bytes = make_frame(0xc6, 0, STR("\"2.0.2\"\n\"com.example.Demo\"\n"));
	head.authority = STR("before");
	assert_int_equal(decode(&bytes), 0);
	assert_int_equal(frame.kind, FRAME_REQUEST);
	assert_int_equal(frame.variant, 6);
	assert_int_equal(frame.head, 16);
	assert_int_equal(head.authority.len, 0);
	assert_int_equal(head.method.len, 0);
	assert_int_equal(head.field_count, 0);
	strbuf_done(&bytes);
}

// --- the other frames -----------------------------------------------------------------------
static void check_kind(uint8_t flags, uint8_t status, struct str data, int kind)
{
	struct strbuf bytes = make_frame(flags, status, data);
	assert_int_equal(measure(strbuf_str(&bytes)), 0);
	assert_int_equal(frame.kind, kind);
	assert_int_equal(frame.length, 16 + data.len);
	assert_int_equal(frame.variant, flags & 0x1f);
	assert_int_equal(frame.status, kind == FRAME_RESPONSE ? status : frame.status);
	strbuf_done(&bytes);
}

static void test_kinds(void **state)
{
	(void)state;
	check_kind(0x02, 20, STR("\x94\x05hello"), FRAME_RESPONSE);
	check_kind(0x02, 31, STR("\x07timeout"), FRAME_RESPONSE);
	check_kind(0x06, 20, STR(""), FRAME_RESPONSE);
	check_kind(0xe2, 0, STR("N"), FRAME_HEARTBEAT);
	check_kind(0xe2, 0, STR(""), FRAME_HEARTBEAT);
	check_kind(0xe2, 0, STR("NNNNNNNN"), FRAME_HEARTBEAT);
	check_kind(0xe6, 0, STR("null"), FRAME_HEARTBEAT);
	check_kind(0x22, 20, STR("N"), FRAME_HEARTBEAT_ACK);
	check_kind(0x22, 20, STR("NN"), FRAME_HEARTBEAT_ACK);
	check_kind(0xa2, 0, STR("N"), FRAME_HEARTBEAT_ACK); // wants no answer
	check_kind(0xa2, 0, STR("\x01W"), FRAME_HEARTBEAT_ACK);
	check_kind(0xa2, 0, STR("\x01R"), FRAME_GOAWAY);
	check_kind(0xe2, 0, STR("\x01R"), FRAME_GOAWAY);
	check_kind(0xa2, 0, STR("S\x00\x01R"), FRAME_GOAWAY);
	check_kind(0xa2, 0, STR("\x02R!"), FRAME_HEARTBEAT_ACK);
	check_kind(0xa6, 0, STR("\x01R"), FRAME_HEARTBEAT_ACK);
}

static void test_malformed(void **state)
{
	(void)state;
	assert_int_equal(measure(STR("")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\xda")), ERR_NEED_MORE);
	assert_int_equal(measure(STR("\xdb")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\xda\xbc\xc2")), ERR_MALFORMED);
	assert_int_equal(measure(STR("GET / HTTP/1.1\r\n")), ERR_MALFORMED);
	assert_int_equal(measure(STR("\xda\xbb\xc2\x00\x00\x00\x00\x00\x00\x00\x00\x07\x3f\xff\xff\xf0")), 0);
	assert_int_equal(frame.length, LIMIT_FRAME_BYTES);
	assert_int_equal(measure(STR("\xda\xbb\xc2\x00\x00\x00\x00\x00\x00\x00\x00\x07\x3f\xff\xff\xf1")),
			 ERR_LIMIT);
	assert_int_equal(measure(STR("\xda\xbb\xc2\x00\x00\x00\x00\x00\x00\x00\x00\x07\xff\xff\xff\xff")),
			 ERR_LIMIT);
}

// --- what the proxy makes -------------------------------------------------------------------
static uint8_t made[256];
static struct writer out;

static void assert_made(struct str expected)
{
	assert_int_equal(out.err, 0);
	assert_int_equal(out.len, expected.len);
	assert_memory_equal(made, expected.p, expected.len);
}

static void test_events(void **state)
{
	(void)state;
	writer_init(&out, made, sizeof made);
	dubbo_codec.write_heartbeat(&dubbo_codec, 6, 0x1122334455667788, &out);
	assert_made(STR("\xda\xbb\xe2\x00\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00\x01N"));
	writer_init(&out, made, sizeof made);
	dubbo_codec.write_goaway(&dubbo_codec, 6, 9, &out);
	assert_made(STR("\xda\xbb\xa2\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x02\x01R"));
	assert_int_equal(measure(STR("\xda\xbb\xe6\x00\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00\x01N")),
			 0);
	writer_init(&out, made, sizeof made);
	dubbo_codec.write_heartbeat_ack(&dubbo_codec, &frame, &out);
	assert_made(STR("\xda\xbb\x22\x14\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00\x01N"));
}

static void check_failure(enum rpc_failure failure, uint8_t status, uint16_t http_status)
{
	struct frame request = {.id = 3, .kind = FRAME_REQUEST, .variant = 6};
	writer_init(&out, made, sizeof made);
	writer_u8(&out, 'x'); // what is in front stays
	dubbo_codec.write_failure(&dubbo_codec, &request, failure, STR("no route"), &out);
	assert_int_equal(made[4], status);
	made[4] = 0;
	assert_made(STR("x\xda\xbb\x02\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x09\x08no route"));
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, status), http_status);
}

static void test_failures(void **state)
{
	(void)state;
	check_failure(RPC_NO_ROUTE, 60, 404);
	check_failure(RPC_UNAVAILABLE, 80, 500);
	check_failure(RPC_LOST, 80, 500);
	check_failure(RPC_TIMEOUT, 31, 504);
	check_failure(RPC_OVERLOADED, 100, 503);
	check_failure(RPC_MALFORMED, 40, 400);
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, 20), 200);
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, 30), 504);
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, 50), 502);
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, 70), 500);
	assert_int_equal(dubbo_codec.http_status(&dubbo_codec, 90), 500);
	struct frame request = {.id = 3};
	writer_init(&out, made, 20);
	dubbo_codec.write_failure(&dubbo_codec, &request, RPC_LOST, STR("no room for this"), &out);
	assert_int_equal(out.err, ERR_LIMIT);
}

static void test_detect(void **state)
{
	(void)state;
	assert_int_equal(dubbo_codec.detect(&dubbo_codec, STR("")), DETECT_MAYBE);
	assert_int_equal(dubbo_codec.detect(&dubbo_codec, STR("\xda")), DETECT_MAYBE);
	assert_int_equal(dubbo_codec.detect(&dubbo_codec, STR("\xda\xbb")), DETECT_YES);
	assert_int_equal(dubbo_codec.detect(&dubbo_codec, STR("\xda\xbc")), DETECT_NO);
	assert_int_equal(dubbo_codec.detect(&dubbo_codec, STR("\x01")), DETECT_NO);
	assert_string_equal(dubbo_codec.name, protocol_name(dubbo_codec.protocol));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_vector),	    cmocka_unit_test(test_request),
	    cmocka_unit_test(test_oneway),	    cmocka_unit_test(test_arguments),
	    cmocka_unit_test(test_attachments),	    cmocka_unit_test(test_timeout),
	    cmocka_unit_test(test_malformed_start), cmocka_unit_test(test_too_many_fields),
	    cmocka_unit_test(test_long_frame),	    cmocka_unit_test(test_other_serialization),
	    cmocka_unit_test(test_kinds),	    cmocka_unit_test(test_malformed),
	    cmocka_unit_test(test_events),	    cmocka_unit_test(test_failures),
	    cmocka_unit_test(test_detect),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
