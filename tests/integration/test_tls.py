# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS through the captured path against OpenSSL's own s_client and s_server, which know nothing of weir: versions,
resumption, records, who is refused, modes, gradual rollout, changed certificates, applications' own TLS, secrets."""

import base64
import contextlib
import itertools
import math
import os
import pathlib
import re
import ssl
import subprocess
import threading

import pytest

from mesh import Mesh, Origin, cluster, connect, service
from netns import listening, wait_until
from nginx import answers, start_nginx
from tlspeers import Authority, Capture, Files, Openssl, TlsPeer

PORT = 7000
VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}
ME = "spiffe://mesh/ns/test/sa/"
MESH_CA = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "mesh-ca"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def echo(peer):
    with contextlib.suppress(ConnectionResetError):  # s_client is ended by a signal
        while data := peer.sock.recv(65536):
            peer.send(data)


def vip(sidecar, name):
    rows = sidecar.show("vhost", "show")["virtual_hosts"]
    return next(row["vip4"] for row in rows if row["name"].split(":")[0] == name)


def fields(line):
    """The fields of a logfmt line, as text."""
    return {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S*)', line)}


def log_lines(sidecar, text):
    return [line for line in sidecar.proxy.output().splitlines() if text in line]


class Inbound:
    """A server pod with a proxy, and a plain pod: its client is openssl's."""

    def __init__(self, mesh, mode="strict", allow=None, ports=(), **config):
        tls = {"mode": mode, **mesh.certificate("server"), **({"allow": allow} if allow else {})}
        self.mesh, self.client = mesh, mesh.network.pod("client")
        log = {"access": True, "level": "debug"}
        self.server = mesh.sidecar("server", tls=tls, inbound=list(ports), log=log, **config)
        self.authority = Authority(mesh.ca)
        self.address = self.server.ipv4

    def files(self, name="client"):
        files = self.mesh.certificate(name)
        return Files(files["certificate"], files["private_key"], files["trust"])

    def s_client(self, *words, files=None, port=PORT):
        files = files or self.files()
        certificate = files.words() if files != "none" else []
        connected = ["-connect", f"{self.address}:{port}", "-alpn", "weir/1", "-verify_return_error"]
        return Openssl(self.client, ["s_client", *connected, *certificate, *words])

    def peer(self, files=None, port=PORT, **options):
        return TlsPeer(connect(self.client, self.address, port), files or self.files(), **options)


# --- towards our side: s_client ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", VERSIONS)
def test_inbound(mesh, version):
    site = Inbound(mesh)
    with Origin(site.server.pod, PORT, echo), site.s_client(version) as client:
        client.until("Verification: OK").until("ALPN protocol: weir/1")
        client.type("hello\n").until("hello\n")
        row = wait_until(lambda: site.server.connections(state="tunnel"))[0]
        assert row["tls"] == {"version": VERSIONS[version], "peer": ME + "client"}
        assert f"URI:{ME}server" in subprocess.run(
            ["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=client.output(), text=True, capture_output=True
        ).stdout
    assert site.server.counter("tls_handshakes_total") == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_inbound_resumption(mesh, version):
    site = Inbound(mesh)
    session = mesh.network.folder / "session.pem"
    with Origin(site.server.pod, PORT, echo):
        with site.s_client(version, "-sess_out", session) as client:
            client.until("New, ").type("one\n").until("one\n")
        for _ in range(2):
            with site.s_client(version, "-sess_in", session) as client:
                client.until("Reused, ").type("two\n").until("two\n")
        assert site.server.counter("tls_sessions_resumed_total") == 2
        # Another certificate makes another context, which knows no session of the old one.
        subprocess.run([MESH_CA, mesh.ca, "issue", "server", ME + "server", "--force"], check=True, capture_output=True)
        wait_until(lambda: log_lines(site.server, "the certificate was read again"))
        with site.s_client(version, "-sess_in", session) as client:
            client.until("New, ").type("three\n").until("three\n")


@pytest.mark.parametrize("command", ["k", "K"])
def test_inbound_key_updates(mesh, command):
    """`K` asks for an update of our keys, too; `k` updates the client's alone."""
    site = Inbound(mesh)
    answered = "<<< TLS 1.3, Handshake [length 0005], KeyUpdate"
    with Origin(site.server.pod, PORT, echo), site.s_client("-msg") as client:
        client.type("begin\n").until("\nbegin\n")
        for i in range(5):
            client.type(f"{command}\n").until("KEYUPDATE")
            client.type(f"under key {i}\n").until(f"\nunder key {i}\n")
        assert client.output().count(answered) == (5 if command == "K" else 0)


def test_inbound_records(mesh):
    """Small, large, cut and padded records."""
    site = Inbound(mesh)
    with Origin(site.server.pod, PORT, echo):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            peer = site.peer(maximum=version).handshake()
            for size in (1, 2, 15, 16, 17, 16383, 16384):
                data = os.urandom(size)
                assert peer.send(data).read(size) == data
            text = bytes(range(256)) * 8
            for byte in text:
                peer.send(bytes([byte]))
            assert peer.read(len(text)) == text
            data = os.urandom(1 << 20)
            sending = threading.Thread(target=lambda: [peer.raw.send(piece) for piece in pieces])
            pieces = []
            for at in range(0, len(data), 16384):
                peer.tls.write(data[at : at + 16384])
                pieces.append(peer.outgoing())
            sending.start()
            assert peer.read(len(data)) == data
            sending.join()
            peer.close()
        for words in (["-max_send_frag", "512"], ["-record_padding", "4096"], ["-record_padding", "16384"]):
            with site.s_client("-tls1_3", *words) as client:
                line = "x" * 3000 + "\n"
                client.type(line).until(line)


@pytest.mark.parametrize("version", VERSIONS)
def test_inbound_half_close(mesh, version):
    """close_notify ends one direction only; a connection cut without it is a reset for the application."""
    site = Inbound(mesh)
    maximum = {"-tls1_2": ssl.TLSVersion.TLSv1_2, "-tls1_3": ssl.TLSVersion.TLSv1_3}[version]
    heard = []

    def handler(peer):
        try:
            heard.append(peer.rest())
            peer.send("and still an answer")
        except ConnectionResetError:
            heard.append("reset")

    with Origin(site.server.pod, PORT, handler):
        peer = site.peer(maximum=maximum).handshake().send(b"all")
        with contextlib.suppress(ssl.SSLError):  # it waits for the other side's, which comes later
            peer.tls.unwrap()
        peer.flush()
        answer = peer.raw.rest()
        assert len(answer) > len("and still an answer") and heard == [b"all"]
        cut = site.peer(maximum=maximum).handshake().send(b"not all")
        wait_until(lambda: site.server.connections(state="tunnel"))
        cut.raw.end()
        wait_until(lambda: heard == [b"all", "reset"])


# --- from our side: s_server ------------------------------------------------------------------------------------------
class Outbound:
    """A client pod with a proxy whose cluster is an openssl s_server (or whatever) in a plain pod."""

    def __init__(self, mesh, names=("db",), keys=None, allow=None, **config):
        self.mesh, self.server = mesh, mesh.network.pod("server")
        self.authority = Authority(mesh.ca)
        tls = {"mode": "permissive", **mesh.certificate("client"), **({"allow": allow} if allow else {})}
        self.ports = {name: PORT + i for i, name in enumerate(names)}
        self.client = mesh.sidecar(
            "client",
            tls=tls,
            services=[service(f"{name}.mesh", 5000, name) for name in names],
            clusters=[
                cluster(name, [f"{self.server.ipv4}:{port}"], tls="mesh", **(keys or {}).get(name, {}))
                for name, port in self.ports.items()
            ],
            log={"access": True, "level": "debug"},
            **config,
        )

    def files(self, name="server"):
        files = self.mesh.certificate(name)
        return Files(files["certificate"], files["private_key"], files["trust"])

    def s_server(self, *words, files=None, name="db"):
        port = self.ports[name]
        files = files or self.files()
        asked = ["-Verify", "2", "-verify_return_error", "-alpn", "weir/1"]
        server = Openssl(self.server, ["s_server", "-accept", str(port), *files.words(), *asked, *words])
        return server.until("ACCEPT")

    def connect(self, name="db"):
        return connect(self.client.pod, vip(self.client, f"{name}.mesh"), 5000)


@pytest.mark.parametrize("version", VERSIONS)
def test_outbound(mesh, version):
    site = Outbound(mesh)
    with site.s_server(version) as server:
        peer = site.connect().send("hello\n")
        server.until("ALPN protocols selected: weir/1").until("hello\n")
        server.type("answer\n")
        assert peer.until("\n") == b"answer\n"
        row = wait_until(lambda: site.client.connections(state="tunnel"))[0]
        assert row["upstream_tls"] == {"version": VERSIONS[version], "peer": ME + "server"}
        assert "CN = client" in server.output()  # it has seen our certificate
        peer.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_outbound_resumption(mesh, version):
    site = Outbound(mesh)
    with site.s_server(version) as server:
        for i in range(3):
            peer = site.connect().send(f"{i}\n")
            server.until(f"{i}\n").type("answer\n")
            assert peer.until("\n") == b"answer\n"
            peer.close()
            server.until("DONE")
        assert server.output().count("Reused session-id") == 2
    assert site.client.counter("tls_sessions_resumed_total") == 2


@pytest.mark.parametrize("command", ["k", "K"])
def test_outbound_key_updates(mesh, command):
    site = Outbound(mesh)
    answered = "<<< TLS 1.3, Handshake [length 0005], KeyUpdate"
    with site.s_server("-msg") as server:
        peer = site.connect().send("begin\n")
        server.until("begin\n")
        for i in range(5):
            server.type(f"{command}\n").until(">>> TLS 1.3, Handshake [length 0005], KeyUpdate")
            server.type(f"under key {i}\n")
            assert peer.until("\n") == f"under key {i}\n".encode()
            peer.send(f"answer {i}\n")
            server.until(f"answer {i}\n")
        assert server.output().count(answered) == (5 if command == "K" else 0)
        peer.close()
