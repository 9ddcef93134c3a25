# SPDX-License-Identifier: Apache-2.0
"""Measures weir beside its peers: every row in one run, the programs taking turns, medians over the rounds."""

import argparse
import contextlib
import functools
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
BACKENDS = {
    "nft": ["--backend", "nft"],
    "nft, tproxy": ["--backend", "nft", "--inbound-mode", "tproxy"],
    "iptables": ["--backend", "iptables"],
    "eBPF": ["--backend", "ebpf"],
}
CAPTURED = [Weir(name=name, intercept=words) for name, words in BACKENDS.items()]
ACCELERATED = [Weir("auto", f"{name}, accelerated", BACKENDS[name]) for name in ("nft", "eBPF")]
INBOUND = [*CAPTURED, *ACCELERATED]
OUTBOUND = [program for program in INBOUND if "tproxy" not in program.name]


def note(text):
    print(text, file=sys.stderr, flush=True)


def label(program):
    """Its name as that of a namespace."""
    return program.name.lower().replace(", ", "-")


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


def local_stages(stage, candidates, service="local"):
    """(program, the clients' pod, the origin, target, pids): each program in a namespace with an origin and its clients."""
    for program in candidates:
        pod = stage.network.pod(label(program))
        origin = stage.origin(pod)
        yield program, pod, origin, *getattr(program, service)(pod, stage)


def wired(stage, program):
    near, far = (stage.network.pod(f"{label(program)}-{side}") for side in ("near", "far"))
    stage.link(near, far)
    return near, far, stage.origin(far)


def wired_stages(stage, candidates, start):
    """The same, but the clients in a namespace of their own."""
    for program in candidates:
        near, far, origin = wired(stage, program)
        yield program, near, origin, *start(program, near, far)


def inbound_stages(stage, candidates, service="inbound"):
    return wired_stages(stage, candidates, lambda program, _, far: getattr(program, service)(far, stage))


def wrk(pod, target, seconds, cpus):
    return measure.wrk(pod, target.url, 64, seconds, cpus)


def bulk(pod, target, seconds, cpus):
    return measure.bulk(pod, programs.TOOLS, target, 4, seconds, cpus)


def _on_two_cpus(options, row, stages, load):
    measurements = []
    for program, pod, origin, target, pids in stages:
        measure.pin(pids, {PROXY_CPU})
        measure.pin(origin, {LOAD_CPU})
        take = functools.partial(load, pod, target, options.seconds, {LOAD_CPU})
        measurements.append((program.name, functools.partial(per_cpu_second, pids, take)))
    return take_turns(options, row, measurements)


def _on_one_cpu(options, row, stages, load):
    measurements = []
    for program, pod, origin, target, pids in stages:
        measure.pin(pids + origin, {LOAD_CPU})
        take = functools.partial(load, pod, programs.TOOLS, target, options.seconds, {LOAD_CPU})
        measurements.append((program.name, take))
    return take_turns(options, row, measurements)


def _http(options, stage, row, candidates):
    return _on_two_cpus(options, row, local_stages(stage, candidates), wrk)


def http(options, stage):
    return _http(options, stage, "http", [Relay(), *PROXIES])


def http_uncaptured(options, stage):
    peers = [peer(captured=False) for peer in (Relay, Nginx, Haproxy)]
    return _http(options, stage, "http-uncaptured", [*peers, Weir()])


def http_accelerated(options, stage):
    return _http(options, stage, "http-accelerated", [Relay(), Nginx(), Haproxy(), Weir("auto")])


def latency(options, stage):
    return _on_one_cpu(options, "latency", local_stages(stage, [Direct(), Relay(), *PROXIES]), measure.latency)


def tcp(options, stage):
    return _on_two_cpus(options, "tcp", local_stages(stage, [Direct(), *PROXIES], "stream"), bulk)


def bolt(options, stage):
    measurements = []
    for program in [Direct(), Relay(), Haproxy(), Weir()]:
        pod = stage.network.pod(label(program))
        measure.pin(stage.bolt_origin(pod), {LOAD_CPU})
        target, pids = program.bolt(pod, stage)
        measure.pin(pids, {PROXY_CPU})
        load = lambda pod=pod, target=target: measure.bolt(
            pod, programs.TOOLS, target, 16, 8, options.seconds, {LOAD_CPU}
        )
        measurements.append((program.name, lambda pids=pids, load=load: per_cpu_second(pids, load)))
    return take_turns(options, "bolt", measurements)


def http2(options, stage):
    """Requests and calls of gRPC, one right after the other, so that they can be compared though the machine drifts."""
    measurements = []
    for program in [Direct(), Relay(), Nghttpx(), Haproxy(), Weir()]:
        pod = stage.network.pod(label(program))
        measure.pin(stage.http2_origin(pod), {LOAD_CPU})
        target, pids = program.http2(pod, stage)
        measure.pin(pids, {PROXY_CPU})

        def take(pod=pod, target=target, pids=pids):
            load = functools.partial(measure.http2, pod, programs.TOOLS, target, 5, 20, options.seconds, {LOAD_CPU})
            sample = per_cpu_second(pids, lambda: load("get"))
            calls = per_cpu_second(pids, lambda: load("call"))
            if pids:
                sample["calls_per_cpu_second"] = calls["per_cpu_second"]
                sample["calls_to_requests"] = calls["per_cpu_second"] / sample["per_cpu_second"]
            return sample

        measurements.append((program.name, take))
    return take_turns(options, "http2", measurements)


def inbound(options, stage):
    return _on_two_cpus(options, "inbound", inbound_stages(stage, [Direct(), *PROXIES]), wrk)


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


# --- the back ends of interception ------------------------------------------------------------------------------------


def backend_setup(options, stage):
    return _on_one_cpu(options, "backend-setup", local_stages(stage, [Direct(), *OUTBOUND]), measure.setup)


def backend_inbound_setup(options, stage):
    return _on_one_cpu(options, "backend-inbound-setup", inbound_stages(stage, [Direct(), *INBOUND]), measure.setup)


def backend_latency(options, stage):
    return _on_one_cpu(options, "backend-latency", local_stages(stage, [Direct(), *OUTBOUND]), measure.latency)


def backend_inbound_latency(options, stage):
    return _on_one_cpu(options, "backend-inbound-latency", inbound_stages(stage, [Direct(), *INBOUND]), measure.latency)


def backend_http(options, stage):
    return _http(options, stage, "backend-http", OUTBOUND)


def backend_inbound(options, stage):
    return _on_two_cpus(options, "backend-inbound", inbound_stages(stage, INBOUND), wrk)


def backend_tcp(options, stage):
    return _on_two_cpus(options, "backend-tcp", local_stages(stage, OUTBOUND, "stream"), bulk)


def backend_inbound_tcp(options, stage):
    return _on_two_cpus(options, "backend-inbound-tcp", inbound_stages(stage, INBOUND, "inbound_stream"), bulk)


def backend_messages(options, stage):
    start = lambda program, near, far: program.passing(near, far, stage)
    return _on_two_cpus(options, "backend-messages", wired_stages(stage, OUTBOUND, start), wrk)


def backend_blocking(options, stage):
    return _on_two_cpus(options, "backend-blocking", inbound_stages(stage, INBOUND, "inbound_blocking"), wrk)


# --- the table -------------------------------------------------------------------------------------------------------

# Row: what it is called, the figure, its unit, and whether more is better.
ROWS = {
    "http": (
        http,
        "HTTP/1.1 1 KiB, 64 connections",
        [
            ("per_cpu_second", 1e3, "k requests per CPU-second", True),
            ("p50", 1e3, "p50, ms", False),
            ("p99", 1e3, "p99, ms", False),
        ],
    ),
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
        [
            ("per_cpu_second", 1e3, "k requests per CPU-second", True),
            ("calls_per_cpu_second", 1e3, "k unary calls of gRPC per CPU-second", True),
            ("calls_to_requests", 1, "the one to the other, turn by turn", True),
        ],
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
BACKEND_ROWS = {
    "backend-setup": (
        backend_setup,
        "connections opened one by one, a request on each, one CPU",
        [("rate", 1e3, "k connections per second", True)],
    ),
    "backend-inbound-setup": (
        backend_inbound_setup,
        "the same, at the server's side",
        [("rate", 1e3, "k connections per second", True)],
    ),
    "backend-latency": (
        backend_latency,
        "HTTP/1.1 1 KiB, 1 connection, one CPU",
        [("p50", 1, "p50, us", False), ("p99", 1, "p99, us", False)],
    ),
    "backend-inbound-latency": (
        backend_inbound_latency,
        "the same, at the server's side",
        [("p50", 1, "p50, us", False), ("p99", 1, "p99, us", False)],
    ),
    "backend-http": (
        backend_http,
        "HTTP/1.1 1 KiB, 64 connections",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "backend-inbound": (
        backend_inbound,
        "the same, at the server's side",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "backend-tcp": (
        backend_tcp,
        "TCP passed through, 4 connections",
        [("per_cpu_second", 1e9, "GB per CPU-second", True)],
    ),
    "backend-inbound-tcp": (
        backend_inbound_tcp,
        "the same, at the server's side",
        [("per_cpu_second", 1e9, "GB per CPU-second", True)],
    ),
    "backend-messages": (
        backend_messages,
        "HTTP/1.1 1 KiB passed through as TCP to another host, 64 connections",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True)],
    ),
    "backend-blocking": (
        backend_blocking,
        "the same, at the server's side, to a program whose sockets block",
        [("per_cpu_second", 1e3, "k requests per CPU-second", True), ("p50", 1e3, "p50, ms", False)],
    ),
}
BACKEND_COLUMNS = ["direct", *(program.name for program in INBOUND)]
ALL_ROWS = ROWS | BACKEND_ROWS


def figure(samples, key):
    values = [sample[key] for sample in samples if key in sample]
    return statistics.median(values) if values else None


def ratio(figures, more_is_better):
    """weir against the best of the others."""
    peers = [value for name, value in figures.items() if name not in ("weir", "direct", "relay") and value is not None]
    if figures.get("weir") is None or not peers:
        return None
    return figures["weir"] / (max if more_is_better else min)(peers)


def cell(value):
    """Three digits, and all of those before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def body(rows, columns, results, compared):
    for name, (_, title, shown) in rows.items():
        for key, scale, unit, more_is_better in shown if name in results else ():
            figures = {program: figure(taken, key) for program, taken in results[name].items()}
            scaled = {program: value / scale for program, value in figures.items() if value is not None}
            relation = ratio(figures, more_is_better)
            relations = ["" if relation is None else f"{relation:.2f}"] if compared else []
            yield [title, unit, *(cell(scaled.get(column)) for column in columns), *relations]
            title = ""


def table(rows, columns, results, compared=True):
    """As the README has it. compared: the last column is weir's figure beside that of its best peer."""
    head = ["what", "unit", *columns, *(["weir / best peer"] if compared else [])]
    lines = [head, ["---"] * len(head), *body(rows, columns, results, compared)]
    return "\n".join("|" + "".join(f" {text} |" if text else " |" for text in line) for line in lines)


def tables(results):
    peers = table(ROWS, COLUMNS, results) if ROWS.keys() & results else ""
    backends = table(BACKEND_ROWS, BACKEND_COLUMNS, results, compared=False) if BACKEND_ROWS.keys() & results else ""
    return "\n\n".join(filter(None, [peers, backends]))


def parse(argv):
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--rows", help=f"comma-separated, of {','.join(ALL_ROWS)} (default: all)", default=",".join(ALL_ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each program is measured (5)")
    parser.add_argument("--seconds", type=int, default=3, help="how long each measurement takes (3)")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    options = parser.parse_args(argv)
    options.rows = options.rows.split(",")
    for name in options.rows:
        if name not in ALL_ROWS:
            parser.error(f"there is no row '{name}'; there are {', '.join(ALL_ROWS)}")
    return options


def main(argv):
    options = parse(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = {}
    for name in options.rows:
        with Network() as network, programs.released(network):
            results[name] = ALL_ROWS[name][0](options, Stage(network))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    print(tables(results))


if __name__ == "__main__":
    main(sys.argv[1:])
