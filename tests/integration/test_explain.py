# SPDX-License-Identifier: Apache-2.0
"""weir explain: what is said of connections, processes, addresses and names is what happens to them."""

import json
import os
import shutil
import socket
import subprocess
import time

import pytest

from capture import CapturedPod, Server, name_of, probe
from mesh import Mesh, Origin, cluster, connect, service
from netns import CONTROL_GROUPS, output, wait_until

CLIENT_ID, SERVER_ID = "spiffe://mesh/ns/test/sa/client", "spiffe://mesh/ns/test/sa/server"


def explain(sidecar, *words, check=True):
    return json.loads(sidecar.weir("explain", *map(str, words), "-j", check=check).stdout)


def explain_unprivileged(sidecar, *words):
    """By who may not read the maps of eBPF."""
    dropped = ["capsh", "--drop=cap_bpf,cap_sys_admin", "--", "-c", '"$@"', "sh"]
    words = [sidecar.mesh.weir_path, "--socket", sidecar.socket, "explain", *map(str, words), "-j"]
    return json.loads(sidecar.pod.run([*dropped, *words], check=False).stdout)


def deciding(part):
    """The rule that decides, which must be the last one of the way."""
    found = [row for row in part["rules"] if row["result"] == "decides"]
    assert found and found[-1] is part["rules"][-1]
    assert [row["step"] for row in part["rules"]] == list(range(1, len(part["rules"]) + 1))
    return found[-1]


@pytest.fixture(params=["nft", "ebpf", "iptables"])
def backend(request):
    return request.param


@pytest.fixture
def mesh(network, weir, weir_proxy, backend):
    return Mesh(network, weir, weir_proxy, ["--backend", backend])


# Where the rules of a chain meet connections of IPv4.
HOOKS = {
    "nft": {"tcp": "output", "udp": "output", "inbound": "prerouting"},
    "iptables": {"tcp": "output", "udp": "output", "inbound": "prerouting"},
    "ebpf": {"tcp": "cgroup/connect4", "udp": "cgroup/connect4, cgroup/sendmsg4", "inbound": "sk_lookup"},
}


def programs(part):
    """Those by which a captured connection passes, in their order."""
    return [row["program"] for row in part.get("hooks", [])]


def hello(peer):
    peer.sock.settimeout(60)  # tests ask much in between
    while peer.another():
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


class Site:
    """A client == mTLS ==> a server; two versions of the service, of which one has an endpoint that is down."""

    def __init__(self, mesh):
        self.far = mesh.sidecar("server", tls="strict", inbound=[{"port": 8080}])
        self.near = mesh.sidecar(
            "client",
            tls="permissive",
            services=[
                service(
                    "web.mesh",
                    80,
                    routes=[
                        {"match": {"path_prefix": "/beta"}, "to": [{"cluster": "beta"}]},
                        {"to": [{"cluster": "web", "weight": 3}, {"cluster": "beta", "weight": 1}]},
                    ],
                )
            ],
            clusters=[
                cluster("web", [f"{self.far.ipv4}:8080"], tls="mesh"),
                cluster("beta", [f"{self.far.ipv4}:8080"], tls="mesh", balance="least_request"),
            ],
        )
        self.origin = Origin(self.far.pod, 8080, hello)
        [host] = self.near.show("vhost", "show", "name=web.mesh")["virtual_hosts"]
        self.vip, self.vip6 = host["vip4"], host["vip6"]

    def open(self):
        peer = connect(self.near.pod, self.vip, 80)
        peer.send("GET /x HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert peer.response()[2] == b"hello"
        return peer


@pytest.fixture
def site(mesh):
    site = Site(mesh)
    yield site
    site.origin.close()


# --- open connections ------------------------------------------------------------------------------------------------
def test_an_outbound_connection(site, backend):
    peer = site.open()
    [row] = site.near.connections()
    said = explain(site.near, row["id"])
    out, proxy = said["outbound"], said["proxy"]
    host, port = peer.sock.getsockname()
    assert out["from"] == f"{host}:{port}" and out["to"] == f"{site.vip}:80" and out["interface"] == "eth0"
    assert out["verdict"] == "captured to port 15001, the outbound proxy" and out["proxy_listens"] is True
    rule = deciding(out)
    assert (rule["purpose"], rule["hook"], rule["chain"]) == ("outbound: virtual IP", HOOKS[backend]["tcp"], "output")
    assert rule["packets"] == 1 and out["back_end"] == backend
    passed = ["weir_connect4", "weir_lookup", "weir_stream", "weir_getsockopt", "weir_getpeername4", "weir_getsockname4", "weir_release"]
    assert programs(out) == (passed if backend == "ebpf" else [])
    matches = ["meta l4proto tcp", "ip daddr @vips_ipv4"]
    assert out["rule"] == " ".join([*(matches[::-1] if backend == "iptables" else matches), "redirect to :15001"])
    assert said["process"]["pid"] == os.getpid() and out["user"] == os.geteuid()
    assert proxy["connection"]["endpoint"] == f"{site.far.ipv4}:8080"
    assert proxy["connection"]["upstream_tls"] == {"version": "TLSv1.3", "peer": SERVER_ID}
    assert proxy["detection"]["protocol"] == "http1"
    assert proxy["detection"]["decided_by"] == "the client's first bytes"
    assert 0 <= proxy["detection"]["decided_after_us"] < 10_000_000
    assert proxy["virtual_host"]["name"] == "web.mesh:80" and proxy["virtual_host"]["vip4"] == site.vip
    assert proxy["virtual_host"]["named_by"] == "original destination"
    assert [(row["cluster"], row["state"]) for row in proxy["endpoints"]] == [("web", "up"), ("beta", "up")]
    assert [(row["name"], row["share"], row["tls"]) for row in proxy["clusters"]] == [
        ("web", "75.00%", "mesh"),
        ("beta", "25.00%", "mesh"),
    ]
    assert proxy["identity"]["own"] == CLIENT_ID
    assert "network_namespace" not in proxy
    # Asked from elsewhere, where other rules are.
    words = [site.near.mesh.weir_path, "--socket", site.near.socket, "explain", str(row["id"]), "-j"]
    other = json.loads(site.far.pod.run(words).stdout)
    assert f"nsenter -t {site.near.proxy.pid} -n" in other["proxy"]["network_namespace"]
    # The same by its two ends, which the program knows.
    again = explain(site.near, f"{host}:{port}", f"{site.vip}:80")
    assert again["proxy"]["connection"]["id"] == row["id"] and again["outbound"] == out
    peer.close()


def test_whose_an_outbound_connection_of_ipv6_is(site):
    peer = connect(site.near.pod, site.vip6, 80)
    wait_until(site.near.connections, what="the proxy has it")
    [row] = site.near.connections()
    host, port = peer.sock.getsockname()[:2]
    said = explain(site.near, row["id"])
    assert (said["process"]["pid"], said["outbound"]["from"], host) == (os.getpid(), f"[{host}]:{port}", site.near.ipv6)
    # What eBPF keeps with it may not be read: it is the only one of its port that goes to the proxy.
    assert explain_unprivileged(site.near, row["id"])["process"]["pid"] == os.getpid()
    peer.close()


def test_an_inbound_connection(site, backend):
    peer = site.open()
    [row] = site.far.connections(protocol="http1")  # (the near proxy may have dialled another one early)
    said = explain(site.far, row["id"])
    assert said["inbound"]["verdict"] == "captured to port 15006, the inbound proxy"
    rule = deciding(said["inbound"])
    assert (rule["hook"], rule["chain"], rule["purpose"]) == (HOOKS[backend]["inbound"], "inbound", "inbound")
    assert programs(said["inbound"]) == (["weir_lookup", "weir_getsockopt"] if backend == "ebpf" else [])
    assert [row["purpose"] for row in said["inbound"]["rules"] if row["result"] == "leads on"] == ["inbound, from other hosts"]
    proxy = said["proxy"]
    assert proxy["connection"]["tls"] == {"version": "TLSv1.3", "peer": CLIENT_ID}
    assert proxy["inbound"]["tls"] == "strict" and proxy["inbound"]["policy"] == "of this port"
    assert proxy["identity"]["own"] == SERVER_ID
    peer.close()


@pytest.mark.parametrize(
    "protocol, talk, decided_by",
    [
        ("tcp", b"", "declared for the port"),
        ("auto", b"", "the server spoke first"),
        ("auto", b"HELO me\r\n", "the client's first bytes"),
        ("auto", b"G", "the first bytes stayed ambiguous"),
    ],
)
def test_what_told_the_protocol(network, mesh, protocol, talk, decided_by):
    server = network.pod("server")

    def greet(peer):
        if talk:
            peer.read(len(talk))
        peer.send("220 hello\r\n")
        while peer.another():
            peer.rest()

    near = mesh.sidecar(
        "client",
        services=[service("mail.mesh", 25, "mail", protocol=protocol)],
        clusters=[cluster("mail", [f"{server.ipv4}:25"])],
    )
    vip = near.show("vhost", "show", "name=mail.mesh")["virtual_hosts"][0]["vip4"]
    with Origin(server, 25, greet):
        begun = time.monotonic()
        peer = connect(near.pod, vip, 25)
        if talk:
            wait_until(near.connections, what="the proxy has it")
        known = time.monotonic()
        assert not talk or len(near.connections()) == 1
        asked = time.monotonic()
        peer.send(talk)
        assert peer.until(b"\n") == b"220 hello\r\n"
        told = time.monotonic()
        [row] = near.connections()
        detection = explain(near, row["id"])["proxy"]["detection"]
        assert detection["decided_by"] == decided_by
        # From when it was accepted, before it was listed, until what tells it, after it was asked.
        took = detection["decided_after_us"] / 1e6
        assert took <= told - begun and (not talk or took >= asked - known)
        peer.close()


def test_connections_that_are_not_there(site):
    done = site.near.weir("explain", "99999", check=False)
    assert (done.returncode, done.stderr) == (1, "weir: there is no such connection\n")
    # Of a pair that nobody has the rules still tell, but it is not there.
    done = site.near.weir("explain", "10.77.0.3:1", f"{site.vip}:80", "-j", check=False)
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["proxy"] == {"unknown": "there is no such connection"}
    assert said["outbound"]["verdict"].startswith("captured to port 15001")
    supposed = ["what-if", "--to", f"{site.vip}:80"]
    for options in (["--uid", "nosuch"], ["--gid", "nosuch"], ["--uid", "4294967296"], ["--mark", "-1"], ["--from", "x"], ["--interface", "a" * 16], ["--interface", ""]):
        done = site.near.weir("explain", *supposed, *options, check=False)
        assert (done.returncode, done.stdout) == (2, ""), options
    for source, to in (("10.0.0.1", "[fd00::1]:80"), ("[fd00::1]:4000", "10.0.0.1:80"), ("fd00::1", "[::ffff:10.0.0.1]:80")):
        done = site.near.weir("explain", "what-if", "--from", source, "--to", to, check=False)
        assert done.returncode == 2 and "must both be IPv4, or both IPv6" in done.stderr, (source, to)
    mapped = site.near.weir("explain", "what-if", "--from", "10.0.0.1", "--to", f"[::ffff:{site.vip}]:80")
    assert "captured to port 15001" in mapped.stdout
    for ends in (("10.0.0.1:1", "[fd00::1]:80"), ("[fd00::1]:4000", f"{site.vip}:80")):
        done = site.near.weir("explain", *ends, check=False)
        assert (done.returncode, done.stdout) == (2, "") and "the two ends must both be IPv4, or both IPv6" in done.stderr
    assert "captured to" in site.near.weir("explain", *supposed, "--interface", "a" * 15).stdout
    for words in (["1", "2"], ["10.0.0.1:1", "x"], ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"], ["10.0.0.1"], []):
        done = site.near.weir("explain", *words, check=False)
        assert done.returncode == 2 and done.stdout == "", words


# --- addresses and names ---------------------------------------------------------------------------------------------
def test_addresses(site):
    said = explain(site.near, f"{site.vip}:80", "--path", "/beta/1")
    assert said["proxy"]["route"] == "web.mesh:80/0"
    assert [row["name"] for row in said["proxy"]["clusters"]] == ["beta"]
    said = explain(site.near, f"{site.vip}:81")
    assert said["proxy"]["virtual_host"] is None
    assert said["proxy"]["result"] == "web.mesh has no such port: a connection to its virtual IP is refused"
    said = explain(site.near, "240.240.0.1:80")
    assert said["proxy"]["result"] == "a virtual IP that no service has: the connection is refused"
    said = explain(site.near, f"{site.far.ipv4}:80")
    assert "passes through to its original destination" in said["proxy"]["result"]
    # This host itself: from its own programs, and from others.
    said = explain(site.near, f"{site.near.ipv4}:9000")
    assert said["outbound"]["verdict"] == "left alone: a program's connections to its own host"
    assert said["inbound"]["verdict"] == "captured to port 15006, the inbound proxy"
    assert said["proxy"]["inbound"]["tls"] == "permissive"
    said = explain(site.near, f"{site.near.ipv4}:22")
    assert said["inbound"]["verdict"] == "left alone: excluded port"
    assert said["inbound"]["sets"] == [{"set": "inbound_exclude_ports", "elements": "22"}]
    assert said["proxy"] == {"result": "does not see it"}


def test_names(site, backend):
    said = explain(site.near, "web.mesh")
    assert said["dns"]["verdict"] == "captured to port 15053, the DNS responder"
    rule = deciding(said["dns"])
    assert rule["purpose"] == "DNS over UDP" and said["dns"]["to"] == "10.77.0.1:53"
    assert rule["hook"] == HOOKS[backend]["udp"]
    queried = ["weir_connect4", "weir_sendmsg4", "weir_recvmsg4", "weir_getpeername4", "weir_getsockname4"]
    assert programs(said["dns"]) == (queried if backend == "ebpf" else [])
    assert said["outbound"]["to"] == f"{site.vip}:80" and deciding(said["outbound6"])["purpose"] == "outbound: virtual IP"
    assert said["proxy"]["virtual_host"]["named_by"] == "name" and len(said["proxy"]["endpoints"]) == 2
    said = explain(site.near, "web.mesh:81")
    assert said["proxy"]["result"] == "web.mesh has no such port: a connection to its virtual IP is refused"
    said = explain(site.near, "www.example.com")
    assert "DNS servers outside are asked for it" in said["proxy"]["result"] and "outbound" not in said
    plain = site.near.weir("explain", "web.mesh").stdout
    assert "verdict:   captured to port 15053, the DNS responder\n" in plain and "named by:  name\n" in plain


# --- what if ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", [4, 6])
def test_what_if_tells_what_happens(network, weir, backend, family):
    """The verdict for a connection as described, against what becomes of one."""
    app, server = CapturedPod(network, weir, "app"), network.pod("server")
    for port in (80, 81):
        Server(server, port, "direct", "::" if family == 6 else "0.0.0.0")
    target = server.ipv6 if family == 6 else server.ipv4
    app.apply("--backend", backend, "--exclude-users", "1000,nobody", "--exclude-groups", "7", "--exclude-outbound-ports", "81", "--exclude-marks", "0x99")

    def judge(*words, port=80):
        to = f"[{target}]:{port}" if family == 6 else f"{target}:{port}"
        done = app.pod.run([weir, "--socket", "/nowhere", "explain", "what-if", "-j", "--to", to, *words])
        said = json.loads(done.stdout)["outbound"]
        hook = HOOKS[backend]["udp" if "--udp" in words else "tcp"].replace("4", str(family))
        assert {row["hook"] for row in said["rules"]} == {hook}
        return said["verdict"]

    captured = "captured to port 15001, the outbound proxy"
    assert judge() == captured and probe(app, target, 80).startswith("outbound ")
    assert judge("--uid", "1000") == "left alone: excluded user"
    assert probe(app, target, 80, user=1000).startswith("direct ")
    assert judge("--uid", "nobody") == "left alone: excluded user"
    assert judge("--uid", "1001") == captured and probe(app, target, 80, user=1001).startswith("outbound ")
    assert judge("--uid", "1001", "--gid", "7") == "left alone: excluded group"
    assert probe(app, target, 80, user=1001, group=7).startswith("direct ")
    assert judge("--mark", "0x99") == "left alone: excluded mark"
    assert probe(app, target, 80, mark=0x99).startswith("direct ")
    assert judge(port=81) == "left alone: excluded port" and probe(app, target, 81).startswith("direct ")
    assert judge("--interface", "lo") == "left alone: a program's connections to its own host"
    assert judge("--udp", port=53) == "captured to port 15053, the DNS responder"


def test_a_name_of_which_a_link_local_server_is_asked(network, weir, backend):
    app = CapturedPod(network, weir, "app")
    app.apply("--backend", backend)
    for interface in ("eth0", app.pod.interface_index("eth0")):  # which programs write as its number, too
        app.pod.resolv_conf(f"# by advertisement\nnameserver fe80::1%{interface}\n")
        done = app.pod.run([weir, "--socket", "/nowhere", "explain", "-j", "web.mesh"], check=False)
        said = json.loads(done.stdout)["dns"]
        assert (said["verdict"], said["to"]) == ("left alone: link-local address", "[fe80::1]:53")
        assert said["interface"] == "eth0"


def test_what_if_inbound(network, weir, backend):
    app = CapturedPod(network, weir, "app")
    app.apply("--backend", backend, "--exclude-inbound-cidrs", "10.9.0.0/16", "--exclude-inbound-ports", "81")

    def judge(port, *words):
        words = ["what-if", "-j", "--inbound", "--to", f"{app.ipv4}:{port}", *words]
        return json.loads(app.pod.run([weir, "--socket", "/nowhere", "explain", *words]).stdout)["inbound"]

    said = judge(80, "--from", "10.77.0.1")
    assert {row["hook"] for row in said["rules"]} == {HOOKS[backend]["inbound"]}
    assert said["verdict"] == "captured to port 15006, the inbound proxy" and said["interface"] == "eth0"
    assert judge(80, "--from", "10.9.1.1:4000")["verdict"] == "left alone: excluded network"
    assert judge(81)["verdict"] == "left alone: excluded port"
    # Who connects is not said: the rule that asks for it cannot be judged.
    said = judge(80)
    [row] = [row for row in said["rules"] if row["result"] == "not known"]
    assert row["purpose"] == "excluded network" and row["unmet"] == "ip saddr @inbound_exclude_ipv4"
    assert said["rules_not_known"] == 1 and said["interface"] == "eth0" and "rules_not_known" not in judge(80, "--from", "10.0.0.1")
    app.pod.run(["ip", "route", "del", "default"])
    done = app.pod.run([weir, "explain", "what-if", "--to", "192.0.2.1:80", "-j"])
    assert json.loads(done.stdout)["outbound"]["verdict"] == "fails: there is no route, so no rule is met"
    assert probe(app, "192.0.2.1", 80) == "unreachable"


@pytest.mark.parametrize(
    "policy, meanwhile, added",
    [("closed", None, []), ("open", "it goes directly (fail open)", []), ("hold", "it waits (fail hold)", ["weir_hold_in"])],
)
def test_what_if_no_proxy_listens(network, weir, policy, meanwhile, added):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply("--backend", "ebpf", "--fail", policy)
    words = ["explain", "what-if", "-j", "--inbound", "--from", "10.77.0.1", "--to", f"{app.ipv4}:80"]
    said = json.loads(app.pod.run([weir, "--socket", "/nowhere", *words]).stdout)["inbound"]
    assert said["proxy_listens"] is False and said.get("meanwhile") == meanwhile
    assert programs(said) == ["weir_lookup", *added, "weir_getsockopt"]


def test_what_if_in_its_clients_name(network, weir):
    app = CapturedPod(network, weir, "app")
    app.apply("--backend", "ebpf", "--inbound-source", "client")
    for address, six in ((app.ipv4, 4), (f"[{app.ipv6}]", 6)):
        words = ["explain", "what-if", "-j", "--inbound", "--to", f"{address}:80"]
        said = json.loads(app.pod.run([weir, "--socket", "/nowhere", *words]).stdout)["inbound"]
        passed = ["weir_lookup", "weir_getsockopt", f"weir_bind{six}", "weir_stream", f"weir_getpeername{six}"]
        assert programs(said) == passed


# --- processes -------------------------------------------------------------------------------------------------------
CLIENT = """
import os, socket, sys
listener = socket.create_server(("0.0.0.0", 8000))
os.setgid(7)
os.setuid(1000)
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
accepted = listener.accept()
print("accepted", flush=True)
sock.recv(1)
"""


FROM_PORT = """
import socket, sys
host, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("", own))
sock.connect((host, port))
print("connected", flush=True)
sock.recv(1)
"""


@pytest.mark.parametrize("family", [4, 6])
def test_connections_that_share_a_source_port(site, backend, family):
    """One of them does not leave its host. (Rules give further ones that the proxy takes another port.)"""
    near, other = site.near, site.near.pod.network.pod("other")
    loopback, address, vip = ("127.0.0.1", other.ipv4, site.vip) if family == 4 else ("::1", other.ipv6, site.vip6)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with near.pod.enter():
        own = socket.create_server((loopback, 8001), family=kind)
    with other.enter():
        far = socket.create_server((address, 9000), family=kind)
    places = [(loopback, 8001), (vip, 80), *([(address, 9000)] if backend == "ebpf" else [])]
    callers = {name_of(*to): near.pod.python_start(FROM_PORT, *map(str, to), "4500", ready=output("connected")) for to in places}
    wait_until(lambda: len(near.connections()) == len(places) - 1, what="the proxy has those that are captured")
    rows = {row["destination"]: row for row in near.connections()}
    for to, caller in callers.items():
        [socket_] = explain(near, "pid", caller.pid)["sockets"]
        row = rows.get(to)
        assert (socket_["remote"], socket_["connection"]) == (to, row and row["id"])
        if row:
            [seen] = explain_unprivileged(near, "pid", caller.pid)["sockets"]
            assert (seen["remote"], seen["connection"]) == (to, row["id"])
            assert explain(near, row["id"])["process"]["pid"] == caller.pid
            assert explain(near, row["peer"], to)["process"]["pid"] == caller.pid
    own.close()
    far.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_process(site, family):
    far, near = site.far, site.near
    vip = site.vip if family == 4 else site.vip6
    program = near.pod.python_start(CLIENT, vip, "80", ready=output("connected"))
    said = explain(near, "pid", program.pid)
    assert said["process"]["name"].startswith("python") and said["process"]["network_namespace"] == "this one"
    assert (said["process"]["user"], said["process"]["group"]) == (1000, 7)
    assert said["new_connections"]["verdict"] == "captured to port 15001, the outbound proxy"
    assert said["dns"]["verdict"] == "captured to port 15053, the DNS responder"
    rows = {row["direction"]: row for row in said["sockets"]}
    assert set(rows) == {"listening", "outbound"}
    [connection] = near.connections()
    out = rows["outbound"]
    assert (out["local"], out["remote"]) == (connection["peer"], name_of(vip, 80)) and out["rules"] == "captured to port 15001, the outbound proxy"
    assert (out["connection"], out["virtual_host"]) == (connection["id"], "web.mesh:80")
    assert rows["listening"]["local"] == "0.0.0.0:8000"
    assert rows["listening"]["rules"] == "captured to port 15006, the inbound proxy"

    # What it accepts comes from the inbound proxy: the mark of the other end shows.
    with far.pod.enter(), socket.create_connection((near.ipv4, 8000)):
        wait_until(lambda: "accepted" in program.output())
        rows = {row["direction"]: row for row in explain(near, "pid", program.pid)["sockets"]}
        assert rows["inbound"]["local"] == f"{near.ipv4}:8000" and rows["inbound"]["remote"].startswith("127.0.0.6:")
        assert rows["inbound"]["rules"] == "left alone: proxy: to the application, DNS servers and others"

    # Excluded by its user: of connections made from then on.
    near.weir("intercept", "remove")
    near.pod.run([near.mesh.weir_path, "intercept", "apply", *near.mesh.backend, "--exclude-users", "1000"])
    said = explain(near, "pid", program.pid)
    assert said["new_connections"]["verdict"] == said["dns"]["verdict"] == "left alone: excluded user"

    # By its control group, or one above that.
    group = CONTROL_GROUPS / f"{near.pod.network.prefix}program"
    (group / "below").mkdir(parents=True)
    (group / "below" / "cgroup.procs").write_text(str(program.pid))
    near.pod.run([near.mesh.weir_path, "intercept", "apply", "--exclude-cgroups", group.name])
    said = explain(near, "pid", program.pid)
    assert said["new_connections"]["cgroup"] == said["process"]["cgroup"] == f"/{group.name}/below"
    verdict = f"left alone: excluded control group {group.name}"
    assert said["new_connections"]["verdict"] == said["dns"]["verdict"] == verdict

    # Of a process in another namespace the rules and sockets of that one count.
    words = [near.mesh.weir_path, "--socket", near.socket, "explain", "pid", str(program.pid), "-j"]
    other = json.loads(far.pod.run(words).stdout)
    assert other["process"]["network_namespace"] == "another one, looked into"
    assert other["sockets"] == said["sockets"] and other["new_connections"] == said["new_connections"]
    program.kill()
    done = near.weir("explain", "pid", str(program.pid), check=False)
    assert (done.returncode, done.stdout) == (1, "") and "No such process" in done.stderr
    assert near.weir("explain", "pid", "x", check=False).returncode == 2


@pytest.mark.parametrize(
    "word", ["", ":80", "a b", "a\nb", "\x1b[31m", "1.2.3.4:99999", "[::1", "[::1]:99999", "name:", "name:0", "name:65536", "a" * 300]
)
def test_what_is_neither_an_address_nor_a_name(weir, word):
    done = subprocess.run([weir, "explain", "flow", word], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "") and "neither an address" in done.stderr


# --- parts that are missing ------------------------------------------------------------------------------------------
def test_without_rules_and_without_a_proxy(site, weir):
    near = site.near
    near.weir("intercept", "remove")
    said = explain(near, f"{site.vip}:80")
    assert said["outbound"]["verdict"] == "left alone: nothing is installed in this network namespace"
    assert said["outbound"]["rules"] == [] and said["proxy"] == {"result": "does not see it"}
    near.intercept("apply")
    assert near.proxy.stop() == 0
    done = near.weir("explain", f"{site.vip}:80", "-j")
    said = json.loads(done.stdout)
    assert said["outbound"]["proxy_listens"] is False
    assert said["proxy"]["unknown"].startswith(f"no proxy listens at {near.socket}")
    done = near.weir("explain", "256", check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"weir: no proxy listens at {near.socket}")


def test_without_permission(site, weir):
    """Another user may not read the rules: said, and what the proxy tells is told all the same."""
    near = site.near
    os.chmod(near.socket, 0o666)
    program = shutil.copy(weir, site.near.folder)  # the build may be in a folder that is not theirs to read
    words = [program, "--socket", near.socket, "explain", f"{site.vip}:80", "-j"]
    done = near.pod.run(words, user=1000, group=1000, check=False)
    said = json.loads(done.stdout)
    assert said["outbound"]["verdict"].startswith("unknown: ") and "CAP_NET_ADMIN" in said["outbound"]["verdict"]
    assert said["outbound"]["rules"] == []
    assert done.returncode == 1 and "unknown" in said["proxy"]  # the admin socket is not theirs, either
