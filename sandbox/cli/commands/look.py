"""The words that look at sandboxes: inspect, top, stats, port."""

from __future__ import annotations

import sys
import time

from sandbox.cli import quantities, render
from sandbox.errors import StateError, UsageError
from sandbox.runtime.registry import everyone, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.cli.parse import Parsed
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.usage import Usage

_SAMPLE_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def inspect(parsed: Parsed) -> int:
    """Show everything that is known of each SANDBOX.

    That is how it was made and what protects it, its state and history, and for one that has
    ended the report as of `sbx run --report`. Times are seconds since 1970.
    """
    from sandbox.runtime.inspect import details

    found = []
    for word in parsed.words:
        folder = find(word)
        found.append(details(folder))
        folder.close()
    if parsed.text("--format") != "text":
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
        elif key == "network_account" and isinstance(value, dict):
            from sandbox.runtime.reached import account_rows

            rows += account_rows(value)
        elif isinstance(value, list):
            rows.append((key, ", ".join(map(_text, value)) or "-"))
        else:
            rows.append((key, "-" if value in (None, "") else _text(value)))
    report = one["report"]
    if isinstance(report, dict):
        for key in ("reason", "wall_s", "cpu_user_s", "cpu_system_s", "peak_rss_bytes"):
            rows.append((key, str(report[key])))
    return rows


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key}: {_text(inner)}' for key, inner in value.items())})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def port(parsed: Parsed) -> int:
    """List the ports of the host that lead into SANDBOX, as PORT/PROTOCOL -> ADDRESS:PORT.

    With PORT, of tcp if nothing else is said, the ADDRESS:PORT alone that lead to that one.
    """
    from sandbox.runtime.inspect import published

    word, *asked = parsed.words
    if len(asked) > 1:
        raise UsageError("one PORT at a time", hint="without one all are shown")
    folder = find(word)
    try:
        found = published(folder)
    finally:
        folder.close()
    if asked:
        return _show_port(folder.name, found, asked[0])
    if not found:
        render.note(f"no port of {folder.name} is published; see sbx run --publish")
    for row in found:
        render.show(f"{row['inner']}/{row['protocol']} -> {_outside(row)}")
    return 0


def _outside(row: dict[str, object]) -> str:
    address = f"[{row['address']}]" if ":" in str(row["address"]) else row["address"]
    return f"{address}:{row['port']}"


def _show_port(name: str, found: list[dict[str, object]], asked: str) -> int:
    place = asked if "/" in asked else f"{asked}/tcp"
    rows = [row for row in found if f"{row['inner']}/{row['protocol']}" == place]
    if not rows:
        raise StateError(f"{place} of {name} is not published", hint=f"see: sbx port {name}")
    render.show(*map(_outside, rows))
    return 0


# ---- processes -------------------------------------------------------------------------------


def top(parsed: Parsed) -> int:
    """List the processes of SANDBOX, as they are seen from outside.

    PID is the number on the host, INSIDE and USER are those inside.
    """
    from sandbox.runtime.usage import processes

    folder = find(parsed.words[0])
    try:
        found = processes(folder)
        if not found:
            raise not_running(folder)
    finally:
        folder.close()
    if parsed.text("--format") == "json":
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


def stats(parsed: Parsed) -> int:
    """Show what each SANDBOX uses, or all that run.

    Memory is what its control group counts, with the limit that there is. Without a group it is
    summed up over the processes that live: of PSS, which divides shared pages among those who
    share them, or where the kernel does not tell it of RSS, which counts them each time; what
    lies in a tmpfs is not part of it then. 100 % of CPU is one processor. What cannot be known
    is "-".
    """
    from sandbox.runtime.usage import usage

    named = [find(word) for word in parsed.words]
    for folder in named:
        if not folder.lives():
            raise not_running(folder)
    no_stream = parsed.has("--no-stream")
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
            _show_stats(rows, parsed.text("--format"), once=no_stream)
        if (named and not now) or (no_stream and not first):
            return 0
        before, first = now, False
        time.sleep(_SAMPLE_S)


def _stats_row(folder: Folder, before: Usage, now: Usage) -> dict[str, object]:
    fields = dict(now)
    fields.pop("at_s")
    return {
        "id": folder.id,
        "name": folder.name,
        "cpu_percent": round(now.cpu_percent(before), 2),
        **fields,
    }


def _show_stats(rows: list[dict[str, object]], form: str | None, *, once: bool) -> None:
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
                f"{_bytes(row['memory_bytes'])} {_of(row['memory_limit_bytes'], row)}",
                str(row["pids"]),
                f"{_bytes(row['received_bytes'])} / {_bytes(row['sent_bytes'])}",
                f"{_bytes(row['read_bytes'])} / {_bytes(row['written_bytes'])}",
            )
        )
    clear = _CLEAR if not once and sys.stdout and sys.stdout.isatty() else ""
    render.show_text(clear + "\n".join(render.table(cells)))


def _of(limit: object, row: dict[str, object]) -> str:
    return f"/ {_bytes(limit)}" if limit is not None else str(row["memory_kind"])


def _bytes(value: object) -> str:
    return quantities.format_bytes(value if isinstance(value, int) else None)
