"""What this machine can do, and what would be done: `Host.probe` and `explain`. Nothing is started
for good and nothing is left."""

from __future__ import annotations

from sandbox.api.run import understand
from sandbox.api.wishes import words_of
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Unpack

    from sandbox.api.wishes import PolicyRef, Wishes, Word
    from sandbox.host.facts import HostFacts
    from sandbox.host.finding import Finding


class Host(Record):
    """`facts` decide how a plan is made; `usable` says whether sandboxes can run at all, and
    `reason` why not, in the kernel's words."""

    facts: HostFacts
    usable: bool
    reason: str

    @classmethod
    def probe(cls, *, refresh: bool = False) -> Host:
        """Find out by trying, or, unless `refresh`, from what was found earlier since the boot."""
        from sandbox.host.probe import host_facts

        facts = host_facts(refresh=refresh)
        return cls(facts, not facts.userns_error, facts.userns_error)

    def findings(self) -> tuple[Finding, ...]:
        """What `sbx doctor` says: each with `name`, `verdict`, `detail` and a `fix`."""
        from sandbox.host.doctor import run_doctor

        return run_doctor()


class Explanation(Record):
    """The plan of a run: `lines` for people, `data` as `sbx explain --json` prints it."""

    lines: tuple[str, ...]
    data: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def explain(
    argv: Sequence[Word],
    *,
    rootfs: Word,
    policy: PolicyRef = "strict",
    name: str = "",
    pass_fds: Iterable[int] = (),
    **wishes: Unpack[Wishes],
) -> Explanation:
    """What `run` would do, each step with where it comes from. Raises SbxError as `run` would."""
    from sandbox.plan import explain as plan_text
    from sandbox.runtime.decision import prepare

    words = words_of(argv)
    wanted, task = understand("sandbox.explain", words, rootfs, policy, name, pass_fds, wishes)
    found = prepare(wanted, task)
    data = {"policy": wanted.name, "storage_reason": found.storage_reason}
    return Explanation(tuple(plan_text.lines(found.plan)), data | plan_text.as_dict(found.plan))
