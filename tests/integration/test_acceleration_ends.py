# SPDX-License-Identifier: Apache-2.0
"""What the program of the local bypass keeps with sockets, set to what would take gigabytes, or a race of packets."""

import contextlib
import ctypes
import os
import struct
import threading

import pytest

from bpf import bpf
from mesh import Mesh, Origin
from netns import wait_until
from test_acceleration_joined import PORT, RAW_PORT, Line
from test_prog_map import open_ids

LOOKUP_ELEM, UPDATE_ELEM, GET_INFO, MAP_BY_NUMBER = 1, 2, 15, 14  # commands of bpf(2)
PIDFD_GETFD = 438  # a system call
END = struct.Struct("=QQQIIIIII")  # struct weir_end
PEER, COOKIE, TO_PROXY, BYPASSED, PROVEN = 0, 1, 4, 7, 8


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def name_of(fd):
    info = ctypes.create_string_buffer(256)
    bpf(GET_INFO, struct.pack("=IIQ", fd, 256, ctypes.addressof(info)))
    return struct.unpack_from("16s", info, 24)[0].rstrip(b"\0").decode()


class Ends:
    """Of the proxy's sockets, as the program has them."""

    def __init__(self, pid, stack):
        self.stack, self.pid = stack, pid
        self.process = self.own(os.pidfd_open(pid))
        maps = [self.own(bpf(MAP_BY_NUMBER, struct.pack("=I", number))) for number in open_ids(pid, "map_id")]
        [self.map] = [fd for fd in maps if name_of(fd) == "weir_ends"]

    def own(self, fd):
        self.stack.callback(os.close, fd)
        return fd

    def call(self, command, fd, value):
        key, value = ctypes.c_int(fd), ctypes.create_string_buffer(value, END.size)
        bpf(command, struct.pack("=IIQQQ", self.map, 0, ctypes.addressof(key), ctypes.addressof(value), 0))
        return list(END.unpack(value.raw))

    def set(self, fd, fields):
        self.call(UPDATE_ELEM, fd, END.pack(*fields))

    def sockets(self):
        """Those that send to an application: descriptor (of this process): fields."""
        found = {}
        for number in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, self.process, int(number), 0)
                fields = self.call(LOOKUP_ELEM, self.own(fd), b"\0" * END.size)
                if fields[PEER] and not fields[TO_PROXY]:
                    found[fd] = fields
        return found


@pytest.fixture
def line(mesh):
    return Line(mesh)


@pytest.fixture
def ends(line):
    with contextlib.ExitStack() as stack:
        yield Ends(line.sidecar.proxy.pid, stack)


def test_a_program_blocks_after_four_gigabytes(line, ends):
    """Exactly as many bytes as make the count zero again. The last of them, which it has not read yet, are not lost."""
    done = threading.Event()

    def handler(peer):
        peer.send("banner")
        peer.send(peer.read(5))
        done.wait(60)

    with Origin(line.far, RAW_PORT, handler):
        before = line.counter("messages")
        application = line.connect("raw.mesh", PORT)
        wait_until(lambda: line.counter("messages") == before + 1)
        [(fd, fields)] = ends.sockets().items()
        assert fields[BYPASSED] == 6
        ends.set(fd, [*fields[:BYPASSED], 0, fields[PROVEN]])
        application.sock.settimeout(None)
        application.send("hello")
        wait_until(lambda: line.sidecar.connections()[0]["received"] == 5)
        application.sock.settimeout(30)
        assert application.read(11) == b"bannerhello"
        done.set()


def test_ends_that_are_mixed_up_go_by_tcp(line, ends):
    """Two connections from the same port that begin at the same time: what waits for the wrong one's application, which need
    never read it, does not concern the right one."""
    accepted, done = [], threading.Event()

    def handler(peer):
        accepted.append(peer)
        done.wait(60)

    with Origin(line.far, RAW_PORT, handler):
        wrong = line.connect("raw.mesh", PORT)
        wait_until(lambda: len(accepted) == 1)
        accepted[0].send("unread")
        wait_until(lambda: line.sidecar.connections()[0]["sent"] == 6)
        [theirs] = ends.sockets().values()
        right = line.connect("raw.mesh", PORT)
        wait_until(lambda: len(accepted) == 2)
        [(second, own)] = [(fd, fields) for fd, fields in ends.sockets().items() if fields[COOKIE] != theirs[COOKIE]]
        ends.set(second, [theirs[PEER], theirs[COOKIE], *own[2:]])
        accepted[1].send("right")
        assert right.read(5) == b"right"
        assert wrong.read(6) == b"unread"
        done.set()
