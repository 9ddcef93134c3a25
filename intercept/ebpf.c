// SPDX-License-Identifier: Apache-2.0
// The eBPF back end: programs that the kernel runs when connections are opened and accepted (bpf/), instead
// of rules for packets. No address translation, no connection tracking. The plan of a namespace is one map,
// replaced as a whole.
#include "base/error.h"
#include "base/mem.h"
#include "intercept/backend.h"
#include "intercept/ebpf_cells.h"
#include "intercept/ebpf_held.h"
#include "intercept/ebpf_load.h"
#include "intercept/ebpf_place.h"
#include "intercept/redirect.h"
#include "intercept/routes.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// --- whether it can be used ----------------------------------------------------------------------------------
static const struct {
	uint8_t number;
	const char *name;
} capabilities[] = {{CAP_NET_ADMIN, "CAP_NET_ADMIN"},
		    {CAP_BPF, "CAP_BPF"},
		    {CAP_PERFMON, "CAP_PERFMON"},
		    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}};

static int probe_privileges(struct strbuf *why)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
		if (data[capabilities[i].number / 32].effective >> capabilities[i].number % 32 & 1)
			continue;
		strbuf_printf(
		    why,
		    "eBPF programs cannot be installed: not permitted; it needs the capability %s (root on "
		    "the host)",
		    capabilities[i].name);
		return -EPERM;
	}
	return 0;
}

static int probe_plan(const struct capture_plan *plan, struct strbuf *why)
{
	if (plan->inbound_mode == INBOUND_TPROXY) {
		strbuf_add_text(
		    why, "eBPF programs hand inbound connections over as they are in any case: there is no "
			 "inbound mode to choose; leave it out, or take the back end nft");
		return ERR_UNSUPPORTED;
	}
	return 0;
}

static int probe_programs(const struct capture_plan *plan, struct strbuf *why)
{
	int err = probe_plan(plan, why);
	if (err == 0)
		err = probe_privileges(why);
	return err ? err : ebpf_probe_kernel(why);
}

static int ebpf_probe(const struct capture_plan *plan, struct strbuf *ret_why)
{
	int err = probe_programs(plan, ret_why);
	return err ? err : ebpf_place_probe(ret_why);
}

// --- reading -------------------------------------------------------------------------------------------------
struct reading {
	union weir_cell *cells;
	uint32_t count;
	bool in_place; // the programs
	bool held;     // by a process
};

// The plan of our namespace, if this folder has it: 1.
static int find_plan(const struct ebpf_place *place, const char *folder, void *arg)
{
	struct reading *reading = arg;
	int err = ebpf_plan_read(folder, place->netns, &reading->cells, &reading->count);
	if (err == 0 && reading->count > WEIR_CELL_HEADER)
		reading->in_place =
		    ebpf_is_in_place(folder, place->netns,
				     reading->cells[WEIR_CELL_HEADER].header.chains[WEIR_CHAIN_HOLD]);
	return err == ERR_NOT_FOUND ? 0 : err ? err : 1;
}

static void get_header(const struct weir_header *header, struct rule_programs *ret_programs)
{
	*ret_programs = (struct rule_programs){.fail = header->fail,
					       .outbound_port = header->ports[WEIR_ROLE_OUTBOUND],
					       .inbound_port = header->ports[WEIR_ROLE_INBOUND],
					       .dns_port = header->ports[WEIR_ROLE_DNS],
					       .client_mark = header->client_mark,
					       .mark_mask = header->mark_mask};
}

// Whether all is there without which the plan does nothing, or something else.
static bool is_whole(const struct reading *reading, const struct ruleset *ruleset)
{
	bool own = reading->cells[WEIR_CELL_HEADER].header.programs == ebpf_checksum(); // not another version's
	return own && reading->in_place &&
	       (ruleset_spares_family(ruleset, AF_INET6) || routes_local_is_there(&redirect_network));
}

// A process may be about to end, or have a file system for something else.
static int find_held_plan(const struct ebpf_place *place, const char *folder, void *arg)
{
	int err = find_plan(place, folder, arg);
	return err == ERR_MALFORMED || err > 0 ? err : 0;
}

// The plan that stays, or the one that a process has. 1; 0: there is none; or a negative error.
static int read_plan(struct reading *reading, struct strbuf *error)
{
	struct ebpf_place place;
	int err = ebpf_place_open(false, &place, error);
	if (err && err != ERR_NOT_FOUND)
		return err;
	int found = err ? 0 : ebpf_place_each(&place, find_plan, reading);
	if (err == 0)
		ebpf_place_close(&place);
	if (found)
		return found;
	reading->held = true;
	return ebpf_held_each(true, find_held_plan, reading);
}

static int ebpf_read(struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct reading reading = {0};
	int found = read_plan(&reading, ret_error);
	if (found == 0)
		return ERR_NOT_FOUND;
	int err = found < 0 ? found : ebpf_decode(reading.cells, reading.count, ret_ruleset);
	if (err == ERR_MALFORMED) { // what another version has installed
		mem_free(reading.cells);
		*ret_ruleset = (struct ruleset){.altered = true, .held = reading.held};
		return 0;
	}
	if (err == 0) {
		get_header(&reading.cells[WEIR_CELL_HEADER].header, &ret_ruleset->programs);
		ret_ruleset->altered = !is_whole(&reading, ret_ruleset);
		ret_ruleset->held = reading.held;
	}
	mem_free(reading.cells);
	if (err)
		strbuf_printf(ret_error, "cannot read the installed plan: %s", err_text(err));
	return err;
}

// --- changing ------------------------------------------------------------------------------------------------
static void set_header(const struct rule_programs *programs, struct weir_header *header)
{
	header->programs = ebpf_checksum();
	header->fail = (uint8_t)programs->fail;
	header->client_mark = programs->client_mark;
	header->mark_mask = programs->mark_mask;
	header->ports[WEIR_ROLE_OUTBOUND] = programs->outbound_port;
	header->ports[WEIR_ROLE_INBOUND] = programs->inbound_port;
	header->ports[WEIR_ROLE_DNS] = programs->dns_port;
}

// Takes the namespace out of a folder other than `kept`: 1 in *removed if it was there.
struct removal {
	const char *kept;
	bool removed;
};

static int remove_from(const struct ebpf_place *place, const char *folder, void *arg)
{
	struct removal *removal = arg;
	if (removal->kept && strcmp(folder, removal->kept) == 0)
		return 0;
	int err = ebpf_namespace_remove(folder, place->netns);
	if (err == 0)
		removal->removed = true;
	ebpf_folder_sweep(folder);
	return err == ERR_NOT_FOUND ? 0 : err;
}

static int sweep(const struct ebpf_place *place, const char *folder, void *arg)
{
	(void)place;
	(void)arg;
	ebpf_folder_sweep(folder);
	return 0;
}

// The network for redirected connections becomes this host's own; it is removed with the last plan.
static int apply_network(const struct capture_plan *plan, bool *ret_added, struct strbuf *error)
{
	*ret_added = false;
	return plan->ipv6 ? routes_local_add(&redirect_network, ret_added, error) : 0;
}

static void restore_network(bool added)
{
	autostrbuf struct strbuf ignored = {0};
	if (added)
		routes_local_remove(&redirect_network, &ignored);
}

// What is to wait is kept from applications by a program on their sockets: it must see those of all control
// groups.
static int check_hold(const struct weir_header *header, int cgroup, struct strbuf *error)
{
	bool root = faccessat(cgroup, "cgroup.type", F_OK, 0) < 0;
	if (header->fail != WEIR_FAIL_HOLD || root)
		return 0;
	strbuf_add_text(
	    error,
	    "fail hold: it needs the root of the control groups; what is mounted here is one below it, "
	    "a container's: run it on the host");
	return ERR_UNSUPPORTED;
}

static int apply_in(const struct ebpf_place *place, const struct capture_plan *plan,
		    const union weir_cell *cells, uint32_t count, struct strbuf *error)
{
	char folder[EBPF_PATH_MAX];
	int cgroup;
	bool added = false;
	int err = ebpf_place_cgroup(place, NULL, &cgroup, folder, error);
	if (err)
		return err;
	ebpf_place_each(place, sweep, NULL); // of namespaces that ended without a word
	err = check_hold(&cells[WEIR_CELL_HEADER].header, cgroup, error);
	if (err == 0)
		err = apply_network(plan, &added, error);
	if (err == 0)
		err = ebpf_install(folder, cgroup, place->netns, cells, count, error);
	close(cgroup);
	struct removal removal = {.kept = folder};
	if (err == 0) {
		err = ebpf_place_each(place, remove_from, &removal);
	} else {
		ebpf_folder_sweep(folder);
		restore_network(added);
	}
	return err;
}

// The plan as the programs read it; the caller frees the cells with mem_free.
static int encode(const struct ruleset *ruleset, union weir_cell **ret_cells, uint32_t *ret_count,
		  struct strbuf *error)
{
	int err = ebpf_encode(ruleset, ret_cells, ret_count);
	if (err == ERR_LIMIT)
		strbuf_add_text(error,
				"there are more rules than eBPF programs can go through; shorten the lists");
	if (err == 0)
		set_header(&ruleset->programs, &(*ret_cells)[WEIR_CELL_HEADER].header);
	return err;
}

static int ebpf_apply(const struct capture_plan *plan, const struct ruleset *ruleset,
		      struct strbuf *ret_error)
{
	struct ebpf_place place;
	union weir_cell *cells;
	uint32_t count;
	int err = encode(ruleset, &cells, &count, ret_error);
	if (err)
		return err;
	err = ebpf_place_open(true, &place, ret_error);
	if (err == 0) {
		err = apply_in(&place, plan, cells, count, ret_error);
		ebpf_place_close(&place);
	}
	mem_free(cells);
	return err;
}

static int remove_plan(struct strbuf *error)
{
	struct ebpf_place place;
	struct removal removal = {0};
	int err = ebpf_place_open(false, &place, error);
	if (err)
		return err;
	err = ebpf_place_each(&place, remove_from, &removal);
	ebpf_place_close(&place);
	if (err)
		strbuf_printf(error, "cannot remove the eBPF programs: %s", err_text(err));
	return err ? err : removal.removed ? 0 : ERR_NOT_FOUND;
}

// Programs and maps of this process alone, beside those of others.
static int install_held(const union weir_cell *cells, uint32_t count, struct held_rules *ret_held,
			struct strbuf *error)
{
	struct held_rules held = HELD_RULES_NONE;
	struct ebpf_place own = {0};
	char unused[EBPF_PATH_MAX], folder[EBPF_PATH_MAX];
	int cgroup;
	int err = ebpf_place_netns(&own.netns, error);
	if (err == 0)
		err = ebpf_place_cgroup(&own, NULL, &cgroup, unused, error);
	if (err)
		return err;
	err = ebpf_held_make(&held.translation, folder, error);
	if (err == 0)
		err = ebpf_install(folder, cgroup, own.netns, cells, count, error);
	if (err == 0)
		err = ebpf_plan_open(folder, own.netns, &held.rules, &held.arrivals);
	close(cgroup);
	if (err)
		held_rules_drop(&held);
	else
		*ret_held = held;
	return err;
}

// What stays goes when all else is there. (Both look at a connection for a moment, and the second finds that it
// is captured already.)
static int hold_in(const struct capture_plan *plan, const union weir_cell *cells, uint32_t count,
		   struct held_rules *ret_held, struct strbuf *error)
{
	bool added = false;
	int err = apply_network(plan, &added, error);
	if (err == 0)
		err = install_held(cells, count, ret_held, error);
	if (err == 0) {
		err = remove_plan(error);
		if (err == 0 || err == ERR_NOT_FOUND)
			return 0;
		held_rules_drop(ret_held);
	}
	restore_network(added);
	return err;
}

static int ebpf_hold(const struct capture_plan *plan, const struct ruleset *ruleset,
		     struct held_rules *ret_held, struct strbuf *ret_error)
{
	union weir_cell *cells;
	uint32_t count;
	int err = probe_programs(plan, ret_error);
	if (err == 0)
		err = encode(ruleset, &cells, &count, ret_error);
	if (err)
		return err;
	err = hold_in(plan, cells, count, ret_held, ret_error);
	mem_free(cells);
	return err;
}

static void ebpf_let_go(const struct held_rules *held)
{
	autostrbuf struct strbuf ignored = {0};
	uint64_t netns;
	if (ebpf_place_netns(&netns, &ignored) == 0)
		ebpf_plan_end(held->rules, held->arrivals, netns);
}

static int ebpf_remove(struct strbuf *ret_error)
{
	int err = remove_plan(ret_error);
	if (err && err != ERR_NOT_FOUND)
		return err;
	int route = routes_local_remove(&redirect_network, ret_error);
	return route == ERR_NOT_FOUND ? err : route;
}

static void ebpf_sweep(void)
{
	struct ebpf_place place;
	autostrbuf struct strbuf ignored = {0};
	if (ebpf_place_open(false, &place, &ignored))
		return;
	ebpf_place_each(&place, sweep, NULL);
	ebpf_place_close(&place);
}

// --- printing ------------------------------------------------------------------------------------------------
static void print_chain(const struct ruleset *ruleset, enum rule_chain chain, const char *title,
			struct strbuf *out)
{
	if (!ruleset_has_chain(ruleset, chain))
		return;
	strbuf_printf(out, "%s\n", title);
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		const struct rule *rule = &ruleset->rules[i];
		if (rule->chain != chain)
			continue;
		strbuf_add_char(out, '\t');
		rule_print(ruleset, rule, out);
		strbuf_printf(out, " # %s\n", rule->comment);
	}
}

static void ebpf_print(const struct ruleset *ruleset, struct strbuf *out)
{
	for (size_t i = 0; i < ruleset->set_count; i++) {
		strbuf_printf(out, "set %s: ", ruleset->sets[i].name);
		rule_set_print(&ruleset->sets[i], out);
		strbuf_add_char(out, '\n');
	}
	print_chain(ruleset, CHAIN_OUTPUT, "output: cgroup connect4, connect6, sendmsg4, sendmsg6", out);
	print_chain(ruleset, CHAIN_CHOSEN, "chosen: from output", out);
	print_chain(ruleset, CHAIN_PREROUTING, "prerouting: sk_lookup", out);
	print_chain(ruleset, CHAIN_INBOUND, "inbound: from both", out);
	print_chain(ruleset, CHAIN_HOLD, "hold: cgroup_skb/egress, cgroup_skb/ingress", out);
}

// Nothing is tracked, so there are no zones of it, and programs are asked when a connection begins.
static void ebpf_adapt(const struct capture_plan *plan, struct ruleset *ruleset)
{
	ruleset_add_programs(ruleset, plan);
	ruleset_simplify_hold(ruleset, plan_hold_ms(plan));
	ruleset_drop_open(ruleset, CHAIN_OUTPUT);
	ruleset_drop_open(ruleset, CHAIN_PREROUTING);
	ruleset_drop_chain(ruleset, CHAIN_OUTPUT_RAW);
	ruleset_drop_chain(ruleset, CHAIN_DNS_ZONE);
	ruleset_drop_chain(ruleset, CHAIN_DNS_CHOSEN);
}

// --- hooks ---------------------------------------------------------------------------------------------------
// (A UDP socket that was connected meets the first, one that was not the second.)
static const char *ebpf_hook(enum rule_chain chain, uint8_t family, uint8_t protocol)
{
	bool six = family == AF_INET6;
	if (chain == CHAIN_PREROUTING)
		return "sk_lookup";
	if (protocol == IPPROTO_UDP)
		return six ? "cgroup/connect6, cgroup/sendmsg6" : "cgroup/connect4, cgroup/sendmsg4";
	return six ? "cgroup/connect6" : "cgroup/connect4";
}

static const struct hook_step outbound_steps[] = {
    {"cgroup/connect#", "weir_connect#", "goes through the rules, and sends it to an address of its own",
     STEP_ALWAYS},
    {"cgroup_skb/egress", "weir_hold_out", "keeps attempts back while nobody listens", STEP_HOLDS},
    {"sk_lookup", "weir_lookup", "gives what comes to that address to the proxy's listener", STEP_ALWAYS},
    {"sockops", "weir_stream", "moves the original destination to the accepted socket", STEP_ALWAYS},
    {"cgroup/getsockopt", "weir_getsockopt", "tells it to the proxy", STEP_ALWAYS},
    {"cgroup/getpeername#", "weir_getpeername#", "tells the program the address that it asked for",
     STEP_ALWAYS},
    {"cgroup/getsockname#", "weir_getsockname#", "and the one that it would have there", STEP_ALWAYS},
    {"cgroup/sock_release", "weir_release", "forgets what was not accepted", STEP_ALWAYS},
    {NULL, NULL, NULL, STEP_ALWAYS},
};

static const struct hook_step query_steps[] = {
    {"cgroup/connect#", "weir_connect#", "goes through the rules, if the socket is connected", STEP_ALWAYS},
    {"cgroup/sendmsg#", "weir_sendmsg#", "goes through the rules, if it is not", STEP_ALWAYS},
    {"sk_lookup", "weir_lookup", "notes that nobody listens", STEP_HOLDS},
    {"cgroup_skb/egress", "weir_hold_out", "keeps it from being told that nobody listens", STEP_HOLDS},
    {"cgroup/recvmsg#", "weir_recvmsg#", "makes the answer come from the server that was asked", STEP_ALWAYS},
    {"cgroup/getpeername#", "weir_getpeername#", "tells the program the address that it asked for",
     STEP_ALWAYS},
    {"cgroup/getsockname#", "weir_getsockname#", "and the one that it would have there", STEP_ALWAYS},
    {NULL, NULL, NULL, STEP_ALWAYS},
};

static const struct hook_step inbound_steps[] = {
    {"sk_lookup", "weir_lookup", "goes through the rules, and gives it to the proxy's listener", STEP_ALWAYS},
    {"cgroup_skb/ingress", "weir_hold_in", "keeps attempts from the application while nobody listens",
     STEP_HOLDS},
    {"cgroup/getsockopt", "weir_getsockopt", "tells the proxy the original destination", STEP_ALWAYS},
    {"cgroup/bind#", "weir_bind#", "keeps the client in whose name the proxy calls the application",
     STEP_CLIENTS},
    {"sockops", "weir_stream", "moves it to the application's socket", STEP_CLIENTS},
    {"cgroup/getpeername#", "weir_getpeername#", "tells it to the application", STEP_CLIENTS},
    {NULL, NULL, NULL, STEP_ALWAYS},
};

static const struct hook_step *ebpf_steps(enum rule_chain chain, uint8_t protocol)
{
	if (chain == CHAIN_PREROUTING)
		return inbound_steps;
	return protocol == IPPROTO_UDP ? query_steps : outbound_steps;
}

const struct backend backend_ebpf = {
    .name = "ebpf",
    .local = &redirect_network,
    .probe = ebpf_probe,
    .adapt = ebpf_adapt,
    .print = ebpf_print,
    .apply = ebpf_apply,
    .hold = ebpf_hold,
    .let_go = ebpf_let_go,
    .read = ebpf_read,
    .remove = ebpf_remove,
    .leave_open = remove_plan, // open connections over IPv6 have their ends in the network
    .sweep = ebpf_sweep,
    .hook = ebpf_hook,
    .steps = ebpf_steps,
};
