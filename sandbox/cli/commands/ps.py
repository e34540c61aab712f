"""`sbx ps`: the sandboxes of this user."""

from __future__ import annotations

import time

import click

from sandbox.cli import render
from sandbox.cli.groups import Command


@click.command("ps", cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Show those too that have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Show ids alone.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "json")),
    default="table",
    help="How it is shown.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def command(everything: bool, quiet: bool, form: str) -> int:
    """List the sandboxes that run."""
    from sandbox.runtime.inspect import summary
    from sandbox.runtime.registry import everyone, sweep

    sweep()
    rows: list[dict[str, object]] = []
    damaged: list[str] = []
    for folder in everyone(damaged):
        row = summary(folder)
        folder.close()
        if everything or row["state"] not in ("exited", "dead"):
            rows.append(row)
    for path in damaged:
        render.warn(f"cannot read the state in {path}", "it is spoilt, or of another version")
    if form == "json":
        render.show_json(rows)
    elif quiet:
        render.show(*(str(row["id"]) for row in rows))
    else:
        heads = ("ID", "NAME", "STATE", "STARTED", "POLICY", "COMMAND")
        cells = [
            (
                str(row["id"]),
                str(row["name"]),
                _state(row),
                _ago(row["started_s"]),
                str(row["policy"]),
                _line(row),
            )
            for row in rows
        ]
        render.show_text("\n".join(render.table([heads, *cells])))
    return 0


def _state(row: dict[str, object]) -> str:
    code = row["exit_code"]
    return f"{row['state']} ({code})" if code is not None else str(row["state"])


def _ago(at_s: object) -> str:
    if not isinstance(at_s, float) or not at_s:
        return "-"
    seconds = max(0, int(time.time() - at_s))
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"


def _line(row: dict[str, object]) -> str:
    import shlex

    argv = row["argv"]
    line = shlex.join(argv) if isinstance(argv, list) else ""
    return line if len(line) <= 40 else f"{line[:39]}…"
