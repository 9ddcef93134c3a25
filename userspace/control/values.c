// SPDX-License-Identifier: Apache-2.0
#include "control/values.h"

#include "base/command.h"
#include "base/error.h"
#include "base/mem.h"
#include "control/config.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>

const char *value_kind(enum key_type type)
{
	static const char *const kinds[] = {
	    [KEY_OBJECT] = "a mapping",
	    [KEY_LIST] = "a list",
	    [KEY_BOOL] = "true or false",
	    [KEY_UINT] = "a number",
	    [KEY_DURATION] = "a duration such as 250ms, 5s, 2m or 1h",
	    [KEY_CHOICE] = "one of the words it allows",
	    [KEY_TEXT] = "a text",
	    [KEY_NAME] = "a name",
	    [KEY_ADDR] = "an address with a port, such as 192.0.2.1:80 or [2001:db8::1]:80",
	    [KEY_RESOLVER] = "an address, with or without a port",
	    [KEY_IP] = "an address, such as 192.0.2.1 or 2001:db8::1",
	    [KEY_CIDR] = "a network such as 10.0.0.0/8, its host bits zero",
	    [KEY_PORTS] = "a port or a range such as 8000-8999",
	    [KEY_USERS] = "a user's name, a number or a range",
	    [KEY_GROUPS] = "a group's name, a number or a range",
	    [KEY_MARK] = "a mark such as 0x100, or 0x100/0xff00 with a mask",
	};
	return kinds[type];
}

static int parse_bool(struct str text, bool *ret_value)
{
	if (!str_eq(text, STR("true")) && !str_eq(text, STR("false")))
		return ERR_MALFORMED;
	*ret_value = text.p[0] == 't';
	return 0;
}

static int in_range(const struct key *key, uint64_t number, uint32_t *ret_value, struct strbuf *why)
{
	if (number < key->min || number > key->max) {
		strbuf_printf(why, "the range is %u to %u%s%s", key->min, key->max, key->unit ? " " : "",
			      key->type == KEY_DURATION ? " ms"
			      : key->unit		? key->unit
							: "");
		return -ERANGE;
	}
	*ret_value = (uint32_t)number;
	return 0;
}

static int parse_uint(const struct key *key, struct str text, uint32_t *ret_value, struct strbuf *why)
{
	uint64_t number;
	int err = str_to_u64(text, &number);
	if (err == ERR_MALFORMED)
		return err;
	return in_range(key, err ? UINT64_MAX : number, ret_value, why);
}

static int parse_duration(const struct key *key, struct str text, uint32_t *ret_ms, struct strbuf *why)
{
	uint64_t ms;
	int err = str_to_ms(text, &ms);
	if (err == ERR_MALFORMED)
		return err;
	return in_range(key, err ? UINT64_MAX : ms, ret_ms, why);
}

static int parse_choice(const struct key *key, struct str text, uint32_t *ret_index, struct strbuf *why)
{
	struct suggestion suggestion = suggest_for(text);
	for (uint32_t i = 0; key->choices[i]; i++) {
		if (str_eq(text, str_from(key->choices[i]))) {
			*ret_index = i;
			return 0;
		}
		suggest_consider(&suggestion, key->choices[i]);
	}
	if (suggestion.best) {
		strbuf_printf(why, "did you mean \"%s\"?", suggestion.best);
		return ERR_NOT_FOUND;
	}
	strbuf_add_text(why, "it is one of ");
	for (uint32_t i = 0; key->choices[i]; i++)
		strbuf_printf(why, "%s%s", i ? ", " : "", key->choices[i]);
	return ERR_NOT_FOUND;
}

static int keep_text(const struct key *key, struct str text, struct arena *arena, const char **ret_text,
		     struct strbuf *why)
{
	if (text.len < key->min || text.len > key->max) {
		strbuf_printf(why, "its length is %zu; it may be %u to %u bytes", text.len, key->min,
			      key->max);
		return -ERANGE;
	}
	if (text.len && memchr(text.p, 0, text.len)) {
		strbuf_add_text(why, "it contains a NUL byte");
		return ERR_MALFORMED;
	}
	*ret_text = arena_strdup(arena, text.p, text.len);
	return *ret_text ? 0 : -ENOMEM;
}

static int parse_text(const struct key *key, struct str text, struct arena *arena,
		      struct config_text *ret_text, struct strbuf *why)
{
	const char *copy = NULL;
	int err = keep_text(key, text, arena, &copy, why);
	if (!err)
		ret_text->text = (struct str){copy, text.len};
	return err;
}

static int parse_resolver(struct str text, struct addr *ret_addr)
{
	struct addr addr = {.port = 53};
	int err = ip_parse(text, &addr.ip);
	if (err)
		return addr_parse(text, ret_addr);
	*ret_addr = addr;
	return 0;
}

static int parse_range(struct str text, uint64_t largest, uint64_t *ret_first, uint64_t *ret_last)
{
	struct str rest = text, first = str_split(&rest, '-');
	int err = str_to_u64(first, ret_first);
	*ret_last = *ret_first;
	if (!err && rest.p)
		err = str_to_u64(rest, ret_last);
	return err ? err : *ret_first > *ret_last || *ret_last > largest ? ERR_MALFORMED : 0;
}

static int parse_ports(struct str text, struct port_range *ret_range)
{
	uint64_t first = 0, last = 0;
	int err = parse_range(text, 65535, &first, &last);
	if (!err && first == 0)
		err = ERR_MALFORMED;
	if (!err)
		*ret_range = (struct port_range){(uint16_t)first, (uint16_t)last};
	return err;
}

static int parse_ids(struct str text, bool users, struct id_range *ret_range, struct strbuf *why)
{
	uint64_t first = 0, last = 0;
	char name[64];
	if (parse_range(text, UINT32_MAX - 1, &first, &last) == 0) {
		*ret_range = (struct id_range){(uint32_t)first, (uint32_t)last};
		return 0;
	}
	snprintf(name, sizeof name, "%.*s", (int)MIN(text.len, sizeof name - 1), text.p);
	const struct passwd *user = users ? getpwnam(name) : NULL;
	const struct group *group = users ? NULL : getgrnam(name);
	if (!user && !group) {
		strbuf_printf(why, "there is no %s of that name, and it is no number or range",
			      users ? "user" : "group");
		return ERR_NOT_FOUND;
	}
	uint32_t id = user ? user->pw_uid : group->gr_gid;
	*ret_range = (struct id_range){id, id};
	return 0;
}

static int parse_number(struct str text, uint32_t *ret_number)
{
	char copy[16], *end;
	if (text.len == 0 || text.len >= sizeof copy || text.p[0] < '0' || text.p[0] > '9')
		return ERR_MALFORMED;
	memcpy(copy, text.p, text.len);
	copy[text.len] = 0;
	unsigned long long number = strtoull(copy, &end, 0);
	if (*end || number > UINT32_MAX)
		return ERR_MALFORMED;
	*ret_number = (uint32_t)number;
	return 0;
}

static int parse_mark(struct str text, struct mark_match *ret_mark)
{
	struct mark_match mark = {.mask = UINT32_MAX};
	struct str rest = text, value = str_split(&rest, '/');
	int err = parse_number(value, &mark.value);
	if (!err && rest.p)
		err = parse_number(rest, &mark.mask);
	if (!err && (!mark.mask || (mark.value & ~mark.mask)))
		err = ERR_MALFORMED;
	if (!err)
		*ret_mark = mark;
	return err;
}

int value_parse(const struct key *key, struct str text, struct arena *arena, void *ret_value,
		struct strbuf *why)
{
	int err = ERR_UNSUPPORTED;
	switch (key->type) {
	case KEY_BOOL:
		err = parse_bool(text, ret_value);
		break;
	case KEY_UINT:
		err = parse_uint(key, text, ret_value, why);
		break;
	case KEY_DURATION:
		err = parse_duration(key, text, ret_value, why);
		break;
	case KEY_CHOICE:
		err = parse_choice(key, text, ret_value, why);
		break;
	case KEY_TEXT:
		err = parse_text(key, text, arena, ret_value, why);
		break;
	case KEY_NAME:
		err = keep_text(key, text, arena, ret_value, why);
		break;
	case KEY_ADDR:
		err = addr_parse(text, ret_value);
		break;
	case KEY_RESOLVER:
		err = parse_resolver(text, ret_value);
		break;
	case KEY_IP:
		err = ip_parse(text, ret_value);
		break;
	case KEY_CIDR:
		err = cidr_parse(text, ret_value);
		break;
	case KEY_PORTS:
		err = parse_ports(text, ret_value);
		break;
	case KEY_USERS:
	case KEY_GROUPS:
		err = parse_ids(text, key->type == KEY_USERS, ret_value, why);
		break;
	case KEY_MARK:
		err = parse_mark(text, ret_value);
		break;
	case KEY_OBJECT:
	case KEY_LIST:
		break;
	}
	if (err && !why->len)
		strbuf_printf(why, "expected %s", value_kind(key->type));
	return err;
}

// --- and back -----------------------------------------------------------------------------------------------
static void show_range(uint32_t first, uint32_t last, struct emit *emit, const char *name)
{
	char text[32];
	if (first == last) {
		emit_uint(emit, name, first);
		return;
	}
	snprintf(text, sizeof text, "%u-%u", first, last);
	emit_text(emit, name, text);
}

static void show_duration(uint32_t ms, struct emit *emit, const char *name)
{
	char text[32];
	if (ms % 1000)
		snprintf(text, sizeof text, "%ums", ms);
	else
		snprintf(text, sizeof text, "%us", ms / 1000);
	emit_text(emit, name, text);
}

static void show_address(const struct addr *addr, struct emit *emit, const char *name)
{
	char text[ADDR_TEXT_MAX];
	if (addr->ip.family)
		emit_text(emit, name, addr_format(addr, text));
}

static void show_text(struct str text, struct emit *emit, const char *name)
{
	if (text.len)
		emit_str(emit, name, text);
}

void value_show(const struct key *key, const void *value, struct emit *emit, const char *name)
{
	char text[ADDR_TEXT_MAX];
	const struct port_range *ports = value;
	const struct id_range *ids = value;
	const struct mark_match *mark = value;
	switch (key->type) {
	case KEY_BOOL:
		emit_bool(emit, name, *(const bool *)value);
		break;
	case KEY_UINT:
		emit_uint(emit, name, *(const uint32_t *)value);
		break;
	case KEY_DURATION:
		show_duration(*(const uint32_t *)value, emit, name);
		break;
	case KEY_CHOICE:
		emit_text(emit, name, key->choices[*(const uint32_t *)value]);
		break;
	case KEY_TEXT:
		show_text(((const struct config_text *)value)->text, emit, name);
		break;
	case KEY_NAME:
		emit_text(emit, name, *(const char *const *)value);
		break;
	case KEY_ADDR:
	case KEY_RESOLVER:
		show_address(value, emit, name);
		break;
	case KEY_IP:
		if (((const struct ip *)value)->family)
			emit_text(emit, name, ip_format(value, text));
		break;
	case KEY_CIDR:
		emit_text(emit, name, cidr_format(value, text));
		break;
	case KEY_PORTS:
		show_range(ports->first, ports->last, emit, name);
		break;
	case KEY_USERS:
	case KEY_GROUPS:
		show_range(ids->first, ids->last, emit, name);
		break;
	case KEY_MARK:
		snprintf(text, sizeof text, "0x%x/0x%x", mark->value, mark->mask);
		emit_text(emit, name, text);
		break;
	case KEY_OBJECT:
	case KEY_LIST:
		break;
	}
}
