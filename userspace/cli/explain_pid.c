// SPDX-License-Identifier: Apache-2.0
// weir explain pid: the sockets of a process, each with what the rules say and what the proxy knows, and what
// would become of new ones.
#include "cli/explain_commands.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/table.h"
#include "cli/process.h"
#include "cli/reply.h"

#include <netinet/tcp.h>

enum { DNS_PORT = 53 };

struct survey {
	struct explanation *explanation;
	const struct process *process;
	struct table connections; // of the proxy, by the client's port: rows of its answer
};

// --- new connections --------------------------------------------------------------------------------------
// Wherever it goes.
static struct flow new_flow(const struct process *process)
{
	struct flow flow = {
	    .protocol = IPPROTO_TCP,
	    .dest.ip.family = AF_INET,
	    .user = process->user,
	    .group = process->group,
	    .unknown = 1u << RULE_FAMILY | 1u << RULE_DEST4 | 1u << RULE_DEST6 | 1u << RULE_TCP_DEST_PORT |
		       1u << RULE_OUT_INTERFACE,
	};
	kernel_flow_cgroup(&flow, process->cgroup);
	return flow;
}

static void emit_new(const struct survey *survey)
{
	const struct kernel_view *kernel = &survey->explanation->kernel;
	struct flow flow = new_flow(survey->process);
	kernel_emit(kernel, "new_connections", false, &flow, survey->explanation->cli->emit);
	flow.protocol = IPPROTO_UDP;
	flow.dest.port = DNS_PORT;
	kernel_emit(kernel, "dns", false, &flow, survey->explanation->cli->emit);
}

// --- its sockets ------------------------------------------------------------------------------------------
enum direction { LISTENING, ACCEPTED, CONNECTED };

static enum direction direction_of(const struct kernel_view *kernel, const struct socket_info *socket)
{
	if (socket->state == TCP_LISTEN)
		return LISTENING;
	return socket_list_listener(&kernel->sockets, socket->local.ip.family, socket->local.port)
		   ? ACCEPTED
		   : CONNECTED;
}

// One that a socket makes. The group is that of the process, if it is known.
static struct flow flow_of(const struct socket_info *socket, const struct process *process,
			   const struct addr *remote, char name[IFNAMSIZ])
{
	struct flow flow = kernel_flow_out(remote, NULL, name);
	flow.user = socket->user;
	flow.mark = socket->mark;
	flow.group = process ? process->group : 0;
	if (!process)
		flow.unknown |= 1u << RULE_GROUP;
	kernel_flow_cgroup(&flow, process ? process->cgroup : "");
	if (!socket->marks_visible)
		flow.unknown |= 1u << RULE_MARK;
	return flow;
}

// Of one that was accepted, what made it counts: if that is on this host, it is judged as it was when it
// left.
static void verdict_on(const struct survey *survey, const struct socket_info *socket,
		       enum direction direction, const struct addr *remote, struct strbuf *out)
{
	char name[IFNAMSIZ];
	const struct kernel_view *kernel = &survey->explanation->kernel;
	const struct socket_info *other =
	    direction == ACCEPTED ? socket_list_find(&kernel->sockets, remote, &socket->local) : NULL;
	bool inbound = direction != CONNECTED && !other;
	struct flow flow;
	if (other) {
		flow = flow_of(other, NULL, &socket->local, name);
	} else if (direction == CONNECTED) {
		flow = flow_of(socket, survey->process, remote, name);
	} else {
		struct addr from = direction == ACCEPTED ? *remote : (struct addr){0};
		flow = kernel_flow_in(&from, &socket->local, NULL, name);
		flow.dest_is_local = true;
	}
	struct kernel_verdict verdict = kernel_judge(kernel, inbound, &flow);
	kernel_verdict_text(kernel, &verdict, out);
}

// Lack of memory only makes fewer of them known.
static void index_connections(struct survey *survey)
{
	const struct reply *reply = survey->explanation->reply;
	const struct json_value *rows = reply ? json_member(reply_root(reply), "connections") : NULL,
				*row = NULL;
	while ((row = json_next(rows, row))) {
		struct addr peer = {0};
		if (reply_addr(row, "peer", &peer))
			table_add(&survey->connections, peer.port, (void *)row);
	}
}

// What the proxy has of the connection; NULL: nothing. With eBPF the kernel may know no more of the program's
// socket than that it goes to the proxy's.
static const struct json_value *find_connection(const struct survey *survey, const struct socket_info *socket)
{
	size_t cursor = 0;
	const struct json_value *row;
	while ((row = table_find(&survey->connections, socket->local.port, &cursor))) {
		struct addr peer = {0}, destination = {0}, proxy = {0};
		if (!reply_addr(row, "peer", &peer) || !reply_addr(row, "destination", &destination))
			continue;
		reply_addr(row, "local", &proxy);
		if (socket_is_between(socket, &peer, &destination) ||
		    (socket->local.port == peer.port && addr_eq(&socket->remote, &proxy)))
			return row;
	}
	return NULL;
}

static void emit_socket(const struct survey *survey, const struct socket_info *socket)
{
	static const char *const directions[] = {
	    [LISTENING] = "listening", [ACCEPTED] = "inbound", [CONNECTED] = "outbound"};
	static const char *const keys[] = {"protocol", "virtual_host", "cluster", "endpoint"};
	struct emit *emit = survey->explanation->cli->emit;
	enum direction direction = direction_of(&survey->explanation->kernel, socket);
	const struct json_value *row = find_connection(survey, socket);
	autostrbuf struct strbuf verdict = {0};
	uint64_t id;
	struct addr local = socket->local, remote = socket->remote;
	if (direction == CONNECTED) { // as the program knows them
		reply_addr(row, "peer", &local);
		reply_addr(row, "destination", &remote);
	}
	verdict_on(survey, socket, direction, &remote, &verdict);
	emit_row_begin(emit);
	emit_text(emit, "direction", directions[direction]);
	emit_addr(emit, "local", &local);
	emit_addr(emit, "remote", direction == LISTENING ? &(struct addr){0} : &remote);
	emit_text(emit, "state", socket_state_name(socket->state));
	if (socket->marks_visible)
		emit_uint(emit, "mark", socket->mark);
	emit_str(emit, "rules", strbuf_str(&verdict));
	if (str_to_u64(reply_text(row, "id"), &id) == 0)
		emit_uint(emit, "connection", id);
	else
		emit_text(emit, "connection", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		emit_str(emit, keys[i], reply_text(row, keys[i]));
	emit_row_end(emit);
}

static void emit_sockets(const struct survey *survey)
{
	const struct kernel_view *kernel = &survey->explanation->kernel;
	struct emit *emit = survey->explanation->cli->emit;
	if (kernel->sockets_err || !survey->process->sockets_visible) {
		emit_text(emit, "sockets_unknown",
			  kernel->sockets_err ? kernel->sockets_error.p
					      : "the process belongs to another user: not permitted");
		return;
	}
	emit_table_begin(emit, "sockets");
	for (size_t i = 0; i < kernel->sockets.count; i++)
		if (process_has_socket(survey->process, kernel->sockets.sockets[i].inode))
			emit_socket(survey, &kernel->sockets.sockets[i]);
	emit_table_end(emit);
}

// --- the process ------------------------------------------------------------------------------------------
static void emit_process(struct emit *emit, const struct process *process, bool same_network)
{
	emit_record_begin(emit, "process");
	emit_uint(emit, "pid", (uint64_t)process->pid);
	emit_text(emit, "name", process->name);
	emit_uint(emit, "user", process->user);
	emit_uint(emit, "group", process->group);
	emit_text(emit, "cgroup", *process->cgroup ? process->cgroup : NULL);
	emit_text(emit, "network_namespace", same_network ? "this one" : "another one, looked into");
	emit_record_end(emit);
}

static void explain_process(struct explanation *explanation, const struct process *process)
{
	struct survey survey = {explanation, process, {0}};
	reply_ask(explanation->cli, "conn", "show", NULL, 0, &explanation->reply, &explanation->error);
	index_connections(&survey);
	emit_new(&survey);
	emit_sockets(&survey);
	if (!explanation->reply)
		explain_emit_silence(explanation);
	table_done(&survey.connections);
}

int explain_pid(struct explanation *explanation)
{
	struct process process;
	uint64_t pid;
	struct cli *cli = explanation->cli;
	if (str_to_u64(str_from(cli_get(cli, "pid")), &pid) || pid == 0 || pid > INT32_MAX)
		return cli_usage(cli, "'%s' is no number of a process", cli_get(cli, "pid"));
	int err = process_read((pid_t)pid, &process);
	if (err)
		return cli_fail(cli, "process %llu: %s", (unsigned long long)pid, err_text(err));
	int same = process_enter_network((pid_t)pid);
	if (same < 0) {
		process_done(&process);
		return cli_fail(cli, "cannot look into the network namespace of process %llu: %s",
				(unsigned long long)pid, err_text(same));
	}
	if (same == 0) {
		kernel_view_close(&explanation->kernel);
		kernel_view_open(&explanation->kernel);
	}
	emit_process(cli->emit, &process, same);
	explain_process(explanation, &process);
	process_done(&process);
	return CLI_DONE;
}
