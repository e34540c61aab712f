"""One run from policy to report: the order of the work and of its undoing.

Owns no detail: it validates, asks the host, has the plan compiled, starts the launcher, has it
supervised, and takes back what it made, whatever happened in between.
"""

from __future__ import annotations

import errno
import os
import time

from sandbox.errors import SbxError, SetupError, UsageError
from sandbox.host.probe import forget_facts, host_facts
from sandbox.launcher import events
from sandbox.launcher.spawn import launch
from sandbox.linux.workspace import reap_leftovers
from sandbox.plan.network import network_mode
from sandbox.plan.ops import Share
from sandbox.plan.wire import encode
from sandbox.record import Record
from sandbox.runtime.decision import choose, decide, instead, shown
from sandbox.runtime.report import (
    REPORT_ON_STDERR,
    Report,
    StatusLines,
    Subject,
    failed_report,
    make_report,
)
from sandbox.runtime.signals import CAUGHT, FATAL, Interrupts, SignalInbox
from sandbox.runtime.streams import Streams
from sandbox.runtime.supervise import Supervisor, drive
from sandbox.runtime.task import Keeping, Task, check_task
from sandbox.services.storage import DRIVERS, prepare_nothing, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sandbox.host.facts import HostFacts
    from sandbox.launcher.events import Event
    from sandbox.launcher.spawn import Launched, Program
    from sandbox.plan.request import Plan
    from sandbox.policy.model import Policy
    from sandbox.runtime.destination import Destination
    from sandbox.runtime.grouped import Grouped
    from sandbox.runtime.kept import Kept
    from sandbox.runtime.orders import Orders
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.streams import Input, Output
    from sandbox.runtime.supervise import Outcome, Turns
    from sandbox.services.cgroup.account import Account
    from sandbox.services.network import Network
    from sandbox.services.storage.layer import Layer

    Notify = Callable[[str, str], None]

_REFUSALS = (errno.ENOSYS, errno.EPERM)


class RunOptions(Record):
    """How a run is connected. For `stdin`, `stdout`, `stderr` see Streams.

    `report_path`: where the report goes (see Destination), "-" = a few lines on standard error.
    `status_fd`: where its JSON lines go. `notify(what, cause)` hears what the user should be told
    meanwhile. `keep`: others can find the sandbox. `orders` come from other threads meanwhile.
    `debug`: denied connections are told as they come.
    """

    stdin: Input = None
    stdout: Output = 1
    stderr: Output = 2
    merge_stderr: bool = False
    forward_signals: bool = True
    report_path: str | None = None
    status_fd: int | None = None
    notify: Notify | None = None
    program: Program | None = None
    keep: Keeping | None = None
    orders: Orders | None = None
    debug: bool = False


def run_session(policy: Policy, task: Task, options: RunOptions) -> Report:
    """Run to the end and report. Raises SbxError when the payload never started.

    A time limit is not an error here: see the report's `reason`. The report and the status
    lines are written in both cases.
    """
    return drive(session_turns(policy, task, options))


def session_turns(policy: Policy, task: Task, options: RunOptions) -> Turns[Report]:
    """The same in turns, for a driver of the caller's own."""
    # First of all, while 0, 1 and 2 are the caller's: a closed one could become a file of ours.
    streams = Streams(options.stdin, options.stdout, options.stderr, policy.process.output_limit)
    name = task.name or f"sbx-{os.urandom(4).hex()}"
    named = bool(task.name)
    session = _Session(policy, task.replace(name=name), options, streams, named=named)
    try:
        try:
            outcome = yield from session.turns()
            report = session.report(outcome)
        finally:
            streams.close()
        session.publish(report)
        session.say_why(report)
        return report
    except SbxError as error:
        session.publish(failed_report(session.name, policy, error, session.elapsed_s()))
        raise
    finally:
        session.close()


def start_session(policy: Policy, task: Task, options: RunOptions) -> Folder:
    """Start a detached sandbox (`options.keep`) and leave it alone once its command runs.

    Returns its folder, the caller's to close. Raises SbxError when the payload never started.
    """
    return drive(start_turns(policy, task, options))


def start_turns(policy: Policy, task: Task, options: RunOptions) -> Turns[Folder]:
    """The same in turns, for a driver of the caller's own."""
    streams = Streams(None, None, None, policy.process.output_limit)
    if options.keep and options.keep.idle:
        task = task.replace(argv=("idle",))
    session = _Session(policy, task, options, streams, named=bool(task.name))
    try:
        yield from session.turns()
        return session.release()
    finally:
        session.close()


class _Session:
    """The state of one run between its first and its last step."""

    def __init__(
        self, policy: Policy, task: Task, options: RunOptions, streams: Streams, *, named: bool
    ) -> None:
        self._policy = policy
        self._task = task
        self._options = options
        self._streams = streams
        self._status = StatusLines(options.status_fd)
        self._began = time.monotonic()
        self._plan: Plan | None = None
        self._overlay_refused = False
        self._told: set[tuple[str, str]] = set()
        self._network: Network | None = None
        self._network_account: dict[str, Any] | None = None
        self._storage_reason = ""
        self._named = named
        self._kept: Kept | None = None
        self._detach = bool(options.keep and options.keep.detached)
        self._interrupts = Interrupts()
        self._report: Destination | None = None
        self._group: Grouped | None = None
        self._account: Account | None = None
        self._launched: Launched | None = None
        self._living = False

    @property
    def name(self) -> str:
        """The sandbox's: one that nobody named is given another when others can find it."""
        return self._task.name

    def elapsed_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._began

    def turns(self) -> Turns[Outcome]:
        """Everything from validation to the end of the command, or, detached, to its start.

        What was made on the way is gone when the sandbox is.
        """
        self._open_report()
        check_task(self._task, self._policy.process.env)
        facts = host_facts()
        self._claim()
        for path in reap_leftovers(lambda path: remove_tree(path, facts)):
            self._tell(f"removed {path}", "a run that was killed had left it behind")
        storage, reason = choose(self._policy, facts, self._task)
        try:
            return (yield from self._run_with(facts, storage, reason))
        except SetupError as error:
            if not self._overlay_refused or self._policy.filesystem.root != "auto":
                raise
            if self._policy.filesystem.persist or self._policy.refuses("overlay"):
                raise
            reason = f"overlayfs refuses {self._task.rootfs}: {error.cause}"
        storage = instead(self._policy, facts, self._task)
        return (yield from self._run_with(facts, storage, reason))

    def _run_with(self, facts: HostFacts, storage: str, reason: str) -> Turns[Outcome]:
        if DRIVERS[storage] is prepare_nothing:
            files = self._policy.filesystem
            if storage == "bind" and files.root != "bind" and not files.read_only:
                self._tell("the root is read-only in this run", reason)
            return (yield from self._run(facts, storage, reason))
        decide(self._policy, facts, self._task, storage)  # or it refuses
        asked = self._policy.filesystem.root == storage and self._policy.by_flag("filesystem.root")
        if storage == "copy" and not asked:
            self._tell("preparing a copy of the root file system", reason)
        if self._options.forward_signals:
            self._interrupts.open()
        try:
            return (yield from self._run_prepared(facts, storage, reason))
        finally:
            self._interrupts.close()

    def _claim(self) -> None:
        keeping = self._options.keep
        if keeping is None and "pid" in self._policy.shared:
            # Its keeper ends what its process 1 cannot: they are not alone in that namespace.
            keeping = Keeping()
        if keeping is None:
            return
        from sandbox.runtime.kept import Kept

        task = self._task if self._named else self._task.replace(name="")
        try:
            self._kept = Kept(keeping, self._policy, task, self._tell)
        except SbxError as error:
            if keeping.detached or self._named or "pid" in self._policy.shared:
                raise
            self._tell("no other command can find this sandbox", f"{error.what}: {error.cause}")
            return
        self._task = task.replace(name=self._kept.folder.name)

    def release(self) -> Folder:
        """The detached sandbox's folder, the caller's to close; it lives on without us."""
        if self._kept is None:
            raise RuntimeError("this sandbox is not kept")
        folder, self._kept = self._kept.release(), None
        return folder

    def _run_prepared(self, facts: HostFacts, storage: str, reason: str) -> Turns[Outcome]:
        """A run with a folder that is made for it and removed after it."""
        from sandbox.runtime.prepared import PreparedRoot

        root = PreparedRoot(facts, self._tell)
        try:
            if self._kept:
                self._kept.hold(root.share())
            yield None
            root.fill(storage, self._task.rootfs, self._policy, self._interrupts)
            outcome = yield from self._run(facts, storage, reason, root.path)
            if self._detach:
                root.leave()
                return outcome
            yield None
        except BaseException:
            root.close()
            raise
        root.close()
        return outcome

    def _open_report(self) -> None:
        path = self._options.report_path
        if path is not None and path != REPORT_ON_STDERR:
            from sandbox.runtime.destination import Destination

            self._report = Destination(path)

    def _run(self, facts: HostFacts, storage: str, reason: str, made: str = "") -> Turns[Outcome]:
        keep = self._policy.filesystem.persist
        if not keep:
            return (yield from self._run_plan(facts, storage, reason, made, None))
        from sandbox.services.storage.layer import open_layer

        layer = open_layer(keep, self._task.rootfs)
        try:
            return (yield from self._run_plan(facts, storage, reason, made, layer))
        finally:
            layer.close()

    def _run_plan(
        self, facts: HostFacts, storage: str, reason: str, made: str, layer: Layer | None
    ) -> Turns[Outcome]:
        try:
            self._prepare_network()
            plan = decide(self._policy, facts, self._task, storage, made, self._network)
            if plan.cgroup:
                from sandbox.runtime.grouped import Grouped

                self._group = Grouped(plan.cgroup, self._tell)
            return (yield from self._run_compiled(plan, made, reason, layer))
        finally:
            try:
                self._drop_group()
            finally:
                self._leave_network()

    def _prepare_network(self) -> None:
        if network_mode(self._policy).service:
            from sandbox.services.network import DRIVERS as NETWORKS

            if self._options.keep and self._options.keep.restarts:
                raise UsageError(
                    f"--restart cannot be used with --network {self._policy.network.mode}",
                    cause="the network of a sandbox ends with its first life",
                    hint="leave --restart out, or let a service manager start it again",
                )
            prepare = NETWORKS[self._policy.network.mode]
            self._network = prepare(self._policy, self._task.name, self._tell)
            self._network.debug = self._options.debug

    def _connect(self, pid: int, descriptors: tuple[int, ...]) -> None:
        """While the sandbox is held; `pid` is its init."""
        if self._network:
            self._network.connect(pid, descriptors)

    def _leave_network(self) -> None:
        """After the sandbox, or when it is left alone; what stays is said."""
        network, self._network = self._network, None
        if network is None:
            return
        try:
            network.close(living=self._living)
            self._network_account = network.account()
        except SbxError as error:
            self._tell(error.what, "; ".join(error.problems) or error.cause)

    def _drop_group(self) -> None:
        if self._group:
            self._account = self._group.account
            self._group.close(living=self._living)
            self._group = None

    def _run_compiled(
        self, plan: Plan, made: str, reason: str, layer: Layer | None
    ) -> Turns[Outcome]:
        if self._kept:
            if self._group:
                self._kept.hold(self._group.share())
            if layer:
                self._kept.hold(layer.share())
            if self._network:
                for lock in self._network.share():
                    self._kept.hold(lock)
                self._network.record(self._kept.folder.fd)
            plan = self._kept.adopt(plan, reason)
        self._plan, self._storage_reason = plan, reason
        for lost in plan.degradations:
            if lost.quiet:
                continue
            self._tell(f"without {lost.lost}", lost.cause)
        for what, cause in plan.notes:
            self._tell(what, cause)
        if layer:
            for what, cause in layer.record(plan):
                self._tell(what, cause)
        outcome = yield from self._supervise(encode(step.op for step in plan.steps))
        error = self._setup_error(outcome, plan, shown(self._task, plan.storage, made))
        if error:
            if error.errno in _REFUSALS:  # a filter of a container, which no key of a cache shows
                forget_facts()
            raise error
        self._living = self._detach
        return outcome

    def report(self, outcome: Outcome) -> Report:
        """The report of a command that ran to its end."""
        if self._plan is None:
            raise RuntimeError("nothing has been run")
        policy = self._policy
        subject = Subject(
            name=self._task.name,
            policy=policy.name,
            network=policy.network.mode,
            has_init=policy.process.init,
            storage_reason=self._storage_reason,
        )
        return make_report(
            subject,
            self._plan,
            outcome,
            self._streams.budget,
            next(iter(self._streams.errors()), None),
            self._account,
            self._network_account,
        )

    def _supervise(self, message: bytes) -> Turns[Outcome]:
        options, process = self._options, self._policy.process
        terminal = None
        if process.tty and not self._detach:
            from sandbox.runtime.terminal import terminal_of

            terminal = terminal_of((options.stdin, options.stdout, options.stderr))
        inbox = SignalInbox()
        launched: Launched | None = None
        shared: Mapping[int, int] = {}
        try:
            if options.forward_signals:
                inbox.open(CAUGHT + FATAL if terminal else CAUGHT)
                self._interrupts.check()
            shared = self._share()
            launched = launch(
                message,
                program=options.program,
                pass_fds=self._task.pass_fds,
                merge_stderr=options.merge_stderr or self._streams.one_output,
                kept=self._kept.listen() if self._kept else None,
                namespaces=shared or None,
                cgroup=self._group.make if self._group else None,
            )
            self._launched = launched
            if self._kept:
                self._kept.started(launched.pid, self._group)
            if not self._detach:
                self._streams.attach(launched, terminal=process.tty)
            supervisor = Supervisor(
                launched,
                self._streams,
                inbox,
                timeout_s=0.0 if self._detach else process.timeout,
                grace_s=process.grace,
                terminal=terminal,
                notice=self._on_event,
                prepare=self._connect if self._network else None,
                detach=self._detach,
                orders=options.orders,
                beside=self._network,
            )
            return (yield from supervisor.turns())
        finally:
            if launched:
                launched.close()
            inbox.close()
            for fd in shared.values():
                os.close(fd)

    def _share(self) -> Mapping[int, int]:
        """The namespaces that the plan shares with another sandbox, by place."""
        steps = self._plan.steps if self._plan else ()
        found = next((step.op for step in steps if isinstance(step.op, Share)), None)
        if found is None:
            return {}
        from sandbox.runtime.sharing import open_shared

        return open_shared(found.name, self._policy.shared)

    def _on_event(self, event: Event) -> None:
        if event.kind == events.STARTED:
            self._status.send("started", name=self._task.name, pid=event.pid)
        elif event.kind == events.RUNNING:
            self._status.send("running")
        elif event.kind == events.DONE and self._group and self._launched:
            self._group.sum_up()
            self._launched.let_go()
        elif event.kind == events.WARNING and self._plan:
            from sandbox.runtime.failures import warning_text

            self._tell(*warning_text(event, self._plan))

    def _setup_error(self, outcome: Outcome, plan: Plan, rootfs: str) -> SetupError | None:
        if (outcome.running or outcome.exited) and not outcome.errors:
            return None
        from sandbox.runtime.failures import setup_error
        from sandbox.runtime.root import is_overlay_refusal

        self._overlay_refused = bool(outcome.errors) and is_overlay_refusal(outcome.errors[0], plan)
        return setup_error(outcome, plan, rootfs)

    def _tell(self, what: str, cause: str) -> None:
        """Say it once, also when the run is tried again in another way."""
        if self._options.notify and (what, cause) not in self._told:
            self._told.add((what, cause))
            self._streams.end_line()
            self._options.notify(what, cause)

    def close(self) -> None:
        """Close what is held of the report's place, and drop a sandbox that is dead by now."""
        if self._report:
            self._report.close()
        if self._kept:
            self._kept.discard()
            self._kept = None

    def say_why(self, report: Report) -> None:
        """Tell of an end that was not the command's own, or of output that was lost."""
        if report.reason == "exited" and not report.output_dropped_bytes:
            return
        from sandbox.runtime.endings import endings

        for what, cause in endings(report, self._policy):
            self._tell(what, cause)

    def publish(self, report: Report) -> None:
        """Hand the report out, to the status lines first."""
        if self._options.status_fd is not None:
            self._status.send("exited", report=report.as_dict())
        path = self._options.report_path
        if path == REPORT_ON_STDERR:
            lines = [line if line.isprintable() else ascii(line)[1:-1] for line in report.people()]
            try:
                self._streams.end_line()
                os.write(2, "".join(f"sbx: {line}\n" for line in lines).encode())
            except OSError:  # nobody is there to be told
                return
        elif self._report:
            try:
                self._report.write(f"{report.to_json()}\n")
            except SbxError as error:  # the command's own code counts more
                self._tell(error.what, error.cause)
