"""Values of untrusted JSON, checked: what is wrong becomes a problem, and a harmless stand-in."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Values:
    """Takes values of the wanted type; `problems` gathers "key.path: text", `warnings` too."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def no_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of the JSON text; for json's `object_pairs_hook`."""
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    self.problems.append(f"{show(name)}: given twice in one object")
                seen.add(name)
        return made

    def problem(self, where: str, text: str) -> None:
        """Record what is wrong with the value at `where`."""
        self.problems.append(f"{where}: {text}")

    def mapping(self, value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """An object with no other than these keys."""
        if not isinstance(value, dict):
            self.problem(where or "profile", f"must be an object, found {show(value)}")
            return {}
        for key in value:
            if key not in keys:
                self.problem(where or "profile", f"{show(key)} is not a key of the format")
        return value

    def items(self, value: Any, where: str) -> list[Any]:
        """A list; null counts as an empty one."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(where, f"must be a list, found {show(value)}")
            return []
        return value

    def strings(self, value: Any, where: str) -> list[str]:
        """A list of strings."""
        found = self.items(value, where)
        for i, item in enumerate(found):
            if not isinstance(item, str):
                self.problem(f"{where}[{i}]", f"must be a string, found {show(item)}")
        return [item for item in found if isinstance(item, str)]

    def number(self, value: Any, where: str, most: int) -> int:
        """A whole number from 0 to `most`; true and false are none."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        self.problem(where, f"must be a whole number from 0 to {most}, found {show(value)}")
        return 0


def show(value: object) -> str:
    """A value of the profile for a message: escaped, and short."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
