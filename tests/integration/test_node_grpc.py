# SPDX-License-Identifier: Apache-2.0
"""gRPC between programs of grpc-js: all four kinds of calls, metadata, statuses, deadlines, cancellation."""

from node_peers import PORT, node, path

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
