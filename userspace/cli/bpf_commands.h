// SPDX-License-Identifier: Apache-2.0
// weir prog, weir map: what weir has loaded into the kernel. No proxy needs to run.
#pragma once

#include "cli/cli.h"
#include "intercept/ebpf_list.h"

extern const struct cli_command prog_commands[], map_commands[];

// Describes the entries of all maps of the list that have that name or number, in weir's own terms. CLI_DONE,
// or what cli_fail returns.
int map_dump_emit(const struct cli *cli, const struct ebpf_list *list, struct str which);
