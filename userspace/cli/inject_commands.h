// SPDX-License-Identifier: Apache-2.0
// weir inject and weir injector: pods of Kubernetes.
#pragma once

#include "cli/cli.h"

extern const struct cli_command inject_commands[], injector_commands[];
