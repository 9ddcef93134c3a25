# SPDX-License-Identifier: Apache-2.0
"""The load generators of tests/bench for Bolt and HTTP/2: they count what is right, and end with an error at anything else.
Their origins: programs that nobody here wrote understand what that of HTTP/2 answers. The README has the rows of the
table that is printed."""

import contextlib
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading

import pytest

from netns import listening

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "bench"))

import bench  # noqa: E402

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


def accept(listener, wrong, serve=serve):
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


# --- HTTP/2 ---------------------------------------------------------------------------------------------------------

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PORT = 9003
PREFACE = 24  # bytes
WINDOW = 65535  # of a connection, as long as nobody says otherwise
CALL = 69  # bytes of content that a call has


def h2_frame(kind, flags, stream, payload=b""):
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def h2_answer(stream, status=b"\x88", size=1024, end=END_STREAM):
    """Begins with the status, as HPACK has it in its static table."""
    return h2_frame(HEADERS, END_HEADERS, stream, status) + h2_frame(DATA, end, stream, size * b"x")


# name: (what the server sends for the request of a stream instead of the right answer, what the load generator says)
H2_WRONG = {
    "status": (lambda stream: h2_answer(stream, status=b"\x8d"), "another status than 200"),
    "short": (lambda stream: h2_answer(stream, size=1023), "1023 bytes instead of 1024"),
    "long": (lambda stream: h2_answer(stream, size=1025), "1025 bytes instead of 1024"),
    "empty": (lambda stream: h2_frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x88"), "0 bytes instead of 1024"),
    "twice": (lambda stream: 2 * h2_answer(stream), "an answer to nothing"),
    "no head": (lambda stream: h2_frame(DATA, END_STREAM, stream, 1024 * b"x"), "an answer to nothing"),
    "another": (lambda stream: h2_answer(stream + 8192), "an answer to nothing"),
    "reset": (lambda stream: h2_frame(RST_STREAM, 0, stream, bytes(4)), "a frame of type 3"),
    "goaway": (lambda _: h2_frame(GOAWAY, 0, 0, bytes(8)), "a frame of type 7"),
    "end": (lambda _: None, "the connection ended"),
}


def h2_frames(client):
    """(kind, flags, stream, payload) of what an HTTP/2 client sends."""
    with client.makefile("rb") as received:
        received.read(PREFACE)
        while len(head := received.read(9)) == 9:
            length, flags, stream = struct.unpack(">IBI", head)
            yield length & 0xFF, flags, stream, received.read(length >> 8)


def h2_serve(client, wrong):
    """Answers like a file server, from some request on wrongly."""
    with client, contextlib.suppress(OSError):
        client.sendall(h2_frame(SETTINGS, 0, 0))
        for kind, _, stream, _ in h2_frames(client):
            if kind == HEADERS:
                answer = wrong(stream) if stream > ODD_ONE else h2_answer(stream)
                if answer is None:
                    client.shutdown(socket.SHUT_WR)
                else:
                    client.sendall(answer)


@pytest.fixture
def http2_load(build_dir):
    def words(port, seconds, kind, connections=2, streams=4):
        tool = build_dir / "tests" / "bench_http2_load"
        return [str(word) for word in (tool, "127.0.0.1", port, "a.test", connections, streams, seconds, kind)]

    return words


@pytest.mark.parametrize("name", H2_WRONG)
def test_a_wrong_answer_over_http2_ends_the_load(http2_load, name):
    wrong, complaint = H2_WRONG[name]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, wrong, h2_serve), daemon=True).start()
        words = http2_load(listener.getsockname()[1], 20, "get")
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        listener.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 1 and complaint in done.stderr, done
    assert done.stdout == ""


def h2_settle(client, frames):
    """The streams of the calls that have come. A PING is acknowledged before requests are sent that it came with: when
    a second one is, nothing else is under way."""
    calls = []
    for _ in range(2):
        client.sendall(h2_frame(PING, 0, 0, bytes(8)))
        for kind, flags, stream, _ in frames:
            if kind == PING and flags & ACK:
                break
            calls += [stream] if kind == DATA and flags & END_STREAM else []
    return calls


def test_the_load_keeps_to_what_the_server_allows(http2_load):
    """3 calls at a time, and no more content than the connection has a window for."""
    trailers = b"\x00\x0bgrpc-status\x010"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = http2_load(listener.getsockname()[1], 100, "call", connections=1, streams=8)
        with subprocess.Popen(words) as load, listener.accept()[0] as client:
            frames, left = h2_frames(client), WINDOW // CALL
            client.sendall(h2_frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 3)))
            while left:
                calls = h2_settle(client, frames)
                assert len(calls) == min(3, left)
                left -= len(calls)
                for stream in calls:
                    answer = h2_answer(stream, end=0) + h2_frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers)
                    client.sendall(answer)
            assert h2_settle(client, frames) == []
            client.sendall(h2_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", CALL)))
            assert len(h2_settle(client, frames)) == 1
            load.kill()


def test_the_load_understands_nghttpd(network, http2_load, tmp_path):
    pod = network.pod("both")
    (tmp_path / "bench.Echo").mkdir()
    for name in ("index.html", "bench.Echo/Unary"):
        (tmp_path / name).write_bytes(1024 * b"x")
    words = ["nghttpd", "--no-tls", "-d", tmp_path, "-m", 3, "-w", 8]
    pod.start([*words, "--trailer", "grpc-status: 0", PORT], ready=listening(PORT))
    pod.start([*words, PORT + 1], ready=listening(PORT + 1))
    for kind in ("get", "call"):
        assert int(pod.run(http2_load(PORT, 0.3, kind)).stdout) > 0
    done = pod.run(http2_load(PORT + 1, 20, "call"), check=False)
    assert done.returncode == 1 and "an answer to a call without trailers" in done.stderr, done


def test_programs_understand_the_origin_of_http2(network, build_dir, http2_load, tmp_path):
    """Also when their windows are smaller than an answer."""
    pod = network.pod("both")
    pod.start([build_dir / "tests" / "bench_http2_origin", PORT], ready=listening(PORT))
    url = f"http://127.0.0.1:{PORT}/"
    (tmp_path / "content").write_bytes(2_000_000 * b"c")
    for words, expected in ((["-m", 150], 150), (["-m", 50, "-w", 9], 50), (["-W", 16, "-w", 10, "-m", 90], 90)):
        done = pod.run(["nghttp", *words, url])
        assert done.stdout == expected * 1024 * "x" and done.stderr == "", done
    assert pod.run(["curl", "-s", "--http2-prior-knowledge", url]).stdout == 1024 * "x"
    call = ["curl", "-s", "--http2-prior-knowledge", "-D", "/dev/stderr", "--data-binary", f"@{tmp_path}/content", url]
    done = pod.run(call)
    assert done.stdout == b"\0\0\0\x03\xfb".decode(errors="replace") + 1019 * "x"
    assert "content-type: application/grpc" in done.stderr and "grpc-status: 0" in done.stderr
    for words in ([], ["-d", tmp_path / "content", "-n", 50]):
        text = pod.run(["h2load", "-c", 3, "-m", 100, "-n", 5000, "-w", 12, *words, url]).stdout
        assert " 0 failed, 0 errored" in text and " 0 3xx, 0 4xx, 0 5xx" in text, text
    for kind in ("get", "call"):
        assert int(pod.run(http2_load(PORT, 0.3, kind, 5, 256)).stdout) > 0


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_readme_has_the_rows_of_the_back_ends_as_they_are_printed():
    sample = {"rate": 350, "p50": 2e4 / 3, "p99": 99.96}
    printed = bench.tables({name: {"nft": [sample]} for name in bench.BACKEND_ROWS})
    readme = (ROOT / "README.md").read_text()
    head, line, *rows = printed.splitlines()
    assert f"\n{head}\n{line}\n" in readme
    table = readme[readme.index(head) :].partition("\n\n")[0].splitlines()
    what = re.compile(r"\|[^|]*\|[^|]*\|")
    assert [what.match(row)[0] for row in rows] == [what.match(row)[0] for row in table[2:]]
    assert [row.split("|")[4].strip() for row in rows[:4]] == ["0.350", "0.350", "6667", "100"]
