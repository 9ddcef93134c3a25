// SPDX-License-Identifier: Apache-2.0
// Which servers the forwarder asks: those that were given, or those of resolv.conf; never ourselves. Any
// thread.
#pragma once

#include "base/addr.h"

#include <net/if.h>
#include <stdbool.h>
#include <sys/stat.h>

enum { DNS_UPSTREAMS_MAX = 8 };

struct dns_forward_options;

// All bytes that are not in use are zero.
struct dns_upstream {
	struct addr addr;
	char zone[IFNAMSIZ]; // of a link-local address: its interface, by name or number; else empty
	uint32_t _scope;     // its number when it was connected to last (zoned.c)
};

// Which versions of resolv.conf and of resolved's list have been seen. Zero-initialise: none.
struct dns_upstreams_seen {
	struct {
		dev_t dev;
		ino_t ino;
		struct timespec changed;
	} files[2];
};

// Whether the files are others than those seen, which they are from now on. Never when the servers were
// given, nor while resolv.conf is absent or empty: somebody is about to write it.
bool dns_upstreams_changed(const struct dns_forward_options *options, struct dns_upstreams_seen *seen);

// Up to DNS_UPSTREAMS_MAX servers, or none; those behind them are zero. What cannot be used is told to
// options->unusable.
void dns_upstreams_find(const struct dns_forward_options *options,
			struct dns_upstream ret_servers[DNS_UPSTREAMS_MAX], size_t *ret_count);
