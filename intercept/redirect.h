// SPDX-License-Identifier: Apache-2.0
// Addresses to which the eBPF back end sends connections (bpf/shared.h). Pure.
#pragma once

#include "base/addr.h"

#include <stddef.h>

// Redirected connections of IPv6 go to addresses of this network: it has to be this host's own. (All of
// 127.0.0.0/8 is in any case.)
extern const struct cidr redirect_network;
// Whether what a connection goes to stands for where its program wants it to go.
bool redirect_has(const struct ip *ip);

enum { REDIRECT_DNS_MAX = 8 };

// Where DNS queries arrive over UDP other than at the loopback address, which stands for the first server.
// When one socket asks several servers, each has an address that stands for it, so that the answer's source
// tells whose it is. From sockets that have chosen an interface they come to an address that this host has
// there: the last two are the unspecified ones. Returns how many there are.
size_t redirect_dns_addresses(uint16_t port, struct addr ret_addresses[REDIRECT_DNS_MAX]);
