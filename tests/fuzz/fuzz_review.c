// SPDX-License-Identifier: Apache-2.0
// Any bytes are a review with an answer in JSON, or an error that says why they are none.
#include "base/mem.h"
#include "inject/review.h"
#include "inject/tree.h"

#include "check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct settings settings;
	struct tree tree;
	autostrbuf struct strbuf answer = {0}, error = {0};
	char *copy = exact_copy(data, size);
	settings_init(&settings);
	int err = review_answer((struct str){copy, size}, &settings, &answer, &error);
	CHECK(err ? error.len > 0 : answer.len > 0);
	if (!err) {
		CHECK(tree_parse_json(&tree, strbuf_str(&answer), &error) == 0);
		CHECK(node_text(node_get(node_get(tree.first, "response"), "uid")).len > 0);
		tree_done(&tree);
	}
	free(copy);
	return 0;
}
