# SPDX-License-Identifier: Apache-2.0
"""Probes of Kubernetes by way of the proxy, which runs as injected pods run it: another user, no privileges, strict mutual
TLS. The kubelet is the network's hub: it asks in plaintext."""

import contextlib
import os
import socket
import ssl
import subprocess

import h2.config
import h2.connection
import h2.events
import pytest

from mesh import Mesh, Origin, connect, serving
from netns import listening, readable, wait_until
from web import reply, serve

PORT, USER = 15021, 1771


class ProbedPod:
    def __init__(self, mesh, weir, weir_proxy, *probes, **config):
        self.sidecar = mesh.sidecar("app", tls="strict", start=False, unprivileged=True, **config)
        self.pod, self.hub, self.weir = self.sidecar.pod, mesh.network.hub, weir
        os.chown(self.sidecar.folder, USER, USER)
        os.chown(self.sidecar.config["tls"]["private_key"], USER, USER)
        words = [f"--probe={probe}" for probe in probes]
        self.proxy = self.pod.start(
            [weir_proxy, "--config", self.sidecar.config_path, f"--probe-port={PORT}", *words],
            user=USER,
            group=USER,
            ready=listening(PORT),
            env={"ASAN_OPTIONS": "detect_leaks=1"},
        )
        wait_until(serving(self.sidecar.socket))
        self.pod.run([weir, "intercept", "apply", f"--proxy-user={USER}", f"--exclude-inbound-ports={PORT}"])

    def get(self, path, address=None, headers=""):
        """(status, body) as the kubelet sees it."""
        peer = connect(self.hub, address or self.pod.ipv4, PORT)
        host = f"[{address}]" if address else self.pod.ipv4
        peer.send(f"GET {path} HTTP/1.1\r\nHost: {host}:{PORT}\r\nUser-Agent: kube-probe/1.30\r\n{headers}Connection: close\r\n\r\n")
        status, _, body = peer.response()
        return status, body.decode().strip()

    def probe(self, name, **options):
        return self.get(f"/weir/probe/app/{name}", **options)


@pytest.fixture
def probed(network, weir, weir_proxy):
    mesh = Mesh(network, weir, weir_proxy)
    return lambda *probes, **config: ProbedPod(mesh, weir, weir_proxy, *probes, **config)


def test_own_health(probed):
    pod = probed()
    assert pod.get("/healthz") == (200, "ok") and pod.get("/readyz") == (200, "ok")
    assert pod.get("/readyz", address=pod.pod.ipv6)[0] == 200
    assert pod.get("/")[0] == pod.get("/metrics")[0] == pod.probe("liveness")[0] == 404
    assert pod.get("/weir/probe/")[0] == 404


def test_http(probed):
    """The application gets what the kubelet would have sent, at its own address; its status counts."""
    pod = probed("app/liveness=http:8080/healthz?full=1")
    seen = []
    assert pod.probe("liveness") == (503, "Connection refused")
    with Origin(pod.pod, 8080, serve(seen=seen)):
        assert pod.probe("liveness", headers="X-Token: 7\r\n")[0] == 200
        # Nobody else gets at the application without mutual TLS.
        with pytest.raises((ConnectionResetError, AssertionError)):
            connect(pod.hub, pod.pod.ipv4, 8080).send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").response()
    lines = seen[0].split("\r\n")
    assert lines[0] == "GET /healthz?full=1 HTTP/1.1"
    assert f"Host: {pod.pod.ipv4}:8080" in lines and "X-Token: 7" in lines and "User-Agent: kube-probe/1.30" in lines
    assert "Connection: close" in lines and len(seen) == 1


def test_http_over_ipv6(probed):
    pod = probed("app/liveness=http:8080/")
    seen = []
    with Origin(pod.pod, 8080, serve(seen=seen), address="::"):
        assert pod.probe("liveness", address=pod.pod.ipv6)[0] == 200
    assert f"Host: [{pod.pod.ipv6}]:8080" in seen[0]


@pytest.mark.parametrize(
    "answer, status",
    [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\nx", 500),
        ("HTTP/1.0 404 No\r\n\r\nto the end", 404),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + "x" * 40000, 200),
        ("HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", 200),
        ("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", 503),  # for ever
        ("SSH-2.0-x\r\n", 503),
        ("HTTP/1.1 200", 503),
        ("", 503),
    ],
)
def test_answers(probed, answer, status):
    pod = probed("app/liveness=http:8080/")

    def handler(peer):
        peer.head()
        peer.send(answer)

    with Origin(pod.pod, 8080, handler):
        assert pod.probe("liveness")[0] == status


def test_redirections_are_followed(probed):
    pod = probed("app/liveness=http:8080/")
    seen = []

    def handler(peer):
        head = peer.head()
        seen.append(head.split()[1])
        host = next(line for line in head.split("\r\n") if line.startswith("Host: "))[6:]
        to = {"/": "/login", "/login": f"http://{host}/in?a"}.get(seen[-1])
        peer.send(f"HTTP/1.1 307 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n" if to else reply())

    with Origin(pod.pod, 8080, handler):
        assert pod.probe("liveness")[0] == 200
    assert seen == ["/", "/login", "/in?a"]


def test_tcp(probed):
    """The proxy takes connections to captured ports, whether or not the application lives: the probe tells."""
    pod = probed("app/readiness=tcp:6379")
    connect(pod.hub, pod.pod.ipv4, 6379).close()
    assert pod.probe("readiness") == (503, "Connection refused")
    with Origin(pod.pod, 6379, lambda peer: peer.another()):
        assert pod.probe("readiness") == (200, "connected")
    assert pod.probe("readiness")[0] == 503


def test_https(probed, tmp_path):
    """By a certificate that nobody has signed, as the kubelet would."""
    pod = probed("app/liveness=https:8443/healthz")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        + ["-subj", "/CN=x", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heads = []

    def handler(peer):
        peer.sock = context.wrap_socket(peer.sock, server_side=True)
        heads.append(peer.head())
        peer.send(reply(headers="Connection: close\r\n"))

    with Origin(pod.pod, 8443, handler):
        assert pod.probe("liveness")[0] == 200
    assert heads[0].startswith("GET /healthz HTTP/1.1")
    with Origin(pod.pod, 8443, lambda peer: peer.send(reply())):
        assert pod.probe("liveness")[0] == 503  # no TLS


def test_exec(probed):
    """What the kubelet runs in a container asks the application itself, at either of its addresses: nobody else gets there so."""
    pod = probed()
    with Origin(pod.pod, 8080, serve(reply("alive")), address="::"):
        for host in ("127.0.0.1", "[::1]", pod.pod.ipv4, f"[{pod.pod.ipv6}]"):
            words = ["curl", "-sf", "--max-time", "30", f"http://{host}:8080/healthz"]
            assert pod.pod.run(words).stdout == "alive", host
        assert pod.hub.run(["curl", "-sf", "--max-time", "30", f"http://{pod.pod.ipv4}:8080/healthz"], check=False).stdout == ""


def health_service(states):
    """An origin that speaks grpc.health.v1: states maps services to (grpc-status, serving status)."""

    def handler(peer):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        peer.send(connection.data_to_send())
        path, body = None, b""
        while True:
            data = peer.buffer or peer.sock.recv(65536)
            peer.buffer = b""
            for event in connection.receive_data(data) if data else []:
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers)[b":path"]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    assert path == b"/grpc.health.v1.Health/Check" and body[0] == 0 and len(body) == 5 + body[4]
                    code, status = states[body[7:].decode()]
                    connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                    if status is not None:
                        connection.send_data(event.stream_id, bytes([0, 0, 0, 0, 2, 8, status]))
                    connection.send_headers(event.stream_id, [("grpc-status", str(code))], end_stream=True)
            peer.send(connection.data_to_send())
            if not data:
                return

    return handler


def test_grpc(probed):
    states = {"": (0, 1), "down": (0, 2), "unknown": (5, None), "old": (12, None)}
    pod = probed(*(f"app/{name or 'all'}=grpc:9000{'/' + name if name else ''}" for name in states))
    with Origin(pod.pod, 9000, health_service(states)):
        assert pod.probe("all") == (200, "serving")
        assert pod.probe("down") == (503, "not serving")
        assert pod.probe("unknown") == (503, "the health check failed")
        assert pod.probe("old") == (503, "the application has no health service")
    with Origin(pod.pod, 9000, lambda peer: peer.send(reply())):
        assert pod.probe("all")[0] == 503


def test_silent_application_and_impatient_kubelet(probed):
    """A probe that the kubelet gives up is given up at the application, too."""
    pod = probed("app/liveness=http:8080/")
    begun, ends = [], []

    def handler(peer):
        begun.append(peer.head())
        ends.append(peer.another())

    with Origin(pod.pod, 8080, handler):
        kubelet = connect(pod.hub, pod.pod.ipv4, PORT)
        kubelet.send("GET /weir/probe/app/liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: begun)
        assert not readable(kubelet.sock)
        kubelet.close()
        wait_until(lambda: ends)
    assert ends == [False]


def test_hostile_clients_do_not_keep_the_kubelet_out(probed):
    """Silent connections above the limit make room; what is no valid request gets an answer."""
    pod = probed("app/readiness=tcp:1")
    with contextlib.ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(contextlib.closing(connect(pod.hub, pod.pod.ipv4, PORT)))
        assert pod.get("/healthz") == (200, "ok")
    for text in ("\x16\x03\x01\r\n\r\n", "GET /healthz HTTP/1.1\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
        assert connect(pod.hub, pod.pod.ipv4, PORT).send(text).response()[0] == 400
    assert connect(pod.hub, pod.pod.ipv4, PORT).send("POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n").response()[0] == 405
    big = connect(pod.hub, pod.pod.ipv4, PORT).send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20000)
    assert big.response()[0] == 400
    assert pod.get("/healthz") == (200, "ok")


def test_drain_ahead_of_the_end(probed):
    """What preStop does: not ready any more, clients are sent away with an answer, and all are served."""
    pod = probed("app/readiness=tcp:8080", inbound=[{"port": 8080, "tls": "off"}])
    with Origin(pod.pod, 8080, serve()):
        client = connect(pod.hub, pod.pod.ipv4, 8080)
        request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        assert "connection: close" not in client.send(request).response()[1].lower()
        pod.pod.run([pod.weir, "--socket", pod.sidecar.socket, "conn", "drain"])
        assert pod.get("/readyz") == (503, "not ready") and pod.get("/healthz")[0] == 200
        assert pod.probe("readiness")[0] == 200  # the application's own affair
        status, head, _ = client.send(request).response()
        assert status == 200 and "connection: close" in head.lower() and not client.another()
        assert connect(pod.hub, pod.pod.ipv4, 8080).send(request).response()[0] == 200
    assert pod.proxy.stop() == 0


def test_command_line(weir_proxy):
    def run(*words):
        return subprocess.run([weir_proxy, *words], capture_output=True, text=True, timeout=60)

    for probe in ("x", "a=http:80", "a=tcp:80/x", "a=udp:53", "a=tcp:0", "a=tcp:70000", "=tcp:80", "a=http:80/a b"):
        done = run("--config=/nonexistent", f"--probe={probe}")
        assert done.returncode == 2 and f"probe '{probe}'" in done.stderr
    assert run("--config=/nonexistent", "--probe-port=0").returncode == 2
    assert run("--config=/nonexistent", "--set=tls.mode").returncode == 2
    assert run("--config=/nonexistent", "surplus").returncode == 2


def test_settings_on_the_command_line(weir_proxy, tmp_path):
    path = tmp_path / "weir.yaml"
    path.write_text("log: {level: warn}\n")

    def errors(*sets):
        words = [f"--set={text}" for text in sets]
        done = subprocess.run([weir_proxy, "--config", path, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        return done.stderr

    assert 'log.level: "loud" is not valid' in errors("log.level=loud")
    assert errors("log.level=loud").startswith("--set log.level=loud:1:")
    assert 'unknown key "lvel"; did you mean "level"?' in errors("log.lvel=debug")
    assert "expected a mapping" in errors("log=debug")
    assert len(errors("a=1", "b=2").splitlines()) == 2
