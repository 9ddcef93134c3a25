# SPDX-License-Identifier: Apache-2.0
"""Clients and servers that nobody of this project wrote, of sofa-rpc-node, dubbo-remoting and grpc-js (programs and lock file
are in node/): what they say to each other directly is what they say to each other through two proxies.

    path.start(node, "rpc_server.js", "bolt")
    path.run(node, "rpc_client.js", "bolt", path.host, PORT) == CALLS

`path` is a test's fixture for each of WAYS. Path(..., servers=("one", "two")) has more servers."""

import collections
import json
import pathlib
import subprocess

import pytest

from mesh import Mesh, cluster, service
from netns import listening, output

HERE = pathlib.Path(__file__).resolve().parent / "node"
PORT = 12200
HOST = "calls.mesh"

# What a client of sofa-rpc-node gets from its server, whatever the protocol.
CALLS = {
    "echo": "hello",
    "unicode": "grüße 你好 🙂",
    "long": True,
    "sum": 42,
    "many": [f"call {i}" for i in range(100)],
    "fail": {"error": "on purpose"},
}
# What the frames give by themselves; Bolt's have one-way requests, too.
FRAMES = {
    "heartbeat": "heartbeat_ack",
    "ids": [f"id {number}" for number in (1, 2, 0x7FFFFFFF, 77, 0x12345678)],
    "again": "heartbeat_ack",
    "last": 42,
    "unasked": [],
}


@pytest.fixture(scope="session")
def node():
    """The environment of the programs: where the packages are."""
    folder = subprocess.run([HERE / "install"], check=True, capture_output=True, text=True, timeout=600).stdout.strip()
    return {"NODE_PATH": folder}


class Path:
    """From a client's pod to the servers' pods, by the name `host`; the proxies find out which protocol it is. No proxies:
    there is one server, at its own address."""

    def __init__(self, network, weir, weir_proxy, proxies=True, tls=None, servers=("one",), **keys):
        if not proxies:
            self.servers, self.client = {name: network.pod(name) for name in servers}, network.pod("client")
            self.host = self.servers[servers[0]].ipv4
            return
        mesh = Mesh(network, weir, weir_proxy)
        self.sidecars = {name: mesh.sidecar(name, tls=tls) for name in servers}
        addresses = [f"{sidecar.ipv4}:{PORT}" for sidecar in self.sidecars.values()]
        self.near = mesh.sidecar(
            "client",
            tls=tls,
            services=[service(HOST, PORT, "calls")],
            clusters=[cluster("calls", addresses, **({"tls": "mesh"} if tls else {}), **keys)],
        )
        self.servers = {name: sidecar.pod for name, sidecar in self.sidecars.items()}
        self.client, self.host = self.near.pod, HOST

    def start(self, node, program, *words):
        """The server, the same in every pod but for its name, its last word."""
        for name, pod in self.servers.items():
            pod.start(["node", HERE / program, *words, PORT, name], ready=listening(PORT), env=node, timeout=30)

    def run(self, node, program, *words):
        """What the client prints, parsed."""
        done = self.client.run(["node", HERE / program, *words], env=node, timeout=60)
        return json.loads(done.stdout)


WAYS = {
    "direct": {"proxies": False},
    "detected": {},
    "encrypted": {"tls": "strict"},
    "in streams": {"tls": "strict", "transport": "h2"},
}


@pytest.fixture(params=WAYS)
def path(request, network, weir, weir_proxy):
    return Path(network, weir, weir_proxy, **WAYS[request.param])


def assert_shared_out(path, node, server, client, counter):
    """Of 20 calls on one connection each of two servers gets ten, as its proxy counts them."""
    path.start(node, *server)
    answers = path.run(node, *client, 20)
    assert collections.Counter(answers) == {"one": 10, "two": 10}, answers
    assert [sidecar.counter(counter) for sidecar in path.sidecars.values()] == [10, 10]


def assert_moves_without_loss(path, node, server, client):
    """While a client calls without a pause, its proxy learns that all calls go to another server: none fails."""
    path.start(node, *server)
    config = path.near.config
    one, two = config["clusters"][0]["endpoints"]
    config["clusters"][0]["endpoints"] = [one]
    path.near.reload(config)
    words = ["node", HERE / client[0], *client[1:], "until", "two"]
    caller = path.client.start(words, ready=output("under way"), env=node, timeout=30)
    config["clusters"][0]["endpoints"] = [two]
    path.near.reload(config)
    assert caller.wait(30) == 0, caller.output()
    assert json.loads(caller.output().splitlines()[-1]) == ["one", "two"]
