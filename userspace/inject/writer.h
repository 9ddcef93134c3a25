// SPDX-License-Identifier: Apache-2.0
// Writes one structure as YAML in block style or as JSON: the caller describes it once. Keys are given inside
// maps and NULL inside lists; a list of lists is not needed here.
#pragma once

#include "base/json.h"
#include "base/str.h"

struct writer {
	struct strbuf *out;
	const char *eol; // what ends a line of YAML
	bool yaml;
	const char *_next_key;
	bool _dash; // YAML: the next line begins an item
	unsigned _indent;
	struct json _json;
};

// YAML: the entries of the outermost map or the items of the outermost list stand at this column (from 0).
void writer_init_yaml(struct writer *writer, struct strbuf *out, unsigned column, const char *eol);
void writer_init_json(struct writer *writer, struct strbuf *out);

// The next map takes this key, whatever it is given.
void writer_rename_next(struct writer *writer, const char *key);
void writer_map(struct writer *writer, const char *key);
void writer_map_end(struct writer *writer);
void writer_list(struct writer *writer, const char *key);
void writer_list_end(struct writer *writer);
void writer_str(struct writer *writer, const char *key, struct str value);
void writer_text(struct writer *writer, const char *key, const char *value);
// YAML: as it is.
void writer_raw(struct writer *writer, const char *key, struct str value);
void writer_uint(struct writer *writer, const char *key, uint64_t value);
void writer_bool(struct writer *writer, const char *key, bool value);
