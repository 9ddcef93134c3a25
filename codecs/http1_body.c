// SPDX-License-Identifier: Apache-2.0
// Bodies of HTTP/1. Chunk lines and trailers go byte by byte through a table of steps whose state is one
// number (so that it can travel to another process); payload is passed over in one go.
#include "codecs/http1.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"

enum chunk_state {
	CHUNK_SIZE_FIRST, // the first digit
	CHUNK_SIZE,	  // further digits
	CHUNK_BLANK,	  // blanks in front of ';'
	CHUNK_EXTENSION,
	CHUNK_LINE_LF,
	CHUNK_DATA,
	CHUNK_DATA_CR,
	CHUNK_DATA_LF,
	CHUNK_TRAILER, // the first byte of a trailer line
	CHUNK_TRAILER_NAME,
	CHUNK_TRAILER_VALUE,
	CHUNK_TRAILER_LF,
	CHUNK_END_LF,
	CHUNK_DONE,
};

static enum http1_fault go(struct http1_body *body, enum chunk_state state)
{
	body->state = (uint8_t)state;
	return HTTP1_OK;
}

static enum http1_fault go_if(struct http1_body *body, bool right, enum chunk_state state)
{
	return right ? go(body, state) : HTTP1_FAULT_CHUNK;
}

// --- chunk lines: chunk-size [chunk-ext] CRLF (RFC 9112 7.1) ------------------------------------------------
static enum http1_fault add_digit(struct http1_body *body, char c)
{
	int digit = chars_hex((uint8_t)c);
	if (digit < 0)
		return HTTP1_FAULT_CHUNK;
	if (body->left > INT64_MAX >> 4)
		return HTTP1_FAULT_CONTENT_LARGE;
	body->left = body->left << 4 | (uint64_t)digit;
	return go(body, CHUNK_SIZE);
}

static enum http1_fault at_size_first(struct http1_body *body, char c)
{
	body->left = 0;
	body->line = 0;
	return add_digit(body, c);
}

static enum http1_fault at_blank(struct http1_body *body, char c)
{
	return c == ' ' || c == '\t' ? go(body, CHUNK_BLANK) : go_if(body, c == ';', CHUNK_EXTENSION);
}

static enum http1_fault at_size(struct http1_body *body, char c)
{
	if (c == '\r')
		return go(body, CHUNK_LINE_LF);
	return chars_hex((uint8_t)c) >= 0 ? add_digit(body, c) : at_blank(body, c);
}

// Extensions mean nothing to us; no byte of a quoted string could end the line, so their bytes are checked
// only.
static enum http1_fault at_extension(struct http1_body *body, char c)
{
	if (c == '\r')
		return go(body, CHUNK_LINE_LF);
	return go_if(body, chars_is(c, CHAR_TEXT), CHUNK_EXTENSION);
}

static enum http1_fault at_line_lf(struct http1_body *body, char c)
{
	return go_if(body, c == '\n', body->left ? CHUNK_DATA : CHUNK_TRAILER);
}

static enum http1_fault at_data_cr(struct http1_body *body, char c)
{
	return go_if(body, c == '\r', CHUNK_DATA_LF);
}

static enum http1_fault at_data_lf(struct http1_body *body, char c)
{
	return go_if(body, c == '\n', CHUNK_SIZE_FIRST);
}

// --- trailers -----------------------------------------------------------------------------------------------
static enum http1_fault at_trailer(struct http1_body *body, char c)
{
	return c == '\r' ? go(body, CHUNK_END_LF) : go_if(body, chars_is(c, CHAR_TOKEN), CHUNK_TRAILER_NAME);
}

static enum http1_fault at_trailer_name(struct http1_body *body, char c)
{
	return c == ':' ? go(body, CHUNK_TRAILER_VALUE)
			: go_if(body, chars_is(c, CHAR_TOKEN), CHUNK_TRAILER_NAME);
}

static enum http1_fault at_trailer_value(struct http1_body *body, char c)
{
	return c == '\r' ? go(body, CHUNK_TRAILER_LF)
			 : go_if(body, chars_is(c, CHAR_TEXT), CHUNK_TRAILER_VALUE);
}

static enum http1_fault at_trailer_lf(struct http1_body *body, char c)
{
	return go_if(body, c == '\n', CHUNK_TRAILER);
}

static enum http1_fault at_end_lf(struct http1_body *body, char c)
{
	return go_if(body, c == '\n', CHUNK_DONE);
}

static enum http1_fault (*const STEPS[])(struct http1_body *body, char c) = {
    [CHUNK_SIZE_FIRST] = at_size_first,
    [CHUNK_SIZE] = at_size,
    [CHUNK_BLANK] = at_blank,
    [CHUNK_EXTENSION] = at_extension,
    [CHUNK_LINE_LF] = at_line_lf,
    [CHUNK_DATA_CR] = at_data_cr,
    [CHUNK_DATA_LF] = at_data_lf,
    [CHUNK_TRAILER] = at_trailer,
    [CHUNK_TRAILER_NAME] = at_trailer_name,
    [CHUNK_TRAILER_VALUE] = at_trailer_value,
    [CHUNK_TRAILER_LF] = at_trailer_lf,
    [CHUNK_END_LF] = at_end_lf,
};

static bool in_trailers(const struct http1_body *body)
{
	return body->state >= CHUNK_TRAILER;
}

// One byte of a chunk line, or of the trailer section, with the caps on both.
static enum http1_fault chunk_step(struct http1_body *body, char c)
{
	if (in_trailers(body) && ++body->trailer_bytes > LIMIT_HTTP_HEAD)
		return HTTP1_FAULT_HEAD_LARGE;
	enum http1_fault fault = STEPS[body->state](body, c);
	return !fault && !in_trailers(body) && ++body->line > LIMIT_HTTP_CHUNK_LINE ? HTTP1_FAULT_CHUNK
										    : fault;
}

// --- the walk -----------------------------------------------------------------------------------------------
void http1_body_init(struct http1_body *body, const struct http1_head *head)
{
	*body = (struct http1_body){.framing = head->framing};
	if (head->framing == HTTP1_BODY_LENGTH)
		body->left = head->length;
}

bool http1_body_done(const struct http1_body *body)
{
	switch (body->framing) {
	case HTTP1_BODY_LENGTH:
		return body->left == 0;
	case HTTP1_BODY_CHUNKED:
		return body->state == CHUNK_DONE;
	default:
		return body->framing == HTTP1_BODY_NONE;
	}
}

static size_t take_payload(struct http1_body *body, struct str bytes, struct str *payload)
{
	size_t len = (size_t)MIN(bytes.len, body->left);
	body->left -= len;
	*payload = (struct str){bytes.p, len};
	return len;
}

// Up to and including one piece of payload, or the end. Returns the bytes taken.
static size_t chunked_take(struct http1_body *body, struct str bytes, struct str *payload,
			   struct str *trailer, enum http1_fault *fault)
{
	size_t at = 0;
	while (at < bytes.len && body->state != CHUNK_DONE && !*fault) {
		struct str rest = {bytes.p + at, bytes.len - at};
		if (body->state == CHUNK_DATA) {
			at += take_payload(body, rest, payload);
			body->state = body->left ? CHUNK_DATA : CHUNK_DATA_CR;
			return at;
		}
		if (in_trailers(body) && !trailer->p)
			trailer->p = rest.p;
		trailer->len += trailer->p != NULL;
		*fault = chunk_step(body, *rest.p);
		at++;
	}
	return at;
}

static size_t body_take(struct http1_body *body, struct str bytes, struct str *payload, struct str *trailer,
			enum http1_fault *fault)
{
	*payload = *trailer = (struct str){NULL, 0};
	if (bytes.len == 0)
		return 0;
	switch (body->framing) {
	case HTTP1_BODY_NONE:
		return 0;
	case HTTP1_BODY_LENGTH:
		return take_payload(body, bytes, payload);
	case HTTP1_BODY_CHUNKED:
		return chunked_take(body, bytes, payload, trailer, fault);
	default:
		*payload = bytes;
		return bytes.len;
	}
}

ptrdiff_t http1_body_decode(struct http1_body *body, struct str bytes, struct str *ret_payload,
			    struct str *ret_trailer, bool *ret_done, enum http1_fault *ret_fault)
{
	struct http1_body next = *body;
	struct str payload, trailer;
	enum http1_fault fault = HTTP1_OK;
	size_t taken = body_take(&next, bytes, &payload, &trailer, &fault);
	if (fault) {
		*ret_fault = fault;
		return ERR_MALFORMED;
	}
	*body = next;
	*ret_payload = payload;
	*ret_trailer = trailer;
	*ret_done = http1_body_done(&next);
	return (ptrdiff_t)taken;
}

ptrdiff_t http1_body_walk(struct http1_body *body, struct str bytes, bool *ret_done,
			  enum http1_fault *ret_fault)
{
	struct http1_body next = *body;
	struct str payload, trailer;
	enum http1_fault fault = HTTP1_OK;
	size_t at = 0;
	for (size_t taken = 1; taken && at < bytes.len && !fault; at += taken)
		taken =
		    body_take(&next, (struct str){bytes.p + at, bytes.len - at}, &payload, &trailer, &fault);
	if (fault) {
		*ret_fault = fault;
		return ERR_MALFORMED;
	}
	*body = next;
	*ret_done = http1_body_done(&next);
	return (ptrdiff_t)at;
}
