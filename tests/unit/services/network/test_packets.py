"""Packets: what is built is what the standards say, what is read is believed in nothing."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.services.network.user import packets
from tests.support.fuzzing import examples

V4 = st.binary(min_size=4, max_size=4)
V6 = st.binary(min_size=16, max_size=16)
PAIR = st.one_of(st.tuples(V4, V4), st.tuples(V6, V6))
PORT = st.integers(0, 0xFFFF)
DATA = st.binary(max_size=2000)


def plain_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += bytes(len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def transport_sum(source: bytes, target: bytes, protocol: int, segment: bytes) -> int:
    return plain_sum(source + target + struct.pack("!HH", protocol, len(segment)) + segment)


def split(packet: bytes) -> tuple[int, bytes, bytes, bytes]:
    """protocol, source, target, content of a packet behind its virtio header, all sums checked."""
    datagram = packet[packets.VNET_SIZE :]
    parsed = packets.parse(memoryview(datagram))
    assert parsed is not None
    protocol, source, target, start, end = parsed
    assert end == len(datagram)
    if datagram[0] >> 4 == 4:
        assert plain_sum(datagram[:20]) == 0xFFFF
    return protocol, source, target, datagram[start:end]


@given(DATA)
def test_the_sum_is_that_of_the_standard(data: bytes) -> None:
    assert packets.ones(data) == plain_sum(data) % 0xFFFF
    padded = data + bytes(len(data) & 1)
    assert plain_sum(padded + packets.checksum(data).to_bytes(2, "big")) == 0xFFFF


@given(PAIR, PORT, PORT, DATA)
def test_a_datagram_is_read_as_it_was_built(
    pair: tuple[bytes, bytes], sport: int, dport: int, data: bytes
) -> None:
    whole = packets.udp_header(pair[0], sport, pair[1], dport, len(data)) + data
    protocol, source, target, content = split(whole)
    assert (protocol, source, target) == (packets.UDP, *pair)
    assert struct.unpack_from("!HHH", content) == (sport, dport, len(content))
    # What the kernel does with NEEDS_CSUM: it adds up all from csum_start on, the partial sum of
    # the pseudo header among it.
    flags, _, _, _, start, offset = struct.unpack_from("=BBHHHH", whole)
    assert (flags, offset) == (1, 6)
    assert start == len(whole) - packets.VNET_SIZE - len(content)
    finished = bytearray(content)
    finished[6:8] = (0xFFFF - plain_sum(content)).to_bytes(2, "big")
    assert transport_sum(*pair, packets.UDP, bytes(finished)) == 0xFFFF


def tcp_syn(pair: tuple[bytes, bytes], data: bytes, flags: int = packets.SYN) -> bytes:
    segment = struct.pack("!HHIIBBHHH", 40000, 443, 7, 0, 5 << 4, flags, 1000, 0x1234, 0) + data
    return packets.ip_header(*pair, packets.TCP, len(segment)) + segment


@given(PAIR, DATA)
def test_a_syn_is_completed(pair: tuple[bytes, bytes], data: bytes) -> None:
    view = memoryview(tcp_syn(pair, data))
    parsed = packets.parse(view)
    assert parsed is not None
    whole = packets.whole_syn(view, parsed)
    assert transport_sum(*pair, packets.TCP, whole[parsed[3] :]) == 0xFFFF
    again = memoryview(whole)
    assert packets.is_bare_syn(again, parsed[3], parsed[4])
    assert bytes(view[: parsed[3] + 16]) == whole[: parsed[3] + 16]


@given(PAIR, DATA)
def test_a_reset_answers_exactly_that_syn(pair: tuple[bytes, bytes], data: bytes) -> None:
    syn = tcp_syn(pair, data)
    start = 20 if len(pair[0]) == 4 else 40
    protocol, source, target, segment = split(packets.reset_for(syn, start))
    assert (protocol, source, target) == (packets.TCP, pair[1], pair[0])
    sport, dport, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", segment)
    assert (sport, dport, sequence, offset) == (443, 40000, 0, 5 << 4)
    assert flags == packets.RST | packets.ACK
    assert acknowledged == 8 + len(data)
    assert transport_sum(source, target, packets.TCP, segment) == 0xFFFF


@given(PAIR, DATA)
def test_an_error_quotes_what_it_answers(pair: tuple[bytes, bytes], data: bytes) -> None:
    about = tcp_syn(pair, data)
    sender = bytes(len(pair[0]))
    protocol, source, target, message = split(
        packets.error_for(about, sender, packets.PROHIBITED, 0x01020304)
    )
    assert (source, target) == (sender, pair[0])
    if len(sender) == 4:
        assert (protocol, message[0], message[1]) == (packets.ICMP, 3, 13)
        assert plain_sum(message) == 0xFFFF
    else:
        assert (protocol, message[0], message[1]) == (packets.ICMPV6, 1, 1)
        assert transport_sum(source, target, packets.ICMPV6, message) == 0xFFFF
    assert message[4:8] == b"\1\2\3\4"
    assert about.startswith(message[8:])
    assert len(message[8:]) >= min(len(about), 548)
    # RFC 4443: as much as fits the smallest MTU; RFC 1812: 576 bytes for IPv4.
    assert len(message) + (20 if len(sender) == 4 else 40) <= (576 if len(sender) == 4 else 1280)


@given(PAIR, st.binary(min_size=2, max_size=2), st.binary(min_size=2, max_size=2000))
def test_an_echo_comes_back(pair: tuple[bytes, bytes], number: bytes, rest: bytes) -> None:
    protocol, source, target, message = split(packets.echo_reply(*pair, number, rest))
    assert (source, target) == pair
    assert message[4:] == number + rest
    if len(source) == 4:
        assert (protocol, message[0]) == (packets.ICMP, 0)
        assert plain_sum(message) == 0xFFFF
    else:
        assert (protocol, message[0]) == (packets.ICMPV6, 129)
        assert transport_sum(*pair, packets.ICMPV6, message) == 0xFFFF


def usual(pair: tuple[bytes, bytes], data: bytes) -> list[bytes]:
    return [
        tcp_syn(pair, data),
        packets.udp_header(pair[0], 1, pair[1], 2, len(data))[packets.VNET_SIZE :] + data,
        packets.echo_reply(*pair, b"id", b"sq" + data)[packets.VNET_SIZE :],
    ]


MUTATED = st.builds(
    lambda pair, data, which, cuts: _mutate(usual(pair, data)[which], cuts),
    PAIR,
    DATA,
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
)


def _mutate(packet: bytes, cuts: list[tuple[int, int]]) -> bytes:
    changed = bytearray(packet)
    for place, value in cuts:
        if place < len(changed):
            changed[place] = value
    return bytes(changed[: len(changed) - (cuts[0][1] if len(cuts) > 4 else 0)])


@settings(max_examples=examples(2000), deadline=None)
@given(st.one_of(st.binary(max_size=200), MUTATED))
def test_nothing_points_outside_of_what_came(packet: bytes) -> None:
    parsed = packets.parse(memoryview(packet))
    if parsed is None:
        return
    protocol, source, target, start, end = parsed
    assert 0 <= protocol <= 255
    assert len(source) == len(target) == (4 if packet[0] >> 4 == 4 else 16)
    assert (20 if len(source) == 4 else 40) <= start <= end <= len(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x44" + bytes(40),  # a header of 16 bytes
        b"\x4f\0\0\x30" + bytes(44),  # a header that is longer than the datagram
        b"\x45\0\xff\xff" + bytes(40),  # longer than what came
        b"\x45\0\0\x14" + b"\0\0\x20\0" + bytes(12),  # more fragments follow
        b"\x45\0\0\x14" + b"\0\0\0\1" + bytes(12),  # a later fragment
        b"\x60\0\0\0\xff\xff" + bytes(60),
        b"\x60\0\0\0\0\x08\0" + bytes(33) + b"\x11\xff" + bytes(6),  # options beyond the end
        b"\x75" + bytes(40),
    ],
)
def test_what_makes_no_sense_is_dropped(packet: bytes) -> None:
    assert packets.parse(memoryview(packet)) is None


def test_options_of_ipv6_are_passed_over() -> None:
    udp = struct.pack("!HHHH", 1, 2, 8, 0)
    options = b"\x3c\0" + bytes(6) + b"\x11\1" + bytes(14)
    packet = packets.ip_header(bytes(16), bytes(16), 0, len(options + udp)) + options + udp
    parsed = packets.parse(memoryview(packet))
    assert parsed is not None
    assert (parsed[0], parsed[3], parsed[4]) == (packets.UDP, 64, 72)


def test_groups() -> None:
    assert packets.is_multicast(bytes([224, 0, 0, 251]))
    assert packets.is_multicast(bytes([255] * 4))
    assert packets.is_multicast(b"\xff\2" + bytes(14))
    assert not packets.is_multicast(bytes([223, 255, 255, 255]))
    assert not packets.is_multicast(b"\xfe\x80" + bytes(14))
