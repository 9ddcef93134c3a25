// SPDX-License-Identifier: Apache-2.0
#include "cli/explain_kernel.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/ebpf_sockets.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <unistd.h>

enum { DNS_PORT = 53, ELEMENTS_SHOWN = 16 };

void kernel_view_open(struct kernel_view *ret_view)
{
	struct kernel_view view = {0};
	view.rules_err = intercept_read(&view.installed, &view.rules_error);
	view.sockets_err = socket_list_read(UINT32_MAX, &view.sockets, &view.sockets_error);
	if (!view.sockets_err)
		ebpf_sockets_reveal(&view.sockets);
	*ret_view = view;
}

void kernel_view_close(struct kernel_view *view)
{
	if (!view->rules_err)
		installed_done(&view->installed);
	socket_list_done(&view->sockets);
	strbuf_done(&view->rules_error);
	strbuf_done(&view->sockets_error);
}

// --- connections ------------------------------------------------------------------------------------------
struct flow kernel_flow_out(const struct addr *dest, const char *interface, char name[IFNAMSIZ])
{
	struct flow flow = {.protocol = IPPROTO_TCP, .dest = *dest, .out_interface = interface};
	if (!interface && routes_interface(&dest->ip, name) == 0)
		flow.out_interface = name;
	return flow;
}

// The interface that has the address; false if it is none of this host's.
static bool interface_of(const struct ip *ip, char ret_name[IFNAMSIZ])
{
	struct ifaddrs *all = NULL;
	bool found = false;
	if (getifaddrs(&all) < 0)
		return false;
	for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
		struct sockaddr_storage sa = {0};
		struct addr addr = {0};
		if (!i->ifa_addr || i->ifa_addr->sa_family != ip->family)
			continue;
		memcpy(&sa, i->ifa_addr,
		       ip->family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
		found = addr_from_sockaddr(&sa, &addr) == 0 && ip_eq(&addr.ip, ip);
		if (found)
			snprintf(ret_name, IFNAMSIZ, "%s", i->ifa_name);
	}
	freeifaddrs(all);
	return found;
}

// The way back shows by which interface a connection comes; of an unknown source, it is the one with the
// address.
struct flow kernel_flow_in(const struct addr *source, const struct addr *dest, const char *interface,
			   char name[IFNAMSIZ])
{
	struct flow flow = {
	    .protocol = IPPROTO_TCP, .source = *source, .dest = *dest, .in_interface = interface};
	flow.dest_is_local = routes_is_local(&dest->ip);
	if (!source->ip.family)
		flow.unknown |= 1u << (dest->ip.family == AF_INET6 ? RULE_SOURCE6 : RULE_SOURCE4);
	if (!interface &&
	    (source->ip.family ? routes_interface(&source->ip, name) == 0 : interface_of(&dest->ip, name)))
		flow.in_interface = name;
	if (!flow.in_interface)
		flow.unknown |= 1u << RULE_IN_INTERFACE;
	return flow;
}

void kernel_flow_own(struct flow *flow)
{
	flow->user = geteuid();
	flow->group = getegid();
	if (cgroup_line_own(&flow->cgroups))
		flow->unknown |= 1u << RULE_CGROUP;
}

void kernel_flow_cgroup(struct flow *flow, const char *path)
{
	flow->unknown &= ~(1u << RULE_CGROUP);
	if (!path[0] || cgroup_line_of(path, &flow->cgroups))
		flow->unknown |= 1u << RULE_CGROUP;
}

// --- the verdict ------------------------------------------------------------------------------------------
static bool looks_at(const struct rule *rule, enum rule_field field)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == field)
			return true;
	return false;
}

static bool looks_into_sets(const struct rule *rule)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].set >= 0)
			return true;
	return false;
}

static enum kernel_fate fate_of(const struct rule *rule)
{
	if (!rule || rule->action != RULE_REDIRECT)
		return FATE_DIRECT;
	if (looks_at(rule, RULE_UDP_DEST_PORT) || looks_at(rule, RULE_TCP_DEST_PORT))
		return FATE_DNS;
	return rule->chain == CHAIN_INBOUND ? FATE_INBOUND : FATE_OUTBOUND;
}

static bool has_no_route(bool inbound, const struct flow *flow)
{
	return !inbound && !flow->out_interface && !(flow->unknown & 1u << RULE_OUT_INTERFACE);
}

// Whether the first look is before connection tracking: DNS queries are given a zone of their own there.
static bool starts_raw(bool inbound, const struct flow *flow)
{
	return !inbound && flow->protocol == IPPROTO_UDP;
}

static struct kernel_verdict trace(const struct kernel_view *view, bool inbound, const struct flow *flow,
				   rule_visit_fn visit, void *arg)
{
	const struct ruleset *ruleset = &view->installed.ruleset;
	struct kernel_verdict verdict = {0};
	if (has_no_route(inbound, flow)) {
		verdict.fate = FATE_NO_ROUTE;
		return verdict;
	}
	if (view->rules_err && view->rules_err != ERR_NOT_FOUND)
		return verdict;
	if (starts_raw(inbound, flow))
		ruleset_trace(ruleset, CHAIN_OUTPUT_RAW, flow, visit, arg);
	verdict.rule = ruleset_trace(ruleset, inbound ? CHAIN_PREROUTING : CHAIN_OUTPUT, flow, visit, arg);
	verdict.fate = fate_of(verdict.rule);
	return verdict;
}

static void count_unknown(const struct rule_visit *visit, void *arg)
{
	size_t *count = arg;
	*count += visit->unknown;
}

struct kernel_verdict kernel_judge(const struct kernel_view *view, bool inbound, const struct flow *flow)
{
	size_t unknown = 0;
	struct kernel_verdict verdict = trace(view, inbound, flow, count_unknown, &unknown);
	verdict.unknown = unknown;
	return verdict;
}

void kernel_verdict_text(const struct kernel_view *view, const struct kernel_verdict *verdict,
			 struct strbuf *out)
{
	static const char *const listeners[] = {[FATE_OUTBOUND] = "the outbound proxy",
						[FATE_INBOUND] = "the inbound proxy",
						[FATE_DNS] = "the DNS responder"};
	if (verdict->fate == FATE_NO_ROUTE)
		strbuf_add_text(out, "fails: there is no route, so no rule is met");
	else if (verdict->fate == FATE_UNKNOWN)
		strbuf_printf(out, "unknown: %s",
			      view->rules_error.len ? view->rules_error.p : err_text(view->rules_err));
	else if (view->rules_err == ERR_NOT_FOUND)
		strbuf_add_text(out, "left alone: nothing is installed in this network namespace");
	else if (!verdict->rule)
		strbuf_add_text(out, "left alone: no rule matches");
	else if (verdict->fate == FATE_DIRECT)
		strbuf_printf(out, "left alone: %s", verdict->rule->comment);
	else
		strbuf_printf(out, "captured to port %u, %s", verdict->rule->value, listeners[verdict->fate]);
}

// --- describing -------------------------------------------------------------------------------------------
struct rows {
	const struct ruleset *ruleset;
	const struct backend *backend;
	const struct flow *flow;
	struct emit *emit;
	const char *hook; // where it entered
	size_t count;
};

static const char *result_of(const struct rule_visit *visit)
{
	return visit->decides	? "decides"
	       : visit->unknown ? "not known"
	       : visit->failed	? "passed over"
				: "leads on";
}

static void rule_row(const struct rule_visit *visit, void *arg)
{
	struct rows *rows = arg;
	const struct rule *rule = visit->rule;
	const struct rule_chain_info *chain = &rule_chains[rule->chain];
	autostrbuf struct strbuf unmet = {0};
	if (visit->failed)
		rule_match_print(rows->ruleset, visit->failed, &unmet);
	if (chain->hook)
		rows->hook = backend_hook(rows->backend, rule->chain, rows->flow->dest.ip.family,
					  rows->flow->protocol);
	emit_row_begin(rows->emit);
	emit_uint(rows->emit, "step", ++rows->count);
	emit_text(rows->emit, "hook", rows->hook);
	emit_text(rows->emit, "chain", chain->name);
	emit_text(rows->emit, "result", result_of(visit));
	emit_text(rows->emit, "purpose", rule->comment);
	emit_uint(rows->emit, "packets", rule->packets);
	emit_uint(rows->emit, "bytes", rule->bytes);
	emit_str(rows->emit, "unmet", visit->failed ? strbuf_str(&unmet) : (struct str){NULL, 0});
	emit_row_end(rows->emit);
}

static void emit_asked(struct emit *emit, bool inbound, const struct flow *flow)
{
	emit_text(emit, "protocol", flow->protocol == IPPROTO_UDP ? "udp" : "tcp");
	if (flow->source.port)
		emit_addr(emit, "from", &flow->source);
	else if (flow->source.ip.family)
		emit_ip(emit, "from", &flow->source.ip);
	if (flow->unknown & 1u << RULE_DEST4)
		emit_text(emit, "to", "anywhere");
	else
		emit_addr(emit, "to", &flow->dest);
	emit_text(emit, "interface", inbound ? flow->in_interface : flow->out_interface);
	if (inbound)
		return;
	if (flow->unknown & 1u << RULE_USER)
		emit_text(emit, "user", NULL);
	else
		emit_uint(emit, "user", flow->user);
	if (flow->unknown & 1u << RULE_GROUP)
		emit_text(emit, "group", NULL);
	else
		emit_uint(emit, "group", flow->group);
	emit_text(emit, "cgroup", flow->unknown & 1u << RULE_CGROUP ? NULL : flow->cgroups.path);
	emit_uint(emit, "mark", flow->mark);
}

static void emit_rule(struct emit *emit, const struct ruleset *ruleset, const struct rule *rule)
{
	autostrbuf struct strbuf text = {0};
	rule_print(ruleset, rule, &text);
	emit_str(emit, "rule", strbuf_str(&text));
}

// The sets that the deciding rule looks into: what "excluded network" means here.
static void emit_sets(struct emit *emit, const struct ruleset *ruleset, const struct rule *rule)
{
	emit_table_begin(emit, "sets");
	for (size_t i = 0; i < rule->match_count; i++) {
		if (rule->matches[i].set < 0)
			continue;
		autostrbuf struct strbuf text = {0};
		const struct rule_set *set = &ruleset->sets[rule->matches[i].set];
		if (set->count <= ELEMENTS_SHOWN)
			rule_set_print(set, &text);
		else
			strbuf_printf(&text, "%zu ranges", set->count);
		emit_row_begin(emit);
		emit_text(emit, "set", set->name);
		emit_str(emit, "elements", strbuf_str(&text));
		emit_row_end(emit);
	}
	emit_table_end(emit);
}

// Whether the proxy is there to take what is captured.
static void emit_listener(struct emit *emit, const struct kernel_view *view, const struct flow *flow,
			  const struct rule *rule)
{
	if (flow->protocol != IPPROTO_TCP)
		return;
	if (view->sockets_err) {
		emit_text(emit, "proxy_listens", view->sockets_error.p);
		return;
	}
	bool listens =
	    socket_list_listener(&view->sockets, flow->dest.ip.family, (uint16_t)rule->value) != NULL;
	emit_bool(emit, "proxy_listens", listens);
	if (!listens && ruleset_has_chain(&view->installed.ruleset, CHAIN_HOLD))
		emit_text(emit, "meanwhile", "it waits (fail hold)");
	else if (!listens && view->installed.ruleset.programs.fail == FAIL_OPEN)
		emit_text(emit, "meanwhile", "it goes directly (fail open)");
}

static void emit_of_family(struct emit *emit, const char *key, const char *text, uint8_t family)
{
	autostrbuf struct strbuf name = {0};
	for (; *text; text++)
		strbuf_add_char(&name, *text != '#' ? *text : family == AF_INET6 ? '6' : '4');
	emit_str(emit, key, strbuf_str(&name));
}

// Where in the kernel it is dealt with, beside the hook at which the rules are.
static void emit_steps(struct emit *emit, const struct installed *installed, bool inbound,
		       const struct flow *flow)
{
	const struct backend *backend = installed->backend;
	const bool there[] = {[STEP_ALWAYS] = true,
			      [STEP_HOLDS] = ruleset_has_chain(&installed->ruleset, CHAIN_HOLD),
			      [STEP_CLIENTS] = installed->ruleset.programs.client_mark};
	if (!backend || !backend->steps)
		return;
	const struct hook_step *step =
	    backend->steps(inbound ? CHAIN_PREROUTING : CHAIN_OUTPUT, flow->protocol);
	if (!step)
		return;
	emit_table_begin(emit, "hooks");
	for (; step->hook; step++) {
		if (!there[step->when])
			continue;
		emit_row_begin(emit);
		emit_of_family(emit, "hook", step->hook, flow->dest.ip.family);
		emit_of_family(emit, "program", step->program, flow->dest.ip.family);
		emit_text(emit, "what", step->what);
		emit_row_end(emit);
	}
	emit_table_end(emit);
}

struct kernel_verdict kernel_emit(const struct kernel_view *view, const char *name, bool inbound,
				  const struct flow *flow, struct emit *emit)
{
	autostrbuf struct strbuf text = {0};
	struct kernel_verdict verdict = kernel_judge(view, inbound, flow);
	struct rows rows = {.ruleset = &view->installed.ruleset,
			    .backend = view->installed.backend,
			    .flow = flow,
			    .emit = emit};
	kernel_verdict_text(view, &verdict, &text);
	emit_record_begin(emit, name);
	emit_asked(emit, inbound, flow);
	emit_text(emit, "back_end", rows.backend ? rows.backend->name : NULL);
	emit_str(emit, "verdict", strbuf_str(&text));
	if (verdict.unknown)
		emit_uint(emit, "rules_not_known", verdict.unknown);
	if (verdict.rule)
		emit_rule(emit, rows.ruleset, verdict.rule);
	if (verdict.fate >= FATE_OUTBOUND)
		emit_listener(emit, view, flow, verdict.rule);
	if (verdict.fate >= FATE_OUTBOUND)
		emit_steps(emit, &view->installed, inbound, flow);
	if (verdict.rule && looks_into_sets(verdict.rule))
		emit_sets(emit, rows.ruleset, verdict.rule);
	emit_table_begin(emit, "rules");
	trace(view, inbound, flow, rule_row, &rows);
	emit_table_end(emit);
	emit_record_end(emit);
	return verdict;
}
