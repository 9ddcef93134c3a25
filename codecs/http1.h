// SPDX-License-Identifier: Apache-2.0
// The HTTP/1.1 codec (RFC 9110, 9112): strict, pure functions over bytes; no I/O, no clock, no globals. A
// head is parsed from one contiguous piece; bodies are walked piece by piece with plain-data state that can
// be exported. Anything two implementations could read differently (request smuggling) is refused, never
// repaired.
//
// All functions are restartable: given fewer bytes than needed they answer ERR_NEED_MORE and change nothing,
// so whole, byte by byte and every split give the same result.
#pragma once

#include "codecs/head.h"

// What goes wrong, what the proxy answers, and why. const rows: code, status, what to say, source.
enum http1_fault {
	HTTP1_OK,
	HTTP1_FAULT_SYNTAX, // 400: request line, field line or status line that the grammar does not know
	HTTP1_FAULT_TARGET_LONG,    // 414
	HTTP1_FAULT_HEAD_LARGE,	    // 431: bytes of the head, or number of fields
	HTTP1_FAULT_METHOD,	    // 501: longer than LIMIT_HTTP_METHOD
	HTTP1_FAULT_VERSION,	    // 505: major version other than 1
	HTTP1_FAULT_HOST,	    // 400: none in HTTP/1.1, several, or not a valid host (RFC 9112 3.2)
	HTTP1_FAULT_LENGTH,	    // 400: Content-Length malformed or conflicting (RFC 9112 6.3)
	HTTP1_FAULT_LENGTH_CODING,  // 400: Content-Length beside Transfer-Encoding (RFC 9112 6.1)
	HTTP1_FAULT_CODING,	    // 501: a transfer coding other than chunked, or chunked not last or twice
	HTTP1_FAULT_CHUNK,	    // 400: chunk size, chunk end or trailers malformed
	HTTP1_FAULT_CODING_VERSION, // 400: Transfer-Encoding in HTTP/1.0 (RFC 9112 6.1)
	HTTP1_FAULT_CONTENT_LARGE,  // 413: a length, or the size of a chunk, of 2^63 and more
	HTTP1_FAULT_COUNT,
};

struct http1_fault_row {
	enum http1_fault fault;
	uint16_t status;  // what a client gets; an upstream's fault is answered 502 whatever the row
	const char *name; // "length_conflict": for the log
	const char *text; // one sentence for the body of the answer
	const char *rfc;
};
const struct http1_fault_row *http1_fault_describe(enum http1_fault fault);

enum http1_framing {
	HTTP1_BODY_NONE,
	HTTP1_BODY_LENGTH, // `length` bytes
	HTTP1_BODY_CHUNKED,
	HTTP1_BODY_EOF,	   // a response that ends with the connection
	HTTP1_BODY_TUNNEL, // after CONNECT 2xx or 101: bytes both ways
};

// Known fields get a bit, so that nobody searches for them again.
enum {
	HTTP1_HAS_CONNECTION = 1 << 0,	 // a Connection field is there
	HTTP1_CONN_CLOSE = 1 << 1,	 // Connection: close
	HTTP1_CONN_KEEP_ALIVE = 1 << 2,	 // Connection: keep-alive
	HTTP1_CONN_UPGRADE = 1 << 3,	 // Connection: upgrade, and an Upgrade field is there
	HTTP1_HAS_HOP_FIELDS = 1 << 4,	 // http1_field_is_hop holds for one at least
	HTTP1_EXPECT_CONTINUE = 1 << 5,	 // Expect: 100-continue
	HTTP1_TARGET_ABSOLUTE = 1 << 6,	 // absolute-form: http://host/path
	HTTP1_TARGET_AUTHORITY = 1 << 7, // authority-form: CONNECT host:port
	HTTP1_TARGET_ASTERISK = 1 << 8,	 // OPTIONS *
	HTTP1_HAS_HOST = 1 << 9,
};

struct http1_head {
	struct head head;
	struct str raw;	    // the whole head as received, with its final CRLF CRLF
	struct str target;  // the request target as it stood
	struct str reason;  // of a response
	struct str upgrade; // value of Upgrade, if HTTP1_CONN_UPGRADE
	uint8_t minor;	    // HTTP/1.minor
	uint8_t framing;    // enum http1_framing
	uint16_t flags;	    // HTTP1_*
	bool persistent;    // the sender keeps the connection open after this message (RFC 9112 9.3)
	uint64_t length;    // for HTTP1_BODY_LENGTH
};

// Parses the request head at the start of `bytes`. ret_head->head.fields points to room for `max_fields`
// fields when called. Leading empty lines are skipped (RFC 9112 2.2) and counted in the result.
//
// Returns the bytes consumed (> 0), ERR_NEED_MORE, or ERR_MALFORMED with *ret_fault set. `limit` caps the
// head's length (at most LIMIT_HTTP_HEAD): a head that cannot end within it is HTTP1_FAULT_HEAD_LARGE (or
// TARGET_LONG when the request line alone is too long), also while more bytes are awaited.
//
// For an absolute-form target (http and https) head.path is what follows the authority ("/" if nothing does,
// "*" for OPTIONS) and head.authority comes from the target, which overrides Host (RFC 9112 3.2.2); a query
// right behind the authority is refused. CONNECT has the authority and no path. Targets may hold bytes above
// 0x7f, as many clients send UTF-8, but no '#'. Host may be empty (RFC 9112 3.2), and bytes that some decode
// or split at
// ('%', ',') are refused in it.
//
// Transfer-Encoding is chunked alone, Content-Length one number below 2^63. Upgrade and Expect mean nothing
// in HTTP/1.0. HTTP/1.0 with keep-alive is persistent: weir stands in as a gateway.
int http1_request_parse(struct str bytes, size_t limit, uint16_t max_fields, struct http1_head *ret_head,
			enum http1_fault *ret_fault);

// The same for a response; `request_method` decides the framing of answers to HEAD and CONNECT (RFC
// 9112 6.3). 1xx heads are returned like any other, with HTTP1_BODY_NONE (101: HTTP1_BODY_TUNNEL). Nothing is
// skipped in front. The blank behind the status may be missing when there is no reason. The status is 100 to
// 999.
int http1_response_parse(struct str bytes, size_t limit, uint16_t max_fields, struct str request_method,
			 struct http1_head *ret_head, enum http1_fault *ret_fault);

// --- bodies -------------------------------------------------------------------------------------------------
// The field lines of a trailer section with the empty line at its end, as http1_body_decode yields it.
// Returns the number of fields, ERR_NEED_MORE or ERR_MALFORMED with *ret_fault.
int http1_trailers_parse(struct str bytes, uint16_t max_fields, struct field *ret_fields,
			 enum http1_fault *ret_fault);

// Where in a body one is. Plain data: it can be copied to another process between any two calls.
struct http1_body {
	uint8_t framing;	// enum http1_framing
	uint8_t state;		// private
	uint16_t line;		// private: bytes of the current chunk line
	uint32_t trailer_bytes; // private
	uint64_t left;		// of the length, or of the chunk
};

void http1_body_init(struct http1_body *body, const struct http1_head *head);
bool http1_body_done(const struct http1_body *body);

// Walks over wire bytes. Returns how many belong to this body (0..len; with its chunk framing and trailers),
// or ERR_MALFORMED with *ret_fault. *ret_done says that the body ended with them; bytes behind them are the
// next message. The wire bytes may be passed on as they are: chunked is checked, not changed.
ptrdiff_t http1_body_walk(struct http1_body *body, struct str bytes, bool *ret_done,
			  enum http1_fault *ret_fault);

// As http1_body_walk, but stops at each piece of payload: *ret_payload is the payload in the consumed bytes
// (empty for framing). For conversion to protocols that frame otherwise. Trailer lines are collected raw by
// the caller: *ret_trailer is set to a piece of the trailer section, the empty line at its end included. Call
// again with what is left until everything is consumed or *ret_done.
ptrdiff_t http1_body_decode(struct http1_body *body, struct str bytes, struct str *ret_payload,
			    struct str *ret_trailer, bool *ret_done, enum http1_fault *ret_fault);

// Whether a field of this name must not be passed on (RFC 9110 7.6.1): Connection, Keep-Alive,
// Proxy-Connection, TE other than trailers, Upgrade unless HTTP1_CONN_UPGRADE (it is kept for an upgrade that
// is passed on), and whatever Connection names; but never Content-Length, Transfer-Encoding (chunked bodies
// are passed on as they are; who takes the chunks off drops it) and Host. Proxy-Authenticate and
// Proxy-Authorization are end-to-end here.
bool http1_field_is_hop(const struct http1_head *head, const struct field *field);
