# SPDX-License-Identifier: Apache-2.0
"""Where HTTP/1 and HTTP/2 count differently, and what is left of a response, or of a connection, that breaks off."""

import contextlib
import socket

import pytest

from h2frames import CANCEL, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, Client, Server, get, rst_stream
from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

PORT, FIELDS = 8080, 128


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """A client pod with a proxy, and an origin without one that `serve(peer)`s in HTTP/1 or HTTP/2."""

    def __init__(self, mesh, protocol, serve, **keys):
        self.pod = mesh.network.pod("server")
        self.origin = Origin(self.pod, PORT, serve)
        self.client = mesh.sidecar(
            "client",
            services=[service("web.mesh", 80, "web")],
            clusters=[cluster("web", [f"{self.pod.ipv4}:{PORT}"], protocol=protocol)],
            log={"access": True},
            **keys,
        )
        self.vip = self.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]

    def peer(self):
        return connect(self.client.pod, self.vip, 80)

    def http2(self):
        return Client(self.peer().sock)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.origin.close()
        else:
            self.origin.listener.close()


def fields(count):
    return [(f"x-{at}", "v") for at in range(count)]


def lines(count):
    return "".join(f"x-{at}: v\r\n" for at in range(count))


def frames(act, *settings):
    """A handler that speaks HTTP/2: act(server) until the connection ends."""

    def serve(peer):
        with contextlib.suppress(ConnectionError):
            server = Server(peer.sock, *settings)
            peer.sock.settimeout(None)
            act(server)
            server.rest()

    return serve


def answering(count, seen):
    """HTTP/1, a response of `count` fields for each request."""

    def serve(peer):
        while peer.another():
            seen.append(peer.head())
            peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines(count - 1)}\r\nok")

    return serve


def answering2(count, seen):
    def act(server):
        while stream := server.whole():
            seen.append(stream.fields)
            server.respond(stream, fields=[("content-length", "2"), *fields(count - 1)])

    return frames(act)


# --- the limit of fields, of which the authority is one, as in HTTP/1 -------------------------------------------------
@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_requests_of_http2(mesh, protocol):
    seen = []
    with Site(mesh, protocol, (answering if protocol == "http1" else answering2)(1, seen)) as site:
        client = site.http2()
        assert client.ask(get("/", *fields(FIELDS - 1))).status == 200
        assert client.ask(get("/", *fields(FIELDS))).status == 431
        assert client.ask(get("/")).status == 200
        assert len(seen) == 2
        found = seen[0].lower() if protocol == "http1" else dict(seen[0])
        assert all((f"\r\nx-{at}: v\r\n" if protocol == "http1" else b"x-%d" % at) in found for at in range(FIELDS - 1))


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_requests_of_http1(mesh, protocol):
    seen = []
    with Site(mesh, protocol, (answering if protocol == "http1" else answering2)(1, seen)) as site:
        peer = site.peer().send(f"GET / HTTP/1.1\r\nHost: web.mesh\r\n{lines(FIELDS - 1)}\r\n")
        assert peer.response()[0] == 200
        assert peer.send(f"GET / HTTP/1.1\r\nHost: web.mesh\r\n{lines(FIELDS)}\r\n").response()[0] == 431
        assert len(seen) == 1
        if protocol == "http2":
            assert len([1 for name, _ in seen[0] if name.startswith(b"x-")]) == FIELDS - 1


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("count, status", [(FIELDS, 200), (FIELDS + 1, 502)])
def test_responses(mesh, protocol, count, status):
    seen = []
    with Site(mesh, protocol, (answering if protocol == "http1" else answering2)(count, seen)) as site:
        stream = site.http2().ask(get("/"))
        assert stream.status == status
        peer = site.peer().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        got, head, _ = peer.response()
        assert got == status
        if status == 200:
            assert sum(name.startswith(b"x-") for name, _ in stream.fields) == count - 1
            assert head.lower().count("\r\nx-") == count - 1


@pytest.mark.parametrize("version", ["http1", "http2"])
def test_as_many_through_both_proxies(mesh, version):
    """HTTP/2 between them, HTTP/1 at the end; the head is at the limit everywhere."""
    seen = []
    far = mesh.sidecar("far", tls="strict", inbound=[{"port": PORT, "protocol": "http2", "application": "http1"}])
    near = mesh.sidecar(
        "near",
        tls="permissive",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{far.ipv4}:{PORT}"], tls="mesh", protocol="http2")],
    )
    vip = near.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    origin = Origin(far.pod, PORT, answering(FIELDS, seen))
    with origin:
        peer = connect(near.pod, vip, 80)
        if version == "http1":
            peer.send(f"GET / HTTP/1.1\r\nHost: web.mesh\r\n{lines(FIELDS - 1)}\r\n")
            status, head, _ = peer.response()
            count = head.lower().count("\r\nx-")
        else:
            stream = Client(peer.sock).ask(get("/", *fields(FIELDS - 1)))
            status, count = stream.status, sum(name.startswith(b"x-") for name, _ in stream.fields)
        assert (status, count) == (200, FIELDS - 1)
        assert seen[0].lower().count("\r\nx-") == FIELDS - 1


# --- a response that breaks off ---------------------------------------------------------------------------------------
SIZES = [5, 40_000, 200_000]


def cut_http1(size):
    def serve(peer):
        peer.head()
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size + 1}\r\n\r\n".encode() + b"x" * size)

    return serve


def cut_http2(size, code, known=None):
    """`known` gets an entry when weir has dealt with the reset."""

    def act(server):
        while stream := server.whole():
            server.send(server.head(stream.id, [(":status", "200"), ("content-length", str(size + 1))]))
            server.send_body(stream, b"x" * size, end=False)
            server.send(rst_stream(stream.id, code)).done(stream)
            if known is not None and server.pong():
                known.append(stream)

    return frames(act)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["http1-end", "http2-reset"])
def test_what_came_is_delivered_before_the_reset(mesh, how, size):
    serve = cut_http1(size) if how == "http1-end" else cut_http2(size, CANCEL)
    with Site(mesh, how.split("-")[0], serve) as site:
        client = site.http2()
        for _ in range(2 if how == "http2-reset" else 1):
            stream = client.request(get("/"))
            client.until(lambda: stream.ended)
            assert stream.body == b"x" * size
            assert stream.reset == (CANCEL if how == "http2-reset" else INTERNAL_ERROR)
        assert client.pong()
        wait_until(lambda: "flag=UC" in site.client.proxy.output(), what="the log")


def test_what_came_waits_for_a_slow_reader(mesh):
    """It holds a window's worth back until the client gives credit."""
    with Site(mesh, "http2", cut_http2(100_000, CANCEL)) as site:
        client = site.http2()
        client.replenish = False
        stream = client.request(get("/"))
        client.until(lambda: len(stream.body) == 65535)
        assert client.pong() and not stream.ended
        client.grant(stream, 65535)
        client.until(lambda: stream.ended)
        assert (len(stream.body), stream.reset) == (100_000, CANCEL)


def test_an_exchange_that_broke_off_is_cancelled_by_its_client(mesh):
    """The client does not want what is left of it."""
    known = []
    with Site(mesh, "http2", cut_http2(100_000, CANCEL, known)) as site:
        client = site.http2()
        client.replenish = False
        stream = client.request(get("/"))
        client.until(lambda: len(stream.body) == 65535)
        wait_until(lambda: known, what="the endpoint's reset")
        client.send(rst_stream(stream.id, CANCEL))
        assert client.pong()
        wait_until(lambda: "flag=UC" in site.client.proxy.output(), what="the log")
        wait_until(lambda: all(row["state"] == "idle" for row in site.client.connections(protocol="http2")))


# --- the end of a client ----------------------------------------------------------------------------------------------
def test_the_clients_end_cancels_what_is_under_way(mesh):
    """HTTP/2 has its own way to say that a half is over; the end of the connection means that nobody is there. Endpoints
    hear of it at once, those of gRPC above all."""
    begun, resets = [], []

    def act(server):
        while stream := server.accept():
            begun.append(stream)
            if len(begun) == 3:
                server.until(lambda: all(one.reset is not None for one in begun[1:]))
                resets.extend(one.reset for one in begun[1:])
                return
            if len(begun) == 1:
                server.whole(stream)
                server.respond(stream)

    with Site(mesh, "http2", frames(act)) as site:
        client = site.http2()
        assert client.ask(get("/")).status == 200
        client.request(get("/held"))
        client.open(get("/unfinished", method="POST"))
        wait_until(lambda: len(begun) == 3, what="the requests")
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
        wait_until(lambda: resets, what="the resets")
        assert resets == [CANCEL, CANCEL]
        wait_until(lambda: site.client.proxy.output().count("flag=DC") == 2, what="the log")


def test_the_end_of_a_client_without_streams_is_no_failure(mesh):
    def act(server):
        while stream := server.whole():
            server.respond(stream)

    with Site(mesh, "http2", frames(act)) as site:
        client = site.http2()
        stream = client.ask(get("/"))
        assert stream.body == b"ok"
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
        assert client.ended and "flag=DC" not in site.client.said()


# --- an endpoint that takes few at a time -----------------------------------------------------------------------------
def test_how_many_requests_wait_for_an_endpoint(mesh):
    """One on each of 64 connections, and 1024 that wait: the next one is told so, until there is room."""
    held = []
    with Site(mesh, "http2", frames(lambda server: held.append(server.accept()), (MAX_CONCURRENT_STREAMS, 1))) as site:
        clients = [site.http2() for _ in range(9)]
        for _ in range(64):
            clients[0].request(get("/"))
        wait_until(lambda: len(held) == 64, what="all connections are used")
        for client in clients[1:]:
            for _ in range(128):
                client.request(get("/"))
            assert client.pong()
        assert sum(row["streams"] for row in site.client.connections()) == 64 + 1024
        for _ in range(2):
            more = clients[0].request(get("/more"))
            clients[0].until(lambda: more.ended)  # noqa: B023
            assert more.status == 503
        assert site.client.said().count("path=/more status=503 flag=UO") == 2
        assert len(held) == 64
        clients.pop().close()
        wait_until(lambda: len(site.client.connections()) == 8)
        clients[0].request(get("/more"))
        assert clients[0].pong()
        assert sum(row["streams"] for row in site.client.connections()) == 64 + 1024 - 128 + 1
        clients.pop(0).close()  # others go ahead in the place of what it had begun
        wait_until(lambda: len(site.client.connections()) == 7)
        for client in clients:
            client.close()


def test_expectations_of_http1(mesh):
    """100 and the body, on a connection that lives on; or a refusal that says that it ends (RFC 9110 10.1.1)."""

    def act(server):
        while stream := server.accept():
            if dict(stream.fields)[b":path"] == b"/granted":
                server.send(server.head(stream.id, [(":status", "100")]))
                server.respond(server.whole(stream), body=stream.body)
            else:
                server.respond(stream, 417, body=b"no")

    with Site(mesh, "http2", frames(act)) as site:
        peer = site.peer()
        head = "POST /{} HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        for _ in range(2):
            assert peer.send(head.format("granted")).head().startswith("HTTP/1.1 100 ")
            status, granted, body = peer.send("body").response()
            assert (status, body) == (200, b"body") and "connection:" not in granted.lower()
        status, refused, body = peer.send(head.format("refused")).response()
        assert (status, body) == (417, b"no") and "connection: close" in refused.lower()
        assert not peer.another()
        peer.close()
