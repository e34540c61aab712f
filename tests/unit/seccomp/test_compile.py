"""The compiler: every filter answers what its spec says, whatever the spec, and stays small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.errors import PolicyError
from sandbox.seccomp.compile import compile_filter
from sandbox.seccomp.rules import (
    ALLOW,
    FULL,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    LOW,
    NO_CALL,
    X32_BIT,
    Clause,
    Clauses,
    Condition,
    FilterSpec,
    errno,
    spec_of,
)
from tests.support import bpf
from tests.support.fuzzing import examples

if TYPE_CHECKING:
    from sandbox.seccomp.rules import Op

EDGES = st.sampled_from(
    [0, 1, 2, 3, 8, 0x20008, 0x7E020000, LOW - 1, LOW, LOW + 1, 1 << 33, 1 << 63, FULL - 1, FULL]
)
WORDS = EDGES | st.integers(0, FULL)
MASKS = st.sampled_from([LOW, FULL, 0, 0xF, LOW ^ 8, 1 << 40, LOW << 32, 0xF0000000F]) | WORDS
ACTIONS = st.sampled_from([ALLOW, LOG, KILL_PROCESS, KILL_THREAD, errno(1), errno(38), errno(97)])


OPS: tuple[Op, ...] = ("in", "out", "lt", "le", "gt", "ge")


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    op = draw(st.sampled_from(OPS))
    arg = draw(st.integers(0, 5))
    if op in ("in", "out"):
        mask = draw(MASKS)
        values = draw(st.lists(WORDS, max_size=4, unique=True))
        return Condition(arg, op, tuple(value & mask for value in values), mask)
    return Condition(arg, op, (draw(WORDS),))


CLAUSES = st.builds(Clause, st.lists(conditions(), min_size=1, max_size=3).map(tuple), ACTIONS)
DECISIONS = ACTIONS | st.builds(Clauses, st.lists(CLAUSES, max_size=3).map(tuple), ACTIONS)


@st.composite
def specs(draw: st.DrawFn) -> FilterSpec:
    """Specs with long and short ranges, from a handful of decisions."""
    choice = st.sampled_from(draw(st.lists(DECISIONS, min_size=1, max_size=5)))
    calls = draw(st.dictionaries(st.integers(0, 40), choice, max_size=30))
    if draw(st.booleans()):
        calls |= dict.fromkeys(range(100, 130), draw(choice))
    unknown = draw(ACTIONS)
    return spec_of(calls, top=max(calls, default=0), unknown=unknown, foreign=draw(ACTIONS))


NUMBERS = [*range(45), 99, 100, 115, 129, 130, 131, 5000, X32_BIT - 1, X32_BIT, X32_BIT | 1]
NUMBERS += [1 << 31, NO_CALL - 1, NO_CALL]


@given(spec=specs(), values=st.lists(st.tuples(*[WORDS] * 6), min_size=1, max_size=4))
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_filter_answers_what_its_spec_says(
    spec: FilterSpec, values: list[tuple[int, ...]]
) -> None:
    program = bpf.decode(compile_filter(spec))
    bpf.check(program)
    compared = [
        condition
        for decision in spec.decisions
        if isinstance(decision, Clauses)
        for clause in decision.clauses
        for condition in clause.conditions
    ]
    for condition in compared:
        for value in condition.values:
            words = list(values[0])
            words[condition.arg] = (value | (words[condition.arg] & ~condition.mask)) & FULL
            values.append(tuple(words))
    for arch in (bpf.X86_64, bpf.I386):
        for number in NUMBERS:
            for args in values:
                call = (arch, number, args)
                assert bpf.run(program, call) == bpf.evaluate(spec, call)


@given(spec=specs())
@settings(max_examples=examples(100), deadline=None)
def test_arguments_are_loaded_only_for_calls_that_have_conditions(spec: FilterSpec) -> None:
    program = bpf.decode(compile_filter(spec))
    for start, decision in zip(spec.starts, spec.decisions, strict=True):
        if isinstance(decision, int):
            assert bpf.loads_of(program, start) <= {0, 4}


def test_the_architecture_is_looked_at_first_then_the_number() -> None:
    spec = spec_of({0: ALLOW, 1: errno(1)}, top=1, unknown=errno(38))
    program = bpf.decode(compile_filter(spec))
    assert program[0] == (bpf.LD_ABS, 0, 0, 4)
    assert program[1][0] == 0x15
    assert program[1][3] == bpf.X86_64
    assert program[2] == (bpf.LD_ABS, 0, 0, 0)


def test_a_skipped_call_is_not_killed_but_x32_is() -> None:
    spec = spec_of({0: ALLOW}, top=0, unknown=errno(38))
    program = bpf.decode(compile_filter(spec))
    zero = (0,) * 6
    assert bpf.run(program, (bpf.X86_64, NO_CALL, zero)) == errno(38)
    assert bpf.run(program, (bpf.X86_64, X32_BIT, zero)) == KILL_PROCESS
    assert bpf.run(program, (bpf.X86_64, NO_CALL - 1, zero)) == KILL_PROCESS
    assert bpf.run(program, (bpf.X86_64, X32_BIT - 1, zero)) == errno(38)
    assert bpf.run(program, (bpf.I386, 0, zero)) == KILL_PROCESS


def test_single_numbers_in_a_range_take_one_instruction_each() -> None:
    calls: dict[int, int | Clauses] = dict.fromkeys(range(100), ALLOW)
    calls |= dict.fromkeys((10, 40, 70), errno(1))
    plain = compile_filter(spec_of({}, top=100, unknown=errno(38)))
    made = compile_filter(spec_of(calls, top=99, unknown=errno(38)))
    # Two answers more, one cut above 99, three tests.
    assert len(made) - len(plain) == 8 * (2 + 1 + 3)


def long_spec(count: int) -> FilterSpec:
    """A spec with tails of their own for `count` calls, every one 12 conditions long."""
    calls: dict[int, int | Clauses] = {
        number: Clauses(
            (Clause((Condition(0, "in", tuple(range(number, number + 12)), LOW),), errno(1)),),
            ALLOW,
        )
        for number in range(0, 2 * count, 2)
    }
    return spec_of(calls, top=2 * count, unknown=errno(38))


def test_jumps_reach_over_long_programs() -> None:
    spec = long_spec(250)
    program = bpf.decode(compile_filter(spec))
    assert len(program) > 3000
    bpf.check(program)
    for number in range(0, 503):
        for value in (number - 1, number, number + 11, number + 12):
            call = (bpf.X86_64, number, (value & FULL, 0, 0, 0, 0, 0))
            assert bpf.run(program, call) == bpf.evaluate(spec, call)


def test_a_program_beyond_the_kernels_limit_is_refused() -> None:
    with pytest.raises(PolicyError, match=re.escape("the seccomp profile is too big")):
        compile_filter(long_spec(400))
