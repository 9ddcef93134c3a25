# SPDX-License-Identifier: Apache-2.0
"""Dubbo, Dubbo-Thrift and Tars through the captured path, as byte-exact conversations."""

import signal
import struct

import pytest

from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

PORT = 20880
NAME = "com.example.Demo"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """A client pod with a proxy, and a server pod without one: rpc.mesh:20880 is the server's port."""

    def __init__(self, mesh, protocol="auto", **config):
        self.server = mesh.network.pod("server")
        config.setdefault("services", [service("rpc.mesh", PORT, "rpc", protocol=protocol)])
        config.setdefault("clusters", [cluster("rpc", [f"{self.server.ipv4}:{PORT}"])])
        self.client = mesh.sidecar("client", log={"access": True}, **config)
        self.vip = next(row["vip4"] for row in self.client.show("vhost", "show")["virtual_hosts"] if row["vip4"])

    def connect(self):
        return connect(self.client.pod, self.vip, PORT)

    def log(self, words):
        return [line for line in self.client.proxy.output().splitlines() if words in line]


# --- Dubbo -------------------------------------------------------------------------------------------------------------


def text(value):
    """A Hessian 2 string."""
    data = value.encode()
    assert len(value) < 1024
    return (bytes([len(value)]) if len(value) < 32 else struct.pack(">H", 0x3000 + len(value))) + data


def attachments(**pairs):
    return b"H" + b"".join(text(key) + text(value) for key, value in pairs.items()) + b"Z"


class Dubbo:
    OK, TIMEOUT, NOT_FOUND, SERVER_ERROR = 20, 31, 60, 80
    REQUEST, ONEWAY, RESPONSE, HEARTBEAT, ACK, READONLY = 0xC2, 0x82, 0x02, 0xE2, 0x22, 0xA2

    @staticmethod
    def frame(flags, number, data, status=0):
        return struct.pack(">HBBQI", 0xDABB, flags, status, number, len(data)) + data

    @classmethod
    def request(cls, number, method="hello", argument=text("world"), flags=REQUEST, service=NAME, **extra):
        start = b"".join(text(part) for part in ("2.0.2", service, "1.0.0", method, "Ljava/lang/String;"))
        return cls.frame(flags, number, start + argument + attachments(path=service, **extra))

    @staticmethod
    def read(peer):
        """(flags, status, id, data)"""
        magic, flags, status, number, length = struct.unpack(">HBBQI", peer.read(16))
        assert magic == 0xDABB
        return flags, status, number, peer.read(length)


def dubbo_server(seen=None, name="ok"):
    def handler(peer):
        while peer.another():
            flags, status, number, data = Dubbo.read(peer)
            if seen is not None:
                seen.append((flags, number, data))
            if flags == Dubbo.HEARTBEAT:
                peer.send(Dubbo.frame(Dubbo.ACK, number, b"N", Dubbo.OK))
            elif flags & 0x40:
                peer.send(Dubbo.frame(flags & 0x1F, number, b"\x94" + text(name), Dubbo.OK))

    return handler


def test_dubbo_calls_share_a_connection(mesh):
    seen = []
    site = Site(mesh, protocol="dubbo")
    with Origin(site.server, PORT, dubbo_server(seen)) as origin:
        peers = [site.connect() for _ in range(3)]
        numbers = (0, 7, 2**63 + 5)
        sent = {number: Dubbo.request(number) for number in numbers}
        for peer in peers:
            peer.send(b"".join(sent.values()))
        for peer in peers:
            answers = sorted(Dubbo.read(peer) for _ in numbers)
            assert answers == [(Dubbo.RESPONSE, Dubbo.OK, number, b"\x94" + text("ok")) for number in numbers]
        assert origin.accepted == 1 and len({number for _, number, _ in seen}) == 9
        assert {data for _, _, data in seen} == {sent[7][16:]}  # unchanged
        row = site.client.connections(protocol="dubbo")[0]
        assert (row["service"], row["method"]) == (NAME, "hello")
        wait_until(lambda: len(site.log("protocol=dubbo")) == 9)
        assert "status=20" in site.log("protocol=dubbo")[0] and "http_status=200" in site.log("protocol=dubbo")[0]


def test_dubbo_is_routed_by_group_version_and_method(mesh):
    other = mesh.network.pod("other")
    routes = [
        {"match": {"headers": [{"name": "group", "exact": "blue"}]}, "to": [{"cluster": "blue"}]},
        {"match": {"method": "hello", "headers": [{"name": "version", "exact": "1.0.0"}]}, "to": [{"cluster": "plain"}]},
    ]
    site = Site(
        mesh,
        services=[service("rpc.mesh", PORT, routes=routes)],
        clusters=[cluster("blue", [f"{other.ipv4}:7001"]), cluster("plain", [f"{other.ipv4}:7002"])],
    )
    with Origin(other, 7001, dubbo_server(name="blue")), Origin(other, 7002, dubbo_server(name="plain")):
        peer = site.connect()
        peer.send(Dubbo.request(1, group="blue"))
        assert Dubbo.read(peer)[3] == b"\x94" + text("blue")
        peer.send(Dubbo.request(2, group="red"))
        assert Dubbo.read(peer)[3] == b"\x94" + text("plain")
        # an object as the argument, of a class that is defined there
        argument = b"C" + text("com.example.Order") + b"\x92" + text("id") + text("name") + b"\x60\x91" + text("tea")
        peer.send(Dubbo.request(3, argument=argument, group="blue"))
        assert Dubbo.read(peer)[3] == b"\x94" + text("blue")
        peer.send(Dubbo.request(4, method="other"))
        flags, status, number, data = Dubbo.read(peer)
        assert (flags, status, number) == (Dubbo.RESPONSE, Dubbo.NOT_FOUND, 4)
        assert data == text("no route matches this call")


def test_dubbo_names_its_virtual_host(mesh):
    """Where the address names none, the service of the call does."""
    other = mesh.network.pod("other")
    site = Site(
        mesh,
        services=[service("rpc.mesh", PORT, "rpc"), service(NAME, PORT, "named")],
        clusters=[cluster("rpc", [f"{other.ipv4}:7001"]), cluster("named", [f"{other.ipv4}:7002"])],
    )
    with Origin(other, 7002, dubbo_server(name="named")), Origin(site.server, PORT, dubbo_server(name="passed on")):
        peer = connect(site.client.pod, site.server.ipv4, PORT)
        peer.send(Dubbo.request(1))
        assert Dubbo.read(peer)[3] == b"\x94" + text("named")
        peer.send(Dubbo.request(2, service="com.example.Unknown"))
        assert Dubbo.read(peer)[3] == b"\x94" + text("passed on")


def test_dubbo_events(mesh):
    """Heartbeats are answered by the proxy; one-way calls wait for nothing."""
    seen = []
    site = Site(mesh, protocol="dubbo", timeouts={"heartbeat": "500ms"})
    with Origin(site.server, PORT, dubbo_server(seen)):
        peer = site.connect()
        peer.send(Dubbo.frame(0xE6, 77, b"null"))
        assert Dubbo.read(peer) == (Dubbo.ACK, Dubbo.OK, 77, b"N")
        peer.send(Dubbo.request(5, flags=Dubbo.ONEWAY) + Dubbo.request(6))
        assert Dubbo.read(peer)[:3] == (Dubbo.RESPONSE, Dubbo.OK, 6)
        assert [flags for flags, _, _ in seen if flags != Dubbo.HEARTBEAT] == [Dubbo.ONEWAY, Dubbo.REQUEST]
        wait_until(lambda: [data for flags, _, data in seen if flags == Dubbo.HEARTBEAT][1:])
        assert {data for flags, _, data in seen if flags == Dubbo.HEARTBEAT} == {b"N"}


def test_dubbo_timeout_and_loss(mesh):
    def silent(peer):
        Dubbo.read(peer)
        if peer.another():
            Dubbo.read(peer)

    site = Site(mesh, protocol="dubbo")
    peer = site.connect()
    peer.send(Dubbo.request(1))
    assert Dubbo.read(peer)[:3] == (Dubbo.RESPONSE, Dubbo.SERVER_ERROR, 1)
    with Origin(site.server, PORT, silent):
        peer.send(Dubbo.request(2, timeout="300"))  # the attachment counts
        assert Dubbo.read(peer) == (Dubbo.RESPONSE, Dubbo.TIMEOUT, 2, text("the endpoint did not answer in time"))
        peer.send(Dubbo.request(3))
        assert Dubbo.read(peer)[:3] == (Dubbo.RESPONSE, Dubbo.SERVER_ERROR, 3)


def test_a_dubbo_server_that_is_about_to_end(mesh):
    """After "R" no further calls go on that connection; the one under way is answered."""
    ending = []

    def answer(number):
        return Dubbo.frame(Dubbo.RESPONSE, number, b"\x91", Dubbo.OK)

    def handler(peer):
        number = Dubbo.read(peer)[2]
        if ending:
            peer.send(answer(number))
        else:
            ending.append((peer, Dubbo.read(peer)[2]))
            peer.send(Dubbo.frame(Dubbo.READONLY, 1, b"\x01R") + answer(number))
        peer.rest()

    site = Site(mesh, protocol="dubbo")
    with Origin(site.server, PORT, handler) as origin:
        peer = site.connect()
        peer.send(Dubbo.request(1) + Dubbo.request(2))
        assert Dubbo.read(peer)[2] == 1
        peer.send(Dubbo.request(3))
        assert Dubbo.read(peer)[2] == 3
        assert origin.accepted == 2
        server, number = ending[0]
        server.send(answer(number))
        assert Dubbo.read(peer)[2] == 2


def test_dubbo_clients_are_told_of_a_drain(mesh):
    """Nothing that was sent by then is lost, and what they send all the same is answered while a call is under way."""
    waiting = []

    def handler(peer):
        while peer.another():
            waiting.append((peer, Dubbo.read(peer)[2]))

    site = Site(mesh, protocol="dubbo")
    with Origin(site.server, PORT, handler):
        idle, busy = site.connect(), site.connect().send(Dubbo.request(5))
        idle.send(Dubbo.frame(Dubbo.HEARTBEAT, 1, b"N"))
        assert Dubbo.read(idle)[0] == Dubbo.ACK
        wait_until(lambda: waiting)
        site.client.proxy._process.send_signal(signal.SIGTERM)
        told = Dubbo.frame(Dubbo.READONLY, 1, b"\x01R")
        assert idle.rest() == told
        assert busy.read(len(told)) == told
        busy.send(Dubbo.request(6))
        wait_until(lambda: waiting[1:])
        for peer, number in waiting:
            peer.send(Dubbo.frame(Dubbo.RESPONSE, number, b"\x94", Dubbo.OK))
        assert [Dubbo.read(busy)[2] for _ in range(2)] == [5, 6]
        assert busy.rest() == b""
        assert site.client.proxy.wait() == 0


def test_dubbo_in_another_serialization(mesh):
    """Goes where its address says, unread."""
    site = Site(mesh)
    with Origin(site.server, PORT, dubbo_server()):
        peer = site.connect()
        peer.send(Dubbo.frame(0xC6, 9, b'"2.0.2"\n"com.example.Demo"\n'))
        assert Dubbo.read(peer) == (0x06, Dubbo.OK, 9, b"\x94" + text("ok"))
        assert site.client.connections(protocol="dubbo")


def test_an_endpoint_that_speaks_several_protocols(mesh):
    """It learns from a connection's first bytes which one: in the pool those of HTTP wait for HTTP alone."""

    def handler(peer):
        if peer.another() and peer.read(1) == b"G":
            peer.head()
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            peer.rest()
        elif peer.buffer:
            peer.buffer = b"\xda" + peer.buffer
            dubbo_server()(peer)

    site = Site(mesh)
    with Origin(site.server, PORT, handler) as origin:
        peer = site.connect().send("GET / HTTP/1.1\r\nHost: rpc.mesh\r\n\r\n")
        assert peer.response()[0] == 200
        accepted = origin.accepted
        with site.client.frozen():  # for a client that is silent at first a connection would be made early
            peer = site.connect().send(Dubbo.request(5))
        assert Dubbo.read(peer)[:3] == (Dubbo.RESPONSE, Dubbo.OK, 5)
        assert origin.accepted == accepted + 1


# --- Dubbo-Thrift --------------------------------------------------------------------------------------------------------

CALL, REPLY, EXCEPTION = 1, 2, 3


def thrift(kind, number, method=b"hello", body=b"\x00", name=NAME.encode()):
    head = struct.pack(">HBI", 21 + len(name), 1, len(name)) + name + struct.pack(">Q", number)
    message = struct.pack(">II", 0x80010000 | kind, len(method)) + method + struct.pack(">I", 1) + body
    size = 6 + len(head) + len(message)
    return struct.pack(">IHI", size, 0xDABC, size) + head + message


def read_thrift(peer):
    """(message type, id, service, method, body)"""
    (size,) = struct.unpack(">I", peer.read(4))
    data = peer.read(size)
    magic, again, header, version, length = struct.unpack_from(">HIHBI", data)
    assert (magic, again, header, version) == (0xDABC, size, 21 + length, 1)
    name = data[13 : 13 + length]
    number, kind, method_length = struct.unpack_from(">QII", data, 13 + length)
    at = 13 + length + 16
    return kind & 0xFF, number, name, data[at : at + method_length], data[at + method_length + 4 :]


def test_dubbo_thrift(mesh):
    def handler(peer):
        while peer.another():
            _, number, name, method, body = read_thrift(peer)
            peer.send(thrift(REPLY, number, method, body, name))

    site = Site(mesh)
    peers = [site.connect().send(thrift(CALL, 3))]
    kind, number, _, _, body = read_thrift(peers[0])
    assert (kind, number) == (EXCEPTION, 3) and b"no endpoint could be reached" in body
    with Origin(site.server, PORT, handler) as origin:
        with site.client.frozen():  # for a client that is silent at first a connection would be made early
            peers.append(site.connect())
            for peer in peers:
                for number in (1, 2**63):
                    peer.send(thrift(CALL, number, body=b"some body"))
        for peer in peers:
            answers = sorted(read_thrift(peer) for _ in range(2))
            assert answers == [(REPLY, number, NAME.encode(), b"hello", b"some body") for number in (1, 2**63)]
        assert origin.accepted == 1
        row = site.client.connections(protocol="dubbo-thrift")[0]
        assert (row["service"], row["method"]) == (NAME, "hello")


# --- Tars --------------------------------------------------------------------------------------------------------------


def jce_int(tag, value):
    if value == 0:
        return bytes([tag << 4 | 12])
    for kind, form in enumerate((">b", ">h", ">i")):
        try:
            return bytes([tag << 4 | kind]) + struct.pack(form, value)
        except struct.error:
            continue
    raise ValueError(value)


def jce_text(tag, value):
    return bytes([tag << 4 | 6, len(value)]) + value.encode()


def jce_map(tag, pairs):
    items = b"".join(jce_text(0, key) + jce_text(1, value) for key, value in pairs.items())
    return bytes([tag << 4 | 8]) + jce_int(0, len(pairs)) + items


def packet(body):
    return struct.pack(">I", len(body) + 4) + body


def tars_request(number, func="hello", packet_type=0, buffer=b"args", timeout=0, context=None):
    start = jce_int(1, 1) + jce_int(2, packet_type) + jce_int(3, 0) + jce_int(4, number)
    names = jce_text(5, "App.Server.Obj") + jce_text(6, func)
    data = b"\x7d\x00" + jce_int(0, len(buffer)) + buffer
    return packet(start + names + data + jce_int(8, timeout) + jce_map(9, context or {}) + jce_map(10, {}))


def tars_response(number, code=0, buffer=b"result"):
    start = jce_int(1, 1) + jce_int(2, 0) + jce_int(3, number) + jce_int(4, 0) + jce_int(5, code)
    return packet(start + b"\x6d\x00" + jce_int(0, len(buffer)) + buffer + jce_map(7, {}))


def take_int(data, at, tag):
    assert data[at] >> 4 == tag
    kind = data[at] & 15
    if kind == 12:
        return 0, at + 1
    form = (">b", ">h", ">i")[kind]
    return struct.unpack_from(form, data, at + 1)[0], at + 1 + struct.calcsize(form)


def read_tars(peer, id_tag):
    """(id, what follows the id), of a request (4) or a response (3)"""
    data = peer.read(struct.unpack(">I", peer.read(4))[0] - 4)
    at = 0
    for tag in range(1, id_tag + 1):
        value, at = take_int(data, at, tag)
    return value, data[at:]


def test_tars(mesh):
    """Ids of every width, which become four bytes upstream and are themselves again downstream."""
    seen = []

    def handler(peer):
        while peer.another():
            number, rest = read_tars(peer, 4)
            seen.append((number, rest))
            if b"oneway" not in rest:
                peer.send(tars_response(number))

    site = Site(mesh, protocol="tars")
    numbers = (0, 5, 300, 70000, -1, 2**31 - 1)
    with Origin(site.server, PORT, handler) as origin:
        peers = [site.connect() for _ in range(2)]
        for peer in peers:
            peer.send(tars_request(9, "oneway", packet_type=1))
            for number in numbers:
                peer.send(tars_request(number))
        for peer in peers:
            answers = [read_tars(peer, 3) for _ in numbers]
            assert sorted(number for number, _ in answers) == sorted(numbers)
            assert all(rest == tars_response(0)[8:] for _, rest in answers)
        assert origin.accepted == 1
        assert all(number >= 0x10000 for number, _ in seen) and len({number for number, _ in seen}) == 14
        assert {rest for _, rest in seen if b"oneway" not in rest} == {tars_request(0)[9:]}
        row = site.client.connections(protocol="tars")[0]
        assert (row["service"], row["method"]) == ("App.Server.Obj", "hello")


def test_tars_routes_and_failures(mesh):
    def silent(peer):
        while peer.another():
            read_tars(peer, 4)

    other = mesh.network.pod("other")
    routes = [{"match": {"headers": [{"name": "zone", "exact": "a"}]}, "to": [{"cluster": "a"}]}]
    site = Site(
        mesh,
        services=[service("rpc.mesh", PORT, routes=routes)],
        clusters=[cluster("a", [f"{other.ipv4}:7001"])],
    )
    peer = site.connect()
    peer.send(tars_request(5))
    number, rest = read_tars(peer, 3)
    assert number == 5 and take_int(rest, 1, 5)[0] == -4 and b"no route matches this call" in rest
    peer.send(tars_request(6, context={"zone": "a"}))
    number, rest = read_tars(peer, 3)
    assert number == 6 and take_int(rest, 1, 5)[0] == -8
    with Origin(other, 7001, silent):
        peer.send(tars_request(7, context={"zone": "a"}, timeout=300))
        number, rest = read_tars(peer, 3)
        assert number == 7 and take_int(rest, 1, 5)[0] == -7
