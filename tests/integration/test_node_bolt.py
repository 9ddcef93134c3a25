# SPDX-License-Identifier: Apache-2.0
"""Bolt between programs of sofa-rpc-node and sofa-bolt-node."""

import pytest

from node_peers import CALLS, FRAMES, HOST, PORT, Path, assert_moves_without_loss, assert_shared_out, node, path

SERVER, CLIENT = ["rpc_server.js", "bolt"], ["rpc_client.js", "bolt", HOST, PORT]


def test_calls(path, node):
    path.start(node, "rpc_server.js", "bolt")
    assert path.run(node, "rpc_client.js", "bolt", path.host, PORT) == CALLS


@pytest.mark.parametrize("protocol", ["bolt", "bolt2", "bolt2-crc"])
def test_frames(path, node, protocol):
    path.start(node, "rpc_server.js", "bolt")
    assert path.run(node, "frames_client.js", protocol, path.host, PORT) == FRAMES | {"oneway": True}


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_of_one_connection_are_shared_out(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_shared_out(two, node, SERVER, CLIENT, "rpc_requests_total")


@pytest.mark.parametrize("protocol", ["bolt", "bolt2", "bolt2-crc"])
def test_a_call_that_takes_too_long(network, weir, weir_proxy, node, protocol):
    """The client waits for ever: it is the proxy that keeps the time which the request names, and the client understands
    its answer. The server's comes far later."""
    path = Path(network, weir, weir_proxy)
    path.start(node, "rpc_server.js", "bolt")
    answer = path.run(node, "frames_client.js", protocol, path.host, PORT, 300)
    error = "Server exception when invoke with callback.Please check the server log!"  # any failure without content
    assert answer == {"slow": {"error": error}, "next": 42, "unasked": []}
    assert path.near.counter("rpc_timeouts_total") + path.sidecars["one"].counter("rpc_timeouts_total") >= 1


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_move_to_another_server_without_loss(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_moves_without_loss(two, node, SERVER, CLIENT)
