"""What our messages make in a real network namespace, as ip and nft show it."""

from __future__ import annotations

import os
import subprocess
import sys

import sandbox

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(sandbox.__file__)))

HEAD = """
import subprocess
from sandbox.linux import netlink as nl, nftables as nf
def talk(protocol, *messages):
    return nl.ask(protocol, nl.numbered(messages))
def show(*argv):
    print(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
V4 = bytes([10, 0, 2, 100])
V6 = bytes.fromhex("fd00007362780000") + bytes(6) + b"\\1\\0"
"""


def in_network(script: str) -> str:
    """What a script prints as root of new user and network namespaces."""
    code = f"import sys; sys.path.append({ROOT!r})\n{HEAD}{script}"
    argv = ["unshare", "-Urn", "--", sys.executable, "-I", "-S", "-B", "-c", code]
    env = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_links_addresses_routes_and_rules() -> None:
    shown = in_network("""
talk(nl.ROUTE, nl.set_link(nl.LOOPBACK), nl.new_link("br", "bridge"),
     nl.new_link("one", "veth", data=nl.veth_peer("two")))
at = nl.links(talk(nl.ROUTE, nl.dump_links()))
assert at["lo"] == nl.LOOPBACK
talk(nl.ROUTE, nl.set_link(at["one"], master=at["br"], mtu=9000), nl.set_link(at["br"]),
     nl.set_link(at["two"], name="eth0"))
talk(nl.ROUTE, nl.add_address(at["two"], V4, 24), nl.add_address(at["two"], V6, 64),
     nl.add_route(bytes(4), 0, index=at["two"], gateway=bytes([10, 0, 2, 2])),
     nl.add_route(bytes(16), 0, index=at["two"]),
     *(nl.add_mark_rule(1, 100, ipv6=ipv6) for ipv6 in (False, True)),
     *(nl.add_route(bytes(n), 0, index=1, table=100, kind=nl.LOCAL) for n in (4, 16)))
for argv in ("ip -o link", "ip -o addr", "ip rule", "ip -6 rule", "ip -4 route show table all",
             "ip -6 route show table all"):
    show(*argv.split())
talk(nl.ROUTE, nl.delete_link("br"))
assert "br" not in nl.links(talk(nl.ROUTE, nl.dump_links()))
""")
    for line in (
        "mtu 9000 qdisc noqueue master br",
        "eth0    inet 10.0.2.100/24",
        "fd00:73:6278::100/64 scope global nodad",
        "from all fwmark 0x1 lookup 100",
        "default via 10.0.2.2 dev eth0",
        "local default dev lo table 100",
        "default dev eth0 metric 1024",
    ):
        assert line in shown, line
    assert shown.count("from all fwmark 0x1 lookup 100") == 2
    assert shown.count("local default dev lo table 100") == 2


def test_rules_of_every_kind() -> None:
    shown = in_network("""
T = nf.INET
tcp = nf.matches(nf.load_meta(nf.META_L4PROTO), b"\\6")
talk(nl.NETFILTER, *nf.transaction(
    nf.table(T, "t"),
    nf.chain(T, "t", "output", kind="route", hook=nf.OUTPUT, priority=nf.MANGLE),
    nf.rule(T, "t", "output", *tcp, *nf.matches(nf.load_meta(nf.META_OIF), b"\\1\\0\\0\\0", nf.NEQ),
            nf.load_payload(nf.TRANSPORT, 13, 1), nf.mask(b"\\x17"), nf.compare(nf.NEQ, b"\\2"),
            *nf.set_mark(1)),
    nf.chain(T, "t", "pre", kind="filter", hook=nf.PREROUTING, priority=nf.MANGLE),
    *(nf.rule(T, "t", "pre", *nf.matches(nf.load_meta(nf.META_NFPROTO), bytes([family])), *tcp,
              *nf.transparent(family, address, 1), nf.verdict(nf.ACCEPT))
      for family, address in ((nf.IPV4, V4), (nf.IPV6, V6))),
    nf.chain(T, "t", "f", kind="filter", hook=nf.FORWARD, priority=nf.FILTER, policy=nf.DROP)))
show("nft", "list", "ruleset")
""")
    for line in (
        "type route hook output priority mangle; policy accept;",
        'oif != "lo" tcp flags != syn / fin,syn,rst,ack meta mark set 0x00000001',
        "meta nfproto ipv4 meta l4proto tcp tproxy ip to 10.0.2.100:1 accept",
        "meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [fd00:73:6278::100]:1 accept",
        "type filter hook forward priority filter; policy drop;",
    ):
        assert line in shown, line


def test_a_refusal_names_the_kernels_reason_and_undoes_the_batch() -> None:
    shown = in_network("""
def refused(protocol, *messages):
    try:
        talk(protocol, *messages)
    except OSError as error:
        print(error.errno, error.filename)
refused(nl.ROUTE, nl.add_route(b"\\x09\\0\\0\\0", 8, gateway=b"\\x09\\0\\0\\1"))
refused(nl.NETFILTER, *nf.transaction(nf.table(nf.INET, "t"), nf.rule(nf.INET, "t", "none")))
show("nft", "list", "ruleset")
""")
    assert shown.splitlines()[:2] == ["101 Nexthop has invalid gateway", "2 None"]
    assert "table" not in shown
