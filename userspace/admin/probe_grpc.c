// SPDX-License-Identifier: Apache-2.0
// gRPC health checking (grpc.health.v1): one request over HTTP/2, which is written at once, and the frames of
// its answer. No more is said of HTTP/2 than one call asks for.
#include "admin/probe_ask.h"

#include "base/buf.h"
#include "base/cursor.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/grpc.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"
#include "codecs/http2_codes.h"

#include <errno.h>

enum {
	PREFIX = 5, // of a message of gRPC
	SERVING = 1,
	PROTO_STATUS = 1 << 3,
	PROTO_SERVICE = 1 << 3 | 2,
	SERVICE_MAX = 127,
	FRAME_HEAD = 9,
	FRAME_MAX = 16384, // RFC 9113 6.5.2, as long as nobody says more
	STREAM = 1,
	PRIORITY_BYTES = 5,
};

struct grpc_check {
	struct strbuf out;
	struct bufq in, block; // a frame, and a field block, that are not whole yet
	struct hpack_decoder *decoder;
	uint64_t entries;   // its
	uint8_t answer[64]; // the begin of the answer: its prefix and the status
	size_t answer_len;
	int grpc_status; // -1: none yet
	unsigned http_status;
	unsigned frames; // received
	bool in_block, block_ends;
	bool closed;
};

// --- the request ------------------------------------------------------------------------------------------
static void write_frame(struct grpc_check *check, uint8_t type, uint8_t flags, uint32_t id,
			const void *payload, size_t len)
{
	uint8_t head[FRAME_HEAD];
	struct writer w;
	writer_init(&w, head, sizeof head);
	writer_u24(&w, (uint32_t)len);
	writer_u8(&w, type);
	writer_u8(&w, flags);
	writer_u32(&w, id);
	strbuf_add(&check->out, head, sizeof head);
	strbuf_add(&check->out, payload, len);
}

static void write_settings(struct grpc_check *check)
{
	static const uint8_t no_push[] = {0, HTTP2_SETTINGS_ENABLE_PUSH, 0, 0, 0, 0};
	strbuf_add(&check->out, HTTP2_PREFACE, HTTP2_PREFACE_BYTES);
	write_frame(check, HTTP2_SETTINGS, HTTP2_FLAG_NONE, 0, no_push, sizeof no_push);
}

static int write_head(struct grpc_check *check, struct str authority)
{
	const struct field fields[] = {
	    {.name = STR(":method"), .value = STR("POST")},
	    {.name = STR(":scheme"), .value = STR("http")},
	    {.name = STR(":authority"), .value = authority},
	    {.name = STR(":path"), .value = STR("/grpc.health.v1.Health/Check")},
	    {.name = STR("content-type"), .value = STR("application/grpc")},
	    {.name = STR("te"), .value = STR("trailers")},
	    {.name = STR("user-agent"), .value = STR("weir/" WEIR_VERSION)},
	};
	size_t room = hpack_encode_bound(fields, ARRAY_SIZE(fields));
	struct hpack_encoder *encoder = hpack_encoder_new();
	autofree uint8_t *block = mem_alloc(room);
	struct writer w;
	if (encoder && block) {
		writer_init(&w, block, room);
		hpack_encode(encoder, fields, ARRAY_SIZE(fields), &w);
		write_frame(check, HTTP2_HEADERS, HTTP2_FLAG_END_HEADERS, STREAM, block, w.len);
	}
	hpack_encoder_free(encoder);
	return encoder && block ? 0 : -ENOMEM;
}

// One message of gRPC: not compressed, its length, then HealthCheckRequest{service = 1}.
static int write_message(struct grpc_check *check, struct str service)
{
	uint8_t message[PREFIX + 2 + SERVICE_MAX];
	struct writer w;
	writer_init(&w, message, sizeof message);
	if (service.len > SERVICE_MAX)
		return ERR_LIMIT;
	writer_u8(&w, 0);
	writer_u32(&w, service.len ? (uint32_t)service.len + 2 : 0);
	if (service.len) {
		writer_u8(&w, PROTO_SERVICE);
		writer_u8(&w, (uint8_t)service.len);
		writer_bytes(&w, service.p, service.len);
	}
	write_frame(check, HTTP2_DATA, HTTP2_FLAG_END_STREAM, STREAM, message, w.len);
	return 0;
}

static int write_request(struct grpc_check *check, struct str authority, struct str service)
{
	write_settings(check);
	int err = write_head(check, authority);
	if (!err)
		err = write_message(check, service);
	return !err && check->out.failed ? -ENOMEM : err;
}

int grpc_check_new(struct str authority, struct str service, struct grpc_check **ret_check)
{
	struct grpc_check *check = mem_zalloc(sizeof *check);
	if (!check)
		return -ENOMEM;
	check->grpc_status = -1;
	check->decoder = hpack_decoder_new(&check->entries);
	int err = check->decoder ? write_request(check, authority, service) : -ENOMEM;
	if (err)
		grpc_check_free(check);
	else
		*ret_check = check;
	return err;
}

void grpc_check_free(struct grpc_check *check)
{
	if (!check)
		return;
	strbuf_done(&check->out);
	bufq_clear(&check->in);
	bufq_clear(&check->block);
	hpack_decoder_free(check->decoder);
	mem_free(check);
}

int grpc_check_send(struct grpc_check *check, struct strbuf *out)
{
	strbuf_add_str(out, strbuf_str(&check->out));
	strbuf_clear(&check->out);
	return out->failed || check->out.failed ? -ENOMEM : 0;
}

// --- the answer -------------------------------------------------------------------------------------------
static void take_field(struct grpc_check *check, const struct field *field)
{
	uint64_t number;
	if (field->known == FIELD_GRPC_STATUS)
		check->grpc_status = grpc_status_parse(field->value);
	else if (field->known == FIELD_STATUS && str_to_u64(field->value, &number) == 0)
		check->http_status = (unsigned)number;
}

static int read_block(struct grpc_check *check)
{
	struct field fields[LIMIT_HTTP_HEADERS];
	struct arena arena = {0};
	struct slice block = bufq_first(&check->block);
	struct hpack_list list = {.arena = &arena,
				  .fields = fields,
				  .room = ARRAY_SIZE(fields),
				  .keep = LIMIT_HTTP_HEAD,
				  .most = LIMIT_HTTP_HEAD};
	int err = hpack_decode(check->decoder, (struct str){(const char *)block.p, block.len}, &list);
	for (size_t i = 0; !err && i < list.count; i++)
		take_field(check, &list.fields[i]);
	arena_done(&arena);
	bufq_clear(&check->block);
	return err;
}

static int add_to_block(struct grpc_check *check, struct reader *r, uint8_t flags)
{
	struct str part = reader_bytes(r, reader_remaining(r));
	if (check->block.bytes + part.len > LIMIT_HTTP_HEAD)
		return ERR_LIMIT;
	if (bufq_append_flat(&check->block, (struct slice){NULL, (const uint8_t *)part.p, part.len}))
		return -ENOMEM;
	check->in_block = !(flags & HTTP2_FLAG_END_HEADERS);
	if (check->in_block)
		return 0;
	check->closed = check->block_ends;
	return read_block(check);
}

// What a frame has behind the length of its padding, without the padding.
static struct reader unpad(struct reader *r, uint8_t flags)
{
	uint8_t padding = flags & HTTP2_FLAG_PADDED ? reader_u8(r) : 0;
	if (padding > reader_remaining(r))
		reader_fail(r, ERR_MALFORMED);
	return reader_sub(r, r->err ? 0 : reader_remaining(r) - padding);
}

static int take_headers(struct grpc_check *check, struct reader *r, uint8_t flags)
{
	struct reader block = unpad(r, flags);
	if (flags & HTTP2_FLAG_PRIORITY)
		reader_skip(&block, PRIORITY_BYTES);
	check->block_ends = flags & HTTP2_FLAG_END_STREAM;
	return block.err ? ERR_MALFORMED : add_to_block(check, &block, flags);
}

static int take_data(struct grpc_check *check, struct reader *r, uint8_t flags)
{
	struct reader data = unpad(r, flags);
	size_t len = MIN(reader_remaining(&data), sizeof check->answer - check->answer_len);
	reader_copy(&data, check->answer + check->answer_len, len);
	check->answer_len += len;
	check->closed = flags & HTTP2_FLAG_END_STREAM;
	return data.err ? ERR_MALFORMED : 0;
}

static int take_control(struct grpc_check *check, struct reader *r, uint8_t type, uint8_t flags)
{
	size_t len = reader_remaining(r);
	bool asks = !(flags & HTTP2_FLAG_ACK) && (type == HTTP2_SETTINGS || type == HTTP2_PING);
	if (asks)
		write_frame(check, type, HTTP2_FLAG_ACK, 0, reader_take(r, len),
			    type == HTTP2_PING ? len : 0);
	if (type == HTTP2_GOAWAY && (reader_u32(r) & INT32_MAX) < STREAM)
		check->closed = true;
	return r->err ? ERR_MALFORMED : 0;
}

// One frame, of which `r` has all. Of a server that speaks HTTP/2 the first are its SETTINGS.
static int take_frame(struct grpc_check *check, struct reader *r)
{
	reader_skip(r, 3);
	uint8_t type = reader_u8(r), flags = reader_u8(r);
	uint32_t id = reader_u32(r) & INT32_MAX;
	if (++check->frames > LIMIT_PROBE_FRAMES)
		return ERR_LIMIT;
	if ((check->frames == 1 && type != HTTP2_SETTINGS) ||
	    check->in_block != (type == HTTP2_CONTINUATION) || id > STREAM)
		return ERR_MALFORMED;
	if (!id)
		return take_control(check, r, type, flags);
	switch (type) {
	case HTTP2_HEADERS:
		return take_headers(check, r, flags);
	case HTTP2_CONTINUATION:
		return add_to_block(check, r, flags);
	case HTTP2_DATA:
		return take_data(check, r, flags);
	case HTTP2_RST_STREAM:
		check->closed = true;
		return 0;
	default:
		return 0;
	}
}

// Takes the next frame. ERR_NEED_MORE: it is not whole.
static int next_frame(struct grpc_check *check)
{
	uint8_t head[3] = {0};
	size_t len;
	struct reader r;
	if (bufq_peek(&check->in, 0, head, sizeof head) < sizeof head)
		return ERR_NEED_MORE;
	reader_init(&r, head, sizeof head);
	len = reader_u24(&r);
	if (len > FRAME_MAX)
		return ERR_MALFORMED;
	if (check->in.bytes < FRAME_HEAD + len)
		return ERR_NEED_MORE;
	const uint8_t *frame = bufq_pull(&check->in, FRAME_HEAD + len);
	if (!frame)
		return -ENOMEM;
	reader_init(&r, frame, FRAME_HEAD + len);
	int err = take_frame(check, &r);
	bufq_drop(&check->in, FRAME_HEAD + len);
	return err;
}

// HealthCheckResponse{status = 1}; an absent field is 0, UNKNOWN.
static bool is_serving(const struct grpc_check *check)
{
	return check->answer_len >= PREFIX + 2 && check->answer[0] == 0 &&
	       check->answer[PREFIX] == PROTO_STATUS && check->answer[PREFIX + 1] == SERVING;
}

static void judge(const struct grpc_check *check, uint16_t *ret_status, const char **ret_why)
{
	*ret_status = 503;
	if (check->http_status != 200 || check->grpc_status < 0)
		*ret_why = "the application does not speak gRPC";
	else if (check->grpc_status == GRPC_UNIMPLEMENTED)
		*ret_why = "the application has no health service";
	else if (check->grpc_status != GRPC_OK)
		*ret_why = "the health check failed";
	else if (!is_serving(check))
		*ret_why = "not serving";
	else {
		*ret_status = 200;
		*ret_why = "serving";
	}
}

int grpc_check_receive(struct grpc_check *check, struct str bytes, uint16_t *ret_status, const char **ret_why)
{
	int err = bufq_add_copy(&check->in, bytes.p, bytes.len);
	while (!err && !check->closed)
		err = next_frame(check);
	if (!err)
		judge(check, ret_status, ret_why);
	return err;
}
