# SPDX-License-Identifier: Apache-2.0
"""Connections as another program would open them: in a pod, in a control group, as a user and group, with a mark.

    with Callers() as callers:
        sock = callers.call(pod, ("10.77.0.3", 80), user=1234, cgroup=path)    # a connected socket, now this process's
        sock = callers.call(pod, ("::ffff:10.77.0.3", 53), udp=True)

A process of one thread forks for each call; the child becomes what is asked for, connects, and hands the socket over. It
ends when this process does. Errors of connect() are raised here."""

import array
import json
import os
import socket
import subprocess
import sys

CLONE_NEWNET = 0x40000000
SO_MARK = 36
TIMEOUT = 10
REQUEST_MAX = 4096


class Callers:
    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel = ours

    def call(self, pod, to, **options):
        """to: as connect() takes it, a link-local address with its interface's number. options: user, group, mark, cgroup (a
        folder), udp, mptcp, device (an interface to bind to), source (an address to bind to, likewise); connect=False: not
        that."""
        pod = getattr(pod, "pod", pod)
        self.channel.send(json.dumps({"netns": f"/run/netns/{pod.netns}", "to": to, **options}).encode())
        answer, fds, _, _ = socket.recv_fds(self.channel, REQUEST_MAX, 1)
        error = json.loads(answer)
        if error:
            raise OSError(*error)
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(TIMEOUT)
        return sock

    def close(self):
        self.channel.close()
        self.process.wait(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- the process -----------------------------------------------------------------------------------------------------
def _become(request):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with open(request["netns"]) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    if request.get("cgroup"):
        with open(os.path.join(request["cgroup"], "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
    if request.get("group") is not None:
        os.setgroups([])
        os.setresgid(*[request["group"]] * 3)
    if request.get("user") is not None:
        os.setresuid(*[request["user"]] * 3)


def _connect(request):
    to = tuple(request["to"])
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    protocol = socket.IPPROTO_MPTCP if request.get("mptcp") else 0
    sock = socket.socket(family, socket.SOCK_DGRAM if request.get("udp") else socket.SOCK_STREAM, protocol)
    sock.settimeout(TIMEOUT)
    if request.get("mark"):
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, request["mark"])
    if request.get("device"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, request["device"].encode())
    if request.get("source"):
        source = request["source"]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port may be another one's as well
        sock.bind((source, 0) if isinstance(source, str) else tuple(source))
    if request.get("connect", True):
        sock.connect(to)
    return sock


def _answer(channel, request):
    try:
        _become(request)
        sock = _connect(request)
    except OSError as error:
        channel.send(json.dumps([error.errno or 0, str(error)]).encode())
        return
    descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
    channel.sendmsg([b"null"], descriptors)


def _serve(channel):
    while request := channel.recv(REQUEST_MAX):
        child = os.fork()
        if child == 0:
            try:
                _answer(channel, json.loads(request))
            finally:
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
