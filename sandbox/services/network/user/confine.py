"""What the process gives up before it reads its first packet: one way, for good.

It keeps what it holds and may make sockets of IPv4 and IPv6, and connect and send with them. It
may open no file, start nothing, map no code, join no namespace, and reach no process.
"""

from __future__ import annotations

import resource

from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.rules import ALLOW, LOW, Clause, Clauses, Condition, errno, spec_of
from sandbox.seccomp.syscalls_x86_64 import NUMBERS
from sandbox.services.network.confine import (
    close_files,
    filter_calls,
    keep_capabilities,
    refuse_privileges,
)

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
    keep_capabilities()
    refuse_privileges()
    close_files()
    filter_calls(make_filter())
