# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 towards clients, by section of RFC 9113 (and 7541, 8441, 9218 where they matter), in every shape of
deployment: cleartext and mutual TLS, to an origin that speaks HTTP/1.1 or HTTP/2. The number in a name is the section.
What the RFC leaves open is left open here: a stream error may be a connection error, a malformed request may be answered."""

import contextlib
import ssl

import hpack
import pytest

from h2frames import (
    ACK, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, CONTINUATION, DATA, ENABLE_CONNECT_PROTOCOL, ENABLE_PUSH,
    END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADER_TABLE_SIZE,
    HEADERS, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, NO_ERROR, NO_RFC7540_PRIORITIES,
    PADDED, PING, PREFACE, PRIORITIZED, PRIORITY, PRIORITY_UPDATE, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM,
    RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, Client, data, frame, get, goaway, headers, integer,
    literal, ping, post, rst_stream, settings, string, window_update,
)
from h2site import SHAPES, Sites
from mesh import Mesh
from netns import Network, wait_until

TO_HTTP1 = [shape for shape in SHAPES if shape.endswith("http1")]
TO_HTTP2 = [shape for shape in SHAPES if shape.endswith("http2")]
CLEARTEXT = [shape for shape in SHAPES if shape.startswith("cleartext")]
BIGGEST = 2**31 - 1

# A request's field block that leaves the dynamic table alone.
BLOCK = b"\x82\x86\x84\x01" + string("web.mesh")
POST = b"\x83\x86\x84\x01" + string("web.mesh")


@pytest.fixture(scope="module")
def sites(weir, weir_proxy):
    with Network() as network:
        made = Sites(Mesh(network, weir, weir_proxy))
        yield made
        made.close()


@pytest.fixture(params=SHAPES)
def site(sites, request):
    site = sites[request.param]
    faults, site.before = len(site.origin.faults), len(site.origin.seen)
    yield site
    assert site.origin.faults[faults:] == []  # whatever clients do, the origin gets no nonsense
    assert site.sidecar.proxy.alive(), site.sidecar.proxy.output()[-8000:]


@pytest.fixture
def client(site):
    client = site.connect()
    yield client
    client.close()


# --- frames in each state of a stream, and what they lead to ----------------------------------------------------------
def fresh(client, site):
    """No stream is open; the next one is 1."""


def opened(client, site):
    """Stream 1 waits for more of its request's body."""
    path = site.path("/echo")
    stream = client.open(post(path))
    assert client.pong(b"opened..")
    return stream


def held(client, site):
    """Stream 1 is half-closed (remote), its response to come."""
    path = site.path("/hold")
    stream = client.request(get(path))
    site.origin.begun(path)
    stream.path = path
    return stream


def reset(client, site):
    """Stream 1 was reset by the client."""
    stream = opened(client, site)
    client.send(rst_stream(1))
    stream.cancelled = True
    return stream


def closed(client, site):
    """Stream 1 is over, and so is 5: 3 was never opened."""
    client.ask(get(site.path()))
    client.answer(client.open(get(site.path()), END_STREAM, number=5))


def connection(*codes):
    return lambda client, site, stream: client.connection_error(*codes)


def silent(client, site, stream):
    """GOAWAY may be omitted."""
    client.connection_error(PROTOCOL_ERROR, silent=True)


def stream(*codes):
    return lambda client, site, stream: client.stream_error(stream, *codes)


def ignored(client, site, stream):
    """The connection goes on, and so does the stream."""
    client.usable()
    if hasattr(stream, "path"):
        site.release(stream.path)
        assert client.answer(stream).body == b"ok"
    elif stream is not None and not hasattr(stream, "cancelled"):
        client.send_body(stream, b"whole")
        assert client.answer(stream).body == b"whole"


def usable(client, site, stream):
    client.usable()


def either(error, other):
    """An error, or if there is none, the other outcome."""

    def check(client, site, stream):
        fine = client.pong(b"either?.") and client.goaway is None and (stream is None or stream.reset is None)
        (other if fine else error)(client, site, stream)

    return check


CLOSED = connection(STREAM_CLOSED, PROTOCOL_ERROR)
LOOSE = either(stream(STREAM_CLOSED), ignored)  # 5.1 lets closed streams ignore what 6.1 has them refuse
WITHIN_BLOCK = headers(1, BLOCK[:3], END_STREAM)

FRAMES = {
    # 3.4
    "3.4-ping-before-settings": (None, ping(), silent),
    "3.4-headers-before-settings": (None, headers(1, BLOCK, 5), silent),
    "3.4-settings-ack-first": (None, settings(flags=ACK), silent),
    # 4.1, 4.2
    "4.1-unknown-type": (fresh, frame(0xFA, 0xFF, 0, b"unknown"), ignored),
    "4.1-unknown-type-on-a-stream": (opened, frame(0xFA, 0xFF, 1, b"unknown"), ignored),
    "4.1-unknown-type-on-an-idle-stream": (fresh, frame(0xFA, 0, 99, b"unknown"), either(connection(PROTOCOL_ERROR), ignored)),
    "4.1-unused-flags-of-ping": (fresh, ping(flags=0xFE), ignored),
    "4.1-unused-flags-of-window-update": (opened, frame(WINDOW_UPDATE, 0xFF, 1, b"\0\0\0\1"), ignored),
    "4.1-unused-flags-of-data": (opened, data(1, b"", 0xF6), ignored),
    "4.1-reserved-bit": (opened, frame(WINDOW_UPDATE, 0, 0x80000001, b"\0\0\0\1"), ignored),
    "4.1-reserved-bit-of-increment": (opened, frame(WINDOW_UPDATE, 0, 1, b"\x80\0\0\1"), ignored),
    "4.2-data-too-long": (opened, data(1, bytes(16385)), stream(FRAME_SIZE_ERROR)),
    "4.2-headers-too-long": (fresh, headers(1, BLOCK + literal("x", "y" * 16384), 5), connection(FRAME_SIZE_ERROR)),
    "4.2-settings-too-long": (fresh, frame(SETTINGS, 0, 0, bytes(16386)), connection(FRAME_SIZE_ERROR)),
    "4.2-unknown-too-long": (fresh, frame(0xFA, 0, 0, bytes(16385)), connection(FRAME_SIZE_ERROR)),
    "4.2-length-of-16-mebibytes": (fresh, frame(0xFA, 0, 0, b"", 0xFFFFFF), connection(FRAME_SIZE_ERROR)),
    # 4.3, 6.10
    "4.3-data-within-a-block": (fresh, WITHIN_BLOCK + data(1, b"x"), connection(PROTOCOL_ERROR)),
    "4.3-headers-within-a-block": (fresh, WITHIN_BLOCK + headers(3, BLOCK, 5), connection(PROTOCOL_ERROR)),
    "4.3-ping-within-a-block": (fresh, WITHIN_BLOCK + ping(), connection(PROTOCOL_ERROR)),
    "4.3-priority-within-a-block": (fresh, WITHIN_BLOCK + frame(PRIORITY, 0, 1, b"\0\0\0\0\1"), connection(PROTOCOL_ERROR)),
    "5.5-unknown-within-a-block": (fresh, WITHIN_BLOCK + frame(0xFA, 0, 1), connection(PROTOCOL_ERROR)),
    "6.10-continuation-of-another": (fresh, WITHIN_BLOCK + frame(CONTINUATION, 4, 3, BLOCK[3:]), connection(PROTOCOL_ERROR)),
    "6.10-continuation-on-0": (fresh, WITHIN_BLOCK + frame(CONTINUATION, 4, 0, BLOCK[3:]), connection(PROTOCOL_ERROR)),
    "6.10-continuation-behind-a-block": (held, frame(CONTINUATION, 4, 1, BLOCK[3:]), connection(PROTOCOL_ERROR)),
    "6.10-continuation-behind-data": (opened, data(1) + frame(CONTINUATION, 4, 1), connection(PROTOCOL_ERROR)),
    "6.10-continuation-alone": (fresh, frame(CONTINUATION, 4, 1, BLOCK), connection(PROTOCOL_ERROR)),
    # 5.1: idle
    "5.1-idle-data": (fresh, data(1, b"x"), connection(PROTOCOL_ERROR)),
    "5.1-idle-rst-stream": (fresh, rst_stream(1), connection(PROTOCOL_ERROR)),
    "5.1-idle-window-update": (fresh, window_update(1, 1), connection(PROTOCOL_ERROR)),
    "5.1-idle-even-data": (held, data(2, b"x"), connection(PROTOCOL_ERROR)),
    "5.1-idle-priority": (fresh, frame(PRIORITY, 0, 7, b"\0\0\0\0\1"), ignored),
    # half-closed (remote)
    "5.1-half-closed-data": (held, data(1, b"x"), stream(STREAM_CLOSED)),
    "5.1-half-closed-headers": (held, headers(1, BLOCK, 5), stream(STREAM_CLOSED)),
    "5.1-half-closed-window-update": (held, window_update(1, 1), ignored),
    "5.1-half-closed-priority": (held, frame(PRIORITY, 0, 1, b"\0\0\0\0\1"), ignored),
    # closed
    "5.1-reset-data": (reset, data(1, b"x"), LOOSE),
    "5.1-reset-headers": (reset, headers(1, literal("x", "y"), 5), LOOSE),
    "5.1-reset-again": (reset, rst_stream(1), either(stream(STREAM_CLOSED), ignored)),
    "5.1-reset-window-update": (reset, window_update(1, 1), either(stream(STREAM_CLOSED), ignored)),
    "5.1-closed-data": (closed, data(1, b"x"), either(connection(STREAM_CLOSED), ignored)),
    "5.1-closed-headers": (closed, headers(5, BLOCK, 5), either(CLOSED, ignored)),
    "5.1-closed-continuation": (closed, frame(CONTINUATION, 4, 5, BLOCK), connection(PROTOCOL_ERROR, STREAM_CLOSED)),
    "5.1-closed-rst-stream": (closed, rst_stream(1), ignored),
    "5.1-closed-window-update": (closed, window_update(1, 1), ignored),
    "5.1-closed-priority": (closed, frame(PRIORITY, 0, 1, b"\0\0\0\0\1"), ignored),
    # 5.1.1
    "5.1.1-even": (fresh, headers(2, BLOCK, 5), connection(PROTOCOL_ERROR)),
    "5.1.1-stream-0": (fresh, headers(0, BLOCK, 5), connection(PROTOCOL_ERROR)),
    "5.1.1-skipped-then-used": (closed, headers(3, BLOCK, 5), CLOSED),
    "5.1.1-skipped-then-used-with-a-body": (closed, headers(3, POST, 4), CLOSED),
    "5.1.1-skipped-then-data": (closed, data(3, b"x"), either(CLOSED, ignored)),
    "5.1.1-used-twice": (closed, headers(1, BLOCK, 5), either(CLOSED, ignored)),
    # 5.3
    "5.3-priority-on-itself": (opened, frame(PRIORITY, 0, 1, b"\0\0\0\1\1"), either(stream(PROTOCOL_ERROR), ignored)),
    "6.3-priority-on-0": (fresh, frame(PRIORITY, 0, 0, b"\0\0\0\0\1"), connection(PROTOCOL_ERROR)),
    "6.3-priority-of-4-bytes": (opened, frame(PRIORITY, 0, 1, bytes(4)), stream(FRAME_SIZE_ERROR)),
    # 6.1, 6.2
    "6.1-data-on-0": (fresh, data(0, b"x"), connection(PROTOCOL_ERROR)),
    "6.1-padding-of-all": (opened, frame(DATA, PADDED, 1, b"\x06hello"), connection(PROTOCOL_ERROR)),
    "6.1-padding-beyond": (opened, frame(DATA, PADDED, 1, b"\xffhello"), connection(PROTOCOL_ERROR)),
    "6.1-padded-without-a-length": (opened, frame(DATA, PADDED, 1), connection(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    "6.1-nothing-but-padding": (opened, data(1, b"", pad=255), ignored),
    "6.2-padding-beyond": (fresh, frame(HEADERS, 5 | PADDED, 1, b"\xff" + BLOCK), connection(PROTOCOL_ERROR)),
    "6.2-padded-without-a-length": (fresh, frame(HEADERS, 5 | PADDED, 1), connection(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    "6.2-priority-cut": (fresh, frame(HEADERS, 5 | PRIORITIZED, 1, b"\0\0"), connection(PROTOCOL_ERROR, FRAME_SIZE_ERROR)),
    # 6.4
    "6.4-rst-stream-on-0": (fresh, rst_stream(0), connection(PROTOCOL_ERROR)),
    "6.4-rst-stream-of-3-bytes": (opened, frame(RST_STREAM, 0, 1, bytes(3)), connection(FRAME_SIZE_ERROR)),
    "6.4-rst-stream-of-5-bytes": (opened, frame(RST_STREAM, 0, 1, bytes(5)), connection(FRAME_SIZE_ERROR)),
    # 6.5
    "6.5-on-a-stream": (opened, frame(SETTINGS, 0, 1), connection(PROTOCOL_ERROR)),
    "6.5-ack-with-payload": (fresh, frame(SETTINGS, ACK, 0, bytes(6)), connection(FRAME_SIZE_ERROR)),
    "6.5-of-5-bytes": (fresh, frame(SETTINGS, 0, 0, bytes(5)), connection(FRAME_SIZE_ERROR)),
    "6.5-empty": (fresh, settings(), ignored),
    "6.5.2-unknown": (fresh, settings((0xFAFA, 1), (0, 7)), ignored),
    "6.5.2-enable-push-2": (fresh, settings((ENABLE_PUSH, 2)), connection(PROTOCOL_ERROR)),
    "6.5.2-window-2-to-the-31": (fresh, settings((INITIAL_WINDOW_SIZE, 2**31)), connection(FLOW_CONTROL_ERROR)),
    "6.5.2-frames-below-16384": (fresh, settings((MAX_FRAME_SIZE, 16383)), connection(PROTOCOL_ERROR)),
    "6.5.2-frames-of-2-to-the-24": (fresh, settings((MAX_FRAME_SIZE, 2**24)), connection(PROTOCOL_ERROR)),
    "6.5.2-frames-up-to-the-most": (fresh, settings((MAX_FRAME_SIZE, 2**24 - 1)), ignored),
    "6.5.2-no-streams-of-yours": (fresh, settings((MAX_CONCURRENT_STREAMS, 0)), ignored),
    "8441-3-connect-protocol-2": (fresh, settings((ENABLE_CONNECT_PROTOCOL, 2)), either(connection(PROTOCOL_ERROR), ignored)),
    "9218-2.1-priorities-2": (fresh, settings((NO_RFC7540_PRIORITIES, 2)), either(connection(PROTOCOL_ERROR), ignored)),
    # 6.6
    "6.6-push-promise": (opened, frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + BLOCK), connection(PROTOCOL_ERROR)),
    # 6.7
    "6.7-on-a-stream": (opened, frame(PING, 0, 1, bytes(8)), connection(PROTOCOL_ERROR)),
    "6.7-of-7-bytes": (fresh, ping(bytes(7)), connection(FRAME_SIZE_ERROR)),
    "6.7-of-9-bytes": (fresh, ping(bytes(9)), connection(FRAME_SIZE_ERROR)),
    "6.7-ack-of-nothing": (fresh, ping(flags=ACK), ignored),
    # 6.8
    "6.8-on-a-stream": (opened, frame(GOAWAY, 0, 1, bytes(8)), connection(PROTOCOL_ERROR)),
    "6.8-of-7-bytes": (fresh, frame(GOAWAY, 0, 0, bytes(7)), connection(FRAME_SIZE_ERROR)),
    # 6.9
    "6.9-by-0": (fresh, window_update(0, 0), connection(PROTOCOL_ERROR)),
    "6.9-by-0-on-a-stream": (held, window_update(1, 0), stream(PROTOCOL_ERROR)),
    "6.9-of-3-bytes": (fresh, frame(WINDOW_UPDATE, 0, 0, bytes(3)), connection(FRAME_SIZE_ERROR)),
    "6.9-of-5-bytes": (opened, frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1\0"), connection(FRAME_SIZE_ERROR)),
    "6.9.1-beyond-the-most": (fresh, window_update(0, BIGGEST), connection(FLOW_CONTROL_ERROR)),
    "6.9.1-beyond-the-most-on-a-stream": (held, window_update(1, BIGGEST), stream(FLOW_CONTROL_ERROR)),
    "6.9.2-settings-beyond-the-most": (
        held,
        window_update(1, BIGGEST - 65535) + settings((INITIAL_WINDOW_SIZE, 65536)),
        stream(FLOW_CONTROL_ERROR),  # of the connection, says the RFC; no window is overrun either way
    ),
    # 7
    "7-unknown-code": (opened, rst_stream(1, 0xFAFAFAFA), usable),
    # 9218 7.1
    "9218-7.1-priority-update": (opened, frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1, i"), ignored),
    "9218-7.1-priority-update-on-a-stream": (
        opened,
        frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\1u=1"),
        either(connection(PROTOCOL_ERROR), ignored),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frame(site, name):
    state, sent, outcome = FRAMES[name]
    client = Client(site.socket(), bare=state is None)
    stream = state(client, site) if state else None
    client.send(sent)
    outcome(client, site, stream)
    client.close()


# --- 3: starting ------------------------------------------------------------------------------------------------------
def test_3_4_settings_come_first_and_are_acknowledged(client):
    """That SETTINGS are the first frame, the client sees to itself."""
    client.until(lambda: client.acks == 1)
    client.configure((INITIAL_WINDOW_SIZE, 1000))
    client.until(lambda: client.acks == 2)
    assert client.usable().peer[MAX_CONCURRENT_STREAMS] >= 100  # what 6.5.2 recommends


def test_3_4_byte_by_byte(site):
    client = Client(site.socket(), start=b"", bare=True)
    for byte in PREFACE + settings() + headers(1, BLOCK, 5):
        client.sock.sendall(bytes([byte]))
    client.account(settings())
    assert client.answer(client._new(1)).body == b"ok"
    client.close()


def test_3_4_requests_behind_the_preface(site):
    """A client does not wait for the server's SETTINGS."""
    path = site.path("/echo")
    request = headers(1, block(path, method=b"\x83"), END_HEADERS) + data(1, b"early", END_STREAM)
    client = Client(site.socket(), start=PREFACE + settings() + request, bare=True)
    client.account(settings())
    assert client.answer(client._new(1)).body == b"early"
    client.close()


@pytest.mark.parametrize("start", [PREFACE[:-1] + b"!", PREFACE[:18] + b"XX\r\n\r\n" + bytes(64)])
def test_3_4_another_preface(site, start):
    """A connection error, of which HTTP/2 need not be spoken."""
    sock = site.socket()
    sock.sendall(start)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while sock.recv(65536):
            pass
    sock.close()


# --- 4.3: field blocks ------------------------------------------------------------------------------------------------
def block(path, *rest, method=b"\x82"):
    """A request that leaves the dynamic table alone, and what follows it."""
    return method + b"\x86\x01" + string("web.mesh") + b"\x04" + string(path) + b"".join(rest)


KEPT = literal("x-kept", "1", 0x40)  # entry 62 from now on: b"\xbe"


def x_kept(client, site):
    """What the origin gets of a request with the entry 62."""
    path = site.path()
    client.answer(client.raw(block(path, b"\xbe")))
    return site.origin.find(path).values("x-kept")


def test_4_3_the_block_of_a_malformed_request(client, site):
    """It changes the dynamic table as any other."""
    client.malformed(client.raw(block("/", KEPT, literal("X-Upper", "2"))))
    assert client.goaway or x_kept(client, site) == [b"1"]


def test_4_3_the_block_of_a_stream_reset_at_once(client, site):
    client.raw(block(site.path("/hold"), KEPT))
    client.send(rst_stream(1))
    assert x_kept(client, site) == [b"1"]


def test_4_3_the_block_of_a_refused_stream(client, site):
    """Too many streams at a time (5.1.2): the one too many is refused, its fields are remembered."""
    client.until(lambda: client.acks)
    limit = client.peer[MAX_CONCURRENT_STREAMS]
    streams = [client.open(post(site.path("/echo"))) for _ in range(limit)]
    refused = client.raw(block(site.path("/"), KEPT))
    client.until(lambda: refused.ended)
    if not client.goaway:
        assert refused.reset in (REFUSED_STREAM, PROTOCOL_ERROR)
        for stream in streams:
            client.send_body(stream, b"x")
        for stream in streams:
            client.answer(stream)
        assert x_kept(client, site) == [b"1"]
    else:
        client.connection_error(PROTOCOL_ERROR, ENHANCE_YOUR_CALM, REFUSED_STREAM)


def test_4_3_trailers_are_in_the_same_table(client, site):
    path = site.path("/echo")
    stream = client.raw(block(path, method=b"\x83"), END_HEADERS)
    client.send(data(1, b"x"), headers(1, KEPT, END_HEADERS | END_STREAM))
    assert client.answer(stream).body == b"x"
    assert x_kept(client, site) == [b"1"]


@pytest.mark.parametrize("size", [1, 7, 60])
def test_6_10_pieces(client, site, size):
    """END_STREAM stands at HEADERS, END_HEADERS at the last CONTINUATION; empty pieces are pieces, too."""
    path = site.path()
    whole = block(path, literal("x-long", "y" * 100))
    cuts = [whole[:size], b"", whole[size : size * 2], whole[size * 2 :]]
    stream = client.raw(cuts[0], END_STREAM)
    client.send(*(frame(CONTINUATION, END_HEADERS * (at == 2), 1, cut) for at, cut in enumerate(cuts[1:])))
    assert client.answer(stream).status == 200
    assert site.origin.find(path).values("x-long") == [b"y" * 100]


# --- 5, 6: streams and settings ---------------------------------------------------------------------------------------
def test_4_2_the_longest_data(client, site):
    """16384 bytes in one frame; the answer is cut as the client's own limit says, which the client checks."""
    body = bytes(range(256)) * 64
    assert client.ask(post(site.path("/echo")), body=body).body == body


def test_4_2_longer_frames_when_allowed(site):
    client = site.connect((MAX_FRAME_SIZE, 1 << 20), (INITIAL_WINDOW_SIZE, 1 << 20))
    client.send(window_update(0, 1 << 20))
    client.receive_window += 1 << 20
    assert len(client.ask(get(site.path("/bytes/300000"))).body) == 300000
    client.close()


def test_5_1_1_the_highest_stream(client):
    """No other can follow; the connection may end."""
    assert client.answer(client.open(get(), END_STREAM, number=BIGGEST)).status == 200


def test_5_1_1_skipped_streams(client, site):
    for number in (7, 101, 100001):
        assert client.answer(client.open(get(site.path()), END_STREAM, number=number)).status == 200


def test_5_1_1_a_skipped_stream_while_another_is_open(client, site):
    """A connection error, whether or not anything else is under way."""
    path = site.path("/hold")
    client.open(get(path), END_STREAM, number=5)
    site.origin.begun(path)
    client.send(headers(3, BLOCK, 5))
    client.connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


def test_5_1_1_streams_out_of_order_reach_nobody(client, site):
    first, second = site.path(), site.path()
    client.answer(client.open(get(first), END_STREAM, number=9))
    client.send(headers(7, block(second), 5))
    client.connection_error(PROTOCOL_ERROR, STREAM_CLOSED)
    site.connect().usable().close()
    assert not site.origin.reached(second)


def test_5_1_1_a_skipped_stream_below_many_others(client, site):
    """However often ids were skipped since; what was still under way of one that was opened and reset is no such thing."""
    client.open(post(site.path()), number=3)
    client.send(rst_stream(3))
    del client.streams[3]
    for number in range(7, 103, 4):
        client.open(get(site.path()), END_STREAM, number=number)
    client.until(lambda: all(stream.ended for stream in client.streams.values()))
    client.send(headers(3, BLOCK, 5)).usable()
    client.send(headers(1, BLOCK, 5))
    client.connection_error(PROTOCOL_ERROR, STREAM_CLOSED)


def test_5_1_2_a_place_is_free_again(client, site):
    """Far more streams than may be open at a time, one after another."""
    client.until(lambda: client.acks)
    for _ in range(client.peer[MAX_CONCURRENT_STREAMS] + 20):
        client.ask(get(site.path()))


def test_5_many_streams_at_a_time(client, site):
    paths = [site.path("/echo") for _ in range(50)]
    streams = [client.open(post(path)) for path in paths]
    for part in (b"a", b"b"):
        for stream in streams:
            client.send(data(stream.id, part))
    for stream in reversed(streams):
        client.send(data(stream.id, str(stream.id).encode(), END_STREAM))
    for stream in streams:
        assert client.answer(stream).body == b"ab%d" % stream.id


def test_5_answers_come_as_they_are_ready(client, site):
    """A request that waits holds up no other."""
    stream = held(client, site)
    for _ in range(3):
        client.usable()
    assert not stream.blocks
    site.release(stream.path)
    assert client.answer(stream).status == 200


def test_5_3_priority_with_headers(client, site):
    for priority in ((0, 0), (0x80000000, 255), (99, 15)):
        number = max(client.streams, default=-1) + 2
        client._new(number)
        client.send(headers(number, block(site.path()), 5, priority=priority))
        assert client.answer(client.streams[number]).status == 200


def test_6_2_padding_with_headers(client, site):
    for pad in (0, 1, 255):
        number = max(client.streams, default=-1) + 2
        client._new(number)
        client.send(headers(number, block(site.path()), 5, pad=pad, priority=(0, 15)))
        assert client.answer(client.streams[number]).status == 200


def test_6_1_padding_is_no_content(client, site):
    path = site.path("/echo")
    stream = client.open(post(path))
    client.send(data(1, b"one", pad=0), data(1, b"two", pad=100), data(1, b"", END_STREAM, pad=255))
    assert client.answer(stream).body == b"onetwo"
    assert site.origin.find(path).body == b"onetwo"


def test_6_4_a_reset_goes_across(client, site):
    """The origin learns that nobody waits any more."""
    path = site.path("/echo")
    stream = client.open(post(path))
    client.send(data(1, b"part"))
    site.origin.begun(path)
    client.send(rst_stream(1))
    wait_until(lambda: path.encode() in site.origin.cancelled, what="the origin knows")
    assert stream.reset is None or stream.reset == CANCEL
    client.usable()
    assert not site.origin.reached(path)


def test_6_4_a_reset_of_the_origin_comes_across(client, site):
    """A body that was cut off is not taken for a whole one; what there is of it arrives."""
    stream = client.request(get(site.path("/cut")))
    client.until(lambda: stream.ended)
    assert stream.reset not in (None, NO_ERROR), stream
    assert stream.body == b"01234"
    client.usable()


def test_6_5_3_settings_are_acknowledged_in_order(client):
    for size in (1, 100, 1000):
        client.configure((INITIAL_WINDOW_SIZE, size))
    client.until(lambda: client.acks == 4)


def test_6_5_the_last_of_equal_settings_counts(client, site):
    client.send(settings((INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, 5)))
    client.until(lambda: client.acks == 2)
    client.replenish = False
    stream = client.request(get(site.path("/bytes/10")))
    client.until(lambda: len(stream.body) == 5)
    client.grant(stream, 5)
    assert len(client.answer(stream).body) == 10


@pytest.mark.parametrize("size", [0, 100, 4096, 65536, 2**32 - 1])
def test_6_5_2_header_table_size(site, size):
    """What weir encodes with stays within the client's table: hpack checks that, and that a change is announced."""
    client = site.connect((HEADER_TABLE_SIZE, size))
    client.until(lambda: client.acks)
    for _ in range(3):
        client.ask(get(site.path("/trailers")))
    client.configure((HEADER_TABLE_SIZE, 50))
    client.until(lambda: client.acks == 2)
    client.ask(get(site.path("/trailers")))
    client.close()


def test_6_7_ping(client):
    for payload in (b"\0" * 8, b"\xff" * 8, b"12345678"):
        client.send(ping(payload))
        client.until(lambda: client.pongs)
        assert client.pongs.pop(0) == payload


def test_6_7_ping_within_a_response(site):
    """It is not kept waiting by a body that cannot be sent."""
    client = site.connect((INITIAL_WINDOW_SIZE, 0))
    client.replenish = False
    stream = client.request(get(site.path("/bytes/100000")))
    client.until(lambda: stream.blocks)
    assert client.pong()
    client.close()


def test_6_8_goaway_of_the_client(client, site):
    """What was asked before is answered still; then the connection may end."""
    stream = held(client, site)
    client.send(goaway(0, NO_ERROR, b"bye"))
    client.pong()
    site.release(stream.path)
    assert client.answer(stream).body == b"ok"


def test_6_8_goaway_with_an_unknown_code(client, site):
    stream = held(client, site)
    client.send(goaway(0, 0xFAFAFAFA))
    client.pong()
    site.release(stream.path)
    client.until(lambda: stream.ended)  # answered or not: the client did not say that it goes in peace


# --- 5.2, 6.9: flow control -------------------------------------------------------------------------------------------
# That no frame overruns a window, the client checks with every frame.
def test_6_9_1_a_window_of_1(site):
    client = site.connect((INITIAL_WINDOW_SIZE, 1))
    client.replenish = False
    stream = client.request(get(site.path("/bytes/50")))
    for size in range(1, 51):
        client.until(lambda: len(stream.body) == size)
        assert client.pong(b"%08d" % size)
        assert len(stream.body) == size
        client.grant(stream, 1)
    client.answer(stream)
    client.close()


def test_6_9_1_a_window_of_0(site):
    """Heads and trailers pass, content does not."""
    client = site.connect((INITIAL_WINDOW_SIZE, 0))
    client.replenish = False
    stream = client.request(get(site.path("/trailers")))
    empty = client.ask(get(site.path("/status/204")))
    assert empty.status == 204
    client.until(lambda: stream.blocks)
    assert client.pong() and stream.body == b""
    client.grant(stream, 3)  # one more than needed: an end without content may wait for a window, too
    assert client.answer(stream).trailers == [(b"x-sum", b"7")]
    client.close()


def test_6_9_1_the_window_of_the_connection(client, site):
    """Two streams share 65535 bytes."""
    client.replenish = False
    streams = [client.request(get(site.path("/bytes/60000"))) for _ in range(2)]
    client.until(lambda: client.receive_window == 0)
    assert client.pong()
    client.receive_window += 60000
    client.send(window_update(0, 60000))
    assert sum(len(client.answer(stream).body) for stream in streams) == 120000


def test_6_9_2_settings_change_windows_of_open_streams(site):
    client = site.connect((INITIAL_WINDOW_SIZE, 0))
    client.replenish = False
    stream = client.request(get(site.path("/bytes/100")))
    client.until(lambda: stream.blocks)
    client.configure((INITIAL_WINDOW_SIZE, 30))
    client.until(lambda: len(stream.body) == 30)
    assert client.pong() and len(stream.body) == 30
    client.configure((INITIAL_WINDOW_SIZE, 100))
    assert len(client.answer(stream).body) == 100
    client.close()


def test_6_9_2_a_negative_window(client, site):
    """It has to be refilled above 0 before anything is sent."""
    client.replenish = False
    stream = client.request(get(site.path("/bytes/70000")))
    client.until(lambda: len(stream.body) == 65535)
    client.configure((INITIAL_WINDOW_SIZE, 100))
    client.until(lambda: client.acks == 2)
    client.receive_window += 10000
    client.send(window_update(0, 10000))
    client.grant(stream, 65435, connection=False)
    assert stream.receive_window == 0 and client.pong() and len(stream.body) == 65535
    client.grant(stream, 5000, connection=False)
    assert len(client.answer(stream).body) == 70000


def overrun(client, streams):
    """Sends more than it may until it is told so. Once a PING is answered, nothing may be accepted beyond the windows; once
    another is, since the first answer may overtake a WINDOW_UPDATE."""
    for stream in streams:
        client.send(data(stream.id, bytes(16384)))
        if stream.send_window >= 0 and client.send_window >= 0:
            continue
        alive = [client.pongs.clear() or client.pong(word) for word in (b"first...", b"second..")]
        if not all(alive) or client.goaway or stream.reset is not None:
            return stream
        assert stream.send_window >= 0 and client.send_window >= 0, f"accepted beyond the window: {client}"
    return None


def test_6_9_1_a_client_that_overruns_the_window_of_a_stream(client, site):
    stream = client.open(post(site.path("/stall")))
    assert overrun(client, [stream] * 4096), "no end to what is taken for an origin that reads nothing"
    client.stream_error(stream, FLOW_CONTROL_ERROR)


def test_6_9_1_a_client_that_overruns_the_window_of_the_connection(client, site):
    """No stream is overrun, all of them together are; unless the connection's window is wider than all streams may use."""
    client.until(lambda: client.acks)

    def streams():
        for _ in range(client.peer[MAX_CONCURRENT_STREAMS]):
            stream = client.open(post(site.path("/stall")))
            while stream.send_window >= 16384:
                yield stream

    if overrun(client, streams()):
        client.connection_error(FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("kind", ["reset", "padding", "answered", "refused"])
def test_6_9_no_window_gets_lost(client, site, kind):
    """What is not passed on counts as read, too: twice the connection's window goes through."""
    client.until(lambda: client.acks)
    client.pong()
    left = 2 * client.send_window + 65535
    while left > 0:
        fields = post("/", ("X-Upper", "1")) if kind == "refused" else post(site.path("/early" if kind == "answered" else "/echo"))
        stream = client.open(fields)
        if not client.until(lambda: client.send_window >= 12800) and kind == "refused":
            return client.connection_error(PROTOCOL_ERROR)
        pieces = [data(stream.id, b"", pad=255)] * 50 if kind == "padding" else [data(stream.id, bytes(12800))]
        left -= 12800
        client.send(*pieces, rst_stream(stream.id) if kind == "reset" else data(stream.id, b"", END_STREAM))
        if kind in ("padding", "answered"):
            client.until(lambda: stream.ended)
    client.usable()


def test_6_9_big_bodies_both_ways(client, site):
    """Far more than any window."""
    body = bytes(range(256)) * 4096
    path = site.path("/echo")
    stream = client.open(post(path))
    client.send_body(stream, body)
    assert client.answer(stream).body == body


# --- 8: messages ------------------------------------------------------------------------------------------------------
# "@" stands for a path of the case's own. None of these reaches an application.
MALFORMED = {
    # 8.2.1
    "8.2.1-upper-case": get("@", ("X-Upper", "1")),
    "8.2.1-empty-name": get("@", ("", "1")),
    "8.2.1-blank-in-name": get("@", ("x y", "1")),
    "8.2.1-tab-in-name": get("@", ("x\ty", "1")),
    "8.2.1-line-end-in-name": get("@", ("x\r\ny", "1")),
    "8.2.1-whole-field-in-name": get("@", ("x: y\r\nz", "1")),
    "8.2.1-nul-in-name": get("@", ("x\0y", "1")),
    "8.2.1-colon-in-name": get("@", ("x:y", "1")),
    "8.2.1-colon-behind-name": get("@", ("transfer-encoding:", "chunked")),
    "8.2.1-delete-in-name": get("@", ("x\x7fy", "1")),
    "8.2.1-high-byte-in-name": get("@", (b"x\xc3\xa4", "1")),
    "8.2.1-quote-in-name": get("@", ('x"y', "1")),
    "8.2.1-line-end-in-value": get("@", ("x", "1\r\nx-smuggled: 1")),
    "8.2.1-request-in-value": get("@", ("x", "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.mesh\r\n\r\n")),
    "8.2.1-lf-in-value": get("@", ("x", "1\nx-smuggled: 1")),
    "8.2.1-cr-in-value": get("@", ("x", "1\rx-smuggled: 1")),
    "8.2.1-nul-in-value": get("@", ("x", "1\0")),
    "8.2.1-blank-before-value": get("@", ("x", " 1")),
    "8.2.1-blank-behind-value": get("@", ("x", "1 ")),
    "8.2.1-tab-before-value": get("@", ("x", "\t1")),
    "8.2.1-tab-behind-value": get("@", ("x", "1\t")),
    # 8.2.2
    "8.2.2-connection": get("@", ("connection", "close")),
    "8.2.2-connection-names-a-field": get("@", ("connection", "x-auth"), ("x-auth", "1")),
    "8.2.2-keep-alive": get("@", ("keep-alive", "timeout=5")),
    "8.2.2-proxy-connection": get("@", ("proxy-connection", "keep-alive")),
    "8.2.2-transfer-encoding": post("@", ("transfer-encoding", "chunked")),
    "8.2.2-transfer-encoding-identity": get("@", ("transfer-encoding", "identity")),
    "8.2.2-upgrade": get("@", ("upgrade", "websocket")),
    "8.2.2-te": get("@", ("te", "trailers, deflate")),
    "8.2.2-te-chunked": get("@", ("te", "chunked")),
    # 8.3
    "8.3-unknown-pseudo": [*get("@"), (":unknown", "1")],
    "8.3-status-in-a-request": [*get("@"), (":status", "200")],
    "8.3-pseudo-behind-regular": [(":method", "GET"), (":scheme", "http"), ("x", "1"), (":authority", "web.mesh"), (":path", "@")],
    "8.3-path-behind-regular": [*get("@")[:3], ("x", "1"), (":path", "@")],
    "8.3-path-at-both-ends": [*get("@"), ("x", "1"), (":path", "/smuggled")],
    "8.3-method-twice": [*get("@"), (":method", "POST")],
    "8.3-path-twice": [*get("@"), (":path", "/smuggled")],
    "8.3-scheme-twice": [*get("@"), (":scheme", "https")],
    "8.3-authority-twice": [*get("@"), (":authority", "other.mesh")],
    # 8.3.1
    "8.3.1-no-method": get("@")[1:],
    "8.3.1-no-scheme": [get("@")[0], *get("@")[2:]],
    "8.3.1-no-path": [*get("@")[:3], ("x", "1")],
    "8.3.1-nothing": [("x", "1")],
    "8.3.1-empty-path": get(""),
    "8.3.1-empty-method": get("@", method=""),
    "8.3.1-path-without-slash": get("smuggled"),
    "8.3.1-absolute-path": get("http://other.mesh/smuggled"),
    "8.3.1-asterisk-for-get": get("*"),
    "8.3.1-blank-in-path": get("/ HTTP/1.1\x20smuggled"),
    "8.3.1-tab-in-path": get("/\tsmuggled"),
    "8.3.1-line-end-in-path": get("/ HTTP/1.1\r\nHost: web.mesh\r\n\r\nGET /smuggled"),
    "8.3.1-lf-in-path": get("/\nsmuggled"),
    "8.3.1-nul-in-path": get("/\0smuggled"),
    "8.3.1-fragment": get("/smuggled#fragment"),
    "8.3.1-blank-in-method": get("@", method="GET /smuggled HTTP/1.1\r\nx:"),
    "8.3.1-blank-behind-method": get("@", method="GET "),
    "8.3.1-line-end-in-method": get("@", method="GET\r\n"),
    "8.3.1-userinfo": get("@", authority="user@web.mesh"),
    "8.3.1-blank-in-authority": get("@", authority="web.mesh smuggled"),
    "8.3.1-slash-in-authority": get("@", authority="web.mesh/smuggled"),
    "8.3.1-line-end-in-authority": get("@", authority="web.mesh\r\nx-smuggled: 1"),
    "8.3.1-line-end-in-scheme": [(":method", "GET"), (":scheme", "http\r\nx: y"), *get("@")[2:]],
    "8.3.1-list-in-authority": get("@", authority="web.mesh, other.mesh"),
    # 8.1.1
    "8.1.1-length-without-content": post("@", ("content-length", "5")),
    "8.1.1-lengths-in-conflict": post("@", ("content-length", "0"), ("content-length", "5")),
    "8.1.1-length-of-words": post("@", ("content-length", "five")),
    "8.1.1-length-below-0": post("@", ("content-length", "-1")),
    "8.1.1-length-with-a-sign": post("@", ("content-length", "+0")),
    "8.1.1-length-as-a-list": post("@", ("content-length", "0, 5")),
    "8.1.1-length-empty": post("@", ("content-length", "")),
    "8.1.1-length-beyond-64-bits": post("@", ("content-length", "18446744073709551616")),
    # 8.5
    "8.5-connect-with-a-path": [(":method", "CONNECT"), *get("@")[1:]],
    "8.5-connect-without-authority": [(":method", "CONNECT")],
    "8.5-connect-with-a-scheme": [(":method", "CONNECT"), (":scheme", "http"), (":authority", "web.mesh:80")],
    "8.5-connect-without-a-port": [(":method", "CONNECT"), (":authority", "web.mesh")],
    "8441-4-protocol-of-a-get": [*get("@"), (":protocol", "websocket")],
    "8441-4-protocol-without-a-path": [(":method", "CONNECT"), (":protocol", "websocket"), *get("@")[1:3]],
}


def nothing_smuggled(site, path):
    """A later request reached the origin, and none of these did."""
    site.connect().usable().close()
    assert path is None or not site.origin.reached(path)
    for seen in site.origin.seen[site.before :]:
        assert b"smuggled" not in seen.target and not seen.values("x-smuggled")


@pytest.mark.parametrize("name", MALFORMED)
def test_8_malformed(client, site, name):
    path = site.path()
    fields = [(key, path if value == "@" else value) for key, value in MALFORMED[name]]
    client.malformed(client.open(fields, END_STREAM))
    nothing_smuggled(site, path)


# What is malformed shows later than at the head: the origin may have the beginning of it, but never a whole request.
def body(*pieces):
    """DATA with these contents, the last with END_STREAM."""
    return b"".join(data(1, piece, END_STREAM * (at == len(pieces) - 1)) for at, piece in enumerate(pieces))


MALFORMED_LATER = {
    "8.1.1-content-longer-than-its-length": (post("@", ("content-length", "3")), body(b"hello")),
    "8.1.1-content-longer-in-pieces": (post("@", ("content-length", "3")), body(b"he", b"llo", b"smuggled")),
    "8.1.1-content-shorter-than-its-length": (post("@", ("content-length", "50")), body(b"hello")),
    "8.1.1-content-shorter-before-trailers": (
        post("@", ("content-length", "50")),
        data(1, b"hello") + headers(1, literal("x", "1"), 5),
    ),
    "8.1-trailers-do-not-end-the-stream": (post("@"), data(1, b"x") + headers(1, literal("x", "1"), 4)),
    "8.1-pseudo-in-trailers": (post("@"), data(1, b"x") + headers(1, literal(":path", "/smuggled"), 5)),
    "8.1-a-request-as-trailers": (post("@"), data(1, b"x") + headers(1, BLOCK, 5)),
    "8.2.1-upper-case-in-trailers": (post("@"), data(1, b"x") + headers(1, literal("X-Upper", "1"), 5)),
    "8.2.1-line-end-in-trailers": (post("@"), data(1, b"x") + headers(1, literal("x", "1\r\n\r\nGET /smuggled"), 5)),
    "8.2.2-connection-in-trailers": (post("@"), data(1, b"x") + headers(1, literal("transfer-encoding", "chunked"), 5)),
}


@pytest.mark.parametrize("name", MALFORMED_LATER)
def test_8_malformed_later(client, site, name):
    fields, rest = MALFORMED_LATER[name]
    path = site.path("/echo")
    stream = client.open([(key, path if value == "@" else value) for key, value in fields])
    client.send(rest)
    client.malformed(stream)
    nothing_smuggled(site, path)


# What is well-formed, and what the origin gets of it.
EVERY_BYTE = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
EVERY_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
PATHS = ["/?a=b&c=d", "/%0d%0a", "/a//b/../c", "/;p=1", "/a?b?c", "/~!$&'()*+,;=:@-._", "/" + "x" * 8000]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_8_3_1_the_path_goes_through_as_it_is(client, site, path):
    path = f"{path}{'&' if '?' in path else '?'}{site.path()}"
    assert client.ask(get(path)).status == 200
    site.origin.find(path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "odd!method"])
def test_8_3_1_methods(client, site, method):
    path = site.path()
    stream = client.ask(get(path, method=method))
    assert stream.status == 200 and stream.body == (b"" if method == "HEAD" else b"ok")
    assert site.origin.find(path).method == method.encode()


def test_8_3_1_asterisk_for_options(client, site):
    assert client.ask(get("*", method="OPTIONS")).status == 200
    assert [seen.target for seen in site.origin.seen[site.before :]] == [b"*"]


def test_8_2_1_values_of_every_byte(client, site):
    path = site.path()
    value = b"a" + EVERY_BYTE + b"z"
    client.ask(get(path, ("x-value", value), ("x-empty", ""), (EVERY_TOKEN, "1")))
    seen = site.origin.find(path)
    assert seen.values("x-value") == [value] and seen.values("x-empty") == [b""] and seen.values(EVERY_TOKEN) == [b"1"]


def test_8_2_2_te_trailers(client, site):
    """It may be sent, and is for the next hop."""
    assert client.ask(get(site.path(), ("te", "trailers"))).status == 200


def test_8_2_3_cookies(client, site):
    """Crumbs are put together for HTTP/1 (one field), and mean the same in HTTP/2."""
    path = site.path()
    client.ask(get(path, ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")))
    found = site.origin.find(path).values("cookie")
    assert b"; ".join(found) == b"a=1; b=2; c=3; d=4"
    assert len(found) == 1 or site.origin.protocol == "http2"


def test_8_2_order_of_equal_fields(client, site):
    path = site.path()
    client.ask(get(path, *(("x-many", str(at)) for at in range(5))))
    assert b", ".join(site.origin.find(path).values("x-many")).replace(b", ", b",") == b"0,1,2,3,4"


def test_8_3_1_authority_is_the_host(client, site):
    path = site.path()
    client.ask(get(path, authority="web.mesh:80"))
    assert site.origin.find(path).authority == b"web.mesh:80"


def test_8_3_1_host_in_the_place_of_authority(client, site):
    path = site.path()
    client.ask([(":method", "GET"), (":scheme", "http"), (":path", path), ("host", "web.mesh")])
    seen = site.origin.find(path)
    assert (seen.authority or b"".join(seen.values("host"))) == b"web.mesh"


@pytest.mark.parametrize("host", ["other.mesh", "web.mesh:81", "", "web.mesh, other.mesh"])
def test_8_3_1_host_beside_another_authority(client, site, host):
    """It is malformed, or the authority alone goes on."""
    path = site.path()
    stream = client.request(get(path, ("host", host)))
    client.until(lambda: stream.ended)
    if stream.status == 200:
        seen = site.origin.find(path)
        assert seen.authority == b"web.mesh" and seen.values("host") in ([], [b"web.mesh"])
    else:
        client.malformed(stream)
        assert not site.origin.reached(path)


def test_8_3_1_host_twice(client, site):
    path = site.path()
    fields = [(":method", "GET"), (":scheme", "http"), (":path", path), ("host", "web.mesh"), ("host", "other.mesh")]
    client.malformed(client.request(fields))
    nothing_smuggled(site, path)


def test_8_3_1_scheme_https(client, site):
    """Whatever the client's scheme was, it is no part of what HTTP/1 carries."""
    path = site.path()
    client.ask([(":method", "GET"), (":scheme", "https"), (":authority", "web.mesh"), (":path", path)])
    site.origin.find(path)


def test_8_1_trailers_of_a_request(client, site):
    path = site.path("/echo")
    stream = client.request(post(path), body=b"hello", trailers=[("x-sum", "5"), ("x-more", "")])
    assert client.answer(stream).body == b"hello"
    seen = site.origin.find(path)
    assert seen.body == b"hello" and seen.trailers == [(b"x-sum", b"5"), (b"x-more", b"")]


def test_8_1_trailers_without_content(client, site):
    path = site.path("/echo")
    client.answer(client.request(post(path), trailers=[("x-sum", "0")]))
    assert site.origin.find(path).trailers == [(b"x-sum", b"0")]


def test_8_1_trailers_of_a_response(client, site):
    stream = client.ask(get(site.path("/trailers"), ("te", "trailers")))
    assert stream.body == b"ok" and stream.trailers == [(b"x-sum", b"7")]


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_8_1_responses_without_content(client, site, status):
    stream = client.ask(get(site.path(f"/status/{status}")))
    assert stream.status == status and stream.body == b""


def test_8_1_head_has_no_content(client, site):
    stream = client.ask(get(site.path(), method="HEAD"))
    assert stream.status == 200 and stream.body == b""
    client.usable()


def test_8_1_interim_responses(client, site):
    stream = client.ask(get(site.path("/interim")))
    assert [dict(block)[b":status"] for block in stream.interims] == [b"103", b"103"]
    assert dict(stream.interims[0])[b"link"] == b"</a.css>"
    assert stream.status == 200 and stream.body == b"ok"


def test_8_1_expectation_of_100(client, site):
    """The client sends its content when it was told to go on, and not before."""
    stream = client.open(post(site.path("/echo"), ("expect", "100-continue"), ("content-length", "5")))
    client.until(lambda: stream.interims)
    assert dict(stream.interims[0])[b":status"] == b"100"
    client.send_body(stream, b"hello")
    assert client.answer(stream).body == b"hello"


def test_8_1_an_answer_before_the_request_ends(client, site):
    """The rest of the request is declined with NO_ERROR once the response is whole; and it is no error to send it."""
    stream = client.open(post(site.path("/early")))
    client.send(data(1, b"some"))
    client.until(lambda: stream.ended)
    assert stream.status == 200 and stream.body == b"ok"
    client.until(lambda: stream.reset is not None)
    assert stream.reset == NO_ERROR
    client.send(data(1, b"more"), data(1, b"", END_STREAM))
    client.usable()


def test_8_1_1_content_of_its_length(client, site):
    path = site.path("/echo")
    stream = client.open(post(path, ("content-length", "10")))
    client.send(body(b"hello", b"", b"hello", b""))
    assert client.answer(stream).body == b"hellohello"
    assert site.origin.find(path).values("content-length") == [b"10"]


def test_8_1_1_length_0(client, site):
    path = site.path("/echo")
    assert client.ask(post(path, ("content-length", "0"))).body == b""
    assert site.origin.find(path).body == b""


def test_8_1_1_content_of_length_0(client, site):
    """Malformed; but the head was a whole request, and may have been answered before the content showed."""
    path = site.path("/echo")
    stream = client.open(post(path, ("content-length", "0")))
    client.send(body(b"GET /smuggled HTTP/1.1\r\nHost: web.mesh\r\n\r\n"))
    client.until(lambda: stream.ended)
    if stream.status != 200:
        client.malformed(stream)
    nothing_smuggled(site, None)
    assert all(seen.body == b"" for seen in site.origin.seen[site.before :])


def test_8_1_1_content_of_a_get(client, site):
    """A request in the content of another stays there."""
    path, inner = site.path("/echo"), b"GET /smuggled HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
    assert client.ask(get(path), body=inner).body == inner
    assert site.origin.find(path).body == inner
    nothing_smuggled(site, None)


def test_8_fields_of_http1_stay_there(client, site):
    """Connection and what it names: the client looks for the names of HTTP/1 in every head."""
    stream = client.ask(get(site.path()))
    assert stream.field("x-mixed-case") == b"Yes"
    assert not stream.field("x-hop")


@pytest.mark.parametrize("site", TO_HTTP1, indirect=True)
def test_8_what_http1_gets(client, site):
    """Byte by byte: no pseudo-header, one Host, one framing."""
    path = site.path("/echo")
    client.ask(post(path, ("x-one", "1"), ("accept", "*/*")), body=b"hello")
    lines = site.origin.find(path).raw.split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines[1:-2]]
    assert lines[0] == b"POST " + path.encode() + b" HTTP/1.1"
    assert names.count(b"host") == 1 and names.count(b"transfer-encoding") + names.count(b"content-length") == 1
    assert not any(line.startswith(b":") for line in lines) and {b"x-one", b"accept"} <= set(names)
    path = site.path()
    client.ask(get(path))
    assert not {b"transfer-encoding", b"content-length"} & {key for key, _ in site.origin.find(path).fields}


# --- 8.5, RFC 8441: tunnels -------------------------------------------------------------------------------------------
def talk(client, stream):
    client.until(lambda: stream.fields)
    assert stream.status == 200, stream
    for word in (b"one", b"two" * 10000):
        known = len(stream.body)
        client.send_body(stream, word, end=False)
        client.until(lambda: len(stream.body) == known + len(word))
        assert stream.body.endswith(word)
    client.send(data(stream.id, b"", END_STREAM))
    client.until(lambda: stream.ended)
    assert stream.reset in (None, NO_ERROR, CANCEL)
    client.usable()


def test_8_5_connect(client, site):
    stream = client.open([(":method", "CONNECT"), (":authority", "web.mesh:80")])
    talk(client, stream)
    assert site.origin.seen[-2].method == b"CONNECT"


def test_8_5_connect_reset(client, site):
    """The client's reset ends the tunnel on the other side."""
    stream = client.open([(":method", "CONNECT"), (":authority", "web.mesh:80")])
    client.until(lambda: stream.fields)
    client.send(rst_stream(1, CONNECT_ERROR))
    client.usable()


def test_8441_3_extended_connect_is_offered(client):
    client.until(lambda: client.acks)
    assert client.peer.get(ENABLE_CONNECT_PROTOCOL) == 1


def websocket(path):
    return [(":method", "CONNECT"), (":protocol", "websocket"), *get(path)[1:], ("sec-websocket-version", "13")]


def test_8441_4_websocket(client, site):
    path = site.path("/chat")
    talk(client, client.open(websocket(path)))
    seen = site.origin.find(path)
    assert seen.values("sec-websocket-version") == [b"13"]
    if site.origin.protocol == "http1":
        assert seen.method == b"GET" and seen.values("upgrade") == [b"websocket"] and len(seen.values("sec-websocket-key")) == 1
    else:
        assert seen.protocol == b"websocket"


# --- RFC 7540 3.2: Upgrade --------------------------------------------------------------------------------------------
H2C = "GET {} HTTP/1.1\r\nHost: web.mesh\r\nConnection: {}\r\nUpgrade: h2c\r\n{}\r\n"


@pytest.mark.parametrize("site", CLEARTEXT, indirect=True)
def test_7540_3_2_upgrade(site):
    """Stream 1 is the request that asked for it; what it said of SETTINGS holds (a window of 5)."""
    path = site.path("/bytes/10")
    sock = site.socket()
    sock.sendall(H2C.format(path, "Upgrade, HTTP2-Settings", "HTTP2-Settings: AAQAAAAF\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    client = Client(sock)
    client.replenish = False
    stream = client._new(1)
    client.until(lambda: len(stream.body) >= 5)
    client.close()


@pytest.mark.parametrize("lines", ["", "HTTP2-Settings: !!\r\n", "HTTP2-Settings: AAQAAAAF\r\nHTTP2-Settings: AAQAAAAF\r\n"])
@pytest.mark.parametrize("site", CLEARTEXT, indirect=True)
def test_7540_3_2_no_upgrade(site, lines):
    """Without exactly one valid HTTP2-Settings the request is one of HTTP/1.1."""
    sock = site.socket()
    sock.sendall(H2C.format(site.path(), "Upgrade, HTTP2-Settings", lines).encode())
    assert sock.recv(13) in (b"HTTP/1.1 200 ", b"HTTP/1.1 400 ")
    sock.close()


# --- RFC 7541 ---------------------------------------------------------------------------------------------------------
UNDECODABLE = {
    "6.1-index-0": b"\x80",
    "2.3.3-index-beyond-the-tables": b"\xbe",
    "2.3.3-index-far-beyond": integer(1 << 20, 7, 0x80),
    "2.3.3-name-beyond-the-tables": b"\x7e" + string("x"),
    "2.3.3-name-beyond-not-indexed": b"\x0f\x2f" + string("x"),
    "4.2-size-behind-a-field": b"\x20",
    "5.1-integer-without-end": b"\xff" * 9 + b"\x7f",
    "5.1-integer-of-40-bytes": b"\xff" + b"\x80" * 40 + b"\x01",
    "5.1-integer-cut": b"\xff",
    "5.1-length-cut": b"\x00\x7f\x80",
    "5.2-name-cut": b"\x00\x05ab",
    "5.2-value-cut": b"\x00\x01x\x05ab",
    "5.2-no-value": b"\x00\x01x",
    "5.2-string-of-2-gigabytes": b"\x00\x01x" + integer(1 << 31, 7),
    "5.2-huffman-eos": b"\x00\x01x\x84\xff\xff\xff\xff",
    "5.2-huffman-long-padding": b"\x00\x01x\x82\x1f\xff",
    "5.2-huffman-padding-of-zeros": b"\x00\x01x\x81\x18",
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_7541_undecodable(client, name):
    client.raw(BLOCK + UNDECODABLE[name])
    client.connection_error(COMPRESSION_ERROR)


def test_7541_4_2_size_beyond_the_setting(client):
    client.until(lambda: client.acks)
    client.raw(integer(client.peer[HEADER_TABLE_SIZE] + 1, 5, 0x20) + BLOCK)
    client.connection_error(COMPRESSION_ERROR)


def test_7541_4_2_two_sizes_at_the_start(client, site):
    """Emptied and full again: what was there is gone."""
    client.answer(client.raw(block(site.path(), KEPT)))
    assert x_kept(client, site) == [b"1"]
    path = site.path()
    client.answer(client.raw(b"\x20" + integer(4096, 5, 0x20) + block(path, literal("x-new", "2", 0x40))))
    path = site.path()
    client.answer(client.raw(block(path, b"\xbe")))
    assert site.origin.find(path).values("x-new") == [b"2"]
    client.raw(block("/", b"\xbf"))
    client.connection_error(COMPRESSION_ERROR)


def test_7541_4_4_an_entry_larger_than_the_table(client, site):
    """It empties the table, and is no error."""
    client.answer(client.raw(block(site.path(), KEPT)))
    path = site.path()
    client.answer(client.raw(block(path, literal("x-large", "y" * 5000, 0x40))))
    assert site.origin.find(path).values("x-large") == [b"y" * 5000]
    client.raw(block("/", b"\xbe"))
    client.connection_error(COMPRESSION_ERROR)


def test_7541_4_4_the_oldest_make_room(client, site):
    entries = [literal(f"x-{at:03}", "y" * 463, 0x40) for at in range(9)]  # of 500 bytes each: 8 fit
    client.answer(client.raw(block(site.path(), *entries)))
    path = site.path()
    client.answer(client.raw(block(path, integer(69, 7, 0x80))))
    assert site.origin.find(path).values("x-001") == [b"y" * 463]
    client.raw(block("/", integer(70, 7, 0x80)))
    client.connection_error(COMPRESSION_ERROR)


def test_7541_what_hpack_makes(client, site):
    """Huffman, tables and all, over many requests."""
    encoder = hpack.Encoder()
    for turn in range(50):
        path = site.path()
        fields = get(path, ("x-turn", str(turn % 7)), ("user-agent", "hpack"), ("x-long", "abc" * turn))
        client.answer(client.raw(encoder.encode(fields)))
        seen = site.origin.find(path)
        assert seen.values("x-turn") == [b"%d" % (turn % 7)] and seen.values("x-long") == [b"abc" * turn]


@pytest.mark.parametrize("site", TO_HTTP2, indirect=True)
def test_7541_6_2_3_never_indexed_stays_so(client, site):
    """An intermediary must use the same representation."""
    path = site.path()
    client.answer(client.raw(block(path, literal("x-secret", "1234", 0x10), literal("x-plain", "1"))))
    assert site.origin.find(path).never_indexed == [b"x-secret"]


@pytest.mark.parametrize("site", TO_HTTP2, indirect=True)
def test_7541_6_2_3_never_indexed_targets_stay_so(client, site):
    """Pseudo-fields are fields in this, and a path may hold a token."""
    path = site.path("/reset-password")
    fields = [(":method", "GET", 0), (":scheme", "http", 0), (":authority", "web.mesh", 0x10), (":path", path, 0x10)]
    client.answer(client.raw(b"".join(literal(*field) for field in fields)))
    assert set(site.origin.find(path).never_indexed) == {b":path", b":authority"}


# --- sizes of heads (RFC 9113 10.5.1) ----------------------------------------------------------------------------------
def test_10_5_1_a_large_head(client, site):
    """32 KiB in 100 fields."""
    path = site.path()
    assert client.ask(get(path, *((f"x-{at:02}", "y" * 320) for at in range(100)))).status == 200
    assert len(site.origin.find(path).fields) >= 100


@pytest.mark.parametrize("count, size", [(1, 100_000), (20, 8000), (3000, 10)])
def test_10_5_1_too_large_a_head(client, site, count, size):
    """431, or an error of the stream or connection."""
    path = site.path()
    stream = client.open(get(path, *((f"x-{at}", "y" * size) for at in range(count))), END_STREAM)
    client.until(lambda: stream.ended)
    if stream.status is not None:
        assert stream.status in (400, 431)
    elif stream.reset is not None:
        assert stream.reset in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM, REFUSED_STREAM, CANCEL)
    else:
        client.connection_error(PROTOCOL_ERROR, ENHANCE_YOUR_CALM, COMPRESSION_ERROR)
    nothing_smuggled(site, path)


# --- RFC 9218 ---------------------------------------------------------------------------------------------------------
def test_9218_5_the_priority_field(client, site):
    path = site.path()
    client.ask(get(path, ("priority", "u=1, i")))
    assert site.origin.find(path).values("priority") == [b"u=1, i"]
