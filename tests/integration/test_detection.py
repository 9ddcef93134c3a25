# SPDX-License-Identifier: Apache-2.0
"""Detection in the captured path: what the first bytes are taken for, however they arrive, and that nothing is lost of
what is taken for something else. And real programs whose first request is followed by bytes."""

import contextlib
import ssl

import pytest

from mesh import Mesh, Origin, connect, service
from netns import output, wait_until
from web import PORT, Web, reply, serve


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


@pytest.fixture
def web(mesh):
    return Web(mesh)


def hello(context, name):
    """A ClientHello, and the two halves of the connection it belongs to."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read(), tls, incoming, outgoing


FIRST_BYTES = {
    "tls": (hello(ssl.create_default_context(), "anything.example")[0], "tls"),
    "memcached": (b"get /key\r\n", "tcp"),
    "rtsp": (b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n", "tcp"),
    "0x16": (b"\x16hello", "tcp"),
    "0x16-0x03": (b"\x16\x03\x03\x00\x05hello", "tcp"),
    "not-the-preface": (b"PRINT\r\n", "tcp"),
}


@pytest.mark.parametrize("step", [1, 1000], ids=["byte-by-byte", "whole"])
@pytest.mark.parametrize("name", FIRST_BYTES)
def test_first_bytes(web, name, step):
    data, protocol = FIRST_BYTES[name]

    def handler(peer):
        assert peer.read(len(data)) == data
        peer.send("heard")
        peer.rest()

    with web.origin(handler):
        peer = web.connect()
        for at in range(0, len(data), step):
            peer.send(data[at : at + step])
        assert peer.read(5) == b"heard"
        assert [row["protocol"] for row in web.client.connections()] == [protocol]
        peer.close()


@pytest.mark.parametrize("step", [1, 1000], ids=["byte-by-byte", "whole"])
def test_the_preface_of_http2(web, step):
    """It is answered with the proxy's own settings, whatever the origin does."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    with web.origin(lambda peer: peer.rest()):
        peer = web.connect()
        for at in range(0, len(preface), step):
            peer.send(preface[at : at + step])
        assert peer.read(9)[3:] == b"\4\0\0\0\0\0"
        assert [row["protocol"] for row in web.client.connections()] == ["http2"]
        peer.close()


@pytest.mark.parametrize("step", [1, 100, 10000])
def test_the_name_in_a_client_hello(mesh, step):
    """An address that is nobody's: the server name decides, and every byte of the hello gets through."""
    other = mesh.network.pod("other")
    web = Web(mesh, services=[service("web.mesh", 443, "web")])
    context = ssl.create_default_context()

    def handler_of(answer, wanted):
        def handler(peer):
            if peer._more():  # not a connection that was made before the name was known
                assert peer.read(len(wanted)) == wanted
                peer.send(answer)

        return handler

    inside, outside = hello(context, "WEB.mesh")[0], hello(context, "elsewhere.example")[0]
    with web.origin(handler_of("mesh", inside)), Origin(other, 443, handler_of("direct", outside)):
        for data, answer in ((inside, b"mesh"), (outside, b"direct")):
            peer = connect(web.client.pod, other.ipv4, 443)
            for at in range(0, len(data), step):
                peer.send(data[at : at + step])
            assert peer.rest() == answer


def test_a_short_message_inside_tls_whose_hello_came_in_pieces(mesh):
    """Waiting for the rest of the hello does not count as waiting for the rest of what comes inside."""
    server = mesh.sidecar("server", tls="strict", inbound=[{"port": PORT}])
    client = mesh.network.pod("client")
    files = mesh.certificate("client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(files["certificate"], files["private_key"])
    context.set_alpn_protocols(["weir/1"])
    with Origin(server.pod, PORT, lambda peer: peer.send(peer.read(1))):
        peer = connect(client, server.ipv4, PORT)
        data, tls, incoming, outgoing = hello(context, None)
        peer.send(data[:5])
        wait_until(lambda: any(row["received"] == 5 for row in server.connections(state="detecting")))
        peer.send(data[5:])

        def step(action):
            while True:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    peer.send(outgoing.read())
                    incoming.write(peer.sock.recv(65536))

        step(tls.do_handshake)
        tls.write(b"x")  # could begin a request, and is all there is
        peer.send(outgoing.read())
        assert step(lambda: tls.read(10)) == b"x"
        peer.close()


# --- real programs ---------------------------------------------------------------------------------------------------

WS_SERVER = """
import asyncio, websockets
async def echo(socket):
    await socket.send("hello")
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, "0.0.0.0", 8080, max_size=None):
        print("ready", flush=True)
        await asyncio.Future()
asyncio.run(main())
"""

WS_CLIENT = """
import asyncio, os, websockets
async def main():
    async with websockets.connect("ws://web.mesh/ws", max_size=None) as socket:
        assert await socket.recv() == "hello"
        for size in (1, 1000, 1000000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
asyncio.run(main())
print("done")
"""


def test_websocket_programs(web):
    web.server.python_start(WS_SERVER, ready=output("ready"))
    assert web.client.pod.python(WS_CLIENT).stdout == "done\n"
    assert web.client.counter("http_requests_total") == 1


CONNECT_CLIENT = """
import http.client
connection = http.client.HTTPConnection("web.mesh", 80)
connection.set_tunnel("inside.example", 8081)
connection.request("GET", "/", headers={"X-Inside": "yes"})
print(connection.getresponse().read().decode())
"""


def test_connect_by_a_program(web):
    def handler(peer):
        assert peer.head().startswith("CONNECT inside.example:8081 HTTP/1.")
        peer.send("HTTP/1.1 200 OK\r\n\r\n")
        assert "X-Inside: yes" in peer.head()
        peer.send(reply("through"))

    with web.origin(handler):
        assert web.client.pod.python(CONNECT_CLIENT).stdout == "through\n"


def test_curl_waits_for_100_continue(web):
    """And uses its connection for what follows."""

    def handler(peer):
        assert "Expect: 100-continue" in peer.head()
        peer.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert peer.read(3) == b"abc"
        peer.send(reply("one"))
        serve(reply("two"))(peer)

    with web.origin(handler) as origin:
        done = web.client.pod.run(
            ["curl", "-sS", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "-d", "abc", "http://web.mesh/",
             "--next", "-sS", "http://web.mesh/"]
        )
        assert done.stdout == "onetwo"
        assert origin.accepted == 1
