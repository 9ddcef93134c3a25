// SPDX-License-Identifier: Apache-2.0
// The UDP listener of the responder: queries are taken and answers sent in batches.
#pragma once

#include "dns/resolver.h"

struct dns_udp;

// Listens with SO_REUSEPORT. At the unspecified address only queries are taken that come from the very address
// to which they go: nobody else's. Answers come from there, too. 0 or a negative error.
int dns_udp_new(struct loop *loop, const struct addr *addr, struct dns_resolver *resolver,
		struct dns_udp **ret_udp);
void dns_udp_free(struct dns_udp *udp); // NULL is fine
