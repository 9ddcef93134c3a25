// SPDX-License-Identifier: Apache-2.0
// Which servers the forwarder asks: those that were given, or those of resolv.conf; never ourselves. Any
// thread.
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <sys/stat.h>

enum { DNS_UPSTREAMS_MAX = 8 };

struct dns_forward_options;

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

// 0 (with up to DNS_UPSTREAMS_MAX servers, or none), ERR_DNS, or -ENOMEM.
int dns_upstreams_find(const struct dns_forward_options *options, struct addr ret_servers[DNS_UPSTREAMS_MAX],
		       size_t *ret_count);
