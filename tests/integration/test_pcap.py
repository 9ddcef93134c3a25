# SPDX-License-Identifier: Apache-2.0
"""weir pcap annotate: captures of redirected traffic, made by tcpdump, get the original destinations as comments."""

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess

import pytest

from callers import Callers
from capture import CapturedPod, Server, probe
from mesh import Mesh, Origin, cluster, connect, service
from netns import output, wait_until
from pcapng import packets

WEIR_PORT = 15001


class Capture:
    """tcpdump in a pod, from its construction to stop()."""

    def __init__(self, network, pod, *words):
        self.path = network.folder / "in.pcap"
        self.tcpdump = pod.start(
            ["tcpdump", "-Z", "root", "-U", "--immediate-mode", "-n", "-w", self.path, *words, "tcp or udp"], ready=output("listening on")
        )

    def stop(self, payload, count):
        """The file, once the payload is in it so many times."""
        wait_until(lambda: self.path.read_bytes().count(payload) >= count, what=f"{payload} in {self.path}")
        assert self.tcpdump.stop(signal.SIGINT) == 0
        return self.path


def listed(path):
    """The packets as tcpdump lists them, which must be able to read the file."""
    done = subprocess.run(["tcpdump", "-n", "-t", "-r", path], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def near(request, network, weir, weir_proxy):
    """A client pod with a proxy, and a service that answers one line after another. Its parameter: a back end."""
    mesh = Mesh(network, weir, weir_proxy, ["--backend", getattr(request, "param", "auto")])
    server = network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        services=[service("echo.mesh", 7000, "echo", protocol="tcp")],
        clusters=[cluster("echo", [f"{server.ipv4}:7000"])],
    )

    def echo(peer):
        while data := peer.sock.recv(100):
            peer.sock.sendall(data)

    with Origin(server, 7000, echo):
        yield sidecar


class Talk:
    """An open connection to the service by its virtual IP; `far` is that address."""

    def __init__(self, near, family=4):
        self.ip = near.show("vhost", "show", "name=echo.mesh")["virtual_hosts"][0][f"vip{family}"]
        self.peer = connect(near.pod, self.ip, 7000, blocks=True)  # its bytes are in packets
        self.say()
        host, port = self.peer.sock.getsockname()[:2]
        self.near = f"[{host}]:{port}" if family == 6 else f"{host}:{port}"
        self.far = f"[{self.ip}]:7000" if family == 6 else f"{self.ip}:7000"
        [self.row] = near.connections(peer=self.near)

    def say(self):
        self.peer.sock.sendall(b"hello")
        assert self.peer.sock.recv(100) == b"hello"


def of_program(found, talk):
    """The packets of the program's connection, which it alone has the port of."""
    wanted = struct.pack("!H", int(talk.near.rpartition(":")[2]))
    return [packet for packet in found if wanted in (_ports(packet.data)[:2], _ports(packet.data)[2:])]


def to_port(packet, port):
    return _ports(packet.data)[2:] == struct.pack("!H", port)


def _ports(data):
    """The ports behind the first IP header in a frame, whatever is in front of it."""
    for offset in (14, 16, 20, 0):
        version = data[offset] >> 4 if offset < len(data) else 0
        kind = {14: data[12:14], 16: data[14:16], 20: data[0:2], 0: b""}[offset]
        if version == 4 and kind in (b"\x08\x00", b""):
            start = offset + (data[offset] & 15) * 4
            return data[start : start + 4]
        if version == 6 and kind in (b"\x86\xdd", b""):
            return data[offset + 40 : offset + 44]
    raise AssertionError(f"no IP: {data[:40].hex()}")


@pytest.mark.parametrize(
    "words, link, resolution, family, near",
    [
        (["-i", "lo"], 1, 6, 4, "nft"),
        (["-i", "any"], 276, 6, 6, "nft"),
        (["-i", "any", "-y", "LINUX_SLL", "--time-stamp-precision=nano"], 113, 9, 4, "nft"),
        (["-i", "lo"], 1, 6, 4, "ebpf"),
        (["-i", "any"], 276, 6, 6, "ebpf"),
    ],
    indirect=["near"],
)
def test_packets_of_open_connections(network, near, words, link, resolution, family):
    talk = Talk(near, family)
    capture = Capture(network, near.pod, *words)
    talk.say()
    path, out = capture.stop(b"hello", 2 if "lo" in words else 4), network.folder / "out.pcapng"
    result = json.loads(near.weir("pcap", "annotate", path, out, "-j").stdout)
    found = packets(out.read_bytes())
    assert {packet.link for packet in found} == {link} and {packet.resolution for packet in found} == {resolution}
    plain = subprocess.run(["tcpdump", "-n", "-t", "-r", path], capture_output=True, text=True, check=True).stdout
    assert listed(out) == plain.splitlines() and len(found) == len(plain.splitlines()) == result["packets"]

    ours = of_program(found, talk)
    # What goes to the proxy has its address; answers have the original one again when they can be captured.
    assert any(to_port(packet, WEIR_PORT) for packet in ours) and not any(to_port(packet, 7000) for packet in ours)
    assert result["annotated"] == len([packet for packet in found if packet.comments])
    there = f"weir: {talk.near} -> {talk.far} (echo.mesh), "
    back = f"weir: {talk.far} (echo.mesh) -> {talk.near}, "
    what = f"outbound connection {talk.row['id']}, tcp, echo.mesh:7000, cluster echo, endpoint {talk.row['endpoint']}"
    assert {tuple(packet.comments) for packet in ours} == {(there + what,), (back + what,)}
    assert result["proxy"] == "asked" and result["connection_tracking"] == "read"
    talk.peer.close()


@pytest.mark.parametrize("near", ["ebpf"], indirect=True)
@pytest.mark.parametrize("family", [4, 6])
def test_two_connections_from_one_port_to_one_place(network, near, family):
    """With eBPF only the proxy's end tells them apart."""
    far = (near.show("vhost", "show", "name=echo.mesh")["virtual_hosts"][0][f"vip{family}"], 7000)
    capture, source = Capture(network, near.pod, "-i", "lo"), ("0.0.0.0" if family == 4 else "::", 45555)
    wanted = set()
    with Callers() as callers, contextlib.ExitStack() as stack:
        for word in (b"first", b"second"):
            sock = stack.enter_context(callers.call(near.pod, far, source=source))
            sock.settimeout(None)  # its bytes are in packets
            sock.sendall(word)
            assert sock.recv(100) == word
            [number] = {row["id"] for row in near.connections()} - {number for _, number in wanted}
            wanted.add((word, number))
        path, out = capture.stop(b"second", 2), network.folder / "out.pcapng"
        near.weir("pcap", "annotate", path, out)
    told = {
        (word, int(re.search(r"outbound connection (\d+), ", packet.comments[0])[1]))
        for packet in packets(out.read_bytes())
        for word in (b"first", b"second")
        if word in packet.data and _ports(packet.data)[:2] == struct.pack("!H", 45555)
    }
    assert told == wanted


def test_saved_connections_and_pipes(network, near):
    talk = Talk(near)
    capture = Capture(network, near.pod, "-i", "lo")
    talk.say()
    saved, names = network.folder / "connections.json", network.folder / "names.json"
    saved.write_text(near.weir("conn", "show", "-j").stdout)
    names.write_text(near.weir("dns", "show", "-j").stdout)
    talk.peer.close()
    path = capture.stop(b"hello", 2)
    assert near.proxy.stop() == 0  # nobody needs to be asked any more
    words = [near.mesh.weir_path, "--socket", "/nowhere", "pcap", "annotate", "--connections", saved, "--connections", names]
    done = subprocess.run([*words, "-", "-"], stdin=open(path, "rb"), capture_output=True, check=True)
    found = packets(done.stdout)
    ours = of_program(found, talk)
    comment = f"weir: {talk.near} -> {talk.far} (echo.mesh), outbound connection {talk.row['id']}, "
    assert any(packet.comments and packet.comments[0].startswith(comment) for packet in ours)
    assert all(packet.comments for packet in ours)

    # What has been annotated can be once more, and keeps its comments.
    once, twice = network.folder / "once.pcapng", network.folder / "twice.pcapng"
    once.write_bytes(done.stdout)
    done = subprocess.run([*words, once, twice], capture_output=True, text=True, check=True)
    assert f"annotated:   {len(ours)}\n" in done.stdout
    again = of_program(packets(twice.read_bytes()), talk)
    assert [packet.comments for packet in again] == [packet.comments * 2 for packet in ours]
    assert [packet.time for packet in again] == [packet.time for packet in ours]


@pytest.mark.parametrize("family", [4, 6])
def test_connection_tracking_alone(network, weir, family):
    server = network.pod("server")
    app = CapturedPod(network, weir, "app")
    app.apply()
    target = server.ipv6 if family == 6 else server.ipv4
    capture = Capture(network, app.pod, "-i", "lo")
    assert probe(app, target, 80).startswith("outbound ")
    path, out = capture.stop(b"outbound ", 1), network.folder / "out.pcapng"
    done = app.pod.run([weir, "--socket", "/nowhere", "pcap", "annotate", path, out, "-j"])
    result = json.loads(done.stdout)
    assert "no proxy listens at /nowhere" in result["proxy"] and result["connection_tracking"] == "read"
    ours = packets(out.read_bytes())
    own, far = (app.ipv6, f"[{target}]:80") if family == 6 else (app.ipv4, f"{target}:80")
    form = re.compile(rf"weir: (.*{re.escape(own)}.*) -> {re.escape(far)}|weir: {re.escape(far)} -> (.*{re.escape(own)}.*)")
    assert len(ours) >= 4 and all(form.fullmatch(packet.comments[0]) for packet in ours)


def test_redirected_dns_queries(network, weir):
    app = CapturedPod(network, weir, "app")
    app.apply()
    capture = Capture(network, app.pod, "-i", "lo")
    assert probe(app, "10.77.0.1", 53, udp=True) == "dns"
    path, out = capture.stop(b"dns", 1), network.folder / "out.pcapng"
    app.pod.run([weir, "--socket", "/nowhere", "pcap", "annotate", path, out])
    comments = [packet.comments[0] for packet in packets(out.read_bytes())]
    assert [" -> 10.77.0.1:53" in text for text in comments] == [True, False]
    assert "weir: 10.77.0.1:53 -> " in comments[1]


def test_a_pipe_learns_of_new_connections(network, near):
    out = network.folder / "out.pcapng"
    words = [near.mesh.weir_path, "--socket", near.socket, "pcap", "annotate", "-", out]
    with near.pod.enter():
        process = subprocess.Popen(words, stdin=subprocess.PIPE)
    try:
        process.stdin.write(pcap())
        process.stdin.flush()
        wait_until(lambda: out.exists() and out.stat().st_size)  # it has asked what there is: nothing
        talk = Talk(near)
        host, port = talk.peer.sock.getsockname()
        ends = socket.inet_aton(host) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", port, WEIR_PORT)
        frame = bytes([0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0]) + ends

        def annotated():
            process.stdin.write(record(frame))
            process.stdin.flush()
            return b"weir: " in out.read_bytes()

        wait_until(annotated)
        process.stdin.close()
        assert process.wait(30) == 0
        assert packets(out.read_bytes())[-1].comments[0].startswith(f"weir: {talk.near} -> {talk.far} (echo.mesh), ")
        talk.peer.close()
    finally:
        process.kill()
        process.wait()


# --- what cannot be read ---------------------------------------------------------------------------------------------
def record(frame, order="<"):
    return struct.pack(order + "IIII", 1, 2, len(frame), len(frame)) + frame


def pcap(*frames, order="<"):
    records = b"".join(record(frame, order) for frame in frames)
    return struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records


@pytest.fixture
def annotate(weir, tmp_path):
    saved = tmp_path / "connections.json"
    saved.write_text('{"connections":[]}')

    def run(data, *words):
        (tmp_path / "in").write_bytes(data)
        return subprocess.run(
            [weir, "pcap", "annotate", "--connections", saved, tmp_path / "in", tmp_path / "out", *words],
            capture_output=True,
            text=True,
        )

    run.folder = tmp_path
    return run


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "in: the file is empty"),
        (b"\xd4\xc3", "in: offset 0: too short for a capture file"),
        (b"#!/bin/sh\n", "in: offset 0: neither pcap nor pcapng"),
        (pcap(b"E" * 20, b"E" * 20)[:-5], "in: truncated: the last packet begins at offset 60 and is cut after 31 bytes"),
        (pcap(b"E" * 20) + b"\xff" * 16, "in: offset 60: a packet of more than 16 MiB: the record is damaged"),
        (pcap()[:20], "in: offset 0: too short for a capture file"),
    ],
)
def test_bad_files_are_refused_with_the_place(annotate, data, said):
    done = annotate(data)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"weir: {annotate.folder}/{said}\n"


def test_whole_packets_of_a_cut_file_are_written(annotate):
    for order in "<>":
        assert annotate(pcap(b"first", b"second", b"third", order=order)[:-1]).returncode == 1
        found = packets((annotate.folder / "out").read_bytes())
        assert [packet.data for packet in found] == [b"first", b"second"]
        assert [packet.time for packet in found] == [1_000_002, 1_000_002]


def test_other_errors_of_the_user(annotate, weir, tmp_path):
    done = annotate(pcap(), "--proxy-ports", "0")
    assert done.returncode == 2 and "'--proxy-ports' must be at most 16 ports" in done.stderr
    (tmp_path / "same").write_bytes(pcap(b"kept"))
    words = [weir, "pcap", "annotate", tmp_path / "same", tmp_path / "same", "--connections", tmp_path / "connections.json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "input and output are the same file" in done.stderr
    assert (tmp_path / "same").read_bytes() == pcap(b"kept")
    (tmp_path / "connections.json").write_text("[1]")
    done = annotate(pcap())
    assert done.returncode == 1 and "connections.json: no JSON object" in done.stderr
