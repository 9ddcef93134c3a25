// SPDX-License-Identifier: Apache-2.0
// The emitter: a caller describes fields, records and tables once, and out comes either text for people or
// JSON. Appends to a strbuf; errors are sticky there. One emitter, one document, one thread; the text of keys
// must stay valid until emit_done.
//
// JSON: the document is an object; a record is an object, a table an array of objects, a list an array of
// values. Plain: fields of a record are aligned "key: value" lines, nested records are indented; a table has
// upper-case headings and aligned columns; records within a row become columns ("tls", "version": "TLS
// VERSION"), tables and lists within a row become one cell. Bytes that are not printable ASCII come out as
// \xHH, so that a peer's name cannot steer the terminal.
//
//     emit_table_begin(emit, "connections");
//     emit_row_begin(emit);
//     emit_addr(emit, "peer", &peer);
//     emit_duration(emit, "age", age_ns);
//     emit_row_end(emit);
//     emit_table_end(emit);
#pragma once

#include "base/addr.h"
#include "base/json.h"
#include "base/str.h"

enum emit_format { EMIT_PLAIN, EMIT_JSON, EMIT_JSON_PRETTY };
enum { EMIT_DEPTH_MAX = 16 };

struct emit_column {
	char *name;
	uint32_t width;
	bool number, text; // such values were seen; a column of numbers alone is aligned to the right
};

struct emit {
	struct strbuf *out;
	enum emit_format format;
	bool started; // something was emitted
	struct json _json;

	uint8_t _depth;
	uint8_t _kinds[EMIT_DEPTH_MAX];	    // what is open
	uint32_t _prefixes[EMIT_DEPTH_MAX]; // length of _prefix before that level
	bool _later[EMIT_DEPTH_MAX];	    // something stands before, in an inline level
	struct strbuf _pairs;		    // key NUL value NUL ..., of the block under way
	struct strbuf _prefix;		    // of column names
	struct strbuf _cell;		    // the inline cell under way
	const char *_cell_key;
	const char *_table; // name of the table under way
	const char *_lone;  // name of a table that stands alone so far
	size_t _start;	    // of this document in `out`
	struct emit_column *_columns;
	size_t _column_count, _column_cap, _column_hint;
	struct strbuf _cells; // of the table under way: column number and text, a row ends with a marker
	size_t _rows;
};

void emit_init(struct emit *emit, struct strbuf *out, enum emit_format format);
// Ends the document and frees. If nothing was emitted, `out` is as it was.
void emit_done(struct emit *emit);

// --- structure --------------------------------------------------------------------------------------------
// Inside a row or a record `name` is its key.
void emit_record_begin(struct emit *emit, const char *name);
void emit_record_end(struct emit *emit);
void emit_table_begin(struct emit *emit, const char *name);
void emit_table_end(struct emit *emit);
void emit_row_begin(struct emit *emit);
void emit_row_end(struct emit *emit);
// Values in a list have the key NULL.
void emit_list_begin(struct emit *emit, const char *name);
void emit_list_end(struct emit *emit);

// --- values -----------------------------------------------------------------------------------------------
// A string whose p is NULL, a NULL text and an absent address are "-" and null.
void emit_str(struct emit *emit, const char *key, struct str value);
void emit_text(struct emit *emit, const char *key, const char *value);
// Text of several lines: they stay lines in a record.
void emit_lines(struct emit *emit, const char *key, struct str value);
void emit_uint(struct emit *emit, const char *key, uint64_t value);
void emit_int(struct emit *emit, const char *key, int64_t value);
void emit_bool(struct emit *emit, const char *key, bool value); // yes, no
void emit_ip(struct emit *emit, const char *key, const struct ip *value);
void emit_addr(struct emit *emit, const char *key, const struct addr *value);
// "1.5 KiB"; JSON: the number.
void emit_bytes(struct emit *emit, const char *key, uint64_t bytes);
// "2h3m", "350ms"; JSON: whole milliseconds, and the key gets the suffix "_ms".
void emit_duration(struct emit *emit, const char *key, uint64_t ns);
// "2026-01-31T12:00:00Z", both ways; seconds since 1970.
void emit_time(struct emit *emit, const char *key, int64_t unix_s);
