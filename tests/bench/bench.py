# SPDX-License-Identifier: Apache-2.0
"""Measures weir beside its peers: every row in one run, the programs taking turns, medians over the rounds."""

import argparse
import contextlib
import json
import resource
import statistics
import sys

import measure
import programs
from measure import CPUS, LOAD_CPU, PROXY_CPU, Failed
from programs import Direct, Haproxy, Nghttpx, Nginx, Relay, Stage, Unbound, Weir

from netns import Network

IDLE_CONNECTIONS = 8000
PROXIES = [Nginx(), Haproxy(), Weir()]
NAME_SERVERS = [Unbound(), Weir()]


def note(text):
    print(text, file=sys.stderr, flush=True)


def take_turns(options, row, measurements):
    """{program: [sample, ...]}: each round measures every program once, and begins with another one."""
    samples = {name: [] for name, _ in measurements}
    for number in range(options.rounds):
        turn = number % len(measurements)
        for name, take in measurements[turn:] + measurements[:turn]:
            try:
                samples[name].append(take())
            except Failed as failure:
                note(f"{row}: {name}: no figure: {failure}")
                continue
            figures = " ".join(f"{key}={value:.6g}" for key, value in samples[name][-1].items())
            note(f"{row} {number + 1}/{options.rounds} {name}: {figures}")
    return samples


def per_cpu_second(pids, load):
    before = measure.cpu_seconds(pids)
    sample = load()
    used = measure.cpu_seconds(pids) - before
    if pids:
        sample["per_cpu_second"] = sample["count"] / max(used, 1 / measure.TICKS)
        sample["cpu"] = used
    return sample


# --- rows ------------------------------------------------------------------------------------------------------------


def local_stages(stage, candidates):
    """Each program in a namespace with an origin and its clients."""
    for program in candidates:
        pod = stage.network.pod(program.name.lower())
        origin = stage.origin(pod)
        yield program, pod, origin, *program.local(pod, stage)


def _http(options, stage, row, candidates):
    measurements = []
    for program, pod, origin, target, pids in local_stages(stage, candidates):
        measure.pin(pids, {PROXY_CPU})
        measure.pin(origin, {LOAD_CPU})
        load = lambda pod=pod, target=target: measure.wrk(pod, target.url, 64, options.seconds, {LOAD_CPU})
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, row, measurements)


def http(options, stage):
    return _http(options, stage, "http", [Relay(), *PROXIES])


def http_uncaptured(options, stage):
    peers = [peer(captured=False) for peer in (Relay, Nginx, Haproxy)]
    return _http(options, stage, "http-uncaptured", [*peers, Weir()])


def http_accelerated(options, stage):
    return _http(options, stage, "http-accelerated", [Relay(), Nginx(), Haproxy(), Weir("auto")])


def latency(options, stage):
    measurements = []
    for program, pod, origin, target, pids in local_stages(stage, [Direct(), Relay(), *PROXIES]):
        measure.pin(pids + origin, {LOAD_CPU})
        take = lambda pod=pod, target=target: measure.latency(pod, programs.TOOLS, target, options.seconds, {LOAD_CPU})
        measurements.append((program.name, take))
    return take_turns(options, "latency", measurements)


def tcp(options, stage):
    measurements = []
    for program in [Direct(), *PROXIES]:
        pod = stage.network.pod(program.name.lower())
        measure.pin(stage.origin(pod), {LOAD_CPU})
        target, pids = program.stream(pod, stage)
        measure.pin(pids, {PROXY_CPU})
        load = lambda pod=pod, target=target: measure.bulk(
            pod, programs.TOOLS, target, 4, options.seconds, {LOAD_CPU}
        )
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "tcp", measurements)


def bolt(options, stage):
    measurements = []
    for program in [Direct(), Relay(), Haproxy(), Weir()]:
        pod = stage.network.pod(program.name.lower())
        measure.pin(stage.bolt_origin(pod), {LOAD_CPU})
        target, pids = program.bolt(pod, stage)
        measure.pin(pids, {PROXY_CPU})
        load = lambda pod=pod, target=target: measure.bolt(
            pod, programs.TOOLS, target, 16, 8, options.seconds, {LOAD_CPU}
        )
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "bolt", measurements)


def _http2(options, stage, row, origin, path="", load_words=()):
    measurements = []
    for program in [Direct(), Relay(), Nghttpx(), Haproxy(), Weir()]:
        pod = stage.network.pod(program.name.lower())
        measure.pin(origin(pod), {LOAD_CPU})
        target, pids = program.http2(pod, stage)
        measure.pin(pids, {PROXY_CPU})
        load = lambda pod=pod, url=target.url + path: measure.h2load(
            pod, url, 5, 20, options.seconds, {LOAD_CPU}, *load_words
        )
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, row, measurements)


def http2(options, stage):
    return _http2(options, stage, "http2", stage.http2_origin)


def grpc(options, stage):
    load_words = ["-d", stage.grpc_message(), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    return _http2(options, stage, "grpc", stage.grpc_origin, programs.GRPC_METHOD, load_words)


def wired(stage, program):
    near, far = (stage.network.pod(f"{program.name.lower()}-{side}") for side in ("near", "far"))
    stage.link(near, far)
    return near, far, stage.origin(far)


def inbound(options, stage):
    measurements = []
    for program in [Direct(), *PROXIES]:
        near, far, origin = wired(stage, program)
        target, pids = program.inbound(far, stage)
        measure.pin(pids, {PROXY_CPU})
        measure.pin(origin, {LOAD_CPU})
        load = lambda near=near, target=target: measure.wrk(near, target.url, 64, options.seconds, {LOAD_CPU})
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "inbound", measurements)


def pairs(stage):
    for program in PROXIES:
        near, far, origin = wired(stage, program)
        yield program, near, origin, *program.pair(near, far, stage)


def mtls(options, stage):
    measurements = []
    for program, near, _, target, first, second in pairs(stage):
        measure.pin(first, {PROXY_CPU})
        measure.pin(second, {LOAD_CPU})
        load = lambda near=near, target=target: measure.wrk(near, target.url, 64, options.seconds, set(CPUS))
        measurements.append((program.name, lambda pids=first + second, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "mtls", measurements)


def mtls_latency(options, stage):
    measurements = []
    for program, near, origin, target, first, second in pairs(stage):
        measure.pin(first + second + origin, {LOAD_CPU})
        take = lambda near=near, target=target: measure.latency(
            near, programs.TOOLS, target, options.seconds, {LOAD_CPU}
        )
        measurements.append((program.name, take))
    direct = stage.network.pod("direct")
    measure.pin(stage.origin(direct), {LOAD_CPU})
    target = Direct().local(direct, stage)[0]
    take = lambda: measure.latency(direct, programs.TOOLS, target, options.seconds, {LOAD_CPU})
    return take_turns(options, "mtls-latency", [("direct", take), *measurements])


def dns(options, stage):
    measurements = []
    for program in NAME_SERVERS:
        pod = stage.network.pod(program.name)
        target, pids = program.names(pod, stage)
        measure.pin(pids, {PROXY_CPU})
        load = lambda pod=pod, target=target: measure.dns(pod, target, stage.queries(), options.seconds, {LOAD_CPU})
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "dns", measurements)


def _memory(program, connections):
    """A fresh program, alone: its size at rest, and what each idle connection adds."""
    with Network() as network:
        stage = Stage(network) if connections else Stage(network, connections=500)
        [(_, pod, _, target, pids)] = local_stages(stage, [program])
        if connections == 0:
            return {"bytes": measure.pss(pids)}
        with contextlib.closing(measure.hold_connections(pod, programs.TOOLS, target, 64).stdin):
            before = measure.pss(pids)
        with contextlib.closing(measure.hold_connections(pod, programs.TOOLS, target, connections).stdin):
            return {"bytes": (measure.pss(pids) - before) / connections}


def rest(options, _):
    return take_turns(options, "rest", [(program.name, lambda p=program: _memory(p, 0)) for program in PROXIES])


def idle(options, _):
    take = [(program.name, lambda p=program: _memory(p, IDLE_CONNECTIONS)) for program in PROXIES]
    return take_turns(options, "idle", take)


# --- the table -------------------------------------------------------------------------------------------------------

# Row: what it is called, the figure, its unit, and whether more is better.
ROWS = {
    "http": (http, "HTTP/1.1 1 KiB, 64 connections", [("per_cpu_second", 1e3, "k requests per CPU-second", True)]),
    "http-uncaptured": (
        http_uncaptured,
        "the same, only weir behind a redirect",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "http-accelerated": (
        http_accelerated,
        "HTTP/1.1 1 KiB, only weir with acceleration",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "latency": (
        latency,
        "HTTP/1.1 1 KiB, 1 connection, one CPU",
        [("p50", 1, "p50, us", False), ("p99", 1, "p99, us", False)],
    ),
    "bolt": (
        bolt,
        "Bolt 1 KiB, 16 connections x 8 in flight",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "http2": (
        http2,
        "HTTP/2 1 KiB, 5 connections x 20 streams",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "grpc": (
        grpc,
        "gRPC, an answer of 1 KiB, 5 connections x 20 streams",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "inbound": (
        inbound,
        "HTTP/1.1 1 KiB, at the server's side",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "mtls": (
        mtls,
        "mTLS pair, HTTP/1.1 1 KiB, 64 connections",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "mtls-latency": (
        mtls_latency,
        "mTLS pair, 1 connection, one CPU",
        [("p50", 1, "p50, us", False), ("p99", 1, "p99, us", False)],
    ),
    "tcp": (tcp, "TCP passed through, 4 connections", [("per_cpu_second", 1e9, "GB per CPU-second", True)]),
    "dns": (dns, "DNS, own names, UDP", [("per_cpu_second", 1e3, "k queries per CPU-second", True)]),
    "rest": (rest, "at rest, 1 worker", [("bytes", 1 << 20, "MiB (PSS)", False)]),
    "idle": (idle, f"idle keep-alive connection, of {IDLE_CONNECTIONS}", [("bytes", 1, "bytes (PSS)", False)]),
}
COLUMNS = ["direct", "relay", "nginx", "HAProxy", "nghttpx", "unbound", "weir"]


def figure(samples, key):
    values = [sample[key] for sample in samples if key in sample]
    return statistics.median(values) if values else None


def ratio(figures, more_is_better):
    """weir against the best of the others."""
    peers = [value for name, value in figures.items() if name not in ("weir", "direct", "relay") and value is not None]
    if figures.get("weir") is None or not peers:
        return None
    return figures["weir"] / (max if more_is_better else min)(peers)


def table(results):
    lines = [["what", "unit", *COLUMNS, "weir / best peer"]]
    for name, samples in results.items():
        _, title, shown = ROWS[name]
        for key, scale, unit, more_is_better in shown:
            figures = {program: figure(taken, key) for program, taken in samples.items()}
            cells = [f"{figures[column] / scale:.4g}" if figures.get(column) is not None else "" for column in COLUMNS]
            relation = ratio(figures, more_is_better)
            lines.append([title, unit, *cells, f"{relation:.2f}" if relation is not None else ""])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def parse(argv):
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated, of {','.join(ROWS)} (default: all)", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each program is measured (5)")
    parser.add_argument("--seconds", type=int, default=3, help="how long each measurement takes (3)")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    options = parser.parse_args(argv)
    options.rows = options.rows.split(",")
    for name in options.rows:
        if name not in ROWS:
            parser.error(f"there is no row '{name}'; there are {', '.join(ROWS)}")
    return options


def main(argv):
    options = parse(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = {}
    for name in options.rows:
        with Network() as network:
            results[name] = ROWS[name][0](options, Stage(network))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
