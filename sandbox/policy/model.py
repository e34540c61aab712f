"""The Policy: what is wanted, as frozen values. Owns the shape; `load` reads, `merge` combines.

Every section is one Record; field names are the TOML keys. Sizes are bytes, times seconds.
Closed sets are `Literal` types with the tuple of their members beside them: `enum` would cost
more at start-up than parsing the whole command line.
"""

from __future__ import annotations

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    IdMapKind = Literal["range", "single", "keep-id", "none"]
    RootMode = Literal["auto", "overlay", "copy", "bind"]
    ProcMode = Literal["pid", "full"]
    SysMode = Literal["none", "read-only", "writable"]
    NetworkMode = Literal["none", "user", "bridge", "pasta", "slirp4netns", "host"]
    SeccompBase = Literal["allow", "deny", "unconfined"]
    LandlockFs = Literal["strict", "write", "none"]
    OnMissing = Literal["refuse", "degrade"]
    CgroupDriver = Literal["auto", "delegated", "systemd", "root", "none"]

NO_MAP = "none"
ID_MAP_KINDS = ("range", "single", "keep-id", NO_MAP)
ROOT_MODES = ("auto", "overlay", "copy", "bind")
PROC_MODES = ("pid", "full")
SYS_MODES = ("none", "read-only", "writable")
SECCOMP_BASES = ("allow", "deny", "unconfined")
LANDLOCK_FS = ("strict", "write", "none")
ON_MISSING = ("refuse", "degrade")
SOCKET_FAMILIES = ("unix", "inet", "inet6", "netlink")
LAYERS = ("subids", "overlay", "landlock", "seccomp", "time", "proc", "cgroup", "network")
CGROUP_DRIVERS = ("auto", "delegated", "systemd", "root", "none")
BUILT_IN = ("strict.toml", "default.toml", "ci.toml", "permissive.toml")  # as origins
NETWORK_MODES = ("none", "user", "bridge", "pasta", "slirp4netns", "host")
JUDGED_MODES = ("user", "bridge")  # what may be reached is judged beside the sandbox
FOREIGN_MODES = ("pasta", "slirp4netns")  # programs of others carry everything, unjudged
# What can be shared with another sandbox, and how its name is written: "container:NAME".
SHAREABLE = ("net", "ipc", "uts", "pid")
CONTAINER = "container:"
PRIVATE = "private"
SECCOMP_GROUPS = ("D1", "D2")
LANDLOCK_SCOPES = ("abstract-unix-socket", "signal")
RLIMIT_NAMES = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)

# What 0 stands for in `filesystem.size`, `inodes` and `shm`.
DEFAULT_SIZE = 256 << 20
DEFAULT_INODES = 32768
DEFAULT_SHM = 64 << 20
DEFAULT_MTU = 65520


class Identity(Record):
    """Which ids exist inside and which of them the payload has.

    `map`: "range" maps inside 0 to the caller and 1…n to the caller's subordinate ids;
    "keep-id" maps the payload's own number to the caller and all others to subordinate ids;
    "single" maps the payload's own number to the caller and nothing else.
    `user`, `group`: the payload's ids, a number or a name of the rootfs's passwd/group file;
    None means 0 under "range" and the caller's number otherwise.
    "none", for root only: no user namespace at all, ids are the host's.
    `root`: whether the payload may have user id 0 at all. `privileged`: whether "none", devices,
    an unguarded /proc or /sys and all capabilities may be asked for.
    """

    map: IdMapKind = "keep-id"
    user: int | str | None = None
    group: int | str | None = None
    root: bool = True
    privileged: bool = False


class Namespaces(Record):
    """`time` gives the sandbox its own clock offsets; `nested` allows user namespaces inside.

    `ipc`, `uts`, `pid`: "private", or "container:NAME" for those of a running sandbox; of the
    network that is network.mode. `shares`: of SHAREABLE, what may be another sandbox's;
    `shareable`: what others may share with this one.
    """

    time: bool = False
    nested: bool = False
    ipc: str = PRIVATE
    uts: str = PRIVATE
    pid: str = PRIVATE
    shares: tuple[str, ...] = ()
    shareable: tuple[str, ...] = ()


class Mount(Record):
    """A bind of host path `source` (absolute, as given by the caller) on `target` inside."""

    source: str
    target: str
    read_only: bool = False
    optional: bool = False


class Tmpfs(Record):
    """A fresh tmpfs on `target`, bounded in bytes and inodes."""

    target: str
    size: int
    inodes: int
    mode: int = 0o755
    noexec: bool = False


class Filesystem(Record):
    """The root, what is mounted in it, and what of the kernel's files is hidden.

    `root`: "auto" takes overlay and falls back to copy aloud; `read_only` makes the root itself
    read-only after set-up. `size` and `inodes` bound the writable layer. `persist` keeps the
    writable layer in a host directory. `masked` and `locked` are paths inside that become
    empty and read-only; missing ones are skipped. Without `guard` none of them are. `devices` are
    nodes of the host's /dev, shown at their own names.
    """

    root: RootMode = "auto"
    read_only: bool = False
    size: int = 0
    inodes: int = 0
    persist: str | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    shm: int = 0
    proc: ProcMode = "full"
    sys: SysMode = "none"
    masked: tuple[str, ...] = ()
    locked: tuple[str, ...] = ()
    guard: bool = True
    devices: tuple[str, ...] = ()

    @property
    def binds(self) -> tuple[Mount, ...]:
        """The mounts, and the devices as mounts at their own names."""
        return (*self.mounts, *(Mount(path, path) for path in self.devices))


class Network(Record):
    """`mode` names a driver of the network registry, or is "container:NAME" for the network of
    a running sandbox; `loopback` brings `lo` up.

    In the modes "user" and "bridge": `allow` and `deny` are rules of what may be reached
    (policy/egress.py), `dns` name servers instead of the host's, `publish` ports of the host that
    lead inside. Of the mode "user": `sni`: what is connected to by a name's rule must name it, on
    the ports 80 and 443. Of it, "pasta" and "slirp4netns": `mtu` in bytes.
    `connections` at once and `connections_per_second`, 0 = no bound but the program's own.

    Of the mode bridge: `name` is the network, "" = the default one; `aliases` are further names on
    it; `rate` bounds what the sandbox sends and what it receives, in bits a second, `delay` in
    seconds and `loss` in percent are done to what it sends; 0 leaves it to the network.
    """

    mode: str = "none"
    loopback: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    mtu: int = DEFAULT_MTU
    sni: bool = False
    connections: int = 0
    connections_per_second: int = 0
    name: str = ""
    aliases: tuple[str, ...] = ()
    rate: int = 0
    delay: float = 0.0
    loss: float = 0.0


class Process(Record):
    """How the payload is started and bounded in time and output. 0 or None means no bound.

    `env` holds (name, value) pairs; `env_pass` names that are taken over from the caller.
    """

    env: tuple[tuple[str, str], ...] = ()
    env_pass: tuple[str, ...] = ()
    cwd: str | None = None
    hostname: str = "sbx"
    timeout: float = 0.0
    grace: float = 2.0
    output_limit: int = 0
    init: bool = True
    tty: bool = False


class Capabilities(Record):
    """`keep` is bounding = permitted = effective of a payload with user id 0; inheritable and
    ambient are empty. `add` is the part of `keep` that a policy or flag added by name to what
    it extends: the only capabilities of a payload with another user id.
    """

    keep: tuple[str, ...] = ()
    add: tuple[str, ...] = ()


class Seccomp(Record):
    """`base` "allow" permits only the listed calls, "deny" refuses the named `groups`.

    `groups` names groups of sandbox.seccomp.groups ("D1", "D2"); `sockets` the families that
    socket(2) may name; `profile` is the path of an OCI/Docker JSON profile that replaces both.
    """

    base: SeccompBase = "deny"
    groups: tuple[str, ...] = ()
    sockets: tuple[str, ...] = SOCKET_FAMILIES
    profile: str | None = None


class Landlock(Record):
    """`fs`: "strict" = read and execute on the root, write on writable mounts only;
    "write" = like strict with the whole root writable when its mount is; "none".
    `tcp`: refuse TCP bind and connect; `ioctl_dev`: refuse device ioctls;
    `scopes`: of "abstract-unix-socket" and "signal".
    """

    fs: LandlockFs = "none"
    tcp: bool = False
    ioctl_dev: bool = False
    scopes: tuple[str, ...] = ()


class Resources(Record):
    """Limits of all processes of a sandbox together, through a control group; None is no limit.

    `memory` in bytes; `memory_swap` is memory and swap together, 0 means no swap.
    `memory_reservation`: below it, memory is taken from others first (memory.low). `cpus` is a
    number of processors, `cpuset` a list such as "0-3,6", "" for all. Weights are 1 to 10000, 100
    is everybody's, 0 leaves it. `io_max`: "DEVICE:KEY=NUMBER,…" as parse_io_max writes them.
    `driver`: how the group is made. `required`: the lack of any limit is fatal, also of those
    that nobody has asked for.
    """

    driver: CgroupDriver = "auto"
    memory: int | None = None
    memory_swap: int | None = 0
    memory_reservation: int = 0
    cpus: float | None = None
    cpu_weight: int = 0
    cpuset: str = ""
    pids: int | None = None
    io_max: tuple[str, ...] = ()
    io_weight: int = 0
    required: bool = False


class Rlimit(Record):
    """One limit of setrlimit(2); None means unlimited (or the caller's own hard limit)."""

    name: str
    soft: int | None
    hard: int | None


class Policy(Record):
    """Everything that is wanted of one sandbox.

    `origins` maps "section.key" to its source, and the entries of lists and tables that merge
    by entry one by one: "filesystem.mounts./data", "filesystem.tmpfs./tmp",
    "filesystem.masked./proc/keys", "process.env.HOME", "rlimits.nofile", "sysctls.net.x".
    """

    name: str
    identity: Identity
    namespaces: Namespaces
    filesystem: Filesystem
    network: Network
    process: Process
    capabilities: Capabilities
    seccomp: Seccomp
    landlock: Landlock
    resources: Resources
    rlimits: tuple[Rlimit, ...]
    sysctls: tuple[tuple[str, str], ...]
    on_missing: tuple[tuple[str, str], ...]
    origins: tuple[tuple[str, str], ...] = ()

    @property
    def shared(self) -> dict[str, str]:
        """What is another sandbox's: the policy's key by kind, in the order of SHAREABLE."""
        own = self.namespaces
        words = (self.network.mode, own.ipc, own.uts, own.pid)
        return {
            kind: "network.mode" if kind == "net" else f"namespaces.{kind}"
            for kind, word in zip(SHAREABLE, words, strict=True)
            if word.startswith(CONTAINER)
        }

    def value(self, key: str) -> Any:
        """The value of "section.key"."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def refuses(self, layer: str) -> bool:
        """Whether the lack of `layer` is fatal (see LAYERS)."""
        return dict(self.on_missing).get(layer, "degrade") == "refuse"

    def by_flag(self, key: str) -> bool:
        """Whether an option of the command line set "section.key"."""
        return self.origin(key).startswith("-")

    def by_call(self, key: str) -> bool:
        """Whether an option of the command line or a keyword of a call set "section.key"."""
        where = self.origin(key)
        called = where.startswith(("sandbox.", "SandboxExecutor"))
        return self.by_flag(key) or (called and not where.endswith(".toml"))

    def asked(self, key: str) -> bool:
        """Whether a flag or a policy of the user's own set "section.key"."""
        return dict(self.origins).get(key, BUILT_IN[0]) not in BUILT_IN

    def origin(self, key: str) -> str:
        """Where the value of "section.key" came from: a policy's name or a flag."""
        return dict(self.origins).get(key, "built-in default")
