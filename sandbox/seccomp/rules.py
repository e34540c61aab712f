"""The values that a filter is made of: actions, conditions on arguments, decisions, the table.

A `FilterSpec` says for every number what is answered; it holds no code and no order of checks.
`groups` holds the built-in data, `profile` and `oci` make specs, `compile` turns one into BPF.
"""

from __future__ import annotations

from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Op = Literal["in", "out", "lt", "le", "gt", "ge"]

# Answers of a filter, as the kernel encodes them (linux/seccomp.h).
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

LOW = 0xFFFFFFFF
FULL = 0xFFFFFFFFFFFFFFFF
X32_BIT = 0x40000000
NO_CALL = 0xFFFFFFFF


def errno(number: int) -> int:
    """The action that skips the call and makes it fail with error `number`."""
    return ERRNO | number


def severity(action: int) -> int:
    """A sort key: the kernel prefers the smaller of two actions, as signed numbers."""
    kind = action & 0xFFFF0000
    return kind - 0x100000000 if kind & KILL_PROCESS else kind


class Condition(Record):
    """One test of argument `arg` (0…5), all 64 bits unsigned, after `& mask`.

    "in" and "out" compare with every one of `values`; the other ops with `values[0]` and need
    the full mask.
    """

    arg: int
    op: Op
    values: tuple[int, ...]
    mask: int = FULL


class Clause(Record):
    """`action` is the answer when all conditions hold."""

    conditions: tuple[Condition, ...]
    action: int


class Clauses(Record):
    """The first clause that holds decides, else `otherwise`."""

    clauses: tuple[Clause, ...]
    otherwise: int


class FilterSpec(Record):
    """What is answered to every 32-bit number: `decisions[i]` from `starts[i]` on.

    `starts` begins with 0 and rises. A decision is an action, or Clauses. Callers of another
    architecture than x86_64 get `foreign`.
    """

    starts: tuple[int, ...]
    decisions: tuple[int | Clauses, ...]
    foreign: int = KILL_PROCESS


def spec_of(
    calls: dict[int, int | Clauses], *, top: int, unknown: int, foreign: int = KILL_PROCESS
) -> FilterSpec:
    """Spread `calls` over all 32-bit numbers, joining neighbours with the same answer.

    Numbers up to `top` that are not in `calls`, and those above, get `unknown`. From X32_BIT on
    the number names the x32 ABI, which gets `foreign`; only NO_CALL (-1, how a tracer skips a
    call) is no number of any ABI and must not kill.
    """
    starts: list[int] = []
    decisions: list[int | Clauses] = []
    last: int | Clauses | None = None
    for number in range(top + 1):
        decision = calls.get(number, unknown)
        # Identity first: comparing Records by value costs more than the rest of this loop.
        if decision is not last and (
            type(decision) is not int or type(last) is not int or decision != last
        ):
            starts.append(number)
            decisions.append(decision)
            last = decision
    if last is not unknown and last != unknown:
        starts.append(top + 1)
        decisions.append(unknown)
    starts += [X32_BIT, NO_CALL]
    decisions += [foreign, unknown]
    return FilterSpec(tuple(starts), tuple(decisions), foreign)
