"""What a network's name server gives up before it reads its first question.

It stays root, for the files of networks are root's, but of root's rights it keeps the one to set up
networks, which nft needs to add what names lead to. It writes below the folder of networks alone,
and reads besides it what starting nft takes.
"""

from __future__ import annotations

import ctypes
import os
import struct

from sandbox.seccomp.syscalls_x86_64 import NUMBERS
from sandbox.services.network.bridge.definitions import BASE

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_NET_ADMIN = 12
_CAPABILITIES = 64
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_GET_VERSION = 1
# Rights on files that exist from each version of Landlock on, as a number of low bits.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_READ_AND_EXECUTE = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_READ = ("/etc/ld.so.cache", "/proc/sys/net", "/proc/sys/kernel/random")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(step: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)
    return result


def _call(name: str, *arguments: object) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(name, int(_libc.syscall(ctypes.c_long(NUMBERS[name]), *wide)))


def confine() -> None:
    """Give up all but the above, for good. Raises OSError with the step that failed.

    A kernel without Landlock is no failure.
    """
    for number in range(_CAPABILITIES):
        if number != _CAP_NET_ADMIN:  # EINVAL behind the last that the kernel knows
            _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0)
    kept = 1 << _CAP_NET_ADMIN
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0))
    _check("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))
    _check("dumpable", _libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0))
    try:
        version = _call("landlock_create_ruleset", None, 0, _GET_VERSION)
    except OSError:
        return
    every = (1 << max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)) - 1
    attributes = struct.pack("=Q", every)
    ruleset = _call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        _allow(ruleset, BASE, every)
        for path in _READ_AND_EXECUTE:
            _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in _READ:
            _allow(ruleset, path, _READ_FILE)
        _call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # one that this host does not have
        return
    try:
        rule = struct.pack("=Qi", rights, place)
        _call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)
