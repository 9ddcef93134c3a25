// SPDX-License-Identifier: Apache-2.0
#include "intercept/backend.h"

#include "base/error.h"
#include "intercept/cgroups.h"

#include <unistd.h>

const struct backend *const backends[] = {&backend_nft, &backend_ebpf, &backend_iptables, NULL};

int backend_compile(const struct backend *backend, const struct capture_plan *plan,
		    struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct ruleset ruleset;
	int err = ruleset_compile(plan, &ruleset);
	if (err)
		return err;
	if (backend->adapt)
		backend->adapt(plan, &ruleset);
	err = ruleset_find_cgroups(&ruleset, ret_error);
	if (err)
		ruleset_done(&ruleset);
	else
		*ret_ruleset = ruleset;
	return err;
}

// Which one it is if that is asked for.
static const struct backend *for_plan(const struct backend *backend, const struct capture_plan *plan)
{
	const struct capture_direction *outbound = &plan->outbound;
	bool interfaces = outbound->include_interfaces.count || outbound->exclude_interfaces.count;
	return backend == &backend_ebpf && interfaces ? &backend_split : backend;
}

static int find_any(const struct capture_plan *plan, const struct backend **ret_backend,
		    struct strbuf *ret_error)
{
	int err = ERR_NOT_FOUND;
	for (size_t i = 0; backends[i]; i++) {
		if (i)
			strbuf_add_text(ret_error, "; ");
		const struct backend *backend = for_plan(backends[i], plan);
		strbuf_printf(ret_error, "%s: ", backends[i]->name);
		err = backend->probe(plan, ret_error);
		if (err == 0) {
			strbuf_clear(ret_error);
			*ret_backend = backend;
			return 0;
		}
	}
	return err;
}

const struct backend *backend_named(struct str name, const struct capture_plan *plan)
{
	for (size_t i = 0; backends[i]; i++)
		if (str_eq(name, str_from(backends[i]->name)))
			return for_plan(backends[i], plan);
	return NULL;
}

int backend_find(struct str name, const struct capture_plan *plan, const struct backend **ret_backend,
		 struct strbuf *ret_error)
{
	if (str_eq(name, STR("auto")))
		return find_any(plan, ret_backend, ret_error);
	const struct backend *backend = backend_named(name, plan);
	int err = backend ? backend->probe(plan, ret_error) : ERR_NOT_FOUND;
	if (err == 0)
		*ret_backend = backend;
	return err;
}

const char *backend_hook(const struct backend *backend, enum rule_chain chain, uint8_t family,
			 uint8_t protocol)
{
	return backend && backend->hook ? backend->hook(chain, family, protocol) : rule_chains[chain].hook;
}

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void held_rules_let_go(struct held_rules *held)
{
	if (held->rules >= 0 && held->backend->let_go)
		held->backend->let_go(held);
	drop(&held->rules);
	drop(&held->arrivals);
}

void held_rules_drop(struct held_rules *held)
{
	drop(&held->rules);
	drop(&held->arrivals);
	drop(&held->translation);
}
