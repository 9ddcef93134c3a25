// SPDX-License-Identifier: Apache-2.0
// The proxy's own look-up of a request, step by step: what `route explain` and `explain flow` share.
#pragma once

#include "admin/call.h"
#include "base/limits.h"

enum { EXPLAIN_DEFAULT_PORT = 80 };

// The request asked about; its texts lie in the call's values. Zero-initialise.
struct explain_question {
	struct head head;
	struct field fields[LIMIT_HTTP_HEADERS];
	struct str service;		       // of an RPC call; p NULL: none was named
	char rpc_path[LIMIT_RPC_NAME * 2 + 2]; // what routes see of it
};

// From the parameters host, service, method, path and header. 0, or what admin_call_usage returns.
int explain_question_read(struct admin_call *call, struct explain_question *question);
// The virtual host that a destination leads to: an address, a name, or an RPC service, which becomes the
// question's then. For an address that names none, Host or the service decides. NULL: none. *ret_how says
// what named it.
const struct virtual_host *explain_host(const struct model *model, struct str destination,
					struct explain_question *question, const char **ret_how);
// Fills in what was not asked for: a request or a call, as the host's port takes them. 0, or what
// admin_call_usage returns.
int explain_question_complete(struct admin_call *call, struct explain_question *question,
			      const struct virtual_host *host);
// Emits which route of the host is taken ("route", "result") and why the others are not ("considered"), and
// returns it; NULL: none matches.
const struct route *explain_route_choice(struct emit *emit, const struct virtual_host *host,
					 const struct explain_question *question);
