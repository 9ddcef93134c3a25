# SPDX-License-Identifier: Apache-2.0
"""Pods: network namespaces on a bridge that has a namespace of its own, so that the machine's network is not touched.
All names begin with PREFIX and all files are in WORK: whatever happens, `clean` finds everything again."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PREFIX = "weir-demo-"
WORK = pathlib.Path("/run/weir-demo")
RUN_NETNS = pathlib.Path("/run/netns")
ETC_NETNS = pathlib.Path("/etc/netns")


class Problem(Exception):
    """The demo cannot go on; the text says why."""


def wait_until(check, what, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not (result := check()):
        if time.monotonic() > deadline:
            raise Problem(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.02)
    return result


def accepts(pod, address, port):
    """A check: something accepts TCP connections there."""

    def check():
        script = f"import socket; socket.create_connection(('{address}', {port}), 1)"
        return pod.run(["python3", "-c", script], check=False).returncode == 0

    return check


def unix_accepts(path):
    def check():
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(path))
            return True
        return False

    return check


class Pod:
    def __init__(self, name, host):
        self.name = name
        self.netns = PREFIX + name
        self.ipv4 = f"10.88.0.{host}"
        self.ipv6 = f"fd00:88::{host:x}"
        self.folder = WORK / name
        self.admin = self.folder / "admin.sock"
        self.folder.mkdir()
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        # No waiting for duplicate address detection: addresses can be used at once.
        for interfaces in ("all", "default"):
            self.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{interfaces}/accept_dad"])
        self.ip("link set lo up")

    def ip(self, *lines):
        subprocess.run(
            ["ip", "-n", self.netns, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True
        )

    def argv(self, words):
        return ["ip", "netns", "exec", self.netns, *map(str, words)]

    def run(self, words, check=True, timeout=60, input=None):
        done = subprocess.run(
            self.argv(words), capture_output=True, text=True, errors="replace", timeout=timeout, input=input
        )
        if check and done.returncode != 0:
            raise Problem(f"in {self.name}: {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        return done

    def start(self, words, ready=None, log=None):
        """A process that stays; `ready` is awaited, unless the process ends."""
        log = self.folder / f"{log or pathlib.Path(words[0]).name}.log"
        with open(log, "ab") as file:
            process = subprocess.Popen(
                self.argv(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        if ready:
            wait_until(lambda: process.poll() is not None or ready(), f"{words[0]} in {self.name} is ready ({log})")
        if process.poll() is not None:
            raise Problem(f"{words[0]} in {self.name} ended:\n{log.read_text(errors='replace')}")
        return process

    def resolver(self, address):
        folder = ETC_NETNS / self.netns
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {address}\n")


def make_bridge():
    hub = Pod("outside", 1)
    hub.ip(
        "link add br0 type bridge",
        f"addr add {hub.ipv4}/24 dev br0",
        f"addr add {hub.ipv6}/64 dev br0 nodad",
        "link set br0 up",
    )
    return hub


def make_pod(hub, name, host):
    pod = Pod(name, host)
    port = f"port{host}"
    hub.ip(f"link add {port} type veth peer name eth0 netns {pod.netns}", f"link set {port} master br0 up")
    pod.ip(
        "link set eth0 up",
        f"addr add {pod.ipv4}/24 dev eth0",
        f"addr add {pod.ipv6}/64 dev eth0 nodad",
        f"route add default via {hub.ipv4}",
        f"route add default via {hub.ipv6}",
    )
    pod.resolver(hub.ipv4)
    return pod


# --- what is there, and its removal ----------------------------------------------------------------------------------


def namespaces():
    return sorted(path.name for path in RUN_NETNS.glob(PREFIX + "*"))


def processes():
    """The processes in the demo's namespaces."""
    found = []
    for name in namespaces():
        text = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
        found += [int(word) for word in text.split()]
    return found


def files():
    return sorted(str(path) for path in [WORK, *ETC_NETNS.glob(PREFIX + "*")] if path.exists())


def traces():
    """Everything the demo has left on this machine, as texts."""
    found = [f"namespace {name}" for name in namespaces()]
    found += [f"process {pid}" for pid in processes()]
    found += [f"file {path}" for path in files()]
    return found


def clean():
    # Polite first: proxies and databases end by themselves.
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
        for pid in processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while processes() and time.monotonic() < deadline:
            time.sleep(0.02)
    for name in namespaces():
        subprocess.run(["ip", "netns", "del", name], check=False)
    for path in files():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        ETC_NETNS.rmdir()
