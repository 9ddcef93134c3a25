// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP/1. This is the hot path of the proxy: one pass forwards, no allocation, and an answer depends
// on nothing behind the byte that decides it, which is what makes every split give the same result. Wire
// bytes are indexed directly here, between `p` and `end`, because a bounds check in a cursor for each byte
// costs a quarter of the parser's time.
#include "codecs/http1.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"
#include "codecs/http1_authority.h"
#include "codecs/http1_fields.h"

#define ROW(fault, ...) [fault] = {fault, __VA_ARGS__}
static const struct http1_fault_row FAULTS[HTTP1_FAULT_COUNT] = {
    ROW(HTTP1_OK, 200, "ok", "Nothing is wrong.", ""),
    ROW(HTTP1_FAULT_SYNTAX, 400, "syntax", "The message head is malformed.", "RFC 9112 2.2"),
    ROW(HTTP1_FAULT_TARGET_LONG, 414, "target_long", "The request target is too long.", "RFC 9112 3"),
    ROW(HTTP1_FAULT_HEAD_LARGE, 431, "head_large", "The header section is too large.", "RFC 6585 5"),
    ROW(HTTP1_FAULT_METHOD, 501, "method", "The request method is too long.", "RFC 9112 3"),
    ROW(HTTP1_FAULT_VERSION, 505, "version", "The HTTP version is not supported.", "RFC 9112 2.3"),
    ROW(HTTP1_FAULT_HOST, 400, "host", "The host is missing, repeated or invalid.", "RFC 9112 3.2"),
    ROW(HTTP1_FAULT_LENGTH, 400, "length", "The Content-Length is invalid or repeated.", "RFC 9112 6.3"),
    ROW(HTTP1_FAULT_LENGTH_CODING, 400, "length_conflict",
	"Content-Length and Transfer-Encoding exclude each other.", "RFC 9112 6.1"),
    ROW(HTTP1_FAULT_CODING, 501, "coding", "The transfer coding is not supported.", "RFC 9112 6.1"),
    ROW(HTTP1_FAULT_CHUNK, 400, "chunk", "The chunked body is malformed.", "RFC 9112 7.1"),
    ROW(HTTP1_FAULT_CODING_VERSION, 400, "coding_version", "HTTP/1.0 knows no transfer codings.",
	"RFC 9112 6.1"),
    ROW(HTTP1_FAULT_CONTENT_LARGE, 413, "content_large", "The content is too large.", "RFC 9110 15.5.14"),
};

const struct http1_fault_row *http1_fault_describe(enum http1_fault fault)
{
	return &FAULTS[(unsigned)fault < HTTP1_FAULT_COUNT ? fault : HTTP1_FAULT_SYNTAX];
}

// One parse under way. The steps take and return the position; NULL means that they stopped, and then `fault`
// says why, or is HTTP1_OK when bytes are missing.
struct parser {
	const char *end;
	enum http1_fault fault;
	bool response;
	bool line_done; // the request or status line was complete
	uint16_t max_fields;
	struct http1_head head;
};

static const char *stop(struct parser *ps, enum http1_fault fault)
{
	ps->fault = fault;
	return NULL;
}

// Stops for want of bytes if `p` is the end, else because the byte there is wrong.
static const char *stop_at(struct parser *ps, const char *p)
{
	return stop(ps, p == ps->end ? HTTP1_OK : HTTP1_FAULT_SYNTAX);
}

// Takes CR LF.
static inline const char *take_eol(struct parser *ps, const char *p)
{
	if (likely(ps->end - p >= 2 && p[0] == '\r' && p[1] == '\n'))
		return p + 2;
	return stop_at(ps, p < ps->end && *p == '\r' ? p + 1 : p);
}

static inline const char *take_space(struct parser *ps, const char *p)
{
	return likely(p < ps->end && *p == ' ') ? p + 1 : stop_at(ps, p);
}

// --- first lines --------------------------------------------------------------------------------------------
// Byte by byte, so that nonsense is refused as early as it shows.
static const char *take_version_slowly(struct parser *ps, const char *p)
{
	for (const char *expected = "HTTP/"; *expected; expected++, p++)
		if (p == ps->end || *p != *expected)
			return stop_at(ps, p);
	for (int i = 0; i < 3; i++)
		if (p + i == ps->end || (i == 1 ? p[i] != '.' : p[i] < '0' || p[i] > '9'))
			return stop_at(ps, p + i);
	if (p[0] != '1')
		return stop(ps, HTTP1_FAULT_VERSION);
	ps->head.minor = (uint8_t)(p[2] - '0');
	return p + 3;
}

static inline const char *take_version(struct parser *ps, const char *p)
{
	if (unlikely(ps->end - p < 8 || memcmp(p, "HTTP/1.1", 8) != 0))
		return take_version_slowly(ps, p);
	ps->head.minor = 1;
	return p + 8;
}

// RFC 9112 2.2: empty lines in front of a request line are ignored.
static const char *skip_empty_lines(struct parser *ps, const char *p)
{
	while (p && p < ps->end && *p == '\r')
		p = take_eol(ps, p);
	return p;
}

static inline const char *take_method(struct parser *ps, const char *p)
{
	const char *start = p;
	while (p < ps->end && chars_is(*p, CHAR_TOKEN)) {
		if (unlikely(p - start == LIMIT_HTTP_METHOD))
			return stop(ps, HTTP1_FAULT_METHOD);
		p++;
	}
	if (unlikely(p == start || p == ps->end))
		return stop_at(ps, p);
	ps->head.head.method = (struct str){start, (size_t)(p - start)};
	return take_space(ps, p);
}

static inline const char *take_target(struct parser *ps, const char *p)
{
	const char *start = p, *bound = p + MIN(ps->end - p, LIMIT_HTTP_TARGET + 1);
	p = chars_scan_target(p, bound);
	if (unlikely(p - start > LIMIT_HTTP_TARGET))
		return stop(ps, HTTP1_FAULT_TARGET_LONG);
	if (unlikely(p == start || p == ps->end))
		return stop_at(ps, p);
	ps->head.target = (struct str){start, (size_t)(p - start)};
	return take_space(ps, p);
}

static const char *take_request_line(struct parser *ps, const char *p)
{
	if (!(p = take_method(ps, p)) || !(p = take_target(ps, p)) || !(p = take_version(ps, p)) ||
	    !(p = take_eol(ps, p)))
		return NULL;
	if (likely(ps->head.target.p[0] == '/' && ps->head.head.method.len != 7)) {
		ps->head.head.path = ps->head.target; // origin-form, and it is not CONNECT
		return p;
	}
	enum http1_fault fault = http1_target_parse(&ps->head);
	return fault ? stop(ps, fault) : p;
}

static const char *take_status(struct parser *ps, const char *p)
{
	for (int i = 0; i < 3; i++)
		if (p + i == ps->end || p[i] < (i == 0 ? '1' : '0') || p[i] > '9')
			return stop_at(ps, p + i);
	ps->head.head.status = (uint16_t)((p[0] - '0') * 100 + (p[1] - '0') * 10 + (p[2] - '0'));
	return p + 3;
}

// The blank behind the status is missing from many servers' answers when there is no reason; that is
// harmless.
static const char *take_status_line(struct parser *ps, const char *p)
{
	if (!(p = take_version(ps, p)) || !(p = take_space(ps, p)) || !(p = take_status(ps, p)))
		return NULL;
	if (p < ps->end && *p == ' ') {
		const char *start = ++p;
		p = chars_scan_text(p, ps->end);
		ps->head.reason = (struct str){start, (size_t)(p - start)};
	}
	return take_eol(ps, p);
}

// --- field lines --------------------------------------------------------------------------------------------
static inline bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

// field-name ":" OWS field-value OWS CRLF (RFC 9112 5). A line that begins with a blank (obs-fold) has no
// name.
static inline const char *take_field(struct parser *ps, const char *p, struct field *ret_field)
{
	const char *name = p;
	p = chars_scan_token(p, ps->end);
	if (unlikely(p == ps->end || *p != ':' || p == name))
		return stop_at(ps, p);
	ret_field->name = (struct str){name, (size_t)(p - name)};
	p++;
	while (p < ps->end && is_blank(*p))
		p++;
	const char *value = p;
	p = chars_scan_text(p, ps->end);
	const char *value_end = p;
	while (value_end > value && is_blank(value_end[-1]))
		value_end--;
	ret_field->value = (struct str){value, (size_t)(value_end - value)};
	return take_eol(ps, p);
}

// All field lines and the empty line behind them.
static const char *take_fields(struct parser *ps, const char *p)
{
	struct head *head = &ps->head.head;
	while (likely(p < ps->end && *p != '\r')) {
		if (unlikely(head->field_count == ps->max_fields))
			return stop(ps, HTTP1_FAULT_HEAD_LARGE);
		struct field *field = &head->fields[head->field_count];
		p = take_field(ps, p, field);
		if (unlikely(!p))
			return NULL;
		enum http1_fault fault = http1_field_note(&ps->head, field, ps->response);
		if (unlikely(fault))
			return stop(ps, fault);
		head->field_count++;
	}
	return take_eol(ps, p);
}

// --- whole heads --------------------------------------------------------------------------------------------
static void parser_init(struct parser *ps, struct str bytes, size_t limit, uint16_t max_fields,
			struct field *fields)
{
	*ps = (struct parser){
	    .end = bytes.p + MIN(bytes.len, limit),
	    .max_fields = MIN(max_fields, LIMIT_HTTP_HEADERS),
	    .head.head.fields = fields,
	};
}

// What the caller is told when the steps stopped.
static int parser_stopped(const struct parser *ps, struct str bytes, size_t limit,
			  enum http1_fault *ret_fault)
{
	enum http1_fault fault = ps->fault;
	if (!fault && bytes.len < limit)
		return ERR_NEED_MORE;
	if (!fault)
		fault = ps->line_done || ps->response ? HTTP1_FAULT_HEAD_LARGE : HTTP1_FAULT_TARGET_LONG;
	*ret_fault = fault;
	return ERR_MALFORMED;
}

// RFC 9112 3.2 and 6.3, once all fields are known.
static enum http1_fault request_finish(struct http1_head *head)
{
	if (unlikely(!(head->flags & HTTP1_HAS_HOST) && head->minor > 0))
		return HTTP1_FAULT_HOST;
	if (head->framing == HTTP1_BODY_CHUNKED && head->minor == 0)
		return HTTP1_FAULT_CODING_VERSION;
	http1_fields_finish(head);
	return HTTP1_OK;
}

int http1_request_parse(struct str bytes, size_t limit, uint16_t max_fields, struct http1_head *ret_head,
			enum http1_fault *ret_fault)
{
	struct parser ps;
	limit = MIN(limit, LIMIT_HTTP_HEAD);
	parser_init(&ps, bytes, limit, max_fields, ret_head->head.fields);
	const char *start = skip_empty_lines(&ps, bytes.p), *p = start;
	p = p ? take_request_line(&ps, p) : NULL;
	ps.line_done = p != NULL;
	p = p ? take_fields(&ps, p) : NULL;
	if (p && (ps.fault = request_finish(&ps.head)) != HTTP1_OK)
		p = NULL;
	if (unlikely(!p))
		return parser_stopped(&ps, bytes, limit, ret_fault);
	ps.head.raw = (struct str){start, (size_t)(p - start)};
	*ret_head = ps.head;
	return (int)(p - bytes.p);
}

// RFC 9112 6.3. What the fields said is in head->framing: none, a length, or chunked.
static void response_framing_set(struct http1_head *head, struct str request_method)
{
	uint16_t status = head->head.status;
	bool connected = status / 100 == 2 && str_eq(request_method, STR("CONNECT"));
	if (status == 101 || connected)
		head->framing = HTTP1_BODY_TUNNEL;
	else if (status / 100 == 1 || status == 204 || status == 304 || str_eq(request_method, STR("HEAD")))
		head->framing = HTTP1_BODY_NONE;
	else if (head->framing == HTTP1_BODY_NONE)
		head->framing = HTTP1_BODY_EOF;
	if (head->framing != HTTP1_BODY_LENGTH)
		head->length = 0;
}

static enum http1_fault response_finish(struct http1_head *head, struct str request_method)
{
	if (head->framing == HTTP1_BODY_CHUNKED && head->minor == 0)
		return HTTP1_FAULT_CODING_VERSION;
	response_framing_set(head, request_method);
	http1_fields_finish(head);
	return HTTP1_OK;
}

int http1_response_parse(struct str bytes, size_t limit, uint16_t max_fields, struct str request_method,
			 struct http1_head *ret_head, enum http1_fault *ret_fault)
{
	struct parser ps;
	limit = MIN(limit, LIMIT_HTTP_HEAD);
	parser_init(&ps, bytes, limit, max_fields, ret_head->head.fields);
	ps.response = true;
	const char *p = take_status_line(&ps, bytes.p);
	p = p ? take_fields(&ps, p) : NULL;
	if (p && (ps.fault = response_finish(&ps.head, request_method)) != HTTP1_OK)
		p = NULL;
	if (unlikely(!p))
		return parser_stopped(&ps, bytes, limit, ret_fault);
	ps.head.raw = (struct str){bytes.p, (size_t)(p - bytes.p)};
	*ret_head = ps.head;
	return (int)(p - bytes.p);
}

int http1_trailers_parse(struct str bytes, uint16_t max_fields, struct field *ret_fields,
			 enum http1_fault *ret_fault)
{
	struct parser ps;
	parser_init(&ps, bytes, LIMIT_HTTP_HEAD, max_fields, ret_fields);
	const char *p = bytes.p;
	uint16_t count = 0;
	while (p && p < ps.end && *p != '\r') {
		if (count == ps.max_fields)
			p = stop(&ps, HTTP1_FAULT_HEAD_LARGE);
		else
			p = take_field(&ps, p, &ret_fields[count++]);
	}
	p = p ? take_eol(&ps, p) : NULL;
	return p ? count : parser_stopped(&ps, bytes, LIMIT_HTTP_HEAD, ret_fault);
}
