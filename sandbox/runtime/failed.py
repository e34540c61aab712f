"""The error of `check=True`. Apart from the others, for subprocess costs more than a sandbox."""

from __future__ import annotations

from subprocess import CalledProcessError

from sandbox.errors import SbxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api import Result


class CommandFailed(SbxError, CalledProcessError):
    """The command ran and did not succeed; `result` is the whole Result.

    Also a subprocess.CalledProcessError: `returncode`, `cmd`, `output`, `stdout`, `stderr`.
    """

    def __init__(self, what: str, *, result: Result) -> None:
        SbxError.__init__(self, what)
        self.result = result
        self.returncode = result.returncode
        self.cmd = result.args
        self.output = result.stdout
        self.stderr = result.stderr
        self.exit_code = result.report.exit_code

    __str__ = SbxError.__str__

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.what, self.result)


def _again(what: str, result: Result) -> CommandFailed:
    return CommandFailed(what, result=result)
