"""Raw kernel calls for the trial processes: the only place of this room that loads ctypes.

Imported by `trials` in a short-lived child, never by the program that asks. Each function
raises OSError whose `filename` names the step that failed. Numbers are those of the kernel's
uapi headers.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101

LANDLOCK_CREATE_RULESET = 444
LANDLOCK_CREATE_RULESET_VERSION = 1

_SECCOMP_NUMBER = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}
_GETPPID_NUMBER = {"x86_64": 110, "aarch64": 173, "riscv64": 173, "ppc64le": 64, "s390x": 64}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(step: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)
    return result


def _call(step: str, number: int, *arguments: object) -> int:
    """syscall(2) with integers and pointers, each widened to a register."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(step, int(_libc.syscall(ctypes.c_long(number), *wide)))


def _number(table: dict[str, int], step: str) -> int:
    machine = os.uname().machine
    if machine not in table:
        raise OSError(38, f"no system call number known for {machine}", step)
    return table[machine]


def unshare(flags: int, name: str) -> None:
    """unshare(2); `name` is what a message calls the new namespace."""
    _check(f"unshare {name}", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    texts = [os.fsencode(text) for text in (source, target, kind, data)]
    result = _libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _check(f"mount {kind or 'propagation'}", result)


def prctl(name: str, option: int, value: int) -> int:
    """prctl(2) with one argument."""
    wide = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    return _check(f"prctl {name}", _libc.prctl(ctypes.c_int(option), *wide))


def landlock_abi() -> int:
    """The Landlock ABI version of this kernel; ENOSYS or EOPNOTSUPP when there is none."""
    flag = LANDLOCK_CREATE_RULESET_VERSION
    return _call("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, None, 0, flag)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _load(instructions: bytes, flags: int, step: str) -> int:
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    number = _number(_SECCOMP_NUMBER, step)
    return _call(step, number, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program))


def seccomp_allow_all() -> None:
    """Load a filter that allows everything: whether filters can be loaded at all."""
    _load(struct.pack("<HBBI", 0x06, 0, 0, SECCOMP_RET_ALLOW), 0, "seccomp")


def seccomp_notify_getppid() -> int:
    """Hand every getppid(2) of this process and its children to the returned descriptor."""
    number = _number(_GETPPID_NUMBER, "seccomp")
    program = struct.pack("<HBBI", 0x20, 0, 0, 0)  # load seccomp_data.nr
    program += struct.pack("<HBBI", 0x15, 0, 1, number)
    program += struct.pack("<HBBI", 0x06, 0, 0, SECCOMP_RET_USER_NOTIF)
    program += struct.pack("<HBBI", 0x06, 0, 0, SECCOMP_RET_ALLOW)
    return _load(program, SECCOMP_FILTER_FLAG_NEW_LISTENER, "seccomp listener")
