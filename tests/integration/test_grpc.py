# SPDX-License-Identifier: Apache-2.0
"""gRPC: calls that are answered UNAVAILABLE are tried elsewhere, as `retries` of the route says, and only where the caller
has not been told anything yet."""

import contextlib

import pytest

from h2frames import END_STREAM, Client, Server, data, post
from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

PORT = 50051
CONTENT = ("content-type", "application/grpc")
UNAVAILABLE, INTERNAL, RESOURCE_EXHAUSTED = 14, 13, 8
MUCH = [(f"x-{at}", "v" * 1000) for at in range(80)]
MANY = [(f"x-{at}", "v") for at in range(128)]


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def trailers_only(server, stream, status):
    head = [(":status", "200"), CONTENT, ("grpc-status", str(status)), ("grpc-message", "none%20of%20us")]
    server.backend.bodies.append(stream.body)
    server.send(server.head(stream.id, head, END_STREAM)).done(stream)


def fine(server, stream, status=0, body=b""):
    """The request's body, or another one, with trailers behind it."""
    server.whole(stream)
    server.backend.bodies.append(stream.body)
    server.send(
        server.head(stream.id, [(":status", "200"), CONTENT]),
        data(stream.id, body or stream.body),
        server.head(stream.id, [("grpc-status", str(status))], END_STREAM),
    ).done(stream)


def unavailable(server, stream):
    trailers_only(server, server.whole(stream), UNAVAILABLE)


class Backend:
    """A server of gRPC that answers each call by `act(server, stream)`; .bodies are those of the calls, .begun counts them."""

    def __init__(self, pod, act, port=PORT):
        self.bodies, self.begun, self._act = [], 0, act
        self.origin = Origin(pod, port, self._serve)

    def _serve(self, peer):
        with contextlib.suppress(ConnectionError):
            server = Server(peer.sock)
            server.backend = self
            peer.sock.settimeout(None)
            while stream := server.accept():
                self.begun += 1
                self._act(server, stream)


class Site:
    def __init__(self, mesh, *acts, retries=1):
        self.server = mesh.network.pod("server")
        self.backends = [Backend(self.server, act, PORT + at) for at, act in enumerate(acts)]
        addresses = [f"{self.server.ipv4}:{PORT + at}" for at in range(len(acts))]
        routes = [{"retries": retries, "to": [{"cluster": "calls"}]}]
        self.client = mesh.sidecar(
            "client",
            services=[service("web.mesh", 80, routes=routes)],
            clusters=[cluster("calls", addresses, protocol="http2")],
            log={"access": True},
        )
        self.vip = self.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]

    def connect(self):
        return Client(connect(self.client.pod, self.vip, 80).sock)

    @property
    def calls(self):
        """How many calls each backend got."""
        return [len(backend.bodies) for backend in self.backends]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for backend in self.backends:
            if kind is None:
                backend.origin.close()
            else:
                backend.origin.listener.close()


def call(client, body=b"\0\0\0\0\2hi"):
    return client.answer(client.request(post("/shop.Cart/Add", CONTENT, ("te", "trailers")), body))


def status_of(stream):
    """grpc-status, wherever it stands."""
    return int(dict(stream.trailers or stream.fields)[b"grpc-status"])


def test_unavailable_is_tried_elsewhere(mesh):
    """With all of the request, and the caller sees one answer: the other's."""
    with Site(mesh, unavailable, fine) as site:
        client = site.connect()
        for number in range(6):
            body = b"call %d" % number
            stream = call(client, body)
            assert (status_of(stream), stream.body) == (0, body)
        bad, good = (backend.bodies for backend in site.backends)
        assert good == [b"call %d" % number for number in range(6)]
        assert bad and set(bad) <= set(good)
        assert site.client.counter("http_retries_total") == len(bad)
        lines = [line for line in site.client.proxy.output().splitlines() if "protocol=grpc" in line]
        assert len(lines) == 6 and all("grpc_status=0" in line for line in lines)
        assert sum("attempts=2" in line for line in lines) == len(bad)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_as_often_as_the_route_says(mesh, retries):
    with Site(mesh, unavailable, unavailable, retries=retries) as site:
        stream = call(site.connect())
        assert status_of(stream) == UNAVAILABLE
        assert dict(stream.fields)[b"grpc-message"] == b"none%20of%20us"
        assert sum(site.calls) == retries + 1
        assert site.client.counter("http_retries_total") == retries


def test_other_statuses_are_answers(mesh):
    with Site(mesh, *[lambda server, stream: trailers_only(server, server.whole(stream), INTERNAL)] * 2) as site:
        assert status_of(call(site.connect())) == INTERNAL
        assert sum(site.calls) == 1


def test_not_when_bytes_were_passed_on(mesh):
    """UNAVAILABLE behind a message: the caller has it already, and gets the status with it."""

    def late(server, stream):
        fine(server, stream, UNAVAILABLE, b"the beginning")

    with Site(mesh, late, late) as site:
        stream = call(site.connect())
        assert (stream.body, status_of(stream)) == (b"the beginning", UNAVAILABLE)
        assert sum(site.calls) == 1
        assert site.client.counter("http_retries_total") == 0


def test_not_when_the_head_was_passed_on(mesh):
    """A head that does not end the stream is an answer, whatever it says; something may follow."""

    def late(server, stream):
        server.backend.bodies.append(server.whole(stream).body)
        server.send(server.head(stream.id, [(":status", "200"), CONTENT, ("grpc-status", str(UNAVAILABLE))]))
        server.send(server.head(stream.id, [("grpc-status", str(UNAVAILABLE))], END_STREAM)).done(stream)

    with Site(mesh, late, late) as site:
        assert status_of(call(site.connect())) == UNAVAILABLE
        assert sum(site.calls) == 1


def test_not_when_the_request_is_too_long_to_be_kept(mesh):
    with Site(mesh, unavailable, unavailable) as site:
        assert status_of(call(site.connect(), bytes(100_000))) == UNAVAILABLE
        assert sum(site.calls) == 1


def test_only_grpc(mesh):
    """The fields of another request mean nothing."""
    with Site(mesh, unavailable, unavailable) as site:
        client = site.connect()
        stream = client.answer(client.request(post("/shop.Cart/Add"), b"x"))
        assert stream.field("grpc-status") == b"14"
        assert sum(site.calls) == 1


def test_while_the_request_goes_on(mesh):
    """What comes after the answer goes to the other one, too: all of the body, once."""

    def hasty(server, stream):
        server.until(lambda: stream.body)
        trailers_only(server, stream, UNAVAILABLE)

    with Site(mesh, hasty, fine) as site:
        client, (bad, good) = site.connect(), site.backends
        for turn in range(1, 5):
            stream = client.open(post("/shop.Cart/Add", CONTENT))
            client.send_body(stream, b"first", end=False)
            wait_until(lambda turn=turn: good.begun == turn, what="the other one")
            client.send_body(stream, b" second")
            client.answer(stream)
            assert (status_of(stream), stream.body) == (0, b"first second")
        assert good.bodies == [b"first second"] * 4
        assert bad.bodies and set(bad.bodies) == {b"first"}


@pytest.mark.parametrize("metadata", [[CONTENT, *MUCH], [*MUCH, CONTENT], [CONTENT, *MANY]], ids=["much", "type behind it", "many"])
def test_too_much_metadata(mesh, metadata):
    """Told as gRPC's status, in trailers alone, even where Content-Type itself is beyond the limit; other callers get 431."""
    with Site(mesh, fine) as site:
        client = site.connect()
        stream = client.ask(post("/shop.Cart/Add", *metadata))
        assert (stream.status, status_of(stream), stream.trailers) == (200, RESOURCE_EXHAUSTED, None)
        assert stream.field("content-type") == b"application/grpc"
        assert client.ask(post("/", *[field for field in metadata if field != CONTENT])).status == 431
        assert status_of(call(client)) == 0
        assert sum(site.calls) == 1
