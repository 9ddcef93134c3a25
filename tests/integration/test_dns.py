# SPDX-License-Identifier: Apache-2.0
"""The DNS responder behind capture: own names, and everything else forwarded. Real resolvers upstream (unbound), a
scripted one where it must misbehave, dnspython as the client. Queries go to an address that nobody serves: capture
brings them to the responder."""

import os
import pathlib
import socket
import struct
import threading
import time

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from mesh import Mesh, cluster, service
from netns import listening, readable, wait_until, writable

RESOLVER = {4: "10.77.0.1", 6: "fd00:77::1"}


@pytest.fixture
def mesh(network, weir, weir_proxy):
    return Mesh(network, weir, weir_proxy)


SERVICES = [
    service("web.mesh", 80, "c", protocol="http"),
    service("a.b.c.mesh", 80, "c"),
    service("api.example.com", 443, "c"),
]


class Names:
    """A client pod with the proxy; `upstream` are the forwarder's servers."""

    def __init__(self, mesh, upstream=(), **dns_keys):
        self.sidecar = mesh.sidecar(
            "client",
            services=SERVICES,
            clusters=[cluster("c", ["10.0.0.1:80"])],
            dns={"upstream": list(upstream) or ["127.0.0.1:1"], **dns_keys},
        )
        self.pod = self.sidecar.pod

    def ask(self, name, rdtype="A", tcp=False, family=4, timeout=30, **keys):
        keys.setdefault("use_edns", 0)
        return self.send(dns.message.make_query(name, rdtype, **keys), tcp, family, timeout)

    def send(self, query, tcp=False, family=4, timeout=30):
        with self.pod.enter():
            function = dns.query.tcp if tcp else dns.query.udp
            return function(query, RESOLVER[family], timeout=timeout)

    def raw(self, data, timeout=30):
        with self.pod.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.sendto(data, (RESOLVER[4], 53))
            return sock.recv(65535)


@pytest.fixture
def names(mesh):
    return Names(mesh)


def values(answer):
    return sorted(str(item) for rrset in answer.answer for item in rrset)


def soa(answer):
    return [rrset for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA]


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("family", [4, 6])
def test_own_names(names, tcp, family):
    row = next(r for r in names.sidecar.show("vhost", "show")["virtual_hosts"] if r["name"].startswith("web.mesh"))
    answer = names.ask("web.mesh", "A", tcp, family)
    assert values(answer) == [row["vip4"]] and answer.flags & dns.flags.AA and answer.flags & dns.flags.RA
    assert values(names.ask("web.mesh", "AAAA", tcp, family)) == [row["vip6"]]
    assert answer.answer[0].ttl == 10
    assert answer.edns == 0


def test_what_a_name_does_not_have(names):
    for rdtype in ("MX", "TXT", "HTTPS", "SVCB", "CNAME"):
        answer = names.ask("web.mesh", rdtype)
        assert answer.rcode() == dns.rcode.NOERROR and not answer.answer and soa(answer)
    answer = names.ask("nothing.mesh")
    assert answer.rcode() == dns.rcode.NXDOMAIN and soa(answer)
    answer = names.ask("b.c.mesh")  # only has names below it (RFC 8020)
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer and soa(answer)
    assert names.ask("x.web.mesh").rcode() == dns.rcode.NXDOMAIN


def test_reverse_and_services(names):
    vip = values(names.ask("web.mesh"))[0]
    reverse = ".".join(reversed(vip.split("."))) + ".in-addr.arpa"
    assert values(names.ask(reverse, "PTR")) == ["web.mesh."]
    assert names.ask("9.9.240.240.in-addr.arpa", "PTR").rcode() == dns.rcode.NXDOMAIN
    answer = names.ask("_http._tcp.web.mesh", "SRV")
    assert values(answer) == ["0 0 80 web.mesh."]
    assert {rrset.rdtype for rrset in answer.additional} >= {dns.rdatatype.A, dns.rdatatype.AAAA}


def test_a_family_without_a_range(mesh):
    names = Names(mesh, vips=["240.240.0.0/16"])
    answer = names.ask("web.mesh", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer and soa(answer)
    assert values(names.ask("web.mesh"))


def test_the_case_of_the_question_is_kept(names):
    answer = names.ask("WeB.mEsH")
    assert answer.question[0].name.to_text() == "WeB.mEsH."
    assert answer.answer


def test_edns(names):
    assert names.ask("web.mesh", use_edns=-1).edns == -1
    wire = bytearray(dns.message.make_query("web.mesh", "A", use_edns=0).to_wire())
    wire[-5] = 1  # a version that nobody speaks
    assert dns.message.from_wire(names.raw(bytes(wire))).rcode() == dns.rcode.BADVERS
    assert names.ask("web.mesh", want_dnssec=True).ednsflags & dns.flags.DO


def test_queries_that_are_wrong(names):
    def header(flags=0x0100, counts=(1, 0, 0, 0), ident=0x1234):
        return struct.pack("!6H", ident, flags, *counts)

    question = b"\x03web\x04mesh\x00\x00\x01\x00\x01"
    rcode = lambda data: names.raw(data)[3] & 15  # noqa: E731
    assert rcode(header(counts=(0, 0, 0, 0))) == dns.rcode.FORMERR
    assert rcode(header(counts=(2, 0, 0, 0)) + question * 2) == dns.rcode.FORMERR
    assert rcode(header() + b"\x03web") == dns.rcode.FORMERR
    assert rcode(header() + b"\xc0\x0c\x00\x01\x00\x01") == dns.rcode.FORMERR  # a pointer to itself
    assert rcode(header() + question + b"rest") == dns.rcode.FORMERR
    assert rcode(header(flags=0x2900) + question) == dns.rcode.NOTIMP  # UPDATE
    assert rcode(header() + b"\x03web\x04mesh\x00\x00\xfc\x00\x01") == dns.rcode.REFUSED  # AXFR
    for dropped in (header(flags=0x8100) + question, b"short"):
        with pytest.raises(TimeoutError):
            names.raw(dropped, timeout=0.2)
    assert names.ask("web.mesh").answer


def test_localhost_stays_here(names):
    assert values(names.ask("localhost")) == ["127.0.0.1"]
    assert values(names.ask("x.localhost", "AAAA")) == ["::1"]
    assert names.ask("foo.invalid").rcode() == dns.rcode.NXDOMAIN


def test_tcp_pipelining_over_partial_writes(names):
    queries = [dns.message.make_query(name, "A") for name in ("web.mesh", "a.b.c.mesh", "nothing.mesh")]
    wire = b"".join(struct.pack("!H", len(q.to_wire())) + q.to_wire() for q in queries)
    with names.pod.enter(), socket.create_connection((RESOLVER[4], 53), timeout=30) as sock:
        for byte in wire:
            sock.sendall(bytes([byte]))
        answers = {}
        for _ in queries:
            answer, _ = dns.query.receive_tcp(sock, expiration=time.time() + 30)
            answers[answer.id] = answer
    assert [answers[q.id].rcode() for q in queries] == [0, 0, dns.rcode.NXDOMAIN]


@pytest.mark.parametrize("family", [4, 6])
def test_bursts_from_several_sockets(names, family):
    """Answers to one client leave together, and under load the responder looks at its socket at times only: each query
    has its one answer all the same, and a single one later is answered, too."""
    rows = {row["name"]: row for row in names.sidecar.show("dns", "show")["names"]}
    expected = {"A": rows["web.mesh"]["v4"], "AAAA": rows["web.mesh"]["v6"]}
    with names.pod.enter():
        socks = [socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
    for sock in socks:
        sock.connect((RESOLVER[family], 53))
        sock.settimeout(30)
    for _ in range(10):
        sent = {}
        for i in range(90):
            query = dns.message.make_query("web.mesh", ("A", "AAAA")[i % 2], use_edns=i % 4 // 2 - 1, id=i)
            sent[i] = query
            socks[i % 3].send(query.to_wire())
        for i in range(90):
            answer = dns.message.from_wire(socks[i % 3].recv(4096))
            query = sent.pop(answer.id)
            assert answer.question == query.question
            assert values(answer) == [expected[dns.rdatatype.to_text(query.question[0].rdtype)]]
    assert values(names.ask("web.mesh", family=family)) == [expected["A"]]


# --- upstream --------------------------------------------------------------------------------------------------------


UNBOUND = """
server:
  interface: 127.0.0.1@5300
  chroot: ""
  username: ""
  pidfile: "{folder}/unbound.pid"
  do-daemonize: no
  use-syslog: no
  local-zone: "example.com." static
  local-data: "example.com. 300 IN SOA ns.example.com. h.example.com. 1 2 3 4 77"
  local-data: "www.example.com. 300 IN A 192.0.2.7"
  local-data: "www.example.com. 300 IN A 192.0.2.8"
  local-data: "api.example.com. 300 IN MX 5 mail.example.com."
  local-zone: "web.test." static
{big}
"""


def start_unbound(pod, folder):
    big = "".join(f'  local-data: "big.example.com. 300 IN TXT {str(i) * 60}"\n' for i in range(10, 40))
    config = folder / "unbound.conf"
    config.write_text(UNBOUND.format(folder=folder, big=big))
    return pod.start(["unbound", "-c", config, "-d"], ready=listening(5300, udp=True))


@pytest.fixture
def forwarding(mesh):
    pod = mesh.network.pod("client")
    unbound = start_unbound(pod, mesh.network.folder)
    sidecar = mesh.sidecar(
        "client",
        pod=pod,
        services=SERVICES,
        clusters=[cluster("c", ["10.0.0.1:80"])],
        dns={"upstream": ["127.0.0.1:5300"]},
    )
    names = Names.__new__(Names)
    names.sidecar, names.pod, names.unbound = sidecar, pod, unbound
    return names


def comparable(answer):
    """What a client sees, without the parts that may differ: id, TTLs, order."""
    sections = [sorted(f"{r.name} {r.rdtype} {item}" for r in section for item in r) for section in (answer.answer, answer.authority)]
    return answer.rcode(), bool(answer.flags & dns.flags.TC), sections


@pytest.mark.parametrize("tcp", [False, True])
def test_forwarded_answers_are_those_of_unbound(forwarding, tcp):
    for name in ("www.example.com", "WWW.Example.com", "nothing.example.com", "example.com", "big.example.com"):
        for rdtype in ("A", "AAAA", "TXT", "SOA", "MX"):
            for keys in ({"use_edns": -1}, {"use_edns": 0, "payload": 1232}):
                query = dns.message.make_query(name, rdtype, **keys)
                with forwarding.pod.enter():
                    function = dns.query.tcp if tcp else dns.query.udp
                    expected = function(query, "127.0.0.1", port=5300, timeout=30)
                for _ in range(2):  # from upstream, then from the cache
                    got = forwarding.send(query, tcp)
                    assert got.question == expected.question
                    if comparable(expected)[1]:  # truncated: how much is left differs
                        assert got.flags & dns.flags.TC
                    else:
                        assert comparable(got) == comparable(expected), (name, rdtype, keys)


def test_a_name_of_ours_outside_the_zone(forwarding):
    """A and AAAA are the VIP, HTTPS has no data (it would lead around it), the rest is upstream's."""
    assert values(forwarding.ask("api.example.com"))[0].startswith("240.240.")
    assert not forwarding.ask("api.example.com", "HTTPS").answer
    assert values(forwarding.ask("api.example.com", "MX")) == ["5 mail.example.com."]
    assert values(forwarding.ask("www.example.com")) == ["192.0.2.7", "192.0.2.8"]


def test_a_long_answer_is_truncated_and_whole_over_tcp(forwarding):
    assert forwarding.ask("big.example.com", "TXT").flags & dns.flags.TC
    answer = forwarding.ask("big.example.com", "TXT", tcp=True)
    assert not answer.flags & dns.flags.TC and len(values(answer)) == 30


def test_cache_flush_and_stale(forwarding):
    assert values(forwarding.ask("www.example.com"))
    before = forwarding.sidecar.counter("dns_answers_total")
    assert values(forwarding.ask("www.example.com"))
    assert forwarding.sidecar.counter("dns_answers_total") == before + 1
    forwarding.unbound.kill()
    assert values(forwarding.ask("www.example.com"))  # still cached
    assert forwarding.ask("nothing2.example.com").rcode() == dns.rcode.SERVFAIL
    forwarding.sidecar.weir("dns", "flush")
    assert forwarding.ask("www.example.com").rcode() == dns.rcode.SERVFAIL


class Upstream:
    """A scripted server in a pod: handler(query) -> answer bytes, or None for silence."""

    def __init__(self, pod, port, handler, address="127.0.0.1"):
        self.queries = []
        with pod.enter():
            self.sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.bind((address, port))
        self.handler = handler
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                data, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            self.queries.append(query)
            answer = self.handler(query)
            if answer is not None:
                self.sock.sendto(answer, peer)


def reply(query, *records, rcode=0, flags=0):
    answer = dns.message.make_response(query)
    answer.flags |= flags
    answer.set_rcode(rcode)
    for record in records:
        name, ttl, rdtype, value = record
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", rdtype, value))
    return answer.to_wire()


@pytest.mark.parametrize("first", ["silent", "closed", "failing", "lying"])
def test_the_next_server_is_asked_before_the_first_one_again(mesh, first):
    """How long that takes is tested in virtual time (test_forward.c)."""
    pod = mesh.network.pod("client")
    handlers = {
        "silent": lambda query: None,
        "failing": lambda query: reply(query, rcode=dns.rcode.SERVFAIL),
        "lying": lambda query: reply(dns.message.make_query("other.example", "A", id=query.id)),
    }
    asked = []

    def server(port, handler):
        Upstream(pod, port, lambda query: asked.append(port) or handler(query))

    if first in handlers:
        server(5301, handlers[first])
    server(5302, lambda query: reply(query, (query.question[0].name, 60, "A", "192.0.2.1")))
    sidecar = mesh.sidecar("client", pod=pod, dns={"upstream": ["127.0.0.1:5301", "127.0.0.1:5302"]})
    names = Names.__new__(Names)
    names.sidecar, names.pod = sidecar, pod
    wait_until(lambda: values(names.ask("fail.example")) == ["192.0.2.1"])
    assert asked[:2] == [5301, 5302] if first in handlers else asked[0] == 5302


def test_identical_queries_share_one_upstream(mesh):
    pod = mesh.network.pod("client")
    upstream = Upstream(pod, 5301, lambda query: reply(query, (query.question[0].name, 60, "A", "192.0.2.1")))
    sidecar = mesh.sidecar("client", pod=pod, dns={"upstream": ["127.0.0.1:5301"]})
    queries = [dns.message.make_query("Same.example" if i % 2 else "same.EXAMPLE", "A") for i in range(20)]
    with pod.enter():
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in queries]
    with sidecar.frozen():  # it reads all of them before an answer
        for sock, query in zip(socks, queries):
            sock.settimeout(30)
            sock.sendto(query.to_wire(), (RESOLVER[4], 53))
    for sock, query in zip(socks, queries):
        answer = dns.message.from_wire(sock.recv(4096))
        assert answer.id == query.id and answer.question == query.question and values(answer) == ["192.0.2.1"]
        assert answer.question[0].name.to_text() == query.question[0].name.to_text()
    assert len({query.id for query in upstream.queries}) == 1  # which is sent again if it was not answered in time


def test_ttls_count_down_and_client_subnet_is_not_passed_on(mesh):
    pod = mesh.network.pod("client")
    upstream = Upstream(pod, 5301, lambda query: reply(query, (query.question[0].name, 2, "A", "192.0.2.1")))
    sidecar = mesh.sidecar("client", pod=pod, dns={"upstream": ["127.0.0.1:5301"]})
    names = Names.__new__(Names)
    names.sidecar, names.pod = sidecar, pod
    ecs = dns.edns.ECSOption("198.51.100.0", 24)
    assert names.ask("t.example", options=[ecs]).answer[0].ttl == 2
    wait_until(lambda: names.ask("t.example").answer[0].ttl <= 1)
    wait_until(lambda: len(upstream.queries) >= 2 or not names.ask("t.example"))
    assert all(not query.options for query in upstream.queries)


def test_virtual_ips_outlive_the_proxy_and_the_name(mesh):
    names = Names(mesh)
    before = {row["name"]: (row["v4"], row["v6"]) for row in names.sidecar.show("dns", "show")["names"]}
    names.sidecar.proxy.kill()
    names.sidecar.config["services"] = SERVICES[1:] + [service(f"new{i}.mesh", 80, "c") for i in range(50)]
    names.sidecar.write(names.sidecar.config)
    names.sidecar.start()
    after = {row["name"]: (row["v4"], row["v6"]) for row in names.sidecar.show("dns", "show")["names"]}
    assert after["a.b.c.mesh"] == before["a.b.c.mesh"]
    assert before["web.mesh"] not in after.values()
    names.sidecar.config["services"] = SERVICES
    names.sidecar.reload(names.sidecar.config)
    assert {row["name"]: (row["v4"], row["v6"]) for row in names.sidecar.show("dns", "show")["names"]} == before
    assert values(names.ask("web.mesh")) == [before["web.mesh"][0]]


def test_a_virtual_ip_is_written_before_anybody_is_told_of_it(mesh):
    """The state file's successor is a FIFO that nobody reads: the proxy hangs in opening it, and the new name must not be
    known yet. (As it cannot be synced either, the failure is said, and the name has its address all the same.)"""
    names = Names(mesh)
    fifo = names.sidecar.config["dns"]["state"] + ".new"
    os.mkfifo(fifo)
    config = {**names.sidecar.config, "services": SERVICES + [service("new.mesh", 80, "c")]}
    reload = threading.Thread(target=names.sidecar.reload, args=(config,))
    reload.start()
    main_thread = pathlib.Path(f"/proc/{names.sidecar.proxy.pid}/syscall")
    wait_until(lambda: main_thread.read_text().split()[0] == "257", what="openat")
    assert names.ask("new.mesh").rcode() == dns.rcode.NXDOMAIN
    assert values(names.ask("web.mesh"))
    with open(fifo, "rb") as reader:
        assert b"new.mesh " in reader.read()
    reload.join()
    assert values(names.ask("new.mesh"))
    assert "the virtual IPs could not be written" in names.sidecar.said()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "foreign"])
def test_a_damaged_state_file_is_an_error_and_stays(mesh, damage):
    """Nothing is chosen afresh over it: the proxy does not start, says where and why, and leaves the file alone; put back,
    every name has its addresses."""
    names = Names(mesh)
    before = names.sidecar.show("dns", "show")["names"]
    state = pathlib.Path(names.sidecar.config["dns"]["state"])
    names.sidecar.proxy.kill()
    whole = state.read_bytes()
    damaged = {
        "cut": whole[: len(whole) // 2],
        "changed": whole.replace(b"240.240.", b"240.241.", 1),
        "empty": b"",
        "foreign": b"hello\n",
    }[damage]
    state.write_bytes(damaged)
    done = names.pod.run([mesh.weir_proxy, "--config", names.sidecar.config_path], check=False)
    assert done.returncode == 1 and f"{state}:" in done.stderr and "restore the file" in done.stderr
    assert state.read_bytes() == damaged
    state.write_bytes(whole)
    names.sidecar.start()
    assert names.sidecar.show("dns", "show")["names"] == before


def test_exhaustion_by_a_reload_changes_nothing(mesh):
    names = Names(mesh, vips=["240.240.0.0/29"])  # six addresses
    before = names.sidecar.show("dns", "show")["names"]
    config = {**names.sidecar.config, "services": SERVICES + [service(f"n{i}.mesh", 80, "c") for i in range(5)]}
    names.sidecar.write(config)
    done = names.sidecar.weir("config", "reload", check=False)
    assert done.returncode == 1 and "no virtual IP is left for" in done.stdout + done.stderr
    assert names.sidecar.show("dns", "show")["names"] == before
    assert values(names.ask("web.mesh"))
    # Nor later: what was chosen for the rejected names is there for others, and is not written.
    names.sidecar.reload({**config, "services": SERVICES + [service(f"m{i}.mesh", 80, "c") for i in range(3)]})
    after = {row["name"]: row["v4"] for row in names.sidecar.show("dns", "show")["names"]}
    assert len(set(after.values())) == 6 and all(row["v4"] == after[row["name"]] for row in before)
    state = pathlib.Path(names.sidecar.config["dns"]["state"]).read_text()
    assert "m2.mesh " in state and "n0.mesh" not in state


def test_a_range_that_is_exhausted(mesh):
    pod = mesh.network.pod("client")
    sidecar = mesh.sidecar("client", pod=pod, start=False, services=SERVICES, clusters=[cluster("c", [])],
                           dns={"vips": ["240.0.0.0/30"]})
    done = pod.run([mesh.weir_proxy, "--config", sidecar.config_path], check=False)
    assert done.returncode == 1 and "no virtual IP is left for" in done.stderr


def test_a_server_that_leads_back_to_us(mesh):
    """Somebody else's rule brings our own queries back: that ends, and the next server answers."""
    pod = mesh.network.pod("client")
    Upstream(pod, 5302, lambda query: reply(query, (query.question[0].name, 60, "A", "192.0.2.1")))
    pod.ip("route add 192.0.2.0/24 dev lo")
    pod.run(["nft", "-f", "-"], input="""table ip other {
        chain out {
            type nat hook output priority -110
            ip daddr 192.0.2.9 udp dport 5399 redirect to :15053
        }
    }""")
    for servers, rcode in ((["192.0.2.9:5399", "127.0.0.1:5302"], 0), (["192.0.2.9:5399"], dns.rcode.SERVFAIL)):
        sidecar = mesh.sidecar("client", pod=pod, workers=2, dns={"upstream": servers})
        names = Names.__new__(Names)
        names.sidecar, names.pod = sidecar, pod
        assert names.ask("loop.example").rcode() == rcode
        came = sidecar.counter("dns_queries_total")
        assert 2 <= came < 20
        assert names.ask("loop.example").rcode() == rcode
        assert sidecar.counter("dns_queries_total") < 40
        sidecar.proxy.stop()


def test_what_unbound_refuses_too(forwarding):
    """Classes, opcodes and versions that nobody serves get the same code from us as from unbound, or one as good."""

    def codes(change, **keys):
        query = dns.message.make_query("www.example.com", "A", **keys)
        wire = change(bytearray(query.to_wire()))
        answers = []
        with forwarding.pod.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            for server in ((RESOLVER[4], 53), ("127.0.0.1", 5300)):
                sock.sendto(bytes(wire), server)
                answers.append(dns.message.from_wire(sock.recv(4096), ignore_trailing=True, question_only=False).rcode())
        return answers

    def opcode(number):
        def change(wire):
            wire[2] = number << 3
            return wire

        return change

    def at(index, value):
        def change(wire):
            wire[index] = value
            return wire

        return change

    unchanged = lambda wire: wire  # noqa: E731
    assert codes(unchanged) == [0, 0]
    assert codes(at(-5, 1), use_edns=0) == [dns.rcode.BADVERS] * 2
    assert codes(opcode(2)) == [dns.rcode.NOTIMP] * 2
    assert codes(opcode(4))[0] == dns.rcode.NOTIMP  # NOTIFY: unbound has zones that could be notified
    assert codes(at(-1, 3))[0] == dns.rcode.REFUSED  # CH


@pytest.mark.parametrize("family", [4, 6])
def test_glibc_and_dig_through_resolv_conf(forwarding, family):
    forwarding.pod.resolv_conf(f"nameserver {RESOLVER[family]}\nsearch mesh\n")
    for name in ("web.mesh", "web"):
        found = forwarding.pod.run(["getent", "ahosts", name]).stdout
        assert "240.240." in found and "fd77:65:6972" in found
    assert forwarding.pod.run(["getent", "hosts", "nothing.mesh"], check=False).returncode == 2
    vip = values(forwarding.ask("web.mesh"))[0]
    assert "web.mesh" in forwarding.pod.run(["getent", "hosts", vip]).stdout
    assert "192.0.2.7" in forwarding.pod.run(["getent", "ahostsv4", "www.example.com"]).stdout
    for words in ([], ["+tcp"], ["+noedns"], ["+bufsize=4096"]):
        assert forwarding.pod.run(["dig", "+short", *words, "web.mesh"]).stdout.strip() == vip
    assert "web.mesh." in forwarding.pod.run(["dig", "+short", "-x", vip]).stdout
    big = forwarding.pod.run(["dig", "+short", "TXT", "big.example.com"]).stdout  # by TCP after all
    assert len(big.splitlines()) == 30


def test_more_over_tcp_than_can_be_sent_at_once(names):
    """A client that pipelines without reading is held back, not closed, and gets every answer."""
    count = 200000
    query = dns.message.make_query("web.mesh", "A", use_edns=0)
    wire = memoryview((struct.pack("!H", len(query.to_wire())) + query.to_wire()) * count)
    with names.pod.enter(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((RESOLVER[4], 53))
        sock.setblocking(False)
        while wire and writable(sock, 0.5):  # until nothing more is taken
            wire = wire[sock.send(wire) :]
        assert wire
        sock.settimeout(30)
        sender = threading.Thread(target=lambda: (sock.sendall(wire), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        got = bytearray()
        while data := sock.recv(1 << 16):
            got += data
        sender.join()
    answers, at = 0, 0
    while at < len(got):
        at += 2 + struct.unpack_from("!H", got, at)[0]
        answers += 1
    assert (answers, at) == (count, len(got))


def test_getaddrinfo_of_real_programs(forwarding):
    found = forwarding.pod.run(["getent", "ahosts", "web.mesh"]).stdout
    assert "240.240." in found and "fd77:65:6972" in found
    assert "192.0.2.7" in forwarding.pod.run(["getent", "ahostsv4", "www.example.com"]).stdout
    dug = forwarding.pod.run(["dig", "+short", f"@{RESOLVER[4]}", "web.mesh"]).stdout
    assert dug.startswith("240.240.")


def framed(query):
    return struct.pack("!H", len(query.to_wire())) + query.to_wire()


def test_queries_that_wait_on_one_tcp_connection_are_bounded(mesh):
    """What is pipelined beyond that waits in the socket, and is answered in the end, too."""
    pod = mesh.network.pod("client")
    Upstream(pod, 5301, lambda query: None)
    sidecar = mesh.sidecar("client", pod=pod, dns={"upstream": ["127.0.0.1:5301"]})
    queries = [dns.message.make_query(f"n{i}.example", "A") for i in range(100)]
    with pod.enter(), socket.create_connection((RESOLVER[4], 53), timeout=30) as sock:
        sock.sendall(b"".join(framed(query) for query in queries))
        # More are read when those are answered, after seconds.
        assert wait_until(lambda: (count := sidecar.counter("dns_queries_total")) >= 64 and count) == 64
        answers = [dns.query.receive_tcp(sock, expiration=time.time() + 30)[0] for _ in queries]
    assert {answer.id for answer in answers} == {query.id for query in queries}
    assert {answer.rcode() for answer in answers} == {dns.rcode.SERVFAIL}


TCP_PLACES = 256


def test_tcp_clients_that_wait_for_an_answer_are_bounded(mesh):
    """Who comes when all places are taken by such waits for one."""
    pod = mesh.network.pod("client")
    go = threading.Event()

    def handler(query):
        go.wait(30)
        return reply(query, (query.question[0].name, 60, "A", "192.0.2.1"))

    Upstream(pod, 5301, handler)
    sidecar = mesh.sidecar("client", pod=pod, services=SERVICES, clusters=[cluster("c", [])], dns={"upstream": ["127.0.0.1:5301"]})
    with pod.enter():
        busy = [socket.create_connection((RESOLVER[4], 53), timeout=30) for _ in range(TCP_PLACES)]
        for sock in busy:
            sock.sendall(framed(dns.message.make_query("slow.example", "A")))
        wait_until(lambda: sidecar.counter("dns_queries_total") == TCP_PLACES)
        last = socket.create_connection((RESOLVER[4], 53), timeout=30)
    last.sendall(framed(dns.message.make_query("web.mesh", "A")))
    waited = not readable(last, 0.3)
    go.set()
    answers = [dns.query.receive_tcp(sock, expiration=time.time() + 30)[0] for sock in (*busy, last)]
    assert values(answers[-1])
    # Nobody was closed before the answer; on a slow machine the time for it was over when the last one came.
    assert waited or answers[0].rcode() == dns.rcode.SERVFAIL
    for sock in (*busy, last):
        sock.close()


def test_a_silent_tcp_client_gives_way(names):
    """When all places are taken, whoever has been silent for the longest makes room, and a client that waits for its
    answer does not."""
    query = framed(dns.message.make_query("web.mesh", "A"))
    with names.pod.enter():
        first, *silent = [socket.create_connection((RESOLVER[4], 53), timeout=30) for _ in range(TCP_PLACES)]
        first.sendall(query)  # heard of last
        assert values(dns.query.receive_tcp(first, expiration=time.time() + 30)[0])
        more = [socket.create_connection((RESOLVER[4], 53), timeout=30) for _ in range(3)]
    for sock in (*more, first):
        sock.sendall(query)
        assert values(dns.query.receive_tcp(sock, expiration=time.time() + 30)[0])
    assert [sock.recv(1) for sock in silent[:3]] == [b""] * 3
    for sock in (first, *silent, *more):
        sock.close()

# --- weir dns query ----------------------------------------------------------------------------------------------------


def query(names, *words):
    return names.sidecar.show("dns", "query", *words)


def test_dns_query_of_own_names(names):
    vip = values(names.ask("web.mesh"))[0]
    found = query(names, "web.mesh")
    assert (found["name"], found["type"], found["rcode"]) == ("web.mesh", "A", "NOERROR")
    assert (found["source"], found["server"], found["transport"]) == ("names", None, "udp")
    assert found["answer"] == [{"name": "web.mesh", "type": "A", "ttl": 10, "data": vip, "virtual_ip_of": "web.mesh"}]
    assert query(names, "web.mesh", "aaaa", "--tcp")["transport"] == "tcp"
    assert query(names, vip)["answer"][0]["data"] == "web.mesh"
    assert query(names, "_http._tcp.web.mesh", "SRV")["answer"][0]["data"] == "0 0 80 web.mesh"
    missing = query(names, "nothing.mesh")
    assert missing["rcode"] == "NXDOMAIN" and not missing["answer"] and missing["authority"][0]["type"] == "SOA"
    assert query(names, "elsewhere.example")["source"] == "none"  # there is no server
    plain = names.sidecar.weir("dns", "query", "web.mesh").stdout
    assert "source: names" in " ".join(plain.split()) and vip in plain
    for words, why in ((["a..b"], "is no name"), (["web.mesh", "NONSENSE"], "is no type")):
        done = names.sidecar.weir("dns", "query", *words, check=False)
        assert done.returncode == 2 and why in done.stderr


def test_dns_query_of_other_names(forwarding):
    first = query(forwarding, "www.example.com")
    assert (first["source"], first["server"]) == ("upstream", "127.0.0.1:5300")
    assert sorted(row["data"] for row in first["answer"]) == ["192.0.2.7", "192.0.2.8"]
    assert query(forwarding, "www.example.com")["source"] == "cache"
    assert query(forwarding, "big.example.com", "TXT")["transport"] == "tcp"
    assert query(forwarding, "nothing.example.com")["rcode"] == "NXDOMAIN"
    # Who does not ask where an answer is from is not told.
    for name in ("www.example.com", "web.mesh"):
        assert not forwarding.ask(name).options


def test_dns_query_without_a_responder(mesh):
    sidecar = mesh.sidecar("client", start=False, intercept={"dns": 0})
    sidecar.start()
    done = sidecar.weir("dns", "query", "web.mesh", check=False)
    assert done.returncode == 1 and "intercept.dns is 0" in done.stderr


def test_dns_query_from_another_network_namespace(names):
    words = [names.sidecar.mesh.weir_path, "--socket", names.sidecar.socket, "dns", "query", "web.mesh"]
    assert "NOERROR" in names.sidecar.mesh.network.hub.run(words).stdout


def test_resolv_conf_is_followed(mesh):
    """It is written in place, as the kubelet does it: a container sees the file through a mount of its own. What the servers
    of before said is not kept."""
    pod = mesh.network.pod("client")
    for address in ("127.0.0.2", "127.0.0.3"):
        Upstream(pod, 53, lambda query: reply(query, (query.question[0].name, 300, "A", "192.0.2.1")), address)
    pod.resolv_conf("nameserver 127.0.0.2\n")
    names = Names.__new__(Names)
    names.pod, names.sidecar = pod, mesh.sidecar("client", pod=pod)
    for address in ("127.0.0.2", "127.0.0.3"):
        pod.resolv_conf(f"nameserver {address}\n")
        wait_until(lambda: query(names, "www.example")["server"] == f"{address}:53")


@pytest.mark.parametrize("written", ["name", "number"])
def test_a_server_at_a_link_local_address(mesh, written):
    """As routers advertise one (systemd-resolved writes the interface's number). It is asked by its interface, over TCP, too; what cannot be asked is told once."""
    pod, router = mesh.network.pod("client"), mesh.network.pod("router")
    address = router.link_local()
    interface = "eth0" if written == "name" else pod.interface_index("eth0")
    cut = lambda query: reply(query, flags=dns.flags.TC)  # noqa: E731
    upstream = Upstream(router, 53, cut, "::")
    with router.enter():
        listener = socket.create_server(("::", 53), family=socket.AF_INET6)
    pod.resolv_conf(
        f"nameserver {address}\nnameserver {address}%eth1 # gone\nnameserver nonsense\n"
        f"nameserver\t{address}%{interface}\noptions timeout:1\n"
    )
    names = Names.__new__(Names)
    names.pod, names.sidecar = pod, mesh.sidecar("client", pod=pod, start=False)
    names.sidecar.start()

    def whole():
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as file:
            question = dns.message.from_wire(file.read(int.from_bytes(file.read(2), "big")))
            answer = reply(question, ("www.example.", 300, "A", "192.0.2.1"))
            sock.sendall(len(answer).to_bytes(2, "big") + answer)
            file.read()

    threading.Thread(target=whole, daemon=True).start()
    found = query(names, "www.example")
    assert (found["rcode"], found["server"]) == ("NOERROR", f"[{address}]:53")
    assert [record["data"] for record in found["answer"]] == ["192.0.2.1"]
    assert len(upstream.queries) == 1
    complaints = [line for line in names.sidecar.proxy.output().splitlines() if "a DNS server upstream cannot be used" in line]
    said = [line.partition(" server=")[2] for line in complaints]
    assert said == [
        f'{address} why="a link-local address without its interface (fe80::1%eth0)"',
        f'{address}%eth1 why="there is no such interface now"',
        'nonsense why="not an IP address"',
    ]
