// SPDX-License-Identifier: Apache-2.0
#include "cli/config_commands.h"

#include "base/mem.h"
#include "control/build.h"

#include <stdio.h>

// The errors are lines that name file, line and column: printed as they are.
static int config_check(struct cli *cli)
{
	struct config *config;
	struct model *model;
	autostrbuf struct strbuf errors = {0};
	int err = config_load(cli_get(cli, "file"), &config, &errors);
	if (!err) {
		err = model_build(config, NULL, &model, &errors);
		if (!err) {
			emit_text(cli->emit, "configuration", "valid");
			emit_uint(cli->emit, "services", model->service_count);
			emit_uint(cli->emit, "clusters", model->cluster_count);
			model_unref(model);
		}
		config_free(config);
	}
	if (err) {
		fputs(errors.p ? errors.p : "weir: out of memory\n", stderr);
		return CLI_FAILED;
	}
	return CLI_DONE;
}

static int print(const struct strbuf *text)
{
	return text->failed || fputs(text->p, stdout) < 0 ? CLI_FAILED : CLI_DONE;
}

static int print_schema(struct cli *cli)
{
	autostrbuf struct strbuf text = {0};
	struct json json;
	json_init(&json, &text, cli->format != EMIT_JSON);
	config_schema(&json);
	strbuf_add_char(&text, '\n');
	return print(&text);
}

static int print_reference(struct cli *cli)
{
	autostrbuf struct strbuf text = {0};
	(void)cli;
	config_reference(&text);
	return print(&text);
}

static const struct command_param check_params[] = {
    {PARAM_ARGUMENT, "file", "FILE", "the configuration file", true, false},
};

const struct cli_command config_commands[] = {
    {{"config", "check", "Say what is wrong with a configuration file", NULL, check_params,
      ARRAY_SIZE(check_params)},
     config_check},
    {{"config", "schema", "Print the JSON Schema of the configuration", NULL, NULL, 0}, print_schema},
    {{"config", "reference", "Print the reference page of the configuration (Markdown)", NULL, NULL, 0},
     print_reference},
    {{0}, NULL},
};
