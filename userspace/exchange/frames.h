// SPDX-License-Identifier: Apache-2.0
// Frames in a queue of received bytes, for both sides of a framed RPC connection: where the next one ends,
// the change of its id, and frames so long that they pass through in pieces. One thread; no I/O.
#pragma once

#include "base/buf.h"
#include "base/limits.h"
#include "codecs/codec.h"

// Adds what was received. Small pieces of a frame are copied together, so that each does not hold a whole
// chunk. 0 or -ENOMEM.
int frames_keep(struct bufq *in, struct slice slice);
// The same with all of `bytes`, which are empty afterwards.
int frames_keep_all(struct bufq *in, struct bufq *bytes);
// Measures the frame at the front of the queue, whose fixed part becomes one piece. 0, ERR_NEED_MORE,
// ERR_MALFORMED, -ENOMEM, or ERR_LIMIT: longer than `max_bytes`, or its head too long; then *ret_frame is
// filled in all the same, unless it is longer than anything.
int frames_measure(const struct framed_codec *codec, struct bufq *in, uint64_t max_bytes,
		   struct frame *ret_frame);
// Whether a frame passes through in one piece. Of others the head comes first, and then the rest.
static inline bool frame_is_whole(const struct frame *frame)
{
	return frame->length <= LIMIT_FRAME_WHOLE;
}
// How many of its bytes have to be there before it is dealt with.
static inline uint64_t frame_wanted(const struct frame *frame)
{
	return frame_is_whole(frame) ? frame->length : frame->head;
}

// What is left of a frame whose head was taken already.
struct frame_rest {
	uint64_t bytes;	 // 0: nothing
	uint32_t change; // of its checksum
	bool checksum;
};

// Gives the frame that `bytes` begins with (its head, at least; all of a whole one) another id and mends its
// checksum; ret_rest (may be NULL for a whole frame) says what follows. 0, -ENOMEM, or ERR_MALFORMED.
int frames_set_id(const struct framed_codec *codec, const struct frame *frame, struct bufq *bytes,
		  uint64_t id, struct frame_rest *ret_rest);
// Whether the checksum of the whole frame that `bytes` holds fits: 0, ERR_MALFORMED or -ENOMEM.
int frames_check(const struct frame *frame, struct bufq *bytes);
// Moves what is there of the rest, with its checksum mended. 0 or -ENOMEM.
int frame_rest_move(struct frame_rest *rest, struct bufq *out, struct bufq *in);
// Drops what is there of the rest.
void frame_rest_skip(struct frame_rest *rest, struct bufq *in);
