# SPDX-License-Identifier: Apache-2.0
"""What tests of interception itself need, without a real proxy: one that stands in for it, servers that say who was
reached, and the state of a namespace as text.

    pod = CapturedPod(network, weir, "app")        # a pod with a stand-in proxy on the ports 15001, 15006 and 15053
    pod.apply("--vips", "240.240.0.0/16")
    probe(pod, "10.77.0.3", 80)                    # "outbound 10.77.0.3:80": what answered, and for which destination
    probe(pod, "10.77.0.3", 22)                    # "direct ..." if a server with that word answered

A probe of a captured connection names the proxy's port that it came to and its original destination; of any other one
the word of the server that answered. "refused" and "unreachable" mean that nobody did."""

import contextlib
import errno
import inspect
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading

DIRECTIONS = {15001: "outbound", 15006: "inbound", 15053: "dns"}
SO_ORIGINAL_DST = 80
SO_MARK = 36
TIMEOUT = 30


def name_of(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def original_destination(sock):
    if sock.family == socket.AF_INET6:
        _, port, _, raw, _ = struct.unpack("=H2sI16sI", sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
        return name_of(socket.inet_ntop(socket.AF_INET6, raw), int.from_bytes(port, "big"))
    _, port, raw, _ = struct.unpack("=H2s4s8s", sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16))
    return name_of(socket.inet_ntop(socket.AF_INET, raw), int.from_bytes(port, "big"))


class Server:
    """Answers every connection with one line, and every datagram with one word; gone when the network is."""

    def __init__(self, pod, port, word, address="0.0.0.0", udp=False):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.word, self.peers = word, []
        with pod.enter():
            self.socket = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.socket.bind((address, port))
            if not udp:
                self.socket.listen(64)
        self.thread = threading.Thread(target=self._datagrams if udp else self._connections, daemon=True)
        self.thread.start()

    def _line(self, sock, peer):
        return f"{self.word} {name_of(*peer[:2])}"

    def _connections(self):
        with contextlib.suppress(OSError):
            while True:
                sock, peer = self.socket.accept()
                self.peers.append(peer[0])
                with sock, contextlib.suppress(OSError):
                    sock.sendall(self._line(sock, peer).encode())

    def _datagrams(self):
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.socket.recvfrom(512)
                if peer is None:  # closed
                    return
                self.peers.append(peer[0])
                # A query comes back as its own answer.
                answer = self.word.encode() if data == b"?" else data[:2] + bytes([data[2] | 0x80]) + data[3:]
                self.socket.sendto(answer, peer)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(TIMEOUT)


class StandIn(Server):
    def _line(self, sock, peer):
        return f"{self.word} {original_destination(sock)}"


def stand_in(pod):
    """All listeners of a proxy, that say which one was reached."""
    servers = []
    for loopback, everywhere in (("127.0.0.1", "0.0.0.0"), ("::1", "::")):
        servers.append(StandIn(pod, 15001, "outbound", loopback))
        servers.append(StandIn(pod, 15006, "inbound", everywhere))
        servers.append(StandIn(pod, 15053, "dns", loopback))
        servers.append(Server(pod, 15053, "dns", loopback, udp=True))
        servers.append(Server(pod, 15053, "dns", everywhere, udp=True))
    return servers


class CapturedPod:
    """A pod, the command line in it, and a stand-in proxy."""

    def __init__(self, network, weir, name, proxy=True, **options):
        self.pod, self.path = network.pod(name, **options), weir
        self.ipv4, self.ipv6 = self.pod.ipv4, self.pod.ipv6
        self.stand_in = stand_in(self.pod) if proxy else []

    def enter(self):
        return self.pod.enter()

    def weir(self, verb, *words, **options):
        return self.pod.run([self.path, "intercept", verb, *words], **options)

    def apply(self, *words):
        return self.weir("apply", *words).stdout

    def show(self):
        return json.loads(self.weir("show", "-j").stdout)

    def shown(self):
        """What is installed, without what is counted."""
        shown = self.show()
        rules = [{**rule, "packets": 0, "bytes": 0} for rule in shown["rules"]]
        return {**shown, "rules": rules}, pins_of(cookie_of(self))

    def packets(self, purpose, chain=None):
        return sum(
            rule["packets"]
            for rule in self.show()["rules"]
            if rule["purpose"] == purpose and chain in (None, rule["chain"])
        )

    def check(self):
        """The exit status, and {(check, family): (result, found)}."""
        done = self.weir("check", "-j", check=False, timeout=60)
        rows = json.loads(done.stdout)["checks"]
        return done.returncode, {(row["check"], row["family"]): (row["result"], row["found"]) for row in rows}


# --- probes ----------------------------------------------------------------------------------------------------------
def _connect(address, port, udp, mark):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", mark))
        try:
            sock.connect((address, port))
            if udp:
                sock.send(b"?")
            return sock.recv(512).decode()
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return "unreachable"
            raise


def probe(pod, address, port, udp=False, mark=0, user=None, group=None):
    """What answers a connection from the pod. As another user, or with another group, in a process of its own."""
    if user is None and group is None:
        with pod.enter():
            return _connect(address, port, udp, mark)
    # The other user may not be able to read the checkout: the source comes along.
    source = (
        f"import errno, socket, struct\nSO_MARK, TIMEOUT = {SO_MARK}, {TIMEOUT}\n"
        f"{inspect.getsource(_connect)}print(_connect({address!r}, {port}, {udp}, 0))"
    )
    inner = getattr(pod, "pod", pod)
    return inner.run([sys.executable, "-c", source], user=user, group=group).stdout.strip()


# --- the kinds of iptables -------------------------------------------------------------------------------------------
def environment(network, backend):
    """Where the programs of iptables are found by their names alone: of the kind that is asked for."""
    folder = network.folder / "bin"
    folder.mkdir()
    for name in ("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"):
        kind = "legacy" if backend == "iptables-legacy" else "nft"
        (folder / name).symlink_to(f"/usr/sbin/xtables-{kind}-multi")
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


# --- the state of a namespace ----------------------------------------------------------------------------------------
STATE = (
    ["nft", "list", "ruleset"],
    ["ip", "rule"],
    ["ip", "-6", "rule"],
    ["ip", "route", "show", "table", "all"],
    ["ip", "-6", "route", "show", "table", "all"],
    ["ip", "address"],
    ["sysctl", "-a", "--pattern", r"^net\.ipv[46]\.(conf|ip_local|tcp_)"],
)


def state(pod, words=STATE):
    """All that interception might change, as the system's own tools show it."""
    inner = getattr(pod, "pod", pod)
    return "\n".join(f"$ {' '.join(argv)}\n{inner.run(argv).stdout}" for argv in words)


# --- eBPF ------------------------------------------------------------------------------------------------------------
PINS = pathlib.Path("/sys/fs/bpf/weir")
SO_NETNS_COOKIE = 71


def cookie_of(pod):
    """What the kernel calls the pod's network namespace."""
    with pod.enter(), socket.socket() as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def is_pinned(row):
    """Of a row of `weir prog show` or `map show`: in this test process's file system, and not held by some proxy."""
    return (row["pin"] or "").startswith(f"{PINS}/")


def pins_of(cookie):
    """What stands for a captured namespace in the BPF file system."""
    return list(PINS.glob(f"*/netns-{cookie}"))


def bpftool(*words):
    return json.loads(subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True).stdout)


def header_of(pod):
    """What programs know of the pod's plan besides its rules: the plan's first cell, byte by byte."""
    cookie = cookie_of(pod)
    for path in PINS.glob("*/weir_plans"):
        for entry in bpftool("map", "dump", "pinned", path):
            key, plan = (
                int.from_bytes((int(byte, 16) for byte in entry[name]), "little") for name in ("key", "value")
            )
            if key == cookie:
                return bpftool("map", "lookup", "id", str(plan), "key", "0", "0", "0", "0")["value"]
    return None
