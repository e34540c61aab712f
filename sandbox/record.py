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
        namespace["__slots__"] = (*own, *namespace.get("__slots__", ()))
        cls = super().__new__(mcs, name, bases, namespace)
        cls._fields = inherited + own
        cls._defaults = defaults
        return cls

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]


_set = object.__setattr__


def _values(record: Record) -> list[Any]:
    return [getattr(record, name) for name in type(record)._fields]


class Record(metaclass=_RecordMeta):
    """A frozen value: equal by content, hashable, with keyword or positional construction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        if kwargs or len(args) != len(cls._fields):
            args = cls._complete(args, kwargs)
        for name, value in zip(cls._fields, args, strict=True):
            _set(self, name, value)

    @classmethod
    def _complete(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The values of all fields in order, those not given by default. Raises TypeError."""
        fields = cls._fields
        if len(args) > len(fields):
            raise TypeError(f"{cls.__name__} takes {len(fields)} values, got {len(args)}")
        values = {**cls._defaults, **dict(zip(fields, args, strict=False)), **kwargs}
        for name in fields:
            if name not in values:
                raise TypeError(f"{cls.__name__} lacks {name!r}")
        if len(values) > len(fields):
            unknown = next(name for name in values if name not in fields)
            raise TypeError(f"{cls.__name__} has no field {unknown!r}")
        return tuple([values[name] for name in fields])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot delete {name!r}")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield (field, value) pairs in order of declaration."""
        for name in type(self)._fields:
            yield name, getattr(self, name)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash((type(self), *_values(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self)})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(_values(self))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**dict(self), **changes})
