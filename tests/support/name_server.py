"""Name servers for tests: on loopback, served by the loop of the test, saying what it wants."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from select import EPOLLIN

from sandbox.services.network.user.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Say = Callable[[bytes, bool], "bytes | Iterable[bytes] | None"]

A, NS, CNAME, SOA, AAAA, OPT, HTTPS, ANY = 1, 2, 5, 6, 28, 41, 65, 255


def wire_name(text: str) -> bytes:
    """The wire form of a name, as it is spelled."""
    labels = text.encode().split(b".") if text else []
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question_of(message: bytes) -> bytes:
    """Name, type and class of the first question."""
    return message[12 : message.index(b"\0", 12) + 5]


def record(owner: bytes, kind: int, content: bytes, ttl: int = 300) -> bytes:
    """One record; `owner` in wire form, or a pointer."""
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(content)) + content


ASKED = b"\xc0\x0c"
"""The owner that is the question's name."""


def query(
    name: str | bytes,
    kind: int = A,
    *,
    number: int = 7,
    size: int | None = None,
    flags: int = 0x100,
) -> bytes:
    """What a client of the sandbox sends; with EDNS when it has a `size`."""
    name = name if isinstance(name, bytes) else wire_name(name)
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, int(size is not None))
    extra = b"" if size is None else b"\0" + struct.pack("!HHIH", OPT, size, 0, 0)
    return head + name + struct.pack("!HH", kind, 1) + extra


def response(
    asked: bytes,
    answers: Iterable[bytes] = (),
    authorities: Iterable[bytes] = (),
    *,
    code: int = 0,
    flags: int = 0x8180,
) -> bytes:
    """A reply to the message `asked`."""
    answers, authorities = list(answers), list(authorities)
    head = asked[:2] + struct.pack("!HHHHH", flags | code, 1, len(answers), len(authorities), 0)
    return head + question_of(asked) + b"".join(answers + authorities)


def soa(ttl: int = 60, lowest: int = 60) -> bytes:
    """The record that says for how long there is nothing."""
    content = wire_name("ns.example") + wire_name("mail.example")
    return record(
        wire_name("example"), SOA, content + struct.pack("!IIIII", 1, 2, 3, 4, lowest), ttl
    )


def _pair(address: str) -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a listener at one port, which must be free for both."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 0))
        listener.listen()
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        try:
            datagrams.bind((address, listener.getsockname()[1]))
        except OSError:
            listener.close()
            datagrams.close()
        else:
            return datagrams, listener


class NameServer:
    """Calls `say(message, over_tcp)` for each question and sends what it returns: None is silence.

    `asked`: (message, over TCP, port of the client) of all questions.
    """

    def __init__(self, loop: Loop, say: Say, address: str = "127.0.0.1") -> None:
        self._loop = loop
        self.say = say
        self.asked: list[tuple[bytes, bool, int]] = []
        self._udp, self._tcp = _pair(address)
        self.where: tuple[str, int] = (address, self._udp.getsockname()[1])
        self._open = [self._udp, self._tcp]
        for each in self._open:
            each.setblocking(False)
        loop.watch(self._udp.fileno(), EPOLLIN, lambda _: self._datagram())
        loop.watch(self._tcp.fileno(), EPOLLIN, lambda _: self._accept())

    def close(self) -> None:
        for each in self._open:
            if each.fileno() >= 0:
                self._loop.forget(each.fileno())
                each.close()

    def _replies(self, message: bytes, over_tcp: bool) -> list[bytes]:
        said = self.say(message, over_tcp)
        return [] if said is None else [said] if isinstance(said, bytes) else list(said)

    def _datagram(self) -> None:
        message, client = self._udp.recvfrom(65535)
        self.asked.append((message, False, client[1]))
        for reply in self._replies(message, False):
            self._udp.sendto(reply, client)

    def _accept(self) -> None:
        peer, client = self._tcp.accept()
        self._open.append(peer)
        got = bytearray()

        def ready(_events: int) -> None:
            chunk = peer.recv(65535)
            got.extend(chunk)
            if len(got) >= 2 and len(got) >= 2 + int.from_bytes(got[:2], "big"):
                message = bytes(got[2:])
                self.asked.append((message, True, client[1]))
                replies = self._replies(message, True)
                for reply in replies:
                    peer.sendall(len(reply).to_bytes(2, "big") + reply)
                got.clear()
                chunk = b"" if replies else chunk
            if not chunk:
                self._loop.forget(peer.fileno())
                peer.close()

        self._loop.watch(peer.fileno(), EPOLLIN, ready)


class Directory:
    """`addresses`: what names lead to. `asked`: all that was asked for. `place`: ADDRESS:PORT."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.place = ""

    def say(self, message: bytes, _: bool) -> bytes:
        """The addresses of the kind that is asked for."""
        question = question_of(message).lower()
        labels, at = [], 0
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
            at += 1 + question[at]
        self.asked.append(".".join(labels))
        kind = int.from_bytes(question[at + 1 : at + 3], "big")
        found = []
        for address in self.addresses.get(self.asked[-1], ()):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if kind == (AAAA if ":" in address else A):
                found.append(record(ASKED, kind, socket.inet_pton(family, address)))
        return response(message, found)


@contextmanager
def directory() -> Iterator[Directory]:
    """A name server in a thread of its own."""
    loop, found = Loop(), Directory()
    server = NameServer(loop, found.say)
    found.place = f"{server.where[0]}:{server.where[1]}"
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        loop.stop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake:
            wake.sendto(query("end"), server.where)
        thread.join()
        server.close()
        loop.close()
