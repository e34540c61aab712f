"""Ports of the host that lead inside, and what a sandbox may reach."""

from __future__ import annotations

import json

import pytest

from tests.kernel.privileged.test_bridge import ASK, ECHO, PING, REFUSED, ask
from tests.support.worlds import HOST4, HOST6, WORLD4, WORLD6, Host

EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104
# A name server of the world: knows names below example.org, each with its own address.
NAMES = """
import socket, sys
known = {b"one": "192.0.2.2", b"two": "192.0.2.3"}
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("192.0.2.2", 53))
print("ready", flush=True)
while True:
    data, who = s.recvfrom(2000)
    first = data[13:13 + data[12]].lower()
    end = data.index(bytes(1), 12) + 5
    found = known.get(first) if data[end - 4:end - 2] == bytes([0, 1]) else None
    head = data[:2] + bytes([0x81, 0x80, 0, 1, 0, bool(found), 0, 0, 0, 0])
    row = bytes([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4])
    answer = row + socket.inet_aton(found) if found else b""
    s.sendto(head + data[12:end] + answer, who)
"""


def world(host: Host, address: str, port: int, *words: str) -> str:
    return host.world.python(ASK, address, port, *words).strip()


def test_a_published_port(host: Host) -> None:
    """From the world and from the host, with the address it came from; nothing else is open."""
    ports = [f"{at}:8080:80{kind}" for at in EVERYWHERE for kind in ("", "/udp")]
    options = [word for port in ports for word in ("-p", port)]
    host.detach("one", "--network", "bridge", *options, script=ECHO)
    for words in ((), ("udp",)):
        assert world(host, HOST4, 8080, *words) == WORLD4
        assert world(host, HOST6, 8080, *words) == WORLD6
        assert host.python(ASK, HOST4, 8080, *words).strip() == HOST4
        assert host.python(ASK, HOST6, 8080, *words).strip() == HOST6
        gateway = host.network()["gateways"][0]
        assert host.python(ASK, "127.0.0.1", 8080, *words).strip() == gateway
    assert world(host, HOST4, 80) in REFUSED
    assert json.loads(host.good("inspect", "one"))[0]["name"] == "one"
    assert "80/tcp -> 0.0.0.0:8080" in host.good("port", "one")
    host.good("rm", "-f", "one")
    assert world(host, HOST4, 8080) in REFUSED


def test_the_loopback_alone(host: Host) -> None:
    """What names no address is for this machine."""
    host.detach("one", "--network", "bridge", "-p", "8080:80", script=ECHO)
    assert host.python(ASK, "127.0.0.1", 8080).strip() == host.network()["gateways"][0]
    assert world(host, HOST4, 8080) in REFUSED
    assert host.python(ASK, HOST4, 8080).strip() in REFUSED


def test_from_other_sandboxes(host: Host) -> None:
    """By the host's address: of the same network, itself too, and of another one that may."""
    host.good("network", "create", "other")
    host.detach("one", "--network", "bridge", "-p", "0.0.0.0:8080:80", script=ECHO)
    gateway = host.network()["gateways"][0]
    assert ask(host, HOST4, 8080) == gateway
    itself = host.good("exec", "one", "python3", "-c", ASK, HOST4, "8080").strip()
    assert itself == gateway
    assert ask(host, HOST4, 8080, network="other").startswith("10.73.0.")
    assert ask(host, HOST4, 8080, network="other", options=()) in REFUSED


def test_a_port_that_the_host_picks(host: Host) -> None:
    host.detach("one", "--network", "bridge", "-p", "0.0.0.0:0:80", script=ECHO)
    number = int(host.good("port", "one").split(":")[-1])
    assert world(host, HOST4, number) == WORLD4


def test_a_range(host: Host) -> None:
    host.detach("one", "--network", "bridge", "-p", "0.0.0.0:8079-8081:79-81", script=ECHO)
    assert world(host, HOST4, 8080) == WORLD4


def test_a_port_that_is_taken(host: Host) -> None:
    host.detach("one", "--network", "bridge", "-p", "8080:80")
    host.serve(ECHO, 8081)
    for port, why in ((8080, "another sandbox has published it"), (8081, "a program of the host")):
        before = host.picture()
        done = host.sbx("run", "--network", "bridge", "-p", f"{port}:80", host.root, "true")
        assert done.returncode == 125
        assert f"cannot publish port {port}/tcp at 127.0.0.1" in done.stderr
        assert why in done.stderr
        assert host.picture() == before
    host.good("run", "-q", "--network", "bridge", "-p", "8080:80/udp", host.root, "true")


def test_an_internal_network_publishes_nothing(host: Host) -> None:
    host.good("network", "create", "inner", "--internal")
    done = host.sbx("run", "--network", "inner", "-p", "8080:80", host.root, "true")
    assert "the network is internal" in done.stderr


def test_what_cannot_lead_inside(host: Host) -> None:
    done = host.sbx("run", "--network", "bridge", "-p", "[::1]:8080:80", host.root, "true")
    assert "the kernel routes nothing from its IPv6 loopback" in done.stderr


def test_nothing_is_reached_that_is_not_allowed(host: Host) -> None:
    host.world.serve(ECHO, 8080)
    for address in (WORLD4, WORLD6):
        assert ask(host, address, 8080, options=()) in REFUSED
        assert ask(host, address, script=PING, options=()) in REFUSED


@pytest.mark.parametrize(
    ("rule", "open4", "open6"),
    [
        (f"{WORLD4}:8080", True, False),
        ("192.0.2.0/24:8000-9000/tcp", True, False),
        (f"[{WORLD6}]:8080", False, True),
        ("public:8080", True, True),
        ("public/udp", False, False),
        (f"{WORLD4}:8081", False, False),
        ("10.0.0.0/8", False, False),
    ],
)
def test_addresses(host: Host, rule: str, open4: bool, open6: bool) -> None:
    host.world.serve(ECHO, 8080)
    for address, allowed, seen in ((WORLD4, open4, HOST4), (WORLD6, open6, HOST6)):
        found = ask(host, address, 8080, options=("--allow", rule))
        assert found == seen if allowed else found in REFUSED
    denied = ("--allow", rule, "--deny", "public")
    assert ask(host, WORLD4, 8080, options=denied) in REFUSED


def test_private_addresses_are_not_public(host: Host) -> None:
    host.world("ip", "address", "add", "10.9.0.2/24", "dev", "wan1")
    host.world("ip", "address", "add", "169.254.169.254/32", "dev", "wan1")
    host("ip", "route", "add", "10.9.0.0/24", "dev", "wan0")
    host("ip", "route", "add", "169.254.169.254/32", "dev", "wan0")
    host.world.serve(ECHO, 8080)
    for address in ("10.9.0.2", "169.254.169.254"):
        for rules in ("public", "0.0.0.0/0"):
            assert ask(host, address, 8080, options=("--allow", rules)) in REFUSED
        assert ask(host, address, 8080, options=("--allow", address)) == HOST4


def test_a_port_of_the_host(host: Host) -> None:
    host.serve(ECHO, 8080)
    gateway = "10.73.0.1"
    assert ask(host, gateway, 8080, options=("--allow", "host:8080")).startswith("10.73.0.")
    assert ask(host, gateway, 8080, options=("--allow", "host:8081")) in REFUSED


def test_names(host: Host) -> None:
    """An address is reached once its name was asked for, by who may ask, on the ports it may."""
    host.world("ip", "address", "add", "192.0.2.3/24", "dev", "wan1")
    host.world.serve(NAMES)
    host.world.serve(ECHO, 8080)
    options = ("--dns", WORLD4, "--allow", "one.example.org:8080")
    head = "import sys\nfor sys.argv[1] in ('192.0.2.2', 'one.example.org', '192.0.2.2'):\n"
    script = head + "".join(f"    {line}\n" for line in ASK.splitlines())
    said = ask(host, "-", 8080, script=script, options=options).split("\n")
    assert said[0] in REFUSED
    assert said[1:] == [HOST4, HOST4]
    assert ask(host, "one.example.org", 8081, options=options) in REFUSED
    assert ask(host, "two.example.org", 8080, options=options).startswith("gaierror")
    assert ask(host, "192.0.2.3", 8080, options=options) in REFUSED
    below = ("--dns", WORLD4, "--allow", "*.example.org")
    assert ask(host, "two.example.org", 8080, options=below) == HOST4


def test_what_names_led_to_stays_when_others_come(host: Host) -> None:
    host.world.serve(NAMES)
    host.world.serve(ECHO, 8080)
    host.detach("one", "--network", "bridge", "--dns", WORLD4, "--allow", "one.example.org")
    inside = ("exec", "one", "python3", "-c", ASK)
    assert host.good(*inside, "one.example.org", 8080).strip() == HOST4
    host.detach("two", "--network", "bridge", "-p", "8088:80")
    assert host.good(*inside, WORLD4, 8080).strip() == HOST4


def test_the_name_server_has_given_up_what_it_does_not_need(host: Host) -> None:
    host.detach("one", "--network", "bridge")
    # What answers has been through all of it.
    asked = "import socket; socket.gethostbyname('one')"
    host.good("exec", "one", "python3", "-c", asked)
    pid = host("cat", "/var/lib/sbx/networks/bridge/.names").strip()
    status = dict(line.split(":", 1) for line in host("cat", f"/proc/{pid}/status").splitlines())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == 1 << 12, name
    assert status["NoNewPrivs"].strip() == "1"
    script = """
import os
from sandbox.services.network.bridge import confine
confine.confine()
open(confine.BASE + "/mine", "w").close()
for path in ("/etc/shadow", "/root", "/var/lib/sbx", "/usr/written"):
    try:
        os.open(path, os.O_RDONLY if path != "/usr/written" else os.O_CREAT | os.O_WRONLY)
        print(path)
    except OSError as error:
        assert error.errno == 13, error
try:
    os.kill(os.getppid(), 0)
    print("a signal")
except PermissionError:
    pass
"""
    python = host.sbx_path.removesuffix("sbx") + "python"
    assert host(python, "-c", script) == ""


def test_names_of_protocols_are_not_needed(host: Host) -> None:
    """Minimal hosts have no /etc/protocols."""
    host("mount", "--bind", "/dev/null", "/etc/protocols")
    host.world.serve(ECHO, 8080)
    host.detach("one", "--network", "bridge", "-p", "0.0.0.0:8080:80/udp", script=ECHO)
    assert ask(host, WORLD4, 8080, options=("--allow", f"{WORLD4}:8080/tcp")) == HOST4


def test_strict_can_have_a_network(host: Host) -> None:
    host.world.serve(ECHO, 8080)
    options = ("--policy", "strict", "--allow", f"{WORLD4}:8080")
    assert ask(host, WORLD4, 8080, options=options) == HOST4
