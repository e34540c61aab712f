"""The format of DNS (RFC 1035, 6891), as far as a forwarder has to know it.

Reads what the sandbox and the name servers send, both hostile: every length is checked, names are
followed backwards only, and a message has a bounded number of records. `None` means that it
is not to be believed. Domain names are kept in their wire form; `text_of` gives the usual one.
"""

from __future__ import annotations

import os
from struct import Struct, error

from sandbox.record import Record

A, CNAME, SOA, AAAA, OPT, SVCB, HTTPS = 1, 5, 6, 28, 41, 64, 65
FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
IN = 1
SIZE = 1232
"""How long a message over UDP may be: what no path of IPv6 has to cut."""

RECORDS_MAX = 512
_ADDITIONAL_MAX = 4
_LABELS_MAX = 128
_NAME_MAX = 255
_RESPONSE, _TRUNCATED, _ASKED, _OFFERED = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_PROHIBITED = 18  # RFC 8914

_HEADER = Struct("!HHHHHH")
_TYPES = Struct("!HH")
_RECORD = Struct("!HHIH")
_SOA_TAIL = Struct("!IIIII")
_U32 = Struct("!I")
_LETTERS = bytes(0x20 if chr(byte).isalpha() and byte < 128 else 0 for byte in range(256))
_OPT = b"\0" + _RECORD.pack(OPT, SIZE, 0, 0)


class Malformed(ValueError):
    """Not a message, or one with more in it than any honest one has."""


class Query:
    """What a client asks. `question`: name (in its case), type and class; `name`: in lower case.

    `size`: the longest answer it takes over UDP; `extended`: it knows EDNS. `error`: what it is to
    be told instead of an answer, 0 for none.
    """

    __slots__ = ("error", "extended", "flags", "kind", "name", "number", "question", "size")

    def __init__(self, number: int, flags: int) -> None:
        self.number = number
        self.flags = flags
        self.question = b""
        self.name = b""
        self.kind = 0
        self.size = 512
        self.extended = False
        self.error = 0


class Answer(Record):
    """What a name server said, without the question.

    `records`: `answers` records and then `authorities`, with names that point into the message;
    `ttls`: where their times to live stand in it. `addresses`: those of the question's own chain.
    `ttl`: for how long all of it holds, 0 when nobody said.
    """

    code: int
    records: bytes
    answers: int
    authorities: int
    ttls: tuple[int, ...]
    addresses: tuple[bytes, ...]
    ttl: int


def parse_query(message: bytes) -> Query | None:
    """The question in a message from the sandbox; None for what deserves no reply."""
    if len(message) < 12:
        return None
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _RESPONSE:
        return None
    query = Query(number, flags)
    if flags & _OPCODE:
        query.error = NOTIMP
        return query
    try:
        if questions != 1 or answers or authorities or additional > _ADDITIONAL_MAX:
            raise Malformed
        at = _end_of_plain(message, 12)
        query.name = message[12:at].lower()
        query.kind, kin = _TYPES.unpack_from(message, at)
        at += 4
        query.question = message[12:at]
        if kin != IN:
            query.error = NOTIMP
        for _ in range(additional):
            begin = at
            at = _skip_name(message, at)
            kind, size, _, length = _RECORD.unpack_from(message, at)
            at += 10 + length
            if at > len(message) or (kind == OPT and (query.extended or message[begin])):
                raise Malformed
            if kind == OPT:
                query.extended, query.size = True, max(size, 512)
    except (Malformed, IndexError, error):
        query.error = FORMERR
    return query


def text_of(name: bytes) -> str | None:
    """The usual form of a name, None when its bytes would read as another name."""
    labels, at = [], 0
    while name[at]:
        labels.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    joined = b".".join(labels)
    if joined.count(b".") != max(0, len(labels) - 1) or not joined.isascii():
        return None
    return joined.decode("ascii")


def shown(name: bytes) -> str:
    """A name for people, whatever its bytes are."""
    labels, at = [], 0
    while at < len(name) and name[at]:
        label = name[at + 1 : at + 1 + name[at]]
        labels.append(ascii(label.decode("latin-1"))[1:-1].replace(".", "\\."))
        at += 1 + name[at]
    return ".".join(labels) or "."


# -- what goes to a name server


def make_query(query: Query, *, extended: bool) -> tuple[int, bytes, bytes]:
    """(id, question, message) that asks the same with an id and a spelling that nobody can guess.

    Letters have random case (0x20), which a server repeats, like the id.
    """
    name = query.name
    size = len(name)
    drawn = os.urandom(2 + size)
    number = int.from_bytes(drawn[:2], "big")
    mask = int.from_bytes(name.translate(_LETTERS), "big") & int.from_bytes(drawn[2:], "big")
    mixed = (int.from_bytes(name, "big") ^ mask).to_bytes(size, "big")
    question = mixed + _TYPES.pack(query.kind, IN)
    header = _HEADER.pack(number, _ASKED, 1, 0, 0, int(extended))
    return number, question, header + question + (_OPT if extended else b"")


def number_of(message: bytes) -> int:
    """The id of a message, -1 for what is too short to have one."""
    return (message[0] << 8) | message[1] if len(message) >= 12 else -1


def is_answer_to(message: bytes, question: bytes) -> bool:
    """Whether a message of at least 12 bytes is a response to exactly this question."""
    return bool(
        message[2] & 0x80
        and not message[2] & 0x78
        and message[4:6] == b"\0\1"
        and message[12 : 12 + len(question)] == question
    )


def is_truncated(message: bytes) -> bool:
    """Whether the server had more to say than it could."""
    return bool(message[2] & 0x02)


def parse_answer(message: bytes, question: bytes) -> Answer | None:
    """What an answer to `question` says; None when it is malformed."""
    try:
        return _parse_answer(message, question)
    except (Malformed, IndexError, error):
        return None


def _parse_answer(message: bytes, question: bytes) -> Answer:
    _, flags, _, answers, authorities, _ = _HEADER.unpack_from(message)
    if answers + authorities > RECORDS_MAX:
        raise Malformed
    start = at = 12 + len(question)
    asked = _TYPES.unpack_from(question, len(question) - 4)[0]
    begin = question[:-4].lower()
    aliases: dict[bytes, bytes] = {}
    found: list[tuple[bytes, bytes]] = []
    ttls: list[int] = []
    ttl, positive = 1 << 31, False
    for _ in range(answers):
        owner = begin if message[at : at + 2] == b"\xc0\x0c" else _read_name(message, at)
        at = _skip_name(message, at)
        kind, kin, seconds, length = _RECORD.unpack_from(message, at)
        ttls.append(at + 4 - start)
        ttl = min(ttl, _sane(seconds))
        at += 10
        content = message[at : at + length]
        if len(content) != length or kind == OPT:
            raise Malformed
        positive = positive or kind == asked
        if kin == IN and kind == CNAME:
            aliases.setdefault(owner, _read_name(message, at))
        elif kin == IN and kind in {A, AAAA}:
            if length != (4 if kind == A else 16):
                raise Malformed
            found.append((owner, content))
        at += length
    held = at
    if positive:
        authorities = 0
    else:
        said = False
        for _ in range(authorities):
            at = _skip_name(message, at)
            kind, kin, seconds, length = _RECORD.unpack_from(message, at)
            ttls.append(at + 4 - start)
            at += 10
            if at + length > len(message) or kind == OPT:
                raise Malformed
            if kind == SOA and kin == IN and length >= 22:
                lowest = _SOA_TAIL.unpack_from(message, at + length - 20)[4]
                ttl, said = min(ttl, _sane(seconds), lowest), True
            at += length
        held = at
        ttl = ttl if said else 0
    chain, name = {begin}, begin
    while name in aliases and aliases[name] not in chain:
        name = aliases[name]
        chain.add(name)
    addresses = tuple(content for owner, content in found if owner in chain)
    return Answer(
        flags & 0xF, message[start:held], answers, authorities, tuple(ttls), addresses, ttl
    )


def _sane(seconds: int) -> int:
    return seconds if seconds < 1 << 31 else 0  # RFC 2181, 8


# -- what goes to the sandbox


def reply(query: Query, answer: Answer, age: int) -> bytes:
    """An answer that was had `age` seconds ago, for a client that asked the same."""
    records = answer.records
    if age and answer.ttls:
        changed = bytearray(records)
        for at in answer.ttls:
            left = _U32.unpack_from(changed, at)[0] - age
            _U32.pack_into(changed, at, max(0, left))
        records = bytes(changed)
    flags = _RESPONSE | _OFFERED | (query.flags & _ASKED) | answer.code
    extra = _OPT if query.extended else b""
    counts = answer.answers, answer.authorities, int(query.extended)
    return _HEADER.pack(query.number, flags, 1, *counts) + query.question + records + extra


def reply_addresses(query: Query, addresses: tuple[bytes, ...], ttl: int) -> bytes:
    """An answer of our own: those addresses that are of the kind that was asked for."""
    size = {A: 4, AAAA: 16}.get(query.kind, 0)
    fitting = [address for address in addresses if len(address) == size]
    head = b"\xc0\x0c" + _RECORD.pack(query.kind, IN, ttl, size)
    records = b"".join(head + address for address in fitting)
    return reply(query, Answer(0, records, len(fitting), 0, (), (), ttl), 0)


def reply_error(query: Query, code: int, *, why: str = "") -> bytes:
    """A refusal or a failure; `why` reaches a client that knows extended errors."""
    flags = _RESPONSE | _OFFERED | (query.flags & (_ASKED | _OPCODE)) | code
    extra = b""
    if query.extended:
        text = _TYPES.pack(15, 2 + len(why)) + _PROHIBITED.to_bytes(2, "big") if why else b""
        text += why.encode()
        extra = b"\0" + _RECORD.pack(OPT, SIZE, 0, len(text)) + text
    asked = bool(query.question)
    return _HEADER.pack(query.number, flags, asked, 0, 0, bool(extra)) + query.question + extra


def reply_truncated(query: Query) -> bytes:
    """Ask again over TCP."""
    flags = _RESPONSE | _TRUNCATED | _OFFERED | (query.flags & _ASKED)
    extra = _OPT if query.extended else b""
    return _HEADER.pack(query.number, flags, 1, 0, 0, int(query.extended)) + query.question + extra


# -- names


def _end_of_plain(message: bytes, at: int) -> int:
    """Where a name without pointers ends."""
    begin = at
    while message[at]:
        if message[at] > 63:
            raise Malformed
        at += 1 + message[at]
    if at + 1 - begin > _NAME_MAX:
        raise Malformed
    return at + 1


def _skip_name(message: bytes, at: int) -> int:
    """Where the name at `at` ends in this place; its pointer is not followed."""
    while True:
        length = message[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            raise Malformed
        at += 1 + length
        if not length:
            return at


def _read_name(message: bytes, at: int) -> bytes:
    """The name at `at`, uncompressed and in lower case."""
    found, low, hops = bytearray(), at, 0
    while True:
        length = message[at]
        if length >= 0xC0:
            at = (length & 0x3F) << 8 | message[at + 1]
            hops += 1
            # A pointer leads backwards, or names would have no end.
            if at >= low or hops > _LABELS_MAX:
                raise Malformed
            low = at
            continue
        if length > 63 or len(found) > _NAME_MAX:
            raise Malformed
        label = message[at : at + 1 + length]
        if len(label) <= length:
            raise Malformed
        found += label
        at += 1 + length
        if not length:
            return bytes(found).lower()
