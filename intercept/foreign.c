// SPDX-License-Identifier: Apache-2.0
#include "intercept/foreign.h"

#include "base/error.h"
#include "base/mem.h"
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
#include <mntent.h>
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
static const struct {
	const char *name;
	uint32_t type;
} attach_points[] = {
    {"connect4", BPF_CGROUP_INET4_CONNECT},	    {"connect6", BPF_CGROUP_INET6_CONNECT},
    {"sendmsg4", BPF_CGROUP_UDP4_SENDMSG},	    {"sendmsg6", BPF_CGROUP_UDP6_SENDMSG},
    {"recvmsg4", BPF_CGROUP_UDP4_RECVMSG},	    {"recvmsg6", BPF_CGROUP_UDP6_RECVMSG},
    {"getpeername4", BPF_CGROUP_INET4_GETPEERNAME}, {"getpeername6", BPF_CGROUP_INET6_GETPEERNAME},
    {"getsockopt", BPF_CGROUP_GETSOCKOPT},	    {"sock_ops", BPF_CGROUP_SOCK_OPS},
};

static void name_program(struct foreign_hook *hook, const char *place, uint32_t id)
{
	union bpf_attr attr = {.prog_id = id};
	struct bpf_prog_info info = {0};
	int fd = (int)syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof attr);
	attr = (union bpf_attr){
	    .info = {.bpf_fd = (uint32_t)fd, .info_len = sizeof info, .info = (uintptr_t)&info}};
	if (fd < 0 || syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr) < 0)
		info.name[0] = 0;
	if (fd >= 0)
		close(fd);
	snprintf(hook->where, sizeof hook->where, "%s %.16s (program %u)", place, info.name, id);
	guess_owner(hook, info.name);
}

static void find_programs(struct foreign_list *list, int fd, const char *place, uint32_t type, uint32_t flags,
			  const char *what)
{
	uint32_t ids[PROGRAMS_MAX] = {0};
	union bpf_attr attr = {.query = {.target_fd = (uint32_t)fd,
					 .attach_type = type,
					 .query_flags = flags,
					 .prog_ids = (uintptr_t)ids,
					 .prog_cnt = PROGRAMS_MAX}};
	if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof attr) < 0)
		return;
	for (uint32_t i = 0; i < MIN(attr.query.prog_cnt, (uint32_t)PROGRAMS_MAX); i++) {
		struct foreign_hook *hook = add(list);
		if (!hook)
			return;
		snprintf(hook->kind, sizeof hook->kind, "BPF");
		name_program(hook, place, ids[i]);
		hook->meaning = what;
		if (strstr(hook->where, " weir_"))
			list->count--;
	}
}

// The folder of this process's control group; a descriptor or a negative error.
static int open_cgroup(void)
{
	char line[512], path[1024] = "";
	FILE *mounts = setmntent("/proc/self/mounts", "re"), *groups = fopen("/proc/self/cgroup", "re");
	struct mntent *entry;
	while (mounts && !path[0] && (entry = getmntent(mounts)))
		if (strcmp(entry->mnt_type, "cgroup2") == 0)
			snprintf(path, 512, "%s", entry->mnt_dir);
	while (groups && path[0] && fgets(line, sizeof line, groups))
		if (strncmp(line, "0::", 3) == 0) {
			line[strcspn(line, "\n")] = 0;
			strncat(path, line + 3, sizeof line - 1);
		}
	if (mounts)
		endmntent(mounts);
	if (groups)
		fclose(groups);
	int fd = path[0] ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return fd < 0 ? -ENOENT : fd;
}

static void find_bpf(struct foreign_list *list)
{
	autoclose int cgroup = open_cgroup(), namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_SIZE(attach_points) && cgroup >= 0; i++)
		find_programs(
		    list, cgroup, attach_points[i].name, attach_points[i].type, BPF_F_QUERY_EFFECTIVE,
		    "before rules of nftables and iptables: they see what it has made of an address");
	if (namespace >= 0)
		find_programs(list, namespace, "sk_lookup", BPF_SK_LOOKUP, 0,
			      "behind the rules: it may give another socket what is for the proxy's");
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
