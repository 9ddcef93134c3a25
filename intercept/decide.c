// SPDX-License-Identifier: Apache-2.0
#include "intercept/decide.h"

#include <linux/rtnetlink.h>

// What a field of the connection is, as sets have it: the bytes in network order; or a name.
struct field_value {
	bool present; // a port of another protocol, an address of the other family: nothing can match
	uint8_t bytes[16];
	const char *name;
};

static struct field_value of_number(uint64_t number, size_t len)
{
	struct field_value value = {.present = true};
	for (size_t i = 0; i < len; i++)
		value.bytes[i] = (uint8_t)(number >> 8 * (len - 1 - i));
	return value;
}

static struct field_value of_address(const struct ip *ip, uint8_t family)
{
	struct field_value value = {.present = ip->family == family};
	memcpy(value.bytes, ip->bytes, sizeof value.bytes);
	return value;
}

static struct field_value of_port(const struct flow *flow, uint8_t protocol, uint16_t port)
{
	struct field_value value = of_number(port, 2);
	value.present = flow->protocol == protocol;
	return value;
}

// What is decided on is a connection that begins.
static struct field_value of_first_flags(const struct flow *flow)
{
	struct field_value value = of_number(RULE_SYN_VALUE, 4);
	value.present = flow->protocol == IPPROTO_TCP;
	return value;
}

// An interface that a packet does not pass has no name, which differs from every name.
static struct field_value of_name(const char *name)
{
	return (struct field_value){.present = true, .name = name ? name : ""};
}

static struct field_value field_of(const struct flow *flow, enum rule_field field)
{
	switch (field) {
	case RULE_FAMILY:
		return of_number(flow->dest.ip.family, 4);
	case RULE_PROTOCOL:
		return of_number(flow->protocol, 4);
	case RULE_MARK:
		return of_number(flow->mark, 4);
	case RULE_USER:
		return of_number(flow->user, 4);
	case RULE_GROUP:
		return of_number(flow->group, 4);
	case RULE_IN_INTERFACE:
		return of_name(flow->in_interface);
	case RULE_OUT_INTERFACE:
		return of_name(flow->out_interface);
	case RULE_SOURCE4:
	case RULE_SOURCE6:
		return of_address(&flow->source.ip, field == RULE_SOURCE4 ? AF_INET : AF_INET6);
	case RULE_DEST4:
	case RULE_DEST6:
		return of_address(&flow->dest.ip, field == RULE_DEST4 ? AF_INET : AF_INET6);
	case RULE_TCP_DEST_PORT:
		return of_port(flow, IPPROTO_TCP, flow->dest.port);
	case RULE_UDP_DEST_PORT:
		return of_port(flow, IPPROTO_UDP, flow->dest.port);
	case RULE_UDP_SOURCE_PORT:
		return of_port(flow, IPPROTO_UDP, flow->source.port);
	case RULE_NEW: // that is what is decided on
	case RULE_LISTENS:
		return of_number(0, 4);
	case RULE_SYN:
		return of_first_flags(flow);
	case RULE_CGROUP:   // has more than one value
	case RULE_SEQUENCE: // of no connection that it is asked about
	case RULE_QUERY4:
	case RULE_QUERY6:
		break;
	case RULE_DEST_TYPE:
		return of_number(flow->dest_is_local ? RTN_LOCAL : RTN_UNICAST, 4);
	}
	return (struct field_value){0};
}

static bool set_has(const struct rule_set *set, const uint8_t *key)
{
	size_t len = rule_set_key_len(set->type);
	for (size_t i = 0; i < set->count; i++)
		if (memcmp(key, set->ranges[i].first, len) >= 0 && memcmp(key, set->ranges[i].last, len) <= 0)
			return true;
	return false;
}

static bool name_is(const char *name, const char *wanted)
{
	size_t len = strlen(wanted);
	if (len && wanted[len - 1] == '*')
		return strncmp(name, wanted, len - 1) == 0;
	return strcmp(name, wanted) == 0;
}

static size_t value_len(enum rule_field field)
{
	return field == RULE_TCP_DEST_PORT || field == RULE_UDP_DEST_PORT || field == RULE_UDP_SOURCE_PORT
		   ? 2
		   : 4;
}

static bool value_is(const struct rule_match *match, const struct field_value *value)
{
	size_t len = value_len(match->field);
	uint32_t number = 0;
	if (value->name)
		return name_is(value->name, match->name);
	for (size_t i = 0; i < len; i++)
		number = number << 8 | value->bytes[i];
	return (number & match->mask) == match->value;
}

static bool line_has(const struct cgroup_line *line, uint64_t id)
{
	for (size_t i = 0; i < line->count; i++)
		if (line->ids[i] == id)
			return true;
	return false;
}

static bool match_holds(const struct ruleset *ruleset, const struct rule_match *match,
			const struct flow *flow)
{
	if (match->field == RULE_CGROUP)
		return !(flow->unknown & 1u << RULE_CGROUP) &&
		       line_has(&flow->cgroups, match->cgroup) != match->negated;
	struct field_value value = field_of(flow, match->field);
	if (!value.present || flow->unknown & 1u << match->field)
		return false;
	bool equal =
	    match->set >= 0 ? set_has(&ruleset->sets[match->set], value.bytes) : value_is(match, &value);
	return equal != match->negated;
}

// What was read back and is not of our kind cannot be judged: it does not hold, and no match says why.
static struct rule_visit look_at(const struct ruleset *ruleset, const struct rule *rule,
				 const struct flow *flow)
{
	struct rule_visit visit = {.rule = rule, .unknown = rule->foreign};
	for (size_t i = 0; i < rule->match_count && !visit.failed; i++)
		if (!match_holds(ruleset, &rule->matches[i], flow))
			visit.failed = &rule->matches[i];
	if (visit.failed && flow->unknown & 1u << visit.failed->field)
		visit.unknown = true;
	visit.decides = !visit.failed && !rule->foreign && rule->action != RULE_GOTO;
	return visit;
}

const struct rule *ruleset_trace(const struct ruleset *ruleset, enum rule_chain chain,
				 const struct flow *flow, rule_visit_fn visit, void *arg)
{
	size_t i = 0;
	while (i < ruleset->rule_count) {
		const struct rule *rule = &ruleset->rules[i++];
		if (rule->chain != chain)
			continue;
		struct rule_visit seen = look_at(ruleset, rule, flow);
		if (visit)
			visit(&seen, arg);
		if (seen.decides)
			return rule;
		if (seen.failed || rule->foreign)
			continue;
		// Nothing leads back to where it came from: chains end.
		chain = (enum rule_chain)rule->value;
		i = 0;
	}
	return NULL;
}

const struct rule *ruleset_decide(const struct ruleset *ruleset, enum rule_chain chain,
				  const struct flow *flow)
{
	return ruleset_trace(ruleset, chain, flow, NULL, NULL);
}
