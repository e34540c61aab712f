"""Messages to the kernel: lengths, padding, numbers, and what comes back."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.linux import netlink, nftables

ADDRESS = bytes([10, 0, 2, 100])


def test_an_address_message_byte_for_byte() -> None:
    assert netlink.add_address(5, ADDRESS, 24).hex(" ", 4) == (
        "28000000 14000506 00000000 00000000 02180000 05000000 08000200 0a000264 08000100 0a000264"
    )


def test_an_ipv6_address_is_usable_at_once() -> None:
    flags = netlink.add_address(5, bytes(15) + b"\x01", 64)[18]
    assert flags == 0x02  # IFA_F_NODAD


@given(st.binary(max_size=9), st.integers(1, 0x3FFF))
def test_attributes_are_padded_and_read_back(value: bytes, kind: int) -> None:
    made = netlink.attribute(kind, value)
    assert len(made) % 4 == 0
    assert netlink.attributes(made + netlink.u32(kind ^ 1, 7)) == {
        kind: value,
        kind ^ 1: struct.pack("=I", 7),
    }


def test_messages_are_numbered_and_their_answers_counted() -> None:
    batch = nftables.transaction(nftables.table(nftables.INET, "t"), nftables.table(2, "other"))
    joined = netlink.numbered(batch)
    assert [number for _, number, _ in netlink.split(joined)] == [1, 2, 3, 4]
    assert netlink.acknowledged(joined) == 2  # the marks of the batch get no answer


def odd(head: str, size: int) -> st.SearchStrategy[bytes]:
    """Parts one after the other that begin with their length, which may be wrong."""
    part = st.builds(
        lambda body, wrong, kind: struct.pack(head, max(0, size + len(body) + wrong), kind) + body,
        st.binary(max_size=12),
        st.one_of(st.just(0), st.integers(-30, 30)),
        st.integers(0, 9),
    )
    return st.lists(part, max_size=5).map(b"".join)


@given(odd("=HH", 4))
def test_any_attributes_can_be_taken_apart(data: bytes) -> None:
    for kind, value in netlink.attributes(data).items():
        found = (struct.pack("=HH", 4 + len(value), kind | flags << 14) for flags in range(4))
        assert any(head + value in data for head in found)


@given(odd("=IH10x", 16))
def test_any_messages_can_be_taken_apart(data: bytes) -> None:
    for kind, _, body in netlink.split(data):
        assert struct.pack("=IH10x", 16 + len(body), kind) + body in data


def test_the_kernels_reason_is_kept() -> None:
    refused = struct.pack("=i", -17) + bytes(16) + netlink.text(1, "address already there")
    with pytest.raises(FileExistsError) as caught:
        netlink._check(refused)
    assert caught.value.filename == "address already there"
    netlink._check(bytes(20))
