"""Networks of root's as far as they are pure: subnets, rules and what the files hold."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import HostError, SetupError, StateError
from sandbox.services.network.bridge import definitions, egress, firewall, leases, ports, shaping
from sandbox.services.network.bridge.definitions import Definition
from sandbox.services.network.bridge.leases import Lease
from sandbox.services.network.bridge.subnets import (
    EVERYWHERE,
    Subnet,
    check_subnet,
    free_subnet,
    local_subnet,
    mac_address,
    parse_address,
    parse_subnet,
)
from sandbox.services.network.ports import Port

NETWORK = Definition("mine", "sbx1", "10.50.0.0/29", "fd00:1::/64")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for networks."""
    monkeypatch.setattr(definitions, "BASE", str(tmp_path))
    return tmp_path


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_overlap(first: int, bits: int, second: int, more: int) -> None:
    def subnet(value: int, prefix: int) -> Subnet:
        return Subnet((value >> (32 - prefix) << (32 - prefix)).to_bytes(4, "big"), prefix)

    one, other = subnet(first, bits), subnet(second, more)

    def span(subnet: Subnet) -> range:
        start = int.from_bytes(subnet.base, "big")
        return range(start, start + 2 ** (32 - subnet.prefix))

    spans = span(one), span(other)
    meets = max(s.start for s in spans) < min(s.stop for s in spans)
    assert one.overlaps(other) == other.overlaps(one) == meets
    assert parse_subnet(one.text) == one


def test_a_free_subnet_is_the_first_that_nobody_has() -> None:
    assert free_subnet([]) == parse_subnet("10.73.0.0/24")
    assert free_subnet([parse_subnet("10.73.0.0/23")]) == parse_subnet("10.73.2.0/24")
    assert free_subnet([parse_subnet("10.73.0.128/32")]) == parse_subnet("10.73.1.0/24")
    assert free_subnet([parse_subnet("10.0.0.0/8")]) is None
    assert free_subnet([parse_subnet("fd00::/8")]) == parse_subnet("10.73.0.0/24")


def test_local_addresses() -> None:
    found = local_subnet(b"\1\2\3\4\5")
    assert found.text == "fd01:203:405::/64"
    check_subnet(found)
    assert mac_address(b"\x0a\x49\0\2").hex(":") == "02:73:0a:49:00:02"


@pytest.mark.usefixtures("base")
def test_a_lease_holds_its_address_until_the_lock_is_gone() -> None:
    definitions.save(NETWORK)
    taken = [leases.take(NETWORK, (f"n{number}",)) for number in range(5)]
    assert [lease.number for lease, _ in taken] == [2, 3, 4, 5, 6]
    with pytest.raises(HostError, match="no address left"):
        leases.take(NETWORK, ("one more",))
    assert len(leases.living(NETWORK)) == 5
    os.close(taken[1][1])
    assert [lease.names for lease in leases.dead(NETWORK)] == [("n1",)]
    leases.retire(taken[1][0])
    assert [lease.number for lease, _ in leases.retired(NETWORK)] == [3]
    with pytest.raises(HostError, match="no address left"):
        leases.take(NETWORK, ("one more",))
    leases.drop(taken[1][0])
    again, lock = leases.take(NETWORK, ("again",))
    assert again.number == 3
    for fd in (lock, *(fd for at, (_, fd) in enumerate(taken) if at != 1)):
        os.close(fd)


@pytest.mark.usefixtures("base")
def test_addresses_are_used_again_as_late_as_possible() -> None:
    definitions.save(NETWORK)
    numbers = []
    for _ in range(7):
        lease, lock = leases.take(NETWORK, ("x",))
        numbers.append(lease.number)
        leases.drop(lease)
        os.close(lock)
    assert numbers == [2, 3, 4, 5, 6, 2, 3]


def test_a_lease_is_read_as_it_was_written(base: Path) -> None:
    definitions.save(NETWORK)
    wanted = {
        "ports": (Port("127.0.0.1", 8080, 80), Port("::", 53, 53, "udp")),
        "allow": ("example.org:443", "public/udp"),
        "deny": ("10.0.0.0/8",),
        "dns": ("192.0.2.53",),
    }
    lease, lock = leases.take(NETWORK, ("one", "uno"), **wanted)
    learned = (egress.Learned("example.org:443", b"\1\2\3\4", 1e9),)
    leases.learn(lease, learned)
    assert leases.living(NETWORK) == [lease.replace(learned=learned)]
    leases.drop(lease)
    os.close(lock)
    assert os.listdir(base / "mine" / "leases") == []


@given(st.binary(max_size=200))
def test_any_damage_of_a_definition_is_told(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        before, definitions.BASE = definitions.BASE, folder
        try:
            definitions.save(NETWORK)
            Path(folder, "mine", "network").write_bytes(data)
            with pytest.raises(StateError, match="cannot read the network"):
                definitions.load("mine")
        finally:
            definitions.BASE = before


def test_rules_are_judged_by_what_was_asked_for() -> None:
    lines = egress.chain("of", ("192.0.2.0/24:80-90/tcp", "host:8080"), (), NETWORK.gateways)
    ports_8080 = "meta l4proto { 6, 17 } ct original proto-dst 8080-8080"
    assert lines == [
        "chain of {",
        "ct original ip daddr 192.0.2.0/24 meta l4proto { 6 } ct original proto-dst 80-90 accept",
        f"ct original ip daddr 10.50.0.1 {ports_8080} accept",
        f"ct original ip6 daddr fd00:1::1 {ports_8080} accept",
        egress.REJECT,
        "}",
    ]


def test_denials_come_first_and_names_have_sets() -> None:
    learned = [egress.Learned("a.example", b"\xc0\0\2\1", 60.0)]
    lines = egress.chain("of", ("a.example",), ("10.0.0.0/8",), (), learned, 10.0)
    assert (
        lines[0]
        == "set of_a0_ip { type ipv4_addr; flags timeout; elements = { 192.0.2.1 timeout 50s } }"
    )
    assert lines[1] == "set of_a0_ip6 { type ipv6_addr; flags timeout; }"
    assert lines[3].startswith("ct original ip daddr 10.0.0.0/8 ")
    assert lines[3].endswith(egress.REJECT)
    assert lines[4].startswith("ct original ip daddr @of_a0_ip ")
    late = egress.chain("of", ("a.example",), (), (), learned, 100.0)
    assert late[0] == "set of_a0_ip { type ipv4_addr; flags timeout; }"


def _opened(*allow: str, learned: tuple[egress.Learned, ...] = ()) -> str:
    return "\n".join(egress.chain("of", allow, (), (), learned, 10.0))


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "10.1.2.3", "192.168.0.1", "127.0.0.1", "fd00:ec2::254", "fe80::1"],
)
def test_no_name_opens_what_is_not_public(address: str) -> None:
    """Its owner may have it lead anywhere; a denial takes all that it leads to."""
    learned = egress.Learned("a.example", parse_address(address), 60.0)
    assert address not in _opened("a.example", learned=(learned,))
    assert address in "\n".join(egress.chain("of", (), ("a.example",), (), [learned], 10.0))


def test_a_wide_network_does_not_mean_the_special_ones_within_it() -> None:
    everything = _opened("0.0.0.0/0")
    for text in ("10.0.0.0/8", "192.168.0.0/16", "169.254.0.0/16", "168.63.129.16/32"):
        assert text in everything.partition("ct original ip daddr != {")[2]
    link_local = "ct original ip daddr 169.254.0.0/16 ct original ip daddr != { 169.254.169.254/32,"
    assert link_local in _opened("169.254.0.0/16")
    assert "!=" not in _opened("10.0.0.0/8")
    assert "!=" not in _opened("169.254.169.254")
    assert "ct original ip6 daddr 2000::/3 ct original ip6 daddr != {" in _opened("[::]/0")
    assert "fd00:ec2::254/128" in _opened("[fc00::]/7")
    assert "64:ff9b::a00:0/104" in _opened("[64:ff9b::]/96")


def test_nobody_is_judged_as_another_sandbox() -> None:
    """Any program may send from any IPv6 address, but not from another cable's."""
    lease = Lease(NETWORK, 2, ("one",), allow=("public",))
    guard = firewall.ruleset([NETWORK], [lease], (True, True)).partition("chain of_")[0]
    for saddr in ("ip saddr 10.50.0.2", "ip6 saddr fd00:1::2"):
        assert f'iifname "sbx1" {saddr} ether saddr != {lease.mac.hex(":")} drop' in guard


def test_nothing_up_is_no_table() -> None:
    assert firewall.ruleset([], [], (True, True)) == ""


def test_what_the_host_did_not_forward_is_dropped() -> None:
    def rules(*before: bool) -> str:
        return firewall.ruleset([NETWORK], [], before)  # type: ignore[arg-type]

    drop = 'meta nfproto {} iifname != {{ "sbx1" }} oifname != {{ "sbx1" }} drop'
    assert drop.format("ipv4") in rules(False, True)
    assert drop.format("ipv6") not in rules(False, True)
    assert drop.format("ipv6") in rules(True, False)


def test_ports_of_one_address_go_before_those_of_all() -> None:
    lease = Lease(NETWORK, 2, ("one",), (Port(EVERYWHERE[0], 80, 1), Port("192.0.2.1", 80, 2)))
    text = firewall.ruleset([NETWORK], [lease], (True, True))
    assert text.index("192.0.2.1 . 6 . 80 : 10.50.0.2 . 2") < text.index(
        "{ 6 . 80 : 10.50.0.2 . 1 }"
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((EVERYWHERE[0], 80), ("127.0.0.1", 80), True),
        (("127.0.0.1", 80), ("127.0.0.2", 80), False),
        (("127.0.0.1", 80), ("127.0.0.1", 81), False),
        (("::", 80), ("127.0.0.1", 80), False),
    ],
)
def test_which_ports_are_the_same(one: tuple[str, int], other: tuple[str, int], same: bool) -> None:
    assert ports._same(Port(*one, 1), Port(*other, 2)) == same


def test_a_rate_alone_needs_no_netem() -> None:
    assert shaping._discipline(shaping.Shape())[0] == ""
    assert shaping._discipline(shaping.Shape(rate=10**6))[0] == "tbf"
    assert shaping._discipline(shaping.Shape(rate=10**6, delay=0.1))[0] == "netem"
    assert shaping._discipline(shaping.Shape(loss=1))[0] == "netem"


@pytest.mark.parametrize(
    ("code", "said", "cause", "hint"),
    [
        (
            1,
            "/dev/stdin:3:9-12: Error: Could not process rule: No such file or directory\nadd",
            "nft: Could not process rule: No such file or directory",
            "the kernel needs nf_tables",
        ),
        (
            1,
            "netlink: Error: cache initialization failed: Operation not permitted",
            "nft: cache initialization failed: Operation not permitted",
            "CAP_NET_ADMIN",
        ),
        (1, "/dev/stdin:1:1-4: Error: syntax error, unexpected x", "nft: syntax error", "newer"),
        (1, "out of paper", "nft: out of paper", ""),
        (-9, "", "nft: exit code -9", ""),
    ],
)
def test_what_nft_says_is_explained(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, cause: str, hint: str
) -> None:
    monkeypatch.setattr(firewall, "find_program", lambda _name: "/sbin/nft")
    monkeypatch.setattr(firewall, "run_program", lambda *_words, **_more: (code, said))
    with pytest.raises(SetupError) as caught:
        firewall.apply("")
    assert caught.value.cause.startswith(cause)
    assert hint in caught.value.hint if hint else not caught.value.hint


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "make room there"), (errno.EROFS, "root must write")]
)
def test_a_lease_that_cannot_be_written(
    base: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    (base / NETWORK.name / "leases").mkdir(parents=True)

    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(StateError, match="cannot write") as caught:
        leases.take(NETWORK, ("one",))
    assert caught.value.cause == os.strerror(number).lower()
    assert hint in caught.value.hint
    assert list((base / NETWORK.name / "leases").iterdir()) == []
