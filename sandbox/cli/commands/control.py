"""The words that act on sandboxes: wait, kill, stop, pause, unpause, rm, prune, rename."""

from __future__ import annotations

import sys

from sandbox.cli import quantities, render, values
from sandbox.errors import SbxError, StateError, UsageError
from sandbox.policy.units import parse_duration, quote
from sandbox.runtime import control
from sandbox.runtime.registry import everyone, find, sweep
from sandbox.runtime.registry import rename as give_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sandbox.cli.parse import Parsed
    from sandbox.runtime.registry import Folder


class _Several:
    """Sandboxes by the words that name them. What goes wrong with one is shown, and sets `code`."""

    def __init__(self, words: Sequence[str], *, damaged: bool = False) -> None:
        self.code = 0
        self.found: list[tuple[str, Folder]] = []
        for word in words:
            try:
                self.found.append((word, find(word, damaged=damaged)))
            except SbxError as error:
                self._fail(error)

    def _fail(self, error: SbxError) -> None:
        render.show_error(error)
        self.code = error.exit_code

    def do(self, work: Callable[[Folder], object]) -> int:
        """Do something to each and print its word; return the exit code."""
        for word, folder in self.found:
            try:
                work(folder)
                render.show(word)
            except SbxError as error:
                self._fail(error)
            finally:
                folder.close()
        return self.code


def wait(parsed: Parsed) -> int:
    """Wait until each SANDBOX has ended, and print its exit code."""
    several = _Several(parsed.words)
    for _, folder in several.found:
        life = control.wait(folder)
        folder.close()
        render.show(str(life.exit_code) if life else "")
    return several.code


def kill(parsed: Parsed) -> int:
    """Send a signal to the command of each SANDBOX.

    KILL is for all its processes: they are dead when this returns.
    """
    number = signal_number(parsed.text_or("--signal", "KILL"))
    return _Several(parsed.words).do(lambda folder: control.send_signal(folder, number))


def signal_number(word: str) -> int:
    """The number of a signal's name or number. Raises UsageError."""
    import signal

    if word.isascii() and word.isdigit() and 1 <= int(word[:4]) <= 64:
        return int(word)
    found = signal.Signals.__members__.get(f"SIG{word.upper().removeprefix('SIG')}")
    if found is None:
        hint = "use a name such as TERM, or a number from 1 to 64"
        raise UsageError(f"no such signal: {quote(word)}", hint=hint)
    return int(found)


def stop(parsed: Parsed) -> int:
    """End each SANDBOX: SIGTERM to its command, SIGKILL later to all that is left.

    Everything in it is dead when this returns. Several are asked at the same time. One that
    has ended already stays as it is.
    """
    patience = parsed.text("--time")
    seconds = control.STOP_S if patience is None else _seconds(patience)
    several = _Several(parsed.words)
    control.stop([folder for _, folder in several.found], seconds)
    return several.do(lambda _: None)


def _seconds(text: str) -> float:
    try:
        return parse_duration(f"{text}s" if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise UsageError(f"--time: {error}") from error


def pause(parsed: Parsed) -> int:
    """Stop all processes of each SANDBOX, until `sbx unpause`.

    Where it has a control group that is frozen, and they notice nothing. Without one they get
    SIGSTOP: a parent is told that its child has stopped, and calls that were waiting may be
    interrupted. Time limits and connections from outside go on meanwhile.
    """
    return _Several(parsed.words).do(control.pause)


def unpause(parsed: Parsed) -> int:
    """Let all processes of each SANDBOX go on.

    Without a control group SIGCONT does it, also for those which had stopped by themselves.
    """
    return _Several(parsed.words).do(control.unpause)


def rm(parsed: Parsed) -> int:
    """Remove what is kept of each SANDBOX that has ended: description, records, output."""

    def known(word: str) -> bool:
        try:
            find(word, damaged=True).close()
        except StateError as error:
            if not error.what.startswith("no sandbox"):
                raise
            return False
        return True

    force = parsed.has("--force")
    words = [word for word in parsed.words if not force or known(word)]
    code = _Several(words, damaged=force).do(lambda folder: control.remove(folder, force=force))
    control.remove_workspaces()
    return code


def prune(parsed: Parsed) -> int:
    """Remove all sandboxes that have ended, and copies of root file systems left by killed runs.

    Prints what was removed. On a terminal it asks first.
    """
    damaged: list[Folder] = []
    dead = [folder for folder in (*everyone(damaged), *damaged) if not folder.lives()]
    if not parsed.has("--force") and sys.stdin and sys.stdin.isatty() and not _agreed(dead):
        return 1
    freed = 0
    for folder in dead:
        size = _size(folder)
        if folder.remove():
            render.show(f"{folder.id} {folder.description.name}".rstrip())
            freed += size
        folder.close()
    removed = [*sweep(), *control.remove_workspaces()]
    render.show(*removed, f"freed: {quantities.format_bytes(freed)} of records and output")
    return 0


def _agreed(dead: Iterable[Folder]) -> bool:
    names = ", ".join(folder.name for folder in dead) or "none"
    render.note(f"removes what is kept of sandboxes that have ended: {names}")
    import click

    return click.confirm("go on?", err=True)


def _size(folder: Folder) -> int:
    import os

    total = 0
    for name in os.listdir(folder.fd):
        try:
            total += os.stat(name, dir_fd=folder.fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total


def rename(parsed: Parsed) -> int:
    """Give SANDBOX another name."""
    word, name = parsed.words
    try:
        values.sandbox_name(name)
    except ValueError as error:
        raise UsageError(f"NAME: {error}") from error
    folder = find(word)
    try:
        give_name(folder, name)
    finally:
        folder.close()
    return 0
