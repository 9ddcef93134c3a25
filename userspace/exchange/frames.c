// SPDX-License-Identifier: Apache-2.0
#include "exchange/frames.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>

enum { FIXED_PART = 64, CHECKSUM_BYTES = 4, SMALL_READ = 4096 };

static struct str front(const struct bufq *q)
{
	struct slice slice = bufq_first(q);
	return (struct str){(const char *)slice.p, slice.len};
}

int frames_keep(struct bufq *in, struct slice slice)
{
	if (!bufq_empty(in) && slice.len < SMALL_READ)
		return bufq_add_copy(in, slice.p, slice.len);
	return bufq_add_slice(in, slice);
}

int frames_keep_all(struct bufq *in, struct bufq *bytes)
{
	int err = 0;
	while (!err && !bufq_empty(bytes)) {
		struct slice slice = bufq_first(bytes);
		err = frames_keep(in, slice);
		bufq_drop(bytes, slice.len);
	}
	bufq_clear(bytes);
	return err;
}

// A fixed part that two reads have cut is put together, no more of the queue than that.
int frames_measure(const struct framed_codec *codec, struct bufq *in, uint64_t max_bytes,
		   struct frame *ret_frame)
{
	int err = ERR_NEED_MORE;
	*ret_frame =
	    (struct frame){.kind = FRAME_RESPONSE}; // a codec that finds it too long says no more of it
	while (in->bytes) {
		struct str bytes = front(in);
		err = codec->measure(codec, bytes, ret_frame);
		if (err != ERR_NEED_MORE || bytes.len == in->bytes)
			break;
		if (bytes.len > LIMIT_FRAME_HEAD)
			return ERR_MALFORMED;
		if (!bufq_pull(in, MIN(in->bytes, MAX(bytes.len * 2, (size_t)FIXED_PART))))
			return -ENOMEM;
	}
	if (!err && (ret_frame->length > max_bytes || ret_frame->head > LIMIT_FRAME_HEAD))
		return ERR_LIMIT;
	return err;
}

int frames_check(const struct frame *frame, struct bufq *bytes)
{
	struct slice whole;
	if (frame->checksum == FRAME_CHECKSUM_NONE)
		return 0;
	int err = bufq_flatten(bytes, &whole);
	if (err)
		return err;
	return frame_checksum_fits(frame, whole.p) ? 0 : ERR_MALFORMED;
}

// Where the id cannot be changed in place the head is written anew.
static int renumber(const struct framed_codec *codec, const struct frame *frame, struct bufq *bytes,
		    uint64_t id)
{
	enum { GROWTH = 64 };
	struct bufq out = {0};
	struct chunk *chunk = chunk_new(frame->head + GROWTH);
	uint8_t *head = chunk ? bufq_pull(bytes, frame->head) : NULL;
	struct writer w;
	int err = head ? 0 : -ENOMEM;
	if (!err) {
		writer_init(&w, chunk->data, chunk->cap);
		codec->renumber(codec, frame, (struct str){(const char *)head, frame->head}, id, &w);
		chunk->used = (uint32_t)w.len;
		err = w.err ? ERR_MALFORMED
			    : bufq_add_slice(&out, (struct slice){chunk, chunk->data, chunk->used});
	}
	chunk_unref(chunk);
	if (err)
		return err;
	bufq_drop(bytes, frame->head);
	bufq_move_all(&out, bytes);
	*bytes = out;
	return 0;
}

static int mend_checksum(struct bufq *bytes, uint32_t change)
{
	struct slice whole;
	int err = bufq_flatten(bytes, &whole);
	if (!err)
		frame_checksum_change((uint8_t *)whole.p + whole.len - CHECKSUM_BYTES, change);
	return err;
}

int frames_set_id(const struct framed_codec *codec, const struct frame *frame, struct bufq *bytes,
		  uint64_t id, struct frame_rest *ret_rest)
{
	uint64_t rest = frame->length - bytes->bytes;
	bool checked = frame->checksum != FRAME_CHECKSUM_NONE;
	uint32_t change = 0;
	int err = 0;
	if (frame->id_size) {
		uint8_t *start = bufq_pull(bytes, (size_t)frame->id_at + frame->id_size);
		if (!start)
			return -ENOMEM;
		change = frame_set_id(frame, start, id);
	} else {
		err = renumber(codec, frame, bytes, id);
	}
	if (!err && rest)
		*ret_rest = (struct frame_rest){rest, change, checked};
	else if (!err && checked)
		err = mend_checksum(bytes, change);
	return err;
}

// The checksum at the end is held back until it is there as one piece.
int frame_rest_move(struct frame_rest *rest, struct bufq *out, struct bufq *in)
{
	uint64_t held = rest->checksum ? CHECKSUM_BYTES : 0;
	size_t len = (size_t)MIN((uint64_t)in->bytes, rest->bytes - held);
	int err = bufq_move(out, in, len);
	if (err)
		return err;
	rest->bytes -= len;
	if (rest->bytes != held || !held || in->bytes < held)
		return 0;
	uint8_t *checksum = bufq_pull(in, CHECKSUM_BYTES);
	if (!checksum)
		return -ENOMEM;
	frame_checksum_change(checksum, rest->change);
	err = bufq_move(out, in, CHECKSUM_BYTES);
	if (!err)
		*rest = (struct frame_rest){0};
	return err;
}

void frame_rest_skip(struct frame_rest *rest, struct bufq *in)
{
	size_t len = (size_t)MIN((uint64_t)in->bytes, rest->bytes);
	bufq_drop(in, len);
	rest->bytes -= len;
}
