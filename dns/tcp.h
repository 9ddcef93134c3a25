// SPDX-License-Identifier: Apache-2.0
// The TCP listener of the responder (RFC 7766): several queries on a connection, answered as answers come; an
// idle connection is closed. At most LIMIT_DNS_TCP_CLIENTS, LIMIT_DNS_TCP_PIPELINE queries of each under way.
#pragma once

#include "dns/resolver.h"

struct dns_tcp;

int dns_tcp_new(struct loop *loop, const struct addr *addr, struct dns_resolver *resolver,
		struct dns_tcp **ret_tcp);
void dns_tcp_free(struct dns_tcp *tcp); // NULL is fine
