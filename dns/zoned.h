// SPDX-License-Identifier: Apache-2.0
// Has c-ares ask servers at link-local addresses, which need their interface (RFC 4007: the zone) to be
// reached. What c-ares keeps of a server has no place for it, or another one in each version, so such a
// server has an address there that stands for it, of those that lead nowhere (100::/64, RFC 6666); the
// functions by which c-ares uses sockets put the one in the other's place. One thread.
#pragma once

#include "dns/upstreams.h"

#include <ares.h>

// The number of an interface that is given by its name or by its number, as systemd-resolved writes it; 0 with
// errno: there is none.
unsigned dns_zone_index(const char *zone);
// Gives the channel its servers, which must stay where they are for as long as it lives. 0 or ERR_DNS.
int dns_zoned_set_servers(ares_channel ares, struct dns_upstream *servers, size_t count);
