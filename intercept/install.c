// SPDX-License-Identifier: Apache-2.0
#include "intercept/install.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>

// Every network namespace has one of its own, and only its administrators can open it, so nobody else can
// make them wait.
#define TURN_FILE "/proc/sys/net/ipv4/tcp_fastopen_key"

// Who changes what is installed in the namespace of the calling thread holds this until it is closed: rules
// of several tables and routes are more than one transaction. -1: there is no such file here, and nobody
// waits.
static int take_turn(void)
{
	int fd = open(TURN_FILE, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		flock(fd, LOCK_EX);
	return fd;
}

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

// What a change is made of.
struct change {
	const struct backend *backend;
	const struct capture_plan *plan;
	struct ruleset ruleset;
	struct held_rules *ret_held; // NULL: the rules stay
	bool changed;
};

// Of a kernel that does not have what a back end needs: then that has installed nothing either.
static bool is_absent(int err)
{
	return err == ERR_NOT_FOUND || err == -EINVAL || err == -EOPNOTSUPP || err == -EPROTONOSUPPORT;
}

static bool is_or_has(const struct backend *whole, const struct backend *backend)
{
	const struct backend *const *part = whole ? whole->parts : NULL;
	while (part && *part && *part != backend)
		part++;
	return whole == backend || (part && *part);
}

// Takes out what other back ends have installed.
static int remove_others(const struct backend *kept, bool *ret_removed, struct strbuf *error)
{
	for (size_t i = 0; backends[i]; i++) {
		autostrbuf struct strbuf why = {0};
		int err = is_or_has(kept, backends[i]) ? ERR_NOT_FOUND : backends[i]->remove(&why);
		if (err == 0) {
			*ret_removed = true;
		} else if (!is_absent(err)) {
			strbuf_add_str(error, strbuf_str(&why));
			return err;
		}
	}
	return 0;
}

static int hold_rules(struct change *change, struct strbuf *error)
{
	struct held_rules held;
	int err = change->backend->hold(change->plan, &change->ruleset, &held, error);
	if (err)
		return err;
	held.backend = change->backend;
	err = remove_others(change->backend, &change->changed, error);
	if (err)
		held_rules_drop(&held);
	else
		*change->ret_held = held;
	return err;
}

static int apply_rules(struct change *change, struct strbuf *error)
{
	if (change->ret_held)
		return hold_rules(change, error);
	struct ruleset present;
	int err = change->backend->read(&present, error);
	if (err && err != ERR_NOT_FOUND)
		return err;
	bool equal = err == 0 && ruleset_equal(&change->ruleset, &present);
	if (err == 0)
		ruleset_done(&present);
	if (!equal) {
		err = change->backend->apply(change->plan, &change->ruleset, error);
		if (err)
			return err;
		change->changed = true;
	}
	// Only now: connections are captured by the one or the other at any time.
	return remove_others(change->backend, &change->changed, error);
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

// The way back of connections from clients' addresses, as the plan wants it.
static struct return_way wanted_returns(const struct capture_plan *plan, const struct ruleset *ruleset)
{
	bool wanted = plan_keeps_client(plan) && !ruleset->programs.client_mark;
	return (struct return_way){wanted && plan->ipv4, wanted && plan->ipv6, plan->client_mark,
				   plan->mark_mask};
}

// Brings routes and rules of routing back to what they were, as far as that is possible.
static void restore(const struct installed *before)
{
	autostrbuf struct strbuf ignored = {0};
	bool changed;
	restore_routes(before->routes, before->route_count);
	returns_apply(&before->returns, &changed, &ignored);
}

static int apply_all(struct change *change, const struct installed *before, struct strbuf *error)
{
	struct return_way returns = wanted_returns(change->plan, &change->ruleset);
	struct cidr *vips;
	size_t count;
	int err = wanted_vips(change->plan, &vips, &count);
	if (err)
		return err;
	err = routes_apply(vips, count, error);
	if (err == 0)
		err = returns_apply(&returns, &change->changed, error);
	if (err == 0)
		err = apply_rules(change, error);
	if (err)
		restore(before);
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

// What a process holds goes with it, and nobody else changes it.
static int check_held(struct strbuf *error)
{
	bool held = false;
	for (size_t i = 0; backends[i] && !held; i++) {
		autostrbuf struct strbuf ignored = {0};
		struct ruleset present;
		if (!backends[i]->hold || backends[i]->read(&present, &ignored))
			continue;
		held = present.held;
		ruleset_done(&present);
	}
	if (held)
		strbuf_add_text(error,
				"the rules belong to a proxy that runs (intercept.capture.fail: open): they "
				"go when it ends");
	return held ? -EPERM : 0;
}

static int apply(struct change *change, bool *ret_changed, struct strbuf *ret_error)
{
	const struct capture_plan *plan = change->plan;
	struct installed before = {0}, after = {0};
	int err = capture_plan_validate(plan, ret_error);
	if (err)
		return err;
	err = backend_compile(change->backend, plan, &change->ruleset, ret_error);
	if (err)
		return err;
	err = routes_list(&before.routes, &before.route_count, ret_error);
	if (err == 0)
		err = returns_read(&before.returns, ret_error);
	if (err == 0)
		err = apply_all(change, &before, ret_error);
	if (err == 0 && !change->ret_held)
		err = routes_list(&after.routes, &after.route_count, ret_error);
	if (err == 0)
		*ret_changed = change->changed || !routes_equal(&before, &after);
	ruleset_done(&change->ruleset);
	installed_done(&before);
	installed_done(&after);
	return err;
}

int intercept_apply(const struct backend *backend, const struct capture_plan *plan, bool *ret_changed,
		    struct strbuf *ret_error)
{
	struct change change = {.backend = backend, .plan = plan};
	autoclose int turn = take_turn();
	(void)turn;
	int err = check_held(ret_error);
	return err ? err : apply(&change, ret_changed, ret_error);
}

static int hold_by(const struct backend *backend, const struct capture_plan *plan,
		   struct held_rules *ret_held, struct strbuf *error)
{
	struct change change = {.backend = backend, .plan = plan, .ret_held = ret_held};
	bool changed;
	if (backend->hold)
		return apply(&change, &changed, error);
	int err = backend->probe(plan, error);
	return err ? err : ERR_UNSUPPORTED;
}

static int hold_by_any(const struct capture_plan *plan, struct held_rules *ret_held, struct strbuf *error)
{
	autostrbuf struct strbuf why = {0};
	int err = ERR_UNSUPPORTED;
	for (size_t i = 0; backends[i] && err; i++) {
		if (!backends[i]->hold)
			continue;
		strbuf_printf(&why, "%s%s: ", why.len ? "; " : "", backends[i]->name);
		err = hold_by(backends[i], plan, ret_held, &why);
	}
	if (err)
		strbuf_add_str(error, strbuf_str(&why));
	return err;
}

int intercept_hold(struct str backend, const struct capture_plan *plan, struct held_rules *ret_held,
		   struct strbuf *ret_error)
{
	const struct backend *named = backend_named(backend, plan);
	autoclose int turn = take_turn();
	(void)turn;
	int err = check_held(ret_error);
	if (err)
		return err;
	return named ? hold_by(named, plan, ret_held, ret_error) : hold_by_any(plan, ret_held, ret_error);
}

// The rules of the back end may be half of those that are there.
static void read_whole(struct installed *installed)
{
	autostrbuf struct strbuf ignored = {0};
	struct ruleset whole;
	if (backend_split.read(&whole, &ignored))
		return;
	ruleset_done(&installed->ruleset);
	installed->ruleset = whole;
	installed->backend = &backend_split;
}

// The rules of the first back end that has installed any.
static int read_rules(struct installed *installed, struct strbuf *error)
{
	for (size_t i = 0; backends[i]; i++) {
		autostrbuf struct strbuf why = {0};
		int err = backends[i]->read(&installed->ruleset, &why);
		if (err == 0) {
			installed->backend = backends[i];
			read_whole(installed);
			ruleset_name_cgroups(&installed->ruleset);
			return 0;
		}
		if (!is_absent(err)) {
			strbuf_add_str(error, strbuf_str(&why));
			return err;
		}
	}
	return ERR_NOT_FOUND;
}

int intercept_read(struct installed *ret_installed, struct strbuf *ret_error)
{
	struct installed installed = {0};
	int missing = read_rules(&installed, ret_error);
	if (missing && missing != ERR_NOT_FOUND)
		return missing;
	int err = routes_list(&installed.routes, &installed.route_count, ret_error);
	if (err == 0)
		err = returns_read(&installed.returns, ret_error);
	if (err == 0 && missing && installed.route_count == 0 && !installed.returns.ipv4 &&
	    !installed.returns.ipv6)
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
	autoclose int turn = take_turn();
	(void)turn;
	int err = check_held(ret_error);
	if (err == 0)
		err = routes_list(&routes, &count, ret_error);
	if (err)
		return err;
	mem_free(routes);
	// Rules first: with the routes gone first, connections would fail that are still meant to be
	// captured.
	bool removed = count > 0;
	err = remove_others(NULL, &removed, ret_error);
	if (err == 0 && count)
		err = routes_remove(ret_error);
	if (err == 0)
		err = returns_apply(&(struct return_way){0}, &removed, ret_error);
	if (err == 0)
		*ret_removed = removed;
	return err;
}

// A plan that captures nothing, and has what the one that is installed needs for connections that are open.
static void plan_of_nothing(const struct installed *installed, struct capture_plan *ret_plan)
{
	static const struct port_range all = {1, UINT16_MAX};
	const struct return_way *returns = &installed->returns;
	capture_plan_init(ret_plan);
	ret_plan->ipv4 = !ruleset_spares_family(&installed->ruleset, AF_INET);
	ret_plan->ipv6 = !ruleset_spares_family(&installed->ruleset, AF_INET6);
	ret_plan->outbound.enabled = ret_plan->dns.enabled = false;
	ret_plan->inbound.exclude_ports = (struct capture_ports){&all, 1};
	if (returns->ipv4 || returns->ipv6) {
		ret_plan->inbound_source = INBOUND_SOURCE_CLIENT;
		ret_plan->client_mark = returns->mark;
		ret_plan->mark_mask = returns->mask;
	}
}

static int leave_open_of(const struct backend *backend, const struct installed *installed,
			 struct strbuf *error)
{
	struct capture_plan plan;
	struct ruleset ruleset;
	if (backend->leave_open)
		return backend->leave_open(error);
	plan_of_nothing(installed, &plan);
	int err = backend_compile(backend, &plan, &ruleset, error);
	if (err)
		return err;
	err = backend->apply(&plan, &ruleset, error);
	ruleset_done(&ruleset);
	return err;
}

static int leave_open(const struct installed *installed, struct strbuf *error)
{
	const struct backend *const *part = installed->backend->parts;
	int err = 0;
	if (!part)
		return leave_open_of(installed->backend, installed, error);
	for (; *part && err == 0; part++)
		err = leave_open_of(*part, installed, error);
	return err;
}

int intercept_leave_open(bool *ret_removed, struct strbuf *ret_error)
{
	struct installed installed;
	autoclose int turn = take_turn();
	(void)turn;
	int err = intercept_read(&installed, ret_error);
	if (err == ERR_NOT_FOUND)
		*ret_removed = false;
	if (err)
		return err == ERR_NOT_FOUND ? 0 : err;
	bool present = installed.backend;
	err = present ? check_held(ret_error) : 0;
	if (present && err == 0)
		err = leave_open(&installed, ret_error);
	installed_done(&installed);
	if (err == 0)
		*ret_removed = present;
	return err;
}
