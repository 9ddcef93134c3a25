// SPDX-License-Identifier: Apache-2.0
// What the workers together think of the endpoints.
#pragma once

#include "admin/call.h"

struct endpoint_view {
	const struct cluster *cluster;	 // of the current snapshot
	const struct endpoint *endpoint; // likewise
	uint64_t active;		 // over all workers
	unsigned workers_down;		 // how many avoid it
	uint64_t down_until_ns;		 // the latest of them; CLOCK_MONOTONIC
};

// Asks all workers. The views are in order of cluster and endpoint; free with mem_free. 0 or -ENOMEM.
int admin_endpoints_gather(const struct admin_backend *backend, const struct model *model,
			   struct endpoint_view **ret_views, size_t *ret_count);
// Down: every worker avoids it.
bool endpoint_view_down(const struct admin_backend *backend, const struct endpoint_view *view);
// A row of a table.
void admin_emit_endpoint(struct admin_call *call, const struct endpoint_view *view);
