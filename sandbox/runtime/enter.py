"""A further command in a living sandbox: its plan, its launcher, its end.

Nothing of the sandbox is trusted: how it is entered comes from its launcher, the profile from
its stored plan, and of its files only passwd and group are read, bounded, below its root.
"""

from __future__ import annotations

import errno

from sandbox.errors import EXIT_SETUP, SbxError, SetupError, StateError
from sandbox.host.accounts import find_account
from sandbox.launcher import events
from sandbox.launcher.events import Event
from sandbox.launcher.spawn import launch
from sandbox.plan.join import Entry, join_plan
from sandbox.plan.request import Degradation, Plan, Step
from sandbox.plan.wire import decode, encode
from sandbox.record import Record
from sandbox.runtime import keeper
from sandbox.runtime.history import note_exec, read_history
from sandbox.runtime.registry import new_id
from sandbox.runtime.report import Report, Subject, make_report
from sandbox.runtime.signals import CAUGHT, FATAL, SignalInbox
from sandbox.runtime.streams import Streams
from sandbox.runtime.supervise import Supervisor, drive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.launcher.spawn import Launched
    from sandbox.runtime.orders import Orders
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.streams import Input, Output
    from sandbox.runtime.supervise import Outcome, Turns
    from sandbox.services.cgroup.group import Group


_ENDING_S = 1.0


class Command(Record):
    """What to run in a living sandbox. `user` is USER[:GROUP], a number or a name of its own
    passwd file, None for its first command's; `env` comes on top of that command's. `leave`:
    nobody stays with it once it runs: it has no streams, and ends with the sandbox."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    user: str | None = None
    tty: bool = False
    pass_fds: tuple[int, ...] = ()
    timeout_s: float = 0.0
    grace_s: float = 0.0
    output_limit: int = 0
    leave: bool = False


class Connection(Record):
    """How the command is connected; see Streams. `orders` come from other threads meanwhile."""

    stdin: Input = None
    stdout: Output = 1
    stderr: Output = 2
    merge_stderr: bool = False
    forward_signals: bool = True
    orders: Orders | None = None


def enter(folder: Folder, command: Command, connection: Connection) -> Report:
    """Run `command` in the sandbox of `folder` to its end, or to its start where it is left to
    the sandbox, and report.

    Raises StateError when the sandbox is not there to be entered, UsageError for an unknown
    user, SetupError and CommandNotFound as run_session does.
    """
    return drive(enter_turns(folder, command, connection))


def enter_turns(folder: Folder, command: Command, connection: Connection) -> Turns[Report]:
    """The same in turns, for a driver of the caller's own."""
    streams = Streams(connection.stdin, connection.stdout, connection.stderr, command.output_limit)
    try:
        plan = None
        with keeper.Keeper(folder) as kept:
            if read_history(folder).state == "paused":
                raise StateError(
                    f"sandbox {folder.name} is paused", hint=f"sbx unpause {folder.name}"
                )
            namespaces = kept.namespaces()
        try:
            plan = plan_entry(folder, command, namespaces)
            turns = _run(folder, command, connection, streams, plan, namespaces)
            return (yield from _noted(folder, command, turns))
        finally:
            keeper.close_all(namespaces.values())
    finally:
        streams.close()


def _noted(folder: Folder, command: Command, turns: Turns[Report]) -> Turns[Report]:
    """The same turns, whose begin and end those are told who watch. Of a command that is left to
    the sandbox nobody sees the end."""
    identity, code = new_id(), EXIT_SETUP
    left = False
    text = " ".join((identity, *command.argv))
    note_exec(folder, Event(events.RUNNING, text=text.partition("\0")[0]))
    try:
        report = yield from turns
        code, left = report.exit_code, command.leave
        return report
    except SbxError as error:
        code = error.exit_code
        raise
    finally:
        if not left:
            note_exec(folder, Event(events.DONE, status=code << 8, text=identity))


def plan_entry(folder: Folder, command: Command, namespaces: Mapping[int, int]) -> Plan:
    """The plan that joins the sandbox and runs `command` there."""
    known = folder.description
    stored = decode(folder.read("plan"))
    account = capabilities = None
    if command.user is not None:
        user, _, group = command.user.partition(":")
        root = f"/proc/self/fd/{namespaces[keeper.ROOT]}"
        account = find_account(root, user, group or None)
        capabilities = known.capabilities[0 if account.uid == 0 else 1]
    entry = Entry(
        argv=command.argv,
        env=command.env,
        cwd=command.cwd,
        account=account,
        capabilities=capabilities,
        terminal=command.tty,
        pass_fds=command.pass_fds,
        leave=command.leave,
    )
    return Plan(
        steps=tuple(Step(op, "exec") for op in join_plan(stored, entry)),
        degradations=tuple(Degradation(*lost) for lost in known.degradations),
        layers=known.layers,
        identity=known.identity,
        storage=known.storage,
    )


def _goes_on(folder: Folder) -> bool:
    """Whether the sandbox still lives a moment later: its launcher ends after its process 1."""
    try:
        with keeper.Keeper(folder) as kept:
            return not kept.wait(_ENDING_S)
    except StateError:
        return False


def _raise_failure(folder: Folder, outcome: Outcome, plan: Plan, root: str) -> None:
    """Raise what the end of a command means that did not get as far as its own work."""
    from sandbox.runtime.failures import setup_error

    error = setup_error(outcome, plan, root)
    # pid_namespaces(7): a clone into one whose process 1 has ended fails with ENOMEM.
    ending = any(event.errno == errno.ENOMEM for event in outcome.errors)
    if error and (ending or not outcome.errors) and not _goes_on(folder):
        raise StateError(
            f"sandbox {folder.name} has ended",
            cause="it ended while the command was being started",
            hint=f"see how with: sbx inspect {folder.id}",
        )
    if error and not outcome.errors:
        raise SetupError(
            f"the command in sandbox {folder.name} was lost sight of",
            cause="what looks after it was killed before the command was seen to start",
            hint=f"something in the sandbox may kill all it can: sbx top {folder.name}",
            phase="run",
        )
    if error:
        raise error


def _run(
    folder: Folder,
    command: Command,
    connection: Connection,
    streams: Streams,
    plan: Plan,
    namespaces: dict[int, int],
) -> Turns[Report]:
    terminal = None
    if command.tty:
        from sandbox.runtime.terminal import terminal_of

        terminal = terminal_of((connection.stdin, connection.stdout, connection.stderr))
    inbox = SignalInbox()
    launched: Launched | None = None
    known = folder.description
    group = known.cgroup
    entered: list[Group] = []

    def enter_group(launcher: int) -> tuple[str, int]:
        from sandbox.services import cgroup

        entered.append(cgroup.enter_group(*group, launcher))
        return known.name, entered[0].fd

    try:
        if connection.forward_signals:
            inbox.open(CAUGHT + FATAL if terminal else CAUGHT)
        launched = launch(
            encode(step.op for step in plan.steps),
            pass_fds=command.pass_fds,
            merge_stderr=connection.merge_stderr,
            namespaces=keeper.without_own(namespaces),
            cgroup=enter_group if group[0] else None,
            silent=command.leave,
        )
        if not command.leave:
            streams.attach(launched, terminal=command.tty)
        outcome = yield from Supervisor(
            launched,
            streams,
            inbox,
            timeout_s=command.timeout_s,
            grace_s=command.grace_s,
            terminal=terminal,
            orders=connection.orders,
        ).turns()
    finally:
        if launched:
            launched.close()
        inbox.close()
        for one in entered:
            one.release()
    if outcome.errors or not (outcome.running or outcome.exited):
        _raise_failure(folder, outcome, plan, f"/proc/self/fd/{namespaces[keeper.ROOT]}")
    unwritten = next(iter(streams.errors()), None)
    # Who looked after it has left it, and ended well: that is what is known of it.
    watched = not command.leave
    subject = Subject(known.name, known.policy, known.network, has_init=watched)
    return make_report(subject, plan, outcome, streams.budget, unwritten)
