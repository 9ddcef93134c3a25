# SPDX-License-Identifier: Apache-2.0
"""Where HTTP/2 is tested: a weir between a client of h2frames.py and an honest origin, in every shape of deployment.

    site = Site(mesh, "tls-http1")
    client = site.connect()                         # h2frames.Client: cleartext, or mutual TLS with ALPN h2
    path = site.path("/echo")                       # "/echo?7": a path of the test's own
    client.ask(post(path), body=b"x")
    seen = site.origin.find(path)                   # what reached it: .method .target .authority .fields .body .trailers
    site.close()

The origin speaks HTTP/1.1, every byte of which it checks, or HTTP/2 by python3-h2. What it answers depends on the path:

    /                200, "ok"                      /bytes/N        N bytes
    /echo            the request's body             /trailers       a body and the trailer x-sum
    /hold            when site.release(path) says   /interim        103 twice, then 200
    /stall           the same; no body is read      /status/N       that status without a body
    /early           200 before the body is read    /cut            half a body, then the connection's end
"""

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from h2frames import Client, Violation, check_fields, check_request
from mesh import Origin, cluster, service
from netns import readable, wait_until

SHAPES = ["cleartext-http1", "cleartext-http2", "tls-http1", "tls-http2"]
PORT = 8080
CALM_ASAN = "detect_leaks=1:abort_on_error=0:quarantine_size_mb=1"

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/1\.1")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
# What HTTP/2 must not carry, and names in any case: the other side sees neither.
HTTP1_FIELDS = "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=60\r\nX-Hop: 1\r\nX-Mixed-Case: Yes\r\n"


class Seen:
    """A request that reached the origin in full. Names of fields are in lower case, all is bytes."""

    def __init__(self, method, target, authority, fields, raw=b""):
        self.method, self.target, self.authority, self.fields, self.raw = method, target, authority, fields, raw
        self.body, self.trailers = b"", []

    @property
    def path(self):
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def kind(self):
        """The first word of the path."""
        return (self.path.split("/") + [""])[1]

    def values(self, name):
        return [value for key, value in self.fields if key == name.encode()]


class Answer:
    """What a path stands for."""

    def __init__(self, seen):
        rest = seen.path.rpartition("/")[2]
        number = int(rest) if rest.isdigit() else 0
        self.status, self.interims, self.trailers = 200, 0, []
        self.body = b"ok"
        if seen.kind == "echo":
            self.body = seen.body
        elif seen.kind == "bytes":
            self.body = (b"0123456789abcdef" * (number // 16 + 1))[:number]
        elif seen.kind == "status":
            self.status, self.body = number, None if number in (204, 304) else b""
        elif seen.kind == "interim":
            self.interims = 2
        elif seen.kind == "trailers":
            self.trailers = [("x-sum", "7")]
        elif seen.kind == "cut":
            self.body = b"0123456789"


class HonestOrigin:
    """What both kinds have in common."""

    def __init__(self, pod):
        self.seen, self.heads, self.faults, self.cancelled, self._released = [], [], [], [], set()
        self._changed = threading.Condition()
        self.listening = Origin(pod, PORT, self._handle)

    def _handle(self, peer):
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sock.settimeout(None)  # pooled connections wait as long as the tests take
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._serve(peer)

    def note(self, into, what):
        with self._changed:
            into.append(what)
            self._changed.notify_all()

    def find(self, path, count=1):
        """The request with this path, or so many; they reached the origin."""
        found = lambda: [seen for seen in list(self.seen) if seen.target == path.encode()]  # noqa: E731
        rows = wait_until(lambda: len(found()) >= count and found(), what=f"{path} at the origin: {self.faults}")
        assert len(rows) == count, rows
        return rows[0] if count == 1 else rows

    def reached(self, path):
        """Whether a complete request with this path came; nothing is waited for."""
        return any(seen.target == path.encode() for seen in list(self.seen))

    def begun(self, path):
        """Waits for the head of it."""
        wait_until(lambda: path.encode() in list(self.heads), what=f"the head of {path}")

    def release(self, path):
        with self._changed:
            self._released.add(path.encode())
            self._changed.notify_all()

    def close(self):
        for target in self.heads:
            self.release(target.decode("latin-1"))
        self.listening.close()


class Http1Origin(HonestOrigin):
    protocol = "http1"

    def _serve(self, peer):
        while peer.another():
            try:
                seen = self._head(peer.until(b"\r\n\r\n"))
            except AssertionError:
                return self.note(self.faults, peer.buffer)
            if seen is None:
                return None
            self.note(self.heads, seen.target)
            if not self._one(peer, seen):
                return None
        return None

    def _head(self, raw):
        lines = raw[:-4].split(b"\r\n")
        start = REQUEST_LINE.fullmatch(lines[0])
        fields = [FIELD.fullmatch(line) for line in lines[1:]]
        if not start or not all(fields):
            return self.note(self.faults, raw)
        fields = [(match[1].lower(), match[2]) for match in fields]
        count = {name: sum(key == name for key, _ in fields) for name in (b"host", b"content-length", b"transfer-encoding")}
        if count[b"host"] != 1 or count[b"content-length"] + count[b"transfer-encoding"] > 1:
            return self.note(self.faults, raw)
        return Seen(start[1], start[2], dict(fields)[b"host"], fields, raw)

    def _one(self, peer, seen):
        """Answers a request; whether another may follow."""
        if seen.method == b"CONNECT" or seen.values("upgrade") == [b"websocket"]:
            return self._tunnel(peer, seen)
        if seen.values("expect"):
            peer.send("HTTP/1.1 100 Continue\r\n\r\n")
        if seen.kind == "early":
            self.note(self.seen, seen)
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").rest()
            return False
        if seen.kind == "stall":
            self._wait(seen)
        try:
            self._body(peer, seen)
        except (AssertionError, ConnectionResetError):
            self.note(self.cancelled, seen.target)
            return False
        self.note(self.seen, seen)
        if seen.kind == "hold":
            self._wait(seen)
        return self._answer(peer, seen, Answer(seen))

    def _wait(self, seen):
        with self._changed:
            self._changed.wait_for(lambda: seen.target in self._released or self.listening.closing)

    def _body(self, peer, seen):
        if seen.values("content-length"):
            seen.body = peer.read(int(seen.values("content-length")[0]))
        elif seen.values("transfer-encoding"):
            while size := int(peer.until(b"\r\n").split(b";")[0], 16):
                seen.body += peer.read(size)
                assert peer.read(2) == b"\r\n"
            while line := peer.until(b"\r\n")[:-2]:
                match = FIELD.fullmatch(line)
                seen.trailers.append((match[1].lower(), match[2]))

    def _answer(self, peer, seen, answer):
        for _ in range(answer.interims):
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        head = f"HTTP/1.1 {answer.status} Fine\r\n{HTTP1_FIELDS}"
        if answer.body is None:
            peer.send(head + "\r\n")
        elif seen.method == b"HEAD":
            peer.send(f"{head}Content-Length: {len(answer.body)}\r\n\r\n")
        elif seen.kind == "cut":
            peer.send(f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body[:5])
            return False
        elif answer.trailers:
            lines = "".join(f"{name}: {value}\r\n" for name, value in answer.trailers)
            peer.send(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(answer.body):x}\r\n".encode() + answer.body)
            peer.send(f"\r\n0\r\n{lines}\r\n")
        else:
            peer.send(f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
        return True

    def _tunnel(self, peer, seen):
        self.note(self.seen, seen)
        switching = "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket"
        for key in seen.values("sec-websocket-key"):
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
            switching += f"\r\nSec-WebSocket-Accept: {accept}"
        peer.send(f"HTTP/1.1 {'200 OK' if seen.method == b'CONNECT' else switching}\r\n\r\n")
        while peer.another():
            piece, peer.buffer = peer.buffer, b""
            seen.body += piece
            peer.send(piece)
        return False


class Http2Origin(HonestOrigin):
    protocol = "http2"

    def _serve(self, peer):
        Http2Serving(self, peer.sock).run()


class Http2Serving:
    """One connection of the HTTP/2 origin: python3-h2 judges what weir sends."""

    def __init__(self, origin, sock):
        self.origin, self.sock = origin, sock
        # Fields are checked here: h2 knows no CONNECT without a path.
        options = {"client_side": False, "header_encoding": False, "normalize_inbound_headers": False}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(validate_inbound_headers=False, **options))
        codes = h2.settings.SettingCodes
        values = {codes.MAX_CONCURRENT_STREAMS: 256, codes.ENABLE_CONNECT_PROTOCOL: 1, codes.MAX_HEADER_LIST_SIZE: 1 << 17}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        # By stream: Seen; what is still to be sent; whom to wait for; bytes whose window was not given back.
        self.requests, self.out, self.held, self.withheld = {}, {}, {}, {}
        self.gone = set()

    def run(self):
        self.h2.initiate_connection()
        try:
            while True:
                self._release()
                self._pump()
                self.sock.sendall(self.h2.data_to_send())
                # Held requests are looked after now and then.
                if not readable(self.sock, 0.01 if self.held else 60):
                    if self.origin.listening.closing:
                        return
                    continue
                piece = self.sock.recv(1 << 16)
                if not piece:
                    return
                events = self.h2.receive_data(piece)
                self.gone = {event.stream_id for event in events if isinstance(event, h2.events.StreamReset)}
                for event in events:
                    self._on(event)
        except (h2.exceptions.ProtocolError, Violation) as error:
            self.origin.note(self.origin.faults, repr(error).encode())
            self.sock.sendall(self.h2.data_to_send())

    def _on(self, event):
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            self._head(number, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._data(number, event)
        elif isinstance(event, h2.events.TrailersReceived):
            self.requests[number].trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            check_fields(self.requests[number].trailers)
        elif isinstance(event, h2.events.StreamEnded) and self.requests[number].kind != "early":
            self._complete(number)
        elif isinstance(event, h2.events.StreamReset):
            self.out.pop(number, None)
            self.held.pop(number, None)
            if withheld := self.withheld.pop(number, 0):
                self.h2.acknowledge_received_data(withheld, number)
            seen = self.requests.pop(number, None)
            self.origin.note(self.origin.cancelled, seen.target if seen else b"")

    def _head(self, number, fields):
        plain = [(bytes(name), bytes(value)) for name, value in fields]
        check_fields(plain)
        check_request(plain, connect_protocol=True)
        found, regular = dict(plain), [field for field in plain if not field[0].startswith(b":")]
        seen = Seen(found[b":method"], found.get(b":path", b""), found.get(b":authority"), regular)
        seen.never_indexed = [bytes(field[0]) for field in fields if not field.indexable]
        seen.protocol = found.get(b":protocol")
        self.requests[number] = seen
        self.origin.note(self.origin.heads, seen.target)
        if seen.method == b"CONNECT":
            self.h2.send_headers(number, [(":status", "200")])
            self.out[number] = [b"", None]
            self.origin.note(self.origin.seen, seen)
        elif seen.kind == "early":
            self._complete(number)
        elif seen.values("expect"):
            self.h2.send_headers(number, [(":status", "100")])

    def _data(self, number, event):
        seen = self.requests[number]
        seen.body += event.data
        if seen.method == b"CONNECT":
            self.out[number][0] += event.data
        if seen.kind == "stall":
            self.withheld[number] = self.withheld.get(number, 0) + event.flow_controlled_length
        elif event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, number)

    def _complete(self, number):
        seen = self.requests[number]
        if seen.method == b"CONNECT":
            self.out[number][1] = []
            return
        self.origin.note(self.origin.seen, seen)
        if seen.kind in ("hold", "stall"):
            self.held[number] = seen
        else:
            self._answer(number, seen, Answer(seen))

    def _release(self):
        for number, seen in list(self.held.items()):
            if seen.target in self.origin._released:
                del self.held[number]
                self._answer(number, seen, Answer(seen))

    def _answer(self, number, seen, answer):
        if number in self.gone:  # the request and its reset came together
            return
        for _ in range(answer.interims):
            self.h2.send_headers(number, [(":status", "103"), ("link", "</a.css>")])
        fields = [(":status", str(answer.status)), ("x-mixed-case", "Yes")]
        if answer.body is None or seen.method == b"HEAD":
            self.h2.send_headers(number, fields, end_stream=True)
            return
        self.h2.send_headers(number, [*fields, ("content-length", str(len(answer.body)))])
        self.out[number] = [answer.body, answer.trailers]
        if seen.kind == "cut":
            self.h2.send_data(number, answer.body[:5])
            self.h2.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)
            del self.out[number]

    def _pump(self):
        """What the windows allow."""
        for number, (body, trailers) in list(self.out.items()):
            while body and (room := min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)) > 0:
                self.h2.send_data(number, body[:room])
                body = body[room:]
            self.out[number][0] = body
            if not body and trailers is not None:
                del self.out[number]
                if trailers:
                    self.h2.send_headers(number, trailers, end_stream=True)
                else:
                    self.h2.end_stream(number)


class Site:
    """One shape: "cleartext-http1" is a client that speaks cleartext to weir, and weir HTTP/1.1 to the origin."""

    def __init__(self, mesh, shape, **config):
        self.mesh, self.shape, self._paths = mesh, shape, 0
        front, back = shape.split("-")
        self.near, self.far = mesh.network.pod(f"{shape}-near"), mesh.network.pod(f"{shape}-far")
        self.origin = {"http1": Http1Origin, "http2": Http2Origin}[back](self.far)
        self.tls = None
        config.setdefault("log", {"access": True})
        self._cleartext(config) if front == "cleartext" else self._tls(config)

    def _start(self, name, pod, **config):
        self.sidecar = self.mesh.sidecar(name, start=False, pod=pod, **config)
        self.sidecar.start(env={"ASAN_OPTIONS": CALM_ASAN})
        self.sidecar.intercept("apply")

    def _cleartext(self, config):
        web = cluster("web", [f"{self.far.ipv4}:{PORT}"], protocol=self.origin.protocol)
        self._start(self.shape, self.near, services=[service("web.mesh", 80, "web")], clusters=[web], **config)
        self.address = (self.sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"], 80)

    def _tls(self, config):
        inbound = [{"port": PORT, "protocol": "http2", "application": self.origin.protocol}]
        self._start(self.shape, self.far, tls="strict", inbound=inbound, **config)
        self.address = (self.far.ipv4, PORT)
        files = self.mesh.certificate("client")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.tls.load_cert_chain(files["certificate"], files["private_key"])
        self.tls.set_alpn_protocols(["h2"])

    @property
    def pid(self):
        return self.sidecar.proxy.pid

    def socket(self, receive_buffer=None):
        with self.near.enter():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(self.address)
        if self.tls:
            sock = self.tls.wrap_socket(sock)
            assert sock.selected_alpn_protocol() == "h2"
        return sock

    def connect(self, *own, **options):
        return Client(self.socket(options.pop("receive_buffer", None)), *own, **options)

    def path(self, path="/"):
        """A path that no other request has."""
        self._paths += 1
        return f"{path}?{self._paths}"

    def release(self, path):
        self.origin.release(path)

    def close(self):
        """Ends all; weir must have lived until now, and leak nothing."""
        status = self.sidecar.proxy.stop()
        self.origin.close()
        assert status == 0, self.sidecar.proxy.output()[-4000:]
        assert "Sanitizer" not in self.sidecar.proxy.output(), self.sidecar.proxy.output()[-8000:]


class Sites:
    """All shapes, each made when it is first asked for."""

    def __init__(self, mesh, **config):
        self.mesh, self.config, self.sites = mesh, config, {}

    def __getitem__(self, shape):
        if shape not in self.sites:
            self.sites[shape] = Site(self.mesh, shape, **self.config)
        return self.sites[shape]

    def close(self):
        for site in self.sites.values():
            site.close()
