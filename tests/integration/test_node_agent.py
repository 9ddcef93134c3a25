# SPDX-License-Identifier: Apache-2.0
"""`weir intercept attend`, the agent of a node, with eBPF: it captures the pods that ask for it and no others, leaves nothing
of those that are gone, and may be killed at any moment. A pod is a network namespace and a control group. (What containers
have to do with it is in test_container.py.)"""

import json
import pathlib
import re
import subprocess
import threading

import pytest

import kubernetes
from capture import PINS, Server, cookie_of, is_pinned, pins_of, probe
from mesh import Mesh
from netns import BPF_FILES, CONTROL_GROUPS, Network, output, wait_until

MANIFEST = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "container" / "node-agent.yaml"
PATIENCE = 60  # seconds, on a machine that has much to do
INTO_GROUP = 'echo $$ >"$0"/cgroup.procs && exec "$@"'
# A container's /proc/sys cannot be written to.
FIXED_SETTINGS = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
# The root of a pod's proxy has a /run of its own, where the agent leaves its mark.
OWN_RUN = 'mount -t tmpfs tmpfs /run && mkdir /run/weir && exec "$@"'
CALL = """
import socket, sys
for _ in range(int(sys.argv[3])):
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).recv(99)
"""


class NodePod:
    """A pod with a proxy that says what is to be captured, or does not."""

    def __init__(self, network, weir, weir_proxy, name, capture=None, config=None, **env):
        self.sidecar = Mesh(network, weir, weir_proxy).sidecar(name, start=False, **(config or {}))
        self.pod = self.sidecar.pod
        self.group = CONTROL_GROUPS / f"{network.prefix}{name}"
        self.group.mkdir()
        argv, start = self.pod._argv, self.pod.start
        self.pod._argv = lambda *words: ["sh", "-c", INTO_GROUP, str(self.group), *argv(*words)]
        self.pod.start = lambda words, **options: start(["sh", "-c", OWN_RUN, "sh", *words], **options)
        self.sidecar.start(env={**env, **({"WEIR_CAPTURE": capture} if capture else {})})
        self.pod.start = start

    def is_marked(self):
        """the agent's mark is in the pod"""
        done = self.pod.run(["nsenter", "-m", "-t", self.sidecar.proxy.pid, "cat", "/run/weir/captured"], check=False)
        return done.stdout.strip().isdigit()

    def call(self, to, count=1):
        """Connections by a program in the pod's control group; how many of them went through the proxy."""
        before = self.captured()
        self.pod.run(["python3", "-c", CALL, to, 80, count], timeout=PATIENCE)
        return self.captured() - before

    def captured(self):
        return self.sidecar.counter("downstream_connections_total")


@pytest.fixture
def pins():
    """A BPF file system that is empty: whatever is there in the end was left."""
    subprocess.run(["mount", "-t", "bpf", "bpf", BPF_FILES], check=True)
    yield PINS
    subprocess.run(["umount", BPF_FILES], check=True)


@pytest.fixture
def agent(network, weir, agents_turn):
    """Starts the agent with what its manifest gives it, another back end apart; each ends with the test at the latest."""
    container = kubernetes.manifest(MANIFEST, "DaemonSet")
    program, *command = container["command"] + container["args"]
    assert program == "/usr/bin/weir"
    started = []

    def start(backend="ebpf"):
        words = ["sh", "-c", FIXED_SETTINGS, "sh", *kubernetes.confined(container), weir, *(word.replace("=ebpf", f"={backend}") for word in command)]
        started.append(network.hub.start(words, ready=output("looking for proxies"), timeout=PATIENCE))
        return started[-1]

    yield start
    for daemon in started:
        daemon.kill()


@pytest.fixture
def other(network):
    pod = network.pod("other")
    Server(pod, 80, "other")
    return pod


def loaded(weir, kind):
    """The numbers of what is pinned, and the pins."""
    done = subprocess.run([weir, kind, "show", "-j"], capture_output=True, check=True, timeout=PATIENCE)
    [rows] = json.loads(done.stdout).values()
    return {row["id"]: row["pin"] for row in rows if is_pinned(row)}


def all_numbers(weir):
    """Of all programs and maps of weir on this machine."""
    done = [subprocess.run([weir, kind, "show", "-j"], capture_output=True, check=True).stdout for kind in ("prog", "map")]
    return {(kind, row["id"]) for kind, text in zip(("prog", "map"), done) for row in next(iter(json.loads(text).values()))}


def own_numbers(weir):
    return {(kind, number) for kind in ("prog", "map") for number in loaded(weir, kind)}


# The capabilities of the manifest, and no others: BPF, DAC_OVERRIDE, NET_ADMIN, NET_RAW, PERFMON, SYS_ADMIN, SYS_PTRACE, and
# SYS_RESOURCE, which is not even root's everywhere.
CAPABILITIES = sum(1 << number for number in (39, 1, 12, 13, 38, 21, 19, 24))


def capabilities(pid):
    """Those that a process has, and those that it could ever get."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {int(found, 16) for found in re.findall(r"Cap(?:Eff|Bnd):\t(\w+)\n", status)}


@pytest.mark.parametrize("backend", ["ebpf", "nft"])
def test_it_captures_the_pods_that_ask_for_it(network, weir, weir_proxy, other, agent, pins, backend):
    asks = NodePod(network, weir, weir_proxy, "asks", "--exclude-outbound-ports=81")
    silent = NodePod(network, weir, weir_proxy, "silent")
    assert capabilities(agent(backend).pid) == {CAPABILITIES & min(capabilities("self"))}
    wait_until(asks.is_marked, PATIENCE)
    assert asks.call(other.ipv4) == 1 and silent.call(other.ipv4) == 0
    shown = json.loads(asks.sidecar.weir("intercept", "show", "-j").stdout)
    assert (shown["backend"], shown["altered"]) == (backend, False)
    assert not json.loads(silent.sidecar.weir("intercept", "show", "-j").stdout)["installed"]
    assert len(pins_of(cookie_of(asks.pod))) == (backend == "ebpf") and pins_of(cookie_of(silent.pod)) == []
    # From other hosts as well.
    Server(asks.pod, 80, "asks")
    Server(silent.pod, 80, "silent")
    before = asks.captured(), silent.captured()
    assert probe(other, asks.pod.ipv4, 80).startswith("asks ") and probe(other, silent.pod.ipv4, 80).startswith("silent ")
    assert (asks.captured(), silent.captured()) == (before[0] + 1, before[1])


@pytest.mark.parametrize(
    "backend, reason", [("ebpf", "eBPF programs cannot be"), ("nft", "cannot read the rules"), ("auto", "nft: cannot read the rules")]
)
def test_a_node_that_does_not_allow_it(network, weir, backend, reason):
    """The agent does not wait for pods that it could not capture."""
    container = kubernetes.manifest(MANIFEST, "DaemonSet")
    container["securityContext"]["capabilities"].pop("add")
    words = [*kubernetes.confined(container), weir, "intercept", "attend", f"--backend={backend}"]
    done = network.hub.run(words, check=False, timeout=PATIENCE)
    assert done.returncode == 1 and done.stderr.startswith(f"weir: pods cannot be captured on this node: {reason}"), done.stderr


@pytest.mark.parametrize("backend", ["ebpf", "nft"])
def test_applications_may_see_their_clients(network, weir, weir_proxy, other, agent, pins, backend):
    """What the rules of nft want set, the pod has to have by itself."""
    capture = {"intercept": {"capture": {"inbound_source": "client"}}}
    asks, daemon = NodePod(network, weir, weir_proxy, "asks", "--inbound-source=client", capture), agent(backend)
    if backend == "nft":
        wait_until(lambda: "net.ipv4.tcp_fwmark_accept=1" in daemon.output(), PATIENCE)
        for name in ("ipv4.tcp_fwmark_accept", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect"):
            asks.pod.run(["sysctl", "-qw", f"net.{name}=1"])
    wait_until(asks.is_marked, PATIENCE)
    Server(asks.pod, 8080, "app")
    assert probe(other, asks.pod.ipv4, 8080).startswith(f"app {other.ipv4}:")
    assert asks.captured() == 1


def test_a_large_environment(network, weir, weir_proxy, other, agent, pins):
    """A pod is given variables for each service of its namespace."""
    services = {f"SERVICE_{i}_PORT_80_TCP": f"tcp://10.96.100.100:80,WEIR_CAPTURE={'-' * 40}" for i in range(9000)}
    asks = NodePod(network, weir, weir_proxy, "asks", "--fail=open --exclude-outbound-ports=81", **services)
    environment = pathlib.Path(f"/proc/{asks.sidecar.proxy.pid}/environ").read_bytes()
    assert len(environment) > 512 * 1024
    agent()
    wait_until(asks.is_marked, PATIENCE)
    assert asks.call(other.ipv4) == 1
    rules = json.loads(asks.sidecar.weir("intercept", "show", "-j").stdout)["rules"]
    assert "excluded port" in [rule["purpose"] for rule in rules]


def test_pods_that_are_gone_leave_nothing(network, weir, weir_proxy, other, agent, pins):
    stays = NodePod(network, weir, weir_proxy, "stays", "--fail=open")
    agent()
    wait_until(stays.is_marked, PATIENCE)
    names, count = {path.name for path in pins.glob("*/*")}, len(own_numbers(weir))
    with Network() as brief:
        goes = NodePod(brief, weir, weir_proxy, "goes", "--fail=open")
        wait_until(goes.is_marked, PATIENCE)
        cookie = cookie_of(goes.pod)
        assert {path.name for path in pins.glob("*/*")} == names | {f"netns-{cookie}"}
        [program] = [number for number, pin in loaded(weir, "prog").items() if pin.endswith(f"/netns-{cookie}")]
        [plans] = [number for number, pin in loaded(weir, "map").items() if pin.endswith("/weir_plans")]
        done = subprocess.run([weir, "map", "dump", str(plans), "-j"], capture_output=True, check=True)
        [plan] = [row["plan"] for row in json.loads(done.stdout)["entries"] if row["cookie"] == cookie]
        assert {("prog", program), ("map", plan)} <= all_numbers(weir)
    wait_until(lambda: pins_of(cookie) == [], PATIENCE)
    wait_until(lambda: not all_numbers(weir) & {("prog", program), ("map", plan)}, PATIENCE)
    assert {path.name for path in pins.glob("*/*")} == names and len(own_numbers(weir)) == count
    assert stays.call(other.ipv4) == 1


def test_the_last_pod_takes_all_of_it_along(network, weir, weir_proxy, agent, pins):
    with Network() as brief:
        goes = NodePod(brief, weir, weir_proxy, "goes", "--fail=open")
        agent()
        wait_until(goes.is_marked, PATIENCE)
        numbers = own_numbers(weir)
        assert len(numbers) > 10
    wait_until(lambda: not pins.exists(), PATIENCE)
    wait_until(lambda: not all_numbers(weir) & numbers, PATIENCE)


def test_what_pods_leave_while_nobody_attends_is_removed(network, weir, weir_proxy, agent, pins):
    with Network() as brief:
        goes = NodePod(brief, weir, weir_proxy, "goes", "--fail=open")
        first = agent()
        wait_until(goes.is_marked, PATIENCE)
        assert first.kill() == -9
    assert pins.exists()
    agent()
    wait_until(lambda: not pins.exists(), PATIENCE)


def test_another_agent_takes_over_without_a_gap(network, weir, weir_proxy, other, agent, pins):
    asks = NodePod(network, weir, weir_proxy, "asks", "--fail=open")
    first = agent()
    wait_until(asks.is_marked, PATIENCE)
    numbers, counts, done = own_numbers(weir), [0, 0], threading.Event()

    def call():
        while not done.is_set():
            counts[0] += 5
            counts[1] += asks.call(other.ipv4, 5)

    calling = threading.Thread(target=call)
    calling.start()
    assert first.kill() == -9
    second = agent()
    wait_until(lambda: "a pod was captured already" in second.output(), PATIENCE)
    done.set()
    calling.join()
    assert counts[0] == counts[1] > 0, "all of them were captured"
    assert own_numbers(weir) == numbers, "it has installed nothing anew"


@pytest.mark.parametrize("count", [1, 6, 14])
def test_killed_while_it_installs(network, weir, weir_proxy, other, agent, pins, count):
    """When that many pins are there: the next one finishes, and nothing is there twice."""
    first = agent()
    asks = NodePod(network, weir, weir_proxy, "asks", "--fail=open")
    wait_until(lambda: len(list(pins.glob("*/*"))) >= count, PATIENCE)
    assert first.kill() == -9
    agent()
    wait_until(asks.is_marked, PATIENCE)
    assert asks.call(other.ipv4) == 1
    names = sorted(path.name for path in pins.glob("*/*"))
    assert names == sorted({*names}) and f"netns-{cookie_of(asks.pod)}" in names
    pinned = set(loaded(weir, "prog").values()) | set(loaded(weir, "map").values())
    assert {str(path) for path in pins.glob("*/*")} == pinned, "each pin is of something, and known"
    asks.sidecar.weir("intercept", "remove")
    assert not pins.exists()
