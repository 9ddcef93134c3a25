# SPDX-License-Identifier: Apache-2.0
"""`weir intercept probe` says what really works, and leaves nothing behind; `show --foreign` says who else is there."""

import contextlib
import json
import re
import subprocess

import pytest

import bpf
from capture import CapturedPod, Server, probe, state
from netns import CONTROL_GROUPS

UNPRIVILEGED = ["setpriv", "--clear-groups", "--reuid=65534", "--regid=65534"]


@pytest.fixture
def pod(network):
    return network.pod("pod")


# What weir's programs are attached to, those of acceleration among them.
HOOKS = {f"{hook}{family}" for hook in ("connect", "sendmsg", "recvmsg", "getpeername", "getsockname", "bind") for family in (4, 6)}
HOOKS |= {"getsockopt", "sock_ops", "sock_release", "sk_lookup", "cgroup_skb", "sk_msg", "sk_skb"}


def without_counters(text):
    return re.sub(r"packets \d+ bytes \d+", "", text)


def probed(pod, weir, *before):
    found = json.loads(pod.run([*before, weir, "intercept", "probe", "-j"], timeout=60).stdout)
    return found, {(row["of"], row["feature"]): row for row in found["features"]}


def test_what_works_and_what_auto_takes(pod, weir):
    before = state(pod)
    found, features = probed(pod, weir)
    assert state(pod) == before
    assert {row["works"] for (of, _), row in features.items() if of == "nft"} == {True}
    assert [feature for (of, feature), row in features.items() if of == "iptables" and not row["works"]] == [
        "inbound-mode tproxy",
        "fail open",
    ]
    assert "outlive the proxy" in features["iptables", "fail open"]["detail"]
    assert features["nft", "fail open"]["works"] and features["BPF", "fail open: looks for sockets"]["works"]
    works = {feature.partition(" ")[0] for (of, feature), row in features.items() if of == "BPF" and row["works"]}
    assert HOOKS <= works
    assert features["BPF", "outbound interfaces (with nft)"]["works"]
    assert features["BPF", "cgroup v2"]["works"]
    chosen = [row for row in found["backends"] if row["auto"]]
    assert [row["backend"] for row in chosen] == [found["auto"]] == ["nft"]
    reasons = [(row["backend"], row["why"]) for row in found["backends"]]
    later = "works, and comes later in the order"
    assert reasons == [("nft", "the first that works"), ("ebpf", later), ("iptables", later)]
    assert pod.run([weir, "intercept", "apply"]).stdout == "interception: installed\n"
    assert json.loads(pod.run([weir, "intercept", "show", "-j"]).stdout)["backend"] == found["auto"]


def test_what_is_installed_stays_untouched(network, weir):
    app = CapturedPod(network, weir, "app")
    app.apply("--exclude-outbound-ports", "5")
    before = without_counters(state(app))
    probed(app.pod, weir)
    assert without_counters(state(app)) == before


def test_without_privileges(pod, weir):
    found, features = probed(pod, weir, *UNPRIVILEGED)
    assert found["auto"] == "none"
    assert not features["nft", "fail hold"]["works"]
    assert "CAP_NET_ADMIN" in features["nft", "fail hold"]["detail"]
    assert not features["BPF", "sk_lookup"]["works"]
    assert all(row["why"] for row in found["backends"])


# As kernels before Linux 5.12 do, and as those before BPF programs could look for sockets: they know no such thing.
OLD_KERNEL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
static int is_table(const struct nlmsghdr *nlh)
{
	return nlh->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE);
}
/* The flag is the last attribute; one that no kernel knows takes its place. */
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	ssize_t (*real)(int, const struct msghdr *, int) = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		size_t left = msg->msg_iov[i].iov_len;
		for (struct nlmsghdr *nlh = msg->msg_iov[i].iov_base; NLMSG_OK(nlh, left); nlh = NLMSG_NEXT(nlh, left))
			if (is_table(nlh) && ((char *)nlh)[nlh->nlmsg_len - 1] == NFT_TABLE_F_OWNER)
				((char *)nlh)[nlh->nlmsg_len - 2] = 1;
	}
	return real(fd, msg, flags);
}
long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"), word[6];
	va_list args;
	va_start(args, number);
	for (int i = 0; i < 6; i++)
		word[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_bpf && word[0] == BPF_PROG_LOAD) {
		const union bpf_attr *attr = (const void *)word[1];
		const struct bpf_insn *code = (const void *)attr->insns;
		for (unsigned i = 0; i < attr->insn_cnt; i++)
			if (code[i].code == (BPF_JMP | BPF_CALL) && code[i].imm == BPF_FUNC_sk_lookup_tcp)
				return errno = EINVAL, -1;
	}
	return real(number, word[0], word[1], word[2], word[3], word[4], word[5]);
}
"""


def test_an_old_kernel_cannot_fail_open(pod, weir):
    """What the kernel knows is tried, not read from its version."""
    folder = pod.network.folder
    (folder / "old.c").write_text(OLD_KERNEL)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "old.so", folder / "old.c", "-ldl"], check=True)
    env = ["env", f"LD_PRELOAD={folder / 'old.so'}", "ASAN_OPTIONS=verify_asan_link_order=0"]
    _, features = probed(pod, weir, *env)
    assert not features["nft", "fail open"]["works"]
    assert features["nft", "fail open"]["detail"].endswith("it needs Linux 5.12")
    assert not features["BPF", "fail open: looks for sockets"]["works"]
    assert features["nft", "fail hold"]["works"] and features["BPF", "connect4"]["works"]


def test_without_the_programs_of_iptables(pod, weir):
    hide = 'for path in /usr/sbin/*tables-*multi; do mount --bind /dev/null "$path"; done; exec "$@"'
    _, features = probed(pod, weir, "unshare", "-m", "sh", "-c", hide, "sh")
    assert "are not installed" in features["iptables", "fail hold"]["detail"]
    assert features["nft", "fail hold"]["works"]


# Its first process sees neither what is mounted outside nor anybody who does.
ALONE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
NO_PLACE = {
    "control groups": ('"$@"; exit', "no control groups of version 2 are mounted"),
    "BPF file system": ('mount -t cgroup2 none /sys/fs/cgroup && unshare --mount "$@"; exit', "no BPF file system is mounted"),
}


@pytest.mark.parametrize("missing", list(NO_PLACE))
def test_without_a_place_for_programs(pod, weir, missing):
    """`auto` passes eBPF over there, and what it says is what `apply` would."""
    script, said = NO_PLACE[missing]
    found, features = probed(pod, weir, *ALONE, script, "sh")
    [row] = [row for row in found["backends"] if row["backend"] == "ebpf"]
    assert not row["works"] and said in row["why"]
    assert not features["BPF", "outbound interfaces (with nft)"]["works"]
    assert features["BPF", "cgroup v2"]["works"] == (missing != "control groups")
    assert features["BPF", "connect4"]["works"] and not features["BPF", "bpf file system, writable"]["works"]
    failed = pod.run([*ALONE, script, "sh", weir, "intercept", "apply", "--backend", "ebpf"], check=False)
    assert failed.returncode == 1 and row["why"] in failed.stderr


# --- who else is there -----------------------------------------------------------------------------------------------
THEIRS_NFT = """
table inet firewalld {
	chain nat_PREROUTING { type nat hook prerouting priority -90; tcp dport 80 redirect to :81; }
	chain filter_INPUT { type filter hook input priority 10; accept; }
	chain filter_FORWARD { type filter hook forward priority 10; accept; }
}
table ip early { chain translate { type nat hook output priority -120; tcp dport 81 redirect to :82; }; }
table ip6 nobodys { chain empty { type filter hook output priority 0; }; }
"""
KUBE = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
DOCKER = "*nat\n:DOCKER - [0:0]\n-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n"
ISTIO = "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A OUTPUT -p udp -j RETURN\nCOMMIT\n"


def foreign(pod, weir):
    rows = json.loads(pod.run([weir, "intercept", "show", "--foreign", "-j"]).stdout)["foreign"]
    return {(row["kind"], row["where"]): row for row in rows}


@pytest.mark.parametrize("backend", ["nft", "iptables"])
def test_who_else_is_on_the_hooks(pod, weir, backend):
    assert foreign(pod, weir) == {}
    pod.run([weir, "intercept", "apply", "--backend", backend])
    assert {row["rules"] for row in foreign(pod, weir).values()} <= {0}, "weir's are none of others"
    pod.run(["nft", "-f", "-"], input=THEIRS_NFT)
    pod.run(["iptables-nft-restore", "--noflush"], input=DOCKER)
    pod.run(["ip6tables-nft-restore", "--noflush"], input=KUBE)
    pod.run(["ip6tables-legacy-restore", "--noflush"], input=ISTIO)
    found = foreign(pod, weir)
    assert ("nft", "inet firewalld filter_FORWARD") not in found, "connections of this host do not pass there"

    row = found["nft", "inet firewalld nat_PREROUTING"]
    assert (row["owner"], row["hook"], row["priority"], row["rules"]) == ("firewalld", "prerouting", -90, 1)
    assert row["meaning"].startswith("after weir's")
    assert found["nft", "ip early translate"]["meaning"].startswith("before weir's: what it translates is not captured")
    assert found["nft", "ip6 nobodys empty"]["meaning"] == "empty"
    row = found["nft", "ip nat OUTPUT"]
    assert (row["owner"], row["rules"]) == ("Docker", 1)
    assert row["meaning"].startswith("beside weir's")
    assert found["nft", "ip6 nat PREROUTING"]["owner"] == "kube-proxy"
    row = found["iptables-legacy", "ip6 nat OUTPUT"]
    assert (row["owner"], row["rules"], row["priority"]) == ("Istio", 2, -100)


def foreign_programs(pod, weir, group=None):
    """{hook and name: row} of other programs; as seen by a process of that control group."""
    into = ["sh", "-c", 'echo $$ >"$0"/cgroup.procs && exec "$@"', str(group)] if group else []
    enter = [*into, "nsenter", f"--net=/run/netns/{pod.netns}"]
    done = subprocess.run([*enter, weir, "intercept", "show", "--foreign", "-j"], capture_output=True, check=True, timeout=60)
    rows = [row for row in json.loads(done.stdout)["foreign"] if row["kind"] == "BPF"]
    return {row["where"].partition(" (program ")[0]: row for row in rows}


def test_programs_on_the_control_group(network, pod, weir):
    """One of somebody's, that lets everything pass."""
    with bpf.attached(network, "cil_theirs") as (program, group):
        row = foreign_programs(pod, weir, group)["connect4 cil_theirs"]
        assert row["where"].endswith(f"(program {program})") and row["owner"] == "Cilium"
    assert "connect4 cil_theirs" not in foreign_programs(pod, weir)


MEANINGS = {
    "connect4": ("it refuses, or changes the address, before weir looks", "it sees the address that weir has put there"),
    "sendmsg4": ("it refuses, or changes the address, before weir looks", "it sees the address that weir has put there"),
    "sock_ops": ("both run", "both run"),
    "egress": ("both run, and either may drop a packet", "both run, and either may drop a packet"),
    "sk_lookup": ("what it gives to a socket is not captured", "it may give another socket what is for the proxy's"),
}


@pytest.mark.parametrize("hook", list(MEANINGS))
def test_other_programs_beside_those_of_ebpf(network, weir, hook):
    """In the order in which they run: those of inner control groups first, then by when they were attached."""
    app, bystander = CapturedPod(network, weir, "app"), network.pod("bystander")
    lookup = hook == "sk_lookup"
    place = {"pod": app.pod} if lookup else {"group": CONTROL_GROUPS}
    inner = CONTROL_GROUPS / f"{network.prefix}inner"
    inner.mkdir()
    with contextlib.ExitStack() as stack:
        if lookup:
            stack.enter_context(bpf.attached(network, "their_first", hook, **place))
        app.apply("--backend", "ebpf", "--fail", "hold")
        stack.enter_context(bpf.attached(network, "their_last", hook, **place))
        if not lookup:
            stack.enter_context(bpf.attached(network, "their_first", hook, group=inner))
        found = foreign_programs(app.pod, weir, inner)
        first, last = found[f"{hook} their_first"], found[f"{hook} their_last"]
        before, after = MEANINGS[hook]
        assert first["meaning"] == f"before weir's: {before}" and last["meaning"].startswith(f"after weir's: {after}")
        assert 1 == first["priority"] < last["priority"]
        # Nothing of theirs is changed, and all of them run.
        target = bystander.ipv4
        Server(bystander, 80, "direct")
        assert probe(app, target, 80).startswith("outbound ")
    assert not {f"{hook} their_first", f"{hook} their_last"} & set(foreign_programs(app.pod, weir, inner))


def test_a_program_of_others_that_refuses(network, weir):
    """What weir lets go elsewhere, somebody else's program may still stop; `show --foreign` names it."""
    app, other = CapturedPod(network, weir, "app"), network.pod("other")
    app.apply("--backend", "ebpf")
    inner = CONTROL_GROUPS / f"{network.prefix}inner"
    inner.mkdir()
    call = f"import socket; socket.create_connection(('{other.ipv4}', 80), 30)"
    words = ["sh", "-c", 'echo $$ >"$0"/cgroup.procs && exec "$@"', str(inner), "nsenter", f"--net=/run/netns/{app.pod.netns}"]
    words += ["python3", "-c", call]
    assert subprocess.run(words).returncode == 0
    with bpf.attached(network, "their_deny", group=inner, verdict=0):
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode != 0 and "Operation not permitted" in done.stderr
        row = foreign_programs(app.pod, weir, inner)["connect4 their_deny"]
        assert row["meaning"].startswith("before weir's: it refuses") and row["priority"] == 1
    assert subprocess.run(words).returncode == 0
