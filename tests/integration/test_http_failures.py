# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 when one side does not behave: dead and talkative pooled connections, early answers, slow readers, clients
that flood or leave, servers that stall or stop."""

import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from mesh import Mesh, Origin, Peer, cluster, connect, resident_kib, service
from netns import readable, wait_until
from test_calls_shown import vips
from test_rpc import read_tars, tars_request, tars_response
from web import Web, ignore_reset, reply, serve

GET = "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 4\r\n\r\nbody"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


@pytest.fixture
def web(mesh):
    return Web(mesh, log={"access": True})


def idle_origin(web, peers):
    """An origin that answers; its connections are in `peers`."""

    def handler(peer):
        peers.append(peer)
        ignore_reset(serve(), peer)

    return web.origin(handler)


def lines(web, what):
    return [line for line in web.client.said().splitlines() if what in line]


# --- pools -----------------------------------------------------------------------------------------------------------


def give_up(peer, how):
    """Lets the handler close the connection, with or without a reset."""
    if how == "reset":
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.shutdown(socket.SHUT_RD)
    wait_until(lambda: peer.sock.fileno() < 0)


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("order", ["origin-first", "client-first"])
def test_a_post_does_not_meet_a_dead_connection(mesh, web, order, how):
    """The origin closes the pooled connection in the very turn in which the request comes."""
    peers = []
    with idle_origin(web, peers) as origin:
        peer = web.connect().send(GET)
        assert peer.response()[0] == 200
        with web.client.frozen():
            steps = [lambda: give_up(peers[0], how), lambda: peer.send(POST)]
            for step in steps if order == "origin-first" else reversed(steps):
                step()
                mesh.network.settle()
        assert peer.response()[0] == 200
        peer.close()
        assert origin.accepted == 2


@pytest.mark.parametrize("request_", [GET, POST])
def test_what_a_pooled_connection_says_unasked_is_no_answer(web, request_):
    """A server that gives up an idle connection with a 408 says so when the next request is already there."""
    peers = []
    with idle_origin(web, peers) as origin:
        peer = web.connect().send(GET)
        assert peer.response()[0] == 200
        with web.client.frozen():
            peer.send(request_)
            peers[0].send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").end()
        assert peer.response()[0] == 200
        peer.close()
        assert origin.accepted == 2


POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


@pytest.mark.parametrize("size", [2, 32768])
def test_bytes_behind_a_response_answer_nobody(web, size):
    """Also when they are not part of the read that ends with the response: those of 32 KiB fill the buffer."""

    def handler(peer):
        head = peer.head()
        overhead = len(reply(b"")) + 4 + len(head) if size > 100 else 0  # five digits of length; the request's chunk
        peer.send(reply(b"x" * (size - overhead)) + POISON)
        peer.rest()

    with web.origin(lambda peer: ignore_reset(handler, peer)) as origin:
        peer = web.connect()
        for turn in range(1, 4):
            assert b"poison" not in peer.send(GET).response()[2]
            assert origin.accepted == turn
        peer.close()


def test_a_host_that_vanishes_and_one_that_does_not_read(mesh):
    """What is pooled is given up when nothing is acknowledged, and what may be is sent elsewhere; what calls share is given
    up in protocols without heartbeats, too. Who reads nothing for as long acknowledges that, and is waited for."""
    gone, there = mesh.network.pod("gone"), mesh.network.pod("there")
    client = mesh.sidecar(
        "client",
        services=[
            *(service(f"{name}.mesh", 80, name) for name in ("web", "post", "slow")),
            service("rpc.mesh", 80, "rpc", protocol="tars"),
        ],
        clusters=[
            cluster("web", [f"{gone.ipv4}:8080", f"{there.ipv4}:8080"]),
            cluster("post", [f"{gone.ipv4}:8081"]),
            cluster("slow", [f"{there.ipv4}:8081"]),
            cluster("rpc", [f"{gone.ipv4}:8082"]),
        ],
        timeouts={"heartbeat": "1s"},
    )
    read_on, body = threading.Event(), 4_000_000 * b"x"

    def slow(peer):
        peer.head()
        peer.send(reply()).head()
        assert read_on.wait(60)
        assert peer.read(len(body)) == body
        peer.send(reply()).rest()

    def ask(peer, request=GET):
        return peer.send(request).response()[0]

    def upload(peer):
        status.append(ask(peer, f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body))

    def call(peer):
        while peer.another():
            peer.send(tars_response(read_tars(peer, 4)[0]))

    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin(pod, 8080, serve())) for pod in (gone, there)]
        stack.enter_context(Origin(gone, 8081, serve()))
        stack.enter_context(Origin(gone, 8082, call))
        stack.enter_context(Origin(there, 8081, slow))
        web, post, uploader = [connect(client.pod, vips(client)[f"{name}.mesh"], 80) for name in ("web", "post", "slow")]
        while not all(origin.accepted for origin in origins):
            assert ask(web) == 200
        assert ask(post) == ask(uploader) == 200
        caller = connect(client.pod, vips(client)["rpc.mesh"], 80).send(tars_request(1))
        assert read_tars(caller, 3)[0] == 1
        gone.ip("link set eth0 down")
        status = []
        waiting = threading.Thread(target=upload, args=(uploader,))
        waiting.start()
        post.send(POST)
        caller.send(tars_request(2))
        while client.counter("upstream_silent_total") == 0:
            assert ask(web) == 200
        assert post.response()[0] == 502
        number, rest = read_tars(caller, 3)
        assert number == 2 and b"the connection to the endpoint was lost" in rest
        assert client.counter("upstream_silent_total") == 3
        read_on.set()
        waiting.join(60)
        assert status == [200]
        for peer in (web, post, uploader, caller):
            peer.close()


def test_a_connection_that_closes_behind_its_response_is_not_pooled(web):
    def handler(peer):
        peer.head()
        peer.send(reply())  # says nothing of closing, and closes

    with web.origin(handler) as origin:
        peer = web.connect()
        for turn in range(1, 6):
            assert peer.send(POST).response()[0] == 200
            wait_until(lambda: web.client.counter("upstream_connections_active") == 0)
            assert origin.accepted == turn
        peer.close()


# --- early answers ---------------------------------------------------------------------------------------------------


def test_an_early_answer_reaches_a_client_that_goes_on_sending(web):
    """A client that reads only when all is sent still gets the answer, though nobody takes its 8 MiB."""
    total = 8 << 20

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").end()
        peer.sock.close()

    with web.origin(handler):
        peer = web.connect()
        peer.send(f"PUT / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: {total}\r\n\r\n").send(b"x" * total)
        status, _, body = peer.response()
        assert (status, body) == (413, b"big")
        assert peer.rest() == b""
        peer.close()


def test_a_body_behind_a_refused_expectation_is_no_request(web):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        peer.rest()

    with web.origin(lambda peer: ignore_reset(handler, peer)) as origin:
        body = "GET /smuggled HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
        peer = web.connect()
        peer.send(f"POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n")
        assert peer.response()[0] == 401
        peer.send(body)
        assert peer.rest() == b""
        assert origin.accepted == 1


# --- servers that stall and stop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "HTTP/1.1 200 OK\r\nX-Half: "])
def test_a_server_that_stops_answering(mesh, part):
    routes = [{"to": [{"cluster": "web"}], "timeout": "300ms"}]
    web = Web(mesh, services=[service("web.mesh", 80, routes=routes)], log={"access": True})

    def handler(peer):
        peer.head()
        peer.send(part)
        peer.rest()

    with web.origin(lambda peer: ignore_reset(handler, peer)):
        peer = web.connect().send(GET)
        status, head, body = peer.response()
        assert status == 504 and body == b"the upstream did not answer in time\n"
        assert "text/plain" in head
        assert peer.send(GET).response()[0] == 504  # the client's connection stays
        peer.close()
    assert "status=504 flag=UT" in web.client.said()


@pytest.mark.parametrize("part", ["", "HTTP/1.1 200 OK\r\nX-Half: "])
def test_a_server_that_closes_without_an_answer(web, part):
    with web.origin(lambda peer: (peer.head(), peer.send(part))):
        peer = web.connect().send(GET)
        status, _, body = peer.response()
        assert status == 502 and b"closed the connection" in body
        peer.close()
    assert "status=502 flag=UC" in web.client.said()


def test_a_server_that_speaks_no_http_is_named_in_the_log(web):
    with web.origin(lambda peer: ignore_reset(lambda p: (p.head(), p.send("junk\r\n\r\n"), p.rest()), peer)):
        peer = web.connect().send(GET)
        assert peer.response()[0] == 502
        peer.close()
    assert "status=502 flag=UPE" in web.client.said()


def test_refusals_are_in_the_log(web):
    with web.origin(serve()):
        peer = web.connect().send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert peer.response()[0] == 400
        peer.close()
    assert "status=400 flag=DPE" in web.client.said()


def test_no_endpoint_is_left(mesh):
    web = Web(mesh, clusters=[cluster("web", [])], log={"access": True})
    peer = web.connect().send(GET)
    status, _, body = peer.response()
    assert status == 503 and b"no endpoint" in body
    peer.close()
    assert "status=503 flag=UH" in web.client.said()


# --- clients that leave, stall, read slowly or not at all ------------------------------------------------------------


def test_a_client_that_leaves_in_the_middle_of_a_response(web):
    gone = []

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        try:
            while True:
                peer.send("5\r\nagain\r\n")
        except OSError as error:
            gone.append(error)

    with web.origin(handler):
        peer = web.connect().send(GET)
        peer.until("hello")
        peer.reset()
        wait_until(lambda: gone)
        wait_until(lambda: not web.client.connections())
    assert lines(web, "status=200 flag=DC")


def test_a_client_that_ends_in_the_middle_of_its_request(web):
    """What was sent of the body is not taken for all of it."""
    heads, seen = [], []

    def handler(peer):
        heads.append(peer.head())
        try:
            seen.append(peer.rest())
        except ConnectionResetError:
            seen.append("reset")

    with web.origin(handler):
        peer = web.connect().send("PUT / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 10\r\n\r\nhalf")
        wait_until(lambda: heads)
        peer.end()
        assert wait_until(lambda: seen) == ["reset"]


def slow_reader(web):
    """A client, and with it a proxy, whose buffers hold little."""
    web.client.pod.sysctl("net.ipv4.tcp_wmem", "4096 4096 4096")
    with web.client.pod.enter():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect((web.vip, 80))
    return Peer(sock)


def test_a_slow_reader_gets_all_of_a_last_response(web):
    """Which takes longer than the proxy waits for a client's end."""
    body = os.urandom(100_000)
    with web.origin(serve(reply(body))):
        peer = slow_reader(web).send("GET / HTTP/1.1\r\nHost: web.mesh\r\nConnection: close\r\n\r\n")
        wait_until(lambda: web.client.connections(state="closing"))
        start = time.monotonic()
        while time.monotonic() - start < 3:
            peer.buffer += peer.sock.recv(500)
            time.sleep(0.05)
        assert peer.response()[2] == body
        assert peer.rest() == b""


def test_a_client_that_ends_as_its_answer_comes(web):
    """The proxy learns of both in one turn of its loop: the answer is sent all the same."""
    heads, go = [], threading.Event()

    def handler(peer):
        heads.append(peer.head())
        go.wait(30)
        peer.send(reply("owed"))
        heads.append("sent")
        peer.rest()

    with web.origin(handler):
        peer = web.connect().send(GET)
        wait_until(lambda: heads)
        with web.client.frozen():
            go.set()
            wait_until(lambda: "sent" in heads)
            peer.end()
        assert peer.response()[2] == b"owed"
        assert peer.rest() == b""


def test_a_client_that_ends_before_it_reads(web):
    """More than the sockets hold waits for it in the proxy."""
    body = os.urandom(100_000)
    with web.origin(serve(reply(body))):
        peer = slow_reader(web).send(GET).end()
        wait_until(lambda: web.client.connections(state="closing"))
        assert peer.response()[2] == body
        assert peer.rest() == b""


def test_a_client_that_reads_no_answers_is_not_served_for_ever(mesh):
    """Answers that the proxy makes itself do not pile up; once the client reads, all of them come."""
    routes = [{"match": {"path_prefix": "/only"}, "to": [{"cluster": "web"}]}]
    web = Web(mesh, services=[service("web.mesh", 80, routes=routes)])
    before = resident_kib(web.client.proxy.pid)
    peer = slow_reader(web)
    request, sent = GET.encode() * 1000, 0
    peer.sock.settimeout(1)
    with pytest.raises(TimeoutError):
        while sent < 200 << 20:
            sent += peer.sock.send(request[sent % len(request):])
    assert resident_kib(web.client.proxy.pid) - before < 4096
    peer.sock.settimeout(30)
    whole, part = divmod(sent, len(GET))
    for _ in range(whole):
        assert peer.response()[0] == 404
    if part:
        assert peer.send(GET[part:]).response()[0] == 404
    peer.close()


def test_a_flood_of_requests_leaves_turns_for_others(mesh):
    """A thousand requests that the proxy answers by itself, and one of another client behind them: that one is not the
    last to be served."""
    routes = [{"match": {"path_prefix": "/only"}, "to": [{"cluster": "web"}]}]
    web = Web(mesh, services=[service("web.mesh", 80, routes=routes)], log={"access": True})
    only = "GET /only HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
    with web.origin(serve()):
        flood, other = web.connect(), web.connect()
        assert flood.send(GET).response()[0] == 404
        assert other.send(only).response()[0] == 200
        with web.client.frozen():
            flood.send(GET * 1000)
            other.send(only)
        assert other.response()[0] == 200
        for _ in range(1000):
            assert flood.response()[0] == 404
        flood.close()
        other.close()
    statuses = [line.partition("status=")[2][:3] for line in lines(web, "status=")]
    assert len(statuses) == 1003
    assert max(i for i, status in enumerate(statuses) if status == "200") < 500


def test_a_response_keeps_an_unfinished_request_alive(mesh):
    """The client sends no more of its body for longer than the idle time, while the response goes on."""
    web = Web(mesh, timeouts={"idle": "2s"})

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            time.sleep(0.4)
            peer.send("1\r\nx\r\n")
        peer.send("0\r\n\r\n")
        peer.rest()

    with web.origin(lambda peer: ignore_reset(handler, peer)):
        peer = web.connect()
        peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n")
        assert peer.response()[2] == b"x" * 8
        peer.close()


def test_a_request_body_that_stops_is_cut(mesh):
    web = Web(mesh, timeouts={"idle": "300ms"})
    with web.origin(lambda peer: ignore_reset(lambda p: (p.head(), p.rest()), peer)):
        peer = web.connect().send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 10\r\n\r\nhalf")
        assert peer.rest() == b""
        wait_until(lambda: not web.client.connections())


def test_bytes_do_not_prolong_the_time_for_a_head(mesh):
    """A client that sends one byte after the other has no longer than one that sends none."""
    web = Web(mesh, timeouts={"head": "300ms"})
    peer = web.connect().send("GET / HTTP/1.1\r\nHost: web.mesh\r\nX: ")
    for _ in range(200):
        with contextlib.suppress(ConnectionError):  # the answer may be there already, and the connection half closed
            peer.send("x")
        if readable(peer.sock, 0.05):
            break
    else:
        raise AssertionError("two hundred bytes, and each had its time")
    assert peer.response()[0] == 408
    peer.close()


@pytest.mark.parametrize("size, status, connections", [(60000, 200, 2), (70000, 502, 1)])
def test_no_more_of_a_body_is_kept_than_the_limit(web, size, status, connections):
    """A pooled connection dies under a request that may be repeated: it is, if all of it is still here."""
    first = threading.Event()

    def handler(peer):
        if first.is_set():
            peer.head()
            peer.read(size)
            peer.send(reply())
            return
        first.set()
        peer.head()
        peer.send(reply())
        peer.head()
        peer.read(size)

    with web.origin(handler) as origin:
        peer = web.connect().send(GET)
        assert peer.response()[0] == 200
        peer.send(f"PUT / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: {size}\r\n\r\n" + "x" * size)
        assert peer.response()[0] == status
        assert origin.accepted == connections
        peer.close()


def test_interim_responses_without_end(web):
    with web.origin(lambda peer: (peer.head(), peer.send("HTTP/1.1 103 Early Hints\r\n\r\n" * 100), peer.rest())):
        peer = web.connect().send(GET)
        statuses = [peer.response()[0] for _ in range(17)]
        assert statuses == [103] * 16 + [502]
        peer.close()
