// SPDX-License-Identifier: Apache-2.0
// SOFABolt: vectors that another implementation has read, every frame as each of its prefixes from memory of
// exactly that size, header maps of all lengths, and what the proxy writes read back.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/bolt.h"
#include "codecs/registry.h"

#include <stdlib.h>

#define REQUEST_CLASS  "com.alipay.sofa.rpc.core.request.SofaRequest"
#define RESPONSE_CLASS "com.alipay.sofa.rpc.core.response.SofaResponse"
#define MAP                                                                                                  \
	"\0\0\0\7service\0\0\0\x1f"                                                                          \
	"com.alipay.test.TestService:1.0"

static const struct str V1_REQUEST =
    STR("\1\1\0\1\1\x11\x22\x33\x44\1\0\0\x0b\xb8\0\x2c\0\x2e\0\0\0\4" REQUEST_CLASS MAP "\1\2\3\4");
static const struct str V1_RESPONSE =
    STR("\1\0\0\2\1\x11\x22\x33\x44\1\0\0\0\x2e\0\0\0\0\0\4" RESPONSE_CLASS "\1\2\3\4");
static const struct str V1_HEARTBEAT = STR("\1\1\0\0\1\0\0\0\7\1\xff\xff\xff\xff\0\0\0\0\0\0\0\0");
static const struct str V1_HEARTBEAT_ACK = STR("\1\0\0\0\1\0\0\0\7\1\0\0\0\0\0\0\0\0\0\0");
static const struct str V2_REQUEST =
    STR("\2\1\1\0\1\1\x11\x22\x33\x44\1\0\0\0\x0b\xb8\0\x2c\0\x2e\0\0\0\4" REQUEST_CLASS MAP "\1\2\3\4");
static const struct str V2_RESPONSE =
    STR("\2\1\0\0\2\1\x11\x22\x33\x44\1\0\0\0\0\x2e\0\0\0\0\0\4" RESPONSE_CLASS "\1\2\3\4");
static const struct str V2_CRC =
    STR("\2\2\1\0\1\1\x11\x22\x33\x44\1\1\0\0\x0b\xb8\0\x2c\0\x2e\0\0\0\4" REQUEST_CLASS MAP
	"\1\2\3\4\xf5\xc5\x25\x42");

static int measure(struct str bytes, struct frame *ret_frame)
{
	return bolt_codec.measure(&bolt_codec, bytes, ret_frame);
}

static int measure_prefix(struct str bytes, size_t len, struct frame *ret_frame)
{
	char *copy = malloc(len ? len : 1);
	memcpy(copy, bytes.p, len);
	int err = measure((struct str){copy, len}, ret_frame);
	free(copy);
	return err;
}

// The answer is ERR_NEED_MORE up to one length, and the same from there on.
static struct frame measure_every_way(struct str bytes, size_t fixed)
{
	struct frame whole, part;
	assert_int_equal(measure(bytes, &whole), 0);
	for (size_t len = 0; len <= bytes.len; len++) {
		int err = measure_prefix(bytes, len, &part);
		assert_int_equal(err, len < fixed ? ERR_NEED_MORE : 0);
		if (!err)
			assert_true(part.length == whole.length && part.head == whole.head &&
				    part.id == whole.id && part.variant == whole.variant);
	}
	return whole;
}

static void test_measure(void **state)
{
	(void)state;
	const struct {
		struct str bytes;
		size_t fixed;
		enum frame_kind kind;
		uint32_t id, timeout_ms;
		uint16_t id_at;
		enum frame_checksum checksum;
	} rows[] = {
	    {V1_REQUEST, 22, FRAME_REQUEST, 0x11223344, 3000, 5, FRAME_CHECKSUM_NONE},
	    {V1_RESPONSE, 20, FRAME_RESPONSE, 0x11223344, 0, 5, FRAME_CHECKSUM_NONE},
	    {V1_HEARTBEAT, 22, FRAME_HEARTBEAT, 7, 0, 5, FRAME_CHECKSUM_NONE},
	    {V1_HEARTBEAT_ACK, 20, FRAME_HEARTBEAT_ACK, 7, 0, 5, FRAME_CHECKSUM_NONE},
	    {V2_REQUEST, 24, FRAME_REQUEST, 0x11223344, 3000, 6, FRAME_CHECKSUM_NONE},
	    {V2_RESPONSE, 22, FRAME_RESPONSE, 0x11223344, 0, 6, FRAME_CHECKSUM_NONE},
	    {V2_CRC, 24, FRAME_REQUEST, 0x11223344, 3000, 6, FRAME_CHECKSUM_CRC32},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct frame frame = measure_every_way(rows[i].bytes, rows[i].fixed);
		assert_int_equal(frame.length, rows[i].bytes.len);
		assert_true(frame.head <= frame.length);
		assert_int_equal(frame.kind, rows[i].kind);
		assert_int_equal(frame.id, rows[i].id);
		assert_int_equal(frame.timeout_ms, rows[i].timeout_ms);
		assert_int_equal(frame.id_at, rows[i].id_at);
		assert_int_equal(frame.id_size, 4);
		assert_int_equal(frame.checksum, rows[i].checksum);
	}
}

// One byte of a good frame is another.
static int measure_with(struct str bytes, size_t at, char byte, struct frame *ret_frame)
{
	char copy[256];
	memcpy(copy, bytes.p, bytes.len);
	copy[at] = byte;
	return measure((struct str){copy, bytes.len}, ret_frame);
}

static void test_kinds(void **state)
{
	struct frame frame;
	(void)state;
	assert_int_equal(measure_with(V1_REQUEST, 1, 2, &frame), 0);
	assert_int_equal(frame.kind, FRAME_ONEWAY);
	assert_int_equal(measure_with(V1_REQUEST, 3, 100, &frame), 0);
	assert_int_equal(frame.kind, FRAME_GOAWAY);
	assert_int_equal(measure_with(V1_REQUEST, 0, 3, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_REQUEST, 0, 0, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_REQUEST, 1, 3, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_REQUEST, 2, 1, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_REQUEST, 3, 2, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_HEARTBEAT, 1, 2, &frame), ERR_MALFORMED);
	assert_int_equal(measure_with(V1_REQUEST, 10, '\x80', &frame), 0); // a timeout below zero is none
	assert_int_equal(frame.timeout_ms, 0);
	assert_int_equal(measure_with(V2_CRC, 1, 1, &frame), 0); // the switch alone makes no CRC
	assert_int_equal(frame.checksum, FRAME_CHECKSUM_NONE);
	assert_int_equal(frame.length, V2_CRC.len - 4);
	assert_int_equal(measure_with(V2_CRC, 11, 2, &frame), 0); // nor do other bits
	assert_int_equal(frame.checksum, FRAME_CHECKSUM_NONE);
}

// The longest, and one byte more; all lengths at their most: no overflow.
static void test_lengths(void **state)
{
#define LONG "\1\1\0\1\1\0\0\0\7\1\xff\xff\xff\xff\xff\xff\xff\xff"
	struct frame frame;
	(void)state;
	assert_int_equal(measure(STR(LONG "\x3f\xfd\xff\xec"), &frame), 0);
	assert_int_equal(frame.head, 22 + 65535 * 2);
	assert_int_equal(frame.length, LIMIT_FRAME_BYTES);
	assert_int_equal(measure(STR(LONG "\x3f\xfd\xff\xed"), &frame), ERR_LIMIT);
	assert_int_equal(measure(STR(LONG "\xff\xff\xff\xff"), &frame), ERR_LIMIT);
}

// --- the header map -----------------------------------------------------------------------------------------
// A frame around that map, to be freed.
static struct strbuf request_with(const char *map, size_t len)
{
	struct strbuf out = {0};
	strbuf_add(&out, "\1\1\0\1\1\0\0\0\1\1\xff\xff\xff\xff\0\3", 16);
	strbuf_add_char(&out, (char)(len >> 8));
	strbuf_add_char(&out, (char)len);
	strbuf_add(&out, "\0\0\0\0cls", 7);
	strbuf_add(&out, map, len);
	return out;
}

static int decode(struct str bytes, uint16_t max_fields, struct head *ret_head)
{
	static struct field fields[LIMIT_RPC_FIELDS];
	struct frame frame;
	*ret_head = (struct head){.fields = fields};
	assert_int_equal(measure(bytes, &frame), 0);
	char *copy = malloc(frame.head); // no byte behind it may be read
	memcpy(copy, bytes.p, frame.head);
	int err =
	    bolt_codec.decode(&bolt_codec, &frame, (struct str){copy, frame.head}, max_fields, ret_head);
	// The views point into the copy: the same places of the original live on.
	for (unsigned i = 0; !err && i < ret_head->field_count; i++) {
		fields[i].name.p = bytes.p + (fields[i].name.p - copy);
		fields[i].value.p = bytes.p + (fields[i].value.p - copy);
	}
	if (!err && ret_head->authority.len)
		ret_head->authority.p = bytes.p + (ret_head->authority.p - copy);
	if (!err && ret_head->method.len)
		ret_head->method.p = bytes.p + (ret_head->method.p - copy);
	free(copy);
	return err;
}

static int decode_map(const char *map, size_t len, struct head *ret_head, struct strbuf *ret_bytes)
{
	*ret_bytes = request_with(map, len);
	return decode(strbuf_str(ret_bytes), LIMIT_RPC_FIELDS, ret_head);
}

#define CHECK_MAP(map, expected)                                                                             \
	do {                                                                                                 \
		struct head _head;                                                                           \
		struct strbuf _bytes;                                                                        \
		assert_int_equal(decode_map(map, sizeof map - 1, &_head, &_bytes), expected);                \
		strbuf_done(&_bytes);                                                                        \
	} while (0)

static void test_vectors(void **state)
{
	struct head head;
	(void)state;
	const struct str vectors[] = {V1_REQUEST, V2_REQUEST, V2_CRC};
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		assert_int_equal(decode(vectors[i], 8, &head), 0);
		assert_str(head.authority, "com.alipay.test.TestService:1.0");
		assert_int_equal(head.method.len, 0);
		assert_int_equal(head.field_count, 1);
		assert_str(head.fields[0].name, "service");
	}
}

static void test_names(void **state)
{
	struct head head;
	struct strbuf bytes;
	(void)state;
	static const char old[] =
	    "\0\0\0\x18sofa_head_target_service\0\0\0\1O\0\0\0\x15sofa_head_method_name\0\0\0\1m";
	assert_int_equal(decode_map(old, sizeof old - 1, &head, &bytes), 0);
	assert_str(head.authority, "O");
	assert_str(head.method, "m");
	strbuf_done(&bytes);
	static const char twice[] =
	    "\0\0\0\7service\0\0\0\1A\0\0\0\7service\0\0\0\1B\0\0\0\x18sofa_head_target_service\0\0\0\1O";
	assert_int_equal(decode_map(twice, sizeof twice - 1, &head, &bytes), 0);
	assert_str(head.authority, "B");
	assert_int_equal(head.field_count, 3);
	strbuf_done(&bytes);
}

static void test_nulls(void **state)
{
	struct head head;
	struct strbuf bytes;
	(void)state;
	static const char map[] =
	    "\xff\xff\xff\xff\0\0\0\1v\0\0\0\1k\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
	    "\0\0\0\1a\0\0\0\0\0\0\0\0\0\0\0\1b";
	assert_int_equal(decode_map(map, sizeof map - 1, &head, &bytes), 0);
	assert_int_equal(head.field_count, 2);
	assert_str(head.fields[0].name, "a");
	assert_int_equal(head.fields[0].value.len, 0);
	assert_int_equal(head.fields[1].name.len, 0);
	assert_str(head.fields[1].value, "b");
	strbuf_done(&bytes);
}

static void test_malformed_maps(void **state)
{
	(void)state;
	CHECK_MAP("\0", ERR_MALFORMED);
	CHECK_MAP("\0\0\0\1", ERR_MALFORMED);
	CHECK_MAP("\0\0\0\1a", ERR_MALFORMED);
	CHECK_MAP("\0\0\0\1a\0\0\0", ERR_MALFORMED);
	CHECK_MAP("\0\0\0\1a\0\0\0\2b", ERR_MALFORMED);
	CHECK_MAP("\xff\xff\xff\xfe\0\0\0\0", ERR_MALFORMED);
	CHECK_MAP("\0\0\0\0\x80\0\0\0", ERR_MALFORMED);
	CHECK_MAP("\x7f\xff\xff\xff"
		  "a\0\0\0\0",
		  ERR_MALFORMED);
	CHECK_MAP("\xff\xff\xff\xff", ERR_MALFORMED);
	CHECK_MAP("", 0);
}

static void test_lengths_of_maps(void **state)
{
	static const size_t lengths[] = {127, 128, 255, 256, 32767, 65535};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct head head;
		struct strbuf bytes;
		size_t value = lengths[i] - 9;
		char *map = calloc(1, lengths[i]);
		memcpy(map, "\0\0\0\1k", 5);
		map[7] = (char)(value >> 8);
		map[8] = (char)value;
		assert_int_equal(decode_map(map, lengths[i], &head, &bytes), 0);
		assert_int_equal(head.field_count, 1);
		assert_int_equal(head.fields[0].value.len, value);
		map[8]++; // a byte more than there is
		map[7] = (char)(map[7] + (map[8] == 0));
		strbuf_done(&bytes);
		assert_int_equal(decode_map(map, lengths[i], &head, &bytes), ERR_MALFORMED);
		strbuf_done(&bytes);
		free(map);
	}
}

static void test_limit_of_pairs(void **state)
{
	struct head head;
	struct strbuf map = {0};
	(void)state;
	for (int i = 0; i < 3; i++)
		strbuf_add(&map, "\0\0\0\1k\0\0\0\1v", 10);
	struct strbuf bytes = request_with(map.p, map.len);
	assert_int_equal(decode(strbuf_str(&bytes), 3, &head), 0);
	assert_int_equal(decode(strbuf_str(&bytes), 2, &head), ERR_LIMIT);
	strbuf_done(&map);
	strbuf_done(&bytes);
}

// --- ids and checksums --------------------------------------------------------------------------------------
static void check_id(struct str bytes, uint64_t id)
{
	uint8_t copy[256];
	struct frame frame, changed;
	memcpy(copy, bytes.p, bytes.len);
	assert_int_equal(measure(bytes, &frame), 0);
	assert_true(frame_checksum_fits(&frame, copy));
	uint32_t change = frame_set_id(&frame, copy, id);
	if (frame.checksum) {
		assert_int_equal(frame_checksum_fits(&frame, copy), change == 0);
		frame_checksum_change(copy + frame.length - 4, change);
	} else {
		assert_int_equal(change, 0);
	}
	assert_int_equal(measure((struct str){(char *)copy, bytes.len}, &changed), 0);
	assert_true(frame_checksum_fits(&changed, copy));
	assert_int_equal(changed.id, id);
	change = frame_set_id(&changed, copy, frame.id);
	if (frame.checksum)
		frame_checksum_change(copy + frame.length - 4, change);
	assert_memory_equal(copy, bytes.p, bytes.len);
}

static void test_ids(void **state)
{
	static const uint64_t ids[] = {0, 1, 0x11223344, 0x7fffffff, 0x80000000, 0xffffffff};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		check_id(V1_REQUEST, ids[i]);
		check_id(V1_RESPONSE, ids[i]);
		check_id(V2_REQUEST, ids[i]);
		check_id(V2_CRC, ids[i]);
	}
}

// A flaw in the frame is still one when the id was changed.
static void test_a_wrong_checksum_stays_wrong(void **state)
{
	uint8_t copy[256];
	struct frame frame;
	(void)state;
	for (size_t at = 24; at < V2_CRC.len; at++) {
		memcpy(copy, V2_CRC.p, V2_CRC.len);
		copy[at] ^= 0x20;
		assert_int_equal(measure((struct str){(char *)copy, V2_CRC.len}, &frame), 0);
		assert_false(frame_checksum_fits(&frame, copy));
		frame_checksum_change(copy + frame.length - 4, frame_set_id(&frame, copy, 99));
		assert_false(frame_checksum_fits(&frame, copy));
	}
}

// --- frames of the proxy's own ------------------------------------------------------------------------------
static void test_heartbeats(void **state)
{
	uint8_t bytes[64];
	struct writer w;
	struct frame frame;
	(void)state;
	writer_init(&w, bytes, sizeof bytes);
	bolt_codec.write_heartbeat(&bolt_codec, 0, 7, &w);
	assert_int_equal(w.len, V1_HEARTBEAT.len);
	assert_memory_equal(bytes, V1_HEARTBEAT.p, w.len);
	assert_int_equal(measure(V1_HEARTBEAT, &frame), 0);
	writer_init(&w, bytes, sizeof bytes);
	bolt_codec.write_heartbeat_ack(&bolt_codec, &frame, &w);
	assert_int_equal(w.len, V1_HEARTBEAT_ACK.len);
	assert_memory_equal(bytes, V1_HEARTBEAT_ACK.p, w.len);
}

// In the version of what it answers, and with a CRC if that had one.
static void test_failures(void **state)
{
	static const uint16_t expected[] = {
	    [RPC_NO_ROUTE] = 6, [RPC_UNAVAILABLE] = 0x10, [RPC_LOST] = 0x10,
	    [RPC_TIMEOUT] = 7,	[RPC_OVERLOADED] = 4,	  [RPC_MALFORMED] = 9,
	};
	const struct str requests[] = {V1_REQUEST, V2_REQUEST, V2_CRC};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(requests) * ARRAY_SIZE(expected); i++) {
		uint8_t bytes[64];
		struct writer w;
		struct frame request, answer;
		enum rpc_failure failure = (enum rpc_failure)(i % ARRAY_SIZE(expected));
		assert_int_equal(measure(requests[i / ARRAY_SIZE(expected)], &request), 0);
		writer_init(&w, bytes, sizeof bytes);
		bolt_codec.write_failure(&bolt_codec, &request, failure, STR("text"), &w);
		assert_int_equal(measure((struct str){(char *)bytes, w.len}, &answer), 0);
		assert_int_equal(answer.length, w.len);
		assert_int_equal(answer.kind, FRAME_RESPONSE);
		assert_int_equal(answer.id, request.id);
		assert_int_equal(answer.variant, request.variant);
		assert_int_equal(answer.status, expected[failure]);
		assert_true(frame_checksum_fits(&answer, bytes));
	}
}

static void test_http_status(void **state)
{
	static const uint16_t rows[][2] = {{0, 200},	{1, 500},    {2, 500},	 {3, 500}, {4, 503},
					   {5, 500},	{6, 404},    {7, 504},	 {8, 500}, {9, 500},
					   {0x10, 502}, {0x11, 500}, {0x12, 500}};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(bolt_codec.http_status(&bolt_codec, rows[i][0]), rows[i][1]);
}

static void test_registry(void **state)
{
	(void)state;
	assert_ptr_equal(codec_find(codecs_builtin, codecs_builtin_count, STR("bolt")), &bolt_codec);
	assert_null(codec_find(codecs_builtin, codecs_builtin_count, STR("bol")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_measure),
	    cmocka_unit_test(test_kinds),
	    cmocka_unit_test(test_lengths),
	    cmocka_unit_test(test_vectors),
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_nulls),
	    cmocka_unit_test(test_malformed_maps),
	    cmocka_unit_test(test_lengths_of_maps),
	    cmocka_unit_test(test_limit_of_pairs),
	    cmocka_unit_test(test_ids),
	    cmocka_unit_test(test_a_wrong_checksum_stays_wrong),
	    cmocka_unit_test(test_heartbeats),
	    cmocka_unit_test(test_failures),
	    cmocka_unit_test(test_http_status),
	    cmocka_unit_test(test_registry),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
