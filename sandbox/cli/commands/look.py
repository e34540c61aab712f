"""The words that look at sandboxes: inspect, top, stats, port, events."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from sandbox.cli import quantities, render
from sandbox.cli.commands.logs import since_ns
from sandbox.cli.groups import (
    Command,
    SandboxName,
    debug,
    format_option,
    known,
    living,
    several_known,
)
from sandbox.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.runtime.happenings import Happening
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.usage import Usage

_SAMPLE_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


@click.command("inspect", cls=Command)
@format_option("json", "text")
@several_known
@debug
def inspect(sandboxes: tuple[str, ...], form: str) -> int:
    """Show everything that is known of each SANDBOX.

    That is how it was made and what protects it, its state and history, and for one that has
    ended the report as of `sbx run --report`. Times are seconds since 1970.
    """
    from sandbox.runtime.inspect import details
    from sandbox.runtime.registry import find

    found = []
    for word in sandboxes:
        folder = find(word)
        found.append(details(folder))
        folder.close()
    if form == "json":
        render.show_json(found)
    else:
        for one in found:
            render.show_text("\n".join(render.table(_text_rows(one), 40)))
    return 0


def _text_rows(one: dict[str, object]) -> list[tuple[str, str]]:
    rows = []
    for key, value in one.items():
        if key in {"history", "report", "schema"}:
            continue
        if key.endswith("_s") and isinstance(value, float) and key not in {"timeout_s", "grace_s"}:
            shown = quantities.format_time(round(value * 1e9)) if value else "-"
            rows.append((key.removesuffix("_s"), shown))
        elif isinstance(value, list):
            rows.append((key, ", ".join(map(str, value)) or "-"))
        else:
            rows.append((key, "-" if value in (None, "") else str(value)))
    report = one["report"]
    if isinstance(report, dict):
        for key in ("reason", "wall_s", "cpu_user_s", "cpu_system_s", "peak_rss_bytes"):
            rows.append((key, str(report[key])))
    return rows


@click.command("port", cls=Command)
@known
@debug
def port(sandbox: str) -> int:
    """List the ports of SANDBOX that the host has published. In this version there are none."""
    from sandbox.runtime.registry import find

    folder = find(sandbox)
    folder.close()
    render.note(f"no port of {folder.name} is published: this version cannot publish any")
    return 0


# ---- processes -------------------------------------------------------------------------------


@click.command("top", cls=Command)
@format_option("table", "json")
@living
@debug
def top(sandbox: str, form: str) -> int:
    """List the processes of SANDBOX, as they are seen from outside.

    PID is the number on the host, INSIDE and USER are those inside.
    """
    from sandbox.runtime.registry import find
    from sandbox.runtime.usage import processes

    folder = find(sandbox)
    try:
        found = processes(folder)
        if not found:
            raise not_running(folder)
    finally:
        folder.close()
    if form == "json":
        render.show_json([{**dict(one), "argv": list(one.argv)} for one in found])
        return 0
    rows = [("PID", "INSIDE", "USER", "STATE", "CPU", "MEMORY", "COMMAND")]
    for one in found:
        numbers = (_or_dash(one.pid), _or_dash(one.inner_pid), _or_dash(one.user))
        used = (f"{one.cpu_s:.2f} s", quantities.format_bytes(one.rss_bytes))
        rows.append((*numbers, one.state, *used, " ".join(one.argv)))
    render.show_text("\n".join(render.table(rows)))
    return 0


def not_running(folder: Folder) -> StateError:
    """The error for a sandbox that has no processes."""
    return StateError(
        f"sandbox {folder.name} is not running",
        hint=f"see how it ended with: sbx inspect {folder.id}",
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


# ---- what is used ----------------------------------------------------------------------------


@click.command("stats", cls=Command)
@click.option("--no-stream", is_flag=True, help="Show it once instead of every second.")
@format_option("table", "json")
@click.argument("sandboxes", nargs=-1, type=SandboxName(dead=False), metavar="[SANDBOX]...")
@debug
def stats(sandboxes: tuple[str, ...], no_stream: bool, form: str) -> int:
    """Show what each SANDBOX uses, or all that run: summed up over the processes that live.

    Memory is the sum of PSS, which divides shared pages among those who share them, or where the
    kernel does not tell it of RSS, which counts them each time; what lies in a tmpfs is not part
    of it. 100 % of CPU is one processor. What cannot be known is "-".
    """
    from sandbox.runtime.registry import everyone, find
    from sandbox.runtime.usage import usage

    named = [find(word) for word in sandboxes]
    for folder in named:
        if not folder.lives():
            raise not_running(folder)
    before: dict[str, Usage] = {}
    first = True
    while True:
        folders = named or list(everyone())
        now = {folder.id: found for folder in folders if (found := usage(folder))}
        rows = [
            _stats_row(folder, before[folder.id], now[folder.id])
            for folder in folders
            if folder.id in now and folder.id in before
        ]
        if not named:
            for folder in folders:
                folder.close()
        if not first:
            _show_stats(rows, form, once=no_stream)
        if (named and not now) or (no_stream and not first):
            return 0
        before, first = now, False
        time.sleep(_SAMPLE_S)


def _stats_row(folder: Folder, before: Usage, now: Usage) -> dict[str, object]:
    from sandbox.runtime.usage import cpu_percent

    fields = dict(now)
    fields.pop("at_s")
    return {
        "id": folder.id,
        "name": folder.name,
        "cpu_percent": round(cpu_percent(before, now), 2),
        **fields,
    }


def _show_stats(rows: list[dict[str, object]], form: str, *, once: bool) -> None:
    if form == "json":
        if once:
            render.show_json(rows)
        else:
            from json import dumps

            render.show_text(dumps(rows))
        return
    cells = [("ID", "NAME", "CPU", "MEMORY", "PIDS", "NET I/O", "BLOCK I/O")]
    for row in rows:
        cells.append(
            (
                str(row["id"]),
                str(row["name"]),
                f"{row['cpu_percent']:.2f} %",
                f"{_bytes(row['memory_bytes'])} {row['memory_kind']}",
                str(row["pids"]),
                f"{_bytes(row['received_bytes'])} / {_bytes(row['sent_bytes'])}",
                f"{_bytes(row['read_bytes'])} / {_bytes(row['written_bytes'])}",
            )
        )
    clear = _CLEAR if not once and sys.stdout and sys.stdout.isatty() else ""
    render.show_text(clear + "\n".join(render.table(cells)))


def _bytes(value: object) -> str:
    return quantities.format_bytes(value if isinstance(value, int) else None)


# ---- events ----------------------------------------------------------------------------------


@click.command("events", cls=Command)
@click.option("--since", metavar="TIME", help="Begin with what happened then: 10m (ago), a date.")
@click.option(
    "-f/-F",
    "--follow/--no-follow",
    default=True,
    help="Whether to wait for more; without, and without --since, all that is known is shown.",
)
@format_option("text", "json")
@debug
def events(since: str | None, follow: bool, form: str) -> int:
    """Show what happens to sandboxes: create, start, die, kill, stop, pause, unpause, rename,
    destroy.

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
