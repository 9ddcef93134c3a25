// SPDX-License-Identifier: Apache-2.0
// Putting a capture plan into the kernel and taking it out again: rules (by a back end) and routes together,
// for the network namespace of the calling thread. What is installed stays when the process ends, and is
// found by its names alone: any later process can show and remove it. Blocking; for start-up and the command
// line.
#pragma once

#include "intercept/backend.h"
#include "intercept/routes.h"

struct installed {
	const struct backend *backend; // NULL: no rules, only routes
	struct ruleset ruleset;
	struct vip_route *routes;
	size_t route_count;
	struct return_way returns; // of connections from clients' addresses
};

// Installs a plan by that back end in place of what is there, by whichever it was. If just that is installed
// already nothing is touched, and counters go on; *ret_changed tells. On failure everything is as before. 0,
// or a negative error with a sentence in ret_error.
int intercept_apply(const struct backend *backend, const struct capture_plan *plan, bool *ret_changed,
		    struct strbuf *ret_error);
// Installs it by rules that go with this process: for the proxy itself, and the fail policy "open". By the
// back end of that name ("auto": the first that can). It needs the privilege now, and not later. Routes stay.
// 0, or a negative error with a sentence.
int intercept_hold(struct str backend, const struct capture_plan *plan, struct held_rules *ret_held,
		   struct strbuf *ret_error);
// 0; ERR_NOT_FOUND if nothing is installed; or a negative error with a sentence. On 0 the caller calls
// installed_done.
int intercept_read(struct installed *ret_installed, struct strbuf *ret_error);
void installed_done(struct installed *installed);
// From now on nothing is captured, and what is open goes on: its addresses are translated as long as there is
// a rule for that, so one stays that nothing meets, and routes, until intercept_remove. *ret_removed tells
// whether anything was installed. 0, or a negative error with a sentence.
int intercept_leave_open(bool *ret_removed, struct strbuf *ret_error);
// Removes whatever is installed; *ret_removed tells whether anything was. 0, or a negative error with a
// sentence.
int intercept_remove(bool *ret_removed, struct strbuf *ret_error);
