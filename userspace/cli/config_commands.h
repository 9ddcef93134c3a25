// SPDX-License-Identifier: Apache-2.0
// weir config: what needs no proxy.
#pragma once

#include "cli/cli.h"

extern const struct cli_command config_commands[];
