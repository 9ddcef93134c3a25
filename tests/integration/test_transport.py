# SPDX-License-Identifier: Apache-2.0
"""`transport: h2` between two sidecars: what the applications say rides in streams on few connections of mutual TLS."""

import contextlib
import os
import signal
import socket
import ssl
import struct
import threading

import pytest

from h2frames import Client, Server, get
from mesh import Mesh, Origin, cluster, connect, resident_kib, service
from netns import listening, readable, wait_until
from test_http2 import nghttpd
from test_tcp import send_until_nobody_reads
from test_tls import fields, log_lines, vip
from web import serve

PORT = 9000
MIB = 1 << 20


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """Two pods with a proxy each: app.mesh:80 is port 9000 of the server."""

    def __init__(self, mesh, mode="strict", port=PORT, family=4, protocol="auto", timeouts=None, **keys):
        log = {"access": True, "level": "debug"}
        self.mesh, self.port = mesh, port
        self.server = mesh.sidecar("server", tls=mode, log=log)
        self.own = f"{self.server.ipv4}:{port}" if family == 4 else f"[{self.server.ipv6}]:{port}"
        keys = {"tls": "mesh", "transport": "h2", **keys}
        self.client = mesh.sidecar(
            "client", tls="strict", log=log,
            services=[service("app.mesh", 80, "app", protocol=protocol)],
            clusters=[cluster("app", [self.own], **keys)], **({"timeouts": timeouts} if timeouts else {}),
        )  # fmt: skip
        self.vip = vip(self.client, "app.mesh")

    def connect(self):
        return connect(self.client.pod, self.vip, 80)

    def origin(self, handler, **options):
        return Origin(self.server.pod, self.port, handler, **options)

    def curl(self, *words, **options):
        return self.client.pod.run(["curl", "-sS", "--max-time", "30", *words], timeout=60, **options).stdout

    def requests(self, sidecar, **wanted):
        """The lines of the access log, when there is one such."""
        def found():
            rows = [fields(line) for line in log_lines(sidecar, "msg=request ")]
            return [row for row in rows if all(row[key] == value for key, value in wanted.items())]

        return wait_until(found)

    def carriers(self):
        """Connections of mutual TLS that came to the server's proxy."""
        return self.server.counter("tls_handshakes_total")


@pytest.fixture
def site(mesh):
    return Site(mesh)


def ignoring_resets(handler):
    def inner(peer):
        with contextlib.suppress(ConnectionResetError):
            handler(peer)

    return inner


def echo_to_the_end(peer):
    """Answers all of it, once the client's half is over."""
    peer.send(peer.rest())


def spoken_to(handler):
    """For protocols in which the client speaks first: a probe that was begun for a client that took its time just ends."""

    def inner(peer):
        if peer.another():
            handler(peer)

    return inner


# --- TCP -------------------------------------------------------------------------------------------------------------
def test_tcp_both_ways_and_who_it_was(site):
    def handler(peer):
        assert peer.read(5) == b"\0ping"
        peer.send(b"\0pong")
        assert peer.rest() == b"more"
        peer.send(b"after the end")

    with site.origin(handler):
        peer = site.connect().send(b"\0ping")
        assert peer.read(5) == b"\0pong"
        (row,) = site.client.connections(state="tunnel")
        assert (row["transport"], row["protocol"], row["cluster"]) == ("h2", "tcp", "app")
        assert row["upstream_tls"]["peer"] == "spiffe://mesh/ns/test/sa/server"
        (far,) = site.server.connections()
        assert (far["transport"], far["tls"]["peer"]) == ("h2", "spiffe://mesh/ns/test/sa/client")
        assert peer.send(b"more").end().rest() == b"after the end"
        peer.close()
    for sidecar in (site.client, site.server):
        (line,) = site.requests(sidecar, method="CONNECT")
        assert (line["protocol"], line["transport"], line["status"], line["flag"]) == ("tcp", "h2", "200", "-")
        assert line["authority"] == f"{site.server.ipv4}:{PORT}"
        assert (line["request_bytes"], line["response_bytes"]) == ("9", "18")


def test_a_reset_behind_what_nobody_reads(site):
    done = threading.Event()

    def handler(peer):
        peer.send(b"x")
        done.wait(30)
        with contextlib.suppress(ConnectionResetError):
            peer.rest()

    with site.origin(handler):
        peer = site.connect().send(b"\0")
        peer.read(1)
        send_until_nobody_reads(peer)
        peer.reset()
        wait_until(lambda: not site.client.connections(), what="the end at the client's proxy")
        wait_until(lambda: not site.server.show("conn", "show", "--streams")["streams"], what="the end of the stream")
        done.set()


def test_redis(mesh):
    site = Site(mesh, port=6379)
    site.server.pod.start(
        ["redis-server", "--port", "6379", "--protected-mode", "no", "--save", ""], ready=listening(6379)
    )
    done = site.client.pod.run(["redis-cli", "-h", site.vip, "-p", "80", "ping"])
    assert done.stdout == "PONG\n"


def test_ipv6(mesh):
    site = Site(mesh, family=6)
    with site.origin(echo_to_the_end, address="::"):
        peer = site.connect().send(b"\0six").end()
        assert peer.rest() == b"\0six"
        peer.close()
    assert site.requests(site.server, authority=site.own, protocol="tcp", status="200")


def test_nobody_says_anything_for_long(mesh):
    """The near end's idle time holds for both."""
    site, ended = Site(mesh, timeouts={"idle": "1s"}), []

    def handler(peer):
        assert peer.read(2) == b"\0x"
        with contextlib.suppress(ConnectionResetError):
            peer.rest()
        ended.append(True)

    with site.origin(handler):
        peer = site.connect().send(b"\0x")
        with contextlib.suppress(ConnectionResetError):
            assert peer.rest() == b""
        wait_until(lambda: ended)
        peer.close()


def test_the_server_speaks_first(site):
    def handler(peer):
        peer.send("220 welcome\r\n")
        assert peer.until("\r\n") == b"QUIT\r\n"
        peer.send("221 bye\r\n")

    with site.origin(handler) as origin:
        peer = site.connect()
        assert peer.until("\r\n") == b"220 welcome\r\n"
        assert peer.send("QUIT\r\n").rest() == b"221 bye\r\n"
        peer.close()
        assert origin.accepted == 1
    assert site.requests(site.client, protocol="tcp", flag="-")


def test_the_server_speaks_first_and_closes_first(site):
    """Its half-close leaves the client's half open."""
    got = []

    def handler(peer):
        peer.send("greeting").end()
        got.append(peer.rest())

    with site.origin(handler):
        peer = site.connect()
        assert peer.rest() == b"greeting"
        peer.send(b"x" * 1000000).end()
        wait_until(lambda: got)
        peer.close()
    assert got == [b"x" * 1000000]


def test_a_client_that_takes_its_time_to_speak_http2(site):
    """The SETTINGS that its server sends at once do not make TCP of it."""

    def handler(peer):
        with contextlib.suppress(ConnectionResetError):  # nobody needs the probe's connection
            server = Server(peer.sock)
            while stream := server.whole():
                server.respond(stream)

    with site.origin(handler) as origin:
        peer = site.connect()
        wait_until(lambda: origin.accepted == 1)
        for sidecar in (site.server, site.client, site.server, site.client):
            sidecar.catch_up()
        client = Client(peer.sock)
        assert client.ask(get("/")).body == b"ok"
        assert site.client.connections(protocol="http2")
        assert site.requests(site.client, protocol="http2", path="/")
        client.close()


def test_a_greeting_that_begins_like_settings(site):
    """And goes on otherwise."""
    one_came = threading.Event()

    def handler(peer):
        peer.send(b"\0")
        assert one_came.wait(30)
        peer.send(b"hello")
        peer.rest()

    with site.origin(handler) as origin:
        peer = site.connect()
        wait_until(lambda: origin.accepted == 1)
        for sidecar in (site.server, site.client, site.server, site.client):
            sidecar.catch_up()
        one_came.set()
        assert peer.read(6) == b"\0hello"
        peer.close()


def test_a_client_that_takes_its_time_to_speak_http(site):
    """The probe that was begun for a silent client is dropped without a word: its connection just ends."""
    probes, seen = [], []

    def handler(peer):
        if not peer.another():
            probes.append(True)
            return
        serve(seen=seen)(peer)

    with site.origin(handler) as origin:
        peer = site.connect()
        wait_until(lambda: origin.accepted == 1)
        peer.send("GET /slow HTTP/1.1\r\nHost: app.mesh\r\n\r\n")
        assert peer.response()[2] == b"ok"
        wait_until(lambda: probes)
        peer.close()
    assert seen[0].startswith("GET /slow HTTP/1.1\r\n")
    assert len(site.requests(site.client, status="200")) == 1
    assert not [line for line in log_lines(site.client, "msg=request ") if "CONNECT" in line]


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_carried(site, who):
    failed = []

    def handler(peer):
        assert peer.read(5) == b"\0ping"
        peer.send(b"\0pong")
        if who == "server":
            assert peer.read(1) == b"x"
            peer.reset()
            return
        try:
            peer.rest()
        except ConnectionResetError as error:
            failed.append(error)

    with site.origin(handler):
        peer = site.connect().send(b"\0ping")
        assert peer.read(5) == b"\0pong"
        if who == "client":
            peer.reset()
            wait_until(lambda: failed)
        else:
            peer.send(b"x")
            with pytest.raises(ConnectionResetError):
                peer.rest()
            peer.close()
    assert site.requests(site.client, method="CONNECT")


def test_an_application_that_is_not_there(site):
    peer = site.connect().send(b"\0ping")
    with pytest.raises(ConnectionResetError):
        peer.rest()
    assert site.requests(site.client, status="503", protocol="tcp")
    assert site.requests(site.server, status="503", flag="UF", protocol="tcp")


def test_64_mib_at_flat_memory(site):
    """Up and down at the same time, to an application and to a client that both read late."""
    sent, begin = bytes(range(256)) * (MIB // 256), threading.Event()

    def handler(peer):
        writer = threading.Thread(target=lambda: [peer.send(sent) for _ in range(64)] and peer.end(), daemon=True)
        assert peer.read(6) == b"\0begin"
        writer.start()
        begin.wait(60)
        for _ in range(64):
            assert peer.read(MIB) == sent
        writer.join(60)
        assert peer.rest() == b""

    with site.origin(handler):
        peer = site.connect().send(b"\0begin")
        peer.sock.settimeout(60)
        before = [resident_kib(sidecar.proxy.pid) for sidecar in (site.client, site.server)]
        writer = threading.Thread(target=lambda: [peer.send(sent) for _ in range(64)] and peer.end(), daemon=True)
        writer.start()
        begin.set()
        for _ in range(64):
            assert peer.read(MIB) == sent
            for sidecar, was in zip((site.client, site.server), before):
                assert resident_kib(sidecar.proxy.pid) < was + 16 * 1024
        writer.join(60)
        assert peer.rest() == b""
        peer.close()


def test_many_streams_on_few_connections(site):
    """200 connections of clients at the same time; 128 streams a connection."""
    with site.origin(ignoring_resets(echo_to_the_end)) as origin:
        peers = [site.connect().send(b"\0%d" % i) for i in range(200)]
        wait_until(lambda: origin.accepted == 200)
        assert site.carriers() <= 4
        for i, peer in enumerate(peers):
            assert peer.end().rest() == b"\0%d" % i
            peer.close()
    assert site.carriers() <= 4


def test_an_applications_own_tls(mesh):
    """It passes inside, unread."""
    site = Site(mesh)
    files = mesh.certificate("inner")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["certificate"], files["private_key"])

    def handler(peer):
        with context.wrap_socket(peer.sock, server_side=True, do_handshake_on_connect=True) as inner:
            inner.sendall(inner.recv(100)[::-1])

    with site.origin(handler):
        outer = ssl.create_default_context(cafile=files["trust"])
        outer.check_hostname = False
        peer = site.connect()
        with outer.wrap_socket(peer.sock) as inner:
            inner.sendall(b"abc")
            assert inner.recv(100) == b"cba"
    assert site.requests(site.client, protocol="tls", transport="h2")


# --- HTTP ------------------------------------------------------------------------------------------------------------
def test_http1_arrives_as_http1(site):
    seen = []
    with site.origin(serve(seen=seen)):
        for _ in range(3):
            assert site.curl("-H", "weir-protocol: tcp", "http://app.mesh/a?b=c") == "ok"
        assert site.carriers() == 1
    assert seen[0].startswith("GET /a?b=c HTTP/1.1\r\n")
    assert "host: app.mesh\r\n" in seen[0].lower() and "weir-protocol" not in seen[0].lower()
    for sidecar in (site.client, site.server):
        lines = site.requests(sidecar, protocol="http1", transport="h2", path="/a?b=c", status="200")
        assert len(lines) == 3


def test_http1_chunks_and_trailers(site):
    got = []

    def handler(peer):
        head = peer.head()
        body = b""
        while size := int(peer.until(b"\r\n"), 16):
            body += peer.read(size)
            peer.read(2)
        got.append((head.lower(), body, peer.until(b"\r\n\r\n")))
        peer.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
            "3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
        )
        peer.rest()

    with site.origin(spoken_to(handler)):
        peer = site.connect().send(
            "POST / HTTP/1.1\r\nHost: app.mesh\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
            "2\r\nhi\r\n0\r\nX-Check: 7\r\n\r\n"
        )
        head = peer.head()
        assert "transfer-encoding: chunked" in head.lower()
        rest = peer.until(b"0\r\n") + peer.until(b"\r\n\r\n")
        assert b"abc" in rest and b"x-sum: 6\r\n" in rest.lower()
        peer.close()
    ((head, body, trailers),) = got
    assert "transfer-encoding: chunked" in head and body == b"hi" and b"x-check: 7" in trailers.lower()


@pytest.mark.parametrize("at_once", [False, True])
def test_websocket(site, at_once):
    """At once: the far proxy hears of the client's last bytes and of the application's end in the same turn."""
    end = threading.Event()

    def handler(peer):
        head = peer.head()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = site.client.pod.run(
            ["sh", "-c", f"printf %s {key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl sha1 -binary | openssl base64"]
        ).stdout.strip()
        assert head.startswith("GET /ws HTTP/1.1\r\n") and "upgrade: websocket" in head.lower()
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        peer.send(f"Sec-WebSocket-Accept: {accept}\r\n\r\nhello")
        assert peer.read(5) == b"howdy"
        peer.send(b"bye")
        end.wait(30)
        assert peer.end().rest() == b"late"

    with site.origin(spoken_to(handler)):
        peer = site.connect().send(
            "GET /ws HTTP/1.1\r\nHost: app.mesh\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = peer.head()
        assert head.startswith("HTTP/1.1 101 ") and "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert peer.read(5) == b"hello"
        assert peer.send(b"howdy").read(3) == b"bye"
        if at_once:
            (row,) = site.client.connections()
            with site.server.frozen():
                peer.send(b"late").end()
                wait_until(lambda: site.client.connections(received=row["received"] + 4))
                assert site.client.connections()  # asked once more: the turn in which it was passed on is over
                end.set()
                wait_until(lambda: "FIN-WAIT-2" in site.server.pod.run(["ss", "-tan"]).stdout)
        else:
            end.set()
            assert peer.rest() == b""
            peer.send(b"late").end()
        assert peer.rest() == b""
        peer.close()


def test_http2_arrives_as_http2(mesh):
    site = Site(mesh)
    folder = mesh.network.folder / "www"
    server = nghttpd(site.server.pod, folder, "--trailer", "x-sum: 6", port=PORT)
    (folder / "small").write_bytes(b"x" * 1024)
    done = site.client.pod.run(
        ["h2load", "-n", "2000", "-c", "4", "-m", "25", f"http://{site.vip}/small"], timeout=60
    )
    assert "2000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
    assert site.carriers() <= 4
    done = site.client.pod.run(["nghttp", "-v", f"http://{site.vip}/small"])
    assert "x-sum: 6" in done.stdout  # as gRPC sends its status
    assert site.requests(site.server, protocol="http2", transport="h2", status="200")
    server.stop()


def test_a_request_that_is_cancelled(site):
    """The client goes; the application's connection ends."""
    ended = []

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        with contextlib.suppress(ConnectionResetError):
            peer.rest()
        ended.append(True)

    with site.origin(spoken_to(handler)):
        peer = site.connect().send("GET / HTTP/1.1\r\nHost: app.mesh\r\n\r\n")
        peer.until(b"part")
        peer.reset()
        wait_until(lambda: ended)


# --- who may, and what goes wrong ------------------------------------------------------------------------------------
def test_a_peer_that_does_not_take_it(mesh):
    """An application of its own TLS behind it, or an older sidecar: a clear error, and nothing else is tried."""
    site = Site(mesh, mode="off")
    files = mesh.certificate("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["certificate"], files["private_key"])
    context.set_alpn_protocols(["weir/1", "h2"])
    read = []

    def handler(peer):
        with contextlib.suppress(OSError), context.wrap_socket(peer.sock, server_side=True) as inner:
            read.append(inner.recv(100))

    with site.origin(handler):
        body = site.curl("-w", "%{http_code}", "http://app.mesh/")
        assert body == "the upstream could not be reached\n503"
    assert log_lines(site.client, 'msg="the peer does not take')
    assert site.requests(site.client, status="503", flag="UF")
    assert site.client.counter("transport_refused_total") >= 1
    assert not any(read)


class Raw:
    """A mesh peer that speaks the transport by hand."""

    def __init__(self, site, name="client"):
        h2 = pytest.importorskip("h2.connection")
        config = __import__("h2.config").config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        files = site.mesh.certificate(name)
        self.tls = ssl.create_default_context(cafile=files["trust"])
        self.tls.check_hostname = False
        self.tls.load_cert_chain(files["certificate"], files["private_key"])
        self.tls.set_alpn_protocols(["weir-h2", "weir/1"])
        self.sock = self.tls.wrap_socket(connect(site.mesh.network.pod("other"), site.server.ipv4, PORT).sock)
        self.h2 = h2.H2Connection(config)
        self.h2.initiate_connection()
        self.events = []

    def ask(self, stream, fields):
        self.h2.send_headers(stream, fields)
        self.sock.sendall(self.h2.data_to_send())

    def status(self, stream):
        while True:
            for event in self.h2.receive_data(self.sock.recv(65536)):
                if type(event).__name__ == "ResponseReceived" and event.stream_id == stream:
                    return int(dict(event.headers)[b":status"])
            self.sock.sendall(self.h2.data_to_send())


def test_what_the_far_end_refuses(site):
    """Never an open relay: only its own application, only what says what it is."""
    with site.origin(ignoring_resets(echo_to_the_end)) as origin:
        raw = Raw(site)
        assert raw.sock.selected_alpn_protocol() == "weir-h2"
        own = f"{site.server.ipv4}:{PORT}"
        refused = [
            [(":authority", f"{site.server.ipv4}:22"), ("weir-protocol", "tcp")],
            [(":authority", "10.77.0.1:53"), ("weir-protocol", "tcp")],
            [(":authority", "localhost:9000"), ("weir-protocol", "tls")],
            [(":authority", own)],
            [(":authority", own), ("weir-protocol", "smtp")],
            [(":authority", own), ("weir-protocol", "tcp"), ("weir-protocol", "tcp")],
        ]
        for at, fields_ in enumerate(refused):
            raw.ask(2 * at + 1, [(":method", "CONNECT"), *fields_])
            assert raw.status(2 * at + 1) == 403, fields_
        assert origin.accepted == 0
        raw.ask(101, [(":method", "CONNECT"), (":authority", own), ("weir-protocol", "tcp")])
        assert raw.status(101) == 200
        raw.sock.close()


@pytest.mark.parametrize("end", ["closed", "reset"])
def test_the_rest_of_a_tunnel_outlives_its_stream(site, end):
    """Both halves are over and the near end is gone, but the application has not taken all of it yet. What a reset cuts
    off is not delivered; nothing touches a connection that is no more."""
    read, taken = threading.Event(), []

    def handler(peer):
        peer.end()
        read.wait(30)
        taken.append(len(peer.rest()))

    with site.origin(ignoring_resets(handler)):
        raw = Raw(site)
        raw.ask(1, [(":method", "CONNECT"), (":authority", f"{site.server.ipv4}:{PORT}"), ("weir-protocol", "tcp")])
        assert raw.status(1) == 200
        sent = 0
        while size := min(raw.h2.local_flow_control_window(1), 16384) or readable(raw.sock, 1) and -1:
            if size > 0:
                raw.h2.send_data(1, bytes(size))
                raw.sock.sendall(raw.h2.data_to_send())
                sent += size
            else:
                raw.h2.receive_data(raw.sock.recv(65536))
        raw.h2.end_stream(1)
        raw.sock.sendall(raw.h2.data_to_send())
        wait_until(lambda: site.server.connections(streams=0), what="both halves are over")
        if end == "closed":
            raw.sock.settimeout(0)
            with contextlib.suppress(ssl.SSLWantReadError):
                raw.sock.unwrap()
        else:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sock.close()
            assert site.requests(site.server, method="CONNECT", flag="DC")
        read.set()
        if end == "closed":
            assert site.requests(site.server, method="CONNECT", flag="-", request_bytes=str(sent))
            wait_until(lambda: taken == [sent])
        wait_until(lambda: not site.server.connections())


def test_a_tunnel_whose_end_waits_for_credit(site):
    """The application and the near end are done with it before the last of it could be sent: it ends all the same."""
    taken = []

    def handler(peer):
        peer.send(b"x" * 100).end()
        taken.append(peer.rest())

    with site.origin(handler):
        raw = Raw(site)
        raw.h2.update_settings({4: 0})  # INITIAL_WINDOW_SIZE
        raw.ask(1, [(":method", "CONNECT"), (":authority", f"{site.server.ipv4}:{PORT}"), ("weir-protocol", "tcp")])
        assert raw.status(1) == 200
        raw.h2.end_stream(1)
        raw.sock.sendall(raw.h2.data_to_send())
        wait_until(lambda: taken == [b""])
        raw.h2.increment_flow_control_window(100, 1)
        raw.sock.sendall(raw.h2.data_to_send())
        assert site.requests(site.server, method="CONNECT", flag="-", response_bytes="100")
        raw.sock.close()


def test_who_is_not_allowed(mesh):
    site = Site(mesh)
    config = dict(site.client.config)
    config["clusters"] = [{**config["clusters"][0], "tls_allow": ["spiffe://mesh/ns/test/sa/other"]}]
    site.client.reload(config)
    with site.origin(serve()):
        assert site.curl("-o", "/dev/null", "-w", "%{http_code}", "http://app.mesh/") == "503"


def test_it_requires_mesh_tls(mesh):
    site = Site(mesh)
    config = dict(site.client.config)
    config["clusters"] = [{**config["clusters"][0], "tls": "off"}]
    site.client.write(config)
    done = site.client.weir("config", "check", str(site.client.config_path), check=False)
    assert done.returncode == 1
    assert '"transport: h2" requires "tls: mesh"' in done.stdout + done.stderr


def test_a_share_of_nothing_is_plaintext(mesh):
    site = Site(mesh, mode="permissive", tls_percent=0)
    seen = []
    with site.origin(serve(seen=seen)):
        assert site.curl("http://app.mesh/") == "ok"
    with site.origin(echo_to_the_end):
        assert site.connect().send(b"\0x").end().rest() == b"\0x"
    assert site.server.counter("tls_handshakes_total") == 0


def test_peers_without_it_are_not_affected(mesh):
    """The same server, permissive: mutual TLS without the transport, and plaintext."""
    site = Site(mesh, mode="permissive", transport="direct")
    other = mesh.network.pod("plain")
    with site.origin(serve()):
        assert site.curl("http://app.mesh/") == "ok"
        assert other.run(["curl", "-sS", f"http://{site.server.ipv4}:{PORT}/"]).stdout == "ok"
    assert site.requests(site.server, transport="-", status="200")


def test_the_far_proxy_drains(site):
    """Streams under way end in their own time; a probe for a new one is refused, not lost."""
    with site.origin(ignoring_resets(echo_to_the_end)) as origin:
        peer = site.connect().send(b"\0begin")
        wait_until(lambda: origin.accepted == 1)
        os.kill(site.server.proxy.pid, signal.SIGTERM)
        wait_until(lambda: log_lines(site.server, "msg=draining"))
        assert peer.send(b"end").end().rest() == b"\0beginend"
        peer.close()
        site.server.proxy.wait()
    site.server.start()
    with site.origin(ignoring_resets(echo_to_the_end)):
        peer = site.connect().send(b"\0again").end()
        assert peer.rest() == b"\0again"
        peer.close()


def test_the_far_proxy_dies(site):
    """With streams open: each client hears of it."""
    with site.origin(ignoring_resets(echo_to_the_end)) as origin:
        peers = [site.connect().send(b"\0x") for _ in range(3)]
        wait_until(lambda: origin.accepted == 3)
        os.kill(site.server.proxy.pid, signal.SIGKILL)
        for peer in peers:
            with pytest.raises(ConnectionResetError):
                peer.rest()
            peer.close()
