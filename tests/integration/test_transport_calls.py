# SPDX-License-Identifier: Apache-2.0
"""Framed RPC with `transport: h2` between two sidecars: each call is a stream, byte-exact at both ends; and what either
sidecar makes of a peer that does not keep to that."""

import contextlib
import os
import signal
import socket
import ssl
import threading

import h2.config
import h2.connection
import h2.settings
import pytest

from bolt import (
    BUSY, CODEC_ERROR, CONNECTION_CLOSED, NO_PROCESSOR, ONEWAY, SERVICE, SUCCESS, TIMEOUT, Bolt, answering, frame, heartbeat,
    heartbeat_ack, request, response,
)  # fmt: skip
from mesh import Mesh, resident_kib
from netns import wait_until
from test_rpc import (
    CALL, EXCEPTION, NAME, REPLY, Dubbo, dubbo_server, read_tars, read_thrift, take_int, tars_request, tars_response, text, thrift,
)  # fmt: skip
from test_tls import fields, log_lines
from test_transport import Raw, Site

MIB = 1 << 20
VERSIONS = [{}, {"version": 2}, {"version": 2, "own": 2}, {"version": 2, "own": 2, "crc": True}]
CANCEL, REFUSED_STREAM = 8, 7


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Calls(Site):
    """app.mesh:80 is Bolt on port 9000 of the server. Without a sidecar there (`mode="off"`) a test may be the far end."""

    def __init__(self, mesh, **keys):
        super().__init__(mesh, protocol=keys.pop("protocol", "bolt"), **keys)

    def bolt(self):
        return Bolt(self.connect())

    def calls(self, sidecar, count=1, **wanted):
        """The lines of the access log, when there are so many."""
        def found():
            rows = [fields(line) for line in log_lines(sidecar, "msg=call ")]
            rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
            return rows if len(rows) >= count else None

        return wait_until(found)


@pytest.fixture
def site(mesh):
    return Calls(mesh)


# --- what arrives, and who it was --------------------------------------------------------------------------------------
def test_calls_of_many_clients_on_one_connection(site):
    """Each in its own version, with its own id; the far end says the same of them as the near one."""
    seen = []
    with site.origin(answering(seen=seen)) as origin:
        bolts = [site.bolt() for _ in range(3)]
        for bolt in bolts:
            for number, version in enumerate(VERSIONS, 0xFFFFFFFC):
                sent = request(number, content=b"x" * number.bit_count() + bytes([number & 255]), **version)
                bolt.send(sent)
                answer = bolt.frame()
                assert answer.raw == response(number, seen[-1].content, **version) and answer.good
                assert (seen[-1].content, seen[-1].good) == (sent[-len(seen[-1].content) :], True) or version.get("crc")
        assert site.carriers() == 1 and origin.accepted == 1
        (near, *_), (far,) = site.client.connections(protocol="bolt"), site.server.connections()
        assert (near["service"], near["method"], near["requests"]) == (SERVICE, "echo", 4)
        assert (far["transport"], far["tls"]["peer"]) == ("h2", "spiffe://mesh/ns/test/sa/client")
        for bolt in bolts:
            bolt.close()
    for sidecar in (site.client, site.server):
        for row in site.calls(sidecar, 12):
            assert (row["protocol"], row["service"], row["method"]) == ("bolt", SERVICE, "echo")
            assert (row["kind"], row["status"], row["flag"], row["transport"]) == ("request", "0", "-", "h2")
    near = sorted(row["request_id"] for row in site.calls(site.client, 12))
    assert near == sorted(row["request_id"] for row in site.calls(site.server, 12))


def streams(sidecar):
    return sidecar.show("conn", "show", "--streams")["streams"]


def test_what_is_shown_while_a_call_is_under_way(site):
    held, done = [], threading.Event()

    def later(got):
        held.append(got)
        done.wait(30)
        return response(got.id)

    with site.origin(answering(later)):
        bolt = site.bolt()
        bolt.send(request(77, method="slow"))
        wait_until(lambda: held)
        (near,) = site.client.connections(protocol="bolt")
        (far,) = site.server.connections()
        for row in (near, far):
            assert (row["service"], row["method"], row["calls"], row["transport"]) == (SERVICE, "slow", 1, "h2")
            assert row["protocol"] == "bolt" and row["endpoint"] == site.own
        assert near["cluster"] == "app" and near["upstream_tls"]["peer"] == "spiffe://mesh/ns/test/sa/server"
        bolt.send(request(78, "com.acme.Other:2.0", "later"))
        names = ("id", "protocol", "service", "method", "status", "endpoint")
        expected = {(77, "bolt", SERVICE, "slow", None, site.own), (78, "bolt", "com.acme.Other:2.0", "later", None, site.own)}
        for sidecar in (site.client, site.server):
            wait_until(lambda: {tuple(one[name] for name in names) for one in streams(sidecar)} == expected)  # noqa: B023
        assert {one["cluster"] for one in streams(site.client)} == {"app"}
        done.set()
        assert sorted(one.raw for one in bolt.frames(2)) == [response(77), response(78)]
        wait_until(lambda: not streams(site.client) and not streams(site.server), what="none is left")
        bolt.close()


def test_answers_come_as_they_are_ready(site):
    """The same ids of two clients at the same time; the last asked is answered first."""
    held = []

    def last_first(got):
        held.append(got)
        return b"".join(response(one.id, one.content) for one in reversed(held)) if len(held) == 40 else None

    with site.origin(answering(last_first)):
        bolts = [site.bolt() for _ in range(2)]
        for name, bolt in zip(b"ab", bolts):
            bolt.send(*(request(number, content=bytes([name, number])) for number in range(20)))
        for name, bolt in zip(b"ab", bolts):
            got = sorted((one.id, one.content) for one in bolt.frames(20))
            assert got == [(number, bytes([name, number])) for number in range(20)]
            bolt.close()
        assert len({one.id for one in held}) == 40


def test_oneway_calls(site):
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.bolt()
        bolt.send(*(request(number, kind=ONEWAY, content=b"%d" % number) for number in range(500)))
        bolt.peer.end()
        assert bolt.ended()
        wait_until(lambda: len(seen) == 500)
        assert sorted(int(one.content) for one in seen) == list(range(500)) and {one.kind for one in seen} == {ONEWAY}
        bolt.close()
    for sidecar in (site.client, site.server):
        assert {row["flag"] for row in site.calls(sidecar, 500, kind="oneway", transport="h2")} == {"-"}


def test_a_oneway_call_that_nobody_takes(site):
    bolt = site.bolt()
    bolt.send(request(1, kind=ONEWAY), heartbeat(2))
    assert bolt.frame().raw == heartbeat_ack(2)
    assert site.calls(site.server, kind="oneway", flag="UF")
    assert site.calls(site.client, kind="oneway", flag="UR")
    bolt.close()


def test_heartbeats_are_answered_hop_by_hop(site):
    acks = []

    def handler(peer):
        bolt = Bolt(peer)
        got = bolt.frame()
        bolt.send(heartbeat(5), response(got.id))
        acks.append(bolt.frame())
        peer.rest()

    with site.origin(handler) as origin:
        bolt = site.bolt()
        bolt.send(heartbeat(9))
        assert bolt.frame().raw == heartbeat_ack(9) and origin.accepted == 0
        assert bolt.call(1).raw == response(1)
        wait_until(lambda: acks)
        assert acks[0].raw == heartbeat_ack(5)
        bolt.close()


@pytest.mark.parametrize("size", [300 * 1024, 8 * MIB])
def test_long_frames(mesh, size):
    """Up and down at the same time, of two clients, at flat memory."""
    site = Calls(mesh)
    content = os.urandom(MIB) * (size // MIB) or os.urandom(size)
    with site.origin(answering()):
        bolts = [site.bolt() for _ in range(2)]
        before = [resident_kib(sidecar.proxy.pid) for sidecar in (site.client, site.server)]
        for version in (VERSIONS[0], VERSIONS[3]):
            writers = [
                threading.Thread(target=bolt.send, args=(request(7, content=content, **version),)) for bolt in bolts
            ]
            for writer in writers:
                writer.start()
            for bolt in bolts:
                bolt.peer.sock.settimeout(60)
                answer = bolt.frame()
                assert answer.raw == response(7, content, **version)
            for sidecar, was in zip((site.client, site.server), before):
                assert resident_kib(sidecar.proxy.pid) < was + 16 * 1024
            for writer in writers:
                writer.join()
        for bolt in bolts:
            bolt.close()


def test_long_answers_to_one_client(site):
    """One after the other, each whole; short ones wait for none that is not there."""
    size = 3 * MIB

    def answer(got):
        return response(got.id, got.content * (size if got.content != b"s" else 1))

    with site.origin(answering(answer)):
        bolt = site.bolt()
        bolt.peer.sock.settimeout(60)
        bolt.send(*(request(number, content=content) for number, content in enumerate([b"a", b"s", b"b", b"c", b"s"])))
        got = {one.id: one.content for one in bolt.frames(5)}
        assert got == {0: b"a" * size, 1: b"s", 2: b"b" * size, 3: b"c" * size, 4: b"s"}
        bolt.close()


def test_a_long_oneway_call(site):
    seen, content = [], os.urandom(2 * MIB)
    with site.origin(answering(seen=seen)):
        bolt = site.bolt()
        bolt.send(request(1, kind=ONEWAY, content=content))
        assert bolt.call(2).raw == response(2)
        wait_until(lambda: len(seen) == 2)
        assert content in [one.content for one in seen]
        bolt.close()


def test_calls_under_way_are_capped_by_not_reading(site):
    """256 of one client; the others are read when some are answered."""
    held, hold = [], threading.Event()

    def answer(got):
        held.append(got)
        return response(got.id) if hold.is_set() else None

    with site.origin(answering(answer)) as origin:
        bolt = site.bolt()
        bolt.send(*(request(number) for number in range(600)))
        wait_until(lambda: len(held) == 256)
        assert site.client.connections(calls=256)
        hold.set()
        origin.peers[0].send(b"".join(response(one.id) for one in held[:256]))
        assert sorted(one.id for one in bolt.frames(600)) == list(range(600))
        bolt.close()


def test_dubbo(mesh):
    site, seen = Calls(mesh, protocol="dubbo"), []
    with site.origin(dubbo_server(seen)):
        peer = site.connect()
        peer.send(b"".join(Dubbo.request(number) for number in (7, 2**63 + 5)))
        answers = sorted(Dubbo.read(peer) for _ in range(2))
        assert answers == [(Dubbo.RESPONSE, Dubbo.OK, number, b"\x94" + text("ok")) for number in (7, 2**63 + 5)]
        assert {data for _, _, data in seen} == {Dubbo.request(7)[16:]}
        peer.close()
    assert site.calls(site.server, 2, protocol="dubbo", transport="h2", status="20")


def test_dubbo_thrift(mesh):
    site, seen = Calls(mesh, protocol="dubbo-thrift"), []

    def answer(peer):
        while peer.another():
            seen.append(read_thrift(peer))
            _, number, name, method, body = seen[-1]
            peer.send(thrift(REPLY, number, method, body, name))

    peer = site.connect()
    peer.send(thrift(CALL, 3))
    kind, number, *_ = read_thrift(peer)
    assert (kind, number) == (EXCEPTION, 3)
    with site.origin(answer) as origin:
        sent = {number: b"x" * size for number, size in ((7, 1), (2**63 + 5, 300 * 1024))}
        peer.send(b"".join(thrift(CALL, number, body=body) for number, body in sent.items()))
        answers = [read_thrift(peer) for _ in sent]
        assert {number: body for _, number, _, _, body in answers} == sent
        assert {(kind, name, method) for kind, _, name, method, _ in answers} == {(REPLY, NAME.encode(), b"hello")}
        assert {(kind, name, method) for kind, _, name, method, _ in seen} == {(CALL, NAME.encode(), b"hello")}
        assert site.carriers() == 1 and origin.accepted <= 2
        peer.close()
    for sidecar in (site.client, site.server):
        rows = site.calls(sidecar, 2, protocol="dubbo-thrift", transport="h2", flag="-")
        assert {(row["service"], row["method"]) for row in rows} == {(NAME, "hello")}


def test_tars(mesh):
    """Ids of every width: the near end leaves them, the far end gives them the width of its own and gives them back."""
    site, seen = Calls(mesh, protocol="tars"), []

    def answer(peer):
        while peer.another():
            number, rest = read_tars(peer, 4)
            seen.append(rest)
            if b"oneway" not in rest and b"silent" not in rest:
                peer.send(tars_response(number))

    numbers = (0, 5, 300, 70000, -1, 2**31 - 1)
    with site.origin(answer):
        peer = site.connect()
        peer.send(tars_request(9, "oneway", packet_type=1) + b"".join(tars_request(number) for number in numbers))
        answers = [read_tars(peer, 3) for _ in numbers]
        assert sorted(number for number, _ in answers) == sorted(numbers)
        assert {rest for _, rest in answers} == {tars_response(0)[8:]}
        wait_until(lambda: len(seen) == len(numbers) + 1)
        assert {rest for rest in seen if b"oneway" not in rest} == {tars_request(0)[9:]}
        peer.send(tars_request(300, "silent", timeout=200))
        number, rest = read_tars(peer, 3)
        assert (number, take_int(rest, 1, 5)[0]) == (300, -7)  # call timeout
        peer.close()
    rows = site.calls(site.server, len(numbers) + 2, protocol="tars", transport="h2", service="App.Server.Obj")
    assert sorted(row["kind"] for row in rows) == ["oneway"] + ["request"] * (len(numbers) + 1)


# --- when something ends ---------------------------------------------------------------------------------------------
def test_deadlines(site):
    """The caller's holds at both ends; the stream is over with it."""
    with site.origin(answering(lambda got: response(got.id) if got.content else None)):
        bolt = site.bolt()
        assert bolt.call(1, timeout=100).raw == response(1, status=TIMEOUT, cls=b"")
        assert bolt.call(2, content=b"x", timeout=5000).status == SUCCESS
        bolt.close()
    (near,) = site.calls(site.client, request_id="1", status="7")
    (far,) = site.calls(site.server, request_id="1")
    # Either end may be first: the far one's answer passes through, or its stream is cancelled.
    assert (near["flag"], far["flag"]) in (("UT", "UT"), ("UT", "DC"), ("-", "UT"))


def test_an_application_that_is_not_there(site):
    bolt = site.bolt()
    for number in (1, 2):
        assert bolt.call(number).raw == response(number, status=CONNECTION_CLOSED, cls=b"")
    bolt.close()
    assert site.calls(site.server, 2, flag="UF", status="16") and site.calls(site.client, 2, status="16", flag="-")


def test_an_application_that_dies_with_calls_in_flight(site):
    """Each gets one answer, and the next call another connection."""
    def handler(peer):
        Bolt(peer).frames(30)
        peer.reset()

    with site.origin(handler):
        bolt = site.bolt()
        bolt.send(*(request(number) for number in range(30)))
        got = sorted(one.raw for one in bolt.frames(30))
        assert got == sorted(response(number, status=CONNECTION_CLOSED, cls=b"") for number in range(30))
    with site.origin(answering()):
        assert bolt.call(30).raw == response(30)
        bolt.close()


def test_the_far_proxy_dies_with_calls_in_flight(site):
    held = []
    with site.origin(answering(lambda got: held.append(got))):
        bolt = site.bolt()
        bolt.send(*(request(number) for number in range(30)))
        wait_until(lambda: len(held) == 30)
        os.kill(site.server.proxy.pid, signal.SIGKILL)
        got = sorted(one.raw for one in bolt.frames(30))
        assert got == sorted(response(number, status=CONNECTION_CLOSED, cls=b"") for number in range(30))
        site.server.proxy.wait()
    site.server.start()
    with site.origin(answering()):
        assert bolt.call(31).raw == response(31)
        bolt.close()


def test_the_far_proxy_drains(site):
    """Calls under way are answered; those that follow come to the next one."""
    held = []
    with site.origin(answering(lambda got: held.append(got))) as origin:
        bolt = site.bolt()
        bolt.send(*(request(number) for number in range(5)))
        wait_until(lambda: len(held) == 5)
        os.kill(site.server.proxy.pid, signal.SIGTERM)
        wait_until(lambda: log_lines(site.server, "msg=draining"))
        origin.peers[0].send(b"".join(response(one.id) for one in held))
        assert sorted(one.raw for one in bolt.frames(5)) == sorted(response(number) for number in range(5))
        site.server.proxy.wait()
    site.server.start()
    with site.origin(answering()):
        assert bolt.call(6).raw == response(6)
        bolt.close()


def test_the_near_proxy_drains(site):
    held = []
    with site.origin(answering(lambda got: held.append(got))) as origin:
        bolt = site.bolt()
        bolt.send(request(1))
        wait_until(lambda: held)
        os.kill(site.client.proxy.pid, signal.SIGTERM)
        wait_until(lambda: log_lines(site.client, "msg=draining"))
        origin.peers[0].send(response(held[0].id))
        assert bolt.frame().raw == response(1) and bolt.ended()
        site.client.proxy.wait()
        bolt.close()


def test_who_is_not_allowed(mesh):
    """By either side: nothing of the call is sent, and the caller is told in its own protocol."""
    site, seen = Calls(mesh), []
    with site.origin(answering(seen=seen)):
        config = {**site.client.config, "clusters": [{**site.client.config["clusters"][0], "tls_allow": ["spiffe://x/y"]}]}
        site.client.reload(config)
        bolt = site.bolt()
        assert bolt.call(1).raw == response(1, status=CONNECTION_CLOSED, cls=b"")
        config["clusters"][0].pop("tls_allow")
        site.client.reload(config)
        site.server.reload({**site.server.config, "tls": {**site.server.config["tls"], "allow": ["spiffe://x/*"]}})
        assert bolt.call(2).raw == response(2, status=CONNECTION_CLOSED, cls=b"")
        assert not seen
        bolt.close()


# --- a far end by hand: what is sent, and what is made of answers -------------------------------------------------------
class FarEnd:
    """A handler for Origin: speaks the transport, and answers each stream by `answer(far, stream, body)`."""

    def __init__(self, site, answer=lambda far, stream, body: None):
        files = site.mesh.certificate("server")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(files["certificate"], files["private_key"])
        self.tls.set_alpn_protocols(["weir-h2"])
        self.site, self.answer, self.heads, self.bodies, self.resets = site, answer, {}, {}, {}

    @contextlib.contextmanager
    def serving(self):
        with self.site.origin(self):
            yield
            with socket.socket(fileno=os.dup(self.sock.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)  # the near end keeps it, and so would the handler

    def __call__(self, peer):
        peer.sock.settimeout(None)
        with contextlib.suppress(OSError), self.tls.wrap_socket(peer.sock, server_side=True) as self.sock:
            self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            self.h2.initiate_connection()
            self.flush()
            while data := self.sock.recv(65536):
                for event in self.h2.receive_data(data):
                    self.take(event)
                self.flush()

    def take(self, event):
        name = type(event).__name__
        if name == "RequestReceived":
            self.heads[event.stream_id] = [(key.decode(), value.decode()) for key, value in event.headers]
            self.bodies[event.stream_id] = b""
        elif name == "DataReceived":
            self.bodies[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif name == "StreamReset":
            self.resets[event.stream_id] = event.error_code
        elif name == "StreamEnded":
            self.answer(self, event.stream_id, self.bodies[event.stream_id])

    def say(self, stream, status=200, body=b"", end=True):
        self.h2.send_headers(stream, [(":status", str(status))], end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())


class OneAtATime(FarEnd):
    """Takes one stream on a connection, and answers none."""

    def __init__(self, site):
        super().__init__(site)
        self.streams, self.settled = [], []

    def __call__(self, peer):
        peer.sock.settimeout(None)
        with contextlib.suppress(OSError), self.tls.wrap_socket(peer.sock, server_side=True) as sock:
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.local_settings = h2.settings.Settings(
                client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
            )
            connection.initiate_connection()
            sock.sendall(connection.data_to_send())
            while data := sock.recv(65536):
                events = connection.receive_data(data)
                self.streams += [event for event in events if type(event).__name__ == "StreamEnded"]
                self.settled += [event for event in events if type(event).__name__ == "SettingsAcknowledged"]
                sock.sendall(connection.data_to_send())


def test_more_calls_than_can_wait(mesh):
    """64 connections with a stream each, and 1024 calls that wait for one: who comes then is told so at once."""
    site = Calls(mesh, mode="off")
    far = OneAtATime(site)
    requests = [request(number) for number in range(256)]
    with site.origin(far) as origin:
        bolts = [site.bolt() for _ in range(5)]
        for bolt in bolts[:4]:
            bolt.send(*requests)
        wait_until(lambda: len(far.streams) == len(far.settled) == 64, timeout=30)
        wait_until(lambda: len(site.client.connections(calls=256)) == 4)
        assert origin.accepted == 64
        bolts[4].send(*requests)
        answers = bolts[4].frames(192)
        assert {answer.status for answer in answers} == {BUSY}
        assert sorted(answer.id for answer in answers) == list(range(64, 256))
        assert {row["request_id"] for row in site.calls(site.client, 192, flag="UO")} == {str(n) for n in range(64, 256)}
        for bolt in bolts:
            bolt.peer.reset()
        wait_until(lambda: not site.client.connections())
        site.client.proxy.kill()  # it keeps its connections


def test_metadata_are_fields(mesh):
    site = Calls(mesh, mode="off")
    far = FarEnd(site, lambda far, stream, body: far.say(stream, body=response(7, b"ok")))
    pairs = [("Trace-Id", "abc"), ("user", "grüße"), ("bad name", "x"), ("ctl", "a\nb"), ("connection", "close"),
             ("weir-kind", "oneway"), ("content-length", "1"), *((f"n{i}", "") for i in range(40))]  # fmt: skip
    with far.serving():
        bolt = site.bolt()
        sent = request(7, content=b"hello", timeout=3000, pairs=pairs)
        bolt.send(sent)
        assert bolt.frame().raw == response(7, b"ok")
        bolt.close()
    head = far.heads[1]
    assert far.bodies[1] == sent
    assert head[:4] == [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", site.own)]
    assert head[4:9] == [("weir-protocol", "bolt"), ("weir-kind", "request"), ("weir-timeout", "3000"),
                         ("weir-service", SERVICE), ("weir-method", "echo")]  # fmt: skip
    assert head[9:13] == [("service", SERVICE), ("sofa_head_method_name", "echo"), ("trace-id", "abc"), ("user", "grüße")]
    assert len(head) == 9 + 32 and {name for name, _ in head[13:]} == {f"n{i}" for i in range(28)}


def test_what_is_no_answer(mesh):
    """Each call gets exactly one all the same, and the client's connection stays."""
    good, crc = response(1), response(1, b"abc", **VERSIONS[3])
    cases = [
        (CONNECTION_CLOSED, {"body": b"HTTP/1.1 400 Bad Request\r\n\r\n"}),
        (CONNECTION_CLOSED, {"body": good + good}),
        (CONNECTION_CLOSED, {"body": good[:-1]}),
        (CONNECTION_CLOSED, {"body": good[:3]}),
        (CONNECTION_CLOSED, {"body": b""}),
        (CONNECTION_CLOSED, {"body": response(2)}),
        (CONNECTION_CLOSED, {"body": request(1)}),
        (CONNECTION_CLOSED, {"body": heartbeat_ack(1)}),
        (CODEC_ERROR, {"body": crc[:-1] + bytes([crc[-1] ^ 1])}),
        (CONNECTION_CLOSED, {"status": 204}),
        (CONNECTION_CLOSED, {"status": 503, "body": b"no\n"}),
        (CONNECTION_CLOSED, {"status": 502}),
        (TIMEOUT, {"status": 504}),
        (NO_PROCESSOR, {"status": 403, "body": b"not here\n"}),
        (CODEC_ERROR, {"status": 400, "body": good}),
        (SUCCESS, {"body": good}),
    ]
    site = Calls(mesh, mode="off")
    far = FarEnd(site, lambda far, stream, body: far.say(stream, **cases[(stream - 1) // 2][1]))
    with far.serving():
        bolt = site.bolt()
        for status, what in cases:
            answer = bolt.call(1)
            assert (answer.id, answer.status) == (1, status), what
        bolt.close()
    assert site.client.counter("rpc_frames_refused_total") == 9
    assert len(log_lines(site.client, "a sidecar sent an answer that cannot be read")) == 9


def test_streams_that_are_reset(mesh):
    """What was not begun is sent again; what was is not."""
    def answer(far, stream, body):
        if stream == 1:
            far.h2.reset_stream(stream, REFUSED_STREAM)
        elif stream == 3:
            far.say(stream, body=response(1))
        else:
            far.h2.reset_stream(stream, 2)

    site = Calls(mesh, mode="off")
    far = FarEnd(site, answer)
    with far.serving():
        bolt = site.bolt()
        assert bolt.call(1).raw == response(1)
        assert far.bodies[1] == far.bodies[3] == request(1)
        assert bolt.call(2).raw == response(2, status=CONNECTION_CLOSED, cls=b"")
        assert len(far.bodies) == 3
        bolt.close()


def test_a_caller_that_is_gone_cancels(mesh):
    site = Calls(mesh, mode="off")
    far = FarEnd(site)
    with far.serving():
        bolt = site.bolt()
        bolt.send(request(1), request(2), request(3, content=b"x" * MIB)[: MIB // 2])
        wait_until(lambda: len(far.heads) == 3)
        bolt.peer.reset()
        wait_until(lambda: far.resets == {1: CANCEL, 3: CANCEL, 5: CANCEL})
    assert site.calls(site.client, 3, flag="DC")


# --- a near end by hand: what the far one refuses --------------------------------------------------------------------
class Near(Raw):
    def call(self, stream, body, end=True, ask_end=False, **changed):
        head = {":method": "POST", ":scheme": "http", ":path": "/", ":authority": self.own, "weir-protocol": "bolt",
                "weir-kind": "request", **{key.replace("_", "-"): value for key, value in changed.items()}}  # fmt: skip
        self.h2.send_headers(stream, [(key, value) for key, value in head.items() if value is not None], end_stream=ask_end)
        if not ask_end:
            self.h2.send_data(stream, body, end_stream=end)
        self.sock.sendall(self.h2.data_to_send())
        self.body, self.trailing = b"", None
        while True:
            for event in self.h2.receive_data(self.sock.recv(65536)):
                name = type(event).__name__
                if getattr(event, "stream_id", None) != stream:
                    continue
                if name == "ResponseReceived":
                    self.head = dict(event.headers)
                elif name == "DataReceived":
                    self.body += event.data
                elif name in ("StreamEnded", "StreamReset"):
                    return int(self.head[b":status"])
            self.sock.sendall(self.h2.data_to_send())


@pytest.fixture
def near(site):
    near = Near(site)
    near.own = site.own
    yield near
    near.sock.close()


def test_what_is_no_call(site, near):
    """Refused, counted and logged, and nothing of it gets to the application."""
    good = request(1)
    refused = [
        (400, good, {"ask_end": True}),
        (400, b"", {}),
        (400, b"GET / HTTP/1.1\r\n\r\n", {}),
        (400, good + good, {}),
        (400, good + b"x", {}),
        (400, good[:-1], {}),
        (400, good[:5], {}),
        (400, response(1), {}),
        (400, heartbeat(1), {}),
        (400, request(1, kind=ONEWAY), {}),
        (400, good, {"weir_kind": "oneway"}),
        (400, good, {"weir_kind": "heartbeat"}),
        (400, good, {"weir_kind": None}),
        (400, good, {"weir_timeout": "-1"}),
        (400, good, {"weir_timeout": "99999999999"}),
        (400, good, {"weir_protocol": "dubbo"}),
        (400, Dubbo.request(1), {}),
        (413, frame(1, 1, 1, content=b"") [:-4] + b"\x7f\xff\xff\xff", {"end": False}),
    ]  # fmt: skip
    unwelcome = [
        {"weir_protocol": "x-example"},
        {"weir_protocol": None},
        {":authority": f"{site.server.ipv4}:22"},
        {":method": "PUT"},
    ]
    with site.origin(answering()) as origin:
        for at, (status, body, changed) in enumerate(refused):
            assert near.call(2 * at + 1, body, **changed) == status, (body[:40], changed)
        for at, changed in enumerate(unwelcome, len(refused)):
            assert near.call(2 * at + 1, good, **changed) == 403, changed
        assert origin.accepted == 0
        assert site.server.counter("rpc_frames_refused_total") == len(refused)
        assert len(log_lines(site.server, 'msg="a frame was refused"')) == len(refused)
        assert near.call(101, good) == 200 and near.body == response(1)
        assert near.head[b"weir-status"] == b"0"
        assert near.call(103, request(2, kind=ONEWAY), weir_kind="oneway") == 204 and not near.body
        assert near.call(105, request(3, head=b"\0\0\0\7serv")) == 200  # answered in its own protocol
        assert near.body == response(3, status=CODEC_ERROR, cls=b"")


def test_more_than_one_long_frame(site, near):
    """Too late to keep it from the application, but not answered."""
    seen = []
    with site.origin(answering(lambda got: seen.append(got))):
        long = request(1, content=b"x" * 300 * 1024)
        near.h2.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", near.own),
                                 ("weir-protocol", "bolt"), ("weir-kind", "request")])  # fmt: skip
        sent = long + b"more"
        while sent:
            size = min(len(sent), near.h2.local_flow_control_window(1), 16384)
            if size:
                near.h2.send_data(1, sent[:size], end_stream=size == len(sent))
                near.sock.sendall(near.h2.data_to_send())
                sent = sent[size:]
            else:
                near.h2.receive_data(near.sock.recv(65536))
        assert near.status(1) == 400
    assert site.calls(site.server, request_id="1", flag="DPE")


def test_the_callers_time_is_kept_at_the_far_end(site, near):
    with site.origin(answering(lambda got: None)):
        assert near.call(1, request(1), weir_timeout="50") == 200
        assert near.body == response(1, status=TIMEOUT, cls=b"")
        assert near.call(3, request(2, timeout=60000), weir_timeout="50") == 200
        assert near.call(5, request(3, timeout=50), weir_timeout="60000") == 200


def test_a_frame_that_does_not_come(mesh):
    site = Calls(mesh)
    site.server.reload({**site.server.config, "timeouts": {"head": "1s"}})
    near = Near(site)
    near.own = site.own
    assert near.call(1, request(1)[:10], end=False) == 408
    assert near.call(3, request(1), end=False) == 408
    near.sock.close()
