// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/cli.h"

extern const struct cli_command intercept_commands[];
