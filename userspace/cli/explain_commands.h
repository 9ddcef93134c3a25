// SPDX-License-Identifier: Apache-2.0
// weir explain: from the kernel's rules to the endpoint. The rules are read in this network namespace, all
// else is asked of the proxy; what one of them does not tell is named, and the rest explained.
#pragma once

#include "cli/cli.h"
#include "cli/explain_kernel.h"

extern const struct cli_command explain_commands[];

// --- among the files of the command -------------------------------------------------------------------------
// One explanation under way.
struct explanation {
	struct cli *cli;
	struct kernel_view kernel;
	struct reply *reply; // of the proxy; NULL: not asked, or it did not answer
	struct strbuf error; // why not
	bool found;	     // false: what was asked about is not there
};

int explain_pid(struct explanation *explanation);
// Emits that the proxy could not be asked.
void explain_emit_silence(struct explanation *explanation);
