# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 both ways through the captured path, with peers that nobody here wrote: curl, nghttp, h2load, nghttpd, nginx."""

import base64
import contextlib
import functools
import hashlib
import itertools
import os
import signal
import socket
import struct
import threading

import pytest

from h2frames import END_STREAM, NO_ERROR, Client, data, get
from mesh import DEFAULT_TIMEOUT, Mesh, Origin, cluster, connect, resident_kib, service
from netns import listening, wait_until
from nginx import start_nginx
from test_tls import vip
from web import PORT, Web, ignore_reset, reply, serve

H2 = "--http2-prior-knowledge"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def nghttpd(pod, folder, *words, port=PORT):
    """nghttpd in clear text, serving a folder."""
    folder.mkdir(exist_ok=True)
    return pod.start(["nghttpd", "--no-tls", "-d", str(folder), *words, str(port)], ready=listening(port))


class Pair:
    """A client pod with a proxy, and a server pod with the origins: h1 is nginx, h2 is nghttpd."""

    def __init__(self, mesh):
        self.server = mesh.network.pod("server")
        self.folder = mesh.network.folder / "www"
        self.folder.mkdir()
        (self.folder / "small").write_bytes(b"x" * 1024)
        (self.folder / "big").write_bytes(bytes(range(256)) * 4096 * 16)
        (self.folder / "index.html").write_text("index")
        clusters = [
            cluster("h1", [f"{self.server.ipv4}:8081"], protocol="http1"),
            cluster("h2", [f"{self.server.ipv4}:8082"], protocol="http2"),
            cluster("auto1", [f"{self.server.ipv4}:8081"]),
            cluster("auto2", [f"{self.server.ipv4}:8082"]),
        ]
        services = [service(f"{row['name']}.mesh", 80, row["name"]) for row in clusters]
        self.client = mesh.sidecar("client", services=services, clusters=clusters, log={"access": True})
        self.nginx = start_nginx(
            self.server,
            f"server {{ listen 8081; root {self.folder}; client_max_body_size 0;"
            " location /echo { proxy_pass http://127.0.0.1:9; } }\n",
        )
        self.nghttpd = nghttpd(self.server, self.folder, "--echo-upload", port=8082)

    def curl(self, *words, check=True):
        done = self.client.pod.run(["curl", "-s", "-S", "-m", "20", *words], check=check)
        return done


@pytest.fixture
def pair(mesh):
    return Pair(mesh)


@pytest.mark.parametrize("name", ["h1", "h2", "auto2"])
def test_a_request_over_http2(pair, name):
    done = pair.curl(H2, "-w", "%{http_code} %{http_version} %{size_download}", "-o", "/dev/null", f"http://{name}.mesh/small")
    assert done.stdout == "200 2 1024"


@pytest.mark.parametrize("name", ["h1", "h2", "auto2"])
def test_load_on_few_connections(pair, name):
    """Streams share upstream connections of HTTP/2; nothing is lost, whatever the number in flight."""
    done = pair.client.pod.run(
        ["h2load", "-n", "4000", "-c", "4", "-m", "50", f"http://{name}.mesh/small"], timeout=60
    )
    assert "4000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
    assert pair.client.counter("http_requests_total") == 4000
    if name != "h1":
        assert pair.client.counter("upstream_connections_total") <= 8  # each client may have one dialled early


@pytest.mark.parametrize("client", [H2, "--http1.1", "--http1.0"])
@pytest.mark.parametrize("name", ["h1", "h2"])
def test_a_big_download(pair, name, client):
    done = pair.curl(client, "-o", str(pair.folder / "got"), "-w", "%{http_code}", f"http://{name}.mesh/big")
    assert done.stdout == "200"
    assert (pair.folder / "got").read_bytes() == (pair.folder / "big").read_bytes()


@pytest.mark.parametrize("words", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]])
@pytest.mark.parametrize("client", [H2, "--http1.1"])
def test_an_upload_is_echoed(pair, client, words):
    done = pair.curl(
        client, *words, "-T", str(pair.folder / "big"), "-X", "POST", "-o", str(pair.folder / "got"),
        "-w", "%{http_code}", "http://h2.mesh/echo",
    )  # fmt: skip
    assert done.stdout == "200"
    assert (pair.folder / "got").read_bytes() == (pair.folder / "big").read_bytes()


def test_upgrade_to_h2c(pair):
    done = pair.curl("--http2", "-v", "-w", "%{http_version}", "-o", "/dev/null", "http://auto1.mesh/small")
    assert done.stdout == "2" and "101 Switching Protocols" in done.stderr


def test_settings_of_an_upgrade_that_are_too_many(pair):
    """Its own connection goes on in HTTP/1; those of others that begin in the same turn are not harmed."""
    settings = base64.urlsafe_b64encode(struct.pack(">HI", 0xFAFA, 1) * 33).decode()
    offer = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: {settings}\r\n"
    peers = [connect(pair.client.pod, vip(pair.client, "auto1.mesh"), 80) for _ in range(40)]
    with pair.client.frozen():
        for at, peer in enumerate(peers):
            if at % 2:
                peer.send(PREFACE + frame(SETTINGS) + frame(PING, payload=b"question"))
            else:
                peer.send(f"GET /small HTTP/1.1\r\nHost: auto1.mesh\r\n{offer}\r\n")
    for at, peer in enumerate(peers):
        if at % 2:
            assert Frames.on(peer).until(PING)[1:] == (1, 0, b"question")
        else:
            assert peer.response()[::2] == (200, b"x" * 1024)


# --- conversion, with exact origins ----------------------------------------------------------------------------------


def http1_web(mesh, **keys):
    """web.mesh, whose endpoint speaks HTTP/1 whatever the client does."""
    server = mesh.network.pod("server")
    web = Web.__new__(Web)
    web.server = server
    keys.setdefault("services", [service("web.mesh", 80, "web")])
    keys.setdefault("log", {"access": True})
    web.client = mesh.sidecar(
        "client", clusters=[cluster("web", [f"{server.ipv4}:{PORT}"], protocol="http1")], **keys
    )
    web.vip = next(row["vip4"] for row in web.client.show("vhost", "show")["virtual_hosts"])
    return web


@pytest.fixture
def web1(mesh):
    return http1_web(mesh)


def curl(web, *words, check=True):
    return web.client.pod.run(["curl", "-s", "-S", "-m", "15", *words], check=check)


def test_the_head_that_an_http1_origin_sees(web1):
    seen = []
    with web1.origin(serve(seen=seen)):
        curl(
            web1, H2, "-A", "test", "-H", "X-Two: b", "-H", "Cookie: a=1", "-H", "TE: trailers",
            "http://web.mesh/a%20b?x=1",
        )  # fmt: skip
    (head,) = seen
    assert head.startswith("GET /a%20b?x=1 HTTP/1.1\r\nhost: web.mesh\r\n") and head.endswith("\r\n\r\n")
    lines = head.split("\r\n")[2:-2]
    assert sorted(lines) == ["accept: */*", "cookie: a=1", "te: trailers", "user-agent: test", "x-two: b"]


def test_cookie_crumbs_become_one_field(web1):
    seen = []
    with web1.origin(serve(seen=seen)):
        web1.client.pod.run(
            ["nghttp", "-n", "-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "cookie: c=3", "http://web.mesh/"]
        )
    assert seen[0].count("cookie:") == 1 and "cookie: a=1; b=2; c=3\r\n" in seen[0]


def test_a_body_of_unknown_length_is_chunked(web1):
    def handler(peer):
        head = peer.head()
        assert "transfer-encoding: chunked" in head and "content-length" not in head
        assert peer.chunked() == b"hello"
        peer.send(reply("thanks"))

    with web1.origin(handler):
        done = web1.client.pod.run(
            ["curl", "-s", "-S", "-m", "15", H2, "-H", "Content-Length:", "-T", "-", "http://web.mesh/"], input="hello"
        )
        assert done.stdout == "thanks"


@pytest.mark.parametrize(("method", "lines"), [("POST", 1), ("PUT", 1), ("PATCH", 1), ("GET", 0), ("DELETE", 0)])
def test_a_request_without_content(web1, method, lines):
    """It ends with its head, which HTTP/1 cannot see: where content is expected servers want to be told."""
    seen = []
    with web1.origin(serve(seen=seen)):
        curl(web1, H2, "-X", method, "http://web.mesh/")
    assert seen[0].count("content-length: 0\r\n") == lines and "transfer-encoding" not in seen[0]


def test_interim_responses_pass(web1):
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply("ok")
    with web1.origin(serve(answer)):
        done = curl(web1, H2, "-i", "http://web.mesh/")
        assert done.stdout.lower().replace("\r", "").startswith("http/2 103 \nlink: </a>\n\nhttp/2 200 \n")


def test_trailers_of_an_http1_origin(web1):
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-End: yes\r\nContent-Length: 7\r\n\r\n"
    )
    with web1.origin(serve(answer)):
        done = web1.client.pod.run(["nghttp", "-v", "http://web.mesh/"])
        assert "x-end: yes" in done.stdout and "content-length: 7" not in done.stdout
        assert "transfer-encoding" not in done.stdout


def test_connection_fields_stay_behind(web1):
    answer = b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok"
    with web1.origin(serve(answer)):
        done = curl(web1, H2, "-i", "http://web.mesh/")
        assert done.stdout.lower().replace("\r", "") == "http/2 200 \ncontent-length: 2\n\nok"


@pytest.mark.parametrize("words", [["-I"], ["-X", "OPTIONS"]])
def test_answers_without_a_body(web1, words):
    with web1.origin(serve(b"HTTP/1.1 204 No Content\r\n\r\n")):
        assert curl(web1, H2, *words, "-w", "%{http_code}", "-o", "/dev/null", "http://web.mesh/").stdout == "204"


def test_a_body_that_ends_with_the_connection(web1):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.0 200 OK\r\n\r\n").send(b"x" * 100000)

    with web1.origin(handler):
        assert curl(web1, H2, "http://web.mesh/").stdout == "x" * 100000


def test_an_origin_that_breaks_off_resets_the_stream(web1):
    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")

    with web1.origin(handler):
        done = curl(web1, H2, "http://web.mesh/", check=False)
        assert done.returncode == 92 and done.stdout in ("", "part")  # CURLE_HTTP2_STREAM


def test_the_proxys_own_answers(mesh):
    web = http1_web(mesh, services=[service("web.mesh", 80, routes=[{"match": {"path": "/here"}, "to": [{"cluster": "web"}]}])])
    assert curl(web, H2, "-w", "%{http_code}", "http://web.mesh/there").stdout == "no route matches this request\n404"
    assert curl(web, H2, "-w", "%{http_code}", "http://web.mesh/here").stdout.endswith("503")
    assert "protocol=http2" in web.client.said()


def test_websocket_from_http2_to_http1(web1):
    """Extended CONNECT becomes an Upgrade, with a key of the proxy's own, and bytes flow both ways."""
    h2 = pytest.importorskip("h2.connection")
    events = __import__("h2.events").events

    def handler(peer):
        head = peer.head()
        assert head.startswith("GET /chat HTTP/1.1\r\n") and "Upgrade: websocket\r\n" in head
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        peer.send(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\nhello")
        assert peer.read(5) == b"howdy"
        peer.send(b"bye")
        assert peer.rest() == b""

    with web1.origin(handler):
        peer = web1.connect()
        client = h2.H2Connection()
        client.initiate_connection()
        peer.send(client.data_to_send())
        client.send_headers(
            1,
            [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat"),
             (":authority", "web.mesh"), ("sec-websocket-version", "13")],
        )  # fmt: skip
        client.send_data(1, b"howdy")
        peer.send(client.data_to_send())
        got, status, closed = b"", None, False
        while not closed:
            assert peer._more()
            for event in client.receive_data(peer.buffer):
                if isinstance(event, events.ResponseReceived):
                    status = dict(event.headers)[b":status"]
                if isinstance(event, events.DataReceived):
                    got += event.data
                    if event.data and got == b"hellobye":
                        client.end_stream(1)
                closed |= isinstance(event, events.StreamEnded)
            peer.buffer = b""
            peer.send(client.data_to_send())
        assert status == b"200"
        peer.close()


def test_what_does_not_open_a_tunnel(web1):
    with web1.origin(serve(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")):
        done = curl(web1, "--http1.1", "-i", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "http://web.mesh/")
        assert done.stdout.startswith("HTTP/1.1 403 ")


CONNECT, CHAT = [(":method", "CONNECT"), (":authority", "web.mesh:80")], [
    (":method", "CONNECT"), (":protocol", "websocket"), *get("/chat")[1:], ("sec-websocket-version", "13"),
]  # fmt: skip


@pytest.mark.parametrize("fields", [CONNECT, CHAT], ids=["connect", "extended"])
def test_what_is_sent_into_a_tunnel_that_was_refused(web1, fields):
    """It is for nobody: to the endpoint it would be the next request, which no route has seen."""
    seen, said = [], threading.Event()

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno")
        assert said.wait(DEFAULT_TIMEOUT)
        peer.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            seen.append(peer.sock.recv(4096))
        peer.sock.setblocking(True)
        peer.send("pe")
        peer.rest()

    with web1.origin(handler):
        client = Client(web1.connect().sock)
        stream = client.open(fields)
        client.until(lambda: stream.body)
        client.send(data(stream.id, b"GET /admin HTTP/1.1\r\nHost: web.mesh\r\n\r\n", END_STREAM))
        assert client.pong()
        web1.client.catch_up()
        said.set()
        assert (client.answer(stream).status, stream.body) == (403, b"nope")
        client.close()
    assert seen == []


@pytest.mark.parametrize("fields", [CONNECT, CHAT], ids=["connect", "extended"])
def test_a_length_means_nothing_where_a_tunnel_is_asked_for(web1, fields):
    """An endpoint that believed it would take the next request for content."""
    seen = []
    with web1.origin(serve(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", seen=seen)):
        client = Client(web1.connect().sock)
        stream = client.answer(client.request([*fields, ("content-length", "30")]))
        assert (stream.status, stream.body) == (403, b"no")
        client.close()
    assert len(seen) == 1 and "content-length" not in seen[0]


NO_LENGTH = {
    "100": (b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + reply("ok"), get(), [b"2"]),
    "103": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + reply("ok"), get(), [b"2"]),
    "204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", get(), []),
    "connect": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes of the tunnel", CONNECT, []),
}


@pytest.mark.parametrize("name", NO_LENGTH)
def test_a_length_where_none_may_be(web1, name):
    """RFC 9110 8.6. HTTP/1 can do without minding it; peers of HTTP/2 take it for an error of the stream."""
    answer, fields, lengths = NO_LENGTH[name]

    def handler(peer):
        peer.head()
        peer.send(answer)

    with web1.origin(handler):
        client = Client(web1.connect().sock)
        stream = client.request(fields)
        client.until(lambda: stream.ended)
        assert stream.reset in (None, NO_ERROR) and stream.status == (204 if name == "204" else 200)
        assert [value for block in stream.blocks for key, value in block if key == b"content-length"] == lengths
        client.close()


def fill(client, stream, sidecar):
    """Sends until it is clear that nobody takes more."""
    for turn in itertools.count():
        while size := max(0, min(client.send_window, stream.send_window, 16384)):
            client.send(data(stream.id, bytes(size)))
        sidecar.take_turn()
        assert client.pong(b"turn%4d" % turn)
        if min(client.send_window, stream.send_window) <= 0:
            return


def test_a_reset_of_a_tunnel_whose_stream_is_over(web1):
    """Both halves are over, but the endpoint has not taken all of it, and never will: nothing waits for it any more."""
    sent = threading.Event()

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\n\r\n").end()
        assert sent.wait(DEFAULT_TIMEOUT)
        peer.reset()

    with web1.origin(handler) as origin:
        # The kernels hold little, so that what weir cannot get rid of now it cannot later, either.
        origin.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = Client(web1.connect().sock)
        stream = client.open(CONNECT)
        client.until(lambda: stream.ended)
        fill(client, stream, web1.client)
        client.send(data(stream.id, b"", END_STREAM))
        wait_until(lambda: web1.client.connections(streams=0), what="both halves are over")
        assert web1.client.show("endpoint", "show")["endpoints"][0]["active"] == 1
        sent.set()
        wait_until(lambda: web1.client.show("endpoint", "show")["endpoints"][0]["active"] == 0, what="the end of the tunnel")
        assert client.pong()
        client.close()


# --- upstream connections --------------------------------------------------------------------------------------------


def test_one_upstream_connection_for_many_clients(pair):
    # Of a declared protocol: otherwise a client that is slow to speak may have a connection made early.
    services = [*pair.client.config["services"], service("declared.mesh", 80, "h2", protocol="http")]
    pair.client.reload({**pair.client.config, "services": services})
    for client in (H2, "--http1.1", H2, "--http1.1"):
        assert pair.curl(client, "-o", "/dev/null", "-w", "%{http_code}", "http://declared.mesh/small").stdout == "200"
    assert pair.client.counter("upstream_connections_total") == 1


def test_few_streams_at_a_time(pair):
    """An endpoint that takes two streams: others wait or go on further connections, and all are answered."""
    nghttpd(pair.server, pair.folder, "-m", "2", port=8083)
    config = dict(pair.client.config)
    config["clusters"] = [*config["clusters"], cluster("two", [f"{pair.server.ipv4}:8083"], protocol="http2")]
    config["services"] = [*config["services"], service("two.mesh", 80, "two")]
    pair.client.reload(config)
    done = pair.client.pod.run(["h2load", "-n", "2000", "-c", "4", "-m", "25", "http://two.mesh/small"], timeout=60)
    assert "2000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout


def test_the_end_of_the_endpoint(pair):
    """It goes away with connections open; the next request finds the one that follows it."""
    assert pair.curl(H2, "-o", "/dev/null", "-w", "%{http_code}", "http://h2.mesh/small").stdout == "200"
    pair.nghttpd.stop()
    pair.client.catch_up()
    assert pair.curl(H2, "-o", "/dev/null", "-w", "%{http_code}", "http://h2.mesh/small").stdout == "503"
    nghttpd(pair.server, pair.folder, port=8082)
    wait_until(
        lambda: pair.curl(H2, "-o", "/dev/null", "-w", "%{http_code}", "http://h2.mesh/small").stdout == "200",
        what="the endpoint is back",
    )


def test_a_drain_lets_streams_finish(pair):
    """SIGTERM in the middle of a download: GOAWAY, the download completes, the proxy ends."""
    got = pair.folder / "got"
    load = pair.client.pod.start(
        ["curl", "-s", "-S", H2, "--limit-rate", "30M", "-o", str(got), "http://h2.mesh/big"],
    )
    wait_until(lambda: got.exists() and got.stat().st_size > 65536, what="the download has begun")
    assert pair.client.proxy.stop() == 0
    assert load.wait() == 0
    assert got.read_bytes() == (pair.folder / "big").read_bytes()


def test_an_upgrade_while_the_proxy_drains(web1):
    """The answer comes in HTTP/2, and then the end."""
    with web1.origin(serve()):
        peer = web1.connect()
        peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n")
        web1.client.catch_up()
        os.kill(web1.client.proxy.pid, signal.SIGTERM)
        wait_until(lambda: "msg=draining" in web1.client.proxy.output(), what="the drain")
        peer.send("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 101 ")
        client = Client(peer.sock)
        client.buffer = peer.buffer  # what came with the 101
        assert client.answer(client._new(1)).body == b"ok"
        client.rest().close()
        assert client.goaway.error_code == NO_ERROR
        assert web1.client.proxy.wait() == 0


def test_a_slow_reader_holds_little_memory(pair):
    """64 MiB for a client that does not read: the proxy keeps what the windows allow, and no more."""
    (pair.folder / "huge").write_bytes(bytes(64 * 1024 * 1024))
    before = resident_kib(pair.client.proxy.pid)
    fifo = pair.folder / "fifo"
    __import__("os").mkfifo(fifo)
    pair.client.pod.start(["curl", "-s", H2, "-o", str(fifo), "http://h2.mesh/huge"])
    with open(fifo, "rb") as pipe:
        assert pipe.read(1) == b"\0"
        wait_until(lambda: pair.client.counter("upstream_connections_total") == 1, what="the request is under way")
        row = pair.client.connections(protocol="http2")[0]
        assert row["sent"] < 16 * 1024 * 1024
        assert resident_kib(pair.client.proxy.pid) - before < 16 * 1024
        assert len(pipe.read()) == 64 * 1024 * 1024 - 1


# --- the mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [H2, "--http1.1"])
def test_through_both_proxies_over_mutual_tls(mesh, client):
    server = mesh.sidecar("server", tls="strict")
    folder = mesh.network.folder / "www"
    folder.mkdir()
    (folder / "small").write_bytes(b"x" * 1024)
    nghttpd(server.pod, folder)
    front = mesh.sidecar(
        "client",
        tls="permissive",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:{PORT}"], protocol="http2", tls="mesh")],
    )
    for _ in range(3):
        done = front.pod.run(["curl", "-s", "-S", client, "-w", "%{http_code}", "-o", "/dev/null", "http://web.mesh/small"])
        assert done.stdout == "200"
    (row,) = server.connections(protocol="http2")
    assert row["requests"] == 3 and row["tls"]["peer"] == "spiffe://mesh/ns/test/sa/client"


def test_pass_through_to_the_original_destination(pair):
    """No virtual host: as the client speaks, to where it was going."""
    done = pair.curl(H2, "-o", "/dev/null", "-w", "%{http_code} %{http_version}", f"http://{pair.server.ipv4}:8082/small")
    assert done.stdout == "200 2"
    assert "cluster=- endpoint=" + pair.server.ipv4 in pair.client.said()


def test_alpn_with_a_server_that_is_no_proxy(mesh):
    """nghttpd with a certificate of the mesh, without a proxy: it is offered h2 beside the mesh's mark."""
    server = mesh.network.pod("server")
    files = mesh.certificate("plain")
    folder = mesh.network.folder / "www"
    folder.mkdir()
    (folder / "small").write_bytes(b"x" * 1024)
    server.start(
        ["nghttpd", "-d", str(folder), "--verify-client", str(PORT), files["private_key"], files["certificate"]],
        ready=listening(PORT),
    )
    client = mesh.sidecar(
        "client",
        tls="permissive",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:{PORT}"], protocol="http2", tls="mesh")],
    )
    done = client.pod.run(["curl", "-s", "-S", H2, "-w", "%{http_code}", "-o", "/dev/null", "http://web.mesh/small"])
    assert done.stdout == "200"


def test_alpn_with_a_client_that_is_no_proxy(mesh):
    """curl with a certificate of the mesh talks h2 to a strict port that is declared so."""
    files = mesh.certificate("plain")
    server = mesh.sidecar("server", tls="strict", inbound=[{"port": PORT, "protocol": "http2"}])
    folder = mesh.network.folder / "www"
    folder.mkdir()
    (folder / "small").write_bytes(b"x" * 1024)
    nghttpd(server.pod, folder)
    client = mesh.network.pod("client")
    done = client.run(
        ["curl", "-s", "-S", "-k", "--http2", "--cert", files["certificate"], "--key", files["private_key"], "-w",
         "%{http_code} %{http_version}", "-o", "/dev/null", f"https://{server.ipv4}:{PORT}/small"],
    )  # fmt: skip
    assert done.stdout == "200 2"


# --- declared ports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared, client, version", [("http", H2, "2"), ("http", "--http1.1", "1.1"), ("http2", H2, "2")])
def test_declared_protocols(mesh, declared, client, version):
    web = http1_web(mesh, services=[service("web.mesh", 80, "web", protocol=declared)])
    with web.origin(serve()):
        done = curl(web, client, "-w", "%{http_version}", "http://web.mesh/")
        assert done.stdout == "ok" + version


# --- tunnels ---------------------------------------------------------------------------------------------------------


def websocket_origin(peer):
    head = peer.head()
    key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    peer.send(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while True:
        data = peer.sock.recv(65536)
        if data in (b"", b"bye"):
            return
        peer.send(data)


def test_websocket_over_http2_between_proxies(mesh):
    """HTTP/1 at both ends, extended CONNECT between the proxies: the key is answered as the client expects. One proxy
    is weir, which turns HTTP/1 into HTTP/2; nghttpx turns it back."""
    server = mesh.network.pod("middle")
    web = Web.__new__(Web)
    web.server = server
    server.start(
        ["nghttpx", "-f0.0.0.0,9000;no-tls", f"-b127.0.0.1,{PORT}", "-n1", "--no-ocsp", "--conf=/dev/null", "--user=root",
         "--accesslog-file=/dev/null"],
        ready=listening(9000),
    )  # fmt: skip
    web.client = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:9000"], protocol="http2")],
    )
    web.vip = web.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    with web.origin(websocket_origin):
        peer = web.connect()
        peer.send(
            "GET /chat HTTP/1.1\r\nHost: web.mesh\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = peer.head()
        assert head.startswith("HTTP/1.1 101 ") and "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        for size in (1, 1000, 300000):
            peer.send(b"y" * size)
            assert peer.read(size) == b"y" * size
        peer.send(b"bye")
        assert peer.rest() == b""


def test_connect_through_an_http2_endpoint(mesh):
    """CONNECT of HTTP/1, forwarded over HTTP/2: a tunnel with half-closes."""
    server = mesh.network.pod("server")
    server.start(
        ["nghttpx", "-f0.0.0.0,9000;no-tls", f"-b127.0.0.1,{PORT}", "-n1", "--no-ocsp", "--conf=/dev/null", "--user=root",
         "--accesslog-file=/dev/null"],
        ready=listening(9000),
    )  # fmt: skip
    web = Web.__new__(Web)
    web.server = server
    web.client = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:9000"], protocol="http2")],
    )
    web.vip = web.client.show("vhost", "show")["virtual_hosts"][0]["vip4"]

    def handler(peer):
        assert peer.head().startswith("CONNECT inside.example:7 HTTP/1.1\r\n")
        peer.send("HTTP/1.1 200 OK\r\n\r\n")
        assert peer.read(4) == b"ping"
        peer.send("pong")

    with web.origin(handler):
        peer = web.connect()
        peer.send("CONNECT inside.example:7 HTTP/1.1\r\nHost: inside.example:7\r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 200 ")
        peer.send("ping")
        assert peer.read(4) == b"pong"
        assert peer.rest() == b""


# --- what a peer can overdo ------------------------------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 1, 11
GET = b"\x82\x84\x86\x41\x08web.mesh"  # GET, /, http, :authority literal


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Frames:
    """A client that says what it likes."""

    def __init__(self, web, settings=b""):
        self.peer = web.connect()
        self.peer.send(PREFACE + frame(SETTINGS, payload=settings))

    @classmethod
    def on(cls, peer):
        frames = cls.__new__(cls)
        frames.peer = peer
        return frames

    def send(self, *frames):
        try:
            self.peer.send(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        return self

    def next(self):
        """(kind, flags, stream, payload), or None at the end."""
        try:
            if not self.peer.another():
                return None
            head = self.peer.read(9)
            return head[3], head[4], struct.unpack(">I", head[5:])[0], self.peer.read(int.from_bytes(head[:3], "big"))
        except (ConnectionResetError, AssertionError):
            return None

    def until(self, kind, stream=None):
        while True:
            found = self.next()
            assert found, f"the end before frame {kind}"
            if found[0] == kind and stream in (None, found[2]):
                return found

    def goaway(self):
        """The error code it ends with."""
        code = struct.unpack(">II", self.until(GOAWAY)[3][:8])[1]
        while self.next():
            pass
        return code


def silent_server(pod):
    with pod.enter():
        return socket.create_server(("0.0.0.0", PORT), backlog=4096)


FLOODS = {
    "settings": [frame(SETTINGS)] * 200,
    "ping": [frame(PING, payload=bytes(8))] * 20000,
    "empty": [frame(HEADERS, 4, 1, GET)] + [frame(DATA, 0, 1)] * 2000,
    "continuation": [frame(HEADERS, 0, 1, GET)] + [frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b")] * 100,
    "reset": [frame(HEADERS, 5, 2 * i + 1, GET) + frame(RST_STREAM, 0, 2 * i + 1, bytes(4)) for i in range(3000)],
    "headers": [frame(HEADERS, 4, 1, GET + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 300)],
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection(web1, kind):
    with contextlib.closing(silent_server(web1.server)):  # connections wait in its backlog
        frames = Frames(web1).send(*FLOODS[kind])
        assert frames.goaway() == ENHANCE_YOUR_CALM
    rows = [row for row in web1.client.show("stats", "show")["counters"] if "http2_floods" in row["name"]]
    assert [row["value"] for row in rows if kind in str(row)] == [1]
    # Others are served as before.
    with web1.origin(serve()):
        assert curl(web1, H2, "http://web.mesh/").stdout == "ok"


def test_an_id_that_was_passed_over(web1):
    """RFC 9113 5.1.1: opening stream 5 closes 1 and 3, which may not be opened any more."""
    with web1.origin(serve()):
        frames = Frames(web1).send(frame(HEADERS, 5, 5, GET))
        assert frames.until(HEADERS, 5)
        frames.send(frame(HEADERS, 5, 3, GET))
        assert frames.goaway() == PROTOCOL_ERROR


def test_a_header_section_that_is_too_large(web1):
    with web1.origin(serve()):
        field = b"\x00\x01a\x7f\xa1\x1f" + b"b" * 4128
        blocks = [field * 3] * 6
        frames = Frames(web1)
        frames.send(frame(HEADERS, 1, 1, GET), *[frame(CONTINUATION, 4 * (i == 5), 1, b) for i, b in enumerate(blocks)])
        assert b"431" in frames.until(HEADERS, 1)[3] or frames.until(DATA, 1)[3].startswith(b"the header section")


MALFORMED = {
    "upper case": b"\x00\x01A\x01b",
    "connection": b"\x00\x0aconnection\x05close",
    "transfer-encoding": b"\x00\x11transfer-encoding\x07chunked",
    "line break": b"\x00\x01a\x04b\r\nc",
    "nul": b"\x00\x01a\x03b\x00c",
    "another host": b"\x00\x04host\x05other",
    "second length": b"\x00\x0econtent-length\x010\x00\x0econtent-length\x010",
    "length without a body": b"\x00\x0econtent-length\x015",
    "late pseudo-field": b"\x00\x01a\x01b\x00\x05:path\x01/",
    "blank in the name": b"\x00\x03a b\x01c",
    "blank in front": b"\x00\x01a\x02 b",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_resets_its_stream_only(web1, name):
    seen = []
    with web1.origin(serve(seen=seen)):
        frames = Frames(web1).send(frame(HEADERS, 5, 1, GET + MALFORMED[name]))
        assert frames.until(RST_STREAM, 1)[3] == struct.pack(">I", PROTOCOL_ERROR)
        frames.send(frame(HEADERS, 5, 3, GET))
        assert frames.until(HEADERS, 3)
    assert len(seen) == 1


@pytest.mark.parametrize("path", [b"/a b", b"x", b"", b"/\r\nX: y", b"/#f"])
def test_a_path_that_http1_could_not_carry(web1, path):
    seen = []
    block = b"\x82\x86\x41\x08web.mesh\x04" + bytes([len(path)]) + path
    with web1.origin(serve(seen=seen)):
        assert Frames(web1).send(frame(HEADERS, 5, 1, block)).until(RST_STREAM, 1)[3] == struct.pack(">I", PROTOCOL_ERROR)
    assert seen == []


def test_a_reader_that_takes_nothing_is_let_go(mesh):
    """No credit for the response: after the idle time its stream is reset, and the endpoint is free."""
    web = http1_web(mesh, timeouts={"idle": "1s"})
    with web.origin(functools.partial(ignore_reset, serve(reply(b"x" * 2000000)))):
        frames = Frames(web, settings=struct.pack(">HI", 4, 1)).send(frame(HEADERS, 5, 1, GET))
        assert frames.until(RST_STREAM, 1)[3] == struct.pack(">I", ENHANCE_YOUR_CALM)
        assert web.client.counter("http2_streams_stalled_total") == 1


def test_a_header_block_that_does_not_end(mesh):
    web = http1_web(mesh, timeouts={"head": "1s"})
    with web.origin(serve(reply(b"ok"))):
        frames = Frames(web).send(frame(HEADERS, 5, 1, GET), frame(HEADERS, 1, 3, GET))
        assert frames.until(DATA, 1)[3] == b"ok"
        assert frames.goaway() == ENHANCE_YOUR_CALM


def test_too_many_streams_are_refused(web1):
    with contextlib.closing(silent_server(web1.server)):
        frames = Frames(web1)
        settings = frames.until(SETTINGS)
        assert struct.pack(">HI", 3, 128) in settings[3]
        frames.send(frame(SETTINGS, 1), *[frame(HEADERS, 5, 2 * i + 1, GET) for i in range(129)])
        assert frames.next() is not None
        # The one too many: a stream error or the end of the connection (RFC 9113 5.1.2).
        while (found := frames.next()) and found[0] not in (RST_STREAM, GOAWAY):
            pass
        assert found
        frames.peer.close()


# --- gRPC ------------------------------------------------------------------------------------------------------------

GRPC = GET[:-11] and b"\x83\x84\x86\x41\x08web.mesh\x5f\x10application/grpc\x40\x02te\x08trailers"


def test_an_answer_of_the_proxys_own_is_grpc_for_grpc(mesh):
    web = http1_web(mesh)  # nobody listens
    frames = Frames(web).send(frame(HEADERS, 5, 1, GRPC))
    assert frames.until(HEADERS, 1)[1] & 1  # trailers only
    wait_until(lambda: "protocol=grpc" in web.client.proxy.output(), what="the log")
    assert "status=200" in web.client.said()
    assert "grpc_status=14" in web.client.said()


def test_the_callers_deadline(mesh):
    web = http1_web(mesh)

    def silent(peer):
        try:
            while peer._more():
                pass
        except OSError:
            pass

    with web.origin(silent):
        block = GRPC + b"\x40\x0cgrpc-timeout\x04100m"
        frames = Frames(web).send(frame(HEADERS, 5, 1, block))
        assert frames.until(HEADERS, 1)[1] & 1
        wait_until(lambda: "grpc_status=4" in web.client.proxy.output(), what="the log")
        assert web.client.counter("grpc_responses_total") == 1


def test_a_deadline_in_the_middle_of_a_response(mesh):
    """What was sent stays; trailers say that the deadline is over."""
    web = http1_web(mesh)

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        ignore_reset(lambda it: it.rest(), peer)

    with web.origin(handler):
        frames = Frames(web).send(frame(HEADERS, 5, 1, GRPC + b"\x40\x0cgrpc-timeout\x021S"))
        assert not frames.until(HEADERS, 1)[1] & 1
        assert frames.until(DATA, 1)[3] == b"hello"
        assert frames.until(HEADERS, 1)[1] & 1
        wait_until(lambda: "grpc_status=4" in web.client.proxy.output(), what="the log")


# --- other servers ---------------------------------------------------------------------------------------------------


def test_haproxy_as_an_endpoint_of_http2(mesh):
    server = mesh.network.pod("server")
    config = mesh.network.folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout client 10s\n  timeout server 10s\n  timeout connect 5s\n"
        f"frontend f\n  bind 0.0.0.0:{PORT} proto h2\n  http-request return status 200 content-type text/plain string haproxy\n"
    )
    server.start(["haproxy", "-f", str(config)], ready=listening(PORT))
    client = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:{PORT}"], protocol="http2")],
    )
    for version in (H2, "--http1.1"):
        assert client.pod.run(["curl", "-s", "-S", version, "http://web.mesh/"]).stdout == "haproxy"
    done = client.pod.run(["h2load", "-n", "2000", "-c", "4", "-m", "20", "http://web.mesh/"], timeout=60)
    assert "2000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
