"""The error of `check=True`. Apart from the others, for subprocess costs more than a sandbox."""

from __future__ import annotations

from subprocess import CalledProcessError

from sandbox.errors import SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
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
