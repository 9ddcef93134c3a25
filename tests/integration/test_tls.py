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
from netns import listening, readable, wait_until
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
    return [line for line in sidecar.said().splitlines() if text in line]


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
        certificate = files.words() if files != "none" else ["-CAfile", self.authority.ca]
        connected = ["-connect", f"{self.address}:{port}", "-alpn", "weir/1", "-verify_return_error"]
        return Openssl(self.client, ["s_client", *connected, *certificate, *words])

    def peer(self, files=None, port=PORT, **options):
        peer = TlsPeer(None, files or self.files(), **options)  # ready for its hello before it connects
        peer.raw = connect(self.client, self.address, port)
        return peer

    def try_peer(self, port):
        """None if our hello came so late that the application's greeting was sent in its place: then one dials again."""
        try:
            return self.peer(port=port).handshake()
        except ssl.SSLError as error:
            assert error.reason == "WRONG_VERSION_NUMBER"
            return None


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
        client.type("begin\n").until("begin\n")
        for i in range(5):
            client.type(f"{command}\n").until("KEYUPDATE")
            client.type(f"under key {i}\n").until(f"under key {i}\n")
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


def test_a_session_ticket_is_no_greeting(mesh):
    """The endpoint was dialled while the client was silent, and its tickets came: what the client then says is a request
    all the same, and is routed as one."""
    server = mesh.sidecar("server", tls="strict")
    start_nginx(server.pod, answers({PORT: "a", PORT + 1: "b"}))
    routes = [{"match": {"path_prefix": "/b"}, "to": [{"cluster": "b"}]}, {"to": [{"cluster": "a"}]}]
    clusters = [cluster(name, [f"{server.ipv4}:{PORT + i}"], tls="mesh") for i, name in enumerate("ab")]
    client = mesh.sidecar(
        "client", tls="permissive", services=[service("web.mesh", 80, routes=routes)], clusters=clusters
    )
    peer = connect(client.pod, vip(client, "web.mesh"), 80)
    wait_until(lambda: client.counter("tls_handshakes_total") == 1)
    for path, answer in {"/a": b"a\n", "/b": b"b\n"}.items():
        assert peer.send(f"GET {path} HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[2] == answer
    assert client.counter("http_requests_total") == 2
    peer.close()


# --- hostile peers ----------------------------------------------------------------------------------------------------
def flip(bytes_):
    return bytes_[:-1] + bytes([bytes_[-1] ^ 1])


AFTERWARDS = {
    "tampered": (lambda peer: flip(peer.outgoing()), "bad record mac"),
    "replayed": (lambda peer: 2 * peer.outgoing(), "bad record mac"),
    "plaintext data": (lambda peer: b"\x17\x03\x03\x00\x05hello", "bad record mac"),
    "plaintext alert": (lambda peer: b"\x15\x03\x03\x00\x02\x01\x00", "unexpected message"),
    "too long": (lambda peer: b"\x17\x03\x03\x41\x01" + bytes(0x4101), "record overflow"),
    "no TLS": (lambda peer: b"GET / HTTP/1.1\r\n\r\n", "unexpected message"),
}


@pytest.mark.parametrize("what", AFTERWARDS)
def test_hostile_records(mesh, what):
    """After the handshake: the alert of RFC 8446 is sent, a line logged, and nothing of it reaches the application."""
    site = Inbound(mesh)
    make, alert = AFTERWARDS[what]
    heard = []

    def handler(peer):
        with contextlib.suppress(ConnectionResetError):
            while data := peer.sock.recv(100):
                heard.append(data)

    with Origin(site.server.pod, PORT, handler):
        peer = site.peer().handshake().send(b"fair")
        wait_until(lambda: heard)
        peer.tls.write(b"foul")
        peer.raw.send(make(peer))
        failure = str(peer.failure())
        assert alert in failure.replace("_", " ").lower().replace("sslv3 alert ", "").replace("tlsv1 alert ", ""), failure
        line = fields(wait_until(lambda: log_lines(site.server, "TLS connection failed"))[0])
        assert line["reason"] and line["peer"].startswith(site.client.ipv4)
        assert site.server.counter("tls_connection_failures_total") == 1
    assert b"".join(heard) in (b"fair", b"fairfoul" if what == "replayed" else b"fair")


# --- who is refused ---------------------------------------------------------------------------------------------------
def impostors(mesh):
    """Certificates that must not be accepted where the allow list names client and server: what the log says of them."""
    ours, other = Authority(mesh.ca), Authority(mesh.network.folder / "other-ca")
    stranger = other.issue("stranger", [ME + "client"])
    stranger.ca = ours.ca
    chain = r"unable to get (local )?issuer certificate|unable to verify the first certificate|self.signed"
    return {
        "of another authority": (stranger, chain),
        "expired": (ours.issue("expired", [ME + "client"], -7200, -60), "certificate has expired"),
        "not yet valid": (ours.issue("early", [ME + "client"], 3600, 7200), "certificate is not yet valid"),
        "without an identity": (ours.issue("nameless", [], names=["DNS:client"]), "no SPIFFE id as its only URI name"),
        "with two": (ours.issue("twofold", [ME + "client", ME + "server"]), "no SPIFFE id as its only URI name"),
        "of no workload": (ours.issue("domain", ["spiffe://mesh"]), "no SPIFFE id as its only URI name"),
        "of another domain": (ours.issue("foreign", ["spiffe://else/client"]), "not of a trust domain of ours"),
        "not allowed": (ours.issue("mallory", [ME + "mallory"]), r"not in the allow list \(" + ME + r"mallory\)"),
    }


ALLOW = [ME + "client", ME + "server"]


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_refused(mesh, version):
    site = Inbound(mesh, allow=ALLOW)
    with Origin(site.server.pod, PORT, echo) as origin:
        cases = {**impostors(mesh), "without a certificate": ("none", "the peer showed no certificate")}
        for count, (what, (files, reason)) in enumerate(cases.items(), 1):
            with site.s_client(version, files=files) as client:
                client.type("do not read this\n")
                assert "SSL alert number" in client.end(), what
            lines = log_lines(site.server, "TLS handshake failed")
            assert len(lines) == count, what
            line = fields(lines[-1])
            assert re.search(reason, line["reason"]), (what, line)
            assert line["peer"].startswith(site.client.ipv4) and line["destination"] == f"{site.address}:{PORT}"
            assert site.server.counter("tls_handshake_failures_total") == count
        assert origin.accepted == 0
        with site.s_client(version) as client:
            client.until("ALPN protocol: weir/1").type("welcome\n").until("welcome\n")


def test_the_alert_arrives(mesh):
    """Though the client has sent more than was read when it was refused."""
    site = Inbound(mesh, allow=[ME + "other"])
    with Origin(site.server.pod, PORT, echo):
        peer = site.peer().handshake()  # under TLS 1.3 it does not know yet
        for _ in range(12):
            with contextlib.suppress(ConnectionError):
                peer.send(bytes(16000))
        failure = peer.failure()
        assert isinstance(failure, ssl.SSLError) and "ALERT" in str(failure), failure


@pytest.mark.parametrize("version", VERSIONS)
def test_servers_refused(mesh, version):
    bad = {"".join(filter(str.isalpha, what)): row for what, row in impostors(mesh).items()}
    bad["clusterlist"] = (None, r"not in the allow list \(" + ME + r"server\)")
    keys = {"clusterlist": {"tls_allow": [ME + "somebody"]}}
    site = Outbound(mesh, names=("good", *bad), keys=keys, allow=ALLOW)
    handshakes = "TLS handshake with an endpoint failed"
    with Capture(mesh.network.hub) as wire:
        for what, (files, reason) in bad.items():
            before = len(log_lines(site.client, handshakes))
            with site.s_server(version, files=files, name=what) as server:
                answer = ["-o", "/dev/null", "-w", "%{http_code}", "--data", "keep this secret"]
                words = ["curl", "-sS", "--max-time", "30", *answer, f"http://{what}.mesh:5000/"]
                assert site.client.pod.run(words).stdout == "503", what
                assert "keep this secret" not in server.output(), what
            lines = [fields(line) for line in log_lines(site.client, handshakes)][before:]
            assert lines and all(line["cluster"] == what for line in lines), what
            assert all(re.search(reason, line["reason"]) for line in lines), (what, lines)
            assert lines[0]["endpoint"] == f"{site.server.ipv4}:{site.ports[what]}"
        assert site.client.counter("tls_handshake_failures_total") == len(log_lines(site.client, handshakes))
        with site.s_server(version, name="good") as server:
            peer = site.connect("good").send("for you alone\n")
            server.until("for you alone\n")
            peer.close()
    assert b"weir/1" in wire.bytes()  # the capture sees something: the hellos
    assert b"keep this secret" not in wire.bytes() and b"for you alone" not in wire.bytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_our_certificate_is_refused(mesh, version):
    """The other side's reason is logged here, also when it comes after our handshake (TLS 1.3)."""
    site = Outbound(mesh)
    other = Authority(mesh.network.folder / "other-ca")
    files = site.files()
    files.ca = other.ca
    with site.s_server(version, files=files):
        words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://db.mesh:5000/"]
        assert site.client.pod.run(words).stdout == ("503" if version == "-tls1_2" else "502")
        event = "TLS handshake with an endpoint failed" if version == "-tls1_2" else "TLS connection to an endpoint failed"
        line = fields(wait_until(lambda: log_lines(site.client, event))[0])
        assert "alert 'unknown CA'" in line["reason"] and line["cluster"] == "db"


def test_a_cluster_that_wants_tls_gets_no_plaintext(mesh):
    """The endpoint speaks no TLS: it sees a hello, never the request."""
    site = Outbound(mesh)
    seen = []
    with Origin(site.server, PORT, lambda peer: (seen.append(peer.sock.recv(65536)), peer.send("HTTP/1.1 200 OK\r\n\r\n"))):
        words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-A", "secret", "http://db.mesh:5000/"]
        assert site.client.pod.run(words).stdout == "503"
    assert seen and all(data[:1] == b"\x16" and b"secret" not in data for data in seen)
    assert "does not speak TLS" in site.client.said()


# --- modes ------------------------------------------------------------------------------------------------------------
def modes():
    return [{"port": PORT + i, "tls": mode} for i, mode in enumerate(("off", "permissive", "strict"))]


def talk(peer):
    """Greets first on request, and else echoes."""
    with contextlib.suppress(ConnectionError):
        peer.send("220 greeting\r\n")
        echo(peer)


def test_modes(mesh):
    site = Inbound(mesh, mode="off", ports=modes())
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin(site.server.pod, PORT + i, echo)) for i in range(3)]
        for i in range(2):
            plain = connect(site.client, site.address, PORT + i).send("plain\n")
            assert plain.until("\n") == b"plain\n"
            plain.close()
        for i in (1, 2):
            peer = site.peer(port=PORT + i).handshake().send(b"private\n")
            assert peer.read(8) == b"private\n" and peer.tls.selected_alpn_protocol() == "weir/1"
            peer.close()
        # off: what looks like TLS is the application's
        peer = site.peer(port=PORT)
        with pytest.raises(ssl.SSLError):  # it hears its own hello
            peer.handshake()
        peer.close()
        accepted = origins[2].accepted
        for text in ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x00\x01", "x" * 30000):
            plain = connect(site.client, site.address, PORT + 2).send(text)
            with contextlib.suppress(ConnectionResetError):
                assert plain.rest() == b""
            plain.close()
        assert origins[2].accepted == accepted
    assert site.server.counter("tls_plaintext_refused_total") == 3
    assert len(log_lines(site.server, "plaintext refused by strict TLS mode")) == 3


def test_modes_when_the_server_speaks_first(mesh):
    site = Inbound(mesh, mode="off", ports=modes())
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin(site.server.pod, PORT + i, talk)) for i in range(3)]
        for i in range(2):
            plain = connect(site.client, site.address, PORT + i)
            assert plain.until("\n") == b"220 greeting\r\n"
            assert plain.send("ok\n").until("\n") == b"ok\n"
            plain.close()
        silent = connect(site.client, site.address, PORT + 2)
        for i in (1, 2):
            peer = wait_until(lambda: site.try_peer(PORT + i))
            assert peer.read(14) == b"220 greeting\r\n"
            assert peer.send(b"ok\n").read(3) == b"ok\n"
            peer.close()
        assert origins[2].accepted == 1  # for the one with TLS; nobody was dialled for the silent one
        with contextlib.suppress(ConnectionResetError):
            assert silent.send("\x00").rest() == b""


def test_a_greeting_waits_for_the_rest_of_a_hello(mesh):
    """A hello in pieces, and an application that greets in between: in plaintext the greeting would break the handshake."""
    site = Inbound(mesh, mode="permissive")
    with Origin(site.server.pod, PORT, talk):
        peer = site.peer()
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        first = peer.outgoing()
        peer.raw.send(first[:50])
        wait_until(lambda: site.server.connections(received=50))
        assert not readable(peer.raw.sock, 1)
        peer.raw.send(first[50:])
        assert peer.handshake().read(14) == b"220 greeting\r\n"
        assert peer.send(b"ok\n").read(3) == b"ok\n"
        peer.close()


def client_hello():
    """The first bytes of a client that would be let in if it had a certificate."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("protocol", ["auto", "tcp"])
@pytest.mark.parametrize("how", ["ends", "waits", "goes on in plaintext"])
def test_a_strict_port_and_half_a_hello(mesh, protocol, how):
    """Whatever a client begins with and how it goes on: nothing of it reaches the application, which is not even
    dialled."""
    site = Inbound(mesh, ports=[{"port": PORT, "tls": "strict", "protocol": protocol}])
    hello = client_hello()
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with Origin(site.server.pod, PORT, echo) as origin:
        peers = []
        for first in (hello[:1], hello[:5], hello[:11], hello[:-1], hello, b"G", b"\x16\x03\x01\x00", b"PRI"):
            peer = connect(site.client, site.address, PORT).send(first)
            if how == "ends":
                peer.end()
            elif how == "goes on in plaintext":
                wait_until(lambda: site.server.connections() or True)  # the first bytes are read on their own
                with contextlib.suppress(ConnectionError):
                    peer.send(request)
            peers.append(peer)
        for peer in peers:
            peer.sock.settimeout(30)  # the handshake may take 10 s
            with contextlib.suppress(ConnectionError):
                while peer.another():
                    assert peer.buffer[0] in (0x15, 0x16), peer.buffer  # an alert, or a hello
                    peer.buffer = b""
            peer.close()
        assert origin.accepted == 0
        wait_until(lambda: not site.server.connections())


def test_a_strict_port_takes_curl_with_a_certificate(mesh):
    """Without ALPN: the certificate is what counts. A permissive port leaves such TLS to the application."""
    site = Inbound(mesh)
    start_nginx(site.server.pod, answers({PORT: "in"}))
    files = site.files()
    words = ["--cert", files.cert, "--key", files.key, "--cacert", files.ca, "-k", f"https://{site.address}:{PORT}/"]
    assert site.client.run(["curl", "-sS", *words]).stdout == "in\n"
    assert fields(log_lines(site.server, "status=200")[0])["tls_peer"] == ME + "client"


# --- gradual rollout --------------------------------------------------------------------------------------------------
class Rollout:
    def __init__(self, mesh, percent, name, port, **keys):
        self.server = mesh.sidecar("server", tls="permissive", log={"access": True})
        self.client = mesh.sidecar(
            "client",
            tls="permissive",
            services=[service(name, port, "all")],
            clusters=[cluster("all", [f"{self.server.ipv4}:{PORT}"], tls="mesh", tls_percent=percent, **keys)],
        )


CHI_SQUARE_1 = 23.93  # one degree of freedom: passed by chance once in a million


def unlikely(count, total, share):
    expected = total * share
    return (count - expected) ** 2 / (expected * (1 - share)) > CHI_SQUARE_1


@pytest.mark.parametrize("percent", [0, 30, 100])
def test_share_of_connections(mesh, percent):
    site = Rollout(mesh, percent, "db.mesh", 5000)
    with Origin(site.server.pod, PORT, lambda peer: peer.send("hi")):
        address = vip(site.client, "db.mesh")
        for _ in range(400):
            peer = connect(site.client.pod, address, 5000)
            assert peer.rest() == b"hi"
            peer.close()
    count = site.client.counter("tls_handshakes_total")
    if percent in (0, 100):
        assert count == 4 * percent
    else:
        assert not unlikely(count, 400, percent / 100), count


def test_share_of_requests(mesh):
    """On pooled connections, too."""
    site = Rollout(mesh, 30, "web.mesh", 80)
    start_nginx(site.server.pod, answers({PORT: "in"}))
    curl = ["curl", "-sS", "http://web.mesh/[1-1000]"]
    assert site.client.pod.run(curl).stdout == "in\n" * 1000
    count = sum('tls_peer=' in line and ME in line for line in log_lines(site.server, "status=200"))
    assert not unlikely(count, 1000, 0.3), count
    assert site.client.counter("tls_handshakes_total") < 20


# --- changed certificates ---------------------------------------------------------------------------------------------
def serial_shown(site):
    with site.s_client() as client:
        client.until("Verification: OK").until("ALPN protocol")
        certificate = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", client.output(), re.S)[0]
    words = ["openssl", "x509", "-noout", "-serial"]
    shown = subprocess.run(words, input=certificate, text=True, capture_output=True, check=True).stdout
    return shown.strip().partition("=")[2]


class Traffic:
    """A connection that echoes all the time, while certificates change under it."""

    def __init__(self, peer):
        self.peer, self.count, self.error, self.done = peer, 0, None, False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            while not self.done:
                data = os.urandom(5000)
                assert self.peer.send(data).read(len(data)) == data
                self.count += 1
        except Exception as error:  # noqa: BLE001 - shown by going_on()
            self.error = error

    def going_on(self):
        so_far = self.count
        wait_until(lambda: self.error or self.count > so_far + 2)
        assert self.error is None, self.error

    def __enter__(self):
        self._thread.start()
        self.going_on()
        return self

    def __exit__(self, *_):
        self.done = True
        self._thread.join(30)
        self.peer.close()


class Volume:
    """Files as Kubernetes mounts a secret: names that are links through ..data, which is swapped in one step."""

    def __init__(self, folder):
        self.folder, self.count = pathlib.Path(folder), 0
        self.folder.mkdir()

    def put(self, files):
        self.count += 1
        fresh = self.folder / f"..{self.count}"
        fresh.mkdir()
        for name, path in (("tls.crt", files.cert), ("tls.key", files.key), ("ca.crt", files.ca)):
            (fresh / name).write_bytes(pathlib.Path(path).read_bytes())
            (fresh / name).chmod(0o600)
        link = self.folder / "..new"
        link.symlink_to(fresh.name)
        link.rename(self.folder / "..data")
        for name in ("tls.crt", "tls.key", "ca.crt"):
            with contextlib.suppress(FileExistsError):
                (self.folder / name).symlink_to(f"..data/{name}")

    def files(self):
        return Files(self.folder / "tls.crt", self.folder / "tls.key", self.folder / "ca.crt")


def replace_files(files, source):
    """As by mv: key first, and the certificate a moment later."""
    for path, new in ((files.key, source.key), (files.cert, source.cert)):
        beside = path.with_suffix(".new")
        beside.write_bytes(pathlib.Path(new).read_bytes())
        beside.chmod(0o600)
        beside.rename(path)


class Renewal(Inbound):
    """The server's certificate lies where the test puts it."""

    def __init__(self, mesh, volume=False):
        self.mesh, self.client = mesh, mesh.network.pod("client")
        mesh.certificate("client")
        self.authority = Authority(mesh.ca)
        self.count = 0
        self.volume = Volume(mesh.network.folder / "volume")
        self.volume.put(self.next())
        if volume:
            self.own = self.volume.files()
        else:
            folder = mesh.network.folder / "own"
            folder.mkdir()
            self.own = Files(folder / "cert.pem", folder / "key.pem", self.authority.ca)
            replace_files(self.own, self.latest)
        self.server = mesh.sidecar("server", tls={"mode": "strict", **self.own.tls()})
        self.address = self.server.ipv4

    def next(self):
        self.count += 1
        self.latest = self.authority.issue(f"server-{self.count}", [ME + "server"])
        return self.latest

    def reloads(self):
        return log_lines(self.server, "the certificate was read again")

    def replace(self):
        known = len(self.reloads())
        self.volume.put(self.next())
        if self.own.cert.parent != self.volume.folder:
            replace_files(self.own, self.latest)
        return wait_until(lambda: len(self.reloads()) > known and self.reloads()[-1])


@pytest.mark.parametrize("volume", [False, True], ids=["files replaced", "link swapped"])
def test_renewed_certificate(mesh, volume):
    site = Renewal(mesh, volume)
    with Origin(site.server.pod, PORT, echo):
        assert serial_shown(site) == site.latest.serial()
        with Traffic(site.peer().handshake()) as open_connection:
            for _ in range(2):
                line = fields(site.replace())
                assert line["identity"] == ME + "server" and line["serial"] == site.latest.serial()
                assert serial_shown(site) == site.latest.serial()
                assert site.server.show("cert", "show")["certificates"][0]["serial"] == site.latest.serial()
                open_connection.going_on()
    assert not log_lines(site.server, "level=error")


BROKEN = {
    "garbage": (lambda own, site: own.cert.write_text("garbage"), "no PEM certificate in it"),
    "no file": (lambda own, site: own.cert.unlink(), "No such file"),
    "another key": (lambda own, site: own.key.write_bytes(site.next().key.read_bytes()), "the key does not belong"),
    "expired": (
        lambda own, site: replace_files(own, site.authority.issue("old", [ME + "server"], -7200, -60)),
        "the certificate expired on",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_certificate(mesh, what):
    """The old one stays, one line says why, and the next good one is taken."""
    site = Renewal(mesh)
    before = site.latest.serial()
    spoil, reason = BROKEN[what]
    complaint = "the new one cannot be used; the old one stays"
    with Origin(site.server.pod, PORT, echo), Traffic(site.peer().handshake()) as open_connection:
        spoil(site.own, site)
        line = fields(wait_until(lambda: log_lines(site.server, complaint))[0])
        assert reason in line["reason"] and str(site.own.cert.parent) in line["reason"]
        assert serial_shown(site) == before
        open_connection.going_on()
        site.replace()
        assert serial_shown(site) == site.latest.serial()
        open_connection.going_on()
        assert len(log_lines(site.server, complaint)) == 1
    assert len(log_lines(site.server, "level=error")) == 1


@pytest.mark.parametrize("what", ["garbage", "another key", "expired"])
def test_a_broken_certificate_does_not_bar_other_changes(mesh, what):
    """A reload that leaves `tls` alone is applied with the one in use; one that does not is refused."""
    site = Renewal(mesh)
    before = site.latest.serial()
    BROKEN[what][0](site.own, site)
    wait_until(lambda: log_lines(site.server, "the new one cannot be used; the old one stays"))
    config = {**site.server.config, "log": {"access": True}}
    site.server.reload(config)
    assert site.server.show("config", "show")["generation"] == 2
    assert serial_shown(site) == before
    assert len(log_lines(site.server, "the one in use stays")) == 1
    site.server.write({**config, "tls": {**config["tls"], "allow": ["spiffe://mesh/*"]}})
    refused = site.server.weir("config", "reload", check=False)
    assert refused.returncode == 1 and BROKEN[what][1] in refused.stderr


def pooled(mesh):
    """Two proxies, and a request that leaves a pooled connection of mutual TLS between them."""
    server = mesh.sidecar("server", tls="strict", log={"access": True})
    client = mesh.sidecar(
        "client",
        tls="permissive",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:{PORT}"], tls="mesh")],
    )
    start_nginx(server.pod, answers({PORT: "in"}))
    peer = connect(client.pod, vip(client, "web.mesh"), 80)

    def ask():
        return peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0]

    assert ask() == ask() == 200
    assert client.counter("tls_handshakes_total") == 1
    return server, client, ask


def test_pooled_connections_follow_a_new_certificate(mesh):
    server, client, ask = pooled(mesh)
    files = [MESH_CA, mesh.ca, "issue", "client", ME + "client-renamed"]
    subprocess.run(files, check=True, capture_output=True)
    wait_until(lambda: log_lines(client, "the certificate was read again"))
    assert ask() == 200
    last = fields(log_lines(server, "status=200")[-1])
    assert last["tls_peer"] == ME + "client-renamed"


def test_a_new_allow_list_holds_for_pooled_connections(mesh):
    server, client, ask = pooled(mesh)
    config = dict(client.config)
    client.reload(config)  # the same files: nothing to be made anew
    assert ask() == 200 and client.counter("tls_handshakes_total") == 1
    config["clusters"] = [{**config["clusters"][0], "tls_allow": [ME + "somebody"]}]
    client.reload(config)
    assert ask() == 503
    config["clusters"] = [{**config["clusters"][0], "tls_allow": [ME + "server"]}]
    client.reload(config)
    assert ask() == 200
    client.reload({**config, "tls": {**config["tls"], "allow": [ME + "somebody"]}})
    assert ask() == 503


# --- an application's own TLS -----------------------------------------------------------------------------------------
class Secure:
    """nginx speaks TLS itself, with a certificate of an authority that the mesh does not know."""

    def __init__(self, mesh, server=None, cluster_keys=None, **config):
        self.folder = mesh.network.folder
        server, hub = server or mesh.network.pod("server"), mesh.network.hub
        self.ca = self.folder / "web.pem"
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = "subjectAltName=DNS:secure.mesh,DNS:plain.example,DNS:x.wild.mesh"
        paths = ["-keyout", self.folder / "web.key", "-out", self.ca]
        subprocess.run([*request, *paths, "-subj", "/CN=web", "-addext", names], check=True, capture_output=True)
        for pod, text in ((server, "cluster"), (hub, "original")):
            start_nginx(pod, self.block(text))
        self.client = mesh.sidecar(
            "client",
            services=[service("secure.mesh", 443, "web"), service("*.wild.mesh", 443, "web")],
            clusters=[cluster("web", [f"{server.ipv4}:443"], **(cluster_keys or {}))],
            **config,
        )

    def block(self, text):
        return (
            f"server {{ listen 443 ssl; ssl_certificate {self.ca}; ssl_certificate_key {self.folder}/web.key;\n"
            f'default_type text/plain; location / {{ return 200 "{text} $ssl_server_name\\n"; }} }}\n'
        )

    def curl(self, *words):
        return self.client.pod.run(["curl", "-sS", "--cacert", self.ca, "--max-time", "30", *words]).stdout


def test_application_tls_by_vip(mesh):
    site = Secure(mesh)
    assert site.curl("https://secure.mesh/") == "cluster secure.mesh\n"
    address = vip(site.client, "secure.mesh")
    assert site.curl("--resolve", f"plain.example:443:{address}", "https://plain.example/") == "cluster plain.example\n"


def test_application_tls_by_sni(mesh):
    """The address is none of the mesh's; where a name is known, it decides."""
    site = Secure(mesh)
    for name, answer in {"secure.mesh": "cluster", "x.wild.mesh": "cluster", "plain.example": "original"}.items():
        words = ["--resolve", f"{name}:443:10.77.0.1", f"https://{name}/"]
        assert site.curl(*words) == f"{answer} {name}\n"


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_application_tls_by_sni_when_the_hello_is_late(mesh, cut):
    """By then the original destination has been dialled; the name decides all the same."""
    site = Secure(mesh)
    raw = connect(site.client.pod, "10.77.0.1", 443)
    peer = TlsPeer(raw, alpn=(), sni="secure.mesh")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    hello = peer.outgoing()
    raw.send(hello[:cut])
    wait_until(lambda: site.client.counter("upstream_connections_total") == 1)
    raw.send(hello[cut:])
    peer.handshake().send(b"GET / HTTP/1.0\r\n\r\n")
    assert peer.rest().endswith(b"cluster secure.mesh\n")
    peer.close()


def test_application_tls_within_the_mesh(mesh):
    """Through both proxies: inside of mutual TLS, and as it is on a permissive port."""
    server = mesh.sidecar("server", tls="permissive")
    site = Secure(mesh, server=server.pod, tls="permissive", cluster_keys={"tls": "mesh"})
    assert site.curl("https://secure.mesh/") == "cluster secure.mesh\n"
    assert server.counter("tls_handshakes_total") == 1
    address = f"secure.mesh:443:{server.ipv4}"
    plain = mesh.network.hub.run(["curl", "-sS", "--cacert", site.ca, "--resolve", address, "https://secure.mesh/"])
    assert plain.stdout == "cluster secure.mesh\n"
    assert server.counter("tls_handshakes_total") == 1


# --- secrets ----------------------------------------------------------------------------------------------------------
def secrets_of(key_file):
    """What gives a private key away: the lines of its PEM body, and the number itself in hexadecimal and base64."""
    body = key_file.read_text().splitlines()[1:-1]
    words = ["openssl", "pkey", "-in", key_file, "-noout", "-text"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    number = re.search(r"priv:\s*([0-9a-f:\s]+)pub:", text)[1]
    number = "".join(re.findall("[0-9a-f]{2}", number))
    return [*body, number, base64.b64encode(bytes.fromhex(number)).decode()[:40]]


def test_no_secret_is_shown(mesh):
    """Not in the log at its most talkative, not in any output, not in metrics, not in an error about the files."""
    socket = mesh.network.folder / "weir-server" / "admin.sock"
    site = Inbound(mesh, admin={"socket": str(socket), "metrics": "127.0.0.1:15090"})
    key = pathlib.Path(site.server.config["tls"]["private_key"])
    traffic = mesh.network.folder / "secrets"
    with Origin(site.server.pod, PORT, echo), site.s_client("-keylogfile", traffic) as client:
        client.type("hello\n").until("hello\n").type("K\n").until("KEYUPDATE")
        shown = [site.server.pod.run(["curl", "-sS", "http://127.0.0.1:15090/metrics"]).stdout]
        for words in ("cert show", "config show", "conn show", "stats show", "cluster show", "endpoint show") + (
            "vhost show", "route show", "dns show", "log show", "version show"
        ):
            for form in ((), ("-j",), ("-p",)):
                shown.append(site.server.weir(*words.split(), *form).stdout)
    cert = site.server.config["tls"]["certificate"]
    swapped = {**site.server.config["tls"], "certificate": str(key), "private_key": cert}
    site.server.write({**site.server.config, "tls": swapped})
    refused = site.server.weir("config", "reload", check=False)
    assert refused.returncode == 1 and "no PEM certificate in it" in refused.stderr
    shown += [refused.stdout, refused.stderr, site.server.proxy.output()]
    labels = [line.split() for line in traffic.read_text().splitlines() if not line.startswith("#")]
    assert len(labels) >= 4 and any(label == "SERVER_TRAFFIC_SECRET_0" for label, _, _ in labels)
    for secret in [*secrets_of(key), *(secret for _, _, secret in labels)]:
        assert len(secret) > 10
        assert not any(secret.lower() in text.lower() for text in shown), secret
    assert "PRIVATE KEY" not in "".join(shown)


def test_an_exposed_key_is_warned_of(mesh):
    site = Renewal(mesh)
    assert not log_lines(site.server, "can be read by its group or by others")
    site.own.key.chmod(0o644)
    wait_until(lambda: log_lines(site.server, "can be read by its group or by others"))
