"""What a sandbox has together with another one: the steps, and the words for it."""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.plan import ops
from sandbox.plan.request import Degradation, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.facts import HostFacts
    from sandbox.plan.identity import Ids
    from sandbox.plan.request import Request, Shared
    from sandbox.policy.model import Policy

_PLACES = {"pid": 2, "net": 3, "ipc": 4, "uts": 5}  # enum namespace_place, report.h
_TOGETHER = {
    "net": "interfaces, ports, abstract sockets, and what the other may reach",
    "ipc": "System V memory, semaphores and message queues",
    "uts": "the host name",
    "pid": "each sees the other's processes, may signal those of its own user id, "
    "and ends with the other",
}


def shared_steps(policy: Policy, request: Request, lost: list[Degradation]) -> list[Step]:
    """The step that shares, none without a sandbox to share with."""
    found = request.shared
    if found is None:
        return []
    kinds = policy.shared
    for kind, key in kinds.items():
        cause = f"{key} is {policy.value(key)}: {_TOGETHER[kind]} (from {policy.origin(key)})"
        shared = Degradation(kind, f"a {kind} namespace of its own", cause, policy.by_flag(key))
        lost.append(shared)
    origin = policy.origin(next(iter(kinds.values())))
    places = tuple(_PLACES[kind] for kind in kinds)
    return [Step(ops.Share(found.room, places, found.id), origin)]


def shared_map(ids: Ids, shared: Shared) -> ops.IdMap:
    """The outer maps as they stand. Raises PolicyError where the payload's ids are not in them."""
    for inner, outer in ((ids.inner_uids, shared.uids), (ids.inner_gids, shared.gids)):
        most = sum(count for _, _, count in outer)
        if any(start + count > most for _, start, count in inner):
            raise PolicyError(
                f"cannot share namespaces with sandbox {shared.name}",
                cause="its id map has fewer ids than this sandbox needs",
                hint='start that one with identity.map = "range" or "keep-id", as this one',
            )
    return ops.IdMap(ops.MAP_STANDS, int(shared.deny_setgroups), shared.uids, shared.gids, "", "")


def shared_facts(facts: HostFacts, shared: Shared | None) -> HostFacts:
    """The facts for a newcomer: it has no more ids than the sandbox that was there first."""
    if shared is None:
        return facts
    if shared.deny_setgroups:
        cause = f"sandbox {shared.name}, with which it shares namespaces, has a single id"
        return facts.replace(subuids=(), subgids=(), subids_error=cause)
    return facts.replace(groups=())  # dropped when the newcomer becomes root there


def check_shared(policy: Policy) -> None:
    """Raise PolicyError for what the policy does not let be shared, or leaves no room for."""
    refused = [kind for kind in policy.shared if kind not in policy.namespaces.shares]
    if refused:
        raise PolicyError(
            f"the policy {policy.name} shares no {' and no '.join(refused)} namespace",
            cause=f"namespaces.shares (from {policy.origin('namespaces.shares')}) does not name it",
            hint="use a policy that does, such as default",
        )
    if policy.shared and not policy.process.init:
        raise PolicyError(
            "cannot share namespaces without an init",
            cause=f"process.init is false (from {policy.origin('process.init')})",
            hint="leave --no-init out",
        )
    if "uts" in policy.shared and policy.by_flag("process.hostname"):
        raise PolicyError(
            "cannot set the host name",
            cause=f"it is that of {policy.namespaces.uts.partition(':')[2]} (from --uts)",
            hint="leave --hostname out, or give it to that sandbox",
        )
