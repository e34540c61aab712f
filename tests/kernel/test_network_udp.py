"""Datagrams, echo requests and other packets out of a sandbox."""

import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.netspace import (
    DNS4,
    DNS6,
    GATEWAY4,
    GATEWAY6,
    SANDBOX4,
    SANDBOX6,
    Space,
    space,
)

GATEWAY = {False: GATEWAY4, True: GATEWAY6}
LOOPBACK = {False: "127.0.0.1", True: "::1"}
DENIED = {False: ("198.51.100.9", errno.EHOSTUNREACH), True: ("2001:db8::9", errno.EACCES)}
IP_RECVERR, IPV6_RECVERR = 11, 25

both = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def net() -> Iterator[Space]:
    with space(("gateway",)) as made:
        yield made


def server(six: bool) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(20)
    made.bind((LOOPBACK[six], 0))
    return made


@both
@pytest.mark.parametrize("size", [0, 1, 1400, 1401, 30_000, 65_000, 65_507])
def test_there_and_back(net: Space, six: bool, size: int) -> None:
    data = os.urandom(size)
    with server(six) as outer, net.udp(six) as inner:
        inner.connect((GATEWAY[six], outer.getsockname()[1]))
        inner.send(data)
        got, peer = outer.recvfrom(1 << 16)
        assert got == data
        outer.sendto(data[::-1], peer)
        assert inner.recv(1 << 16) == data[::-1]


@both
def test_many_at_once_arrive_apart_and_in_order(net: Space, six: bool) -> None:
    contents = [bytes([n]) * size for n, size in enumerate([1400] * 70 + [90, 1400, 0, 8, 8, 9])]
    with server(six) as outer, net.udp(six) as inner:
        for sock in (outer, inner):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        inner.connect((GATEWAY[six], outer.getsockname()[1]))
        inner.send(b"hello")
        peer = outer.recvfrom(100)[1]
        os.kill(net.supervisor.pid, signal.SIGSTOP)  # so that they wait for it together
        try:
            for content in contents:
                inner.send(content)
                outer.sendto(content, peer)
        finally:
            os.kill(net.supervisor.pid, signal.SIGCONT)
        assert [outer.recv(1 << 16) for _ in contents] == contents
        assert [inner.recv(1 << 16) for _ in contents] == contents


@both
def test_only_who_was_spoken_to_answers(net: Space, six: bool) -> None:
    with server(six) as outer, server(six) as other, net.udp(six) as inner:
        inner.bind((SANDBOX6 if six else SANDBOX4, 0))
        inner.sendto(b"hello", (GATEWAY[six], outer.getsockname()[1]))
        peer = outer.recvfrom(100)[1]
        other.sendto(b"intruder", peer)
        outer.sendto(b"answer", peer)
        got, source = inner.recvfrom(100)
        assert got == b"answer"
        assert source[:2] == (GATEWAY[six], outer.getsockname()[1])


@both
def test_two_servers_of_one_socket(net: Space, six: bool) -> None:
    with server(six) as one, server(six) as two, net.udp(six) as inner:
        for outer in (one, two):
            inner.sendto(b"hello", (GATEWAY[six], outer.getsockname()[1]))
            outer.sendto(b"answer", outer.recvfrom(100)[1])
            assert inner.recvfrom(100)[1][1] == outer.getsockname()[1]


@both
def test_a_closed_port_is_refused_each_time(net: Space, six: bool) -> None:
    with server(six) as outer:
        port = outer.getsockname()[1]
    with net.udp(six) as inner:
        inner.connect((GATEWAY[six], port))
        for _ in range(3):
            inner.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                inner.recv(1)


@both
def test_denied_at_once(net: Space, six: bool) -> None:
    place, wanted = DENIED[six]
    with net.udp(six) as inner:
        if six:
            inner.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        inner.connect((place, 5000))
        inner.send(b"out?")
        with pytest.raises(OSError, match=os.strerror(wanted)):
            inner.recv(1)
    net.wait_account(
        lambda a: any(d["address"] == place and d["protocol"] == "udp" for d in a["denied"])
    )


@both
def test_questions_by_datagram(net: Space, six: bool) -> None:
    with net.udp(six) as inner:
        inner.connect((DNS6 if six else DNS4, 53))
        inner.send(b"who")
        assert inner.recv(100) == b"datagram who"
        inner.send(b"later")
        assert inner.recv(100) == b"now"


@both
def test_groups_are_nobody(net: Space, six: bool) -> None:
    with net.udp(six) as inner:
        if not six:
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        inner.sendto(b"x", ("ff05::fb" if six else "224.0.0.251", 5353))
        inner.settimeout(0.2)
        with pytest.raises(TimeoutError):
            inner.recv(1)


def echo(net: Space, six: bool) -> socket.socket:
    if six:
        return net.make(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    return net.make(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)


def request(six: bool, number: int, data: bytes) -> bytes:
    return struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, number) + data


@both
@pytest.mark.parametrize("place", ["gateway", "names"])
def test_the_gateway_answers_echo_requests(net: Space, six: bool, place: str) -> None:
    target = GATEWAY[six] if place == "gateway" else (DNS6 if six else DNS4)
    with echo(net, six) as sock:
        for number, data in enumerate((b"", b"odd", bytes(1000), os.urandom(30_000))):
            sock.sendto(request(six, number, data), (target, 0))
            got, source = sock.recvfrom(1 << 16)
            assert source[0] == target
            assert got[0] == (129 if six else 0)
            assert got[6:] == struct.pack("!H", number) + data


@both
def test_an_echo_request_that_is_denied_fails_at_once(net: Space, six: bool) -> None:
    place, wanted = DENIED[six]
    with echo(net, six) as sock:
        sock.setsockopt(
            socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP,
            IPV6_RECVERR if six else IP_RECVERR,
            1,
        )
        sock.connect((place, 0))
        sock.send(request(six, 1, b"x"))
        with pytest.raises(OSError, match=os.strerror(wanted)):
            sock.recv(1)


def may_ping() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return False
    return True


@both
def test_an_echo_request_beyond_the_gateway(six: bool) -> None:
    # 127.0.0.1 and ::1 stand for a host far away. Where the host has no ping sockets for its
    # users, the request is refused at once.
    place = DENIED[six][0]
    with space((f"{place}>{LOOPBACK[six]}",)) as net, echo(net, six) as sock:
        sock.setsockopt(
            socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP,
            IPV6_RECVERR if six else IP_RECVERR,
            1,
        )
        sock.connect((place, 0))
        sock.send(request(six, 7, b"data"))
        if may_ping():
            assert sock.recv(100)[6:] == b"\0\7data"
        else:
            with pytest.raises(OSError, match=os.strerror(DENIED[six][1])):
                sock.recv(1)


def test_other_protocols_are_refused(net: Space) -> None:
    with net.make(socket.AF_INET, socket.SOCK_RAW, 132) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect((GATEWAY4, 0))
        sock.send(b"\0" * 12)
        with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
            sock.recv(1)
    net.wait_account(lambda account: any(d["protocol"] == "ip-132" for d in account["denied"]))


def test_ping_the_program(net: Space) -> None:
    for place in (GATEWAY4, GATEWAY6):
        done = net.run(["ping", "-c", "2", "-i", "0.2", "-W", "5", place])
        assert done.returncode == 0, done.stdout + done.stderr
        assert " 0% packet loss" in done.stdout
