"""What a sandbox may reach: rules, names that were resolved, places that no name opens."""

import ipaddress
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.policy.egress import Rule, Rules, parse_rules, special
from sandbox.services.network.user import egress as module
from sandbox.services.network.user.egress import Egress

GATEWAY, GATEWAY6 = "10.0.2.2", "fd00:73:6278::2"


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """An Egress, its clock and the host's own addresses."""

    def __init__(
        self, allow: Iterable[str] = (), deny: Iterable[str] = (), *, sni: bool = False
    ) -> None:
        self.clock = Clock()
        self.own: set[bytes] = set()
        gateways = {packed(GATEWAY): packed("127.0.0.1"), packed(GATEWAY6): packed("::1")}
        rules = parse_rules(allow, deny, sni=sni)
        self.egress = Egress(rules, gateways, self.own.__contains__, self.clock)

    def allows(self, address: str, port: int = 443, protocol: str = "tcp") -> bool:
        return self.egress.judge(packed(address), port, protocol).allowed

    def rule(self, address: str, port: int = 443, protocol: str = "tcp") -> str:
        return self.egress.judge(packed(address), port, protocol).rule

    def learn(self, name: str, *addresses: str, ttl: int = 300) -> None:
        self.egress.learn(name, map(packed, addresses), ttl)


def test_nothing_is_allowed_that_no_rule_names() -> None:
    world = World()
    for address in ("8.8.8.8", "2600::1", "10.0.0.1", "127.0.0.1", GATEWAY, GATEWAY6, "0.0.0.0"):  # noqa: S104
        for protocol in ("tcp", "udp"):
            assert not world.allows(address, 80, protocol)
    assert not world.egress.judge_name("example.org").allowed


def test_a_name_opens_what_it_resolved_to_and_only_its_ports() -> None:
    world = World(["example.org:443/tcp", "*.example.net"])
    assert not world.allows("8.8.8.8")
    world.learn("Example.ORG.", "8.8.8.8", "2600::1")
    world.learn("a.b.example.net", "8.8.4.4")
    verdict = world.egress.judge(packed("8.8.8.8"), 443, "tcp")
    assert (verdict.rule, verdict.name) == ("example.org:443/tcp", "example.org")
    assert verdict.target == packed("8.8.8.8")
    assert world.allows("2600::1")
    assert not world.allows("8.8.8.8", 80)
    assert not world.allows("8.8.8.8", 443, "udp")
    assert not world.allows("8.8.8.8", 0, "icmp")
    assert world.allows("8.8.4.4", 1234, "udp")
    assert world.allows("8.8.4.4", 0, "icmp")


def test_a_mapped_address_is_judged_and_reached_as_the_one_it_is() -> None:
    world = World(["8.8.8.8:443", "host:80"])
    verdict = world.egress.judge(packed("::ffff:8.8.8.8"), 443, "tcp")
    assert verdict.allowed
    assert verdict.target == packed("8.8.8.8")
    assert world.egress.judge(packed(f"::ffff:{GATEWAY}"), 80, "tcp").target == packed("127.0.0.1")
    for address in ("::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1", "::", "::1", "0.0.0.0"):  # noqa: S104
        assert not world.allows(address, 80)


def test_names_that_are_not_listed_are_neither_resolved_nor_learned() -> None:
    world = World(["*.example.org:443"])
    for name in (
        "example.org",
        "xexample.org",
        "example.org.evil.net",
        "a.example.org.",
        "A.example.ORG",
    ):
        assert world.egress.judge_name(name).allowed == name.lower().startswith("a."), name
    world.learn("evil.net", "8.8.8.8")
    assert world.egress._learned == {}
    assert not world.allows("8.8.8.8")


SPECIAL = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.1.1", "169.254.169.254", "100.64.0.1"),
    *("127.0.0.1", "0.0.0.0", "fd00:ec2::254", "fd12::1", "fe80::1", "::1", "64:ff9b::10.0.0.1"),  # noqa: S104
    *("2002:7f00:1::", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1"),
]


@pytest.mark.parametrize("address", SPECIAL)
def test_no_name_opens_a_special_place(address: str) -> None:
    for allow in (["example.org"], ["public"], ["example.org", "public", "0.0.0.0/0", "[::]/0"]):
        world = World(allow)
        world.learn("example.org", address)
        assert not world.allows(address), allow


def test_no_name_opens_an_own_address_of_the_host() -> None:
    world = World(["example.org", "public", "0.0.0.0/0", "198.51.100.0/24"])
    world.own.add(packed("198.51.100.7"))
    world.learn("example.org", "198.51.100.7", "198.51.100.8")
    assert world.rule("198.51.100.7") == "the host's own"
    assert world.allows("198.51.100.8")
    world.own.add(packed("198.51.100.8"))
    world.clock.now += module.JUDGED_SECONDS + 1
    assert not world.allows("198.51.100.8")
    named = World(["198.51.100.7:80"])
    named.own.add(packed("198.51.100.7"))
    assert named.allows("198.51.100.7", 80)
    through = World(["public"])
    through.own.add(packed("198.51.100.7"))
    assert not through.allows("64:ff9b::198.51.100.7")


def test_a_wide_network_does_not_mean_the_places_within() -> None:
    world = World(["0.0.0.0/0", "[fd00::]/8", "168.0.0.0/6", "10.1.0.0/16"])
    assert world.allows("8.8.8.8")
    assert world.allows("10.1.2.3")
    assert world.allows("fd12::1")
    for address in ("10.2.0.1", "169.254.169.254", "fd00:ec2::254", "168.63.129.16"):
        assert not world.allows(address), address
    assert World(["169.254.0.0/16"]).rule("169.254.169.254") == "metadata"
    assert World(["169.254.169.254:80"]).allows("169.254.169.254", 80)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "fe80::1", "64:ff9b::7f00:1"])  # noqa: S104
def test_no_rule_at_all_opens_what_is_never_another_host(address: str) -> None:
    number = packed(address)
    rule = Rule("network", address, "", number, 8 * len(number))
    egress = Egress(Rules(allow=(rule,)), {}, lambda _: False)
    assert not egress.judge(number, 80, "tcp").allowed


def test_deny_wins() -> None:
    world = World(
        ["public", "10.0.0.0/8", "*.example.org", "host:80-90"],
        ["8.8.0.0/16", "10.9.0.0/16:22", "bad.example.org", "mail.example.org:25", "host:85"],
    )
    assert world.rule("8.8.8.8") == "deny 8.8.0.0/16"
    assert not world.allows("64:ff9b::8.8.8.8")
    assert world.allows("9.9.9.9")
    assert not world.allows("10.9.1.1", 22)
    assert world.allows("10.9.1.1", 23)
    assert world.egress.judge_name("bad.example.org").rule == "deny bad.example.org"
    assert world.egress.judge_name("mail.example.org").allowed
    world.learn("mail.example.org", "9.9.9.9")
    world.learn("good.example.org", "9.9.9.9")
    assert not world.allows("9.9.9.9", 25)
    assert world.allows("9.9.9.9", 26)
    assert world.allows(GATEWAY, 84)
    assert not world.allows(GATEWAY, 85)


def test_the_gateway_is_the_loopback_at_named_ports_only() -> None:
    world = World(["host:5432/tcp", "public", "10.0.0.0/8", "0.0.0.0/0"])
    verdict = world.egress.judge(packed(GATEWAY), 5432, "tcp")
    assert (verdict.allowed, verdict.target) == (True, packed("127.0.0.1"))
    assert world.egress.judge(packed(GATEWAY6), 5432, "tcp").target == packed("::1")
    assert not world.allows(GATEWAY, 5432, "udp")
    assert not world.allows(GATEWAY, 22)
    world.learn("a.example.org", GATEWAY)
    assert not world.allows(GATEWAY, 22)


def test_public_is_everybody_s_and_ports_hold() -> None:
    world = World(["public:443/tcp"], ["*.evil.example"])
    assert world.allows("8.8.8.8")
    assert world.allows("2600::1")
    assert not world.allows("8.8.8.8", 80)
    assert world.egress.judge_name("any.example.org").allowed
    for name in (
        "localhost",
        "a.localhost",
        "printer.local",
        "metadata.google.internal",
        "nas",
        "1.0.0.10.in-addr.arpa",
        "a.evil.example",
        "10.0.0.1",
        "0x7f.1",
        "a..b",
        "",
    ):
        assert not world.egress.judge_name(name).allowed, name


def test_a_local_zone_is_asked_for_only_where_a_rule_names_it() -> None:
    world = World(["git.internal:443", "*.corp.internal", "nas"])
    assert world.egress.judge_name("git.internal").allowed
    assert world.egress.judge_name("a.corp.internal").allowed
    assert world.egress.judge_name("nas").allowed
    assert not world.egress.judge_name("metadata.internal").allowed


def test_what_was_learned_ends_after_its_time_and_the_grace() -> None:
    world = World(["example.org"])
    world.learn("example.org", "8.8.8.8", ttl=0)
    world.clock.now += module.TTL_MIN + module.GRACE - 1
    assert world.allows("8.8.8.8")
    world.clock.now += 2
    assert not world.allows("8.8.8.8")
    world.learn("example.org", "8.8.8.8", ttl=7200)
    world.clock.now += 7200 + module.GRACE - 1
    assert world.allows("8.8.8.8")


def test_a_denial_ends_when_the_name_is_resolved() -> None:
    world = World(["example.org"])
    for spelling in ("8.8.8.8", "::ffff:8.8.8.8"):
        assert not world.allows(spelling)
    world.learn("example.org", "8.8.8.8")
    for spelling in ("8.8.8.8", "::ffff:8.8.8.8"):
        assert world.allows(spelling)


def test_the_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("ADDRESSES_MAX", "JUDGED_MAX", "NAMES_MAX"):
        monkeypatch.setattr(module, table, 8)
    world = World(["*.example.org", "public"])
    for number in range(100):
        name = f"n{number}.example.org"
        world.learn(name, "9.9.9.9", f"8.8.8.{number}")
        for port in range(1, 5):
            world.allows(f"8.8.8.{number}", port)
            world.egress.judge_name(name)
    held = world.egress
    assert len(held._learned) <= 8
    assert len(held._learned[packed("9.9.9.9")]) <= 8
    assert sum(map(len, held._judged.values())) == held._judged_count <= 8
    assert len(held._judged_names) <= 8
    # What was resolved last is what is still open.
    only = World(["*.example.org"])
    for number in range(100):
        only.learn(f"n{number}.example.org", f"8.8.8.{number}")
    assert only.allows("8.8.8.99")
    assert not only.allows("8.8.8.1")


@given(st.ip_addresses(), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]))
def test_names_and_public_open_nothing_but_public_places(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, protocol: str
) -> None:
    world = World(["example.org", "public"])
    world.learn("example.org", str(address))
    verdict = world.egress.judge(address.packed, port, protocol)
    plain = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    target = (plain or address).packed
    assert verdict.allowed == (special(target) is None)
    assert not verdict.allowed or verdict.target == target
    if address.is_loopback or address.is_link_local or address.is_multicast:
        assert not verdict.allowed


# -- the first bytes


def hello(name: str = "a.example.org", *, split: int = 1 << 14, extra: bytes = b"") -> bytes:
    """A ClientHello that names a host, in records of at most `split` bytes."""
    host = name.encode()
    entry = b"\0" + len(host).to_bytes(2, "big") + host
    listed = len(entry).to_bytes(2, "big") + entry
    extensions = b"\0\0" + len(listed).to_bytes(2, "big") + listed if name else b""
    extensions = b"\x5a\x5a\0\0" + extensions + extra
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    parts = [message[at : at + split] for at in range(0, len(message), split)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def http(host: str = "a.example.org", target: str = "/", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def gate_of(world: World, port: int = 443) -> Callable[[bytes], bool | None]:
    verdict = world.egress.judge(packed("8.8.8.8"), port, "tcp")
    assert verdict.allowed
    found = world.egress.gate(verdict, port)
    assert found is not None
    return found


@pytest.fixture
def checked() -> World:
    world = World(["*.example.org:80-443", "b.example.net:443"], ["no.example.org:443"], sni=True)
    world.learn("a.example.org", "8.8.8.8")
    return world


@pytest.mark.parametrize("whole", [hello(), hello(split=7), http(), http("A.Example.ORG:80")])
def test_a_named_server_is_let_through_at_the_last_byte(checked: World, whole: bytes) -> None:
    gate = gate_of(checked)
    for end in range(len(whole)):
        assert gate(whole[:end]) is None, end
    assert gate(whole) is True
    assert gate(whole + b"whatever follows") is True


SNI_TWICE = b"\0\0\0\x06\0\x04\0\0\x01a"


@pytest.mark.parametrize(
    "first",
    [
        *(
            hello("evil.net"),
            hello(""),
            hello("example.org"),
            hello("127.0.0.1"),
            hello("no.example.org"),
        ),
        *(hello("a.example.org\0.evil.net"), hello(extra=SNI_TWICE), hello("a..example.org")),
        *(
            b"\x16\x02\x00\x00\x05hello",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\0\x01\x02" + hello(),
        ),
        *(hello(split=9)[:14] + b"\x17\x03\x03\0\x01x", b"\x80\x2e\x01\x03\x01"),
        *(http("evil.net"), http("evil.net:80"), http("[::1]"), http("a.example.org:x")),
        *(
            http(more="Host: evil.net\r\n"),
            http(more="host: a.example.org\r\n"),
            http(more="X\r\n"),
        ),
        *(
            http(target="http://evil.net/"),
            http(target="ftp://a.example.org/"),
            http(target="evil.net"),
        ),
        *(
            http(more=" folded: x\r\n"),
            http(more="Host : evil.net\r\n"),
            http(more="a: b\nHost: c\r\n"),
        ),
        *(
            b"GET / HTTP/1.0\r\n\r\n",
            b"CONNECT a.example.org:443 HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
        ),
        *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"get / HTTP/1.1\r\n", b"\0" * 40),
        *(b"A" * module_max for module_max in (64, 16384)),
        *(http(more="A: " + "x" * 17000 + "\r\n"),),
    ],
)
def test_what_names_no_listed_server_ends(checked: World, first: bytes) -> None:
    assert gate_of(checked)(first) is False


def test_an_absolute_target_of_the_same_server(checked: World) -> None:
    assert gate_of(checked)(http(target="http://a.example.org/x?y=http://z/")) is True


def test_another_name_of_the_list_at_the_same_address(checked: World) -> None:
    assert gate_of(checked, 443)(hello("b.example.net")) is True
    assert gate_of(checked, 80)(http("b.example.net")) is False


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: hello()[:60] + tail))
def test_any_first_bytes_get_an_answer(first: bytes) -> None:
    world = World(["a.example.org"], sni=True)
    world.learn("a.example.org", "8.8.8.8")
    assert gate_of(world)(first) in {True, False, None}


def test_the_check_is_for_web_ports_that_only_a_name_opens() -> None:
    world = World(["a.example.org", "9.9.9.9"], sni=True)
    world.learn("a.example.org", "8.8.8.8", "9.9.9.9")
    assert world.egress.gate(world.egress.judge(packed("9.9.9.9"), 443, "tcp"), 443) is None
    assert world.egress.gate(world.egress.judge(packed("8.8.8.8"), 22, "tcp"), 22) is None
    assert world.rule("8.8.8.8", 443, "udp") == "sni"
    assert world.allows("8.8.8.8", 8443, "udp")
    without = World(["a.example.org"])
    without.learn("a.example.org", "8.8.8.8")
    assert without.egress.gate(without.egress.judge(packed("8.8.8.8"), 443, "tcp"), 443) is None


def test_public_with_names_that_are_denied() -> None:
    world = World(["public"], ["*.evil.net"], sni=True)
    gate = gate_of(world)
    assert gate(hello("www.evil.net")) is False
    assert gate(hello("www.example.org")) is True
    assert gate(hello("")) is True
