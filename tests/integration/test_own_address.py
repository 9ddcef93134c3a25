# SPDX-License-Identifier: Apache-2.0
"""Which address of their own programs find on what is captured: that from which the kernel would go where they asked to
go, whichever back end captures it. Several interfaces with several addresses each, and routes of many kinds."""

import errno
import ipaddress
import json
import random
import socket

import pytest

from capture import CapturedPod
from netns import wait_until

BACKENDS = ("nft", "ebpf", "iptables")
ADDRESSES = {
    4: {
        "eth0": ["10.77.0.201/24", "10.79.0.5/24", "10.79.0.6/24", "10.80.0.1/32"],
        "eth1": ["10.78.0.1/24", "10.78.1.1/24"],
        "lo": ["10.99.0.1/32"],
    },
    6: {
        "eth0": ["2001:db8:1::5/64", "2001:db8:1:8000::5/49", "fd00:79::5/64", "2001:db8:1::6/64 preferred_lft 0"],
        "eth1": ["2001:db8:2::1/64", "fd00:78::1/64"],
        "eth2": ["2001:db8:3::1/64 preferred_lft 0"],
        "lo": ["2001:db8:99::1/128"],
    },
}
GATEWAYS = {
    4: {"eth0": ["10.77.0.99", "10.79.0.99"], "eth1": ["10.78.0.99", "10.78.1.99"]},
    6: {"eth0": ["fd00:77::99", "2001:db8:1::99", "fe80::99"], "eth1": ["2001:db8:2::99", "fe80::99"]},
}
PLAN = ("--exclude-outbound-ports", "7001")
families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture
def app(network, weir):
    """eth3 has no address of IPv4, and of IPv6 only its link-local one."""
    app, far = CapturedPod(network, weir, "app"), network.pod("far")
    for name in ("eth1", "eth2", "eth3"):
        app.pod.ip(f"link add {name} type veth peer name {name} netns {far.netns}", f"link set {name} up")
        far.ip(f"link set {name} up")
    for addresses in ADDRESSES.values():
        app.pod.ip(*(f"addr add {address} dev {name}" for name, all_of_it in addresses.items() for address in all_of_it))
    app.pod.wait_for_ipv6(*(address.split("/")[0] for all_of_it in ADDRESSES[6].values() for address in all_of_it))
    return app


def own_address(app, address, port=80, udp=False, local=None):
    """Where the program finds itself, connected; or why it is not."""
    six = ":" in address
    with app.enter(), socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        if local:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(local)
        try:
            sock.connect((address, port))
        except OSError as err:
            return err.errno
        name = sock.getsockname()
        assert not local or local[1] in (0, name[1])
        if not udp:
            assert sock.recv(64).startswith(b"outbound "), "it is captured"
        return name[0]


def by_each(app, ask):
    found = {}
    for backend in BACKENDS:
        app.apply("--backend", backend, *PLAN)
        found[backend] = ask()
    return found


def routes(chance, family):
    """Some within each other; by a next hop of their own, one that has a number, or a group of one. (Of several, the kernel
    takes one or the other, and with IPv6 it confuses the sources of routes by the same numbered one.)"""
    bits, root, shortest = (128, 0x20010DB9 << 96, 32) if family == 6 else (32, 0xC6120000, 15)
    hops = [(name, gateway) for name, gateways in GATEWAYS[family].items() for gateway in gateways]
    lines = [f"nexthop add id {number} via {gateway} dev {name}" for number, (name, gateway) in enumerate(hops, 1)]
    lines += ["nexthop add id 50 group 2", "nexthop add id 51 group 4"]
    seen, targets = set(), []
    for _ in range(60):
        address = root | chance.getrandbits(bits - shortest)
        length = chance.randint(shortest, bits)
        network = ipaddress.ip_network((address.to_bytes(bits // 8, "big"), length), strict=False)
        targets += [str(ipaddress.ip_address(number.to_bytes(bits // 8, "big"))) for number in (address, address ^ 1 << chance.randrange(bits // 2))]
        if network in seen:
            continue
        seen.add(network)
        name, gateway = chance.choice(hops)
        named = [text.split("/")[0] for text in ADDRESSES[family][chance.choice(["eth0", "eth1", "lo"])]]
        way = chance.choice(
            [f"via {gateway} dev {name}"] * 3
            + [f"dev {chance.choice(['eth0', 'eth1', 'eth2', 'eth3'])}"] * 3
            + [f"nhid {chance.choice([1, 2, 3, 50, 51])}"] * 2
            + ([f"via inet6 fe80::99 dev {name}"] if family == 4 else [])
        )
        source = f" src {chance.choice(named)}" if chance.random() < 0.25 and (family == 4 or "nhid" not in way) else ""
        lines.append(f"route add {network} {way}{source}")
    return lines, targets


@pytest.mark.parametrize("seed", [1, 2, 3])
@families
def test_it_is_what_the_route_says(app, family, seed):
    lines, targets = routes(random.Random(seed), family)
    app.pod.ip(*lines)
    targets += ["8.8.8.8", "10.77.0.99", "10.79.0.99", "10.78.1.99"] if family == 4 else ["2001:db8:1::99", "2001:db8:2::99", "2606::1", "fd00:9::1"]
    found = by_each(app, lambda: {address: own_address(app, address) for address in targets})
    assert found["ebpf"] == found["nft"] == found["iptables"]
    all_of_them = {text.split("/")[0] for addresses in ADDRESSES[family].values() for text in addresses}
    assert len(all_of_them & set(found["nft"].values())) > 3


@families
@pytest.mark.parametrize("local", ["port", "address", "address and port"])
def test_programs_may_choose_it(app, family, local):
    address = ADDRESSES[family]["eth0"][1].split("/")[0] if "address" in local else "::" if family == 6 else "0.0.0.0"
    target = "2001:db8:7::7" if family == 6 else "192.0.2.7"
    chosen = (address, 4321 if "port" in local else 0)
    found = by_each(app, lambda: own_address(app, target, local=chosen))
    assert found["ebpf"] == found["nft"] == found["iptables"]
    assert ("address" in local) == (found["ebpf"] == address)


@families
def test_of_queries(app, family):
    """A program may ask for the way to a public resolver to learn its own address."""
    chosen = ADDRESSES[family]["eth0"][2].split("/")[0]
    target = "2001:db8:7::7" if family == 6 else "192.0.2.7"
    near = "2001:db8:2::99" if family == 6 else "10.78.1.99"
    ask = lambda: (own_address(app, target, 53, True), own_address(app, near, 53, True), own_address(app, target, 53, True, (chosen, 0)))
    found = by_each(app, ask)
    assert found["ebpf"] == found["nft"] == found["iptables"]
    assert len(set(found["nft"])) == 3 and found["nft"][2] == chosen


@pytest.mark.parametrize("preferred", [0, 2], ids=["public", "temporary"])
def test_temporary_addresses(app, preferred):
    app.pod.sysctl("net.ipv6.conf.eth1.use_tempaddr", 2)
    app.pod.ip("addr add 2001:db8:4::1/64 dev eth1 mngtmpaddr")

    def temporary():
        links = json.loads(app.pod.run(["ip", "-j", "-6", "addr", "show", "dev", "eth1", "temporary"]).stdout)
        return [row["local"] for link in links for row in link.get("addr_info", []) if row]

    wait_until(temporary)
    app.pod.wait_for_ipv6("2001:db8:4::1", *temporary())
    app.pod.sysctl("net.ipv6.conf.eth1.use_tempaddr", preferred)
    found = by_each(app, lambda: own_address(app, "2001:db8:4::7"))
    assert found["ebpf"] == found["nft"] == found["iptables"]
    assert found["nft"] == (temporary()[0] if preferred else "2001:db8:4::1")


def test_it_is_not_known_where_rules_decide_on_routes(app):
    app.apply("--backend", "ebpf", *PLAN)
    app.pod.ip("rule add from all lookup 77")
    assert own_address(app, "192.0.2.7") == "127.0.0.1"


def test_a_socket_that_connects_anew(app):
    app.apply("--backend", "ebpf", *PLAN)
    with app.enter(), socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", 7001)) == errno.ECONNREFUSED
        sock.connect(("192.0.2.7", 80))
        assert sock.getsockname()[0] == app.ipv4
