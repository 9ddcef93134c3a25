// SPDX-License-Identifier: Apache-2.0
// The eBPF back end where outbound interfaces are listed. Its programs decide before the kernel has chosen
// one, so nftables have what leaves (connections and DNS queries), and programs what arrives. The rules are
// one ruleset, of which each has its half; what both lead to is in both.
#include "base/error.h"
#include "base/mem.h"
#include "intercept/backend.h"
#include "intercept/redirect.h"

#include <errno.h>

static const struct backend *const parts[] = {&backend_nft, &backend_ebpf, NULL};

// --- halves --------------------------------------------------------------------------------------------------
// How long connections are held: as nftables have it. 0: without an end.
static uint32_t hold_limit(const struct ruleset *ruleset)
{
	int held = ruleset_find_set(ruleset, "held");
	return held < 0 ? 0 : ruleset->sets[held].timeout_ms;
}

// A ruleset with rules of its own; all else is the other's.
static int half_of(const struct ruleset *whole, struct ruleset *ret_half)
{
	struct rule *rules = mem_array(whole->rule_count + 1, sizeof *rules);
	if (!rules)
		return -ENOMEM;
	if (whole->rule_count)
		memcpy(rules, whole->rules, whole->rule_count * sizeof *rules);
	*ret_half = *whole;
	ret_half->rules = rules;
	return 0;
}

static int leaving_half(const struct ruleset *whole, struct ruleset *ret_half)
{
	int err = half_of(whole, ret_half);
	if (err)
		return err;
	ret_half->programs = (struct rule_programs){0};
	ruleset_drop_chain(ret_half, CHAIN_PREROUTING);
	return 0;
}

// Queries leave.
static void drop_queries(struct ruleset *half)
{
	size_t kept = 0;
	for (size_t i = 0; i < half->rule_count; i++)
		if (half->rules[i].chain != CHAIN_HOLD ||
		    half->rules[i].matches[0].field != RULE_UDP_DEST_PORT)
			half->rules[kept++] = half->rules[i];
	half->rule_count = kept;
}

static int arriving_half(const struct ruleset *whole, struct ruleset *ret_half)
{
	static const enum rule_chain leaving[] = {CHAIN_OUTPUT_RAW, CHAIN_DNS_ZONE, CHAIN_DNS_CHOSEN,
						  CHAIN_OUTPUT, CHAIN_CHOSEN};
	int err = half_of(whole, ret_half);
	if (err)
		return err;
	for (size_t i = 0; i < ARRAY_SIZE(leaving); i++)
		ruleset_drop_chain(ret_half, leaving[i]);
	drop_queries(ret_half);
	ruleset_simplify_hold(ret_half, hold_limit(whole));
	return 0;
}

// Both, in the order of `parts`. On 0 the caller frees them with done_halves.
static int halve(const struct ruleset *whole, struct ruleset ret_halves[2])
{
	struct ruleset leaving, arriving;
	int err = leaving_half(whole, &leaving);
	if (err)
		return err;
	err = arriving_half(whole, &arriving);
	if (err) {
		mem_free(leaving.rules);
		return err;
	}
	ret_halves[0] = leaving;
	ret_halves[1] = arriving;
	return 0;
}

static void done_halves(struct ruleset halves[2])
{
	mem_free(halves[0].rules);
	mem_free(halves[1].rules);
}

// --- whether it can be used ----------------------------------------------------------------------------------
static int split_probe(const struct capture_plan *plan, struct strbuf *ret_why)
{
	autostrbuf struct strbuf why = {0};
	if (plan->fail == FAIL_OPEN) {
		strbuf_add_text(
		    ret_why,
		    "fail open does not go with outbound interfaces: they are for rules of "
		    "nftables, which outlive the proxy unless it installs them itself, as it does, "
		    "without eBPF, when its configuration says intercept.capture.fail: open and "
		    "backend: nft; do that, or give networks (outbound cidrs) instead");
		return ERR_UNSUPPORTED;
	}
	int err = backend_ebpf.probe(plan, ret_why);
	if (err)
		return err;
	err = backend_nft.probe(plan, &why);
	if (err)
		strbuf_printf(
		    ret_why,
		    "outbound interfaces: eBPF programs decide before the kernel has chosen one, and "
		    "nftables, which would have what leaves, cannot be used: %.*s; give networks "
		    "(outbound cidrs) instead",
		    STR_ARG(strbuf_str(&why)));
	return err;
}

// Programs are asked only when a connection begins. In packets of the proxy's connections to the application,
// an address stands for the client: answers to it are nobody else's, but would not be tracked in the client's
// zone.
static void split_adapt(const struct capture_plan *plan, struct ruleset *ruleset)
{
	ruleset_add_programs(ruleset, plan);
	ruleset_drop_open(ruleset, CHAIN_PREROUTING);
	ruleset_drop_client_zone(ruleset);
}

// --- reading -------------------------------------------------------------------------------------------------
// A rule of the one among those of the other, whose sets have the same names. False: one is missing.
static int take_rule(struct ruleset *whole, const struct ruleset *from, const struct rule *rule)
{
	struct rule *taken = ruleset_add_rule(whole, rule->chain);
	if (!taken)
		return -ENOMEM;
	*taken = *rule;
	for (size_t i = 0; i < taken->match_count; i++) {
		int *set = &taken->matches[i].set;
		if (*set < 0)
			continue;
		*set = ruleset_find_set(whole, from->sets[*set].name);
		if (*set < 0) {
			whole->rule_count--;
			whole->altered = true;
			return 0;
		}
	}
	return 0;
}

// The same rule, however long it lets connections wait.
static bool is_same(const struct rule *a, const struct rule *b)
{
	return a->chain == b->chain && a->action == b->action && strcmp(a->comment, b->comment) == 0 &&
	       a->match_count > 0 && b->match_count > 0 && a->matches[0].field == b->matches[0].field;
}

// What both halves have is counted by both.
static void add_counts(struct ruleset *whole, const struct ruleset *arriving)
{
	for (size_t i = 0; i < arriving->rule_count; i++) {
		const struct rule *rule = &arriving->rules[i];
		size_t at = 0;
		while (at < whole->rule_count && !is_same(&whole->rules[at], rule))
			at++;
		if (rule->chain != CHAIN_PREROUTING && at < whole->rule_count)
			whole->rules[at].packets += rule->packets;
	}
}

// Adds what arrives to what leaves. What others have changed shows in that the whole has another half.
static int join(struct ruleset *whole, const struct ruleset *arriving)
{
	struct ruleset half;
	int err = 0;
	for (size_t i = 0; i < arriving->rule_count && err == 0; i++)
		if (arriving->rules[i].chain == CHAIN_PREROUTING)
			err = take_rule(whole, arriving, &arriving->rules[i]);
	whole->programs = arriving->programs;
	if (err == 0)
		err = arriving_half(whole, &half);
	if (err)
		return err;
	whole->altered |= !ruleset_equal(&half, arriving);
	add_counts(whole, arriving);
	mem_free(half.rules);
	return 0;
}

// Without its half, the other is what somebody has left of it.
static int read_leaving(struct ruleset *ret_ruleset, struct strbuf *error)
{
	int err = backend_nft.read(ret_ruleset, error);
	if (err == ERR_NOT_FOUND)
		*ret_ruleset = (struct ruleset){.altered = true};
	return err == ERR_NOT_FOUND ? 0 : err;
}

static int split_read(struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct ruleset arriving, whole;
	int err = backend_ebpf.read(&arriving, ret_error);
	if (err)
		return err;
	if (arriving.altered && !arriving.rule_count) // of another version: whose it is cannot be told
		err = ERR_NOT_FOUND;
	else if (ruleset_has_chain(&arriving, CHAIN_OUTPUT))
		err = ERR_NOT_FOUND; // it has what leaves as well
	if (err == 0)
		err = read_leaving(&whole, ret_error);
	if (err == 0) {
		err = join(&whole, &arriving);
		if (err)
			ruleset_done(&whole);
		else
			*ret_ruleset = whole;
	}
	ruleset_done(&arriving);
	return err;
}

// --- changing ------------------------------------------------------------------------------------------------
// What a back end had before.
struct before {
	bool present;
	struct ruleset ruleset;
};

static void look_before(const struct backend *backend, struct before *ret_before)
{
	autostrbuf struct strbuf ignored = {0};
	*ret_before = (struct before){0};
	ret_before->present = backend->read(&ret_before->ruleset, &ignored) == 0;
}

// Whether it can be put back as it was: rules of others cannot.
static bool is_known(const struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->rule_count; i++)
		if (ruleset->rules[i].foreign)
			return false;
	return !ruleset->altered;
}

static void put_back(const struct backend *backend, const struct capture_plan *plan,
		     const struct before *before)
{
	autostrbuf struct strbuf ignored = {0};
	if (!before->present)
		backend->remove(&ignored);
	else if (is_known(&before->ruleset))
		backend->apply(plan, &before->ruleset, &ignored);
}

// What the one gives up is the other's by then: if nftables have what arrives, they come last, else first.
static int apply_halves(const struct capture_plan *plan, const struct ruleset halves[2],
			const struct before *nft, struct strbuf *error)
{
	size_t first = nft->present && (ruleset_has_chain(&nft->ruleset, CHAIN_PREROUTING) ||
					ruleset_has_chain(&nft->ruleset, CHAIN_ARRIVING));
	struct before own;
	look_before(parts[first], &own);
	int err = parts[first]->apply(plan, &halves[first], error);
	if (err == 0) {
		err = parts[!first]->apply(plan, &halves[!first], error);
		if (err)
			put_back(parts[first], plan, &own);
	}
	if (own.present)
		ruleset_done(&own.ruleset);
	return err;
}

static int split_apply(const struct capture_plan *plan, const struct ruleset *ruleset,
		       struct strbuf *ret_error)
{
	struct ruleset halves[2];
	struct before nft;
	int err = halve(ruleset, halves);
	if (err)
		return err;
	look_before(&backend_nft, &nft);
	err = apply_halves(plan, halves, &nft, ret_error);
	if (nft.present)
		ruleset_done(&nft.ruleset);
	done_halves(halves);
	return err;
}

// --- showing -------------------------------------------------------------------------------------------------
static void split_print(const struct ruleset *ruleset, struct strbuf *out)
{
	struct ruleset halves[2];
	if (halve(ruleset, halves))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(halves); i++) {
		strbuf_printf(out, "# %s, by %s:\n", i == 0 ? "what leaves" : "what arrives", parts[i]->name);
		parts[i]->print(&halves[i], out);
	}
	done_halves(halves);
}

static const char *split_hook(enum rule_chain chain, uint8_t family, uint8_t protocol)
{
	return backend_hook(chain == CHAIN_PREROUTING ? &backend_ebpf : &backend_nft, chain, family,
			    protocol);
}

static const struct hook_step *split_steps(enum rule_chain chain, uint8_t protocol)
{
	return chain == CHAIN_PREROUTING ? backend_ebpf.steps(chain, protocol) : NULL;
}

const struct backend backend_split = {
    .name = "ebpf+nft",
    .parts = parts,
    .local = &redirect_network,
    .probe = split_probe,
    .adapt = split_adapt,
    .print = split_print,
    .apply = split_apply,
    .read = split_read,
    .hook = split_hook,
    .steps = split_steps,
};
