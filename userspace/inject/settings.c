// SPDX-License-Identifier: Apache-2.0
#include "inject/settings.h"

#include "base/command.h"
#include "base/error.h"
#include "base/mem.h"
#include "intercept/options.h"

const struct setting_row setting_rows[SETTING_COUNT] = {
#define ROW(id, name, kind, initial, value, help) {name, kind, initial, value, help},
    INJECT_SETTINGS(ROW)
#undef ROW
};

enum { NAME_MAX_BYTES = 253, IMAGE_MAX_BYTES = 512, QUOTED_MAX = 64 };

void settings_init(struct settings *ret_settings)
{
	for (size_t i = 0; i < SETTING_COUNT; i++)
		ret_settings->values[i] = str_from(setting_rows[i].initial);
}

// --- values -----------------------------------------------------------------------------------------------
static bool consists_of(struct str text, const char *others, bool upper)
{
	for (size_t i = 0; i < text.len; i++) {
		char c = text.p[i];
		bool letter = (c >= 'a' && c <= 'z') || (upper && c >= 'A' && c <= 'Z');
		if (!letter && !(c >= '0' && c <= '9') && !(c && strchr(others, c)))
			return false;
	}
	return text.len > 0;
}

static bool is_alphanumeric(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_name(struct str text)
{
	return text.len <= NAME_MAX_BYTES && consists_of(text, "-.", false) && is_alphanumeric(text.p[0]) &&
	       is_alphanumeric(text.p[text.len - 1]);
}

// Each of a reference's parts begins with a letter or a digit (a tag may begin with an underscore).
static bool is_image(struct str text)
{
	if (text.len > IMAGE_MAX_BYTES || !consists_of(text, "-._/:@", true))
		return false;
	for (size_t i = 0; i < text.len; i++) {
		bool begins = i == 0 || strchr("/:@", text.p[i - 1]);
		if (begins && strchr("-./:@", text.p[i]))
			return false;
	}
	return !strchr("/:@", text.p[text.len - 1]);
}

// Billionths, of what is smaller than one unit, too: 15 digits before the point and 9 behind it fit in.
__extension__ typedef unsigned __int128 amount;

static bool read_digits(struct str text, size_t most, amount *ret_number)
{
	amount number = 0;
	if (text.len > most)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.p[i] < '0' || text.p[i] > '9')
			return false;
		number = number * 10 + (amount)(text.p[i] - '0');
	}
	*ret_number = number;
	return true;
}

static bool read_quantity(struct str text, amount *ret_amount)
{
	static const struct {
		const char *text;
		uint64_t thousandths;
	} suffixes[] = {{"m", 1},
			{"k", 1000000},
			{"M", 1000000000},
			{"G", 1000000000000},
			{"Ki", 1000ull << 10},
			{"Mi", 1000ull << 20},
			{"Gi", 1000ull << 30}};
	uint64_t thousandths = 1000;
	amount whole = 0, part = 0;
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++)
		if (str_ends(text, str_from(suffixes[i].text))) {
			thousandths = suffixes[i].thousandths;
			text.len -= strlen(suffixes[i].text);
			break;
		}
	struct str behind = text, before = str_split(&behind, '.');
	if (!before.len || !read_digits(before, 15, &whole) || (behind.p && !read_digits(behind, 9, &part)))
		return false;
	for (size_t i = behind.len; i < 9; i++)
		part *= 10;
	*ret_amount = (whole * 1000000000 + part) * thousandths;
	return true;
}

static bool is_number(struct str text, uint64_t highest)
{
	uint64_t number;
	return str_to_u64(text, &number) == 0 && number >= 1 && number <= highest;
}

static bool is_choice(struct str text, const char *words)
{
	const struct command_param param = {.value = words};
	return text.len && command_param_accepts(&param, text);
}

static int check_plan(const char *name, struct str value, struct strbuf *ret_error)
{
	struct plan_builder builder;
	plan_builder_init(&builder);
	int err = plan_builder_set(&builder, name, value, ret_error);
	plan_builder_done(&builder);
	return err;
}

static bool is_valid(const struct setting_row *row, struct str value)
{
	amount ignored;
	switch (row->kind) {
	case VALUE_BOOL:
	case VALUE_CHOICE:
		return is_choice(value, row->value);
	case VALUE_IMAGE:
		return is_image(value);
	case VALUE_NAME:
		return is_name(value);
	case VALUE_USER:
		return is_number(value, INT32_MAX);
	case VALUE_PORT:
		return is_number(value, UINT16_MAX);
	case VALUE_QUANTITY:
		return read_quantity(value, &ignored);
	case VALUE_PLAN:
		return str_find(value, ' ') < 0; // it becomes a word among words
	}
	return true;
}

static int unknown(struct str name, struct strbuf *ret_error)
{
	struct suggestion suggestion = suggest_for(name);
	for (size_t i = 0; i < SETTING_COUNT; i++)
		suggest_consider(&suggestion, setting_rows[i].name);
	strbuf_printf(ret_error, "there is no " ANNOTATION_PREFIX "%.*s", (int)MIN(name.len, QUOTED_MAX),
		      name.p);
	if (suggestion.best)
		strbuf_printf(ret_error, ", did you mean " ANNOTATION_PREFIX "%s?", suggestion.best);
	return ERR_NOT_FOUND;
}

int settings_set(struct settings *settings, struct str name, struct str value, struct strbuf *ret_error)
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const struct setting_row *row = &setting_rows[i];
		if (!str_eq(name, str_from(row->name)))
			continue;
		if (!is_valid(row, value)) {
			strbuf_printf(ret_error, "%s: '%.*s' is no %s", row->name,
				      (int)MIN(value.len, QUOTED_MAX), value.p, row->value);
			return ERR_CONFIG;
		}
		int err = row->kind == VALUE_PLAN ? check_plan(row->name, value, ret_error) : 0;
		if (!err)
			settings->values[i] = value;
		return err;
	}
	return unknown(name, ret_error);
}

// --- together ---------------------------------------------------------------------------------------------
static int check_amounts(const struct settings *settings, enum setting request, enum setting limit,
			 struct strbuf *error)
{
	const struct str *values = settings->values;
	amount requested, most;
	if (!values[request].len || !values[limit].len || !read_quantity(values[request], &requested) ||
	    !read_quantity(values[limit], &most) || requested <= most)
		return 0;
	strbuf_printf(error, "%s '%.*s' is more than %s '%.*s'", setting_rows[request].name,
		      STR_ARG(values[request]), setting_rows[limit].name, STR_ARG(values[limit]));
	return ERR_CONFIG;
}

// The options that the interception gets are fit for it together, too.
static int check_capture(const struct settings *settings, struct strbuf *error)
{
	struct plan_builder builder;
	struct str probe_port = settings->values[SETTING_PROBE_PORT];
	plan_builder_init(&builder);
	int err =
	    plan_builder_set(&builder, setting_rows[SETTING_EXCLUDE_INBOUND_PORTS].name, probe_port, error);
	for (size_t i = 0; i < SETTING_COUNT && !err; i++)
		if (setting_rows[i].kind == VALUE_PLAN && settings->values[i].len)
			err = plan_builder_set(&builder, setting_rows[i].name, settings->values[i], error);
	if (!err)
		err = capture_plan_validate(&builder.plan, error);
	plan_builder_done(&builder);
	return err;
}

bool settings_is_proxy_port(uint64_t port, bool udp)
{
	struct capture_plan plan;
	capture_plan_init(&plan);
	return port == plan.dns_port || (!udp && (port == plan.outbound_port || port == plan.inbound_port));
}

int settings_check(const struct settings *settings, struct strbuf *ret_error)
{
	uint32_t probe_port = settings_number(settings, SETTING_PROBE_PORT);
	if (settings_is_proxy_port(probe_port, false)) {
		strbuf_printf(ret_error, "probe-port: %u is a port that the proxy captures to", probe_port);
		return ERR_CONFIG;
	}
	if (str_eq(settings->values[SETTING_FAIL], STR("open")) &&
	    !str_eq(settings->values[SETTING_INTERCEPTION], STR("agent"))) {
		strbuf_add_text(ret_error, "fail: open is for interception by the node's agent only");
		return ERR_CONFIG;
	}
	int err = check_capture(settings, ret_error);
	if (!err)
		err = check_amounts(settings, SETTING_CPU_REQUEST, SETTING_CPU_LIMIT, ret_error);
	return err ? err : check_amounts(settings, SETTING_MEMORY_REQUEST, SETTING_MEMORY_LIMIT, ret_error);
}

bool settings_on(const struct settings *settings, enum setting setting)
{
	return str_eq(settings->values[setting], STR("true"));
}

uint32_t settings_number(const struct settings *settings, enum setting setting)
{
	uint64_t number = 0;
	str_to_u64(settings->values[setting], &number);
	return (uint32_t)number;
}

void settings_reference(struct strbuf *out)
{
	strbuf_add_text(out, "| annotation | value | default | meaning |\n| --- | --- | --- | --- |\n");
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const struct setting_row *row = &setting_rows[i];
		strbuf_printf(out, "| `" ANNOTATION_PREFIX "%s` | ", row->name);
		for (const char *p = row->value; *p; p++)
			strbuf_printf(out, *p == '|' ? ", " : "%c", *p);
		if (row->initial[0])
			strbuf_printf(out, " | `%s` | %s |\n", row->initial, row->help);
		else
			strbuf_printf(out, " | | %s |\n", row->help);
	}
}
