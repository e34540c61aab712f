"""The name server of a sandbox: forwards what the policy lets it ask, and remembers the answers.

A question for a name outside the list never leaves. Of an answer the addresses of the question's
own chain of aliases are told to the judge: the question was judged, the aliases are its owner's
affair. HTTPS and SVCB have no answer here: their hints are addresses that nobody has judged.

An answer is believed when it comes to the socket that asked (connected, at a random port), with
its random id and the very spelling of the question; the same question is never under way twice.
"""

from __future__ import annotations

import os
import socket
from select import EPOLLIN

from sandbox.services.network.user import message as wire
from sandbox.services.network.user.dns_tcp_client import TcpExchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sandbox.services.network.user.account import Account
    from sandbox.services.network.user.egress import Verdict
    from sandbox.services.network.user.loop import Loop
    from sandbox.services.network.user.message import Answer, Query

    Known = Callable[[str], tuple[bytes, ...] | None]
    Tell = Callable[[bytes], None]

    class Judge(Protocol):
        """What the resolver asks of an `Egress`."""

        def judge_name(self, name: str) -> Verdict: ...
        def learn(self, name: str, addresses: tuple[bytes, ...], ttl: float) -> None: ...


OUTSTANDING_MAX = 512  # questions under way
WAITERS_MAX = 64  # clients that wait for one
STREAMS_MAX = 16
CACHE_MAX = 1024
CACHED_SIZE_MAX = 4096  # bytes of one answer
TTL_MAX = 3600
NEGATIVE_TTL_MAX = 300
ATTEMPTS = 3
PATIENCE = 1.5  # seconds for one attempt: all of them end before a client asks again
SWEEP = 0.25
IDLE = 10.0
SOCKETS = 8  # for each name server
USES = 256  # questions through one socket, then it gets another port
LOCAL_TTL = 60
UDP_MAX = 4096

_LOOPBACK = (b"\x7f\0\0\1", bytes(15) + b"\1")
# Zone transfers, transactions, "everything": not for a forwarder.
_UNANSWERED = frozenset({0, wire.OPT, *range(249, 256)})


class _Pending:
    """One question under way."""

    __slots__ = (
        *("attempt", "channel", "deadline", "extended", "key", "number", "query"),
        *("question", "stream", "waiters"),
    )

    def __init__(self, key: tuple[bytes, int], query: Query) -> None:
        self.key = key
        self.query = query
        self.waiters: list[tuple[Query, Tell, bool]] = []
        self.attempt = 0
        self.extended = True
        self.deadline = 0.0
        self.number = 0
        self.question = b""
        self.channel: _Channel | None = None
        self.stream: TcpExchange | None = None


class _Channel:
    """One connected socket and the questions whose answers it waits for, by id."""

    __slots__ = ("pending", "socket", "uses")

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.pending: dict[int, _Pending] = {}
        self.uses = 0


class Resolver:
    """Answers DNS messages of one sandbox.

    `upstreams`: (address, port) of name servers. `known`: addresses of names that need no server,
    None for others. `ipv6`: whether the host leads to IPv6 addresses; without, AAAA has no answer.
    """

    def __init__(
        self,
        loop: Loop,
        egress: Judge,
        upstreams: tuple[tuple[str, int], ...],
        account: Account,
        *,
        known: Known = lambda _name: None,
        ipv6: Callable[[], bool] = lambda: True,
    ) -> None:
        self._loop = loop
        self._egress = egress
        self._account = account
        self._known = known
        self._ipv6 = ipv6
        self._servers = [_resolve(*upstream) for upstream in upstreams]
        self._good = 0  # the server that answered last
        self._channels: list[list[_Channel]] = [[] for _ in upstreams]
        self._pending: dict[tuple[bytes, int], _Pending] = {}
        self._streams = 0
        self._cache: dict[tuple[bytes, int], tuple[Answer, float, float]] = {}
        self._sweeping = False
        self._used = 0.0

    def ask(self, message: bytes, answer: Tell, *, stream: bool = False) -> None:
        """Call `answer` with the reply to a message, now or later, or never if it is none.

        `stream`: the client asked over TCP, so the reply may be long.
        """
        query = wire.parse_query(message)
        if query is None:
            return
        if query.error:
            answer(wire.reply_error(query, query.error))
        elif query.kind in _UNANSWERED:
            answer(wire.reply_error(query, wire.NOTIMP))
        else:
            self._ask(query, answer, stream=stream)

    def _ask(self, query: Query, answer: Tell, *, stream: bool) -> None:
        name = wire.text_of(query.name)
        known = self._known_as(name) if name is not None else None
        if known is not None:
            answer(wire.reply_addresses(query, known, LOCAL_TTL))
            return
        verdict = self._egress.judge_name(name) if name is not None else None
        if name is None or verdict is None or not verdict.allowed:
            self._account.refused(wire.shown(query.name))
            local = verdict is not None and verdict.rule == "local"
            code = wire.NXDOMAIN if local else wire.REFUSED
            why = f"sandbox policy: {verdict.rule}" if verdict else "not a name"
            answer(wire.reply_error(query, code, why=why))
            return
        hints = query.kind in {wire.SVCB, wire.HTTPS}
        if hints or (query.kind == wire.AAAA and not self._ipv6()):
            answer(wire.reply_error(query, 0))
            return
        key = query.name, query.kind
        kept = self._cache.get(key)
        now = self._loop.now()
        if kept is not None:
            if now < kept[2]:
                self._tell(query, answer, kept[0], int(now - kept[1]), stream=stream)
                return
            del self._cache[key]
        self._forward(key, query, answer, stream=stream)

    def _known_as(self, name: str) -> tuple[bytes, ...] | None:
        if name == "localhost" or name.endswith(".localhost"):
            return _LOOPBACK
        return self._known(name)

    def _tell(self, query: Query, answer: Tell, found: Answer, age: int, *, stream: bool) -> None:
        if found.addresses:
            name = wire.text_of(query.name)
            self._egress.learn(name or "", found.addresses, max(0, found.ttl - age))
        made = wire.reply(query, found, age)
        if not stream and len(made) > min(query.size, UDP_MAX):
            made = wire.reply_truncated(query)
        answer(made)

    # -- questions under way

    def _forward(self, key: tuple[bytes, int], query: Query, answer: Tell, *, stream: bool) -> None:
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= OUTSTANDING_MAX:
                self._account.dropped("dns questions under way")
                answer(wire.reply_error(query, wire.SERVFAIL))
                return
            pending = self._pending[key] = _Pending(key, query)
            pending.waiters.append((query, answer, stream))
            self._send(pending)
        elif len(pending.waiters) < WAITERS_MAX:
            pending.waiters.append((query, answer, stream))
        else:
            self._account.dropped("dns clients of one question")
            answer(wire.reply_error(query, wire.SERVFAIL))

    def _send(self, pending: _Pending) -> None:
        """Ask the next server over UDP, with everything drawn anew."""
        while pending.attempt < ATTEMPTS:
            server = (self._good + pending.attempt) % len(self._servers)
            channel = self._channel(server)
            number, question, message = wire.make_query(pending.query, extended=pending.extended)
            if channel is None or number in channel.pending:
                pending.attempt += channel is None
                continue
            try:
                channel.socket.send(message)
            except OSError:
                # Also an ICMP error that an earlier question got: the next attempt uses another.
                pending.attempt += 1
                continue
            channel.uses += 1
            channel.pending[number] = pending
            pending.channel, pending.number, pending.question = channel, number, question
            self._wait(pending)
            return
        self._fail(pending)

    def _wait(self, pending: _Pending) -> None:
        now = self._used = self._loop.now()
        pending.deadline = now + PATIENCE
        if not self._sweeping:
            self._sweeping = True
            self._loop.later(SWEEP, self._sweep)

    def _channel(self, server: int) -> _Channel | None:
        """One of some sockets to a server, at random."""
        open_now = self._channels[server]
        if len(open_now) >= SOCKETS:
            at = os.urandom(1)[0] % len(open_now)
            found = open_now[at]
            if found.uses < USES:
                return found
            del open_now[at]
            self._retire(found)
        family, address = self._servers[server]
        try:
            made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return open_now[0] if open_now else None
        channel = _Channel(made)
        try:
            made.connect(address)
            self._loop.watch(made.fileno(), EPOLLIN, lambda _events: self._read(server, channel))
        except OSError:
            made.close()
            return None
        open_now.append(channel)
        return channel

    def _retire(self, channel: _Channel) -> None:
        """Close a socket that is in no list any more, once nothing is expected from it."""
        if not channel.pending and channel.socket.fileno() >= 0:
            self._loop.forget(channel.socket.fileno())
            channel.socket.close()

    def _read(self, server: int, channel: _Channel) -> None:
        for _ in range(32):
            try:
                message = channel.socket.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                # ICMP: nobody answers there. Who waits need not wait for the deadline.
                for pending in list(channel.pending.values()):
                    self._again(pending)
                return
            asked = channel.pending.get(wire.number_of(message))
            if asked is None:
                continue
            if wire.is_answer_to(message, asked.question):
                self._good = server
                self._detach(asked)
                self._answered(asked, message, server)
            elif wire.is_answer_to(message.lower(), asked.question.lower()):
                # A server that does not keep the spelling is believed over TCP only.
                self._detach(asked)
                self._ask_by_stream(asked, server)

    def _detach(self, pending: _Pending) -> None:
        """Expect nothing for this question any more from where it was sent last."""
        channel, pending.channel = pending.channel, None
        if channel is not None:
            del channel.pending[pending.number]
            if not any(channel in of_server for of_server in self._channels):
                self._retire(channel)
        stream, pending.stream = pending.stream, None
        if stream is not None:
            self._streams -= 1
            stream.close()

    def _again(self, pending: _Pending) -> None:
        self._detach(pending)
        pending.attempt += 1
        self._send(pending)

    def _sweep(self) -> None:
        now = self._loop.now()
        for pending in list(self._pending.values()):
            if pending.deadline <= now:
                self._again(pending)
        busy = bool(self._pending) or now - self._used < IDLE
        if not busy:
            self.close()
        self._sweeping = busy
        if busy:
            self._loop.later(SWEEP, self._sweep)

    def close(self) -> None:
        """Close all sockets; questions under way fail. It can be asked again afterwards."""
        for pending in list(self._pending.values()):
            self._detach(pending)
            self._fail(pending)
        for of_server in self._channels:
            while of_server:
                self._retire(of_server.pop())

    # -- answers

    def _answered(self, pending: _Pending, message: bytes, server: int) -> None:
        if wire.is_truncated(message):
            self._ask_by_stream(pending, server)
            return
        answer = wire.parse_answer(message, pending.question)
        if answer is not None and answer.code in {0, wire.NXDOMAIN}:
            self._finish(pending, answer)
            return
        if answer is not None and answer.code in {wire.FORMERR, wire.NOTIMP} and pending.extended:
            pending.extended = False  # a server from before EDNS
            self._send(pending)
        elif pending.attempt + 1 < len(self._servers):
            self._again(pending)
        else:
            self._fail(pending)

    def _finish(self, pending: _Pending, answer: Answer) -> None:
        self._end(pending)
        now = self._loop.now()
        most = TTL_MAX if answer.code == 0 and answer.answers else NEGATIVE_TTL_MAX
        ttl = min(answer.ttl, most)
        if ttl and len(answer.records) <= CACHED_SIZE_MAX:
            if len(self._cache) >= CACHE_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[pending.key] = answer, now, now + ttl
        for query, tell, stream in pending.waiters:
            self._tell(query, tell, answer, 0, stream=stream)

    def _fail(self, pending: _Pending) -> None:
        self._end(pending)
        for query, tell, _ in pending.waiters:
            tell(wire.reply_error(query, wire.SERVFAIL))

    def _end(self, pending: _Pending) -> None:
        self._pending.pop(pending.key, None)

    # -- the same over TCP

    def _ask_by_stream(self, pending: _Pending, server: int) -> None:
        if self._streams >= STREAMS_MAX:
            self._account.dropped("dns connections")
            self._fail(pending)
            return
        _, question, message = wire.make_query(pending.query, extended=pending.extended)
        pending.question = question
        family, address = self._servers[server]

        def done(reply: bytes | None) -> None:
            self._detach(pending)
            good = (
                reply is not None
                and wire.number_of(reply) == wire.number_of(message)
                and wire.is_answer_to(reply.lower(), question.lower())
                and not wire.is_truncated(reply)
            )
            if good and reply is not None:
                self._answered(pending, reply[:12] + question + reply[12 + len(question) :], server)
            else:
                self._again(pending)

        try:
            pending.stream = TcpExchange(self._loop, family, address, message, done)
        except OSError:
            self._again(pending)
            return
        self._streams += 1
        self._wait(pending)


def _resolve(address: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """(family, address for connect); a link-local one has its interface's number."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, where = found[0]
    return family, where
