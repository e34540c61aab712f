"""The manual page names every command and option that there is."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from sandbox.cli import front
from sandbox.cli.options import GROUPS, RUN_OPTIONS

MANUAL = (Path(__file__).parents[3] / "docs/sbx.1").read_text().replace("\\-", "-")


@pytest.mark.parametrize("name", [name for option in RUN_OPTIONS for name in option.names])
def test_options(name: str) -> None:
    heads = [line for line in MANUAL.split("\n") if line.startswith((".B", ".BI"))]
    assert any(name in line.replace(",", " ").replace('"', " ").split() for line in heads)


def test_groups_are_in_the_same_order() -> None:
    assert [line[4:] for line in MANUAL.split("\n") if line.startswith(".SS ")] == list(GROUPS)


def test_commands() -> None:
    commands = front.group()
    for name in commands.list_commands(click.Context(commands)):
        assert f".B sbx {name}" in MANUAL, name
