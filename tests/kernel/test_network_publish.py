"""Ports of the host that lead into a sandbox."""

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.support.netspace import GATEWAY4, GATEWAY6, SANDBOX4, SANDBOX6, Space, space

LOOPBACK = {False: "127.0.0.1", True: "::1"}
OWN = {False: SANDBOX4, True: SANDBOX6}
GATEWAY = {False: GATEWAY4, True: GATEWAY6}
INSIDE = 8080
LINGER_NONE = struct.pack("ii", 1, 0)

both = pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])


def bound(six: bool, kind: int, place: str = "") -> socket.socket:
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
    made.bind((place or LOOPBACK[six], 0))
    if kind == socket.SOCK_STREAM:
        made.listen(1000)
    return made


class Published(Space):
    """`places`: (IPv6, kind of socket) → where the host's side listens."""

    places: dict[tuple[bool, int], tuple[str, int]]


@pytest.fixture(scope="module")
def net() -> Iterator[Published]:
    sockets = [bound(six, kind) for six in (False, True) for kind in (1, 2)]
    made = Published((), published=[(sock, INSIDE) for sock in sockets])
    made.places = {
        (sock.family == socket.AF_INET6, int(sock.type)): sock.getsockname()[:2] for sock in sockets
    }
    try:
        yield made
    finally:
        status = made.end()
    assert status == 0
    for sock in sockets:
        sock.close()


def connected(net: Published, six: bool) -> socket.socket:
    return socket.create_connection(net.places[six, 1], 20)


def serve(net: Space, six: bool, place: str = "") -> socket.socket:
    made = net.tcp(six)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((place or OWN[six], INSIDE))
    made.listen(1000)
    return made


@both
def test_a_client_of_the_host_is_seen_as_the_gateway(net: Published, six: bool) -> None:
    with serve(net, six) as server, connected(net, six) as client:
        inner, peer = server.accept()
        with inner:
            assert peer[0] == GATEWAY[six]
            assert peer[1] == client.getsockname()[1]
            inner.sendall(b"220 first")
            assert client.recv(100) == b"220 first"
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            inner.settimeout(20)
            assert inner.recv(100) == b"question"
            assert inner.recv(100) == b""
            inner.sendall(b"answer")
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""


@both
def test_the_address_of_a_client_is_kept(six: bool) -> None:
    # Another namespace plays the host, so that it can have an address that is not loopback.
    place = "2001:db8::77" if six else "203.0.113.77"
    family = socket.AF_INET6 if six else socket.AF_INET
    nodad = ["nodad"] if six else []
    with space(()) as host:
        assert host.run(["ip", "addr", "add", place, "dev", "lo", *nodad]).returncode == 0
        stream, datagram = host.tcp(six), host.udp(six)
        with stream, datagram:
            for sock in (stream, datagram):
                sock.bind((place, 0))
            stream.listen()
            with space((), published=[(stream, INSIDE), (datagram, INSIDE)]) as net:
                for _ in range(2):
                    with serve(net, six) as server, host.tcp(six) as client:
                        client.connect(stream.getsockname()[:2])
                        inner, peer = server.accept()
                        assert peer[:2] == (place, client.getsockname()[1])
                        inner.sendall(b"x")
                        assert client.recv(1) == b"x"
                        inner.close()
                        # Whoever ends first waits in TIME_WAIT; the same port comes again.
                with net.udp(six) as server, host.make(family, socket.SOCK_DGRAM) as client:
                    server.bind((OWN[six], INSIDE))
                    client.connect(datagram.getsockname()[:2])
                    client.send(b"who am I")
                    peer = server.recvfrom(100)[1]
                    assert peer[:2] == (place, client.getsockname()[1])
                    server.sendto(b"you", peer)
                    assert client.recv(10) == b"you"


@both
def test_nobody_listens_inside(net: Published, six: bool) -> None:
    # Over loopback the reset may come before connect(2) returns.
    with pytest.raises(ConnectionResetError), connected(net, six) as client:
        client.recv(1)
    net.wait_account(lambda account: any(row["failed"] for row in account["published"]))


@both
@pytest.mark.parametrize("inward", [True, False], ids=["in", "out"])
def test_long_transfers(net: Published, six: bool, inward: bool) -> None:
    data = os.urandom(1 << 20) * 16
    with serve(net, six) as server, connected(net, six) as client:
        inner, _ = server.accept()
        inner.settimeout(20)
        source, target = (client, inner) if inward else (inner, client)
        with inner:

            def send() -> None:
                source.sendall(data)
                source.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=send)
            thread.start()
            got = bytearray()
            while part := target.recv(1 << 20):
                got += part
            thread.join()
            assert bytes(got) == data


@both
@pytest.mark.parametrize("inward", [True, False], ids=["in", "out"])
def test_a_reset_arrives_as_a_reset(net: Published, six: bool, inward: bool) -> None:
    with serve(net, six) as server, connected(net, six) as client:
        inner, _ = server.accept()
        inner.settimeout(20)
        source, target = (client, inner) if inward else (inner, client)
        with inner:
            source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            source.close()
            with pytest.raises(ConnectionResetError):
                target.recv(1)


def test_many_connections_one_after_the_other_and_at_once(net: Published) -> None:
    with serve(net, False) as server:

        def answer() -> None:
            for _ in range(600):
                with server.accept()[0] as inner:
                    inner.sendall(inner.recv(10))

        thread = threading.Thread(target=answer)
        thread.start()
        for number in range(300):
            with connected(net, False) as client:
                client.sendall(b"%d" % number)
                assert client.recv(10) == b"%d" % number
        clients = [connected(net, False) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.recv(10) == b"%d" % number
            client.close()
        thread.join()


@both
def test_datagrams(net: Published, six: bool) -> None:
    with net.udp(six) as server:
        server.bind((OWN[six], INSIDE))
        clients = []
        for number in range(3):
            client = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            client.settimeout(20)
            client.connect(net.places[six, 2])
            client.send(b"from %d" % number)
            clients.append(client)
        for _ in clients:
            data, peer = server.recvfrom(1 << 16)
            assert peer[0] == GATEWAY[six]
            server.sendto(data + bytes(40_000), peer)
        for number, client in enumerate(clients):
            assert client.recv(1 << 16) == b"from %d" % number + bytes(40_000)
            client.close()
    rows = net.wait_account(lambda account: sum(row["sent_bytes"] for row in account["published"]))
    assert {row["protocol"] for row in rows["published"]} == {"tcp", "udp"}


def test_the_host_side_is_not_opened_by_it(net: Published) -> None:
    with net.tcp() as sock, pytest.raises(OSError, match="No route to host"):
        sock.connect((GATEWAY4, 22))
