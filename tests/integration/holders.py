# SPDX-License-Identifier: Apache-2.0
"""Many connections that are open at once, all to one place, and both ends of each: what calls, and what accepts on the port
of a proxy in its stead. In several processes, as one may not have that many descriptors; the listener is one.

    holder = hold(pod, "10.77.0.3", 30000)     a Daemon, which holds them until it ends
    holder.output()                            "held 30000", or "held 28232 EADDRNOTAVAIL": that many, and why no more

Of each is looked at where it was going, for who called (by getpeername) and for who accepted (by SO_ORIGINAL_DST)."""

import errno
import os
import resource
import socket
import sys

from capture import name_of, original_destination
from netns import output

PROCESSES = 4
PORT, PROXY_PORT = 80, 15001
TIMEOUT = 120


def hold(pod, address, count):
    inner = getattr(pod, "pod", pod)
    return inner.start([sys.executable, "-u", os.path.abspath(__file__), address, count], ready=output("held "), timeout=TIMEOUT)


def listen(family):
    return socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", PROXY_PORT), family=family)


def allow_files(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), max(hard, count)))


def connect_and_accept(listener, address, held):
    """Whoever accepts next has this one or another process's: there is one for each that connects."""
    client = socket.socket(listener.family)
    client.connect((address, PORT))
    assert client.getpeername()[:2] == (address, PORT)
    accepted, _ = listener.accept()
    assert original_destination(accepted) == name_of(address, PORT)
    held += client, accepted


def hold_share(listener, address, count):
    """What one process has of them: their number and, if there can be no more, why."""
    held, reason = [], ""
    try:
        while len(held) < 2 * count:
            connect_and_accept(listener, address, held)
    except OSError as error:
        reason = errno.errorcode[error.errno]
    return held, f"{len(held) // 2} {reason}\n"


def main(address, count):
    listener = listen(socket.AF_INET6 if ":" in address else socket.AF_INET)
    allow_files(2 * count // PROCESSES + 100)
    (reports, report), (end, ours) = os.pipe(), os.pipe()
    for _ in range(PROCESSES):
        if not os.fork():
            os.close(ours)
            held, said = hold_share(listener, address, count // PROCESSES)
            os.write(report, said.encode())
            os.close(report)
            return os.read(end, 1)  # until the first process ends, or is ended
    os.close(report)
    with open(reports) as lines:
        rows = [line.split() for line in lines]
    print("held", sum(int(row[0]) for row in rows), *sorted({word for row in rows for word in row[1:]}))
    return os.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
