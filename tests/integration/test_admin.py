# SPDX-License-Identifier: Apache-2.0
"""What the proxy says of itself: the admin socket with `weir`, and the metrics."""

import grp
import json
import os
import pathlib
import re
import socket
import stat

import pytest

from mesh import DEFAULT_TIMEOUT, Mesh, Origin, cluster, connect, service
from netns import wait_until

OBJECTS = ["intercept", "dns", "vhost", "route", "cluster", "endpoint", "conn", "cert", "stats", "config", "log", "version"]
METRICS = "127.0.0.1:15090"
CLIENT_ID, SERVER_ID = "spiffe://mesh/ns/test/sa/client", "spiffe://mesh/ns/test/sa/server"


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def serve_until_closed(peer):
    peer.sock.settimeout(10 * DEFAULT_TIMEOUT)  # tests ask much in between
    while peer.another():
        peer.head()
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


class Pair:
    """client pod with proxy == mTLS ==> server pod with proxy and origin; one request done, the connection open."""

    def __init__(self, mesh):
        self.far = mesh.sidecar("server", tls="strict", inbound=[{"port": 8080}], log={"level": "debug", "access": True})
        self.near = mesh.sidecar(
            "client",
            tls="strict",
            workers=2,
            admin={"socket": str(mesh.network.folder / "weir-client" / "admin.sock"), "metrics": METRICS},
            log={"level": "debug", "access": True},
            services=[service("web.mesh", 80, "web")],
            clusters=[cluster("web", [f"{self.far.ipv4}:8080"], tls="mesh")],
        )
        self.origin = Origin(self.far.pod, 8080, serve_until_closed)
        self.vip = self.near.show("vhost", "show", "name=web.mesh")["virtual_hosts"][0]["vip4"]
        self.peer = connect(self.near.pod, self.vip, 80)
        self.request()

    def request(self):
        self.peer.send("GET /x HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
        assert self.peer.response()[2] == b"hello"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.peer.close()
        if kind is None:
            self.origin.close()


@pytest.fixture
def pair(mesh):
    with Pair(mesh) as pair:
        yield pair


# --- objects ---------------------------------------------------------------------------------------------------------


def run(sidecar, *words, check=True):
    """`intercept` works in its namespace, the others ask the proxy."""
    return sidecar.weir(*words, check=check)


def fields(value):
    """The names of all fields, wherever they stand."""
    if isinstance(value, dict):
        return set(value).union(*map(fields, value.values()))
    return set().union(*map(fields, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_shows_in_three_forms(pair, name):
    plain = run(pair.near, name, "show").stdout
    line = run(pair.near, name, "show", "-j").stdout
    pretty = run(pair.near, name, "show", "-p").stdout
    assert plain.strip() and not plain.lstrip().startswith("{")
    assert line.count("\n") == 1 and pretty.count("\n") > 1
    shown = json.loads(line)
    assert isinstance(shown, dict) and shown
    assert fields(json.loads(pretty)) == fields(shown)
    for text in (line, pretty):
        assert run(pair.near, "-j" if text is line else "-p", name, "show").stdout.count("\n") == text.count("\n")
    assert f"weir {name} show" in run(pair.near, name, "help").stdout


def test_what_the_tables_say(pair):
    near, far = pair.near, pair.far
    host = near.show("vhost", "show")["virtual_hosts"]
    assert [(row["name"], row["port"], row["protocol"], row["vip4"]) for row in host] == [("web.mesh", 80, "auto", pair.vip)]
    route = near.show("route", "show")["routes"]
    assert [(row["virtual_host"], row["to"]) for row in route] == [("web.mesh:80", [{"cluster": "web", "weight": 1}])]
    clusters = near.show("cluster", "show")["clusters"]
    assert [(row["name"], row["balance"], row["tls"], row["endpoints"]) for row in clusters] == [
        ("web", "round_robin", "mesh", 1)
    ]
    endpoints = near.show("endpoint", "show")["endpoints"]
    assert [(row["cluster"], row["address"], row["state"]) for row in endpoints] == [("web", f"{far.ipv4}:8080", "up")]
    names = near.show("dns", "show")["names"]
    assert [(row["name"], row["v4"], row["ports"]) for row in names] == [("web.mesh", pair.vip, [80])]
    certificates = near.show("cert", "show")["certificates"]
    assert [(row["role"], row["identity"]) for row in certificates] == [("workload", CLIENT_ID), ("trust", "mesh")]
    assert all(row["left_ms"] > 86_400_000 for row in certificates)
    version = near.show("version", "show")
    assert version["version"] and version["proxy"]["pid"] == str(near.proxy.pid)
    assert near.show("log", "show") == {"level": "debug"}
    explained = near.show("route", "explain", pair.vip + ":80")
    assert explained["virtual_host"] == "web.mesh:80" and explained["clusters"][0]["cluster"] == "web"
    rules = near.pod.run([pair.near.mesh.weir_path, "intercept", "show"]).stdout
    assert "15001" in rules and "15006" in rules


def test_conn_show_tells_all_of_a_connection(pair):
    [near] = pair.near.connections()
    [far] = pair.far.connections()
    host, port = pair.peer.sock.getsockname()
    assert near["direction"] == "outbound" and far["direction"] == "inbound"
    assert near["peer"] == f"{host}:{port}"
    assert near["destination"] == f"{pair.vip}:80"
    assert near["virtual_host"] == "web.mesh:80" and near["cluster"] == "web"
    assert near["endpoint"] == f"{pair.far.ipv4}:8080" == far["destination"]
    assert far["peer"].startswith(pair.near.ipv4 + ":")
    assert near["protocol"] == far["protocol"] == "http1"
    assert near["tls"] == {"version": None, "peer": None}
    assert near["upstream_tls"] == {"version": "TLSv1.3", "peer": SERVER_ID}
    assert far["tls"] == {"version": "TLSv1.3", "peer": CLIENT_ID}
    assert far["upstream_tls"] == {"version": None, "peer": None}
    request = len("GET /x HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
    for row in (near, far):
        assert row["requests"] == 1
        assert row["received"] >= request - 8 and row["sent"] > len("hello")
        assert 0 <= row["age_ms"] < 600_000
    assert near["received"] == request
    pair.request()
    [again] = pair.near.connections()
    assert again["requests"] == 2 and again["received"] == 2 * request and again["id"] == near["id"]
    assert again["age_ms"] >= near["age_ms"]
    # The filters.
    for words, count in ((["direction=outbound"], 1), (["direction=inbound"], 0), (["cluster=web"], 1), (["peer=192.0.2.1"], 0)):
        assert len(pair.near.show("conn", "show", *words)["connections"]) == count
    # And its end.
    pair.near.weir("conn", "kill", str(near["id"]))
    with pytest.raises(ConnectionResetError):
        pair.peer.sock.recv(1)
    assert wait_until(lambda: not pair.near.connections(), what="it is gone") is True
    answer = pair.near.weir("conn", "kill", str(near["id"]), check=False)
    assert answer.returncode == 1 and f"there is no connection {near['id']}" in answer.stderr


def test_changing_the_log_level(pair):
    assert pair.near.weir("log", "level", "error", "-j").stdout == '{"level":"error"}\n'
    before = pair.near.proxy.output()
    pair.request()
    assert pair.near.proxy.output() == before
    pair.near.weir("log", "level", "debug")
    assert pair.near.weir("log", "level", "loud", check=False).returncode == 2


def test_an_endpoint_that_refuses_is_down(pair):
    config = {**pair.near.config, "clusters": [cluster("web", [f"{pair.far.ipv4}:8080", "10.77.0.1:9"])]}
    config["clusters"][0]["tls"] = "off"
    config["workers"] = 2
    pair.near.reload(config)

    def down():
        peer = connect(pair.near.pod, pair.vip, 80)
        peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\nConnection: close\r\n\r\n").rest()
        return any(row["workers_down"] for row in pair.near.show("endpoint", "show", "cluster=web")["endpoints"])

    wait_until(down, what="an endpoint is avoided")
    rows = {row["address"]: row for row in pair.near.show("endpoint", "show")["endpoints"]}
    assert rows["10.77.0.1:9"]["workers_down"] >= 1 and rows["10.77.0.1:9"]["down_for_ms"] > 0


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_the_socket_and_who_may_use_it(mesh):
    """Mode 0660, and the peer's credentials count even if somebody opens the mode."""
    gid = grp.getgrnam("games").gr_gid
    sidecar = mesh.sidecar("one", start=False, user="nobody")
    os.chown(sidecar.folder, 65534, 65534)
    sidecar.config["admin"]["group"] = "games"
    sidecar.write(sidecar.config)
    sidecar.start()
    info = os.stat(sidecar.socket)
    assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) == 0o660
    assert (info.st_uid, info.st_gid) == (65534, gid)
    sidecar.folder.chmod(0o755)

    def ask(**who):
        return sidecar.pod.run([mesh.weir_path, "--socket", sidecar.socket, "version", "-j"], check=False, **who)

    def show(**who):
        return sidecar.pod.run([mesh.weir_path, "--socket", sidecar.socket, "conn", "show"], check=False, **who)

    stranger = {"user": 33, "group": 33}
    answer = show(**stranger)
    assert answer.returncode == 1 and "cannot connect to" in answer.stderr and "Permission denied" in answer.stderr
    os.chmod(sidecar.socket, 0o666)
    answer = show(**stranger)
    assert answer.returncode == 1 and answer.stdout == ""
    assert "permission denied: you are neither root" in answer.stderr
    # Its reload is refused, too: nothing was done.
    refused = sidecar.pod.run([mesh.weir_path, "--socket", sidecar.socket, "config", "reload"], check=False, **stranger)
    assert refused.returncode == 1 and sidecar.counter("config_reloads_total") == 0
    for friend in ({}, {"user": 65534, "group": 65534}, {"user": 33, "group": gid}):
        assert show(**friend).returncode == 0, friend
    assert json.loads(ask().stdout)["proxy"]["pid"] == str(sidecar.proxy.pid)
    # A member by a supplementary group.
    words = ["setpriv", "--reuid=33", "--regid=33", f"--groups={gid}", mesh.weir_path, "--socket", sidecar.socket]
    assert sidecar.pod.run([*words, "conn", "show"]).returncode == 0


# --- hostile requests ------------------------------------------------------------------------------------------------


def talk(sidecar, data, end=True):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(sidecar.socket)
        try:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass  # it has answered already
        answer = b""
        while True:
            try:
                more = sock.recv(65536)
            except ConnectionResetError:
                return answer
            if not more:
                return answer
            answer += more


@pytest.mark.parametrize(
    "data, answer",
    [
        (b"\n", b"the request is malformed"),
        (b"conn\n", b"the request is malformed"),
        (b"conn show\n", b"the request is malformed"),
        (b"conn show xml\n", b"the request is malformed"),
        (b"conn  show json\n", b"the request is malformed"),
        (b"conn show json direction\n", b"the request is malformed"),
        (b"conn show json =x\n", b"the request is malformed"),
        (b"conn show json peer=%zz\n", b"the request is malformed"),
        (b"conn show json peer=%4\n", b"the request is malformed"),
        (b"conn show json\r\n", b"the request is malformed"),
        (b"conn show json\0\n", b"the request is malformed"),
        (b"\xff\xfe show json\n", b"the request is malformed"),
        (b"GET / HTTP/1.1\n", b"the request is malformed"),
        (b"conn show json nonsense=1\n", b"knows no 'nonsense'"),
        (b"conn show json direction=up\n", b"must be one of inbound|outbound"),
        (b"conn show json peer=%00%ff\n", b"'peer' must be an IP address"),
        (b"conn kill json\n", b"'id' is missing"),
        (b"conn kill json id=99999999999999999999999\n", b"'id' must be a number"),
        (b"nonsense show json\n", b"knows no command 'nonsense show'"),
        (b"x" * 20000 + b"\n", b"the request is too long"),
        (b"conn show json " + b" ".join(b"peer=1" for _ in range(65)) + b"\n", b"the request is too long"),
        (b"route explain json destination=x " + b" ".join(b"header=a:b" for _ in range(63)) + b"\n", b"ok "),
        (b"conn show json", b""),  # no end of line
        (b"", b""),
    ],
)
def test_hostile_requests(mesh_one, data, answer):
    said = talk(mesh_one, data)
    assert answer in said if answer else said == b""
    if said and not said.startswith(b"ok "):
        status, _, rest = said.partition(b" ")
        length, _, body = rest.partition(b"\n")
        assert status in (b"usage", b"failed") and len(body) == int(length)
    assert mesh_one.proxy.alive()
    assert mesh_one.show("version")["proxy"]["pid"] == str(mesh_one.proxy.pid)


@pytest.fixture(scope="module")
def mesh_one(build_dir):
    """One proxy for all hostile requests: they may not disturb one another."""
    from netns import Network

    with Network() as network:
        mesh = Mesh(
            network, str(build_dir / "userspace" / "cli" / "weir"), str(build_dir / "userspace" / "proxy" / "weir-proxy")
        )
        yield mesh.sidecar("one", services=[service("web.mesh", 80, "web")], clusters=[cluster("web", ["10.77.0.9:1"])])


def test_a_peers_bytes_cannot_steer_the_terminal(mesh_one):
    said = talk(mesh_one, b"route explain plain destination=%1b]0;owned%07\n")
    assert b"\x1b" not in said and b"\x07" not in said and b"\\x1b]0;owned\\x07" in said


def test_silent_clients_do_not_lock_others_out(mesh_one):
    """More of them than may be served at a time, each with a part of a request; who follows gets its turn."""
    held = []
    for number in range(40):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(mesh_one.socket)
        sock.sendall(b"conn show js"[: number % 12])
        held.append(sock)
    for sock in held[:20]:
        sock.close()
    assert mesh_one.show("version")["proxy"]
    for sock in held:
        sock.close()


# --- metrics ---------------------------------------------------------------------------------------------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9]+(?:\.[0-9]+)?)")


def parse_metrics(text):
    """The text format 0.0.4, strictly: {(name, labels): value}, {name: type}."""
    assert text.endswith("\n")
    samples, types, helped, current = {}, {}, set(), None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            current, words = line[7:].split(" ", 1)
            assert current not in helped and words and words == words.strip()
            helped.add(current)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == current and name not in types and kind in ("counter", "gauge")
            types[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            assert name == current and name in types, f"{name} outside of its family"
            assert (name, labels) not in samples, f"{line} twice"
            assert types[name] == "gauge" or (name.endswith("_total") and float(value) >= 0)
            samples[name, labels] = float(value)
    assert helped == set(types)
    assert set(types) == {name for name, _ in samples}
    return samples, types


def get(sidecar, path="/metrics", method="GET", version="1.1"):
    peer = connect(sidecar.pod, "127.0.0.1", 15090)
    peer.send(f"{method} {path} HTTP/{version}\r\nHost: x\r\nAccept: */*\r\n\r\n")
    answer = peer.response(method)
    assert peer.rest() == b""
    peer.close()
    return answer


def test_metrics_are_prometheus_text(pair):
    code, head, body = get(pair.near)
    assert code == 200
    assert "content-type: text/plain; version=0.0.4; charset=utf-8" in head.lower()
    samples, types = parse_metrics(body.decode())
    assert samples["weir_downstream_connections_total", 'direction="outbound"'] == 1
    assert samples["weir_downstream_connections_active", 'direction="outbound"'] == 1
    assert samples["weir_http_requests_total", None] == 1
    assert samples["weir_tls_handshakes_total", 'side="client"'] == 1
    assert samples["weir_endpoint_up", f'cluster="web",endpoint="{pair.far.ipv4}:8080"'] == 1
    assert samples["weir_workers", None] == 2 and samples["weir_config_generation", None] == 1
    # The same numbers as the command line has, by name and label.
    pair.request()
    samples, _ = parse_metrics(get(pair.near)[2].decode())
    for row in pair.near.show("stats", "show")["counters"]:
        assert samples["weir_" + row["name"], row["labels"]] == row["value"], row


def test_names_of_clusters_are_escaped(mesh):
    name = 'a"b\\c\nd'
    sidecar = mesh.sidecar(
        "one",
        admin={"socket": str(mesh.network.folder / "weir-one" / "admin.sock"), "metrics": METRICS},
        services=[service("web.mesh", 80, name)],
        clusters=[cluster(name, ["10.77.0.9:80"])],
    )
    samples, _ = parse_metrics(get(sidecar)[2].decode())
    assert ("weir_endpoint_up", r'cluster="a\"b\\c\nd",endpoint="10.77.0.9:80"') in samples


def test_metrics_server_manners(pair):
    assert get(pair.near, "/healthz")[0] == get(pair.near, "/readyz")[0] == 200
    code, head, body = get(pair.near, method="HEAD")
    assert code == 200 and body == b"" and "content-length" in head.lower()
    assert get(pair.near, "/nothing")[0] == 404
    code, head, _ = get(pair.near, method="POST")
    assert code == 405 and "allow: get, head" in head.lower()
    assert get(pair.near, "/metrics?x=1", version="1.0")[0] == 200
    for garbage in (b"\r\n\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00" * 10 + b"\r\n\r\n", b"GET /metrics\r\n\r\n"):
        peer = connect(pair.near.pod, "127.0.0.1", 15090).send(garbage).end()
        assert peer.rest().split(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"")
    peer = connect(pair.near.pod, "127.0.0.1", 15090)
    with pytest.raises((ConnectionResetError, BrokenPipeError, AssertionError)):
        peer.send(b"GET /" + b"x" * 100_000)
        peer.until(b"200 OK")
    assert get(pair.near, "/healthz")[0] == 200


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_key_appears_anywhere(pair):
    """Every command in every form, the metrics, the logs of both proxies at debug, after reloads good and bad."""
    texts = []
    for sidecar in (pair.near, pair.far):
        for name in OBJECTS:
            for form in ([], ["-j"], ["-p"]):
                texts.append(sidecar.weir(name, "show", *form).stdout)
        texts.append(sidecar.weir("route", "explain", "web.mesh").stdout)
        texts.append(sidecar.weir("config", "reload").stdout)
        broken = {**sidecar.config, "tls": {**sidecar.config["tls"], "certificate": sidecar.config["tls"]["private_key"]}}
        good = sidecar.config
        sidecar.write(broken)
        texts.append(sidecar.weir("config", "reload", check=False).stderr)
        sidecar.write(good)
        texts.append(sidecar.proxy.output())
    texts.append(get(pair.near)[2].decode())
    secrets = set()
    for path in pathlib.Path(pair.near.mesh.ca).rglob("*.key"), pathlib.Path(pair.near.mesh.ca).rglob("key.pem"):
        for file in path:
            lines = file.read_text().splitlines()
            assert lines[0].startswith("-----BEGIN")
            secrets.update(line for line in lines[1:-1])
            secrets.add(lines[0])
    assert len(secrets) > 4
    whole = "\n".join(texts)
    assert "the new configuration was rejected" in whole and CLIENT_ID in whole
    assert [secret for secret in secrets if secret in whole] == []
    # Nor does it let others read its memory: its /proc entries are root's.
    assert os.stat(f"/proc/{pair.near.proxy.pid}/environ").st_uid == 0
