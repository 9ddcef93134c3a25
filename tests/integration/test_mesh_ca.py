# SPDX-License-Identifier: Apache-2.0
"""scripts/mesh-ca: what it makes, what it keeps, what it refuses."""

import pathlib
import stat
import subprocess

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "mesh-ca"
WEB = "spiffe://mesh/ns/default/sa/web"


@pytest.fixture
def ca(tmp_path):
    folder = tmp_path / "pki"

    def run(*words, status=0):
        result = subprocess.run([TOOL, folder, *words], capture_output=True, text=True)
        assert result.returncode == status, result.stderr
        return result

    run.folder = folder
    return run


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def purposes(ca, name):
    words = ["openssl", "verify", "-CAfile", ca.folder / "ca.pem", "-purpose"]
    for purpose in ("sslserver", "sslclient"):
        subprocess.run([*words, purpose, ca.folder / name / "cert.pem"], check=True, capture_output=True)


@pytest.mark.parametrize("option", [(), ("--rsa",)])
def test_what_it_makes(ca, option):
    ca("init", *option)
    ca("issue", "web", WEB, *option)
    purposes(ca, "web")
    assert sorted(files(ca.folder)) == ["ca.key", "ca.pem", "web/ca.pem", "web/cert.pem", "web/key.pem"]
    for key in ("ca.key", "web/key.pem"):
        assert stat.S_IMODE((ca.folder / key).stat().st_mode) == 0o600
    assert (ca.folder / "web/ca.pem").read_bytes() == (ca.folder / "ca.pem").read_bytes()
    shown = ca("show").stdout
    assert "spiffe://mesh, until" in shown and WEB in shown


def test_a_second_run_changes_nothing(ca):
    ca("init")
    ca("issue", "web", WEB)
    before = files(ca.folder)
    ca("init")
    ca("issue", "web", WEB)
    assert files(ca.folder) == before


def test_what_no_longer_fits_is_made_anew(ca):
    ca("init")
    ca("issue", "web", WEB)
    first = files(ca.folder)
    ca("issue", "web", WEB + "2")
    second = files(ca.folder)
    assert first["web/cert.pem"] != second["web/cert.pem"] and first["ca.pem"] == second["ca.pem"]
    ca("issue", "web", WEB + "2", "--force")
    third = files(ca.folder)
    assert second["web/key.pem"] != third["web/key.pem"]
    ca("init", "--force")
    ca("issue", "web", WEB + "2")
    purposes(ca, "web")
    assert third["web/cert.pem"] != files(ca.folder)["web/cert.pem"]


@pytest.mark.parametrize(
    "identity",
    ["web", "spiffe://mesh", "spiffe://mesh/", "spiffe://mesh/a/", "spiffe://mesh/../a", "spiffe://mesh/./a"]
    + ["spiffe://Mesh/a", "https://mesh/a", "spiffe://mesh/a b", "spiffe://other/a", "spiffe://mesh/a,DNS:x"],
)
def test_identities_refused(ca, identity):
    ca("init")
    before = files(ca.folder)
    assert identity in ca("issue", "web", identity, status=1).stderr
    assert files(ca.folder) == before


def test_mistakes(ca):
    assert "init' first" in ca("issue", "web", WEB, status=1).stderr
    assert "usage:" in ca(status=2).stderr
    assert "usage:" in ca("issue", "web", status=2).stderr
    assert "--bogus" in ca("init", "--bogus", status=2).stderr
    assert "--days" in ca("init", "--days", "soon", status=2).stderr
    assert "--days" in ca("init", "--days", status=2).stderr
    assert not ca.folder.exists()
    ca("init")
    assert "../x" in ca("issue", "../x", WEB, status=1).stderr
    assert "usage:" in ca("--help").stdout
