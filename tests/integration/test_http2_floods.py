# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 clients that cost more than they pay (RFC 9113 10.5): whatever they send, and however much, weir's memory stays
within a bound, and others are served. Floods that bring nothing end their connection."""

import struct

import pytest

from h2frames import (
    ACK, COMPRESSION_ERROR, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, PRIORITY, PRIORITY_UPDATE, PROTOCOL_ERROR, data, frame, get,
    headers, integer, literal, ping, plain, post, rst_stream, settings, string, window_update,
)
from h2site import Sites
from mesh import Mesh, resident_kib
from netns import Network, wait_until

BOUND_KIB = 24 << 10
BLOCK = b"\x82\x86\x84\x01" + string("web.mesh")
BAD = BLOCK + literal("X-Upper", "1")


@pytest.fixture(scope="module")
def sites(weir, weir_proxy):
    with Network() as network:
        made = Sites(Mesh(network, weir, weir_proxy), log={"access": False})
        yield made
        made.close()


@pytest.fixture(params=["cleartext-http1", "tls-http2"])
def site(sites, request):
    site = sites[request.param]
    site.connect().usable().close()
    before = resident_kib(site.pid)
    yield site
    assert resident_kib(site.pid) - before < BOUND_KIB
    assert site.sidecar.proxy.alive(), site.sidecar.proxy.output()[-8000:]
    site.connect().usable().close()
    wait_until(lambda: not site.sidecar.connections(), what="the end of all connections")


def streams(frames, count):
    """The frames of so many new streams: frames(id)."""
    return [frames(number) for number in range(1, 2 * count, 2)]


# name: (frames to begin with, the frame again and again or a list of all, how many)
FLOODS = {
    "rapid-reset": (b"", lambda: streams(lambda n: headers(n, BLOCK, 5) + rst_stream(n), 5_000)),
    "resets-of-uploads": (b"", lambda: streams(lambda n: headers(n, BLOCK, 4) + data(n, b"x") + rst_stream(n), 5_000)),
    "resets-provoked": (b"", lambda: streams(lambda n: headers(n, BLOCK, 4) + window_update(n, 0), 5_000)),
    "malformed": (b"", lambda: streams(lambda n: headers(n, BAD, 5), 5_000)),
    "settings": (b"", lambda: [settings((INITIAL_WINDOW_SIZE, 1000 + at % 2)) for at in range(10_000)]),
    "empty-settings": (b"", lambda: [settings()] * 10_000),
    "ping": (b"", lambda: [ping()] * 20_000),
    "empty-data": (headers(1, BLOCK, 4), lambda: [data(1)] * 20_000),
    "empty-continuation": (headers(1, BLOCK, 1), lambda: [frame(CONTINUATION, 0, 1)] * 20_000),
    "small-continuation": (headers(1, BLOCK, 1), lambda: [frame(CONTINUATION, 0, 1, literal("x", "y"))] * 20_000),
    "large-continuation": (headers(1, BLOCK, 1), lambda: [frame(CONTINUATION, 0, 1, literal("x", "y" * 16000))] * 4000),
    "endless-field": (headers(1, b"\0" + integer(1 << 28, 7), 1), lambda: [frame(CONTINUATION, 0, 1, b"x" * 16384)] * 4000),
}
OVER = headers(1, BLOCK, 5) + rst_stream(1)  # a stream that is over before the flood
FLOODS |= {
    "data-behind-the-end": (OVER, lambda: [data(1, b"x")] * 40_000),
    "ends-behind-the-end": (OVER, lambda: [data(1, b"", END_STREAM)] * 40_000),
    "headers-behind-the-end": (OVER, lambda: [headers(1, BLOCK, 5)] * 40_000),
    "priorities-behind-the-end": (OVER, lambda: [frame(PRIORITY, 0, 1, b"\0\0\0\0\1")] * 40_000),
}
CALM = {ENHANCE_YOUR_CALM, PROTOCOL_ERROR, INTERNAL_ERROR, COMPRESSION_ERROR}
ONLY_CALM = {"rapid-reset", "resets-of-uploads", "settings", "empty-settings", "ping", "empty-data"}
ONLY_CALM |= {name for name in FLOODS if name.endswith("-behind-the-end")}


def pour(client, frames):
    """Sends without reading until the other side has enough."""
    for at in range(0, len(frames), 100):
        if client.send(b"".join(frames[at : at + 100])).broken:
            return


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(site, name):
    client = site.connect()
    begin, frames = FLOODS[name]
    client.streams = {number: client._new(number) for number in range(1, 10_001, 2)}
    pour(client.send(begin), frames())
    client.connection_error(*({ENHANCE_YOUR_CALM} if name in ONLY_CALM else CALM), silent=True)
    client.close()


# These may end the connection, or be borne.
BORNE = {
    "credit-behind-the-end": (OVER, lambda: [window_update(1, 1)] * 40_000),
    "priority": (b"", lambda: [frame(PRIORITY, 0, 1 + 2 * at, b"\0\0\0\0\1") for at in range(20_000)]),
    "window-update": (headers(1, BLOCK, 4), lambda: [window_update(1, 1)] * 20_000),
    "unknown": (b"", lambda: [frame(0xFA, 0, 0, b"x" * 100)] * 20_000),
    "pong": (b"", lambda: [ping(flags=ACK)] * 20_000),
    "priority-update": (b"", lambda: [frame(PRIORITY_UPDATE, 0, 0, struct.pack(">I", 1 + 2 * at) + b"u=1") for at in range(10_000)]),
    "padding": (headers(1, BLOCK, 4), lambda: [data(1, b"", pad=255)] * 5_000),
}


@pytest.mark.parametrize("name", BORNE)
def test_a_flood_that_may_be_borne(site, name):
    client = site.connect()
    begin, frames = BORNE[name]
    client._new(1)
    pour(client.send(begin), frames())
    client.pong()
    client.close()


# --- heads ------------------------------------------------------------------------------------------------------------
def test_pings_that_measure(site):
    """gRPC sends one for each DATA that it receives, to learn how much the path holds: that is no flood, however fast."""
    client = site.connect()
    stream = client.open(post(site.path()))
    for turn in range(1, 21):
        client.send((data(stream.id, b"x") + ping(b"measured")) * 500)
        assert client.until(lambda turn=turn: len(client.pongs) == turn * 500)
    client.send(data(stream.id, b"", END_STREAM))
    assert client.answer(stream).status == 200
    client.usable().close()


def test_an_hpack_bomb(site):
    """4 KiB sent once, meant 16,000 times in one head; on many connections."""
    for _ in range(8):
        client = site.connect()
        for number in (1, 3, 5):
            bomb = BLOCK + (literal("x", "y" * 4000, 0x40) if number == 1 else b"") + b"\xbe" * 16_000
            client.raw(bomb[:16384], END_STREAM, number=number)
            client.send(frame(CONTINUATION, END_HEADERS, number, bomb[16384:]))
        client.until(lambda: client.streams[1].ended)
        assert client.goaway or client.streams[1].reset or client.streams[1].status in (400, 431)
        client.close()


def test_fields_of_nothing(site):
    """Empty values cost memory, too."""
    client = site.connect()
    stream = client.raw((BLOCK + literal("x", "") * 4000)[:16384], END_STREAM)
    client.send(frame(CONTINUATION, END_HEADERS, 1, literal("x", "") * 4000))
    client.until(lambda: stream.ended)
    assert client.goaway or stream.reset or stream.status in (400, 431)
    client.close()


def test_large_heads_on_all_streams(site):
    """As many streams as may be, each with as large a head as may be, none of them ending."""
    client = site.connect()
    client.until(lambda: client.acks)
    large = plain([(f"x-{at}", "{" * 500) for at in range(100)])  # which Huffman does not make shorter
    for number in range(1, 2 * client.peer[MAX_CONCURRENT_STREAMS], 2):
        client._new(number)
        block = b"\x83\x86\x01" + string("web.mesh") + b"\x04" + string("/hold") + large
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        client.send(headers(number, pieces[0], 0), *(frame(CONTINUATION, 0, number, piece) for piece in pieces[1:-1]))
        client.send(frame(CONTINUATION, END_HEADERS, number, pieces[-1]))
        if client.broken:
            break
    client.pong()
    assert resident_kib(site.pid) < 96 << 10
    client.close()


# --- readers ----------------------------------------------------------------------------------------------------------
STREAMS, SIZE = 64, 1 << 20  # 64 MiB of responses


@pytest.mark.parametrize("window", [0, 1, 2**31 - 1])
def test_readers_that_do_not_read(site, window):
    """By a stream's window of 0 or 1, or with all windows open and a socket that is not read."""
    before = resident_kib(site.pid)
    client = site.connect((INITIAL_WINDOW_SIZE, window), receive_buffer=4096)
    client.replenish = False
    client.send(window_update(0, 2**31 - 1 - 65535))
    client.receive_window = 2**31 - 1
    paths = [site.path(f"/bytes/{SIZE}") for _ in range(STREAMS)]
    for path in paths:
        client.request(get(path))
    for path in paths:
        site.origin.begun(path)
    if window < 2:
        assert client.pong()
        client.until(lambda: all(len(stream.body) == window and stream.blocks for stream in client.streams.values()))
        assert client.pong()
    else:
        # That it stops growing, not that it did not begin to.
        last = []
        wait_until(lambda: last.append(resident_kib(site.pid)) or len(last) > 20 and last[-1] == last[-20], timeout=120)
    assert resident_kib(site.pid) - before < BOUND_KIB
    client.close()


def test_uploads_to_an_origin_that_does_not_read(site):
    """As much as the windows allow on as many streams as may be."""
    client = site.connect()
    client.until(lambda: client.acks)
    client.pong()
    for _ in range(min(client.peer[MAX_CONCURRENT_STREAMS], 128)):
        stream = client.open(post(site.path("/stall")))
        while stream.send_window >= 16384 and client.send_window >= 16384 and stream.reset is None:
            client.send(data(stream.id, bytes(16384)))
    client.pong()
    client.close()


def test_an_upload_that_nobody_reads(site):
    """Credit comes to an end, however often the client looks for it."""
    client = site.connect()
    stream = client.open(post(site.path("/stall")))
    sent = 0
    while client.pong(b"%08d" % sent) and min(stream.send_window, client.send_window) >= 16384:
        client.send(data(stream.id, bytes(16384)))
        sent += 16384
        assert sent < 64 << 20
    client.close()
