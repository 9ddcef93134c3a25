// SPDX-License-Identifier: Apache-2.0
// What holds for every framed codec and any bytes. For the fuzz targets, and for the unit tests' vectors.
#pragma once

#include "tests/fuzz/check.h"

#include "base/limits.h"
#include "base/mem.h"
#include "codecs/codec.h"

enum { FRAMED_FIELDS = 64 };

static inline int framed_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	char *copy = exact_copy(bytes.p, bytes.len);
	int err = codec->measure(codec, (struct str){copy, bytes.len}, ret_frame);
	free(copy);
	return err;
}

static inline bool framed_same(const struct frame *a, const struct frame *b)
{
	return a->id == b->id && a->length == b->length && a->head == b->head &&
	       a->timeout_ms == b->timeout_ms && a->id_at == b->id_at && a->id_size == b->id_size &&
	       a->kind == b->kind && a->checksum == b->checksum && a->variant == b->variant &&
	       a->status == b->status;
}

// Few bytes: at every one. Many: every so many.
static inline size_t framed_step(size_t len)
{
	return len < 512 ? 1 : len / 256;
}

static inline void framed_check_detect(const struct framed_codec *codec, struct str bytes)
{
	bool decided = false;
	enum detect_verdict whole = codec->detect(codec, bytes);
	for (size_t len = 0; len < bytes.len; len += framed_step(bytes.len)) {
		char *copy = exact_copy(bytes.p, len);
		enum detect_verdict part = codec->detect(codec, (struct str){copy, len});
		free(copy);
		CHECK(part == DETECT_MAYBE ? !decided : part == whole);
		decided = part != DETECT_MAYBE;
	}
}

static inline void framed_check_prefixes(const struct framed_codec *codec, struct str bytes, int err,
					 const struct frame *whole)
{
	bool decided = false;
	for (size_t len = 0; len < bytes.len; len += framed_step(bytes.len)) {
		struct frame part;
		int part_err = framed_measure(codec, (struct str){bytes.p, len}, &part);
		CHECK(part_err == ERR_NEED_MORE ? !decided : part_err == err);
		CHECK(part_err != 0 || framed_same(&part, whole));
		decided = part_err != ERR_NEED_MORE;
	}
}

// Reads the head of a request; every byte of what it gives is touched. The fields are the caller's.
static inline int framed_decode(const struct framed_codec *codec, struct frame *frame, const char *bytes,
				struct field *fields, struct head *ret_head)
{
	volatile uint64_t touched = 0;
	ret_head->fields = fields;
	int err = codec->decode(codec, frame, (struct str){bytes, frame->head}, FRAMED_FIELDS, ret_head);
	CHECK(err == 0 || err == ERR_MALFORMED || err == ERR_LIMIT);
	if (err)
		return err;
	CHECK(ret_head->fields == fields && ret_head->field_count <= FRAMED_FIELDS);
	touched += str_hash(ret_head->authority) + str_hash(ret_head->method);
	for (unsigned i = 0; i < ret_head->field_count; i++)
		touched += str_hash(fields[i].name) + str_hash(fields[i].value);
	(void)touched;
	return 0;
}

// With another id nothing else of the frame is different; nor with the old one again.
static inline void framed_check_patch(const struct framed_codec *codec, const struct frame *frame,
				      struct str bytes)
{
	char *copy = exact_copy(bytes.p, bytes.len);
	struct frame other;
	frame_set_id(frame, (uint8_t *)copy, codec->last_id);
	CHECK(framed_measure(codec, (struct str){copy, bytes.len}, &other) == 0 &&
	      other.id == codec->last_id);
	frame_set_id(&other, (uint8_t *)copy, frame->id);
	other.id = frame->id;
	CHECK(framed_same(&other, frame) && memcmp(copy, bytes.p, bytes.len) == 0);
	free(copy);
}

static inline void framed_check_renumber(const struct framed_codec *codec, const struct frame *frame,
					 struct str bytes)
{
	size_t room = bytes.len + 16;
	char *copy = exact_copy(bytes.p, frame->head), *text = malloc(room);
	struct frame other;
	struct writer out;
	CHECK(text);
	writer_init(&out, text, room);
	codec->renumber(codec, frame, (struct str){copy, frame->head}, codec->first_id, &out);
	CHECK(out.err == 0);
	uint64_t grown = out.len - frame->head;
	writer_bytes(&out, bytes.p + frame->head, bytes.len - frame->head);
	CHECK(framed_measure(codec, (struct str){text, out.len}, &other) == 0);
	CHECK(other.id == codec->first_id && other.length == frame->length + grown && other.id_size != 0);
	CHECK(other.kind == frame->kind && other.variant == frame->variant && other.status == frame->status);
	free(copy);
	free(text);
}

// A frame that the proxy made, whole and nothing behind it.
static inline void framed_check_made(const struct framed_codec *codec, const struct writer *out, int kind,
				     uint64_t id)
{
	struct frame frame;
	struct str bytes = {(const char *)out->_start, out->len};
	CHECK(out->err == 0 && framed_measure(codec, bytes, &frame) == 0);
	CHECK(frame.kind == kind && frame.id == id && frame.length == out->len);
	CHECK(frame_checksum_fits(&frame, out->_start));
	CHECK(kind != FRAME_RESPONSE || codec->http_status(codec, frame.status) >= 400);
}

static inline void framed_check_answers(const struct framed_codec *codec, const struct frame *frame)
{
	uint8_t bytes[512];
	struct writer out;
	for (int failure = RPC_NO_ROUTE; frame->kind == FRAME_REQUEST && failure <= RPC_MALFORMED;
	     failure++) {
		writer_init(&out, bytes, sizeof bytes);
		codec->write_failure(codec, frame, failure, STR("no such service: caf\xc3\xa9"), &out);
		framed_check_made(codec, &out, FRAME_RESPONSE, frame->id);
	}
	writer_init(&out, bytes, sizeof bytes);
	if (frame->kind == FRAME_HEARTBEAT && codec->write_heartbeat_ack) {
		codec->write_heartbeat_ack(codec, frame, &out);
		framed_check_made(codec, &out, FRAME_HEARTBEAT_ACK, frame->id);
	}
	writer_init(&out, bytes, sizeof bytes);
	if (codec->write_heartbeat) {
		codec->write_heartbeat(codec, frame->variant, codec->first_id, &out);
		framed_check_made(codec, &out, FRAME_HEARTBEAT, codec->first_id);
	}
	writer_init(&out, bytes, sizeof bytes);
	if (codec->write_goaway) {
		codec->write_goaway(codec, frame->variant, codec->first_id, &out);
		framed_check_made(codec, &out, FRAME_GOAWAY, codec->first_id);
	}
}

// The bytes begin with a frame, or with something else.
static inline void framed_check(const struct framed_codec *codec, struct str bytes)
{
	struct frame frame;
	struct field fields[FRAMED_FIELDS];
	struct head head;
	int err = framed_measure(codec, bytes, &frame);
	CHECK(err == 0 || err == ERR_NEED_MORE || err == ERR_MALFORMED || err == ERR_LIMIT);
	framed_check_detect(codec, bytes);
	framed_check_prefixes(codec, bytes, err, &frame);
	if (err)
		return;
	CHECK(frame.length <= LIMIT_FRAME_BYTES && frame.head <= frame.length &&
	      frame.head <= LIMIT_FRAME_HEAD);
	CHECK(frame.id_at + frame.id_size <= frame.head);
	framed_check_answers(codec, &frame);
	if (bytes.len < frame.head)
		return;
	if (frame.kind == FRAME_REQUEST || frame.kind == FRAME_ONEWAY) {
		char *copy = exact_copy(bytes.p, frame.head);
		struct frame read = frame;
		framed_decode(codec, &read, copy, fields, &head);
		free(copy);
	}
	if (frame.id_size)
		framed_check_patch(codec, &frame, bytes);
	else if (codec->renumber)
		framed_check_renumber(codec, &frame, bytes);
}
