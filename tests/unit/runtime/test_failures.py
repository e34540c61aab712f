"""From events to errors: the step by number and words, the kernel's cause, a hint."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import CommandNotExecutable, CommandNotFound, SetupError
from sandbox.host import userns
from sandbox.launcher import events
from sandbox.launcher.events import Event
from sandbox.plan import ops
from sandbox.plan.request import Plan, Step
from sandbox.runtime.failures import setup_error, warning_text
from sandbox.runtime.supervise import Outcome

OPS = (
    ops.Bind("/srv/data", 1, 2, 0o040000, "/data", ops.RDONLY, 0),
    ops.Loopback(),
    ops.Exec(0, ("tool",), ("PATH=/usr/bin:/bin",), "/"),
)
PLAN = Plan(tuple(Step(op, "test") for op in OPS), (), (), "single", "overlay")


def outcome(*errors: Event, **changes: Any) -> Outcome:
    base = Outcome(None, None, None, None, errors, (), 125 << 8, False, False, 0.0)
    return base.replace(**changes)


def the_error(found: Outcome, rootfs: Path | str = "/") -> SetupError:
    error = setup_error(found, PLAN, str(rootfs))
    assert error is not None
    return error


def test_a_failed_step_has_number_words_cause_and_hint() -> None:
    event = Event(events.ERROR, events.STAGE_SETUP, 0, errno.ENOENT, text="/srv/data")
    error = the_error(outcome(event))
    assert error.what == f"step 1 of 3 failed: {OPS[0].describe()}"
    assert error.cause == "/srv/data: no such file or directory"
    assert error.hint == "create it on the host, or mark this mount optional"
    assert error.errno == errno.ENOENT
    assert error.exit_code == 125


def test_the_first_error_counts() -> None:
    first = Event(events.ERROR, events.STAGE_SETUP, 1, errno.EPERM)
    second = Event(events.ERROR, events.STAGE_SETUP, 0, errno.ENOENT)
    assert the_error(outcome(first, second)).what.startswith("step 2 of 3")


def test_an_error_outside_the_plan_names_its_stage() -> None:
    event = Event(events.ERROR, events.STAGE_CLONE, -1, errno.ENOSPC, text="clone")
    assert the_error(outcome(event)).what == "cannot create the namespaces"
    event = Event(events.ERROR, 99, 4096, 0, text="newuidmap: refused")
    error = the_error(outcome(event))
    assert (error.what, error.cause) == ("cannot set up the sandbox", "newuidmap: refused")


@pytest.mark.parametrize(
    ("op", "number", "told"),
    [
        (ops.Namespaces(0x10000000), errno.EPERM, True),
        (ops.Namespaces(0x10000000), errno.ENOSPC, True),
        (ops.Private(), errno.EACCES, True),
        (ops.Private(), errno.ENOMEM, False),
        (ops.Pivot(), errno.EPERM, False),
    ],
)
def test_refused_namespaces_are_explained(
    op: ops.Op, number: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def explain(given: int) -> tuple[str, str]:
        asked.append(given)
        return "user.max_user_namespaces is 0", "ask an administrator"

    monkeypatch.setattr(userns, "explain_in_a_line", explain)
    plan = PLAN.replace(steps=(Step(op, "test"), *PLAN.steps))
    event = Event(events.ERROR, events.STAGE_SETUP, 0, number, text="clone")
    error = setup_error(outcome(event), plan, "/")
    assert error is not None
    assert asked == [number] * told
    assert ("clone: " in error.cause, "is 0)" in error.cause) == (True, told)
    assert (error.hint == "ask an administrator") == told


@pytest.mark.parametrize("text", ["tool", "/opt/tool", ""])
def test_a_command_that_does_not_exist(tmp_path: Path, text: str) -> None:
    event = Event(events.ERROR, events.STAGE_EXEC, 2, errno.ENOENT, text=text)
    error = the_error(outcome(event), tmp_path)
    assert isinstance(error, CommandNotFound)
    assert error.exit_code == 127


def test_a_command_that_cannot_be_executed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").write_text("text")
    event = Event(events.ERROR, events.STAGE_EXEC, 2, errno.EACCES, text="tool")
    error = the_error(outcome(event), tmp_path)
    assert isinstance(error, CommandNotExecutable)
    assert error.exit_code == 126


def test_a_missing_interpreter_is_not_a_missing_command(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").write_text("#!/usr/bin/nothere\n")
    (tmp_path / "bin/tool").chmod(0o755)
    event = Event(events.ERROR, events.STAGE_EXEC, 2, errno.ELIBACC, text="tool")
    error = the_error(outcome(event), tmp_path)
    assert isinstance(error, CommandNotExecutable)
    assert "/usr/bin/nothere" in str(error)


def test_a_launcher_that_dies_without_a_word() -> None:
    killed = the_error(outcome(status=int(signal.SIGKILL)))
    assert killed.what == "the launcher ended before the command started"
    assert killed.cause == "it was killed by SIGKILL"
    assert "exit code 1" in the_error(outcome(status=1 << 8)).cause
    assert the_error(outcome(status=None)).cause == "it left no word"


@pytest.mark.parametrize(
    "changes",
    [
        {"running": Event(events.RUNNING)},
        {"exited": Event(events.EXITED)},
        {"timed_out": True},
        {"killed": True},
        {"done": Event(events.DONE, status=3 << 8)},
    ],
)
def test_what_ran_or_was_ended_by_us_is_no_failure(changes: dict[str, Any]) -> None:
    assert setup_error(outcome(**changes), PLAN, "/") is None


def test_warnings_name_their_step() -> None:
    event = Event(events.WARNING, events.STAGE_SETUP, 1, errno.EPERM, text="lo")
    assert warning_text(event, PLAN) == (
        f"step 2: {OPS[1].describe()}",
        f"lo: {os.strerror(errno.EPERM).lower()}",
    )
    event = Event(events.WARNING, events.STAGE_MAP, -1, 0, text="slow")
    assert warning_text(event, PLAN) == ("could not write the id maps", "slow")
