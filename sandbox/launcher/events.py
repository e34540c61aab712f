"""What the launcher says: fixed records on the channel, decoded strictly into values.

Owns the wire form of events and the words for stages. Texts are passed on as they came, with
undecodable bytes kept as surrogates: whoever prints them escapes them.
The C side of the record is helpers/launcher/report.c.
"""

from __future__ import annotations

import struct

from sandbox.errors import SetupError
from sandbox.record import Record

RECORD_BYTES = 512
TEXT_BYTES = 456
_RECORD = struct.Struct(f"<4sHHiiiiQQQQ{TEXT_BYTES}s")
_MAGIC = b"SBXE"

STARTED, WARNING, ERROR, RUNNING, EXITED, DONE, TTY, HELD, *_KEPT = KINDS = tuple(range(1, 13))
NAMESPACES, LIMIT, ORDER, FULL = _KEPT

STAGE_DECODE, STAGE_CLONE, STAGE_MAP, STAGE_SETUP, STAGE_SECURITY, STAGE_EXEC = range(1, 7)
STAGE_RUN, STAGE_END = 7, 8
STAGE_WORDS = {
    STAGE_DECODE: "read the plan",
    STAGE_CLONE: "create the namespaces",
    STAGE_MAP: "write the id maps",
    STAGE_SETUP: "set up the root file system",
    STAGE_SECURITY: "apply the security profile",
    STAGE_EXEC: "execute the command",
    STAGE_RUN: "run the command",
    STAGE_END: "end the sandbox",
}

PHASES = ("", "decode", "clone", "map", "setup", "security", "exec", "run", "end")  # by stage

# Orders: one byte each; 1 … 64 are signals for the payload.
RELEASE = 0  # lets a held sandbox go on
KILL_ALL = 255


class Event(Record):
    """One record: `op` is the operation's index in the plan or -1, `status` a raw wait status.

    `utime_us`, `stime_us` are CPU times in microseconds, `maxrss_kib` a peak in KiB,
    `written_blocks` what was written to disks, in blocks of 512 bytes.
    """

    kind: int
    stage: int = 0
    op: int = -1
    errno: int = 0
    pid: int = 0
    status: int = 0
    utime_us: int = 0
    stime_us: int = 0
    maxrss_kib: int = 0
    written_blocks: int = 0
    text: str = ""


def decode(data: bytes) -> Event | None:
    """Decode one record; None for a kind this version does not know.

    Raises SetupError when the record breaks the protocol: length, magic, padding or ranges.
    """
    if len(data) != RECORD_BYTES:
        raise _malformed(f"{len(data)} bytes long, not {RECORD_BYTES}")
    magic, kind, stage, op, number, pid, status, *usage, raw = _RECORD.unpack(data)
    utime, stime, maxrss, written = usage
    if magic != _MAGIC:
        raise _malformed("wrong magic")
    if kind not in KINDS:
        return None
    text, _, padding = raw.partition(b"\0")
    if padding.strip(b"\0"):
        raise _malformed("bytes after the end of its text")
    if op < -1 or not 0 <= number < 4096 or pid < 0:
        raise _malformed("a number is out of range")
    words = text.decode("utf-8", "surrogateescape")
    return Event(kind, stage, op, number, pid, status, utime, stime, maxrss, written, words)


def encode(event: Event) -> bytes:
    """The wire form of `event`, as the launcher would send it; text is cut to fit."""
    text = event.text.encode("utf-8", "surrogateescape")[: TEXT_BYTES - 1]
    head = (event.stage, event.op, event.errno, event.pid, event.status)
    usage = (event.utime_us, event.stime_us, event.maxrss_kib, event.written_blocks)
    return _RECORD.pack(_MAGIC, event.kind, *head, *usage, text)


def _malformed(why: str) -> SetupError:
    return SetupError(
        "cannot understand the launcher",
        cause=f"an event is malformed: {why}",
        hint="the installed parts of sbx do not fit together: install sbx again",
    )
