# SPDX-License-Identifier: Apache-2.0
"""One behaviour, whatever back end intercepts: the same connections, observed by the same code, with the same result.

The real proxy runs in two captured pods of one node; a third pod is another host. Each observation opens a connection,
talks, and looks at all ends: what the program is told about its peer, what the proxy says about the connection, whom the
server saw, and whether both directions end in order. Only the words by which rules are applied differ."""

import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import threading

import pytest

from callers import Callers
from capture import STATE, CapturedPod, Server, cookie_of, environment, name_of, pins_of, probe, state
from mesh import Mesh, Peer, cluster, service
from netns import CONTROL_GROUPS, Network, wait_until

# Name: the words of `weir intercept apply`. The kinds of iptables differ in what is found by the name without a kind.
# With outbound interfaces, what leaves is for nft also where the back end is eBPF.
BACKENDS = {
    "nft": ["--backend", "nft"],
    "nft-tproxy": ["--backend", "nft", "--inbound-mode", "tproxy"],
    "nft-client": ["--backend", "nft", "--inbound-source", "client"],
    "ebpf": ["--backend", "ebpf"],
    "ebpf-client": ["--backend", "ebpf", "--inbound-source", "client"],
    "ebpf-nft": ["--backend", "ebpf", "--exclude-outbound-interfaces", "eth9"],
    "iptables-nft": ["--backend", "iptables"],
    "iptables-legacy": ["--backend", "iptables"],
}

FAMILIES = ("ipv4", "ipv6", "mapped")
SOCKET_FAMILY = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
TRANSPARENT = {"ipv4": (socket.IPPROTO_IP, 19), "ipv6": (socket.IPPROTO_IPV6, 75)}
USER, GROUP, MARK = 1234, 1235, 0x5500
CHOSEN_USER, CHOSEN_MARK = 1300, 0x6600
SPARED = ("10.77.0.200", "fd00:77::200")
VIPS = ("240.240.0.0/16", "fd77:65:6972::/112")


class Talker(Server):
    """Speaks first, who it is and whom it sees; then says everything after its client, and an end after the end."""

    def _connections(self):
        with contextlib.suppress(OSError):
            while True:
                sock, peer = self.socket.accept()
                threading.Thread(target=self._talk, args=(sock, peer), daemon=True).start()

    def _talk(self, sock, peer):
        with sock, contextlib.suppress(OSError):
            sock.sendall(f"{self.word} {peer[0]} {peer[1]}\n".encode())
            while data := sock.recv(4096):
                sock.sendall(data)
            sock.sendall(b" end")


class Ender(Talker):
    """Speaks first and ends first; what its client says then is among `heard`."""

    def __init__(self, *arguments):
        self.heard = []
        super().__init__(*arguments)

    def _talk(self, sock, peer):
        with sock:
            sock.sendall(f"{self.word}\n".encode())
            sock.shutdown(socket.SHUT_WR)
            self.heard.append(Peer(sock).rest())


class DualTalker(Talker):
    """One socket for both families: clients of IPv4 have mapped addresses."""

    def __init__(self, pod, port, word):
        self.word, self.peers = word, []
        with pod.enter():
            self.socket = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=self._connections, daemon=True).start()


def talkers(pod, word, *ports):
    for port in ports:
        Talker(pod, port, word, "0.0.0.0")
        Talker(pod, port, word, "::")
        DualTalker(pod, port + 10, word)


def keeps_client(backend):
    """Whether applications see their clients' own addresses."""
    return "client" in BACKENDS[backend]


class World:
    """app and near: captured pods, with applications; other: a host that is not, with a second address and a second link
    that are spared."""

    def __init__(self, network, weir, weir_proxy, backend):
        self.backend, self.network = backend, network
        self.cgroup = CONTROL_GROUPS / f"{network.prefix}pods.slice"
        self.unit = f"{network.prefix}chosen.service"
        self.callers = Callers()
        self.mesh = Mesh(network, weir, weir_proxy)
        self.other = network.pod("other")
        self._second_address()
        talkers(self.other, "other", 7000, 7001)
        self._resolvers()
        self.environment = environment(network, backend)
        self.app, self.near = self._sidecar("app"), self._sidecar("near")
        self._second_link()
        for sidecar in (self.app, self.near):
            talkers(sidecar.pod, sidecar.pod.name, 7000, 7001)
            self.apply(sidecar)
        self.enders = {pod: {address: Ender(pod, 7002, pod.name, address) for address in ("0.0.0.0", "::")} for pod in (self.other, self.app.pod)}

    def _second_address(self):
        for address in SPARED:
            self.other.address(f"{address}/{64 if ':' in address else 24}")

    def _resolvers(self):
        for address in ("0.0.0.0", "::"):
            Talker(self.other, 53, "other", address)
        for address in (self.other.ipv4, self.other.ipv6, *SPARED):
            Server(self.other, 53, "other", address, udp=True)

    def _second_link(self):
        self.app.pod.ip(f"link add eth1 type veth peer name eth1 netns {self.other.netns}")
        for pod, host in ((self.app.pod, 1), (self.other, 2)):
            pod.ip(f"addr add 10.78.0.{host}/24 dev eth1", f"addr add fd00:78::{host}/64 dev eth1 nodad", "link set eth1 up")

    def _sidecar(self, name):
        pod = self.network.pod(name)
        addresses = {"4": f"{pod.ipv4}:7000", "6": f"[{pod.ipv6}]:7000"}
        sidecar = self.mesh.sidecar(
            name,
            pod=pod,
            start=False,
            services=[service(f"me{family}.mesh", 80, f"me{family}") for family in addresses],
            clusters=[cluster(f"me{family}", [address]) for family, address in addresses.items()],
            dns={"vips": list(VIPS)},
            intercept={"capture": {"inbound_source": "client" if keeps_client(self.backend) else "proxy"}},
        )
        sidecar.start()
        for folder in ("spared/below", "spared-not"):
            (self.cgroup_of(sidecar) / folder).mkdir(parents=True)
        (self.cgroup / self.unit / "below").mkdir(parents=True, exist_ok=True)
        (self.cgroup_of(sidecar) / "cgroup.procs").write_text(str(sidecar.proxy.pid))
        return sidecar

    def cgroup_of(self, sidecar):
        return self.cgroup / sidecar.pod.name

    def words(self, sidecar):
        """The capture plan of a pod, with one exception of each kind."""
        return [
            *BACKENDS[self.backend],
            *("--vips", ",".join(VIPS)),
            *("--exclude-outbound-ports", "7001,7011", "--exclude-inbound-ports", "7001,7011"),
            *("--exclude-outbound-cidrs", ",".join(SPARED)),
            *("--exclude-inbound-cidrs", ",".join(SPARED)),
            *(() if self.backend in ("ebpf", "ebpf-client") else ("--exclude-outbound-interfaces", "eth1")),
            *("--exclude-inbound-interfaces", "eth1"),
            *("--exclude-users", str(USER), "--exclude-groups", str(GROUP), "--exclude-marks", hex(MARK)),
            *("--exclude-cgroups", str(self.cgroup_of(sidecar) / "spared")),
            *("--dns-servers", f"{self.other.ipv4},{self.other.ipv6},127.0.0.1,::1"),
        ]

    def apply(self, sidecar, *more):
        return self.weir(sidecar, "apply", *self.words(sidecar), *more).stdout

    def weir(self, sidecar, verb, *words, **options):
        return sidecar.pod.run([self.mesh.weir_path, "intercept", verb, *words], env=self.environment, **options)

    def call(self, pod, to, cgroup=None, **options):
        if pod in (self.app, self.near):
            cgroup = self.cgroup_of(pod) / (cgroup or "")
        return self.callers.call(pod, to, cgroup=str(cgroup) if cgroup else None, **options)

    def close(self):
        self.callers.close()
        self.network.close()


@pytest.fixture(scope="module", params=list(BACKENDS))
def world(request, weir, weir_proxy):
    world = World(Network(), weir, weir_proxy, request.param)
    yield world
    world.close()


# --- observing -------------------------------------------------------------------------------------------------------
def unmapped(address):
    return address.removeprefix("::ffff:") if "." in address else address


def plain_name(address):
    return name_of(unmapped(address[0]), address[1])


class Observed:
    """A conversation with a Talker, and what proxies said about it while it lasted."""

    def __init__(self, world, sock, to):
        peer = Peer(sock)
        self.to, self.local, self.peer_name = to, sock.getsockname()[:2], sock.getpeername()[:2]
        self.server, *source = peer.until(b"\n").decode().split()
        self.source = (source[0], int(source[1]))
        self.rows = {sidecar.pod.name: sidecar.connections() for sidecar in (world.app, world.near)}
        self.talk = peer.send("words").end().rest()
        peer.close()
        for sidecar in (world.app, world.near):
            wait_until(lambda sidecar=sidecar: not sidecar.connections(), what=f"{sidecar.pod.name} forgets it")

    def passed(self):
        """The ways through proxies: (pod, direction, destination)."""
        return [(pod, row["direction"], row["destination"]) for pod, rows in self.rows.items() for row in rows]

    def row(self, pod):
        (row,) = self.rows[pod]
        return row

    def is_whole(self):
        return self.peer_name == self.to and self.talk == b"words end"

    def is_direct(self, server):
        return self.is_whole() and self.passed() == [] and self.server == server and self.saw_the_client()

    def saw_the_client(self):
        return (unmapped(self.source[0]), self.source[1]) == (unmapped(self.local[0]), self.local[1])

    def __repr__(self):
        return f"<{self.to}: {self.server} saw {self.source}, we are {self.local}; {self.passed()}; {self.talk}>"


def address_of(pod, family, host=None):
    """An address of a pod as programs of that family name it; host: a pod's other address."""
    address = {"spared": SPARED, "link": ("10.78.0.", "fd00:78::")}.get(host)
    ipv4, ipv6 = address or (pod.ipv4, pod.ipv6)
    if host == "link":
        number = "1" if hasattr(pod, "proxy") else "2"
        ipv4, ipv6 = ipv4 + number, ipv6 + number
    return {"ipv4": ipv4, "ipv6": ipv6, "mapped": f"::ffff:{ipv4}"}[family]


def loopback(family):
    return {"ipv4": "127.0.0.1", "ipv6": "::1", "mapped": "::ffff:127.0.0.1"}[family]


def dual(family, port):
    """The port whose server has mapped addresses in that family."""
    return port + 10 if family == "mapped" else port


def observe(world, pod, to, **options):
    return Observed(world, world.call(pod, to, **options), to)


def inbound_source(world, pod, family, client):
    """Whom an application sees when the inbound proxy calls it for that pod."""
    if keeps_client(world.backend):
        return client.ipv6 if family == "ipv6" else client.ipv4
    return pod.ipv6 if family == "ipv6" else "127.0.0.6"


def packets(world, pod, purpose, chain):
    rules = json.loads(world.weir(pod, "show", "-j").stdout)["rules"]
    return sum(rule["packets"] for rule in rules if (rule["purpose"], rule["chain"]) == (purpose, chain))


every_family = pytest.mark.parametrize("family", FAMILIES)


# --- outbound --------------------------------------------------------------------------------------------------------
@every_family
@pytest.mark.parametrize(
    "who", [{}, {"user": USER + 1}, {"group": GROUP + 1}, {"mark": MARK + 1}, {"cgroup": "spared-not"}], ids=str
)
def test_outbound_is_captured(world, family, who):
    to = (address_of(world.other, family), 7000)
    seen = observe(world, world.app, to, **who)
    assert seen.passed() == [("app", "outbound", plain_name(to))]
    assert seen.row("app")["peer"] == plain_name(seen.local)
    assert (seen.server, seen.source[0]) == ("other", unmapped(address_of(world.app, family)))
    assert seen.local[0] == address_of(world.app, family)
    assert seen.is_whole()


@every_family
def test_outbound_of_mptcp_is_captured(world, family):
    """It becomes TCP, as with any peer that knows nothing else."""
    to = (address_of(world.other, family), 7000)
    seen = observe(world, world.app, to, mptcp=True)
    assert seen.passed() == [("app", "outbound", plain_name(to))]
    assert seen.row("app")["peer"] == plain_name(seen.local) and seen.local[0] == address_of(world.app, family)
    assert (seen.server, seen.source[0]) == ("other", unmapped(address_of(world.app, family)))
    assert seen.is_whole()


@every_family
def test_what_is_bound_to_an_interface_is_spared_like_others(world, family):
    to = (address_of(world.other, family, "spared"), 7000)
    assert observe(world, world.app, to, device="eth0").is_direct("other")


OUTBOUND_SPARED = {
    "port": {"port": 7001},
    "network": {"host": "spared"},
    "interface": {"host": "link"},
    "user": {"user": USER},
    "group": {"group": GROUP},
    "mark": {"mark": MARK},
    "control group": {"cgroup": "spared"},
    "control group above": {"cgroup": "spared/below"},
    "proxy": {"mark": 0x771},
    "proxys-other": {"mark": 0x772},
}


@contextlib.contextmanager
def outbound_interface(world, name):
    """It is in the plan of all worlds but those in which nothing else would be seen of eBPF's own way."""
    if "--exclude-outbound-interfaces" in world.words(world.app):
        yield
        return
    assert world.apply(world.app, "--exclude-outbound-interfaces", name) == "interception: installed\n"
    yield
    assert world.apply(world.app) == "interception: installed\n"


@every_family
@pytest.mark.parametrize("by", list(OUTBOUND_SPARED))
def test_outbound_is_spared(world, family, by):
    options = dict(OUTBOUND_SPARED[by])
    to = (address_of(world.other, family, options.pop("host", None)), options.pop("port", 7000))
    with outbound_interface(world, "eth1") if by == "interface" else contextlib.nullcontext():
        assert observe(world, world.app, to, **options).is_direct("other")


@every_family
@pytest.mark.parametrize("by", ["user", "group", "control group"])
def test_who_made_the_socket_counts(world, family, by):
    """And not who connects it."""
    to = (address_of(world.other, family), 7000)
    sock = world.call(world.app, to, connect=False, **OUTBOUND_SPARED[by])
    sock.connect(to)
    assert Observed(world, sock, to).is_direct("other")


def disconnect(sock):
    """As connect(2) has it: to an address of no family."""
    assert ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), bytes(16), 16) == 0, os.strerror(ctypes.get_errno())


@every_family
def test_a_socket_that_connects_anew_has_no_past(world, family):
    sock = world.call(world.app, (address_of(world.other, family), 7000))
    assert Peer(sock).until(b" ") == b"other "
    assert [row["direction"] for row in world.app.connections()] == ["outbound"]
    disconnect(sock)
    to = (address_of(world.other, family), 7001)
    sock.connect(to)
    assert Observed(world, sock, to).is_direct("other")


# --- to the own host -------------------------------------------------------------------------------------------------
@every_family
@pytest.mark.parametrize("by", ["pod address", "localhost"])
def test_a_program_calls_its_own_host_directly(world, family, by):
    address = loopback(family) if by == "localhost" else address_of(world.app, family)
    assert observe(world, world.app, (address, 7000)).is_direct("app")


@every_family
def test_a_program_calls_its_own_host_by_no_address_at_all(world, family):
    """The unspecified address means the loopback one."""
    nowhere = {"ipv4": "0.0.0.0", "ipv6": "::", "mapped": "::ffff:0.0.0.0"}[family]
    sock = world.call(world.app, (nowhere, 7000))
    assert Observed(world, sock, (loopback(family), 7000)).is_direct("app")


def vip_of(sidecar, name, family):
    rows = sidecar.show("vhost", "show")["virtual_hosts"]
    row = next(row for row in rows if row["name"].split(":")[0] == name)
    return {"ipv4": row["vip4"], "ipv6": row["vip6"], "mapped": f"::ffff:{row['vip4']}"}[family]


@every_family
def test_a_program_calls_its_own_host_by_the_services_name(world, family):
    """Through the outbound proxy and the inbound one, as a call to any other pod goes."""
    name = "me6.mesh" if family == "ipv6" else "me4.mesh"
    vip = (vip_of(world.app, name, family), 80)
    seen = observe(world, world.app, vip)
    endpoint = name_of(unmapped(address_of(world.app, family)), 7000)
    assert sorted(seen.passed()) == [("app", "inbound", endpoint), ("app", "outbound", plain_name(vip))]
    assert (seen.server, seen.source[0]) == ("app", inbound_source(world, world.app, family, world.app))
    assert seen.local[0] == address_of(world.app, family)
    assert seen.is_whole()


# --- inbound ---------------------------------------------------------------------------------------------------------
@every_family
def test_inbound_is_captured(world, family):
    to = (unmapped(address_of(world.app, family)), dual(family, 7000))
    seen = observe(world, world.other, to, source=unmapped(address_of(world.other, family)))
    assert seen.passed() == [("app", "inbound", plain_name(to))]
    assert seen.row("app")["peer"] == name_of(*seen.local), "the proxy knows the real client"
    assert (seen.server, unmapped(seen.source[0])) == ("app", inbound_source(world, world.app, family, world.other))
    assert ("." in seen.source[0] and ":" in seen.source[0]) == (family == "mapped")
    assert seen.is_whole()


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_inbound_from_mptcp_is_captured(world, family):
    to = (address_of(world.app, family), 7000)
    seen = observe(world, world.other, to, source=address_of(world.other, family), mptcp=True)
    assert seen.passed() == [("app", "inbound", plain_name(to))]
    assert seen.row("app")["peer"] == name_of(*seen.local)
    assert (seen.server, seen.source[0]) == ("app", inbound_source(world, world.app, family, world.other))
    assert seen.is_whole()


@every_family
def test_inbound_is_counted_by_the_rule_that_captures_it(world, family):
    chain = {"nft-tproxy": "handed"}.get(world.backend, "inbound")
    before = packets(world, world.app, "inbound", chain)
    to = (unmapped(address_of(world.app, family)), 7000)
    observe(world, world.other, to, source=unmapped(address_of(world.other, family)))
    assert packets(world, world.app, "inbound", chain) > before


@every_family
@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_one_port_calls_two_ports(world, family, direction):
    """Redirected, both connections would have the same addresses and ports."""
    caller, server = (world.app, world.other) if direction == "outbound" else (world.other, world.app)
    word = "other" if direction == "outbound" else "app"
    source, to = unmapped(address_of(caller, family)), unmapped(address_of(server, family))
    with world.call(caller, (to, 7000), source=source) as first:
        assert Peer(first).until(b" ") == f"{word} ".encode()
        with world.call(caller, (to, 7010), source=(source, first.getsockname()[1])) as second:
            assert Peer(second).until(b" ") == f"{word} ".encode()
            ports = {row["destination"].rpartition(":")[2] for row in world.app.connections(direction=direction)}
            assert ports == {"7000", "7010"}


INBOUND_SPARED = {"port": {"port": 7001}, "network": {"from": "spared"}, "interface": {"host": "link"}}


@every_family
@pytest.mark.parametrize("by", list(INBOUND_SPARED))
def test_inbound_is_spared(world, family, by):
    case = INBOUND_SPARED[by]
    to = (unmapped(address_of(world.app, family, case.get("host"))), dual(family, case.get("port", 7000)))
    source = unmapped(address_of(world.other, family, case.get("from", case.get("host"))))
    seen = observe(world, world.other, to, source=source)
    assert seen.is_direct("app")


@every_family
def test_a_captured_pod_calls_another_of_the_same_node(world, family):
    to = (address_of(world.near, family), dual(family, 7000))
    seen = observe(world, world.app, to)
    assert seen.passed() == [("app", "outbound", plain_name(to)), ("near", "inbound", plain_name(to))]
    source, _, _ = seen.row("near")["peer"].rpartition(":")
    assert source.strip("[]") == unmapped(address_of(world.app, family))
    assert (seen.server, unmapped(seen.source[0])) == ("near", inbound_source(world, world.near, family, world.app))
    assert seen.is_whole()


@every_family
@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_a_server_may_end_first(world, family, direction):
    """What its client sends from then on arrives, and the client's end."""
    outbound = direction == "outbound"
    caller, server = (world.app, world.other) if outbound else (world.other, world.app.pod)
    address = address_of(server, family) if outbound else unmapped(address_of(server, family))
    source = None if outbound else unmapped(address_of(caller, family))
    ender = world.enders[server]["::" if family == "ipv6" else "0.0.0.0"]
    with world.call(caller, (address, 7002), source=source) as sock:
        peer = Peer(sock)
        assert peer.rest() == f"{server.name}\n".encode()
        assert [row["direction"] for row in world.app.connections()] == [direction]
        count = len(ender.heard)
        peer.send("still ").send("here").end()
        wait_until(lambda: len(ender.heard) > count)
        assert ender.heard[count:] == [b"still here"]
    wait_until(lambda: not world.app.connections(), what="it is forgotten")


# --- DNS -------------------------------------------------------------------------------------------------------------
def query(family):
    """Asks for the service that weir alone knows."""
    name = b"\3me6\4mesh\0" if family == "ipv6" else b"\3me4\4mesh\0"
    return b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + name + (b"\0\x1c" if family == "ipv6" else b"\0\1") + b"\0\1"


def by_weir(world, family, answer):
    """Whether it is weir's: with the service's virtual IP. Else it is the other host's: the query itself."""
    vip = unmapped(vip_of(world.app, "me6.mesh" if family == "ipv6" else "me4.mesh", family))
    raw = socket.inet_pton(socket.AF_INET6 if ":" in vip else socket.AF_INET, vip)
    assert answer[:2] == b"\x12\x34" and answer[2] & 0x80
    assert raw in answer or answer[3:] == query(family)[3:]
    return raw in answer


def ask(world, family, to, **options):
    """(by weir, for whom the answer's sender passes)."""
    with world.call(world.app, to, udp=True, **options) as sock:
        sock.send(query(family))
        answer, sender = sock.recvfrom(512)
        assert sock.getpeername()[:2] == to
        return by_weir(world, family, answer), sender[:2]


def ask_by_tcp(world, family, to, **options):
    with world.call(world.app, to, **options) as sock:
        sock.sendall(len(query(family)).to_bytes(2, "big") + query(family))
        peer = Peer(sock)
        assert sock.getpeername()[:2] == to
        first = peer.read(2)
        if first == b"ot":  # the other host speaks first
            return False, to
        return by_weir(world, family, peer.read(int.from_bytes(first, "big"))), to


def ask_by(transport):
    return ask if transport == "udp" else ask_by_tcp


every_transport = pytest.mark.parametrize("transport", ["udp", "tcp"])


@every_family
@every_transport
@pytest.mark.parametrize("server", ["other", "localhost"])
def test_dns_is_captured(world, family, transport, server):
    to = (loopback(family) if server == "localhost" else address_of(world.other, family), 53)
    assert ask_by(transport)(world, family, to) == (True, to)


@every_family
def test_dns_is_captured_from_the_port_of_servers(world, family):
    """What the proxy answers goes to port 53 then, as queries do."""
    to = (address_of(world.other, family), 53)
    everywhere = "0.0.0.0" if family == "ipv4" else "::"
    assert ask(world, family, to, source=(everywhere, 53)) == (True, to)


DNS_SPARED = {
    "user": {"user": USER},
    "group": {"group": GROUP},
    "mark": {"mark": MARK},
    "control group": {"cgroup": "spared"},
    "control group above": {"cgroup": "spared/below"},
    "proxy": {"mark": 0x771},
    "proxys-other": {"mark": 0x772},
}


@every_family
@every_transport
@pytest.mark.parametrize("by", list(DNS_SPARED))
def test_dns_is_spared(world, family, transport, by):
    to = (address_of(world.other, family), 53)
    assert ask_by(transport)(world, family, to, **DNS_SPARED[by]) == (False, to)


@every_family
@every_transport
def test_dns_is_spared_for_another_server(world, family, transport):
    to = (address_of(world.other, family, "spared"), 53)
    assert ask_by(transport)(world, family, to) == (False, to)


def asking_any(world, option, more):
    """The world while DNS is captured whichever server it is for, with one exception more."""
    words = world.words(world.app)
    at = words.index("--dns-servers")
    del words[at : at + 2]
    words[words.index(option) + 1] += f",{more}"
    world.weir(world.app, "apply", *words)
    yield world
    world.apply(world.app)


@pytest.fixture(scope="class")
def spared_servers(world):
    """All exceptions by destination, also for the port of DNS."""
    yield from asking_any(world, "--exclude-outbound-ports", "50-60")


class TestDnsWhereverItGoes:
    """Ports, networks and interfaces choose connections, not queries."""

    @every_family
    @every_transport
    @pytest.mark.parametrize("by", ["port", "network", "interface", "own host", "same node", "virtual IP"])
    def test_it_is_captured(self, spared_servers, family, transport, by):
        host = {"network": "spared", "interface": "link"}.get(by)
        server = {"own host": spared_servers.app, "same node": spared_servers.near}.get(by, spared_servers.other)
        to = (address_of(server, family, host), 53)
        if by == "virtual IP":
            to = (vip_of(spared_servers.app, "me6.mesh" if family == "ipv6" else "me4.mesh", family), 53)
        assert ask_by(transport)(spared_servers, family, to) == (True, to)

    @every_family
    def test_a_server_answers_who_asks_from_the_port_of_servers(self, spared_servers, family):
        """Its answers go to port 53, as queries do, and come from where it was asked."""
        address = "::" if family != "ipv4" else "0.0.0.0"
        to, asker = ((unmapped(address_of(host, family, "link")), 53) for host in (spared_servers.app, spared_servers.other))
        kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
        with spared_servers.app.pod.enter():
            server = socket.socket(socket.AF_INET if family == "ipv4" else socket.AF_INET6, socket.SOCK_DGRAM)
        with spared_servers.other.enter():
            client = socket.socket(kind, socket.SOCK_DGRAM)
        with server, client:
            for sock, place in ((server, (address, 53)), (client, asker)):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.settimeout(30)
                sock.bind(place)
            for _ in range(2):
                client.sendto(query(family), to)
                asked, peer = server.recvfrom(512)
                server.sendto(b"answer to " + asked, peer)
                answer, source = client.recvfrom(512)
                assert (answer, source[:2]) == (b"answer to " + query(family), to)


@every_family
def test_one_socket_asks_two_servers(world, family):
    """Each answer comes from the server that was asked."""
    to = [(address_of(world.other, family), 53), (loopback(family), 53)]
    with world.call(world.app, to[0], udp=True, connect=False) as sock:
        senders = set()
        for address in to:
            sock.sendto(query(family), address)
        for _ in to:
            answer, sender = sock.recvfrom(512)
            assert by_weir(world, family, answer)
            senders.add(sender[:2])
    assert senders == set(to)


# --- link-local addresses --------------------------------------------------------------------------------------------
def scoped(host, pod, port):
    """The pod's link-local address, as programs of that host call it."""
    host, pod = (getattr(each, "pod", each) for each in (host, pod))
    return pod.link_local(), port, 0, host.interface_index("eth0")


@pytest.fixture(scope="class")
def asking_all(world):
    """DNS is captured whichever server it is for; inbound, not from link-local addresses."""
    yield from asking_any(world, "--exclude-inbound-cidrs", "fe80::/10")


class TestLinkLocal:
    """Without its interface such an address leads nowhere, and what is redirected has lost it: what goes there goes by
    itself. What comes from there does, too, if it is asked for: without that it is captured (test_compile.c)."""

    @pytest.mark.parametrize("host", ["other", "app"])
    def test_outbound(self, asking_all, host):
        to = scoped(asking_all.app, getattr(asking_all, host), 7000)
        assert Observed(asking_all, asking_all.call(asking_all.app, to), to[:2]).is_direct(host)

    @pytest.mark.parametrize("dest", ["link-local", "global"])
    def test_inbound(self, asking_all, dest):
        app, other = asking_all.app.pod, asking_all.other
        own = scoped(other, other, 0)
        to = (app.ipv6, 7000) if dest == "global" else scoped(other, app, 7000)
        assert Observed(asking_all, asking_all.call(other, to, source=own), to[:2]).is_direct("app")

    def test_dns_over_udp(self, asking_all):
        to = scoped(asking_all.app, asking_all.other, 53)
        Server(asking_all.other, 53, "other", "::", udp=True)
        for connect in (True, False):
            with asking_all.call(asking_all.app, to, udp=True, connect=connect) as sock:
                sock.sendmsg([query("ipv6")], [], 0, *(() if connect else (to,)))
                answer, sender = sock.recvfrom(512)
            assert not by_weir(asking_all, "ipv6", answer)
            assert sender == to

    def test_dns_over_tcp(self, asking_all):
        to = scoped(asking_all.app, asking_all.other, 53)
        with asking_all.call(asking_all.app, to) as sock:
            assert Peer(sock).until(b"\n").split()[0] == b"other"

    def test_what_if_agrees(self, asking_all):
        words = ["explain", "what-if", "-j", "--to", name_of("fe80::7", 7000)]
        done = asking_all.app.pod.run([asking_all.mesh.weir_path, *words], env=asking_all.environment)
        assert json.loads(done.stdout)["outbound"]["verdict"] == "left alone: link-local address"


# --- only some programs ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="class")
def choosing(world):
    """Captured are the programs of one unit and of one user, sockets with one mark, and no others."""
    marks = f"0x1,{CHOSEN_MARK:#x}/0xff00"
    world.apply(world.app, "--include-cgroups", world.unit, "--include-users", str(CHOSEN_USER), "--include-marks", marks)
    yield world
    world.apply(world.app)


# Who: (options of a call, whether it is captured). A unit's folder is beside the pod's.
def chosen(world):
    unit = world.cgroup / world.unit
    return {
        "unit": ({"cgroup": unit}, True),
        "below the unit": ({"cgroup": unit / "below"}, True),
        "unit, excluded user": ({"cgroup": unit, "user": USER}, False),
        "another": ({}, False),
        "the unit's slice": ({"cgroup": world.cgroup}, False),
        "none": ({"cgroup": CONTROL_GROUPS}, False),
        "user": ({"user": CHOSEN_USER}, True),
        "user, excluded group": ({"user": CHOSEN_USER, "cgroup": "spared"}, False),
        "mark": ({"mark": CHOSEN_MARK | 7}, True),
        "mark, excluded group": ({"mark": CHOSEN_MARK, "cgroup": "spared"}, False),
        "another mark": ({"mark": CHOSEN_MARK << 1}, False),
    }


WHO = ("unit", "below the unit", "unit, excluded user", "another", "mark", "another mark")
WHO += ("the unit's slice", "none", "user", "user, excluded group", "mark, excluded group")


class TestOnlySomePrograms:
    @every_family
    @pytest.mark.parametrize("who", WHO)
    def test_outbound(self, choosing, family, who):
        options, captured = chosen(choosing)[who]
        to = (address_of(choosing.other, family), 7000)
        seen = observe(choosing, choosing.app, to, **options)
        assert seen.passed() == ([("app", "outbound", plain_name(to))] if captured else [])
        assert seen.is_whole() and seen.server == "other" and (captured or seen.saw_the_client())

    @every_family
    @every_transport
    @pytest.mark.parametrize("who", WHO[:7])
    def test_dns(self, choosing, family, transport, who):
        options, captured = chosen(choosing)[who]
        to = (address_of(choosing.other, family), 53)
        assert ask_by(transport)(choosing, family, to, **options) == (captured, to)

    @pytest.mark.parametrize("who", WHO)
    def test_what_if_agrees(self, choosing, who):
        options, captured = chosen(choosing)[who]
        to = name_of(choosing.other.ipv4, 7000)
        cgroup = str(choosing.cgroup_of(choosing.app) / options.get("cgroup", "")).removeprefix(str(CONTROL_GROUPS)) or "/"
        words = ["what-if", "-j", "--to", to, "--cgroup", cgroup, "--uid", str(options.get("user", 0)), "--mark", str(options.get("mark", 0))]
        done = choosing.app.pod.run([choosing.mesh.weir_path, "explain", *words], env=choosing.environment)
        said = json.loads(done.stdout)["outbound"]
        assert said["cgroup"] == cgroup
        assert said["verdict"].split(" ")[0] == ("captured" if captured else "left"), json.dumps(said)


# --- coming and going ------------------------------------------------------------------------------------------------
def test_what_is_in_place_is_not_touched(world):
    assert world.apply(world.app) == "interception: unchanged\n"


THEIRS = """
*raw
-A OUTPUT -p udp -m udp --dport 4789 -m comment --comment "an overlay's" -j NOTRACK
COMMIT
*nat
:THEIRS - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j THEIRS
-A OUTPUT ! -d LOOPBACK -m addrtype --dst-type LOCAL -j THEIRS
-A THEIRS -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 443
COMMIT
"""
SAVES = [[f"ip{six}tables-{kind}-save"] for six in ("", "6") for kind in ("nft", "legacy")]


class Lone(CapturedPod):
    """A captured pod with a stand-in for the proxy, and rules of others where weir's come."""

    def __init__(self, network, weir, backend):
        super().__init__(network, weir, "app")
        self.backend, self.environment = backend, environment(network, backend)
        for six, loopback in (("", "127.0.0.0/8"), ("6", "::1/128")):
            for kind in ("nft", "legacy"):
                text = THEIRS.replace("LOOPBACK", loopback)
                self.pod.run([f"ip{six}tables-{kind}-restore"], input=text)

    def weir(self, verb, *words, **options):
        words = [*BACKENDS[self.backend], *words] if verb in ("apply", "plan") else words
        return self.pod.run([self.path, "intercept", verb, *words], env=self.environment, **options)

    def slowly(self, verb, *words):
        """(What is mounted is that of the test's own process: who traces a program is its parent.)"""
        words = [*SLOWLY, self.path, "intercept", verb, *BACKENDS[self.backend], *words]
        env = {**os.environ, **self.environment, "ASAN_OPTIONS": "detect_leaks=0"}
        with self.enter():
            done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self):
        text = state(self, [*STATE[:-1], ["sysctl", "-a", "--pattern", "fwmark"], *SAVES])
        text += str(pins_of(cookie_of(self)))
        return re.sub(r"\[\d+:\d+\]|^# .*$|packets \d+ bytes \d+", "", text, flags=re.MULTILINE)


@pytest.fixture(params=list(BACKENDS))
def lone(request, network, weir):
    return Lone(network, weir, request.param)


EVERYTHING = (
    *("--vips", "240.240.0.0/16,fd77:65:6972::/112", "--exclude-marks", "0x10,0x5500/0xff00"),
    *("--include-outbound-ports", "1-79,81,83,85,87,89,91,93,95,97,99,101,103,105,1000-65535"),
    *("--include-outbound-cidrs", "10.0.0.0/8,192.0.2.1,fd00::/8", "--exclude-outbound-cidrs", "10.9.0.0/16"),
    *("--exclude-inbound-interfaces", "docker*,br0"),
    *("--include-users", "0-9,65534", "--include-groups", "0,5-9", "--exclude-users", "4,6-8"),
    *("--dns-servers", "10.0.0.53,fd00::53", "--proxy-user", "77", "--exclude-inbound-ports", "9000-9010,9999"),
)


INTERFACES = (*EVERYTHING, "--include-outbound-interfaces", "eth*,lo")


@pytest.mark.parametrize("plan", [(), EVERYTHING, INTERFACES, ("--no-ipv6", "--no-dns")], ids=lambda plan: len(plan))
def test_it_comes_and_goes_without_a_trace(lone, plan):
    before = lone.state()
    assert lone.weir("apply", *plan).stdout == "interception: installed\n"
    installed = lone.state()
    assert installed != before
    assert lone.weir("apply", *plan).stdout == "interception: unchanged\n"
    assert lone.state() == installed
    shown = lone.show()
    assert shown["installed"] and not shown["altered"]
    assert lone.weir("remove").stdout == "interception: removed\n"
    assert lone.state() == before
    assert lone.weir("remove").stdout == "interception: nothing was installed\n"


def put_by_hand(lone, text):
    """What a plan prints, by the programs that it is for."""
    for line in text.splitlines():
        if line.startswith("# and: "):
            lone.pod.run(line.removeprefix("# and: ").split())
    kind = lone.backend.removeprefix("iptables-")
    programs = {"4": f"iptables-{kind}-restore", "6": f"ip6tables-{kind}-restore"}
    if lone.backend.startswith("nft"):
        lone.pod.run(["nft", "-f", "-"], input=text)
    else:
        for part in text.split("# IPv")[1:]:
            lone.pod.run([programs[part[0]], "--noflush"], input=part.partition("\n")[2])


@pytest.mark.parametrize("plan", [(), EVERYTHING, ("--no-ipv6", "--fail", "hold")], ids=lambda plan: len(plan))
def test_a_plan_is_what_is_installed(lone, plan):
    before = lone.state()
    text = lone.weir("plan", *plan).stdout
    assert lone.state() == before, "printed, and nothing else"
    if lone.backend.startswith("ebpf"):  # there is no program for it but weir
        assert lone.weir("apply", *plan).stdout == "interception: installed\n"
        planned = re.findall(r"^\t(.*) # (.*)$", text.partition("by ebpf:\n")[2] or text, re.MULTILINE)
        shown = [(rule["rule"], rule["purpose"]) for rule in lone.show()["rules"]]
        assert planned and (planned == shown or (lone.backend == "ebpf-nft" and set(planned) < set(shown)))
    else:
        put_by_hand(lone, text)
        assert lone.weir("apply", *plan).stdout == "interception: unchanged\n"
    assert lone.weir("remove").stdout == "interception: removed\n"


@pytest.mark.parametrize("address", ["ipv4", "ipv6"])
def test_show_counts_and_check_proves(lone, address):
    other = lone.pod.network.pod("other")
    lone.apply()
    target = getattr(other, address)
    assert probe(lone, target, 80) == f"outbound {name_of(target, 80)}"
    assert lone.packets("outbound", "output") == 1
    status, results = lone.check()
    assert status == 0, results
    assert {result for result, _ in results.values()} <= {"ok", "skipped"}
    assert results["outbound TCP", address.replace("ip", "IP")][0] == "ok"


@pytest.fixture
def group(lone):
    """A control group, and what answers a program in it."""
    folder = CONTROL_GROUPS / f"{lone.pod.network.prefix}some"
    other = lone.pod.network.pod("other")
    Server(other, 80, "direct")
    folder.mkdir()
    with Callers() as callers:

        def answers(place=folder):
            with callers.call(lone, (other.ipv4, 80), cgroup=str(place)) as sock:
                return sock.recv(512).decode().split()[0]

        yield folder, answers


def remove_group(folder):
    """Who has called from there may be about to end."""

    def done():
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    wait_until(done, what="nobody is in the control group")


def stale(lone):
    """What check says of control groups."""
    status, results = lone.check()
    result, found = results["control groups", None]
    assert status == (result != "ok")
    return found


def test_a_control_group_that_is_made_anew_is_another_one(lone, group):
    """A unit that restarts is such. The rules go on for the one that is gone, and check says so."""
    folder, answers = group
    before = lone.state()
    words = ("--exclude-cgroups", folder.name)
    assert lone.weir("apply", *words).stdout == "interception: installed\n"
    assert lone.weir("apply", "--exclude-cgroups", f"/{folder.name}/").stdout == "interception: unchanged\n"
    assert answers() == "direct" and stale(lone) == "1, all there"
    remove_group(folder)
    assert stale(lone).startswith("1 of 1 gone") and folder.name in stale(lone)
    failed = lone.weir("apply", *words, check=False)
    assert failed.returncode == 1 and f"there is no control group '{folder.name}'" in failed.stderr
    folder.mkdir()
    assert answers() == "outbound" and stale(lone).startswith("1 of 1 gone")
    assert lone.weir("apply", *words).stdout == "interception: installed\n"
    assert answers() == "direct" and stale(lone) == "1, all there"
    remove_group(folder)
    assert lone.weir("remove").stdout == "interception: removed\n"
    assert lone.state() == before


def test_an_included_control_group(lone, group):
    """Shown by its path, also one that has what must be quoted."""
    folder, answers = group
    assert lone.weir("apply", "--include-cgroups", f"{folder.name}").stdout == "interception: installed\n"
    assert answers() == "outbound" and answers(CONTROL_GROUPS) == "direct"
    shown = lone.show()
    assert not shown["altered"]
    rules = [rule["rule"] for rule in shown["rules"] if rule["purpose"] == f"included control group {folder.name}"]
    assert f'socket cgroupv2 level 1 "{folder.name}" goto chosen' in rules
    status, results = lone.check()
    assert {result for result, _ in results.values()} <= {"ok", "skipped"}, results
    below = folder / "a\\x2db"
    below.mkdir()
    assert lone.weir("apply", "--include-cgroups", f"{folder.name}/{below.name}").stdout == "interception: installed\n"
    assert lone.weir("apply", "--include-cgroups", f"{folder.name}/{below.name}").stdout == "interception: unchanged\n"
    assert answers() == "direct" and not lone.show()["altered"]


# So slowly that whatever is missing between two steps is missed by somebody.
SLOWLY = ["strace", "-f", "-o", "/dev/null", "-e", "inject=bpf,sendmsg,sendto,setsockopt:delay_enter=300"]


def inbound_by_any_way(lone):
    """In place of the stand-in's inbound part, which asks for destinations that only some ways tell."""
    for server in [server for server in lone.stand_in if server.word == "inbound"]:
        server.close()
    for address, (level, option) in (("0.0.0.0", TRANSPARENT["ipv4"]), ("::", TRANSPARENT["ipv6"])):
        Server(lone, 15006, "inbound", address).socket.setsockopt(level, option, 1)


def test_another_plan_takes_over_without_a_gap(lone):
    """What all plans capture is captured at every moment, and what none of them captures never is."""
    other = lone.pod.network.pod("other")
    inbound_by_any_way(lone)
    for address in ("0.0.0.0", "::"):
        for port in (83, 2001):
            Server(other, port, "other", address)
            Server(lone, port, "app", address)
        Server(other, 53, "other", address, udp=True)
    spare = ("--exclude-outbound-ports", "2001", "--exclude-inbound-ports", "2001")
    servers = ("--dns-servers", f"{other.ipv4},{other.ipv6}")
    group = CONTROL_GROUPS / f"{lone.pod.network.prefix}some"
    group.mkdir()
    chosen = ("--include-cgroups", group.name, "--include-users", "0")
    lone.weir("apply", *spare)
    answers, done = {}, threading.Event()

    def ask(way, pod, address, port):
        said = answers[way, address] = set()
        while not done.is_set():
            try:
                said.add(probe(pod, address, port, udp=way == "dns").split()[0])
            except (OSError, IndexError) as error:
                said.add(repr(error))

    ways = [("dns", lone, address, 53) for address in (other.ipv4, other.ipv6)]
    for word, port in (("captured", 83), ("spared", 2001)):
        ways += [(f"outbound, {word}", lone, address, port) for address in (other.ipv4, other.ipv6)]
        ways += [(f"inbound, {word}", other, address, port) for address in (lone.ipv4, lone.ipv6)]
    asking = [threading.Thread(target=ask, args=way) for way in ways]
    plans = ((*EVERYTHING, *servers), ("--exclude-outbound-ports", "7", "--include-users", "0,7"), chosen, ())
    for thread in asking:
        thread.start()
    try:
        for plan in (2 if lone.backend.startswith("nft") else 1) * plans:
            assert lone.slowly("apply", *plan, *spare) == "interception: installed\n"
    finally:
        done.set()
        for thread in asking:
            thread.join()
    wanted = {"outbound, captured": "outbound", "outbound, spared": "other", "inbound, captured": "inbound", "inbound, spared": "app"}
    assert answers == {(way, address): {wanted.get(way, way)} for way, _, address, _ in ways}


def open_pair(client, server, family):
    """A connection from the one pod to the other: its two ends."""
    with server.enter(), socket.create_server((getattr(server, family), 7000), family=SOCKET_FAMILY[family]) as listener:
        with client.enter():
            calling = socket.create_connection(listener.getsockname()[:2], timeout=30)
        called = listener.accept()[0]
    called.settimeout(30)
    return calling, called


@pytest.mark.parametrize("backend", BACKENDS)
def test_open_connections_go_on_when_rules_come(network, weir, backend):
    """Nobody tracked them before. Whoever sends first, from then on the kernel takes it for a new connection."""
    app, other = CapturedPod(network, weir, "app", proxy=False), network.pod("other")
    for port, addresses in ((15001, ("127.0.0.1", "::1")), (15006, ("0.0.0.0", "::"))):
        for address in addresses:
            proxy = Talker(app, port, f"proxy-{port}", address).socket
            proxy.setsockopt(*TRANSPARENT["ipv6" if ":" in address else "ipv4"], 1)
    pairs = []
    for family in ("ipv4", "ipv6"):
        for client, server in ((app, other), (other, app)):
            pairs += [open_pair(client, server, family), open_pair(client, server, family)[::-1]]
    app.weir("apply", *BACKENDS[backend], env=environment(network, backend))
    for first, second in pairs:
        with first, second:
            for sender, receiver in ((first, second), (second, first), (first, second)):
                sender.sendall(b"still here")
                assert receiver.recv(100) == b"still here"
    for family in ("ipv4", "ipv6"):
        assert probe(app, getattr(other, family), 7000).startswith("proxy-15001 ")
        assert probe(other, getattr(app, family), 7000).startswith("proxy-15006 ")


THEIR_NAT = "table inet theirs { chain nat { type nat hook output priority 0; tcp dport 1 redirect to :2; }; }"


@pytest.mark.parametrize("address", ["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "backend, keeper",
    [("nft", "weir"), ("nft", "others"), ("iptables-nft", "weir"), ("iptables-legacy", "others"), ("ebpf", "weir"), ("ebpf-nft", "weir")],
)
def test_open_connections_go_on_when_rules_go(network, weir, address, backend, keeper):
    """Where addresses are translated, the kernel goes on with it as long as anybody has rules for that."""
    app = CapturedPod(network, weir, "app", proxy=False)
    other = getattr(network.pod("other"), address)
    Talker(app, 15001, "proxy", "::1" if address == "ipv6" else "127.0.0.1")
    before, words = state(app, STATE[1:]), {"env": environment(network, backend)}
    app.weir("apply", *BACKENDS[backend], "--vips", ",".join(VIPS), **words)
    with app.enter(), socket.create_connection((other, 7000), timeout=30) as sock:
        assert sock.recv(100).startswith(b"proxy ")
        if keeper == "others":
            app.pod.run(["nft", THEIR_NAT])
        options = ["--leave-open"] if keeper == "weir" else []
        assert app.weir("remove", *options, **words).stdout == "interception: removed\n"
        assert probe(app, other, 7000) == "refused", "it goes directly, and nobody is there"
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
    left = keeper == "weir"
    assert app.weir("remove", **words).stdout == f"interception: {'removed' if left else 'nothing was installed'}\n"
    assert state(app, STATE[1:]) == before


@pytest.mark.parametrize("address", ["ipv4", "ipv6"])
@pytest.mark.parametrize("capture", [{"inbound_source": "client"}, {"inbound_mode": "tproxy"}, {"fail": "hold"}], ids=str)
def test_connections_from_outside_go_on_when_rules_go(network, weir, weir_proxy, address, capture):
    sidecar = Mesh(network, weir, weir_proxy).sidecar("app", intercept={"capture": capture})
    other = network.pod("other")
    talkers(sidecar.pod, "app", 7000)
    with other.enter(), socket.create_connection((getattr(sidecar, address), 7000), timeout=30) as sock:
        assert sock.recv(100).startswith(b"app ")
        sidecar.pod.run([weir, "intercept", "remove", "--leave-open"])
        answer = probe(other, getattr(sidecar, address), 7000)
        assert answer.split()[:2] == ["app", getattr(other, address)], "directly: nobody is between"
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
    sidecar.pod.run([weir, "intercept", "remove"])
    assert sidecar.pod.run(["nft", "list", "ruleset"]).stdout == ""


def test_one_back_end_takes_over_from_another(lone):
    before = lone.state()
    lone.pod.run([lone.path, "intercept", "apply", "--backend", "nft"])
    assert lone.weir("apply").stdout == f"interception: {'unchanged' if lone.backend == 'nft' else 'installed'}\n"
    assert ("table inet weir" in lone.state()) == (lone.backend in ("nft", "nft-tproxy", "nft-client", "ebpf-nft"))
    lone.pod.run([lone.path, "intercept", "apply", "--backend", "nft"])
    lone.pod.run([lone.path, "intercept", "remove"])
    assert lone.state() == before
