// SPDX-License-Identifier: Apache-2.0
#include "codecs/dubbo_thrift.h"

#include "base/limits.h"
#include "base/mem.h"

enum {
	MAGIC = 0xdabc,
	SIZE = 4,	   // bytes of the size, which does not count itself
	HEADER_FIXED = 21, // the header without the service's name
	STRICT = 0x8001,   // what a message begins with in the newer of Thrift's two binary forms
};

enum message { CALL = 1, REPLY, EXCEPTION, ONEWAY };

// Thrift's own failures, as they stand in an exception.
enum { UNKNOWN_METHOD = 1, INTERNAL_ERROR = 6, PROTOCOL_ERROR = 7 };

// What stands in front of the arguments.
struct start {
	uint32_t size;
	uint16_t header_size;
	uint8_t version;
	uint8_t message;
	uint16_t id_at;
	struct str service, method;
	uint64_t id;
	uint32_t len;
};

// A first frame of 16 MiB and more is not expected: few other protocols have a zero in front.
static enum detect_verdict dubbo_thrift_detect(const struct framed_codec *codec, struct str bytes)
{
	static const struct byte_range SHAPE[] = {
	    {0, 0}, {0, 255}, {0, 255}, {0, 255}, {MAGIC >> 8, MAGIC >> 8}, {MAGIC & 0xff, MAGIC & 0xff}};
	(void)codec;
	return shape_fits(bytes, SHAPE, ARRAY_SIZE(SHAPE));
}

static struct str read_name(struct reader *r, uint32_t len)
{
	if (len > LIMIT_RPC_NAME)
		reader_fail(r, ERR_LIMIT);
	return reader_bytes(r, len);
}

// Both forms of the binary protocol: version and type in front of the name, or the type behind it.
static void read_message(struct reader *r, struct start *start)
{
	uint32_t first = reader_u32(r);
	if (first >> 31) {
		if (first >> 16 != STRICT)
			reader_fail(r, ERR_MALFORMED);
		start->message = (uint8_t)first;
		start->method = read_name(r, reader_u32(r));
	} else {
		start->method = read_name(r, first);
		start->message = reader_u8(r);
	}
	reader_skip(r, 4);
}

static void read_header(struct reader *r, struct start *start)
{
	if (reader_u16(r) != MAGIC || reader_u32(r) != start->size)
		reader_fail(r, ERR_MALFORMED);
	start->header_size = reader_u16(r);
	start->version = reader_u8(r);
	start->service = read_name(r, reader_u32(r));
	if (start->header_size != HEADER_FIXED + start->service.len)
		reader_fail(r, ERR_MALFORMED);
	start->id_at = (uint16_t)reader_tell(r);
	start->id = reader_u64(r);
}

static int read_start(struct str bytes, struct start *ret_start)
{
	struct reader r;
	reader_init(&r, bytes.p, bytes.len);
	ret_start->size = reader_u32(&r);
	if (r.err)
		return r.err;
	if (ret_start->size > LIMIT_FRAME_BYTES - SIZE)
		return ERR_LIMIT;
	reader_init(&r, bytes.p, MIN(bytes.len, SIZE + (size_t)ret_start->size));
	reader_skip(&r, SIZE);
	read_header(&r, ret_start);
	read_message(&r, ret_start);
	ret_start->len = (uint32_t)reader_tell(&r);
	return r.err == ERR_NEED_MORE && bytes.len >= SIZE + (size_t)ret_start->size ? ERR_MALFORMED : r.err;
}

static int message_kind(uint8_t message, uint8_t *ret_kind)
{
	static const uint8_t KIND[] = {[CALL] = FRAME_REQUEST,
				       [REPLY] = FRAME_RESPONSE,
				       [EXCEPTION] = FRAME_RESPONSE,
				       [ONEWAY] = FRAME_ONEWAY};
	if (message < CALL || message > ONEWAY)
		return ERR_MALFORMED;
	*ret_kind = KIND[message];
	return 0;
}

static int dubbo_thrift_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	struct start start;
	(void)codec;
	int err = read_start(bytes, &start);
	if (err)
		return err;
	struct frame frame = {
	    .id = start.id,
	    .length = SIZE + (uint64_t)start.size,
	    .head = start.len,
	    .id_at = start.id_at,
	    .id_size = 8,
	    .variant = start.version,
	};
	if (message_kind(start.message, &frame.kind) != 0)
		return ERR_MALFORMED;
	frame.status = frame.kind == FRAME_RESPONSE ? start.message : 0;
	*ret_frame = frame;
	return 0;
}

static int dubbo_thrift_decode(const struct framed_codec *codec, struct frame *frame, struct str bytes,
			       uint16_t max_fields, struct head *ret_head)
{
	struct start start;
	(void)codec;
	(void)frame;
	(void)max_fields;
	if (read_start(bytes, &start) != 0)
		return ERR_MALFORMED;
	*ret_head =
	    (struct head){.method = start.method, .authority = start.service, .fields = ret_head->fields};
	return 0;
}

// --- what the proxy says itself -------------------------------------------------------------
// A struct of two fields: 1, the text; 2, which failure.
static void write_exception(struct writer *out, struct str text, uint32_t type)
{
	enum { STOP = 0, I32 = 8, STRING = 11 };
	writer_u8(out, STRING);
	writer_u16(out, 1);
	writer_u32(out, (uint32_t)text.len);
	writer_bytes(out, text.p, text.len);
	writer_u8(out, I32);
	writer_u16(out, 2);
	writer_u32(out, type);
	writer_u8(out, STOP);
}

// Names and the sequence id are empty: the id alone says which request is meant.
static void dubbo_thrift_write_failure(const struct framed_codec *codec, const struct frame *request,
				       enum rpc_failure failure, struct str text, struct writer *out)
{
	(void)codec;
	size_t start = out->len;
	writer_u32(out, 0);
	writer_u16(out, MAGIC);
	writer_u32(out, 0);
	writer_u16(out, HEADER_FIXED);
	writer_u8(out, (uint8_t)request->variant);
	writer_u32(out, 0);
	writer_u64(out, request->id);
	writer_u32(out, (uint32_t)STRICT << 16 | EXCEPTION);
	writer_u32(out, 0);
	writer_u32(out, 0);
	write_exception(out, text,
			failure == RPC_NO_ROUTE	   ? UNKNOWN_METHOD
			: failure == RPC_MALFORMED ? PROTOCOL_ERROR
						   : INTERNAL_ERROR);
	uint32_t size = (uint32_t)(out->len - start - SIZE);
	writer_patch_u32(out, start, size);
	writer_patch_u32(out, start + SIZE + 2, size);
}

static uint16_t dubbo_thrift_http_status(const struct framed_codec *codec, uint16_t status)
{
	(void)codec;
	return status == REPLY ? 200 : 500;
}

const struct framed_codec dubbo_thrift_codec = {
    .name = "dubbo-thrift",
    .protocol = PROTOCOL_DUBBO_THRIFT,
    .first_id = 1,
    .last_id = INT64_MAX,
    .detect = dubbo_thrift_detect,
    .measure = dubbo_thrift_measure,
    .decode = dubbo_thrift_decode,
    .write_failure = dubbo_thrift_write_failure,
    .http_status = dubbo_thrift_http_status,
};
