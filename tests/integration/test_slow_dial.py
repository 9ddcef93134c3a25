# SPDX-License-Identifier: Apache-2.0
"""What a client sends while its endpoint is still being dialled: the server's pod loses the first SYN, so that the proxy
has connected only a second later."""

import contextlib
import hashlib
import os
import threading

import pytest

from bolt import Bolt, answering, request
from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

pytestmark = pytest.mark.either_way
PORT = 8080
SIZE = 3 << 20


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """client pod (proxy) -> server pod (with a proxy as well if `tls`): web.mesh:80 is the server's port 8080."""

    def __init__(self, mesh, protocol, tls=None, **keys):
        if tls:
            self.server = mesh.sidecar("server", tls=tls, inbound=[{"port": PORT, "protocol": protocol}]).pod
        else:
            self.server = mesh.network.pod("server")
        self.client = mesh.sidecar(
            "client",
            tls=tls,
            services=[service("web.mesh", 80, "web", protocol=protocol)],
            clusters=[cluster("web", [f"{self.server.ipv4}:{PORT}"], **({"tls": "mesh"} if tls else {}), **keys)],
        )
        self.vip = next(row["vip4"] for row in self.client.show("vhost", "show")["virtual_hosts"])

    def connect(self):
        return connect(self.client.pod, self.vip, 80)

    @contextlib.contextmanager
    def deaf(self):
        """Inside, the server's pod hears no connection attempt; wait() until one was lost."""
        rules = "table inet deaf { chain in { type filter hook prerouting priority -400; tcp flags syn counter drop; }; }"
        self.server.run(["nft", rules])
        try:
            yield lambda: wait_until(lambda: "packets 0 " not in self.server.run(["nft", "list table inet deaf"]).stdout)
        finally:
            self.server.run(["nft", "delete table inet deaf"])


def payload():
    # Not random at its beginning: that must be no protocol's.
    return b"\x00\x00" + os.urandom(SIZE - 2)


SITES = pytest.mark.parametrize("tls", [None, "strict"], ids=["plain", "mtls"])


@SITES
@pytest.mark.parametrize("protocol", ["auto", "http"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_upload(mesh, protocol, tls, chunked):
    site = Site(mesh, protocol, tls)
    data, got = payload(), []

    def handler(peer):
        got.append(peer.chunked() if "chunked" in peer.head() else peer.read(SIZE))
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (SIZE, data) if chunked else data
    with Origin(site.server, PORT, handler):
        with site.deaf() as lost:
            peer = site.connect().send(f"POST / HTTP/1.1\r\nHost: web.mesh\r\n{framing}\r\n\r\n")
            sender = threading.Thread(target=peer.send, args=(body,))
            sender.start()
            lost()
        assert peer.response()[0] == 200
        sender.join()
        peer.close()
    assert [hashlib.sha256(body).digest() for body in got] == [hashlib.sha256(data).digest()]


@SITES
@pytest.mark.parametrize("protocol", ["auto", "tcp"])
@pytest.mark.parametrize("when", ["at-once", "while-dialling"])
def test_a_tunnels_bytes_and_its_end(mesh, protocol, tls, when):
    site = Site(mesh, protocol, tls)
    data, got = payload(), []

    def handler(peer):
        got.append(peer.rest())
        peer.send(b"thanks").end()

    with Origin(site.server, PORT, handler):
        with site.deaf() as lost:
            peer = site.connect()
            if when == "while-dialling":
                lost()
            sender = threading.Thread(target=lambda: peer.send(data).end())
            sender.start()
            lost()
        assert peer.rest() == b"thanks"
        sender.join()
        peer.close()
    assert [hashlib.sha256(body).digest() for body in got] == [hashlib.sha256(data).digest()]


@pytest.mark.parametrize("keys", [{}, {"transport": "h2"}], ids=["shared", "transport"])
def test_calls_that_wait_are_bounded(mesh, keys):
    """512 KiB of them are read, and what comes with the last of it; the others when these are on their way."""
    site = Site(mesh, "bolt", "strict", **keys)
    with Origin(site.server, PORT, answering()):
        with site.deaf() as lost:
            bolt = Bolt(site.connect())
            calls = b"".join(request(number, content=bytes(64 << 10)) for number in range(64))
            sender = threading.Thread(target=bolt.send, args=(calls,))
            sender.start()
            lost()
            wait_until(lambda: site.client.connections()[0]["received"] >= 512 << 10)
            for _ in range(3):
                assert site.client.connections()[0]["received"] < 768 << 10
        assert sorted(one.id for one in bolt.frames(64)) == list(range(64))
        sender.join()
        bolt.close()


@pytest.mark.parametrize("request_", ["", "\x00", "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"], ids=["silent", "tcp", "http"])
def test_a_client_that_gives_up_meanwhile(mesh, request_):
    """It resets: nothing of it is left once the dialling is over, and the next one is served."""
    site = Site(mesh, "auto")

    def handler(peer):
        with contextlib.suppress(ConnectionResetError):
            if peer.another():
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                peer.rest()

    with Origin(site.server, PORT, handler):
        with site.deaf() as lost:
            peer = site.connect().send(request_)
            lost()
            peer.reset()
        wait_until(lambda: not site.client.connections())
        peer = site.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.response()[0] == 200
        peer.close()


def test_an_endpoint_that_never_answers_the_hello(mesh):
    """The connect timeout is for TCP and TLS together; nothing was sent in plaintext meanwhile."""
    server = mesh.network.pod("server")
    routed = cluster("web", [f"{server.ipv4}:{PORT}"], tls="mesh", connect_timeout="300ms")
    client = mesh.sidecar("client", tls="permissive", services=[service("web.mesh", 80, "web")], clusters=[routed])
    vip = next(row["vip4"] for row in client.show("vhost", "show")["virtual_hosts"])
    seen = []

    def mute(peer):
        with contextlib.suppress(ConnectionResetError):
            seen.append(peer.rest())

    with Origin(server, PORT, mute):
        peer = connect(client.pod, vip, 80).send("GET /secret HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        status, _, body = peer.response()
        assert (status, body) == (503, b"connecting to the upstream took too long\n")
        peer.close()
    assert seen and all(data[:1] == b"\x16" and b"secret" not in data for data in seen)


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_what_was_sent_goes_to_the_endpoint_that_answers(mesh, protocol):
    """The first one does not answer at all: what the client sent in the meantime goes to the second, whole."""
    server = mesh.network.pod("server")
    server.run(["nft", "table inet deaf { chain in { type filter hook input priority 0; tcp dport 8081 counter drop; }; }"])
    both = cluster("web", [f"{server.ipv4}:8081", f"{server.ipv4}:{PORT}"], connect_timeout="1s")
    client = mesh.sidecar("client", services=[service("web.mesh", 80, "web", protocol=protocol)], clusters=[both])
    vip = next(row["vip4"] for row in client.show("vhost", "show")["virtual_hosts"])
    data, got = payload(), []

    def handler(peer):
        if protocol == "http":
            peer.head()
        got.append(peer.read(SIZE))
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    head = f"POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: {SIZE}\r\n\r\n".encode() if protocol == "http" else b""
    with Origin(server, PORT, handler):
        for _ in range(2):  # one of them begins with the first endpoint
            peer = connect(client.pod, vip, 80)
            sender = threading.Thread(target=peer.send, args=(head + data,))
            sender.start()
            assert peer.response()[2] == b"ok"
            sender.join()
            peer.close()
    assert "packets 0 " not in server.run(["nft", "list table inet deaf"]).stdout
    assert [hashlib.sha256(body).digest() for body in got] == [hashlib.sha256(data).digest()] * 2
