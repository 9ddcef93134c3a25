# SPDX-License-Identifier: Apache-2.0
"""The iptables back end's own: programs that are missing or fail, rules that somebody changed, lists longer than a match."""

import contextlib
import fcntl
import os
import pathlib
import subprocess

import pytest

from capture import CapturedPod, Server, name_of, probe, state
from netns import wait_until

PROGRAMS = ("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore")
SAVES = [[f"ip{six}tables-{kind}-save"] for six in ("", "6") for kind in ("nft", "legacy")]


class App(CapturedPod):
    """A pod in which `iptables` is what a folder of the test's own says."""

    def __init__(self, network, weir, kind):
        super().__init__(network, weir, "app")
        self.folder = network.folder / "bin"
        self.folder.mkdir()
        for name in PROGRAMS:
            (self.folder / name).symlink_to(f"/usr/sbin/xtables-{kind}-multi")

    def weir(self, verb, *words, **options):
        words = ["--backend", "iptables", *words] if verb in ("apply", "plan") else words
        return super().weir(verb, *words, env={"PATH": f"{self.folder}:{os.environ['PATH']}"}, **options)

    def replace(self, name, script):
        path = self.folder / name
        path.unlink()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def rules(self):
        """What is weir's, of both kinds and families."""
        return [line for line in state(self, SAVES).splitlines() if "WEIR" in line]


@pytest.fixture(params=["nft", "legacy"])
def app(request, network, weir):
    return App(network, weir, request.param)


def test_a_failure_in_ipv6_takes_ipv4_back(app):
    app.replace("ip6tables-restore", "echo no such luck >&2; exit 3")
    failed = app.weir("apply", check=False)
    assert failed.returncode == 1
    assert f"{app.folder}/ip6tables-restore failed with status 3: no such luck" in failed.stderr
    assert app.rules() == []
    assert app.weir("apply", "--no-ipv6").stdout == "interception: installed\n"
    before = app.rules()
    failed = app.weir("apply", "--exclude-outbound-ports", "5", check=False)
    assert failed.returncode == 1
    assert app.rules() == before, "what was there is there again"


def test_a_change_is_one_transaction_a_family(app, network):
    """The first one, another plan, and removal; what is there already is none."""
    log = network.folder / "log"
    for name in PROGRAMS[1::2]:
        program = (app.folder / name).resolve()
        app.replace(name, f'[ "$1" = --noflush ] && echo {name} >>{log}; exec {program} {name} "$@"')
    for words in (["apply"], ["apply", "--exclude-outbound-ports", "5", "--fail", "hold"], ["remove"]):
        log.write_text("")
        for _ in range(2):
            app.weir(*words)
        assert sorted(log.read_text().split()) == ["ip6tables-restore", "iptables-restore"], words


@pytest.mark.parametrize("then", ["apply", "remove"])
def test_a_change_that_is_cut_short(app, then):
    """Killed between the families: the next command finishes what was begun."""
    program = app.folder / "ip6tables-restore"
    target = program.readlink()
    app.weir("apply")
    wanted = app.rules()
    for verb in ("remove", "apply"):
        app.replace(program.name, f'[ "$1" = --version ] && exec {target} {program.name} --version; exec kill -9 $PPID')
        assert app.weir(verb, check=False).returncode == -9
        program.unlink()
        program.symlink_to(target)
        assert app.rules() not in ([], wanted) and app.show()["installed"]
        app.weir(then)
        assert app.rules() == (wanted if then == "apply" else [])
        app.weir("remove")


def test_scripts_in_the_place_of_the_default_ones(app, network):
    """Images for Kubernetes have some that choose a kind. What they put in is not another kind's."""
    for name in PROGRAMS:
        program = (app.folder / name).resolve()
        app.replace(name, f'exec {program} {name} "$@"')
    other = network.pod("other").ipv4
    assert app.apply() == "interception: installed\n"
    assert probe(app, other, 80) == f"outbound {name_of(other, 80)}"
    assert app.apply() == "interception: unchanged\n"
    app.weir("remove")
    assert app.rules() == []


def test_changes_take_turns(app, network):
    """One that comes while another is at work goes on from what that one leaves, and not from what is there meanwhile."""
    gate, seen = network.folder / "gate", network.folder / "seen"
    seen.touch()
    for name in PROGRAMS[1::2]:
        program = (app.folder / name).resolve()
        wait = f"if [ $1 = --noflush ]; then echo $PPID >>{seen}; flock --shared {gate} true; fi"
        app.replace(name, f'{wait}; exec {program} {name} "$@"')
    words = ["nsenter", f"--net=/run/netns/{app.pod.netns}", app.path, "intercept", "apply", "--backend", "iptables"]

    def start(port):
        environment = {**os.environ, "PATH": f"{app.folder}:{os.environ['PATH']}"}
        more = ["--exclude-outbound-ports", port]
        return subprocess.Popen([*words, *more], env=environment, stderr=subprocess.PIPE, text=True)

    def changes(process):
        return str(process.pid) in seen.read_text().split()

    def waits(process):
        with contextlib.suppress(FileNotFoundError):  # it has closed one meanwhile
            files = pathlib.Path(f"/proc/{process.pid}/fd").iterdir()
            return any("/net/ipv4/" in os.readlink(file) for file in files)
        return False

    with gate.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one = start("80")
        wait_until(lambda: changes(one), what="it is at work")
        two = start("81")
        wait_until(lambda: changes(two) or waits(two), what="it is at work, too, or waits until it may")
    assert [(process.communicate()[1], process.returncode) for process in (one, two)] == [("", 0)] * 2
    assert not app.show()["altered"]
    assert app.apply("--exclude-outbound-ports", "81") == "interception: unchanged\n"


def test_a_rule_that_is_refused_is_named(app):
    """By a program that says what it thinks of the text."""
    app.replace("iptables-restore", "cat >/dev/null; echo 'line 7 failed: unknown option' >&2; exit 2")
    failed = app.weir("apply", check=False)
    assert failed.returncode == 1 and "line 7 failed: unknown option" in failed.stderr
    assert app.rules() == []


def test_a_program_that_does_not_read(app):
    app.replace("iptables-restore", "exec <&-; echo hurried >&2; exit 1")
    ports = ",".join(str(port) for port in range(2, 2000, 2))
    failed = app.weir("apply", "--exclude-outbound-ports", ports, check=False)
    assert failed.returncode == 1 and "hurried" in failed.stderr


def test_what_somebody_changed_is_put_right(app, network):
    app.apply()
    app.pod.run([str(app.folder / "iptables-restore"), "--noflush"], input="*nat\n-I WEIR_OUTPUT 1 -j ACCEPT\nCOMMIT\n")
    shown = app.show()
    assert shown["altered"]
    assert "(not made by weir)" in [rule["rule"] for rule in shown["rules"]]
    assert app.apply() == "interception: installed\n"
    assert not app.show()["altered"]
    for line in ("-D OUTPUT -m comment --comment weir -j WEIR_OUTPUT", "-F WEIR_INBOUND"):
        app.pod.run([str(app.folder / "iptables-restore"), "--noflush"], input=f"*nat\n{line}\nCOMMIT\n")
        assert app.show()["altered"], line
        assert app.apply() == "interception: installed\n"
        assert app.apply() == "interception: unchanged\n"
    assert probe(app, network.pod("other").ipv4, 80).startswith("outbound ")


def test_ours_come_before_those_of_others(app, network):
    """Whoever redirects everything was there first."""
    theirs = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 7777\nCOMMIT\n"
    app.pod.run([str(app.folder / "iptables-restore"), "--noflush"], input=theirs)
    Server(app, 7777, "theirs", "127.0.0.1")
    app.apply("--exclude-outbound-ports", "81")
    other = network.pod("other").ipv4
    assert probe(app, other, 80) == f"outbound {name_of(other, 80)}"
    assert probe(app, other, 81).startswith("theirs "), "what weir leaves alone is theirs"


@pytest.mark.parametrize("include", [True, False])
def test_lists_longer_than_one_match(app, network, include):
    """No more than 15 ports fit into one; of networks none but one."""
    ports = [str(port) for port in range(1001, 1081, 2)] + ["2000-2100", "2102-2200"]
    networks = [f"10.77.0.{host}" for host in range(100, 140, 2)] + ["10.77.0.2/31"]
    word = "include" if include else "exclude"
    app.apply(f"--{word}-outbound-ports", ",".join(ports), f"--{word}-inbound-cidrs", ",".join(networks))
    peer = network.pod("peer")  # 10.77.0.3
    for port in (1001, 1031, 1033, 1079, 2000, 2100, 2101, 2150, 1002, 2201):
        listed = port not in (2101, 1002, 2201)
        Server(peer, port, "peer")
        assert probe(app, peer.ipv4, port).startswith("outbound " if listed == include else "peer "), port
    Server(app, 80, "app")
    assert probe(peer, app.ipv4, 80).startswith("inbound " if include else "app ")


def test_without_its_programs(network, weir):
    """In a file system that has none."""
    app = CapturedPod(network, weir, "app")
    hidden = ["unshare", "-m", "sh", "-c"]
    masks = [str(path) for path in pathlib.Path("/usr/sbin").glob("*tables-*multi")]
    script = "for path in " + " ".join(masks) + '; do mount --bind /dev/null "$path"; done; exec "$@"'
    failed = app.pod.run([*hidden, script, "sh", weir, "intercept", "apply", "--backend", "iptables"], check=False)
    assert failed.returncode == 1
    assert "iptables-restore and iptables-save are not installed" in failed.stderr
