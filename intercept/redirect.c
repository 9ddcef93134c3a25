// SPDX-License-Identifier: Apache-2.0
#include "intercept/redirect.h"

#include "bpf/shared.h"

const struct cidr redirect_network = {{AF_INET6, {0xfd, 0x77, 0, 0x65, 0x69, 0x72, 0, 0x7f}}, 64};

_Static_assert(WEIR_REDIRECT6_0 == 0xfd770065 && WEIR_REDIRECT6_1 == 0x6972007f, "the same network");
_Static_assert(WEIR_REDIRECT4 == 0x7f800000 && WEIR_REDIRECT4_MASK == 0xff800000, "127.128.0.0/9");
_Static_assert(WEIR_REDIRECT4 + WEIR_REDIRECT4_COUNT == 0x7fffffff, "without the broadcast address of 127.0.0.0/8");
_Static_assert(2 * WEIR_SERVERS_MAX == REDIRECT_DNS_MAX, "for each server but the first, and for any address");

bool redirect_has(const struct ip *ip)
{
	static const struct cidr ipv4 = {{AF_INET, {127, 128}}, 9};
	return cidr_contains(&ipv4, ip) || cidr_contains(&redirect_network, ip);
}

size_t redirect_dns_addresses(uint16_t port, struct addr ret_addresses[REDIRECT_DNS_MAX])
{
	size_t count = 0;
	for (uint8_t number = 1; number < WEIR_SERVERS_MAX; number++) {
		struct addr v4 = {.ip = {AF_INET, {127, 0, 0, (uint8_t)(1 + number)}}, .port = port};
		struct addr v6 = {.ip = redirect_network.ip, .port = port};
		v6.ip.bytes[15] = number;
		ret_addresses[count++] = v4;
		ret_addresses[count++] = v6;
	}
	ret_addresses[count++] = (struct addr){.ip.family = AF_INET, .port = port};
	ret_addresses[count++] = (struct addr){.ip.family = AF_INET6, .port = port};
	return count;
}
