"""Policy + HostFacts + Request → Plan. Pure: nothing is opened, started or asked here."""

from __future__ import annotations

from sandbox.errors import HostError, PolicyError
from sandbox.linux.capabilities import NAMES as CAPABILITIES
from sandbox.plan import ops
from sandbox.plan.identity import choose_ids
from sandbox.plan.mounts import mount_steps
from sandbox.plan.network import hold_steps, network_mode, network_steps
from sandbox.plan.request import DISK_OVERLAY, Degradation, Plan, Step, give_up
from sandbox.plan.resources import cgroup_steps
from sandbox.plan.security import bound, security_steps
from sandbox.policy.model import LAYERS, NO_MAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.identity import Ids
    from sandbox.plan.request import Request
    from sandbox.policy.model import Policy

CLONE_USER, CLONE_MOUNT, CLONE_PID = 0x10000000, 0x00020000, 0x20000000
CLONE_UTS, CLONE_IPC, CLONE_NET, CLONE_CGROUP = 0x04000000, 0x08000000, 0x40000000, 0x02000000
_SHAREABLE = {"pid": CLONE_PID, "uts": CLONE_UTS, "ipc": CLONE_IPC, "net": CLONE_NET}
OOM_SCORE = "500"
DOMAIN = "sbx"
PING_GROUPS = "net.ipv4.ping_group_range"
# What the kernel counts for a user over all sandboxes (inotify(7), fanotify(7)): a part of the 128
# instances that most hosts give, and watches for big trees.
INOTIFY = (("instances", "64"), ("watches", "65536"))
FANOTIFY = (("groups", "32"), ("marks", "65536"))


def choose_storage(policy: Policy, facts: HostFacts, *, host_root: bool = False) -> tuple[str, str]:
    """How the root is shown, and why when it is not an overlay over memory: (storage, reason).

    Storage is "overlay", DISK_OVERLAY, "copy" or "bind". `host_root`: the rootfs is the host's own
    "/". The kernel refuses it as a lower layer, since that would show what its mounts cover
    (clone_private_mount), so it is bound read-only.
    Raises HostError when overlay is demanded and this host refuses it, or all namespaces.
    """
    if policy.identity.map != NO_MAP:
        _check_user_namespaces(facts)  # or its lack would be told as that of overlayfs
    files = policy.filesystem
    if files.persist and (host_root or facts.overlay_error):
        raise HostError(
            f"cannot keep changes in {files.persist}",
            cause=facts.overlay_error or "the host's own root cannot be changed",
            hint="leave --persist out, or name another root file system",
        )
    if files.root in ("copy", "bind"):
        return files.root, f"asked by {policy.origin('filesystem.root')}"
    if host_root:
        return "bind", "the host's own root is shown read-only"
    problem = facts.overlay_error
    if facts.upper_memory_error and not (files.persist or files.read_only):
        problem = f"in memory: {facts.upper_memory_error}"
        if not (facts.upper_disk_error or policy.refuses("overlay")):
            return DISK_OVERLAY, f"overlayfs takes changes on disk only: {problem}"
        problem += f"; on disk: {facts.upper_disk_error}" * bool(facts.upper_disk_error)
    if not problem:
        return "overlay", ""
    if files.root == "overlay" or policy.refuses("overlay"):
        raise HostError(
            "cannot show the root through overlayfs",
            cause=problem,
            hint='use --storage copy, or a policy with filesystem.root = "auto" and '
            'on_missing.overlay = "degrade"',
        )
    return "copy", f"overlayfs is refused here: {problem}"


def _check_user_namespaces(facts: HostFacts) -> None:
    if facts.userns_error:
        raise HostError(
            "cannot create a user namespace",
            cause=facts.userns_error,
            hint='run "sbx doctor" for the cure on this host',
        )


def _namespaces(policy: Policy) -> ops.Namespaces:
    flags = CLONE_USER | CLONE_MOUNT | CLONE_PID | CLONE_UTS | CLONE_IPC | CLONE_CGROUP
    if network_mode(policy).namespace:
        flags |= CLONE_NET
    if policy.shared or policy.identity.map == NO_MAP:
        flags &= ~CLONE_USER
    for kind in policy.shared:
        flags &= ~_SHAREABLE[kind]
    return ops.Namespaces(flags)


def _id_map(ids: Ids, facts: HostFacts, request: Request) -> ops.IdMap:
    if request.shared:
        from sandbox.plan.share import shared_map

        return shared_map(ids, request.shared)
    if ids.kind == NO_MAP:
        return ops.IdMap(ops.MAP_STANDS, 0, ids.outer_uids, ids.outer_gids, "", "")
    helpers = ids.helpers
    way = ops.MAP_HELPERS if helpers else ops.MAP_DIRECT
    return ops.IdMap(
        way=ops.MAP_SELF if ids.deny_setgroups else way,
        deny_setgroups=int(ids.deny_setgroups),
        uids=ids.outer_uids,
        gids=ids.outer_gids,
        newuidmap=facts.newuidmap if helpers else "",
        newgidmap=facts.newgidmap if helpers else "",
    )


def _kernel_settings(policy: Policy, facts: HostFacts) -> list[Step]:
    """Settings of the new namespaces, written while the outer namespace's root is still us.

    Without a fresh procfs the outer sandbox's may be read-only: what fails then is warned.
    """
    optional = int(bool(facts.proc_error))
    steps = [Step(ops.ProcWrite("self/oom_score_adj", OOM_SCORE, 1), "sbx")]
    if network_mode(policy).service and PING_GROUPS not in dict(policy.sysctls):
        # Group 0 of the outer user namespace is the caller's own (icmp(7)); root maps them all.
        last = "0 65535" if policy.network.mode == "bridge" else "0 0"
        write = ops.ProcWrite(f"sys/{PING_GROUPS.replace('.', '/')}", last, 1)
        steps.append(Step(write, policy.origin("network.mode")))
    for name, value in policy.sysctls:
        network = network_mode(policy)
        if name.startswith("net."):
            if network.shared or not network.namespace:
                continue
        elif "ipc" in policy.shared:
            continue
        path = f"sys/{name.replace('.', '/')}"
        steps.append(Step(ops.ProcWrite(path, value, optional), policy.origin(f"sysctls.{name}")))
    if policy.shared or policy.identity.map == NO_MAP:
        return steps  # the rest is counted for the user namespace that was there before
    if not policy.namespaces.nested:
        # ucount of the outer namespace: the payload's own user namespace is the one.
        write = ops.ProcWrite(ops.NESTING, "1", optional)
        steps.append(Step(write, policy.origin("namespaces.nested")))
    bounds = [(f"inotify_{name}", value, optional) for name, value in INOTIFY]
    if policy.seccomp.base != "allow" and "D2" not in policy.seccomp.groups:
        # Counted from Linux 5.13 on, where the kernel has it at all.
        bounds += [(f"fanotify_{name}", value, 1) for name, value in FANOTIFY]
    for name, value, may_fail in bounds:
        steps.append(Step(ops.ProcWrite(f"sys/user/max_{name}", value, may_fail), "sbx"))
    return steps


def _time(policy: Policy, facts: HostFacts, lost: list[Degradation]) -> list[Step]:
    if not policy.namespaces.time:
        return []
    if facts.time_namespace:
        return [Step(ops.TimeNamespace(), policy.origin("namespaces.time"))]
    cause = "the kernel has no time namespaces, or refuses them"
    clocks = Degradation("time", "own clocks: the host's uptime shows", cause)
    hint = 'use a policy with namespaces.time = false or on_missing.time = "degrade"'
    lost.append(give_up(policy, clocks, "cannot make a time namespace", hint))
    return []


def _with_stand_in(policy: Policy, request: Request) -> Request:
    """Without a control group RLIMIT_NPROC stands in for its limit of processes."""
    pids, group = policy.resources.pids, request.cgroup
    if pids is None or (group and "pids" in group.controllers):
        return request
    limits = dict(request.hard_limits)
    limits["nproc"] = bound(pids, limits.get("nproc"))
    return request.replace(hard_limits=tuple(limits.items()))


def _process_limit(policy: Policy, request: Request) -> list[Step]:
    if policy.identity.map == NO_MAP:
        return []  # it would count all processes of that user
    wanted = [limit.hard for limit in policy.rlimits if limit.name == "nproc"]
    hard = wanted[0] if wanted else None
    pids = policy.resources.pids
    limit = bound(hard, dict(request.hard_limits).get("nproc"))
    if limit == ops.INFINITY or not (wanted or limit == pids):
        return []
    key = "resources.pids" if limit == pids and hard != pids else "rlimits.nproc"
    return [Step(ops.ProcessLimit(limit), policy.origin(key))]


def _environment(policy: Policy, request: Request) -> tuple[str, ...]:
    """An empty start, then what is known of the account, then names asked for, then values."""
    account = request.account
    env = {"HOME": account.home or "/tmp", "USER": account.name, "LOGNAME": account.name}
    env["SHELL"] = account.shell
    caller = dict(request.env)
    if policy.process.tty:
        env["TERM"] = caller.get("TERM", "xterm")
    env |= {name: caller[name] for name in policy.process.env_pass if name in caller}
    wanted = dict(policy.process.env)
    if policy.process.tty and policy.origin("process.env.TERM").startswith("--"):
        env["TERM"] = wanted["TERM"]
    elif policy.process.tty:
        wanted.pop("TERM", None)
    env |= wanted
    return tuple(f"{name}={value}" for name, value in env.items() if value or name in wanted)


def _exec(policy: Policy, request: Request) -> Step:
    flags = ops.EXEC_INIT if policy.process.init else 0
    cwd = policy.process.cwd or "/"
    op = ops.Exec(flags, request.argv, _environment(policy, request), cwd)
    return Step(op, "command line")


def _layers(policy: Policy, steps: list[Step]) -> tuple[str, ...]:
    """The protections that are in force, for the report."""
    kinds = {type(step.op).__name__ for step in steps}
    absent = {*policy.shared, *(["user"] if policy.identity.map == NO_MAP else [])}
    names = [n for n in ("user", "mount", "pid", "uts", "ipc", "cgroup") if n not in absent]
    network = network_mode(policy)
    names += ["net"] if network.namespace and not network.shared else []
    names += ["time"] if "TimeNamespace" in kinds else []
    found = [f"{name} namespace" for name in names]
    found += ["capabilities", "no_new_privs", "rlimits"]
    found += ["cgroup"] if "Cgroup" in kinds else []
    found += ["landlock"] if "LandlockEnforce" in kinds else []
    found += ["seccomp"] if "Seccomp" in kinds else []
    return tuple(found)


def _notes(policy: Policy, request: Request, ids: Ids) -> list[tuple[str, str]]:
    notes = []
    changes = request.storage == "overlay" and not policy.filesystem.read_only
    mapped = [range(outside, outside + count) for _, outside, count in ids.outer_uids]
    strangers = [uid for uid in request.owners if not any(uid in ids for ids in mapped)]
    if changes and strangers:
        cause = (
            f"it belongs to user {strangers[0]} of this host, who has no number there; "
            "--storage copy gives the run a copy of its own"
        )
        notes.append(("the root file system can hardly be changed inside", cause))
    if policy.namespaces.nested and request.shared and request.shared.room:
        cause = f"sandbox {request.shared.name}, with which it shares namespaces, allows none"
        notes.append(("no user namespaces can be made inside", cause))
    if policy.network.mode != "none" and policy.landlock.tcp:
        where = policy.origin("landlock.tcp")
        cause = f"landlock.tcp is true in {where}; a policy of your own can set it to false"
        notes.append((f"TCP is refused inside, also with --network {policy.network.mode}", cause))
    return notes


def compile_plan(policy: Policy, facts: HostFacts, request: Request) -> Plan:
    """Decide everything. Raises HostError and PolicyError, with nothing done so far.

    All layers that the policy demands and this host lacks are named at once. What was decided for
    the same three before is not decided again: only the command may be another one.
    """
    key = policy, facts, request.replace(argv=(), env=())
    plan = _decided.get(key)
    if plan is None:
        plan = _decide(policy, facts, request)
        if len(_decided) >= REMEMBERED:
            _decided.clear()
        _decided[key] = plan
    return plan.replace(steps=(*plan.steps, _exec(policy, request)))


REMEMBERED = 32
_decided: dict[tuple[Policy, HostFacts, Request], Plan] = {}  # by values: no order matters


def _decide(policy: Policy, facts: HostFacts, request: Request) -> Plan:
    """The plan but for its last step, the command."""
    try:
        return _compile(policy, facts, request)
    except HostError as error:
        refusals = [(layer, _refusal(policy, layer, facts, request)) for layer in LAYERS]
        lacks = [(layer, found) for layer, found in refusals if found]
        if len(lacks) < 2:
            raise
        raise HostError(
            "this host lacks what the policy demands",
            problems=tuple(f"{layer}: {found.what}: {found.cause}" for layer, found in lacks),
            hint='see "sbx doctor", or use a policy whose on_missing says "degrade" for these',
        ) from error


def _refusal(policy: Policy, layer: str, facts: HostFacts, request: Request) -> HostError | None:
    """How the policy would fail if it demanded that one layer, as far as it does."""
    if not policy.refuses(layer):
        return None
    try:
        _compile(policy.replace(on_missing=((layer, "refuse"),)), facts, request)
    except HostError as error:
        return error
    except PolicyError:  # of a run that is refused anyway
        return None
    return None


def _is_privileged(policy: Policy) -> bool:
    """Whether anything is asked for that a policy has to allow; plan.privileged knows what."""
    files = policy.filesystem
    asked = files.devices or files.sys == "writable" or not files.guard
    return bool(
        asked or policy.identity.map == NO_MAP or set(CAPABILITIES) <= {*policy.capabilities.add}
    )


def _compile(policy: Policy, facts: HostFacts, request: Request) -> Plan:
    if facts.arch != "x86_64":
        raise HostError(
            f"cannot make sandboxes on {facts.arch}",
            cause="the system call filters know x86_64 only",
            hint="run sbx on an x86_64 machine",
        )
    if policy.identity.map != NO_MAP:
        _check_user_namespaces(facts)
    request = _with_stand_in(policy, request)
    lost: list[Degradation] = []
    first: list[Step] = []
    if _is_privileged(policy):
        from sandbox.plan.privileged import check_privileged

        lost += check_privileged(policy, facts, request.account)
    if policy.shared:
        from sandbox.plan.share import check_shared, shared_facts, shared_steps

        check_shared(policy)
        facts = shared_facts(facts, request.shared)
        first = shared_steps(policy, request, lost)
    ids, lost_ids = choose_ids(policy, facts, request.account)
    mounts, lost_mounts = mount_steps(policy, facts, request, ids)
    lost += [Degradation("seccomp", "parts of the profile", text) for text in request.warnings]
    security, lost_security = security_steps(policy, facts, request, ids)
    group = cgroup_steps(policy, request, lost)
    closed = 0 if policy.namespaces.nested else 1 + bool(facts.proc_error)
    inner = ops.InnerUser(int(ids.deny_setgroups), closed, ids.inner_uids, ids.inner_gids)
    hostname = ops.Hostname(policy.process.hostname, DOMAIN)
    steps = [
        *first,
        Step(_namespaces(policy), policy.origin("network.mode")),
        Step(_id_map(ids, facts, request), policy.origin("identity.map")),
        *group,
        *mounts,
        *([] if "uts" in policy.shared else [Step(hostname, policy.origin("process.hostname"))]),
        *network_steps(policy, lost, request.network),
        *_kernel_settings(policy, facts),
        *_time(policy, facts, lost),
        Step(ops.Pivot(), "sbx"),
        *hold_steps(policy),
        *_process_limit(policy, request),
        *([Step(inner, policy.origin("identity.map"))] if ids.kind != NO_MAP else []),
        *security,
    ]
    return Plan(
        steps=tuple(steps),
        degradations=(*lost_ids, *lost_mounts, *lost_security, *lost),
        layers=_layers(policy, steps),
        identity=ids.kind,
        storage=request.storage,
        notes=tuple(_notes(policy, request, ids)),
        cgroup=request.cgroup if group else None,
    )
