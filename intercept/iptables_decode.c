// SPDX-License-Identifier: Apache-2.0
// From iptables' text back to rules: each line to a piece of a rule, the pieces of one number to the rule.
#include "intercept/iptables_text.h"

#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>

enum { PIECE_MATCHES_MAX = 12, PIECE_RANGES_MAX = 15, WORD_MAX = LIMIT_CGROUP_PATH };

// What one line says.
struct piece {
	enum rule_chain chain;
	uint64_t index; // of the rule in its chain
	uint8_t family;
	size_t order; // as they came

	struct rule_match matches[PIECE_MATCHES_MAX];
	size_t match_count;
	// The set's part that this line has, if any.
	bool has_element;
	struct rule_match element;
	struct rule_range ranges[PIECE_RANGES_MAX];
	size_t range_count;

	char set[32]; // "" or the set's name; a family; a control group's number
	char cgroup[LIMIT_CGROUP_PATH];
	bool goes_around, foreign, done;
	bool above;	      // of a count: what it is above drops; else what is not
	uint32_t limit, rate; // ms; of a count: one packet in so many us
	uint32_t count;	      // IPTABLES_COUNT_*
	uint8_t protocol;
	enum rule_action action;
	uint32_t value;
	char comment[RULE_COMMENT_MAX];
	uint64_t packets, bytes;
};

struct parser {
	struct piece *piece;
	struct str rest;
	char word[WORD_MAX]; // the one that was read last
	bool negated;
};

// --- words -------------------------------------------------------------------------------------------------
// The next word; quoted ones without their quotes. False at the end, and for words that are too long.
static bool next_word(struct parser *p)
{
	size_t len = 0;
	bool quoted = false;
	p->rest = str_trim(p->rest);
	if (p->rest.len == 0)
		return false;
	while (p->rest.len && (quoted || *p->rest.p != ' ')) {
		char c = *p->rest.p;
		p->rest.p++;
		p->rest.len--;
		if (c == '"') {
			quoted = !quoted;
			continue;
		}
		if (c == '\\' && p->rest.len) {
			c = *p->rest.p++;
			p->rest.len--;
		}
		if (len == sizeof p->word - 1)
			return false;
		p->word[len++] = c;
	}
	p->word[len] = 0;
	return true;
}

static bool read_number(struct str text, uint64_t highest, uint32_t *ret_number)
{
	uint64_t number;
	if (str_starts(text, STR("0x"))) {
		char *end;
		number = strtoull(text.p, &end, 16);
		if (end != text.p + text.len)
			return false;
	} else if (str_to_u64(text, &number)) {
		return false;
	}
	*ret_number = (uint32_t)number;
	return number <= highest;
}

static void put_number(uint8_t *bytes, uint32_t number, size_t len)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(number >> 8 * (len - 1 - i));
}

// --- matches -----------------------------------------------------------------------------------------------
static struct rule_match *add_match(struct parser *p, enum rule_field field)
{
	struct piece *piece = p->piece;
	if (piece->match_count == PIECE_MATCHES_MAX)
		return NULL;
	struct rule_match *match = &piece->matches[piece->match_count++];
	*match = (struct rule_match){.field = field, .negated = p->negated, .set = -1, .mask = UINT32_MAX};
	return match;
}

static bool add_value(struct parser *p, enum rule_field field, uint64_t highest)
{
	struct rule_match *match = add_match(p, field);
	return match && read_number(str_from(p->word), highest, &match->value);
}

static struct rule_range *add_range(struct parser *p, enum rule_field field)
{
	struct piece *piece = p->piece;
	if ((piece->has_element && piece->element.field != field) || piece->range_count == PIECE_RANGES_MAX)
		return NULL;
	piece->has_element = true;
	piece->element =
	    (struct rule_match){.field = field, .negated = p->negated, .set = -1, .mask = UINT32_MAX};
	return &piece->ranges[piece->range_count++];
}

static bool add_numbers(struct parser *p, enum rule_field field, struct str text, char separator, size_t len)
{
	struct rule_range *range = add_range(p, field);
	uint32_t first, last;
	struct str rest = text, a = str_split(&rest, separator);
	uint64_t highest = len == 2 ? UINT16_MAX : UINT32_MAX;
	if (!range || !read_number(a, highest, &first) || !read_number(rest.p ? rest : a, highest, &last))
		return false;
	put_number(range->first, first, len);
	put_number(range->last, last, len);
	return true;
}

static bool read_address(struct parser *p, bool source)
{
	struct cidr cidr;
	bool ipv6 = p->piece->family == AF_INET6;
	enum rule_field field =
	    source ? (ipv6 ? RULE_SOURCE6 : RULE_SOURCE4) : (ipv6 ? RULE_DEST6 : RULE_DEST4);
	struct rule_range *range = add_range(p, field);
	if (!range || cidr_parse(str_from(p->word), &cidr) || cidr.ip.family != p->piece->family)
		return false;
	memcpy(range->first, cidr.ip.bytes, sizeof range->first);
	memcpy(range->last, cidr.ip.bytes, sizeof range->last);
	for (size_t bit = cidr.bits; bit < (ipv6 ? 128 : 32); bit++)
		range->last[bit / 8] |= (uint8_t)(0x80u >> (bit % 8));
	return true;
}

static bool read_source(struct parser *p)
{
	return read_address(p, true);
}

static bool read_destination(struct parser *p)
{
	return read_address(p, false);
}

static bool read_interface(struct parser *p, enum rule_field field)
{
	struct rule_match *match = add_match(p, field);
	size_t len = strlen(p->word);
	if (!match || len == 0 || len >= sizeof match->name)
		return false;
	memcpy(match->name, p->word, len + 1);
	if (match->name[len - 1] == '+')
		match->name[len - 1] = '*';
	return true;
}

static bool read_in_interface(struct parser *p)
{
	return read_interface(p, RULE_IN_INTERFACE);
}

static bool read_out_interface(struct parser *p)
{
	return read_interface(p, RULE_OUT_INTERFACE);
}

static bool read_protocol(struct parser *p)
{
	p->piece->protocol = strcmp(p->word, "tcp") == 0   ? IPPROTO_TCP
			     : strcmp(p->word, "udp") == 0 ? IPPROTO_UDP
							   : 0;
	return p->piece->protocol && !p->negated;
}

static bool read_port(struct parser *p)
{
	bool udp = p->piece->protocol == IPPROTO_UDP;
	p->piece->protocol = 0; // the port says it
	return add_value(p, udp ? RULE_UDP_DEST_PORT : RULE_TCP_DEST_PORT, UINT16_MAX);
}

static bool read_source_port(struct parser *p)
{
	bool udp = p->piece->protocol == IPPROTO_UDP;
	p->piece->protocol = 0;
	return udp && add_value(p, RULE_UDP_SOURCE_PORT, UINT16_MAX);
}

static bool read_ports(struct parser *p)
{
	struct str rest = str_from(p->word);
	bool good = p->piece->protocol == IPPROTO_TCP;
	p->piece->protocol = 0;
	while (rest.p && rest.len && good)
		good = add_numbers(p, RULE_TCP_DEST_PORT, str_split(&rest, ','), ':', 2);
	return good;
}

static bool read_flags(struct parser *p)
{
	bool good = p->piece->protocol == IPPROTO_TCP && strcmp(p->word, "FIN,SYN,RST,ACK") == 0;
	struct rule_match *match = add_match(p, RULE_SYN);
	p->piece->protocol = 0;
	if (!match || !next_word(p))
		return false;
	match->value = RULE_SYN_VALUE;
	match->mask = RULE_SYN_MASK;
	return good && strcmp(p->word, "SYN") == 0;
}

// One of a set is told from a single one by the comment, which may come later.
static bool read_user(struct parser *p)
{
	return add_numbers(p, RULE_USER, str_from(p->word), '-', 4);
}

static bool read_group(struct parser *p)
{
	return add_numbers(p, RULE_GROUP, str_from(p->word), '-', 4);
}

static bool read_mark(struct parser *p)
{
	struct str rest = str_from(p->word), value = str_split(&rest, '/');
	struct rule_match *match = add_match(p, RULE_MARK);
	return match && read_number(value, UINT32_MAX, &match->value) &&
	       (!rest.p || read_number(rest, UINT32_MAX, &match->mask));
}

static bool read_cgroup(struct parser *p)
{
	struct rule_match *match = add_match(p, RULE_CGROUP);
	memcpy(p->piece->cgroup, p->word, sizeof p->word);
	for (const char *c = p->word; match && *c; c++)
		match->value += *c == '/';
	if (match)
		match->value++;
	return match != NULL;
}

static bool read_dest_type(struct parser *p)
{
	struct rule_match *match = add_match(p, RULE_DEST_TYPE);
	if (!match || strcmp(p->word, "LOCAL") != 0)
		return false;
	match->value = RTN_LOCAL;
	return true;
}

static bool read_state(struct parser *p)
{
	return strcmp(p->word, "NEW") == 0 && add_match(p, RULE_NEW);
}

// --- counts ------------------------------------------------------------------------------------------------
// "5/min": as often as it may be, by the unit that suits.
static bool read_rate(struct parser *p)
{
	static const struct {
		const char *name;
		uint64_t us;
	} units[] = {{"sec", 1000000}, {"min", 60000000}, {"hour", 3600000000}, {"day", 86400000000}};
	struct str rest = str_from(p->word);
	uint32_t times;
	if (!read_number(str_split(&rest, '/'), UINT32_MAX, &times) || !times)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (!rest.p || !str_eq(rest, str_from(units[i].name)))
			continue;
		p->piece->rate = (uint32_t)MIN(units[i].us / times, (uint64_t)UINT32_MAX);
		return true;
	}
	return false;
}

static bool read_above(struct parser *p)
{
	p->piece->above = true;
	return read_rate(p);
}

static bool read_burst(struct parser *p)
{
	return strcmp(p->word, "1") == 0;
}

static bool read_count_mode(struct parser *p)
{
	return strcmp(p->word, IPTABLES_COUNT_ENDS) == 0;
}

static bool read_expiry(struct parser *p)
{
	uint32_t expiry;
	return read_number(str_from(p->word), UINT32_MAX, &expiry) && expiry == IPTABLES_LAST_TRY_MS;
}

static bool read_count_name(struct parser *p)
{
	struct piece *piece = p->piece;
	struct str name = str_from(p->word);
	for (piece->count = 0; piece->count < IPTABLES_COUNTS; piece->count++) {
		const struct iptables_count *count = &iptables_counts[piece->count];
		struct str kind = str_from(piece->above ? count->held : count->known);
		if (str_starts(name, kind))
			return read_number((struct str){name.p + kind.len, name.len - kind.len},
					   LIMIT_HOLD_MS, &piece->limit);
	}
	return false;
}

// --- comment and action ------------------------------------------------------------------------------------
static void copy_text(char *to, size_t size, struct str from)
{
	size_t len = MIN(from.len, size - 1);
	memcpy(to, from.p, len);
	to[len] = 0;
}

// "weir N @set purpose".
static bool read_comment(struct parser *p)
{
	struct piece *piece = p->piece;
	struct str rest = str_from(p->word), first = str_split(&rest, ' ');
	if (!str_eq(first, STR("weir")) || !rest.p || str_to_u64(str_split(&rest, ' '), &piece->index) ||
	    !rest.p)
		return false;
	if (str_starts(rest, STR("@"))) {
		struct str name = str_split(&rest, ' ');
		copy_text(piece->set, sizeof piece->set, (struct str){name.p + 1, name.len - 1});
	}
	copy_text(piece->comment, sizeof piece->comment, rest);
	return rest.p && rest.len;
}

static bool read_skip(struct parser *p)
{
	(void)p;
	return true;
}

static bool set_action(struct piece *piece, enum rule_action action, uint32_t value)
{
	bool first = !piece->done;
	piece->action = action;
	piece->value = value;
	piece->done = true;
	return first;
}

static bool read_jump(struct parser *p)
{
	if (strcmp(p->word, "RETURN") == 0)
		return set_action(p->piece, RULE_RETURN, 0);
	if (strcmp(p->word, "DROP") == 0)
		return set_action(p->piece, RULE_DROP, 0);
	// Their values follow.
	return strcmp(p->word, "REDIRECT") == 0 || strcmp(p->word, "CT") == 0;
}

static bool read_redirect(struct parser *p)
{
	uint32_t port;
	return read_number(str_from(p->word), UINT16_MAX, &port) && set_action(p->piece, RULE_REDIRECT, port);
}

static bool read_zone(struct parser *p)
{
	uint32_t zone;
	return read_number(str_from(p->word), UINT16_MAX, &zone) && set_action(p->piece, RULE_ZONE, zone);
}

static bool read_zone_original(struct parser *p)
{
	uint32_t zone;
	return read_number(str_from(p->word), UINT16_MAX, &zone) &&
	       set_action(p->piece, RULE_ZONE_ORIGINAL, zone);
}

static bool read_goto(struct parser *p)
{
	unsigned part;
	enum rule_chain chain = iptables_chain_find(str_from(p->word), &part);
	p->piece->goes_around = chain == p->piece->chain && part > 0;
	return chain != CHAIN_COUNT && set_action(p->piece, RULE_GOTO, chain);
}

// --- lines -------------------------------------------------------------------------------------------------
static const struct {
	const char *word;
	bool (*read)(struct parser *p);
} options[] = {
    {"-s", read_source},
    {"-d", read_destination},
    {"-i", read_in_interface},
    {"-o", read_out_interface},
    {"-p", read_protocol},
    {"-m", read_skip},
    {"--dport", read_port},
    {"--sport", read_source_port},
    {"--dports", read_ports},
    {"--tcp-flags", read_flags},
    {"--uid-owner", read_user},
    {"--gid-owner", read_group},
    {"--mark", read_mark},
    {"--path", read_cgroup},
    {"--dst-type", read_dest_type},
    {"--comment", read_comment},
    {"-j", read_jump},
    {"-g", read_goto},
    {"--to-ports", read_redirect},
    {"--zone", read_zone},
    {"--zone-orig", read_zone_original},
    {"--ctstate", read_state},
    {"--hashlimit-above", read_above},
    {"--hashlimit-upto", read_rate},
    {"--hashlimit-burst", read_burst},
    {"--hashlimit-mode", read_count_mode},
    {"--hashlimit-name", read_count_name},
    {"--hashlimit-htable-expire", read_expiry},
};

static bool read_option(struct parser *p)
{
	p->negated = strcmp(p->word, "!") == 0;
	if (p->negated && !next_word(p))
		return false;
	if (strcmp(p->word, "--nowildcard") == 0)
		return add_match(p, RULE_LISTENS);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (strcmp(options[i].word, p->word) == 0)
			return next_word(p) && options[i].read(p);
	return false;
}

// A user or group that is none of a set.
static void settle_single(struct piece *piece)
{
	bool id = piece->element.field == RULE_USER || piece->element.field == RULE_GROUP;
	if (!piece->has_element || !id || piece->set[0] || piece->match_count == PIECE_MATCHES_MAX)
		return;
	for (size_t i = 0; i < 4; i++)
		piece->element.value = piece->element.value << 8 | piece->ranges[0].first[i];
	piece->matches[piece->match_count++] = piece->element;
	piece->has_element = false;
}

// What the comment says of a control group.
static void settle_cgroup(struct piece *piece)
{
	for (size_t i = 0; i < piece->match_count; i++) {
		if (piece->matches[i].field != RULE_CGROUP)
			continue;
		piece->foreign |= str_to_u64(str_from(piece->set), &piece->matches[i].cgroup) != 0;
		piece->set[0] = 0;
	}
}

static bool asks_for(const struct piece *piece, enum rule_field field)
{
	for (size_t i = 0; i < piece->match_count; i++)
		if (piece->matches[i].field == field)
			return true;
	return false;
}

// The kernel's rates are not quite those that it was told.
static void settle_limit(struct piece *piece)
{
	if (!piece->rate && !piece->limit)
		return;
	if (!piece->rate || !piece->limit || piece->action != RULE_DROP ||
	    asks_for(piece, RULE_UDP_DEST_PORT) != (piece->count == IPTABLES_COUNT_QUERIES)) {
		piece->foreign = true;
		return;
	}
	uint32_t every = piece->limit + (piece->above ? 0 : iptables_counts[piece->count].again_ms);
	uint64_t rate = (uint64_t)IPTABLES_DAY_MS * 1000 / iptables_daily(every);
	piece->foreign |= piece->rate > rate + rate / 16 || piece->rate < rate - rate / 16;
	piece->value = piece->limit;
}

static void settle(struct piece *piece)
{
	struct parser p = {.piece = piece};
	struct rule_match *match;
	settle_single(piece);
	settle_cgroup(piece);
	settle_limit(piece);
	if (piece->protocol && (match = add_match(&p, RULE_PROTOCOL)))
		match->value = piece->protocol;
	bool ipv6 = strcmp(piece->set, "ipv6") == 0, family = ipv6 || strcmp(piece->set, "ipv4") == 0;
	if (family && (match = add_match(&p, RULE_FAMILY)))
		match->value = ipv6 ? AF_INET6 : AF_INET;
	if (family)
		piece->set[0] = 0;
	if (!piece->done || !piece->comment[0] || (piece->has_element && !piece->set[0]))
		piece->foreign = true;
}

static void read_piece(const struct iptables_line *line, uint8_t family, struct piece *ret_piece)
{
	unsigned part;
	*ret_piece = (struct piece){.chain = iptables_chain_find(line->chain, &part),
				    .family = family,
				    .packets = line->packets,
				    .bytes = line->bytes};
	struct parser p = {.piece = ret_piece, .rest = line->text};
	while (next_word(&p))
		ret_piece->foreign |= !read_option(&p);
	ret_piece->foreign |= p.rest.len > 0;
	settle(ret_piece);
}

// --- rules -------------------------------------------------------------------------------------------------
static enum rule_set_type type_of(enum rule_field field)
{
	switch (field) {
	case RULE_SOURCE4:
	case RULE_DEST4:
		return SET_IPV4;
	case RULE_SOURCE6:
	case RULE_DEST6:
		return SET_IPV6;
	case RULE_USER:
		return SET_USER;
	case RULE_GROUP:
		return SET_GROUP;
	default:
		return SET_PORT;
	}
}

// The piece's part of its set is added to it. Its index or -ENOMEM.
static int take_element(struct ruleset *ruleset, const struct piece *piece)
{
	int set = ruleset_find_set(ruleset, piece->set);
	if (set < 0)
		set = ruleset_add_set(ruleset, piece->set, type_of(piece->element.field));
	for (size_t i = 0; set >= 0 && i < piece->range_count; i++)
		if (rule_set_add(&ruleset->sets[set], &piece->ranges[i]))
			set = -ENOMEM;
	return set;
}

static void put_match(struct rule *rule, const struct rule_match *match)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == match->field && rule->matches[i].set == match->set &&
		    strcmp(rule->matches[i].name, match->name) == 0 &&
		    rule->matches[i].value == match->value && rule->matches[i].cgroup == match->cgroup)
			return;
	if (rule->match_count < RULE_MATCHES_MAX)
		rule->matches[rule->match_count++] = *match;
	else
		rule->foreign = true;
}

// Adds what a line says to the rule that it belongs to. 0 or -ENOMEM.
static int take_piece(struct ruleset *ruleset, struct rule *rule, const struct piece *piece)
{
	struct rule_match element = piece->element;
	rule->foreign |= piece->foreign;
	if (piece->has_element && piece->set[0]) {
		element.set = take_element(ruleset, piece);
		if (element.set < 0)
			return element.set;
		element.negated |= piece->goes_around;
		put_match(rule, &element);
	}
	for (size_t i = 0; i < piece->match_count; i++) {
		struct rule_match match = piece->matches[i];
		match.negated |= piece->goes_around;
		if (match.field == RULE_CGROUP) {
			match.path = ruleset_keep_text(ruleset, str_from(piece->cgroup));
			if (!match.path)
				return -ENOMEM;
		}
		put_match(rule, &match);
	}
	if (piece->goes_around)
		return 0;
	if (rule->comment[0] && (rule->action != piece->action || rule->value != piece->value))
		rule->foreign = true;
	rule->action = piece->action;
	rule->value = piece->value;
	memcpy(rule->comment, piece->comment, sizeof rule->comment);
	rule->packets += piece->packets;
	rule->bytes += piece->bytes;
	return 0;
}

static int compare_pieces(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	if (x->chain != y->chain)
		return x->chain < y->chain ? -1 : 1;
	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

// A family that is not captured has no rules at all; the ruleset says so at the beginning of these chains.
static int add_spared(struct ruleset *ruleset, uint8_t family)
{
	static const enum rule_chain chains[] = {CHAIN_DNS_ZONE, CHAIN_OUTPUT, CHAIN_PREROUTING};
	for (size_t i = 0; i < ARRAY_SIZE(chains); i++) {
		if (!ruleset_has_chain(ruleset, chains[i]))
			continue;
		struct rule *rule = ruleset_add_rule(ruleset, chains[i]);
		if (!rule)
			return -ENOMEM;
		const char *comment = family == AF_INET6 ? "IPv6 is not captured" : "IPv4 is not captured";
		copy_text(rule->comment, sizeof rule->comment, str_from(comment));
		rule->matches[rule->match_count++] =
		    (struct rule_match){.field = RULE_FAMILY, .set = -1, .mask = UINT32_MAX, .value = family};
		// Behind the others; it belongs before them.
		struct rule last = *rule;
		size_t at = 0;
		while (ruleset->rules[at].chain != chains[i])
			at++;
		memmove(&ruleset->rules[at + 1], &ruleset->rules[at],
			(ruleset->rule_count - 1 - at) * sizeof last);
		ruleset->rules[at] = last;
	}
	return 0;
}

static int build_rules(const struct piece *pieces, size_t count, struct ruleset *ruleset)
{
	struct rule *rule = NULL;
	int err = 0;
	for (size_t i = 0; i < count && err == 0; i++) {
		const struct piece *piece = &pieces[i];
		// What is not weir's has no number: it must not spoil the rule that has the lowest one.
		if (!rule || piece[-1].chain != piece->chain || piece[-1].index != piece->index ||
		    piece->foreign || piece[-1].foreign)
			rule = ruleset_add_rule(ruleset, piece->chain);
		err = rule ? take_piece(ruleset, rule, piece) : -ENOMEM;
	}
	for (size_t i = 0; i < ruleset->set_count; i++)
		rule_set_normalise(&ruleset->sets[i]);
	return err;
}

static size_t count_rules(const struct iptables_state *state)
{
	size_t count = 0;
	for (size_t i = 0; i < state->count; i++)
		count += state->lines[i].text.p != NULL;
	return count;
}

// Whether the rules are all in the tables, and nothing besides them: chains and the rules that lead to them,
// too.
static int compare_amount(const struct iptables_state *state, uint8_t family, struct ruleset *ruleset)
{
	autostrbuf struct strbuf text = {0};
	struct iptables_state wanted;
	iptables_print(ruleset, family, &text);
	int err = text.failed ? -ENOMEM : iptables_parse(strbuf_str(&text), &wanted);
	if (err)
		return err;
	if (count_rules(&wanted) != count_rules(state) || wanted.count != state->count)
		ruleset->altered = true;
	iptables_state_done(&wanted);
	return 0;
}

static size_t read_pieces(const struct iptables_state *state, uint8_t family, struct piece *pieces,
			  size_t count)
{
	for (size_t i = 0; i < state->count; i++) {
		const struct iptables_line *line = &state->lines[i];
		if (!line->text.p || !str_starts(line->chain, STR("WEIR_")))
			continue;
		read_piece(line, family, &pieces[count]);
		pieces[count].order = count;
		count++;
	}
	return count;
}

static int decode(const struct iptables_state *ipv4, const struct iptables_state *ipv6, struct piece *pieces,
		  struct ruleset *ruleset)
{
	size_t count = read_pieces(ipv4, AF_INET, pieces, 0);
	count = read_pieces(ipv6, AF_INET6, pieces, count);
	qsort(pieces, count, sizeof *pieces, compare_pieces);
	int err = build_rules(pieces, count, ruleset);
	if (err == 0 && count && ipv4->count == 0)
		err = add_spared(ruleset, AF_INET);
	if (err == 0 && count && ipv6->count == 0)
		err = add_spared(ruleset, AF_INET6);
	if (err == 0)
		err = compare_amount(ipv4, AF_INET, ruleset);
	return err ? err : compare_amount(ipv6, AF_INET6, ruleset);
}

int iptables_decode(const struct iptables_state *ipv4, const struct iptables_state *ipv6,
		    struct ruleset *ret_ruleset)
{
	struct ruleset ruleset = {0};
	struct piece *pieces = mem_array(ipv4->count + ipv6->count + 1, sizeof *pieces);
	int err = pieces ? decode(ipv4, ipv6, pieces, &ruleset) : -ENOMEM;
	mem_free(pieces);
	if (err)
		ruleset_done(&ruleset);
	else
		*ret_ruleset = ruleset;
	return err;
}
