"""On the host: pytest collects as always, and guests run what was collected.

    pytest -p tests.vm.plugin tests/escape tests/kernel
    pytest -p tests.vm.plugin --vm-system FOLDER --vm-user NAME tests/vm/systemd
    pytest -p tests.vm.plugin --vm-machine FOLDER tests/vm/processors tests/vm/networks

Each report comes back from the guest as it was made there: outcome, output, duration. A test whose
report does not come is a failure, with the guest's console.
"""

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.guest import (
    DISK,
    INSIDE,
    LEAF,
    Command,
    Guest,
    GuestDied,
    boot_machine,
    boot_on_host,
    boot_system,
    missing,
)

RECORD = "reports"
# What cannot hold on the kernel of User-Mode Linux: the beginning of a test's name → why.
LEFT_OUT = {
    "tests/escape/test_probe.py::test_every_check_can_fail": "it lacks what some checks reach for",
    "tests/kernel/test_seccomp_load.py::test_i386_is_killed": "it takes int 0x80 for a 64-bit call",
    "tests/kernel/test_from_host.py::test_every_program_finds": "its processes are slow",
}
KEPT = ("LANG", "PATH", "SBX_CI")
AS_ROOT = ("tests/vm/root/", "tests/vm/networks/")  # these run as the guest's root


def pytest_addoption(parser: pytest.Parser) -> None:
    """The limits of a guest."""
    group = parser.getgroup("vm")
    group.addoption("--vm-deadline", type=float, default=1500, help="seconds for the whole guest")
    group.addoption("--vm-silence", type=float, default=240, help="seconds between two reports")
    group.addoption("--vm-guests", type=int, default=0, help="how many at once (0: by processors)")
    group.addoption("--vm-system", default="", help="a folder that tests/vm/system.sh has made")
    group.addoption("--vm-machine", default="", help="a folder that tests/vm/kernel.sh has made")
    group.addoption("--vm-user", default="", help="who runs the tests in that system")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what User-Mode Linux cannot pass."""
    if config.option.vm_machine:
        return
    left_out = [item for item in items if item.nodeid.startswith(tuple(LEFT_OUT))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the collected tests in a guest in place of here."""
    if session.config.option.collectonly:
        return None
    if session.testsfailed and not session.config.option.continue_on_collection_errors:
        raise session.Interrupted(f"{session.testsfailed} errors during collection")
    option = session.config.option
    problem = missing(option.vm_system, option.vm_machine)
    if problem:
        raise pytest.UsageError(problem)
    count = option.vm_guests or min(2, os.cpu_count() or 1)
    if option.vm_system or option.vm_machine:
        count = 1
    relays = [_Relay(session, session.items[at::count]) for at in range(count)]
    relays = [relay for relay in relays if relay.waiting]
    try:
        turns = [relay.run() for relay in relays]
        while turns:
            turns = [turn for turn in turns if next(turn, None) is not None]
    finally:
        for relay in relays:
            relay.close()
    return True


class _Relay:
    """Hands the reports of one guest to the hooks of the session."""

    def __init__(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        self._session = session
        self._config = session.config
        self._folder = Path(tempfile.mkdtemp(prefix="sbx-vm-"))
        self.waiting = {item.nodeid: item.location for item in items}
        self._running = ""
        self._guest: Guest | None = None

    def close(self) -> None:
        """End the guest, whatever it does."""
        if self._guest:
            self._guest.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _boot(self) -> Guest:
        option = self._config.option
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env |= {name: value for name, value in os.environ.items() if name.startswith("SBX_TEST_")}
        env |= {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # the guest's /tmp is its own
        if option.vm_system:
            user = pwd.getpwnam(option.vm_user)
            env |= {"XDG_RUNTIME_DIR": f"/run/user/{user.pw_uid}"}
            return boot_system(
                self._folder, Path(option.vm_system), self._command(user, env, "items")
            )
        env["SBX_TEST_DISK"] = DISK
        people = (pwd.getpwuid(os.getuid()), "items"), (pwd.getpwuid(0), "items-root")
        commands = [self._command(user, env, name) for user, name in people]
        if option.vm_machine:
            return boot_machine(self._folder, Path(option.vm_machine), *commands)
        return boot_on_host(self._folder, *commands)

    def _command(self, user: pwd.struct_passwd, env: dict[str, str], name: str) -> Command:
        """One pytest; it writes to a file that is its user's."""
        mine = [id for id in self.waiting if id.startswith(AS_ROOT) == (name == "items-root")]
        (self._folder / name).write_text("".join(f"{nodeid}\n" for nodeid in mine))
        reports = self._folder / RECORD
        reports.touch(0o666)
        reports.chmod(0o666)
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.vm.record"]
        words += [f"--vm-record={INSIDE}/{RECORD}", f"@{INSIDE}/{name}"]
        env = {**env, "USER": user.pw_name}
        group = "" if user.pw_uid == 0 or self._config.option.vm_system else LEAF
        words = words if mine else ["true"]
        return Command(words, user.pw_name, env, self._config.rootpath, group)

    def run(self) -> Iterator[bool]:
        """Boot, relay every line, and account for what never came; True while there is more."""
        self._guest = self._boot()
        option = self._config.option
        problem = "the tests in the guest ended before this one"
        try:
            for lines in self._guest.batches(RECORD, option.vm_deadline, option.vm_silence):
                for line in lines:
                    self._relay(json.loads(line))
                yield True
        except GuestDied as death:
            problem = str(death)
        finally:
            self._guest.end()
        self._blame(problem, self._guest.last_words())

    def _relay(self, record: dict[str, Any]) -> None:
        hook = self._config.hook
        if "start" in record:
            self._running = record["start"]
            location = self.waiting[self._running]
            hook.pytest_runtest_logstart(nodeid=self._running, location=location)
        elif "report" in record:
            report = hook.pytest_report_from_serializable(
                config=self._config, data=record["report"]
            )
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                location = self.waiting.pop(report.nodeid)
                self._running = ""
                hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=location)
        else:
            raise GuestDied(f"{record['uncollected']} cannot be collected: {record['why']}")
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)

    def _blame(self, problem: str, last_words: str) -> None:
        """Fail the test that was running, or the next, and say how many did not run."""
        if not self.waiting:
            return
        nodeid = self._running or next(iter(self.waiting))
        report = pytest.TestReport(
            nodeid=nodeid,
            location=self.waiting[nodeid],
            keywords={},
            outcome="failed",
            longrepr=problem,
            when="call",
            sections=[("guest", last_words)],
        )
        self._config.hook.pytest_runtest_logreport(report=report)
        raise self._session.Failed(f"{problem}: {len(self.waiting)} tests have no result")
