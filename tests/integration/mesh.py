# SPDX-License-Identifier: Apache-2.0
"""A small mesh for integration tests: pods of a `network` that run a weir-proxy each, with capture applied.

    mesh = Mesh(network, weir, weir_proxy)
    server = mesh.sidecar("server")                         # inbound side only: its pod's ports are captured
    client = mesh.sidecar("client", services=[service("web.mesh", 80, "web")],
                          clusters=[cluster("web", [f"{server.ipv4}:8080"])])
    client.pod.run(["curl", "-s", "http://web.mesh/"])

A Sidecar has .pod (see netns.py), .proxy (the daemon), .config (the dict that was written), .weir(*words) (runs the
command line against its proxy), .show(*words) (the same with -j, parsed), .reload(config), .frozen() (a context in which
the proxy stands still: it learns of all that happens there in one turn of its loop), .stopped() (the same, where something
may be left that cannot arrive before it goes on), .catch_up() (returns when it has dealt with all that was sent to it),
.take_turn() (when its workers are through with what they were at), .said() (what it has printed by then).

With WEIR_ACCELERATION=auto in the environment every proxy whose test does not choose for itself is accelerated, and must be:
when its network goes, what it has printed has to say so. `unprivileged=True` is for a Sidecar whose proxy has not the privileges
that this takes: then it has to say that.

Scripted origins: `origin = Origin(pod, port, handler)` listens in the pod and calls handler(Peer) in a thread for every
connection; errors in handlers fail the test when the origin is closed (use `with`).
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading

from netns import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVES, ACCELERATED = "msg=serving", 'msg="acceleration is on"'
UNPRIVILEGED = "it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"  # why it is off
DEFAULT_TIMEOUT = 30.0  # of what never takes that long, on a machine that does much besides


def endpoint(address, weight=1):
    return {"address": address, "weight": weight}


def cluster(name, addresses, **keys):
    return {"name": name, "endpoints": [endpoint(address) for address in addresses], **keys}


def service(name, port, cluster_name=None, protocol="auto", routes=None, **keys):
    return {
        "name": name,
        "ports": [{"port": port, "protocol": protocol}],
        "routes": routes if routes is not None else [{"to": [{"cluster": cluster_name}]}],
        **keys,
    }


def acceleration():
    """What the configuration of a proxy has of it, if its test does not say so: in most of scripts/test's runs nothing."""
    return {"acceleration": os.environ["WEIR_ACCELERATION"]} if "WEIR_ACCELERATION" in os.environ else {}


def check_acceleration(printed, says=ACCELERATED):
    """Whether every proxy that has printed this, and came to serve, has said that of it."""
    assert printed.count(SERVES) <= printed.count(says), printed


def serving(path):
    """A check: the proxy with this admin socket serves. It listens there before, and answers only then."""

    def check():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
            sock.settimeout(DEFAULT_TIMEOUT)
            sock.connect(str(path))
            sock.sendall(b"version show plain\n")
            return sock.recv(3) == b"ok "
        return False

    check.__doc__ = f"serving, and answering at {path}"
    return check


class Sidecar:
    def __init__(self, mesh, pod, config, unprivileged=False):
        self.mesh, self.pod, self.config = mesh, pod, config
        self.ipv4, self.ipv6 = pod.ipv4, pod.ipv6
        self.folder = mesh.network.folder / f"weir-{pod.name}"
        self.folder.mkdir(exist_ok=True)
        self.config_path = self.folder / "weir.yaml"
        self.socket = str(self.folder / "admin.sock")
        config.setdefault("workers", 1)
        self.says = ""  # what its proxy has to print
        if acceleration() and "acceleration" not in config:
            config.update(acceleration())
            self.says = UNPRIVILEGED if unprivileged else ACCELERATED
            mesh.network.at_end.append(self._check_what_was_said)
        config.setdefault("admin", {"socket": self.socket})
        config.setdefault("dns", {}).setdefault("state", str(self.folder / "vips"))
        self.write(config)
        self.proxy = None

    def write(self, config):
        self.config = config
        temporary = self.config_path.with_suffix(".new")
        temporary.write_text(json.dumps(config, indent=1))
        temporary.rename(self.config_path)

    def start(self, env=None):
        self.proxy = self.pod.start(
            [self.mesh.weir_proxy, "--config", self.config_path],
            ready=serving(self.socket),
            env={"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", **(env or {})},
        )
        self.show("conn", "show")  # answered when all is up: the socket is there before the other listeners are
        assert self.says in self.proxy.output(), self.proxy.output()

    def _check_what_was_said(self):
        """By every proxy that had this configuration, however it was started."""
        for daemon in self.mesh.network.daemons:
            if str(self.config_path) in daemon.argv:
                check_acceleration(daemon.output(), self.says)

    def intercept(self, verb, *words, check=True):
        words = [*self.mesh.backend, *words] if verb == "apply" else words
        return self.pod.run(
            [self.mesh.weir_path, "intercept", verb, "--config", self.config_path, *words], check=check
        )

    def weir(self, *words, check=True):
        return self.pod.run([self.mesh.weir_path, "--socket", self.socket, *words], check=check)

    def show(self, *words):
        for _ in range(3):  # the command waits for ten seconds, and a proxy that gets little time may have much to do
            done = self.weir(*words, "-j", check=False)
            if "does not answer: Connection timed out" not in done.stderr:
                break
        assert done.returncode == 0, f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def connections(self, **wanted):
        found = self.show("conn", "show")
        rows = found["connections"] if isinstance(found, dict) else found
        return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]

    @contextlib.contextmanager
    def frozen(self):
        self.catch_up()  # otherwise it may be stopped in the middle of a turn, and go on with what comes until then
        with self.stopped():
            yield
            self.mesh.network.settle()

    @contextlib.contextmanager
    def stopped(self):
        os.kill(self.proxy.pid, signal.SIGSTOP)
        try:
            wait_until(self._stands_still)
            yield
        finally:
            os.kill(self.proxy.pid, signal.SIGCONT)

    def catch_up(self):
        self.mesh.network.settle()
        for _ in range(2):  # what is there is in no set order within a turn
            self.take_turn()

    def take_turn(self):
        """Returns when every worker has ended the turn of its loop that it was in."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(DEFAULT_TIMEOUT)
            sock.connect(self.socket)
            sock.sendall(b"conn show plain\n")  # asks each worker
            answer = sock.recv(3)
            while sock.recv(65536):
                pass
        if answer != b"ok ":
            raise ConnectionError(answer)

    def said(self):
        """What the proxy has printed. What peers have of it by now is logged."""
        with contextlib.suppress(OSError):  # it may be about to end
            self.take_turn()
        return self.proxy.output()

    def _stands_still(self):
        states = pathlib.Path(f"/proc/{self.proxy.pid}/task").glob("*/stat")
        return all(path.read_text().rpartition(")")[2].split()[0] == "T" for path in states)

    def reload(self, config):
        self.write(config)
        return self.weir("config", "reload")

    def counter(self, name):
        """The sum of a counter of `weir stats show` over its labels. What peers have of the proxy by now is counted."""
        self.take_turn()
        found = self.show("stats", "show")
        rows = found["counters"] if isinstance(found, dict) else found
        values = [row["value"] for row in rows if row["name"] in (name, "weir_" + name)]
        assert values, f"there is no counter {name}"
        return sum(values)


class Mesh:
    """`backend`: the words by which `weir intercept apply` is told how to intercept; none: as it chooses."""

    def __init__(self, network, weir, weir_proxy, backend=()):
        self.network, self.weir_path, self.weir_proxy = network, weir, weir_proxy
        self.backend = list(backend)
        self.ca = network.folder / "ca"
        self.sidecars = []

    def certificate(self, name):
        """The tls section for a workload of that name: its certificate is made on first use."""
        tool = [ROOT / "scripts" / "mesh-ca", self.ca]
        if not (self.ca / "ca.pem").exists():
            subprocess.run([*tool, "init"], check=True, capture_output=True)
        subprocess.run(
            [*tool, "issue", name, f"spiffe://mesh/ns/test/sa/{name}"], check=True, capture_output=True
        )
        folder = self.ca / name
        return {
            "certificate": str(folder / "cert.pem"),
            "private_key": str(folder / "key.pem"),
            "trust": str(folder / "ca.pem"),
        }

    def sidecar(self, name, tls=None, start=True, pod=None, unprivileged=False, **config):
        """A pod with proxy and capture. `tls`: a mode; then it has a certificate. Or the whole section."""
        if tls:
            config["tls"] = tls if isinstance(tls, dict) else {"mode": tls, **self.certificate(name)}
        sidecar = Sidecar(self, pod or self.network.pod(name), config, unprivileged)
        self.sidecars.append(sidecar)
        if start:
            sidecar.start()
            sidecar.intercept("apply")
            sidecar.pod.resolv_conf("nameserver 10.77.0.1\noptions timeout:10 attempts:1\n")
        return sidecar


class Peer:
    """A socket with the verbs that scripted conversations need."""

    def __init__(self, sock, timeout=DEFAULT_TIMEOUT):
        self.sock = sock
        self.sock.settimeout(timeout)
        self.buffer = b""

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())
        return self

    def end(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()

    def _more(self):
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def another(self):
        """Whether something follows; False at the orderly end."""
        return bool(self.buffer) or self._more()

    def read(self, count):
        """Exactly so many bytes."""
        while len(self.buffer) < count:
            assert self._more(), f"the end after {self.buffer!r}"
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def until(self, mark):
        """Up to and with the mark."""
        mark = mark if isinstance(mark, bytes) else mark.encode()
        while mark not in self.buffer:
            assert self._more(), f"the end after {self.buffer!r}"
        at = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def head(self):
        return self.until(b"\r\n\r\n").decode("latin-1")

    def rest(self):
        """All up to the orderly end."""
        while self._more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def response(self, method="GET"):
        """(status, head, body) of a response with Content-Length, or to the end."""
        head = self.head()
        status = int(head.split()[1])
        lower = head.lower()
        if method == "HEAD" or status in (204, 304) or status < 200:
            return status, head, b""
        for line in lower.split("\r\n"):
            if line.startswith("content-length:"):
                return status, head, self.read(int(line.partition(":")[2]))
            if line.startswith("transfer-encoding:"):
                return status, head, self.chunked()
        return status, head, self.rest()

    def chunked(self):
        body = b""
        while True:
            size = int(self.until(b"\r\n").split(b";")[0], 16)
            if size == 0:
                while self.until(b"\r\n") != b"\r\n":
                    pass
                return body
            body += self.read(size)
            assert self.read(2) == b"\r\n"


class Origin:
    """A scripted server in a pod."""

    def __init__(self, pod, port, handler, address="0.0.0.0", protocol=0):
        self.handler, self.errors, self.threads, self.accepted = handler, [], [], 0
        self.peers, self.closing = [], False
        with pod.enter():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self.listener = socket.socket(family, socket.SOCK_STREAM, protocol)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((address, port))
            self.listener.listen(128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _serve(self, sock):
        peer = Peer(sock)
        self.peers.append(peer)
        try:
            self.handler(peer)
        except Exception as error:  # noqa: BLE001 - reported by close()
            if not self.closing:
                self.errors.append(error)
        finally:
            peer.sock.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.closing = True
        # Pooled connections stay open for long: handlers that wait on one for a further request see its end.
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RD)
        for thread in self.threads:
            thread.join(DEFAULT_TIMEOUT + 1)
        if self.errors:
            raise self.errors[0]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.listener.close()


def connect(pod, address, port, blocks=False):
    """A client's connection from the pod. One whose socket blocks when it is made goes by TCP, whatever acceleration does."""
    with pod.enter():
        return Peer(socket.create_connection((address, port), timeout=None if blocks else DEFAULT_TIMEOUT))


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def descriptors(sidecar):
    """Of its proxy, without the connections to its admin socket: those it closes when it gets to it."""

    def asked():
        rows = pathlib.Path(f"/proc/{sidecar.proxy.pid}/net/unix").read_text().splitlines()
        return any(row.endswith(f" {sidecar.socket}") and row.split()[5] == "03" for row in rows)

    wait_until(lambda: not asked(), what="no connection to its admin socket is open")
    return {int(name) for name in os.listdir(f"/proc/{sidecar.proxy.pid}/fd")}


def open_files(sidecar):
    return len(descriptors(sidecar))
