// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_message.h"

#include "base/mem.h"

#include <stdio.h>

static int add_range(struct bufq *out, struct slice raw, const char *from, const char *to)
{
	return bufq_add_slice(out, (struct slice){raw.chunk, (const uint8_t *)from, (size_t)(to - from)});
}

static int add_str(struct bufq *out, struct slice raw, struct str text)
{
	return add_range(out, raw, text.p, text.p + text.len);
}

typedef bool (*drop_fn)(const struct http1_head *head, const struct field *field);

// Appends the lines of the fields that stay, in runs as long as possible, without the final empty line.
static int add_fields(struct bufq *out, const struct http1_head *head, struct slice raw, drop_fn drop)
{
	const struct head *h = &head->head;
	const char *end = head->raw.p + head->raw.len - 2;
	const char *run = h->field_count ? h->fields[0].name.p : end;
	int err = 0;
	for (unsigned i = 0; i < h->field_count && !err; i++) {
		if (!drop(head, &h->fields[i]))
			continue;
		err = add_range(out, raw, run, h->fields[i].name.p);
		run = i + 1u < h->field_count ? h->fields[i + 1].name.p : end;
	}
	return err ? err : add_range(out, raw, run, end);
}

static bool drop_hop(const struct http1_head *head, const struct field *field)
{
	return http1_field_is_hop(head, field);
}

static bool drop_hop_and_host(const struct http1_head *head, const struct field *field)
{
	return str_eq_nocase(field->name, STR("host")) || http1_field_is_hop(head, field);
}

static bool drop_hop_and_coding(const struct http1_head *head, const struct field *field)
{
	return str_eq_nocase(field->name, STR("transfer-encoding")) || http1_field_is_hop(head, field);
}

static const char *fields_start(const struct http1_head *head)
{
	return head->head.field_count ? head->head.fields[0].name.p : head->raw.p + head->raw.len - 2;
}

static int add_origin_form(struct bufq *out, const struct http1_head *head, struct slice raw)
{
	const char *behind_target = head->target.p + head->target.len;
	int err = add_str(out, raw, head->head.method);
	if (!err)
		err = bufq_add_static(out, STR(" "));
	// "http://host" alone has the path "/", which stands nowhere in the request.
	if (!err)
		err = head->head.path.p >= head->raw.p && head->head.path.p < behind_target
			      ? add_str(out, raw, head->head.path)
			      : bufq_add_copy(out, head->head.path.p, head->head.path.len);
	if (!err)
		err = add_range(out, raw, behind_target, fields_start(head));
	if (!err)
		err = bufq_add_static(out, STR("Host: "));
	if (!err)
		err = add_str(out, raw, head->head.authority);
	return err ? err : bufq_add_static(out, STR("\r\n"));
}

int http1_forward_request(struct bufq *out, const struct http1_head *head, struct slice raw)
{
	bool absolute = head->flags & HTTP1_TARGET_ABSOLUTE;
	if (!absolute && !(head->flags & (HTTP1_HAS_HOP_FIELDS | HTTP1_HAS_CONNECTION)))
		return add_str(out, raw, head->raw);
	int err = absolute ? add_origin_form(out, head, raw) : add_range(out, raw, head->raw.p, fields_start(head));
	if (!err)
		err = add_fields(out, head, raw, absolute ? drop_hop_and_host : drop_hop);
	if (err)
		return err;
	return bufq_add_static(out, head->flags & HTTP1_CONN_UPGRADE ? STR("Connection: upgrade\r\n\r\n") : STR("\r\n"));
}

static struct str connection_line(enum http1_connection connection)
{
	static const struct str lines[] = {
		[HTTP1_CONNECTION_IMPLIED] = {"", 0},
		[HTTP1_CONNECTION_CLOSE] = {"Connection: close\r\n", 19},
		[HTTP1_CONNECTION_KEEP_ALIVE] = {"Connection: keep-alive\r\n", 24},
	};
	return lines[connection];
}

int http1_forward_response(struct bufq *out, const struct http1_head *head, struct slice raw,
			   enum http1_connection connection, bool drop_coding)
{
	bool edit = head->flags & (HTTP1_HAS_HOP_FIELDS | HTTP1_HAS_CONNECTION);
	if (!edit && !drop_coding && connection == HTTP1_CONNECTION_IMPLIED)
		return add_str(out, raw, head->raw);
	int err = add_range(out, raw, head->raw.p, fields_start(head));
	if (!err)
		err = add_fields(out, head, raw, drop_coding ? drop_hop_and_coding : drop_hop);
	if (!err && head->head.status == 101 && (head->flags & HTTP1_CONN_UPGRADE))
		return bufq_add_static(out, STR("Connection: upgrade\r\n\r\n"));
	if (!err)
		err = bufq_add_static(out, connection_line(connection));
	return err ? err : bufq_add_static(out, STR("\r\n"));
}

const char *http1_reason(unsigned status)
{
	static const struct {
		unsigned status;
		const char *reason;
	} rows[] = {
		{400, "Bad Request"},	     {404, "Not Found"},
		{408, "Request Timeout"},    {413, "Content Too Large"},
		{414, "URI Too Long"},	     {431, "Request Header Fields Too Large"},
		{501, "Not Implemented"},    {502, "Bad Gateway"},
		{503, "Service Unavailable"}, {504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].status == status)
			return rows[i].reason;
	return "Error";
}

int http1_reply(struct bufq *out, unsigned status, const char *text, bool head_only, enum http1_connection connection)
{
	char bytes[1024];
	struct str line = connection_line(connection);
	int len = snprintf(bytes, sizeof bytes,
			   "HTTP/1.1 %u %s\r\nServer: weir\r\nContent-Type: text/plain; charset=utf-8\r\n"
			   "Content-Length: %zu\r\n%.*s\r\n%s%s",
			   status, http1_reason(status), strlen(text) + 1, STR_ARG(line), head_only ? "" : text,
			   head_only ? "" : "\n");
	return bufq_add_copy(out, bytes, MIN((size_t)len, sizeof bytes - 1));
}
