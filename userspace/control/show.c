// SPDX-License-Identifier: Apache-2.0
// The table of keys read the other way: what is in force, the JSON Schema, the reference page, the capture
// plan.
#include "control/config.h"

#include "base/mem.h"
#include "control/keys.h"
#include "control/values.h"

// --- what is in force ---------------------------------------------------------------------------------------
static void show_key(const struct key *key, const void *base, struct emit *emit, const char *name);

static void show_keys(const struct key *object, const void *base, struct emit *emit)
{
	for (const struct key *child = object->keys; child->name; child++)
		show_key(child, base, emit, child->name);
}

static void show_list(const struct key *key, const struct config_list *list, struct emit *emit,
		      const char *name)
{
	bool objects = key->item->type == KEY_OBJECT;
	if (objects)
		emit_table_begin(emit, name);
	else
		emit_list_begin(emit, name);
	for (size_t i = 0; i < list->count; i++) {
		const char *item = (const char *)list->items + i * key->item_size;
		if (objects)
			emit_row_begin(emit);
		show_key(key->item, item, emit, NULL);
		if (objects)
			emit_row_end(emit);
	}
	if (objects)
		emit_table_end(emit);
	else
		emit_list_end(emit);
}

static void show_key(const struct key *key, const void *base, struct emit *emit, const char *name)
{
	const char *at = (const char *)base + key->offset;
	if (key->type == KEY_OBJECT && name)
		emit_record_begin(emit, name);
	if (key->type == KEY_OBJECT)
		show_keys(key, base, emit);
	else if (key->type == KEY_LIST)
		show_list(key, (const struct config_list *)at, emit, name);
	else
		value_show(key, at, emit, name);
	if (key->type == KEY_OBJECT && name)
		emit_record_end(emit);
}

void config_show(const struct config *config, struct emit *emit)
{
	show_keys(&config_root, config, emit);
}

// --- what waits for the next start --------------------------------------------------------------------------
static bool same_value(const struct key *key, const struct config *old, const struct config *now)
{
	struct strbuf texts[2] = {{0}, {0}};
	const struct config *sides[2] = {old, now};
	for (int i = 0; i < 2; i++) {
		struct emit emit;
		emit_init(&emit, &texts[i], EMIT_JSON);
		show_key(key, sides[i], &emit, key->name);
		emit_done(&emit);
	}
	bool same = str_eq(strbuf_str(&texts[0]), strbuf_str(&texts[1]));
	strbuf_done(&texts[0]);
	strbuf_done(&texts[1]);
	return same;
}

static void restart_keys(const struct key *object, const char *path, const struct config *old,
			 const struct config *now, struct strbuf *out)
{
	for (const struct key *key = object->keys; key->name; key++) {
		autostrbuf struct strbuf below = {0};
		strbuf_printf(&below, "%s%s%s", path, *path ? "." : "", key->name);
		if (key->restart && !same_value(key, old, now))
			strbuf_printf(out, "%s%s", out->len ? ", " : "", below.p ? below.p : key->name);
		else if (key->type == KEY_OBJECT)
			restart_keys(key, below.p ? below.p : "", old, now, out);
	}
}

void config_restart_keys(const struct config *old, const struct config *now, struct strbuf *out)
{
	restart_keys(&config_root, "", old, now, out);
}

// --- JSON Schema --------------------------------------------------------------------------------------------
static void schema_key(const struct key *key, struct json *json);

static void schema_object(const struct key *key, struct json *json)
{
	json_text(json, "type", "object");
	json_bool(json, "additionalProperties", false);
	json_open_object(json, "properties");
	for (const struct key *child = key->keys; child->name; child++) {
		json_open_object(json, child->name);
		schema_key(child, json);
		json_close_object(json);
	}
	json_close_object(json);
	json_open_array(json, "required");
	for (const struct key *child = key->keys; child->name; child++)
		if (child->required)
			json_text(json, NULL, child->name);
	json_close_array(json);
}

static void schema_default_list(const struct key *key, struct json *json)
{
	struct str rest = str_from(key->initial);
	json_open_array(json, "default");
	while (rest.p)
		json_str(json, NULL, str_split(&rest, ' '));
	json_close_array(json);
}

static void schema_array(const struct key *key, struct json *json)
{
	json_text(json, "type", "array");
	json_uint(json, "maxItems", key->items_max);
	json_open_object(json, "items");
	schema_key(key->item, json);
	json_close_object(json);
}

// A list of resolvers may also be the word "auto", and some a single element, as the reader has it.
static void schema_list(const struct key *key, struct json *json)
{
	bool resolvers = key->item->type == KEY_RESOLVER;
	if (resolvers || key->single) {
		json_open_array(json, "anyOf");
		json_open_object(json, NULL);
		if (resolvers)
			json_text(json, "const", "auto");
		else
			schema_key(key->item, json);
		json_close_object(json);
		json_open_object(json, NULL);
		schema_array(key, json);
		json_close_object(json);
		json_close_array(json);
	} else {
		schema_array(key, json);
	}
	if (key->initial)
		schema_default_list(key, json);
}

static void schema_types(struct json *json, const char *first, const char *second)
{
	json_open_array(json, "type");
	json_text(json, NULL, first);
	json_text(json, NULL, second);
	json_close_array(json);
}

static void schema_default(const struct key *key, struct json *json)
{
	uint64_t number;
	if (!key->initial)
		return;
	if (key->type == KEY_BOOL)
		json_bool(json, "default", strcmp(key->initial, "true") == 0);
	else if (key->type == KEY_UINT && str_to_u64(str_from(key->initial), &number) == 0)
		json_uint(json, "default", number);
	else
		json_text(json, "default", key->initial);
}

static void schema_scalar(const struct key *key, struct json *json)
{
	switch (key->type) {
	case KEY_BOOL:
		json_text(json, "type", "boolean");
		break;
	case KEY_UINT:
		json_text(json, "type", "integer");
		json_uint(json, "minimum", key->min);
		json_uint(json, "maximum", key->max);
		break;
	case KEY_DURATION:
		json_text(json, "type", "string");
		json_text(json, "pattern", "^[0-9]+(ms|s|m|h|d)$");
		break;
	case KEY_CHOICE:
		json_open_array(json, "enum");
		for (uint32_t i = 0; key->choices[i]; i++)
			json_text(json, NULL, key->choices[i]);
		json_close_array(json);
		break;
	case KEY_PORTS:
	case KEY_USERS:
	case KEY_GROUPS:
	case KEY_MARK:
		schema_types(json, "integer", "string");
		break;
	default:
		json_text(json, "type", "string");
		if (key->type == KEY_TEXT || key->type == KEY_NAME) {
			json_uint(json, "minLength", key->min);
			json_uint(json, "maxLength", key->max);
		}
		break;
	}
	schema_default(key, json);
}

static void schema_key(const struct key *key, struct json *json)
{
	if (key->text)
		json_text(json, "description", key->text);
	if (key->type == KEY_OBJECT)
		schema_object(key, json);
	else if (key->type == KEY_LIST)
		schema_list(key, json);
	else
		schema_scalar(key, json);
}

void config_schema(struct json *json)
{
	json_open_object(json, NULL);
	json_text(json, "$schema", "https://json-schema.org/draft/2020-12/schema");
	json_text(json, "title", "weir");
	schema_key(&config_root, json);
	json_close_object(json);
}

// --- reference ----------------------------------------------------------------------------------------------
static void reference_range(const struct key *key, struct strbuf *out)
{
	if (key->type == KEY_UINT)
		strbuf_printf(out, "%u to %u%s%s", key->min, key->max, key->unit ? " " : "",
			      key->unit ? key->unit : "");
	else if (key->type == KEY_CHOICE)
		for (uint32_t i = 0; key->choices[i]; i++)
			strbuf_printf(out, "%s`%s`", i ? ", " : "", key->choices[i]);
	else if (key->type == KEY_LIST)
		strbuf_printf(out, "%slist of %s", key->single ? "one, or a " : "",
			      key->item->type == KEY_OBJECT ? key->item->name : value_kind(key->item->type));
	else if (key->type == KEY_OBJECT)
		strbuf_add_text(out, "section");
	else
		strbuf_add_text(out, value_kind(key->type));
}

static void reference_row(const struct key *key, struct strbuf *out)
{
	strbuf_printf(out, "| `%s` | ", key->name);
	reference_range(key, out);
	strbuf_printf(out, " | %s%s%s | %s%s |\n", key->initial ? "`" : "",
		      key->initial    ? key->initial
		      : key->required ? "required"
				      : "",
		      key->initial ? "`" : "", key->text, key->restart ? " *(start)*" : "");
}

static void reference_object(const struct key *object, const char *path, struct strbuf *out)
{
	strbuf_printf(out, "\n## %s\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n",
		      path);
	for (const struct key *key = object->keys; key->name; key++)
		reference_row(key, out);
	for (const struct key *key = object->keys; key->name; key++) {
		autostrbuf struct strbuf below = {0};
		bool list = key->type == KEY_LIST && key->item->type == KEY_OBJECT;
		strbuf_printf(&below, "%s%s%s%s", object == &config_root ? "" : path,
			      object == &config_root ? "" : ".", key->name, list ? "[]" : "");
		if (key->type == KEY_OBJECT || list)
			reference_object(list ? key->item : key, below.p ? below.p : "", out);
	}
}

void config_reference(struct strbuf *out)
{
	strbuf_add_text(out,
			"# Configuration\n\n"
			"One file, YAML or JSON. `weir config check FILE` says what is wrong with one, "
			"`weir config schema`\n"
			"prints its JSON Schema, and `weir config reload` (or SIGHUP) applies a change "
			"without dropping a\n"
			"connection. A key whose meaning ends in *(start)* is read at the start only. A file "
			"with nothing in it is an\n"
			"error, so that one that is just being written does no harm; `{}` stands for all "
			"defaults.\n"
			"This page is printed by `weir config reference`.\n");
	reference_object(&config_root, "Top level", out);
}

// --- capture plan -------------------------------------------------------------------------------------------
static struct capture_direction capture_direction(const struct config_capture_direction *from)
{
	return (struct capture_direction){
	    .enabled = from->enabled,
	    .include_ports = {from->include_ports.items, from->include_ports.count},
	    .exclude_ports = {from->exclude_ports.items, from->exclude_ports.count},
	    .include_cidrs = {from->include_cidrs.items, from->include_cidrs.count},
	    .exclude_cidrs = {from->exclude_cidrs.items, from->exclude_cidrs.count},
	    .include_interfaces = {from->include_interfaces.items, from->include_interfaces.count},
	    .exclude_interfaces = {from->exclude_interfaces.items, from->exclude_interfaces.count},
	};
}

void config_capture_plan(const struct config *config, struct capture_plan *ret_plan)
{
	const struct config_capture *capture = &config->intercept.capture;
	capture_plan_init(ret_plan);
	ret_plan->ipv4 = capture->ipv4;
	ret_plan->ipv6 = capture->ipv6;
	ret_plan->inbound_mode = capture->inbound_mode;
	ret_plan->inbound_source = capture->inbound_source;
	ret_plan->fail = capture->fail;
	ret_plan->hold_ms = capture->hold_ms;
	ret_plan->outbound_port = (uint16_t)config->intercept.outbound;
	ret_plan->inbound_port = (uint16_t)config->intercept.inbound;
	ret_plan->dns_port = (uint16_t)config->intercept.dns;
	ret_plan->outbound = capture_direction(&capture->outbound);
	ret_plan->inbound = capture_direction(&capture->inbound);
	ret_plan->capture_ssh = capture->ssh;
	ret_plan->capture_metadata = capture->metadata;
	ret_plan->dns = (struct capture_dns){capture->dns && config->intercept.dns,
					     capture->dns_servers.items, capture->dns_servers.count};
	ret_plan->include_users =
	    (struct capture_ids){capture->include_users.items, capture->include_users.count};
	ret_plan->exclude_users =
	    (struct capture_ids){capture->exclude_users.items, capture->exclude_users.count};
	ret_plan->include_groups =
	    (struct capture_ids){capture->include_groups.items, capture->include_groups.count};
	ret_plan->exclude_groups =
	    (struct capture_ids){capture->exclude_groups.items, capture->exclude_groups.count};
	ret_plan->include_cgroups =
	    (struct capture_cgroups){capture->include_cgroups.items, capture->include_cgroups.count};
	ret_plan->exclude_cgroups =
	    (struct capture_cgroups){capture->exclude_cgroups.items, capture->exclude_cgroups.count};
	ret_plan->include_marks =
	    (struct capture_marks){capture->include_marks.items, capture->include_marks.count};
	ret_plan->exclude_marks =
	    (struct capture_marks){capture->exclude_marks.items, capture->exclude_marks.count};
	ret_plan->vips = config->dns.vips.items;
	ret_plan->vip_count = config->dns.vips.count;
}

struct str config_backend(const struct config *config)
{
	return str_from(config_backends[config->intercept.capture.backend]);
}
