# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frame by frame: a client and a server that send whatever a test wants, legal or not, and that hold what they
receive to RFC 9113. Frames are read with hyperframe and field blocks with hpack, which know nothing of weir.

    client = Client(sock)                                   # the preface and SETTINGS are sent
    stream = client.request(get("/x"), body=b"hello")       # or in pieces: client.open(fields), client.send(data(1, b"x"))
    assert client.answer(stream).status == 200              # reads on; .fields .body .trailers .interims .reset
    client.send(frame(DATA, 0, 99, b"x"))                   # an idle stream
    client.connection_error(PROTOCOL_ERROR)                 # GOAWAY with this code, then the end

    server = Server(peer.sock)                              # in the handler of a mesh.Origin; the preface is read
    stream = server.accept()                                # the next request's head; server.whole(stream) has all of it
    server.send(server.head(stream.id, [(":status", "200")]), data(stream.id, b"hello", END_STREAM))

Violation is raised for whatever the other side must not do: frames too long or out of order, on streams that are not open,
beyond a flow-control window, fields that HTTP/2 does not know, and so on. SETTINGS and PING are answered and windows
reopened as frames are read, unless .upkeep or .replenish is False.
"""

import re
import ssl
import struct

import hpack
import hyperframe.exceptions
import hyperframe.frame as hyper

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 16
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 32

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 6, 8, 9

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY = range(7, 13)
HTTP_1_1_REQUIRED = 13

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW, FRAME = 65535, 16384  # what holds before any SETTINGS
HOP_FIELDS = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
VALUE = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])")
REQUEST_PSEUDO = {b":method", b":scheme", b":authority", b":path", b":protocol"}
TIMEOUT = 30.0


class Violation(AssertionError):
    """The other side broke a rule of HTTP/2."""


# --- frames, as bytes ------------------------------------------------------------------------------------------------
def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """Any frame. `length`: what the header says, if that is not the payload's."""
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def data(stream, payload=b"", flags=0, pad=None):
    if pad is not None:
        flags, payload = flags | PADDED, bytes([pad]) + payload + bytes(pad)
    return frame(DATA, flags, stream, payload)


def headers(stream, block, flags=END_HEADERS, pad=None, priority=None):
    """`priority`: (depends on, weight 0 to 255)."""
    if priority is not None:
        flags, block = flags | PRIORITIZED, struct.pack(">IB", *priority) + block
    if pad is not None:
        flags, block = flags | PADDED, bytes([pad]) + block + bytes(pad)
    return frame(HEADERS, flags, stream, block)


def rst_stream(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(*pairs, flags=0):
    return frame(SETTINGS, flags, 0, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


def ping(payload=b"weirping", flags=0):
    return frame(PING, flags, 0, payload)


def goaway(last=0, code=NO_ERROR, debug=b""):
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


# --- field lists -----------------------------------------------------------------------------------------------------
def get(path="/", *extra, method="GET", authority="web.mesh"):
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *extra]


def post(path="/", *extra):
    return get(path, *extra, method="POST")


def literal(name, value, kind=0x00):
    """A literal field with a new name (RFC 7541 6.2), no Huffman. kind: 0x40 indexed, 0x00 not, 0x10 never."""
    return bytes([kind]) + string(name) + string(value)


def plain(fields):
    """A field block of literals only: no table, no Huffman."""
    return b"".join(literal(name, value) for name, value in fields)


def string(text):
    text = text if isinstance(text, bytes) else text.encode()
    return integer(len(text), 7) + text


def integer(value, bits, first=0):
    """RFC 7541 5.1"""
    top = (1 << bits) - 1
    if value < top:
        return bytes([first | value])
    out, value = [first | top], value - top
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


# --- what both sides have in common ----------------------------------------------------------------------------------
class Stream:
    def __init__(self, number, receive, send):
        self.id, self.receive_window, self.send_window = number, receive, send
        self.blocks, self.body, self.ended, self.reset = [], b"", False, None
        self.method = None  # of a request of ours
        self.never_indexed = []  # names of fields that came so (RFC 7541 6.2.3)

    @property
    def interims(self):
        """The 1xx heads in front."""
        return [block for block in self.blocks if dict(block)[b":status"].startswith(b"1")]

    @property
    def fields(self):
        """Of the request, or of the final response."""
        final = [block for block in self.blocks if not dict(block).get(b":status", b"2").startswith(b"1")]
        return final[0] if final else None

    @property
    def status(self):
        return int(dict(self.fields)[b":status"]) if self.fields else None

    @property
    def trailers(self):
        return self.blocks[-1] if len(self.blocks) > 1 and not self.blocks[-1][0][0].startswith(b":") else None

    def field(self, name):
        """The values of a field of the head, joined."""
        return b", ".join(value for key, value in self.fields or [] if key == name.encode())

    def __repr__(self):
        return f"<stream {self.id}: {self.blocks} {self.body[:40]} ended={self.ended} reset={self.reset}>"


class Connection:
    def __init__(self, sock, own=()):
        self.sock, self.buffer = sock, b""
        sock.settimeout(TIMEOUT)
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.streams, self.pongs, self.frames = {}, [], 0
        self.goaway = None  # hyperframe's GoAwayFrame
        self.ended = self.broken = False
        self.upkeep = self.replenish = True
        self.acks = 0
        self.receive_window = self.send_window = WINDOW
        self.initial_receive = WINDOW
        self._accepted = 0
        self._unacked, self._block = [], None
        self.peer = {HEADER_TABLE_SIZE: 4096, INITIAL_WINDOW_SIZE: WINDOW, MAX_FRAME_SIZE: FRAME}
        self.own = {HEADER_TABLE_SIZE: 4096, MAX_FRAME_SIZE: FRAME}
        self.configure(*own)

    # sending
    def send(self, *pieces):
        """Frames and other bytes in one write. That the other side is gone shows when reading."""
        sent = b"".join(pieces)
        self.account(sent)
        try:
            self.sock.sendall(sent)
        except (ConnectionError, ssl.SSLError, TimeoutError):
            self.broken = True
        return self

    def account(self, sent):
        """Takes note of frames of ours: DATA use up windows, SETTINGS will be acknowledged and hold from then on."""
        at = 0
        while at + 9 <= len(sent):
            length, kind, flags = int.from_bytes(sent[at : at + 3], "big"), sent[at + 3], sent[at + 4]
            stream, at = int.from_bytes(sent[at + 5 : at + 9], "big"), at + 9 + length
            if kind == DATA and stream in self.streams:
                self.send_window -= length
                self.streams[stream].send_window -= length
            if kind == SETTINGS and not flags & ACK and length % 6 == 0:
                self._unacked.append(dict(struct.iter_unpack(">HI", sent[at - length : at])))

    def configure(self, *pairs):
        size = dict(pairs).get(HEADER_TABLE_SIZE)
        if size is not None and size > self.decoder.max_allowed_table_size:
            self.decoder.max_allowed_table_size = size
        return self.send(settings(*pairs))

    def head(self, number, fields, flags=0):
        """HEADERS, with CONTINUATION as needed."""
        block, size = plain(fields), self.peer[MAX_FRAME_SIZE]
        pieces = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
        kinds = [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
        last = len(pieces) - 1
        return b"".join(
            frame(kind, (flags if at == 0 else 0) | (END_HEADERS if at == last else 0), number, piece)
            for at, (kind, piece) in enumerate(zip(kinds, pieces))
        )

    def send_body(self, stream, body, end=True):
        """As the windows allow; reads while they do not. Stops when the other side ends stream or connection."""
        while True:
            size = min(len(body), stream.send_window, self.send_window, self.peer[MAX_FRAME_SIZE])
            if size > 0 or not body:
                piece, body = body[:size], body[size:]
                self.send(data(stream.id, piece, END_STREAM if end and not body else 0))
            if not body or stream.reset is not None or self.broken:
                return stream
            if min(stream.send_window, self.send_window) <= 0 and not self.next():
                return stream

    # receiving
    def _read(self, count):
        while len(self.buffer) < count:
            try:
                piece = self.sock.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"nothing came; so far {self}") from None
            except (ConnectionError, ssl.SSLError):
                piece = b""
            if not piece:
                self.ended = True
                return None
            self.buffer += piece
        piece, self.buffer = self.buffer[:count], self.buffer[count:]
        return piece

    def next(self):
        """The next frame, once it was checked and taken note of; None at the end of the connection."""
        head = self._read(9)
        if head is None:
            return None
        length = int.from_bytes(head[:3], "big")
        if length > self.own[MAX_FRAME_SIZE]:
            raise Violation(f"a frame of {length} bytes")
        body = self._read(length)
        if body is None:
            raise Violation("the connection ended within a frame")
        try:
            parsed, _ = hyper.Frame.parse_frame_header(memoryview(head))
            parsed.parse_body(memoryview(body))
        except hyperframe.exceptions.HyperframeError as error:
            raise Violation(f"{head.hex()} {body[:40].hex()}: {error!r}") from error
        if self._block is not None and not isinstance(parsed, hyper.ContinuationFrame):
            raise Violation(f"{parsed} within a field block")
        if self.frames == 0 and (head[3] != SETTINGS or head[4] & ACK):
            raise Violation(f"{parsed} comes before SETTINGS")
        self.frames += 1
        taker = getattr(self, "_on_" + type(parsed).__name__[:-5].lower(), None)
        if taker:
            taker(parsed)
        return parsed

    def until(self, check):
        """Reads until it holds; whether it does: the connection may end before."""
        while not check():
            if self.next() is None:
                return check()
        return True

    def _stream(self, parsed, closed_too=False):
        stream = self.streams.get(parsed.stream_id)
        if stream is None and closed_too and parsed.stream_id % 2 and parsed.stream_id < max(self.streams, default=0):
            return Stream(parsed.stream_id, 0, 0)  # never used, and closed when a higher one was opened
        if stream is None:
            raise Violation(f"{parsed} on an idle stream")
        if stream.ended and not closed_too:
            raise Violation(f"{parsed} behind the end of the stream")
        return stream

    def _on_data(self, parsed):
        stream, size = self._stream(parsed), parsed.flow_controlled_length
        if stream.blocks == [] or stream.fields is None:
            raise Violation("DATA before HEADERS")
        if size and (size > self.receive_window or size > stream.receive_window):
            raise Violation(f"{size} bytes of DATA into windows of {self.receive_window} and {stream.receive_window}")
        self.receive_window -= size
        stream.receive_window -= size
        stream.body += parsed.data
        stream.ended = "END_STREAM" in parsed.flags
        if self.replenish and size:
            self.grant(stream, size)

    def grant(self, stream, size, connection=True):
        """Opens the window of a stream, and of the connection with it."""
        stream.receive_window += size
        pieces = [] if stream.ended else [window_update(stream.id, size)]
        if connection:
            self.receive_window += size
            pieces.append(window_update(0, size))
        return self.send(*pieces)

    def _on_headers(self, parsed):
        if "END_STREAM" in parsed.flags and "PRIORITY" in parsed.flags and parsed.depends_on == parsed.stream_id:
            raise Violation("a stream depends on itself")
        self._block = (parsed, parsed.data)
        self._block_end(parsed)

    def _on_continuation(self, parsed):
        if self._block is None or self._block[0].stream_id != parsed.stream_id:
            raise Violation(f"{parsed} without HEADERS")
        self._block = (self._block[0], self._block[1] + parsed.data)
        self._block_end(parsed)

    def _block_end(self, parsed):
        if "END_HEADERS" not in parsed.flags:
            return
        (first, block), self._block = self._block, None
        try:
            found = self.decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise Violation(f"a field block that cannot be decoded: {error!r}") from error
        fields = [tuple(map(bytes, field)) for field in found]
        stream = self._for_block(first)
        stream.never_indexed += [bytes(field[0]) for field in found if not field.indexable]
        check_fields(fields)
        self._check_head(stream, fields, "END_STREAM" in first.flags)
        stream.blocks.append(fields)
        stream.ended = "END_STREAM" in first.flags

    def _on_rststream(self, parsed):
        stream = self._stream(parsed, closed_too=True)
        stream.reset, stream.ended = parsed.error_code, True

    def _on_settings(self, parsed):
        if "ACK" in parsed.flags:
            if not self._unacked:
                raise Violation("an acknowledgement for no SETTINGS")
            self.acks += 1
            return self._own_settings(self._unacked.pop(0))
        found = dict(parsed.settings)
        for key, low, high in (
            (ENABLE_PUSH, 0, 1 if isinstance(self, Server) else 0),
            (INITIAL_WINDOW_SIZE, 0, 2**31 - 1),
            (MAX_FRAME_SIZE, FRAME, 2**24 - 1),
            (ENABLE_CONNECT_PROTOCOL, 0, 1),
        ):
            if not low <= found.get(key, low) <= high:
                raise Violation(f"SETTINGS {key}: {found[key]}")
        change = found.get(INITIAL_WINDOW_SIZE, self.peer[INITIAL_WINDOW_SIZE]) - self.peer[INITIAL_WINDOW_SIZE]
        for stream in self.streams.values():
            stream.send_window += change
        self.peer.update(found)
        if self.upkeep:
            self.send(settings(flags=ACK))
        return None

    def _own_settings(self, pairs):
        """Ours are in force at the other side."""
        self.own.update(pairs)
        if HEADER_TABLE_SIZE in pairs:
            self.decoder.max_allowed_table_size = pairs[HEADER_TABLE_SIZE]
        change = pairs.get(INITIAL_WINDOW_SIZE, self.initial_receive) - self.initial_receive
        self.initial_receive += change
        for stream in self.streams.values():
            stream.receive_window += change

    def _on_ping(self, parsed):
        if "ACK" in parsed.flags:
            self.pongs.append(parsed.opaque_data)
        elif self.upkeep:
            self.send(ping(parsed.opaque_data, ACK))

    def _on_goaway(self, parsed):
        if self.goaway and parsed.last_stream_id > self.goaway.last_stream_id:
            raise Violation("GOAWAY names a higher stream than before")
        self.goaway = parsed

    def _on_windowupdate(self, parsed):
        if parsed.window_increment == 0:
            raise Violation("WINDOW_UPDATE by 0")
        if parsed.stream_id == 0:
            self.send_window += parsed.window_increment
            widest = self.send_window
        else:
            stream = self._stream(parsed, closed_too=True)
            stream.send_window += parsed.window_increment
            widest = stream.send_window
        if widest > 2**31 - 1:
            raise Violation("WINDOW_UPDATE beyond 2^31 - 1")

    def _on_pushpromise(self, parsed):
        raise Violation(f"{parsed}: nobody allowed that")

    def pong(self, payload=b"weirpong"):
        """Whether a PING of ours comes back: all before it was dealt with."""
        self.send(ping(payload))
        return self.until(lambda: payload in self.pongs)

    def rest(self):
        """Reads to the end of the connection."""
        self.until(lambda: False)
        return self

    def close(self):
        self.sock.close()

    def __repr__(self):
        code = None if self.goaway is None else self.goaway.error_code
        return f"<{self.frames} frames, goaway={code} ended={self.ended} {list(self.streams.values())[:5]}>"


def check_fields(fields):
    """RFC 9113 8.2"""
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular:
                raise Violation(f"{name} behind regular fields")
            continue
        regular = True
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise Violation(f"the field {name!r}: {value!r}")
        if name in HOP_FIELDS or (name == b"te" and value != b"trailers"):
            raise Violation(f"{name}: {value} is for one connection of HTTP/1")
    pseudo = [name for name, _ in fields if name.startswith(b":")]
    if len(set(pseudo)) < len(pseudo):
        raise Violation(f"a pseudo-header field comes twice: {fields}")


def check_request(fields, connect_protocol):
    """RFC 9113 8.3.1, 8.5, RFC 8441 4"""
    found = dict(fields)
    pseudo = {name for name in found if name.startswith(b":")}
    connect = found.get(b":method") == b"CONNECT" and b":protocol" not in pseudo
    needed = {b":method", b":authority"} if connect else {b":method", b":scheme", b":path"}
    if not needed <= pseudo <= (needed if connect else REQUEST_PSEUDO):
        raise Violation(f"this is no head of a request: {fields}")
    if not connect and not found[b":path"].startswith(b"/") and (found[b":path"], found[b":method"]) != (b"*", b"OPTIONS"):
        raise Violation(f"the path is {found[b':path']}")
    if b":protocol" in pseudo and not connect_protocol:
        raise Violation("extended CONNECT was not offered")


class Client(Connection):
    """`start`: what is sent before SETTINGS, or in their place."""

    def __init__(self, sock, *own, start=PREFACE, bare=False):
        sock.sendall(start)
        self._bare = bare
        super().__init__(sock, own)

    def configure(self, *pairs):
        if self._bare:
            self._bare = False
            return self
        return super().configure(*pairs)

    def _new(self, number):
        self.streams[number] = Stream(number, self.initial_receive, self.peer[INITIAL_WINDOW_SIZE])
        return self.streams[number]

    def _for_block(self, parsed):
        return self._stream(parsed)

    def _check_head(self, stream, fields, last):
        pseudo = [name for name, _ in fields if name.startswith(b":")]
        if stream.fields is not None:
            if pseudo or not last:
                raise Violation(f"these are no trailers: {fields}")
            return
        status = dict(fields).get(b":status", b"")
        if pseudo != [b":status"] or not re.fullmatch(rb"[1-9][0-9][0-9]", status) or status == b"101":
            raise Violation(f"this is no head of a response: {fields}")
        if last and status.startswith(b"1"):
            raise Violation("an interim response ends the stream")

    # requests
    def open(self, fields, flags=0, number=None):
        """A stream with a request's head."""
        stream = self._new(number or max([-1, *(key for key in self.streams if key % 2)]) + 2)
        stream.method = dict(fields).get(":method")
        self.send(self.head(stream.id, fields, flags))
        return stream

    def raw(self, block, flags=END_STREAM | END_HEADERS, number=None):
        """A stream with a field block as it is."""
        stream = self._new(number or max([-1, *(key for key in self.streams if key % 2)]) + 2)
        self.send(frame(HEADERS, flags, stream.id, block))
        return stream

    def request(self, fields, body=None, trailers=None):
        stream = self.open(fields, END_STREAM if body is None and trailers is None else 0)
        if body is not None:
            self.send_body(stream, body, end=trailers is None)
        if trailers is not None:
            self.send(self.head(stream.id, trailers, END_STREAM))
        return stream

    def answer(self, stream):
        """The stream when its response is complete."""
        self.until(lambda: stream.ended)
        assert stream.ended and stream.reset in (None, NO_ERROR) and stream.status, f"no answer: {stream} {self}"
        if stream.method != "HEAD" and stream.status not in (204, 304) and stream.field("content-length"):
            assert int(stream.field("content-length")) == len(stream.body), stream
        return stream

    def ask(self, fields, **options):
        return self.answer(self.request(fields, **options))

    # what must follow
    def usable(self):
        """The connection goes on: it answers a PING and a request."""
        assert self.pong(b"goes on?"), f"the connection ended: {self}"
        stream = self.ask(get("/"))
        assert stream.status == 200, stream
        return self

    def connection_error(self, *codes, silent=False):
        """RFC 9113 5.4.1. `silent`: the end alone will do."""
        self.rest()
        assert self.goaway is not None or silent, f"no GOAWAY: {self}"
        assert self.goaway is None or self.goaway.error_code in codes, f"{self.goaway} instead of {codes}"

    def stream_error(self, stream, *codes):
        """RFC 9113 5.4.2; "An endpoint may choose to treat a stream error as a connection error" (5.4)."""
        self.until(lambda: stream.reset is not None or self.goaway)
        if stream.reset is None:
            self.connection_error(*codes)
            return
        assert stream.reset in codes, f"{stream} instead of {codes}"
        self.usable()

    def malformed(self, stream):
        """A malformed request (8.1.1) is a stream error, and may be answered before that. Returns the status."""
        self.until(lambda: stream.ended)
        if stream.status is None or stream.reset not in (None, NO_ERROR):
            self.stream_error(stream, PROTOCOL_ERROR)
        else:
            assert 400 <= stream.status < 500 or stream.status == 501, stream
            self.usable()
        return stream.status


class Server(Connection):
    """`start`: sent in the place of our SETTINGS."""

    def __init__(self, sock, *own, start=None):
        self._start = start
        sock.settimeout(TIMEOUT)
        super().__init__(sock, own)
        preface = self._read(len(PREFACE))
        if preface is None:
            raise ConnectionResetError("the end before the preface")
        if preface != PREFACE:
            raise Violation(f"no preface: {preface}")

    def configure(self, *pairs):
        if self._start is not None and self.frames == 0:
            return self.send(self._start)
        return super().configure(*pairs)

    def _for_block(self, parsed):
        number = parsed.stream_id
        if number in self.streams:
            return self._stream(parsed)
        if number % 2 == 0 or number < max(self.streams, default=0):
            raise Violation(f"a request on stream {number}")
        limit = self.own.get(MAX_CONCURRENT_STREAMS)
        active = sum(not stream.closed and stream.reset is None for stream in self.streams.values())
        if limit is not None and active >= limit:
            raise Violation(f"{active + 1} streams at a time")
        stream = self.streams[number] = Stream(number, self.initial_receive, self.peer[INITIAL_WINDOW_SIZE])
        stream.closed = False
        return stream

    def _check_head(self, stream, fields, last):
        if not stream.blocks:
            check_request(fields, self.own.get(ENABLE_CONNECT_PROTOCOL))
        elif any(name.startswith(b":") for name, _ in fields) or not last:
            raise Violation(f"these are no trailers: {fields}")

    def accept(self):
        """The next request of which nobody knows yet; None when the other side is gone."""
        if not self.until(lambda: len(self.streams) > self._accepted):
            return None
        self._accepted += 1
        return list(self.streams.values())[self._accepted - 1]

    def whole(self, stream=None):
        """A request with its body."""
        stream = stream or self.accept()
        if stream:
            self.until(lambda: stream.ended)
        return stream

    def respond(self, stream, status=200, fields=(), body=b"ok"):
        head = self.head(stream.id, [(":status", str(status)), *fields])
        return self.send(head, data(stream.id, body, END_STREAM)).done(stream)

    def done(self, stream):
        """We ended it, or reset it."""
        stream.closed = True
        return self

