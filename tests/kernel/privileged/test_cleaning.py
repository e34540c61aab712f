"""What networks leave behind: nothing, whoever was killed. What is refused before it is made."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.worlds import Host, members

AT_ONCE = 50


def test_everything_is_as_before(host: Host) -> None:
    before = host.picture()
    host.good("network", "create", "other", "--isolate")
    host.detach("one", "--network", "bridge")
    host.detach("two", "--network", "other")
    host.good("run", "-q", "--network", "bridge", host.root, "true")
    assert host("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    assert "net.ipv4.conf.all.forwarding is 1 now" not in host.sbx("ps").stderr
    done = host.sbx("network", "rm", "other")
    assert done.returncode == 125
    assert 'the network "other" is in use\n  cause: by two\n' in done.stderr
    host.good("network", "prune")
    assert len(host.network()["sandboxes"]) == 1
    host.good("rm", "-f", "one", "two")
    assert sorted(host.good("network", "prune").split()) == ["bridge", "other"]
    assert host.picture() == before


def test_the_user_is_told_of_forwarding_once(host: Host) -> None:
    first, second = (host.sbx("run", "--network", "bridge", host.root, "true") for _ in range(2))
    assert "warning: net.ipv4.conf.all.forwarding is 1 now" in first.stderr
    assert second.stderr == ""


def test_a_host_that_forwards_goes_on_doing_so(host: Host) -> None:
    host("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    before = host.picture()
    assert host.sbx("run", "--network", "bridge", host.root, "true").stderr == ""
    assert "drop" not in _forward(host).split("accept")[0]
    host.good("network", "prune")
    assert host.picture() == before


def test_a_host_that_did_not_forward_does_not_begin(host: Host) -> None:
    """Only what comes from a sandbox or goes to one passes."""
    host.good("run", "-q", "--network", "bridge", host.root, "true")
    assert 'meta nfproto ipv4 iifname != "sbx0" oifname != "sbx0" drop' in _forward(host)


def _forward(host: Host) -> str:
    return host("nft", "list", "chain", "inet", "sbx", "forward")


def test_fifty_at_once_have_fifty_addresses(host: Host) -> None:
    before = host.picture()
    names = [f"box{number}" for number in range(AT_ONCE)]
    argv = ("--network", "bridge", host.root, "sleep", "600")

    def start(name: str) -> None:
        host.good("run", "-d", "-q", "--name", name, *argv, timeout=100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, names))
    found = host.network()["sandboxes"]
    assert len({box["addresses"][0] for box in found}) == AT_ONCE
    assert len({box["addresses"][1] for box in found}) == AT_ONCE
    assert len({box["mac"] for box in found}) == AT_ONCE
    assert {box["name"] for box in found} == set(names)
    host.good("rm", "-f", *names)
    assert host.network()["sandboxes"] == []
    host.good("network", "prune")
    assert host.picture() == before


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35, 0.5])
def test_a_storm_of_kills_leaves_nothing(host: Host, delay: float) -> None:
    """Everything of sbx dies at once, at any moment: sessions, launchers, the name server."""
    before = host.picture()
    host.good("network", "create", "other")
    for number in range(4):
        network = ("bridge", "other")[number % 2]
        host.start(host.sbx_path, "run", "-q", "--network", network, host.root, "sleep", "600")
    time.sleep(delay)
    _kill_all(host)
    host.good("network", "prune")
    assert host.picture() == before


def _kill_all(host: Host) -> None:
    inode = os.stat(f"/proc/{host.holder.pid}/ns/net").st_ino
    for _ in range(100):
        victims = [pid for pid in members(inode) if pid != host.holder.pid]
        if not victims:
            break
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for each in host.started:
            each.poll()
        time.sleep(0.02)
    for each in host.started:
        each.wait(10)


def test_the_next_run_takes_back_what_was_left(host: Host) -> None:
    host.detach("one", "--network", "bridge")
    _kill_all(host)
    assert host("ls", "/var/lib/sbx/networks/bridge/leases").split() == ["2"]
    done = host.sbx("run", "--network", "bridge", host.root, "true")
    assert "took back the address of one" in done.stderr
    assert host.network()["sandboxes"] == []


def test_a_table_that_somebody_flushed_is_made_again(host: Host) -> None:
    host.detach("one", "--network", "bridge")
    rules = host("nft", "list", "ruleset")
    host("nft", "flush", "ruleset")
    host.good("run", "-q", "--network", "bridge", host.root, "true")
    assert host("nft", "list", "ruleset") == rules


def test_tables_of_others_are_left_alone(host: Host) -> None:
    host("nft", "add", "table", "inet", "theirs")
    host("nft", "add", "chain", "inet", "theirs", "forward")
    before = host.picture()
    host.good("run", "-q", "--network", "bridge", host.root, "true")
    host.good("network", "prune")
    assert host.picture() == before


def refused(host: Host, *words: object, code: int = 125) -> str:
    """What sbx says when it refuses; nothing may have changed."""
    before = host.picture()
    done = host.sbx(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert host.picture() == before
    return done.stderr


def test_a_subnet_that_the_host_uses(host: Host) -> None:
    said = refused(host, "network", "create", "a", "--subnet", "192.0.2.128/25")
    assert "cause: 192.0.2.0/24 is in use by a route of this host" in said
    host.good("network", "create", "a", "--subnet", "10.50.0.0/24", "--no-ipv6")
    said = refused(host, "network", "create", "b", "--subnet", "10.50.0.0/16")
    assert 'cause: 10.50.0.0/24 is in use by the network "a"' in said
    host("ip", "address", "add", "10.50.0.77/24", "dev", "wan0")
    said = refused(host, "run", "--network", "a", host.root, "true")
    assert "is in use by a route of this host" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--subnet", "10.0.0.1/24"), "has bits behind its prefix: 10.0.0.0/24"),
        (("--subnet", "127.0.0.0/24"), "is no range that hosts can have"),
        (("--subnet", "10.0.0.0/31"), "must have a prefix of 8 to 30 bits"),
        (("--subnet", "fe80::/64"), "is no range that hosts can have"),
        (("--subnet", "10.0.0.0"), "must be ADDRESS/BITS"),
        (("--subnet", "10.0.0.0/24", "--subnet", "10.1.0.0/24"), "one of each family is enough"),
        (("--mtu", "100"), "must be 1280 to 65535"),
        (("--net-rate", "fast"), "must be bits a second"),
    ],
)
def test_what_cannot_be_a_network(host: Host, words: tuple[str, ...], why: str) -> None:
    assert why in refused(host, "network", "create", "a", *words, code=2)


def test_a_foreign_bridge_of_that_name(host: Host) -> None:
    host("ip", "link", "add", "sbx0", "type", "bridge")
    said = refused(host, "run", "--network", "bridge", host.root, "true")
    assert "cause: there is a link sbx0 that sbx has not made" in said
    assert host.good("network", "create", "mine") == "mine\n"
    host("ip", "link", "add", "sbx1", "type", "bridge")
    said = refused(host, "run", "--network", "mine", host.root, "true")
    assert "there is a link sbx1 that sbx has not made" in said
    host.good("network", "prune")
    assert "sbx1" in host("ip", "link", "show", "sbx1")


def test_a_full_pool(host: Host) -> None:
    host.good("network", "create", "tiny", "--subnet", "10.50.0.0/30")
    host.detach("one", "--network", "tiny")
    said = refused(host, "run", "-q", "--network", "tiny", host.root, "true")
    assert 'the network "tiny" has no address left' in said
    assert "cause: all 1 of 10.50.0.0/30 are in use" in said


def test_without_nft(host: Host) -> None:
    before = host.picture()
    host("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    done = host.sbx("run", "--network", "bridge", host.root, "true")
    assert done.returncode == 125
    assert "the program nft is not installed" in done.stderr
    assert "hint: install the package nftables" in done.stderr
    host("umount", "/usr/sbin/nft")
    assert host.picture() == before


def test_a_port_53_that_is_taken(host: Host) -> None:
    host.serve(
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "s.bind(('0.0.0.0', 53)); print('ready', flush=True); time.sleep(600)"
    )
    said = refused(host, "run", "--network", "bridge", host.root, "true")
    assert 'cannot start the name server of the network "bridge"' in said


def test_a_network_that_is_not_there(host: Host) -> None:
    assert 'no network "nowhere"' in refused(host, "run", "--network", "nowhere", host.root, "true")
    assert 'no network "nowhere"' in refused(host, "network", "inspect", "nowhere")
    assert 'no network "nowhere"' in refused(host, "network", "rm", "nowhere")


def test_damaged_files_are_an_error_of_one_line(host: Host) -> None:
    host.good("network", "create", "mine")
    host("sh", "-c", "echo spoilt > /var/lib/sbx/networks/mine/network")
    said = refused(host, "run", "--network", "mine", host.root, "true")
    assert 'cannot read the network "mine"' in said
    assert "is damaged" in host.sbx("network", "ls").stderr
    host.good("network", "rm", "mine")
    assert host.good("network", "ls", "--json") == "[]\n"


def test_a_normal_user_is_refused(host: Host) -> None:
    """Also one that is root in a user namespace of its own."""
    script = "from sandbox.services.network.bridge.definitions import Gate\nwith Gate(): pass"
    python = os.path.join(os.path.dirname(host.sbx_path), "python")
    done = host.try_to("setpriv", "--reuid=65534", "--clear-groups", python, "-c", script)
    assert "bridges belong to root" in done.stderr


def test_a_sandbox_does_not_see_the_files_of_networks(host: Host) -> None:
    host.good("network", "create", "mine")
    done = host.sbx("run", "-q", "-v", "/var:/mnt", host.root, "ls", "/mnt/lib/sbx/networks")
    assert done.stdout == ""
    done = host.sbx("run", "-q", "-v", "/var/lib/sbx/networks:/mnt", host.root, "ls", "/mnt")
    assert "it belongs to sbx itself" in done.stderr


def test_ls(host: Host) -> None:
    host.good("network", "create", "mine", "--internal", "--subnet", "10.50.0.0/24", "--no-ipv6")
    host.detach("one", "--network", "mine", "--network-alias", "uno")
    lines = [line.split() for line in host.good("network", "ls").splitlines()]
    assert lines[1] == ["mine", "sbx1", "10.50.0.0/24", "up", "1", "internal"]
    found = json.loads(host.good("network", "ls", "--json"))
    assert found[0]["sandboxes"][0]["aliases"] == ["uno"]
