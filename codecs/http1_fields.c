// SPDX-License-Identifier: Apache-2.0
#include "codecs/http1_fields.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/chars.h"
#include "codecs/http1_authority.h"

#include <errno.h>

// Eight bytes folded to lower case. Exact for the bytes of a token: no other tchar folds onto a letter or
// '-'.
static inline uint64_t folded8(const char *p)
{
	uint64_t word;
	memcpy(&word, p, sizeof word);
	return word | 0x2020202020202020ULL;
}

// Whether a name of `len` bytes is `known` (lower case, as long): two overlapping words where eight bytes are
// there.
static inline bool name_is(const char *name, const char *known, size_t len)
{
	if (len >= 8 && len <= 16)
		return folded8(name) == folded8(known) && folded8(name + len - 8) == folded8(known + len - 8);
	for (size_t i = 0; i < len; i++)
		if ((name[i] | 0x20) != known[i])
			return false;
	return true;
}

#define NAME_IS(field, known) name_is((field)->name.p, known, sizeof(known) - 1)

// --- lists of options ---------------------------------------------------------------------------------------
static uint16_t connection_option(struct str option)
{
	if (str_eq_nocase(option, STR("keep-alive")))
		return HTTP1_CONN_KEEP_ALIVE;
	if (str_eq_nocase(option, STR("close")))
		return HTTP1_CONN_CLOSE;
	return str_eq_nocase(option, STR("upgrade")) ? HTTP1_CONN_UPGRADE : 0;
}

// Connection = #connection-option, each a token (RFC 9110 7.6.1); empty elements are allowed (5.6.1).
static enum http1_fault note_connection(struct http1_head *head, struct str value)
{
	head->flags |= HTTP1_HAS_CONNECTION | HTTP1_HAS_HOP_FIELDS;
	while (value.p) {
		struct str option = str_trim(str_split(&value, ','));
		if (chars_scan(option.p, option.p + option.len, CHAR_TOKEN) != option.p + option.len)
			return HTTP1_FAULT_SYNTAX;
		head->flags |= connection_option(option);
	}
	return HTTP1_OK;
}

// --- framing ------------------------------------------------------------------------------------------------
// Content-Length = 1*DIGIT, once. Lists of equal values, which RFC 9110 8.6 would let pass, are refused as
// well.
static enum http1_fault note_length(struct http1_head *head, struct str value)
{
	uint64_t length = 0;
	if (head->framing == HTTP1_BODY_CHUNKED)
		return HTTP1_FAULT_LENGTH_CODING;
	if (head->framing == HTTP1_BODY_LENGTH)
		return HTTP1_FAULT_LENGTH;
	int err = str_to_u64(value, &length);
	if (err && err != -ERANGE)
		return HTTP1_FAULT_LENGTH;
	if (err || length > INT64_MAX)
		return HTTP1_FAULT_CONTENT_LARGE;
	head->framing = HTTP1_BODY_LENGTH;
	head->length = length;
	return HTTP1_OK;
}

static enum http1_fault note_coding(struct http1_head *head, struct str value)
{
	if (head->framing == HTTP1_BODY_LENGTH)
		return HTTP1_FAULT_LENGTH_CODING;
	if (head->framing == HTTP1_BODY_CHUNKED || !str_eq_nocase(value, STR("chunked")))
		return HTTP1_FAULT_CODING;
	head->framing = HTTP1_BODY_CHUNKED;
	return HTTP1_OK;
}

// --- the others ---------------------------------------------------------------------------------------------
// An empty Host is what a client sends whose target has no authority (RFC 9112 3.2).
static enum http1_fault note_host(struct http1_head *head, struct str value)
{
	if ((head->flags & HTTP1_HAS_HOST) || (value.len && !http1_authority_valid(value)))
		return HTTP1_FAULT_HOST;
	head->flags |= HTTP1_HAS_HOST;
	if (!(head->flags & (HTTP1_TARGET_ABSOLUTE | HTTP1_TARGET_AUTHORITY)))
		head->head.authority = value;
	return HTTP1_OK;
}

static enum http1_fault note_upgrade(struct http1_head *head, struct str value)
{
	if (!head->upgrade.p)
		head->upgrade = value;
	head->flags |= HTTP1_HAS_HOP_FIELDS;
	return HTTP1_OK;
}

static bool te_stays(struct str value)
{
	return str_eq_nocase(value, STR("trailers"));
}

static enum http1_fault note_short(struct http1_head *head, const struct field *field, bool response)
{
	if (field->name.len == 4 && !response && NAME_IS(field, "host"))
		return note_host(head, field->value);
	if (field->name.len == 2 && NAME_IS(field, "te") && !te_stays(field->value))
		head->flags |= HTTP1_HAS_HOP_FIELDS;
	if (field->name.len == 6 && NAME_IS(field, "expect") &&
	    str_eq_nocase(field->value, STR("100-continue")))
		head->flags |= HTTP1_EXPECT_CONTINUE;
	if (field->name.len == 7 && NAME_IS(field, "upgrade"))
		return note_upgrade(head, field->value);
	return HTTP1_OK;
}

static enum http1_fault note_ten(struct http1_head *head, const struct field *field)
{
	if (NAME_IS(field, "connection"))
		return note_connection(head, field->value);
	if (NAME_IS(field, "keep-alive"))
		head->flags |= HTTP1_HAS_HOP_FIELDS;
	return HTTP1_OK;
}

enum http1_fault http1_field_note(struct http1_head *head, const struct field *field, bool response)
{
	switch (field->name.len) {
	case 2:
	case 4:
	case 6:
	case 7:
		return note_short(head, field, response);
	case 10:
		return note_ten(head, field);
	case 14:
		return NAME_IS(field, "content-length") ? note_length(head, field->value) : HTTP1_OK;
	case 16:
		if (NAME_IS(field, "proxy-connection"))
			head->flags |= HTTP1_HAS_HOP_FIELDS;
		return HTTP1_OK;
	case 17:
		return NAME_IS(field, "transfer-encoding") ? note_coding(head, field->value) : HTTP1_OK;
	default:
		return HTTP1_OK;
	}
}

// HTTP/1.0 knows neither upgrades (RFC 9110 7.8) nor 100-continue (10.1.1).
void http1_fields_finish(struct http1_head *head)
{
	if (head->minor == 0)
		head->flags &= (uint16_t) ~(HTTP1_CONN_UPGRADE | HTTP1_EXPECT_CONTINUE);
	if (!head->upgrade.p)
		head->flags &= (uint16_t)~HTTP1_CONN_UPGRADE;
	if (!(head->flags & HTTP1_CONN_UPGRADE))
		head->upgrade = (struct str){NULL, 0};
	if (head->framing == HTTP1_BODY_EOF || head->framing == HTTP1_BODY_TUNNEL ||
	    (head->flags & HTTP1_CONN_CLOSE))
		head->persistent = false;
	else
		head->persistent = head->minor > 0 || (head->flags & HTTP1_CONN_KEEP_ALIVE);
}

// --- hop-by-hop ---------------------------------------------------------------------------------------------
static bool list_names(struct str list, struct str name)
{
	while (list.p)
		if (str_eq_nocase(str_trim(str_split(&list, ',')), name))
			return true;
	return false;
}

static bool connection_names(const struct http1_head *head, struct str name)
{
	for (unsigned i = 0; i < head->head.field_count; i++) {
		const struct field *field = &head->head.fields[i];
		if (field->name.len == 10 && NAME_IS(field, "connection") && list_names(field->value, name))
			return true;
	}
	return false;
}

bool http1_field_is_hop(const struct http1_head *head, const struct field *field)
{
	static const struct str ALWAYS[] = {STR("Connection"), STR("Keep-Alive"), STR("Proxy-Connection")};
	static const struct str NEVER[] = {STR("Content-Length"), STR("Transfer-Encoding"), STR("Host")};
	for (size_t i = 0; i < ARRAY_SIZE(ALWAYS); i++)
		if (str_eq_nocase(field->name, ALWAYS[i]))
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(NEVER); i++)
		if (str_eq_nocase(field->name, NEVER[i]))
			return false;
	if (str_eq_nocase(field->name, STR("TE")))
		return !te_stays(field->value);
	if (str_eq_nocase(field->name, STR("Upgrade")))
		return !(head->flags & HTTP1_CONN_UPGRADE);
	return (head->flags & HTTP1_HAS_CONNECTION) && connection_names(head, field->name);
}
