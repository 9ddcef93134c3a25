# SPDX-License-Identifier: Apache-2.0
"""What is built and installed, and what the first page says to do with it."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prefix(build_dir, tmp_path_factory):
    """The build, installed."""
    path = tmp_path_factory.mktemp("prefix")
    subprocess.run(
        ["cmake", "--install", build_dir, "--prefix", path], check=True, capture_output=True, text=True, timeout=120
    )
    return path


def files(prefix):
    return {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}


def test_what_is_installed(prefix):
    """Two programs, their pages, the completion and the header for plug-ins; nothing of the build or the tests."""
    found = files(prefix)
    programs = {name for name in found if "/bin/" in f"/{name}" or "/sbin/" in f"/{name}"}
    assert {pathlib.Path(name).name for name in programs} == {"weir", "weir-proxy"}
    assert {"share/man/man8/weir.8", "share/man/man8/weir-proxy.8"} <= found
    assert "share/bash-completion/completions/weir" in found
    assert [name for name in found if name.endswith(".h")] == ["include/weir_plugin.h"]
    assert not [name for name in found if name.endswith((".a", ".o", ".c", ".cmake")) or "test" in name]


def test_installed_programs_run(prefix):
    for name, words in (("weir", ["version"]), ("weir-proxy", ["--version"])):
        done = subprocess.run([prefix / "bin" / name, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)
        # Nothing of the build folder is needed.
        needed = subprocess.run(["readelf", "-d", prefix / "bin" / name], capture_output=True, text=True, check=True)
        assert "RUNPATH" not in needed.stdout and "RPATH" not in needed.stdout


def test_installed_manual_pages_are_readable(prefix):
    for name, words in (("weir", ["weir conn show", "weir config reload"]), ("weir-proxy", ["--config", "SIGHUP"])):
        page = prefix / "share" / "man" / "man8" / f"{name}.8"
        done = subprocess.run(
            ["man", "--warnings", "-l", page], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        )
        assert done.returncode == 0 and done.stderr == ""
        text = " ".join(done.stdout.split())  # lines are justified with blanks
        assert all(word in text for word in words)


def test_installed_completion_works(prefix):
    script = prefix / "share" / "bash-completion" / "completions" / "weir"
    code = f"source {script}; COMP_WORDS=(weir conn sh); COMP_CWORD=2; _weir; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "show\n"


def test_presets_cover_what_is_promised():
    import json

    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    for kind in ("configurePresets", "buildPresets"):
        names = {preset["name"] for preset in presets[kind] if not preset.get("hidden")}
        assert {"release", "dev", "asan", "tsan", "fuzz", "clang"} <= names
    assert "-Werror" in (ROOT / "CMakeLists.txt").read_text()


# --- the pages -------------------------------------------------------------------------------------------------------


def test_the_readmes_configuration_is_valid(weir, tmp_path):
    """The example as it stands there, with certificates made by the commands that stand before it."""
    page = (ROOT / "README.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"^    (scripts/mesh-ca .*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = command.split()
        subprocess.run([ROOT / words[0], *words[1:]], cwd=tmp_path, check=True, capture_output=True)
    [folder] = [path.parent for path in (tmp_path / "pki").glob("*/cert.pem")]
    path = tmp_path / "weir.yaml"
    path.write_text(example.replace("/etc/weir/", f"{folder}/"))
    done = subprocess.run([weir, "config", "check", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_pages_name_commands_and_options_that_exist(weir):
    """Every `weir OBJECT VERB` in the pages is one; every option of it, too."""
    manual = subprocess.run([weir, "help", "--man"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"``weir ([a-z]+ [a-z]+)", manual))
    options = set(re.findall(r"--[a-z0-9-]+", manual)) | {"--help", "--man", "--completion"}
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        text = page.read_text()
        lines = re.findall(r"^    (?:sudo )?(weir [a-z][^#\n]*)", text, re.MULTILINE) + re.findall(r"`(weir [a-z][^`]*)`", text)
        for line in lines:
            words = line.split()
            if len(words) < 3 or words[1] in ("help", "version") or not words[2].isalpha():
                continue
            if words[1].isupper():
                continue
            assert f"{words[1]} {words[2]}" in known, f"{page.name}: {line}"
            for option in re.findall(r"(?<![\w-])--[a-z0-9-]+", line):
                assert option in options, f"{page.name}: {line}"


@pytest.mark.parametrize(
    "known, installed, missing",
    [
        ("bpftool clang-14 clang", "", {"bpftool", "clang-14"}),  # Debian 12
        ("bpftool clang", "", {"bpftool", "clang"}),  # Debian 13
        ("linux-tools-generic clang-14 clang", "", {"linux-tools-generic", "clang-14"}),  # Ubuntu 24.04
        ("bpftool clang-14 clang", "clang", {"bpftool"}),
        ("", "", {"bpftool", "clang-14"}),  # apt has no lists yet
    ],
)
def test_what_building_takes_has_other_names_elsewhere(tmp_path, known, installed, missing):
    for name, text in (
        ("apt-cache", f'case " {known} " in *" $2 "*) echo "$2 | 1 | x" ;; esac'),
        ("dpkg-query", f"printf 'ii  %s\\n' {installed}"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    words = ["env", f"PATH={tmp_path}:/usr/bin:/bin", ROOT / "scripts" / "deps", "--list", "build"]
    listed = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert {"cmake", "libbpf-dev"} <= listed
    assert {name for name in listed if name.startswith(("clang", "bpftool", "linux"))} == missing


def test_the_commands_explain_themselves():
    for name, words in (("demo", ["--keep", "--clean"]), ("test", ["--fast", "--fuzz"]), ("deps", ["build", "--list"]), ("install.sh", ["--dns", "--root"]), ("uninstall.sh", ["--purge"])):
        done = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and all(word in done.stdout for word in words), done.stdout
    readme = (ROOT / "README.md").read_text()
    assert "sudo scripts/demo" in readme and "sudo scripts/test" in readme
    assert (ROOT / ".ci" / "run").read_text().strip().endswith('scripts/test" "$@"')
