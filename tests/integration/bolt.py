# SPDX-License-Identifier: Apache-2.0
"""SOFABolt for byte-exact conversations: frames as bytes, and a peer that reads them one by one.

    bolt = Bolt(connect(pod, vip, 12200))
    bolt.send(request(7, SERVICE, "echo", b"hello"))
    answer = bolt.frame()                  # a Frame: .id .status .kind .content .map .raw
"""

import struct
import zlib
from dataclasses import dataclass, field

RESPONSE, REQUEST, ONEWAY = 0, 1, 2
HEARTBEAT, CALL, ANSWER, GOAWAY = 0, 1, 2, 100
SUCCESS, NO_PROCESSOR, BUSY, TIMEOUT, CODEC_ERROR, CONNECTION_CLOSED = 0, 6, 4, 7, 9, 0x10
SERVICE = "com.alipay.test.TestService:1.0"
REQUEST_CLASS = b"com.alipay.sofa.rpc.core.request.SofaRequest"
RESPONSE_CLASS = b"com.alipay.sofa.rpc.core.response.SofaResponse"


def header_map(pairs):
    out = b""
    for pair in pairs:
        for text in pair:
            raw = None if text is None else text.encode() if isinstance(text, str) else text
            out += struct.pack(">i", -1) if raw is None else struct.pack(">i", len(raw)) + raw
    return out


def read_map(raw):
    texts, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from(">i", raw, at)
        at += 4
        texts.append(None if length < 0 else raw[at : at + length])
        at += max(length, 0)
    return {key.decode(): value.decode() for key, value in zip(texts[::2], texts[1::2]) if key and value is not None}


def frame(kind, command, number, *, version=1, own=1, crc=False, codec=1, timeout=-1, status=0, cls=b"", head=b"",
          content=b""):
    """Any frame. `own`: the version of version 2's own; with own=2 and crc=True a CRC follows."""
    out = bytes([version]) + (bytes([own]) if version == 2 else b"")
    out += struct.pack(">BHBIB", kind, command, 1, number, codec)
    out += bytes([int(crc)]) if version == 2 else b""
    out += struct.pack(">h", status) if kind == RESPONSE else struct.pack(">i", timeout)
    out += struct.pack(">HHI", len(cls), len(head), len(content)) + cls + head + content
    if version == 2 and own == 2 and crc:
        out += struct.pack(">I", zlib.crc32(out))
    return out


def request(number, service=SERVICE, method="echo", content=b"", *, kind=REQUEST, pairs=(), **options):
    names = [("service", service), ("sofa_head_method_name", method)]
    names = [(key, value) for key, value in names if value is not None]
    options.setdefault("cls", REQUEST_CLASS)
    options.setdefault("head", header_map([*names, *pairs]))
    return frame(kind, CALL, number, content=content, **options)


def response(number, content=b"", **options):
    options.setdefault("cls", RESPONSE_CLASS)
    return frame(RESPONSE, ANSWER, number, content=content, **options)


def heartbeat(number, **options):
    return frame(REQUEST, HEARTBEAT, number, **options)


def heartbeat_ack(number, **options):
    return frame(RESPONSE, HEARTBEAT, number, **options)


@dataclass
class Frame:
    version: int
    kind: int
    command: int
    id: int
    status: int
    timeout: int
    cls: bytes
    head: bytes
    content: bytes
    own: int = 1
    crc: bool = False
    good: bool = True  # the CRC fits
    raw: bytes = field(repr=False, default=b"")

    @property
    def map(self):
        return read_map(self.head)

    @property
    def version_options(self):
        return {"version": self.version, "own": self.own, "crc": self.crc}


class Bolt:
    """Reads and writes frames on a Peer (see mesh.py)."""

    def __init__(self, peer):
        self.peer = peer

    def send(self, *frames):
        self.peer.sock.sendall(b"".join(frames))

    def frame(self):
        raw = self.peer.read(1)
        version, own = raw[0], 1
        assert version in (1, 2), f"version {version}"
        if version == 2:
            raw += self.peer.read(1)
            own = raw[1]
        raw += self.peer.read(9)
        kind, command, _, number, _ = struct.unpack(">BHBIB", raw[-9:])
        crc = False
        if version == 2:
            raw += self.peer.read(1)
            crc = bool(raw[-1] & 1)
        raw += self.peer.read(2 if kind == RESPONSE else 4)
        status, timeout = (struct.unpack(">h", raw[-2:])[0], 0) if kind == RESPONSE else (0, *struct.unpack(">i", raw[-4:]))
        raw += self.peer.read(8)
        lengths = struct.unpack(">HHI", raw[-8:])
        cls, head, content = (self.peer.read(length) for length in lengths)
        raw += cls + head + content
        good = True
        if version == 2 and own == 2 and crc:
            trailer = self.peer.read(4)
            good = struct.unpack(">I", trailer)[0] == zlib.crc32(raw)
            raw += trailer
        return Frame(version, kind, command, number, status, timeout, cls, head, content, own, crc, good, raw)

    def frames(self, count):
        return [self.frame() for _ in range(count)]

    def call(self, number, *words, **options):
        """Sends a request and returns the frame that comes next."""
        self.send(request(number, *words, **options))
        return self.frame()

    def ended(self):
        """Whether the other side's orderly end is what comes next."""
        return not self.peer.another()

    def close(self):
        self.peer.close()


def answering(answer=None, seen=None):
    """A handler for mesh.Origin: answers every request with its own content (or by `answer(frame)`, bytes or None), and
    heartbeats; notes requests in `seen`."""

    def handler(peer):
        peer.sock.settimeout(None)
        bolt = Bolt(peer)
        while peer.another():
            got = bolt.frame()
            if got.command == HEARTBEAT:
                bolt.send(heartbeat_ack(got.id, **got.version_options))
                continue
            if seen is not None:
                seen.append(got)
            if got.kind != REQUEST:
                continue
            out = answer(got) if answer else response(got.id, got.content, **got.version_options)
            if out is not None:
                bolt.send(out)

    return handler
