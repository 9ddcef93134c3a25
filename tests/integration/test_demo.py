# SPDX-License-Identifier: Apache-2.0
"""The demo itself: what it claims holds, and nothing of it stays."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "weir-demo-"


def demo(*options):
    return subprocess.run(
        [ROOT / "scripts" / "demo", *options], cwd="/", capture_output=True, text=True, errors="replace", timeout=280
    )


def traces():
    places = ("/run/netns", "/etc/netns")
    found = [path for place in places for path in pathlib.Path(place).glob(PREFIX + "*")]
    return found + [path for path in [pathlib.Path("/run/weir-demo")] if path.exists()]


@pytest.fixture(autouse=True)
def cleaned():
    yield
    demo("--clean")


def test_demo_keeps_its_promises():
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    for claim in (
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
    ):
        assert f"{claim}" in done.stdout
    assert not traces()


def test_demo_kept_runs_on_until_cleaned():
    done = demo("--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = subprocess.run(
        ["ip", "netns", "exec", PREFIX + "client", "curl", "-s", "--max-time", "10", "http://reviews.mesh/"],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.startswith("reviews v")
    assert demo("--clean").returncode == 0
    assert not traces()
