"""The name server of a sandbox: what it forwards, what it believes, what it tells."""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.policy.egress import parse_rules
from sandbox.services.network.user import dns, message
from sandbox.services.network.user.account import Account
from sandbox.services.network.user.dns import Resolver
from sandbox.services.network.user.egress import Egress
from sandbox.services.network.user.loop import Loop
from sandbox.services.network.user.upstreams import host_upstreams
from tests.support import name_server as ns
from tests.support.name_server import ASKED, NameServer, query, record, response

REFUSED, SERVFAIL, NXDOMAIN, NOTIMP, FORMERR = 5, 2, 3, 4, 1


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


class Still(Loop):
    """A loop whose time stands still until a test moves it."""

    time = 1000.0

    def now(self) -> float:
        return self.time


class World:
    """A resolver with name servers that say what the test wants."""

    def __init__(self, *allow: str) -> None:
        self.loop = Still()
        self.account = Account()
        self.egress = Egress(parse_rules(allow, ["denied.example"]), {}, lambda _: False)
        self.servers: list[NameServer] = []
        self.ipv6 = True
        self.resolver: Resolver | None = None

    def server(self, say: ns.Say) -> NameServer:
        self.servers.append(NameServer(self.loop, say))
        return self.servers[-1]

    def silent(self, _asked: bytes, _tcp: bool) -> bytes | None:
        """Says nothing, until whoever has asked has lost patience."""
        self.loop.time += dns.PATIENCE
        return None

    def start(self, *more: tuple[str, int]) -> Resolver:
        if self.resolver is None:
            where = (*more, *(server.where for server in self.servers))
            known = {"host": (packed("10.0.2.2"), packed("fd00::2"))}.get
            self.resolver = Resolver(
                self.loop, self.egress, where, self.account, known=known, ipv6=lambda: self.ipv6
            )
        return self.resolver

    def ask(self, *messages: bytes, stream: bool = False, seconds: float = 10.0) -> list[bytes]:
        """The replies to messages that are asked at once."""
        replies: list[bytes] = []

        def answer(reply: bytes) -> None:
            replies.append(reply)
            if len(replies) == len(messages):
                self.loop.stop()

        resolver = self.start()
        for each in messages:
            self.loop.soon(lambda each=each: resolver.ask(each, answer, stream=stream))  # type: ignore[misc]
        deadline = self.loop.later(seconds, self.loop.stop)
        self.loop.run()
        deadline.cancel()
        return replies

    def one(self, *args: object, stream: bool = False, **more: object) -> bytes:
        replies = self.ask(query(*args, **more), stream=stream)  # type: ignore[arg-type]
        assert len(replies) == 1
        return replies[0]

    def allows(self, address: str) -> bool:
        return self.egress.judge(packed(address), 443, "tcp").allowed

    def refused(self) -> list[str]:
        return [row["name"] for row in self.account.as_dict()["refused_names"]]

    def close(self) -> None:
        if self.resolver:
            self.resolver.close()
        for server in self.servers:
            server.close()
        self.loop.close()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    monkeypatch.setattr(dns, "SWEEP", 0.02)
    made: list[World] = []

    def build(*allow: str) -> World:
        made.append(World(*(allow or ("*.example.org:443",))))
        return made[-1]

    before = len(os.listdir("/proc/self/fd"))
    yield build
    for world in made:
        world.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors were left open"


def code(reply: bytes) -> int:
    return reply[3] & 0xF


def counts(reply: bytes) -> tuple[int, int]:
    return struct.unpack_from("!HH", reply, 6)


def say_a(address: str, ttl: int = 300) -> Callable[[bytes, bool], bytes]:
    return lambda asked, _: response(asked, [record(ASKED, ns.A, packed(address), ttl)])


def test_an_answer_reaches_who_asked_and_its_addresses_the_judge(
    make: Callable[..., World],
) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8"))
    assert not world.allows("8.8.8.8")
    reply = world.one("WwW.example.ORG", number=4711)
    assert reply[:2] == struct.pack("!H", 4711)
    assert ns.question_of(reply) == ns.question_of(query("WwW.example.ORG"))
    assert code(reply) == 0
    assert counts(reply) == (1, 0)
    assert reply.endswith(packed("8.8.8.8"))
    assert world.allows("8.8.8.8")
    assert len(server.asked) == 1


def test_what_is_sent_cannot_be_guessed(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8"))
    for each in range(40):
        world.one(f"a{each:03}.long-name-of-a-host.example.org", number=1, size=4096)
    messages = [asked for asked, _, _ in server.asked]
    assert len({asked[:2] for asked in messages}) > 30, "ids"
    assert len({asked[16:40].swapcase() for asked in messages}) > 30, "0x20"
    assert len({port for _, _, port in server.asked}) > 1, "ports"
    for asked in messages:
        assert asked.endswith(b"\0" + struct.pack("!HHIH", ns.OPT, 1232, 0, 0))


def test_a_socket_gets_another_port_after_some_questions(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "SOCKETS", 1)
    monkeypatch.setattr(dns, "USES", 5)
    world = make()
    server = world.server(say_a("8.8.8.8"))
    before = len(os.listdir("/proc/self/fd"))
    for each in range(30):
        world.one(f"a{each}.example.org")
    assert len({port for _, _, port in server.asked}) >= 5
    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize(
    "name", ["example.org", "www.example.net", "a.example.org.evil.net", "10.0.0.1", "nas", ""]
)
def test_what_is_not_listed_is_refused_and_reported(make: Callable[..., World], name: str) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8"))
    for kind in (ns.A, ns.AAAA, ns.HTTPS, 16):
        reply = world.one(name, kind, size=1232)
        assert code(reply) == REFUSED
        assert counts(reply) == (0, 0)
        assert b"sandbox policy" in reply
    assert not server.asked
    assert world.refused() == [name or "."]


def test_a_denied_name_is_refused(make: Callable[..., World]) -> None:
    world = make("public")
    server = world.server(say_a("8.8.8.8"))
    assert code(world.one("denied.example")) == REFUSED
    assert code(world.one("other.example")) == 0
    assert len(server.asked) == 1


def test_labels_that_only_read_like_a_listed_name(make: Callable[..., World]) -> None:
    world = make("www.example.org", "public")
    server = world.server(say_a("8.8.8.8"))
    for name in (
        b"\x0bwww.example\x03org\0",
        b"\x0fwww.example.org\0",
        b"\x04www\0\x07example\x03org\0",
        b"\x04w\xc3\xbcw\x07example\x03org\0",
        b"\x03w w\x07example\x03org\0",
    ):
        assert code(world.one(name)) == REFUSED
    assert not server.asked
    assert "www\\.example.org" in world.refused()


def test_local_names_never_leave(make: Callable[..., World]) -> None:
    world = make("public")
    server = world.server(say_a("8.8.8.8"))
    assert world.one("localhost").endswith(packed("127.0.0.1"))
    assert world.one("a.LOCALHOST", ns.AAAA).endswith(packed("::1"))
    assert world.one("host").endswith(packed("10.0.2.2"))
    assert world.one("host", ns.AAAA).endswith(packed("fd00::2"))
    assert counts(world.one("host", 16)) == (0, 0)
    for name in ("printer.local", "metadata.google.internal", "nas", "1.0.0.127.in-addr.arpa"):
        assert code(world.one(name)) == NXDOMAIN
    assert not server.asked


def test_a_chain_is_judged_by_the_question(make: Callable[..., World]) -> None:
    world = make()
    cdn, edge = ns.wire_name("cdn.other.net"), ns.wire_name("edge.other.net")

    def say(asked: bytes, _: bool) -> bytes:
        return response(
            asked,
            [
                record(edge, ns.A, packed("8.8.8.8")),
                record(ASKED, ns.CNAME, cdn),
                record(cdn, ns.CNAME, edge),
                record(ns.wire_name("unasked.net"), ns.A, packed("9.9.9.9")),
            ],
        )

    world.server(say)
    assert counts(world.one("www.example.org")) == (4, 0)
    assert world.allows("8.8.8.8")
    assert not world.allows("9.9.9.9")
    assert world.egress.judge(packed("8.8.8.8"), 443, "tcp").name == "www.example.org"
    assert code(world.one("cdn.other.net")) == REFUSED


def test_no_answer_opens_a_private_address(make: Callable[..., World]) -> None:
    world = make()
    world.server(say_a("10.0.0.1"))
    assert world.one("www.example.org").endswith(packed("10.0.0.1"))
    assert not world.allows("10.0.0.1")


def test_a_forged_answer_is_not_believed(make: Callable[..., World]) -> None:
    world = make("www.example.org:443")
    wrong = record(ASKED, ns.A, packed("9.9.9.9"))
    other = query("xxx.example.org")

    def say(asked: bytes, _: bool) -> list[bytes]:
        number = struct.unpack_from("!H", asked)[0]
        good = response(asked, [record(ASKED, ns.A, packed("8.8.8.8"))])
        return [
            struct.pack("!H", number ^ 1) + response(asked, [wrong])[2:],
            asked[:2] + response(other, [wrong])[2:],
            response(asked, [wrong], flags=0x0100),
            response(asked, [wrong], flags=0xA980),
            asked[:2] + b"\x81\x80\0\2" + response(asked, [wrong])[6:],
            response(asked)[:11],
            b"",
            good,
        ]

    server = world.server(say)
    assert world.one("www.example.org").endswith(packed("8.8.8.8"))
    assert not world.allows("9.9.9.9")
    assert len(server.asked) == 1


def test_another_spelling_is_believed_over_tcp_only(make: Callable[..., World]) -> None:
    world = make("*.example.org:443")

    def say(asked: bytes, tcp: bool) -> bytes:
        address = packed("8.8.8.8" if tcp else "9.9.9.9")
        return response(asked[:12] + asked[12:].lower(), [record(ASKED, ns.A, address)])

    server = world.server(say)
    reply = world.one("abcdefghijklmnopqrstuvwxyz.EXAMPLE.org")
    assert reply.endswith(packed("8.8.8.8"))
    assert not world.allows("9.9.9.9")
    assert [tcp for _, tcp, _ in server.asked] == [False, True]


def many(asked: bytes, number: int = 200) -> bytes:
    return response(asked, [record(ASKED, ns.A, bytes([8, 8, 8, n % 250])) for n in range(number)])


def test_a_truncated_answer_is_asked_for_over_tcp(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(lambda asked, tcp: many(asked) if tcp else response(asked, flags=0x8380))
    reply = world.one("www.example.org", size=1232)
    assert reply[2] & 0x02, "too long for a datagram of 1232"
    assert counts(reply) == (0, 0)
    whole = world.one("www.example.org", stream=True)
    assert counts(whole) == (200, 0)
    assert counts(world.one("www.example.org", size=4096)) == (200, 0)
    assert [tcp for _, tcp, _ in server.asked] == [False, True]
    assert world.allows("8.8.8.199")


def test_an_answer_over_tcp_is_matched_too(make: Callable[..., World]) -> None:
    world = make()
    wrong = record(ASKED, ns.A, packed("9.9.9.9"))

    def say(asked: bytes, tcp: bool) -> bytes:
        if not tcp:
            return response(asked, flags=0x8380)
        number = struct.unpack_from("!H", asked)[0]
        return struct.pack("!H", number ^ 1) + response(asked, [wrong])[2:]

    world.server(say)
    assert code(world.one("www.example.org")) == SERVFAIL
    assert not world.allows("9.9.9.9")


def test_a_server_without_tcp(make: Callable[..., World]) -> None:
    world = make()
    world.server(
        lambda asked, tcp: world.silent(asked, tcp) if tcp else response(asked, flags=0x8380)
    )
    assert code(world.one("www.example.org")) == SERVFAIL


def test_negative_answers_are_kept(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(
        lambda asked, _: response(
            asked, [], [ns.soa(60, 30)], code=NXDOMAIN * (b"\4" in asked[12:13])
        )
    )
    for name, expected in (("none.example.org", NXDOMAIN), ("empty.example.org", 0)):
        for _ in range(3):
            reply = world.one(name)
            assert code(reply) == expected
            assert counts(reply) == (0, 1)
    assert len(server.asked) == 2
    world.loop.time += 31
    world.one("none.example.org")
    assert len(server.asked) == 3


def test_a_negative_answer_without_a_time_is_not_kept(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(lambda asked, _: response(asked, code=NXDOMAIN))
    for _ in range(2):
        assert code(world.one("none.example.org")) == NXDOMAIN
    assert len(server.asked) == 2


def test_a_kept_answer_grows_old(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8", ttl=100))
    assert world.one("www.example.org")[-10:-6] == struct.pack("!I", 100)
    world.loop.time += 40
    assert world.one("www.example.org")[-10:-6] == struct.pack("!I", 60)
    assert len(server.asked) == 1
    world.loop.time += 61
    assert world.one("www.example.org")[-10:-6] == struct.pack("!I", 100)
    assert len(server.asked) == 2


def test_the_same_question_is_under_way_once(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8"))
    replies = world.ask(*(query("www.example.org", number=n) for n in range(1, 21)))
    assert sorted(struct.unpack_from("!H", reply)[0] for reply in replies) == list(range(1, 21))
    assert len(server.asked) == 1


def test_ipv6_is_not_promised_where_it_leads_nowhere(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(
        lambda asked, _: response(asked, [record(ASKED, ns.AAAA, packed("2600::1"))])
    )
    assert counts(world.one("www.example.org", ns.AAAA)) == (1, 0)
    assert world.egress.judge(packed("2600::1"), 443, "tcp").allowed
    world.ipv6 = False
    reply = world.one("www.example.org", ns.AAAA)
    assert (code(reply), counts(reply)) == (0, (0, 0))
    assert len(server.asked) == 1


def test_hints_and_odd_questions_do_not_leave(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(say_a("8.8.8.8"))
    for kind in (64, 65):
        reply = world.one("www.example.org", kind)
        assert (code(reply), counts(reply)) == (0, (0, 0))
    for kind in (ns.ANY, 252, 251, 250, 249, 41, 0):
        assert code(world.one("www.example.org", kind)) == NOTIMP
    assert code(world.one("www.example.org", flags=0x2900)) == NOTIMP
    two = query("www.example.org")
    assert code(world.ask(two[:4] + b"\0\2" + two[6:])[0]) == FORMERR
    assert code(world.ask(two[:14])[0]) == FORMERR
    chaos = two[:-2] + b"\0\3"
    assert code(world.ask(chaos)[0]) == NOTIMP
    assert not world.ask(two[:11], seconds=0.05)
    assert not world.ask(two[:2] + b"\x81" + two[3:], seconds=0.05)
    assert not server.asked


def test_a_server_that_is_silent_or_gone_is_left(make: Callable[..., World]) -> None:
    world = make()
    gone = NameServer(world.loop, lambda *_: None)
    gone.close()
    silent = world.server(world.silent)
    good = world.server(say_a("8.8.8.8"))
    world.start(gone.where)
    assert code(world.one("a.example.org")) == 0
    assert code(world.one("b.example.org")) == 0
    assert len(silent.asked) == 1, "who answered last is asked first"
    assert len(good.asked) == 2


def test_a_server_that_is_gone_is_left_at_once(make: Callable[..., World]) -> None:
    """In no time: it stands still."""
    world = make()
    gone = NameServer(world.loop, lambda *_: None)
    gone.close()
    world.server(say_a("8.8.8.8"))
    world.start(gone.where)
    assert code(world.one("a.example.org")) == 0


def test_nobody_answers(make: Callable[..., World]) -> None:
    world = make()
    server = world.server(world.silent)
    assert code(world.one("www.example.org")) == SERVFAIL
    assert len(server.asked) == dns.ATTEMPTS
    assert len({asked[:2] for asked, _, _ in server.asked}) > 1, "an id serves once"
    assert world.start()._pending == {}


def test_a_failure_of_one_server_is_asked_of_the_next(make: Callable[..., World]) -> None:
    world = make()
    first = world.server(lambda asked, _: response(asked, code=SERVFAIL))
    world.server(say_a("8.8.8.8"))
    assert code(world.one("www.example.org")) == 0
    assert len(first.asked) == 1
    alone = make()
    refusing = alone.server(lambda asked, _: response(asked, code=REFUSED))
    assert code(alone.one("www.example.org")) == SERVFAIL, "REFUSED is only ever the policy's"
    assert len(refusing.asked) == 1


def test_a_server_from_before_edns(make: Callable[..., World]) -> None:
    world = make()

    def say(asked: bytes, _: bool) -> bytes:
        if asked[11]:
            return response(asked, code=FORMERR)
        return response(asked, [record(ASKED, ns.A, packed("8.8.8.8"))])

    server = world.server(say)
    assert code(world.one("www.example.org")) == 0
    assert len(server.asked) == 2


def test_the_tables_are_bounded(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "OUTSTANDING_MAX", 4)
    monkeypatch.setattr(dns, "WAITERS_MAX", 4)
    monkeypatch.setattr(dns, "CACHE_MAX", 4)
    world = make()
    server = world.server(world.silent)
    replies = world.ask(*(query(f"n{n}.example.org") for n in range(50)))
    assert all(code(reply) == SERVFAIL for reply in replies)
    assert len({asked[13:] for asked, _, _ in server.asked}) <= 4 * dns.ATTEMPTS
    replies = world.ask(*(query("one.example.org", number=n) for n in range(50)))
    assert len(replies) == 50
    dropped = world.account.as_dict()["dropped"]
    assert dropped == {"dns questions under way": 46, "dns clients of one question": 46}
    server.say = say_a("8.8.8.8")
    for each in range(20):
        world.one(f"m{each}.example.org")
    assert len(world.start()._cache) <= 4


def test_connections_are_bounded(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "STREAMS_MAX", 2)
    world = make()
    server = world.server(
        lambda asked, tcp: world.silent(asked, tcp) if tcp else response(asked, flags=0x8380)
    )
    replies = world.ask(*(query(f"n{n}.example.org") for n in range(20)))
    assert len(replies) == 20
    assert world.account.as_dict()["dropped"]["dns connections"] >= 18
    assert sum(tcp for _, tcp, _ in server.asked) <= 2 * dns.ATTEMPTS
    assert world.start()._streams == 0


def test_idle_sockets_are_closed(make: Callable[..., World]) -> None:
    world = make()
    world.server(say_a("8.8.8.8"))
    world.start()
    before = len(os.listdir("/proc/self/fd"))
    for each in range(5):
        world.one(f"n{each}.example.org")
    assert len(os.listdir("/proc/self/fd")) > before
    world.loop.time += dns.IDLE
    world.ask(b"", seconds=2 * dns.SWEEP)
    assert len(os.listdir("/proc/self/fd")) == before
    assert code(world.one("again.example.org")) == 0


def test_ipv6_servers(make: Callable[..., World]) -> None:
    world = make()
    world.servers.append(NameServer(world.loop, say_a("8.8.8.8"), "::1"))
    assert code(world.one("www.example.org")) == 0


# -- the format


def test_a_pointer_leads_backwards_only() -> None:
    question = ns.question_of(query("www.example.org"))
    head = response(query("www.example.org"))[:12]
    at = 12 + len(question)
    for owner in (
        struct.pack("!H", 0xC000 | at),
        struct.pack("!H", 0xC000 | at + 2),
        b"\xc0",
        b"\x41a\0",
    ):
        whole = head[:6] + b"\0\1\0\0\0\0" + question + record(owner, ns.A, b"\1\2\3\4")
        assert message.parse_answer(whole, question) is None


def test_aliases_in_a_circle() -> None:
    asked = query("www.example.org")
    other = ns.wire_name("other.example.org")
    circle = [record(ASKED, ns.CNAME, other), record(other, ns.CNAME, ASKED)]
    found = message.parse_answer(response(asked, circle), ns.question_of(asked))
    assert found is not None
    assert found.addresses == ()


@pytest.mark.parametrize(
    "bad",
    [
        *(record(ASKED, ns.A, b"123"), record(ASKED, ns.AAAA, b"1234"), record(ASKED, ns.OPT, b"")),
        *(record(ASKED, ns.A, b"1234")[:-1], record(ASKED, ns.CNAME, b"\x03ab"), b"\0"),
    ],
)
def test_a_malformed_record_spoils_the_answer(bad: bytes) -> None:
    asked = query("www.example.org")
    assert message.parse_answer(response(asked, [bad]), ns.question_of(asked)) is None


def test_an_answer_has_a_bounded_number_of_records() -> None:
    asked = query("www.example.org")
    question = ns.question_of(asked)
    assert message.parse_answer(many(asked, message.RECORDS_MAX), question)
    assert message.parse_answer(many(asked, message.RECORDS_MAX + 1), question) is None


@given(st.binary(max_size=600))
def test_any_bytes_from_the_sandbox(data: bytes) -> None:
    found = message.parse_query(data)
    if found and not found.error:
        message.shown(found.name)
        message.text_of(found.name)
        number, question, sent = message.make_query(found, extended=True)
        assert question.lower() == found.question.lower()
        assert message.parse_query(sent) is not None
        assert number == message.number_of(sent)


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_from_a_server(tail: bytes, answers: int, authorities: int) -> None:
    asked = query("www.example.org")
    question = ns.question_of(asked)
    whole = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, answers, authorities, 0) + question + tail
    found = message.parse_answer(whole, question)
    if found is not None:
        client = message.parse_query(query("WWW.example.org", size=1232))
        assert client is not None
        assert len(message.reply(client, found, 5)) >= 12


RECORDS = st.lists(
    st.tuples(
        st.sampled_from([ASKED, ns.wire_name("a.b"), b"\xc0\x10", b"\1x\xc0\x0c"]),
        st.sampled_from([ns.A, ns.AAAA, ns.CNAME, 16, 65]),
        st.integers(0, (1 << 32) - 1),
        st.binary(min_size=4, max_size=4),
    ),
    max_size=8,
)


@given(RECORDS, st.integers(0, 1 << 20))
def test_records_come_through_as_they_were(
    records: list[tuple[bytes, int, int, bytes]], age: int
) -> None:
    made = []
    for owner, kind, ttl, content in records:
        fitting = {ns.AAAA: content * 4, ns.CNAME: b"\1" + b"c\xc0\x0c"}.get(kind, content)
        made.append(record(owner, kind, fitting, ttl))
    asked = query("www.example.org")
    whole = response(asked, made)
    found = message.parse_answer(whole, ns.question_of(asked))
    assert found is not None
    client = message.parse_query(asked)
    assert client is not None
    assert message.reply(client, found, 0) == whole
    aged = message.reply(client, found, age)
    expected = [
        record(owner, kind, rest[len(owner) + 10 :], max(0, ttl - age))
        for (owner, kind, ttl, _), rest in zip(records, made, strict=True)
    ]
    assert aged == response(asked, expected)


@given(st.binary(max_size=300), st.booleans())
def test_asking_never_raises(data: bytes, stream: bool) -> None:
    world = World("public")
    try:
        world.server(lambda *_: data)
        world.start().ask(data, lambda _: None, stream=stream)
    finally:
        world.close()


# -- the host's servers


def test_the_name_servers_of_the_host(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert host_upstreams(str(file)) == (("127.0.0.1", 53),)
    file.write_text(
        "# nameserver 1.1.1.1\nsearch corp.example\nnameserver 127.0.0.53\n"
        "options edns0\nnameserver fe80::1%eth0\nnameserver\n nameserver 9.9.9.9 # x\n"
        "nameserver 8.8.8.8\n"
    )
    assert host_upstreams(str(file)) == (("127.0.0.53", 53), ("fe80::1%eth0", 53), ("9.9.9.9", 53))
    file.write_bytes(b"\xff\xfe\0nameserver")
    assert host_upstreams(str(file)) == (("127.0.0.1", 53),)
    os.mkfifo(tmp_path / "pipe")
    assert host_upstreams(str(tmp_path / "pipe")) == (("127.0.0.1", 53),)


@pytest.mark.parametrize("stream", [False, True])
def test_without_watches_a_question_fails_and_the_next_does_not(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The kernel counts them for the user: another sandbox may have them all."""
    world = make()

    def say(asked: bytes, tcp: bool) -> bytes:
        found = [record(ASKED, 1, packed("8.8.8.8"))]
        return response(asked, found, flags=0x8380 if stream and not tcp else 0x8180)

    world.server(say)
    watch = world.loop.watch

    def scarce(fd: int, events: int, ready: Callable[[int], None]) -> None:
        if stream == (events == select.EPOLLOUT):
            raise OSError(errno.ENOSPC, "No space left on device")
        watch(fd, events, ready)

    with monkeypatch.context() as patch:
        patch.setattr(world.loop, "watch", scarce)
        assert world.one("a.example.org")[3] & 15 == SERVFAIL
    assert world.one("a.example.org")[3] & 15 == 0
