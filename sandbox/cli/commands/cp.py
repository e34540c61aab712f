"""`sbx cp`: files and trees into and out of a living sandbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from sandbox.cli import render
from sandbox.cli.groups import Command
from sandbox.errors import UsageError

if TYPE_CHECKING:
    from sandbox.runtime.files import Files


@click.command("cp", cls=Command, options_metavar="[OPTIONS]")
@click.option("-a", "--archive", is_flag=True, help="Keep the numbers of owners on the way in.")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what a link SRC stands for.")
@click.option(
    "--max-size", default="8G", show_default=True, metavar="SIZE", help="The most that is copied."
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
def command(source: str, destination: str, archive: bool, follow_link: bool, max_size: str) -> int:
    """Copy files between a running sandbox and the caller.

    One of SRC and DST is SANDBOX:PATH. The other one is a path, or - for a tar stream. A folder
    is copied into a folder that exists, else under the new name; SRC/. stands for its content.
    Nothing of the sandbox is run; special files and set-user-id bits stay behind.
    """
    from sandbox.policy.units import parse_size
    from sandbox.runtime.files import Bounds, Files
    from sandbox.runtime.registry import find

    left, right = _split(source), _split(destination)
    if (left is None) == (right is None):
        raise UsageError(
            "one of SRC and DST must be SANDBOX:PATH, the other a path of yours",
            hint="a path with a colon needs a slash before it: ./a:b",
        )
    try:
        bounds = Bounds(bytes=parse_size(max_size))
    except ValueError as error:
        raise UsageError(f"--max-size: {error}") from error
    name, path = left or right or ("", "")
    folder = find(name)
    try:
        with Files(folder, bounds) as files:
            if left:
                _out(files, path, destination, follow=follow_link)
            else:
                _in(files, source, path, follow=follow_link, archive=archive)
            for line in files.notes():
                render.warn(line)
    finally:
        folder.close()
    return 0


def _split(word: str) -> tuple[str, str] | None:
    """SANDBOX and PATH; None for a path of the caller's."""
    name, colon, path = word.partition(":")
    if not colon or not name or "/" in name or name.startswith("."):
        return None
    return name, path or "/"


def _out(files: Files, path: str, destination: str, *, follow: bool) -> None:
    if destination != "-":
        files.copy_out(path, destination, follow=follow)
        return
    if os.isatty(1):
        raise UsageError("a tar stream is not for a terminal", hint="redirect it: > FILE")
    files.pack(path, 1, follow=follow)


def _in(files: Files, source: str, path: str, *, follow: bool, archive: bool) -> None:
    if source == "-":
        files.unpack(0, path, keep_owners=archive)
    else:
        files.copy_in(source, path, follow=follow, keep_owners=archive)
