"""The Plan for people and for programs: each step and where it came from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan.request import Plan


def lines(plan: Plan) -> list[str]:
    """Numbered lines, aligned, with the origin of each step; degradations last."""
    described = [(step.op.describe(), step.origin) for step in plan.steps]
    width = min(max(len(text) for text, _ in described), 72)
    found = [
        f"{number:3}  {text:<{width}}  [{origin}]"
        for number, (text, origin) in enumerate(described, 1)
    ]
    found += [f"note: {what}: {cause}" for what, cause in plan.notes]
    found += [f"lost: {d.lost} ({d.layer}): {d.cause}" for d in plan.degradations]
    return found


def as_dict(plan: Plan) -> dict[str, object]:
    """The same for JSON."""
    return {
        "steps": [
            {"number": n, "op": type(s.op).__name__, "text": s.op.describe(), "origin": s.origin}
            for n, s in enumerate(plan.steps, 1)
        ],
        "degradations": [d.as_dict() for d in plan.degradations],
        "notes": [{"what": what, "cause": cause} for what, cause in plan.notes],
        "layers": list(plan.layers),
        "identity": plan.identity,
        "storage": plan.storage,
    }
