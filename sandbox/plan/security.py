"""From the wanted profile to the operations of the payload's process, seccomp last."""

from __future__ import annotations

from sandbox.linux.capabilities import capability_mask
from sandbox.plan import ops
from sandbox.plan.request import Degradation, Step, give_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.identity import Ids
    from sandbox.plan.request import Request
    from sandbox.policy.model import Policy, Rlimit

# landlock(7), access rights of files and directories.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
NET_TCP = 3
SCOPES = {"abstract-unix-socket": 1, "signal": 2}
# Of the caller's limit of open files so many are the caller's alone: what a user has in flight is
# held against the limit of each sender, and one with a lower limit than a payload's sends no more.
DESCRIPTORS_KEPT = 1024
TERMINALS = ("/dev/pts", "/dev/tty", "/dev/console", "/dev/ptmx")


def _landlock_losses(policy: Policy, abi: int) -> list[Degradation]:
    wanted = policy.landlock
    checks = (
        (wanted.fs != "none", 2, "renaming files between directories"),
        (wanted.fs != "none", 3, "refusal of truncate by Landlock"),
        (wanted.tcp, 4, "refusal of TCP by Landlock"),
        (wanted.ioctl_dev, 5, "refusal of device ioctls by Landlock"),
        (bool(wanted.scopes), 6, "Landlock's scopes of abstract sockets and signals"),
    )
    cause = f"the kernel has Landlock ABI {abi}"
    return [
        Degradation("landlock", what, f"{cause}, {needed} is needed")
        for active, needed, what in checks
        if active and abi < needed
    ]


def _writable_targets(policy: Policy) -> list[str]:
    files = policy.filesystem
    targets = [entry.target for entry in files.tmpfs]
    targets += [mount.target for mount in files.mounts if not mount.read_only]
    if policy.landlock.fs == "write" and not files.read_only:
        targets.append("/")
    return [*targets, "/dev/shm"]


def _landlock(policy: Policy, facts: HostFacts, lost: list[Degradation]) -> list[ops.Op]:
    wanted = policy.landlock
    abi = facts.landlock_abi
    if wanted.fs == "none" and not (wanted.tcp or wanted.ioctl_dev or wanted.scopes):
        return []
    if abi == 0:
        cause = "landlock_create_ruleset is not supported or not enabled (lsm=)"
        rules = Degradation("landlock", "all file and socket rules", cause)
        hint = (
            "boot with landlock in the lsm= list, "
            'or use a policy with on_missing.landlock = "degrade"'
        )
        lost.append(give_up(policy, rules, "this kernel has no Landlock", hint))
        return []
    lost += _landlock_losses(policy, abi)
    write = WRITE_FILE | MAKE_AND_REMOVE
    write |= REFER if abi >= 2 else 0
    write |= TRUNCATE if abi >= 3 else 0
    handled = 0 if wanted.fs == "none" else READ | write
    ioctl = IOCTL_DEV if wanted.ioctl_dev and abi >= 5 else 0
    net = NET_TCP if wanted.tcp and abi >= 4 else 0
    scopes = sum(SCOPES[name] for name in wanted.scopes) if abi >= 6 else 0
    if not (handled | ioctl or net or scopes):
        return []
    made: list[ops.Op] = [ops.LandlockRuleset(handled | ioctl, net, scopes)]
    if handled:
        made.append(ops.LandlockPath("/", READ))
        made.append(ops.LandlockPath("/dev", READ | (write & (WRITE_FILE | TRUNCATE))))
        made += [ops.LandlockPath(path, READ | write) for path in _writable_targets(policy)]
    if ioctl:
        made += [ops.LandlockPath(path, ioctl) for path in TERMINALS]
    return [*made, ops.LandlockEnforce()]


def bound(wanted: int | None, most: int | None) -> int:
    """A hard limit can only go down: the caller's own caps what the policy wants."""
    values = [value for value in (wanted, most) if value is not None]
    return min(values) if values else ops.INFINITY


def _rlimit(limit: Rlimit, caller: dict[str, int | None]) -> ops.SetRlimit:
    most = caller.get(limit.name)
    if limit.name == "nofile" and most is not None and most >= 2 * DESCRIPTORS_KEPT:
        most -= DESCRIPTORS_KEPT
    hard = bound(limit.hard, most)
    return ops.SetRlimit(ops.RLIMITS[limit.name], min(bound(limit.soft, None), hard), hard)


def _filter(
    policy: Policy, facts: HostFacts, program: bytes, lost: list[Degradation]
) -> list[Step]:
    if not program:
        return []
    if facts.seccomp:
        return [Step(ops.Seccomp(program), policy.origin("seccomp.base"))]
    cause = "the kernel cannot load filters (CONFIG_SECCOMP_FILTER)"
    hint = 'use a policy with on_missing.seccomp = "degrade"'
    calls = Degradation("seccomp", "the system call filter", cause)
    lost.append(give_up(policy, calls, "cannot filter system calls", hint))
    return []


def _capabilities(policy: Policy, ids: Ids) -> int:
    """What the policy lists is for user 0; others have what was added by name, and lose even
    that at their first exec: no ambient set is raised (capabilities(7))."""
    kept = policy.capabilities.keep if ids.uid == 0 else policy.capabilities.add
    return capability_mask(kept)


def security_steps(
    policy: Policy, facts: HostFacts, request: Request, ids: Ids
) -> tuple[list[Step], list[Degradation]]:
    """The payload's steps from its first instruction to the loaded filter."""
    lost: list[Degradation] = []
    caller = dict(request.hard_limits)
    landlock = _landlock(policy, facts, lost)
    keep = sorted({*request.pass_fds, ops.CHANNEL, ops.EXEC_PIPE})
    steps = [Step(ops.Keyring(), "sbx")]
    steps += [
        Step(_rlimit(limit, caller), policy.origin(f"rlimits.{limit.name}"))
        for limit in policy.rlimits
    ]
    groups = () if ids.deny_setgroups else (ids.gid,)
    steps += [
        Step(
            ops.Ids(ids.uid, ids.gid, int(not ids.deny_setgroups), groups),
            policy.origin("identity.user"),
        ),
        Step(ops.SetCapabilities(_capabilities(policy, ids)), policy.origin("capabilities.keep")),
        Step(ops.NoNewPrivs(), "sbx"),
        *(Step(op, policy.origin("landlock.fs")) for op in landlock),
        Step(ops.Workdir(), policy.origin("process.cwd")),
        Step(ops.CloseDescriptors(tuple(keep)), "sbx"),
    ]
    steps += _filter(policy, facts, request.program, lost)
    return steps, lost
