# SPDX-License-Identifier: Apache-2.0
"""What was on the wire: a capture of the bridge by tcpdump, and its reading."""

import signal
import struct

from pods import WORK

PCAP = WORK / "bridge.pcap"
ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP = 0x0800, 0x86DD, 6
RECORDS = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}


class Capture:
    def __init__(self, hub):
        log = hub.folder / "tcpdump.log"
        ready = lambda: "listening on" in log.read_text()
        self._process = hub.start(
            ["tcpdump", "-i", "br0", "-Z", "root", "-U", "--immediate-mode", "-s", "0", "-w", PCAP, "tcp"], ready=ready
        )

    def stop(self):
        """{(source, destination): bytes} of all TCP connections; source and destination are (address, port)."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=10)
        segments = {}
        for frame in _frames(PCAP.read_bytes()):
            flow, sequence, payload = _segment(frame)
            if payload:
                segments.setdefault(flow, []).append((sequence, payload))
        return {flow: _assemble(pieces) for flow, pieces in segments.items()}


def _frames(data):
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def _segment(frame):
    """(flow, sequence number, payload) of an Ethernet frame; no payload if it is no TCP."""
    kind = struct.unpack_from(">H", frame, 12)[0]
    packet = frame[14:]
    if kind == ETHERTYPE_IPV4 and packet[9] == TCP:
        addresses = packet[12:16], packet[16:20]
        segment = packet[4 * (packet[0] & 15) : struct.unpack_from(">H", packet, 2)[0]]
    elif kind == ETHERTYPE_IPV6 and packet[6] == TCP:
        addresses = packet[8:24], packet[24:40]
        segment = packet[40 : 40 + struct.unpack_from(">H", packet, 4)[0]]
    else:
        return None, 0, b""
    source, destination, sequence = struct.unpack_from(">HHI", segment)
    flow = (addresses[0], source), (addresses[1], destination)
    return flow, sequence, segment[4 * (segment[12] >> 4) :]


def _assemble(pieces):
    """The bytes in order; what was sent again counts once."""
    first = pieces[0][0]
    data = bytearray()
    for sequence, payload in sorted(pieces, key=lambda piece: (piece[0] - first) & 0xFFFFFFFF):
        done = len(data) - ((sequence - first) & 0xFFFFFFFF)
        data += payload[max(done, 0) :]
    return bytes(data)


def tls_records(flows, ports):
    """{kind: how many} of the TLS records to and from these ports; None if anything there is no record."""
    counts = {}
    for (source, destination), data in flows.items():
        if source[1] not in ports and destination[1] not in ports:
            continue
        at = 0
        while at + 5 <= len(data):
            kind, version, length = struct.unpack_from(">BHH", data, at)
            if kind not in RECORDS or version >> 8 != 3:
                return None
            counts[RECORDS[kind]] = counts.get(RECORDS[kind], 0) + 1
            at += 5 + length
    return counts


def contains(flows, text):
    return any(text.encode() in data for data in flows.values())
