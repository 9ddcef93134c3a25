# SPDX-License-Identifier: Apache-2.0
"""Virtual hosts, routes, weights, balancing and what happens when endpoints fail: curl and nginx through the captured
path. What is random is judged by chi-square with two degrees of freedom, whose tail is exactly exp(-x/2): a false
alarm is rarer than one in a million."""

import contextlib
import itertools
import threading

import pytest

from mesh import Mesh, Origin, cluster, connect, service
from netns import readable, wait_until
from nginx import answers, start_nginx

CHI_SQUARE_2 = 27.64  # -2 ln(1e-6)


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def chi_square(counts, weights):
    total = sum(counts)
    expected = [total * weight / sum(weights) for weight in weights]
    return sum((count - want) ** 2 / want for count, want in zip(counts, expected))


class Site:
    """A client pod with a proxy, and a server pod whose ports 8081, 8082, ... answer a, b, ...: clusters of these names."""

    NAMES = "abcdefgh"

    def __init__(self, mesh, services, clusters=None, start="abcdefgh", **config):
        self.server = mesh.network.pod("server")
        ports = {8081 + i: name for i, name in enumerate(self.NAMES) if name in start}
        self.nginx = start_nginx(self.server, answers(ports)) if ports else None
        self.client = mesh.sidecar(
            "client", services=services, clusters=clusters or self.clusters(), log={"access": True}, **config
        )

    def clusters(self):
        return [cluster(name, [self.address(name)]) for name in self.NAMES]

    def address(self, name):
        return f"{self.server.ipv4}:{8081 + self.NAMES.index(name)}"

    def curl(self, *words, **options):
        return self.client.pod.run(["curl", "-sS", "--max-time", "30", *words], timeout=60, **options).stdout

    def asks(self, *words):
        return self.curl(*words).strip()

    def status(self, *words):
        return self.curl("-o", "/dev/null", "-w", "%{http_code}", *words)

    def endpoint(self, name):
        rows = self.client.show("endpoint", "show")["endpoints"]
        return next(row for row in rows if row["address"] == self.address(name))

    def vip(self, name, family=4):
        rows = self.client.show("vhost", "show")["virtual_hosts"]
        return next(row[f"vip{family}"] for row in rows if row["name"].split(":")[0] == name)


def spread(name, endpoints, balance="round_robin", **keys):
    """A cluster of (address, weight)."""
    rows = [{"address": address, "weight": weight} for address, weight in endpoints]
    return {"name": name, "balance": balance, "endpoints": rows, **keys}


# --- virtual hosts ----------------------------------------------------------------------------------------------------
def hosts():
    return [
        {"name": "web.mesh", "ports": [{"port": 80}, {"port": 8080}], "cluster": "a"},
        {"name": "any.mesh", "cluster": "b"},
        {"name": "*.wild.mesh", "cluster": "c"},
        {"name": "*.deep.wild.mesh", "cluster": "d"},
        {"name": "exact.deep.wild.mesh", "cluster": "e"},
        {"name": "listed.mesh", "addresses": ["198.51.100.7", "2001:db8::7"], "cluster": "f"},
    ]


def test_virtual_hosts_by_address(mesh):
    site = Site(mesh, hosts())
    for url, answer in {
        "http://web.mesh/": "a",
        "http://web.mesh:8080/": "a",
        "http://any.mesh/": "b",
        "http://any.mesh:12345/": "b",
        "http://exact.deep.wild.mesh/": "e",
        "http://198.51.100.7:4000/": "f",
        "http://[2001:db8::7]/": "f",
    }.items():
        assert site.asks(url) == answer, url
    assert site.asks("-6", "http://any.mesh/") == "b"
    for family in (4, 6):  # the address counts, whatever the Host field says
        address = site.vip("any.mesh", family)
        literal = address if family == 4 else f"[{address}]"
        assert site.asks(f"http://{literal}:81/", "-H", "Host: web.mesh") == "b"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("data", ["", "GET / HTTP/1.1\r\nHost: any.mesh\r\n\r\n", "\x00"], ids=["silent", "http", "tcp"])
def test_a_port_that_a_virtual_ip_does_not_have(mesh, family, data):
    """Refused at once, as a closed port is: nobody has the address, so nobody is dialled."""
    site = Site(mesh, hosts())
    with contextlib.suppress(ConnectionError):
        assert connect(site.client.pod, site.vip("web.mesh", family), 81).send(data).rest() == b""
    assert site.client.counter("virtual_ip_refused_total") == 1
    assert site.client.counter("upstream_connections_total") == 0
    assert "no service has this port of a virtual IP" in site.client.said()


def test_a_service_that_is_removed_under_a_connection(mesh):
    """The next request on it is answered at once; a new connection to its virtual IP is refused."""
    site = Site(mesh, hosts())
    address = site.vip("web.mesh")
    request = "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
    peer = connect(site.client.pod, address, 80).send(request)
    assert peer.response()[2] == b"a\n"
    config = dict(site.client.config)
    config["services"] = [row for row in config["services"] if row["name"] != "web.mesh"]
    site.client.reload(config)
    status, _, body = peer.send(request).response()
    assert (status, body) == (404, b"no route matches this request\n")
    peer.close()
    with contextlib.suppress(ConnectionError):
        assert connect(site.client.pod, address, 80).rest() == b""
    assert site.client.counter("virtual_ip_refused_total") == 1


NAMED = [
    ("web.mesh", 80, "a"),
    ("WEB.Mesh", 80, "a"),
    ("web.mesh.", 80, "a"),
    ("web.mesh:80", 80, "a"),
    ("web.mesh:8080", 81, "a"),
    ("web.mesh", 81, "hub"),  # it has no such port
    ("web.mesh:81", 80, "hub"),
    ("any.mesh", 81, "b"),
    ("any.mesh:7", 80, "b"),
    ("x.wild.mesh", 80, "c"),
    ("x.y.wild.mesh:99", 81, "c"),
    ("x.deep.wild.mesh", 80, "d"),
    ("exact.deep.wild.mesh", 80, "e"),
    ("198.51.100.7", 80, "f"),
    ("wild.mesh", 80, "hub"),
    ("notwild.mesh", 80, "hub"),
    ("other.example", 80, "hub"),
]


def test_virtual_hosts_by_name(mesh):
    """The connection goes to an address that no service has (where an nginx answers "hub"): the Host field chooses."""
    site = Site(mesh, hosts())
    start_nginx(mesh.network.hub, answers({80: "hub", 81: "hub"}))
    for name, port, answer in NAMED:
        assert site.asks(f"http://10.77.0.1:{port}/", "-H", f"Host: {name}") == answer, (name, port)
    config = dict(site.client.config, services=[*hosts(), {"name": "*", "cluster": "g"}])
    site.client.reload(config)
    for name, port, answer in NAMED:
        unnamed = "hub" if name.startswith("web.") else "g"  # what is named stays so, port or not
        wanted = unnamed if answer == "hub" else answer
        assert site.asks(f"http://10.77.0.1:{port}/", "-H", f"Host: {name}") == wanted, (name, port, "*")
    assert site.asks("http://10.77.0.1:82/", "-H", "Host: other.example") == "g"


# --- routes -----------------------------------------------------------------------------------------------------------
def route(target, **match):
    return {"match": match, "to": [{"cluster": target}]}


def test_routes(mesh):
    header = {
        "exact": {"name": "X-User", "exact": "eve"},
        "prefix": {"name": "x-kind", "prefix": "be"},
        "regex": {"name": "x-version", "regex": "v[0-9]+"},
        "present": {"name": "x-here"},
        "absent": {"name": "x-not", "invert": True},
        "other": {"name": "x-not", "exact": "this", "invert": True},
    }
    routes = [
        route("a", path="/exact"),
        route("b", path_prefix="/beta"),
        route("c", path_regex="/v[0-9]+/.*"),
        route("d", method="DELETE"),
        route("e", path="/both", headers=[header["exact"], header["prefix"]]),
        route("f", headers=[header["regex"]]),
        route("g", headers=[header["present"]]),
        route("h", path="/absent", headers=[header["absent"]]),
        route("h", path="/other", headers=[header["other"]]),
    ]
    site = Site(mesh, [service("web.mesh", 80, routes=routes)])
    cases = [
        ("/exact", [], "a"),
        ("/exact?query=/beta", [], "a"),
        ("/exact/", [], None),
        ("/Exact", [], None),
        ("/beta", [], "b"),
        ("/beta?x", [], "b"),
        ("/beta/x/y", [], "b"),
        ("/betamax", [], None),
        ("/v12/x", [], "c"),
        ("/a/v12/x", [], None),
        ("/v/x", [], None),
        ("/x", ["-X", "DELETE"], "d"),
        ("/exact", ["-X", "DELETE"], "a"),  # the first that matches
        ("/both", ["-H", "x-user: eve", "-H", "X-Kind: beta"], "e"),
        ("/both", ["-H", "x-user: eve", "-H", "X-Kind: alpha"], None),
        ("/both", ["-H", "x-user: Eve", "-H", "X-Kind: beta"], None),
        ("/both", ["-H", "x-user: eve"], None),
        ("/both", ["-H", "x-user: adam", "-H", "x-user: eve", "-H", "x-kind: be"], "e"),
        ("/x", ["-H", "X-Version: v7"], "f"),
        ("/x", ["-H", "X-Version: v7a"], None),
        ("/x", ["-H", "X-Here;"], "g"),  # present, and empty
        ("/x", ["-H", "X-Here: anything"], "g"),
        ("/absent", [], "h"),
        ("/absent", ["-H", "X-Not: x"], None),
        ("/other", [], "h"),
        ("/other", ["-H", "X-Not: that"], "h"),
        ("/other", ["-H", "X-Not: this"], None),
    ]
    for path, words, answer in cases:
        if answer:
            assert site.asks(*words, f"http://web.mesh{path}") == answer, (path, words)
        else:
            assert site.status(*words, f"http://web.mesh{path}") == "404", (path, words)
    assert site.client.counter("http_no_route_total") == sum(answer is None for _, _, answer in cases)


def test_weights(mesh):
    weights = [7, 2, 1]
    targets = [{"cluster": name, "weight": weight} for name, weight in zip("abc", weights)]
    site = Site(mesh, [service("split.mesh", 80, routes=[{"to": [*targets, {"cluster": "d", "weight": 0}]}])])
    answered = site.curl("http://split.mesh/[1-3000]").split()
    counts = [answered.count(name) for name in "abc"]
    assert sum(counts) == 3000
    assert chi_square(counts, weights) < CHI_SQUARE_2, counts


# --- balancing --------------------------------------------------------------------------------------------------------
def balanced(mesh, balance, weights=(5, 1, 1), **keys):
    server = "10.77.0.2"
    rows = [(f"{server}:{8081 + i}", weight) for i, weight in enumerate(weights)]
    return Site(mesh, [service("web.mesh", 80, "all", **keys)], [spread("all", rows, balance)])


def test_round_robin_is_smooth_and_weighted(mesh):
    site = balanced(mesh, "round_robin")
    assert site.curl("http://web.mesh/[1-70]").split() == list("aabacaa") * 10


def test_random_follows_the_weights(mesh):
    site = balanced(mesh, "random")
    answered = site.curl("http://web.mesh/[1-2100]").split()
    counts = [answered.count(name) for name in "abc"]
    assert sum(counts) == 2100
    assert chi_square(counts, [5, 1, 1]) < CHI_SQUARE_2, counts
    repeats = sum(one == other for one, other in itertools.pairwise(answered))
    assert repeats > 700, "an order, not chance"  # 1157 expected, deviation below 25; in turns at most 600


# A loaded endpoint is taken when both draws name it: one time in four. Of 400, more than 150 or fewer than 50 come by
# chance less than once in ten million; without regard to the load 200 would be expected, and 150 as rare.
LOADED = range(50, 150)


def test_least_request(mesh):
    held, release = threading.Event(), threading.Event()

    def handler(name):
        def serve(peer):
            while b"\r\n\r\n" in peer.buffer or peer._more():
                if peer.head().startswith("GET /hold") and name == "a":
                    held.set()
                    release.wait(60)
                peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{name}\n")

        return serve

    site = Site(
        mesh,
        [service("web.mesh", 80, "all")],
        [spread("all", [("10.77.0.2:8081", 1), ("10.77.0.2:8082", 1)], "least_request")],
        start="",
    )
    with Origin(site.server, 8081, handler("a")), Origin(site.server, 8082, handler("b")):
        address = site.vip("web.mesh")
        while not held.is_set():
            peer = connect(site.client.pod, address, 80).send("GET /hold HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            wait_until(lambda: held.is_set() or readable(peer.sock))
        answered = site.curl("http://web.mesh/[1-400]").split()
        assert len(answered) == 400 and answered.count("a") in LOADED, answered.count("a")
        release.set()


def test_least_request_counts_connections(mesh):
    rows = [("10.77.0.2:8081", 1), ("10.77.0.2:8082", 1)]
    site = Site(mesh, [service("db.mesh", 5000, "all")], [spread("all", rows, "least_request")], start="")

    def handler(name):
        return lambda peer: (peer.sock.settimeout(None), peer.send(name), peer.rest())

    with Origin(site.server, 8081, handler("a")), Origin(site.server, 8082, handler("b")):
        address = site.vip("db.mesh")
        kept, taken = [], 0

        def ask():
            peer = connect(site.client.pod, address, 5000)
            return peer, peer.read(1)

        while len(kept) < 10:
            peer, name = ask()
            kept.append(peer) if name == b"a" else peer.close()
        wait_until(lambda: site.endpoint("b")["active"] == 0)
        assert site.endpoint("a")["active"] == 10
        for _ in range(400):
            peer, name = ask()
            taken += name == b"a"
            peer.end()
            peer.rest()
            peer.close()
        for peer in kept:
            peer.close()
        assert taken in LOADED, taken
        wait_until(lambda: site.endpoint("a")["active"] == 0)


# --- endpoints that fail ----------------------------------------------------------------------------------------------
def pair(mesh, start, **keys):
    rows = [("10.77.0.2:8081", 1), ("10.77.0.2:8082", 1)]
    return Site(mesh, [service("web.mesh", 80, "all")], [spread("all", rows, **keys)], start=start)


def test_what_refuses_is_avoided_and_comes_back(mesh):
    site = pair(mesh, "b")
    assert site.curl("http://web.mesh/[1-300]").split() == ["b"] * 300
    # Marked for 1, 2, 4, ... seconds: a few attempts at most, however slow this machine; unmarked it would be 150.
    assert 1 <= site.client.counter("upstream_connect_failures_total") <= 8
    assert site.endpoint("b")["state"] == "up"
    nginx = start_nginx(site.server, answers({8081: "a"}))
    wait_until(lambda: site.asks("http://web.mesh/") == "a", timeout=60)
    assert site.endpoint("a")["state"] == "up"
    assert sorted(site.curl("http://web.mesh/[1-20]").split()) == ["a"] * 10 + ["b"] * 10
    nginx.stop()
    assert site.curl("http://web.mesh/[1-20]").split() == ["b"] * 20
    assert site.endpoint("a")["state"] == "down"


def test_all_refuse(mesh):
    site = pair(mesh, "")
    assert site.status("http://web.mesh/") == "503"
    start_nginx(site.server, answers({8082: "b"}))
    assert site.asks("http://web.mesh/") == "b"  # all are marked: then any is worth a try


def test_an_upload_goes_to_one_that_accepts(mesh):
    site = pair(mesh, "")
    bodies = []

    def handler(peer):
        peer.head()
        bodies.append(peer.read(5))
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with Origin(site.server, 8082, handler):
        for _ in range(4):
            assert site.status("--data", "hello", "http://web.mesh/") == "200"
    assert bodies == [b"hello"] * 4


@pytest.mark.parametrize("protocol", ["auto", "tcp"])
def test_the_next_endpoint_greets(mesh, protocol):
    """The first endpoint refuses, and the client of a server that speaks first is silent."""
    rows = [("10.77.0.2:8081", 1), ("10.77.0.2:8082", 1)]
    site = Site(mesh, [service("db.mesh", 5000, "all", protocol=protocol)], [spread("all", rows)], start="")
    with Origin(site.server, 8082, lambda peer: peer.send("220 hello\r\n")):
        for _ in range(3):
            assert connect(site.client.pod, site.vip("db.mesh"), 5000).rest() == b"220 hello\r\n"
    assert site.endpoint("a")["state"] == "down"


def drop(pod, port):
    pod.run(["nft", "add table inet lost; add chain inet lost in { type filter hook input priority 0; }"])
    pod.run(["nft", f"add rule inet lost in tcp dport {port} counter drop"])


def test_a_connect_timeout_leads_to_another_endpoint(mesh):
    site = pair(mesh, "ab", connect_timeout="500ms")
    drop(site.server, 8081)
    assert site.curl("http://web.mesh/[1-50]").split() == ["b"] * 50
    assert site.asks("--data", "once", "http://web.mesh/") == "b"
    assert 1 <= site.client.counter("upstream_connect_failures_total") <= 8
    assert "packets 0 " not in site.server.run(["nft", "list chain inet lost in"]).stdout
    site.server.run(["nft", "delete table inet lost"])
    wait_until(lambda: site.asks("http://web.mesh/") == "a", timeout=60)


def test_a_connect_timeout_without_another_endpoint(mesh):
    rows = [("10.77.0.2:8081", 1)]
    site = Site(mesh, [service("web.mesh", 80, "all")], [spread("all", rows, connect_timeout="100ms")])
    drop(site.server, 8081)
    assert site.asks("--max-time", "30", "http://web.mesh/") == "connecting to the upstream took too long"
    assert "status=503 flag=UF" in site.client.said()


# --- timeouts and retries ---------------------------------------------------------------------------------------------
def routed(mesh, **keys):
    routes = [{"to": [{"cluster": "a"}], **keys}]
    return Site(mesh, [service("web.mesh", 80, routes=routes)], start="")


def test_route_timeout(mesh):
    site = routed(mesh, timeout="200ms")

    def never(peer):
        peer.head()
        with pytest.raises(ConnectionResetError):  # the proxy gives it up
            peer.rest()

    def half(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        with pytest.raises(ConnectionResetError):
            peer.rest()

    with Origin(site.server, 8081, never):
        assert site.status("http://web.mesh/") == "504"
    assert "status=504 flag=UT" in site.client.said()
    with Origin(site.server, 8081, half):
        cut = site.client.pod.run(["curl", "-sS", "http://web.mesh/"], check=False)
        assert cut.returncode != 0 and cut.stdout in ("", "half")


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_retries(mesh, retries):
    """The connection is lost before a response: what is idempotent is sent again as often as the route says, a POST never."""
    site = routed(mesh, retries=retries)
    seen = []

    def handler(peer):
        head = peer.head()
        seen.append((head.split()[0], peer.read(4) if "Content-Length" in head else b""))

    with Origin(site.server, 8081, handler):
        assert site.status("http://web.mesh/") == "502"
        assert seen == [("GET", b"")] * (retries + 1)
        seen.clear()
        assert site.status("-X", "PUT", "--data", "body", "http://web.mesh/") == "502"
        assert seen == [("PUT", b"body")] * (retries + 1)
        seen.clear()
        assert site.status("--data", "body", "http://web.mesh/") == "502"
        assert seen == [("POST", b"body")]
