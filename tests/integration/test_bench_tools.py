# SPDX-License-Identifier: Apache-2.0
"""Bolt's load generator of tests/bench: it counts what is right, and ends with an error at anything else."""

import contextlib
import socket
import struct
import subprocess
import threading

import pytest

from netns import listening

CLASS = b"com.alipay.sofa.rpc.core.response.SofaResponse"
ODD_ONE = 100  # from this request of a connection on, answers are wrong


def frame(number, status, content):
    head = struct.pack(">BBHBIBHHHI", 1, 0, 2, 1, number, 1, status, len(CLASS), 0, len(content))
    return head + CLASS + content


# name: (what the server sends instead of the right answer, what the load generator says of it)
WRONG = {
    "id": (lambda number, content: frame(number + 1000, 0, content), "was not asked or was answered before"),
    "twice": (lambda number, content: 2 * frame(number, 0, content), "was not asked or was answered before"),
    "short": (lambda number, content: frame(number, 0, content[:-1]), "a response of"),
    "long": (lambda number, content: frame(number, 0, content + b"x"), "a response of"),
    "content": (lambda number, content: frame(number, 0, content[:500] + b"z" + content[501:]), "content of another"),
    "status": (lambda number, _: frame(number, 7, b""), "no good response"),
    "end": (lambda *_: None, "the connection ended"),
    "nothing": (lambda *_: b"", "requests are not answered"),
}


def serve(client, wrong):
    """Answers with the content of the request, as long as it is to be right."""
    with client, client.makefile("rb") as received, contextlib.suppress(OSError, struct.error):
        for count in range(1, 1 << 30):
            head = received.read(22)
            (number,) = struct.unpack(">I", head[5:9])
            class_len, header_len, content_len = struct.unpack(">HHI", head[14:])
            content = received.read(class_len + header_len + content_len)[-content_len:]
            answer = wrong(number, content) if count >= ODD_ONE else frame(number, 0, content)
            if answer is None:
                client.shutdown(socket.SHUT_WR)
                received.read()  # closing with bytes unread would reset the connection instead
                return
            client.sendall(answer)


def accept(listener, wrong):
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0], wrong), daemon=True).start()


@pytest.fixture
def load(build_dir):
    def run(port, seconds):
        words = [build_dir / "tests" / "bench_bolt_load", "127.0.0.1", str(port), "2", "4", str(seconds)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120)

    return run


def run_against(load, wrong, seconds):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, wrong), daemon=True).start()
        done = load(listener.getsockname()[1], seconds)
        listener.shutdown(socket.SHUT_RDWR)
    return done


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_ends_the_load(load, name):
    wrong, complaint = WRONG[name]
    done = run_against(load, wrong, 100)
    assert done.returncode == 1 and complaint in done.stderr, done
    assert done.stdout == ""


def test_right_answers_are_counted(load):
    done = run_against(load, lambda number, content: frame(number, 0, content), 0.5)
    assert done.returncode == 0 and done.stderr == "", done
    count, p50, p99 = map(int, done.stdout.split())
    assert count > 0 and 0 < p50 <= p99


def test_the_server_answers_the_load(network, build_dir):
    pod = network.pod("both")
    tools = build_dir / "tests"
    pod.start([tools / "bench_bolt_echo", 9002], ready=listening(9002))
    words = [tools / "bench_bolt_load", "127.0.0.1", 9002, 16, 8, 0.5]
    assert int(pod.run(words).stdout.split()[0]) > 0
