// SPDX-License-Identifier: Apache-2.0
#include "intercept/probe.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/cgroups.h"
#include "intercept/ebpf_place.h"
#include "intercept/options.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct probe {
	struct probe_row *rows;
	size_t count;
};

static struct probe_row *add(struct probe *probe, const char *subject, const char *feature)
{
	struct probe_row *row = &probe->rows[probe->count];
	if (probe->count < PROBE_ROWS_MAX - 1)
		probe->count++;
	*row = (struct probe_row){.subject = subject, .feature = feature};
	return row;
}

static void settle(struct probe_row *row, int err, struct str why)
{
	row->works = err == 0;
	if (err && !why.len)
		why = str_from(err_text(err));
	snprintf(row->detail, sizeof row->detail, "%.*s", STR_ARG(why));
}

// --- rules -------------------------------------------------------------------------------------------------
// What is asked of a back end, as settings of a plan.
static const struct {
	const char *feature;
	struct {
		const char *name, *value;
	} words[2];
} features[] = {
    {"redirection, zones for DNS", {{NULL, NULL}}},
    {"inbound-mode tproxy", {{"inbound-mode", "tproxy"}}},
    {"inbound-source client", {{"inbound-source", "client"}}},
    {"fail hold", {{"fail", "hold"}}},
    {"fail hold, hold-timeout", {{"fail", "hold"}, {"hold-timeout", "10s"}}},
    {"fail open", {{"fail", "open"}}},
    {"control groups", {{"exclude-cgroups", "/"}}}, // the root is there, and asking for it changes nothing
};

typedef int feature_fn(const struct capture_plan *plan, const struct ruleset *ruleset, struct strbuf *error);

static int with_feature(size_t feature, const struct backend *backend, feature_fn *fn, struct strbuf *error)
{
	struct plan_builder builder;
	struct ruleset ruleset;
	plan_builder_init(&builder);
	int err = 0;
	for (size_t i = 0; i < ARRAY_SIZE(features[feature].words) && err == 0; i++)
		if (features[feature].words[i].name)
			err = plan_builder_set(&builder, features[feature].words[i].name,
					       str_from(features[feature].words[i].value), error);
	if (err == 0)
		err = ruleset_compile(&builder.plan, &ruleset);
	if (err == 0) {
		if (backend->adapt)
			backend->adapt(&builder.plan, &ruleset);
		err = fn(&builder.plan, &ruleset, error);
		ruleset_done(&ruleset);
	}
	plan_builder_done(&builder);
	return err;
}

static void probe_nft(struct probe *probe)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		autostrbuf struct strbuf why = {0};
		struct probe_row *row = add(probe, "nft", features[i].feature);
		int err = with_feature(i, &backend_nft, backend_nft.try, &why);
		settle(row, err, strbuf_str(&why));
	}
}

// --- iptables ----------------------------------------------------------------------------------------------
static int apply_iptables(const struct capture_plan *plan, const struct ruleset *ruleset,
			  struct strbuf *error)
{
	int err = backend_iptables.probe(plan, error);
	return err ? err : backend_iptables.apply(plan, ruleset, error);
}

// In a process of its own: what it says comes through the pipe.
static _Noreturn void try_apart(size_t feature, int fd)
{
	autostrbuf struct strbuf why = {0};
	int err = 0;
	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
		err = -errno;
		strbuf_printf(&why, "not tried: no network namespace can be made (%s)", err_text(err));
	} else {
		err = with_feature(feature, &backend_iptables, apply_iptables, &why);
		if (err && !why.len)
			strbuf_add_text(&why, err_text(err));
	}
	ssize_t n = why.len ? write(fd, why.p, MIN(why.len, (size_t)PROBE_DETAIL_MAX)) : 0;
	_exit(err || n < 0);
}

static void read_verdict(struct probe_row *row, int fd, pid_t child)
{
	char text[PROBE_DETAIL_MAX];
	int status = 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	settle(row, WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO,
	       (struct str){text, n > 0 ? (size_t)n : 0});
}

static void probe_iptables(struct probe *probe)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct probe_row *row = add(probe, "iptables", features[i].feature);
		int pipes[2];
		if (pipe2(pipes, O_CLOEXEC) < 0) {
			settle(row, -errno, STR(""));
			continue;
		}
		pid_t child = fork();
		if (child == 0)
			try_apart(i, pipes[1]);
		close(pipes[1]);
		if (child < 0)
			settle(row, -errno, STR(""));
		else
			read_verdict(row, pipes[0], child);
		close(pipes[0]);
	}
}

// --- BPF ---------------------------------------------------------------------------------------------------
// The smallest program of a type: it says yes to everything.
static const struct bpf_insn yes[] = {
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
    {.code = BPF_JMP | BPF_EXIT},
};

// One that looks for a socket before that: from 0.0.0.0:0 to there, over IPv4.
enum { TUPLE_SIZE = sizeof(uint32_t) * 2 + sizeof(uint16_t) * 2, TUPLE_AT = -16 };
static const struct bpf_insn lookup[] = {
    {.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .off = TUPLE_AT},
    {.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .off = TUPLE_AT + 8},
    {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_10},
    {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_2, .imm = TUPLE_AT},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = TUPLE_SIZE},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_4, .imm = BPF_F_CURRENT_NETNS},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_5, .imm = 0},
    {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_sk_lookup_tcp},
    {.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_0, .off = 2, .imm = 0},
    {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_1, .src_reg = BPF_REG_0},
    {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_sk_release},
    {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
    {.code = BPF_JMP | BPF_EXIT},
};

static int load_program(uint32_t type, uint32_t attach_type, const struct bpf_insn *code, size_t count)
{
	static const char licence[] = "GPL";
	union bpf_attr attr = {.prog_type = type,
			       .expected_attach_type = attach_type,
			       .insns = (uintptr_t)code,
			       .insn_cnt = (uint32_t)count,
			       .license = (uintptr_t)licence};
	int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static void probe_bpf_programs(struct probe *probe)
{
	static const struct {
		const char *feature;
		uint32_t type, attach_type;
	} rows[] = {
	    {"connect4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT},
	    {"connect6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT},
	    {"sendmsg4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG},
	    {"sendmsg6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_SENDMSG},
	    {"recvmsg4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_RECVMSG},
	    {"recvmsg6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_RECVMSG},
	    {"getpeername4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME},
	    {"getpeername6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETPEERNAME},
	    {"getsockname4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETSOCKNAME},
	    {"getsockname6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETSOCKNAME},
	    {"bind4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND},
	    {"bind6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_BIND},
	    {"getsockopt", BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_GETSOCKOPT},
	    {"sock_ops", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS},
	    {"sock_release", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_RELEASE},
	    {"sk_lookup", BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP},
	    {"cgroup_skb", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS},
	    {"sk_msg (acceleration)", BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT},
	    {"sk_skb (acceleration)", BPF_PROG_TYPE_SK_SKB, BPF_SK_SKB_STREAM_VERDICT},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		settle(add(probe, "BPF", rows[i].feature),
		       load_program(rows[i].type, rows[i].attach_type, yes, ARRAY_SIZE(yes)), STR(""));
	settle(add(probe, "BPF", "fail open: looks for sockets"),
	       load_program(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, lookup,
			    ARRAY_SIZE(lookup)),
	       STR(""));
}

// What programs are attached to, and where they are kept, as the back end finds them.
static void probe_places(struct probe *probe)
{
	char path[EBPF_PATH_MAX];
	struct probe_row *row = add(probe, "BPF", "cgroup v2");
	bool found = cgroup_folder(path, sizeof path);
	settle(row, found ? 0 : ERR_NOT_FOUND, found ? str_from(path) : STR("not mounted"));
	row = add(probe, "BPF", "bpf file system, writable");
	if (!ebpf_place_mounted(path)) {
		settle(row, ERR_NOT_FOUND, STR("not mounted at /sys/fs/bpf"));
		return;
	}
	settle(row, access(path, W_OK) < 0 ? -errno : 0, str_from(path));
}

// What takes both.
static void probe_split(struct probe *probe)
{
	autostrbuf struct strbuf why = {0};
	struct capture_plan plan;
	capture_plan_init(&plan);
	int err = backend_split.probe(&plan, &why);
	settle(add(probe, "BPF", "outbound interfaces (with nft)"), err, strbuf_str(&why));
}

static void probe_bpf(struct probe *probe)
{
	probe_bpf_programs(probe);
	struct probe_row *btf = add(probe, "BPF", "types of the kernel (BTF)");
	settle(btf, access("/sys/kernel/btf/vmlinux", R_OK) ? -errno : 0, STR("/sys/kernel/btf/vmlinux"));
	probe_places(probe);
	probe_split(probe);
}

// --- all ---------------------------------------------------------------------------------------------------
size_t intercept_probe(struct probe_row ret_rows[PROBE_ROWS_MAX])
{
	struct probe probe = {.rows = ret_rows};
	probe_nft(&probe);
	probe_iptables(&probe);
	probe_bpf(&probe);
	return probe.count;
}
