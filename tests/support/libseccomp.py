"""libseccomp's C library through ctypes: the oracle that compiled filters are compared with."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

LIBRARY = "libseccomp.so.2"
EQ, NE, LT, LE, GE, GT, MASKED_EQ = 4, 1, 2, 3, 5, 6, 7
_BAD_ARCH, _OPTIMIZE = 2, 8
KILL_PROCESS = 0x80000000


class Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def available() -> str:
    """ "" when the library can be loaded, else why not."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        return str(error)
    return ""


class Oracle:
    """One filter of libseccomp; foreign ABIs are killed, as in ours."""

    def __init__(self, default: int) -> None:
        lib = self._lib = ctypes.CDLL(LIBRARY)
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = [ctypes.c_uint32]
        lib.seccomp_release.argtypes = [ctypes.c_void_p]
        lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        lib.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(Compare),
        ]
        self._context = lib.seccomp_init(default)
        assert self._context
        self._must(lib.seccomp_attr_set(self._context, _BAD_ARCH, KILL_PROCESS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lib.seccomp_release(self._context)

    @staticmethod
    def _must(result: int) -> None:
        assert result == 0, errno.errorcode.get(-result, result)

    def number(self, name: str) -> int:
        """The number that the library knows for a name; negative when it knows none."""
        found: int = self._lib.seccomp_syscall_resolve_name(name.encode())
        return found

    def add(self, action: int, number: int, *compares: tuple[int, int, int, int]) -> int:
        """Add one rule, compares as (arg, op, a, b); 0 or a negative error number."""
        array = (Compare * max(1, len(compares)))(*(Compare(*item) for item in compares))
        result: int = self._lib.seccomp_rule_add_array(
            self._context, action, number, len(compares), array
        )
        return result

    def must_add(self, action: int, number: int, *compares: tuple[int, int, int, int]) -> None:
        self._must(self.add(action, number, *compares))

    def export(self, *, tree: bool = True) -> bytes:
        """The filter's BPF; `tree` asks for the binary tree instead of the list."""
        if tree:
            self._lib.seccomp_attr_set(self._context, _OPTIMIZE, 2)
        fd = os.memfd_create("filter")
        try:
            self._must(self._lib.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)
