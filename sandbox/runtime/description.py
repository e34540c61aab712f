"""What is written down of a sandbox when it starts, in the file `sandbox` of its folder.

Owns its form: a sum over what follows, then marshal of plain values. Every type is checked.
"""

from __future__ import annotations

import marshal
from binascii import crc32

from sandbox.record import Record

SCHEMA = "sbx.sandbox/1"
_SUM_BYTES = 4
_MARSHAL = 4  # the form that every Python from 3.4 on reads


class Description(Record):
    """What is known of a sandbox from its start on. Times in seconds since the epoch.

    `pid` and `started_ticks` (proc(5), field 22) tell the launcher from a later process with
    its number, `boot_id` from one of an earlier boot. `capabilities`: what user 0 and what
    others may keep, as masks. `shareable`: what others may share with it; `shares`: what it
    shares with another. `cgroup`: driver, folder and inode of its control group, "" for none.
    """

    id: str
    name: str
    created_s: float
    boot_id: str
    rootfs: str
    argv: tuple[str, ...]
    policy: str
    pid: int = 0
    started_ticks: int = 0
    detached: bool = False
    tty: bool = False
    input: bool = False
    auto_remove: bool = False
    restart: str = "no"
    timeout_s: float = 0.0
    grace_s: float = 0.0
    storage: str = ""
    storage_reason: str = ""
    network: str = ""
    identity: str = ""
    has_init: bool = True
    layers: tuple[str, ...] = ()
    degradations: tuple[tuple[str, str, str], ...] = ()
    capabilities: tuple[int, int] = (0, 0)
    cgroup: tuple[str, str, int] = ("", "", 0)
    shareable: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


_SHAPES = {name: type(value) for name, value in Description("", "", 0.0, "", "", (), "")} | {
    "argv": [str],
    "layers": [str],
    "degradations": [(str, str, str)],
    "capabilities": (int, int),
    "cgroup": (str, str, int),
    "shareable": [str],
    "shares": [str],
}


def encode(description: Description) -> bytes:
    """Its form in the folder."""
    data = marshal.dumps({"schema": SCHEMA, **dict(description)}, _MARSHAL)
    return crc32(data).to_bytes(_SUM_BYTES, "little") + data


def decode(data: bytes) -> Description | None:
    """Read it; None for what is spoilt, or of another version."""
    total, data = data[:_SUM_BYTES], data[_SUM_BYTES:]
    # Damaged numbers could make marshal take all the memory there is.
    if crc32(data).to_bytes(_SUM_BYTES, "little") != total:
        return None
    try:
        fields = marshal.loads(data)  # noqa: S302 (a folder that is ours alone)
        if not isinstance(fields, dict) or fields.pop("schema") != SCHEMA:
            return None
        found = Description(**fields)
    except (ValueError, EOFError, KeyError, TypeError):
        return None
    return found if all(_fits(value, _SHAPES[name]) for name, value in found) else None


def _fits(value: object, shape: object) -> bool:
    """Whether a value has a type, or is a tuple whose values fit: each its own shape, or, of a
    list with one shape, all of them that one."""
    if isinstance(shape, type):
        return type(value) is shape or (shape is float and type(value) is int)
    if not isinstance(value, tuple):
        return False
    if isinstance(shape, list):
        return all(_fits(one, shape[0]) for one in value)
    return isinstance(shape, tuple) and len(value) == len(shape) and all(map(_fits, value, shape))
