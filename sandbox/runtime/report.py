"""The run report: why a sandbox ended, with what code, what it used, what protected it.

Owns the schema "sbx.report/1" and the two ways it is written: as a file, and as lines on a
status descriptor. Everything in it comes from outside the sandbox or from the kernel.
"""

from __future__ import annotations

import os
import select
import time

from sandbox.errors import EXIT_SETUP, EXIT_TIMEOUT
from sandbox.plan.request import Degradation
from sandbox.record import Record
from sandbox.runtime.signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, Literal

    from sandbox.errors import SbxError
    from sandbox.plan.request import Plan
    from sandbox.policy.model import Policy
    from sandbox.runtime.output import Budget
    from sandbox.runtime.supervise import Outcome
    from sandbox.services.cgroup.account import Account

    Reason = Literal[
        "exited",
        "signalled",
        "timeout",
        "output-limit",
        "output-lost",
        "oom",
        "pids-limit",
        "disk-full",
        "policy-killed",
        "setup-failed",
        "launcher-killed",
    ]
else:  # the module `signal` would import enum
    import _signal as signal

SCHEMA = "sbx.report/1"
REPORT_ON_STDERR = "-"
_PATIENCE_S = 1.0


class Report(Record):
    """One run. Times are seconds, sizes bytes.

    `reason`: exited or signalled by itself; timeout; policy-killed = a forbidden system call
    (SIGSYS); oom = the kernel killed a process of it for want of memory, though it may have ended
    well (`code`); pids-limit = it was refused a process; disk-full = at its end a file system in
    memory had no room left, `disk_full` says which; output-limit = it wrote more than may
    pass, `code` and `signal` say how it ended;
    output-lost = the caller's side could not be written to, `output_error` says why;
    launcher-killed = somebody killed the launcher, and with it all, or, of a command that joined a
    sandbox, what looked after it: what that had started may go on; setup-failed = it never ran.
    `exit_code` is what `sbx run` exits with, `code` and `signal` are the payload's own.
    `output_dropped_bytes` came and were not delivered, whatever the reason. CPU times are of the
    whole sandbox, `peak_rss_bytes` of its largest process, `written_bytes` went into files on
    disks; `figures` says how sure each is. `pid` is the host's number of the sandbox's init.
    `layers` were in force; `degradations` were not. `notes` are (what, cause) of what else there
    was to say of the plan. `cgroup` is what the control group counted, None where
    there was none: then `memory_peak_bytes` and `pids_peak` of all processes together and
    `oom_kills` cannot be known. `network_account` says what it reached and what it was
    refused, None where nobody counts (docs/network.md). `phase`: where a set-up failed:
    prepare (nothing was started), decode, clone, map, setup, security or exec.
    """

    name: str
    reason: Reason
    exit_code: int
    code: int | None
    signal: int | None
    wall_s: float
    cpu_user_s: float
    cpu_system_s: float
    peak_rss_bytes: int
    output_bytes: int
    output_dropped_bytes: int
    layers: tuple[str, ...]
    degradations: tuple[Degradation, ...]
    storage: str
    storage_reason: str
    network: str
    policy: str
    identity: str
    pid: int
    output_error: str = ""
    error: SbxError | None = None
    notes: tuple[tuple[str, str], ...] = ()
    memory_peak_bytes: int | None = None
    pids_peak: int | None = None
    written_bytes: int | None = None
    oom_kills: int | None = None
    cgroup: Account | None = None
    phase: str | None = None
    disk_full: str = ""
    network_account: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, object]:
        """The report for JSON, with its schema and the signal's name."""
        fields = dict(self)
        fields["layers"] = list(self.layers)
        fields["degradations"] = [lost.as_dict() for lost in self.degradations]
        fields["notes"] = [{"what": what, "cause": cause} for what, cause in self.notes]
        fields["cgroup"] = self.cgroup.as_dict() if self.cgroup else None
        fields["error"] = self.error.as_dict() if self.error else None
        fields["figures"] = self.figures()
        name = signal_name(self.signal) if self.signal else None
        return {"schema": SCHEMA, **fields, "signal_name": name}

    def figures(self) -> dict[str, dict[str, str]]:
        """How sure each figure is, see `runtime.figures`."""
        from sandbox.runtime.figures import figures

        return figures(self)

    def to_json(self) -> str:
        """One line of JSON."""
        import json

        return json.dumps(self.as_dict())

    def people(self) -> list[str]:
        """The report in a few aligned lines."""
        used = f"{self.wall_s:.2f} s wall, {self.cpu_user_s + self.cpu_system_s:.2f} s cpu"
        peak = self.memory_peak_bytes or self.peak_rss_bytes
        if peak:
            used += f", {peak / (1 << 20):.1f} MiB peak"
        if self.pids_peak:
            used += f", {self.pids_peak} processes at most"
        output = f"{self.output_bytes} bytes of output"
        if self.output_dropped_bytes:
            output += f", {self.output_dropped_bytes} more dropped"
        if self.output_error:
            output += f" ({self.output_error})"
        rows = [("result", self._result()), ("used", f"{used}, {output}")]
        rows.append(("under", self._under()))
        rows.append(("layers", ", ".join(self.layers) or "none"))
        if self.network_account:
            from sandbox.runtime.reached import account_rows

            rows += account_rows(self.network_account)
        if self.degradations:
            rows.append(("lost", "; ".join(f"{d.lost} ({d.cause})" for d in self.degradations)))
        return [f"{key:<7} {value}" for key, value in rows]

    def _under(self) -> str:
        storage = f"{self.storage} storage" if self.storage else ""
        network = f"network {self.network}"
        identity = f"{self.identity} ids" if self.identity else ""
        parts = (f"policy {self.policy}", storage, network, identity)
        return ", ".join(part for part in parts if part)

    def _result(self) -> str:
        if self.error:
            return f"setup-failed: {self.error.what}"
        own = f"exit code {self.code}" if self.code is not None else ""
        if self.signal:
            own = f"ended by {signal_name(self.signal)}"
        if self.oom_kills:
            own += f", {self.oom_kills} killed for want of memory"
        if self.disk_full:
            own += f", no room left on {self.disk_full}"
        return f"{self.reason}: {own}" if own else self.reason


def conclude(
    outcome: Outcome,
    *,
    dropped: bool,
    has_init: bool,
    lost: bool = False,
    account: Account | None = None,
) -> tuple[Reason, int | None]:
    """Why the sandbox ended and the payload's raw wait status, None when nobody saw it.

    `dropped`: output was above its limit; `lost`: some could not be written.
    """
    status = outcome.exited.status if outcome.exited else None
    if status is None and outcome.done and not has_init:
        status = outcome.done.status
    if outcome.timed_out:
        return "timeout", status
    if status is None and not outcome.killed and account and account.oom_kills:
        return "oom", int(signal.SIGKILL)
    if status is None:
        return ("signalled", int(signal.SIGKILL)) if outcome.killed else ("launcher-killed", None)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return "policy-killed", status
    if lost:
        return "output-lost", status
    if account and account.oom_kills:
        return "oom", status
    if account and account.pids_refused:
        return "pids-limit", status
    if outcome.full:
        return "disk-full", status
    if dropped:
        return "output-limit", status
    return ("signalled" if os.WIFSIGNALED(status) else "exited"), status


class Subject(Record):
    """Whose report it is: what it does not take from plan and outcome."""

    name: str
    policy: str
    network: str
    has_init: bool = True
    storage_reason: str = ""


def make_report(
    subject: Subject,
    plan: Plan,
    outcome: Outcome,
    budget: Budget,
    lost: OSError | None = None,
    account: Account | None = None,
    network: dict[str, Any] | None = None,
) -> Report:
    """The report of a payload that ran; `lost` is what kept output from being written.

    A success whose output was lost is none: its exit code is that of our own failures.
    """
    reason, status = conclude(
        outcome,
        dropped=budget.exceeded,
        has_init=subject.has_init,
        lost=bool(lost),
        account=account,
    )
    killed_by = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if status is not None and killed_by is None else None
    exit_code = 128 + (killed_by or int(signal.SIGKILL)) if code is None else code
    if reason == "timeout":
        exit_code = EXIT_TIMEOUT
    elif reason == "output-lost":
        exit_code = exit_code or EXIT_SETUP
    usage = outcome.done or outcome.exited
    cpu = {
        "user_usec": usage.utime_us if usage else 0,
        "system_usec": usage.stime_us if usage else 0,
    }
    cpu.update(account.cpu if account and account.cpu else ())
    return Report(
        name=subject.name,
        reason=reason,
        exit_code=exit_code,
        code=code,
        signal=killed_by,
        wall_s=round(outcome.wall_s, 6),
        cpu_user_s=cpu["user_usec"] / 1e6,
        cpu_system_s=cpu["system_usec"] / 1e6,
        peak_rss_bytes=usage.maxrss_kib * 1024 if usage else 0,
        output_bytes=budget.passed,
        output_dropped_bytes=budget.dropped,
        layers=plan.layers,
        degradations=(*plan.degradations, *_warned(outcome, plan)),
        storage=plan.storage,
        storage_reason=subject.storage_reason,
        network=subject.network,
        policy=subject.policy,
        identity=plan.identity,
        pid=outcome.started.pid if outcome.started else 0,
        output_error=(lost.strerror or "").lower() if lost else "",
        notes=plan.notes,
        memory_peak_bytes=account.memory_peak_bytes if account else None,
        pids_peak=account.pids_peak if account else None,
        written_bytes=usage.written_blocks * 512 if usage and _counts_writes() else None,
        oom_kills=account.oom_kills if account else None,
        cgroup=account,
        disk_full=outcome.full,
        network_account=network,
    )


def _counts_writes() -> bool:
    """Whether this kernel was built to (CONFIG_TASK_IO_ACCOUNTING); else it says 0."""
    return os.path.exists("/proc/self/io")


def _warned(outcome: Outcome, plan: Plan) -> list[Degradation]:
    """Steps that failed and were not fatal."""
    return [
        Degradation(
            "setup",
            plan.steps[event.op].op.describe() if 0 <= event.op < len(plan.steps) else event.text,
            f"{event.text}: {os.strerror(event.errno).lower()}",
        )
        for event in outcome.warnings
    ]


def failed_report(name: str, policy: Policy, error: SbxError, wall_s: float) -> Report:
    """The report of a run that never came to its payload."""
    return Report(
        name=name,
        reason="setup-failed",
        exit_code=error.exit_code or EXIT_SETUP,
        code=None,
        signal=None,
        wall_s=round(wall_s, 6),
        cpu_user_s=0.0,
        cpu_system_s=0.0,
        peak_rss_bytes=0,
        output_bytes=0,
        output_dropped_bytes=0,
        layers=(),
        degradations=(),
        storage="",
        storage_reason="",
        network=policy.network.mode,
        policy=policy.name,
        identity=policy.identity.map,
        pid=0,
        error=error,
        phase=getattr(error, "phase", "") or "prepare",
    )


def write_patiently(fd: int, data: memoryview) -> memoryview:
    """Write to a descriptor that may be shared and may block; return what a second did not take.

    Raises OSError for one that is broken.
    """
    deadline = time.monotonic() + _PATIENCE_S
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    while data and (left := deadline - time.monotonic()) > 0:
        try:
            if poller.poll(left * 1000):
                # poll promises room for this much in a pipe.
                data = data[os.write(fd, data[: select.PIPE_BUF]) :]
        except BlockingIOError:
            continue
    return data


class StatusLines:
    """JSON lines on a caller's descriptor. A reader that is slow or gone never holds up a run:
    what it does not take in a second is dropped."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def send(self, event: str, **fields: object) -> None:
        """Write {"event": event, ...} as one line."""
        if self._fd is None:
            return
        import json

        data = memoryview(f"{json.dumps({'event': event, **fields})}\n".encode())
        try:
            write_patiently(self._fd, data)
        except OSError:
            self._fd = None
