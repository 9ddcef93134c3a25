# SPDX-License-Identifier: Apache-2.0
"""At the edge of what is there: descriptors, pooled connections, clients of the responder."""

import contextlib
import resource
import threading

import pytest

from mesh import Mesh, connect, descriptors
from netns import wait_until
from web import Web, reply, serve

GET = "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
POOL_IDLE = 128  # LIMIT_POOL_IDLE


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


@contextlib.contextmanager
def descriptors_left(sidecar, count):
    """Inside, the proxy can open so many files more."""
    before = resource.prlimit(sidecar.proxy.pid, resource.RLIMIT_NOFILE)
    free = sorted(set(range(1024)) - descriptors(sidecar))  # the limit is one of numbers, and there are gaps
    resource.prlimit(sidecar.proxy.pid, resource.RLIMIT_NOFILE, (free[count], before[1]))
    try:
        yield
    finally:
        resource.prlimit(sidecar.proxy.pid, resource.RLIMIT_NOFILE, before)


def test_who_waits_for_a_descriptor_is_accepted_when_there_is_one(mesh):
    """Nothing tells the proxy of a connection that it could not accept: it looks again."""
    web = Web(mesh)
    with web.origin(serve(reply(headers="Connection: close\r\n"))):
        first = web.connect().send(GET)
        assert first.response()[0] == 200
        wait_until(lambda: web.client.counter("upstream_connections_active") == 0)
        second = web.connect()
        wait_until(lambda: len(web.client.connections()) == 2)
        wait_until(lambda: web.client.counter("upstream_connections_active") == 1)  # dialled early, for the second one
        with descriptors_left(web.client, 0):
            waiting = web.connect().send(GET)
            wait_until(lambda: "connections cannot be accepted" in web.client.proxy.output())
            second.close()  # that gives two, at once
            assert waiting.response()[0] == 200
        for each in (first, waiting):
            each.close()


def test_no_descriptor_for_the_upstream_is_an_answer(mesh):
    """And it says nothing about the endpoint, which stays in use."""
    web = Web(mesh)
    with web.origin(serve()):
        peer = web.connect().send("")
        wait_until(lambda: web.client.connections())
        web.client.weir("conn", "show")
        other = web.connect()
        wait_until(lambda: web.client.counter("upstream_connections_active") == 2)  # both were dialled early
        with descriptors_left(web.client, 1):
            third = web.connect().send(GET)
            status, _, body = third.response()
        assert (status, body) == (503, b"the upstream could not be reached\n")
        assert [row["state"] for row in web.client.show("endpoint", "show")["endpoints"]] == ["up"]
        assert third.send(GET).response()[0] == 200
        for each in (peer, other, third):
            each.close()


def test_a_pool_does_not_grow_without_bound(mesh):
    """As many requests at once as it takes: of the connections no more than the limit are kept for others."""
    web = Web(mesh)
    count = POOL_IDLE + 20
    together = threading.Barrier(count, timeout=60)

    def handler(peer):
        peer.head()
        together.wait()
        peer.send(reply())
        peer.sock.settimeout(None)
        with contextlib.suppress(ConnectionError):
            peer.rest()

    with web.origin(handler) as origin:
        peers = [web.connect().send(GET) for _ in range(count)]
        for peer in peers:
            assert peer.response()[0] == 200
        assert origin.accepted == count
        wait_until(lambda: web.client.counter("upstream_connections_active") == POOL_IDLE)
        for peer in peers:
            peer.close()


def test_a_pooled_connection_is_not_kept_for_ever(mesh):
    web = Web(mesh, timeouts={"pool_idle": "200ms"})
    ended = threading.Event()

    def handler(peer):
        peer.head()
        peer.send(reply())
        assert peer.rest() == b""
        ended.set()

    with web.origin(handler):
        peer = web.connect().send(GET)
        assert peer.response()[0] == 200
        assert ended.wait(30)  # while the client's own is open still
        wait_until(lambda: web.client.counter("upstream_connections_active") == 0)
        peer.close()
