# SPDX-License-Identifier: Apache-2.0
"""Applications that see their clients' addresses: connections that have the same four ends, pools, what is missing."""

import http.server
import os
import pathlib
import socket
import threading

import pytest

from capture import STATE, Server, probe, state
from mesh import Mesh, serving
from netns import wait_until

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
back_ends = pytest.mark.parametrize("backend", ["nft", "iptables", "ebpf"])
ANY = {4: "0.0.0.0", 6: "::"}
KEEP = {"intercept": {"capture": {"inbound_source": "client"}}}


def ip_of(pod, family):
    return pod.ipv6 if family == 6 else pod.ipv4


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def captured(mesh, backend, **config):
    sidecar = mesh.sidecar("server", start=False, **{**KEEP, **config})
    sidecar.start()
    sidecar.intercept("apply", "--backend", backend)
    return sidecar


def connect_from(pod, port, to):
    with pod.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.settimeout(30)
        sock.connect(to)
    return sock


@families
@back_ends
def test_the_proxys_port_is_that_of_another_connection(mesh, family, backend):
    """The proxy has four ports to choose from; its client uses all of them at the same time, from the same address to
    the same application."""
    sidecar = captured(mesh, backend)
    client = mesh.network.pod("client")
    sidecar.pod.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    with sidecar.pod.enter():
        listener = socket.create_server(
            (ANY[family], 7000), family=socket.AF_INET6 if family == 6 else socket.AF_INET, backlog=8
        )
    listener.settimeout(30)
    pairs, seen = [], set()
    for port in (40001, 40003, 40000, 40002):
        ours = connect_from(client, port, (ip_of(sidecar, family), 7000))
        theirs, peer = listener.accept()
        assert peer[0] == ip_of(client, family)
        seen.add(peer[1])
        pairs.append((ours, theirs))
    assert seen == {40000, 40001, 40002, 40003}, "all of them are in use on both ways"
    for number, (ours, theirs) in enumerate(pairs):
        ours.settimeout(30)
        theirs.settimeout(30)
        ours.sendall(b"to %d" % number)
        assert theirs.recv(100) == b"to %d" % number
        theirs.sendall(b"from %d" % number)
        assert ours.recv(100) == b"from %d" % number
    for ours, theirs in pairs:
        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(100) == b""
        theirs.close()
        assert ours.recv(100) == b""
        ours.close()
    listener.close()


class Web(http.server.ThreadingHTTPServer):
    """Answers with the address that it sees; keeps connections."""

    def __init__(self, pod, family, port):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = f"{self.client_address[0]} {self.client_address[1]}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.address_family = socket.AF_INET6 if family == 6 else socket.AF_INET
        with pod.enter():
            super().__init__((ANY[family], port), Handler)
        self.daemon_threads = True
        threading.Thread(target=self.serve_forever, daemon=True).start()


def get(pod, address, port):
    host = f"[{address}]" if ":" in address else address
    return pod.run(["curl", "-sS", "--max-time", "30", f"http://{host}:{port}/"]).stdout.split()


@families
@pytest.mark.parametrize("backend", ["nft", "ebpf"])
def test_a_pooled_connection_serves_its_own_client_alone(mesh, family, backend):
    # With the protocol known the proxy dials when there is a request, and not early for a client that is silent yet.
    sidecar = captured(mesh, backend, inbound=[{"port": 8080, "protocol": "http"}])
    web = Web(sidecar.pod, family, 8080)
    one, two = mesh.network.pod("one"), mesh.network.pod("two")
    ports = {}
    for client in (one, two, one, two, one):
        address, port = get(client, ip_of(sidecar, family), 8080)
        assert address == ip_of(client, family)
        ports.setdefault(address, set()).add(port)
    assert [len(found) for found in ports.values()] == [1, 1], "each client's connection was used again"
    web.shutdown()
    web.server_close()


@families
@back_ends
def test_an_application_on_the_pods_address_alone(mesh, family, backend):
    """Or on a loopback address, where nobody finds it who would not without weir."""
    sidecar = captured(mesh, backend)
    client = mesh.network.pod("client")
    Server(sidecar.pod, 7000, "app", ip_of(sidecar, family))
    Server(sidecar.pod, 7001, "app", "::1" if family == 6 else "127.0.0.1")
    host = f"[{client.ipv6}]" if family == 6 else client.ipv4
    assert probe(client, ip_of(sidecar, family), 7000).startswith(f"app {host}:")
    assert sidecar.show("intercept", "show")["clients_stay_visible"]
    with pytest.raises(ConnectionResetError):
        probe(client, ip_of(sidecar, family), 7001)


@back_ends
def test_a_client_whose_number_is_the_last(mesh, backend):
    """With eBPF every client has a number, made of its address; the last address of 127.0.0.0/8, where connections in clients'
    names come from, is one to which the kernel sends nothing."""
    sidecar, client, address = captured(mesh, backend), mesh.network.pod("client"), "130.101.123.61"
    client.address(f"{address}/32")
    sidecar.pod.ip(f"route add {address} dev eth0")
    Server(sidecar.pod, 7000, "app")
    with client.enter(), socket.create_connection((sidecar.ipv4, 7000), 30, (address, 0)) as sock:
        assert sock.recv(100).decode().startswith(f"app {address}:")


INVALID = """
table inet firewall {
    chain input { type filter hook input priority 0; ct state invalid drop; }
    chain output { type filter hook output priority 0; ct state invalid drop; }
}
"""


@families
@pytest.mark.parametrize("backend", ["nft", "iptables", "ebpf", "ebpf+nft"])
def test_a_host_that_drops_invalid_packets(mesh, family, backend):
    """Both ways of a connection are tracked as one."""
    capture = {"inbound_source": "client"}
    if backend == "ebpf+nft":
        capture["outbound"] = {"exclude_interfaces": ["eth9"]}
    sidecar = captured(mesh, backend.partition("+")[0], intercept={"capture": capture})
    sidecar.pod.run(["nft", "-f", "-"], input=INVALID)
    client = mesh.network.pod("client")
    Server(sidecar.pod, 7000, "app", ANY[family])
    host = f"[{client.ipv6}]" if family == 6 else client.ipv4
    assert probe(client, ip_of(sidecar, family), 7000).startswith(f"app {host}:")
    shown = sidecar.show("intercept", "show")
    assert (shown["backend"], shown["altered"], shown["clients_stay_visible"]) == (backend, False, True)


def resent(pod):
    """Segments that were sent again in the pod so far."""
    return int(pod.run(["nstat", "-az", "TcpRetransSegs"]).stdout.split()[-2])


@families
@pytest.mark.parametrize("backend", ["nft", "ebpf"])
def test_an_application_that_is_gone_refuses_as_ever(mesh, family, backend):
    sidecar = captured(mesh, backend)
    client = mesh.network.pod("client")
    before = resent(sidecar.pod)
    with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
        sock = connect_from(client, 0, (ip_of(sidecar, family), 7000))
        assert sock.recv(10) != b""
    assert resent(sidecar.pod) == before, "the refusal has not found back"


def test_a_proxy_without_the_privilege_says_so(mesh, weir):
    sidecar = mesh.sidecar("server", start=False, unprivileged=True, **KEEP)
    os.chown(sidecar.folder, 65534, 65534)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    sidecar.proxy = sidecar.pod.start(
        [*words, mesh.weir_proxy, "--config", sidecar.config_path], ready=serving(sidecar.socket)
    )
    sidecar.take_turn()
    wait_until(lambda: "applications do not see their clients' addresses" in sidecar.proxy.output())
    sidecar.pod.run([weir, "intercept", "apply", "--proxy-user", "65534", "--inbound-source", "client"])
    Server(sidecar.pod, 7000, "app")
    assert probe(mesh.network.pod("client"), sidecar.ipv4, 7000).startswith("app 127.0.0.6:")


@families
@back_ends
def test_the_proxy_needs_one_capability(mesh, family, backend):
    """It is another user, and may mark sockets (CAP_NET_RAW), which lets it take its clients' addresses, too."""
    sidecar = mesh.sidecar("server", start=False, unprivileged=True, **KEEP)
    os.chown(sidecar.folder, 65534, 65534)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    words += [f"--{kind}=-all,+net_raw" for kind in ("bounding-set", "inh-caps", "ambient-caps")]
    sidecar.proxy = sidecar.pod.start([*words, mesh.weir_proxy, "--config", sidecar.config_path], ready=serving(sidecar.socket))
    sidecar.take_turn()
    status = pathlib.Path(f"/proc/{sidecar.proxy.pid}/status").read_text()
    assert f"CapEff:\t{1 << 13:016x}\n" in status and "Uid:\t65534\t" in status
    sidecar.intercept("apply", "--backend", backend)
    Server(sidecar.pod, 7000, "app", ANY[family])
    client = mesh.network.pod("client")
    answer = probe(client, ip_of(sidecar, family), 7000)
    assert answer.startswith(f"app [{client.ipv6}]:" if family == 6 else f"app {client.ipv4}:")
    assert sidecar.counter("downstream_connections_total") == 1 and "do not see" not in sidecar.proxy.output()


def test_a_setting_that_cannot_be_made(mesh, weir):
    pod = mesh.network.pod("server")
    before = state(pod)
    hidden = ["unshare", "-m", "sh", "-c", 'mount --bind -o ro /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys; exec "$@"']
    words = ["sh", weir, "intercept", "apply", "--backend", "nft", "--inbound-source", "client"]
    failed = pod.run([*hidden, *words], check=False)
    assert failed.returncode == 1 and "net.ipv4.tcp_fwmark_accept=1" in failed.stderr, failed.stderr
    assert state(pod) == before
    for key in ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"):
        pod.sysctl(key, 1)
    assert pod.run([*hidden, *words]).stdout == "interception: installed\n"
    pod.run([weir, "intercept", "remove"])
    for key in ("net.ipv4.tcp_fwmark_accept", "net.ipv6.fwmark_reflect"):
        assert pod.run(["sysctl", "-n", key]).stdout == "1\n", "as somebody else has set it"


@pytest.mark.parametrize("key", ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"])
def test_a_setting_that_somebody_changed_is_mended(mesh, weir, key):
    pod = mesh.network.pod("server")
    before = state(pod)
    words = [weir, "intercept", "apply", "--backend", "nft", "--inbound-source", "client"]
    pod.run(words)
    pod.sysctl(key, 0)
    assert pod.run(words).stdout == "interception: installed\n" and pod.run(["sysctl", "-n", key]).stdout == "1\n"
    assert pod.run(words).stdout == "interception: unchanged\n"
    pod.run([weir, "intercept", "remove"])
    assert state(pod) == before and pod.run(["sysctl", "-n", key]).stdout == "0\n"


@families
def test_a_route_that_somebody_removed_is_laid_again(mesh, weir, family):
    pod = mesh.network.pod("server")
    words = [weir, "intercept", "apply", "--backend", "nft", "--inbound-source", "client"]
    pod.run(words)
    there = state(pod, STATE[1:])
    pod.run(["ip", f"-{family}", "route", "del", "local", "default", "dev", "lo", "table", "30577"])
    assert state(pod, STATE[1:]) != there
    assert [pod.run(words).stdout for _ in range(2)] == ["interception: installed\n", "interception: unchanged\n"]
    assert state(pod, STATE[1:]) == there


def test_it_does_not_go_with_tproxy(mesh, weir):
    failed = mesh.network.pod("server").run(
        [weir, "intercept", "plan", "--inbound-source", "client", "--inbound-mode", "tproxy"], check=False
    )
    assert failed.returncode == 2 and "do not go together" in failed.stderr
