# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 through the outbound proxy, captured: the odd cases of transparent proxies, with exact peers on both sides."""

import contextlib

import pytest

from mesh import Mesh, Origin, cluster, connect, open_files, resident_kib, service
from netns import wait_until
from web import PORT, Web, ignore_reset, reply, serve


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


@pytest.fixture
def web(mesh):
    return Web(mesh)


def test_the_request_arrives_as_it_was_sent(web):
    seen = []
    request = "GET /a%20b?x=1 HTTP/1.1\r\nhOsT: web.mesh\r\nX-Odd:   spaced  \r\nAccept: */*\r\nX-Empty:\r\n\r\n"
    with web.origin(serve(seen=seen)):
        peer = web.connect().send(request)
        assert peer.response()[0] == 200
        peer.close()
    assert seen == [request]


def test_keep_alive_and_one_upstream_connection(web):
    with web.origin(serve()) as origin:
        peer = web.connect()
        for _ in range(20):
            peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            assert peer.response() == (200, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok")
        peer.close()
        with web.client.frozen():  # for a client that is silent at first a connection would be made early
            other = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert other.response()[0] == 200
        other.close()
        assert origin.accepted == 1
        assert web.client.counter("http_requests_total") == 21


def test_pipelined_requests_are_answered_in_order(web):
    def handler(peer):
        for _ in range(50):
            path = peer.head().split()[1]
            peer.send(reply(path))

    with web.origin(handler):
        peer = web.connect()
        peer.send("".join(f"GET /{i} HTTP/1.1\r\nHost: web.mesh\r\n\r\n" for i in range(50)))
        for i in range(50):
            assert peer.response()[2] == f"/{i}".encode()
        peer.close()


def test_byte_by_byte(web):
    body = b"5\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n"

    def handler(peer):
        head = peer.head()
        assert "chunked" in head
        assert peer.read(len(body)) == body
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body:
            peer.send(bytes([byte]))

    with web.origin(handler):
        peer = web.connect()
        for byte in b"POST / HTTP/1.1\r\nHost: web.mesh\r\nTransfer-Encoding: chunked\r\n\r\n" + body:
            peer.send(bytes([byte]))
        assert "chunked" in peer.head()
        assert peer.read(len(body)) == body  # trailers and all
        peer.close()


def test_head_204_and_304_have_no_body(web):
    answers = {
        "HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "GET": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
        "DELETE": b"HTTP/1.1 204 No Content\r\n\r\n",
    }

    def handler(peer):
        while b"\r\n\r\n" in peer.buffer or peer._more():
            peer.send(answers[peer.head().split()[0]])

    with web.origin(handler) as origin:
        peer = web.connect()
        for method in ("HEAD", "GET", "DELETE", "HEAD"):
            peer.send(f"{method} / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            assert peer.head().encode() == answers[method]
        peer.close()
        assert origin.accepted == 1


def test_a_response_that_ends_with_the_connection(web):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\n\r\nall of ").send("it").end()
        peer.rest()

    with web.origin(handler):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        head = peer.head()
        assert "Connection: close" in head
        assert peer.rest() == b"all of it"
        peer.close()


def test_a_truncated_response_is_not_made_whole(web):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with web.origin(handler):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            peer.rest()


def test_http10_without_host(web):
    seen = []
    with web.origin(serve(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", seen)):
        peer = web.connect().send("GET / HTTP/1.0\r\n\r\n")
        assert peer.response()[2] == b"ok"
        assert peer.rest() == b""  # HTTP/1.0 closes
    assert seen == ["GET / HTTP/1.0\r\n\r\n"]


def test_http10_keep_alive(web):
    with web.origin(serve()):
        peer = web.connect()
        for _ in range(3):
            peer.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            status, head, body = peer.response()
            assert (status, body) == (200, b"ok") and "Connection: keep-alive" in head
        peer.close()


def test_chunks_are_not_for_http10(web):
    with web.origin(serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")):
        peer = web.connect().send("GET / HTTP/1.0\r\n\r\n")
        head = peer.head()
        assert "chunked" not in head
        assert peer.rest() == b"abcde"


def test_absolute_target_becomes_origin_form(web):
    seen = []
    with web.origin(serve(seen=seen)):
        peer = web.connect()
        peer.send("GET http://web.mesh/x?y HTTP/1.1\r\nHost: other.example\r\nA: b\r\n\r\n").response()
        peer.send("GET http://web.mesh HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()
        peer.close()
    assert seen == [
        "GET /x?y HTTP/1.1\r\nHost: web.mesh\r\nA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n",
    ]


def test_hop_by_hop_fields_stay_here(web):
    seen = []
    answer = reply(headers="Connection: X-Up\r\nX-Up: secret\r\nKeep-Alive: timeout=5\r\nX-Stays: yes\r\n")
    with web.origin(serve(answer, seen)):
        peer = web.connect()
        peer.send(
            "GET / HTTP/1.1\r\nHost: web.mesh\r\nConnection: keep-alive, X-Down\r\nX-Down: secret\r\n"
            "Keep-Alive: 5\r\nTE: gzip\r\nX-Stays: yes\r\n\r\n"
        )
        _, head, _ = peer.response()
        peer.close()
    assert seen == ["GET / HTTP/1.1\r\nHost: web.mesh\r\nX-Stays: yes\r\n\r\n"]
    assert head == "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Stays: yes\r\n\r\n"


def test_expect_continue(web):
    def handler(peer):
        assert "100-continue" in peer.head()
        peer.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert peer.read(4) == b"body"
        peer.send(reply())
        peer.rest()

    with web.origin(handler):
        peer = web.connect()
        peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 100 ")
        assert peer.send("body").response()[2] == b"ok"
        peer.close()


def test_expectation_refused_by_the_origin(web):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")

    with web.origin(handler):
        peer = web.connect()
        peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert peer.response()[0] == 417
        peer.close()


def test_websocket_upgrade(web):
    def handler(peer):
        head = peer.head()
        assert "Upgrade: websocket" in head and "connection: upgrade" in head.lower()
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        assert peer.read(4) == b"ping"
        peer.send("pong").end()
        assert peer.rest() == b"bye"

    with web.origin(handler):
        peer = web.connect()
        peer.send("GET /ws HTTP/1.1\r\nHost: web.mesh\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        head = peer.head()
        assert head.startswith("HTTP/1.1 101 ") and "connection: upgrade" in head.lower()
        assert peer.read(5) == b"hello"
        assert peer.send("ping").read(4) == b"pong"
        assert peer.rest() == b""
        peer.send("bye").end()
        peer.close()


def test_an_upgrade_that_nobody_asked_for(web):
    with web.origin(serve(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.response()[0] == 502
        peer.close()


def test_connect_becomes_a_tunnel(web):
    def handler(peer):
        assert peer.head().startswith("CONNECT db.example:5432 HTTP/1.1")
        peer.send("HTTP/1.1 200 OK\r\n\r\n")
        assert peer.read(3) == b"\x00\x01\x02"
        peer.send(b"\xff\xfe").end()
        peer.rest()

    with web.origin(handler):
        peer = web.connect()
        peer.send("CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 200 ")
        assert peer.send(b"\x00\x01\x02").rest() == b"\xff\xfe"
        peer.close()


@pytest.mark.parametrize(
    "request_, status",
    [
        ("GET /" + "a" * 20000 + " HTTP/1.1\r\nHost: web.mesh\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\nHost: web.mesh\r\nX: " + "a" * 70000 + "\r\n\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: web.mesh\r\n" + "".join(f"X{i}: 1\r\n" for i in range(200)) + "\r\n", 431),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: web.mesh\r\nbad header: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: web.mesh\r\n folded: x\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: web.mesh\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: web.mesh\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ],
)
def test_refusals(mesh, request_, status):
    web = Web(mesh, services=[service("web.mesh", 80, "web", protocol="http")])
    with web.origin(serve()) as origin:
        peer = web.connect().send(request_)
        got, head, body = peer.response()
        assert got == status
        assert "Connection: close" in head and body.endswith(b"\n")
        assert peer.rest() == b""
        assert origin.accepted == 0


def test_no_route(mesh):
    routes = [{"match": {"path_prefix": "/only"}, "to": [{"cluster": "web"}]}]
    web = Web(mesh, services=[service("web.mesh", 80, routes=routes)], log={"access": True})
    with web.origin(serve()):
        peer = web.connect()
        assert peer.send("GET /else HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0] == 404
        assert peer.send("GET /only/x HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0] == 200
        peer.close()
    assert "status=404 flag=NR" in web.client.said()


def test_nobody_listens(mesh):
    web = Web(mesh, log={"access": True})
    peer = web.connect()
    status, _, body = peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()
    assert status == 503 and b"could not be reached" in body
    assert peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0] == 503  # the connection stays
    assert "status=503 flag=UF" in web.client.said()


def test_the_upstream_takes_too_long(mesh):
    routes = [{"to": [{"cluster": "web"}], "timeout": "200ms"}]
    web = Web(mesh, services=[service("web.mesh", 80, routes=routes)], log={"access": True})

    def handler(peer):
        peer.head()
        peer.sock.recv(1)  # until the proxy gives up

    with Origin(web.server, PORT, lambda peer: ignore_reset(handler, peer)):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.response()[0] == 504
        peer.close()
    assert "status=504 flag=UT" in web.client.said()


@pytest.mark.parametrize("junk", ["nonsense\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n"])
def test_an_answer_that_is_no_http(web, junk):
    with web.origin(lambda peer: ignore_reset(lambda p: (p.head(), p.send(junk), p.rest()), peer)):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.response()[0] == 502
        peer.close()


def test_a_pooled_connection_that_died(web):
    """The origin closes an idle connection at the moment of the next request: the request is sent again."""

    def handler(peer):
        peer.head()
        peer.send(reply())
        peer.head()  # the second request on this connection gets no answer

    with web.origin(handler) as origin:
        peer = web.connect()
        for _ in range(4):
            peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            assert peer.response()[0] == 200
        peer.close()
        assert origin.accepted >= 2


def test_what_is_not_idempotent_is_not_sent_twice(web):
    posts = []

    def handler(peer):
        peer.head()
        peer.send(reply())
        posts.append(peer.head())

    with web.origin(handler):
        peer = web.connect()
        assert peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0] == 200
        assert peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 0\r\n\r\n").response()[0] == 502
        peer.close()
    assert len(posts) == 1


def test_an_early_answer_ends_the_upload(web):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").end()
        peer.rest()

    with web.origin(lambda peer: ignore_reset(handler, peer)):
        peer = web.connect()
        peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 100000000\r\n\r\n").send(b"x" * 100000)
        assert peer.response()[0] == 413
        peer.close()


def test_a_slow_reader_stops_the_sender(web):
    """64 MiB to a client that reads late: the proxy's memory stays flat, and every byte comes."""
    total = 64 << 20

    def handler(peer):
        peer.sock.settimeout(60)
        peer.head()
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")
        block = bytes(range(256)) * 4096
        for _ in range(total // len(block)):
            peer.send(block)

    with web.origin(handler):
        before = resident_kib(web.client.proxy.pid)
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        peer.head()
        last = [None, 0]

        def stalled():
            sent = web.client.connections()[0]["sent"]
            last[1] = last[1] + 1 if sent == last[0] else 0
            last[0] = sent
            return last[1] > 5

        wait_until(stalled)
        assert resident_kib(web.client.proxy.pid) - before < 4096
        left, expected = total, 0
        while left:
            data = peer.buffer or peer.sock.recv(1 << 20)
            peer.buffer = b""
            assert data[0] == expected % 256 and data[-1] == (expected + len(data) - 1) % 256
            expected += len(data)
            left -= len(data)
        peer.close()


def test_a_slow_server_stops_the_client(web):
    """A 64 MiB upload to a server that reads late."""
    import threading

    total, go = 64 << 20, threading.Event()

    def handler(peer):
        peer.head()
        go.wait(30)
        left = total - len(peer.buffer)
        while left:
            data = peer.sock.recv(1 << 20)
            assert data
            left -= len(data)
        peer.send(reply())

    with web.origin(handler):
        before = resident_kib(web.client.proxy.pid)
        peer = web.connect()
        peer.send(f"PUT / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: {total}\r\n\r\n")
        peer.sock.settimeout(1)
        sent, block = 0, b"x" * 65536
        with pytest.raises(TimeoutError):
            while sent < total:
                sent += peer.sock.send(block)
        assert sent < total // 2
        assert resident_kib(web.client.proxy.pid) - before < 4096
        go.set()
        peer.sock.settimeout(30)
        while sent < total:
            sent += peer.sock.send(block[: total - sent])
        assert peer.response()[2] == b"ok"
        peer.close()


def test_the_client_resets_and_upstream_learns_it(web):
    gone = []

    def handler(peer):
        peer.head()
        try:
            gone.append(peer.sock.recv(1))
        except ConnectionResetError:
            gone.append(b"reset")

    with web.origin(handler):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        wait_until(lambda: any(row["state"] == "request" for row in web.client.connections()))
        peer.reset()
        assert wait_until(lambda: gone) == [b"reset"]


def test_a_client_that_half_closes_gets_its_answer(web):
    with web.origin(serve()):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").end()
        assert peer.response()[2] == b"ok"
        assert peer.rest() == b""


@pytest.mark.parametrize("transport", ["plain", "mesh", "h2"])
def test_a_client_that_half_closes_and_resets_is_gone(mesh, transport):
    """After its end it may still want the answer; the reset behind that says no, to the origin, too, by whatever way."""
    asked, gone = [], []

    def handler(peer):
        if not peer.another():  # dialled early, and not needed
            return
        try:
            asked.append(peer.head())
            gone.append(peer.sock.recv(1))
        except ConnectionResetError:
            gone.append(b"reset")

    server = mesh.sidecar("server", tls="strict") if transport != "plain" else None
    pod = server.pod if server else mesh.network.pod("server")
    keys = {"plain": {}, "mesh": {"tls": "mesh"}, "h2": {"tls": "mesh", "transport": "h2"}}[transport]
    client = mesh.sidecar(
        "client",
        tls="permissive",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{pod.ipv4}:{PORT}"], **keys)],
    )
    vip = client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    with Origin(pod, PORT, handler):
        peer = connect(client.pod, vip, 80).send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").end()
        wait_until(lambda: asked)
        assert client.connections(state="request") and not gone
        peer.reset()
        wait_until(lambda: gone)
        wait_until(lambda: not client.connections())
        if transport == "mesh":
            wait_until(lambda: not server.connections())


@pytest.mark.parametrize("protocol", ["auto", "http"])
def test_an_end_right_behind_the_request_loses_no_answer(mesh, protocol):
    """The client's end and the origin's answer may reach the proxy in the same moment."""
    web = Web(mesh, services=[service("web.mesh", 80, "web", protocol=protocol)])
    request = "POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 5\r\n\r\nhello"

    def answer(peer):
        peer.sock.settimeout(None)
        with contextlib.suppress(AssertionError):  # the pool's connection ends
            while True:
                peer.head()
                assert peer.read(5) == b"hello"
                peer.send(reply())

    with web.origin(answer):
        for _ in range(500):
            peer = web.connect().send(request).end()
            assert peer.response()[0] == 200
            assert peer.rest() == b""
            peer.close()


def test_ten_thousand_connections_leave_nothing(mesh):
    web = Web(mesh, timeouts={"pool_idle": "300ms"})
    at_rest = open_files(web.client)
    with web.origin(serve()):
        def round_of(count):
            for _ in range(count // 100):
                peers = [web.connect() for _ in range(100)]
                for peer in peers:
                    peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\nConnection: close\r\n\r\n")
                for peer in peers:
                    assert peer.response()[0] == 200
                    peer.close()
            wait_until(lambda: not web.client.connections())
            wait_until(lambda: open_files(web.client) <= at_rest + 4)

        round_of(1000)
        memory = resident_kib(web.client.proxy.pid)
        round_of(10000)
        if "asan" not in web.client.mesh.weir_proxy:  # whose allocator keeps what was freed
            assert resident_kib(web.client.proxy.pid) <= memory + 1024


def test_a_request_head_that_never_ends(mesh):
    web = Web(mesh, timeouts={"head": "300ms"})
    peer = web.connect().send("GET / HTTP/1.1\r\nHost: web")
    assert peer.response()[0] == 408
    assert peer.rest() == b""


def test_named_by_host_when_the_address_is_nobodys(mesh):
    """A connection to an address that is no VIP: the Host names the service; an unknown Host passes through."""
    other = mesh.network.pod("other")
    web = Web(mesh)
    with web.origin(serve(reply("mesh"))), Origin(other, 80, serve(reply("direct"))):
        peer = connect(web.client.pod, other.ipv4, 80)
        assert peer.send("GET / HTTP/1.1\r\nHost: Web.Mesh.\r\n\r\n").response()[2] == b"mesh"
        peer.close()
        peer = connect(web.client.pod, other.ipv4, 80)
        assert peer.send("GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").response()[2] == b"direct"
        peer.close()
