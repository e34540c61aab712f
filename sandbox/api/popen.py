"""`sandbox.Popen`: a command that goes on while its caller does other things."""

from __future__ import annotations

import io
import time
import weakref

from sandbox.api.call import returncode_of
from sandbox.api.exchange import Exchange
from sandbox.api.life import Ends, Life
from sandbox.api.run import understand
from sandbox.api.wishes import words_of
from sandbox.errors import UsageError
from sandbox.runtime.orders import Orders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import IO, Any, Self, Unpack

    from sandbox.api.failed import TimeoutExpired
    from sandbox.api.life import Connecting, OpenKeywords
    from sandbox.api.wishes import PolicyRef, Word
    from sandbox.runtime.report import Report
    from sandbox.runtime.supervise import Turns

    Begin = Callable[[Ends, Orders], Turns[Report]]

_CONNECTING = frozenset(Ends.__init__.__kwdefaults__ or ())


def begin_session(
    origin: str,
    words: tuple[str, ...],
    rootfs: Word,
    policy: PolicyRef,
    name: str,
    pass_fds: Iterable[int],
    keywords: OpenKeywords,
) -> tuple[Connecting, Begin]:
    """How it is connected, and what begins its turns. Raises SbxError for bad arguments."""
    from sandbox.runtime.session import RunOptions, session_turns

    wishes: Any = {key: value for key, value in keywords.items() if key not in _CONNECTING}
    connecting: Any = {key: value for key, value in keywords.items() if key in _CONNECTING}
    wanted, task = understand(origin, words, rootfs, policy, name, pass_fds, wishes)

    def begin(ends: Ends, orders: Orders) -> Turns[Report]:
        options = RunOptions(
            stdin=ends.stdin,
            stdout=ends.stdout,
            stderr=ends.stderr,
            merge_stderr=ends.merge_stderr,
            forward_signals=False,
            orders=orders,
        )
        return session_turns(wanted, task, options)

    return connecting, begin


class Popen:
    """A command in a sandbox of its own, like subprocess.Popen.

    `args`, `pid` (the host's number of the sandbox's init), `stdin`, `stdout`, `stderr` (file
    objects where PIPE was asked for), `returncode` (None while it runs), `report` (then too).
    Keywords are those of subprocess.Popen and of `sandbox.run`: `bufsize`, `stdin`, `stdout`,
    `stderr`, `text`, `encoding`, `errors`, `timeout` and the other limits; without `stdin` the
    command reads an empty input. `on_stdout`, `on_stderr` are called from another thread.

    A thread looks after the command: its limits hold when nobody waits. The sandbox ends with
    this object and with this process; so does, as `with` ends by an exception, all that is in it.
    Raises SbxError when the command could not be started.
    """

    def __init__(
        self,
        argv: Sequence[Word],
        *,
        rootfs: Word,
        policy: PolicyRef = "strict",
        name: str = "",
        pass_fds: Iterable[int] = (),
        bufsize: int = -1,
        **keywords: Unpack[OpenKeywords],
    ) -> None:
        words = words_of(argv)
        connecting, begin = begin_session(
            "sandbox.Popen", words, rootfs, policy, name, pass_fds, keywords
        )
        self._start(words, bufsize, connecting, begin)

    @classmethod
    def begun(
        cls, words: tuple[str, ...], bufsize: int, connecting: Connecting, begin: Begin
    ) -> Self:
        """A command whose turns come from elsewhere. Raises SbxError."""
        made = cls.__new__(cls)
        made._start(words, bufsize, connecting, begin)
        return made

    def _start(
        self, words: tuple[str, ...], bufsize: int, connecting: Connecting, begin: Begin
    ) -> None:
        self.args = words
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        ends, orders = Ends(**connecting), Orders()
        self._text = ends.text
        self._life = Life(begin(ends, orders), orders, ends)
        self._exchange: Exchange | None = None
        self._life.start()
        self.pid = self._life.pid
        self._end = weakref.finalize(self, self._life.abandon)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if number in ends.ours:
                setattr(
                    self, name, self._open(ends.take(number), "rb" if number else "wb", bufsize)
                )

    def _open(self, fd: int, mode: str, bufsize: int) -> IO[Any]:
        # Line buffering is the text layer's: io knows none for bytes.
        file = open(fd, mode, -1 if bufsize == 1 else bufsize)  # noqa: SIM115 (the caller's)
        if not self._text.active:
            return file
        encoding, errors = self._text.codec()
        return io.TextIOWrapper(
            file,
            encoding,
            errors,
            line_buffering=bufsize == 1,
            write_through=mode == "wb",
        )

    @property
    def report(self) -> Report | None:
        """The report of the run once it has ended. Raises what went wrong on our side."""
        if self._life.ended.is_set() and self._life.error is not None:
            raise self._life.error
        return self._life.report if self._life.ended.is_set() else None

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the number of the signal, or None while it runs."""
        report = self.report
        return None if report is None else returncode_of(report)

    def poll(self) -> int | None:
        """The same as `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutExpired when it goes on after `timeout` seconds."""
        if not self._life.ended.wait(timeout):
            raise self._still_running(timeout)
        code = self.returncode
        return 0 if code is None else code

    def _still_running(self, timeout: float | None, **output: Any) -> TimeoutExpired:
        from sandbox.api.failed import TimeoutExpired

        what = f"{self.args[0]!r} goes on after {timeout} seconds"
        return TimeoutExpired(what, self.args, timeout or 0.0, **output)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Feed `input`, read both outputs to their end, wait; return (stdout, stderr).

        Raises TimeoutExpired, with what was read so far, when it goes on after `timeout`
        seconds; it can be called again then and loses nothing.
        """
        if self._exchange is None:
            if input is not None and self.stdin is None:
                raise UsageError("input needs stdin=PIPE")
            data = b"" if input is None else self._text.encode(input)
            self._exchange = Exchange(self.stdin, self.stdout, self.stderr, data)
        elif input is not None:
            raise UsageError("input was already given")
        end = None if timeout is None else time.monotonic() + timeout
        done = self._exchange.go_on(end)
        out, err = (self._text.decode(got) for got in self._exchange.got)
        left = None if end is None else max(0.0, end - time.monotonic())
        if not done or not self._life.ended.wait(left):
            raise self._still_running(timeout, stdout=out, stderr=err)
        self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""
        if not 0 < number <= 64:
            raise UsageError(f"{number} is not the number of a signal")
        self._life.orders.post(int(number))

    def terminate(self) -> None:
        """Ask the command to end (SIGTERM)."""
        self.send_signal(15)

    def kill(self) -> None:
        """Kill everything in the sandbox."""
        self._life.orders.kill()

    def close(self) -> None:
        """Kill what still runs, wait for its end, close our ends of the pipes."""
        self._end()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """As subprocess has it: close the input and wait; after an exception kill first."""
        if kind is None:
            if self.stdin is not None:
                try:
                    self.stdin.close()
                except BrokenPipeError:
                    pass
            self._life.ended.wait()
        self.close()

    def __repr__(self) -> str:
        state = "running" if not self._life.ended.is_set() else "ended"
        return f"<Popen: {state} args: {list(self.args)!r}>"
