// SPDX-License-Identifier: Apache-2.0
// weir intercept attend and wait: interception by a program on the node.
#pragma once

#include "cli/cli.h"

int intercept_attend(struct cli *cli);
int intercept_wait(struct cli *cli);

extern const struct command_param attend_params[1], wait_params[1];
