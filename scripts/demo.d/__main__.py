# SPDX-License-Identifier: Apache-2.0
"""A mesh of four pods on one machine: client, reviews v1, reviews v2, and data with redis and MariaDB."""

import argparse
import os
import signal
import subprocess
import sys
import time

import applications
import mesh
import pods
import show
from capture import Capture
from pods import Problem


class Demo:
    def __init__(self, report, backend, acceleration):
        self.report, self.backend, self.acceleration = report, backend, acceleration
        pods.WORK.mkdir(mode=0o755)
        self.hub = pods.make_bridge()
        self.client = pods.make_pod(self.hub, "client", 11)
        self.v1 = pods.make_pod(self.hub, "reviews-v1", 12)
        self.v2 = pods.make_pod(self.hub, "reviews-v2", 13)
        self.data = pods.make_pod(self.hub, "data", 14)
        self.pods = [self.client, self.v1, self.v2, self.data]
        self.proxies = {}
        self.rules_before = {}

    def start_applications(self):
        preparation = applications.prepare_mariadb(self.data)
        mesh.make_certificates(self.pods)
        applications.start_outside(self.hub)
        for pod, version in ((self.v1, "v1"), (self.v2, "v2")):
            applications.start_reviews(pod, version)
            applications.start_rpc(pod, version)
        applications.start_redis(self.data)
        applications.start_mariadb(self.data, preparation)

    def join_mesh(self):
        if self.backend == "ebpf":
            mesh.mount_bpf()
        for pod in self.pods:
            config = mesh.write_configuration(pod, self.v1, self.v2, self.data, self.acceleration)
            self.proxies[pod.name] = mesh.start_proxy(pod, config)
            self.rules_before[pod.name] = rules(pod)
            mesh.intercept(pod, self.backend)
        show.capture(self.report, self.pods, self.backend)
        if self.acceleration == "auto":
            show.acceleration(self.report, self.pods)

    def show(self):
        report, client = self.report, self.client
        capture = Capture(self.hub)
        show.names(report, client)
        show.shares(report, client)
        show.both_families(report, client)
        show.bolt(report, client)
        show.grpc(report, client)
        show.redis(report, client)
        show.database(report, client, self.data)
        show.identity(report, client, [self.v1, self.v2])
        show.upstream_name(report, client, self.hub)
        show.outside(report, client, self.hub)
        show.wire(report, capture.stop())

    def leave_mesh(self):
        """Proxies end when asked to, and nothing of the interception stays."""
        self.report.step("the pods leave the mesh")
        for pod in self.pods:
            mesh.weir(pod, "intercept", "remove")
        same = all(rules(pod) == self.rules_before[pod.name] for pod in self.pods)
        self.report.claim(same, "rules, routes and policy of all pods are byte for byte what they were before")
        for proxy in self.proxies.values():
            proxy.send_signal(signal.SIGTERM)
        statuses = {name: proxy.wait(timeout=40) for name, proxy in self.proxies.items()}
        self.report.claim(set(statuses.values()) == {0}, "every proxy ended with status 0 on SIGTERM")


def rules(pod=None):
    """Firewall, routes and policy of a pod, or of this machine; counters left out."""
    commands = (
        ["nft", "--stateless", "list", "ruleset"],
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "-o", "link", "show"],
    )
    words = [pod.argv(command) if pod else command for command in commands]
    return [subprocess.run(command, capture_output=True, text=True).stdout for command in words]


def clean(report, before):
    report.step("cleaning up")
    pods.clean()
    left = pods.traces()
    report.claim(not left, "no namespace, process or file is left" + "".join(f"\n        {what}" for what in left))
    if before is not None:
        report.claim(rules() == before, "firewall, routes and interfaces of this machine are as before")


def hints(demo):
    weir, client = f"{mesh.WEIR} --socket", demo.client
    node = f"env NODE_PATH={os.environ['NODE_PATH']}"
    bolt, grpc = (f"{node} {' '.join(map(str, words))}" for words in (show.BOLT_CLIENT, show.GRPC_CLIENT))
    print(
        f"""
The mesh runs. To try, as root:

  ip netns exec {client.netns} curl http://reviews.mesh/
  ip netns exec {client.netns} {bolt}
  ip netns exec {client.netns} {grpc}
  ip netns exec {client.netns} redis-cli -h redis.mesh
  ip netns exec {client.netns} mariadb -h db.mesh -u demo -p{applications.PASSWORD} shop
  ip netns exec {client.netns} bash                        # a shell in the pod
  {weir} {client.admin} conn show
  {weir} {client.admin} route explain reviews.mesh
  {weir} {demo.v1.admin} conn show
  ip netns exec {client.netns} {mesh.WEIR} intercept show
  ip netns exec {demo.hub.netns} tcpdump -i br0 -A tcp     # the wire

Files and logs are in {pods.WORK}. To remove every trace: scripts/demo --clean"""
    )


def run(report, options):
    report.step("four pods, IPv4 and IPv6")
    demo = Demo(report, options.backend, options.acceleration)
    report.step("applications: nginx, Bolt and gRPC servers twice, redis, MariaDB")
    demo.start_applications()
    report.step("a proxy and the interception in each pod")
    demo.join_mesh()
    demo.show()
    if options.keep:
        hints(demo)
    else:
        demo.leave_mesh()


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the mesh running and say what to try")
    parser.add_argument("--backend", default="nft", choices=mesh.BACKENDS, help="how connections are captured (nft)")
    parser.add_argument(
        "--acceleration", default="off", choices=mesh.ACCELERATION, help="auto: bytes within a pod go past TCP (off)"
    )
    parser.add_argument("--clean", action="store_true", help="remove every trace of a mesh that was kept")
    return parser.parse_args()


def main():
    options = arguments()
    report = show.Report(time.monotonic())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    if options.clean or pods.traces():
        clean(report, None)
    if options.clean:
        return report.failures
    before = rules()
    kept = False
    try:
        run(report, options)
        kept = options.keep
    except (Problem, subprocess.SubprocessError, KeyboardInterrupt) as problem:
        report.claim(False, str(problem) or "interrupted")
    finally:
        if not kept:
            clean(report, before)
    print("\nthe demo failed" if report.failures else f"\nall of it held, {time.monotonic() - report.started:.0f} s")
    return report.failures


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
