"""`sbx version`."""

from __future__ import annotations

import os
import platform

import click

from sandbox.cli import render
from sandbox.cli.groups import Command

DISTRIBUTION = "sbx-runner"


def installed_version() -> str:
    """The version of the installed distribution, or "unknown" in a source tree."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def show_version(*, as_json: bool) -> None:
    """Print the version, as JSON with what it runs on."""
    version = installed_version()
    if as_json:
        kernel, machine = os.uname().release, os.uname().machine
        python = platform.python_version()
        render.show_json({"sbx": version, "python": python, "kernel": kernel, "machine": machine})
    else:
        render.show(f"sbx {version}")


@click.command("version", cls=Command, short_help="Show the version.")
@click.option("--json", "as_json", is_flag=True, help="Show it as JSON, with Python and kernel.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def command(as_json: bool) -> int:
    """Show the version of sbx."""
    show_version(as_json=as_json)
    return 0
