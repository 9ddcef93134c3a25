// SPDX-License-Identifier: Apache-2.0
#include "inject/edit.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "inject/pod.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MARK_ADDED    "# >>> weir inject: added"
#define MARK_REPLACED "# >>> weir inject: in place of"
#define MARK_END      "# <<< weir inject"
#define MARK_ORIGINAL "#| "

static int fail_at(const struct node *node, struct strbuf *error, const char *why)
{
	strbuf_printf(error, "%u:%u: %s", node->line, node->column, why);
	return ERR_UNSUPPORTED;
}

// --- taking out -------------------------------------------------------------------------------------------
struct stripping {
	struct tree tree;
	const struct node *cursor; // the first node that ends behind the line under way
	struct strbuf *out;
	bool within;
	unsigned line, begun;
};

// A line that looks like a mark, but lies within a text of several lines, is none.
static bool is_within_scalar(struct stripping *stripping, size_t offset)
{
	const struct node *node = stripping->cursor;
	while (node && (node->kind == NODE_MAP || node->kind == NODE_LIST || node->end <= offset))
		node = node_following(node);
	stripping->cursor = node;
	return node && node->begin <= offset;
}

static struct str content(struct str line)
{
	while (line.len && strchr("\r\n", line.p[line.len - 1]))
		line.len--;
	return str_trim(line);
}

// Without the line feed that the original text does not have at its end.
static void end_block(struct stripping *stripping, struct str line)
{
	struct strbuf *out = stripping->out;
	stripping->within = false;
	if (str_ends(line, STR("\n")) || !out->len)
		return;
	out->len--;
	if (out->len && out->p[out->len - 1] == '\r')
		out->len--;
	out->p[out->len] = 0;
}

static void strip_line(struct stripping *stripping, struct str line, size_t offset)
{
	struct str text = content(line);
	bool begins = str_eq(text, STR(MARK_ADDED)) || str_eq(text, STR(MARK_REPLACED));
	if (!stripping->within) {
		if (begins && !is_within_scalar(stripping, offset)) {
			stripping->within = true;
			stripping->begun = stripping->line;
			return;
		}
		strbuf_add_str(stripping->out, line);
		return;
	}
	if (str_eq(text, STR(MARK_END)))
		end_block(stripping, line);
	else if (str_starts(line, STR(MARK_ORIGINAL)))
		strbuf_add(stripping->out, line.p + strlen(MARK_ORIGINAL), line.len - strlen(MARK_ORIGINAL));
}

static struct str take_line(struct str *rest)
{
	const char *feed = memchr(rest->p, '\n', rest->len);
	struct str line = {rest->p, feed ? (size_t)(feed - rest->p) + 1 : rest->len};
	rest->p += line.len;
	rest->len -= line.len;
	return line;
}

int edit_uninject(struct str text, struct strbuf *ret_text, struct strbuf *ret_error)
{
	struct stripping stripping = {.out = ret_text};
	struct str rest = text;
	if (text.len > LIMIT_MANIFEST_BYTES) {
		strbuf_printf(ret_error, "1:1: longer than %d bytes", LIMIT_MANIFEST_BYTES);
		return ERR_LIMIT;
	}
	int err = tree_parse(&stripping.tree, text, ret_error);
	stripping.cursor = stripping.tree.first;
	while (rest.len && !err) {
		size_t offset = text.len - rest.len;
		stripping.line++;
		strip_line(&stripping, take_line(&rest), offset);
	}
	tree_done(&stripping.tree);
	if (!err && stripping.within) {
		strbuf_printf(ret_error,
			      "%u:1: the line \"" MARK_END "\" that belongs to this one is missing",
			      stripping.begun);
		err = ERR_MALFORMED;
	}
	return !err && ret_text->failed ? -ENOMEM : err;
}

// --- changes ----------------------------------------------------------------------------------------------
// From `at` to `end` gives way to the text.
struct change {
	size_t at, end, number;
	struct strbuf text;
};

struct editing {
	struct tree tree;
	const struct settings *settings;
	const char *eol;
	struct change *changes;
	size_t count, cap;
	struct edit_result *result;
	struct strbuf *error;
};

static struct change *add_change(struct editing *editing, size_t at, size_t end)
{
	if (mem_grow((void **)&editing->changes, &editing->cap, editing->count + 1, sizeof *editing->changes))
		return NULL;
	struct change *change = &editing->changes[editing->count];
	*change = (struct change){.at = at, .end = end, .number = editing->count};
	editing->count++;
	return change;
}

static size_t line_start(const struct editing *editing, size_t at)
{
	while (at && editing->tree.text.p[at - 1] != '\n')
		at--;
	return at;
}

// Behind the line feed of the line in which something ends.
static size_t line_end(const struct editing *editing, size_t at)
{
	struct str text = editing->tree.text;
	if (at && text.p[at - 1] == '\n')
		return at;
	const char *feed = memchr(text.p + at, '\n', text.len - at);
	return feed ? (size_t)(feed - text.p) + 1 : text.len;
}

// What stands before a place in its line: blanks, and dashes if they are allowed. False: something else does.
static bool is_margin(const struct editing *editing, size_t begin, bool dashes)
{
	for (size_t at = line_start(editing, begin); at < begin; at++) {
		char c = editing->tree.text.p[at];
		if (c != ' ' && !(dashes && c == '-'))
			return false;
	}
	return true;
}

// An alias further down in the document that has the node; NULL: there is none.
static const struct node *find_alias(const struct node *node)
{
	const struct node *at = node->anchor.p ? node_following(node) : NULL;
	for (; at && at->parent && !str_eq(at->anchor, node->anchor); at = node_following(at))
		if (at->kind == NODE_ALIAS && str_eq(at->text, node->anchor))
			return at;
	return NULL;
}

// What is to be changed must not stand elsewhere as well.
static int check_shared(const struct editing *editing, const struct node *node)
{
	for (; node; node = node->parent) {
		const struct node *alias = find_alias(node);
		if (alias)
			return fail_at(alias, editing->error,
				       "this is an alias of what weir has to change: write it out");
	}
	return 0;
}

static void add_mark(struct strbuf *out, unsigned column, const char *mark, const char *eol)
{
	strbuf_printf(out, "%*s%s%s", (int)column, "", mark, eol);
}

// --- lines that go in -------------------------------------------------------------------------------------
// Begins a block before the line of a node, at the node's column.
static struct change *begin_insertion(struct editing *editing, const struct node *node, size_t begin,
				      struct writer *ret_writer)
{
	unsigned column = node->column - 1;
	size_t at = line_start(editing, begin);
	struct change *change = add_change(editing, at, at);
	if (!change)
		return NULL;
	add_mark(&change->text, column, MARK_ADDED, editing->eol);
	writer_init_yaml(ret_writer, &change->text, column, editing->eol);
	return change;
}

static void write_containers(const struct pod *pod, struct writer *writer)
{
	pod_write_proxy(pod, writer);
	pod_write_init(pod, writer);
}

static void write_volumes(const struct pod *pod, struct writer *writer)
{
	for (size_t i = 0; i < POD_VOLUMES; i++)
		if (pod_wants_volume(pod, i))
			pod_write_volume(pod, i, writer);
}

// The two lists that get items.
static const struct list {
	const char *key;
	void (*write)(const struct pod *pod, struct writer *writer);
} lists[] = {{"initContainers", write_containers}, {"volumes", write_volumes}};

static void write_list(const struct pod *pod, const struct list *list, struct writer *writer)
{
	writer_list(writer, list->key);
	list->write(pod, writer);
	writer_list_end(writer);
}

// Lists that are not there become the first keys of the pod's spec.
static int add_new_lists(struct editing *editing, const struct pod *pod)
{
	const struct node *key = pod->spec->first->key;
	struct writer writer;
	struct change *change = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		if (node_get(pod->spec, lists[i].key))
			continue;
		if (!change && !is_margin(editing, key->begin, false))
			return fail_at(key, editing->error, "weir cannot put lines before this one");
		if (!change)
			change = begin_insertion(editing, key, key->begin, &writer);
		if (!change)
			return -ENOMEM;
		write_list(pod, &lists[i], &writer);
	}
	if (change)
		add_mark(&change->text, key->column - 1, MARK_END, editing->eol);
	return 0;
}

// --- lines that give way ----------------------------------------------------------------------------------
static bool has_anchor(const struct node *node)
{
	const struct node *end = node;
	while (end && !end->next)
		end = end->parent;
	end = end ? end->next : NULL;
	for (; node && node != end; node = node_following(node))
		if (node->anchor.p || node->kind == NODE_ALIAS || (node->key && node->key->anchor.p))
			return true;
	return false;
}

static void keep_original(struct editing *editing, struct strbuf *out, size_t at, size_t end)
{
	struct str rest = {editing->tree.text.p + at, end - at};
	while (rest.len) {
		struct str line = take_line(&rest);
		strbuf_add_text(out, MARK_ORIGINAL);
		strbuf_add_str(out, line);
		if (!str_ends(line, STR("\n")))
			strbuf_add_text(out, editing->eol);
	}
}

// Begins to replace the lines of a key and its value; what is written to `ret_fresh` takes their place.
static int begin_replacement(struct editing *editing, const struct node *value, struct strbuf *ret_fresh,
			     struct writer *ret_writer)
{
	const struct node *key = value->key;
	if (value->parent->flow)
		return fail_at(key, editing->error,
			       "this stands in {...} or JSON, where weir can put no lines: write the mapping "
			       "around it in block style");
	if (!is_margin(editing, key->begin, true))
		return fail_at(key, editing->error, "weir cannot put lines in place of this one");
	if (has_anchor(value))
		return fail_at(key, editing->error,
			       "this has an anchor or alias, and weir has to replace it: write it out");
	writer_init_yaml(ret_writer, ret_fresh, key->column - 1, editing->eol);
	return 0;
}

// The new first line keeps what stood before the key: it may be a dash.
static void add_fresh(struct editing *editing, const struct node *key, struct strbuf *out,
		      const struct strbuf *fresh)
{
	size_t start = line_start(editing, key->begin), margin = key->begin - start;
	strbuf_add(out, editing->tree.text.p + start, margin);
	if (fresh->len > margin)
		strbuf_add(out, fresh->p + margin, fresh->len - margin);
	out->failed |= fresh->failed;
}

// Of what some readers of YAML take for the end of a line, so that it would end a comment, and weir does not:
// U+0085, U+2028, U+2029, and a carriage return alone.
static bool has_odd_line_end(struct str text)
{
	static const char *const ends[] = {"\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
	for (; text.len; text.p++, text.len--) {
		if (text.p[0] == '\r' && (text.len == 1 || text.p[1] != '\n'))
			return true;
		for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
			if (str_starts(text, str_from(ends[i])))
				return true;
	}
	return false;
}

static int end_replacement(struct editing *editing, const struct node *value, const struct strbuf *fresh)
{
	const struct node *key = value->key;
	size_t at = line_start(editing, key->begin), end = line_end(editing, node_end(value));
	bool fed = end && editing->tree.text.p[end - 1] == '\n';
	if (has_odd_line_end((struct str){editing->tree.text.p + at, end - at}))
		return fail_at(key, editing->error,
			       "this has a line separator of Unicode or a carriage return in it, which would "
			       "end a comment");
	struct change *change = add_change(editing, at, end);
	if (!change)
		return -ENOMEM;
	add_mark(&change->text, key->column - 1, MARK_REPLACED, editing->eol);
	keep_original(editing, &change->text, at, end);
	add_fresh(editing, key, &change->text, fresh);
	add_mark(&change->text, key->column - 1, MARK_END, fed ? editing->eol : "");
	return 0;
}

// --- one pod ----------------------------------------------------------------------------------------------
static int extend_list(struct editing *editing, const struct pod *pod, const struct list *list)
{
	const struct node *node = node_get(pod->spec, list->key);
	struct writer writer;
	autostrbuf struct strbuf fresh = {0};
	int err = node ? check_shared(editing, node) : 0;
	if (!node || err)
		return err;
	if (!node->count) {
		err = begin_replacement(editing, node, &fresh, &writer);
		if (err)
			return err;
		write_list(pod, list, &writer);
		return end_replacement(editing, node, &fresh);
	}
	if (node->flow || !is_margin(editing, node->begin, false))
		return fail_at(
		    node, editing->error,
		    "this list is written in [...] or JSON, where weir can put no lines: write it in "
		    "block style");
	struct change *change = begin_insertion(editing, node, node->begin, &writer);
	if (!change)
		return -ENOMEM;
	list->write(pod, &writer);
	add_mark(&change->text, node->column - 1, MARK_END, editing->eol);
	return 0;
}

// A probe in {...} is written anew as a whole, with all that it says beside the handler.
static int write_whole_probe(struct editing *editing, const struct pod *pod, const struct pod_probe *probe,
			     struct writer *writer)
{
	writer_map(writer, probe->probe->key->text.p);
	pod_write_handler(pod, probe, writer);
	for (const struct node *value = probe->probe->first; value; value = value->next) {
		if (value == probe->handler)
			continue;
		if (value->kind != NODE_SCALAR)
			return fail_at(value, editing->error, "weir does not know this part of a probe");
		if (value->plain)
			writer_raw(writer, value->key->text.p, value->text);
		else
			writer_str(writer, value->key->text.p, value->text);
	}
	writer_map_end(writer);
	return 0;
}

static int replace_probe(struct editing *editing, const struct pod *pod, const struct pod_probe *probe)
{
	const struct node *value = probe->probe->flow ? probe->probe : probe->handler;
	struct writer writer;
	autostrbuf struct strbuf fresh = {0};
	int err = check_shared(editing, value);
	if (!err)
		err = begin_replacement(editing, value, &fresh, &writer);
	if (err)
		return err;
	if (value == probe->handler)
		pod_write_handler(pod, probe, &writer);
	else
		err = write_whole_probe(editing, pod, probe, &writer);
	return err ? err : end_replacement(editing, value, &fresh);
}

static int edit_pod(struct editing *editing, const struct pod *pod)
{
	if (pod->spec->flow)
		return fail_at(
		    pod->spec, editing->error,
		    "this pod is written in JSON or {...}, where weir can put no lines: write it in "
		    "block style (kubectl prints it so with -o yaml), or let the webhook do it");
	int err = check_shared(editing, pod->spec);
	if (!err)
		err = add_new_lists(editing, pod);
	for (size_t i = 0; i < ARRAY_SIZE(lists) && !err; i++)
		err = extend_list(editing, pod, &lists[i]);
	for (size_t i = 0; i < pod->probe_count && !err; i++)
		err = replace_probe(editing, pod, &pod->probes[i]);
	editing->result->injected += !err;
	return err;
}

// --- objects ----------------------------------------------------------------------------------------------
static int edit_object(struct editing *editing, const struct node *object)
{
	struct pod pod;
	const struct node *template;
	int err = pod_template(object, &template, editing->error);
	if (err || !template)
		return err;
	err = pod_read(&editing->tree, template, editing->settings, &pod, editing->error);
	if (err)
		return err;
	if (!pod.skip)
		return edit_pod(editing, &pod);
	strbuf_printf(&editing->result->notes, "%u:%u: this pod is left alone: %s\n", pod.spec->line,
		      pod.spec->column, pod.skip);
	return 0;
}

// How deep lists stand in lists is bounded by the tree.
static int edit_objects(struct editing *editing, const struct node *object)
{
	const struct node *items;
	int err = pod_list(object, &items, editing->error);
	if (err || !items)
		return err ? err : edit_object(editing, object);
	for (const struct node *item = items->first; item && !err; item = item->next)
		err = edit_objects(editing, item);
	return err;
}

static int by_place(const void *a, const void *b)
{
	const struct change *one = a, *other = b;
	if (one->at != other->at)
		return one->at < other->at ? -1 : 1;
	return one->number < other->number ? -1 : 1;
}

static void apply_changes(struct editing *editing, struct strbuf *out)
{
	struct str text = editing->tree.text;
	size_t at = 0;
	if (editing->count)
		qsort(editing->changes, editing->count, sizeof *editing->changes, by_place);
	for (size_t i = 0; i < editing->count; i++) {
		struct change *change = &editing->changes[i];
		strbuf_add(out, text.p + at, change->at - at);
		strbuf_add_str(out, strbuf_str(&change->text));
		out->failed |= change->text.failed;
		at = change->end;
	}
	strbuf_add(out, text.p + at, text.len - at);
}

// Nothing leaves that could not be taken back: the result is valid, and without weir it is what it was.
static int prove(struct str original, const struct strbuf *text, struct strbuf *error)
{
	autostrbuf struct strbuf back = {0}, why = {0};
	if (text->failed)
		return -ENOMEM;
	int err = edit_uninject(strbuf_str(text), &back, &why);
	if (err == ERR_LIMIT)
		strbuf_add_text(
		    error,
		    "1:1: with weir in all of its pods this text is too long or too deep: write more files");
	else if (err)
		strbuf_add_str(error, strbuf_str(&why));
	if (err == 0 && !str_eq(strbuf_str(&back), original)) {
		strbuf_add_text(error, "1:1: weir cannot change this text in a way that it could take back");
		err = ERR_UNSUPPORTED;
	}
	return err;
}

static int edit_text(struct str text, const struct settings *settings, struct strbuf *ret_text,
		     struct edit_result *result, struct strbuf *error)
{
	struct editing editing = {.settings = settings, .result = result, .error = error};
	const char *feed = memchr(text.p, '\n', text.len);
	editing.eol = feed && feed > text.p && feed[-1] == '\r' ? "\r\n" : "\n";
	int err = tree_parse(&editing.tree, text, error);
	for (const struct node *document = editing.tree.first; document && !err; document = document->next)
		err = edit_objects(&editing, document);
	if (!err)
		apply_changes(&editing, ret_text);
	for (size_t i = 0; i < editing.count; i++)
		strbuf_done(&editing.changes[i].text);
	mem_free(editing.changes);
	tree_done(&editing.tree);
	return err ? err : prove(text, ret_text, error);
}

int edit_inject(struct str text, const struct settings *settings, struct strbuf *ret_text,
		struct edit_result *ret_result, struct strbuf *ret_error)
{
	autostrbuf struct strbuf original = {0};
	*ret_result = (struct edit_result){0};
	int err = edit_uninject(text, &original, ret_error);
	if (err)
		return err;
	err = edit_text(strbuf_str(&original), settings, ret_text, ret_result, ret_error);
	if (err && ret_error->len && original.len != text.len)
		strbuf_add_text(ret_error, " (lines are counted without those that weir had put in)");
	return err;
}
