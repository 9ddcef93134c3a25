// SPDX-License-Identifier: Apache-2.0
// YAML or JSON as a tree whose nodes know where they stand in the text, so that the text can be changed in
// places and stay as it is everywhere else. Nothing is resolved: aliases are nodes of their own, and merge
// keys are keys. Nodes and their texts live in the tree's arena. Parsed by libfyaml; JSON of peers, which
// nobody changes in places, by base/json_read.h, as libfyaml loses memory over some texts (version 0.7 over
// what is quoted by '). Pure, any thread.
#pragma once

#include "base/pool.h"
#include "base/str.h"

#include <stdbool.h>

enum node_kind { NODE_SCALAR, NODE_MAP, NODE_LIST, NODE_ALIAS };

struct node {
	enum node_kind kind;
	bool flow;	       // maps and lists: written {...} or [...]
	bool plain;	       // scalars: without quotes
	struct str anchor;     // its name, by which aliases refer to it; p is NULL: none
	struct str text;       // of a scalar, decoded; of an alias, the name of its anchor
	uint32_t line, column; // counted from 1; line 0: an empty value, which stands nowhere, or JSON
	size_t begin;	       // byte offset of the first character; of a list in block style, its first dash
	size_t end;	       // behind the last character; not behind a closing quote
	struct node *key;      // of a value in a map
	struct node *parent, *next, *first, *_last; // next: the sibling; of a document, the next document
	uint32_t count;				    // children
};

struct tree {
	struct arena arena;
	struct str text; // the caller's
	struct node *first, *_last;
	struct node *_open; // while parsing
	struct node *_key;
	uint32_t _nodes, _depth;
};

// Parses all documents in the text, which must outlive the tree. 0; -ENOMEM; ERR_MALFORMED or ERR_LIMIT with
// a sentence appended to ret_error that begins with "LINE:COLUMN: ". Call tree_done in any case.
int tree_parse(struct tree *ret_tree, struct str text, struct strbuf *ret_error);
// The same for one JSON value, whose nodes stand nowhere (line 0) and whose text need not outlive the tree.
// Errors are without a place.
int tree_parse_json(struct tree *ret_tree, struct str text, struct strbuf *ret_error);
void tree_done(struct tree *tree);

// The value of a key of a map; NULL if there is none, or `map` is NULL or no map.
struct node *node_get(const struct node *map, const char *key);
// The first value of a map, in the order of keys, whose key stood there before: readers differ in which of
// the two they take. NULL in *ret_value: there is none. 0 or -ENOMEM.
int node_find_double(const struct node *map, const struct node **ret_value);
// The text of a scalar; p is NULL if the node is none.
struct str node_text(const struct node *node);
// The whole number that a scalar is to Kubernetes, whose reader of YAML knows more ways to write one than
// digits: 0x6eb, 0o3353, 03353, 0b11, 1_771, +1771, 1771.0. Quotes and tags do not matter. 0 or
// ERR_MALFORMED.
int node_to_u64(const struct node *node, uint64_t *ret_number);
// A value that is not there: nothing, `null` or `~`, without quotes.
bool node_is_null(const struct node *node);
// Behind the last character that belongs to the node, whatever its kind.
size_t node_end(const struct node *node);
// The node that follows in the order of the text, children first; NULL behind the last.
struct node *node_following(const struct node *node);
