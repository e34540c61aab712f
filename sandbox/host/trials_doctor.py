"""Trials that only the doctor makes: id maps through the helpers, nftables, tun, memory files.

Same rules as `trials`: a short-lived child runs one of them, effects end with its namespaces.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable

from sandbox.host import syscall
from sandbox.host.trials import Value, enter_user_namespace

# ---- id maps ----


def _extents(text: str) -> list[tuple[int, int, int]]:
    """ "inside:outside:count,..." as numbers."""
    found = []
    for item in text.split(","):
        inside, outside, count = (int(part) for part in item.split(":"))
        found.append((inside, outside, count))
    return found


def _run(argv: list[str], step: str) -> str:
    """Run a program with an empty environment; its words are the error's text."""
    read_end, write_end = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, write_end, 2)]
    try:
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
    except OSError as error:
        raise OSError(error.errno, error.strerror, step) from None
    os.close(write_end)
    words = b""
    while chunk := os.read(read_end, 4096):
        words += chunk
    os.close(read_end)
    text = words.decode("utf-8", "replace").strip()
    if os.waitpid(pid, 0)[1]:
        raise OSError(0, text[:300] or "failed without a word", step)
    return text


def _check_map(kind: str, found: str, wanted: str) -> None:
    # The kernel lists long maps sorted, so the order says nothing.
    lines = sorted(tuple(int(word) for word in line.split()) for line in found.splitlines())
    if lines != sorted(_extents(wanted)):
        raise OSError(errno.EIO, f"the map is {lines}", f"check {kind}_map")


def try_id_map_with(program: str, uids: str, gids: str, newuidmap: str, newgidmap: str) -> Value:
    """The whole map through our own wrapper, as sbx does for files; "" for no helper: directly."""
    argv = [program]
    if newuidmap:
        argv += ["--helpers", "--newuidmap", newuidmap, "--newgidmap", newgidmap]
    for flag, text in (("--uid", uids), ("--gid", gids)):
        for extent in text.split(","):
            argv += [flag, extent]
    show = "print(open('/proc/self/uid_map').read(),open('/proc/self/gid_map').read(),sep='#')"
    text = _run([*argv, "--", sys.executable, "-I", "-S", "-c", show], os.path.basename(program))
    found_uids, _, found_gids = text.partition("#")
    _check_map("uid", found_uids, uids)
    _check_map("gid", found_gids, gids)
    return None


def try_id_map(uids: str, gids: str, newuidmap: str, newgidmap: str) -> Value:
    """The whole map through newuidmap and newgidmap on a child that waits."""
    ready_read, ready_write = os.pipe()
    hold_read, hold_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold_write)
        try:
            syscall.unshare(syscall.CLONE_NEWUSER, "user namespace")
            os.write(ready_write, b"1")
        finally:
            os.close(ready_write)
            os.read(hold_read, 1)
            os._exit(0)
    os.close(ready_write)
    try:
        if not os.read(ready_read, 1):
            raise OSError(errno.EPERM, "see the user namespace check", "user namespace")
        for kind, helper, text in (("uid", newuidmap, uids), ("gid", newgidmap, gids)):
            numbers = [str(n) for extent in _extents(text) for n in extent]
            _run([helper, str(child), *numbers], os.path.basename(helper))
            with open(f"/proc/{child}/{kind}_map", encoding="ascii") as file:
                _check_map(kind, file.read(), text)
    finally:
        os.close(hold_write)
        os.waitpid(child, 0)
    return None


# ---- network ----

_NETLINK_NETFILTER = 12
_NFNL_MSG_BATCH_BEGIN = 0x10
_NFNL_MSG_BATCH_END = 0x11
_NFT_MSG_NEWTABLE = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NFPROTO_INET = 1
_NFPROTO_IPV4 = 2
_NFTA_TABLE_NAME = 1
_NLM_F_REQUEST = 1
_NLM_F_ACK = 4
_NLMSG_ERROR = 2


def _message(kind: int, flags: int, number: int, family: int, body: bytes, resource: int) -> bytes:
    payload = struct.pack("!BBH", family, 0, resource) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, number, 0) + payload


def _table_batch(name: bytes, family: int) -> bytes:
    attribute = struct.pack("=HH", 4 + len(name) + 1, _NFTA_TABLE_NAME) + name + b"\0"
    attribute += b"\0" * (-len(attribute) % 4)
    # The ids of the batch messages name the subsystem that the batch is for: 10, nf_tables.
    begin = _message(_NFNL_MSG_BATCH_BEGIN, _NLM_F_REQUEST, 1, 0, b"", 10)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | 0x400  # NLM_F_CREATE
    table = _message(_NFT_MSG_NEWTABLE, flags, 2, family, attribute, 0)
    end = _message(_NFNL_MSG_BATCH_END, _NLM_F_REQUEST, 3, 0, b"", 10)
    return begin + table + end


def _make_table(family: int) -> int:
    """Create one table with plain netlink: 0 or the errno that the kernel answers."""
    step = "nftables socket"
    try:
        channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        channel.settimeout(2)
        step = "nftables table"
        channel.send(_table_batch(b"trial", family))
        answer = channel.recv(8192)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "the kernel did not answer", step) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, step) from None
    kind, number = struct.unpack_from("=4xH2x8xi", answer)
    if kind != _NLMSG_ERROR:
        raise OSError(errno.EPROTO, f"unexpected answer {kind}", step)
    return -int(number)


def try_nftables() -> Value:
    """Tables in a fresh network namespace: the name of the widest family that can have one."""
    enter_user_namespace(syscall.CLONE_NEWNET)
    number = 0
    for name, family in (("inet", _NFPROTO_INET), ("ip", _NFPROTO_IPV4)):
        number = _make_table(family)
        if not number:
            return name
        if number != errno.EOPNOTSUPP:
            break
    raise OSError(number, os.strerror(number), "nftables table")


def try_tun() -> Value:
    """Open /dev/net/tun as the caller and make an interface in a fresh network namespace."""
    # The interface belongs to the network namespace of open(2), so that comes second.
    enter_user_namespace(syscall.CLONE_NEWNET)
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", b"trial0", 0x1002)  # IFF_TAP | IFF_NO_PI
    try:
        fcntl.ioctl(descriptor, 0x400454CA, request)  # TUNSETIFF
    except OSError as error:
        raise OSError(error.errno, error.strerror, "create a tap interface") from None
    return None


# ---- memory files ----

_EXIT_0 = {
    "x86_64": (62, "b83c00000031ff0f05"),  # mov eax, 60; xor edi, edi; syscall
    "aarch64": (183, "a80b8052000080d2010000d4"),  # mov w8, 93; mov x0, 0; svc 0
}


def _smallest_program() -> bytes:
    """A static ELF that exits with 0, else a copy of some program of this system."""
    if os.uname().machine not in _EXIT_0:
        with open("/bin/true", "rb") as file:
            return file.read()
    machine, code = _EXIT_0[os.uname().machine]
    base, offset = 0x400000, 120
    size = offset + len(bytes.fromhex(code))
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + offset, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
    return head + segment + bytes.fromhex(code)


def try_memfd_exec() -> Value:
    """Execute a program from a sealed memory file, as the launcher is started."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # MFD_EXEC; kernels before 6.3 do not know it and answer EINVAL.
        descriptor = os.memfd_create("trial", flags | 0x10)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, "memfd_create") from None
        descriptor = os.memfd_create("trial", flags)
    os.write(descriptor, _smallest_program())
    os.fchmod(descriptor, 0o500)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    try:
        child = os.posix_spawn(f"/proc/self/fd/{descriptor}", ["trial"], {})
    except OSError as error:
        raise OSError(error.errno, error.strerror, "execute a memory file") from None
    status = os.waitpid(child, 0)[1]
    if status:
        raise OSError(errno.ENOEXEC, f"ended with status {status}", "execute a memory file")
    return None


TRIALS: dict[str, Callable[..., Value]] = {
    "id_map": try_id_map,
    "id_map_with": try_id_map_with,
    "memfd_exec": try_memfd_exec,
    "nftables": try_nftables,
    "tun": try_tun,
}
