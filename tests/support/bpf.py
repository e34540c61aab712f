"""Classic BPF over struct seccomp_data, as the kernel runs it: a checker and an interpreter.

Also the plain reading of a FilterSpec, with which compiled filters are compared, and the
kernel's rule for several filters at once.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.seccomp.rules import Condition, FilterSpec

X86_64 = 0xC000003E
I386 = 0x40000003
AARCH64 = 0xC00000B7

Instruction = tuple[int, int, int, int]
Call = tuple[int, int, tuple[int, ...]]

LD_ABS, RET, RET_A, JA, AND = 0x20, 0x06, 0x16, 0x05, 0x54
JUMPS = {0x15: "eq", 0x25: "gt", 0x35: "ge", 0x45: "set"}
DATA = struct.Struct("<iIQ6Q")


def decode(program: bytes) -> list[Instruction]:
    """(code, jt, jf, k) of every instruction."""
    assert len(program) % 8 == 0
    return list(struct.iter_unpack("<HBBI", program))


def check(instructions: Sequence[Instruction]) -> None:
    """Assert what the kernel demands when a filter is loaded, for the codes used here."""
    count = len(instructions)
    assert 0 < count <= 4096
    assert instructions[-1][0] in (RET, RET_A)
    for i, (code, jt, jf, k) in enumerate(instructions):
        if code == LD_ABS:
            assert k % 4 == 0
            assert k < DATA.size
        elif code in JUMPS:
            assert i + 1 + max(jt, jf) < count
        elif code == JA:
            assert i + 1 + k < count
        else:
            assert code in (RET, RET_A, AND), hex(code)


def run(instructions: Sequence[Instruction], call: Call) -> int:
    """The filter's answer to (arch, number, arguments)."""
    arch, number, args = call
    words = struct.unpack("<16I", struct.pack("<IIQ6Q", number, arch, 0x7F0012345678, *args))
    a = at = 0
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        if code == LD_ABS:
            a = words[k >> 2]
        elif code == 0x15:
            at += jt if a == k else jf
        elif code == 0x35:
            at += jt if a >= k else jf
        elif code == 0x25:
            at += jt if a > k else jf
        elif code == 0x45:
            at += jt if a & k else jf
        elif code == AND:
            a &= k
        elif code == JA:
            at += k
        elif code == RET:
            return k
        else:
            raise AssertionError(f"instruction {at - 1}: code {code:#x}")


def loads_of(instructions: Sequence[Instruction], number: int) -> set[int]:
    """The offsets that a native call of `number` with zero arguments makes the filter load."""
    found = set()
    words = struct.unpack("<16I", struct.pack("<IIQ6Q", number, X86_64, 0, *(0,) * 6))
    a = at = 0
    while instructions[at][0] != RET:
        code, jt, jf, k = instructions[at]
        at += 1
        if code == LD_ABS:
            found.add(k)
            a = words[k >> 2]
        elif code == AND:
            a &= k
        elif code == JA:
            at += k
        else:
            holds = {"eq": a == k, "gt": a > k, "ge": a >= k, "set": bool(a & k)}[JUMPS[code]]
            at += jt if holds else jf
    return found


def most_restrictive(answers: Sequence[int]) -> int:
    """The kernel's choice among the answers of several filters, the newest filter first."""

    def rank(answer: int) -> int:
        kind = answer & 0xFFFF0000
        return kind - (1 << 32) if kind >= 1 << 31 else kind

    return min(answers, key=rank)


def holds(condition: Condition, args: tuple[int, ...]) -> bool:
    """Whether a condition is true of these arguments."""
    value = args[condition.arg] & condition.mask
    first = condition.values[0] if condition.values else 0
    return {
        "in": value in condition.values,
        "out": value not in condition.values,
        "lt": value < first,
        "le": value <= first,
        "gt": value > first,
        "ge": value >= first,
    }[condition.op]


def evaluate(spec: FilterSpec, call: Call) -> int:
    """What the spec itself says about (arch, number, arguments)."""
    arch, number, args = call
    if arch != X86_64:
        return spec.foreign
    decision = spec.decisions[bisect_right(spec.starts, number) - 1]
    if isinstance(decision, int):
        return decision
    for clause in decision.clauses:
        if all(holds(condition, args) for condition in clause.conditions):
            return clause.action
    return decision.otherwise
