"""A sandbox that sends whatever it likes: nothing is raised, and no table outgrows its bound."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.services.network.user import icmp, packets
from sandbox.services.network.user.account import Account
from sandbox.services.network.user.dns_tcp_server import TcpServer
from sandbox.services.network.user.icmp import Icmp
from sandbox.services.network.user.loop import Loop
from sandbox.services.network.user.relay import Hub
from sandbox.services.network.user.setting import Limits, Setting, Site
from sandbox.services.network.user.tcp import Tcp
from sandbox.services.network.user.tun import Tun
from sandbox.services.network.user.udp import Udp
from tests.support.fuzzing import examples
from tests.support.netparts import Echo, Listed
from tests.support.netspace import addresses

SITE = Site(*addresses())
FLOWS = 16


class Net:
    """All parts in this process, with a pair of sockets in place of the TUN."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.sandbox, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sandbox.setblocking(False)
        for sock in (self.sandbox, ours):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.account = Account(rows=32)
        limits = Limits({"connections": 16, "pending": 16, "flows": FLOWS}, 4096)
        egress = Listed(SITE, (f"gateway:{self.port}",))
        setting = Setting(self.loop, SITE, egress, self.account, limits)
        resolver = Echo(self.loop)
        self.ours = ours
        self.tun = Tun(self.loop, ours.fileno())
        self.tcp = Tcp(setting, Hub(self.loop, 2, 16), TcpServer(self.loop, resolver).serve)
        self.tcp.start(self.tun, [], {})
        self.udp = Udp(setting, self.tun, resolver)
        self.icmp = Icmp(setting, self.tun)
        self.tun.start()

    def feed(self, some: list[bytes]) -> list[bytes]:
        """Let packets come out of the sandbox, and return what went in."""
        for packet in some:
            self.sandbox.send(packet)
        self.loop.later(0, self.loop.stop)
        self.loop.run()
        found = []
        while True:
            try:
                found.append(self.sandbox.recv(1 << 17))
            except BlockingIOError:
                return found


def made_net() -> Iterator[Net]:
    made = Net()
    yield made
    made.udp.close()
    made.icmp.close()
    made.loop.close()
    made.sandbox.close()
    made.ours.close()
    made.server.close()


fuzzed = pytest.fixture(scope="module")(made_net)
net = pytest.fixture()(made_net)


ADDRESS4 = st.sampled_from([SITE.gateway4, SITE.dns4, SITE.sandbox4, bytes(4), b"\xff" * 4])
ADDRESS6 = st.sampled_from([SITE.gateway6, SITE.dns6, SITE.sandbox6, bytes(16), b"\xff" * 16])
PAIRS = st.one_of(
    st.tuples(st.one_of(ADDRESS4, st.binary(min_size=4, max_size=4)), ADDRESS4),
    st.tuples(st.one_of(ADDRESS6, st.binary(min_size=16, max_size=16)), ADDRESS6),
)
PROTOCOLS = st.sampled_from([0, 1, 6, 17, 44, 58, 60, 132, 255])
# The port of the test's own server is the only one that is open.
PORTS = st.sampled_from([0, 1, 53, 65535])


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Something between noise and a sound packet."""
    pair = draw(PAIRS)
    ports = struct.pack("!HH", draw(st.integers(0, 65535)), draw(PORTS))
    rest = draw(st.binary(max_size=100))
    if draw(st.booleans()):
        rest = struct.pack("!IIBB", 1, 0, 0x50, 2) + rest
    content = ports + rest
    whole = bytearray(packets.ip_header(*pair, draw(PROTOCOLS), len(content)) + content)
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=3)
    ):
        # Addresses stay: the fuzzer must reach nobody else.
        if place < len(whole) and not (12 <= place < 20 or 24 <= place < 40):
            whole[place] = value
    head = draw(st.sampled_from([packets.PLAIN, packets.NEEDS_CSUM_UDP4, b"\xff" * 10]))
    return head + bytes(whole)


@pytest.mark.fuzz
@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.one_of(hostile(), st.binary(min_size=1, max_size=300)), max_size=20))
def test_noise(fuzzed: Net, some: list[bytes]) -> None:
    for packet in fuzzed.feed(some):
        assert packets.parse(memoryview(packet)[packets.VNET_SIZE :]) is not None
    assert len(fuzzed.account.as_dict()["denied"]) <= 32


def datagram(source: int, port: int, data: bytes = b"x") -> bytes:
    header = packets.udp_header(SITE.sandbox4, source, SITE.gateway4, port, len(data))
    return header + data


def drain(server: socket.socket) -> None:
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.recv(100)
    server.settimeout(10)


def test_a_scan_of_ports_keeps_few_flows(net: Net) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for first in range(1, 2000, 50):
        net.feed([datagram(number, net.port) for number in range(first, first + 50)])
    assert len(os.listdir("/proc/self/fd")) - before <= FLOWS
    assert net.account.as_dict()["dropped"]["flows"] > 0
    # The newest flow still works.
    drain(net.server)
    net.feed([datagram(3000, net.port, b"still here")])
    data, peer = net.server.recvfrom(100)
    assert data == b"still here"
    net.server.sendto(b"answer", peer)
    answers = net.feed([])
    assert [packet[-6:] for packet in answers] == [b"answer"]


def test_a_denied_datagram_is_told_once_each(net: Net) -> None:
    answers = net.feed([datagram(5, 9) for _ in range(10)])
    assert len(answers) == 10
    rows = [row for row in net.account.as_dict()["denied"] if row["port"] == 9]
    assert rows[0]["count"] == 10


def test_a_short_length_in_the_header_cuts_the_datagram(net: Net) -> None:
    packet = bytearray(datagram(4000, net.port, b"secret tail"))
    packet[packets.VNET_SIZE + 24 : packets.VNET_SIZE + 26] = (8 + 6).to_bytes(2, "big")
    net.feed([bytes(packet)])
    net.server.settimeout(10)
    assert net.server.recv(100) == b"secret"
    packet[packets.VNET_SIZE + 24 : packets.VNET_SIZE + 26] = (3).to_bytes(2, "big")
    net.feed([bytes(packet)])
    net.server.setblocking(False)
    with pytest.raises(BlockingIOError):
        net.server.recv(100)


def test_an_echo_request_without_a_watch_is_refused(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket for datagrams stands in for one that few users may have."""
    monkeypatch.setattr(icmp, "socket", lambda family, kind, _: socket.socket(family, kind))
    monkeypatch.setattr(net.icmp._setting, "egress", Listed(SITE, ("*",)))
    before = len(os.listdir("/proc/self/fd"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    request = bytearray(packets.echo_reply(SITE.sandbox4, b"\x7f\0\0\2", b"id", b"\0\1"))
    request[packets.VNET_SIZE + 20] = icmp.REQUEST4
    with monkeypatch.context() as patch:
        patch.setattr(net.loop, "watch", full)
        answers = net.feed([bytes(request)])
    assert [packet[packets.VNET_SIZE + 20] for packet in answers] == [3]
    assert len(os.listdir("/proc/self/fd")) == before
