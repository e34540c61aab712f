"""`sbx explain` and `sbx run --dry-run`: the plan, each step with where it came from."""

from __future__ import annotations

from sandbox.cli import render
from sandbox.cli.commands.run import combine, read_task
from sandbox.cli.flags import read_flags
from sandbox.plan import explain as plan_text
from sandbox.runtime.decision import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.parse import Parsed


def main(parsed: Parsed, program: str = "sbx explain") -> int:
    """Show the plan and start nothing; 0 means that the run could start."""
    flags = read_flags(parsed)
    task = read_task(parsed, flags, program)
    policy = combine(parsed, flags, task, program)
    prepared = prepare(policy, task)
    if parsed.has("--json"):
        plan = plan_text.as_dict(prepared.plan)
        reason = prepared.storage_reason
        render.show_json({"policy": policy.name, "storage_reason": reason, **plan})
        return 0
    render.show(*plan_text.lines(prepared.plan))
    if prepared.storage_reason:
        render.show(f"storage: {prepared.plan.storage}: {prepared.storage_reason}")
    return 0
