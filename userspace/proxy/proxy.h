// SPDX-License-Identifier: Apache-2.0
// The proxy as a whole, on the control thread: reads the configuration, gives up privileges, starts the
// workers with their data planes and DNS responders, serves the admin socket, publishes new snapshots, drains
// and ends.
#pragma once

#include "base/str.h"

struct proxy;

struct proxy_options {
	const char *config_path;
};

// Starts everything; returns when connections are accepted. 0, or a negative error with sentences (lines)
// appended to ret_error; nothing is left then.
int proxy_start(const struct proxy_options *options, struct proxy **ret_proxy, struct strbuf *ret_error);
// Serves until a signal ends it: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads. The
// exit status.
int proxy_run(struct proxy *proxy);
// Ends what still runs. NULL is fine.
void proxy_free(struct proxy *proxy);
