# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: one function a claim. Each prints what it does and sees, and says whether the claim holds."""

import collections
import json
import math
import secrets
import subprocess
import time

import mesh
from applications import (
    BOLT_PORT,
    GRPC_PORT,
    OUTSIDE_NAME,
    OUTSIDE_PORT,
    PASSWORD,
    REVIEWS_PORT,
    UNCAPTURED_PORT,
    node,
)
from capture import contains, tls_records
from pods import Problem

REQUESTS = 200
CALLS = 20
SECRET = "secret-" + secrets.token_hex(8)
MARKER = "marker-" + secrets.token_hex(8)

# Keeps a connection with one answered request open until its input ends.
HOLD = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(f"GET / HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\nX-Secret: {sys.argv[3]}\\r\\n\\r\\n".encode())
sock.recv(65536)
print("answered", flush=True)
sys.stdin.read()
"""


class Report:
    def __init__(self, started):
        self.started = started
        self.failures = 0

    def step(self, text):
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}", flush=True)

    def command(self, text, output, lines=6):
        print(f"  $ {text}")
        shown = output.rstrip().splitlines()
        for line in shown[:lines]:
            print(f"    {line}")
        if len(shown) > lines:
            print(f"    ... {len(shown) - lines} more lines")

    def claim(self, holds, text):
        self.failures += not holds
        print(f"  {'ok  ' if holds else 'FAIL'}  {text}", flush=True)


def acceleration(report, pods):
    found = [json.loads(mesh.weir(pod, "version", "-j").stdout)["proxy"]["acceleration"] for pod in pods]
    report.claim(found == ["on"] * len(pods), "every proxy has found that acceleration works on this kernel")


def capture(report, pods, backend):
    found = {json.loads(mesh.weir(pod, "intercept", "show", "-j").stdout)["backend"] for pod in pods}
    report.claim(found == {backend}, f"connections of all pods are captured by {' and '.join(sorted(found))}")


def names(report, client):
    report.step("a name of the mesh, as any program resolves it")
    text = client.run(["getent", "ahosts", "reviews.mesh"]).stdout
    report.command("getent ahosts reviews.mesh", text)
    addresses = {line.split()[0] for line in text.splitlines()}
    both = any(a.startswith("240.240.") for a in addresses) and any(a.startswith("fd77:65:6972:") for a in addresses)
    report.claim(both, f"reviews.mesh has virtual IPs of both families: {' '.join(sorted(addresses))}")


def shares(report, client):
    report.step(f"{REQUESTS} requests to http://reviews.mesh/, each a curl of its own")
    loop = f"for i in $(seq {REQUESTS}); do curl -s --max-time 10 -H 'X-Secret: {SECRET}' http://reviews.mesh/; done"
    counts = collections.Counter(client.run(["sh", "-c", loop], timeout=120).stdout.splitlines())
    report.command("curl http://reviews.mesh/   # 200 times, sort | uniq -c", "\n".join(
        f"{count:4d} {text}" for text, count in sorted(counts.items())
    ))
    whole = sum(mesh.WEIGHTS.values())
    as_configured = set(counts) == {f"reviews {version}" for version in mesh.WEIGHTS}
    for version, weight in mesh.WEIGHTS.items():
        expected = REQUESTS * weight / whole
        deviation = math.sqrt(expected * (1 - weight / whole))
        as_configured &= abs(counts[f"reviews {version}"] - expected) <= 4.5 * deviation
    ratio = ":".join(str(weight) for weight in mesh.WEIGHTS.values())
    report.claim(as_configured and sum(counts.values()) == REQUESTS, f"answered by v1 and v2, configured {ratio}")


def both_families(report, client):
    for option, family in (("-4", "IPv4"), ("-6", "IPv6")):
        text = client.run(["curl", "-s", option, "-w", "%{remote_ip}", "http://reviews.mesh/"]).stdout
        report.claim(text.startswith("reviews v"), f"curl {option}: over {family}, to {text.split()[-1]}")


BOLT_CLIENT = node("rpc_client.js", "bolt", "bolt.mesh", BOLT_PORT, CALLS)
GRPC_CLIENT = node("grpc_client.js", f"grpc.mesh:{GRPC_PORT}", CALLS)


def _calls(report, client, words):
    """Prints how many calls each version answered. The versions, if every call was answered."""
    answers = json.loads(client.run(words).stdout)
    counts = collections.Counter(answers)
    command = " ".join(map(str, ["node", words[1].name, *words[2:]]))
    report.command(f"{command}   # counted", "\n".join(f"{n:4d} {text}" for text, n in sorted(counts.items())))
    return set(counts) if len(answers) == CALLS else set()


def bolt(report, client):
    report.step(f"Bolt: a client of sofa-rpc-node, {CALLS} calls on one connection")
    seen = _calls(report, client, BOLT_CLIENT)
    report.claim(seen == set(mesh.WEIGHTS), "each call goes its own way: v1 and v2 answer")


def grpc(report, client):
    report.step(f"gRPC: a client of grpc-js, {CALLS} calls on one connection")
    seen = _calls(report, client, GRPC_CLIENT)
    report.claim(seen == set(mesh.WEIGHTS), "each call goes its own way: v1 and v2 answer")


def redis(report, client):
    report.step("redis")
    text = client.run(["redis-cli", "-h", "redis.mesh", "ping"]).stdout
    report.command("redis-cli -h redis.mesh ping", text)
    client.run(["redis-cli", "-h", "redis.mesh", "set", "key", SECRET])
    report.claim(text == "PONG\n", "the server answers")


def _query(pod, host):
    words = ["mariadb", "-h", host, "-u", "demo", f"-p{PASSWORD}", "shop", "-N", "-e", "SELECT title FROM books"]
    started = time.monotonic()
    text = pod.run(words).stdout
    return text, 1000 * (time.monotonic() - started)


def database(report, client, data):
    report.step("MariaDB, whose server speaks first")
    times = {"db.mesh": [], data.ipv4: []}
    for _ in range(3):
        for host, pod in (("db.mesh", client), (data.ipv4, data)):
            text, milliseconds = _query(pod, host)
            times[host].append(milliseconds)
    mesh_time, direct_time = min(times["db.mesh"]), min(times[data.ipv4])
    report.command("mariadb -h db.mesh -e 'SELECT title FROM books'", text)
    report.claim(text == "The Comedy of Errors\n", "the query is answered")
    # Who waits whether the client speaks first waits for seconds; what is below one is the machine's.
    report.claim(
        mesh_time < direct_time + 1000,
        f"without delay: {mesh_time:.0f} ms for the whole client, {direct_time:.0f} ms beside the server",
    )


def identity(report, client, servers):
    report.step("a kept-alive connection, as both proxies see it")
    words = client.argv(["python3", "-c", HOLD, "reviews.mesh", "80", SECRET])
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "answered\n":
            raise Problem("http://reviews.mesh/ did not answer on a kept-alive connection")
        near = mesh.await_connection(client, direction="outbound", virtual_host="reviews.mesh:80")
        server = next(pod for pod in servers if near["cluster"] == f"reviews-{pod.name.removeprefix('reviews-')}")
        mesh.await_connection(server, direction="inbound")
        report.command("weir conn show   # in the client's pod", mesh.weir(client, "conn", "show").stdout)
        report.command(f"weir conn show   # in {server.name}", mesh.weir(server, "conn", "show").stdout)
        far = [row for row in mesh.connections(server) if row["tls"]["peer"] == mesh.TRUST + "client"]
    finally:
        holder.stdin.close()
        holder.wait()
    tls = near["upstream_tls"]
    report.claim(
        str(tls["version"]).startswith("TLSv1.") and tls["peer"] == mesh.TRUST + server.name,
        f"the client's proxy speaks {tls['version']} with {tls['peer']}",
    )
    report.claim(bool(far), f"the server's proxy knows its peer as {mesh.TRUST}client")


def upstream_name(report, client, hub):
    report.step("a name outside the mesh")
    text = client.run(["getent", "ahostsv4", OUTSIDE_NAME]).stdout
    report.command(f"getent ahostsv4 {OUTSIDE_NAME}", text)
    report.claim(text.startswith(hub.ipv4 + " "), "resolved by the name server outside")


def _raw(pod, address, port, request):
    """What a server answers to these very bytes, without its head."""
    script = (
        "import socket, sys\n"
        "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
        "sock.settimeout(10)\n"
        "sock.sendall(sys.argv[3].encode())\n"
        "head, _, body = sock.makefile('rb').read1(65536).partition(b'\\r\\n\\r\\n')\n"
        "sys.stdout.buffer.write(body)\n"
    )
    return pod.run(["python3", "-c", script, address, port, request]).stdout


def outside(report, client, hub):
    report.step("a web server outside the mesh, which answers with the bytes that it received")
    request = f"GET /x HTTP/1.1\r\nhOsT:   {OUTSIDE_NAME}\r\nX-Odd: a,b ,, c\r\nX-Marker: {MARKER}\r\n\r\n"
    expected = request.replace("\r\n", "\n")
    for port, what in ((OUTSIDE_PORT, "captured, but of no service"), (UNCAPTURED_PORT, "not captured")):
        for address, own in ((hub.ipv4, client.ipv4), (hub.ipv6, client.ipv6)):
            peer, _, received = _raw(client, address, port, request).replace("\r\n", "\n").partition("\n")
            report.claim(received == expected and peer == own, f"port {port} ({what}), {address}: passed on unchanged")
    with_proxy, without = (_seen_by_proxy(client, hub.ipv4, port) for port in (OUTSIDE_PORT, UNCAPTURED_PORT))
    report.claim(with_proxy and not without, f"the proxy saw the connection to {OUTSIDE_PORT}, not to {UNCAPTURED_PORT}")


def _seen_by_proxy(client, address, port):
    words = client.argv(["python3", "-c", HOLD, address, str(port), MARKER])
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        return any(row["destination"] == f"{address}:{port}" for row in mesh.connections(client))
    finally:
        holder.stdin.close()
        holder.wait()


def wire(report, flows):
    report.step("what was on the bridge meanwhile")
    ports = {REVIEWS_PORT, BOLT_PORT, GRPC_PORT, 6379, 3306}
    records = tls_records(flows, ports)
    families = {len(address) for flow in flows for address, port in flow if port == REVIEWS_PORT}
    text = ", ".join(f"{count} {kind}" for kind, count in records.items()) if records else "none, or other bytes"
    report.claim(bool(records) and records.get("application_data", 0) > REQUESTS, f"TLS records between pods: {text}")
    report.claim(families == {4, 16}, "over IPv4 and IPv6")
    between = _between(flows, ports)
    texts = (SECRET, "GET /", "reviews v", "example.Calls", "PONG", "The Comedy")
    plain = [text for text in texts if contains(between, text)]
    report.claim(not plain, f"no plaintext of requests or answers{': but ' + ', '.join(plain) if plain else ''}")
    report.claim(contains(flows, MARKER), "the requests to the server outside are there to be read: the capture works")


def _between(flows, ports):
    return {flow: data for flow, data in flows.items() if flow[0][1] in ports or flow[1][1] in ports}
