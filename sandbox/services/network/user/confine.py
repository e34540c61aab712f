"""What the process gives up before it reads its first packet: one way, for good.

It keeps what it holds and may make sockets of IPv4 and IPv6, and connect and send with them. It
may open no file, start nothing, map no code, join no namespace, and reach no process.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.rules import ALLOW, LOW, Clause, Clauses, Condition, errno, spec_of
from sandbox.seccomp.syscalls_x86_64 import NUMBERS

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
SECCOMP_SET_MODE_FILTER = 1
LANDLOCK_CREATE_RULESET_VERSION = 1
# Rights on files that exist from each version of Landlock on, as a number of low bits.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522

DESCRIPTORS = 20_000
DATA_BYTES = 256 << 20
# The account is all that is ever written to a file.
FILE_BYTES = 4 << 20

_ALLOWED = """
read readv write writev pwrite64 ftruncate lseek fstat newfstatat close splice pipe2
recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg connect bind accept4 shutdown
getsockname getpeername getsockopt setsockopt
epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll select pselect6
munmap brk mremap madvise futex clock_gettime clock_nanosleep getrandom gettid getpid getrusage
exit exit_group rt_sigreturn rt_sigaction rt_sigprocmask sigaltstack restart_syscall
"""
_PROT_EXEC = 4
_FIONBIO, _FIOCLEX = 0x5421, 0x5451
_FCNTL = (1, 2, 3, 4, 1030, 1031, 1032)  # get and set flags, F_DUPFD_CLOEXEC, F_*ETPIPE_SZ
_INET, _INET6 = 2, 10


def _only(arg: int, values: tuple[int, ...], mask: int = LOW) -> Clauses:
    return Clauses((Clause((Condition(arg, "in", values, mask),), ALLOW),), errno(1))


def make_filter() -> bytes:
    """The system calls of a serving process; EPERM for all others, ENOSYS for unknown ones."""
    names: dict[str, int | Clauses] = dict.fromkeys(NUMBERS, errno(1))
    names |= dict.fromkeys(_ALLOWED.split(), ALLOW)
    names["socket"] = _only(0, (_INET, _INET6))
    names["mmap"] = names["mprotect"] = _only(2, (0,), _PROT_EXEC)
    names["ioctl"] = _only(1, (_FIONBIO, _FIOCLEX))
    names["fcntl"] = _only(1, _FCNTL)
    return compile_filter(
        spec_of(
            {NUMBERS[name]: decision for name, decision in names.items()},
            top=max(NUMBERS.values()),
            unknown=errno(38),
        )
    )


def limit_resources() -> int:
    """Set what this process may use; returns how many descriptors that are."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    for kind, value in (
        (resource.RLIMIT_NOFILE, most),
        (resource.RLIMIT_DATA, DATA_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        had = resource.getrlimit(kind)[1]
        value = value if had == resource.RLIM_INFINITY else min(value, had)
        resource.setrlimit(kind, (value, value))
    return most


def confine() -> None:
    """Give up all but the above. Raises OSError with the step that failed.

    A kernel without Landlock is no failure: the filter alone leaves no way to name a file.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(step: str, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), step)
        return result

    def call(name: str, *arguments: object) -> int:
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return check(name, int(libc.syscall(ctypes.c_long(NUMBERS[name]), *wide)))

    zero = ctypes.c_ulong(0)
    no_new_privs = libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
    check("no_new_privs", no_new_privs)
    check("dumpable", libc.prctl(PR_SET_DUMPABLE, zero, zero, zero, zero))
    call("capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    _close_files(call)

    program = make_filter()
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    call("seccomp", SECCOMP_SET_MODE_FILTER, 0, pointer)


def _close_files(call: object) -> None:
    """Landlock without a rule: nothing in any file system, no other process's socket or signal."""
    assert callable(call)  # noqa: S101
    try:
        version = call("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return
    rights = (1 << max(bits for since, bits in _FILE_RIGHTS.items() if since <= version)) - 1
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL
    attributes = struct.pack("=Q", rights)
    if version >= 6:
        attributes += struct.pack("=QQ", 0, scoped)
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
