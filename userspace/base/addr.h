// SPDX-License-Identifier: Apache-2.0
// Network addresses: an IP of either family, an IP with a port, a prefix (CIDR). Plain values, compared
// bytewise; a v4-mapped IPv6 address is turned into IPv4 wherever one enters, so that a thing has one
// spelling only.
#pragma once

#include "base/str.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

// family is AF_INET, AF_INET6 or 0 (none). IPv4 lies in the first four bytes, the others are zero; network
// order.
struct ip {
	uint8_t family;
	uint8_t bytes[16];
};

// port in host order. All padding is zero: addr_eq and addr_hash look at all bytes.
struct addr {
	struct ip ip;
	uint8_t _zero;
	uint16_t port;
};

struct cidr {
	struct ip ip; // host bits are zero
	uint8_t bits;
};

// Longest text of any of them, with the NUL.
enum { ADDR_TEXT_MAX = 64 };

bool ip_eq(const struct ip *a, const struct ip *b);
bool addr_eq(const struct addr *a, const struct addr *b);
uint64_t ip_hash(const struct ip *ip);
uint64_t addr_hash(const struct addr *addr);
bool ip_is_any(const struct ip *ip);
bool ip_is_loopback(const struct ip *ip);
bool ip_is_multicast(const struct ip *ip); // or IPv4's broadcast to all
// fe80::/10, which means something only together with an interface (RFC 4007).
bool ip_is_link_local_v6(const struct ip *ip);
bool cidr_contains(const struct cidr *cidr, const struct ip *ip);

// "192.0.2.1", "2001:db8::1"; no brackets, no zone. 0 or ERR_MALFORMED.
int ip_parse(struct str text, struct ip *ret_ip);
// "192.0.2.1:80", "[2001:db8::1]:80". 0, ERR_MALFORMED, -ERANGE (port).
int addr_parse(struct str text, struct addr *ret_addr);
// "10.0.0.0/8", "fd00::/8", or an address alone (a full-length prefix). Host bits must be zero. 0 or
// ERR_MALFORMED.
int cidr_parse(struct str text, struct cidr *ret_cidr);

// Each writes into `text` and returns it. An absent address is "-".
const char *ip_format(const struct ip *ip, char text[ADDR_TEXT_MAX]);
const char *addr_format(const struct addr *addr, char text[ADDR_TEXT_MAX]);
const char *cidr_format(const struct cidr *cidr, char text[ADDR_TEXT_MAX]);

// A v4-mapped IPv6 socket address becomes IPv4. 0, or ERR_UNSUPPORTED for another family.
int addr_from_sockaddr(const struct sockaddr_storage *sa, struct addr *ret_addr);
// Fills *ret_sa and returns its length; 0 for an absent address.
socklen_t addr_to_sockaddr(const struct addr *addr, struct sockaddr_storage *ret_sa);
