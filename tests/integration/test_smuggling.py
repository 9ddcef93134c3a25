# SPDX-License-Identifier: Apache-2.0
"""Requests that two implementations could read differently, sent to weir, nginx and HAProxy alike. Each has a recording
origin behind it that is as strict as can be. weir either refuses with the status given here, or the origin sees exactly
the requests given here, well-formed; and it refuses whatever one of the others refuses."""

import contextlib
import re
import socket
import threading

import pytest

from mesh import Mesh, Peer, cluster, service
from netns import Network, listening

WEIR_PORT, NGINX_PORT, HAPROXY_PORT = 8080, 8081, 8082
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: web.mesh\r\n\r\n"

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/1\.[01]")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


class Recorder:
    """An origin that answers well-formed requests, and remembers what it got: `requests`, and `garbage`."""

    def __init__(self, pod, port):
        self.requests, self.garbage = [], []
        with pod.enter():
            self.listener = socket.create_server(("0.0.0.0", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, sock):
        peer = Peer(sock, timeout=60)
        with contextlib.suppress(OSError), sock:
            while peer.buffer or peer._more():
                try:
                    request = self._request(peer)
                except AssertionError:  # an end in the middle: the proxy gave up, or it never was a request
                    self.garbage.append(peer.buffer)
                    return
                self.requests.append(request)
                tunnel = request[0] == b"CONNECT"
                peer.send(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if tunnel else b"Content-Length: 2\r\n\r\nok"))
                if tunnel:
                    return

    def _request(self, peer):
        lines = peer.until(b"\r\n\r\n")[:-4].split(b"\r\n")
        start = REQUEST_LINE.fullmatch(lines[0])
        fields = [FIELD.fullmatch(line) for line in lines[1:]]
        if not start or not all(fields):
            self.garbage.append(b"\r\n".join(lines))
            raise OSError
        fields = [(match[1].lower(), match[2]) for match in fields]
        lengths = [value for name, value in fields if name == b"content-length"]
        codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
        hosts = [value for name, value in fields if name == b"host"]
        if len(lengths) + len(codings) > 1 or len(hosts) > 1 or codings not in ([], [b"chunked"]):
            self.garbage.append(b"\r\n".join(lines))
            raise OSError
        if lengths and not lengths[0].isdigit():
            self.garbage.append(lengths[0])
            raise OSError
        body = peer.read(int(lengths[0])) if lengths else peer.chunked() if codings else b""
        return start[1], start[2], (hosts or [None])[0], body

    def close(self):
        self.listener.close()


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr; user root;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream origin {{ server {origin}:{port}; keepalive 4; }}
    server {{
        listen {port};
        location / {{
            proxy_pass http://origin; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_request_buffering off; proxy_ignore_client_abort on;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen web
    bind :{port}
    server origin {origin}:{port}
"""


class Proxy:
    def __init__(self, pod, address, port, recorder):
        self.pod, self.address, self.port, self.recorder = pod, address, port, recorder

    def talk(self, data, answers=None):
        """(statuses of the answers, what the origin got, garbage) of a client that sends this, and reads so many answers
        or, without a number, to the end."""
        seen, garbage = len(self.recorder.requests), len(self.recorder.garbage)
        with self.pod.enter():
            peer = Peer(socket.create_connection((self.address, self.port), timeout=30))
        with contextlib.suppress(ConnectionResetError):
            peer.send(data)
            while (answers is None or peer.buffer.count(b"\r\n\r\n") < answers) and peer._more():
                pass
        peer.close()
        statuses = [int(found) for found in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", peer.buffer)]
        return statuses, self.recorder.requests[seen:], self.recorder.garbage[garbage:]


@pytest.fixture(scope="module")
def proxies(weir, weir_proxy):
    with Network() as network:
        server, peers = network.pod("server"), network.pod("peers")
        recorders = {port: Recorder(server, port) for port in (WEIR_PORT, NGINX_PORT, HAPROXY_PORT)}
        (network.folder / "nginx.conf").write_text(
            NGINX.format(folder=network.folder, origin=server.ipv4, port=NGINX_PORT)
        )
        (network.folder / "haproxy.cfg").write_text(HAPROXY.format(origin=server.ipv4, port=HAPROXY_PORT))
        peers.start(["nginx", "-p", network.folder, "-c", network.folder / "nginx.conf"], ready=listening(NGINX_PORT))
        peers.start(["haproxy", "-db", "-f", network.folder / "haproxy.cfg"], ready=listening(HAPROXY_PORT))
        client = Mesh(network, weir, weir_proxy).sidecar(
            "client",
            services=[service("web.mesh", 80, "web", protocol="http")],
            clusters=[cluster("web", [f"{server.ipv4}:{WEIR_PORT}"])],
        )
        vip = client.show("vhost", "show")["virtual_hosts"][0]["vip4"]
        yield {
            "weir": Proxy(client.pod, vip, 80, recorders[WEIR_PORT]),
            "nginx": Proxy(peers, "127.0.0.1", NGINX_PORT, recorders[NGINX_PORT]),
            "haproxy": Proxy(peers, "127.0.0.1", HAPROXY_PORT, recorders[HAPROXY_PORT]),
        }
        for recorder in recorders.values():
            recorder.close()


def post(fields, body=b"", line="POST / HTTP/1.1"):
    fields = fields if isinstance(fields, bytes) else fields.encode("latin-1")
    return line.encode("latin-1") + b"\r\nHost: web.mesh\r\n" + fields + b"\r\n\r\n" + body


def get(line, fields="Host: web.mesh"):
    return line.encode("latin-1") + b"\r\n" + fields.encode("latin-1") + b"\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"
REFUSED = {
    # lengths
    "length-conflict": (post("Content-Length: 0\r\nContent-Length: 42", SMUGGLED), 400),
    "length-twice": (post("Content-Length: 5\r\nContent-Length: 5", b"hello"), 400),
    "length-list": (post("Content-Length: 5, 5", b"hello"), 400),
    "length-list-conflict": (post("Content-Length: 0, 42", SMUGGLED), 400),
    "length-plus": (post("Content-Length: +5", b"hello"), 400),
    "length-minus": (post("Content-Length: -5", b"hello"), 400),
    "length-hexadecimal": (post("Content-Length: 0x5", b"hello"), 400),
    "length-trailing": (post("Content-Length: 5a", b"hello"), 400),
    "length-empty": (post("Content-Length:", SMUGGLED), 400),
    "length-blank-inside": (post("Content-Length: 4 2", SMUGGLED), 400),
    "length-overflow": (post("Content-Length: 18446744073709551616", SMUGGLED), 413),
    "length-space-before-colon": (post("Content-Length : 42", SMUGGLED), 400),
    "length-nul": (post(b"Content-Length: 5\0", b"hello"), 400),
    # length beside coding
    "cl-te": (post("Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED), 400),
    "te-cl": (post(CHUNKED + "\r\nContent-Length: 47", b"0\r\n\r\n" + SMUGGLED), 400),
    # transfer codings
    "te-te": (post(CHUNKED + "\r\nTransfer-Encoding: identity", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-twice": (post(CHUNKED + "\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED), 501),
    "te-identity": (post("Transfer-Encoding: identity\r\nX: y", SMUGGLED), 501),
    "te-xchunked": (post("Transfer-Encoding: xchunked", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-list": (post("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-chunked-first": (post("Transfer-Encoding: chunked, gzip", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-quoted": (post('Transfer-Encoding: "chunked"', b"0\r\n\r\n" + SMUGGLED), 501),
    "te-empty": (post("Transfer-Encoding:", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-space-before-colon": (post("Transfer-Encoding : chunked", b"0\r\n\r\n" + SMUGGLED), 400),
    "te-vertical-tab": (post("Transfer-Encoding: \x0bchunked", b"0\r\n\r\n" + SMUGGLED), 400),
    "te-nul": (post(b"Transfer-Encoding: chunked\0", b"0\r\n\r\n" + SMUGGLED), 400),
    "te-folded": (post("Transfer-Encoding:\r\n chunked", b"0\r\n\r\n" + SMUGGLED), 501),
    "te-in-a-fold": (post("X: y\r\n Transfer-Encoding: chunked", b"0\r\n\r\n" + SMUGGLED), 400),
    "te-http10": (post(CHUNKED, b"0\r\n\r\n" + SMUGGLED, "POST / HTTP/1.0"), 400),
    # lines
    "bare-lf-line": (b"GET / HTTP/1.1\nHost: web.mesh\r\n\r\n", 400),
    "bare-lf-field": (post(b"X: y\nContent-Length: 42", SMUGGLED), 400),
    "bare-lf-end": (b"GET / HTTP/1.1\r\nHost: web.mesh\r\n\n" + SMUGGLED, 400),
    "bare-lf-before": (b"\n" + get("GET / HTTP/1.1"), 400),
    "bare-cr-field": (post(b"X: y\rContent-Length: 42", SMUGGLED), 400),
    "bare-cr-line": (b"GET / HTTP/1.1\rHost: web.mesh\r\n\r\n", 400),
    "fold": (post("X: y\r\n z"), 400),
    "fold-first": (get("GET / HTTP/1.1", " X: y\r\nHost: web.mesh"), 400),
    "space-in-name": (post("X Y: z"), 400),
    "no-colon": (post("nothing"), 400),
    "no-name": (post(": y"), 400),
    "nul-in-value": (post(b"X: a\0b"), 400),
    "nul-in-name": (post(b"X\0Y: b"), 400),
    "nul-in-target": (b"GET /\0 HTTP/1.1\r\nHost: web.mesh\r\n\r\n", 400),
    "high-name": (post(b"X\xc3\xa4: b"), 400),
    # hosts
    "host-twice": (get("GET / HTTP/1.1", "Host: web.mesh\r\nHost: other"), 400),
    "host-missing": (get("GET / HTTP/1.1", "X: y"), 400),
    "host-space": (get("GET / HTTP/1.1", "Host: web.mesh other"), 400),
    "host-slash": (get("GET / HTTP/1.1", "Host: web.mesh/smuggled"), 400),
    "host-user": (get("GET / HTTP/1.1", "Host: user@web.mesh"), 400),
    "host-port": (get("GET / HTTP/1.1", "Host: web.mesh:x"), 400),
    "host-list": (get("GET / HTTP/1.1", "Host: web.mesh, other"), 400),
    # request lines
    "two-blanks": (get("GET  / HTTP/1.1"), 400),
    "blank-in-target": (get("GET /a b HTTP/1.1"), 400),
    "blank-behind": (get("GET / HTTP/1.1 "), 400),
    "tab": (get("GET\t/ HTTP/1.1"), 400),
    "blank-first": (get(" GET / HTTP/1.1"), 400),
    "version-none": (get("GET /"), 400),
    "version-long": (get("GET / HTTP/1.10"), 400),
    "version-two": (get("GET / HTTP/2.0"), 505),
    "version-zero": (get("GET / HTTP/0.9"), 505),
    "version-lower-case": (get("GET / http/1.1"), 400),
    "method-odd": (get("G@T / HTTP/1.1"), 400),
    "method-long": (get("A" * 100 + " / HTTP/1.1"), 501),
    "target-relative": (get("GET smuggled HTTP/1.1"), 400),
    "target-fragment": (get("GET /a#b HTTP/1.1"), 400),
    "target-scheme": (get("GET ftp://web.mesh/ HTTP/1.1"), 400),
    "target-user": (get("GET http://web.mesh@other/ HTTP/1.1"), 400),
    "target-asterisk": (get("GET * HTTP/1.1"), 400),
    "connect-path": (get("CONNECT /smuggled HTTP/1.1"), 400),
    "connect-no-port": (get("CONNECT web.mesh HTTP/1.1"), 400),
    "connect-absolute": (get("CONNECT http://web.mesh/ HTTP/1.1"), 400),
    # chunks
    "chunk-bare-lf": (post(CHUNKED, b"5\nhello\r\n0\r\n\r\n"), 400),
    "chunk-bare-lf-extension": (post(CHUNKED, b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED), 400),
    "chunk-bare-cr": (post(CHUNKED, b"5\rxhello\r\n0\r\n\r\n"), 400),
    "chunk-hexadecimal-prefix": (post(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-minus": (post(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-plus": (post(CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-blank": (post(CHUNKED, b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-blank-behind": (post(CHUNKED, b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-empty": (post(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-overflow-64": (post(CHUNKED, b"10000000000000005\r\nhello\r\n0\r\n\r\n" + SMUGGLED), 413),
    "chunk-overflow-32": (post(CHUNKED, b"fffffffffffffffb\r\nhello\r\n0\r\n\r\n" + SMUGGLED), 413),
    "chunk-long": (post(CHUNKED, b"2\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk-short": (post(CHUNKED, b"6\r\nhello\r\n0\r\n\r\n" + SMUGGLED), 400),
    "chunk-trailer-no-colon": (post(CHUNKED, b"0\r\nX\r\n\r\n"), 400),
    "chunk-trailer-bare-lf": (post(CHUNKED, b"0\r\nX: y\n\r\n"), 400),
    "chunk-end-bare-lf": (post(CHUNKED, b"0\r\n\n" + SMUGGLED), 400),
    "chunk-nul": (post(CHUNKED, b"5\0\r\nhello\r\n0\r\n\r\n"), 400),
}

ROOT = (b"GET", b"/", b"web.mesh", b"")
HELLO = (b"POST", b"/", b"web.mesh", b"hello")
PASSED = {
    "plain": (get("GET / HTTP/1.1"), [ROOT]),
    "empty-lines-before": (b"\r\n\r\n" + get("GET / HTTP/1.1"), [ROOT]),
    "length": (post("Content-Length: 5", b"hello"), [HELLO]),
    "length-zeros": (post("Content-Length: 0005", b"hello"), [HELLO]),
    "length-and-more": (post("Content-Length: 5", b"hello" + get("GET / HTTP/1.1")), [HELLO, ROOT]),
    "request-in-a-body": (post("Content-Length: 42", SMUGGLED), [(b"POST", b"/", b"web.mesh", SMUGGLED)]),
    "body-of-get": (post("Content-Length: 42", SMUGGLED, "GET / HTTP/1.1"), [(b"GET", b"/", b"web.mesh", SMUGGLED)]),
    "chunked": (post(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), [HELLO]),
    "chunked-upper-case": (post("Transfer-Encoding: Chunked", b"5\r\nhello\r\n0\r\n\r\n"), [HELLO]),
    "chunked-and-more": (post(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n" + get("GET / HTTP/1.1")), [HELLO, ROOT]),
    "chunk-zeros": (post(CHUNKED, b"005\r\nhello\r\n000\r\n\r\n"), [HELLO]),
    "chunk-extension": (post(CHUNKED, b'5;a="b";c\r\nhello\r\n0;d\r\n\r\n'), [HELLO]),
    "chunk-request": (
        post(CHUNKED, b"2a\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"),
        [(b"POST", b"/", b"web.mesh", SMUGGLED)],
    ),
    "http10": (get("GET / HTTP/1.0"), [ROOT]),
    "absolute": (get("GET http://web.mesh/x HTTP/1.1"), [(b"GET", b"/x", b"web.mesh", b"")]),
    "absolute-other-host": (get("GET http://web.mesh/x HTTP/1.1", "Host: other"), [(b"GET", b"/x", b"web.mesh", b"")]),
    "absolute-options": (get("OPTIONS http://web.mesh HTTP/1.1"), [(b"OPTIONS", b"*", b"web.mesh", b"")]),
    "asterisk": (get("OPTIONS * HTTP/1.1"), [(b"OPTIONS", b"*", b"web.mesh", b"")]),
    "connect": (
        get("CONNECT web.mesh:80 HTTP/1.1", "Host: web.mesh:80"),
        [(b"CONNECT", b"web.mesh:80", b"web.mesh:80", b"")],
    ),
    "connect-other-host": (
        get("CONNECT web.mesh:80 HTTP/1.1", "Host: other"),
        [(b"CONNECT", b"web.mesh:80", b"web.mesh:80", b"")],
    ),
    "host-empty": (get("GET / HTTP/1.1", "Host:"), [(b"GET", b"/", b"", b"")]),
    "connection-names-length": (post("Connection: content-length\r\nContent-Length: 5", b"hello"), [HELLO]),
    "connection-names-coding": (post("Connection: transfer-encoding\r\n" + CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), [HELLO]),
    "connection-names-host": (get("GET / HTTP/1.1", "Connection: host\r\nHost: web.mesh"), [ROOT]),
}

# What one of the others refuses although it can be read in one way only, or although weir makes it so.
OTHERS_POLICY = {
    ("absolute-other-host", "haproxy"),  # the target prevails (RFC 9112 3.2.2), and weir writes the Host anew
    ("connect-other-host", "haproxy"),  # likewise
    ("connect", "nginx"),  # knows no CONNECT
    ("connect-other-host", "nginx"),
    ("asterisk", "nginx"),  # has no location for it
    ("host-empty", "nginx"),  # allowed by RFC 9112 3.2
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(proxies, name):
    data, status = REFUSED[name]
    statuses, requests, garbage = proxies["weir"].talk(data)
    assert statuses == [status]
    assert requests == []
    # What was sent upstream before the fault showed was cut off.
    assert all(SMUGGLED not in piece for piece in garbage)


@pytest.mark.parametrize("name", PASSED)
def test_passed_as_one_reading(proxies, name):
    data, expected = PASSED[name]
    statuses, requests, garbage = proxies["weir"].talk(data, len(expected))
    assert statuses == [200] * len(expected)
    assert requests == expected
    assert garbage == []


@pytest.mark.parametrize("peer", ["nginx", "haproxy"])
@pytest.mark.parametrize("name", PASSED)
def test_nothing_passes_that_others_refuse(proxies, name, peer):
    data, expected = PASSED[name]
    statuses, requests, _ = proxies[peer].talk(data, len(expected))
    if (name, peer) in OTHERS_POLICY:
        assert statuses[0] >= 400, "no exception is needed any more"
        return
    assert statuses and all(status < 400 for status in statuses)
    assert [request[3] for request in requests] == [request[3] for request in expected]  # the same bodies
