# SPDX-License-Identifier: Apache-2.0
"""What is particular to the eBPF back end; what it has in common with the others is in test_backends.py."""

import contextlib
import errno
import ipaddress
import itertools
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest

from capture import PINS, CapturedPod, Server, bpftool, cookie_of, header_of, name_of, original_destination, pins_of, probe, stand_in, state
from holders import hold
from mesh import Mesh, cluster, service
from netns import Network, wait_until

EBPF = ["--backend", "ebpf"]
INTERFACES = ["--exclude-outbound-interfaces", "eth9"]

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def ip_of(pod, family):
    return pod.ipv6 if family == 6 else pod.ipv4


def on_their_way(pod):
    """Entries of connections that were redirected, and about which nobody has asked yet."""
    count, cookie = 0, cookie_of(pod)
    for path in PINS.glob("*/weir_pending"):
        dump = subprocess.run(["bpftool", "-j", "map", "dump", "pinned", path], capture_output=True, check=True)
        count += sum(entry["formatted"]["key"]["netns"] == cookie for entry in json.loads(dump.stdout))
    return count


@pytest.fixture
def other(network):
    pod = network.pod("other")
    for address in ("0.0.0.0", "::"):
        Server(pod, 80, "other", address)
        Server(pod, 53, "other", address, udp=True)
    return pod


@pytest.fixture
def lone(network, weir):
    """A pod without a proxy."""
    return CapturedPod(network, weir, "app", proxy=False)


def test_addresses_that_stand_for_others_are_this_hosts_alone(lone, other):
    """Who sends to one from elsewhere does not pass the rules by."""
    Server(lone.pod, 80, "app", "::")
    lone.apply(*EBPF)
    other.ip(f"route add fd77:65:6972:7f::/64 via {lone.ipv6}")
    assert not probe(other, "fd77:65:6972:7f::5", 80).startswith("app ")
    assert not probe(other, lone.ipv6, 80).startswith("app ")
    lone.weir("remove")
    assert probe(other, lone.ipv6, 80).startswith("app ")


# --- the proxy's absence ---------------------------------------------------------------------------------------------
@families
def test_open_lets_through_while_nobody_listens(lone, other, family):
    for address in ("0.0.0.0", "::"):
        Server(lone.pod, 80, "app", address)
    lone.apply(*EBPF, "--fail", "open")
    assert probe(lone, ip_of(other, family), 80).startswith("other ")
    assert probe(other, ip_of(lone.pod, family), 80).startswith("app ")
    servers = stand_in(lone)
    assert probe(lone, ip_of(other, family), 80) == f"outbound {name_of(ip_of(other, family), 80)}"
    assert probe(other, ip_of(lone.pod, family), 80) == f"inbound {name_of(ip_of(lone.pod, family), 80)}"
    for server in servers:
        server.close()
    assert probe(lone, ip_of(other, family), 80).startswith("other ")
    assert probe(other, ip_of(lone.pod, family), 80).startswith("app ")


def test_open_lets_mapped_addresses_and_queries_through(lone, other):
    mapped = f"::ffff:{other.ipv4}"
    servers = (other.ipv4, other.ipv6, mapped)
    lone.apply(*EBPF, "--fail", "open")
    assert probe(lone, mapped, 80).startswith("other ")
    assert [probe(lone, server, 53, udp=True) for server in servers] == ["other"] * 3
    listeners = stand_in(lone)
    assert probe(lone, mapped, 80) == f"outbound {name_of(other.ipv4, 80)}"
    assert [probe(lone, server, 53, udp=True) for server in servers] == ["dns"] * 3
    for listener in listeners:
        listener.close()
    assert probe(lone, mapped, 80).startswith("other ")
    assert [probe(lone, server, 53, udp=True) for server in servers] == ["other"] * 3


@families
def test_closed_refuses_and_leaves_nothing(lone, other, family):
    lone.apply(*EBPF)
    for _ in range(20):
        assert probe(lone, ip_of(other, family), 80) == "refused"
    assert probe(other, ip_of(lone.pod, family), 80) == "refused"
    assert on_their_way(lone.pod) == 0


def test_the_policy_can_be_changed(lone):
    assert lone.apply(*EBPF) == "interception: installed\n"
    assert lone.apply(*EBPF, "--fail", "open") == "interception: installed\n"
    assert lone.apply(*EBPF, "--fail", "open") == "interception: unchanged\n"
    assert lone.show()["fail"] == "open"


@families
def test_open_when_the_proxy_is_killed_under_load(network, weir, weir_proxy, other, family):
    mesh = Mesh(network, weir, weir_proxy)
    sidecar = mesh.sidecar("app", start=False)
    sidecar.start()
    Server(sidecar.pod, 80, "app", "::" if family == 6 else "0.0.0.0")
    sidecar.pod.run([weir, "intercept", "apply", *EBPF, "--fail", "open"])
    assert probe(sidecar.pod, ip_of(other, family), 80).startswith("other ")
    assert sidecar.counter("downstream_connections_total") == 1
    done, ends = threading.Event(), set()

    def load():
        while not done.is_set():
            try:
                ends.add(probe(sidecar.pod, ip_of(other, family), 80).split()[0] or "cut")
            except (ConnectionResetError, IndexError):
                ends.add("cut")

    loaders = [threading.Thread(target=load) for _ in range(2)]
    for loader in loaders:
        loader.start()
    assert sidecar.proxy.kill() == -9
    for _ in range(5):
        assert probe(sidecar.pod, ip_of(other, family), 80).startswith("other ")
        assert probe(other, ip_of(sidecar.pod, family), 80).startswith("app ")
    done.set()
    for loader in loaders:
        loader.join()
    assert ends <= {"other", "refused", "cut"}, "nobody is left hanging"
    assert on_their_way(sidecar.pod) == 0


# --- connections -----------------------------------------------------------------------------------------------------
HELD = 30000


def held(pod):
    """Connections that its proxy has accepted and that are open."""
    return len(pod.pod.run(["ss", "-Htn", "state", "established", "sport", "=", "15001"]).stdout.splitlines())


@families
def test_more_connections_than_ports(lone, other, family):
    """To one place: each goes to an address of its own, so that source ports serve several of them."""
    lone.pod.sysctl("net.ipv4.ip_local_port_range", "32768 60999")
    lone.apply(*EBPF)
    assert hold(lone, ip_of(other, family), HELD).output() == f"held {HELD}\n"
    assert held(lone) == HELD > 60999 - 32768 + 1
    assert on_their_way(lone.pod) == 0


@families
def test_no_more_connections_than_ports_where_all_go_to_one_address(lone, other, family):
    lone.pod.sysctl("net.ipv4.ip_local_port_range", "40000 43999")
    lone.apply("--backend", "nft")
    assert hold(lone, ip_of(other, family), HELD).output() == "held 4000 EADDRNOTAVAIL\n"
    assert held(lone) == 4000


@families
def test_a_proxy_that_comes_later_is_found(lone, other, family):
    lone.apply(*EBPF)
    for _ in range(2):
        servers = stand_in(lone)
        assert probe(lone, ip_of(other, family), 80).startswith("outbound ")
        assert probe(other, ip_of(lone.pod, family), 80).startswith("inbound ")
        for server in servers:
            server.close()


@families
def test_who_chooses_an_interface_hears_that_the_proxy_is_not_there(lone, other, family):
    def call():
        with lone.enter(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            sock.settimeout(30)
            sock.connect((ip_of(other, family), 80))
            return sock.recv(99).split()[0]

    lone.apply(*EBPF)
    with pytest.raises(OSError) as refused:
        call()
    assert refused.value.errno == errno.ENETUNREACH
    lone.apply(*EBPF, "--fail", "open")
    assert call() == b"other"


FIREWALL = "table inet theirs { chain c { type filter hook input priority 0; ct state established counter; }; }"


def tracked(pod):
    """What the kernel tracks of TCP: by where each comes from and goes to, and whether the way back is the same."""
    with pod.enter(), open("/proc/thread-self/net/nf_conntrack") as table:
        rows = [re.findall(r"(?:src|dst|sport|dport)=(\S+)", line) for line in table if " tcp " in line]
    ends = {tuple(str(ipaddress.ip_address(ip)) for ip in row[:2]) + (int(row[3]),): row for row in rows}
    return {key: row[4:8] == [row[1], row[0], row[3], row[2]] for key, row in ends.items()}


@families
def test_nothing_is_tracked_or_translated(lone, other, family):
    """Unless somebody else wants it tracked: then a connection is what its packets say."""
    stand_in(lone)
    lone.apply(*EBPF)
    ours, theirs = ip_of(lone.pod, family), ip_of(other, family)

    def connect():
        assert probe(lone, theirs, 80) == f"outbound {name_of(theirs, 80)}"
        assert probe(other, ours, 80) == f"inbound {name_of(ours, 80)}"
        return tracked(lone.pod)

    assert connect() == {}
    lone.pod.run(["nft", FIREWALL])
    found = connect()
    assert found.pop((theirs, ours, 80)) is True
    [((_, redirect, port), unchanged)] = found.items()
    assert (redirect.startswith("127." if family == 4 else "fd77:"), port, unchanged) == (True, 15001, True)


# --- how many are on their way ---------------------------------------------------------------------------------------
SHARE = 8192  # of one pod


@contextlib.contextmanager
def many_files(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), max(hard, count)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def entry_of(pod, weir, name):
    rows = json.loads(pod.run([weir, "map", "dump", name, "-j"]).stdout)["entries"]
    [row] = [row for row in rows if row["cookie"] == cookie_of(pod)]
    return row


def test_nobody_takes_the_places_of_others(network, weir, lone, other):
    """Sockets whose connection has failed and that are kept."""
    near = CapturedPod(network, weir, "near")
    near.apply(*EBPF)
    lone.apply(*EBPF)
    with contextlib.ExitStack() as stack, many_files(SHARE + 1000):

        def attempt():
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                sock.connect((other.ipv4, 80))
            return sock

        with lone.enter():
            first = [attempt() for _ in range(SHARE)][0]
        assert entry_of(lone.pod, weir, "weir_shares")["pending"] == SHARE
        with pytest.raises(BlockingIOError) as full:
            probe(lone, other.ipv4, 80)
        assert full.value.errno == errno.EAGAIN and entry_of(lone.pod, weir, "weir_plans")["refused_full"] == 1
        assert probe(near, other.ipv4, 80) == f"outbound {other.ipv4}:80"
        first.close()
        assert probe(lone, other.ipv4, 80) == "refused"
        with lone.enter():
            attempt()
        # Who would rather have connections than have them captured, has them.
        stand_in(lone)
        lone.apply(*EBPF, "--fail", "open")
        assert probe(lone, other.ipv4, 80).startswith("other ") and entry_of(lone.pod, weir, "weir_plans")["refused_full"] == 1
    assert on_their_way(lone.pod) == entry_of(lone.pod, weir, "weir_shares")["pending"] == 0
    assert probe(lone, other.ipv4, 80) == f"outbound {other.ipv4}:80"


@families
def test_a_socket_that_connects_anew_takes_no_second_place(weir, lone, other, family):
    lone.apply(*EBPF)
    with lone.enter(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET) as sock:
        for _ in range(3):
            assert sock.connect_ex((ip_of(other, family), 80)) == errno.ECONNREFUSED
            assert on_their_way(lone.pod) == entry_of(lone.pod, weir, "weir_shares")["pending"] == 1
    assert on_their_way(lone.pod) == entry_of(lone.pod, weir, "weir_shares")["pending"] == 0


# --- queries by an interface -----------------------------------------------------------------------------------------
IP_PKTINFO, IP_FREEBIND, IP_UNICAST_IF, IPV6_UNICAST_IF, IPV6_FREEBIND = 8, 15, 50, 76, 78


class Asker:
    """A UDP socket that has chosen eth0. family: "mapped" for IPv4 on a socket of IPv6. source: its address, the pod's unless
    it is given (and then perhaps nobody's)."""

    def __init__(self, pod, family, choice, source=None):
        with pod.enter():
            self.socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            self.index = socket.if_nametoindex("eth0")
        self.socket.settimeout(30)
        self.source, self.note = source or ip_of(pod, family), []
        if source:
            self.socket.setsockopt(*((socket.IPPROTO_IP, IP_FREEBIND) if family == 4 else (socket.IPPROTO_IPV6, IPV6_FREEBIND)), 1)
        getattr(self, choice)(family)

    def unicast_if(self, family):
        level, option = (socket.IPPROTO_IPV6, IPV6_UNICAST_IF) if family == 6 else (socket.IPPROTO_IP, IP_UNICAST_IF)
        self.socket.setsockopt(level, option, struct.pack("!I", self.index))

    def unicast_if_and_source(self, family):
        self.unicast_if(family)
        self.socket.bind((self.source, 0))

    def device(self, family):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")

    def device_and_source(self, family):
        self.device(family)
        self.socket.bind((self.source, 0))

    def note_of(self, family, source):
        if family == 4:
            return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4x", self.index, socket.inet_aton(source)))]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, source) + struct.pack("=I", self.index))]

    def datagram(self, family):
        self.note = self.note_of(family, "::" if family == 6 else "0.0.0.0")

    def datagram_and_source(self, family):
        self.note = self.note_of(family, self.source)

    def sticky(self, family):
        assert family == 6
        self.socket.setsockopt(*self.note_of(family, "::")[0])

    def send(self, server, connected, text=b"?"):
        if connected:
            self.socket.connect((server, 53))
            assert self.socket.getpeername()[:2] == (server, 53)
            self.socket.sendmsg([text], self.note)
        else:
            self.socket.sendmsg([text], self.note, 0, (server, 53))

    def receive(self, server):
        answer, source = self.socket.recvfrom(512)
        assert source[:2] == (server, 53)
        return answer

    def ask(self, server, connected, text=b"?"):
        self.send(server, connected, text)
        return self.receive(server)


def modes(choice):
    """Whether the socket is connected. (A note with a datagram on a connected socket chooses anew, which no hook sees.)"""
    return [False] if choice.startswith("datagram") else [False, True]


WITH_SOURCE = ["device_and_source", "unicast_if_and_source", "datagram_and_source"]
CHOICES = [*itertools.product([4, 6], ["device", "unicast_if", "datagram", *WITH_SOURCE]), (6, "sticky")]


@pytest.mark.parametrize("family, choice", CHOICES)
def test_queries_by_an_interface_are_answered(lone, network, other, family, choice):
    servers = stand_in(lone)
    lone.apply(*EBPF, "--fail", "open")
    second = network.pod("second")
    for connected in modes(choice):
        asker = Asker(lone, family, choice)
        for server in (other, second):
            assert asker.ask(ip_of(server, family), connected) == b"dns"
    for server in servers:
        server.close()
    assert Asker(lone, family, choice).ask(ip_of(other, family), False) == b"other"


def written(family, address):
    return f"::ffff:{address}" if family == "mapped" else address


@pytest.mark.parametrize("choice", WITH_SOURCE)
@pytest.mark.parametrize("family", [4, 6, "mapped"])
def test_queries_from_addresses_that_the_interface_does_not_have(lone, other, family, choice):
    """What the kernel would send out is refused: to another interface's address, too, unless it gives that to this host
    whichever interface was chosen, as with IPv6 on sockets that are not bound to one. An address of IPv6 is nobody's until
    there is a route to it: as long as it may be another host's, unless that is not waited for."""
    stand_in(lone)
    lone.apply(*EBPF)
    lone.pod.ip("link add eth1 type veth peer name eth2", "link set eth2 up", "link set eth1 up")
    elsewhere, nobodys, loopback = ("fd99::1", "fd99::2", "::1") if family == 6 else ("10.99.0.1", "10.99.0.2", "127.0.0.1")
    lone.pod.ip(f"addr add {elsewhere}/{64 if family == 6 else 24} dev eth1")
    server = written(family, ip_of(other, family))
    lenient = family == 6 and choice != "device_and_source"
    refused, answered = [nobodys, loopback], []
    (answered if lenient else refused).append(elsewhere)
    if family == 6:
        lone.pod.sysctl("net.ipv6.conf.eth0.accept_dad", 1)
        lone.pod.sysctl("net.ipv6.conf.eth0.optimistic_dad", 1)
        lone.pod.sysctl("net.ipv6.conf.eth0.dad_transmits", 3600)  # of which there is one a second
        lone.pod.ip("addr add fd00:77::97/64 dev eth0 nodad", "addr add fd00:77::98/64 dev eth0", "addr add fd00:77::99/64 dev eth0 optimistic")
        lone.pod.wait_for_ipv6(elsewhere, "fd00:77::97", "fd00:77::99")
        lone.pod.ip("route del local fd00:77::97 dev eth0 table local")  # as before it is there
        refused += ["fd00:77::97", "fd00:77::98"]
        answered.append("fd00:77::99")
    if family == 6 and choice == "datagram_and_source":
        refused.append(lone.pod.link_local("eth1"))
        answered.append(lone.pod.link_local("eth0"))
    for source, connected in itertools.product(refused, modes(choice)):
        with pytest.raises(OSError) as error:
            Asker(lone, family, choice, written(family, source)).send(server, connected)
        assert error.value.errno == errno.ENETUNREACH, source
    for source, connected in itertools.product(answered, modes(choice)):
        assert Asker(lone, family, choice, source).ask(server, connected) == b"dns", source


def query_for(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


@pytest.mark.parametrize("choice", WITH_SOURCE)
@pytest.mark.parametrize("family", [4, 6, "mapped"])
def test_queries_from_a_second_address(network, weir, weir_proxy, other, family, choice):
    """Answers have the address that was asked, whether at once, together or from upstream."""
    mesh = Mesh(network, weir, weir_proxy, EBPF)
    dns = {"upstream": [f"{other.ipv4}:53"]}
    sidecar = mesh.sidecar("app", services=[service("web.mesh", 80, "web")], clusters=[cluster("web", [f"{other.ipv4}:80"])], dns=dns)
    sidecar.pod.address("fd00:77::99/64")
    sidecar.pod.address("10.77.0.99/24")
    second = written(family, "fd00:77::99" if family == 6 else "10.77.0.99")
    server = written(family, ip_of(other, family))
    for connected in modes(choice):
        asker, own, foreign = Asker(sidecar.pod, family, choice, second), query_for("web.mesh"), query_for(f"{connected}.example")
        answer = asker.ask(server, connected, own)
        assert (answer[:2], answer[3] & 15, answer[7]) == (b"\0\1", 0, 1)
        assert asker.ask(server, connected, foreign) == foreign[:2] + b"\x81\x80" + foreign[4:]
        with sidecar.stopped():
            for _ in range(3):
                asker.send(server, connected, own)
        assert [asker.receive(server) for _ in range(3)] == [answer] * 3


def forged(address, port, payload):
    """A datagram of IPv6 from the address to itself."""
    ip = socket.inet_pton(socket.AF_INET6, address)
    length = 8 + len(payload)
    words = ip + ip + struct.pack("!IIHHHH", length, socket.IPPROTO_UDP, 5353, port, length, 0) + payload + b"\0" * (length % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + ip + ip
    return head + struct.pack("!HHHH", 5353, port, length, ~total & 0xFFFF or 0xFFFF) + payload


@families
def test_only_this_host_gets_answers_at_its_address(network, weir, weir_proxy, other, family):
    mesh = Mesh(network, weir, weir_proxy, EBPF)
    sidecar = mesh.sidecar("app", services=[service("web.mesh", 80, "web")], clusters=[cluster("web", [f"{other.ipv4}:80"])])
    query = query_for("web.mesh")

    def refused():
        with sidecar.pod.enter(), open("/proc/thread-self/net/udp6" if family == 6 else "/proc/thread-self/net/udp") as table:
            rows = [line.split() for line in table]
        anywhere = f"{0:0{32 if family == 6 else 8}X}:{15053:X}"
        return sum(int(row[-1]) for row in rows if row[1] == anywhere)

    answer = Asker(sidecar.pod, family, "unicast_if").ask(ip_of(other, family), True, query)
    assert answer[:2] == b"\0\1" and answer[3] & 15 == 0 and answer[7] == 1
    asked, before = sidecar.counter("dns_queries_total"), refused()
    with other.enter(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(query, (ip_of(sidecar.pod, family), 15053))
    wait_until(lambda: refused() == before + 1)
    if family == 6:  # of IPv4 the kernel refuses what comes from outside in this host's name
        with other.enter(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(forged(sidecar.pod.ipv6, 15053, query), (sidecar.pod.ipv6, 0))
        wait_until(lambda: refused() == before + 2)
    assert sidecar.counter("dns_queries_total") == asked


def test_what_mptcp_leaves_is_cleaned_away(lone, other):
    """Its program has one socket, and the connection another one."""
    lone.apply(*EBPF)
    for _ in range(3):
        with lone.enter(), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as sock:
            with pytest.raises(ConnectionRefusedError):
                sock.connect((other.ipv4, 80))
    wait_until(lambda: on_their_way(lone.pod) == 0)


# --- routes ----------------------------------------------------------------------------------------------------------
def outcome(pod, address):
    try:
        return probe(pod, address, 80)
    except OSError as error:
        return errno.errorcode[error.errno]


def network_of(number, length, family):
    """The network of a length in which an address is, as text."""
    bits = 128 if family == 6 else 32
    base = number >> (bits - length) << (bits - length)
    return f"{ipaddress.ip_address(base.to_bytes(bits // 8, 'big'))}/{length}"


@pytest.mark.parametrize("default_route", [True, False], ids=["default", "no default"])
@families
def test_only_what_has_a_route_is_captured(network, weir, family, default_route):
    """Routes of all kinds and lengths within each other: what becomes of a connection is as with nft, which sees only what
    the kernel has let through."""
    app, chance = CapturedPod(network, weir, "app", default_route=default_route), random.Random(family)
    bits, root, shortest = (128, 0x20010DB8 << 96, 32) if family == 6 else (32, 0xC6120000, 15)
    kinds = ["unreachable", "prohibit", "blackhole", "throw", "local", "unicast", "unicast"]
    routes, addresses = {}, []
    for _ in range(60):
        address, kind = root | chance.getrandbits(bits - shortest), chance.choice(kinds)
        target = network_of(address, chance.randint(shortest, bits), family)
        routes[target] = f"{kind} {target} dev {'lo' if kind == 'local' else 'eth0'}" if kind in ("local", "unicast") else f"{kind} {target}"
        # Within it, beside it, and anywhere.
        near = address ^ 1 << chance.randrange(bits // 2)
        addresses += [str(ipaddress.ip_address(number.to_bytes(bits // 8, "big"))) for number in (address, near)]
    app.pod.ip(*(f"route add {route}" for route in routes.values()))
    addresses += ["192.0.2.1", "255.255.255.255", "224.0.0.5", "10.77.0.255", "0.0.0.0"] if family == 4 else ["2001:db9::1", "ff02::1", "ff0e::1", "::"]
    found = {}
    for backend in ("nft", "ebpf"):
        app.apply("--backend", backend)
        found[backend] = {address: outcome(app, address) for address in addresses}
    assert found["ebpf"] == found["nft"]
    assert {"unreachable", "refused", "EACCES", "EINVAL"} < set(found["nft"].values())
    assert any(result.startswith("outbound ") for result in found["nft"].values())


@families
@pytest.mark.parametrize("refused", [False, True], ids=["no-route", "refused"])
def test_where_rules_decide_on_routes_all_is_captured(lone, other, family, refused):
    """Who would have to go through them all cannot know."""
    target, own, gateway = {4: ("192.0.2.1", lone.ipv4, other.ipv4), 6: ("2001:db8:7::1", lone.ipv6, other.ipv6)}[family]
    captured = f"outbound {target}:80" if family == 4 else f"outbound [{target}]:80"
    stand_in(lone)
    lone.apply(*EBPF)
    lone.pod.run(["ip", f"-{family}", "route", "del", "default"])
    if refused:
        lone.pod.ip(f"route add unreachable {target}")
    assert probe(lone, target, 80) == "unreachable"
    lone.pod.ip(f"route add default via {gateway} table 77")
    lone.pod.run(["ip", f"-{family}", "rule", "add", "from", own, "lookup", "77"])
    # With IPv6, the kernel looks again with an address of its choice if it finds no route without one.
    assert probe(lone, target, 80) == (captured if family == 6 else "unreachable")
    with lone.enter(), socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6) as sock:
        sock.settimeout(30)
        sock.bind((own, 0))
        sock.connect((target, 80))
    lone.pod.run(["ip", f"-{family}", "rule", "add", "lookup", "77"])
    assert probe(lone, target, 80) == captured


def test_a_route_for_a_kind_of_service_decides_nothing(lone):
    """It is for other sockets."""
    stand_in(lone)
    lone.apply(*EBPF)
    lone.pod.ip("route add unreachable 198.51.100.0/24 tos 0x10", "route add unreachable 203.0.113.0/24")
    assert probe(lone, "198.51.100.7", 80) == "outbound 198.51.100.7:80"
    assert probe(lone, "203.0.113.7", 80) == "unreachable"


# --- coming and going ------------------------------------------------------------------------------------------------
KEEPS_BACK = "table inet back { chain out { type filter hook output priority 0; oif lo tcp flags & (syn|ack) == syn drop; }; }"


@contextlib.contextmanager
def on_the_way(pod, addresses):
    """Connections between connect() and the proxy, as long as the block runs. After it, the kernel tries them again."""
    pod.run(["nft", KEEPS_BACK])
    sockets = []
    with pod.enter():
        for address in addresses:
            sockets.append(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
            sockets[-1].setblocking(False)
            assert sockets[-1].connect_ex((address, 80)) == errno.EINPROGRESS
    assert on_their_way(pod) == len(addresses)
    yield sockets
    pod.run(["nft", "delete table inet back"])
    for sock in sockets:
        sock.settimeout(30)


def stop_in(call, argv, log):
    """Starts a program that stops as soon as it has made the system call: the tracer, and the program's number."""
    words = ["strace", "-f", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:signal=STOP:when=1", *argv]
    tracer = subprocess.Popen(words, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})  # it cannot look while it is traced
    wait_until(lambda: tracer.poll() is not None or (log.exists() and "stopped by SIGSTOP" in log.read_text()))
    return tracer, int(log.read_text().split()[0])


@pytest.mark.parametrize("open_ones", [[], ["--leave-open"]], ids=["all", "leave-open"])
def test_what_is_on_the_way_when_it_is_removed_arrives(lone, other, tmp_path, open_ones):
    """From now on connections go directly; the way to the proxy ends behind the last one that was sent there."""
    stand_in(lone)
    lone.apply(*EBPF)
    with on_the_way(lone.pod, [other.ipv4, other.ipv6]) as sockets, lone.enter():
        words = [lone.path, "intercept", "remove", *open_ones]
        tracer, pid = stop_in("clock_nanosleep", words, tmp_path / "trace")
        assert header_of(lone.pod) is None
    assert [sock.recv(100).decode() for sock in sockets] == [f"outbound {name_of(ip, 80)}" for ip in (other.ipv4, other.ipv6)]
    assert probe(lone, other.ipv4, 80).startswith("other ")
    os.kill(pid, signal.SIGCONT)
    assert tracer.wait() == 0
    assert pins_of(cookie_of(lone.pod)) == []


@families
def test_what_the_proxy_has_not_taken_when_it_is_removed(lone, other, tmp_path, family):
    """It is open for its client: the proxy can still ask where it was going."""
    lone.apply(*EBPF)
    with lone.enter():
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        listener = socket.create_server(("::1" if family == 6 else "127.0.0.1", 15001), family=kind)
        with listener, socket.create_connection((ip_of(other, family), 80)):
            words = [lone.path, "intercept", "remove", "--leave-open"]
            tracer, pid = stop_in("clock_nanosleep", words, tmp_path / "trace")
            assert header_of(lone.pod) is None
            with listener.accept()[0] as accepted:
                assert original_destination(accepted) == name_of(ip_of(other, family), 80)
                os.kill(pid, signal.SIGCONT)
                assert tracer.wait() == 0
    assert pins_of(cookie_of(lone.pod)) == []


def test_removal_does_not_wait_for_what_never_arrives(lone, other):
    lone.apply(*EBPF)
    with on_the_way(lone.pod, [other.ipv4]):
        assert lone.weir("remove").stdout == "interception: removed\n"
        assert pins_of(cookie_of(lone.pod)) == []


def test_what_is_on_the_way_when_the_ports_change_arrives(lone, other):
    stand_in(lone)
    lone.apply(*EBPF)
    with on_the_way(lone.pod, [other.ipv4, other.ipv6]) as sockets:
        lone.apply(*EBPF, "--outbound-port", "15011")
    assert [sock.recv(100).decode() for sock in sockets] == [f"outbound {name_of(ip, 80)}" for ip in (other.ipv4, other.ipv6)]


ANOTHER_VERSION = """
import json, os, subprocess, sys, threading
from capture import PINS, CapturedPod, Server, probe
from netns import Network, own_bpf_file_system

own_bpf_file_system()
weir, answers, done = sys.argv[1], {}, threading.Event()
slowly = ["strace", "-f", "-o", "/dev/null", "-e", "inject=bpf:delay_enter=1000", weir, "intercept", "apply", "--backend", "ebpf"]

def ask(way, pod, address, port):
    said = answers[way] = set()
    while not done.is_set():
        said.add(probe(pod, address, port, udp=port == 53).split()[0])

with Network() as network:
    app, other = CapturedPod(network, weir, "app"), network.pod("other")
    ways = []
    for family, anywhere in ((4, "0.0.0.0"), (6, "::")):
        theirs, ours = (getattr(pod, f"ipv{family}") for pod in (other, app))
        Server(other, 80, "other", anywhere), Server(app, 80, "app", anywhere)
        Server(other, 53, "other", anywhere, udp=True)
        ways += [(f"outbound {family}", app, theirs, 80), (f"inbound {family}", other, ours, 80), (f"dns {family}", app, theirs, 53)]
    app.apply("--backend", "ebpf")
    threads = [threading.Thread(target=ask, args=way) for way in ways]
    for thread in threads:
        thread.start()
    try:
        for user in ("1", "2"):
            [folder] = PINS.iterdir()
            words = ["map", "update", "pinned", folder / "weir_versions", "key", *"0000", "value", *"1000"]
            subprocess.run(["bpftool", *words], check=True)
            with app.enter():
                env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
                subprocess.run([*slowly, "--exclude-users", user], check=True, env=env, stdout=subprocess.DEVNULL)
    finally:
        done.set()
        for thread in threads:
            thread.join()
print(json.dumps({way: sorted(said) for way, said in answers.items()}))
"""


def test_what_namespaces_leave_that_end_is_swept(lone, weir):
    with Network() as brief:
        gone = CapturedPod(brief, weir, "gone", proxy=False)
        gone.apply(*EBPF)
        cookie = cookie_of(gone.pod)
        [pin] = pins_of(cookie)
    shown = ["bpftool", "-j", "link", "show", "pinned", pin]
    wait_until(lambda: json.loads(subprocess.run(shown, check=True, capture_output=True).stdout)["netns_ino"] == 0)
    lone.apply(*EBPF)
    assert pins_of(cookie) == []
    assert len(pins_of(cookie_of(lone.pod))) == 1
    lone.weir("remove")
    assert pins_of(cookie_of(lone.pod)) == []


@pytest.mark.parametrize("verb", ["apply", "change", "remove"])
@pytest.mark.parametrize("step", [1, 3, 8, 20, 60, 150])
def test_a_change_that_is_cut_short(lone, other, verb, step):
    """Killed after one of its steps: what was there goes on, or what is new, and nothing stays in the end."""
    stand_in(lone)
    before = state(lone)
    words = {"apply": ["apply", *EBPF], "change": ["apply", *EBPF, "--exclude-users", "7"], "remove": ["remove"]}[verb]
    if verb != "apply":
        lone.apply(*EBPF)
    killing = ["strace", "-f", "-o", "/dev/null", "-e", f"inject=bpf:signal=KILL:when={step}"]
    with lone.enter():
        done = subprocess.run([*killing, lone.path, "intercept", *words], env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == -signal.SIGKILL or (verb, done.returncode) == ("remove", 0) and step > 20, "removal has fewer"
    word = probe(lone, other.ipv4, 80).split()[0]
    assert word in {"apply": ["other"], "change": ["outbound"], "remove": ["outbound", "other"]}[verb]
    lone.weir("remove")
    assert pins_of(cookie_of(lone.pod)) == [] and state(lone) == before
    assert probe(lone, other.ipv4, 80).startswith("other ")


def test_programs_of_another_version_take_over_without_a_gap(weir):
    """Those that all namespaces share, hence in a BPF file system of the test's own."""
    words = [sys.executable, "-c", ANOTHER_VERSION, weir]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=pathlib.Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {way: [way.split()[0]] for way in ("outbound 4", "outbound 6", "inbound 4", "inbound 6", "dns 4", "dns 6")}


@pytest.mark.parametrize("capability", ["bpf", "net_admin", "perfmon", "sys_admin"])
def test_a_missing_privilege_is_named_and_nothing_changes(lone, weir, capability):
    without = ["capsh", f"--drop=cap_{capability}", "--", "-c"]
    failed = lone.pod.run([*without, f"exec {weir} intercept apply --backend ebpf"], check=False)
    assert failed.returncode == 1 and f"CAP_{capability.upper()}" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert pins_of(cookie_of(lone.pod)) == []


REFUSED = {
    "no inbound mode": ["--inbound-mode", "tproxy"],
    "outbound cidrs": [*INTERFACES, "--fail", "open"],
}


@pytest.mark.parametrize("why", list(REFUSED))
def test_what_it_cannot_do_is_refused(lone, why):
    failed = lone.weir("apply", *EBPF, *REFUSED[why], check=False)
    assert failed.returncode == 1 and why in failed.stderr
    assert not lone.show()["installed"]


NETWORK = "fd77:65:6972:7f::/64"
BEFORE = {
    "nothing": [],
    "a plan without IPv6": [("apply", *EBPF, "--no-ipv6")],
    "a plan": [("apply", *EBPF)],
    "what is open": [("apply", *EBPF), ("remove", "--leave-open")],
}


@pytest.mark.parametrize("before", list(BEFORE))
def test_when_a_plan_is_refused_routes_are_as_before(lone, before):
    """Connections over IPv6 that are open need the network that redirected ones go to."""
    for words in BEFORE[before]:
        lone.weir(*words)
    there = state(lone)
    assert (NETWORK in there) == (before in ("a plan", "what is open"))
    second = ["strace", "-f", "-o", "/dev/null", "-e", "inject=mkdir:error=EACCES:when=2"]  # of the folder for pins
    with lone.enter():
        words = [*second, lone.path, "intercept", "apply", *EBPF, "--exclude-users", "7"]
        failed = subprocess.run(words, capture_output=True, text=True)
    assert failed.returncode == 1 and "-cgroup-" in failed.stderr
    assert state(lone) == there


# --- outbound interfaces, with nft -----------------------------------------------------------------------------------
def test_it_is_said_who_has_what(lone, network):
    lone.apply(*EBPF, *INTERFACES)
    shown = lone.show()
    assert shown["backend"] == "ebpf+nft" and not shown["altered"]
    hooks = {}
    for way in ("outbound", "inbound"):
        words = ["explain", "what-if", "-j", "--to", f"{lone.ipv4 if way == 'inbound' else '192.0.2.1'}:80"]
        words += ["--inbound"] if way == "inbound" else []
        said = json.loads(lone.pod.run([lone.path, "--socket", "/nowhere", *words]).stdout)[way]
        assert said["back_end"] == "ebpf+nft" and said["verdict"].startswith("captured")
        hooks[way] = ({row["hook"] for row in said["rules"]}, [row["program"] for row in said.get("hooks", [])])
    assert hooks == {"outbound": ({"output"}, []), "inbound": ({"sk_lookup"}, ["weir_lookup", "weir_getsockopt"])}
    plan = lone.weir("plan", *EBPF, *INTERFACES).stdout
    nft, ebpf = plan.split("# what arrives, by ebpf:\n")
    assert nft.startswith("# what leaves, by nft:\ntable inet weir {") and "chain prerouting" not in nft
    assert "prerouting: sk_lookup" in ebpf and "output:" not in ebpf


def test_nothing_may_be_left_for_one_half(lone):
    words = [*EBPF, *INTERFACES, "--no-inbound"]
    assert [lone.apply(*words) for _ in range(2)] == ["interception: installed\n", "interception: unchanged\n"]
    assert (lone.show()["backend"], lone.show()["altered"]) == ("ebpf+nft", False)
    assert lone.weir("remove").stdout == "interception: removed\n"
    assert not lone.show()["installed"] and pins_of(cookie_of(lone.pod)) == []


def detach(path):
    subprocess.run(["bpftool", "link", "detach", "pinned", path], check=True, capture_output=True)


LOST = {
    "route": lambda pod, folder: pod.ip("route del local fd77:65:6972:7f::/64 dev lo table local"),
    "program": lambda pod, folder: (folder / "weir_connect4").unlink(),
    "program's attachment": lambda pod, folder: detach(folder / "weir_sendmsg6"),
    "program for names": lambda pod, folder: (folder / "weir_getsockname6").unlink(),
    "program that lets wait": lambda pod, folder: (folder / "weir_hold_out").unlink(),
    "namespace's program": lambda pod, folder: (folder / f"netns-{cookie_of(pod)}").unlink(),
    "namespace's attachment": lambda pod, folder: detach(folder / f"netns-{cookie_of(pod)}"),
}


TAKEN = [(lost, more) for lost in LOST for more in ([], ["--no-ipv6"], INTERFACES) if (lost, more) != ("route", ["--no-ipv6"])]


@pytest.mark.parametrize("lost, more", TAKEN)
def test_what_somebody_took_away_is_put_right(lone, other, lost, more):
    """As with rules: it is shown, and the same plan again brings it back."""
    stand_in(lone)
    words = [*EBPF, "--fail", "hold", *more]
    assert [lone.apply(*words) for _ in range(2)] == ["interception: installed\n", "interception: unchanged\n"]
    there, shown = state(lone), lone.shown()
    assert (NETWORK in there) == (more != ["--no-ipv6"])
    (folder,) = {path.parent for path in pins_of(cookie_of(lone.pod))}
    pins = sorted(path.name for path in folder.iterdir())
    assert not shown[0]["altered"]
    LOST[lost](lone.pod, folder)
    assert lone.show()["altered"]
    assert [lone.apply(*words) for _ in range(2)] == ["interception: installed\n", "interception: unchanged\n"]
    assert (state(lone), lone.shown(), sorted(path.name for path in folder.iterdir())) == (there, shown, pins)
    for family in (4,) if more == ["--no-ipv6"] else (4, 6):
        assert probe(lone, ip_of(other, family), 80) == f"outbound {name_of(ip_of(other, family), 80)}"
        assert probe(other, ip_of(lone.pod, family), 80) == f"inbound {name_of(ip_of(lone.pod, family), 80)}"


ONE_IS_GONE = """
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
{weir} intercept apply --backend ebpf --fail hold
rm /sys/fs/bpf/weir/*/weir_hold_in
ls /sys/fs/bpf/weir/*/
{weir} intercept apply --backend ebpf --fail open
ls /sys/fs/bpf/weir/*/
"""


def test_what_is_left_of_programs_that_let_wait_goes_with_the_last_plan_that_needs_them(lone, weir):
    """Also when somebody has taken one of them away: they see every packet. (Here no other test's plan needs them.)"""
    out = lone.pod.run(["unshare", "-m", "sh", "-ec", ONE_IS_GONE.format(weir=weir)]).stdout
    _, before, after = out.split("interception: installed\n")
    assert "weir_hold_out" in before and "weir_hold_out" not in after and "netns-" in after


@pytest.mark.parametrize("lost", ["nft", "ebpf"])
def test_half_of_it_is_put_right(lone, lost):
    """By others' hands: what is left of it is shown, and goes."""
    lone.apply(*EBPF, *INTERFACES)
    if lost == "nft":
        lone.pod.run(["nft", "delete", "table", "inet", "weir"])
    else:
        for path in PINS.glob("*/weir_plans"):
            words = ["map", "delete", "pinned", path, "key", *map(str, struct.pack("=Q", cookie_of(lone.pod)))]
            subprocess.run(["bpftool", *words], capture_output=True)  # of several folders one has it
    shown = lone.show()
    assert (shown["backend"], shown["altered"]) == (("ebpf+nft", True) if lost == "nft" else ("nft", False))
    assert lone.apply(*EBPF, *INTERFACES) == "interception: installed\n"
    shown = lone.show()
    assert (shown["backend"], shown["altered"]) == ("ebpf+nft", False)
    assert lone.weir("remove").stdout == "interception: removed\n"
    assert not lone.show()["installed"] and pins_of(cookie_of(lone.pod)) == []


@pytest.mark.parametrize("before", [[], [*EBPF, *INTERFACES, "--exclude-users", "7"], EBPF, ["--backend", "nft"]], ids=len)
def test_when_the_programs_are_refused_all_is_as_before(lone, before):
    """In either order of the halves: what is there decides on it."""
    if before:
        lone.apply(*before)
    there = lone.shown()
    words = ["strace", "-f", "-o", "/dev/null", "-e", "inject=/^mkdir:error=EACCES"]
    with lone.enter():
        words += [lone.path, "intercept", "apply", *EBPF, *INTERFACES]
        failed = subprocess.run(words, capture_output=True, text=True)
    assert failed.returncode == 1 and "Permission denied" in failed.stderr
    assert lone.shown() == there


@families
def test_halves_change_hands_without_a_gap(lone, other, family):
    for address in ("0.0.0.0", "::"):
        Server(lone.pod, 80, "app", address)
    stand_in(lone)
    lone.apply("--backend", "nft")
    answers, done = {"outbound": set(), "inbound": set()}, threading.Event()

    def ask(way, pod, address):
        while not done.is_set():
            answers[way].add(probe(pod, address, 80))

    ways = {"outbound": (lone, ip_of(other, family)), "inbound": (other, ip_of(lone.pod, family))}
    asking = [threading.Thread(target=ask, args=(way, *ways[way])) for way in ways]
    for thread in asking:
        thread.start()
    try:
        for words in (2 * [[*EBPF, *INTERFACES], [*EBPF, *INTERFACES, "--exclude-users", "7"], ["--backend", "nft"]]):
            assert lone.apply(*words) == "interception: installed\n"
    finally:
        done.set()
        for thread in asking:
            thread.join()
    assert answers == {way: {f"{way} {name_of(ways[way][1], 80)}"} for way in ways}


# --- waiting ---------------------------------------------------------------------------------------------------------
def any_plan_holds(folder):
    """Of those below it: which rules a plan has is in its first cell."""
    entries = bpftool("map", "dump", "pinned", folder / "weir_plans")
    plans = [str(int.from_bytes((int(byte, 16) for byte in entry["value"]), "little")) for entry in entries]
    headers = [bpftool("map", "lookup", "id", plan, "key", "0", "0", "0", "0")["value"] for plan in plans]
    return any(int(byte, 16) for header in headers for byte in header[20:24])


def test_what_lets_wait_is_there_while_a_plan_asks_for_it(network, weir, lone):
    near = CapturedPod(network, weir, "near", proxy=False)
    lone.apply(*EBPF, "--fail", "hold")
    near.apply(*EBPF, "--fail", "hold", "--hold-timeout", "5s")
    (folder,) = {path.parent for path in pins_of(cookie_of(lone.pod))}

    def pinned():
        return sorted(path.name for path in folder.glob("weir_hold_*"))

    assert any_plan_holds(folder) and pinned() == ["weir_hold_in", "weir_hold_out"]
    lone.apply(*EBPF)
    assert any_plan_holds(folder) and pinned() == ["weir_hold_in", "weir_hold_out"]
    near.weir("remove")
    wait_until(lambda: bool(pinned()) == any_plan_holds(folder))  # others may be at work


IN_A_CONTAINER = """
mount -t cgroup2 none {root} && mkdir -p {root}/{part} && echo $$ >{root}/{part}/cgroup.procs && umount {root}
exec unshare -C sh -c 'mount -t cgroup2 none {root} && exec {weir} intercept apply --backend ebpf --fail hold'
"""


def test_who_sees_a_part_of_the_control_groups_only_cannot_let_wait(network, weir, lone):
    root = network.folder / "cgroup"
    root.mkdir()
    source = IN_A_CONTAINER.format(root=root, part=f"{network.prefix}part", weir=weir)
    failed = lone.pod.run(["unshare", "-m", "sh", "-c", source], check=False)
    assert failed.returncode == 1 and "root of the control groups" in failed.stderr
    assert pins_of(cookie_of(lone.pod)) == []


def segment(source, destination, ports, flags):
    """A segment of TCP without data, for a raw socket."""
    head = struct.pack("!HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 1000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", socket.IPPROTO_TCP, len(head))
    total = sum(struct.unpack("!16H", pseudo + head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:16] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[18:]


def test_what_opens_no_connection_is_refused_meanwhile(lone, other):
    """Left without an answer, the peers of a proxy that is gone would hang."""
    SYN, RST, ACK = 2, 4, 16
    Server(lone.pod, 80, "app")
    lone.apply(*EBPF, "--fail", "hold")
    with other.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.settimeout(30)
        sock.connect((lone.ipv4, 0))
        for flags in (SYN, ACK):
            sock.send(segment(other.ipv4, lone.ipv4, (41000, 80), flags))
        answer = sock.recv(100)
    assert answer[33] & RST and lone.packets("held, while no proxy listens") == 1
