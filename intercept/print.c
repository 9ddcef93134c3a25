// SPDX-License-Identifier: Apache-2.0
// Rules as nft's text.
#include "intercept/rules.h"

#include "base/limits.h"
#include "base/mem.h"

#include <linux/rtnetlink.h>
#include <netinet/in.h>

static const char *const field_names[] = {
    [RULE_FAMILY] = "meta nfproto",
    [RULE_PROTOCOL] = "meta l4proto",
    [RULE_MARK] = "meta mark",
    [RULE_USER] = "meta skuid",
    [RULE_GROUP] = "meta skgid",
    [RULE_CGROUP] = "socket cgroupv2 level",
    [RULE_IN_INTERFACE] = "iifname",
    [RULE_OUT_INTERFACE] = "oifname",
    [RULE_SOURCE4] = "ip saddr",
    [RULE_SOURCE6] = "ip6 saddr",
    [RULE_DEST4] = "ip daddr",
    [RULE_DEST6] = "ip6 daddr",
    [RULE_TCP_DEST_PORT] = "tcp dport",
    [RULE_UDP_DEST_PORT] = "udp dport",
    [RULE_UDP_SOURCE_PORT] = "udp sport",
    [RULE_DEST_TYPE] = "fib daddr type",
    [RULE_NEW] = "ct state",
    [RULE_LISTENS] = "socket transparent",
    [RULE_SEQUENCE] = "tcp sequence",
    [RULE_SYN] = "tcp flags",
    [RULE_QUERY4] = "ip saddr . ct original proto-src . ct original ip daddr",
    [RULE_QUERY6] = "ip6 saddr . ct original proto-src . ct original ip6 daddr",
};

static void print_value(const struct rule_match *match, struct strbuf *out)
{
	switch (match->field) {
	case RULE_FAMILY:
		strbuf_add_text(out, match->value == AF_INET6 ? "ipv6" : "ipv4");
		break;
	case RULE_PROTOCOL:
		strbuf_add_text(out, match->value == IPPROTO_UDP ? "udp" : "tcp");
		break;
	case RULE_MARK:
		strbuf_printf(out, "0x%08x", match->value);
		break;
	case RULE_IN_INTERFACE:
	case RULE_OUT_INTERFACE:
		strbuf_printf(out, "\"%s\"", match->name);
		break;
	case RULE_DEST_TYPE:
		strbuf_add_text(out, match->value == RTN_LOCAL ? "local" : "other");
		break;
	case RULE_NEW:
		strbuf_add_text(out, "new");
		break;
	case RULE_SYN:
		strbuf_add_text(out, "syn / fin,syn,rst,ack");
		break;
	case RULE_LISTENS: // 0 or 1, if there is one
		strbuf_add_text(out, "<= 1");
		break;
	default:
		strbuf_printf(out, "%u", match->value);
	}
}

// As nft does: of one that is gone there is no more than its number.
static void print_cgroup(const char *above, const struct rule_match *match, struct strbuf *out)
{
	strbuf_printf(out, "%s %u %s", field_names[match->field], match->value, match->negated ? "!= " : "");
	if (match->path)
		strbuf_printf(out, "\"%s%s\"", above ? above : "", match->path);
	else
		strbuf_printf(out, "%llu", (unsigned long long)match->cgroup);
}

void rule_match_print(const struct ruleset *ruleset, const struct rule_match *match, struct strbuf *out)
{
	if (match->field == RULE_CGROUP) {
		print_cgroup(NULL, match, out);
		return;
	}
	bool masked = match->field == RULE_MARK && match->mask != UINT32_MAX;
	strbuf_printf(out, "%s ", field_names[match->field]);
	if (masked)
		strbuf_printf(out, "& 0x%08x ", match->mask);
	if (match->negated)
		strbuf_add_text(out, "!= ");
	else if (masked)
		strbuf_add_text(out, "== ");
	if (match->set >= 0)
		strbuf_printf(out, "@%s", ruleset->sets[match->set].name);
	else
		print_value(match, out);
}

static void print_action(const struct ruleset *ruleset, const struct rule *rule, struct strbuf *out)
{
	switch (rule->action) {
	case RULE_RETURN:
		strbuf_add_text(out, "return");
		break;
	case RULE_REDIRECT:
		strbuf_printf(out, "redirect to :%u", rule->value);
		break;
	case RULE_ZONE:
		strbuf_printf(out, "ct zone set %u", rule->value);
		break;
	case RULE_ZONE_ORIGINAL:
		strbuf_printf(out, "ct original zone set %u", rule->value);
		break;
	case RULE_TPROXY:
		strbuf_printf(out, "tproxy to :%u accept", rule->value);
		break;
	case RULE_DROP:
		strbuf_add_text(out, "drop");
		if (rule->value)
			strbuf_printf(out, " for %u ms", rule->value);
		break;
	case RULE_REMEMBER:
		strbuf_printf(out, "add @%s { %s }", ruleset->sets[rule->value].name,
			      field_names[rule_set_field(ruleset->sets[rule->value].type)]);
		break;
	case RULE_REJECT:
		strbuf_add_text(out, "reject with tcp reset");
		break;
	case RULE_GOTO:
		strbuf_printf(out, "goto %s", rule_chains[rule->value].name);
		break;
	}
}

void rule_print(const struct ruleset *ruleset, const struct rule *rule, struct strbuf *out)
{
	if (rule->foreign) {
		strbuf_add_text(out, "(not made by weir)");
		return;
	}
	for (size_t i = 0; i < rule->match_count; i++) {
		rule_match_print(ruleset, &rule->matches[i], out);
		strbuf_add_char(out, ' ');
	}
	print_action(ruleset, rule, out);
}

// --- sets --------------------------------------------------------------------------------------------------
static void print_key(enum rule_set_type type, const uint8_t *key, struct strbuf *out)
{
	char text[ADDR_TEXT_MAX];
	struct ip ip = {.family = type == SET_IPV4 ? AF_INET : AF_INET6};
	size_t len = rule_set_key_len(type);
	uint32_t number = 0;
	if (type == SET_IPV4 || type == SET_IPV6) {
		memcpy(ip.bytes, key, len);
		strbuf_add_text(out, ip_format(&ip, text));
		return;
	}
	for (size_t i = 0; i < len; i++)
		number = number << 8 | key[i];
	strbuf_printf(out, "%u", number);
}

// The bits of the prefix that the range is, or -1.
static int prefix_bits(const struct rule_range *range, size_t len)
{
	size_t bits = 0;
	while (bits < len * 8 && !((range->first[bits / 8] ^ range->last[bits / 8]) & (0x80u >> (bits % 8))))
		bits++;
	for (size_t bit = bits; bit < len * 8; bit++) {
		uint8_t mask = (uint8_t)(0x80u >> (bit % 8));
		if ((range->first[bit / 8] & mask) || !(range->last[bit / 8] & mask))
			return -1;
	}
	return (int)bits;
}

static void print_range(enum rule_set_type type, const struct rule_range *range, struct strbuf *out)
{
	size_t len = rule_set_key_len(type);
	int bits = prefix_bits(range, len);
	print_key(type, range->first, out);
	if (bits == (int)len * 8)
		return;
	if ((type == SET_IPV4 || type == SET_IPV6) && bits >= 0) {
		strbuf_printf(out, "/%d", bits);
	} else {
		strbuf_add_char(out, '-');
		print_key(type, range->last, out);
	}
}

void rule_set_print(const struct rule_set *set, struct strbuf *out)
{
	for (size_t i = 0; i < set->count; i++) {
		if (i)
			strbuf_add_text(out, ", ");
		print_range(set->type, &set->ranges[i], out);
	}
}

// As nft writes it: "3m20s".
static void print_timeout(uint32_t ms, struct strbuf *out)
{
	static const struct {
		uint32_t ms;
		const char *name;
	} units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (ms >= units[i].ms)
			strbuf_printf(out, "%u%s", ms / units[i].ms, units[i].name);
		ms %= units[i].ms;
	}
}

static void print_set(const struct rule_set *set, struct strbuf *out)
{
	static const char *const types[SET_TYPE_COUNT] = {
	    [SET_IPV4] = "type ipv4_addr",
	    [SET_IPV6] = "type ipv6_addr",
	    [SET_PORT] = "type inet_service",
	    [SET_USER] = "type uid",
	    [SET_GROUP] = "type gid",
	    [SET_SEQUENCE] = "typeof tcp sequence",
	    [SET_QUERY4] = "type ipv4_addr . inet_service . ipv4_addr",
	    [SET_QUERY6] = "type ipv6_addr . inet_service . ipv6_addr",
	};
	strbuf_printf(out, "\tset %s {\n\t\t%s\n", set->name, types[set->type]);
	if (set->timeout_ms) {
		strbuf_printf(out, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout ", LIMIT_HELD);
		print_timeout(set->timeout_ms, out);
		strbuf_add_text(out, "\n\t}\n\n");
		return;
	}
	strbuf_add_text(out, "\t\tflags interval\n\t\telements = { ");
	rule_set_print(set, out);
	strbuf_add_text(out, " }\n\t}\n\n");
}

// --- the whole ---------------------------------------------------------------------------------------------
static void print_rule_line(const struct ruleset *ruleset, const struct rule *rule, struct strbuf *out)
{
	strbuf_add_text(out, "\t\t");
	for (size_t i = 0; i < rule->match_count; i++) {
		if (rule->matches[i].field == RULE_CGROUP)
			print_cgroup(ruleset->nft_cgroups, &rule->matches[i], out);
		else
			rule_match_print(ruleset, &rule->matches[i], out);
		strbuf_add_char(out, ' ');
	}
	strbuf_printf(out, "counter packets %llu bytes %llu ", (unsigned long long)rule->packets,
		      (unsigned long long)rule->bytes);
	print_action(ruleset, rule, out);
	strbuf_printf(out, " comment \"%s\"\n", rule->comment);
}

static void print_chain(const struct ruleset *ruleset, enum rule_chain chain, struct strbuf *out)
{
	const struct rule_chain_info *info = &rule_chains[chain];
	strbuf_printf(out, "\tchain %s {\n", info->name);
	if (info->type)
		strbuf_printf(out, "\t\ttype %s hook %s priority %d; policy accept;\n", info->type,
			      info->hook, info->priority);
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (ruleset->rules[i].chain == chain)
			print_rule_line(ruleset, &ruleset->rules[i], out);
	strbuf_add_text(out, "\t}\n");
}

void ruleset_print(const struct ruleset *ruleset, struct strbuf *out)
{
	bool first = true;
	strbuf_add_text(out, "table inet weir {\n");
	for (size_t i = 0; i < ruleset->set_count; i++)
		print_set(&ruleset->sets[i], out);
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT; chain++) {
		if (!ruleset_has_chain(ruleset, chain))
			continue;
		if (!first)
			strbuf_add_char(out, '\n');
		first = false;
		print_chain(ruleset, chain, out);
	}
	strbuf_add_text(out, "}\n");
}
