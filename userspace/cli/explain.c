// SPDX-License-Identifier: Apache-2.0
// The commands of weir explain, and connections, addresses, names. Processes are in explain_pid.c.
#include "cli/explain_commands.h"

#include "admin/commands.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/options.h"
#include "cli/process.h"
#include "cli/reply.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { DNS_PORT = 53, DEFAULT_PORT = 80, ASKED_MAX = CLI_VALUES_MAX, NAME_MAX_BYTES = 254 };

// --- asking the proxy -------------------------------------------------------------------------------------
struct request {
	struct command_value values[ASKED_MAX];
	size_t count;
};

static void request_add(struct request *request, const char *name, struct str value)
{
	const struct command *command = &admin_commands[ADMIN_EXPLAIN_FLOW];
	if (request->count < ASKED_MAX)
		request->values[request->count++] =
		    (struct command_value){command_param_find(command, str_from(name)), value};
}

// What describes an HTTP request goes on as it was given.
static void request_add_options(struct request *request, const struct cli *cli)
{
	static const char *const names[] = {"host", "service", "method", "path", "header"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t at = 0;
		const char *value;
		while ((value = cli_next(cli, names[i], &at)))
			request_add(request, names[i], str_from(value));
	}
}

static void ask(struct explanation *explanation, const struct request *request)
{
	reply_ask(explanation->cli, "explain", "flow", request->values, request->count, &explanation->reply,
		  &explanation->error);
}

void explain_emit_silence(struct explanation *explanation)
{
	struct emit *emit = explanation->cli->emit;
	emit_record_begin(emit, "proxy");
	emit_text(emit, "unknown", explanation->error.p ? explanation->error.p : err_text(-ENOMEM));
	emit_record_end(emit);
}

// Of a proxy elsewhere the rules that were read here may not be those that lead to it.
static void warn_of_other_network(const struct explanation *explanation)
{
	autostrbuf struct strbuf text = {0};
	pid_t pid = cli_proxy_pid(explanation->cli);
	if (!pid || process_shares_network(pid) != 0)
		return;
	strbuf_printf(&text, "another one than the rules are of; that one: nsenter -t %d -n weir explain ...",
		      pid);
	emit_str(explanation->cli->emit, "network_namespace", strbuf_str(&text));
}

static void emit_answer(struct explanation *explanation)
{
	struct emit *emit = explanation->cli->emit;
	if (!explanation->reply) {
		explain_emit_silence(explanation);
		return;
	}
	emit_record_begin(emit, "proxy");
	warn_of_other_network(explanation);
	reply_emit(reply_root(explanation->reply), emit);
	emit_record_end(emit);
}

// A member of the answer; NULL if there is none, or no answer.
static const struct json_value *answered(const struct explanation *explanation, const char *key)
{
	return explanation->reply ? json_member(reply_root(explanation->reply), key) : NULL;
}

static void ask_about(struct explanation *explanation, struct str destination, bool inbound)
{
	struct request request = {0};
	request_add(&request, "destination", destination);
	if (inbound)
		request_add(&request, "inbound", STR(""));
	request_add_options(&request, explanation->cli);
	ask(explanation, &request);
}

// --- an address -------------------------------------------------------------------------------------------
static void spared(struct explanation *explanation, const struct kernel_verdict *verdict)
{
	if (verdict->fate == FATE_DNS)
		return;
	emit_record_begin(explanation->cli->emit, "proxy");
	emit_text(explanation->cli->emit, "result", "does not see it");
	emit_record_end(explanation->cli->emit);
}

// From the rules to the proxy, if that is where they lead.
static void explain_flow(struct explanation *explanation, bool inbound, const struct flow *flow)
{
	char text[ADDR_TEXT_MAX];
	struct kernel_verdict verdict = kernel_emit(&explanation->kernel, inbound ? "inbound" : "outbound",
						    inbound, flow, explanation->cli->emit);
	if (verdict.fate != FATE_OUTBOUND && verdict.fate != FATE_INBOUND && verdict.fate != FATE_UNKNOWN) {
		spared(explanation, &verdict);
		return;
	}
	ask_about(explanation, str_from(addr_format(&flow->dest, text)),
		  verdict.fate == FATE_INBOUND || inbound);
	emit_answer(explanation);
}

// As a connection of the calling user; to an address of this host: from other hosts as well.
static void explain_address(struct explanation *explanation, const struct addr *to)
{
	char name[IFNAMSIZ];
	struct flow flow = kernel_flow_out(to, NULL, name);
	kernel_flow_own(&flow);
	if (!routes_is_local(&to->ip)) {
		explain_flow(explanation, false, &flow);
		return;
	}
	kernel_emit(&explanation->kernel, "outbound", false, &flow, explanation->cli->emit);
	struct addr anywhere = {0};
	flow = kernel_flow_in(&anywhere, to, NULL, name);
	explain_flow(explanation, true, &flow);
}

// --- a name -----------------------------------------------------------------------------------------------
// The server that the resolver asks first, and its interface if it has a link-local address; else "".
static bool first_server(struct addr *ret_server, char ret_interface[IFNAMSIZ])
{
	char line[256], word[64];
	bool found = false;
	FILE *file = fopen("/etc/resolv.conf", "re");
	ret_interface[0] = 0;
	_Static_assert(IFNAMSIZ == 16, "the width below");
	while (file && !found && fgets(line, sizeof line, file)) {
		ret_interface[0] = 0;
		found = sscanf(line, " nameserver %63[^% \t\r\n]%%%15s", word, ret_interface) > 0 &&
			ip_parse(str_from(word), &ret_server->ip) == 0;
	}
	uint64_t number; // which some programs write instead
	if (!if_nametoindex(ret_interface) && str_to_u64(str_from(ret_interface), &number) == 0 &&
	    number <= INT32_MAX)
		(void)if_indextoname((unsigned)number, ret_interface);
	if (file)
		fclose(file);
	ret_server->port = DNS_PORT;
	return found;
}

static void explain_query(struct explanation *explanation)
{
	struct addr server = {0};
	char name[IFNAMSIZ], interface[IFNAMSIZ];
	if (!first_server(&server, interface)) {
		emit_record_begin(explanation->cli->emit, "dns");
		emit_text(explanation->cli->emit, "verdict", "unknown: /etc/resolv.conf names no server");
		emit_record_end(explanation->cli->emit);
		return;
	}
	struct flow flow = kernel_flow_out(&server, interface[0] ? interface : NULL, name);
	flow.protocol = IPPROTO_UDP;
	kernel_flow_own(&flow);
	kernel_emit(&explanation->kernel, "dns", false, &flow, explanation->cli->emit);
}

static void explain_vip(struct explanation *explanation, const struct json_value *host, const char *key,
			const char *name, uint16_t port)
{
	char interface[IFNAMSIZ];
	struct addr to = {.port = port};
	if (!reply_ip(host, key, &to.ip))
		return;
	struct flow flow = kernel_flow_out(&to, NULL, interface);
	kernel_flow_own(&flow);
	kernel_emit(&explanation->kernel, name, false, &flow, explanation->cli->emit);
}

// The query, the connections to its virtual IPs, and what the proxy knows of it.
static void explain_name(struct explanation *explanation, struct str name)
{
	uint64_t port;
	explain_query(explanation);
	ask_about(explanation, name, false);
	const struct json_value *host = answered(explanation, "virtual_host");
	if (str_to_u64(reply_text(host, "port"), &port) || port == 0 || port > UINT16_MAX)
		port = DEFAULT_PORT;
	explain_vip(explanation, host, "vip4", "outbound", (uint16_t)port);
	explain_vip(explanation, host, "vip6", "outbound6", (uint16_t)port);
	emit_answer(explanation);
}

// --- an open connection -----------------------------------------------------------------------------------
static void emit_owner(struct explanation *explanation, const struct socket_info *socket, struct flow *flow)
{
	struct process process;
	struct emit *emit = explanation->cli->emit;
	pid_t pid = process_of_socket(socket->inode);
	flow->user = socket->user;
	flow->mark = socket->mark;
	flow->unknown |= 1u << RULE_GROUP | 1u << RULE_CGROUP;
	if (!socket->marks_visible)
		flow->unknown |= 1u << RULE_MARK;
	if (!pid || process_read(pid, &process))
		return;
	flow->group = process.group;
	flow->unknown &= ~(1u << RULE_GROUP);
	kernel_flow_cgroup(flow, process.cgroup);
	emit_record_begin(emit, "process");
	emit_uint(emit, "pid", (uint64_t)pid);
	emit_text(emit, "name", process.name);
	emit_text(emit, "cgroup", *process.cgroup ? process.cgroup : NULL);
	emit_record_end(emit);
	process_done(&process);
}

static void explain_outgoing(struct explanation *explanation, const struct addr *peer,
			     const struct addr *destination)
{
	char name[IFNAMSIZ];
	struct flow flow = kernel_flow_out(destination, NULL, name);
	const struct socket_info *socket = socket_list_find(&explanation->kernel.sockets, peer, destination);
	flow.source = *peer;
	if (socket)
		emit_owner(explanation, socket, &flow);
	else
		flow.unknown |= 1u << RULE_USER | 1u << RULE_GROUP | 1u << RULE_CGROUP;
	kernel_emit(&explanation->kernel, "outbound", false, &flow, explanation->cli->emit);
}

// The rules that brought it to the proxy, which alone knows it, and the proxy's own part.
static void explain_open(struct explanation *explanation, const struct request *request)
{
	char name[IFNAMSIZ];
	struct addr peer, destination;
	ask(explanation, request);
	const struct json_value *open = answered(explanation, "connection");
	explanation->found = open != NULL;
	if (!open)
		return;
	bool whole = reply_addr(open, "peer", &peer) && reply_addr(open, "destination", &destination);
	if (whole && str_eq(reply_text(open, "direction"), STR("inbound"))) {
		struct flow flow = kernel_flow_in(&peer, &destination, NULL, name);
		kernel_emit(&explanation->kernel, "inbound", true, &flow, explanation->cli->emit);
	} else if (whole) {
		explain_outgoing(explanation, &peer, &destination);
	}
	emit_answer(explanation);
}

// Of a pair of addresses that the proxy does not know, the rules still tell.
static void explain_ends(struct explanation *explanation, const char *peer, const char *destination)
{
	struct request request = {0};
	struct addr from, to;
	request_add(&request, "client", str_from(peer));
	request_add(&request, "destination", str_from(destination));
	explain_open(explanation, &request);
	if (explanation->found || addr_parse(str_from(peer), &from) || addr_parse(str_from(destination), &to))
		return;
	explanation->found = socket_list_find(&explanation->kernel.sockets, &from, &to) != NULL;
	explain_outgoing(explanation, &from, &to);
	explain_emit_silence(explanation);
}

// --- running ----------------------------------------------------------------------------------------------
// Done if something could be explained.
static int conclude(struct explanation *explanation)
{
	const struct kernel_view *kernel = &explanation->kernel;
	bool rules = !kernel->rules_err || kernel->rules_err == ERR_NOT_FOUND;
	if (!explanation->found)
		return CLI_FAILED;
	return rules || explanation->reply ? CLI_DONE : CLI_FAILED;
}

static int run(struct cli *cli, int (*fn)(struct explanation *explanation))
{
	struct explanation explanation = {.cli = cli, .found = true};
	kernel_view_open(&explanation.kernel);
	int status = fn(&explanation);
	if (!status)
		status = conclude(&explanation);
	kernel_view_close(&explanation.kernel);
	reply_free(explanation.reply);
	strbuf_done(&explanation.error);
	return status;
}

static bool is_number(const char *word)
{
	uint64_t value;
	return str_to_u64(str_from(word), &value) == 0;
}

// NAME or NAME:PORT; what was meant as an address, but is none, is not asked for as a name.
static bool is_name(const char *word)
{
	static const char others[] = "-_.";
	uint64_t port = 1;
	struct str rest = str_from(word), name = str_split(&rest, ':');
	for (size_t i = 0; i < name.len; i++) {
		char c = ascii_lower(name.p[i]);
		if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && !strchr(others, c))
			return false;
	}
	struct addr addr;
	if (rest.p && (str_to_u64(rest, &port) || port < 1 || port > UINT16_MAX))
		return false;
	return name.len && name.len <= NAME_MAX_BYTES && ip_parse(name, &addr.ip) != 0;
}

static int flow(struct explanation *explanation)
{
	size_t at = 0;
	struct addr addr, other;
	struct cli *cli = explanation->cli;
	const char *first = cli_next(cli, "what", &at), *second = cli_next(cli, "what", &at);
	if (second && (cli_next(cli, "what", &at) || addr_parse(str_from(first), &addr) ||
		       addr_parse(str_from(second), &other)))
		return cli_usage(cli, "two words must be the connection's ends: client and destination, both "
				      "addresses with ports");
	if (second && addr.ip.family != other.ip.family)
		return cli_usage(cli, "the two ends must both be IPv4, or both IPv6");
	if (second) {
		explain_ends(explanation, first, second);
	} else if (is_number(first)) {
		struct request request = {0};
		request_add(&request, "id", str_from(first));
		explain_open(explanation, &request);
		if (!explanation->found)
			return cli_fail(cli, "%s", explanation->error.p ? explanation->error.p : first);
	} else if (addr_parse(str_from(first), &addr) == 0) {
		explain_address(explanation, &addr);
	} else if (ip_parse(str_from(first), &addr.ip) == 0) {
		return cli_usage(cli, "which port of %s?", first);
	} else if (!is_name(first)) {
		return cli_usage(cli, "'%.64s' is neither an address with a port, nor a name, nor a number",
				 first);
	} else {
		explain_name(explanation, str_from(first));
	}
	return CLI_DONE;
}

static int explain_flow_command(struct cli *cli)
{
	return run(cli, flow);
}

static int explain_pid_command(struct cli *cli)
{
	return run(cli, explain_pid);
}

// --- what if ----------------------------------------------------------------------------------------------
static int take_number(const struct cli *cli, const char *option, uint32_t *ret_value)
{
	const char *text = cli_get(cli, option);
	char *end = NULL;
	if (!text)
		return CLI_DONE;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 0);
	if (errno || *end || text[0] < '0' || text[0] > '9' || value > UINT32_MAX)
		return cli_usage(cli, "'--%s' must be a number of 32 bits", option);
	*ret_value = (uint32_t)value;
	return CLI_DONE;
}

static int take_user(const struct cli *cli, uint32_t *ret_user)
{
	const char *name = cli_get(cli, "uid");
	if (!name || is_number(name))
		return take_number(cli, "uid", ret_user);
	const struct passwd *user = getpwnam(name);
	if (!user)
		return cli_usage(cli, "there is no user '%s'", name);
	*ret_user = user->pw_uid;
	return CLI_DONE;
}

static int take_group(const struct cli *cli, uint32_t *ret_group)
{
	const char *name = cli_get(cli, "gid");
	if (!name || is_number(name))
		return take_number(cli, "gid", ret_group);
	const struct group *group = getgrnam(name);
	if (!group)
		return cli_usage(cli, "there is no group '%s'", name);
	*ret_group = group->gr_gid;
	return CLI_DONE;
}

static int take_cgroup(const struct cli *cli, struct flow *flow)
{
	autostrbuf struct strbuf error = {0};
	const char *name = cli_get(cli, "cgroup");
	struct cgroup cgroup;
	char path[LIMIT_CGROUP_PATH + 1];
	if (!name)
		return CLI_DONE;
	if (strcmp(name, "/") == 0) {
		kernel_flow_cgroup(flow, name);
		return CLI_DONE;
	}
	int err = cgroup_find(name, &cgroup, &error);
	if (err)
		return err == ERR_CONFIG ? cli_usage(cli, "%s", error.p)
					 : cli_fail(cli, "%s", error.p ? error.p : err_text(err));
	snprintf(path, sizeof path, "/%s", cgroup.path);
	kernel_flow_cgroup(flow, path);
	return CLI_DONE;
}

// An address with or without a port.
static int take_source(const struct cli *cli, struct addr *ret_source)
{
	struct str text = str_from(cli_get(cli, "from"));
	if (!text.p || addr_parse(text, ret_source) == 0 || ip_parse(text, &ret_source->ip) == 0)
		return CLI_DONE;
	return cli_usage(cli, "'--from' must be an IP address, with a port or without");
}

static int supposed_flow(const struct cli *cli, bool inbound, char name[IFNAMSIZ], struct flow *ret_flow)
{
	struct addr from = {0}, to;
	const char *interface = cli_get(cli, "interface");
	if (addr_parse(str_from(cli_get(cli, "to")), &to))
		return cli_usage(cli, "'--to' must be an IP address with a port");
	if (take_source(cli, &from))
		return CLI_USAGE;
	if (from.ip.family && from.ip.family != to.ip.family)
		return cli_usage(cli, "'--from' and '--to' must both be IPv4, or both IPv6");
	if (interface && (!*interface || strlen(interface) >= IFNAMSIZ))
		return cli_usage(cli, "'--interface' must be the name of an interface, of 15 bytes at most");
	struct flow flow =
	    inbound ? kernel_flow_in(&from, &to, interface, name) : kernel_flow_out(&to, interface, name);
	flow.source = from;
	kernel_flow_own(&flow);
	if (cli_has(cli, "udp"))
		flow.protocol = IPPROTO_UDP;
	if (take_user(cli, &flow.user) || take_group(cli, &flow.group) ||
	    take_number(cli, "mark", &flow.mark))
		return CLI_USAGE;
	*ret_flow = flow;
	return take_cgroup(cli, ret_flow);
}

static int what_if(struct explanation *explanation)
{
	char name[IFNAMSIZ];
	struct flow supposed;
	bool inbound = cli_has(explanation->cli, "inbound");
	int status = supposed_flow(explanation->cli, inbound, name, &supposed);
	if (!status)
		explain_flow(explanation, inbound, &supposed);
	return status;
}

static int explain_what_if_command(struct cli *cli)
{
	return run(cli, what_if);
}

// --- the table --------------------------------------------------------------------------------------------
// clang-format off
#define REQUEST_PARAMS                                                                                       \
	{PARAM_OPTION, "host", "NAME", "the request's Host, when the destination is an address", false, false}, \
	{PARAM_OPTION, "service", "NAME", "the RPC service that is called", false, false},                   \
	{PARAM_OPTION, "method", "METHOD", "the request's method (GET), or the call's", false, false},       \
	{PARAM_OPTION, "path", "PATH", "the request's path (/)", false, false},                              \
	{PARAM_OPTION, "header", "NAME:VALUE", "a header of the request, or a pair of the call's header map", false, true}
// clang-format on

static const struct command_param flow_params[] = {
    {PARAM_ARGUMENT, "what", "WHAT",
     "an open connection, as conn show numbers it, or its two ends (10.0.0.5:40000 240.240.0.1:80); an "
     "address "
     "with a port; or a name, with a port or without",
     true, true},
    REQUEST_PARAMS,
};
static const struct command_param pid_params[] = {
    {PARAM_ARGUMENT, "pid", "PID", "the process", true, false},
};
static const struct command_param what_if_params[] = {
    {PARAM_OPTION, "to", "ADDRESS", "where the connection goes: an IP address with a port", true, false},
    {PARAM_OPTION, "from", "ADDRESS", "where it comes from", false, false},
    {PARAM_FLAG, "inbound", NULL, "it comes from another host", false, false},
    {PARAM_OPTION, "uid", "USER", "user of the program (yourself)", false, false},
    {PARAM_OPTION, "gid", "GROUP", "group of the program (your own)", false, false},
    {PARAM_OPTION, "cgroup", "CGROUP", "control group or unit of the program (your own)", false, false},
    {PARAM_OPTION, "mark", "MARK", "mark of the socket (0)", false, false},
    {PARAM_OPTION, "interface", "NAME", "the interface that it passes (the one of the route)", false, false},
    {PARAM_FLAG, "udp", NULL, "a datagram: a DNS query, if the port is 53", false, false},
    REQUEST_PARAMS,
};

const struct cli_command explain_commands[] = {
    {{"explain", "flow", "Explain a connection, an address or a name",
      "The word flow may be left out. Rules are those of this network namespace, as they are installed; all "
      "else "
      "says the proxy. Nothing is sent to the destination. Exit status 0 also if the rules or the proxy "
      "cannot be "
      "asked, which is said then; 1 if there is no such connection, or neither can be asked.",
      flow_params, ARRAY_SIZE(flow_params)},
     explain_flow_command},
    {{"explain", "pid", "Explain the connections of a process, and whether new ones are captured",
      "Rules and sockets are those of the process's network namespace.", pid_params, ARRAY_SIZE(pid_params)},
     explain_pid_command},
    {{"explain", "what-if", "Explain a connection that is not there",
      "The rules that are installed are tried on a connection as described.", what_if_params,
      ARRAY_SIZE(what_if_params)},
     explain_what_if_command},
    {{0}, NULL},
};
