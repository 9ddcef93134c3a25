// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_cells.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>

// The two sides number alike.
_Static_assert((int)WEIR_LISTENS == (int)RULE_LISTENS && (int)WEIR_DEST4 == (int)RULE_DEST4, "fields");
_Static_assert((int)WEIR_DROP == (int)RULE_DROP && (int)WEIR_REDIRECT == (int)RULE_REDIRECT, "actions");
_Static_assert((int)WEIR_FAIL_OPEN == (int)FAIL_OPEN && (int)WEIR_FAIL_HOLD == (int)FAIL_HOLD, "policies");

// Those that there are hooks for.
static const enum rule_chain chains[WEIR_CHAINS] = {[WEIR_CHAIN_OUTPUT] = CHAIN_OUTPUT,
						    [WEIR_CHAIN_PREROUTING] = CHAIN_PREROUTING,
						    [WEIR_CHAIN_INBOUND] = CHAIN_INBOUND,
						    [WEIR_CHAIN_HOLD] = CHAIN_HOLD,
						    [WEIR_CHAIN_CHOSEN] = CHAIN_CHOSEN};

static uint32_t chain_number(uint32_t chain)
{
	uint32_t number = 0;
	while (number < WEIR_CHAINS && chains[number] != chain)
		number++;
	return number;
}

enum { CELLS_A_TEXT = 2 };
_Static_assert(RULE_COMMENT_MAX <= CELLS_A_TEXT * sizeof(union weir_cell), "a comment");

struct encoder {
	const struct ruleset *ruleset;
	union weir_cell *cells;
	uint32_t *set_first; // cell of each set's first range
	uint32_t next, text;
};

static bool is_interface(enum rule_field field)
{
	return field == RULE_IN_INTERFACE || field == RULE_OUT_INTERFACE;
}

// --- encoding ------------------------------------------------------------------------------------------------
static struct weir_number number_of(const uint8_t key[16], size_t len)
{
	struct weir_number number = {0};
	for (size_t i = 0; i < len; i++) {
		number.high = number.high << 8 | number.low >> 56;
		number.low = number.low << 8 | key[i];
	}
	return number;
}

static void key_of(const struct weir_number *number, size_t len, uint8_t ret_key[16])
{
	struct weir_number rest = *number;
	for (size_t i = len; i-- > 0;) {
		ret_key[i] = (uint8_t)rest.low;
		rest.low = rest.low >> 8 | rest.high << 56;
		rest.high >>= 8;
	}
}

static void encode_match(struct encoder *encoder, const struct rule_match *match)
{
	const struct ruleset *ruleset = encoder->ruleset;
	struct weir_match *cell = &encoder->cells[encoder->next++].match;
	*cell = (struct weir_match){.field = (uint8_t)match->field, .negated = match->negated};
	if (match->set >= 0) {
		cell->is_set = 1;
		cell->set = (uint32_t)match->set;
		cell->first = encoder->set_first[match->set];
		cell->count = (uint32_t)ruleset->sets[match->set].count;
	} else if (is_interface(match->field)) {
		memcpy(cell->name, match->name, sizeof cell->name);
	} else if (match->field == RULE_CGROUP) {
		cell->value = match->cgroup;
		cell->mask = match->value;
	} else {
		cell->value = match->value;
		cell->mask = match->mask;
	}
}

static void encode_rule(struct encoder *encoder, const struct rule *rule)
{
	struct weir_rule *cell = &encoder->cells[encoder->next++].rule;
	*cell = (struct weir_rule){.match_count = (uint16_t)rule->match_count,
				   .action = (uint16_t)rule->action,
				   .value = rule->value,
				   .chain = chain_number(rule->chain)};
	for (size_t i = 0; i < rule->match_count; i++)
		encode_match(encoder, &rule->matches[i]);
	memcpy(&encoder->cells[encoder->text], rule->comment, sizeof rule->comment);
	encoder->text += CELLS_A_TEXT;
}

static void encode_chain(struct encoder *encoder, uint32_t chain)
{
	const struct ruleset *ruleset = encoder->ruleset;
	struct weir_header *header = &encoder->cells[WEIR_CELL_HEADER].header;
	uint32_t last = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		if (ruleset->rules[i].chain != chains[chain])
			continue;
		last = encoder->next;
		if (!header->chains[chain])
			header->chains[chain] = last;
		encode_rule(encoder, &ruleset->rules[i]);
	}
	if (last)
		encoder->cells[last].rule.last = 1;
}

// Chains that rules lead to are known by their first cell.
static void link_chains(struct encoder *encoder)
{
	const struct weir_header *header = &encoder->cells[WEIR_CELL_HEADER].header;
	uint32_t at = WEIR_CELL_FIRST_RULE;
	for (uint32_t i = 0; i < header->rule_count; i++) {
		struct weir_rule *rule = &encoder->cells[at].rule;
		if (rule->action == WEIR_GOTO)
			rule->value = header->chains[chain_number(rule->value)];
		at += 1u + rule->match_count;
	}
}

static void encode_set(struct encoder *encoder, size_t index, uint32_t *range)
{
	const struct rule_set *set = &encoder->ruleset->sets[index];
	struct weir_header *header = &encoder->cells[WEIR_CELL_HEADER].header;
	struct weir_set *cell = &encoder->cells[header->first_set + index].set;
	size_t len = rule_set_key_len(set->type);
	*cell = (struct weir_set){.type = set->type, .first = *range, .count = (uint32_t)set->count};
	memcpy(cell->name, set->name, sizeof cell->name);
	encoder->set_first[index] = *range;
	for (size_t i = 0; i < set->count; i++)
		encoder->cells[(*range)++].range = (struct weir_range){number_of(set->ranges[i].first, len),
								       number_of(set->ranges[i].last, len)};
}

// Where the parts lie; false: too large.
static bool lay_out(const struct ruleset *ruleset, struct weir_header *ret_header, uint32_t *ret_ranges)
{
	size_t at = WEIR_CELL_FIRST_RULE, ranges = 0;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		at += 1 + ruleset->rules[i].match_count;
	bool fits = at <= WEIR_STEPS_MAX;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		fits &= chain_number(ruleset->rules[i].chain) < WEIR_CHAINS;
	for (size_t i = 0; i < ruleset->set_count; i++) {
		fits &= ruleset->sets[i].count < 2 * WEIR_SET_STEP;
		ranges += ruleset->sets[i].count;
	}
	size_t sets = at + ranges, texts = sets + ruleset->set_count,
	       end = texts + ruleset->rule_count * CELLS_A_TEXT;
	*ret_header = (struct weir_header){.version = WEIR_LAYOUT_VERSION,
					   .cell_count = (uint32_t)end,
					   .rule_count = (uint32_t)ruleset->rule_count,
					   .set_count = (uint32_t)ruleset->set_count,
					   .first_set = (uint32_t)sets,
					   .first_text = (uint32_t)texts};
	*ret_ranges = (uint32_t)at;
	return fits && end <= WEIR_CELLS_MAX;
}

int ebpf_encode(const struct ruleset *ruleset, union weir_cell **ret_cells, uint32_t *ret_count)
{
	struct weir_header header;
	uint32_t range;
	if (!lay_out(ruleset, &header, &range))
		return ERR_LIMIT;
	struct encoder encoder = {
	    .ruleset = ruleset, .next = WEIR_CELL_FIRST_RULE, .text = header.first_text};
	encoder.set_first = mem_array(ruleset->set_count + 1, sizeof *encoder.set_first);
	encoder.cells = encoder.set_first ? mem_zalloc(header.cell_count * sizeof *encoder.cells) : NULL;
	if (!encoder.cells) {
		mem_free(encoder.set_first);
		return -ENOMEM;
	}
	encoder.cells[WEIR_CELL_HEADER].header = header;
	for (size_t i = 0; i < ruleset->set_count; i++)
		encode_set(&encoder, i, &range);
	for (uint32_t chain = 0; chain < WEIR_CHAINS; chain++)
		encode_chain(&encoder, chain);
	link_chains(&encoder);
	mem_free(encoder.set_first);
	*ret_cells = encoder.cells;
	*ret_count = header.cell_count;
	return 0;
}

// --- decoding ------------------------------------------------------------------------------------------------
static bool is_within(uint64_t first, uint64_t count, uint64_t limit)
{
	return first <= limit && count <= limit - first;
}

static int decode_set(const union weir_cell *cells, uint32_t count, const struct weir_set *cell,
		      struct ruleset *ruleset)
{
	char name[sizeof cell->name];
	if (cell->type >= SET_TYPE_COUNT || !is_within(cell->first, cell->count, count))
		return ERR_MALFORMED;
	memcpy(name, cell->name, sizeof name);
	name[sizeof name - 1] = 0;
	int set = ruleset_add_set(ruleset, name, (enum rule_set_type)cell->type);
	int err = set < 0 ? set : 0;
	for (uint32_t i = 0; i < cell->count && err == 0; i++) {
		const struct weir_range *range = &cells[cell->first + i].range;
		struct rule_range found = {0};
		size_t len = rule_set_key_len((enum rule_set_type)cell->type);
		key_of(&range->first, len, found.first);
		key_of(&range->last, len, found.last);
		err = rule_set_add(&ruleset->sets[set], &found);
	}
	return err;
}

static void decode_match(const struct weir_match *cell, struct rule_match *ret_match)
{
	*ret_match = (struct rule_match){.field = (enum rule_field)cell->field,
					 .negated = cell->negated,
					 .set = cell->is_set ? (int)cell->set : -1,
					 .mask = UINT32_MAX};
	if (is_interface(ret_match->field)) {
		memcpy(ret_match->name, cell->name, sizeof ret_match->name);
	} else if (ret_match->field == RULE_CGROUP) {
		ret_match->cgroup = cell->value;
		ret_match->value = cell->mask;
	} else if (!cell->is_set) {
		ret_match->value = (uint32_t)cell->value;
		ret_match->mask = cell->mask;
	}
}

// The chain whose rules begin at the cell.
static uint32_t chain_at(const struct weir_header *header, uint32_t cell)
{
	uint32_t chain = 0;
	while (chain < WEIR_CHAINS && header->chains[chain] != cell)
		chain++;
	return chain;
}

static int decode_rule(const union weir_cell *cells, uint32_t at, const char *comment,
		       struct ruleset *ruleset)
{
	const struct weir_header *header = &cells[WEIR_CELL_HEADER].header;
	const struct weir_rule *cell = &cells[at].rule;
	bool valid = cell->chain < WEIR_CHAINS && cell->match_count <= RULE_MATCHES_MAX &&
		     is_within(at + 1, cell->match_count, header->cell_count);
	for (uint32_t i = 0; valid && i < cell->match_count; i++)
		valid = !cells[at + 1 + i].match.is_set || cells[at + 1 + i].match.set < ruleset->set_count;
	if (!valid)
		return ERR_MALFORMED;
	struct rule *rule = ruleset_add_rule(ruleset, chains[cell->chain]);
	if (!rule)
		return -ENOMEM;
	rule->action = (enum rule_action)cell->action;
	rule->value = cell->value;
	if (cell->action == WEIR_GOTO) {
		uint32_t chain = chain_at(header, cell->value);
		rule->value = chain < WEIR_CHAINS ? chains[chain] : CHAIN_COUNT;
	}
	rule->packets = cell->packets;
	rule->match_count = cell->match_count;
	for (uint32_t i = 0; i < cell->match_count; i++)
		decode_match(&cells[at + 1 + i].match, &rule->matches[i]);
	memcpy(rule->comment, comment, sizeof rule->comment - 1);
	return 0;
}

static int decode_all(const union weir_cell *cells, uint32_t count, struct ruleset *ruleset)
{
	const struct weir_header *header = &cells[WEIR_CELL_HEADER].header;
	uint32_t at = WEIR_CELL_FIRST_RULE;
	int err = 0;
	for (uint32_t i = 0; i < header->set_count && err == 0; i++)
		err = decode_set(cells, count, &cells[header->first_set + i].set, ruleset);
	for (uint32_t i = 0; i < header->rule_count && err == 0; i++) {
		if (at >= count)
			return ERR_MALFORMED;
		err = decode_rule(cells, at, cells[header->first_text + i * CELLS_A_TEXT].text, ruleset);
		at += 1u + cells[at].rule.match_count;
	}
	return err;
}

int ebpf_decode(const union weir_cell *cells, uint32_t count, struct ruleset *ret_ruleset)
{
	const struct weir_header *header = &cells[WEIR_CELL_HEADER].header;
	struct ruleset ruleset = {0};
	if (count < WEIR_CELL_FIRST_RULE || header->version != WEIR_LAYOUT_VERSION ||
	    header->cell_count > count || !is_within(header->first_set, header->set_count, count) ||
	    !is_within(header->first_text, (uint64_t)header->rule_count * CELLS_A_TEXT, count))
		return ERR_MALFORMED;
	int err = decode_all(cells, count, &ruleset);
	if (err) {
		ruleset_done(&ruleset);
		return err;
	}
	*ret_ruleset = ruleset;
	return 0;
}
