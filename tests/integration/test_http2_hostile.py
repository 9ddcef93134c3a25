# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 servers that break its rules, with weir as their client. Whatever they do, each request gets exactly one answer:
502 or 503, or once its head was taken for good, an end that cannot be mistaken for a whole response. Connections of
others are not harmed, and no memory is lost. The numbers are sections of RFC 9113."""

import contextlib
import socket
import struct
import threading

import pytest

from h2frames import (
    ACK, CANCEL, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR, GOAWAY, HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, NO_ERROR, PADDED, PING, PRIORITY, PUSH_PROMISE, REFUSED_STREAM,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, Client, Server, data, frame, get, goaway, headers, literal, ping,
    plain, post, rst_stream, settings, window_update,
)
from h2site import CALM_ASAN, PORT, Http2Origin
from mesh import Mesh, Origin, Peer, cluster, connect, resident_kib, service
from netns import Network

FAILED = {502, 503}
# What a client may find, beside FAILED: the beginning of a response that was cut off, or a whole one.
CUT, FINE = "cut", "fine"


class Bench:
    """bad.mesh is the hostile server of the moment, good.mesh an honest one."""

    def __init__(self, mesh):
        self.bad, self.good = mesh.network.pod("bad"), mesh.network.pod("good")
        self.honest = Http2Origin(self.good)
        clusters = [
            cluster("bad", [f"{self.bad.ipv4}:{PORT}"], protocol="http2"),
            cluster("good", [f"{self.good.ipv4}:{PORT}"], protocol="http2"),
        ]
        services = [service("bad.mesh", 80, "bad", protocol="http"), service("good.mesh", 80, "good")]
        self.sidecar = mesh.sidecar("client", start=False, services=services, clusters=clusters, log={"access": True})
        self.sidecar.start(env={"ASAN_OPTIONS": CALM_ASAN})
        self.sidecar.intercept("apply")
        rows = self.sidecar.show("vhost", "show")["virtual_hosts"]
        self.vips = {row["name"].split(".")[0]: row["vip4"] for row in rows}

    def peer(self, name="bad"):
        return connect(self.sidecar.pod, self.vips[name], 80)

    def client(self, name="bad"):
        return Client(self.peer(name).sock)

    def unharmed(self):
        assert self.sidecar.proxy.alive(), self.sidecar.proxy.output()[-8000:]
        client = self.client("good")
        client.usable()
        client.close()

    def close(self):
        status = self.sidecar.proxy.stop()
        self.honest.close()
        assert status == 0 and "Sanitizer" not in self.sidecar.proxy.output(), self.sidecar.proxy.output()[-8000:]


@pytest.fixture(scope="module")
def bench(weir, weir_proxy):
    with Network() as network:
        made = Bench(Mesh(network, weir, weir_proxy))
        yield made
        made.close()


class Hostile:
    """A server that does `act` on each connection, then waits for its end."""

    def __init__(self, bench, act, *own, start=None):
        self.act, self.own, self.start = act, own, start
        self.origin = Origin(bench.bad, PORT, self._serve)

    def _serve(self, peer):
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            server = Server(peer.sock, *self.own, start=self.start)
            peer.sock.settimeout(None)  # until weir closes it, or the test ends
            if self.act:
                self.act(server)
            server.rest()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.origin.close()
        except Exception:
            if kind is None:
                raise


# --- what clients see -------------------------------------------------------------------------------------------------
def ask_http1(bench, request=b"GET / HTTP/1.1\r\nHost: bad.mesh\r\n\r\n"):
    """What comes back for one request, in whole: "failed", CUT or FINE."""
    peer = bench.peer().send(request)
    with contextlib.suppress(OSError):  # it may be over already
        peer.end()
    with contextlib.suppress(ConnectionResetError):
        while peer._more():
            pass
    got = peer.buffer
    if not got:
        return CUT
    assert got.startswith(b"HTTP/1.1 "), got
    again = Peer(peer.sock)
    again.buffer = got
    while 100 <= int(again.buffer[9:12]) < 200:
        again.head()
    try:
        status, head, body = again.response()
    except (AssertionError, ConnectionResetError, ValueError):
        return CUT
    finally:
        peer.close()
    assert again.buffer == b"", "more than one answer"
    assert "\r\nx-smuggled" not in head.lower()
    return outcome(status, body)


def outcome(status, body):
    if status in FAILED:
        return "failed"
    assert status == 200, (status, body)
    return FINE if body == b"ok" else CUT


def ask_http2(bench, fields=None):
    client = bench.client()
    stream = client.request(fields or get("/", authority="bad.mesh"))
    client.until(lambda: stream.ended)
    assert stream.ended, client
    client.close()
    if stream.reset not in (None, NO_ERROR):
        return CUT
    return outcome(stream.status, stream.body)


ASK = {"http1": ask_http1, "http2": ask_http2}


# --- servers ----------------------------------------------------------------------------------------------------------
def starts(*pieces):
    """In the place of SETTINGS; nothing follows."""
    return b"".join(pieces), None


def sends(make):
    """What is sent when the request is there: make(id of the stream); and again for each other."""

    def act(server):
        while stream := server.whole():
            server.send(make(stream.id)).done(stream)

    return None, act


def answers(*fields, body=b"ok"):
    """A response with these fields, in plain literals."""
    return sends(lambda number: headers(number, plain(fields)) + data(number, body, END_STREAM))


def ends(make, reset=False):
    """Sends, and closes the connection."""

    def act(server):
        stream = server.whole()
        if stream:
            server.send(make(stream.id))
        if reset:
            server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        raise ConnectionResetError

    return None, act


OK, HEAD = (":status", "200"), plain([(":status", "200"), ("content-length", "2")])


def fine(number):
    return headers(number, HEAD) + data(number, b"ok", END_STREAM)


def head(number, flags=END_HEADERS):
    return headers(number, HEAD, flags)


FAIL, CUT_OR_FAIL, ANY = {"failed"}, {"failed", CUT}, {"failed", CUT, FINE}
CASES = {
    # 3.4, 6.5: starting
    "3.4-http1-instead": (starts(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), FAIL),
    "3.4-noise": (starts(bytes(range(256))), FAIL),
    "3.4-ping-before-settings": (starts(ping()), FAIL),
    "3.4-ack-before-settings": (starts(settings(flags=ACK)), FAIL),
    "3.4-response-before-settings": ((b"", sends(fine)[1]), FAIL),
    "6.5.2-push-enabled": (starts(settings((ENABLE_PUSH, 1))), FAIL),
    "6.5.2-push-2": (starts(settings((ENABLE_PUSH, 2))), FAIL),
    "6.5.2-window-2-to-the-31": (starts(settings((INITIAL_WINDOW_SIZE, 2**31))), FAIL),
    "6.5.2-frames-too-short": (starts(settings((MAX_FRAME_SIZE, 100))), FAIL),
    "6.5.2-frames-too-long": (starts(settings((MAX_FRAME_SIZE, 2**24))), FAIL),
    "6.5-of-5-bytes": (starts(frame(SETTINGS, 0, 0, bytes(5))), FAIL),
    "6.5-on-a-stream": (starts(frame(SETTINGS, 0, 1)), FAIL),
    "6.5-ack-with-payload": (starts(settings(), frame(SETTINGS, ACK, 0, bytes(6))), FAIL),
    "6.5.2-unknown": ((settings((0xFAFA, 1)), sends(fine)[1]), {FINE}),
    # 4.2: sizes
    "4.2-data-too-long": (sends(lambda n: head(n) + data(n, bytes(16385))), CUT_OR_FAIL),
    "4.2-headers-too-long": (sends(lambda n: headers(n, HEAD + literal("x", "y" * 17000))), FAIL),
    "4.2-unknown-too-long": (sends(lambda n: frame(0xFA, 0, 0, bytes(16385))), FAIL),
    "4.2-length-of-16-mebibytes": (sends(lambda n: frame(DATA, 0, n, b"", 0xFFFFFF)), FAIL),
    # 4.3, 6.10: field blocks
    "4.3-undecodable": (sends(lambda n: headers(n, HEAD + b"\x80")), FAIL),
    "4.3-data-within-a-block": (sends(lambda n: head(n, 0) + data(n, b"ok", 1)), FAIL),
    "4.3-unknown-within-a-block": (sends(lambda n: head(n, 0) + frame(0xFA)), FAIL),
    "6.10-continuation-of-another": (sends(lambda n: head(n, 0) + frame(CONTINUATION, 4, n + 2)), FAIL),
    "6.10-continuation-alone": (sends(lambda n: frame(CONTINUATION, 4, n, HEAD)), FAIL),
    "10.5.1-head-too-large": (
        sends(lambda n: head(n, 0) + b"".join(frame(CONTINUATION, 0, n, literal("x", "y" * 16000)) for _ in range(40))),
        FAIL,
    ),
    "10.5.1-too-many-fields": (
        sends(lambda n: head(n, 0) + b"".join(frame(CONTINUATION, 0, n, literal("x", "y") * 2000) for _ in range(40))),
        FAIL,
    ),
    "10.5.1-empty-continuations": (sends(lambda n: head(n, 0) + frame(CONTINUATION, 0, n) * 100_000), FAIL),
    "10.5.1-hpack-bomb": (
        sends(lambda n: headers(n, HEAD + literal("x", "y" * 4000, 0x40) + b"\xbe" * 10_000) + data(n, b"ok", 1)),
        FAIL,
    ),
    # 5.1: streams
    "5.1-data-on-idle": (sends(lambda n: data(n + 2, b"ok", END_STREAM)), FAIL),
    "5.1-headers-on-idle": (sends(lambda n: headers(n + 2, HEAD)), FAIL),
    "5.1-rst-stream-on-idle": (sends(lambda n: rst_stream(n + 2)), FAIL),
    "5.1-window-update-on-idle": (sends(lambda n: window_update(n + 2, 1)), FAIL),
    "5.1.1-headers-on-even": (sends(lambda n: headers(2, HEAD)), FAIL),
    "5.1.1-headers-on-0": (sends(lambda n: headers(0, HEAD)), FAIL),
    "5.1-data-behind-the-end": (sends(lambda n: fine(n) + data(n, b"more")), {FINE}),
    "5.1-headers-behind-the-end": (sends(lambda n: fine(n) + headers(n, HEAD)), {FINE}),
    "5.1-reset-behind-the-end": (sends(lambda n: fine(n) + rst_stream(n, NO_ERROR)), {FINE}),
    # 6: frames
    "6.1-data-on-0": (sends(lambda n: head(n) + data(0, b"ok", END_STREAM)), CUT_OR_FAIL),
    "6.1-padding-beyond": (sends(lambda n: head(n) + frame(DATA, PADDED, n, b"\xffok")), CUT_OR_FAIL),
    "6.1-padding": (sends(lambda n: headers(n, HEAD, pad=9) + data(n, b"ok", END_STREAM, pad=99)), {FINE}),
    "6.2-padding-beyond": (sends(lambda n: frame(HEADERS, 4 | PADDED, n, b"\xff" + HEAD)), FAIL),
    "6.3-priority": (sends(lambda n: frame(PRIORITY, 0, n, b"\0\0\0\0\1") + fine(n)), {FINE}),
    "6.3-priority-of-4-bytes": (sends(lambda n: frame(PRIORITY, 0, n, bytes(4))), FAIL),
    "6.4-reset-of-3-bytes": (sends(lambda n: frame(RST_STREAM, 0, n, bytes(3))), FAIL),
    "6.4-reset-on-0": (sends(lambda n: rst_stream(0)), FAIL),
    "6.6-push": (sends(lambda n: frame(PUSH_PROMISE, 4, n, b"\0\0\0\2\x82\x86\x84") + fine(n)), FAIL),
    "6.6-push-behind-the-head": (sends(lambda n: head(n) + frame(PUSH_PROMISE, 4, n, b"\0\0\0\2\x82\x86\x84")), CUT_OR_FAIL),
    "6.7-ping-of-7-bytes": (sends(lambda n: ping(bytes(7))), FAIL),
    "6.7-ping-on-a-stream": (sends(lambda n: frame(PING, 0, n, bytes(8))), FAIL),
    "6.8-goaway-of-7-bytes": (sends(lambda n: frame(GOAWAY, 0, 0, bytes(7))), FAIL),
    "6.8-goaway-on-a-stream": (sends(lambda n: frame(GOAWAY, 0, n, bytes(8))), FAIL),
    "6.9-by-0": (sends(lambda n: window_update(0, 0)), FAIL),
    "6.9-by-0-on-a-stream": (sends(lambda n: window_update(n, 0)), FAIL),
    "6.9-of-3-bytes": (sends(lambda n: frame(WINDOW_UPDATE, 0, 0, bytes(3))), FAIL),
    "6.9.1-beyond-the-most": (sends(lambda n: window_update(0, 2**31 - 1)), FAIL),
    "6.9.1-beyond-the-most-on-a-stream": (sends(lambda n: window_update(n, 2**31 - 1) + rst_stream(n)), FAIL),
    "5.5-unknown-frames": (sends(lambda n: frame(0xFA, 9, n, b"x") + frame(0xA, 0, 0, b"\0\1xy") + fine(n)), {FINE}),
    # 6.4: resets
    **{f"6.4-reset-{code}": (sends(lambda n, code=code: rst_stream(n, code)), FAIL) for code in [*range(14), 0xFAFA]},
    "6.4-reset-behind-the-head": (sends(lambda n: head(n) + rst_stream(n, INTERNAL_ERROR)), CUT_OR_FAIL),
    "6.4-reset-within-the-content": (sends(lambda n: head(n) + data(n, b"o") + rst_stream(n, CANCEL)), CUT_OR_FAIL),
    "6.4-reset-without-an-error": (sends(lambda n: head(n) + data(n, b"o") + rst_stream(n, NO_ERROR)), CUT_OR_FAIL),
    # 6.8: goaway
    "6.8-nothing-was-processed": (sends(lambda n: goaway(0)), FAIL),
    "6.8-an-error": (sends(lambda n: goaway(0, INTERNAL_ERROR)), FAIL),
    "6.8-then-the-answer": (sends(lambda n: goaway(n) + fine(n)), {FINE}),
    "6.8-twice-then-the-answer": (sends(lambda n: goaway(2**31 - 1) + goaway(n, debug=b"bye") + fine(n)), {FINE}),
    "6.8-then-the-end": (ends(lambda n: goaway(n)), FAIL),
    "6.8-an-error-and-the-end": (ends(lambda n: goaway(n, ENHANCE_YOUR_CALM)), FAIL),
    "6.8-then-the-end-behind-the-head": (ends(lambda n: head(n) + goaway(n)), CUT_OR_FAIL),
    # the connection's end
    "5.4-end": (ends(lambda n: b""), FAIL),
    "5.4-reset": (ends(lambda n: b"", reset=True), FAIL),
    "5.4-end-within-a-frame-header": (ends(lambda n: b"\0\0\5"), FAIL),
    "5.4-end-within-a-head": (ends(lambda n: head(n, 0)), FAIL),
    "5.4-end-behind-a-head": (ends(head), CUT_OR_FAIL),
    "5.4-end-within-data": (ends(lambda n: head(n) + frame(DATA, END_STREAM, n, b"o", 2)), CUT_OR_FAIL),
    "5.4-end-before-the-end-of-the-stream": (ends(lambda n: headers(n, plain([OK])) + data(n, b"ok")), CUT_OR_FAIL),
    # 8.1: messages
    "8.1-data-before-a-head": (sends(lambda n: data(n, b"ok", END_STREAM)), FAIL),
    "8.1-data-behind-an-interim": (sends(lambda n: headers(n, plain([(":status", "103")])) + data(n, b"ok", 1)), FAIL),
    "8.1-end-with-an-interim": (sends(lambda n: headers(n, plain([(":status", "103")]), 5)), FAIL),
    "8.1-101": (sends(lambda n: headers(n, plain([(":status", "101")])) + fine(n)), FAIL),
    "8.1-101-at-the-end": (sends(lambda n: headers(n, plain([(":status", "101")]), 5)), FAIL),
    "8.1-interims-without-end": (sends(lambda n: headers(n, plain([(":status", "103")])) * 10_000), FAIL),
    "8.1-two-heads": (sends(lambda n: head(n) + fine(n)), CUT_OR_FAIL),
    "8.1-trailers-that-do-not-end": (
        sends(lambda n: head(n) + data(n, b"ok") + headers(n, literal("x", "1"))),
        ANY,  # all of the content was there
    ),
    "8.1-pseudo-in-trailers": (sends(lambda n: head(n) + data(n, b"ok") + headers(n, plain([OK]), 5)), ANY),
    "8.1-upper-case-in-trailers": (sends(lambda n: head(n) + data(n, b"o") + headers(n, literal("X-Y", "1"), 5)), CUT_OR_FAIL),
    "8.1.1-longer-than-its-length": (sends(lambda n: head(n) + data(n, b"okmore", END_STREAM)), CUT_OR_FAIL),
    "8.1.1-shorter-than-its-length": (sends(lambda n: head(n) + data(n, b"o", END_STREAM)), CUT_OR_FAIL),
    "8.1.1-no-content-of-its-length": (sends(lambda n: headers(n, HEAD, 5)), CUT_OR_FAIL),
    "8.1.1-lengths-in-conflict": (answers(OK, ("content-length", "2"), ("content-length", "3")), CUT_OR_FAIL),
    "8.1.1-length-of-words": (answers(OK, ("content-length", "two")), FAIL),
    "8.1.1-length-below-0": (answers(OK, ("content-length", "-2")), FAIL),
    "9110-8.6-length-with-204": (answers((":status", "204"), ("content-length", "2")), FAIL),
    "9110-8.6-length-with-an-interim": (
        sends(lambda n: headers(n, plain([(":status", "103"), ("content-length", "2")])) + fine(n)),
        FAIL,
    ),
    # 8.2, 8.3: fields
    "8.2.1-upper-case": (answers(OK, ("X-Upper", "1")), FAIL),
    "8.2.1-line-end-in-value": (answers(OK, ("x", "1\r\nx-smuggled: 1")), FAIL),
    "8.2.1-response-in-value": (answers(OK, ("x", "1\r\n\r\nHTTP/1.1 200 OK\r\nx-smuggled: 1\r\n\r\n")), FAIL),
    "8.2.1-lf-in-value": (answers(OK, ("x", "1\nx-smuggled: 1")), FAIL),
    "8.2.1-nul-in-value": (answers(OK, ("x", "1\0")), FAIL),
    "8.2.1-blank-before-value": (answers(OK, ("x", " 1")), FAIL),
    "8.2.1-line-end-in-name": (answers(OK, ("x: 1\r\nx-smuggled", "1")), FAIL),
    "8.2.1-colon-in-name": (answers(OK, ("transfer-encoding:", "chunked")), FAIL),
    "8.2.1-empty-name": (answers(OK, ("", "1")), FAIL),
    "8.2.2-connection": (answers(OK, ("connection", "close")), FAIL),
    "8.2.2-transfer-encoding": (answers(OK, ("transfer-encoding", "chunked")), FAIL),
    "8.2.2-keep-alive": (answers(OK, ("keep-alive", "timeout=5")), FAIL),
    "8.2.2-upgrade": (answers(OK, ("upgrade", "h2c")), FAIL),
    "8.3-no-status": (answers(("x", "1")), FAIL),
    "8.3-nothing": (sends(lambda n: headers(n, b"", 5)), FAIL),
    "8.3-two-statuses": (answers(OK, OK), FAIL),
    "8.3-status-behind-regular": (answers(("x", "1"), OK), FAIL),
    "8.3-unknown-pseudo": (answers(OK, (":unknown", "1")), FAIL),
    "8.3-path-in-a-response": (answers(OK, (":path", "/")), FAIL),
    **{
        f"8.3.2-status-{at}": (answers((":status", value)), FAIL)
        for at, value in enumerate(["", "20", "2000", "abc", "2 0", "200 OK", "-20", "099", "000"])
    },
}


@pytest.mark.parametrize("front", ASK)
@pytest.mark.parametrize("name", CASES)
def test_exactly_one_answer(bench, name, front):
    (start, act), expected = CASES[name]
    with Hostile(bench, act, start=start) as hostile:
        assert ASK[front](bench) in expected
        assert hostile.origin.accepted <= 4
    bench.unharmed()


# --- several requests -------------------------------------------------------------------------------------------------
def test_a_connection_error_fails_what_is_under_way_on_it(bench):
    """Each once; what was answered before it stays answered."""

    def act(server):
        streams = [server.whole() for _ in range(5)]
        if None not in streams:
            server.send(fine(streams[0].id), fine(streams[1].id), data(0, b"x"))

    with Hostile(bench, act):
        client = bench.client()
        streams = [client.request(get("/", authority="bad.mesh")) for _ in range(5)]
        client.until(lambda: all(stream.ended for stream in streams))
        assert sorted(stream.status for stream in streams)[:2] == [200, 200]
        assert all(stream.status in FAILED for stream in streams if stream.status != 200)
        client.close()


def test_a_stream_error_harms_no_other_stream(bench):
    def act(server):
        streams = [server.whole() for _ in range(3)]
        if None not in streams:
            server.send(rst_stream(streams[1].id, INTERNAL_ERROR), fine(streams[0].id), fine(streams[2].id))

    with Hostile(bench, act) as hostile:
        client = bench.client()
        streams = [client.request(get("/", authority="bad.mesh")) for _ in range(3)]
        client.until(lambda: all(stream.ended for stream in streams))
        assert sorted(stream.status for stream in streams)[:2] == [200, 200]
        client.close()
        if hostile.origin.accepted == 1:
            assert max(stream.status for stream in streams) in FAILED


def test_what_was_not_processed_is_tried_elsewhere(bench):
    """GOAWAY says so (6.8), REFUSED_STREAM says so (8.7): safe for any method."""
    turns = iter([goaway(0), rst_stream(1, REFUSED_STREAM)])

    def act(server):
        while stream := server.whole():
            server.send(next(turns, None) or fine(stream.id)).done(stream)
            if server.goaway:
                return

    for _ in range(2):
        with Hostile(bench, act):
            client = bench.client()
            stream = client.request(post("/"), body=b"")
            client.until(lambda: stream.ended)
            assert stream.status in {200, 503}
            client.close()


def test_a_refusal_is_not_told_of_the_attempt_that_follows(bench):
    """It would invite the client to send once more what the server has begun with."""

    def act(server):
        refused = server.whole()
        server.send(rst_stream(refused.id, REFUSED_STREAM)).done(refused)
        stream = server.whole()
        server.send(headers(stream.id, HEAD), data(stream.id, b"o"))
        server.sock.shutdown(socket.SHUT_WR)

    with Hostile(bench, act):
        client = bench.client()
        stream = client.request(post("/"), body=b"")
        client.until(lambda: stream.ended)
        assert (stream.status, stream.body, stream.reset) == (200, b"o", INTERNAL_ERROR)
        client.close()


def test_goaway_lets_the_next_request_use_another_connection(bench):
    def act(server):
        stream = server.whole()
        if stream:
            server.send(fine(stream.id), goaway(stream.id))

    with Hostile(bench, act) as hostile:
        for turn in range(1, 4):
            assert ask_http2(bench) == FINE
            assert hostile.origin.accepted == turn


def test_5_1_2_the_limit_of_streams_is_kept(bench):
    """The server sees to that: a Violation fails the test."""

    def act(server):
        while stream := server.whole():
            server.pong(b"%08d" % stream.id)  # nothing else is in front of that
            server.send(fine(stream.id)).done(stream)

    with Hostile(bench, act, (MAX_CONCURRENT_STREAMS, 1)):
        client = bench.client()
        client.answer(client.request(get("/")))  # the limit is known from now on
        streams = [client.request(get("/")) for _ in range(20)]
        for stream in streams:
            assert client.answer(stream).status == 200
        client.close()


@pytest.mark.parametrize("own", [[(INITIAL_WINDOW_SIZE, 10)], [(HEADER_TABLE_SIZE, 0)], [(MAX_FRAME_SIZE, 1 << 20)]])
def test_settings_of_the_server_hold(bench, own):
    """Windows, tables and frames: the server checks what it gets."""
    bodies = []

    def act(server):
        while stream := server.whole():
            bodies.append(stream.body)
            server.send(fine(stream.id)).done(stream)

    with Hostile(bench, act, *own):
        client = bench.client()
        for size in (0, 100, 1000):
            assert client.ask(post("/", ("x-again", "and again")), body=b"x" * size).status == 200
        client.close()
    assert [len(body) for body in bodies] == [0, 100, 1000]


def test_6_9_2_settings_that_shrink_a_window(bench):
    """Below 0: nothing more may come until it is above again."""

    def act(server):
        server.replenish = False
        stream = server.accept()
        server.until(lambda: len(stream.body) == 65535)
        server.configure((INITIAL_WINDOW_SIZE, 0))
        server.until(lambda: server.acks == 2)
        server.receive_window += 100_000
        server.send(window_update(0, 100_000))
        assert server.pong() and len(stream.body) == 65535
        server.grant(stream, 65535 + 14465, connection=False)
        server.whole(stream)
        server.send(fine(stream.id))

    with Hostile(bench, act):
        client = bench.client()
        stream = client.open(post("/"))
        client.send_body(stream, bytes(80_000))
        assert client.answer(stream).status == 200
        client.close()


def test_6_9_1_a_server_that_overruns_the_windows(bench):
    """While the client reads nothing, the server goes beyond what weir granted; once a PING is answered, that must have
    been found out."""
    found, done = [], threading.Event()

    def act(server):
        stream = server.accept()
        server.send(headers(stream.id, plain([OK])))
        for _ in range(4096):
            server.send(data(stream.id, bytes(16384)))
            alive = [server.pongs.clear() or server.pong(word) for word in (b"first...", b"second..")][-1]
            if not alive or server.goaway or stream.reset is not None:
                found.append(stream.reset if stream.reset is not None else server.goaway and server.goaway.error_code)
                break
            assert stream.send_window >= 0 and server.send_window >= 0, "accepted beyond the window"
        done.set()

    with Hostile(bench, act):
        peer = bench.peer().send(b"GET / HTTP/1.1\r\nHost: bad.mesh\r\n\r\n")
        done.wait(30)
        with contextlib.suppress(ConnectionResetError):
            assert not peer.rest().endswith(b"\r\n0\r\n\r\n")
        peer.close()
    assert found == [FLOW_CONTROL_ERROR]
    bench.unharmed()


@pytest.mark.parametrize("name", ["ping", "settings", "data", "unknown"])
def test_10_5_floods_of_a_server(bench, name):
    """Of frames that make work and bring nothing. However long it goes on, memory stays."""
    kinds = {"ping": lambda n: ping(), "settings": lambda n: settings(), "data": data, "unknown": lambda n: frame(0xFA)}
    before = resident_kib(bench.sidecar.proxy.pid)

    def act(server):
        server.upkeep = False
        stream = server.accept()
        flood = (headers(stream.id, plain([OK])) if name == "data" else b"") + kinds[name](stream.id) * 10_000
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                server.sock.settimeout(1)
                server.sock.sendall(flood)
        server.close()
        raise ConnectionResetError

    with Hostile(bench, act):
        assert ask_http2(bench) in ("failed", CUT)
    assert resident_kib(bench.sidecar.proxy.pid) - before < 16 << 10
    bench.unharmed()


def test_a_server_that_measures(bench):
    """One PING for each DATA is no flood: servers of gRPC do so with what they receive, here with what is sent."""

    def act(server):
        stream = server.whole()
        server.send(headers(stream.id, plain([OK])))
        for turn in range(1, 21):
            server.send((data(stream.id, b"x") + ping(b"measured")) * 500)
            assert server.until(lambda turn=turn: len(server.pongs) == turn * 500)
        server.send(data(stream.id, b"", END_STREAM)).done(stream)

    with Hostile(bench, act):
        client = bench.client()
        stream = client.answer(client.request(get("/", authority="bad.mesh")))
        assert stream.body == b"x" * 10_000
        client.close()


def test_no_memory_is_lost(bench):
    """Everything above, again and again."""
    refused = [case for case, expected in CASES.values() if "failed" in expected]

    def all_of_them():
        for start, act in refused:
            with Hostile(bench, act, start=start):
                ask_http2(bench)
        return resident_kib(bench.sidecar.proxy.pid)

    all_of_them()
    before = all_of_them()
    after = [all_of_them() for _ in range(2)][-1]
    assert after - before < 2048
