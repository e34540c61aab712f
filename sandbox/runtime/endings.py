"""What the user is told of a run that did not end by itself. Imported only then."""

from __future__ import annotations

from sandbox.policy.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import Policy
    from sandbox.runtime.report import Report


def endings(report: Report, policy: Policy) -> list[tuple[str, str]]:
    """Each thing to say, as (what, cause)."""
    found = []
    if report.reason == "timeout":
        origin = policy.origin("process.timeout")
        cause = f"{format_duration(policy.process.timeout)}, from {origin}"
        found.append(("the time limit ended the sandbox", cause))
    if report.reason == "policy-killed":
        found.append(("the command was killed for a system call that its policy forbids", ""))
    if report.reason == "launcher-killed":
        found.append(("the launcher was killed, and the sandbox with it", ""))
    found += _limits(report, policy)
    limit = policy.process.output_limit
    if report.output_error:
        what = f"output could not be written: {report.output_dropped_bytes} bytes were lost"
        found.append((what, report.output_error))
    elif report.output_dropped_bytes and 0 < limit <= report.output_bytes:
        what = f"{report.output_dropped_bytes} bytes of output were dropped above the limit"
        origin = policy.origin("process.output_limit")
        found.append((what, f"{format_size(limit)}, from {origin}"))
    return found


def _limits(report: Report, policy: Policy) -> list[tuple[str, str]]:
    """What it met of the limits of the whole sandbox."""
    wanted = policy.resources
    if report.reason == "oom":
        origin = policy.origin("resources.memory")
        limit = f"{format_size(wanted.memory)}, from {origin}" if wanted.memory else "the host's"
        return [(f"{report.oom_kills} of its processes were killed for want of memory", limit)]
    if report.reason == "pids-limit":
        cause = f"{wanted.pids}, from {policy.origin('resources.pids')}"
        return [("a process was refused by the limit of processes", cause)]
    if report.reason != "disk-full":
        return []
    if report.disk_full == "/":
        cause = f"{format_size(policy.filesystem.size)}, from {policy.origin('filesystem.size')}"
        return [("no room was left for changes of the root file system", cause)]
    return [(f"no room was left on {report.disk_full}", "its size is the policy's")]
