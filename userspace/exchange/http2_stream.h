// SPDX-License-Identifier: Apache-2.0
// One side of an exchange as a stream of HTTP/2: what is queued for it, and what is owed to the peer's flow
// control. Embedded in the exchange; handled by exchange/http2_session.h.
#pragma once

#include "base/buf.h"
#include "base/list.h"
#include "codecs/head.h"

#include <stdint.h>

struct http2_session;

struct http2_stream {
	struct http2_session *session; // NULL: none
	struct http2_stream *next;     // of session.by_id
	struct list node;	       // session.streams
	struct list send_node;	       // session.sending
	struct list ready_node;	       // session.drained
	int32_t id;
	uint32_t unconsumed; // payload received that may not be sent again yet
	uint32_t credit;     // and what may, but the peer was not told so
	int32_t receive_window, send_window;
	uint64_t content_left;	      // of what Content-Length said, if has_length
	struct bufq out;	      // payload to be sent
	const struct field *trailers; // to be sent behind it
	uint16_t trailer_count;
	bool ended : 1;	     // nothing follows what is in `out`
	bool head_ended : 1; // and END_STREAM went with the head
	bool congested : 1;  // on_drained is owed
	bool has_length : 1;
	bool end_received : 1;
	bool end_sent : 1;
	bool broken : 1; // RST_STREAM with `code` follows what is in `out`
	bool failed : 1; // RST_STREAM went out for what the peer did
	bool waited : 1; // something was in `out` when progress was last looked at, and has been since
	uint32_t code;
	uint64_t moved;	  // payload bytes sent
	uint64_t checked; // `moved` when progress was last looked at
};
