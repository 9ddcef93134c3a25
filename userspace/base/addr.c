// SPDX-License-Identifier: Apache-2.0
#include "base/addr.h"

#include "base/error.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

_Static_assert(sizeof(struct addr) == 20, "addr has no padding: it is compared and hashed bytewise");

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool ip_eq(const struct ip *a, const struct ip *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

bool addr_eq(const struct addr *a, const struct addr *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

uint64_t ip_hash(const struct ip *ip)
{
	return str_hash((struct str){(const char *)ip, sizeof *ip});
}

uint64_t addr_hash(const struct addr *addr)
{
	return str_hash((struct str){(const char *)addr, sizeof *addr});
}

static size_t ip_len(const struct ip *ip)
{
	return ip->family == AF_INET6 ? 16 : 4;
}

bool ip_is_any(const struct ip *ip)
{
	static const uint8_t zero[16];
	return memcmp(ip->bytes, zero, sizeof zero) == 0;
}

bool ip_is_loopback(const struct ip *ip)
{
	static const uint8_t one[16] = {[15] = 1};
	return ip->family == AF_INET6 ? memcmp(ip->bytes, one, 16) == 0
				      : ip->family == AF_INET && ip->bytes[0] == 127;
}

bool ip_is_multicast(const struct ip *ip)
{
	static const uint8_t broadcast[4] = {255, 255, 255, 255};
	return ip->family == AF_INET6 ? ip->bytes[0] == 0xff
				      : ip->family == AF_INET && ((ip->bytes[0] & 0xf0) == 0xe0 ||
								  memcmp(ip->bytes, broadcast, 4) == 0);
}

bool ip_is_link_local_v6(const struct ip *ip)
{
	return ip->family == AF_INET6 && ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80;
}

bool cidr_contains(const struct cidr *cidr, const struct ip *ip)
{
	if (cidr->ip.family != ip->family)
		return false;
	size_t whole = cidr->bits / 8u, rest = cidr->bits % 8u;
	if (memcmp(cidr->ip.bytes, ip->bytes, whole) != 0)
		return false;
	uint8_t mask = (uint8_t)(0xff00u >> rest);
	return rest == 0 || ((cidr->ip.bytes[whole] ^ ip->bytes[whole]) & mask) == 0;
}

static struct ip ip_from_v6(const uint8_t bytes[16])
{
	struct ip ip = {.family = AF_INET6};
	if (memcmp(bytes, v4_mapped, sizeof v4_mapped) == 0) {
		ip.family = AF_INET;
		memcpy(ip.bytes, bytes + 12, 4);
	} else {
		memcpy(ip.bytes, bytes, 16);
	}
	return ip;
}

int ip_parse(struct str text, struct ip *ret_ip)
{
	char copy[INET6_ADDRSTRLEN];
	uint8_t v6[16];
	struct ip ip = {.family = AF_INET};
	if (text.len == 0 || text.len >= sizeof copy || memchr(text.p, 0, text.len))
		return ERR_MALFORMED;
	memcpy(copy, text.p, text.len);
	copy[text.len] = 0;
	if (inet_pton(AF_INET, copy, ip.bytes) != 1) {
		if (inet_pton(AF_INET6, copy, v6) != 1)
			return ERR_MALFORMED;
		ip = ip_from_v6(v6);
	}
	*ret_ip = ip;
	return 0;
}

int addr_parse(struct str text, struct addr *ret_addr)
{
	struct str host, port;
	struct addr addr = {0};
	uint64_t number;
	if (text.len && text.p[0] == '[') {
		ptrdiff_t close = str_find(text, ']');
		if (close < 0 || (size_t)close + 2 > text.len || text.p[close + 1] != ':')
			return ERR_MALFORMED;
		host = (struct str){text.p + 1, (size_t)close - 1};
		port = (struct str){text.p + close + 2, text.len - (size_t)close - 2};
	} else {
		ptrdiff_t colon = str_find(text, ':');
		if (colon < 0)
			return ERR_MALFORMED;
		host = (struct str){text.p, (size_t)colon};
		port = (struct str){text.p + colon + 1, text.len - (size_t)colon - 1};
	}
	int err = ip_parse(host, &addr.ip);
	if (err == 0)
		err = str_to_u64(port, &number);
	if (err)
		return err;
	if (number > 65535)
		return -ERANGE;
	addr.port = (uint16_t)number;
	*ret_addr = addr;
	return 0;
}

int cidr_parse(struct str text, struct cidr *ret_cidr)
{
	struct str rest = text, host = str_split(&rest, '/');
	struct cidr cidr;
	uint64_t bits;
	if (ip_parse(host, &cidr.ip))
		return ERR_MALFORMED;
	size_t longest = ip_len(&cidr.ip) * 8;
	if (!rest.p)
		bits = longest;
	else if (str_to_u64(rest, &bits) || bits > longest)
		return ERR_MALFORMED;
	for (size_t bit = bits; bit < longest; bit++)
		if (cidr.ip.bytes[bit / 8] & (0x80u >> (bit % 8)))
			return ERR_MALFORMED;
	cidr.bits = (uint8_t)bits;
	*ret_cidr = cidr;
	return 0;
}

const char *ip_format(const struct ip *ip, char text[ADDR_TEXT_MAX])
{
	if (!ip->family || !inet_ntop(ip->family, ip->bytes, text, ADDR_TEXT_MAX))
		snprintf(text, ADDR_TEXT_MAX, "-");
	return text;
}

const char *addr_format(const struct addr *addr, char text[ADDR_TEXT_MAX])
{
	char ip[ADDR_TEXT_MAX];
	ip_format(&addr->ip, ip);
	if (!addr->ip.family)
		snprintf(text, ADDR_TEXT_MAX, "-");
	else
		snprintf(text, ADDR_TEXT_MAX, addr->ip.family == AF_INET6 ? "[%.46s]:%u" : "%.46s:%u", ip,
			 addr->port);
	return text;
}

const char *cidr_format(const struct cidr *cidr, char text[ADDR_TEXT_MAX])
{
	char ip[ADDR_TEXT_MAX];
	snprintf(text, ADDR_TEXT_MAX, "%.46s/%u", ip_format(&cidr->ip, ip), cidr->bits);
	return text;
}

int addr_from_sockaddr(const struct sockaddr_storage *sa, struct addr *ret_addr)
{
	struct addr addr = {0};
	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
		addr.ip.family = AF_INET;
		memcpy(addr.ip.bytes, &in->sin_addr, 4);
		addr.port = ntohs(in->sin_port);
	} else if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
		addr.ip = ip_from_v6(in6->sin6_addr.s6_addr);
		addr.port = ntohs(in6->sin6_port);
	} else {
		return ERR_UNSUPPORTED;
	}
	*ret_addr = addr;
	return 0;
}

socklen_t addr_to_sockaddr(const struct addr *addr, struct sockaddr_storage *ret_sa)
{
	memset(ret_sa, 0, sizeof *ret_sa);
	if (addr->ip.family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret_sa;
		in->sin_family = AF_INET;
		in->sin_port = htons(addr->port);
		memcpy(&in->sin_addr, addr->ip.bytes, 4);
		return sizeof *in;
	}
	if (addr->ip.family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_sa;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(addr->port);
		memcpy(&in6->sin6_addr, addr->ip.bytes, 16);
		return sizeof *in6;
	}
	return 0;
}
