# SPDX-License-Identifier: Apache-2.0
"""Dubbo between programs of sofa-rpc-node and dubbo-remoting."""

import pytest

from node_peers import CALLS, FRAMES, HOST, PORT, Path, assert_moves_without_loss, assert_shared_out, node, path

SERVER, CLIENT = ["rpc_server.js", "dubbo"], ["rpc_client.js", "dubbo", HOST, PORT]


def test_calls(path, node):
    path.start(node, "rpc_server.js", "dubbo")
    assert path.run(node, "rpc_client.js", "dubbo", path.host, PORT) == CALLS


def test_frames(path, node):
    path.start(node, "rpc_server.js", "dubbo")
    assert path.run(node, "frames_client.js", "dubbo", path.host, PORT) == FRAMES


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_of_one_connection_are_shared_out(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_shared_out(two, node, SERVER, CLIENT, "rpc_requests_total")


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_move_to_another_server_without_loss(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_moves_without_loss(two, node, SERVER, CLIENT)
