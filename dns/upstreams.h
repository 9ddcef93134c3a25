// SPDX-License-Identifier: Apache-2.0
// Which servers the forwarder asks: those that were given, or those of resolv.conf; never ourselves. Any
// thread.
#pragma once

#include "base/addr.h"

enum { DNS_UPSTREAMS_MAX = 8 };

struct dns_forward_options;

// 0 (with up to DNS_UPSTREAMS_MAX servers, or none), ERR_DNS, or -ENOMEM.
int dns_upstreams_find(const struct dns_forward_options *options, struct addr ret_servers[DNS_UPSTREAMS_MAX],
		       size_t *ret_count);
