# SPDX-License-Identifier: Apache-2.0
"""The three machines of vagrant/: what provisions them there does so here, in namespaces, with the words of the Vagrantfile."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from machine import Machine, eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Reads a Vagrantfile as vagrant would, runs its trigger, and prints what the machines are provisioned with.
READER = r"""
require "json"
class Machine
  attr_reader :shell, :address
  def vm; self; end
  def before(*) = yield(self)
  def trigger; self; end
  def ruby; yield; end
  def define(name); yield $machines[name] = Machine.new; end
  def network(_kind, ip:) = @address = ip
  def provision(kind, **options); @shell = options if kind == "shell"; end
  def method_missing(*) = nil
end
$machines = {}
module Vagrant; def self.configure(_) = yield(Machine.new); end
load ARGV[0]
puts JSON.generate($machines.transform_values { |machine| machine.shell.merge(address: machine.address) })
"""


@pytest.fixture
def vagrant(tmp_path):
    """A copy of what the Vagrantfile wants; it is no matter that it makes files there."""
    for name in ("vagrant/Vagrantfile", "vagrant/provision.sh", "scripts/mesh-ca"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path / "vagrant"


def read(vagrant):
    done = subprocess.run(["ruby", "-e", READER, vagrant / "Vagrantfile"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run(vagrant, *words):
    """What vagrant says of it; no machine is started, so its provider needs to be installed and no more."""
    home = {"HOME": str(vagrant.parent), "VAGRANT_HOME": str(vagrant.parent / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    words = ["vagrant", *words]
    done = subprocess.run(words, cwd=vagrant, capture_output=True, text=True, timeout=120, env={**os.environ, **home})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_vagrantfile_is_valid(vagrant):
    assert run(vagrant, "validate") == "Vagrantfile validated successfully.\n"
    rows = [line.split(",") for line in run(vagrant, "status", "--machine-readable").splitlines()]
    assert [row[1] for row in rows if row[2:4] == ["state", "not_created"]] == ["web-1", "web-2", "client"]


def test_a_release_is_taken_if_there_is_one(vagrant):
    assert {machine["args"][1] for machine in read(vagrant).values()} == {"/weir"}
    release = vagrant.parent / "build/release/weir-0.1.0-linux-x86_64.tar.gz"
    release.parent.mkdir(parents=True)
    release.touch()
    assert {machine["args"][1] for machine in read(vagrant).values()} == {"/tmp/weir.tar.gz"}


# A checkout, so far as it is known to what provisions: its install.sh. What that builds is a release here.
CHECKOUT = '#!/bin/sh\nmkdir /opt/release\ntar -xzf /opt/weir.tar.gz -C /opt/release --strip-components 1\nexec /opt/release/install.sh "$@"\n'


def test_two_machines_and_a_client_are_one_mesh(network, packages, vagrant):
    [archive] = packages.glob("*.tar.gz")
    planned = read(vagrant)
    machines = {name: Machine(network.pod(name), share=[ROOT], over="bare") for name in planned}
    for name, machine in machines.items():
        machine.boot()
        machine.run(["hostname", name])
        shutil.copytree(vagrant / ".pki" / name, machine.root / "weir-pki")
        shutil.copy(archive, machine.root / "opt/weir.tar.gz")
        # The words of the Vagrantfile, with the addresses of here.
        here = {planned[other]["address"]: machines[other].pod.ipv4 for other in machines}
        words = [here.get(word, word) for word in planned[name]["args"]]
        assert words[1] == "/weir"
        words[1] = "/opt/weir.tar.gz"
        if name == "client":
            script = machine.root / "opt/checkout/scripts/install.sh"
            script.parent.mkdir(parents=True)
            script.write_text(CHECKOUT)
            script.chmod(0o755)
            words[1] = "/opt/checkout"
        said = machine.run([ROOT / "vagrant" / planned[name]["path"], *words]).stdout
        assert said.endswith(f"{name} is a member of the mesh\n")
    client = machines["client"]

    def joined():
        return all("inet weir" in machine.pod.run(["nft", "list", "tables"]).stdout for machine in machines.values())

    def answers():
        return {client.run(["curl", "-s", "--max-time", "30", "http://reviews.mesh/"]).stdout for _ in range(4)}

    both = {"reviews from web-1\n", "reviews from web-2\n"}
    eventually(joined)
    assert answers() == both
    # All of it over mutual TLS: without a certificate nobody gets in.
    shown = client.run(["weir", "cert", "show"]).stdout
    assert "spiffe://mesh/vm/client" in shown
    stranger = network.pod("stranger")
    for name in ("web-1", "web-2"):
        refused = stranger.run(["curl", "-s", "--max-time", "30", f"http://{machines[name].pod.ipv4}:9080/"], check=False)
        assert refused.returncode != 0 and refused.stdout == ""
    # One is off: the other answers. On again, it is a member as before.
    machines["web-2"].off()
    assert "reviews from web-1\n" in answers()
    machines["web-2"].boot()
    machines["web-2"].run(["hostname", "web-2"])
    eventually(joined)
    eventually(lambda: answers() == both)
