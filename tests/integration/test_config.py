# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is said of a wrong one, reloading, the schema and the reference page."""

import contextlib
import copy
import json
import os
import pathlib
import re
import signal
import subprocess

import jsonschema
import pytest
import yaml

from mesh import Mesh, Origin, cluster, connect, service
from netns import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]

EXAMPLE = """\
node:      {id: web-1, zone: z1}
workers:   0
admin:     {socket: /run/weir/admin.sock, metrics: 127.0.0.1:15090}
intercept: {outbound: 15001, inbound: 15006, dns: 15053}
dns:       {zone: mesh, vips: [240.240.0.0/16, "fd77:65:6972::/112"], ttl: 10, upstream: auto}
tls:       {mode: permissive, allow: ["spiffe://mesh/*"]}
services:
  - name: reviews.mesh
    ports: [{port: 80, protocol: auto}]
    routes:
      - match: {path_prefix: /beta, headers: [{name: x-user, exact: eve}]}
        to: [{cluster: reviews-v2}]
      - to: [{cluster: reviews-v1, weight: 9}, {cluster: reviews-v2, weight: 1}]
clusters:
  - name: reviews-v1
    balance: round_robin
    endpoints: [{address: "10.0.0.2:9080", weight: 1}, {address: "[fd00::2]:9080"}]
  - {name: reviews-v2, endpoints: [{address: "10.0.0.3:9080"}]}
inbound:
  - port: 9080
    protocol: auto
"""


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


def check(weir, path):
    return subprocess.run([weir, "config", "check", path], capture_output=True, text=True, timeout=60)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_the_documented_example_is_valid(weir, tmp_path):
    path = tmp_path / "weir.yaml"
    path.write_text(EXAMPLE)
    done = check(weir, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid" in done.stdout


WRONG = [
    # what is changed in the example, and what is said: line, column, and words
    ("protocol: auto}]", "protcol: auto}]", (9, 24), 'unknown key "protcol"; did you mean "protocol"?'),
    ("path_prefix", "path_prefx", (11, 17), 'did you mean "path_prefix"?'),
    ("workers:   0", "wrokers:   0", (2, 1), 'did you mean "workers"?'),
    ("cluster: reviews-v2}]\n", "cluster: reviwes-v2}]\n", (12, 24), 'no cluster "reviwes-v2"; did you mean "reviews-v2"?'),
    ("{cluster: reviews-v1", "{cluster: nowhere", (13, 24), 'there is no cluster "nowhere"'),
    ("round_robin", "round_robbin", (16, 14), 'did you mean "round_robin"?'),
    ("outbound: 15001", "outbound: 70000", (4, 23), "the range is 1 to 65535"),
    ("outbound: 15001", "outbound: many", (4, 23), "expected a number"),
    ('"10.0.0.2:9080"', "10.0.0.2", (17, 27), "expected an address with a port"),
    ("240.240.0.0/16", "240.240.0.1/16", (5, 32), "host bits zero"),
    ('"fd77:65:6972::/112"', "240.250.0.0/16", (5, 32), "is possible for a family"),
    ("240.240.0.0/16", "240.240.0.0/31", (5, 32), "no address besides its first and last"),
    ("zone: mesh", "zone: a..b", (5, 19), 'dns.zone: "a..b" is no domain name'),
    ("mode: permissive", "mode: strict", (6, 19), "tls.mode is strict, but tls.certificate is not set"),
    ("port: 9080", "port: [9080]", (20, 12), "expected a number"),
    ("services:\n", "services:\n  - {}\n", (7, 1), '"name" is missing'),
    ("inbound:\n", "inbound:\n  - {port: 9080}\n", (21, 5), "inbound port 9080 is given twice"),
    ("ttl: 10", "ttl: 10, ttl: 11", (5, 80), "the key is given twice"),
    ("workers:   0\n", "workers:   0\n\tx: 1\n", (2, 12), "invalid multiline plain key"),
]


@pytest.mark.parametrize("before, after, place, words", WRONG)
def test_errors_say_where_and_what(weir, weir_proxy, tmp_path, before, after, place, words):
    """The checker and the proxy say the same; the proxy starts nothing."""
    assert EXAMPLE.count(before) >= 1
    path = tmp_path / "weir.yaml"
    text = EXAMPLE.replace(before, after, 1).replace("/run/weir/admin.sock", str(tmp_path / "admin.sock"))
    path.write_text(text)
    done = check(weir, path)
    assert done.returncode == 1 and done.stdout == ""
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"{path}:{place[0]}:{place[1]}: "), done.stderr
    assert words in first
    started = subprocess.run([weir_proxy, "--config", path], capture_output=True, text=True, timeout=60)
    assert started.returncode == 1
    assert started.stderr == done.stderr
    assert os.listdir(tmp_path) == ["weir.yaml"]  # no socket, no state


def test_every_error_is_said_at_once(weir, tmp_path):
    path = tmp_path / "weir.yaml"
    path.write_text(EXAMPLE.replace("zone: z1", "zoen: z1").replace("ttl: 10", "ttl: ten").replace("9080\n", "0x\n"))
    lines = check(weir, path).stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "5", "20"]


@pytest.mark.parametrize("named", ["c19999", "d19999"], ids=["valid", "dangling"])
def test_many_names_cost_no_more_than_each(weir, tmp_path, named):
    """20,000 services that lead to the last of 20,000 clusters, or to none of them."""
    path = tmp_path / "large.json"
    clusters = [cluster(f"c{i}", ["10.0.0.1:80"]) for i in range(20000)]
    services = [{"name": f"s{i}.mesh", "cluster": named} for i in range(20000)]
    path.write_text(json.dumps({"services": services, "clusters": clusters}))
    done = check(weir, path)
    assert done.returncode == (0 if named == "c19999" else 1)
    assert ("and 19980 errors more" in done.stderr) == (named == "d19999")


def test_a_pasted_key_is_not_repeated(weir, mesh):
    """Instead of the name of its file; short and longer than any name may be."""
    mesh.certificate("web")
    key = (mesh.ca / "web" / "key.pem").read_text()
    path = mesh.network.folder / "pasted.json"
    for text in (key, key * 40):
        path.write_text(json.dumps({"tls": {"private_key": text}}))
        done = check(weir, path)
        assert done.returncode == 1 and "private_key" in done.stderr
        assert all(line not in done.stderr for line in key.splitlines()[1:-1])


# --- reloading -------------------------------------------------------------------------------------------------------


class Traffic:
    """A connection whose request is half answered: it must survive."""

    def __init__(self, mesh, sidecar, server, port):
        self.origin = Origin(server, port, self._serve)
        self.peer = connect(sidecar.pod, sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"], 80)

    def _serve(self, peer):
        while peer.another():
            peer.head()
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            self.more(peer)
            peer.send("world")

    def more(self, peer):
        peer.until(b"\n")  # the rest of a request with a body: the client says when

    def begin(self):
        self.peer.send("POST / HTTP/1.1\r\nHost: web.mesh\r\nContent-Length: 3\r\n\r\n")
        assert "200 OK" in self.peer.head() and self.peer.read(5) == b"hello"

    def finish(self):
        self.peer.send("go\n")
        assert self.peer.read(5) == b"world"


def web(mesh):
    server = mesh.network.pod("server")
    sidecar = mesh.sidecar(
        "client",
        workers=2,
        services=[service("web.mesh", 80, "web")],
        clusters=[cluster("web", [f"{server.ipv4}:8080"])],
    )
    return sidecar, server, Traffic(mesh, sidecar, server, 8080)


def sighup(sidecar):
    """Reloads by signal; returns when the proxy has said what became of it."""
    answers = ("the configuration was applied", "the new configuration was rejected")
    count = lambda: sum(sidecar.proxy.output().count(text) for text in answers)  # noqa: E731
    before = count()
    sidecar.proxy._process.send_signal(signal.SIGHUP)
    wait_until(lambda: count() > before, what="the reload is logged")


def reload_by_command(sidecar):
    sidecar.weir("config", "reload", check=False)


@pytest.mark.parametrize("reload", [sighup, reload_by_command], ids=["SIGHUP", "command"])
def test_a_reload_drops_nothing(mesh, reload):
    sidecar, server, traffic = web(mesh)
    with traffic.origin:
        traffic.begin()
        generation = sidecar.show("config", "show")["generation"]
        config = copy.deepcopy(sidecar.config)
        config["services"].append(service("new.mesh", 80, "new"))
        config["clusters"].append(cluster("new", [f"{server.ipv4}:8081"]))
        config["clusters"][0]["endpoints"][0]["address"] = f"{server.ipv4}:8082"
        sidecar.write(config)
        reload(sidecar)
        assert sidecar.show("config", "show")["generation"] == generation + 1
        # What is under way ends where it began; what comes next goes to the new endpoint.
        traffic.finish()
        with Origin(server, 8082, lambda peer: (peer.head(), peer.send("HTTP/1.1 204 No Content\r\n\r\n"))):
            traffic.peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
            assert traffic.peer.response()[0] == 204
        names = {row["name"] for row in sidecar.show("dns", "show")["names"]}
        assert names == {"web.mesh", "new.mesh"}
        traffic.peer.close()
    assert sidecar.counter("config_reloads_total") == 1


@pytest.mark.parametrize("reload", [sighup, reload_by_command], ids=["SIGHUP", "command"])
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c["services"][0]["routes"][0]["to"][0].update(cluster="wbe"), 'did you mean "web"?'),
        (lambda c: c.update(wrokers=1), 'did you mean "workers"?'),
        (lambda c: c.update(tls={"mode": "strict"}), "tls.certificate is not set"),
        (lambda c: c.update(tls={name: "/dev/null" for name in ("certificate", "private_key", "trust")}), "/dev/null"),
    ],
    ids=["dangling", "unknown", "incomplete", "certificate"],
)
def test_a_bad_reload_changes_nothing(mesh, reload, change, words):
    sidecar, _, traffic = web(mesh)
    with traffic.origin:
        traffic.begin()
        before = [sidecar.show(name, "show") for name in ("vhost", "route", "cluster", "config", "dns", "cert")]
        config = copy.deepcopy(sidecar.config)
        config["services"].append(service("new.mesh", 80, "web"))
        change(config)
        sidecar.write(config)
        reload(sidecar)
        rejected = [line for line in sidecar.proxy.output().splitlines() if "was rejected" in line]
        assert len(rejected) == 1 and words in rejected[0].replace('\\"', '"')
        answer = sidecar.weir("config", "reload", check=False)
        assert answer.returncode == 1 and words in answer.stderr
        assert [sidecar.show(name, "show") for name in ("vhost", "route", "cluster", "config", "dns", "cert")] == before
        traffic.finish()
        traffic.begin()
        traffic.finish()
        traffic.peer.close()
    rows = sidecar.show("stats", "show", "name=config_reloads_total")["counters"]
    assert {row["labels"]: row["value"] for row in rows} == {'result="applied"': 0, 'result="rejected"': 2}


def cut_off(path):
    path.write_text("")


def blank(path):
    path.write_text("\n \t\r\n")


def fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("make", [cut_off, blank, fifo])
def test_an_empty_file_changes_nothing(mesh, make):
    """It may be about to be written. A FIFO is not waited for: nobody may ever write into it."""
    sidecar, _, traffic = web(mesh)
    with traffic.origin:
        traffic.begin()
        before = [sidecar.show(name, "show") for name in ("vhost", "config")]
        make(sidecar.config_path)
        answer = sidecar.weir("config", "reload", check=False)
        assert answer.returncode == 1 and "the file is empty" in answer.stderr
        assert check(mesh.weir_path, sidecar.config_path).returncode == 1
        assert [sidecar.show(name, "show") for name in ("vhost", "config")] == before
        traffic.finish()
        traffic.peer.close()


def test_an_empty_configuration_can_be_asked_for(weir, tmp_path):
    path = tmp_path / "weir.yaml"
    for text in ("{}", "# all defaults\n"):
        path.write_text(text)
        assert check(weir, path).returncode == 0
    assert check(weir, "/dev/null").returncode == 0
    assert subprocess.run([weir, "config", "check", "/dev/stdin"], input=b"{}", timeout=60).returncode == 0


def test_what_a_reload_cannot_change_is_said(mesh):
    sidecar, _, traffic = web(mesh)
    with traffic.origin:
        config = copy.deepcopy(sidecar.config)
        config["workers"] = 1
        config["intercept"] = {"dns": 15054}
        config["dns"]["vips"] = ["10.99.0.0/24"]
        sidecar.reload(config)
        said = [line for line in sidecar.proxy.output().splitlines() if "next start only" in line]
        assert len(said) == 1 and 'keys="workers, intercept.dns, dns.vips"' in said[0]
        traffic.peer.close()


def test_ranges_that_a_reload_cannot_change_stay_known(mesh):
    """An address of theirs on a port that nobody serves is refused, not dialled, and their reverse zone is ours."""
    sidecar, _, traffic = web(mesh)
    with traffic.origin:
        traffic.peer.close()
        vip = sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"]
        config = copy.deepcopy(sidecar.config)
        config["dns"]["vips"] = ["10.99.0.0/24"]
        sidecar.reload(config)
        with contextlib.suppress(ConnectionResetError):
            connect(sidecar.pod, vip, 81).rest()
        assert sidecar.counter("virtual_ip_refused_total") == 1
        pointer = sidecar.pod.python("import socket, sys; print(socket.gethostbyaddr(sys.argv[1])[0])", vip)
        assert pointer.stdout == "web.mesh\n"


def test_reloads_under_load_lose_no_request(mesh):
    """Many reloads, each with another endpoint first in line, while requests come one after the other."""
    sidecar, server, traffic = web(mesh)

    def until_closed(peer):
        while peer.another():
            peer.head()
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    traffic.peer.close()
    with traffic.origin, Origin(server, 8083, until_closed), Origin(server, 8084, until_closed):
        peer = connect(sidecar.pod, sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"], 80)
        config = copy.deepcopy(sidecar.config)
        for number in range(12):
            config["clusters"][0]["endpoints"] = [{"address": f"{server.ipv4}:{8083 + number % 2}"}]
            sidecar.write(config)
            sidecar.proxy._process.send_signal(signal.SIGHUP)
            for _ in range(5 if number else 0):
                peer.send("GET / HTTP/1.1\r\nHost: web.mesh\r\n\r\n")
                assert peer.response()[0] == 200
            wait_until(
                lambda: sidecar.proxy.output().count("the configuration was applied") > number, what="applied"
            )
        peer.close()


# --- schema, reference, what is in force -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema(weir):
    done = subprocess.run([weir, "config", "schema"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def keys_of(schema, path=()):
    """{path: (schema, required)} of all keys; lists of objects add "[]"."""
    for name, below in schema.get("properties", {}).items():
        here = path + (name,)
        yield ".".join(here), below, name in schema["required"]
        if below.get("type") == "object":
            yield from keys_of(below, here)
        elif below.get("type") == "array" and below["items"].get("type") == "object":
            yield from keys_of(below["items"], path + (name + "[]",))


def test_the_schema_is_one(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    # Defaults are of the type that they stand for.
    for path, below, _ in keys_of(schema):
        assert "description" in below, path
        if "default" in below:
            jsonschema.Draft202012Validator(below).validate(below["default"])
    validator.validate(yaml.safe_load(EXAMPLE))
    validator.validate({})


def test_schema_and_checker_agree(schema, weir, tmp_path):
    """The schema refuses what the checker refuses by grammar, and nothing else of these."""
    import jsonschema
    validator = jsonschema.Draft202012Validator(schema)
    path = tmp_path / "weir.yaml"
    for before, after, _, words in WRONG:
        text = EXAMPLE.replace(before, after, 1)
        path.write_text(text)
        assert check(weir, path).returncode == 1
        grammar = "did you mean" in words and "cluster" not in words or "range" in words or "is missing" in words
        if grammar:
            assert not validator.is_valid(yaml.safe_load(text)), after
    for text in ("dns: {upstream: [192.0.2.1, '192.0.2.2:5353']}", "intercept: {capture: {exclude_users: [0, 5-9]}}"):
        path.write_text(text)
        assert check(weir, path).returncode == 0
        validator.validate(yaml.safe_load(text))


def test_the_reference_page_agrees_with_the_schema(schema, weir):
    page = subprocess.run([weir, "config", "reference"], capture_output=True, text=True, check=True).stdout
    assert page == (ROOT / "docs" / "configuration.md").read_text()
    found, section = {}, None
    for line in page.splitlines():
        if line.startswith("## "):
            section = "" if line == "## Top level" else line[3:] + "."
        row = re.fullmatch(r"\| `(\w+)` \| (.*) \| (.*) \| (.*) \|", line)
        if row:
            found[section + row[1]] = row.groups()[1:]
    expected = {path: (below, required) for path, below, required in keys_of(schema)}
    assert set(found) == set(expected)
    for path, (below, required) in expected.items():
        value, default, meaning = found[path]
        assert meaning.removesuffix(" *(start)*") == below["description"], path
        assert (default == "required") == required, path
        if "default" in below:
            given = below["default"]
            text = " ".join(given) if isinstance(given, list) else json.dumps(given).strip('"')
            assert default == f"`{text}`", path
        if "enum" in below:
            assert value == ", ".join(f"`{word}`" for word in below["enum"]), path
        if below.get("type") == "integer":
            assert value.startswith(f"{below['minimum']} to {below['maximum']}"), path


def test_what_is_in_force_is_a_configuration(mesh, weir, tmp_path):
    """weir config show: defaults and all; started with it, a proxy shows the same."""
    sidecar, _, traffic = web(mesh)
    with traffic.origin:
        traffic.peer.close()
    settings = sidecar.show("config", "show")["settings"]
    assert settings["timeouts"]["drain"] == "30s" and settings["clusters"][0]["balance"] == "round_robin"
    path = tmp_path / "shown.json"
    path.write_text(json.dumps(settings))
    assert check(weir, path).returncode == 0
    sidecar.reload(settings)
    assert sidecar.show("config", "show")["settings"] == settings
    plain = sidecar.weir("config", "show").stdout
    assert "web.mesh" in plain and "ROUTES" in plain
