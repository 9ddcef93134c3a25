# SPDX-License-Identifier: Apache-2.0
"""The command line by itself: help, usage errors, completion, the manual page, and a proxy that misbehaves."""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(weir, *words, **env):
    return subprocess.run(
        [weir, *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "WEIR_ADMIN": "/nonexistent/admin.sock", **env},
    )


def commands(weir):
    """(object, verb) of every command, as the manual page lists them."""
    manual = run(weir, "help", "--man").stdout
    return sorted(set(re.findall(r"^``weir ([a-z]+) ([a-z][a-z-]*)", manual, re.MULTILINE)))


OBJECTS = ["cert", "cluster", "config", "conn", "dns", "endpoint", "log", "route", "stats", "version", "vhost"]


# --- help ------------------------------------------------------------------------------------------------------------


def test_every_object_has_show_and_help(weir):
    known = commands(weir)
    for name in OBJECTS:
        assert (name, "show") in known
        answers = [run(weir, name, "help"), run(weir, "help", name), run(weir, name, "--help")]
        assert all(answer.returncode == 0 for answer in answers)
        assert len({answer.stdout for answer in answers}) == 1
        assert f"weir {name} show" in answers[0].stdout


def test_every_command_has_help(weir):
    for name, verb in commands(weir):
        answer = run(weir, name, verb, "--help")
        assert answer.returncode == 0, answer.stderr
        assert f"Usage: weir {name} {verb}" in answer.stdout
        assert answer.stdout == run(weir, "help", name, verb).stdout


def test_objects_without_verbs_have_help(weir):
    for name in ("inject", "injector"):
        answers = [run(weir, name, "--help"), run(weir, "help", name), run(weir, name, "help")]
        assert all(answer.returncode == 0 for answer in answers)
        assert len({answer.stdout for answer in answers}) == 1
        assert f"Usage: weir {name} [-" in answers[0].stdout or f"Usage: weir {name} --" in answers[0].stdout
    assert "Try: weir injector --help" in run(weir, "injector").stderr


def test_manual_page_in_the_tree_is_current(weir):
    made = run(weir, "help", "--man").stdout
    kept = (ROOT / "docs" / "weir.8.rst").read_text()
    assert kept == made, "run: weir help --man > docs/weir.8.rst"


@pytest.mark.parametrize(
    "words, expected",
    [
        ("weir v", "version vhost"),
        ("weir conn sh", "show"),
        ("weir conn show direction = ''", "inbound outbound"),
        ("weir conn show direction = in", "inbound"),
        ("weir --socket /x log ''", "help level show"),
        ("weir conn show --j", "--json"),
        ("weir route explain --pa", "--path"),
    ],
)
def test_bash_completes(weir, words, expected):
    """The words as bash cuts them: at '=', too."""
    script = run(weir, "help", "--completion", "bash").stdout
    code = f"""{script}
        compopt() {{ :; }}
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _weir; echo "${{COMPREPLY[@]}}" """
    found = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert sorted(found.stdout.split()) == expected.split(), found.stderr


# --- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "Usage: weir OBJECT VERB"),
        (["conn"], "weir conn kill ID"),
        (["connn", "show"], "unknown object 'connn', did you mean 'conn'?"),
        (["c", "show"], "unknown object 'c'"),
        (["conn", "shwo"], "unknown verb 'shwo' of 'conn', did you mean 'show'?"),
        (["conn", "sho"], "unknown verb 'sho'"),
        (["conn", "show", "directin=inbound"], "unknown filter 'directin', did you mean 'direction'?"),
        (["conn", "show", "direction=up"], "'up' is no direction: one of inbound|outbound"),
        (["conn", "kill"], "missing: ID"),
        (["conn", "show", "--jsn"], "unknown option '--jsn', did you mean '--json'?"),
        (["--socket"], "option '--socket' wants a value"),
        (["log", "level", "loud"], "'loud' is no level: one of debug|info|warn|error"),
        (["help", "con"], "did you mean 'conn'?"),
    ],
)
def test_usage_errors(weir, words, message):
    answer = run(weir, *words)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert answer.stdout == ""


def test_version_needs_no_proxy(weir):
    for words in (["version"], ["version", "show"], ["--version"], ["-V"]):
        answer = run(weir, *words)
        assert answer.returncode == 0 and re.fullmatch(r"version: \d+\.\d+\.\d+\n", answer.stdout)
    assert list(json.loads(run(weir, "version", "-j").stdout)) == ["version"]


# --- a proxy that is not there, or misbehaves ------------------------------------------------------------------------


def test_no_proxy(weir, tmp_path):
    answer = run(weir, "conn", "show")
    assert answer.returncode == 1
    assert answer.stderr == (
        "weir: no proxy listens at /nonexistent/admin.sock (another path: --socket, or WEIR_ADMIN)\n"
    )
    answer = run(weir, "--socket", "/" + "x" * 200, "conn", "show")
    assert answer.returncode == 1 and "path is too long" in answer.stderr


@contextlib.contextmanager
def fake_proxy(path, answer):
    """Answers one request with these bytes; yields the list in which the request will be."""
    requests = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            client, _ = listener.accept()
            with client:
                requests.append(client.recv(65536))
                client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield requests
        thread.join(30)


def ask(weir, path, answer, *words):
    with fake_proxy(path, answer) as requests:
        done = run(weir, "--socket", str(path), *words)
    return done, requests[0]


def test_what_is_sent(weir, tmp_path):
    words = ["route", "explain", "-p", "reviews.mesh:80", "--path", "/a b%", "--header", "x-user: eve"]
    answer, request = ask(weir, tmp_path / "s", b"ok 3\nyes", *words)
    assert (answer.returncode, answer.stdout) == (0, "yes")
    assert request == b"route explain pretty destination=reviews.mesh:80 path=/a%20b%25 header=x-user:%20eve\n"


def test_statuses(weir, tmp_path):
    answer, _ = ask(weir, tmp_path / "a", b"failed 10\nno such id", "conn", "kill", "7")
    assert (answer.returncode, answer.stderr) == (1, "weir: no such id\n")
    answer, _ = ask(weir, tmp_path / "b", b"usage 8\nwhat is?", "conn", "kill", "7")
    assert answer.returncode == 2 and answer.stderr.startswith("weir: what is?\n")


@pytest.mark.parametrize("answer", [b"", b"ok", b"ok 5\nyes", b"ok 2\nyes", b"HTTP/1.1 200 OK\r\n\r\n", b"ok -1\n"])
def test_incomplete_answers_are_no_success(weir, tmp_path, answer):
    done, _ = ask(weir, tmp_path / "s", answer, "conn", "show")
    assert done.returncode == 1 and done.stdout == ""
    assert "is incomplete" in done.stderr
