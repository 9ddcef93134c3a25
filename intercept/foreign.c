// SPDX-License-Identifier: Apache-2.0
#include "intercept/foreign.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/ebpf_place.h"
#include "intercept/nft_rule.h"
#include "intercept/nft_socket.h"
#include "intercept/program.h"

#include <errno.h>
#include <fcntl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <linux/bpf.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PROGRAMS_MAX = 64 };

// --- names -------------------------------------------------------------------------------------------------
// By how tables and chains begin that well-known programs make.
static const struct {
	const char *prefix, *owner;
} names[] = {
    {"KUBE-", "kube-proxy"},	{"kube-proxy", "kube-proxy"}, {"DOCKER", "Docker"},
    {"cali-", "Calico"},	{"CILIUM_", "Cilium"},	      {"cil_", "Cilium"},
    {"ISTIO_", "Istio"},	{"istio-", "Istio"},	      {"PROXY_INIT_", "Linkerd"},
    {"firewalld", "firewalld"}, {"LIBVIRT_", "libvirt"},      {"CNI-", "a CNI plug-in"},
    {"NETAVARK", "Podman"},	{"netavark", "Podman"},	      {"ufw", "ufw"},
    {"fail2ban", "fail2ban"},	{"f2b-", "fail2ban"},	      {"TAILSCALE", "Tailscale"},
    {"ts-", "Tailscale"},	{"nm-", "NetworkManager"},
};

static void guess_owner(struct foreign_hook *hook, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(names) && !hook->owner[0]; i++)
		if (strncmp(name, names[i].prefix, strlen(names[i].prefix)) == 0)
			snprintf(hook->owner, sizeof hook->owner, "%s", names[i].owner);
}

static struct foreign_hook *add(struct foreign_list *list)
{
	if (mem_grow((void **)&list->hooks, &list->_cap, list->count + 1, sizeof *list->hooks))
		return NULL;
	struct foreign_hook *hook = &list->hooks[list->count++];
	*hook = (struct foreign_hook){.meaning = "nothing of weir's is there"};
	return hook;
}

// --- order -------------------------------------------------------------------------------------------------
// The priority of weir's chain that translates addresses on these hooks, or filters on input.
enum { OUR_NAT = -100, OUR_HOLD = 0 };

static const char *meaning(const char *type, uint32_t hook, int priority)
{
	bool nat = strcmp(type, "nat") == 0;
	if (hook == NF_INET_LOCAL_IN)
		return priority < OUR_HOLD ? "before weir's; what it drops does not reach the proxy"
					   : "after weir's; what it drops does not reach the proxy";
	if (nat && priority < OUR_NAT)
		return "before weir's: what it translates is not captured";
	if (nat && priority == OUR_NAT)
		return "beside weir's: of two that translate, the one that was there first does";
	if (nat)
		return "after weir's: what is captured does not reach it";
	return priority < OUR_NAT ? "before weir's: what it drops or moves to another zone is not captured"
				  : "after weir's: it sees the proxy's address";
}

// --- nftables ----------------------------------------------------------------------------------------------
static const char *family_name(uint32_t family)
{
	return family == NFPROTO_IPV4	? "ip"
	       : family == NFPROTO_IPV6 ? "ip6"
	       : family == NFPROTO_INET ? "inet"
					: "";
}

static const char *hook_name(uint32_t hook)
{
	static const char *const hooks[] = {[NF_INET_PRE_ROUTING] = "prerouting",
					    [NF_INET_LOCAL_IN] = "input",
					    [NF_INET_FORWARD] = "",
					    [NF_INET_LOCAL_OUT] = "output"};
	return hook < ARRAY_SIZE(hooks) ? hooks[hook] : "";
}

static bool is_ours(const char *table)
{
	return strcmp(table, NFT_TABLE) == 0 ||
	       strncmp(table, NFT_TABLE "_nat_", strlen(NFT_TABLE "_nat_")) == 0;
}

static void take_base(struct foreign_list *list, const struct nftnl_chain *chain)
{
	const char *table = nftnl_chain_get_str(chain, NFTNL_CHAIN_TABLE);
	const char *name = nftnl_chain_get_str(chain, NFTNL_CHAIN_NAME);
	const char *type = nftnl_chain_get_str(chain, NFTNL_CHAIN_TYPE);
	uint32_t hook = nftnl_chain_get_u32(chain, NFTNL_CHAIN_HOOKNUM);
	const char *family = family_name(nftnl_chain_get_u32(chain, NFTNL_CHAIN_FAMILY));
	if (!type || !family[0] || !hook_name(hook)[0] || is_ours(table))
		return;
	struct foreign_hook *found = add(list);
	if (!found)
		return;
	found->priority = nftnl_chain_get_s32(chain, NFTNL_CHAIN_PRIO);
	found->meaning = meaning(type, hook, found->priority);
	snprintf(found->kind, sizeof found->kind, "nft");
	snprintf(found->hook, sizeof found->hook, "%s", hook_name(hook));
	snprintf(found->where, sizeof found->where, "%s %.32s %.32s", family, table, name);
	guess_owner(found, table);
	guess_owner(found, name);
}

static int take_chain(const struct nlmsghdr *nlh, void *arg)
{
	struct nftnl_chain *chain = nftnl_chain_alloc();
	if (chain && nftnl_chain_nlmsg_parse(nlh, chain) == 0 &&
	    nftnl_chain_is_set(chain, NFTNL_CHAIN_HOOKNUM))
		take_base(arg, chain);
	if (chain)
		nftnl_chain_free(chain);
	return MNL_CB_OK;
}

// The chain that a rule leads to, or NULL.
static const char *leads_to(const struct nftnl_rule *rule)
{
	struct nftnl_expr_iter *iter = nftnl_expr_iter_create(rule);
	const char *chain = NULL;
	struct nftnl_expr *expr;
	while (iter && !chain && (expr = nftnl_expr_iter_next(iter)))
		if (strcmp(nftnl_expr_get_str(expr, NFTNL_EXPR_NAME), "immediate") == 0 &&
		    nftnl_expr_is_set(expr, NFTNL_EXPR_IMM_CHAIN))
			chain = nftnl_expr_get_str(expr, NFTNL_EXPR_IMM_CHAIN);
	if (iter)
		nftnl_expr_iter_destroy(iter);
	return chain;
}

static void count_rule(struct foreign_list *list, const struct nftnl_rule *rule)
{
	char where[sizeof list->hooks->where];
	const char *chain = leads_to(rule);
	snprintf(where, sizeof where, "%s %.32s %.32s",
		 family_name(nftnl_rule_get_u32(rule, NFTNL_RULE_FAMILY)),
		 nftnl_rule_get_str(rule, NFTNL_RULE_TABLE), nftnl_rule_get_str(rule, NFTNL_RULE_CHAIN));
	if (chain && strncmp(chain, "WEIR_", 5) == 0)
		return;
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->hooks[i].where, where) == 0) {
			list->hooks[i].rules++;
			if (chain)
				guess_owner(&list->hooks[i], chain);
		}
}

static int take_rule(const struct nlmsghdr *nlh, void *arg)
{
	struct nftnl_rule *rule = nftnl_rule_alloc();
	if (rule && nftnl_rule_nlmsg_parse(nlh, rule) == 0)
		count_rule(arg, rule);
	if (rule)
		nftnl_rule_free(rule);
	return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint16_t type, mnl_cb_t fn, struct foreign_list *list)
{
	char buf[MNL_NLMSG_HDRLEN + 64];
	return nft_query(nl, nftnl_nlmsg_build_hdr(buf, type, NFPROTO_UNSPEC, NLM_F_DUMP, 1), fn, list);
}

static int find_nft(struct foreign_list *list, struct strbuf *error)
{
	struct mnl_socket *nl;
	int err = nft_open(&nl, error);
	if (err)
		return err;
	err = dump(nl, NFT_MSG_GETCHAIN, take_chain, list);
	if (err == 0)
		err = dump(nl, NFT_MSG_GETRULE, take_rule, list);
	mnl_socket_close(nl);
	if (err && err != -EINTR)
		strbuf_printf(error, "cannot list the chains of nftables: %s", err_text(err));
	return err == -EINTR ? 0 : err; // it is a look at what moves
}

// --- the kernel's old tables -------------------------------------------------------------------------------
static const struct {
	const char *table, *chain, *hook;
	uint32_t number;
	int priority;
} legacy[] = {
    {"raw", "PREROUTING", "prerouting", NF_INET_PRE_ROUTING, -300},
    {"raw", "OUTPUT", "output", NF_INET_LOCAL_OUT, -300},
    {"mangle", "PREROUTING", "prerouting", NF_INET_PRE_ROUTING, -150},
    {"mangle", "OUTPUT", "output", NF_INET_LOCAL_OUT, -150},
    {"mangle", "INPUT", "input", NF_INET_LOCAL_IN, -150},
    {"nat", "PREROUTING", "prerouting", NF_INET_PRE_ROUTING, -100},
    {"nat", "OUTPUT", "output", NF_INET_LOCAL_OUT, -100},
    {"filter", "OUTPUT", "output", NF_INET_LOCAL_OUT, 0},
    {"filter", "INPUT", "input", NF_INET_LOCAL_IN, 0},
};

static struct foreign_hook *legacy_hook(struct foreign_list *list, const char *family, struct str table,
					struct str chain)
{
	char where[sizeof list->hooks->where];
	snprintf(where, sizeof where, "%s %.*s %.*s", family, STR_ARG(table), STR_ARG(chain));
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->hooks[i].kind, "iptables-legacy") == 0 &&
		    strcmp(list->hooks[i].where, where) == 0)
			return &list->hooks[i];
	for (size_t i = 0; i < ARRAY_SIZE(legacy); i++) {
		if (!str_eq(table, str_from(legacy[i].table)) || !str_eq(chain, str_from(legacy[i].chain)))
			continue;
		struct foreign_hook *hook = add(list);
		if (!hook)
			return NULL;
		snprintf(hook->kind, sizeof hook->kind, "iptables-legacy");
		snprintf(hook->where, sizeof hook->where, "%s", where);
		snprintf(hook->hook, sizeof hook->hook, "%s", legacy[i].hook);
		hook->priority = legacy[i].priority;
		hook->meaning = meaning(legacy[i].table, legacy[i].number,
					legacy[i].priority); // a table's name is its type
		return hook;
	}
	return NULL;
}

static void take_legacy_rule(struct foreign_list *list, const char *family, struct str table, struct str rule)
{
	struct str rest = {rule.p + 3, rule.len - 3}, chain = str_split(&rest, ' '), target = {0};
	while (rest.p && rest.len) {
		struct str word = str_split(&rest, ' ');
		if (str_eq(word, STR("-j")) || str_eq(word, STR("-g")))
			target = str_split(&rest, ' ');
	}
	if (str_starts(target, STR("WEIR_")))
		return;
	struct foreign_hook *hook = legacy_hook(list, family, table, chain);
	if (!hook)
		return;
	char name[32];
	snprintf(name, sizeof name, "%.*s", STR_ARG(target));
	hook->rules++;
	guess_owner(hook, name);
}

static void find_legacy(struct foreign_list *list, const char *name, const char *family)
{
	char path[PATH_MAX];
	struct program_result result;
	const char *arguments[] = {name, NULL};
	if (program_find(name, path))
		return;
	int err = program_run(path, arguments, (struct str){0}, &result);
	struct str rest = err ? (struct str){0} : strbuf_str(&result.output), table = {0};
	while (rest.p && rest.len) {
		struct str line = str_split(&rest, '\n');
		if (str_starts(line, STR("*")))
			table = (struct str){line.p + 1, line.len - 1};
		else if (str_starts(line, STR("-A ")))
			take_legacy_rule(list, family, table, line);
	}
	program_result_done(&result);
}

// --- BPF ---------------------------------------------------------------------------------------------------
// What a program of others means where weir's is on the same hook (eBPF), ...
struct place_meaning {
	const char *before, *after;
};

static const struct place_meaning on_addresses = {
    "before weir's: it refuses, or changes the address, before weir looks",
    "after weir's: it sees the address that weir has put there, and may refuse or change it"};
static const struct place_meaning on_answers = {
    "before weir's: what it says of the address weir may replace",
    "after weir's: it may change what weir says of the address"};
static const struct place_meaning on_options = {
    "before weir's: it may refuse the proxy the original destination",
    "after weir's: it may change the original destination that the proxy is told"};
static const struct place_meaning on_events = {"before weir's: both run", "after weir's: both run"};
// (Only where weir's are, too: before rules of packet filters they are of no concern.)
static const struct place_meaning on_packets = {"before weir's: both run, and either may drop a packet",
						"after weir's: both run, and either may drop a packet"};
static const struct place_meaning on_lookup = {
    "before weir's: what it gives to a socket is not captured",
    "after weir's: it may give another socket what is for the proxy's"};

// ... and where it is not.
static const char before_rules[] =
    "before rules of nftables and iptables: they see what it has made of an address";
static const char behind_rules[] = "behind the rules: it may give another socket what is for the proxy's";

static const struct attach_point {
	const char *name;
	uint32_t type;
	const char *program; // weir's for the capture
	const struct place_meaning *meaning;
} attach_points[] = {
    {"connect4", BPF_CGROUP_INET4_CONNECT, "weir_connect4", &on_addresses},
    {"connect6", BPF_CGROUP_INET6_CONNECT, "weir_connect6", &on_addresses},
    {"sendmsg4", BPF_CGROUP_UDP4_SENDMSG, "weir_sendmsg4", &on_addresses},
    {"sendmsg6", BPF_CGROUP_UDP6_SENDMSG, "weir_sendmsg6", &on_addresses},
    {"recvmsg4", BPF_CGROUP_UDP4_RECVMSG, "weir_recvmsg4", &on_answers},
    {"recvmsg6", BPF_CGROUP_UDP6_RECVMSG, "weir_recvmsg6", &on_answers},
    {"getpeername4", BPF_CGROUP_INET4_GETPEERNAME, "weir_getpeername4", &on_answers},
    {"getpeername6", BPF_CGROUP_INET6_GETPEERNAME, "weir_getpeername6", &on_answers},
    {"getsockname4", BPF_CGROUP_INET4_GETSOCKNAME, "weir_getsockname4", &on_answers},
    {"getsockname6", BPF_CGROUP_INET6_GETSOCKNAME, "weir_getsockname6", &on_answers},
    {"bind4", BPF_CGROUP_INET4_BIND, "weir_bind4", &on_addresses},
    {"bind6", BPF_CGROUP_INET6_BIND, "weir_bind6", &on_addresses},
    {"getsockopt", BPF_CGROUP_GETSOCKOPT, "weir_getsockopt", &on_options},
    {"sock_ops", BPF_CGROUP_SOCK_OPS, "weir_stream", &on_events},
    {"sock_release", BPF_CGROUP_INET_SOCK_RELEASE, "weir_release", &on_events},
    {"egress", BPF_CGROUP_INET_EGRESS, "weir_hold_out", &on_packets},
    {"ingress", BPF_CGROUP_INET_INGRESS, "weir_hold_in", &on_packets},
};
static const struct attach_point lookup_point = {"sk_lookup", BPF_SK_LOOKUP, "weir_lookup", &on_lookup};

static int bpf_call(enum bpf_cmd command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

// Empty if it cannot be asked.
static void program_name(uint32_t id, char ret_name[BPF_OBJ_NAME_LEN])
{
	union bpf_attr attr = {.prog_id = id};
	struct bpf_prog_info info = {0};
	autoclose int fd = bpf_call(BPF_PROG_GET_FD_BY_ID, &attr);
	attr = (union bpf_attr){
	    .info = {.bpf_fd = (uint32_t)fd, .info_len = sizeof info, .info = (uintptr_t)&info}};
	bool known = fd >= 0 && bpf_call(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0;
	snprintf(ret_name, BPF_OBJ_NAME_LEN, "%s", known ? info.name : "");
}

static bool is_our_program(const char *name)
{
	return strncmp(name, "weir_", strlen("weir_")) == 0;
}

// A hook's programs in the order in which they run.
struct order {
	uint32_t count, ids[PROGRAMS_MAX];
	char names[PROGRAMS_MAX][BPF_OBJ_NAME_LEN];
	uint32_t ours; // place of the first that captures, from 1; 0: none is there
};

static void read_order(int fd, const struct attach_point *point, uint32_t flags, struct order *ret_order)
{
	union bpf_attr attr = {.query = {.target_fd = (uint32_t)fd,
					 .attach_type = point->type,
					 .query_flags = flags,
					 .prog_ids = (uintptr_t)ret_order->ids,
					 .prog_cnt = PROGRAMS_MAX}};
	ret_order->ours = ret_order->count = 0;
	if (bpf_call(BPF_PROG_QUERY, &attr) < 0)
		return;
	ret_order->count = MIN(attr.query.prog_cnt, (uint32_t)PROGRAMS_MAX);
	for (uint32_t i = 0; i < ret_order->count; i++) {
		program_name(ret_order->ids[i], ret_order->names[i]);
		// (The kernel cuts names.)
		if (!ret_order->ours &&
		    strncmp(ret_order->names[i], point->program, BPF_OBJ_NAME_LEN - 1) == 0)
			ret_order->ours = i + 1;
	}
}

static const char *place_of(const struct attach_point *point, const struct order *order, uint32_t place)
{
	if (!order->ours)
		return point == &lookup_point ? behind_rules : before_rules;
	return place < order->ours ? point->meaning->before : point->meaning->after;
}

static void find_programs(struct foreign_list *list, int fd, const struct attach_point *point, uint32_t flags)
{
	struct order order;
	read_order(fd, point, flags, &order);
	if (!order.ours && point->meaning == &on_packets)
		return;
	for (uint32_t i = 0; i < order.count; i++) {
		struct foreign_hook *hook = is_our_program(order.names[i]) ? NULL : add(list);
		if (!hook)
			continue;
		snprintf(hook->kind, sizeof hook->kind, "BPF");
		snprintf(hook->where, sizeof hook->where, "%s %.16s (program %u)", point->name,
			 order.names[i], order.ids[i]);
		guess_owner(hook, order.names[i]);
		hook->priority = (int)i + 1;
		hook->meaning = place_of(point, &order, i + 1);
	}
}

// This process's control group; a descriptor or a negative error.
static int open_cgroup(void)
{
	static const struct ebpf_place anywhere;
	autostrbuf struct strbuf ignored = {0};
	char line[EBPF_PATH_MAX], unused[EBPF_PATH_MAX];
	int fd = -ENOENT, top;
	if (ebpf_place_cgroup(&anywhere, NULL, &top, unused, &ignored))
		return -ENOENT;
	FILE *groups = fopen("/proc/self/cgroup", "re");
	while (groups && fd < 0 && fgets(line, sizeof line, groups)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "0::/", 4) == 0)
			fd = openat(top, line[4] ? &line[4] : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (groups)
		fclose(groups);
	close(top);
	return fd;
}

static void find_bpf(struct foreign_list *list)
{
	autoclose int cgroup = open_cgroup(), namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_SIZE(attach_points) && cgroup >= 0; i++)
		find_programs(list, cgroup, &attach_points[i], BPF_F_QUERY_EFFECTIVE);
	if (namespace >= 0)
		find_programs(list, namespace, &lookup_point, 0);
}

// --- all ---------------------------------------------------------------------------------------------------
int foreign_find(struct foreign_list *ret_list, struct strbuf *ret_error)
{
	struct foreign_list list = {0};
	int err = find_nft(&list, ret_error);
	if (err) {
		foreign_done(&list);
		return err;
	}
	find_legacy(&list, "iptables-legacy-save", "ip");
	find_legacy(&list, "ip6tables-legacy-save", "ip6");
	find_bpf(&list);
	*ret_list = list;
	return 0;
}

void foreign_done(struct foreign_list *list)
{
	mem_free(list->hooks);
	*list = (struct foreign_list){0};
}
