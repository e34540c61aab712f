"""How a process that serves a network gives up rights, for good; what it keeps, its own room says.

The order matters: Landlock and filters are for who has called `refuse_privileges` before. Every
function raises OSError with the step that failed as the file name.
"""

from __future__ import annotations

import ctypes
import os
import struct

from sandbox.seccomp.syscalls_x86_64 import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
_GET_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2
# Rights on files that exist from each version of Landlock on, as a number of low bits.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
EXECUTE, READ_FILE, READ_DIR = 1, 4, 8
EVERYTHING = -1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(step: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)
    return result


def _call(name: str, *arguments: object) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(name, int(_libc.syscall(ctypes.c_long(NUMBERS[name]), *wide)))


def _prctl(option: int, value: int) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def keep_capabilities(*kept: int) -> None:
    """Drop every capability but these, by number; from the bounding set too where it may."""
    for number in range(_CAPABILITIES):
        if number not in kept:  # EINVAL behind the last of this kernel, EPERM for who has no say
            _prctl(_PR_CAPBSET_DROP, number)
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, struct.pack("=IIIIII", low, low, 0, high, high, 0))


def refuse_privileges() -> None:
    """Gain none by execve(2), and let nobody of the same user read the memory (not dumpable)."""
    _check("no_new_privs", _prctl(_PR_SET_NO_NEW_PRIVS, 1))
    _check("dumpable", _prctl(_PR_SET_DUMPABLE, 0))


def close_files(kept: Iterable[tuple[str, int]] = ()) -> None:
    """Landlock: of all file systems only what is beneath these paths, with these rights, and no
    abstract socket or signal to a process outside.

    A path that this host does not have is left out. A kernel without Landlock is no failure.
    """
    try:
        version = _call("landlock_create_ruleset", None, 0, _GET_VERSION)
    except OSError:
        return
    handled = (1 << max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = struct.pack("=Q", handled)
    if version >= 6:
        attributes += struct.pack("=QQ", 0, _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL)
    ruleset = _call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        for path, rights in kept:
            _allow(ruleset, path, rights & handled)
        _call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def filter_calls(program: bytes) -> None:
    """Install a seccomp filter: struct sock_filter, one after the other."""
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    _call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, pointer)
