"""TCP out of a sandbox: what its programs see is what the host's network does."""

import contextlib
import errno
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from sandbox.services.network.user import packets
from tests.support.netspace import (
    DNS4,
    DNS6,
    GATEWAY4,
    GATEWAY6,
    LISTEN4,
    LISTEN6,
    SANDBOX4,
    SANDBOX6,
    Space,
    space,
)

GATEWAY = {False: GATEWAY4, True: GATEWAY6}
LOOPBACK = {False: "127.0.0.1", True: "::1"}
LOST4, LOST6 = "198.51.100.9", "2001:db8::9"
LINGER_NONE = struct.pack("ii", 1, 0)

both = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    """A test holds both ends of a thousand connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def net() -> Iterator[Space]:
    allow = ("gateway", "198.51.100.1>224.0.0.1", "2001:db8::1>ff02::1")
    with space(allow) as made:
        yield made


def listener(six: bool, backlog: int = 1000) -> socket.socket:
    """A server on the host's loopback."""
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    made.settimeout(20)
    made.bind((LOOPBACK[six], 0))
    made.listen(backlog)
    return made


def pair(net: Space, six: bool) -> tuple[socket.socket, socket.socket]:
    """A connection: the sandbox's end and the host's."""
    with listener(six) as server:
        inner = net.tcp(six)
        inner.connect((GATEWAY[six], server.getsockname()[1]))
        outer = server.accept()[0]
    outer.settimeout(20)
    return inner, outer


def assert_reset(sock: socket.socket, place: tuple[str, int]) -> None:
    """A connection is accepted and reset, which connect(2) may see already."""
    with contextlib.suppress(ConnectionResetError):
        sock.connect(place)
        sock.recv(1)
        raise AssertionError("the connection was not reset")


def receive_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@both
def test_addresses_are_those_that_the_program_asked_for(net: Space, six: bool) -> None:
    inner, outer = pair(net, six)
    with inner, outer:
        assert inner.getsockname()[0] == (SANDBOX6 if six else SANDBOX4)
        assert inner.getpeername()[0] == GATEWAY[six]
        assert outer.getpeername()[0] == LOOPBACK[six]


@both
def test_refused(net: Space, six: bool) -> None:
    with listener(six) as server:
        port = server.getsockname()[1]
    with net.tcp(six) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((GATEWAY[six], port))


@both
def test_denied_at_once(net: Space, six: bool) -> None:
    with net.tcp(six) as sock:
        wanted = errno.EACCES if six else errno.EHOSTUNREACH
        assert sock.connect_ex((LOST6 if six else "198.51.100.77", 443)) == wanted
    place = LOST6 if six else "198.51.100.77"
    found = net.wait_account(lambda a: any(row["address"] == place for row in a["denied"]))
    (row,) = [row for row in found["denied"] if row["address"] == place]
    assert row | {"count": 0} == {
        "protocol": "tcp",
        "address": place,
        "port": 443,
        "name": "",
        "rule": "not listed",
        "count": 0,
    }


@both
def test_unreachable(net: Space, six: bool) -> None:
    # The stand-in leads to a group, which connect(2) refuses for TCP.
    with net.tcp(six) as sock:
        failure = sock.connect_ex(("2001:db8::1" if six else "198.51.100.1", 443))
    assert failure in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES)
    assert failure == errno.ENETUNREACH


@both
def test_a_black_hole_is_silence(net: Space, six: bool) -> None:
    with listener(six, backlog=0) as server:
        port = server.getsockname()[1]
        full = []
        for _ in range(4):
            filler = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
            filler.setblocking(False)
            filler.connect_ex((LOOPBACK[six], port))
            full.append(filler)
        with net.tcp(six) as sock:
            sock.settimeout(0.6)
            with pytest.raises(TimeoutError):
                sock.connect((GATEWAY[six], port))
        for filler in full:
            filler.close()


@both
def test_epoll_before_connect(net: Space, six: bool) -> None:
    for refused in (False, True):
        server = listener(six)
        port = server.getsockname()[1]
        if refused:
            server.close()
        with net.tcp(six) as sock, select.epoll() as epoll:
            sock.setblocking(False)
            epoll.register(sock, select.EPOLLOUT)
            assert sock.connect_ex((GATEWAY[six], port)) == errno.EINPROGRESS
            end = time.monotonic() + 20
            while True:
                ((_, mask),) = epoll.poll(20)
                # A socket that was never connected reports EPOLLHUP at first.
                failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failure or not mask & select.EPOLLHUP:
                    break
                assert time.monotonic() < end
            assert failure == (errno.ECONNREFUSED if refused else 0)
        server.close()


@both
def test_the_server_speaks_first(net: Space, six: bool) -> None:
    with listener(six) as server, net.tcp(six) as inner:
        inner.connect((GATEWAY[six], server.getsockname()[1]))
        with server.accept()[0] as outer:
            outer.sendall(b"220 ready")
            assert inner.recv(100) == b"220 ready"


@both
@pytest.mark.parametrize("outward", [True, False], ids=["up", "down"])
def test_half_close_and_long_transfers(net: Space, six: bool, outward: bool) -> None:
    inner, outer = pair(net, six)
    source, target = (inner, outer) if outward else (outer, inner)
    data = os.urandom(1 << 20) * 24
    with inner, outer:

        def send() -> None:
            source.sendall(data)
            source.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        assert receive_all(target) == data
        thread.join()
        # The other direction still goes, and ends by itself.
        target.sendall(b"answer")
        target.shutdown(socket.SHUT_WR)
        assert receive_all(source) == b"answer"


@both
@pytest.mark.parametrize("outward", [True, False], ids=["up", "down"])
def test_a_reset_arrives_as_a_reset(net: Space, six: bool, outward: bool) -> None:
    inner, outer = pair(net, six)
    source, target = (inner, outer) if outward else (outer, inner)
    with inner, outer:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        source.close()
        with pytest.raises(ConnectionResetError):
            target.recv(1)


@both
@pytest.mark.parametrize("outward", [True, False], ids=["up", "down"])
def test_a_reset_after_the_end_of_one_direction(net: Space, six: bool, outward: bool) -> None:
    inner, outer = pair(net, six)
    source, target = (inner, outer) if outward else (outer, inner)
    with inner, outer:
        source.sendall(b"last words")
        source.shutdown(socket.SHUT_WR)
        assert receive_all(target) == b"last words"
        source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        source.close()
        poll = select.poll()
        poll.register(target, select.POLLERR)
        assert poll.poll(20_000)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            target.sendall(b"x")


@both
def test_a_slow_reader_holds_the_writer_back(net: Space, six: bool) -> None:
    inner, outer = pair(net, six)
    with inner, outer:
        inner.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 30:
                sent += inner.send(bytes(1 << 20))
        assert sent < 1 << 30
        assert net.rss_mib() < 25
        inner.shutdown(socket.SHUT_WR)
        assert len(receive_all(outer)) == sent


def test_a_thousand_idle_connections(net: Space) -> None:
    with listener(False) as server:
        port = server.getsockname()[1]
        ends = []
        for number in range(1000):
            inner = net.tcp()
            inner.connect((GATEWAY4, port))
            outer = server.accept()[0]
            ends.append((inner, outer, b"%d" % number))
    for inner, _, text in ends:
        inner.sendall(text)
    for inner, outer, text in ends:
        assert outer.recv(10) == text
        outer.sendall(text)
        assert inner.recv(10) == text
    assert net.rss_mib() < 25
    for inner, outer, _ in ends:
        inner.close()
        assert outer.recv(1) == b""
        outer.close()


def test_more_bulk_connections_than_there_may_be_pipes(net: Space) -> None:
    ends = [pair(net, bool(number & 1)) for number in range(80)]
    data = os.urandom(1 << 20)
    for sock in [sock for both_ends in ends for sock in both_ends]:
        sock.setblocking(False)
    left = {inner.fileno(): (inner, memoryview(data * 3)) for inner, _ in ends}
    got = {outer.fileno(): (outer, bytearray()) for _, outer in ends}
    epoll = select.epoll()
    for inner, _ in ends:
        epoll.register(inner, select.EPOLLOUT)
    for _, outer in ends:
        epoll.register(outer, select.EPOLLIN)
    open_ends = len(ends)
    while open_ends:
        events = epoll.poll(20)
        assert events
        for fd, _ in events:
            if fd in left:
                sock, rest = left[fd]
                rest = rest[sock.send(rest) :]
                left[fd] = sock, rest
                if not rest:
                    epoll.unregister(fd)
                    sock.shutdown(socket.SHUT_WR)
            else:
                sock, kept = got[fd]
                part = sock.recv(1 << 18)
                kept += part
                if not part:
                    epoll.unregister(fd)
                    open_ends -= 1
    assert all(bytes(kept) == data * 3 for _, kept in got.values())
    assert net.rss_mib() < 25
    for both_ends in ends:
        for sock in both_ends:
            sock.close()


def test_many_short_connections(net: Space) -> None:
    count = 2000
    with listener(False) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            for _ in range(count):
                with server.accept()[0] as outer:
                    outer.sendall(outer.recv(10))

        thread = threading.Thread(target=answer)
        thread.start()
        for number in range(count):
            with net.tcp() as inner:
                inner.connect((GATEWAY4, port))
                inner.sendall(b"%d" % number)
                assert inner.recv(10) == b"%d" % number
        thread.join()


def test_urgent_data_are_lost_and_nothing_else(net: Space) -> None:
    inner, outer = pair(net, six=False)
    with inner, outer:
        inner.sendall(b"before")
        inner.send(b"!", socket.MSG_OOB)
        inner.sendall(b"after")
        inner.shutdown(socket.SHUT_WR)
        assert receive_all(outer) == b"beforeafter"


@both
def test_the_sandbox_own_servers_are_not_touched(net: Space, six: bool) -> None:
    for place in (LOOPBACK[six], SANDBOX6 if six else SANDBOX4):
        with net.tcp(six) as server, net.tcp(six) as client:
            server.bind((place, 0))
            server.listen()
            client.connect(server.getsockname()[:2])
            with server.accept()[0] as taken:
                taken.sendall(b"own")
                assert client.recv(10) == b"own"


@both
def test_who_connects_to_the_listener_itself_is_reset(net: Space, six: bool) -> None:
    with net.tcp(six) as sock:
        assert_reset(sock, (LISTEN6 if six else LISTEN4, 1))


def test_the_first_bytes_can_be_judged() -> None:
    with space(("sni/gateway",)) as gated, listener(False) as server:
        port = server.getsockname()[1]
        for said, passes in ((b"hello world", True), (b"other words", False)):
            with gated.tcp() as inner:
                inner.connect((GATEWAY4, port))
                outer = server.accept()[0]
                inner.sendall(said[:3])
                outer.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    outer.recv(1)
                outer.settimeout(20)
                inner.sendall(said[3:])
                if passes:
                    assert outer.recv(100) == said
                else:
                    with pytest.raises(ConnectionResetError):
                        outer.recv(1)
                    with pytest.raises(ConnectionResetError):
                        inner.recv(1)
                outer.close()
        denied = gated.wait_account(lambda account: account["denied"])["denied"]
        assert [(row["address"], row["count"]) for row in denied] == [(GATEWAY4, 1)]


@both
def test_questions_over_tcp(net: Space, six: bool) -> None:
    with net.tcp(six) as sock:
        sock.connect((DNS6 if six else DNS4, 53))
        sock.sendall(b"\0\5first\0\5la")
        assert sock.recv(100) == b"\0\x0cstream first"
        sock.sendall(b"ter\0")
        assert sock.recv(100) == b"\0\3now"
        sock.sendall(b"\4last")
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == b"\0\x0bstream last"


def test_a_program_of_the_sandbox_that_ends_leaves_the_server_an_end(net: Space) -> None:
    with listener(False) as server:
        done = net.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/{GATEWAY4}/{server.getsockname()[1]}; echo hi >&3"]
        )
        assert done.returncode == 0, done.stderr
        with server.accept()[0] as outer:
            assert receive_all(outer) == b"hi\n"


def test_without_a_tun_connections_are_accepted_first() -> None:
    with space(("gateway",), tun=False) as net, listener(False) as server, net.tcp() as inner:
        inner.connect((GATEWAY4, server.getsockname()[1]))
        inner.sendall(b"x")
        with server.accept()[0] as outer:
            assert outer.recv(1) == b"x"
        for place in ((GATEWAY4, 1), (LOST4, 443)):
            with net.tcp() as refused:
                assert_reset(refused, place)
        with net.udp() as names:
            names.sendto(b"who", (DNS4, 53))
            assert names.recv(100) == b"datagram who"


@both
def test_a_segment_whose_socket_is_not_found_is_not_reset(six: bool) -> None:
    """As happens while the kernel exchanges a request for the connection: it is sent again."""
    with space() as net:
        family, source, target = (
            (socket.AF_INET6, SANDBOX6, GATEWAY6) if six else (socket.AF_INET, SANDBOX4, GATEWAY4)
        )
        own, other = (socket.inet_pton(family, text) for text in (source, target))

        def resets() -> int:
            names, counts = (
                line.split()
                for line in net.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
                if line.startswith("Tcp:")
            )
            return int(counts[names.index("OutRsts")])

        with net.make(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.bind((source, 0))
            for flags, answers in (
                (packets.ACK, 0),
                (packets.ACK | 1, 0),
                (packets.SYN | packets.ACK, 1),
            ):
                segment = bytearray(struct.pack("!HHIIBBHHH", 999, 9, 1, 1, 5 << 4, flags, 9, 0, 0))
                total = packets.ones(segment) + packets.pseudo(own, other, packets.TCP, 20)
                segment[16:18] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
                before = resets()
                raw.sendto(segment, (target, 0))
                assert resets() - before == answers
