# SPDX-License-Identifier: Apache-2.0
"""TCP through the captured path, outbound and inbound: bytes unchanged, the ends and resets carried over, whoever
speaks first."""

import contextlib
import hashlib
import os
import socket
import threading
import time

import pytest

from mesh import DEFAULT_TIMEOUT, Mesh, Origin, cluster, connect, open_files, service
from netns import readable, wait_until, writable

pytestmark = pytest.mark.either_way
PORT = 7000


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def vip(sidecar, name, family=4):
    rows = sidecar.show("vhost", "show")["virtual_hosts"]
    return next(row[f"vip{family}"] for row in rows if row["name"].split(":")[0] == name)


class Line:
    """client pod (proxy) -> server pod (with a proxy as well if `far`): db.mesh:5000 is the server's port 7000."""

    def __init__(self, mesh, far=False, tls=None, port_protocol="auto", **config):
        self.mesh = mesh
        if far:
            self.far = mesh.sidecar("server", tls=tls or None, inbound=[{"port": PORT, "protocol": port_protocol}])
            self.server = self.far.pod
        else:
            self.server = mesh.network.pod("server")
        self.tls, self.guesses = tls, tls == "permissive"
        keys = {"tls": "mesh"} if tls else {}
        self.client = mesh.sidecar(
            "client",
            tls=tls or None,
            services=[service("db.mesh", 5000, "db", protocol=port_protocol)],
            clusters=[cluster("db", [f"{self.server.ipv4}:{PORT}"], **keys)],
            **config,
        )

    def origin(self, handler, address="0.0.0.0"):
        return Origin(self.server, PORT, self._behind_the_hello(handler) if self.guesses else handler, address)

    def _behind_the_hello(self, handler):
        """How long a greeting waits for the near proxy's hello is a guess, which a near proxy that gets no time may prove
        wrong. (See test_tls.py for what becomes of both then.)"""

        def run(peer):
            wait_until(lambda: all(row["tls"] for row in self.far.connections()))
            handler(peer)

        return run

    @property
    def last(self):
        """The proxy that dials the server."""
        return self.mesh.sidecars[0]

    def client_is_there(self):
        """Returns when the proxies have done what there is to do for that. With TLS the near one dials, then says hello,
        then ends the handshake, and the far one dials behind that."""
        for _ in range(3 if self.tls else 1):
            for sidecar in reversed(self.mesh.sidecars):
                sidecar.catch_up()

    def server_has_spoken(self):
        for sidecar in self.mesh.sidecars:
            sidecar.catch_up()

    def connect(self, **options):
        return connect(self.client.pod, vip(self.client, "db.mesh"), 5000, **options)


LINES = {
    "outbound": {},
    "outbound-declared": {"port_protocol": "tcp"},
    "both": {"far": True},
    "strict": {"far": True, "tls": "strict"},
    "permissive": {"far": True, "tls": "permissive"},
}


@pytest.fixture(params=LINES)
def line(request, mesh):
    return Line(mesh, **LINES[request.param])


def test_the_server_speaks_first(line):
    """No byte of the client, and no waiting for one: what each proxy has to do for it, it does in the turns in which it
    learns of the other side."""
    greeting = threading.Event()

    def handler(peer):
        peer.sock.settimeout(2 * DEFAULT_TIMEOUT)  # much is looked at before the client speaks
        peer.send("220 hello\r\n")
        greeting.set()
        assert peer.until(b"\r\n") == b"QUIT\r\n"
        peer.send("221 bye\r\n")

    with line.origin(handler):
        peer = line.connect()
        line.client_is_there()
        assert line.last.counter("upstream_connections_total") == 1
        assert greeting.wait(DEFAULT_TIMEOUT)
        line.server_has_spoken()
        assert readable(peer.sock)
        assert peer.until(b"\r\n") == b"220 hello\r\n"
        peer.send("QUIT\r\n")
        assert peer.until(b"\r\n") == b"221 bye\r\n"
        assert peer.rest() == b""
        peer.close()


def test_the_client_speaks_first(line):
    def handler(peer):
        assert peer.read(3) == b"\x00\x01\x02"
        peer.send(b"\xff" * 5)
        peer.rest()

    with line.origin(handler):
        peer = line.connect().send(b"\x00\x01\x02")
        assert peer.read(5) == b"\xff" * 5
        peer.close()


def test_a_message_that_could_begin_a_request(line):
    """One letter, and then the client waits: no protocol is recognised, and the byte gets through all the same."""
    with line.origin(lambda peer: peer.send(peer.read(1))):
        peer = line.connect().send("x")
        assert peer.rest() == b"x"


def test_half_close_by_the_client(line):
    def handler(peer):
        assert peer.rest() == b"question"
        time.sleep(0.05)  # the answer comes well after the client's end
        peer.send("answer")

    with line.origin(handler):
        peer = line.connect().send("question").end()
        assert peer.rest() == b"answer"
        peer.close()


def test_half_close_by_the_server(line):
    def handler(peer):
        peer.send("all I say").end()
        assert peer.rest() == b"still talking"

    with line.origin(handler):
        peer = line.connect()
        assert peer.rest() == b"all I say"
        peer.send("still ").send("talking").end()
        peer.close()


@pytest.mark.parametrize("size", [6, 20000], ids=["read", "spliced"])
def test_urgent_data_is_data_in_its_place(line, size):
    """Nothing is lost, and what is behind it is not held up: no event tells of it alone."""
    whole = b"b" * size + b"!" + b"a" * size
    asked = threading.Event()

    def say(peer):
        peer.send(b"b" * size)
        peer.sock.send(b"!", socket.MSG_OOB)
        peer.send(b"a" * size)

    def hear(peer):
        assert peer.read(len(whole)) == whole

    def handler(peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        peer.send("x")
        hear(peer)
        asked.wait(DEFAULT_TIMEOUT)
        say(peer)
        peer.rest()

    with line.origin(handler):
        peer = line.connect()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        peer.read(1)
        with line.client.frozen():
            say(peer)
        line.server_has_spoken()
        with line.last.frozen():
            asked.set()
        hear(peer)
        peer.close()


def test_a_reset_by_the_client_reaches_the_server(line):
    seen = []

    def handler(peer):
        peer.send("x")
        try:
            seen.append(peer.sock.recv(10))
        except ConnectionResetError:
            seen.append("reset")

    with line.origin(handler):
        peer = line.connect()
        peer.read(1)
        peer.reset()
        assert wait_until(lambda: seen) == ["reset"]


def send_until_nobody_reads(peer):
    peer.sock.setblocking(False)
    while writable(peer.sock, 0.5):
        peer.sock.send(b"x" * 65536)


def test_a_reset_behind_what_nobody_reads(line):
    """The origin takes nothing more, so the proxies do not read either: the client's reset ends it all the same."""
    done = threading.Event()

    def handler(peer):
        peer.send("x")
        done.wait(30)
        with contextlib.suppress(ConnectionResetError):
            peer.rest()

    with line.origin(handler):
        peer = line.connect()
        peer.read(1)
        send_until_nobody_reads(peer)
        peer.reset()
        wait_until(lambda: not line.client.connections(), what="the end at the client's proxy")
        if hasattr(line, "far"):
            wait_until(lambda: not line.far.connections(), what="the end at the server's proxy")
        done.set()


def test_a_reset_by_the_server_reaches_the_client(line):
    with line.origin(lambda peer: (peer.read(1), peer.reset())):
        peer = line.connect().send(b"\x00")
        with pytest.raises(ConnectionResetError):
            peer.rest()


def test_nobody_listens(line):
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        if line.connect().send(b"\x00").rest() == b"":
            raise ConnectionResetError  # an orderly end is what TLS makes of it


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_big_transfers_arrive_whole(line, direction):
    """32 MiB with checksums, each way, at once: spliced where both ends are plain."""
    block = os.urandom(1 << 20)
    count = 32
    expected = hashlib.sha256(block * count).hexdigest()
    sums = {}

    def send(peer):
        for _ in range(count):
            peer.sock.sendall(block)
        peer.end()

    def receive(peer, name):
        digest = hashlib.sha256(peer.buffer)
        while data := peer.sock.recv(1 << 18):
            digest.update(data)
        sums[name] = digest.hexdigest()

    def handler(peer):
        peer.sock.settimeout(60)
        peer.read(1)
        sender = threading.Thread(target=send, args=(peer,))
        if direction in ("down", "both"):
            sender.start()
        else:
            peer.end()
        receive(peer, "server")
        if sender.is_alive():
            sender.join()

    with line.origin(handler):
        peer = line.connect().send(b"\x00")
        peer.sock.settimeout(60)
        sender = threading.Thread(target=send, args=(peer,))
        if direction in ("up", "both"):
            sender.start()
        else:
            peer.end()
        receive(peer, "client")
        if direction != "down":
            sender.join()
        wait_until(lambda: "server" in sums)
        peer.close()
    empty = hashlib.sha256(b"").hexdigest()
    assert sums["server"] == (empty if direction == "down" else expected)
    assert sums["client"] == (empty if direction == "up" else expected)


def test_a_client_that_does_not_read_holds_nobody_up(line):
    """The origin has sent all and its end, the client its own, and the last of it waits in a proxy's queue for a client
    that does not read: the proxies serve others meanwhile. How much the sockets take varies, so several amounts are
    tried, below what a proxy takes of an endless stream."""
    nearest = getattr(line, "far", line.client)  # to the origin

    def handler(peer):
        wanted = int(peer.rest())
        with contextlib.suppress(OSError):
            peer.sock.sendall(b"x" * wanted)

    def ask(count):
        return line.connect().send(str(count)).end()

    def taken():
        return max((row["sent"] for row in nearest.connections(state="tunnel")), default=0)

    with line.origin(handler):
        endless = ask(64 << 20)
        most = 0
        while most == 0 or taken() > most:
            most = taken()
            time.sleep(0.1)
        endless.reset()
        for less in range(0, min(512 << 10, most), 32 << 10):
            waiting = ask(most - less)
            assert ask(10).rest() == b"x" * 10
            assert len(waiting.rest()) == most - less


def test_both_sides_are_kept_alive(line):
    """A peer that vanished without a word is found by probes, on either side of each proxy."""
    with line.origin(lambda peer: peer.rest()):
        peer = line.connect().send(b"\x00")
        wait_until(lambda: line.client.connections(state="tunnel"))
        for sidecar in [line.client, *filter(None, [getattr(line, "far", None)])]:
            mine = f"pid={sidecar.proxy.pid},"

            def sockets(mine=mine, sidecar=sidecar):
                rows = sidecar.pod.run(["ss", "-Htnop", "state", "established"]).stdout.splitlines()
                rows = [row for row in rows if mine in row]
                return rows if len(rows) == 2 and all("timer:(keepalive," in row for row in rows) else None

            wait_until(sockets)
        peer.close()


def test_an_idle_connection_is_closed(mesh):
    line = Line(mesh, timeouts={"idle": "300ms"})
    with line.origin(lambda peer: peer.rest()):
        peer = line.connect().send(b"\x00")
        assert peer.rest() == b""
        wait_until(lambda: not line.client.connections())


def test_spliced_bytes_are_not_copied(mesh):
    """A big plain transfer moves by splice: strace sees it, and hardly any recv. What the kernel relays is not, either."""
    line = Line(mesh)
    trace = mesh.network.folder / "trace"
    tracer = line.client.pod.start(
        ["strace", "-f", "-qq", "-e", "trace=splice,recvfrom", "-o", trace, "-p", str(line.client.proxy.pid)]
    )
    wait_until(lambda: f"TracerPid:\t{tracer.pid}" in open(f"/proc/{line.client.proxy.pid}/status").read())

    def handler(peer):
        peer.read(1)
        peer.send(b"x" * (8 << 20)).end()
        peer.rest()

    with line.origin(handler):
        peer = line.connect(blocks=True).send(b"\x00")  # what goes past TCP is not spliced
        assert len(peer.rest()) == 8 << 20
        peer.close()
        relayed = line.client.counter("accelerated_relayed_bytes_total")
    tracer.stop()
    spliced = received = 0
    for text in trace.read_text().splitlines():
        result = text.rpartition("= ")[2].split()[0]
        if result.isdigit():
            spliced += int(result) if "splice(" in text else 0
            received += int(result) if "recvfrom(" in text else 0
    assert spliced / 2 + relayed > 7 << 20 and received < 1 << 20


def test_what_one_client_did_not_take_reaches_no_other(mesh):
    """A connection ends while bytes for it are inside the proxy, in a pipe: they go with it."""
    line = Line(mesh)
    sizes = iter([64 << 20, 4 << 20])

    def handler(peer):
        mark = peer.read(1)
        with contextlib.suppress(ConnectionError):
            peer.send(mark * next(sizes)).end()
            peer.rest()

    def stuck(seen=[-1]):  # noqa: B006 - what was seen last
        seen.extend(row["sent"] for row in line.client.connections())
        return seen[-1] > 0 and seen[-5:] == seen[-1:] * 5

    with line.origin(handler):
        slow = line.connect().send(b"\x01")
        wait_until(stuck)
        slow.reset()
        wait_until(lambda: not line.client.connections())
        peer = line.connect().send(b"\x02")
        assert peer.rest() == b"\x02" * (4 << 20)
        peer.close()


def moved_between_waits(trace):
    """The most that a thread's system calls in a trace moved between two calls of epoll_wait."""
    moved, most = {}, 0
    for text in trace.read_text().splitlines():
        thread, (_, equals, result) = text.split()[0], text.rpartition("= ")
        if "epoll_" in text:
            moved[thread] = 0
        elif equals and result.split()[0].isdigit():
            moved[thread] = moved.get(thread, 0) + int(result.split()[0])
            most = max(most, moved[thread])
    return most


@pytest.mark.parametrize("name", ["outbound", "strict"])
def test_a_fast_transfer_leaves_turns_for_others(mesh, name):
    """However fast the two sides are (strace makes the proxy the slow one), the loop comes round to look for others."""
    line = Line(mesh, **LINES[name])
    trace = mesh.network.folder / "trace"
    size = 64 << 20

    def handler(peer):
        peer.read(1)
        peer.send(b"x" * size).end()
        peer.rest()

    with line.origin(handler):
        peer = line.connect()
        calls = "trace=splice,recvfrom,sendto,sendmsg,epoll_wait,epoll_pwait"
        tracer = line.client.pod.start(
            ["strace", "-f", "-qq", "-e", calls, "-o", trace, "-p", str(line.client.proxy.pid)]
        )
        wait_until(lambda: f"TracerPid:\t{tracer.pid}" in open(f"/proc/{line.client.proxy.pid}/status").read())
        peer.send(b"\x00")
        got = 0
        while peer.another():
            got += len(peer.buffer)
            peer.buffer = b""
        assert got == size
        peer.close()
    tracer.stop()
    assert 0 < moved_between_waits(trace) < 8 << 20


def test_an_unnamed_destination_passes_through(mesh):
    other = mesh.network.pod("other")
    line = Line(mesh)
    for address, listen in ((other.ipv4, "0.0.0.0"), (other.ipv6, "::")):
        with Origin(other, 9999, lambda peer: peer.send("SSH-2.0-x\r\n"), listen):
            assert connect(line.client.pod, address, 9999).rest() == b"SSH-2.0-x\r\n"
    assert line.client.counter("passthrough_connections_total") == 2


def test_the_access_log(mesh):
    line = Line(mesh, port_protocol="tcp", log={"access": True})
    with line.origin(lambda peer: peer.send(peer.read(4) + b" and more")):
        assert line.connect().send(b"ping").read(13) == b"ping and more"
        wait_until(lambda: not line.client.connections(), what="the end of the connection")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        line.connect().send(b"\0").rest()
    lines = [text for text in line.client.said().splitlines() if " msg=connection " in text]
    where = f"virtual_host=db.mesh:5000 cluster=db endpoint={line.server.ipv4}:{PORT}"
    assert len(lines) == 2
    assert f" protocol=tcp flag=- {where} received=4 sent=13 " in lines[0]
    assert f" protocol=tcp flag=UF {where} received=" in lines[1]


def test_the_access_log_of_a_silent_client(mesh):
    """Nothing was said that could be told apart, and there is nobody who could greet it."""
    line = Line(mesh, log={"access": True})
    with pytest.raises(ConnectionResetError):
        line.connect().rest()
    assert " protocol=tcp flag=UF virtual_host=db.mesh:5000 cluster=db " in line.client.said()


def test_the_vip_of_the_other_family(mesh):
    line = Line(mesh)
    with line.origin(lambda peer: peer.send("hi")):
        assert connect(line.client.pod, vip(line.client, "db.mesh", 6), 5000).rest() == b"hi"


def test_a_connection_to_the_proxy_itself_is_refused(mesh):
    line = Line(mesh)
    for address, port in (("127.0.0.1", 15001), (line.client.ipv4, 15006)):
        with line.client.pod.enter(), pytest.raises(ConnectionError):
            sock = socket.create_connection((address, port), timeout=30)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if sock.recv(1) == b"":
                raise ConnectionError
    assert line.client.counter("loops_refused_total") == 2


def test_applications_keep_their_addresses(mesh):
    """Inbound: an application bound to the pod's address sees a source that is not captured; one on 127.0.0.1 is not
    reached from outside, with the proxy or without."""
    far = mesh.sidecar("server")
    client = mesh.network.pod("client")
    with Origin(far.pod, PORT, lambda peer: peer.send(peer.sock.getpeername()[0]), far.ipv4):
        assert connect(client, far.ipv4, PORT).rest() == b"127.0.0.6"
    with Origin(far.pod, PORT, lambda peer: peer.send("hidden"), "127.0.0.1"):
        with pytest.raises(ConnectionError):
            if connect(client, far.ipv4, PORT).rest() == b"":
                raise ConnectionError


def test_two_pods_captured_and_a_call_to_oneself(mesh):
    """app -> own VIP -> outbound -> inbound -> app, over mutual TLS."""
    pod = mesh.network.pod("both")
    both = mesh.sidecar(
        "both",
        pod=pod,
        tls="strict",
        services=[service("me.mesh", 80, "me")],
        clusters=[cluster("me", [f"{pod.ipv4}:{PORT}"], tls="mesh")],
    )
    with Origin(pod, PORT, lambda peer: (peer.head(), peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme"))):
        peer = connect(pod, vip(both, "me.mesh"), 80)
        assert peer.send("GET / HTTP/1.1\r\nHost: me.mesh\r\n\r\n").response()[2] == b"me"
        peer.close()
        for address in (pod.ipv4, "127.0.0.1"):  # by its own address: neither proxy is asked
            assert connect(pod, address, PORT).send("GET / HTTP/1.1\r\n\r\n").response()[2] == b"me"
    assert both.counter("tls_handshakes_total") == 2
    assert both.counter("downstream_connections_total") == 2


def test_connections_opened_and_closed_leave_nothing(mesh):
    line = Line(mesh)
    with line.origin(lambda peer: peer.send(peer.read(1))):
        def rounds(count):
            for _ in range(count):
                peer = line.connect_fast().send(b"\xff")
                assert peer.rest() == b"\xff"
                peer.close()

        address = vip(line.client, "db.mesh")
        line.connect_fast = lambda: connect(line.client.pod, address, 5000)
        rounds(50)
        wait_until(lambda: not line.client.connections())
        files = open_files(line.client)
        rounds(500)
        wait_until(lambda: open_files(line.client) <= files)


def test_kill_resets_a_connection(mesh):
    line = Line(mesh)
    with line.origin(lambda peer: peer.rest()):
        peer = line.connect().send(b"\x00")
        row = wait_until(lambda: line.client.connections(state="tunnel"))[0]
        assert row["virtual_host"] == "db.mesh:5000" and row["cluster"] == "db"
        assert row["endpoint"] == f"{line.server.ipv4}:{PORT}"
        line.client.weir("conn", "kill", str(row["id"]))
        with pytest.raises(ConnectionResetError):
            peer.rest()
