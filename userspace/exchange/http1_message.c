// SPDX-License-Identifier: Apache-2.0
#include "exchange/http1_message.h"

#include "base/mem.h"
#include "codecs/http1_convert.h"

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

// CONNECT says twice where it goes. What is passed on says it once: readers differ in which one they believe.
static bool host_contradicts(const struct http1_head *head)
{
	const struct field *host = head_find(&head->head, STR("host"));
	return (head->flags & HTTP1_TARGET_AUTHORITY) && host &&
	       !str_eq_nocase(host->value, head->head.authority);
}

// The start line and a Host of our own: the target in origin-form (RFC 9112 3.2.2), that of CONNECT as it
// was.
static int add_start(struct bufq *out, const struct http1_head *head, struct slice raw)
{
	const char *behind_target = head->target.p + head->target.len;
	struct str target = head->flags & HTTP1_TARGET_ABSOLUTE ? head->head.path : head->target;
	int err = add_str(out, raw, head->head.method);
	if (!err)
		err = bufq_add_static(out, STR(" "));
	// "http://host" alone has the path "/" or "*", which stands nowhere in the request.
	if (!err)
		err = target.p >= head->raw.p && target.p < behind_target
			  ? add_str(out, raw, target)
			  : bufq_add_copy(out, target.p, target.len);
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
	bool new_host = (head->flags & HTTP1_TARGET_ABSOLUTE) || host_contradicts(head);
	if (!new_host && !(head->flags & (HTTP1_HAS_HOP_FIELDS | HTTP1_HAS_CONNECTION)))
		return add_str(out, raw, head->raw);
	int err = new_host ? add_start(out, head, raw) : add_range(out, raw, head->raw.p, fields_start(head));
	if (!err)
		err = add_fields(out, head, raw, new_host ? drop_hop_and_host : drop_hop);
	if (err)
		return err;
	return bufq_add_static(out, head->flags & HTTP1_CONN_UPGRADE ? STR("Connection: upgrade\r\n\r\n")
								     : STR("\r\n"));
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

// 101 and 426 carry Upgrade to the client (RFC 9110 7.8, 15.5.22); elsewhere it is an offer to us, which is
// not taken.
static bool means_upgrade(unsigned status)
{
	return status == 101 || status == 426;
}

int http1_forward_response(struct bufq *out, const struct http1_head *head, struct slice raw,
			   enum http1_connection connection, bool drop_coding)
{
	bool edit = head->flags & (HTTP1_HAS_HOP_FIELDS | HTTP1_HAS_CONNECTION);
	struct http1_head kept = *head;
	if (!edit && !drop_coding && connection == HTTP1_CONNECTION_IMPLIED)
		return add_str(out, raw, head->raw);
	if (!means_upgrade(head->head.status))
		kept.flags &= (uint16_t)~HTTP1_CONN_UPGRADE;
	int err = add_range(out, raw, head->raw.p, fields_start(head));
	if (!err)
		err = add_fields(out, &kept, raw, drop_coding ? drop_hop_and_coding : drop_hop);
	if (!err && (kept.flags & HTTP1_CONN_UPGRADE))
		err = bufq_add_static(out, STR("Connection: upgrade\r\n"));
	if (!err)
		err = bufq_add_static(out, connection_line(connection));
	return err ? err : bufq_add_static(out, STR("\r\n"));
}

int http1_reply(struct bufq *out, unsigned status, const char *text, bool head_only,
		enum http1_connection connection)
{
	char bytes[1024];
	struct str line = connection_line(connection);
	int len = snprintf(bytes, sizeof bytes,
			   "HTTP/1.1 %u %s\r\nServer: weir\r\nContent-Type: text/plain; charset=utf-8\r\n"
			   "Content-Length: %zu\r\n%.*s\r\n%s%s",
			   status, http1_reason(status), strlen(text) + 1, STR_ARG(line),
			   head_only ? "" : text, head_only ? "" : "\n");
	return bufq_add_copy(out, bytes, MIN((size_t)len, sizeof bytes - 1));
}
