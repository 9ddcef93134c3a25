# SPDX-License-Identifier: Apache-2.0
"""SOFABolt through the captured path: many calls on few upstream connections, each answered once, to the byte."""

import os
import re
import signal
import struct
import threading
import zlib

import pytest

from bolt import (
    BUSY, CODEC_ERROR, CONNECTION_CLOSED, NO_PROCESSOR, ONEWAY, REQUEST, RESPONSE, SERVICE, SUCCESS, TIMEOUT, Bolt, answering,
    frame, heartbeat, heartbeat_ack, request, response,
)
from mesh import Mesh, Origin, cluster, connect, resident_kib, service
from netns import output, wait_until

PORT = 12200


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """A client pod with a proxy, and a server pod without one: rpc.mesh:12200 is the server's port 12200."""

    def __init__(self, mesh, ports=(PORT,), protocol="bolt", **config):
        self.mesh = mesh
        self.server = mesh.network.pod("server")
        config.setdefault("services", [service("rpc.mesh", PORT, "rpc", protocol=protocol)])
        config.setdefault("clusters", [cluster("rpc", [f"{self.server.ipv4}:{port}" for port in ports])])
        config.setdefault("log", {"access": True})
        self.client = mesh.sidecar("client", **config)
        self.vip = next(row["vip4"] for row in self.client.show("vhost", "show")["virtual_hosts"] if row["vip4"])

    def origin(self, handler=None, port=PORT):
        return Origin(self.server, port, handler or answering())

    def connect(self):
        return Bolt(connect(self.client.pod, self.vip, PORT))

    def log(self):
        lines = self.client.proxy.output().splitlines()
        return [line for line in lines if "event=call" in line or 'msg=call' in line or " call " in line]


@pytest.fixture
def site(mesh):
    return Site(mesh)


@pytest.mark.parametrize("protocol", ["auto", "bolt", ["http", "bolt"]])
def test_a_call_passes_unchanged(mesh, protocol):
    site = Site(mesh, protocol=protocol)
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        sent = request(0x11223344, content=b"\1\2\3\4", timeout=3000)
        bolt.send(sent)
        answer = bolt.frame()
        assert answer.raw == response(0x11223344, b"\1\2\3\4")
        assert seen[0].raw[:5] + seen[0].raw[9:] == sent[:5] + sent[9:]
        assert site.client.connections(protocol="bolt", service=SERVICE, method="echo")
        bolt.close()


@pytest.mark.parametrize("version", [{}, {"version": 2}, {"version": 2, "own": 2}, {"version": 2, "own": 2, "crc": True}],
                         ids=["v1", "v2", "v2-own", "v2-crc"])
def test_versions(site, version):
    """Each in its own form; a CRC fits on both sides although the id differs."""
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        for number in (0xFFFFFFFF, 0, 7):
            bolt.send(request(number, content=b"x" * 1000, **version))
            got = bolt.frame()
            assert got.raw == response(number, b"x" * 1000, **version)
            assert got.good
        assert all(one.good and one.content == b"x" * 1000 for one in seen)
        bolt.close()


@pytest.mark.parametrize("version", [{}, {"version": 2}, {"version": 2, "own": 2, "crc": True}], ids=["v1", "v2", "crc"])
def test_a_heartbeat_is_answered_in_its_version(site, version):
    bolt = site.connect()
    bolt.send(heartbeat(7, **version))
    assert bolt.frame().raw == heartbeat_ack(7, **version)
    assert site.client.counter("rpc_requests_total") == 0
    bolt.close()


def test_ids_of_two_clients_interleave(site):
    """The same ids, on one upstream connection; the last asked is answered first."""
    held = []

    def last_first(got):
        held.append(got)
        if len(held) < 6:
            return None
        return b"".join(response(one.id, one.content) for one in reversed(held))

    with site.origin(answering(last_first)) as origin:
        clients = [site.connect() for _ in range(2)]
        for number in (1, 2, 3):
            for name, bolt in zip(b"ab", clients):
                bolt.send(request(number, content=bytes([name, number])))
        for name, bolt in zip(b"ab", clients):
            for number in (3, 2, 1):
                got = bolt.frame()
                assert (got.id, got.content) == (number, bytes([name, number]))
        assert len({one.id for one in held}) == 6
        assert origin.accepted == 1


def test_ids_around_the_highest(site):
    """A client's ids that wrap, all under way at a time: each answer has its own, whatever ids weir gave them."""
    ids = [2**32 - 2, 2**32 - 1, 0, 1, 2**31 - 1, 2**31]
    held = []

    def last_first(got):
        held.append(got)
        if len(held) < 2 * len(ids):
            return None
        return b"".join(response(one.id, one.content) for one in reversed(held))

    with site.origin(answering(last_first)) as origin:
        clients = [site.connect() for _ in range(2)]
        for name, bolt in zip(b"ab", clients):
            bolt.send(*(request(number, content=b"%c%d" % (name, number)) for number in ids))
        for name, bolt in zip(b"ab", clients):
            got = {(one.id, one.content) for one in bolt.frames(len(ids))}
            assert got == {(number, b"%c%d" % (name, number)) for number in ids}
        assert len({one.id for one in held}) == 2 * len(ids) and origin.accepted == 1
        for bolt in clients:  # they may be used again at once
            held.clear()
            bolt.send(*(request(number, content=b"again") for number in ids * 2))
            assert sorted(one.id for one in bolt.frames(2 * len(ids))) == sorted(ids * 2)


def test_seventy_thousand_calls_on_one_connection(site):
    """In batches of 1000; all on one upstream connection."""
    with site.origin() as origin:
        bolt = site.connect()
        for start in range(0, 70000, 1000):
            bolt.send(*(request(number, content=b"%d" % number) for number in range(start, start + 1000)))
            for number in range(start, start + 1000):
                got = bolt.frame()
                assert (got.id, got.content) == (number, b"%d" % number)
        assert origin.accepted == 1
        assert site.client.counter("rpc_requests_total") == 70000
        bolt.close()


@pytest.mark.parametrize("length", [127, 128, 255, 256, 32767, 65535])
def test_header_maps_of_any_length(site, length):
    seen = []
    rest = length - len(request(1)) + 22 + 44
    head_pair = ("k", "v" * (rest - 9))
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        sent = request(1, pairs=[head_pair])
        for step in (len(sent), 1000):
            for at in range(0, len(sent), step):
                bolt.send(sent[at : at + step])
            assert bolt.frame().raw == response(1)
        assert [len(one.head) for one in seen] == [length, length]
        bolt.close()


def test_byte_by_byte(site):
    with site.origin(answering(lambda got: response(got.id, got.content, cls=b"c"))):
        bolt = site.connect()
        for byte in request(5, content=b"abc"):
            bolt.send(bytes([byte]))
        assert bolt.frame().raw == response(5, b"abc", cls=b"c")
        bolt.close()


def test_an_answer_byte_by_byte(site):
    def handler(peer):
        bolt = Bolt(peer)
        got = bolt.frame()
        for byte in response(got.id, b"slow"):
            bolt.send(bytes([byte]))
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        assert bolt.call(9).raw == response(9, b"slow")
        bolt.close()


# --- routes ----------------------------------------------------------------------------------------------------------


def routed(mesh, routes, names=("a", "b")):
    """A Site whose clusters a, b, ... answer with their names."""
    site = Site.__new__(Site)
    site.mesh = mesh
    site.server = mesh.network.pod("server")
    clusters = [cluster(name, [f"{site.server.ipv4}:{PORT + i}"]) for i, name in enumerate(names)]
    site.client = mesh.sidecar(
        "client", services=[service("rpc.mesh", PORT, routes=routes)], clusters=clusters, log={"access": True}
    )
    site.vip = site.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    site.origins = [
        Origin(site.server, PORT + i, answering(lambda got, name=name: response(got.id, name.encode())))
        for i, name in enumerate(names)
    ]
    return site


def test_routes_by_method_header_and_path(mesh):
    to_a, to_b = [{"cluster": "a"}], [{"cluster": "b"}]
    site = routed(
        mesh,
        [
            {"match": {"method": "special"}, "to": to_b},
            {"match": {"headers": [{"name": "app", "exact": "beta"}]}, "to": to_b},
            {"match": {"path": f"/{SERVICE}/odd"}, "to": to_b},
            {"match": {"headers": [{"name": "no", "exact": "x"}]}, "to": to_a},
            {"match": {"path_prefix": "/com.alipay.test.TestService:1.0"}, "to": to_a},
        ],
    )
    bolt = site.connect()
    assert bolt.call(1).content == b"a"
    assert bolt.call(2, method="special").content == b"b"
    assert bolt.call(3, pairs=[("app", "beta")]).content == b"b"
    assert bolt.call(4, pairs=[("app", "alpha"), (None, "x"), ("y", None)]).content == b"a"
    assert bolt.call(5, method="odd").content == b"b"
    refused = bolt.call(6, service="other.Service:1.0")
    assert refused.raw == response(6, status=NO_PROCESSOR, cls=b"")
    assert bolt.call(7).content == b"a"


def test_the_older_name_of_the_service(mesh):
    site = routed(mesh, [{"match": {"path_prefix": "/old.S:1"}, "to": [{"cluster": "b"}]}, {"to": [{"cluster": "a"}]}])
    bolt = site.connect()
    assert bolt.call(1, None, None, pairs=[("sofa_head_target_service", "old.S:1")]).content == b"b"
    assert bolt.call(2, "new.S:1", None, pairs=[("sofa_head_target_service", "old.S:1")]).content == b"a"


def test_the_service_names_the_virtual_host(mesh):
    """At an address that is nobody's: interface and version, then the interface alone, then none: as it was meant."""
    server = mesh.network.pod("server")
    client = mesh.sidecar(
        "client",
        services=[
            service("com.alipay.test.TestService:1.0", PORT, "one"),
            service("com.alipay.test.TestService", PORT, "any"),
            service("*.wild.example", PORT, "wild"),
        ],
        clusters=[cluster(name, [f"{server.ipv4}:{port}"]) for name, port in (("one", 1001), ("any", 1002), ("wild", 1003))],
    )
    other = mesh.network.pod("other")
    origins = [
        Origin(pod, port, answering(lambda got, name=name: response(got.id, name)))
        for pod, port, name in (
            (server, 1001, b"one"), (server, 1002, b"any"), (server, 1003, b"wild"), (other, PORT, b"direct"),
        )
    ]
    bolt = Bolt(connect(client.pod, other.ipv4, PORT))
    assert bolt.call(1, "com.alipay.test.TestService:1.0").content == b"one"
    assert bolt.call(2, "com.alipay.test.TestService:2.0").content == b"any"
    assert bolt.call(3, "com.alipay.test.testservice:2.0:unique").content == b"any"
    assert bolt.call(4, "x.wild.example:1.0").content == b"wild"
    assert bolt.call(5, "unknown.Service:1.0").content == b"direct"
    assert bolt.call(6, None).content == b"direct"
    assert len(origins) == 4
    bolt.close()


# --- failures --------------------------------------------------------------------------------------------------------


def test_nobody_there(site):
    bolt = site.connect()
    assert bolt.call(1).raw == response(1, status=CONNECTION_CLOSED, cls=b"")
    assert bolt.call(2).status == CONNECTION_CLOSED
    assert site.client.counter("rpc_failures_total") == 2
    bolt.close()


def test_a_refused_connection_goes_elsewhere(mesh):
    site = Site(mesh, ports=(PORT, PORT + 1))
    with site.origin(port=PORT + 1):
        bolt = site.connect()
        for number in range(8):
            assert bolt.call(number).status == SUCCESS
        assert site.client.counter("rpc_retries_total") >= 1
        bolt.close()


def test_an_upstream_that_dies_with_calls_in_flight(site):
    """Each gets exactly one answer, and the next call a new connection."""
    died = []

    def handler(peer):
        if died:
            answering()(peer)
            return
        bolt = Bolt(peer)
        got = bolt.frames(10)
        bolt.send(response(got[3].id, b"before"))
        died.append(True)

    with site.origin(handler) as origin:
        clients = [site.connect() for _ in range(2)]
        for bolt in clients:
            bolt.send(*(request(number) for number in range(5)))
        answers = [(at, bolt.frame()) for at, bolt in enumerate(clients) for _ in range(5)]
        assert sorted((at, one.id) for at, one in answers) == [(at, number) for at in range(2) for number in range(5)]
        assert sorted(one.status for _, one in answers) == [SUCCESS] + [CONNECTION_CLOSED] * 9
        for bolt in clients:
            assert bolt.call(77).raw == response(77)
        assert origin.accepted == 2


def test_a_reset_upstream(site):
    def handler(peer):
        Bolt(peer).frames(3)
        peer.reset()

    with site.origin(handler):
        bolt = site.connect()
        bolt.send(*(request(number) for number in range(3)))
        assert sorted((one.id, one.status) for one in bolt.frames(3)) == [(n, CONNECTION_CLOSED) for n in range(3)]
        bolt.close()


def test_the_deadline_of_the_frame(site):
    """The proxy answers in time, and drops the answer that comes later."""
    first = []

    def slow(got):
        if got.content == b"slow":
            first.append(got)
            return None
        return b"".join(response(one.id, b"late") for one in first) + response(got.id, got.content)

    with site.origin(answering(slow)):
        bolt = site.connect()
        assert bolt.call(1, content=b"slow", timeout=50).raw == response(1, status=TIMEOUT, cls=b"")
        assert bolt.call(2, content=b"next", timeout=5000).content == b"next"
        assert site.client.counter("rpc_timeouts_total") == 1
        assert site.client.counter("rpc_late_responses_total") == 1
        bolt.close()


def test_the_deadline_of_the_route(mesh):
    site = Site(mesh, services=[service("rpc.mesh", PORT, routes=[{"to": [{"cluster": "rpc"}], "timeout": "50ms"}])])
    with site.origin(answering(lambda got: None)):
        bolt = site.connect()
        assert bolt.call(1, timeout=60000).status == TIMEOUT
        assert bolt.call(2).status == TIMEOUT
        bolt.close()


def test_oneway_calls_get_no_answer_and_hold_nothing(site):
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        bolt.send(*(request(number, kind=ONEWAY, content=b"%d" % number) for number in range(20000)), request(5))
        assert bolt.frame().raw == response(5)
        assert [one.content for one in seen[:-1]] == [b"%d" % number for number in range(20000)]
        assert all(one.kind == ONEWAY for one in seen[:-1])
        assert site.client.connections(protocol="bolt", calls=0)
        bolt.close()


def test_a_oneway_call_without_an_endpoint_gets_no_answer(site):
    bolt = site.connect()
    bolt.send(request(1, kind=ONEWAY), request(2))
    assert bolt.frame().id == 2
    bolt.close()


def test_a_bad_crc_from_the_client(site):
    """Nothing that follows can be trusted; what came before is answered."""
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        good = request(1, version=2, own=2, crc=True)
        bad = bytearray(request(2, version=2, own=2, crc=True, content=b"abcdef"))
        bad[-6] ^= 1
        bolt.send(good, bytes(bad), request(3))
        answers = {one.id: one for one in bolt.frames(2)}
        assert answers[1].raw == response(1, version=2, own=2, crc=True)
        assert answers[2].raw == response(2, status=CODEC_ERROR, cls=b"", version=2, own=2, crc=True)
        assert bolt.ended()
        assert [one.content for one in seen] == [b""]


def test_a_bad_crc_from_the_endpoint(site):
    def handler(peer):
        bolt = Bolt(peer)
        one, _ = bolt.frames(2)
        bad = bytearray(response(one.id, b"abc", version=2, own=2, crc=True))
        bad[-6] ^= 1
        bolt.send(bytes(bad))
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        bolt.send(*(request(number, version=2, own=2, crc=True) for number in (1, 2)))
        answers = {one.id: one for one in bolt.frames(2)}
        assert {number: one.status for number, one in answers.items()} == {1: CODEC_ERROR, 2: CONNECTION_CLOSED}
        assert all(one.good for one in answers.values())
        bolt.close()


MALFORMED = {
    "protocol": lambda: b"\3" + request(9)[1:],
    "type": lambda: frame(3, 1, 9),
    "command": lambda: frame(REQUEST, 7, 9),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_frame_ends_the_connection_when_calls_are_answered(site, what):
    with site.origin():
        bolt = site.connect()
        bolt.send(request(1), MALFORMED[what](), request(2))
        assert bolt.frame().raw == response(1)
        assert bolt.ended()
        assert site.client.counter("rpc_frames_refused_total") == 1


@pytest.mark.parametrize("head", [b"\0", b"\0\0\0\5abc", b"\xff\xff\xff\xfe\0\0\0\0", b"\x7f\xff\xff\xff"])
def test_a_malformed_header_map_is_answered(site, head):
    """The frame's end is known, so the connection goes on."""
    with site.origin():
        bolt = site.connect()
        assert bolt.call(1, head=head).raw == response(1, status=CODEC_ERROR, cls=b"")
        assert bolt.call(2).raw == response(2)
        bolt.close()


def test_too_many_pairs(site):
    with site.origin():
        bolt = site.connect()
        assert bolt.call(1, pairs=[("k", "v")] * 511).status == CODEC_ERROR
        assert bolt.call(2, pairs=[("k", "v")] * 510).status == SUCCESS
        bolt.close()


def test_a_frame_longer_than_allowed(mesh):
    site = Site(mesh, limits={"frame_bytes": 4096})
    with site.origin(answering(lambda got: response(got.id, b"x" * (4096 - 20 - 46 + (got.content == b"more"))))):
        bolt = site.connect()
        fits = 4096 - len(request(1))
        assert bolt.call(1, content=b"x" * fits).status == SUCCESS
        assert bolt.call(2, content=b"more").status == CONNECTION_CLOSED
        assert bolt.call(3, content=b"x" * (fits + 1)).raw == response(3, status=CODEC_ERROR, cls=b"")
        assert bolt.ended()


def test_an_endpoint_that_talks_nonsense(site):
    def handler(peer):
        peer.read(10)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        assert bolt.call(1).status == CONNECTION_CLOSED
        bolt.close()


def test_answers_that_nobody_asked_for_are_dropped(site):
    with site.origin(answering(lambda got: response(got.id + 1, b"stray") + response(got.id, b"mine") + response(got.id, b"twice"))):
        bolt = site.connect()
        for number in range(3):
            assert bolt.call(number).content == b"mine"
        assert site.client.counter("rpc_late_responses_total") == 6
        bolt.close()


def test_a_server_that_calls_is_told_that_nobody_can_be_called(site):
    told = []

    def handler(peer):
        bolt = Bolt(peer)
        got = bolt.frame()
        bolt.send(request(99), request(98, kind=ONEWAY), response(got.id))
        told.append(bolt.frame())
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        assert bolt.call(1).raw == response(1)
        wait_until(lambda: told)
        assert told[0].raw == response(99, status=NO_PROCESSOR, cls=b"")
        bolt.close()


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_client_that_has_sent_its_end_gets_its_answers(site):
    held = []

    def three_at_once(got):
        held.append(got)
        return b"".join(response(one.id, one.content) for one in held) if len(held) == 3 else None

    with site.origin(answering(three_at_once)):
        bolt = site.connect()
        bolt.send(*(request(number) for number in (1, 2, 3)))
        bolt.peer.end()
        assert [one.id for one in bolt.frames(3)] == [1, 2, 3]
        assert bolt.ended()


def test_a_client_that_leaves_does_not_disturb_others(site):
    """Its answers are dropped; the shared connection goes on."""
    gone, held = [], []

    def later(got):
        if got.content == b"held":
            held.append(got)
            return None
        return b"".join(response(one.id) for one in held) + response(got.id, got.content)

    with site.origin(answering(later, gone)) as origin:
        leaver, stayer = site.connect(), site.connect()
        leaver.send(request(1, content=b"held"), request(2)[:-5])
        wait_until(lambda: held)
        leaver.peer.reset()
        wait_until(lambda: len(site.client.connections()) == 1)
        assert stayer.call(1, content=b"mine").content == b"mine"
        assert origin.accepted == 1
        stayer.close()


def test_a_client_that_stalls_in_a_frame(mesh):
    """Others are served; the stalled one is closed when its time is up."""
    site = Site(mesh, timeouts={"head": "300ms"})
    with site.origin():
        stalled, other = site.connect(), site.connect()
        stalled.send(request(1, content=b"x" * 1000)[:500])
        for number in range(5):
            assert other.call(number).status == SUCCESS
        assert stalled.ended()
        assert other.call(9).status == SUCCESS
        other.close()


def test_goaway_from_the_endpoint(site):
    """What is under way is answered, what follows goes on another connection."""
    held = []

    def handler(peer):
        peer.sock.settimeout(None)
        bolt = Bolt(peer)
        if held:
            answering()(peer)
            return
        held.append(bolt.frame())
        bolt.send(frame(ONEWAY, 100, 1))
        held.append("told")
        second = bolt.frame() if peer.another() else None
        assert second is None

    with site.origin(handler) as origin:
        bolt = site.connect()
        bolt.send(request(1))
        wait_until(lambda: "told" in held)
        site.client.catch_up()
        assert bolt.call(2).status == SUCCESS
        assert origin.accepted == 2


def assert_flat(site, before):
    if "asan" not in site.mesh.weir_proxy:  # whose allocator keeps what was freed
        assert resident_kib(site.client.proxy.pid) < before + 4096


# --- long frames -----------------------------------------------------------------------------------------------------

MIB = 1 << 20
SERVERS = """
import socket, struct, sys, threading, zlib
def read(sock, n):
    view = memoryview(bytearray(n))
    at = 0
    while at < n:
        got = sock.recv_into(view[at:])
        if not got:
            sys.exit()
        at += got
    return bytes(view)
def serve(sock):
    while True:
        head = read(sock, 22)
        number, = struct.unpack_from(">I", head, 5)
        cls, pairs, left = struct.unpack_from(">HHI", head, 14)
        read(sock, cls + pairs)
        total = crc = 0
        while left:
            data = sock.recv(min(left, 1 << 20))
            if not data:
                return
            left -= len(data)
            total += len(data)
            crc = zlib.crc32(data, crc)
        answer = b"%d %d" % (total, crc)
        size = 64 << 20 if total == 4 else len(answer)
        sock.sendall(struct.pack(">BBHBIBHHHI", 1, 0, 2, 1, number, 1, 0, 0, 0, size))
        if total == 4:
            for at in range(64):
                sock.sendall(bytes([at]) * (1 << 20))
        else:
            sock.sendall(answer)
listener = socket.create_server(("0.0.0.0", 12200))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def test_64_mib_up_at_flat_memory(site):
    """Other calls go on meanwhile, on other connections."""
    site.server.python_start(SERVERS, ready=output("ready"))
    bolt, other = site.connect(), site.connect()
    assert other.call(1).content == b"0 0"
    before = resident_kib(site.client.proxy.pid)
    sent = request(5, content=bytes(64 * MIB))
    crc = zlib.crc32(bytes(64 * MIB))
    for at in range(0, len(sent), 8 * MIB):
        bolt.send(sent[at : at + 8 * MIB])
        assert other.call(2).content == b"0 0"
        assert_flat(site, before)
    assert bolt.frame().content == b"%d %d" % (64 * MIB, crc)
    assert bolt.call(6).content == b"0 0"
    bolt.close()


def test_64_mib_down_to_a_slow_reader_at_flat_memory(site):
    """Answers to other calls of the same client wait; other clients do not."""
    site.server.python_start(SERVERS, ready=output("ready"))
    bolt, other = site.connect(), site.connect()
    assert bolt.call(1).content == b"0 0"
    before = resident_kib(site.client.proxy.pid)
    bolt.send(request(2, content=b"long"))
    assert struct.unpack(">BBHBIBHHHI", bolt.peer.read(20))[4] == 2
    bolt.send(request(3))
    for at in range(64):
        assert bolt.peer.read(MIB) == bytes([at]) * MIB
        assert other.call(2).content == b"0 0"
        assert_flat(site, before)
    assert bolt.frame().raw == response(3, b"0 0", cls=b"")
    bolt.close()


def crc_answering(change=0):
    def answer(got):
        assert got.good
        out = bytearray(response(got.id, got.content, version=2, own=2, crc=True))
        out[-5] ^= change
        return bytes(out)

    return answering(answer)


def test_a_crc_over_a_long_frame(site):
    """Mended as it passes by, in both directions."""
    with site.origin(crc_answering()):
        bolt = site.connect()
        for size in (300_000, 3_000_000):
            got = bolt.call(9, content=b"y" * size, version=2, own=2, crc=True)
            assert got.good and got.id == 9 and got.content == b"y" * size
        bolt.close()


def test_a_bad_crc_over_a_long_frame_stays_bad(site):
    with site.origin(crc_answering(change=1)):
        bolt = site.connect()
        assert not bolt.call(9, content=b"y" * 300_000, version=2, own=2, crc=True).good
        bolt.close()


def test_a_client_that_leaves_in_a_long_frame(site):
    """Its connection upstream is reset: half a frame is no frame. The shared one is not touched."""
    ends = []

    def handler(peer):
        peer.sock.settimeout(None)
        bolt = Bolt(peer)
        try:
            while peer.another():
                got = bolt.frame()
                bolt.send(response(got.id, got.content))
        except ConnectionResetError:
            ends.append("reset")

    with site.origin(handler) as origin:
        other, bolt = site.connect(), site.connect()
        assert other.call(1).status == SUCCESS
        bolt.send(request(1, content=b"x" * 1_000_000)[:-10])
        wait_until(lambda: any(len(peer.buffer) > 500_000 for peer in origin.peers))
        bolt.peer.reset()
        wait_until(lambda: ends)
        assert other.call(2).status == SUCCESS
        other.close()


def test_an_endpoint_that_dies_in_a_long_request(site):
    """One answer; what is left of the frame is skipped, and the next call is served."""
    died = []

    def handler(peer):
        if died:
            answering()(peer)
            return
        peer.read(400_000)
        died.append(True)

    with site.origin(handler):
        bolt = site.connect()
        sent = request(1, content=b"x" * 20_000_000)
        bolt.send(sent, request(2))
        assert bolt.frame().raw == response(1, status=CONNECTION_CLOSED, cls=b"")
        assert bolt.frame().raw == response(2)
        bolt.close()


def test_an_endpoint_that_dies_in_a_long_answer(site):
    """Half an answer cannot be mended: the client is reset."""

    def handler(peer):
        got = Bolt(peer).frame()
        peer.send(response(got.id, b"x" * 1_000_000)[:500_000])

    with site.origin(handler):
        bolt = site.connect()
        bolt.send(request(1))
        with pytest.raises((ConnectionResetError, AssertionError)):
            bolt.frame()


def test_the_deadline_in_a_long_frame(site):
    """The client is answered although it is still sending, and goes on when it has."""

    def handler(peer):
        try:
            answering(lambda got: response(got.id))(peer)
        except ConnectionResetError:
            pass  # half a frame, and no more

    with site.origin(handler):
        bolt = site.connect()
        sent = request(1, content=b"x" * 1_000_000, timeout=50)
        bolt.send(sent[:500_000])
        assert bolt.frame().raw == response(1, status=TIMEOUT, cls=b"")
        bolt.send(sent[500_000:])
        assert bolt.call(2).raw == response(2)
        bolt.close()


def test_a_long_oneway_call(site):
    seen = []
    with site.origin(answering(seen=seen)):
        bolt = site.connect()
        bolt.send(request(1, kind=ONEWAY, content=b"z" * 1_000_000))
        assert bolt.call(2).raw == response(2)
        wait_until(lambda: len(seen) == 2)
        assert {len(one.content) for one in seen} == {0, 1_000_000}
        bolt.close()


def test_a_client_that_reads_nothing_while_others_wait(mesh):
    """It is reset after the time of a heartbeat; the others' answers come through."""
    site = Site(mesh, timeouts={"heartbeat": "1s"})

    def handler(peer):
        got = sorted(Bolt(peer).frames(101), key=lambda one: one.content)
        for one in got:
            peer.send(response(one.id, b"a" * 200_000 if one.content == b"slow" else b""))
        peer.rest()

    with site.origin(handler):
        slow, other = site.connect(), site.connect()
        slow.send(*(request(number, content=b"slow") for number in range(100)))
        assert other.call(7, content=b"waits").raw == response(7)
        with pytest.raises(ConnectionResetError):
            slow.frames(100)
        other.close()


def test_a_slow_reader_gets_all(site):
    with site.origin(answering(lambda got: response(got.id, got.content * 100_000))):
        bolt = site.connect()
        before = resident_kib(site.client.proxy.pid)
        bolt.send(*(request(number, content=bytes([number % 251])) for number in range(300)))
        for number in range(300):
            got = bolt.frame()
            assert (got.id, got.content) == (number, bytes([number % 251]) * 100_000)
        assert_flat(site, before)
        bolt.close()


# --- heartbeats to endpoints -----------------------------------------------------------------------------------------


def test_an_idle_endpoint_is_sent_heartbeats(mesh):
    """In the version of the last call; and its connection is kept for as long as it answers."""
    site = Site(mesh, timeouts={"heartbeat": "500ms"})
    beats = []

    def handler(peer):
        bolt = Bolt(peer)
        got = bolt.frame()
        bolt.send(response(got.id, **got.version_options))
        for _ in range(3):
            beats.append(bolt.frame())
            bolt.send(heartbeat_ack(beats[-1].id, **beats[-1].version_options))
        while True:
            got = bolt.frame()
            if got.command:
                break
            bolt.send(heartbeat_ack(got.id, **got.version_options))
        bolt.send(response(got.id, b"still here"))
        peer.rest()

    with site.origin(handler) as origin:
        bolt = site.connect()
        assert bolt.call(1, version=2, own=2, crc=True).good
        wait_until(lambda: len(beats) == 3)
        assert all(one.raw == heartbeat(one.id, version=2, own=2, crc=True) for one in beats)
        assert bolt.call(2).content == b"still here"
        assert origin.accepted == 1
        assert site.client.counter("rpc_heartbeats_total") >= 3
        bolt.close()


def test_an_endpoint_that_answers_no_heartbeat_is_given_up(mesh):
    """It hangs in the middle of an answer: its calls fail, the next one gets another connection."""
    site = Site(mesh, timeouts={"heartbeat": "500ms"})
    hung = []

    def handler(peer):
        peer.sock.settimeout(None)
        if hung:
            answering()(peer)
            return
        one, two = Bolt(peer).frames(2)
        hung.append(two)
        peer.send(response(one.id, b"half an answer")[:-5])
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        bolt.send(request(1), request(2))
        assert sorted((one.id, one.status) for one in bolt.frames(2)) == [(1, CONNECTION_CLOSED), (2, CONNECTION_CLOSED)]
        assert bolt.call(3).raw == response(3)
        bolt.close()


def test_heartbeats_of_the_endpoint_are_answered(site):
    acks = []

    def handler(peer):
        bolt = Bolt(peer)
        got = bolt.frame()
        bolt.send(heartbeat(0x77, version=2))
        acks.append(bolt.frame())
        bolt.send(response(got.id))
        peer.rest()

    with site.origin(handler):
        bolt = site.connect()
        assert bolt.call(1).raw == response(1)
        assert acks[0].raw == heartbeat_ack(0x77, version=2)
        bolt.close()


# --- the mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "mtls"])
def test_through_two_proxies(mesh, tls):
    """Outbound and inbound; many clients share few connections."""
    mode = {"tls": "strict"} if tls else {}
    server = mesh.sidecar("server", inbound=[{"port": PORT}], log={"access": True}, **mode)
    client = mesh.sidecar(
        "client",
        services=[service("rpc.mesh", PORT, "rpc", protocol="bolt")],
        clusters=[cluster("rpc", [f"{server.ipv4}:{PORT}"], tls="mesh" if tls else "off")],
        **({"tls": "permissive"} if tls else {}),
    )
    vip = client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    with Origin(server.pod, PORT, answering()) as origin:
        bolts = [Bolt(connect(client.pod, vip, PORT)) for _ in range(10)]
        for number in range(20):
            for at, bolt in enumerate(bolts):
                bolt.send(request(number, content=b"%d" % at * 500))
        for number in range(20):
            for at, bolt in enumerate(bolts):
                got = bolt.frame()
                assert (got.id, got.content) == (number, b"%d" % at * 500)
        assert origin.accepted <= 2
        (row,) = server.connections(protocol="bolt", direction="inbound")
        assert row["service"] == SERVICE and row["method"] == "echo" and row["requests"] == 200
        got = bolts[0].call(1, content=b"b" * 2_000_000)
        assert got.content == b"b" * 2_000_000
        for bolt in bolts:
            bolt.close()


# --- what operators see ----------------------------------------------------------------------------------------------


def fields(line):
    return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))


def test_the_access_log_names_every_call(site):
    with site.origin(answering(lambda got: None if got.content else response(got.id, b"xyz", status=4))):
        bolt = site.connect()
        assert bolt.call(0x10).status == BUSY
        assert bolt.call(0x11, content=b"never", timeout=20).status == TIMEOUT
        bolt.send(request(0x12, kind=ONEWAY, content=b"x"), heartbeat(1))
        bolt.frame()
        lines = wait_until(lambda: [fields(x) for x in site.client.proxy.output().splitlines() if "msg=call " in x])
        wanted = [("16", "4", "503", "-", "request"), ("17", "7", "504", "UT", "request"), ("18", "0", "0", "-", "oneway")]
        names = ("request_id", "status", "http_status", "flag", "kind")
        assert [tuple(one[name] for name in names) for one in lines] == wanted
        first = lines[0]
        assert (first["protocol"], first["service"], first["method"]) == ("bolt", SERVICE, "echo")
        assert (first["virtual_host"], first["cluster"]) == (f"rpc.mesh:{PORT}", "rpc")
        assert first["endpoint"] == f"{site.server.ipv4}:{PORT}"
        assert first["request_bytes"] == str(len(request(0x10)))
        assert first["response_bytes"] == str(len(response(0x10, b"xyz")))
        bolt.close()


def test_conn_show_names_the_oldest_call(site):
    with site.origin(answering(lambda got: None)):
        bolt = site.connect()
        bolt.send(request(1, method="first"), request(2, method="second"))
        (row,) = wait_until(lambda: site.client.connections(calls=2))
        assert (row["service"], row["method"], row["state"], row["requests"]) == (SERVICE, "first", "request", 2)
        assert (row["virtual_host"], row["cluster"]) == (f"rpc.mesh:{PORT}", "rpc")
        bolt.close()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_calls_under_way_are_capped_by_not_reading(site):
    """4096 of one client; the others are read when some are answered."""
    held, hold, answered = [], threading.Event(), threading.Event()

    def answer(got):
        if hold.is_set():
            answered.wait(30)  # two must not write at once
            return response(got.id)
        held.append(got)
        return None

    with site.origin(answering(answer)) as origin:
        bolt = site.connect()
        sender = threading.Thread(target=bolt.send, args=tuple(request(number) for number in range(6000)))
        sender.start()
        wait_until(lambda: len(held) == 4096)
        assert site.client.connections(calls=4096)
        hold.set()
        origin.peers[0].send(b"".join(response(one.id) for one in held))
        answered.set()
        sender.join()
        assert sorted((one.id, one.status) for one in bolt.frames(6000)) == [(number, 0) for number in range(6000)]
        bolt.close()


def test_too_many_calls_on_one_endpoint(site):
    """8 connections with 8192 each: then the proxy says that the endpoint is busy."""

    def swallow(peer):
        peer.sock.settimeout(None)
        while peer.sock.recv(MIB):
            pass

    with site.origin(swallow) as origin:
        requests = b"".join(request(number) for number in range(4096))
        bolts = [site.connect() for _ in range(16)]
        for bolt in bolts:
            bolt.send(requests)
        wait_until(lambda: len(site.client.connections(calls=4096)) == 16)
        wait_until(lambda: origin.accepted == 8)
        last = site.connect()
        last.send(requests)
        for number in range(4096):
            assert last.frame().raw == response(number, status=BUSY, cls=b"")
        assert origin.accepted == 8
        for bolt in bolts:
            bolt.peer.reset()
        wait_until(lambda: site.client.connections(calls=0) and len(site.client.connections()) == 1)
        last.send(request(1))
        wait_until(lambda: site.client.connections(calls=1))
        last.close()


def test_drain_lets_calls_finish(site):
    held = []

    def handler(peer):
        bolt = Bolt(peer)
        held.append((bolt, bolt.frame()))
        peer.rest()

    with site.origin(handler):
        idle, busy = site.connect(), site.connect()
        idle.send(heartbeat(1))
        idle.frame()
        busy.send(request(1))
        wait_until(lambda: held)
        os.kill(site.client.proxy.pid, signal.SIGTERM)
        assert idle.ended()
        held[0][0].send(response(held[0][1].id, b"done"))
        assert busy.frame().content == b"done"
        assert busy.ended()
        assert site.client.proxy.wait() == 0


# --- opaque protocols ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"x\1\0\0\0\0\1\0\0\0\0", b"\0\0\0\1hello", bytes(range(16)), b"\xff" * 3])
def test_a_protocol_that_nobody_knows_passes_by_its_virtual_ip(mesh, first):
    """With nothing configured but the port."""
    site = Site(mesh, protocol="auto")

    def echo(peer):
        while peer.another():
            peer.send(peer.read(len(peer.buffer)))

    with site.origin(echo):
        bolt = site.connect()
        for data in (first, b"more" * 10_000):
            bolt.peer.send(data)
            assert bolt.peer.read(len(data)) == data
        assert site.client.connections(protocol="tcp", virtual_host=f"rpc.mesh:{PORT}")
        bolt.close()


def test_a_list_narrows_detection(mesh):
    """HTTP is not looked for: its bytes pass as they are."""
    site = Site(mesh, protocol=["bolt"] * 2)

    def echo(peer):
        peer.send(peer.read(16))
        peer.rest()

    with site.origin(echo):
        bolt = site.connect()
        bolt.peer.send(b"GET / HTTP/1.1\r\n")
        assert bolt.peer.read(16) == b"GET / HTTP/1.1\r\n"
        assert site.client.connections(protocol="tcp")
        bolt.close()
    assert [row["protocol"] for row in site.client.show("vhost", "show")["virtual_hosts"]] == ["bolt,bolt"]


def test_a_connection_with_a_call_under_way_is_not_idle(mesh):
    site = Site(mesh, timeouts={"idle": "1s"})
    held, go = [], threading.Event()

    def handler(peer):
        bolt = Bolt(peer)
        held.append(bolt.frame())
        go.wait()
        bolt.send(response(held[0].id))
        peer.rest()

    with site.origin(handler):
        busy, quiet, gone = (site.connect() for _ in range(3))
        busy.send(request(1))
        wait_until(lambda: held)
        quiet.send(heartbeat(1))
        quiet.frame()
        gone.send(request(2))
        gone.close()
        assert quiet.ended()
        wait_until(lambda: len(site.client.connections()) == 1)
        go.set()
        assert busy.frame().raw == response(1)
        assert busy.ended()


# --- change ----------------------------------------------------------------------------------------------------------


def test_a_new_configuration_moves_calls_that_follow(mesh):
    """What is under way on the endpoint that is gone is answered; then its connection is closed."""
    site = Site(mesh)
    held, ends = [], []

    def old(peer):
        bolt = Bolt(peer)
        held.append((bolt, bolt.frame()))
        ends.append(peer.rest())

    with site.origin(old), site.origin(answering(lambda got: response(got.id, b"new")), port=PORT + 1):
        bolt = site.connect()
        bolt.send(request(1))
        wait_until(lambda: held)
        config = dict(site.client.config)
        config["clusters"] = [cluster("rpc", [f"{site.server.ipv4}:{PORT + 1}"])]
        site.client.reload(config)
        assert bolt.call(2).content == b"new"
        held[0][0].send(response(held[0][1].id, b"old"))
        assert bolt.frame().raw == response(1, b"old")
        wait_until(lambda: ends)
        config = dict(config, services=[service("other.mesh", PORT, "rpc")])
        site.client.reload(config)
        assert bolt.call(3).status == NO_PROCESSOR
        bolt.close()


def test_a_new_certificate_is_for_the_connections_that_follow(mesh):
    """A call under way ends on the old connection; the next one takes one with the new certificate."""
    server = mesh.sidecar("server", tls="strict", inbound=[{"port": PORT}])
    client = mesh.sidecar(
        "client",
        tls="permissive",
        services=[service("rpc.mesh", PORT, "rpc", protocol="bolt")],
        clusters=[cluster("rpc", [f"{server.ipv4}:{PORT}"], tls="mesh")],
    )
    vip = client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    held = []

    def serial():
        return client.show("cert", "show")["certificates"][0]["serial"]

    def handler(peer):
        peer.sock.settimeout(None)
        bolt = Bolt(peer)
        while peer.another():
            got = bolt.frame()
            if got.content == b"held":
                held.append((bolt, got))
            else:
                bolt.send(response(got.id))

    with Origin(server.pod, PORT, handler):
        bolt = Bolt(connect(client.pod, vip, PORT))
        bolt.send(request(1, content=b"held"))
        wait_until(lambda: held)
        assert len(server.connections(direction="inbound")) == 1
        before = serial()
        (mesh.ca / "client" / "cert.pem").unlink()
        mesh.certificate("client")
        wait_until(lambda: serial() != before)
        assert bolt.call(2).raw == response(2)
        assert len(server.connections(direction="inbound")) == 2
        held[0][0].send(response(held[0][1].id))
        assert bolt.frame().raw == response(1)
        wait_until(lambda: len(server.connections(direction="inbound")) == 1)
        bolt.close()
