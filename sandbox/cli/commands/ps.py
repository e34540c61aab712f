"""`sbx ps`: the sandboxes of this user."""

from __future__ import annotations

import time

from sandbox.cli import render
from sandbox.runtime.inspect import summary
from sandbox.runtime.registry import everyone, sweep

_BARE = {ord(char): "x" for char in "_@%+=:,./-"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.parse import Parsed
    from sandbox.runtime.registry import Folder


def main(parsed: Parsed) -> int:
    """List the sandboxes that run."""
    sweep()
    rows: list[dict[str, object]] = []
    damaged: list[Folder] = []
    for folder in everyone(damaged):
        row = summary(folder)
        folder.close()
        if parsed.has("--all") or row["state"] not in ("exited", "dead"):
            rows.append(row)
    for folder in damaged:
        cure = "prune" if not folder.lives() else f"rm -f {folder.id}"
        cause = f"it is spoilt, or of another version; sbx {cure} removes it"
        render.warn(f"cannot read the state in {folder.path}", cause)
        folder.close()
    if parsed.text("--format") == "json":
        render.show_json(rows)
    elif parsed.has("--quiet"):
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


def _quoted(word: str) -> str:
    """As shlex.quote, which would import `re`."""
    plain = word.isascii() and word.translate(_BARE).isalnum()
    return word if plain else "'" + word.replace("'", "'\"'\"'") + "'"


def _line(row: dict[str, object]) -> str:
    argv = row["argv"]
    line = " ".join(map(_quoted, argv)) if isinstance(argv, list) else ""
    return line if len(line) <= 40 else f"{line[:39]}…"
