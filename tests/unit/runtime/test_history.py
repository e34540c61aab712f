"""What a launcher's records say of a sandbox's life, also when they are cut off or damaged."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SetupError
from sandbox.launcher import events
from sandbox.launcher.events import Event
from sandbox.runtime.history import ENTRY_BYTES, conclude, moments
from sandbox.runtime.inspect import _outcome, init_pid
from sandbox.runtime.keeper import FREEZE, THAW

STARTED, RUNNING = Event(events.STARTED, pid=77), Event(events.RUNNING, pid=2)
PAUSED, LATE = Event(events.ORDER, status=FREEZE), Event(events.LIMIT, text="timeout")
EXITED, DONE = Event(events.EXITED, status=5 << 8), Event(events.DONE, status=5 << 8)


def written(*found: Event) -> bytes:
    return b"".join(
        struct.pack("<Q", (at + 1) * 1_000_000_000) + events.encode(event)
        for at, event in enumerate(found)
    )


@pytest.mark.parametrize(
    ("found", "alive", "state", "code"),
    [
        ((), True, "created", None),
        ((), False, "dead", 137),
        ((STARTED,), True, "created", None),
        ((STARTED, RUNNING), True, "running", None),
        ((STARTED, RUNNING), False, "dead", 137),
        ((STARTED, RUNNING, PAUSED), True, "paused", None),
        (
            (STARTED, RUNNING, PAUSED, Event(events.ORDER, status=THAW)),
            True, "running", None,
        ),
        ((STARTED, RUNNING, Event(events.ORDER, status=15)), True, "running", None),
        ((STARTED, RUNNING, EXITED, DONE), True, "restarting", 5),
        ((STARTED, RUNNING, EXITED, DONE), False, "exited", 5),
        ((STARTED, RUNNING, EXITED, DONE, STARTED), True, "created", None),
        ((STARTED, RUNNING, EXITED), False, "dead", 5),
        ((STARTED, RUNNING, Event(events.DONE, status=9)), False, "exited", 137),
        ((STARTED, RUNNING, Event(events.EXITED, status=15), DONE), False, "exited", 143),
        ((STARTED, RUNNING, LATE, EXITED, DONE), False, "exited", 124),
    ],
)  # fmt: skip
def test_states(found: tuple[Event, ...], alive: bool, state: str, code: int | None) -> None:
    life = conclude(moments(written(*found)), alive=alive)
    assert (life.state, life.exit_code) == (state, code)


def test_times_and_starts() -> None:
    life = conclude(
        moments(written(STARTED, RUNNING, EXITED, DONE, STARTED, RUNNING, EXITED, DONE)),
        alive=False,
    )
    assert (life.starts, life.started_s, life.ended_s) == (2, 5.0, 8.0)
    assert _outcome(life).wall_s == 3.0
    assert init_pid(life) is None


@given(st.integers(0, 4 * ENTRY_BYTES))
def test_an_incomplete_record_is_left_out(cut: int) -> None:
    whole = written(STARTED, RUNNING, EXITED, DONE)
    found = moments(whole[:cut])
    assert found == moments(whole)[: cut // ENTRY_BYTES]
    conclude(found, alive=False)


@given(st.binary(max_size=2 * ENTRY_BYTES), st.booleans())
def test_any_bytes_are_a_life_or_a_setup_error(data: bytes, alive: bool) -> None:
    with suppress(SetupError):
        life = conclude(moments(data), alive=alive)
        assert life.state
        init_pid(life)


@given(st.lists(st.sampled_from(events.KINDS), max_size=12), st.integers(0, 1 << 16), st.booleans())
def test_any_order_of_records_is_a_life(kinds: list[int], status: int, alive: bool) -> None:
    found = moments(written(*(Event(kind, status=status) for kind in kinds)))
    life = conclude(found, alive=alive)
    assert life.exit_code is None or 0 <= life.exit_code < 256
    assert _outcome(life).wall_s >= 0


def test_a_command_may_be_over_before_the_launcher_says_that_it_started() -> None:
    quick = (
        Event(events.RUNNING, pid=2),
        Event(events.EXITED, pid=2, status=10),
        Event(events.STARTED, pid=7),
        Event(events.DONE, pid=7, status=138 << 8),
    )
    found = conclude(moments(written(*quick)), alive=False)
    assert (found.state, found.exit_code, found.starts) == ("exited", 138, 1)
    outcome = _outcome(found)
    assert outcome.exited is not None
    assert outcome.exited.status == 10
    late = conclude(moments(written(*quick[:1], quick[2])), alive=True)
    assert (late.state, init_pid(late)) == ("running", 7)
    again = conclude(moments(written(*quick, *quick[:1], quick[2])), alive=True)
    assert (again.state, again.status, again.starts, again.ended_s) == ("running", None, 2, 0.0)
    assert _outcome(again).exited is None
