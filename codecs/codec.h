// SPDX-License-Identifier: Apache-2.0
// Framed RPC protocols (SOFABolt, Dubbo, Tars, ...): many calls at a time on one connection, each a frame
// with an id that its answer repeats. A `struct framed_codec` says all that the proxy has to know of one of
// them: where a frame ends, what kind it is, its id, its timeout, the few fields that routing reads, and what
// the frames look like that the proxy makes itself. What a call carries is never decoded.
//
// All functions are pure: no I/O, no clock, no globals. They are restartable: given fewer bytes than needed
// they answer ERR_NEED_MORE and change nothing, so whole, byte by byte and every split give the same result.
#pragma once

#include "base/cursor.h"
#include "codecs/head.h"
#include "codecs/shape.h"

enum frame_kind {
	FRAME_REQUEST,
	FRAME_ONEWAY, // a request that nobody answers
	FRAME_RESPONSE,
	FRAME_HEARTBEAT,
	FRAME_HEARTBEAT_ACK,
	FRAME_GOAWAY, // the sender takes no further requests
};

// What ends a frame, and is made anew when its id is changed.
enum frame_checksum {
	FRAME_CHECKSUM_NONE,
	FRAME_CHECKSUM_CRC32, // the last 4 bytes: CRC-32 (IEEE 802.3), big-endian, of all that is before them
};

// Why the proxy answers a call itself; each protocol has a status of its own for it.
enum rpc_failure {
	RPC_NO_ROUTE,	 // no virtual host, no route
	RPC_UNAVAILABLE, // no endpoint, or none that could be reached
	RPC_LOST,	 // the connection to the endpoint ended before the answer came
	RPC_TIMEOUT,
	RPC_OVERLOADED, // too many calls at a time
	RPC_MALFORMED,	// the request, or what answered it, cannot be read
};

// One frame, as its first bytes tell. Plain data.
struct frame {
	uint64_t id;
	uint64_t length;     // bytes of the whole frame, checksum included
	uint32_t head;	     // bytes from the start that `decode` wants to see; at most `length`
	uint32_t timeout_ms; // of a request; 0: none
	uint16_t id_at;	     // where the id stands
	uint8_t id_size;     // its bytes there, big-endian; 0: it cannot be changed in place, see `renumber`
	uint8_t kind;	     // enum frame_kind
	uint8_t checksum;    // enum frame_checksum
	uint16_t variant;    // the codec's own: version, serialization; what an answer has to repeat
	uint16_t status;     // of a response, in the protocol's own numbers
};

struct streamed_codec;

enum { CODEC_WRITE_ROOM = 512 }; // bytes that a frame may have which the proxy makes itself

struct framed_codec {
	const char *name;	// "bolt": in configuration, logs and `weir conn show`
	enum protocol protocol; // in the same words
	// Any bytes may look like it: it is never guessed, only spoken where the configuration says so.
	bool weak_signature;
	// Not framed at all, but in order (codecs/streamed.h): then what is below has but `usable`, `detect`
	// and `http_status`. NULL: framed.
	const struct streamed_codec *streamed;
	uint64_t first_id, last_id; // which ids the proxy may give to calls, both included

	// Whether connections may be given to it. NULL: always.
	bool (*usable)(const struct framed_codec *codec);
	// Whether the first bytes of a connection speak it.
	enum detect_verdict (*detect)(const struct framed_codec *codec, struct str bytes);
	// Reads the fixed part at the start of a frame. 0, ERR_NEED_MORE, ERR_MALFORMED, or ERR_LIMIT (longer
	// than LIMIT_FRAME_BYTES, or head larger than LIMIT_FRAME_HEAD).
	int (*measure)(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame);
	// Reads what routing needs of a request from the first frame->head bytes. ret_head->fields points to
	// room for `max_fields` when called; authority is the service, method the method, fields are the
	// header map. Views into `bytes`. Sets frame->timeout_ms if only now it is known. 0, ERR_MALFORMED,
	// or ERR_LIMIT (more fields than that).
	int (*decode)(const struct framed_codec *codec, struct frame *frame, struct str bytes,
		      uint16_t max_fields, struct head *ret_head);
	// For frames with id_size 0: writes the head (`bytes`, frame->head long) with another id. NULL if the
	// protocol has no such frames.
	void (*renumber)(const struct framed_codec *codec, const struct frame *frame, struct str bytes,
			 uint64_t id, struct writer *out);

	// Frames that the proxy makes, in the variant given. NULL: the protocol has none of that kind.
	void (*write_heartbeat)(const struct framed_codec *codec, uint16_t variant, uint64_t id,
				struct writer *out);
	void (*write_heartbeat_ack)(const struct framed_codec *codec, const struct frame *heartbeat,
				    struct writer *out);
	void (*write_goaway)(const struct framed_codec *codec, uint16_t variant, uint64_t id,
			     struct writer *out);
	// The answer to a request; `text` may be left out where the protocol has no room for it.
	void (*write_failure)(const struct framed_codec *codec, const struct frame *request,
			      enum rpc_failure failure, struct str text, struct writer *out);
	// A response's status in the numbers of HTTP, for logs and metrics.
	uint16_t (*http_status)(const struct framed_codec *codec, uint16_t status);
};

static inline bool codec_is_usable(const struct framed_codec *codec)
{
	return !codec->usable || codec->usable(codec);
}

// --- for all of them (codecs/codec.c) -----------------------------------------------------------------------
// Writes another id into a frame with id_size > 0, whose first id_at + id_size bytes these are. Returns what
// the frame's checksum has to be XORed with, 0 if it has none. CRC-32 is affine: so the change is known
// without the rest of the frame, and what was wrong stays wrong.
uint32_t frame_set_id(const struct frame *frame, uint8_t *bytes, uint64_t id);
// Whether a whole frame's checksum fits; true if it has none.
bool frame_checksum_fits(const struct frame *frame, const uint8_t *bytes);
// XORs the 4 bytes of a checksum.
void frame_checksum_change(uint8_t *bytes, uint32_t change);
