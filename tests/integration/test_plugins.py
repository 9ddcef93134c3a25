# SPDX-License-Identifier: Apache-2.0
"""Protocols from shared objects, built against the installed header alone: the examples of docs/add-a-protocol.md, and
plug-ins that are wrong."""

import contextlib
import os
import pathlib
import signal
import struct
import subprocess

import pytest

from mesh import Mesh, Origin, Peer, cluster, connect, resident_kib, service
from netns import wait_until

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "plugins"
PORT = 13000
HEARTBEAT, MESSAGE, GOAWAY = 0, 1, 2


@pytest.fixture(scope="module")
def prefix(build_dir, tmp_path_factory):
    """What is installed."""
    path = tmp_path_factory.mktemp("prefix")
    words = ["cmake", "--install", build_dir, "--prefix", path]
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def examples(prefix, tmp_path_factory):
    """The example plug-ins, as their CMakeLists.txt says they are built."""
    build = tmp_path_factory.mktemp("plugins")
    for words in (
        ["cmake", "-G", "Ninja", "-S", SOURCES, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", build],
    ):
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    return build


@pytest.fixture(scope="module")
def compiled(prefix, tmp_path_factory):
    """compiled(source, *options): a shared object."""
    folder = tmp_path_factory.mktemp("objects")

    def build(source, *options):
        out = folder / f"{source}{'_'.join(options).replace('-', '').replace('=', '')}.so"
        if not out.exists():
            words = ["cc", "-shared", "-fPIC", f"-I{prefix / 'include'}", *options, "-o", out, SOURCES / f"{source}.c"]
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
        return out

    return build


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Site:
    """A client pod with a proxy that has the plug-in, and a server pod without one: x.mesh:13000 is its port."""

    def __init__(self, mesh, plugin, protocol, **config):
        self.server = mesh.network.pod("server")
        config.setdefault("services", [service("x.mesh", PORT, "x", protocol=protocol)])
        config.setdefault("clusters", [cluster("x", [f"{self.server.ipv4}:{PORT}"])])
        config.setdefault("log", {"access": True})
        self.client = mesh.sidecar("client", plugins=[{"path": str(plugin)}], **config)
        self.vip = next(row["vip4"] for row in self.client.show("vhost", "show")["virtual_hosts"] if row["vip4"])

    def connect(self):
        return connect(self.client.pod, self.vip, PORT)

    def log(self, words):
        return [line for line in self.client.proxy.output().splitlines() if words in line]


def test_the_header_stands_alone(prefix, tmp_path):
    """In plain C99, without a word of the compiler's own."""
    source = tmp_path / "alone.c"
    source.write_text("#include <weir_plugin.h>\nint x = WEIR_PLUGIN_ABI;\n")
    words = ["cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{prefix / 'include'}", "-c", source]
    subprocess.run([*words, "-o", tmp_path / "alone.o"], check=True)


# --- framed -----------------------------------------------------------------------------------------------------------


def request(number, payload, kind=MESSAGE):
    payload = payload.encode()
    return b"x" + struct.pack(">BBII", kind, 0, number, len(payload)) + payload


def response(number, payload, status=0, kind=MESSAGE):
    payload = payload.encode()
    return b"x" + struct.pack(">BBIHI", kind, 1, number, status, len(payload)) + payload


def read_request(peer):
    """(kind, id, payload)"""
    mark, kind, direction, number, length = struct.unpack(">cBBII", peer.read(11))
    assert (mark, direction) == (b"x", 0)
    return kind, number, peer.read(length).decode()


def read_response(peer):
    """(kind, id, status, payload)"""
    mark, kind, direction, number, status, length = struct.unpack(">cBBIHI", peer.read(13))
    assert (mark, direction) == (b"x", 1)
    return kind, number, status, peer.read(length).decode()


def echo(peer):
    while peer.another():
        kind, number, payload = read_request(peer)
        if kind != GOAWAY:
            peer.send(response(number, payload, kind=kind))


def test_calls_are_multiplexed(mesh, examples):
    site = Site(mesh, examples / "x_example.so", "x-example")
    with Origin(site.server, PORT, echo) as origin:
        peers = [site.connect() for _ in range(3)]
        for peer in peers:
            for number in (1, 7, 0xFFFFFFFF):
                peer.send(request(number, f"shop/buy {number}"))
        for peer in peers:
            answers = sorted(read_response(peer) for _ in range(3))
            assert answers == [(MESSAGE, number, 0, f"shop/buy {number}") for number in (1, 7, 0xFFFFFFFF)]
        assert origin.accepted == 1
        row = site.client.connections(protocol="x-example")[0]
        assert (row["service"], row["method"]) == ("shop", "buy")
        wait_until(lambda: len(site.log("protocol=x-example")) == 9)
        line = site.log("protocol=x-example")[0]
        assert "service=shop" in line and "method=buy" in line and "http_status=200" in line


def test_it_is_detected(mesh, examples):
    site = Site(mesh, examples / "x_example.so", "auto")
    with Origin(site.server, PORT, echo):
        peer = site.connect().send(request(5, "shop/buy"))
        assert read_response(peer) == (MESSAGE, 5, 0, "shop/buy")
        assert site.client.connections(protocol="x-example")


def test_routes_by_method_and_field(mesh, examples):
    def answering(text):
        def handler(peer):
            while peer.another():
                peer.send(response(read_request(peer)[1], text))

        return handler

    server = mesh.network.pod("other")
    routes = [
        {"match": {"headers": [{"name": "path", "prefix": "shop/s"}]}, "to": [{"cluster": "sales"}]},
        {"match": {"path": "/shop/buy"}, "to": [{"cluster": "buys"}]},
        {"match": {"method": "count"}, "to": [{"cluster": "buys"}]},
    ]
    site = Site(
        mesh,
        examples / "x_example.so",
        "x-example",
        services=[service("x.mesh", PORT, routes=routes, protocol="x-example")],
        clusters=[cluster("sales", [f"{server.ipv4}:7001"]), cluster("buys", [f"{server.ipv4}:7002"])],
    )
    with Origin(server, 7001, answering("sales")), Origin(server, 7002, answering("buys")):
        peer = site.connect()
        for number, (payload, expected) in enumerate(
            [
                ("shop/sell 1", (0, "sales")),
                ("shop/buy 1", (0, "buys")),
                ("any/count", (0, "buys")),
                ("shop/none", (1, "no route matches this call")),
            ]
        ):
            peer.send(request(number, payload))
            assert read_response(peer) == (MESSAGE, number, *expected)


def test_failures_are_answered(mesh, examples):
    site = Site(mesh, examples / "x_example.so", "x-example")
    peer = site.connect().send(request(9, "shop/buy"))
    assert read_response(peer) == (MESSAGE, 9, 1, "no endpoint could be reached")
    with Origin(site.server, PORT, lambda peer: read_request(peer)):
        peer.send(request(10, "shop/buy"))
        assert read_response(peer) == (MESSAGE, 10, 1, "the connection to the endpoint was lost")
    peer.send(b"y")
    assert peer.rest() == b""


@pytest.mark.parametrize("payload", ["", "b" * (512 - 13)], ids=["short", "long"])
def test_heartbeats(mesh, examples, compiled, payload):
    """The client's are answered by the proxy; the endpoint gets the proxy's own. They may have all the room there is."""
    beats, plugin, protocol = [], examples / "x_example.so", "x-example"
    if payload:
        plugin, protocol = compiled("crooked", f"-DHEARTBEAT_BYTES={len(payload)}"), "crooked"

    def handler(peer):
        while peer.another():
            kind, number, said = read_request(peer)
            beats.extend([said] if kind == HEARTBEAT else [])
            peer.send(response(number, said, kind=kind))

    site = Site(mesh, plugin, protocol, timeouts={"heartbeat": "500ms"})
    peer = site.connect().send(request(77, "", HEARTBEAT))
    assert read_response(peer) == (HEARTBEAT, 77, 0, payload)
    with Origin(site.server, PORT, handler):
        peer.send(request(1, "shop/buy"))
        assert read_response(peer) == (MESSAGE, 1, 0, "shop/buy")
        wait_until(lambda: len(beats) > 1)
        assert set(beats) == {payload}


@pytest.mark.parametrize("transport", ["direct", "h2"])
def test_between_two_proxies(mesh, examples, transport):
    """Over mutual TLS, with the plug-in on both sides; what is in order keeps connections of its own."""
    plugins = [{"path": str(examples / f"{name}.so")} for name in ("x_example", "line_example")]
    server = mesh.sidecar("server", tls="strict", plugins=plugins, log={"access": True})
    client = mesh.sidecar(
        "client",
        tls="strict",
        plugins=plugins,
        services=[service("x.mesh", PORT, "x"), service("lines.mesh", PORT + 1, "lines")],
        clusters=[
            cluster(name, [f"{server.ipv4}:{port}"], tls="mesh", transport=transport)
            for name, port in (("x", PORT), ("lines", PORT + 1))
        ],
    )
    vips = {row["name"]: row["vip4"] for row in client.show("vhost", "show")["virtual_hosts"]}
    with Origin(server.pod, PORT, echo), Origin(server.pod, PORT + 1, Store()):
        peer = connect(client.pod, next(vip for name, vip in vips.items() if name.startswith("x.mesh")), PORT)
        for number in (1, 2):
            peer.send(request(number, "shop/buy"))
            assert read_response(peer) == (MESSAGE, number, 0, "shop/buy")
        lines = connect(client.pod, next(vip for name, vip in vips.items() if name.startswith("lines")), PORT + 1)
        lines.send(b"PUT a 5\r\nhello\r\nGET a\r\n")
        assert [answer(lines), answer(lines)] == ["OK", ("VALUE 5", b"hello")]
        for protocol in ("x-example", "line-example"):
            wait_until(lambda: f"direction=inbound peer={client.ipv4}" in server.proxy.output())
            assert [
                line
                for line in server.proxy.output().splitlines()
                if f"protocol={protocol}" in line and "tls=TLSv1.3" in line and "sa/client" in line
                and ("transport=h2" in line) == (transport == "h2" and protocol == "x-example")
            ]
        if transport == "h2":
            server.reload({**server.config, "plugins": []})
            peer.send(request(3, "shop/buy"))
            assert read_response(peer)[:3] == (MESSAGE, 3, 1)
            wait_until(lambda: [line for line in server.proxy.output().splitlines() if "status=403 flag=DPE" in line])


# --- streamed ---------------------------------------------------------------------------------------------------------


def until_reset(handler):
    """The same handler for a peer that may be cut off."""

    def run(peer):
        with contextlib.suppress(ConnectionResetError):
            handler(peer)

    return run


def body(peer, length):
    data = peer.read(int(length) + 2)
    assert data.endswith(b"\r\n")
    return data[:-2]


class Store:
    """A server of lines; `requests` are those it has seen, `notes` the keys of NOTE."""

    def __init__(self):
        self.values, self.requests, self.notes = {}, [], []

    def __call__(self, peer):
        while peer.another():
            words = peer.until(b"\r\n").decode().split()
            self.requests.append(words)
            if words[0] == "PUT":
                self.values[words[1]] = body(peer, words[2])
                peer.send("OK\r\n")
            elif words[0] == "NOTE":
                self.notes.append(words[1])
            elif words[1] in self.values:
                value = self.values[words[1]]
                peer.send(b"VALUE %d\r\n%s\r\n" % (len(value), value))
            else:
                peer.send("NONE\r\n")


def answer(peer):
    """The line of an answer, and the value behind it."""
    line = peer.until(b"\r\n").decode().rstrip()
    return (line, body(peer, line.split()[1])) if line.startswith("VALUE") else line


def test_lines_pass_in_order(mesh, examples):
    site = Site(mesh, examples / "line_example.so", "line-example")
    store = Store()
    with Origin(site.server, PORT, store) as origin:
        peer = site.connect()
        assert answer(peer.send("GET shop.a\r\n")) == "NONE"
        # a pipeline, and what nobody answers within it
        peer.send(b"PUT shop.a 5\r\nhello\r\nNOTE shop.n\r\nGET shop.a\r\nGET shop.b\r\nPUT shop.e 0\r\n\r\nGET shop.e\r\n")
        expected = ["OK", ("VALUE 5", b"hello"), "NONE", "OK", ("VALUE 0", b"")]
        assert [answer(peer) for _ in expected] == expected
        assert store.notes == ["shop.n"]
        assert origin.accepted == 1
        row = site.client.connections(protocol="line-example")[0]
        assert (row["service"], row["method"]) == ("shop", "GET") and row["requests"] == 7
        wait_until(lambda: len(site.log("protocol=line-example")) == 7)
        assert [line for line in site.log("kind=oneway") if "method=NOTE" in line and "flag=OK" not in line]
        # byte by byte
        for byte in b"PUT shop.c 3\r\nabc\r\nGET shop.c\r\n":
            peer.send(bytes([byte]))
        assert [answer(peer), answer(peer)] == ["OK", ("VALUE 3", b"abc")]


def test_lines_share_connections_one_after_the_other(mesh, examples):
    """A connection to the endpoint serves one client at a time, and then the next."""
    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, Store()) as origin:
        for _ in range(5):
            peer = site.connect()
            assert answer(peer.send("GET a\r\n")) == "NONE"
            peer.end()
            assert peer.rest() == b""
        assert origin.accepted == 1


def test_lines_are_routed(mesh, examples):
    first, second = Store(), Store()
    server = mesh.network.pod("other")
    routes = [
        {"match": {"method": "GET", "headers": [{"name": "key", "prefix": "shop.s"}]}, "to": [{"cluster": "first"}]},
        {"match": {"path": "/shop/PUT"}, "to": [{"cluster": "second"}]},
    ]
    site = Site(
        mesh,
        examples / "line_example.so",
        "line-example",
        services=[service("x.mesh", PORT, routes=routes, protocol="line-example")],
        clusters=[cluster("first", [f"{server.ipv4}:7001"]), cluster("second", [f"{server.ipv4}:7002"])],
    )
    with Origin(server, 7001, first), Origin(server, 7002, second):
        peer = site.connect()
        peer.send("GET shop.s\r\nPUT shop.s 1\r\nx\r\nGET shop.t\r\nGET shop.s\r\n")
        expected = ["NONE", "OK", "ERROR no route matches this request", "NONE"]
        assert [answer(peer) for _ in expected] == expected
        assert len(first.requests) == 2 and len(second.requests) == 1


def test_lines_to_a_service_that_was_taken_away(mesh, examples):
    """Nobody has its virtual IP: that is not dialled."""
    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, Store()):
        peer = site.connect()
        assert answer(peer.send("GET a\r\n")) == "NONE"
        site.client.reload({**site.client.config, "services": []})
        assert answer(peer.send("GET a\r\n")) == "ERROR no route matches this request"
        assert site.client.counter("upstream_connections_total") == 1


def test_big_bodies_pass_in_pieces(mesh, examples):
    site = Site(mesh, examples / "line_example.so", "line-example")
    value = bytes(range(256)) * 40000
    with Origin(site.server, PORT, Store()):
        peer = site.connect()
        peer.send(b"PUT big %d\r\n%s\r\n" % (len(value), value))
        assert answer(peer) == "OK"
        assert answer(peer.send("GET big\r\n")) == (f"VALUE {len(value)}", value)


def test_a_slow_reader_stops_the_endpoint(mesh, examples):
    """What is on its way is bounded, however long the answer."""
    size = 64 * 1024 * 1024

    def handler(peer):
        peer.until(b"\r\n")
        peer.send(f"VALUE {size}\r\n")
        for _ in range(64):
            peer.send(bytes(1024 * 1024))
        peer.send("\r\n")

    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, handler):
        before = resident_kib(site.client.proxy.pid)
        peer = site.connect().send("GET big\r\n")
        assert peer.until(b"\r\n") == b"VALUE %d\r\n" % size
        for _ in range(32):
            peer.read(1024 * 1024)
            if "asan" not in mesh.weir_proxy:  # whose allocator keeps what was freed
                assert resident_kib(site.client.proxy.pid) < before + 8 * 1024
        peer.read(32 * 1024 * 1024 + 2)
        peer.end()
        assert peer.rest() == b""


def test_line_failures_are_answered(mesh, examples):
    def half(peer):
        line = peer.until(b"\r\n")
        if line == b"GET half\r\n":
            peer.send("VALUE 100\r\nhalf")
        elif line == b"GET odd\r\n":
            peer.send("WHAT\r\n")
            peer.rest()
        elif line == b"GET slow\r\n":
            peer.rest()

    routes = [{"to": [{"cluster": "x"}], "timeout": "2s"}]
    site = Site(
        mesh,
        examples / "line_example.so",
        "line-example",
        services=[service("x.mesh", PORT, routes=routes, protocol="line-example")],
    )
    peer = site.connect()
    unreachable = "ERROR no endpoint could be reached"
    assert answer(peer.send("GET a\r\n")) == unreachable
    peer.send("NOTE a\r\nGET a\r\n")  # nobody waits for the first one's answer
    assert answer(peer) == unreachable
    peer.send("PUT a 5\r\n")  # answered before its body is there, which is dropped
    assert answer(peer) == unreachable
    peer.send("hello\r\nGET a\r\n")
    assert answer(peer) == unreachable
    with Origin(site.server, PORT, until_reset(half)):
        assert answer(peer.send("GET lost\r\n")) == "ERROR the connection to the endpoint was lost"
        assert answer(peer.send("GET odd\r\n")) == "ERROR the answer cannot be read"
        assert answer(peer.send("GET slow\r\n")) == "ERROR the endpoint did not answer in time"
        peer.send("GET half\r\n")
        with pytest.raises(ConnectionResetError):
            peer.rest()


def test_what_is_no_line_is_refused(mesh, examples):
    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, until_reset(Store())) as origin:
        for wrong in ("DELETE a\r\n", "GET\r\n", "GET a b\r\n", "GET a\n", "PUT a x\r\n", "GET " + "a" * 1024):
            assert site.connect().send(wrong).rest() == b""
        peer = site.connect().send("GET a\r\nDELETE a\r\n")
        assert peer.rest() == b"NONE\r\n"  # what came before it is answered
        assert site.connect().send("GET a").end().rest() == b""
        assert site.connect().send("PUT a 5\r\nhe").end().rest() == b""
        assert site.client.counter("rpc_frames_refused_total") == 7
        assert site.client.counter("plugin_faults_total") == 0
        assert origin.accepted <= 2


def test_a_client_that_leaves_takes_its_request_with_it(mesh, examples):
    gone = []

    def handler(peer):
        until_reset(Peer.rest)(peer)
        gone.append(True)

    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, handler):
        peer = site.connect().send("GET a\r\n")
        wait_until(lambda: site.client.connections(protocol="line-example", state="request"))
        peer.reset()
        wait_until(lambda: gone)
        wait_until(lambda: site.log("flag=DC"))


def test_lines_survive_a_drain(mesh, examples):
    """A request under way is answered, and what was sent behind it; then its connection ends."""
    waiting = []

    def handler(peer):
        if peer.until(b"\r\n") == b"GET b\r\n":
            peer.send("OK\r\n")
        else:
            waiting.append(peer)
        peer.rest()

    site = Site(mesh, examples / "line_example.so", "line-example")
    with Origin(site.server, PORT, handler):
        idle = site.connect()
        peer = site.connect().send("GET a\r\nGET b\r\n")
        wait_until(lambda: waiting)
        site.client.proxy._process.send_signal(signal.SIGTERM)
        assert idle.rest() == b""
        waiting[0].send("NONE\r\n")
        assert peer.rest() == b"NONE\r\nOK\r\n"
        assert site.client.proxy.wait() == 0


@pytest.mark.parametrize(
    "lie, what",
    [
        ("nothing", "a piece of no bytes, or of more than there are"),
        ("more", "a piece of no bytes, or of more than there are"),
        ("flags", "flags of a piece that there are not"),
        ("field", "a field outside of the bytes"),
        ("answer", "a piece of no bytes, or of more than there are"),
    ],
)
def test_misbehaviour_about_lines(mesh, compiled, lie, what):
    site = Site(mesh, compiled("crooked_lines", "-D_GNU_SOURCE"), "crooked")

    def handler(peer):
        while peer.another():
            line = peer.until(b"\r\n").decode()
            peer.send("ERROR LIE:answer\r\n" if "LIE:answer" in line else "NONE\r\n")

    with Origin(site.server, PORT, until_reset(handler)):
        other = site.connect()
        assert answer(other.send("GET a\r\n")) == "NONE"
        liar = site.connect().send(f"GET LIE:{lie}\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert liar.rest() == b""
        lines = site.log("a plug-in misbehaved")
        assert len(lines) == 1 and what in lines[0]
        with pytest.raises(ConnectionResetError):
            site.connect().send("GET a\r\n").rest()
        assert site.client.counter("plugin_refused_connections_total") == 1
        assert answer(other.send("GET a\r\n")) == "NONE"


# --- what cannot be loaded ---------------------------------------------------------------------------------------------


def check(network, weir, paths):
    """What `weir config check` says of a file with these plug-ins."""
    config = network.folder / "check.yaml"
    config.write_text("plugins:\n" + "".join(f"  - path: {path}\n" for path in paths))
    done = subprocess.run([weir, "config", "check", config], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "table, what",
    [
        (1, "made for another version of weir_plugin.h (its WEIR_PLUGIN_ABI is 2, that of this weir 1)"),
        (2, "the size of its struct weir_plugin is wrong"),
        (3, "the size of its struct weir_framed is wrong"),
        (4, "it adds no protocol, or two"),
        (5, "its name is not made of"),
        (6, 'a protocol "bolt" is there already'),
        (7, "lacks measure or write_failure"),
        (8, "first_id is 0"),
        (9, "its ids are too few"),
    ],
)
def test_wrong_tables(network, weir, compiled, table, what):
    path = compiled("crooked", f"-DCROOKED_TABLE={table}")
    status, text = check(network, weir, [path])
    assert status == 1 and what in text and f'check.yaml:2:11: plug-in "{path}"' in text


def test_what_is_no_plugin(network, weir, compiled, examples):
    assert check(network, weir, ["/no/such/file.so"])[1].endswith("No such file or directory\n")
    assert "the path is not absolute" in check(network, weir, ["plugin.so"])[1]
    text = network.folder / "text.so"
    text.write_text("no object")
    assert "it cannot be loaded: " in check(network, weir, [text])[1]
    source = network.folder / "empty.c"
    source.write_text("int weir_plug_in;\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", network.folder / "empty.so", source], check=True)
    assert 'exports no symbol "weir_plugin"' in check(network, weir, [network.folder / "empty.so"])[1]
    example = examples / "x_example.so"
    whole, cut = example.read_bytes(), network.folder / "cut.so"
    for length in (100, 300, 3000):  # a copy that is still being made
        cut.write_bytes(whole[:length])
        assert check(network, weir, [cut])[1].endswith("the file is not whole\n")
    os.mkfifo(network.folder / "pipe.so")
    for what in (network.folder, network.folder / "pipe.so"):
        assert check(network, weir, [what])[1].endswith("it is no file\n")
    assert 'a protocol "x-example" is there already' in check(network, weir, [example, example])[1]
    assert check(network, weir, [example]) == (0, "")


def test_a_reload_with_a_wrong_one_changes_nothing(mesh, examples, compiled):
    site = Site(mesh, examples / "x_example.so", "x-example")
    with Origin(site.server, PORT, echo):
        peer = site.connect().send(request(1, "shop/buy"))
        assert read_response(peer)[3] == "shop/buy"
        config = dict(site.client.config)
        wrong = {**config, "plugins": [*config["plugins"], {"path": str(compiled("crooked", "-DCROOKED_TABLE=1"))}]}
        site.client.write(wrong)
        done = site.client.weir("config", "reload", check=False)
        assert done.returncode == 1 and "another version of weir_plugin.h" in done.stderr
        peer.send(request(2, "shop/buy"))
        assert read_response(peer)[1] == 2
        more = {**config, "plugins": [*config["plugins"], {"path": str(compiled("crooked"))}]}
        site.client.reload(more)
        peer.send(request(3, "shop/buy"))
        assert read_response(peer)[1] == 3


# --- what misbehaves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie, what",
    [
        ("length", "a frame without length"),
        ("head", "a head that is longer than its frame"),
        ("id", "an id outside of the head"),
        ("kind", "a kind of frame that there is not"),
        ("result", "a result that there is not"),
        ("service", "a service or method outside of the bytes"),
        ("field", "a field outside of the bytes"),
        ("many", "more fields than there is room for"),
    ],
)
def test_misbehaviour_is_named_and_refused(mesh, compiled, lie, what):
    site = Site(mesh, compiled("crooked"), "crooked")
    with Origin(site.server, PORT, echo):
        other = site.connect().send(request(1, "shop/buy"))
        assert read_response(other) == (MESSAGE, 1, 0, "shop/buy")
        liar = site.connect().send(request(2, f"LIE: {lie}"))
        liar.rest()  # it ends
        lines = site.log("a plug-in misbehaved")
        assert len(lines) == 1 and "plugin=crooked" in lines[0] and what in lines[0]
        assert site.client.counter("plugin_faults_total") == 1
        with pytest.raises(ConnectionResetError):
            site.connect().send(request(3, "shop/buy")).rest()
        assert site.client.counter("plugin_refused_connections_total") == 1
        other.send(request(4, "shop/buy"))
        assert read_response(other) == (MESSAGE, 4, 0, "shop/buy")


@pytest.mark.parametrize(
    "lie, what",
    [
        ("length", "a frame without length"),
        ("head", "a head that is longer than its frame"),
        ("id", "an id outside of the head"),
        ("kind", "a kind of frame that there is not"),
        ("result", "a result that there is not"),
    ],
)
def test_misbehaviour_about_an_answer(mesh, compiled, lie, what):
    """What the endpoint sends cannot be told apart any more: calls under way on that connection are answered, each once,
    and those that follow go over another one."""
    held = []

    def handler(peer):
        while peer.another():
            _, number, payload = read_request(peer)
            if payload == "shop/hold":
                held.append(number)
            else:
                peer.send(response(number, payload.replace("TELL", "LIE")))

    site = Site(mesh, compiled("crooked", "-DHONEST_FAILURES"), "crooked")
    with Origin(site.server, PORT, until_reset(handler)) as origin:
        other = site.connect().send(request(1, "shop/buy"))
        assert read_response(other) == (MESSAGE, 1, 0, "shop/buy")
        other.send(request(4, "shop/hold"))
        wait_until(lambda: held, what="a call under way")
        liar = site.connect().send(request(2, f"TELL: {lie}"))
        for peer, number in ((liar, 2), (other, 4)):
            kind, got, status, _ = read_response(peer)
            assert (kind, got, status) == (MESSAGE, number, 1)
        lines = site.log("a plug-in misbehaved")
        assert len(lines) == 1 and "plugin=crooked" in lines[0] and what in lines[0]
        assert site.client.counter("plugin_faults_total") == 1
        assert origin.accepted == 1
        other.send(request(5, "shop/buy"))
        assert read_response(other) == (MESSAGE, 5, 0, "shop/buy")
        assert origin.accepted == 2
        with pytest.raises(ConnectionResetError):
            site.connect().send(request(3, "shop/buy")).rest()


def test_ids_begin_again_behind_the_last(mesh, compiled):
    """weir's own ids, of which this plug-in allows few: those of calls under way are left out, round after round."""
    held, others = {}, []

    def handler(peer):
        while peer.another():
            _, number, payload = read_request(peer)
            if payload.startswith("hold"):
                held[number] = payload
            elif payload == "release":
                peer.send(b"".join(response(*one) for one in held.items()) + response(number, payload))
            else:
                others.append(number)
                peer.send(response(number, payload))

    last, batch = 9000, 500
    site = Site(mesh, compiled("crooked", f"-DLAST_ID={last}"), "crooked", log={"access": False})
    with Origin(site.server, PORT, handler) as origin:
        keeper, peer = site.connect(), site.connect()
        for number in range(20):
            keeper.send(request(number, f"hold{number}"))
            wait_until(lambda number=number: len(held) > number)
            peer.send(request(number, "between"))
            read_response(peer)
        for start in range(0, 2 * last + 2 * batch, batch):
            peer.send(b"".join(request(number, str(number)) for number in range(start, start + batch)))
            for number in range(start, start + batch):
                assert read_response(peer) == (MESSAGE, number, 0, str(number))
        keeper.send(request(99, "release"))
        answers = {read_response(keeper)[1::2] for _ in range(21)}
        assert answers == {(number, f"hold{number}") for number in range(20)} | {(99, "release")}
        assert origin.accepted == 1
        assert len(held) == 20 and not set(held) & set(others)
        assert sum(after < before for before, after in zip(others, others[1:])) == 2
        assert min(others) >= 1 and max(others) == last


def test_a_wrong_answer_of_its_own_is_not_sent(mesh, compiled):
    site = Site(mesh, compiled("crooked"), "crooked")
    peer = site.connect().send(request(2, "shop/buy"))
    assert peer.rest() == b""
    assert "of another kind or id" in site.log("a plug-in misbehaved")[0]
