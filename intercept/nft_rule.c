// SPDX-License-Identifier: Apache-2.0
#include "intercept/nft_rule.h"

#include "base/error.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnftnl/expr.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <netinet/in.h>

enum load_kind { LOAD_META, LOAD_PAYLOAD, LOAD_FIB, LOAD_STATE, LOAD_SOCKET, LOAD_CGROUP, LOAD_QUERY };

// As in the kernel's nf_conntrack_common.h: NF_CT_STATE_BIT(IP_CT_NEW).
enum { STATE_NEW = 8, TRANSPARENT_MOST = 1 };

// How a field gets into the register, and what its value looks like there.
static const struct field_load {
	enum load_kind kind;
	uint8_t key;	       // meta: the key; payload: the base
	uint8_t offset, len;   // payload: where; all: the length of a value
	uint8_t family;	       // payload of the network header: of this family
	uint8_t protocol;      // payload of the transport header: of this protocol
	bool big_endian;       // a number in network order
	bool convert_for_sets; // intervals are ordered bytewise: host order will not do
} loads[] = {
    [RULE_FAMILY] = {LOAD_META, NFT_META_NFPROTO, .len = 1},
    [RULE_PROTOCOL] = {LOAD_META, NFT_META_L4PROTO, .len = 1},
    [RULE_MARK] = {LOAD_META, NFT_META_MARK, .len = 4},
    [RULE_USER] = {LOAD_META, NFT_META_SKUID, .len = 4, .convert_for_sets = true},
    [RULE_GROUP] = {LOAD_META, NFT_META_SKGID, .len = 4, .convert_for_sets = true},
    [RULE_CGROUP] = {LOAD_CGROUP, .len = 8},
    [RULE_IN_INTERFACE] = {LOAD_META, NFT_META_IIFNAME, .len = IFNAMSIZ},
    [RULE_OUT_INTERFACE] = {LOAD_META, NFT_META_OIFNAME, .len = IFNAMSIZ},
    [RULE_SOURCE4] = {LOAD_PAYLOAD, NFT_PAYLOAD_NETWORK_HEADER, 12, 4, .family = NFPROTO_IPV4},
    [RULE_SOURCE6] = {LOAD_PAYLOAD, NFT_PAYLOAD_NETWORK_HEADER, 8, 16, .family = NFPROTO_IPV6},
    [RULE_DEST4] = {LOAD_PAYLOAD, NFT_PAYLOAD_NETWORK_HEADER, 16, 4, .family = NFPROTO_IPV4},
    [RULE_DEST6] = {LOAD_PAYLOAD, NFT_PAYLOAD_NETWORK_HEADER, 24, 16, .family = NFPROTO_IPV6},
    [RULE_TCP_DEST_PORT] = {LOAD_PAYLOAD, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, .protocol = IPPROTO_TCP,
			    .big_endian = true},
    [RULE_UDP_DEST_PORT] = {LOAD_PAYLOAD, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, .protocol = IPPROTO_UDP,
			    .big_endian = true},
    [RULE_UDP_SOURCE_PORT] = {LOAD_PAYLOAD, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, .protocol = IPPROTO_UDP,
			      .big_endian = true},
    [RULE_DEST_TYPE] = {LOAD_FIB, .len = 4},
    [RULE_NEW] = {LOAD_STATE, .len = 4},
    [RULE_LISTENS] = {LOAD_SOCKET, .len = 1},
    [RULE_SEQUENCE] = {LOAD_PAYLOAD, NFT_PAYLOAD_TRANSPORT_HEADER, 4, .len = 4},
    [RULE_SYN] = {LOAD_PAYLOAD, NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, .protocol = IPPROTO_TCP},
    [RULE_QUERY4] = {.kind = LOAD_QUERY},
    [RULE_QUERY6] = {.kind = LOAD_QUERY},
};

// What a query is known by, one behind the other in the registers.
static const struct query_load {
	enum rule_field field, source; // source: the first part
	uint32_t port_register;	       // of the second: the port that it came from
	uint32_t server, server_register;
} queries[] = {
    {RULE_QUERY4, RULE_SOURCE4, NFT_REG32_01, NFT_CT_DST_IP, NFT_REG32_02},
    {RULE_QUERY6, RULE_SOURCE6, NFT_REG_2, NFT_CT_DST_IP6, NFT_REG32_05},
};
enum { DIRECTION_ORIGINAL = 0 }; // as in the kernel: IP_CT_DIR_ORIGINAL

// --- encoding ----------------------------------------------------------------------------------------------
struct encoder {
	const struct ruleset *ruleset;
	struct nftnl_rule *rule;
	bool failed;
};

// A new expression at the rule's end; a throw-away one is never needed: NULL when out of memory.
static struct nftnl_expr *add(struct encoder *e, const char *name)
{
	struct nftnl_expr *expr = nftnl_expr_alloc(name);
	if (!expr)
		e->failed = true;
	else
		nftnl_rule_add_expr(e->rule, expr);
	return expr;
}

static void set_u32(struct nftnl_expr *expr, uint16_t attribute, uint32_t value)
{
	if (expr)
		nftnl_expr_set_u32(expr, attribute, value);
}

static void set_bytes(struct encoder *e, struct nftnl_expr *expr, uint16_t attribute, const void *bytes,
		      uint32_t len)
{
	if (expr && nftnl_expr_set(expr, attribute, bytes, len) < 0)
		e->failed = true;
}

static void encode_meta(struct encoder *e, uint32_t key)
{
	struct nftnl_expr *expr = add(e, "meta");
	set_u32(expr, NFTNL_EXPR_META_KEY, key);
	set_u32(expr, NFTNL_EXPR_META_DREG, NFT_REG_1);
}

static void encode_cmp(struct encoder *e, uint32_t op, const void *value, uint32_t len)
{
	struct nftnl_expr *expr = add(e, "cmp");
	set_u32(expr, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_CMP_OP, op);
	set_bytes(e, expr, NFTNL_EXPR_CMP_DATA, value, len);
}

static void encode_dependency(struct encoder *e, const struct field_load *load)
{
	if (!load->family && !load->protocol)
		return;
	encode_meta(e, load->family ? NFT_META_NFPROTO : NFT_META_L4PROTO);
	encode_cmp(e, NFT_CMP_EQ, load->family ? &load->family : &load->protocol, 1);
}

static void encode_payload(struct encoder *e, const struct field_load *load, uint32_t dreg)
{
	struct nftnl_expr *expr = add(e, "payload");
	set_u32(expr, NFTNL_EXPR_PAYLOAD_DREG, dreg);
	set_u32(expr, NFTNL_EXPR_PAYLOAD_BASE, load->key);
	set_u32(expr, NFTNL_EXPR_PAYLOAD_OFFSET, load->offset);
	set_u32(expr, NFTNL_EXPR_PAYLOAD_LEN, load->len);
}

// What the tracked connection's first packet had, before any translation.
static void encode_original(struct encoder *e, uint32_t key, uint32_t dreg)
{
	struct nftnl_expr *expr = add(e, "ct");
	set_u32(expr, NFTNL_EXPR_CT_KEY, key);
	set_u32(expr, NFTNL_EXPR_CT_DREG, dreg);
	if (expr)
		nftnl_expr_set_u8(expr, NFTNL_EXPR_CT_DIR, DIRECTION_ORIGINAL);
}

static void encode_query(struct encoder *e, enum rule_field field)
{
	const struct query_load *query = &queries[field == RULE_QUERY6];
	encode_payload(e, &loads[query->source], NFT_REG_1);
	encode_original(e, NFT_CT_PROTO_SRC, query->port_register);
	encode_original(e, query->server, query->server_register);
}

static void encode_fib(struct encoder *e)
{
	struct nftnl_expr *expr = add(e, "fib");
	set_u32(expr, NFTNL_EXPR_FIB_DREG, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
	set_u32(expr, NFTNL_EXPR_FIB_FLAGS, NFTA_FIB_F_DADDR);
}

static void encode_state(struct encoder *e)
{
	struct nftnl_expr *expr = add(e, "ct");
	set_u32(expr, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
	set_u32(expr, NFTNL_EXPR_CT_DREG, NFT_REG_1);
}

// The number of the control group at that level of those that the socket is in; if it is not so deep, the
// rule ends here.
static void encode_cgroup(struct encoder *e, uint32_t level)
{
	struct nftnl_expr *expr = add(e, "socket");
	set_u32(expr, NFTNL_EXPR_SOCKET_KEY, NFT_SOCKET_CGROUPV2);
	set_u32(expr, NFTNL_EXPR_SOCKET_LEVEL, level);
	set_u32(expr, NFTNL_EXPR_SOCKET_DREG, NFT_REG_1);
}

// Whether it is transparent, if there is a socket; else the rule ends here.
static void encode_socket(struct encoder *e)
{
	struct nftnl_expr *expr = add(e, "socket");
	set_u32(expr, NFTNL_EXPR_SOCKET_KEY, NFT_SOCKET_TRANSPARENT);
	set_u32(expr, NFTNL_EXPR_SOCKET_DREG, NFT_REG_1);
}

// Of as many bytes as the register has.
static void encode_mask(struct encoder *e, const void *mask, uint32_t len)
{
	const uint32_t zero = 0;
	struct nftnl_expr *expr = add(e, "bitwise");
	set_u32(expr, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_BITWISE_LEN, len);
	set_bytes(e, expr, NFTNL_EXPR_BITWISE_MASK, mask, len);
	set_bytes(e, expr, NFTNL_EXPR_BITWISE_XOR, &zero, len);
}

static void encode_lookup(struct encoder *e, const struct field_load *load, const struct rule_match *match)
{
	if (load->convert_for_sets) {
		struct nftnl_expr *expr = add(e, "byteorder");
		set_u32(expr, NFTNL_EXPR_BYTEORDER_SREG, NFT_REG_1);
		set_u32(expr, NFTNL_EXPR_BYTEORDER_DREG, NFT_REG_1);
		set_u32(expr, NFTNL_EXPR_BYTEORDER_OP, NFT_BYTEORDER_HTON);
		set_u32(expr, NFTNL_EXPR_BYTEORDER_LEN, load->len);
		set_u32(expr, NFTNL_EXPR_BYTEORDER_SIZE, load->len);
	}
	struct nftnl_expr *expr = add(e, "lookup");
	set_u32(expr, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_LOOKUP_SET_ID, (uint32_t)match->set + 1);
	if (match->negated)
		set_u32(expr, NFTNL_EXPR_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
	if (expr && nftnl_expr_set_str(expr, NFTNL_EXPR_LOOKUP_SET, e->ruleset->sets[match->set].name) < 0)
		e->failed = true;
}

// The value as the register has it; returns its length.
static uint32_t value_bytes(const struct rule_match *match, const struct field_load *load,
			    uint8_t ret_bytes[IFNAMSIZ])
{
	uint16_t port = htons((uint16_t)match->value);
	memset(ret_bytes, 0, IFNAMSIZ);
	if (load->len == IFNAMSIZ) {
		size_t len = strlen(match->name);
		memcpy(ret_bytes, match->name, len);
		// A prefix is compared without the star and without what follows.
		return match->name[len - 1] == '*' ? (uint32_t)len - 1 : IFNAMSIZ;
	}
	if (load->kind == LOAD_CGROUP)
		memcpy(ret_bytes, &match->cgroup, sizeof match->cgroup);
	else if (load->big_endian)
		memcpy(ret_bytes, &port, sizeof port);
	else if (load->len == 1)
		ret_bytes[0] = (uint8_t)match->value;
	else
		memcpy(ret_bytes, &match->value, sizeof match->value);
	return load->len;
}

static void encode_present(struct encoder *e, enum rule_field field)
{
	const uint32_t no_bit = 0;
	const uint8_t most = TRANSPARENT_MOST;
	if (field == RULE_NEW)
		encode_cmp(e, NFT_CMP_NEQ, &no_bit, sizeof no_bit);
	else
		encode_cmp(e, NFT_CMP_LTE, &most, sizeof most);
}

static void encode_bits(struct encoder *e, const struct rule_match *match)
{
	const uint32_t state = STATE_NEW;
	const uint8_t flags = RULE_SYN_MASK;
	if (match->field == RULE_NEW)
		encode_mask(e, &state, sizeof state);
	else if (match->field == RULE_SYN)
		encode_mask(e, &flags, sizeof flags);
	else if (match->field == RULE_MARK && match->mask != UINT32_MAX)
		encode_mask(e, &match->mask, sizeof match->mask);
}

static void encode_load(struct encoder *e, const struct rule_match *match)
{
	const struct field_load *load = &loads[match->field];
	switch (load->kind) {
	case LOAD_META:
		encode_meta(e, load->key);
		break;
	case LOAD_PAYLOAD:
		encode_dependency(e, load);
		encode_payload(e, load, NFT_REG_1);
		break;
	case LOAD_FIB:
		encode_fib(e);
		break;
	case LOAD_STATE:
		encode_state(e);
		break;
	case LOAD_SOCKET:
		encode_socket(e);
		break;
	case LOAD_CGROUP:
		encode_cgroup(e, match->value);
		break;
	case LOAD_QUERY:
		encode_dependency(e, &loads[queries[match->field == RULE_QUERY6].source]);
		encode_query(e, match->field);
		break;
	}
}

static void encode_match(struct encoder *e, const struct rule_match *match)
{
	const struct field_load *load = &loads[match->field];
	uint8_t value[IFNAMSIZ];
	encode_load(e, match);
	encode_bits(e, match);
	if (match->set >= 0)
		encode_lookup(e, load, match);
	else if (match->field == RULE_NEW || match->field == RULE_LISTENS)
		encode_present(e, match->field);
	else
		encode_cmp(e, match->negated ? NFT_CMP_NEQ : NFT_CMP_EQ, value,
			   value_bytes(match, load, value));
}

static void encode_verdict(struct encoder *e, uint32_t verdict, const char *chain)
{
	struct nftnl_expr *expr = add(e, "immediate");
	set_u32(expr, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
	set_u32(expr, NFTNL_EXPR_IMM_VERDICT, verdict);
	if (expr && chain && nftnl_expr_set_str(expr, NFTNL_EXPR_IMM_CHAIN, chain) < 0)
		e->failed = true;
}

static void encode_u16(struct encoder *e, uint16_t value)
{
	struct nftnl_expr *expr = add(e, "immediate");
	set_u32(expr, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
	set_bytes(e, expr, NFTNL_EXPR_IMM_DATA, &value, sizeof value);
}

// An entry that is there already stays as it is. If there is no room, the rule ends.
static void encode_remember(struct encoder *e, const struct rule *rule)
{
	enum rule_field field = rule_set_field(e->ruleset->sets[rule->value].type);
	if (field == RULE_SEQUENCE)
		encode_payload(e, &loads[field], NFT_REG_1);
	else
		encode_query(e, field); // another match of the rule has asked for the family
	struct nftnl_expr *expr = add(e, "dynset");
	set_u32(expr, NFTNL_EXPR_DYNSET_SREG_KEY, NFT_REG_1);
	set_u32(expr, NFTNL_EXPR_DYNSET_OP, NFT_DYNSET_OP_ADD);
	set_u32(expr, NFTNL_EXPR_DYNSET_SET_ID, rule->value + 1);
	if (expr &&
	    nftnl_expr_set_str(expr, NFTNL_EXPR_DYNSET_SET_NAME, e->ruleset->sets[rule->value].name) < 0)
		e->failed = true;
}

static void encode_action(struct encoder *e, const struct rule *rule)
{
	struct nftnl_expr *expr;
	switch (rule->action) {
	case RULE_RETURN:
		encode_verdict(e, (uint32_t)NFT_RETURN, NULL);
		break;
	case RULE_GOTO:
		encode_verdict(e, (uint32_t)NFT_GOTO, rule_chains[rule->value].name);
		break;
	case RULE_REDIRECT:
		encode_u16(e, htons((uint16_t)rule->value));
		expr = add(e, "redir");
		set_u32(expr, NFTNL_EXPR_REDIR_REG_PROTO_MIN, NFT_REG_1);
		set_u32(expr, NFTNL_EXPR_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
		break;
	case RULE_ZONE:
	case RULE_ZONE_ORIGINAL:
		encode_u16(e, (uint16_t)rule->value);
		expr = add(e, "ct");
		set_u32(expr, NFTNL_EXPR_CT_KEY, NFT_CT_ZONE);
		set_u32(expr, NFTNL_EXPR_CT_SREG, NFT_REG_1);
		if (expr && rule->action == RULE_ZONE_ORIGINAL)
			nftnl_expr_set_u8(expr, NFTNL_EXPR_CT_DIR, DIRECTION_ORIGINAL);
		break;
	case RULE_TPROXY:
		encode_u16(e, htons((uint16_t)rule->value));
		expr = add(e, "tproxy");
		set_u32(expr, NFTNL_EXPR_TPROXY_FAMILY, NFPROTO_UNSPEC);
		set_u32(expr, NFTNL_EXPR_TPROXY_REG_PORT, NFT_REG_1);
		encode_verdict(e, NF_ACCEPT, NULL);
		break;
	case RULE_DROP:
		encode_verdict(e, NF_DROP, NULL);
		break;
	case RULE_REMEMBER:
		encode_remember(e, rule);
		break;
	case RULE_REJECT:
		expr = add(e, "reject");
		set_u32(expr, NFTNL_EXPR_REJECT_TYPE, NFT_REJECT_TCP_RST);
		break;
	}
}

static void encode_names(struct encoder *e, const struct rule *rule)
{
	struct nftnl_udata_buf *comment = nftnl_udata_buf_alloc(RULE_COMMENT_MAX + 8);
	nftnl_rule_set_u32(e->rule, NFTNL_RULE_FAMILY, NFPROTO_INET);
	if (nftnl_rule_set_str(e->rule, NFTNL_RULE_TABLE, NFT_TABLE) < 0 ||
	    nftnl_rule_set_str(e->rule, NFTNL_RULE_CHAIN, rule_chains[rule->chain].name) < 0)
		e->failed = true;
	if (!comment || !nftnl_udata_put_strz(comment, NFTNL_UDATA_RULE_COMMENT, rule->comment) ||
	    nftnl_rule_set_data(e->rule, NFTNL_RULE_USERDATA, nftnl_udata_buf_data(comment),
				nftnl_udata_buf_len(comment)) < 0)
		e->failed = true;
	if (comment)
		nftnl_udata_buf_free(comment);
}

int nft_rule_encode(const struct ruleset *ruleset, const struct rule *rule, struct nftnl_rule **ret_rule)
{
	struct encoder e = {.ruleset = ruleset, .rule = nftnl_rule_alloc()};
	if (!e.rule)
		return -ENOMEM;
	encode_names(&e, rule);
	for (size_t i = 0; i < rule->match_count; i++)
		encode_match(&e, &rule->matches[i]);
	add(&e, "counter");
	encode_action(&e, rule);
	if (e.failed) {
		nftnl_rule_free(e.rule);
		return -ENOMEM;
	}
	*ret_rule = e.rule;
	return 0;
}

// --- decoding ----------------------------------------------------------------------------------------------
struct decoder {
	const struct ruleset *ruleset;
	struct rule *rule;
	struct rule_match match; // under way
	bool loaded;		 // a field is in the register
	bool port;		 // and behind it the port that a datagram came from
	uint32_t immediate;	 // a number is in the register, as stored
	bool done;		 // the action was seen
};

static bool decode_load(struct decoder *d, enum rule_field field)
{
	d->match = (struct rule_match){.field = field, .set = -1, .mask = UINT32_MAX};
	d->loaded = true;
	d->port = false;
	return true;
}

// Which query the field in the register is the first part of; NULL: of none.
static const struct query_load *query_of(const struct decoder *d)
{
	for (size_t i = 0; i < ARRAY_SIZE(queries) && d->loaded; i++)
		if (queries[i].source == d->match.field)
			return &queries[i];
	return NULL;
}

static bool decode_meta(struct decoder *d, const struct nftnl_expr *expr)
{
	uint32_t key = nftnl_expr_get_u32(expr, NFTNL_EXPR_META_KEY);
	if (!nftnl_expr_is_set(expr, NFTNL_EXPR_META_DREG))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(loads); i++)
		if (loads[i].kind == LOAD_META && loads[i].key == key)
			return decode_load(d, (enum rule_field)i);
	return false;
}

// Takes back the match on family or protocol that comes with a header's field.
static bool take_dependency(struct decoder *d, const struct field_load *load)
{
	if (!load->family && !load->protocol)
		return true;
	for (size_t i = 0; i < d->rule->match_count && load->family; i++)
		if (d->rule->matches[i].field == (load->family == NFPROTO_IPV4 ? RULE_QUERY4 : RULE_QUERY6))
			return true;
	if (d->rule->match_count == 0)
		return false;
	const struct rule_match *last = &d->rule->matches[d->rule->match_count - 1];
	bool family = load->family && last->field == RULE_FAMILY && last->value == load->family;
	bool protocol = load->protocol && last->field == RULE_PROTOCOL && last->value == load->protocol;
	if (last->negated || (!family && !protocol))
		return false;
	d->rule->match_count--;
	return true;
}

static bool is_payload(const struct nftnl_expr *expr, const struct field_load *load)
{
	return load->kind == LOAD_PAYLOAD && load->key == nftnl_expr_get_u32(expr, NFTNL_EXPR_PAYLOAD_BASE) &&
	       load->offset == nftnl_expr_get_u32(expr, NFTNL_EXPR_PAYLOAD_OFFSET) &&
	       load->len == nftnl_expr_get_u32(expr, NFTNL_EXPR_PAYLOAD_LEN);
}

static bool decode_payload(struct decoder *d, const struct nftnl_expr *expr)
{
	for (size_t i = 0; i < ARRAY_SIZE(loads); i++)
		if (is_payload(expr, &loads[i]) && take_dependency(d, &loads[i]))
			return decode_load(d, (enum rule_field)i);
	return false;
}

static bool decode_original(struct decoder *d, const struct nftnl_expr *expr)
{
	const struct query_load *query = query_of(d);
	uint32_t key = nftnl_expr_get_u32(expr, NFTNL_EXPR_CT_KEY);
	uint32_t dreg = nftnl_expr_get_u32(expr, NFTNL_EXPR_CT_DREG);
	if (!query || nftnl_expr_get_u8(expr, NFTNL_EXPR_CT_DIR) != DIRECTION_ORIGINAL)
		return false;
	if (!d->port) {
		d->port = true;
		return key == NFT_CT_PROTO_SRC && dreg == query->port_register;
	}
	return key == query->server && dreg == query->server_register && decode_load(d, query->field);
}

static bool decode_fib(struct decoder *d, const struct nftnl_expr *expr)
{
	return nftnl_expr_get_u32(expr, NFTNL_EXPR_FIB_RESULT) == NFT_FIB_RESULT_ADDRTYPE &&
	       nftnl_expr_get_u32(expr, NFTNL_EXPR_FIB_FLAGS) == NFTA_FIB_F_DADDR &&
	       decode_load(d, RULE_DEST_TYPE);
}

static bool decode_socket(struct decoder *d, const struct nftnl_expr *expr)
{
	uint32_t key = nftnl_expr_get_u32(expr, NFTNL_EXPR_SOCKET_KEY);
	if (key == NFT_SOCKET_CGROUPV2) {
		decode_load(d, RULE_CGROUP);
		d->match.value = nftnl_expr_get_u32(expr, NFTNL_EXPR_SOCKET_LEVEL);
		return true;
	}
	return key == NFT_SOCKET_TRANSPARENT && decode_load(d, RULE_LISTENS);
}

static bool decode_mask(struct decoder *d, const struct nftnl_expr *expr)
{
	uint32_t len;
	const void *mask = nftnl_expr_get(expr, NFTNL_EXPR_BITWISE_MASK, &len);
	if (!d->loaded || !mask)
		return false;
	if (d->match.field == RULE_SYN) {
		d->match.mask = *(const uint8_t *)mask;
		return len == 1 && d->match.mask == RULE_SYN_MASK;
	}
	if (len != sizeof d->match.mask)
		return false;
	memcpy(&d->match.mask, mask, len);
	return d->match.field == RULE_MARK || (d->match.field == RULE_NEW && d->match.mask == STATE_NEW);
}

static bool decode_byteorder(struct decoder *d, const struct nftnl_expr *expr)
{
	(void)expr;
	return d->loaded && loads[d->match.field].convert_for_sets;
}

static bool add_match(struct decoder *d, bool negated)
{
	if (!d->loaded || d->port || d->rule->match_count == RULE_MATCHES_MAX)
		return false;
	d->match.negated = negated;
	d->rule->matches[d->rule->match_count++] = d->match;
	d->loaded = false;
	return true;
}

static bool decode_name(struct rule_match *match, const uint8_t *bytes, uint32_t len)
{
	if (len > IFNAMSIZ)
		return false;
	memset(match->name, 0, sizeof match->name);
	memcpy(match->name, bytes, len);
	if (len < IFNAMSIZ)
		match->name[len] = '*';
	return match->name[IFNAMSIZ - 1] == 0;
}

static bool decode_value(struct rule_match *match, const uint8_t *bytes, uint32_t len)
{
	const struct field_load *load = &loads[match->field];
	uint16_t port;
	if (load->len == IFNAMSIZ && load->kind == LOAD_META)
		return decode_name(match, bytes, len);
	if (len != load->len)
		return false;
	if (match->field == RULE_LISTENS)
		return bytes[0] == TRANSPARENT_MOST;
	if (match->field == RULE_SYN && (match->mask != RULE_SYN_MASK || bytes[0] != RULE_SYN_VALUE))
		return false;
	if (load->kind == LOAD_CGROUP) {
		memcpy(&match->cgroup, bytes, len);
	} else if (load->big_endian) {
		memcpy(&port, bytes, sizeof port);
		match->value = ntohs(port);
	} else if (len == 1) {
		match->value = bytes[0];
	} else if (len == sizeof match->value) {
		memcpy(&match->value, bytes, len);
	} else {
		return false;
	}
	return true;
}

static bool decode_cmp(struct decoder *d, const struct nftnl_expr *expr)
{
	uint32_t len, op = nftnl_expr_get_u32(expr, NFTNL_EXPR_CMP_OP);
	const void *bytes = nftnl_expr_get(expr, NFTNL_EXPR_CMP_DATA, &len);
	if (!d->loaded || !bytes || !decode_value(&d->match, bytes, len))
		return false;
	bool listens = d->match.field == RULE_LISTENS;
	bool present = listens || d->match.field == RULE_NEW;
	if (op != (listens ? NFT_CMP_LTE : NFT_CMP_NEQ) && (present || op != NFT_CMP_EQ))
		return false;
	if (present && d->match.value)
		return false;
	if (present)
		d->match.mask = UINT32_MAX;
	return add_match(d, !present && op == NFT_CMP_NEQ);
}

static bool decode_lookup(struct decoder *d, const struct nftnl_expr *expr)
{
	const char *name = nftnl_expr_get_str(expr, NFTNL_EXPR_LOOKUP_SET);
	d->match.set = name ? ruleset_find_set(d->ruleset, name) : -1;
	return d->match.set >= 0 &&
	       add_match(d, nftnl_expr_get_u32(expr, NFTNL_EXPR_LOOKUP_FLAGS) & NFT_LOOKUP_F_INV);
}

static bool decode_counter(struct decoder *d, const struct nftnl_expr *expr)
{
	d->rule->packets = nftnl_expr_get_u64(expr, NFTNL_EXPR_CTR_PACKETS);
	d->rule->bytes = nftnl_expr_get_u64(expr, NFTNL_EXPR_CTR_BYTES);
	return true;
}

static bool set_action(struct decoder *d, enum rule_action action, uint32_t value)
{
	if (d->done)
		return false;
	d->rule->action = action;
	d->rule->value = value;
	d->done = true;
	return true;
}

static bool decode_goto(struct decoder *d, const struct nftnl_expr *expr)
{
	const char *chain = nftnl_expr_get_str(expr, NFTNL_EXPR_IMM_CHAIN);
	for (uint32_t i = 0; chain && i < CHAIN_COUNT; i++)
		if (strcmp(rule_chains[i].name, chain) == 0)
			return set_action(d, RULE_GOTO, i);
	return false;
}

static bool decode_immediate(struct decoder *d, const struct nftnl_expr *expr)
{
	uint32_t len;
	if (nftnl_expr_is_set(expr, NFTNL_EXPR_IMM_VERDICT)) {
		uint32_t verdict = nftnl_expr_get_u32(expr, NFTNL_EXPR_IMM_VERDICT);
		if (verdict == (uint32_t)NFT_GOTO)
			return decode_goto(d, expr);
		// Behind tproxy: it is part of that.
		if (verdict == NF_ACCEPT)
			return d->done && d->rule->action == RULE_TPROXY;
		return verdict == NF_DROP ? set_action(d, RULE_DROP, 0)
					  : verdict == (uint32_t)NFT_RETURN && set_action(d, RULE_RETURN, 0);
	}
	const void *bytes = nftnl_expr_get(expr, NFTNL_EXPR_IMM_DATA, &len);
	uint16_t value;
	if (!bytes || len < sizeof value)
		return false;
	memcpy(&value, bytes, sizeof value);
	d->immediate = value;
	return true;
}

static bool decode_redir(struct decoder *d, const struct nftnl_expr *expr)
{
	(void)expr;
	return set_action(d, RULE_REDIRECT, ntohs((uint16_t)d->immediate));
}

static bool decode_tproxy(struct decoder *d, const struct nftnl_expr *expr)
{
	return nftnl_expr_is_set(expr, NFTNL_EXPR_TPROXY_REG_PORT) &&
	       set_action(d, RULE_TPROXY, ntohs((uint16_t)d->immediate));
}

static bool decode_dynset(struct decoder *d, const struct nftnl_expr *expr)
{
	const char *name = nftnl_expr_get_str(expr, NFTNL_EXPR_DYNSET_SET_NAME);
	int set = name ? ruleset_find_set(d->ruleset, name) : -1;
	bool ours = set >= 0 && d->loaded && d->match.field == rule_set_field(d->ruleset->sets[set].type) &&
		    nftnl_expr_get_u32(expr, NFTNL_EXPR_DYNSET_OP) == NFT_DYNSET_OP_ADD;
	d->loaded = false;
	return ours && set_action(d, RULE_REMEMBER, (uint32_t)set);
}

static bool decode_reject(struct decoder *d, const struct nftnl_expr *expr)
{
	return nftnl_expr_get_u32(expr, NFTNL_EXPR_REJECT_TYPE) == NFT_REJECT_TCP_RST &&
	       set_action(d, RULE_REJECT, 0);
}

static bool decode_ct(struct decoder *d, const struct nftnl_expr *expr)
{
	if (nftnl_expr_get_u32(expr, NFTNL_EXPR_CT_KEY) == NFT_CT_STATE)
		return nftnl_expr_is_set(expr, NFTNL_EXPR_CT_DREG) && decode_load(d, RULE_NEW);
	if (nftnl_expr_is_set(expr, NFTNL_EXPR_CT_DREG))
		return decode_original(d, expr);
	bool original = nftnl_expr_is_set(expr, NFTNL_EXPR_CT_DIR);
	return nftnl_expr_get_u32(expr, NFTNL_EXPR_CT_KEY) == NFT_CT_ZONE &&
	       nftnl_expr_is_set(expr, NFTNL_EXPR_CT_SREG) &&
	       (!original || nftnl_expr_get_u8(expr, NFTNL_EXPR_CT_DIR) == DIRECTION_ORIGINAL) &&
	       set_action(d, original ? RULE_ZONE_ORIGINAL : RULE_ZONE, d->immediate);
}

static bool decode_expr(struct decoder *d, const struct nftnl_expr *expr)
{
	static const struct {
		const char *name;
		bool (*decode)(struct decoder *d, const struct nftnl_expr *expr);
	} rows[] = {
	    {"meta", decode_meta},	     {"payload", decode_payload}, {"fib", decode_fib},
	    {"bitwise", decode_mask},	     {"cmp", decode_cmp},	  {"lookup", decode_lookup},
	    {"byteorder", decode_byteorder}, {"counter", decode_counter}, {"immediate", decode_immediate},
	    {"redir", decode_redir},	     {"ct", decode_ct},		  {"tproxy", decode_tproxy},
	    {"socket", decode_socket},	     {"dynset", decode_dynset},	  {"reject", decode_reject},
	};
	const char *name = nftnl_expr_get_str(expr, NFTNL_EXPR_NAME);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (strcmp(rows[i].name, name) == 0)
			return rows[i].decode(d, expr);
	return false;
}

static int find_comment(const struct nftnl_udata *attribute, void *arg)
{
	struct rule *rule = arg;
	uint8_t len = nftnl_udata_len(attribute);
	if (nftnl_udata_type(attribute) == NFTNL_UDATA_RULE_COMMENT && len < sizeof rule->comment)
		memcpy(rule->comment, nftnl_udata_get(attribute), len);
	return 0;
}

static void decode_names(const struct nftnl_rule *nlr, struct rule *rule)
{
	uint32_t len;
	const char *chain = nftnl_rule_get_str(nlr, NFTNL_RULE_CHAIN);
	const void *userdata = nftnl_rule_get_data(nlr, NFTNL_RULE_USERDATA, &len);
	if (userdata)
		nftnl_udata_parse(userdata, len, find_comment, rule);
	rule->comment[sizeof rule->comment - 1] = 0;
	for (enum rule_chain i = 0; chain && i < CHAIN_COUNT; i++)
		if (strcmp(rule_chains[i].name, chain) == 0)
			rule->chain = i;
	rule->foreign = rule->chain == CHAIN_COUNT;
}

int nft_rule_decode(const struct nftnl_rule *nlr, struct ruleset *ruleset)
{
	struct rule *rule = ruleset_add_rule(ruleset, CHAIN_COUNT);
	struct nftnl_expr_iter *iter = nftnl_expr_iter_create(nlr);
	if (!rule || !iter) {
		if (iter)
			nftnl_expr_iter_destroy(iter);
		return -ENOMEM;
	}
	decode_names(nlr, rule);
	struct decoder d = {.ruleset = ruleset, .rule = rule};
	for (struct nftnl_expr *expr; (expr = nftnl_expr_iter_next(iter));)
		if (!decode_expr(&d, expr))
			rule->foreign = true;
	if (!d.done || d.loaded || !rule->comment[0])
		rule->foreign = true;
	nftnl_expr_iter_destroy(iter);
	return 0;
}
