// SPDX-License-Identifier: Apache-2.0
// weir intercept: what the init container and an administrator use. No proxy needs to run.
#include "cli/intercept_commands.h"

#include "cli/attend_commands.h"

#include "base/error.h"
#include "base/mem.h"
#include "control/config.h"
#include "intercept/check.h"
#include "intercept/foreign.h"
#include "intercept/install.h"
#include "intercept/options.h"
#include "intercept/probe.h"

#include <errno.h>
#include <stdio.h>

#define PARAM(name, kind, field, value, help)                                                                \
	{(kind) <= PLAN_OFF ? PARAM_FLAG : PARAM_OPTION, name, value, help, false, (kind) >= PLAN_PORTS},
static const struct command_param plan_params[] = {
    {PARAM_OPTION, "config", "FILE",
     "the proxy's configuration, which says what is captured; none of the options below then", false, false},
    {PARAM_OPTION, "backend", BACKEND_WORDS,
     "how it gets into the kernel (auto, the default: what this host allows); comes before the "
     "configuration's",
     false, false},
    PLAN_OPTIONS(PARAM)};
#undef PARAM

static int fail(const struct cli *cli, int err, const struct strbuf *error)
{
	return cli_fail(cli, "%s", error->len ? error->p : err_text(err));
}

// --- the plan ----------------------------------------------------------------------------------------------
// Options that are none of the plan's.
static bool is_general(const char *name)
{
	return strcmp(name, "config") == 0 || strcmp(name, "backend") == 0;
}

// What was said and would change nothing, with all that was said: somebody wanted something else. (Of a
// configuration, and of what a pod asks the node's agent for, defaults may be part.)
static int check_effect(const struct cli *cli, const struct capture_plan *plan, struct strbuf *error)
{
	const struct {
		const char *option;
		bool has_effect;
		const char *where;
	} rows[] = {
	    {"hold-timeout", plan->fail == FAIL_HOLD, "without '--fail hold'"},
	    {"dns-servers", plan->dns.enabled, "with '--no-dns'"},
	    {"vips", plan->outbound.enabled, "with '--no-outbound'"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].has_effect || !cli_has(cli, rows[i].option))
			continue;
		strbuf_printf(error, "'--%s' has no effect %s", rows[i].option, rows[i].where);
		return ERR_CONFIG;
	}
	return 0;
}

static int read_options(const struct cli *cli, struct plan_builder *builder, struct strbuf *error)
{
	for (size_t i = 0; i < cli->value_count; i++) {
		const struct command_value *value = &cli->values[i];
		int err = is_general(value->param->name)
			      ? 0
			      : plan_builder_set(builder, value->param->name, value->value, error);
		if (err)
			return err;
	}
	int err = check_effect(cli, &builder->plan, error);
	return err ? err : capture_plan_validate(&builder->plan, error);
}

// The name that was given, or else the default.
static struct str wanted_backend(const struct cli *cli, struct str initial)
{
	const char *name = cli_get(cli, "backend");
	return name ? str_from(name) : initial;
}

// What is done with a plan, by the back end of that name or "auto".
typedef int plan_fn(struct cli *cli, const struct capture_plan *plan, struct str backend);

// The plan that a configuration file describes.
static int with_config(struct cli *cli, const char *path, plan_fn *fn)
{
	struct capture_plan plan;
	struct config *config;
	autostrbuf struct strbuf error = {0};
	for (size_t i = 0; i < cli->value_count; i++)
		if (!is_general(cli->values[i].param->name))
			return cli_usage(cli, "--config stands alone: what it leaves out is set in the file");
	if (config_load(path, &config, &error)) {
		fputs(error.p ? error.p : "weir: out of memory\n", stderr);
		return CLI_FAILED;
	}
	config_capture_plan(config, &plan);
	int err = capture_plan_validate(&plan, &error);
	int status =
	    err ? fail(cli, err, &error) : fn(cli, &plan, wanted_backend(cli, config_backend(config)));
	config_free(config);
	return status;
}

// Runs `fn` with the plan that the options describe.
static int with_plan(struct cli *cli, plan_fn *fn)
{
	struct plan_builder builder;
	autostrbuf struct strbuf error = {0};
	const char *path = cli_get(cli, "config");
	if (path)
		return with_config(cli, path, fn);
	plan_builder_init(&builder);
	int err = read_options(cli, &builder, &error);
	int status = err == ERR_CONFIG ? cli_usage(cli, "%s", error.len ? error.p : err_text(err))
		     : err ? fail(cli, err, &error)
				       : fn(cli, &builder.plan, wanted_backend(cli, STR("auto")));
	plan_builder_done(&builder);
	return status;
}

// Of the ranges, those that a route would be laid for here and now.
static int planned_routes(const struct capture_plan *plan, bool *ret_needed, struct strbuf *error)
{
	int err = routes_needed(plan->vips, plan->vip_count, ret_needed, error);
	for (size_t i = 0; i < plan->vip_count && err == 0; i++)
		ret_needed[i] &=
		    plan->outbound.enabled && (plan->vips[i].ip.family == AF_INET6 ? plan->ipv6 : plan->ipv4);
	return err;
}

// What apply would do besides, as commands, each in a line of its own.
static void other_changes(const struct backend *backend, const struct capture_plan *plan,
			  const struct ruleset *ruleset, struct strbuf *out)
{
	const struct return_way way = {plan->ipv4, plan->ipv6, plan->client_mark, plan->mark_mask};
	if (backend->local && (backend->local->ip.family == AF_INET6 ? plan->ipv6 : plan->ipv4))
		routes_local_print(backend->local, out);
	if (plan_keeps_client(plan) && !ruleset->programs.client_mark)
		returns_print(&way, out);
}

static void print_plan(const struct capture_plan *plan, const bool *needed, struct str rules,
		       struct str others)
{
	char text[ADDR_TEXT_MAX];
	printf("%.*s", STR_ARG(rules));
	for (size_t i = 0; i < plan->vip_count; i++)
		if (needed[i])
			printf("# and a route: ip route add %s dev lo proto %d\n",
			       cidr_format(&plan->vips[i], text), ROUTE_PROTOCOL_WEIR);
	while (others.len) {
		struct str command = str_split(&others, '\n');
		printf("# and: %.*s\n", STR_ARG(command));
	}
}

static void emit_plan(struct emit *emit, const struct capture_plan *plan, const bool *needed,
		      struct str rules, struct str others)
{
	char text[ADDR_TEXT_MAX];
	emit_str(emit, "rules", rules);
	emit_list_begin(emit, "routes");
	for (size_t i = 0; i < plan->vip_count; i++)
		if (needed[i])
			emit_text(emit, NULL, cidr_format(&plan->vips[i], text));
	emit_list_end(emit);
	emit_list_begin(emit, "commands");
	while (others.len)
		emit_str(emit, NULL, str_split(&others, '\n'));
	emit_list_end(emit);
}

// A plan can be printed for a back end that could not be used here; what `auto` means depends on the host.
static const struct backend *printing_backend(struct str name, const struct capture_plan *plan)
{
	autostrbuf struct strbuf ignored = {0};
	const struct backend *backend = backend_named(name, plan);
	if (!backend && backend_find(name, plan, &backend, &ignored))
		backend = backends[0];
	return backend;
}

static int show_plan(struct cli *cli, const struct capture_plan *plan, struct str name)
{
	struct ruleset ruleset;
	autostrbuf struct strbuf rules = {0}, others = {0}, error = {0};
	autofree bool *needed = mem_array(plan->vip_count + 1, sizeof *needed);
	const struct backend *backend = printing_backend(name, plan);
	int err = needed ? backend_compile(backend, plan, &ruleset, &error) : -ENOMEM;
	if (err)
		return fail(cli, err, &error);
	backend->print(&ruleset, &rules);
	other_changes(backend, plan, &ruleset, &others);
	ruleset_done(&ruleset);
	err = planned_routes(plan, needed, &error);
	if (err)
		return fail(cli, err, &error);
	if (cli->format == EMIT_PLAIN)
		print_plan(plan, needed, strbuf_str(&rules), strbuf_str(&others));
	else
		emit_plan(cli->emit, plan, needed, strbuf_str(&rules), strbuf_str(&others));
	return CLI_DONE;
}

static int intercept_plan(struct cli *cli)
{
	return with_plan(cli, show_plan);
}

static int apply_plan(struct cli *cli, const struct capture_plan *plan, struct str name)
{
	autostrbuf struct strbuf error = {0};
	const struct backend *backend = NULL;
	bool changed;
	int err = backend_find(name, plan, &backend, &error);
	if (err == 0)
		err = intercept_apply(backend, plan, &changed, &error);
	if (err)
		return fail(cli, err, &error);
	emit_text(cli->emit, "interception", changed ? "installed" : "unchanged");
	return CLI_DONE;
}

static int intercept_apply_command(struct cli *cli)
{
	return with_plan(cli, apply_plan);
}

// --- what is there -----------------------------------------------------------------------------------------
static void emit_rule(struct emit *emit, const struct ruleset *ruleset, const struct rule *rule)
{
	autostrbuf struct strbuf text = {0};
	rule_print(ruleset, rule, &text);
	emit_row_begin(emit);
	emit_text(emit, "chain", rule->chain < CHAIN_COUNT ? rule_chains[rule->chain].name : "other");
	emit_uint(emit, "packets", rule->packets);
	emit_uint(emit, "bytes", rule->bytes);
	emit_text(emit, "purpose", rule->comment);
	emit_str(emit, "rule", strbuf_str(&text));
	emit_row_end(emit);
}

static void emit_set(struct emit *emit, const struct rule_set *set)
{
	autostrbuf struct strbuf text = {0};
	rule_set_print(set, &text);
	emit_row_begin(emit);
	emit_text(emit, "set", set->name);
	emit_str(emit, "elements", strbuf_str(&text));
	emit_row_end(emit);
}

static void emit_routes(struct emit *emit, const struct installed *installed)
{
	emit_table_begin(emit, "routes");
	for (size_t i = 0; i < installed->route_count; i++) {
		char text[ADDR_TEXT_MAX];
		const struct vip_route *route = &installed->routes[i];
		emit_row_begin(emit);
		emit_text(emit, "route", cidr_format(&route->destination, text));
		emit_ip(emit, "source", &route->source);
		emit_row_end(emit);
	}
	emit_table_end(emit);
}

// Whether somebody else has changed what weir installed, as far as that shows.
static bool is_altered(const struct ruleset *ruleset)
{
	bool altered = ruleset->altered;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		altered |= ruleset->rules[i].foreign;
	return altered;
}

// What becomes of connections while no proxy listens, as plans have it.
static const char *fail_policy(const struct ruleset *ruleset)
{
	if (!ruleset->rule_count)
		return NULL;
	if (ruleset_has_chain(ruleset, CHAIN_HOLD))
		return "hold";
	return ruleset->held || ruleset->programs.fail == FAIL_OPEN ? "open" : "closed";
}

static void emit_installed(struct emit *emit, const struct installed *installed)
{
	emit_bool(emit, "installed", installed->ruleset.rule_count > 0);
	emit_text(emit, "backend", installed->backend ? installed->backend->name : "none");
	emit_bool(emit, "altered", is_altered(&installed->ruleset));
	emit_text(emit, "fail", fail_policy(&installed->ruleset));
	emit_bool(emit, "held_by_proxy", installed->ruleset.held);
	emit_bool(emit, "clients_stay_visible",
		  installed->returns.ipv4 || installed->returns.ipv6 ||
		      installed->ruleset.programs.client_mark);
	emit_table_begin(emit, "rules");
	for (size_t i = 0; i < installed->ruleset.rule_count; i++)
		emit_rule(emit, &installed->ruleset, &installed->ruleset.rules[i]);
	emit_table_end(emit);
	emit_table_begin(emit, "sets");
	for (size_t i = 0; i < installed->ruleset.set_count; i++)
		emit_set(emit, &installed->ruleset.sets[i]);
	emit_table_end(emit);
	emit_routes(emit, installed);
}

static int show_foreign(struct cli *cli)
{
	struct foreign_list list;
	autostrbuf struct strbuf error = {0};
	int err = foreign_find(&list, &error);
	if (err)
		return fail(cli, err, &error);
	emit_table_begin(cli->emit, "foreign");
	for (size_t i = 0; i < list.count; i++) {
		const struct foreign_hook *hook = &list.hooks[i];
		bool bpf = !hook->hook[0];
		emit_row_begin(cli->emit);
		emit_text(cli->emit, "kind", hook->kind);
		emit_text(cli->emit, "where", hook->where);
		emit_text(cli->emit, "owner", hook->owner[0] ? hook->owner : NULL);
		emit_text(cli->emit, "hook", bpf ? NULL : hook->hook);
		emit_int(cli->emit, "priority", hook->priority);
		emit_uint(cli->emit, "rules", hook->rules);
		emit_text(cli->emit, "meaning", hook->rules || bpf ? hook->meaning : "empty");
		emit_row_end(cli->emit);
	}
	emit_table_end(cli->emit);
	foreign_done(&list);
	return CLI_DONE;
}

static int intercept_show(struct cli *cli)
{
	if (cli_get(cli, "foreign"))
		return show_foreign(cli);
	struct installed installed = {0};
	autostrbuf struct strbuf error = {0};
	int err = intercept_read(&installed, &error);
	if (err && err != ERR_NOT_FOUND)
		return fail(cli, err, &error);
	emit_installed(cli->emit, &installed);
	installed_done(&installed);
	return CLI_DONE;
}

// --- proof -------------------------------------------------------------------------------------------------
static int emit_results(struct emit *emit, const struct check_result *results, size_t count)
{
	static const char *const verdicts[] = {
	    [CHECK_OK] = "ok", [CHECK_FAILED] = "failed", [CHECK_SKIPPED] = "skipped"};
	size_t failed = 0, proven = 0;
	emit_table_begin(emit, "checks");
	for (size_t i = 0; i < count; i++) {
		emit_row_begin(emit);
		emit_text(emit, "check", results[i].what);
		bool both = results[i].family == 0;
		emit_text(emit, "family", both ? NULL : results[i].family == AF_INET6 ? "IPv6" : "IPv4");
		emit_text(emit, "result", verdicts[results[i].verdict]);
		if (both)
			emit_text(emit, "to", NULL);
		else
			emit_addr(emit, "to", &results[i].target);
		emit_text(emit, "found", results[i].detail);
		emit_row_end(emit);
		failed += results[i].verdict == CHECK_FAILED;
		proven += results[i].verdict == CHECK_OK;
	}
	emit_table_end(emit);
	return failed || !proven ? CLI_FAILED : CLI_DONE;
}

static int intercept_check_command(struct cli *cli)
{
	struct installed installed;
	struct check_result results[CHECK_RESULTS_MAX];
	autostrbuf struct strbuf error = {0};
	int err = intercept_read(&installed, &error);
	if (err == ERR_NOT_FOUND)
		return cli_fail(cli, "nothing is installed in this network namespace: nothing is captured");
	if (err)
		return fail(cli, err, &error);
	size_t count = intercept_check(&installed, results);
	installed_done(&installed);
	if (count == 0)
		return cli_fail(cli,
				"rules are installed, but none of them captures anything: somebody changed "
				"them; weir intercept apply puts them right");
	return emit_results(cli->emit, results, count);
}

static int intercept_remove_command(struct cli *cli)
{
	autostrbuf struct strbuf error = {0};
	bool removed;
	int err = cli_get(cli, "leave-open") ? intercept_leave_open(&removed, &error)
					     : intercept_remove(&removed, &error);
	if (err)
		return fail(cli, err, &error);
	emit_text(cli->emit, "interception", removed ? "removed" : "nothing was installed");
	return CLI_DONE;
}

// --- what is possible --------------------------------------------------------------------------------------
// What each back end says of a plan, in the order in which `auto` asks them.
static void emit_choice(struct emit *emit)
{
	struct capture_plan plan;
	const struct backend *chosen = NULL;
	capture_plan_init(&plan);
	emit_table_begin(emit, "backends");
	for (size_t i = 0; backends[i]; i++) {
		autostrbuf struct strbuf why = {0};
		int err = backends[i]->probe(&plan, &why);
		bool first = err == 0 && !chosen;
		chosen = first ? backends[i] : chosen;
		emit_row_begin(emit);
		emit_text(emit, "backend", backends[i]->name);
		emit_bool(emit, "works", err == 0);
		emit_bool(emit, "auto", first);
		emit_text(emit, "why",
			  first	     ? "the first that works"
			  : err == 0 ? "works, and comes later in the order"
			  : why.len  ? why.p
				     : err_text(err));
		emit_row_end(emit);
	}
	emit_table_end(emit);
	emit_text(emit, "auto", chosen ? chosen->name : "none");
}

static int intercept_probe_command(struct cli *cli)
{
	struct probe_row rows[PROBE_ROWS_MAX];
	size_t count = intercept_probe(rows);
	emit_table_begin(cli->emit, "features");
	for (size_t i = 0; i < count; i++) {
		emit_row_begin(cli->emit);
		emit_text(cli->emit, "of", rows[i].subject);
		emit_text(cli->emit, "feature", rows[i].feature);
		emit_bool(cli->emit, "works", rows[i].works);
		emit_text(cli->emit, "detail", rows[i].detail[0] ? rows[i].detail : NULL);
		emit_row_end(cli->emit);
	}
	emit_table_end(cli->emit);
	emit_choice(cli->emit);
	return CLI_DONE;
}

static const char plan_detail[] = "Lists are separated by commas, and options with lists may be given "
				  "several times. Include lists that are not "
				  "empty capture nothing else; exclude lists win over them. The proxy's own "
				  "connections (by mark), those of a "
				  "program to its own host and inbound SSH are always left alone. Ports, "
				  "networks and interfaces concern TCP; DNS "
				  "has dns-servers.";

static const struct command_param show_params[] = {
    {PARAM_FLAG, "foreign", NULL, "instead, who else is on the hooks that connections pass", false, false},
};

static const struct command_param remove_params[] = {
    {PARAM_FLAG, "leave-open", NULL, "let what is open go on: a rule stays that captures nothing", false,
     false},
};

const struct cli_command intercept_commands[] = {
    {{"intercept", "plan", "Print the rules that apply would install, as nft lists them", plan_detail,
      plan_params, ARRAY_SIZE(plan_params)},
     intercept_plan},
    {{"intercept", "apply", "Install the interception in this network namespace", plan_detail, plan_params,
      ARRAY_SIZE(plan_params)},
     intercept_apply_command},
    {{"intercept", "show", "List what is installed, with counters", NULL, show_params,
      ARRAY_SIZE(show_params)},
     intercept_show},
    {{"intercept", "check", "Prove by connections what is captured and what is left alone",
      "Connections are made as the calling user. Exit status 1 if anything is not as the rules promise.",
      NULL, 0},
     intercept_check_command},
    {{"intercept", "probe", "List what this kernel and these privileges allow, by trying",
      "Nothing is left behind. Then it says which back end `auto` takes here, and why.", NULL, 0},
     intercept_probe_command},
    {{"intercept", "attend", "Keep the interception in the pods of this node, from outside",
      "Looks for proxies in other network namespaces whose environment has WEIR_CAPTURE (options of apply) "
      "and installs "
      "what it says in their namespaces: no container of a pod needs a privilege. Wants root on the node and "
      "its process "
      "namespace. What pods leave that are gone is removed. Ends with SIGTERM; what is installed stays, and "
      "is taken over by the next one.",
      attend_params, ARRAY_SIZE(attend_params)},
     intercept_attend},
    {{"intercept", "wait", "Wait until this pod's interception was installed from outside",
      "For an init container that has no privileges: it shares /run/weir with the proxy.", wait_params,
      ARRAY_SIZE(wait_params)},
     intercept_wait},
    {{"intercept", "remove", "Remove all that is installed",
      "Captured connections that are open are cut if nobody else has rules of address translation.",
      remove_params, ARRAY_SIZE(remove_params)},
     intercept_remove_command},
    {{0}, NULL},
};
