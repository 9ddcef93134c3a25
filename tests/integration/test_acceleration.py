# SPDX-License-Identifier: Apache-2.0
"""`acceleration: auto`: client, proxy and origin are on one host, and what they say to each other goes past TCP. A stream
must stay a stream: these are the hazards that other projects met. (All other tests run with it, too: WEIR_ACCELERATION=auto.)"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading

import pytest

from mesh import Mesh, Origin, cluster, connect, service
from nginx import start_nginx
from netns import MEMORY_GROUPS, wait_until, writable

PORT, RAW_PORT = 5000, 7000
MPTCP = 262  # IPPROTO_MPTCP
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000
QUEUE_MAX = 262144  # of one direction
PROXY_QUEUE_MAX = (128 + 32) * 1024  # of what it cannot send: above 128 KiB it reads no more
MIB = 1 << 20


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Host:
    """One pod: raw.mesh:5000 leads through the proxy to port 7000 of the same pod."""

    def __init__(self, mesh, address="127.0.0.1", acceleration="auto", **config):
        if acceleration:
            config["acceleration"] = acceleration
        at = f"[{address}]" if ":" in address else address
        self.sidecar = mesh.sidecar(
            "host",
            services=[service("raw.mesh", PORT, "raw", protocol="tcp"), service("web.mesh", 80, "web")],
            clusters=[cluster("raw", [f"{at}:{RAW_PORT}"]), cluster("web", ["127.0.0.1:8080"])],
            **config,
        )
        self.pod, self.address = self.sidecar.pod, address
        rows = self.sidecar.show("vhost", "show")["virtual_hosts"]
        self.row = next(row for row in rows if row["name"].startswith("raw.mesh"))

    def origin(self, handler, blocking=False):
        origin = Origin(self.pod, RAW_PORT, handler, "::" if ":" in self.address else "0.0.0.0")
        origin.listener.settimeout(None if blocking else 600)
        return origin

    def connect(self, vip="vip4"):
        return connect(self.pod, self.row[vip], PORT)

    def counter(self, what):
        return self.sidecar.counter(f"accelerated_{what}_total")


@pytest.fixture
def host(mesh):
    found = Host(mesh)
    assert found.sidecar.show("version", "show")["proxy"]["acceleration"] == "on", found.sidecar.proxy.output()
    return found


@contextlib.contextmanager
def joined(host, vip="vip4"):
    """(client, server): the two ends of a connection through the proxy, both of which were used already."""
    accepted, done = [], threading.Event()

    def handler(peer):
        accepted.append(peer)
        assert peer.read(5) == b"hello"
        peer.send("welcome")
        done.wait(60)

    before = host.counter("messages")
    with host.origin(handler):
        client = host.connect(vip)
        try:
            wait_until(lambda: accepted)  # then it does not block any more
            client.send("hello")
            assert client.read(7) == b"welcome"
            assert host.counter("messages") == before + 4  # into the proxy and out of it, there and back
            yield client, accepted[0]
        finally:
            done.set()
            client.close()


@pytest.fixture(params=["to-origin", "to-client"])
def way(request, host):
    """(sender, receiver) of a connection through the proxy, each of both ways."""
    with joined(host) as ends:
        yield ends if request.param == "to-origin" else ends[::-1]


def pattern(size, seed=1):
    return random.Random(seed).randbytes(size)


def send_all(peer, data, sizes=(1, 7, 1000, 5000, 40000, 200000)):
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        peer.sock.sendall(data[at : at + size])
        at, turn = at + size, turn + 1


def in_background(fn, *args):
    thread = threading.Thread(target=fn, args=args, daemon=True)
    thread.start()
    return thread


def echo(peer):
    while peer.another():
        data, peer.buffer = peer.buffer, b""
        peer.send(data)


# --- what is tried on the two ends of a stream, whichever way its messages take ---------------------------------------


def transfer_both_ways(ends, size=8 * MIB):
    data = [pattern(size, seed) for seed in (1, 2)]
    received = [None, None]

    def receive(side):
        received[1 - side] = hashlib.sha256(ends[side].read(size)).digest()

    threads = [in_background(send_all, ends[side], data[side]) for side in (0, 1)]
    threads += [in_background(receive, side) for side in (0, 1)]
    for thread in threads:
        thread.join(60)
    assert received == [hashlib.sha256(part).digest() for part in data]


def send_file(sender, receiver, folder):
    data, path = pattern(3 * MIB), folder / "file"
    path.write_bytes(data)
    with open(path, "rb") as file:
        thread = in_background(sender.sock.sendfile, file)
        assert receiver.read(len(data)) == data
        thread.join(20)


def send_without_copies(sender, receiver):
    """Its sender waits until the kernel says that the memory is its own again."""
    sender.sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    data = pattern(30000)
    assert sender.sock.send(data, MSG_ZEROCOPY) == len(data)
    assert receiver.read(len(data)) == data
    poll = select.poll()
    poll.register(sender.sock, select.POLLERR)
    assert poll.poll(10000)
    _, ancillary, _, _ = sender.sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
    assert ancillary


def send_from_two_processes(sender, receiver):
    child = os.fork()
    if child == 0:
        for _ in range(1000):
            sender.sock.sendall(b"child\n")
        os._exit(0)
    for _ in range(1000):
        sender.sock.sendall(b"parent\n")
    _, status = os.waitpid(child, 0)
    assert status == 0
    lines = sorted(receiver.read(6 * 1000 + 7 * 1000).decode().split())
    assert lines == ["child"] * 1000 + ["parent"] * 1000


# --- on and off ------------------------------------------------------------------------------------------------------


def bpf_ids(pid):
    """The programs, maps and links that the process has open."""
    found = set()
    for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            found |= set(re.findall(r"^(prog_id|map_id|link_id):\s+(\d+)$", info.read_text(), re.MULTILINE))
    return found


def bpftool(*words):
    return subprocess.run(["bpftool", "-j", *words], capture_output=True, text=True, check=False)


def is_there(kind, number):
    return bpftool({"prog_id": "prog", "map_id": "map", "link_id": "link"}[kind], "show", "id", number).returncode == 0


@pytest.mark.parametrize("setting", [None, "off"], ids=["unset", "off"])
def test_it_is_off_by_default(mesh, monkeypatch, setting):
    monkeypatch.delenv("WEIR_ACCELERATION", raising=False)
    host = Host(mesh, acceleration=setting)
    assert host.sidecar.show("version", "show")["proxy"]["acceleration"] == "off"
    assert bpf_ids(host.sidecar.proxy.pid) == set()
    with host.origin(lambda peer: peer.send(peer.read(5))):
        assert host.connect().send("hello").read(5) == b"hello"
    assert host.counter("messages") == 0


def test_both_sides_of_an_http_exchange_go_past_tcp(host):
    start_nginx(host.pod, "server { listen 127.0.0.1:8080; location / { return 200 hello; } }")
    assert host.pod.run(["curl", "-s", "http://web.mesh/", "http://web.mesh/"]).stdout == "hello" * 2
    assert host.counter("connections") == 2
    assert host.counter("messages") >= 8
    assert host.counter("bytes") > 300
    assert host.counter("fallbacks") == 0


def test_a_connection_says_whether_it_is_accelerated(host):
    with joined(host):
        [row] = host.sidecar.connections()
        assert row["accelerated"] is True


def test_sockets_that_block_are_not_bypassed(host):
    """Of a socket that is, the kernel wakes readers with EAGAIN on a reset or a signal. Between these it relays."""

    def handler(peer):
        peer.sock.settimeout(None)
        echo(peer)

    with host.origin(handler, blocking=True):
        with host.pod.enter():
            sock = socket.socket()
        sock.connect((host.row["vip4"], PORT))
        for _ in range(5):
            sock.sendall(b"hello")
            assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
        [row] = host.sidecar.connections()
        assert row["accelerated"] is True
        assert host.counter("relayed_bytes") > 0
        sock.close()
    assert host.counter("connections") == 0


def test_a_socket_that_blocks_later(host):
    """It gets what comes from now on by TCP: a read of all or nothing is one."""
    with joined(host) as ends:
        for sender, receiver in (ends, ends[::-1]):
            receiver.sock.settimeout(None)
            thread = in_background(send_all, sender, pattern(MIB), [1000])
            assert receiver.sock.recv(MIB, socket.MSG_WAITALL) == pattern(MIB)
            thread.join(10)


@pytest.fixture
def rationed(network):
    """make(fn): what `fn` returns, called in a control group whose TCP has a page of memory."""
    group = MEMORY_GROUPS / f"{network.prefix}rationed"
    group.mkdir()
    (group / "memory.kmem.tcp.limit_in_bytes").write_text("4096")

    def make(fn):
        made = []

        def run():
            (group / "tasks").write_text(str(threading.get_native_id()))
            made.append(fn())

        in_background(run).join()
        return made[0]

    return make


@pytest.mark.parametrize("limited", ["client", "server"])
def test_an_application_whose_tcp_has_little_memory_is_left_alone(host, rationed, limited):
    """Past TCP, the kernel begins to send a message only when it has the memory for all of it."""
    accepted, done, data = [], threading.Event(), pattern(MIB)

    def handler(peer):
        accepted.append(peer)
        done.wait(60)

    def listen():
        return host.origin(handler)

    with rationed(listen) if limited == "server" else listen():
        client = rationed(host.connect) if limited == "client" else host.connect()
        client.send("hello")
        wait_until(lambda: accepted)
        assert accepted[0].read(5) == b"hello"
        assert host.counter("connections") == 1  # the other one's with the proxy
        sender, receiver = (client, accepted[0]) if limited == "client" else (accepted[0], client)
        thread = in_background(send_all, sender, data)
        assert receiver.read(MIB) == data
        thread.join(10)
        done.set()
        client.close()


def test_a_proxy_whose_tcp_has_little_memory_goes_without(mesh, rationed):
    sidecar = mesh.sidecar("host", start=False, acceleration="auto")
    rationed(sidecar.start)
    assert sidecar.show("version", "show")["proxy"]["acceleration"] == "off"
    assert "the ends of a connection are found: not found" in sidecar.proxy.output()


def test_a_connection_from_elsewhere_is_none_of_it(mesh):
    host = Host(mesh)
    client = mesh.network.pod("client")
    with host.origin(lambda peer: peer.send(peer.read(5)).rest()):
        peer = connect(client, host.pod.ipv4, RAW_PORT)
        assert peer.send("hello").read(5) == b"hello"
        [row] = host.sidecar.connections()
        assert row["direction"] == "inbound" and row["accelerated"] is False
        assert host.counter("connections") == 1  # the proxy's to the application
        peer.close()


def test_a_kernel_that_fails_the_test_goes_without(mesh):
    """Here: receive buffers so small that nothing may be bypassed."""
    pod = mesh.network.pod("host")
    pod.sysctl("net.ipv4.tcp_rmem", "1 1 1")
    sidecar = mesh.sidecar("host", pod=pod, start=False, acceleration="auto")
    sidecar.start()
    log = sidecar.proxy.output()
    assert 'msg="acceleration is off"' in log and "the ends of a connection are found: not found" in log
    assert sidecar.show("version", "show")["proxy"]["acceleration"] == "off"
    assert bpf_ids(sidecar.proxy.pid) == set()


# A C library whose TCP does one thing wrong, as kernels have done. The step of the test that is to see it: what that is.
WRONG = {
    "a transfer both ways": "ssize_t n = real_recv(fd, to, len, flags); if (n > 1000) ((char *)to)[999] ^= 1; return n;",
    "peeking, and asking how much is there": "ssize_t n = real_recv(fd, to, len, flags); return n > 1 && flags & MSG_PEEK ? n - 1 : n;",
    "half-close by the application": "return poll_end(fd) ? 0 : real_recv(fd, to, len, flags);",
    "reset by the application": "lingers = 0; return real_recv(fd, to, len, flags);",
    "an application that reads slowly": "unbounded = 1; return real_recv(fd, to, len, flags);",
}
LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>
static int lingers = 1, unbounded, reset;
static int poll_end(int fd)
{
	struct pollfd poll_fd = {fd, POLLRDHUP, 0};
	return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & POLLRDHUP;
}
static ssize_t real_recv(int fd, void *to, size_t len, int flags)
{
	return ((ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv"))(fd, to, len, flags);
}
static int wrong_recv(int fd, void *to, size_t len, int flags) { (void)poll_end; WRONG }
ssize_t recv(int fd, void *to, size_t len, int flags)
{
	int family = 0;
	socklen_t size = sizeof family;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
	return family == AF_INET ? wrong_recv(fd, to, len, flags) : real_recv(fd, to, len, flags);
}
/* What is big has always room, once there was a reset. */
ssize_t send(int fd, const void *from, size_t len, int flags)
{
	ssize_t n = ((ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send"))(fd, from, len, flags);
	return n < 0 && unbounded && reset && len > 1000 ? (ssize_t)len : n;
}
int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	reset |= level == SOL_SOCKET && name == SO_LINGER;
	if (level == SOL_SOCKET && name == SO_LINGER && !lingers)
		return 0;
	return ((int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt"))(fd, level, name, value, len);
}
"""


@pytest.mark.parametrize("step", list(WRONG))
def test_whatever_is_wrong_with_tcp_turns_it_off(mesh, step):
    folder = mesh.network.folder
    (folder / "wrong.c").write_text(LIBRARY.replace("WRONG", WRONG[step]))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "wrong.so", folder / "wrong.c", "-ldl"], check=True)
    sidecar = mesh.sidecar("host", start=False, acceleration="auto")
    sidecar.start(env={"LD_PRELOAD": str(folder / "wrong.so"), "ASAN_OPTIONS": "verify_asan_link_order=0"})
    log = sidecar.proxy.output()
    assert 'msg="acceleration is off"' in log and f"the local bypass does not work on this kernel: {step}: " in log, log
    assert sidecar.show("version", "show")["proxy"]["acceleration"] == "off"
    assert bpf_ids(sidecar.proxy.pid) == set()


# The same while relaying is tested, which begins when its program is attached to a map of sockets.
WRONG_RELAYING = {
    "messages": "if (n == 1000) ((char *)to)[999] ^= 1;",
    "a transfer both ways": "if (n > 1000) ((char *)to)[999] ^= 1;",
    "receivers that are slow": "endless = total > 2 << 20;",
    "bytes of which a part was read": "if (len == 100) part = 1; if (part && len == 1 && flags & MSG_PEEK) return 1;",
    "half-close by who has connected": "if (shut && n > 0) return shut = 0;",
    "reset by who has connected": "lingers = 0;",
}
RELAYING_LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static int relaying, lingers = 1, endless, part, shut;
static long total;
#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
long syscall(long number, ...)
{
	va_list args;
	va_start(args, number);
	long a = va_arg(args, long), b = va_arg(args, long), c = va_arg(args, long), d = va_arg(args, long);
	long e = va_arg(args, long), f = va_arg(args, long);
	va_end(args);
	if (number == SYS_bpf && a == BPF_PROG_ATTACH && ((union bpf_attr *)b)->attach_type == BPF_SK_SKB_STREAM_VERDICT)
		relaying = 1;
	return REAL(long, "syscall", long, ...)(number, a, b, c, d, e, f);
}
ssize_t recv(int fd, void *to, size_t len, int flags)
{
	ssize_t n = REAL(ssize_t, "recv", int, void *, size_t, int)(fd, to, len, flags);
	int family = 0;
	socklen_t size = sizeof family;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
	if (!relaying || family != AF_INET)
		return n;
	total += n > 0 ? n : 0;
	(void)part;
	WRONG
	return n;
}
ssize_t send(int fd, const void *from, size_t len, int flags)
{
	ssize_t n = REAL(ssize_t, "send", int, const void *, size_t, int)(fd, from, len, flags);
	return endless && len > 1000 ? (ssize_t)len : n;
}
int shutdown(int fd, int how)
{
	shut |= relaying;
	return REAL(int, "shutdown", int, int)(fd, how);
}
int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	if (level == SOL_SOCKET && name == SO_LINGER && !lingers)
		return 0;
	return REAL(int, "setsockopt", int, int, int, const void *, socklen_t)(fd, level, name, value, len);
}
"""


@pytest.mark.parametrize("step", list(WRONG_RELAYING))
def test_what_is_wrong_with_relaying_turns_that_off(mesh, step):
    """The local bypass, whose test has passed, is on."""
    folder = mesh.network.folder
    (folder / "wrong.c").write_text(RELAYING_LIBRARY.replace("WRONG", WRONG_RELAYING[step]))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "wrong.so", folder / "wrong.c", "-ldl"], check=True)
    sidecar = mesh.sidecar("host", start=False, acceleration="auto")
    sidecar.start(env={"LD_PRELOAD": str(folder / "wrong.so"), "ASAN_OPTIONS": "verify_asan_link_order=0"})
    log = sidecar.proxy.output()
    assert 'msg="acceleration is on"' in log and 'msg="acceleration goes without relaying"' in log, log
    assert f"relaying does not work on this kernel: {step}: " in log, log
    maps = sidecar.show("map", "show")["maps"]
    names = {row["name"] for row in maps if ("map_id", str(row["id"])) in bpf_ids(sidecar.proxy.pid)}
    assert "weir_bypassed" in names and "weir_sources" not in names


def test_without_privileges_it_goes_without(mesh):
    sidecar = mesh.sidecar("host", start=False, acceleration="auto", user="", admin={"socket": "/tmp/none"})
    folder = sidecar.folder
    folder.chmod(0o777)
    sidecar.config["admin"] = {"socket": str(folder / "admin.sock")}
    sidecar.write(sidecar.config)
    proxy = sidecar.pod.start(
        [mesh.weir_proxy, "--config", sidecar.config_path],
        user=65534,
        ready=lambda: (folder / "admin.sock").exists(),
    )
    wait_until(lambda: "it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" in proxy.output())


def test_nothing_is_left_when_the_proxy_is_killed(host):
    ids = bpf_ids(host.sidecar.proxy.pid)
    kinds = {kind for kind, _ in ids}
    assert kinds == {"prog_id", "map_id", "link_id"}
    with joined(host) as (client, server):
        host.sidecar.proxy.kill()
        with contextlib.suppress(ConnectionResetError):
            assert client.sock.recv(1) == b""
        with contextlib.suppress(ConnectionResetError):
            assert server.sock.recv(1) == b""
    for kind, number in ids:
        wait_until(lambda kind=kind, number=number: not is_there(kind, number), what=f"{kind} {number} is gone")


def sockets_in_map(pid):
    [number] = [
        number
        for kind, number in bpf_ids(pid)
        if kind == "map_id" and json.loads(bpftool("map", "show", "id", number).stdout)["name"] == "weir_bypassed"
    ]
    return len(json.loads(bpftool("map", "dump", "id", number).stdout)) - 1  # the one that refuses


def test_no_socket_is_left_in_the_map(host):
    pid = host.sidecar.proxy.pid
    with joined(host):
        assert sockets_in_map(pid) == 4

    def handler(peer):
        peer.read(1)
        peer.reset()

    with host.origin(handler):
        for _ in range(20):
            client = host.connect().send("x")
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
            client.close()
    wait_until(lambda: sockets_in_map(pid) == 0)


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_big_transfers_both_ways_at_once(host):
    with joined(host) as ends:
        transfer_both_ways(ends)
    assert host.counter("bytes") > 8000


def test_small_messages_stay_past_tcp(way, host):
    sender, receiver = way
    before = host.counter("bytes")
    for size in range(1, 2000, 37):
        data = pattern(size, size)
        sender.send(data)
        assert receiver.read(size) == data
    assert host.counter("bytes") - before == 2 * sum(range(1, 2000, 37))
    assert host.counter("fallbacks") == 0


@pytest.mark.parametrize("address,vip", [("::1", "vip6"), ("127.0.0.1", "vip6"), ("::1", "vip4")])
def test_ipv6(mesh, address, vip):
    host = Host(mesh, address)
    with joined(host, vip) as (client, server):
        data = pattern(MIB)
        sender = in_background(send_all, client, data)
        assert server.read(len(data)) == data
        sender.join()


def test_ipv4_on_a_socket_of_ipv6(host):
    """::ffff:240.240.0.1 is how many programs connect to IPv4."""
    with host.origin(lambda peer: peer.send(peer.read(5))):
        with host.pod.enter():
            sock = socket.socket(socket.AF_INET6)
        sock.settimeout(10)
        sock.connect((f"::ffff:{host.row['vip4']}", PORT))
        [row] = host.sidecar.connections()
        assert row["accelerated"] is True
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
        sock.close()


def test_one_source_port_for_two_destinations(host):
    """The kernel gives the second connection another port on the way: the ends must not be mixed up."""
    with host.origin(lambda peer: peer.send(peer.until(b"\n"))):
        socks = []
        for port in (PORT, PORT + 1):
            with host.pod.enter():
                sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host.pod.ipv4, 45555))
            sock.settimeout(10)
            with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
                sock.connect((host.row["vip4"], port))
            socks.append(sock)
        socks[0].sendall(b"first\n")
        assert socks[0].recv(10) == b"first\n"
        for sock in socks:
            sock.close()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_last_bytes_come_before_the_end(host):
    """Neither is the end lost, nor does it come early."""
    with host.origin(lambda peer: peer.send(peer.rest() + b"!")):
        for turn in range(100):
            client = host.connect()
            data = pattern(1 + turn * 97, turn)
            client.send(data).end()
            assert client.rest() == data + b"!"
            client.close()


def test_a_close_right_behind_the_last_bytes(host):
    received = []
    with host.origin(lambda peer: received.append(peer.rest())):
        sent = [pattern(1 + turn * 311, turn) for turn in range(50)]
        for data in sent:
            client = host.connect()
            client.send(data).close()
        wait_until(lambda: len(received) == len(sent))
    assert sorted(received) == sorted(sent)


def test_half_close(way):
    sender, receiver = way
    sender.send("last words").end()
    assert receiver.rest() == b"last words"
    for _ in range(3):
        receiver.send("still here")
        assert sender.read(10) == b"still here"
    with pytest.raises(BrokenPipeError):
        sender.send("no")


def test_reset(way):
    sender, receiver = way
    sender.reset()
    with pytest.raises(ConnectionResetError):
        receiver.rest()


def test_close_with_unread_bytes(way):
    """The other side must see an end, however many bytes nobody has read."""
    sender, receiver = way
    sender.send(pattern(20000))
    assert select.select([receiver.sock], [], [], 10)[0]
    receiver.close()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while sender.sock.recv(65536):
            pass


# --- slow readers ----------------------------------------------------------------------------------------------------


def set_buffers(pod, receive, send):
    """Of TCP, instead of such as grow."""
    pod.sysctl("net.ipv4.tcp_rmem", f"4096 {receive} {receive}")
    pod.sysctl("net.ipv4.tcp_wmem", f"4096 {send} {send}")


def fill_up(sidecar, sender, data):
    """Sends what goes, also when the proxy has done all that it can, with nobody who reads at the other end; how much."""
    sender.sock.setblocking(False)
    sent = 0
    while sent < len(data):
        try:
            sent += sender.sock.send(data[sent : sent + 10000])
        except BlockingIOError:
            for _ in range(2):
                sidecar.connections()
            if not writable(sender.sock):
                return sent
    raise AssertionError("no end of room")


@pytest.mark.parametrize("to", ["origin", "client"])
def test_memory_of_a_reader_that_does_not_read_is_bounded(mesh, to):
    """Past TCP no more waits for it than the bypass holds; then there is the proxy's queue, and before that TCP's buffers."""
    pod, data = mesh.network.pod("host"), pattern(8 * MIB)
    set_buffers(pod, MIB, 65536)
    host = Host(mesh, pod=pod)
    with joined(host) as ends:
        sender, receiver = ends if to == "origin" else ends[::-1]
        sent = fill_up(host.sidecar, sender, data)
        waiting = struct.unpack("i", fcntl.ioctl(receiver.sock, termios.FIONREAD, b"\0" * 4))[0]
        assert QUEUE_MAX - PROXY_QUEUE_MAX < waiting <= QUEUE_MAX
        assert sent <= QUEUE_MAX + PROXY_QUEUE_MAX + MIB + 65536
        assert receiver.read(sent) == data[:sent]


def test_a_reader_that_pauses_gets_everything(way):
    """More than the bypass holds waits when the reader comes back, several times."""
    sender, receiver = way
    data = pattern(3 * MIB)
    thread = in_background(send_all, sender, data, [30000])
    at = 0
    while at < len(data):
        size = min(len(data) - at, 2 * QUEUE_MAX)
        wait_until(lambda: len(receiver.sock.recv(1000, socket.MSG_PEEK)) > 0)
        assert receiver.read(size) == data[at : at + size]
        at += size
    thread.join(10)


def test_short_reads_of_an_edge_triggered_reader(way):
    """Such a reader takes a read that gives less than it asked for as a sign that there is no more: epoll(7)."""
    sender, receiver = way
    receiver.sock.setblocking(False)
    with select.epoll() as epoll:
        epoll.register(receiver.sock, select.EPOLLIN | select.EPOLLET)
        for turn, size in enumerate((100, 3000, 50000, 70000, 200000, 500, 1000000, 9)):
            data, received = pattern(size, turn), b""
            thread = in_background(send_all, sender, data, [1000, 17000, 60000])
            while len(received) < size:
                assert epoll.poll(10), f"no event after {len(received)} of {size} bytes"
                while True:
                    try:
                        part = receiver.sock.recv(16384)
                    except BlockingIOError:
                        break
                    received += part
                    if len(part) < 16384:
                        break
            assert received == data
            thread.join(10)


def test_peek_and_the_number_of_bytes_that_wait(way):
    sender, receiver = way
    sender.send("abcdef")
    assert select.select([receiver.sock], [], [], 10)[0]
    waiting = struct.unpack("i", fcntl.ioctl(receiver.sock, termios.FIONREAD, b"\0" * 4))[0]
    assert waiting == 6
    assert receiver.sock.recv(3, socket.MSG_PEEK) == b"abc"
    assert receiver.sock.recv(10, socket.MSG_PEEK) == b"abcdef"
    assert receiver.sock.recv(2) == b"ab"
    assert receiver.sock.recv(10, socket.MSG_PEEK) == b"cdef"
    assert receiver.sock.recvmsg_into([bytearray(1), bytearray(2)])[0] == 3
    assert receiver.sock.recv(10) == b"f"


def test_what_does_not_see_bypassed_bytes(way):
    """docs/interception.md names both. The bytes stay for recv(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    sender, receiver = way
    sender.send("abcdef")
    assert select.select([receiver.sock], [], [], 10)[0]
    read_fd, write_fd = os.pipe()
    receiver.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        os.splice(receiver.sock.fileno(), write_fd, 100)
    assert libc.recv(receiver.sock.fileno(), None, 6, socket.MSG_TRUNC) == -1
    assert ctypes.get_errno() == errno.EFAULT
    assert receiver.sock.recv(10) == b"abcdef"
    os.close(read_fd)
    os.close(write_fd)


def test_low_water_mark(way):
    """SO_RCVLOWAT is TCP's: such a reader gets its bytes by TCP."""
    sender, receiver = way
    receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
    sender.send("12345")
    assert not select.select([receiver.sock], [], [], 0.2)[0]
    sender.send("67890")
    assert select.select([receiver.sock], [], [], 10)[0]
    assert receiver.sock.recv(20) == b"1234567890"


# --- what applications do to send ------------------------------------------------------------------------------------


def test_sendfile(way, network):
    send_file(*way, network.folder)


def test_splice_into_the_socket(way):
    sender, receiver = way
    data = pattern(50000)
    read_fd, write_fd = os.pipe()
    sender.sock.setblocking(True)
    thread = in_background(lambda: os.write(write_fd, data))
    left = len(data)
    while left:
        left -= os.splice(read_fd, sender.sock.fileno(), left)
    thread.join(10)
    assert receiver.read(len(data)) == data
    os.close(read_fd)
    os.close(write_fd)


def test_zero_copy_sends_are_completed(way):
    send_without_copies(*way)


def test_a_socket_shared_by_two_processes(way):
    send_from_two_processes(*way)


def test_the_protocol_above_tcp_of_a_multipath_client(host):
    with host.origin(lambda peer: peer.send(peer.read(5)).rest()):
        with host.pod.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        sock.settimeout(10)
        sock.connect((host.row["vip4"], PORT))
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
        [row] = host.sidecar.connections()
        assert row["accelerated"] is False
        sock.close()
    assert host.counter("connections") == 1  # to the origin


def test_a_multipath_server(host):
    with host.pod.enter():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
    listener.bind(("127.0.0.1", RAW_PORT))
    listener.listen(8)
    listener.settimeout(10)
    client = host.connect()
    client.send("hello")
    server, _ = listener.accept()
    server.settimeout(10)
    assert server.recv(10) == b"hello"
    server.sendall(pattern(MIB))
    server.close()
    assert client.rest() == pattern(MIB)
    listener.close()


def test_tls_of_the_application(host, mesh):
    """Its records are bytes like others."""
    import ssl

    keys = mesh.certificate("host")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys["certificate"], keys["private_key"])
    data = pattern(MIB)

    def handler(peer):
        peer.sock.setblocking(True)
        with context.wrap_socket(peer.sock, server_side=True) as tls:
            assert tls.recv(10) == b"give"
            tls.sendall(data)

    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    with host.origin(handler), client_context.wrap_socket(host.connect().sock) as tls:
        tls.sendall(b"give")
        received = b""
        while len(received) < len(data):
            received += tls.recv(65536)
        assert received == data


def test_many_connections_at_once(host):
    """Each gets its own bytes back."""
    start = threading.Barrier(17)
    failures = []

    def client(number):
        try:
            start.wait(10)
            for turn in range(30):
                peer = host.connect()
                data = pattern(100 + number * 131 + turn, number * 1000 + turn)
                assert peer.send(data).read(len(data)) == data
                peer.close()
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    with host.origin(echo):
        threads = [in_background(client, number) for number in range(16)]
        start.wait(10)
        for thread in threads:
            thread.join(30)
    assert not failures
