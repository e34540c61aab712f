"""The words that act on sandboxes: wait, kill, stop, pause, unpause, rm, prune, rename."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandbox.cli import completion, quantities, render, values
from sandbox.cli.groups import Command, SandboxName, debug, several_known, several_living
from sandbox.errors import SbxError, StateError, UsageError
from sandbox.policy.units import parse_duration, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sandbox.runtime.registry import Folder

_SIGNALS = ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT", "WINCH")


class _Several:
    """Sandboxes by the words that name them. What goes wrong with one is shown, and sets `code`."""

    def __init__(self, words: Sequence[str]) -> None:
        from sandbox.runtime.registry import find

        self.code = 0
        self.found: list[tuple[str, Folder]] = []
        for word in words:
            try:
                self.found.append((word, find(word)))
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


@click.command("wait", cls=Command)
@several_known
@debug
def wait(sandboxes: tuple[str, ...]) -> int:
    """Wait until each SANDBOX has ended, and print its exit code."""
    from sandbox.runtime import control

    several = _Several(sandboxes)
    for _, folder in several.found:
        life = control.wait(folder)
        folder.close()
        render.show(str(life.exit_code) if life else "")
    return several.code


@click.command("kill", cls=Command)
@click.option(
    "-s",
    "--signal",
    "word",
    default="KILL",
    type=completion.Text("SIGNAL", _SIGNALS),
    metavar="SIGNAL",
    help="A name or a number; KILL when none is given.",
)
@several_living
@debug
def kill(sandboxes: tuple[str, ...], word: str) -> int:
    """Send a signal to the command of each SANDBOX.

    KILL is for all its processes: they are dead when this returns.
    """
    from sandbox.runtime import control

    number = signal_number(word)
    return _Several(sandboxes).do(lambda folder: control.send_signal(folder, number))


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


@click.command("stop", cls=Command)
@click.option(
    "-t",
    "--time",
    "--timeout",
    "patience",
    default="10",
    metavar="SECONDS",
    help="How long a command may take to end by itself; 10 when nothing is given.",
)
@several_known
@debug
def stop(sandboxes: tuple[str, ...], patience: str) -> int:
    """End each SANDBOX: SIGTERM to its command, SIGKILL later to all that is left.

    Everything in it is dead when this returns. Several are asked at the same time. One that
    has ended already stays as it is.
    """
    from sandbox.runtime import control

    seconds = _seconds(patience)
    several = _Several(sandboxes)
    control.stop([folder for _, folder in several.found], seconds)
    return several.do(lambda _: None)


def _seconds(text: str) -> float:
    try:
        return parse_duration(f"{text}s" if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise UsageError(f"--time: {error}") from error


@click.command("pause", cls=Command)
@several_living
@debug
def pause(sandboxes: tuple[str, ...]) -> int:
    """Stop all processes of each SANDBOX with SIGSTOP, until `sbx unpause`.

    They can notice it: a parent is told that its child has stopped, and calls that were waiting
    may be interrupted. Time limits and connections from outside go on meanwhile.
    """
    from sandbox.runtime import control

    return _Several(sandboxes).do(control.pause)


@click.command("unpause", cls=Command)
@several_living
@debug
def unpause(sandboxes: tuple[str, ...]) -> int:
    """Let all processes of each SANDBOX go on with SIGCONT.

    That goes for those too which had stopped by themselves before.
    """
    from sandbox.runtime import control

    return _Several(sandboxes).do(control.unpause)


@click.command("rm", cls=Command)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Kill those that run; a SANDBOX that is not there is no error.",
)
@several_known
@debug
def rm(sandboxes: tuple[str, ...], force: bool) -> int:
    """Remove what is kept of each SANDBOX that has ended: description, records, output."""
    from sandbox.runtime import control
    from sandbox.runtime.registry import find

    def known(word: str) -> bool:
        try:
            find(word).close()
        except StateError as error:
            if not error.what.startswith("no sandbox"):
                raise
            return False
        return True

    words = [word for word in sandboxes if not force or known(word)]
    code = _Several(words).do(lambda folder: control.remove(folder, force=force))
    control.remove_workspaces()
    return code


@click.command("prune", cls=Command)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@debug
def prune(force: bool) -> int:
    """Remove all sandboxes that have ended, and copies of root file systems left by killed runs.

    Prints what was removed. On a terminal it asks first.
    """
    from sandbox.runtime import control
    from sandbox.runtime.registry import everyone, sweep

    dead = [folder for folder in everyone() if not folder.lives()]
    if not force and sys.stdin and sys.stdin.isatty() and not _agreed(dead):
        return 1
    freed = 0
    for folder in dead:
        size = _size(folder)
        if folder.remove():
            render.show(f"{folder.id} {folder.name}")
            freed += size
        folder.close()
    removed = [*sweep(), *control.remove_workspaces()]
    render.show(*removed, f"freed: {quantities.format_bytes(freed)} of records and output")
    return 0


def _agreed(dead: Iterable[Folder]) -> bool:
    names = ", ".join(folder.name for folder in dead) or "none"
    render.note(f"removes what is kept of sandboxes that have ended: {names}")
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


@click.command("rename", cls=Command)
@click.argument("sandbox", type=SandboxName(dead=True), metavar="SANDBOX")
@click.argument("name", metavar="NAME")
@debug
def rename(sandbox: str, name: str) -> int:
    """Give SANDBOX another name."""
    from sandbox.runtime.registry import find
    from sandbox.runtime.registry import rename as give_name

    try:
        values.sandbox_name(name)
    except ValueError as error:
        raise UsageError(f"NAME: {error}") from error
    folder = find(sandbox)
    try:
        give_name(folder, name)
    finally:
        folder.close()
    return 0
