# SPDX-License-Identifier: Apache-2.0
"""Which address of their own programs find on what is captured: that from which the kernel would go where they asked to
go, whichever back end captures it. Several interfaces with several addresses each, and routes of many kinds."""

import ctypes
import errno
import ipaddress
import json
import random
import socket
import struct

import pytest

from capture import CapturedPod
from netns import wait_until

IP_UNICAST_IF, IPV6_UNICAST_IF, IPV6_ADDR_PREFERENCES = 50, 76, 72
PREFER_TEMPORARY, PREFER_PUBLIC = 1, 2
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


def own_address(app, address, port=80, udp=False, local=None, options=()):
    """Where the program finds itself, connected; or why it is not."""
    six = ":" in address
    with app.enter(), socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        for option in options:
            sock.setsockopt(*option)
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


def disconnect(sock):
    """connect() to no address (AF_UNSPEC), which Python has not."""
    assert ctypes.CDLL(None).connect(sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16) == 0


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
    own = ADDRESSES[family]["eth0"][3 if family == 6 else 2].split("/")[0]
    ask = lambda: (own_address(app, target, 53, True), own_address(app, near, 53, True), own_address(app, target, 53, True, (chosen, 0)), own_address(app, own, 53, True))
    found = by_each(app, ask)
    assert found["ebpf"] == found["nft"] == found["iptables"]
    assert len(set(found["nft"][:3])) == 3 and found["nft"][2] == chosen
    assert found["nft"][3] == (own if family == 6 else "10.79.0.5")


INDEX = "number of the interface"
TIES = {
    4: [(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1"), (socket.IPPROTO_IP, IP_UNICAST_IF, INDEX)],
    6: [(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1"), (socket.IPPROTO_IPV6, IPV6_UNICAST_IF, INDEX)],
}


@families
@pytest.mark.parametrize("tie", [0, 1], ids=["bound", "unicast"])
def test_of_queries_by_an_interface_of_the_programs_choice(app, family, tie):
    """Of several addresses, that for the server, or for its gateway; also where the routes lead elsewhere."""
    level, option, value = TIES[family][tie]
    with app.enter():
        value = struct.pack("!I", socket.if_nametoindex("eth1")) if value is INDEX else value
    gateway = GATEWAYS[family]["eth1"][-1 if family == 4 else 0]
    far = "2001:db8:a::1" if family == 6 else "203.0.113.9"
    app.pod.ip(f"route add {far} via {gateway} dev eth1")
    elsewhere_too = "fd00:78::98" if family == 6 else "10.78.1.98"
    app.pod.ip(f"route add {elsewhere_too} via {GATEWAYS[family]['eth0'][0]} dev eth0")
    servers = [*(["10.78.0.99", "10.78.1.99"] if family == 4 else ["2001:db8:2::99", "fd00:78::99"]), far, elsewhere_too]
    elsewhere = "2001:db8:7::7" if family == 6 else "192.0.2.7"
    found = by_each(app, lambda: [own_address(app, server, 53, True, options=[(level, option, value)]) for server in servers])
    assert found["ebpf"] == found["nft"] == found["iptables"]
    assert len(set(found["nft"][:2])) == 2
    own = {text.split("/")[0] for text in ADDRESSES[family]["eth1"]}
    app.apply("--backend", "ebpf", *PLAN)
    assert own_address(app, elsewhere, 53, True, options=[(level, option, value)]) in own


@pytest.mark.parametrize("preferred", [0, 2], ids=["public", "temporary"])
def test_temporary_addresses(app, preferred):
    """As the interface has it, unless the program says which."""
    app.pod.sysctl("net.ipv6.conf.eth1.use_tempaddr", 2)
    app.pod.ip("addr add 2001:db8:4::1/64 dev eth1 mngtmpaddr")

    def temporary():
        links = json.loads(app.pod.run(["ip", "-j", "-6", "addr", "show", "dev", "eth1", "temporary"]).stdout)
        return [row["local"] for link in links for row in link.get("addr_info", []) if row]

    wait_until(temporary)
    app.pod.wait_for_ipv6("2001:db8:4::1", *temporary())
    app.pod.sysctl("net.ipv6.conf.eth1.use_tempaddr", preferred)
    wishes = [[], [PREFER_TEMPORARY], [PREFER_PUBLIC]]
    found = by_each(app, lambda: [own_address(app, "2001:db8:4::7", options=[(socket.IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, wish) for wish in more]) for more in wishes])
    assert found["ebpf"] == found["nft"] == found["iptables"]
    public, private = "2001:db8:4::1", temporary()[0]
    assert found["nft"] == [private if preferred else public, private, public]


VIPS = ("--vips", "240.240.0.0/16,fd77:65:6972::/112")
TARGET, VIP = {4: "192.0.2.7", 6: "2001:db8:7::7"}, {4: "240.240.0.5", 6: "fd77:65:6972::5"}
ONLY_OWN = ["addr flush dev eth0"]
# Where they ask to go, what is done before, and where they find themselves. (eth0 has 10.77.0.2 and fd00:77::2.)
SITUATIONS = {
    "no route to it": (VIP[4], [], "10.77.0.2"),
    "no route to it, IPv6": (VIP[6], [], "fd00:77::2"),
    "it is the host's own": (VIP[4], [f"route add local {VIP[4]} dev lo"], VIP[4]),
    "its network is, IPv6": (VIP[6], ["route add local fd77:65:6972::/120 dev lo"], "fd00:77::2"),
    "no address there": (TARGET[4], [f"route add {TARGET[4]} dev eth1"], "10.77.0.2"),
    "no address there, IPv6": (TARGET[6], [f"route add {TARGET[6]} dev eth1"], "fd00:77::2"),
    "none there, and elsewhere one for a link": (
        TARGET[4],
        [*ONLY_OWN, "addr add 169.254.7.7/16 dev eth0 scope link", "addr add 10.5.0.1/24 dev eth0", f"route add {TARGET[4]} dev eth1"],
        "10.5.0.1",
    ),
    "no address there, and elsewhere one of the gateway's network": (
        TARGET[4],
        ["addr add 10.5.0.1/24 dev eth0", f"route add {TARGET[4]} via 10.5.0.9 dev eth1 onlink"],
        "10.77.0.2",
    ),
    "the end of a line between two": (TARGET[4], ["addr add 10.5.0.1 peer 10.6.0.9/32 dev eth1", f"route add {TARGET[4]} via 10.6.0.9"], "10.5.0.1"),
    "one for a link there": (TARGET[4], ["addr add 169.254.7.7/16 dev eth1 scope link", f"route add {TARGET[4]} dev eth1"], "169.254.7.7"),
    "a deprecated one": (
        TARGET[6],
        [*ONLY_OWN, "addr add 2001:db8:5::1/64 dev eth0 preferred_lft 0", f"route add {TARGET[6]} dev eth0"],
        "2001:db8:5::1",
    ),
    "one of another kind with more bits in common": (
        "e000::1",
        ["addr add fd00:5::1/64 dev eth1", "addr add 2001:db8:5::1/64 dev eth1", "route add e000::1 dev eth1"],
        "2001:db8:5::1",
    ),
    "more bits in common than in its network": (
        TARGET[6],
        ["addr add 2001:db8:7::1/16 dev eth1", "addr add 2001:db8::1/48 dev eth1", f"route add {TARGET[6]} dev eth1"],
        "2001:db8::1",
    ),
    "deprecated ones here and there": (
        TARGET[6],
        [*ONLY_OWN, "addr add 2001:db8:5::1/64 dev eth0 preferred_lft 0", "addr add fd00:5::1/64 dev eth1 preferred_lft 0", f"route add {TARGET[6]} dev eth1"],
        "fd00:5::1",
    ),
}


@pytest.mark.parametrize("to, lines, own", SITUATIONS.values(), ids=SITUATIONS)
def test_where_hardly_any_address_fits(network, weir, to, lines, own):
    app, far = CapturedPod(network, weir, "app", default_route=False), network.pod("far")
    app.pod.ip(f"link add eth1 type veth peer name eth1 netns {far.netns}", "link set eth1 up", *lines)
    far.ip("link set eth1 up")
    app.pod.wait_for_ipv6(*(line.split()[2].split("/")[0] for line in lines if line.startswith("addr add") and "::" in line))
    found = {}
    for backend in BACKENDS:
        app.apply("--backend", backend, *VIPS)
        found[backend] = own_address(app, to)
    assert found == dict.fromkeys(BACKENDS, own)


# Rules of routing, and for whom of those who connect they are.
FOR_OTHERS = {
    "an address": ["add from {own} lookup 77"],
    "a mark": ["add fwmark 0x5 lookup 77", "add fwmark 0x50/0xf0 lookup 77"],
    "a VRF": ["add l3mdev pref 1000"],
    "an interface": ["add iif eth1 lookup 77", "add oif eth1 lookup 77", "add iif eth9 lookup 77", "add oif eth9 lookup 77"],
    "nobody any more": ["add lookup 77", "del lookup 77"],
    "everybody, behind the usual ones": ["add pref 100 lookup local", "del pref 0", "add pref 200 lookup main", "add pref 300 lookup local"],
}
FOR_ALL = {
    "all": "pref 100 lookup 77",
    "a network": "pref 100 to {target} lookup 77",
    "all without a mark": "pref 100 not fwmark 0x5 lookup 77",
    "a user": "pref 100 uidrange 0-0 lookup 77",
    "a protocol": "pref 100 ipproto tcp lookup 77",
    "a port": "pref 100 dport 80 lookup 77",
    "a kind of service": "pref 100 tos 0x10 lookup 77",
    "the usual table in part": "pref 100 lookup main suppress_prefixlength 31",
    "nowhere": "pref 100 to {target} unreachable",
    "a rule behind": "pref 100 goto 32766",
    "what is sent here": "pref 100 iif lo lookup 77",
    "a table behind the usual ones": "pref 40000 lookup {behind}",
}
OWN = {4: "10.78.0.1", 6: "2001:db8:2::1"}
BEHIND = {4: 252, 6: 253}
DEVICES = {"": "dev eth1", "unreachable": "", "local": "dev lo"}


def rules(app, family, lines):
    """Table 77 has another way than the others."""
    target = TARGET[family]
    app.pod.run(["ip", f"-{family}", "route", "replace", "default", "dev", "eth2", "table", "77"])
    for line in lines:
        app.pod.run(["ip", f"-{family}", "rule", *line.format(own=OWN[family], target=target, behind=BEHIND[family]).split()])


@families
@pytest.mark.parametrize("lines", FOR_OTHERS.values(), ids=FOR_OTHERS)
def test_rules_of_routing_that_are_for_others(app, lines, family):
    target, host = TARGET[family], {4: 32, 6: 128}[family]
    kinds = {"": OWN[family], "unreachable": errno.EHOSTUNREACH, "local": errno.ECONNREFUSED}  # that one is not captured
    addresses = [f"{target[:-1]}{number}" for number, _ in enumerate(kinds, 7)]
    app.pod.ip(*(f"route add {kind} {address}/{host} {DEVICES[kind]}" for kind, address in zip(kinds, addresses)))
    rules(app, family, lines)
    found = by_each(app, lambda: [own_address(app, address) for address in addresses])
    wanted = {backend: list(kinds.values()) for backend in BACKENDS}
    if family == 6 and "from" in lines[0]:  # where nothing leads, the kernel looks again with an address of its choice
        wanted["ebpf"][1] = "::1"
    assert found == wanted


@families
@pytest.mark.parametrize("line", FOR_ALL.values(), ids=FOR_ALL)
def test_it_is_not_known_where_rules_decide_on_routes(app, line, family):
    """What they decide is nowhere seen; that it is captured is."""
    app.apply("--backend", "ebpf", *PLAN)
    rules(app, family, [f"add {line}"])
    assert own_address(app, TARGET[family]) == {4: "127.0.0.1", 6: "::1"}[family]


@families
def test_it_is_not_known_for_whom_rules_decide(app, family):
    loopback, mark = {4: "127.0.0.1", 6: "::1"}[family], (socket.SOL_SOCKET, socket.SO_MARK, 0x55)
    app.apply("--backend", "ebpf", *PLAN)
    app.pod.ip(f"route add {TARGET[family]} dev eth1")
    rules(app, family, ["add fwmark 0x50/0xf0 lookup 77"])
    assert own_address(app, TARGET[family]) == OWN[family]
    assert own_address(app, TARGET[family], options=[mark]) == loopback


def test_a_socket_that_connects_anew(app):
    app.apply("--backend", "ebpf", *PLAN)
    with app.enter(), socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", 7001)) == errno.ECONNREFUSED
        sock.connect(("192.0.2.7", 80))
        assert sock.getsockname()[0] == app.ipv4


def test_an_address_that_somebody_else_has(network, weir):
    """On the same link: it cannot be used."""
    app, far = CapturedPod(network, weir, "app", default_route=False), network.pod("far")
    app.pod.ip(f"link add eth1 type veth peer name eth1 netns {far.netns}", "link set eth1 up")
    far.ip("link set eth1 up", "addr add 2001:db8:7::1/64 dev eth1 nodad")
    app.pod.sysctl("net.ipv6.conf.eth1.accept_dad", 1)
    app.pod.sysctl("net.ipv6.conf.eth1.dad_transmits", 1)
    app.pod.ip("addr add 2001:db8:7::2/64 dev eth1", "addr add 2001:db8:7::1/64 dev eth1")
    app.pod.wait_for_ipv6("2001:db8:7::2")
    wait_until(lambda: "dadfailed" in app.pod.run(["ip", "-6", "address", "show", "dev", "eth1"]).stdout)
    assert by_each(app, lambda: own_address(app, TARGET[6])) == dict.fromkeys(BACKENDS, "2001:db8:7::2")


@families
def test_a_socket_that_is_bound_after_it_was_connected(app, family):
    app.apply("--backend", "ebpf", *PLAN)
    target, loopback = ("2001:db8:7::7", "::1") if family == 6 else ("192.0.2.7", "127.0.0.1")
    with app.enter(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET) as sock:
        sock.connect((target, 80))
        assert sock.getsockname()[0] != loopback
        disconnect(sock)
        sock.bind((loopback, 0))
        sock.listen(1)
        assert sock.getsockname()[0] == loopback
