# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all integration tests. The programs under test are those of the build folder in WEIR_BUILD (default:
build/release). See netns.py for what a `network` can do."""

import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from netns import Network, own_bpf_file_system

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def bpf_file_system():
    """Where eBPF programs are pinned. Pods cannot mount it: `ip netns exec` has a mount namespace of its own."""
    own_bpf_file_system()


@pytest.fixture(scope="session")
def build_dir():
    path = pathlib.Path(os.environ.get("WEIR_BUILD", ROOT / "build" / "release"))
    return path if path.is_absolute() else ROOT / path


def _program(build_dir, folder, name):
    path = build_dir / "userspace" / folder / name
    assert path.is_file(), f"{path} is not built"
    return str(path)


@pytest.fixture(scope="session")
def weir(build_dir):
    """The path of the command line program."""
    return _program(build_dir, "cli", "weir")


@pytest.fixture(scope="session")
def weir_proxy(build_dir):
    """The path of the proxy."""
    return _program(build_dir, "proxy", "weir-proxy")


@pytest.fixture(scope="session")
def packages(build_dir, tmp_path_factory):
    """A folder with what cpack makes of the build; made once, whichever of the parallel test processes comes first."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    folder = common / "packages"
    with open(common / "packages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = common / "packages.new"
            shutil.rmtree(made, ignore_errors=True)
            words = ["cpack", "--config", build_dir / "CPackConfig.cmake", "-B", made]
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
            made.rename(folder)
    return folder


@pytest.fixture
def agents_turn():
    """A node's agent sees all pods of this machine, those of other tests, too: one test at a time."""
    with open(pathlib.Path(tempfile.gettempdir()) / "weirtest-node.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


EITHER_WAY = "either_way: run by the sanitizers with acceleration and without (scripts/test), as the proxy then moves bytes in different ways"


def pytest_configure(config):
    config.addinivalue_line("markers", EITHER_WAY)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    setattr(item, "report_" + call.when, report)
    network = getattr(item, "funcargs", {}).get("network")
    if report.failed and network:
        report.sections.append(("output of the daemons", network.logs()))


@pytest.fixture
def network():
    """A network of the test's own, gone with all that runs in it when the test ends."""
    with Network() as net:
        yield net
