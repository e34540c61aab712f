"""Datagrams that follow each other: together through the kernel, and apart again as they were."""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.services.network.user import packets
from sandbox.services.network.user.tun import Tun
from tests.support.fuzzing import examples
from tests.unit.services.network.test_hostile import SITE, Net, made_net

UDP_GRO, SO_NO_CHECK = 104, 11
GSO_UDP_L4 = 5
START = packets.VNET_SIZE + 28

shared = pytest.fixture(scope="module")(made_net)


@pytest.fixture
def net() -> Iterator[Net]:
    yield from made_net()


def numbered(sizes: list[int]) -> list[bytes]:
    """Contents that can be told from each other."""
    return [bytes([number % 256]) * size for number, size in enumerate(sizes)]


def out(net: Net, contents: list[bytes], source: int = 1000) -> list[bytes]:
    """Send datagrams out of the sandbox in one round."""
    header = packets.udp_header
    address = (SITE.sandbox4, source, SITE.gateway4, net.port)
    return net.feed([header(*address, len(content)) + content for content in contents])


def received(server: socket.socket) -> list[bytes]:
    """What has come to the host's server."""
    found = []
    server.setblocking(False)
    try:
        while True:
            found.append(server.recv(1 << 16))
    except BlockingIOError:
        return found


def together(server: socket.socket) -> list[tuple[bytes, int]]:
    """The same with what came as one and, for that, the size of each."""
    server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    server.setblocking(False)
    found = []
    try:
        while True:
            data, told, _, _ = server.recvmsg(1 << 16, 100)
            found.append((data, struct.unpack("i", told[0][2])[0] if told else 0))
    except BlockingIOError:
        return found


def apart(packet: bytes) -> list[bytes]:
    """The datagrams of a packet for the sandbox, cut up as its kernel does."""
    flags, kind, length, each, begin, field = struct.unpack_from("=BBHHHH", packet)
    assert (flags, begin, field) == (1, 20, 6)
    parsed = packets.parse(memoryview(packet)[packets.VNET_SIZE :])
    assert parsed is not None
    assert parsed[4] == len(packet) - packets.VNET_SIZE
    assert int.from_bytes(packet[START - 4 : START - 2], "big") == len(packet) - START + 8
    content = packet[START:]
    if kind == 0:
        return [content]
    assert (kind, length) == (GSO_UDP_L4, 28)
    assert 0 < each < len(content)
    return [content[at : at + each] for at in range(0, len(content), each)]


def peer_of(net: Net) -> tuple[str, int]:
    """Where the host's server finds the flow of the sandbox, which begins with this."""
    out(net, [b"hello"])
    peer: tuple[str, int] = net.server.recvfrom(100)[1]
    return peer


def test_datagrams_of_one_size_go_out_by_one_call(net: Net) -> None:
    out(net, [b"first"])
    contents = numbered([100] * 5 + [40, 100, 100, 300])
    assert received(net.server) == [b"first"]
    net.server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    out(net, contents)
    assert together(net.server) == [
        (b"".join(contents[:6]), 100),
        (b"".join(contents[6:8]), 100),
        (contents[8], 0),
    ]
    (row,) = net.account.as_dict()["destinations"]
    assert row["sent_bytes"] == 5 + sum(map(len, contents))


def test_each_flow_gets_its_own(net: Net) -> None:
    header = packets.udp_header
    sent = [
        header(SITE.sandbox4, 1000 + number % 2, SITE.gateway4, net.port, 10) + b"%010d" % number
        for number in range(20)
    ]
    net.feed(sent[:2])
    net.feed(sent[2:])
    assert sorted(received(net.server)) == [b"%010d" % number for number in range(20)]


SIZES = st.lists(
    st.one_of(st.sampled_from([0, 1, 100, 100, 100, 1400, 1400, 65507]), st.integers(0, 2000)),
    min_size=1,
    max_size=40,
)
many = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fitting(sizes: list[int]) -> list[int]:
    """As many of them as sockets hold that nobody reads meanwhile."""
    while sum(sizes) + 800 * len(sizes) > 150_000:
        sizes.pop()
    return sizes


@pytest.mark.fuzz
@many
@given(SIZES)
def test_all_come_out_as_they_were_sent(shared: Net, sizes: list[int]) -> None:
    contents = numbered(fitting(sizes))
    assert out(shared, contents) == []
    assert received(shared.server) == contents


@pytest.mark.fuzz
@many
@given(SIZES)
def test_all_come_in_as_they_were_sent(shared: Net, sizes: list[int]) -> None:
    shared.server.setblocking(True)
    peer = peer_of(shared)
    contents = numbered(fitting(sizes))
    for content in contents:
        shared.server.sendto(content, peer)
    found = shared.feed([])
    assert [content for packet in found for content in apart(packet)] == contents


def test_datagrams_of_one_size_come_in_by_one_packet(net: Net) -> None:
    peer = peer_of(net)
    contents = numbered([100] * 5 + [40, 1400, 1400])
    for content in contents:
        net.server.sendto(content, peer)
    found = net.feed([])
    assert [apart(packet) for packet in found] == [contents[:6], contents[6:]]
    (row,) = net.account.as_dict()["destinations"]
    assert row["received_bytes"] == sum(map(len, contents))


def test_a_kernel_that_does_not_cut_gets_them_one_by_one(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refused(_: Tun, packet: memoryview) -> bool:
        calls.append(bytes(packet))
        return False

    monkeypatch.setattr(Tun, "send_segments", refused)
    peer = peer_of(net)
    contents = numbered([100] * 5 + [40])
    for _ in range(2):
        for content in contents:
            net.server.sendto(content, peer)
        found = net.feed([])
        assert [apart(packet) for packet in found] == [[content] for content in contents]
    assert len(calls) == 1


def test_a_way_out_that_cannot_cut_gets_them_one_by_one(net: Net) -> None:
    out(net, [b"first"])
    (flow,) = net.udp._flows.values()
    # The kernel refuses to part datagrams that are to have no sum.
    flow.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    contents = numbered([100] * 5)
    assert out(net, contents) == []
    assert flow.alone
    assert received(net.server) == [b"first", *contents]
    net.server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    out(net, contents)
    assert together(net.server) == [(content, 0) for content in contents]


def test_a_closed_port_is_told_and_the_flow_goes_on_together(net: Net) -> None:
    out(net, [b"first"])
    (flow,) = net.udp._flows.values()
    net.server.close()
    found = out(net, numbered([100] * 5))
    found += out(net, numbered([100] * 5))
    kinds = {(packet[packets.VNET_SIZE + 20], packet[packets.VNET_SIZE + 21]) for packet in found}
    assert kinds == {packets.NO_PORT[0]}
    # What is quoted is of this flow, so that the sandbox's kernel finds the socket.
    quoted = packets.parse(memoryview(found[-1])[packets.VNET_SIZE + 28 :])
    assert quoted is not None
    assert quoted[1:3] == (SITE.sandbox4, SITE.gateway4)
    assert not flow.alone
