"""The operations a Plan is made of: frozen values, each one kernel-visible effect.

Every class carries `opcode` and `signature`, which are those of the table in
helpers/launcher/plan.h (a test compares them), and `describe()`, the one line that `sbx explain`
and error messages show. Fields stand in the order of the signature:
u = u32, q = u64, s = string, b = bytes, S = strings, G = u32s, L = id map extents.

One module, however long: it is one table, and every start loads all of it.
"""

from __future__ import annotations

from sandbox.policy.units import format_size
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    Extent = tuple[int, int, int]
    Extents = tuple[Extent, ...]

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8  # MOUNT_ATTR_*, mount_setattr(2)
KERNEL_DIRECTORY = 1  # the mount point may not be reached through symlinks
INFINITY = 2**64 - 1  # RLIM_INFINITY
EXEC_INIT, EXEC_IDLE, EXEC_LEAVE = 1, 2, 4
NESTING = "sys/user/max_user_namespaces"
KEEP_DETACHED, KEEP_INPUT = 1, 2
MAP_DIRECT, MAP_HELPERS, MAP_SELF, MAP_STANDS = 0, 1, 2, 3  # by the launcher, set-user-ID programs,
# the child, nobody: they stand already

_CLONE_FLAGS = {
    0x10000000: "user",
    0x00020000: "mount",
    0x20000000: "pid",
    0x04000000: "uts",
    0x08000000: "ipc",
    0x40000000: "net",
    0x02000000: "cgroup",
}


def _attributes(attributes: int) -> str:
    names = ((RDONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"))
    return ",".join(name for bit, name in names if attributes & bit) or "no restrictions"


def extents(found: Extents) -> str:
    """The extents of an id map as text."""
    return " ".join(f"{inside}:{outside}:{count}" for inside, outside, count in found)


class Op(Record):
    """Base of all operations. `encoded`: its wire form, once it was asked for."""

    __slots__ = ("encoded",)
    opcode: ClassVar[int] = 0
    signature: ClassVar[str] = ""
    encoded: ClassVar[bytes]

    def describe(self) -> str:
        """One line: the effect and its object."""
        raise NotImplementedError


class Namespaces(Op):
    """clone(2) with these CLONE_NEW* flags."""

    opcode = 1
    signature = "u"
    flags: int

    def describe(self) -> str:
        names = [name for bit, name in _CLONE_FLAGS.items() if self.flags & bit]
        return f"make namespaces: {' '.join(names)}"


class IdMap(Op):
    """Write the outer user namespace's maps; `way` is one of the MAP_* above."""

    opcode = 2
    signature = "uuLLss"
    way: int
    deny_setgroups: int
    uids: Extents
    gids: Extents
    newuidmap: str
    newgidmap: str

    def describe(self) -> str:
        way = ("directly", "through newuidmap and newgidmap", "itself", "as they stand")[self.way]
        groups = ", setgroups denied" if self.deny_setgroups else ""
        return f"map ids {way}: uid {extents(self.uids)}, gid {extents(self.gids)}{groups}"


class Keep(Op):
    """Let others find and enter the sandbox; KEEP_DETACHED: the launcher stays alone with it.

    `restarts`: how often it is started again after a failure; `log_max` in bytes, `timeout_ms`
    and `grace_ms` for a detached one, 0 = none; `held`: descriptors of locked files.
    """

    opcode = 3
    signature = "uuqqqG"
    flags: int
    restarts: int
    log_max: int
    timeout_ms: int
    grace_ms: int
    held: tuple[int, ...]

    def describe(self) -> str:
        return "keep the sandbox" + (" in the background" if self.flags & KEEP_DETACHED else "")


class Join(Op):
    """Enter the namespaces whose descriptors come over the channel.

    What looks after the command is `uid` of the outer user namespace.
    """

    opcode = 4
    signature = "uu"
    deny_setgroups: int
    uid: int

    def describe(self) -> str:
        return "join a living sandbox"


class Share(Op):
    """Live in a running sandbox's outer user namespace and in its namespaces at these `places`
    (enum namespace_place), whose descriptors come over the channel. `room`: the limit of user
    namespaces that the payload's own has to pass, "" = none; `name`: that sandbox's id.
    """

    opcode = 7
    signature = "sGs"
    room: str
    places: tuple[int, ...]
    name: str

    def describe(self) -> str:
        names = {2: "pid", 3: "net", 4: "ipc", 5: "uts"}
        kinds = " ".join(names.get(place, str(place)) for place in self.places)
        return f"share namespaces with sandbox {self.name}: {kinds}"


class Cgroup(Op):
    """Begin in the control group whose directory comes over the channel."""

    opcode = 5

    def describe(self) -> str:
        return "begin in a control group of its own"


class CgroupLimit(Op):
    """Write `value` to a file of the control group; `optional`: a failure is only a warning."""

    opcode = 6
    signature = "ssu"
    file: str
    value: str
    optional: int

    def describe(self) -> str:
        return f"set {self.file} of the control group to {self.value}"


class Private(Op):
    """MS_REC|MS_PRIVATE on "/": no mount spreads to or from the host."""

    opcode = 10

    def describe(self) -> str:
        return "cut mount propagation"


class Procfs(Op):
    """Open the procfs that set-up writes go through: a fresh one, or the one that is there."""

    opcode = 11
    signature = "u"
    fresh: int

    def describe(self) -> str:
        return "open a fresh procfs for set-up" if self.fresh else "open the procfs that is there"


class Stage(Op):
    """The tmpfs of the writable layer and of our own files; sizes in bytes and inodes."""

    opcode = 12
    signature = "qq"
    size: int
    inodes: int

    def describe(self) -> str:
        return f"make a staging tmpfs of {format_size(self.size)}, {self.inodes} inodes"


class RootOverlay(Op):
    """The root as overlayfs over `lower`; `folder` of the host takes the changes, "" = memory.

    `folder_dev`, `folder_ino` say which folder that is; 0 = whichever is there.
    `discarded`: nothing in `folder` is wanted later, and each start begins afresh in it.
    `mount_points` are the later targets, directories with a slash at the end: those that are
    missing where only the upper layer can take them are made in it.
    """

    opcode = 13
    signature = "sqqsqquS"
    lower: str
    dev: int
    ino: int
    folder: str
    folder_dev: int
    folder_ino: int
    discarded: int
    mount_points: tuple[str, ...]

    def describe(self) -> str:
        upper = f"changes kept in {self.folder}"
        if self.discarded:
            upper = "changes discarded" + f", until then in {self.folder}" * bool(self.folder)
        return f"show {self.lower} as the root through overlayfs, {upper}"


class RootBind(Op):
    """The root as a bind of `source`."""

    opcode = 14
    signature = "sqqu"
    source: str
    dev: int
    ino: int
    read_only: int

    def describe(self) -> str:
        return f"bind {self.source} as the root, {'read-only' if self.read_only else 'writable'}"


class Filesystem(Op):
    """Mount a new file system of `fstype` on `target`."""

    opcode = 15
    signature = "ssuuS"
    fstype: str
    target: str
    attributes: int
    flags: int
    options: tuple[str, ...]

    def describe(self) -> str:
        options = ",".join((_attributes(self.attributes), *self.options))
        return f"mount {self.fstype} on {self.target} ({options})"


class Bind(Op):
    """Bind host path `source` (the very file `dev`, `ino`) on `target`."""

    opcode = 16
    signature = "sqqusuu"
    source: str
    dev: int
    ino: int
    filetype: int
    target: str
    attributes: int
    optional: int

    def describe(self) -> str:
        mode = "read-only" if self.attributes & RDONLY else "writable"
        return f"bind {self.source} on {self.target}, {mode}"


class Device(Op):
    """Bind the host's character device `name` (checked by number) into /dev."""

    opcode = 17
    signature = "suu"
    name: str
    major: int
    minor: int

    def describe(self) -> str:
        return f"show device /dev/{self.name} ({self.major}:{self.minor})"


class Symlink(Op):
    """Make a symbolic link `path` with content `text`."""

    opcode = 18
    signature = "ss"
    text: str
    path: str

    def describe(self) -> str:
        return f"link {self.path} to {self.text}"


class Directory(Op):
    """Make directory `path`; its parent exists."""

    opcode = 19
    signature = "su"
    path: str
    mode: int

    def describe(self) -> str:
        return f"make directory {self.path} ({self.mode:04o})"


class File(Op):
    """Show a file of ours, read-only, on `path`; `number` names it on the staging tmpfs."""

    opcode = 20
    signature = "sbu"
    path: str
    content: bytes
    number: int

    def describe(self) -> str:
        return f"show our own {self.path} ({len(self.content)} bytes)"


class Mask(Op):
    """Cover `path` with something empty; skipped where it does not exist."""

    opcode = 21
    signature = "s"
    path: str

    def describe(self) -> str:
        return f"hide {self.path}"


class Lock(Op):
    """Make `path` read-only; skipped where it does not exist."""

    opcode = 22
    signature = "s"
    path: str

    def describe(self) -> str:
        return f"make {self.path} read-only"


class Remount(Op):
    """Add mount attributes to the mount at `path`."""

    opcode = 23
    signature = "su"
    path: str
    attributes: int

    def describe(self) -> str:
        return f"remount {self.path} ({_attributes(self.attributes)})"


class Pivot(Op):
    """pivot_root(2) and detach the old root."""

    opcode = 24

    def describe(self) -> str:
        return "pivot to the new root and detach the old one"


class Terminal(Op):
    """Open a terminal of the sandbox's own devpts for ids (uid, gid) of the outer namespace."""

    opcode = 25
    signature = "uu"
    uid: int
    gid: int

    def describe(self) -> str:
        return "open the sandbox's own terminal, also as /dev/console"


class ProcWrite(Op):
    """Write `value` to `path` below the set-up procfs; a failure of an optional one is warned."""

    opcode = 26
    signature = "ssu"
    path: str
    value: str
    optional: int

    def describe(self) -> str:
        return f"write {self.value!r} to /proc/{self.path}"


class Hostname(Op):
    """sethostname(2), setdomainname(2)."""

    opcode = 27
    signature = "ss"
    host: str
    domain: str

    def describe(self) -> str:
        return f"set the host name to {self.host}"


class Loopback(Op):
    """Bring `lo` up."""

    opcode = 28

    def describe(self) -> str:
        return "bring the loopback interface up"


class TimeNamespace(Op):
    """Clocks inside start at zero (time_namespaces(7))."""

    opcode = 29

    def describe(self) -> str:
        return "make a time namespace whose clocks start at zero"


class ProcessLimit(Op):
    """RLIMIT_NPROC of the outer namespace: bounds all processes inside together."""

    opcode = 30
    signature = "q"
    limit: int

    def describe(self) -> str:
        return f"limit the sandbox to {self.limit} processes"


class InnerUser(Op):
    """The payload's own user namespace, in which no capability reaches the other namespaces.

    `closed`: no user namespace can be made below it; 1 = or the set-up fails, 2 = as it goes.
    """

    opcode = 31
    signature = "uuLL"
    deny_setgroups: int
    closed: int
    uids: Extents
    gids: Extents

    def describe(self) -> str:
        last = ", none below it" if self.closed else ""
        ids = f"uid {extents(self.uids)}, gid {extents(self.gids)}"
        return f"make the payload's user namespace: {ids}{last}"


class Hold(Op):
    """Tell the owner that the namespaces are ready, and wait until it says go on."""

    opcode = 32

    def describe(self) -> str:
        return "wait until what runs beside the sandbox is ready"


class Tun(Op):
    """A TUN device: TUNSETIFF with `flags`, at this index; TUNSETOFFLOAD. It is handed out."""

    opcode = 33
    signature = "suuu"
    name: str
    flags: int
    index: int
    offloads: int

    def describe(self) -> str:
        return f"make the network device {self.name}"


class Netlink(Op):
    """One send over netlink(7), which the kernel answers so many times; see linux/netlink."""

    opcode = 34
    signature = "suub"
    what: str
    protocol: int
    answers: int
    batch: bytes

    def describe(self) -> str:
        return self.what


class Socket(Op):
    """A socket of the sandbox's network namespace, which is handed out.

    `options` are (level, name, value) in one row; `address` is a sockaddr to bind to, b"" = none;
    `backlog` 0 = it does not listen.
    """

    opcode = 35
    signature = "suuuGbu"
    what: str
    family: int
    kind: int
    protocol: int
    options: tuple[int, ...]
    address: bytes
    backlog: int

    def describe(self) -> str:
        return self.what


class Keyring(Op):
    """A new session keyring (keyrings(7))."""

    opcode = 40

    def describe(self) -> str:
        return "join a new session keyring"


class SetRlimit(Op):
    """setrlimit(2)."""

    opcode = 41
    signature = "uqq"
    resource: int
    soft: int
    hard: int

    def describe(self) -> str:
        name = next((n for n, r in RLIMITS.items() if r == self.resource), str(self.resource))
        soft, hard = ("unlimited" if v == INFINITY else v for v in (self.soft, self.hard))
        return f"limit {name} to {soft}:{hard}"


class Ids(Op):
    """setgroups(2) where allowed, setresgid(2), setresuid(2)."""

    opcode = 42
    signature = "uuuG"
    uid: int
    gid: int
    set_groups: int
    groups: tuple[int, ...]

    def describe(self) -> str:
        kept = "" if self.set_groups else ", the caller's groups kept"
        return f"become uid {self.uid}, gid {self.gid}{kept}"


class SetCapabilities(Op):
    """Bounding = permitted = effective = `mask`; inheritable and ambient empty."""

    opcode = 43
    signature = "q"
    mask: int

    def describe(self) -> str:
        return f"keep capabilities {self.mask:#x}" if self.mask else "drop all capabilities"


class NoNewPrivs(Op):
    """PR_SET_NO_NEW_PRIVS."""

    opcode = 44

    def describe(self) -> str:
        return "set no_new_privs"


class LandlockRuleset(Op):
    """landlock_create_ruleset(2) with these handled rights."""

    opcode = 45
    signature = "qqq"
    handled_fs: int
    handled_net: int
    scoped: int

    def describe(self) -> str:
        found = {
            "files": _rights(self.handled_fs, _FILE_RIGHTS),
            "net": _rights(self.handled_net, ("bind_tcp", "connect_tcp")),
            "scopes": _rights(self.scoped, ("abstract_unix_socket", "signal")),
        }
        named = [f"{kind} {words}" for kind, words in found.items() if words]
        return f"landlock: refuse what is not allowed: {', '.join(named)}"


# landlock(7), the names of access rights from bit 0 on.
_FILE_RIGHTS = (
    "execute", "write_file", "read_file", "read_dir", "remove_dir", "remove_file", "make_char",
    "make_dir", "make_reg", "make_sock", "make_fifo", "make_block", "make_sym", "refer",
    "truncate", "ioctl_dev",
)  # fmt: skip


def _rights(bits: int, names: tuple[str, ...]) -> str:
    """The names of some rights; of nearly all, only those that are missing."""
    held = [name for bit, name in enumerate(names) if bits >> bit & 1]
    if len(held) < len(names) // 2 or len(names) < 4:
        return " ".join(held)
    missing = [name for name in names if name not in held]
    return f"all but {' '.join(missing)}" if missing else "all"


class LandlockPath(Op):
    """Allow `access` beneath `path`; skipped where it does not exist."""

    opcode = 46
    signature = "sq"
    path: str
    access: int

    def describe(self) -> str:
        return f"landlock: beneath {self.path} allow {_rights(self.access, _FILE_RIGHTS)}"


class LandlockEnforce(Op):
    """landlock_restrict_self(2)."""

    opcode = 47

    def describe(self) -> str:
        return "landlock: enforce"


class Workdir(Op):
    """chdir(2) to the working directory of Exec, then check that it lies inside the root."""

    opcode = 48

    def describe(self) -> str:
        return "enter the working directory"


class CloseDescriptors(Op):
    """Close everything but stdio and `keep` (ascending)."""

    opcode = 49
    signature = "G"
    keep: tuple[int, ...]

    def describe(self) -> str:
        passed = [fd for fd in self.keep if fd not in (CHANNEL, EXEC_PIPE)]
        return f"close all descriptors but 0 1 2 {' '.join(map(str, passed))}".rstrip()


class Seccomp(Op):
    """Load the finished filter: an array of struct sock_filter."""

    opcode = 50
    signature = "b"
    program: bytes

    def describe(self) -> str:
        return f"load the system call filter ({len(self.program) // 8} instructions)"


class Exec(Op):
    """execve(2), with `argv[0]` searched in the PATH of `env`."""

    opcode = 60
    signature = "uSSs"
    flags: int
    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str

    def describe(self) -> str:
        if self.flags & EXEC_IDLE:
            return "run nothing: wait for commands that join"
        under = "under an init" if self.flags & EXEC_INIT else "as process 1"
        return f"run {' '.join(map(repr, self.argv))} in {self.cwd} {under}"


CHANNEL, EXEC_PIPE = 101, 103  # close-on-exec descriptors that report a failed exec

RLIMITS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
