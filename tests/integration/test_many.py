# SPDX-License-Identifier: Apache-2.0
"""Ten thousand connections through two proxies, as many at a time as open files permit: nothing of them stays."""

import resource
import selectors
import socket
import struct

import pytest

from mesh import Mesh, cluster, open_files, resident_kib, service
from netns import listening, wait_until

TOTAL = 10_000
REQUEST = b"GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


class Crowd:
    """Many connections of one thread, each of which asks once and gets a whole answer."""

    def __init__(self, pod, address, port, count):
        self.socks = []
        self.selector = selectors.DefaultSelector()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with pod.enter():
            for _ in range(count):
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.connect_ex((address, port))
                self.socks.append(sock)

    def ask(self, size):
        """Sends the request on all; waits until all have this much of an answer."""
        waiting = {sock: 0 for sock in self.socks}
        for sock in self.socks:
            self.selector.register(sock, selectors.EVENT_WRITE)
        while waiting:
            ready = self.selector.select(timeout=60)
            assert ready, f"{len(waiting)} connections wait for an answer"
            for key, events in ready:
                sock = key.fileobj
                if events & selectors.EVENT_WRITE:
                    sock.send(REQUEST)
                    self.selector.modify(sock, selectors.EVENT_READ)
                    continue
                data = sock.recv(65536)
                assert data, "closed before the answer"
                assert waiting[sock] or data.startswith(b"HTTP/1.1 200 "), data
                waiting[sock] += len(data)
                if waiting[sock] >= size:
                    assert waiting[sock] == size
                    del waiting[sock]
                    self.selector.unregister(sock)

    def close(self):
        """Every third with a reset, every third half-closed first, the others plainly."""
        for number, sock in enumerate(self.socks):
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3 == 1:
                sock.shutdown(socket.SHUT_WR)
            sock.close()
        self.selector.close()


def answer_size(pod, address, port):
    crowd = Crowd(pod, address, port, 1)
    sock = crowd.socks[0]
    sock.setblocking(True)
    sock.settimeout(30)
    sock.sendall(REQUEST)
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += sock.recv(65536)
    crowd.close()
    return len(head) + 4 + length


# As many at a time as two descriptors each permit; of TLS handshakes what a slow machine does within their deadline.
@pytest.mark.parametrize(
    "protocol, tls, at_once", [("tcp", None, 5_000), ("auto", None, 5_000), ("auto", "strict", 250)]
)
def test_ten_thousand_connections(mesh, build_dir, protocol, tls, at_once):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard >= 2 * at_once + 1_000, "the proxies need two descriptors a connection"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Idle upstream connections go at once: what is looked for is what should have gone.
    timeouts = {"pool_idle": "50ms"}
    far = mesh.sidecar(
        "server", tls=tls, workers=2, inbound=[{"port": 8080, "protocol": protocol}], timeouts=timeouts
    )
    near = mesh.sidecar(
        "client",
        tls=tls,
        workers=2,
        services=[service("web.mesh", 80, "web", protocol=protocol)],
        clusters=[cluster("web", [f"{far.ipv4}:8080"], tls="mesh" if tls else "off", connect_timeout="60s")],
        timeouts=timeouts,
    )
    far.pod.start([build_dir / "tests" / "bench_origin", "8080", "8081", "8082"], ready=listening(8080))
    vip = near.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    proxies = (near, far)

    def quiet():
        return all(not sidecar.connections() for sidecar in proxies) and all(
            sidecar.counter("upstream_connections_active") == 0 for sidecar in proxies
        )

    def round_of(count):
        crowd = Crowd(near.pod, vip, 80, count)
        crowd.ask(size)
        assert near.counter("downstream_connections_active") == count
        crowd.close()
        wait_until(quiet, timeout=60, what="all connections are gone")

    size = answer_size(near.pod, vip, 80)
    wait_until(quiet, what="the first connection is gone")

    def memory():
        return [resident_kib(sidecar.proxy.pid) for sidecar in proxies]

    files, start = [open_files(sidecar) for sidecar in proxies], memory()
    # With sanitizers, for which handshakes are dear, it takes a quarter of them to say what leaks.
    asan = "asan" in str(build_dir)
    total = TOTAL // 4 if tls and asan else TOTAL
    for _ in range(total // at_once):
        round_of(at_once)
    assert near.counter("downstream_connections_total") == total + 1
    wait_until(lambda: [open_files(sidecar) for sidecar in proxies] == files, what="the descriptors are back")
    if asan:  # whose allocator keeps what was freed; leaks are found at the end
        assert [sidecar.proxy.stop() for sidecar in proxies] == [0, 0]
        return
    # One connection of the pair costs tens of KiB while it is there: of thousands nothing is left but resumable sessions
    # and what the allocator cannot join.
    most = [before + 14 * 1024 for before in start]
    wait_until(lambda: all(map(int.__le__, memory(), most)), what=f"memory is back at {start} KiB")
    # And none of it grows with every round: what cannot be joined is sometimes more, but never more than that.
    settled = memory()
    round_of(at_once)
    limit = [max(before + 4 * 1024, bound) for before, bound in zip(settled, most)]
    wait_until(lambda: all(map(int.__le__, memory(), limit)), what=f"memory is back at {settled} KiB, {start} at first")
