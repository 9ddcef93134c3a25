# SPDX-License-Identifier: Apache-2.0
"""What operators see of connections that carry many requests at a time, and of calls that are to be routed."""

import contextlib
import re
import threading

import pytest

from bolt import SERVICE, Bolt, answering, request, response
from h2frames import END_STREAM, Client, Server, data, get, post
from mesh import DEFAULT_TIMEOUT, Mesh, Origin, cluster, connect, service
from netns import wait_until


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Held:
    """A server of HTTP/2 that answers when told to; .streams are those that came."""

    def __init__(self, pod, port):
        self.streams, self.server = [], None
        self.origin = Origin(pod, port, self._serve)

    def _serve(self, peer):
        with contextlib.suppress(ConnectionError):
            self.server = Server(peer.sock)
            peer.sock.settimeout(None)
            while stream := self.server.accept():
                self.streams.append(stream)
            self.server.rest()


def vips(sidecar):
    return {row["name"].split(":")[0]: row["vip4"] for row in sidecar.show("vhost", "show")["virtual_hosts"] if row["vip4"]}


def test_streams_of_http2(mesh):
    pod = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{pod.ipv4}:8080"], protocol="http2")],
        log={"access": True},
    )
    held = Held(pod, 8080)
    with held.origin:
        client = Client(connect(sidecar.pod, vips(sidecar)["web.mesh"], 80).sock)
        client.request(get("/first?a=1"))
        call = [("content-type", "application/grpc"), ("te", "trailers")]
        client.open(post("/shop.Cart/Add", *call))
        client.request(get("/" + "long" * 200))
        wait_until(lambda: len(held.streams) == 3)
        held.server.send(held.server.head(3, [(":status", "200"), ("content-type", "application/grpc")]))
        client.until(lambda: client.streams[3].fields)

        found = sidecar.show("conn", "show", "--streams")
        [row] = found["connections"]
        assert (row["protocol"], row["streams"], row["calls"]) == ("http2", 3, 0)
        assert found["streams_left_out"] == 0
        first, grpc, long = found["streams"]
        assert {one["connection"] for one in found["streams"]} == {row["id"]}
        assert [one["id"] for one in found["streams"]] == [1, 3, 5]
        names = ("protocol", "authority", "service", "method", "path", "status", "grpc_status")
        assert [first[name] for name in names] == ["http2", "web.mesh", None, "GET", "/first?a=1", None, None]
        assert [grpc[name] for name in names] == ["grpc", "web.mesh", "shop.Cart", "Add", "/shop.Cart/Add", 200, None]
        assert long["path"] == ("/" + "long" * 200)[:256]
        for one in found["streams"]:
            assert (one["virtual_host"], one["cluster"], one["endpoint"]) == ("web.mesh:80", "web", f"{pod.ipv4}:8080")
            assert one["age_ms"] >= 0
        plain = sidecar.weir("conn", "show", "--streams").stdout
        assert "STREAMS" in plain and re.search(r"grpc +web\.mesh +shop\.Cart +Add", plain)
        assert "streams_left_out" not in sidecar.show("conn", "show")
        assert sidecar.show("conn", "show", "--streams", "direction=inbound")["streams"] == []

        for stream in held.streams:
            head = [] if stream.id == 3 else [held.server.head(stream.id, [(":status", "204")], END_STREAM)]
            held.server.send(*(head or [data(3, b"", END_STREAM)])).done(stream)
        client.until(lambda: all(one.ended for one in client.streams.values() if one.id != 3))
        client.until(lambda: client.streams[3].ended)
        wait_until(lambda: sidecar.show("conn", "show", "--streams")["streams"] == [], what="none is left")
        assert sidecar.connections()[0]["streams"] == 0
        lines = [line for line in sidecar.said().splitlines() if " msg=request " in line]
        assert len(lines) == 3
        for wanted in (
            " protocol=http2 service=- method=GET request_id=1 authority=web.mesh path=\"/first?a=1\" status=204 ",
            " protocol=grpc service=shop.Cart method=Add request_id=3 authority=web.mesh path=/shop.Cart/Add status=200 ",
        ):
            assert sum(wanted in line for line in lines) == 1


def test_requests_of_http1(mesh):
    """One at a time; its id is which one of the connection it is."""
    pod = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{pod.ipv4}:8080"])],
        log={"access": True},
    )
    go_on = threading.Event()

    def serve(peer):
        while peer.another():
            if "/held" in peer.head():
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                go_on.wait(DEFAULT_TIMEOUT)
                peer.send("ok")
            else:
                peer.send("HTTP/1.1 204 No Content\r\n\r\n")

    with Origin(pod, 8080, serve):
        peer = connect(sidecar.pod, vips(sidecar)["web.mesh"], 80)
        peer.send("DELETE /one HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 204 ")
        assert sidecar.show("conn", "show", "--streams")["streams"] == []
        peer.send("GET /held HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.head().startswith("HTTP/1.1 200 ")
        found = sidecar.show("conn", "show", "--streams")
        [row], [one] = found["connections"], found["streams"]
        names = ("connection", "id", "protocol", "authority", "service", "method", "path", "status", "endpoint")
        assert [one[name] for name in names] == [
            row["id"], 2, "http1", "web.mesh", None, "GET", "/held", 200, f"{pod.ipv4}:8080",
        ]  # fmt: skip
        go_on.set()
        assert peer.read(2) == b"ok"
        peer.close()
    lines = [line for line in sidecar.said().splitlines() if " msg=request " in line]
    assert " protocol=http1 service=- method=DELETE request_id=1 authority=web.mesh path=/one status=204 " in lines[0]
    assert " protocol=http1 service=- method=GET request_id=2 authority=web.mesh path=/held status=200 " in lines[1]


def test_calls_of_bolt(mesh):
    pod = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[service("rpc.mesh", 12200, "rpc", protocol="bolt")],
        clusters=[cluster("rpc", [f"{pod.ipv4}:12200"])],
    )
    held = []
    with Origin(pod, 12200, answering(lambda got: held.append(got))):
        clients = [Bolt(connect(sidecar.pod, vips(sidecar)["rpc.mesh"], 12200)) for _ in range(2)]
        clients[0].send(request(2**32 - 1, method="first"), request(7, method="second"))
        clients[1].send(request(7, "com.acme.Other:2.0", "third"))
        wait_until(lambda: len(held) == 3)
        found = sidecar.show("conn", "show", "--streams", "protocol=bolt")
        assert [row["calls"] for row in found["connections"]] == [2, 1]
        names = ("protocol", "service", "method", "id", "status", "path", "cluster")
        assert [[one[name] for name in names] for one in found["streams"]] == [
            ["bolt", SERVICE, "first", 2**32 - 1, None, None, "rpc"],
            ["bolt", SERVICE, "second", 7, None, None, "rpc"],
            ["bolt", "com.acme.Other:2.0", "third", 7, None, None, "rpc"],
        ]


def test_a_bounded_list(mesh):
    """At most 4096 of a worker; how many more there are is said."""
    pod = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[service("rpc.mesh", 12200, "rpc", protocol="bolt")],
        clusters=[cluster("rpc", [f"{pod.ipv4}:12200"])],
    )
    held = []
    with Origin(pod, 12200, answering(lambda got: held.append(got))):
        for _ in range(2):
            bolt = Bolt(connect(sidecar.pod, vips(sidecar)["rpc.mesh"], 12200))
            bolt.send(*(request(number) for number in range(2500)))
        wait_until(lambda: len(held) == 5000, what="all of them under way")
        found = sidecar.show("conn", "show", "--streams")
        assert len(found["streams"]) == 4096 and found["streams_left_out"] == 5000 - 4096
        assert [row["calls"] for row in found["connections"]] == [2500, 2500]


# --- route explain ----------------------------------------------------------------------------------------------------
ROUTES = [
    {"match": {"method": "createOrder"}, "to": [{"cluster": "write"}]},
    {"match": {"headers": [{"name": "app", "exact": "batch"}]}, "to": [{"cluster": "batch"}]},
    {"match": {"path": "/com.acme.Orders:1.0/list"}, "to": [{"cluster": "list"}]},
    {"match": {"method": "getOrder"}, "to": [{"cluster": "read"}]},
]


@pytest.fixture
def explaining(mesh):
    clusters = [cluster(name, ["127.0.0.1:1"]) for name in ("write", "batch", "list", "read", "web")]
    ports = [{"port": 80}, {"port": 12200, "protocol": "bolt"}]
    return mesh.sidecar(
        "client",
        services=[
            {"name": "com.acme.Orders:1.0", "ports": ports, "routes": ROUTES},
            {"name": "com.acme.Orders", "ports": [{"port": 12200, "protocol": "bolt"}], "routes": [{"to": [{"cluster": "web"}]}]},
            {"name": "orders.mesh", "ports": [{"port": 12200, "protocol": "bolt"}], "routes": ROUTES},
            service("web.mesh", 8080, "web"),
        ],
        clusters=clusters,
    )


def test_explaining_a_call(explaining):
    def explain(*words):
        found = explaining.show("route", "explain", *words)
        chosen = [row["cluster"] for row in found.get("clusters", [])]
        return found["virtual_host"], found.get("named_by"), chosen[0] if chosen else None

    orders = "com.acme.orders:1.0:12200"
    assert explain("com.acme.Orders:1.0", "--method", "createOrder") == (orders, "service", "write")
    assert explain("com.acme.Orders:1.0", "--method", "getOrder") == (orders, "service", "read")
    assert explain("com.acme.Orders:1.0", "--method", "list") == (orders, "service", "list")
    assert explain("com.acme.Orders:1.0", "--method", "other", "--header", "app:batch") == (orders, "service", "batch")
    assert explain("com.acme.Orders:1.0", "--method", "other") == (orders, "service", None)
    assert explain("com.acme.Orders:2.0", "--method", "x") == ("com.acme.orders:12200", "service", "web")
    assert explain("com.acme.Orders") == ("com.acme.orders:12200", "service", "web")
    found = explaining.show("route", "explain", "com.acme.Orders:1.0", "--method", "other")
    assert (found["service"], found["method"], found["route"]) == ("com.acme.Orders:1.0", "other", None)
    assert found["result"] == "no route matches: the call is answered by an error"
    assert [row["result"] for row in found["considered"]] == [
        "method differs", "header app differs", "path differs", "method differs",
    ]  # fmt: skip
    # at an address, or by the name of a host with a port of RPC
    vip = vips(explaining)["orders.mesh"]
    words = ("--service", "com.acme.Orders:1.0", "--method", "list")
    assert explain(f"{vip}:12200", *words) == ("orders.mesh:12200", "original destination", "list")
    assert explain("orders.mesh:12200", *words) == ("orders.mesh:12200", "name", "list")
    assert explain("orders.mesh:12200", "--method", "getOrder") == ("orders.mesh:12200", "name", "read")
    assert explain("10.9.9.9:12200", *words) == (orders, "service", "list")


def test_explaining_what_there_is_not(explaining):
    done = explaining.weir("route", "explain", "com.acme.Nothing:1.0", check=False)
    assert done.returncode == 1
    assert 'no service is called "com.acme.Nothing:1.0", nor "com.acme.Nothing"' in done.stderr
    done = explaining.weir("route", "explain", "com.acme.Orders:1.0", "--path", "/x", check=False)
    assert done.returncode == 2 and "a call has no path of its own" in done.stderr
    done = explaining.weir("route", "explain", "10.9.9.9:1", "--host", "a", "--service", "b", check=False)
    assert done.returncode == 2 and "not both" in done.stderr
    found = explaining.show("route", "explain", "10.9.9.9:12200", "--service", "com.acme.Nothing:1.0")
    assert found["virtual_host"] is None and found["result"].startswith("neither the address nor the service")
    # requests of HTTP are looked up as ever: a port that the name does not have is no service of RPC
    found = explaining.show("route", "explain", "web.mesh")
    assert found["virtual_host"] is None and found["result"].startswith("nothing names a virtual host")
    assert explaining.show("route", "explain", "web.mesh:8080")["virtual_host"] == "web.mesh:8080"


def test_a_call_goes_where_it_was_said_to(mesh):
    """The proxy's own look-up: what is explained is what happens."""
    pod = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[
            service("rpc.mesh", 12200, protocol="bolt", routes=[
                {"match": {"method": "slow"}, "to": [{"cluster": "b"}]}, {"to": [{"cluster": "a"}]},
            ]),
        ],
        clusters=[cluster("a", [f"{pod.ipv4}:1001"]), cluster("b", [f"{pod.ipv4}:1002"])],
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, port in (("a", 1001), ("b", 1002)):
            stack.enter_context(Origin(pod, port, answering(lambda got, name=name: response(got.id, name.encode()))))
        bolt = Bolt(connect(sidecar.pod, vips(sidecar)["rpc.mesh"], 12200))
        for number, method in enumerate(("slow", "quick")):
            words = ("route", "explain", "rpc.mesh:12200", "--service", SERVICE, "--method", method)
            [said] = [row["cluster"] for row in sidecar.show(*words)["clusters"]]
            assert bolt.call(number, method=method).content == said.encode()
