// SPDX-License-Identifier: Apache-2.0
// Any text gets weir into its pods or an error with a place; what gets it can be taken back to the same bytes,
// and doing it again changes nothing.
#include "base/mem.h"
#include "inject/edit.h"

#include "check.h"

const char *__lsan_default_suppressions(void);

// libfyaml 0.7 loses 2 KiB for a quoted scalar with dozens of escapes; see fuzz_config.c.
const char *__lsan_default_suppressions(void)
{
	return "leak:libfyaml.so\n";
}

static void check_round_trip(struct str text, const struct settings *settings, struct str changed)
{
	autostrbuf struct strbuf bare = {0}, back = {0}, again = {0}, error = {0};
	struct edit_result result;
	CHECK(edit_uninject(text, &bare, &error) == 0);
	CHECK(edit_uninject(changed, &back, &error) == 0);
	CHECK(str_eq(strbuf_str(&bare), strbuf_str(&back)));
	CHECK(edit_inject(changed, settings, &again, &result, &error) == 0);
	strbuf_done(&result.notes);
	CHECK(str_eq(strbuf_str(&again), changed));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct settings settings;
	struct edit_result result;
	autostrbuf struct strbuf changed = {0}, error = {0};
	char *copy = exact_copy(data, size);
	struct str text = {copy, size};
	settings_init(&settings);
	int err = edit_inject(text, &settings, &changed, &result, &error);
	strbuf_done(&result.notes);
	if (err)
		CHECK(error.len && error.p[0] >= '0' && error.p[0] <= '9');
	else
		check_round_trip(text, &settings, strbuf_str(&changed));
	free(copy);
	return 0;
}
