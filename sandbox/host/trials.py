"""Trials: what this machine allows, found by really doing it. Runs only in a child process.

`python -I -S -c ... TRIAL ARGUMENT...` (see `attempt.attempt`) calls `main`, which runs one trial
in a forked process and prints its outcome as marshal: (value, step, errno, text). The step is
"" on success. All effects stay in namespaces that end with the trial; it bounds itself by
alarm(2) and dies with the program that asked.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import select
import signal
import struct
import sys
from collections.abc import Callable

from sandbox.host import syscall

Value = None | int | str | tuple["Value", ...]
Outcome = tuple[Value, str, int, str]

SECONDS = 4
NAMESPACES = (
    ("mount", syscall.CLONE_NEWNS),
    ("pid", syscall.CLONE_NEWPID),
    ("network", syscall.CLONE_NEWNET),
    ("ipc", syscall.CLONE_NEWIPC),
    ("uts", syscall.CLONE_NEWUTS),
    ("cgroup", syscall.CLONE_NEWCGROUP),
)


def run_isolated(work: Callable[[], Value]) -> Outcome:
    """Run `work` in a forked process of its own and give back its value or its failure."""
    parent = os.getpid()
    read_end, write_end = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        return None, "clone", error.errno or 0, (error.strerror or "").lower()
    if child == 0:
        outcome: Outcome
        try:
            _die_with(parent)
            signal.alarm(SECONDS)
            outcome = (work(), "", 0, "")
        except OSError as error:
            step = str(error.filename or "system call")
            outcome = (None, step, error.errno or 0, (error.strerror or "").lower())
        except BaseException as error:
            outcome = (None, type(error).__name__, 0, str(error))
        os.write(write_end, marshal.dumps(outcome, 4))
        os._exit(0)
    os.close(write_end)
    data = b""
    while chunk := os.read(read_end, 65536):
        data += chunk
    os.close(read_end)
    status = os.waitpid(child, 0)[1]
    if data:
        answer: Outcome = marshal.loads(data)  # noqa: S302 - our own child wrote it
        return answer
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return None, "trial", errno.ETIMEDOUT, f"no answer within {SECONDS} s"
    return None, "trial", 0, f"ended with status {status}"


def _nested(work: Callable[[], Value]) -> Value:
    """Run `work` in a further process and let its failure be this one's."""
    value, step, number, text = run_isolated(work)
    if step:
        raise OSError(number, text, step)
    return value


def _die_with(parent: int) -> None:
    syscall.prctl("PR_SET_PDEATHSIG", syscall.PR_SET_PDEATHSIG, signal.SIGKILL)
    # The signal is only sent for a death after the call. Seen from a new pid namespace the
    # parent is 0.
    if os.getppid() not in (parent, 0):
        os._exit(1)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"write {path}") from None
    finally:
        os.close(descriptor)


def enter_user_namespace(flags: int = 0) -> None:
    """Become uid 0 of a new user namespace, with further namespaces, mounts private."""
    uid, gid = os.getuid(), os.getgid()
    syscall.unshare(syscall.CLONE_NEWUSER, "user namespace")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    if flags:
        syscall.unshare(flags, "further namespaces")
    if flags & syscall.CLONE_NEWNS:
        syscall.mount("none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE)


def try_userns() -> Value:
    """An outer user namespace with a mount namespace, and an inner one as the payload gets."""
    enter_user_namespace(syscall.CLONE_NEWNS)
    syscall.unshare(syscall.CLONE_NEWUSER, "inner user namespace")
    return None


def try_namespaces() -> Value:
    """Each further kind of namespace in a user namespace: those that fail, with the reason."""
    enter_user_namespace()
    failed: list[Value] = []
    for name, flag in NAMESPACES:
        try:
            syscall.unshare(flag, name)
        except OSError as error:
            failed.append((name, (error.strerror or "").lower()))
    return tuple(failed)


def try_time_namespace() -> Value:
    """A time namespace in a user namespace."""
    enter_user_namespace()
    syscall.unshare(syscall.CLONE_NEWTIME, "time namespace")
    return None


def try_proc() -> Value:
    """A fresh procfs in a user, mount and pid namespace: as full, else as restricted mount."""
    enter_user_namespace(syscall.CLONE_NEWNS | syscall.CLONE_NEWPID)

    def mount() -> Value:
        flags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
        syscall.mount("proc", "/proc", "proc", flags)
        return os.getpid()

    return _nested(mount)


def _mount_scratch() -> str:
    """A private tmpfs over some folder that every system has; nobody else sees it."""
    places = ("/tmp", "/dev", "/")  # noqa: S108 - covered, not used
    place = next(path for path in places if os.path.isdir(path))
    syscall.mount("tmpfs", place, "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "size=1m,mode=700")
    return place


def try_overlay(upper: str = "", lower: str = "") -> Value:
    """Overlay as the sandbox uses it. `upper`: an empty folder of ours, "" for a tmpfs.

    `lower`: a folder that is only listed; "" takes a small tree, in which everything that
    builds do to a lower layer is done.
    """
    enter_user_namespace(syscall.CLONE_NEWNS)
    # Descriptors of these survive the tmpfs that may cover their paths; relative names need no
    # escaping of the colons and commas that overlay's options give a meaning.
    here = os.open(lower, os.O_PATH | os.O_DIRECTORY) if lower else -1
    base = os.open(upper, os.O_PATH | os.O_DIRECTORY) if upper else -1
    scratch = _mount_scratch()
    if base < 0:
        base = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
    for name in ("upper", "work"):
        os.mkdir(name, 0o700, dir_fd=base)
    for name in ("merged", "lower", "lower/folder", "lower/folder/deep"):
        os.mkdir(f"{scratch}/{name}", 0o755)
    os.close(os.open(f"{scratch}/lower/file", os.O_CREAT | os.O_WRONLY, 0o644))
    os.fchdir(here if lower else os.open(f"{scratch}/lower", os.O_PATH | os.O_DIRECTORY))
    options = f"lowerdir=.,upperdir=/proc/self/fd/{base}/upper,workdir=/proc/self/fd/{base}/work"
    syscall.mount("overlay", f"{scratch}/merged", "overlay", 0, f"{options},userxattr")
    os.chdir(f"{scratch}/merged")
    if lower:
        return len(os.listdir("."))
    _change_tree()
    return None


def _change_tree() -> None:
    """Copy up, whiteout, and replacement of a lower folder (needs user xattrs above)."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("copy up", lambda: os.chmod("file", 0o600)),
        ("remove a lower file", lambda: os.unlink("file")),
        ("remove a lower folder", lambda: os.rmdir("folder/deep")),
        ("remove a folder that has whiteouts", lambda: os.rmdir("folder")),
        ("make a removed lower folder again", lambda: os.mkdir("folder")),
    )
    for name, step in steps:
        try:
            step()
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"overlay: {name}") from None


def try_landlock() -> Value:
    """Landlock's ABI version."""
    return syscall.landlock_abi()


def try_seccomp() -> Value:
    """Whether a filter can be loaded."""
    syscall.seccomp_allow_all()
    return None


def try_seccomp_notify() -> Value:
    """Answer one system call of a child through a listener: the child sees our value."""
    listener = syscall.seccomp_notify_getppid()
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getppid() == 4242 else 1)
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    if not waiting.poll(2000):
        os.kill(child, signal.SIGKILL)
        raise OSError(errno.ETIMEDOUT, "no notification came", "seccomp listener")
    # struct seccomp_notif (80 bytes, id first) and seccomp_notif_resp (id, val, error, flags).
    request = bytearray(80)
    fcntl.ioctl(listener, syscall.SECCOMP_IOCTL_NOTIF_RECV, request)
    answer = request[:8] + struct.pack("<qiI", 4242, 0, 0)
    fcntl.ioctl(listener, syscall.SECCOMP_IOCTL_NOTIF_SEND, bytes(answer))
    if os.waitpid(child, 0)[1]:
        raise OSError(errno.EIO, "the answer did not arrive", "seccomp listener")
    return None


def facts() -> Value:
    """The outcomes that HostFacts are made of, in the order of FACTS."""
    return tuple(run_isolated(TRIALS[name]) for name in FACTS)


def _in_network() -> None:
    enter_user_namespace(syscall.CLONE_NEWNET)


def try_tun() -> Value:
    """A TUN device in a network namespace, with what spares checksums and cutting."""
    _in_network()
    path = "/dev/net/tun"
    tun = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x5001))  # TUNSETIFF
        fcntl.ioctl(tun, 0x400454D0, 7)  # TUNSETOFFLOAD
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    return None


def try_tproxy() -> Value:
    """A rule that marks what is sent, and one that gives it to a transparent listener."""
    from sandbox.linux import netlink, nftables

    _in_network()
    inet, name = nftables.INET, "sbx"
    rules = (
        nftables.table(inet, name),
        nftables.chain(inet, name, "out", kind="route", hook=3, priority=nftables.MANGLE),
        nftables.rule(inet, name, "out", *nftables.set_mark(1)),
        nftables.chain(inet, name, "in", kind="filter", hook=0, priority=nftables.MANGLE),
        nftables.rule(
            inet,
            name,
            "in",
            *nftables.matches(nftables.load_meta(nftables.META_NFPROTO), b"\2"),
            *nftables.matches(nftables.load_meta(nftables.META_L4PROTO), b"\6"),
            *nftables.transparent(nftables.IPV4, bytes([127, 0, 0, 1]), 1),
        ),
    )
    try:
        netlink.ask(netlink.NETFILTER, netlink.numbered(nftables.transaction(*rules)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, "nf_tables with tproxy") from None
    return None


def try_ipv6() -> Value:
    """An IPv6 address in a network namespace."""
    from sandbox.linux import netlink

    _in_network()
    address = netlink.add_address(netlink.LOOPBACK, b"\xfd" + bytes(15), 128)
    try:
        netlink.ask(netlink.ROUTE, netlink.numbered((address,)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, "IPv6") from None
    return None


def network() -> Value:
    """The outcomes that NetworkFacts are made of."""
    return tuple(run_isolated(work) for work in (try_tun, try_tproxy, try_ipv6))


FACTS = ("userns", "overlay", "proc", "landlock", "seccomp", "time_namespace")
TRIALS: dict[str, Callable[..., Value]] = {
    "facts": facts,
    "landlock": try_landlock,
    "namespaces": try_namespaces,
    "network": network,
    "overlay": try_overlay,
    "proc": try_proc,
    "seccomp": try_seccomp,
    "seccomp_notify": try_seccomp_notify,
    "time_namespace": try_time_namespace,
    "userns": try_userns,
}


def main(argv: list[str]) -> None:
    """Run the trial argv[0] with its arguments and write the outcome to descriptor 1."""
    name, arguments = argv[0], argv[1:]
    trial = TRIALS.get(name)
    if trial is None:
        from sandbox.host import trials_doctor

        trial = trials_doctor.TRIALS[name]
    os.write(1, marshal.dumps(run_isolated(lambda: trial(*arguments)), 4))
    sys.exit(0)
