"""`sbx exec`: a further command in a living sandbox."""

from __future__ import annotations

from sandbox.cli import render, values
from sandbox.cli.parse import command_words
from sandbox.errors import UsageError
from sandbox.runtime.enter import Command, Connection, enter
from sandbox.runtime.registry import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.parse import Parsed
    from sandbox.runtime.registry import Folder

_ENDING_S = 1.0  # of a launcher whose sandbox has ended


def main(parsed: Parsed) -> int:
    """Run COMMAND in the running SANDBOX, under the same profile.

    Exit codes are those of `sbx run`. What COMMAND leaves running ends with the sandbox, and so
    does a COMMAND in the background, whose output goes nowhere.
    """
    leave = parsed.has("--detach")
    for name in ("--interactive", "--tty"):
        if leave and parsed.has(name):
            raise UsageError(
                f"{name}: cannot be used with --detach",
                cause="a command in the background is connected to nobody",
                hint="for a terminal to come back to, start a sandbox with: sbx run -dit",
            )
    command = Command(
        argv=command_words(parsed, "sbx exec", "SANDBOX"),
        env=_environment(parsed.texts("--env")),
        cwd=parsed.text_or("--workdir", ""),
        user=parsed.text("--user"),
        tty=parsed.has("--tty"),
        leave=leave,
    )
    folder = find(parsed.words[0])
    try:
        stdin = 0 if parsed.has("--interactive") else None
        outputs = (None, None) if leave else (1, 2)
        report = enter(folder, command, Connection(stdin, *outputs))
        if report.reason == "launcher-killed":
            render.warn(_unseen_end(folder))
    finally:
        folder.close()
    if report.reason == "policy-killed":
        render.warn("the command was killed for a system call that its policy forbids")
    return report.exit_code


def _unseen_end(folder: Folder) -> str:
    from sandbox.runtime.control import wait

    if wait(folder, _ENDING_S):
        return f"sandbox {folder.name} has ended, and the command with it"
    return "what looked after the command was killed; what that had started may go on"


def _environment(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for word in words:
        try:
            for _key, value in values.environment(word):
                found |= value
        except ValueError as error:
            raise UsageError(f"--env: {error}") from error
    return tuple(found.items())
