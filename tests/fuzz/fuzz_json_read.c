// SPDX-License-Identifier: Apache-2.0
// JSON of any content: values lie within the text, and their sizes within their array.
#include "base/json_read.h"
#include "base/mem.h"
#include "check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct json_value *value, const char *text, size_t len)
{
	const struct json_value *at = NULL, *end = value + value->size;
	CHECK(value->size > 0);
	CHECK(value->p >= text && value->p + value->len <= text + len);
	while ((at = json_next(value, at))) {
		const struct json_value *item = value->type == JSON_OBJECT ? at + 1 : at;
		CHECK(item + item->size <= end);
		CHECK(value->type != JSON_OBJECT || at->type == JSON_STRING);
		walk(item, text, len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	struct json_value *values;
	if (json_read(text, size, &values) == 0) {
		walk(values, text, size);
		mem_free(values);
	}
	free(text);
	return 0;
}
