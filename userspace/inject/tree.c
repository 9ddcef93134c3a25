// SPDX-License-Identifier: Apache-2.0
#include "inject/tree.h"

#include "base/error.h"
#include "base/json_read.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_TEXT_MAX = 80 }; // in base 2, with room for zeros in front

// --- what libfyaml should not see -------------------------------------------------------------------------
// NUL, which it takes for the end, bytes that are no UTF-8, and directives, in which such bytes make it run
// for ever.
static int check_text(struct str text, struct strbuf *ret_error)
{
	unsigned line = 1, column = 1;
	while (text.len) {
		size_t len = str_utf8_len(text);
		bool directive = text.p[0] == '%' && column == 1;
		if (len == 0 || text.p[0] == 0 || directive) {
			strbuf_printf(ret_error, "%u:%u: %s", line, column,
				      directive ? "directives (lines that begin with %) are not supported"
						: "this byte is no UTF-8 text");
			return ERR_MALFORMED;
		}
		column = text.p[0] == '\n' ? 1 : column + 1;
		line += text.p[0] == '\n';
		text.p += len;
		text.len -= len;
	}
	return 0;
}

// --- nodes ------------------------------------------------------------------------------------------------
static int refuse(const struct node *node, int err, const char *why, struct strbuf *ret_error)
{
	strbuf_printf(ret_error, "%u:%u: %s", node->line, node->column, why);
	return err;
}

static void place(struct node *node, struct fy_event *event)
{
	const struct fy_mark *start = fy_event_start_mark(event), *end = fy_event_end_mark(event);
	if (!start || !end)
		return;
	node->line = (uint32_t)start->line + 1;
	node->column = (uint32_t)start->column + 1;
	node->begin = start->input_pos;
	node->end = end->input_pos;
	node->flow = node->end > node->begin;
}

static struct node *new_node(struct tree *tree, enum node_kind kind, struct fy_event *event)
{
	struct node *node = arena_alloc(&tree->arena, sizeof *node);
	if (!node)
		return NULL;
	*node = (struct node){.kind = kind};
	place(node, event);
	return node;
}

static void append(struct tree *tree, struct node *node)
{
	struct node *parent = tree->_open;
	struct node **last = parent ? &parent->_last : &tree->_last;
	node->parent = parent;
	node->key = tree->_key;
	tree->_key = NULL;
	if (*last)
		(*last)->next = node;
	else
		*(parent ? &parent->first : &tree->first) = node;
	*last = node;
	if (parent)
		parent->count++;
}

// A node has begun: as a key, a value, an item or a document.
static int add_node(struct tree *tree, struct node *node, struct strbuf *ret_error)
{
	bool is_key = tree->_open && tree->_open->kind == NODE_MAP && !tree->_key;
	if (++tree->_nodes > LIMIT_MANIFEST_NODES)
		return refuse(node, ERR_LIMIT, "too many values", ret_error);
	if (is_key && node->kind != NODE_SCALAR)
		return refuse(node, ERR_MALFORMED, "this key is no plain text", ret_error);
	if (is_key)
		tree->_key = node;
	else
		append(tree, node);
	if (node->kind != NODE_MAP && node->kind != NODE_LIST)
		return 0;
	if (++tree->_depth > LIMIT_MANIFEST_DEPTH)
		return refuse(node, ERR_LIMIT, "nested too deeply", ret_error);
	tree->_open = node;
	return 0;
}

// libfyaml's mark of the end is behind the blanks of the line that follows the text, where that line's own
// node begins.
static void end_at_line(const struct tree *tree, struct node *node)
{
	size_t end = node->end;
	while (end > node->begin && tree->text.p[end - 1] == ' ')
		end--;
	if (end > node->begin && tree->text.p[end - 1] == '\n')
		node->end = end;
}

static struct fy_token *anchor_of(const struct fy_event *event)
{
	switch (event->type) {
	case FYET_SCALAR:
		return event->scalar.anchor;
	case FYET_MAPPING_START:
		return event->mapping_start.anchor;
	case FYET_SEQUENCE_START:
		return event->sequence_start.anchor;
	default:
		return NULL;
	}
}

// A token's text, copied; that of none: p is NULL.
static int take_name(struct tree *tree, struct fy_token *token, struct str *ret_name)
{
	size_t len = 0;
	const char *text = token ? fy_token_get_text(token, &len) : NULL;
	if (!text)
		return 0;
	char *copy = arena_strdup(&tree->arena, text, len);
	if (!copy)
		return -ENOMEM;
	*ret_name = (struct str){copy, len};
	return 0;
}

static int take_scalar(struct tree *tree, struct node *node, struct fy_token *token)
{
	size_t len = 0;
	const char *text = token ? fy_token_get_text(token, &len) : NULL;
	enum fy_scalar_style style = token ? fy_token_scalar_style(token) : FYSS_PLAIN;
	node->plain = style == FYSS_PLAIN;
	if (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED) {
		node->begin--; // libfyaml's mark is behind the quote
		node->column--;
	}
	if (style == FYSS_LITERAL || style == FYSS_FOLDED)
		end_at_line(tree, node);
	node->text.p = arena_strdup(&tree->arena, text ? text : "", text ? len : 0);
	node->text.len = text ? len : 0;
	return node->text.p ? 0 : -ENOMEM;
}

static int take_alias(struct tree *tree, struct node *node, struct fy_token *token)
{
	node->begin--; // libfyaml's mark is behind the asterisk
	node->column--;
	return take_name(tree, token, &node->text);
}

static int begin_node(struct tree *tree, struct fy_event *event, struct strbuf *ret_error)
{
	static const enum node_kind kinds[] = {[FYET_SCALAR] = NODE_SCALAR,
					       [FYET_MAPPING_START] = NODE_MAP,
					       [FYET_SEQUENCE_START] = NODE_LIST,
					       [FYET_ALIAS] = NODE_ALIAS};
	struct node *node = new_node(tree, kinds[event->type], event);
	if (!node)
		return -ENOMEM;
	int err = take_name(tree, anchor_of(event), &node->anchor);
	if (!err && node->kind == NODE_SCALAR)
		err = take_scalar(tree, node, event->scalar.value);
	if (!err && node->kind == NODE_ALIAS)
		err = take_alias(tree, node, event->alias.anchor);
	return err ? err : add_node(tree, node, ret_error);
}

static void end_node(struct tree *tree, struct fy_event *event)
{
	const struct fy_mark *end = fy_event_end_mark(event);
	if (tree->_open->flow && end)
		tree->_open->end = end->input_pos;
	tree->_open = tree->_open->parent;
	tree->_depth--;
}

static int take_event(struct tree *tree, struct fy_event *event, struct strbuf *ret_error)
{
	switch (event->type) {
	case FYET_SCALAR:
	case FYET_ALIAS:
	case FYET_MAPPING_START:
	case FYET_SEQUENCE_START:
		return begin_node(tree, event, ret_error);
	case FYET_MAPPING_END:
	case FYET_SEQUENCE_END:
		end_node(tree, event);
		return 0;
	default:
		return 0;
	}
}

// --- the parser -------------------------------------------------------------------------------------------
static void drop_output(struct fy_diag *diag, void *user, const char *buf, size_t len)
{
	(void)diag;
	(void)user;
	(void)buf;
	(void)len;
}

static struct fy_diag *new_diag(void)
{
	struct fy_diag_cfg config;
	fy_diag_cfg_default(&config);
	config.fp = NULL;
	config.output_fn = drop_output;
	struct fy_diag *diag = fy_diag_create(&config);
	if (diag)
		fy_diag_set_collect_errors(diag, true);
	return diag;
}

static int syntax_error(struct fy_diag *diag, struct strbuf *ret_error)
{
	void *cursor = NULL;
	struct fy_diag_error *error = fy_diag_errors_iterate(diag, &cursor);
	if (error)
		strbuf_printf(ret_error, "%d:%d: %s", MAX(error->line, 0), MAX(error->column, 0),
			      error->msg ? error->msg : "syntax error");
	else
		strbuf_add_text(ret_error, "1:1: not valid YAML");
	return ERR_MALFORMED;
}

static int read_events(struct tree *tree, struct fy_parser *parser, struct strbuf *ret_error)
{
	struct fy_event *event;
	int err = 0;
	while (!err && (event = fy_parser_parse(parser))) {
		err = take_event(tree, event, ret_error);
		fy_parser_event_free(parser, event);
	}
	return err;
}

static int parse(struct tree *tree, struct fy_diag *diag, struct strbuf *ret_error)
{
	struct fy_parse_cfg config = {.flags = FYPCF_QUIET | FYPCF_ALLOW_DUPLICATE_KEYS | FYPCF_JSON_NONE,
				      .diag = diag};
	struct fy_parser *parser = fy_parser_create(&config);
	if (!parser)
		return -ENOMEM;
	int err = fy_parser_set_string(parser, tree->text.p, tree->text.len) ? -ENOMEM : 0;
	if (!err)
		err = read_events(tree, parser, ret_error);
	if (!err && fy_diag_got_error(diag))
		err = syntax_error(diag, ret_error);
	fy_parser_destroy(parser);
	return err;
}

int tree_parse(struct tree *ret_tree, struct str text, struct strbuf *ret_error)
{
	*ret_tree = (struct tree){.text = text};
	int err = check_text(text, ret_error);
	if (err || text.len == 0)
		return err;
	struct fy_diag *diag = new_diag();
	if (!diag)
		return -ENOMEM;
	err = parse(ret_tree, diag, ret_error);
	fy_diag_destroy(diag);
	return err;
}

// --- JSON -------------------------------------------------------------------------------------------------
// The value and all in it; its depth is bounded already.
static int add_json(struct tree *tree, const struct json_value *value)
{
	const struct json_value *at = NULL;
	struct node *node = arena_alloc(&tree->arena, sizeof *node);
	if (!node)
		return -ENOMEM;
	*node = (struct node){.kind = value->type == JSON_OBJECT  ? NODE_MAP
				      : value->type == JSON_ARRAY ? NODE_LIST
								  : NODE_SCALAR,
			      .flow = true,
			      .plain = value->type < JSON_STRING,
			      .text = json_str_of(value)};
	if (tree->_open && tree->_open->kind == NODE_MAP && !tree->_key) {
		tree->_key = node;
		return 0;
	}
	append(tree, node);
	if (node->kind == NODE_SCALAR)
		return 0;
	int err = 0;
	tree->_open = node;
	while (!err && (at = json_next(value, at))) {
		err = add_json(tree, at);
		if (!err && node->kind == NODE_MAP)
			err = add_json(tree, at + 1);
	}
	tree->_open = node->parent;
	return err;
}

static int json_error(int err, struct strbuf *ret_error)
{
	if (err == ERR_LIMIT)
		strbuf_add_text(ret_error, "nested too deeply, or too many values");
	else if (err == ERR_MALFORMED)
		strbuf_add_text(ret_error, "not valid JSON");
	return err;
}

int tree_parse_json(struct tree *ret_tree, struct str text, struct strbuf *ret_error)
{
	struct json_value *values = NULL;
	*ret_tree = (struct tree){0};
	int err = check_text(text, ret_error);
	if (err)
		return err;
	char *copy = arena_strdup(&ret_tree->arena, text.p, text.len);
	err = copy ? json_read_at_most(copy, text.len, LIMIT_REVIEW_VALUES, &values) : -ENOMEM;
	if (!err)
		err = add_json(ret_tree, values);
	mem_free(values);
	return json_error(err, ret_error);
}

void tree_done(struct tree *tree)
{
	arena_done(&tree->arena);
	*tree = (struct tree){0};
}

// --- looking ----------------------------------------------------------------------------------------------
struct node *node_get(const struct node *map, const char *key)
{
	if (!map || map->kind != NODE_MAP)
		return NULL;
	for (struct node *value = map->first; value; value = value->next)
		if (str_eq(value->key->text, str_from(key)))
			return value;
	return NULL;
}

// By key, then as they stand.
static int by_key(const void *a, const void *b)
{
	const struct node *one = *(const struct node *const *)a, *other = *(const struct node *const *)b;
	int order = str_cmp(one->key->text, other->key->text);
	return order ? order : (one->key->begin > other->key->begin) - (one->key->begin < other->key->begin);
}

int node_find_double(const struct node *map, const struct node **ret_value)
{
	size_t count = 0;
	*ret_value = NULL;
	if (map->kind != NODE_MAP || map->count < 2)
		return 0;
	autofree const struct node **values = mem_alloc(map->count * sizeof *values);
	if (!values)
		return -ENOMEM;
	for (const struct node *value = map->first; value; value = value->next)
		values[count++] = value;
	qsort(values, count, sizeof *values, by_key);
	for (size_t i = 1; i < count && !*ret_value; i++)
		if (str_eq(values[i - 1]->key->text, values[i]->key->text))
			*ret_value = values[i];
	return 0;
}

struct str node_text(const struct node *node)
{
	return node && node->kind == NODE_SCALAR ? node->text : (struct str){NULL, 0};
}

// Cuts the prefix off that tells the base of a number.
static int base_of(const char **text)
{
	static const struct {
		char letter;
		int base;
	} bases[] = {{'x', 16}, {'o', 8}, {'b', 2}};
	const char *c = *text;
	for (size_t i = 0; c[0] == '0' && i < ARRAY_SIZE(bases); i++)
		if (ascii_lower(c[1]) == bases[i].letter) {
			*text += 2;
			return bases[i].base;
		}
	return c[0] == '0' ? 8 : 10;
}

static bool only_has(const char *text, const char *characters)
{
	return text[0] && text[strspn(text, characters)] == 0;
}

static int parse_number(const char *text, uint64_t *ret_number)
{
	static const char *const digits[] = {
	    [2] = "01", [8] = "01234567", [10] = "0123456789", [16] = "0123456789abcdefABCDEF"};
	const char *rest = text;
	int base = base_of(&rest);
	char *end;
	errno = 0;
	if (only_has(rest, digits[base])) {
		*ret_number = strtoull(rest, NULL, base);
		return errno ? ERR_MALFORMED : 0;
	}
	if (!only_has(text, "0123456789.eE+-"))
		return ERR_MALFORMED;
	double real = strtod(text, &end);
	if (*end || real < 0 || real > UINT32_MAX || real != (double)(uint64_t)real)
		return ERR_MALFORMED;
	*ret_number = (uint64_t)real;
	return 0;
}

int node_to_u64(const struct node *node, uint64_t *ret_number)
{
	char text[NUMBER_TEXT_MAX];
	struct str written = node_text(node);
	size_t len = 0;
	for (size_t i = 0; i < written.len; i++) {
		if (written.p[i] == '_')
			continue;
		if (len == sizeof text - 1)
			return ERR_MALFORMED;
		text[len++] = written.p[i];
	}
	text[len] = 0;
	return parse_number(text + (text[0] == '+'), ret_number);
}

bool node_is_null(const struct node *node)
{
	return node->kind == NODE_SCALAR && node->plain &&
	       (node->text.len == 0 || str_eq(node->text, STR("null")) || str_eq(node->text, STR("~")));
}

size_t node_end(const struct node *node)
{
	while ((node->kind == NODE_MAP || node->kind == NODE_LIST) && !node->flow && node->_last)
		node = node->_last;
	return node->line == 0 && node->key ? node->key->end : node->end;
}

struct node *node_following(const struct node *node)
{
	if (node->first)
		return node->first;
	while (node && !node->next)
		node = node->parent;
	return node ? node->next : NULL;
}
