"""Frozen, slotted value classes for everything that is on the start path.

Owns `Record`, the base of Policy, HostFacts and every operation of a Plan. It does what
`dataclass(frozen=True, slots=True)` does for plain fields, without importing `dataclasses`
(which pulls in `inspect` and costs as much as starting a whole sandbox).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class _RecordMeta(type):
    """Turn annotated names into slots and remember their order and defaults."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _RecordMeta:
        annotations: dict[str, str] = namespace.get("__annotations__", {})
        own = tuple(n for n, text in annotations.items() if not text.startswith("ClassVar"))
        defaults = {n: namespace.pop(n) for n in own if n in namespace}
        inherited: tuple[str, ...] = ()
        for base in bases:
            inherited += getattr(base, "_fields", ())
            defaults = {**getattr(base, "_defaults", {}), **defaults}
        namespace["__slots__"] = own
        cls = super().__new__(mcs, name, bases, namespace)
        cls._fields = inherited + own
        cls._defaults = defaults
        return cls

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]


class Record(metaclass=_RecordMeta):
    """A frozen value: equal by content, hashable, with keyword or positional construction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = type(self)._fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, got {len(args)}")
        values = {**type(self)._defaults, **dict(zip(fields, args, strict=False)), **kwargs}
        for name in fields:
            if name not in values:
                raise TypeError(f"{type(self).__name__} lacks {name!r}")
            object.__setattr__(self, name, values.pop(name))
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot delete {name!r}")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield (field, value) pairs in order of declaration."""
        for name in type(self)._fields:
            yield name, getattr(self, name)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(value for _, value in self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self)})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(value for _, value in self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})
