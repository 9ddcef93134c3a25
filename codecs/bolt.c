// SPDX-License-Identifier: Apache-2.0
#include "codecs/bolt.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/shape.h"

#include <zlib.h>

enum { TYPE_RESPONSE, TYPE_REQUEST, TYPE_ONEWAY };
enum { COMMAND_HEARTBEAT = 0, COMMAND_REQUEST = 1, COMMAND_RESPONSE = 2, COMMAND_GOAWAY = 100 };
enum { CODEC_HESSIAN2 = 1, CRC_SWITCH = 1, CRC_BYTES = 4 };

// frame.variant: what an answer repeats.
enum {
	VARIANT_CODEC = 0xff,					    // the byte that names the serialization
	VARIANT_V2 = 1 << 8,					    // version 2 of the protocol
	VARIANT_STRICT = 1 << 9,				    // its own version is 2 as well
	VARIANT_SWITCH = 1 << 10,				    // bit 0 of its switch byte
	VARIANT_CRC = VARIANT_V2 | VARIANT_STRICT | VARIANT_SWITCH, // all of these: a CRC follows
};

// --- detection ----------------------------------------------------------------------------------------------
// Protocol 1, or 2 with one byte more; then type 0 to 2, command 0 to 2 or 100, version 1.
static enum detect_verdict bolt_detect(const struct framed_codec *codec, struct str bytes)
{
	static const struct byte_range V1[] = {{1, 1}, {0, 2}, {0, 0}, {0, 100}, {1, 1}},
				       V2[] = {{2, 2}, {1, 2}, {0, 2}, {0, 0}, {0, 100}, {1, 1}};
	bool two = bytes.len && bytes.p[0] == 2;
	size_t command = two ? 4 : 3;
	(void)codec;
	if (bytes.len > command && (uint8_t)bytes.p[command] > 2 &&
	    (uint8_t)bytes.p[command] != COMMAND_GOAWAY)
		return DETECT_NO;
	return two ? shape_fits(bytes, V2, ARRAY_SIZE(V2)) : shape_fits(bytes, V1, ARRAY_SIZE(V1));
}

// --- reading ------------------------------------------------------------------------------------------------
static int kind_of(uint8_t type, uint16_t command)
{
	if (type == TYPE_RESPONSE)
		return command == COMMAND_HEARTBEAT ? FRAME_HEARTBEAT_ACK : FRAME_RESPONSE;
	if (type > TYPE_ONEWAY)
		return ERR_MALFORMED;
	if (command == COMMAND_GOAWAY)
		return FRAME_GOAWAY;
	if (command == COMMAND_REQUEST)
		return type == TYPE_ONEWAY ? FRAME_ONEWAY : FRAME_REQUEST;
	return command == COMMAND_HEARTBEAT && type == TYPE_REQUEST ? FRAME_HEARTBEAT : ERR_MALFORMED;
}

// The lengths that end the fixed header.
static void read_lengths(struct reader *r, struct frame *frame)
{
	uint32_t parts = reader_u16(r);
	parts += reader_u16(r);
	uint64_t content = reader_u32(r);
	bool crc = (frame->variant & VARIANT_CRC) == VARIANT_CRC;
	frame->head = (uint32_t)reader_tell(r) + parts;
	frame->length = frame->head + content + (crc ? CRC_BYTES : 0);
	frame->checksum = crc ? FRAME_CHECKSUM_CRC32 : FRAME_CHECKSUM_NONE;
}

static int bolt_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	struct frame frame = {.id_size = 4};
	struct reader r;
	(void)codec;
	reader_init(&r, bytes.p, bytes.len);
	uint8_t protocol = reader_u8(&r);
	if (protocol == 2)
		frame.variant = VARIANT_V2 | (reader_u8(&r) == 2 ? VARIANT_STRICT : 0);
	uint8_t type = reader_u8(&r);
	int kind = kind_of(type, reader_u16(&r));
	reader_u8(&r); // the version of the command
	frame.id_at = (uint16_t)reader_tell(&r);
	frame.id = reader_u32(&r);
	frame.variant |= reader_u8(&r);
	if (protocol == 2 && (reader_u8(&r) & CRC_SWITCH))
		frame.variant |= VARIANT_SWITCH;
	if (type == TYPE_RESPONSE) {
		frame.status = reader_u16(&r);
	} else {
		int32_t timeout = (int32_t)reader_u32(&r);
		frame.timeout_ms = timeout > 0 ? (uint32_t)timeout : 0;
	}
	read_lengths(&r, &frame);
	if (bytes.len && protocol != 1 && protocol != 2)
		return ERR_MALFORMED;
	if (r.err)
		return r.err;
	if (kind < 0)
		return kind;
	if (frame.length > LIMIT_FRAME_BYTES)
		return ERR_LIMIT;
	frame.kind = (uint8_t)kind;
	*ret_frame = frame;
	return 0;
}

// A text with its length in front; -1 stands for null. False for null, and on error.
static bool read_text(struct reader *r, struct str *ret_text)
{
	int32_t len = (int32_t)reader_u32(r);
	if (len < -1)
		reader_fail(r, ERR_MALFORMED);
	if (len < 0)
		return false;
	*ret_text = reader_bytes(r, (size_t)len);
	return r->err == 0;
}

// What the header map says of the call; of a name that comes twice the last counts, as it does for the
// server.
static void note_field(struct head *head, struct str *target, struct field field)
{
	if (str_eq(field.name, STR("service")))
		head->authority = field.value;
	else if (str_eq(field.name, STR("sofa_head_method_name")))
		head->method = field.value;
	else if (str_eq(field.name, STR("sofa_head_target_service")))
		*target = field.value;
}

// A null key or value is read and leaves no pair.
static int read_map(struct reader *r, uint16_t max_fields, struct head *ret_head)
{
	struct head head = {.fields = ret_head->fields};
	struct str target = STR("");
	while (!r->err && reader_remaining(r)) {
		struct field field = {.name = STR(""), .value = STR("")};
		bool there = read_text(r, &field.name);
		there &= read_text(r, &field.value);
		if (!there)
			continue;
		if (head.field_count == max_fields)
			return ERR_LIMIT;
		head.fields[head.field_count++] = field;
		note_field(&head, &target, field);
	}
	if (r->err)
		return ERR_MALFORMED;
	if (!head.authority.len)
		head.authority = target;
	*ret_head = head;
	return 0;
}

static int bolt_decode(const struct framed_codec *codec, struct frame *frame, struct str bytes,
		       uint16_t max_fields, struct head *ret_head)
{
	size_t lengths = frame->variant & VARIANT_V2 ? 16 : 14;
	struct reader r;
	(void)codec;
	reader_init(&r, bytes.p, frame->head);
	reader_skip(&r, lengths);
	size_t class_len = reader_u16(&r);
	reader_u16(&r);
	reader_u32(&r);
	reader_skip(&r, class_len);
	return r.err ? ERR_MALFORMED : read_map(&r, max_fields, ret_head);
}

// --- writing ------------------------------------------------------------------------------------------------
// Frames that the proxy makes have nothing behind the fixed header but a CRC.
struct outline {
	uint16_t variant;
	uint8_t type;
	uint8_t command;
	uint32_t id;
	uint16_t status; // of a response
};

static void write_frame(const struct outline *frame, struct writer *out)
{
	uint8_t bytes[32];
	struct writer w;
	bool v2 = frame->variant & VARIANT_V2;
	writer_init(&w, bytes, sizeof bytes);
	writer_u8(&w, v2 ? 2 : 1);
	if (v2)
		writer_u8(&w, frame->variant & VARIANT_STRICT ? 2 : 1);
	writer_u8(&w, frame->type);
	writer_u16(&w, frame->command);
	writer_u8(&w, 1);
	writer_u32(&w, frame->id);
	writer_u8(&w, frame->variant & VARIANT_CODEC);
	if (v2)
		writer_u8(&w, frame->variant & VARIANT_SWITCH ? CRC_SWITCH : 0);
	if (frame->type == TYPE_RESPONSE)
		writer_u16(&w, frame->status);
	else
		writer_u32(&w, UINT32_MAX); // no timeout
	writer_u32(&w, 0);		    // no class, no header map
	writer_u32(&w, 0);		    // no content
	if ((frame->variant & VARIANT_CRC) == VARIANT_CRC)
		writer_u32(&w, (uint32_t)crc32_z(0, bytes, w.len));
	writer_bytes(out, bytes, w.len);
}

static void bolt_write_heartbeat(const struct framed_codec *codec, uint16_t variant, uint64_t id,
				 struct writer *out)
{
	struct outline frame = {(variant & ~VARIANT_CODEC) | CODEC_HESSIAN2, TYPE_REQUEST, COMMAND_HEARTBEAT,
				(uint32_t)id, 0};
	(void)codec;
	write_frame(&frame, out);
}

static void bolt_write_heartbeat_ack(const struct framed_codec *codec, const struct frame *heartbeat,
				     struct writer *out)
{
	struct outline frame = {heartbeat->variant, TYPE_RESPONSE, COMMAND_HEARTBEAT, (uint32_t)heartbeat->id,
				BOLT_SUCCESS};
	(void)codec;
	write_frame(&frame, out);
}

static void bolt_write_failure(const struct framed_codec *codec, const struct frame *request,
			       enum rpc_failure failure, struct str text, struct writer *out)
{
	static const uint16_t STATUS[] = {
	    [RPC_NO_ROUTE] = BOLT_NO_PROCESSOR,	     [RPC_UNAVAILABLE] = BOLT_CONNECTION_CLOSED,
	    [RPC_LOST] = BOLT_CONNECTION_CLOSED,     [RPC_TIMEOUT] = BOLT_TIMEOUT,
	    [RPC_OVERLOADED] = BOLT_THREADPOOL_BUSY, [RPC_MALFORMED] = BOLT_CODEC_EXCEPTION,
	};
	struct outline frame = {request->variant, TYPE_RESPONSE, COMMAND_RESPONSE, (uint32_t)request->id,
				STATUS[failure]};
	(void)codec;
	(void)text; // what an error says is a serialized object
	write_frame(&frame, out);
}

static uint16_t bolt_http_status(const struct framed_codec *codec, uint16_t status)
{
	(void)codec;
	switch (status) {
	case BOLT_SUCCESS:
		return 200;
	case BOLT_THREADPOOL_BUSY:
		return 503;
	case BOLT_NO_PROCESSOR:
		return 404;
	case BOLT_TIMEOUT:
		return 504;
	case BOLT_CONNECTION_CLOSED:
		return 502;
	default:
		return 500;
	}
}

const struct framed_codec bolt_codec = {
    .name = "bolt",
    .protocol = PROTOCOL_BOLT,
    .first_id = 1,
    .last_id = UINT32_MAX,
    .detect = bolt_detect,
    .measure = bolt_measure,
    .decode = bolt_decode,
    .write_heartbeat = bolt_write_heartbeat,
    .write_heartbeat_ack = bolt_write_heartbeat_ack,
    .write_failure = bolt_write_failure,
    .http_status = bolt_http_status,
};
