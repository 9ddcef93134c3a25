// SPDX-License-Identifier: Apache-2.0
#include "codecs/http1_convert.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"

#include <errno.h>
#include <stdio.h>

const char *http1_reason(unsigned status)
{
	static const struct {
		unsigned status;
		const char *reason;
	} rows[] = {
	    {100, "Continue"},
	    {101, "Switching Protocols"},
	    {103, "Early Hints"},
	    {200, "OK"},
	    {201, "Created"},
	    {202, "Accepted"},
	    {204, "No Content"},
	    {206, "Partial Content"},
	    {301, "Moved Permanently"},
	    {302, "Found"},
	    {303, "See Other"},
	    {304, "Not Modified"},
	    {307, "Temporary Redirect"},
	    {308, "Permanent Redirect"},
	    {400, "Bad Request"},
	    {401, "Unauthorized"},
	    {403, "Forbidden"},
	    {404, "Not Found"},
	    {405, "Method Not Allowed"},
	    {408, "Request Timeout"},
	    {409, "Conflict"},
	    {413, "Content Too Large"},
	    {414, "URI Too Long"},
	    {416, "Range Not Satisfiable"},
	    {421, "Misdirected Request"},
	    {426, "Upgrade Required"},
	    {429, "Too Many Requests"},
	    {431, "Request Header Fields Too Large"},
	    {500, "Internal Server Error"},
	    {501, "Not Implemented"},
	    {502, "Bad Gateway"},
	    {503, "Service Unavailable"},
	    {504, "Gateway Timeout"},
	    {505, "HTTP Version Not Supported"},
	};
	static const char *const classes[] = {"Information", "Success", "Redirection", "Error", "Error"};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].status == status)
			return rows[i].reason;
	return status >= 100 && status < 600 ? classes[status / 100 - 1] : "Unknown";
}

// --- from HTTP/1 --------------------------------------------------------------------------------------------
static int copy(struct arena *arena, struct str text, bool lower, struct str *ret_text)
{
	char *bytes = arena_strdup(arena, text.p, text.len);
	if (!bytes)
		return -ENOMEM;
	for (size_t i = 0; lower && i < text.len; i++)
		bytes[i] = ascii_lower(bytes[i]);
	*ret_text = (struct str){bytes, text.len};
	return 0;
}

static int copy_field(struct arena *arena, const struct field *from, struct field *ret_field)
{
	int err = copy(arena, from->name, true, &ret_field->name);
	ret_field->never_indexed = false;
	ret_field->known = FIELD_UNSEEN;
	ret_field->clean_name = ret_field->checked = false;
	ret_field->origin = 0;
	return err ? err : copy(arena, from->value, false, &ret_field->value);
}

// RFC 9110 8.6: not with 1xx and 204, nor (9.3.6) 2xx to CONNECT. HTTP/1 can do without minding it.
static bool may_have_length(const struct http1_head *head)
{
	unsigned status = head->head.status;
	return !(status / 100 == 1 || status == 204 || head->framing == HTTP1_BODY_TUNNEL);
}

// What is about this connection only, and what the message says elsewhere.
static bool stays_behind(const struct http1_head *head, const struct field *field)
{
	static const struct str NAMES[] = {STR("host"), STR("transfer-encoding"), STR("upgrade"),
					   STR("http2-settings")};
	for (size_t i = 0; i < ARRAY_SIZE(NAMES); i++)
		if (str_eq_nocase(field->name, NAMES[i]))
			return true;
	if (str_eq_nocase(field->name, STR("content-length")) && !may_have_length(head))
		return true;
	return http1_field_is_hop(head, field);
}

static int copy_fields(struct arena *arena, const struct http1_head *head, struct message *message)
{
	struct head *to = &message->head;
	unsigned cookies = 0;
	to->fields = arena_alloc(arena, (size_t)head->head.field_count * sizeof *to->fields);
	if (!to->fields)
		return -ENOMEM;
	for (unsigned i = 0; i < head->head.field_count; i++) {
		const struct field *from = &head->head.fields[i];
		if (stays_behind(head, from))
			continue;
		struct field *field = &to->fields[to->field_count];
		if (copy_field(arena, from, field))
			return -ENOMEM;
		to->field_count++;
		cookies += str_eq(field->name, STR("cookie"));
	}
	message->has_cookies = cookies > 1;
	return 0;
}

int http1_to_message(struct arena *arena, const struct http1_head *head, struct message *ret_message)
{
	struct message message = {.head.status = head->head.status};
	const struct field *length = head_find(&head->head, STR("content-length"));
	int err = copy(arena, head->head.method, false, &message.head.method);
	if (!err)
		err = copy(arena, head->head.path, false, &message.head.path);
	if (!err)
		err = copy(arena, head->head.authority, false, &message.head.authority);
	if (!err)
		err = copy_fields(arena, head, &message);
	if (err)
		return err;
	message.scheme = STR("http");
	// Other protocols have no counterpart; to offer one and be refused is what an Upgrade allows for.
	if ((head->flags & HTTP1_CONN_UPGRADE) && str_eq_nocase(head->upgrade, STR("websocket")))
		message.upgrade = STR("websocket");
	message.has_length =
	    length && may_have_length(head) && str_to_u64(length->value, &message.length) == 0;
	message.end =
	    head->framing == HTTP1_BODY_NONE || (head->framing == HTTP1_BODY_LENGTH && head->length == 0);
	*ret_message = message;
	return 0;
}

// RFC 9110 6.5.1: framing, routing, authentication and the like mean nothing, or harm, behind a body.
static bool is_for_heads(struct str name)
{
	static const struct str NAMES[] = {
	    STR("content-length"),   STR("transfer-encoding"), STR("host"),    STR("connection"),
	    STR("keep-alive"),	     STR("proxy-connection"),  STR("te"),      STR("upgrade"),
	    STR("content-encoding"), STR("content-type"),      STR("trailer"), STR("http2-settings")};
	for (size_t i = 0; i < ARRAY_SIZE(NAMES); i++)
		if (str_eq_nocase(name, NAMES[i]))
			return true;
	return false;
}

int http1_to_trailers(struct arena *arena, const struct field *fields, size_t count,
		      struct field **ret_fields, size_t *ret_count)
{
	struct field *kept = arena_alloc(arena, count * sizeof *kept);
	size_t n = 0;
	if (!kept)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		if (is_for_heads(fields[i].name))
			continue;
		if (copy_field(arena, &fields[i], &kept[n]))
			return -ENOMEM;
		n++;
	}
	*ret_fields = kept;
	*ret_count = n;
	return 0;
}

// --- to HTTP/1 ----------------------------------------------------------------------------------------------
// Lines on their way into a queue; the first error stays.
struct sink {
	struct bufq out;
	int err;
};

static void put(struct sink *sink, struct str text)
{
	if (!sink->err && text.len)
		sink->err = bufq_add_packed(&sink->out, text.p, text.len);
}

static void put_token(struct sink *sink, struct str text)
{
	if (text.len == 0 || chars_scan_token(text.p, text.p + text.len) != text.p + text.len)
		sink->err = sink->err ? sink->err : ERR_MALFORMED;
	put(sink, text);
}

static void put_value(struct sink *sink, struct str text)
{
	if (chars_scan_text(text.p, text.p + text.len) != text.p + text.len)
		sink->err = sink->err ? sink->err : ERR_MALFORMED;
	put(sink, text);
}

static void put_target(struct sink *sink, struct str text)
{
	if (text.len == 0 || chars_scan_target(text.p, text.p + text.len) != text.p + text.len)
		sink->err = sink->err ? sink->err : ERR_MALFORMED;
	put(sink, text);
}

static void put_field(struct sink *sink, struct str name, struct str value)
{
	put_token(sink, name);
	put(sink, STR(": "));
	put_value(sink, value);
	put(sink, STR("\r\n"));
}

// RFC 9113 8.2.3: crumbs become one field again.
static void put_cookies(struct sink *sink, const struct head *head, unsigned from)
{
	put(sink, STR("cookie: "));
	put_value(sink, head->fields[from].value);
	for (unsigned i = from + 1; i < head->field_count; i++) {
		if (!str_eq(head->fields[i].name, STR("cookie")))
			continue;
		put(sink, STR("; "));
		put_value(sink, head->fields[i].value);
	}
	put(sink, STR("\r\n"));
}

static bool is_framing(struct str name)
{
	return (name.len == 17 && str_eq_nocase(name, STR("transfer-encoding"))) ||
	       (name.len == 10 && str_eq_nocase(name, STR("connection"))) ||
	       (name.len == 7 && str_eq_nocase(name, STR("upgrade")));
}

static void put_fields(struct sink *sink, const struct message *message, bool websocket)
{
	const struct head *head = &message->head;
	bool cookies_done = false;
	for (unsigned i = 0; i < head->field_count; i++) {
		const struct field *field = &head->fields[i];
		if (message->has_cookies && str_eq(field->name, STR("cookie"))) {
			if (!cookies_done)
				put_cookies(sink, head, i);
			cookies_done = true;
			continue;
		}
		if (is_framing(field->name))
			sink->err = sink->err ? sink->err : ERR_MALFORMED;
		if (websocket && (str_eq(field->name, STR("sec-websocket-key")) ||
				  str_eq(field->name, STR("sec-websocket-accept"))))
			continue; // ours stands instead
		put_field(sink, field->name, field->value);
	}
}

static void put_upgrade(struct sink *sink, const struct http1_style *style, struct str name)
{
	if (!style->upgrade.len)
		return;
	put(sink, STR("Connection: Upgrade\r\n"));
	put_field(sink, STR("Upgrade"), style->upgrade);
	if (style->websocket.len)
		put_field(sink, name, style->websocket);
}

static int finish(struct sink *sink, struct bufq *out)
{
	if (!sink->err)
		sink->err = bufq_move(out, &sink->out, sink->out.bytes);
	bufq_clear(&sink->out);
	return sink->err;
}

// RFC 9110 8.6: where a method makes a server expect content, that there is none has to be said; some answer
// 411 otherwise.
static bool says_nothing_follows(const struct message *message)
{
	struct str method = message->head.method;
	return message->end && !message->has_length &&
	       (str_eq(method, STR("POST")) || str_eq(method, STR("PUT")) || str_eq(method, STR("PATCH")));
}

int http1_write_request(struct bufq *out, const struct message *message, const struct http1_style *style)
{
	const struct head *head = &message->head;
	struct sink sink = {0};
	put_token(&sink, head->method);
	put(&sink, STR(" "));
	put_target(&sink, str_eq(head->method, STR("CONNECT")) ? head->authority : head->path);
	put(&sink, STR(" HTTP/1.1\r\n"));
	put_field(&sink, STR("host"), head->authority);
	put_fields(&sink, message, style->websocket.len > 0);
	if (style->chunked)
		put(&sink, STR("transfer-encoding: chunked\r\n"));
	else if (says_nothing_follows(message))
		put(&sink, STR("content-length: 0\r\n"));
	put(&sink, style->connection);
	put_upgrade(&sink, style, STR("Sec-WebSocket-Key"));
	put(&sink, STR("\r\n"));
	return finish(&sink, out);
}

int http1_write_response(struct bufq *out, const struct message *message, const struct http1_style *style)
{
	char line[80];
	struct sink sink = {0};
	unsigned status = message->head.status;
	int len = snprintf(line, sizeof line, "HTTP/1.1 %u %s\r\n", status, http1_reason(status));
	put(&sink, (struct str){line, (size_t)len});
	put_fields(&sink, message, style->websocket.len > 0);
	if (style->chunked)
		put(&sink, STR("transfer-encoding: chunked\r\n"));
	put(&sink, style->connection);
	put_upgrade(&sink, style, STR("Sec-WebSocket-Accept"));
	put(&sink, STR("\r\n"));
	return finish(&sink, out);
}

int http1_write_chunk(struct bufq *bytes)
{
	char line[24];
	struct bufq framed = {0};
	if (bufq_empty(bytes))
		return 0;
	int len = snprintf(line, sizeof line, "%zx\r\n", bytes->bytes);
	int err = bufq_add_packed(&framed, line, (size_t)len);
	if (!err)
		err = bufq_move(&framed, bytes, bytes->bytes);
	if (!err)
		err = bufq_add_packed(&framed, "\r\n", 2);
	bufq_clear(bytes);
	if (err)
		bufq_clear(&framed);
	*bytes = framed;
	return err;
}

int http1_write_end(struct bufq *out, const struct field *trailers, size_t count)
{
	struct sink sink = {0};
	put(&sink, STR("0\r\n"));
	for (size_t i = 0; i < count; i++)
		put_field(&sink, trailers[i].name, trailers[i].value);
	put(&sink, STR("\r\n"));
	return finish(&sink, out);
}
