// SPDX-License-Identifier: Apache-2.0
#include "intercept/install.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/nft.h"

#include <errno.h>

// The ranges that a plan wants to be reachable: those of the families that it captures.
static int wanted_vips(const struct capture_plan *plan, struct cidr **ret_vips, size_t *ret_count)
{
	size_t count = 0;
	struct cidr *vips = mem_array(plan->vip_count + 1, sizeof *vips);
	if (!vips)
		return -ENOMEM;
	for (size_t i = 0; i < plan->vip_count && plan->outbound.enabled; i++)
		if (plan->vips[i].ip.family == AF_INET6 ? plan->ipv6 : plan->ipv4)
			vips[count++] = plan->vips[i];
	*ret_vips = vips;
	*ret_count = count;
	return 0;
}

static int apply_rules(const struct ruleset *wanted, bool *ret_changed, struct strbuf *error)
{
	struct ruleset present;
	int err = nft_read(&present, error);
	if (err && err != ERR_NOT_FOUND)
		return err;
	bool equal = err == 0 && ruleset_equal(wanted, &present);
	if (err == 0)
		ruleset_done(&present);
	if (equal)
		return 0;
	err = nft_apply(wanted, error);
	if (err == 0)
		*ret_changed = true;
	return err;
}

// Brings the routes back to what they were, as far as that is possible.
static void restore_routes(const struct vip_route *routes, size_t count)
{
	autostrbuf struct strbuf ignored = {0};
	struct cidr *vips = mem_array(count + 1, sizeof *vips);
	for (size_t i = 0; vips && i < count; i++)
		vips[i] = routes[i].destination;
	if (vips)
		routes_apply(vips, count, &ignored);
	mem_free(vips);
}

static int apply_all(const struct capture_plan *plan, const struct ruleset *ruleset,
		     const struct installed *before, bool *ret_changed, struct strbuf *error)
{
	struct cidr *vips;
	size_t count;
	int err = wanted_vips(plan, &vips, &count);
	if (err)
		return err;
	err = routes_apply(vips, count, error);
	if (err == 0)
		err = apply_rules(ruleset, ret_changed, error);
	if (err)
		restore_routes(before->routes, before->route_count);
	mem_free(vips);
	return err;
}

static bool routes_equal(const struct installed *a, const struct installed *b)
{
	if (a->route_count != b->route_count)
		return false;
	for (size_t i = 0; i < a->route_count; i++)
		if (memcmp(&a->routes[i].destination, &b->routes[i].destination,
			   sizeof a->routes[i].destination) != 0)
			return false;
	return true;
}

int intercept_apply(const struct capture_plan *plan, bool *ret_changed, struct strbuf *ret_error)
{
	struct ruleset ruleset;
	struct installed before = {0}, after = {0};
	bool changed = false;
	int err = capture_plan_validate(plan, ret_error);
	if (err)
		return err;
	err = ruleset_compile(plan, &ruleset);
	if (err)
		return err;
	err = routes_list(&before.routes, &before.route_count, ret_error);
	if (err == 0)
		err = apply_all(plan, &ruleset, &before, &changed, ret_error);
	if (err == 0)
		err = routes_list(&after.routes, &after.route_count, ret_error);
	if (err == 0)
		*ret_changed = changed || !routes_equal(&before, &after);
	ruleset_done(&ruleset);
	installed_done(&before);
	installed_done(&after);
	return err;
}

int intercept_read(struct installed *ret_installed, struct strbuf *ret_error)
{
	struct installed installed = {0};
	int missing = nft_read(&installed.ruleset, ret_error);
	if (missing && missing != ERR_NOT_FOUND)
		return missing;
	int err = routes_list(&installed.routes, &installed.route_count, ret_error);
	if (err == 0 && missing && installed.route_count == 0)
		err = missing;
	if (err) {
		installed_done(&installed);
		return err;
	}
	*ret_installed = installed;
	return 0;
}

void installed_done(struct installed *installed)
{
	ruleset_done(&installed->ruleset);
	mem_free(installed->routes);
	*installed = (struct installed){0};
}

int intercept_remove(bool *ret_removed, struct strbuf *ret_error)
{
	struct vip_route *routes;
	size_t count;
	int err = routes_list(&routes, &count, ret_error);
	if (err)
		return err;
	mem_free(routes);
	// Rules first: with the routes gone first, connections would fail that are still meant to be
	// captured.
	int missing = nft_remove(ret_error);
	if (missing && missing != ERR_NOT_FOUND)
		return missing;
	if (count)
		err = routes_remove(ret_error);
	if (err == 0)
		*ret_removed = missing == 0 || count;
	return err;
}
