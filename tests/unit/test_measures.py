"""The matrix and the list of rows name what is there: sources, probe checks, tests."""

import ast
from pathlib import Path

import pytest

from tests.support.measures import MEASURES
from tests.support.probe import check_names
from tests.support.rows import ROWS
from tests.support.switch import SOURCE, Measure, edited

CHECKS = check_names()


def names_in(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    named = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name for name in named if name.startswith("test_")}


def is_there(name: str) -> bool:
    """Is there this check ("probe NAME") or test ("FILE", "FILE::NAME", "FILE::NAME[id]")?"""
    if name.startswith("probe "):
        return name.removeprefix("probe ") in CHECKS
    file, _, test = name.partition("::")
    path = SOURCE / file
    return path.is_file() and (not test or test.partition("[")[0] in names_in(path))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_a_measure_can_be_switched_off_and_missed(measure: Measure) -> None:
    assert measure.launcher or measure.plan or measure.patch
    edited(measure.launcher)
    assert measure.red or not measure.starts
    for red in measure.red:
        name = red if isinstance(red, str) else f"probe {red.check}"
        assert is_there(name), name


@pytest.mark.parametrize("row", list(ROWS))
def test_a_row_is_covered(row: str) -> None:
    assert ROWS[row]
    for name in ROWS[row]:
        assert is_there(name), name


def test_every_check_stands_in_a_row() -> None:
    named = {name.removeprefix("probe ") for names in ROWS.values() for name in names}
    assert CHECKS - named == set()
