// SPDX-License-Identifier: Apache-2.0
// Addresses to which the eBPF back end sends connections (bpf/shared.h). Pure.
#pragma once

#include "base/addr.h"

#include <stddef.h>

// Redirected connections of IPv6 go to addresses of this network: it has to be this host's own. (All of
// 127.0.0.0/8 is in any case.)
extern const struct cidr redirect_network;

enum { REDIRECT_DNS_MAX = 6 };

// Where DNS queries arrive over UDP when one socket asks several servers: each stands for one, so that the
// answer's source tells whose it is. (The first server's stand-in is the loopback address.) Returns how many
// there are.
size_t redirect_dns_addresses(uint16_t port, struct addr ret_addresses[REDIRECT_DNS_MAX]);
