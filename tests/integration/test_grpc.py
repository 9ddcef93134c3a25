# SPDX-License-Identifier: Apache-2.0
"""gRPC: calls that are answered UNAVAILABLE are tried elsewhere, as `retries` of the route says, and only where the caller
has not been told anything yet."""

import contextlib
import socket

import pytest

from h2frames import (
    CANCEL, END_STREAM, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM,
    Client, Server, data, post, rst_stream, window_update,
)
from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

PORT = 50051
CONTENT = ("content-type", "application/grpc")
CANCELLED, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 1, 4, 7, 8, 13, 14
RESETS = {
    NO_ERROR: INTERNAL,
    INTERNAL_ERROR: INTERNAL,
    REFUSED_STREAM: UNAVAILABLE,
    CANCEL: CANCELLED,
    ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
    INADEQUATE_SECURITY: PERMISSION_DENIED,
}
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

    def logged(self):
        """(path, flag, attempts, grpc_status) of each request so far."""
        lines = [line for line in self.client.said().splitlines() if "msg=request " in line]
        found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return [tuple(line[name] for name in ("path", "flag", "attempts", "grpc_status")) for line in found]

    def classes(self):
        """How many calls there were of each class that has any."""
        self.client.take_turn()
        rows = [row for row in self.client.show("stats", "show")["counters"] if row["name"] == "grpc_responses_total"]
        return {row["labels"].split('"')[1]: row["value"] for row in rows if row["value"]}

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


# --- calls that are cut ----------------------------------------------------------------------------------------------


def code_of(stream):
    """What the path asks for."""
    return int(dict(stream.fields)[b":path"].rpartition(b"/")[2])


def cut(server, stream, *pieces):
    server.whole(stream)
    server.backend.bodies.append(stream.body)
    server.send(*pieces, rst_stream(stream.id, code_of(stream))).done(stream)


def cut_behind_a_head(server, stream):
    cut(server, stream, server.head(stream.id, [(":status", "200"), CONTENT]), data(stream.id, b"the beginning"))


def test_cut_by_the_endpoint(mesh):
    """The caller gets the status that gRPC's specification gives each code; one that was refused is tried again first."""
    with Site(mesh, cut) as site:
        client = site.connect()
        for code, status in RESETS.items():
            stream = client.ask(post(f"/cut/{code}", CONTENT), body=b"x")
            assert (stream.status, status_of(stream), stream.trailers) == (200, status, None)
            why = b"the upstream refused the request" if code == REFUSED_STREAM else b"the upstream reset the call"
            assert stream.field("grpc-message") == why
        for code in RESETS:
            assert client.ask(post(f"/cut/{code}"), body=b"x").status == (503 if code == REFUSED_STREAM else 502)
        wanted = [*RESETS.items(), *((code, "-") for code in RESETS)]
        flags = {code: ("UR", "3") if code == REFUSED_STREAM else ("UC", "1") for code in RESETS}
        assert site.logged() == [(f"/cut/{code}", *flags[code], str(status)) for code, status in wanted]
        assert site.classes() == {"cancelled": 1, "unavailable": 1, "error": 4}


def test_cut_by_the_endpoint_behind_its_head(mesh):
    """The caller is told the code, and the log what callers take it for."""
    with Site(mesh, cut_behind_a_head) as site:
        client = site.connect()
        wanted = [(code, CONTENT, status) for code, status in RESETS.items()] + [(CANCEL, ("x-no", "grpc"), "-")]
        for code, field, _ in wanted:
            stream = client.request(post(f"/cut/{code}", field), b"x")
            client.until(lambda stream=stream: stream.reset is not None)
            assert (stream.body, stream.reset) == (b"the beginning", code or INTERNAL_ERROR)
        flags = {code: "UR" if code == REFUSED_STREAM else "UC" for code in RESETS}
        assert site.logged() == [(f"/cut/{code}", flags[code], "1", str(status)) for code, _, status in wanted]
        assert site.classes() == {"cancelled": 1, "unavailable": 1, "error": 4}


def test_the_connection_to_the_endpoint_is_lost(mesh):
    """That is nobody's RST_STREAM: UNAVAILABLE before the head, and behind it the caller hears of an internal error."""

    def leave(server, stream):
        server.whole(stream)
        if code_of(stream):
            server.send(server.head(stream.id, [(":status", "200"), CONTENT]))
        server.done(stream).sock.shutdown(socket.SHUT_RDWR)

    with Site(mesh, leave) as site:
        client = site.connect()
        stream = client.ask(post("/cut/0", CONTENT), body=b"x")
        assert status_of(stream) == UNAVAILABLE and b"closed the connection" in stream.field("grpc-message")
        stream = client.request(post("/cut/1", CONTENT), b"x")
        client.until(lambda: stream.reset is not None)
        assert stream.reset == INTERNAL_ERROR
        assert site.logged() == [("/cut/0", "UC", "1", str(UNAVAILABLE)), ("/cut/1", "UC", "1", str(INTERNAL))]


def test_cut_by_the_caller(mesh):
    """By RST_STREAM, whatever it says, before and behind the head of an answer; by what HTTP/2 does not allow; by its end."""

    def begin(server, stream):
        if code_of(stream):
            server.send(server.head(stream.id, [(":status", "200"), CONTENT]))
        server.until(lambda: stream.reset is not None)
        server.backend.bodies.append(stream.reset)
        server.done(stream)

    with Site(mesh, begin) as site:
        client, backend = site.connect(), site.backends[0]

        def cut(number, field, end):
            stream = client.open(post(f"/cut/{number}", field))
            wait_until(lambda: backend.begun == number + 1, what="the endpoint has it")
            client.until(lambda: stream.blocks or number == 0)
            end(stream)
            wait_until(lambda: len(backend.bodies) == number + 1, what="the endpoint is told")

        cut(0, CONTENT, lambda stream: client.send(rst_stream(stream.id, CANCEL)))
        cut(1, CONTENT, lambda stream: client.send(rst_stream(stream.id, INTERNAL_ERROR)))
        cut(2, ("x-no", "grpc"), lambda stream: client.send(rst_stream(stream.id, CANCEL)))
        cut(3, CONTENT, lambda stream: client.send(client.head(stream.id, [("trailers", "and no end")])))
        cut(4, CONTENT, lambda stream: client.send(window_update(stream.id, 0)))
        cut(5, CONTENT, lambda stream: client.close())
        assert backend.bodies == [CANCEL] * 6
        wanted = [("DC", CANCELLED), ("DC", CANCELLED), ("DC", "-"), ("DPE", INTERNAL), ("DC", INTERNAL), ("DC", CANCELLED)]
        assert site.logged() == [(f"/cut/{at}", flag, "1", str(status)) for at, (flag, status) in enumerate(wanted)]
        assert site.classes() == {"cancelled": 3, "error": 2}


def test_cut_by_the_caller_when_the_endpoint_is_done(mesh):
    """Its status was there, and stays what the log tells of the call."""
    with Site(mesh, lambda server, stream: fine(server, stream, RESOURCE_EXHAUSTED)) as site:
        client = Client(connect(site.client.pod, site.vip, 80).sock, (INITIAL_WINDOW_SIZE, 0))
        stream = client.request(post("/shop.Cart/Add", CONTENT), b"x")
        client.until(lambda: stream.blocks)
        site.client.catch_up()  # all of the answer was sent with its head
        client.send(rst_stream(stream.id))
        assert client.pong()
        assert site.logged() == [("/shop.Cart/Add", "DC", "1", str(RESOURCE_EXHAUSTED))]


def test_what_was_refused_before_is_over(mesh):
    """What ends the call is told, and not how an earlier attempt ended."""

    def refuse_once(server, stream):
        if server.backend.begun == 1:
            server.send(rst_stream(stream.id, REFUSED_STREAM)).done(stream)

    with Site(mesh, refuse_once) as site:
        stream = site.connect().ask(post("/shop.Cart/Add", CONTENT, ("grpc-timeout", "1S")), body=b"x")
        assert status_of(stream) == DEADLINE_EXCEEDED
