# SPDX-License-Identifier: Apache-2.0
"""Directions that go past the proxy (`acceleration: auto`): what a local application sends towards another host is joined,
if its socket does not block; where it does, both ways are relayed. A stream must stay a stream, whichever way each of its messages took (docs/internals/local-bypass.md lists the hazards)."""

import contextlib
import errno
import hashlib
import os
import select
import signal
import socket
import threading
import time

import pytest

from mesh import Mesh, Origin, Peer, cluster, connect, service
from netns import wait_until
from test_acceleration import (
    MIB,
    MPTCP,
    PROXY_QUEUE_MAX,
    QUEUE_MAX,
    Host,
    bpf_ids,
    echo,
    fill_up,
    in_background,
    is_there,
    pattern,
    send_all,
    send_file,
    send_from_two_processes,
    send_without_copies,
    set_buffers,
    transfer_both_ways,
)

PORT, RAW_PORT, WEB_PORT = 5000, 7000, 8080
TCP_CLOSE = 7  # as a reset leaves it
SMALL = 128 * 1024  # of a buffer
TURNS = 5  # of a conversation, after which it goes past the proxy


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Line:
    """A pod with a sidecar and one without. `out`: the first one's application opens the connections, else it accepts.
    `relayed`: its sockets block when they are made, so that they are not bypassed; then both ways go past the proxy, and the
    first one is what comes for the application."""

    def __init__(self, mesh, out=True, relayed=False, **config):
        self.out, self.relayed, self.far = out, relayed, mesh.network.pod("far")
        self.first_opens = out != relayed
        self.ways = 2 if relayed else 1  # that go past the proxy
        config.setdefault("acceleration", "auto")
        config.setdefault("inbound", [{"port": RAW_PORT, "protocol": "tcp"}])
        if out:
            config["services"] = [service("raw.mesh", PORT, "raw", protocol="tcp"), service("web.mesh", 80, "web")]
            config["clusters"] = [
                cluster("raw", [f"{self.far.ipv4}:{RAW_PORT}"]),
                cluster("web", [f"{self.far.ipv4}:{WEB_PORT}"]),
            ]
        self.sidecar = mesh.sidecar("near", **config)
        self.pod = self.sidecar.pod
        rows = self.sidecar.show("vhost", "show")["virtual_hosts"]
        self.vips = {row["name"].partition(":")[0]: row["vip4"] for row in rows}

    def connect(self, name, port):
        return connect(self.pod, self.vips[name], port, blocks=self.relayed)

    def counter(self, what):
        return self.sidecar.counter(f"accelerated_{what}_total")

    def past(self):
        """How many bytes went past the proxy, either way."""
        return self.counter("relayed_bytes" if self.relayed else "joined_bytes")

    def directions(self):
        return self.entries("weir_relays" if self.relayed else "weir_joins")

    def outlets(self):
        return self.entries("weir_sinks" if self.relayed else "weir_outlets")

    def are_clear(self):
        return self.directions() == self.outlets() == self.entries("weir_sources") == self.entries("weir_done") == []

    @contextlib.contextmanager
    def ends(self, protocol=0, blocks=False):
        """Both ends of a connection, that first of which the bytes will go past the proxy. protocol: of the listener. blocks: the
        application's socket does, as soon as there is one."""
        accepted, done = [], threading.Event()

        def handler(peer):
            if blocks and not self.out:
                peer.sock.settimeout(None)
            accepted.append(peer)
            done.wait(120)

        with Origin(self.far if self.out else self.pod, RAW_PORT, handler, protocol=protocol) as origin:
            origin.listener.settimeout(None if self.relayed else 600)
            opener = self.connect("raw.mesh", PORT) if self.out else connect(self.far, self.pod.ipv4, RAW_PORT)
            if blocks and self.out:
                opener.sock.settimeout(None)
            try:
                opener.send("hello")
                wait_until(lambda: accepted)
                assert accepted[0].read(5) == b"hello"
                yield (opener, accepted[0]) if self.first_opens else (accepted[0], opener)
            finally:
                done.set()
                opener.close()

    @contextlib.contextmanager
    def joined(self, protocol=0):
        with self.ends(protocol) as (application, far):
            join(application, far)
            self.send_past(application, far)
            yield application, far

    def send_past(self, application, far, size=100):
        """A message that the proxy does not see."""
        before, data = self.past(), pattern(size, size)
        application.send(data)
        assert far.read(size) == data
        assert self.past() == before + size

    def entries(self, name):
        """Of this proxy's map of that name."""
        mine = {int(number) for kind, number in bpf_ids(self.sidecar.proxy.pid) if kind == "map_id"}
        maps = self.sidecar.show("map", "show")["maps"]
        [number] = [row["id"] for row in maps if row["name"] == name and row["id"] in mine]
        return self.sidecar.show("map", "dump", str(number))["entries"]


def join(application, far):
    """A conversation that is long enough."""
    for turn in range(TURNS):
        for sender, receiver in ((far, application), (application, far)):
            sender.send(f"turn {turn}")
            assert receiver.read(6) == f"turn {turn}".encode()


@pytest.fixture(params=["joined-out", "joined-in", "relayed-out", "relayed-in"])
def line(request, mesh):
    found = Line(mesh, request.param.endswith("out"), request.param.startswith("relayed"))
    assert "acceleration goes without" not in found.sidecar.proxy.output()
    assert found.sidecar.show("version", "show")["proxy"]["acceleration"] == "on", found.sidecar.proxy.output()
    return found


both = pytest.mark.parametrize("relayed", [False, True], ids=["joined", "relayed"])


@pytest.fixture(params=["joined", "relayed"])
def outward(request, mesh):
    return Line(mesh, relayed=request.param == "relayed")


# --- which way -------------------------------------------------------------------------------------------------------


def test_messages_go_past_the_proxy(line):
    with line.joined() as (application, far):
        received = line.sidecar.counter("accelerated_bytes_total")
        for size in (1, 2, 64, 1000, 4096, 20000, 3):
            line.send_past(application, far, size)
            far.send("answer")
            assert application.read(6) == b"answer"
        # Only the answers, if the application's socket did not block when the first one came.
        assert line.counter("bytes") - received in (0, 7 * 6)


def test_all_bytes_are_counted(line):
    sent = 5 + TURNS * 6 + 100  # by the opener or the other, see ends()
    with line.joined() as (application, far):
        for _ in range(10):
            line.send_past(application, far, 500)
        [row] = line.sidecar.connections()
        # A server's socket may have blocked when the first bytes came for it: then what comes for it is relayed.
        assert row["accelerated"] is (line.out or bool(line.entries("weir_relays")))
        way = ("received", "sent") if line.first_opens else ("sent", "received")
        joined = sent + 5000 - (0 if line.first_opens else 5)
        other = TURNS * 6 + (0 if line.first_opens else 5)
        assert (row[way[0]], row[way[1]]) == (joined, other)
        assert {entry["outlet"] for entry in line.directions()} == {outlet["socket"] for outlet in line.outlets()}
        assert len(line.outlets()) == line.ways
        assert sum(entry["bytes"] for entry in line.directions()) >= 5100
    wait_until(lambda: not line.sidecar.connections())
    counted = line.sidecar.counter("downstream_received_bytes_total"), line.sidecar.counter("downstream_sent_bytes_total")
    assert counted == ((joined, other) if line.first_opens else (other, joined))


def test_a_short_conversation_is_not_joined(line):
    with line.ends() as (application, far):
        for _ in range(2):
            far.send("answer")
            assert application.read(6) == b"answer"
            application.send("thanks")
            assert far.read(6) == b"thanks"
        far.send("answer").end()
        assert application.rest() == b"answer"
        assert line.are_clear()


def test_what_is_not_answered_is_not_joined(line):
    """The kernel's ways take more time for it."""
    with line.ends() as (application, far):
        for sender, receiver in ((application, far), (far, application)):
            for _ in range(20):
                sender.send("message")
                assert receiver.read(7) == b"message"
            data = pattern(8 * MIB)
            thread = in_background(lambda sender=sender, data=data: sender.send(data))
            assert receiver.read(len(data)) == data
            thread.join(20)
        assert line.are_clear()


def test_big_messages_are_joined_but_not_relayed(line):
    """For those there is splice(2)."""
    data = pattern(40000)
    with line.ends() as (application, far):
        for _ in range(2 * TURNS):
            for sender, receiver in ((far, application), (application, far)):
                with line.sidecar.frozen():
                    sender.send(data)
                assert receiver.read(len(data)) == data
        assert len(line.directions()) == (0 if line.relayed else 1)
        join(application, far)
        assert len(line.directions()) == line.ways


@pytest.mark.parametrize("out", [True, False], ids=["out", "in"])
def test_one_way_is_relayed_before_the_other(mesh, out):
    """Whose answers the proxy does not see then."""
    line, data = Line(mesh, out, relayed=True), pattern(40000)
    with line.ends() as (application, far):
        for _ in range(2 * TURNS):
            with line.sidecar.frozen():
                far.send(data)
            assert application.read(len(data)) == data
            application.send("thanks")
            assert far.read(6) == b"thanks"
        assert len(line.directions()) == 1
        join(application, far)
        assert len(line.directions()) == 2


def test_a_kernel_that_fails_the_test_of_joins_goes_without(mesh):
    """Here: so little may wait to be sent that no message has room. All of acceleration is off then."""
    pod = mesh.network.pod("near")
    pod.sysctl("net.ipv4.tcp_notsent_lowat", "1")
    line = Line(mesh, pod=pod)
    log = line.sidecar.proxy.output()
    assert 'msg="acceleration is off"' in log
    assert "connections cannot be joined on this kernel: a receiver that is slow: not found" in log
    assert line.sidecar.show("version", "show")["proxy"]["acceleration"] == "off"
    assert bpf_ids(line.sidecar.proxy.pid) == set()
    with line.ends() as ends:
        join(*ends)
    assert line.counter("messages") == line.counter("joined_messages") == 0


def test_tls_towards_the_other_host_is_not_passed_by(mesh):
    """The mesh's TLS is the proxy's: plaintext must never leave."""
    server = mesh.sidecar("far", tls="strict", acceleration="auto")
    near = mesh.sidecar(
        "near",
        tls="strict",
        acceleration="auto",
        services=[service("raw.mesh", PORT, "raw", protocol="tcp")],
        clusters=[cluster("raw", [f"{server.ipv4}:{RAW_PORT}"], tls="mesh")],
    )
    vip = near.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    with Origin(server.pod, RAW_PORT, echo) as origin:
        origin.listener.settimeout(600)
        client = connect(near.pod, vip, PORT)
        for _ in range(10):
            assert client.send("hello").read(5) == b"hello"
        for sidecar in (near, server):
            assert sidecar.counter("tls_handshakes_total") >= 1
            assert sidecar.counter("accelerated_messages_total") > 0
            assert sidecar.counter("accelerated_joined_messages_total") == 0
        client.close()


def test_both_ends_on_this_host_stay_bypassed(mesh):
    """The other end's queue is nearer than its TCP."""
    host = Host(mesh)
    with host.origin(echo):
        client = host.connect()
        for _ in range(10):
            assert client.send("hello").read(5) == b"hello"
        assert host.counter("joined_messages") == 0
        assert host.counter("messages") >= 20
        client.close()


def test_a_multipath_client(outward):
    """The protocol above its TCP must not be passed by: what it sends to the proxy is TCP, and is relayed."""
    with Origin(outward.far, RAW_PORT, echo):
        with outward.pod.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        client = Peer(sock)
        sock.connect((outward.vips["raw.mesh"], PORT))
        for turn in range(10):
            data = pattern(1000, turn)
            assert client.send(data).read(1000) == data
        assert outward.counter("joined_messages") == 0
        assert outward.counter("relayed_bytes") >= 7 * 1000
        client.close()


@both
def test_a_multipath_server(mesh, relayed):
    """To the proxy, which does not speak that, it speaks TCP."""
    line = Line(mesh, False, relayed)
    with line.joined(MPTCP) as ends:
        transfer_both_ways(ends, MIB)


def test_what_follows_an_upgrade(outward):
    """The counts of both connections begin long before they are joined."""

    def handler(peer):
        head = peer.head()
        assert "upgrade: raw" in head.lower()
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        echo(peer)

    with Origin(outward.far, WEB_PORT, handler):
        client = outward.connect("web.mesh", 80)
        client.send("GET / HTTP/1.1\r\nHost: web.mesh\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 101")
        for turn in range(20):
            data = pattern(300, turn)
            assert client.send(data).read(300) == data
        assert outward.past() >= 10 * 300
        client.close()


# --- bytes and order -------------------------------------------------------------------------------------------------


def test_big_transfers_both_ways_at_once(line):
    with line.joined() as ends:
        transfer_both_ways(ends)


@pytest.mark.parametrize("out", [True, False], ids=["out", "in"])
@both
def test_a_sender_that_never_pauses(mesh, out, relayed):
    """Before a conversation, and behind it. (The proxy's socket takes all that it reads at first, so that nothing is under way when
    it looks.)"""
    pod = mesh.network.pod("near")
    pod.sysctl("net.ipv4.tcp_wmem", f"4096 {4 * MIB} {4 * MIB}")
    line = Line(mesh, out, relayed, pod=pod)
    with line.ends() as ends:
        transfer_both_ways(ends)
        wait_until(lambda: join(*ends) or len(line.directions()) == line.ways)
        transfer_both_ways(ends)


def fill(sender, data, at):
    """Sends what goes without anybody reading; returns up to where."""
    sender.sock.setblocking(False)
    while at < len(data):
        try:
            at += sender.sock.send(data[at : at + 30000])
        except BlockingIOError:
            return at
    raise AssertionError("no end of room")


def test_order_when_ways_change(line):
    """Past the proxy as long as there is room, then through it, and past it again when all has been passed on."""
    data, at = pattern(64 * MIB), 0
    with line.joined() as (application, far):
        for _ in range(4):
            before = line.past()
            end = fill(application, data, at)
            past = line.past() - before
            assert 0 < past < end - at
            assert far.read(end - at) == data[at:end]
            at = end
            application.send("next")  # after one without room the kernel asks nobody about the next message
            assert far.read(4) == b"next"
            application.sock.settimeout(10)
            line.send_past(application, far)


def test_small_messages_of_a_busy_sender(outward):
    """Some go past the proxy, some through it, as it comes."""
    data = pattern(3 * MIB)
    with outward.joined() as (application, far):
        for sizes in ([100], [3000, 1, 17], [10, 70000]):
            thread = in_background(send_all, application, data, sizes)
            at = 0
            while at < len(data):
                size = min(len(data) - at, 100000)
                assert far.read(size) == data[at : at + size]
                at += size
            thread.join(20)


def test_two_processes_that_send_by_one_socket(outward):
    with outward.joined() as ends:
        send_from_two_processes(*ends)


def test_peeking_and_discarding(line):
    """By the application, which gets its bytes past TCP, and by the other host, which does not."""
    with line.joined() as (application, far):
        for sender, receiver in ((application, far), (far, application)):
            sender.send("abcdef")
            wait_until(lambda receiver=receiver: receiver.sock.recv(10, socket.MSG_PEEK) == b"abcdef")
            assert len(receiver.sock.recv(10, socket.MSG_PEEK | socket.MSG_TRUNC)) == 6
            assert len(receiver.sock.recv(2, socket.MSG_TRUNC)) == 2
            assert receiver.sock.recv(2) == b"cd"
            assert receiver.sock.recv(10) == b"ef"
        line.send_past(application, far)


def test_urgent_data(line):
    """It is not lost, and what follows is in order, whichever way it went."""
    with line.joined() as (application, far):
        far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        for _ in range(3):
            application.send("before")
            application.sock.send(b"!", socket.MSG_OOB)
            application.send("after")
            assert far.read(12) == b"before!after"
        line.send_past(application, far)


def test_a_receiver_that_has_shut_its_side(line):
    """That is nothing the other host is told of: bytes come as ever."""
    with line.joined() as (application, far):
        far.sock.shutdown(socket.SHUT_RD)
        application.sock.shutdown(socket.SHUT_RD)
        for turn in range(3):
            data = pattern(1000, turn)
            for sender, receiver in ((application, far), (far, application)):
                sender.send(data)
                wait_until(lambda receiver=receiver: len(receiver.sock.recv(2000, socket.MSG_PEEK)) == 1000)
                assert receiver.sock.recv(2000) == data


@both
def test_while_the_proxy_stands_still(mesh, relayed):
    """What has room goes past it. The rest waits for it, and is not overtaken when there is room again."""
    pod, data = mesh.network.pod("near"), pattern(800000)
    set_buffers(pod, MIB, MIB)
    line = Line(mesh, relayed=relayed, pod=pod)
    set_buffers(line.far, SMALL, SMALL)
    with line.joined() as (application, far):
        before = line.past()
        with line.sidecar.stopped():
            send_all(application, data[:700000], [10000])
            assert far.read(200000) == data[:200000]
            application.send(data[700000:])
        assert far.read(600000) == data[200000:]
        assert 200000 <= line.past() - before < (800000 if relayed else 700000)


# --- slow receivers --------------------------------------------------------------------------------------------------


@both
def test_memory_of_a_receiver_that_does_not_read_is_bounded(mesh, relayed):
    """Past the proxy no more waits to be sent than 256 KiB, whatever room there is; then come TCP's buffers and the proxy's
    queue."""
    pod, data = mesh.network.pod("near"), pattern(8 * MIB)
    set_buffers(pod, SMALL, MIB)
    line = Line(mesh, relayed=relayed, pod=pod)
    set_buffers(line.far, SMALL, SMALL)
    with line.joined() as (application, far):
        before = line.past()
        sent = fill_up(line.sidecar, application, data)
        assert line.past() - before <= QUEUE_MAX + SMALL
        assert sent <= MIB + SMALL + PROXY_QUEUE_MAX + MIB + SMALL
        assert far.read(sent) == data[:sent]


@pytest.mark.parametrize("stands_still", ["application", "far"])
def test_a_way_that_stands_still_does_not_stop_the_other(line, stands_still):
    """Whose receiver does not read, until its sender has sent all it has."""
    data = pattern(16 * MIB)
    with line.joined() as ends:
        sender, receiver = ends if stands_still == "far" else ends[::-1]
        sent = fill_up(line.sidecar, sender, data)
        sender.sock.settimeout(30)
        thread = in_background(send_all, receiver, data)
        assert sender.read(len(data)) == data
        thread.join(20)
        assert receiver.read(sent) == data[:sent]
        for one, other in ((sender, receiver), (receiver, sender)):
            one.send("next")
            assert other.read(4) == b"next"


# Of the pod's TCP: small buffers, and little that may wait to be sent.
@pytest.mark.parametrize("setting", [None, ("tcp_wmem", "4096 16384 32768"), ("tcp_notsent_lowat", "5000")], ids=str)
@both
def test_a_sender_that_waits_for_events_is_told_of_room(mesh, setting, relayed):
    """EAGAIN comes only of its own socket, and then an edge-triggered event follows when there is room."""
    pod = mesh.network.pod("near")
    if setting:
        pod.sysctl(f"net.ipv4.{setting[0]}", setting[1])
    line = Line(mesh, relayed=relayed, pod=pod)
    data = pattern(6 * MIB)
    with line.joined() as (application, far):
        application.sock.setblocking(False)
        received = []
        reader = in_background(lambda: received.append(slowly(far, len(data))))
        with select.epoll() as epoll:
            epoll.register(application.sock, select.EPOLLOUT | select.EPOLLET)
            at, sizes = 0, (1000, 60000, 5, 200000)
            for turn in range(10**9):
                if at == len(data):
                    break
                try:
                    at += application.sock.send(data[at : at + sizes[turn % 4]])
                except BlockingIOError:
                    assert epoll.poll(10), f"no event after {at} bytes"
        reader.join(60)
        assert received == [hashlib.sha256(data).digest()]
        assert line.past() > 0


def slowly(peer, size):
    """Reads so many bytes, each time when much has come or nothing comes any more."""
    digest, got = hashlib.sha256(), 0
    while got < size:
        select.select([], [], [], 0.001)
        part = peer.sock.recv(30000)
        digest.update(part)
        got += len(part)
    return digest.digest()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_last_bytes_come_before_the_end(line):
    for turn in range(10):
        with line.joined() as (application, far):
            data = pattern(1 + turn * 97, turn)
            application.send(data).end()
            assert far.rest() == data
            far.send("still here")
            assert application.read(10) == b"still here"


def test_a_close_right_behind_the_last_bytes(line):
    for turn in range(10):
        with line.joined() as (application, far):
            data = pattern(1 + turn * 311, turn)
            application.send(data).close()
            assert far.rest() == data


def test_the_other_side_ends_first(line):
    with line.joined() as (application, far):
        far.send("bye").end()
        assert application.rest() == b"bye"
        line.send_past(application, far)
        application.end()
        assert far.rest() == b""


def test_reset_by_the_application(line):
    with line.joined() as (application, far):
        application.reset()
        with pytest.raises(ConnectionResetError):
            far.rest()


def test_reset_by_the_application_with_bytes_under_way(line):
    data, received = pattern(16 * MIB), b""
    with line.joined() as (application, far):
        fill(application, data, 0)
        application.reset()
        if line.first_opens:  # what an upstream has sent before is passed on first, when its reader takes it
            wait_until(lambda: not line.sidecar.connections())
        with pytest.raises(ConnectionResetError):
            while part := far.sock.recv(MIB):
                received += part
        assert data.startswith(received)


def test_a_child_that_keeps_the_socket(outward):
    """The connection ends with the last process that has it."""
    with outward.joined() as (application, far):
        word_read, word_write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(word_write)
            os.read(word_read, 1)
            application.sock.sendall(b"from the child")
            os._exit(0)
        os.close(word_read)
        application.close()
        before = outward.past()
        os.close(word_write)
        assert far.rest() == b"from the child"
        assert outward.past() == before + len("from the child")
        assert os.waitpid(child, 0)[1] == 0


def test_reset_from_elsewhere(line):
    with line.joined() as (application, far):
        far.reset()
        with pytest.raises(ConnectionResetError):
            application.rest()


def test_reset_behind_a_few_messages(line):
    """Of whom the proxy has connected to, when it looks for the first time whether bytes can go past it."""
    for messages in range(1, 5):
        with line.ends() as (application, far):
            sender, receiver = (far, application) if line.first_opens else (application, far)
            for turn in range(messages):
                sender.send(f"turn {turn}")
                assert receiver.read(6) == f"turn {turn}".encode()
            sender.reset()
            with pytest.raises(ConnectionResetError):
                receiver.rest()


def send_on(sender):
    """Sends pattern(100) over and over, until that fails. Returns a function that waits for it to be told so."""
    data, failures = pattern(100), []

    def send():
        try:
            while True:
                sender.sock.sendall(data)
        except OSError as error:
            failures.append(error.errno)

    thread = in_background(send)

    def told():
        thread.join(20)
        assert failures and failures[0] in (errno.ECONNRESET, errno.EPIPE)

    return told


def receive_to_the_end(receiver):
    """What `send_on` has sent, or a part, up to an end or a reset. All messages that were read before were whole."""
    received, receiver.buffer = receiver.buffer, b""
    with contextlib.suppress(ConnectionResetError):
        while part := receiver.sock.recv(MIB):
            received += part
    assert received == (pattern(100) * (len(received) // 100 + 1))[: len(received)]


def test_reset_from_elsewhere_while_the_application_sends(line):
    """The kernel may tell the application of it instead of the proxy; a reset has to come of it all the same."""
    for turn in range(10):
        with line.joined() as (application, far):
            told = send_on(application)
            far.read(1000 * (turn + 1))
            far.reset()
            told()
            wait_until(lambda: not line.sidecar.connections())
            assert select.select([application.sock], [], [], 10)[0]
            with contextlib.suppress(ConnectionResetError):  # unless it was told when it sent
                assert application.sock.recv(1) == b""
                state = application.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                assert state == TCP_CLOSE


def test_a_connection_that_is_killed(outward):
    with outward.joined() as (application, far):
        [row] = outward.sidecar.connections()
        outward.sidecar.weir("conn", "kill", str(row["id"]))
        for peer in (application, far):
            with contextlib.suppress(ConnectionResetError):
                assert peer.sock.recv(1) == b""
        wait_until(outward.are_clear)


@both
def test_what_goes_past_the_proxy_keeps_the_connection(mesh, relayed):
    """The idle timer of a connection on which only the application speaks, also while somebody asks what is open."""
    line = Line(mesh, relayed=relayed, timeouts={"idle": "3s"})
    with line.joined() as (application, far):
        reader = in_background(far.rest)
        end = time.monotonic() + 7
        while time.monotonic() < end:
            application.send("x")
            assert len(line.sidecar.connections()) == 1
            select.select([], [], [], 0.02)
        assert line.past() > 10
        application.end()
        reader.join(20)


# --- nothing is left -------------------------------------------------------------------------------------------------


def test_nothing_is_left_in_the_maps(line):
    with line.joined():
        assert len(line.directions()) == len(line.outlets()) == line.ways
    for turn in range(6):
        with line.joined() as ends:
            ends[turn % 2].reset()
    wait_until(line.are_clear)


def test_when_the_proxy_is_killed_while_the_application_sends(outward):
    with outward.joined() as (application, far):
        told = send_on(application)
        assert far.read(10000) == pattern(100) * 100
        outward.sidecar.proxy.kill()
        receive_to_the_end(far)
        told()


@both
def test_a_drain_waits_for_what_goes_past_the_proxy(mesh, relayed):
    line = Line(mesh, relayed=relayed, timeouts={"drain": "1h"})
    proxy, data = line.sidecar.proxy, pattern(2 * MIB)
    with line.joined() as (application, far):
        ids = bpf_ids(proxy.pid)
        thread = in_background(send_all, application, data)
        assert far.read(MIB) == data[:MIB]
        os.kill(proxy.pid, signal.SIGTERM)
        wait_until(lambda: "msg=draining" in proxy.output())
        assert far.read(MIB) == data[MIB:]
        thread.join(20)
        application.send("next")  # as in test_order_when_ways_change
        assert far.read(4) == b"next"
        line.send_past(application, far)
        application.send("last words").end()
        assert far.rest() == b"last words"
        far.send("farewell").end()
        assert application.rest() == b"farewell"
        assert proxy.wait() == 0
    wait_until(lambda: not any(is_there(*found) for found in ids))


@pytest.mark.parametrize("acceleration", ["off", "auto"])
@both
def test_what_a_drain_cuts(mesh, acceleration, relayed):
    """Both ends are told, whichever way the bytes went."""
    line = Line(mesh, relayed=relayed, acceleration=acceleration, timeouts={"drain": "1ms"})
    with line.ends() as (application, far):
        join(application, far)
        told = send_on(application)
        assert far.read(10000) == pattern(100) * 100
        assert (line.past() > 0) == (acceleration == "auto")
        assert line.sidecar.proxy.stop() == 0
        receive_to_the_end(far)
        told()
    assert "the drain deadline has passed" in line.sidecar.proxy.output()


def test_when_the_proxy_is_killed(outward):
    with outward.joined() as (application, far):
        outward.sidecar.proxy.kill()
        for peer in (application, far):
            with contextlib.suppress(ConnectionResetError):
                assert peer.sock.recv(1) == b""
        with pytest.raises(OSError):
            for _ in range(100):
                application.sock.sendall(b"nobody")
                select.select([application.sock], [], [], 0.01)


# --- what applications do to send ------------------------------------------------------------------------------------


def test_sendfile(outward, network):
    with outward.joined() as ends:
        send_file(*ends, network.folder)


def test_more_to_come(outward):
    """MSG_MORE is a promise, and TCP waits a little for it to be kept: not for ever."""
    with outward.joined() as (application, far):
        application.sock.send(b"first", socket.MSG_MORE)
        application.sock.send(b"second")
        assert far.read(11) == b"firstsecond"
        application.sock.send(b"third", socket.MSG_MORE)
        assert far.read(5) == b"third"


def test_zero_copy_sends_are_completed(outward):
    with outward.joined() as ends:
        send_without_copies(*ends)


def test_a_sender_that_blocks_later(outward):
    with outward.joined() as (application, far):
        application.sock.settimeout(None)
        data = pattern(4 * MIB)
        thread = in_background(send_all, application, data, [50000])
        assert far.read(len(data)) == data
        thread.join(10)


def test_a_program_that_blocks_once_it_is_connected(mesh):
    """What it sends is joined; what comes for it has left the bypass for TCP, and is relayed."""
    line = Line(mesh)
    with line.ends() as (application, far):
        application.sock.settimeout(None)
        join(application, far)
        before = [line.counter(f"{how}_bytes") for how in ("joined", "relayed")]
        application.send("question")
        assert far.read(8) == b"question"
        far.send("answer")
        assert application.read(6) == b"answer"
        assert [line.counter(f"{how}_bytes") for how in ("joined", "relayed")] == [before[0] + 8, before[1] + 6]
        data = pattern(4 * MIB)
        thread = in_background(send_all, far, data, [1000])
        assert application.read(len(data)) == data
        thread.join(20)
        far.send("farewell").end()
        assert application.rest() == b"farewell"
        application.send("thanks").end()
        assert far.rest() == b"thanks"
    wait_until(line.are_clear)
    wait_until(lambda: not line.entries("weir_relays"))


@pytest.mark.parametrize("out", [True, False], ids=["out", "in"])
def test_a_program_that_blocks_before_it_sends_leaves_the_bypass(mesh, out):
    """Else recv(2), waiting, would fail with EAGAIN when there is room to send again."""
    line = Line(mesh, out)
    with line.ends(blocks=True) as ends:
        join(*ends)
        assert len(line.entries("weir_relays")) == 2
        assert not line.outlets()
        before = line.counter("relayed_bytes")
        ends[0].send("question")
        assert ends[1].read(8) == b"question"
        ends[1].send("answer")
        assert ends[0].read(6) == b"answer"
        assert line.counter("relayed_bytes") == before + 14
        transfer_both_ways(ends)
    wait_until(lambda: not line.entries("weir_relays"))


def test_what_was_bypassed_before_a_program_blocks_is_not_lost(mesh):
    """It leaves the bypass once it has read that."""
    line = Line(mesh)
    done = threading.Event()

    def handler(peer):
        peer.send("banner")
        for _ in range(6):
            peer.send(peer.read(5))
        done.wait(60)

    with Origin(line.far, RAW_PORT, handler):
        before = line.counter("messages")
        application = line.connect("raw.mesh", PORT)
        wait_until(lambda: line.counter("messages") == before + 1)
        application.sock.settimeout(None)
        application.send("hello")
        wait_until(lambda: line.sidecar.connections()[0]["received"] == 5)
        application.sock.settimeout(30)
        assert application.read(6) == b"banner"
        application.sock.settimeout(None)
        assert application.read(5) == b"hello"
        for _ in range(5):
            assert application.send("again").read(5) == b"again"
        assert len(line.entries("weir_relays")) == 2
        done.set()


def test_a_program_that_blocks_and_gets_no_answer_for_long_leaves_the_bypass(mesh):
    """With the first one, however many messages it has sent before."""
    line = Line(mesh)
    done = threading.Event()

    def handler(peer):
        peer.send("banner")
        peer.read(50)
        peer.send("answer")
        done.wait(60)

    with Origin(line.far, RAW_PORT, handler):
        before = line.counter("messages")
        application = line.connect("raw.mesh", PORT)
        wait_until(lambda: line.counter("messages") == before + 1)
        assert application.read(6) == b"banner"
        application.sock.settimeout(None)
        for size in range(5, 55, 5):
            application.send("hello")
            wait_until(lambda size=size: line.sidecar.connections()[0]["received"] == size)
        assert application.read(6) == b"answer"
        wait_until(lambda: not line.entries("weir_bypassed"))
        done.set()


@pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "does-not-block"])
def test_only_clients_that_block_leave_the_bypass(mesh, blocks):
    """Also where there is nothing to be passed on, but requests."""

    def handler(peer):
        for _ in range(2):
            peer.head()
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    line = Line(mesh)
    with Origin(line.far, WEB_PORT, handler):
        client = line.connect("web.mesh", 80)
        if blocks:
            client.sock.settimeout(None)
        for _ in range(2):
            client.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 200")
            assert client.read(2) == b"ok"
        assert line.sidecar.connections()[0]["accelerated"] is not blocks
        client.close()
