// SPDX-License-Identifier: Apache-2.0
// The nftables back end: everything is in one table, `inet weir`, of the network namespace that the calling
// thread is in. Speaks netlink itself; no program is executed. Blocking; for start-up and the command line,
// not for the loop. Errors come with a sentence that says what is missing and what to do, appended to
// ret_error.
#pragma once

#include "intercept/rules.h"

// Puts the table in place, replacing it if it is there, in one transaction: it takes effect as a whole or not
// at all. 0 or a negative error.
int nft_apply(const struct ruleset *ruleset, struct strbuf *ret_error);
// What the table holds, with its counters. 0; ERR_NOT_FOUND (no sentence) if there is no such table; or a
// negative error. On 0 the caller calls ruleset_done.
int nft_read(struct ruleset *ret_ruleset, struct strbuf *ret_error);
// Deletes the table. 0; ERR_NOT_FOUND (no sentence) if there is no such table; or a negative error.
int nft_remove(struct strbuf *ret_error);
