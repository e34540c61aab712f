"""Plain values as JSON and back: what may come out of a sandbox without being able to do anything.

Beside what JSON has: tuples, bytes, sets, dictionaries with any plain key. This file alone is also
run inside the sandbox: it imports nothing of ours.
"""

from __future__ import annotations

import base64
import json

_SCALARS = (type(None), bool, int, float, str)
_KINDS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def _wrap(value: object) -> object:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is bytes or kind is bytearray:
        return ["bytes", base64.b64encode(value).decode()]  # type: ignore[arg-type]
    if kind is dict:
        return ["dict", *([_wrap(k), _wrap(v)] for k, v in value.items())]  # type: ignore[attr-defined]
    if kind.__name__ in _KINDS and _KINDS[kind.__name__] is kind:
        return [kind.__name__, *(_wrap(item) for item in value)]  # type: ignore[attr-defined]
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is no plain value")


def _unwrap(value: object) -> object:
    if isinstance(value, _SCALARS):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("no plain value")
    kind, *items = value
    if kind == "bytes":
        return base64.b64decode(items[0], validate=True)
    if kind == "dict":
        return {_unwrap(key): _unwrap(item) for key, item in items}
    if kind not in _KINDS:
        raise ValueError("no plain value")
    return _KINDS[kind](_unwrap(item) for item in items)


def dumps(value: object) -> bytes:
    """Raises TypeError for a value that is not plain, ValueError for one that holds itself."""
    try:
        return json.dumps(_wrap(value)).encode()
    except RecursionError:
        raise ValueError("the value is nested too deep") from None


def loads(data: bytes) -> object:
    """Raises ValueError for anything that `dumps` cannot have written."""
    try:
        return _unwrap(json.loads(data))
    except (RecursionError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError("no plain value") from error
