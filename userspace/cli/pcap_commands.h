// SPDX-License-Identifier: Apache-2.0
// weir pcap: captures of redirected traffic made readable.
#pragma once

#include "cli/cli.h"

extern const struct cli_command pcap_commands[];
