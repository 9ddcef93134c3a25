// SPDX-License-Identifier: Apache-2.0
#include "inject/writer.h"

enum { STEP = 2 };

void writer_init_yaml(struct writer *writer, struct strbuf *out, unsigned column, const char *eol)
{
	*writer = (struct writer){.out = out, .eol = eol, .yaml = true, ._indent = column};
}

void writer_init_json(struct writer *writer, struct strbuf *out)
{
	*writer = (struct writer){.out = out};
	json_init(&writer->_json, out, false);
}

// --- YAML -------------------------------------------------------------------------------------------------
// Begins a line with what comes before a value: indentation, the dash of an item, the key.
static void begin_line(struct writer *writer, const char *key)
{
	unsigned column = writer->_indent - (writer->_dash ? STEP : 0);
	strbuf_printf(writer->out, "%*s", (int)column, "");
	if (writer->_dash || !key)
		strbuf_add_text(writer->out, "- ");
	writer->_dash = false;
	if (key)
		strbuf_printf(writer->out, "%s:", key);
}

// A map or list: under its key, or as an item, whose first entry stands behind the dash.
static void open_block(struct writer *writer, const char *key)
{
	if (key) {
		begin_line(writer, key);
		strbuf_add_text(writer->out, writer->eol);
	} else {
		writer->_dash = true;
	}
	writer->_indent += STEP;
}

static void close_block(struct writer *writer)
{
	writer->_indent -= STEP;
}

static bool is_plain_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("/._-", c));
}

// What no reader of YAML takes for anything but a text; the rest is quoted.
static bool is_plain(struct str text)
{
	static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"};
	bool digits = true;
	for (size_t i = 0; i < text.len; i++) {
		if (!is_plain_char(text.p[i]))
			return false;
		digits &=
		    !(ascii_lower(text.p[i]) >= 'g' && ascii_lower(text.p[i]) <= 'z') && text.p[i] != '/';
	}
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (str_eq_nocase(text, str_from(words[i])))
			return false;
	return text.len && text.p[0] != '-' && text.p[0] != '.' && !digits;
}

static void add_scalar(struct writer *writer, const char *key, struct str text)
{
	begin_line(writer, key);
	if (key)
		strbuf_add_char(writer->out, ' ');
	strbuf_add_str(writer->out, text);
	strbuf_add_text(writer->out, writer->eol);
}

// --- both -------------------------------------------------------------------------------------------------
void writer_rename_next(struct writer *writer, const char *key)
{
	writer->_next_key = key;
}

void writer_map(struct writer *writer, const char *key)
{
	if (writer->_next_key)
		key = writer->_next_key;
	writer->_next_key = NULL;
	if (writer->yaml)
		open_block(writer, key);
	else
		json_open_object(&writer->_json, key);
}

void writer_map_end(struct writer *writer)
{
	if (writer->yaml)
		close_block(writer);
	else
		json_close_object(&writer->_json);
}

void writer_list(struct writer *writer, const char *key)
{
	if (writer->yaml)
		open_block(writer, key);
	else
		json_open_array(&writer->_json, key);
}

void writer_list_end(struct writer *writer)
{
	if (writer->yaml)
		close_block(writer);
	else
		json_close_array(&writer->_json);
}

void writer_str(struct writer *writer, const char *key, struct str value)
{
	struct strbuf quoted = {0};
	if (!writer->yaml) {
		json_str(&writer->_json, key, value);
		return;
	}
	if (!is_plain(value)) {
		json_escape(&quoted, value);
		writer->out->failed |= quoted.failed;
		value = strbuf_str(&quoted);
	}
	add_scalar(writer, key, value);
	strbuf_done(&quoted);
}

void writer_raw(struct writer *writer, const char *key, struct str value)
{
	add_scalar(writer, key, value);
}

void writer_text(struct writer *writer, const char *key, const char *value)
{
	writer_str(writer, key, str_from(value));
}

void writer_uint(struct writer *writer, const char *key, uint64_t value)
{
	struct strbuf text = {0};
	if (!writer->yaml) {
		json_uint(&writer->_json, key, value);
		return;
	}
	strbuf_printf(&text, "%llu", (unsigned long long)value);
	writer->out->failed |= text.failed;
	add_scalar(writer, key, strbuf_str(&text));
	strbuf_done(&text);
}

void writer_bool(struct writer *writer, const char *key, bool value)
{
	if (writer->yaml)
		add_scalar(writer, key, value ? STR("true") : STR("false"));
	else
		json_bool(&writer->_json, key, value);
}
