"""What a policy's limits ask of the plan, and what of them this host cannot give. Pure.

How a control group is found and made is services/cgroup's.
"""

from __future__ import annotations

from sandbox.errors import HostError, PolicyError
from sandbox.plan import ops
from sandbox.plan.request import Degradation, Step
from sandbox.policy.units import format_size, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.request import Available, Request
    from sandbox.policy.model import Policy, Resources

    Limit = tuple[str, str, str, str, str]  # key of the policy, controller, file, value, words

PERIOD_US = 100_000  # of cpu.max, the kernel's default


def _memory(wanted: Resources) -> list[Limit]:
    found = []
    if wanted.memory is not None:
        words = f"{format_size(wanted.memory)} of memory"
        found.append(("memory", "memory", "memory.max", str(wanted.memory), words))
        more = None if wanted.memory_swap is None else max(0, wanted.memory_swap - wanted.memory)
        swap = "max" if more is None else str(more)
        found.append(("memory_swap", "memory", "memory.swap.max", swap, "the bound of swap"))
    if wanted.memory_reservation:
        size = str(wanted.memory_reservation)
        words = "the reservation of memory"
        found.append(("memory_reservation", "memory", "memory.low", size, words))
    return found


def _processor(wanted: Resources) -> list[Limit]:
    found = []
    if wanted.cpus is not None:
        quota = f"{round(wanted.cpus * PERIOD_US)} {PERIOD_US}"
        found.append(("cpus", "cpu", "cpu.max", quota, f"{wanted.cpus:g} cpus"))
    if wanted.cpu_weight:
        weight = str(wanted.cpu_weight)
        found.append(("cpu_weight", "cpu", "cpu.weight", weight, "the weight for cpus"))
    if wanted.cpuset:
        words = f"processors {wanted.cpuset}"
        found.append(("cpuset", "cpuset", "cpuset.cpus", wanted.cpuset, words))
    return found


def _disks(wanted: Resources, devices: dict[str, str]) -> list[Limit]:
    found = []
    for entry in wanted.io_max:
        device, _, words = entry.rpartition(":")
        value = f"{devices.get(device, device)} {words.replace(',', ' ')}"
        found.append(("io_max", "io", "io.max", value, f"the bounds of {device}"))
    if wanted.io_weight:
        weight = f"default {wanted.io_weight}"
        found.append(("io_weight", "io", "io.weight", weight, "the weight for disks"))
    return found


def _limits(wanted: Resources, devices: dict[str, str]) -> list[Limit]:
    pids = []
    if wanted.pids is not None:
        pids = [("pids", "pids", "pids.max", str(wanted.pids), f"{wanted.pids} processes")]
    return [*_memory(wanted), *_processor(wanted), *pids, *_disks(wanted, devices)]


def processors(text: str) -> set[int]:
    """The numbers of a list such as "0-3,6"."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def _check_cpuset(policy: Policy, group: Available) -> None:
    wanted = policy.resources.cpuset
    if not (wanted and group.cpus):
        return
    if strange := sorted(processors(wanted) - processors(group.cpus)):
        numbers = ", ".join(map(str, strange[:8]))
        raise PolicyError(
            f"cannot use processors {quote(wanted)}",
            cause=f"there is no {numbers} among {group.cpus}",
            hint=f"choose from {group.cpus}",
        )


def _is_optional(policy: Policy, limit: Limit) -> bool:
    """Files that a kernel may lack although it has the controller: swap, and the schedulers of
    disks that know weights."""
    if limit[2] == "memory.swap.max":
        return not policy.asked("resources.memory_swap")
    return limit[2] == "io.weight" and not policy.refuses("cgroup")


# What bounds something like it without a control group: by key of the policy.
_RLIMITS = (("memory", "as"), ("memory", "data"), ("cpus", "cpu"))


def _stand_ins(policy: Policy, limits: list[Limit]) -> list[str]:
    """The rlimits that are left of these limits, in words."""
    keys = {limit[0] for limit in limits}
    set_here = {limit.name for limit in policy.rlimits if limit.hard is not None}
    found = [f"RLIMIT_NPROC bounds all its processes to {policy.resources.pids}"] * ("pids" in keys)
    for key, name in _RLIMITS:
        if key in keys and name in set_here:
            found.append(f"RLIMIT_{name.upper()} bounds each process")
    return found or ["no rlimit stands in"]


def _lose(policy: Policy, group: Available, limits: list[Limit], *, asked: bool) -> Degradation:
    """Give limits up. Raises HostError where the policy demands them."""
    words = ", ".join(limit[4] for limit in limits)
    cause = "; ".join((group.cause, *_stand_ins(policy, limits)))
    lost = Degradation("cgroup", f"limits of the whole sandbox: {words}", cause, quiet=not asked)
    what = f"cannot limit the whole sandbox to {words}"
    if policy.resources.required or (asked and policy.refuses("cgroup")):
        raise HostError(what, cause=group.cause, hint=group.cure)
    return lost


def cgroup_steps(policy: Policy, request: Request, lost: list[Degradation]) -> list[Step]:
    """The steps of the launcher; what cannot be had is added to `lost`.

    Raises HostError for what is demanded and cannot be had, PolicyError for processors that do
    not exist.
    """
    group = request.cgroup
    if group is None:
        return []
    limits = _limits(policy.resources, dict(request.devices))
    missing = [
        limit
        for limit in limits
        if limit[1] not in group.controllers
        # Without a wish of its own it goes with the limit of memory.
        and (limit[0] != "memory_swap" or policy.asked("resources.memory_swap"))
    ]
    for asked in (True, False):
        found = [limit for limit in missing if policy.asked(f"resources.{limit[0]}") == asked]
        if found:
            lost.append(_lose(policy, group, found, asked=asked))
    if not group.driver:
        return []
    _check_cpuset(policy, group)
    steps = [Step(ops.Cgroup(), group.driver)]
    for limit in limits:
        key, controller, file, value, _ = limit
        if controller in group.controllers:
            op = ops.CgroupLimit(file, value, int(_is_optional(policy, limit)))
            steps.append(Step(op, policy.origin(f"resources.{key}")))
    return steps
