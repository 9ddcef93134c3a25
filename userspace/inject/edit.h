// SPDX-License-Identifier: Apache-2.0
// Puts weir into the pods of a YAML text, and takes it out again. The text is not written anew: lines go in
// between marks that are comments, and lines that have to give way stay as comments within them, so that
// everything else keeps its bytes, and taking out restores the very bytes that were there.
#pragma once

#include "inject/settings.h"

struct edit_result {
	unsigned injected;   // pods that got weir
	struct strbuf notes; // lines "LINE:COLUMN: what was left alone, and why"
};

// Takes out what is in, then puts it in by these settings: doing it twice changes nothing, and a newer weir
// brings the lines up to date. Appends the new text to ret_text. 0; -ENOMEM; another negative error with
// "LINE:COLUMN: why" appended to ret_error. The caller frees ret_result->notes.
int edit_inject(struct str text, const struct settings *settings, struct strbuf *ret_text,
		struct edit_result *ret_result, struct strbuf *ret_error);
// Appends the text without what edit_inject put in.
int edit_uninject(struct str text, struct strbuf *ret_text, struct strbuf *ret_error);
