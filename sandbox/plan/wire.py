"""The Plan as the message the launcher reads. Layout: helpers/launcher/plan.h."""

from __future__ import annotations

import os
import struct

from sandbox.errors import SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sandbox.plan.ops import Op

MAGIC = b"SBXP"
VERSION = 1
MAX_BYTES = 8 << 20
MAX_OPS = 4096


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _blob(value: bytes) -> bytes:
    return _u32(len(value)) + value


def _string(value: str) -> bytes:
    raw = os.fsencode(value)
    if b"\0" in raw:
        raise SbxError(f'a NUL byte stands in "{value}"')
    return _blob(raw) + b"\0"


def _field(kind: str, value: Any) -> bytes:
    if kind == "u":
        return _u32(value)
    if kind == "q":
        return struct.pack("<Q", value)
    if kind == "s":
        return _string(value)
    if kind == "b":
        return _blob(value)
    if kind == "S":
        return _u32(len(value)) + b"".join(map(_string, value))
    if kind == "G":
        return _u32(len(value)) + b"".join(map(_u32, value))
    return _u32(len(value)) + b"".join(struct.pack("<III", *extent) for extent in value)


class _Reader:
    """Takes fields off a message; raises SbxError at the first that does not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def bytes(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _damaged("it ends too early")
        taken, self._at = self._data[self._at : end], end
        return taken

    def u32(self) -> int:
        return int.from_bytes(self.bytes(4), "little")

    def string(self) -> str:
        raw = self.bytes(self.u32() + 1)
        return os.fsdecode(raw[:-1])

    def field(self, kind: str) -> Any:
        if kind == "u":
            return self.u32()
        if kind == "q":
            return int.from_bytes(self.bytes(8), "little")
        if kind == "s":
            return self.string()
        if kind == "b":
            return self.bytes(self.u32())
        each = {"S": self.string, "G": self.u32, "L": self._extent}[kind]
        return tuple(each() for _ in range(self.u32()))

    def _extent(self) -> tuple[int, int, int]:
        return struct.unpack("<III", self.bytes(12))


def _damaged(why: str) -> SbxError:
    return SbxError("cannot read the plan of a sandbox", cause=why, hint="remove that sandbox")


def decode(message: bytes) -> tuple[Op, ...]:
    """The operations of a message that `encode` made. Raises SbxError for any other."""
    from sandbox.plan import ops

    known = {kind.opcode: kind for kind in ops.Op.__subclasses__()}
    reader = _Reader(message)
    if reader.bytes(4) != MAGIC or reader.u32() != VERSION or reader.u32() != len(message):
        raise _damaged("it was made by another version of sbx")
    found = []
    for _ in range(reader.u32()):
        opcode, _zero = struct.unpack("<HH", reader.bytes(4))
        body = _Reader(reader.bytes(reader.u32()))
        kind = known.get(opcode)
        if kind is None:
            raise _damaged(f"operation {opcode} is unknown")
        found.append(kind(*(body.field(letter) for letter in kind.signature)))
    return tuple(found)


def encode_op(op: Op) -> bytes:
    """One operation: u16 opcode, u16 zero, u32 length, body."""
    try:
        return op.encoded
    except AttributeError:
        pass
    body = b"".join(_field(kind, value) for kind, (_, value) in zip(op.signature, op, strict=True))
    encoded = struct.pack("<HHI", op.opcode, 0, len(body)) + body
    object.__setattr__(op, "encoded", encoded)  # of a frozen value: it stays true
    return encoded


def encode(ops: Iterable[Op]) -> bytes:
    """The whole message. Raises SbxError when it exceeds what the launcher accepts.

    That is MAX_BYTES and MAX_OPS (PLAN_MAX_BYTES and PLAN_MAX_OPS in plan.h).
    """
    encoded = [encode_op(op) for op in ops]
    if len(encoded) > MAX_OPS:
        raise SbxError(
            f"the plan is too long: {len(encoded)} steps, the launcher takes {MAX_OPS}",
            hint="use fewer mounts, for example one of the folder that holds them all",
        )
    body = b"".join(encoded)
    if len(body) + 16 > MAX_BYTES:
        raise SbxError(
            f"the plan is too large: {len(body)} bytes",
            hint="pass fewer or shorter arguments and environment variables",
        )
    return MAGIC + struct.pack("<III", VERSION, len(body) + 16, len(encoded)) + body
