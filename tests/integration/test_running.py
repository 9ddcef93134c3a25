# SPDX-License-Identifier: Apache-2.0
"""The life of the proxy's process: starting as root and giving that up, readiness, draining, failing to start."""

import contextlib
import fcntl
import os
import pathlib
import pwd
import signal
import socket
import threading

import pytest

from mesh import Mesh, Origin, cluster, connect, service, serving
from nginx import answers, start_nginx
from netns import listening, output, wait_until
from web import serve

CAP_NET_RAW, CAP_NET_BIND_SERVICE = 1 << 13, 1 << 10
SANITIZER = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0"}


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def status(pid):
    """/proc/PID/status as a dict; of every thread, which must agree in what is asked for."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def threads(pid):
    return [status(f"{pid}/task/{thread}") for thread in os.listdir(f"/proc/{pid}/task")]


def own_folder(sidecar, user="nobody"):
    """The sidecar's folder belongs to the user that the proxy becomes."""
    entry = pwd.getpwnam(user)
    os.chown(sidecar.folder, entry.pw_uid, entry.pw_gid)
    return entry


# --- privileges ------------------------------------------------------------------------------------------------------


def test_root_becomes_the_user_with_one_capability(mesh):
    sidecar = mesh.sidecar(
        "one",
        start=False,
        user="nobody",
        workers=2,
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", ["10.77.0.9:80"])],
    )
    entry = own_folder(sidecar)
    sidecar.start()
    found = threads(sidecar.proxy.pid)
    assert len(found) >= 3  # the control thread and two workers
    for thread in found:
        assert set(thread["Uid"].split()) == {str(entry.pw_uid)}
        assert set(thread["Gid"].split()) == {str(entry.pw_gid)}
        assert "0" not in thread["Groups"].split()
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            assert int(thread[kind], 16) == CAP_NET_RAW, kind
        for kind in ("CapInh", "CapAmb"):
            assert int(thread[kind], 16) == 0, kind
        assert thread["NoNewPrivs"] == "1"
    # What the proxy is for still works: its connections carry the mark that spares them.
    sidecar.intercept("apply")
    with Origin(mesh.network.pod("far"), 80, lambda peer: peer.send("hello")) as origin:
        assert connect(sidecar.pod, "10.77.0.3", 80).rest() == b"hello"
    assert origin.accepted == 1
    assert sidecar.counter("passthrough_connections_total") == 1
    state = os.stat(sidecar.folder / "vips")
    assert state.st_uid == entry.pw_uid


def test_root_without_a_user_keeps_no_more(mesh):
    sidecar = mesh.sidecar("one", start=False)
    sidecar.start()
    for thread in threads(sidecar.proxy.pid):
        assert set(thread["Uid"].split()) == {"0"}
        assert {int(thread[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd")} == {CAP_NET_RAW}


def test_low_ports_keep_the_capability_for_them(mesh):
    sidecar = mesh.sidecar("one", start=False, user="nobody", intercept={"outbound": 151, "inbound": 156, "dns": 153})
    own_folder(sidecar)
    sidecar.start()
    for thread in threads(sidecar.proxy.pid):
        assert int(thread["CapEff"], 16) == CAP_NET_RAW | CAP_NET_BIND_SERVICE
    assert listening(151)(sidecar.proxy) and listening(156)(sidecar.proxy)


def test_an_ordinary_user_can_run_it(mesh):
    """Without root: no marks, which is said once, and the folders must be writable."""
    sidecar = mesh.sidecar("one", start=False, unprivileged=True)
    entry = own_folder(sidecar)
    sidecar.proxy = sidecar.pod.start(
        [mesh.weir_proxy, "--config", sidecar.config_path],
        ready=serving(sidecar.socket),
        user=entry.pw_uid,
        group=entry.pw_gid,
        env=SANITIZER,
    )
    assert sidecar.proxy.output().count("sockets cannot be marked (CAP_NET_RAW is missing)") == 1
    assert int(status(sidecar.proxy.pid)["CapEff"], 16) == 0


def test_files_that_cannot_be_read_again_are_told_of_at_the_start(mesh):
    """Root could read them; a change of them would find an ordinary user."""
    tls = mesh.certificate("one")
    sidecar = mesh.sidecar("one", tls=tls, start=False, user="nobody")
    own_folder(sidecar)
    mesh.ca.chmod(0o755)
    for name, path in tls.items():
        os.chmod(path, 0o644)
        os.chmod(os.path.dirname(path), 0o755)
    warnings = lambda: [  # noqa: E731
        line for line in sidecar.said().splitlines() if "no change of it will be taken over" in line
    ]
    sidecar.start()
    assert warnings() == []
    sidecar.proxy.stop()
    for path in (tls["private_key"], sidecar.config_path):
        os.chmod(path, 0o600)
    sidecar.start()
    assert [tls["private_key"] in line or str(sidecar.config_path) in line for line in warnings()] == [True, True]


# --- the log ---------------------------------------------------------------------------------------------------------


def test_a_log_that_nobody_reads_stops_nothing(mesh):
    """Its reader stands still, the pipe is full: what is answered is answered, and the end comes as ever."""
    server = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        start=False,
        log={"access": True},
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:80"])],
    )
    unread, written = os.pipe()
    fcntl.fcntl(written, fcntl.F_SETPIPE_SZ, 4096)
    with open(unread, "rb") as log, open(written, "wb"):
        sidecar.proxy = sidecar.pod.start(
            ["sh", "-c", 'exec "$@" 2> "$0"', f"/proc/{os.getpid()}/fd/{written}"]
            + [mesh.weir_proxy, "--config", sidecar.config_path],
            ready=serving(sidecar.socket),
            env=SANITIZER,
        )
        sidecar.intercept("apply")
        vip = sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"]
        with Origin(server, 80, serve()):
            peer = connect(sidecar.pod, vip, 80)
            for _ in range(100):
                assert peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n").response()[0] == 200
            peer.close()
            assert len(log.read1(65536)) <= 4096
            assert connect(sidecar.pod, vip, 80).send("GET / HTTP/1.0\r\n\r\n").response()[0] == 200
            sidecar.catch_up()
            assert b"lines of the log were dropped" in log.read1(65536)
        assert sidecar.proxy.stop() == 0


# --- readiness -------------------------------------------------------------------------------------------------------


class NotifySocket:
    """What the service manager hears."""

    def __init__(self, address):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.settimeout(30)

    def next(self):
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().splitlines())


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(mesh, abstract):
    path = str(mesh.network.folder / "notify")
    sidecar = mesh.sidecar("one", start=False, user="nobody")
    own_folder(sidecar)
    with sidecar.pod.enter():  # abstract names belong to a network namespace
        manager = NotifySocket("\0" + path if abstract else path)
    if not abstract:
        os.chmod(path, 0o777)  # as systemd's is
    sidecar.start(env={"NOTIFY_SOCKET": "@" + path if abstract else path})
    assert manager.next() == {"READY": "1"}
    # Ready means ready: the listeners are there.
    assert listening(15001)(sidecar.proxy) and listening(15006)(sidecar.proxy)

    before = int(float(pathlib.Path("/proc/uptime").read_text().split()[0]) * 1e6)
    sidecar.proxy._process.send_signal(signal.SIGHUP)
    reloading = manager.next()
    assert reloading.pop("RELOADING") == "1"
    after = float(pathlib.Path("/proc/uptime").read_text().split()[0]) * 1e6
    assert before - 1e6 <= int(reloading.pop("MONOTONIC_USEC")) <= after + 1e6 and not reloading
    assert manager.next() == {"READY": "1"}

    sidecar.config_path.write_text("workers: many\n")
    sidecar.proxy._process.send_signal(signal.SIGHUP)
    assert "RELOADING" in manager.next()
    assert manager.next() == {"READY": "1"}  # with the old one

    assert sidecar.proxy.stop() == 0
    assert manager.next() == {"STOPPING": "1"}
    manager.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.next()


def test_a_notify_socket_that_is_not_there_does_no_harm(mesh):
    sidecar = mesh.sidecar("one", start=False)
    sidecar.start(env={"NOTIFY_SOCKET": "/nonexistent/notify"})
    assert sidecar.proxy.stop() == 0


def test_readyz_follows_the_drain(mesh):
    """/readyz says when to send no more traffic here."""
    sidecar, held = drainable(mesh, admin_metrics="127.0.0.1:15090")
    with held:
        assert http_status(sidecar.pod, "/readyz") == 200
        sidecar.proxy._process.send_signal(signal.SIGTERM)
        wait_until(lambda: http_status(sidecar.pod, "/readyz") == 503, what="/readyz answers 503")
        assert http_status(sidecar.pod, "/healthz") == 200
    assert sidecar.proxy.wait() == 0


def http_status(pod, path):
    peer = connect(pod, "127.0.0.1", 15090)
    with contextlib.closing(peer.sock):
        return peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").response()[0]


# --- the end ---------------------------------------------------------------------------------------------------------


class Held:
    """A request under way: the origin has it, and answers when the block ends."""

    def __init__(self, mesh, sidecar, server):
        self.release = threading.Event()
        self.arrived = threading.Event()

        def handler(peer):
            peer.head()
            self.arrived.set()
            assert self.release.wait(30)
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        self.origin = Origin(server, 8080, handler)
        vip = sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"]
        self.peer = connect(sidecar.pod, vip, 80)
        self.peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert self.arrived.wait(30)

    def answered(self):
        self.release.set()
        return self.peer.response()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.release.set()
        with contextlib.suppress(OSError, AssertionError):
            self.peer.response()
        self.peer.close()


def drainable(mesh, drain="20s", workers=1, admin_metrics=None, **env):
    """A client whose request to a server is under way."""
    server = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        start=False,
        workers=workers,
        timeouts={"drain": drain},
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:8080"])],
    )
    if admin_metrics:
        sidecar.config["admin"]["metrics"] = admin_metrics
        sidecar.write(sidecar.config)
    sidecar.start(env=env)
    sidecar.intercept("apply")
    return sidecar, Held(mesh, sidecar, server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_under_way_is_finished(mesh, number, workers):
    sidecar, held = drainable(mesh, workers=workers)
    with held:
        sidecar.proxy._process.send_signal(number)
        wait_until(lambda: "msg=draining" in sidecar.proxy.output(), what="the drain begins")
        # New connections are not taken any more.
        wait_until(lambda: not listening(15001)(sidecar.proxy), what="the listener is closed")
        with pytest.raises(OSError):
            connect(sidecar.pod, "127.0.0.1", 15001)
        assert sidecar.proxy.alive()
        code, head, body = held.answered()
        assert (code, body) == (200, b"hello")
        assert "connection: close" in head.lower()
    assert sidecar.proxy.wait() == 0
    assert not os.path.exists(sidecar.socket)


def test_what_arrived_before_the_signal_is_answered(mesh):
    """Many connections that the kernel has made, but nobody has accepted, and requests on kept ones that nobody has
    read."""
    server = mesh.network.pod("server")
    start_nginx(server, answers({8080: "here"}))
    sidecar = mesh.sidecar(
        "client",
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:8080"])],
        timeouts={"drain": "1h"},
    )
    vip = sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    request = "GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n"
    kept = [connect(sidecar.pod, vip, 80).send(request) for _ in range(50)]
    for peer in kept:
        assert peer.response()[0] == 200
    with sidecar.frozen():
        for peer in kept:
            peer.send(request)
        peers = kept + [connect(sidecar.pod, vip, 80).send(request) for _ in range(400)]
        os.kill(sidecar.proxy.pid, signal.SIGTERM)
    for peer in peers:
        assert peer.response()[2] == b"here\n"
        peer.close()
    assert sidecar.proxy.wait() == 0


def test_idle_connections_do_not_hold_it_up(mesh):
    """A kept-alive connection without a request, and one in a pool: gone at once, long before the deadline."""
    sidecar, held = drainable(mesh, drain="1h")
    with held:
        assert held.answered()[0] == 200
        assert len(sidecar.connections()) == 1
        assert sidecar.proxy.stop() == 0
        assert held.peer.rest() == b""


def test_pooled_connections_to_the_application_end_with_the_proxy(mesh):
    """And nothing of them is left in memory, which the sanitizer's build says by the exit status."""
    server, client, ended = mesh.sidecar("server"), mesh.network.pod("client"), threading.Event()

    def handler(peer):
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert peer.rest() == b""
        ended.set()

    with Origin(server.pod, 8080, handler):
        peer = connect(client, server.ipv4, 8080).send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.response()[0] == 200
        peer.close()
        wait_until(lambda: not server.connections())
        assert server.counter("upstream_connections_active") == 1
        assert server.proxy.stop() == 0
        assert ended.wait(30)


def test_the_deadline_cuts_what_still_runs(mesh):
    sidecar, held = drainable(mesh, drain="100ms")
    with held:
        assert sidecar.proxy.stop() == 0
        assert "the drain deadline has passed" in sidecar.proxy.output()
        with contextlib.suppress(ConnectionResetError):
            assert held.peer.rest() == b""


@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_at_once(mesh, first, second):
    sidecar, held = drainable(mesh, drain="1h")
    with held:
        sidecar.proxy._process.send_signal(first)
        wait_until(lambda: "msg=draining" in sidecar.proxy.output(), what="the drain begins")
        assert sidecar.proxy.alive()
        assert sidecar.proxy.stop(second) == 0
        assert "ending at once" in sidecar.proxy.output()


def test_no_reload_while_ending(mesh):
    """READY after STOPPING would confuse the service manager."""
    path = str(mesh.network.folder / "notify")
    manager = NotifySocket(path)
    sidecar, held = drainable(mesh, NOTIFY_SOCKET=path)
    with held:
        assert manager.next() == {"READY": "1"}
        sidecar.proxy._process.send_signal(signal.SIGTERM)
        assert manager.next() == {"STOPPING": "1"}
        answer = sidecar.weir("config", "reload", check=False)
        assert answer.returncode == 1 and "the proxy is ending" in answer.stderr
        sidecar.proxy._process.send_signal(signal.SIGHUP)
        sidecar.weir("version")  # a turn of the loop later
        assert held.answered()[0] == 200
    assert sidecar.proxy.wait() == 0
    manager.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.next()


# --- what cannot start -----------------------------------------------------------------------------------------------


def fails(mesh, sidecar, *wrapper, **options):
    """Starts it in vain; the one line it says."""
    done = sidecar.pod.run(
        [*wrapper, mesh.weir_proxy, "--config", sidecar.config_path],
        check=False,
        env=SANITIZER,
        **options,
    )
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("time=")]
    assert len(lines) == 1 and done.stderr.endswith("\n"), done.stderr
    assert not os.path.exists(sidecar.socket)
    return lines[0]


@pytest.mark.parametrize(
    "port, kind, key",
    [(15001, "TCP", "outbound"), (15006, "TCP", "inbound"), (15053, "TCP", "dns"), (15053, "UDP", "dns")],
)
@pytest.mark.parametrize("family", [4, 6])
def test_a_port_in_use(mesh, port, kind, key, family):
    sidecar = mesh.sidecar("one", start=False)
    address = "127.0.0.1" if family == 4 else "::1"
    with sidecar.pod.enter():
        holder = socket.socket(
            socket.AF_INET if family == 4 else socket.AF_INET6,
            socket.SOCK_STREAM if kind == "TCP" else socket.SOCK_DGRAM,
        )
    with holder:
        # Not even somebody who would share it, as the workers do among themselves.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((address, port))
        if kind == "TCP":
            holder.listen()
        line = fails(mesh, sidecar)
    assert line.startswith("weir-proxy: cannot listen on ") and f":{port} ({kind}, intercept.{key})" in line
    assert line.endswith("Address already in use")


def test_a_second_proxy_takes_nothing_from_the_first(mesh):
    first = mesh.sidecar("one")
    second = mesh.sidecar("two", start=False, pod=first.pod)
    second.folder = mesh.network.folder / "second"
    config = {**first.config, "admin": {"socket": str(mesh.network.folder / "second.sock")}}
    config["dns"] = {"state": str(mesh.network.folder / "second.vips")}
    second.socket = config["admin"]["socket"]
    second.write(config)
    assert "Address already in use" in fails(mesh, second)
    # The same admin socket is refused as well, and stays with its owner.
    config["admin"] = first.config["admin"]
    second.write(config)
    done = second.pod.run([mesh.weir_proxy, "--config", second.config_path], check=False)
    assert done.returncode == 1 and "another proxy listens there" in done.stderr
    assert first.show("version")["proxy"]["pid"]


def test_metrics_address_in_use(mesh):
    sidecar = mesh.sidecar("one", start=False)
    sidecar.config["admin"]["metrics"] = "127.0.0.1:15090"
    sidecar.write(sidecar.config)
    with sidecar.pod.enter():
        holder = socket.create_server(("127.0.0.1", 15090))
    with holder:
        assert fails(mesh, sidecar) == "weir-proxy: metrics address 127.0.0.1:15090: Address already in use"


def test_an_unreadable_configuration(mesh):
    sidecar = mesh.sidecar("one", start=False)
    sidecar.config_path.unlink()
    assert fails(mesh, sidecar) == f"{sidecar.config_path}: cannot be read: No such file or directory"
    sidecar.config_path.mkdir()
    assert fails(mesh, sidecar) == f"{sidecar.config_path}: cannot be read: Is a directory"
    sidecar.config_path.rmdir()
    sidecar.config_path.write_text("{}")
    sidecar.config_path.chmod(0o600)
    assert fails(mesh, sidecar, user=65534, group=65534) == f"{sidecar.config_path}: cannot be read: Permission denied"


def test_a_missing_user(mesh):
    sidecar = mesh.sidecar("one", start=False, user="no-such-user")
    assert fails(mesh, sidecar) == "weir-proxy: user 'no-such-user' does not exist"


@pytest.mark.parametrize("capability, call", [("setgid", "setgroups"), ("setuid", "setuid")])
def test_a_missing_capability(mesh, capability, call):
    sidecar = mesh.sidecar("one", start=False, user="nobody")
    own_folder(sidecar, "root")
    line = fails(mesh, sidecar, "setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}")
    assert line == f"weir-proxy: cannot give up privileges: {call}: Operation not permitted"


def test_a_missing_capability_for_low_ports(mesh):
    sidecar = mesh.sidecar("one", start=False, intercept={"outbound": 151})
    sidecar.pod.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    line = fails(mesh, sidecar, "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    assert "127.0.0.1:151 (TCP, intercept.outbound): Permission denied" in line
    assert line.endswith("ports below 1024 need CAP_NET_BIND_SERVICE")


def test_folders_that_cannot_be_made(mesh):
    sidecar = mesh.sidecar("one", start=False)
    sidecar.config["dns"]["state"] = "/proc/weir/vips"
    sidecar.write(sidecar.config)
    line = fails(mesh, sidecar)
    assert line.startswith("weir-proxy: ") and "/proc/weir" in line
    sidecar.config["dns"]["state"] = str(sidecar.folder / "vips")
    sidecar.config["admin"]["socket"] = "/proc/weir/admin.sock"
    sidecar.write(sidecar.config)
    line = fails(mesh, sidecar)
    assert line.startswith("weir-proxy: admin socket /proc/weir/admin.sock: ")


def test_usage(weir_proxy, network):
    pod = network.pod("one")
    for words, code in (([], 2), (["--nonsense"], 2), (["--config"], 2), (["-c", "x", "y"], 2), (["--help"], 0)):
        done = pod.run([weir_proxy, *words], check=False)
        assert done.returncode == code
        assert "usage: weir-proxy --config FILE" in (done.stdout if code == 0 else done.stderr)
    assert pod.run([weir_proxy, "--version"]).stdout.startswith("weir-proxy ")


def test_sighup_before_it_serves_does_not_kill(mesh):
    """A signal that comes while it starts waits: here from its very first moment, since it is pending at exec."""
    sidecar = mesh.sidecar("one", start=False)
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    sidecar.proxy = sidecar.pod.python_start(
        code, mesh.weir_proxy, "--config", sidecar.config_path, ready=output("the configuration was applied"), env=SANITIZER
    )
    assert sidecar.proxy.stop() == 0
