# SPDX-License-Identifier: Apache-2.0
"""Installing on a machine: from a checkout, an archive, a Debian package; upgrading; uninstalling without a trace. The
machines are whole ones, booted by systemd (machine.py)."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

from capture import Server, probe, state
from machine import Machine, eventually
from mesh import Origin, acceleration, connect
from web import reply, serve

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = ["weir-proxy.service", "weir-intercept.service"]
CONFIG = "etc/weir/weir.yaml"
DPKG = "/var/lib/dpkg/"


# --- what is installed -----------------------------------------------------------------------------------------------


@pytest.fixture
def over():
    """What the machine is made over (machine.py)."""
    return "ready"


@pytest.fixture
def machine(network, over):
    machine = Machine(network.pod("web"), share=[ROOT], over=over)
    machine.boot()
    return machine


@pytest.fixture
def release(packages, machine):
    """The archive, unpacked on the machine: the folder as the machine names it."""
    [archive] = packages.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(machine.root / "opt")
    return "/opt/" + archive.name.removesuffix(".tar.gz")


def install(machine, folder, *options, check=True, env=None):
    return machine.run([f"{folder}/install.sh", *options], check=check, env=env)


def steps(said):
    """What a script says that it does, or would do."""
    return [line for line in said.splitlines() if line.startswith("  ")]


def uninstall(machine, *options):
    return machine.run(["/usr/local/lib/weir/uninstall.sh", *options]).stdout


def active(machine):
    return machine.run(["systemctl", "is-active", *UNITS], check=False).stdout.split()


def rules(machine):
    return machine.run(["nft", "list", "tables"]).stdout.strip()


def pid(machine):
    return machine.run(["systemctl", "show", "--property", "MainPID", "--value", UNITS[0]]).stdout.strip()


def moment(machine, unit, event):
    return int(machine.run(["systemctl", "show", "--property", f"{event}TimestampMonotonic", "--value", unit]).stdout)


class Before:
    """A machine as it was: files, users, rules, routes, resolver, units."""

    def __init__(self, machine):
        self.machine = machine
        self.state = self._now()

    def _now(self):
        look = "getent passwd; getent group; getent shadow; cat /etc/resolv.conf; ls -A /run; systemctl list-unit-files"
        return self.machine.snapshot(), state(self.machine.pod), self.machine.run(["bash", "-c", look]).stdout

    def check(self):
        for was, now in zip(self.state, self._now()):
            assert now == was


# A program whose nth call kills the script, before or after doing its work.
TRAP = """#!/bin/bash
[ {when} = before ] || /usr/bin/{name} "$@" || /usr/sbin/{name} "$@"
echo >>/opt/calls
[ "$(wc -l </opt/calls)" -lt {count} ] || kill -KILL $PPID
[ {when} = after ] || exec {name} "$@"
"""


def killed(machine, argv, name, count, when):
    """Runs a script that is killed at a point, until what it had started has ended, too, and nothing is locked."""
    trap = machine.root / "opt/traps" / name
    trap.parent.mkdir()
    trap.write_text(TRAP.format(name=name, count=count, when=when).replace("exec ", "exec env PATH=/usr/sbin:/usr/bin "))
    trap.chmod(0o755)
    done = machine.run(argv, check=False, env={"PATH": "/opt/traps:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    assert done.returncode == -9 or done.returncode == 137, (done.returncode, done.stdout, done.stderr)
    machine.run(["flock", "/var/lib", "true"])
    shutil.rmtree(trap.parent)
    (machine.root / "opt/calls").unlink()


# --- from the checkout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["/"], ids=["with all that building takes"])
def test_from_the_checkout_and_back(machine, build_dir, over):
    before = Before(machine)
    scripts = ROOT / "scripts"
    planned = install(machine, scripts, "--build", build_dir, "--dry-run").stdout
    before.check()
    # It builds; here that has been done.
    options = [] if build_dir == ROOT / "build/release" else ["--build", build_dir]
    done = install(machine, scripts, *options).stdout
    # What was said before is what was done.
    assert steps(planned) == steps(done) and len(steps(done)) > 15
    assert active(machine) == ["active", "active"] and "inet weir" in rules(machine)
    assert machine.run(["weir", "config", "check", f"/{CONFIG}"]).stdout.startswith("configuration: valid")
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""

    again = install(machine, scripts, "--build", build_dir).stdout
    assert "nothing to change" in again
    elsewhere = install(machine, scripts, "--build", build_dir, "--prefix", "/opt/weir", check=False)
    assert elsewhere.returncode == 1 and "weir is installed under /usr/local already" in elsewhere.stderr

    planned = uninstall(machine, "--dry-run")
    assert active(machine) == ["active", "active"]
    done = uninstall(machine)
    assert steps(planned) == steps(done)
    before.check()
    assert machine.run([scripts / "uninstall.sh"], check=False).stderr.startswith("uninstall.sh: weir was not installed here")


def test_a_rehearsal_without_what_building_takes(machine):
    """It names the packages, and neither fetches them nor builds."""
    before = Before(machine)
    done = install(machine, ROOT / "scripts", "--dry-run").stdout
    [packages] = re.findall("^  packages (.*)$", done, re.MULTILINE)
    assert {"cmake", "libbpf-dev"} <= set(packages.split()) and done.splitlines()[-1].startswith("nothing was changed: --dry-run; ")
    before.check()


# What stays open to the services in the eyes of systemd: both speak to the network and have a capability for it.
OPEN = """AmbientCapabilities= CapabilityBoundingSet=~CAP_NET_ADMIN DeviceAllow= IPAddressDeny= PrivateNetwork= PrivateUsers=
	RestrictAddressFamilies=~AF_(INET|INET6) RestrictAddressFamilies=~AF_UNIX RootDirectory=/RootImage= SystemCallFilter=~@resources""".split()
OPEN_TO = {
    "weir-proxy.service": {*OPEN, "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)", "SystemCallFilter=~@privileged"},
    "weir-intercept.service": {*OPEN, "ProcSubset=", "RestrictAddressFamilies=~AF_NETLINK"},
}
FORBIDDEN = {"bpf", "chroot", "keyctl", "mount", "setuid"}


def test_the_units_are_sound_and_confined(machine, release):
    install(machine, release)
    done = machine.run(["systemd-analyze", "verify", "--man=no", *UNITS])
    assert done.stdout + done.stderr == ""
    named = set(re.findall(r"man:([\w-]+)\(8\)", machine.run(["systemctl", "cat", *UNITS]).stdout))
    assert named == {"weir", "weir-proxy"}
    assert all((machine.root / f"usr/local/share/man/man8/{page}.8").exists() for page in named)
    for unit in UNITS:
        shown = machine.run(["systemd-analyze", "security", unit]).stdout
        # From 0, confined, to 10. An unconfined service has 9.6.
        assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)[1]) < 2
        if not acceleration():  # which wants more
            rows = json.loads(machine.run(["systemd-analyze", "security", "--json=short", unit]).stdout)
            assert {row["name"] for row in rows if row["exposure"]} == OPEN_TO[unit]
            calls = machine.run(["systemctl", "show", "--property", "SystemCallFilter", "--value", unit]).stdout
            assert FORBIDDEN.isdisjoint(calls.split()) and "connect" in calls.split()
    status = machine.run(["cat", f"/proc/{pid(machine)}/status"]).stdout
    weir = machine.run(["id", "-u", "weir"]).stdout.strip()
    assert f"Uid:\t{weir}\t{weir}\t{weir}\t{weir}\n" in status
    bounds = 1 << 13 | 1 << 12 | (1 << 38 | 1 << 39 if acceleration() else 0)  # also CAP_NET_ADMIN; CAP_PERFMON and CAP_BPF
    for kind, mask in (("Prm", 1 << 13), ("Eff", 1 << 13), ("Amb", 0), ("Bnd", bounds)):
        assert f"Cap{kind}:\t{mask:016x}\n" in status  # CAP_NET_RAW
    assert "NoNewPrivs:\t1\n" in status and "Seccomp:\t2\n" in status


# --- by hand ---------------------------------------------------------------------------------------------------------


def told(section):
    """What a section of a page tells to type, as root; a block of YAML is the configuration."""
    lines, inside = [], False
    for line in section.splitlines():
        if line.startswith("```"):
            inside = not inside
            lines.append("cat >/etc/weir/weir.yaml <<'YAML'" if inside else "YAML")
        elif inside:
            lines.append(line)
        elif line.startswith("    "):
            lines.append(line.strip().removeprefix("sudo "))
    return lines


@pytest.mark.parametrize("over", ["/"])
def test_by_hand_as_the_first_page_says(machine, build_dir, network, over):
    """Its commands and its configuration as they stand there, but for the endpoints, and what has been built already."""
    outside = network.pod("outside")
    section = (ROOT / "README.md").read_text().partition("\n## On your own machine\n")[2].partition("\n## ")[0]
    text = "\n".join(line for line in told(section) if not line.startswith(("cmake --preset", "scripts/deps")))
    text = re.sub(r"10\.0\.0\.\d", outside.ipv4, text.replace("tls: mesh, ", "").replace("build/release", str(build_dir)))
    start, begun, rest = text.partition(" &\n")
    assert "cmake --install" in start and begun and rest.count("\n") >= 6
    (machine.root / "etc/resolv.conf").unlink()
    (machine.root / "etc/resolv.conf").write_text("nameserver 10.77.0.1\n")

    def run(script):
        return machine.run(["bash", "-e", "-c", f"cd {ROOT}\n{script}"]).stdout

    with Origin(outside, 9080, serve(reply("hello\n"))):
        run(f"{start} >/dev/null 2>&1 &")
        eventually(lambda: machine.run(["weir", "stats", "show"], check=False).returncode == 0)
        said = run(rest.replace("curl ", "curl -s --max-time 30 "))
    assert "\nhello\n" in said and rules(machine) == ""


# --- an archive: traffic, reboot, crash ------------------------------------------------------------------------------


def counted(machine):
    """Connections that the proxy has taken: outbound, inbound."""
    rows = json.loads(machine.run(["weir", "stats", "show", "name=downstream_connections_total", "-j"]).stdout)
    return [row["value"] for row in (rows["counters"] if isinstance(rows, dict) else rows)]


def test_traffic_and_a_reboot(machine, release, network):
    outside, metadata = network.pod("outside"), "169.254.169.254"
    outside.address(f"{metadata}/32")
    Server(outside, 80, "outside")
    for port in (22, 8080):
        Server(machine.pod, port, "app")
    install(machine, release)
    for _ in range(2):
        # Everything goes where it was going: through the proxy, but for SSH and the clouds' metadata.
        machine.pod.ip(f"route replace {metadata} via {outside.ipv4}")
        taken = counted(machine)
        assert probe(machine.pod, metadata, 80).startswith(f"outside {machine.pod.ipv4}:")
        assert probe(machine.pod, outside.ipv4, 80).startswith(f"outside {machine.pod.ipv4}:")
        assert probe(outside, machine.pod.ipv4, 8080).startswith("app 127.0.0.6:")
        assert probe(outside, machine.pod.ipv4, 22).startswith(f"app {outside.ipv4}:")
        assert [now - then for now, then in zip(counted(machine), taken)] == [1, 1]
        machine.reboot()
        assert active(machine) == ["active", "active"]
        # Nothing is captured before the proxy serves.
        assert moment(machine, UNITS[0], "ActiveEnter") <= moment(machine, UNITS[1], "InactiveExit")
    machine.cut()
    machine.boot()
    assert active(machine) == ["active", "active"]
    assert probe(outside, machine.pod.ipv4, 8080).startswith("app 127.0.0.6:")


def with_reviews(config, pod):
    """The default configuration with what its comments propose, in clear text and served by a pod."""
    text = re.sub(r"^# ?((services|clusters):.*|  - .*reviews.*)$", r"\1", config, flags=re.MULTILINE)
    return text.replace("services: []\nclusters: []\n", "").replace("tls: mesh, ", "").replace("10.0.0.2", pod.ipv4)


def test_names_of_the_mesh(machine, release, network):
    """The configuration is changed as its comments say, and reloaded."""
    outside = network.pod("outside")
    Server(outside, 9080, "reviews")
    install(machine, release)
    path = machine.root / CONFIG
    text = with_reviews(path.read_text(), outside)
    path.write_text(text)
    machine.run(["systemctl", "reload", UNITS[0]])
    vip = machine.run(["getent", "ahostsv4", "reviews.mesh"]).stdout.split()[0]
    assert vip.startswith("240.240.")
    assert probe(machine.pod, vip, 80).startswith("reviews ")
    # One with a mistake is refused with its place, and changes nothing.
    path.write_text(text + "nonsense: 1\n")
    assert machine.run(["systemctl", "reload", UNITS[0]], check=False).returncode == 1
    assert "nonsense" in machine.run(["journalctl", "--unit", UNITS[0]]).stdout
    assert probe(machine.pod, vip, 80).startswith("reviews ")


def indented(heading):
    """The commands in a section of the page about virtual machines."""
    section = (ROOT / "docs" / "vm.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


def test_joining_a_mesh_by_the_page(machine, release, tmp_path):
    """Its commands as they stand there, the first ones where the authority's key is."""
    issuing = [line for line in indented("Joining a mesh") if line.startswith("scripts/")]
    putting = [line for line in indented("Joining a mesh") if line.startswith("sudo ")]
    assert len(issuing) == len(putting) == 2
    install(machine, release)
    for line in issuing:
        program, *words = line.split()
        subprocess.run([ROOT / program, *words], cwd=tmp_path, check=True, capture_output=True)
    shutil.copytree(tmp_path / "pki/web-1", machine.root / "opt/web-1")
    machine.run(["bash", "-e", "-c", "cd /opt/web-1\n" + "\n".join(line.removeprefix("sudo ") for line in putting)])
    # As the comments of the configuration show.
    path = machine.root / CONFIG
    path.write_text(re.sub(r"^# ?(tls:.*)$", r"\1", path.read_text(), flags=re.MULTILINE))
    machine.run(["systemctl", "reload", UNITS[0]])
    assert "spiffe://mesh/vm/web-1" in machine.run(["weir", "cert", "show"]).stdout


def test_what_the_page_advises(machine, release, network):
    install(machine, release)
    # SSH on another port.
    outside = network.pod("outside")
    Server(machine.pod, 2222, "sshd")
    assert probe(outside, machine.pod.ipv4, 2222).startswith("sshd 127.0.0.6:")
    text = (machine.root / CONFIG).read_text().replace("  capture:\n", "  capture:\n    inbound: {exclude_ports: [2222]}\n")
    (machine.root / CONFIG).write_text(text)
    machine.run(["systemctl", "reload", UNITS[0]])
    eventually(lambda: probe(outside, machine.pod.ipv4, 2222).startswith(f"sshd {outside.ipv4}:"))
    # A firewall that flushes everybody's rules, and what brings them back.
    machine.run(["nft", "flush", "ruleset"])
    assert rules(machine) == ""
    machine.run(["systemctl", "reload", UNITS[1]])
    assert "inet weir" in rules(machine)
    # A port below 1024.
    text = (machine.root / CONFIG).read_text() + 'admin: {metrics: "127.0.0.1:90"}\n'
    (machine.root / CONFIG).write_text(text)
    drop_in = machine.root / "etc/systemd/system/weir-proxy.service.d/port.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\n" + "".join(f"{name}=CAP_NET_BIND_SERVICE\n" for name in ("AmbientCapabilities", "CapabilityBoundingSet")))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", UNITS[0]])
    assert "weir_" in machine.run(["curl", "-s", "http://127.0.0.1:90/metrics"]).stdout
    # Out of the mesh, now.
    machine.run(["systemctl", "stop", UNITS[0]])
    assert active(machine) == ["inactive", "inactive"] and rules(machine) == ""


DIAL = "exec 3<>/dev/tcp/{}/80 && cat <&3"


def test_with_ebpf_as_the_page_says(machine, release, network):
    """The drop-in of the page: programs and no rules, as long as the proxy serves, after a reboot, too."""
    outside = network.pod("outside")
    Server(machine.pod, 8080, "app")
    Server(outside, 80, "outside")
    before = Before(machine)
    install(machine, release)
    drop_in = machine.root / "etc/systemd/system/weir-intercept.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("\n".join(indented("With eBPF")) + "\n")

    def calls():
        """One each way; those that the proxy took. What is to be captured is started by systemd, in the machine's control groups."""
        taken = counted(machine)
        words = ["systemd-run", "--quiet", "--wait", "--pipe", "bash", "-c", DIAL.format(outside.ipv4)]
        assert machine.run(words).stdout.startswith("outside ")
        assert probe(outside, machine.pod.ipv4, 8080).startswith("app ")
        return [now - then for now, then in zip(counted(machine), taken)]

    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", UNITS[1]])
    assert rules(machine) == "" and calls() == [1, 1]
    machine.run(["systemctl", "reload", UNITS[0]])
    machine.reboot()
    assert active(machine) == ["active", "active"] and rules(machine) == "" and calls() == [1, 1]
    # It crashes, and is back.
    first = pid(machine)
    machine.run(["systemctl", "kill", "--signal", "KILL", UNITS[0]])
    eventually(lambda: pid(machine) not in ("0", first) and active(machine) == ["active", "active"])
    assert calls() == [1, 1]
    machine.run(["systemctl", "stop", UNITS[0]])
    pins = ["find", "/sys/fs/bpf/weir"]
    assert machine.run(pins, check=False).stdout == ""
    assert probe(outside, machine.pod.ipv4, 8080).startswith(f"app {outside.ipv4}:")
    machine.run(["systemctl", "start", UNITS[0]])
    eventually(lambda: active(machine) == ["active", "active"])
    assert machine.run(pins).stdout
    uninstall(machine)
    assert machine.run(pins, check=False).stdout == ""
    shutil.rmtree(drop_in.parent)
    machine.run(["systemctl", "daemon-reload"])
    before.check()


def test_a_crash_cuts_nobody_off(machine, release, network):
    """While the proxy is gone connections go their own way; it comes back, and so do the rules; at last it stays down."""
    outside = network.pod("outside")
    Server(machine.pod, 8080, "app")
    Server(outside, 80, "outside")
    install(machine, release)
    assert machine.run(["systemctl", "show", "--property", "NRestarts", "--value", UNITS[0]]).stdout == "0\n"
    machine.run(["systemctl", "kill", "--signal", "KILL", UNITS[0]])
    restarted = ["systemctl", "show", "--property", "NRestarts", "--value", UNITS[0]]
    eventually(lambda: machine.run(restarted).stdout == "1\n")
    eventually(lambda: active(machine) == ["active", "active"])
    assert probe(outside, machine.pod.ipv4, 8080).startswith("app 127.0.0.6:")
    # A configuration that cannot be started with: systemd tries some times and gives up.
    (machine.root / CONFIG).write_text("nonsense: 1\n")
    machine.run(["systemctl", "kill", "--signal", "KILL", UNITS[0]])
    eventually(lambda: active(machine) == ["failed", "inactive"])
    assert rules(machine) == ""
    assert probe(outside, machine.pod.ipv4, 8080).startswith(f"app {outside.ipv4}:")
    assert probe(machine.pod, outside.ipv4, 80).startswith("outside ")
    # And the way back.
    shutil.copy(machine.root / release[1:] / "install.d" / "weir.yaml", machine.root / CONFIG)
    machine.run(["systemctl", "reset-failed", UNITS[0]])
    machine.run(["systemctl", "start", UNITS[0]])
    eventually(lambda: active(machine) == ["active", "active"])
    machine.run(["systemctl", "stop", UNITS[0]])
    assert active(machine) == ["inactive", "inactive"] and rules(machine) == ""


def test_a_restart_lets_connections_end(machine, release, network):
    """As an upgrade does it: what is open goes on, what is new meanwhile goes its own way."""
    client = network.pod("client")
    Server(machine.pod, 8080, "app")
    install(machine, release)
    with Origin(machine.pod, 8081, lambda peer: peer.send(peer.read(4)).send(peer.read(5))):
        held = connect(client, machine.pod.ipv4, 8081).send("well")
        assert held.read(4) == b"well"
        first = pid(machine)
        machine.run(["systemctl", "--no-block", "restart", UNITS[0]])
        eventually(lambda: probe(client, machine.pod.ipv4, 8080).startswith(f"app {client.ipv4}:"))
        assert pid(machine) == first
        assert held.send("hello").rest() == b"hello"
        held.close()
    eventually(lambda: active(machine) == ["active", "active"] and pid(machine) != first)
    assert probe(client, machine.pod.ipv4, 8080).startswith("app 127.0.0.6:")
    # The rules alone can be stopped, too.
    machine.run(["systemctl", "stop", UNITS[1]])
    assert active(machine) == ["active", "inactive"]
    assert probe(client, machine.pod.ipv4, 8080).startswith(f"app {client.ipv4}:")
    machine.run(["systemctl", "start", UNITS[1]])
    assert probe(client, machine.pod.ipv4, 8080).startswith("app 127.0.0.6:")


APPLIES_FOR_EVER = """#!/bin/sh
[ "$1 $2" != "intercept apply" ] || exec sleep infinity
exec /usr/local/bin/weir.real "$@"
"""


def test_stopped_while_rules_are_applied(machine, release):
    install(machine, release, "--no-start")
    weir = machine.root / "usr/local/bin/weir"
    weir.rename(weir.with_suffix(".real"))
    weir.write_text(APPLIES_FOR_EVER)
    weir.chmod(0o755)
    machine.run(["systemctl", "start", UNITS[0]])
    eventually(lambda: active(machine) == ["active", "activating"])
    machine.run(["systemctl", "stop", UNITS[0]])
    # Nobody is told of a failure.
    assert active(machine) == ["inactive", "inactive"] and rules(machine) == ""


def test_rules_laid_by_hand_go_with_the_rest(machine, release):
    before = Before(machine)
    install(machine, release)
    machine.run(["systemctl", "stop", UNITS[0]])
    machine.run(["weir", "intercept", "apply"])
    assert "inet weir" in rules(machine)
    assert "  remove the interception" in steps(uninstall(machine))
    before.check()


# --- upgrades --------------------------------------------------------------------------------------------------------


def make_newer(folder):
    """The release in a folder becomes 0.2.0: another version in its programs, one file more and one less."""
    for name in ("weir", "weir-proxy"):
        program = folder / "bin" / name
        program.write_bytes(program.read_bytes().replace(b"0.1.0", b"0.2.0"))
    (folder / "share" / "more.txt").write_text("more\n")
    (folder / "include" / "weir_plugin.h").unlink()


def test_a_configuration_that_is_a_link(machine, release):
    """It stays one, also where it leads to nothing (which is an error) or to what could be ours."""
    link, target = machine.root / CONFIG, machine.root / "srv/weir.yaml"
    link.parent.mkdir()
    link.symlink_to("/srv/weir.yaml")
    refused = install(machine, release, check=False)
    assert refused.returncode == 1 and f"/{CONFIG} is a link to /srv/weir.yaml, which is not there" in refused.stderr
    assert link.is_symlink() and not (machine.root / "usr/local/bin/weir").exists()
    default = (machine.root / release[1:] / "install.d" / "weir.yaml").read_text()
    target.write_text(default)
    assert f"kept: /{CONFIG}" in install(machine, release).stdout
    assert active(machine) == ["active", "active"]
    assert f"kept, since it was changed: /{CONFIG}" in uninstall(machine)
    assert link.is_symlink() and target.read_text() == default


def test_an_upgrade_in_place(machine, release):
    before = Before(machine)
    install(machine, release)
    first, newer = pid(machine), machine.root / release[1:]
    make_newer(newer)
    default = newer / "install.d" / "weir.yaml"
    default.write_text(default.read_text() + "# newer\n")
    # Interrupted when all files are there, and repeated: what runs is the new one.
    killed(machine, [f"{release}/install.sh"], "systemctl", 1, "before")
    assert pid(machine) == first
    # It ends when the rules are there, too; if they cannot be laid, it says so.
    drop_in, obstacle = machine.root / "etc/systemd/system/weir-intercept.service.d/wait.conf", machine.root / "opt/obstacle"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nExecStartPre=test ! -e /opt/obstacle\n")
    obstacle.touch()
    refused = install(machine, release, check=False)
    assert refused.returncode == 1 and "weir-intercept.service did not start" in refused.stderr
    obstacle.unlink()
    shutil.rmtree(drop_in.parent)
    machine.run(["systemctl", "daemon-reload"])
    said = install(machine, release).stdout
    assert "installing weir 0.2.0 over 0.1.0" in said and pid(machine) != first and active(machine) == ["active", "active"]
    assert machine.run(["weir-proxy", "--version"]).stdout == "weir-proxy 0.2.0\n"
    assert (machine.root / "usr/local/share/more.txt").exists()
    assert not (machine.root / "usr/local/include/weir_plugin.h").exists()
    # Nobody had changed the default: the new one took its place. What was changed stays, and what was disabled, too.
    assert (machine.root / CONFIG).read_text().endswith("# newer\n")
    # One that the new programs do not take keeps the old ones in service.
    first = pid(machine)
    (machine.root / CONFIG).write_text("nonsense: 1\n")
    (newer / "share" / "more.txt").write_text("newest\n")
    refused = install(machine, release, check=False)
    assert refused.returncode == 1 and re.search("does not take the configuration that is there.*nonsense", refused.stderr)
    assert pid(machine) == first and (machine.root / "usr/local/share/more.txt").read_text() == "more\n"
    changed = "services: []\nclusters: []\n# mine\n"
    (machine.root / CONFIG).write_text(changed)
    machine.run(["systemctl", "disable", "--now", UNITS[1]])
    default.write_text(default.read_text() + "# newest\n")
    (newer / "share" / "more.txt").write_text("other\n")
    planned, done = install(machine, release, "--dry-run").stdout, install(machine, release).stdout
    assert steps(planned) == steps(done) and f"  kept: /{CONFIG}" in steps(done) and "  restart weir-proxy.service" in steps(done)
    assert (machine.root / CONFIG).read_text() == changed and active(machine) == ["active", "inactive"]
    # Uninstalled, the user's own stays and is named; then nothing is there but that.
    (machine.root / "etc/weir/key.pem").write_text("secret")
    said = uninstall(machine)
    assert f"kept, since it was changed: /{CONFIG}" in said and "kept, since there are other files in it: /etc/weir" in said
    assert sorted(path.name for path in (machine.root / "etc/weir").iterdir()) == ["key.pem", "weir.yaml"]
    assert "secret" not in said
    # Installed again, it is in use again; --purge takes it.
    install(machine, release)
    assert (machine.root / CONFIG).read_text() == changed
    uninstall(machine, "--purge")
    shutil.rmtree(newer)
    before.state[0].pop("/opt/" + newer.name, None)
    for path in [path for path in before.state[0] if path.startswith(release)]:
        del before.state[0][path]
    before.check()


# --- the Debian package ----------------------------------------------------------------------------------------------


def test_from_a_package(machine, packages, tmp_path):
    before = Before(machine)
    [deb] = packages.glob("*.deb")
    control = subprocess.run(["dpkg-deb", "--field", deb, "Depends"], capture_output=True, text=True, check=True).stdout
    assert {"libssl3", "libfyaml0", "libnftnl11", "libc-ares2", "libc6"} <= set(re.findall(r"[\w.+-]+", control))
    shutil.copy(deb, machine.root / "opt/weir.deb")
    machine.run(["dpkg", "--install", "/opt/weir.deb"])
    assert active(machine) == ["active", "active"] and "inet weir" in rules(machine)
    assert machine.run(["dpkg", "--verify", "weir"]).stdout == ""
    refused = install(machine, ROOT / "scripts", "--build", ROOT / "none", check=False)
    assert refused.returncode == 1 and "installed as a Debian package" in refused.stderr

    # A newer one: nothing is asked, the configuration stays, the new programs run.
    changed = "services: []\nclusters: []\n# mine\n"
    (machine.root / CONFIG).write_text(changed)
    first, tree = pid(machine), tmp_path / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    for path in [tree / "usr/bin/weir", tree / "usr/bin/weir-proxy", *(tree / "DEBIAN").iterdir()]:
        path.write_bytes(path.read_bytes().replace(b"0.1.0", b"0.2.0"))
    subprocess.run(["dpkg-deb", "--build", tree, machine.root / "opt/weir.deb"], check=True, capture_output=True)
    machine.run(["dpkg", "--install", "/opt/weir.deb"])
    assert machine.run(["weir-proxy", "--version"]).stdout == "weir-proxy 0.2.0\n"
    assert active(machine) == ["active", "active"] and pid(machine) != first
    assert (machine.root / CONFIG).read_text() == changed
    machine.reboot()
    assert active(machine) == ["active", "active"]

    # Removed, as Debian has it: the configuration stays until it is purged. Rules and services are gone.
    machine.run(["dpkg", "--remove", "weir"])
    assert rules(machine) == "" and (machine.root / CONFIG).read_text() == changed
    assert "weir" not in machine.run(["systemctl", "list-unit-files"]).stdout
    machine.run(["dpkg", "--install", "/opt/weir.deb"])
    assert active(machine) == ["active", "active"]
    machine.run(["dpkg", "--purge", "weir"])
    (machine.root / "opt/weir.deb").unlink()
    left = {path for path in machine.snapshot() if path.startswith("/etc/weir")}
    assert left == {"/etc/weir", f"/{CONFIG}"}  # changed: it is the user's
    shutil.rmtree(machine.root / "etc/weir")
    before.check()


@pytest.mark.parametrize("over", ["bare"])
def test_by_the_words_of_the_page(machine, packages, network, over):
    """The commands for the package and for the archive as they stand there, beside what a build leaves; libraries are fetched.
    What the package's helper does for systemd-resolved stays when it is upgraded, and goes with it."""
    outside = network.pod("outside")
    Server(outside, 9080, "reviews")
    for path in [*packages.glob("*.deb"), *packages.glob("*.tar.gz")]:
        shutil.copy(path, machine.root / "srv")
    machine.run(["apt-get", "update", "-qq"])
    machine.run(["apt-get", "install", "-qq", "systemd-resolved"])

    def do(*lines):
        return machine.run(["bash", "-e", "-c", "cd /srv\n" + "\n".join(line.removeprefix("sudo ") for line in lines)], input="y\n" * 9).stdout

    [install_package] = indented("As a Debian package")
    do(install_package)
    assert active(machine) == ["active", "active"] and "libfyaml0" in machine.run(["dpkg-query", "-W"]).stdout
    drop_in = machine.root / "etc/systemd/resolved.conf.d/weir.conf"
    default = (machine.root / CONFIG).read_text()
    (machine.root / CONFIG).write_text(with_reviews(default, outside))
    assert "set intercept.capture.dns: false in" in do("/usr/lib/weir/dns resolved")
    (machine.root / CONFIG).write_text((machine.root / CONFIG).read_text().replace("dns: true ", "dns: false "))
    do("systemctl reload weir-proxy")
    eventually(lambda: "DNS queries" not in machine.run(["weir", "intercept", "show"]).stdout)
    vip = machine.run(["getent", "ahostsv4", "reviews.mesh"]).stdout.split()[0]
    assert vip.startswith("240.240.") and probe(machine.pod, vip, 80).startswith("reviews ")
    assert "127.0.0.1:15053" in machine.run(["resolvectl", "dns"]).stdout
    (machine.root / CONFIG).write_text(default)
    do("dpkg --install ./weir_*.deb")
    assert drop_in.exists() and "    dns: false " in (machine.root / CONFIG).read_text()
    # Removed, it goes; the mode is kept with the configuration, so it comes back with the package.
    do("apt remove weir")
    assert not drop_in.exists()
    do("dpkg --install ./weir_*.deb")
    assert drop_in.exists() and "    dns: false " in (machine.root / CONFIG).read_text()
    assert "127.0.0.1:15053" in machine.run(["resolvectl", "dns"]).stdout
    uninstall_script, _, uninstall_package = indented("Uninstalling")[0].partition("# or: ")
    do(uninstall_package)
    assert not drop_in.exists() and "127.0.0.1:15053" not in machine.run(["resolvectl", "dns"]).stdout
    assert not (machine.root / "etc/weir").exists()

    before = Before(machine)
    unpack, install_archive = indented("From a release")[-2:]
    do(unpack, install_archive)
    assert active(machine) == ["active", "active"]
    do(uninstall_script)
    for folder in (machine.root / "srv").glob("weir-*/"):
        shutil.rmtree(folder)
    before.check()
    # Not over each other. (dpkg keeps a note of it.)
    do(unpack, install_archive)
    refused = machine.run(["bash", "-c", "dpkg --install /srv/weir_*.deb"], check=False)
    assert refused.returncode == 1 and "weir was installed here by install.sh: run /usr/local/lib/weir/uninstall.sh first" in refused.stderr
    assert active(machine) == ["active", "active"] and not (machine.root / "usr/bin/weir").exists()


# --- refused, interrupted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "system, text",
    [
        ('ID=fedora\nPRETTY_NAME="Fedora Linux 40"\nVERSION_ID=40\n', "this is Fedora Linux 40; weir is installed by this script on Debian"),
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 11"\nVERSION_ID="11"\n', "this is Debian GNU/Linux 11, which is too old"),
        ('ID=ubuntu\nPRETTY_NAME="Ubuntu 22.04"\nVERSION_ID="22.04"\n', "this is Ubuntu 22.04, which is too old"),
        ("", "this is an unknown system"),
        ("library", "libraries are missing: libfyaml.so.0; install them (apt-get install libfyaml0)"),
        ("foreign", "/usr/local/bin/weir: there already, and not by this script"),
        ("resolved", "systemd-resolved is not installed here"),
        ("global", "resolved.conf.d/uplink.conf names DNS servers for all of systemd-resolved"),
        ("drop-in", "resolved.conf.d/weir.conf: there already, and not by this script"),
        ("group", "there is a group weir already, but no user of that name"),
        ("user", "there is a user weir already, but no group of that name"),
        ("unit", "/etc/systemd/system/weir-proxy.service: there already, and not by this script"),
        ("read-only", "/usr/local is not a folder that can be written to, and /usr/local/lib/weir/uninstall.sh would go there"),
    ],
)
def test_refused(network, build_dir, system, text):
    """With a sentence, and nothing has changed. A root of another system, which need not run for that."""
    machine = Machine(network.pod("image"), share=[ROOT])
    options = []
    if system == "library":
        for path in machine.root.glob("usr/lib/*-linux-gnu/libfyaml.so.0*"):
            path.unlink()
    elif system == "foreign":
        (machine.root / "usr/local/bin/weir").write_text("somebody's")
    elif system == "resolved":
        options = ["--dns", "resolved"]
    elif system == "global":
        options = ["--dns", "resolved"]
        (machine.root / "etc/systemd/system/systemd-resolved.service").write_text("[Service]\nExecStart=/bin/true\n")
        (machine.root / "etc/systemd/resolved.conf.d").mkdir()
        (machine.root / "etc/systemd/resolved.conf.d/uplink.conf").write_text("[Resolve]\nDNS=192.0.2.53\n")
    elif system == "drop-in":
        options = ["--dns", "resolved"]
        (machine.root / "etc/systemd/resolved.conf.d").mkdir()
        (machine.root / "etc/systemd/resolved.conf.d/weir.conf").write_text("# somebody's\n")
    elif system in ("group", "user"):
        with open(machine.root / "etc" / {"group": "group", "user": "passwd"}[system], "a") as file:
            file.write({"group": "weir:x:977:\n", "user": "weir:x:977:100::/:/bin/false\n"}[system])
    elif system == "unit":
        (machine.root / "etc/systemd/system/weir-proxy.service").write_text("[Service]\nExecStart=/bin/true\n")
    elif system == "read-only":
        machine.mount("usr/local", "-t", "tmpfs", "-o", "ro", "tmpfs")
    else:
        (machine.root / "etc/os-release").unlink()
        (machine.root / "etc/os-release").write_text(system)
    before = machine.snapshot()
    words = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir, *options]
    done = machine.pod.run(words, check=False)
    assert done.returncode == 1 and text in done.stderr and done.stdout == ""
    assert machine.snapshot() == before


@pytest.mark.parametrize(
    "script, options, status, text",
    [
        ("install.sh", ["--root", ""], 2, "install.sh: --root wants a value"),
        ("install.sh", ["--prefix", ""], 2, "install.sh: --prefix wants a value"),
        ("install.sh", ["--dns", ""], 2, "install.sh: --dns wants a value"),
        ("install.sh", ["--dns-zone", ""], 2, "install.sh: --dns-zone wants a value"),
        ("install.sh", ["--dns-zone", "."], 2, "install.sh: --dns-zone wants the name of a zone"),
        ("install.sh", ["--build", ""], 2, "install.sh: --build wants a value"),
        ("install.sh", ["--root", "/nowhere"], 1, "install.sh: there is no folder /nowhere\n"),
        ("install.sh", ["--build", "/no/where"], 1, "install.sh: no build in /no/where"),
        ("uninstall.sh", ["--root", ""], 2, "uninstall.sh: --root wants a value"),
        ("uninstall.sh", ["--root", "/nowhere"], 1, "uninstall.sh: there is no folder /nowhere\n"),
        ("uninstall.sh", ["--rot"], 2, "uninstall.sh: unknown option '--rot'"),
        ("install.d/dns", ["resolved", ""], 2, "usage: dns "),
    ],
)
def test_options_that_are_wrong(script, options, status, text):
    """Above all: an empty word is no folder, lest a variable that is not set stands for the folder where one is. Nothing here
    can change this machine: it is a rehearsal, and the helper has none installed to change."""
    words = [ROOT / "scripts" / script, *options, *([] if script.endswith("dns") else ["--dry-run"])]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (status, "") and text in done.stderr


# `install` as on a disk that gets full, half a program written; or grep, which writes the record anew.
FULL_DISK = {
    "install": """case "${@: -1}" in */weir-proxy.weir-new) head -c 1000 "${@: -2:1}" >"${@: -1}" && exit 1 ;; esac""",
    "grep": """case "$1" in -vxF) echo "grep: write error: No space left on device" >&2 && exit 2 ;; esac""",
}


@pytest.mark.parametrize("name", FULL_DISK)
def test_a_full_disk(network, build_dir, tmp_path, name):
    """The installation ends, and what there is of it is taken away again."""
    machine = Machine(network.pod("image"), share=[ROOT])
    before = machine.snapshot()
    (tmp_path / name).write_text(f'#!/bin/bash\n{FULL_DISK[name]}\nexec /usr/bin/{name} "$@"\n')
    (tmp_path / name).chmod(0o755)
    words = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir]
    done = machine.pod.run(["env", f"PATH={tmp_path}:/usr/sbin:/usr/bin", *words], check=False)
    assert done.returncode == 1
    assert (machine.root / "var/lib/weir-install/record").read_text().startswith("prefix /usr/local\n")
    machine.pod.run([ROOT / "scripts/uninstall.sh", "--root", machine.root])
    assert machine.snapshot() == before


# `useradd` that says when it is called, and waits to be told to go on.
WAITING = """#!/bin/bash
: >"{folder}/called"
read -r _ <"{folder}/go"
exec /usr/sbin/useradd "$@"
"""


def test_one_at_a_time(network, build_dir, tmp_path):
    machine = Machine(network.pod("image"), share=[ROOT])
    before = machine.snapshot()
    install = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir]
    uninstall = [ROOT / "scripts/uninstall.sh", "--root", machine.root]
    (tmp_path / "useradd").write_text(WAITING.format(folder=tmp_path))
    (tmp_path / "useradd").chmod(0o755)
    os.mkfifo(tmp_path / "go")
    first = machine.pod.start(install, env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin"})
    eventually((tmp_path / "called").exists)
    meanwhile = machine.snapshot()
    for words in (install, uninstall):
        done = machine.pod.run(words, check=False)
        assert done.returncode == 1 and f"is changing {machine.root} at this moment" in done.stderr and done.stdout == ""
        assert machine.pod.run([*words, "--dry-run"]).stdout.endswith("nothing was changed: --dry-run\n")
    assert machine.snapshot() == meanwhile != before
    (tmp_path / "go").write_text("\n")
    assert first.wait(60) == 0
    machine.pod.run(uninstall)
    assert machine.snapshot() == before


def test_a_configuration_of_ones_own_and_names(network, build_dir):
    """What the mode of names wants changed there is said when it is asked for or another, and only then."""
    machine = Machine(network.pod("image"), share=[ROOT])

    def install(*options):
        words = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir, *options]
        return re.findall("(?:set intercept.capture.dns: .*? in /etc/weir/weir.yaml)", machine.pod.run(words).stdout)

    assert install("--dns", "none") == []
    config = machine.root / CONFIG
    config.write_text(config.read_text() + "# mine\n")
    for options, value in ((["--dns", "capture"], "true"), (["--dns", "none"], "false"), (["--dns", "none"], "false"), ([], None)):
        assert install(*options) == ([f"set intercept.capture.dns: {value} in /{CONFIG}"] if value else []), options
    # As after an installation that was taken away, and had no capture of names.
    machine.pod.run([ROOT / "scripts/uninstall.sh", "--root", machine.root])
    assert install() == [f"set intercept.capture.dns: true in /{CONFIG}"]


def cut_at(kind):
    return lambda text: text[: text.index(f"\n{kind} ") + 1]


@pytest.mark.parametrize(
    "damage, fault",
    [
        (lambda text: "", "it does not name /usr/local/bin/weir"),
        (cut_at("file"), "it does not name /usr/local/bin/weir"),
        (cut_at("unit"), "its end is missing"),
        (lambda text: text[:-1], "its last line has no end"),
        (lambda text: text + "\0" * 100 + "\n", "it has lines that nobody wrote"),
        (None, None),
    ],
    ids=["empty", "no files", "no end", "half a line", "zeros", "gone"],
)
def test_a_damaged_record(network, build_dir, damage, fault):
    """Neither script goes by it; repaired, what was installed can be taken away."""
    machine = Machine(network.pod("image"), share=[ROOT])
    before = machine.snapshot()
    install = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir]
    uninstall = [ROOT / "scripts/uninstall.sh", "--root", machine.root]
    machine.pod.run(install)
    record = machine.root / "var/lib/weir-install/record"
    if damage:
        record.write_text(damage(record.read_text()))
    else:
        record.unlink()
    damaged = machine.snapshot()
    for words in (install, uninstall):
        done = machine.pod.run(words, check=False)
        assert done.returncode == 1 and done.stdout == ""
        assert not fault or (f"is damaged: {fault}. Nothing was changed. Run install.sh of the same version with --repair" in done.stderr)
    machine.pod.run([*install, "--repair", "--dry-run"])
    assert machine.snapshot() == damaged
    machine.pod.run([*install, "--repair"])
    assert "nothing to change" in machine.pod.run(install).stdout
    machine.pod.run(uninstall)
    # Folders that were made for weir and bear another name may stay, empty.
    left = {path for path, what in machine.snapshot().items() if what and path not in before}
    assert all((machine.root / path[1:]).is_dir() for path in left)
    assert not [path for path in left if "weir" in path]


def test_the_path_of_su_is_enough(network, build_dir):
    """It has no folder for the programs of root, where useradd is."""
    machine = Machine(network.pod("image"), share=[ROOT])
    before = machine.snapshot()
    for script, options in (("install.sh", ["--build", build_dir]), ("uninstall.sh", [])):
        words = [ROOT / "scripts" / script, "--root", machine.root, *options]
        machine.pod.run(["env", "PATH=/usr/local/bin:/usr/bin:/bin", *words])
    assert machine.snapshot() == before


def test_ubuntu_is_welcome(network, build_dir):
    machine = Machine(network.pod("image"), share=[ROOT])
    (machine.root / "etc/os-release").unlink()
    (machine.root / "etc/os-release").write_text('ID=ubuntu\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\nVERSION_ID="24.04"\n')
    words = [ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir, "--dry-run"]
    assert machine.pod.run(words).stdout.endswith("nothing was changed: --dry-run\n")


@pytest.mark.parametrize("over", ["bare"])
def test_missing_libraries_are_installed(machine, release, over):
    """By apt-get, and only those that are missing. No test has a network: a folder takes the mirror's place."""
    assert "give --with-deps" in install(machine, release, check=False).stderr
    machine.run(["apt-get", "install", "-qq", "--no-install-recommends", "libmnl0"], check=False)
    before = Before(machine)
    done = install(machine, release, "--with-deps").stdout
    [packages] = re.findall("^  packages (.*)$", done, re.MULTILINE)
    assert "libfyaml0" in packages.split() and "libssl3" not in packages.split()
    assert active(machine) == ["active", "active"]
    # They stay, and nothing else does.
    uninstall(machine)
    left = machine.run(["dpkg-query", "-W", "-f", "${Package}\n", *packages.split()]).stdout
    assert left.split() == packages.split()


def test_every_library_has_its_package(weir, weir_proxy):
    """What the programs need is in the table of install.sh, or in every Debian."""
    script = (ROOT / "scripts/install.sh").read_text()
    table = script[script.index("package_of() {") : script.index("has_library() {")]
    needed = set()
    for program in (weir, weir_proxy):
        shown = subprocess.run(["readelf", "--dynamic", program], capture_output=True, text=True, check=True).stdout
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", shown))
    assert needed
    for library in needed - {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libgcc_s.so.1"}:
        assert re.search(rf"[\t ]{re.escape(library)}[ )]", table), library


@pytest.mark.parametrize("name, count, when", [("useradd", 1, "after"), ("mv", 2, "before"), ("systemctl", 3, "after")])
def test_an_interrupted_installation(machine, release, name, count, when):
    """Killed in the midst: it can be uninstalled, and it can be repeated."""
    before = Before(machine)
    killed(machine, [f"{release}/install.sh"], name, count, when)
    machine.run([f"{release}/uninstall.sh"])
    before.check()
    killed(machine, [f"{release}/install.sh"], name, count, when)
    install(machine, release)
    assert active(machine) == ["active", "active"]
    # The same for uninstalling.
    killed(machine, ["/usr/local/lib/weir/uninstall.sh"], "userdel", 1, "before")
    killed(machine, ["/usr/local/lib/weir/uninstall.sh"], "rm", 6, "after")
    uninstall(machine)
    before.check()


# --- images, names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/usr/local", "/opt/weir"])
def test_into_an_image(network, build_dir, prefix):
    """--root, from outside: then the machine is started for the first time."""
    machine = Machine(network.pod("image"), share=[ROOT])
    machine.boot()
    machine.off()
    before = machine.snapshot()
    machine.pod.run([ROOT / "scripts/install.sh", "--root", machine.root, "--build", build_dir, "--prefix", prefix])
    assert "weir" not in pathlib.Path("/etc/passwd").read_text()
    machine.boot()
    assert active(machine) == ["active", "active"] and "inet weir" in rules(machine)
    assert machine.run(["readlink", f"/proc/{pid(machine)}/exe"], check=False).stdout == f"{prefix}/bin/weir-proxy\n"
    machine.off()
    machine.pod.run([ROOT / "scripts/uninstall.sh", "--root", machine.root])
    assert machine.snapshot() == before


def test_names_by_systemd_resolved(machine, release, network):
    """The drop-in comes and goes, and the resolver is restarted."""
    outside = network.pod("outside")
    Server(outside, 9080, "reviews")
    machine.run(["apt-get", "install", "-qq", "systemd-resolved"])
    assert "nameserver 127.0.0.53" in machine.run(["cat", "/etc/resolv.conf"]).stdout
    before, drop_in = Before(machine), machine.root / "etc/systemd/resolved.conf.d/weir.conf"

    def invocation():
        return machine.run(["systemctl", "show", "--property", "InvocationID", "systemd-resolved"]).stdout

    started = [invocation()]
    install(machine, release, "--dns", "resolved")
    started.append(invocation())
    default = (machine.root / CONFIG).read_text()
    (machine.root / CONFIG).write_text(with_reviews(default, outside))
    machine.run(["systemctl", "reload", UNITS[0]])
    vip = machine.run(["getent", "ahostsv4", "reviews.mesh"]).stdout.split()[0]
    assert vip.startswith("240.240.") and probe(machine.pod, vip, 80).startswith("reviews ")
    (machine.root / CONFIG).write_text(default)
    install(machine, release, "--dns-zone", "example")
    assert "DNS=127.0.0.1:15053\nDomains=~example\n" in drop_in.read_text()
    assert "    dns: false " in (machine.root / CONFIG).read_text()
    assert "DNS queries" not in machine.run(["weir", "intercept", "show"]).stdout
    started.append(invocation())
    # Again, without saying so: it stays.
    install(machine, release)
    assert drop_in.exists() and invocation() == started[-1]
    machine.run(["/usr/local/lib/weir/dns", "capture"])
    assert not drop_in.exists() and "    dns: true " in (machine.root / CONFIG).read_text()
    started.append(invocation())
    assert "DNS queries" in machine.run(["weir", "intercept", "show"]).stdout
    machine.run(["/usr/local/lib/weir/dns", "resolved"])
    started.append(invocation())
    uninstall(machine)
    started.append(invocation())
    assert len(set(started)) == len(started)
    before.check()
