// SPDX-License-Identifier: Apache-2.0
// A transaction of nftables under construction: messages about the one table of weir's, collected, and then
// sent as one datagram, which the kernel takes as a whole or not at all. An error while collecting sticks; it
// is told when the batch is sent. What a refusal means to the user is nft.c's.
#pragma once

#include "intercept/nft_rule.h"

#include <libmnl/libmnl.h>
#include <libnftnl/batch.h>

// What the messages are about, in their order.
enum batch_part { BATCH_TABLE, BATCH_SETS, BATCH_CHAINS, BATCH_RULES, BATCH_PARTS };

struct batch {
	const struct ruleset *ruleset; // what is to be; NULL: nothing is added. The caller's
	struct nftnl_batch *_nlb;
	uint32_t _next;		     // the sequence number of the next message
	uint32_t _part[BATCH_PARTS]; // those from which the parts begin; 0: there is none
	int _err;
};

// A message that the kernel refused: how, in which part, and as which message of the part.
struct refusal {
	int err; // 0: none was
	enum batch_part part;
	uint32_t index;
};

// generation: the only one of the kernel's rules that the transaction is for, else it is refused with
// -ERESTART; 0: any. 0 or -ENOMEM. On 0 the caller calls batch_done.
int batch_begin(struct batch *batch, uint32_t generation);
void batch_done(struct batch *batch);

// --- messages ----------------------------------------------------------------------------------------------
// Creates the table, if it is not there.
void batch_table(struct batch *batch);
// One that the kernel deletes when the socket that made it is gone.
void batch_owned_table(struct batch *batch, const char *name);
// It must be there.
void batch_delete_table(struct batch *batch, const char *name);
// The ruleset's sets with their elements; -EEXIST if one of their names is taken.
void batch_sets(struct batch *batch);
void batch_delete_sets(struct batch *batch, const struct ruleset *ruleset);
void batch_chain(struct batch *batch, const char *table, const struct rule_chain_info *info);
// A rule that looks at the states of connections and does nothing: while there is one, they are tracked.
void batch_tracking(struct batch *batch, const char *table, const char *chain);
// The chains that the ruleset has and the present one has not, and away with those of which it is the other
// way round. NULL: none is there. Chains must be empty to go.
void batch_chains(struct batch *batch, const struct ruleset *present);
void batch_rules(struct batch *batch);
// All rules of all chains.
void batch_delete_rules(struct batch *batch);

// Sends it. 0, or a negative error; then *ret_refusal tells which message was refused, if the kernel did.
int batch_commit(struct batch *batch, struct mnl_socket *nl, struct refusal *ret_refusal);
