// SPDX-License-Identifier: Apache-2.0
#include "codecs/tars.h"

#include "base/limits.h"
#include "base/mem.h"

enum { SIZE = 4, NORMAL = 0, ONE_WAY = 1, TUP_COMPLEX = 2, TUP = 3 };

// --- JCE ------------------------------------------------------------------------------------
enum jce_type {
	JCE_BYTE,
	JCE_SHORT,
	JCE_INT,
	JCE_LONG,
	JCE_STRING1 = 6, // length in one byte
	JCE_STRING4,	 // in four
	JCE_MAP,
	JCE_ZERO = 12,
	JCE_BYTES, // a list of bytes
};

struct jce_field {
	uint8_t tag, type;
};

static struct jce_field jce_head(struct reader *r)
{
	uint8_t first = reader_u8(r);
	struct jce_field field = {.tag = first >> 4, .type = first & 15};
	if (field.tag == 15) {
		field.tag = reader_u8(r);
		if (field.tag < 15)
			reader_fail(r, ERR_MALFORMED); // nobody writes a small one that way
	}
	return field;
}

static int64_t jce_int(struct reader *r, uint8_t type)
{
	switch (type) {
	case JCE_ZERO:
		return 0;
	case JCE_BYTE:
		return (int8_t)reader_u8(r);
	case JCE_SHORT:
		return (int16_t)reader_u16(r);
	case JCE_INT:
		return (int32_t)reader_u32(r);
	default:
		reader_fail(r, ERR_MALFORMED);
		return 0;
	}
}

static struct str jce_string(struct reader *r, uint8_t type)
{
	if (type != JCE_STRING1 && type != JCE_STRING4)
		reader_fail(r, ERR_MALFORMED);
	return reader_bytes(r, type == JCE_STRING1 ? reader_u8(r) : reader_u32(r));
}

static uint8_t jce_expect(struct reader *r, uint8_t tag)
{
	struct jce_field field = jce_head(r);
	if (field.tag != tag)
		reader_fail(r, ERR_MALFORMED);
	return field.type;
}

static int64_t jce_expect_int(struct reader *r, uint8_t tag)
{
	return jce_int(r, jce_expect(r, tag));
}

static struct str jce_expect_string(struct reader *r, uint8_t tag)
{
	return jce_string(r, jce_expect(r, tag));
}

// How many bytes, or pairs, follow.
static uint32_t jce_count(struct reader *r)
{
	int64_t count = jce_expect_int(r, 0);
	if (count < 0)
		reader_fail(r, ERR_MALFORMED);
	return r->err ? 0 : (uint32_t)count;
}

static void jce_skip_bytes(struct reader *r)
{
	if (jce_expect(r, 0) != JCE_BYTE)
		reader_fail(r, ERR_MALFORMED);
	reader_skip(r, jce_count(r));
}

// --- frames ---------------------------------------------------------------------------------
// Fields 1 to 5: what has to be known of any frame.
struct start {
	uint32_t size, len;
	uint8_t kind, version, id_type;
	uint16_t id_at; // of the value; the byte with tag and type is in front of it
	uint64_t id;
	int32_t status;
};

static void read_id(struct reader *r, uint8_t tag, struct start *start)
{
	start->id_type = jce_expect(r, tag);
	start->id_at = (uint16_t)reader_tell(r);
	start->id = (uint32_t)jce_int(r, start->id_type);
}

// In a request the id is field 4, in a response field 3: which one it is field 5 tells.
static void read_fields(struct reader *r, struct start *start)
{
	struct start response = {0};
	start->version = (uint8_t)jce_expect_int(r, 1);
	if (start->version == TUP || start->version == TUP_COMPLEX)
		reader_fail(r, ERR_MALFORMED); // its answers cannot be told from requests
	int64_t packet = jce_expect_int(r, 2);
	read_id(r, 3, &response);
	read_id(r, 4, start);
	struct reader_tag before = reader_tag(r);
	uint8_t type = jce_expect(r, 5);
	if (!r->err && (type == JCE_STRING1 || type == JCE_STRING4)) {
		reader_rollback(r, before);
		start->kind = packet == ONE_WAY ? FRAME_ONEWAY : FRAME_REQUEST;
		return;
	}
	start->kind = FRAME_RESPONSE;
	start->status = (int32_t)jce_int(r, type);
	start->id = response.id;
	start->id_at = response.id_at;
	start->id_type = response.id_type;
}

static int read_start(struct str bytes, struct start *ret_start)
{
	struct reader r;
	reader_init(&r, bytes.p, bytes.len);
	uint32_t size = reader_u32(&r);
	if (r.err)
		return r.err;
	if (size < SIZE)
		return ERR_MALFORMED;
	if (size > LIMIT_TARS_BYTES)
		return ERR_LIMIT;
	struct start start = {.size = size};
	reader_init(&r, bytes.p, MIN(bytes.len, size));
	reader_skip(&r, SIZE);
	read_fields(&r, &start);
	if (r.err)
		return r.err == ERR_NEED_MORE && bytes.len >= size ? ERR_MALFORMED : r.err;
	start.len = (uint32_t)reader_tell(&r);
	*ret_start = start;
	return 0;
}

// A length that a frame can have, field 1 with version 1, and field 2, which is a byte or zero.
static enum detect_verdict tars_detect(const struct framed_codec *codec, struct str bytes)
{
	enum {
		VERSION = 1 << 4 | JCE_BYTE,
		PACKET_BYTE = 2 << 4 | JCE_BYTE,
		PACKET_ZERO = 2 << 4 | JCE_ZERO
	};
	static const struct byte_range SHAPE[] = {
	    {0, 0}, {0, LIMIT_TARS_BYTES >> 16}, {0, 255}, {0, 255}, {VERSION, VERSION},
	    {1, 1}, {PACKET_BYTE, PACKET_ZERO}};
	(void)codec;
	enum detect_verdict verdict = shape_fits(bytes, SHAPE, ARRAY_SIZE(SHAPE));
	if (verdict == DETECT_YES && bytes.p[6] != PACKET_BYTE && bytes.p[6] != PACKET_ZERO)
		return DETECT_NO;
	return verdict;
}

static size_t id_width(uint8_t type)
{
	static const uint8_t WIDTH[] = {[JCE_BYTE] = 1, [JCE_SHORT] = 2, [JCE_INT] = 4, [JCE_ZERO] = 0};
	return WIDTH[type];
}

static int tars_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	struct start start;
	(void)codec;
	int err = read_start(bytes, &start);
	if (err)
		return err;
	if (start.size + 4 - id_width(start.id_type) > LIMIT_TARS_BYTES)
		return ERR_LIMIT; // with a wider id
	bool answer = start.kind == FRAME_RESPONSE;
	int64_t status = start.status;
	*ret_frame = (struct frame){
	    .id = start.id,
	    .length = start.size,
	    .head = answer ? start.len : MIN(start.size, LIMIT_FRAME_HEAD),
	    .id_at = start.id_at,
	    .id_size = start.id_type == JCE_INT ? 4 : 0,
	    .kind = start.kind,
	    .variant = start.version,
	    .status = (uint16_t)MIN(status < 0 ? -status : status, UINT16_MAX),
	};
	return 0;
}

static void tars_renumber(const struct framed_codec *codec, const struct frame *frame, struct str bytes,
			  uint64_t id, struct writer *out)
{
	struct start start;
	(void)codec;
	if (read_start(bytes, &start) != 0) {
		out->err = ERR_MALFORMED;
		return;
	}
	size_t width = id_width(start.id_type), before = start.id_at - 1u, after = start.id_at + width;
	writer_u32(out, (uint32_t)(start.size + 4 - width));
	writer_bytes(out, bytes.p + SIZE, before - SIZE);
	writer_u8(out, (uint8_t)((bytes.p[before] & 0xf0) | JCE_INT));
	writer_u32(out, (uint32_t)id);
	writer_bytes(out, bytes.p + after, frame->head - after);
}

// --- requests -------------------------------------------------------------------------------
static int read_map(struct reader *r, uint16_t max_fields, struct head *head)
{
	for (uint32_t left = jce_count(r); left && !r->err; left--) {
		struct field field = {.name = jce_expect_string(r, 0)};
		field.value = jce_expect_string(r, 1);
		if (head->field_count == max_fields)
			return ERR_LIMIT;
		if (!r->err)
			head->fields[head->field_count++] = field;
	}
	return r->err;
}

static void read_arguments(struct reader *r, uint8_t type)
{
	if (type != JCE_BYTES)
		reader_fail(r, ERR_MALFORMED);
	jce_skip_bytes(r);
}

static uint32_t read_timeout(struct reader *r, uint8_t type)
{
	int64_t ms = jce_int(r, type);
	return ms > 0 ? (uint32_t)ms : 0;
}

// Fields 7 to 10; what is not known ends it.
static int read_rest(struct reader *r, struct frame *frame, uint16_t max_fields, struct head *head)
{
	int err = 0;
	while (!err && !r->err && reader_remaining(r)) {
		struct jce_field field = jce_head(r);
		if (field.tag == 7)
			read_arguments(r, field.type);
		else if (field.tag == 8)
			frame->timeout_ms = read_timeout(r, field.type);
		else if ((field.tag == 9 || field.tag == 10) && field.type == JCE_MAP)
			err = read_map(r, max_fields, head);
		else
			return r->err ? ERR_MALFORMED : 0;
	}
	return err == ERR_LIMIT ? err : r->err ? ERR_MALFORMED : 0;
}

static int tars_decode(const struct framed_codec *codec, struct frame *frame, struct str bytes,
		       uint16_t max_fields, struct head *ret_head)
{
	struct start start;
	struct reader r;
	struct head head = {.fields = ret_head->fields};
	(void)codec;
	if (read_start(bytes, &start) != 0)
		return ERR_MALFORMED;
	bool whole = frame->length == frame->head;
	reader_init(&r, bytes.p, bytes.len);
	reader_skip(&r, start.len);
	head.authority = jce_expect_string(&r, 5);
	head.method = jce_expect_string(&r, 6);
	if (r.err)
		return r.err == ERR_NEED_MORE && !whole ? ERR_LIMIT : ERR_MALFORMED;
	int err = whole ? read_rest(&r, frame, max_fields, &head) : 0;
	if (err)
		return err;
	*ret_head = head;
	return 0;
}

// --- what the proxy says itself -------------------------------------------------------------
static void write_field(struct writer *out, uint8_t tag, uint8_t type)
{
	writer_u8(out, (uint8_t)(tag << 4 | type));
}

static void write_byte(struct writer *out, uint8_t tag, uint8_t value)
{
	write_field(out, tag, JCE_BYTE);
	writer_u8(out, value);
}

static void tars_write_failure(const struct framed_codec *codec, const struct frame *request,
			       enum rpc_failure failure, struct str text, struct writer *out)
{
	static const uint8_t STATUS[] = {
	    [RPC_NO_ROUTE] = TARS_NO_SERVANT,	[RPC_UNAVAILABLE] = TARS_CONNECT_ERROR,
	    [RPC_LOST] = TARS_CONNECT_ERROR,	[RPC_TIMEOUT] = TARS_CALL_TIMEOUT,
	    [RPC_OVERLOADED] = TARS_OVERLOADED, [RPC_MALFORMED] = TARS_DECODE_ERROR,
	};
	(void)codec;
	size_t start = out->len;
	writer_u32(out, 0);
	write_byte(out, 1, (uint8_t)request->variant);
	write_field(out, 2, JCE_ZERO);
	write_field(out, 3, JCE_INT);
	writer_u32(out, (uint32_t)request->id);
	write_field(out, 4, JCE_ZERO);
	write_byte(out, 5, (uint8_t)-STATUS[failure]);
	write_field(out, 6, JCE_BYTES); // no result
	write_field(out, 0, JCE_BYTE);
	write_field(out, 0, JCE_ZERO);
	write_field(out, 7, JCE_MAP); // nothing in it
	write_field(out, 0, JCE_ZERO);
	write_field(out, 8, JCE_STRING4);
	writer_u32(out, (uint32_t)text.len);
	writer_bytes(out, text.p, text.len);
	writer_patch_u32(out, start, (uint32_t)(out->len - start));
}

static uint16_t tars_http_status(const struct framed_codec *codec, uint16_t status)
{
	(void)codec;
	switch (status) {
	case TARS_OK:
		return 200;
	case TARS_DECODE_ERROR:
		return 400;
	case TARS_NO_FUNCTION:
	case TARS_NO_SERVANT:
		return 404;
	case TARS_QUEUE_TIMEOUT:
	case TARS_CALL_TIMEOUT:
		return 504;
	case TARS_CONNECT_ERROR:
	case TARS_NO_ADAPTER:
		return 502;
	case TARS_OVERLOADED:
		return 503;
	default:
		return 500;
	}
}

const struct framed_codec tars_codec = {
    .name = "tars",
    .protocol = PROTOCOL_TARS,
    .first_id = 0x10000, // always four bytes in JCE
    .last_id = INT32_MAX,
    .detect = tars_detect,
    .measure = tars_measure,
    .decode = tars_decode,
    .renumber = tars_renumber,
    .write_failure = tars_write_failure,
    .http_status = tars_http_status,
};
