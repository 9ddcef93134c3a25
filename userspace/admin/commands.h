// SPDX-License-Identifier: Apache-2.0
// The commands that the admin server answers, as one table: `weir` builds its command line from it, the
// server checks requests against it. Data only: the program `weir` links this and nothing else of the server.
#pragma once

#include "base/command.h"

enum admin_command {
	ADMIN_VHOST_SHOW,
	ADMIN_ROUTE_SHOW,
	ADMIN_ROUTE_EXPLAIN,
	ADMIN_CLUSTER_SHOW,
	ADMIN_ENDPOINT_SHOW,
	ADMIN_CONN_SHOW,
	ADMIN_CONN_KILL,
	ADMIN_CONN_DRAIN,
	ADMIN_CERT_SHOW,
	ADMIN_DNS_SHOW,
	ADMIN_DNS_FLUSH,
	ADMIN_STATS_SHOW,
	ADMIN_CONFIG_SHOW,
	ADMIN_CONFIG_RELOAD,
	ADMIN_LOG_SHOW,
	ADMIN_LOG_LEVEL,
	ADMIN_VERSION_SHOW,
	ADMIN_EXPLAIN_FLOW,
	ADMIN_COMMAND_COUNT
};
extern const struct command admin_commands[ADMIN_COMMAND_COUNT];

// The command of these words, or NULL.
const struct command *admin_command_find(struct str object, struct str verb);
