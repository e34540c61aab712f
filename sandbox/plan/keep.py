"""A compiled Plan turned into that of a sandbox that others can find and enter. Pure."""

from __future__ import annotations

from sandbox.plan import ops
from sandbox.plan.request import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.request import Plan


def keep(plan: Plan, op: ops.Keep, *, idle: bool = False) -> Plan:
    """Add `op`. `idle`: there is no command; the sandbox waits for those who join."""
    steps = list(plan.steps)
    place = next(i for i, step in enumerate(steps) if isinstance(step.op, ops.IdMap)) + 1
    steps.insert(place, Step(op, "sbx"))
    if idle:
        last = steps[-1].op
        if isinstance(last, ops.Exec):
            flags = last.flags | ops.EXEC_INIT | ops.EXEC_IDLE
            steps[-1] = Step(last.replace(flags=flags, argv=()), "sbx")
    return plan.replace(steps=tuple(steps))
