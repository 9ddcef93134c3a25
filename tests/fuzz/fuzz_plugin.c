// SPDX-License-Identifier: Apache-2.0
// A plug-in whose every answer comes from the input: the adapter believes only what can be true, blames it
// once, and touches nothing that was not given to it. The first byte chooses the kind of protocol; each
// answer takes the bytes that it needs, zeros when there are none left.
#include "check.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/plugin.h"
#include "codecs/streamed.h"

enum { STEPS = 64, BYTES_MAX = 96, FIELDS = LIMIT_PLUGIN_FIELDS };

static const char NAMES[] = "first second";
static struct plugin plugin;
static unsigned reports;
static const uint8_t *script, *script_end;

static void report(const struct plugin *of, const char *what)
{
	CHECK(of == &plugin && what[0]);
	reports++;
}

static uint64_t draw(unsigned size)
{
	uint64_t value = 0;
	while (size--)
		value = value << 8 | (script < script_end ? *script++ : 0);
	return value;
}

// Mostly small, at times anything.
static uint64_t draw_size(void)
{
	uint64_t small = draw(1);
	return small < 0xf8 ? small : small == 0xf8 ? draw(2) : small == 0xf9 ? draw(4) : draw(8);
}

static enum weir_result draw_result(void)
{
	return (enum weir_result)(draw(1) & 3); // 3 is none
}

// Within what was given, within the names, or anywhere.
static struct weir_bytes draw_bytes(struct weir_bytes given)
{
	uint8_t where = (uint8_t)draw(1) & 3;
	uintptr_t base = where == 0   ? (uintptr_t)given.p
			 : where == 1 ? (uintptr_t)NAMES
			 : where == 2 ? 0
				      : (uintptr_t)draw(8);
	base += (uintptr_t)draw_size();
	return (struct weir_bytes){(const uint8_t *)base, (size_t)draw_size()};
}

// --- the plug-in ----------------------------------------------------------------------------------------------
static enum weir_result detect(struct weir_bytes bytes)
{
	(void)bytes;
	return draw_result();
}

static enum weir_result measure(struct weir_bytes bytes, struct weir_frame *frame)
{
	(void)bytes;
	enum weir_result result = draw_result();
	frame->length = draw_size();
	frame->head = (uint32_t)draw_size();
	frame->id_at = (uint16_t)draw_size();
	frame->id_size = (uint8_t)draw(1);
	frame->kind = (uint8_t)draw(1);
	frame->status = (uint16_t)draw(1);
	frame->id = draw(1); // is overwritten
	return result;
}

static void draw_head(struct weir_bytes bytes, struct weir_head *head)
{
	head->service = draw_bytes(bytes);
	head->method = draw_bytes(bytes);
	head->field_count = (uint16_t)draw_size();
	for (unsigned i = 0; i < MIN(head->field_count, head->fields_max); i++)
		head->fields[i] = (struct weir_field){draw_bytes(bytes), draw_bytes(bytes)};
	head->timeout_ms = (uint32_t)draw(1);
	if (draw(1) == 0xff)
		head->fields = NULL;
	if (draw(1) == 0xff)
		head->fields_max = UINT16_MAX;
}

static enum weir_result decode(const struct weir_frame *frame, struct weir_bytes bytes,
			       struct weir_head *head)
{
	(void)frame;
	enum weir_result result = draw_result();
	draw_head(bytes, head);
	return result;
}

static size_t draw_written(uint8_t *out, size_t room)
{
	size_t len = (size_t)draw_size();
	for (size_t i = 0; i < MIN(len, room); i++)
		out[i] = (uint8_t)i;
	return len;
}

static size_t write_failure(const struct weir_frame *request, enum weir_failure failure,
			    struct weir_bytes text, uint8_t *out, size_t room)
{
	(void)request, (void)failure, (void)text;
	return draw_written(out, room);
}

static size_t write_control(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	(void)variant, (void)id;
	return draw_written(out, room);
}

static size_t write_ack(const struct weir_frame *heartbeat, uint8_t *out, size_t room)
{
	(void)heartbeat;
	return draw_written(out, room);
}

static uint16_t http_status(uint16_t status)
{
	(void)status;
	return (uint16_t)draw(2);
}

static void draw_piece(struct weir_piece *piece)
{
	piece->length = (size_t)draw_size();
	piece->flags = (uint8_t)draw(1);
	piece->oneway = (uint8_t)draw(1);
	piece->tag = (uint32_t)draw(1);
}

static enum weir_result read_request(struct weir_state *state, struct weir_bytes bytes,
				     struct weir_piece *piece, struct weir_head *head)
{
	enum weir_result result = draw_result();
	state->word[3]++;
	draw_piece(piece);
	draw_head(bytes, head);
	return result;
}

static enum weir_result read_response(struct weir_state *state, uint32_t tag, struct weir_bytes bytes,
				      struct weir_piece *piece)
{
	(void)tag, (void)bytes;
	enum weir_result result = draw_result();
	state->word[0]++;
	draw_piece(piece);
	return result;
}

static size_t write_answer(uint32_t tag, enum weir_failure failure, struct weir_bytes text, uint8_t *out,
			   size_t room)
{
	(void)tag, (void)failure, (void)text;
	return draw_written(out, room);
}

#define WORDS                                                                                                \
	{                                                                                                    \
		(const uint8_t *)NAMES, sizeof NAMES - 1                                                     \
	}
static const struct weir_framed framed = {
    .size = sizeof framed,
    .name = "framed",
    .first_id = 1,
    .last_id = 0xffff,
    .names = WORDS,
    .detect = detect,
    .measure = measure,
    .decode = decode,
    .write_failure = write_failure,
    .write_heartbeat = write_control,
    .write_heartbeat_ack = write_ack,
    .write_goaway = write_control,
    .http_status = http_status,
};
static const struct weir_streamed streamed = {
    .size = sizeof streamed,
    .name = "streamed",
    .names = WORDS,
    .detect = detect,
    .read_request = read_request,
    .read_response = read_response,
    .write_failure = write_answer,
    .http_status = http_status,
};
static const struct weir_plugin tables[] = {
    {.abi = WEIR_PLUGIN_ABI, .size = sizeof tables[0], .framed = &framed},
    {.abi = WEIR_PLUGIN_ABI, .size = sizeof tables[0], .streamed = &streamed},
};

// --- what holds whatever it says ------------------------------------------------------------------------------
static void touch(struct str text)
{
	volatile uint64_t hash = str_hash(text);
	(void)hash;
}

static void check_head(const struct head *head, const struct field *fields)
{
	CHECK(head->fields == fields && head->field_count <= FIELDS);
	touch(head->authority);
	touch(head->method);
	for (unsigned i = 0; i < head->field_count; i++) {
		touch(fields[i].name);
		touch(fields[i].value);
	}
}

static void check_decode(struct frame *frame, struct str bytes)
{
	struct field fields[FIELDS];
	struct head head = {.fields = fields};
	bytes.len = MIN(bytes.len, frame->head);
	if (plugin.codec.decode(&plugin.codec, frame, bytes, FIELDS, &head) == 0)
		check_head(&head, fields);
}

static int check_measure(struct str bytes, struct frame *ret_frame)
{
	unsigned before = reports;
	int err = plugin.codec.measure(&plugin.codec, bytes, ret_frame);
	CHECK(err == 0 || err == ERR_NEED_MORE || err == ERR_MALFORMED || err == ERR_LIMIT);
	CHECK(err == ERR_MALFORMED || reports == before);
	if (err)
		return err;
	CHECK(ret_frame->length && ret_frame->length <= LIMIT_FRAME_BYTES);
	CHECK(ret_frame->head <= ret_frame->length && ret_frame->head <= LIMIT_FRAME_HEAD);
	CHECK(ret_frame->kind <= FRAME_GOAWAY && ret_frame->id_size <= 8);
	CHECK((size_t)ret_frame->id_at + ret_frame->id_size <= bytes.len || !ret_frame->id_size);
	return 0;
}

// What is written is nothing, or what the plug-in read as right itself.
static void check_write(const struct frame *frame, unsigned which)
{
	uint8_t bytes[1024];
	struct writer out;
	const struct framed_codec *codec = &plugin.codec;
	writer_init(&out, bytes, sizeof bytes);
	unsigned before = reports;
	bool usable = codec_is_usable(codec);
	if (which == 0)
		codec->write_failure(codec, frame, RPC_LOST, STR("text"), &out);
	else if (which == 1)
		codec->write_heartbeat(codec, 0, 7, &out);
	else if (which == 2)
		codec->write_heartbeat_ack(codec, frame, &out);
	else
		codec->write_goaway(codec, 0, 7, &out);
	CHECK(out.err == 0 && out.len <= 512);
	CHECK(out.len || !usable || reports == before + 1);
}

static void step_framed(struct str bytes)
{
	struct frame frame;
	uint8_t what = (uint8_t)draw(1) & 7;
	if (check_measure(bytes, &frame) != 0)
		return;
	if (what == 0)
		check_decode(&frame, bytes);
	else if (what <= 4)
		check_write(&frame, what - 1u);
	else
		CHECK(plugin.codec.http_status(&plugin.codec, frame.status) >= 100);
}

static void check_piece(const struct stream_piece *piece, struct str bytes)
{
	CHECK(piece->length && piece->length <= bytes.len);
	CHECK((piece->flags & ~(PIECE_START | PIECE_END)) == 0);
}

static void step_streamed(struct str bytes)
{
	const struct streamed_codec *codec = plugin.codec.streamed;
	struct stream_state state = {0};
	struct stream_piece piece;
	struct field fields[FIELDS];
	struct head head = {.fields = fields, .authority = STR(""), .method = STR("")};
	uint8_t buffer[1024], what = (uint8_t)draw(1) & 3;
	struct writer out;
	writer_init(&out, buffer, sizeof buffer);
	if (what == 0) {
		codec->write_failure(&plugin.codec, 1, RPC_TIMEOUT, STR("text"), &out);
		CHECK(out.err == 0 && out.len <= 512);
	} else if (what == 1) {
		if (codec->read_response(&plugin.codec, &state, 1, bytes, &piece) == 0)
			check_piece(&piece, bytes);
	} else if (codec->read_request(&plugin.codec, &state, bytes, FIELDS, &head, &piece) == 0) {
		check_piece(&piece, bytes);
		check_head(&head, fields);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	script = data;
	script_end = data + size;
	reports = 0;
	bool in_order = draw(1) & 1;
	CHECK(plugin_init(&tables[in_order], report, &plugin) == NULL);
	for (int step = 0; step < STEPS && script < script_end; step++) {
		size_t len = draw(1) % BYTES_MAX;
		char *bytes = exact_copy(data, MIN(len, size));
		struct str given = {bytes, MIN(len, size)};
		enum detect_verdict verdict = plugin.codec.detect(&plugin.codec, given);
		CHECK(verdict == DETECT_NO || codec_is_usable(&plugin.codec));
		(in_order ? step_streamed : step_framed)(given);
		free(bytes);
		CHECK(reports <= 1 && codec_is_usable(&plugin.codec) == (reports == 0));
	}
	return 0;
}
