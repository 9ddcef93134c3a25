# SPDX-License-Identifier: Apache-2.0
"""Extended CONNECT (RFC 8441) of HTTP/2 to an endpoint of HTTP/2: asked for in the same words, granted or not by the
endpoint, and then bytes both ways until both halves are over."""

import contextlib

import pytest

from h2frames import (
    CANCEL, CONNECT_ERROR, ENABLE_CONNECT_PROTOCOL, END_STREAM, Client, Server, data, get, rst_stream,
)
from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

PORT = 8080
CHAT = [
    (":method", "CONNECT"), (":protocol", "websocket"), *get("/chat?room=1")[1:], ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "chat, superchat"), ("sec-websocket-extensions", "permessage-deflate"), ("origin", "http://web.mesh"),
]  # fmt: skip
GRANTED = [(":status", "200"), ("sec-websocket-protocol", "chat")]


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """The endpoint does `act(server)` on each connection, then waits for its end."""

    def __init__(self, mesh, act, *own):
        self.act, self.own, self.servers = act, own, []
        self.pod = mesh.network.pod("server")
        self.origin = Origin(self.pod, PORT, self._serve)
        self.client = mesh.sidecar(
            "client",
            services=[service("web.mesh", 80, "web")],
            clusters=[cluster("web", [f"{self.pod.ipv4}:{PORT}"], protocol="http2")],
        )
        self.vip = self.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]

    def _serve(self, peer):
        with contextlib.suppress(ConnectionError):
            server = Server(peer.sock, *self.own)
            self.servers.append(server)
            peer.sock.settimeout(None)
            self.act(server)
            server.rest()

    def connect(self):
        return Client(connect(self.client.pod, self.vip, 80).sock)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.origin.close()
        else:
            self.origin.listener.close()


ALLOWED = (ENABLE_CONNECT_PROTOCOL, 1)


def echo(server):
    """Grants, echoes until the client's end, says goodbye."""
    while stream := server.accept():
        server.send(server.head(stream.id, GRANTED))
        echoed = 0
        while not stream.ended and server.until(lambda echoed=echoed: len(stream.body) > echoed or stream.ended):
            piece = stream.body[echoed:]  # more may come while this waits for room
            server.send_body(stream, piece, end=False)
            echoed += len(piece)
        if stream.reset is None:
            server.send(data(stream.id, b"goodbye", END_STREAM))
        server.done(stream)


def test_bytes_both_ways_and_half_closes(mesh):
    with Site(mesh, echo, ALLOWED) as site:
        client = site.connect()
        for _ in range(2):
            stream = client.open(CHAT)
            client.until(lambda: stream.fields)
            assert stream.status == 200 and stream.field("sec-websocket-protocol") == b"chat"
            said = b""
            for size in (1, 1000, 300_000):
                said += bytes([size % 251]) * size
                client.send_body(stream, said[len(said) - size :], end=False)
                client.until(lambda: len(stream.body) == len(said))
                assert stream.body == said and not stream.ended
            client.send(data(stream.id, b"", END_STREAM))
            client.until(lambda: stream.ended)
            assert stream.reset is None and stream.body == said + b"goodbye"
        seen = [dict(one.blocks[0]) for one in site.servers[0].streams.values()]
        assert len(seen) == 2 and site.origin.accepted == 1
        expected = {name.encode(): value.encode() for name, value in CHAT}
        assert all({key: value for key, value in one.items() if key in expected} == expected for one in seen)
        assert not any(b"sec-websocket-key" in one for one in seen)
        assert client.pong()


def test_the_endpoint_ends_first(mesh):
    """What the client says afterwards still arrives."""

    def act(server):
        stream = server.accept()
        server.send(server.head(stream.id, GRANTED), data(stream.id, b"bye", END_STREAM))
        server.whole(stream)
        server.done(stream)

    with Site(mesh, act, ALLOWED) as site:
        client = site.connect()
        stream = client.open(CHAT)
        client.until(lambda: stream.ended)
        assert (stream.status, stream.body, stream.reset) == (200, b"bye", None)
        client.send(data(stream.id, b"last words", END_STREAM))
        seen = lambda: next(iter(site.servers[0].streams.values()))  # noqa: E731
        wait_until(lambda: seen().ended, what="the client's end")
        assert (seen().body, seen().reset) == (b"last words", None)
        assert client.pong()


def test_what_is_sent_ahead_waits_for_the_answer(mesh):
    def act(server):
        stream = server.accept()
        assert server.pong() and stream.body == b""  # nothing came before the grant
        server.send(server.head(stream.id, GRANTED))
        server.until(lambda: len(stream.body) == 5)
        server.send(data(stream.id, stream.body[::-1], END_STREAM))

    with Site(mesh, act, ALLOWED) as site:
        client = site.connect()
        stream = client.open(CHAT)
        client.send(data(stream.id, b"ahead"))
        client.until(lambda: stream.ended)
        assert stream.body == b"daeha"
        client.close()


def test_refused_by_the_endpoint(mesh):
    def act(server):
        while stream := server.accept():
            server.send(
                server.head(stream.id, [(":status", "403"), ("content-length", "2")]), data(stream.id, b"no", END_STREAM)
            ).done(stream)

    with Site(mesh, act, ALLOWED) as site:
        client = site.connect()
        stream = client.open(CHAT)
        client.until(lambda: stream.ended)
        assert (stream.status, stream.body) == (403, b"no")
        assert client.pong()


@pytest.mark.parametrize("own", [(), ((ENABLE_CONNECT_PROTOCOL, 0),)], ids=["unsaid", "denied"])
def test_an_endpoint_that_does_not_take_it(mesh, own):
    """It is not asked at all (RFC 8441 3), whether its SETTINGS were there or had to be waited for."""

    def act(server):
        while stream := server.whole():
            server.respond(stream)

    with Site(mesh, act, *own) as site:
        client = site.connect()
        for _ in range(2):
            stream = client.open(CHAT)
            client.until(lambda: stream.ended)
            assert stream.status == 501
            assert client.ask(get("/plain")).status == 200
        assert all(b":protocol" not in dict(one.blocks[0]) for server in site.servers for one in server.streams.values())


def test_resets_are_carried(mesh):
    def act(server):
        while stream := server.accept():
            server.send(server.head(stream.id, GRANTED))
            server.until(lambda stream=stream: stream.body or stream.ended)
            if stream.body == b"break":
                server.send(data(stream.id, b"partly"), rst_stream(stream.id, CONNECT_ERROR)).done(stream)

    with Site(mesh, act, ALLOWED) as site:
        client = site.connect()
        stream = client.open(CHAT)
        client.until(lambda: stream.fields)
        client.send(data(stream.id, b"break"))
        client.until(lambda: stream.ended)
        assert (stream.reset, stream.body) == (CONNECT_ERROR, b"partly")
        stream = client.open(CHAT)
        client.until(lambda: stream.fields)
        client.send(rst_stream(stream.id, CANCEL))
        last = lambda: list(site.servers[0].streams.values())[-1]  # noqa: E731
        wait_until(lambda: len(site.servers[0].streams) == 2 and last().ended, what="the reset at the endpoint")
        assert last().reset == CANCEL
        assert client.pong()


def test_what_is_no_handshake(mesh):
    """RFC 6455 4.1: what is no GET, or has a body, is passed on as the request it is; its body is not the tunnel's."""
    seen = []

    def act(server):
        while stream := server.whole():
            seen.append((stream.field(":method"), stream.field("upgrade"), stream.body))
            server.respond(stream)

    handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with Site(mesh, act, ALLOWED) as site:
        peer = connect(site.client.pod, site.vip, 80)
        for method in ("POST", "GET"):
            peer.send(f"{method} /chat HTTP/1.1\r\nHost: web.mesh\r\n{handshake}Content-Length: 5\r\n\r\nhello")
            assert peer.response()[::2] == (200, b"ok")
        peer.close()
    assert seen == [(b"POST", b"", b"hello"), (b"GET", b"", b"hello")]
