# SPDX-License-Identifier: Apache-2.0
"""weir prog and weir map: what is loaded into the kernel, where it is attached, what it holds, and how large it may become."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import pytest

import bpf
from bpf_object import STACK, stack_needed
from capture import PINS, CapturedPod, cookie_of, is_pinned, name_of, original_destination, probe
from mesh import Mesh, Origin, cluster, connect, service
from netns import CONTROL_GROUPS, wait_until

CAPTURE = {
    "weir_connect4": "cgroup_inet4_connect",
    "weir_connect6": "cgroup_inet6_connect",
    "weir_sendmsg4": "cgroup_udp4_sendmsg",
    "weir_sendmsg6": "cgroup_udp6_sendmsg",
    "weir_recvmsg4": "cgroup_udp4_recvmsg",
    "weir_recvmsg6": "cgroup_udp6_recvmsg",
    "weir_getpeername4": "cgroup_inet4_getpeername",
    "weir_getpeername6": "cgroup_inet6_getpeername",
    "weir_getsockname4": "cgroup_inet4_getsockname",
    "weir_getsockname6": "cgroup_inet6_getsockname",
    "weir_bind4": "cgroup_inet4_bind",
    "weir_bind6": "cgroup_inet6_bind",
    "weir_stream": "cgroup_sock_ops",
    "weir_release": "cgroup_inet_sock_release",
    "weir_getsockopt": "cgroup_getsockopt",
    "weir_lookup": "sk_lookup",
}
HOLD = {"weir_hold_in": "cgroup_inet_ingress", "weir_hold_out": "cgroup_inet_egress"}  # while a plan asks for it
MAPS = {f"weir_{name}" for name in ("plans", "pending", "shares", "sockets", "servers", "listeners", "held", "unheard", "calls", "callers", "versions")}
BYPASS = {
    "weir_meet": "cgroup_sock_ops",
    "weir_dial4": "cgroup_inet4_connect",
    "weir_dial6": "cgroup_inet6_connect",
    "weir_bypass": "sk_msg_verdict",
    "weir_relay": "sk_skb_stream_verdict",
    "weir_guard": None,  # a filter of sockets
}
MARK_CLIENT, IP_BIND_ADDRESS_NO_PORT, IPV6_TRANSPARENT = 0x773, 24, 75
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def ask(weir, *words):
    done = subprocess.run([weir, *map(str, words), "-j"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def bpftool(*words):
    return json.loads(subprocess.run(["bpftool", "-j", *map(str, words)], check=True, capture_output=True).stdout)


def number_of(pod):
    with pod.enter():
        return os.stat("/proc/thread-self/ns/net").st_ino


def pinned(rows):
    """Those of this test process: nobody else's pins are seen from here."""
    return [row for row in rows if is_pinned(row)]


def programs_of(weir, pod):
    """The programs that capture in a pod, by name: its own, and those that all pods share."""
    rows = pinned(ask(weir, "prog", "show")["programs"])
    own = f"net:[{number_of(pod)}]"
    return {row["name"]: row for row in rows if row["where"] in (own, "cgroup:/")}


@pytest.fixture
def lone(network, weir):
    """A captured pod without a proxy."""
    app = CapturedPod(network, weir, "app", proxy=False)
    group = CONTROL_GROUPS / f"{network.prefix}spared"
    group.mkdir()
    app.apply("--backend", "ebpf", "--fail", "open", "--exclude-outbound-ports", "7,9", "--exclude-cgroups", group.name)
    return app


def map_number(weir, name):
    [number] = [row["id"] for row in pinned(ask(weir, "map", "show")["maps"]) if row["name"] == name]
    return number


def entries(pod, weir, name, number=None):
    """What a map holds of the pod's network namespace. number: the map's, if it is known already."""
    cookie = cookie_of(pod)
    found = ask(weir, "map", "dump", number or map_number(weir, name))["entries"]
    return [row for row in found if row["cookie"] == cookie]


# --- programs --------------------------------------------------------------------------------------------------------
def test_programs_of_the_capture(lone, weir):
    lone.apply("--backend", "ebpf", "--fail", "hold")
    found = programs_of(weir, lone.pod)
    assert {name: row["attach_type"] for name, row in found.items()} == {**CAPTURE, **HOLD}
    assert found["weir_lookup"]["where"] == f"net:[{number_of(lone.pod)}]"
    assert found["weir_lookup"]["pin"].endswith(f"/netns-{cookie_of(lone.pod)}")
    for row in found.values():
        theirs = bpftool("prog", "show", "id", row["id"])
        assert (theirs["tag"], theirs["bytes_memlock"]) == (row["tag"], row["memory"])
        assert theirs["type"] == row["type"] and row["name"].startswith(theirs["name"])
        assert bpftool("link", "show", "id", row["link"])["prog_id"] == row["id"]
        loaded_at = datetime.datetime.fromisoformat(row["loaded_at"].replace("Z", "+00:00"))
        assert abs(loaded_at.timestamp() - theirs["loaded_at"]) <= 1  # both add to when the machine was started, and round
        assert row["verified"] > 0 and sorted(row["maps"]) == sorted(theirs["map_ids"])
    lone.weir("remove")
    assert "weir_lookup" not in programs_of(weir, lone.pod)


def test_a_control_group_is_named_by_its_path(network, weir):
    """Whoever attaches a program under weir's name: where it is attached is looked up in the kernel."""
    with bpf.attached(network, "weir_elsewhere") as (program, folder):
        [row] = [row for row in ask(weir, "prog", "show")["programs"] if row["id"] == program]
        assert row["where"] == f"cgroup:/{folder.name}" and row["attach_type"] == "cgroup_inet4_connect"
        assert row["pin"] is None and row["link"] > 0 and row["name"] == "weir_elsewhere"


@pytest.fixture
def nobody_counts():
    """The kernel counts for all when it does for one: one test at a time on this machine."""
    with open(pathlib.Path(tempfile.gettempdir()) / "weirtest-counts.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_runs_are_shown_while_the_kernel_counts_them(nobody_counts, lone, weir):
    switch = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip()
    row = programs_of(weir, lone.pod)["weir_connect4"]
    assert switch == "1" or (row["runs"], row["run_time_ns"]) == (None, None)
    with bpf.counting_runs():
        before = row["runs"] or 0
        probe(lone, "127.0.0.1", 1)
        row = programs_of(weir, lone.pod)["weir_connect4"]
        assert row["runs"] > before and row["run_time_ns"] > 0


# --- maps ------------------------------------------------------------------------------------------------------------
def test_maps_of_the_capture(network, lone, weir):
    cookie, other = cookie_of(lone.pod), network.pod("other")
    maps = {row["name"]: row for row in pinned(ask(weir, "map", "show")["maps"])}
    assert set(maps) == MAPS
    for row in maps.values():
        theirs = bpftool("map", "show", "id", row["id"])
        assert theirs["bytes_memlock"] == row["memory"]
        assert (theirs["bytes_key"], theirs["bytes_value"], theirs["max_entries"]) == (
            row["key_size"],
            row["value_size"],
            row["max_entries"],
        )
    assert maps["weir_plans"]["entries"] >= 1 and maps["weir_plans"]["max_entries"] == 4096
    assert maps["weir_sockets"]["entries"] is None
    [row] = [row for row in ask(weir, "map", "dump", maps["weir_plans"]["id"])["entries"] if row["cookie"] == cookie]
    assert row["namespace"] == f"net:[{number_of(lone.pod)}]"
    assert (row["outbound_port"], row["inbound_port"], row["dns_port"], row["fail"]) == (15001, 15006, 15053, "open")
    assert row["let_through"] == 0
    assert probe(lone, other.ipv4, 80) == "refused"
    [row] = entries(lone.pod, weir, "weir_plans")
    assert row["let_through"] == 1 and (row["refused"], row["refused_full"]) == (0, 0)
    # The plan, by its number: what `intercept show` lists.
    shown, plan = lone.show(), ask(weir, "map", "dump", row["plan"])
    for wanted, got in (("rules", "entries"), ("sets", "sets")):
        assert plan[got] == [{"map": row["plan"], **strip(line)} for line in shown[wanted]]
    assert row["rules"] == len(plan["entries"]) and row["sets"] == len(plan["sets"])
    assert {"set": "outbound_exclude_ports", "elements": "7, 9", "map": row["plan"]} in plan["sets"]


def strip(line):
    return {key: value for key, value in line.items() if key != "bytes"}


@families
def test_connections_and_their_original_destinations(lone, weir, family):
    """On their way to a listener that does not get them yet, and then with it."""
    to = ("192.0.2.1" if family == 4 else "2001:db8::1", 80)
    loopback, word = ("127.0.0.1", "IPv4") if family == 4 else ("::1", "IPv6")
    lone.pod.run(["nft", "-f", "-"], input="table inet late { chain c { type filter hook input priority 0; tcp dport 15001 drop; }; }")
    with lone.enter():
        listener = socket.create_server((loopback, 15001), family=socket.AF_INET if family == 4 else socket.AF_INET6)
        client = socket.socket(listener.family)
    client.setblocking(False)
    with listener, client:
        [row] = entries(lone.pod, weir, "weir_listeners")
        assert (row["family"], row["port"], row["socket"]) == (word, 15001, socket_cookie(listener))
        with contextlib.suppress(BlockingIOError):
            client.connect(to)
        [row] = entries(lone.pod, weir, "weir_pending")
        assert row["original"] == name_of(*to) and row["client"] == socket_cookie(client)
        assert row["namespace"] == f"net:[{number_of(lone.pod)}]"
        redirect, source = row["redirect"], row["source"]
        assert source == (lone.ipv4 if family == 4 else lone.ipv6)
        assert [row["pending"] for row in entries(lone.pod, weir, "weir_shares")] == [1]
        assert redirect.startswith("127." if family == 4 else "fd77:65:6972:7f:")
        [row] = entries(lone.pod, weir, "weir_sockets")
        assert (row["side"], row["original"], row["source"], row["redirect"]) == ("client", name_of(*to), source, redirect)
        assert row["socket"] == socket_cookie(client)
        lone.pod.run(["nft", "delete", "table", "inet", "late"])
        listener.settimeout(30)
        accepted, _ = listener.accept()
        with accepted:
            assert [row["redirect"] for row in entries(lone.pod, weir, "weir_pending")] == [redirect]
            assert original_destination(accepted) == name_of(*to)
            assert entries(lone.pod, weir, "weir_pending") == []
            assert [row["pending"] for row in entries(lone.pod, weir, "weir_shares")] == [0]
            rows = {row["socket"]: row for row in entries(lone.pod, weir, "weir_sockets")}
            row = rows[socket_cookie(accepted)]
            assert (row["side"], row["original"], row["source"], row["redirect"]) == ("accepted", name_of(*to), source, None)
    assert entries(lone.pod, weir, "weir_sockets") == entries(lone.pod, weir, "weir_listeners") == []


@families
def test_excluded_connections_are_not_noted(network, lone, weir, family):
    """Not while they are open, and not while they are being made: by port, by network, and inbound; nor the servers that
    spared queries go to."""
    kind, host = (socket.AF_INET, "ipv4") if family == 4 else (socket.AF_INET6, "ipv6")
    other = network.pod("other")
    address = getattr(other, host)
    lone.apply(
        *("--backend", "ebpf", "--exclude-outbound-ports", "80"),
        *("--exclude-inbound-ports", "80", "--exclude-outbound-cidrs", "192.0.2.0/24,2001:db8::/32"),
        *("--exclude-marks", "0x10"),
    )

    def noted():
        return [entries(lone.pod, weir, name) for name in ("weir_pending", "weir_sockets", "weir_servers")]

    with contextlib.ExitStack() as stack:
        for server, client, to in ((other, lone, (address, 80)), (lone, other, (getattr(lone, host), 80))):
            with server.enter():
                listener = stack.enter_context(socket.create_server(("", 80), family=kind))
            with client.enter():
                stack.enter_context(socket.create_connection(to, 20))
            stack.enter_context(listener.accept()[0])
            assert noted() == [[], [], []], to
        # To nobody: it is under way for as long as this looks.
        lone.pod.run(["nft", "-f", "-"], input="table inet late { chain c { type filter hook output priority 0; tcp dport 9999 drop; }; }")
        with lone.enter():
            client = stack.enter_context(socket.socket(kind))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(("192.0.2.1" if family == 4 else "2001:db8::1", 9999))
        assert noted() == [[], [], []]
        with lone.enter():
            asker = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
        asker.sendto(b"?", (address, 53))
        assert len(noted()[2]) == 1, "captured, for comparison"
        asker.close()
        with lone.enter():
            asker = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x10)
        asker.sendto(b"?", (address, 53))
        assert noted() == [[], [], []]


@families
def test_connections_that_wait(network, lone, weir, family):
    """Inbound, for a limited time."""
    other = network.pod("other")
    lone.apply("--backend", "ebpf", "--fail", "hold", "--hold-timeout", "60s")
    [row] = entries(lone.pod, weir, "weir_plans")
    assert row["fail"] == "hold"
    with lone.enter():
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        application = socket.create_server(("", 8080), family=kind)
    with other.enter():
        client = socket.socket(kind)
    client.setblocking(False)
    with application, client:
        with contextlib.suppress(BlockingIOError):
            client.connect((lone.ipv4 if family == 4 else lone.ipv6, 8080))
        [row] = wait_until(lambda: entries(lone.pod, weir, "weir_held"))
        assert row["from"] == name_of(*client.getsockname()[:2]) and row["port"] == 8080
        assert 0 < row["left_ms"] <= 60_000


@families
def test_calls_in_a_clients_name(network, weir, weir_proxy, family):
    """On their way to an application that does not get them yet, and then with it; of one that is not known any more, it
    is told of nobody."""
    sidecar = Mesh(network, weir, weir_proxy).sidecar("app", start=False, intercept={"capture": {"inbound_source": "client"}})
    sidecar.start()
    sidecar.intercept("apply", "--backend", "ebpf")
    other, kind = network.pod("other"), socket.AF_INET if family == 4 else socket.AF_INET6
    address, client = (sidecar.ipv4, other.ipv4) if family == 4 else (sidecar.ipv6, other.ipv6)
    with sidecar.pod.enter():
        application = socket.create_server(("", 8080), family=kind)
    application.settimeout(30)
    calls, callers = (map_number(weir, name) for name in ("weir_calls", "weir_callers"))
    for known in (True, False):  # within the time that the proxy gives a call: no more commands than it takes
        sidecar.pod.run(["nft", "-f", "-"], input="table inet late { chain c { type filter hook input priority 0; iif lo tcp dport 8080 drop; }; }")
        with other.enter(), socket.create_connection((address, 8080)):
            [row] = wait_until(lambda: entries(sidecar.pod, weir, "weir_calls", calls))
            source = row["from"].rpartition(":")[0].strip("[]")
            assert source.startswith("127." if family == 4 else "fd77:65:6972:7f:")
            port = int(row["from"].rpartition(":")[2])
            assert (row["client"], row["to"]) == (name_of(client, port), name_of(address, 8080))
            [caller] = entries(sidecar.pod, weir, "weir_callers", callers)
            assert caller["client"] == row["client"]
            if not known:
                forget_calls(sidecar.pod)
            sidecar.pod.run(["nft", "delete", "table", "inet", "late"])
            accepted, peer = application.accept()
            nobody = "0.0.0.0" if family == 4 else "::"
            with accepted:
                assert peer[:2] == accepted.getpeername()[:2] == (client if known else nobody, port)
                assert entries(sidecar.pod, weir, "weir_calls") == []
                rows = {row["socket"]: row for row in entries(sidecar.pod, weir, "weir_sockets")}
                row = rows[socket_cookie(accepted)]
                assert (row["side"], row["original"]) == ("served", name_of(*peer[:2]))
        wait_until(lambda: entries(sidecar.pod, weir, "weir_callers") == [])
    application.close()
    with other.enter(), contextlib.suppress(ConnectionResetError), socket.create_connection((address, 8080), timeout=30) as sock:
        assert sock.recv(1) == b""  # refused, and
    assert entries(sidecar.pod, weir, "weir_calls") == []


@families
def test_a_refused_call_does_not_take_the_next_one_along(lone, weir, family):
    """The port of one that was refused is free before its socket is closed: the next one has the same ends. (Both are the
    proxy's by their mark.)"""
    lone.apply("--backend", "ebpf", "--fail", "open", "--inbound-source", "client")
    lone.pod.sysctl("net.ipv4.ip_local_port_range", "40000 40000")
    kind, address, client = (socket.AF_INET, lone.ipv4, "10.77.0.9") if family == 4 else (socket.AF_INET6, lone.ipv6, "fd00:77::9")
    refused, waiting = (call_of(lone, kind, client) for _ in range(2))
    with refused, waiting:
        with pytest.raises(ConnectionRefusedError):
            refused.connect((address, 8080))
        with lone.enter():
            application = socket.create_server(("", 8080), family=kind)
        lone.pod.run(["nft", "-f", "-"], input="table inet late { chain c { type filter hook input priority 0; iif lo tcp dport 8080 drop; }; }")
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.connect((address, 8080))
        [row] = entries(lone.pod, weir, "weir_calls")
        assert (row["client"], row["to"]) == (name_of(client, 40000), name_of(address, 8080))
        refused.close()
        assert entries(lone.pod, weir, "weir_calls") == [row]
        waiting.close()
        assert entries(lone.pod, weir, "weir_calls") == []
        application.close()


def call_of(pod, kind, client):
    """A socket of the proxy that calls in the name of a client."""
    with pod.enter():
        sock = socket.socket(kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_CLIENT)
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    if kind == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
    sock.bind((client, 0))
    return sock


def forget_calls(pod):
    for path in PINS.glob("*/weir_calls"):
        for entry in bpftool("map", "dump", "pinned", path):
            if entry["formatted"]["key"]["netns"] == cookie_of(pod):
                subprocess.run(["bpftool", "map", "delete", "pinned", path, "key", *entry["key"]], check=True)


def socket_cookie(sock):
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), "little")


@families
def test_dns_servers_of_a_socket(network, weir, family):
    app = CapturedPod(network, weir, "app")
    app.apply("--backend", "ebpf")
    servers = ["192.0.2.53", "192.0.2.54"] if family == 4 else ["2001:db8::53", "2001:db8::54"]
    with app.enter():
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        for server in servers:
            sock.sendto(b"?", (server, 53))
        rows = entries(app.pod, weir, "weir_servers")
        assert [(row["socket"], row["number"], row["server"]) for row in rows] == [
            (socket_cookie(sock), number, name_of(server, 53)) for number, server in enumerate(servers)
        ]


@families
def test_who_asks_a_server_from_the_port_of_servers(network, lone, weir, family):
    """The last 8 are known, and each once."""
    lone.apply("--backend", "ebpf")
    askers = network.pod("askers")
    address, host, kind, length = (lone.ipv4, "10.77.0", socket.AF_INET, 24) if family == 4 else (lone.ipv6, "fd00:77:", socket.AF_INET6, 64)
    with lone.pod.enter():
        server = socket.socket(kind, socket.SOCK_DGRAM)
    with server:
        server.settimeout(30)
        server.bind((address, 53))
        names = [f"{host}.{number}" if family == 4 else f"{host}:{number}" for number in range(201, 211)]
        for name in names:
            askers.address(f"{name}/{length}")
            with askers.enter(), socket.socket(kind, socket.SOCK_DGRAM) as asker:
                asker.bind((name, 53))
                for _ in range(2):
                    asker.sendto(b"?", (address, 53))
                    assert server.recvfrom(10)[0] == b"?"
            with askers.enter(), socket.socket(kind, socket.SOCK_DGRAM) as other:
                other.sendto(b"?", (address, 53))
                assert server.recvfrom(10)[0] == b"?"
        rows = entries(lone.pod, weir, "weir_servers")
        assert {(row["socket"], row["server"]) for row in rows} == {(socket_cookie(server), None)}
        assert sorted(row["asker"] for row in rows) == sorted(name_of(name, 53) for name in names[2:])


def test_a_proxy_on_the_port_of_servers_answers_all(network, lone):
    """However many have asked it from there since."""
    lone.apply("--backend", "ebpf", "--dns-port", "53")
    askers, waiting = network.pod("askers"), []
    with lone.pod.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as proxy, contextlib.ExitStack() as stack:
        proxy.settimeout(30)
        proxy.bind((lone.ipv4, 53))
        for name in [f"10.77.0.{number}" for number in range(201, 211)]:
            askers.address(f"{name}/24")
            with askers.enter():
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.settimeout(10)
            sock.bind((name, 53))
            sock.sendto(b"?", (lone.ipv4, 53))
            assert proxy.recvfrom(10) == (b"?", (name, 53))
            waiting.append((sock, name))
        for sock, name in waiting:
            proxy.sendto(b"answer", (name, 53))
            assert sock.recvfrom(10) == (b"answer", (lone.ipv4, 53))


def test_a_plan_of_another_version(lone, weir):
    """It is said of it, and the others are shown."""
    with bpf.array("weir_plan", 64, 4) as number:
        done = subprocess.run([weir, "map", "dump", str(number)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "entries:\nno entries\n\nsets:\nno sets\n")
        assert done.stderr == f"weir: map {number} (weir_plan) cannot be read: another version of weir has made it\n"
        done = subprocess.run([weir, "map", "dump", "weir_plan", "-j"], capture_output=True, text=True)
        [plan] = [row["plan"] for row in entries(lone.pod, weir, "weir_plans")]
        assert done.returncode == 1 and plan in {row["map"] for row in json.loads(done.stdout)["entries"]}
    with bpf.array("weir_pending", 8, 4) as number:
        done = subprocess.run([weir, "map", "dump", str(number)], capture_output=True, text=True)
        assert done.returncode == 1 and "nothing describes what is in it" in done.stderr


def test_variables_of_a_program(lone, weir):
    rows = []

    def dump():
        """Of all on the host that are called so, also of those that somebody else is just making."""
        done = subprocess.run([weir, "map", "dump", "ebpf_loo.rodata", "-j"], capture_output=True, text=True, timeout=60)
        rows[:] = json.loads(done.stdout)["entries"] if done.returncode == 0 else []
        return rows

    wait_until(dump)
    mine = [row["map"] for row in rows if (row["key"], row["value"]) == ("weir_netns", str(cookie_of(lone.pod)))]
    assert [row["value"] for row in rows if row["map"] in mine and row["key"] == "weir_ports"] == ["[15001,15006,15053,]"]


# --- the local bypass ------------------------------------------------------------------------------------------------
def open_ids(pid, kind):
    infos = [info.read_text() for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir()]
    return {int(number) for info in infos for number in re.findall(rf"^{kind}:\s+(\d+)$", info, re.MULTILINE)}


@pytest.fixture
def accelerated(network, weir, weir_proxy):
    """A sidecar whose proxy has loaded the local bypass, with an origin behind it in the same pod."""
    return Mesh(network, weir, weir_proxy).sidecar(
        "proxied",
        acceleration="auto",
        services=[service("raw.mesh", 5000, "raw", protocol="tcp")],
        clusters=[cluster("raw", ["127.0.0.1:7000"])],
    )


def test_programs_and_maps_of_the_local_bypass(accelerated, weir):
    pid = accelerated.proxy.pid
    ids = open_ids(pid, "prog_id")
    rows = [row for row in ask(weir, "prog", "show")["programs"] if row["id"] in ids]
    assert {row["name"]: row["attach_type"] for row in rows} == BYPASS
    maps = {row["name"]: row for row in ask(weir, "map", "show")["maps"] if row["id"] in open_ids(pid, "map_id")}
    assert {"weir_meetings", "weir_bypassed", "weir_ends", "weir_joins", "weir_outlets", "weir_leaving", "weir_counts"} <= set(maps)
    assert {"weir_sources", "weir_sinks", "weir_relays", "weir_done", "weir_relayed"} <= set(maps)
    for row in rows:
        sockets = {"weir_bypass": "weir_bypassed", "weir_relay": "weir_sources"}.get(row["name"])
        group = "cgroup:/" if row["attach_type"] else None
        assert row["where"] == (f"map:{maps[sockets]['id']}" if sockets else group)
        assert row["pin"] is None and (row["link"] is None) == bool(sockets or not group)
    vip = accelerated.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    done = threading.Event()

    def handler(peer):
        peer.send(peer.read(5))
        done.wait(60)

    with Origin(accelerated.pod, 7000, handler) as origin:
        origin.listener.settimeout(600)  # it does not block: else it is left alone
        [before] = ask(weir, "map", "dump", maps["weir_counts"]["id"])["entries"]  # those of its self-test
        peer = connect(accelerated.pod, vip, 5000)
        assert peer.send("hello").read(5) == b"hello"
        [counts] = ask(weir, "map", "dump", maps["weir_counts"]["id"])["entries"]
        assert counts["connections"] == before["connections"] + 2 and counts["messages"] > before["messages"]
        cookies = {row["socket"] for row in ask(weir, "map", "dump", maps["weir_bypassed"]["id"])["entries"]}
        assert socket_cookie(peer.sock) in cookies
        ends = {row["key"]: row["value"] for row in ask(weir, "map", "dump", maps["weir_ends"]["id"])["entries"]}
        assert ".peer_cookie = " in ends[f"socket {socket_cookie(peer.sock)}"]
        done.set()
        peer.close()
    accelerated.proxy.kill()
    wait_until(lambda: not ids & {row["id"] for row in ask(weir, "prog", "show")["programs"]})


# --- limits ----------------------------------------------------------------------------------------------------------
# Instructions that the verifier may go through, of 1,000,000 that the kernel allows: a multiple of today's, so that a change
# by which they explode does not go unnoticed, and kernels that follow more ways than this one still load the program.
VERIFIED_MAX = {
    **dict.fromkeys(["weir_connect4", "weir_connect6", "weir_sendmsg4", "weir_sendmsg6", "weir_lookup"], 150_000),
    **dict.fromkeys(["weir_recvmsg4", "weir_recvmsg6", "weir_getpeername4", "weir_getpeername6"], 15_000),
    **dict.fromkeys(["weir_getsockname4", "weir_getsockname6"], 30_000),
    **dict.fromkeys(["weir_bind4", "weir_bind6"], 5_000),
    **dict.fromkeys(["weir_stream", "weir_release", "weir_getsockopt"], 5_000),
    **dict.fromkeys(["weir_hold_in", "weir_hold_out"], 100_000),
    **dict.fromkeys(["weir_meet", "weir_bypass"], 20_000),
    **dict.fromkeys(["weir_dial4", "weir_dial6"], 5_000),
    "weir_relay": 20_000,
    "weir_guard": 5_000,
}
VERIFIED_MAX_OTHERS = 50_000
KIB = 1024
# Bytes of a map as it is without connections.
MEMORY_MAX = {
    "weir_plans": 256 * KIB,
    "weir_plan": 64 * KIB,
    "weir_pending": 4096 * KIB,
    "weir_shares": 256 * KIB,
    "weir_listeners": 2048 * KIB,
    "weir_sockets": 64 * KIB,
    "weir_servers": 64 * KIB,
    "weir_held": 16384 * KIB,
    "weir_unheard": 64 * KIB,
    "weir_calls": 4096 * KIB,
    "weir_callers": 64 * KIB,
    "weir_meetings": 2048 * KIB,
    "weir_bypassed": 4096 * KIB,
    "weir_leaving": 256 * KIB,
    "weir_joins": 4096 * KIB,
    "weir_outlets": 2048 * KIB,
    "weir_ends": 64 * KIB,
    "weir_counts": 64 * KIB,
    "weir_sources": 2048 * KIB,
    "weir_sinks": 2048 * KIB,
    "weir_relays": 4096 * KIB,
    "weir_done": 4096 * KIB,
    "weir_relayed": 64 * KIB,
}
MEMORY_MAX_OTHERS = 64 * KIB


def test_programs_and_maps_stay_within_their_limits(accelerated, lone, weir):
    """(pytest -s prints what they take.)"""
    bypass = open_ids(accelerated.proxy.pid, "prog_id")
    lone.apply("--backend", "ebpf", "--fail", "hold")
    programs = {row["name"]: row for row in ask(weir, "prog", "show")["programs"] if is_pinned(row) or row["id"] in bypass}
    assert set(programs) >= {*CAPTURE, *HOLD, *BYPASS}
    over = []
    for name, row in sorted(programs.items()):
        limit = VERIFIED_MAX.get(name, VERIFIED_MAX_OTHERS)
        print(f"{name:20} {row['verified']:8} of {limit:8} instructions verified, {row['memory']:8} bytes")
        over += [name] if row["verified"] > limit else []
    [plan] = [row["plan"] for row in entries(lone.pod, weir, "weir_plans")]
    mine = {plan, *(number for row in programs.values() for number in row["maps"]), *open_ids(accelerated.proxy.pid, "map_id")}
    maps = [row for row in ask(weir, "map", "show")["maps"] if row["id"] in mine]
    assert {row["name"] for row in maps} >= set(MEMORY_MAX)
    for row in maps:
        limit = MEMORY_MAX.get(row["name"], MEMORY_MAX_OTHERS)
        print(f"{row['name']:20} {row['memory']:8} of {limit:8} bytes, {row['entries']} of {row['max_entries']} entries")
        over += [row["name"]] if row["memory"] > limit else []
    assert over == []


@pytest.mark.parametrize("name", ["outbound", "names", "stream", "lookup", "hold", "storage", "bypass", "relay"])
def test_the_stack_of_older_kernels_is_enough(build_dir, name):
    needed = stack_needed(build_dir / "bpf" / f"{name}.bpf.o")
    assert needed and {function: need for function, need in needed.items() if need > STACK} == {}


# --- when there is nothing, or no right to see it --------------------------------------------------------------------
def test_without_the_privilege(network, weir):
    """One line that says what is needed."""
    pod = network.pod("pod")
    program = shutil.copy(weir, network.folder)  # the build may be in a folder that is not theirs to read
    unprivileged = ["setpriv", "--clear-groups", "--reuid=65534", "--regid=65534"]
    for words in (["prog", "show"], ["map", "show"], ["map", "dump", "weir_plans"]):
        for before in (unprivileged, ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"]):
            failed = pod.run([*before, program, *words, "-j"], check=False)
            assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
            assert "it needs the capability CAP_SYS_ADMIN" in failed.stderr and failed.stdout == ""


ALONE = """
import json, subprocess, sys
from capture import CapturedPod, is_pinned
from netns import Network, own_bpf_file_system

own_bpf_file_system()
weir = sys.argv[1]
with Network() as network:
    app = CapturedPod(network, weir, "app", proxy=False)
    for verb in (["apply", "--backend", "ebpf"], ["remove"], ["apply", "--backend", "ebpf"]):
        app.weir(*verb)
        for what in ("programs", "maps"):
            done = subprocess.run([weir, what[:-1].replace("program", "prog"), "show", "-j"], capture_output=True, check=True)
            print([row["id"] for row in json.loads(done.stdout)[what] if is_pinned(row)], flush=True)
    sys.stdin.read()
"""


AGAIN = """
import json, pathlib, subprocess, sys
from capture import PINS, CapturedPod, is_pinned
from netns import Network, own_bpf_file_system

own_bpf_file_system()
weir, ports = sys.argv[1], iter(range(1, 99))
with Network() as network:
    app = CapturedPod(network, weir, "app", proxy=False)

    def tell(*more):
        app.apply("--backend", "ebpf", "--exclude-outbound-ports", str(next(ports)), *more)
        done = subprocess.run([weir, "prog", "show", "-j"], capture_output=True, check=True)
        rows = [row for row in json.loads(done.stdout)["programs"] if is_pinned(row)]
        print(json.dumps({row["name"]: row["id"] for row in rows}), flush=True)

    tell()
    tell()
    [folder] = PINS.iterdir()
    words = ["map", "update", "pinned", folder / "weir_versions", "key", *"0000", "value", *"1000"]
    subprocess.run(["bpftool", *words], check=True)
    tell()
    (folder / "weir_release").unlink()
    tell()
    tell("--fail", "hold")
    tell("--fail", "hold")
    tell()
"""


def test_programs_are_loaded_once(weir):
    """And again when those that are there are of another version, or not all."""
    words = [sys.executable, "-c", AGAIN, weir]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=pathlib.Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    own = [programs.pop("weir_lookup") for programs in shown]
    first, second, other_version, repaired, held, held_again, released = shown
    assert len(set(own)) == len(own), "the namespace's own knows its ports"
    assert set(first) == set(CAPTURE) - {"weir_lookup"} and first == second
    assert set(other_version) == set(first) and not set(other_version.values()) & set(first.values())
    assert set(repaired) == set(first) and not set(repaired.values()) & set(other_version.values())
    assert set(held) == {*first, *HOLD} and held == held_again
    assert released == repaired == {name: held[name] for name in repaired}


def test_nothing_stays(weir):
    """Neither after `remove`, nor of a test process that is killed, whose BPF file system is its own."""
    mounts = pathlib.Path("/proc/1/mounts").read_text().count(" bpf ")
    words = [sys.executable, "-c", ALONE, weir]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=pathlib.Path(__file__).parent)
    with process:
        there, maps, *removed, again, _ = [json.loads(process.stdout.readline()) for _ in range(6)]
        assert len(there) == len(again) == len(CAPTURE) and len(maps) == len(MAPS) and removed == [[], []]
        assert pathlib.Path("/proc/1/mounts").read_text().count(" bpf ") == mounts
        assert set(again) <= {row["id"] for row in ask(weir, "prog", "show")["programs"]}
        process.kill()
    wait_until(lambda: not set(again) & {row["id"] for row in ask(weir, "prog", "show")["programs"]}, timeout=30)


def test_no_such_map(weir):
    failed = subprocess.run([weir, "map", "dump", "weir_plams"], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("weir: weir has no map 'weir_plams' in the kernel")
    assert subprocess.run([weir, "map", "dump"], capture_output=True).returncode == 2
