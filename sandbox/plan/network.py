"""What a network mode asks of the plan. What runs beside the sandbox is services/network's."""

from __future__ import annotations

from sandbox.plan import ops
from sandbox.plan.request import Degradation, Step, give_up
from sandbox.policy.model import CONTAINER, FOREIGN_MODES
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.host.network import NetworkFacts
    from sandbox.policy.model import Policy


class Mode(Record):
    """`namespace`: the sandbox has a network of its own.

    `service`: the driver of this name in services/network has work to do between the namespaces
    and the payload, so the plan holds the sandbox there. `shared`: that network is another's.
    """

    namespace: bool
    service: bool = False
    shared: bool = False


MODES = {
    "none": Mode(namespace=True),
    "user": Mode(namespace=True, service=True),
    "bridge": Mode(namespace=True, service=True),
    "pasta": Mode(namespace=True, service=True),
    "slirp4netns": Mode(namespace=True, service=True),
    "host": Mode(namespace=False),
}

_AF_NETLINK, _SOCK_RAW, _NETLINK_ROUTE = 16, 3, 0


def network_mode(policy: Policy) -> Mode:
    """What the policy's mode asks for."""
    if policy.network.mode.startswith(CONTAINER):
        return Mode(namespace=True, shared=True)
    return MODES[policy.network.mode]


def network_steps(
    policy: Policy, lost: list[Degradation], facts: NetworkFacts | None = None
) -> list[Step]:
    """The steps inside the new network namespace; `facts` are for the mode "user" alone."""
    if not network_mode(policy).namespace:
        where = policy.origin("network.mode")
        cause = f"network.mode is {policy.network.mode} (from {where})"
        quiet = policy.by_flag("network.mode")
        lost.append(Degradation("network", "the network namespace", cause, quiet))
        return []
    if facts:
        from sandbox.plan.endpoints import endpoint_steps

        return list(endpoint_steps(policy, facts, lost))
    steps = []
    if policy.network.loopback and not network_mode(policy).shared:
        steps.append(Step(ops.Loopback(), policy.origin("network.loopback")))
    mode = policy.network.mode
    if mode in FOREIGN_MODES:
        lost.append(_unjudged(policy, mode))
    if mode == "bridge" or mode in FOREIGN_MODES:
        what = "open a way to set up the cable's end inside"
        if mode != "bridge":
            what = f"open a way to the network namespace, for {mode}"
        talk = ops.Socket(what, _AF_NETLINK, _SOCK_RAW, _NETLINK_ROUTE, (), b"", 0)
        steps.append(Step(talk, policy.origin("network.mode")))
    return steps


def _unjudged(policy: Policy, mode: str) -> Degradation:
    """What a program of somebody else's does not do. Raises HostError where that is refused."""
    lost = Degradation(
        "network",
        "rules of what may be reached",
        f"network.allow is not enforced by {mode}: everything that the host reaches can be reached",
    )
    hint = (
        'use --network user, which follows rules; or a policy with on_missing.network = "degrade"'
    )
    return give_up(policy, lost, f"cannot limit what is reached with --network {mode}", hint)


def hold_steps(policy: Policy) -> list[Step]:
    """The wait for the driver, as late as the namespaces can still be changed from outside."""
    if not network_mode(policy).service:
        return []
    return [Step(ops.Hold(), policy.origin("network.mode"))]
