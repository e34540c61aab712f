"""Groups of commands: near names for a wrong one, help for none."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from sandbox.cli import render
from sandbox.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def usage_hint(program: str, wrong: str = "", known: Iterable[str] = ()) -> str:
    """Return the hint of a usage error: the nearest known name, if any, and where help is."""
    return " ".join(filter(None, (near_name(wrong, known), f"try '{program} --help'")))


def near_name(wrong: str, known: Iterable[str]) -> str:
    """Return "did you mean NAME?" with the nearest known name, "" when none is near."""
    bare = {name.lstrip("-"): name for name in known}
    near = get_close_matches(wrong.lstrip("-"), bare, n=1)
    return f"did you mean {bare[near[0]]}?" if near else ""


def _show_help(ctx: click.Context, _param: object = None, wanted: bool = True) -> None:
    if wanted and not ctx.resilient_parsing:
        render.show_text(ctx.get_help())
        ctx.exit()


class _OwnHelp(click.Command):
    """Prints help where everything is printed: a full disk must not end in a traceback."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


class Command(_OwnHelp):
    """One command."""


class CommandGroup(_OwnHelp, click.Group):
    """A group that shows its help when no command is named."""

    command_class = Command

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, invoke_without_command=True, callback=_show_group, **more)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args[0] not in known:
            from sandbox.cli.foreign import COMMANDS

            hint = "" if ctx.parent else COMMANDS.get(args[0], "")
            hint = hint or usage_hint(ctx.command_path, args[0], known)
            raise UsageError(f'no such command "{args[0]}"', hint=hint)
        return super().resolve_command(ctx, args)


@click.pass_context
def _show_group(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        _show_help(ctx)
