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


def encode_op(op: Op) -> bytes:
    """One operation: u16 opcode, u16 zero, u32 length, body."""
    body = b"".join(_field(kind, value) for kind, (_, value) in zip(op.signature, op, strict=True))
    return struct.pack("<HHI", op.opcode, 0, len(body)) + body


def encode(ops: Iterable[Op]) -> bytes:
    """The whole message. Raises SbxError when it exceeds what the launcher accepts (8 MiB)."""
    encoded = [encode_op(op) for op in ops]
    body = b"".join(encoded)
    if len(body) + 16 > MAX_BYTES:
        raise SbxError(
            f"the plan is too large: {len(body)} bytes",
            hint="pass fewer or shorter arguments and environment variables",
        )
    return MAGIC + struct.pack("<III", VERSION, len(body) + 16, len(encoded)) + body
