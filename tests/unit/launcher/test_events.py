"""The record on the channel: strict where it could mislead, open for kinds to come."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SetupError
from sandbox.launcher import events
from sandbox.launcher.events import Event


def test_a_record_has_the_size_of_the_protocol() -> None:
    assert len(events.encode(Event(events.RUNNING))) == events.RECORD_BYTES


@given(
    kind=st.sampled_from(events.KINDS),
    op=st.integers(-1, 4096),
    errno=st.integers(0, 200),
    status=st.integers(0, 65535),
    maxrss=st.integers(0, 2**40),
    text=st.text(
        st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=90
    ),
)
def test_encode_then_decode(
    kind: int, op: int, errno: int, status: int, maxrss: int, text: str
) -> None:
    event = Event(kind, 4, op, errno, 7, status, 1, 2, maxrss, 3, text)
    assert events.decode(events.encode(event)) == event


@given(st.binary(max_size=600) | st.binary(min_size=508, max_size=508).map(b"SBXE".__add__))
def test_any_bytes_give_an_event_or_a_setup_error(data: bytes) -> None:
    with suppress(SetupError):
        events.decode(data)


def test_a_kind_of_a_later_version_is_no_event() -> None:
    data = bytearray(events.encode(Event(events.RUNNING)))
    data[4:6] = (77).to_bytes(2, "little")
    assert events.decode(bytes(data)) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes long"),
        (bytes(511), "511 bytes long"),
        (bytes(513), "513 bytes long"),
        (bytes(512), "wrong magic"),
        (events.encode(Event(events.ERROR, op=-2)), "out of range"),
        (events.encode(Event(events.ERROR, errno=-1)), "out of range"),
        (events.encode(Event(events.STARTED, pid=-5)), "out of range"),
        (events.encode(Event(events.ERROR))[:-1] + b"x", "after the end of its text"),
    ],
)
def test_what_breaks_the_protocol_is_named(data: bytes, why: str) -> None:
    with pytest.raises(SetupError) as caught:
        events.decode(data)
    assert why in caught.value.cause


def test_texts_keep_bytes_that_are_no_utf8() -> None:
    event = events.decode(events.encode(Event(events.ERROR, text="\udcff\x1b[2J")))
    assert event is not None
    assert event.text == "\udcff\x1b[2J"
