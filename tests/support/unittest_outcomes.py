"""Run unittest modules and print one JSON object of test id → outcome, as the last line.

Arguments: names of modules below `test`. Runs with the interpreter under test alone, so it
imports nothing of the project.
"""

import importlib
import json
import sys
import unittest
from typing import Any


class Outcomes(unittest.TestResult):
    """Remember the worst outcome of each test; subtests count for their test."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, str]] = {}

    def note(self, test: unittest.TestCase, outcome: str, error: Any = "") -> None:
        """Keep the first failure of a test, with its error or the reason of its skip."""
        if self.found.get(test.id(), ("ok",))[0] in ("ok", "skipped"):
            text = error if isinstance(error, str) else f"{error[0].__name__}: {error[1]}"
            self.found[test.id()] = (outcome, text[:500])

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.note(test, "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.note(test, "skipped", reason)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self.note(test, "error", err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.note(test, "failure", err)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.note(test, "expected failure", err)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.note(test, "unexpected success")

    def addSubTest(self, test: unittest.TestCase, _subtest: unittest.TestCase, err: Any) -> None:
        if err:
            self.note(test, "failure", err)


def main() -> None:
    """Run with no resources (network, large files), as `python -m test` does."""
    support: Any = importlib.import_module("test.support")
    support.use_resources = []
    suite = unittest.TestSuite()
    for name in sys.argv[1:]:
        suite.addTests(unittest.defaultTestLoader.loadTestsFromName(f"test.{name}"))
    outcomes = Outcomes()
    suite.run(outcomes)
    sys.stdout.flush()
    print("\n" + json.dumps(outcomes.found))


main()
