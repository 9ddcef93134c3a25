// SPDX-License-Identifier: Apache-2.0
// weir dns query.
#pragma once

#include "cli/cli.h"

extern const struct cli_command dns_commands[];
