// SPDX-License-Identifier: Apache-2.0
// From rules to iptables' text, and from one state of the tables to another.
#include "intercept/iptables_text.h"

#include "base/mem.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

// Ports in one match; a range takes two of them.
enum { MULTIPORT_MAX = 15, ELEMENT_MAX = 200, NUMBER_MAX = 24, COMMENT_MAX = RULE_COMMENT_MAX + 64 };

const struct iptables_place iptables_places[CHAIN_COUNT] = {
    [CHAIN_OUTPUT_RAW] = {"raw", "OUTPUT"}, [CHAIN_DNS_ZONE] = {"raw", NULL},
    [CHAIN_DNS_CHOSEN] = {"raw", NULL},	    [CHAIN_CHOSEN] = {"nat", NULL},
    [CHAIN_OUTPUT] = {"nat", "OUTPUT"},	    [CHAIN_PREROUTING] = {"nat", "PREROUTING"},
    [CHAIN_INBOUND] = {"nat", NULL},	    [CHAIN_ARRIVING] = {"mangle", "PREROUTING"},
    [CHAIN_HANDED] = {"mangle", NULL},	    [CHAIN_HOLD] = {"mangle", "INPUT"},
};

const struct iptables_count iptables_counts[IPTABLES_COUNTS] = {
    [IPTABLES_COUNT_CONNECTIONS] = {"weir_h", "weir_k", IPTABLES_LAST_TRY_MS},
    [IPTABLES_COUNT_QUERIES] = {"weir_qh", "weir_qk", IPTABLES_LAST_QUERY_MS},
};

static const char *const tables[] = {"raw", "mangle", "nat"};

void iptables_chain_name(enum rule_chain chain, unsigned part, char ret_name[IPTABLES_NAME_MAX])
{
	snprintf(ret_name, IPTABLES_NAME_MAX, part ? "WEIR_%s_%u" : "WEIR_%s", rule_chains[chain].name, part);
	for (char *c = ret_name; *c; c++)
		if (*c >= 'a' && *c <= 'z')
			*c = (char)(*c - 'a' + 'A');
}

enum rule_chain iptables_chain_find(struct str name, unsigned *ret_part)
{
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT; chain++) {
		char whole[IPTABLES_NAME_MAX];
		uint64_t part = 0;
		iptables_chain_name(chain, 0, whole);
		struct str rest = name, base = str_from(whole);
		if (!str_starts(name, base))
			continue;
		rest.p += base.len;
		rest.len -= base.len;
		if (rest.len &&
		    (rest.p[0] != '_' || str_to_u64((struct str){rest.p + 1, rest.len - 1}, &part) ||
		     part == 0 || part > UINT16_MAX))
			continue;
		*ret_part = (unsigned)part;
		return chain;
	}
	return CHAIN_COUNT;
}

// --- a set's elements, as many as one match can have at a time ---------------------------------------------
struct elements {
	const struct rule_set *set;
	size_t at;	 // range
	uint8_t key[16]; // of an address: where it begins; zero: at the range's beginning
	bool inside;
};

static uint32_t number_of(const uint8_t *key, size_t len)
{
	uint32_t number = 0;
	for (size_t i = 0; i < len; i++)
		number = number << 8 | key[i];
	return number;
}

// The last address of the block of so many bits that begins at `key`.
static void block_end(const uint8_t key[16], size_t bits, size_t len, uint8_t ret_end[16])
{
	memcpy(ret_end, key, 16);
	for (size_t bit = bits; bit < len * 8; bit++)
		ret_end[bit / 8] |= (uint8_t)(0x80u >> (bit % 8));
}

// The bits of the largest block that begins at `key` and does not reach beyond `last`. At least one: iptables
// forgets matches of everything.
static size_t block_bits(const uint8_t key[16], const uint8_t last[16], size_t len)
{
	size_t bits = len * 8;
	uint8_t end[16];
	while (bits > 1) {
		size_t fewer = bits - 1;
		block_end(key, fewer, len, end);
		if (key[fewer / 8] & (0x80u >> (fewer % 8)) || memcmp(end, last, len) > 0)
			break;
		bits = fewer;
	}
	return bits;
}

static void next_block(struct elements *e, char text[ELEMENT_MAX])
{
	const struct rule_range *range = &e->set->ranges[e->at];
	size_t len = rule_set_key_len(e->set->type);
	struct cidr block = {.ip.family = e->set->type == SET_IPV4 ? AF_INET : AF_INET6};
	uint8_t end[16];
	if (!e->inside)
		memcpy(e->key, range->first, sizeof e->key);
	block.bits = (uint8_t)block_bits(e->key, range->last, len);
	memcpy(block.ip.bytes, e->key, len);
	char name[ADDR_TEXT_MAX];
	snprintf(text, ELEMENT_MAX, "%s", cidr_format(&block, name));
	block_end(e->key, block.bits, len, end);
	e->inside = memcmp(end, range->last, len) != 0;
	e->at += !e->inside;
	memcpy(e->key, end, sizeof end);
	for (size_t i = len; i-- > 0 && ++e->key[i] == 0;)
		;
}

static void next_ports(struct elements *e, char text[ELEMENT_MAX])
{
	size_t len = 0;
	for (int room = MULTIPORT_MAX; e->at < e->set->count; e->at++) {
		const struct rule_range *range = &e->set->ranges[e->at];
		uint32_t first = number_of(range->first, 2), last = number_of(range->last, 2);
		room -= first == last ? 1 : 2;
		if (room < 0)
			return;
		len += (size_t)snprintf(text + len, ELEMENT_MAX - len, first == last ? "%s%u" : "%s%u:%u",
					len ? "," : "", first, last);
	}
}

static void next_ids(struct elements *e, char text[ELEMENT_MAX])
{
	const struct rule_range *range = &e->set->ranges[e->at++];
	uint32_t first = number_of(range->first, 4), last = number_of(range->last, 4);
	snprintf(text, ELEMENT_MAX, first == last ? "%u" : "%u-%u", first, last);
}

static bool next_element(struct elements *e, char text[ELEMENT_MAX])
{
	if (e->at == e->set->count)
		return false;
	if (e->set->type == SET_IPV4 || e->set->type == SET_IPV6)
		next_block(e, text);
	else if (e->set->type == SET_PORT)
		next_ports(e, text);
	else
		next_ids(e, text);
	return true;
}

static bool is_one_element(const struct rule_set *set)
{
	struct elements elements = {.set = set};
	char text[ELEMENT_MAX];
	return next_element(&elements, text) && !next_element(&elements, text);
}

// --- printing ----------------------------------------------------------------------------------------------
struct printer {
	const struct ruleset *ruleset;
	uint8_t family;
	struct strbuf *chains, *rules;
	enum rule_chain chain;
	unsigned index, part; // of the rule in its chain; of the chain
	bool failed;	      // a text on the way
};

static void begin_chain(struct printer *p)
{
	char name[IPTABLES_NAME_MAX];
	iptables_chain_name(p->chain, p->part, name);
	strbuf_printf(p->chains, ":%s - [0:0]\n", name);
}

// How a field is asked for: what comes before an optional "!", and after it.
static const struct {
	const char *before, *after;
} words[] = {
    [RULE_FAMILY] = {"", ""},
    [RULE_PROTOCOL] = {"", "-p"},
    [RULE_MARK] = {"-m mark ", "--mark"},
    [RULE_USER] = {"-m owner ", "--uid-owner"},
    [RULE_GROUP] = {"-m owner ", "--gid-owner"},
    [RULE_CGROUP] = {"-m cgroup ", "--path"},
    [RULE_IN_INTERFACE] = {"", "-i"},
    [RULE_OUT_INTERFACE] = {"", "-o"},
    [RULE_SOURCE4] = {"", "-s"},
    [RULE_SOURCE6] = {"", "-s"},
    [RULE_DEST4] = {"", "-d"},
    [RULE_DEST6] = {"", "-d"},
    [RULE_TCP_DEST_PORT] = {"-p tcp -m tcp ", "--dport"},
    [RULE_UDP_DEST_PORT] = {"-p udp -m udp ", "--dport"},
    [RULE_UDP_SOURCE_PORT] = {"-p udp -m udp ", "--sport"},
    [RULE_DEST_TYPE] = {"-m addrtype ", "--dst-type"},
    [RULE_NEW] = {"-m conntrack ", "--ctstate"},
    [RULE_LISTENS] = {"-m socket ", "--nowildcard"},
    [RULE_SYN] = {"-p tcp -m tcp ", "--tcp-flags"},
};

static void print_words(struct strbuf *out, const struct rule_match *match, const char *value)
{
	const char *negation = match->negated ? "! " : "";
	if (match->set >= 0 && match->field == RULE_TCP_DEST_PORT)
		strbuf_printf(out, "-p tcp -m multiport %s--dports %s ", negation, value);
	else
		strbuf_printf(out, "%s%s%s%s%s ", words[match->field].before, negation,
			      words[match->field].after, value[0] ? " " : "", value);
}

// Between quotes, as iptables-save prints it.
static void add_quoted(struct strbuf *out, const char *text)
{
	strbuf_add_char(out, '"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			strbuf_add_char(out, '\\');
		strbuf_add_char(out, *text);
	}
	strbuf_add_char(out, '"');
}

static void print_cgroup(struct strbuf *out, const struct rule_match *match)
{
	autostrbuf struct strbuf path = {0};
	add_quoted(&path, match->path);
	out->failed |= path.failed;
	print_words(out, match, path.p ? path.p : "");
}

static void print_value(struct strbuf *out, const struct rule_match *match)
{
	char text[ELEMENT_MAX];
	size_t len = strlen(match->name);
	switch (match->field) {
	case RULE_FAMILY: // said by whose table it is
		return;
	case RULE_CGROUP:
		print_cgroup(out, match);
		return;
	case RULE_PROTOCOL:
		snprintf(text, sizeof text, "%s", match->value == IPPROTO_UDP ? "udp" : "tcp");
		break;
	case RULE_MARK:
		snprintf(text, sizeof text, "0x%x/0x%x", match->value, match->mask);
		break;
	case RULE_IN_INTERFACE:
	case RULE_OUT_INTERFACE:
		snprintf(text, sizeof text, "%s", match->name);
		if (text[len - 1] == '*')
			text[len - 1] = '+';
		break;
	case RULE_DEST_TYPE:
		snprintf(text, sizeof text, "LOCAL");
		break;
	case RULE_NEW:
		snprintf(text, sizeof text, "NEW");
		break;
	case RULE_SYN:
		snprintf(text, sizeof text, "FIN,SYN,RST,ACK SYN");
		break;
	case RULE_LISTENS: // takes no value
		text[0] = 0;
		break;
	default:
		snprintf(text, sizeof text, "%u", match->value);
	}
	print_words(out, match, text);
}

static void print_action(struct strbuf *out, const struct rule *rule)
{
	char name[IPTABLES_NAME_MAX];
	switch (rule->action) {
	case RULE_RETURN:
		strbuf_add_text(out, "-j RETURN");
		break;
	case RULE_REDIRECT:
		strbuf_printf(out, "-j REDIRECT --to-ports %u", rule->value);
		break;
	case RULE_ZONE:
		strbuf_printf(out, "-j CT --zone %u", rule->value);
		break;
	case RULE_ZONE_ORIGINAL:
		strbuf_printf(out, "-j CT --zone-orig %u", rule->value);
		break;
	case RULE_REMEMBER: // it has no such sets: rules do not get here (iptables.c)
	case RULE_REJECT:   // nor do those that go with tproxy
		break;
	case RULE_DROP:
		strbuf_add_text(out, "-j DROP");
		break;
	case RULE_TPROXY: // refused before: its rule drops what it finds no listener for
		break;
	case RULE_GOTO:
		iptables_chain_name((enum rule_chain)rule->value, 0, name);
		strbuf_printf(out, "-g %s", name);
		break;
	}
}

// One line: the matches that are in `matches` already, a comment, and the rule's action (NULL: on to the
// chain's next part).
static void print_line(struct printer *p, struct str matches, const char *set, const struct rule *rule)
{
	char name[IPTABLES_NAME_MAX], comment[COMMENT_MAX];
	iptables_chain_name(p->chain, p->part, name);
	strbuf_printf(p->rules, "-A %s %.*s-m comment --comment ", name, STR_ARG(matches));
	snprintf(comment, sizeof comment, "weir %u %s%s%s%s", p->index, set ? "@" : "", set ? set : "",
		 set ? " " : "", rule ? rule->comment : "listed");
	add_quoted(p->rules, comment);
	strbuf_add_char(p->rules, ' ');
	iptables_chain_name(p->chain, p->part + 1, name);
	if (rule)
		print_action(p->rules, rule);
	else
		strbuf_printf(p->rules, "-g %s", name);
	strbuf_add_char(p->rules, '\n');
}

static const struct rule_set *set_of(const struct printer *p, const struct rule_match *match)
{
	return match->set >= 0 ? &p->ruleset->sets[match->set] : NULL;
}

// Whether one match of iptables cannot say it: then what is listed goes on behind the rule.
static bool goes_around(const struct printer *p, const struct rule *rule, const struct rule_match *match)
{
	size_t alike = 0, sets = 0;
	for (size_t i = 0; i < rule->match_count; i++) {
		alike += rule->matches[i].field == match->field;
		sets += rule->matches[i].set >= 0;
	}
	if (!match->negated)
		return false;
	return match->set >= 0 ? sets > 1 || !is_one_element(set_of(p, match)) : alike > 1;
}

static void print_listed(struct printer *p, const struct rule_match *match)
{
	struct rule_match listed = *match;
	autostrbuf struct strbuf text = {0};
	char element[ELEMENT_MAX];
	listed.negated = false;
	if (match->set < 0) {
		print_value(&text, &listed);
		print_line(p, strbuf_str(&text), NULL, NULL);
		p->failed |= text.failed;
		return;
	}
	struct elements elements = {.set = set_of(p, match)};
	while (next_element(&elements, element)) {
		strbuf_clear(&text);
		print_words(&text, &listed, element);
		print_line(p, strbuf_str(&text), elements.set->name, NULL);
	}
	p->failed |= text.failed;
}

// Lines for a set's elements, or one, with what else the rule asks for.
static void print_lines(struct printer *p, const struct rule *rule, const struct rule_match *set_match,
			struct str others, const char *word)
{
	autostrbuf struct strbuf text = {0};
	char element[ELEMENT_MAX];
	if (!set_match) {
		print_line(p, others, word, rule);
		return;
	}
	struct elements elements = {.set = set_of(p, set_match)};
	while (next_element(&elements, element)) {
		strbuf_clear(&text);
		print_words(&text, set_match, element);
		strbuf_add_str(&text, others);
		print_line(p, strbuf_str(&text), elements.set->name, rule);
	}
	p->failed |= text.failed;
}

// What is dropped for a limited time.
static void print_held(struct printer *p, const struct rule *rule, const struct rule_match *set_match,
		       struct str others, const char *word)
{
	bool query = rule->matches[0].field == RULE_UDP_DEST_PORT;
	const struct iptables_count *count =
	    &iptables_counts[query ? IPTABLES_COUNT_QUERIES : IPTABLES_COUNT_CONNECTIONS];
	for (int known = 0; known < 2; known++) {
		autostrbuf struct strbuf text = {0};
		uint32_t every = rule->value + (known ? count->again_ms : 0);
		strbuf_add_str(&text, others);
		strbuf_printf(&text,
			      "-m hashlimit --hashlimit-%s %u/day --hashlimit-burst 1 "
			      "--hashlimit-mode " IPTABLES_COUNT_ENDS
			      " --hashlimit-name %s%u --hashlimit-htable-expire %d ",
			      known ? "upto" : "above", iptables_daily(every),
			      known ? count->known : count->held, rule->value, IPTABLES_LAST_TRY_MS);
		print_lines(p, rule, set_match, strbuf_str(&text), word);
		p->failed |= text.failed;
	}
}

static void print_rule(struct printer *p, const struct rule *rule)
{
	const struct rule_match *set_match = NULL;
	const char *word = NULL;
	char number[NUMBER_MAX];
	autostrbuf struct strbuf others = {0};
	bool around = false;
	for (size_t i = 0; i < rule->match_count; i++) {
		const struct rule_match *match = &rule->matches[i];
		if (match->field == RULE_FAMILY)
			word = match->value == AF_INET6 ? "ipv6" : "ipv4";
		if (match->field == RULE_CGROUP) {
			snprintf(number, sizeof number, "%llu", (unsigned long long)match->cgroup);
			word = number;
		}
		if (goes_around(p, rule, match)) {
			print_listed(p, match);
			around = true;
		} else if (match->set >= 0) {
			set_match = match;
		} else if (match->field != RULE_FAMILY) {
			print_value(&others, match);
		}
	}
	if (rule->action == RULE_DROP && rule->value)
		print_held(p, rule, set_match, strbuf_str(&others), word);
	else
		print_lines(p, rule, set_match, strbuf_str(&others), word);
	p->failed |= others.failed;
	if (around) {
		p->part++;
		begin_chain(p);
	}
}

static bool is_of_family(const struct rule *rule, uint8_t family)
{
	for (size_t i = 0; i < rule->match_count; i++) {
		enum rule_field field = rule->matches[i].field;
		bool ipv4 = field == RULE_SOURCE4 || field == RULE_DEST4,
		     ipv6 = field == RULE_SOURCE6 || field == RULE_DEST6;
		if (field == RULE_FAMILY)
			ipv6 = !(ipv4 = rule->matches[i].value == AF_INET);
		if ((ipv4 && family != AF_INET) || (ipv6 && family != AF_INET6))
			return false;
	}
	return true;
}

static void print_chain(struct printer *p, enum rule_chain chain)
{
	p->chain = chain;
	p->index = p->part = 0;
	begin_chain(p);
	for (size_t i = 0; i < p->ruleset->rule_count; i++) {
		const struct rule *rule = &p->ruleset->rules[i];
		if (rule->chain != chain)
			continue;
		if (is_of_family(rule, p->family))
			print_rule(p, rule);
		p->index++;
	}
}

static void print_jump(struct printer *p, enum rule_chain chain)
{
	char name[IPTABLES_NAME_MAX];
	if (!iptables_places[chain].builtin)
		return;
	iptables_chain_name(chain, 0, name);
	strbuf_printf(p->rules, "-A %s -m comment --comment weir -j %s\n", iptables_places[chain].builtin,
		      name);
}

static void print_table(const struct ruleset *ruleset, uint8_t family, const char *table, struct strbuf *out)
{
	autostrbuf struct strbuf chains = {0}, rules = {0};
	struct printer p = {.ruleset = ruleset, .family = family, .chains = &chains, .rules = &rules};
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT; chain++)
		if (strcmp(iptables_places[chain].table, table) == 0 && ruleset_has_chain(ruleset, chain)) {
			print_jump(&p, chain);
			print_chain(&p, chain);
		}
	if (chains.len)
		strbuf_printf(out, "*%s\n%.*s%.*sCOMMIT\n", table, STR_ARG(strbuf_str(&chains)),
			      STR_ARG(strbuf_str(&rules)));
	out->failed |= p.failed || chains.failed || rules.failed;
}

void iptables_print(const struct ruleset *ruleset, uint8_t family, struct strbuf *out)
{
	if (ruleset_spares_family(ruleset, family))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		print_table(ruleset, family, tables[i], out);
}

// --- parsing -----------------------------------------------------------------------------------------------
static struct str without(struct str text, size_t count)
{
	return (struct str){text.p + count, text.len - count};
}

// "[packets:bytes] " before a rule, if it is there.
static struct str take_counters(struct str line, struct iptables_line *ret_line)
{
	if (!str_starts(line, STR("[")))
		return line;
	struct str rest = without(line, 1), counters = str_split(&rest, ']'),
		   packets = str_split(&counters, ':');
	str_to_u64(packets, &ret_line->packets);
	str_to_u64(counters, &ret_line->bytes);
	return str_trim(rest);
}

static bool is_ours(struct str chain)
{
	return str_starts(chain, STR("WEIR_"));
}

// Whether a rule leads to a chain of ours.
static bool leads_to_us(struct str rule)
{
	struct str last = {0};
	while (rule.p && rule.len)
		last = str_split(&rule, ' ');
	return is_ours(last);
}

static bool parse_line(struct str line, struct iptables_line *ret_line)
{
	if (str_starts(line, STR(":"))) {
		struct str rest = without(line, 1);
		ret_line->chain = str_split(&rest, ' ');
		return is_ours(ret_line->chain);
	}
	line = take_counters(line, ret_line);
	if (!str_starts(line, STR("-A ")))
		return false;
	struct str rest = without(line, 3);
	ret_line->chain = str_split(&rest, ' ');
	ret_line->text = rest;
	return rest.p && (is_ours(ret_line->chain) || leads_to_us(rest));
}

static int add_line(struct iptables_state *state, const struct iptables_line *line)
{
	int err = mem_grow((void **)&state->lines, &state->_cap, state->count + 1, sizeof *state->lines);
	if (err == 0)
		state->lines[state->count++] = *line;
	return err;
}

int iptables_parse(struct str text, struct iptables_state *ret_state)
{
	struct iptables_state state = {._text = mem_strndup(text.p ? text.p : "", text.len)};
	struct str rest = {state._text, text.len}, table = {0};
	int err = state._text ? 0 : -ENOMEM;
	while (rest.p && rest.len && err == 0) {
		struct str line = str_trim(str_split(&rest, '\n'));
		struct iptables_line found = {.table = table};
		if (str_starts(line, STR("*")))
			table = without(line, 1);
		else if (parse_line(line, &found))
			err = add_line(&state, &found);
	}
	if (err)
		iptables_state_done(&state);
	else
		*ret_state = state;
	return err;
}

void iptables_state_done(struct iptables_state *state)
{
	mem_free(state->lines);
	mem_free(state->_text);
	*state = (struct iptables_state){0};
}

// --- from one state to another -----------------------------------------------------------------------------
static bool has_table(const struct iptables_state *state, struct str table)
{
	for (size_t i = 0; i < state->count; i++)
		if (str_eq(state->lines[i].table, table))
			return true;
	return false;
}

static bool has_chain(const struct iptables_state *state, const struct iptables_line *chain)
{
	for (size_t i = 0; i < state->count; i++)
		if (!state->lines[i].text.p && str_eq(state->lines[i].table, chain->table) &&
		    str_eq(state->lines[i].chain, chain->chain))
			return true;
	return false;
}

// What is there and not wanted; the chains last, when nothing leads to them any more.
static void print_leaving(const struct iptables_state *from, const struct iptables_state *to,
			  struct str table, bool chains, struct strbuf *out)
{
	for (size_t i = 0; i < from->count; i++) {
		const struct iptables_line *line = &from->lines[i];
		bool chain = !line->text.p;
		if (!str_eq(line->table, table))
			continue;
		if (chain && !has_chain(to, line))
			strbuf_printf(out, chains ? "-X %.*s\n" : ":%.*s - [0:0]\n", STR_ARG(line->chain));
		else if (!chain && !chains && !is_ours(line->chain))
			strbuf_printf(out, "-D %.*s %.*s\n", STR_ARG(line->chain), STR_ARG(line->text));
	}
}

// A chain that is named becomes empty; those who lead to ours come before everything else that is there.
static void print_coming(const struct iptables_state *to, struct str table, bool chains, struct strbuf *out)
{
	for (size_t i = 0; i < to->count; i++) {
		const struct iptables_line *line = &to->lines[i];
		bool chain = !line->text.p;
		if (!str_eq(line->table, table) || chain != chains)
			continue;
		if (chain)
			strbuf_printf(out, ":%.*s - [0:0]\n", STR_ARG(line->chain));
		else if (is_ours(line->chain))
			strbuf_printf(out, "-A %.*s %.*s\n", STR_ARG(line->chain), STR_ARG(line->text));
		else
			strbuf_printf(out, "-I %.*s 1 %.*s\n", STR_ARG(line->chain), STR_ARG(line->text));
	}
}

void iptables_transition(const struct iptables_state *from, const struct iptables_state *to,
			 struct strbuf *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		struct str table = str_from(tables[i]);
		if (!has_table(from, table) && !has_table(to, table))
			continue;
		strbuf_printf(out, "*%s\n", tables[i]);
		print_coming(to, table, true, out);
		print_leaving(from, to, table, false, out);
		print_coming(to, table, false, out);
		print_leaving(from, to, table, true, out);
		strbuf_add_text(out, "COMMIT\n");
	}
}
