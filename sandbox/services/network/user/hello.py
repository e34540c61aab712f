"""The name that a client asks a web server for: the SNI of TLS, the Host of HTTP/1.

Reads the first bytes of a connection, which are hostile, and nothing after them. Whatever is odd,
ambiguous or of another protocol asks for no name.
"""

from __future__ import annotations

from sandbox.policy.egress import canonical_name

FIRST_MAX = 16384
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0
_RECORD_MAX = 1 << 14
_METHOD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_")


class _Short(Exception):
    """The bytes end before the message does."""


def asked_name(data: bytes) -> str | None:
    """The canonical name, "" when there is none to be believed, None when more bytes may tell."""
    data = data[:FIRST_MAX]
    try:
        name = _of_tls(data) if data[:1] == bytes([_HANDSHAKE]) else _of_http(data)
        return canonical_name(name.decode("ascii"))
    except _Short:
        return None if len(data) < FIRST_MAX else ""
    except ValueError:
        return ""


class _Reader:
    """Fields of TLS within a part of a message; what is cut short raises `short`."""

    def __init__(self, data: bytes, short: Exception) -> None:
        self._data = data
        self._at = 0
        self._short = short

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise self._short
        self._at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        """A part with its length in `size` bytes before it: all of it is there or none."""
        return _Reader(self.take(self.number(size)), ValueError("does not fit"))

    def more(self) -> bool:
        return self._at < len(self._data)

    def rest(self) -> bytes:
        return self._data[self._at :]


def _of_tls(data: bytes) -> bytes:
    hello = _Reader(_handshake(data), _Short())
    if hello.number(1) != _CLIENT_HELLO:
        raise ValueError("not a ClientHello")
    body = hello.vector(3)
    body.take(2 + 32)  # version, random
    body.vector(1)  # session
    body.vector(2)  # ciphers
    body.vector(1)  # compression
    names = []
    if body.more():
        extensions = body.vector(2)
        while extensions.more():
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind == _SERVER_NAME:
                names.append(_host_name(content))
    if len(names) != 1:
        raise ValueError("no name or several")
    return names[0]


def _handshake(data: bytes) -> bytes:
    """What the leading handshake records hold together, as far as it is there."""
    joined, at = bytearray(), 0
    while len(data) >= at + 5 and data[at] == _HANDSHAKE:
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at + 1] != 3 or not 0 < length <= _RECORD_MAX:
            raise ValueError("not a record of TLS")
        joined += data[at + 5 : at + 5 + length]
        at += 5 + length
    whole = 4 + int.from_bytes(joined[1:4], "big") if len(joined) >= 4 else 4
    if len(joined) < whole and at < len(data) and data[at] != _HANDSHAKE:
        raise ValueError("another record within a message")
    return bytes(joined)


def _host_name(content: _Reader) -> bytes:
    entries = content.vector(2)
    kind, name = entries.number(1), entries.vector(2)
    if kind != 0 or entries.more() or content.more():
        raise ValueError("not one host name")
    return name.rest()


def _of_http(data: bytes) -> bytes:
    head, end, _ = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    method = lines[0].partition(b" ")[0]
    if not _METHOD.issuperset(method) or len(method) > 32:
        raise ValueError("not a method")
    if not end:
        raise _Short
    parts = lines[0].split(b" ")
    if (
        len(parts) != 3
        or not parts[2].startswith(b"HTTP/1.")
        or b"\n" in head.replace(b"\r\n", b"")
    ):
        raise ValueError("not a request of HTTP/1")
    hosts = []
    for line in lines[1:]:
        key, colon, value = line.partition(b":")
        # Servers differ on folded lines and on spaces before the colon.
        if not colon or not key or key != key.strip():
            raise ValueError("not a header")
        if key.lower() == b"host":
            hosts.append(value.strip(b" \t"))
    if len(hosts) != 1:
        raise ValueError("no host or several")
    return _authority(parts[1], hosts[0])


def _authority(target: bytes, host: bytes) -> bytes:
    """The name in Host, which an absolute target must repeat: servers prefer the target."""
    scheme, double, rest = target.partition(b"://")
    if not target.startswith((b"/", b"*")) and (
        not double
        or scheme.lower() not in {b"http", b"https"}
        or rest.partition(b"/")[0].partition(b"?")[0].lower() != host.lower()
    ):
        raise ValueError("a target of its own")
    name, colon, port = host.partition(b":")
    if colon and not port.isdigit():
        raise ValueError("not a port")
    return name
