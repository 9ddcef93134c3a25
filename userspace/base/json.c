// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <assert.h>

void json_init(struct json *json, struct strbuf *out, bool pretty)
{
	*json = (struct json){.out = out, .pretty = pretty};
}

static void json_newline(struct json *json)
{
	if (!json->pretty)
		return;
	strbuf_add_char(json->out, '\n');
	for (int i = 0; i < json->_depth; i++)
		strbuf_add(json->out, "    ", 4);
}

// What stands in front of a value: a comma, a line break, the key.
static void json_begin(struct json *json, const char *key)
{
	uint32_t bit = 1u << json->_depth;
	if (json->_filled & bit)
		strbuf_add_char(json->out, ',');
	json->_filled |= bit;
	if (json->_depth)
		json_newline(json);
	if (key) {
		json_escape(json->out, str_from(key));
		strbuf_add_text(json->out, json->pretty ? ": " : ":");
	}
}

static void json_open(struct json *json, const char *key, char bracket)
{
	json_begin(json, key);
	strbuf_add_char(json->out, bracket);
	assert(json->_depth + 1 < JSON_DEPTH_MAX);
	json->_depth++;
	json->_filled &= ~(1u << json->_depth);
}

static void json_close(struct json *json, char bracket)
{
	assert(json->_depth > 0);
	bool filled = json->_filled & (1u << json->_depth);
	json->_depth--;
	if (filled)
		json_newline(json);
	strbuf_add_char(json->out, bracket);
}

void json_open_object(struct json *json, const char *key)
{
	json_open(json, key, '{');
}

void json_close_object(struct json *json)
{
	json_close(json, '}');
}

void json_open_array(struct json *json, const char *key)
{
	json_open(json, key, '[');
}

void json_close_array(struct json *json)
{
	json_close(json, ']');
}

void json_str(struct json *json, const char *key, struct str value)
{
	json_begin(json, key);
	json_escape(json->out, value);
}

void json_text(struct json *json, const char *key, const char *value)
{
	if (value)
		json_str(json, key, str_from(value));
	else
		json_null(json, key);
}

void json_uint(struct json *json, const char *key, uint64_t value)
{
	json_begin(json, key);
	strbuf_printf(json->out, "%llu", (unsigned long long)value);
}

void json_int(struct json *json, const char *key, int64_t value)
{
	json_begin(json, key);
	strbuf_printf(json->out, "%lld", (long long)value);
}

void json_bool(struct json *json, const char *key, bool value)
{
	json_begin(json, key);
	strbuf_add_text(json->out, value ? "true" : "false");
}

void json_null(struct json *json, const char *key)
{
	json_begin(json, key);
	strbuf_add_text(json->out, "null");
}

static void escape_ascii(struct strbuf *out, char c)
{
	static const char with_letter[] = "\b\f\n\r\t\"\\", letter[] = "bfnrt\"\\";
	const char *at = c ? strchr(with_letter, c) : NULL;
	if (at)
		strbuf_add(out, (char[]){'\\', letter[at - with_letter]}, 2);
	else if ((unsigned char)c < 0x20 || c == 0x7f)
		strbuf_printf(out, "\\u%04x", (unsigned)c);
	else
		strbuf_add_char(out, c);
}

void json_escape(struct strbuf *out, struct str value)
{
	strbuf_add_char(out, '"');
	while (value.len) {
		size_t len = str_utf8_len(value);
		if (len == 1)
			escape_ascii(out, value.p[0]);
		else if (len)
			strbuf_add(out, value.p, len);
		else
			strbuf_add_text(out, "\\ufffd");
		len += len == 0;
		value.p += len;
		value.len -= len;
	}
	strbuf_add_char(out, '"');
}
