# SPDX-License-Identifier: Apache-2.0
"""Scripted conversations: varnishtest plays a client and a server that are exact to the byte, and between them stands the
proxy in the captured path, outbound and inbound. Each conversation/*.vtc is one test; ${vip} is where its clients connect,
${server} where its server listens."""

import pathlib

import pytest

from mesh import Mesh, cluster, service
from netns import Network

SCRIPTS = sorted(pathlib.Path(__file__).with_name("conversation").glob("*.vtc"))
PORT = 8080


@pytest.fixture(scope="module")
def sidecar(weir, weir_proxy):
    """One pod: varnishtest is one process, and so client and server are in one namespace, with weir between them."""
    with Network() as network:
        pod = network.pod("both")
        yield Mesh(network, weir, weir_proxy).sidecar(
            "both",
            pod=pod,
            services=[service("web.mesh", 80, "web", protocol="http")],  # dials when there is a request: one connection
            clusters=[cluster("web", [f"{pod.ipv4}:{PORT}"])],
        )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_conversation(sidecar, script, tmp_path):
    vip = sidecar.show("vhost", "show")["virtual_hosts"][0]["vip4"]
    done = sidecar.pod.run(
        ["varnishtest", "-v", "-D", f"vip={vip}:80", "-D", f"server={sidecar.ipv4}:{PORT}", "-t", "20", script],
        env={"TMPDIR": str(tmp_path)},
        check=False,
        timeout=40,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_conversations():
    assert len(SCRIPTS) > 15
