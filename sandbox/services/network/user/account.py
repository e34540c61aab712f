"""What a sandbox's network did: counters for each destination, and what was not let through.

Every table is bounded: what comes when one is full is counted in its row of "others", so a
sandbox cannot make its report long. Addresses are bytes (4 or 16, network order) until `as_dict`.
"""

from __future__ import annotations

from sandbox.policy.egress import show_address, show_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ROWS = 256
NAME_MAX = 253


class Destination:
    """Counters of one (protocol, address, port): whoever moves bytes adds to them in place.

    `sent` and `received` are payload bytes, as the sandbox sees them.
    """

    __slots__ = ("connections", "failed", "name", "received", "sent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections = 0
        self.failed = 0
        self.sent = 0
        self.received = 0

    def as_dict(self) -> dict[str, Any]:
        """The counters, for JSON."""
        return {
            "connections": self.connections,
            "failed": self.failed,
            "sent_bytes": self.sent,
            "received_bytes": self.received,
        }


class Account:
    """The tables. `tell` is called with a line for each denial that is the first of its kind."""

    def __init__(self, rows: int = ROWS) -> None:
        self._rows = rows
        self._destinations: dict[tuple[str, bytes, int], Destination] = {}
        self._published: dict[tuple[str, bytes, int], Destination] = {}
        self._others = Destination("")
        self._denied: dict[tuple[str, bytes, int, str, str], int] = {}
        self._denied_others = 0
        self._refused: dict[str, int] = {}
        self._refused_others = 0
        self._dropped: dict[str, int] = {}
        self.tell: Callable[[str], None] | None = None

    def opened(self, protocol: str, address: bytes, port: int, name: str = "") -> Destination:
        """A connection or flow of the sandbox to (address, port) began: its counters."""
        return self._open(self._destinations, protocol, address, port, name)

    def accepted(self, protocol: str, address: bytes, port: int) -> Destination:
        """A client of the host came to the published (address, port) of the host."""
        return self._open(self._published, protocol, address, port, "")

    def denied(self, protocol: str, address: bytes, port: int, rule: str, name: str = "") -> None:
        """The policy did not let something out; `rule` names what decided."""
        key = (protocol, address, port, rule, name[:NAME_MAX])
        if self.tell is not None and key not in self._denied and len(self._denied) < self._rows:
            place = show_place(show_address(address), port, protocol, name[:NAME_MAX])
            self.tell(f"denied: {place} ({rule})")
        if key in self._denied or len(self._denied) < self._rows:
            self._denied[key] = self._denied.get(key, 0) + 1
        else:
            self._denied_others += 1

    def refused(self, name: str) -> None:
        """A domain name was not answered."""
        name = name[:NAME_MAX]
        if self.tell is not None and name not in self._refused and len(self._refused) < self._rows:
            self.tell(f"denied: the name {name}")
        if name in self._refused or len(self._refused) < self._rows:
            self._refused[name] = self._refused.get(name, 0) + 1
        else:
            self._refused_others += 1

    def dropped(self, limit: str) -> None:
        """Something was dropped because of a limit; `limit` is one of few fixed words."""
        self._dropped[limit] = self._dropped.get(limit, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON: destinations and denials in the order of their first use."""
        return {
            "destinations": _rows(self._destinations, named=True),
            "published": _rows(self._published, named=False),
            "others": self._others.as_dict(),
            "denied": [
                {
                    "protocol": protocol,
                    "address": show_address(address),
                    "port": port,
                    "name": name,
                    "rule": rule,
                    "count": count,
                }
                for (protocol, address, port, rule, name), count in self._denied.items()
            ],
            "denied_others": self._denied_others,
            "refused_names": [{"name": n, "count": c} for n, c in self._refused.items()],
            "refused_names_others": self._refused_others,
            "dropped": dict(self._dropped),
        }

    def _open(
        self,
        table: dict[tuple[str, bytes, int], Destination],
        protocol: str,
        address: bytes,
        port: int,
        name: str,
    ) -> Destination:
        key = (protocol, address, port)
        found = table.get(key)
        if found is None:
            if len(table) >= self._rows:
                found = self._others
            else:
                found = table[key] = Destination(name[:NAME_MAX])
        elif name and not found.name:
            found.name = name[:NAME_MAX]
        found.connections += 1
        return found


def _rows(table: dict[tuple[str, bytes, int], Destination], *, named: bool) -> list[dict[str, Any]]:
    rows = []
    for (protocol, address, port), counters in table.items():
        row: dict[str, Any] = {"protocol": protocol, "address": show_address(address), "port": port}
        if named:
            row["name"] = counters.name
        rows.append(row | counters.as_dict())
    return rows
