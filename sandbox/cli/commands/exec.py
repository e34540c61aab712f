"""`sbx exec`: a further command in a living sandbox."""

from __future__ import annotations

import click

from sandbox.cli import render, values
from sandbox.cli.groups import Command, living
from sandbox.errors import UsageError


@click.command(
    "exec",
    cls=Command,
    options_metavar="[OPTIONS]",
    context_settings={"allow_interspersed_args": False},
)
@click.option("-i", "--interactive", is_flag=True, help="Connect the caller's standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal of the sandbox's own.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option("-w", "--workdir", metavar="DIR", help="The current folder inside.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="The user inside.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
@living
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG]...")
def command(
    sandbox: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
) -> int:
    """Run COMMAND in the running SANDBOX, under the same profile.

    Exit codes are those of `sbx run`. What COMMAND leaves running ends with the sandbox.
    """
    from sandbox.runtime.enter import Command as Entered
    from sandbox.runtime.enter import Connection, enter
    from sandbox.runtime.registry import find

    entered = Entered(
        argv=command,
        env=_environment(env),
        cwd=workdir or "",
        user=user,
        tty=tty,
    )
    folder = find(sandbox)
    try:
        report = enter(folder, entered, Connection(stdin=0 if interactive else None))
    finally:
        folder.close()
    if report.reason == "policy-killed":
        render.warn("the command was killed for a system call that its policy forbids")
    return report.exit_code


def _environment(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for word in words:
        try:
            for _key, value in values.environment(word):
                found |= value
        except ValueError as error:
            raise UsageError(f"--env: {error}") from error
    return tuple(found.items())
