"""`sbx run`: policy and flags together, then one session. `explain` shares the first part."""

from __future__ import annotations

import time

from sandbox.cli import render
from sandbox.cli.flags import raise_problems, read_flags
from sandbox.cli.parse import command_words
from sandbox.errors import PolicyError
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy, layer_problems
from sandbox.policy.units import format_duration
from sandbox.runtime.session import RunOptions, run_session, start_session
from sandbox.runtime.task import LOG_MAX, Keeping, Task, task_problems

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.cli.flags import Flags
    from sandbox.cli.parse import Parsed
    from sandbox.policy.model import Policy

DEFAULT_POLICY = "default"


def build(parsed: Parsed, flags: Flags) -> Policy:
    """Build the policy of this run from files and flags.

    Raises one PolicyError for all that is wrong, also with flags whose policy cannot be read.
    """
    options = Layer("options", flags.data, flags.origins)
    try:
        layers = load_policy(parsed.text("--policy") or DEFAULT_POLICY)
    except PolicyError as error:
        problems = layer_problems(options)
        if not problems:
            raise
        raise PolicyError(error.what, problems=(*_lines(error), *problems)) from error
    return build_policy([*layers, options])


def _lines(error: PolicyError) -> tuple[str, ...]:
    cause = f": {error.cause}" if error.cause else ""
    return error.problems or (f"--policy: {error.what}{cause}",)


def policy_problems(parsed: Parsed, flags: Flags) -> tuple[str, ...]:
    """Everything that is wrong with the policy and the values of flags, as lines."""
    try:
        build(parsed, flags)
    except PolicyError as error:
        return (*flags.problems, *_lines(error))
    return flags.problems


def combine(parsed: Parsed, flags: Flags, task: Task, program: str) -> Policy:
    """Build the policy of this run from files and flags.

    Raises PolicyError when nothing but the policy is at fault, else UsageError; each names all
    problems that can be seen.
    """
    try:
        policy = build(parsed, flags)
    except PolicyError as error:
        lines = _lines(error)
        mine = any(line.startswith("--") for line in error.problems)
        if mine or flags.problems or task_problems(task):
            _raise_all((*flags.problems, *lines), task, program)
        raise
    if flags.problems:
        _raise_all(flags.problems, task, program)
    return policy


def _raise_all(problems: tuple[str, ...], task: Task, program: str) -> None:
    """Raise one UsageError with the problems, and with those of ROOTFS and COMMAND."""
    raise_problems((*problems, *task_problems(task)), program)


def read_task(parsed: Parsed, flags: Flags, program: str) -> Task:
    """Return what shall run where."""
    return Task(
        rootfs=parsed.words[0],
        argv=command_words(parsed, program),
        name=flags.run.get("--name", ""),
        pass_fds=tuple(flags.run.get("--pass-fd", ())),
    )


def _notifier(parsed: Parsed) -> Callable[[str, str], None] | None:
    if parsed.has("--quiet"):
        return None
    json = parsed.has("--json")
    return lambda what, cause: render.warn(what, cause, json=json)


def _detach(parsed: Parsed, flags: Flags, policy: Policy, task: Task) -> int:
    """Start the sandbox, print its id and leave it alone."""
    keeping = Keeping(
        detached=True,
        input=parsed.has("--interactive"),
        auto_remove=parsed.has("--rm"),
        restarts=flags.run.get("--restart", 0),
        log_max=flags.run.get("--log-max-size", LOG_MAX),
    )
    options = RunOptions(
        status_fd=flags.run.get("--status-fd"), notify=_notifier(parsed), keep=keeping
    )
    folder = start_session(policy, task, options)
    limit = policy.process.timeout
    if limit and options.notify and not policy.asked("process.timeout"):
        options.notify(
            f"it will be ended {format_duration(limit)} from now",
            f"the time limit of policy {policy.name}; --timeout 0 lifts it",
        )
    render.show(folder.id)
    folder.close()
    return 0


def _contradictions(parsed: Parsed) -> tuple[str, ...]:
    """What is said that has no meaning together."""
    if parsed.has("--detach"):
        wrong = [name for name in ("--report", "--pass-fd") if dict(parsed.values).get(name)]
        where = {"--report": "; sbx inspect shows it once the sandbox has ended"}
        return tuple(f"{n}: cannot be used with --detach{where.get(n, '')}" for n in wrong)
    lone = [name for name in ("--restart", "--log-max-size") if parsed.text(name) is not None]
    return tuple(f"{name}: is for sandboxes in the background: add --detach" for name in lone)


def main(parsed: Parsed) -> int:
    """Run the command line and return the payload's exit code, or ours."""
    if parsed.has("--dry-run"):
        from sandbox.cli.commands import explain

        return explain.main(parsed, program="sbx run")
    started = time.monotonic()
    flags = read_flags(parsed)
    flags = flags.replace(problems=(*flags.problems, *_contradictions(parsed)))
    task = read_task(parsed, flags, "sbx run")
    policy = combine(parsed, flags, task, "sbx run")
    if parsed.has("--debug"):
        render.show_time("policy was ready", started)
    if parsed.has("--detach"):
        return _detach(parsed, flags, policy, task)
    options = RunOptions(
        stdin=0 if parsed.has("--interactive") else None,
        keep=Keeping(),
        report_path=flags.run.get("--report"),
        status_fd=flags.run.get("--status-fd"),
        notify=_notifier(parsed),
        debug=parsed.has("--debug"),
    )
    report = run_session(policy, task, options)
    if parsed.has("--debug"):
        render.show_time("sandbox was gone", started)
    return report.exit_code
