"""What the built-in filters refuse and allow: names and argument rules as plain data.

Owns the groups D1 and D2 of the deny-list policies, the allow-list of strict, and the rules that
look at arguments. Every argument that the kernel reads as 32 bits is compared under a 32-bit
mask: whatever the caller puts into the upper half must not change the answer. Numbers come from
`syscalls_x86_64`; turning this data into decisions is `profile`'s work.
"""

from __future__ import annotations

from sandbox.seccomp.rules import ALLOW, LOW, Clause, Clauses, Condition, errno

EPERM, ENOSYS = errno(1), errno(38)
EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT = errno(93), errno(95), errno(97)

FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}

# Refused in every policy: they reach the host's state, or kernel code with a long record of holes.
_D1_EPERM = """
init_module finit_module delete_module create_module get_kernel_syms query_module
kexec_load kexec_file_load reboot
swapon swapoff acct quotactl quotactl_fd settimeofday clock_settime adjtimex clock_adjtime syslog
vhangup iopl ioperm nfsservctl lookup_dcookie uselib ustat sysfs _sysctl
open_by_handle_at bpf perf_event_open userfaultfd
"""
_D1_ENOSYS = """
io_uring_setup io_uring_enter io_uring_register add_key keyctl request_key
"""

# What nested containers need is kept apart, so that it can be left out.
_D2_NESTED_EPERM = "mount umount2 pivot_root unshare setns sethostname setdomainname"
_D2_NESTED_ENOSYS = """
fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr clone3
"""
_D2_EPERM = """
process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp
mbind set_mempolicy migrate_pages move_pages set_mempolicy_home_node fanotify_init
"""
_D2_ENOSYS = "get_mempolicy"

# The allow-list of strict, by purpose. Left out on purpose, beside D1 and D2: ptrace, modify_ldt,
# fanotify_mark, memfd_secret, name_to_handle_at, vmsplice, remap_file_pages, ioprio_set, chroot,
# and sync, which writes out every file system of the host (and has no answer to fail with).
_STRICT = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile splice tee
copy_file_range readahead fadvise64 fallocate truncate ftruncate fsync fdatasync syncfs
sync_file_range cachestat
open openat openat2 creat close close_range dup dup2 dup3 pipe pipe2 fcntl flock
stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 statmount listmount
getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir link linkat unlink unlinkat symlink
symlinkat readlink readlinkat rename renameat renameat2
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes futimesat utimensat
setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

mmap mprotect munmap brk mremap msync mincore madvise mlock mlock2 munlock mlockall munlockall
memfd_create mseal map_shadow_stack pkey_alloc pkey_free pkey_mprotect membarrier process_mrelease

poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
epoll_ctl_old epoll_wait_old eventfd eventfd2 signalfd signalfd4 io_setup io_destroy io_getevents
io_submit io_cancel io_pgetevents

fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open
pidfd_send_signal pause alarm rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend sigaltstack restart_syscall
futex futex_wait futex_wake futex_requeue futex_waitv set_robust_list get_robust_list
set_tid_address rseq arch_prctl set_thread_area get_thread_area prctl uretprobe uprobe
landlock_create_ruleset landlock_add_rule landlock_restrict_self

getpid getppid gettid getpgid getpgrp getsid setpgid setsid getuid geteuid getgid getegid getresuid
getresgid getgroups setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
capget capset getrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get times
sysinfo uname getcpu getrandom
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler
sched_getattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval

time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep getitimer setitimer
timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create
timerfd_settime timerfd_gettime

bind listen accept accept4 connect shutdown getsockname getpeername getsockopt recvfrom recvmsg
recvmmsg
shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
"""

# Newer calls that C libraries and tools try first and replace by older ones on ENOSYS; an EPERM
# would be passed on to the program. ioprio_set shares the answer of its neighbours in the table of
# numbers: a filter is as long as its answers change.
_STRICT_ENOSYS = """
ioprio_set lsm_get_self_attr lsm_set_self_attr lsm_list_modules file_getattr file_setattr listns
rseq_slice_yield
"""


def refused(groups: tuple[str, ...], *, nested: bool) -> dict[str, int]:
    """The plainly refused calls of the named groups ("D1", "D2"), with the answer to each."""
    texts: list[tuple[int, str]] = []
    if "D1" in groups:
        texts += [(EPERM, _D1_EPERM), (ENOSYS, _D1_ENOSYS)]
    if "D2" in groups:
        texts += [(EPERM, _D2_EPERM), (ENOSYS, _D2_ENOSYS)]
        if not nested:
            texts += [(EPERM, _D2_NESTED_EPERM), (ENOSYS, _D2_NESTED_ENOSYS)]
    return {name: action for action, text in texts for name in text.split()}


def allowed(*, nested: bool) -> dict[str, int]:
    """The calls of the strict allow-list that need no look at arguments, plus its ENOSYS ones."""
    names = dict.fromkeys(_STRICT.split(), ALLOW) | dict.fromkeys(_STRICT_ENOSYS.split(), ENOSYS)
    if nested:
        text = f"{_D2_NESTED_EPERM} {_D2_NESTED_ENOSYS} chroot clone"
        names |= dict.fromkeys(text.split(), ALLOW)
    return names


def _first(arg: int, values: tuple[int, ...], action: int, *, mask: int = LOW) -> Clause:
    return Clause((Condition(arg, "in", values, mask),), action)


def _only(arg: int, values: tuple[int, ...], action: int, *, mask: int = LOW) -> Clause:
    """Give `action` to every value that is not one of `values`."""
    return Clause((Condition(arg, "out", values, mask),), action)


# TIOCSTI pushes characters into the terminal's input, TIOCLINUX(2, 3) pastes a selection there.
IOCTL = Clauses((_first(1, (0x5412, 0x541C), EPERM),), ALLOW)

# The sandbox's init has the payload's ids, and that is all prlimit(2) asks for: with RLIMIT_CPU 0
# the kernel would kill it, and the sandbox with it. Its number is 1.
PRLIMIT = Clauses((_first(0, (1,), EPERM),), ALLOW)

# The same would do for all processes of a shared pid namespace, which Landlock's scope protects
# from signals. 0 is the process that asks, which is what C libraries write.
PRLIMIT_OWN = Clauses((_only(0, (0,), EPERM),), ALLOW)

# F_SETLEASE (1024) and F_SETDELEG (1040) take no more than a file of one's own, open for reading,
# on whatever mount: then everybody who opens it on the host waits, up to lease-break-time.
FCNTL = Clauses((_first(1, (1024,), EPERM, mask=LOW & ~16),), ALLOW)

# Every CLONE_NEW* flag but CLONE_NEWTIME, which clone(2) reads as part of the exit signal.
CLONE = Clauses((_only(0, (0,), EPERM, mask=0x7E020000),), ALLOW)

# Reading the present one (0xffffffff), and the four values that two flags make: UNAME26 (0x20000)
# and 8 (PER_LINUX32). That keeps ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC out.
PERSONALITY = Clauses(
    (_first(0, (0xFFFFFFFF,), ALLOW), _only(0, (0,), EPERM, mask=LOW & ~0x20008)), ALLOW
)

# SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, each with or without SCHED_RESET_ON_FORK.
SETSCHEDULER = Clauses((_only(1, (0, 3, 5), EPERM, mask=LOW & ~0x40000000),), ALLOW)

# 0x2000 set and 0x8000 not: of the valid types these are S_IFCHR and S_IFBLK.
MKNOD = Clauses((_first(1, (0x2000,), EPERM, mask=0xA000),), ALLOW)
MKNODAT = Clauses((_first(2, (0x2000,), EPERM, mask=0xA000),), ALLOW)

# SECCOMP_FILTER_FLAG_NEW_LISTENER: a supervisor inside is nothing that plain programs need.
SECCOMP = Clauses((_only(1, (0,), EPERM, mask=8),), ALLOW)

# Ways to a TCP connection that Landlock's connect rule does not see. MSG_FASTOPEN connects in
# send; TCP_FASTOPEN_CONNECT (30) moves the connect into the first write; TCP_ULP (31) may turn
# the socket into an SMC one. The answers are those of kernels that have the feature switched off.
SENDTO = Clauses((_only(3, (0,), EOPNOTSUPP, mask=0x20000000),), ALLOW)
SENDMSG = Clauses((_only(2, (0,), EOPNOTSUPP, mask=0x20000000),), ALLOW)
SETSOCKOPT = Clauses(
    (Clause((Condition(1, "in", (6,), LOW), Condition(2, "in", (30, 31), LOW)), EOPNOTSUPP),),
    ALLOW,
)


def tcp_rules() -> dict[str, Clauses]:
    """The rules that keep Landlock's TCP rules from being gone round (besides `sockets`)."""
    return {"sendto": SENDTO, "sendmmsg": SENDTO, "sendmsg": SENDMSG, "setsockopt": SETSOCKOPT}


def strict_rules(*, nested: bool) -> dict[str, Clauses]:
    """The argument rules that only the allow-list has."""
    rules = {
        "personality": PERSONALITY,
        "sched_setscheduler": SETSCHEDULER,
        "mknod": MKNOD,
        "mknodat": MKNODAT,
        "seccomp": SECCOMP,
    }
    return rules if nested else {**rules, "clone": CLONE}


def sockets(families: tuple[str, ...], *, only_tcp: bool) -> Clauses:
    """The rule of socket(2) and socketpair(2) for the given families (names of FAMILIES).

    SOCK_RAW (3) and SOCK_PACKET (10) are refused, except for netlink, where raw means nothing
    and the C library itself asks for it. `only_tcp` refuses IPPROTO_MPTCP (262) and IPPROTO_SMC
    (256), stream sockets that Landlock's TCP rules do not see.
    """
    numbers = tuple(sorted(FAMILIES[name] for name in set(families) - {"netlink"}))
    clauses: list[Clause] = []
    if "netlink" in families:
        clauses.append(_first(0, (FAMILIES["netlink"],), ALLOW))
    clauses.append(_only(0, numbers, EAFNOSUPPORT))
    clauses.append(_first(1, (3, 10), EPERM, mask=0xF))
    if only_tcp:
        clauses.append(_first(2, (256, 262), EPROTONOSUPPORT))
    return Clauses(tuple(clauses), ALLOW)
