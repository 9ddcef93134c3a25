// SPDX-License-Identifier: Apache-2.0
#include "base/emit.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <time.h>

// What a level is for the plain back end.
enum {
	LEVEL_BLOCK,   // a record: aligned pairs
	LEVEL_TABLE,   // a table laid out in columns
	LEVEL_ROW,     // a row of it
	LEVEL_COLUMNS, // a record within a row: columns with a prefix
	LEVEL_INLINE,  // a table or list within a row, or a list: entries of one cell, separated by commas
	LEVEL_ENTRY,   // a row or record within that: values separated by blanks
};

enum { ROW_END = 0xffff, INDENT = 4 };

static bool is_plain(const struct emit *emit)
{
	return emit->format == EMIT_PLAIN;
}

void emit_init(struct emit *emit, struct strbuf *out, enum emit_format format)
{
	*emit = (struct emit){.out = out, .format = format, ._start = out->len};
	json_init(&emit->_json, out, format == EMIT_JSON_PRETTY);
}

static void start(struct emit *emit)
{
	if (emit->started)
		return;
	emit->started = true;
	if (!is_plain(emit))
		json_open_object(&emit->_json, NULL);
}

static unsigned level_kind(const struct emit *emit)
{
	return emit->_kinds[emit->_depth];
}

static void level_push(struct emit *emit, unsigned kind)
{
	assert(emit->_depth + 1 < EMIT_DEPTH_MAX);
	emit->_depth++;
	emit->_kinds[emit->_depth] = (uint8_t)kind;
	emit->_prefixes[emit->_depth] = (uint32_t)emit->_prefix.len;
	emit->_later[emit->_depth] = false;
}

static void level_pop(struct emit *emit)
{
	assert(emit->_depth > 0);
	emit->_depth--;
}

// --- text -------------------------------------------------------------------------------------------------
static void add_printable(struct strbuf *out, struct str value)
{
	for (size_t i = 0; i < value.len; i++) {
		unsigned char c = (unsigned char)value.p[i];
		if (c >= 0x20 && c < 0x7f)
			strbuf_add_char(out, (char)c);
		else
			strbuf_printf(out, "\\x%02x", c);
	}
}

static void add_blanks(struct strbuf *out, size_t count)
{
	while (count--)
		strbuf_add_char(out, ' ');
}

// A key as people read it: "virtual_host" is "virtual host" or, as a heading, "VIRTUAL HOST".
static void add_key(struct strbuf *out, const char *key, bool heading)
{
	for (; *key; key++) {
		char c = *key == '_' ? ' ' : *key;
		strbuf_add_char(out, (char)(heading && c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c));
	}
}

// --- blocks -----------------------------------------------------------------------------------------------
static size_t block_indent(const struct emit *emit)
{
	return (size_t)emit->_depth * INDENT;
}

// Writes the value's lines: one goes behind the key, several below it.
static void block_value(struct emit *emit, size_t blanks, struct str value)
{
	if (str_find(value, '\n') < 0) {
		add_blanks(emit->out, blanks);
		add_printable(emit->out, value);
		strbuf_add_char(emit->out, '\n');
		return;
	}
	strbuf_add_char(emit->out, '\n');
	while (value.p && value.len) {
		struct str line = str_split(&value, '\n');
		add_blanks(emit->out, block_indent(emit) + INDENT);
		add_printable(emit->out, line);
		strbuf_add_char(emit->out, '\n');
	}
}

// Writes the pairs collected so far, aligned.
static void block_flush(struct emit *emit)
{
	size_t width = 0;
	struct str pairs = strbuf_str(&emit->_pairs);
	const char *end = pairs.p + pairs.len;
	for (const char *p = pairs.p; p < end; p += strlen(p) + 1) {
		width = MAX(width, strlen(p));
		p += strlen(p) + 1;
	}
	for (const char *p = pairs.p; p < end;) {
		size_t key = strlen(p);
		add_blanks(emit->out, block_indent(emit));
		add_key(emit->out, p, false);
		strbuf_add_char(emit->out, ':');
		p += key + 1;
		block_value(emit, width - key + 1, str_from(p));
		p += strlen(p) + 1;
	}
	strbuf_clear(&emit->_pairs);
}

// Captions of the outermost level stand off from what precedes them.
static void block_caption(struct emit *emit, const char *name)
{
	if (emit->_depth == 0 && emit->out->len > emit->_start)
		strbuf_add_char(emit->out, '\n');
	add_blanks(emit->out, block_indent(emit));
	add_key(emit->out, name, false);
	strbuf_add_text(emit->out, ":\n");
}

// A table that stands alone in a document has no caption. Something joins it: now it gets one.
static void lone_caption(struct emit *emit)
{
	if (!emit->_lone)
		return;
	struct str text = strbuf_str(emit->out);
	char *copy = mem_strndup(text.p + emit->_start, text.len - emit->_start);
	if (copy) {
		emit->out->len = emit->_start;
		block_caption(emit, emit->_lone);
		strbuf_add_text(emit->out, copy);
	} else {
		emit->out->failed = true;
	}
	mem_free(copy);
	emit->_lone = NULL;
}

// --- tables -----------------------------------------------------------------------------------------------
// Rows mostly name their columns in the same order: the one behind the last is tried first.
static int column_find(struct emit *emit, struct str name)
{
	for (size_t i = 0; i < emit->_column_count; i++) {
		size_t at = (emit->_column_hint + i) % emit->_column_count;
		if (str_eq(str_from(emit->_columns[at].name), name)) {
			emit->_column_hint = at + 1;
			return (int)at;
		}
	}
	char *copy = mem_strndup(name.p, name.len);
	if (!copy || emit->_column_count == ROW_END ||
	    mem_grow((void **)&emit->_columns, &emit->_column_cap, emit->_column_count + 1,
		     sizeof *emit->_columns)) {
		mem_free(copy);
		emit->out->failed = true;
		return -1;
	}
	emit->_columns[emit->_column_count] = (struct emit_column){copy, (uint32_t)name.len, false, false};
	return (int)emit->_column_count++;
}

static void table_cell(struct emit *emit, const char *key, struct str value, bool number)
{
	size_t before = emit->_prefix.len;
	strbuf_add_text(&emit->_prefix, key);
	int found = column_find(emit, strbuf_str(&emit->_prefix));
	emit->_prefix.len = before;
	if (found < 0)
		return;
	struct emit_column *column = &emit->_columns[found];
	uint16_t index = (uint16_t)found;
	strbuf_add(&emit->_cells, &index, sizeof index);
	strbuf_add_str(&emit->_cells, value);
	column->width = MAX(column->width, (uint32_t)value.len);
	column->number = column->number || number;
	column->text = column->text || (!number && !str_eq(value, STR("-")));
	strbuf_add_char(&emit->_cells, 0);
}

static void table_row_end(struct emit *emit)
{
	uint16_t end = ROW_END;
	strbuf_add(&emit->_cells, &end, sizeof end);
	emit->_rows++;
}

// One line of the table; `texts` holds a text or NULL for each column. No blanks at the end.
static void table_line(struct emit *emit, const char *const *texts, bool heading)
{
	size_t owed = block_indent(emit);
	for (size_t i = 0; i < emit->_column_count; i++) {
		const struct emit_column *column = &emit->_columns[i];
		const char *text = texts[i] ? texts[i] : "-";
		size_t len = strlen(text), pad = column->width - len;
		bool right = column->number && !column->text;
		add_blanks(emit->out, owed + (right ? pad : 0));
		if (heading)
			add_key(emit->out, text, true);
		else
			strbuf_add_text(emit->out, text);
		owed = (right ? 0 : pad) + 2;
	}
	strbuf_add_char(emit->out, '\n');
}

static void table_layout(struct emit *emit, const char **texts)
{
	for (size_t i = 0; i < emit->_column_count; i++)
		texts[i] = emit->_columns[i].name;
	table_line(emit, texts, true);
	memset(texts, 0, emit->_column_count * sizeof *texts);
	const char *p = emit->_cells.p, *end = p + emit->_cells.len;
	while (p < end) {
		uint16_t column;
		memcpy(&column, p, sizeof column);
		p += sizeof column;
		if (column == ROW_END) {
			table_line(emit, texts, false);
			memset(texts, 0, emit->_column_count * sizeof *texts);
			continue;
		}
		texts[column] = p;
		p += strlen(p) + 1;
	}
}

static void table_clear(struct emit *emit)
{
	for (size_t i = 0; i < emit->_column_count; i++)
		mem_free(emit->_columns[i].name);
	emit->_column_count = 0;
	emit->_rows = 0;
	strbuf_clear(&emit->_cells);
}

static void table_write(struct emit *emit)
{
	emit->out->failed = emit->out->failed || emit->_cells.failed || emit->_prefix.failed;
	if (emit->_rows == 0) {
		add_blanks(emit->out, block_indent(emit));
		strbuf_add_text(emit->out, "no ");
		add_key(emit->out, emit->_table, false);
		strbuf_add_char(emit->out, '\n');
	} else if (!emit->out->failed) {
		const char **texts = mem_array(emit->_column_count + 1, sizeof *texts);
		if (texts)
			table_layout(emit, texts);
		else
			emit->out->failed = true;
		mem_free(texts);
	}
	table_clear(emit);
}

static void table_open(struct emit *emit, const char *name, bool first)
{
	block_flush(emit);
	lone_caption(emit);
	if (first)
		emit->_lone = name;
	else
		block_caption(emit, name);
	emit->_table = name;
	level_push(emit, LEVEL_TABLE);
}

// --- inline cells -----------------------------------------------------------------------------------------
static void inline_separate(struct emit *emit)
{
	if (emit->_later[emit->_depth])
		strbuf_add_text(&emit->_cell, level_kind(emit) == LEVEL_INLINE ? ", " : " ");
	emit->_later[emit->_depth] = true;
}

static void inline_open(struct emit *emit, const char *name)
{
	unsigned kind = level_kind(emit);
	if (kind == LEVEL_INLINE || kind == LEVEL_ENTRY) {
		inline_separate(emit);
	} else {
		strbuf_clear(&emit->_cell);
		emit->_cell_key = name;
	}
	level_push(emit, LEVEL_INLINE);
}

static void plain_value(struct emit *emit, const char *key, struct str value, bool number);

// Ends a level of a cell; the outermost makes the value.
static void inline_close(struct emit *emit)
{
	level_pop(emit);
	unsigned kind = level_kind(emit);
	if (kind == LEVEL_INLINE || kind == LEVEL_ENTRY)
		return;
	struct str text = strbuf_str(&emit->_cell);
	plain_value(emit, emit->_cell_key, text.len ? text : STR("-"), false);
	emit->out->failed = emit->out->failed || emit->_cell.failed;
}

// --- structure, plain -------------------------------------------------------------------------------------
static void plain_record_begin(struct emit *emit, const char *name)
{
	unsigned kind = level_kind(emit);
	if (kind == LEVEL_BLOCK) {
		block_flush(emit);
		lone_caption(emit);
		block_caption(emit, name);
		level_push(emit, LEVEL_BLOCK);
	} else if (kind == LEVEL_INLINE || kind == LEVEL_ENTRY) {
		inline_separate(emit);
		level_push(emit, LEVEL_ENTRY);
	} else {
		level_push(emit, LEVEL_COLUMNS);
		strbuf_add_text(&emit->_prefix, name);
		strbuf_add_char(&emit->_prefix, '_');
	}
}

static void plain_record_end(struct emit *emit)
{
	if (level_kind(emit) == LEVEL_BLOCK)
		block_flush(emit);
	emit->_prefix.len = emit->_prefixes[emit->_depth];
	level_pop(emit);
}

static void plain_value(struct emit *emit, const char *key, struct str value, bool number)
{
	switch (level_kind(emit)) {
	case LEVEL_BLOCK:
		lone_caption(emit);
		strbuf_add(&emit->_pairs, key, strlen(key) + 1);
		strbuf_add_str(&emit->_pairs, value);
		strbuf_add_char(&emit->_pairs, 0);
		emit->out->failed = emit->out->failed || emit->_pairs.failed;
		break;
	case LEVEL_ROW:
	case LEVEL_COLUMNS:
		table_cell(emit, key, value, number);
		break;
	default:
		inline_separate(emit);
		strbuf_add_str(&emit->_cell, value);
	}
}

// --- structure --------------------------------------------------------------------------------------------
void emit_record_begin(struct emit *emit, const char *name)
{
	start(emit);
	if (is_plain(emit))
		plain_record_begin(emit, name);
	else
		json_open_object(&emit->_json, name);
}

void emit_record_end(struct emit *emit)
{
	if (is_plain(emit))
		plain_record_end(emit);
	else
		json_close_object(&emit->_json);
}

void emit_table_begin(struct emit *emit, const char *name)
{
	bool first = !emit->started;
	start(emit);
	if (!is_plain(emit))
		json_open_array(&emit->_json, name);
	else if (level_kind(emit) == LEVEL_BLOCK)
		table_open(emit, name, first);
	else
		inline_open(emit, name);
}

void emit_table_end(struct emit *emit)
{
	if (!is_plain(emit)) {
		json_close_array(&emit->_json);
	} else if (level_kind(emit) == LEVEL_TABLE) {
		level_pop(emit);
		table_write(emit);
	} else {
		inline_close(emit);
	}
}

void emit_row_begin(struct emit *emit)
{
	if (!is_plain(emit)) {
		json_open_object(&emit->_json, NULL);
	} else if (level_kind(emit) == LEVEL_TABLE) {
		level_push(emit, LEVEL_ROW);
	} else {
		inline_separate(emit);
		level_push(emit, LEVEL_ENTRY);
	}
}

void emit_row_end(struct emit *emit)
{
	if (!is_plain(emit)) {
		json_close_object(&emit->_json);
		return;
	}
	if (level_kind(emit) == LEVEL_ROW)
		table_row_end(emit);
	level_pop(emit);
}

void emit_list_begin(struct emit *emit, const char *name)
{
	start(emit);
	if (is_plain(emit))
		inline_open(emit, name);
	else
		json_open_array(&emit->_json, name);
}

void emit_list_end(struct emit *emit)
{
	if (is_plain(emit))
		inline_close(emit);
	else
		json_close_array(&emit->_json);
}

void emit_done(struct emit *emit)
{
	assert(emit->_depth == 0);
	if (emit->started && is_plain(emit)) {
		block_flush(emit);
	} else if (emit->started) {
		json_close_object(&emit->_json);
		strbuf_add_char(emit->out, '\n');
	}
	table_clear(emit);
	mem_free(emit->_columns);
	strbuf_done(&emit->_pairs);
	strbuf_done(&emit->_prefix);
	strbuf_done(&emit->_cell);
	strbuf_done(&emit->_cells);
}

// --- values -----------------------------------------------------------------------------------------------
void emit_str(struct emit *emit, const char *key, struct str value)
{
	start(emit);
	if (is_plain(emit)) {
		autostrbuf struct strbuf text = {0};
		add_printable(&text, value);
		plain_value(emit, key, value.p && value.len ? strbuf_str(&text) : STR("-"), false);
	} else if (value.p) {
		json_str(&emit->_json, key, value);
	} else {
		json_null(&emit->_json, key);
	}
}

void emit_text(struct emit *emit, const char *key, const char *value)
{
	emit_str(emit, key, str_from(value));
}

void emit_lines(struct emit *emit, const char *key, struct str value)
{
	if (!is_plain(emit) || level_kind(emit) != LEVEL_BLOCK || !value.p || memchr(value.p, 0, value.len)) {
		emit_str(emit, key, value);
		return;
	}
	start(emit);
	plain_value(emit, key, value, false);
}

static void emit_number(struct emit *emit, const char *key, uint64_t value, const char *text)
{
	start(emit);
	if (is_plain(emit))
		plain_value(emit, key, str_from(text), true);
	else
		json_uint(&emit->_json, key, value);
}

void emit_uint(struct emit *emit, const char *key, uint64_t value)
{
	char text[32];
	snprintf(text, sizeof text, "%llu", (unsigned long long)value);
	emit_number(emit, key, value, text);
}

void emit_int(struct emit *emit, const char *key, int64_t value)
{
	char text[32];
	snprintf(text, sizeof text, "%lld", (long long)value);
	start(emit);
	if (is_plain(emit))
		plain_value(emit, key, str_from(text), true);
	else
		json_int(&emit->_json, key, value);
}

void emit_bool(struct emit *emit, const char *key, bool value)
{
	start(emit);
	if (is_plain(emit))
		plain_value(emit, key, value ? STR("yes") : STR("no"), false);
	else
		json_bool(&emit->_json, key, value);
}

void emit_ip(struct emit *emit, const char *key, const struct ip *value)
{
	char text[ADDR_TEXT_MAX];
	emit_text(emit, key, value->family ? ip_format(value, text) : NULL);
}

void emit_addr(struct emit *emit, const char *key, const struct addr *value)
{
	char text[ADDR_TEXT_MAX];
	emit_text(emit, key, value->ip.family ? addr_format(value, text) : NULL);
}

void emit_bytes(struct emit *emit, const char *key, uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	char text[32];
	size_t unit = 0;
	double scaled = (double)bytes / 1024;
	for (; scaled >= 1023.95 && unit + 1 < ARRAY_SIZE(units); unit++)
		scaled /= 1024;
	if (bytes < 1024)
		snprintf(text, sizeof text, "%u B", (unsigned)bytes);
	else
		snprintf(text, sizeof text, "%.1f %s", scaled, units[unit]);
	emit_number(emit, key, bytes, text);
}

static void format_duration(char text[32], uint64_t ns)
{
	unsigned long long ms = ns / NS_PER_MS, s = ms / 1000;
	if (ns == 0)
		snprintf(text, 32, "0s");
	else if (ns < NS_PER_MS)
		snprintf(text, 32, "%lluus", (unsigned long long)ns / 1000);
	else if (s == 0)
		snprintf(text, 32, "%llums", ms);
	else if (s < 60)
		snprintf(text, 32, "%llu.%llus", s, ms % 1000 / 100);
	else if (s < 3600)
		snprintf(text, 32, "%llum%llus", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, 32, "%lluh%llum", s / 3600, s % 3600 / 60);
	else
		snprintf(text, 32, "%llud%lluh", s / 86400, s % 86400 / 3600);
}

void emit_duration(struct emit *emit, const char *key, uint64_t ns)
{
	char text[32], with_unit[64];
	format_duration(text, ns);
	if (key && !is_plain(emit)) {
		snprintf(with_unit, sizeof with_unit, "%s_ms", key);
		key = with_unit;
	}
	emit_number(emit, key, ns / NS_PER_MS, text);
}

void emit_time(struct emit *emit, const char *key, int64_t unix_s)
{
	char text[40] = "";
	time_t when = (time_t)unix_s;
	struct tm tm;
	if (gmtime_r(&when, &tm))
		strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
	emit_text(emit, key, text);
}
