# SPDX-License-Identifier: Apache-2.0
"""What is measured: processor time and memory of processes, and what the load generators say."""

import os
import pathlib
import re
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
CPUS = sorted(os.sched_getaffinity(0))
PROXY_CPU, LOAD_CPU = CPUS[0], CPUS[-1]


class Failed(Exception):
    """A measurement with errors in it: there is no figure."""


# --- processes -------------------------------------------------------------------------------------------------------


def family(pid):
    """A process and all its descendants."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_seconds(pids):
    """User and system time of processes, all threads."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pin(pids, cpus):
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), cpus)


def _rollup(pids, field):
    texts = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) for text in texts) * 1024


def pss(pids):
    """Proportional set size in bytes, when two looks in a row agree."""
    before = _rollup(pids, "Pss")
    for _ in range(20):
        time.sleep(0.2)
        now = _rollup(pids, "Pss")
        if abs(now - before) < 64 * 1024:
            break
        before = now
    return now


# --- load ------------------------------------------------------------------------------------------------------------


def _run(pod, argv, cpus, seconds):
    prefix = ["taskset", "-c", ",".join(map(str, sorted(cpus)))]
    return pod.run(prefix + [str(word) for word in argv], timeout=seconds + 30).stdout


def _milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def wrk(pod, url, connections, seconds, cpus):
    """Requests per second and p50, p99 in microseconds, over keep-alive connections."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "5s", url]
    text = _run(pod, argv, cpus, seconds)
    if "Socket errors" in text or "Non-2xx" in text:
        raise Failed(text)
    return {
        "count": int(re.search(r"(\d+) requests in", text)[1]),
        "p50": 1000 * _milliseconds(re.search(r"^ +50%\s+(\S+)", text, re.MULTILINE)[1]),
        "p99": 1000 * _milliseconds(re.search(r"^ +99%\s+(\S+)", text, re.MULTILINE)[1]),
    }


def latency(pod, tools, target, seconds, cpus):
    """p50 and p99 in microseconds, one request at a time on one connection."""
    argv = [tools / "bench_latency", target.address, target.port, target.host, seconds]
    count, p50, p99 = (int(word) for word in _run(pod, argv, cpus, seconds).split())
    return {"count": count, "p50": p50 / 1000, "p99": p99 / 1000}


def setup(pod, tools, target, seconds, cpus):
    """Connections per second that are opened one after the other, with a request on each."""
    argv = [tools / "bench_latency", target.address, target.port, target.host, seconds, "anew"]
    return {"rate": int(_run(pod, argv, cpus, seconds).split()[0]) / seconds}


def bulk(pod, tools, target, connections, seconds, cpus):
    """Bytes received."""
    argv = [tools / "bench_bulk", target.address, target.port, connections, seconds]
    return {"count": int(_run(pod, argv, cpus, seconds))}


def bolt(pod, tools, target, connections, in_flight, seconds, cpus):
    """Requests answered, and p50, p99 in microseconds."""
    argv = [tools / "bench_bolt_load", target.address, target.port, connections, in_flight, seconds]
    count, p50, p99 = (int(word) for word in _run(pod, argv, cpus, seconds).split())
    return {"count": count, "p50": p50 / 1000, "p99": p99 / 1000}


def http2(pod, tools, target, connections, streams, seconds, cpus, kind):
    """Requests answered over HTTP/2 without TLS, each of them a `get` or a `call` of gRPC."""
    argv = [tools / "bench_http2_load", target.address, target.port, target.host, connections, streams, seconds, kind]
    return {"count": int(_run(pod, argv, cpus, seconds))}


def dns(pod, target, queries, seconds, cpus):
    """Queries answered."""
    argv = ["dnsperf", "-s", target.address, "-p", target.port, "-d", queries, "-l", seconds, "-c", 16, "-q", 128]
    text = _run(pod, argv, cpus, seconds)
    completed = int(re.search(r"Queries completed:\s+(\d+)", text)[1])
    good = int((re.search(r"NOERROR (\d+)", text) or [0, 0])[1])
    if good < completed * 0.99 or not good:
        raise Failed(text)
    return {"count": completed}


def hold_connections(pod, tools, target, count):
    """Opens keep-alive connections with one request on each; the process holds them until its input is closed."""
    argv = ["ip", "netns", "exec", pod.netns, tools / "bench_idle", target.address, target.port, target.host, count]
    process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "open\n":
        process.wait()
        raise Failed(f"{count} connections could not be opened")
    return process
