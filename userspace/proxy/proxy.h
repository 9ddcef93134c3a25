// SPDX-License-Identifier: Apache-2.0
// The proxy as a whole, on the control thread: reads the configuration, gives up privileges, starts the
// workers with their data planes and DNS responders, serves the admin socket, publishes new snapshots, drains
// and ends.
#pragma once

#include "admin/probe.h"
#include "base/str.h"

struct proxy;

struct proxy_options {
	const char *config_path;
	const char *const *sets;    // "KEY=VALUE", in place of what the file says; ended by NULL
	uint16_t probe_port;	    // where probes of Kubernetes are answered; 0: nowhere
	const struct probe *probes; // of the application; outlive the proxy
	size_t probe_count;
};

// Starts everything; returns when connections are accepted. 0, or a negative error with sentences (lines)
// appended to ret_error; nothing is left then.
int proxy_start(const struct proxy_options *options, struct proxy **ret_proxy, struct strbuf *ret_error);
// Serves until a signal ends it: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads. The
// exit status.
int proxy_run(struct proxy *proxy);
// Ends what still runs. NULL is fine.
void proxy_free(struct proxy *proxy);
