// SPDX-License-Identifier: Apache-2.0
#include "intercept/options.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>

// Bytes of a value that an error repeats.
enum { QUOTED_MAX = 64 };

static const struct plan_option {
	const char *name;
	enum plan_option_kind kind;
	size_t offset;
	const char *words; // of a choice
} options[] = {
#define ROW(name, kind, field, value, help) {name, kind, offsetof(struct capture_plan, field), value},
    PLAN_OPTIONS(ROW)
#undef ROW
};

// Lists lie in the plan as a pointer and a count behind it.
struct list {
	void *items;
	size_t count;
};
#define ASSERT_LIST(type, first, second)                                                                     \
	_Static_assert(offsetof(struct type, second) ==                                                      \
			   offsetof(struct type, first) + offsetof(struct list, count),                      \
		       "a pointer and a count")
ASSERT_LIST(capture_ports, ranges, count);
ASSERT_LIST(capture_cidrs, cidrs, count);
ASSERT_LIST(capture_ids, ranges, count);
ASSERT_LIST(capture_interfaces, names, count);
ASSERT_LIST(capture_cgroups, names, count);
ASSERT_LIST(capture_dns, servers, server_count);
ASSERT_LIST(capture_marks, matches, count);
ASSERT_LIST(capture_plan, vips, vip_count);

struct setting {
	struct plan_builder *builder;
	const struct plan_option *option;
	struct strbuf *error;
};

void plan_builder_init(struct plan_builder *ret_builder)
{
	*ret_builder = (struct plan_builder){0};
	capture_plan_init(&ret_builder->plan);
}

void plan_builder_done(struct plan_builder *builder)
{
	for (size_t i = 0; i < builder->_block_count; i++)
		mem_free(builder->_blocks[i]);
	mem_free(builder->_blocks);
	*builder = (struct plan_builder){0};
}

// The builder frees the block from now on; on failure it is freed at once.
static int keep(struct plan_builder *builder, void *block)
{
	int err = block ? mem_grow((void **)&builder->_blocks, &builder->_block_cap,
				   builder->_block_count + 1, sizeof *builder->_blocks)
			: -ENOMEM;
	if (err)
		mem_free(block);
	else
		builder->_blocks[builder->_block_count++] = block;
	return err;
}

static int refuse(const struct setting *setting, struct str value, const char *why)
{
	bool cut = value.len > QUOTED_MAX;
	strbuf_printf(setting->error, "%s: '%.*s'%s %s", setting->option->name,
		      cut ? QUOTED_MAX : (int)value.len, value.p, cut ? "..." : "", why);
	return ERR_CONFIG;
}

// --- single values -----------------------------------------------------------------------------------------
static int parse_number(struct str text, uint64_t highest, uint64_t *ret_number)
{
	uint64_t number = 0;
	int err = 0;
	if (str_starts(text, STR("0x")) && text.len > 2 && text.len <= 18) {
		for (size_t i = 2; i < text.len && !err; i++) {
			const char *digits = "0123456789abcdef", *at = strchr(digits, ascii_lower(text.p[i]));
			err = text.p[i] && at ? 0 : ERR_MALFORMED;
			number = err ? 0 : number << 4 | (uint64_t)(at - digits);
		}
	} else {
		err = str_to_u64(text, &number);
	}
	if (err == 0 && number > highest)
		err = -ERANGE;
	if (err == 0)
		*ret_number = number;
	return err;
}

// "a" or "a-b".
static int parse_range(struct str text, uint64_t highest, uint64_t *ret_first, uint64_t *ret_last)
{
	struct str rest = text, first = str_split(&rest, '-');
	uint64_t a, b;
	int err = parse_number(first, highest, &a);
	b = a;
	if (err == 0 && rest.p)
		err = parse_number(rest, highest, &b);
	if (err)
		return err;
	*ret_first = a;
	*ret_last = b;
	return 0;
}

static int find_user(const char *name, uint32_t *ret_id)
{
	const struct passwd *user = getpwnam(name);
	if (user)
		*ret_id = user->pw_uid;
	return user ? 0 : ERR_NOT_FOUND;
}

static int find_group(const char *name, uint32_t *ret_id)
{
	const struct group *group = getgrnam(name);
	if (group)
		*ret_id = group->gr_gid;
	return group ? 0 : ERR_NOT_FOUND;
}

static int parse_id_name(struct str text, bool is_group, uint32_t *ret_id)
{
	autofree char *name = mem_strndup(text.p, text.len);
	if (!name)
		return -ENOMEM;
	return is_group ? find_group(name, ret_id) : find_user(name, ret_id);
}

static int parse_ids(struct str text, bool is_group, struct id_range *ret_range)
{
	uint64_t first, last;
	uint32_t id;
	if (parse_range(text, UINT32_MAX - 1, &first, &last) == 0) {
		*ret_range = (struct id_range){(uint32_t)first, (uint32_t)last};
		return 0;
	}
	int err = parse_id_name(text, is_group, &id);
	if (err == 0)
		*ret_range = (struct id_range){id, id};
	return err;
}

// --- elements of lists -------------------------------------------------------------------------------------
static int take_port(const struct setting *setting, struct str text, void *ret_item)
{
	uint64_t first, last;
	if (parse_range(text, UINT16_MAX, &first, &last))
		return refuse(setting, text, "is no port or range of ports (a-b)");
	*(struct port_range *)ret_item = (struct port_range){(uint16_t)first, (uint16_t)last};
	return 0;
}

static int take_cidr(const struct setting *setting, struct str text, void *ret_item)
{
	return cidr_parse(text, ret_item) ? refuse(setting, text, "is no network (10.0.0.0/8, fd00::/8)") : 0;
}

static int take_address(const struct setting *setting, struct str text, void *ret_item)
{
	return ip_parse(text, ret_item) ? refuse(setting, text, "is no IP address") : 0;
}

static int take_name(const struct setting *setting, struct str text, void *ret_item)
{
	char *name = mem_strndup(text.p, text.len);
	int err = keep(setting->builder, name);
	if (err == 0)
		*(const char **)ret_item = name;
	return err;
}

static int take_user(const struct setting *setting, struct str text, void *ret_item)
{
	return parse_ids(text, false, ret_item) ? refuse(setting, text, "is no user here, number or range")
						: 0;
}

static int take_group(const struct setting *setting, struct str text, void *ret_item)
{
	return parse_ids(text, true, ret_item) ? refuse(setting, text, "is no group here, number or range")
					       : 0;
}

static int take_mark(const struct setting *setting, struct str text, void *ret_item)
{
	struct str rest = text, first = str_split(&rest, '/');
	uint64_t value, mask = UINT32_MAX;
	if (parse_number(first, UINT32_MAX, &value) || (rest.p && parse_number(rest, UINT32_MAX, &mask)))
		return refuse(setting, text, "is no mark (VALUE or VALUE/MASK)");
	*(struct mark_match *)ret_item = (struct mark_match){(uint32_t)value, (uint32_t)mask};
	return 0;
}

static const struct list_kind {
	size_t size;
	int (*take)(const struct setting *setting, struct str text, void *ret_item);
} list_kinds[] = {
    [PLAN_PORTS] = {sizeof(struct port_range), take_port},
    [PLAN_CIDRS] = {sizeof(struct cidr), take_cidr},
    [PLAN_ADDRESSES] = {sizeof(struct ip), take_address},
    [PLAN_INTERFACES] = {sizeof(const char *), take_name},
    [PLAN_USERS] = {sizeof(struct id_range), take_user},
    [PLAN_GROUPS] = {sizeof(struct id_range), take_group},
    [PLAN_MARKS] = {sizeof(struct mark_match), take_mark},
    [PLAN_CGROUPS] = {sizeof(const char *), take_name},
};

static size_t count_pieces(struct str value)
{
	size_t count = 1;
	for (size_t i = 0; i < value.len; i++)
		count += value.p[i] == ',';
	return count;
}

// A new array with the old elements and the new ones; the plan points to it from now on.
static int set_list(const struct setting *setting, struct str value)
{
	const struct list_kind *kind = &list_kinds[setting->option->kind];
	struct list *list = (struct list *)((char *)&setting->builder->plan + setting->option->offset);
	size_t count = list->count;
	char *items = mem_array(count + count_pieces(value), kind->size);
	int err = keep(setting->builder, items);
	if (err)
		return err;
	if (count)
		memcpy(items, list->items, count * kind->size);
	while (value.p && err == 0) {
		struct str piece = str_trim(str_split(&value, ','));
		err = kind->take(setting, piece, items + count++ * kind->size);
	}
	if (err == 0)
		*list = (struct list){items, count};
	return err;
}

// --- setting -----------------------------------------------------------------------------------------------
static int set_number(const struct setting *setting, struct str value)
{
	bool port = setting->option->kind == PLAN_PORT;
	void *field = (char *)&setting->builder->plan + setting->option->offset;
	uint64_t number;
	if (parse_number(value, port ? UINT16_MAX : UINT32_MAX, &number) || (port && !number))
		return refuse(setting, value, port ? "is no port" : "is no number of 32 bits");
	if (port)
		*(uint16_t *)field = (uint16_t)number;
	else
		*(uint32_t *)field = (uint32_t)number;
	return 0;
}

static int set_duration(const struct setting *setting, struct str value)
{
	uint64_t ms;
	if (str_to_ms(value, &ms) || ms > UINT32_MAX)
		return refuse(setting, value, "is no duration such as 500ms, 5s or 2m");
	*(uint32_t *)((char *)&setting->builder->plan + setting->option->offset) = (uint32_t)ms;
	return 0;
}

static int set_choice(const struct setting *setting, struct str value)
{
	struct str rest = str_from(setting->option->words);
	for (uint32_t number = 0; rest.p; number++) {
		if (!str_eq(str_split(&rest, '|'), value))
			continue;
		*(uint32_t *)((char *)&setting->builder->plan + setting->option->offset) = number;
		return 0;
	}
	return refuse(setting, value, "is none of its words");
}

static int set_proxy(const struct setting *setting, struct str value)
{
	struct capture_plan *plan = &setting->builder->plan;
	bool is_group = setting->option->kind == PLAN_GROUP;
	struct id_range range;
	if (parse_ids(value, is_group, &range) || range.first != range.last)
		return refuse(setting, value, is_group ? "is no group here" : "is no user here");
	*(is_group ? &plan->proxy_gid : &plan->proxy_uid) = range.first;
	*(is_group ? &plan->has_proxy_gid : &plan->has_proxy_uid) = true;
	return 0;
}

static int set_option(const struct setting *setting, struct str value)
{
	switch (setting->option->kind) {
	case PLAN_ON:
	case PLAN_OFF:
		*(bool *)((char *)&setting->builder->plan + setting->option->offset) =
		    setting->option->kind == PLAN_ON;
		return 0;
	case PLAN_CHOICE:
		return set_choice(setting, value);
	case PLAN_PORT:
	case PLAN_NUMBER:
		return set_number(setting, value);
	case PLAN_DURATION:
		return set_duration(setting, value);
	case PLAN_USER:
	case PLAN_GROUP:
		return set_proxy(setting, value);
	default:
		return set_list(setting, value);
	}
}

int plan_builder_set(struct plan_builder *builder, const char *name, struct str value,
		     struct strbuf *ret_error)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		struct setting setting = {builder, &options[i], ret_error};
		if (strcmp(options[i].name, name) == 0)
			return set_option(&setting, value);
	}
	return ERR_NOT_FOUND;
}
