# SPDX-License-Identifier: Apache-2.0
"""Relayed directions (`acceleration: auto`): what only the kernel's way of doing it can get wrong. What holds of all
directions that go past the proxy is in test_acceleration_joined.py."""

import contextlib
import os
import pathlib
import socket
import struct
import threading

import pytest

from mesh import Mesh, Origin
from netns import wait_until
from test_acceleration import MIB, PROXY_QUEUE_MAX, fill_up, in_background, pattern, send_all, set_buffers
from test_acceleration_joined import RAW_PORT, SMALL, TURNS, Line, join

FIN, SYN, PSH, ACK = 1, 2, 8, 16
SOURCE_PORT = 4444


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def narrow_line(mesh, **config):
    """One whose pod has small buffers, which do not grow."""
    pod = mesh.network.pod("near")
    set_buffers(pod, SMALL, SMALL)
    return Line(mesh, relayed=True, pod=pod, **config)


class Segments:
    """A client whose segments are made by hand, so that they can repeat what has already come."""

    def __init__(self, pod, address, port):
        for line in (  # the kernel, which knows of no such socket, would reset it
            "add table ip by_hand",
            "add chain ip by_hand out { type filter hook output priority 0; }",
            f"add rule ip by_hand out tcp sport {SOURCE_PORT} tcp flags rst drop",
        ):
            pod.run(["nft", line])
        with pod.enter():
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self.sock.bind((pod.ipv4, 0))
        self.sock.connect((address, 0))
        self.sock.settimeout(30)
        self.ends = socket.inet_aton(pod.ipv4) + socket.inet_aton(address)
        self.port, self.first, self.next = port, 1000, 0
        self.sent, self.received = 0, b""
        self.send_segment(0, b"", SYN)
        while not self.next:
            self.take()
        self.first += 1
        self.send_segment(0, b"")

    def send_segment(self, at, data, flags=ACK | PSH):
        head = struct.pack("!HHIIBBHHH", SOURCE_PORT, self.port, self.first + at, self.next, 5 << 4, flags, 65535, 0, 0)
        packet = self.ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(data)) + head + data
        packet += b"\0" * (len(packet) % 2)
        total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
        total = (total & 0xFFFF) + (total >> 16)
        total += total >> 16
        self.sock.send(head[:16] + struct.pack("!H", ~total & 0xFFFF) + head[18:] + data)

    def take(self):
        """What comes next: bytes, in order, are acknowledged."""
        packet = self.sock.recv(65536)
        segment = packet[(packet[0] & 15) * 4 :]
        source, dest, sequence, _, offset, flags = struct.unpack("!HHIIBB", segment[:14])
        if (source, dest) != (self.port, SOURCE_PORT):
            return
        data = segment[(offset >> 4) * 4 :]
        if flags & SYN:
            self.next = sequence + 1
        elif data and sequence == self.next:
            self.received += data
            self.next += len(data)
            self.send_segment(self.sent, b"", ACK)

    def send(self, data):
        self.send_segment(self.sent, data)
        self.sent += len(data)

    def read(self, size):
        while len(self.received) < size:
            self.take()
        data, self.received = self.received[:size], self.received[size:]
        return data


@pytest.fixture
def by_hand(mesh):
    """A client, an application, and the line between them, which is relayed."""
    line, accepted, done = Line(mesh, out=False, relayed=True), [], threading.Event()

    def handler(peer):
        accepted.append(peer)
        done.wait(120)

    with Origin(line.pod, RAW_PORT, handler) as origin:
        origin.listener.settimeout(None)
        client = Segments(line.far, line.pod.ipv4, RAW_PORT)
        client.send(b"hello")
        wait_until(lambda: accepted)
        [application] = accepted
        assert application.read(5) == b"hello"
        for _ in range(TURNS):
            application.send("turn")
            assert client.read(4) == b"turn"
            client.send(b"turn")
            assert application.read(4) == b"turn"
        assert len(line.directions()) == 2
        yield client, application, line
        done.set()


# Each row: what is sent, (place, bytes) a segment.
@pytest.mark.parametrize(
    "segments",
    [
        [(0, b"AAAA"), (0, b"AAAABBBB"), (8, b"CCCC")],
        [(0, b"AAAABBBB"), (2, b"AABBBBCC"), (0, b"AAAABBBBCCCC")],
        [(0, b"AAAABBBB"), (0, b"AAAA"), (4, b"BBBB"), (8, b"CCCC")],
        [(4, b"BBBB"), (0, b"AAAABB"), (6, b"BBCCCC")],
        [(4, b"BBBBCC"), (2, b"AABB"), (8, b"CCCC"), (0, b"AAA")],
    ],
    ids=["longer", "shifted", "again", "out-of-order", "a-gap-filled"],
)
def test_retransmissions_in_other_pieces(by_hand, segments):
    """The kernel shows programs whole buffers, also where these begin with bytes that came before."""
    client, application, line = by_hand
    before = line.past()
    for at, data in segments:
        client.send_segment(client.sent + at, data)
    client.sent += 12
    assert application.read(12) == b"AAAABBBBCCCC"
    client.send(b"next")
    assert application.read(4) == b"next"
    application.send("answer")
    assert client.read(6) == b"answer"
    assert line.past() == before + 16 + 6


def test_a_retransmission_longer_than_can_be_cut_at_once(by_hand):
    client, application, _ = by_hand
    data = pattern(30000)
    for at in range(0, 20000, 1000):
        client.send_segment(client.sent + at, data[at : at + 1000])
    assert application.read(20000) == data[:20000]
    client.send_segment(client.sent + 9000, data[9000:])
    client.sent += len(data)
    assert application.read(10000) == data[20000:]


def test_the_end_in_a_retransmission(by_hand):
    client, application, _ = by_hand
    client.send_segment(client.sent, b"last")
    client.send_segment(client.sent, b"last words", ACK | PSH | FIN)
    client.sent += 11
    assert application.rest() == b"last words"
    application.send("farewell")
    assert client.read(8) == b"farewell"


@contextlib.contextmanager
def nothing_is_sent_on():
    """The kernel's thread has to wait for us: it is of the CPU on which something has come."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cpus)


def send_pieces(sender, messages):
    """Messages of 16 pieces, each a byte in a page of its own, which take memory wherever they wait. None is sent on before the last
    one has come."""
    sender.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    source, sink = os.pipe2(os.O_DIRECT)
    try:
        with nothing_is_sent_on():
            for _ in range(messages):
                for _ in range(16):
                    os.write(sink, b"p")
                assert os.splice(source, sender.sock.fileno(), 16) == 16
    finally:
        os.close(source)
        os.close(sink)


@pytest.mark.parametrize("pieces", ["relayed", "the-other-way"])
@pytest.mark.parametrize("out", [False, True], ids=["in", "out"])
def test_small_pieces_do_not_keep_windows_open(mesh, out, pieces):
    """They take more room in the sink than their bytes. What is sent behind them, and the other way, waits for readers who do
    not read, and its senders are told so."""
    line = narrow_line(mesh, out=out)
    set_buffers(line.far, SMALL, SMALL)
    with line.ends() as (far, application):
        join(far, application)
        sender, receiver = (far, application) if pieces == "relayed" else (application, far)
        way, first = "received" if (sender is far) == line.first_opens else "sent", pattern(23 * 9000, 3)
        before = line.sidecar.connections()[0][way]
        for at in range(0, len(first), 9000):
            sender.send(first[at : at + 9000])
            wait_until(lambda at=at: line.sidecar.connections()[0][way] - before == at + 9000)
        send_pieces(sender, 64)
        data, sent = pattern(16 * MIB), {}
        for one in (sender, receiver):
            sent[one] = fill_up(line.sidecar, one, data)
            assert sent[one] <= 6 * SMALL + PROXY_QUEUE_MAX
        for one in (sender, receiver):
            one.sock.settimeout(30)
        assert receiver.read(len(first) + 16 * 64) == first + b"p" * (16 * 64)
        assert receiver.read(sent[sender]) == data[: sent[sender]]
        assert sender.read(sent[receiver]) == data[: sent[receiver]]


@pytest.mark.parametrize("out", [False, True], ids=["in", "out"])
def test_a_peer_that_reads_when_it_has_sent_all(mesh, out):
    """Pieces that came for it must not stay in front of what it sends, once its buffers are full."""
    line = narrow_line(mesh, out=out)
    set_buffers(line.far, SMALL, SMALL)
    with line.joined() as (application, far):
        first, data = pattern(23 * 9000, 3), pattern(16 * MIB)
        for at in range(0, len(first), 9000):
            before = line.past()
            application.send(first[at : at + 9000])
            wait_until(lambda before=before: line.past() == before + 9000)
        send_pieces(application, 64)
        thread = in_background(send_all, far, data)
        assert application.read(len(data)) == data
        thread.join(20)
        assert far.read(len(first) + 16 * 64) == first + b"p" * (16 * 64)


def test_buffers_that_wait_for_the_kernels_thread_are_few(by_hand):
    """There is hardly a byte in any. What has no room is not acknowledged, and has to be sent again."""
    client, application, line = by_hand
    first, pieces = client.sent, b"p" * 1000
    with nothing_is_sent_on():
        application.send("waits")
        for _ in pieces:
            client.send(b"p")
    [counts] = line.entries("weir_relayed")
    assert counts["refused"] > len(pieces) // 2  # some hundred fit, relayed or not
    assert client.read(5) == b"waits"  # and then there is room again
    client.send_segment(first, pieces)
    assert application.read(len(pieces)) == pieces


def test_bytes_that_wait_for_the_kernels_thread_are_few(by_hand):
    """What is left to the proxy is no more than the receive buffer could hold, in however few buffers."""
    client, application, line = by_hand
    set_buffers(line.pod, SMALL, SMALL)
    first, parts = client.sent, [pattern(20000, part) for part in range(40)]
    [before] = line.entries("weir_relayed")
    with nothing_is_sent_on():
        application.send("waits")
        for part in parts:
            client.send(part)
    [counts] = line.entries("weir_relayed")
    assert counts["refused"] > before["refused"]
    assert sum(way["left_to_proxy"] for way in line.directions()) <= SMALL + len(parts[0])
    for part in parts:
        client.send_segment(first, part)
        assert application.read(len(part)) == part
        first += len(part)
    assert client.read(5) == b"waits"


def unacknowledged(pod, port):
    """How many bytes TCP has sent, or has to send, to that port."""
    with pod.enter():
        rows = [line.split() for line in pathlib.Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]]
    [queues] = [row[4] for row in rows if row[2].endswith(f":{port:04X}")]
    return int(queues.partition(":")[0], 16)


def test_acknowledgements_come_in_whatever_is_refused(by_hand):
    client, application, line = by_hand
    first, pieces = client.sent, b"p" * 1000
    application.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    application.send("early")
    wait_until(lambda: unacknowledged(line.pod, SOURCE_PORT) == 5)
    with nothing_is_sent_on():
        application.send("waits")
        for _ in pieces:
            client.send(b"p")
        assert unacknowledged(line.pod, SOURCE_PORT) == 5
        client.next += 5
        client.send_segment(client.sent, b"", ACK)
        assert unacknowledged(line.pod, SOURCE_PORT) == 0
    assert client.read(5) == b"waits"  # and then there is room again
    client.send_segment(first, pieces)
    assert application.read(len(pieces)) == pieces


def test_nothing_is_relayed_to_a_socket_from_which_bytes_wait(mesh):
    """Until they are passed on, and the end behind them."""
    line = narrow_line(mesh)
    with line.joined() as (far, application):
        sent = fill_up(line.sidecar, far, pattern(16 * MIB))
        far.sock.settimeout(30)
        before = line.past()
        application.send("aside")
        assert far.read(5) == b"aside"
        assert line.past() == before
        far.end()
        assert application.rest() == pattern(16 * MIB)[:sent]
        line.send_past(application, far)


def test_all_is_relayed_to_a_socket_once_nothing_waits(mesh):
    """Also if nothing more comes on it."""
    line = narrow_line(mesh)
    with line.joined() as (application, far):
        sent = fill_up(line.sidecar, far, pattern(16 * MIB))
        assert application.read(sent) == pattern(16 * MIB)[:sent]
        far.sock.settimeout(30)

        def goes_past():
            before = line.past()
            application.send("x")
            assert far.read(1) == b"x"
            return line.past() == before + 1

        wait_until(goes_past)


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_who_waits_for_room_is_told_of_a_cut(mesh, way):
    """What is left to the proxy is in no queue of TCP, which else resets when it is closed with bytes unread."""
    line = narrow_line(mesh, timeouts={"drain": "1ms"})
    with line.joined() as (far, application):
        fill_up(line.sidecar, far, pattern(16 * MIB))
        if way == "stopped":
            assert line.sidecar.proxy.stop() == 0
        else:
            line.sidecar.proxy.kill()
        far.sock.settimeout(30)
        with pytest.raises(ConnectionResetError):
            far.rest()
        application.close()
