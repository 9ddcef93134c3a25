# SPDX-License-Identifier: Apache-2.0
"""The programs that are compared, configured as somebody who knows them would: one worker, no access log, connections
to the origin kept alive. Each is started in a namespace of its own, with the origin beside it. The kernel redirects the
clients' connections to the proxy, by the same rules for all programs; only `captured=False` connects to a peer directly."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from mesh import serving  # noqa: E402
from netns import listening  # noqa: E402

import measure  # noqa: E402

BUILD = ROOT / "build" / "release"
TOOLS = BUILD / "tests"
ORIGIN_HTTP, ORIGIN_STREAM, ORIGIN_BOLT, ORIGIN_HTTP2, ORIGIN_BLOCKING = 9000, 9001, 9002, 9003, 9004
HTTP, STREAM, BOLT, HTTP2, TLS, DNS = 8080, 8081, 8082, 8083, 8443, 5353
NAMES = 1000
BODY = b"x" * 1024


@dataclasses.dataclass
class Target:
    """What a client connects to."""

    address: str
    port: int
    host: str = "bench.mesh"

    @property
    def url(self):
        return f"http://{self.address}:{self.port}/"


VIPS = ["240.240.0.0/16", "fd77:65:6972::/112"]
VIP = "240.240.0.80"
VIP_WORDS = ["--vips", ",".join(VIPS)]


def capture(pod, *words):
    """The rules that weir installs, in a pod."""
    pod.run([BUILD / "userspace" / "cli" / "weir", "intercept", "apply", *words])


@contextlib.contextmanager
def released(network):
    """Nothing is left of interception at the end: programs of eBPF would outlive their namespaces."""
    try:
        yield
    finally:
        for pod in network.pods:
            pod.run([BUILD / "userspace" / "cli" / "weir", "intercept", "remove"])


class Peer:
    """A program that knows nothing of original destinations, put where weir would be: the kernel redirects to it what
    clients send to a virtual IP (outbound) or to the origin (inbound)."""

    def __init__(self, captured=True):
        self.captured = captured

    def _outbound(self, pod, port, target):
        if not self.captured:
            return Target("127.0.0.1", port)
        words = [*VIP_WORDS, "--exclude-outbound-ports", str(ORIGIN_HTTP)]
        capture(pod, "--no-inbound", "--no-dns", "--outbound-port", str(port), *words)
        return Target(VIP, target)

    def _inbound(self, pod, port):
        if not self.captured:
            return Target(pod.ipv4, port)
        capture(pod, "--no-outbound", "--no-dns", "--inbound-port", str(port))
        return Target(pod.ipv4, ORIGIN_HTTP)


class Direct:
    """No proxy: what there is without one."""

    name = "direct"

    def local(self, pod, stage):
        return Target("127.0.0.1", ORIGIN_HTTP), []

    def stream(self, pod, stage):
        return Target("127.0.0.1", ORIGIN_STREAM), []

    def bolt(self, pod, stage):
        return Target("127.0.0.1", ORIGIN_BOLT), []

    def http2(self, pod, stage):
        return Target("127.0.0.1", ORIGIN_HTTP2), []

    def inbound(self, pod, stage):
        return Target(pod.ipv4, ORIGIN_HTTP), []

    def inbound_stream(self, pod, stage):
        return Target(pod.ipv4, ORIGIN_STREAM), []


class Relay(Peer):
    """Parses nothing: what the kernel alone costs."""

    name = "relay"

    def _relay(self, pod, port, origin, target):
        daemon = pod.start([TOOLS / "bench_relay", port, origin], ready=listening(port))
        return self._outbound(pod, port, target), [daemon.pid]

    def local(self, pod, stage):
        return self._relay(pod, HTTP, ORIGIN_HTTP, 80)

    def bolt(self, pod, stage):
        return self._relay(pod, BOLT, ORIGIN_BOLT, 12200)

    def http2(self, pod, stage):
        return self._relay(pod, HTTP2, ORIGIN_HTTP2, 80)


class Nginx(Peer):
    name = "nginx"

    def _start(self, pod, stage, name, http, stream="", ready=HTTP):
        config = stage.folder / f"{pod.name}-{name}.conf"
        pid = stage.folder / f"{pod.name}-{name}.pid"
        config.write_text(
            f"""
daemon off; user root; pid {pid}; worker_processes 1; worker_rlimit_nofile 20000;
{"load_module /usr/lib/nginx/modules/ngx_stream_module.so;" if stream else ""}
error_log stderr error;
events {{ worker_connections {2 * stage.connections + 500}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; tcp_nodelay on; server_tokens off;
  {http}
}}
{"stream { " + stream + " }" if stream else ""}
"""
        )
        daemon = pod.start(["nginx", "-c", config, "-p", stage.folder, "-e", "stderr"], ready=listening(ready))
        return measure.family(daemon.pid)

    @staticmethod
    def _upstream(address):
        return f"upstream origin {{ server {address}; keepalive 128; keepalive_requests 1000000000; }}"

    _pass = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;'

    def local(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._outbound(pod, HTTP, 80), pids

    def _serve(self, pod, stage):
        return self._start(
            pod,
            stage,
            "local",
            f"{self._upstream(f'127.0.0.1:{ORIGIN_HTTP}')}"
            f"server {{ listen {HTTP} backlog=4096; location / {{ proxy_pass http://origin; {self._pass} }} }}",
            f"server {{ listen {STREAM}; proxy_pass 127.0.0.1:{ORIGIN_STREAM}; }}",
        )

    def inbound(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._inbound(pod, HTTP), pids

    def stream(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._outbound(pod, STREAM, 81), pids

    def pair(self, near, far, stage):
        client, server = stage.certificates("client"), stage.certificates("server")
        tls = "ssl_protocols TLSv1.3;"
        second = self._start(
            far,
            stage,
            "far",
            f"{self._upstream(f'127.0.0.1:{ORIGIN_HTTP}')}"
            f"server {{ listen {TLS} ssl backlog=4096; {tls} ssl_certificate {server}/cert.pem;"
            f"ssl_certificate_key {server}/key.pem; ssl_client_certificate {server}/ca.pem; ssl_verify_client on;"
            f"location / {{ proxy_pass http://origin; {self._pass} }} }}",
            ready=TLS,
        )
        first = self._start(
            near,
            stage,
            "near",
            f"{self._upstream(f'{far.ipv4}:{ORIGIN_HTTP}')}"
            f"server {{ listen {HTTP} backlog=4096; location / {{ proxy_pass https://origin; {self._pass}"
            f"proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {client}/cert.pem; proxy_ssl_name server;"
            f"proxy_ssl_certificate_key {client}/key.pem; proxy_ssl_trusted_certificate {client}/ca.pem;"
            f"proxy_ssl_verify on; }} }}",
        )
        self._inbound(far, TLS)
        return self._outbound(near, HTTP, 80), first, second


class Haproxy(Peer):
    name = "HAProxy"

    def _start(self, pod, stage, name, sections, ready=HTTP):
        config = stage.folder / f"{pod.name}-{name}.cfg"
        config.write_text(
            f"""
global
  nbthread 1
  maxconn {stage.connections}
  maxpipes 256
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  http-reuse always
{sections}
"""
        )
        daemon = pod.start(["haproxy", "-db", "-f", config], ready=listening(ready))
        return measure.family(daemon.pid)

    def local(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._outbound(pod, HTTP, 80), pids

    def _serve(self, pod, stage):
        return self._start(
            pod,
            stage,
            "local",
            f"""
listen http
  bind :{HTTP} backlog 4096
  server origin 127.0.0.1:{ORIGIN_HTTP}
listen stream
  bind :{STREAM}
  mode tcp
  option splice-request
  option splice-response
  server origin 127.0.0.1:{ORIGIN_STREAM}
""",
        )

    def inbound(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._inbound(pod, HTTP), pids

    def stream(self, pod, stage):
        pids = self._serve(pod, stage)
        return self._outbound(pod, STREAM, 81), pids

    def bolt(self, pod, stage):
        """The bytes are passed on: HAProxy does not know Bolt. Copied, since splice costs more for small messages."""
        sections = f"""
listen bolt
  bind :{BOLT} backlog 4096
  mode tcp
  server origin 127.0.0.1:{ORIGIN_BOLT}
"""
        pids = self._start(pod, stage, "bolt", sections, ready=BOLT)
        return self._outbound(pod, BOLT, 12200), pids

    def http2(self, pod, stage):
        sections = f"""
listen http2
  bind :{HTTP2} backlog 4096 proto h2
  server origin 127.0.0.1:{ORIGIN_HTTP2} proto h2
"""
        pids = self._start(pod, stage, "http2", sections, ready=HTTP2)
        return self._outbound(pod, HTTP2, 80), pids

    def pair(self, near, far, stage):
        client, server = stage.certificates("client"), stage.certificates("server")
        second = self._start(
            far,
            stage,
            "far",
            f"""
listen http
  bind :{TLS} backlog 4096 ssl crt {server}/both.pem ca-file {server}/ca.pem verify required ssl-min-ver TLSv1.3
  server origin 127.0.0.1:{ORIGIN_HTTP}
""",
            ready=TLS,
        )
        first = self._start(
            near,
            stage,
            "near",
            f"""
listen http
  bind :{HTTP} backlog 4096
  server far {far.ipv4}:{ORIGIN_HTTP} ssl crt {client}/both.pem ca-file {client}/ca.pem verify required ssl-min-ver TLSv1.3
""",
        )
        self._inbound(far, TLS)
        return self._outbound(near, HTTP, 80), first, second


class Nghttpx(Peer):
    name = "nghttpx"

    def http2(self, pod, stage):
        daemon = pod.start(
            [
                "nghttpx",
                "--conf=/dev/null",
                "--workers=1",
                "--log-level=ERROR",
                f"--frontend=*,{HTTP2};no-tls",
                f"--backend=127.0.0.1,{ORIGIN_HTTP2};;proto=h2",
            ],
            ready=listening(HTTP2),
        )
        return self._outbound(pod, HTTP2, 80), measure.family(daemon.pid)


class Unbound:
    name = "unbound"

    def names(self, pod, stage):
        records = "".join(f'  local-data: "n{i}.mesh. 30 IN A 240.240.1.{i % 250}"\n' for i in range(NAMES))
        config = stage.folder / f"{pod.name}.conf"
        config.write_text(
            f"""
server:
  interface: 127.0.0.1@{DNS}
  num-threads: 1
  so-reuseport: no
  do-daemonize: no
  use-syslog: no
  verbosity: 0
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{stage.folder}"
  module-config: "iterator"
  minimal-responses: yes
  local-zone: "mesh." static
{records}
"""
        )
        daemon = pod.start(["unbound", "-d", "-c", config], ready=listening(DNS, udp=True))
        return Target("127.0.0.1", DNS), measure.family(daemon.pid)


class Weir:
    """`intercept`: the words of `weir intercept apply`, which choose the back end."""

    def __init__(self, acceleration="off", name="weir", intercept=()):
        self.acceleration, self.name, self.intercept = acceleration, name, intercept

    def _start(self, pod, stage, name, intercept=True, **settings):
        """The proxy and the interception in the pod."""
        config = stage.folder / f"{pod.name}-{name}.json"
        admin = stage.folder / f"{pod.name}-{name}.sock"
        state = stage.folder / f"{pod.name}-{name}.vips"
        common = {
            "workers": 1,
            "acceleration": self.acceleration,
            "admin": {"socket": str(admin)},
            "dns": {"zone": "mesh", "vips": VIPS, "state": str(state), "upstream": ["192.0.2.53"]},
        }
        config.write_text(json.dumps(common | settings))
        daemon = pod.start([BUILD / "userspace" / "proxy" / "weir-proxy", "--config", config], ready=serving(admin))
        if intercept:
            capture(pod, *VIP_WORDS, *self.intercept)
        pod.resolv_conf("nameserver 192.0.2.53\n")
        return measure.family(daemon.pid)

    @staticmethod
    def _service(name, port, address, protocol="auto", **cluster):
        return {
            "services": [{"name": name, "ports": [{"port": port, "protocol": protocol}], "cluster": name}],
            "clusters": [{"name": name, "endpoints": [{"address": address}], **cluster}],
        }

    @staticmethod
    def _vip(pod, name, port):
        return Target(pod.run(["getent", "ahostsv4", name]).stdout.split()[0], port, name)

    @staticmethod
    def _tls(stage, name):
        pki = stage.certificates(name)
        return {
            "mode": "strict",
            "certificate": f"{pki}/cert.pem",
            "private_key": f"{pki}/key.pem",
            "trust": f"{pki}/ca.pem",
        }

    def local(self, pod, stage):
        pids = self._start(pod, stage, "local", **self._service("bench.mesh", 80, f"127.0.0.1:{ORIGIN_HTTP}"))
        return self._vip(pod, "bench.mesh", 80), pids

    def stream(self, pod, stage):
        pids = self._start(pod, stage, "local", **self._service("stream.mesh", 81, f"127.0.0.1:{ORIGIN_STREAM}"))
        return self._vip(pod, "stream.mesh", 81), pids

    def bolt(self, pod, stage):
        service = self._service("bolt.mesh", 12200, f"127.0.0.1:{ORIGIN_BOLT}", protocol="bolt")
        pids = self._start(pod, stage, "bolt", **service)
        return self._vip(pod, "bolt.mesh", 12200), pids

    def passing(self, near, far, stage):
        """The bytes of HTTP, which is not looked at, go on to the other pod."""
        service = self._service("bench.mesh", 80, f"{far.ipv4}:{ORIGIN_HTTP}", protocol="tcp")
        pids = self._start(near, stage, "passing", **service)
        return self._vip(near, "bench.mesh", 80), pids

    def inbound(self, pod, stage):
        return Target(pod.ipv4, ORIGIN_HTTP), self._start(pod, stage, "inbound")

    def inbound_stream(self, pod, stage):
        return Target(pod.ipv4, ORIGIN_STREAM), self._start(pod, stage, "inbound")

    def inbound_blocking(self, pod, stage):
        """The bytes of HTTP, which is not looked at, for a program whose sockets block."""
        pids = self._start(pod, stage, "inbound", inbound=[{"port": ORIGIN_BLOCKING, "protocol": "tcp"}])
        return Target(pod.ipv4, ORIGIN_BLOCKING), pids

    def pair(self, near, far, stage):
        second = self._start(far, stage, "far", tls=self._tls(stage, "server"))
        cluster = self._service("bench.mesh", 80, f"{far.ipv4}:{ORIGIN_HTTP}", tls="mesh")
        first = self._start(near, stage, "near", tls=self._tls(stage, "client"), **cluster)
        return self._vip(near, "bench.mesh", 80), first, second

    def http2(self, pod, stage):
        service = self._service("bench.mesh", 80, f"127.0.0.1:{ORIGIN_HTTP2}", protocol="http2")
        pids = self._start(pod, stage, "http2", **service)
        return self._vip(pod, "bench.mesh", 80), pids

    def names(self, pod, stage):
        services = [{"name": f"n{i}.mesh", "ports": [{"port": 80}], "cluster": "any"} for i in range(NAMES)]
        clusters = [{"name": "any", "endpoints": [{"address": f"127.0.0.1:{ORIGIN_HTTP}"}]}]
        # Asked at its own port like its peer, without the rules and the conntrack of interception, which its peer has not.
        pids = self._start(pod, stage, "names", intercept=False, services=services, clusters=clusters)
        return Target("127.0.0.1", 15053), pids


class Stage:
    """What all programs of a row share: a network of namespaces, a folder, an authority."""

    def __init__(self, network, connections=8500):
        self.connections = connections  # for how many the programs are configured
        self.network = network
        self.folder = network.folder

    def origin(self, pod):
        daemon = pod.start([TOOLS / "bench_origin", ORIGIN_HTTP, ORIGIN_STREAM, ORIGIN_BLOCKING], ready=listening(ORIGIN_BLOCKING))
        return [daemon.pid]

    def bolt_origin(self, pod):
        daemon = pod.start([TOOLS / "bench_bolt_echo", ORIGIN_BOLT], ready=listening(ORIGIN_BOLT))
        return [daemon.pid]

    def http2_origin(self, pod):
        daemon = pod.start([TOOLS / "bench_http2_origin", ORIGIN_HTTP2], ready=listening(ORIGIN_HTTP2))
        return [daemon.pid]

    def link(self, near, far):
        """A wire between two pods, so that no bridge is measured: near.ipv4 and far.ipv4 become its ends."""
        near.ip(f"link add wire type veth peer name wire netns {far.netns}")
        for pod, address in ((near, "10.78.0.1"), (far, "10.78.0.2")):
            pod.ip(f"addr add {address}/24 dev wire", "link set wire up")
            pod.ipv4 = address

    def certificates(self, name):
        pki = self.folder / "pki"
        if not (pki / name).is_dir():
            for words in (["init"], ["issue", name, f"spiffe://mesh/bench/{name}"]):
                subprocess.run([ROOT / "scripts" / "mesh-ca", pki, *words], check=True, stdout=subprocess.DEVNULL)
            (pki / name / "both.pem").write_bytes(
                (pki / name / "cert.pem").read_bytes() + (pki / name / "key.pem").read_bytes()
            )
        return pki / name

    def queries(self):
        path = self.folder / "queries"
        if not path.exists():
            path.write_text("".join(f"n{i}.mesh A\n" for i in range(NAMES)))
        return path
