# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for integration tests.

A test gets a `Network` (fixture `network` in conftest.py): a bridge in a namespace of its own, with as many pods on it
as the test asks for, each a namespace with an IPv4 and an IPv6 address, a default route to the bridge and nothing else.
Every network uses the same addresses, since networks never meet: tests run in parallel.

    def test_something(network, weir_proxy):
        server = network.pod("server")                     # 10.77.0.2, fd00:77::2
        client = network.pod("client")                     # 10.77.0.3, fd00:77::3
        lonely = network.pod("lonely", default_route=False, ipv6=False)

        nginx = server.start(["nginx", "-c", conf], ready=listening(80))
        proxy = client.start([weir_proxy, "--config", path], ready=unix_socket(network.folder / "admin.sock"))
        answer = client.run(["curl", "-s", f"http://{server.ipv4}/"]).stdout
        proxy.stop()                                       # SIGTERM, then waits; returns the exit status
        with client.enter():                               # this thread's sockets are made in the pod
            connection = socket.create_connection((server.ipv4, 80))

Network
    .folder                a fresh temporary folder (pathlib.Path), world-readable, removed at the end
    .pod(name, ...)        a new Pod
    .hub                   the Pod-like namespace that holds the bridge (`br0`, addresses 10.77.0.1 and fd00:77::1): the
                           pods' default gateway, and the place for a capture of what is on the wire
    .settle()              waits until all that was sent by TCP in its namespaces has arrived; nobody may send meanwhile
    .close()               ends all processes in all its namespaces and deletes them; done by the fixture
    .logs()                the daemons' output as one text; shown by the fixture when a test fails
    .at_end                functions that are called when it is closed, before its daemons are: what they assert, each test
                           in it keeps to

Pod
    .ipv4 .ipv6            its addresses as text; None if it has none
    .name .netns           "client", and the real name of the namespace (for `ip netns exec`)
    .run(argv, ...)        runs to the end; subprocess.CompletedProcess with text output. Fails the test on a non-zero
                           exit status (check=False: not) and after `timeout` seconds (60). input=TEXT, env={...} (added),
                           user=UID, group=GID, cwd=PATH
    .start(argv, ...)      starts a Daemon; ready=CHECK waits until the check holds (or the daemon dies, or `timeout`);
                           user, group, env, cwd as above; log=PATH (default: folder/POD-PROGRAM-N.log)
    .python(code, *args)   runs Python code by `run`
    .python_start(...)     the same by `start`
    .enter()               context manager: the calling thread is in the namespace
    .link_local()          its link-local address (on eth0, or on the interface that is given)
    .resolv_conf(text)     what programs started afterwards see as /etc/resolv.conf
    .address(ip)           adds another address, "10.99.0.1/32" or "fd99::1/128", to its interface eth0
    .wait_for_ipv6(*ips)   until what goes to its addresses, which were added otherwise, gets there
    .sysctl(key, value)

Daemon
    .pid .returncode .log (path) .output() (text so far)
    .stop(signal=SIGTERM, timeout=30)   returns the exit status
    .kill()                             SIGKILL
    .wait(timeout=30)                   for its own end; returns the exit status
    .alive()

Checks for `ready`, and for `wait_until(CHECK, ...)`:
    listening(port, address=None, udp=False)     a socket listens there (in the pod, IPv4 or IPv6)
    unix_socket(path)                            something accepts connections there
    output(text)                                 the daemon printed it
    any function without arguments that returns something true

    wait_until(check, timeout=30, what="...")    polls a function until it returns something true, and returns that

Nothing outlives the tests: a helper process waits for the end of the test process, however it ends, then ends what
runs in its namespaces and deletes them. Should it be killed, too, the next run sweeps up what belongs to processes that
are gone: the names hold the number and the start time of the test process.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

RUN_NETNS = pathlib.Path("/run/netns")
ETC_NETNS = pathlib.Path("/etc/netns")
CGROUPS = tuple(map(pathlib.Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory")))
CONTROL_GROUPS, MEMORY_GROUPS = CGROUPS[1:]  # version 2 and the memory of version 1, as they are mounted here
PREFIX = "weirtest"
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


# --- the BPF file system ---------------------------------------------------------------------------------------------
CLONE_NEWNS = 0x00020000
BPF_FILES = "/sys/fs/bpf"


def own_bpf_file_system():
    """Gives this process (and those that it starts) a BPF file system of its own, as systemd mounts one for all: what is
    pinned there ends with the processes, however they end, and nobody else's pins are seen. To be called once, before
    there are other threads."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    where = ["findmnt", "--noheadings", "--output", "TARGET", "--target", BPF_FILES]
    below = subprocess.run(where, check=True, capture_output=True, text=True).stdout.split()[-1]
    subprocess.run(["mount", "--make-private", below], check=True)
    subprocess.run(["mount", "-t", "bpf", "bpf", BPF_FILES], check=True)


# --- names and cleaning up -------------------------------------------------------------------------------------------


def _start_time(pid):
    """The start time of a process in ticks since boot; None if there is none of that number."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def _own_prefix():
    return f"{PREFIX}-{os.getpid()}.{_start_time(os.getpid())}-"


def _owner_is_alive(name):
    try:
        pid, start = name.split("-")[1].split(".")
        return _start_time(int(pid)) == int(start)
    except (IndexError, ValueError):
        return True  # not one of ours


def _kill_all_in(netns):
    """Ends the processes in a namespace, except this one."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = subprocess.run(["ip", "netns", "pids", netns], capture_output=True, text=True).stdout.split()
        pids = [int(pid) for pid in found if int(pid) != os.getpid()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _delete_namespaces(names):
    for name in names:
        _kill_all_in(name)
        subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        shutil.rmtree(ETC_NETNS / name, ignore_errors=True)


def _listed(folder, prefix):
    return sorted(path.name for path in folder.glob(prefix + "*")) if folder.is_dir() else []


def remove_cgroups(prefix):
    """Folders of machines (machine.py), whose processes have been killed: they go when the last of them is gone."""
    deadline = time.monotonic() + 5
    for top in [place / name for place in CGROUPS for name in _listed(place, prefix)]:
        while top.exists() and time.monotonic() < deadline:
            for path in sorted(top.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()
            time.sleep(0.01)


def _remove_everything(prefix):
    _delete_namespaces(set(_listed(RUN_NETNS, prefix)) | set(_listed(ETC_NETNS, prefix)))
    remove_cgroups(prefix)
    for name in _listed(pathlib.Path(tempfile.gettempdir()), prefix):
        shutil.rmtree(pathlib.Path(tempfile.gettempdir()) / name, ignore_errors=True)


def sweep():
    """Removes what processes that are gone have left."""
    for folder in (RUN_NETNS, ETC_NETNS, *CGROUPS, pathlib.Path(tempfile.gettempdir())):
        for name in _listed(folder, PREFIX + "-"):
            if not _owner_is_alive(name):
                _remove_everything("-".join(name.split("-")[:2]) + "-")


def _reap():
    """The helper process: standard input ends when the test process does."""
    prefix = sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.read()
    _remove_everything(prefix)


_reaper = None


def _ensure_reaper():
    global _reaper
    if _reaper and _reaper[0] == os.getpid():
        return
    sweep()
    process = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--reap", _own_prefix()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    _reaper = (os.getpid(), process)


# --- waiting ---------------------------------------------------------------------------------------------------------


def readable(sock, seconds=0.0):
    """Whether something can be read from it, within that time. (select() knows no descriptors above 1023.)"""
    return bool(_poll(sock, select.POLLIN, seconds))


def writable(sock, seconds=0.0):
    return bool(_poll(sock, select.POLLOUT, seconds))


def _poll(sock, events, seconds):
    poll = select.poll()
    poll.register(sock, events)
    return poll.poll(seconds * 1000)


def wait_until(check, timeout=30.0, what=None):
    """Polls `check` until it returns something true, which is returned; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or getattr(check, '__doc__', None) or check}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _socket_addresses(pid, table):
    """(port, address in hexadecimal, state) of the sockets in a process's namespace."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            address, port = words[1].split(":")
            yield int(port, 16), address, words[3]


def _hex_address(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    return "".join(raw[i : i + 4][::-1].hex() for i in range(0, len(raw), 4)).upper()


def listening(port, address=None, udp=False):
    """A check: a socket listens on the port (on this address, or any)."""
    wanted = _hex_address(address) if address else None
    tables = ("udp", "udp6") if udp else ("tcp", "tcp6")
    state = "07" if udp else "0A"

    def check(daemon):
        return daemon.is_in_pod() and any(
            found == (port, found[1], state) and wanted in (None, found[1])
            for table in tables
            for found in _socket_addresses(daemon.pid, table)
        )

    check.__doc__ = f"listening on port {port}"
    check.wants_daemon = True
    return check


def unix_socket(path):
    """A check: something accepts connections on the unix socket."""

    def check():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(str(path))
            except OSError:
                return False
        return True

    check.__doc__ = f"accepting connections at {path}"
    return check


def output(text):
    """A check: the daemon printed this."""

    def check(daemon):
        return text in daemon.output()

    check.__doc__ = f"printing {text!r}"
    check.wants_daemon = True
    return check


# --- what is on its way ----------------------------------------------------------------------------------------------

ESTABLISHED, SYN_RECV, FIN_WAIT2, CLOSE_WAIT = "01", "03", "05", "08"
EPHEMERAL = 32768  # the ports from here on are those of clients
MAPPED = "0000000000000000FFFF0000"


def _tcp_rows():
    """(local, remote, state, bytes sent and not acknowledged) of the TCP sockets in this thread's namespace. An end is
    (address in hexadecimal, port); that of IPv4 is the same in both tables."""
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            ends = [(address.removeprefix(MAPPED), int(port, 16)) for address, port in (w.split(":") for w in words[1:3])]
            yield *ends, words[3], int(words[4].split(":")[0], 16)


def _arrived(rows):
    """Data and ends have, when they are acknowledged; resets, when no socket is left whose other side is gone. Addresses
    of servers are translated; those of clients are the same on both sides, and stand for their connections."""
    if any(unacknowledged or state == SYN_RECV for _, _, state, unacknowledged in rows):
        return False
    whole = [row for row in rows if row[2] in (ESTABLISHED, FIN_WAIT2, CLOSE_WAIT)]
    callers, called = ({end for end in ends if end[1] >= EPHEMERAL} for ends in ([r[0] for r in whole], [r[1] for r in whole]))
    return callers == called


# --- daemons ---------------------------------------------------------------------------------------------------------


class Daemon:
    def __init__(self, process, argv, log, netns):
        self._process = process
        self._netns = netns
        self.argv = argv
        self.log = log

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.poll()

    def alive(self):
        return self._process.poll() is None

    def is_in_pod(self):
        """Not any more in the namespace of the test process, in which others listen."""
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{self.pid}/ns/net").st_ino == os.stat(RUN_NETNS / self._netns).st_ino
        return False

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_ready(self, check, timeout):
        if getattr(check, "wants_daemon", False):
            holds = lambda: check(self)  # noqa: E731
        else:
            holds = check

        def ready_or_dead():
            return holds() or not self.alive()

        wait_until(ready_or_dead, timeout, f"{self.argv[0]} {check.__doc__}; it printed:\n{self.output()}")
        if not self.alive():
            raise AssertionError(f"{self.argv} ended with status {self.returncode}; it printed:\n{self.output()}")

    def stop(self, number=signal.SIGTERM, timeout=30.0):
        if self.alive():
            self._process.send_signal(number)
        return self.wait(timeout)

    def kill(self):
        return self.stop(signal.SIGKILL)

    def wait(self, timeout=30.0):
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv} did not end within {timeout} s; it printed:\n{self.output()}") from None


# --- pods ------------------------------------------------------------------------------------------------------------


def _ip(*lines):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


class Pod:
    def __init__(self, network, name):
        self.network = network
        self.name = name
        self.netns = f"{network.prefix}{name}"
        self.ipv4 = self.ipv6 = None
        self._started = 0
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        # No waiting for duplicate address detection: addresses can be used at once.
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link set lo up")

    def ip(self, *lines):
        """Runs lines of `ip -batch` in the namespace: pod.ip("addr add ... dev eth0", "route add ...")."""
        subprocess.run(["ip", "-n", self.netns, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)

    def sysctl(self, key, value):
        path = "/proc/sys/" + key.replace(".", "/")
        with self.enter():
            pathlib.Path(path).write_text(str(value))

    def address(self, address):
        self.ip(f"addr add {address} dev eth0" + (" nodad" if ":" in address else ""))
        if ":" in address:
            self.wait_for_ipv6(address.partition("/")[0])

    def wait_for_ipv6(self, *addresses):
        """Until the kernel takes what goes to them for this host's: a moment after they are there."""
        wanted = {f"{socket.inet_pton(socket.AF_INET6, address).hex()} 80" for address in addresses}

        def routes():
            with self.enter(), open("/proc/thread-self/net/ipv6_route") as lines:
                return {line[: 32 + 3] for line in lines}

        wait_until(lambda: routes() >= wanted, what=f"routes to {addresses}")

    def interface_index(self, name):
        with self.enter():
            return socket.if_nametoindex(name)

    def link_local(self, interface="eth0"):
        """Its link-local address on an interface, without that one's name."""
        links = json.loads(self.run(["ip", "-j", "-6", "addr", "show", "dev", interface]).stdout)
        return next(row["local"] for row in links[0]["addr_info"] if row["scope"] == "link")

    def resolv_conf(self, text):
        folder = ETC_NETNS / self.netns
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(text)

    def _argv(self, argv, user, group):
        prefix = ["ip", "netns", "exec", self.netns]
        if user is not None or group is not None:
            prefix += ["setpriv", "--clear-groups"]
            prefix += [f"--reuid={user}"] if user is not None else []
            prefix += [f"--regid={group}"] if group is not None else []
        return prefix + [str(word) for word in argv]

    def run(self, argv, check=True, timeout=60.0, input=None, user=None, group=None, env=None, cwd=None):
        done = subprocess.run(
            self._argv(argv, user, group),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{[str(word) for word in argv]} in {self.name}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def start(self, argv, ready=None, timeout=30.0, user=None, group=None, env=None, cwd=None, log=None):
        self._started += 1
        program = os.path.basename(str(argv[0]))
        log = pathlib.Path(log or self.network.folder / f"{self.name}-{program}-{self._started}.log")
        with open(log, "ab") as file:
            process = subprocess.Popen(
                self._argv(argv, user, group),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
            )
        daemon = Daemon(process, [str(word) for word in argv], log, self.netns)
        self.network.daemons.append(daemon)
        if ready:
            daemon.wait_ready(ready, timeout)
        return daemon

    def python(self, code, *args, **options):
        return self.run([sys.executable, "-c", code, *args], **options)

    def python_start(self, code, *args, **options):
        return self.start([sys.executable, "-u", "-c", code, *args], **options)

    @contextlib.contextmanager
    def enter(self):
        """The calling thread is in the namespace; its sockets stay there afterwards."""
        with open("/proc/thread-self/ns/net") as before, open(RUN_NETNS / self.netns) as namespace:
            self._set(namespace.fileno())
            try:
                yield self
            finally:
                self._set(before.fileno())

    @staticmethod
    def _set(fd):
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Network:
    _count = 0

    def __init__(self):
        _ensure_reaper()
        Network._count += 1
        self.prefix = f"{_own_prefix()}{Network._count}-"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=self.prefix))
        self.folder.chmod(0o755)
        self.pods = []
        self.daemons = []
        self.at_end = []
        self._host = 1
        self.hub = Pod(self, "hub")
        self.hub.ipv4, self.hub.ipv6 = "10.77.0.1", "fd00:77::1"
        self.hub.ip(
            "link add br0 type bridge",
            "addr add 10.77.0.1/24 dev br0",
            "addr add fd00:77::1/64 dev br0 nodad",
            "link set br0 up",
        )
        self.hub.wait_for_ipv6(self.hub.ipv6)

    def pod(self, name, ipv4=True, ipv6=True, default_route=True):
        """A new namespace on the bridge. default_route=False: it reaches its own subnet and nothing else."""
        self._host += 1
        pod = Pod(self, name)
        pod.index = self._host
        self.pods.append(pod)
        port = f"p{pod.index}"
        _ip(f"link add {port} netns {self.hub.netns} type veth peer name eth0 netns {pod.netns}")
        self.hub.ip(f"link set {port} master br0 up")
        pod.ip("link set eth0 up")
        if ipv4:
            pod.ipv4 = f"10.77.0.{pod.index}"
            pod.ip(f"addr add {pod.ipv4}/24 dev eth0", *(["route add default via 10.77.0.1"] if default_route else []))
        if ipv6:
            pod.ipv6 = f"fd00:77::{pod.index:x}"
            pod.ip(
                f"addr add {pod.ipv6}/64 dev eth0 nodad", *(["route add default via fd00:77::1"] if default_route else [])
            )
            pod.wait_for_ipv6(pod.ipv6)
        return pod

    def settle(self):
        def arrived():
            rows = []
            for pod in (self.hub, *self.pods):
                with pod.enter():
                    rows += _tcp_rows()
            return _arrived(rows)

        wait_until(arrived, what="what was sent has arrived")

    def logs(self):
        return "\n".join(f"--- {daemon.log.name}\n{daemon.output()}" for daemon in self.daemons if daemon.log.exists())

    def close(self):
        try:
            for check in self.at_end:
                check()
        finally:
            self._remove()

    def _remove(self):
        for daemon in self.daemons:
            if daemon.alive():
                daemon._process.kill()
            daemon._process.wait()
        _delete_namespaces([pod.netns for pod in self.pods] + [self.hub.netns])
        remove_cgroups(self.prefix)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


if __name__ == "__main__" and sys.argv[1:2] == ["--reap"]:
    _reap()
