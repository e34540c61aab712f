"""`sbx events`: what happens to sandboxes, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandbox.cli import quantities, render
from sandbox.cli.commands.logs import since_ns
from sandbox.cli.groups import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.runtime.happenings import Happening


@click.command("events", cls=Command)
@click.option("--since", metavar="TIME", help="Begin with what happened then: 10m (ago), a date.")
@click.option(
    "-f/-F",
    "--follow/--no-follow",
    default=True,
    help="Whether to wait for more; without, and without --since, all that is known is shown.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    help="How it is shown.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def command(since: str | None, follow: bool, form: str) -> int:
    """Show what happens to sandboxes: create, start, die, kill, stop, pause, unpause, rename,
    destroy, and of further commands exec_start and exec_die.

    What happened earlier is known of sandboxes that are not removed, without new names. A run
    that is over at once may not be seen.
    """
    from sandbox.runtime.happenings import Watcher

    first_s = since_ns(since) / 1e9
    watcher = Watcher()
    try:
        found = watcher.look()
        if since is not None or not follow:
            _show_events((one for one in found if one.at_s >= first_s), form)
        while follow:
            watcher.wait()
            _show_events(watcher.look(), form)
    finally:
        watcher.close()
    return 0


def _show_events(found: Iterable[Happening], form: str) -> None:
    lines = [_json_line(one) if form == "json" else _event_line(one) for one in found]
    if lines:
        render.show(*lines)


def _json_line(one: Happening) -> str:
    from json import dumps

    fields = dict(one)
    fields.update(fields.pop("more"))
    return dumps(fields)


def _event_line(one: Happening) -> str:
    more = {"name": one.name, "rootfs": one.rootfs, **dict(one.more)}
    facts = ", ".join(f"{key}={value}" for key, value in more.items())
    return f"{quantities.format_time(round(one.at_s * 1e9))} {one.action} {one.id} ({facts})"
