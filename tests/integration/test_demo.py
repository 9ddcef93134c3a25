# SPDX-License-Identifier: Apache-2.0
"""The demo itself: what it claims holds, and nothing of it stays."""

import fcntl
import os
import pathlib
import subprocess
import tempfile

import pytest

from mesh import acceleration

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "weir-demo-"


# The command, with acceleration where all that runs has it.
DEMO = [ROOT / "scripts" / "demo", *(f"--{key}={value}" for key, value in acceleration().items())]


def demo(*options):
    return subprocess.run([*DEMO, *options], cwd="/", capture_output=True, text=True, errors="replace", timeout=280)


def traces():
    places = ("/run/netns", "/etc/netns")
    found = [path for place in places for path in pathlib.Path(place).glob(PREFIX + "*")]
    return found + [path for path in [pathlib.Path("/run/weir-demo")] if path.exists()]


@pytest.fixture(autouse=True)
def alone():
    """One demo at a time on this machine, also when tests run in parallel; and nothing is left for the next."""
    lock = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        demo("--clean")
    finally:
        os.close(lock)


@pytest.mark.parametrize("backend", ["nft", "ebpf"])
def test_demo_keeps_its_promises(backend):
    done = demo("--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    for claim in (
        f"connections of all pods are captured by {backend}\n",
        "reviews.mesh has virtual IPs of both families",
        "answered by v1 and v2, configured 9:1",
        "over IPv6, to fd77:65:6972:",
        "without delay",
        "the client's proxy speaks TLSv1.",
        "the server's proxy knows its peer as spiffe://mesh/demo/client",
        "resolved by the name server outside",
        "passed on unchanged",
        "TLS records between pods",
        "no plaintext of requests or answers",
        "byte for byte what they were before",
        "no namespace, process or file is left",
        *(["every proxy has found that acceleration works"] if acceleration() else []),
    ):
        assert f"{claim}" in done.stdout
    assert not traces()


def start_until(text):
    """A demo that is under way: it has printed this."""
    process = subprocess.Popen(
        DEMO, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    printed = []
    for line in process.stdout:
        printed.append(line)
        if text in line:
            return process
    raise AssertionError("".join(printed))


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def curl():
    words = ["ip", "netns", "exec", PREFIX + "client", "curl", "-s", "--max-time", "10", "http://reviews.mesh/"]
    return subprocess.run(words, capture_output=True, text=True).stdout


def hints(output):
    """The commands that --keep prints."""
    lines = [line.strip().split("#")[0] for line in output.partition("To try, as root:")[2].splitlines()]
    return [line.split() for line in lines if line.startswith(("ip netns", "/"))]


def test_killed_demos_leave_nothing_behind_the_next():
    """SIGKILL while the database is made, and again in the midst; the next run, and --clean, remove all."""
    kill(start_until("applications: nginx"))
    assert traces()
    running = start_until("] redis")
    other = demo()
    assert other.returncode == 1 and "another demo is running" in other.stderr
    kill(running)
    assert traces()
    cleaned = demo("--clean")
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
    assert not traces()
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"/run/weir-demo/" not in path.read_bytes(), path
        except (FileNotFoundError, ProcessLookupError):
            pass


def test_demo_kept_runs_on_until_cleaned():
    done = demo("--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert curl().startswith("reviews v")
    tried = [words for words in hints(done.stdout) if words[-1] not in ("bash", "tcp") and "redis-cli" not in words]
    assert len(tried) >= 8
    for words in tried:
        answer = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
        assert answer.returncode == 0, (words, answer.stderr)
    # Cleaning twice is as good as once.
    assert demo("--clean").returncode == demo("--clean").returncode == 0
    assert not traces()
    assert curl() == ""
