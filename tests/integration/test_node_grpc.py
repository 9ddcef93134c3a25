# SPDX-License-Identifier: Apache-2.0
"""gRPC between programs of grpc-js: all four kinds of calls, metadata, statuses, deadlines, cancellation."""

import pytest

from node_peers import HOST, PORT, Path, assert_moves_without_loss, assert_shared_out, node, path

GRPC = {
    "echo": {"text": "grüße 🙂", "headers": ["one, two"], "trailers": ["one, two"], "code": 0},
    "fail": {"code": 9, "details": "not: now, 100 %", "reason": ["asked for"], "binary": [0, 255, 10]},
    "failLate": {"messages": [{"text": "first"}], "code": 8, "details": "enough"},
    "join": {"text": "abc"},
    "count": {"code": 0, "messages": 20000, "inOrder": True},
    "chat": {"answers": ["eno", "owt", "eerht"], "code": 0},
    "large": True,
    "many": True,
    "deadline": {"code": 4, "had_deadline": True},
    "cancel": {"code": 1, "had_deadline": False},
    "unknown": 12,
}


def test_calls(path, node):
    path.start(node, "grpc_server.js")
    assert path.run(node, "grpc_client.js", f"{path.host}:{PORT}") == GRPC


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_of_one_connection_are_shared_out(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_shared_out(two, node, ["grpc_server.js"], ["grpc_client.js", f"{HOST}:{PORT}"], "grpc_responses_total")


@pytest.mark.parametrize("tls", [None, "strict"])
def test_calls_move_to_another_server_without_loss(network, weir, weir_proxy, node, tls):
    two = Path(network, weir, weir_proxy, tls=tls, servers=("one", "two"))
    assert_moves_without_loss(two, node, ["grpc_server.js"], ["grpc_client.js", f"{HOST}:{PORT}"])
