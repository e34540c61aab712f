"""The name server of a bridge, as far as it needs no bridge: who is answered, and over TCP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sandbox.services.network.bridge import name_server
from sandbox.services.network.bridge.definitions import Definition
from sandbox.services.network.bridge.leases import Lease
from sandbox.services.network.user.dns_tcp_server import CONNECTIONS

NETWORK = Definition("mine", "sbx1", "10.50.0.0/29")
NOERROR, NXDOMAIN = 0, 3


LEASES = {f"127.0.0.{number}": Lease(NETWORK, number) for number in (2, 3)}
ONE, OTHER = LEASES


class Known:
    """Two sandboxes on the loopback, which know the name "db"."""

    def __init__(self, network: Definition) -> None:
        assert network is NETWORK

    def who(self, address: bytes) -> Lease | None:
        return LEASES.get(socket.inet_ntoa(address))

    def look_up(self, name: str) -> tuple[bytes, ...] | None:
        return (socket.inet_aton("10.50.0.3"),) if name == "db" else None


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server of connections on the loopback."""
    monkeypatch.setattr(name_server, "Directory", Known)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = name_server.Server(NETWORK, [listener])
    ended = threading.Event()

    def tick() -> None:
        if ended.is_set():
            server._loop.stop()
        else:
            server._loop.later(0.02, tick)

    server._loop.later(0.02, tick)
    thread = threading.Thread(target=server._loop.run)
    thread.start()
    yield listener.getsockname()[1]
    ended.set()
    thread.join(30)
    listener.close()
    assert not thread.is_alive()


def question(number: int, name: str) -> bytes:
    labels = b"".join(bytes((len(word),)) + word.encode() for word in name.split("."))
    head = number.to_bytes(2, "big") + b"\x01\0\0\1" + bytes(6)
    message = head + labels + b"\0\0\1\0\1"
    return len(message).to_bytes(2, "big") + message


def connect(port: int, sandbox: str = ONE) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(sandbox, 0))


def is_answered(port: int, sandbox: str) -> bool:
    with connect(port, sandbox) as talk:
        talk.sendall(question(1, "db"))
        talk.shutdown(socket.SHUT_WR)
        with talk.makefile("rb") as answers:
            return socket.inet_aton("10.50.0.3") in answers.read()


def is_open(talk: socket.socket) -> bool:
    talk.setblocking(False)
    try:
        return bool(talk.recv(1))
    except BlockingIOError:
        return True


def test_questions_of_one_connection_are_all_answered(port: int) -> None:
    with connect(port) as talk:
        both = question(1, "db") + question(2, "nobody")
        talk.sendall(both[:5])  # a message may come in pieces
        talk.sendall(both[5:])
        with talk.makefile("rb") as answers:
            found = {}
            for _ in range(2):
                message = answers.read(int.from_bytes(answers.read(2), "big"))
                found[message[1]] = message
    assert found[1][3] & 15 == NOERROR
    assert socket.inet_aton("10.50.0.3") in found[1]
    assert found[2][3] & 15 == NXDOMAIN


def test_who_has_no_lease_is_not_answered(port: int) -> None:
    with connect(port, "127.0.0.9") as talk:
        assert talk.recv(100) == b""


def test_a_sandbox_with_all_connections_leaves_some_to_the_others(port: int) -> None:
    with ExitStack() as held:
        greedy = [held.enter_context(connect(port)) for _ in range(200)]
        assert is_answered(port, OTHER)
        assert sum(map(is_open, greedy)) == CONNECTIONS


def test_of_all_connections_there_are_so_many(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_server, "_CONNECTIONS_MAX", 8)
    with ExitStack() as held:
        greedy = [held.enter_context(connect(port)) for _ in range(20)]
        modest = held.enter_context(connect(port, OTHER))
        assert is_answered(port, OTHER)
        assert is_open(modest)
        assert sum(map(is_open, greedy)) == 6


def test_connections_end_with_their_lease(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(port) as old, connect(port, OTHER) as others:
        assert is_answered(port, ONE)
        monkeypatch.setitem(LEASES, ONE, LEASES[ONE].replace(names=("new",)))
        assert is_answered(port, ONE)
        assert not is_open(old)
        assert is_open(others)
