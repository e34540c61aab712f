"""The two tables of operations, Python's and C's, are one; encoding is exact and bounded."""

from __future__ import annotations

import inspect
import re
import struct
from pathlib import Path

import pytest

from sandbox.errors import SbxError
from sandbox.plan import ops, wire

HEADER = Path(__file__).parents[3] / "helpers" / "launcher" / "plan.h"


def _python_table() -> dict[int, str]:
    classes = [c for _, c in inspect.getmembers(ops, inspect.isclass) if issubclass(c, ops.Op)]
    return {c.opcode: c.signature for c in classes if c is not ops.Op}


def _native_table() -> dict[int, str]:
    rows = re.findall(r'OPERATION\(\w+, (\d+), \w+, "(\w*)"\)', HEADER.read_text())
    return {int(opcode): signature for opcode, signature in rows}


def test_tables_agree() -> None:
    assert _python_table() == _native_table()
    assert len(_native_table()) > 30


def test_every_signature_fits_its_fields() -> None:
    for _, cls in inspect.getmembers(ops, inspect.isclass):
        if issubclass(cls, ops.Op) and cls is not ops.Op:
            assert len(cls.signature) == len(cls._fields), cls


def test_encoding_of_each_kind_of_field() -> None:
    op = ops.Bind("/s", 7, 8, 0o40000, "/t", ops.RDONLY, 1)
    body = (
        struct.pack("<I", 2)
        + b"/s\0"
        + struct.pack("<QQI", 7, 8, 0o40000)
        + struct.pack("<I", 2)
        + b"/t\0"
        + struct.pack("<II", 1, 1)
    )
    assert wire.encode_op(op) == struct.pack("<HHI", 16, 0, len(body)) + body


def test_message_header_counts_bytes_and_operations() -> None:
    message = wire.encode([ops.Private(), ops.Pivot()])
    assert message[:4] == b"SBXP"
    assert struct.unpack_from("<III", message, 4) == (wire.VERSION, len(message), 2)


def test_nul_in_a_string_is_refused() -> None:
    with pytest.raises(SbxError, match="NUL"):
        wire.encode([ops.Mask("/a\0b")])


def test_bytes_that_are_no_utf8_survive() -> None:
    assert b"/\xff\0" in wire.encode([ops.Mask("/\udcff")])


def test_too_large_a_plan_is_refused() -> None:
    with pytest.raises(SbxError, match="too large"):
        wire.encode([ops.File("/f", b"x" * wire.MAX_BYTES, 0)])
    with pytest.raises(SbxError, match="4097 steps, the launcher takes 4096"):
        wire.encode([ops.Remount("/", 0)] * 4097)
