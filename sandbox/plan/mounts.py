"""From the wanted file system to mount operations, in the order the kernel needs them."""

from __future__ import annotations

import stat

from sandbox.plan import ops
from sandbox.plan.network import network_mode
from sandbox.plan.request import Degradation, Step, give_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.identity import Ids
    from sandbox.plan.request import Request, Source
    from sandbox.policy.model import Mount, Policy

SAFE = ops.NOSUID | ops.NODEV
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)
TTY_GROUP = 5
MAX_TERMINALS = 256
STAGE_SPARE = 1 << 20  # for our own files beside the writable layer
STAGE_SPARE_INODES = 64


def _mount_points(steps: list[Step]) -> tuple[str, ...]:
    points = []
    for op in (step.op for step in steps):
        if isinstance(op, ops.Filesystem) and not op.target.startswith("/dev/"):
            points.append(f"{op.target}/")
        elif isinstance(op, ops.Bind):
            points.append(op.target + "/" * stat.S_ISDIR(op.filetype))
        elif isinstance(op, ops.File):
            points.append(op.path)
    return tuple(points)


def _root(policy: Policy, request: Request, inside: list[Step]) -> Step:
    files = policy.filesystem
    root = request.rootfs
    origin = policy.origin("filesystem.root")
    if request.storage == "overlay":
        folder = files.persist or request.upper
        shown = (root.path, root.dev, root.ino, folder, *request.upper_id, int(not files.persist))
        return Step(ops.RootOverlay(*shown, _mount_points(inside)), origin)
    # Only a policy that says "bind" itself may write through it.
    read_only = request.storage == "bind" and (files.read_only or files.root != "bind")
    return Step(ops.RootBind(root.path, root.dev, root.ino, int(read_only)), origin)


def _unlimited(policy: Policy, facts: HostFacts, request: Request) -> list[Degradation]:
    """What is written to a disk, by a policy that bounds what is written to memory."""
    if policy.filesystem.read_only or not (request.upper or request.storage == "copy"):
        return []
    cause = "changes go to a disk, where nothing counts them"
    if request.upper:
        cause += f": in memory, overlayfs fails here ({facts.upper_memory_error})"
    return [Degradation("overlay", "the size limit of the writable layer", cause)]


def _proc(policy: Policy, facts: HostFacts, lost: list[Degradation]) -> Step:
    origin = policy.origin("filesystem.proc")
    if not facts.proc_error:
        hide = ("subset=pid", "hidepid=invisible") if policy.filesystem.proc == "pid" else ()
        op = ops.Filesystem("proc", "/proc", SAFE | ops.NOEXEC, ops.KERNEL_DIRECTORY, hide)
        return Step(op, origin)
    missing = Degradation("proc", "/proc: it is empty inside", facts.proc_error)
    hint = (
        "run outside the container whose /proc is masked, "
        'or use a policy with on_missing.proc = "degrade"'
    )
    lost.append(give_up(policy, missing, "cannot mount /proc for the sandbox", hint))
    attributes = SAFE | ops.NOEXEC | ops.RDONLY
    options = ("mode=0555", "size=4096", "nr_inodes=2")
    return Step(ops.Filesystem("tmpfs", "/proc", attributes, ops.KERNEL_DIRECTORY, options), origin)


def _dev(policy: Policy, request: Request, ids: Ids) -> list[Step]:
    flags = ops.KERNEL_DIRECTORY
    small = ("mode=0755", "size=65536", "nr_inodes=64")
    # kernel.pty.max counts over all instances: without a bound one sandbox could take them all.
    pts = ["newinstance", "ptmxmode=0666", "mode=0620", f"max={MAX_TERMINALS}"]
    tty_gid = ids.outer_gid(TTY_GROUP)
    if tty_gid is not None:
        pts.append(f"gid={tty_gid}")
    shm = policy.filesystem.shm or 64 << 20
    shm_options = ("mode=1777", f"size={shm}", "nr_inodes=32768")
    mount = ops.Filesystem
    made = [
        mount("tmpfs", "/dev", ops.NOSUID | ops.NOEXEC, flags, small),
        ops.Directory("/dev/pts", 0o755),
        mount("devpts", "/dev/pts", ops.NOSUID | ops.NOEXEC, flags, tuple(pts)),
        ops.Directory("/dev/shm", 0o1777),
        mount("tmpfs", "/dev/shm", SAFE | ops.NOEXEC, flags, shm_options),
        *(ops.Device(*device) for device in DEVICES),
        *(ops.Symlink(*link) for link in LINKS),
    ]
    if policy.process.tty:
        made.append(ops.Terminal(ids.outer_uid(ids.uid) or 0, tty_gid or 0))
    sealed = Step(ops.Remount("/dev", ops.RDONLY | ops.NOSUID | ops.NOEXEC), "sbx")
    named = _volumes(policy, request, devices=True)
    return [*(Step(op, "sbx") for op in made), *named, sealed]


def _tmpfs(policy: Policy) -> list[Step]:
    steps = []
    for entry in policy.filesystem.tmpfs:
        options = (f"mode={entry.mode:04o}", f"size={entry.size}", f"nr_inodes={entry.inodes}")
        attributes = SAFE | (ops.NOEXEC if entry.noexec else 0)
        op = ops.Filesystem("tmpfs", entry.target, attributes, 0, options)
        steps.append(Step(op, policy.origin(f"filesystem.tmpfs.{entry.target}")))
    return steps


def _bind(mount: Mount, source: Source) -> ops.Bind:
    attributes = SAFE | (ops.RDONLY if mount.read_only else 0)
    if stat.S_ISCHR(source.mode) or stat.S_ISBLK(source.mode):
        attributes &= ~ops.NODEV
    return ops.Bind(
        source.path,
        source.dev,
        source.ino,
        stat.S_IFMT(source.mode),
        mount.target,
        attributes,
        int(mount.optional),
    )


def _volumes(policy: Policy, request: Request, *, devices: bool) -> list[Step]:
    """The binds into /dev (`devices`), or all others."""
    steps = []
    made = {"/dev", "/dev/pts"}
    for mount in policy.filesystem.binds:
        source = request.source(mount.source)
        if source and mount.target.startswith("/dev/") == devices:
            key = f"mounts.{mount.target}"
            if devices and mount.target in policy.filesystem.devices:
                key = "devices"
                folder = mount.target.rpartition("/")[0]
                if folder not in made:
                    made.add(folder)
                    steps.append(Step(ops.Directory(folder, 0o755), "sbx"))
            origin = policy.origin(f"filesystem.{key}")
            steps.append(Step(_bind(mount, source), origin))
    return steps


def _account_files(policy: Policy, request: Request, ids: Ids) -> dict[str, bytes]:
    """The root's own passwd and group, each with a line more where the payload's id has none."""
    passwd, group = request.accounts
    name = "user" if b"user:" not in passwd + group else f"user{ids.uid}"
    home = dict(policy.process.env).get("HOME", "")
    home = home if home.startswith("/") and home.isprintable() and ":" not in home else "/tmp"
    lines = (
        ("/etc/passwd", passwd, ids.uid, f"{name}:x:{ids.uid}:{ids.gid}::{home}:/bin/sh\n"),
        ("/etc/group", group, ids.gid, f"{name}:x:{ids.gid}:\n"),
    )
    found = {}
    for path, content, number, line in lines:
        known = [entry.split(b":")[2:3] for entry in content.split(b"\n")]
        if number and content and [str(number).encode()] not in known:
            found[path] = content.rstrip(b"\n") + b"\n" + line.encode()
    return found


def _own_files(policy: Policy, request: Request, ids: Ids) -> list[Step]:
    name = policy.process.hostname
    hosts = f"127.0.0.1 localhost {name}\n::1 localhost ip6-localhost ip6-loopback {name}\n"
    origins = {"/etc/hosts": "process.hostname", "/etc/resolv.conf": "network.mode"}
    files = {"/etc/hosts": hosts.encode(), **_account_files(policy, request, ids)}
    if request.shared:
        files |= dict(request.shared.files)
    for path, content in request.files:
        files[path] = files.get(path, b"") + content
    # What the user shows there is the user's: nothing is made in it, and nothing covers it.
    given = {mount.target for mount in policy.filesystem.mounts}
    return [
        Step(ops.File(path, content, number), policy.origin(origins.get(path, "identity.user")))
        for number, (path, content) in enumerate(files.items())
        if not given & {"/etc", path}
    ]


def _covers(policy: Policy) -> list[Step]:
    files = policy.filesystem
    if not files.guard:
        return []
    masked = [Step(ops.Mask(p), policy.origin("filesystem.masked")) for p in files.masked]
    locked = [Step(ops.Lock(p), policy.origin("filesystem.locked")) for p in files.locked]
    return masked + locked


def _own_folders(request: Request) -> list[Step]:
    """Cover what is sbx's own in bound folders. The folders on the way become mount points, which
    cannot be renamed: the cover would move away with its parent."""
    steps = []
    for source, target, read_only in request.pinned:
        attributes = SAFE | (ops.RDONLY if read_only else 0)
        kind = stat.S_IFMT(source.mode)
        op = ops.Bind(source.path, source.dev, source.ino, kind, target, attributes, 0)
        steps.append(Step(op, "sbx"))
    return steps + [Step(ops.Mask(path), "sbx") for path in request.hidden]


def _depth(step: Step) -> int:
    """Parents before children, whatever list they came from."""
    op = step.op
    return op.target.count("/") if isinstance(op, ops.Filesystem | ops.Bind) else 0


def mount_steps(
    policy: Policy, facts: HostFacts, request: Request, ids: Ids
) -> tuple[list[Step], list[Degradation]]:
    """All steps from an empty mount namespace to the finished root, before the pivot."""
    files = policy.filesystem
    lost = _unlimited(policy, facts, request)
    size = (files.size or 256 << 20) + STAGE_SPARE
    inodes = (files.inodes or 32768) + STAGE_SPARE_INODES
    inside = [_proc(policy, facts, lost), *_dev(policy, request, ids)]
    if files.sys != "none":
        attributes = SAFE | ops.NOEXEC | (ops.RDONLY if files.sys == "read-only" else 0)
        op = ops.Filesystem("sysfs", "/sys", attributes, ops.KERNEL_DIRECTORY, ())
        if not network_mode(policy).namespace:
            lost.append(Degradation("sys", "/sys", "sysfs belongs to the host's network namespace"))
        else:
            inside.append(Step(op, policy.origin("filesystem.sys")))
    inside += sorted(_tmpfs(policy) + _volumes(policy, request, devices=False), key=_depth)
    inside += _own_files(policy, request, ids)
    inside += _covers(policy)
    inside += _own_folders(request)
    if files.sys == "none" and request.storage == "bind":
        inside.append(Step(ops.Mask("/sys"), policy.origin("filesystem.sys")))
    if files.read_only:
        op_root = ops.Remount("/", ops.RDONLY | SAFE)
        inside.append(Step(op_root, policy.origin("filesystem.read_only")))
    start = [
        Step(ops.Private(), "sbx"),
        Step(ops.Stage(size, inodes), policy.origin("filesystem.size")),
        Step(ops.Procfs(int(not facts.proc_error)), "sbx"),
        _root(policy, request, inside),
    ]
    return start + inside, lost
