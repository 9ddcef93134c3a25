// SPDX-License-Identifier: Apache-2.0
// Rulesets as data: sets, comparison.
#include "intercept/rules.h"

#include "base/mem.h"

#include <errno.h>
#include <linux/netfilter.h>
#include <stdlib.h>

// Raw comes before connection tracking (-200), which NAT needs.
const struct rule_chain_info rule_chains[CHAIN_COUNT] = {
    [CHAIN_OUTPUT_RAW] = {"output_raw", "filter", "output", NF_INET_LOCAL_OUT, -300},
    [CHAIN_DNS_ZONE] = {.name = "dns_zone"},
    [CHAIN_DNS_CHOSEN] = {.name = "dns_chosen"},
    [CHAIN_OUTPUT] = {"output", "nat", "output", NF_INET_LOCAL_OUT, -100},
    [CHAIN_CHOSEN] = {.name = "chosen"},
    [CHAIN_PREROUTING] = {"prerouting", "nat", "prerouting", NF_INET_PRE_ROUTING, -100},
    [CHAIN_INBOUND] = {.name = "inbound"},
    [CHAIN_ARRIVING] = {"arriving", "filter", "prerouting", NF_INET_PRE_ROUTING, -150},
    [CHAIN_HANDED] = {.name = "handed"},
    [CHAIN_HOLD] = {"hold", "filter", "input", NF_INET_LOCAL_IN, 0},
};

void ruleset_done(struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->set_count; i++)
		mem_free(ruleset->sets[i].ranges);
	for (size_t i = 0; i < ruleset->_text_count; i++)
		mem_free(ruleset->_texts[i]);
	mem_free(ruleset->_texts);
	mem_free(ruleset->sets);
	mem_free(ruleset->rules);
	*ruleset = (struct ruleset){0};
}

size_t rule_set_key_len(enum rule_set_type type)
{
	static const uint8_t lens[SET_TYPE_COUNT] = {
	    [SET_IPV4] = 4,  [SET_IPV6] = 16,	 [SET_PORT] = 2,       [SET_USER] = 4,
	    [SET_GROUP] = 4, [SET_SEQUENCE] = 4, [SET_QUERY4] = 3 * 4, [SET_QUERY6] = 2 * 16 + 4};
	return lens[type];
}

enum rule_field rule_set_field(enum rule_set_type type)
{
	return type == SET_SEQUENCE ? RULE_SEQUENCE : type == SET_QUERY4 ? RULE_QUERY4 : RULE_QUERY6;
}

int ruleset_add_set(struct ruleset *ruleset, const char *name, enum rule_set_type type)
{
	int err = mem_grow((void **)&ruleset->sets, &ruleset->_set_cap, ruleset->set_count + 1,
			   sizeof *ruleset->sets);
	if (err)
		return err;
	struct rule_set *set = &ruleset->sets[ruleset->set_count];
	*set = (struct rule_set){.type = type};
	strncpy(set->name, name, sizeof set->name - 1);
	return (int)ruleset->set_count++;
}

int rule_set_add(struct rule_set *set, const struct rule_range *range)
{
	int err = mem_grow((void **)&set->ranges, &set->_cap, set->count + 1, sizeof *set->ranges);
	if (err == 0)
		set->ranges[set->count++] = *range;
	return err;
}

const char *ruleset_keep_text(struct ruleset *ruleset, struct str text)
{
	char *copy = mem_strndup(text.p, text.len);
	if (copy && mem_grow((void **)&ruleset->_texts, &ruleset->_text_cap, ruleset->_text_count + 1,
			     sizeof *ruleset->_texts)) {
		mem_free(copy);
		return NULL;
	}
	if (copy)
		ruleset->_texts[ruleset->_text_count++] = copy;
	return copy;
}

static int compare_ranges(const void *a, const void *b)
{
	return memcmp(((const struct rule_range *)a)->first, ((const struct rule_range *)b)->first, 16);
}

// The key behind `last`, or zeros behind the highest.
static void next_key(const uint8_t last[16], size_t len, uint8_t ret_next[16])
{
	memcpy(ret_next, last, 16);
	for (size_t i = len; i-- > 0 && ++ret_next[i] == 0;)
		;
}

void rule_set_normalise(struct rule_set *set)
{
	static const uint8_t zero[16];
	size_t len = rule_set_key_len(set->type), kept = 0;
	if (set->count == 0)
		return;
	qsort(set->ranges, set->count, sizeof *set->ranges, compare_ranges);
	for (size_t i = 1; i < set->count; i++) {
		struct rule_range *last = &set->ranges[kept];
		uint8_t next[16];
		next_key(last->last, len, next);
		bool apart = memcmp(set->ranges[i].first, next, len) > 0 && memcmp(next, zero, len) != 0;
		if (apart)
			set->ranges[++kept] = set->ranges[i];
		else if (memcmp(set->ranges[i].last, last->last, len) > 0)
			memcpy(last->last, set->ranges[i].last, 16);
	}
	set->count = kept + 1;
}

int ruleset_find_set(const struct ruleset *ruleset, const char *name)
{
	for (size_t i = 0; i < ruleset->set_count; i++)
		if (strcmp(ruleset->sets[i].name, name) == 0)
			return (int)i;
	return -1;
}

struct rule *ruleset_add_rule(struct ruleset *ruleset, enum rule_chain chain)
{
	if (mem_grow((void **)&ruleset->rules, &ruleset->_rule_cap, ruleset->rule_count + 1,
		     sizeof *ruleset->rules))
		return NULL;
	struct rule *rule = &ruleset->rules[ruleset->rule_count++];
	memset(rule, 0, sizeof *rule);
	rule->chain = chain;
	return rule;
}

void ruleset_drop_chain(struct ruleset *ruleset, enum rule_chain chain)
{
	size_t kept = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (ruleset->rules[i].chain != chain)
			ruleset->rules[kept++] = ruleset->rules[i];
	ruleset->rule_count = kept;
}

static bool is_for_open(const struct rule *rule)
{
	return rule->match_count == 1 && rule->matches[0].field == RULE_SYN && rule->matches[0].negated;
}

void ruleset_drop_open(struct ruleset *ruleset, enum rule_chain chain)
{
	size_t kept = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (ruleset->rules[i].chain != chain || !is_for_open(&ruleset->rules[i]))
			ruleset->rules[kept++] = ruleset->rules[i];
	ruleset->rule_count = kept;
}

static bool is_zone_of_mark(const struct rule *rule)
{
	return rule->action == RULE_ZONE && rule->match_count == 1 && rule->matches[0].field == RULE_MARK;
}

void ruleset_drop_client_zone(struct ruleset *ruleset)
{
	size_t kept = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (!is_zone_of_mark(&ruleset->rules[i]))
			ruleset->rules[kept++] = ruleset->rules[i];
	ruleset->rule_count = kept;
}

static bool limits_hold(const struct rule *rule)
{
	bool limits = rule->action == RULE_REMEMBER;
	for (size_t i = 0; i < rule->match_count; i++)
		limits |= rule->matches[i].field == RULE_SEQUENCE || rule->matches[i].field == RULE_QUERY4 ||
			  rule->matches[i].field == RULE_QUERY6;
	return limits;
}

void ruleset_simplify_hold(struct ruleset *ruleset, uint32_t limit_ms)
{
	size_t kept = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		struct rule *rule = &ruleset->rules[i];
		if (limits_hold(rule))
			continue;
		if (rule->chain == CHAIN_HOLD && rule->action == RULE_DROP)
			rule->value = limit_ms;
		ruleset->rules[kept++] = *rule;
	}
	ruleset->rule_count = kept;
	while (ruleset->set_count && ruleset->sets[ruleset->set_count - 1].timeout_ms)
		ruleset->set_count--; // the last ones; they own nothing
}

bool ruleset_has_chain(const struct ruleset *ruleset, enum rule_chain chain)
{
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (ruleset->rules[i].chain == chain)
			return true;
	return false;
}

// The first rule says so, if it is so.
bool ruleset_spares_family(const struct ruleset *ruleset, uint8_t family)
{
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		const struct rule *rule = &ruleset->rules[i];
		if (rule->chain == CHAIN_OUTPUT || rule->chain == CHAIN_PREROUTING)
			return rule->match_count == 1 && rule->matches[0].field == RULE_FAMILY &&
			       rule->matches[0].value == family && rule->action == RULE_RETURN;
	}
	return false;
}

// --- comparison --------------------------------------------------------------------------------------------
static bool set_equal(const struct rule_set *a, const struct rule_set *b)
{
	size_t len = rule_set_key_len(a->type);
	if (a->type != b->type || a->count != b->count || a->timeout_ms != b->timeout_ms)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (memcmp(a->ranges[i].first, b->ranges[i].first, len) ||
		    memcmp(a->ranges[i].last, b->ranges[i].last, len))
			return false;
	return true;
}

// Sets are compared by their names here, and by contents once.
static bool match_equal(const struct ruleset *a, const struct rule_match *x, const struct ruleset *b,
			const struct rule_match *y)
{
	if (x->field != y->field || x->negated != y->negated || (x->set < 0) != (y->set < 0))
		return false;
	if (x->set >= 0)
		return strcmp(a->sets[x->set].name, b->sets[y->set].name) == 0;
	return x->value == y->value && x->mask == y->mask && x->cgroup == y->cgroup &&
	       strcmp(x->name, y->name) == 0;
}

// All of a rule's matches must hold: their order does not matter, and none is there twice.
static bool has_match(const struct ruleset *a, const struct rule *rule, const struct ruleset *b,
		      const struct rule_match *match)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (match_equal(a, &rule->matches[i], b, match))
			return true;
	return false;
}

static bool rule_equal(const struct ruleset *a, const struct rule *x, const struct ruleset *b,
		       const struct rule *y)
{
	bool set = x->action == RULE_REMEMBER;
	if (x->match_count != y->match_count || x->action != y->action || (!set && x->value != y->value) ||
	    x->foreign || y->foreign || strcmp(x->comment, y->comment) != 0)
		return false;
	if (set && strcmp(a->sets[x->value].name, b->sets[y->value].name) != 0)
		return false;
	for (size_t i = 0; i < x->match_count; i++)
		if (!has_match(b, y, a, &x->matches[i]))
			return false;
	return true;
}

// The next rule of the chain from *at on; NULL behind the last.
static const struct rule *next_rule(const struct ruleset *ruleset, enum rule_chain chain, size_t *at)
{
	while (*at < ruleset->rule_count) {
		const struct rule *rule = &ruleset->rules[(*at)++];
		if (rule->chain == chain)
			return rule;
	}
	return NULL;
}

static bool chain_equal(const struct ruleset *a, const struct ruleset *b, enum rule_chain chain)
{
	size_t i = 0, j = 0;
	for (;;) {
		const struct rule *x = next_rule(a, chain, &i), *y = next_rule(b, chain, &j);
		if (!x || !y)
			return !x && !y;
		if (!rule_equal(a, x, b, y))
			return false;
	}
}

static bool programs_equal(const struct rule_programs *a, const struct rule_programs *b)
{
	return a->fail == b->fail && a->outbound_port == b->outbound_port &&
	       a->inbound_port == b->inbound_port && a->dns_port == b->dns_port &&
	       a->client_mark == b->client_mark && a->mark_mask == b->mark_mask;
}

bool ruleset_equal(const struct ruleset *a, const struct ruleset *b)
{
	if (a->set_count != b->set_count || a->altered || b->altered || a->held != b->held ||
	    !programs_equal(&a->programs, &b->programs))
		return false;
	for (size_t i = 0; i < a->set_count; i++) {
		int other = ruleset_find_set(b, a->sets[i].name);
		if (other < 0 || !set_equal(&a->sets[i], &b->sets[other]))
			return false;
	}
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT; chain++)
		if (!chain_equal(a, b, chain))
			return false;
	return true;
}
