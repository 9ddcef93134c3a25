// SPDX-License-Identifier: Apache-2.0
// Finding one connection among those of all workers, and describing it: what `conn show` and `explain` share.
#pragma once

#include "admin/call.h"

// By its number, or by its ends as the client sees them.
struct conn_key {
	bool has_id;
	uint64_t id;
	struct addr peer, destination;
};

struct conn_found {
	struct conn_info info; // its texts lie in _texts
	struct strbuf _texts;
};

// Asks all workers. 0 (the caller calls conn_found_done); ERR_NOT_FOUND: there is none; what admin_call_fail
// returns; or another negative error.
int admin_connection_find(struct admin_call *call, const struct conn_key *key, struct conn_found *ret_found);
void conn_found_done(struct conn_found *found);
// The fields of a connection, within a row or a record. `now`: CLOCK_MONOTONIC.
void admin_emit_connection(struct emit *emit, const struct conn_info *info, uint64_t now);
