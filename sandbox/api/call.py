"""One command that is waited for: from the caller's arguments to a Result or an exception.

The same for `run`, `arun` and the commands of a kept sandbox, which differ in who waits.
"""

from __future__ import annotations

from sandbox.api.wiring import (
    STDOUT,
    Listener,
    Text,
    check_outputs,
    input_of,
    output_of,
)
from sandbox.errors import UsageError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from sandbox.api.wiring import Listen, Stream
    from sandbox.api.wishes import Wishes
    from sandbox.runtime.report import Report
    from sandbox.runtime.streams import Output

    class Calling(TypedDict, total=False):
        """How a command is connected; see Call."""

        input: bytes | str | None
        capture_output: bool
        text: bool
        encoding: str | None
        errors: str | None
        check: bool
        stdin: Stream
        stdout: Stream
        stderr: Stream
        on_stdout: Listen
        on_stderr: Listen

    class RunKeywords(Calling, Wishes, total=False):
        """All that `run` takes beside the command, its root and its policy."""


class Result(Record):
    """What came of a command: as subprocess.CompletedProcess, with the report of the run.

    `returncode` is the exit code, or minus the number of the signal that ended the command; 125
    for a success whose output could not be written.
    `stdout`, `stderr` are bytes (str in text mode) where captured, else None.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: Any
    stderr: Any
    report: Report

    def check_returncode(self) -> None:
        """Raise CommandFailed unless the command succeeded."""
        if self.returncode:
            from sandbox.api.failed import CommandFailed

            end = "exit code" if self.returncode > 0 else "signal"
            what = f"{self.args[0]!r} failed with {end} {abs(self.returncode)}"
            raise CommandFailed(what, result=self)


def returncode_of(report: Report) -> int:
    """As subprocess has it: minus the number of a signal."""
    if report.code is not None:
        return report.code or (report.exit_code if report.reason == "output-lost" else 0)
    return -(report.signal or report.exit_code - 128)


class Call:
    """A command with its connections: `stdin`, `stdout`, `stderr`, `merge_stderr` are runtime's.

    Keywords are those of subprocess.run; `on_stdout` and `on_stderr` are called with each piece
    of output as it comes (with `capture_output` it is captured as well), and an exception of
    theirs ends the sandbox and comes out of the call.
    """

    def __init__(
        self,
        words: tuple[str, ...],
        *,
        input: bytes | str | None = None,
        capture_output: bool = False,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        on_stdout: Listen = None,
        on_stderr: Listen = None,
    ) -> None:
        self.words = words
        self._check = check
        self._text = Text(bool(text or encoding or errors), encoding, errors)
        stdout, stderr = check_outputs(stdout, stderr, capture=capture_output)
        self.merge_stderr = stderr == STDOUT
        if self.merge_stderr and on_stderr:
            raise UsageError("on_stderr hears nothing with stderr=STDOUT")
        self.stdin = input_of(stdin, input, self._text)
        self.stdout = output_of(stdout, 1, on_stdout, self._text)
        self.stderr: Output = None
        if not self.merge_stderr:
            self.stderr = output_of(stderr, 2, on_stderr, self._text)

    def _captured(self, target: Output) -> Any:
        kept = target.kept if isinstance(target, Listener) else target
        return self._text.decode(kept) if isinstance(kept, bytearray) else None

    def finish(self, report: Report) -> Result:
        """The Result. Raises TimeoutExpired, and CommandFailed where asked to check."""
        for target in (self.stdout, self.stderr):
            if isinstance(target, Listener):
                target(b"")
        result = Result(
            self.words,
            returncode_of(report),
            self._captured(self.stdout),
            self._captured(self.stderr),
            report,
        )
        if report.reason == "timeout":
            seconds = round(report.wall_s, 1)
            what = f"{self.words[0]!r} was ended after {seconds} seconds"
            from sandbox.api.failed import TimeoutExpired

            raise TimeoutExpired(what, self.words, seconds, result=result)
        if self._check:
            result.check_returncode()
        return result


_CALLING = frozenset(Call.__init__.__kwdefaults__ or ())


def split_keywords(keywords: RunKeywords) -> tuple[Calling, Wishes]:
    """(how it is connected, what is wished of the sandbox)."""
    calling = {name: value for name, value in keywords.items() if name in _CALLING}
    wishes = {name: value for name, value in keywords.items() if name not in _CALLING}
    return calling, wishes  # type: ignore[return-value]
