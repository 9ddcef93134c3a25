# SPDX-License-Identifier: Apache-2.0
"""`weir intercept probe` says what really works, and leaves nothing behind; `show --foreign` says who else is there."""

import ctypes
import json
import os
import re
import struct
import subprocess

import pytest

from capture import CapturedPod, state
from netns import CONTROL_GROUPS

UNPRIVILEGED = ["setpriv", "--clear-groups", "--reuid=65534", "--regid=65534"]


@pytest.fixture
def pod(network):
    return network.pod("pod")


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
    assert features["BPF", "connect4"]["works"] and features["BPF", "sk_lookup"]["works"]
    chosen = [row for row in found["backends"] if row["auto"]]
    assert [row["backend"] for row in chosen] == [found["auto"]]
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
    row = found["iptables-legacy", "ip6 nat OUTPUT"]
    assert (row["owner"], row["rules"], row["priority"]) == ("Istio", 2, -100)


def bpf(command, attributes):
    """The system call, with attributes as bytes."""
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    result = ctypes.CDLL(None, use_errno=True).syscall(321, command, buffer, 128)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


def test_programs_on_the_control_group(pod, weir):
    """One of somebody's, that lets everything pass."""
    code = ctypes.create_string_buffer(bytes.fromhex("b700000001000000" "9500000000000000"), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack("=IIQQIIQII16sII", 18, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0, b"cil_theirs", 0, 10)
    program = bpf(5, load)
    folder = CONTROL_GROUPS / f"{pod.netns}-theirs"
    folder.mkdir()
    group = os.open(folder, os.O_RDONLY)
    try:
        bpf(8, struct.pack("=IIII", group, program, 10, 0))
        enter = ["nsenter", f"--net=/run/netns/{pod.netns}", "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh"]
        done = subprocess.run([*enter, weir, "intercept", "show", "--foreign", "-j"], capture_output=True, check=True, timeout=20)
        (row,) = [row for row in json.loads(done.stdout)["foreign"] if row["kind"] == "BPF"]
        assert row["where"].startswith("connect4 cil_theirs (program ") and row["owner"] == "Cilium"
        assert row["meaning"].startswith("before rules")
    finally:
        os.close(group)
        os.close(program)
        folder.rmdir()
