# SPDX-License-Identifier: Apache-2.0
"""Capture by systemd's units, on a machine that systemd has booted: what becomes of rules when a unit restarts."""

import json
import pathlib

import pytest

from capture import Server, stand_in
from machine import Machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROBE = """exec 3<>/dev/tcp/{address}/80; read -r line <&3; echo "$line" >/tmp/{name}; sleep 1000"""

UNITS = {
    "plain": "",
    "sliced": "Slice=mesh.slice",
    "itself": "ExecStartPre=+{weir} intercept apply --exclude-cgroups itself.service",
}


# As weir-intercept.service is with the drop-in that the documents name.
RULES = """
[Unit]
Wants=mesh.slice
After=mesh.slice
[Service]
Type=oneshot
ExecStart={weir} intercept apply --exclude-cgroups mesh.slice
"""


@pytest.fixture
def machine(network, weir):
    """With a unit of each kind, that connects when it starts and keeps what answered."""
    machine, other = Machine(network.pod("vm"), share=[ROOT]), network.pod("other")
    stand_in(machine.pod)
    Server(other, 80, "direct")
    machine.boot()
    for name, more in UNITS.items():
        command = PROBE.format(address=other.ipv4, name=name)
        lines = ["[Service]", "Type=exec", more.format(weir=weir), f"ExecStart=/bin/bash -c '{command}'"]
        (machine.root / f"etc/systemd/system/{name}.service").write_text("\n".join(lines) + "\n")
    (machine.root / "etc/systemd/system/rules.service").write_text(RULES.format(weir=weir))
    machine.run(["systemctl", "daemon-reload"])
    return machine


def answers(machine, name):
    """Starts the unit anew, and says what answered it."""
    told = f"/tmp/{name}"
    machine.run(["rm", "-f", told])
    machine.run(["systemctl", "restart", name])
    return machine.run(["bash", "-c", f"until [ -s {told} ]; do sleep 0.05; done; cat {told}"]).stdout.split()[0]


def group_check(machine, weir):
    done = machine.run([weir, "intercept", "check", "-j"], check=False)
    return {row["check"]: row["result"] for row in json.loads(done.stdout)["checks"]}["control groups"]


def test_a_unit_that_restarts(machine, weir):
    """It has another control group then. A slice stays, and a unit that applies the rules itself is never without them."""
    assert answers(machine, "plain") == "direct"
    machine.run([weir, "intercept", "apply", "--exclude-cgroups", "plain.service"])
    assert group_check(machine, weir) == "ok"
    assert answers(machine, "plain") == "outbound" and group_check(machine, weir) == "failed"
    machine.run(["systemctl", "start", "rules"])
    text = machine.run([weir, "intercept", "plan", "--exclude-cgroups", "mesh.slice"]).stdout
    assert 'socket cgroupv2 level 1 "mesh.slice"' in text
    machine.run([weir, "intercept", "remove"])
    machine.run(["nft", "-f", "-"], input=text)
    installed = machine.run([weir, "intercept", "apply", "--exclude-cgroups", "mesh.slice"]).stdout
    assert installed == "interception: unchanged\n", "it is text that nft takes"
    for _ in range(2):
        assert answers(machine, "sliced") == "direct" and answers(machine, "plain") == "outbound"
        assert group_check(machine, weir) == "ok"
    for _ in range(2):
        assert answers(machine, "itself") == "direct" and answers(machine, "sliced") == "outbound"
        assert group_check(machine, weir) == "ok"
