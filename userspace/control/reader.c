// SPDX-License-Identifier: Apache-2.0
// From YAML (libfyaml) to struct config, by the table of keys.
#include "control/config.h"

#include "base/command.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "control/keys.h"
#include "control/values.h"

#include <errno.h>
#include <fcntl.h>
#include <libfyaml.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_MAX_TEXT = 512, DEPTH_MAX = 16 };

struct reader {
	struct config *config;
	struct strbuf *errors;
	unsigned error_count;
	struct config_at near;	  // the key whose value is being read: the place of values that have none
	char path[PATH_MAX_TEXT]; // "services[0].ports[1]", for messages
	size_t path_len;
};

// --- errors -------------------------------------------------------------------------------------------------
static void verror(const struct config *config, struct config_at at, struct strbuf *errors,
		   const char *format, va_list args)
{
	strbuf_add_text(errors, config->name);
	if (at.line)
		strbuf_printf(errors, ":%u:%u", at.line, at.column);
	strbuf_add_text(errors, ": ");
	strbuf_vprintf(errors, format, args);
	strbuf_add_char(errors, '\n');
}

void config_error(const struct config *config, struct config_at at, struct strbuf *errors, const char *format,
		  ...)
{
	va_list args;
	va_start(args, format);
	verror(config, at, errors, format, args);
	va_end(args);
}

__attribute__((format(printf, 3, 4))) static void reader_error(struct reader *reader, struct config_at at,
							       const char *format, ...)
{
	autostrbuf struct strbuf text = {0};
	va_list args;
	if (++reader->error_count > CONFIG_ERRORS_MAX)
		return;
	va_start(args, format);
	strbuf_vprintf(&text, format, args);
	va_end(args);
	config_error(reader->config, at, reader->errors, "%s%s%s", reader->path, reader->path_len ? ": " : "",
		     text.p ? text.p : "");
}

static struct config_at token_at(struct fy_token *token)
{
	const struct fy_mark *mark = token ? fy_token_start_mark(token) : NULL;
	return mark ? (struct config_at){(uint32_t)mark->line + 1, (uint32_t)mark->column + 1}
		    : (struct config_at){0};
}

// The first thing with a place in the file, in or below a node; else, for "{}" and "[]", the key before it.
static struct config_at node_at(const struct reader *reader, struct fy_node *node)
{
	void *cursor = NULL;
	for (int depth = 0; node && depth < DEPTH_MAX; depth++, cursor = NULL) {
		if (fy_node_is_scalar(node)) {
			struct config_at at = token_at(fy_node_get_scalar_token(node));
			return at.line ? at : reader->near;
		}
		if (fy_node_is_mapping(node)) {
			struct fy_node_pair *pair = fy_node_mapping_iterate(node, &cursor);
			node = pair ? fy_node_pair_key(pair) : NULL;
		} else {
			node = fy_node_sequence_iterate(node, &cursor);
		}
	}
	return reader->near;
}

// Remembers where a member of struct config was given.
static void note_place(struct reader *reader, const struct key *key, struct fy_node *node, const void *base)
{
	struct config *config = reader->config;
	const char *value = (const char *)base + key->offset;
	if (base == config && config->place_count < CONFIG_PLACES_MAX)
		config->places[config->place_count++] = (struct config_place){value, node_at(reader, node)};
}

struct config_at config_where(const struct config *config, const void *value)
{
	for (size_t i = 0; i < config->place_count; i++)
		if (config->places[i].value == value)
			return config->places[i].at;
	return (struct config_at){0};
}

// Lengthens the path; returns what path_pop wants.
__attribute__((format(printf, 2, 3))) static size_t path_push(struct reader *reader, const char *format, ...)
{
	size_t before = reader->path_len, room = sizeof reader->path - before;
	va_list args;
	va_start(args, format);
	int len = vsnprintf(reader->path + before, room, format, args);
	va_end(args);
	reader->path_len = MIN(before + (size_t)MAX(len, 0), sizeof reader->path - 1);
	return before;
}

static void path_pop(struct reader *reader, size_t before)
{
	reader->path_len = before;
	reader->path[before] = 0;
}

// --- values -------------------------------------------------------------------------------------------------
static void read_node(struct reader *reader, const struct key *key, struct fy_node *node, void *base);

static struct str scalar_text(struct fy_node *node)
{
	size_t len = 0;
	const char *text = fy_node_get_scalar(node, &len);
	return (struct str){text ? text : "", text ? len : 0};
}

static void read_scalar(struct reader *reader, const struct key *key, struct fy_node *node, void *base)
{
	struct config_at at = node_at(reader, node);
	autostrbuf struct strbuf why = {0};
	if (!fy_node_is_scalar(node)) {
		reader_error(reader, at, "expected %s", value_kind(key->type));
		return;
	}
	struct str text = scalar_text(node);
	int err = value_parse(key, text, &reader->config->arena, (char *)base + key->offset, &why);
	if (err && key->secret)
		reader_error(reader, at, "the value is not valid: %s", why.p ? why.p : err_text(err));
	else if (err)
		reader_error(reader, at, "\"%.*s\" is not valid: %s", (int)MIN(text.len, (size_t)80), text.p,
			     why.p ? why.p : err_text(err));
	else if (key->type == KEY_TEXT)
		((struct config_text *)((char *)base + key->offset))->at = at;
}

static void set_initial_value(struct reader *reader, const struct key *key, struct str text, void *ret_value)
{
	autostrbuf struct strbuf why = {0};
	int err = value_parse(key, text, &reader->config->arena, ret_value, &why);
	// The table's own words are right: what can fail is memory.
	if (err)
		reader_error(reader, reader->near, "the default of \"%s\": %s", key->name, err_text(err));
}

static void set_initial_list(struct reader *reader, const struct key *key, struct config_list *list)
{
	struct str rest = str_from(key->initial);
	size_t count = 1;
	for (const char *p = key->initial; *p; p++)
		count += *p == ' ';
	list->items = arena_alloc(&reader->config->arena, key->item_size * count);
	if (!list->items)
		reader_error(reader, reader->near, "the default of \"%s\": %s", key->name, err_text(-ENOMEM));
	while (list->items && rest.p && list->count < count) {
		char *item = (char *)list->items + list->count++ * key->item_size;
		memset(item, 0, key->item_size);
		set_initial_value(reader, key->item, str_split(&rest, ' '), item);
	}
}

// The default of a key, and of all keys in an object; lists have theirs as words.
static void set_initial(struct reader *reader, const struct key *key, void *base)
{
	char *at = (char *)base + key->offset;
	if (key->type == KEY_OBJECT)
		for (const struct key *child = key->keys; child->name; child++)
			set_initial(reader, child, base);
	else if (key->initial && key->type == KEY_LIST)
		set_initial_list(reader, key, (struct config_list *)at);
	else if (key->initial)
		set_initial_value(reader, key, str_from(key->initial), at);
}

// A list of one element, written without the brackets.
static void read_single(struct reader *reader, const struct key *key, struct fy_node *node, void *base)
{
	struct config_list list = {arena_alloc(&reader->config->arena, key->item_size), 1};
	if (!list.items) {
		reader_error(reader, node_at(reader, node), "out of memory");
		return;
	}
	memset(list.items, 0, key->item_size);
	read_node(reader, key->item, node, list.items);
	*(struct config_list *)((char *)base + key->offset) = list;
}

static void read_list(struct reader *reader, const struct key *key, struct fy_node *node, void *base)
{
	struct config_list list = {0};
	void *cursor = NULL;
	if (key->item->type == KEY_RESOLVER && fy_node_is_scalar(node) &&
	    str_eq(scalar_text(node), STR("auto"))) {
		*(struct config_list *)((char *)base + key->offset) = list;
		return;
	}
	if (key->single && fy_node_is_scalar(node)) {
		read_single(reader, key, node, base);
		return;
	}
	if (!fy_node_is_sequence(node)) {
		reader_error(reader, node_at(reader, node), "expected a list");
		return;
	}
	size_t count = (size_t)MAX(fy_node_sequence_item_count(node), 0);
	if (count > key->items_max) {
		reader_error(reader, node_at(reader, node), "%zu entries; at most %zu are allowed", count,
			     key->items_max);
		return;
	}
	list.items = arena_alloc(&reader->config->arena, key->item_size * count + 1);
	if (!list.items) {
		reader_error(reader, node_at(reader, node), "out of memory");
		return;
	}
	memset(list.items, 0, key->item_size * count);
	for (struct fy_node *item; (item = fy_node_sequence_iterate(node, &cursor)); list.count++) {
		size_t before = path_push(reader, "[%zu]", list.count);
		char *at = (char *)list.items + list.count * key->item_size;
		if (key->item->type == KEY_OBJECT)
			*(struct config_at *)at = node_at(reader, item);
		set_initial(reader, key->item, at);
		read_node(reader, key->item, item, at);
		path_pop(reader, before);
	}
	*(struct config_list *)((char *)base + key->offset) = list;
}

// --- objects ------------------------------------------------------------------------------------------------
static const struct key *find_key(const struct key *object, struct str name)
{
	for (const struct key *key = object->keys; key->name; key++)
		if (str_eq(name, str_from(key->name)))
			return key;
	return NULL;
}

static const char *nearest_key(const struct key *object, struct str name)
{
	struct suggestion suggestion = suggest_for(name);
	for (const struct key *key = object->keys; key->name; key++)
		suggest_consider(&suggestion, key->name);
	return suggestion.best;
}

static void unknown_key(struct reader *reader, const struct key *object, struct str name, struct config_at at)
{
	const char *nearest = nearest_key(object, name);
	autostrbuf struct strbuf valid = {0};
	for (const struct key *key = object->keys; key->name; key++)
		strbuf_printf(&valid, "%s%s", valid.len ? ", " : "", key->name);
	if (nearest)
		reader_error(reader, at, "unknown key \"%.*s\"; did you mean \"%s\"?",
			     (int)MIN(name.len, (size_t)80), name.p, nearest);
	else
		reader_error(reader, at, "unknown key \"%.*s\"; valid ones are: %s",
			     (int)MIN(name.len, (size_t)80), name.p, valid.p ? valid.p : "");
}

static void read_object(struct reader *reader, const struct key *key, struct fy_node *node, void *base)
{
	void *cursor = NULL;
	uint64_t seen = 0;
	// "admin:" with nothing behind it is an empty section.
	bool empty = fy_node_is_scalar(node) && scalar_text(node).len == 0;
	if (!empty && !fy_node_is_mapping(node)) {
		reader_error(reader, node_at(reader, node), "expected a mapping of keys to values");
		return;
	}
	for (struct fy_node_pair *pair; !empty && (pair = fy_node_mapping_iterate(node, &cursor));) {
		struct fy_node *name = fy_node_pair_key(pair), *value = fy_node_pair_value(pair);
		struct str text = name && fy_node_is_scalar(name) ? scalar_text(name) : STR("");
		const struct key *child = find_key(key, text);
		if (!child) {
			unknown_key(reader, key, text, node_at(reader, name));
			continue;
		}
		struct config_at outer = reader->near;
		uint64_t bit = 1ULL << (child - key->keys);
		size_t before = path_push(reader, "%s%s", reader->path_len ? "." : "", child->name);
		reader->near = node_at(reader, name);
		if (seen & bit)
			reader_error(reader, node_at(reader, name), "the key is given twice");
		else if (!value)
			reader_error(reader, node_at(reader, name), "the value is missing");
		else
			read_node(reader, child, value, base);
		seen |= bit;
		reader->near = outer;
		path_pop(reader, before);
	}
	for (const struct key *child = key->keys; child->name; child++)
		if (child->required && !(seen & (1ULL << (child - key->keys))))
			reader_error(reader, node_at(reader, node), "\"%s\" is missing", child->name);
}

static void read_node(struct reader *reader, const struct key *key, struct fy_node *node, void *base)
{
	note_place(reader, key, node, base);
	if (fy_node_is_alias(node))
		reader_error(reader, node_at(reader, node),
			     "anchors and aliases are not supported: write the value out");
	else if (key->type == KEY_OBJECT)
		read_object(reader, key, node, base);
	else if (key->type == KEY_LIST)
		read_list(reader, key, node, base);
	else
		read_scalar(reader, key, node, base);
}

// --- documents ----------------------------------------------------------------------------------------------
static void syntax_errors(struct reader *reader, struct fy_diag *diag)
{
	void *cursor = NULL;
	struct fy_diag_error *error;
	while ((error = fy_diag_errors_iterate(diag, &cursor)))
		reader_error(
		    reader,
		    (struct config_at){(uint32_t)MAX(error->line, 0), (uint32_t)MAX(error->column, 0)}, "%s",
		    error->msg ? error->msg : "syntax error");
	if (!reader->error_count)
		reader_error(reader, (struct config_at){0}, "not valid YAML");
}

static void drop_output(struct fy_diag *diag, void *user, const char *buf, size_t len)
{
	(void)diag;
	(void)user;
	(void)buf;
	(void)len;
}

// libfyaml knows no document without a node.
static bool is_blank(struct str text)
{
	while (text.p) {
		struct str line = str_trim(str_split(&text, '\n'));
		if (line.len && line.p[line.len - 1] == '\r')
			line.len--;
		if (line.len && line.p[0] != '#')
			return false;
	}
	return true;
}

static void read_document(struct reader *reader, struct str text)
{
	if (is_blank(text))
		return;
	struct fy_diag_cfg diag_config;
	fy_diag_cfg_default(&diag_config);
	diag_config.fp = NULL;
	diag_config.output_fn = drop_output;
	struct fy_diag *diag = fy_diag_create(&diag_config);
	if (!diag) {
		reader_error(reader, (struct config_at){0}, "out of memory");
		return;
	}
	fy_diag_set_collect_errors(diag, true);
	// Duplicate keys are found by read_object, which can say where. Aliases are not resolved, so none can
	// grow.
	struct fy_parse_cfg parse_config = {
	    .flags = FYPCF_QUIET | FYPCF_JSON_NONE | FYPCF_ALLOW_DUPLICATE_KEYS, .diag = diag};
	struct fy_document *document = fy_document_build_from_string(&parse_config, text.p, text.len);
	struct fy_node *root = document ? fy_document_root(document) : NULL;
	if (!document || fy_diag_got_error(diag))
		syntax_errors(reader, diag);
	else if (root)
		read_object(reader, &config_root, root, reader->config);
	fy_document_destroy(document);
	fy_diag_destroy(diag);
}

// What libfyaml should not see: NUL, which it takes for the end, and directives, in which bytes that are no
// UTF-8 make it run for ever.
static bool is_text(struct reader *reader, struct str text)
{
	struct config_at at = {1, 1};
	while (text.len) {
		size_t len = str_utf8_len(text);
		if (len == 0 || text.p[0] == 0 || (text.p[0] == '%' && at.column == 1)) {
			reader_error(reader, at, "%s",
				     len && text.p[0]
					 ? "directives (lines that begin with %) are not supported"
					 : "this byte is no UTF-8 text");
			return false;
		}
		at = text.p[0] == '\n' ? (struct config_at){at.line + 1, 1}
				       : (struct config_at){at.line, at.column + 1};
		text.p += len;
		text.len -= len;
	}
	return true;
}

// Whether a line is "---" or "...", alone or with something behind it (YAML 1.2.2, 9.1).
static bool is_marker(struct str line, struct str marker)
{
	return str_starts(line, marker) && (line.len == 3 || strchr(" \t\r", line.p[3]));
}

// libfyaml reads the first document and is silent about what follows.
static bool is_one_document(struct reader *reader, struct str text)
{
	bool begun = false, ended = false;
	for (struct config_at at = {1, 1}; text.p; at.line++) {
		struct str line = str_split(&text, '\n');
		bool first = is_marker(line, STR("---")), last = is_marker(line, STR("..."));
		if ((first && begun) || (ended && !last && !is_blank(line))) {
			reader_error(reader, at, "a second document begins here; there may be only one");
			return false;
		}
		begun |= first || !is_blank(line);
		ended |= last;
	}
	return true;
}

// "tls.mode=strict" as the text {"tls": {"mode": "strict"}}, whose errors name it in place of a file.
static void read_set(struct reader *reader, const char *set)
{
	autostrbuf struct strbuf text = {0}, name = {0};
	const char *file = reader->config->name;
	struct str value = str_from(set), path = str_split(&value, '=');
	unsigned depth = 0;
	while (path.p) {
		strbuf_add_char(&text, '{');
		json_escape(&text, str_split(&path, '.'));
		strbuf_add_text(&text, ": ");
		depth++;
	}
	json_escape(&text, value.p ? value : STR(""));
	while (depth--)
		strbuf_add_char(&text, '}');
	strbuf_printf(&name, "--set %s", set);
	if (text.failed || name.failed) {
		reader_error(reader, (struct config_at){0}, "out of memory");
		return;
	}
	reader->config->name = name.p;
	if (is_text(reader, strbuf_str(&text)))
		read_document(reader, strbuf_str(&text));
	reader->config->name = file;
}

static int parse(struct str text, const char *name, const char *const *sets, struct config **ret_config,
		 struct strbuf *ret_errors)
{
	struct config *config = mem_zalloc(sizeof *config);
	struct reader reader = {.config = config, .errors = ret_errors};
	if (!config)
		return -ENOMEM;
	config->name = arena_strdup(&config->arena, name, strlen(name));
	if (!config->name) {
		config_free(config);
		return -ENOMEM;
	}
	set_initial(&reader, &config_root, config);
	if (text.len > LIMIT_CONFIG_BYTES)
		reader_error(&reader, (struct config_at){0}, "longer than %d bytes", LIMIT_CONFIG_BYTES);
	else if (is_text(&reader, text) && is_one_document(&reader, text))
		read_document(&reader, text);
	for (; sets && *sets; sets++)
		read_set(&reader, *sets);
	if (reader.error_count > CONFIG_ERRORS_MAX)
		strbuf_printf(ret_errors, "%s: and %u errors more\n", config->name,
			      reader.error_count - CONFIG_ERRORS_MAX);
	if (reader.error_count) {
		config_free(config);
		return ERR_CONFIG;
	}
	*ret_config = config;
	return 0;
}

int config_parse(struct str text, const char *name, struct config **ret_config, struct strbuf *ret_errors)
{
	return parse(text, name, NULL, ret_config, ret_errors);
}

static int read_all(int fd, struct strbuf *ret_text)
{
	for (;;) {
		char *at = strbuf_reserve(ret_text, 65536);
		ssize_t n = at ? read(fd, at, 65536) : -1;
		if (n < 0)
			return at ? -errno : -ENOMEM;
		if (n == 0)
			return 0;
		ret_text->len += (size_t)n;
		if (ret_text->len > LIMIT_CONFIG_BYTES)
			return -EFBIG;
	}
}

static bool is_empty(struct str text)
{
	size_t blanks = 0;
	while (blanks < text.len && strchr(" \t\r\n", text.p[blanks]))
		blanks++;
	return blanks == text.len;
}

// Nobody is waited for who might write into a FIFO. What is empty is a file that somebody is about to write,
// or could not: taken at its word it would take all services away, and mutual TLS with them.
static int read_file(const char *path, struct strbuf *ret_text)
{
	struct stat status;
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &status) < 0 || fcntl(fd, F_SETFL, 0) < 0)
		return -errno;
	if (S_ISDIR(status.st_mode))
		return -EISDIR;
	int err = read_all(fd, ret_text);
	return !err && is_empty(strbuf_str(ret_text)) && !S_ISCHR(status.st_mode) ? -ENODATA : err;
}

int config_load_set(const char *path, const char *const *sets, struct config **ret_config,
		    struct strbuf *ret_errors)
{
	autostrbuf struct strbuf text = {0};
	int err = read_file(path, &text);
	if (err == -ENODATA) {
		strbuf_printf(ret_errors,
			      "%s: the file is empty; {} stands for a configuration of defaults\n", path);
		return ERR_CONFIG;
	}
	if (err) {
		strbuf_printf(ret_errors, "%s: cannot be read: %s\n", path, err_text(err));
		return err;
	}
	return parse(strbuf_str(&text), path, sets, ret_config, ret_errors);
}

int config_load(const char *path, struct config **ret_config, struct strbuf *ret_errors)
{
	return config_load_set(path, NULL, ret_config, ret_errors);
}

void config_free(struct config *config)
{
	if (!config)
		return;
	arena_done(&config->arena);
	mem_free(config);
}
