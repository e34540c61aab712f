"""Datagrams in pieces: whole again in any order, and never more than a few kept."""

import itertools
import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from sandbox.services.network.user import packets
from sandbox.services.network.user.fragments import DATAGRAMS, Fragments

PAIRS = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


def cut(pair: tuple[bytes, bytes], number: int, data: bytes, at: list[int]) -> list[bytes]:
    """`data` of a UDP datagram as fragments, cut at multiples of 8."""
    places = sorted({0, len(data), *(place * 8 for place in at if place * 8 < len(data))})
    found = []
    for start, end in itertools.pairwise(places):
        part, more = data[start:end], end < len(data)
        if len(pair[0]) == 4:
            header = bytearray(packets.ip_header(*pair, packets.UDP, len(part)))
            header[4:6] = struct.pack("!H", number)
            header[6:8] = struct.pack("!H", more << 13 | start >> 3)
            found.append(bytes(header) + part)
        else:
            head = struct.pack("!BBHI", packets.UDP, 0, start | more, number)
            found.append(packets.ip_header(*pair, 44, 8 + len(part)) + head + part)
    return found


@given(
    PAIRS,
    st.binary(min_size=9, max_size=3000),
    st.lists(st.integers(1, 370), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_pieces_in_any_order(
    pair: tuple[bytes, bytes], data: bytes, at: list[int], order: random.Random
) -> None:
    pieces = cut(pair, 7, data, [1, *at])
    order.shuffle(pieces)
    fragments = Fragments()
    found = [fragments.add(memoryview(piece), 0.0) for piece in pieces]
    assert found[:-1] == [None] * (len(pieces) - 1)
    whole = found[-1]
    assert whole is not None
    parsed = packets.parse(memoryview(whole))
    assert parsed is not None
    assert parsed[:3] == (packets.UDP, *pair)
    assert whole[parsed[3] :] == data


PAIR = bytes(4), b"\1" * 4


def test_pieces_of_different_datagrams_are_not_mixed() -> None:
    fragments = Fragments()
    one, other = cut(PAIR, 1, b"a" * 20, [1]), cut(PAIR, 2, b"b" * 20, [1])
    assert fragments.add(memoryview(one[0]), 0.0) is None
    assert fragments.add(memoryview(other[1]), 0.0) is None
    whole = fragments.add(memoryview(one[1]), 0.0)
    assert whole is not None
    assert whole[20:] == b"a" * 20


def test_pieces_that_overlap_spoil_the_datagram() -> None:
    fragments = Fragments()
    for piece in (cut(PAIR, 1, bytes(40), [2])[0], *cut(PAIR, 1, b"x" * 40, [1])):
        assert fragments.add(memoryview(piece), 0.0) is None


def test_old_pieces_are_forgotten() -> None:
    fragments = Fragments()
    first, last = cut(PAIR, 1, b"a" * 20, [1])
    assert fragments.add(memoryview(first), 0.0) is None
    assert fragments.add(memoryview(last), 60.0) is None


def test_few_are_kept() -> None:
    fragments = Fragments()
    for number in range(1000):
        assert fragments.add(memoryview(cut(PAIR, number, bytes(60_000), [7000])[0]), 0.0) is None
    assert len(fragments._open) <= DATAGRAMS
    # The same first piece again and again, and one that goes beyond what IP can hold.
    for _ in range(1000):
        fragments.add(memoryview(cut(PAIR, 1, bytes(60_000), [7000])[0]), 0.0)
    assert sum(known.size for known in fragments._open.values()) <= DATAGRAMS * 0xFFFF
