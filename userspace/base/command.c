// SPDX-License-Identifier: Apache-2.0
#include "base/command.h"

const struct command_param *command_param_find(const struct command *command, struct str name)
{
	for (size_t i = 0; i < command->param_count; i++)
		if (str_eq(str_from(command->params[i].name), name))
			return &command->params[i];
	return NULL;
}

bool command_param_accepts(const struct command_param *param, struct str value)
{
	struct str rest = str_from(param->value);
	if (!rest.p || str_find(rest, '|') < 0)
		return true;
	while (rest.p)
		if (str_eq(str_split(&rest, '|'), value))
			return true;
	return false;
}

struct str command_value_find(const struct command_value *values, size_t count, const char *name, size_t *at)
{
	size_t first = 0, *i = at ? at : &first;
	while (*i < count) {
		const struct command_value *value = &values[(*i)++];
		if (strcmp(value->param->name, name) == 0)
			return value->value;
	}
	return (struct str){NULL, 0};
}

const struct command_param *command_missing(const struct command *command, const struct command_value *values,
					    size_t count)
{
	for (size_t i = 0; i < command->param_count; i++) {
		const struct command_param *param = &command->params[i];
		if (param->required && !command_value_find(values, count, param->name, NULL).p)
			return param;
	}
	return NULL;
}

const char *command_option_dashes(const struct command_param *param)
{
	return param->name[0] && !param->name[1] ? "-" : "--";
}

void command_param_usage(struct strbuf *out, const struct command_param *param)
{
	if (!param->required)
		strbuf_add_char(out, '[');
	if (param->kind == PARAM_OPTION || param->kind == PARAM_FLAG)
		strbuf_printf(out, "%s%s", command_option_dashes(param), param->name);
	else if (param->kind == PARAM_FILTER)
		strbuf_printf(out, "%s=", param->name);
	if (param->kind == PARAM_OPTION)
		strbuf_add_char(out, ' ');
	if (param->kind != PARAM_FLAG)
		strbuf_add_text(out, param->value);
	if (!param->required)
		strbuf_add_char(out, ']');
	if (param->many)
		strbuf_add_text(out, "...");
}

// --- did you mean -----------------------------------------------------------------------------------------
// A third of the letters may differ, at least one.
static unsigned tolerance(struct str word)
{
	return word.len < 3 ? 1 : (unsigned)(word.len + 2) / 3;
}

struct suggestion suggest_for(struct str word)
{
	return (struct suggestion){word, NULL, tolerance(word) + 1};
}

void suggest_consider(struct suggestion *suggestion, const char *candidate)
{
	unsigned distance = str_distance(suggestion->word, str_from(candidate), tolerance(suggestion->word));
	if (distance < suggestion->distance) {
		suggestion->best = candidate;
		suggestion->distance = distance;
	}
}

void suggest_write(const struct suggestion *suggestion, struct strbuf *out)
{
	if (suggestion->best)
		strbuf_printf(out, ", did you mean '%s'?", suggestion->best);
}
