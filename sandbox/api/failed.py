"""The errors that are those of subprocess as well. Apart from the others, and imported when one
is raised or caught, for subprocess costs more than a sandbox."""

from __future__ import annotations

import subprocess
from subprocess import CalledProcessError

from sandbox.errors import EXIT_TIMEOUT, SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.api.call import Result


class CommandFailed(SbxError, CalledProcessError):
    """The command ran and did not succeed; `result` is the whole Result.

    Also a subprocess.CalledProcessError: `returncode`, `cmd`, `output`, `stdout`, `stderr`.
    """

    def __init__(self, what: str, *, result: Result) -> None:
        # Not SbxError.__init__: the next one after it takes other arguments.
        CalledProcessError.__init__(
            self, result.returncode, result.args, result.stdout, result.stderr
        )
        self.args = (what,)
        self.what, self.cause, self.hint, self.problems = what, "", "", ()
        self.result = result
        self.exit_code = result.report.exit_code

    __str__ = SbxError.__str__

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.what, self.result)


def _again(what: str, result: Result) -> CommandFailed:
    return CommandFailed(what, result=result)


class TimeoutExpired(SbxError, subprocess.TimeoutExpired, TimeoutError):
    """The time limit ended the sandbox: `result` holds what was captured until then.

    Or a wait for a command that goes on was over: then `result` is None, and `stdout`, `stderr`
    what `communicate` had read. Also a subprocess.TimeoutExpired: `cmd`, `timeout` in seconds (of
    the time limit: how long it ran), `output`, `stdout`, `stderr`.
    """

    exit_code = EXIT_TIMEOUT

    def __init__(
        self,
        what: str,
        cmd: Any,
        timeout: float,
        *,
        result: Result | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ) -> None:
        if result is not None:
            stdout, stderr = result.stdout, result.stderr
        # Not SbxError.__init__: the next one after it takes other arguments.
        subprocess.TimeoutExpired.__init__(self, cmd, timeout, stdout, stderr)
        self.args = (what,)
        self.what, self.cause, self.hint, self.problems = what, "", "", ()
        self.result = result

    __str__ = SbxError.__str__

    def __reduce__(self) -> tuple[object, ...]:
        found = (self.what, self.cmd, self.timeout, self.result, self.stdout, self.stderr)
        return _expired_again, found


def _expired_again(
    what: str, cmd: Any, timeout: float, result: Result | None, stdout: Any, stderr: Any
) -> TimeoutExpired:
    return TimeoutExpired(what, cmd, timeout, result=result, stdout=stdout, stderr=stderr)
