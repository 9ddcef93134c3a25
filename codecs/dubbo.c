// SPDX-License-Identifier: Apache-2.0
#include "codecs/dubbo.h"

#include "base/mem.h"
#include "codecs/hessian.h"

enum {
	MAGIC = 0xdabb,
	HEADER = 16,
	ID_AT = 4,

	// the flags; the rest of them is the serialization
	REQUEST = 0x80,
	TWO_WAY = 0x40,
	EVENT = 0x20,
	SERIALIZATION = 0x1f,
	HESSIAN2 = 2,

	EVENT_LOOK = 4, // bytes of an event's data that tell which one it is
};

static enum detect_verdict dubbo_detect(const struct framed_codec *codec, struct str bytes)
{
	static const struct byte_range SHAPE[] = {{MAGIC >> 8, MAGIC >> 8}, {MAGIC & 0xff, MAGIC & 0xff}};
	(void)codec;
	return shape_fits(bytes, SHAPE, ARRAY_SIZE(SHAPE));
}

// A server that is about to end says so with the event "R" (read-only). The other events ask for an answer or
// are a sign of life.
static int event_kind(struct str data, uint64_t data_len, uint8_t flags, uint8_t *ret_kind)
{
	struct hessian h;
	struct str event = {0};
	if (data.len < MIN(data_len, EVENT_LOOK))
		return ERR_NEED_MORE;
	hessian_init(&h, (struct str){data.p, MIN(data.len, data_len)});
	if ((flags & SERIALIZATION) == HESSIAN2 && hessian_text(&h, &event) && str_eq(event, STR("R")))
		*ret_kind = FRAME_GOAWAY;
	else
		*ret_kind = flags & TWO_WAY ? FRAME_HEARTBEAT : FRAME_HEARTBEAT_ACK;
	return 0;
}

static int frame_kind(struct str data, uint64_t data_len, uint8_t flags, uint8_t *ret_kind)
{
	if (!(flags & REQUEST))
		*ret_kind = flags & EVENT ? FRAME_HEARTBEAT_ACK : FRAME_RESPONSE;
	else if (flags & EVENT)
		return event_kind(data, data_len, flags, ret_kind);
	else
		*ret_kind = flags & TWO_WAY ? FRAME_REQUEST : FRAME_ONEWAY;
	return 0;
}

static bool is_call(const struct frame *frame)
{
	return frame->kind == FRAME_REQUEST || frame->kind == FRAME_ONEWAY;
}

static int dubbo_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	struct reader r;
	if (dubbo_detect(codec, bytes) == DETECT_NO)
		return ERR_MALFORMED;
	reader_init(&r, bytes.p, bytes.len);
	reader_skip(&r, 2);
	uint8_t flags = reader_u8(&r), status = reader_u8(&r);
	struct frame frame = {.id_at = ID_AT, .id_size = 8, .variant = flags & SERIALIZATION};
	frame.id = reader_u64(&r);
	uint64_t data_len = reader_u32(&r);
	frame.length = HEADER + data_len;
	if (r.err)
		return r.err;
	if (frame.length > LIMIT_FRAME_BYTES)
		return ERR_LIMIT;
	struct str data = {bytes.p + HEADER, bytes.len - HEADER};
	int err = frame_kind(data, data_len, flags, &frame.kind);
	if (err)
		return err;
	frame.status = flags & REQUEST ? 0 : status;
	frame.head = is_call(&frame) && frame.variant == HESSIAN2
			 ? (uint32_t)MIN(frame.length, LIMIT_FRAME_HEAD)
			 : HEADER;
	*ret_frame = frame;
	return 0;
}

// --- requests -------------------------------------------------------------------------------
struct reading {
	struct hessian h;
	struct frame *frame;
	struct head *head;
	uint16_t max_fields;
	bool too_many;
};

static void add_field(struct reading *reading, struct str name, struct str value)
{
	struct head *head = reading->head;
	if (head->field_count == reading->max_fields)
		reading->too_many = true;
	else
		head->fields[head->field_count++] = (struct field){.name = name, .value = value};
}

// A string that has to be there, or null.
static struct str text_or_null(struct hessian *h)
{
	struct str text = {0};
	if (!hessian_null(h) && !hessian_text(h, &text))
		reader_fail(&h->in, ERR_MALFORMED);
	return text;
}

static void read_start(struct reading *reading, struct str *ret_types)
{
	struct hessian *h = &reading->h;
	text_or_null(h); // Dubbo's own version
	reading->head->authority = text_or_null(h);
	struct str version = text_or_null(h);
	reading->head->method = text_or_null(h);
	struct str types = text_or_null(h);
	if (version.len)
		add_field(reading, STR("version"), version);
	if (types.len)
		add_field(reading, STR("parameter_types"), types);
	*ret_types = types;
}

// Takes one type off a list of them as the Java virtual machine writes them (its specification, 4.3.2):
// "I", "[J", "Ljava/lang/String;". False: it is none.
static bool take_type(struct str *types)
{
	size_t at = 0;
	while (at < types->len && types->p[at] == '[')
		at++;
	if (at == types->len || !memchr("VZBCDFIJSL", types->p[at], 10))
		return false;
	if (types->p[at] == 'L') {
		const char *end = memchr(types->p + at, ';', types->len - at);
		if (!end)
			return false;
		at = (size_t)(end - types->p);
	}
	*types = (struct str){types->p + at + 1, types->len - at - 1};
	return true;
}

static bool skip_arguments(struct hessian *h, struct str types)
{
	while (types.len && !h->in.err) {
		if (!take_type(&types))
			return false;
		hessian_skip(h);
	}
	return !h->in.err;
}

static void set_timeout(struct reading *reading, struct str text)
{
	uint64_t ms;
	if (str_to_u64(text, &ms) == 0)
		reading->frame->timeout_ms = (uint32_t)MIN(ms, UINT32_MAX);
}

static void read_attachment(struct reading *reading)
{
	struct hessian *h = &reading->h;
	struct str name = {0}, value;
	bool named = hessian_text(h, &name), is_timeout = named && str_eq(name, STR("timeout"));
	int32_t ms;
	if (is_timeout && hessian_int(h, &ms)) {
		reading->frame->timeout_ms = ms > 0 ? (uint32_t)ms : 0;
		return;
	}
	if (!hessian_text(h, &value) || !named)
		return;
	add_field(reading, name, value);
	if (is_timeout)
		set_timeout(reading, value);
}

static void read_attachments(struct reading *reading)
{
	if (!hessian_map_begins(&reading->h))
		return;
	while (!hessian_map_ends(&reading->h) && !reading->h.in.err && !reading->too_many)
		read_attachment(reading);
}

static int dubbo_decode(const struct framed_codec *codec, struct frame *frame, struct str bytes,
			uint16_t max_fields, struct head *ret_head)
{
	(void)codec;
	struct field *fields = ret_head->fields;
	struct head head = {.fields = fields};
	struct reading reading = {.frame = frame, .head = &head, .max_fields = max_fields};
	struct str types;
	if (frame->variant == HESSIAN2) {
		hessian_init(&reading.h, (struct str){bytes.p + HEADER, bytes.len - HEADER});
		read_start(&reading, &types);
		if (reading.h.in.err == ERR_NEED_MORE && frame->length > frame->head)
			return ERR_LIMIT;
		if (reading.h.in.err)
			return ERR_MALFORMED;
		if (frame->length == frame->head && skip_arguments(&reading.h, types))
			read_attachments(&reading);
		if (!head_find(&head, STR("interface")))
			add_field(&reading, STR("interface"), head.authority);
	}
	if (reading.too_many)
		return ERR_LIMIT;
	*ret_head = head;
	return 0;
}

// --- what the proxy says itself -------------------------------------------------------------
static void write_header(struct writer *out, uint8_t flags, uint8_t status, uint64_t id, uint32_t data_len)
{
	writer_u16(out, MAGIC);
	writer_u8(out, flags);
	writer_u8(out, status);
	writer_u64(out, id);
	writer_u32(out, data_len);
}

// A frame says itself how its data is serialized: Hessian 2, which everybody reads, also where the calls come
// in another one. A heartbeat's data is null, and each serialization has a null of its own.
static void dubbo_write_heartbeat(const struct framed_codec *codec, uint16_t variant, uint64_t id,
				  struct writer *out)
{
	(void)codec;
	(void)variant;
	write_header(out, REQUEST | TWO_WAY | EVENT | HESSIAN2, 0, id, 1);
	writer_u8(out, 'N');
}

static void dubbo_write_heartbeat_ack(const struct framed_codec *codec, const struct frame *heartbeat,
				      struct writer *out)
{
	(void)codec;
	write_header(out, EVENT | HESSIAN2, DUBBO_OK, heartbeat->id, 1);
	writer_u8(out, 'N');
}

static void dubbo_write_goaway(const struct framed_codec *codec, uint16_t variant, uint64_t id,
			       struct writer *out)
{
	(void)codec;
	(void)variant;
	write_header(out, REQUEST | EVENT | HESSIAN2, 0, id, 2);
	hessian_write_string(STR("R"), out);
}

static void dubbo_write_failure(const struct framed_codec *codec, const struct frame *request,
				enum rpc_failure failure, struct str text, struct writer *out)
{
	static const uint8_t STATUS[] = {
	    [RPC_NO_ROUTE] = DUBBO_SERVICE_NOT_FOUND, [RPC_UNAVAILABLE] = DUBBO_SERVER_ERROR,
	    [RPC_LOST] = DUBBO_SERVER_ERROR,	      [RPC_TIMEOUT] = DUBBO_SERVER_TIMEOUT,
	    [RPC_OVERLOADED] = DUBBO_OVERLOADED,      [RPC_MALFORMED] = DUBBO_BAD_REQUEST,
	};
	(void)codec;
	size_t start = out->len;
	write_header(out, HESSIAN2, STATUS[failure], request->id, 0);
	hessian_write_string(text, out);
	writer_patch_u32(out, start + HEADER - 4, (uint32_t)(out->len - start - HEADER));
}

static uint16_t dubbo_http_status(const struct framed_codec *codec, uint16_t status)
{
	(void)codec;
	switch (status) {
	case DUBBO_OK:
		return 200;
	case DUBBO_CLIENT_TIMEOUT:
	case DUBBO_SERVER_TIMEOUT:
		return 504;
	case DUBBO_BAD_REQUEST:
		return 400;
	case DUBBO_BAD_RESPONSE:
		return 502;
	case DUBBO_SERVICE_NOT_FOUND:
		return 404;
	case DUBBO_OVERLOADED:
		return 503;
	default:
		return 500;
	}
}

const struct framed_codec dubbo_codec = {
    .name = "dubbo",
    .protocol = PROTOCOL_DUBBO,
    .first_id = 1,
    .last_id = INT64_MAX,
    .detect = dubbo_detect,
    .measure = dubbo_measure,
    .decode = dubbo_decode,
    .write_heartbeat = dubbo_write_heartbeat,
    .write_heartbeat_ack = dubbo_write_heartbeat_ack,
    .write_goaway = dubbo_write_goaway,
    .write_failure = dubbo_write_failure,
    .http_status = dubbo_http_status,
};
