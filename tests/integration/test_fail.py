# SPDX-License-Identifier: Apache-2.0
"""What becomes of connections while no proxy listens: refused, let through, or left waiting; the proxy is killed for it."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import threading

import pytest

from capture import (
    TIMEOUT,
    CapturedPod,
    Server,
    bpftool,
    cookie_of,
    environment,
    name_of,
    pins_of,
    probe,
    stand_in,
    state,
)
from mesh import Mesh, Origin, connect
from netns import readable, wait_until

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
all_families = pytest.mark.parametrize("family", [4, 6, "mapped"], ids=["ipv4", "ipv6", "mapped"])
WAYS = {
    "nft": ["--backend", "nft"],
    "nft-tproxy": ["--backend", "nft", "--inbound-mode", "tproxy"],
    "iptables": ["--backend", "iptables"],
    "ebpf": ["--backend", "ebpf"],
    "ebpf-nft": ["--backend", "ebpf", "--exclude-outbound-interfaces", "eth9"],
}
every_way = pytest.mark.parametrize("way", list(WAYS))
KINDS = {kind: WAYS["iptables"] for kind in ("iptables-nft", "iptables-legacy")}
ANY = {4: "0.0.0.0", 6: "::"}


def ip_of(pod, family):
    """An address of IPv4 in a socket of IPv6 is `mapped`."""
    return {4: pod.ipv4, 6: pod.ipv6, "mapped": f"::ffff:{pod.ipv4}"}[family]


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


@pytest.fixture
def other(network):
    pod = network.pod("other")
    for address in ANY.values():
        Server(pod, 80, "other", address)
        Server(pod, 53, "other", address, udp=True)
    return pod


# --- hold ------------------------------------------------------------------------------------------------------------
class Waiting(threading.Thread):
    """A probe that is under way."""

    def __init__(self, *arguments):
        super().__init__(daemon=True)
        self.arguments, self.answer = arguments, None
        self.start()

    def run(self):
        with contextlib.suppress(TimeoutError):
            self.answer = probe(*self.arguments)

    def result(self):
        self.join(TIMEOUT + 10)
        return self.answer


# Inbound connections by tproxy wait before they come to the proxy's ports.
HELD, ARRIVING = "held, while no proxy listens", "inbound, while no proxy listens"


@families
@every_way
def test_connections_wait_for_the_proxy(network, weir, other, family, way):
    app = CapturedPod(network, weir, "app", proxy=False)
    Server(app, 80, "app", ANY[family])
    app.apply(*WAYS[way], "--fail", "hold")
    assert (app.show()["altered"], app.show()["fail"]) == (False, "hold")
    assert app.apply(*WAYS[way], "--fail", "hold") == "interception: unchanged\n"
    outbound = Waiting(app, ip_of(other, family), 80)
    inbound = Waiting(other, ip_of(app, family), 80)
    purpose = "inbound, while no proxy listens" if way == "nft-tproxy" else "held, while no proxy listens"
    wait_until(lambda: app.packets("held, while no proxy listens") >= 1)
    wait_until(lambda: app.packets(purpose) + app.packets("held, while no proxy listens") >= 2)
    assert outbound.answer is None and inbound.answer is None
    stand_in(app)
    assert outbound.result() == f"outbound {name_of(ip_of(other, family), 80)}"
    if way != "nft-tproxy":  # that one needs a listener with a privilege: the real proxy's
        assert inbound.result() == f"inbound {name_of(ip_of(app, family), 80)}"


@pytest.mark.parametrize("way", ["nft", "iptables", "ebpf"])
def test_connections_to_mapped_addresses_wait(network, weir, other, way):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply(*WAYS[way], "--fail", "hold")
    outbound = Waiting(app, ip_of(other, "mapped"), 80)
    wait_until(lambda: app.packets("held, while no proxy listens") >= 1)
    assert outbound.answer is None
    stand_in(app)
    assert outbound.result() == f"outbound {name_of(other.ipv4, 80)}"


@all_families
@pytest.mark.parametrize("way", ["nft", "iptables", "ebpf"])
def test_connections_to_dns_servers_wait(network, weir, other, family, way):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply(*WAYS[way], "--fail", "hold")
    outbound = Waiting(app, ip_of(other, family), 53)
    wait_until(lambda: app.packets("held, while no proxy listens") >= 1)
    assert outbound.answer is None
    stand_in(app)
    assert outbound.result() == f"dns {name_of(other.ipv6 if family == 6 else other.ipv4, 53)}"


@all_families
@pytest.mark.parametrize("connected", [True, False], ids=["connect", "sendto"])
@pytest.mark.parametrize("way", ["nft", "iptables", "ebpf"])
def test_queries_wait_for_the_proxy(network, weir, other, way, connected, family):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply(*WAYS[way], "--fail", "hold")
    server = (ip_of(other, family), 53)
    with app.enter(), socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        if connected:
            sock.connect(server)
        ask = functools.partial(sock.send, b"?") if connected else functools.partial(sock.sendto, b"?", server)
        ask()
        wait_until(lambda: app.packets("held, while no proxy listens") == 1)
        assert not readable(sock), "neither an answer nor an error"
        stand_in(app)
        ask()
        sock.settimeout(TIMEOUT)
        data, source = sock.recvfrom(100)
        assert (data, source[:2]) == (b"dns", server)


@families
@pytest.mark.parametrize("way", ["nft", "nft-tproxy", "iptables-nft", "iptables-legacy", "ebpf", "ebpf-nft"])
def test_connections_wait_no_longer_than_told(network, weir, other, family, way, monkeypatch):
    """The attempt that TCP makes after the limit is refused, and a new connection waits again."""
    app = CapturedPod(network, weir, "app", proxy=False)
    server = Server(app, 80, "app", ANY[family])
    monkeypatch.setenv("PATH", environment(network, way)["PATH"])
    words = [*{**WAYS, **KINDS}[way], "--fail", "hold", "--hold-timeout", "450ms"]
    app.apply(*words)
    assert app.apply(*words) == "interception: unchanged\n" and app.show()["altered"] is False
    for _ in range(2):
        before = app.packets(HELD) + app.packets(ARRIVING)
        waiting = [Waiting(app, ip_of(other, family), 80), Waiting(other, ip_of(app, family), 80)]
        assert [one.result() for one in waiting] == ["refused", "refused"]
        assert app.packets(HELD) + app.packets(ARRIVING) >= before + 2
    assert server.peers == []
    assert app.show()["altered"] is False
    stand_in(app)
    assert probe(app, ip_of(other, family), 80).startswith("outbound ")
    if way != "nft-tproxy":  # that one needs a listener with a privilege: the real proxy's
        assert probe(other, ip_of(app, family), 80).startswith("inbound ")
    assert app.apply(*words[:4]) == "interception: installed\n"
    app.weir("remove")


IP_RECVERR, IPV6_RECVERR = 11, 25


class Asker:
    """A socket that asks a DNS server, and hears if that is refused. It may be bound to an interface, or share the port of
    another one."""

    def __init__(self, pod, server, connected, device=None, port=None):
        self.server, self.connected = server, connected
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        with pod.enter():
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if device:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if port is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self.socket.bind(("", port))
        if connected:
            self.socket.connect(server)
            return
        self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)

    def ask(self, server=None):
        """False: refused, at once; or what was asked before is. Or not even sent any more (a PermissionError)."""
        try:
            self.socket.send(b"?") if self.connected else self.socket.sendto(b"?", server or self.server)
            self.socket.recv(100, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except (ConnectionRefusedError, PermissionError) as error:
            self.error = type(error)
            if not self.connected and self.error is ConnectionRefusedError:
                self.refused_by = self.socket.recvmsg(100, 1000, socket.MSG_ERRQUEUE)[3][:2]
            return False

    def answer(self):
        self.socket.settimeout(TIMEOUT)
        self.socket.send(b"?") if self.connected else self.socket.sendto(b"?", self.server)
        data, source = self.socket.recvfrom(100)
        return data, source[:2]


@pytest.mark.parametrize("way", ["nft", "iptables-nft", "iptables-legacy", "ebpf", "ebpf-nft"])
def test_queries_wait_no_longer_than_told(network, weir, other, way, monkeypatch):
    """Who asks again after the limit, from the same port, is refused; a first query waits, and one to another server."""
    app = CapturedPod(network, weir, "app", proxy=False)
    monkeypatch.setenv("PATH", environment(network, way)["PATH"])
    words = [*{**WAYS, **KINDS}[way], "--fail", "hold", "--hold-timeout", "500ms"]
    app.apply(*words)
    assert app.apply(*words) == "interception: unchanged\n"

    def all_wait(queries):
        before = app.packets(HELD)
        assert all(asker.ask(server) for asker, server in queries)
        wait_until(lambda: app.packets(HELD) == before + len(queries))
        assert not any(readable(asker.socket) for asker, _ in queries)

    def is_held(asker, server):
        before = app.packets(HELD)
        return asker.ask(server) and app.packets(HELD) > before

    kinds = [((ip_of(other, family), 53), connected) for family in (4, 6, "mapped") for connected in (True, False)]
    askers, more = ([Asker(app, *kind) for kind in kinds] for _ in range(2))
    all_wait([(asker, asker.server) for asker in askers])
    for asker in askers * 2:
        wait_until(lambda: not asker.ask())
        assert asker.error is ConnectionRefusedError
        assert asker.connected or way == "ebpf" or asker.refused_by == asker.server
    all_wait([(asker, asker.server) for asker in more])
    for asker in askers:
        if not asker.connected:
            others = ((f"{asker.server[0]}{last}", 53) for last in range(1, 7))
            wait_until(lambda: is_held(asker, next(others)))  # the refusal of a query before may come late
            all_wait([(asker, next(others)) for _ in range(3)])  # more than programs know of a socket
    assert app.show()["altered"] is False
    app.apply(*words[:-1], "1h")
    patient = Asker(app, (other.ipv4, 53), True)
    all_wait([(patient, patient.server)] * 3)
    stand_in(app)
    for asker in askers:
        data, source = asker.answer()
        # The stand-in does not answer from the address that it was asked at, as it is when there were several servers.
        assert data == b"dns" and (source == asker.server or not asker.connected)


@all_families
@pytest.mark.parametrize("connected", [True, False], ids=["connect", "sendto"])
def test_queries_by_an_interface_wait_no_longer_than_told(network, weir, other, connected, family):
    """With eBPF, where they are answered. Each server that is asked has a time of its own, though all of these queries go
    to one address."""
    app = CapturedPod(network, weir, "app", proxy=False)
    words = [*WAYS["ebpf"], "--fail", "hold", "--hold-timeout"]
    app.apply(*words, "1h")
    patient, asker, another = (Asker(app, (ip_of(other, family), 53), connected, "eth0") for _ in range(3))
    assert all(patient.ask() for _ in range(3))
    wait_until(lambda: app.packets(HELD) >= 3)
    assert app.packets(HELD) == 3 and not readable(patient.socket)
    app.apply(*words, "500ms")
    assert asker.ask()
    wait_until(lambda: not asker.ask())
    assert asker.error is PermissionError
    before = app.packets(HELD)
    assert not asker.ask() and another.ask()
    wait_until(lambda: app.packets(HELD) > before)
    if not connected:
        servers = [(f"{asker.server[0]}{last}", 53) for last in range(1, 4)]
        assert all(asker.ask(server) for server in servers) and not asker.ask()
        for server in servers:
            wait_until(lambda server=server: not asker.ask(server))
        assert asker.ask((f"{asker.server[0]}4", 53)), "more than programs know of a socket"
    stand_in(app)
    assert [one.answer() for one in (patient, asker, another)] == [(b"dns", asker.server)] * 3


@all_families
@pytest.mark.parametrize("way", ["nft", "iptables-nft", "iptables-legacy", "ebpf", "ebpf-nft"])
def test_queries_from_one_port_wait_no_longer_than_told(network, weir, other, family, way, monkeypatch):
    """Of several sockets, each with a server, and a time of its own; but for iptables, which know the port alone."""
    app = CapturedPod(network, weir, "app", proxy=False)
    monkeypatch.setenv("PATH", environment(network, way)["PATH"])
    app.apply(*{**WAYS, **KINDS}[way], "--fail", "hold", "--hold-timeout", "500ms")
    for connected in (True, False) if way == "ebpf" else (True,):  # else the kernel does not tell whose query it was
        askers, port = [], 0
        for last in range(1, 4):
            askers.append(Asker(app, (f"{ip_of(other, family)}{last}", 53), connected, port=port))
            port = askers[0].socket.getsockname()[1]
        for asker in askers:
            assert asker.ask() or way.startswith("iptables")
            wait_until(lambda asker=asker: not asker.ask())
        errors = [asker.error for asker in askers]
        assert errors.count(ConnectionRefusedError) == (1 if way == "ebpf" else 3)


@pytest.mark.parametrize("way", ["nft", "nft-tproxy", "iptables", "ebpf"])
def test_a_proxy_that_comes_back_gets_what_waited(mesh, other, way):
    """With the real one, killed under load and started again."""
    mode = "tproxy" if way == "nft-tproxy" else "redirect"
    capture = {"fail": "hold", "hold_timeout": "1h", "inbound_mode": mode}
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": capture})
    sidecar.start()
    sidecar.intercept("apply", *WAYS[way][:2])
    app = Server(sidecar.pod, 80, "app")
    assert probe(sidecar.pod, other.ipv4, 80).startswith("other ")
    assert probe(other, sidecar.ipv4, 80).startswith("app ")
    done, ends = threading.Event(), set()

    def load():
        while not done.is_set():
            ends.add((probe_or_reset(sidecar.pod, other.ipv4, 80) or "reset").split()[0])

    loaders = [threading.Thread(target=load) for _ in range(2)]
    for loader in loaders:
        loader.start()
    sidecar.proxy.kill()
    before = list(app.peers)
    waiting = [Waiting(sidecar.pod, other.ipv4, 80), Waiting(other, sidecar.ipv4, 80)]

    def held():
        rows = sidecar.pod.run([mesh.weir_path, "intercept", "show"]).stdout.splitlines()
        return sum(int(row.split()[1]) for row in rows if "while no proxy listens" in row)

    wait_until(lambda: held() >= 2 + len(loaders))
    assert [one.answer for one in waiting] == [None, None] and app.peers == before
    sidecar.start()
    assert waiting[0].result().startswith("other ")
    assert waiting[1].result().startswith("app ")
    done.set()
    for loader in loaders:
        loader.join()
    assert ends <= {"other", "reset"}, "nobody is refused or left hanging"
    assert set(app.peers) == {"127.0.0.6"}


# --- closed ----------------------------------------------------------------------------------------------------------
@families
@every_way
def test_connections_are_refused(network, weir, other, family, way):
    app = CapturedPod(network, weir, "app", proxy=False)
    server = Server(app, 80, "app", ANY[family])
    app.apply(*WAYS[way])
    assert app.show()["fail"] == "closed"
    assert probe(app, ip_of(other, family), 80) == "refused"
    assert probe(app, ip_of(other, family), 53, udp=True) == "refused"
    if way == "nft-tproxy":  # inbound, no answer: TCP tries again
        inbound, purpose = Waiting(other, ip_of(app, family), 80), "inbound, while no proxy listens"
        wait_until(lambda: app.packets(purpose) >= 2)
        assert inbound.answer is None
    else:
        assert probe(other, ip_of(app, family), 80) == "refused"
    assert server.peers == []


# --- open ------------------------------------------------------------------------------------------------------------
KEYS = {
    "redirect": {},
    "tproxy": {"inbound_mode": "tproxy"},
    "interfaces": {"outbound": {"include_interfaces": ["eth0"]}},
    "ebpf": {"backend": "ebpf"},
}


def in_kernel(pod):
    """All that may go with a proxy: its table, and programs, of which many are others'."""
    rules = pod.run(["nft", "list", "ruleset"]).stdout
    return {row["id"] for row in bpftool("prog", "show")} | ({"table"} if "table inet weir " in rules else set())


def held(sidecar):
    """What of it is this proxy's."""
    programs = sidecar.show("prog", "show")["programs"]
    pins = f"/proc/{sidecar.proxy.pid}/fd/"
    own = {"table"} | {row["id"] for row in programs if (row["pin"] or "").startswith(pins)}
    return own & in_kernel(sidecar.pod)


@families
@pytest.mark.parametrize("keys", list(KEYS))
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_the_proxy_all_is_as_without_weir(mesh, other, family, keys, end):
    """Under load: connections are being made all the time while it goes."""
    pod = mesh.network.pod("app")
    before = state(pod)
    sidecar = mesh.sidecar(
        "app", pod=pod, start=False, user="nobody", intercept={"capture": {"fail": "open", **KEYS[keys]}}
    )
    sidecar.folder.chmod(0o777)
    sidecar.start()
    app = Server(pod, 80, "app", ANY[family])
    own = held(sidecar)
    assert ("table" in own) == (keys != "ebpf") and len(own) > (10 if keys == "ebpf" else 0)
    shown = sidecar.show("intercept", "show")
    assert shown["held_by_proxy"] and shown["fail"] == "open" and not shown["altered"]
    assert f"CapEff:\t{1 << 13:016x}" in open(f"/proc/{sidecar.proxy.pid}/status").read(), "CAP_NET_RAW and no more"
    assert probe(other, ip_of(pod, family), 80).startswith("app ")
    assert probe(pod, ip_of(other, family), 80).startswith("other ")
    assert app.peers == ["127.0.0.6" if family == 4 else pod.ipv6]
    assert sidecar.counter("downstream_connections_total") == 2
    done, ends = threading.Event(), set()

    def load():
        while not done.is_set():
            ends.add((probe_or_reset(pod, ip_of(other, family), 80) or "reset").split()[0])

    loaders = [threading.Thread(target=load) for _ in range(2)]
    for loader in loaders:
        loader.start()
    assert getattr(sidecar.proxy, end)() == (-9 if end == "kill" else 0)
    for _ in range(5):
        assert probe(pod, ip_of(other, family), 80).startswith("other ")
        assert probe(other, ip_of(pod, family), 80).startswith("app ")
    wait_until(lambda: not own & in_kernel(pod))  # programs go a moment later
    done.set()
    for loader in loaders:
        loader.join()
    assert ends <= {"other", "reset", "refused"}, "nobody is left hanging"
    assert set(app.peers[1:]) == {ip_of(other, family)}, "the application sees its client: nobody is between"
    pod.run([mesh.weir_path, "intercept", "remove"])  # routes of virtual IPs, where there were any
    assert state(pod) == before


class Echo(Server):
    """Says its word to each connection, and then whatever it hears."""

    def _connections(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.socket.accept()
                threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock):
        with sock, contextlib.suppress(OSError):
            sock.sendall(self.word.encode())
            while data := sock.recv(100):
                sock.sendall(data)


OPEN = {"nft": {"fail": "open"}, "ebpf": {"fail": "open", "backend": "ebpf"}}


def draining(sidecar):
    """Returns when it accepts no more."""
    wait_until(lambda: "msg=draining" in sidecar.proxy.output())
    sidecar.take_turn()


@families
@pytest.mark.parametrize("backend", list(OPEN))
@pytest.mark.parametrize("admin", [{}, {"metrics": "127.0.0.1:15090"}], ids=["", "metrics"])
def test_a_proxy_that_drains_lets_go_at_once(mesh, other, admin, backend, family):
    """New connections go directly, and what is open goes on."""
    sidecar = mesh.sidecar("app", start=False, user="nobody", intercept={"capture": OPEN[backend]})
    sidecar.folder.chmod(0o777)
    sidecar.write({**sidecar.config, "admin": {**sidecar.config["admin"], **admin}})
    sidecar.start()
    Echo(other, 4000, "other", ANY[family])
    own = held(sidecar)
    with sidecar.pod.enter(), socket.create_connection((ip_of(other, family), 4000), timeout=30) as sock:
        assert sock.recv(100) == b"other"
        os.kill(sidecar.proxy.pid, signal.SIGTERM)
        wait_until(lambda: "table inet weir " not in sidecar.pod.run(["nft", "list", "ruleset"]).stdout)
        draining(sidecar)
        assert sidecar.proxy.alive()
        assert probe(sidecar.pod, ip_of(other, family), 80).startswith("other ")
        assert sidecar.counter("downstream_connections_total") == 1, "that was none of its"
        assert probe(sidecar.pod, ip_of(other, family), 53, udp=True).startswith("other")
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
        assert sock.getpeername()[:2] == (ip_of(other, family), 4000)
    assert sidecar.proxy.wait() == 0
    wait_until(lambda: not own & in_kernel(sidecar.pod))


@families
@pytest.mark.parametrize("backend", list(OPEN))
def test_a_proxy_that_drains_loses_nothing(mesh, other, backend, family):
    """Under load: of what was on its way to it, all arrives."""
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": OPEN[backend]}, workers=3)
    done, ends = threading.Event(), []
    sidecar.start()
    app = Server(sidecar.pod, 80, "app", ANY[family])

    def load(pod, target):
        while not done.is_set():
            ends.append(probe_or_reset(pod, ip_of(target, family), 80))

    ways = 2 * [(sidecar.pod, other), (other, sidecar.pod)]
    loaders = [threading.Thread(target=load, args=way) for way in ways]
    for loader in loaders:
        loader.start()
    wait_until(lambda: len(ends) > 200)
    assert sidecar.proxy.stop() == 0
    passed = len(ends)
    wait_until(lambda: len(ends) > passed + 50)
    done.set()
    for loader in loaders:
        loader.join()
    assert {end.split()[0] for end in ends} == {"app", "other"}
    assert len(set(app.peers)) == 2, "some through the proxy, and some not"
    assert "original destination" not in sidecar.proxy.output()


@families
@pytest.mark.parametrize("backend", list(OPEN))
def test_a_proxy_that_drains_goes_on_in_its_clients_names(mesh, other, backend, family):
    """A request that was half there: the application is called for it meanwhile."""
    capture, seen = {**OPEN[backend], "inbound_source": "client"}, []
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": capture})
    sidecar.start()

    def answer(peer):
        seen.append(peer.sock.getpeername()[0])
        peer.head()
        peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with Origin(sidecar.pod, 80, answer, ANY[family]):
        client = connect(other, ip_of(sidecar.pod, family), 80)
        client.send("GET / HTTP/1.1\r\n")
        wait_until(lambda: sidecar.counter("downstream_connections_total") == 1)
        os.kill(sidecar.proxy.pid, signal.SIGTERM)
        draining(sidecar)
        client.send("Host: app\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 204 ")
        client.close()
    assert seen == [ip_of(other, family)]
    assert sidecar.proxy.wait() == 0


def probe_or_reset(*arguments):
    try:
        return probe(*arguments)
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "hanging"


@pytest.mark.parametrize("backend", list(OPEN))
@pytest.mark.parametrize("before", ["iptables", "nft", "ebpf", "ebpf-nft"])
def test_rules_that_a_proxy_holds_are_its_own(mesh, other, before, backend):
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": OPEN[backend]})
    sidecar.pod.run([mesh.weir_path, "intercept", "apply", *WAYS[before]])
    sidecar.start()
    assert "WEIR" not in sidecar.pod.run(["iptables-save"]).stdout, "it takes over from rules that stay"
    assert pins_of(cookie_of(sidecar.pod)) == []
    own, shown = held(sidecar), sidecar.show("intercept", "show")
    assert ("table" in own) == (backend == "nft")
    for words in (["remove"], ["remove", "--leave-open"], *(["apply", *way] for way in WAYS.values())):
        failed = sidecar.pod.run([mesh.weir_path, "intercept", *words], check=False)
        assert failed.returncode == 1 and "belong to a proxy that runs" in failed.stderr
    second = sidecar.pod.run([mesh.weir_proxy, "--config", second_of(sidecar)], check=False)
    assert second.returncode == 1 and second.stderr.count("belong to a proxy that runs") == 1
    after = sidecar.show("intercept", "show")
    assert {**after, "rules": len(after["rules"])} == {**shown, "rules": len(shown["rules"])}, "nothing has changed"
    assert held(sidecar) == own
    assert shown["held_by_proxy"] and not shown["altered"] and shown["backend"] == backend
    assert probe(sidecar.pod, other.ipv4, 80).startswith("other ")
    assert sidecar.counter("downstream_connections_total") == 1


def second_of(sidecar):
    """The configuration of another proxy for the same network namespace, which differs in its socket and its ports."""
    path = sidecar.folder / "second.json"
    intercept = {**sidecar.config["intercept"], "outbound": 16001, "inbound": 16006, "dns": 16053}
    admin = {**sidecar.config["admin"], "socket": str(sidecar.folder / "second.sock")}
    path.write_text(json.dumps({**sidecar.config, "intercept": intercept, "admin": admin}))
    return path


def test_each_namespace_has_its_own_proxys_programs(mesh, other):
    """The one's end is not the other's."""
    first, second = (
        mesh.sidecar(name, start=False, intercept={"capture": OPEN["ebpf"]}) for name in ("first", "second")
    )
    first.start()
    second.start()
    assert probe(first.pod, other.ipv4, 80).startswith("other ")
    own = held(first)
    first.proxy.kill()
    wait_until(lambda: not own & in_kernel(first.pod))
    for _ in range(3):
        assert probe(second.pod, other.ipv4, 80).startswith("other ")
        assert probe(first.pod, other.ipv4, 80).startswith("other ")
    assert second.counter("downstream_connections_total") == 3
    first.start()
    assert held(first) and not held(first) & own
    assert probe(first.pod, other.ipv4, 80).startswith("other ")
    assert first.counter("downstream_connections_total") == 1
    first.proxy.kill()
    first.start()
    assert probe(first.pod, other.ipv4, 80).startswith("other ")
    assert first.counter("downstream_connections_total") == 1


def test_open_is_for_the_proxy_to_install(network, weir):
    pod = network.pod("app")
    for way, why in (("nft", "installs them itself"), ("ebpf-nft", "installs them itself"), ("iptables", "outlive the proxy")):
        failed = pod.run([weir, "intercept", "apply", *WAYS[way], "--fail", "open"], check=False)
        assert failed.returncode == 1 and why in failed.stderr


WITHOUT = {  # a privilege: what the proxy says
    ("nft", "net_admin"): "CAP_NET_ADMIN",
    ("ebpf", "net_admin"): "it needs the capability CAP_NET_ADMIN",
    ("ebpf", "sys_admin"): "it needs the capability CAP_SYS_ADMIN",
    ("auto", "net_admin"): "ebpf: eBPF programs cannot be installed",  # and nftables' reason before it
    ("iptables", None): "rules of iptables outlive the proxy",
    ("interfaces", None): "backend: nft; do that",
}


@pytest.mark.parametrize("backend, privilege", list(WITHOUT))
def test_a_proxy_that_cannot_install_rules_does_not_start(mesh, backend, privilege):
    capture = {"fail": "open", "backend": backend}
    if backend == "interfaces":
        capture = {**OPEN["ebpf"], **KEYS["interfaces"]}
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": capture})
    before = state(sidecar.pod)
    words = ["setpriv", f"--bounding-set=-{privilege}", f"--inh-caps=-{privilege}"] if privilege else []
    done = sidecar.pod.run([*words, mesh.weir_proxy, "--config", sidecar.config_path], check=False)
    assert done.returncode == 1 and WITHOUT[backend, privilege] in done.stderr
    assert state(sidecar.pod) == before and pins_of(cookie_of(sidecar.pod)) == []


# A C library on a kernel without nftables.
WITHOUT_NFTABLES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>
int socket(int family, int type, int protocol)
{
	errno = EPROTONOSUPPORT;
	if (family == AF_NETLINK && protocol == NETLINK_NETFILTER)
		return -1;
	return ((int (*)(int, int, int))dlsym(RTLD_NEXT, "socket"))(family, type, protocol);
}
"""


def test_without_nftables_the_proxy_takes_ebpf(mesh, other):
    folder = mesh.network.folder
    (folder / "without.c").write_text(WITHOUT_NFTABLES)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "without.so", folder / "without.c", "-ldl"], check=True)
    env = {"LD_PRELOAD": str(folder / "without.so"), "ASAN_OPTIONS": "verify_asan_link_order=0"}
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": {"fail": "open"}})
    sidecar.start(env=env)
    assert sidecar.show("intercept", "show")["backend"] == "ebpf"
    assert probe(sidecar.pod, other.ipv4, 80).startswith("other ")
    assert sidecar.counter("downstream_connections_total") == 1
    assert sidecar.proxy.stop() == 0
    # What goes wrong afterwards is not said to be of nftables.
    Server(sidecar.pod, 15001, "taken", "127.0.0.1")
    failed = sidecar.pod.run([mesh.weir_proxy, "--config", sidecar.config_path], check=False, env=env)
    assert failed.returncode == 1 and "15001" in failed.stderr and "nft" not in failed.stderr, failed.stderr


STRANGER = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
FSOPEN, FSCONFIG, FSMOUNT, SET_STRING, CREATE = 430, 431, 432, 1, 6
fs = libc.syscall(FSOPEN, b"bpf", 0)
assert libc.syscall(FSCONFIG, fs, SET_STRING, b"uid", b"65534", 0) == 0
assert libc.syscall(FSCONFIG, fs, CREATE, None, None, 0) == 0
fd = libc.syscall(FSMOUNT, fs, 0, 0)
for name in ("weir_plans", "weir_sockets"):
    os.mkdir(name, dir_fd=fd)
print("ready", os.readlink(f"/proc/self/fd/{fd}"), flush=True)
signal.pause()
"""


def test_a_stranger_cannot_pass_for_a_proxy(network, weir):
    """Somebody without privileges may have been given a BPF file system, too, with anything in it."""
    pod = network.pod("app")
    stranger = pod.start(["/usr/bin/python3", "-c", STRANGER])
    wait_until(lambda: "ready /" in stranger.output())
    for words in (["show"], ["apply", "--backend", "ebpf"], ["remove"]):
        assert pod.run([weir, "intercept", *words]).returncode == 0
    assert f"/proc/{stranger.pid}/" not in pod.run([weir, "prog", "show"]).stdout


def test_the_configuration_names_the_back_end(mesh):
    """For the commands, which may name another one, as for the proxy."""
    sidecar = mesh.sidecar("app", start=False, intercept={"capture": {"backend": "iptables"}})
    assert "*nat" in sidecar.intercept("plan").stdout and "*nat" not in sidecar.intercept("plan", "--backend", "nft").stdout
    for words, backend in (((), "iptables"), (("--backend", "ebpf"), "ebpf")):
        sidecar.pod.run([mesh.weir_path, "intercept", "apply", "--config", sidecar.config_path, *words])
        assert sidecar.show("intercept", "show")["backend"] == backend
    sidecar.write({**sidecar.config, "intercept": {"capture": {"backend": "netfilter"}}})
    refused = sidecar.intercept("plan", check=False)
    assert refused.returncode == 1 and "capture.backend" in refused.stderr and "iptables" in refused.stderr
