# SPDX-License-Identifier: Apache-2.0
"""`weir intercept` in real namespaces: what is captured and what is left alone, proven by connections that arrive at a
stand-in for the proxy or do not; what the commands say; what is left behind."""

import concurrent.futures
import json
import re
import socket
import struct
import subprocess

import pytest

from callers import Callers
from capture import STATE, CapturedPod, Server, header_of, name_of, probe, state
from mesh import Mesh
from netns import CONTROL_GROUPS, wait_until

FOREIGN_RULES = """
table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 counter packets 0 bytes 0 masquerade
	}
}
table inet filter {
	set allowed {
		type ipv4_addr
		elements = { 192.0.2.7, 198.51.100.9 }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr @allowed tcp dport 2222 counter accept comment "theirs"
	}
}
table inet weird {
	chain weir {
	}
}
"""

families = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])


def ip_of(pod, family):
    return pod.ipv6 if family == 6 else pod.ipv4


def cidr_of(pod, family):
    return ip_of(pod, family) + ("/128" if family == 6 else "/32")


@pytest.fixture
def app(network, weir):
    """A pod with a stand-in proxy; nothing is applied yet."""
    return CapturedPod(network, weir, "app")


@pytest.fixture
def peer(network):
    """Another host; what connections to it find there says "peer"."""
    pod = network.pod("peer")
    for address in ("0.0.0.0", "::"):
        for port in (22, 53, 80, 81, 8080):
            Server(pod, port, "peer", address)
        Server(pod, 53, "peer", address, udp=True)
    return pod


@pytest.fixture
def served(app):
    """The same pod with servers of its own, that say "app"."""
    for address in ("0.0.0.0", "::"):
        for port in (22, 80, 81, 8080):
            Server(app, port, "app", address)
    return app


def captured(word, address, port):
    return f"{word} {name_of(address, port)}"


def is_direct(answer, word="peer"):
    return answer.split()[0] == word


# --- what is captured ------------------------------------------------------------------------------------------------
@families
def test_outbound_connections_are_captured_and_their_destination_is_known(app, peer, family):
    address = ip_of(peer, family)
    assert is_direct(probe(app, address, 80))
    assert app.apply() == "interception: installed\n"
    assert probe(app, address, 80) == captured("outbound", address, 80)
    assert app.packets("outbound", "output") == 1


@families
def test_inbound_connections_are_captured_and_their_destination_is_known(served, peer, family):
    address = ip_of(served, family)
    assert is_direct(probe(peer, address, 80), "app")
    served.apply()
    assert probe(peer, address, 80) == captured("inbound", address, 80)
    assert probe(peer, address, 4711) == captured("inbound", address, 4711)
    assert served.packets("inbound", "inbound") == 2


@families
def test_dns_is_captured_over_udp_and_tcp(app, peer, family):
    address = ip_of(peer, family)
    loopback = "::1" if family == 6 else "127.0.0.1"
    app.apply()
    for server in (address, loopback):
        assert probe(app, server, 53, udp=True) == "dns"
        assert probe(app, server, 53) == captured("dns", server, 53)
    assert app.packets("DNS over UDP") == 2
    assert app.packets("DNS over TCP") == 2


@families
def test_a_source_port_that_the_proxy_used_does_not_let_a_query_pass(app, peer, family):
    """Entries of connection tracking for UDP outlive the sockets: the same pair of addresses must not pass for the
    proxy's own query, nor the other way round."""

    def ask(mark):
        with app.enter():
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            with sock:
                sock.settimeout(30)
                if mark:
                    sock.setsockopt(socket.SOL_SOCKET, 36, mark)
                sock.bind((ip_of(app, family), 5353))
                sock.connect((ip_of(peer, family), 53))
                sock.send(b"?")
                return sock.recv(100).decode()

    app.apply()
    assert [ask(mark) for mark in (0x772, 0, 0x772, 0)] == ["peer", "dns", "peer", "dns"]


@families
def test_many_destinations_from_one_source_port(app, peer, family):
    """Redirected, they all have the same two ends; each is still known by where it was going."""

    app.apply()
    for port in (80, 81, 8080):
        with app.enter():
            sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(30)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ip_of(app, family), 4444))
            sock.connect((ip_of(peer, family), port))
            assert sock.recv(100).decode() == captured("outbound", ip_of(peer, family), port)


@families
def test_ssh_is_left_alone_inbound_unless_asked_for(served, peer, family):
    address = ip_of(served, family)
    served.apply()
    assert is_direct(probe(peer, address, 22), "app")
    assert probe(served, ip_of(peer, family), 22) == captured("outbound", ip_of(peer, family), 22)
    served.apply("--capture-ssh")
    assert probe(peer, address, 22) == captured("inbound", address, 22)


METADATA = {
    4: ["169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200"],
    6: ["fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"],
}


@families
def test_metadata_services_are_left_alone_unless_asked_for(app, peer, family):
    for address in METADATA[family]:
        peer.address(f"{address}/{128 if family == 6 else 32}")
        app.pod.ip(f"route add {address} via {ip_of(peer, family)}")
    app.apply()
    assert all(is_direct(probe(app, address, 80)) for address in METADATA[family])
    app.apply("--capture-metadata")
    assert all(probe(app, address, 80) == captured("outbound", address, 80) for address in METADATA[family])


@families
def test_a_program_reaches_its_own_host_by_itself(served, family):
    loopback = "::1" if family == 6 else "127.0.0.1"
    served.apply()
    for address in (loopback, ip_of(served, family)):
        assert is_direct(probe(served, address, 80), "app")


@families
def test_forwarded_connections_are_left_alone(network, weir, family):
    """A captured pod that routes for others does not take their connections for its own."""
    router = CapturedPod(network, weir, "router")
    client, server = network.pod("client"), network.pod("server")
    Server(server, 80, "server", "::" if family == 6 else "0.0.0.0")
    address = "fd99::1" if family == 6 else "10.99.0.1"
    server.address(address + ("/128" if family == 6 else "/32"))
    router.pod.sysctl("net.ipv6.conf.all.forwarding" if family == 6 else "net.ipv4.ip_forward", 1)
    router.pod.ip(f"route add {address} via {ip_of(server, family)}")
    client.ip(f"route add {address} via {ip_of(router, family)}")
    router.apply()
    assert is_direct(probe(client, address, 80), "server")
    assert router.packets("only forwarded by this host") >= 1


# --- the loop guard --------------------------------------------------------------------------------------------------
@families
def test_connections_with_the_proxys_marks_are_left_alone(app, peer, family):
    address = ip_of(peer, family)
    app.apply()
    for mark in (0x771, 0x772, 0xF000771, 0xABCDE772):  # bits outside of the mask belong to others
        assert is_direct(probe(app, address, 80, mark=mark)), hex(mark)
        assert is_direct(probe(app, address, 53, mark=mark)), hex(mark)
        assert probe(app, address, 53, udp=True, mark=mark) == "peer", hex(mark)
    for mark in (0x770, 0x1, 0x773):
        assert probe(app, address, 80, mark=mark) == captured("outbound", address, 80), hex(mark)


@families
def test_other_marks_can_be_chosen(app, peer, family):
    address = ip_of(peer, family)
    app.apply("--outbound-mark", "0x1000", "--inbound-mark", "0x2000", "--mark-mask", "0xf000")
    assert is_direct(probe(app, address, 80, mark=0x1000))
    assert is_direct(probe(app, address, 80, mark=0x2abc))
    assert probe(app, address, 80, mark=0x771) == captured("outbound", address, 80)


@families
def test_the_inbound_proxys_connections_to_the_application_are_left_alone(served, family):
    served.apply()
    address = ip_of(served, family)
    assert is_direct(probe(served, address, 80, mark=0x772), "app")


@families
def test_the_outbound_proxys_connections_to_its_own_host_pass_the_inbound_proxy(served, family):
    """It ends the TLS that the outbound side began."""
    served.apply()
    address = ip_of(served, family)
    assert probe(served, address, 80, mark=0x771) == captured("inbound", address, 80)
    assert is_direct(probe(served, address, 22, mark=0x771), "app")
    loopback = "::1" if family == 6 else "127.0.0.1"
    assert is_direct(probe(served, loopback, 80, mark=0x771), "app")


@families
@pytest.mark.parametrize("option", ["user", "group"])
def test_a_proxy_that_cannot_mark_is_known_by_its_user_or_group(app, peer, family, option):
    address = ip_of(peer, family)
    app.apply(f"--proxy-{option}", "4321")
    assert is_direct(probe(app, address, 80, **{option: 4321}))
    assert probe(app, address, 53, udp=True, **{option: 4321}) == "peer"
    assert probe(app, address, 80, **{option: 4322}) == captured("outbound", address, 80)


# --- choosing --------------------------------------------------------------------------------------------------------
def words(option, value):
    return [f"--{option}", value]


@families
@pytest.mark.parametrize(
    "option, value, spared, taken",
    [
        ("exclude-outbound-ports", "79-80,9000", [80], [81, 8080]),
        ("include-outbound-ports", "81,8000-8999", [80], [81, 8080]),
    ],
)
def test_outbound_ports(app, peer, family, option, value, spared, taken):
    address = ip_of(peer, family)
    app.apply(*words(option, value))
    for port in spared:
        assert is_direct(probe(app, address, port)), port
    for port in taken:
        assert probe(app, address, port) == captured("outbound", address, port)


@families
@pytest.mark.parametrize(
    "option, value, spared, taken",
    [
        ("exclude-inbound-ports", "79-80,9000", [22, 80], [81, 8080]),
        ("include-inbound-ports", "81,8000-8999", [22, 80], [81, 8080]),
    ],
)
def test_inbound_ports(served, peer, family, option, value, spared, taken):
    address = ip_of(served, family)
    served.apply(*words(option, value))
    for port in spared:
        assert is_direct(probe(peer, address, port), "app"), port
    for port in taken:
        assert probe(peer, address, port) == captured("inbound", address, port)


@families
def test_what_is_excluded_wins_over_what_is_included(app, peer, family):
    address = ip_of(peer, family)
    app.apply("--include-outbound-ports", "80-90", "--exclude-outbound-ports", "81")
    assert probe(app, address, 80) == captured("outbound", address, 80)
    assert is_direct(probe(app, address, 81))
    assert is_direct(probe(app, address, 8080))


@pytest.fixture
def other(network):
    pod = network.pod("other")
    for address in ("0.0.0.0", "::"):
        for port in (53, 80):
            Server(pod, port, "other", address)
        Server(pod, 53, "other", address, udp=True)
    return pod


@families
def test_outbound_networks(app, peer, other, family):
    mine, theirs = ip_of(peer, family), ip_of(other, family)
    app.apply(*words("exclude-outbound-cidrs", f"{cidr_of(peer, family)},192.0.2.0/24"))
    assert is_direct(probe(app, mine, 80))
    assert probe(app, theirs, 80) == captured("outbound", theirs, 80)
    app.apply(*words("include-outbound-cidrs", cidr_of(peer, family)))
    assert probe(app, mine, 80) == captured("outbound", mine, 80)
    assert is_direct(probe(app, theirs, 80), "other")


def test_networks_of_one_family_leave_the_other_family_alone(app, peer):
    app.apply("--include-outbound-cidrs", "10.0.0.0/8")
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    assert is_direct(probe(app, peer.ipv6, 80))
    app.apply("--include-outbound-cidrs", "fd00::/8")
    assert is_direct(probe(app, peer.ipv4, 80))
    assert probe(app, peer.ipv6, 80) == captured("outbound", peer.ipv6, 80)


@families
def test_inbound_networks(served, peer, other, family):
    address = ip_of(served, family)
    served.apply(*words("exclude-inbound-cidrs", cidr_of(peer, family)))
    assert is_direct(probe(peer, address, 80), "app")
    assert probe(other, address, 80) == captured("inbound", address, 80)
    served.apply(*words("include-inbound-cidrs", cidr_of(peer, family)))
    assert probe(peer, address, 80) == captured("inbound", address, 80)
    assert is_direct(probe(other, address, 80), "app")


@families
@pytest.mark.parametrize("option", ["user", "group"])
def test_users_and_groups(app, peer, family, option):
    address = ip_of(peer, family)
    app.apply(*words(f"exclude-{option}s", "4000-4002,4010"))
    for number in (4000, 4002, 4010):
        assert is_direct(probe(app, address, 80, **{option: number})), number
    assert probe(app, address, 53, udp=True, **{option: 4000}) == "peer"
    assert probe(app, address, 80, **{option: 4003}) == captured("outbound", address, 80)
    assert probe(app, address, 53, udp=True, **{option: 4003}) == "dns"
    app.apply(*words(f"include-{option}s", "4000-4002"))
    assert probe(app, address, 80, **{option: 4001}) == captured("outbound", address, 80)
    assert probe(app, address, 53, udp=True, **{option: 4001}) == "dns"
    assert is_direct(probe(app, address, 80, **{option: 4003}))
    assert probe(app, address, 53, udp=True, **{option: 4003}) == "peer"


@families
def test_an_included_group_is_an_alternative_to_an_included_user(app, peer, family):
    address = ip_of(peer, family)
    app.apply("--include-users", "4000", "--include-groups", "5000", "--exclude-groups", "5001")
    for user, group in ((4000, 1), (1, 5000), (4000, 5000)):
        assert probe(app, address, 80, user=user, group=group) == captured("outbound", address, 80)
    for user, group in ((1, 1), (4000, 5001)):
        assert is_direct(probe(app, address, 80, user=user, group=group))


def test_names_of_users_and_groups(app, peer):
    app.apply("--exclude-users", "nobody", "--exclude-groups", "daemon")
    assert is_direct(probe(app, peer.ipv4, 80, user="nobody"))
    assert is_direct(probe(app, peer.ipv4, 80, group="daemon"))
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)


@families
def test_excluded_marks(app, peer, family):
    address = ip_of(peer, family)
    app.apply(*words("exclude-marks", "0x5000,0x80000/0xf0000"))
    for mark in (0x5000, 0x80000, 0x81234):
        assert is_direct(probe(app, address, 80, mark=mark)), hex(mark)
        assert probe(app, address, 53, udp=True, mark=mark) == "peer", hex(mark)
    for mark in (0, 0x5001, 0x90000):
        assert probe(app, address, 80, mark=mark) == captured("outbound", address, 80), hex(mark)


@families
def test_included_marks(app, peer, family):
    address = ip_of(peer, family)
    app.apply(*words("include-marks", "0x5000,0x80000/0xf0000"), *words("exclude-marks", "0x81235"))
    for mark in (0x5000, 0x80000, 0x81234):
        assert probe(app, address, 80, mark=mark) == captured("outbound", address, 80), hex(mark)
        assert probe(app, address, 53, udp=True, mark=mark) == "dns", hex(mark)
    for mark in (0, 0x5001, 0x90000, 0x81235):
        assert is_direct(probe(app, address, 80, mark=mark)), hex(mark)
        assert probe(app, address, 53, udp=True, mark=mark) == "peer", hex(mark)


@pytest.fixture
def second_line(network, app, peer):
    """A second link between the two: the peer is 10.88.0.2 and fd00:88::2 there, by the interface `wan-line0`."""
    subprocess.run(
        ["ip", "link", "add", "wan-line0", "netns", app.pod.netns, "type", "veth"]
        + ["peer", "name", "wan-line0", "netns", peer.netns],
        check=True,
    )
    for pod, host in ((app.pod, 1), (peer, 2)):
        pod.ip(
            f"addr add 10.88.0.{host}/24 dev wan-line0",
            f"addr add fd00:88::{host}/64 dev wan-line0 nodad",
            "link set wan-line0 up",
        )
    return {4: "10.88.0.2", 6: "fd00:88::2"}


@families
@pytest.mark.parametrize("name", ["wan-line0", "wan*"])
def test_outbound_interfaces(app, peer, second_line, family, name):
    first, second = ip_of(peer, family), second_line[family]
    app.apply(*words("exclude-outbound-interfaces", f"dummy7,{name}"))
    assert probe(app, first, 80) == captured("outbound", first, 80)
    assert is_direct(probe(app, second, 80))
    app.apply(*words("include-outbound-interfaces", f"dummy7,{name}"))
    assert is_direct(probe(app, first, 80))
    assert probe(app, second, 80) == captured("outbound", second, 80)


@families
@pytest.mark.parametrize("name", ["wan-line0", "wan*"])
def test_inbound_interfaces(served, peer, second_line, family, name):
    first, second = ip_of(served, family), second_line[family][:-1] + "1"
    served.apply(*words("exclude-inbound-interfaces", f"dummy7,{name}"))
    assert probe(peer, first, 80) == captured("inbound", first, 80)
    assert is_direct(probe(peer, second, 80), "app")
    served.apply(*words("include-inbound-interfaces", f"dummy7,{name}"))
    assert is_direct(probe(peer, first, 80), "app")
    assert probe(peer, second, 80) == captured("inbound", second, 80)


@families
def test_dns_of_some_servers_only(app, peer, other, family):
    app.apply("--dns-servers", f"{peer.ipv4},{peer.ipv6}")
    assert probe(app, ip_of(peer, family), 53, udp=True) == "dns"
    assert probe(app, ip_of(peer, family), 53) == captured("dns", ip_of(peer, family), 53)
    assert probe(app, ip_of(other, family), 53, udp=True) == "other"
    # Not DNS to weir: an outbound connection like any other, which can be spared.
    assert probe(app, ip_of(other, family), 53) == captured("outbound", ip_of(other, family), 53)
    app.apply("--dns-servers", f"{peer.ipv4},{peer.ipv6}", "--exclude-outbound-ports", "53")
    assert is_direct(probe(app, ip_of(other, family), 53), "other")
    assert probe(app, ip_of(peer, family), 53) == captured("dns", ip_of(peer, family), 53)


@families
@pytest.mark.parametrize("off", ["outbound", "inbound", "dns"])
def test_each_kind_can_be_turned_off(served, peer, family, off):
    served.apply(f"--no-{off}")
    mine, theirs = ip_of(served, family), ip_of(peer, family)
    outbound, inbound = probe(served, theirs, 80), probe(peer, mine, 80)
    dns = probe(served, theirs, 53, udp=True)
    assert outbound == captured("outbound", theirs, 80) if off != "outbound" else is_direct(outbound)
    assert inbound == captured("inbound", mine, 80) if off != "inbound" else is_direct(inbound, "app")
    assert dns == ("peer" if off == "dns" else "dns")


@pytest.mark.parametrize("off", [4, 6])
def test_a_family_can_be_left_alone(served, peer, off):
    served.apply(f"--no-ipv{off}")
    other = 10 - off
    assert is_direct(probe(served, ip_of(peer, off), 80))
    assert is_direct(probe(peer, ip_of(served, off), 80), "app")
    assert probe(served, ip_of(peer, off), 53, udp=True) == "peer"
    assert probe(served, ip_of(peer, other), 80) == captured("outbound", ip_of(peer, other), 80)
    assert probe(peer, ip_of(served, other), 80) == captured("inbound", ip_of(served, other), 80)
    assert probe(served, ip_of(peer, other), 53, udp=True) == "dns"


# --- virtual IPs -----------------------------------------------------------------------------------------------------
VIPS = ["--vips", "240.240.0.0/16,fd77:65:6972::/112"]
A_VIP = {4: "240.240.3.7", 6: "fd77:65:6972::307"}


@families
@pytest.mark.parametrize("default_route", [True, False])
def test_virtual_ips_are_reachable(network, weir, family, default_route):
    app = CapturedPod(network, weir, "app", default_route=default_route)
    before = probe(app, A_VIP[family], 80) if not default_route else "unreachable"
    assert before == "unreachable"
    app.apply(*VIPS)
    assert probe(app, A_VIP[family], 80) == captured("outbound", A_VIP[family], 80)
    assert bool(app.show()["routes"]) == (not default_route)


@families
def test_virtual_ips_are_reachable_without_any_address_but_loopback(network, weir, family):
    app = CapturedPod(network, weir, "app", ipv4=False, ipv6=False)
    app.apply(*VIPS)
    assert probe(app, A_VIP[family], 80) == captured("outbound", A_VIP[family], 80)


@families
def test_virtual_ips_are_captured_whatever_else_is_excluded(app, family):
    app.apply(*VIPS, "--exclude-outbound-ports", "80", "--exclude-outbound-cidrs", "0.0.0.0/0,::/0")
    assert probe(app, A_VIP[family], 80) == captured("outbound", A_VIP[family], 80)


def test_routes_follow_the_plan(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False)

    def routes():
        return sorted(route["route"] for route in app.show()["routes"])

    app.apply(*VIPS)
    assert routes() == ["240.240.0.0/16", "fd77:65:6972::/112"]
    app.apply("--vips", "240.241.0.0/16,240.240.0.0/16")
    assert routes() == ["240.240.0.0/16", "240.241.0.0/16"]
    app.apply(*VIPS, "--no-ipv6")
    assert routes() == ["240.240.0.0/16"]
    app.apply("--no-outbound")
    assert routes() == []


def test_a_namespace_without_ipv6(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False, ipv6=False, proxy=False)
    app.pod.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    before = state(app)
    plan = app.weir("plan", *VIPS).stdout
    app.apply(*VIPS)
    assert [route["route"] for route in app.show()["routes"]] == ["240.240.0.0/16"]
    assert "ip route add 240.240.0.0/16" in plan and "ip route add fd77" not in plan
    Server(app, 15001, "outbound", "127.0.0.1")
    assert probe(app, A_VIP[4], 80).startswith("outbound")
    app.weir("remove")
    assert state(app) == before


# --- control groups --------------------------------------------------------------------------------------------------
@pytest.fixture
def tree(network):
    """Control groups as systemd makes them, with names that nobody else has."""
    top = CONTROL_GROUPS / f"{network.prefix}x.slice"
    for name in ("y.slice/one.service/nested.service", "y.slice/two.service", "two.service", "session.scope/inner.slice/three.service"):
        path = top.joinpath(*(part if part.endswith("slice") else network.prefix + part for part in name.split("/")))
        path.mkdir(parents=True)
    return top


def named(app, name):
    """The path that a rule has for that name of a control group, or what is said."""
    done = app.weir("plan", "--exclude-cgroups", str(name), check=False)
    found = re.search(r'socket cgroupv2 level (\d+) "(.*?)"', done.stdout)
    if not found:
        return done.stderr
    path = found[2].removeprefix(f"{CONTROL_GROUPS.name}/")  # in nft's text from /sys/fs/cgroup on
    assert int(found[1]) == path.count("/") + 1 == found[2].count("/")
    return path


def test_a_unit_is_found_in_its_slice(app, tree):
    prefix = app.pod.network.prefix
    one = f"{tree.name}/y.slice/{prefix}one.service"
    for name in (f"{prefix}one.service", one, f"/{one}", f"/{one}//", f"/sys/fs/cgroup/{one}", CONTROL_GROUPS / one):
        assert named(app, name) == one
    assert named(app, tree.name) == tree.name
    assert f"could be {tree.name}/" in named(app, f"{prefix}two.service")
    assert named(app, f"{tree.name}/{prefix}two.service") == f"{tree.name}/{prefix}two.service"


def test_a_plan_with_control_groups_is_text_that_nft_takes(app, tree):
    """It looks for them in /sys/fs/cgroup alone. (In the mounts of the host: those of a pod have no such folder.)"""
    words = ["--exclude-cgroups", tree.name, "--include-cgroups", f"{tree.name}/y.slice"]
    inside = ["nsenter", f"--net=/run/netns/{app.pod.netns}"]
    text = app.weir("plan", *words).stdout
    subprocess.run([*inside, "nft", "-f", "-"], input=text, check=True, text=True)
    listed = subprocess.run([*inside, "nft", "-y", "list", "table", "inet", "weir"], check=True, text=True, capture_output=True)
    assert counters_at_zero(without_routes(text)) == counters_at_zero(listed.stdout)
    assert app.apply(*words) == "interception: unchanged\n"


def test_what_a_unit_keeps_in_its_own_group_is_no_unit(app, tree):
    """A container that calls a group of its own like a unit of the host does not pass for that."""
    prefix = app.pod.network.prefix
    for name in ("nested.service", "three.service"):
        said = named(app, prefix + name)
        assert f"there is no control group '{prefix}{name}'" in said and "a unit has one only while it runs" in said
    assert named(app, f"{tree.name}/y.slice/{prefix}one.service/{prefix}nested.service")
    assert "No such file" in named(app, f"/{prefix}one.service")
    assert "Not a directory" in named(app, f"{tree.name}/cgroup.procs")


IN_A_NAMESPACE = """
echo $$ >{top}/cgroup.procs
exec unshare --cgroup --mount nsenter --net=/run/netns/{netns} sh -c '
    {weir} intercept plan --exclude-cgroups y.slice
    umount {root} && mount -t cgroup2 none {root}
    {weir} intercept apply --backend {backend} --exclude-cgroups y.slice --exclude-cgroups y.slice/{prefix}two.service
    {weir} intercept show -j'
"""


@pytest.mark.parametrize("backend", ["nft", "iptables"])
def test_in_a_namespace_of_control_groups(app, tree, backend):
    """As in a container: names go out from the container's own control group. What is above is not to be named. (eBPF programs
    are installed from the host.)"""
    other = app.pod.network.pod("other")
    Server(other, 80, "direct")
    words = {"top": tree, "netns": app.pod.netns, "weir": app.path, "root": CONTROL_GROUPS, "prefix": app.pod.network.prefix}
    done = subprocess.run(["sh", "-c", IN_A_NAMESPACE.format(backend=backend, **words)], capture_output=True, text=True, timeout=60)
    assert "shows control groups of another namespace" in done.stderr
    first, shown = done.stdout.split("\n", 1)
    assert first == "interception: installed", done.stderr
    assert not json.loads(shown)["altered"] and 'level 1 \\"y.slice\\"' in shown
    with Callers() as callers:
        for place, word in ((tree / "y.slice", "direct"), (tree, "outbound")):
            with callers.call(app, (other.ipv4, 80), cgroup=str(place)) as sock:
                assert sock.recv(512).decode().split()[0] == word


# --- plan ------------------------------------------------------------------------------------------------------------
PLANS = {
    "default": [],
    "everything": VIPS
    + ["--exclude-outbound-ports", "1-5,5-9,10", "--include-outbound-ports", "1-65535"]
    + ["--include-outbound-cidrs", "10.0.0.0/8,10.1.0.0/16,0.0.0.0/1,fd00::/8,::/0"]
    + ["--exclude-outbound-cidrs", "10.9.0.0/16,10.9.1.1,fd00:1::/32"]
    + ["--include-outbound-interfaces", "eth*,wlan0", "--exclude-outbound-interfaces", "docker0,abcdefghijklmno"]
    + ["--include-inbound-ports", "65535,80", "--exclude-inbound-ports", "1"]
    + ["--include-inbound-cidrs", "10.77.0.0/16", "--exclude-inbound-cidrs", "255.255.255.255,ffff::/16"]
    + ["--include-inbound-interfaces", "eth0", "--exclude-inbound-interfaces", "br*"]
    + ["--include-users", "0-100,nobody", "--exclude-users", "4294967294", "--include-groups", "0,7-9"]
    + ["--exclude-groups", "100-200", "--exclude-marks", "0x1,0x70000/0xf0000", "--dns-servers", "10.0.0.53,fd00::53"]
    + ["--proxy-user", "nobody", "--proxy-group", "99"],
    "dns": ["--no-outbound", "--no-inbound"],
    "marks": ["--include-marks", "0x5,0x70000/0xf0000", "--include-users", "7", "--exclude-marks", "0x70001"],
    "inbound-ipv6": ["--no-outbound", "--no-dns", "--no-ipv4", "--capture-ssh"],
    "ipv4": ["--no-ipv6", "--include-outbound-cidrs", "fd00::/8,10.0.0.0/8", "--capture-metadata"],
    "hold": ["--fail", "hold"],
    "hold-for-a-while": ["--fail", "hold", "--hold-timeout", "90s", "--inbound-mode", "tproxy"],
}
plans = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def without_routes(text):
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def counters_at_zero(text):
    """... and elements in one line: nft breaks it. Routers are looked for by the kernel itself, which is counted."""
    text = re.sub(r",\n\s+", ", ", text)
    return re.sub(r"packets \d+ bytes \d+", "packets 0 bytes 0", text)


@plans
def test_a_plan_prints_just_what_is_installed_then_and_changes_nothing(network, weir, plan):
    app = CapturedPod(network, weir, "app", proxy=False, default_route=False)
    before = state(app)
    text = app.weir("plan", *plan).stdout
    assert state(app) == before
    app.apply(*plan)
    listed = app.pod.run(["nft", "-y", "list", "table", "inet", "weir"]).stdout
    assert counters_at_zero(without_routes(text)) == counters_at_zero(listed)
    laid = [route["route"] for route in app.show()["routes"]]
    assert [line.split()[7] for line in text.splitlines() if line.startswith("#")] == laid
    assert app.weir("plan", *plan).stdout == text, "nor does it depend on what is there"


@plans
def test_a_plan_is_text_that_nft_takes(network, weir, plan):
    app = CapturedPod(network, weir, "app", proxy=False)
    text = app.weir("plan", *plan).stdout
    app.pod.run(["nft", "-f", "-"], input=text)
    assert app.apply(*plan) == "interception: unchanged\n"


BESIDES = {
    "nft, client": ["--backend", "nft", "--inbound-source", "client"],
    "nft, client, IPv4": ["--backend", "nft", "--inbound-source", "client", "--no-ipv6"],
    "ebpf": ["--backend", "ebpf"],
    "ebpf, IPv4": ["--backend", "ebpf", "--no-ipv6"],
    "ebpf+nft": ["--backend", "ebpf", "--exclude-outbound-interfaces", "eth9", "--inbound-source", "client"],
}


@pytest.mark.parametrize("plan", BESIDES.values(), ids=BESIDES)
def test_a_plan_has_the_commands_for_what_is_no_rule(app, plan):
    """Routes, rules of routing and settings: who gives them by hand has what is installed."""

    def there():
        """But for the number by which weir remembers settings of its own."""
        text = state(app, [*STATE[1:-1], ["sysctl", "-a", "--pattern", "fwmark"]])
        return re.sub(r"(fwmark 0x773/0xfff .*) proto \d+", r"\1", text)

    before = there()
    app.apply(*plan)
    wanted = there()
    app.weir("remove")
    assert there() == before
    commands = json.loads(app.weir("plan", "-j", *plan).stdout)["commands"]
    lines = app.weir("plan", *plan).stdout.splitlines()
    assert [line for line in lines if line.startswith("# and: ")] == [f"# and: {command}" for command in commands]
    for command in commands:
        app.pod.run(command.split())
    assert there() == wanted
    assert (wanted != before) == bool(commands) == (plan != BESIDES["ebpf, IPv4"])
    assert app.apply(*plan) == "interception: installed\n"
    assert there() == wanted


def test_a_plan_as_json(app):
    answer = json.loads(app.weir("plan", "-j", *VIPS).stdout)
    assert answer["rules"] == without_routes(app.weir("plan", *VIPS).stdout)
    assert answer["routes"] == []
    assert json.loads(app.weir("plan", "-p", *VIPS).stdout) == answer


def test_a_plan_needs_no_privilege(app):
    assert "table inet weir {" in app.weir("plan", *VIPS, user="nobody", group="nogroup").stdout


# --- apply -----------------------------------------------------------------------------------------------------------
@plans
def test_applying_again_touches_nothing(network, weir, plan):
    app = CapturedPod(network, weir, "app", default_route=False)
    assert app.apply(*plan) == "interception: installed\n"
    probe(app, "127.0.0.1", 53, udp=True)
    handles = [["nft", "-a", "list", "ruleset"], *STATE]  # they change when a thing is made anew
    before, counted = state(app, handles), app.packets("DNS over UDP")
    assert app.apply(*plan) == "interception: unchanged\n"
    assert counters_at_zero(state(app, handles)) == counters_at_zero(before)
    assert app.packets("DNS over UDP") == counted


def test_another_plan_takes_the_place_of_the_first(app, peer):
    app.apply("--exclude-outbound-ports", "80")
    assert is_direct(probe(app, peer.ipv4, 80))
    assert app.apply() == "interception: installed\n"
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    assert app.apply("--exclude-outbound-ports", "81") == "interception: installed\n"
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    assert is_direct(probe(app, peer.ipv4, 81))


RULES_OF_OLD = """
flush chain inet weir output_raw
add rule inet weir output_raw udp sport 15053 ct zone set 0x771
add rule inet weir output_raw udp dport 53 ct zone set 0x771
"""


@families
def test_sockets_that_asked_before_an_upgrade_are_answered_after_it(app, peer, family):
    """What connection tracking knows of them stays, and had the answers in the zone."""
    app.apply()
    app.pod.run(["nft", "-f", "-"], input=RULES_OF_OLD)
    with app.enter(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((ip_of(peer, family), 53))
        for _ in range(2):
            sock.send(b"?")
            assert sock.recv(100) == b"dns"
            app.apply()


@pytest.mark.parametrize(
    "tampering",
    [
        "flush chain inet weir output",
        "flush chain inet weir prerouting",
        "insert rule inet weir output return",
        "add rule inet weir output tcp dport 80 counter accept",
        "add element inet weir inbound_exclude_ports { 8080 }",
        "delete element inet weir inbound_exclude_ports { 22 }",
        "add chain inet weir extra { type filter hook output priority 0; policy drop; }",
        "add chain inet weir output { policy drop; }",
        "add set inet weir extra { type mark; }",
        "add table inet weir { flags dormant; }",
        "delete table inet weir",
    ],
)
def test_what_was_tampered_with_is_mended(app, peer, tampering):
    app.apply()
    before = counters_at_zero(state(app))
    app.pod.run(["nft", tampering])
    assert counters_at_zero(state(app)) != before
    if "delete table" not in tampering and "element" not in tampering and "flush" not in tampering:
        assert app.show()["altered"] is True
    assert app.apply() == "interception: installed\n"
    assert counters_at_zero(state(app)) == before
    assert app.show()["altered"] is False
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)


LISTS = ("--include-outbound-ports", "1-100,443", "--exclude-outbound-cidrs", "192.0.2.0/24", "--include-users", "0")


def monitored(pod, change):
    """What a change does in the kernel, as the lines of each of its transactions."""
    monitor = pod.start(["stdbuf", "-oL", "nft", "monitor"])

    def sees(table):
        pod.run(["nft", f"add table ip {table}; delete table ip {table}"])
        return f"table ip {table}" in monitor.output()

    wait_until(lambda: sees("first"))
    change()
    wait_until(lambda: sees("last"))
    monitor.kill()
    return [part.splitlines() for part in re.split(r"# new generation .*\n", monitor.output())]


def test_sets_come_before_the_rules_that_use_them(app):
    """In transactions of their own: the kernel shows rules before the elements of sets that come with them."""
    app.apply()
    transactions = monitored(app.pod, lambda: app.apply(*LISTS))
    made = set()
    for lines in transactions:
        used = {name for line in lines if line.startswith("add rule") for name in re.findall(r"@(\w+)", line)}
        assert used <= made, lines
        assert not used or not any(line.startswith("add element") for line in lines), lines
        made |= {line.split()[4] for line in lines if line.startswith("create set inet weir")}
    assert "outbound_include_ports" in made


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_change_that_is_cut_short(app, peer, step):
    """Killed before each of its transactions: what was installed goes on or what is new, and nothing is left over."""
    before = state(app)
    app.apply(*LISTS)
    wanted = counters_at_zero(state(app))
    app.weir("remove")
    for then in ("apply", "remove"):
        app.apply()
        words = [*strace(f"sendmsg:signal=KILL:when={step}"), app.path, "intercept", "apply", *LISTS]
        assert app.pod.run(words, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"}).returncode != 0
        assert counters_at_zero(state(app)) != wanted
        assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
        if then == "apply":
            assert app.apply(*LISTS) == "interception: installed\n"
            assert counters_at_zero(state(app)) == wanted
            assert app.apply(*LISTS) == "interception: unchanged\n"
        assert app.weir("remove").stdout == "interception: removed\n"
        assert state(app) == before


@pytest.mark.parametrize("then", ["apply", "remove"])
def test_a_first_change_that_is_cut_short(app, peer, then):
    before = state(app)
    words = [*strace("sendmsg:signal=KILL:when=2"), app.path, "intercept", "apply"]
    assert app.pod.run(words, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"}).returncode != 0
    assert state(app) != before
    assert is_direct(probe(app, peer.ipv4, 80))
    if then == "apply":
        assert app.apply() == "interception: installed\n"
        assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    assert app.weir("remove").stdout == "interception: removed\n"
    assert state(app) == before


def test_others_change_the_packet_filter_all_the_time(app):
    """What they interrupt is read anew, from the start; if they never leave the time for that, it is said."""
    lists = {"--exclude-marks": "%d", "--exclude-outbound-interfaces": "a%d", "--exclude-inbound-interfaces": "b%d"}
    app.apply(*(word for name, entry in lists.items() for word in (name, ",".join(entry % i for i in range(1, 33)))))
    changes = app.pod.start(["sh", "-c", "while :; do nft 'add table ip theirs; delete table ip theirs'; done"])
    slowly = [*strace("recvmsg:delay_enter=2000"), app.path, "intercept", "show"]
    for _ in range(5):
        done = app.pod.run(slowly, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"})
        assert done.returncode == 0 or "is changing the packet filter all the time" in done.stderr, done.stderr
    changes.kill()
    app.show()


FIREWALL = """
table inet theirs {
	chain input {
		type filter hook input priority filter; policy drop
		iif lo accept
		ct state established accept
		meta l4proto ipv6-icmp accept
		meta l4proto tcp ct original proto-dst 80 accept
	}
	chain output {
		type filter hook output priority filter; policy drop
		oif lo accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		ct state established accept
		meta l4proto ipv6-icmp accept
	}
}
"""


@families
@pytest.mark.parametrize("backend", ["nft", "ebpf", "iptables"])
def test_beside_a_firewall(app, peer, family, backend):
    """Rules by what was called mean the same, as docs/interception.md says."""
    app.pod.run(["nft", "-f", "-"], input=FIREWALL)
    app.apply("--backend", backend)
    called = name_of(ip_of(app, family), 80)
    assert probe(app, ip_of(peer, family), 81) == f"outbound {name_of(ip_of(peer, family), 81)}"
    assert probe(peer, ip_of(app, family), 80) == f"inbound {called}"


def test_changes_at_the_same_time(app):
    """Each is made as a whole, in whatever order; others change the packet filter meanwhile."""
    plans = [LISTS, ("--exclude-outbound-ports", "7,8"), ("--include-groups", "0,1")]
    before, wanted = state(app), []
    for plan in plans:
        app.apply(*plan)
        wanted.append(counters_at_zero(state(app)))
        app.weir("remove")

    def change(plan):
        for _ in range(5):
            assert app.apply(*plan) in ("interception: installed\n", "interception: unchanged\n")
            app.pod.run(["nft", f"add table ip theirs{len(plan)}; delete table ip theirs{len(plan)}"])

    with concurrent.futures.ThreadPoolExecutor(len(plans)) as pool:
        for result in [pool.submit(change, plan) for plan in plans]:
            result.result()
    assert counters_at_zero(state(app)) in wanted
    app.weir("remove")
    assert state(app) == before


def test_a_chain_of_ours_that_should_not_be_there(app):
    app.apply("--no-inbound")
    before = counters_at_zero(state(app))
    app.pod.run(["nft", "add chain inet weir inbound"])
    assert app.show()["altered"] is True
    assert app.apply("--no-inbound") == "interception: installed\n"
    assert counters_at_zero(state(app)) == before


def test_a_route_that_somebody_removed_is_laid_again(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False)
    app.apply(*VIPS)
    app.pod.ip("route del 240.240.0.0/16")
    assert app.apply(*VIPS) == "interception: installed\n"
    assert probe(app, A_VIP[4], 80) == captured("outbound", A_VIP[4], 80)


def test_long_lists(app, peer):
    """As many entries as are allowed, none adjoining another."""
    ports = ",".join(str(port) for port in range(1000, 3048, 2))
    ipv4 = ",".join(f"10.{i // 128}.{i % 128 * 2}.0/24" for i in range(1024))
    ipv6 = ",".join(f"fd01:{i * 2:x}::/32" for i in range(1024))
    app.apply("--exclude-outbound-ports", ports, "--exclude-outbound-cidrs", ipv4, "--exclude-inbound-cidrs", ipv6)
    again = app.apply(
        "--exclude-outbound-ports", ports, "--exclude-outbound-cidrs", ipv4, "--exclude-inbound-cidrs", ipv6
    )
    assert again == "interception: unchanged\n"
    sets = {row["set"]: row["elements"] for row in app.show()["sets"]}
    assert len(sets["outbound_exclude_ports"].split(", ")) == 1024
    assert len(sets["outbound_exclude_ipv4"].split(", ")) == 1024 + len(METADATA[4])
    assert len(sets["inbound_exclude_ipv6"].split(", ")) == 1024
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    assert app.weir("remove").stdout == "interception: removed\n"


# --- show ------------------------------------------------------------------------------------------------------------
@plans
def test_every_rule_has_a_counter_and_a_comment(network, weir, plan):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply(*plan)
    listed = json.loads(app.pod.run(["nft", "-j", "list", "table", "inet", "weir"]).stdout)["nftables"]
    rules = [item["rule"] for item in listed if "rule" in item]
    assert rules
    for rule in rules:
        assert rule.get("comment"), rule
        assert any("counter" in expression for expression in rule["expr"]), rule
    assert len(app.show()["rules"]) == len(rules)


def test_show_counts(app, peer):
    app.apply(*VIPS)
    for _ in range(3):
        probe(app, peer.ipv4, 80)
    probe(app, A_VIP[4], 80)
    probe(app, peer.ipv4, 80, mark=0x772)
    assert app.packets("outbound", "output") == 3
    assert app.packets("outbound: virtual IP") == 1
    assert app.packets("proxy: to the application, DNS servers and others", "output") == 1
    rule = next(rule for rule in app.show()["rules"] if rule["purpose"] == "outbound")
    assert rule["rule"] == "meta l4proto tcp redirect to :15001" and rule["bytes"] >= 3 * 40
    assert {row["set"]: row["elements"] for row in app.show()["sets"]}["vips_ipv4"] == "240.240.0.0/16"
    text = app.weir("show").stdout
    for purpose in ("DNS over UDP", "inbound, from other hosts", "excluded port"):
        assert purpose in text
    assert json.loads(app.weir("show", "-p").stdout)["installed"] is True


def test_show_when_nothing_is_there(app):
    nothing = {"rules": [], "sets": [], "routes": []}
    assert app.show() == {"installed": False, "backend": "none", "altered": False, "fail": None, "held_by_proxy": False, "clients_stay_visible": False, **nothing}


def test_show_tells_of_rules_that_are_not_ours(app):
    app.apply()
    app.pod.run(["nft", "insert rule inet weir output meta l4proto tcp ct state new accept"])
    assert [rule["rule"] for rule in app.show()["rules"]].count("(not made by weir)") == 1


# --- remove ----------------------------------------------------------------------------------------------------------
@plans
@pytest.mark.parametrize("default_route", [True, False])
def test_nothing_is_left_behind(network, weir, plan, default_route):
    app = CapturedPod(network, weir, "app", default_route=default_route)
    app.pod.run(["nft", "-f", "-"], input=FOREIGN_RULES)
    app.pod.ip("rule add fwmark 0x5 lookup 55", "route add 203.0.113.0/24 dev eth0 proto 118")
    before = state(app)
    app.apply(*plan)
    assert state(app) != before
    probe(app, "127.0.0.1", 53, udp=True)
    assert app.weir("remove").stdout == "interception: removed\n"
    assert state(app) == before
    assert app.weir("remove").stdout == "interception: nothing was installed\n"


def test_a_table_that_somebody_deleted_leaves_routes_that_are_removed(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False)
    before = state(app)
    app.apply(*VIPS)
    app.pod.run(["nft", "delete table inet weir"])
    assert app.show()["installed"] is False and len(app.show()["routes"]) == 2
    assert app.weir("remove").stdout == "interception: removed\n"
    assert state(app) == before


def test_removal_restores_connections(app, peer):
    app.apply()
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    app.weir("remove")
    assert is_direct(probe(app, peer.ipv4, 80))
    assert probe(app, peer.ipv4, 53, udp=True) == "peer"

# --- check -----------------------------------------------------------------------------------------------------------
CHECKS = [
    "outbound TCP",
    "DNS over UDP",
    "DNS over TCP",
    "to a loopback address",
    "to its own address",
    "proxy to application",
    "inbound TCP",
]


def results(checks):
    return {key: result for key, (result, _) in checks.items()}


@pytest.mark.parametrize("running", [True, False], ids=["proxy", "no-proxy"])
@pytest.mark.parametrize("default_route", [True, False])
def test_check_proves_capture(network, weir, running, default_route):
    app = CapturedPod(network, weir, "app", proxy=running, default_route=default_route)
    app.apply(*VIPS)
    for _ in range(2):  # what the first one leaves behind does not disturb the second
        status, checks = app.check()
        assert results(checks) == {(what, family): "ok" for what in CHECKS for family in ("IPv4", "IPv6")}
        assert status == 0
        found = checks["outbound TCP", "IPv4"][1]
        assert found == "captured to port 15001" + ("" if running else " (the proxy is not running)")


MODES = {
    "tproxy": ("nft", "--inbound-mode", "tproxy"),
    "hold": ("nft", "--fail", "hold"),
    "hold-iptables": ("iptables", "--fail", "hold"),
    "client": ("nft", "--inbound-source", "client"),
    "client-iptables": ("iptables", "--inbound-source", "client"),
    "tproxy-hold": ("nft", "--inbound-mode", "tproxy", "--fail", "hold"),
}
every_mode = pytest.mark.parametrize("mode", list(MODES))


def expected(mode, result):
    wanted = {(what, family): result for what in CHECKS for family in ("IPv4", "IPv6")}
    if "tproxy" in mode:
        wanted |= {("inbound TCP, tproxy", family): "skipped" for family in ("IPv4", "IPv6")}
    return wanted


@pytest.mark.parametrize("mode", [*MODES, "hold-ebpf"])
@pytest.mark.parametrize("running", [True, False], ids=["proxy", "no-proxy"])
def test_check_proves_capture_in_every_mode(network, weir, mode, running):
    app = CapturedPod(network, weir, "app", proxy=running)
    app.apply("--backend", *MODES.get(mode, ("ebpf", "--fail", "hold")))
    status, checks = app.check()
    assert (status, results(checks)) == (0, expected(mode, "ok")), checks
    end = "" if running else " (the proxy is not running)"
    assert checks["inbound TCP", "IPv6"][1] == f"captured to port 15006{end}"
    assert checks["outbound TCP", "IPv4"][1] == f"captured to port 15001{end}"


@pytest.mark.parametrize("capture", [{"inbound_mode": "tproxy"}, {"inbound_source": "client"}, {"fail": "hold"}], ids=str)
def test_check_with_the_real_proxy_in_every_mode(network, weir, weir_proxy, capture):
    sidecar = Mesh(network, weir, weir_proxy).sidecar("app", intercept={"capture": capture})
    done = sidecar.pod.run([weir, "intercept", "check", "-j"], timeout=60)
    found = {(row["check"], row["family"]): row for row in json.loads(done.stdout)["checks"]}
    assert {key: row["result"] for key, row in found.items()} == expected(capture.get("inbound_mode", ""), "ok")
    assert found["inbound TCP", "IPv4"]["found"] == "captured to port 15006"


@every_mode
def test_check_says_so_when_capture_is_absent_in_any_mode(network, weir, mode):
    app = CapturedPod(network, weir, "app", proxy=False)
    app.apply("--backend", *MODES[mode])
    for chain in ("inbound", "output"):
        for port in ("53", "80"):
            if MODES[mode][0] == "nft":
                app.pod.run(["nft", f"insert rule inet weir {chain} meta nfproto ipv4 tcp dport {port} return"])
            else:
                app.pod.run(["iptables", "-t", "nat", "-I", f"WEIR_{chain.upper()}", "-p", "tcp", "--dport", port, "-j", "RETURN"])
    status, checks = app.check()
    absent = {"outbound TCP", "DNS over TCP", "inbound TCP"}
    assert status == 1
    assert {key for key, result in results(checks).items() if result == "failed"} == {(what, "IPv4") for what in absent}


def test_check_with_a_proxy_that_closes_at_once(network, weir):
    """The connection is gone before anybody can look for it; that it was captured shows all the same."""
    app = CapturedPod(network, weir, "app", proxy=False)
    for word, port in (("outbound", 15001), ("inbound", 15006), ("dns", 15053)):
        for address in ("127.0.0.1", "::1"):
            Resetter(app, port, word, address)
            Server(app, port, word, address, udp=True)
    app.apply()
    status, checks = app.check()
    assert (status, set(results(checks).values())) == (0, {"ok"})


class Resetter(Server):
    def _line(self, sock, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise OSError


def test_check_says_so_when_nothing_is_installed(app):
    done = app.weir("check", check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "weir: nothing is installed in this network namespace: nothing is captured\n"


@pytest.mark.parametrize("running", [True, False], ids=["proxy", "no-proxy"])
@pytest.mark.parametrize(
    "foreign, absent",
    [
        ("insert rule inet weir output return", {"outbound TCP", "DNS over UDP", "DNS over TCP", "inbound TCP"}),
        (
            "table inet theirs { chain output { type nat hook output priority -150; "
            "udp dport 53 redirect to :4; tcp dport 53 redirect to :4; }; }",
            {"DNS over UDP", "DNS over TCP"},
        ),
        ("insert rule inet weir inbound tcp dport 80 return", {"inbound TCP"}),
    ],
    ids=["returns", "redirects", "inbound"],
)
def test_check_says_so_when_capture_is_absent(network, weir, peer, foreign, absent, running):
    """Not by looking at the rules: others' rules come first."""
    app = CapturedPod(network, weir, "app", proxy=running)
    app.apply("--include-outbound-cidrs", f"{peer.ipv4},{peer.ipv6}", "--dns-servers", f"{peer.ipv4},{peer.ipv6}")
    app.pod.run(["nft", "-f", "-"], input=foreign)
    status, checks = app.check()
    assert status == 1
    for what in CHECKS:
        for family in ("IPv4", "IPv6"):
            result, found = checks[what, family]
            assert (result == "failed") == (what in absent), (what, family, found)
            assert (what not in absent) or "not captured" in found


def test_check_says_so_when_what_should_be_left_alone_is_captured(app):
    app.apply()
    app.pod.run(
        ["nft", "-f", "-"],
        input="table inet theirs { chain output { type nat hook output priority -150; "
        "ip daddr 127.0.0.1 tcp dport != 53 redirect to :15001; }; }",
    )
    status, checks = app.check()
    assert status == 1
    assert checks["to a loopback address", "IPv4"] == ("failed", "captured, though it should not be")
    assert checks["to a loopback address", "IPv6"][0] == "ok"


@pytest.mark.parametrize("change", ["add table inet weir { flags dormant; }", "flush chain inet weir output"])
def test_check_says_so_when_the_rules_do_nothing(app, change):
    app.apply()
    app.pod.run(["nft", change])
    done = app.weir("check", check=False)
    assert done.returncode == 1 and "none of them captures anything" in done.stderr


def test_check_knows_what_the_rules_leave_alone(network, weir):
    app = CapturedPod(network, weir, "app")
    app.apply("--exclude-users", "root")
    status, checks = app.check()
    assert checks["outbound TCP", "IPv6"] == ("skipped", "the rules leave it alone: excluded user")
    assert checks["DNS over UDP", "IPv4"][0] == "skipped" and checks["inbound TCP", "IPv4"][0] == "ok"
    assert status == 0
    app.apply("--include-outbound-cidrs", "10.0.0.0/8", "--exclude-outbound-cidrs", "10.0.0.0/9")
    status, checks = app.check()
    assert checks["outbound TCP", "IPv4"][0] == "ok" and status == 0
    assert checks["outbound TCP", "IPv6"] == ("skipped", "the rules leave it alone: not an included network")
    app.apply("--include-outbound-interfaces", "eth0", "--include-outbound-ports", "443,81", "--no-ipv6")
    status, checks = app.check()
    assert checks["outbound TCP", "IPv4"][0] == "ok" and status == 0
    assert not any(family == "IPv6" for _, family in checks)


def test_check_by_an_unprivileged_user(app):
    app.apply()
    done = app.weir("check", check=False, user="nobody", group="nogroup")
    assert done.returncode == 1 and done.stdout == "" and "CAP_NET_ADMIN" in done.stderr


# --- what goes wrong -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", ["apply", "show", "check", "remove"])
@pytest.mark.parametrize("default_route", [True, False])
def test_missing_privilege_is_one_error_and_changes_nothing(network, weir, verb, default_route):
    app = CapturedPod(network, weir, "app", default_route=default_route)
    for installed in (False, True):
        if installed:
            app.apply(*VIPS)
        before = state(app)
        options = VIPS if verb == "apply" else []
        done = app.weir(verb, *options, check=False, user="nobody", group="nogroup")
        assert done.returncode == 1 and done.stdout == ""
        assert "CAP_NET_ADMIN" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert counters_at_zero(state(app)) == counters_at_zero(before)


@pytest.mark.parametrize("capability", ["cap_net_admin"])
def test_the_capability_alone_is_enough(app, peer, capability):
    """What an init container has: not root, one capability."""
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    words += [f"--inh-caps=-all,+{capability[4:]}", f"--ambient-caps=-all,+{capability[4:]}", "--bounding-set=-all"]
    words[-1] += f",+{capability[4:]}"
    app.pod.run([*words, app.path, "intercept", "apply", *VIPS])
    assert probe(app, peer.ipv4, 80) == captured("outbound", peer.ipv4, 80)
    app.pod.run([*words, app.path, "intercept", "remove"])
    assert is_direct(probe(app, peer.ipv4, 80))


# Changes what is sent to the kernel, so that the kernel itself refuses it as one that lacks a feature would.
SABOTEUR = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
int socket(int domain, int type, int protocol)
{
	int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
	if (domain == AF_NETLINK && protocol == NETLINK_NETFILTER && !strcmp(getenv("SABOTAGE"), "nftables"))
		return errno = EPROTONOSUPPORT, -1;
	return real(domain, type, protocol);
}
/* A type of message that does not exist; of long ones, whose refusals are long, too, if they repeat all of it. */
static void spoil_elements(struct iovec *iov)
{
	size_t left = iov->iov_len;
	for (struct nlmsghdr *nlh = iov->iov_base; NLMSG_OK(nlh, left); nlh = NLMSG_NEXT(nlh, left))
		if (nlh->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM) && nlh->nlmsg_len > 16384)
			nlh->nlmsg_type |= 0xf0;
}
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static ssize_t (*real)(int, const struct msghdr *, int);
	const char *name = getenv("SABOTAGE");
	if (!real)
		real = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
	for (size_t i = 0; i < msg->msg_iovlen; i++) {
		if (!strcmp(name, "elements"))
			spoil_elements(&msg->msg_iov[i]);
		char *at = msg->msg_iov[i].iov_base, *end = at + msg->msg_iov[i].iov_len;
		while ((at = memmem(at, end - at, name, strlen(name) + 1)))
			*at++ = 'Q';
	}
	return real(fd, msg, flags);
}
"""


@pytest.fixture(scope="session")
def saboteur(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saboteur")
    (folder / "saboteur.c").write_text(SABOTEUR)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "saboteur.so", folder / "saboteur.c", "-ldl"], check=True)
    return str(folder / "saboteur.so")


@pytest.mark.parametrize(
    "feature, message",
    [
        ("redir", "CONFIG_NFT_REDIR (module nft_redir)"),
        ("fib", "CONFIG_NFT_FIB_INET (module nft_fib_inet)"),
        ("ct", "CONFIG_NFT_CT with CONFIG_NF_CONNTRACK_ZONES (module nft_ct)"),
        ("nat", "CONFIG_NFT_NAT"),
        ("counter", "CONFIG_NFT_COUNTER (module nft_counter)"),
        ("nftables", "this kernel has no nftables (CONFIG_NF_TABLES"),
        ("elements", "the kernel refuses a set of ranges"),
    ],
)
@pytest.mark.parametrize("installed", [False, True], ids=["nothing-before", "something-before"])
def test_a_missing_kernel_feature_is_one_error_and_changes_nothing(
    network, weir, saboteur, feature, message, installed
):
    app = CapturedPod(network, weir, "app", default_route=False)
    if installed:
        app.apply("--vips", "240.241.0.0/16", "--no-inbound")
    before = state(app, [["nft", "-a", "list", "ruleset"], *STATE])
    long_lists = ["--exclude-outbound-cidrs", ",".join(f"10.{i // 128}.{i % 128 * 2}.0/24" for i in range(1000))]
    done = app.weir(
        "apply",
        *VIPS,
        *long_lists,
        "--backend",
        "nft",
        check=False,
        env={"LD_PRELOAD": saboteur, "SABOTAGE": feature, "ASAN_OPTIONS": "verify_asan_link_order=0"},
    )
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    after = state(app, [["nft", "-a", "list", "ruleset"], *STATE])
    assert counters_at_zero(after) == counters_at_zero(before)


@pytest.mark.parametrize(
    "feature, message",
    [
        ("nftables", "cannot be used: cannot reach the kernel's packet filter: this kernel has no nftables"),
        ("redir", "CONFIG_NFT_REDIR (module nft_redir)"),
    ],
)
@pytest.mark.parametrize("before", [[], ["--backend", "ebpf"]], ids=len)
def test_outbound_interfaces_with_ebpf_need_nftables(network, weir, saboteur, feature, message, before):
    app = CapturedPod(network, weir, "app")
    if before:
        app.apply(*before)
    there = app.shown()
    words = ["apply", "--backend", "ebpf", "--include-outbound-interfaces", "eth0"]
    environment = {"LD_PRELOAD": saboteur, "SABOTAGE": feature, "ASAN_OPTIONS": "verify_asan_link_order=0"}
    failed = app.weir(*words, check=False, env=environment)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert message in failed.stderr and ("eBPF programs decide before" in failed.stderr) == (feature == "nftables")
    assert app.shown() == there


def test_when_nftables_refuse_the_programs_are_as_before(network, weir, saboteur):
    """Rules come last if they have what arrives: where a change to both halves was cut short, or by others' hands."""
    app = CapturedPod(network, weir, "app")
    words = ["--backend", "ebpf", "--include-outbound-interfaces", "eth0"]
    policy = ["--fail", "hold", "--outbound-port", "15101", "--inbound-source", "client", "--client-mark", "0x779"]
    app.apply(*words, *policy)
    whole = app.weir("plan", "--backend", "nft").stdout
    app.pod.run(["nft", "-f", "-"], input=f"delete table inet weir\n{whole[whole.index('table inet weir'):]}")
    there, header = app.shown(), header_of(app)
    environment = {"LD_PRELOAD": saboteur, "SABOTAGE": "redir", "ASAN_OPTIONS": "verify_asan_link_order=0"}
    failed = app.weir("apply", *words, check=False, env=environment)
    assert failed.returncode == 1 and "CONFIG_NFT_REDIR" in failed.stderr, failed.stderr
    assert header_of(app) == header and app.shown() == there
    assert app.apply(*words) == "interception: installed\n"
    assert header_of(app) != header and app.show()["altered"] is False


def strace(*injections):
    words = ["strace", "-f", "-o", "/dev/null"]
    for injection in injections:
        words += ["-e", f"inject={injection}"]
    return words


@pytest.mark.parametrize(
    "injection, message",
    [
        ("sendmsg:error=EMSGSIZE", "net.core.wmem_max"),
        ("sendmsg:error=ENOBUFS", "cannot change the rules: "),
        # What the kernel had to say is lost: that is no success.
        ("recvfrom:error=ENOBUFS", "cannot change the rules: "),
    ],
)
def test_errors_of_the_socket_are_told_and_change_nothing(network, weir, injection, message):
    app = CapturedPod(network, weir, "app", default_route=False)
    before = state(app)
    env = {"ASAN_OPTIONS": "detect_leaks=0"}  # a leak check cannot run under strace
    done = app.pod.run([*strace(injection), app.path, "intercept", "apply", *VIPS], check=False, env=env)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    if "recvfrom" not in injection:
        assert state(app) == before


def test_a_route_of_somebody_else_in_the_way(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False)
    app.pod.ip("route add unreachable 240.240.0.0/16")
    before = state(app)
    done = app.weir("apply", *VIPS, check=False)
    assert done.returncode == 1 and "240.240.0.0/16" in done.stderr and "another route" in done.stderr
    assert state(app) == before


def test_the_loopback_interface_is_down(network, weir):
    app = CapturedPod(network, weir, "app", default_route=False, proxy=False)
    app.pod.ip("link set lo down")
    before = state(app)
    done = app.weir("apply", *VIPS, check=False)
    assert done.returncode == 1 and "the loopback interface is down" in done.stderr
    assert state(app) == before


BAD_WORDS = [
    (["--exclude-outbound-ports", "0"], "port 0 does not exist"),
    (["--exclude-outbound-ports", "65536"], "'65536' is no port or range of ports"),
    (["--exclude-outbound-ports", ""], "'' is no port"),
    (["--exclude-outbound-ports", "80,,81"], "'' is no port"),
    (["--exclude-outbound-ports", "90-80"], "the range 90-80 ends before it begins"),
    (["--exclude-outbound-ports", "80-"], "'80-' is no port"),
    (["--exclude-outbound-ports", "-80"], "'-80' is no port"),
    (["--exclude-outbound-ports", "1-2-3"], "'1-2-3' is no port"),
    (["--exclude-outbound-ports", "80,53"], "excluded outbound port 53 would not spare DNS queries"),
    (["--exclude-outbound-ports", "http"], "'http' is no port"),
    (["--exclude-outbound-ports", ",".join(map(str, range(1, 1030)))], "more than 1024 entries"),
    (["--exclude-outbound-ports", "9" * 5000], "is no port"),
    (["--include-outbound-cidrs", "10.0.0.1/8"], "'10.0.0.1/8' is no network"),
    (["--include-outbound-cidrs", "10.0.0.0/33"], "is no network"),
    (["--include-outbound-cidrs", "fd00::/129"], "is no network"),
    (["--include-outbound-cidrs", "example.com"], "is no network"),
    (["--exclude-inbound-cidrs", ",".join(f"10.0.{i // 256}.{i % 256}" for i in range(1025))], "more than 1024"),
    (["--exclude-inbound-interfaces", "abcdefghijklmnop"], "'abcdefghijklmnop' is no name of an interface"),
    (["--exclude-inbound-interfaces", "a" * 100000], "is no name of an interface"),
    (["--exclude-inbound-interfaces", "eth0\"; accept"], "is no name of an interface"),
    (["--exclude-inbound-interfaces", "et*h"], "is no name of an interface"),
    (["--exclude-inbound-interfaces", "*"], "is no name of an interface"),
    (["--exclude-inbound-interfaces", ",".join(f"e{i}" for i in range(33))], "more than 32 entries"),
    (["--exclude-users", "no-such-user"], "'no-such-user' is no user here"),
    (["--exclude-cgroups", "/"], "'/' names the root, in which every program is"),
    (["--include-cgroups", "a/../b"], "has . or .. for a part"),
    (["--include-cgroups", "a\nb"], "a character that no path of a control group should have"),
    (["--include-cgroups", "a" * 512], "is longer than paths of control groups are"),
    (["--exclude-cgroups", ",".join(f"g{i}" for i in range(33))], "more than 32 entries"),
    (["--exclude-users", "4294967295"], "is no user here"),
    (["--exclude-groups", "no-such-group"], "'no-such-group' is no group here"),
    (["--exclude-users", "9-1"], "ends before it begins"),
    (["--exclude-marks", "0x10/0x0f"], "can never match"),
    (["--exclude-marks", "0x"], "is no mark"),
    (["--exclude-marks", "0"], None),
    (["--exclude-marks", "1,2/0"], "can never match"),
    (["--exclude-marks", ",".join(map(str, range(1, 34)))], "more than 32 entries"),
    (["--include-marks", ",".join(map(str, range(1, 34)))], "included marks: more than 32 entries"),
    (["--include-marks", "1,2/0"], "included mark 0x2/0x0 can never match"),
    (["--outbound-mark", "0x1771"], "bits outside of their mask"),
    (["--outbound-mark", "0x772"], "must differ"),
    (["--inbound-mark", "0"], "must differ from each other and from 0"),
    (["--outbound-port", "15006"], "the proxy's ports must differ"),
    (["--outbound-port", "0"], "'0' is no port"),
    (["--dns-servers", "10.0.0.0/8"], "'10.0.0.0/8' is no IP address"),
    (["--vips", "127.0.0.0/8"], "127.0.0.0/8 cannot be a range of virtual IPs"),
    (["--vips", "112.0.0.0/4"], "112.0.0.0/4 cannot be a range of virtual IPs"),
    (["--vips", "::/8"], "::/8 cannot be a range of virtual IPs"),
    (["--vips", "239.1.0.0/16"], "239.1.0.0/16 cannot be a range of virtual IPs"),
    (["--vips", "0.0.0.0/0"], "0.0.0.0/0 cannot be a range of virtual IPs"),
    (["--proxy-user", "1-2"], "'1-2' is no user here"),
    (["--no-ipv4", "--no-ipv6"], "neither IPv4 nor IPv6"),
    (["--no-outbound", "--no-inbound", "--no-dns"], "nothing is to be captured"),
    (["--exclude-outbound-port", "80"], "did you mean '--exclude-outbound-ports'"),
    (["--hold-timeout", "5s"], "'--hold-timeout' has no effect without '--fail hold'"),
    (["--hold-timeout", "5s", "--fail", "open"], "'--hold-timeout' has no effect without '--fail hold'"),
    (["--dns-servers", "10.0.0.53", "--no-dns"], "'--dns-servers' has no effect with '--no-dns'"),
    (["--no-outbound", "--vips", "240.240.0.0/16"], "'--vips' has no effect with '--no-outbound'"),
    (["--vips"], "wants a value"),
    (["80"], "80"),
]


@pytest.mark.parametrize("words, message", BAD_WORDS, ids=[" ".join(words)[:40] for words, _ in BAD_WORDS])
def test_bad_command_lines(weir, words, message):
    for verb in ("plan", "apply"):
        if message is None and verb == "apply":
            continue
        done = subprocess.run([weir, "intercept", verb, *words], capture_output=True, text=True, timeout=60)
        if message is None:
            assert done.returncode == 0
            continue
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr, done.stderr[:300]
        assert len(done.stderr) < 2000
