"""Checks a value against a JSON schema, as far as docs/report.schema.json goes.

An unknown keyword is an error: nothing is skipped that somebody wrote down.
"""

import json
from pathlib import Path
from typing import Any

REPORT = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())
_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip
_WORDS = {"$schema", "title", "description"}


def violations(value: Any, schema: dict[str, Any] = REPORT, path: str = "report") -> list[str]:
    """Everything in which `value` is not as the schema says."""
    found: list[str] = []
    for word, rule in schema.items():
        if word in _WORDS or word in {"properties", "additionalProperties"}:
            continue
        if word == "type":
            wrong = not isinstance(value, _KINDS[rule]) or isinstance(value, bool)
        elif word == "const":
            wrong = value != rule
        elif word == "enum":
            wrong = value not in rule
        elif word == "anyOf":
            wrong = all(violations(value, choice) for choice in rule)
        elif word == "minimum":
            wrong = value < rule
        elif word == "maximum":
            wrong = value > rule
        elif word == "required":
            wrong = bool(set(rule) - set(value))
        elif word == "items":
            wrong = False
            for number, item in enumerate(value):
                found += violations(item, rule, f"{path}[{number}]")
        else:
            raise NotImplementedError(word)
        if wrong:
            return [*found, f"{path}: {word} {rule}: {value!r}"]
    if isinstance(value, dict) and "type" in schema:
        found += _members(value, schema, path)
    return found


def _members(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    found: list[str] = []
    for name, member in value.items():
        rule = known.get(name, others)
        if rule is False:
            found.append(f"{path}: {name} is not a key")
        elif isinstance(rule, dict):
            found += violations(member, rule, f"{path}.{name}")
    return found
