// SPDX-License-Identifier: Apache-2.0
// What stands between plug-ins and the rest: functions that say what cannot be are found out, and tables that
// are wrong. (For plug-ins that behave see ../plugins.)
#include "test.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/plugin.h"
#include "codecs/streamed.h"

static struct plugin plugin;
static const char *reported;
static unsigned reports;

static void report(const struct plugin *of, const char *what)
{
	assert_ptr_equal(of, &plugin);
	reported = what;
	reports++;
}

static void load(const struct weir_plugin *table)
{
	reported = NULL;
	reports = 0;
	assert_null(plugin_init(table, report, &plugin));
	assert_true(codec_is_usable(&plugin.codec));
}

static void assert_reported(const char *what)
{
	assert_int_equal(reports, 1);
	assert_string_equal(reported, what);
	assert_false(codec_is_usable(&plugin.codec));
	assert_int_equal(plugin.codec.detect(&plugin.codec, STR("x")), DETECT_NO);
}

// --- a framed protocol of 4 bytes: kind, id, id, length of what follows ---------------------------------------
static struct weir_frame say; // overwrites what is not 0
static enum weir_result say_result;
static bool say_no_length;

static enum weir_result measure(struct weir_bytes bytes, struct weir_frame *frame)
{
	if (say_result)
		return say_result;
	if (bytes.len < 4)
		return WEIR_MORE;
	frame->kind = say.kind ? say.kind : bytes.p[0];
	frame->length = say.length ? say.length : 4u + bytes.p[3];
	frame->head = say.head ? say.head : (uint32_t)frame->length;
	frame->id_at = say.id_at ? say.id_at : 1;
	frame->id_size = say.id_size == 255 ? 0 : say.id_size ? say.id_size : 2;
	frame->variant = 7;
	frame->status = bytes.p[0];
	if (say_no_length)
		frame->length = 0;
	return WEIR_OK;
}

static struct weir_head say_head;
static struct weir_field say_field;
static enum weir_result say_decode;
static bool say_beyond;
static const char NAMES[] = "first second";

static enum weir_result decode(const struct weir_frame *frame, struct weir_bytes bytes,
			       struct weir_head *head)
{
	assert_int_equal(frame->id, 0x1234);
	assert_int_equal(frame->variant, 7);
	*head->fields = say_field;
	struct weir_field *fields = head->fields;
	uint16_t room = head->fields_max;
	*head = say_head;
	head->fields = fields;
	if (head->field_count == UINT16_MAX)
		head->field_count = (uint16_t)(room + 1);
	if (!head->service.p)
		head->service = (struct weir_bytes){bytes.p + 4, bytes.len - 4};
	if (say_beyond)
		head->service.len++;
	return say_decode;
}

static size_t say_written;
static uint8_t say_wrong_id;

static size_t write_kind(uint8_t kind, uint64_t id, uint8_t *out, size_t room)
{
	assert_true(room >= 512);
	out[0] = kind;
	out[1] = (uint8_t)(id >> 8);
	out[2] = (uint8_t)(id + say_wrong_id);
	out[3] = 0;
	return say_written ? say_written : 4;
}

static size_t write_failure(const struct weir_frame *request, enum weir_failure failure,
			    struct weir_bytes text, uint8_t *out, size_t room)
{
	assert_int_equal(failure, WEIR_TIMEOUT);
	assert_int_equal(text.len, 4);
	return write_kind(WEIR_RESPONSE, request->id, out, room);
}

static size_t write_heartbeat(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	assert_int_equal(variant, 7);
	return write_kind(WEIR_HEARTBEAT, id, out, room);
}

static size_t write_heartbeat_ack(const struct weir_frame *heartbeat, uint8_t *out, size_t room)
{
	return write_kind(WEIR_HEARTBEAT_ACK, heartbeat->id, out, room);
}

static size_t write_goaway(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	(void)variant;
	return write_kind(WEIR_GOAWAY, id, out, room);
}

static uint16_t say_http;

static uint16_t http_status(uint16_t status)
{
	return say_http ? say_http : (uint16_t)(200 + status);
}

static const struct weir_framed framed = {
    .size = sizeof framed,
    .name = "tiny",
    .first_id = 1,
    .last_id = 0xffff,
    .names = {(const uint8_t *)NAMES, sizeof NAMES - 1},
    .measure = measure,
    .decode = decode,
    .write_failure = write_failure,
    .write_heartbeat = write_heartbeat,
    .write_heartbeat_ack = write_heartbeat_ack,
    .write_goaway = write_goaway,
    .http_status = http_status,
};
static const struct weir_plugin table = {.abi = WEIR_PLUGIN_ABI, .size = sizeof table, .framed = &framed};

static int reset(void **state)
{
	(void)state;
	say = (struct weir_frame){0};
	say_result = say_decode = WEIR_OK;
	say_no_length = say_beyond = false;
	say_head = (struct weir_head){0};
	say_field = (struct weir_field){0};
	say_written = say_wrong_id = 0;
	say_http = 0;
	load(&table);
	return 0;
}

static struct frame frame;

static int measure_request(void)
{
	return plugin.codec.measure(&plugin.codec,
				    STR("\x00\x12\x34\x03"
					"abc"),
				    &frame);
}

static void test_a_frame(void **state)
{
	(void)state;
	assert_int_equal(measure_request(), 0);
	assert_int_equal(frame.id, 0x1234);
	assert_int_equal(frame.length, 7);
	assert_int_equal(frame.kind, FRAME_REQUEST);
	assert_int_equal(frame.variant, 7);
	assert_int_equal(plugin.codec.measure(&plugin.codec, STR("\x00\x12"), &frame), ERR_NEED_MORE);
	assert_string_equal(plugin.codec.name, "tiny");
	assert_true(plugin.codec.weak_signature);
	assert_int_equal(plugin.codec.detect(&plugin.codec, STR("\x00")), DETECT_NO);
	assert_int_equal(plugin.codec.http_status(&plugin.codec, 4), 204);
	assert_int_equal(reports, 0);
}

static void check_impossible(const char *what)
{
	assert_int_equal(measure_request(), ERR_MALFORMED);
	assert_reported(what);
	assert_int_equal(measure_request(), ERR_MALFORMED);
	assert_int_equal(reports, 1); // once
	reset(NULL);
}

static void test_impossible_frames(void **state)
{
	(void)state;
	say_no_length = true;
	check_impossible("a frame without length");
	say.head = 8;
	check_impossible("a head that is longer than its frame");
	say.kind = WEIR_GOAWAY + 1;
	check_impossible("a kind of frame that there is not");
	say.id_size = 9;
	check_impossible("an id of more than 8 bytes");
	say.id_size = 255;
	check_impossible("a call without an id");
	say.id_at = 6;
	check_impossible("an id outside of the head");
	say.id_at = UINT16_MAX;
	check_impossible("an id outside of the head");
	say.length = say.head = 100;
	say.id_at = 6;
	check_impossible("an answer before the id is there");
	say.id_size = 1;
	check_impossible("an id that has no room for last_id");
	say_result = (enum weir_result)3;
	check_impossible("a result that there is not");
}

// What the peer is to blame for.
static void test_not_to_blame(void **state)
{
	(void)state;
	say_result = WEIR_WRONG;
	assert_int_equal(measure_request(), ERR_MALFORMED);
	say_result = WEIR_OK;
	say.length = (uint64_t)LIMIT_FRAME_BYTES + 1;
	say.head = 10;
	assert_int_equal(measure_request(), ERR_LIMIT);
	say.length = LIMIT_FRAME_BYTES;
	say.head = LIMIT_FRAME_HEAD + 1;
	assert_int_equal(measure_request(), ERR_LIMIT);
	say.length = UINT64_MAX;
	assert_int_equal(measure_request(), ERR_LIMIT);
	say = (struct weir_frame){.kind = WEIR_HEARTBEAT, .id_size = 255};
	assert_int_equal(measure_request(), 0);
	assert_int_equal(frame.id_size, 0);
	assert_int_equal(reports, 0);
}

static void test_a_start_without_end(void **state)
{
	(void)state;
	struct strbuf bytes = {0};
	memset(strbuf_reserve(&bytes, LIMIT_FRAME_HEAD), 'x', LIMIT_FRAME_HEAD);
	bytes.len = LIMIT_FRAME_HEAD;
	say_result = WEIR_MORE;
	assert_int_equal(plugin.codec.measure(&plugin.codec, strbuf_str(&bytes), &frame), ERR_LIMIT);
	assert_int_equal(reports, 0); // the peer is to blame
	strbuf_done(&bytes);
}

// --- heads ----------------------------------------------------------------------------------------------------
static const struct str REQUEST = STR("\x00\x12\x34\x03"
				      "abc");
static struct field fields[2];
static struct head head;

static int decode_request(void)
{
	assert_int_equal(plugin.codec.measure(&plugin.codec, REQUEST, &frame), 0);
	head = (struct head){.fields = fields};
	return plugin.codec.decode(&plugin.codec, &frame, REQUEST, ARRAY_SIZE(fields), &head);
}

static struct weir_bytes part(const char *p, size_t len)
{
	return (struct weir_bytes){(const uint8_t *)p, len};
}

static void test_a_head(void **state)
{
	(void)state;
	say_head = (struct weir_head){.method = part(REQUEST.p + 6, 1), .field_count = 1, .timeout_ms = 30};
	say_field = (struct weir_field){part(NAMES + 6, 6), part(REQUEST.p + 4, 2)};
	assert_int_equal(decode_request(), 0);
	assert_str(head.authority, "abc");
	assert_str(head.method, "c");
	assert_int_equal(head.field_count, 1);
	assert_str(fields[0].name, "second");
	assert_str(fields[0].value, "ab");
	assert_int_equal(frame.timeout_ms, 30);
	say_head = (struct weir_head){.method = part("elsewhere", 0)};
	assert_int_equal(decode_request(), 0);
	assert_int_equal(head.method.len, 0);
	say_decode = WEIR_WRONG;
	assert_int_equal(decode_request(), ERR_MALFORMED);
	assert_int_equal(reports, 0);
}

// Where it goes its address says: no service, no method, no fields.
static void test_no_head(void **state)
{
	(void)state;
	struct weir_framed unread = framed;
	struct weir_plugin of = table;
	unread.decode = NULL;
	of.framed = &unread;
	load(&of);
	head = (struct head){.authority = STR("before"), .field_count = 1};
	assert_int_equal(decode_request(), 0);
	assert_int_equal(head.authority.len, 0);
	assert_int_equal(head.method.len, 0);
	assert_int_equal(head.field_count, 0);
}

static void check_impossible_head(const char *what)
{
	assert_int_equal(decode_request(), ERR_MALFORMED);
	assert_reported(what);
	reset(NULL);
}

static void test_impossible_heads(void **state)
{
	static const char elsewhere[] = "elsewhere";
	(void)state;
	say_head.field_count = UINT16_MAX;
	check_impossible_head("more fields than there is room for");
	say_beyond = true;
	check_impossible_head("a service or method outside of the bytes");
	say_head.method = part(elsewhere, 1);
	check_impossible_head("a service or method outside of the bytes");
	say_head.method = part((const char *)((uintptr_t)REQUEST.p - 1), 2);
	check_impossible_head("a service or method outside of the bytes");
	say_head.method = part(REQUEST.p, SIZE_MAX);
	check_impossible_head("a service or method outside of the bytes");
	say_head.field_count = 1;
	say_field = (struct weir_field){part(NAMES, 5), part(NAMES, 5)};
	check_impossible_head("a field outside of the bytes");
	say_head.field_count = 1;
	say_field = (struct weir_field){part(elsewhere, 4), part(REQUEST.p, 1)};
	check_impossible_head("the name of a field outside of the bytes and of the table's names");
	say_decode = WEIR_MORE;
	check_impossible_head("more wanted than the head of a frame");
}

// --- what it writes -------------------------------------------------------------------------------------------
static uint8_t made[64];
static struct writer out;

static void write_all(void)
{
	frame = (struct frame){.id = 0x1234, .variant = 7};
	writer_init(&out, made, sizeof made);
	plugin.codec.write_failure(&plugin.codec, &frame, RPC_TIMEOUT, STR("text"), &out);
	plugin.codec.write_heartbeat(&plugin.codec, 7, 0x1234, &out);
	plugin.codec.write_heartbeat_ack(&plugin.codec, &frame, &out);
	plugin.codec.write_goaway(&plugin.codec, 7, 0x1234, &out);
}

static void test_writing(void **state)
{
	(void)state;
	write_all();
	assert_int_equal(out.len, 16);
	assert_memory_equal(made, "\x02\x12\x34\x00\x03\x12\x34\x00\x04\x12\x34\x00\x05\x12\x34\x00", 16);
	assert_int_equal(reports, 0);
	say_written = 3;
	write_all();
	assert_int_equal(out.len, 0);
	assert_reported("a frame of its own that it cannot read itself, or of another kind or id");
	reset(NULL);
	say_wrong_id = 1;
	write_all();
	assert_int_equal(out.len, 0);
	assert_reported("a frame of its own that it cannot read itself, or of another kind or id");
	reset(NULL);
	say_written = 513;
	write_all();
	assert_int_equal(out.len, 0);
	assert_reported("a frame of its own that does not fit, or is empty");
}

static void test_statuses(void **state)
{
	(void)state;
	say_http = 99;
	assert_int_equal(plugin.codec.http_status(&plugin.codec, 0), 500);
	assert_reported("a status that HTTP does not have");
}

// --- tables ---------------------------------------------------------------------------------------------------
static void check_table(struct weir_framed changed, const char *what)
{
	struct weir_plugin wrong = {.abi = WEIR_PLUGIN_ABI, .size = sizeof wrong, .framed = &changed};
	assert_string_equal(plugin_init(&wrong, report, &plugin), what);
}

static void test_tables(void **state)
{
	(void)state;
	static const char *const names[] = {
	    NULL, "", "Tiny", "ti ny", "ti.ny", "tiny\n", "a23456789012345678901234567890123"};
	struct weir_framed changed;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		changed = framed;
		changed.name = names[i];
		check_table(changed, "its name is not made of 1 to 32 of a to z, 0 to 9, '-' and '_'");
	}
	changed = framed;
	changed.size--;
	check_table(changed, "the size of its struct weir_framed is wrong");
	changed = framed;
	changed.measure = NULL;
	check_table(changed, "it lacks measure or write_failure");
	changed = framed;
	changed.write_failure = NULL;
	check_table(changed, "it lacks measure or write_failure");
	changed = framed;
	changed.first_id = 0;
	check_table(changed, "first_id is 0, or above last_id");
	changed.first_id = 3;
	changed.last_id = 2;
	check_table(changed, "first_id is 0, or above last_id");
	struct weir_plugin wrong = table;
	wrong.abi++;
	assert_string_equal(plugin_init(&wrong, report, &plugin),
			    "it was made for another version of weir_plugin.h");
	wrong = table;
	wrong.size = 8;
	assert_string_equal(plugin_init(&wrong, report, &plugin),
			    "the size of its struct weir_plugin is wrong");
	wrong = table;
	wrong.framed = NULL;
	assert_string_equal(plugin_init(&wrong, report, &plugin), "it adds no protocol, or two");
}

// --- streamed -------------------------------------------------------------------------------------------------
static struct weir_piece say_piece;
static enum weir_result say_stream;
static bool say_all;

static enum weir_result read_request(struct weir_state *state, struct weir_bytes bytes,
				     struct weir_piece *piece, struct weir_head *ret_head)
{
	state->word[0] += bytes.len;
	*piece = say_piece;
	if (say_all)
		piece->length = bytes.len;
	ret_head->service = (struct weir_bytes){bytes.p, 2};
	return say_stream;
}

static enum weir_result read_response(struct weir_state *state, uint32_t tag, struct weir_bytes bytes,
				      struct weir_piece *piece)
{
	struct weir_head unused;
	assert_int_equal(tag, 5);
	return read_request(state, bytes, piece, &unused);
}

static size_t write_answer(uint32_t tag, enum weir_failure failure, struct weir_bytes text, uint8_t *to,
			   size_t room)
{
	assert_int_equal(tag, 5);
	assert_int_equal(failure, WEIR_LOST);
	assert_true(text.len < room);
	memcpy(to, text.p, text.len);
	return say_written ? say_written : text.len;
}

static const struct weir_streamed streamed = {
    .size = sizeof streamed,
    .name = "tiny-stream",
    .read_request = read_request,
    .read_response = read_response,
    .write_failure = write_answer,
};
static const struct weir_plugin stream_table = {
    .abi = WEIR_PLUGIN_ABI, .size = sizeof stream_table, .streamed = &streamed};

static int reset_stream(void **state)
{
	reset(state);
	say_piece = (struct weir_piece){
	    .length = 3, .flags = WEIR_START | WEIR_END, .tag = 5, .status = 1, .oneway = 2};
	say_stream = WEIR_OK;
	say_all = false;
	load(&stream_table);
	return 0;
}

static struct stream_piece piece;

static int read_piece(void)
{
	struct stream_state stream_state = {0};
	head = (struct head){.fields = fields};
	return plugin.codec.streamed->read_request(&plugin.codec, &stream_state, STR("abcd"),
						   ARRAY_SIZE(fields), &head, &piece);
}

static void test_pieces(void **state)
{
	(void)state;
	assert_int_equal(read_piece(), 0);
	assert_int_equal(piece.length, 3);
	assert_int_equal(piece.flags, PIECE_START | PIECE_END);
	assert_int_equal(piece.tag, 5);
	assert_true(piece.oneway);
	assert_str(head.authority, "ab");
	say_stream = WEIR_MORE;
	assert_int_equal(read_piece(), ERR_NEED_MORE);
	say_stream = WEIR_WRONG;
	assert_int_equal(read_piece(), ERR_MALFORMED);
	assert_int_equal(plugin.codec.http_status(&plugin.codec, 0), 200);
	assert_int_equal(plugin.codec.http_status(&plugin.codec, 9), 500);
	assert_int_equal(reports, 0);
}

static void check_impossible_piece(const char *what)
{
	assert_int_equal(read_piece(), ERR_MALFORMED);
	assert_reported(what);
	reset_stream(NULL);
}

static void test_impossible_pieces(void **state)
{
	(void)state;
	say_piece.length = 0;
	check_impossible_piece("a piece of no bytes, or of more than there are");
	say_piece.length = 5;
	check_impossible_piece("a piece of no bytes, or of more than there are");
	say_piece.flags = 4;
	check_impossible_piece("flags of a piece that there are not");
	say_piece.length = 1; // the service lies outside of the piece
	check_impossible_piece("a service or method outside of the bytes");
	say_stream = (enum weir_result)9;
	check_impossible_piece("a result that there is not");
}

static void test_pieces_without_end(void **state)
{
	(void)state;
	struct stream_state stream_state = {0};
	struct strbuf bytes = {0};
	memset(strbuf_reserve(&bytes, LIMIT_FRAME_HEAD), 'x', LIMIT_FRAME_HEAD);
	bytes.len = LIMIT_FRAME_HEAD;
	say_stream = WEIR_MORE;
	assert_int_equal(
	    plugin.codec.streamed->read_response(&plugin.codec, &stream_state, 5, strbuf_str(&bytes), &piece),
	    ERR_LIMIT);
	assert_int_equal(reports, 0);
	strbuf_done(&bytes);
}

static void write_stream_failure(void)
{
	writer_init(&out, made, sizeof made);
	plugin.codec.streamed->write_failure(&plugin.codec, 5, RPC_LOST, STR("lost"), &out);
}

static void test_answers(void **state)
{
	(void)state;
	say_all = true;
	write_stream_failure();
	assert_str(((struct str){(char *)made, out.len}), "lost");
	assert_int_equal(reports, 0);
	static const struct {
		struct weir_piece piece;
		size_t written;
	} WRONG[] = {
	    {{.length = 3, .flags = WEIR_START | WEIR_END}, 0}, // something follows
	    {{.length = 2, .flags = WEIR_START}, 0},		// begins twice
	    {{.length = 4, .flags = WEIR_START}, 0},		// has no end
	    {{.length = 4, .flags = WEIR_END}, 0},		// has no start
	    {{.length = 1, .flags = WEIR_START | WEIR_END}, 513},
	};
	for (size_t i = 0; i < ARRAY_SIZE(WRONG); i++) {
		reset_stream(NULL);
		say_piece = WRONG[i].piece;
		say_written = WRONG[i].written;
		write_stream_failure();
		assert_int_equal(out.len, 0);
		assert_reported("an answer of its own that it cannot read itself");
	}
}

static void test_stream_tables(void **state)
{
	(void)state;
	struct weir_streamed changed = streamed;
	struct weir_plugin wrong = {.abi = WEIR_PLUGIN_ABI, .size = sizeof wrong, .streamed = &changed};
	changed.size++;
	assert_string_equal(plugin_init(&wrong, report, &plugin),
			    "the size of its struct weir_streamed is wrong");
	changed = streamed;
	changed.read_response = NULL;
	assert_string_equal(plugin_init(&wrong, report, &plugin),
			    "it lacks read_request, read_response or write_failure");
	changed = streamed;
	changed.name = "no/name";
	assert_string_equal(plugin_init(&wrong, report, &plugin),
			    "its name is not made of 1 to 32 of a to z, 0 to 9, '-' and '_'");
	wrong.framed = &framed;
	assert_string_equal(plugin_init(&wrong, report, &plugin), "it adds no protocol, or two");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_a_frame, reset),
	    cmocka_unit_test_setup(test_impossible_frames, reset),
	    cmocka_unit_test_setup(test_not_to_blame, reset),
	    cmocka_unit_test_setup(test_a_start_without_end, reset),
	    cmocka_unit_test_setup(test_a_head, reset),
	    cmocka_unit_test_setup(test_no_head, reset),
	    cmocka_unit_test_setup(test_impossible_heads, reset),
	    cmocka_unit_test_setup(test_writing, reset),
	    cmocka_unit_test_setup(test_statuses, reset),
	    cmocka_unit_test_setup(test_tables, reset),
	    cmocka_unit_test_setup(test_pieces, reset_stream),
	    cmocka_unit_test_setup(test_impossible_pieces, reset_stream),
	    cmocka_unit_test_setup(test_pieces_without_end, reset_stream),
	    cmocka_unit_test_setup(test_answers, reset_stream),
	    cmocka_unit_test_setup(test_stream_tables, reset_stream),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
