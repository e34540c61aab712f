"""How sure the figures of a report are. Pure.

What a control group counts is of all processes that were ever in it. Without one the kernel adds
up, process by process, what somebody waited for (getrusage(2), RUSAGE_CHILDREN).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.runtime.report import Report

_WAITED = "without those that joined it, or that no process waited for"
_GROUP = "counted by its control group"
_OLD = "this kernel, or its control group, does not count it"


def figures(report: Report) -> dict[str, dict[str, str]]:
    """Each figure of the report: `sure` is exact, at-least or unknown (then it is null or 0, and
    means nothing), `why` says it in words."""
    if report.error:
        found = dict.fromkeys(_NAMES, ("unknown", "the command did not run"))
    else:
        found = _of_a_run(report)
    rows = {"wall_s": ("exact", "from the launcher's start to its end"), **found}
    return {name: {"sure": sure, "why": why} for name, (sure, why) in rows.items()}


_NAMES = ("cpu", "peak_rss_bytes", "memory_peak_bytes", "pids_peak", "written_bytes", "oom_kills")


def _of_a_run(report: Report) -> dict[str, tuple[str, str]]:
    group = report.cgroup
    without = [lost.cause for lost in report.degradations if lost.layer == "cgroup"]
    none = "only a control group counts it" + "".join(f": {cause}" for cause in without[:1])

    def counted(value: int | None) -> tuple[str, str]:
        if value is not None:
            return "exact", _GROUP
        return "unknown", _OLD if group else none

    written = report.written_bytes is not None
    return {
        "cpu": ("exact", _GROUP) if group and group.cpu else ("at-least", _WAITED),
        "peak_rss_bytes": ("at-least", _WAITED),
        "memory_peak_bytes": counted(report.memory_peak_bytes),
        "pids_peak": counted(report.pids_peak),
        "written_bytes": ("at-least", _WAITED)
        if written
        else ("unknown", "this kernel does not count it"),
        "oom_kills": counted(report.oom_kills),
    }
