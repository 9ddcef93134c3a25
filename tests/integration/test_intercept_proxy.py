# SPDX-License-Identifier: Apache-2.0
"""Interception with real proxies and real programs: calls between captured pods and to oneself, where applications
listen, the proxy's own connections, original destinations, and what a killed proxy leaves behind."""

import contextlib
import os
import re
import socket

import pytest

from capture import Server, cookie_of, pins_of, probe, state
from mesh import Mesh, cluster, connect, service, serving
from netns import listening, wait_until

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def ip_of(pod, family):
    return pod.ipv6 if family == 6 else pod.ipv4


def with_port(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def vip(sidecar, name, family):
    rows = sidecar.show("vhost", "show")["virtual_hosts"]
    return next(row[f"vip{family}"] for row in rows if row["name"].split(":")[0] == name)


def rule_packets(sidecar, purpose, chain=None):
    rules = sidecar.show("intercept", "show")["rules"]
    return sum(r["packets"] for r in rules if r["purpose"] == purpose and chain in (None, r["chain"]))


def refuses(pod, address, port):
    """Nobody takes the connection: refused at once, or taken by a proxy and reset."""
    try:
        with contextlib.closing(connect(pod, address, port)) as peer:
            return peer.rest() == b"" and "closed"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"


# --- calls -----------------------------------------------------------------------------------------------------------
@families
@pytest.mark.parametrize("bound", ["any", "pod"])
@pytest.mark.parametrize("tls", [None, "strict"], ids=["plain", "mtls"])
def test_calls_between_captured_pods(mesh, family, bound, tls):
    """By the service's name and address, through both proxies; the application sees a source that is not captured."""
    server = mesh.sidecar("server", tls=tls)
    address = ip_of(server, family)
    app = Server(server.pod, 7000, "app", ANY[family] if bound == "any" else address)
    keys = {"tls": "mesh"} if tls else {}
    client = mesh.sidecar(
        "client",
        tls=tls,
        services=[service("app.mesh", 80, "app")],
        clusters=[cluster("app", [with_port(address, 7000)], **keys)],
    )
    answer = probe(client.pod, vip(client, "app.mesh", family), 80)
    source = "127.0.0.6" if family == 4 else address
    assert re.fullmatch(r"app \[?" + re.escape(source) + r"\]?:\d+", answer)
    assert app.peers == [source]
    assert rule_packets(server, "inbound", "inbound") == 1, "the proxy's connection is not captured again"
    assert rule_packets(server, "outbound", "output") == 0


@families
@pytest.mark.parametrize("bound", ["any", "pod"])
def test_a_captured_pod_reached_by_its_address(mesh, family, bound):
    """Nothing is configured for that port: it passes through both proxies unchanged."""
    server, client = mesh.sidecar("server"), mesh.sidecar("client")
    address = ip_of(server, family)
    Server(server.pod, 7000, "app", ANY[family] if bound == "any" else address)
    assert probe(client.pod, address, 7000).startswith("app ")
    assert rule_packets(client, "outbound", "output") == 1
    assert rule_packets(server, "inbound", "inbound") == 1


@families
def test_an_application_that_serves_dns_over_tcp(mesh, family):
    """The inbound proxy's connection to it is no query of its host's: it is known by its mark."""
    server = mesh.sidecar("server")
    Server(server.pod, 53, "app", ANY[family])
    assert probe(mesh.network.pod("stranger"), ip_of(server, family), 53).startswith("app ")
    assert rule_packets(server, "inbound", "inbound") == 1


@families
def test_an_uncaptured_client_reaches_a_captured_pod(mesh, family):
    server = mesh.sidecar("server")
    Server(server.pod, 7000, "app", ANY[family])
    assert probe(mesh.network.pod("stranger"), ip_of(server, family), 7000).startswith("app ")


@families
def test_an_application_on_the_loopback_address_is_not_exposed(mesh, family):
    """It is not reachable from outside without the proxy, nor with it; programs of its own host do reach it."""
    server = mesh.sidecar("server")
    Server(server.pod, 7000, "app", LOOPBACK[family])
    stranger = mesh.network.pod("stranger")
    assert refuses(stranger, ip_of(server, family), 7000) in ("refused", "reset")
    assert probe(server.pod, LOOPBACK[family], 7000).startswith("app ")
    assert rule_packets(server, "outbound", "output") == 0


@families
@pytest.mark.parametrize("tls", [None, "strict"], ids=["plain", "mtls"])
def test_a_pod_calls_itself_by_the_services_name(mesh, family, tls):
    """Outbound proxy, inbound proxy, application: policy and TLS are those of any other call."""
    pod = mesh.network.pod("self")
    keys = {"tls": "mesh"} if tls else {}
    sidecar = mesh.sidecar(
        "self",
        pod=pod,
        tls=tls,
        services=[service("me.mesh", 80, "me")],
        clusters=[cluster("me", [with_port(ip_of(pod, family), 7000)], **keys)],
    )
    app = Server(pod, 7000, "app", ANY[family])
    assert probe(pod, vip(sidecar, "me.mesh", family), 80).startswith("app ")
    assert app.peers == ["127.0.0.6" if family == 4 else pod.ipv6]
    assert rule_packets(sidecar, "outbound: virtual IP") == 1
    assert rule_packets(sidecar, "proxy: to an endpoint on this host") == 1
    assert rule_packets(sidecar, "inbound", "inbound") == 1
    assert sidecar.counter("downstream_connections_total") == 2


@families
def test_a_pod_calls_itself_by_its_address(mesh, family):
    sidecar = mesh.sidecar("self")
    app = Server(sidecar.pod, 7000, "app", ANY[family])
    for address in (LOOPBACK[family], ip_of(sidecar, family)):
        assert probe(sidecar.pod, address, 7000).startswith("app ")
    assert app.peers == [LOOPBACK[family], ip_of(sidecar, family)], "no proxy in between"


# --- virtual IPs -----------------------------------------------------------------------------------------------------
@families
def test_a_name_is_resolved_and_reached_without_a_default_route(mesh, family):
    pod = mesh.network.pod("client", default_route=False)
    server = mesh.network.pod("server")
    Server(server, 7000, "app", ANY[family])
    client = mesh.sidecar(
        "client",
        pod=pod,
        services=[service("app.mesh", 80, "app")],
        clusters=[cluster("app", [with_port(ip_of(server, family), 7000)])],
    )
    code = """if True:
        import socket, sys
        family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
        address = socket.getaddrinfo("app.mesh", 80, family, socket.SOCK_STREAM)[0][4]
        with socket.create_connection(address[:2], 30) as sock:
            print(address[0], sock.getpeername()[0], sock.recv(100).decode())
    """
    address, peer, word, _ = pod.python(code, str(family)).stdout.split()
    assert address == peer == vip(client, "app.mesh", family), "the application sees the address that it connected to"
    assert word == "app"


# --- SSH -------------------------------------------------------------------------------------------------------------
@families
def test_ssh_goes_past_the_proxy(mesh, family):
    sidecar, stranger = mesh.sidecar("server"), mesh.network.pod("stranger")
    folder = mesh.network.folder / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        sidecar.pod.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nListenAddress 0.0.0.0\nListenAddress [::]\n"
    )
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    sidecar.pod.start(["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"], ready=listening(22))
    options = ["-i", folder / "user", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    sidecar.proxy.kill()  # nobody is locked out by a proxy that is gone
    done = stranger.run(
        ["ssh", *options, "-o", "BatchMode=yes", f"root@{ip_of(sidecar, family)}", "echo $SSH_CONNECTION"]
    )
    assert done.stdout.split()[0] == ip_of(stranger, family), "the server sees its real peer"
    assert rule_packets(sidecar, "excluded port", "inbound") >= 1


# --- the loop guard --------------------------------------------------------------------------------------------------
@families
@pytest.mark.parametrize("port", [15001, 15006, 15053])
def test_connections_to_the_proxys_own_ports_end(mesh, family, port):
    """From its own host and from others: none of them makes the proxy call itself for ever."""
    sidecar, stranger = mesh.sidecar("server"), mesh.network.pod("stranger")
    address = ip_of(sidecar, family)
    assert refuses(stranger, address, port)
    if port != 15053:  # there, one may ask
        assert refuses(sidecar.pod, LOOPBACK[family], port)
        assert refuses(sidecar.pod, address, port)
    opened = sidecar.counter("downstream_connections_total") + sidecar.counter("loops_refused_total")
    assert opened <= 4
    if port != 15053:
        assert sidecar.counter("loops_refused_total") >= 1


# Of `weir intercept apply` --backend, and what the configuration says of the capture.
WAYS = {
    "nft-tproxy": ("nft", {"inbound_mode": "tproxy"}),
    "nft-client": ("nft", {"inbound_source": "client"}),
    "ebpf": ("ebpf", {}),
    "ebpf-client": ("ebpf", {"inbound_source": "client"}),
    "ebpf-nft": ("ebpf", {"outbound": {"exclude_interfaces": ["eth9"]}}),
    "iptables": ("iptables", {}),
}
other_ways = pytest.mark.parametrize("way", list(WAYS))


@families
@other_ways
def test_they_end_whatever_intercepts(mesh, family, way):
    """Where addresses are not translated the kernel knows no original destination of such a connection: it counts as lost."""
    backend, capture = WAYS[way]
    mesh.backend = ["--backend", backend]
    sidecar, stranger = mesh.sidecar("server", intercept={"capture": capture}), mesh.network.pod("stranger")
    address, count = ip_of(sidecar, family), 0
    for port in (15001, 15006):
        for pod, to in ((stranger, address), (sidecar.pod, LOOPBACK[family]), (sidecar.pod, address)):
            count += refuses(pod, to, port) in ("reset", "closed")
    ends = {name: sidecar.counter(name) for name in ("loops_refused_total", "original_destination_lost_total")}
    assert sum(ends.values()) == count - sidecar.counter("downstream_connections_total") > 0, ends
    assert sidecar.counter("downstream_connections_total") <= 2


@families
@pytest.mark.parametrize("port", [15001, 15006])
def test_an_endpoint_that_is_the_proxy_itself(mesh, family, port):
    pod = mesh.network.pod("self")
    sidecar = mesh.sidecar(
        "self",
        pod=pod,
        services=[service("loop.mesh", 80, "loop", protocol="tcp")],
        clusters=[cluster("loop", [with_port(ip_of(pod, family), port), with_port(LOOPBACK[family], port)])],
    )
    for _ in range(2):
        assert refuses(pod, vip(sidecar, "loop.mesh", family), 80)
    opened = sidecar.counter("downstream_connections_total") + sidecar.counter("loops_refused_total")
    assert opened <= 8


@families
def test_an_endpoint_that_is_a_virtual_ip(mesh, family):
    """A misconfiguration: what the proxy sends to a virtual IP does not come back to it."""
    vips = {4: "240.240.0.5", 6: "fd77:65:6972::5"}
    sidecar = mesh.sidecar(
        "self",
        services=[service("loop.mesh", 80, "loop", protocol="tcp")],
        clusters=[cluster("loop", [with_port(vips[family], 80)], connect_timeout="300ms")],
        dns={"vips": ["240.240.0.0/16", "fd77:65:6972::/112"]},
    )
    assert refuses(sidecar.pod, vip(sidecar, "loop.mesh", family), 80)
    assert sidecar.counter("downstream_connections_total") == 1


@families
def test_a_proxy_that_cannot_mark_its_sockets(mesh, weir, family):
    """Without CAP_NET_RAW it says so, and is spared by its user."""
    server = mesh.network.pod("server")
    Server(server, 7000, "server", ANY[family])
    sidecar = mesh.sidecar("client", start=False, unprivileged=True)
    os.chown(sidecar.folder, 65534, 65534)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    sidecar.proxy = sidecar.pod.start(
        [*words, mesh.weir_proxy, "--config", sidecar.config_path], ready=serving(sidecar.socket)
    )
    sidecar.take_turn()
    wait_until(lambda: "sockets cannot be marked" in sidecar.proxy.output())
    sidecar.pod.run([weir, "intercept", "apply", "--proxy-user", "65534"])
    for _ in range(3):
        assert probe(sidecar.pod, ip_of(server, family), 7000).startswith("server ")
    assert rule_packets(sidecar, "outbound", "output") == 3
    assert rule_packets(sidecar, "proxy: by its user", "output") == 3


# --- ephemeral ports -------------------------------------------------------------------------------------------------
PORTS = (7000, 7001, 7002, 7003)


@families
@pytest.mark.parametrize("direction, each", [("inbound", 6), ("outbound", 4)])
def test_more_connections_than_ephemeral_ports(mesh, family, direction, each):
    """Ten ports, 24 connections to four destinations: one port serves several as long as the destinations differ.
    Outbound the application needs one for each, too."""
    sidecar = mesh.sidecar("server")
    other = mesh.network.pod("other")
    client, server = (other, sidecar.pod) if direction == "inbound" else (sidecar.pod, other)
    held = []
    with server.enter():
        for port in PORTS:
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ANY[family], port))
            sock.listen(64)
            sock.settimeout(30)
            held.append(sock)
    sidecar.pod.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
    listeners = list(held)
    for _ in range(each):
        for port, listener in zip(PORTS, listeners):
            peer = connect(client, ip_of(server, family), port)
            accepted, _ = listener.accept()
            accepted.sendall(b"x")
            assert peer.read(1) == b"x"
            held += [peer.sock, accepted]
    assert len(sidecar.connections(direction=direction)) == each * len(PORTS)
    for sock in held:
        sock.close()


def test_bind_leaves_the_port_to_connect(mesh):
    """As the system calls show it: the option comes before bind."""
    server = mesh.sidecar("server", start=False)
    trace = mesh.network.folder / "trace"
    server.proxy = server.pod.start(
        ["strace", "-f", "-e", "trace=setsockopt,bind,connect", "-o", trace, mesh.weir_proxy]
        + ["--config", server.config_path],
        ready=serving(server.socket),
        env={"ASAN_OPTIONS": "detect_leaks=0"},
    )
    server.take_turn()
    server.intercept("apply")
    Server(server.pod, 7000, "app")
    assert probe(mesh.network.pod("client"), server.ipv4, 7000).startswith("app ")
    wait_until(lambda: 'sin_addr=inet_addr("127.0.0.6")' in trace.read_text())
    lines = trace.read_text().splitlines()
    bind = next(i for i, line in enumerate(lines) if "bind(" in line and "127.0.0.6" in line)
    fd = re.search(r"bind\((\d+)", lines[bind]).group(1)
    assert "sin_port=htons(0)" in lines[bind]
    before = [line for line in lines[:bind] if f"setsockopt({fd}," in line]
    assert any("IP_BIND_ADDRESS_NO_PORT, [1]" in line for line in before)
    assert any("SO_MARK" in line for line in before)


# --- what a killed proxy leaves --------------------------------------------------------------------------------------
@pytest.mark.parametrize("default_route", [True, False])
def test_nothing_is_left_behind_after_a_proxy_was_killed(mesh, default_route):
    pod = mesh.network.pod("client", default_route=default_route)
    server = mesh.network.pod("server")
    for family in (4, 6):
        Server(server, 7000, "app", ANY[family])
    pod.run(["nft", "-f", "-"], input="table ip theirs { chain c { type filter hook input priority 0; }; }\n")
    before = state(pod)
    client = mesh.sidecar(
        "client",
        pod=pod,
        services=[service("app.mesh", 80, "app")],
        clusters=[cluster("app", [f"{server.ipv4}:7000"])],
    )
    for family in (4, 6):
        assert probe(pod, vip(client, "app.mesh", family), 80).startswith("app ")
    client.proxy.kill()
    assert probe(pod, server.ipv4, 7000) == "refused"  # closed, until the rules are gone
    assert client.pod.run([mesh.weir_path, "intercept", "remove"]).stdout == "interception: removed\n"
    assert state(pod) == before
    assert probe(pod, server.ipv4, 7000).startswith("app ")


@other_ways
def test_nothing_is_left_behind_whatever_intercepted(mesh, way):
    backend, capture = WAYS[way]
    pod, stranger = mesh.network.pod("client"), mesh.network.pod("stranger")
    Server(stranger, 7000, "stranger")
    Server(pod, 7000, "app")
    before = state(pod)
    mesh.backend = ["--backend", backend]
    client = mesh.sidecar("client", pod=pod, intercept={"capture": capture})
    assert probe(pod, stranger.ipv4, 7000).startswith("stranger ") and probe(stranger, pod.ipv4, 7000).startswith("app ")
    assert client.counter("downstream_connections_total") == 2
    client.proxy.kill()
    assert probe(pod, stranger.ipv4, 7000) == "refused"
    if way != "nft-tproxy":  # there, connections are left without an answer
        assert probe(stranger, pod.ipv4, 7000) == "refused"
    assert client.pod.run([mesh.weir_path, "intercept", "remove"]).stdout == "interception: removed\n"
    if backend != "iptables":  # which leaves tables that the kernel made, empty
        assert state(pod) == before
    assert "WEIR" not in pod.run(["iptables-save"]).stdout and pins_of(cookie_of(pod)) == []
    assert probe(pod, stranger.ipv4, 7000).startswith("stranger ") and probe(stranger, pod.ipv4, 7000).startswith("app ")


def test_a_restarted_proxy_finds_the_rules_in_place(mesh):
    server = mesh.network.pod("server")
    Server(server, 7000, "app")
    client = mesh.sidecar("client")
    client.proxy.kill()
    client.start()
    assert probe(client.pod, server.ipv4, 7000).startswith("app ")
    assert client.intercept("apply").stdout == "interception: unchanged\n"


def test_check_with_a_real_proxy(mesh):
    sidecar = mesh.sidecar("client", services=[service("a.mesh", 80, "a")], clusters=[cluster("a", ["10.77.0.99:1"])])
    done = sidecar.pod.run([mesh.weir_path, "intercept", "check"], check=False)
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout and "skipped" not in done.stdout and "not running" not in done.stdout
    sidecar.pod.run([mesh.weir_path, "intercept", "remove"])
    done = sidecar.pod.run([mesh.weir_path, "intercept", "check"], check=False)
    assert done.returncode == 1 and "nothing is captured" in done.stderr


# --- the original destination ----------------------------------------------------------------------------------------
@families
@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_the_original_destination_is_kept_beside_the_peers_address(mesh, family, direction):
    sidecar, other = mesh.sidecar("pod"), mesh.network.pod("other")
    client, server = (sidecar.pod, other) if direction == "outbound" else (other, sidecar.pod)
    with server.enter():
        listener = socket.create_server(
            (ANY[family], 7000), family=socket.AF_INET6 if family == 6 else socket.AF_INET
        )
    peer = connect(client, ip_of(server, family), 7000)
    accepted, _ = listener.accept()
    row = wait_until(lambda: sidecar.connections(direction=direction))[0]
    assert row["destination"] == with_port(ip_of(server, family), 7000)
    assert row["peer"] == with_port(*peer.sock.getsockname()[:2])
    accepted.close()
    listener.close()
    peer.close()


def lose_destinations(pod):
    """Connections in another zone of connection tracking: the kernel does not find them any more."""
    pod.run(
        ["nft", "-f", "-"],
        input="""
        table inet lost {
            chain output {
                type filter hook output priority -310;
                tcp dport 7000 ct zone set 5
                tcp sport { 15001, 15006 } ct zone set 5
            }
            chain prerouting {
                type filter hook prerouting priority -310;
                tcp dport 7000 ct zone set 5
            }
        }
        """,
    )


def lost_lines(sidecar):
    return [line for line in sidecar.proxy.output().splitlines() if "original destination" in line]


@families
@pytest.mark.parametrize("direction", ["outbound", "inbound"])
@pytest.mark.parametrize("policy", [None, "close", "local"])
def test_a_lost_destination(mesh, family, direction, policy):
    """Closed; by the local address the proxy would only call itself, which it does not. Counted each time, said once."""
    config = {"intercept": {"lost_destination": policy}} if policy else {}
    sidecar, other = mesh.sidecar("pod", workers=2, **config), mesh.network.pod("other")
    client, server = (sidecar.pod, other) if direction == "outbound" else (other, sidecar.pod)
    app = Server(server, 7000, "app", ANY[family])
    assert probe(client, ip_of(server, family), 7000).startswith("app ")
    lose_destinations(sidecar.pod)
    for count in range(1, 6):
        assert refuses(client, ip_of(server, family), 7000)
        assert sidecar.counter("original_destination_lost_total") == count
    assert len(app.peers) == 1
    assert len(lost_lines(sidecar)) == 1
    assert "warn" in lost_lines(sidecar)[0] and "peer=" in lost_lines(sidecar)[0]
    assert sidecar.counter("loops_refused_total") == (5 if policy == "local" else 0)


@families
def test_a_destination_that_is_the_local_address(mesh, family):
    """Handed over without address translation, by rules of others, a connection has its destination for its local
    address, and no entry in connection tracking."""
    sidecar = mesh.sidecar("pod", start=False)
    sidecar.start()
    ip = "ip6" if family == 6 else "ip"
    sidecar.pod.run(
        ["nft", "-f", "-"],
        input=f"table {ip} handed {{ chain prerouting {{ type filter hook prerouting priority -150; "
        "tcp dport 7000 iifname eth0 tproxy to :15006; }; }\n",
    )
    app = Server(sidecar.pod, 7000, "app", ANY[family])
    client = mesh.network.pod("client")
    assert probe(client, ip_of(sidecar, family), 7000).startswith("app ")
    assert len(app.peers) == 1
    assert sidecar.counter("original_destination_lost_total") == 0
