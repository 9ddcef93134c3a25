// SPDX-License-Identifier: Apache-2.0
// HTTP/2 without TLS as its two ends of the benchmark speak it (RFC 9113): every frame that has come is taken
// by its head alone, and what is to be sent goes in one piece. Fields are in HPACK's table after their first
// use (RFC 7541). What neither end can meet from a peer that behaves ends the program. Written apart from
// weir's codec, so that neither can hide what the other does wrong.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum http2_type {
	HTTP2_DATA,
	HTTP2_HEADERS,
	HTTP2_RST_STREAM = 3,
	HTTP2_SETTINGS,
	HTTP2_PUSH_PROMISE,
	HTTP2_PING,
	HTTP2_GOAWAY,
	HTTP2_WINDOW_UPDATE,
	HTTP2_CONTINUATION,
};
enum http2_flag {
	HTTP2_ACK = 1,
	HTTP2_END_STREAM = 1,
	HTTP2_END_HEADERS = 4,
	HTTP2_PADDED = 8,
	HTTP2_PRIORITY = 32,
};
enum http2_setting { HTTP2_TABLE_SIZE = 1, HTTP2_ENABLE_PUSH, HTTP2_MAX_STREAMS, HTTP2_INITIAL_WINDOW };
enum {
	HTTP2_FIELDS = 16, // different ones that a program sends
	HTTP2_BUFFER = 256 << 10,
};

// A field is either whole in HPACK's static table, or its name may be.
struct http2_field {
	uint8_t whole, name_index;
	uint8_t number; // of the program's fields, below HTTP2_FIELDS; 0: it goes into no table
	const char *name, *value;
};

struct http2_frame {
	uint32_t len, stream;
	uint8_t type, flags;
	const uint8_t *payload;
};

struct http2 {
	int fd;
	bool expects_preface;
	int64_t window;		      // what may be sent; bytes
	int64_t stream_window;	      // the same for a new stream
	uint32_t max_streams;	      // that the peer allows; 0 until its SETTINGS have come
	uint32_t received;	      // DATA for which the peer got no new window yet
	uint8_t kept;		      // fields in HPACK's table
	uint8_t places[HTTP2_FIELDS]; // as which of them each came there
	size_t in_start, in_end, out_start, out_end;
	uint8_t in[HTTP2_BUFFER], out[HTTP2_BUFFER];
};

uint32_t http2_number(const uint8_t *at);

// The first bytes of either end: one setting of its own, and wide windows.
void http2_begin(struct http2 *http2, int fd, bool server, enum http2_setting name, uint32_t value);

void http2_put_fields(struct http2 *http2, uint32_t stream, uint8_t flags, const struct http2_field *fields,
		      size_t count);

// Counts it in the connection's window.
void http2_put_data(struct http2 *http2, uint32_t stream, uint8_t flags, const uint8_t *data, size_t len);

// A frame whose payload is a number.
void http2_put_short(struct http2 *http2, enum http2_type type, uint32_t stream, uint32_t number);

// Takes all that has come. Writes only what there is no room for. False: the connection has ended.
bool http2_receive(struct http2 *http2, void (*take)(void *, const struct http2_frame *), void *arg);

// Writes what waits, as far as the peer reads. False: the connection has ended.
bool http2_send(struct http2 *http2);
