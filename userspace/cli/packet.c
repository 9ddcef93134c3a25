// SPDX-License-Identifier: Apache-2.0
#include "cli/packet.h"

#include "base/cursor.h"
#include "base/limits.h"

#include <net/ethernet.h>

enum {
	ETHERTYPE_QINQ = 0x88a8,
	ETHERTYPE_QINQ_OLD = 0x9100,
	IPV4_HEADER_MIN = 20,
	IPV4_OFFSET = 0x1fff,
	MACS = 12,
	SLL_BEFORE_TYPE = 14,
	SLL2_AFTER_TYPE = 18,
	FAMILY_IPV4 = 2,
};

bool packet_link_known(uint32_t link)
{
	switch (link) {
	case LINK_NULL:
	case LINK_ETHERNET:
	case LINK_RAW_BSD:
	case LINK_RAW:
	case LINK_LOOP:
	case LINK_SLL:
	case LINK_IPV4:
	case LINK_IPV6:
	case LINK_SLL2:
		return true;
	default:
		return false;
	}
}

// --- IP ---------------------------------------------------------------------------------------------------
static int read_ports(struct reader *r, uint8_t protocol, struct packet_flow *flow)
{
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return ERR_UNSUPPORTED;
	flow->protocol = protocol;
	flow->source.port = reader_u16(r);
	flow->dest.port = reader_u16(r);
	return r->err;
}

// RFC 791 3.1.
static int read_ipv4(struct reader *r, struct packet_flow *flow)
{
	uint8_t length = (uint8_t)((reader_u8(r) & 0xf) * 4);
	reader_skip(r, 5); // type of service, total length, identification
	bool later = reader_u16(r) & IPV4_OFFSET;
	reader_skip(r, 1);
	uint8_t protocol = reader_u8(r);
	reader_skip(r, 2);
	flow->source.ip.family = flow->dest.ip.family = AF_INET;
	reader_copy(r, flow->source.ip.bytes, 4);
	reader_copy(r, flow->dest.ip.bytes, 4);
	if (!r->err && length < IPV4_HEADER_MIN)
		return ERR_MALFORMED;
	if (!r->err)
		reader_skip(r, length - IPV4_HEADER_MIN);
	if (later && !r->err)
		return ERR_UNSUPPORTED;
	return r->err ? r->err : read_ports(r, protocol, flow);
}

// RFC 8200 4: each says what follows it. 0 with the protocol behind them in *next.
static int skip_extensions(struct reader *r, uint8_t *next)
{
	for (int i = 0; i < LIMIT_PACKET_EXTENSIONS && !r->err; i++) {
		uint8_t type = *next;
		if (type != IPPROTO_HOPOPTS && type != IPPROTO_ROUTING && type != IPPROTO_FRAGMENT &&
		    type != IPPROTO_DSTOPTS && type != IPPROTO_AH)
			return 0;
		*next = reader_u8(r);
		uint8_t length = reader_u8(r);
		uint16_t word = reader_u16(r);
		reader_skip(r, 4);
		if (type == IPPROTO_FRAGMENT && word >> 3)
			return ERR_UNSUPPORTED; // not the first one: no ports
		if (type == IPPROTO_AH)
			reader_skip(r, (size_t)length * 4); // RFC 4302 2.2: words behind the first two
		else if (type != IPPROTO_FRAGMENT)
			reader_skip(r, (size_t)length * 8);
	}
	return r->err ? r->err : ERR_UNSUPPORTED;
}

static int read_ipv6(struct reader *r, struct packet_flow *flow)
{
	reader_skip(r, 6); // version, class, label, payload length
	uint8_t next = reader_u8(r);
	reader_skip(r, 1);
	flow->source.ip.family = flow->dest.ip.family = AF_INET6;
	reader_copy(r, flow->source.ip.bytes, 16);
	reader_copy(r, flow->dest.ip.bytes, 16);
	int err = skip_extensions(r, &next);
	return err ? err : read_ports(r, next, flow);
}

static int read_ip(struct reader *r, struct packet_flow *flow)
{
	uint8_t version = reader_peek_u8(r) >> 4;
	if (r->err)
		return r->err;
	return version == 4 ? read_ipv4(r, flow) : version == 6 ? read_ipv6(r, flow) : ERR_MALFORMED;
}

// --- links ------------------------------------------------------------------------------------------------
static int read_typed(struct reader *r, uint16_t type, struct packet_flow *flow)
{
	for (int i = 0; i < LIMIT_PACKET_TAGS; i++) {
		if (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ && type != ETHERTYPE_QINQ_OLD)
			break;
		reader_skip(r, 2);
		type = reader_u16(r);
	}
	if (r->err)
		return r->err;
	return type == ETHERTYPE_IP || type == ETHERTYPE_IPV6 ? read_ip(r, flow) : ERR_UNSUPPORTED;
}

// The number of IPv6's family differs between systems; that of IP tells.
static int read_family(struct reader *r, struct packet_flow *flow)
{
	uint32_t family = reader_u32(r);
	bool swapped = family > UINT16_MAX;
	if (r->err)
		return r->err;
	family = swapped ? __builtin_bswap32(family) : family;
	return family == FAMILY_IPV4 || family == 10 || family == 24 || family == 28 || family == 30
		   ? read_ip(r, flow)
		   : ERR_UNSUPPORTED;
}

static int read_sll2(struct reader *r, struct packet_flow *flow)
{
	uint16_t type = reader_u16(r);
	reader_skip(r, SLL2_AFTER_TYPE);
	return read_typed(r, type, flow);
}

static int read_after(struct reader *r, size_t skipped, struct packet_flow *flow)
{
	reader_skip(r, skipped);
	return read_typed(r, reader_u16(r), flow);
}

int packet_flow(uint32_t link, struct str bytes, struct packet_flow *ret_flow)
{
	struct reader r;
	struct packet_flow flow = {0};
	int err = ERR_UNSUPPORTED;
	reader_init(&r, bytes.p, bytes.len);
	if (link == LINK_ETHERNET)
		err = read_after(&r, MACS, &flow);
	else if (link == LINK_SLL)
		err = read_after(&r, SLL_BEFORE_TYPE, &flow);
	else if (link == LINK_SLL2)
		err = read_sll2(&r, &flow);
	else if (link == LINK_NULL || link == LINK_LOOP)
		err = read_family(&r, &flow);
	else if (packet_link_known(link))
		err = read_ip(&r, &flow);
	if (!err)
		*ret_flow = flow;
	return err;
}
