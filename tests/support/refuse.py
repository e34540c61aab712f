"""Run a program where the kernel refuses some system calls, as older kernels and containers do.

Arguments: ERRNO-NAME CALL[,CALL…] -- PROGRAM ARGUMENT…. The filter goes on to all children and
takes the privileges of set-user-ID programs away (seccomp(2): no_new_privs).
"""

import ctypes
import errno
import os
import struct
import sys

from sandbox.seccomp.syscalls_x86_64 import NUMBERS

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def refuse(number: int, calls: list[str]) -> None:
    """From now on `calls` fail with errno `number`, in this process and its children."""
    code = struct.pack("<HBBI", _LOAD, 0, 0, 0)  # seccomp_data.nr
    for left, call in zip(range(len(calls), 0, -1), calls, strict=True):
        code += struct.pack("<HBBI", _EQUAL, left, 0, NUMBERS[call])
    code += struct.pack("<HBBI", _RETURN, 0, 0, _ALLOW)
    code += struct.pack("<HBBI", _RETURN, 0, 0, _ERRNO | number)
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def main() -> None:
    """Load the filter and become the program."""
    name, calls, dashes, *argv = sys.argv[1:]
    if dashes != "--" or not argv:
        raise SystemExit(__doc__)
    refuse(getattr(errno, name), calls.split(","))
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
