// SPDX-License-Identifier: Apache-2.0
// Any text is a configuration or a list of errors; and what is accepted is shown in a form that is accepted
// again.
#include "control/build.h"

#include "base/mem.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

// libfyaml 0.7 loses 2 KiB for a quoted scalar with dozens of escapes. Documents that we do not free are
// found by the unit tests, which suppress nothing.
const char *__lsan_default_suppressions(void)
{
	return "leak:libfyaml.so\n";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config, *again;
	struct model *model;
	autostrbuf struct strbuf errors = {0}, shown = {0};
	struct emit emit;
	if (config_parse((struct str){(const char *)data, size}, "fuzz", &config, &errors)) {
		if (!errors.len)
			abort();
		return 0;
	}
	emit_init(&emit, &shown, EMIT_JSON);
	config_show(config, &emit);
	emit_done(&emit);
	if (config_parse(strbuf_str(&shown), "shown", &again, &errors))
		abort();
	config_free(again);
	if (model_build(config, NULL, &model, &errors) == 0)
		model_unref(model);
	config_free(config);
	return 0;
}
