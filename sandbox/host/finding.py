"""One result of the doctor: the shape only."""

from __future__ import annotations

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Verdict = Literal["ok", "warn", "fail"]

VERDICTS = ("ok", "warn", "fail")  # from best to worst


class Finding(Record):
    """`name`: what was checked. `verdict`: "ok", "warn" (something is lost), "fail" (no run works).

    `detail`: one line on what was found. `fix`: commands to copy, "" when there are none.
    """

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
