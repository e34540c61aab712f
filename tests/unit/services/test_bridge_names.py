"""The name server of a bridge, as far as it needs no bridge: who is answered, and over TCP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from sandbox.services.network.bridge import name_server
from sandbox.services.network.bridge.definitions import Definition
from sandbox.services.network.bridge.leases import Lease

NETWORK = Definition("mine", "sbx1", "10.50.0.0/29")
NOERROR, NXDOMAIN = 0, 3


class Known:
    """One sandbox at the loopback, which knows the name "db"."""

    def __init__(self, network: Definition) -> None:
        self._lease = Lease(network, 2)

    def who(self, address: bytes) -> Lease | None:
        return self._lease if address == socket.inet_aton("127.0.0.1") else None

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


def test_questions_of_one_connection_are_all_answered(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as talk:
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
    with socket.create_connection(
        ("127.0.0.1", port), timeout=30, source_address=("127.0.0.2", 0)
    ) as talk:
        talk.sendall(question(1, "db"))
        talk.shutdown(socket.SHUT_WR)
        assert talk.recv(100) == b""
