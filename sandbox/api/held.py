"""One kept sandbox as both Sandbox and AsyncSandbox hold it: what is known of it, the turns of
what is done in it, and its end."""

from __future__ import annotations

import os
import signal
import weakref

from sandbox.api.call import Call, split_keywords
from sandbox.api.life import END_WAIT_S, Ends
from sandbox.api.wishes import check_keywords, policy_for, wished, words_of
from sandbox.errors import StateError, UsageError
from sandbox.runtime.keeper import Keeper
from sandbox.runtime.registry import start_ticks
from sandbox.runtime.task import Keeping, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TypedDict

    from sandbox.api.call import Calling
    from sandbox.api.life import Connecting
    from sandbox.api.popen import Begin
    from sandbox.api.wishes import PolicyRef, Wishes, Word, check_keywords
    from sandbox.policy import model
    from sandbox.runtime.enter import Command
    from sandbox.runtime.orders import Orders
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.report import Report
    from sandbox.runtime.supervise import Turns

    class Entering(TypedDict, total=False):
        """What a command in a kept sandbox may have of its own; see `command_of`."""

        env: Mapping[str, str] | None
        cwd: str | None
        user: int | str | None
        timeout: float | None
        pass_fds: Iterable[int]

    class ExecKeywords(Calling, Entering, total=False):
        """All that `Sandbox.run` takes beside the command."""

    class ExecOpenKeywords(Connecting, Entering, total=False):
        """All that `Sandbox.popen` takes beside the command."""


_CONNECTING = frozenset(Ends.__init__.__kwdefaults__ or ())


class Held:
    """`origin` names who wishes; the rest is that of `sandbox.run`."""

    def __init__(
        self, origin: str, rootfs: Word, policy: PolicyRef, name: str, wishes: Wishes
    ) -> None:
        self._policy: model.Policy | None = policy_for(origin, policy, wished(origin, wishes))
        self._task = Task(os.fspath(rootfs), ("idle",), name)
        self._folder: Folder | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @classmethod
    def found(cls, word: str) -> Held:
        """One that somebody else has started. Raises StateError."""
        from sandbox.runtime.registry import find

        made = cls.__new__(cls)
        made._policy, made._finalizer = None, None
        made._task = Task("", ())
        made._folder = find(word)
        return made

    @property
    def is_new(self) -> bool:
        """Whether it has yet to be started."""
        return self._policy is not None and self._folder is None and self._finalizer is None

    @property
    def known(self) -> str:
        """Its name, "" before its start and after `close`."""
        return self._folder.name if self._folder else ""

    @property
    def folder(self) -> Folder:
        """Where it is known. Raises StateError before its start and after `close`."""
        if self._folder is None:
            raise StateError(
                "this sandbox is not running",
                cause="it was closed, or never started",
                hint="start it with: with Sandbox(…) as box",
            )
        return self._folder

    # ---- start and end ------------------------------------------------------------------

    def start(self, owner: object) -> Turns[None]:
        """Start it; it ends with `owner` at the latest. Raises SbxError."""
        from sandbox.runtime.session import RunOptions, start_turns

        if self._policy is None or not self.is_new:
            raise UsageError("this sandbox was already started")
        keeping = Keeping(detached=True, owned=True, idle=True, auto_remove=True)
        options = RunOptions(forward_signals=False, keep=keeping)
        folder = yield from start_turns(self._policy, self._task, options)
        self._folder = folder
        self._finalizer = weakref.finalize(owner, _end, folder, os.getpid())

    def close(self) -> None:
        """Kill it if it is ours, wait until nothing of it lives, and forget it."""
        folder, self._folder = self._folder, None
        if self._finalizer is not None:
            self._finalizer()
        elif folder is not None:
            folder.close()

    # ---- commands -----------------------------------------------------------------------

    def call(self, argv: Sequence[Word], keywords: ExecKeywords) -> tuple[Call, Turns[Report]]:
        """A command that is waited for, ready to be driven. Raises SbxError."""
        from sandbox.runtime.enter import Connection, enter_turns

        known: Any = keywords
        own: Any
        calling, own = split_keywords(known)
        check_keywords("Sandbox.run", own, _ENTERING)
        call = Call(words_of(argv), **calling)
        command = self._command(call.words, **own)
        connection = Connection(
            stdin=call.stdin,
            stdout=call.stdout,
            stderr=call.stderr,
            merge_stderr=call.merge_stderr,
            forward_signals=False,
        )
        return call, enter_turns(self.folder, command, connection)

    def opened(
        self, argv: Sequence[Word], keywords: ExecOpenKeywords
    ) -> tuple[tuple[str, ...], Connecting, Begin]:
        """A command that goes on: its words, its connections, what begins it."""
        from sandbox.runtime.enter import Connection, enter_turns

        own: Any = {key: value for key, value in keywords.items() if key not in _CONNECTING}
        connecting: Any = {key: value for key, value in keywords.items() if key in _CONNECTING}
        check_keywords("Sandbox.popen", own, _ENTERING)
        words = words_of(argv)
        command, folder = self._command(words, **own), self.folder

        def begin(ends: Ends, orders: Orders) -> Turns[Report]:
            connection = Connection(
                stdin=ends.stdin,
                stdout=ends.stdout,
                stderr=ends.stderr,
                merge_stderr=ends.merge_stderr,
                forward_signals=False,
                orders=orders,
            )
            return enter_turns(folder, command, connection)

        return words, connecting, begin

    def _command(
        self,
        words: tuple[str, ...],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: int | str | None = None,
        timeout: float | None = None,
        pass_fds: Iterable[int] = (),
    ) -> Command:
        from sandbox.runtime.enter import Command
        from sandbox.runtime.task import check_words

        check_words(words, tuple((env or {}).items()))
        process = self._policy.process if self._policy else None
        return Command(
            argv=words,
            env=tuple((env or {}).items()),
            cwd=cwd or "",
            user=None if user is None else str(user),
            pass_fds=tuple(pass_fds),
            timeout_s=timeout or 0.0,
            grace_s=process.grace if process else 0.0,
            output_limit=process.output_limit if process else 0,
        )


_ENTERING = frozenset(Held._command.__kwdefaults__ or ())


def _end(folder: Folder, process: int) -> None:
    """Kill a sandbox of ours, wait until it is dead, remove what is kept of it."""
    if os.getpid() != process:  # a forked copy: the original is not ours to end
        folder.close()
        return
    try:
        with Keeper(folder) as keeper:
            keeper.kill()
            keeper.wait(END_WAIT_S)
    except (StateError, OSError):  # it has ended by itself
        pass
    known = folder.description
    try:
        pidfd = os.pidfd_open(known.pid)
    except OSError:  # somebody reaps our children
        pidfd = -1
    if pidfd >= 0:
        # Then its number may be another one's by now; ours stays a zombie until it is reaped.
        if start_ticks(known.pid) == known.started_ticks:
            _reap(pidfd)
        os.close(pidfd)
    folder.remove()
    folder.close()
    _remove_roots()


def _reap(pidfd: int) -> None:
    import select

    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(END_WAIT_S * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except (ChildProcessError, ProcessLookupError):
        pass


def _remove_roots() -> None:
    """A root that was prepared for one sandbox lies where nobody holds it any more."""
    from sandbox.host.probe import host_facts
    from sandbox.linux.workspace import reap_leftovers
    from sandbox.services.storage import remove_tree

    facts = host_facts()
    reap_leftovers(lambda path: remove_tree(path, facts))
