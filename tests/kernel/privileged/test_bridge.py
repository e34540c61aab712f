"""Sandboxes on a network of root's: they find each other, the world, and nothing else."""

from __future__ import annotations

import json

import pytest

from tests.support.worlds import HOST4, HOST6, WORLD4, WORLD6, Host

# Answers each connection with the address it came from.
ECHO = """
import socket, sys, threading
def bound(family, kind, port):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    if kind == socket.SOCK_STREAM: s.listen()
    return s
def serve(s):
    if s.type == socket.SOCK_DGRAM:
        while True:
            data, who = s.recvfrom(100)
            s.sendto(who[0].encode(), who)
    while True:
        c, who = s.accept()
        c.sendall(who[0].encode()); c.close()
for s in [bound(f, k, int(sys.argv[1]) if sys.argv[1:] else 80)
    for f in (socket.AF_INET, socket.AF_INET6) for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]:
    threading.Thread(target=serve, args=(s,)).start()
print("ready", flush=True)
"""
# Prints what the peer says, or the error: HOST PORT [udp]
ASK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
kind = socket.SOCK_DGRAM if sys.argv[3:] else socket.SOCK_STREAM
try:
    family, _, _, _, where = socket.getaddrinfo(host, port, type=kind)[0]
    s = socket.socket(family, kind); s.settimeout(3); s.connect(where)
    if sys.argv[3:]: s.send(b"?")
    print(s.recv(100).decode())
except OSError as error:
    print(type(error).__name__, error.errno)
"""
PING = """
import socket, sys
six = ":" in sys.argv[1]
try:
    family, protocol, request = (socket.AF_INET6, 58, 128) if six else (socket.AF_INET, 1, 8)
    s = socket.socket(family, socket.SOCK_DGRAM, protocol)
    s.settimeout(3); s.connect((sys.argv[1], 0)); s.send(bytes([request, 0, 0, 0, 0, 1, 0, 1]))
    print(s.recv(100)[0])
except OSError as error:
    print(type(error).__name__, error.errno)
"""
REFUSED = ("OSError 113", "TimeoutError None", "PermissionError 13", "ConnectionRefusedError 111")


def ask(
    host: Host,
    *words: object,
    network: str = "bridge",
    script: str = ASK,
    options: tuple[str, ...] = ("--allow", "public"),
) -> str:
    """What a fresh sandbox of the network hears."""
    return host.box("-q", "--network", network, *options, script=script, words=words).strip()


def test_two_sandboxes_reach_each_other_by_name(host: Host) -> None:
    host.detach("one", "--network", "bridge", "--network-alias", "uno", script=ECHO)
    four, six = (host.address("one", family=family) for family in (4, 6))
    out = ask(host, "one", 80)
    assert out.startswith("fd")
    assert ask(host, "UNO", 80, "udp").startswith("fd")
    assert ask(host, four, 80).startswith("10.73.")
    assert ask(host, four, 80, "udp").startswith("10.73.")
    assert ask(host, four, script=PING) == "0"
    assert ask(host, six, script=PING) == "129"
    assert ask(host, "nobody", 80).startswith("gaierror")
    host.good("rm", "-f", "one")
    assert ask(host, "one", 80).startswith("gaierror")


def test_the_world_sees_the_host(host: Host) -> None:
    host.world.serve(ECHO, 8080)
    for address, seen in ((WORLD4, HOST4), (WORLD6, HOST6)):
        assert ask(host, address, 8080) == seen
        assert ask(host, address, 8080, "udp") == seen
        assert ask(host, address, script=PING) in ("0", "129")


def test_the_world_does_not_reach_in(host: Host) -> None:
    """Not even one that knows the way: a sandbox is behind the host."""
    host.detach("one", "--network", "bridge", script=ECHO)
    four, six = (host.address("one", family=family) for family in (4, 6))
    host.world("ip", "route", "add", "10.73.0.0/16", "via", HOST4)
    host.world("ip", "route", "add", "fd00::/8", "via", HOST6)
    for address in (four, six):
        assert host.world.python(ASK, address, 80).strip() in REFUSED
        assert host.world.python(PING, address).strip() in REFUSED


def test_the_host_itself_is_not_reached(host: Host) -> None:
    host.serve(ECHO, 8080)
    host.detach("one", "--network", "bridge", script=ECHO)
    gateway4, gateway6 = host.network()["gateways"]
    for address in (gateway4, gateway6, HOST4, HOST6):
        assert ask(host, address, 8080) in REFUSED
    assert ask(host, gateway4, script=PING) == "0"
    # But the host reaches in.
    assert host.python(ASK, host.address("one"), 80).strip() == gateway4


def test_the_loopback_of_the_host_stays_its_own(host: Host) -> None:
    """route_localnet lets packets for 127.0.0.1 in, which a neighbour could send."""
    host.serve(ECHO, 8080)
    host.detach("one", "--network", "bridge")
    pid = json.loads(host.good("inspect", "one"))[0]["pid"]
    inside = ["nsenter", "-t", _init_of(host, pid), "-n"]
    gateway = host.network()["gateways"][0]
    host(*inside, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    host(*inside, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    host(*inside, "ip", "route", "add", "127.0.0.0/8", "via", gateway, "dev", "eth0")
    assert host(*inside, "/usr/bin/python3", "-c", ASK, "127.0.0.1", 8080).strip() in REFUSED


def _init_of(host: Host, pid: int) -> int:
    """A process inside of the sandbox that this launcher keeps."""
    return int(host("cat", f"/proc/{pid}/task/{pid}/children").split()[0])


def test_networks_do_not_reach_each_other(host: Host) -> None:
    host.good("network", "create", "other")
    host.detach("one", "--network", "bridge", script=ECHO)
    for family in (4, 6):
        address = host.address("one", family=family)
        assert ask(host, address, 80, network="other") in REFUSED
        assert ask(host, address, script=PING, network="other") in REFUSED
    assert ask(host, "one", 80, network="other").startswith("gaierror")


def test_an_isolated_network(host: Host) -> None:
    host.good("network", "create", "apart", "--isolate")
    host.world.serve(ECHO, 8080)
    host.detach("one", "--network", "apart", script=ECHO)
    for family in (4, 6):
        address = host.address("one", "apart", family)
        assert ask(host, address, 80, network="apart") in REFUSED
        assert ask(host, address, script=PING, network="apart") in REFUSED
    assert ask(host, WORLD4, 8080, network="apart") == HOST4


def test_an_internal_network(host: Host) -> None:
    host.good("network", "create", "inner", "--internal")
    host.world.serve(ECHO, 8080)
    host.detach("one", "--network", "inner", script=ECHO)
    assert ask(host, "one", 80, network="inner").startswith("fd")
    for address in (WORLD4, WORLD6):
        assert ask(host, address, 8080, network="inner").startswith("OSError")
    # Also not with a route that nobody gave it.
    assert host("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"


@pytest.mark.parametrize("kind", ["--net-rate", "create"])
def test_a_rate(host: Host, kind: str) -> None:
    options = ["--net-rate", "8M"] if kind == "--net-rate" else []
    host.good("network", "create", "slow", *(["--net-rate", "8M"] if kind == "create" else []))
    host.detach("one", *options, "--network", "slow")
    pid = json.loads(host.good("inspect", "one"))[0]["pid"]
    link = host.network("slow")["sandboxes"][0]["link"]
    outside = host("tc", "qdisc", "show", "dev", link)
    inside = host("nsenter", "-t", _init_of(host, pid), "-n", "tc", "qdisc", "show", "dev", "eth0")
    for text in (outside, inside):
        assert "tbf" in text
        assert "rate 8Mbit" in text


def test_what_the_kernel_cannot_do_is_said(host: Host) -> None:
    """Where there is netem the delay is measured, where not it is an error with nothing left."""
    host.world.serve(ECHO, 8080)
    has_netem = host.try_to("tc", "qdisc", "add", "dev", "lo", "root", "netem").returncode == 0
    before = host.picture() if not has_netem else {}
    done = host.sbx(
        *(
            "run",
            "-q",
            "--network",
            "bridge",
            "--allow",
            "public",
            "--net-delay",
            "200ms",
            host.root,
        ),
        *("python3", "-c", f"import time; t = time.time()\n{ASK}\nprint(time.time() - t)"),
        *(WORLD4, 8080),
    )
    if has_netem:
        assert float(done.stdout.split()[-1]) > 0.4
        return
    assert done.returncode == 125
    assert "cannot shape the sandbox's network" in done.stderr
    assert "the kernel has no netem" in done.stderr
    assert host.network()["sandboxes"] == []
    host.good("network", "prune")
    assert host.picture() == before
