"""A command that goes on while its caller does other things: its turns and who takes them.

Owns the pipes between the caller and runtime, and the thread that takes the turns of a Popen.
With asyncio the event loop takes them: see loop.
"""

from __future__ import annotations

import fcntl
import os

from sandbox.api.wiring import DEVNULL, PIPE, STDOUT, Listener, Text, check_outputs, descriptor
from sandbox.api.wiring import output_of as connected
from sandbox.errors import UsageError
from sandbox.runtime.orders import Orders
from sandbox.runtime.supervise import drive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    from sandbox.api.wiring import Listen, Stream
    from sandbox.api.wishes import Wishes
    from sandbox.runtime.report import Report
    from sandbox.runtime.streams import Input, Output
    from sandbox.runtime.supervise import Turns

    class Connecting(TypedDict, total=False):
        """How a command that goes on is connected; see Ends."""

        stdin: Stream
        stdout: Stream
        stderr: Stream
        text: bool
        encoding: str | None
        errors: str | None
        on_stdout: Listen
        on_stderr: Listen

    class OpenKeywords(Connecting, Wishes, total=False):
        """All that Popen takes beside the command, its root and its policy."""


END_WAIT_S = 10.0  # for a sandbox that was told to die


class Ends:
    """The streams of a command that goes on: `stdin`, `stdout`, `stderr`, `merge_stderr` are
    runtime's; `ours` holds the caller's ends of the pipes by stream number.

    Keywords are those of subprocess.Popen, and `on_stdout`, `on_stderr`, which are called with
    each piece of output in the thread that looks after the command.
    """

    def __init__(
        self,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        on_stdout: Listen = None,
        on_stderr: Listen = None,
    ) -> None:
        self.text = Text(bool(text or encoding or errors), encoding, errors)
        self.ours: dict[int, int] = {}
        self._theirs: list[int] = []
        stdout, stderr = check_outputs(stdout, stderr, capture=False)
        self.merge_stderr = stderr == STDOUT
        if self.merge_stderr and on_stderr:
            raise UsageError("on_stderr hears nothing with stderr=STDOUT")
        if (on_stdout and stdout == PIPE) or (on_stderr and stderr == PIPE):
            raise UsageError("a function and a pipe cannot both be given the same output")
        try:
            self.stdin: Input = self._input(stdin)
            self.stdout: Output = self._output(1, stdout, on_stdout)
            self.stderr: Output = None
            if not self.merge_stderr:
                self.stderr = self._output(2, stderr, on_stderr)
        except BaseException:
            self.close()
            raise

    def _pipe(self, stream: int, *, ours_writes: bool) -> int:
        """Make a pipe; return runtime's end."""
        ends = os.pipe()
        moved = []
        for fd in ends:  # a closed 0, 1 or 2 of the caller must not become one of them
            moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
            os.close(fd)
        theirs, ours = moved if ours_writes else moved[::-1]
        self.ours[stream] = ours
        self._theirs.append(theirs)
        return theirs

    def _input(self, stdin: Stream) -> Input:
        if stdin == PIPE:
            return self._pipe(0, ours_writes=True)
        return None if stdin is None or stdin == DEVNULL else descriptor(stdin)

    def _output(self, number: int, stream: Stream, listen: Listen) -> Output:
        if stream == PIPE:
            return self._pipe(number, ours_writes=False)
        return connected(stream, number, listen, self.text)

    def started(self) -> None:
        """Runtime has ends of its own by now: the pipes shall end when it closes those."""
        while self._theirs:
            os.close(self._theirs.pop())

    def take(self, stream: int) -> int:
        """The caller's end of a stream's pipe, whose owner is somebody else from now on."""
        return self.ours.pop(stream)

    def flush(self) -> None:
        """No more output comes: hand over what text was still incomplete."""
        for target in (self.stdout, self.stderr):
            if isinstance(target, Listener):
                target(b"")

    def listener_failed(self) -> bool:
        """Whether it was a function of the caller's that ended the command."""
        targets = (self.stdout, self.stderr)
        return any(target.failed for target in targets if isinstance(target, Listener))

    def close(self) -> None:
        """Close whatever nobody has taken."""
        self.started()
        while self.ours:
            os.close(self.ours.popitem()[1])


class Life:
    """One command on its way: `orders` go to it, `report` or `error` come when it has `ended`."""

    def __init__(self, turns: Turns[Report], orders: Orders, ends: Ends) -> None:
        import threading

        self.orders = orders
        self.ended = threading.Event()
        self.report: Report | None = None
        self.error: BaseException | None = None
        self.pid = 0
        self._turns = turns
        self._ends = ends
        self._process = os.getpid()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Return once the command runs, or has ended. Raises SbxError when it never ran."""
        import threading

        watched = None
        try:
            watched = next(self._turns)
            self._ends.started()
            while watched is None or not watched.running:
                watched = self._turns.send(watched.wait() if watched else None)
            self.pid = watched.pid
            self._thread = threading.Thread(target=self._rest, name="sandbox", daemon=True)
            self._thread.start()
        except StopIteration as end:
            self.report = end.value
            self.pid = end.value.pid
            self._finish()
        except BaseException as error:
            self._turns.close()
            if watched and self._ends.listener_failed():  # then the command has started
                self.pid, self.error = watched.pid, error
                self._finish()
                return
            self.orders.close()
            self._ends.close()
            raise

    def _rest(self) -> None:
        try:
            self.report = drive(self._turns)
        except BaseException as error:
            self.error = error
        self._finish()

    def _finish(self) -> None:
        self.orders.close()
        try:
            self._ends.flush()
        except Exception as error:
            self.error = self.error or error
        self.ended.set()

    def abandon(self) -> None:
        """Kill it and wait for its end, wherever the garbage collector calls this."""
        import threading

        if os.getpid() != self._process:  # a forked copy: the original is not ours to end
            return
        if self.orders.kill() and threading.current_thread() is not self._thread:
            self.ended.wait(END_WAIT_S)
