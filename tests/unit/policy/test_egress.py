"""What may be written in allow, deny, publish and dns, and what it means."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.policy import egress
from sandbox.policy.egress import (
    canonical,
    canonical_name,
    parse_publish,
    parse_rule,
    parse_upstream,
    special,
    within,
)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.:443", "example.org:443"),
        ("EXAMPLE.org:443/tcp", "example.org:443/tcp"),
        ("*.Example.org:80-90", "*.example.org:80-90"),
        ("example.org:80-80", "example.org:80"),
        ("example.org/udp", "example.org/udp"),
        ("b\u00fccher.example:443", "xn--bcher-kva.example:443"),
        ("b\u00fccher\u3002example", "xn--bcher-kva.example"),
        ("_tcp.example.org", "_tcp.example.org"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:53/udp", "10.1.2.3:53/udp"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:443/tcp", "10.0.0.0/8:443/tcp"),
        ("10.0.0.0/8/icmp", "10.0.0.0/8/icmp"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
        ("[2001:db8::]/32:443/udp", "[2001:db8::]/32:443/udp"),
        ("[2001:db8::/32]:443", "[2001:db8::]/32:443"),
        ("[::]/0", "[::]/0"),
        ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
        ("[::ffff:10.0.0.0]/104", "10.0.0.0/8"),
        ("169.254.169.254:80", "169.254.169.254:80"),
        ("host:5432", "host:5432"),
        ("host:8000-8010/tcp", "host:8000-8010/tcp"),
        ("public", "public"),
        ("public:443/tcp", "public:443/tcp"),
    ],
)
def test_a_rule_has_one_spelling(written: str, text: str) -> None:
    rule = parse_rule(written)
    assert rule.text == text
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("", "such as"),
        ("a b", "spaces"),
        ("a\n", "spaces or control"),
        ("example.org:", "number"),
        ("example.org:0", "1 to 65535"),
        ("example.org:65536", "1 to 65535"),
        ("example.org:080", "1 to 65535"),
        ("example.org:90-80", "lower goes first"),
        ("example.org:80/sctp", "tcp, udp or icmp"),
        ("example.org/tcp:80", "tcp, udp or icmp"),
        ("example.org:80/icmp", "no ports"),
        ("example.org/8", "only an address"),
        ("example.org:443x", "neither"),
        ("*", "first part"),
        ("*.*.example.org", "first part"),
        ("a*.example.org", "first part"),
        ("*.10.0.0.1", "spelling"),
        ("-a.example", "part of one"),
        ("a..example", "part of one"),
        ("a" * 64 + ".example", "part of one"),
        (".".join(["a" * 63] * 4 + ["bc"]), "1 to 253"),
        ("stra\u00dfe.example", "two names"),
        ("a\u200db.example", "control"),
        ("127.1", "write 127.0.0.1"),
        ("0177.0.0.1", "write 127.0.0.1"),
        ("0x7f.1:80", "write 127.0.0.1"),
        ("2130706433", "write 127.0.0.1"),
        ("010.1.2.3", "write 8.1.2.3"),
        ("\uff11\uff10.0.0.1", "write 10.0.0.1"),
        ("1.2.3.4.5", "neither a name nor an address"),
        ("999.1.1.1", "neither a name nor an address"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.0/33", "32 bits"),
        ("[2001:db8::]/129", "0 to 128"),
        ("2001:db8::1", "brackets"),
        ("[10.1.2.3]", "brackets"),
        ("[2001:db8::1", "brackets"),
        ("[fe80::1%eth0]", "not an IPv6"),
        ("[fe80::1]", "link-local"),
        ("127.0.0.1:80", "host:PORT"),
        ("127.0.0.0/8", "host:PORT"),
        ("[::1]:80", "host:PORT"),
        ("[::ffff:127.0.0.1]:80", "host:PORT"),
        ("[64:ff9b::7f00:1]", "loopback"),
        ("[::7f00:1]", "reserved"),
        ("0.0.0.0:80", "unspecified"),
        ("[::]:80", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("localhost:80", "host:PORT"),
        ("a.localhost:80", "host:PORT"),
        ("host", "host:PORT"),
        ("host/udp", "host:PORT"),
        ("*.host", "word of its own"),
        ("*", "nobody's in particular is public"),
        ("all:443", "no name of a host; .* public"),
        ("public/8", "only an address"),
        ("https://example.org/", "is a URL"),
    ],
)
def test_what_is_wrong_is_said(written: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        parse_rule(written)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"[\[\]*.:/a-z0-9-]{1,30}", fullmatch=True))
def test_any_text_is_a_rule_or_an_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError as error:
        told = str(error)
    else:
        assert parse_rule(rule.text) == rule
        assert rule.text.isascii()
        return
    assert told.isprintable()


@given(st.ip_addresses(), st.integers(0, 128), st.integers(1, 65535), st.sampled_from(["", "/tcp"]))
def test_a_network_reads_as_ipaddress_reads_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int, port: int, protocol: str
) -> None:
    bits = min(bits, address.max_prefixlen)
    network = ipaddress.ip_network((address, bits), strict=False)
    shown = str(network.network_address)
    shown = f"[{shown}]" if network.version == 6 else shown
    try:
        rule = parse_rule(f"{shown}/{bits}:{port}{protocol}")
    except ValueError:
        place = special(canonical(network.network_address.packed))
        assert place is not None
        assert not place.open
        return
    found = canonical(address.packed)
    assert within(found, rule.network, rule.bits) or bits < 96
    assert (rule.low, rule.high) == (port, port)


def test_ports_and_protocols_of_a_rule() -> None:
    every, web = parse_rule("example.org"), parse_rule("example.org:443")
    assert every.covers(1, "tcp")
    assert every.covers(65535, "udp")
    assert every.covers(0, "icmp")
    assert web.covers(443, "udp")
    assert not web.covers(444, "tcp")
    assert not web.covers(0, "icmp")
    assert not parse_rule("example.org:443/tcp").covers(443, "udp")
    assert parse_rule("example.org/icmp").covers(0, "icmp")
    assert not parse_rule("example.org/icmp").covers(80, "tcp")
    assert not parse_rule("example.org/udp").covers(0, "icmp")


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("10.0.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("127.1.2.3", "loopback"),
        ("0.0.0.0", "unspecified"),  # noqa: S104
        ("0.1.2.3", "unspecified"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("224.0.0.251", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::10.0.0.1", "reserved"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b:1::1", "private"),
        ("2002:7f00:1::1", "loopback"),
        ("2002:a9fe:a9fe::", "metadata"),
        ("2001::1", "reserved"),
        ("fc00::1", "private"),
        ("fd12::1", "private"),
        ("fe80::1", "link-local"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
    ],
)
def test_places_with_a_use_of_their_own(address: str, word: str) -> None:
    place = special(canonical(packed(address)))
    assert place is not None
    assert place.word == word
    assert within(canonical(packed(address)), place.network, place.bits)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "172.32.0.1", "2600::1", "64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8"],
)
def test_public_places(address: str) -> None:
    assert special(canonical(packed(address))) is None


@given(st.ip_addresses())
def test_what_python_calls_private_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    others = [
        ipaddress.ip_network(text)
        for text in (
            *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
            *("2001:db8::/32", "3fff::/20", "100::/64", "2002::/16"),
        )
    ]
    if any(address.version == net.version and address in net for net in others):
        return
    if address.is_loopback or address.is_link_local or address.is_private or address.is_multicast:
        assert special(canonical(address.packed)) is not None


@given(st.ip_addresses(v=4))
def test_an_address_in_ipv6_is_what_it_is_in_ipv4(address: ipaddress.IPv4Address) -> None:
    plain = special(address.packed)
    for prefix in ("64:ff9b::", "2002::"):
        whole = int(ipaddress.ip_address(prefix))
        whole |= int(address) << (0 if prefix == "64:ff9b::" else 80)
        found = special(whole.to_bytes(16, "big"))
        assert (found and found.word) == (plain and plain.word)
        if found:
            assert within(whole.to_bytes(16, "big"), found.network, found.bits)


def test_names_of_every_spelling() -> None:
    assert canonical_name("WWW.Example.Org.") == "www.example.org"
    assert canonical_name("\uff37ww.example") == "www.example"
    for wrong in ("", ".", "a..b", "1.2.3.4", "a.0x10", "a.1", "a b", "a\0b", "\u2488example.1"):
        with pytest.raises(ValueError, match="is"):
            canonical_name(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", ("127.0.0.1", 8080, 8080, 80, "tcp")),
        ("0:80", ("127.0.0.1", 0, 0, 80, "tcp")),
        ("0.0.0.0:53:5353/udp", ("0.0.0.0", 53, 53, 5353, "udp")),  # noqa: S104
        ("[::1]:8080:80/tcp", ("::1", 8080, 8080, 80, "tcp")),
        ("8000-8003:9000-9003", ("127.0.0.1", 8000, 8003, 9000, "tcp")),
    ],
)
def test_publish(text: str, expected: tuple[str, int, int, int, str]) -> None:
    found = parse_publish(text)
    address = egress.show_address(found.address)
    assert (address, found.low, found.high, found.inner, found.protocol) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", ":80", "8080:", "8080:0", "a:80", "8080:80/icmp", "8080:80/", "1.2.3:1:2"),
        *("::1:8080:80", "[::1]8080:80", "[127.0.0.1]:1:2", "host:1:2", "1-3:5-6", "0-3:5-8"),
        *("65536:1", "1-2000:1-2000", "08:80", "[::1:8080:80", "3-1:3-1", "8080:80:"),
    ],
)
def test_publish_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_publish(text)


@given(st.text(max_size=30) | st.from_regex(r"[\[\]:0-9a-f./-]{1,30}", fullmatch=True))
def test_any_text_is_a_publication_or_an_error(text: str) -> None:
    for parse in (parse_publish, parse_upstream):
        try:
            parse(text)
        except ValueError as error:
            told = str(error)
        else:
            continue
        assert told


def test_upstream() -> None:
    assert parse_upstream("192.0.2.53") == ("192.0.2.53", 53)
    assert parse_upstream("192.0.2.53:5353") == ("192.0.2.53", 5353)
    assert parse_upstream("[2001:db8::53]:54") == ("2001:db8::53", 54)
    assert parse_upstream("2001:db8::53") == ("2001:db8::53", 53)
    for wrong in ("example.org", "192.0.2.53/32", "192.0.2.53:1-2", "1.1", "", "1.1.1.1/udp"):
        with pytest.raises(ValueError, match=r"\S"):
            parse_upstream(wrong)


def test_the_kernel_reads_addresses_the_same_way() -> None:
    assert egress.show_address(socket.inet_aton("127.1")) == "127.0.0.1"
