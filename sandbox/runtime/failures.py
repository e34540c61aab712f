"""From the launcher's error events to errors that say what failed, why, and what to do.

Owns the hints. Imported only once something has failed.
"""

from __future__ import annotations

import errno
import os

from sandbox.errors import CommandNotExecutable, CommandNotFound, SetupError
from sandbox.launcher import events
from sandbox.runtime.signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.launcher.events import Event
    from sandbox.plan.request import Plan
    from sandbox.runtime.supervise import Outcome

_DOCTOR = 'run "sbx doctor": it tries each step and says what this host lacks'
_PROGRAM_BYTES = 16 << 20
# AppArmor lets an unprivileged user namespace be made, and refuses the first mount in it.
_REFUSALS = (errno.EPERM, errno.EACCES)
_NO_FOLDER = {
    errno.ENOENT: "there is no such folder inside",
    errno.ENOTDIR: "it is not a folder",
    errno.EACCES: "the command's user may not enter it",
}
# (operation, errno) → hint; an empty operation stands for all others.
_HINTS = {
    ("Bind", errno.ENOENT): "create it on the host, or mark this mount optional",
    ("Bind", errno.EACCES): "the caller must be able to reach the source",
    ("Bind", errno.ESTALE): "the source was replaced meanwhile: start again",
    ("Bind", errno.ELOOP): "the mount target must not go through a symlink of the rootfs",
    ("RootBind", errno.EACCES): "the caller must be able to enter the root file system",
    ("RootOverlay", errno.EACCES): "the caller must be able to enter the root file system",
    ("RootOverlay", errno.EINVAL): "this file system cannot be a lower layer: --storage copy",
    ("RootOverlay", errno.ESTALE): "something was replaced meanwhile: start again",
    ("RootOverlay", errno.ELOOP): "somebody else has put a link there: keep in another folder",
    ("", errno.ENOSPC): "the file system inside is full: raise filesystem.size or inodes",
    ("", errno.ENOMEM): "free some memory, or lower the sizes in the policy",
    ("", errno.EPERM): _DOCTOR,
    ("", errno.EACCES): _DOCTOR,
    ("", errno.EINVAL): _DOCTOR,
    ("", errno.ENOSYS): _DOCTOR,
}


def setup_error(outcome: Outcome, plan: Plan, rootfs: str) -> SetupError | None:
    """The error of a run whose payload never started; None when it did start."""
    if outcome.errors:
        return _from_event(outcome.errors[0], plan, rootfs)
    seen = outcome.running or outcome.exited
    if seen or outcome.timed_out or outcome.killed:
        return None
    if outcome.done and not os.WIFSIGNALED(outcome.done.status):
        return None  # without an init the end may be seen before the start
    return _silent_death(outcome)


def warning_text(event: Event, plan: Plan) -> tuple[str, str]:
    """(what, cause) of a warning event."""
    step = _step(event, plan)
    what = step[1] if step else events.STAGE_WORDS.get(event.stage, "set up the sandbox")
    return f"could not {what}" if not step else f"step {step[0]}: {what}", _cause(event)


def _from_event(event: Event, plan: Plan, rootfs: str) -> SetupError:
    if event.stage == events.STAGE_EXEC:
        return _exec_error(event, plan, rootfs)
    step = _step(event, plan)
    kind = step[2] if step else ""
    if kind == "Workdir" and event.errno in _NO_FOLDER:
        return SetupError(
            f"cannot start in {event.text}",
            cause=_NO_FOLDER[event.errno],
            hint="choose a folder that is there inside",
            errno=event.errno,
            phase=_phase(event),
        )
    if step:
        what = f"step {step[0]} of {len(plan.steps)} failed: {step[1]}"
    else:
        what = f"cannot {events.STAGE_WORDS.get(event.stage, 'set up the sandbox')}"
    reason, hint = _explain(kind, event)
    cause = _cause(event) + (f" ({reason})" if reason else "")
    return SetupError(what, cause=cause, hint=hint, errno=event.errno, phase=_phase(event))


def _phase(event: Event) -> str:
    return events.PHASES[event.stage] if event.stage < len(events.PHASES) else ""


def _explain(kind: str, event: Event) -> tuple[str, str]:
    """(reason, hint) from what can be seen of this host; the reason is "" when nothing is."""
    from sandbox.host.userns import explain_in_a_line, explain_refused_call

    if kind == "Namespaces" or (kind == "Private" and event.errno in _REFUSALS):
        return explain_in_a_line(event.errno)
    reason, hint = explain_refused_call(event.errno)
    return reason, hint or _hint(kind, event)


def _step(event: Event, plan: Plan) -> tuple[int, str, str] | None:
    """(number from 1, description, kind) of the operation an event speaks of."""
    if not 0 <= event.op < len(plan.steps):
        return None
    op = plan.steps[event.op].op
    return event.op + 1, op.describe(), type(op).__name__


def _cause(event: Event) -> str:
    words = os.strerror(event.errno).lower() if event.errno else ""
    if words and event.text:
        return f"{event.text}: {words}"
    return words or event.text


def _hint(kind: str, event: Event) -> str:
    return _HINTS.get((kind, event.errno)) or _HINTS.get(("", event.errno), "")


def _exec_error(event: Event, plan: Plan, rootfs: str) -> SetupError:
    from sandbox.host.preflight import explain_exec_failure
    from sandbox.plan.ops import Exec

    op = plan.steps[-1].op
    env = op.env if isinstance(op, Exec) else ()
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), "")
    # The launcher's word for "the file is there, its interpreter is not".
    interpreter = event.errno == errno.ELIBACC
    number = errno.ENOENT if interpreter else event.errno
    what, cause, hint = explain_exec_failure(rootfs, event.text, path, number)
    if interpreter and "interpreter" not in cause:
        name = _interpreter_in_volume(plan, event.text)
        cause, hint = f"the interpreter {name or 'that it names'} is missing", ""
    kind = CommandNotFound if number == errno.ENOENT and not interpreter else CommandNotExecutable
    return kind(what, cause=cause, hint=hint, errno=number, phase="exec")


def _interpreter_in_volume(plan: Plan, command: str) -> str:
    """What a command that lies in a volume names as its interpreter, "" when it cannot be told."""
    from sandbox.host.inroot import read_file
    from sandbox.plan.ops import Bind

    for op in (step.op for step in reversed(plan.steps)):
        if not isinstance(op, Bind) or not f"{command}/".startswith(f"{op.target}/"):
            continue
        root, path = op.source, command[len(op.target) :]
        if not path:
            root, path = os.path.split(op.source)
        try:
            return _interpreter(read_file(root, path, limit=_PROGRAM_BYTES))
        except (OSError, ValueError):
            return ""
    return ""


def _interpreter(program: bytes) -> str:
    from sandbox.host.elf import read_head, read_shebang

    script = read_shebang(program)
    if script:
        return script[0]
    head = read_head(lambda size, at: program[at : at + size])
    return head.interpreter if head else ""


def _silent_death(outcome: Outcome) -> SetupError:
    status = outcome.done.status if outcome.done else outcome.status
    cause = "it left no word"
    if status is not None and os.WIFSIGNALED(status):
        cause = f"it was killed by {signal_name(os.WTERMSIG(status))}"
    elif status is not None:
        cause = f"it ended with exit code {os.WEXITSTATUS(status)} and no word"
    return SetupError(
        "the launcher ended before the command started",
        cause=cause,
        hint="start again; if it stays so, something here kills programs that run from memory",
    )
