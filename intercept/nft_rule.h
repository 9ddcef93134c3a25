// SPDX-License-Identifier: Apache-2.0
// One rule or set, between the neutral form and libnftnl's: encoding and decoding are each other's inverse,
// and need no kernel.
#pragma once

#include "intercept/rules.h"

#include <libnftnl/rule.h>
#include <libnftnl/set.h>

#define NFT_TABLE "weir"

// The caller frees with nftnl_rule_free. 0 or -ENOMEM.
int nft_rule_encode(const struct ruleset *ruleset, const struct rule *rule, struct nftnl_rule **ret_rule);
// Appends the rule to the ruleset, which has the sets already. What is not of a kind that weir makes becomes
// a foreign rule. 0 or -ENOMEM.
int nft_rule_decode(const struct nftnl_rule *nlr, struct ruleset *ruleset);

// With its elements; `id` numbers the sets of one transaction. The caller frees with nftnl_set_free. 0 or
// -ENOMEM.
int nft_set_encode(const struct rule_set *set, uint32_t id, struct nftnl_set **ret_set);
// Appends an empty set. Its index; ERR_UNSUPPORTED if the type is none of ours; -ENOMEM.
int nft_set_decode(const struct nftnl_set *nls, struct ruleset *ruleset);
// Adds the elements of `nls` to the set. 0, ERR_UNSUPPORTED or -ENOMEM.
int nft_set_decode_elements(struct nftnl_set *nls, struct rule_set *set);
