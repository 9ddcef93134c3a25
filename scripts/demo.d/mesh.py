# SPDX-License-Identifier: Apache-2.0
"""The mesh: certificates, one configuration for all pods, a weir-proxy and the interception in each."""

import json
import os
import pathlib
import subprocess

from applications import BOLT_PORT, GRPC_PORT, REVIEWS_PORT, UNCAPTURED_PORT
from pods import WORK, unix_accepts, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD", ROOT / "build" / "release")).resolve()
WEIR = BUILD / "userspace" / "cli" / "weir"
PROXY = BUILD / "userspace" / "proxy" / "weir-proxy"
BACKENDS = ["nft", "ebpf", "iptables"]
ACCELERATION = ["off", "auto"]
VIPS = ["240.240.0.0/16", "fd77:65:6972::/112"]
WEIGHTS = {"v1": 9, "v2": 1}
TRUST = "spiffe://mesh/demo/"


def make_certificates(pods):
    mesh_ca = ROOT / "scripts" / "mesh-ca"
    subprocess.run([mesh_ca, WORK / "pki", "init"], check=True, stdout=subprocess.DEVNULL)
    for pod in pods:
        words = [mesh_ca, WORK / "pki", "issue", pod.name, TRUST + pod.name]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def _cluster(name, port, *pods):
    addresses = [address for pod in pods for address in (f"{pod.ipv4}:{port}", f"[{pod.ipv6}]:{port}")]
    return {
        "name": name,
        "tls": "mesh",
        "tls_allow": [TRUST + pod.name for pod in pods],
        "endpoints": [{"address": address} for address in addresses],
    }


def _services():
    shares = [{"cluster": f"reviews-{version}", "weight": weight} for version, weight in WEIGHTS.items()]
    return [
        {"name": "reviews.mesh", "ports": [{"port": 80}], "routes": [{"to": shares}]},
        {"name": "bolt.mesh", "ports": [{"port": BOLT_PORT}], "cluster": "bolt"},
        {"name": "grpc.mesh", "ports": [{"port": GRPC_PORT}], "cluster": "grpc"},
        {"name": "redis.mesh", "ports": [{"port": 6379}], "cluster": "redis"},
        {"name": "db.mesh", "ports": [{"port": 3306}], "cluster": "db"},
    ]


def write_configuration(pod, v1, v2, data, acceleration):
    pki = WORK / "pki" / pod.name
    config = {
        "node": {"id": pod.name},
        "workers": 1,
        "acceleration": acceleration,
        "admin": {"socket": str(pod.admin)},
        "dns": {"zone": "mesh", "vips": VIPS, "state": str(pod.folder / "vips")},
        "tls": {
            "mode": "strict",
            "certificate": str(pki / "cert.pem"),
            "private_key": str(pki / "key.pem"),
            "trust": str(pki / "ca.pem"),
            "allow": [TRUST + "*"],
        },
        "services": _services(),
        "clusters": [
            _cluster("reviews-v1", REVIEWS_PORT, v1),
            _cluster("reviews-v2", REVIEWS_PORT, v2),
            _cluster("bolt", BOLT_PORT, v1, v2),
            _cluster("grpc", GRPC_PORT, v1, v2),
            _cluster("redis", 6379, data),
            _cluster("db", 3306, data),
        ],
    }
    path = pod.folder / "weir.json"
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


def start_proxy(pod, config):
    return pod.start([PROXY, "--config", config], ready=unix_accepts(pod.admin))


def mount_bpf():
    """Where eBPF programs are pinned: most hosts have it. Pods could not do it, since their /sys is another."""
    if not os.path.ismount("/sys/fs/bpf"):
        subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)


def intercept(pod, backend):
    """From here on the kernel hands the pod's connections to the proxy."""
    weir(pod, "intercept", "apply", "--backend", backend, "--vips", ",".join(VIPS), "--exclude-outbound-ports", UNCAPTURED_PORT)


def weir(pod, *words, check=True):
    return pod.run([WEIR, "--socket", pod.admin, *words], check=check)


def connections(pod):
    return json.loads(weir(pod, "-j", "conn", "show").stdout)["connections"]


def await_connection(pod, **wanted):
    """The first connection with these values in `weir conn show`."""

    def find():
        matching = (row for row in connections(pod) if all(row.get(key) == wanted[key] for key in wanted))
        return next(matching, None)

    return wait_until(find, f"a connection with {wanted} in {pod.name}", timeout=5)
