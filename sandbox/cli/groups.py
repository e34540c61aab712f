"""Groups of commands: near names for a wrong one, help for none."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from sandbox.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def usage_hint(program: str, wrong: str = "", known: Iterable[str] = ()) -> str:
    """Return the hint of a usage error: the nearest known name, if any, and where help is."""
    near = get_close_matches(wrong, known, n=1)
    help_hint = f"try '{program} --help'"
    return f"did you mean {near[0]}? {help_hint}" if near else help_hint


class CommandGroup(click.Group):
    """A group that shows its help when no command is named."""

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, invoke_without_command=True, callback=_show_help, **more)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known:
            hint = usage_hint(ctx.command_path, args[0], known)
            raise UsageError(f'no such command "{args[0]}"', hint=hint)
        return super().resolve_command(ctx, args)


@click.pass_context
def _show_help(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
