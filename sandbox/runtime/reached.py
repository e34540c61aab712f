"""A sandbox's account of its network in a few words, for people.

Names are chosen by programs inside: what is not printable in them comes out as escapes.
"""

from __future__ import annotations

from sandbox.policy.egress import show_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHOWN = 8


def account_rows(account: dict[str, Any]) -> list[tuple[str, str]]:
    """What was reached, who came in, what was refused and dropped, as (word, text); only what was.

    `account` is the `network_account` of a report.
    """
    denied = [f"{_place(row)}{_times(row)} ({row['rule']})" for row in account["denied"]]
    denied += [f"the name {row['name']}{_times(row)}" for row in account["refused_names"]]
    more = account["denied_others"] + account["refused_names_others"]
    dropped = [f"{count} for {limit}" for limit, count in account["dropped"].items()]
    lost = [f"was lost: {account['lost']}"] if account["lost"] else []
    found: tuple[tuple[str, list[str], int], ...] = (
        ("network", lost, 0),
        ("reached", _places(account["destinations"]), account["others"]["connections"]),
        ("served", _places(account["published"]), 0),
        ("denied", denied, more),
        ("dropped", dropped, 0),
    )
    return [(word, text) for word, texts, others in found if (text := _some(texts, others))]


def _places(rows: list[dict[str, Any]]) -> list[str]:
    return [_place(row) for row in rows]


def _place(row: dict[str, Any]) -> str:
    return show_place(row["address"], row["port"], row["protocol"], row.get("name", ""))


def _times(row: dict[str, Any]) -> str:
    return f" {row['count']} times" if row["count"] > 1 else ""


def _some(texts: list[str], others: int) -> str:
    """The first few, and how many more there were."""
    more = others + len(texts[_SHOWN:])
    text = ", ".join((*texts[:_SHOWN], *([f"{more} more"] if more else ())))
    return text if text.isprintable() else ascii(text)[1:-1]
