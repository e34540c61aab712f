"""On the host: pytest collects as always, and a guest runs what was collected.

    pytest -p tests.vm.plugin tests/escape tests/kernel

Each report comes back from the guest as it was made there: outcome, output, duration. A test whose
report does not come is a failure, with the guest's console.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.vm.guest import DISK, INSIDE, Guest, GuestDied, missing

RECORD = "reports"
# What cannot hold on the kernel of User-Mode Linux: the beginning of a test's name → why.
LEFT_OUT = {
    "tests/escape/test_probe.py::test_every_check_can_fail": "it lacks what some checks reach for",
    "tests/kernel/test_seccomp_load.py::test_i386_is_killed": "it takes int 0x80 for a 64-bit call",
    "tests/kernel/test_from_host.py::test_every_program_finds": "its processes are slow",
}
KEPT = ("USER", "LANG", "PATH", "SBX_CI")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The limits of a guest."""
    group = parser.getgroup("vm")
    group.addoption("--vm-deadline", type=float, default=1500, help="seconds for the whole guest")
    group.addoption("--vm-silence", type=float, default=240, help="seconds between two reports")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no guest can pass."""
    left_out = [item for item in items if item.nodeid.startswith(tuple(LEFT_OUT))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the collected tests in a guest in place of here."""
    if session.config.option.collectonly:
        return None
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    problem = missing()
    if problem:
        raise pytest.UsageError(problem)
    folder = Path(tempfile.mkdtemp(prefix="sbx-vm-"))
    try:
        _Relay(session, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


class _Relay:
    """Hands the reports of one guest to the hooks of the session."""

    def __init__(self, session: pytest.Session, folder: Path) -> None:
        self._session = session
        self._config = session.config
        self._folder = folder
        self._waiting = {item.nodeid: item.location for item in session.items}
        self._running = ""

    def run(self) -> None:
        """Boot, relay every line, and account for what never came."""
        (self._folder / "items").write_text("".join(f"{nodeid}\n" for nodeid in self._waiting))
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.vm.record"]
        words += [f"--vm-record={INSIDE}/{RECORD}", f"@{INSIDE}/items"]
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env |= {name: value for name, value in os.environ.items() if name.startswith("SBX_TEST_")}
        env |= {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # the guest's /tmp is its own
        env["SBX_TEST_DISK"] = DISK
        guest = Guest(self._folder, words, self._config.rootpath, env)
        option = self._config.option
        problem = "the tests in the guest ended before this one"
        try:
            for line in guest.lines(RECORD, option.vm_deadline, option.vm_silence):
                self._relay(json.loads(line))
        except GuestDied as death:
            problem = str(death)
        finally:
            guest.end()
        self._blame(problem, guest.last_words())

    def _relay(self, record: dict[str, Any]) -> None:
        hook = self._config.hook
        if "start" in record:
            self._running = record["start"]
            location = self._waiting[self._running]
            hook.pytest_runtest_logstart(nodeid=self._running, location=location)
        elif "report" in record:
            report = hook.pytest_report_from_serializable(
                config=self._config, data=record["report"]
            )
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                location = self._waiting.pop(report.nodeid)
                self._running = ""
                hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=location)
        else:
            raise GuestDied(f"{record['uncollected']} cannot be collected: {record['why']}")
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)

    def _blame(self, problem: str, last_words: str) -> None:
        """Fail the test that was running, or the next, and say how many did not run."""
        if not self._waiting:
            return
        nodeid = self._running or next(iter(self._waiting))
        report = pytest.TestReport(
            nodeid=nodeid,
            location=self._waiting[nodeid],
            keywords={},
            outcome="failed",
            longrepr=problem,
            when="call",
            sections=[("guest", last_words)],
        )
        self._config.hook.pytest_runtest_logreport(report=report)
        raise self._session.Failed(f"{problem}: {len(self._waiting)} tests have no result")
