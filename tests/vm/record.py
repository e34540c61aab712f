"""Inside the guest: writes every report of pytest, as it is made, to a file that the host reads.

Also makes the strict policy of this kernel: the same, without the layers that it lacks.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from sandbox.linux.paths import policies_dir
from tests.conftest import Sbx

LACKING = ("landlock", "time")  # User-Mode Linux is configured without them


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to write."""
    parser.addoption("--vm-record", required=True, help="file for one JSON value per line")


class Recorder:
    """One line of JSON for the start of each test and for each report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(config.getoption("--vm-record"), flags, 0o644)

    def _write(self, **record: Any) -> None:
        os.write(self._file, json.dumps(record).encode() + b"\n")
        os.fsync(self._file)  # a write stays in the guest's memory until it is flushed

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._write(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test is over."""
        hook = self._config.hook
        self._write(report=hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module cannot be collected."""
        if report.failed:
            self._write(uncollected=report.nodeid, why=report.longreprtext)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        """Nothing is written any more."""
        yield
        os.close(self._file)


def pytest_configure(config: pytest.Config) -> None:
    """Start recording."""
    config.pluginmanager.register(Recorder(config), "vm-recorder")


@pytest.fixture(scope="session", autouse=True)
def _strict_without_what_lacks(sbx: Sbx) -> None:
    """A policy of the user's own comes before the built-in one of its name."""
    if os.path.exists("/dev/vda"):  # a machine, with a kernel as distributions have it
        return
    text = Path(policies_dir(), "strict.toml").read_text()
    for layer in LACKING:
        refused = f'\n{layer} = "refuse"'
        assert refused in text
        text = text.replace(refused, f'\n{layer} = "degrade"')
    own = Path(sbx.env["XDG_CONFIG_HOME"], "sbx/policies")
    own.mkdir(parents=True)
    own.chmod(0o700)
    (own / "strict.toml").write_text(text)
