# SPDX-License-Identifier: Apache-2.0
"""A reader of pcapng files, for tests: independent of weir's own.

    for packet in packets(path.read_bytes()):
        packet.link, packet.data, packet.comments, packet.time        # time: in units of 10 ** -packet.resolution s
"""

import struct
from dataclasses import dataclass, field

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
COMMENT, RESOLUTION = 1, 9


@dataclass
class Packet:
    link: int
    resolution: int
    time: int
    data: bytes
    length: int
    comments: list = field(default_factory=list)


def _options(order, data):
    found, at = [], 0
    while at < len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            assert length == 0 and at + 4 == len(data), "something stands behind the last option"
            break
        value = data[at + 4 : at + 4 + length]
        assert len(value) == length
        found.append((code, value))
        at += 4 + (length + 3) // 4 * 4
    return found


def blocks(data):
    """(byte order, type, body) of each block."""
    at, order = 0, "<"
    while at < len(data):
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
        kind, length = struct.unpack_from(order + "II", data, at)
        assert length >= 12 and length % 4 == 0 and at + length <= len(data)
        assert struct.unpack_from(order + "I", data, at + length - 4)[0] == length
        yield order, kind, data[at + 8 : at + length - 4]
        at += length


def packets(data):
    found, interfaces = [], []
    for order, kind, body in blocks(data):
        if kind == SECTION:
            interfaces = []
        elif kind == INTERFACE:
            options = dict(_options(order, body[8:]))
            interfaces.append((struct.unpack_from(order + "H", body)[0], options.get(RESOLUTION, b"\x06")[0]))
        elif kind == PACKET:
            interface, high, low, captured, length = struct.unpack_from(order + "IIIII", body)
            options = _options(order, body[20 + (captured + 3) // 4 * 4 :])
            comments = [value.decode() for code, value in options if code == COMMENT]
            time = high << 32 | low
            found.append(Packet(*interfaces[interface], time, body[20 : 20 + captured], length, comments))
    return found
