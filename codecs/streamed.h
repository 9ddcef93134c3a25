// SPDX-License-Identifier: Apache-2.0
// Protocols in which requests and their answers follow each other in order on a connection, without ids: the
// client speaks first, and each request has one answer, or none. A codec of this kind cuts each side's bytes
// into pieces of messages; what it reads of a request for routing is in the same head as for all other
// protocols. The bytes themselves pass unchanged.
#pragma once

#include "codecs/codec.h"

enum {
	PIECE_START = 1, // it begins a message
	PIECE_END = 2,	 // it ends one
};

struct stream_piece {
	size_t length;	 // bytes from the front of those given; at least 1
	uint8_t flags;	 // PIECE_*; 0: within a message
	bool oneway;	 // with PIECE_START, of a request: nobody answers it
	uint16_t status; // with PIECE_START, of an answer: in the protocol's own numbers
	uint32_t tag; // with PIECE_START, of a request: what the codec wants to know when it reads the answer
	uint32_t timeout_ms; // with PIECE_START, of a request; 0: none
};

// What a codec remembers of a message between two of its pieces; zero at its start.
struct stream_state {
	uint64_t word[4];
};

struct streamed_codec {
	// The piece at the front of `bytes`. With PIECE_START fills in ret_head as framed_codec.decode does
	// (views into `bytes`). 0, ERR_NEED_MORE, ERR_MALFORMED or ERR_LIMIT.
	int (*read_request)(const struct framed_codec *codec, struct stream_state *state, struct str bytes,
			    uint16_t max_fields, struct head *ret_head, struct stream_piece *ret_piece);
	int (*read_response)(const struct framed_codec *codec, struct stream_state *state, uint32_t tag,
			     struct str bytes, struct stream_piece *ret_piece);
	// The whole answer to the request with this tag.
	void (*write_failure)(const struct framed_codec *codec, uint32_t tag, enum rpc_failure failure,
			      struct str text, struct writer *out);
};
